"""Evaluation: loss and metrics of many rows, block by block, with the same bits as at once.

The losses of portnet, and many metrics, are sums of a number for each row. These numbers are
computed block by block, where outputs are in the processor's cache, and kept; they are added in the
end, in one sum. For other metrics the predictions of all rows are kept.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._typing import Array, Host
from .losses import LOSSES
from .metrics import OF_ROWS, average

__all__ = ["evaluate_blocks", "is_by_row"]

Metric = Callable[..., Array]


def is_by_row(loss: object) -> bool:
    """Tell whether a loss, and its `mean`, are known to treat each row by itself."""
    return type(loss) in LOSSES.values()


def evaluate_blocks(
    preds: Iterator[Array],
    loss: Any,
    y: Any,
    weight: Array | None,
    metrics: dict[str, Metric],
    measure: Callable[[str, Metric, Array, Array, Array | None], Array],
) -> dict[str, Array]:
    """Return the loss and the metrics of raw outputs, which come in blocks of rows, on the host.

    `measure` calls a metric that is not a sum over rows. Shapes: y is (rows,) or (rows, outputs),
    weight (rows,), the results 0-d.
    """
    count, done, kept = len(y), 0, dict[str, Host]()

    def keep(name: str, values: Array) -> None:
        if name not in kept:
            kept[name] = np.empty((count, *values.shape[1:]), values.dtype)
        kept[name][done : done + len(block)] = values

    block = y[:0]
    by_row = {name: OF_ROWS[metric] for name, metric in metrics.items() if metric in OF_ROWS}
    for pred in preds:
        block = y[done : done + pred.shape[0]]
        keep("loss", loss(pred[:, None, ...], block[:, None, ...])[0])  # each row is a batch
        mean = loss.mean(pred) if metrics else pred
        for name, function in by_row.items():
            keep(name, function(mean, block))
        if len(by_row) < len(metrics):
            keep("", mean)
        done += pred.shape[0]
    nothing = kept["loss"][:1, None]  # stands for the gradient, which is not needed
    numbers = {"loss": loss._reduce(kept["loss"], nothing, weight)[0]}
    for name, metric in metrics.items():
        if name in by_row:
            numbers[name] = average(kept[name], weight)
        else:
            numbers[name] = measure(name, metric, kept[""], y, weight)
    return numbers
