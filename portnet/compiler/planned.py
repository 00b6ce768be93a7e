"""Planned: a plan, its text, and the sets of buffers that calls use."""

import builtins
import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from . import plan as planning
from .keys import key_of
from .numpy_replay import Code, Replay, Text, quick
from .outcomes import MISS, CompileWarning, EagerError
from .program import Program, same
from .rewrite import simplify
from .settings import native_cpu, native_mode
from .trace import ELEMENTWISE, Untraceable, line_of_error, trace


class Planned:
    """The way of calls that have a plan, and the sets of buffers that are free.

    A set serves one call at a time: a second thread that calls meanwhile takes, or makes, another.
    A plan that is used often is compiled to machine code, where there is a compiler: after as many
    calls as it takes for NumPy's overhead to have cost what compiling costs. Results have the same
    bits before and after.
    """

    def __init__(self, plan: planning.Plan, results: Any, args: Any) -> None:
        self.plan = plan
        self.named: dict[str, Any] = {}
        self.returned = _text(results, iter(range(len(plan.program.leaves))), self.named)
        self.usual = quick(args, plan, self.named)
        self.repeatable = bool(self.usual)
        self.donated = sorted(plan.donated.values())
        self.others = [i for i in range(len(plan.program.inputs)) if i not in self.donated]
        self.pool: list[Replay] = []
        self.native = ""  # what is compiled, in words
        self._write(Text(plan))
        self.left = native_after(plan)  # calls until it is compiled

    def _write(self, text: Text) -> None:
        """Make the code of the replay."""
        cut, each = text.write(self.returned)
        usual = functools.cache(lambda: builtins.compile(self.usual, "<portnet: usual>", "exec"))
        self.code = Code(
            text.arrays,
            builtins.compile(cut, "<portnet: buffers>", "exec"),
            builtins.compile(each, "<portnet: replay>", "exec"),
            usual,
            text.names | self.named | text.compiled(),
            text.staged,
            list(text.bases),
        )
        self.source = cut, each + self.usual
        self.nbytes = sum((*self.plan.buffers, *self.plan.blocks, *text.staged.values()))
        self.pool = []  # what was made of other code

    def _compile(self) -> None:
        """Have machine code in the replay from now on."""
        from .native import NativeText

        text = NativeText(self.plan)
        try:
            self._write(text)
        except Exception as error:  # of LLVM, which is not here to end a training
            message = f"there is no machine code, NumPy goes on: {type(error).__name__}: {error}"
            warnings.warn(message, CompileWarning, stacklevel=3)
        else:
            self.native = text.summary()

    def _free(self) -> Replay | None:
        """Count a call, and take a set of buffers that is free."""
        self.left -= 1
        if self.left == 0:
            self._compile()
        try:
            return self.pool.pop()
        except IndexError:
            return None

    def again(self, args: Any) -> Any:
        """Do a call that is like the last one, or return MISS."""
        replay = self._free()
        if replay is None:
            return MISS
        try:
            return replay.quick(args)
        finally:
            if replay.code is self.code:  # it may have been made anew meanwhile
                self.pool.append(replay)

    def __call__(self, arrays: list[Any], args: Any, kwargs: Any) -> Any:
        """Do a call of which `key_of` said that it has this plan."""
        replay = self._free() or Replay(self.plan, self.code)
        try:
            if self.donated:
                replay.prepare(arrays, self.others)
            return replay.function(*arrays)
        finally:
            if replay.code is self.code:  # it may have been made anew meanwhile
                self.pool.append(replay)

    def explain(self) -> str:
        """Return the plan in words."""
        from .explain import explain

        return explain(self.plan, self.native, self.source)


@functools.cache
def why_no_machine_code() -> str:
    """Return why there is no machine code here; "" where there is."""
    if importlib.util.find_spec("llvmlite") is None:
        return "llvmlite is not installed"
    from .native import why_not

    return why_not()


def check_native_cpu() -> None:
    """Raise ValueError where PORTNET_NATIVE_CPU names a processor that LLVM does not know."""
    if native_cpu():
        from .native import target_cpu

        target_cpu()


