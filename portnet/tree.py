"""Pytrees: nested tuples, lists and dicts of arrays.

The parameters of a network are a pytree: ``({"W": W1, "b": b1}, (), {"W": W2, "b": b2})``.
Gradients, updates and the state of an optimizer have the same structure, so adding every update to
its parameter is one line: ``tree.map(operator.add, params, updates)``.

Containers are dicts, lists, tuples and named tuples; None is an empty container; everything else is
a leaf. The leaves of a dict are in the sorted order of its keys (as in JAX), whatever the order of
insertion.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from ._numpy import array_namespace
from ._typing import Array, Tree

__all__ = ["leaves", "map", "paths", "ravel"]


def map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Return fn(leaf, *leaves of rest) for every leaf, as a pytree of the structure of `tree`.

    The leaves are arrays of any shape, or anything else; `fn` may change their shapes.

    Raises ValueError, with the path, if a pytree of `rest` has another structure than `tree`.
    Errors of `fn` are raised with a note that gives the path of the leaf.

    Examples
    --------
    >>> map(lambda p, u: p + u, {"W": 1.0, "b": (2.0, None)}, {"W": 0.5, "b": (0.25, None)})
    {'W': 1.5, 'b': (2.25, None)}
    """
    try:
        return _map(fn, tree, *rest)
    except Exception as error:
        path = _text(getattr(error, "path_in_pytree", ()))
        if isinstance(error, _DifferError):
            raise ValueError(f"pytrees differ at {path or 'the top'}: {error}") from None
        if path:
            error.add_note(f"at leaf {path} of the pytree")
        raise


def leaves(tree: Tree) -> list[Any]:
    """Return the leaves of a pytree, in order.

    The leaves are arrays of any shape, or anything else.

    Examples
    --------
    >>> leaves(({"b": 2, "W": 1}, (), [3, None]))
    [1, 2, 3]
    """
    found: list[Any] = []
    map(found.append, tree)
    return found


def paths(tree: Tree) -> list[str]:
    """Return the path to each leaf, in the order of `leaves`.

    The leaves are arrays of any shape, or anything else.

    Examples
    --------
    >>> paths(({"b": 2, "W": 1}, (), [3, None]))
    ["[0]['W']", "[0]['b']", '[2][0]']
    """
    return [_text(path) for path in _paths(tree, ())]


def ravel(tree: Tree) -> tuple[Array, Callable[[Array], Tree]]:
    """Return all leaves as one vector (n,), and the function that restores the pytree from it.

    The leaves must be arrays of one library, device and dtype. `unravel(vector)` raises ValueError
    unless the vector has shape (n,). Raises ValueError for a pytree without arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet import tree
    >>> vector, unravel = tree.ravel({"W": np.ones((1, 2)), "b": np.zeros(1)})
    >>> vector
    array([1., 1., 0.])
    >>> unravel(2 * vector)
    {'W': array([[2., 2.]]), 'b': array([0.])}
    """
    arrays = leaves(tree)
    if not arrays:
        raise ValueError("ravel: expected at least one array, got a pytree without leaves")
    xp = array_namespace(*arrays)
    sizes = [prod(a.shape) for a in arrays]

    def unravel(vector: Array) -> Tree:
        if tuple(vector.shape) != (sum(sizes),):
            raise ValueError(f"unravel: expected shape ({sum(sizes)},), got {tuple(vector.shape)}")
        starts = iter([sum(sizes[:i]) for i in range(len(sizes))])

        def part(a: Array) -> Array:
            start = next(starts)
            p: Array = xp.reshape(vector[start : start + prod(a.shape)], tuple(a.shape))
            return p

        return map(part, tree)

    return xp.concat([xp.reshape(a, (-1,)) for a in arrays]), unravel


# Traversal --------------------------------------------------------------------------------------


class _DifferError(ValueError):
    """Two pytrees have different structures."""


def _map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    keys = _keys(tree)
    if keys is None:
        return fn(tree, *rest)
    for other in rest:
        if _keys(other) != keys:
            raise _DifferError(f"expected {_describe(tree)}, got {_describe(other)}")
    parts: list[Any] = []
    try:
        for k in keys:
            parts.append(_map(fn, tree[k], *[r[k] for r in rest]))  # noqa: PERF401 (see below)
    except Exception as error:  # the path is built here, so that it costs nothing without errors
        inner = getattr(error, "path_in_pytree", ())
        error.path_in_pytree = (keys[len(parts)], *inner)  # type: ignore[attr-defined]
        raise
    kind = type(tree)
    if kind is tuple:
        return tuple(parts)
    if isinstance(tree, dict):
        found = dict(zip(keys, parts, strict=True))
        return {k: found[k] for k in tree}  # in the order of insertion
    if tree is None:
        return None
    return kind(*parts) if hasattr(tree, "_fields") else kind(parts)


def _keys(tree: Tree) -> Sequence[Any] | None:
    """Return the keys of a container, or None for a leaf."""
    if isinstance(tree, tuple | list):
        return range(len(tree))
    if isinstance(tree, dict):
        try:
            return sorted(tree)
        except TypeError:
            raise TypeError(
                f"expected a dict whose keys can be sorted, such as text, got keys {[*tree]}"
            ) from None
    return range(0) if tree is None else None


def _paths(tree: Tree, path: tuple[object, ...]) -> list[tuple[object, ...]]:
    keys = _keys(tree)
    if keys is None:
        return [path]
    return [p for k in keys for p in _paths(tree[k], (*path, k))]


def _text(path: tuple[object, ...]) -> str:
    return "".join(f"[{key!r}]" for key in path)


def _describe(tree: Tree) -> str:
    if isinstance(tree, dict):
        return f"a dict with keys {sorted(tree)}"
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of {len(tree)}"
    return "None" if tree is None else f"a leaf ({type(tree).__name__})"
