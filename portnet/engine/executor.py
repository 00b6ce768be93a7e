"""Executor: the steps of an epoch, compiled where the backend allows it.

`portnet.train_epoch` is the definition; this is faster and means the same. A step takes its rows,
trains on them and adds its loss to the epoch's sum, all in one pure function, so that one plan
covers it. Where plans are replayed (NumPy), parameters and optimizer state are packed into one
vector for each dtype, with the layers' arrays as views: an optimizer's arithmetic is then one
operation for all parameters. Callers do not see this: inputs are copied, and results are never
overwritten.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from .._typing import Array, Params, State
from ..backend import namespace, read_floats
from ..compiler import CompileWarning
from ..data.dataset import Batch, Dataset
from ..rng import Key
from .compile_cache import compile_cached, compiler_for, release
from .packing import UNPACKED, PackedTree, Packing, unpacked

__all__ = ["Epoch", "EpochExecutor", "EpochResult", "EpochState", "quiet", "run_epoch"]


class EpochState(NamedTuple):
    """Parameters, optimizer state (pytrees, or packed), sums, and the number of steps so far.

    The sums (2,) are that of the losses, and the number of steps after which it was finite: once it
    is not, it stays so, and the next step was the first bad one. They stay on the device until they
    are read.
    """

    params: Params
    state: State
    sums: Array
    done: int = 0


@dataclass(frozen=True)
class Epoch:
    """One pass over a dataset, in batches of `size` rows.

    `key` is the epoch's random key; each step has its own `first`. `scale`, 0-d, multiplies the
    updates. `order` is the dataset's, where a step takes from it.
    """

    dataset: Dataset
    size: int
    key: Key | None = None
    scale: Array | None = None
    order: Any = None

    def on_device(self) -> "Epoch":
        """Return the epoch with its order where a step takes from it."""
        data, order = self.dataset, self.dataset.order
        if data.backend.compiler == "jit":  # it would compile each slice by itself
            every = np.arange(len(data)) if self.size < len(data) else None
            return replace(self, order=every if order is None else order)
        return self if order is None else replace(self, order=data.backend.asarray(order))

    def inputs(self, begin: int, key: Key | None) -> tuple[Batch, Array | None, Key | None]:
        """Return arrays, the rows to take of them (None: all), and the key of a step.

        `key` has NumPy arrays (1, 1) for the numbers of the key, so that these may change under one
        plan; they are overwritten by the next step. None: the numbers are Python's.
        """
        data, index = self.dataset, None
        part = slice(begin, min(begin + self.size, len(data)))
        arrays: Any = data.arrays
        if self.order is not None:
            index = self.order[part]
            index = data.backend.asarray(index) if data.backend.compiler == "jit" else index
        elif part.stop - part.start < len(data):
            first = data.X if data.is_csr else data.X[part, ...]
            arrays = first, *(a if a is None else a[part, ...] for a in arrays[1:])
        if data.is_csr:
            arrays, index = (data.dense_or_sparse(part), *_take(arrays[1:], index)), None
        if self.key is None or key is None:
            return arrays, index, self.key and self.key._replace(first=begin)
        key.salt[0, 0], key.first[0, 0] = self.key.salt, begin
        if not data.backend.is_host:
            key = Key(*[data.backend.asarray(number.copy()) for number in key])
        return arrays, index, key


@dataclass(frozen=True)
class EpochExecutor:
    """Runs steps ``(params, state, x, y, weight, key, scale) -> params, state, value``.

    Parameters
    ----------
    make : function
        Makes the step from `parts`: a model, a loss, an optimizer.
    parts : tuple
    averaged : bool
        Whether the value of a step is a mean over its rows; it then counts once for each row.
    compiled : bool
        Whether to compile the step where the backend allows it.
    """

    make: Callable[..., Callable[..., Any]]
    parts: tuple[Any, ...]
    averaged: bool = True
    compiled: bool = True
    _steps: list["StepExecutor"] = field(default_factory=list, compare=False, repr=False)

    def run(
        self, start: EpochState, epoch: Epoch, after: Callable[[], Any] = lambda: False
    ) -> EpochState:
        """Make steps from step `start.done` to the end of the epoch; return the state after them.

        `after` is called after each step, and ends the epoch there if it returns True. A
        KeyboardInterrupt has the state after the last finished step as its `ahead`.
        """
        epoch = epoch.on_device()
        begins = range(start.done * epoch.size, len(epoch.dataset), epoch.size)
        step = self._step(start, epoch, begins)
        packed = step.pack(start)
        done = start.done
        torn = False  # in the middle of a packed step
        try:
            for begin in begins:
                torn = step.packed
                packed = step(packed, epoch, begin)
                torn, done = False, done + 1
                step.warn_if_eager()
                if after():
                    break
        except KeyboardInterrupt as error:  # raised by a signal handler other than Python's
            if torn:  # the packed vectors are half written: the finished steps are made again
                packed = step.pack(start)
                for begin in begins[: done - start.done]:
                    packed = step(packed, epoch, begin)
            error.ahead = step.result(packed, done)  # type: ignore[attr-defined]
            raise
        return step.result(packed, done)

    def _step(self, start: EpochState, epoch: Epoch, begins: range) -> "StepExecutor":
        """Return how steps are made: as in the epoch before."""
        if not self._steps or epoch.dataset.is_csr or not begins:
            step = self._new_step(start, epoch, begins)
            if epoch.dataset.is_csr or not begins:
                return step
            self._steps.append(step)
        return self._steps[0]

    def _new_step(self, start: EpochState, epoch: Epoch, begins: range) -> "StepExecutor":
        eager = functools.partial(_step_and_sum, self.make(*self.parts), self.averaged, UNPACKED)
        compiler = compiler_for(epoch.dataset.backend, self.compiled and bool(begins))
        if not compiler or epoch.dataset.is_csr:
            return StepExecutor(eager)
        packings: Any = UNPACKED
        if compiler == "replay":
            params, opt_state = unpacked(start.params), unpacked(start.state)
            if not tree.leaves(params):
                return StepExecutor(eager)
            try:
                packings = Packing.of(params), Packing.of(opt_state)
            except TypeError as error:
                return StepExecutor(eager, reason=str(error))
        make = _MakeStepAndSum(self.make, self.averaged)
        function = compile_cached(make, *self.parts, form=packings, donate=(0, 1, 2))
        step = StepExecutor(function, packings, key=Key(_number(), _number()))
        reason = function.refusal(
            *step.pack(start), *epoch.inputs(begins[0], step.key), epoch.scale
        )
        return StepExecutor(eager, reason=reason) if reason else step

    def close(self) -> None:
        """Release the memory of compiled functions."""
        for step in self._steps:
            step.close()
        self._steps.clear()
        release()


class EpochResult(NamedTuple):
    """The result of an epoch: parameters and state (pytrees, or packed), numbers as floats.

    `loss` is the sum of the losses, `finite_steps` the number of steps after which it was finite,
    `done` the number of steps made; `finite` is whether everything looked at is finite.
    """

    params: Params
    state: State
    loss: float
    finite_steps: float
    done: int
    finite: bool


def run_epoch(
    executor: EpochExecutor,
    params: Params,
    state: State,
    epoch: Epoch,
    interrupted: list[int],
    *,
    done: int = 0,
    sums: tuple[float, float] = (0.0, 0.0),
    advance: Callable[[int], Any] = lambda made: None,
    look_at: Callable[[Params, State], Any] = lambda params, state: params,
    packed: bool = False,
) -> EpochResult:
    """Make the steps of an epoch, from step `done` on, until its end or an interrupt.

    The epoch ends after the step in which the list `interrupted` becomes non-empty. A
    KeyboardInterrupt raised within, by a signal handler other than Python's, is appended to the
    list, and the finished steps count: what follows is the same under every handler. `sums` are
    those of the steps before; `advance` is called after each step; `look_at` returns the arrays
    that must be finite. `packed` allows the result to be packed: the next epoch may begin with it,
    and `packing.unpacked` returns its pytree. The host waits for the device here, once per epoch.
    Call it under `quiet()`.
    """
    backend = epoch.dataset.backend
    xp = backend.xp
    start = EpochState(params, state, np.asarray(sums), done)
    if not backend.is_host:
        wide = xp.float64 if backend.supports("float64") else xp.float32
        start = start._replace(sums=xp.asarray(sums, dtype=wide, device=backend.device))

    def after() -> bool:
        advance(1)
        return bool(interrupted)

    try:
        end = executor.run(start, epoch, after)
    except KeyboardInterrupt as error:
        interrupted.append(0)
        end = getattr(error, "ahead", start)  # the start: interrupted again before it was known
    vectors = [t.vectors if isinstance(t, PackedTree) else t for t in (end.params, end.state)]
    looked_at = tree.leaves(look_at(*vectors))
    if backend.is_host:
        loss, finite_steps = end.sums.tolist()
        finite = [np.isfinite(a).all() for a in looked_at]
    else:
        flags = [xp.astype(xp.all(xp.isfinite(a)), wide) for a in looked_at]
        loss, finite_steps, *finite = read_floats([end.sums[0], end.sums[1], *flags])
    params, state = end.params, end.state
    if not packed:
        params, state = unpacked(params), unpacked(state)
    return EpochResult(params, state, loss, finite_steps, end.done, all(finite))


class StepExecutor:
    """How the steps of a fit are made, and the vectors that compiled steps work in.

    The vectors stay the same from epoch to epoch, as a plan is bound to them; results are copies.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        packings: Any = UNPACKED,
        reason: str = "",
        key: Key | None = None,
    ) -> None:
        self.function, self.packings, self.reason, self.key = function, packings, reason, key
        self.packed = isinstance(packings[0], Packing)
        self._vectors: Any = None  # params, state, sums
        self._current: Any = (None, None)  # the packed pytrees whose values the vectors have
        self._bound: dict[Any, Any] = {}  # by what may differ between batches

    def __call__(self, packed: Any, epoch: Epoch, begin: int) -> Any:
        """Make the step of the batch that begins at a row; return params, state, sums, packed."""
        arrays, index, key = inputs = epoch.inputs(begin, self.key)
        if not self.packed:
            return self.function(*packed, *inputs, epoch.scale)
        rows = arrays[1] if index is None else index
        kind = rows.shape[0], index is None, epoch.scale is None
        if kind not in self._bound:
            self._bound[kind] = self.function.bind(*packed, *inputs, epoch.scale)  # type: ignore[attr-defined]
        bound = self._bound[kind]
        if bound is None:
            return self.function(*packed, *inputs, epoch.scale)
        params, state, sums = packed
        flat = [*params.values(), *state.values(), sums, *arrays, index, *(key or ()), epoch.scale]
        bound([a for a in flat if a is not None])
        return packed

    def close(self) -> None:
        """Return the buffers of bound steps."""
        for bound in self._bound.values():
            if bound is not None:
                bound.close()
        self._bound.clear()

    def pack(self, start: EpochState) -> tuple[Any, Any, Any]:
        """Return parameters, state and sums in the form that `function` takes."""
        params, state, sums, _ = start
        if not self.packed:
            return params, state, sums
        if self._vectors is None:
            packed = self.packings[0].pack(params), self.packings[1].pack(state)
            self._vectors = *packed, np.array(sums)
        else:
            if params is not self._current[0] or state is not self._current[1]:
                self.packings[0].fill(self._vectors[0], params)
                self.packings[1].fill(self._vectors[1], state)
            self._vectors[2][...] = sums
        self._current = None, None
        return self._vectors  # type: ignore[no-any-return]

    def result(self, packed: Any, done: int) -> EpochState:
        """Return the state after `done` steps; of packed vectors, copies."""
        if not self.packed:
            return EpochState(packed[0], packed[1], packed[2], done)
        *trees, sums = self._vectors = packed
        copies = [{k: v.copy() for k, v in vectors.items()} for vectors in trees]
        params, state = self._current = tuple(map(PackedTree, self.packings, copies))
        return EpochState(params, state, sums.copy(), done)

    def warn_if_eager(self) -> None:
        """Warn once, after the first step that ran, if the step cannot be compiled."""
        if self.reason:
            message, self.reason = f"training runs eagerly: {self.reason}", ""
            warnings.warn(message, CompileWarning, stacklevel=3)


