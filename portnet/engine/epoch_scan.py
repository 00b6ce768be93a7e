"""Epochs as one compiled function: machine code that takes rows, makes steps and adds up losses.

The bits are those of the steps made one by one; between two epochs nothing is looked at.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._typing import Host
from ..compiler import Compiled
from .epoch_state import Epochs, EpochState

__all__ = ["MOST", "EpochScan", "epoch_scan"]

PIECE = 0.05  # seconds: after so long a signal is answered, and a progress bar moves
COPIED = 1 << 28  # bytes of data up to which they may be copied to lie row by row
MOST = 1 << 17  # row numbers that are kept at once


class EpochScan:
    """Epochs of one dataset, in batches of one size: buffers of what changes between them.

    Parameters
    ----------
    scan : Scan
        The compiled function.
    step : StepExecutor
        What packs and unpacks.
    orders : array of int (epochs, rows), or None
    salts : array of int (epochs, 1, 1), of several networks (epochs, networks, 1, 1)
    begins : array of int (steps, 1, 1)
    sums : array of float (epochs, 2), of several networks (epochs, 2, networks)
    scale : 0-d array, or None
    """

    def __init__(
        self,
        scan: Any,
        step: Any,
        orders: Host | None,
        salts: Host,
        begins: Host,
        sums: Host,
        scale: Host | None,
    ) -> None:
        self.scan, self.step, self.begins = scan, step, begins
        self.orders, self.salts, self.sums, self.scale = orders, salts, sums, scale
        self._first = 0

    def run(
        self, start: EpochState, epochs: Epochs, after: Callable[[int], Any]
    ) -> tuple[EpochState, bool]:
        """Make steps until the end; return whether `after` ended it before. See `EpochExecutor`."""
        scan, steps = self.scan, epochs.steps
        self.step.pack(start)
        self.step.steps_begin()
        self.sums[: len(epochs.keys)] = 0.0
        for e, sums in enumerate((*start.before, start.sums)):
            self.sums[e] = sums
        for e, key in enumerate(epochs.keys):
            if key is not None:
                self.salts[e] = key.salt
            if self.orders is not None and epochs.orders is not None:
                self.orders[e] = epochs.orders[e]
        if self._first != epochs.first:
            self.begins[:, 0, 0] = epochs.first_rows(np.arange(steps))
            self._first = epochs.first
        if self.scale is not None:
            self.scale[...] = epochs.scale
        last = steps * len(epochs.keys)
        scan.start(start.made(epochs))
        stopped, count = False, 1
        try:
            while scan.reached < last and not stopped:
                count = min(scan.calls_within(PIECE), 8 * count, last - scan.reached)
                scan.run(count)
                stopped = bool(after(count))
        except KeyboardInterrupt as error:  # raised by a signal handler other than Python's
            error.ahead = self._state(scan.reached, steps)  # type: ignore[attr-defined]
            raise
        return self._state(scan.reached, steps), stopped

    def _state(self, made: int, steps: int) -> EpochState:
        """Return the state after so many steps, through all epochs."""
        epoch = max(0, made - 1) // steps
        params, state, _ = self.step.result(self.step.vectors)
        sums = self.sums[: epoch + 1].copy()
        return EpochState(params, state, sums[epoch], made - epoch * steps, tuple(sums[:epoch]))


def epoch_scan(step: Any, function: Compiled, packed: Any, epochs: Epochs) -> EpochScan | None:
    """Return epochs as a compiled function; None where a part of a step needs NumPy's calls.

    The calls read the data where they are: they must lie row by row, or are copied, once, where
    batches are taken from them.
    """
    size, rows = epochs.size, epochs.rows
    arrays: list[Any] = [a for a in epochs.dataset.arrays if a is not None]
    if not all(type(a) is np.ndarray for a in arrays):
        return None
    given = arrays
    if epochs.orders is not None and sum(a.nbytes for a in arrays) <= COPIED:  # rows are taken
        arrays = [np.require(a, requirements=["C", "A"]) for a in arrays]
    if not all(a.flags.c_contiguous and a.flags.aligned for a in arrays):
        return None
    capacity = max(1, MOST // rows)  # epochs for which there are buffers
    orders = None if epochs.orders is None else np.zeros((capacity, rows), np.int64)
    params, state, one = packed
    salts = np.zeros((capacity, *step.key.salt.shape), np.int32)
    begins = np.arange(0, rows, size, dtype=np.int32).reshape(-1, 1, 1)  # where `first` is 0
    begins //= epochs.networks
    sums = np.zeros((capacity, *one.shape))
    scale = None if epochs.scale is None else np.array(epochs.scale)
    moving: list[Any] = [(v, 0, 0) for v in (*params.values(), *state.values())]
    moving.append((sums, 0, sums.strides[0]))
    for a in arrays:
        in_parts = orders is None and size < rows
        moving.append((a, size * a.strides[0] if in_parts else 0, 0))
    row_numbers = []
    if orders is not None:
        row_numbers.append(len(moving))
        moving.append((orders, size * orders.itemsize, orders.strides[0]))
    if epochs.keys[0] is not None:
        moving += [(salts, 0, salts.strides[0]), (begins, begins.strides[0], 0)]
    if scale is not None:
        moving.append((scale, 0, 0))
    turns = []
    for s, count in epochs.kinds_of_steps:
        inputs = epochs.inputs(0, s, step.key)
        turns.append(((*packed, *inputs, epochs.scale), count))
    scan = function.scan(turns, moving, row_numbers)
    if scan is None:
        return None
    scan.kept += given  # it is known by them
    return EpochScan(scan, step, orders, salts, begins, sums, scale)
