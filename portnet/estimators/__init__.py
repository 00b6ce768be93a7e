"""MLPClassifier and MLPRegressor with scikit-learn's interface, for arrays of any library.

A program written for `sklearn.neural_network` works with another import line: parameters,
attributes, methods, warnings and messages are the same and, from the same `random_state`, so are
the numbers. The Notes of the two classes list the differences. This package needs
scikit-learn (extra ``sklearn``).
"""

from .classifier import MLPClassifier
from .regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
