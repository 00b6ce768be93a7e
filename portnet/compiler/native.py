"""Native: the steps between NumPy's calls as one compiled function each.

A call of NumPy's costs half a microsecond before it computes anything, and small networks are made
of such calls. Here, a plan's steps become machine code by LLVM: elementwise operations of a shape
are one loop (`llvm`), everything else that it does is done by the functions in C that NumPy itself
would call (`c_parts`), with the same arguments, so that the bits are the same. Steps for which
there is neither stay calls of NumPy's between the compiled functions.
"""

import ctypes
import functools
import importlib.util
from math import prod
from typing import Any

import numpy as np

from . import c_parts
from .llvm import MEMORY, Access, Elementwise, UnsupportedError, check, collapsed, function, number
from .numpy_replay import REDUCERS, UFUNCS, Text, as_array
from .plan import Plan, Step, region, root
from .program import Node, unfrozen
from .rewrite import VIEWS
from .trace import ELEMENTWISE

STAGED = 65_536  # bytes: arguments up to here are copied to a place that code can know
IDENTITY = {"sum": 0, "prod": 1}


def available() -> bool:
    """Tell whether there is a compiler: the extra ``native``."""
    return importlib.util.find_spec("llvmlite") is not None


class _Item:
    """A call in a compiled function, and what it reads and writes: base, first byte, end."""

    def __init__(self, reads: list[Any], writes: list[Any], lines: list[str]) -> None:
        self.reads, self.writes, self.lines = reads, writes, lines

    def disturbs(self, reads: list[Any], writes: list[Any]) -> bool:
        """Whether operations that read and write there cannot be done before this one."""
        mine, theirs = [*self.reads, *self.writes], [*reads, *writes]
        return _overlap(self.writes, theirs) or _overlap(mine, writes)


