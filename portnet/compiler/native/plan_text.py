"""Plan text: all that the machine code of a plan depends on, as a text.

The code is known by it in the cache: the text is made much faster than the code. And it can be made
into a plan again, from which another process makes the same code.
"""

import ast
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..ir import Node, Program
from ..memory import Constants, Layout, Location
from ..planner import Plan
from ..schedule import Step

__all__ = ["is_small", "plan_of", "plan_text"]

SMALL = 64  # bytes
NUMBERS: dict[str, Callable[[str], Any]] = {
    "bool": "True".__eq__,
    "int": int,
    "float": float,
    "complex": complex,
    "NoneType": lambda text: None,
}

# The files that decide what the code is: one that is changed makes other code of the same plan.
_SOURCES = (
    *("ir.py", "memory.py", "schedule.py", "views.py", "native/jit.py", "native/llvm.py"),
    *("native/llvm_ir.py", "native/lowering.py", "native/numpy_c.py", "native/plan_text.py"),
    "native/scan.py",
)


def plan_text(plan: Plan, row_numbers: Collection[int]) -> str:
    """Return the steps of a plan, where their arrays lie, and which arguments are row numbers."""
    layout, program = plan.layout, plan.program
    number = {id(n): i for i, n in enumerate(program.nodes)}

    def numbers(values: Iterable[Any]) -> list[Any]:
        return [number[id(v)] if type(v) is Node else (type(v).__name__, _text(v)) for v in values]

    nodes = []
    for n in program.nodes:
        value = n.value
        if n.op == "constant":
            value = layout.constants.arrays[layout[n].base[1]]  # equal ones may lie otherwise
            value = value.tobytes() if is_small(value) else None
        places = _place(layout.locations.get(id(n))), _place(layout.staged.get(id(n)))
        nodes.append((n.op, numbers(n.inputs), n.attrs, n.shape, n.dtype.str, value, *places))
    slots = [
        (number[concat], [(number[id(part)], start) for part, start in parts])
        for concat, parts in layout.slots.items()
    ]
    rest = (
        _VERSIONS,
        list(row_numbers),
        numbers(program.inputs),
        [number.get(id(leaf)) for leaf in program.leaves],  # None: it is no array
        [(step.rows, numbers(step.nodes)) for step in plan.steps],
        list(plan.donated.items()),
        [(number[id(leaf)], to) for leaf, to in layout.copies],
        slots,
    )
    return "\n".join(map(repr, [*rest, *nodes]))


def plan_of(text: str) -> tuple[Plan, list[int]]:
    """Return the plan of a text and its row numbers; only small constants have their values."""
    rest, rows = text.split("\n")[:8], text.split("\n")[8:]
    _, row_numbers, inputs, leaves, steps, donated, copies, slots = map(ast.literal_eval, rest)
    nodes: list[Node] = []
    layout = Layout({}, {}, Constants(), [], [], [], {})

    def read(values: list[Any]) -> list[Any]:
        return [nodes[v] if type(v) is int else NUMBERS[v[0]](v[1]) for v in values]

    for op, given, attrs, shape, kind, value, at, staged in map(ast.literal_eval, rows):
        dtype = np.dtype(kind)
        if op == "constant" and value is None:
            value = np.broadcast_to(np.zeros((), dtype), shape)
        elif op == "constant":
            value = np.frombuffer(value, dtype).reshape(shape)
        nodes.append(Node(op, tuple(read(given)), attrs, shape, dtype, value))
        for places, place in ((layout.locations, at), (layout.staged, staged)):
            if place is not None:
                places[id(nodes[-1])] = Location(*place)
    found = {}
    for n in nodes:
        if n.op == "constant":
            found[layout[n].base[1]] = n.value
    for number in range(len(found)):
        if is_small(found[number]):
            layout.constants.add(found[number])
        else:  # those without values are not equal
            layout.constants.arrays.append(found[number])
    layout.copies += [(nodes[leaf], to) for leaf, to in copies]
    layout.slots.update(
        (id(nodes[concat]), [(nodes[part], start) for part, start in parts])
        for concat, parts in slots
    )
    results = [None if number is None else nodes[number] for number in leaves]
    program = Program(read(inputs), nodes, None, results)
    plan_steps = [Step(read(numbers), count) for count, numbers in steps]
    return Plan(program, 0, plan_steps, dict(donated), layout), row_numbers


def is_small(constant: Any) -> bool:
    """Tell whether the values of a constant are part of the code: few, and row by row.

    The code reads a constant by its strides, which a copy made from its bytes would not have.
    """
    return bool(constant.nbytes <= SMALL and constant.flags.c_contiguous)


def _text(number: Any) -> str:
    """Return the text of a Python number; that of a NaN, too, has its sign."""
    text = repr(number)
    return f"-{text}" if text == "nan" and np.signbit(number) else text


def _place(at: Location | None) -> Any:
    return None if at is None else tuple(at)


def _versions() -> list[tuple[str, int, int]]:
    """Return name, size and time of the files."""
    found = []
    for name in _SOURCES:
        path = Path(__file__).parents[1] / name
        if path.exists():
            found.append((name, path.stat().st_size, path.stat().st_mtime_ns))
    return found


_VERSIONS = _versions()  # as they are imported: what is edited later is for the next process
