"""NumPy: a plan as a function in Python's own text, one call with ``out=`` a line.

The text has two parts. The first runs once for each set of donated arguments: it cuts buffers and
donated arrays into the arrays that operations read and write. The second is the replay: a function
of the arguments that makes the calls. Nothing is looked up, and nothing is allocated but results.
"""

from typing import Any

import numpy as np

from .ir import ELEMENTWISE, UFUNCS, VIEWS, Node, _numpy, computed, unfrozen
from .planner import Plan
from .schedule import Step, blocks
from .views import region, root

REDUCERS = {
    "sum": np.add.reduce,
    "prod": np.multiply.reduce,
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
    "any": np.logical_or.reduce,
    "all": np.logical_and.reduce,
}
FRESH = "{}.copy()"  # what becomes of a result that replaces no donated array
TAKE_CHECKED = 1 << 16  # bytes: from here on, NumPy's own check of indices costs a copy too many


class Text:
    """The lines of a replay, and the values that they name."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names: dict[str, Any] = {
            "ndarray": np.ndarray,
            "copyto": np.copyto,
            "broadcast_to": np.broadcast_to,
            "matmul": np.matmul,
            "checked": _checked,
        }
        self.arrays: list[tuple[Any, ...]] = []  # the first part: name, shape, dtype, base, offset
        self.cut: list[str] = []  # and what is made of these arrays
        self.each: list[str] = []  # the second
        self.at: dict[Any, str] = {}  # the name of the array at a place, in a shape
        self.of: dict[int, str] = {}  # the name of a node's array, by id
        self.bound: set[int] = set()  # nodes whose arrays are others in each call
        self.replaced = {d: k for k, d in plan.donated.items()}
        self.constants: dict[Any, str] = {}
        self.scalars: dict[tuple[str, tuple[int, ...]], str] = {}
        self.staged: dict[str, int] = {}  # for compiled functions: bytes of copies of arguments
        self.bases: dict[str, int] = {}  # and the arrays whose addresses they need: their numbers

    def write(self, returned: str) -> tuple[str, str]:
        """Return both parts; `returned` is the text of the nest of results, of r0, r1, ..."""
        plan = self.plan
        for i, node in enumerate(plan.program.inputs):
            self.of[id(node)] = f"a{i}"
            if i in self.replaced:
                self.at[f"d{i}", 0, node.shape, self.dtype(node.dtype)] = f"a{i}"
            else:
                self.bound.add(id(node))
        views: dict[int, list[Node]] = {}
        for node in plan.program.nodes:
            if node.op in VIEWS:
                views.setdefault(id(root(node)), []).append(node)
        for node in plan.program.nodes:
            if node.op == "constant":
                self.of[id(node)] = self.value(node.value)
            if computed(node) and id(node) in plan.memory.places:
                self._place(node)
        for node in plan.program.nodes:
            if node.op in VIEWS and id(root(node)) not in plan.memory.scratch:
                self._view(node)
        self.operations()
        for leaf, number in plan.memory.copies:
            self.each.append(f"copyto(a{number}, {self.of[id(leaf)]})")
        for k, leaf in enumerate(plan.program.leaves):
            if k in plan.donated:
                self.each.append(f"r{k} = a{plan.donated[k]}")
            elif isinstance(leaf, Node):
                self.each.append(f"r{k} = {FRESH.format(self.of[id(leaf)])}")
            else:
                self.names[f"r{k}"] = leaf
        arguments = ", ".join(f"a{i}" for i in range(len(plan.program.inputs)))
        body = "\n    ".join([*self.each, f"return {returned}"])
        return "\n".join(self.cut), f"def replay({arguments}):\n    {body}\n"

    # Arrays

    def value(self, array: Any) -> str:
        """Return the name of a constant."""
        array = np.asarray(array)
        same = array.tobytes() if array.nbytes <= 64 else id(array)  # few share a large one
        key = array.dtype.str, array.shape, same
        if key not in self.constants:
            name = f"c{len(self.constants)}"
            self.constants[key], self.names[name] = name, array
        return self.constants[key]

    def _place(self, node: Node) -> None:
        place = self.plan.memory.places[id(node)]
        kind, number = place.base
        base = f"{'m' if kind == 'buffer' else 'd'}{number}"
        self.of[id(node)] = self._array(node, base, place.offset)

    def _array(self, node: Node, base: str, offset: int, shape: Any = None) -> str:
        """Return the name of the array of a node's shape and dtype at a place.

        One place and shape have one name: NumPy takes its time to find out that two arrays are the
        same memory, and none where both are the same object.
        """
        shape = node.shape if shape is None else shape
        key = base, offset, shape, self.dtype(node.dtype)
        if key not in self.at:
            self.at[key] = f"v{len(self.at)}"
            self.arrays.append((self.at[key], shape, node.dtype, base, offset))
        return self.at[key]

    def _view(self, node: Node) -> None:
        of, where = self.of[id(node.inputs[0])], self._where(node)
        if where is not None:
            self.of[id(node)] = self._array(node, *where)
            return
        name = f"u{len(self.of)}"
        if node.op == "reshape":
            text = f"{of}.reshape({node.shape})"
        elif node.op == "permute_dims":
            text = f"{of}.transpose({node.attr('axes')})"
        elif node.op == "getitem":
            text = f"{of}[{_key(node)}]"
        else:
            text = f"broadcast_to({of}, {node.shape})"
        if id(root(node)) in self.bound:
            self.bound.add(id(node))
            self.each.append(f"{name} = {text}")
        else:
            self.cut.append(f"{name} = {text}")
        self.of[id(node)] = name

    def _where(self, node: Node) -> tuple[str, int] | None:
        """Return the base, and the first byte in it, of what lies in a buffer without gaps."""
        found = region(node)
        if found is None or id(found[0]) in self.bound or found[0].op == "constant":
            return None
        base, start, _ = found
        if base.op == "input":
            return f"d{base.value}", start * node.dtype.itemsize
        if id(base) not in self.plan.memory.places:
            return None
        (kind, number), offset = (
            self.plan.memory.places[id(base)].base,
            self.plan.memory.places[id(base)].offset,
        )
        name = f"{'m' if kind == 'buffer' else 'd'}{number}"
        return name, offset + start * node.dtype.itemsize

    def dtype(self, dtype: Any) -> str:
        """Return the name of a dtype."""
        self.names[f"t{dtype.num}"] = dtype
        return f"t{dtype.num}"

    def operand(self, node: Node, k: int) -> str:
        """Return the name of operand k, in the shape in which the operation is given it."""
        i, shape = node.inputs[k], operand_shape(node, k)
        if not isinstance(i, Node):
            return self.number(node, i, shape)
        name = self.of[id(i)]
        return name if shape == i.shape else self.shaped(i, name, shape)

    def shaped(self, i: Node, name: str, shape: tuple[int, ...]) -> str:
        """Return the name of an array of one element in another shape: () or (1,)."""
        where = self._where(i)
        if where is not None:
            return self._array(i, *where, shape=shape)
        key = name, shape
        if key not in self.scalars:
            made = f"{name}_{'l' if shape else 's'}"
            lines = self.each if id(i) in self.bound else self.cut
            lines.append(f"{made} = {name}.reshape({shape})")
            self.scalars[key] = made
        return self.scalars[key]

    def number(self, node: Node, number: Any, shape: tuple[int, ...]) -> str:
        """Return the name of a Python number as an array of the dtype in which it is used."""
        array = as_array(node, number)
        return self.named(number) if array is None else self.value(array.reshape(shape))

    def named(self, value: Any) -> str:
        """Return the name of a Python value: the text of some, such as inf, is none."""
        name = f"n{len(self.names)}"
        self.names[name] = value
        return name

    def out(self, node: Node) -> str:
        """Return the name of the array that an operation writes."""
        name = self.of[id(node)]
        return name if node.shape else self.shaped(node, name, (1,))

    def compiled(self) -> dict[str, Any]:
        """Return functions that the text calls, by name, and that are no library's."""
        return {}

    # Operations

    def operations(self) -> None:
        """Write the calls of all steps."""
        for step in self.plan.steps:
            self.step(step)

    def step(self, step: Step) -> None:
        """Write the calls of one step."""
        if step.rows:
            self._group(step)
        else:
            self._single(step.nodes[0])

    def _single(self, node: Node) -> None:
        given = []
        if node.op in ELEMENTWISE or node.op == "astype":
            given = [self.operand(node, k) for k in range(len(node.inputs))]
        self.each += self.lines(node, given)

    def lines(self, node: Node, given: list[str], out: str | None = None) -> list[str]:
        """Return the calls of one operation."""
        op, whole = node.op, self.of.get(id(node), "") if out is None else out
        out = self.out(node) if out is None else out
        if node.size == 0:
            return []
        if op in UFUNCS:
            self.names[op] = UFUNCS[op]
            by_name = "out=" if op in ("maximum", "minimum") else ""  # NumPy 2.4 asks for it
            return [f"{op}({', '.join(given)}, {by_name}{out})"]
        if op == "where":
            same = all(_dtype(i) == node.dtype for i in node.inputs[1:])
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
            return [f"copyto({whole}, {self.of[id(node.inputs[0])]})"]
        given = [self.of[id(i)] if isinstance(i, Node) else self.named(i) for i in node.inputs]
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
        if op in REDUCERS or (
            op == "mean"
            and node.dtype.name in ("float32", "float64")
            and node.inputs[0].dtype == node.dtype
        ):
            return self._reduction(node, given[0], whole)
        self.names[f"f_{op}"] = getattr(_numpy(), op)
        attrs = "".join(f", {name}={value!r}" for name, value in node.attrs)
        return [f"{whole}[...] = f_{op}({', '.join(given)}{attrs})"]

    def _product(self, node: Node, given: list[str], out: str) -> str:
        """A product of matrices: ndarray.dot has the bits of matmul at half of its overhead.

        That is so where both lie in memory row by row, or column by column.
        """
        x, W = node.nodes
        matrices = len(x.shape) == len(W.shape) == 2 and x.dtype == W.dtype == node.dtype
        if not matrices or node.dtype.name not in ("float32", "float64"):
            return f"matmul({given[0]}, {given[1]}, {out})"
        tests = []
        for i, name in zip((x, W), given, strict=True):
            if id(root(i)) in self.bound:
                tests.append(f"{name}.flags.forc")
            elif region(i) is None and not (i.op == "permute_dims" and region(i.inputs[0])):
                return f"matmul({given[0]}, {given[1]}, {out})"
        quick = f"{given[0]}.dot({given[1]}, {out})"
        if not tests:
            return quick
        return f"{quick} if {' and '.join(tests)} else matmul({given[0]}, {given[1]}, {out})"

    def _reduction(self, node: Node, x: str, out: str) -> list[str]:
        axis, keepdims = node.attr("axis"), node.attr("keepdims")
        op = "sum" if node.op == "mean" else node.op
        self.names[f"{op}_"] = REDUCERS[op]
        kind = self.dtype(np.dtype(bool)) if op in ("any", "all") else "None"
        lines = [f"{op}_({x}, {axis}, {kind}, {out}, {keepdims})"]
        if node.op == "mean":
            count = node.inputs[0].size / max(1, node.size)
            self.names["divide"] = np.divide
            n = self.value(np.asarray(count, node.dtype).reshape(() if node.shape else 1))
            lines.append(f"divide({self.out(node)}, {n}, {self.out(node)})")
        return lines

    def _concat(self, node: Node) -> list[str]:
        lines, axis = [], node.attr("axis")
        for part, start in self.plan.memory.slots[id(node)]:
            if part.size:
                slot = f"s{len(self.of)}_{len(self.cut)}"
                key = ":, " * axis + f"{start}:{start + part.shape[axis]}"
                self.cut.append(f"{slot} = {self.of[id(node)]}[{key}]")
                lines.append(f"copyto({slot}, {self.of[id(part)]})")
        return lines

    def _group(self, step: Step) -> None:
        """A loop over blocks: every array that it names is cut beforehand, if it is always one."""
        columns: list[str] = []  # what the loop is over
        inner: dict[str, str] = {}  # the name in the loop, of a name outside
        late: list[str] = []

        def blocked(name: str, bound: bool) -> str:
            if name not in inner:
                inner[name] = f"x{len(inner)}"
                if bound:
                    late.append(f"{inner[name]} = {name}[s]")
                else:
                    columns.append(name)
            return inner[name]

        lines = []
        for node in step.nodes:
            given = []
            for k, i in enumerate(node.inputs):
                if isinstance(i, Node) and id(root(i)) in self.plan.memory.scratch:
                    given.append(
                        blocked(f"scratch {self.plan.memory.scratch[id(root(i))]} {i.dtype}", False)
                    )
                    continue
                name = self.operand(node, k)
                if (
                    isinstance(i, Node)
                    and i.shape[:1] == node.shape[:1]
                    and len(i.shape) == len(node.shape)
                ):
                    name = blocked(name, id(i) in self.bound)
                given.append(name)
            if id(node) in self.plan.memory.scratch:
                out = blocked(f"scratch {self.plan.memory.scratch[id(node)]} {node.dtype}", False)
            else:
                out = blocked(self.of[id(node)], False)
            lines += self.lines(node, given, out)
        loop = f"k{len(self.cut)}"
        cuts = ["slice(i, j)"]
        for name in columns:
            if name.startswith("scratch"):
                _, number, dtype = name.split()
                rest = step.shape[1:]
                tail = ", ".join(str(n) for n in rest)
                shape = f"(j - i, {tail})" if rest else "(j - i,)"
                cuts.append(f"ndarray({shape}, {self.dtype(np.dtype(dtype))}, b{number})")
            else:
                cuts.append(f"{name}[i:j]")
        spans = str(list(blocks(step)))
        self.cut.append(f"{loop} = [({', '.join(cuts)}) for i, j in {spans}]")
        names = ", ".join(["s", *(inner[name] for name in columns)])
        self.each.append(f"for {names} in {loop}:")
        self.each += [f"    {line}" for line in [*late, *lines]]


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


def _dtype(i: Any) -> Any:
    return i.dtype if isinstance(i, Node) else None


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


# The usual call ---------------------------------------------------------------------------------
