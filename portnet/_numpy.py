"""NumPy 2 as a namespace of the array API standard.

Most of NumPy's functions are the standard's as they are, and a few more are below. For the others,
the namespace is that of array_api_compat.numpy, which is imported when one of these is asked for:
that loads every part of NumPy, and takes longer than to train a small network.
"""

import importlib
import sys
from typing import Any

import array_api_compat
import numpy as np
from numpy import (
    arange,
    asarray,
    matmul,
    matrix_transpose,
    ones_like,
    permute_dims,
    zeros,
    zeros_like,
)

__all__ = [
    "SAME",
    "arange",
    "array_namespace",
    "asarray",
    "astype",
    "finfo",
    "floor",
    "matmul",
    "matrix_transpose",
    "ones_like",
    "permute_dims",
    "sign",
    "zeros",
    "zeros_like",
]

# The names of NumPy's that array_api_compat.numpy has unchanged, as far as portnet uses them.
SAME = frozenset(
    """
    abs acos acosh add all any argmax argmin asin asinh atan atan2 atanh bitwise_and
    bitwise_invert bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor bool
    broadcast_to complex128 complex64 concat conj copysign diff cos cosh divide e equal exp
    expand_dims expm1 flip float32 float64 floor_divide greater greater_equal hypot imag inf
    int16 int32 int64 int8 isdtype isfinite isinf isnan less less_equal log log10 log1p log2
    logaddexp logical_and logical_not logical_or logical_xor max maximum mean min minimum
    moveaxis multiply nan negative newaxis nextafter not_equal pi positive pow prod real
    reciprocal remainder reshape result_type round signbit sin sinh sqrt squeeze square stack
    subtract sum take tan tanh uint16 uint32 uint64 uint8 where
    """.split()
)

# The names with underscores that the standard has: NumPy asks objects for others of this kind.
STANDARD = ("__array_namespace_info__", "__array_api_version__")


# Below, names such as all, any, sum and bool are NumPy's, once they were asked for.


def array_namespace(*arrays: Any) -> Any:
    """Return the namespace of arrays that are all of one library, or raise TypeError."""
    found = None
    for a in arrays:
        if issubclass(type(a), np.ndarray | np.generic):  # a traced array is no instance of it
            found = sys.modules[__name__]
        elif a is not None and not isinstance(a, int | float | complex):
            return array_api_compat.array_namespace(*arrays)
    return found or array_api_compat.array_namespace(*arrays)


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    """Return an array of another dtype; also of NumPy's scalars, which its own astype refuses."""
    return x.astype(dtype, copy=copy)


def finfo(dtype: Any, /) -> Any:
    """Return the limits of a floating dtype, or of an array's."""
    return np.finfo(dtype.dtype if isinstance(dtype, np.ndarray | np.generic) else dtype)


def floor(x: Any, /) -> Any:
    """Return the integers below; those of integers as they are."""
    return x if x.dtype.kind in "iu" else np.floor(x)


def sign(x: Any, /) -> Any:
    """Return -1, 0, 1 or NaN; of complex numbers x / |x|."""
    if x.dtype.kind == "c":
        return importlib.import_module("array_api_compat.numpy").sign(x)
    return np.sign(x)


def __getattr__(name: str) -> Any:
    if name in SAME:
        found = getattr(np, name)
    elif name == "__array_namespace_info__" and hasattr(np, name):  # NumPy 2.1
        found = np.__array_namespace_info__
    elif name.startswith("__") and name not in STANDARD:
        raise AttributeError(name)
    else:
        found = getattr(importlib.import_module("array_api_compat.numpy"), name)
    globals()[name] = found  # the next time it is found at once
    return found
