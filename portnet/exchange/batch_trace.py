"""Batch trace: the operations of a function of rows (rows, n_in), whatever the number of rows is.

The function is traced at two numbers of rows. Where the traces have the same operations, a length
that differs is ``factor * rows + offset``. Anything else that differs is an error. Traces of many
rows and of one row find what is done from, or up to, a number of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count, islice, zip_longest
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .._typing import Host
from ..compiler.ir import VIEWS, Node, Program, same_bits
from ..compiler.simplify import eliminate_dead_code, fold_and_cse
from ..compiler.tracer import Untraceable, line_of_error, trace
from .errors import ExchangeError

__all__ = ["BatchTrace", "Length", "trace_batch"]

FIRST = 101  # the least number of rows of a trace: no length of the network may be one of the two
MANY = 10_000  # and even, as FIRST and the next one are not


class Length(NamedTuple):
    """The length of an axis: factor * rows + offset."""

    factor: int
    offset: int


@dataclass(eq=False)
class BatchTrace:
    """The program at one number of rows, and what it is at any other.

    `constants` are the arrays of the constants, by the ids of their nodes: where one has as many
    rows as x, and they are all equal, there is one row.
    """

    program: Program
    rows: tuple[int, int]
    twins: dict[int, Node]  # the nodes of the other trace, by the ids of those of the program
    lines: dict[Any, str]
    constants: dict[int, Host] = field(default_factory=dict)

    def shape(self, node: Node) -> tuple[Length, ...]:
        """Return the lengths of the axes of a result."""
        pairs = zip(node.shape, self.twins[id(node)].shape, strict=True)
        return tuple([self.length(a, b, node) for a, b in pairs])

    def length(self, a: int, b: int, node: Node) -> Length:
        """Return a length that is a in the program and b in the other trace."""
        (m, n) = self.rows
        factor, rest = divmod(b - a, n - m)
        if rest:
            raise self.error(node, f"has an axis of {a} for {m} rows, and of {b} for {n}: {_ONE}")
        return Length(factor, a - factor * m)

    def error(self, node: Node, what: str) -> ExchangeError:
        """Return the error of an operation: it names the operation and the user's line."""
        return _error(node, what, self.lines)


def _error(node: Node, what: str, lines: Mapping[Any, str]) -> ExchangeError:
    """Return the error of an operation, which may have been simplified."""
    line = lines.get(id(node)) or lines.get(_form(node), "an unknown line")
    return ExchangeError(f"the operation {node.op} {what} (at {line})")


def trace_batch(fn: Callable[[Any], Any], width: int, dtype: Any, lengths: set[int]) -> BatchTrace:
    """Trace fn(x), x (rows, width), at numbers of rows that are none of `lengths`.

    Raises ExchangeError where it cannot be traced, or where the traces differ.
    """
    lengths = lengths | {width}
    m, n = islice((i for i in count(FIRST, 2) if i not in lengths), 2)
    many = next(i for i in count(MANY) if i not in lengths)
    lines: dict[Any, str] = {}
    raw = _traced(fn, (m, width), np.dtype(dtype), lines)
    first = _simplified(raw)

    def beside(k: int) -> BatchTrace:
        theirs: dict[Any, str] = {}
        second = _simplified(_traced(fn, (k, width), np.dtype(dtype), theirs))
        return _paired(first, second, (m, k), lines, theirs)

    found, far = beside(n), beside(many)
    for node in first.nodes:
        if node.op == "constant":
            if not same_bits(found.constants[id(node)], far.constants[id(node)]):
                raise _moving(far, node)
        elif found.shape(node) != far.shape(node):
            other = found.twins[id(node)].shape, far.twins[id(node)].shape
            raise found.error(
                node,
                f"has the shapes {node.shape}, {other[0]} and {other[1]} for {m}, {n} and {many} "
                f"rows: {_ONE}",
            )
    _check_one_row(fn, (1, width), raw, found)
    return found


def _simplified(program: Program) -> Program:
    return eliminate_dead_code(fold_and_cse(program))


def _check_one_row(fn: Any, shape: tuple[int, int], raw: Program, found: BatchTrace) -> None:
    """Raise ExchangeError where other operations are done for one row.

    Views of one row may be the row itself, so they do not count. A function that refuses one row
    may be one for more of them.
    """
    dtype = next(node.dtype for node in raw.nodes if node.op == "input")
    lines: dict[Any, str] = {}
    try:
        one = _traced(fn, shape, dtype, lines)
    except ExchangeError as error:
        if isinstance(error.__cause__, Exception):
            return
        raise
    pair = [[n for n in eliminate_dead_code(p).nodes if n.op not in VIEWS] for p in (raw, one)]
    m = f"{found.rows[0]} rows"
    for a, b in zip_longest(*pair):
        if b is None:
            raise found.error(a, f"is done for {m}, and not for one: {_ONE}")
        if a is None:
            raise _error(b, f"is done for one row, and not for {m}: {_ONE}", lines)
        ours, theirs = (
            " ".join([n.op, *(repr(i) for i in n.inputs if not isinstance(i, Node))])
            for n in (a, b)
        )
        if ours != theirs or a.dtype != b.dtype:
            raise found.error(a, f"is {theirs} for one row, and {ours} for {m}: {_ONE}")


