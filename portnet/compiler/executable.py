"""Executable: a plan as code, and the sets of buffers that calls use."""

import builtins
import functools
import warnings
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

from .errors import MISS, CompileWarning, EagerError
from .memory import ALIGN
from .native_policy import native_after
from .numpy_codegen import NumPyCodegen, name_of_base
from .planner import Plan, make, operations, result_text, trace_twice, with_arrays
from .signature import key_of
from .simplify import simplify


class Code(NamedTuple):
    """The code of a replay, and what it names."""

    arrays: list[tuple[Any, ...]]  # name, shape, dtype, base, offset, strides
    prologue: CodeType
    body: CodeType
    guarded: Callable[[], CodeType]  # the guarded call: compiled when it is first needed
    names: dict[str, Any]
    staged: dict[str, int]  # copies of arguments for machine code: name, bytes
    bases: list[str]  # the arrays whose addresses machine code needs


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
        self.table[:] = [names[base].ctypes.data for base in self.code.bases]

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


def aligned(nbytes: int) -> Any:
    """Return an array of so many bytes that begins at a cache line."""
    raw = np.empty(nbytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + nbytes]


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


def _call(lowering: Any, codegen: NumPyCodegen) -> None:
    """Add the call of what was lowered since the last one."""
    name = lowering.close() if lowering is not None else ""
    if name:
        codegen.body.append(f"{name}(table)")


class Executable:
    """A plan as code, and a pool of replays: sets of buffers.

    A replay serves one call at a time: a second thread takes, or makes, another one. A plan that is
    called often is compiled to machine code, where there is a compiler, after as many calls as it
    takes for NumPy's overhead to cost what compiling costs. The bits of the results stay the same.
    """

    def __init__(self, plan: Plan, results: Any, args: Any) -> None:
        self.plan = plan
        self.named: dict[str, Any] = {}
        self.returned = result_text(results, iter(range(len(plan.program.leaves))), self.named)
        self.guard = guarded_call(args, plan, self.named)
        self.repeatable = bool(self.guard)
        self.donated = sorted(plan.donated.values())
        self.others = [i for i in range(len(plan.program.inputs)) if i not in self.donated]
        self.pool: list[Replay] = []
        self.native = ""  # a summary of what is compiled
        self._generate(None)
        self.calls_left = native_after(plan)  # until it is compiled

    def _generate(self, lowering: Any) -> None:
        """Generate the code of the replay: machine code for what can be lowered, else NumPy calls.

        `lowering` is None, or takes the steps one by one.
        """
        codegen, layout = NumPyCodegen(self.plan), self.plan.layout
        for step in self.plan.steps:
            if lowering is None or not lowering.add(step):
                _call(lowering, codegen)
                codegen.step(step)
        _call(lowering, codegen)
        staged: dict[str, int] = {}
        compiled: dict[str, Any] = {}
        bases: list[str] = []
        if lowering is not None:
            for node, is_read in lowering.staged():
                to, of = layout.staged[id(node)], layout[node]
                staged[name_of_base(to.base)] = node.nbytes
                if is_read:
                    copy = codegen.array(to, node.shape, node.dtype)
                    codegen.body.insert(0, f"copyto({copy}, {name_of_base(of.base)})")
            compiled, bases = lowering.compile(), [name_of_base(base) for base in lowering.bases]
        prologue, body = codegen.finish(self.returned)
        guarded = functools.cache(lambda: builtins.compile(self.guard, "<portnet: guard>", "exec"))
        self.code = Code(
            codegen.arrays,
            builtins.compile(prologue, "<portnet: prologue>", "exec"),
            builtins.compile(body, "<portnet: replay>", "exec"),
            guarded,
            codegen.names | self.named | compiled,
            staged,
            bases,
        )
        self.source = prologue, body + self.guard
        self.nbytes = sum((*layout.buffers, *layout.blocks, *staged.values()))
        self.pool = []  # replays of the code before

    def _compile(self) -> None:
        """Use machine code in replays from now on."""
        from .native.lowering import Lowering

        lowering = Lowering(self.plan)
        try:
            self._generate(lowering)
        except Exception as error:  # an error of LLVM must not end a training
            message = f"there is no machine code, NumPy goes on: {type(error).__name__}: {error}"
            warnings.warn(message, CompileWarning, stacklevel=3)
        else:
            self.native = lowering.summary()

    def _take_replay(self) -> Replay | None:
        """Count a call, and return a free replay, or None."""
        self.calls_left -= 1
        if self.calls_left == 0:
            self._compile()
        try:
            return self.pool.pop()
        except IndexError:
            return None

    def call_if_unchanged(self, args: Any) -> Any:
        """Do a call like the last one, or return MISS."""
        replay = self._take_replay()
        if replay is None:
            return MISS
        try:
            return replay.call(args)
        finally:
            if replay.code is self.code:  # else it was generated again meanwhile
                self.pool.append(replay)

    def __call__(self, arrays: list[Any], args: Any, kwargs: Any) -> Any:
        """Do a call whose key is that of this plan."""
        replay = self._take_replay() or Replay(self.plan, self.code)
        try:
            if self.donated:
                replay.prepare(arrays, self.others)
            return replay.function(*arrays)
        finally:
            if replay.code is self.code:  # else it was generated again meanwhile
                self.pool.append(replay)

    def bind(self, arrays: list[Any]) -> "Bound | None":
        """Return calls with these donated arrays; None unless each result replaces one of them."""
        replaced = len(self.plan.donated) == len(self.plan.program.leaves)
        given, replay = list(arrays), self.pool.pop() if self.pool else Replay(self.plan, self.code)
        replay.prepare(given, self.others)
        same = all(a is b for a, b in zip(given, arrays, strict=True))
        return Bound(self, replay) if replaced and same else None

    def explain(self) -> str:
        """Return a description of the plan."""
        from .explain import explain

        return explain(self.plan, self.native, self.source)


