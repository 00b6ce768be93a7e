"""IR: a traced function as a list of operations of the array API standard, and their tables.

A node is one operation and its result. A program is the nodes in the order of the trace, and the
pytree of results. `interpret` runs it on any array library: the oracle for every later stage.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .._typing import Array, Host

__all__ = [
    "CALLED",
    "ELEMENTWISE",
    "POINTWISE",
    "REDUCE_UFUNCS",
    "REDUCTIONS",
    "UFUNCS",
    "VIEWS",
    "Node",
    "Program",
    "Shape",
    "as_array",
    "call",
    "computed",
    "difference",
    "frozen",
    "operand_shape",
    "same_bits",
    "unfrozen",
]

Shape = tuple[int, ...]


class Node:
    """An operation and its result; immutable.

    `inputs` are nodes and Python numbers; `attrs` are (name, value) pairs: axis, keepdims, shape,
    key. An "input" has the number of its argument, a "constant" its array, in `value`.
    """

    __slots__ = ("attrs", "dtype", "inputs", "nodes", "op", "shape", "size", "value")

    def __init__(
        self,
        op: str,
        inputs: tuple[Any, ...] = (),
        attrs: tuple[tuple[str, Any], ...] = (),
        shape: Shape = (),
        dtype: Any = None,
        value: Any = None,
    ) -> None:
        self.op, self.inputs, self.attrs = op, inputs, attrs
        self.shape, self.dtype, self.value = shape, dtype, value
        self.nodes = [i for i in inputs if type(i) is Node]  # those of the inputs that are nodes
        self.size = prod(shape)

    def __repr__(self) -> str:
        return f"Node({self.op}, {self.shape}, {self.dtype})"

    @property
    def nbytes(self) -> int:
        """The number of bytes of the elements."""
        return self.size * int(self.dtype.itemsize)

    def with_inputs(self, new: dict[int, "Node"]) -> "Node":
        """Return the node with other nodes as its inputs, by their ids; itself if none differs."""
        if [new[id(i)] for i in self.nodes] == self.nodes:
            return self
        inputs = tuple([new[id(i)] if type(i) is Node else i for i in self.inputs])
        return Node(self.op, inputs, self.attrs, self.shape, self.dtype)

    def attr(self, name: str) -> Any:
        """Return an attribute; None where there is none of the name."""
        for key, value in self.attrs:
            if key == name:
                return value
        return None


@dataclass(frozen=True, eq=False)
class Program:
    """Inputs, operations in their order, and the results: a pytree with nodes as its leaves."""

    inputs: list[Node]
    nodes: list[Node]
    results: Any
    leaves: list[Any]  # of the results: nodes, and what else the function returned

    def rewritten(self, nodes: list[Node], new: dict[int, Node]) -> "Program":
        """Return the program of other nodes; `new` are those in the places of the old, by id."""
        leaves = [new[id(r)] if isinstance(r, Node) else r for r in self.leaves]
        return Program(self.inputs, nodes, self.results, leaves)

    def interpret(self, xp: Any, arrays: Sequence[Array]) -> list[Any]:
        """Run the operations one by one with the functions of a library; return the leaves."""
        at: dict[int, Any] = {id(n): a for n, a in zip(self.inputs, arrays, strict=True)}
        for node in self.nodes:
            if node.op == "constant":
                at[id(node)] = xp.asarray(node.value, dtype=getattr(xp, node.dtype.name))
            elif node.op != "input":
                given = [at[id(i)] if isinstance(i, Node) else i for i in node.inputs]
                at[id(node)] = call(xp, node, given)
        return [at[id(r)] if isinstance(r, Node) else r for r in self.leaves]


def call(xp: Any, node: Node, given: list[Any]) -> Any:
    """Compute the operation of a node with the functions of the library xp."""
    attrs = dict(node.attrs)
    if node.op in OPERATORS:
        return OPERATORS[node.op](*given)
    if node.op == "getitem":
        return given[0][unfrozen(attrs["key"])]
    if node.op == "astype":
        return xp.astype(given[0], getattr(xp, node.dtype.name))
    if node.op == "concat":
        return xp.concat(given, **attrs)
    return getattr(xp, node.op)(*given, **attrs)


# The operators take Python numbers in every library; the functions do not in all.
OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "bitwise_left_shift": operator.lshift,
    "bitwise_right_shift": operator.rshift,
    "negative": operator.neg,
    "bitwise_invert": operator.inv,
}


def difference(a: Program, b: Program) -> str:
    """Return "" for programs that do the same, else what differs first."""
    if len(a.inputs) != len(b.inputs):
        return "the number of inputs"
    number = {id(n): i for nodes in (a.nodes, b.nodes) for i, n in enumerate(nodes)}

    def typed(values: Iterable[Any]) -> list[Any]:
        return [number[id(v)] if type(v) is Node else _typed(v) for v in values]

    for m, n in zip(a.nodes, b.nodes, strict=False):
        differ = m.op != n.op or m.attrs != n.attrs or m.shape != n.shape or m.dtype != n.dtype
        if differ or typed(m.inputs) != typed(n.inputs):
            return f"{m.op} of {_inputs(m)} and {n.op} of {_inputs(n)}"
        if m.op == "constant" and not same_bits(m.value, n.value):
            return "an array that is created in each call, with other values"
    if len(a.nodes) != len(b.nodes):
        return f"{len(a.nodes)} and {len(b.nodes)} operations"
    return "" if typed(a.leaves) == typed(b.leaves) else "the results"


def same_bits(a: Host, b: Host) -> bool:
    """Tell whether two host arrays are the same, bit for bit."""
    if a is b:
        return True
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _inputs(node: Node) -> str:
    return ", ".join(str(i.shape) if isinstance(i, Node) else repr(i) for i in node.inputs)


def _typed(value: Any) -> Any:
    """Return a value to compare by: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    return (type(value), repr(value)) if isinstance(value, float) else (type(value), value)


