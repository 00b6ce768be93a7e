"""Plan: the order of the operations, and where each result is put.

1. `grouped` orders: elementwise operations on large arrays become groups that run block by block,
   so that what they hand to each other stays in the processor's cache.
2. `Placement` decides where results live: in the place of a donated argument, in their part of a
   larger array (a concat costs nothing then), in a buffer of an argument that nobody reads any
   more, else in a buffer of their own; buffers are used again when nothing reads them any more.

Views (reshape, transpose, slices) are no operations: they cost nothing, as buffers stay where they
are. The dangers are all of one kind: a place is written while its old value is still to be read.
`_overwrites` is where that is decided.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .program import Node, Program, unfrozen
from .rewrite import VIEWS
from .trace import ELEMENTWISE

BLOCK = 16_384  # elements of a block: with its companions it fits into a core's cache
ALIGN = 64  # bytes: a cache line


@dataclass(eq=False)
class Step:
    """One operation, or a group of elementwise ones that runs block by block along axis 0."""

    nodes: list[Node]
    rows: int = 0  # of a block; 0: no blocks

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a group's arrays."""
        return self.nodes[0].shape


class Place(NamedTuple):
    """Where a result is: bytes from `offset` of a buffer, or of a donated argument."""

    base: tuple[str, int]  # ("buffer", number) or ("donated", number of the input)
    offset: int = 0


@dataclass(eq=False)
class Plan:
    """What a replay does, step by step."""

    program: Program
    before: int  # operations as traced
    steps: list[Step]
    places: dict[int, Place]  # by id of a node that is computed
    scratch: dict[int, int]  # values inside a group: by id of the node, the number of the block
    buffers: list[int]  # bytes
    blocks: list[int]  # bytes of what groups hand on
    donated: dict[int, int]  # number of a result's leaf: number of the input that it replaces
    copies: list[tuple[Node, int]]  # what is copied into a donated input at the end
    slots: dict[int, list[tuple[Node, int]]] = field(default_factory=dict)  # parts to copy: concat

    @property
    def operations(self) -> list[Node]:
        """The operations that are left."""
        return [n for step in self.steps for n in step.nodes]


def make(program: Program, before: int, reusable: list[int]) -> Plan:
    """Return the plan of a simplified program; `reusable` are the donated inputs, by number."""
    program, donated = _results(gapless(program), reusable)
    steps = grouped([n for n in program.nodes if computed(n)])
    return Placement(program, steps, donated).plan(before)


def computed(node: Node) -> bool:
    """Tell whether a node is an operation, and not an array that is there, or a view."""
    return node.op not in VIEWS and node.op not in ("input", "constant")


def root(node: Node) -> Node:
    """Return the node of which a node is a view: itself, where it is none."""
    while node.op in VIEWS:
        node = node.inputs[0]
    return node


def region(node: Node) -> tuple[Node, int, int] | None:
    """Return (root, first element, elements) of a view that lies there without gaps, in order."""
    if node.op not in VIEWS:
        return node, 0, node.size
    inner = region(node.inputs[0])
    if inner is None or node.op in ("permute_dims", "broadcast_to"):
        return None
    base, start, _ = inner
    if node.op == "reshape":
        return base, start, node.size
    shape = node.inputs[0].shape
    keys = [k for k in unfrozen(node.attr("key")) if k is not None]
    stride, first, free = 1, 0, True  # free: all axes after this one are taken whole
    for n, key in reversed(list(zip(shape, keys, strict=True))):
        begin, count = (key, 1) if not isinstance(key, slice) else (key.start, _length(key, n))
        if isinstance(key, slice) and count > 1 and key.step != 1:
            return None
        if not free and count != 1:
            return None
        first += begin * stride
        free = free and count == n
        stride *= n
    return base, start + first, node.size


def _length(key: slice, n: int) -> int:
    return len(range(*key.indices(n)))


def gapless(program: Program) -> Program:
    """Put a copy before each reshape of what has gaps, or another order: it can be no view."""
    new: dict[int, Node] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        inputs = tuple([new[id(i)] if type(i) is Node else i for i in node.inputs])
        x: Any = inputs[0] if inputs else None
        if node.op == "reshape" and region(x) is None and not _only_ones(x.shape, node.shape):
            inputs = (Node("copy", (x,), (), x.shape, x.dtype),)
            nodes.append(inputs[0])
        made = node
        if any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            made = Node(node.op, inputs, node.attrs, node.shape, node.dtype, node.value)
        new[id(node)] = made
        nodes.append(made)
    leaves = [new[id(r)] if isinstance(r, Node) else r for r in program.leaves]
    return replace(program, nodes=nodes, leaves=leaves)


