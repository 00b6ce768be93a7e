"""Tracer: call a function with arrays that have shape and dtype only, and record its operations.

A `TracedArray` stands for a NumPy array (shapes, dtypes and promotion are NumPy's); each operation
on it becomes a node of the program. What needs a value (``float(x)``, ``if x > 0``), or is not one
of the standard's functions below, cannot be traced: the function then runs eagerly.
"""

import functools
import importlib.util
import math
import operator
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, NoReturn

import numpy as np

from ..tree import leaves
from .ir import (
    CALLED,
    ELEMENTWISE,
    REDUCTIONS,
    Node,
    Program,
    Shape,
    _numpy,
    call,
    frozen,
    same_bits,
)

__all__ = ["Untraceable", "line_of_error", "trace"]


class Untraceable(TypeError):  # noqa: N818 (it is caught, and becomes a warning)
    """An operation cannot be traced; the message names it."""


class _NoAttributeError(Untraceable, AttributeError):
    """An attribute of NumPy arrays that the standard does not have."""


class Tracer:
    """Records the operations of one trace."""

    def __init__(self) -> None:
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
        self.nodes.append(node)
        return TracedArray(self, node)

    def input(self, shape: Shape, dtype: Any) -> "TracedArray":
        """Return an argument."""
        node = Node("input", shape=shape, dtype=dtype, value=len(self.inputs))
        self.inputs.append(node)
        self.shared.add(id(node))
        return self.add(node)

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
        if isinstance(x, np.ndarray | np.generic):
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
            self.problem, self.where = what, line_of(sys._getframe(1))
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
    T = property(lambda self: _permute(self, tuple(range(self.ndim))[::-1]))
    mT = property(lambda self: _matrix_transpose(self))  # noqa: N815 (the standard's name)
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

    def __pow__(self, other: Any) -> Any:
        return _power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return _elementwise("pow", other, self)

    def __matmul__(self, other: Any) -> Any:
        return _matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _matmul(other, self)

    def __pos__(self) -> Any:
        return _elementwise("positive", self)

    def __abs__(self) -> Any:
        return _elementwise("abs", self)


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


def _tracer(*args: Any) -> Tracer | None:
    for a in args:
        if type(a) is TracedArray:
            return a._tracer
    return None


@functools.lru_cache(maxsize=4096)
def _dtype(op: str, kinds: tuple[Any, ...], attrs: tuple[Any, ...] = ()) -> Any:
    """Return the dtype of a result by doing the operation on arrays of one element."""
    node = Node(op, attrs=attrs)
    given = [np.ones(1, k) if isinstance(k, np.dtype) else k[1] for k in kinds]
    with np.errstate(all="ignore"):
        return np.asarray(call(_numpy(), node, given)).dtype


def _kinds(operands: list[Any]) -> tuple[Any, ...]:
    return tuple([o.dtype if type(o) is Node else (type(o), o) for o in operands])


def _elementwise(op: str, *args: Any, **kwargs: Any) -> Any:
    tracer = _tracer(*args, *kwargs.values())
    if tracer is None:
        return getattr(_numpy(), op)(*args, **kwargs)
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


def _power(x: TracedArray, other: Any) -> Any:
    """x ** other, with the short cuts that NumPy's operator takes, and its function does not."""
    if type(other) in (int, float) and x.dtype.kind in "fc" and x.ndim:
        short = {2: "square", 0.5: "sqrt", -1: "reciprocal", 1: "positive"}
        if other in short:
            return _elementwise(short[other], x)
    if type(other) is int and other == 2 and x.dtype.kind in "iu" and x.ndim:
        return _elementwise("square", x)
    return _elementwise("pow", x, other)


