"""Fusion: which operations of a program share a kernel.

A kernel goes over the elements of one shape, its domain (axes of one element left out). It is

* "elements": elementwise operations, one thread for each element;
* "rows": the same with reductions along the last of two axes, whose results it uses itself;
* "columns": ... with reductions along the first of two axes, for later kernels;
* "whole": ... with reductions over all elements, for later kernels;
* "product": one product of matrices; "join": concats, which copy what was not computed in place.

Operations are placed in the order of the program, each in the last kernel that can take it.
Elementwise operations of fewer elements than the domain (bias corrections, one row of a mask) are
computed again in each kernel that reads them: that is cheaper than a launch. They are then other
nodes, so that planning memory sees who reads what, and when.
"""

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from ..errors import EagerError
from ..ir import POINTWISE, VIEWS, Node, Program, Shape, computed
from ..views import is_whole, root

__all__ = ["Axes", "Kernel", "fused", "operand_axes", "own_axes"]

Axes = tuple[int | None, ...]  # of a node: the axis of the domain along which each of its own lies
REDUCED = frozenset("sum prod max min mean any all".split())
CHEAP = POINTWISE | {"take"}  # computed again where that saves a kernel


@dataclass(eq=False)
class Kernel:
    """Operations that run together; a step of a plan."""

    kind: str
    domain: Shape
    nodes: list[Node] = field(default_factory=list)
    axes: dict[int, Axes] = field(default_factory=dict)  # by id of a node
    rows: int = 0  # of a block: no blocks, as in `schedule.Step`

    @property
    def size(self) -> int:
        """The number of elements of the domain."""
        return prod(self.domain)


def fused(program: Program) -> tuple[Program, list[Kernel]]:
    """Return the program, with operations repeated where they are computed again, and its kernels.

    Raises EagerError for an operation that no kernel can do.
    """
    made = _Fusion(program)
    for node in program.nodes:
        if computed(node) and node.op not in CHEAP:
            made.place(node)
    leaves = [r for r in program.leaves if isinstance(r, Node)]
    for leaf in leaves:
        made.placed(leaf)
    return made.result()


def operand_axes(shape: Shape, axes: Axes, operand: Shape) -> Axes:
    """Return the axes of an operand that is broadcast to `shape`, whose axes are given."""
    kept = axes[len(shape) - len(operand) :]
    return tuple(None if n == 1 else a for n, a in zip(operand, kept, strict=True))


def own_axes(shape: Shape) -> Axes:
    """Return the axes of an array that has the shape of the domain, but for axes of one element."""
    number = iter(range(len(shape)))
    return tuple(None if n == 1 else next(number) for n in shape)


def _through(view: Node, axes: Axes) -> Axes | None:
    """Return the axes of the node that a view shows whole, from those of the view; else None."""
    of = root(view)
    if view is of:
        return axes
    same = [n for n in view.shape if n != 1] == [n for n in of.shape if n != 1]
    if not (same and is_whole(view)):
        return None
    left = iter([a for n, a in zip(view.shape, axes, strict=True) if n != 1])
    return tuple(None if n == 1 else next(left) for n in of.shape)


