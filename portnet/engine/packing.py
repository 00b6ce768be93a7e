"""Packing: a pytree as one flat vector for each dtype."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from .. import tree
from .._typing import Array
from ..backend import namespace


class _Unpacked:
    """As they are."""

    def pack(self, nest: Any) -> Any:
        """Return the nest."""
        return nest

    def unpack(self, nest: Any) -> Any:
        """Return the nest."""
        return nest


UNPACKED = _Unpacked(), _Unpacked()


@dataclass(frozen=True)
class Packing:
    """As one vector for each dtype.

    `leaves` has of each leaf, in the order of `tree.leaves`, shape and dtype; `nest` is a nest of
    that form with numbers as its leaves.
    """

    leaves: tuple[tuple[tuple[int, ...], str], ...]
    text: str  # the nest in words, by which two are compared
    nest: Any = field(compare=False)

    @classmethod
    def of(cls, nest: Any) -> "Packing":
        """Return the form of a nest of NumPy's arrays; TypeError where it holds something else."""
        arrays = tree.leaves(nest)
        for i, leaf in enumerate(arrays):
            if isinstance(leaf, np.ndarray) and type(leaf) is not np.ndarray:
                raise TypeError  # a subclass, which may do as it likes
            if not isinstance(leaf, np.ndarray | np.generic):
                raise TypeError(
                    f"the state holds {leaf!r} at {tree.paths(nest)[i]}: a 0-d array would be "
                    "compiled"
                )
        number = iter(range(len(arrays)))
        form = tree.map(lambda leaf: next(number), nest)
        leaves = tuple([(leaf.shape, leaf.dtype.name) for leaf in arrays])
        return cls(leaves, _structure(nest), form)

    def pack(self, nest: Any) -> dict[str, Array]:
        """Return the vectors, by the name of their dtype: copies."""
        leaves = self._checked(nest)
        if not leaves:
            return {}
        xp = namespace(*leaves)
        return {
            kind: xp.concat([xp.reshape(a, (-1,)) for a in leaves if a.dtype.name == kind])
            for kind in dict.fromkeys(kind for _, kind in self.leaves)
        }

    def _checked(self, nest: Any) -> list[Array]:
        leaves = tree.leaves(nest)
        given = tuple([(tuple(a.shape), a.dtype.name) for a in leaves])
        if given != self.leaves or _structure(nest) != self.text:
            raise ValueError(f"a step changed the form of its state: {self.leaves} became {given}")
        return leaves

    def fill(self, vectors: dict[str, Array], nest: Any) -> None:
        """Write a nest into vectors."""
        begin = dict.fromkeys(vectors, 0)
        for leaf, (shape, kind) in zip(self._checked(nest), self.leaves, strict=True):
            start, begin[kind] = begin[kind], begin[kind] + prod(shape)
            vectors[kind][start : begin[kind]] = leaf.reshape(-1)

    def unpack(self, vectors: dict[str, Array]) -> Any:
        """Return the nest: views of the vectors."""
        begin = dict.fromkeys(vectors, 0)
        xp: Any = namespace(*vectors.values()) if vectors else None
        arrays = []
        for shape, kind in self.leaves:
            start = begin[kind]
            begin[kind] = start + prod(shape)
            arrays.append(xp.reshape(vectors[kind][start : begin[kind]], shape))
        return _fill_in(self.nest, arrays)


def _fill_in(nest: Any, arrays: list[Array]) -> Any:
    """Return a nest of numbers with the arrays of these numbers: `tree.map`, without its checks."""
    if isinstance(nest, int):
        return arrays[nest]
    if isinstance(nest, dict):
        return {k: _fill_in(v, arrays) for k, v in nest.items()}
    if nest is None:
        return None
    parts = [_fill_in(v, arrays) for v in nest]
    return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)


def _structure(nest: Any) -> str:
    """Return the containers of a nest, in words."""
    if isinstance(nest, dict):
        return "{" + ", ".join(f"{k!r}: {_structure(nest[k])}" for k in sorted(nest)) + "}"
    if isinstance(nest, tuple | list):
        return f"{type(nest).__qualname__}({', '.join(map(_structure, nest))})"
    return "" if nest is None else "*"
