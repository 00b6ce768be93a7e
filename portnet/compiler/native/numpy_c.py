"""NumPy in C: the loops inside its ufuncs, and the matrix products of its BLAS.

Whoever calls them with the same arrays gets the same bits as NumPy, without its overhead. A loop is
taken from the ufunc as ``numpy/ufuncobject.h`` lays it out; a product is looked up by name in the
library that NumPy has loaded. Each is tried against NumPy before it is used, once; what cannot be
found, or gives other bits, is None.

Source: NumPy C-API, "UFunc API" (PyUFuncGenericFunction, PyUFuncObject); CBLAS (gemm, gemv, dot).
"""

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CLoop", "CName", "address", "c_library", "loop", "product", "products"]

ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112  # cblas.h
_ADDRESS = ctypes.c_void_p


class CName(NamedTuple):
    """What stands for an address, which differs from process to process.

    kind "function" or "data": of the loop of ufunc `name` for these dtypes. kind "product": of a
    matrix product, `bits` those of its integers.
    """

    kind: str
    name: str
    dtypes: tuple[str, ...]
    bits: int = 64


class CLoop(NamedTuple):
    """``void loop(char **args, intptr_t *count, intptr_t *strides, void *data)``, as addresses."""

    function: int
    data: int


class _UFunc(ctypes.Structure):
    """The beginning of PyUFuncObject."""

    _fields_ = (
        ("references", ctypes.c_ssize_t),
        ("type", _ADDRESS),
        ("nin", ctypes.c_int),
        ("nout", ctypes.c_int),
        ("nargs", ctypes.c_int),
        ("identity", ctypes.c_int),
        ("functions", ctypes.POINTER(_ADDRESS)),
        ("data", ctypes.POINTER(_ADDRESS)),
        ("ntypes", ctypes.c_int),
        ("reserved", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("types", ctypes.POINTER(ctypes.c_char)),
    )


@functools.cache
def c_library() -> Any:
    """Return NumPy's library of C, and what it was linked with."""
    return ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]


@functools.cache
def loop(ufunc: Any, dtypes: tuple[Any, ...]) -> CLoop | None:
    """Return the loop of a ufunc for these dtypes of operands and result."""
    if ctypes.sizeof(_ADDRESS) != 8 or ufunc.nout != 1 or len(dtypes) != ufunc.nargs:
        return None
    here = _UFunc.from_address(id(ufunc))
    shape = here.nin, here.nout, here.nargs, here.ntypes
    known = ufunc.nin, ufunc.nout, ufunc.nargs, ufunc.ntypes
    if shape != known or here.name != ufunc.__name__.encode() or not here.data:
        return None  # another layout than the one above
    wanted, n = bytes(d.num for d in dtypes), ufunc.nargs
    for i in range(here.ntypes):  # the first that fits is the one that NumPy takes
        if here.types[i * n : i * n + n] == wanted:
            found = CLoop(here.functions[i] or 0, here.data[i] or 0)
            return found if found.function and _as_numpy(ufunc, found, dtypes) else None
    return None


def _as_numpy(ufunc: Any, found: CLoop, dtypes: tuple[Any, ...]) -> bool:
    """Tell whether a loop gives NumPy's bits."""
    numbers = np.linspace(0.03, 3.0, 67)
    given = [(numbers[:: (-1) ** i]).astype(d) for i, d in enumerate(dtypes[:-1])]
    result = np.empty(67, dtypes[-1])
    arrays = [*given, result]
    kind = ctypes.CFUNCTYPE(None, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS)
    with np.errstate(all="ignore"):
        kind(found.function)(
            (_ADDRESS * len(arrays))(*(a.ctypes.data for a in arrays)),
            (ctypes.c_ssize_t * 1)(67),
            (ctypes.c_ssize_t * len(arrays))(*(a.itemsize for a in arrays)),
            found.data,
        )
        expected = ufunc(*given)
    return bool(expected.dtype == result.dtype and expected.tobytes() == result.tobytes())


def address(of: CName) -> int | None:
    """Return the address that a name stands for; None where this NumPy has none such."""
    dtypes = tuple([np.dtype(d) for d in of.dtypes])
    if of.kind == "product":
        found = product(of.name, *dtypes)
        return found.function if found is not None and found.bits == of.bits else None
    call = loop(getattr(np, of.name), dtypes)
    return None if call is None else getattr(call, of.kind)


class Product(NamedTuple):
    """A function of CBLAS: its address, and the bits of its integers."""

    function: int
    bits: int


@functools.cache
def product(name: str, dtype: Any) -> Product | None:
    """Return gemm, gemv or dot for a dtype, in the library with which NumPy multiplies."""
    letter = {"float32": "s", "float64": "d"}.get(dtype.name)
    if letter is None or ctypes.sizeof(_ADDRESS) != 8:
        return None
    library = c_library()
    for prefix, suffix, bits in (
        ("scipy_cblas_", "64_", 64),
        ("cblas_", "64_", 64),
        ("scipy_cblas_", "", 32),
        ("cblas_", "", 32),
    ):
        try:
            function = getattr(library, f"{prefix}{letter}{name}{suffix}")
        except AttributeError:
            continue
        found = Product(ctypes.cast(function, _ADDRESS).value or 0, bits)
        return found if _multiplies(name, found, dtype) else None
    return None


@functools.cache
def products() -> list[tuple[str, str, int]]:
    """Return the products of NumPy's BLAS, and the bits of their integers.

    The same version of NumPy may have been built with another BLAS.
    """
    kinds = [(name, np.dtype(d)) for name in ("gemm", "gemv", "dot") for d in "fd"]
    found = [(name, dtype.name, product(name, dtype)) for name, dtype in kinds]
    return [(name, dtype, p.bits) for name, dtype, p in found if p is not None]


def _multiplies(name: str, found: Product, dtype: Any) -> bool:
    """Tell whether a product gives NumPy's bits."""
    x = np.linspace(-1, 1, 35, dtype=dtype).reshape(5, 7)
    W = np.linspace(-2, 1, 21, dtype=dtype).reshape(7, 3)
    number = ctypes.c_float if dtype.itemsize == 4 else ctypes.c_double
    size = ctypes.c_int64 if found.bits == 64 else ctypes.c_int
    kind, at = ctypes.c_int, _ADDRESS
    if name == "gemm":
        result = np.empty((5, 3), dtype)
        call = ctypes.CFUNCTYPE(
            None, kind, kind, kind, *(size,) * 3, number, at, size, at, size, number, at, size
        )
        x_, W_, out = x.ctypes.data, W.ctypes.data, result.ctypes.data
        call(found.function)(ROW_MAJOR, NO_TRANS, NO_TRANS, 5, 3, 7, 1.0, x_, 7, W_, 3, 0.0, out, 3)
        return result.tobytes() == (x @ W).tobytes()
    w = W[:, 0].copy()
    x_, w_ = x.ctypes.data, w.ctypes.data
    if name == "dot":
        dot = ctypes.CFUNCTYPE(number, size, at, size, at, size)(found.function)
        return bool(dtype.type(dot(7, x_, 1, w_, 1)).tobytes() == x[:1].dot(w[:, None]).tobytes())
    result = np.empty(5, dtype)
    call = ctypes.CFUNCTYPE(
        None, kind, kind, size, size, number, at, size, at, size, number, at, size
    )
    out = result.ctypes.data
    call(found.function)(ROW_MAJOR, NO_TRANS, 5, 7, 1.0, x_, 7, w_, 1, 0.0, out, 1)
    return result.tobytes() == (x @ w).tobytes()