# Keys of x[key] as attributes: slices cannot be hashed ------------------------------------------


def frozen(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a key with its slices as tuples."""
    return tuple(("slice", k.start, k.stop, k.step) if isinstance(k, slice) else k for k in key)


def unfrozen(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inverse of `frozen`."""
    return tuple(slice(*k[1:]) if isinstance(k, tuple) else k for k in key)


# Tables of operations ---------------------------------------------------------------------------

ELEMENTWISE = frozenset(
    """
    abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift
    bitwise_or bitwise_right_shift bitwise_xor ceil copysign cos cosh divide equal exp expm1
    floor floor_divide greater greater_equal hypot isfinite isinf isnan less less_equal log
    log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor maximum minimum
    multiply negative nextafter not_equal positive pow reciprocal remainder sign signbit sin
    sinh sqrt square subtract tan tanh trunc where
    """.split()
)
POINTWISE = ELEMENTWISE | {"astype"}  # an element needs those in its place alone
# As above, but no ufuncs of NumPy's.
CALLED = frozenset(["clip", "conj", "imag", "real", "round"])
REDUCTIONS = frozenset("all any argmax argmin max mean min prod std sum var".split())


def computed(node: Node) -> bool:
    """Tell whether a node computes: it is no input, constant or view."""
    return node.op not in VIEWS and node.op not in ("input", "constant")


VIEWS = frozenset(("reshape", "permute_dims", "getitem", "broadcast_to"))

UFUNCS = {op: getattr(np, op) for op in ELEMENTWISE - {"where"}}
REDUCE_UFUNCS = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}


def operand_shape(node: Node, k: int) -> tuple[int, ...]:
    """Return the shape in which an elementwise operation is given operand k.

    NumPy is fastest with an element without axes beside larger arrays, and with one axis where
    all operands have one element. But its power is exact for exponents such as 2 and 0.5 only where
    the exponent has stride 0: one that has no axes keeps none.
    """
    i = node.inputs[k]
    shape: tuple[int, ...] = i.shape if isinstance(i, Node) else ()
    exponent = node.op == "pow" and k == 1
    if not node.shape:
        return () if exponent else (1,)
    single = shape == (1,) * len(shape) and len(shape) <= len(node.shape)
    return () if single and node.size != 1 else shape


def as_array(node: Node, number: Any) -> Any:
    """Return a Python number in the dtype in which an operation uses it; None: it is too large."""
    others = [o.dtype for o in node.inputs if isinstance(o, Node)]
    if node.op == "where":
        others = [o.dtype for o in node.inputs[1:] if isinstance(o, Node)] or [node.dtype]
    try:
        return np.array(number, dtype=np.result_type(*others, number))
    except OverflowError:
        return None