class _Loop(_Item):
    """Elementwise operations of one shape, in one pass."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__([], [], [])
        self.shape = shape
        self.nodes: list[Node] = []
        self.operations: list[Elementwise] = []
        self.made: dict[int, int] = {}  # by id of a node: the number of its operation
        self.read: list[Access] = []
        self.written: list[Access] = []

    def takes(self, reads: list[Access], out: Access | None) -> bool:
        """Tell whether an operation can be done together with these, element by element."""
        for a in reads:
            if any(_touch(a, w, self.shape) for w in self.written):
                return False
        if out is None:
            return True
        same = out.base, out.offset, out.strides, out.dtype.itemsize
        return all(
            not _touch(a, out, self.shape)
            or (a.base, a.offset, a.strides, a.dtype.itemsize) == same
            for a in [*self.read, *self.written]
        )


class NativeText(Text):
    """The lines of a replay with compiled functions in it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.items: list[_Item] = []
        self.functions: list[str] = []  # what is compiled
        self.first: list[str] = []  # what is done before everything else
        self.segments = 0
        self.steps = 0  # that are compiled
        self.stages: dict[int, str] = {}
        self.known: dict[str, str] = {}  # the text of a function: its name
        self.count = 0
        self.readers: dict[int, list[Node]] = {}
        for n in plan.operations:
            for i in n.nodes:
                self.readers.setdefault(id(root(i)), []).append(n)
        kept = [r for r in plan.program.leaves if isinstance(r, Node)]
        self.kept = {id(root(n)) for n in [*kept, *(c for c, _ in plan.copies)]}

    def operations(self) -> None:
        """Write the calls of all steps: compiled ones where that can be."""
        for step in self.plan.steps:
            try:
                self._compile(step)
                self.steps += len(step.nodes)
            except UnsupportedError:
                self._close()
                self.step(step)
        self._close()
        self.each[:0] = self.first

    def _compile(self, step: Step) -> None:
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
                self._c_loop(node)
        elif node.op == "matmul":
            self._product(node)
        elif node.op == "concat":
            self._concat(node)
        elif node.op in REDUCERS or node.op == "mean":
            self._reduction(node)
        else:
            raise UnsupportedError(node.op)

    def _close(self) -> None:
        """Make a function of what has been gathered, and call it."""
        if not self.items:
            return
        lines: list[str] = []
        for item in self.items:
            if isinstance(item, _Loop):
                self._write(item)
            lines += item.lines
        self.items = []
        name = f"segment{self.segments}"
        self.segments += 1
        start = [f"define void @{name}(ptr %table) nounwind {{", "entry:"]
        for base, i in self.bases.items():
            start.append(f"%at{i} = getelementptr i64, ptr %table, i64 {i}")
            start.append(f"%{base} = load ptr, ptr %at{i}")
        self.functions.append("\n".join([*start, *_SPACE, *lines, "ret void", "}"]))
        self.each.append(f"{name}(table)")

    # Where things are

    def _access(self, node: Node) -> Access:
        """Return where the elements of a node lie, which must be the same in each call."""
        strides: tuple[int, ...]
        if node.op in VIEWS:
            return self._viewed(node)
        base, offset, strides = "", 0, _contiguous(node.shape, node.dtype.itemsize)
        if node.op == "constant":
            base = self.value(node.value)
            strides = np.asarray(node.value).strides
        elif id(node) in self.bound:
            base = self._stage(node)
        elif node.op == "input":
            base = f"d{node.value}"
        elif id(node) in self.plan.places:
            (kind, n), offset = self.plan.places[id(node)].base, self.plan.places[id(node)].offset
            base = f"{'m' if kind == 'buffer' else 'd'}{n}"
        else:
            raise UnsupportedError("scratch")
        self.bases.setdefault(base, len(self.bases))
        return Access(base, offset, strides, node.dtype)

    def _stage(self, node: Node) -> str:
        """Copy an argument that is another array in each call to a place of its own."""
        if node.nbytes > STAGED or node.size == 0:
            raise UnsupportedError("a large argument")
        if id(node) not in self.stages:
            base = f"p{len(self.staged)}"
            self.staged.append(node.nbytes)
            self.stages[id(node)] = base
            self.first.append(f"copyto({self._array(node, base, 0)}, {self.of[id(node)]})")
        return self.stages[id(node)]

    def _viewed(self, node: Node) -> Access:
        x = node.inputs[0]
        base, offset, strides, dtype = self._access(x)
        if node.op == "permute_dims":
            return Access(base, offset, tuple(strides[a] for a in node.attr("axes")), dtype)
        if node.op == "broadcast_to":
            return Access(base, offset, _broadcast(x.shape, strides, node.shape), dtype)
        if node.op == "reshape":
            if not _is_contiguous(x.shape, strides, dtype.itemsize):
                raise UnsupportedError("a reshaped view")
            return Access(base, offset, _contiguous(node.shape, dtype.itemsize), dtype)
        new, left = [], list(zip(x.shape, strides, strict=True))
        for key in unfrozen(node.attr("key")):
            if key is None:
                new.append(0)
                continue
            n, stride = left.pop(0)
            if isinstance(key, slice):
                begin, _, step = key.indices(n)
                new.append(stride * step)
            else:
                begin = key
            offset += begin * stride
        return Access(base, offset, (*new, *(s for _, s in left)), dtype)

    def _span(self, node: Node) -> tuple[str, int, int]:
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
        for item in reversed(self.items):
            if (
                isinstance(item, _Loop)
                and item.shape == node.shape
                and self._join(item, node, operands, dtypes)
            ):
                return
            reads = [self._span(o) for o in operands if isinstance(o, Node)]
            if item.disturbs(reads, [self._span(node)]):
                break
        loop = _Loop(node.shape)
        if not self._join(loop, node, operands, dtypes):
            raise UnsupportedError("memory that is read and written")
        self.items.append(loop)

    def _join(self, loop: _Loop, node: Node, operands: list[Any], dtypes: tuple[Any, ...]) -> bool:
        """Add an operation to a loop, if they can be done together."""
        given: list[Any] = []
        reads: list[Access] = []
        for o, dtype in zip(operands, dtypes, strict=True):
            if not isinstance(o, Node):
                given.append(number(o.astype(dtype)))
            elif id(root(o)) in loop.made and _whole(o) and o.shape == node.shape:
                given.append(loop.made[id(root(o))])
            else:
                a = self._access(o)
                reads.append(a._replace(strides=_broadcast(o.shape, a.strides, node.shape)))
                given.append(reads[-1])
        inside = id(node) in self.plan.scratch
        out = None if inside else self._access(node)
        op = "positive" if node.op in ("astype", "copy") else node.op
        made = Elementwise(op, tuple(given), dtypes, node.dtype, out)
        if not loop.takes(reads, out):
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
        """Write a loop as a function, and its call; what nobody else reads is not stored."""
        own = {id(n) for n in loop.nodes}
        operations = []
        for k, e in enumerate(loop.operations):
            node = loop.nodes[k] if k < len(loop.nodes) else None
            wanted = node is None or id(node) in self.kept
            if node is not None:
                wanted = wanted or any(id(r) not in own for r in self.readers.get(id(node), []))
            operations.append(e if wanted else e._replace(out=None))
        text, places = function("LOOP", loop.shape, operations)
        loop.lines = self._call(text, [self._pointer(*p, loop.lines) for p in places], loop.lines)

    def _call(self, text: str, pointers: list[str], lines: list[str]) -> list[str]:
        """Return the lines that call a function, which is written down once."""
        if text not in self.known:
            self.known[text] = f"f{len(self.known)}"
            self.functions.append(text.replace("LOOP", self.known[text]))
        given = ", ".join(f"ptr {p}" for p in pointers)
        return [*lines, f"call void @{self.known[text]}({given})"]

    def _pointer(self, base: str, offset: int, lines: list[str]) -> str:
        self.count += 1
        lines.append(f"%x{self.count} = getelementptr i8, ptr %{base}, i64 {offset}")
        return f"%x{self.count}"

    # What NumPy's functions in C do

    def _c_loop(self, node: Node) -> None:
        """One ufunc on arrays without gaps, and on single elements."""
        if node.op not in UFUNCS:
            raise UnsupportedError(node.op)
        operands, dtypes = self._operands(node)
        accesses = []
        for o, dtype in zip(operands, dtypes, strict=True):
            if o.dtype != dtype:
                raise UnsupportedError("a cast")
            if isinstance(o, Node):
                a = self._access(o)
                if o.shape != node.shape and o.size != 1:
                    raise UnsupportedError("broadcasting")
                if not _is_contiguous(o.shape, a.strides, dtype.itemsize):
                    raise UnsupportedError("strides")
                accesses.append((a, dtype.itemsize if o.size > 1 else 0, o.size))
            else:
                base = self.value(o)
                self.bases.setdefault(base, len(self.bases))
                accesses.append((Access(base, 0, (), dtype), 0, 1))
        out = self._access(node)
        call = c_parts.loop(UFUNCS[node.op], (*dtypes, node.dtype))
        if call is None:
            raise UnsupportedError(node.op)
        accesses.append((out, out.dtype.itemsize, node.size))
        item = _Item([], [], [])
        pointers = [self._pointer(a.base, a.offset, item.lines) for a, _, _ in accesses]
        item.lines += _c_call(call, pointers, node.size, [s for _, s, _ in accesses])
        spans = [(a.base, a.offset, a.offset + n * a.dtype.itemsize) for a, _, n in accesses]
        item.reads, item.writes = spans[:-1], spans[-1:]
        self.items.append(item)

    def _reduction(self, node: Node) -> None:
        """A sum (or the like) over the last axes, or over the first: one call of C for each row."""
        x = node.nodes[0]
        op = "sum" if node.op == "mean" else node.op
        axes = node.attr("axis")
        axes = range(len(x.shape)) if axes is None else (axes,) if type(axes) is int else axes
        axes = [a for a in axes if x.shape[a] != 1]
        if not axes or x.size == 0 or x.dtype != node.dtype or node.dtype.kind not in "fiu":
            raise UnsupportedError(op)
        if node.op == "mean" and node.dtype.name not in ("float32", "float64"):
            raise UnsupportedError(op)
        first, last = min(axes), max(axes)
        if any(x.shape[a] != 1 for a in range(first, last) if a not in axes):
            raise UnsupportedError("axes")
        outer, count = prod(x.shape[:first]), prod(x.shape[first : last + 1])
        columns = prod(x.shape[last + 1 :])
        access, out, width = self._access(x), self._access(node), node.dtype.itemsize
        if not _is_contiguous(x.shape, access.strides, width) or (outer > 1 and columns > 1):
            raise UnsupportedError("axes")
        call = c_parts.loop(REDUCERS[op].__self__, (node.dtype,) * 3)
        if call is None or (op == "prod" and columns > 1):
            raise UnsupportedError(op)
        item = _Item([self._span(x)], [self._span(node)], [])
        o = self._pointer(out.base, out.offset, item.lines)
        p = self._pointer(access.base, access.offset, item.lines)
        if columns == 1:
            text = _rows(call, op, node.dtype, outer, count)
        else:
            text = _columns(call, op, node.dtype, count, columns)
        item.lines = self._call(text, [o, p], item.lines)
        self.items.append(item)
        if node.op == "mean":
            flat = out._replace(strides=_contiguous(node.shape, width))
            loop = _Loop(node.shape)
            share = number(np.asarray(x.size / max(1, node.size), node.dtype))
            kinds = (node.dtype, node.dtype)
            loop.operations.append(Elementwise("divide", (flat, share), kinds, node.dtype, flat))
            loop.reads, loop.writes = item.writes, item.writes
            loop.read, loop.written = [flat], [flat]
            self.items.append(loop)

    def _product(self, node: Node) -> None:
        """A product of matrices, by the function of BLAS that NumPy would choose."""
        x, W = node.nodes
        if not (len(x.shape) == len(W.shape) == 2 and x.dtype == W.dtype == node.dtype):
            raise UnsupportedError("matmul")
        if any(id(root(i)) in self.bound for i in (x, W)):  # who knows how it lies in memory
            raise UnsupportedError("matmul of an argument")
        a, b, out = self._access(x), self._access(W), self._access(node)
        (m, k), n, width = x.shape, W.shape[1], node.dtype.itemsize
        by_column = []
        for i, access in ((x, a), (W, b)):
            columnwise = _is_contiguous(i.shape[::-1], access.strides[::-1], width)
            if not columnwise and not _is_contiguous(i.shape, access.strides, width):
                raise UnsupportedError("strides")
            by_column.append(columnwise)
        kinds = _kind(x.shape), _kind(W.shape)
        if "one" in kinds or kinds == ("row", "column") or (a.base, a.offset) == (b.base, b.offset):
            raise UnsupportedError("a product that is none of matrices")
        item = _Item([self._span(x), self._span(W)], [self._span(node)], [])
        pa, pb, po = (self._pointer(i.base, i.offset, item.lines) for i in (a, b, out))
        t = "float" if width == 4 else "double"
        if kinds[0] == "matrix" and kinds[1] == "column":
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
        found = c_parts.product(call, node.dtype)
        if found is None:
            raise UnsupportedError("BLAS")
        given = given.replace("INT", f"i{found.bits}")
        item.lines.append(f"call void inttoptr (i64 {found.function} to ptr)({given})")
        self.items.append(item)

    def _concat(self, node: Node) -> None:
        """Copy the parts that are not computed in their places."""
        out, axis = self._access(node), node.attr("axis")
        loops = []
        for part, start in self.plan.slots[id(node)]:
            if part.size:
                a = self._access(part)
                to = out._replace(offset=out.offset + start * out.strides[axis])
                e = Elementwise("positive", (a,), (node.dtype,), node.dtype, to)
                check(e, [])
                if len(collapsed(part.shape, [a, to])[0]) > 2:
                    raise UnsupportedError("axes")
                loop = _Loop(part.shape)
                loop.operations, loop.read, loop.written = [e], [a], [to]
                loop.reads = [(a.base, *a.span(part.shape))]
                loop.writes = [(to.base, *to.span(part.shape))]
                loops.append(loop)
        self.items += loops


