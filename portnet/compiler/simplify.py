"""Simplify: the same bits from fewer operations.

Each pass takes a program and returns one with the same results: dead code is eliminated, common
subexpressions are computed once, constants are folded, and elementwise operations on the parts of a
vector (every parameter's update) are fused into one operation on the vector.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from .. import _numpy
from .ir import ELEMENTWISE, VIEWS, Node, Program, call, unfrozen
from .views import within_root

__all__ = ["eliminate_dead_code", "fold_and_cse", "materialize_reshapes", "simplify"]


def simplify(program: Program) -> Program:
    """Return the program after all passes."""
    return eliminate_dead_code(fuse_horizontally(eliminate_dead_code(fold_and_cse(program))))


# Single operations ------------------------------------------------------------------------------


def fold_and_cse(program: Program) -> Program:
    """Fold constants, compute common subexpressions once, apply peephole rules."""
    nodes: list[Node] = []
    new: dict[int, Node] = {}  # by id of an old node, or of one of `nodes` itself
    known: dict[Any, Node] = {}  # by what it computes
    for node in program.nodes:
        made = peephole(node.with_inputs(new))
        if id(made) not in new:
            if made.inputs:
                key = made.op, made.attrs, made.dtype, tuple([_identity(i) for i in made.inputs])
                if key not in known:
                    known[key] = fold_constants(made)
                made = known[key]
            if id(made) not in new:
                nodes.append(made)
                new[id(made)] = made
        new[id(node)] = made
    return program.rewritten(nodes, new)


def _identity(value: Any) -> Any:
    return id(value) if type(value) is Node else (type(value), repr(value))


def fold_constants(node: Node) -> Node:
    """Return the result of an operation on constants as a constant; else the node itself."""
    if any(i.op != "constant" for i in node.nodes):
        return node
    given = [i.value if isinstance(i, Node) else i for i in node.inputs]
    with np.errstate(all="ignore"):
        value = np.asarray(call(_numpy, node, given))
    return Node("constant", shape=value.shape, dtype=value.dtype, value=value)


def peephole(node: Node) -> Node:
    """Return a cheaper node with the same bits, or the node itself."""
    x = node.inputs[0] if node.inputs else None
    if not isinstance(x, Node):
        return node
    if node.op in ("reshape", "broadcast_to") and node.shape == x.shape:
        return x
    if node.op == "permute_dims" and node.attr("axes") == tuple(range(len(x.shape))):
        return x
    if node.op == "concat" and len(node.inputs) == 1:
        return x
    if node.op == "reshape" and x.op == "reshape":
        return peephole(Node("reshape", x.inputs, node.attrs, node.shape, node.dtype))
    if node.op == "permute_dims" and x.op == "permute_dims":
        inner, outer = x.attr("axes"), node.attr("axes")
        axes = (("axes", tuple(inner[a] for a in outer)),)
        return peephole(Node("permute_dims", x.inputs, axes, node.shape, node.dtype))
    reduction = node.op in ("sum", "max", "min", "mean", "prod")
    if reduction and x.size == node.size > 0 and x.dtype == node.dtype:  # axes of one element
        return peephole(Node("reshape", (x,), (("shape", node.shape),), node.shape, node.dtype))
    if node.op == "positive" and x.dtype == node.dtype:
        return x
    if node.op == "logical_or" and node.inputs[1] is False and x.dtype == node.dtype:
        return x
    if node.op in ("multiply", "divide") and node.dtype == x.dtype and x.dtype.kind in "fc":
        one = node.inputs[1]
        if type(one) in (int, float) and one == 1 and node.shape == x.shape:
            return x
    return node


def eliminate_dead_code(program: Program) -> Program:
    """Remove the operations that no result needs."""
    needed = {id(r) for r in program.leaves if isinstance(r, Node)}
    kept = []
    for node in reversed(program.nodes):
        if id(node) in needed or node.op == "input":
            kept.append(node)
            needed.update(map(id, node.nodes))
    return replace(program, nodes=kept[::-1])


# Horizontal fusion ------------------------------------------------------------------------------
# concat(f(a1, b1), f(a2, b2)) is f(concat(a1, a2), concat(b1, b2)), for elementwise f. Where the
# parts of an argument are slices of one vector, side by side, their concat is a slice of it, too;
# and where they are results of other operations (gradients), they are computed in their places.


def fuse_horizontally(program: Program) -> Program:
    """Fuse elementwise operations on the parts of a vector into one on the vector."""
    joins = [n for n in program.nodes if n.op == "concat" and len(n.shape) == 1]
    if not joins:
        return program
    joined = _HorizontalFusion(program)
    for node in joins:
        joined.rewrite(node)
    if not joined.instead:
        return program
    try:
        return fold_and_cse(eliminate_dead_code(_sorted(program, joined.instead)))
    except _CycleError:  # two vectors need parts of each other
        return program


class _CycleError(Exception):
    pass


class _HorizontalFusion:
    """Replacements for concats of parts."""

    def __init__(self, program: Program) -> None:
        self.instead: dict[int, Node] = {}  # by id of the old node
        self.keep: list[Node] = []  # so that ids stay what they are
        self.packs: dict[tuple[int, ...], Node | None] = {}
        self.forms: dict[tuple[int, int], Any] = {}  # by id and depth
        self.above: dict[int, int] = {}  # the nodes that a node needs, as the bits of a number
        for i, node in enumerate(program.nodes):
            bits = 1 << i
            for n in node.nodes:
                bits |= self.above[id(n)]
            self.above[id(node)] = bits
        self.bit = {id(node): 1 << i for i, node in enumerate(program.nodes)}

    def rewrite(self, node: Node) -> None:
        """Fuse each run of parts that are the same operation into one vector."""
        parts = [_source(p) for p in node.inputs]
        made: list[Node] = []
        start = 0
        while start < len(parts):
            stop = start + 1
            while stop < len(parts) and self.alike(parts[start], parts[stop]):
                stop += 1
            pack = self.pack(tuple(parts[start:stop])) if stop - start > 1 else None
            if pack is None:
                made += node.inputs[start:stop]
            else:
                made.append(pack)
            start = stop
        if len(made) < len(node.inputs):
            self.instead[id(node)] = self.new("concat", tuple(made), node.attrs, node)

    def pack(self, parts: tuple[Node, ...]) -> Node | None:
        """Return concat(parts), flattened, as one vector; None where that would need copies."""
        key = tuple(id(p) for p in parts)
        if key not in self.packs:
            self.packs[key] = self._pack(parts)
        return self.packs[key]

    def _pack(self, parts: tuple[Node, ...]) -> Node | None:
        first = parts[0]
        size = sum(p.size for p in parts)
        side = _side_by_side(parts)
        if side is not None:
            return self.new(*side, like=first, size=size)
        if len({id(p) for p in parts}) < len(parts) or not self._independent(parts):
            return None
        operands: list[Any] = [None]
        if all(self.alike(first, p) for p in parts):
            operands = [
                self._operand(c, parts) for c in zip(*(p.inputs for p in parts), strict=True)
            ]
        if any(o is None for o in operands):
            if any(p.op in VIEWS or p.op in ("input", "constant") for p in parts):
                return None
            flat = [self.flat(p) for p in parts]  # each is computed in its part of the buffer
            return self.new("concat", tuple(flat), (("axis", 0),), first, size)
        whole = self.new(first.op, tuple(o[0] for o in operands), first.attrs, first, size)
        start = 0
        for p in parts:  # other readers take slices of the vector
            cut = self.new(
                "getitem", (whole,), (("key", (("slice", start, start + p.size, 1),)),), p, p.size
            )
            shape = (("shape", p.shape),)
            self.instead[id(p)] = Node("reshape", (cut,), shape, p.shape, p.dtype)
            start += p.size
        return whole

    def _operand(self, column: tuple[Any, ...], parts: tuple[Node, ...]) -> tuple[Any] | None:
        first = column[0]
        if not isinstance(first, Node):
            same = all(_identity(c) == _identity(first) for c in column)
            return (first,) if same else None
        if all(c is first for c in column) and first.size == 1:
            return (self.scalar(first),) if len(first.shape) else (first,)
        if not all(
            isinstance(c, Node) and c.shape == p.shape and c.dtype == first.dtype
            for c, p in zip(column, parts, strict=True)
        ):
            return None
        pack = self.pack(tuple(_source(c) for c in column))
        return None if pack is None else (pack,)

    def alike(self, a: Node, b: Node) -> bool:
        """Tell whether two parts are the same elementwise operation, or slices of one vector."""
        if a.op == "getitem" or b.op == "getitem":
            return a.op == b.op and a.inputs[0] is b.inputs[0]
        return a.op in ELEMENTWISE and self.form(a) == self.form(b)

    def form(self, a: Any, depth: int = 0) -> Any:
        """Return the operation and those of its operands, to a depth of 2, to compare parts by."""
        if type(a) is not Node:
            return _identity(a)
        if (id(a), depth) not in self.forms:
            form: Any = "view" if a.op in VIEWS else "array"
            if depth < 2 and a.op in ELEMENTWISE:
                form = a.op, a.dtype, tuple([self.form(i, depth + 1) for i in a.inputs])
            self.forms[id(a), depth] = form
        return self.forms[id(a), depth]

    def _independent(self, parts: tuple[Node, ...]) -> bool:
        """Tell whether no part depends on another."""
        bits = 0
        for p in parts:
            bits |= self.bit.get(id(p), 0)
        return all(not self.above.get(id(p), 0) & bits & ~self.bit.get(id(p), 0) for p in parts)

    def new(self, op: str, inputs: Any, attrs: Any, like: Node, size: int | None = None) -> Node:
        """Return a new node: a vector of `size` elements, or of the shape of another."""
        node = Node(op, inputs, attrs, like.shape if size is None else (size,), like.dtype)
        self.keep.append(node)
        return node

    def flat(self, p: Node) -> Node:
        """Return a node with one axis."""
        return self.new("reshape", (p,), (("shape", (p.size,)),), p, p.size)

    def scalar(self, p: Node) -> Node:
        """Return a node of one element without axes."""
        node = Node("reshape", (p,), (("shape", ()),), (), p.dtype)
        self.keep.append(node)
        return node


def _source(part: Node) -> Node:
    """Return a part before it was flattened."""
    while part.op == "reshape" and isinstance(part.inputs[0], Node):
        part = part.inputs[0]
    return part


def _side_by_side(parts: Iterable[Node]) -> tuple[str, Any, Any] | None:
    """Return the slice of a vector that consists of the parts, or None."""
    base, begin, end = None, 0, 0
    for p in parts:
        if p.op != "getitem" or len(p.inputs[0].shape) != 1:
            return None
        (key,) = unfrozen(p.attr("key"))
        if not isinstance(key, slice):
            start, stop, step = key, key + 1, 1
        else:
            start, stop, step = key.start, key.stop, key.step
        if step != 1 or stop is None or stop - start != p.size:
            return None
        if base is None:
            base, begin, end = p.inputs[0], start, stop
        elif p.inputs[0] is base and start == end:
            end = stop
        else:
            return None
    return "getitem", (base,), (("key", (("slice", begin, end, 1),)),)


def _sorted(program: Program, instead: dict[int, Node]) -> Program:
    """Replace old nodes by new ones, in topological order."""
    done: dict[int, Node] = {}
    order: list[Node] = []
    begun: set[int] = set()
    stack = [*reversed(program.nodes), *reversed(program.inputs)]
    while stack:
        node = stack.pop()
        if id(node) in done:
            continue
        new = instead.get(id(node))
        missing = [i for i in (node.nodes if new is None else [new]) if id(i) not in done]
        if missing:
            if id(node) in begun:
                raise _CycleError
            begun.add(id(node))
            stack += [node, *reversed(missing)]
        elif new is not None:
            done[id(node)] = done[id(new)]
        else:
            done[id(node)] = node.with_inputs(done)
            order.append(done[id(node)])
    return program.rewritten(order, done)


def materialize_reshapes(program: Program) -> Program:
    """Insert a copy before each reshape that cannot be a view."""
    new: dict[int, Node] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        made = node.with_inputs(new)
        if made.op == "reshape" and within_root(made) is None:
            x = made.inputs[0]
            nodes.append(Node("copy", (x,), (), x.shape, x.dtype))
            made = Node("reshape", (nodes[-1],), node.attrs, node.shape, node.dtype)
        nodes.append(made)
        new[id(node)] = made
    return program.rewritten(nodes, new)
