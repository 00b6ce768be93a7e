"""Sums of vectors over shards and ranks.

`TreeSum` adds the vectors of S shards along a fixed binary tree: sum(a, b) = sum(a, m) + sum(m, b)
with m in the middle, and sum(a, a + 1) the vector of shard a. Which additions are made, and so each
bit of the result, does not depend on which rank makes them.

Rank r of R has the shards from S r // R to S (r + 1) // R, which are a few whole subtrees. It sums
those, cuts the sums into R slices and sends slice d to rank d, which adds what it receives along
the rest of the tree; then all ranks gather the slices. If R is a power of two each rank has one
subtree, and these are the bytes of a ring all-reduce, 2 (R - 1) / R of a vector.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .ranks import Transport

__all__ = ["AllReduce", "TreeSum", "subtrees"]

FLAGS = 3  # the last numbers of a vector: they count even where a rank has no shard


def subtrees(begin: int, end: int, low: int, high: int) -> list[tuple[int, int]]:
    """Return the largest subtrees of the tree over [low, high) that lie within [begin, end).

    Each is (its first shard, the one after its last), from left to right.
    """
    if begin >= end or end <= low or high <= begin:
        return []
    if begin <= low and high <= end:
        return [(low, high)]
    middle = (low + high) // 2
    return subtrees(begin, end, low, middle) + subtrees(begin, end, middle, high)


class TreeSum:
    """The sum of the vectors of shards, with the same bits for any number of ranks.

    Parameters
    ----------
    rank, size : int
    shards : int
    length : int
        Of the vectors. The last `FLAGS` numbers are small whole ones.
    dtype : str
    transport : Transport, optional
        None for one rank.
    library : module
        NumPy or CuPy: where the vectors are.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        shards: int,
        length: int,
        dtype: str,
        transport: Transport | None,
        library: Any = np,
    ) -> None:
        self.shards, self.length, self.size, self.rank = shards, length, size, rank
        self.transport, self.library = transport, library
        self.slice = -(-length // size)
        share = [range(shards * k // size, shards * (k + 1) // size) for k in range(size)]
        nodes = [subtrees(s.start, s.stop, 0, shards) for s in share]
        self.own = nodes[rank]
        self.counts = [max(1, len(found)) for found in nodes]  # a rank without shards has flags
        self._places: dict[tuple[int, int], int] = {}  # of subtrees among what is received
        self._flags_only: list[int] = []
        place = 0
        for found, count in zip(nodes, self.counts, strict=True):
            self._places |= {node: place + i for i, node in enumerate(found)}
            self._flags_only += [] if found else [place]
            place += count
        padded = self.slice * size
        self.partials = library.zeros((self.counts[rank], padded), dtype)
        deepest = max((b - a for a, b in self.own), default=1).bit_length()
        self._levels = [library.zeros(length, dtype) for _ in range(deepest - 1)]
        self.total = self.partials[0] if size == 1 else library.zeros(padded, dtype)
        self._received = library.zeros((place, self.slice), dtype)

    @property
    def parts(self) -> int:
        """Into how many parts a batch is cut."""
        return self.shards

    def add_own(self, leaf: Callable[[int], Any]) -> None:
        """Sum the vectors of this rank's shards; `leaf` returns that of a shard (length,).

        It may return the same array each time.
        """
        if not self.own:
            self.partials[0] = 0
        for partial, node in zip(self.partials, self.own, strict=False):
            self._fill(node, partial[: self.length], 0, leaf)

    def _fill(
        self, node: tuple[int, int], out: Any, level: int, leaf: Callable[[int], Any]
    ) -> None:
        low, high = node
        if high - low == 1:
            out[...] = leaf(low)
            return
        middle = (low + high) // 2
        self._fill((low, middle), out, level, leaf)
        if high - middle == 1:
            other = leaf(middle)
        else:
            other = self._levels[level]
            self._fill((middle, high), other, level + 1, leaf)
        self.library.add(out, other, out=out)

    def flag(self, flags: Sequence[float], clear: bool = False) -> None:
        """Write this rank's flags; `clear`: its gradients could not be computed."""
        if clear:
            self.partials[...] = 0
        ends = self.partials[0, self.length - FLAGS : self.length]
        for k, value in enumerate(flags):
            ends[k] = value

    def finish(self) -> Any:
        """Return the sum over all ranks, a vector that the next one overwrites."""
        if self.transport is None:
            return self.total
        size, m = self.size, self.slice
        send = self.partials.reshape(-1, size, m)
        send = self.library.ascontiguousarray(send.transpose(1, 0, 2))
        self.transport.exchange(send, self._received, self.counts)
        summed = self._combine(0, self.shards)
        begin = self.rank * m
        for place in self._flags_only:
            for k in range(max(self.length - FLAGS, begin), min(self.length, begin + m)):
                summed[k - begin] += self._received[place, k - begin]
        self.transport.allgather(summed, self.total)
        return self.total

    def _combine(self, low: int, high: int) -> Any:
        place = self._places.get((low, high))
        if place is not None:
            return self._received[place]
        middle = (low + high) // 2
        left, right = self._combine(low, middle), self._combine(middle, high)
        self.library.add(left, right, out=left)
        return left


class AllReduce:
    """The sum of one vector of each rank, in an order that the library chooses.

    The parameters are those of `TreeSum`, without its shards.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        length: int,
        dtype: str,
        transport: Transport | None,
        library: Any = np,
    ) -> None:
        self.length, self.parts, self.rank, self.transport = length, size, rank, transport
        self.total = library.zeros(length, dtype)

    def add_own(self, leaf: Callable[[int], Any]) -> None:
        """Compute this rank's vector; `leaf` returns it."""
        self.total[...] = leaf(self.rank)

    def flag(self, flags: Sequence[float], clear: bool = False) -> None:
        """Write this rank's flags; `clear`: its gradients could not be computed."""
        if clear:
            self.total[...] = 0
        for k, value in enumerate(flags, self.length - FLAGS):
            self.total[k] = value

    def finish(self) -> Any:
        """Return the sum over all ranks, a vector that the next one overwrites."""
        if self.transport is not None:
            self.transport.allreduce(self.total)
        return self.total
