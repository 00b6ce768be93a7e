"""Replay: one set of buffers of a plan, and the guarded call that uses it.

What lies where is decided in `memory.py`; here the buffers are created.
"""

from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

from .errors import MISS
from .memory import aligned
from .planner import Plan

__all__ = ["Code", "Replay", "guarded_call"]


class Code(NamedTuple):
    """The code of a replay, and what it names."""

    arrays: list[tuple[Any, ...]]  # name, shape, dtype, base, offset, strides
    prologue: CodeType
    body: CodeType
    guarded: Callable[[], CodeType]  # the guarded call: compiled when it is first needed
    names: dict[str, Any]
    staged: dict[str, int]  # copies of arguments for machine code: name, bytes
    bases: list[str | int]  # the arrays whose addresses machine code needs, and other addresses
    source: tuple[str, str]  # the text of prologue and body


class Replay:
    """One set of buffers and the function that uses them: it serves one call at a time."""

    def __init__(self, plan: Plan, code: "Code") -> None:
        self.code, self.names = code, dict(code.names)
        for letter, sizes in (("m", plan.layout.buffers), ("b", plan.layout.blocks)):
            for i, nbytes in enumerate(sizes):
                self.names[f"{letter}{i}"] = aligned(nbytes)
        for base, nbytes in code.staged.items():
            self.names[base] = aligned(nbytes)
        self.donated = sorted(plan.donated.values())
        self.last: list[Any] = []  # the donated arrays of the last call
        self.owners: set[int] = set()
        self.table = np.zeros(len(code.bases), np.int64)  # addresses, for compiled functions
        self.names["table"] = self.table.ctypes.data
        exec(code.body, self.names)
        if not self.donated:
            self._make_arrays()
        self.names.update(dict.fromkeys(f"g{d}" for d in self.donated), owners=self.owners)
        self.function = self.names["replay"]
        self.call: Callable[[Any], Any] = self._first_call

    def _first_call(self, args: Any) -> Any:
        """Make the guarded call, and call it."""
        exec(self.code.guarded(), self.names)
        self.call = self.names["guarded_call"]
        return self.call(args)

    def _make_arrays(self) -> None:
        """Create the arrays that operations read and write, in buffers and donated arrays."""
        names = self.names
        for name, shape, dtype, base, offset, strides in self.code.arrays:
            if 0 in shape:
                names[name] = np.ndarray(shape, dtype)
            else:
                names[name] = np.ndarray(shape, dtype, names[base], offset, strides)
        exec(self.code.prologue, names)
        self.table[:] = [b if isinstance(b, int) else names[b].ctypes.data for b in self.code.bases]

    def prepare(self, arrays: list[Any], others: list[int]) -> None:
        """Write to the donated arrays, or to copies where another argument shares their memory."""
        known = len(self.last) == len(self.donated)
        for d, old in zip(self.donated, self.last, strict=False):
            known = known and arrays[d] is old and old.flags.writeable
        for i in others:
            a = arrays[i]
            owner = a if a.base is None else a.base
            if known and type(owner) is np.ndarray and self.owners and id(owner) not in self.owners:
                continue  # the common case, at a fraction of the time
            if any(np.may_share_memory(a, arrays[d]) for d in self.donated):
                known = False
        if not known:
            self._take(arrays, others)
        for d, a in zip(self.donated, self.last, strict=True):
            arrays[d] = a

    def _take(self, arrays: list[Any], others: list[int]) -> None:
        """Write to new donated arrays; to copies of those that are read-only or overlap."""
        taken: list[Any] = []
        for d in self.donated:
            a = arrays[d]
            apart = [*taken, *(arrays[i] for i in others)]
            fine = a.flags.carray and not any(np.may_share_memory(a, o) for o in apart)
            taken.append(a if fine else np.array(a, order="C"))
        for d, a in zip(self.donated, taken, strict=True):
            self.names.update({f"a{d}": a, f"d{d}": a})
        self._make_arrays()
        self.last = taken
        owners = [a if a.base is None else a.base for a in taken]
        own = all(type(o) is np.ndarray and o.flags.owndata for o in owners)
        self.owners = {id(o) for o in owners} if own else set()
        known = taken if own else [None] * len(taken)
        self.names.update({f"g{d}": a for d, a in zip(self.donated, known, strict=True)})
        self.names["owners"] = self.owners


def guarded_call(args: Any, plan: Plan, names: dict[str, Any]) -> str:
    """Return the text of a function that checks its arguments and calls the replay.

    They must be like those of the last call: the same pytree, shapes and dtypes, the same donated
    arrays, none that shares their memory. These are the checks of a general call at a fraction of
    its time. "" where there is no such function.
    """
    donated, number, lines = set(plan.donated.values()), iter(range(10**9)), []
    names.update(MISS=MISS, ndarray=np.ndarray)
    arrays: list[str] = []

    def fresh(value: Any) -> str:
        name = f"w{len(names)}"
        names[name] = value
        return name

    def check(x: Any, name: str) -> None:
        kind = type(x)
        if kind is np.ndarray:
            i = len(arrays)
            arrays.append(name)
            if i in donated:
                lines.append(f"if {name} is not g{i} or not {name}.flags.writeable: return MISS")
                return
            shape, dtype = fresh(x.shape), fresh(x.dtype)
            lines.append(
                f"if type({name}) is not ndarray or {name}.shape != {shape} "
                f"or {name}.dtype is not {dtype}: return MISS"
            )
            if donated:
                lines.append(f"o = {name} if {name}.base is None else {name}.base")
                lines.append("if id(o) in owners or type(o) is not ndarray: return MISS")
        elif isinstance(x, tuple | list | dict):
            lines.append(
                f"if type({name}) is not {fresh(kind)} or len({name}) != {len(x)}: return MISS"
            )
            if kind is dict:
                lines.append(f"if [*{name}] != {fresh(list(x))}: return MISS")
            inner = [f"e{next(number)}" for _ in x]
            if inner:
                values = f"{name}.values()" if kind is dict else name
                lines.append(f"{', '.join(inner)}, = {values}")
            parts: Any = x.values() if isinstance(x, dict) else x
            for part, inside in zip(parts, inner, strict=True):
                check(part, inside)
        elif x is None or kind is bool:
            lines.append(f"if {name} is not {x}: return MISS")
        elif kind is float:
            lines.append(
                f"if type({name}) is not float or {name}.hex() != {x.hex()!r}: return MISS"
            )
        elif kind in (int, str):
            lines.append(f"if type({name}) is not {kind.__name__} or {name} != {x!r}: return MISS")
        else:
            raise _NoTextError

    try:
        check(args, "args")
    except _NoTextError:
        return ""
    body = "\n    ".join([*lines, f"return replay({', '.join(arrays)})"])
    return f"def guarded_call(args):\n    {body}\n"


class _NoTextError(Exception):
    pass
