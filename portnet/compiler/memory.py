"""Memory: where each result is written.

In the buffer of a donated argument, in its part of a larger array (a concat then costs nothing), in
the buffer of an operand that is read for the last time, else in a buffer of its own. Buffers are
used again once nothing reads them. There is one danger: memory is overwritten while its old value
is still needed. `_overwrites` decides that.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .ir import POINTWISE, VIEWS, Node, Program, computed
from .schedule import Step
from .views import Strided, Strides, contiguous, region, root, viewed

__all__ = ["ALIGN", "STAGED", "Base", "BufferAssignment", "Layout", "Location", "aligned"]

ALIGN = 64  # bytes: a cache line


STAGED = 65_536  # bytes: arguments up to here may be copied to memory that machine code knows

Base = tuple[str, int]


class Location(NamedTuple):
    """Where the elements of an array lie: base, first byte, bytes between neighbours.

    A base is ("buffer", number), ("donated", number of the input), ("constant", number),
    ("argument", number of the input), ("staged", number of the input: a copy of a small argument)
    or ("scratch", number of a block). Only the caller knows the strides of an argument: None.
    """

    base: Base
    offset: int = 0
    strides: Strides | None = None


class Constants:
    """The arrays that are part of a plan; equal ones are kept once."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def add(self, array: Any) -> Base:
        """Return the base of an array."""
        array = np.asarray(array)
        same = array.tobytes() if array.nbytes <= 64 else id(array)  # few share a large one
        key = array.dtype.str, array.shape, same
        if key not in self._numbers:
            self._numbers[key] = len(self.arrays)
            self.arrays.append(array)
        return "constant", self._numbers[key]


@dataclass
class Layout:
    """Where every array of a program lies; code generators read it.

    ``layout[node]`` is the Location of a node; `staged` that of arguments and their views where
    machine code, which needs addresses, reads them.
    """

    locations: dict[int, Location]  # by id of the node
    staged: dict[int, Location]
    constants: Constants
    buffers: list[int]  # bytes
    blocks: list[int]  # bytes of what groups hand on
    copies: list[tuple[Node, int]]  # what is copied into a donated input at the end
    slots: dict[int, list[tuple[Node, int]]]  # of a concat: the parts to copy, and where to

    def __getitem__(self, node: Node) -> Location:
        return self.locations[id(node)]


