"""Lowering: the steps of a plan as functions in LLVM IR.

Elementwise operations of one shape become one loop (`llvm_ir`). Others call the C functions that
NumPy itself would call (`numpy_c`), with the same arguments, so that the bits are the same. Steps
that are neither stay NumPy calls.

Memory is used again, so order matters: an operation may be added to a loop, or moved before or
after others, only where none writes what another reads or writes (`conflicts_with`, `can_add`).
"""

from collections.abc import Collection
from math import prod
from typing import Any

import numpy as np

from ..ir import ELEMENTWISE, UFUNCS, Node, as_array, operand_shape
from ..memory import STAGED, Base
from ..planner import Plan
from ..schedule import Step
from ..views import broadcast, is_contiguous, is_whole, root
from . import numpy_c
from .jit import machine_code
from .llvm_ir import (
    IDENTITY,
    MEMORY,
    SPACE,
    Access,
    Elementwise,
    UnsupportedError,
    c_call,
    check,
    collapsed,
    columns_text,
    function,
    number,
    rows_text,
    take_text,
)
from .numpy_c import CName

__all__ = ["FEW", "Lowering"]

# Rows up to this length are done in order. NumPy adds eight and more in pairs, and takes the
# largest of a row in an order of its own: where zeros of both signs are largest, its sign shows.
FEW = {"sum": 7, "max": 0, "min": 0, "prod": 0}
BINARY = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


class _CompiledCall:
    """A call in a compiled function, and the memory it reads and writes: base, first byte, end."""

    def __init__(self, reads: list[Any], writes: list[Any], lines: list[str]) -> None:
        self.reads, self.writes, self.lines = reads, writes, lines

    def conflicts_with(self, reads: list[Any], writes: list[Any]) -> bool:
        """Tell whether an operation that reads and writes there cannot move before this one."""
        mine, theirs = [*self.reads, *self.writes], [*reads, *writes]
        return any_overlap(self.writes, theirs) or any_overlap(mine, writes)


