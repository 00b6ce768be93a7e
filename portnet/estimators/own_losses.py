"""Own losses: a loss (pred, target, weight) -> value, dpred that a user gives to an estimator."""

import math
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from .._typing import Array, Host, ValueAndGrad
from .._validation import LOSS_CALL, check_methods, check_pair, check_signature, name_of
from ..backend import Backend, namespace, to_numpy
from ..gradcheck import GradientError, check_loss
from ..losses import Loss, PoissonLoss, Reduced

__all__ = ["ROWS", "check_own_loss", "mean_of", "sum_of"]

ROWS = 5  # of the data, on which a loss is checked


@dataclass(frozen=True)
class SumOverRows:
    """sum(w l) = sum(w) value, of a loss whose value is the mean over rows."""

    loss: Loss

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        value, dpred = check_pair(
            self.loss, "the loss", "value, dpred", self.loss(pred, target, weight)
        )
        total = pred.shape[0] if weight is None else namespace(weight).sum(weight)
        return total * value, total * dpred


def sum_of(loss: Any) -> Loss:
    """Return a loss as the sum over rows: one without ``reduction = "sum"`` is a mean."""
    if isinstance(loss, Reduced) and is_dataclass(loss):
        return replace(loss, reduction="sum")  # type: ignore[return-value]
    if getattr(loss, "reduction", "mean") == "sum":
        return loss  # type: ignore[no-any-return]
    return SumOverRows(loss)


def mean_of(loss: object) -> str:
    """Return the name of what turns raw outputs into the mean of the target, under a loss.

    It is "exp", or "loss.mean" for a loss that has a method `mean` of its own, or "identity".
    """
    if isinstance(loss, PoissonLoss):
        return "exp"
    own = getattr(type(loss), "mean", None)
    return "identity" if own in (None, Reduced.mean) else "loss.mean"


def check_own_loss(loss: Any, target: Host, backend: Backend) -> None:
    """Raise GradientError unless the gradient of a loss is that of its value, on some rows.

    `target` (rows, outputs) are encoded targets of a few rows. portnet's own losses are not checked
    again.
    """
    check_methods("a loss(pred, target, weight)", loss, ("__call__",))
    check_signature("loss", loss, *LOSS_CALL)
    if type(loss).__module__ == Reduced.__module__:
        return
    dtype = "float64" if backend.supports("float64") else "float32"
    draw = np.random.default_rng(0)
    raw = np.asarray(draw.standard_normal(target.shape))
    pred, y = backend.asarray(raw, dtype), backend.asarray(target.astype(dtype), dtype)
    weight = backend.asarray(draw.uniform(0.5, 2.0, len(raw)), dtype)
    name = getattr(loss, "__name__", name_of(loss))
    for w, mode in ((None, "without weights"), (weight, "with weights")):
        value, _ = check_pair(loss, "the loss", "value, dpred", loss(pred, y, w))
        if shape := np.shape(value):
            raise ValueError(
                f"loss={name}: expected a number as its value, the mean over the rows (or the "
                f"sum), got an array of shape {shape}"
            )
        if not math.isfinite(value):
            raise GradientError(
                f"loss={name}: its value is {float(value)} {mode}, for {len(raw)} rows of the "
                "targets and normally distributed pred"
            )
    try:
        check_loss(loss, pred, y)
    except GradientError as error:
        found = _worst(loss, raw, y, backend, dtype, weight)
        raise GradientError(f"loss={name}: {found or error}") from None


def _worst(loss: Any, raw: Host, target: Array, backend: Backend, dtype: str, weight: Array) -> str:
    """Return where the gradient differs most from central differences, and both numbers."""
    step = float(np.finfo(dtype).eps) ** (1 / 3)

    def value(pred: Host, w: Array | None) -> float:
        return float(loss(backend.asarray(pred, dtype), target, w)[0])

    worst, text = 0.0, ""
    for w, mode in ((None, "without weights"), (weight, "with weights")):
        given = to_numpy(loss(backend.asarray(raw, dtype), target, w)[1])
        if given.shape != raw.shape:
            return ""
        for at in np.ndindex(*raw.shape):
            move = np.zeros(raw.shape)
            move[at] = step
            slope = (value(raw + move, w) - value(raw - move, w)) / (2 * step)
            if not abs(slope - given[at]) <= worst:
                worst = abs(slope - given[at])
                text = (
                    f"its gradient is wrong {mode}. In row {at[0]}, output {at[1]} (pred "
                    f"{raw[at]:.6g}, target {float(to_numpy(target)[at]):.6g}) the derivative is "
                    f"{slope:.6g} by central differences of the value, and dpred is {given[at]:.6g}"
                )
    return text
