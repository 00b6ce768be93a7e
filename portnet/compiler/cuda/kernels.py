"""Kernels: the kernels of a plan as one source in C++, and how each is launched.

The source is what NVRTC takes and, with a small header, g++ too. A thread reads and writes elements
in place of its own, so that results may overwrite operands; sums are taken in an order that depends
on shapes alone. Where the rows of a column sum are shared by several blocks, each writes its part,
and the block that is done last adds the parts up, in their order.
"""

import re
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..errors import EagerError
from ..ir import Node, as_array
from ..memory import Base, Layout, Location
from ..planner import Plan
from ..views import is_contiguous, root
from .expressions import FLOATS, INTEGERS, PRELUDE, TYPES, expression, literal, operand_dtype
from .fusion import Axes, Kernel, operand_axes, own_axes

__all__ = ["Launch", "Matrix", "Product", "Program", "emitted"]

THREADS = 256  # of a block
PARTS = 264  # blocks that keep a large GPU busy
TILE = 16  # rows and columns of a product that a block computes
SMALL = 1 << 18  # multiplications of a product that gets a kernel of its own
EACH = 4  # elements that a thread reads before it writes, to keep memory busy
UNROLLED = 32  # elements of a row that a thread has in registers; more would not fit into them
LARGE = 1 << 19  # elements of which a thread computes several: there are enough for all threads
BINARY = {
    "sum": "add",
    "mean": "add",
    "prod": "multiply",
    "max": "maximum",
    "min": "minimum",
    "any": "bitwise_or",
    "all": "bitwise_and",
}


class Launch(NamedTuple):
    """One launch of a kernel; `parameters` are the bases whose addresses it takes, in order."""

    name: str
    grid: tuple[int, int]
    block: tuple[int, int]
    parameters: tuple[Base, ...]


class Matrix(NamedTuple):
    """A matrix in memory, row by row or transposed: base, first byte, elements between rows."""

    base: Base
    offset: int
    ld: int
    transposed: bool = False


class Product(NamedTuple):
    """c (m, n) = a (m, k) @ b (k, n)."""

    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    c: Matrix
    dtype: str


@dataclass
class Program:
    """What a plan does on a device.

    `source` has the kernels, `launches` what is launched, in order; `scratch` are the bytes of what
    blocks hand to each other, zeros at first, by number; `moving` the bytes by which an argument
    moves from step to step, by its number.
    """

    source: str
    launches: list[Launch | Product]
    scratch: list[int]
    moving: dict[int, int] = field(default_factory=dict)


def emitted(plan: Plan, kernels: list[Kernel], registers: set[int], moving: Any) -> Program:
    """Return the program of a plan whose steps are kernels.

    `registers` are the ids of the nodes that nothing outside their kernel reads, `moving` the bytes
    by which arguments move with each step, by their numbers.
    """
    emitter = _Emitter(plan.layout, registers, moving)
    for number, kernel in enumerate(kernels):
        emitter.kernel(f"k{number}_{kernel.kind}", kernel)
    copies = [
        (leaf, plan.layout[plan.program.inputs[d]], leaf.shape) for leaf, d in plan.layout.copies
    ]
    if kernels and kernels[-1].kind == "join":
        copies = [c for n in kernels[-1].nodes for c in emitter.slots(n)] + copies
    emitter.finish(copies)
    return Program(
        "\n".join([PRELUDE, *emitter.texts]), emitter.launches, emitter.scratch, dict(moving)
    )


