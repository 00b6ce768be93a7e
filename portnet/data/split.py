"""Split: rows held out for validation."""

from typing import Any

import numpy as np

from .. import rng as random
from ..backend import Backend, to_numpy
from .checks import DataError
from .labels import _Rows, one_label


def split(
    fraction: float, rows: _Rows, place: Backend, loss: Any, seed: int
) -> tuple[_Rows, _Rows]:
    """Return the rows to train on and those set aside, which the seed draws.

    Where rows have one label, every class gives its share: rows are put in a random order, then
    sorted by class, and taken at equal distances.
    """
    y, count = rows[1], rows[0].shape[0]
    held = round(fraction * count)
    if not 0 < held < count:
        raise DataError(
            f"validation={fraction:g} of {count} rows leaves no row to "
            f"{'validate' if held == 0 else 'train'} on: give more rows, or another fraction"
        )
    order = random.shuffled(seed, count)
    if one_label(y, loss):
        host = to_numpy(y)
        labels = host.argmax(axis=1) if host.shape[1:] > (1,) else host.ravel()
        order = order[np.argsort(labels[order], kind="stable")]
    taken = ((np.arange(held) + 0.5) * (count / held)).astype(np.int64)
    aside = np.zeros(count, dtype=bool)
    aside[order[taken]] = True
    parts = []
    for which in (~aside, aside):
        index = place.asarray(np.flatnonzero(which))
        parts.append(tuple(None if a is None else place.xp.take(a, index, axis=0) for a in rows))
        weight = parts[-1][2]
        if weight is not None and not bool(place.xp.any(weight > 0)):  # waits for the device
            raise DataError(
                f"validation={fraction:g}: all {weight.shape[0]} rows to "
                f"{'validate' if len(parts) == 2 else 'train'} on have the weight 0"
            )
    return parts[0], parts[1]  # type: ignore[return-value]
