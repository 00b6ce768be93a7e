"""Packing: a pytree as one flat vector for each dtype, or for each name.

Compiled steps are bound to such vectors. Eager steps on devices keep parameters and moments in
them (`VectorModel`): an optimizer's arithmetic is then one operation for all parameters.
"""

import functools
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from .._typing import Array, Cache, DType, Host, Model, Namespace, Params, Tree
from ..backend import namespace
from ..layers import dparams_of

__all__ = [
    "UNPACKED",
    "PackedTree",
    "Packing",
    "VectorModel",
    "VectorPacking",
    "unpacked",
    "vector_packing",
]


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
    """A pytree as vectors of its own; `unpacked` returns the pytree."""

    packing: "Packing | VectorPacking"
    vectors: Any  # what `packing` packs into


def unpacked(pytree: Tree) -> Tree:
    """Return a pytree that may be packed."""
    return pytree.packing.unpack(pytree.vectors) if isinstance(pytree, PackedTree) else pytree


@dataclass(frozen=True)
class Packing:
    """Packs a pytree into one flat vector for each dtype.

    `leaves` has the shape and dtype of each leaf, in the order of `tree.leaves`; `pytree` has the
    numbers of the leaves in their positions. `names` has the name of each leaf's vector: that of
    its dtype, unless other names are given to `of`.
    """

    leaves: tuple[tuple[tuple[int, ...], str], ...]
    structure: str  # a text by which pytrees are compared
    pytree: Tree = field(compare=False)
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, pytree: Tree, array: type = np.ndarray, names: tuple[str, ...] | None = None
    ) -> "Packing":
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
        leaves = tuple([(tuple(leaf.shape), _name(leaf.dtype)) for leaf in arrays])
        names = tuple([kind for _, kind in leaves]) if names is None else names
        return cls(leaves, _structure(pytree), form, names)

    @functools.cached_property
    def kinds(self) -> tuple[str, ...]:
        """The names of the vectors."""
        return tuple(dict.fromkeys(self.names))

    def pack(self, pytree: Tree) -> dict[str, Any]:
        """Return the vectors by the name of their dtype; copies."""
        if isinstance(pytree, PackedTree):
            if pytree.packing == self:
                return {kind: vector.copy() for kind, vector in pytree.vectors.items()}
            pytree = unpacked(pytree)
        leaves = self._checked(pytree)
        if not leaves:
            return {}
        xp = namespace(*leaves)
        parts: dict[str, list[Array]] = {kind: [] for kind in self.kinds}
        for leaf, name in zip(leaves, self.names, strict=True):
            parts[name].append(xp.reshape(leaf, (-1,)))
        return {kind: xp.concat(arrays) for kind, arrays in parts.items()}

    def fits(self, pytree: Tree) -> bool:
        """Return whether a pytree has this structure, these shapes and these dtypes."""
        if _structure(pytree) != self.structure:
            return False
        return tuple([_kind(leaf) for leaf in tree.leaves(pytree)]) == self.leaves

    def _checked(self, pytree: Tree) -> list[Any]:
        leaves = tree.leaves(pytree)
        given = tuple([_kind(leaf) for leaf in leaves])
        if given != self.leaves or _structure(pytree) != self.structure:
            raise ValueError(
                f"a step changed the structure of its state: {self.leaves} became {given}"
            )
        return leaves

    def fill(self, vectors: dict[str, Host], pytree: Tree) -> None:
        """Write a pytree into the vectors."""
        if isinstance(pytree, PackedTree):
            if pytree.packing == self:
                for kind, vector in pytree.vectors.items():
                    vectors[kind][...] = vector
                return
            pytree = unpacked(pytree)
        begin = dict.fromkeys(vectors, 0)
        leaves = self._checked(pytree)
        for leaf, (shape, _), kind in zip(leaves, self.leaves, self.names, strict=True):
            start, begin[kind] = begin[kind], begin[kind] + prod(shape)
            vectors[kind][start : begin[kind]] = leaf.reshape(-1)

    def unpack(self, vectors: dict[str, Any]) -> Tree:
        """Return the pytree: views of the vectors."""
        begin = dict.fromkeys(vectors, 0)
        xp: Namespace = namespace(*vectors.values()) if vectors else None
        arrays = []
        for (shape, _), kind in zip(self.leaves, self.names, strict=True):
            start = begin[kind]
            begin[kind] = start + prod(shape)
            arrays.append(xp.reshape(vectors[kind][start : begin[kind]], shape))
        return _fill_in(self.pytree, arrays)


