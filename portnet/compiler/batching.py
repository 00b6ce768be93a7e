"""Batching: a traced function of one network, for several networks at once.

Some of the arguments have one more axis in front, the networks; the others are shared by all. Each
operation of the trace is done for all networks together, as if the function were called for each of
them: what a function may do is what can be traced, whatever it does with its axes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import EagerError
from .ir import CALLED, POINTWISE, REDUCTIONS, Node, Program, call, unfrozen
from .planner import traced

LONG, NARROW = 8, 32  # rows and columns from which, and up to which, a product with ones is faster

__all__ = ["interpret_batched", "traced_for_one"]


def traced_for_one(
    fn: Callable[..., Any],
    arrays: Sequence[Any],
    batched: Sequence[bool],
    rebuild: Any,
    pure: bool,
) -> Program:
    """Return the trace of fn for one network; raise EagerError where it cannot be traced.

    `arrays` are fn's arguments for all networks, `batched` says which have the axis of networks,
    and `rebuild` makes fn's arguments (args, kwargs) from them. What is known to be `pure` is
    traced once.
    """
    kinds = [
        (tuple(a.shape[1:] if many else a.shape), np.dtype(str(a.dtype).rpartition(".")[2]))
        for a, many in zip(arrays, batched, strict=True)
    ]
    return traced(fn, kinds, rebuild, pure)


def interpret_batched(
    program: Program,
    xp: Any,
    arrays: Sequence[Any],
    batched: Sequence[bool],
    count: int,
    constants: dict[Any, Any],
) -> list[Any]:
    """Do the operations for `count` networks with the functions of xp; return the leaves.

    Every leaf that is an array has the axis of networks in front. `constants` keeps the program's
    arrays in the library xp, by the ids of their nodes, and its integers.
    """
    at: dict[int, Any] = {id(n): a for n, a in zip(program.inputs, arrays, strict=True)}
    many = {id(n) for n, each in zip(program.inputs, batched, strict=True) if each}
    for node in program.nodes:
        if node.op == "constant":
            if id(node) not in constants:
                kind = _dtype(xp, node, arrays[0], constants)
                array = xp.asarray(node.value, dtype=kind, device=arrays[0].device)
                constants[id(node)] = array
            at[id(node)] = constants[id(node)]
        elif node.op != "input":
            given = [at[id(i)] if isinstance(i, Node) else i for i in node.inputs]
            each = [isinstance(i, Node) and id(i) in many for i in node.inputs]
            if node.op == "astype":
                at[id(node)] = xp.astype(given[0], _dtype(xp, node, arrays[0], constants))
                many |= {id(node)} if any(each) else set()
                continue
            if any(each):
                many.add(id(node))
                at[id(node)] = _apply(xp, node, given, each, count)
            else:
                at[id(node)] = call(xp, node, given)

    def leaf(result: Any) -> Any:
        if not isinstance(result, Node):
            return result
        array = at[id(result)]
        return array if id(result) in many else _for_each(xp, array, count)

    return [leaf(result) for result in program.leaves]


def _dtype(xp: Any, node: Node, like: Any, known: dict[Any, Any]) -> Any:
    """Return the dtype of a node; the trace's int64 is what a device has as its integers."""
    if node.dtype.name != "int64":
        return getattr(xp, node.dtype.name)
    if "int64" not in known:
        known["int64"] = xp.arange(1, device=like.device).dtype
    return known["int64"]


def _for_each(xp: Any, array: Any, count: int) -> Any:
    """Return an array that all networks share, once for each."""
    return xp.broadcast_to(array[None, ...], (count, *array.shape))


def _aligned(xp: Any, array: Any, ndim: int) -> Any:
    """Return an array of networks whose own axes are filled up with 1 to `ndim`, in front."""
    missing = ndim - (len(array.shape) - 1)
    if missing <= 0:
        return array
    return xp.reshape(array, (array.shape[0], *(1,) * missing, *array.shape[1:]))


def _apply(xp: Any, node: Node, given: list[Any], each: list[bool], count: int) -> Any:
    """Do one operation, some of whose operands have the axis of networks."""
    op, ndim = node.op, len(node.shape)
    if op in POINTWISE or op in CALLED or op == "pow":
        ready = [_aligned(xp, x, ndim) if many else x for x, many in zip(given, each, strict=True)]
        if ndim == 2 and node.dtype.kind == "f" and node.shape[0] >= LONG:
            ready = [
                _repeated(xp, x, node) if many else x for x, many in zip(ready, each, strict=True)
            ]
        return call(xp, node, ready)
    if op in REDUCTIONS:
        return _reduced(xp, node, given[0])
    if op == "matmul":
        return _product(xp, node, given, each, count)
    if op == "reshape":
        return xp.reshape(given[0], (count, *node.shape))
    if op == "permute_dims":
        return xp.permute_dims(given[0], (0, *(a + 1 for a in node.attr("axes"))))
    if op == "getitem":
        return _part(xp, given[0], (slice(None), *unfrozen(node.attr("key"))))
    if op == "broadcast_to":
        return xp.broadcast_to(_aligned(xp, given[0], ndim), (count, *node.shape))
    if op == "concat":
        parts = [
            x if many else _for_each(xp, x, count) for x, many in zip(given, each, strict=True)
        ]
        return xp.concat(parts, axis=node.attr("axis") + 1)
    if op == "take":
        return _taken(xp, node, given, each, count)
    raise EagerError(f"{op} for several networks")


