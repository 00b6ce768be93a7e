"""Tracer: call a function with arrays that have shape and dtype only, and record its operations.

A `TracedArray` stands for a NumPy array (shapes, dtypes and promotion are NumPy's); each operation
on it becomes a node of the program. What needs a value (``float(x)``, ``if x > 0``), or is not one
of the standard's functions below, cannot be traced: the function then runs eagerly.
"""

import functools
import importlib.util
import operator
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from .. import _numpy
from ..tree import leaves
from .ir import (
    CALLED,
    ELEMENTWISE,
    REDUCTIONS,
    Node,
    Program,
    Shape,
    call,
    frozen,
    same_bits,
)

__all__ = ["Untraceable", "line_of_error", "trace"]


class Untraceable(TypeError):  # noqa: N818 (it is caught, and becomes a warning)
    """An operation cannot be traced; the message names it, `where` its line if it is known."""

    where = ""


class _NoAttributeError(Untraceable, AttributeError):
    """An attribute of NumPy arrays that the standard does not have."""


_ARRAYS = (np.ndarray, np.generic)


class Tracer:
    """Records the operations of one trace; in `lines` the user's line of each, by the node's id."""

    def __init__(self, lines: dict[int, str] | None = None) -> None:
        self.lines = lines
        self.inputs: list[Node] = []
        self.nodes: list[Node] = []
        self.constants: dict[int, tuple[Node, Any]] = {}  # by id; the array is kept alive
        self.shared: set[int] = set()  # nodes that share memory with others, by id
        self.problem = ""  # the first operation that cannot be traced, even if fn caught the error
        self.where = ""
        self.closed = False  # the trace is over
        self.errors = np.geterr()  # a replay has one floating-point error state

    def add(self, node: Node) -> "TracedArray":
        """Record a node and return its result."""
        if self.closed:
            self.refuse("")
        if np.geterr() != self.errors:
            self.refuse("np.errstate inside of the function")
        return self.view(node)

    def view(self, node: Node) -> "TracedArray":
        """Record a node that computes nothing, and return its result."""
        if self.closed:
            self.refuse("")
        self.nodes.append(node)
        if self.lines is not None:
            self.lines[id(node)] = _line_of(traceback.walk_stack(sys._getframe(1)))
        return TracedArray(self, node)

    def input(self, shape: Shape, dtype: Any) -> "TracedArray":
        """Return an argument."""
        node = Node("input", shape=shape, dtype=dtype, value=len(self.inputs))
        self.inputs.append(node)
        self.shared.add(id(node))
        return self.view(node)

    def constant(self, array: Any) -> Node:
        """Return the node of an array that is no argument, with its values of now."""
        known = self.constants.get(id(array))
        if known is not None and same_bits(known[0].value, np.asarray(array)):
            return known[0]  # unchanged since: an array made inside may change
        host = np.array(array)  # a copy
        if host.dtype.kind not in "biufc" or not host.dtype.isnative:
            self.refuse(f"an array of dtype {host.dtype}")
        node = Node("constant", shape=host.shape, dtype=host.dtype, value=host)
        self.constants[id(array)] = node, array
        self.shared.add(id(node))
        self.nodes.append(node)
        return node

    def operand(self, x: Any) -> Any:
        """Return an operand as a node, or as the Python number it is."""
        if type(x) is TracedArray:
            if x._tracer is not self:
                self.refuse("an array of another trace")
            return x._node
        if type(x) in (bool, int, float, complex):
            return x
        if isinstance(x, _ARRAYS):
            if type(x) is not np.ndarray and not isinstance(x, np.generic | np.memmap):
                self.refuse(f"an array of type {type(x).__name__}")
            return self.constant(x)
        if isinstance(x, bool | int | float):  # subclasses: enumerations and the like
            return x.real if isinstance(x, int) else float(x)
        return self.refuse(f"an operand of type {type(x).__name__}")

    def refuse(self, what: str, kind: type[Untraceable] = Untraceable) -> NoReturn:
        """Raise Untraceable, and remember the first reason."""
        if self.closed:
            what = "an array of an earlier trace, which was kept: the function is not pure, and"
        if not self.problem:
            self.problem, self.where = what, _line_of(traceback.walk_stack(sys._getframe(1)))
        raise kind(f"{what} cannot be compiled")


