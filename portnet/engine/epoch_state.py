"""What an epoch goes over, and how far it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array, Host, Params, State
from ..backend import namespace
from ..data.dataset import Batch, Dataset
from ..rng import Key

__all__ = ["EpochState", "Epochs", "Inputs", "take"]

# The arrays of a batch, the rows to take of them (None: all), the key: see `Epochs.inputs`.
Inputs = tuple[Batch, Array | None, Key | None]


class EpochState(NamedTuple):
    """Parameters, optimizer state (pytrees, or packed), sums, and the number of steps so far.

    The sums (2,) are that of the losses, and the number of steps after which it was finite: once it
    is not, it stays so, and the next step was the first bad one. They stay on the device until they
    are read. Sums and steps are those of the epoch that is under way; `before` has the sums of
    those that were finished before it.
    """

    params: Params
    state: State
    sums: Array
    done: int = 0
    before: tuple[Array, ...] = ()

    def made(self, epochs: "Epochs") -> int:
        """Return the number of steps made through all epochs."""
        return len(self.before) * epochs.steps + self.done


@dataclass(frozen=True)
class Epochs:
    """Passes over a dataset, in batches of `size` rows: one for each key.

    `keys` are the epochs' random keys, or None; each step has its own `first`. `orders` has the
    order of the rows in each epoch; None: that of the dataset. `scale`, 0-d, multiplies the
    updates. `first` is how many rows of the epoch come before these, if they are only a part of it.

    Several networks may be trained at once: `networks` is how many take rows of their own, one
    after the other in each batch, so that `size` counts the rows of all. The salts of the keys are
    then arrays, and so is `scale`.
    """

    dataset: Dataset
    size: int
    keys: Sequence[Key | None] = (None,)
    orders: Sequence[Any] | None = None
    scale: Array | None = None
    first: int = 0
    networks: int = 1

    @cached_property
    def rows(self) -> int:
        """The number of rows of an epoch."""
        return len(self.dataset) if self.orders is None else int(self.orders[0].shape[0])

    @cached_property
    def steps(self) -> int:
        """The number of steps of an epoch."""
        return -(-self.rows // self.size)

    @property
    def kinds_of_steps(self) -> list[tuple[int, int]]:
        """The first step with a full batch, and with a shorter one; how many there are of each."""
        full, rest = divmod(self.rows, self.size)
        return [(s, n) for s, n in ((0, full), (full, int(rest > 0))) if n]

    def described(self, first: int, count: int) -> str:
        """Return the beginning of a line about a kind of step: how many there are, of which rows.

        `first` is the number of the first one, see `kinds_of_steps`.
        """
        rows = min(self.size, self.rows - first * self.size)
        return f"{count} step{'s' * (count > 1)} of an epoch, on {rows} rows: "

    def on_device(self) -> "Epochs":
        """Return the epochs with their orders where a step takes from them."""
        data, orders = self.dataset, self.orders
        ordered = orders is None and data.order is not None
        if ordered:
            orders = [data.order] * len(self.keys)
        if data.backend.compiler == "jit":  # it would compile each slice by itself
            if orders is None and self.size < self.rows:
                orders = [np.arange(self.rows)] * len(self.keys)
        elif orders is not None and not data.backend.is_host and not data.is_csr:
            rows = data.X.shape[0]
            orders = (
                [data.index] * len(self.keys)
                if ordered
                else [data.backend.row_numbers(order, rows) for order in orders]
            )
        return self if orders is self.orders else replace(self, orders=orders)

    def first_rows(self, steps: Any) -> Any:
        """Return the numbers that the keys of steps have: of their first rows, as int32."""
        return (steps * self.size + self.first + 2**31) % 2**32 - 2**31

    def inputs(self, epoch: int, step: int, key: Key | None) -> Inputs:
        """Return arrays, the rows to take of them (None: all), and the key of a step.

        `key` has NumPy arrays (1, 1) for the numbers of the key, so that these may change under one
        plan; they are overwritten by the next step. None: the numbers are Python's.
        """
        data, index, rows = self.dataset, None, self.rows
        begin = step * self.size
        part = slice(begin, min(begin + self.size, rows))
        arrays: Any = data.arrays
        if self.orders is not None:
            index = self.orders[epoch][part]
            on_host = data.backend.compiler == "jit" or data.is_csr
            index = data.backend.asarray(index) if on_host else index
        elif part.stop - part.start < rows:
            first = data.X if data.is_csr else data.X[part, ...]
            arrays = first, *(a if a is None else a[part, ...] for a in arrays[1:])
        if data.is_csr:
            arrays, index = (self._csr_rows(epoch, part), *take(arrays[1:], index)), None
        given = self.keys[epoch]
        if self.first:
            begin = self.first_rows(step)
        begin //= self.networks
        if given is None or key is None:
            return arrays, index, given and given._replace(first=begin)
        key.salt[...], key.first[...] = given.salt, begin
        if not data.backend.is_host:
            key = Key(*[data.backend.asarray(number.copy()) for number in key])
        return arrays, index, key

    def _csr_rows(self, epoch: int, part: slice) -> Any:
        order: Host | None = None if self.orders is None else self.orders[epoch]
        return replace(self.dataset, order=order).dense_or_sparse(part)


def take(arrays: Any, index: Array | None) -> Any:
    """Return these rows of every array; None: all."""
    if index is None:
        return arrays
    return tuple(a if a is None else namespace(index).take(a, index, axis=0) for a in arrays)
