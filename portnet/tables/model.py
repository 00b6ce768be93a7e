"""TableModel: an estimator with the preparation of the columns that it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, Self

import numpy as np

from .._typing import ArrayLike, Device, Host
from ..backend import to_numpy
from ..files import save
from ..summary import table_model_html
from .columns import (
    COLUMN_LIMIT,
    TableError,
    canonical,
    columns_text,
    kind_of,
    missing_columns,
    to_frame,
)
from .labels import check_given, labels_like
from .transformers import fitted, parts_of

__all__ = ["TableModel"]


@dataclass(frozen=True, eq=False)
class TableModel:
    """A model of a table: it predicts the target from the named columns of a data frame.

    ``python -m portnet train`` makes it, and `portnet.load` returns it from its file. Frames may
    have their columns in any order, and others, which are ignored. Missing values may be anywhere.

    Attributes
    ----------
    target : str
        The name of the column that is predicted.
    columns : tuple of str
        The columns that are needed.
    kinds : str
        A letter for each column: "n" for numbers, "t" for text, "d" for dates.
    transformer : ColumnTransformer
        scikit-learn's preparation of these columns, fitted.
    estimator : MLPClassifier or MLPRegressor
        Fitted on its output, in float32.
    shift, scale : float
        A regressor's prediction is ``shift + scale * estimator.predict``; 0 and 1 of a classifier.

    Examples
    --------
    >>> import pandas, portnet
    >>> from portnet.tables import TableModel
    >>> frame = pandas.DataFrame({"size": [1.0, 2.0, None, 8.0], "y": list("abba")})
    >>> frame["colour"] = ["red", "red", "blue", None]
    >>> estimator = portnet.MLPClassifier(solver="lbfgs", random_state=0)
    >>> model = TableModel.fit(frame, "y", estimator)
    >>> model.columns, model.kinds
    (('size', 'colour'), 'nt')
    >>> model.predict(frame.head(2)).tolist()
    ['a', 'b']
    >>> model.score(frame)
    1.0
    """

    target: str
    columns: tuple[str, ...]
    kinds: str
    transformer: Any = field(repr=False)
    estimator: Any = field(repr=False)
    shift: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(
        cls,
        frame: Any,
        target: str,
        estimator: Any,
        *,
        kinds: Mapping[str, str] | None = None,
        validation: Any = None,
    ) -> Self:
        """Fit the preparation and the estimator on a frame, and return the model.

        Parameters
        ----------
        frame : data frame (rows, columns)
            Without missing targets.
        target : str
            The column to predict; the others are the features.
        estimator : MLPClassifier or MLPRegressor
            It is fitted. A regressor is fitted on targets of mean 0 and standard deviation 1.
        kinds : dict of str, optional
            The kind of each column to use, by its name; by default guessed by `kind_of`, without
            the columns that are empty.
        validation : data frame, optional
            Rows for early stopping, with the target.

        Raises TableError for columns that cannot be used, and what the estimator raises.
        """
        frame = to_frame(frame)
        _check_names(frame, target)
        if kinds is None:
            found = {n: kind_of(frame[n]) for n in frame.columns if n != target}
            kinds = {n: kind for n, kind in found.items() if kind}
        names, letters = tuple(kinds), "".join(kinds.values())
        if not names:
            raise TableError("expected at least one column besides the target, got none")
        ready = canonical(frame, names, letters)
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            transformer = fitted(ready, names, letters)
        _check_finite(transformer)
        y, shift, scale = np.asarray(frame[target]), 0.0, 1.0
        classifies = hasattr(estimator, "predict_proba")
        if not classifies:
            y = y.astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                shift, scale = float(y.mean()), float(y.std()) or 1.0
            if not np.isfinite([shift, scale]).all():
                raise TableError(f"the target {target!r} has numbers that are too large: scale it")
        model = cls(target, names, letters, transformer, estimator, shift, scale)
        given: dict[str, Any] = {}
        if validation is not None:
            held_out = np.asarray(validation[target])
            held_out = held_out if classifies else (held_out.astype(np.float64) - shift) / scale
            given = {"X_val": model.prepared(validation), "y_val": held_out}
        estimator.fit(
            transformer.transform(ready).astype(np.float32),
            y if classifies else (y - shift) / scale,
            **given,
        )
        return model

    @property
    def classes_(self) -> Host | None:
        """The classes (classes,); None for a regressor."""
        classes = getattr(self.estimator, "classes_", None)
        return None if classes is None else to_numpy(classes)

    def prepared(self, X: ArrayLike) -> Any:
        """Return the input of the network (rows, features) for a frame, float32, dense or sparse.

        Raises TableError for a frame without rows, missing columns and values of another kind.
        """
        frame = to_frame(X)
        if not len(frame):
            raise TableError("expected at least one row, got none")
        ready = self.transformer.transform(canonical(frame, self.columns, self.kinds))
        return ready.astype(np.float32)

    def predict(self, X: ArrayLike) -> Host:
        """Return the class or the number that is predicted for each row of a frame, (rows,)."""
        answer: Host = to_numpy(self.estimator.predict(self.prepared(X)))
        if self.classes_ is not None:
            return answer
        return self.shift + self.scale * answer.astype(np.float64)

    def predict_proba(self, X: ArrayLike) -> Host:
        """Return the probability of each class for each row of a frame, (rows, classes).

        Raises TypeError for a regressor.
        """
        if self.classes_ is None:
            raise TypeError(
                f"predict_proba needs a classifier; this model predicts the number {self.target!r}"
            )
        found: Host = to_numpy(self.estimator.predict_proba(self.prepared(X)))
        return found

    def score(self, X: ArrayLike) -> float:
        """Return the accuracy on the rows of a frame that has the target; R^2 of a regressor.

        R^2 = 1 - sum (y - p)^2 / sum (y - mean of y)^2, as scikit-learn's `score`. Labels are those
        of the table that was trained on: 1 and 1.0 are equal, and text has no blanks around it.

        Raises TableError as `predict`, for rows without a target, and where no value of the target
        is one of the classes.
        """
        from sklearn.metrics import r2_score

        frame = to_frame(X)
        wrong = missing_columns(list(frame.columns), [self.target])
        if wrong:
            raise TableError(wrong)
        predicted = self.predict(frame)
        if self.classes_ is not None:
            y = labels_like(frame[self.target], self.classes_)
            return float(np.mean(y == predicted))
        numbers = canonical(frame, [self.target], "n")[self.target]
        check_given(numbers)
        return float(r2_score(numbers, predicted))

    def _repr_html_(self) -> str:
        return table_model_html(self, columns_text(self.kinds))

    def to(self, name: str, *, device: Device = None, dtype: str | None = None) -> Self:
        """Return the model with its network on another backend: see `portnet.set_backend`."""
        return replace(self, estimator=self.estimator.to(name, device=device, dtype=dtype))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a file, which `portnet.load` reads: see `portnet.save`."""
        save(self, path)


def _check_names(frame: Any, target: str) -> None:
    """Raise TableError unless the columns have different names that are text."""
    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names):
        raise TableError(f"expected names of columns that are text, got {names[:5]}")
    if len(set(names)) < len(names):
        raise TableError("expected different names of columns, got one twice")
    if target not in names:
        raise TableError(missing_columns(names, [target]))
    if len(names) - 1 > COLUMN_LIMIT:
        raise TableError(f"expected at most {COLUMN_LIMIT:,} columns, got {len(names) - 1:,}")


def _check_finite(transformer: Any) -> None:
    """Raise TableError for a column whose numbers are too large for their mean and variance."""
    numbers = parts_of(transformer).get("numbers")
    if numbers is None:
        return
    finite = np.isfinite(numbers["mean"]) & np.isfinite(numbers["var"])
    if not finite.all():
        names = transformer.transformers_[0][2]
        raise TableError(
            f"column {names[int(np.argmin(finite))]!r} has numbers too large to be scaled: "
            "divide them by a constant, or leave the column out"
        )