def _kind(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Return the shape and the name of the dtype."""
    return tuple(leaf.shape), _name(leaf.dtype)


@functools.cache
def _name(dtype: DType) -> str:
    # NumPy takes longer to find it than to copy a small array; torch's dtypes have no name
    return str(dtype.name if hasattr(dtype, "name") else dtype)


def _fill_in(pytree: Tree, arrays: list[Any]) -> Tree:
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


# Parameters as vectors, for eager steps ----------------------------------------------------------


class Vectors(NamedTuple):
    """The vectors of parameters, by name: a pytree like the parameters of a single layer."""

    layer: dict[str, Array]


@dataclass(frozen=True)
class VectorPacking:
    """Packs parameters, and what an optimizer's state has like them, into `Vectors`.

    `packing` is that of the parameters. The rest of a state, as the number of steps, stays as it
    is. Nothing is written into the vectors, so that neither they nor the pytrees, which are views
    of them, need to be copied.
    """

    packing: Packing

    def pack(self, pytree: Tree) -> Tree:
        """Return a pytree with `Vectors` in place of each part that is like the parameters."""
        if isinstance(pytree, PackedTree):
            return pytree.vectors if pytree.packing == self else self.pack(unpacked(pytree))
        if self.packing.fits(pytree):
            return Vectors(self.packing.pack(pytree))
        return _map_parts(self.pack, pytree)

    def unpack(self, pytree: Tree) -> Tree:
        """Return the pytree: its arrays are views of the vectors."""
        if isinstance(pytree, Vectors):
            return self.packing.unpack(pytree.layer)
        return _map_parts(self.unpack, pytree)


def _map_parts(function: Any, pytree: Tree) -> Tree:
    """Return a container with the function's results for its parts; a leaf as it is."""
    if isinstance(pytree, dict):
        return {k: function(v) for k, v in pytree.items()}
    if not isinstance(pytree, tuple | list):
        return pytree
    parts = [function(v) for v in pytree]
    return type(pytree)(*parts) if hasattr(pytree, "_fields") else type(pytree)(parts)


def vector_packing(params: Params, by_name: bool) -> VectorPacking | None:
    """Return how parameters are packed into one vector, or into one for each name.

    The name of a parameter is its key in the dict that holds it. None where nothing is gained, with
    fewer than two parameters, or where their dtypes differ.
    """
    leaves = tree.leaves(params)
    if len(leaves) < 2 or len({_name(leaf.dtype) for leaf in leaves}) > 1:
        return None
    names = tuple(_names(params)) if by_name else ("all",) * len(leaves)
    try:
        return VectorPacking(Packing.of(params, type(leaves[0]), names))
    except TypeError:  # arrays of several classes
        return None


def _names(pytree: Tree, name: str = "") -> list[str]:
    """Return the name of each leaf; "" of those in no dict."""
    if isinstance(pytree, dict):
        return [n for key in sorted(pytree) for n in _names(pytree[key], str(key))]
    if isinstance(pytree, tuple | list):
        return [n for part in pytree for n in _names(part)]
    return [] if pytree is None else [name]


@dataclass(frozen=True)
class VectorModel:
    """A model whose parameters are `Vectors`; those of its layers are views of them."""

    model: Model
    packing: VectorPacking

    def __repr__(self) -> str:
        return repr(self.model)

    def forward(self, params: Params, x: Array, key: Any = None) -> tuple[Array, Cache]:
        """Return y and what `dparams` needs."""
        views = self.packing.unpack(params)
        y, cache = self.model.forward(views, x, key)
        return y, (views, cache)

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """Return dparams and dx."""
        views, cache = cache
        dparams, dx = self.model.backward(views, cache, dy)
        return self._packed(dparams), dx

    def dparams(self, params: Params, cache: Cache, dy: Array) -> Params:
        """Return dparams: they are copied into the vectors once."""
        views, cache = cache
        return self._packed(dparams_of(self.model, views, cache, dy))

    def _packed(self, dparams: Params) -> Params:
        try:
            return Vectors(self.packing.packing.pack(dparams))
        except ValueError as error:
            error.add_note(f"these are gradients that the backward of {self.model} returned")
            raise
