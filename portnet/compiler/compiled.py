"""portnet.compile: the function that is called, and what becomes of a call.

Which plan a call takes, and whether there is one, depends on the structure of its arguments, their
shapes, dtypes and Python numbers alone: never on how often it was called before.
"""

import builtins
import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat
import numpy as np

from . import plan as planning
from .numpy_replay import MISS, Replay, Text, quick
from .program import Program, same
from .rewrite import simplify
from .trace import CompileWarning, Traced, Untraceable, line_of_error, name_of, trace

Array = Any
PLANS = 8  # kept for each function


def compile(fn: Callable[..., Any], donate: int | Sequence[int] = ()) -> "Compiled":
    """Return a function that does what fn does, faster: traced once, planned, then replayed.

    Parameters
    ----------
    fn : callable
        A pure function of arrays, or of nests of them, written against the array API: it takes its
        functions from ``portnet.namespace(x)``. Arrays that it captures are constants. Python
        numbers among the arguments are part of the plan: another number, another plan.
    donate : int or sequence of int
        Positions of arguments whose memory results may take: a result replaces a donated array of
        its shape and dtype, which nothing may use afterwards. All other results are new arrays.

    Returns
    -------
    Compiled
        Called like fn. On NumPy the operations are replayed in place, on JAX it is ``jax.jit``; on
        other libraries fn is called as it is. What cannot be traced (a value that is looked at, a
        function that is not of the standard, random numbers) runs eagerly, with one
        `CompileWarning` that says what and where. ``.explain(*args)`` prints the plan.

    Examples
    --------
    >>> import numpy as np
    >>> @compile
    ... def f(x, y):
    ...     return 2.0 * x + y * y
    >>> f(np.ones(3), np.arange(3.0))
    array([2., 3., 6.])
    """
    if not callable(fn):
        raise TypeError(f"compile: expected a function, got {fn!r}")
    positions = (donate,) if isinstance(donate, int) else tuple(donate)
    for d in positions:
        if isinstance(d, bool) or not isinstance(d, int) or d < 0:
            raise ValueError(
                f"compile: expected donate as positions of arguments, 0 or larger, got {donate!r}"
            )
    return Compiled(fn, positions)


