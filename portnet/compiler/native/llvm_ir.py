"""LLVM IR: loops over elements, for operations that IEEE 754 rounds in one way only.

``o[i, j] = f(x[i, j], y[i, j], ...)`` for any number of operations in one pass: intermediate values
stay in registers. No operation is fused with another's rounding (no a * b + c in one),
none is taken in another order, so that the bits are those of NumPy. What is not in the tables below
(exp, integer division, casts of floats to integers) is Unsupported.
"""

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "COMPARISONS",
    "IDENTITY",
    "MEMORY",
    "SPACE",
    "Access",
    "Elementwise",
    "UnsupportedError",
    "c_call",
    "check",
    "collapsed",
    "columns_text",
    "function",
    "number",
    "rows_text",
    "take_text",
]

REGISTER = {
    "bool": "i1",
    "float32": "float",
    "float64": "double",
    **{f"{u}int{bits}": f"i{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)},
}
MEMORY = REGISTER | {"bool": "i8"}

# Of the type t, operands a and b, and the suffix s of LLVM's functions.
FLOATS = {
    "add": "fadd {t} {a}, {b}",
    "subtract": "fsub {t} {a}, {b}",
    "multiply": "fmul {t} {a}, {b}",
    "divide": "fdiv {t} {a}, {b}",
    "negative": "fneg {t} {a}",
    "square": "fmul {t} {a}, {a}",
    "reciprocal": "fdiv {t} 0x3FF0000000000000, {a}",
    "abs": "call {t} @llvm.fabs.{s}({t} {a})",
    "sqrt": "call {t} @llvm.sqrt.{s}({t} {a})",
    "isnan": "fcmp uno {t} {a}, {a}",
}
INTEGERS = {
    "add": "add {t} {a}, {b}",
    "subtract": "sub {t} {a}, {b}",
    "multiply": "mul {t} {a}, {b}",
    "negative": "sub {t} 0, {a}",
    "square": "mul {t} {a}, {a}",
    "bitwise_and": "and {t} {a}, {b}",
    "bitwise_or": "or {t} {a}, {b}",
    "bitwise_xor": "xor {t} {a}, {b}",
}
BOOLEANS = {
    "logical_and": "and",
    "bitwise_and": "and",
    "multiply": "and",
    "logical_or": "or",
    "bitwise_or": "or",
    "add": "or",
    "logical_xor": "xor",
    "bitwise_xor": "xor",
    "not_equal": "xor",
}
COMPARISONS = {
    "greater": ("ogt", "gt"),
    "greater_equal": ("oge", "ge"),
    "less": ("olt", "lt"),
    "less_equal": ("ole", "le"),
    "equal": ("oeq", "eq"),
    "not_equal": ("une", "ne"),
}
SHIFTS = {"bitwise_left_shift": "shl", "bitwise_right_shift": "shr"}


class UnsupportedError(Exception):
    """An operation that stays NumPy's."""


class Value(NamedTuple):
    """A number in a register, or written into the text."""

    text: str
    dtype: Any


class Block:
    """Lines, one after the other."""

    def __init__(self, names: list[int]) -> None:
        self.lines: list[str] = []
        self.names = names  # how many there are in the function

    def do(self, line: str) -> str:
        """Add a line that makes a value; return its name."""
        self.names[0] += 1
        name = f"%v{self.names[0]}"
        self.lines.append(f"{name} = {line}")
        return name


def number(array: Any) -> Value:
    """Return the only element of an array as a value."""
    dtype, item = array.dtype, array.item()
    if dtype.kind == "b":
        return Value("true" if item else "false", dtype)
    if dtype.kind == "f":  # a float is written as the double that it is
        return Value(f"0x{struct.pack('>d', item).hex().upper()}", dtype)
    return Value(str(item), dtype)


def compute(to: Block, op: str, given: list[Value], result: Any) -> Value:
    """Write down an operation on values of the dtype in which it is done; return the result."""
    if any(v.dtype != given[-1].dtype for v in given[op == "where" :]):
        raise UnsupportedError(op)  # signed and unsigned numbers are compared
    kind = given[-1].dtype.kind
    t = _register(given[-1].dtype)
    texts = [v.text for v in given]
    a, b = texts[0], texts[-1]
    pair = f"{t} {a}, {b}"
    if op == "where":
        return Value(to.do(f"select i1 {a}, {t} {texts[1]}, {t} {b}"), result)
    if op in ("positive", "copy"):
        return Value(a, result)
    if op in COMPARISONS and not (kind == "b" and op != "not_equal"):
        if kind == "f":
            return Value(to.do(f"fcmp {COMPARISONS[op][0]} {pair}"), result)
        sign = "" if op in ("equal", "not_equal") else "s" if kind == "i" else "u"
        return Value(to.do(f"icmp {sign}{COMPARISONS[op][1]} {pair}"), result)
    if kind == "b":
        if op in ("logical_not", "bitwise_invert"):
            return Value(to.do(f"xor i1 {a}, true"), result)
        return Value(to.do(f"{_known(BOOLEANS, op)} {pair}"), result)
    if kind == "f":
        return Value(_float(to, op, t, a, b), result)
    if op in SHIFTS:
        bits = 8 * given[0].dtype.itemsize
        if not b.isdigit() or int(b) >= bits:
            raise UnsupportedError(op)
        which = SHIFTS[op] if op == "bitwise_left_shift" else "ashr" if kind == "i" else "lshr"
        return Value(to.do(f"{which} {pair}"), result)
    return Value(to.do(_known(INTEGERS, op).format(t=t, a=a, b=b)), result)


def _float(to: Block, op: str, t: str, a: str, b: str) -> str:
    suffix = "f32" if t == "float" else "f64"
    if op in ("maximum", "minimum"):  # NaN wins; of two zeros the second
        first = to.do(f"fcmp {'ogt' if op == 'maximum' else 'olt'} {t} {a}, {b}")
        nan = to.do(f"fcmp uno {t} {a}, {a}")
        either = to.do(f"or i1 {first}, {nan}")
        return to.do(f"select i1 {either}, {t} {a}, {t} {b}")
    if op == "isfinite":
        size = _float(to, "abs", t, a, b)
        return to.do(f"fcmp olt {t} {size}, {number(np.asarray(np.inf)).text}")
    return to.do(_known(FLOATS, op).format(t=t, a=a, b=b, s=suffix))


def converted(to: Block, value: Value, dtype: Any) -> Value:
    """Write down a cast, where it is exact or rounds in one way only."""
    old = value.dtype
    if old == dtype:
        return value
    s, t = _register(old), _register(dtype)
    if dtype.kind == "b":
        zero = number(np.zeros((), old)).text
        compared = "fcmp une" if old.kind == "f" else "icmp ne"
        return Value(to.do(f"{compared} {s} {value.text}, {zero}"), dtype)
    if old.kind == "f":
        if dtype.kind != "f":
            raise UnsupportedError("astype")
        how = "fpext" if old.itemsize < dtype.itemsize else "fptrunc"
    elif dtype.kind == "f":
        how = "sitofp" if old.kind == "i" else "uitofp"
    elif old.kind != "b" and old.itemsize >= dtype.itemsize:
        how = "trunc" if old.itemsize > dtype.itemsize else "bitcast"
    else:
        how = "sext" if old.kind == "i" else "zext"
    if how == "bitcast":  # signed or not: the same bits
        return Value(value.text, dtype)
    return Value(to.do(f"{how} {s} {value.text} to {t}"), dtype)


def _register(dtype: Any) -> str:
    return _known(REGISTER, dtype.name)


def _known(table: dict[str, str], op: str) -> str:
    if op not in table:
        raise UnsupportedError(op)
    return table[op]


# Memory -----------------------------------------------------------------------------------------


class Access(NamedTuple):
    """Where elements lie: from byte `offset` of a base on, with `strides` along a loop's axes."""

    base: str
    offset: int
    strides: tuple[int, ...]
    dtype: Any

    def span(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the first byte, and the byte after the last."""
        reach = [(n - 1) * s for n, s in zip(shape, self.strides, strict=True)]
        first = self.offset + sum(r for r in reach if r < 0)
        return first, self.offset + sum(r for r in reach if r > 0) + self.dtype.itemsize


def collapsed(
    shape: tuple[int, ...], accesses: list[Access]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Return the fewest axes over which to loop, and the strides of each access along them."""
    dims: list[int] = []
    strides: list[list[int]] = [[] for _ in accesses]
    for axis in reversed(range(len(shape))):
        n = shape[axis]
        steps = [a.strides[axis] for a in accesses]
        if n == 1:
            continue
        if dims and all(s == old[0] * dims[0] for s, old in zip(steps, strides, strict=True)):
            dims[0] *= n
            continue
        dims.insert(0, n)
        for old, s in zip(strides, steps, strict=True):
            old.insert(0, s)
    return tuple(dims), [tuple(s) for s in strides]


class Elementwise(NamedTuple):
    """One operation in a loop. Operands: an access, a Value, or the number of an operation."""

    op: str
    operands: tuple[Any, ...]
    dtypes: tuple[Any, ...]  # in which it is done
    result: Any
    out: Access | None  # None: not read outside of the loop


def check(e: Elementwise, before: list[Any]) -> None:
    """Raise where an operation is unsupported; `before` are the dtypes of those before it."""
    to = Block([0])
    given = []
    for o, dtype in zip(e.operands, e.dtypes, strict=True):
        value = o if isinstance(o, Value) else None
        if value is None:
            value = Value("%x", o.dtype if isinstance(o, Access) else before[o])
        if isinstance(o, Access) and any(s % o.dtype.itemsize for s in o.strides):
            raise UnsupportedError("strides")
        given.append(converted(to, value, dtype))
    compute(to, e.op, given, e.result)
    _register(e.result)


def function(name: str, shape: tuple[int, ...], operations: list[Elementwise]) -> Any:
    """Return the text of a loop, and the places of its pointers: (base, offset)."""
    accesses = [o for e in operations for o in e.operands if isinstance(o, Access)]
    accesses += [e.out for e in operations if e.out is not None]
    dims, strides = collapsed(shape, accesses)
    if len(dims) > 2:
        raise UnsupportedError("axes")
    of = dict(zip(accesses, strides, strict=True))
    pointers = {p: i for i, p in enumerate(dict.fromkeys((a.base, a.offset) for a in accesses))}
    names = [0]
    blocks = [Block(names) for _ in range(len(dims) + 1)]  # before, in the rows, in the columns
    known: dict[Access, Value] = {}
    outs = [e.out for e in operations]

    def address(to: Block, access: Access) -> str:
        item = access.dtype.itemsize
        at = []
        for index, stride in zip(
            ("%i", "%j")[-len(dims) :] if dims else (), of[access], strict=True
        ):
            if stride:
                at.append(to.do(f"mul nsw i64 {index}, {stride // item}"))
        pointer = f"%p{pointers[access.base, access.offset]}"
        if not at:
            return pointer
        where = at[0] if len(at) == 1 else to.do(f"add nsw i64 {at[0]}, {at[1]}")
        return to.do(f"getelementptr {MEMORY[access.dtype.name]}, ptr {pointer}, i64 {where}")

    def read(access: Access) -> Value:
        if access not in known:
            moving = [k + 1 for k, s in enumerate(of[access]) if s]
            sums = access in outs  # o = o + x: what is written in each turn is read anew in each
            to = blocks[-1 if sums else max(moving, default=0)]
            text = to.do(f"load {_known(MEMORY, access.dtype.name)}, ptr {address(to, access)}")
            if access.dtype.kind == "b":
                text = to.do(f"icmp ne i8 {text}, 0")
            known[access] = Value(text, access.dtype)
        return known[access]

    results: list[Value] = []
    inner = blocks[-1]
    for e in operations:
        given = []
        for o, dtype in zip(e.operands, e.dtypes, strict=True):
            value = read(o) if isinstance(o, Access) else o if isinstance(o, Value) else results[o]
            given.append(converted(inner, value, dtype))
        made = compute(inner, e.op, given, e.result)
        results.append(made)
        if e.out is not None:
            text = made.text
            if made.dtype.kind == "b":
                text = inner.do(f"zext i1 {text} to i8")
            kind = MEMORY[made.dtype.name]
            where = address(inner, e.out)
            inner.lines.append(f"store {kind} {text}, ptr {where}")
    arguments = ", ".join(f"ptr noalias %p{i}" for i in pointers.values())
    lines = [f"define internal void @{name}({arguments}) noinline nounwind {{"]
    lines += _nest(blocks, dims)
    return "\n".join([*lines, "}"]), list(pointers)


def _nest(blocks: list[Block], dims: tuple[int, ...]) -> Iterable[str]:
    if not dims:
        return ["entry:", *blocks[0].lines, "ret void"]
    columns = [
        "columns:",
        f"%j = phi i64 [0, %{'rows' if len(dims) == 2 else 'entry'}], [%j1, %columns]",
        *blocks[-1].lines,
        "%j1 = add nuw nsw i64 %j, 1",
        f"%jc = icmp ult i64 %j1, {dims[-1]}",
        f"br i1 %jc, label %columns, label %{'row' if len(dims) == 2 else 'done'}",
    ]
    if len(dims) == 1:
        return ["entry:", *blocks[0].lines, "br label %columns", *columns, "done:", "ret void"]
    return [
        "entry:",
        *blocks[0].lines,
        "br label %rows",
        "rows:",
        "%i = phi i64 [0, %entry], [%i1, %row]",
        *blocks[1].lines,
        "br label %columns",
        *columns,
        "row:",
        "%i1 = add nuw nsw i64 %i, 1",
        f"%ic = icmp ult i64 %i1, {dims[0]}",
        "br i1 %ic, label %rows, label %done",
        "done:",
        "ret void",
    ]


# Calls of NumPy's functions in C -----------------------------------------------------------------

IDENTITY = {"sum": 0, "prod": 1}
SPACE = ["%args = alloca [3 x ptr]", "%count = alloca i64", "%steps = alloca [3 x i64]"]


def c_call(pointers: list[str], count: int, steps: list[int], loop: list[str]) -> list[str]:
    """Return the lines that call a loop of NumPy's; `loop` names its function and its data."""
    lines = [f"store i64 {count}, ptr %count"]
    for k, (p, s) in enumerate(zip(pointers, steps, strict=True)):
        for kind, table, value in (("ptr", "args", p), ("i64", "steps", s)):
            name = f"%{table}.{pointers[0][1:]}.{k}"
            lines.append(f"{name} = getelementptr {kind}, ptr %{table}, i64 {k}")
            lines.append(f"store {kind} {value}, ptr {name}")
    function, data = loop
    return [*lines, f"call void {function}(ptr %args, ptr %count, ptr %steps, ptr {data})"]


def rows_text(op: str, dtype: Any, rows: int, count: int) -> str:
    """o[i] = sum of x[i, :]: from 0 on, or from the first element on."""
    width, t = dtype.itemsize, MEMORY[dtype.name]
    skip = 0 if op in IDENTITY else 1
    start = [f"%first = load {t}, ptr %xi", f"store {t} %first, ptr %oi"]
    if op in IDENTITY:
        start = [f"store {t} {number(np.asarray(IDENTITY[op], dtype)).text}, ptr %oi"]
    calls = []
    if count > skip:
        calls = c_call(["%oi", "%xs", "%oi"], count - skip, [0, width, 0], ["%f", "%d"])
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


def columns_text(dtype: Any, rows: int, columns: int) -> str:
    """o[:] = max of x[i, :] over i: from the first row on."""
    width = dtype.itemsize
    row = width * columns
    start = [f"call void @llvm.memcpy.p0.p0.i64(ptr %o, ptr %x, i64 {row}, i1 false)"]
    body = [
        f"%xa = mul nsw i64 %i, {row}",
        "%xi = getelementptr i8, ptr %x, i64 %xa",
        f"%xs = getelementptr i8, ptr %xi, i64 {row}",
        *c_call(["%o", "%xs", "%o"], columns, [width] * 3, ["%f", "%d"]),
    ]
    return _repeat(start, body, rows - 1)


def take_text(index: Any, nbytes: int, rows: int) -> str:
    """o[i, :] = x[index[i], :], rows of `nbytes` bytes; the index is not checked."""
    t = MEMORY[index.name]
    body = [
        f"%ia = getelementptr {t}, ptr %index, i64 %i",
        f"%in = load {t}, ptr %ia",
        f"%n = sext {t} %in to i64" if t != "i64" else "%n = add i64 %in, 0",
        f"%xa = mul nsw i64 %n, {nbytes}",
        "%xi = getelementptr i8, ptr %x, i64 %xa",
        f"%oa = mul nsw i64 %i, {nbytes}",
        "%oi = getelementptr i8, ptr %o, i64 %oa",
        f"call void @llvm.memcpy.p0.p0.i64(ptr %oi, ptr %xi, i64 {nbytes}, i1 false)",
    ]
    return _repeat([], body, rows, "ptr noalias %o, ptr noalias %x, ptr noalias %index")


LOOP_ARGUMENTS = "ptr %o, ptr %x, ptr %f, ptr %d"  # the last two are those of a loop of NumPy's


def _repeat(start: list[str], body: list[str], count: int, given: str = LOOP_ARGUMENTS) -> str:
    """Return a function that does something, and then something else for each %i."""
    lines = [f"define internal void @LOOP({given}) noinline nounwind {{", "entry:", *SPACE]
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
