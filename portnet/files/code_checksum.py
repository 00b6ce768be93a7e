"""Checksums of the code of functions and classes, to compare those of several processes."""

import dataclasses
import functools
import sys
import zlib
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import array_api_compat
import numpy as np

from ..backend import to_numpy

__all__ = ["code_checksum"]

OURS = __name__.partition(".")[0]
OTHERS = {"numpy", "scipy", "sklearn", "pandas", "torch", "jax", "jaxlib", "cupy", "dpnp"}
LIBRARIES = OTHERS | sys.stdlib_module_names


def code_checksum(value: Any) -> str:
    """Return the CRC-32 of the code of all functions and classes in a value; "" if it has none.

    With a function go its defaults and what it takes from functions around it; with an object its
    class and its attributes. What is portnet's own has no code here, and global variables that a
    function reads do not count: they may well differ, as a number of the process does.
    """
    walk = _Walk()
    crc = 0
    for text in walk.texts(value):
        crc = zlib.crc32(text + b"\0", crc)
    return f"{crc:08x}" if walk.has_code else ""


class _Walk:
    """A walk through a value; each object is visited once."""

    def __init__(self) -> None:
        self.has_code = False
        self._seen: dict[int, Any] = {}  # which keeps them alive, so that no number is used twice

    def texts(self, value: Any) -> Iterator[bytes]:
        """Yield what decides what a value does."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            yield repr(value).encode()
            return
        if isinstance(value, np.generic) or array_api_compat.is_array_api_obj(value):
            array = np.ascontiguousarray(to_numpy(value))
            yield f"{array.dtype} {array.shape}".encode()
            yield repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        for part in self._parts(value):
            yield from (part,) if isinstance(part, _Text) else self.texts(part)

    def _parts(self, value: Any) -> Iterator[Any]:
        """Yield texts, and values inside."""
        if _root(value if isinstance(value, FunctionType | type) else type(value)) in OTHERS:
            return
        if isinstance(value, FunctionType):
            if _is_own(value):
                self.has_code = True
                yield _Text(_text_of(value.__code__))
            cells = value.__closure__ or ()
            yield from (cell.cell_contents for cell in cells if _is_filled(cell))
            yield from (value.__defaults__, value.__kwdefaults__)
        elif isinstance(value, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, MethodType):
            yield from (value.__func__, value.__self__)
        elif isinstance(value, type):
            for kind in filter(_is_own, value.__mro__):
                for name, found in sorted(vars(kind).items()):
                    yield from (_Text(name.encode()), *_functions_of(found))
        elif isinstance(value, tuple | list):
            yield from value
        elif isinstance(value, dict):
            yield from (part for pair in value.items() for part in pair)
        elif dataclasses.is_dataclass(value):
            yield type(value)
            yield from (getattr(value, f.name, None) for f in dataclasses.fields(value))
        elif _root(type(value)) not in LIBRARIES:
            yield type(value)
            yield from (part for pair in sorted(_attributes(value).items()) for part in pair)


class _Text(bytes):
    """Bytes that are no value."""


def _root(value: Any) -> str:
    """Return the package of a function or a class."""
    return (value.__module__ or "").partition(".")[0]


def _is_own(value: Any) -> bool:
    """Tell whether a function or a class is the user's."""
    return _root(value) != OURS and _root(value) not in LIBRARIES


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a function that is not defined yet
        return False
    return True


def _attributes(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})


def _functions_of(attribute: Any) -> list[Any]:
    """Return the functions of an attribute of a class."""
    if isinstance(attribute, staticmethod | classmethod):
        return [attribute.__func__]
    if isinstance(attribute, property):
        return [attribute.fget, attribute.fset]
    return [attribute] if isinstance(attribute, FunctionType | functools.partial) else []


def _text_of(code: CodeType) -> bytes:
    """Return what a function's code does, as bytes, whatever the file and line where it stands."""
    inside = [c for c in code.co_consts if isinstance(c, CodeType)]
    constants = [_constant(c) for c in code.co_consts if not isinstance(c, CodeType)]
    text = f"{code.co_names}{code.co_varnames}{code.co_freevars}{constants}".encode() + code.co_code
    return b"".join([text, *map(_text_of, inside)])


def _constant(value: Any) -> str:
    """Return the text of a constant; the order of a set is not the same in every process."""
    if isinstance(value, frozenset):
        return f"{{{sorted(map(_constant, value))}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))})"
    return repr(value)