class Compiled:
    """A compiled function: see `compile`."""

    def __init__(self, fn: Callable[..., Any], donate: tuple[int, ...] = ()) -> None:
        self.fn, self.donate = fn, donate
        self._ways: OrderedDict[Any, Any] = OrderedDict()  # key: how such a call is done
        self._last: _Planned | None = None  # the way of the last call: it is tried first
        self._told: set[Any] = set()  # the keys of which there was a warning
        self._lock = threading.Lock()
        functools.update_wrapper(self, fn, updated=())

    def __repr__(self) -> str:
        return f"compile({getattr(self.fn, '__qualname__', self.fn)!s}, donate={self.donate})"

    def __reduce__(self) -> Any:
        return compile, (self.fn, self.donate)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what fn does."""
        last = self._last
        if last is not None and not kwargs:
            result = last.again(args)
            if result is not MISS:
                return result
        arrays: list[Any] = []
        try:
            key = self._key_of(args, kwargs, arrays)
            way = self._ways.get(key)
        except _OtherError as other:
            return self._elsewhere(other.args[0], args, kwargs)
        if way is None:
            way = self._way(key, args, kwargs, arrays)
            if isinstance(way, _Result):
                return way.value
        self._last = way if isinstance(way, _Planned) and way.repeatable else None
        return way(arrays, args, kwargs)

    def _key_of(self, args: Any, kwargs: Any, arrays: list[Any]) -> Any:
        key: Any = tuple([_key(a, arrays) for a in args])
        return (key, tuple([(k, _key(v, arrays)) for k, v in kwargs.items()])) if kwargs else key

    def explain(self, *args: Any, **kwargs: Any) -> None:
        """Print how a call with such arguments is done: its operations, groups and buffers."""
        arrays: list[Any] = []
        try:
            for a in (*args, *kwargs.values()):
                _key(a, arrays)
        except _OtherError as other:
            print(f"{self}: {other.args[0]}")  # noqa: T201
            return
        try:
            way: Any = _planned(self.fn, self.donate, args, kwargs)
        except _EagerError as error:
            way = f"runs eagerly: {error}"
        text = way if isinstance(way, str) else way.explain()
        print(f"{self}\n{text}")  # noqa: T201

    def refusal(self, *args: Any, **kwargs: Any) -> str:
        """Return why a call with such arguments would run eagerly; "" where it is compiled."""
        arrays: list[Any] = []
        try:
            key = self._key_of(args, kwargs, arrays)
            way = self._ways.get(key)
            if way is None:
                with self._lock:
                    self._keep(key, _planned(self.fn, self.donate, args, kwargs))
        except _OtherError:
            return ""
        except _EagerError as error:
            return str(error)
        return way.reason if isinstance(way, _Eager) else ""

    def release(self) -> None:
        """Give the buffers of all plans back; the next call makes them anew."""
        for way in list(self._ways.values()):
            if isinstance(way, _Planned):
                way.pool.clear()

    def _way(self, key: Any, args: Any, kwargs: Any, arrays: list[Any]) -> Any:
        """Return how such a call is done from now on."""
        with self._lock:
            way = self._ways.get(key)
            if way is not None:
                return way
            try:
                way = _planned(self.fn, self.donate, args, kwargs)
            except _EagerError as error:
                reason = str(error)
            else:
                self._keep(key, way)
                return way
        result = self.fn(*args, **kwargs)  # an error of fn's own is raised here, and nothing kept
        eager = _Eager(self.fn, reason)
        with self._lock:
            told = key in self._told
            self._told.add(key)
            self._keep(key, eager)
        if not told and reason:
            warnings.warn(
                f"{name_of(self.fn)} runs eagerly: {reason}", CompileWarning, stacklevel=3
            )
        return _Result(result)

    def _keep(self, key: Any, way: Any) -> None:
        self._ways[key] = way
        while len(self._ways) > PLANS:
            self._ways.popitem(last=False)

    def _elsewhere(self, why: str, args: Any, kwargs: Any) -> Any:
        """Call fn on arrays that are not NumPy's."""
        if why == "jax":
            return self._jax(*args, **kwargs)
        if why == "torch":
            import torch

            with torch.no_grad():
                return self.fn(*args, **kwargs)
        return self.fn(*args, **kwargs)

    @functools.cached_property
    def _jax(self) -> Any:
        from .jax_jit import Jitted

        return Jitted(self.fn)


class _Result:
    """What the call that found out gave."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _EagerError(Exception):
    """A call cannot be planned; the message says why, and is empty where that is nobody's fault."""


class _OtherError(Exception):
    """An argument is not NumPy's; the message is the name of its library."""