@dataclass(frozen=True)
class _MakeStepAndSum:
    """Makes the function that is compiled, from the parts and the packings."""

    make: Callable[..., Callable[..., Any]]
    averaged: bool

    def __call__(self, *given: Any) -> Callable[..., Any]:
        *parts, of_params, of_state = given
        step = self.make(*parts)
        return functools.partial(_step_and_sum, step, self.averaged, (of_params, of_state))


def _step_and_sum(
    step: Callable[..., Any],
    averaged: bool,
    packings: Any,
    params: Any,
    state: Any,
    sums: Array,
    arrays: Batch,
    index: Array | None,
    key: Key | None,
    scale: Array | None,
) -> tuple[Any, Any, Array]:
    """Take the rows, make the step, and add its loss to the sums."""
    batch = _take(arrays, index)
    given = {k: v for k, v in (("key", key), ("scale", scale)) if v is not None}
    of_params, of_state = packings
    unpacked = of_params.unpack(params), of_state.unpack(state)
    params, state, value = step(*unpacked, *batch, **given)
    xp = namespace(sums)
    total = sums[0] + value * (batch[1].shape[0] if averaged else 1)
    finite = sums[1] + xp.astype(xp.isfinite(total), sums.dtype)
    return of_params.pack(params), of_state.pack(state), xp.stack([total, finite])


def quiet() -> Any:
    """Silence warnings of overflow and NaN: the check after the epoch says more.

    A caller's ``np.errstate(over="raise")`` is kept, so that it finds the operation.
    """
    settings: dict[str, Any] = dict(np.geterr())
    for kind in ("over", "invalid"):
        if settings[kind] == "warn":
            settings[kind] = "ignore"
    return np.errstate(**settings)


def _number() -> Any:
    return np.zeros((1, 1), np.int32)


def _take(arrays: Any, index: Array | None) -> Any:
    """Return these rows of every array; None: all."""
    if index is None:
        return arrays
    return tuple(a if a is None else namespace(index).take(a, index, axis=0) for a in arrays)