def _astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    tracer = _tracer(x)
    if tracer is None:
        return _numpy().astype(x, dtype, copy=copy)
    dtype = np.dtype(dtype)
    if dtype.kind not in "biufc":
        tracer.refuse(f"astype to {dtype}")
    if dtype == x.dtype:
        if not copy:
            return x
        if dtype.kind == "b":
            return _elementwise("logical_or", x, False)
        return tracer.add(Node("positive", (x._node,), (), x.shape, dtype))
    return tracer.add(Node("astype", (x._node,), (("dtype", dtype.name),), x.shape, dtype))


def _arithmetic(name: str, op: str) -> None:
    def forward(self: TracedArray, other: Any) -> Any:
        return _elementwise(op, self, other)

    def backward(self: TracedArray, other: Any) -> Any:
        return _elementwise(op, other, self)

    def inplace(self: TracedArray, other: Any) -> Any:
        return _in_place(self, op, other)

    setattr(TracedArray, f"__{name}__", forward)
    setattr(TracedArray, f"__r{name}__", backward)
    setattr(TracedArray, f"__i{name}__", inplace)


def _in_place(x: TracedArray, op: str, other: Any) -> TracedArray:
    """x += other: the same name then stands for a new node, if nothing else shares its memory."""
    tracer = x._tracer
    if id(x._node) in tracer.shared:
        tracer.refuse("an operator in place (+=) on an argument, or on what shares memory,")
    after = _power(x, other) if op == "pow" else _elementwise(op, x, other)
    if after.shape != x.shape or not np.can_cast(after.dtype, x.dtype, "same_kind"):
        tracer.refuse("an operator in place (+=) that changes shape or kind")
    x._node = _astype(after, x.dtype, copy=False)._node
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
    _arithmetic(_name, _op)
TracedArray.__ipow__ = lambda self, other: _in_place(self, "pow", other)  # type: ignore[attr-defined]
for _name, _op in {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}.items():
    setattr(TracedArray, f"__{_name}__", lambda self, other, op=_op: _elementwise(op, self, other))
for _name, _op in {"neg": "negative", "invert": "bitwise_invert"}.items():
    setattr(TracedArray, f"__{_name}__", lambda self, op=_op: _elementwise(op, self))


# Reductions and products ------------------------------------------------------------------------