class Bound:
    """Calls of a plan that write to the same donated arrays each time, without any checks.

    The caller must give arrays of the same structure, shapes and dtypes, the same donated ones, and
    none that shares memory with these. The donated arrays then hold the results.
    """

    def __init__(self, executable: Executable, replay: Replay) -> None:
        self.executable, self.replay = executable, replay

    def __call__(self, arrays: list[Any]) -> None:
        """Do a call: `arrays` are all those of the arguments, in their order."""
        executable = self.executable
        executable.calls_left -= 1
        if executable.calls_left == 0:
            executable._compile()
        if self.replay.code is not executable.code:  # it is machine code now
            self.replay = Replay(executable.plan, executable.code)
            self.replay.prepare(list(arrays), executable.others)
        self.replay.function(*arrays)

    def close(self) -> None:
        """Return the buffers to the pool of the plan."""
        if self.replay.code is self.executable.code:
            self.executable.pool.append(self.replay)


def build(fn: Callable[..., Any], donate: tuple[int, ...], args: Any, kwargs: Any) -> Executable:
    """Trace fn twice and plan it."""
    arrays: list[Any] = []
    ends = []
    for a in args:
        key_of(a, arrays)
        ends.append(len(arrays))
    for a in kwargs.values():
        key_of(a, arrays)
    for a in arrays:
        if a.dtype.kind not in "biufc" or not a.dtype.isnative or a.dtype.itemsize > 16:
            raise EagerError(f"an argument of dtype {a.dtype}")
    if not arrays:
        raise EagerError("")  # without a warning
    kinds = [(a.shape, a.dtype) for a in arrays]

    def rebuild(traced: list[Any]) -> Any:
        left = iter(traced)
        return [with_arrays(a, left) for a in args], {
            k: with_arrays(v, left) for k, v in kwargs.items()
        }

    program = trace_twice(fn, kinds, rebuild)
    reusable = [i for d in donate if d < len(args) for i in range(ends[d - 1] if d else 0, ends[d])]
    plan = make(simplify(program), operations(program), reusable)
    return Executable(plan, program.results, None if kwargs else args)
