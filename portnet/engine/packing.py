"""Packing: a pytree as one flat vector for each dtype."""

import functools
from dataclasses import dataclass, field
from math import prod

import numpy as np

from .. import tree
from .._typing import DType, Host, Namespace, Tree
from ..backend import namespace

__all__ = ["UNPACKED", "PackedTree", "Packing", "unpacked"]


class _Unpacked:
    """Keeps a pytree as it is."""

    def pack(self, pytree: Tree) -> Tree:
        """Return the pytree."""
        return pytree

    def unpack(self, pytree: Tree) -> Tree:
        """Return the pytree."""
        return pytree


UNPACKED = _Unpacked(), _Unpacked()


@dataclass(frozen=True, eq=False)
class PackedTree:
    """A pytree as vectors of its own, by dtype; `unpacked` returns the pytree."""

    packing: "Packing"
    vectors: dict[str, Host]


def unpacked(pytree: Tree) -> Tree:
    """Return a pytree that may be packed."""
    return pytree.packing.unpack(pytree.vectors) if isinstance(pytree, PackedTree) else pytree


@dataclass(frozen=True)
class Packing:
    """Packs a pytree into one flat vector for each dtype.

    `leaves` has the shape and dtype of each leaf, in the order of `tree.leaves`; `pytree` has the
    numbers of the leaves in their positions.
    """

    leaves: tuple[tuple[tuple[int, ...], str], ...]
    structure: str  # a text by which pytrees are compared
    pytree: Tree = field(compare=False)

    @classmethod
    def of(cls, pytree: Tree, array: type = np.ndarray) -> "Packing":
        """Return the packing of a pytree of arrays of one type; TypeError for anything else."""
        arrays = tree.leaves(pytree)
        for i, leaf in enumerate(arrays):
            if isinstance(leaf, array) and type(leaf) is not array:
                raise TypeError  # a subclass may have operators of its own
            if not isinstance(leaf, array | np.generic):
                raise TypeError(
                    f"the state holds {leaf!r} at {tree.paths(pytree)[i]}: a 0-d array would be "
                    "compiled"
                )
        number = iter(range(len(arrays)))
        form = tree.map(lambda leaf: next(number), pytree)
        leaves = tuple([(leaf.shape, _name(leaf.dtype)) for leaf in arrays])
        return cls(leaves, _structure(pytree), form)

    @functools.cached_property
    def kinds(self) -> tuple[str, ...]:
        """The names of the dtypes: there is a vector for each."""
        return tuple(dict.fromkeys(kind for _, kind in self.leaves))

    def pack(self, pytree: Tree) -> dict[str, Host]:
        """Return the vectors by the name of their dtype; copies."""
        if isinstance(pytree, PackedTree):
            return {kind: vector.copy() for kind, vector in pytree.vectors.items()}
        leaves = self._checked(pytree)
        if not leaves:
            return {}
        xp = namespace(*leaves)
        return {
            kind: xp.concat([xp.reshape(a, (-1,)) for a in leaves if _name(a.dtype) == kind])
            for kind in self.kinds
        }

    def _checked(self, pytree: Tree) -> list[Host]:
        leaves = tree.leaves(pytree)
        given = tuple([(tuple(a.shape), _name(a.dtype)) for a in leaves])
        if given != self.leaves or _structure(pytree) != self.structure:
            raise ValueError(
                f"a step changed the structure of its state: {self.leaves} became {given}"
            )
        return leaves

    def fill(self, vectors: dict[str, Host], pytree: Tree) -> None:
        """Write a pytree into the vectors."""
        if isinstance(pytree, PackedTree):
            for kind, vector in pytree.vectors.items():
                vectors[kind][...] = vector
            return
        begin = dict.fromkeys(vectors, 0)
        for leaf, (shape, kind) in zip(self._checked(pytree), self.leaves, strict=True):
            start, begin[kind] = begin[kind], begin[kind] + prod(shape)
            vectors[kind][start : begin[kind]] = leaf.reshape(-1)

    def unpack(self, vectors: dict[str, Host]) -> Tree:
        """Return the pytree: views of the vectors."""
        begin = dict.fromkeys(vectors, 0)
        xp: Namespace = namespace(*vectors.values()) if vectors else None
        arrays = []
        for shape, kind in self.leaves:
            start = begin[kind]
            begin[kind] = start + prod(shape)
            arrays.append(xp.reshape(vectors[kind][start : begin[kind]], shape))
        return _fill_in(self.pytree, arrays)


@functools.cache
def _name(dtype: DType) -> str:
    return str(dtype.name)  # NumPy takes longer to find it than to copy a small array


def _fill_in(pytree: Tree, arrays: list[Host]) -> Tree:
    """Return the pytree with arrays in place of their numbers: `tree.map` without checks."""
    if isinstance(pytree, int):
        return arrays[pytree]
    if isinstance(pytree, dict):
        return {k: _fill_in(v, arrays) for k, v in pytree.items()}
    if pytree is None:
        return None
    parts = [_fill_in(v, arrays) for v in pytree]
    return type(pytree)(*parts) if hasattr(pytree, "_fields") else type(pytree)(parts)


def _structure(pytree: Tree) -> str:
    """Return the containers of a pytree as a text."""
    if isinstance(pytree, dict):
        return "{" + ", ".join(f"{k!r}: {_structure(pytree[k])}" for k in sorted(pytree)) + "}"
    if isinstance(pytree, tuple | list):
        return f"{type(pytree).__qualname__}({', '.join(map(_structure, pytree))})"
    return "" if pytree is None else "*"
