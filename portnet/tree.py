"""Nests of arrays: tuples, lists and dicts of arrays, walked as one.

The parameters of a network are such a nest: ``({"W": W1, "b": b1}, (), {"W": W2, "b": b2})``.
Gradients, updates and the state of an optimizer have the same shape, so that "add every update to
its parameter" is one line: ``tree.map(operator.add, params, updates)``.

A container is a dict, a list, a tuple or a named tuple; None and empty containers hold nothing;
everything else is a leaf. Dicts are walked in the sorted order of their keys (as JAX does), so that
the order of the leaves does not depend on the order in which a dict was filled.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from array_api_compat import array_namespace

__all__ = ["leaves", "map", "paths", "ravel"]

Tree = Any  # an array, or a dict, list or tuple of trees
Array = Any  # an array of any library that follows the array API standard


def map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """fn(leaf, *leaves of rest) at every leaf, in a nest of the same shape as `tree`.

    Raises ValueError, with the path, where a nest of `rest` has another shape than `tree`. An error
    of `fn` itself goes through with a note that says at which leaf it happened.

    >>> map(lambda p, u: p + u, {"W": 1.0, "b": (2.0, None)}, {"W": 0.5, "b": (0.25, None)})
    {'W': 1.5, 'b': (2.25, None)}
    """
    return _map(fn, tree, rest, ())


def leaves(tree: Tree) -> list[Any]:
    """Return the leaves of a nest, in order.

    >>> leaves(({"b": 2, "W": 1}, (), [3, None]))
    [1, 2, 3]
    """
    found: list[Any] = []
    map(found.append, tree)
    return found


def paths(tree: Tree) -> list[str]:
    """Return the path to each leaf, in the order of `leaves`.

    >>> paths(({"b": 2, "W": 1}, (), [3, None]))
    ["[0]['W']", "[0]['b']", '[2][0]']
    """
    return [_text(path) for path in _paths(tree, ())]


def ravel(tree: Tree) -> tuple[Array, Callable[[Array], Tree]]:
    """Join all leaves into one vector (n,); also return the function that takes it apart again.

    The leaves must be arrays of one library, device and dtype. `unravel(vector)` raises ValueError
    unless the vector has shape (n,). Raises ValueError for a nest without arrays.
    """
    arrays = leaves(tree)
    if not arrays:
        raise ValueError("ravel: expected at least one array, got a nest without leaves")
    xp = array_namespace(*arrays)
    sizes = [prod(a.shape) for a in arrays]

    def unravel(vector: Array) -> Tree:
        if tuple(vector.shape) != (sum(sizes),):
            raise ValueError(f"unravel: expected shape ({sum(sizes)},), got {tuple(vector.shape)}")
        starts = iter([sum(sizes[:i]) for i in range(len(sizes))])

        def cut(a: Array) -> Array:
            start = next(starts)
            return xp.reshape(vector[start : start + prod(a.shape)], tuple(a.shape))

        return map(cut, tree)

    return xp.concat([xp.reshape(a, (-1,)) for a in arrays]), unravel


# How a nest is walked ---------------------------------------------------------------------------


def _map(fn: Callable[..., Any], tree: Tree, rest: tuple[Tree, ...], path: tuple[Any, ...]) -> Tree:
    keys = _keys(tree)
    if keys is None:
        try:
            return fn(tree, *rest)
        except Exception as error:
            if path:
                error.add_note(f"at leaf {_text(path)} of the nest")
            raise
    for other in rest:
        if _keys(other) != keys:
            raise ValueError(
                f"nests differ at {_text(path) or 'the top'}: "
                f"expected {_describe(tree)}, got {_describe(other)}"
            )
    parts = {k: _map(fn, tree[k], tuple(r[k] for r in rest), (*path, k)) for k in keys}
    if isinstance(tree, dict):
        return {k: parts[k] for k in tree}  # in the order the user wrote
    if tree is None:
        return None
    values = list(parts.values())
    return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)


def _keys(tree: Tree) -> list[Any] | None:
    """Return the keys of a container, or None for a leaf."""
    if isinstance(tree, dict):
        return sorted(tree)
    if isinstance(tree, tuple | list):
        return list(range(len(tree)))
    return [] if tree is None else None


def _paths(tree: Tree, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    keys = _keys(tree)
    if keys is None:
        return [path]
    return [p for k in keys for p in _paths(tree[k], (*path, k))]


def _text(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key!r}]" for key in path)


def _describe(tree: Tree) -> str:
    if isinstance(tree, dict):
        return f"a dict with keys {sorted(tree)}"
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of {len(tree)}"
    return "None" if tree is None else f"a leaf ({type(tree).__name__})"
