"""Sources for tests: memory maps, HDF5, Zarr, dask, and small windows; and the order as defined."""

import numpy as np
import pytest

from portnet.data.sources import dataset, order, reading

DRAW = np.random.default_rng(8)
ROWS = 3_021
LABELS = DRAW.integers(0, 3, ROWS)
X = (DRAW.standard_normal((ROWS, 5)) + 2 * DRAW.standard_normal((3, 5))[LABELS]).astype("float32")
BATCH = 16


@pytest.fixture
def small_windows(monkeypatch):
    """Let every source be read in parts: in blocks of 16 rows and windows of 256."""
    monkeypatch.setattr(reading, "SMALL", 0)
    monkeypatch.setattr(order, "BLOCK", 16 * 24)
    monkeypatch.setattr(order, "WINDOW", 256 * 24)
    monkeypatch.setattr(dataset, "SAMPLE", 64)


def mapped(folder, a, name="a"):
    """Return an array as a memory map of a file."""
    np.save(folder / f"{name}.npy", a)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def plan(rows=ROWS, batch=BATCH, row_bytes=24, chunk=0, shuffle="blocks"):
    """Return the plan of a fit of X and its labels."""
    return order.plan_of(rows, row_bytes, batch, chunk, shuffle)


def order_as_defined(plan, seed, epoch):
    """Return the order of the rows of an epoch, from its definition, without `rows_of_window`."""
    rows = np.arange(plan.rows)
    blocks = [rows[start : start + plan.block] for start in range(0, plan.rows, plan.block)]
    drawn = np.random.default_rng((seed, 3, epoch)).permutation(len(blocks))
    joined = np.concatenate([blocks[b] for b in drawn])
    windows = [joined[start : start + plan.window] for start in range(0, plan.rows, plan.window)]
    return np.concatenate(
        [
            w[np.random.default_rng((seed, 4, epoch, i)).permutation(len(w))]
            for i, w in enumerate(windows)
        ]
    )


class Sliced:
    """A source of one's own: shape, dtype, len and row slices, and nothing else."""

    def __init__(self, a, chunks=None):
        self.a, self.shape, self.dtype, self.slices = a, a.shape, a.dtype, []
        self.chunks = chunks

    def __len__(self):
        return len(self.a)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.slices.append((rows.start, rows.stop))
        return np.array(self.a[rows])
