"""Scan: calls of a plan, one after the other, inside one compiled function.

The donated arrays carry the state from call to call. The other arguments may move: call s of turn
t reads an argument at ``address + s * per_call + t * per_turn`` bytes, so that a turn may be an
epoch, and a call a batch of rows. The last calls of each turn may belong to another plan: a shorter
batch.
"""

import ctypes
import time
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from ..memory import aligned
from ..planner import Plan
from .jit import is_compiled, machine_code
from .lowering import Lowering

__all__ = ["NAMES", "Moving", "Scan", "functions_of", "is_compiled_already", "lowered"]

NAMES = "segment0", "scan"  # of the functions that are called


class Moving(NamedTuple):
    """An argument: the array of the first call, and how many bytes it moves."""

    array: Any
    per_call: int = 0
    per_turn: int = 0


# %d: calls of a turn, those of the first plan, first call, calls to make, calls made; then of each
# plan: function, table, moves, number of moves. A move: number in the table, address, per call, per
# turn. Calls are numbered through all turns.
TEXT = """
define void @scan(ptr %d) nounwind {
entry:
  %turn = load i64, ptr %d
  %dp = getelementptr i64, ptr %d, i64 1
  %first_plan = load i64, ptr %dp
  %fp = getelementptr i64, ptr %d, i64 2
  %first = load i64, ptr %fp
  %np = getelementptr i64, ptr %d, i64 3
  %count = load i64, ptr %np
  %made = getelementptr i64, ptr %d, i64 4
  br label %calls
calls:
  %k = phi i64 [0, %entry], [%k1, %call]
  %c = add i64 %first, %k
  %t = udiv i64 %c, %turn
  %s = urem i64 %c, %turn
  %short = icmp uge i64 %s, %first_plan
  %at = select i1 %short, i64 9, i64 5
  %plan = getelementptr i64, ptr %d, i64 %at
  %function = load ptr, ptr %plan
  %plan1 = getelementptr i64, ptr %plan, i64 1
  %table = load ptr, ptr %plan1
  %plan2 = getelementptr i64, ptr %plan, i64 2
  %moves = load ptr, ptr %plan2
  %plan3 = getelementptr i64, ptr %plan, i64 3
  %n = load i64, ptr %plan3
  br label %move
move:
  %m = phi i64 [0, %calls], [%m1, %move]
  %m4 = mul i64 %m, 4
  %q = getelementptr i64, ptr %moves, i64 %m4
  %number = load i64, ptr %q
  %q1 = getelementptr i64, ptr %q, i64 1
  %address = load i64, ptr %q1
  %q2 = getelementptr i64, ptr %q, i64 2
  %per_call = load i64, ptr %q2
  %q3 = getelementptr i64, ptr %q, i64 3
  %per_turn = load i64, ptr %q3
  %sc = mul i64 %s, %per_call
  %tt = mul i64 %t, %per_turn
  %moved = add i64 %sc, %tt
  %to = add i64 %address, %moved
  %slot = getelementptr i64, ptr %table, i64 %number
  store i64 %to, ptr %slot
  %m1 = add i64 %m, 1
  %more = icmp ult i64 %m1, %n
  br i1 %more, label %move, label %call
call:
  call void %function(ptr %table)
  %k1 = add i64 %k, 1
  store i64 %k1, ptr %made
  %again = icmp ult i64 %k1, %count
  br i1 %again, label %calls, label %done
done:
  ret void
}
"""


class Scan:
    """Calls of one or two plans in turns; each plan is lowered by `lowered`.

    Parameters
    ----------
    plans : list of (Plan, Lowering, int)
        What is called, and how often in each turn.
    moving : list of Moving
        The arguments, in their order, C-contiguous; their arrays are kept. `donated` ones hold the
        results.
    """

    def __init__(self, plans: list[tuple[Plan, Lowering, int]], moving: list[Moving]) -> None:
        self.counts = [count for _, _, count in plans]
        self.kept: list[Any] = [m.array for m in moving]
        self.seconds = 0.0  # per call, as measured; 0: unknown
        self._numbers = np.zeros(13, np.int64)
        self._numbers[:2] = sum(self.counts), self.counts[0]
        for at, (plan, lowering, _) in zip((5, 9), plans, strict=False):
            code = machine_code(functions_of(lowering), NAMES)
            table = np.array([self._address(plan, lowering, base) for base in lowering.bases])
            moves = [
                (number, moving[base[1]].array.ctypes.data, *moving[base[1]][1:])
                for number, base in enumerate(lowering.bases)
                if base[0] in ("donated", "staged")
            ]
            moved = np.array(moves, np.int64)
            function = ctypes.cast(code["segment0"], ctypes.c_void_p).value or 0
            self._numbers[at : at + 4] = function, table.ctypes.data, moved.ctypes.data, len(moves)
            self.kept += [code, table, moved]
            if at == 5:
                self._function = code["scan"]
        self._at = self._numbers.ctypes.data

    def _address(self, plan: Plan, lowering: Lowering, base: Any) -> int:
        """Return the address of a base; 0 for an argument, which moves."""
        kind, number = base
        if kind in ("donated", "staged"):
            return 0
        if kind == "address":
            return int(lowering.addresses[number])
        if kind == "constant":
            array = plan.layout.constants.arrays[number]
        else:
            array = aligned(plan.layout.buffers[number])
        self.kept.append(array)
        return int(array.ctypes.data)

    @property
    def reached(self) -> int:
        """The number of the next call: it is right even where an exception ended `run`."""
        return int(self._numbers[2] + self._numbers[4])

    def start(self, first: int) -> None:
        """Say that call number `first` is the next one; they are numbered through all turns."""
        self._numbers[2:5] = first, 0, 0

    def run(self, count: int) -> None:
        """Make the next calls."""
        self._numbers[2:5] = self.reached, count, 0
        began = time.perf_counter()
        self._function(self._at)
        self.seconds = (time.perf_counter() - began) / count

    def calls_within(self, seconds: float) -> int:
        """Return how many calls take about so long; one, as long as none was measured."""
        return max(1, int(seconds / self.seconds)) if self.seconds else 1


def functions_of(lowering: Lowering) -> tuple[str, ...]:
    """Return the text of what is compiled for a plan."""
    return (*lowering.functions, TEXT)


def is_compiled_already(lowering: Lowering) -> bool:
    """Tell whether the cache has the machine code of a plan."""
    return is_compiled(functions_of(lowering))


def lowered(plan: Plan, row_numbers: Collection[int]) -> Lowering | None:
    """Return a plan as one compiled function; None if a part of it needs NumPy.

    Each result must replace a donated argument. See `Lowering` for `row_numbers`.
    """
    if len(plan.donated) != len(plan.program.leaves):
        return None
    lowering = Lowering(plan, row_numbers)
    supported = all(lowering.add(step) for step in plan.steps)
    supported = supported and all(lowering.add_copy(*copy) for copy in plan.layout.copies)
    return lowering if supported and lowering.close() else None