def _order(shape: tuple[int, ...], by_column: bool) -> tuple[str, int]:
    """Return the order of a matrix for gemv, and the elements from one row (column) to the next."""
    return (f"i32 {102}", shape[0]) if by_column else (f"i32 {101}", shape[1])


def _kind(shape: tuple[int, ...]) -> str:
    """Return what NumPy takes an array with two axes for."""
    if shape[0] > 1:
        return "matrix" if shape[1] > 1 else "column"
    return "row" if shape[1] > 1 else "one"


def _contiguous(shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    strides: list[int] = []
    for n in reversed(shape):
        strides.insert(0, width)
        width *= n
    return tuple(strides)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], width: int) -> bool:
    wanted = _contiguous(shape, width)
    return all(n == 1 or s == w for n, s, w in zip(shape, strides, wanted, strict=True))


def _broadcast(
    shape: tuple[int, ...], strides: tuple[int, ...], to: tuple[int, ...]
) -> tuple[int, ...]:
    kept = [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    return (*[0] * (len(to) - len(shape)), *kept)


def _whole(node: Node) -> bool:
    """Whether a node is its root, or another shape of all of it."""
    found = region(node)
    return found is not None and found[1:] == (0, found[0].size)


def _overlap(a: list[Any], b: list[Any]) -> bool:
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def _touch(a: Access, b: Access, shape: tuple[int, ...]) -> bool:
    return _overlap([(a.base, *a.span(shape))], [(b.base, *b.span(shape))])


# Functions in LLVM's words ----------------------------------------------------------------------

_SPACE = ["%args = alloca [3 x ptr]", "%count = alloca i64", "%steps = alloca [3 x i64]"]


def _c_call(call: c_parts.CLoop, pointers: list[str], count: int, steps: list[int]) -> list[str]:
    """Return the lines that call a loop of NumPy's."""
    lines = [f"store i64 {count}, ptr %count"]
    for k, (p, s) in enumerate(zip(pointers, steps, strict=True)):
        for kind, table, value in (("ptr", "args", p), ("i64", "steps", s)):
            name = f"%{table}.{pointers[0][1:]}.{k}"
            lines.append(f"{name} = getelementptr {kind}, ptr %{table}, i64 {k}")
            lines.append(f"store {kind} {value}, ptr {name}")
    data = f"ptr inttoptr (i64 {call.data} to ptr)"
    to = f"inttoptr (i64 {call.function} to ptr)"
    return [*lines, f"call void {to}(ptr %args, ptr %count, ptr %steps, {data})"]


def _rows(call: c_parts.CLoop, op: str, dtype: Any, rows: int, count: int) -> str:
    """o[i] = sum of x[i, :]: from 0 on, or from the first element on."""
    width, t = dtype.itemsize, MEMORY[dtype.name]
    skip = 0 if op in IDENTITY else 1
    start = [f"%first = load {t}, ptr %xi", f"store {t} %first, ptr %oi"]
    if op in IDENTITY:
        start = [f"store {t} {number(np.asarray(IDENTITY[op], dtype)).text}, ptr %oi"]
    calls = []
    if count > skip:
        calls = _c_call(call, ["%oi", "%xs", "%oi"], count - skip, [0, width, 0])
    body = [
        f"%oa = mul nsw i64 %i, {width}",
        "%oi = getelementptr i8, ptr %o, i64 %oa",
        f"%xa = mul nsw i64 %i, {width * count}",
        "%xi = getelementptr i8, ptr %x, i64 %xa",
        f"%xs = getelementptr i8, ptr %xi, i64 {width * skip}",
        *start,
        *calls,
    ]
    return _repeat([], body, rows)


def _columns(call: c_parts.CLoop, op: str, dtype: Any, rows: int, columns: int) -> str:
    """o[:] = sum of x[i, :] over i: from 0 on, or from the first row on."""
    width = dtype.itemsize
    row, skip = width * columns, 0 if op in IDENTITY else 1
    start = [f"call void @llvm.memcpy.p0.p0.i64(ptr %o, ptr %x, i64 {row}, i1 false)"]
    if op in IDENTITY:
        start = [f"call void @llvm.memset.p0.i64(ptr %o, i8 0, i64 {row}, i1 false)"]
    body = [
        f"%xa = mul nsw i64 %i, {row}",
        "%xi = getelementptr i8, ptr %x, i64 %xa",
        f"%xs = getelementptr i8, ptr %xi, i64 {row * skip}",
        *_c_call(call, ["%o", "%xs", "%o"], columns, [width] * 3),
    ]
    return _repeat(start, body, rows - skip)


def _repeat(start: list[str], body: list[str], count: int) -> str:
    """Return a function of %o and %x that does something, and then something else for each %i."""
    lines = ["define internal void @LOOP(ptr %o, ptr %x) noinline nounwind {", "entry:", *_SPACE]
    lines += start
    if count:
        lines += [
            "br label %rows",
            "rows:",
            "%i = phi i64 [0, %entry], [%i1, %rows]",
            *body,
            "%i1 = add nuw nsw i64 %i, 1",
            f"%ic = icmp ult i64 %i1, {count}",
            "br i1 %ic, label %rows, label %done",
            "done:",
        ]
    return "\n".join([*lines, "ret void", "}"])


# Compiling --------------------------------------------------------------------------------------

DECLARED = """
declare float @llvm.fabs.f32(float)
declare double @llvm.fabs.f64(double)
declare float @llvm.sqrt.f32(float)
declare double @llvm.sqrt.f64(double)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""


@functools.cache
def _target() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )


def machine_code(functions: list[str], segments: int) -> dict[str, Any]:
    """Compile; return the functions that a replay calls, by name, and what keeps them alive."""
    from llvmlite import binding

    target = _target()
    module = binding.parse_assembly("\n".join([DECLARED, *functions]))
    module.triple, module.data_layout = target.triple, str(target.target_data)
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = True
    builder = binding.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    engine = binding.create_mcjit_compiler(module, target)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    names = [f"segment{i}" for i in range(segments)]
    found: dict[str, Any] = {n: kind(engine.get_function_address(n)) for n in names}
    return found | {"engine": engine}