class _Fusion:
    """Places operations in kernels; nodes of the old program are looked up by their id."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.kernels: list[Kernel] = []
        self.new: dict[int, Node] = {}  # what stands for an old node: an input, or a placed node
        self.home: dict[int, int] = {}  # of an old node that was placed: its kernel
        self.copies: dict[tuple[int, int, Axes | None], Node] = {}  # (kernel, old node, axes)
        self.views: dict[tuple[int, int], Node] = {}  # (old view, new root)
        self.old: list[Any] = []  # kept, so that ids stay what they are
        self.final: Kernel | None = None  # the concats that are results
        read = {id(root(i)) for n in program.nodes if computed(n) for i in n.nodes}
        self.unread = {id(n) for n in program.nodes if id(n) not in read}
        for node in program.nodes:
            if node.op in ("input", "constant"):
                self.new[id(node)] = node

    # Placing -------------------------------------------------------------------------------------

    def placed(self, view: Node) -> Node:
        """Return a view, or a node, in the new program; place its root if it is not placed yet."""
        of = root(view)
        if id(of) not in self.new:
            self.place(of)
        return self._view(view, self.new[id(of)])

    def place(self, node: Node) -> None:
        """Place an operation in a kernel."""
        if id(node) in self.new:
            return
        if node.op == "matmul":
            self._product(node)
        elif node.op == "concat":
            self._join(node)
        elif node.op in REDUCED:
            self._reduction(node)
        elif node.op in POINTWISE or node.op in ("take", "copy"):
            own = own_axes(node.shape)
            self._prepare(_operands(node, own))
            domain = tuple(n for n in node.shape if n != 1)
            at = self._find(("elements", "rows", "columns", "whole"), domain, node)
            self._put(node, at, own)
        else:
            raise EagerError(f"there is no kernel for {node.op}")

    def _product(self, node: Node) -> None:
        if any(len(i.shape) != 2 for i in node.nodes) or node.dtype.name not in (
            "float32",
            "float64",
        ):
            raise EagerError(f"there is no product of {[i.shape for i in node.nodes]} {node.dtype}")
        inputs = tuple(self.placed(i) for i in node.nodes)
        self._add(Kernel("product", node.shape), node, inputs)

    def _join(self, node: Node) -> None:
        inputs = tuple(self.placed(i) for i in node.nodes)
        if id(node) in self.unread:  # results: all of them in one kernel, the last
            if self.final is None:
                self.final = Kernel("join", ())
            made = Node("concat", inputs, node.attrs, node.shape, node.dtype)
            self.final.nodes.append(made)
            self.new[id(node)] = made
            self.old.append(node)
        else:
            self._add(Kernel("join", node.shape), node, inputs)

    def _add(self, kernel: Kernel, node: Node, inputs: tuple[Node, ...]) -> None:
        """Add a kernel of one node."""
        made = Node(node.op, inputs, node.attrs, node.shape, node.dtype)
        kernel.nodes.append(made)
        self.kernels.append(kernel)
        self.new[id(node)], self.home[id(node)] = made, len(self.kernels) - 1
        self.old.append(node)

    def _reduction(self, node: Node) -> None:
        x = node.inputs[0]
        axis = node.attr("axis")
        given = (
            range(len(x.shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        )
        reduced = {a % len(x.shape) for a in given}
        own = own_axes(x.shape)
        along = {own[a] for a in reduced} - {None}
        domain = tuple(n for n in x.shape if n != 1)
        if along == set(range(len(domain))):
            kind, axes = "whole", own[:0] + (None,) * len(node.shape)
        elif len(domain) == 2 and len(along) == 1:
            kind = "rows" if along == {1} else "columns"
            if node.attr("keepdims"):
                axes = tuple(None if k in reduced else a for k, a in enumerate(own))
            else:
                axes = tuple(a for k, a in enumerate(own) if k not in reduced)
        else:
            raise EagerError(f"there is no kernel for {node.op} of {x.shape} along {node.attrs}")
        self._prepare([(x, own)])
        at = self._find(("elements", kind), domain, node, (x, own))
        self.kernels[at].kind = kind
        self._put(node, at, axes, (x, own))

    def _prepare(self, operands: list[tuple[Node, Axes | None]]) -> None:
        """Place what must be read from memory: it needs a kernel before."""
        for view, axes in operands:
            of = root(view)
            mine = None if axes is None else _through(view, axes)
            if id(of) in self.new:
                continue
            if of.op in CHEAP and mine is not None:
                self._prepare(_operands(of, mine))
            else:
                self.place(of)

    def _find(
        self,
        kinds: tuple[str, ...],
        domain: Shape,
        node: Node,
        of_reduction: tuple[Node, Axes] | None = None,
    ) -> int:
        """Return the last kernel that can take a node, or a new one."""
        for at in range(len(self.kernels) - 1, -1, -1):
            kernel = self.kernels[at]
            if kernel.kind in kinds and kernel.domain == domain:
                seen: dict[tuple[int, Axes], bool] = {}
                operands = [of_reduction] if of_reduction else _operands(node, own_axes(node.shape))
                if all(self._available(i, a, at, seen) for i, a in operands):
                    return at
        self.kernels.append(Kernel("elements", domain))
        return len(self.kernels) - 1

    def _available(
        self, view: Node, axes: Axes | None, at: int, seen: dict[tuple[int, Axes], bool]
    ) -> bool:
        """Tell whether kernel `at` can read a view along these axes; None: from memory alone."""
        of = root(view)
        if of.op in ("input", "constant"):
            return True
        if id(of) in self.home:
            if self.home[id(of)] < at:
                return True
            if self.home[id(of)] > at:  # but it may be computed again
                return self._again(view, axes, at, seen)
            if axes is None:
                return False
            kernel, mine = self.kernels[at], _through(view, axes)
            made = self.new[id(of)]
            if made.op in REDUCED and kernel.kind != "rows":
                return False
            return mine is not None and kernel.axes[id(made)] == mine
        return self._again(view, axes, at, seen)

    def _again(
        self, view: Node, axes: Axes | None, at: int, seen: dict[tuple[int, Axes], bool]
    ) -> bool:
        """Tell whether kernel `at` can compute an operand, for itself or as the one place."""
        of, kernel = root(view), self.kernels[at]
        mine = None if axes is None else _through(view, axes)
        if mine is None or of.op not in CHEAP:
            return False
        if id(of) in self.home and of.size == kernel.size:
            return False  # it has its place already
        key = id(of), mine
        if key not in seen:
            seen[key] = all(self._available(i, a, at, seen) for i, a in _operands(of, mine))
        return seen[key]

    def _put(
        self, node: Node, at: int, axes: Axes, of_reduction: tuple[Node, Axes] | None = None
    ) -> None:
        """Compute a node in a kernel: this is its place."""
        made = self._compute(node, at, axes, of_reduction)
        self.new[id(node)], self.home[id(node)] = made, at
        self.old.append(node)

    def _compute(
        self, node: Node, at: int, axes: Axes, of_reduction: tuple[Node, Axes] | None = None
    ) -> Node:
        """Append a node, and before it what it needs, to a kernel."""
        given = [of_reduction] if of_reduction else _operands(node, axes)
        operands = iter([self._operand(i, a, at) for i, a in given])
        inputs = tuple(next(operands) if isinstance(i, Node) else i for i in node.inputs)
        made = Node(node.op, inputs, node.attrs, node.shape, node.dtype)
        kernel = self.kernels[at]
        kernel.nodes.append(made)
        kernel.axes[id(made)] = axes
        return made

    def _operand(self, view: Node, axes: Axes | None, at: int) -> Node:
        """Return an operand of a node of kernel `at`, in the new program."""
        of, kernel = root(view), self.kernels[at]
        mine = None if axes is None else _through(view, axes)
        cheap = of.op in CHEAP and mine is not None
        if of.op in ("input", "constant") or not cheap:
            return self.placed(view)
        home = self.home.get(id(of))
        if of.size == kernel.size:  # of the domain: it has one place
            if home is None:
                assert mine is not None
                self._put(of, at, mine)
            return self._view(view, self.new[id(of)])
        if home is not None and home <= at:
            inside = home == at and kernel.axes[id(self.new[id(of)])] == mine
            if inside or (home < at and _depth(of) > 8):
                return self._view(view, self.new[id(of)])
        key = at, id(of), mine
        if key not in self.copies:
            assert mine is not None
            self.copies[key] = self._compute(of, at, mine)
            self.old.append(of)
        return self._view(view, self.copies[key])

    def _view(self, view: Node, of: Node) -> Node:
        """Return a view of another node: the same operations."""
        if view.op not in VIEWS:
            return of
        key = id(view), id(of)
        if key not in self.views:
            below = self._view(view.inputs[0], of)
            if below is view.inputs[0]:
                self.views[key] = view
            else:
                self.views[key] = Node(view.op, (below,), view.attrs, view.shape, view.dtype)
            self.old.append((view, of))
        return self.views[key]

    # The result ----------------------------------------------------------------------------------

    def result(self) -> tuple[Program, list[Kernel]]:
        """Return the new program and its kernels."""
        if self.final is not None:
            self.kernels.append(self.final)
        nodes, known = [], set()
        for node in self.program.nodes:
            if node.op in ("input", "constant"):
                nodes.append(node)
                known.add(id(node))

        def add(node: Node) -> None:
            if node.op in VIEWS and id(node) not in known:
                add(node.inputs[0])
                nodes.append(node)
                known.add(id(node))

        for kernel in self.kernels:
            for node in kernel.nodes:
                for i in node.nodes:
                    add(i)
                nodes.append(node)
                known.add(id(node))
        leaves = [self.placed(r) if isinstance(r, Node) else r for r in self.program.leaves]
        for leaf in leaves:
            if isinstance(leaf, Node):
                add(leaf)
        return replace(self.program, nodes=nodes, leaves=leaves), self.kernels


def _operands(node: Node, axes: Axes) -> list[tuple[Node, Axes | None]]:
    """Return the operands that are nodes, and along which axes each is read; None: by memory."""
    if node.op == "take":
        x, index = node.inputs
        return [(x, None), (index, None)]
    return [(i, operand_axes(node.shape, axes, i.shape)) for i in node.nodes]


def _depth(node: Node) -> int:
    """Return how many operations are above a node, up to 9."""
    most, level = 0, [node]
    while level and most < 9:
        level = [root(i) for n in level for i in n.nodes if root(i).op in CHEAP]
        most += 1
    return most
