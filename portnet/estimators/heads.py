"""Heads: several class labels in each row (multiclass-multioutput y), each with classes of its own.

The network has one output for each class of each head, side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.multiclass import type_of_target

from .._typing import Array, ArrayLike, Host, ValueAndGrad
from ..backend import namespace
from ..data import labels
from ..losses import Reduced, SoftmaxCrossEntropy
from ..perceptron import of_heads

__all__ = ["Heads", "HeadsCrossEntropy", "has_heads"]


def has_heads(y: Any, always: bool = False) -> bool:
    """Tell whether checked y (rows, heads) has several class labels in each row.

    Columns of 0 and 1 are multi-label y, but with `always`. Raises ValueError for numbers that are
    no labels.
    """
    if getattr(y, "ndim", 1) != 2 or y.shape[1] < 2 or hasattr(y, "tocsr"):
        return False
    try:
        kind = type_of_target(y)
    except TypeError as error:  # of a comparison
        raise ValueError(
            f"y has numbers and text ({error}): give all labels as text, y.astype(str)"
        ) from None
    if kind == "continuous-multioutput":
        raise ValueError(
            f"Unknown label type: {kind}: y has numbers with fractions. For them, use MLPRegressor"
        )
    if kind == "multilabel-indicator":  # also of other numbers, if there are two
        return always or not (y.dtype == bool or bool(((y == 0) | (y == 1)).all()))
    return bool(kind == "multiclass-multioutput")


@dataclass(frozen=True, eq=False)
class Heads:
    """The sorted classes of each head."""

    classes_: list[Host]
    y_type_: ClassVar[str] = "multiclass-multioutput"
    sparse_input_: ClassVar[bool] = False

    @classmethod
    def of(cls, y: Host) -> "Heads":
        """Return the classes of y (rows, heads)."""
        return cls([np.unique(column) for column in y.T])

    @classmethod
    def given(cls, classes: Sequence[ArrayLike]) -> "Heads":
        """Return the classes given to `partial_fit`: a list for each head."""
        for i, one in enumerate(classes):
            if np.ndim(one) != 1 or np.size(one) == 0:
                raise ValueError(
                    f"classes: expected a list of at least one class for each head, got {one!r} "
                    f"for head {i}"
                )
            labels.refuse_mixed(one, f"classes of head {i}")
        return cls([np.unique(np.asarray(one)) for one in classes])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of classes of each head."""
        return tuple(map(len, self.classes_))

    def encode(self, y: Host, name: str) -> Host:
        """Return the index of each label among the classes of its head, (rows, heads)."""
        if y.ndim != 2 or y.shape[1] != len(self.classes_):
            raise ValueError(
                f"`{name}`: expected {len(self.classes_)} labels in each row, one for each head, "
                f"got shape {y.shape}"
            )
        codes = np.empty(y.shape, np.int64)
        for i, (column, known) in enumerate(zip(y.T, self.classes_, strict=True)):
            at = np.minimum(np.searchsorted(known, column), len(known) - 1)
            if (unknown := known[at] != column).any():
                raise ValueError(
                    f"`{name}` has classes in head {i} that are not among the known ones: "
                    f"{np.unique(column[unknown])}, known are {known}"
                )
            codes[:, i] = at
        return codes

    def decode(self, codes: Host) -> Host:
        """Return the labels (rows, heads) of their indices."""
        columns = zip(self.classes_, codes.T, strict=True)
        return np.stack([known[column] for known, column in columns], axis=1)


@dataclass(frozen=True)
class HeadsCrossEntropy(Reduced):
    """l = the sum of the softmax cross-entropies of all heads; the target is (rows, heads) indices.

    pred and dpred are (rows, outputs), where each head has as many outputs as classes, in `sizes`.
    """

    sizes: tuple[int, ...] = ()

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        one = SoftmaxCrossEntropy(reduction=self.reduction)
        made = [one(z, target[:, i], weight) for i, z in enumerate(of_heads(pred, self.sizes))]
        value = made[0][0]
        for more, _ in made[1:]:
            value = value + more
        return value, namespace(pred).concat([dz for _, dz in made], axis=-1)