def _paired(
    first: Program,
    second: Program,
    rows: tuple[int, int],
    lines: dict[Any, str],
    theirs: dict[Any, str],
) -> BatchTrace:
    """Return the trace of two programs; raise ExchangeError where they differ.

    `lines` are the user's lines of the first, and `theirs` those of the second.
    """
    found = BatchTrace(first, rows, {}, lines)
    for a, b in zip(first.nodes, second.nodes, strict=False):
        found.twins[id(a)] = b
        _check_same(found, a, b)
    few = min(len(first.nodes), len(second.nodes))
    if few < len(first.nodes):
        what = f"is done for {rows[0]} rows, and not for {rows[1]}: {_ONE}"
        raise found.error(first.nodes[few], what)
    if few < len(second.nodes):
        what = f"is done for {rows[1]} rows, and not for {rows[0]}: {_ONE}"
        raise _error(second.nodes[few], what, theirs)
    for leaf in first.leaves:
        if not isinstance(leaf, Node):
            raise ExchangeError(f"expected arrays as outputs, got {leaf!r:.80}")
    for node in first.nodes:
        if node.op == "constant":
            found.constants[id(node)] = _constant(found, node)
    return found


def _traced(fn: Any, shape: tuple[int, int], dtype: Any, lines: dict[Any, str]) -> Program:
    """Return the program, and add the user's line of each of its operations to lines."""
    found: dict[int, str] = {}
    try:
        program = trace(fn, [(shape, dtype)], lambda arrays: (arrays, {}), found)
    except Untraceable as error:
        where = error.where or line_of_error(error.__traceback__)
        raise ExchangeError(f"the network cannot be traced: {error} (at {where})") from None
    except Exception as error:
        where = line_of_error(error.__traceback__)
        raise ExchangeError(
            f"the network cannot be traced: it raised {type(error).__name__}: {error} (at {where})"
        ) from error
    for node in program.nodes:
        lines.setdefault(_form(node), found.get(id(node), ""))
    lines |= {id(n): found[id(n)] for n in program.nodes if id(n) in found}
    return program


def _form(node: Node) -> Any:
    """Return what an operation has in common with what it is simplified to."""
    return node.op, node.shape, str(node.dtype), repr(node.attrs)


def _check_same(found: BatchTrace, a: Node, b: Node) -> None:
    """Raise ExchangeError unless two nodes are the same operation of the same operands."""
    m, n = found.rows
    if (a.op, a.dtype, len(a.inputs), len(a.shape)) != (b.op, b.dtype, len(b.inputs), len(b.shape)):
        raise found.error(a, f"is done for {m} rows, where {b.op} is for {n}: {_ONE}")
    for i, j in zip(a.inputs, b.inputs, strict=True):
        if isinstance(i, Node) and isinstance(j, Node):
            if found.twins.get(id(i)) is not j:
                raise found.error(a, f"has other operands for {m} rows than for {n}: {_ONE}")
        elif repr(i) != repr(j):
            raise found.error(
                a,
                f"has the constant {i!r} for {m} rows and {j!r} for {n}: {_ONE}. Use an operation "
                "that counts the rows itself, such as mean",
            )
    for name, value in a.attrs:
        if name not in ("shape", "key") and value != b.attr(name):
            raise found.error(a, f"has {name}={value} for {m} rows, {b.attr(name)} for {n}: {_ONE}")


_ONE = "an ONNX file has the same operations and constants for any number of rows"


def _constant(found: BatchTrace, node: Node) -> Host:
    """Return the array of a constant, with one row where each row of x has the same one."""
    other, array = found.twins[id(node)].value, np.asarray(node.value)
    if same_bits(array, other):
        return array
    moving = [k for k, (a, b) in enumerate(zip(array.shape, other.shape, strict=True)) if a != b]
    cut = tuple(slice(0, 1) if k in moving else slice(None) for k in range(array.ndim))
    one: Host = np.ascontiguousarray(array[cut])
    same = moving and all(
        same_bits(np.broadcast_to(one, a.shape).copy(), np.ascontiguousarray(a))
        for a in (array, other)
        if prod(a.shape)
    )
    if not same:
        raise _moving(found, node)
    return one


def _moving(found: BatchTrace, node: Node) -> ExchangeError:
    """Return the error of a constant array that is another one for other numbers of rows."""
    array, other = node.value, found.twins[id(node)].value
    user = next((n for n in found.program.nodes if any(i is node for i in n.inputs)), node)
    m, n = found.rows
    return found.error(
        user,
        f"has a constant array, of shape {array.shape} for {m} rows and {other.shape} for {n}, "
        f"whose values depend on the number of rows, or differ in each call: {_ONE}",
    )
