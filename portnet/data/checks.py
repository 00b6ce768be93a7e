"""Checks: data, parameters and metrics are checked before anything is computed.

Each message names the argument, what was expected, what was given, and where. The checks run once
per fit. Each array is checked in one pass on its device, and the host waits for one result.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, timedelta
from typing import Any

import numpy as np

from .. import metrics as _metrics
from .. import tree
from .._typing import Array, ArrayLike, Host, Params
from .._validation import METRIC_CALL, check_choice, check_signature, warn
from ..backend import Backend, backend_of, describe, get_backend, is_host, kind_of_tensor, to_numpy
from ..losses import Reduced, SigmoidCrossEntropy, SoftmaxCrossEntropy

__all__ = [
    "DataError",
    "backend_for",
    "check_feature_names",
    "check_finite",
    "check_metrics",
    "feature_names",
    "features",
    "is_plain",
    "is_source",
    "named_metrics",
    "one_dimensional",
    "parameters",
    "refuse_too_large",
    "refuse_without_values",
    "row_number",
    "row_weights",
    "rows_from",
    "some_weights",
    "targets",
    "validation_set",
    "with_place",
]


BLOCK = 2**18  # numbers that are checked at once


class DataError(ValueError):
    """Data cannot be used; the message names the argument, the position and what was expected.

    Examples
    --------
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error")
    >>> try:
    ...     trainer.fit([[1.0], [float("nan")]], [1.0, 2.0])
    ... except portnet.DataError as error:
    ...     print(error)
    X contains NaN at row 1, column 0
    """


def backend_for(**arrays: ArrayLike) -> Backend:
    """Return the backend of the first array; for host data, the current backend.

    Host data (NumPy, lists, frames) may be combined with any array: they are moved. Raises
    TypeError if two other arrays are from different libraries or on different devices.
    """
    given = {name: x for name, x in arrays.items() if x is not None}
    for name, x in given.items():
        refuse_without_values(x, name)
    if not given:
        raise DataError(f"{next(iter(arrays))}: expected arrays, got None")
    first = next(iter(given))
    found = get_backend() if is_host(given[first]) else backend_of(given[first])
    for name, x in given.items():
        if not is_host(x) and not found.holds(x):
            where = describe(given[first])
            if is_host(given[first]):
                where += f", which is moved to {found}"
            raise TypeError(
                f"{name} is {describe(x)}, but {first} is {where}. Move one of them: "
                "portnet.asarray(x) to the backend, portnet.to_numpy(x) to the host"
            )
    dtype = get_backend().dtype
    backend = Backend(found.name, dtype, found.device, found.xp, found.matmul_precision)
    if not backend.supports(dtype):
        raise ValueError(f"{first} is {describe(given[first])}, which has no {dtype}")
    return backend


def features(
    X: ArrayLike,
    backend: Backend,
    *,
    width: int | None = None,
    name: str = "X",
    plain: bool = False,
) -> Array:
    """Return X (rows, features) on the backend, in its dtype, or raise DataError.

    `plain` says that `is_plain` holds for X, so that only the dtype is left to check.
    """
    if plain:
        return _as_array(X, backend, name, backend.dtype)
    for c in _columns(X):  # some frames convert dates to numbers
        kind = str(getattr(X[c], "dtype", "")).lower()
        if any(word in kind for word in ("date", "time", "duration")):
            raise DataError(f"{name}: column {c!r} {_DATES}")
    X = _as_array(X, backend, name, backend.dtype, columns=True)
    if X.ndim != 2:
        hint = f": {name}.reshape(-1, 1) is one feature, {name}.reshape(1, -1) one row"
        raise DataError(
            f"{name}: expected shape (rows, features), got {tuple(X.shape)}"
            + (hint if X.ndim == 1 else "")
        )
    if 0 in X.shape:
        raise DataError(
            f"{name}: expected at least one row and one feature, got shape {tuple(X.shape)}"
        )
    if width is not None and X.shape[1] != width:
        raise DataError(f"{name}: expected {width} features, got {X.shape[1]}")
    check_finite(X, name)
    checked: Array = X
    return checked


def is_plain(X: object, width: int) -> bool:
    """Return whether X is a NumPy array (rows, width) of finite floats, which needs no more checks.

    The other checks take longer than a small network does.
    """
    if type(X) is not np.ndarray or X.dtype.char not in "fd" or not X.dtype.isnative:
        return False
    return X.ndim == 2 and X.shape[1] == width and len(X) > 0 and _all_finite(X)


def is_source(x: Any) -> bool:
    """Return whether x is data that are read in parts: a memory map, an HDF5, Zarr or dask array.

    That is anything with shape, dtype, len and row slices that is no array, list or frame in
    memory. Raises DataError for one whose file has been closed.
    """
    if isinstance(x, np.ndarray):
        return isinstance(x, np.memmap)
    kind = type(x)
    if isinstance(x, list | tuple | np.generic) or not hasattr(kind, "__getitem__"):
        return False
    try:
        has_rows = hasattr(x, "shape") and hasattr(x, "dtype")
    except Exception as error:  # h5py's, of a file that has been closed
        what = f"{kind.__module__.partition('.')[0]} {kind.__name__}"
        raise DataError(f"the {what} cannot be read: {error}: is its file open?") from error
    if not has_rows or hasattr(x, "toarray"):
        return False
    # h5py, Zarr and dask have chunks; what says of itself that it is an array is in memory.
    return bool(x.shape) and (
        hasattr(kind, "chunks")
        or not any(hasattr(x, f"__{name}__") for name in ("array", "array_interface", "dlpack"))
    )


def feature_names(X: ArrayLike, name: str = "X") -> tuple[str, ...] | None:
    """Return the column names of a frame; None if X has no names that are text.

    Raises TypeError if some names are text and others are not, as scikit-learn does.
    """
    names = _columns(X)
    types = sorted({"str" if isinstance(n, str) else type(n).__qualname__ for n in names})
    if "str" in types and len(types) > 1:
        raise TypeError(
            f"{'' if name == 'X' else name + ': '}Feature names are only supported if all input "
            f"features have string names, but your input has {types} as feature name / column name "
            "types. If you want feature names to be stored and validated, you must convert them "
            "all to strings, by using X.columns = X.columns.astype(str) for example. Otherwise you "
            "can remove feature / column names from your input data, or convert them all to a "
            "non-string data type."
        )
    return tuple(str(n) for n in names) if types == ["str"] else None


def check_feature_names(
    X: ArrayLike, known: tuple[str, ...] | None, name: str = "X", fitted: str = "Run"
) -> None:
    """Raise DataError unless the columns of a frame have the known names, in the same order.

    Warns if only X or only the data of what is fitted has names. The messages are scikit-learn's.
    """
    names = feature_names(X, name)
    if names == known:
        return
    if known is None or names is None:
        warn(
            f"{name} has feature names, but {fitted} was fitted without feature names"
            if known is None
            else f"{name} does not have valid feature names, but {fitted} was fitted with feature "
            "names"
        )
        return
    unseen, missing = sorted({*names} - {*known}), sorted({*known} - {*names})
    message = "The feature names should match those that were passed during fit.\n"
    for title, found in (
        ("Feature names unseen at fit time:", unseen),
        ("Feature names seen at fit time, yet now missing:", missing),
    ):
        if found:
            shown = [f"- {n}\n" for n in found[:5]] + ["- ...\n"] * (len(found) > 5)
            message += f"{title}\n{''.join(shown)}"
    if not unseen and not missing:
        message += "Feature names must be in the same order as they were in fit.\n"
    raise DataError(message if name == "X" else f"{name}: {message}")


def one_dimensional(y: ArrayLike) -> bool:
    """Return whether targets have the shape (rows,)."""
    shape = y.shape if hasattr(y, "shape") else np.shape(to_numpy(y))
    return len(shape) == 1


def targets(
    y: ArrayLike, backend: Backend, loss: Any, *, rows: int, outputs: int, name: str = "y"
) -> Array:
    """Return targets on the backend, as the loss needs them.

    These are integer labels (rows,), or floats (rows, outputs).
    """
    if y is None:
        raise DataError(f"{name}: expected targets, got None")
    _refuse_text(y, name, loss, outputs)
    labels = isinstance(loss, SoftmaxCrossEntropy)
    if labels and outputs < 2:
        raise DataError(
            "softmax_cross_entropy needs a network with one output per class, at least 2; this one "
            "has 1: for two classes and one output, use sigmoid_cross_entropy"
        )
    y = _as_array(y, backend, name)
    if labels and backend.xp.isdtype(y.dtype, "bool"):
        y = backend.xp.astype(y, backend.xp.int32)
    integral = backend.xp.isdtype(y.dtype, "integral")
    if y.ndim == 0 or y.shape[0] != rows:
        raise DataError(
            f"{name}: expected {rows} rows, as many as in X, got shape {tuple(y.shape)}"
        )
    if labels and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]  # a frame of one column
    if labels and y.ndim == 1:
        if not integral:
            check_finite(y, name)
            _check_whole(y, name, outputs)
            _check_range(y, 0, outputs - 1, name, "labels", f"the network has {outputs} outputs")
        y = _as_array(y, backend, name, "int64" if backend.supports("int64") else "int32")
        _check_range(y, 0, outputs - 1, name, "labels", f"the network has {outputs} outputs")
    checked: Array = y
    if labels and y.ndim == 1:
        return checked
    if not hasattr(loss, "low") and integral and outputs > 1:  # a custom loss may take labels
        return checked
    y = _as_array(y, backend, name, backend.dtype)
    if y.ndim == 1 and outputs == 1 and not labels:
        y = backend.xp.reshape(y, (rows, 1))
    if tuple(y.shape) != (rows, outputs) and hasattr(loss, "low"):
        need = f"integer labels of shape {_of_all(rows)}, or probabilities of"
        need = need if labels else "targets of"
        raise DataError(
            f"{name}: expected {need} shape {_of_all(rows, outputs)}, one column for each output, "
            f"got {_of_all(*y.shape)}"
        )
    check_finite(y, name)
    if hasattr(loss, "low"):
        _check_range(y, loss.low, loss.high, name, "targets", f"as {type(loss).__name__} needs")
    if labels:
        _check_sums(y, name)
    checked = y
    return checked


def row_weights(
    w: object, backend: Backend, *, rows: int, name: str = "sample_weight"
) -> Array | None:
    """Return weights (rows,) on the backend, or None; they are finite, >= 0, and not all 0."""
    if w is None:
        return None
    w = some_weights(w, backend, rows=rows, name=name)
    if not bool(backend.xp.any(w > 0)):
        raise DataError(f"{name}: expected at least one weight above 0, got only zeros")
    with np.errstate(over="ignore"):
        total = backend.xp.sum(w)
    if not bool(backend.xp.isfinite(total)):
        raise DataError(
            f"{name}: the sum of the weights is too large for {w.dtype}: scale them down"
        )
    return w


def some_weights(w: object, backend: Backend, *, rows: int, name: str) -> Array:
    """Return weights (rows,) on the backend; they are finite and >= 0."""
    w = _as_array(w, backend, name, backend.dtype)
    if tuple(w.shape) != (rows,):
        raise DataError(
            f"{name}: expected shape ({rows},), one weight per row, got {tuple(w.shape)}"
        )
    check_finite(w, name)
    _check_range(w, 0, np.inf, name, "weights", "each multiplies the loss of its row")
    checked: Array = w
    return checked


def validation_set(given: object) -> dict[str, ArrayLike]:
    """Return (X, y) or (X, y, sample_weight) as a dict of these names; {} for None."""
    if given is None:
        return {}
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ValueError(
            "validation: expected (X, y) or (X, y, sample_weight), or a fraction of the rows, got "
            f"a {type(given).__name__}"
        )
    return dict(zip(("X", "y", "sample_weight"), (*given, None), strict=False))


def parameters(given: Params, expected: Params, backend: Backend) -> Params:
    """Return a copy of parameters on the backend; pytree and shapes must be those of `expected`."""
    try:
        tree.map(lambda e, g: None, expected, given)
    except ValueError as error:
        raise DataError(f"params: {error}") from error
    for path, e, g in zip(
        tree.paths(expected), tree.leaves(expected), tree.leaves(given), strict=True
    ):
        if tuple(e.shape) != tuple(np.shape(g)):
            raise DataError(
                f"params{path}: expected shape {tuple(e.shape)}, got {tuple(np.shape(g))}"
            )
        if not is_host(g) and not backend.holds(g):
            raise TypeError(
                f"params{path} is {describe(g)}, but X is moved to {backend}. "
                "Move one of them: portnet.asarray(x), portnet.to_numpy(x)"
            )
        check_finite(_as_array(g, backend, f"params{path}", backend.dtype), f"params{path}")
    # A copy: writing into the given arrays must not change the run.
    return tree.map(
        lambda g: backend.xp.asarray(backend.asarray(g, backend.dtype), copy=True), given
    )


def named_metrics(
    metrics: Iterable[str | Callable[..., Array]] | None, loss: object, outputs: int
) -> dict[str, Callable[..., Array]]:
    """Return a dict of name: function; text must be a name of `portnet.metrics.METRICS`."""
    if isinstance(metrics, str) or callable(metrics):
        metrics = [metrics]
    if not isinstance(metrics, Iterable | None):
        raise TypeError(f"metrics: expected names or functions, got {metrics!r}")
    found: dict[str, Callable[..., Array]] = {}
    for metric in metrics or ():
        if not callable(metric):
            if metric == "confusion_matrix":
                raise ValueError(
                    "metric 'confusion_matrix' is no single number: call "
                    "portnet.metrics.confusion_matrix(run.predict_proba(X), y)"
                )
            check_choice("metric", metric, _metrics.METRICS)
            metric = _metrics.METRICS[metric]
        check_signature("a metric", metric, *METRIC_CALL)
        name = getattr(metric, "__name__", repr(metric))
        if metric in _metrics.OF_CLASSES and isinstance(loss, SigmoidCrossEntropy) and outputs > 1:
            raise ValueError(
                f"metric {name!r} compares one class per row, but this network has {outputs} "
                "labels per row: use 'label_accuracy'"
            )
        if metric in _metrics.OF_TWO_CLASSES and outputs > 2:
            instead = "f1_macro" if metric is _metrics.f1 else "roc_auc_ovr"
            raise ValueError(
                f"metric {name!r} is of two classes, but this network has {outputs}: "
                f"use {instead!r}"
            )
        if (
            metric is _metrics.log_loss
            and isinstance(loss, Reduced)
            and not hasattr(loss, "classes")
        ):
            raise ValueError(
                f"metric 'log_loss' needs probabilities, which {type(loss).__name__} does not give"
            )
        if name in ("loss", "scale") or name.startswith("validation_") or name in found:
            raise ValueError(
                "metrics: expected functions with distinct names, none of them 'loss', 'scale' or "
                f"'validation_...', got {name!r}" + (" twice" if name in found else "")
            )
        found[name] = metric
    return found


def check_metrics(metrics: dict[str, Callable[..., Array]], y: Array, name: str = "y") -> None:
    """Raise ValueError if a metric compares numbers and the targets are labels, or the reverse."""
    number_metrics = (
        _metrics.label_accuracy,
        _metrics.mean_absolute_error,
        _metrics.mean_squared_error,
        _metrics.r2,
    )
    for metric, function in metrics.items():
        if y.ndim == 1 and function in number_metrics:
            raise ValueError(
                f"metric {metric!r} compares numbers, but {name} contains labels: use 'accuracy'"
            )
        class_metric = function in _metrics.OF_CLASSES and function is not _metrics.log_loss
        if (  # waits for the device
            class_metric and y.ndim == 2 and not bool(backend_of(y).xp.all((y >= 0) & (y <= 1)))
        ):
            raise ValueError(
                f"metric {metric!r} compares classes, but {name} contains numbers: use 'r2'"
            )


# Helpers ----------------------------------------------------------------------------------------


def refuse_without_values(x: ArrayLike, name: str) -> None:
    """Raise TypeError for a sparse tensor, DataError for a tensor on the device 'meta'."""
    kind = kind_of_tensor(x)
    if kind == "sparse":
        raise TypeError(f"{name}: sparse data was passed, but dense is required: use .to_dense()")
    if kind == "meta":
        raise DataError(
            f"{name}: got a tensor on the device 'meta', which has a shape and no values: give one "
            "on the CPU or a GPU"
        )


def refuse_too_large(x: ArrayLike, name: str) -> None:
    """Raise DataError if x contains a Python integer that is too large for float64."""
    if not is_host(x):
        return
    objects = np.array(x, dtype=object)
    for index in np.ndindex(objects.shape):
        if isinstance(objects[index], int) and abs(objects[index]) > _LARGEST:
            raise DataError(
                f"{name} contains an integer too large for float64 at {_position(index)}"
                if index
                else f"{name} is an integer too large for float64"
            )


_LARGEST = int(np.finfo(np.float64).max)


def _as_array(
    x: ArrayLike, backend: Backend, name: str, dtype: str | None = None, *, columns: bool = False
) -> Array:
    if hasattr(x, "toarray"):
        raise TypeError(f"{name}: sparse data was passed, but dense is required: use .toarray()")
    refuse_without_values(x, name)
    try:
        return backend.asarray(x, dtype)
    except (ValueError, TypeError) as error:
        message = _column_without_numbers(x, name) if columns else ""
        if isinstance(error, TypeError) and not message:
            raise TypeError(f"{name}: {error}") from error
        raise DataError(message or f"{name}: {with_place(error, x)}") from error


def with_place(error: Exception, x: ArrayLike) -> str:
    """Return the message of `Backend.asarray`, with the place of a value of x that is too large."""
    what, scale, more = str(error).partition(": scale the data")
    if not scale:
        return what
    host = to_numpy(x)
    if host.ndim in (1, 2):
        sizes = np.where(np.isfinite(host), np.abs(host), 0)
        what += f" at {_position(np.argwhere(sizes == sizes.max())[0])}"
    return what + scale + more


def _columns(X: ArrayLike) -> list[Any]:
    """Return the keys of the columns of a frame of pandas, polars or pyarrow; [] of other data."""
    if isinstance(X, np.ndarray | list | tuple) or not hasattr(X, "shape"):
        return []
    keys = X.column_names if hasattr(type(X), "column_names") else getattr(X, "columns", ())
    return list(keys) if isinstance(keys, Iterable) else []


_TIMES = date | timedelta | np.datetime64 | np.timedelta64
_DATES = (
    "contains dates or times, but numbers are needed: convert them to days or seconds since a "
    "fixed date"
)


def _column_without_numbers(X: ArrayLike, name: str) -> str:
    """Return a message that names the first column of text or dates; "" if there is none."""
    try:
        names = feature_names(X)
        # As objects: NumPy would convert a list that contains some text to text.
        values = np.array(X, dtype=object) if isinstance(X, list | tuple) else to_numpy(X)
        columns = [X[c] for c in _columns(X)] if _columns(X) else values.T
    except (ValueError, TypeError):  # ragged
        return ""
    if not _columns(X) and np.ndim(columns) != 2:
        return ""
    for i, given in enumerate(columns):
        column = np.asarray(given)
        what = f"{name}: column {repr(names[i]) if names else i}"
        if column.dtype.kind in "Mm" or any(isinstance(v, _TIMES) for v in column.flat):
            return f"{what} {_DATES}"
        text = next((v for v in column.flat if isinstance(v, str | bytes)), None)
        if text is not None:
            return (
                f"{what} contains text such as {str(text)!r}, but numbers are needed: drop it, or "
                "encode it as one column of 0 and 1 per value (pandas.get_dummies)"
            )
    return ""


def _refuse_text(y: ArrayLike, name: str, loss: object, outputs: int) -> None:
    try:
        first = to_numpy(y).ravel()[0] if is_host(y) else None
    except (ValueError, IndexError):  # ragged or empty: another check reports it
        return
    if isinstance(first, str | bytes):
        need = f"integer labels from 0 to {outputs - 1}" if hasattr(loss, "classes") else "numbers"
        raise DataError(f"{name}: expected {need}, got text such as {str(first)!r}")


def check_finite(x: Array, name: str) -> None:
    """Raise DataError, with the first place, if x contains NaN or infinity."""
    if type(x) is np.ndarray and x.dtype.kind == "f" and _all_finite(x):
        return
    xp = backend_of(x).xp
    if not xp.isdtype(x.dtype, "real floating") or bool(xp.all(xp.isfinite(x))):  # waits for x
        return
    host = to_numpy(x)
    indices = np.argwhere(~np.isfinite(host))
    what = (
        "NaN"
        if np.isnan(host[tuple(indices[0])])
        else f"infinity or a value too large for {x.dtype}"
    )
    more = f" (and {len(indices) - 1} more)" if len(indices) > 1 else ""
    raise DataError(f"{name} contains {what} at {_position(indices[0])}{more}")


def _all_finite(x: Host) -> bool:
    """Return whether all numbers are finite; the flags of large arrays are made block by block."""
    if x.size <= BLOCK:
        return bool(np.isfinite(x).all())
    rows = max(1, BLOCK * len(x) // x.size)
    return all(np.isfinite(x[i : i + rows]).all() for i in range(0, len(x), rows))


def _check_range(x: Array, low: float, high: float, name: str, what: str, why: str) -> None:
    xp = backend_of(x).xp
    if bool(xp.all((x >= low) & (x <= high))):  # waits for x
        return
    host = to_numpy(x)
    first = np.argwhere((host < low) | (host > high))[0]
    span = f"from {low:g} to {high:g}" if high < np.inf else f"of at least {low:g}"
    raise DataError(
        f"{name}: expected {what} {span} ({why}), got {host[tuple(first)]:g} at {_position(first)}"
    )


def _check_whole(y: Array, name: str, outputs: int) -> None:
    xp = backend_of(y).xp
    if bool(xp.all(y == xp.floor(y))):  # waits for y
        return
    host = to_numpy(y)
    row = int(np.flatnonzero(host != np.floor(host))[0])
    raise DataError(
        f"{name}: expected integer labels from 0 to {outputs - 1}, or probabilities of shape "
        f"{_of_all(host.shape[0], outputs)}; got {host[row]:g} at row {row_number(row)}"
    )


def _check_sums(y: Array, name: str) -> None:
    xp = backend_of(y).xp
    error = xp.abs(xp.sum(y, axis=-1) - 1.0)
    if bool(xp.all(error <= 1e-3)):  # waits for y
        return
    row = int(np.argmax(to_numpy(error)))
    total = float(to_numpy(y)[row].sum())
    raise DataError(
        f"{name}: expected the probabilities of a row to sum to 1, got {total:g} at row "
        f"{row_number(row)}"
    )


_FIRST_ROW = ContextVar("first_row", default=0)
_ALL_ROWS = ContextVar("all_rows", default=0)


@contextmanager
def rows_from(first: int, rows: int = 0) -> Iterator[None]:
    """Let messages within count rows from `first`: for a block of a larger array of `rows`."""
    before, of_all = _FIRST_ROW.set(first), _ALL_ROWS.set(rows)
    try:
        yield
    finally:
        _FIRST_ROW.reset(before)
        _ALL_ROWS.reset(of_all)


def _of_all(rows: int, *others: int) -> tuple[int, ...]:
    """Return a shape with the rows of the whole array, of one in the block that is checked."""
    return (_ALL_ROWS.get() or rows, *others)


def row_number(row: int) -> int:
    """Return the number of a row in the whole array, of one in the block that is checked."""
    return int(row) + _FIRST_ROW.get()


def _position(index: Iterable[int]) -> str:
    row, *column = (int(i) for i in index)
    return f"row {row_number(row)}" + (f", column {column[0]}" if column else "")