def _only_ones(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes differ in axes of one element only."""
    return [n for n in a if n != 1] == [n for n in b if n != 1]


def _results(program: Program, reusable: list[int]) -> tuple[Program, dict[int, int]]:
    """Say which result replaces which donated input: the first of its shape and dtype.

    What is returned of a donated input itself is copied before anything is written.
    """
    free = list(reusable)
    donated: dict[int, int] = {}
    for k, leaf in enumerate(program.leaves):
        if isinstance(leaf, Node):
            for d in free:
                given = program.inputs[d]
                if (given.shape, given.dtype) == (leaf.shape, leaf.dtype):
                    donated[k] = d
                    free.remove(d)
                    break
    inputs = {id(program.inputs[d]) for d in donated.values()}
    leaves, early = list(program.leaves), []
    for k, leaf in enumerate(leaves):
        if isinstance(leaf, Node) and id(root(leaf)) in inputs:
            if k in donated and leaf is program.inputs[donated[k]]:
                continue  # it stays where it is
            copy = Node("copy", (leaf,), (), leaf.shape, leaf.dtype)
            early.append(copy)
            leaves[k] = copy
    if early:  # views of inputs stand before the copies, all else after
        first = [n for n in program.nodes if not computed(n) and root(n).op != "constant"]
        first = [n for n in first if root(n).op == "input"]
        ids = {id(n) for n in first}
        rest = [n for n in program.nodes if id(n) not in ids]
        program = replace(program, nodes=[*first, *early, *rest], leaves=leaves)
    return program, donated


# Order ------------------------------------------------------------------------------------------


def grouped(nodes: list[Node]) -> list[Step]:
    """Return the steps: groups of large elementwise operations of one shape, and all else alone.

    A group stays open, and takes in what comes, until something needs one of its results.
    """
    steps: list[Step] = []
    open_: list[Step] = []  # groups that are not yet among the steps
    home: dict[int, Step] = {}  # the open group of a node, by id

    def close(group: Step) -> None:
        steps.append(group)
        open_.remove(group)
        for n in group.nodes:
            del home[id(n)]

    for node in nodes:
        needed = [home[id(r)] for r in map(root, node.nodes) if id(r) in home]
        large = _blockable(node)
        for group in dict.fromkeys(needed):
            if not (large and group.shape == node.shape and _aligned_inside(node, group)):
                close(group)
        if not large:
            steps.append(Step([node]))
            continue
        same = [g for g in open_ if g.shape == node.shape] or [Step([])]
        if not same[0].nodes:
            open_.append(same[0])
        same[0].nodes.append(node)
        home[id(node)] = same[0]
    while open_:
        close(open_[0])
    for step in steps:
        if len(step.nodes) > 1 or _blockable(step.nodes[0]):
            row = max(1, step.nodes[0].size // step.shape[0])
            step.rows = max(1, BLOCK // row)
            if len(step.nodes) == 1 or step.rows * 2 > step.shape[0]:
                step.rows = 0
    return [s for step in steps for s in ([step] if step.rows else [Step([n]) for n in step.nodes])]


def _blockable(node: Node) -> bool:
    return node.op in ELEMENTWISE | {"astype"} and node.size > 2 * BLOCK and node.shape[0] > 1


def _aligned_inside(node: Node, group: Step) -> bool:
    """Whether a node reads the results of a group element by element, or not at all."""
    members = {id(n) for n in group.nodes}
    return all(
        id(root(i)) not in members or (i.shape == node.shape and region(i) is not None)
        for i in node.nodes
    )


# Places -----------------------------------------------------------------------------------------


class Placement:
    """Where each result is put."""

    def __init__(self, program: Program, steps: list[Step], donated: dict[int, int]) -> None:
        self.program, self.steps, self.donated = program, steps, donated
        self.order = [n for step in steps for n in step.nodes]
        self.position = {id(n): p for p, n in enumerate(self.order)}
        self.step_of = {id(n): s for s, step in enumerate(steps) for n in step.nodes}
        self.reads: dict[int, list[tuple[int, Node]]] = {}  # of a root: by whom, as which view
        for p, n in enumerate(self.order):
            for i in n.nodes:
                self.reads.setdefault(id(root(i)), []).append((p, i))
        self.kept = {id(root(r)) for r in program.leaves if isinstance(r, Node)}
        self.inside: dict[int, tuple[Node, int]] = {}  # a part: its concat, first byte
        self.donor: dict[int, tuple[int, int]] = {}  # the number of the input, first byte
        self.slots: dict[int, list[tuple[Node, int]]] = {}
        self.copies: list[tuple[Node, int]] = []

    def plan(self, before: int) -> Plan:
        """Decide in the order of what costs most: donated inputs, concats, buffers."""
        for n in reversed(self.order):
            if n.op == "concat":
                self._parts(n)
        for k, d in self.donated.items():
            leaf = self.program.leaves[k]
            if leaf is not self.program.inputs[d]:
                self._donate(leaf, d)
        scratch, blocks = self._scratch()
        places, buffers = self._buffers(scratch)
        return Plan(
            self.program,
            before,
            self.steps,
            places,
            scratch,
            buffers,
            blocks,
            self.donated,
            self.copies,
            self.slots,
        )

    def _parts(self, concat: Node) -> None:
        """Give each part its place in the concat; what cannot be computed there is copied."""
        self.slots[id(concat)] = []
        axis, start = concat.attr("axis"), 0
        rest = concat.size // max(1, concat.shape[axis])
        for part in concat.inputs:
            found = region(part)
            fits = (
                (axis == 0 or all(n == 1 for n in concat.shape[:axis]))
                and found is not None
                and computed(found[0])
                and found[2] == found[0].size == part.size > 0
                and id(found[0]) not in self.inside
                and id(found[0]) not in self.kept
            )
            if fits and found is not None:
                self.inside[id(found[0])] = concat, start * rest * concat.dtype.itemsize
            else:
                self.slots[id(concat)].append((part, start))
            start += part.shape[axis]

    def _donate(self, leaf: Node, number: int) -> None:
        """Let a result be computed in the place of a donated input, if nobody reads that later."""
        found = region(leaf)
        whole = found is not None and found[2] == found[0].size and computed(found[0])
        if whole and found is not None:
            base = found[0]
            free = id(base) not in self.donor and id(base) not in self.inside
            if free and self._may_write(base, number, 0):
                self.donor[id(base)] = number, 0
                return
        self.copies.append((leaf, number))

    def _may_write(self, node: Node, number: int, start: int) -> bool:
        """Tell whether a node, and the parts inside it, may be written into a donated input.

        Parts of a concat that may not are computed elsewhere, and copied when all are there.
        """
        given, width = self.program.inputs[number], node.dtype.itemsize
        if node.op != "concat":
            return _overwrites(self, node, given, start // width, node.size)
        rest = node.size // max(1, node.shape[node.attr("axis")])
        for part in node.inputs:
            owner = self.inside.get(id(root(part)))
            if owner is None or owner[0] is not node:
                continue
            if not self._may_write(root(part), number, start + owner[1]):
                del self.inside[id(root(part))]
                self.slots[id(node)].append((part, owner[1] // width // rest))
        return all(
            _overwrites(self, node, given, start // width + at * rest, part.size)
            for part, at in self.slots[id(node)]
        )

    def _buffers(self, scratch: dict[int, int]) -> tuple[dict[int, Place], list[int]]:
        """Give everything else a buffer, and use buffers again when they are free."""
        places: dict[int, Place] = {}
        last: dict[int, int] = {}  # the step that reads a root last
        for n in self.order:
            owner, s = self._owner(n), self.step_of[id(n)]
            last[id(owner)] = max(last.get(id(owner), 0), self._last_read(n, s))
        sizes: list[int] = []
        free: list[int] = []
        dies: dict[int, list[int]] = {}
        of: dict[int, int] = {}  # the buffer of an owner
        for s, step in enumerate(self.steps):
            for n in step.nodes:
                owner = self._owner(n)
                if id(n) in scratch or id(owner) in of or id(owner) in self.donor:
                    continue
                taken = self._in_place(n, owner, of, last, s)
                if taken is None:
                    taken = _fitting(owner.nbytes, sizes, free)
                else:
                    dies[last[id(taken[0])]].remove(taken[1])
                    taken = taken[1]
                of[id(owner)] = taken
                dies.setdefault(last[id(owner)], []).append(taken)
            free += dies.pop(s, [])
        for n in self.order:
            if id(n) in scratch:
                continue
            owner, offset = n, 0
            while id(owner) in self.inside:
                owner, more = self.inside[id(owner)]
                offset += more
            if id(owner) in self.donor:
                number, start = self.donor[id(owner)]
                places[id(n)] = Place(("donated", number), start + offset)
            else:
                places[id(n)] = Place(("buffer", of[id(owner)]), offset)
        return places, sizes

    def _last_read(self, n: Node, s: int) -> int:
        """Return the last step that needs a result of step s: the end, where it is a result."""
        if id(n) in self.kept or any(root(c) is n for c, _ in self.copies):
            return len(self.steps)
        reads = self.reads.get(id(n))
        return max(s, *[self.step_of[id(self.order[p])] for p, _ in reads]) if reads else s

    def _owner(self, node: Node) -> Node:
        while id(node) in self.inside:
            node = self.inside[id(node)][0]
        return node

    def _in_place(
        self, n: Node, owner: Node, of: dict[int, int], last: dict[int, int], s: int
    ) -> Any:
        """Return (owner, buffer) of an operand whose place an elementwise result may take."""
        if owner is not n or n.op not in ELEMENTWISE | {"astype"}:
            return None
        if n.op == "where":
            return None
        for i in n.nodes:
            r = root(i)
            if (
                id(r) in of
                and self._owner(r) is r
                and r.op != "concat"
                and last[id(r)] == s
                and (r.shape, r.dtype) == (n.shape, n.dtype)
                and _overwrites(self, n, r, 0, r.size)
            ):
                return r, of[id(r)]
        return None

    def _scratch(self) -> tuple[dict[int, int], list[int]]:
        """Give values that only their own group reads a block, and use blocks again."""
        number: dict[int, int] = {}
        sizes: list[int] = []
        for s, step in enumerate(self.steps):
            if not step.rows:
                continue
            row = step.nodes[0].size // step.shape[0]
            free = list(range(len(sizes)))
            dies: dict[int, list[tuple[int, int]]] = {}  # at a position: block, bytes of an element
            for n in step.nodes:
                p, width = self.position[id(n)], n.dtype.itemsize
                for q in [q for q in dies if q < p]:
                    free += [b for b, _ in dies.pop(q)]
                readers = [q for q, _ in self.reads.get(id(n), [])]
                if self._leaves(n, s, readers):
                    continue
                over = [b for b, w in dies.get(p, []) if w == width and n.op != "where"]
                if over:  # elementwise: it may take the place of what dies here
                    number[id(n)] = over[0]
                    dies[p].remove((over[0], width))
                else:
                    number[id(n)] = _fitting(step.rows * row * width, sizes, free)
                dies.setdefault(max([p, *readers]), []).append((number[id(n)], width))
        return number, sizes

    def _leaves(self, n: Node, s: int, readers: list[int]) -> bool:
        """Whether a member's result is wanted outside of its group, step s."""
        return (
            any(self.step_of[id(self.order[q])] != s for q in readers)
            or id(n) in self.kept | self.inside.keys() | self.donor.keys()
            or any(root(c) is n for c, _ in self.copies)
        )


def _overwrites(of: Placement, writer: Node, old: Node, first: int, count: int) -> bool:
    """Tell whether `writer` may be put over elements first, first + 1, ... of `old`.

    Yes, if all who read these elements come before it, or are itself, reading element by element.
    A group runs all its operations on one block before the next block: members that read must do
    so element by element, too.
    """
    p = of.position[id(writer)]
    s = of.step_of[id(writer)]
    for q, view in of.reads.get(id(old), []):
        found = region(view)
        if found is not None and (found[1] + found[2] <= first or found[1] >= first + count):
            continue  # it reads other elements
        if q > p:
            return False
        if q < p and of.step_of[id(of.order[q])] != s:
            continue
        exact = found is not None and (found[1], found[2]) == (first, count)
        reader = of.order[q]
        elementwise = reader.op in ELEMENTWISE | {"astype"}
        same_layout = view.shape == writer.shape == reader.shape
        if q == p and (reader.op == "where" or reader.size == 1):
            return False  # it is done in two strokes; NumPy takes a slow way
        if not (
            exact and elementwise and same_layout and view.dtype.itemsize == writer.dtype.itemsize
        ):
            return False
    return True


def _fitting(nbytes: int, sizes: list[int], free: list[int]) -> int:
    """Return the number of a free buffer that is large enough, or else of a new one."""
    wanted = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
    fitting = [b for b in free if wanted <= sizes[b] <= 4 * wanted]
    if fitting:
        best = min(fitting, key=lambda b: sizes[b])
    elif free and wanted > max(sizes[b] for b in free):
        best = max(free, key=lambda b: sizes[b])  # one grows
        sizes[best] = wanted
    else:
        sizes.append(wanted)
        return len(sizes) - 1
    free.remove(best)
    return best


def blocks(step: Step) -> Iterator[tuple[int, int]]:
    """Yield the first row of each block of a group, and the row after its last."""
    for start in range(0, step.shape[0], step.rows):
        yield start, min(start + step.rows, step.shape[0])
