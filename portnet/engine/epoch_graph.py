"""Epochs on a device: each step is one graph, and nothing is read or waited for within an epoch.

What changes from step to step is on the device: the number of the step, by which the batch moves,
the key of dropout, the scale of the updates. Between two epochs the host sets them anew.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import tree
from ..compiler import Compiled
from ..compiler.cuda.graph import Device, DeviceStep
from ..compiler.cuda.planning import DevicePlan, device_plan
from ..compiler.errors import EagerError
from ..compiler.planner import traced
from ..compiler.simplify import simplify
from ..rng import Key
from .compile_cache import compile_cached
from .eager_executor import Step
from .epoch_state import Epochs, EpochState
from .packing import PackedTree, Packing, unpacked
from .step_executor import MakeStepAndSum

__all__ = ["GraphExecutor", "graph_executor"]

PIECE = 16  # steps after which a signal is answered and a progress bar moves
KEPT = 2  # datasets for which steps are kept


class GraphExecutor:
    """How the steps of a fit are made on a device; `EpochExecutor` uses it as a `StepExecutor`.

    Parameters
    ----------
    function : Compiled
        The step, as a pure function of packed vectors.
    packings : pair of Packing
        Those of the parameters and of the optimizer's state.
    device : Device
    """

    key = None
    packed = True
    scan_pays = False
    most_rows = 1 << 22  # of the epochs that are made at once: their orders take 8 bytes a row

    def __init__(self, function: Compiled, packings: Any, device: Device) -> None:
        self.function, self.packings, self.device = function, packings, device
        self.executable = self  # it is compiled: epochs may be made several at once
        self.seconds = 0.0  # per step, as measured; 0: unknown
        self._vectors: Any = None  # of parameters and state, and the sums: what graphs work in
        self._current: Any = (None, None)  # the packed pytrees whose values the vectors have
        self._steps: OrderedDict[Any, _Steps] = OrderedDict()

    def scan(self, start: EpochState, epochs: Epochs, planned: int, likely: int) -> "GraphExecutor":
        """Return what runs epochs."""
        return self

    def refusal(self, start: EpochState, epochs: Epochs) -> str | None:
        """Return why there are no graphs of these epochs; None where there are."""
        try:
            self.prepare(start, epochs)
        except EagerError as error:
            return str(error)
        return None

    def prepare(self, start: EpochState, epochs: Epochs) -> "_Steps":
        """Return the graphs of epochs, made at the first call; EagerError where there are none."""
        self._load(start)
        flags = epochs.orders is None, epochs.keys[0] is None, epochs.scale is None
        kind = epochs.size, epochs.rows, *flags, *map(id, epochs.dataset.arrays)
        if kind not in self._steps:
            while len(self._steps) >= KEPT:
                self._steps.popitem(last=False)[1].close()
            self._steps[kind] = _Steps(self.function, self.device, self._vectors, epochs)
        self._steps.move_to_end(kind)
        return self._steps[kind]

    def run(
        self, start: EpochState, epochs: Epochs, after: Callable[[int], Any]
    ) -> tuple[EpochState, bool]:
        """Make steps until the end; return whether `after` ended it before. See `EpochExecutor`."""
        graphs = self.prepare(start, epochs)
        graphs.refresh()
        self._current = None, None
        sums, steps = self._vectors[2], epochs.steps
        before, made, stopped = list(start.before), start.made(epochs), False
        last, epoch, ended = steps * len(epochs.keys), 0, None
        graphs.begin(epochs, *divmod(made, steps))
        try:
            while made < last and not stopped:
                epoch, s = divmod(made, steps)
                if epoch > len(before):
                    ended = sums.copy()
                    graphs.begin(epochs, epoch, 0)
                    sums[...] = 0.0
                    before.append(ended)
                count = graphs.replay(s)
                made, ended = made + count, None
                stopped = bool(after(count))
        except KeyboardInterrupt as error:  # raised by a signal handler other than Python's
            reached = graphs.reached
            if ended is not None and (epoch > len(before) or reached == 0):  # no step of this epoch
                del before[epoch - 1 :]
                sums[...], reached = ended, steps
            made = len(before) * steps + reached
            error.ahead = self._state(made, steps, before)  # type: ignore[attr-defined]
            raise
        self.device.wait()  # the losses are read next: now the time of a step is known
        return self._state(made, steps, before), stopped

    def _state(self, made: int, steps: int, before: list[Any]) -> EpochState:
        """Return the state after so many steps, through all epochs: copies."""
        copies = [{k: v.copy() for k, v in vectors.items()} for vectors in self._vectors[:2]]
        params, state = self._current = tuple(map(PackedTree, self.packings, copies))
        done = made - len(before) * steps
        return EpochState(params, state, self._vectors[2].copy(), done, tuple(before))

    def _load(self, start: EpochState) -> None:
        """Write parameters, state and sums into the vectors."""
        params, state = start[:2]
        sums: Any = start.sums
        if self._vectors is None:
            packed = self.packings[0].pack(params), self.packings[1].pack(state)
            self._vectors = *packed, sums.copy()
        else:
            if params is not self._current[0] or state is not self._current[1]:
                self.packings[0].fill(self._vectors[0], params)
                self.packings[1].fill(self._vectors[1], state)
            self._vectors[2][...] = sums
        self._current = params, state

    def explain(self, start: EpochState, epochs: Epochs) -> str:
        """Return how the steps of epochs are made, as text."""
        from ..compiler.cuda.explain import explain

        graphs, lines = self.prepare(start, epochs), []
        for (first, count), step in zip(epochs.kinds_of_steps, graphs.kinds, strict=True):
            lines += [epochs.described(first, count) + "a CUDA graph", explain(step.plan)]
        return "\n".join(lines)

    @property
    def nbytes(self) -> int:
        """The size of the buffers."""
        return sum(steps.nbytes for steps in self._steps.values())

    def warn_if_eager(self) -> None:
        """Do nothing: steps are compiled."""

    def close(self) -> None:
        """Release the graphs and their buffers."""
        for steps in self._steps.values():
            steps.close()
        self._steps.clear()
        self._vectors = None
        self.device.close()


class _Steps:
    """The graphs of one dataset: of a full batch, and of the shorter one at an epoch's end."""

    def __init__(self, function: Compiled, device: Device, vectors: Any, epochs: Epochs) -> None:
        xp, where = epochs.dataset.backend.xp, epochs.dataset.backend.device
        self.arrays = [a if a is None else _contiguous(a) for a in epochs.dataset.arrays]
        self.given = epochs.dataset.arrays  # kept: they are known by their ids
        self.counter = xp.zeros((1,), dtype=xp.int64, device=where)
        self.order = self.key = self.scale = None
        if epochs.orders is not None:
            self.order = xp.zeros((epochs.rows,), dtype=xp.int64, device=where)
        if epochs.keys[0] is not None:
            salt = xp.zeros((1, 1), dtype=xp.int32, device=where)
            self.first, begins = 0, np.arange(0, epochs.rows, epochs.size, dtype=np.int32)
            self.key = Key(salt, epochs.dataset.backend.asarray(begins.reshape(-1, 1, 1)))
        if epochs.scale is not None:
            self.scale = xp.zeros((), dtype=epochs.scale.dtype, device=where)
        self.full = epochs.rows // epochs.size  # steps of a full batch
        self.steps: list[DeviceStep] = []
        for first, _ in epochs.kinds_of_steps:
            rows = min(epochs.size, epochs.rows - first * epochs.size)
            self.steps.append(self._step(function, device, vectors, epochs, rows))
        self.kinds = tuple(self.steps)
        if self.full == 0:
            self.steps.insert(0, self.steps[0])  # there is only a shorter one

    def _step(
        self, function: Compiled, device: Device, vectors: Any, epochs: Epochs, rows: int
    ) -> DeviceStep:
        """Return the graph of a step on so many rows."""
        params, state, sums = vectors
        moves = self.order is None and epochs.size < epochs.rows  # batches are slices
        flat: list[Any] = [*params.values(), *state.values(), sums]
        donated = len(flat)
        kinds = [(tuple(a.shape), a.dtype) for a in flat]
        moving: dict[int, int] = {}

        def add(array: Any, shape: tuple[int, ...], step: int = 0) -> bool:
            """Add an argument; tell that there is one."""
            if array is None:
                return False
            if step:
                moving[len(flat)] = step
            flat.append(array)
            kinds.append((shape, array.dtype))
            return True

        def of_rows(array: Any) -> tuple[tuple[int, ...], int]:
            shape = (rows, *array.shape[1:]) if moves else tuple(array.shape)
            return shape, epochs.size * array.nbytes // array.shape[0] if moves else 0

        there = [a is not None and add(a, *of_rows(a)) for a in self.arrays]
        order = self.order
        width = 0 if order is None else epochs.size * order.dtype.itemsize
        indexed = add(order, (rows,), width)
        if self.key is not None:
            add(self.key.salt, (1, 1))
            add(self.key.first, (1, 1), self.key.first.dtype.itemsize)
        keyed, scaled = self.key is not None, add(self.scale, ())

        def rebuild(given: list[Any]) -> Any:
            left = iter(given)
            packed = [{k: next(left) for k in vector} for vector in (params, state)]
            sums = next(left)
            batch = tuple([next(left) if t else None for t in there])
            index = next(left) if indexed else None
            key = Key(next(left), next(left)) if keyed else None
            return [*packed, sums, batch, index, key, next(left) if scaled else None], {}

        form = tuple(kinds), tuple(there), indexed, keyed, scaled, tuple(moving.items())
        plan = _plan(function, form, kinds, rebuild, donated, moving)
        step = DeviceStep(plan, device, flat, self.counter)
        step.capture()
        return step

    def refresh(self) -> None:
        """Copy the arrays again that do not lie row by row: their values may have changed."""
        for copy, given in zip(self.arrays, self.given, strict=True):
            if copy is not None and copy is not given:
                copy[...] = given

    def begin(self, epochs: Epochs, epoch: int, step: int) -> None:
        """Set what changes with an epoch, of which `step` is the next step."""
        self.counter[...] = step
        if self.order is not None and epochs.orders is not None:
            self.order[...] = epochs.orders[epoch]
        key = epochs.keys[epoch]
        if self.key is not None and key is not None:
            self.key.salt[...] = key.salt
            if self.first != epochs.first:
                begins = epochs.first_rows(np.arange(epochs.steps)).astype(np.int32)
                self.key.first[...] = epochs.dataset.backend.asarray(begins.reshape(-1, 1, 1))
                self.first = epochs.first
        if self.scale is not None:
            self.scale[...] = epochs.scale

    def replay(self, step: int) -> int:
        """Make the next steps of an epoch, from number `step` on; return how many."""
        if step >= self.full:
            self.steps[-1].replay()
            return 1
        count, replay = min(PIECE, self.full - step), self.steps[0].replay
        for _ in range(count):
            replay()
        return count

    def close(self) -> None:
        """Release graphs and buffers."""
        for step in self.kinds:
            step.close()

    @property
    def reached(self) -> int:
        """The number of the next step, as the device has counted; waits for it."""
        return int(self.counter[0])

    @property
    def nbytes(self) -> int:
        """The size of the buffers."""
        return sum(step.plan.nbytes for step in self.steps)