class TracedArray:
    """An array of which only shape and dtype are known."""

    __slots__ = ("_node", "_tracer")
    __portnet_trace__ = True
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tracer: Tracer, node: Node) -> None:
        self._tracer = tracer
        self._node = node

    shape = property(lambda self: self._node.shape)
    dtype = property(lambda self: self._node.dtype)
    ndim = property(lambda self: len(self._node.shape))
    size = property(lambda self: self._node.size)
    nbytes = property(lambda self: self._node.nbytes)
    device = property(lambda self: "cpu")
    T = property(lambda self: _permute(self._tracer, self, tuple(range(self.ndim))[::-1]))
    mT = property(lambda self: _matrix_transpose(self._tracer, self))  # noqa: N815 (the standard's name)
    __class__ = property(lambda self: np.ndarray)  # for isinstance

    def __repr__(self) -> str:
        return f"TracedArray({self.dtype}, shape {self.shape})"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return NAMESPACE

    def to_device(self, device: Any, /, *, stream: Any = None) -> "TracedArray":
        """Return the array: there is one device."""
        if device != "cpu":
            self._tracer.refuse(f"a move to the device {device!r}")
        return self

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return int(self.shape[0])

    def __iter__(self) -> Iterator["TracedArray"]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> "TracedArray":
        return _getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._tracer.refuse("item assignment, x[key] = value,")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy's functions, np.exp(x), are the standard's of the same name."""
        return _numpys(self._tracer, ufunc.__name__, method, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """As above, for those that are no ufuncs: np.sum(x, axis=0)."""
        return _numpys(self._tracer, function.__name__, "__call__", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:  # x.sum(axis=0), as NumPy's arrays have it
            return functools.partial(_METHODS[name], self)
        if hasattr(np.ndarray, name) and not name.startswith("__"):
            self._tracer.refuse(f"x.{name}, which is not of the standard,", _NoAttributeError)
        raise AttributeError(f"'Traced' object has no attribute {name!r}")


def _looks(name: str, text: str) -> None:
    def method(self: TracedArray, *args: Any, **kwargs: Any) -> NoReturn:
        self._tracer.refuse(text)

    method.__name__ = name
    setattr(TracedArray, name, method)


for _name, _text in {
    "__bool__": "the truth of an array, as in `if x > 0`,",
    "__float__": "the value of an array, as in float(x),",
    "__int__": "the value of an array, as in int(x),",
    "__complex__": "the value of an array, as in complex(x),",
    "__index__": "an array as an index",
    "__array__": "the values of an array, as in np.asarray(x),",
    "__dlpack__": "the values of an array",
    "__contains__": "the values of an array, as in `2 in x`,",
    "__copy__": "copy.copy(x)",
    "__deepcopy__": "copy.deepcopy(x)",
    "__reduce_ex__": "an array that is pickled",
    "__format__": "the text of an array",
}.items():
    _looks(_name, _text)


# Elementwise ------------------------------------------------------------------------------------


def _tracer(values: Iterable[Any]) -> Tracer | None:
    """Return the trace of the first traced array among values, which may be in tuples or lists."""
    for a in values:
        if type(a) is TracedArray:
            return a._tracer
        found = _tracer(a) if isinstance(a, (tuple, list)) else None
        if found is not None:
            return found
    return None


def _or_numpys(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of arrays: this one of a trace and its arrays, NumPy's for all others."""

    def either(*args: Any, **kwargs: Any) -> Any:
        tracer = _tracer(args) or _tracer(kwargs.values())
        if tracer is None:
            return getattr(_numpy, name)(*args, **kwargs)
        if args and type(args[0]) is not TracedArray and isinstance(args[0], _ARRAYS):
            args = TracedArray(tracer, tracer.operand(args[0])), *args[1:]
        return function(tracer, *args, **kwargs)

    return either


@functools.lru_cache(maxsize=4096)
def _dtype(op: str, kinds: tuple[Any, ...], attrs: tuple[Any, ...] = ()) -> Any:
    """Return the dtype of a result by doing the operation on arrays of one element."""
    node = Node(op, attrs=attrs)
    given = [np.ones(1, k) if isinstance(k, np.dtype) else k[1] for k in kinds]
    with np.errstate(all="ignore"):
        return np.asarray(call(_numpy, node, given)).dtype


def _kinds(operands: list[Any]) -> tuple[Any, ...]:
    return tuple([o.dtype if type(o) is Node else (type(o), o) for o in operands])