class _Eager:
    """The way of calls that cannot be planned."""

    def __init__(self, fn: Callable[..., Any], reason: str) -> None:
        self.fn, self.reason = fn, reason

    def __call__(self, arrays: Any, args: Any, kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


class _Planned:
    """The way of calls that have a plan, and the sets of buffers that are free.

    A set serves one call at a time: a second thread that calls meanwhile takes, or makes, another.
    """

    def __init__(self, plan: planning.Plan, results: Any, args: Any) -> None:
        self.plan = plan
        text = Text(plan)
        names: dict[str, Any] = {}
        returned = _text(results, iter(range(len(plan.program.leaves))), names)
        cut, each = text.write(returned)
        usual = quick(args, plan, names)
        self.repeatable = bool(usual)
        self.source = cut, each + usual
        self.names = text.names | names
        self.code = (
            text.arrays,
            builtins.compile(self.source[0], "<portnet: buffers>", "exec"),
            builtins.compile(self.source[1], "<portnet: replay>", "exec"),
        )
        self.donated = sorted(plan.donated.values())
        self.others = [i for i in range(len(plan.program.inputs)) if i not in self.donated]
        self.pool: list[Replay] = []

    def again(self, args: Any) -> Any:
        """Do a call that is like the last one, or return MISS."""
        try:
            replay = self.pool.pop()
        except IndexError:
            return MISS
        try:
            return replay.quick(args)
        finally:
            self.pool.append(replay)

    def __call__(self, arrays: list[Any], args: Any, kwargs: Any) -> Any:
        try:
            replay = self.pool.pop()
        except IndexError:
            replay = Replay(self.plan, self.code, self.names)
        try:
            if self.donated:
                replay.prepare(arrays, self.others)
            return replay.function(*arrays)
        finally:
            self.pool.append(replay)

    def explain(self) -> str:
        """Return the plan in words."""
        from .explain import explain

        return explain(self.plan, self.source)


def _planned(fn: Callable[..., Any], donate: tuple[int, ...], args: Any, kwargs: Any) -> _Planned:
    """Trace fn twice and plan it."""
    arrays: list[Any] = []
    ends = []
    for a in args:
        _key(a, arrays)
        ends.append(len(arrays))
    for a in kwargs.values():
        _key(a, arrays)
    for a in arrays:
        if a.dtype.kind not in "biufc" or not a.dtype.isnative or a.dtype.itemsize > 16:
            raise _EagerError(f"an argument of dtype {a.dtype}")
    if not arrays:
        raise _EagerError("")
    kinds = [(a.shape, a.dtype) for a in arrays]

    def rebuild(traced: list[Any]) -> Any:
        left = iter(traced)
        return [_with(a, left) for a in args], {k: _with(v, left) for k, v in kwargs.items()}

    program = twice(fn, kinds, rebuild)
    reusable = [i for d in donate if d < len(args) for i in range(ends[d - 1] if d else 0, ends[d])]
    plan = planning.make(simplify(program), operations(program), reusable)
    return _Planned(plan, program.results, None if kwargs else args)


def twice(fn: Callable[..., Any], kinds: Any, rebuild: Any) -> Program:
    """Trace fn twice; raise _EagerError where it cannot be traced, or the traces differ."""
    try:
        first = trace(fn, kinds, rebuild)
        second = trace(fn, kinds, rebuild)
    except Untraceable as error:
        raise _EagerError(f"{error} (at {error.where})") from None  # type: ignore[attr-defined]
    except Exception as error:
        where = line_of_error(error.__traceback__)
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _EagerError(f"tracing it raised {message} (at {where})") from None
    forms: list[Any] = [{}, {}]
    texts = [
        _text(p.results, iter(range(len(p.leaves))), names)
        for p, names in zip((first, second), forms, strict=True)
    ]
    differ = same(first, second)
    if texts[0] != texts[1] or forms[0] != forms[1]:
        differ = "the nest of their results"
    if differ:
        raise _EagerError(
            f"two traces of it differ in {differ}: it draws random numbers, counts, or looks at "
            "something that changes"
        )
    return first


def operations(program: Program) -> int:
    """Return the number of operations, views not counted."""
    return sum(planning.computed(n) for n in program.nodes)


def _key(x: Any, arrays: list[Any]) -> Any:
    """Return what a plan depends on of an argument, and append its arrays."""
    kind = type(x)
    if kind is np.ndarray:
        arrays.append(x)
        return x.shape, x.dtype
    if kind is tuple or kind is list:
        return kind, tuple([_key(i, arrays) for i in x])
    if kind is dict:
        return kind, tuple([(k, _key(v, arrays)) for k, v in x.items()])
    if x is None or kind is int or kind is bool or kind is str:
        return kind, x
    if kind is float:
        return kind, x.hex()
    if isinstance(x, np.generic):
        arrays.append(np.asarray(x))
        return (), x.dtype
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return kind, tuple([_key(i, arrays) for i in x])
    if kind is np.memmap:
        arrays.append(np.asarray(x))
        return x.shape, x.dtype
    raise _OtherError(_library(x))


def _library(x: Any) -> str:
    """Return the name of the library of an argument that is not NumPy's, or why it is none."""
    if kind_of := getattr(type(x), "__module__", "").partition(".")[0]:
        if array_api_compat.is_jax_array(x):
            return "jax"
        if array_api_compat.is_torch_array(x):
            return "torch"
    if type(x) is Traced:
        return "traced"
    return f"an argument of type {type(x).__name__} ({kind_of}) runs eagerly"


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