def _part(xp: Any, x: Any, key: tuple[Any, ...]) -> Any:
    """Return x[key]; where it runs backwards, as torch cannot, the part is turned round."""
    shapes = iter(x.shape)
    lengths: list[Any] = [None if k is None else next(shapes) for k in key]
    back, forward = [], []
    axis = 0  # of the result
    for k, n in zip(key, lengths, strict=True):
        if isinstance(k, slice) and (k.step or 1) < 0:
            taken = range(*k.indices(n))
            k = slice(taken[-1], taken[0] + 1, -taken.step)
            back.append(axis)
        forward.append(k)
        axis += not isinstance(k, int)
    part = x[tuple(forward)]
    return xp.flip(part, axis=tuple(back)) if back else part


def _reduced(xp: Any, node: Node, x: Any) -> Any:
    attrs, own = dict(node.attrs), len(node.nodes[0].shape)
    axis = attrs.pop("axis")
    if node.op in ("argmax", "argmin") and axis is None and own != 1:
        flat = xp.reshape(x, (x.shape[0], -1))
        return xp.reshape(getattr(xp, node.op)(flat, axis=1), (x.shape[0], *node.shape))
    axes = tuple(range(own)) if axis is None else (axis,) if isinstance(axis, int) else axis
    if own == 0:  # a number
        x, axes = xp.reshape(x, (x.shape[0], 1)), (0,)
        attrs["keepdims"] = False
    if not axes:
        raise EagerError(f"{node.op} over no axes for several networks")
    if node.op == "sum" and axes == (0,) and own == 2 and _is_narrow(x, node.dtype):
        ones = xp.ones((1, x.shape[1]), dtype=x.dtype, device=x.device)
        return _shaped(xp, xp.matmul(ones, x), (x.shape[0], *node.shape))
    shifted = tuple(a + 1 for a in axes)
    return getattr(xp, node.op)(x, axis=shifted if len(shifted) > 1 else shifted[0], **attrs)


def _product(xp: Any, node: Node, given: list[Any], each: list[bool], count: int) -> Any:
    ready = []
    ndim = max(2, *(len(i.shape) for i in node.nodes))
    for k, (x, i, many) in enumerate(zip(given, node.nodes, each, strict=True)):
        if len(i.shape) == 1:  # a row on the left, a column on the right
            shape = (1, i.shape[0]) if k == 0 else (i.shape[0], 1)
            x = xp.reshape(x, (count, *shape) if many else shape)
        ready.append(_aligned(xp, x, ndim) if many else x)
    return _shaped(xp, xp.matmul(*ready), (count, *node.shape))


# NumPy goes over an array row by row where one operand repeats a row, or where rows are added up:
# with few columns most of its time is spent between them. A product with ones does the same work
# without that. (Only the order of the sums differs.)


def _is_narrow(x: Any, dtype: Any) -> bool:
    """Tell whether there are many rows of few columns."""
    if not isinstance(x, np.ndarray) or dtype.kind != "f":
        return False
    return bool(x.shape[1] >= LONG and x.shape[2] <= NARROW)


def _repeated(xp: Any, x: Any, node: Node) -> Any:
    """Return an array (networks, 1, columns) with its rows repeated, where that is faster."""
    if not isinstance(x, np.ndarray) or x.dtype != node.dtype or x.ndim != 3:
        return x
    if x.shape[1] != 1 or not 1 < x.shape[2] <= NARROW:
        return x
    return xp.matmul(xp.ones((node.shape[0], 1), dtype=x.dtype, device=x.device), x)


def _shaped(xp: Any, x: Any, shape: tuple[int, ...]) -> Any:
    return x if tuple(x.shape) == shape else xp.reshape(x, shape)


def _taken(xp: Any, node: Node, given: list[Any], each: list[bool], count: int) -> Any:
    (x, index), axis = given, node.attr("axis")
    if all(each):
        raise EagerError("take of each network's own array with its own numbers")
    if each[0]:
        return xp.take(x, index, axis=axis + 1)
    own = node.nodes[1].shape
    flat = xp.take(x, xp.reshape(index, (-1,)), axis=axis)
    apart = xp.reshape(flat, (*x.shape[:axis], count, *own, *x.shape[axis + 1 :]))
    order = (axis, *(a for a in range(len(apart.shape)) if a != axis))
    return xp.permute_dims(apart, order)