def _axes(tracer: Tracer, axis: Any, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    try:
        given = [operator.index(a) for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    except Untraceable:
        raise
    except TypeError:
        tracer.refuse(f"axis={axis!r}")
    for a in given:
        if not -ndim <= a < ndim:
            raise np.exceptions.AxisError(a, ndim)
    found = tuple(a % ndim for a in given)
    if len(set(found)) < len(found):
        raise ValueError("duplicate value in 'axis'")
    return found


def _reduction(op: str, x: Any, /, *, axis: Any = None, keepdims: bool = False, **more: Any) -> Any:
    tracer = _tracer(x, axis, *more.values())
    if tracer is None:
        return getattr(_numpy(), op)(x, axis=axis, keepdims=keepdims, **more)
    dtype = more.pop("dtype", None)
    correction = more.pop("correction", 0) if op in ("var", "std") else 0
    if more:
        tracer.refuse(f"{op} with {', '.join(more)}")
    if type(x) is not TracedArray:
        x = TracedArray(tracer, tracer.operand(x))
    if dtype is not None:
        x = _astype(x, dtype, copy=False)
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
    if correction:
        attrs += (("correction", correction),)
    kind = _dtype(op, (x.dtype,))
    result = tracer.add(Node(op, (x._node,), attrs, shape, kind))
    return result if dtype is None else _astype(result, dtype, copy=False)


def _matmul(a: Any, b: Any, /) -> Any:
    tracer = _tracer(a, b)
    if tracer is None:
        return _numpy().matmul(a, b)
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


# Views: the same numbers in another shape -------------------------------------------------------


def _view(x: TracedArray, op: str, made: Shape, /, **attrs: Any) -> TracedArray:
    tracer, node = x._tracer, x._node
    view = Node(op, (node,), tuple(attrs.items()), tuple(int(n) for n in made), node.dtype)
    tracer.shared |= {id(node), id(view)}
    return tracer.add(view)


def _reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Any:
    if type(x) is not TracedArray:
        return _numpy().reshape(x, shape, copy=copy)
    try:
        wanted = tuple(operator.index(n) for n in shape)
    except Untraceable:
        raise
    except TypeError:
        wanted = (operator.index(shape),)  # NumPy takes a number, too
    known = math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known and x.size % known == 0:
        wanted = tuple(x.size // known if n == -1 else n for n in wanted)
    if -1 in wanted or math.prod(wanted) != x.size:
        raise ValueError(f"cannot reshape array of shape {x.shape} into shape {shape}")
    return _view(x, "reshape", wanted, shape=wanted)


def _permute(x: Any, /, axes: Any) -> Any:
    if type(x) is not TracedArray:
        return _numpy().permute_dims(x, axes)
    given = tuple(operator.index(a) for a in axes)
    if sorted(a % x.ndim if x.ndim else a for a in given) != list(range(x.ndim)):
        raise ValueError(f"axes {axes} don't match array of shape {x.shape}")
    order = tuple(a % x.ndim for a in given)
    return _view(x, "permute_dims", tuple(x.shape[a] for a in order), axes=order)


def _matrix_transpose(x: Any, /) -> Any:
    if type(x) is not TracedArray:
        return _numpy().matrix_transpose(x)
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: expected two axes or more, got shape {x.shape}")
    return _permute(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _moveaxis(x: Any, source: Any, destination: Any, /) -> Any:
    if type(x) is not TracedArray:
        return _numpy().moveaxis(x, source, destination)
    start, end = _axes(x._tracer, source, x.ndim), _axes(x._tracer, destination, x.ndim)
    order = [a for a in range(x.ndim) if a not in start]
    for to, a in sorted(zip(end, start, strict=True)):
        order.insert(to, a)
    return _permute(x, tuple(order))


def _expand_dims(x: Any, /, *, axis: Any = 0) -> Any:
    if type(x) is not TracedArray:
        return _numpy().expand_dims(x, axis=axis)
    count = len(axis) if isinstance(axis, tuple) else 1
    axes = _axes(x._tracer, axis, x.ndim + count)
    left = iter(x.shape)
    return _reshape(x, tuple(1 if a in axes else next(left) for a in range(x.ndim + count)))


def _squeeze(x: Any, /, axis: Any = None) -> Any:
    if type(x) is not TracedArray:
        return _numpy().squeeze(x, axis=axis)
    axes = _axes(x._tracer, axis, x.ndim)
    if axis is None:
        axes = tuple(a for a in axes if x.shape[a] == 1)
    if any(x.shape[a] != 1 for a in axes):
        raise ValueError("cannot select an axis to squeeze out which has size not equal to one")
    return _reshape(x, tuple(n for a, n in enumerate(x.shape) if a not in axes))


def _broadcast_to(x: Any, /, shape: Any) -> Any:
    if type(x) is not TracedArray:
        return _numpy().broadcast_to(x, shape)
    wanted = tuple(operator.index(n) for n in shape)
    if np.broadcast_shapes(x.shape, wanted) != wanted:
        raise ValueError(f"cannot broadcast an array of shape {x.shape} to {wanted}")
    return x if wanted == x.shape else _view(x, "broadcast_to", wanted, shape=wanted)


def _broadcast_arrays(*arrays: Any) -> list[Any]:
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return [_broadcast_to(a, shape) for a in arrays]


def _flip(x: Any, /, *, axis: Any = None) -> Any:
    if type(x) is not TracedArray:
        return _numpy().flip(x, axis=axis)
    axes = _axes(x._tracer, axis, x.ndim)
    back, whole = slice(None, None, -1), slice(None)
    return x[tuple(back if a in axes else whole for a in range(x.ndim))]


def _getitem(x: TracedArray, key: Any) -> TracedArray:
    tracer = x._tracer
    keys = key if isinstance(key, tuple) else (key,)
    plain: list[Any] = []
    for k in keys:
        if k is None or k is Ellipsis:
            plain.append(k)
        elif isinstance(k, slice):
            ends = [None if e is None else operator.index(e) for e in (k.start, k.stop, k.step)]
            plain.append(slice(*ends))
        elif isinstance(k, bool | np.bool | np.ndarray | TracedArray | list):
            tracer.refuse("an array as an index, x[array] (take does it),")
        else:
            try:
                plain.append(operator.index(k))
            except TypeError:
                tracer.refuse(f"the index {k!r}")
    axes = sum(k is not None and k is not Ellipsis for k in plain)
    if plain.count(Ellipsis) > 1 or axes > x.ndim:
        raise IndexError(f"too many indices for an array of shape {x.shape}: {key}")
    if Ellipsis not in plain:
        plain.append(Ellipsis)
    at = plain.index(Ellipsis)
    plain[at : at + 1] = [slice(None)] * (x.ndim - axes)
    # Every axis has its key now: integers from 0 up, slices as ranges
    shape: list[int] = []
    full: list[Any] = []
    left = iter(x.shape)
    for k in plain:
        if k is None:
            shape.append(1)
            full.append(None)
            continue
        n = next(left)
        if isinstance(k, slice):
            found = range(*k.indices(n))
            shape.append(len(found))
            if not found:
                full.append(slice(0, 0, 1))
                continue
            stop = found[-1] + (1 if found.step > 0 else -1)
            full.append(slice(found.start, None if stop < 0 else stop, found.step))
        else:
            if not -n <= k < n:
                raise IndexError(f"index {k} is out of bounds for an axis of size {n}")
            full.append(k % n)
    if all(isinstance(k, slice) for k in full) and tuple(shape) == x.shape:
        forward = all(k.step == 1 for k in full)
        if forward:
            return _view(x, "reshape", x.shape, shape=x.shape)  # the whole: x[:]
    return _view(x, "getitem", tuple(shape), key=frozen(tuple(full)))


# Arrays made of arrays --------------------------------------------------------------------------


def _concat(arrays: Any, /, *, axis: int | None = 0) -> Any:
    tracer = _tracer(*arrays)
    if tracer is None:
        return _numpy().concat(arrays, axis=axis)
    parts = [TracedArray(tracer, tracer.operand(a)) for a in arrays]
    if axis is None:
        parts, axis = [_reshape(p, (-1,)) if p.size else _reshape(p, (0,)) for p in parts], 0
    (axis,) = _axes(tracer, axis, parts[0].ndim)
    shapes = {p.shape[:axis] + p.shape[axis + 1 :] for p in parts}
    if len(shapes) > 1 or len({p.ndim for p in parts}) > 1:
        raise ValueError(f"concat: shapes {[p.shape for p in parts]} do not fit")
    dtype = np.result_type(*(p.dtype for p in parts))
    parts = [_astype(p, dtype, copy=False) for p in parts]
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    nodes = tuple(p._node for p in parts)
    return tracer.add(Node("concat", nodes, (("axis", axis),), tuple(shape), dtype))


def _stack(arrays: Any, /, *, axis: int = 0) -> Any:
    tracer = _tracer(*arrays)
    if tracer is None:
        return _numpy().stack(arrays, axis=axis)
    parts = [TracedArray(tracer, tracer.operand(a)) for a in arrays]
    if len({p.shape for p in parts}) > 1:
        raise ValueError("all input arrays must have the same shape")
    (axis,) = _axes(tracer, axis, parts[0].ndim + 1)
    return _concat([_expand_dims(p, axis=axis) for p in parts], axis=axis)


def _unstack(x: Any, /, *, axis: int = 0) -> Any:
    if type(x) is not TracedArray:
        return _numpy().unstack(x, axis=axis)
    (axis,) = _axes(x._tracer, axis, x.ndim)
    whole = (slice(None),) * axis
    return tuple(x[(*whole, i, ...)] for i in range(x.shape[axis]))


def _take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    tracer = _tracer(x, indices)
    if tracer is None:
        return _numpy().take(x, indices, axis=axis)
    a, i = tracer.operand(x), tracer.operand(indices)
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

    def function(x: Any, /, *rest: Any, dtype: Any = None, device: Any = None) -> Any:
        if type(x) is not TracedArray:
            return getattr(_numpy(), name)(x, *rest, dtype=dtype, device=device)
        maker = getattr(_numpy(), name.removesuffix("_like"))
        return maker(x.shape, *rest, dtype=x.dtype if dtype is None else dtype)

    return function


def _asarray(x: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    if type(x) is not TracedArray:
        return _numpy().asarray(x, dtype=dtype, device=device, copy=copy)
    return _astype(x, x.dtype if dtype is None else dtype, copy=bool(copy))


def _result_type(*given: Any) -> Any:
    return np.result_type(*(g.dtype if type(g) is TracedArray else g for g in given))


def _can_cast(given: Any, to: Any, /) -> bool:
    return bool(np.can_cast(given.dtype if type(given) is TracedArray else given, to))


def _about(name: str) -> Callable[..., Any]:
    def function(x: Any, /, *args: Any) -> Any:
        return getattr(_numpy(), name)(x.dtype if type(x) is TracedArray else x, *args)

    return function


class _Namespace(SimpleNamespace):
    """The standard's functions, on arrays of a trace; on others they are NumPy's."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(_numpy(), name)  # an AttributeError where NumPy has none of the name
        if not callable(found) or isinstance(found, type):
            return found  # pi, float32

        @functools.wraps(found)
        def function(*args: Any, **kwargs: Any) -> Any:
            inside = [*args, *kwargs.values()]
            inside += [i for a in inside if isinstance(a, tuple | list) for i in a]
            tracer = _tracer(*inside)
            if tracer is not None:
                tracer.refuse(f"the function {name}")
            return found(*args, **kwargs)

        return function


NAMESPACE = _Namespace(
    __name__="portnet.compiler.trace",
    **{op: functools.partial(_elementwise, op) for op in ELEMENTWISE | CALLED},
    **{op: functools.partial(_reduction, op) for op in REDUCTIONS},
    **{
        f.__name__.lstrip("_"): f
        for f in (
            _asarray,
            _astype,
            _broadcast_arrays,
            _broadcast_to,
            _can_cast,
            _concat,
            _expand_dims,
            _flip,
            _matmul,
            _matrix_transpose,
            _moveaxis,
            _reshape,
            _result_type,
            _squeeze,
            _stack,
            _take,
            _unstack,
        )
    },
    **{name: _like(name) for name in ("zeros_like", "ones_like", "full_like", "empty_like")},
    **{name: _about(name) for name in ("isdtype", "finfo", "iinfo")},
    permute_dims=_permute,
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


def _numpys(tracer: Tracer, name: str, method: str, args: Any, kwargs: Any) -> Any:
    """Do what a function of NumPy's does, if the standard has it."""
    known = _NAMES.get(name, name)
    names = {k for k, v in kwargs.items() if v is not None}
    if method != "__call__":
        tracer.refuse(f"np.{name}.{method}")
    if known in ELEMENTWISE | CALLED and not names:
        return _elementwise(known, *args)
    if known in REDUCTIONS and names <= {"axis", "keepdims"} and len(args) <= 2:
        return _reduction(known, args[0], **dict(zip(("axis",), args[1:], strict=False)), **kwargs)
    if known == "transpose" and len(args) == 1 and not names:
        return args[0].T
    if known in ("reshape", "squeeze", "expand_dims", "concat", "stack", "take", "broadcast_to"):
        if known in ("squeeze", "expand_dims", "concat", "stack") and len(args) == 2:
            args, kwargs = args[:1], {"axis": args[1], **kwargs}
        if known == "take" and len(args) == 3:
            args, kwargs = args[:2], {"axis": args[2], **kwargs}
        if set(kwargs) <= {"axis"}:
            return getattr(NAMESPACE, known)(*args, **kwargs)
    if known in ("matmul", "zeros_like", "ones_like", "matrix_transpose", "astype") and not names:
        return getattr(NAMESPACE, known)(*args)
    return tracer.refuse(f"np.{name}")


def _method_reshape(x: TracedArray, *shape: Any, **kwargs: Any) -> Any:
    if kwargs:
        x._tracer.refuse(f"x.reshape with {', '.join(kwargs)}")
    return _reshape(x, shape[0] if len(shape) == 1 else shape)


def _method_transpose(x: TracedArray, *axes: Any) -> Any:
    axes = axes[0] if len(axes) == 1 and axes[0] is not None else axes
    return _permute(x, axes) if axes and axes != (None,) else x.T


def _method_astype(x: TracedArray, dtype: Any, copy: bool = True) -> Any:
    return _astype(x, dtype, copy=copy)


def _method(op: str) -> Callable[..., Any]:
    def method(x: TracedArray, *args: Any, **kwargs: Any) -> Any:
        return _numpys(x._tracer, op, "__call__", (x, *args), kwargs)

    return method


_METHODS: dict[str, Callable[..., Any]] = {
    **{op: _method(op) for op in (*sorted(REDUCTIONS), "clip", "round", "squeeze", "take", "conj")},
    "reshape": _method_reshape,
    "transpose": _method_transpose,
    "astype": _method_astype,
    "copy": lambda x: _astype(x, x.dtype),
    "ravel": lambda x: _reshape(x, (-1,) if x.size else (0,)),
    "flatten": lambda x: _astype(_reshape(x, (-1,) if x.size else (0,)), x.dtype),
}


# Tracing ----------------------------------------------------------------------------------------


def trace(
    fn: Callable[..., Any], kinds: list[tuple[Shape, Any]], rebuild: Callable[[list[Any]], Any]
) -> Program:
    """Call fn with traced arrays of these shapes and dtypes, and return its operations.

    `rebuild` makes fn's arguments (args, kwargs) from the arrays. Raises Untraceable where an
    operation cannot be traced (`where` is its line), and what fn raises.
    """
    tracer = Tracer()
    try:
        return _traced(tracer, fn, kinds, rebuild)
    finally:
        tracer.closed = True


def _traced(tracer: Tracer, fn: Callable[..., Any], kinds: Any, rebuild: Any) -> Program:
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
    if tracer.problem:  # fn caught the error
        raise _untraceable(tracer)
    return Program(tracer.inputs, tracer.nodes, results, ends)


def _untraceable(tracer: Tracer) -> Untraceable:
    error = Untraceable(tracer.problem)
    error.where = tracer.where  # type: ignore[attr-defined]
    return error


_OURS = Path(__file__).parent
_LIBRARIES = tuple(
    str(Path(importlib.util.find_spec(name).origin).parent)  # type: ignore[union-attr, arg-type]
    for name in ("numpy", "array_api_compat")
)


def line_of(frame: Any) -> str:
    """Return "file:line, in f" of the innermost frame that belongs to the user, or to portnet."""
    while frame is not None:
        path = frame.f_code.co_filename
        if Path(path).parent != _OURS and not path.startswith(_LIBRARIES):
            return f"{path}:{frame.f_lineno}, in {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "an unknown line"


def line_of_error(traceback: TracebackType | None) -> str:
    """Return "file:line, in f" of the innermost line of an error that belongs to the user."""
    found = "an unknown line"
    while traceback is not None:
        path = traceback.tb_frame.f_code.co_filename
        if Path(path).parent != _OURS and not path.startswith(_LIBRARIES):
            name = traceback.tb_frame.f_code.co_qualname
            found = f"{path}:{traceback.tb_lineno}, in {name}"
        traceback = traceback.tb_next
    return found