def _elementwise(op: str, tracer: Tracer, *args: Any, **kwargs: Any) -> Any:
    if op == "clip":  # the bounds may be named, and left out
        x, low, high = (*args, None, None)[:3]
        args = (x, kwargs.pop("min", low), kwargs.pop("max", high))
    if kwargs:
        tracer.refuse(f"{op} with {', '.join(kwargs)}")
    operands = [a if a is None else tracer.operand(a) for a in args]
    if op == "where" and len(operands) != 3:
        tracer.refuse("where with one argument")
    if op == "where" and not (isinstance(operands[0], Node) and operands[0].dtype.kind == "b"):
        tracer.refuse("where with a condition that is no boolean array")
    shape: Shape = ()
    for o in operands:  # NumPy's function is slow, and most operands have one shape
        if type(o) is Node and o.shape != shape and o.shape:
            shape = np.broadcast_shapes(shape, o.shape) if shape else o.shape
    dtype = _dtype(op, _kinds(operands))
    result = tracer.add(Node(op, tuple(operands), (), shape, dtype))
    if op in ("real", "imag", "conj"):  # which may be the array itself
        tracer.shared |= {id(o) for o in (*operands, result._node)}
    return result


def _power(tracer: Tracer, x: Any, other: Any) -> Any:
    """x ** other, with the short cuts that NumPy's operator takes, and its function does not."""
    if type(other) in (int, float) and x.dtype.kind in "fc" and x.ndim:
        short = {2: "square", 0.5: "sqrt", -1: "reciprocal", 1: "positive"}
        if other in short:
            return _elementwise(short[other], tracer, x)
    if type(other) is int and other == 2 and x.dtype.kind in "iu" and x.ndim:
        return _elementwise("square", tracer, x)
    return _elementwise("pow", tracer, x, other)


