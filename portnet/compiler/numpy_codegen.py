"""NumPy codegen: a plan as Python source, one NumPy call with ``out=`` a line.

The text has two parts. The prologue runs once for each set of donated arguments: it makes the
arrays that operations read and write, at their locations in buffers and donated arrays. The body is
a function of the arguments that makes the calls. Nothing is looked up, and nothing is allocated but
results.
"""

from typing import Any

import numpy as np

from .. import _numpy
from .ir import (
    POINTWISE,
    REDUCE_UFUNCS,
    UFUNCS,
    VIEWS,
    Node,
    as_array,
    call,
    computed,
    operand_shape,
    unfrozen,
)
from .memory import Base, Location
from .planner import Plan
from .schedule import Step, blocks
from .views import contiguous, is_contiguous

__all__ = ["NumPyCodegen", "name_of_base"]

FRESH = "{}.copy()"  # what becomes of a result that replaces no donated array
TAKE_CHECKED = 1 << 16  # bytes: from here on, NumPy's own check of indices costs a copy too many
LETTERS = {
    "buffer": "m",
    "donated": "d",
    "constant": "c",
    "argument": "a",
    "staged": "p",
    "scratch": "b",
}


def name_of_base(base: Base) -> str:
    """Return the name of a base in the text of a replay."""
    return f"{LETTERS[base[0]]}{base[1]}"


