"""Sums of losses: the losses of eager steps, which the host adds up once it reads them.

To add them up on the device, and to count the finite sums, would take seven operations on single
numbers in each step.
"""

from typing import Any, NamedTuple

import numpy as np

from .._typing import Array, Host
from ..backend import namespace, read_vectors

__all__ = ["LossSums", "read_sums"]

PIECE = 1024  # losses after which they are joined to a vector, which takes less memory


class LossSums(NamedTuple):
    """The losses of steps, each with its factor, and the sums (2,) before them.

    The sums are as in `EpochState`. `pieces` are vectors of losses, and their factors; `losses` has
    those since, with their factors, as far as `made`: what comes after was interrupted.
    """

    before: Any
    pieces: tuple[tuple[Array, Host], ...]
    losses: list[tuple[Array, int]]
    made: int

    @classmethod
    def after(cls, before: Any) -> "LossSums":
        """Return sums to which nothing is added yet; `before` may be such sums."""
        return before if isinstance(before, LossSums) else cls(before, (), [], 0)

    def restarted(self) -> "LossSums":
        """Return sums of 0, of as many networks."""
        return LossSums.after(np.zeros(np.shape(self.before)))

    def plus(self, loss: Array, factor: int) -> "LossSums":
        """Return the sums after a step with this loss, 0-d, which counts `factor` times.

        Of several networks the loss is (networks,).
        """
        del self.losses[self.made :]
        self.losses.append((loss, factor))
        if self.made + 1 < PIECE:
            return self._replace(made=self.made + 1)
        return LossSums(self.before, (*self.pieces, _joined(self.losses)), [], 0)

    @property
    def vectors(self) -> list[tuple[Array, Host]]:
        """All losses, as vectors, with their factors."""
        left = self.losses[: self.made]
        return [*self.pieces, _joined(left)] if left else list(self.pieces)


def _joined(losses: list[tuple[Array, int]]) -> tuple[Array, Host]:
    arrays = [loss for loss, _ in losses]
    return namespace(*arrays).stack(arrays), np.asarray([factor for _, factor in losses])


def read_sums(sums: list[Any], flags: list[Array]) -> tuple[list[Host], list[bool]]:
    """Return sums as NumPy arrays (2,) and 0-d arrays of bool as bools, in one transfer.

    Sums are arrays (2,), or `LossSums`; those of several networks are (2, networks).
    """
    shapes = [np.shape(s.before if isinstance(s, LossSums) else s)[1:] for s in sums]
    vectors = [s.vectors if isinstance(s, LossSums) else [] for s in sums]
    parts: list[Array] = [*flags]
    for s, pieces in zip(sums, vectors, strict=True):
        parts += [a for a, _ in pieces]
        parts.append(s.before if isinstance(s, LossSums) else s)
    host = iter(read_vectors(parts))
    found = [bool(next(host)[0]) for _ in flags]
    totals = []
    for pieces, shape in zip(vectors, shapes, strict=True):
        losses = [_times(factors, next(host), a) for a, factors in pieces]
        if not losses:
            totals.append(next(host).reshape(2, *shape))
            continue
        total, finite = next(host).reshape(2, 1, *shape)
        running = np.cumsum(np.concatenate([total, *losses]), axis=0)  # one after the other
        totals.append(np.asarray([running[-1], finite[0] + np.isfinite(running[1:]).sum(axis=0)]))
    return totals, found


def _times(factors: Host, losses: Host, given: Array) -> Host:
    """Return products in the dtype of the losses, as in compiled steps, which sum in float64."""
    dtype = np.dtype(str(given.dtype).rpartition(".")[2])
    losses = losses.reshape(given.shape)
    factors = factors.reshape(-1, *(1,) * (losses.ndim - 1))
    products: Host = losses.astype(dtype) * factors.astype(dtype)
    return products.astype(np.float64)
