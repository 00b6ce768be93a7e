"""Split: rows held out for validation."""

import numpy as np

from .. import rng
from ..backend import to_numpy
from .checks import DataError
from .dataset import Dataset
from .labels import has_one_label

__all__ = ["split"]


def split(fraction: float, data: Dataset, loss: object, seed: int) -> tuple[Dataset, Dataset]:
    """Return a training set and a validation set, drawn at random from the seed.

    The split is stratified if rows have one label: the rows are shuffled, sorted by class, and
    taken at equal steps.
    """
    y, count, xp = data.y, len(data), data.backend.xp
    held = round(fraction * count)
    if not 0 < held < count:
        raise DataError(
            f"validation={fraction:g} of {count} rows leaves no row to "
            f"{'validate' if held == 0 else 'train'} on: give more rows, or another fraction"
        )
    order = rng.shuffled(seed, count)
    if has_one_label(y, loss):
        host = to_numpy(y)
        labels = host.argmax(axis=1) if host.shape[1:] > (1,) else host.ravel()
        order = order[np.argsort(labels[order], kind="stable")]
    positions = ((np.arange(held) + 0.5) * (count / held)).astype(np.int64)
    held_out = np.zeros(count, dtype=bool)
    held_out[order[positions]] = True
    parts: list[Dataset] = []
    for mask in (~held_out, held_out):
        index = data.backend.asarray(np.flatnonzero(mask))
        part = data.with_arrays(a if a is None else xp.take(a, index, axis=0) for a in data.arrays)
        if part.weight is not None and not bool(xp.any(part.weight > 0)):  # waits for the device
            raise DataError(
                f"validation={fraction:g}: all {len(part)} rows to "
                f"{'validate' if parts else 'train'} on have the weight 0"
            )
        parts.append(part)
    return parts[0], parts[1]
