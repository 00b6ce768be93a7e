"""Inputs: data of any library are checked and moved to the backend of X.

scikit-learn checks data on the host. Arrays of other libraries are checked here, with its messages.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from .._typing import Array, ArrayLike, Host
from ..backend import Backend, describe, is_host, to_numpy
from ..data import checks

__all__ = [
    "as_array",
    "device_features",
    "errors_name_argument",
    "network_dtype",
    "network_dtype_of_host_data",
    "on_host",
    "targets",
    "to_backend",
    "whole",
]


@contextmanager
def errors_name_argument(**given: ArrayLike) -> Iterator[None]:
    """Reject tensors without dense values; name the argument that has too large an integer."""
    for name, x in given.items():
        checks.refuse_without_values(x, name)
    try:
        yield
    except OverflowError as error:
        for name, x in given.items():
            checks.refuse_too_large(x, name)
        raise ValueError(str(error)) from error


def targets(y: ArrayLike, backend: Backend) -> Array:
    """Return encoded y as the losses need it: integer classes (rows,), or floats."""
    encoded: Array = y
    if not is_host(y):
        return encoded
    if y.ndim == 1:
        return backend.asarray(y, "int64" if backend.supports("int64") else "int32")
    return as_array("y", y, backend)


def as_array(name: str, x: ArrayLike, backend: Backend) -> Array:
    """Return x on the backend, in its dtype; errors name the argument."""
    try:
        return backend.asarray(x, backend.dtype)
    except ValueError as error:
        what, scale, _ = checks.with_place(error, x).partition(": scale the data")
        more = f"{scale}, or give X as float64 from the first fit on" if scale else ""
        raise ValueError(f"{name}: {what}{more}") from None


def to_backend(X: ArrayLike, backend: Backend) -> Any:
    """Return checked host data on the backend; sparse data stay on the host, as CSR."""
    if not hasattr(X, "tocsr"):
        return as_array("X", X, backend)
    backend.require(backend.dtype)
    X = X.tocsr()
    # Raises if a value is too large for the dtype; of three axes, as these are no rows.
    as_array("X", X.data[None, None], backend)
    return X.astype(backend.dtype, copy=False)


def network_dtype(X: Array, backend: Backend) -> str:
    """Return the dtype of a new network for X: that of X if float32 or float64."""
    name = str(X.dtype).rpartition(".")[2]
    if name in ("float32", "float64"):
        return name
    return "float64" if backend.supports("float64") else "float32"


def network_dtype_of_host_data(given: object, dtype: str, backend: Backend) -> str:
    """Return the dtype of a new network for host data that were checked as `dtype`.

    On a backend without float64 it is float32; X given as float64 raises ValueError.
    """
    dtypes = {str(getattr(given, "dtype", "")), *map(str, getattr(given, "dtypes", ()))}
    if dtype == "float64" and not backend.supports(dtype):
        if "float64" not in {name.lower() for name in dtypes}:
            return "float32"
        try:
            backend.require(dtype)
        except ValueError as error:
            raise ValueError(f"X is float64, but {error}. Use X.astype('float32')") from None
    return dtype


def device_features(X: Array, backend: Backend) -> Array:
    """Return an array of another library, checked as scikit-learn checks NumPy arrays."""
    if "complex" in str(X.dtype):
        raise ValueError(f"Complex data not supported\n{describe(X)}\n")
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: X of shape {tuple(X.shape)}. Reshape "
            "your data either using xp.reshape(X, (-1, 1)) if your data has a single feature or "
            "xp.reshape(X, (1, -1)) if it contains a single sample."
        )
    for count, what in zip(X.shape, ("sample(s)", "feature(s)"), strict=True):
        if count == 0:
            raise ValueError(
                f"Found array with 0 {what} (shape={tuple(X.shape)}) while a minimum of 1 is "
                "required."
            )
    X = as_array("X", X, backend)
    checks.check_finite(X, "Input X")
    return X


def on_host(*given: ArrayLike) -> tuple[Any, ...]:
    """Return arrays of other libraries as NumPy arrays, sources read, everything else unchanged."""
    return tuple(whole(a) if is_host(a) else to_numpy(a) for a in given)


def whole(x: ArrayLike) -> Any:
    """Return all rows of a source that is no memory map, anything else unchanged."""
    if isinstance(x, np.ndarray) or not checks.is_source(x):
        return x
    from ..data.labels import decoded
    from ..data.sources.reading import reader_of

    return decoded(reader_of(x, "y")[:])


def _host_weights(given: ArrayLike, rows: int) -> Host | None:
    """Return checked weights (rows,) on the host, or None; a number is the weight of every row."""
    if given is None:
        return None
    (given,), X = on_host(given), np.broadcast_to(0.0, (rows, 1))
    return np.asarray(_check_sample_weight(given, X, dtype=np.float64, ensure_non_negative=True))