class _Emitter:
    """Writes kernels one by one."""

    def __init__(self, layout: Layout, registers: set[int], moving: dict[int, int]) -> None:
        self.layout, self.registers, self.moving = layout, registers, moving
        self.texts: list[str] = []
        self.launches: list[Launch | Product] = []
        self.scratch: list[int] = []

    def kernel(self, name: str, kernel: Kernel) -> None:
        """Write a kernel, if it has anything to do."""
        if kernel.kind == "product":
            node = kernel.nodes[0]
            shared = node.inputs[0].shape[1]
            if node.size * shared <= SMALL and shared <= 8 * TILE:
                self._tiles(name, node)
            else:
                self.launches.append(self._product(node))
        elif kernel.kind == "join":
            for node in kernel.nodes:
                if node.shape == kernel.domain:  # else it is the last, see `emitted`
                    self._copies(name, self.slots(node), False)
        else:
            _Body(self, name, kernel).write()

    def slots(self, concat: Node) -> list[tuple[Node, Location, tuple[int, ...]]]:
        """Return the parts of a concat that must be copied: where to, in the shape of the part."""
        at, axis = self.layout[concat], concat.attr("axis")
        assert at.strides is not None
        return [
            (part, Location(at.base, at.offset + start * at.strides[axis], at.strides), part.shape)
            for part, start in self.layout.slots[id(concat)]
        ]

    def finish(self, copies: Any) -> None:
        """Write the last kernel: it copies results to their places and counts the step."""
        small = [c for c in copies if c[0].size <= 16 * THREADS]
        for number, large in enumerate([c for c in copies if c[0].size > 16 * THREADS]):
            self._copies(f"copy{number}", [large], False)
        self._copies("finish", small, True)

    def _copies(self, name: str, copies: Any, count: bool) -> None:
        if not copies and not count:
            return
        text = _Text(self, name)
        many = max([1, *[c[0].size for c in copies]])
        blocks = -(-many // THREADS) if many > 16 * THREADS else 1
        lines = []
        for part, to, shape in copies:
            of = self.place(part)
            coordinates = [f"(i / {prod(shape[k + 1 :])} % {n})" for k, n in enumerate(shape)]
            read = text.load(of, part.shape, part.dtype, coordinates, "i")
            write = text.address(to, shape, part.dtype, coordinates, "i")
            if part.nbytes == 0:
                continue
            lines += [
                f"  for (long long i = first; i < {part.size}; i += {blocks * THREADS})",
                f"    {write} = {read};",
                "  __syncthreads();",
            ]
        if count:
            counter = text.base(("counter", 0))
            lines.append(f"  if (first == 0) *(long long*){counter} += 1;")
        head = "  const long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x;"
        text.close([head, *lines], (blocks, 1), (THREADS, 1))

    def place(self, node: Node) -> Location:
        """Return where a node lies; arguments lie row by row."""
        at = self.layout.locations[id(node)]
        if at.base[0] == "argument":
            staged = self.layout.staged[id(node)]
            return Location(at.base, staged.offset, staged.strides)
        return at

    def _tiles(self, name: str, node: Node) -> None:
        """Write the kernel of a small product: cuBLAS takes longer for it than a launch does."""
        text, (a, b), kind = _Text(self, name), node.inputs, TYPES[node.dtype.name]
        (m, k), n = a.shape, b.shape[1]
        at_a = text.address(self.place(a), a.shape, a.dtype, ["row", "ka"])
        at_b = text.address(self.place(b), b.shape, b.dtype, ["kb", "column"])
        to = text.address(self.place(node), node.shape, node.dtype, ["row", "column"])
        multiply_add = "fmaf" if node.dtype.name == "float32" else "fma"
        lines = [
            f"  __shared__ {kind} a[{TILE}][{TILE + 1}], b[{TILE}][{TILE + 1}];",
            f"  const int row = blockIdx.y * {TILE} + threadIdx.y;",
            f"  const int column = blockIdx.x * {TILE} + threadIdx.x;",
            f"  {kind} sum = 0;",
            f"  for (int first = 0; first < {k}; first += {TILE}) {{",
            "    const int ka = first + threadIdx.x, kb = first + threadIdx.y;",
            f"    a[threadIdx.y][threadIdx.x] = row < {m} && ka < {k} ? {at_a} : 0;",
            f"    b[threadIdx.y][threadIdx.x] = kb < {k} && column < {n} ? {at_b} : 0;",
            "    __syncthreads();",
            "#pragma unroll",
            f"    for (int i = 0; i < {TILE}; i++)",
            f"      sum = {multiply_add}(a[threadIdx.y][i], b[i][threadIdx.x], sum);",
            "    __syncthreads();",
            "  }",
            f"  if (row < {m} && column < {n}) {to} = sum;",
        ]
        text.close(lines, (-(-n // TILE), -(-m // TILE)), (TILE, TILE))

    def _product(self, node: Node) -> Product:
        a, b = node.inputs
        at, width = self.place(node), node.dtype.itemsize
        (m, k), n = a.shape, b.shape[1]
        c = Matrix(at.base, at.offset, n)
        assert at.offset % width == 0
        return Product(m, n, k, self._matrix(a), self._matrix(b), c, node.dtype.name)

    def _matrix(self, x: Node) -> Matrix:
        at, width = self.place(x), x.dtype.itemsize
        assert at.strides is not None
        if at.base[0] == "argument" and self.moving.get(at.base[1]):
            raise EagerError("a product reads rows where they are")
        (rows, columns), (down, right) = x.shape, at.strides
        if (columns == 1 or right == width) and (rows == 1 or down >= columns * width):
            return Matrix(at.base, at.offset, down // width if rows > 1 else columns)
        if (rows == 1 or down == width) and (columns == 1 or right >= rows * width):
            return Matrix(at.base, at.offset, right // width if columns > 1 else rows, True)
        raise EagerError(f"there is no product of a view with strides {at.strides}")


class _Text:
    """The text of one kernel: its parameters, and how elements are read and written."""

    def __init__(self, emitter: _Emitter, name: str) -> None:
        self.emitter, self.name = emitter, name
        self.parameters: list[Base] = []

    def base(self, base: Base) -> str:
        """Return the name of the parameter that has the address of a base."""
        if base not in self.parameters:
            self.parameters.append(base)
        return f"p{self.parameters.index(base)}"

    def address(
        self, at: Location, shape: Any, dtype: Any, coordinates: list[str], linear: str = ""
    ) -> str:
        """Return an element as C++; `linear` is its number where it lies row by row."""
        kind, start = TYPES.get(dtype.name), self.base(at.base)
        if kind is None:
            raise EagerError(f"there is no kernel for {dtype}")
        assert at.strides is not None
        step = self.emitter.moving.get(at.base[1]) if at.base[0] == "argument" else 0
        if step:
            start += f" + *(const long long*){self.base(('counter', 0))} * {step}"
        if at.offset:
            start += f" + {at.offset}"
        if linear and is_contiguous(shape, at.strides, dtype.itemsize):
            return f"(({kind}*)({start}))[{linear}]"
        for c, stride, n in zip(coordinates, at.strides, shape, strict=True):
            if stride and n != 1:
                start += f" + (long long){c} * {stride}"
        return f"*({kind}*)({start})"

    load = address

    def close(self, lines: list[str], grid: tuple[int, int], block: tuple[int, int]) -> None:
        """Add the kernel to the source, and its launch."""
        given = ", ".join(f"char* __restrict__ p{i}" for i in range(len(self.parameters)))
        head = f'extern "C" __global__ void {self.name}({given}) {{'
        self.emitter.texts.append("\n".join([head, *lines, "}"]))
        self.emitter.launches.append(Launch(self.name, grid, block, tuple(self.parameters)))


class _Body(_Text):
    """A kernel of elementwise operations and reductions."""

    def __init__(self, emitter: _Emitter, name: str, kernel: Kernel) -> None:
        super().__init__(emitter, name)
        self.kernel, self.domain = kernel, kernel.domain
        self.number = {id(n): i for i, n in enumerate(kernel.nodes)}
        self.reductions = [n for n in kernel.nodes if n.op in BINARY]
        self.linear = "i" if kernel.kind in ("elements", "whole") else ""
        self.arrays: set[int] = set()  # nodes of rows whose elements later passes read

    # One node ------------------------------------------------------------------------------------

    def axes(self, node: Node) -> Axes:
        """Return the axes of the domain along which those of a node lie."""
        return self.kernel.axes[id(node)]

    def level(self, node: Node) -> frozenset[int]:
        """Return the axes along which a value differs."""
        return frozenset(a for a in self.axes(node) if a is not None)

    def element(self, node: Node, axes: Axes) -> str:
        """Return an element of an array in memory, along these axes."""
        coordinates = ["0" if a is None else f"c{a}" for a in axes]
        used = [a for a in axes if a is not None]
        linear = self.linear if used == list(range(len(self.domain))) else ""
        return self.address(self.emitter.place(node), node.shape, node.dtype, coordinates, linear)

    def variable(self, node: Node) -> str:
        """Return the variable of a node of this kernel."""
        name = f"v{self.number[id(node)]}"
        return f"{name}[j]" if id(node) in self.arrays else name

    def operand(self, view: Node, axes: Axes) -> str:
        """Return an operand as C++: a variable, or an element in memory."""
        of = root(view)
        return self.variable(of) if id(of) in self.number else self.element(view, axes)

    def value(self, node: Node) -> str:
        """Return a node's operation as C++."""
        axes = self.axes(node)
        if node.op == "take":
            return self._taken(node, axes)
        kind = operand_dtype(node)
        texts: list[str] = []
        numbers: list[Any] = []
        for k, i in enumerate(node.inputs):
            condition = node.op == "where" and k == 0
            own = node.op in ("astype", "copy") or condition
            if isinstance(i, Node):
                text = self.operand(i, operand_axes(node.shape, axes, i.shape))
                same = own or i.dtype == kind
                texts.append(text if same else f"({TYPES[kind.name]}){text}")
                numbers.append(None)
            else:
                exact = as_array(node, i)
                if exact is None:
                    raise EagerError(f"{i} is too large for {node.op}")
                texts.append(literal(exact.astype(kind)[()], kind))
                numbers.append(exact.item())
        return expression(node, texts, numbers)

    def _taken(self, node: Node, axes: Axes) -> str:
        x, index = node.inputs
        if node.attr("axis") != 0 or len(index.shape) != 1 or id(root(x)) in self.number:
            raise EagerError("there is no kernel for such a take")
        row = self.operand(index, (axes[0],))
        at = self.emitter.place(x)
        coordinates = [f"({row})", *["0" if a is None else f"c{a}" for a in axes[1:]]]
        return self.address(at, (x.shape[0] + 1, *x.shape[1:]), x.dtype, coordinates)

    def compute(self, node: Node, indent: str) -> str:
        """Return the line that computes a node."""
        name = self.variable(node)
        declared = name if id(node) in self.arrays else f"const {TYPES[node.dtype.name]} {name}"
        return f"{indent}{declared} = {self.value(node)};"

    def computed(self, node: Node, indent: str, guard: str = "") -> list[str]:
        """Return the lines that compute a node, and store it if it is read elsewhere."""
        return [self.compute(node, indent), *self.store(node, indent, guard)]

    def is_stored(self, node: Node) -> bool:
        """Tell whether a value has memory: another kernel reads it."""
        return id(node) not in self.emitter.registers

    def store(self, node: Node, indent: str, guard: str = "") -> list[str]:
        """Return the line that stores a value, if it has memory."""
        if not self.is_stored(node):
            return []
        return [f"{indent}{guard}{self.element(node, self.axes(node))} = {self.variable(node)};"]

    def accumulated(self, node: Node, name: str, value: str) -> str:
        """Return two values of a reduction as one."""
        table = FLOATS if node.dtype.kind == "f" else INTEGERS
        if node.dtype.kind == "b":
            return f"({name} {'||' if node.op == 'any' else '&&'} {value})"
        unsigned = f"unsigned {TYPES[node.dtype.name]}" if node.dtype.kind in "iu" else ""
        form = table[BINARY[node.op]]
        return form.format(
            a=name,
            b=value,
            T=TYPES[node.dtype.name],
            U=unsigned.replace("unsigned unsigned", "unsigned"),
        )

    def start(self, node: Node) -> str:
        """Return the first value of a reduction."""
        if node.op in ("max", "min"):
            if node.dtype.kind == "f":
                return literal(-np.inf if node.op == "max" else np.inf, node.dtype)
            info = np.iinfo(node.dtype)
            return literal(info.min if node.op == "max" else info.max, node.dtype)
        return literal(node.op in ("prod", "all"), node.dtype)

    def value_of(self, reduction: Node) -> str:
        """Return the variable of what is added to a reduction next."""
        return f"e{self.number[id(reduction)]}[j]"

    def addend(self, node: Node) -> str:
        """Return what is added to a reduction."""
        x = node.inputs[0]
        text = self.operand(x, own_axes(x.shape))
        return text if x.dtype == node.dtype else f"({TYPES[node.dtype.name]})({text})"

    def added(self, node: Node, value: str = "") -> str:
        """Return the statement that adds a value, or else the addend, to a reduction."""
        name = f"a{self.number[id(node)]}"
        if value:
            return f"{name} = {self.accumulated(node, name, value)};"
        kind = TYPES[node.dtype.name]
        both = self.accumulated(node, name, "e")
        return f"{{ const {kind} e = {self.addend(node)}; {name} = {both}; }}"

    def finished(self, node: Node, text: str) -> str:
        """Return the result of a reduction: a mean is a sum, divided."""
        count = self.kernel.size // max(1, node.size)
        return f"{text} / {literal(count, node.dtype)}" if node.op == "mean" else text

    def declared(self, threads: str) -> list[str]:
        """Return the declarations of what is accumulated, and of shared memory."""
        lines = []
        for n in self.reductions:
            kind, i = TYPES[n.dtype.name], self.number[id(n)]
            lines.append(f"  {kind} a{i} = {self.start(n)};")
            if threads:
                lines.append(f"  __shared__ {kind} s{i}{threads};")
        return lines

    def coordinates(self) -> list[str]:
        """Return the lines that compute the coordinates of element i."""
        used, kind = self.domain if len(self.domain) > 1 else (), self.whole_number
        lines = [f"const {kind} c0 = i;"] if self.domain else []
        for k, n in enumerate(used):  # 32 bits where they suffice: GPUs divide them faster
            inner = prod(used[k + 1 :])
            of = f"i / {inner}" if inner > 1 else "i"
            lines[k:] = [f"const {kind} c{k} = {of}{f' % {n}' if k else ''};"]
        return lines

    @property
    def whole_number(self) -> str:
        """The type of an element's number."""
        return "int" if self.kernel.size < 2**30 else "long long"

    # Kernels -------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write the kernel."""
        for n in self.kernel.nodes:
            if n.dtype.name not in TYPES:
                raise EagerError(f"there is no kernel for {n.op} of {n.dtype}")
        {
            "elements": self._elements,
            "whole": self._whole,
            "rows": self._rows,
            "columns": self._columns,
        }[self.kernel.kind]()

    def _elements(self) -> None:
        size, kind = self.kernel.size, self.whole_number
        if self.domain and size >= LARGE:
            return self._many_elements()
        block = min(THREADS, -(-size // 32) * 32)
        lines = [
            f"  const {kind} i = ({kind})blockIdx.x * {block} + threadIdx.x;",
            f"  if (i >= {size}) return;",
            *[f"  {line}" for line in self.coordinates()],
        ]
        for node in self.kernel.nodes:
            lines += self.computed(node, "  ", self._one_of(node))
        self.close(self._silent(lines), (-(-size // block), 1), (block, 1))

    def _many_elements(self) -> None:
        """Write the kernel of many elements: a thread reads several before it writes the first."""
        size, kind, nodes = self.kernel.size, self.whole_number, self.kernel.nodes
        scalars = [n for n in nodes if not self.level(n)]  # the same for all: computed once
        inside = [n for n in nodes if self.level(n)]
        self.arrays.update(id(n) for n in inside if self.is_stored(n))
        lines = [f"  const {kind} first = ({kind})blockIdx.x * {THREADS * EACH} + threadIdx.x;"]
        for node in scalars:
            lines += self.computed(node, "  ", "if (first == 0) ")
        lines += [
            f"  {TYPES[n.dtype.name]} v{self.number[id(n)]}[{EACH}];"
            for n in inside
            if id(n) in self.arrays
        ]
        coordinates = [f"    {line}" for line in self.coordinates()]
        reads = [
            f"    const {kind} i = min(first + {THREADS} * j, ({kind}){size - 1});",
            *coordinates,
            *[self.compute(n, "    ") for n in inside],
        ]
        writes = [
            f"    const {kind} i = first + {THREADS} * j;",
            f"    if (i >= {size}) break;",
            *coordinates,
            *[line for n in inside for line in self.store(n, "    ", self._one_of(n))],
        ]
        for body in (reads, writes):
            lines += ["#pragma unroll", f"  for (int j = 0; j < {EACH}; j++) {{"]
            lines += [*self._silent(body), "  }"]
        self.close(lines, (-(-size // (THREADS * EACH)), 1), (THREADS, 1))

    def _one_of(self, node: Node) -> str:
        """Return the condition under which a thread stores a value that others have, too."""
        same = [a for a in range(len(self.domain)) if a not in self.level(node)]
        return f"if ({' && '.join(f'c{a} == 0' for a in same)}) " if same else ""

    def _silent(self, lines: list[str]) -> list[str]:
        """Return lines without the coordinates that nothing reads."""
        text = "\n".join(lines)
        return [
            line
            for line in lines
            if not (re.match(r" *const (int|long long) c\d", line) and _count(line, text) == 1)
        ]

    def _whole(self) -> None:
        size = self.kernel.size
        blocks = min(256, -(-size // (8 * THREADS)))
        lines = [*self.declared(f"[{THREADS}]")]
        scalars = [n for n in self.kernel.nodes if not self.level(n) and n.op not in BINARY]
        for node in scalars:
            lines += self.computed(node, "  ", "if (blockIdx.x + threadIdx.x == 0) ")
        lines += [
            f"  for ({self.whole_number} i = ({self.whole_number})blockIdx.x * {THREADS} + "
            f"threadIdx.x; i < {size}; i += {blocks * THREADS}) {{",
            *[f"    {line}" for line in self.coordinates()],
        ]
        for node in self.kernel.nodes:
            if node.op in BINARY:
                lines.append(f"    {self.added(node)}")
            elif self.level(node):
                lines += self.computed(node, "    ", self._one_of(node))
        lines.append("  }")
        for n in self.reductions:
            i = self.number[id(n)]
            lines += [f"  s{i}[threadIdx.x] = a{i};"]
        lines += ["  __syncthreads();", f"  for (int h = {THREADS // 2}; h > 0; h /= 2) {{"]
        lines.append("    if ((int)threadIdx.x < h) {")
        for n in self.reductions:
            i = self.number[id(n)]
            both = self.accumulated(n, f"s{i}[threadIdx.x]", f"s{i}[threadIdx.x + h]")
            lines.append(f"      s{i}[threadIdx.x] = {both};")
        lines += ["    }", "    __syncthreads();", "  }"]
        if blocks > 1:
            lines += self._by_the_last_block(blocks, 1, "0", "s{i}[0]", "threadIdx.x == 0")
            condition = "if (last && threadIdx.x == 0) "
        else:
            lines += [
                f"  a{self.number[id(n)]} = s{self.number[id(n)]}[0];" for n in self.reductions
            ]
            condition = "if (threadIdx.x == 0) "
        for n in self.reductions:
            i = self.number[id(n)]
            kind = TYPES[n.dtype.name]
            lines.append(f"  const {kind} v{i} = {self.finished(n, f'a{i}')};")
            lines += self.store(n, "  ", condition)
        self.close(self._silent(lines), (blocks, 1), (THREADS, 1))

    def _by_the_last_block(
        self, parts: int, width: int, column: str, sum_: str, one: str
    ) -> list[str]:
        """Return the lines by which the block that is done last adds up the parts of all blocks.

        `one` is true for the thread, or each column's, that has the sum of its block.
        """
        block = "blockIdx.y" if width > 1 else "blockIdx.x"
        groups = -(-width // 32)
        done = self._scratch(4 * groups)
        group = "blockIdx.x" if width > 1 else "0"
        lines = []
        for n in self.reductions:
            i, kind = self.number[id(n)], TYPES[n.dtype.name]
            at = self._scratch(parts * width * n.dtype.itemsize)
            lines += [
                f"  volatile {kind}* parts{i} = (volatile {kind}*){at};",
                f"  if ({one}) parts{i}[(long long){block} * {width} + {column}] = "
                f"{sum_.format(i=i)};",
            ]
        lines += [
            "  __shared__ bool last;",
            "  __threadfence();",
            "  __syncthreads();",
            "  if (threadIdx.x + threadIdx.y == 0) {",
            f"    unsigned int* done = (unsigned int*){done} + {group};",
            f"    last = atomicAdd(done, 1u) == {parts - 1};",
            "    if (last) *done = 0;",
            "  }",
            "  __syncthreads();",
            "  if (last) __threadfence();",
        ]
        for n in self.reductions:
            i = self.number[id(n)]
            both = self.accumulated(n, f"a{i}", f"parts{i}[(long long)k * {width} + {column}]")
            lines += [
                f"  if (last && ({one})) {{",
                f"    a{i} = {self.start(n)};",
                f"    for (int k = 0; k < {parts}; k++) a{i} = {both};",
                "  }",
            ]
        return lines

    def _scratch(self, nbytes: int) -> str:
        """Return the parameter of memory that the blocks of this kernel share."""
        self.emitter.scratch.append(nbytes)
        return self.base(("scratch", len(self.emitter.scratch) - 1))

    def _columns(self) -> None:
        rows, columns = self.domain
        across = -(-columns // 32)
        down = max(1, min(-(-rows // 64), -(-PARTS // across)))
        chunk = -(-rows // down)
        down = -(-rows // chunk)
        lines = [
            *self.declared("[8][32]"),
            "  const int mine = blockIdx.x * 32 + threadIdx.x;",
            f"  const bool live = mine < {columns};",
            f"  const int c1 = live ? mine : {columns - 1};",
        ]
        first = "if (live && blockIdx.y + threadIdx.y == 0) "
        for node in self.kernel.nodes:
            if node.op not in BINARY and 0 not in self.level(node):
                one = first if self.level(node) else first.replace("live", "mine == 0")
                lines += self.computed(node, "  ", one)
        inside = [n for n in self.kernel.nodes if n.op in BINARY or 0 in self.level(n)]
        self.arrays.update(id(n) for n in inside if n.op not in BINARY and self.is_stored(n))
        kept = [f"{TYPES[n.dtype.name]} e{self.number[id(n)]}[{EACH}]" for n in self.reductions]
        kept += [
            f"{TYPES[n.dtype.name]} v{self.number[id(n)]}[{EACH}]"
            for n in inside
            if id(n) in self.arrays
        ]
        lines += [
            f"  const int end = min({rows}, (int)(blockIdx.y + 1) * {chunk});",
            f"  for (int c = blockIdx.y * {chunk} + threadIdx.y; c < end; c += {8 * EACH}) {{",
            *[f"    {declaration};" for declaration in kept],
            "#pragma unroll",
            f"    for (int j = 0; j < {EACH}; j++) {{  // all reads before the first write",
            "      const int c0 = min(c + 8 * j, end - 1);",
        ]
        later = []
        for n in inside:
            if n.op in BINARY:
                lines.append(f"      {self.value_of(n)} = {self.addend(n)};")
                later.append(f"      {self.added(n, self.value_of(n))}")
            else:
                lines.append(self.compute(n, "      "))
                later += self.store(
                    n, "      ", "if (live) " if 1 in self.level(n) else "if (mine == 0) "
                )
        lines += [
            "    }",
            "#pragma unroll",
            f"    for (int j = 0; j < {EACH}; j++) {{",
            "      const int c0 = c + 8 * j;",
            "      if (c0 >= end) break;",
            *later,
            "    }",
        ]
        lines.append("  }")
        for n in self.reductions:
            i = self.number[id(n)]
            lines.append(f"  s{i}[threadIdx.y][threadIdx.x] = a{i};")
        lines.append("  __syncthreads();")
        for n in self.reductions:
            i = self.number[id(n)]
            both = self.accumulated(n, f"a{i}", f"s{i}[k][threadIdx.x]")
            lines.append(f"  if (threadIdx.y == 0) for (int k = 1; k < 8; k++) a{i} = {both};")
        one = "live && threadIdx.y == 0"
        if down > 1:
            lines += self._by_the_last_block(down, columns, "c1", "a{i}", one)
        condition = f"if (last && {one}) " if down > 1 else f"if ({one}) "
        for n in self.reductions:
            i = self.number[id(n)]
            kind = TYPES[n.dtype.name]
            lines.append(f"  const {kind} v{i} = {self.finished(n, f'a{i}')};")
            lines += self.store(n, "  ", condition)
        self.close(lines, (across, down), (32, 8))

    def _rows(self) -> None:
        rows, columns = self.domain
        lanes = 1
        while lanes < THREADS and 4 * lanes < columns:
            lanes *= 2
        each = THREADS // lanes  # rows of a block: fewer where that keeps more blocks busy
        while each * lanes > 64 and each > 1 and -(-rows // each) < PARTS // 2:
            each //= 2
        turns = -(-columns // lanes)
        passes, last_pass = self._passes(), 0
        for n in self.kernel.nodes:
            last_pass = max(last_pass, passes[id(n)])
        for n in self.kernel.nodes:
            for i in n.nodes:
                of = root(i)
                full = id(of) in self.number and 1 in self.level(of) and of.op not in BINARY
                if full and passes[id(of)] != passes[id(n)]:
                    self.arrays.add(id(of))
        lines = [
            *self.declared(f"[{each}][{lanes}]" if lanes > 1 else ""),
            "  const int lane = threadIdx.x;",
            f"  const int mine = blockIdx.x * {each} + threadIdx.y;",
            f"  const bool live = mine < {rows};",
            f"  const int c0 = live ? mine : {rows - 1};",
        ]
        lines += [
            f"  {TYPES[n.dtype.name]} v{self.number[id(n)]}[{turns}];"
            for n in self.kernel.nodes
            if id(n) in self.arrays
        ]
        one = "if (live && lane == 0) "
        for p in range(last_pass + 1):
            inside = []
            for n in self.kernel.nodes:
                if passes[id(n)] != p:
                    continue
                if n.op in BINARY:
                    inside.append(f"      {self.added(n)}")
                elif 1 in self.level(n):
                    whole = 0 in self.level(n)
                    inside += self.computed(
                        n, "      ", "if (live) " if whole else "if (mine == 0) "
                    )
                else:
                    guard = one if self.level(n) else "if (mine == 0 && lane == 0) "
                    lines += self.computed(n, "  ", guard)
            if inside:
                lines += [
                    "#pragma unroll" if turns <= UNROLLED else "#pragma unroll 1",
                    f"  for (int j = 0; j < {turns}; j++) {{",
                    f"    const int c1 = lane + j * {lanes};",
                    f"    if (c1 < {columns}) {{",
                    *inside,
                    "    }",
                    "  }",
                ]
            for n in self.reductions:
                if passes[id(n)] == p:
                    lines += self._over_lanes(n, lanes)
                    kind, of_n = TYPES[n.dtype.name], self.number[id(n)]
                    lines.append(f"  const {kind} v{of_n} = {self.finished(n, f'a{of_n}')};")
                    lines += self.store(n, "  ", one)
        self.close(lines, (-(-rows // each), 1), (lanes, each))

    def _over_lanes(self, n: Node, lanes: int) -> list[str]:
        """Return the lines that reduce the values of the threads of a row."""
        if lanes == 1:
            return []
        i = self.number[id(n)]
        mine, other = f"s{i}[threadIdx.y][lane]", f"s{i}[threadIdx.y][lane + h]"
        return [
            f"  {mine} = a{i};",
            "  __syncthreads();",
            f"  for (int h = {lanes // 2}; h > 0; h /= 2) {{",
            f"    if (lane < h) {mine} = {self.accumulated(n, mine, other)};",
            "    __syncthreads();",
            "  }",
            f"  a{i} = s{i}[threadIdx.y][0];",
        ]

    def _passes(self) -> dict[int, int]:
        """Return after how many reductions, one needing the other, a node can be computed."""
        found: dict[int, int] = {}
        for n in self.kernel.nodes:
            at = 0
            for i in n.nodes:
                of = root(i)
                if id(of) in found:
                    at = max(at, found[id(of)] + (of.op in BINARY))
            found[id(n)] = at
        return found


def _count(line: str, text: str) -> int:
    """Return how often the coordinate that a line declares is named in a text."""
    name = line.split("=")[0].split()[-1]
    return len(re.findall(rf"\b{name}\b", text))
