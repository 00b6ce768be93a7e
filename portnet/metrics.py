"""Metrics: what people want to know of a prediction, on any array library.

A metric is a function ``metric(mean, target, weight=None) -> 0-d array``. `mean` (rows, n_out) is
what `Run.predict` returns: predicted values, or the probabilities of classes or labels. `target` is
(rows,) labels or of the shape of `mean`; `weight` (rows,) counts each row that often, equally if
None. Metrics are not differentiated; they run on the device, where the arrays are.
"""

from collections.abc import Callable
from typing import Any

from .backend import ShapeError, namespace

__all__ = [
    "METRICS",
    "accuracy",
    "label_accuracy",
    "mean_absolute_error",
    "mean_squared_error",
    "r2",
]

Array = Any


def accuracy(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the share of rows whose most probable class is the right one.

    With one column, class 1 is predicted where its probability is at least 0.5. With more, the
    class is the largest column (the first of equals); a target of the same shape is one-hot.
    """
    xp = namespace(mean, target)
    if mean.shape[-1] == 1:
        _check("accuracy", mean, target, weight)
        right = xp.all((mean >= 0.5) == (target >= 0.5), axis=-1)
    else:
        labels = xp.argmax(target, axis=-1) if target.ndim == mean.ndim else target
        right = xp.astype(xp.argmax(mean, axis=-1), labels.dtype) == labels
    return _average(xp.astype(right, mean.dtype), weight)


def label_accuracy(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the share of labels (rows x n_out) on the right side of 0.5: for multi-label."""
    xp = _check("label_accuracy", mean, target, weight)
    right = xp.astype((mean >= 0.5) == (target >= 0.5), mean.dtype)
    return _average(xp.mean(right, axis=-1), weight)


def mean_absolute_error(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """MAE = the mean of |mean - target| over rows and outputs."""
    xp = _check("mean_absolute_error", mean, target, weight)
    return _average(xp.mean(xp.abs(mean - target), axis=-1), weight)


def mean_squared_error(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """MSE = the mean of (mean - target)^2 over rows and outputs; no factor 1/2, unlike the loss."""
    xp = _check("mean_squared_error", mean, target, weight)
    return _average(xp.mean((mean - target) ** 2, axis=-1), weight)


def r2(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """R^2 = 1 - sum (t - m)^2 / sum (t - mean(t))^2, averaged over outputs; 1 is perfect.

    A constant output counts 1 where it is predicted exactly, else 0 (as scikit-learn has it).
    """
    xp = _check("r2", mean, target, weight)
    w = target * 0 + 1.0 if weight is None else xp.expand_dims(weight, axis=-1)
    centre = xp.sum(w * target, axis=-2, keepdims=True) / xp.sum(w, axis=-2, keepdims=True)
    residual = xp.sum(w * (target - mean) ** 2, axis=-2)
    total = xp.sum(w * (target - centre) ** 2, axis=-2)
    flat = total == 0
    ratio = residual / xp.where(flat, xp.ones_like(total), total)
    score = xp.where(flat, xp.astype(residual == 0, total.dtype), 1.0 - ratio)
    return xp.mean(score, axis=-1)


METRICS: dict[str, Callable[..., Array]] = {
    "accuracy": accuracy,
    "label_accuracy": label_accuracy,
    "mean_absolute_error": mean_absolute_error,
    "mean_squared_error": mean_squared_error,
    "r2": r2,
}


def _average(x: Array, weight: Array | None) -> Array:
    """sum(w x) / sum(w) over rows."""
    xp = namespace(x, weight)
    if weight is None:
        return xp.mean(x, axis=-1)
    return xp.sum(weight * x, axis=-1) / xp.sum(weight, axis=-1)


def _check(name: str, mean: Array, target: Array, weight: Array | None) -> Any:
    if mean.shape != target.shape:
        raise ShapeError(
            f"{name}: expected target of shape {tuple(mean.shape)}, like the prediction, "
            f"got {tuple(target.shape)}"
        )
    return namespace(mean, target, weight)
