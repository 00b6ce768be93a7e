"""Batch trace: the operations of a function of rows (rows, n_in), whatever the number of rows is.

The function is traced at two numbers of rows. Where the traces have the same operations, a length
that differs is ``factor * rows + offset``. Anything else that differs is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, islice
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .._typing import Host
from ..compiler.ir import Node, Program, same_bits
from ..compiler.simplify import eliminate_dead_code, fold_and_cse
from ..compiler.tracer import Untraceable, line_of_error, trace
from .errors import ExchangeError

__all__ = ["BatchTrace", "Length", "trace_batch"]

FIRST = 101  # the least number of rows of a trace: no length of the network may be one of the two


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

    def line(self, node: Node) -> str:
        """Return the user's line of an operation, which may have been simplified."""
        return self.lines.get(id(node)) or self.lines.get(_form(node), "an unknown line")

    def error(self, node: Node, what: str) -> ExchangeError:
        """Return the error of an operation: it names the operation and the user's line."""
        return ExchangeError(f"the operation {node.op} {what} (at {self.line(node)})")


def trace_batch(fn: Callable[[Any], Any], width: int, dtype: Any, lengths: set[int]) -> BatchTrace:
    """Trace fn(x), x (rows, width), at two numbers of rows that are none of `lengths`.

    Raises ExchangeError where it cannot be traced, or where the traces differ.
    """
    m, n = islice((i for i in count(FIRST, 2) if i not in lengths | {width}), 2)
    lines: dict[Any, str] = {}
    first = _traced(fn, (m, width), np.dtype(dtype), lines)
    second = _traced(fn, (n, width), np.dtype(dtype), {})
    found = BatchTrace(first, (m, n), {}, lines)
    for a, b in zip(first.nodes, second.nodes, strict=False):
        found.twins[id(a)] = b
        _check_same(found, a, b)
    if len(first.nodes) != len(second.nodes):
        raise ExchangeError(
            f"the network has {len(first.nodes)} operations for {m} rows, and "
            f"{len(second.nodes)} for {n}: {_ONE}"
        )
    for leaf in first.leaves:
        if not isinstance(leaf, Node):
            raise ExchangeError(f"expected arrays as outputs, got {leaf!r:.80}")
    for node in first.nodes:
        if node.op == "constant":
            found.constants[id(node)] = _constant(found, node)
    return found


def _traced(fn: Any, shape: tuple[int, int], dtype: Any, lines: dict[Any, str]) -> Program:
    """Return the simplified program, and add the user's line of each of its operations to lines."""
    found: dict[int, str] = {}
    try:
        traced = trace(fn, [(shape, dtype)], lambda arrays: (arrays, {}), found)
    except Untraceable as error:
        where = error.where or line_of_error(error.__traceback__)
        raise ExchangeError(f"the network cannot be traced: {error} (at {where})") from None
    except Exception as error:
        where = line_of_error(error.__traceback__)
        raise ExchangeError(
            f"the network cannot be traced: it raised {type(error).__name__}: {error} (at {where})"
        ) from error
    program = eliminate_dead_code(fold_and_cse(traced))
    for node in traced.nodes:  # which are alive, so that their ids are theirs
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
        user = next((n for n in found.program.nodes if any(i is node for i in n.inputs)), node)
        m, n = found.rows
        raise found.error(
            user,
            f"has a constant array, of shape {array.shape} for {m} rows and {other.shape} for {n}, "
            f"whose values depend on the number of rows, or differ in each call: {_ONE}",
        )
    return one