class BufferAssignment:
    """Decides where each result is written."""

    def __init__(self, program: Program, steps: list[Step], donated: dict[int, int]) -> None:
        self.program, self.steps, self.donated = program, steps, donated
        self.order = [n for step in steps for n in step.nodes]
        self.position = {id(n): p for p, n in enumerate(self.order)}
        self.step_of = {id(n): s for s, step in enumerate(steps) for n in step.nodes}
        # Of a root: positions of its readers, and the views that they read
        self.reads: dict[int, list[tuple[int, Node]]] = {}
        for p, n in enumerate(self.order):
            for i in n.nodes:
                self.reads.setdefault(id(root(i)), []).append((p, i))
        self.kept = {id(root(r)) for r in program.leaves if isinstance(r, Node)}
        self.inside: dict[int, tuple[Node, int]] = {}  # by part: its concat, first byte
        self.donor: dict[int, int] = {}  # number of the input
        self.slots: dict[int, list[tuple[Node, int]]] = {}
        self.copies: list[tuple[Node, int]] = []

    def layout(self) -> Layout:
        """Return the layout; decided in the order of cost: donated inputs, concats, buffers."""
        for n in reversed(self.order):
            if n.op == "concat":
                self._parts(n)
        for k, d in self.donated.items():
            leaf = self.program.leaves[k]
            if leaf is not self.program.inputs[d]:
                self._donate(leaf, d)
        scratch, blocks = self._scratch()
        places, buffers = self._buffers(scratch)
        for node, block in scratch.items():
            places[node] = Location(("scratch", block))
        locations, constants = self._locations(places)
        staged = self._staged()
        return Layout(locations, staged, constants, buffers, blocks, self.copies, self.slots)

    def _locations(self, computed_at: dict[int, Location]) -> tuple[dict[int, Location], Constants]:
        """Return the locations of all nodes, and the constants."""
        at, constants = dict(computed_at), Constants()
        for node in self.program.nodes:
            if node.op == "input":
                given = node.value in self.donated.values()
                base = "donated" if given else "argument", node.value
                at[id(node)] = Location(base, 0, _strides(node) if given else None)
            elif node.op == "constant":
                base = constants.add(node.value)
                at[id(node)] = Location(base, 0, constants.arrays[base[1]].strides)
            elif node.op in VIEWS:
                at[id(node)] = _viewed(node, at[id(node.inputs[0])])
        return at, constants

    def _staged(self) -> dict[int, Location]:
        """Return the locations of arguments, C-contiguous, and of their views."""
        at: dict[int, Location] = {}
        for node in self.program.nodes:
            if node.op == "input":
                at[id(node)] = Location(("staged", node.value), 0, _strides(node))
            elif node.op in VIEWS and id(node.inputs[0]) in at:
                at[id(node)] = _viewed(node, at[id(node.inputs[0])])
        return at

    def _parts(self, concat: Node) -> None:
        """Let each part be computed inside the concat, or else be copied there."""
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
        """Let a result overwrite a donated input, if that is not read later; else copy it there."""
        found = region(leaf)
        whole = found is not None and found[2] == found[0].size and computed(found[0])
        if whole and found is not None:
            base = found[0]
            free = id(base) not in self.donor and id(base) not in self.inside
            if free and self._may_write(base, number, 0):
                self.donor[id(base)] = number
                return
        self.copies.append((leaf, number))

    def _may_write(self, node: Node, number: int, start: int) -> bool:
        """Tell whether a node, and the parts inside it, may overwrite a donated input.

        Parts of a concat that may not are computed elsewhere and copied in the end.
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

    def _buffers(self, scratch: dict[int, int]) -> tuple[dict[int, Location], list[int]]:
        """Assign buffers to all other results; free buffers are used again."""
        places: dict[int, Location] = {}
        last: dict[int, int] = {}  # the step that reads a root last
        for n in self.order:
            (owner, _), s = self._owner(n), self.step_of[id(n)]
            last[id(owner)] = max(last.get(id(owner), 0), self._last_read(n, s))
        sizes: list[int] = []
        free: list[int] = []
        dies: dict[int, list[int]] = {}
        of: dict[int, int] = {}  # the buffer of an owner
        for s, step in enumerate(self.steps):
            for n in step.nodes:
                owner, _ = self._owner(n)
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
            owner, offset = self._owner(n)
            number = self.donor.get(id(owner))
            base = ("buffer", of[id(owner)]) if number is None else ("donated", number)
            places[id(n)] = Location(base, offset, _strides(n))
        return places, sizes

    def _last_read(self, n: Node, s: int) -> int:
        """Return the last step that reads a result of step s: the end, if it is returned."""
        if id(n) in self.kept:
            return len(self.steps)
        reads = self.reads.get(id(n))
        return max(s, *[self.step_of[id(self.order[p])] for p, _ in reads]) if reads else s

    def _owner(self, node: Node) -> tuple[Node, int]:
        """Return the outermost concat that a result is computed in (or itself), and the byte."""
        offset = 0
        while id(node) in self.inside:
            node, start = self.inside[id(node)]
            offset += start
        return node, offset

    def _in_place(
        self, n: Node, owner: Node, of: dict[int, int], last: dict[int, int], s: int
    ) -> Any:
        """Return (owner, buffer) of an operand that an elementwise result may overwrite."""
        if owner is not n or n.op not in POINTWISE or n.op == "where":
            return None
        for i in n.nodes:
            r = root(i)
            if (
                id(r) in of
                and id(r) not in self.inside
                and r.op != "concat"
                and last[id(r)] == s
                and (r.shape, r.dtype) == (n.shape, n.dtype)
                and _overwrites(self, n, r, 0, r.size)
            ):
                return r, of[id(r)]
        return None

    def _scratch(self) -> tuple[dict[int, int], list[int]]:
        """Assign blocks to values that only their own group reads; free blocks are used again."""
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
                if over:  # elementwise: it may overwrite a value that is read here last
                    number[id(n)] = over[0]
                    dies[p].remove((over[0], width))
                else:
                    number[id(n)] = _fitting(step.rows * row * width, sizes, free)
                dies.setdefault(max([p, *readers]), []).append((number[id(n)], width))
        return number, sizes

    def _leaves(self, n: Node, s: int, readers: list[int]) -> bool:
        """Tell whether a result of a group, step s, is read outside of it."""
        return (
            any(self.step_of[id(self.order[q])] != s for q in readers)
            or id(n) in self.kept
            or id(n) in self.inside
            or id(n) in self.donor
        )


def _strides(node: Node) -> Strides:
    return contiguous(node.shape, node.dtype.itemsize)


def _viewed(node: Node, x: Location) -> Location:
    """Return the location of a view of what lies at x."""
    if x.strides is None:
        return x
    found = viewed(node, Strided(x.offset, x.strides))
    assert found is not None, "a reshape that needs a copy was not given one"
    return Location(x.base, *found)


def _overwrites(of: BufferAssignment, writer: Node, old: Node, first: int, count: int) -> bool:
    """Tell whether `writer` may overwrite elements first, first + 1, ... of `old`.

    It may if all readers of these elements come before it, or are itself, reading element by
    element. A group runs all its operations on one block before the next: readers in the writer's
    group must read element by element, too.
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
        elementwise = reader.op in POINTWISE
        same_layout = view.shape == writer.shape == reader.shape
        if q == p and (reader.op == "where" or reader.size == 1):
            return False  # `where` writes twice; NumPy is slow for one element
        if not (
            exact and elementwise and same_layout and view.dtype.itemsize == writer.dtype.itemsize
        ):
            return False
    return True


def _fitting(nbytes: int, sizes: list[int], free: list[int]) -> int:
    """Return the number of a free buffer that fits, or else of a new one."""
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


def aligned(nbytes: int) -> Any:
    """Return an array of so many bytes that begins at a cache line."""
    raw = np.empty(nbytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + nbytes]
