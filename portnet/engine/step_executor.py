"""StepExecutor: how the steps of a fit are made, compiled where the backend allows it.

A step takes its rows, trains on them and adds its loss to the epoch's sum, all in one pure
function, so that one plan covers it. Where plans are replayed (NumPy), parameters and optimizer
state are packed into one vector for each dtype, with the layers' arrays as views: an optimizer's
arithmetic is then one operation for all parameters.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import tree
from .._typing import Array, Host, Params, State
from ..backend import namespace
from ..compiler import CompileWarning
from ..data.dataset import Batch
from ..rng import Key
from .compile_cache import compile_cached
from .packing import UNPACKED, PackedTree, Packing, unpacked

__all__ = ["Step", "StepExecutor", "step_executor", "take"]

# The arrays of a batch, the rows to take of them (None: all), the key: see `Epoch.inputs`.
Inputs = tuple[Batch, Array | None, Key | None]
Packed = tuple[Any, Any, Any]  # params, state, sums in the form that a step takes
Step = Callable[..., tuple[Params, State, Array]]


class StepExecutor:
    """How the steps of a fit are made, and the vectors that compiled steps work in.

    The vectors stay the same from epoch to epoch, as a plan is bound to them; results are copies.
    """

    def __init__(
        self,
        function: Callable[..., Packed],
        packings: Any = UNPACKED,
        reason: str = "",
        key: Key | None = None,
    ) -> None:
        self.function, self.packings, self.reason, self.key = function, packings, reason, key
        self.packed = isinstance(packings[0], Packing)
        self._vectors: Packed | None = None
        self._current: Any = (None, None)  # the packed pytrees whose values the vectors have
        self._bound: dict[object, Any] = {}  # by what may differ between batches

    def __call__(self, packed: Packed, inputs: Inputs, scale: Array | None) -> Packed:
        """Make the step of a batch; return params, state, sums in the form that it takes."""
        if not self.packed:
            return self.function(*packed, *inputs, scale)
        arrays, index, key = inputs
        rows = arrays[1] if index is None else index
        kind = rows.shape[0], index is None, scale is None
        if kind not in self._bound:
            self._bound[kind] = self.function.bind(*packed, *inputs, scale)  # type: ignore[attr-defined]
        bound = self._bound[kind]
        if bound is None:
            return self.function(*packed, *inputs, scale)
        params, state, sums = packed
        flat = [*params.values(), *state.values(), sums, *arrays, index, *(key or ()), scale]
        bound([a for a in flat if a is not None])
        return packed

    def close(self) -> None:
        """Return the buffers of bound steps."""
        for bound in self._bound.values():
            if bound is not None:
                bound.close()
        self._bound.clear()

    def pack(self, params: Params, state: State, sums: Array) -> Packed:
        """Return parameters, state and sums in the form that `function` takes."""
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
        """Warn once, after the first step that ran, if the step cannot be compiled."""
        if self.reason:
            message, self.reason = f"training runs eagerly: {self.reason}", ""
            warnings.warn(message, CompileWarning, stacklevel=3)


def step_executor(
    make: Callable[..., Step],
    parts: tuple[object, ...],
    averaged: bool,
    compiler: str,
    start: tuple[Params, State, Array],
    inputs: Callable[[Key | None], tuple[Any, ...]],
) -> StepExecutor:
    """Return how the step that `make` makes from `parts` is executed; see `EpochExecutor`.

    `compiler` is that of `compile_cache.compiler_for`, "" for none; `inputs` returns a first batch
    and the scale. A step that cannot be compiled runs eagerly, with a warning that says why.
    """
    eager = functools.partial(_step_and_sum, make(*parts), averaged, UNPACKED)
    if not compiler:
        return StepExecutor(eager)
    packings: Any = UNPACKED
    if compiler == "replay":
        params, state = unpacked(start[0]), unpacked(start[1])
        if not tree.leaves(params):
            return StepExecutor(eager)
        try:
            packings = Packing.of(params), Packing.of(state)
        except TypeError as error:
            return StepExecutor(eager, reason=str(error))
    made = _MakeStepAndSum(make, averaged)
    function = compile_cached(made, *parts, form=packings, donate=(0, 1, 2))
    step = StepExecutor(function, packings, key=Key(_number(), _number()))
    reason = function.refusal(*step.pack(*start), *inputs(step.key))
    return StepExecutor(eager, reason=reason) if reason else step


@dataclass(frozen=True)
class _MakeStepAndSum:
    """Makes the function that is compiled, from the parts and the packings."""

    make: Callable[..., Step]
    averaged: bool

    def __call__(self, *given: Any) -> Callable[..., Packed]:
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


def take(arrays: Any, index: Array | None) -> Any:
    """Return these rows of every array; None: all."""
    if index is None:
        return arrays
    return tuple(a if a is None else namespace(index).take(a, index, axis=0) for a in arrays)