def _contiguous(array: Any) -> Any:
    return array if array.flags.c_contiguous else array.copy(order="C")


def _plan(
    function: Compiled,
    form: Any,
    kinds: Any,
    rebuild: Any,
    donated: int,
    moving: dict[int, int],
) -> DevicePlan:
    """Return the plan of a step for arguments of these kinds: kept with the function."""

    def make() -> DevicePlan:
        program = traced(function.fn, kinds, rebuild, function.pure)
        before = len(program.nodes)
        return device_plan(simplify(program), before, list(range(donated)), moving)

    plan: DevicePlan = function.device_plan(form, make)
    return plan


def graph_executor(
    make: Callable[..., Step],
    parts: tuple[object, ...],
    averaged: bool,
    find_device: Callable[[], Device],
    start: EpochState,
    epochs: Epochs,
) -> GraphExecutor:
    """Return how the step that `make` makes from `parts` runs as graphs; see `EpochExecutor`.

    Raises EagerError, with the reason, where it cannot.
    """
    params, state = unpacked(start.params), unpacked(start.state)
    if not tree.leaves(params):
        raise EagerError("")
    try:
        packings = Packing.of(params, type(start.sums)), Packing.of(state, type(start.sums))
    except TypeError as error:
        raise EagerError(str(error)) from None
    function = compile_cached(
        MakeStepAndSum(make, averaged), *parts, form=packings, donate=(0, 1, 2)
    )
    executor = GraphExecutor(function, packings, find_device())
    executor.prepare(start, epochs)
    return executor
