"""Stepping: the steps of an epoch, compiled where that can be.

A step takes its rows, trains on them and adds its loss to the epoch's sum, all of it as one pure
function, so that one plan does it all. On NumPy, parameters and state travel as one vector for each
dtype, with the layers' arrays as views: an optimizer's arithmetic is then one operation for all
parameters. Nothing of this shows outside: what `Steps.go` is given is copied, and nothing writes
into what it returns.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from .._typing import Array, Params, State
from ..backend import Backend, namespace, read
from ..compiler import CompileWarning
from ..rng import Key
from .compile_cache import made_once, release
from .packing import _PLAIN, _Vectors

Batch = tuple[Any, Array, Array | None]  # X, y, weight


class Ahead(NamedTuple):
    """Where the steps have come to: parameters, state, sums, and how many steps were made.

    The sums (2,) are of the losses, and of the steps in which that sum was finite: once it is not,
    it stays so, and the next step was the first bad one. They are where the arrays are until
    somebody reads them.
    """

    params: Params
    state: State
    sums: Array
    done: int = 0


@dataclass(frozen=True)
class Rows:
    """The rows of an epoch, and how its steps take them.

    `order` are row numbers on the host; None: the rows as they are. `sparse` gives the rows x from
    position to position where X is no array. `key` is the epoch's; each step has its own `first`.
    """

    place: Backend
    data: Batch
    size: int
    order: Any = None
    key: Key | None = None
    scale: Array | None = None
    sparse: Callable[[slice], Any] | None = None

    @functools.cached_property
    def counters(self) -> Key:
        """The numbers of the key as arrays."""
        assert self.key is not None
        return Key(_box(self.key.salt), _box(0))

    @property
    def count(self) -> int:
        """How many rows there are."""
        return int((self.data[1] if self.order is None else self.order).shape[0])

    def settled(self) -> "Rows":
        """Return the rows with their order where a step takes from it."""
        if self.place.name != "jax":
            return (
                self if self.order is None else replace(self, order=self.place.asarray(self.order))
            )
        if self.order is None and self.size < self.count:  # JAX would compile each slice by itself
            return replace(self, order=np.arange(self.count))
        return self

    def batch(self, begin: int, boxed: bool) -> tuple[Batch, Array | None, Key | None]:
        """Return arrays, the rows to take of them (None: all), and the key of a step.

        Boxed, the numbers of the key are arrays (1, 1): they may change under one plan.
        """
        part, data, which = slice(begin, min(begin + self.size, self.count)), self.data, None
        if self.order is not None:
            which = self.order[part]
            which = self.place.asarray(which) if self.place.name == "jax" else which
        elif part.stop - part.start < self.count:
            data = tuple(a if a is None else a[part, ...] for a in data)  # type: ignore[assignment]
        if self.sparse is not None:
            data, which = (self.sparse(part), *_taken(data[1:], which)), None
        if self.key is None or not boxed:
            return data, which, self.key and self.key._replace(first=begin)
        if self.place.name == "numpy":  # a plan reads it, and nothing keeps it
            self.counters.first[0, 0] = begin
            return data, which, self.counters
        return data, which, Key(*(self.place.asarray(_box(n)) for n in (self.key.salt, begin)))


@dataclass(frozen=True)
class Steps:
    """Steps ``(params, state, x, y, weight, key, scale) -> params, state, value`` over rows.

    Parameters
    ----------
    make : function
        Makes the step of `parts`: a model, a loss, an optimizer.
    parts : tuple
    averaged : bool
        Whether the value of a step is a mean over its rows; it then counts once for each.
    compiled : bool
        Whether to compile the step where the library allows it: NumPy and JAX.
    """

    make: Callable[..., Callable[..., Any]]
    parts: tuple[Any, ...]
    averaged: bool = True
    compiled: bool = True
    _ways: list["_Way"] = field(default_factory=list, compare=False, repr=False)

    def go(self, start: Ahead, rows: Rows, after: Callable[[], Any] = lambda: False) -> Ahead:
        """Make steps from step `start.done` on to the end of the rows; return where that is.

        `after` is called after each step, and ends the epoch there where it returns True. A
        KeyboardInterrupt has in `ahead` where the finished steps had come to.
        """
        rows = rows.settled()
        begins = range(start.done * rows.size, rows.count, rows.size)
        way = self._way(start, rows, begins)
        params, state, sums = way.enter(start)
        done = start.done
        torn = False  # in the middle of a compiled step
        try:
            with quiet():
                for begin in begins:
                    batch = rows.batch(begin, way.boxed)
                    torn = way.vectors
                    params, state, sums = way.step(params, state, sums, *batch, rows.scale)
                    torn, done = False, done + 1
                    way.tell()
                    if after():
                        break
        except KeyboardInterrupt as error:  # of a handler that is not Python's own
            if torn:  # what it works in is half written: the finished steps are made again
                params, state, sums = way.enter(start)
                with quiet():
                    for begin in begins[: done - start.done]:
                        batch = rows.batch(begin, way.boxed)
                        params, state, sums = way.step(params, state, sums, *batch, rows.scale)
            error.ahead = way.leave(params, state, sums, done)  # type: ignore[attr-defined]
            raise
        return way.leave(params, state, sums, done)

    def _way(self, start: Ahead, rows: Rows, begins: range) -> "_Way":
        """Return how the steps are made: the same way as in the epoch before."""
        if not self._ways or rows.sparse or not begins:
            way = self._new_way(start, rows, begins)
            if rows.sparse or not begins:
                return way
            self._ways.append(way)
        return self._ways[0]

    def _new_way(self, start: Ahead, rows: Rows, begins: range) -> "_Way":
        eagerly = functools.partial(_advance, self.make(*self.parts), self.averaged, _PLAIN)
        if not (self.compiled and rows.place.name in ("numpy", "jax") and begins) or rows.sparse:
            return _Way(eagerly)
        form: Any = _PLAIN
        if rows.place.name == "numpy":
            if not tree.leaves(start.params):
                return _Way(eagerly)
            try:
                form = _Vectors.of(start.params), _Vectors.of(start.state)
            except TypeError as error:
                return _Way(eagerly, reason=str(error))
        make = _Advancing(self.make, self.averaged)
        fn = made_once(make, *self.parts, form=form, donate=(0, 1, 2))
        way = _Way(fn, form, boxed=True)
        packed = way.enter(start)
        reason = fn.refusal(*packed, *rows.batch(begins[0], True), rows.scale)
        if reason:
            return _Way(eagerly, reason=reason)
        return way

    def close(self) -> None:
        """Give back the memory of compiled functions."""
        self._ways.clear()
        release()


class EpochResult(NamedTuple):
    """What the steps of an epoch came to: parameters and state where they live, numbers as floats.

    `loss` is the sum of the losses, `finite_steps` in how many steps that sum was finite, `done`
    how many steps were made; `finite` tells whether everything looked at is finite.
    """

    params: Params
    state: State
    loss: float
    finite_steps: float
    done: int
    finite: bool


def run_epoch(
    steps: Steps,
    params: Params,
    state: State,
    rows: Rows,
    interrupted: list[int],
    *,
    done: int = 0,
    sums: tuple[float, float] = (0.0, 0.0),
    advance: Callable[[int], Any] = lambda made: None,
    look_at: Callable[[Params, State], Any] = lambda params, state: params,
) -> EpochResult:
    """Make the steps of an epoch, from step `done` on, until its end or an interrupt.

    It ends after the step in which the list `interrupted` becomes non-empty. A KeyboardInterrupt
    raised within, by a signal handler other than Python's, is appended to the list, and the
    finished steps count: what follows is the same under every handler. `sums` are those of the
    steps before; `advance` is called after each step; `look_at` chooses the arrays that must be
    finite. The host waits here, once per epoch.
    """
    place = rows.place
    wide = place.xp.float64 if place.supports("float64") else place.xp.float32
    start = Ahead(params, state, place.xp.asarray(sums, dtype=wide, device=place.device), done)

    def after() -> bool:
        advance(1)
        return bool(interrupted)

    try:
        end = steps.go(start, rows, after)
    except KeyboardInterrupt as error:
        interrupted.append(0)
        end = getattr(error, "ahead", start)  # the start: interrupted again before it was known
    looked_at = tree.leaves(look_at(end.params, end.state))
    sound = [place.xp.astype(place.xp.all(place.xp.isfinite(a)), wide) for a in looked_at]
    loss, finite_steps, *finite = read([end.sums[0], end.sums[1], *sound])
    return EpochResult(end.params, end.state, loss, finite_steps, end.done, all(finite))


@dataclass(frozen=True)
class _Advancing:
    """Makes what is compiled, of the parts and of the forms of parameters and state."""

    make: Callable[..., Callable[..., Any]]
    averaged: bool

    def __call__(self, *given: Any) -> Callable[..., Any]:
        *parts, of_params, of_state = given
        return functools.partial(_advance, self.make(*parts), self.averaged, (of_params, of_state))


class _Way:
    """How the steps of a fit are made, and the arrays that compiled ones work in.

    These stay the same from epoch to epoch, as a plan is made for them; what comes out is a copy.
    """

    def __init__(
        self, step: Callable[..., Any], form: Any = None, reason: str = "", boxed: bool = False
    ) -> None:
        self.step, self.reason, self.boxed = step, reason, boxed
        self.form: Any = _PLAIN if form is None else form
        self.vectors = isinstance(self.form[0], _Vectors)
        self.work: Any = None  # params, state, sums

    def enter(self, start: Ahead) -> tuple[Any, Any, Any]:
        """Return parameters, state and sums in the form in which they travel."""
        params, state, sums, _ = start
        if not self.vectors:
            return params, state, sums
        if self.work is None:
            self.work = self.form[0].pack(params), self.form[1].pack(state), np.array(sums)
        else:
            self.form[0].fill(self.work[0], params)
            self.form[1].fill(self.work[1], state)
            self.work[2][...] = sums
        return self.work  # type: ignore[no-any-return]

    def tell(self) -> None:
        """Warn once where a step is not compiled: it was right, so that it is not its own fault."""
        if self.reason:
            message, self.reason = f"training runs eagerly: {self.reason}", ""
            warnings.warn(message, CompileWarning, stacklevel=3)

    def leave(self, params: Any, state: Any, sums: Any, done: int) -> Ahead:
        """Return where the steps have come to."""
        if self.vectors:
            self.work = params, state, sums
            params, state = ({k: v.copy() for k, v in nest.items()} for nest in (params, state))
            sums = sums.copy()
        return Ahead(self.form[0].unpack(params), self.form[1].unpack(state), sums, done)


def _advance(
    step: Callable[..., Any],
    averaged: bool,
    form: Any,
    params: Any,
    state: Any,
    sums: Array,
    data: Batch,
    which: Array | None,
    key: Key | None,
    scale: Array | None,
) -> tuple[Any, Any, Array]:
    """Take the rows, make the step, and add up its loss: what is compiled."""
    data = _taken(data, which)
    given = {k: v for k, v in (("key", key), ("scale", scale)) if v is not None}
    params, state, value = step(form[0].unpack(params), form[1].unpack(state), *data, **given)
    xp = namespace(sums)
    total = sums[0] + value * (data[1].shape[0] if averaged else 1)
    finite = sums[1] + xp.astype(xp.isfinite(total), sums.dtype)
    return form[0].pack(params), form[1].pack(state), xp.stack([total, finite])


def quiet() -> Any:
    """Warn of no overflow and no NaN inside: the check after the epoch says more.

    A caller who has chosen to raise, say, keeps that: so ``np.errstate`` finds the place.
    """
    settings: dict[str, Any] = dict(np.geterr())
    for kind in ("over", "invalid"):
        if settings[kind] == "warn":
            settings[kind] = "ignore"
    return np.errstate(**settings)


def _box(number: int) -> Any:
    return np.full((1, 1), number, np.int32)


def _taken(data: Any, which: Array | None) -> Any:
    """Return these rows of every array; None: all."""
    if which is None:
        return data
    return tuple(a if a is None else namespace(which).take(a, which, axis=0) for a in data)


# How nests travel -------------------------------------------------------------------------------


# Forward alone ----------------------------------------------------------------------------------


# Which compiled functions outlive a fit ---------------------------------------------------------
