"""Views: where the elements of an array lie in memory, relative to the array it is a view of.

A view (reshape, transpose, slice, broadcast) has no elements of its own. Where they lie is answered
here, once: planning asks whether a view is a region without gaps, the layout adds the buffer, and
whoever writes code reads the layout.
"""

import functools
from typing import NamedTuple

from .ir import VIEWS, Node, Shape, unfrozen

__all__ = [
    "Strided",
    "Strides",
    "broadcast",
    "contiguous",
    "is_contiguous",
    "is_whole",
    "region",
    "reshaped",
    "root",
    "viewed",
    "within_root",
]

Strides = tuple[int, ...]


class Strided(NamedTuple):
    """The first byte of an array, and the bytes from one element to the next along each axis."""

    offset: int
    strides: Strides


def root(node: Node) -> Node:
    """Return the node of which a node is a view: itself, where it is none."""
    while node.op in VIEWS:
        node = node.inputs[0]
    return node


def within_root(node: Node) -> Strided | None:
    """Return where the elements of a node lie in its root, which has no gaps.

    None where a reshape of elements with gaps would need a copy.
    """
    if node.op not in VIEWS:
        return Strided(0, contiguous(node.shape, node.dtype.itemsize))
    inner = within_root(node.inputs[0])
    return None if inner is None else viewed(node, inner)


def viewed(node: Node, x: Strided) -> Strided | None:
    """Return where the elements of a view lie, from where those of its input x lie."""
    shape, (offset, strides) = node.inputs[0].shape, x
    if node.op == "permute_dims":
        return Strided(offset, tuple(strides[a] for a in node.attr("axes")))
    if node.op == "broadcast_to":
        return Strided(offset, broadcast(shape, strides, node.shape))
    if node.op == "reshape":
        return reshaped(x, shape, node.shape, node.dtype.itemsize)
    new: list[int] = []
    left = list(zip(shape, strides, strict=True))
    for key in unfrozen(node.attr("key")):
        if key is None:
            new.append(0)
            continue
        n, stride = left.pop(0)
        begin = key
        if isinstance(key, slice):
            begin, _, step = key.indices(n)
            new.append(stride * step)
        offset += begin * stride
    return Strided(offset, (*new, *(s for _, s in left)))


def reshaped(x: Strided, before: Shape, after: Shape, width: int) -> Strided | None:
    """Return where the elements lie in another shape; None where that needs a copy."""
    if is_contiguous(before, x.strides, width):
        return Strided(x.offset, contiguous(after, width))
    if [n for n in before if n != 1] != [n for n in after if n != 1]:
        return None
    kept = iter([s for n, s in zip(before, x.strides, strict=True) if n != 1])
    return Strided(x.offset, tuple(0 if n == 1 else next(kept) for n in after))


def region(node: Node) -> tuple[Node, int, int] | None:
    """Return (root, first element, elements) of a view that lies there without gaps, in order."""
    if node.op not in VIEWS:
        return node, 0, node.size
    found, width = within_root(node), node.dtype.itemsize
    if found is None or not is_contiguous(node.shape, found.strides, width):
        return None
    return root(node), found.offset // width, node.size


def is_whole(node: Node) -> bool:
    """Tell whether a node is its root, or another shape of all of it, in order."""
    found = region(node)
    return found is not None and found[1:] == (0, found[0].size)


@functools.lru_cache(maxsize=1024)
def contiguous(shape: Shape, width: int) -> Strides:
    """Return the strides of an array without gaps, row by row."""
    strides: list[int] = []
    for n in reversed(shape):
        strides.insert(0, width)
        width *= n
    return tuple(strides)


@functools.lru_cache(maxsize=1024)
def is_contiguous(shape: Shape, strides: Strides, width: int) -> bool:
    """Tell whether strides are those of an array without gaps, row by row."""
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n == 0:
            return True
        if n != 1 and s != width:
            return 0 in shape
        width *= n
    return True


def broadcast(shape: Shape, strides: Strides, to: Shape) -> Strides:
    """Return the strides of an array that is broadcast to a shape."""
    kept = [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    return (*[0] * (len(to) - len(shape)), *kept)
