"""Tables: models that predict from data frames, with the preparation of the columns inside.

``python -m portnet train`` makes such a model, `portnet.load` returns it from its file. Needs
pandas and scikit-learn (extra ``cli``).
"""

from .columns import TableError
from .model import TableModel

__all__ = ["TableError", "TableModel"]
