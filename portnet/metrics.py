"""Metrics: scores of predictions, on any array library.

A metric is a function ``metric(mean, target, weight=None) -> 0-d array``. `mean` (rows, n_out) is
what `Run.predict` returns: predicted values, or the probabilities of classes or labels. `target` is
(rows,) labels or has the shape of `mean`; `weight` (rows,) holds the weights of the rows, equal if
None. Metrics have no gradients, and are computed on the device of the arrays.
"""

from collections.abc import Callable

from ._typing import Array, Namespace
from .backend import ShapeError, namespace
from .losses import one_hot

__all__ = [
    "METRICS",
    "SMALLER_IS_BETTER",
    "accuracy",
    "balanced_accuracy",
    "label_accuracy",
    "log_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "r2",
]


def accuracy(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the fraction of rows whose most probable class is the true one.

    With one column, class 1 is predicted if its probability is at least 0.5. With more, the class
    is the first of the largest columns; a target of the same shape is one-hot.

    Shapes: mean is (rows, classes), or (rows, 1) for two; target is (rows,) labels or has
    the shape of mean; weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import accuracy
    >>> p = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    >>> float(accuracy(p, np.array([0, 0, 1, 1])))
    0.75
    """
    correct, _ = _correct("accuracy", mean, target, weight)
    return _average(correct, weight)


def balanced_accuracy(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the mean of the recalls of the classes.

    The recall of a class is the fraction of its rows that are predicted correctly. Always
    predicting the same of k classes gives 1/k. Classes without rows, or weight, are ignored.

    Shapes: mean is (rows, classes), or (rows, 1) for two; target is (rows,) labels or has
    the shape of mean; weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import balanced_accuracy
    >>> p = np.array([[0.9, 0.1]] * 4)
    >>> float(balanced_accuracy(p, np.array([0, 0, 0, 1])))  # (1 + 0) / 2; the accuracy is 3/4
    0.5
    """
    correct, labels = _correct("balanced_accuracy", mean, target, weight)
    xp = namespace(correct)
    t = one_hot(labels, xp.zeros_like(two_columns(mean)))  # (rows, classes)
    w = t if weight is None else t * xp.expand_dims(weight, axis=-1)
    total = xp.sum(w, axis=-2)
    empty = xp.astype(total == 0, total.dtype)
    recall = xp.sum(w * xp.expand_dims(correct, axis=-1), axis=-2) / (total + empty)
    average: Array = xp.sum(recall, axis=-1) / xp.sum(1.0 - empty, axis=-1)
    return average


def log_loss(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the mean of -log p of the true class: the cross-entropy of probabilities.

    p is clipped to [eps, 1 - eps] of its dtype, so that the result is finite, as in scikit-learn.
    (portnet's losses take logits and need no clipping.)

    Shapes: mean is (rows, classes), or (rows, 1) for two; target is (rows,) labels or has
    the shape of mean; weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import log_loss
    >>> p = np.array([[0.5, 0.5], [0.25, 0.75]])
    >>> round(float(log_loss(p, np.array([0, 0]))), 4)  # (log(2) + log(4)) / 2
    1.0397
    """
    p = two_columns(mean)
    xp = namespace(p)
    if mean.shape[-1] == 1:
        _check("log_loss", mean, target, weight)
        t = two_columns(target)
    else:
        t = target if target.ndim == mean.ndim else one_hot(target, mean)
        _check("log_loss", mean, t, weight)
    eps = float(xp.finfo(p.dtype).eps)
    p = xp.minimum(xp.maximum(p, eps), 1.0 - eps)
    return _average(-xp.sum(t * xp.log(p), axis=-1), weight)


def label_accuracy(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the fraction of labels predicted correctly (threshold 0.5), for multi-label targets.

    Shapes: mean and target are (rows, labels); weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import label_accuracy
    >>> p = np.array([[0.9, 0.1], [0.6, 0.8]])
    >>> float(label_accuracy(p, np.array([[1.0, 0.0], [0.0, 1.0]])))
    0.75
    """
    xp = _check("label_accuracy", mean, target, weight)
    correct = xp.astype((mean >= 0.5) == (target >= 0.5), mean.dtype)
    return _average(xp.mean(correct, axis=-1), weight)


def mean_absolute_error(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """MAE = the mean of |mean - target| over rows and outputs.

    Shapes: mean and target are (rows, outputs); weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import mean_absolute_error
    >>> mean, target = np.array([[1.0], [2.0], [6.0]]), np.array([[1.0], [2.0], [3.0]])
    >>> float(mean_absolute_error(mean, target))
    1.0
    """
    xp = _check("mean_absolute_error", mean, target, weight)
    return _average(xp.mean(xp.abs(mean - target), axis=-1), weight)


def mean_squared_error(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """MSE = the mean of (mean - target)^2 over rows and outputs; no factor 1/2, unlike the loss.

    Shapes: mean and target are (rows, outputs); weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import mean_squared_error
    >>> mean, target = np.array([[1.0], [2.0], [6.0]]), np.array([[1.0], [2.0], [3.0]])
    >>> float(mean_squared_error(mean, target))
    3.0
    """
    xp = _check("mean_squared_error", mean, target, weight)
    return _average(xp.mean((mean - target) ** 2, axis=-1), weight)


def r2(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """R^2 = 1 - sum (t - m)^2 / sum (t - mean(t))^2, averaged over outputs; 1 is perfect.

    A constant output scores 1 if it is predicted exactly, else 0 (as in scikit-learn).

    Shapes: mean and target are (rows, outputs); weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import r2
    >>> mean, target = np.array([[1.0], [2.0], [6.0]]), np.array([[1.0], [2.0], [3.0]])
    >>> float(r2(mean, target))  # 1 - 9 / 2
    -3.5
    >>> float(r2(target, target))
    1.0
    """
    xp = _check("r2", mean, target, weight)
    w = target * 0 + 1.0 if weight is None else xp.expand_dims(weight, axis=-1)
    centre = xp.sum(w * target, axis=-2, keepdims=True) / xp.sum(w, axis=-2, keepdims=True)
    residual = xp.sum(w * (target - mean) ** 2, axis=-2)
    total = xp.sum(w * (target - centre) ** 2, axis=-2)
    constant = total == 0
    ratio = residual / xp.where(constant, xp.ones_like(total), total)
    score = xp.where(constant, xp.astype(residual == 0, total.dtype), 1.0 - ratio)
    average: Array = xp.mean(score, axis=-1)
    return average


METRICS: dict[str, Callable[..., Array]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "label_accuracy": label_accuracy,
    "log_loss": log_loss,
    "mean_absolute_error": mean_absolute_error,
    "mean_squared_error": mean_squared_error,
    "r2": r2,
}


SMALLER_IS_BETTER = frozenset({"log_loss", "mean_absolute_error", "mean_squared_error"})


def _correct(name: str, mean: Array, target: Array, weight: Array | None) -> tuple[Array, Array]:
    """Return whether each row is correct, as 1 or 0 (rows,), and the true classes (rows,)."""
    xp = namespace(mean, target)
    if mean.shape[-1] == 1:
        _check(name, mean, target, weight)
        labels = xp.astype(target[:, 0] >= 0.5, xp.int32)
        return xp.astype((mean[:, 0] >= 0.5) == (labels > 0), mean.dtype), labels
    labels = xp.argmax(target, axis=-1) if target.ndim == mean.ndim else target
    correct = xp.astype(xp.argmax(mean, axis=-1), labels.dtype) == labels
    return xp.astype(correct, mean.dtype), labels


def logistic(z: Array) -> Array:
    """1 / (1 + e^-z) = e^min(z, 0) / (1 + e^-|z|): accurate in both tails, without overflow."""
    xp = namespace(z)
    p: Array = xp.exp(xp.minimum(z, xp.zeros_like(z))) / (1.0 + xp.exp(-xp.abs(z)))
    return p


def two_columns(p: Array) -> Array:
    """Return [1 - p, p] for a column p (rows, 1), the probability of class 1; else p as it is."""
    return p if p.shape[-1] > 1 else namespace(p).concat([1.0 - p, p], axis=-1)


def _average(x: Array, weight: Array | None) -> Array:
    """sum(w x) / sum(w) over rows."""
    xp = namespace(x, weight)
    mean: Array
    if weight is None:
        mean = xp.mean(x, axis=-1)
    else:
        mean = xp.sum(weight * x, axis=-1) / xp.sum(weight, axis=-1)
    return mean


def _check(name: str, mean: Array, target: Array, weight: Array | None) -> Namespace:
    if mean.shape != target.shape:
        raise ShapeError(
            f"{name}: expected target of shape {tuple(mean.shape)}, like the prediction, "
            f"got {tuple(target.shape)}"
        )
    return namespace(mean, target, weight)