def native_after(plan: planning.Plan) -> int:
    """Return the number of the call from which on a plan is machine code; -1: it never is.

    ``PORTNET_NATIVE`` says when: see `native_mode`.
    """
    mode, why_not = native_mode(), why_no_machine_code()
    if mode == "always" and why_not:
        raise ValueError(
            f"PORTNET_NATIVE=always, but there is no machine code here: {why_not}. The extra "
            "native has what it needs; python -m portnet says how to install it"
        )
    if mode == "never" or why_not:
        return -1
    check_native_cpu()
    return 1 if mode == "always" else pays_after(plan)


def pays_after(plan: planning.Plan) -> int:
    """Return after how many calls machine code has paid; -1: there is nothing to compile.

    Compiling takes 0.1 s and some milliseconds for each operation; a call of NumPy's costs 0.6 us,
    and a pass over an element 0.15 ns.
    """
    count = len(plan.operations)
    saved = sum(6e-7 + 1.5e-10 * n.size for n in plan.operations if n.op in ELEMENTWISE)
    return max(1, int((0.1 + 4e-3 * count) / saved)) if saved else -1


def planned(fn: Callable[..., Any], donate: tuple[int, ...], args: Any, kwargs: Any) -> Planned:
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
        return [_with(a, left) for a in args], {k: _with(v, left) for k, v in kwargs.items()}

    program = twice(fn, kinds, rebuild)
    reusable = [i for d in donate if d < len(args) for i in range(ends[d - 1] if d else 0, ends[d])]
    plan = planning.make(simplify(program), operations(program), reusable)
    return Planned(plan, program.results, None if kwargs else args)


def twice(fn: Callable[..., Any], kinds: Any, rebuild: Any) -> Program:
    """Trace fn twice; raise EagerError where it cannot be traced, or the traces differ."""
    try:
        first = trace(fn, kinds, rebuild)
        second = trace(fn, kinds, rebuild)
    except Untraceable as error:
        where = getattr(error, "where", "") or line_of_error(error.__traceback__)
        raise EagerError(f"{error} (at {where})") from None
    except Exception as error:
        where = line_of_error(error.__traceback__)
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EagerError(f"tracing it raised {message} (at {where})") from None
    forms: list[Any] = [{}, {}]
    texts = [
        _text(p.results, iter(range(len(p.leaves))), names)
        for p, names in zip((first, second), forms, strict=True)
    ]
    try:
        differ = same(first, second)
    except Exception:  # of a result that compares arrays of its own
        differ = "the results"
    if texts[0] != texts[1] or forms[0] != forms[1]:
        differ = "the nest of their results"
    if differ:
        raise EagerError(
            f"two traces of it differ in {differ}: it draws random numbers, counts, or looks at "
            "something that changes"
        )
    return first


def operations(program: Program) -> int:
    """Return the number of operations, views not counted."""
    return sum(planning.computed(n) for n in program.nodes)


def _with(x: Any, arrays: Any) -> Any:
    """Return an argument with other arrays in the places of its own."""
    if isinstance(x, np.ndarray | np.generic):
        return next(arrays)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*[_with(i, arrays) for i in x])
    if isinstance(x, tuple | list):
        return type(x)([_with(i, arrays) for i in x])
    if isinstance(x, dict):
        return {k: _with(v, arrays) for k, v in x.items()}
    return x


def _text(nest: Any, number: Any, names: dict[str, Any]) -> str:
    """Return the text that makes the nest of results of r0, r1, ..., in the order of the leaves."""
    if nest is None:
        return "None"
    if isinstance(nest, dict):
        parts = {k: _text(nest[k], number, names) for k in sorted(nest)}
        items = []
        for k in nest:
            names[f"q{len(names)}"] = k
            items.append(f"q{len(names) - 1}: {parts[k]}")
        return "{" + ", ".join(items) + "}"
    if isinstance(nest, tuple | list):
        inner = "".join(f"{_text(i, number, names)}, " for i in nest)
        if type(nest) is tuple:
            return f"({inner})"
        if type(nest) is list:
            return f"[{inner}]"
        names[f"q{len(names)}"] = type(nest)
        star = "*" if hasattr(nest, "_fields") else ""
        return f"q{len(names) - 1}({star}[{inner}])"
    return f"r{next(number)}"
