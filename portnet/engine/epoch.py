"""The loop over the batches of an epoch, for Trainer and for the estimators.

`portnet.train_epoch` is the definition; this is faster and means the same: `step_executor` makes
compiled steps where the backend allows it. Callers do not see this: inputs are copied, and results
are never overwritten.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from .._typing import Array, Params, State, Tree
from ..backend import read_floats, to_numpy
from ..data.dataset import Batch, Dataset
from ..rng import Key
from .compile_cache import compiler_for, release
from .packing import PackedTree, unpacked
from .step_executor import Step, StepExecutor, step_executor, take

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
    order: Array | None = None

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
            arrays, index = (data.dense_or_sparse(part), *take(arrays[1:], index)), None
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

    make: Callable[..., Step]
    parts: tuple[object, ...]
    averaged: bool = True
    compiled: bool = True
    _steps: list[StepExecutor] = field(default_factory=list, compare=False, repr=False)

    def run(
        self, start: EpochState, epoch: Epoch, after: Callable[[], object] = lambda: False
    ) -> EpochState:
        """Make steps from step `start.done` to the end of the epoch; return the state after them.

        `after` is called after each step, and ends the epoch there if it returns True. A
        KeyboardInterrupt has the state after the last finished step as its `ahead`.
        """
        epoch = epoch.on_device()
        begins = range(start.done * epoch.size, len(epoch.dataset), epoch.size)
        step = self._step(start, epoch, begins)
        packed = step.pack(*start[:3])
        done = start.done
        torn = False  # in the middle of a packed step
        try:
            for begin in begins:
                torn = step.packed
                packed = step(packed, epoch.inputs(begin, step.key), epoch.scale)
                torn, done = False, done + 1
                step.warn_if_eager()
                if after():
                    break
        except KeyboardInterrupt as error:  # raised by a signal handler other than Python's
            if torn:  # the packed vectors are half written: the finished steps are made again
                packed = step.pack(*start[:3])
                for begin in begins[: done - start.done]:
                    packed = step(packed, epoch.inputs(begin, step.key), epoch.scale)
            error.ahead = EpochState(*step.result(packed), done)  # type: ignore[attr-defined]
            raise
        return EpochState(*step.result(packed), done)

    def _step(self, start: EpochState, epoch: Epoch, begins: range) -> StepExecutor:
        """Return how steps are made: as in the epoch before."""
        dataset, kept = epoch.dataset, bool(begins) and not epoch.dataset.is_csr
        if not kept or not self._steps:
            compiler = compiler_for(dataset.backend, self.compiled) if kept else ""
            step = step_executor(
                self.make,
                self.parts,
                self.averaged,
                compiler,
                start[:3],
                lambda key: (*epoch.inputs(begins[0], key), epoch.scale),
            )
            if not kept:
                return step
            self._steps.append(step)
        return self._steps[0]

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
    advance: Callable[[int], object] = lambda made: None,
    look_at: Callable[[Params, State], Tree] = lambda params, state: params,
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
        loss, finite_steps = to_numpy(end.sums).tolist()
        finite = [np.isfinite(a).all() for a in looked_at]
    else:
        flags = [xp.astype(xp.all(xp.isfinite(a)), wide) for a in looked_at]
        loss, finite_steps, *finite = read_floats([end.sums[0], end.sums[1], *flags])
    params, state = end.params, end.state
    if not packed:
        params, state = unpacked(params), unpacked(state)
    return EpochResult(params, state, loss, finite_steps, end.done, all(finite))


def quiet() -> np.errstate:
    """Silence warnings of overflow and NaN: the check after the epoch says more.

    A caller's ``np.errstate(over="raise")`` is kept, so that it finds the operation.
    """
    settings: dict[str, Any] = dict(np.geterr())
    for kind in ("over", "invalid"):
        if settings[kind] == "warn":
            settings[kind] = "ignore"
    return np.errstate(**settings)
