"""EagerExecutor: how the steps of a fit are made operation by operation, where none is compiled.

On devices each operation is launched by itself, which takes longer than its arithmetic on small
arrays. So parameters and moments are kept in vectors where the backend's slices are views and the
optimizer acts element by element, and the host adds up the losses: see `packing.VectorPacking` and
`loss_sums`.
"""

import warnings
from collections.abc import Callable
from typing import Any

from .._typing import Array, Params, State
from ..compiler import CompileWarning
from .epoch_state import Epochs, EpochState, Inputs, take
from .loss_sums import LossSums
from .packing import PackedTree, VectorModel, unpacked, vector_packing

__all__ = ["EagerExecutor", "Step"]

Step = Callable[..., tuple[Params, State, Array]]


class EagerExecutor:
    """How eager steps are made; `EpochExecutor` uses it as a `StepExecutor`.

    Parameters
    ----------
    make, parts, averaged, vectors
        As in `EpochExecutor`; the first part is the model.
    start : EpochState
    epochs : Epochs
    reason : str
        Why steps are not compiled, for a warning after the first one; "" for none.
    """

    key = executable = None
    packed = scan_pays = False
    nbytes = 0
    seconds = 0.0

    def __init__(
        self,
        make: Callable[..., Step],
        parts: tuple[Any, ...],
        averaged: bool,
        vectors: str,
        start: EpochState,
        epochs: Epochs,
        reason: str = "",
    ) -> None:
        self.averaged, self.reason, self.packing = averaged, reason, None
        if vectors and epochs.dataset.backend.eager_vectors:
            self.packing = vector_packing(unpacked(start.params), vectors == "by name")
        if self.packing is not None:
            parts = VectorModel(parts[0], self.packing), *parts[1:]
        self.step = make(*parts)

    def __call__(self, packed: Any, inputs: Inputs, scale: Array | None) -> Any:
        """Make the step of a batch; return params, state, sums after it."""
        params, state, sums = packed
        arrays, index, key = inputs
        batch = take(arrays, index)
        given = {k: v for k, v in (("key", key), ("scale", scale)) if v is not None}
        params, state, value = self.step(params, state, *batch, **given)
        return params, state, sums.plus(value, batch[1].shape[0] if self.averaged else 1)

    def refusal(self, start: EpochState, epochs: Epochs) -> str | None:
        """Return None: these steps can be made of any epochs."""
        return None

    def scan(self, start: EpochState, epochs: Epochs, planned: int, likely: int) -> None:
        """Return None: steps are made one by one."""

    def explain(self, start: EpochState, epochs: Epochs) -> str:
        """Return how the steps of epochs are made, as text."""
        why = f": {self.reason}" if self.reason else ""
        return f"each step runs eagerly, operation by operation{why}"

    def pack(self, start: EpochState) -> Any:
        """Return parameters, state and sums in the form that a step takes."""
        params, state, sums = start[:3]
        if self.packing is None:
            return unpacked(params), unpacked(state), LossSums.after(sums)
        return self.packing.pack(params), self.packing.pack(state), LossSums.after(sums)

    def steps_begin(self) -> None:
        """Do nothing: steps write into no array."""

    def restart_sums(self, packed: Any) -> Any:
        """Return params, state, sums with sums of 0, and the sums before."""
        params, state, sums = packed
        return (params, state, sums.restarted()), sums

    def result(self, packed: Any) -> tuple[Params, State, LossSums]:
        """Return parameters, state and sums."""
        params, state, sums = packed
        if self.packing is None:
            return params, state, sums
        return PackedTree(self.packing, params), PackedTree(self.packing, state), sums

    def warn_if_eager(self) -> None:
        """Warn once, after the first step that ran, if the step cannot be compiled."""
        if self.reason:
            message, self.reason = f"training runs eagerly: {self.reason}", ""
            warnings.warn(message, CompileWarning, stacklevel=3)

    def close(self) -> None:
        """Do nothing: there are no buffers."""
