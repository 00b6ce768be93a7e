"""StepExecutor: how the compiled steps of a fit are made.

A step takes its rows, trains on them and adds its loss to the epoch's sum, all in one pure
function, so that one plan covers it. Where plans are replayed (NumPy), parameters and optimizer
state are packed into one vector for each dtype, with the layers' arrays as views: an optimizer's
arithmetic is then one operation for all parameters.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from .. import tree
from .._typing import Array, Host, Params, State
from ..backend import namespace
from ..data.dataset import Batch
from ..rng import Key
from .compile_cache import compile_cached
from .eager_executor import EagerExecutor, Step
from .epoch_scan import MOST, EpochScan, epoch_scan
from .epoch_state import Epochs, EpochState, Inputs, take
from .packing import UNPACKED, PackedTree, Packing, unpacked

__all__ = ["MakeStepAndSum", "StepExecutor", "step_executor"]

Packed = tuple[Any, Any, Any]  # params, state, sums in the form that a step takes


class StepExecutor:
    """How compiled steps are made, and the vectors that they work in.

    The vectors stay the same from epoch to epoch, as a plan is bound to them; results are copies.
    """

    most_rows = MOST  # of the epochs that are made at once

    def __init__(
        self,
        function: Callable[..., Packed],
        packings: Any = UNPACKED,
        key: Key | None = None,
    ) -> None:
        self.function: Any = function
        self.packings, self.key = packings, key
        self.executable: Any = None  # of the first batch
        self.packed = isinstance(packings[0], Packing)
        self.seconds = 0.0  # per step, as measured; 0: unknown
        self.scan_pays = False  # whether it is time to make a scan
        self._asked = False  # whether a scan would pay
        self._vectors: Packed | None = None  # params, state, sums
        self._current: Any = (None, None)  # the packed pytrees whose values the vectors have
        self._bound: dict[Any, Any] = {}  # by what may differ between batches
        self._scans: dict[Any, EpochScan | None] = {}  # by what may differ between epochs

    def __call__(self, packed: Packed, inputs: Inputs, scale: Array | None) -> Packed:
        """Make the step of a batch; return params, state, sums in the form that it takes."""
        if not self.packed:
            made: Packed = self.function(*packed, *inputs, scale)
            return made
        arrays, index, key = inputs
        rows = arrays[1] if index is None else index
        given = [*arrays, index, *(key or ()), scale]
        kind = rows.shape[0], *[a is None for a in given]  # partial_fit may have weights, or none
        params, state, sums = packed
        flat = [*params.values(), *state.values(), sums, *[a for a in given if a is not None]]
        if kind not in self._bound:
            executable = self.function.executable(*packed, *inputs, scale)
            self._bound[kind] = executable and executable.bind(flat)
        bound = self._bound[kind]
        if bound is None:
            packed = self.function(*packed, *inputs, scale)
            return packed
        self.scan_pays = bound(flat)
        return packed

    def refusal(self, start: EpochState, epochs: Epochs) -> str | None:
        """Return None: these steps can be made of any epochs."""
        return None

    def scan(
        self, start: EpochState, epochs: Epochs, planned: int, likely: int
    ) -> EpochScan | None:
        """Return the epochs as machine code, if that pays and can be made; else None."""
        if self.executable is None:
            return None
        if not planned:  # a few steps, as in partial_fit: the calls themselves become machine code
            if self.scan_pays:
                self._compile_calls()
            return None
        flags = epochs.orders is None, epochs.keys[0] is None, epochs.scale is None
        kind = epochs.size, epochs.rows, *flags, *map(id, epochs.dataset.arrays)
        if kind not in self._scans:
            if self._asked and not self.scan_pays and not any(self._scans.values()):
                return None
            self._asked, self.scan_pays = True, False
            if not self._scan_pays(start, epochs, planned, max(planned, likely)):
                return None
            self._scans[kind] = epoch_scan(self, self.function, self.pack(start), epochs)
            if self._scans[kind] is None:
                self._compile_calls()
        return self._scans[kind]

    def _compile_calls(self) -> None:
        self.scan_pays = False
        for bound in self._bound.values():
            if bound is not None:
                bound.compile()

    def _scan_pays(self, start: EpochState, epochs: Epochs, planned: int, likely: int) -> bool:
        if self.executable.calls_left == inf:
            return False
        arrays = [a for a in epochs.dataset.arrays if a is not None]
        position = sum(len(packing.kinds) for packing in self.packings) + 1 + len(arrays)
        numbers = [] if epochs.orders is None else [position]
        packed = self.pack(start)
        batches = [
            (*packed, *epochs.inputs(0, s, self.key), epochs.scale)
            for s, _ in epochs.kinds_of_steps
        ]
        pays: bool = self.function.scan_pays(batches, planned, likely, numbers)
        return pays

    def explain(self, start: EpochState, epochs: Epochs) -> str:
        """Return how the steps of epochs are made, as text."""
        if not self.packed:
            return "each kind of step is compiled by jax.jit"
        packed, lines = self.pack(start), []
        for first, count in epochs.kinds_of_steps:
            step = self.function.executable(
                *packed, *epochs.inputs(0, first, self.key), epochs.scale
            )
            head = epochs.described(first, count)
            lines.append(head + ("eager" if step is None else "replayed\n" + step.explain()))
        return "\n".join(lines)

    def restart_sums(self, packed: Any) -> Any:
        """Return params, state, sums with sums of 0, and a copy of the sums before."""
        params, state, sums = packed
        if not self.packed:
            return (params, state, 0.0 * sums), sums
        before = sums.copy()
        sums[...] = 0.0
        return packed, before

    @property
    def nbytes(self) -> int:
        """The size of the buffers of bound steps."""
        return sum(bound.executable.nbytes for bound in self._bound.values() if bound is not None)

    def close(self) -> None:
        """Return the buffers of bound steps."""
        for bound in self._bound.values():
            if bound is not None:
                bound.close()
        self._bound.clear()
        self._scans.clear()

    def pack(self, start: EpochState) -> Packed:
        """Return parameters, state and sums in the form that `function` takes."""
        params, state, sums = start[:3]
        if not self.packed:
            return unpacked(params), unpacked(state), sums
        if self._vectors is None:
            packed = self.packings[0].pack(params), self.packings[1].pack(state)
            self._vectors = *packed, np.array(sums)
        else:
            if params is not self._current[0] or state is not self._current[1]:
                self.packings[0].fill(self._vectors[0], params)
                self.packings[1].fill(self._vectors[1], state)
            self._vectors[2][...] = sums
        self._current = params, state
        return self._vectors

    def steps_begin(self) -> None:
        """Say that the vectors no longer have the values that were packed last."""
        self._current = None, None

    @property
    def vectors(self) -> Packed:
        """Parameters, state and sums, packed: what compiled steps work in."""
        assert self._vectors is not None  # `pack` comes first
        return self._vectors

    def result(self, packed: Packed) -> tuple[Params, State, Array]:
        """Return parameters, state and sums; of packed vectors, copies."""
        if not self.packed:
            return packed
        *trees, sums = self._vectors = packed
        copies = [{k: v.copy() for k, v in vectors.items()} for vectors in trees]
        params, state = self._current = tuple(map(PackedTree, self.packings, copies))
        return params, state, sums.copy()

    def warn_if_eager(self) -> None:
        """Do nothing: steps are compiled."""


def step_executor(
    make: Callable[..., Step],
    parts: tuple[object, ...],
    averaged: bool,
    vectors: str,
    compiler: str,
    start: EpochState,
    epochs: Epochs,
    reason: str = "",
) -> StepExecutor | EagerExecutor:
    """Return how the step that `make` makes from `parts` is executed; see `EpochExecutor`.

    `compiler` is that of `compile_cache.compiler_for`, or "" for none, and `reason` says why;
    `vectors` is for eager steps. A step that cannot be compiled runs eagerly, with a warning that
    says why.
    """
    eager = functools.partial(EagerExecutor, make, parts, averaged, vectors, start, epochs)
    if not compiler:
        return eager(reason)
    packings: Any = UNPACKED
    if compiler == "replay":
        params, state = unpacked(start.params), unpacked(start.state)
        if not tree.leaves(params):
            return eager()
        try:
            packings = Packing.of(params), Packing.of(state)
        except TypeError as error:
            return eager(str(error))
    made = MakeStepAndSum(make, averaged)
    function = compile_cached(made, *parts, form=packings, donate=(0, 1, 2))
    salt = _number() if epochs.keys[0] is None else np.zeros_like(epochs.keys[0].salt, np.int32)
    key = Key(salt if np.ndim(salt) else _number(), _number())
    step = StepExecutor(function, packings, key=key)
    args = *step.pack(start), *epochs.inputs(0, start.done, step.key), epochs.scale
    reason = function.refusal(*args)
    if reason:
        return eager(reason)
    if step.packed:
        step.executable = function.executable(*args)
    return step


@dataclass(frozen=True)
class MakeStepAndSum:
    """Makes the function that is compiled, from the parts and the packings."""

    make: Callable[..., Step]
    averaged: bool

    def __call__(self, *given: Any) -> Callable[..., Packed]:
        """Return the function of these parts and packings."""
        *parts, of_params, of_state = given
        step = self.make(*parts)
        return functools.partial(_step_and_sum, step, self.averaged, (of_params, of_state))


def _step_and_sum(
    step: Step,
    averaged: bool,
    packings: Any,
    params: Params,
    state: State,
    sums: Array,
    arrays: Batch,
    index: Array | None,
    key: Key | None,
    scale: Array | None,
) -> Packed:
    """Take the rows, make the step, and add its loss to the sums."""
    batch = take(arrays, index)
    given = {k: v for k, v in (("key", key), ("scale", scale)) if v is not None}
    of_params, of_state = packings
    unpacked = of_params.unpack(params), of_state.unpack(state)
    params, state, value = step(*unpacked, *batch, **given)
    xp = namespace(sums)
    total = sums[0] + value * (batch[1].shape[0] if averaged else 1)
    finite = sums[1] + xp.astype(xp.isfinite(total), sums.dtype)
    return of_params.pack(params), of_state.pack(state), xp.stack([total, finite])


def _number() -> Host:
    return np.zeros((1, 1), np.int32)
