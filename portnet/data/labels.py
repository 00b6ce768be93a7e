"""Labels: text labels as integers, and class weights."""

from collections.abc import Mapping
from numbers import Number
from typing import NoReturn

import numpy as np

from .._typing import Array, ArrayLike, Host
from ..backend import is_host, to_numpy
from ..losses import SigmoidCrossEntropy
from .checks import DataError, row_number, row_weights
from .dataset import Dataset

__all__ = [
    "class_names",
    "class_weights",
    "decoded",
    "encode",
    "has_one_label",
    "refuse_class_weights",
    "refuse_mixed",
    "text_of",
    "weights_of_classes",
]


def class_names(y: ArrayLike, loss: object, outputs: int, name: str = "y") -> Host | None:
    """Return the sorted classes of text labels; None if the labels are numbers."""
    text = text_of(y, name)
    if text is None or not hasattr(loss, "classes"):
        return None  # if the loss needs numbers, `checks.targets` raises
    classes = np.unique(text)
    expected = 2 if outputs == 1 else outputs
    multilabel = outputs > 1 and isinstance(loss, SigmoidCrossEntropy)
    if multilabel or len(classes) != expected:
        some = ", ".join(repr(str(c)) for c in classes[:5]) + (", ..." if len(classes) > 5 else "")
        need = "a column of 0 and 1 for each label" if multilabel else f"{expected} classes"
        raise DataError(
            f"{name}: expected {need}, as the network has {outputs} output{'s' * (outputs > 1)}, "
            f"got {len(classes)} classes: {some}"
        )
    return classes


def encode(y: ArrayLike, classes: Host, name: str = "y") -> Host:
    """Return the index of each label (rows,) in `classes`; raise DataError for unknown labels."""
    text = text_of(y, name)
    if text is None:
        raise DataError(
            f"{name}: expected labels such as {str(classes[0])!r}, as in training, "
            f"got {'numbers' if y is not None else 'None'}"
        )
    codes = np.minimum(np.searchsorted(classes, text), len(classes) - 1)
    unknown = np.flatnonzero(classes[codes] != text)
    if unknown.size:
        raise DataError(
            f"{name}: expected labels among {', '.join(map(repr, classes.tolist()))}, "
            f"got {str(text[unknown[0]])!r} at row {row_number(unknown[0])}"
        )
    return codes


def text_of(y: ArrayLike, name: str) -> Host | None:
    """Return text labels (rows,) as an array of str; None if the labels are numbers."""
    if y is None or not is_host(y):
        return None
    try:
        host = to_numpy(y)
    except (ValueError, TypeError):  # ragged: another check reports it
        return None
    if host.dtype.kind not in "UTSO":
        return None
    if host.dtype.kind == "O" and not any(isinstance(label, str | bytes) for label in host.flat):
        return None
    refuse_mixed(y, name)
    kinds = ["bytes"] if host.dtype.kind == "S" else ["str"]
    if host.dtype.kind == "O":
        kinds = sorted({"str" if isinstance(v, str) else type(v).__name__ for v in host.flat})
    if kinds != ["str"]:
        hint = ": decode them, label.decode()" if kinds == ["bytes"] else ""
        raise DataError(f"{name}: expected labels of one type, got {' and '.join(kinds)}{hint}")
    if host.ndim == 2 and host.shape[1] == 1:
        host = host[:, 0]  # a frame of one column
    if host.ndim != 1:
        raise DataError(f"{name}: expected labels of shape (rows,), got {host.shape}")
    return host.astype(object).astype(np.str_) if host.dtype.kind == "T" else host.astype(np.str_)


def decoded(y: Host) -> Host:
    """Return labels of bytes, as HDF5 files have them, as text; others as they are."""
    if y.dtype.kind == "S" or (y.dtype.kind == "O" and all(isinstance(v, bytes) for v in y.flat)):
        return np.strings.decode(y.astype(np.bytes_), "utf-8")
    return y


