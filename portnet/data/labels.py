"""Labels: names of classes as numbers, weights of classes, and rows set aside for validation."""

from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np

from .._typing import Array, Host
from ..backend import is_host, to_numpy
from ..losses import SigmoidCrossEntropy
from .checks import DataError, row_weights
from .dataset import Dataset

__all__ = ["class_names", "class_weights", "encode", "refuse_mixed", "weights_of_classes"]


def class_names(y: Any, loss: Any, outputs: int, name: str = "y") -> Host | None:
    """Return the classes, sorted, of labels that are text; None of labels that are numbers."""
    text = _text(y, name)
    if text is None or not hasattr(loss, "classes"):
        return None  # where a loss wants numbers, `validation.targets` says so
    classes = np.unique(text)
    needed = 2 if outputs == 1 else outputs
    several = outputs > 1 and isinstance(loss, SigmoidCrossEntropy)
    if several or len(classes) != needed:
        some = ", ".join(repr(str(c)) for c in classes[:5]) + (", ..." if len(classes) > 5 else "")
        wanted = "a column of 0 and 1 for each label" if several else f"{needed} classes"
        raise DataError(
            f"{name}: expected {wanted}, as the network has {outputs} output{'s' * (outputs > 1)}, "
            f"got {len(classes)} classes: {some}"
        )
    return classes


def encode(y: Any, classes: Host, name: str = "y") -> Host:
    """Return the number of each label (rows,) among the classes; raise DataError for others."""
    text = _text(y, name)
    if text is None:
        raise DataError(
            f"{name}: expected labels such as {str(classes[0])!r}, as the run was trained with, "
            f"got {'numbers' if y is not None else 'None'}"
        )
    found = np.minimum(np.searchsorted(classes, text), len(classes) - 1)
    wrong = np.flatnonzero(classes[found] != text)
    if wrong.size:
        raise DataError(
            f"{name}: expected labels among {', '.join(map(repr, classes.tolist()))}, "
            f"got {str(text[wrong[0]])!r} at row {wrong[0]}"
        )
    return found


def _text(y: Any, name: str) -> Host | None:
    """Return labels (rows,) that are text as an array of str; None where they are numbers."""
    if y is None or not is_host(y):
        return None
    try:
        host = to_numpy(y)
    except (ValueError, TypeError):  # ragged: other checks say more
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


def refuse_mixed(y: Any, name: str) -> None:
    """Raise DataError for labels of which some are text and some numbers: NumPy makes all text."""
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
    given: Any, data: Dataset, loss: Any, outputs: int, classes: Host | None
) -> Array:
    """Return the weight of each row (rows,): that of its class times its own.

    `given` maps classes to weights, 1 for those that are missing; or it is "balanced": all rows by
    the number of classes and the rows of the class (weighted, where rows have weights).
    """
    _, y, weight = data.arrays
    backend, xp, count = data.backend, data.backend.xp, max(outputs, 2)
    if not has_one_label(y, loss):
        raise ValueError(
            "class_weight needs one label a row under a cross-entropy; got targets of shape "
            f"{tuple(y.shape)} under {type(loss).__name__}: use sample_weight"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = xp.concat([1.0 - y, y], axis=-1)  # the shares of both classes in each row
    own = None if weight is None else to_numpy(weight)
    if y.ndim == 1:
        rows_of = np.bincount(to_numpy(y), own, count)
    else:
        rows_of = (to_numpy(y) * (1 if own is None else own[:, None])).sum(axis=0)
    known = list(range(count)) if classes is None else classes.tolist()
    table = weights_of_classes(given, known, rows_of)
    try:
        w = backend.asarray(table, backend.dtype)
    except ValueError as error:
        raise DataError(f"class_weight: {error}") from None
    of_rows = xp.take(w, y, axis=0) if y.ndim == 1 else xp.matmul(y, w)
    with np.errstate(over="ignore"):  # told by the check
        of_rows = of_rows if weight is None else of_rows * weight
    return row_weights(of_rows, backend, rows=y.shape[0], name="class_weight")


def weights_of_classes(given: Any, known: list[Any], rows_of: Host) -> Host:
    """Return the weight of each known class: those given, 1 for others, or "balanced".

    `rows_of` has the (weighted) number of rows of each class; without rows, its weight is 1.
    """
    if isinstance(given, str) and given == "balanced":
        met = rows_of > 0
        return np.where(met, rows_of.sum() / (met.sum() * np.where(met, rows_of, 1)), 1.0)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"class_weight: expected a dict of class: weight, or 'balanced', got {given!r}"
        )
    table = np.ones(len(known))
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
        table[known.index(label)] = number
    return table


def has_one_label(y: Array, loss: Any) -> bool:
    """Tell whether checked targets hold one label a row: integers, a column, or a one-hot row."""
    several = isinstance(loss, SigmoidCrossEntropy) and y.shape[-1] > 1
    return hasattr(loss, "classes") and (y.ndim == 1 or not several)
