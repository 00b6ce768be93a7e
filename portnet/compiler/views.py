"""Views: where the elements of an array lie in memory."""

from .ir import VIEWS, Node, unfrozen


def root(node: Node) -> Node:
    """Return the node of which a node is a view: itself, where it is none."""
    while node.op in VIEWS:
        node = node.inputs[0]
    return node


def region(node: Node) -> tuple[Node, int, int] | None:
    """Return (root, first element, elements) of a view that lies there without gaps, in order."""
    if node.op not in VIEWS:
        return node, 0, node.size
    inner = region(node.inputs[0])
    if inner is None or node.op in ("permute_dims", "broadcast_to"):
        return None
    base, start, _ = inner
    if node.op == "reshape":
        return base, start, node.size
    shape = node.inputs[0].shape
    keys = [k for k in unfrozen(node.attr("key")) if k is not None]
    stride, first, free = 1, 0, True  # free: all axes after this one are taken whole
    for n, key in reversed(list(zip(shape, keys, strict=True))):
        begin, count = (key, 1) if not isinstance(key, slice) else (key.start, _length(key, n))
        if isinstance(key, slice) and count > 1 and key.step != 1:
            return None
        if not free and count != 1:
            return None
        first += begin * stride
        free = free and count == n
        stride *= n
    return base, start + first, node.size


def _length(key: slice, n: int) -> int:
    return len(range(*key.indices(n)))


def _only_ones(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes differ in axes of one element only."""
    return [n for n in a if n != 1] == [n for n in b if n != 1]


def contiguous(shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Return the strides of an array without gaps, row by row."""
    strides: list[int] = []
    for n in reversed(shape):
        strides.insert(0, width)
        width *= n
    return tuple(strides)


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], width: int) -> bool:
    """Tell whether strides are those of an array without gaps, row by row."""
    wanted = contiguous(shape, width)
    return all(n == 1 or s == w for n, s, w in zip(shape, strides, wanted, strict=True))


def broadcast(
    shape: tuple[int, ...], strides: tuple[int, ...], to: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the strides of an array that is broadcast to a shape."""
    kept = [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    return (*[0] * (len(to) - len(shape)), *kept)


def whole(node: Node) -> bool:
    """Whether a node is its root, or another shape of all of it."""
    found = region(node)
    return found is not None and found[1:] == (0, found[0].size)