class _Loop(_CompiledCall):
    """Elementwise operations of one shape, in one pass."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__([], [], [])
        self.shape = shape
        self.nodes: list[Node | None] = []  # None: the operation belongs to no node
        self.operations: list[Elementwise] = []
        self.made: dict[int, int] = {}  # by id of a node: the number of its operation
        self.read: list[Access] = []
        self.written: list[Access] = []

    def can_add(self, reads: list[Access], out: Access | None) -> bool:
        """Tell whether an operation can be added to the loop."""
        for a in reads:
            if any(may_alias(a, w, self.shape) for w in self.written):
                return False
        if out is None:
            return True
        same = out.base, out.offset, out.strides, out.dtype.itemsize
        return all(
            not may_alias(a, out, self.shape)
            or (a.base, a.offset, a.strides, a.dtype.itemsize) == same
            for a in [*self.read, *self.written, *reads]
        )


class Lowering:
    """Lowers the steps of a plan to functions, which take a table of the addresses of `bases`.

    Arguments are read from copies, where they are small. With `row_numbers` they are read where
    they are: the caller promises that they are C-contiguous, and that the arguments of these
    numbers have the numbers of rows that exist.
    """

    def __init__(self, plan: Plan, row_numbers: Collection[int] | None = None) -> None:
        self.plan, self.layout, self.row_numbers = plan, plan.layout, row_numbers
        self.items: list[_CompiledCall] = []
        self.functions: list[str] = []  # what is compiled
        self.done = 0  # operations that are compiled
        # Memory of which the functions know the address: its number
        self.bases: dict[Base, int] = {}
        self.used: set[str] = set()  # those that are read or written
        self.names: list[CName] = []  # of NumPy's functions and their data
        self.count = 0  # of functions that are called
        self.known: dict[str, str] = {}  # the text of a function: its name
        self.named = 0  # pointers
        self.readers: dict[int, list[Node]] = {}
        for n in plan.operations:
            for i in n.nodes:
                self.readers.setdefault(id(root(i)), []).append(n)
        self.kept = {id(root(r)) for r in plan.program.leaves if isinstance(r, Node)}

    def add(self, step: Step) -> bool:
        """Lower one more step; return whether it is supported."""
        try:
            self._lower(step)
        except UnsupportedError:
            return False
        self.done += len(step.nodes)
        return True

    def add_copy(self, leaf: Node, number: int) -> bool:
        """Lower the copy of a result into a donated argument; return whether it is supported."""
        given = self.plan.program.inputs[number]
        try:
            to = self._access(given)
            self.items.append(_single_loop(given.shape, "positive", (self._access(leaf),), to))
        except UnsupportedError:
            return False
        return True

    def compile(self) -> dict[str, Any]:
        """Return the compiled functions by name."""
        names = tuple([f"segment{i}" for i in range(self.count)])
        return machine_code(tuple(self.functions), names) if names else {}

    def address(self, number: int) -> int | None:
        """Return the address that a base of kind "address" stands for in this process."""
        return numpy_c.address(self.names[number])

    def summary(self) -> str:
        """Return a summary of what is compiled."""
        return (
            f"{self.done} of {len(self.plan.operations)} operations are machine code, "
            f"in {self.count} functions"
        )

    def staged(self) -> list[tuple[Node, bool]]:
        """Return the arguments that have a copy, the last one first, and whether it is read."""
        inputs, staged = self.plan.program.inputs, [b for b in self.bases if b[0] == "staged"]
        return [(inputs[b[1]], _pointer_name(b) in self.used) for b in reversed(staged)]

    def _lower(self, step: Step) -> None:
        node = step.nodes[0]
        if node.size == 0:
            return
        if step.rows:
            loop = _Loop(node.shape)
            for n in step.nodes:
                if not self._join(loop, n, *self._operands(n)):
                    raise UnsupportedError(n.op)
            self.items.append(loop)
        elif node.op in ELEMENTWISE or node.op in ("astype", "copy"):
            try:
                self._elementwise(node)
            except UnsupportedError:
                self._by_c(node)
        elif node.op == "matmul":
            self._product(node)
        elif node.op == "concat":
            self._concat(node)
        elif node.op == "take":
            self._take(node)
        elif node.op in BINARY or node.op == "mean":
            self._reduction(node)
        else:
            raise UnsupportedError(node.op)

    def close(self) -> str:
        """Make a function of the steps added so far; return its name, "" if there are none."""
        if not self.items:
            return ""
        lines: list[str] = []
        for item in self.items:
            if isinstance(item, _Loop):
                self._write(item)
            lines += item.lines
        self.items = []
        name = f"segment{self.count}"
        self.count += 1
        start = [f"define void @{name}(ptr %table) nounwind {{", "entry:"]
        for base, i in self.bases.items():
            start.append(f"%at{i} = getelementptr i64, ptr %table, i64 {i}")
            start.append(f"%{_pointer_name(base)} = load ptr, ptr %at{i}")
        self.functions.append("\n".join([*start, *SPACE, *lines, "ret void", "}"]))
        return name

    # Memory

    def _base(self, base: Base) -> str:
        """Return the name of the pointer to a base."""
        self.bases.setdefault(base, len(self.bases))
        return _pointer_name(base)

    def _address(self, name: CName) -> str:
        """Return the name of the pointer to a function, or to data, of NumPy's.

        It comes from the table: the text of the functions is the same in every process.
        """
        if name not in self.names:
            self.names.append(name)
        return f"%{self._base(('address', self.names.index(name)))}"

    def _loop(self, ufunc: Any, *dtypes: Any) -> list[str]:
        """Return the names of the function and of the data of NumPy's loop for these dtypes."""
        if numpy_c.loop(ufunc, dtypes) is None:
            raise UnsupportedError(ufunc.__name__)
        kinds = tuple([d.name for d in dtypes])
        name = ufunc.__name__
        return [self._address(CName(part, name, kinds)) for part in ("function", "data")]

    def _access(self, node: Node) -> Access:
        """Return where the elements of a node lie, which must be the same in each call."""
        found = self.layout[node]
        if found.base[0] == "argument":
            if self.row_numbers is None and self.plan.program.inputs[found.base[1]].nbytes > STAGED:
                raise UnsupportedError("a large argument")
            found = self.layout.staged[id(node)]
        if found.strides is None:
            raise UnsupportedError("a value inside a group")
        return Access(self._base(found.base), found.offset, found.strides, node.dtype)

    def _span(self, node: Node) -> tuple[str, int, int]:
        """Return the base, the first byte, and the byte after the last."""
        access = self._access(node)
        return (access.base, *access.span(node.shape))

    # Elementwise

    def _operands(self, node: Node) -> tuple[list[Any], tuple[Any, ...]]:
        """Return nodes and values, and the dtypes in which the operation is done."""
        operands: list[Any] = []
        kinds = []
        for i in node.inputs:
            if isinstance(i, Node):
                single = i.op == "constant" and i.size == 1
                operands.append(np.asarray(i.value) if single else i)
            else:
                operands.append(as_array(node, i))
                if operands[-1] is None:
                    raise UnsupportedError("a large number")
            kinds.append(operands[-1].dtype)
        if node.op in ("astype", "copy"):
            return operands, (node.dtype,)
        if node.op == "where":
            return operands, (np.dtype(bool), node.dtype, node.dtype)
        *dtypes, result = UFUNCS[node.op].resolve_dtypes((*kinds, None))
        if result != node.dtype:
            raise UnsupportedError("a result of another dtype")
        return operands, tuple(dtypes)

    def _elementwise(self, node: Node) -> None:
        operands, dtypes = self._operands(node)
        reads = [self._span(o) for o in operands if isinstance(o, Node)]
        writes = [self._span(node)]
        for item in reversed(self.items):  # done earlier, in a loop that is there
            if isinstance(item, _Loop) and self._join(item, node, operands, dtypes):
                return
            if item.conflicts_with(reads, writes):
                break
        for i, item in reversed(list(enumerate(self.items))):  # or that loop done later
            if not isinstance(item, _Loop) or item.shape != node.shape:
                continue
            later = self.items[i + 1 :]
            if any(other.conflicts_with(item.reads, item.writes) for other in later):
                continue
            if self._join(item, node, operands, dtypes):
                self.items = [*self.items[:i], *later, item]
                return
        loop = _Loop(node.shape)
        if not self._join(loop, node, operands, dtypes):
            raise UnsupportedError("memory that is read and written")
        self.items.append(loop)

    def _join(self, loop: _Loop, node: Node, operands: list[Any], dtypes: tuple[Any, ...]) -> bool:
        """Add an operation to a loop, if they can be done together."""
        if loop.shape != node.shape:
            return False
        given: list[Any] = []
        reads: list[Access] = []
        for o, dtype in zip(operands, dtypes, strict=True):
            if not isinstance(o, Node):
                given.append(number(o.astype(dtype)))
            elif id(root(o)) in loop.made and is_whole(o) and o.shape == node.shape:
                given.append(loop.made[id(root(o))])
            else:
                a = self._access(o)
                reads.append(a._replace(strides=broadcast(o.shape, a.strides, node.shape)))
                given.append(reads[-1])
        inside = self.layout[node].base[0] == "scratch"
        out = None if inside else self._access(node)
        if out is not None:
            out = out._replace(strides=broadcast(node.shape, out.strides, node.shape))
        op = "positive" if node.op in ("astype", "copy") else node.op
        made = Elementwise(op, tuple(given), dtypes, node.dtype, out)
        if not loop.can_add(reads, out):
            return False
        check(made, [r.result for r in loop.operations])
        accesses = [*loop.read, *loop.written, *reads, *([] if out is None else [out])]
        if len(collapsed(node.shape, accesses)[0]) > 2:
            return False
        loop.made[id(node)] = len(loop.operations)
        loop.nodes.append(node)
        loop.operations.append(made)
        loop.read += reads
        loop.reads += [(a.base, *a.span(node.shape)) for a in reads]
        if out is not None:
            loop.written.append(out)
            loop.writes.append((out.base, *out.span(node.shape)))
        return True

    def _write(self, loop: _Loop) -> None:
        """Write a loop as a function, and its call; values not read elsewhere are not stored."""
        own = {id(n) for n in loop.nodes}
        operations = []
        for k, e in enumerate(loop.operations):
            node = loop.nodes[k]
            wanted = node is None or id(node) in self.kept
            if node is not None:
                wanted = wanted or any(id(r) not in own for r in self.readers.get(id(node), []))
            operations.append(e if wanted else e._replace(out=None))
        text, places = function("LOOP", loop.shape, operations)
        pointers = [self._pointer(base, offset, loop.lines) for base, offset in places]
        loop.lines = self._call(text, pointers, loop.lines)

    def _call(self, text: str, pointers: list[str], lines: list[str]) -> list[str]:
        """Return the lines that call a function, which is written down once."""
        if text not in self.known:
            self.known[text] = f"f{len(self.known)}"
            self.functions.append(text.replace("LOOP", self.known[text]))
        given = ", ".join(f"ptr {p}" for p in pointers)
        return [*lines, f"call void @{self.known[text]}({given})"]

    def _pointer(self, base: str, offset: int, lines: list[str]) -> str:
        self.named += 1
        self.used.add(base)
        lines.append(f"%x{self.named} = getelementptr i8, ptr %{base}, i64 {offset}")
        return f"%x{self.named}"

    # C functions of NumPy

    def _has_unknown_strides(self, node: Node) -> bool:
        """Tell whether a node is an argument, or a view of one, whose strides are unknown.

        NumPy gets the argument itself, and its bits may depend on the strides: a contiguous copy
        may give others.
        """
        return self.row_numbers is None and self.layout[node].base[0] == "argument"

    def _by_c(self, node: Node) -> None:
        """One ufunc on arrays without gaps, and on single elements."""
        if node.op not in UFUNCS or node.dtype.char in "gG":
            raise UnsupportedError(node.op)
        if node.op == "pow" and node.dtype.kind in "iu":  # it raises, of negative powers
            raise UnsupportedError(node.op)
        operands, dtypes = self._operands(node)
        accesses = []
        for k, (o, dtype) in enumerate(zip(operands, dtypes, strict=True)):
            if o.dtype != dtype:
                raise UnsupportedError("a cast")
            shape = operand_shape(node, k)
            if shape not in ((), (1,), node.shape) or (len(node.shape) > 1 and shape == (1,)):
                raise UnsupportedError("broadcasting")
            # The stride that NumPy passes, as bits depend on it: 0 without axes.
            stride = 0 if shape == () or o.size < node.size else dtype.itemsize
            if isinstance(o, Node):
                a = self._access(o)
                if o.size > 1 and self._has_unknown_strides(o):
                    raise UnsupportedError("an argument of any strides")
                if not is_contiguous(o.shape, a.strides, dtype.itemsize):
                    raise UnsupportedError("strides")
                accesses.append((a, stride, o.size))
            else:
                base = self._base(self.layout.constants.add(o))
                accesses.append((Access(base, 0, (), dtype), stride, 1))
        out = self._access(node)
        call = self._loop(UFUNCS[node.op], *dtypes, node.dtype)
        accesses.append((out, out.dtype.itemsize, node.size))
        item = _CompiledCall([], [], [])
        pointers = [self._pointer(a.base, a.offset, item.lines) for a, _, _ in accesses]
        item.lines += c_call(pointers, node.size, [s for _, s, _ in accesses], call)
        spans = [(a.base, a.offset, a.offset + n * a.dtype.itemsize) for a, _, n in accesses]
        item.reads, item.writes = spans[:-1], spans[-1:]
        self.items.append(item)

    def _reduction(self, node: Node) -> None:
        """A sum (or the like) over the last axes, or over the first ones."""
        x, dtype, width = node.nodes[0], node.dtype, node.dtype.itemsize
        op = "sum" if node.op == "mean" else node.op
        outer, count, columns = _parts(x.shape, node.attr("axis"))
        access, out = self._access(x), self._access(node)
        flat = is_contiguous(x.shape, access.strides, width) and not self._has_unknown_strides(x)
        if not flat or x.dtype != dtype or dtype.kind == "b" or dtype.name not in MEMORY:
            raise UnsupportedError(op)
        if node.op == "mean" and dtype.name not in ("float32", "float64"):
            raise UnsupportedError(op)
        if columns > 1:  # o[j] = o[j] + x[i, j]
            along, first, rest = (0, width), (columns * width, width), columns
        else:  # o[i] = o[i] + x[i, j], one j after the other
            along, first, rest = (0, width), (width, count * width), outer
        in_order = op != "prod" if columns > 1 else count <= FEW[op]
        if in_order and dtype.kind == "f":
            into, from_ = out._replace(strides=along), access._replace(strides=first)
            start: Any = from_._replace(strides=first[1:])
            if op in IDENTITY:
                start = number(np.asarray(IDENTITY[op], dtype))
            else:
                from_, count = from_._replace(offset=access.offset + first[0]), count - 1
            one = out._replace(strides=along[1:])
            items: list[_CompiledCall] = [_single_loop((rest,), "positive", (start,), one)]
            items.append(_single_loop((count, rest), BINARY[op].__name__, (into, from_), into))
        else:
            items = [self._repeated(node, op, outer, count, columns)]
        if node.op == "mean":
            share = number(np.asarray(x.size / max(1, node.size), dtype))
            items.append(_single_loop(node.shape, "divide", (out, share), out))
        self.items += items

    def _repeated(self, node: Node, op: str, outer: int, count: int, columns: int) -> _CompiledCall:
        """Return calls of one of NumPy's functions, for each row."""
        x, out, dtype = self._access(node.nodes[0]), self._access(node), node.dtype
        if columns > 1 and op not in ("max", "min"):
            raise UnsupportedError(op)
        call = self._loop(BINARY[op], dtype, dtype, dtype)
        item = _CompiledCall([self._span(node.nodes[0])], [self._span(node)], [])
        o = self._pointer(out.base, out.offset, item.lines)
        p = self._pointer(x.base, x.offset, item.lines)
        if columns == 1:
            text = rows_text(op, dtype, outer, count)
        else:
            text = columns_text(dtype, count, columns)
        item.lines = self._call(text, [o, p, *call], item.lines)
        return item

    def _product(self, node: Node) -> None:
        """A product of matrices, by the function of BLAS that NumPy would choose."""
        x, W = node.nodes
        if not (len(x.shape) == len(W.shape) == 2 and x.dtype == W.dtype == node.dtype):
            raise UnsupportedError("matmul")
        if x.size == 0 or self._has_unknown_strides(x) or self._has_unknown_strides(W):
            raise UnsupportedError("matmul of an argument")
        a, b, out = self._access(x), self._access(W), self._access(node)
        (m, k), n, width = x.shape, W.shape[1], node.dtype.itemsize
        by_column = []
        for i, access in ((x, a), (W, b)):
            columnwise = is_contiguous(i.shape[::-1], access.strides[::-1], width)
            if not columnwise and not is_contiguous(i.shape, access.strides, width):
                raise UnsupportedError("strides")
            by_column.append(columnwise)
        kinds = _kind(x.shape), _kind(W.shape)
        # Two arguments may be one array: targets that are the inputs.
        arguments = all(self.layout[i].base[0] == "argument" for i in (x, W))
        if (a.base, a.offset) == (b.base, b.offset) or arguments:
            raise UnsupportedError("a product of a matrix with itself")
        if "one" in kinds:
            of_one = [
                i._replace(strides=broadcast(n.shape, i.strides, node.shape))
                for n, i in ((x, a), (W, b))
            ]
            self.items += _scaled(node.shape, out, *of_one)
            return
        item = _CompiledCall([self._span(x), self._span(W)], [self._span(node)], [])
        pa, pb, po = (self._pointer(i.base, i.offset, item.lines) for i in (a, b, out))
        t = "float" if width == 4 else "double"
        if kinds == ("row", "column"):
            call, given = "dot", f"INT {k}, ptr {pa}, INT 1, ptr {pb}, INT 1"
        elif kinds[0] == "matrix" and kinds[1] == "column":
            call, (order, lead) = "gemv", _order(x.shape, by_column[0])
            given = f"{order}, i32 111, INT {m}, INT {k}, {t} 1.0, ptr {pa}, INT {lead}"
            given += f", ptr {pb}, INT 1, {t} 0.0, ptr {po}, INT 1"
        elif kinds[0] == "row" and kinds[1] == "matrix":
            call, (order, lead) = "gemv", _order(W.shape, by_column[1])
            given = f"{order}, i32 112, INT {k}, INT {n}, {t} 1.0, ptr {pb}, INT {lead}"
            given += f", ptr {pa}, INT 1, {t} 0.0, ptr {po}, INT 1"
        else:
            call = "gemm"
            flags = [112 if c else 111 for c in by_column]
            lead_a, lead_b = (m if by_column[0] else k), (k if by_column[1] else n)
            given = f"i32 101, i32 {flags[0]}, i32 {flags[1]}, INT {m}, INT {n}, INT {k}, {t} 1.0"
            given += f", ptr {pa}, INT {lead_a}, ptr {pb}, INT {lead_b}, {t} 0.0, ptr {po}, INT {n}"
        found = numpy_c.product(call, node.dtype)
        if found is None:
            raise UnsupportedError("BLAS")
        given = given.replace("INT", f"i{found.bits}")
        address = self._address(CName("product", call, (node.dtype.name,), found.bits))
        if call == "dot":  # NumPy adds it to 0, which has no effect but on -0
            self.named += 1
            value = f"%d{self.named}"
            item.lines += [
                f"{value} = call {t} {address}({given})",
                f"{value}.0 = fadd {t} {value}, 0.0",
                f"store {t} {value}.0, ptr {po}",
            ]
        else:
            item.lines.append(f"call void {address}({given})")
        self.items.append(item)

    def _take(self, node: Node) -> None:
        """Rows of an argument, by row numbers that need no check."""
        x, index = node.nodes
        known = index.op == "input" and index.value in (self.row_numbers or ())
        if not known or node.attr("axis") != 0 or index.dtype.name not in ("int32", "int64"):
            raise UnsupportedError("take")
        a, i, out = self._access(x), self._access(index), self._access(node)
        if not is_contiguous(x.shape, a.strides, x.dtype.itemsize):
            raise UnsupportedError("strides")
        item = _CompiledCall([self._span(x), self._span(index)], [self._span(node)], [])
        pointers = [self._pointer(p.base, p.offset, item.lines) for p in (out, a, i)]
        rows = index.size
        item.lines = self._call(
            take_text(index.dtype, node.nbytes // rows, rows), pointers, item.lines
        )
        self.items.append(item)

    def _concat(self, node: Node) -> None:
        """Copy the parts that are not computed in their places."""
        out, axis = self._access(node), node.attr("axis")
        loops = []
        for part, start in self.layout.slots[id(node)]:
            if part.size:
                a = self._access(part)
                to = out._replace(offset=out.offset + start * out.strides[axis])
                if a.dtype != out.dtype or len(collapsed(part.shape, [a, to])[0]) > 2:
                    raise UnsupportedError("axes")
                loops.append(_single_loop(part.shape, "positive", (a,), to))
        self.items += loops


def _pointer_name(base: Base) -> str:
    return f"{base[0]}{base[1]}"


def _parts(shape: tuple[int, ...], axis: Any) -> tuple[int, int, int]:
    """Return how many elements lie before, in, and after the axes of a reduction."""
    axes = range(len(shape)) if axis is None else (axis,) if type(axis) is int else axis
    axes = [a for a in axes if shape[a] != 1]
    if not axes or 0 in shape:
        raise UnsupportedError("nothing to add")
    first, last = min(axes), max(axes)
    if any(shape[a] != 1 for a in range(first, last) if a not in axes):
        raise UnsupportedError("axes")
    parts = prod(shape[:first]), prod(shape[first : last + 1]), prod(shape[last + 1 :])
    if parts[0] > 1 and parts[2] > 1:
        raise UnsupportedError("axes")
    return parts


def _single_loop(shape: tuple[int, ...], op: str, operands: tuple[Any, ...], out: Access) -> _Loop:
    """Return a loop of one operation that belongs to no node."""
    loop = _Loop(shape)
    loop.nodes = [None]
    loop.operations = [Elementwise(op, operands, (out.dtype,) * len(operands), out.dtype, out)]
    check(loop.operations[0], [])
    loop.read = [o for o in operands if isinstance(o, Access)]
    loop.written = [out]
    loop.reads = [(a.base, *a.span(shape)) for a in loop.read]
    loop.writes = [(out.base, *out.span(shape))]
    return loop


def _scaled(shape: tuple[int, ...], out: Access, *given: Access) -> list[_CompiledCall]:
    """Return the product of a matrix of one element with a row or a column.

    Of several elements NumPy adds it to 0 (by axpy), which has no effect but on -0.
    """
    items: list[_CompiledCall] = [_single_loop(shape, "multiply", given, out)]
    if prod(shape) > 1:
        zero = number(np.asarray(0, out.dtype))
        items.append(_single_loop(shape, "add", (out, zero), out))
    return items


def _order(shape: tuple[int, ...], by_column: bool) -> tuple[str, int]:
    """Return the order of a matrix for gemv, and the elements from one row (column) to the next."""
    return (f"i32 {102}", shape[0]) if by_column else (f"i32 {101}", shape[1])


def _kind(shape: tuple[int, ...]) -> str:
    """Return what NumPy takes an array with two axes for."""
    if shape[0] > 1:
        return "matrix" if shape[1] > 1 else "column"
    return "row" if shape[1] > 1 else "one"


def any_overlap(a: list[Any], b: list[Any]) -> bool:
    """Tell whether any (base, first byte, end) of a shares memory with one of b."""
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def may_alias(a: Access, b: Access, shape: tuple[int, ...]) -> bool:
    """Tell whether two accesses of a loop share memory."""
    return any_overlap([(a.base, *a.span(shape))], [(b.base, *b.span(shape))])
