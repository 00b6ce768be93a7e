"""MLPClassifier and MLPRegressor: scikit-learn's, on whatever array library the data live."""

from .classifier import MLPClassifier
from .regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
