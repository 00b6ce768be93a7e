"""The order in which the rows of a source are trained on: a pure function of seed and epoch.

Rows are read in blocks, which lie together in the source. An epoch takes the blocks in a new order,
and is cut into windows of as many rows each; the rows of a window are mixed in memory. So each
batch has rows of at least 16 blocks from all over the source, and any step of any epoch can be
found without those before it.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ... import rng
from ..._typing import Host

__all__ = ["FEWEST", "Plan", "Ranges", "plan_of", "ranges_of", "row_order", "rows_of_window"]

BLOCK = 1 << 18  # bytes of a block, where a source has no chunks: a disk reads so many at once well
WINDOW = 1 << 25  # bytes of a window, of which two are in memory
MOST = 1 << 27  # bytes up to which a window grows to hold blocks that are whole chunks
FEWEST = 16  # blocks in a window (CorgiPile, arXiv 2206.05830; measured in ci/results)
BLOCKS, WITHIN = 3, 4  # streams of random numbers, besides those of `portnet.rng`


class Plan(NamedTuple):
    """How many rows an epoch, a block and a window have; a window is a multiple of the batch.

    `shuffle` is "blocks", "full" (the order of a dataset in memory, whose rows are read one by one)
    or "" (the order of the source).
    """

    rows: int
    block: int
    window: int
    shuffle: str

    @property
    def windows(self) -> int:
        """The number of windows of an epoch."""
        return -(-self.rows // self.window)

    def __str__(self) -> str:
        how = f"blocks of {self.block} rows, " if self.shuffle == "blocks" else ""
        return f"{how}windows of {self.window}"


def plan_of(rows: int, row_bytes: int, batch: int, chunk: int, shuffle: str) -> Plan:
    """Return the plan for rows of so many bytes, in batches, from a source with chunks of rows.

    `chunk` is 0 where a source has none. Blocks are whole chunks, unless 16 of these are too large:
    then parts of chunks.
    """
    block = max(1, BLOCK // row_bytes)
    if chunk > block:
        block = -(-chunk // max(1, -(-FEWEST * chunk * row_bytes // MOST)))
    elif chunk:
        block = block // chunk * chunk
    elif block > batch:
        block = block // batch * batch
    wanted, least = max(WINDOW // row_bytes, FEWEST * block), FEWEST * block
    unit = math.lcm(batch, block)
    if unit > wanted:
        unit = batch
    window = wanted // unit * unit
    return Plan(rows, block, window if window >= least else window + unit, shuffle)


def rows_of_window(plan: Plan, seed: int, epoch: int, number: int) -> list[tuple[int, int]]:
    """Return the rows that window `number` of an epoch reads: pairs (start, stop), in turn.

    Blocks beside each other are one pair. A full shuffle reads single rows instead.

    Examples
    --------
    >>> from portnet.data.sources.order import Plan, rows_of_window
    >>> plan = Plan(rows=10, block=2, window=6, shuffle="blocks")
    >>> rows_of_window(plan, seed=0, epoch=1, number=0)
    [(6, 8), (0, 2), (4, 6)]
    >>> rows_of_window(plan, seed=0, epoch=1, number=1)
    [(8, 10), (2, 4)]
    """
    first = number * plan.window
    last = min(first + plan.window, plan.rows)
    if plan.shuffle != "blocks":
        return [(first, last)]
    blocks, ends = _blocks(plan, seed, epoch)
    found: list[tuple[int, int]] = []
    at = int(np.searchsorted(ends, first, side="right"))
    while first < last:
        start = int(blocks[at]) * plan.block
        before = int(ends[at - 1]) if at else 0
        stop = min(int(ends[at]), last)
        piece = start + first - before, start + stop - before
        if found and found[-1][1] == piece[0]:
            found[-1] = found[-1][0], piece[1]
        else:
            found.append(piece)
        first, at = stop, at + 1
    return found


@functools.lru_cache(maxsize=2)  # a thread reads the next epoch while this one is trained
def _blocks(plan: Plan, seed: int, epoch: int) -> tuple[Host, Host]:
    """Return the order of the blocks in an epoch, and how many rows there are up to each's end."""
    count = -(-plan.rows // plan.block)
    blocks = np.random.default_rng((seed, BLOCKS, epoch)).permutation(count)
    sizes = np.minimum(plan.block, plan.rows - blocks * plan.block)
    return blocks, np.cumsum(sizes)


def row_order(plan: Plan, seed: int, epoch: int, number: int) -> Host:
    """Return the order of the rows within a window, by their places there: (rows,).

    In a full shuffle the places are row numbers of the source.
    """
    first = number * plan.window
    rows = min(plan.window, plan.rows - first)
    if plan.shuffle == "full":
        return _full(plan.rows, seed, epoch)[first : first + rows].copy()
    if not plan.shuffle:
        return np.arange(rows)
    return np.random.default_rng((seed, WITHIN, epoch, number)).permutation(rows)


@functools.lru_cache(maxsize=1)
def _full(rows: int, seed: int, epoch: int) -> Host:
    return rng.order(seed, epoch, rows)


class Ranges(NamedTuple):
    """Some rows of a source, as ranges in its order: those of a training or a validation set."""

    starts: Host
    stops: Host

    @property
    def rows(self) -> int:
        """How many rows they are."""
        return int((self.stops - self.starts).sum())

    def source_rows(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield where the rows from `start` to `stop` of these are in the source: (start, stop)."""
        ends = np.cumsum(self.stops - self.starts)
        at = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            behind = int(ends[at]) - start
            length = min(behind, stop - start)
            first = int(self.stops[at]) - behind
            yield first, first + length
            start, at = start + length, at + 1

    def within(self, others: "Ranges") -> "Ranges":
        """Return the rows that are in both."""
        edges = np.concatenate([self.starts, self.stops, others.starts, others.stops])
        steps = np.repeat([1, -1, 1, -1], [len(a) for a in (*self, *others)])
        order = np.lexsort((steps, edges))  # at one row, ranges end before others begin
        edges, both = edges[order], np.cumsum(steps[order]) == 2
        starts = edges[:-1][both[:-1]]
        stops = edges[1:][both[:-1]]
        filled = stops > starts
        return Ranges(starts[filled], stops[filled])

    def numbers(self, rows: Host) -> Host:
        """Return the row numbers in the source of rows of these."""
        lengths = self.stops - self.starts
        ends = np.cumsum(lengths)
        at = np.searchsorted(ends, rows, side="right")
        found: Host = self.stops[at] - (ends[at] - rows)
        return found


def ranges_of(kept: Host, size: int, rows: int) -> Ranges:
    """Return the ranges of the pieces of `size` rows that are kept; neighbours are one range."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(np.int8)))
    starts, stops = edges[::2] * size, np.minimum(edges[1::2] * size, rows)
    return Ranges(starts.astype(np.int64), stops.astype(np.int64))