def _astype(tracer: Tracer, x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    dtype = np.dtype(dtype)
    if dtype.kind not in "biufc":
        tracer.refuse(f"astype to {dtype}")
    if dtype == x.dtype:
        if not copy:
            return x
        if dtype.kind == "b":
            return _elementwise("logical_or", tracer, x, False)
        return tracer.add(Node("positive", (x._node,), (), x.shape, dtype))
    return tracer.add(Node("astype", (x._node,), (("dtype", dtype.name),), x.shape, dtype))


def _operator(name: str, function: Callable[..., Any]) -> None:
    """Give arrays of a trace an operator of two operands: x + y, y + x and x += y."""

    def forward(self: TracedArray, other: Any) -> Any:
        return function(self._tracer, self, other)

    def backward(self: TracedArray, other: Any) -> Any:
        return function(self._tracer, other, self)

    def inplace(self: TracedArray, other: Any) -> Any:
        return _in_place(self, function(self._tracer, self, other))

    setattr(TracedArray, f"__{name}__", forward)
    setattr(TracedArray, f"__r{name}__", backward)
    setattr(TracedArray, f"__i{name}__", inplace)


def _in_place(x: TracedArray, after: TracedArray) -> TracedArray:
    """x += y: the same name then stands for a new node, if nothing else shares its memory."""
    tracer = x._tracer
    if id(x._node) in tracer.shared:
        tracer.refuse("an operator in place (+=) on an argument, or on what shares memory,")
    if after.shape != x.shape or not np.can_cast(after.dtype, x.dtype, "same_kind"):
        tracer.refuse("an operator in place (+=) that changes shape or kind")
    x._node = _astype(tracer, after, x.dtype, copy=False)._node
    return x


for _name, _op in {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}.items():
    _operator(_name, functools.partial(_elementwise, _op))
_operator("pow", _power)
for _name, _op in {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}.items():
    setattr(
        TracedArray,
        f"__{_name}__",
        lambda self, other, op=_op: _elementwise(op, self._tracer, self, other),
    )
for _name, _op in {
    "neg": "negative",
    "pos": "positive",
    "abs": "abs",
    "invert": "bitwise_invert",
}.items():
    setattr(TracedArray, f"__{_name}__", lambda self, op=_op: _elementwise(op, self._tracer, self))


# Reductions and products ------------------------------------------------------------------------


def _axes(tracer: Tracer, axis: Any, ndim: int) -> tuple[int, ...]:
    """Return axes as numbers from 0 up; None is all of them."""
    try:
        return tuple(range(ndim)) if axis is None else normalize_axis_tuple(axis, ndim)
    except TypeError:
        tracer.refuse(f"axis={axis!r}")


def _reduction(
    op: str, tracer: Tracer, x: Any, /, *, axis: Any = None, keepdims: bool = False, **more: Any
) -> Any:
    dtype = more.pop("dtype", None)
    correction = more.pop("correction", 0) if op in ("var", "std") else 0
    if more:
        tracer.refuse(f"{op} with {', '.join(more)}")
    if dtype is not None:
        x = _astype(tracer, x, dtype, copy=False)
        if op not in ("sum", "prod") or np.dtype(dtype).kind == "b":
            tracer.refuse(f"{op} with dtype")
    axes = _axes(tracer, axis, x.ndim)
    if op in ("argmax", "argmin") and axis is not None and len(axes) != 1:
        tracer.refuse(f"{op} over several axes")
    if op in ("max", "min", "argmax", "argmin") and any(x.shape[a] == 0 for a in axes):
        raise ValueError(f"{op}: expected at least one element to reduce")
    if keepdims:
        shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    else:
        shape = tuple(n for a, n in enumerate(x.shape) if a not in axes)
    attrs: tuple[tuple[str, Any], ...] = (
        ("axis", axis if axis is None else axes[0] if len(axes) == 1 else axes),
        ("keepdims", bool(keepdims)),
    )
    if type(correction) not in (int, float):  # a number of NumPy's has no text of a literal
        correction = float(correction)
    if correction:
        attrs += (("correction", correction),)
    kind = _dtype(op, (x.dtype,))
    result = tracer.add(Node(op, (x._node,), attrs, shape, kind))
    return result if dtype is None else _astype(tracer, result, dtype, copy=False)


def _matmul(tracer: Tracer, a: Any, b: Any, /) -> Any:
    m, n = tracer.operand(a), tracer.operand(b)
    if not isinstance(m, Node) or not isinstance(n, Node) or not m.shape or not n.shape:
        raise ValueError("matmul: expected arrays with one axis or more")
    left = m.shape if len(m.shape) > 1 else (1, *m.shape)
    right = n.shape if len(n.shape) > 1 else (*n.shape, 1)
    if left[-1] != right[-2]:
        raise ValueError(f"matmul: shapes {m.shape} and {n.shape} do not fit")
    shape: Shape = np.broadcast_shapes(left[:-2], right[:-2])
    shape += () if len(m.shape) == 1 else (left[-2],)
    shape += () if len(n.shape) == 1 else (right[-1],)
    return tracer.add(Node("matmul", (m, n), (), shape, _dtype("matmul", (m.dtype, n.dtype))))


_operator("matmul", _matmul)


# Views: the same numbers in another shape -------------------------------------------------------


def _view(x: TracedArray, op: str, made: Shape, /, **attrs: Any) -> TracedArray:
    tracer, node = x._tracer, x._node
    view = Node(op, (node,), tuple(attrs.items()), made, node.dtype)
    tracer.shared.update((id(node), id(view)))
    return tracer.view(view)


def _stand_in(x: TracedArray) -> Any:
    """Return an array of NumPy's of the shape of x; its views have the shapes of the views of x."""
    return np.ndarray(x.shape, bool, b"\0", strides=(0,) * x.ndim)  # all elements are one byte


def _reshape(tracer: Tracer, x: Any, /, shape: Any, *, copy: bool | None = None) -> Any:
    made = _stand_in(x).reshape(shape).shape
    return _view(x, "reshape", made, shape=made)


def _permute(tracer: Tracer, x: Any, /, axes: Any) -> Any:
    order = _axes(tracer, tuple(axes), x.ndim)
    if len(order) != x.ndim:
        raise ValueError(f"axes {axes} don't match array of shape {x.shape}")
    return _view(x, "permute_dims", tuple(x.shape[a] for a in order), axes=order)


def _matrix_transpose(tracer: Tracer, x: Any, /) -> Any:
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: expected two axes or more, got shape {x.shape}")
    return _permute(tracer, x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _moveaxis(tracer: Tracer, x: Any, source: Any, destination: Any, /) -> Any:
    start, end = _axes(tracer, source, x.ndim), _axes(tracer, destination, x.ndim)
    order = [a for a in range(x.ndim) if a not in start]
    for to, a in sorted(zip(end, start, strict=True)):
        order.insert(to, a)
    return _permute(tracer, x, order)


def _expand_dims(tracer: Tracer, x: Any, /, *, axis: Any = 0) -> Any:
    return _reshape(tracer, x, np.expand_dims(_stand_in(x), axis).shape)


def _squeeze(tracer: Tracer, x: Any, /, axis: Any = None) -> Any:
    return _reshape(tracer, x, _stand_in(x).squeeze(axis).shape)


def _broadcast_to(tracer: Tracer, x: Any, /, shape: Any) -> Any:
    made = np.broadcast_to(_stand_in(x), shape).shape
    return x if made == x.shape else _view(x, "broadcast_to", made, shape=made)


def _broadcast_arrays(tracer: Tracer, *arrays: Any) -> list[Any]:
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return [NAMESPACE.broadcast_to(a, shape) for a in arrays]


def _flip(tracer: Tracer, x: Any, /, *, axis: Any = None) -> Any:
    axes = _axes(tracer, axis, x.ndim)
    back, whole = slice(None, None, -1), slice(None)
    return x[tuple(back if a in axes else whole for a in range(x.ndim))]


_AS_ARRAYS = (bool, np.bool, np.ndarray, list, tuple)  # what an index takes for an array


def _getitem(x: TracedArray, key: Any) -> TracedArray:
    keys = key if isinstance(key, tuple) else (key,)
    if any([isinstance(k, _AS_ARRAYS) for k in keys]):
        x._tracer.refuse("an array as an index, x[array] (take does it),")
    if Ellipsis not in keys:
        keys = (*keys, ...)
    made = _stand_in(x)[keys].shape  # or NumPy's error
    # Every axis gets its key
    at, axes = keys.index(Ellipsis), sum(k is not None for k in keys) - 1
    keys = (*keys[:at], *[slice(None)] * (x.ndim - axes), *keys[at + 1 :])
    left = iter(x.shape)
    full = tuple(None if k is None else _from_zero(k, next(left)) for k in keys)
    if made == x.shape and all(isinstance(k, slice) and k.step == 1 for k in full):
        return _view(x, "reshape", made, shape=made)  # the whole: x[:]
    return _view(x, "getitem", made, key=frozen(full))


def _from_zero(k: Any, n: int) -> Any:
    """Return an index of n elements as a number from 0 up, a slice with the ends of its range."""
    if not isinstance(k, slice):
        return operator.index(k) % n
    found = range(*k.indices(n))
    if not found:
        return slice(0, 0, 1)
    stop = found[-1] + (1 if found.step > 0 else -1)
    return slice(found.start, None if stop < 0 else stop, found.step)


# Arrays made of arrays --------------------------------------------------------------------------


def _concat(tracer: Tracer, arrays: Any, /, *, axis: int | None = 0) -> Any:
    parts = [TracedArray(tracer, tracer.operand(a)) for a in arrays]
    if axis is None:
        parts, axis = [_reshape(tracer, p, -1) for p in parts], 0
    (axis,) = _axes(tracer, axis, parts[0].ndim)
    shapes = {p.shape[:axis] + p.shape[axis + 1 :] for p in parts}
    if len(shapes) > 1 or len({p.ndim for p in parts}) > 1:
        raise ValueError(f"concat: shapes {[p.shape for p in parts]} do not fit")
    dtype = np.result_type(*(p.dtype for p in parts))
    parts = [_astype(tracer, p, dtype, copy=False) for p in parts]
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    nodes = tuple(p._node for p in parts)
    return tracer.add(Node("concat", nodes, (("axis", axis),), tuple(shape), dtype))


def _stack(tracer: Tracer, arrays: Any, /, *, axis: int = 0) -> Any:
    parts = [TracedArray(tracer, tracer.operand(a)) for a in arrays]
    if len({p.shape for p in parts}) > 1:
        raise ValueError("all input arrays must have the same shape")
    (axis,) = _axes(tracer, axis, parts[0].ndim + 1)
    return _concat(tracer, [_expand_dims(tracer, p, axis=axis) for p in parts], axis=axis)


def _unstack(tracer: Tracer, x: Any, /, *, axis: int = 0) -> Any:
    (axis,) = _axes(tracer, axis, x.ndim)
    whole = (slice(None),) * axis
    return tuple(x[(*whole, i, ...)] for i in range(x.shape[axis]))


def _take(tracer: Tracer, x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    a, i = x._node, tracer.operand(indices)
    if axis is None and len(a.shape) != 1:
        tracer.refuse("take without an axis")
    if not isinstance(i, Node) or i.dtype.kind not in "iu":
        tracer.refuse("take with indices that are no integer array")
    (axis,) = _axes(tracer, 0 if axis is None else axis, len(a.shape))
    if a.shape[axis] == 0 and i.size:
        raise IndexError("cannot do a non-empty take from an empty axis")
    shape = a.shape[:axis] + i.shape + a.shape[axis + 1 :]
    return tracer.add(Node("take", (a, i), (("axis", axis),), shape, a.dtype))


def _like(name: str) -> Callable[..., Any]:
    """zeros_like and the like: a constant, as the shape is known."""

    def function(_: Tracer, x: Any, /, *rest: Any, dtype: Any = None, device: Any = None) -> Any:
        maker = getattr(_numpy, name.removesuffix("_like"))
        return maker(x.shape, *rest, dtype=x.dtype if dtype is None else dtype)

    return function


def _asarray(x: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    if type(x) is not TracedArray:
        return _numpy.asarray(x, dtype=dtype, device=device, copy=copy)
    return _astype(x._tracer, x, x.dtype if dtype is None else dtype, copy=bool(copy))


def _about(name: str) -> Callable[..., Any]:
    """can_cast and the like, which ask about dtypes: those of arrays, too."""

    def function(*args: Any) -> Any:
        return getattr(_numpy, name)(*[a.dtype if type(a) is TracedArray else a for a in args])

    return function


class _Namespace(SimpleNamespace):
    """The standard's functions, on arrays of a trace; on others they are NumPy's."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(_numpy, name)  # an AttributeError where NumPy has none of the name
        if not callable(found) or isinstance(found, type):
            return found  # pi, float32

        def refuse(tracer: Tracer, *args: Any, **kwargs: Any) -> Any:
            tracer.refuse(f"the function {name}")

        return _or_numpys(name, refuse)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{op: functools.partial(_elementwise, op) for op in ELEMENTWISE | CALLED},
    **{op: functools.partial(_reduction, op) for op in REDUCTIONS},
    **{name: _like(name) for name in ("zeros_like", "ones_like", "full_like", "empty_like")},
    "astype": _astype,
    "broadcast_arrays": _broadcast_arrays,
    "broadcast_to": _broadcast_to,
    "concat": _concat,
    "expand_dims": _expand_dims,
    "flip": _flip,
    "matmul": _matmul,
    "matrix_transpose": _matrix_transpose,
    "moveaxis": _moveaxis,
    "permute_dims": _permute,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "stack": _stack,
    "take": _take,
    "unstack": _unstack,
}
NAMESPACE = _Namespace(
    __name__="portnet.compiler.trace",
    **{name: _or_numpys(name, function) for name, function in _FUNCTIONS.items()},
    **{name: _about(name) for name in ("can_cast", "finfo", "iinfo", "isdtype", "result_type")},
    asarray=_asarray,
)


# NumPy's names ----------------------------------------------------------------------------------
# A layer written for NumPy, with np.exp(x) and x.sum(axis=0), is traced as one that takes its
# functions from the standard, wherever the two mean the same.

_NAMES = {
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan": "atan",
    "arctan2": "atan2",
    "concatenate": "concat",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "true_divide": "divide",
}


_BEFORE_AXIS = dict.fromkeys((*REDUCTIONS, "squeeze", "expand_dims", "concat", "stack"), 1)
_BEFORE_AXIS["take"] = 2  # the number of arguments before the axis
_KEYWORDS = {
    **dict.fromkeys((*ELEMENTWISE, *CALLED, "matmul", "matrix_transpose"), frozenset[str]()),
    **dict.fromkeys(("zeros_like", "ones_like", "astype", "reshape", "broadcast_to"), frozenset()),
    **dict.fromkeys(_BEFORE_AXIS, frozenset(["axis"])),
    **dict.fromkeys(REDUCTIONS, frozenset(["axis", "keepdims"])),
}


def _numpys(tracer: Tracer, name: str, method: str, args: Any, kwargs: Any) -> Any:
    """Do what a function of NumPy's does, if the standard has it."""
    if method != "__call__":
        tracer.refuse(f"np.{name}.{method}")
    known = _NAMES.get(name, name)
    given = {k: v for k, v in kwargs.items() if v is not None or k == "axis"}
    if known == "transpose" and len(args) == 1 and not given:
        return args[0].T
    before = _BEFORE_AXIS.get(known, len(args))
    if len(args) == before + 1:
        args, given = args[:before], {"axis": args[before], **given}
    if known not in _KEYWORDS or len(args) > before or not given.keys() <= _KEYWORDS[known]:
        tracer.refuse(f"np.{name}")
    return _FUNCTIONS[known](tracer, *args, **given)


def _method_reshape(x: TracedArray, *shape: Any, **kwargs: Any) -> Any:
    if kwargs:
        x._tracer.refuse(f"x.reshape with {', '.join(kwargs)}")
    return _reshape(x._tracer, x, shape[0] if len(shape) == 1 else shape)


def _method_transpose(x: TracedArray, *axes: Any) -> Any:
    axes = axes[0] if len(axes) == 1 and axes[0] is not None else axes
    return _permute(x._tracer, x, axes) if axes and axes != (None,) else x.T


def _method_astype(x: TracedArray, dtype: Any, copy: bool = True) -> Any:
    return _astype(x._tracer, x, dtype, copy=copy)


def _method(op: str, x: TracedArray, *args: Any, **kwargs: Any) -> Any:
    return _numpys(x._tracer, op, "__call__", (x, *args), kwargs)


_METHODS: dict[str, Callable[..., Any]] = {
    **{
        op: functools.partial(_method, op)
        for op in (*sorted(REDUCTIONS), "clip", "round", "squeeze", "take", "conj")
    },
    "reshape": _method_reshape,
    "transpose": _method_transpose,
    "astype": _method_astype,
    "copy": lambda x: _astype(x._tracer, x, x.dtype),
    "ravel": lambda x: _reshape(x._tracer, x, -1),
    "flatten": lambda x: _astype(x._tracer, _reshape(x._tracer, x, -1), x.dtype),
}


# Tracing ----------------------------------------------------------------------------------------


def trace(
    fn: Callable[..., Any],
    kinds: list[tuple[Shape, Any]],
    rebuild: Callable[[list[Any]], Any],
    lines: dict[int, str] | None = None,
) -> Program:
    """Call fn with traced arrays of these shapes and dtypes, and return its operations.

    `rebuild` makes fn's arguments (args, kwargs) from the arrays. If `lines` is given, it gets the
    user's line of each operation, by the node's id. Raises Untraceable where an
    operation cannot be traced (`where` is its line), and what fn raises.
    """
    tracer = Tracer(lines)
    try:
        args, kwargs = rebuild([tracer.input(shape, dtype) for shape, dtype in kinds])
        results = fn(*args, **kwargs)
        ends = []
        for leaf in leaves(results):
            ours = type(leaf) is TracedArray or isinstance(leaf, np.ndarray | np.generic)
            ends.append(tracer.operand(leaf) if ours else leaf)
    except Exception as error:
        if not tracer.problem:
            raise
        raise _untraceable(tracer) from error
    finally:
        tracer.closed = True
    if tracer.problem:  # fn caught the error
        raise _untraceable(tracer)
    return Program(tracer.inputs, tracer.nodes, results, ends)


def _untraceable(tracer: Tracer) -> Untraceable:
    error = Untraceable(tracer.problem)
    error.where = tracer.where
    return error


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Return the folders of the libraries whose lines are not the user's."""
    return tuple(
        str(Path(importlib.util.find_spec(name).origin).parent)  # type: ignore[union-attr, arg-type]
        for name in ("numpy", "array_api_compat")
    )


def _line_of(lines: Iterable[tuple[Any, int]]) -> str:
    """Return "file:line, in f" of the first frame that belongs to the user, or to portnet."""
    for frame, line in lines:
        path = frame.f_code.co_filename
        if Path(path).parent != Path(__file__).parent and not path.startswith(_libraries()):
            return f"{path}:{line}, in {frame.f_code.co_qualname}"
    return "an unknown line"


def line_of_error(error: TracebackType | None) -> str:
    """Return "file:line, in f" of the innermost line of an error that belongs to the user."""
    return _line_of(reversed(list(traceback.walk_tb(error))))
