"""portnet.compile: which plan a call takes.

The plan of a call, and whether there is one, depends on the structure of its arguments, their
shapes, dtypes and Python numbers alone, never on how often it was called before. (When a plan
becomes machine code depends on that; its results have the same bits.)
"""

import functools
import operator
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

from .errors import MISS, CompileWarning, EagerError, name_of
from .signature import NotNumPyError, key_of

__all__ = ["Compiled", "compile"]

PLANS = 8  # kept for each function


def compile(fn: Callable[..., Any], donate: int | Sequence[int] = ()) -> "Compiled":
    """Return a function that does what fn does, faster: traced once, planned, then replayed.

    Parameters
    ----------
    fn : callable
        A pure function of arrays, or of pytrees, written against the array API: it takes its
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
        `CompileWarning` that says what and where, and returns what fn returns. Results without axes
        are arrays, as the standard has it, where eager NumPy has scalars. Whatever fn reads beside
        its arguments (globals, attributes) is read once for each plan.
        ``.explain(*args)`` prints the plan, ``.explain(*args, source=True)`` the generated text,
        too.

    Notes
    -----
    On NumPy the results are compared with those of fn called eagerly as follows.

    - Elementwise operations and products of matrices have the same bits. Only functions such as exp
      may differ in the last place where the elements of a view lie backwards and not row by row:
      NumPy chooses its code by the strides.
    - Sums, means and products of elements may be taken in another order.
    - Results lie in memory row by row. Eager NumPy keeps the order of a transposed operand, and a
      product or a sum of such a result may round differently.
    - Powers of arrays without axes agree within one unit in the last place: there NumPy computes
      with scalars, by another function.
    - Warnings of overflow, NaN and division by zero, and errors under ``np.errstate``, are NumPy's
      where NumPy is called.

    With the extra ``native`` (llvmlite; Linux and macOS) a plan becomes machine code after as many
    calls as pay for compiling.
    Machine code has the bits of the NumPy calls that it replaces, so it does not matter when it
    starts. It reports no floating-point warnings or errors, as in numba and JAX: LLVM leaves the
    processor's status flags undefined. To find where a NaN comes from, call fn itself (train with
    ``compile=False``) under ``np.errstate(all="raise")``.

    The environment variable ``PORTNET_NATIVE`` is read when a plan is made: "auto" (the default);
    "always" compiles at the first call, and is an error where machine code cannot be made; "never".
    Machine code is kept in the user's files, in ``PORTNET_CACHE_DIR`` or else the user's folder of
    caches, so that another process need not compile it; ``PORTNET_CACHE=0`` keeps none. Files that
    are damaged, or that somebody else could have written, are ignored.
    ``PORTNET_NATIVE_CPU`` is LLVM's name of the processor to compile for, such as x86-64-v3:
    one whose instructions this one has; by default this one. A name that LLVM does not know is
    a ValueError.

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
    try:
        given = donate if isinstance(donate, Sequence) else (donate,)
        positions = tuple([-1 if isinstance(d, bool) else operator.index(d) for d in given])
    except TypeError:
        positions = (-1,)
    if min(positions, default=0) < 0:
        raise ValueError(
            f"compile: expected donate as positions of arguments, 0 or larger, got {donate!r}"
        )
    return Compiled(fn, positions)


class Compiled:
    """A compiled function: see `compile`.

    A function that is known to be `pure` is traced once: any other is traced twice, to see that.
    """

    def __init__(
        self, fn: Callable[..., Any], donate: tuple[int, ...] = (), pure: bool = False
    ) -> None:
        self.fn, self.donate, self.pure = fn, donate, pure
        self._entries: OrderedDict[Any, Any] = OrderedDict()  # by key: what does such a call
        self._last: Any = None  # what did the last call: it is tried first
        self._warned: set[Any] = set()  # keys and reasons that were warned of
        self._lock = threading.Lock()
        self._device_plans: OrderedDict[Any, Any] = OrderedDict()  # of steps on a GPU, by arguments
        functools.update_wrapper(self, fn, updated=())

    def __repr__(self) -> str:
        return f"compile({getattr(self.fn, '__qualname__', self.fn)!s}, donate={self.donate})"

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Bind as a method of a class: `self` is then the first argument."""
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> Any:
        name = getattr(self.fn, "__qualname__", "")
        if getattr(sys.modules.get(self.fn.__module__), name, None) is self:  # it was decorated
            return name
        return compile, (self.fn, self.donate)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what fn does."""
        last = self._last
        if last is not None and not kwargs:
            result = last.call_if_unchanged(args)
            if result is not MISS:
                return result
        try:
            key, arrays = self._key_of(args, kwargs)
        except NotNumPyError as other:
            return self._elsewhere(other.args[0], args, kwargs)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entry(key, args, kwargs, arrays)
            if isinstance(entry, _Result):
                return entry.value
        self._last = entry if entry.repeatable else None
        return entry(arrays, args, kwargs)

    def _key_of(self, args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
        """Return the key of a call, and the arrays among its arguments."""
        arrays: list[Any] = []
        key: Any = tuple([key_of(a, arrays) for a in args])
        if kwargs:
            key = key, tuple([(k, key_of(v, arrays)) for k, v in kwargs.items()])
        return key, arrays

    def explain(self, *args: Any, source: bool = False, **kwargs: Any) -> None:
        """Print the plan of a call with such arguments: its operations, groups and buffers.

        The arguments are those of a call. `source` says whether to print the generated text, too;
        an argument of that name of the function itself is given by position.
        """
        if not isinstance(source, bool):
            raise TypeError(
                "explain: expected source=True or False, whether to print the generated text, got "
                f"{source!r}: an argument `source` of the function is given by position"
            )
        try:
            key, _ = self._key_of(args, kwargs)
        except NotNumPyError as other:
            warned = {"jax": "jax.jit does it", "torch": "runs eagerly, without gradients"}
            warned["eager"] = "runs eagerly, as everything in this library"
            print(f"{self}: {warned.get(other.args[0], other.args[0])}")  # noqa: T201
            return
        entry = self._entries.get(key)
        try:
            text = (entry or self._build(args, kwargs)).explain(source=source)
        except EagerError as error:
            text = f"runs eagerly: {error}" if str(error) else _NOTHING
        print(f"{self}\n{text}")  # noqa: T201

    def refusal(self, *args: Any, **kwargs: Any) -> str:
        """Return why a call with such arguments would run eagerly; "" where it is compiled."""
        try:
            key, _ = self._key_of(args, kwargs)
            entry = self._entries.get(key)
            if entry is None:
                with self._lock:
                    self._keep(key, self._build(args, kwargs))
        except NotNumPyError:
            return ""
        except EagerError as error:
            return str(error)
        return entry.reason if isinstance(entry, _EagerCall) else ""

    def device_plan(self, form: Any, make: Callable[[], Any]) -> Any:
        """Return the plan of a step on a GPU for arguments of this form: kept, or made now."""
        with self._lock:
            if form not in self._device_plans:
                self._device_plans[form] = make()
                while len(self._device_plans) > 8:
                    self._device_plans.popitem(last=False)
            return self._device_plans[form]

    def executable(self, *args: Any) -> Any:
        """Return what does calls with such arguments: an `executable.Executable`, or None.

        None where they run eagerly.
        """
        if self.refusal(*args):
            return None
        entry = self._entries.get(self._key_of(args, {})[0])
        return entry if hasattr(entry, "bind") else None

    def scan_pays(
        self, calls: Sequence[Any], certain: int, likely: int, row_numbers: Sequence[int]
    ) -> bool:
        """Tell whether a scan of such calls pays: see `executable.scan_pays`."""
        from .executable import scan_pays

        found = [self.executable(*args) for args in calls]
        return None not in found and scan_pays(found, certain, likely, tuple(row_numbers))

    def scan(
        self, turns: Sequence[tuple[Any, int]], moving: list[Any], row_numbers: Sequence[int]
    ) -> Any:
        """Return calls as one compiled function, or None: see `executable.scan`.

        `turns` has the arguments of the calls of a turn, and how many there are of them.
        """
        from .executable import scan

        found = [(self.executable(*args), count) for args, count in turns]
        if any(executable is None for executable, _ in found):
            return None
        return scan(found, moving, tuple(row_numbers))

    def release(self, least: int = 0) -> None:
        """Release the buffers of plans that hold more than `least` bytes, until the next call."""
        for entry in list(self._entries.values()):
            if entry.nbytes > least:
                entry.pool.clear()

    def _entry(self, key: Any, args: Any, kwargs: Any, arrays: list[Any]) -> Any:
        """Return what does such calls from now on."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                return entry
            try:
                entry = self._build(args, kwargs)
            except EagerError as error:
                reason = str(error)
            else:
                self._keep(key, entry)
                return entry
        result = self.fn(
            *args, **kwargs
        )  # an error of fn's own is raised here, and nothing is kept
        eager = _EagerCall(self.fn, reason)
        with self._lock:
            warned = key in self._warned
            if len(self._warned) > 1000:  # Python numbers that are others in each call
                self._warned.clear()
            self._warned.add(key)
            self._keep(key, eager)
        if not warned and reason:
            warnings.warn(
                f"{name_of(self.fn)} runs eagerly: {reason}", CompileWarning, stacklevel=3
            )
        return _Result(result)

    def _build(self, args: Any, kwargs: Any) -> Any:
        from .executable import build  # import portnet needs no planner

        return build(self.fn, self.donate, args, kwargs, self.pure)

    def _keep(self, key: Any, entry: Any) -> None:
        self._entries[key] = entry
        while len(self._entries) > PLANS:
            self._entries.popitem(last=False)

    def _elsewhere(self, why: str, args: Any, kwargs: Any) -> Any:
        """Call fn on arrays that are not NumPy's."""
        if why == "jax":
            return self._jax(*args, **kwargs)
        if why == "torch":
            import torch

            with torch.no_grad():
                return self.fn(*args, **kwargs)
        result = self.fn(*args, **kwargs)
        if why not in ("traced", "eager", *self._warned):
            self._warned.add(why)
            message = f"{name_of(self.fn)} runs eagerly: {why}"
            warnings.warn(message, CompileWarning, stacklevel=3)
        return result

    @functools.cached_property
    def _jax(self) -> Any:
        from .jax_backend import Jitted

        return Jitted(self.fn)


_NOTHING = "runs eagerly: there are no arrays among its arguments"


class _Result:
    """The result of a call that turned out to run eagerly."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _EagerCall:
    """Calls that cannot be planned."""

    repeatable = False  # there is no guarded call
    nbytes = 0

    def __init__(self, fn: Callable[..., Any], reason: str) -> None:
        self.fn, self.reason = fn, reason
        self.pool: list[Any] = []

    def __call__(self, arrays: Any, args: Any, kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    def explain(self, *, source: bool = False) -> str:
        """Return why; there is no generated text."""
        return f"runs eagerly: {self.reason}" if self.reason else _NOTHING
