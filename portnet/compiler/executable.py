"""Executable: a plan as code, and a pool of replays."""

import builtins
import functools
import warnings
from collections.abc import Callable
from math import inf
from typing import Any

from .errors import MISS, CompileWarning, EagerError
from .native_policy import native_after, pays_after
from .numpy_codegen import NumPyCodegen, name_of_base
from .planner import Plan, make, operations, result_text, traced, with_arrays
from .replay import Code, Replay, guarded_call
from .settings import native_mode
from .signature import key_of
from .simplify import simplify

__all__ = ["Bound", "Executable", "build", "scan", "scan_pays"]


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
        self._code: Code | None = None  # not needed where all calls are parts of a scan
        self.native_after = native_after(plan)
        self.calls_left = self.native_after  # until machine code pays; inf: it never does
        # How many calls are left when it pays to use machine code that the cache has.
        left = self.calls_left - pays_after(plan, cached=True)
        self.look_at = left if 0 < left < inf else None
        self._codes: dict[Any, Any] = {}  # by row numbers: see `code_of_scan`
        self.scanned = False  # whether it is a part of a compiled scan
        self.compilation: Any = None  # of the scan's machine code, by another process

    @property
    def code(self) -> Code:
        """The code of a replay."""
        if self._code is None:
            made = self._generate(None)
            if self._code is None:  # else another thread has made machine code meanwhile
                self._use(made)
        assert self._code is not None
        return self._code

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers of a replay."""
        layout, code = self.plan.layout, self._code
        staged = [] if code is None else code.staged.values()
        return sum((*layout.buffers, *layout.blocks, *staged))

    def _generate(self, lowering: Any) -> Code:
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
        bases: list[str | int] = []
        if lowering is not None:
            for node, is_read in lowering.staged():
                to, of = layout.staged[id(node)], layout[node]
                staged[name_of_base(to.base)] = node.nbytes
                if is_read:
                    copy = codegen.array(to, node.shape, node.dtype)
                    codegen.body.insert(0, f"copyto({copy}, {name_of_base(of.base)})")
            compiled = lowering.compile()
            bases = [
                lowering.address(k) if kind == "address" else name_of_base((kind, k))
                for kind, k in lowering.bases
            ]
        prologue, body = codegen.finish(self.returned)
        guarded = functools.cache(lambda: builtins.compile(self.guard, "<portnet: guard>", "exec"))
        return Code(
            codegen.arrays,
            builtins.compile(prologue, "<portnet: prologue>", "exec"),
            builtins.compile(body, "<portnet: replay>", "exec"),
            guarded,
            codegen.names | self.named | compiled,
            staged,
            bases,
            (prologue, body + self.guard),
        )

    def _use(self, code: Code) -> None:
        self.pool = []  # replays of the code before
        self._code = code

    def _compile(self, only_from_cache: bool = False) -> None:
        """Use machine code in replays from now on; or else only if it is compiled already."""
        from .native.lowering import Lowering

        lowering = Lowering(self.plan)
        try:
            if only_from_cache and not self._is_compiled(Lowering(self.plan)):
                return
            self._use(self._generate(lowering))
        except Exception as error:  # an error of LLVM must not end a training
            _warn_of_llvm(error)
        else:
            self.native = lowering.summary()

    def _is_compiled(self, lowering: Any) -> bool:
        """Tell whether the cache has the machine code of a replay."""
        from .native.jit import is_compiled

        for step in self.plan.steps:
            if not lowering.add(step):
                lowering.close()
        lowering.close()
        return is_compiled(tuple(lowering.functions))

    def _take_replay(self) -> Replay | None:
        """Count a call, and return a free replay, or None."""
        self.calls_left -= 1
        if self.calls_left in (0, self.look_at) and not self.native:
            self._compile(only_from_cache=self.calls_left > 0)
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
            if replay.code is self._code:  # else it was generated again meanwhile
                self.pool.append(replay)

    def __call__(self, arrays: list[Any], args: Any, kwargs: Any) -> Any:
        """Do a call whose key is that of this plan."""
        replay = self._take_replay() or Replay(self.plan, self.code)
        try:
            if self.donated:
                replay.prepare(arrays, self.others)
            return replay.function(*arrays)
        finally:
            if replay.code is self._code:  # else it was generated again meanwhile
                self.pool.append(replay)

    def bind(self, arrays: list[Any]) -> "Bound | None":
        """Return calls with these donated arrays; None unless each result replaces one of them."""
        replaced = len(self.plan.donated) == len(self.plan.program.leaves)
        given, replay = list(arrays), self.pool.pop() if self.pool else Replay(self.plan, self.code)
        replay.prepare(given, self.others)
        same = all(a is b for a, b in zip(given, arrays, strict=True))
        return Bound(self, replay) if replaced and same else None

    def code_of_scan(self, row_numbers: tuple[int, ...]) -> Any:
        """Return the plan as one compiled function: see `native.scan.PlanCode`."""
        from .native.scan import PlanCode

        if row_numbers not in self._codes:
            self._codes[row_numbers] = PlanCode(self.plan, row_numbers)
        return self._codes[row_numbers]

    def explain(self, *, source: bool = False) -> str:
        """Return a description of the plan, with the generated text if `source` is true."""
        from .explain import explain

        return explain(self.plan, self.native, self.code.source[1] if source else "")


class Bound:
    """Calls of a plan that write to the same donated arrays each time, without any checks.

    The caller must give arrays of the same structure, shapes and dtypes, the same donated ones, and
    none that shares memory with these. The donated arrays then hold the results.
    """

    def __init__(self, executable: Executable, replay: Replay) -> None:
        self.executable, self.replay = executable, replay

    def __call__(self, arrays: list[Any]) -> bool:
        """Do a call, and return whether machine code may pay from now on: see `scan_pays`.

        `arrays` are all those of the arguments, in their order.
        """
        executable = self.executable
        executable.calls_left -= 1
        if self.replay.code is not executable._code:  # it is machine code now
            self.replay = Replay(executable.plan, executable.code)
            self.replay.prepare(list(arrays), executable.others)
        self.replay.function(*arrays)
        compilation = executable.compilation
        if compilation is not None and compilation.finished:
            executable.compilation = None
            return True
        return executable.calls_left in (0, executable.look_at)

    def compile(self) -> None:
        """Use machine code from now on, for what can be lowered: compiled, or that of the cache.

        What the cache does not have is compiled where the calls that are made have paid for it.
        """
        if not self.executable.native:
            self.executable._compile(only_from_cache=self.executable.calls_left > 0)

    def close(self) -> None:
        """Return the buffers to the pool of the plan."""
        if self.replay.code is self.executable._code:
            self.executable.pool.append(self.replay)


def scan_pays(
    executables: list[Executable], calls: int, likely: int, row_numbers: tuple[int, ...]
) -> bool:
    """Tell whether a scan pays now: `calls` are certain to follow, and up to `likely` may.

    It pays if the machine code is in the cache, or if so many calls are certain that it is compiled
    at once. For fewer, or for likely ones, another process compiles it while the calls go on, where
    that is possible.
    """
    first = executables[0]
    if first.calls_left == inf:
        return False
    certain = first.calls_left <= calls
    due = first.look_at is not None and first.calls_left <= first.look_at
    if not (certain or due or pays_after(first.plan, cached=True) <= max(calls, likely)):
        return False
    codes = [executable.code_of_scan(row_numbers) for executable in executables]
    try:
        if all([code.find() for code in codes]):
            return True
    except Exception as error:  # an error of LLVM must not end a training
        _warn_of_llvm(error)
        return certain
    if any(code.needs_numpy for code in codes):
        return certain  # the calls themselves then become machine code
    if any(code.failed_beside for code in codes):
        return certain
    if native_mode() == "always" or 2 * first.native_after <= calls:
        return certain  # until another process is done, the calls would cost more
    from .native.background import Compilation, can_compile_beside

    if first.compilation is not None and not first.compilation.is_lost:
        return False
    if not can_compile_beside():
        return certain
    first.compilation = Compilation(codes)
    return False


def scan(
    turns: list[tuple[Executable, int]], moving: list[Any], row_numbers: tuple[int, ...]
) -> Any:
    """Return calls of plans, in turns, as one compiled function: see `native.scan.Scan`.

    `moving` are the arguments: array, bytes that it moves with each call, and with each turn. None
    where a part of a plan needs NumPy.
    """
    from .native.scan import Moving, Scan

    codes = [executable.code_of_scan(row_numbers) for executable, _ in turns]
    try:
        if not all([code.find() or code.load(code.contents()) for code in codes]):
            return None
        plans = [(code, n) for code, (_, n) in zip(codes, turns, strict=True)]
        made = Scan(plans, [Moving(*m) for m in moving])
    except Exception as error:  # an error of LLVM must not end a training
        _warn_of_llvm(error)
        return None
    for executable, _ in turns:
        executable.scanned = True
    return made


def _warn_of_llvm(error: Exception) -> None:
    message = f"there is no machine code, NumPy goes on: {type(error).__name__}: {error}"
    warnings.warn(message, CompileWarning, stacklevel=3)


def build(
    fn: Callable[..., Any], donate: tuple[int, ...], args: Any, kwargs: Any, pure: bool = False
) -> Executable:
    """Trace fn and plan it; `pure` says that it need not be traced twice to see that it is."""
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

    program = traced(fn, kinds, rebuild, pure)
    reusable = [i for d in donate if d < len(args) for i in range(ends[d - 1] if d else 0, ends[d])]
    plan = make(simplify(program), operations(program), reusable)
    return Executable(plan, program.results, None if kwargs else args)
