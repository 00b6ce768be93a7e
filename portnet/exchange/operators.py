"""Operators: the ONNX operator, or the few, of each operation of a trace."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from .._typing import Host
from ..compiler.ir import Node, as_array
from .batch_trace import BatchTrace, Length
from .graph import Graph, code_of
from .patterns import Fused, fused

__all__ = ["add_program"]

# Operations that ONNX has under another name, with the same operands.
SAME = {
    "abs": "Abs",
    "acos": "Acos",
    "acosh": "Acosh",
    "add": "Add",
    "asin": "Asin",
    "asinh": "Asinh",
    "atan": "Atan",
    "atanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "divide": "Div",
    "equal": "Equal",
    "exp": "Exp",
    "floor": "Floor",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "isinf": "IsInf",
    "isnan": "IsNaN",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "log": "Log",
    "logical_and": "And",
    "logical_not": "Not",
    "logical_or": "Or",
    "logical_xor": "Xor",
    "maximum": "Max",
    "minimum": "Min",
    "multiply": "Mul",
    "negative": "Neg",
    "pow": "Pow",
    "reciprocal": "Reciprocal",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "subtract": "Sub",
    "tan": "Tan",
    "tanh": "Tanh",
    "where": "Where",
}
# With other operators for truth values, in which maximum is or.
OF_BOOLEANS = {
    "add": "Or",
    "bitwise_and": "And",
    "bitwise_invert": "Not",
    "bitwise_or": "Or",
    "bitwise_xor": "Xor",
    "maximum": "Or",
    "minimum": "And",
    "multiply": "And",
}
OF_INTEGERS = {
    "bitwise_and": "BitwiseAnd",
    "bitwise_invert": "BitwiseNot",
    "bitwise_or": "BitwiseOr",
    "bitwise_xor": "BitwiseXor",
}
OF_FLOATS = frozenset("isfinite isinf isnan".split())
COMPARED = OF_FLOATS | frozenset("equal not_equal less less_equal greater greater_equal".split())
ROUNDED = frozenset("ceil floor round".split())  # integers are already
REDUCED = {
    "sum": "ReduceSum",
    "prod": "ReduceProd",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "mean": "ReduceMean",
    "any": "ReduceMax",
    "all": "ReduceMin",
}
LOGICAL = frozenset("logical_and logical_not logical_or logical_xor".split())
END = np.iinfo(np.int64).max  # of a slice: behind the last element, or before the first one


def add_program(graph: Graph, traced: BatchTrace, x: str) -> list[str]:
    """Add the operations of a trace to a graph, and return the names of its results.

    `x` is the name of the value of the graph that the trace has as its input. Raises ExchangeError
    for an operation that ONNX lacks, with the user's line.
    """
    return _Emitter(graph, traced, x).results()


class _Emitter:
    """The values of a graph that are the results of the nodes of a trace."""

    def __init__(self, graph: Graph, traced: BatchTrace, x: str) -> None:
        self.graph, self.traced, self.x = graph, traced, x
        self.names: dict[int, str] = {}  # of the results, by the ids of their nodes

    def results(self) -> list[str]:
        """Add the operations that the results need, in their order."""
        program, constants = self.traced.program, self.traced.constants
        uses = Counter(id(i) for n in program.nodes for i in n.nodes)
        uses.update(map(id, program.leaves))
        needed = {id(leaf) for leaf in program.leaves}
        chosen: list[tuple[Node, Fused | None]] = []
        for node in reversed(program.nodes):
            if id(node) in needed:
                found = fused(node, uses, constants)
                chosen.append((node, found))
                needed.update(map(id, node.nodes if found is None else found.inputs))
        for node, found in reversed(chosen):
            if found is not None:
                inputs = [
                    self.whole(n) if k < 2 or found.kind != "Gemm" else self.array(n)
                    for k, n in enumerate(found.inputs)
                ]
                self.names[id(node)] = self.graph.add(found.kind, *inputs, **found.attributes)
            elif node.op == "input":
                self.names[id(node)] = self.x
            elif node.op != "constant":
                self.names[id(node)] = self.operation(node)
        return [self.whole(leaf) for leaf in program.leaves]

    def operation(self, node: Node) -> str:
        """Add an operation, and return the name of its result."""
        add = OTHERS.get(node.op)
        if add is None and node.op in REDUCED:
            add = _reduced
        if add is None and (node.op in SAME or node.op in OF_BOOLEANS):
            add = _elementwise
        if node.dtype.kind == "c" or any(n.dtype.kind == "c" for n in node.nodes):
            raise self.traced.error(node, "has complex numbers, which ONNX lacks")
        if add is None:
            raise self.lacking(node)
        return add(self, node)

    def lacking(self, node: Node) -> Exception:
        """Return the error of an operation that ONNX lacks."""
        dtypes = " and ".join(str(n.dtype) for n in node.nodes)
        return self.traced.error(
            node,
            f"of {dtypes} has no operator in ONNX: write it with others, such as abs, where, exp, "
            "log, tanh, and sums and products",
        )

    # Operands -----------------------------------------------------------------------------------

    def array(self, node: Node) -> str:
        """Return the name of a result; a constant may have one row, where it should have rows."""
        if id(node) not in self.names:
            self.names[id(node)] = self.graph.constant(self.traced.constants[id(node)])
        return self.names[id(node)]

    def whole(self, node: Node) -> str:
        """Return the name of a result in its shape."""
        name = self.array(node)
        if not self.is_cut(node):
            return name
        return self.graph.add("Expand", name, self.lengths(self.traced.shape(node)))

    def is_cut(self, value: Any) -> bool:
        """Tell whether a value is a constant with one row for all rows."""
        return (
            isinstance(value, Node)
            and value.op == "constant"
            and self.traced.constants[id(value)].shape != value.shape
        )

    def cast(self, name: str, given: Any, dtype: Any) -> str:
        """Return the name of a value in another dtype."""
        return name if given == dtype else self.graph.add("Cast", name, to=code_of(dtype))

    def number(self, value: Any, dtype: Any) -> str:
        """Return the name of a constant without axes."""
        return self.graph.constant(np.asarray(value, dtype))

    def integers(self, values: Any) -> str:
        """Return the name of a vector of int64."""
        return self.graph.constant(np.asarray(values, np.int64), "axes")

    def operands(self, node: Node, dtype: Any, inputs: tuple[Any, ...] = ()) -> list[str]:
        """Return the names of the operands of an elementwise operation, in a dtype.

        `inputs` are those to take; by default all.

        Constants are broadcast by the operation, if an operand has the shape of the result.
        """
        shape = self.traced.shape(node)
        others = [
            i for i in node.nodes if self.traced.shape(i)[-len(shape) :] == shape or not shape
        ]
        enough = any(not self.is_cut(i) for i in others)
        names = []
        for i in inputs or node.inputs:
            if isinstance(i, Node):
                name = self.array(i) if enough else self.whole(i)
                names.append(self.cast(name, i.dtype, dtype))
            else:
                names.append(self.number(self.checked(node, i), dtype))
        return names

    def checked(self, node: Node, number: Any) -> Host:
        """Return a Python number as an array."""
        array: Host | None = as_array(node, number)
        if array is None:
            raise self.traced.error(node, f"has the number {number}, which is too large")
        return array

    def lengths(self, shape: tuple[Length, ...]) -> str:
        """Return the name of the lengths of axes, a vector of int64."""
        if all(length.factor == 0 for length in shape):
            return self.integers([length.offset for length in shape])
        rows, parts = self.graph.add("Shape", self.x, start=0, end=1), []
        for factor, offset in shape:
            part = self.integers([offset])
            if factor:
                part = rows
                if factor != 1:
                    part = self.graph.add("Mul", part, self.integers([factor]))
                if offset:
                    part = self.graph.add("Add", part, self.integers([offset]))
            parts.append(part)
        return parts[0] if len(parts) == 1 else self.graph.add("Concat", *parts, axis=0)


# Elementwise ------------------------------------------------------------------------------------


def _common(node: Node, emitter: _Emitter) -> Any:
    """Return the dtype in which an operation takes its operands."""
    if node.op in LOGICAL:
        return np.dtype(bool)
    if node.op in COMPARED:
        given = [
            i.dtype if isinstance(i, Node) else emitter.checked(node, i).dtype for i in node.inputs
        ]
        dtype = np.result_type(*given)
        if node.op in OF_FLOATS:  # no integer is one of these
            return dtype if dtype.kind == "f" else np.dtype(np.float32)
        ordered = dtype.kind == "b" and node.op not in ("equal", "not_equal")
        return np.dtype(np.int32) if ordered else dtype
    return node.dtype


def _elementwise(emitter: _Emitter, node: Node) -> str:
    dtype = _common(node, emitter)
    kind = SAME.get(node.op)
    if node.op == "where":
        chosen, add = emitter.whole(node.inputs[0]), emitter.graph.add
        a, b = emitter.operands(node, dtype, node.inputs[1:])
        if dtype.kind == "b":  # for which ONNX Runtime has no Where
            return add("Or", add("And", chosen, a), add("And", add("Not", chosen), b))
        return add("Where", chosen, a, b)
    if node.op in ROUNDED and dtype.kind in "iu":
        return emitter.operands(node, dtype)[0]
    if node.op not in (*COMPARED, *LOGICAL):
        if dtype.kind == "b":
            kind = OF_BOOLEANS.get(node.op)
        elif node.op in OF_INTEGERS:
            kind = OF_INTEGERS[node.op]
    if kind is None or not emitter.graph.takes(kind, dtype):
        raise emitter.lacking(node)
    return emitter.graph.add(kind, *emitter.operands(node, dtype))


def _cast(emitter: _Emitter, node: Node) -> str:
    return emitter.cast(emitter.whole(node.nodes[0]), node.nodes[0].dtype, node.dtype)


def _not_equal(emitter: _Emitter, node: Node) -> str:
    add = emitter.graph.add
    return add("Not", add("Equal", *emitter.operands(node, _common(node, emitter))))


def _isfinite(emitter: _Emitter, node: Node) -> str:
    add, (x,) = emitter.graph.add, emitter.operands(node, _common(node, emitter))
    return add("Not", add("Or", add("IsInf", x), add("IsNaN", x)))


def _square(emitter: _Emitter, node: Node) -> str:
    (x,) = emitter.operands(node, node.dtype)
    return emitter.graph.add("Mul", x, x)


def _clip(emitter: _Emitter, node: Node) -> str:
    """min(max(x, low), high), of which each may be missing."""
    if not emitter.graph.takes("Max", node.dtype):
        raise emitter.lacking(node)
    (x,) = emitter.operands(node, node.dtype, node.inputs[:1])
    for kind, bound in zip(("Max", "Min"), node.inputs[1:], strict=True):
        if bound is not None:
            x = emitter.graph.add(kind, x, *emitter.operands(node, node.dtype, (bound,)))
    return x


def _log_of_base(base: float) -> Callable[[_Emitter, Node], str]:
    def add(emitter: _Emitter, node: Node) -> str:
        (x,) = emitter.operands(node, node.dtype)
        factor = emitter.number(1 / np.log(base), node.dtype)
        return emitter.graph.add("Mul", emitter.graph.add("Log", x), factor)

    return add


def _log1p_of(emitter: _Emitter, x: str, dtype: Any, ends: bool = True) -> str:
    """log(1 + x) = log(u) - ((u - 1) - x) / u, u = 1 + x: accurate for small x, too.

    `ends` says whether x may be -1 or infinite, where the second term is no number.
    """
    add, one = emitter.graph.add, emitter.number(1, dtype)
    u = add("Add", x, one)
    lost = add("Div", add("Sub", add("Sub", u, one), x), u)
    if ends:
        lost = add("Where", add("IsNaN", lost), emitter.number(0, dtype), lost)
    return add("Sub", add("Log", u), lost)


def _log1p(emitter: _Emitter, node: Node) -> str:
    (x,), (before,) = emitter.operands(node, node.dtype), node.inputs
    return _log1p_of(emitter, x, node.dtype, ends=before.op != "exp")


def _expm1(emitter: _Emitter, node: Node) -> str:
    """e^x - 1 = 2 t / (1 - t), t = tanh(x / 2), for |x| < 1, where the difference loses digits."""
    add, (x,) = emitter.graph.add, emitter.operands(node, node.dtype)
    one, two, half = (emitter.number(v, node.dtype) for v in (1, 2, 0.5))
    t = add("Tanh", add("Mul", x, half))
    near = add("Div", add("Mul", t, two), add("Sub", one, t))
    is_near = add("Less", add("Abs", x), one)
    return add("Where", is_near, near, add("Sub", add("Exp", x), one))


def _logaddexp(emitter: _Emitter, node: Node) -> str:
    """max(a, b) + log(1 + e^-|a - b|)."""
    add, (a, b) = emitter.graph.add, emitter.operands(node, node.dtype)
    apart = add("Exp", add("Neg", add("Abs", add("Sub", a, b))))
    return add("Add", add("Max", a, b), _log1p_of(emitter, apart, node.dtype, False))


# Reductions and products ------------------------------------------------------------------------


def _axes(node: Node) -> list[int]:
    """Return the axes of a reduction as a list."""
    axis = node.attr("axis")
    axes = range(len(node.nodes[0].shape)) if axis is None else axis
    return [axes] if isinstance(axes, int) else list(axes)


def _reduced(emitter: _Emitter, node: Node) -> str:
    graph, axes, x = emitter.graph, _axes(node), node.nodes[0]
    logical = node.op in ("any", "all") or node.dtype.kind == "b"
    dtype = np.dtype(np.int32) if logical else node.dtype
    name = emitter.whole(x)
    if logical:  # ONNX Runtime has no reductions of truth values
        name = emitter.cast(name, x.dtype, np.dtype(bool))
    name = emitter.cast(name, bool if logical else x.dtype, dtype)
    if axes:
        keep = int(bool(node.attr("keepdims")))
        name = graph.add(REDUCED[node.op], name, emitter.integers(axes), keepdims=keep)
    return emitter.cast(name, dtype, node.dtype)


def _argument(emitter: _Emitter, node: Node) -> str:
    graph, axis, name = emitter.graph, node.attr("axis"), emitter.whole(node.nodes[0])
    keep = bool(node.attr("keepdims"))
    if node.nodes[0].dtype.kind == "b":
        name = emitter.cast(name, node.nodes[0].dtype, np.dtype(np.int32))
    if axis is None:
        if keep:
            raise emitter.traced.error(node, "over all axes with keepdims has no operator in ONNX")
        name, axis = graph.add("Reshape", name, emitter.integers([-1])), 0
    kind = "ArgMax" if node.op == "argmax" else "ArgMin"
    return graph.add(kind, name, axis=axis, keepdims=int(keep))


def _variance(emitter: _Emitter, node: Node) -> str:
    graph, x, list_of_axes = emitter.graph, node.nodes[0], _axes(node)
    axes, keep = emitter.integers(list_of_axes), int(bool(node.attr("keepdims")))
    name = emitter.cast(emitter.whole(x), x.dtype, node.dtype)
    centred = graph.add("Sub", name, graph.add("ReduceMean", name, axes, keepdims=1))
    found = graph.add("ReduceMean", graph.add("Mul", centred, centred), axes, keepdims=keep)
    correction = node.attr("correction") or 0
    if correction:
        lengths = [emitter.traced.shape(x)[a] for a in list_of_axes]
        if any(length.factor for length in lengths):
            raise emitter.traced.error(node, "over the rows with correction cannot be exported")
        count = float(np.prod([length.offset for length in lengths]))
        factor = emitter.number(count / max(count - correction, 0.0), node.dtype)
        found = graph.add("Mul", found, factor)
    return graph.add("Sqrt", found) if node.op == "std" else found


def _matmul(emitter: _Emitter, node: Node) -> str:
    if not emitter.graph.takes("MatMul", node.dtype):
        raise emitter.lacking(node)
    names = [emitter.cast(emitter.whole(n), n.dtype, node.dtype) for n in node.nodes]
    return emitter.graph.add("MatMul", *names)


# Views, and arrays made of arrays ---------------------------------------------------------------


def _reshape(emitter: _Emitter, node: Node) -> str:
    shape, x = emitter.traced.shape(node), emitter.whole(node.nodes[0])
    moving = [k for k, length in enumerate(shape) if length.factor]
    if len(moving) == 1 and all(length != (0, 0) for length in shape):
        wanted = [-1 if k in moving else length.offset for k, length in enumerate(shape)]
        return emitter.graph.add("Reshape", x, emitter.integers(wanted))
    return emitter.graph.add("Reshape", x, emitter.lengths(shape), allowzero=1)


def _permute(emitter: _Emitter, node: Node) -> str:
    return emitter.graph.add("Transpose", emitter.whole(node.nodes[0]), perm=node.attr("axes"))


def _broadcast(emitter: _Emitter, node: Node) -> str:
    shape = emitter.lengths(emitter.traced.shape(node))
    return emitter.graph.add("Expand", emitter.array(node.nodes[0]), shape)


def _getitem(emitter: _Emitter, node: Node) -> str:
    """Slices of axes, then elements of axes, then new axes."""
    x, graph = node.nodes[0], emitter.graph
    lengths, name = emitter.traced.shape(x), emitter.whole(x)
    twin = emitter.traced.twins[id(node)]
    pairs = zip(node.attr("key"), twin.attr("key"), strict=True)
    slices: list[tuple[int, int, int, int]] = []  # start, stop, axis, step
    elements: list[tuple[int, int]] = []  # axis, index
    new: list[int] = []  # positions
    axis = position = 0
    for a, b in pairs:
        if a is None:
            new.append(position)
            position += 1
            continue
        n, length = x.shape[axis], lengths[axis]

        def index(i: int, j: int, length: Length = length, n: int = n) -> int:
            """Return an index from the start or, if it moves with the length, from the end."""
            if i == j:
                return i
            if emitter.traced.length(i, j, node).factor == length.factor:
                return i - n if i < n else END
            raise emitter.traced.error(node, "takes a part that depends on the number of rows")

        if isinstance(a, int):
            elements.append((axis, index(a, b)))
        else:
            step = a[3]
            start, stop = index(a[1], b[1]), -END if a[2] is None else index(a[2], b[2])
            if (a[1:], b[1:]) != ((0, n, 1), (0, twin.nodes[0].shape[axis], 1)):
                slices.append((start, stop, axis, step))
            position += 1
        axis += 1
    if slices:
        starts, stops, axes, steps = zip(*slices, strict=True)
        name = graph.add("Slice", name, *map(emitter.integers, (starts, stops, axes, steps)))
    for at, i in reversed(elements):
        name = graph.add("Gather", name, emitter.number(i, np.int64), axis=at)
    return graph.add("Unsqueeze", name, emitter.integers(new)) if new else name


def _concat(emitter: _Emitter, node: Node) -> str:
    names = [emitter.whole(n) for n in node.nodes]
    return emitter.graph.add("Concat", *names, axis=node.attr("axis"))


def _take(emitter: _Emitter, node: Node) -> str:
    x, indices = node.nodes
    name = emitter.whole(indices)
    if indices.dtype not in (np.int32, np.int64):
        name = emitter.cast(name, indices.dtype, np.dtype(np.int64))
    return emitter.graph.add("Gather", emitter.whole(x), name, axis=node.attr("axis"))


OTHERS: dict[str, Callable[[_Emitter, Node], str]] = {
    "argmax": _argument,
    "argmin": _argument,
    "astype": _cast,
    "broadcast_to": _broadcast,
    "clip": _clip,
    "concat": _concat,
    "conj": _cast,
    "expm1": _expm1,
    "getitem": _getitem,
    "isfinite": _isfinite,
    "log10": _log_of_base(10.0),
    "log1p": _log1p,
    "log2": _log_of_base(2.0),
    "logaddexp": _logaddexp,
    "matmul": _matmul,
    "not_equal": _not_equal,
    "permute_dims": _permute,
    "positive": _cast,
    "real": _cast,
    "reshape": _reshape,
    "square": _square,
    "std": _variance,
    "take": _take,
    "var": _variance,
}