class NumPyCodegen:
    """Generates the lines of a replay, and the values that they name."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.layout = plan, plan.layout
        self.names: dict[str, Any] = {
            "ndarray": np.ndarray,
            "copyto": np.copyto,
            "broadcast_to": np.broadcast_to,
            "matmul": np.matmul,
            "checked": _checked,
        }
        self.arrays: list[tuple[Any, ...]] = []  # name, shape, dtype, base, offset, strides
        self.prologue: list[str] = []  # what is made of these arrays
        self.body: list[str] = []
        self._at: dict[Any, str] = {}  # the name of the array at a location
        self._of: dict[int, str] = {}  # the name of a node's array, by id
        self._reshaped: dict[tuple[str, tuple[int, ...]], str] = {}
        for node in plan.program.nodes:
            self._name(node)

    def finish(self, returned: str) -> tuple[str, str]:
        """Return both parts; `returned` is the text of the pytree of results, of r0, r1, ..."""
        plan, body = self.plan, self.body
        for leaf, number in self.layout.copies:
            body.append(f"copyto(a{number}, {self._of[id(leaf)]})")
        for k, leaf in enumerate(plan.program.leaves):
            if k in plan.donated:
                body.append(f"r{k} = a{plan.donated[k]}")
            elif isinstance(leaf, Node):
                body.append(f"r{k} = {FRESH.format(self._of[id(leaf)])}")
            else:
                self.names[f"r{k}"] = leaf
        for k, array in enumerate(self.layout.constants.arrays):
            self.names[f"c{k}"] = array
        arguments = ", ".join(f"a{i}" for i in range(len(plan.program.inputs)))
        text = "\n    ".join([*body, f"return {returned}"])
        return "\n".join(self.prologue), f"def replay({arguments}):\n    {text}\n"

    # Arrays

    def _name(self, node: Node) -> None:
        """Give the array of a node a name."""
        location = self.layout[node]
        kind = location.base[0]
        if kind == "scratch":
            self._of[id(node)] = ""  # blocks of it are named in its group
        elif kind == "constant":
            base = self.layout.constants.add(_value(node)) if node.op in VIEWS else location.base
            self._of[id(node)] = name_of_base(base)
        elif node.op == "input":
            self._of[id(node)] = f"a{node.value}"
            if kind == "donated":
                self._at[self._key(location, node.shape, node.dtype)] = f"a{node.value}"
        elif kind == "argument":
            self._of[id(node)] = name = f"u{len(self._of)}"
            self.body.append(f"{name} = {self._view(node)}")
        elif computed(node) or node.op in VIEWS:
            self._of[id(node)] = self.array(location, node.shape, node.dtype)

    def _key(self, location: Location, shape: tuple[int, ...], dtype: Any) -> Any:
        strides = location.strides
        if strides is None or is_contiguous(shape, strides, dtype.itemsize):
            strides = contiguous(shape, dtype.itemsize)
        return location.base, location.offset, strides, shape, dtype.num

    def array(self, location: Location, shape: tuple[int, ...], dtype: Any) -> str:
        """Return the name of the array of a shape and dtype at a location.

        One location and shape have one name: NumPy needs time to see that two arrays share memory,
        and none if both are one object.
        """
        key = self._key(location, shape, dtype)
        if key not in self._at:
            self._at[key] = name = f"v{len(self._at)}"
            base = name_of_base(location.base)
            self.arrays.append((name, shape, dtype, base, location.offset, key[2]))
        return self._at[key]

    def _view(self, node: Node) -> str:
        """Return the text of a view of an argument, which is another array in each call."""
        x = self._of[id(node.inputs[0])]
        if node.op == "reshape":
            return f"{x}.reshape({node.shape})"
        if node.op == "permute_dims":
            return f"{x}.transpose({node.attr('axes')})"
        if node.op == "getitem":
            return f"{x}[{_key(node)}]"
        return f"broadcast_to({x}, {node.shape})"

    def dtype(self, dtype: Any) -> str:
        """Return the name of a dtype."""
        self.names[f"t{dtype.num}"] = dtype
        return f"t{dtype.num}"

    def operand(self, node: Node, k: int) -> str:
        """Return the name of operand k, in the shape in which the operation is given it."""
        i, shape = node.inputs[k], operand_shape(node, k)
        if not isinstance(i, Node):
            return self.number(node, i, shape)
        return self._of[id(i)] if shape == i.shape else self._with_shape(i, shape)

    def _with_shape(self, i: Node, shape: tuple[int, ...]) -> str:
        """Return the name of an array of one element in another shape: () or (1,)."""
        location = self.layout[i]
        if location.base[0] == "constant":
            return name_of_base(self.layout.constants.add(_value(i).reshape(shape)))
        if location.strides is not None:
            return self.array(location._replace(strides=None), shape, i.dtype)
        name = self._of[id(i)]
        if (name, shape) not in self._reshaped:
            self._reshaped[name, shape] = made = f"{name}_{'l' if shape else 's'}"
            self.body.append(f"{made} = {name}.reshape({shape})")
        return self._reshaped[name, shape]

    def number(self, node: Node, number: Any, shape: tuple[int, ...]) -> str:
        """Return the name of a Python number as an array of the dtype in which it is used."""
        array = as_array(node, number)
        if array is None:
            return self.named(number)
        return name_of_base(self.layout.constants.add(array.reshape(shape)))

    def named(self, value: Any) -> str:
        """Return the name of a Python value: the text of some, such as inf, is none."""
        name = f"n{len(self.names)}"
        self.names[name] = value
        return name

    def out(self, node: Node) -> str:
        """Return the name of the array that an operation writes."""
        return self._of[id(node)] if node.shape else self._with_shape(node, (1,))

    # Operations

    def step(self, step: Step) -> None:
        """Write the calls of one step."""
        if step.rows:
            self._group(step)
        else:
            (node,) = step.nodes
            pointwise = node.op in POINTWISE
            given = [self.operand(node, k) for k in range(len(node.inputs))] if pointwise else []
            self.body += self.lines(node, given)

    def lines(self, node: Node, given: list[str], out: str = "") -> list[str]:
        """Return the calls of one operation."""
        op = node.op
        whole, out = out or self._of[id(node)], out or self.out(node)
        if node.size == 0:
            return []
        if op in UFUNCS:
            self.names[op] = UFUNCS[op]
            by_name = "out=" if op in ("maximum", "minimum") else ""  # NumPy 2.4 asks for it
            return [f"{op}({', '.join(given)}, {by_name}{out})"]
        if op == "where":
            same = all(isinstance(i, Node) and i.dtype == node.dtype for i in node.inputs[1:])
            cast = "'no'" if same else "'unsafe'"
            return [
                f"copyto({out}, {given[2]}, {cast})",
                f"copyto({out}, {given[1]}, {cast}, {given[0]})",
            ]
        if op == "astype":
            kind = (
                "" if np.can_cast(node.inputs[0].dtype, node.dtype, "same_kind") else ", 'unsafe'"
            )
            return [f"copyto({out}, {given[0]}{kind})"]
        if op == "copy":
            return [f"copyto({whole}, {self._of[id(node.inputs[0])]})"]
        given = [self._of[id(i)] if isinstance(i, Node) else self.named(i) for i in node.inputs]
        if op == "concat":
            return self._concat(node)
        if op == "matmul":
            return [self._product(node, given, whole)]
        if op == "take":
            if node.nbytes < TAKE_CHECKED:
                return [f"{given[0]}.take({given[1]}, {node.attr('axis')}, {whole})"]
            n = node.inputs[0].shape[node.attr("axis")]
            return [
                f"{given[0]}.take(checked({given[1]}, {n}), {node.attr('axis')}, {whole}, 'wrap')"
            ]
        if op in REDUCE_UFUNCS or (
            op == "mean"
            and node.dtype.name in ("float32", "float64")
            and node.inputs[0].dtype == node.dtype
        ):
            return self._reduction(node, given[0], whole)
        self.names[f"f_{op}"] = getattr(_numpy, op)
        attrs = "".join(f", {name}={value!r}" for name, value in node.attrs)
        return [f"{whole}[...] = f_{op}({', '.join(given)}{attrs})"]

    def _product(self, node: Node, given: list[str], out: str) -> str:
        """Return a matrix product: ndarray.dot has the bits of matmul at half of its overhead.

        That holds where both operands are contiguous, row by row or column by column.
        """
        x, W = node.nodes
        general = f"matmul({given[0]}, {given[1]}, {out})"
        matrices = len(x.shape) == len(W.shape) == 2 and x.dtype == W.dtype == node.dtype
        if not matrices or node.dtype.name not in ("float32", "float64"):
            return general
        tests = []
        for i, name in zip((x, W), given, strict=True):
            strides = self.layout[i].strides
            if strides is None:
                tests.append(f"{name}.flags.forc")
            elif not (
                is_contiguous(i.shape, strides, i.dtype.itemsize)
                or is_contiguous(i.shape[::-1], strides[::-1], i.dtype.itemsize)
            ):
                return general
        quick = f"{given[0]}.dot({given[1]}, {out})"
        return f"{quick} if {' and '.join(tests)} else {general}" if tests else quick

    def _reduction(self, node: Node, x: str, out: str) -> list[str]:
        axis, keepdims = node.attr("axis"), node.attr("keepdims")
        op = "sum" if node.op == "mean" else node.op
        self.names[f"{op}_"] = REDUCE_UFUNCS[op].reduce
        kind = self.dtype(np.dtype(bool)) if op in ("any", "all") else "None"
        lines = [f"{op}_({x}, {axis}, {kind}, {out}, {keepdims})"]
        if node.op == "mean":
            count = node.inputs[0].size / max(1, node.size)
            self.names["divide"] = np.divide
            count = np.asarray(count, node.dtype).reshape(() if node.shape else 1)
            n = name_of_base(self.layout.constants.add(count))
            lines.append(f"divide({self.out(node)}, {n}, {self.out(node)})")
        return lines

    def _concat(self, node: Node) -> list[str]:
        lines, axis, to = [], node.attr("axis"), self.layout[node]
        assert to.strides is not None
        for part, start in self.layout.slots[id(node)]:
            if part.size:
                slot = to._replace(offset=to.offset + start * to.strides[axis])
                name = self.array(slot, part.shape, part.dtype)
                lines.append(f"copyto({name}, {self._of[id(part)]})")
        return lines

    def _group(self, step: Step) -> None:
        """Generate a loop over blocks; arrays that are the same in each call are cut beforehand."""
        names: dict[str, str] = {}  # by the text of a block: its name in the loop
        cuts = {"s": "slice(i, j)"}  # by name in the loop: what is cut beforehand
        late: list[str] = []  # blocks of arguments, which are cut in the loop
        lines: list[str] = []

        def block(of: Node, whole: str) -> str:
            """Return the name of the block of an array; `whole` names all of it."""
            base, text = self.layout[of].base, f"{whole}[i:j]"
            if base[0] == "scratch":
                shape = ", ".join(["j - i", *map(str, step.shape[1:])])
                text = f"ndarray(({shape},), {self.dtype(of.dtype)}, {name_of_base(base)})"
            if text not in names:
                names[text] = f"x{len(names)}"
                if base[0] == "argument":
                    late.append(f"{names[text]} = {whole}[s]")
                else:
                    cuts[names[text]] = text
            return names[text]

        for node in step.nodes:
            given = []
            for k, i in enumerate(node.inputs):
                name = self.operand(node, k)
                rows = isinstance(i, Node) and len(i.shape) == len(node.shape)
                given.append(block(i, name) if rows and i.shape[0] == node.shape[0] else name)
            lines += self.lines(node, given, block(node, self._of[id(node)]))
        loop, spans = f"k{len(self.prologue)}", list(blocks(step))
        self.prologue.append(f"{loop} = [({', '.join(cuts.values())}) for i, j in {spans}]")
        self.body.append(f"for {', '.join(cuts)} in {loop}:")
        self.body += [f"    {line}" for line in [*late, *lines]]


def _value(node: Node) -> Any:
    """Return the array of a constant, or of a view of one."""
    if node.op == "constant":
        return np.asarray(node.value)
    return call(_numpy, node, [_value(node.inputs[0])])


def _key(node: Node) -> str:
    parts = []
    for k in unfrozen(node.attr("key")):
        if isinstance(k, slice):
            step = "" if k.step == 1 else f":{k.step}"
            parts.append(f"{k.start}:{'' if k.stop is None else k.stop}{step}")
        else:
            parts.append(str(k))
    return ", ".join([*parts, "..."])  # so that an element is an array, too, and no number


def _checked(indices: Any, n: int) -> Any:
    """Return indices if all are of an axis of n elements; else raise NumPy's IndexError."""
    if indices.size and not -n <= indices.min() <= indices.max() < n:
        wrong = indices[(indices < -n) | (indices >= n)][0]
        raise IndexError(f"index {wrong} is out of bounds for an axis of size {n}")
    return indices