def refuse_mixed(y: ArrayLike, name: str) -> None:
    """Raise DataError if some labels are text and some numbers: NumPy converts all to text."""
    if y is None or (hasattr(y, "dtype") and y.dtype != object):
        return
    if hasattr(y, "toarray") or hasattr(y, "columns"):
        return
    kinds = set()
    for label in np.asarray(y, dtype=object).flat:
        if isinstance(label, str | bytes):
            kinds.add("string" if isinstance(label, str) else "bytes")
        elif label is None or type(label).__name__ == "NAType" or label != label:
            raise DataError(f"Input {name} contains {'None' if label is None else 'NaN'}.")
        elif isinstance(label, Number | np.bool_):
            kinds.add("number")
    if len(kinds) > 1:
        raise DataError(
            f"Mix of label input types ({' and '.join(sorted(kinds))}) in {name}: give labels of "
            "one type"
        )


def class_weights(
    given: object, data: Dataset, loss: object, outputs: int, classes: Host | None
) -> Array | None:
    """Return the weight of each row (rows,): its class weight times its sample weight.

    `given` maps classes to weights, 1 for classes left out, or is "balanced": n / (k n_c) for n
    rows, k classes and n_c rows of the class, each row counted with its sample weight.
    """
    _, y, weight = data.arrays
    backend, xp, count = data.backend, data.backend.xp, max(outputs, 2)
    if not has_one_label(y, loss):
        refuse_class_weights(y, loss)
    if y.ndim == 2 and y.shape[1] == 1:
        y = xp.concat([1.0 - y, y], axis=-1)  # the probabilities of both classes
    w = None if weight is None else to_numpy(weight)
    if y.ndim == 1:
        counts = np.bincount(to_numpy(y), w, count)
    else:
        counts = (to_numpy(y) * (1 if w is None else w[:, None])).sum(axis=0)
    known = list(range(count)) if classes is None else classes.tolist()
    by_class: Array = weights_of_classes(given, known, counts)
    try:
        by_class = backend.asarray(by_class, backend.dtype)
    except ValueError as error:
        raise DataError(f"class_weight: {error}") from None
    by_row = xp.take(by_class, y, axis=0) if y.ndim == 1 else xp.matmul(y, by_class)
    with np.errstate(over="ignore"):  # `row_weights` raises
        by_row = by_row if weight is None else by_row * weight
    return row_weights(by_row, backend, rows=y.shape[0], name="class_weight")


def refuse_class_weights(y: Array, loss: object) -> NoReturn:
    """Raise ValueError for targets that have no classes."""
    raise ValueError(
        "class_weight needs one label per row and a cross-entropy loss; got targets of shape "
        f"{tuple(y.shape)} and {type(loss).__name__}: use sample_weight"
    )


def weights_of_classes(given: object, known: list[object], counts: Host) -> Host:
    """Return the weight of each known class (classes,): as given, else 1, or "balanced".

    `counts` is the (weighted) number of rows of each class; where it is 0, "balanced" is 1.
    """
    if isinstance(given, str) and given == "balanced":
        present = counts > 0
        balanced = counts.sum() / (present.sum() * np.where(present, counts, 1))
        return np.where(present, balanced, 1.0)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"class_weight: expected a dict of class: weight, or 'balanced', got {given!r}"
        )
    weights = np.ones(len(known))
    for label, w in given.items():
        if label not in known:
            raise ValueError(
                f"class_weight: expected classes among {', '.join(map(repr, known))}, got {label!r}"
            )
        try:
            wrong = isinstance(w, str | bytes | bool | np.bool_) or np.ndim(w)
            number = np.nan if wrong else float(w)
        except (TypeError, ValueError, OverflowError):
            number = np.nan
        if not 0 <= number < np.inf:
            raise ValueError(
                f"class_weight: expected a finite weight >= 0 for {label!r}, got {w!r}"
            )
        weights[known.index(label)] = number
    return weights


def has_one_label(y: Array, loss: object) -> bool:
    """Return whether checked targets are one label per row: integers, a column, or one-hot rows."""
    multilabel = isinstance(loss, SigmoidCrossEntropy) and y.shape[-1] > 1
    return hasattr(loss, "classes") and (y.ndim == 1 or not multilabel)
