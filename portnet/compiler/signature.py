"""Signature: the key of a plan, made from the structure, shapes and dtypes of the arguments."""

from typing import Any

import array_api_compat
import numpy as np

__all__ = ["NotNumPyError", "key_of"]


class NotNumPyError(Exception):
    """An argument is not a NumPy array; the message is the name of its library."""


def key_of(x: Any, arrays: list[Any]) -> Any:
    """Return the key of an argument, and append its arrays to `arrays`."""
    kind = type(x)
    if kind is np.ndarray:
        arrays.append(x)
        return x.shape, x.dtype
    if kind is tuple or kind is list:
        return kind, tuple([key_of(i, arrays) for i in x])
    if kind is dict:
        return kind, tuple([(k, key_of(v, arrays)) for k, v in x.items()])
    if x is None or kind is int or kind is bool or kind is str:
        return kind, x
    if kind is float:
        return kind, x.hex()
    if kind is complex:
        return kind, x.real.hex(), x.imag.hex()
    if isinstance(x, np.generic):
        arrays.append(np.asarray(x))
        return (), x.dtype
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return kind, tuple([key_of(i, arrays) for i in x])
    if kind is np.memmap:
        arrays.append(np.asarray(x))
        return x.shape, x.dtype
    raise NotNumPyError(_library(x))


def _library(x: Any) -> str:
    """Return the name of the library of an argument, or why it is not an array.

    "traced" is an array of a trace, "eager" one of a library that is not compiled.
    """
    if array_api_compat.is_jax_array(x):
        return "jax"
    if array_api_compat.is_torch_array(x):
        return "torch"
    if hasattr(x, "__portnet_trace__"):
        return "traced"
    if array_api_compat.is_array_api_obj(x) and not isinstance(x, np.ndarray):
        return "eager"
    return f"an argument is a {type(x).__name__}: traced are arrays, numbers and pytrees of them"
