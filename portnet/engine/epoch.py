"""The loop over the batches of epochs, for Trainer and for the estimators.

`portnet.train_epoch` is the definition; this is faster and means the same: `step_executor` makes
compiled steps where the backend allows it, and `epoch_scan` compiles the loop itself. Callers do
not see this: inputs are copied, and results are never overwritten.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from .._typing import Host, Params, State, Tree
from ..backend import is_out_of_memory
from ..compiler.errors import EagerError
from .compile_cache import compiler_for, release
from .eager_executor import EagerExecutor, Step
from .epoch_state import Epochs, EpochState
from .loss_sums import read_sums
from .packing import PackedTree, unpacked
from .ranks import current_ranks
from .step_executor import StepExecutor, step_executor

__all__ = ["EpochExecutor", "EpochResult", "first_state", "quiet", "run_epochs", "run_steps"]


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
    planned : int
        How many steps will be made at least; 0 for a few: machine code must pay for itself.
    likely : int, optional
        How many there may well be. By default `planned`.
    vectors : {"", "one", "by name"}
        Whether the step is the same for parameters that are joined: not at all, all to one vector,
        or those of one name in their dicts. Eager steps on devices may use it.
    sharded : function, optional
        Makes a `ShardedStep` from `parts`: the same step for several ranks.
    """

    make: Callable[..., Step]
    parts: tuple[object, ...]
    averaged: bool = True
    compiled: bool = True
    planned: int = 0
    likely: int = 0
    vectors: str = ""
    sharded: Callable[..., Any] | None = None
    _steps: list[Any] = field(default_factory=list, compare=False, repr=False)

    def run(
        self,
        start: EpochState,
        epochs: Epochs,
        after: Callable[[int], object] = lambda made: False,
    ) -> EpochState:
        """Make steps from `start` to the end of the last epoch; return the state after them.

        `after` is called after each step, or after several with their number, and ends the training
        there if it returns True. A KeyboardInterrupt has the state after the last finished step as
        its `ahead`.
        """
        try:
            return self._run(start, epochs.on_device(), after)
        except Exception as error:
            backend = epochs.dataset.backend
            if backend.is_host or not is_out_of_memory(error):
                raise
            raise MemoryError(
                f"{backend} has too little memory for steps of {epochs.size} rows: {error}. A "
                "smaller batch_size needs less; parameters and optimizer are as they were"
            ) from error

    def _run(self, start: EpochState, epochs: Epochs, after: Callable[[int], object]) -> EpochState:
        step, now, stopped = self._step(start, epochs), start, False
        while not stopped and now.made(epochs) < len(epochs.keys) * epochs.steps:
            scan, before, began = (
                step.scan(now, epochs, self.planned, self.likely),
                now,
                time.perf_counter(),
            )
            try:
                if scan is None:
                    now, stopped = _run_by_calls(step, now, epochs, after)
                else:
                    now, stopped = scan.run(now, epochs, after)
                made = now.made(epochs) - before.made(epochs)
                step.seconds = (time.perf_counter() - began) / made
            except KeyboardInterrupt as error:  # raised by a signal handler other than Python's
                error.ahead = getattr(error, "ahead", now)  # type: ignore[attr-defined]
                raise
        return now

    def _step(self, start: EpochState, epochs: Epochs) -> Any:
        """Return how steps are made: as in the epochs before."""
        kept = epochs.steps > start.done and not epochs.dataset.is_csr
        if not kept or not self._steps:
            compiler = compiler_for(epochs.dataset.backend, self.compiled) if kept else ""
            parts = self.make, self.parts, self.averaged, self.vectors
            ranks = current_ranks()
            if ranks is not None and self.sharded is not None:
                from .sharded_executor import sharded_executor

                parts = self.sharded, *parts[1:]
                step: Any = sharded_executor(ranks, *parts, compiler, start, epochs)
            elif compiler == "graph":
                step = _graphs(*parts, start, epochs)
            else:
                step = step_executor(*parts, compiler, start, epochs)
            if not kept:
                return step
            self._steps.append(step)
        elif (reason := self._steps[0].refusal(start, epochs)) is not None:
            parts = self.make, self.parts, self.averaged, self.vectors
            self._steps[0].close()
            self._steps[0] = EagerExecutor(*parts, start, epochs, reason)
        return self._steps[0]

    def epochs_at_once(self, seconds: float, rows: int, steps: int) -> int:
        """Return how many epochs of so many steps take about so long; 1 where steps are eager.

        Whoever trains several epochs at once looks at them afterwards, and may have to make them
        again, one by one: that must not be seen from outside, as by a user's own layer that is
        called.
        """
        compiled = [step for step in self._steps if step.executable is not None]
        taken = compiled[0].seconds * steps if compiled else 0
        return max(1, min(int(seconds / taken), compiled[0].most_rows // rows)) if taken else 1

    def explain(self, start: EpochState, epochs: Epochs) -> str:
        """Return how the steps of epochs are made, as text; none is made."""
        epochs = epochs.on_device()
        text: str = self._step(start, epochs).explain(start, epochs)
        return text if self.compiled else f"{text}: compile=False"

    @property
    def nbytes(self) -> int:
        """The size of the buffers."""
        return sum(step.nbytes for step in self._steps)

    def close(self) -> None:
        """Release the memory of compiled functions."""
        for step in self._steps:
            step.close()
        self._steps.clear()
        release()


def _graphs(
    make: Callable[..., Step],
    parts: tuple[object, ...],
    averaged: bool,
    vectors: str,
    start: EpochState,
    epochs: Epochs,
) -> Any:
    """Return how steps run as graphs of a GPU, or eagerly where they cannot."""
    from ..compiler.cuda import selftest
    from .epoch_graph import graph_executor

    try:
        tf32 = epochs.dataset.backend.matmul_precision == "tf32"
        device = functools.partial(selftest.device_for, tf32)
        return graph_executor(make, parts, averaged, device, start, epochs)
    except EagerError as error:
        reason = str(error)
    except MemoryError:
        raise
    except Exception as error:  # of a compiler or of cuBLAS: it must not end a training
        reason = f"CUDA graphs cannot be made: {type(error).__name__}: {error}"
    return EagerExecutor(make, parts, averaged, vectors, start, epochs, reason)


def _run_by_calls(
    step: StepExecutor | EagerExecutor,
    start: EpochState,
    epochs: Epochs,
    after: Callable[[int], object],
) -> tuple[EpochState, bool]:
    """Make steps one by one, until the end, or until a scan pays; return whether `after` ended it.

    Steps are numbered through all epochs.
    """
    steps, first = epochs.steps, start.made(epochs)
    packed, before, made = step.pack(start), list(start.before), first
    step.steps_begin()
    torn = stopped = False  # torn: in the middle of a packed step

    def make(number: int) -> Any:
        epoch, s = divmod(number, steps)
        current = packed
        if epoch > len(before):
            current, sums = step.restart_sums(packed)
            before.append(sums)
        return step(current, epochs.inputs(epoch, s, step.key), epochs.scale)

    try:
        for number in range(first, steps * len(epochs.keys)):
            torn = step.packed
            packed = make(number)
            torn, made = False, number + 1
            step.warn_if_eager()
            stopped = bool(after(1))
            if stopped or step.scan_pays:
                break
    except KeyboardInterrupt as error:  # raised by a signal handler other than Python's
        if torn:  # the packed vectors are half written: the finished steps are made again
            packed, before = step.pack(start), list(start.before)
            for number in range(first, made):
                packed = make(number)
        done = made - len(before) * steps
        error.ahead = _state(step, packed, done, before)  # type: ignore[attr-defined]
        raise
    done = made - len(before) * steps
    return _state(step, packed, done, before), stopped


def _state(step: Any, packed: Any, done: int, before: list[Any]) -> EpochState:
    params, state, sums = step.result(packed)
    return EpochState(params, state, sums, done, tuple(before))


class EpochResult(NamedTuple):
    """The result of epochs: parameters and state (pytrees, or packed), numbers as floats.

    `losses` has the sum of the losses of each epoch that was begun. Of the last one of these,
    `finite_steps` is the number of steps after which the sum was finite, and `done` the number of
    steps made. `finite` is whether everything looked at is finite.
    """

    params: Params
    state: State
    losses: list[float]
    finite_steps: float
    done: int
    finite: bool


def first_state(
    executor: EpochExecutor,
    params: Params,
    state: State,
    epochs: Epochs,
    sums: tuple[float, float] | Host = (0.0, 0.0),
    done: int = 0,
) -> EpochState:
    """Return the state before the steps of epochs, with sums on the device if steps add to them."""
    backend = epochs.dataset.backend
    start = EpochState(params, state, np.asarray(sums), done)
    if compiler_for(backend, executor.compiled) not in ("graph", "jit"):
        return start
    wide = backend.xp.float64 if backend.supports("float64") else backend.xp.float32
    return start._replace(sums=backend.xp.asarray(sums, dtype=wide, device=backend.device))


def run_epochs(
    executor: EpochExecutor,
    params: Params,
    state: State,
    epochs: Epochs,
    interrupted: list[int],
    *,
    done: int = 0,
    sums: tuple[float, float] = (0.0, 0.0),
    advance: Callable[[int], object] = lambda made: None,
    look_at: Callable[[Params, State], Tree] = lambda params, state: params,
    packed: bool = False,
) -> EpochResult:
    """Make the steps of epochs, from step `done` of the first on, until their end or an interrupt.

    They end after the step in which the list `interrupted` becomes non-empty. A KeyboardInterrupt
    raised within, by a signal handler other than Python's, is appended to the list, and the
    finished steps count: what follows is the same under every handler. `sums` are those of the
    steps before; `advance` is called with a number of steps after these; `look_at` returns the
    arrays that must be finite. `packed` allows the result to be packed: the next epoch may begin
    with it, and `packing.unpacked` returns its pytree. The host waits for the device here, once per
    call. Call it under `quiet()`.
    """
    xp = epochs.dataset.backend.xp
    start = first_state(executor, params, state, epochs, sums, done)
    end = run_steps(executor, start, epochs, interrupted, advance)
    vectors = [t.vectors if isinstance(t, PackedTree) else t for t in (end.params, end.state)]
    flags = [xp.all(xp.isfinite(a)) for a in tree.leaves(look_at(*vectors))]
    totals, finite = read_sums([*end.before, end.sums], flags)
    losses, finite_steps = [float(s[0]) for s in totals], float(totals[-1][1])
    params, state = end.params, end.state
    if not packed:
        params, state = unpacked(params), unpacked(state)
    return EpochResult(params, state, losses, finite_steps, end.done, all(finite))


def run_steps(
    executor: EpochExecutor,
    start: EpochState,
    epochs: Epochs,
    interrupted: list[int],
    advance: Callable[[int], object],
) -> EpochState:
    """Make the steps of epochs until their end or an interrupt, as `run_epochs` says."""

    def after(made: int) -> bool:
        advance(made)
        return bool(interrupted)

    try:
        return executor.run(start, epochs, after)
    except KeyboardInterrupt as error:
        if current_ranks() is not None:  # the others know nothing of it
            raise
        interrupted.append(0)
        # The start: interrupted again before it was known.
        ended: EpochState = getattr(error, "ahead", start)
        return ended


def quiet() -> np.errstate:
    """Silence warnings of overflow and NaN: the check after the epoch says more.

    A caller's ``np.errstate(over="raise")`` is kept, so that it finds the operation.
    """
    settings: dict[str, Any] = dict(np.geterr())
    for kind in ("over", "invalid"):
        if settings[kind] == "warn":
            settings[kind] = "ignore"
    return np.errstate(**settings)
