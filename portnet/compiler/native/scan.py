"""Scan: calls of a plan, one after the other, inside one compiled function.

The donated arrays carry the state from call to call. The other arguments may move: call s of turn
t reads an argument at ``address + s * per_call + t * per_turn`` bytes, so that a turn may be an
epoch, and a call a batch of rows. The last calls of each turn may belong to another plan: a shorter
batch.
"""

import ctypes
import functools
import json
import time
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from ..memory import aligned
from ..planner import Plan
from .jit import compiled, loaded, object_file
from .numpy_c import CName, address
from .plan_text import is_small, plan_text

__all__ = ["Moving", "PlanCode", "Scan"]

NAMES = "segment0", "scan"  # of the functions that are called


class PlanCode:
    """A plan as one compiled function, of the cache or compiled now.

    Parameters
    ----------
    plan : Plan
        Each result must replace a donated argument.
    row_numbers : collection of int
        See `Lowering`.

    Attributes
    ----------
    functions : dict
        The compiled functions; empty as long as none is loaded.
    bases : list
        What the table of the function has to hold, as in `Lowering`, but that may be kept: a small
        constant is ("value", dtype, shape, bytes), an address ("address", CName).
    """

    def __init__(self, plan: Plan, row_numbers: Collection[int]) -> None:
        self.plan, self.row_numbers = plan, row_numbers
        self.functions: dict[str, Any] = {}
        self.bases: list[Any] = []
        self.text = plan_text(plan, row_numbers)  # the key in the cache
        self.failed_beside = False  # whether another process could not compile it
        # Whether it is known that there is no code, because a part of the plan needs NumPy.
        self.needs_numpy = False

    def find(self) -> bool:
        """Load the code from the cache; return whether it is there."""
        return bool(self.functions) or self.load(object_file(self.text, None))

    @functools.cached_property
    def lowering(self) -> Any:
        """The plan lowered to one function; None if a part of it needs NumPy."""
        from .lowering import Lowering

        if len(self.plan.donated) != len(self.plan.program.leaves):
            return None
        lowering = Lowering(self.plan, self.row_numbers)
        supported = all(lowering.add(step) for step in self.plan.steps)
        supported = supported and all(lowering.add_copy(*c) for c in self.plan.layout.copies)
        return lowering if supported and lowering.close() else None

    def contents(self) -> bytes:
        """Return the bases, in one line, and the object file, compiled if the cache has none."""
        return object_file(self.text, self._compiled)

    def _compiled(self) -> bytes:
        if self.lowering is None:
            return b"null\n"
        bases = [self._kept(*base) for base in self.lowering.bases]
        code = compiled("\n".join([*self.lowering.functions, TEXT]))
        return json.dumps(bases).encode() + b"\n" + code

    def _kept(self, kind: str, number: int) -> Any:
        """Return a base of the lowering in a form that can be kept."""
        if kind == "address":
            return kind, self.lowering.names[number]
        array = self.plan.layout.constants.arrays[number] if kind == "constant" else None
        if array is not None and is_small(array):
            return "value", array.dtype.str, array.shape, array.tobytes().hex()
        return kind, number

    def load(self, contents: bytes) -> bool:
        """Load what `contents` returned; return whether that is possible here."""
        bases, _, code = contents.partition(b"\n")
        self.needs_numpy = bases == b"null"
        if not code:
            return False
        self.bases = json.loads(bases)
        if None in map(self._c_address, self.bases):
            return False
        self.functions = loaded(self.text, NAMES, code)
        return True

    def _c_address(self, base: Any) -> int | None:
        """Return the address of a function or of data of NumPy's; 0 for other bases."""
        if base[0] != "address":
            return 0
        kind, name, dtypes, bits = base[1]
        return address(CName(kind, name, tuple(dtypes), bits))

    def table(self) -> tuple[Any, list[Any]]:
        """Return the addresses of the bases, 0 for arguments, and the arrays to be kept."""
        kept: list[Any] = []
        addresses = []
        for base in self.bases:
            kind, array = base[0], None
            if kind == "value":
                _, dtype, shape, value = base
                array = np.frombuffer(bytearray.fromhex(value), dtype).reshape(shape)
            elif kind == "constant":
                array = self.plan.layout.constants.arrays[base[1]]
            elif kind == "buffer":
                array = aligned(self.plan.layout.buffers[base[1]])
            kept.append(array)
            addresses.append(self._c_address(base) if array is None else array.ctypes.data)
        return np.array(addresses), kept


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
    """Calls of one or two plans in turns.

    Parameters
    ----------
    plans : list of (PlanCode, int)
        What is called, compiled, and how often in each turn.
    moving : list of Moving
        The arguments, in their order, C-contiguous; their arrays are kept. `donated` ones hold the
        results.
    """

    def __init__(self, plans: list[tuple[PlanCode, int]], moving: list[Moving]) -> None:
        self.counts = [count for _, count in plans]
        self.kept: list[Any] = [m.array for m in moving]
        self.seconds = 0.0  # per call, as measured; 0: unknown
        self._numbers = np.zeros(13, np.int64)
        self._numbers[:2] = sum(self.counts), self.counts[0]
        for at, (code, _) in zip((5, 9), plans, strict=False):
            table, kept = code.table()
            moves = [
                (number, moving[base[1]].array.ctypes.data, *moving[base[1]][1:])
                for number, base in enumerate(code.bases)
                if base[0] in ("donated", "staged")
            ]
            moved = np.array(moves, np.int64)
            function = ctypes.cast(code.functions["segment0"], ctypes.c_void_p).value or 0
            self._numbers[at : at + 4] = function, table.ctypes.data, moved.ctypes.data, len(moves)
            self.kept += [code.functions, kept, table, moved]
            if at == 5:
                self._function = code.functions["scan"]
        self._at = self._numbers.ctypes.data

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
