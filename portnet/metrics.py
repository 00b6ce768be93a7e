"""Metrics: scores of predictions, on any array library.

A metric is a function ``metric(mean, target, weight=None) -> 0-d array``. `mean` (rows, n_out) is
what `Run.predict` returns: predicted values, or the probabilities of classes or labels. `target` is
(rows,) labels or has the shape of `mean`; `weight` (rows,) holds the weights of the rows, equal if
None. Metrics have no gradients, and are computed on the device of the arrays.
"""

from collections.abc import Callable

from ._typing import Array, Namespace
from .backend import ShapeError, backend_of, device, namespace
from .losses import one_hot

__all__ = [
    "METRICS",
    "OF_ROWS",
    "SMALLER_IS_BETTER",
    "accuracy",
    "balanced_accuracy",
    "confusion_matrix",
    "f1",
    "f1_macro",
    "f1_weighted",
    "label_accuracy",
    "log_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "r2",
    "roc_auc",
    "roc_auc_ovr",
    "top_k_accuracy",
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
    return average(_accuracy_of_rows(mean, target), weight)


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
    correct, labels = _correct("balanced_accuracy", mean, target)
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
    return average(_log_loss_of_rows(mean, target), weight)


def confusion_matrix(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return how many rows of class i are predicted as class j: element (i, j).

    With weights, their sums. The shape is (classes, classes), so this is no metric for `fit`.

    Shapes: mean is (rows, classes), or (rows, 1) for two; target is (rows,) labels or has
    the shape of mean; weight is (rows,).

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import confusion_matrix
    >>> p = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    >>> confusion_matrix(p, np.array([0, 0, 1, 1]))
    array([[2., 0.],
           [1., 1.]])
    """
    return _counts("confusion_matrix", mean, target, weight)


def f1(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """F1 = 2 TP / (2 TP + FP + FN) of class 1, of two classes; 0 where the class never occurs.

    TP are the rows of class 1 that are predicted as such, FP the others that are, FN those that are
    not. F1 is the harmonic mean of precision TP / (TP + FP) and recall TP / (TP + FN).

    Shapes: mean is (rows, 1) or (rows, 2); target is (rows,) labels or has the shape of mean;
    weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import f1
    >>> p = np.array([[0.9], [0.6], [0.7], [0.2]])
    >>> round(float(f1(p, np.array([[1.0], [0.0], [1.0], [1.0]]))), 3)  # 4 / (4 + 1 + 1)
    0.667
    """
    _refuse_many("f1", mean, "f1_macro' or 'f1_weighted")
    return _f1_of_classes(_counts("f1", mean, target, weight))[0][1]


def f1_macro(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the mean of the F1 of the classes; those that never occur are ignored.

    A class occurs where it is true or predicted.

    Shapes: mean is (rows, classes), or (rows, 1) for two; target is (rows,) labels or has
    the shape of mean; weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import f1_macro
    >>> p = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    >>> round(float(f1_macro(p, np.array([0, 0, 1, 1]))), 3)  # (4 / 5 + 2 / 3) / 2
    0.733
    """
    scores, occurs = _f1_of_classes(_counts("f1_macro", mean, target, weight))
    xp = namespace(scores)
    average: Array = xp.sum(scores) / xp.sum(occurs)
    return average


def f1_weighted(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the mean of the F1 of the classes, each weighted by its number of rows.

    Shapes: mean is (rows, classes), or (rows, 1) for two; target is (rows,) labels or has
    the shape of mean; weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import f1_weighted
    >>> p = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]])
    >>> round(float(f1_weighted(p, np.array([0, 0, 1]))), 3)  # (2 * 4 / 5 + 0) / 3
    0.533
    """
    counts = _counts("f1_weighted", mean, target, weight)
    scores, _ = _f1_of_classes(counts)
    xp = namespace(scores)
    average: Array = xp.sum(scores * xp.sum(counts, axis=1)) / xp.sum(counts)
    return average


def roc_auc(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the area under the ROC curve, of two classes: 1 is perfect, guessing is 0.5.

    It is the probability that a row of class 1 gets a larger score than a row of class 0, where
    equal scores count one half. NaN where only one class occurs, or a score is NaN.

    Shapes: mean is (rows, 1) or (rows, 2); target is (rows,) labels or has the shape of mean;
    weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import roc_auc
    >>> p = np.array([[0.1], [0.4], [0.35], [0.8]])
    >>> float(roc_auc(p, np.array([[0.0], [0.0], [1.0], [1.0]])))  # 3 of 4 pairs
    0.75
    """
    _refuse_many("roc_auc", mean, "roc_auc_ovr")
    labels, p = _labels("roc_auc", mean, target), two_columns(mean)
    return _area(p[:, 1], labels == 1, weight)


def roc_auc_ovr(mean: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the mean over classes of the area under the ROC curve of each against the rest.

    NaN where a class does not occur.

    Shapes: mean is (rows, classes), or (rows, 1) for two; target is (rows,) labels or has
    the shape of mean; weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import roc_auc_ovr
    >>> p = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]])
    >>> float(roc_auc_ovr(p, np.array([0, 1, 2])))
    1.0
    """
    labels, p = _labels("roc_auc_ovr", mean, target), two_columns(mean)
    xp = namespace(p)
    areas = [_area(p[:, k], labels == k, weight) for k in range(p.shape[-1])]
    average: Array = xp.mean(xp.stack(areas))
    return average


def top_k_accuracy(mean: Array, target: Array, weight: Array | None = None, k: int = 2) -> Array:
    """Return the fraction of rows whose true class is among the k most probable ones.

    Of equally probable classes the last ones count as more probable, as in scikit-learn. `fit`
    calls a metric with three arguments: for another k give it a function of your own.

    Shapes: mean is (rows, classes), or (rows, 1) for two; target is (rows,) labels or has
    the shape of mean; weight is (rows,), the result 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.metrics import top_k_accuracy
    >>> p = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
    >>> float(top_k_accuracy(p, np.array([1, 0])))
    0.5
    """
    return average(_top_k_of_rows(mean, target, k), weight)


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
    return average(_label_accuracy_of_rows(mean, target), weight)


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
    return average(_absolute_error_of_rows(mean, target), weight)


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
    return average(_squared_error_of_rows(mean, target), weight)


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
    "f1": f1,
    "f1_macro": f1_macro,
    "f1_weighted": f1_weighted,
    "label_accuracy": label_accuracy,
    "log_loss": log_loss,
    "mean_absolute_error": mean_absolute_error,
    "mean_squared_error": mean_squared_error,
    "r2": r2,
    "roc_auc": roc_auc,
    "roc_auc_ovr": roc_auc_ovr,
    "top_k_accuracy": top_k_accuracy,
}

# Metrics of one class per row, by the probabilities of all.
OF_CLASSES: tuple[Callable[..., Array], ...] = (
    *(accuracy, balanced_accuracy, f1, f1_macro, f1_weighted, log_loss),
    *(roc_auc, roc_auc_ovr, top_k_accuracy),
)
OF_TWO_CLASSES: tuple[Callable[..., Array], ...] = (f1, roc_auc)


SMALLER_IS_BETTER = frozenset({"log_loss", "mean_absolute_error", "mean_squared_error"})


# Metrics that are averages of a number for each row, and these numbers (rows,) --------------------


def _accuracy_of_rows(mean: Array, target: Array) -> Array:
    return _correct("accuracy", mean, target)[0]


def _log_loss_of_rows(mean: Array, target: Array) -> Array:
    p = two_columns(mean)
    xp = namespace(p)
    if mean.shape[-1] == 1:
        _check("log_loss", mean, target)
        t = two_columns(target)
    else:
        t = target if target.ndim == mean.ndim else one_hot(target, mean)
        _check("log_loss", mean, t)
    eps = float(xp.finfo(p.dtype).eps)
    p = xp.minimum(xp.maximum(p, eps), 1.0 - eps)
    losses: Array = -xp.sum(t * xp.log(p), axis=-1)
    return losses


def _label_accuracy_of_rows(mean: Array, target: Array) -> Array:
    xp = _check("label_accuracy", mean, target)
    correct = xp.astype((mean >= 0.5) == (target >= 0.5), mean.dtype)
    shares: Array = xp.mean(correct, axis=-1)
    return shares


def _absolute_error_of_rows(mean: Array, target: Array) -> Array:
    xp = _check("mean_absolute_error", mean, target)
    errors: Array = xp.mean(xp.abs(mean - target), axis=-1)
    return errors


def _squared_error_of_rows(mean: Array, target: Array) -> Array:
    xp = _check("mean_squared_error", mean, target)
    errors: Array = xp.mean((mean - target) ** 2, axis=-1)
    return errors


def _top_k_of_rows(mean: Array, target: Array, k: int = 2) -> Array:
    labels, p = _labels("top_k_accuracy", mean, target), two_columns(mean)
    xp = namespace(p)
    true = one_hot(labels, xp.zeros_like(p))
    own = xp.sum(p * true, axis=-1, keepdims=True)  # the probability of the true class
    after = 1.0 - xp.cumulative_sum(true, axis=-1)  # 1 for the classes before the true one
    before = xp.astype(p > own, p.dtype) + xp.astype(p == own, p.dtype) * (1.0 - after - true)
    correct = (xp.sum(before, axis=-1) < k) & ~xp.any(xp.isnan(p), axis=-1)
    hits: Array = xp.astype(correct, p.dtype)
    return hits


OF_ROWS: dict[Callable[..., Array], Callable[[Array, Array], Array]] = {
    accuracy: _accuracy_of_rows,
    label_accuracy: _label_accuracy_of_rows,
    log_loss: _log_loss_of_rows,
    mean_absolute_error: _absolute_error_of_rows,
    mean_squared_error: _squared_error_of_rows,
    top_k_accuracy: _top_k_of_rows,
}


def _correct(name: str, mean: Array, target: Array) -> tuple[Array, Array]:
    """Return whether each row is correct, as 1 or 0 (rows,), and the true classes (rows,)."""
    xp = namespace(mean, target)
    if mean.shape[-1] == 1:
        _check(name, mean, target)
        labels = xp.astype(target[:, 0] >= 0.5, xp.int32)
        return xp.astype((mean[:, 0] >= 0.5) == (labels > 0), mean.dtype), labels
    labels = xp.argmax(target, axis=-1) if target.ndim == mean.ndim else target
    correct = xp.astype(xp.argmax(mean, axis=-1), labels.dtype) == labels
    return xp.astype(correct, mean.dtype), labels


def _labels(name: str, mean: Array, target: Array) -> Array:
    """Return the true classes (rows,)."""
    xp = namespace(mean, target)
    if mean.shape[-1] == 1:
        if target.ndim == 1:
            return target
        _check(name, mean, target)
        target = xp.astype(target[:, 0] >= 0.5, xp.int32)
    elif target.ndim == mean.ndim:
        _check(name, mean, target)
        target = xp.argmax(target, axis=-1)
    return target


def _counts(name: str, mean: Array, target: Array, weight: Array | None) -> Array:
    """Return the confusion matrix, for a metric of this name."""
    labels, p = _labels(name, mean, target), two_columns(mean)
    xp, like = namespace(p), namespace(p).zeros_like(p)
    # The same class as in `accuracy`: one column of 0.5 is class 1, of two the first one wins.
    predicted = xp.astype(mean[:, 0] >= 0.5, labels.dtype) if mean.shape[-1] == 1 else None
    if predicted is None:
        predicted = xp.astype(xp.argmax(p, axis=-1), labels.dtype)
    true = one_hot(labels, like)
    true = true if weight is None else true * xp.expand_dims(weight, axis=-1)
    counts: Array = xp.matmul(xp.matrix_transpose(true), one_hot(predicted, like))
    return counts


def _refuse_many(name: str, mean: Array, instead: str) -> None:
    if mean.shape[-1] > 2:
        raise ShapeError(f"{name}: expected two classes, got {mean.shape[-1]}: use '{instead}'")


def _f1_of_classes(counts: Array) -> tuple[Array, Array]:
    """Return F1 of each class, and 1 for those that occur, else 0, from a confusion matrix."""
    xp = namespace(counts)
    eye = xp.eye(counts.shape[0], dtype=counts.dtype, device=device(counts))
    both = xp.sum(counts, axis=0) + xp.sum(counts, axis=1)  # 2 TP + FP + FN
    occurs = xp.astype(both > 0, counts.dtype)
    scores: Array = 2.0 * xp.sum(counts * eye, axis=0) / (both + (1.0 - occurs))
    return scores, occurs


def _area(score: Array, positive: Array, weight: Array | None) -> Array:
    """Return the area under the ROC curve of scores (rows,) for rows of which some are positive."""
    xp, score = namespace(score), 1.0 * score  # a column no longer: torch searches only vectors
    wide = xp.float64 if backend_of(score).supports("float64") else score.dtype  # for long sums
    true, unknown = xp.astype(positive, wide), xp.any(xp.isnan(score))
    weight = xp.ones_like(true) if weight is None else xp.astype(weight, wide)
    order = xp.argsort(score)
    ranked = xp.take(score, order)
    below = xp.cumulative_sum(xp.take(weight * (1.0 - true), order), include_initial=True)
    # The weight of the negative rows with a smaller score, and that of those with none larger.
    smaller = xp.take(below, xp.searchsorted(ranked, score, side="left"))
    up_to = xp.take(below, xp.searchsorted(ranked, score, side="right"))
    won = xp.sum(weight * true * (smaller + up_to)) / 2.0
    pairs = xp.sum(weight * true) * xp.sum(weight * (1.0 - true))
    one, known = xp.ones_like(pairs), (pairs > 0) & ~unknown
    area: Array = xp.where(known, won / xp.where(known, pairs, one), float("nan") * one)
    narrow: Array = xp.astype(area, score.dtype)
    return narrow


def logistic(z: Array) -> Array:
    """1 / (1 + e^-z) = e^min(z, 0) / (1 + e^-|z|): accurate in both tails, without overflow."""
    xp = namespace(z)
    p: Array = xp.exp(xp.minimum(z, xp.zeros_like(z))) / (1.0 + xp.exp(-xp.abs(z)))
    return p


def two_columns(p: Array) -> Array:
    """Return [1 - p, p] for a column p (rows, 1), the probability of class 1; else p as it is."""
    return p if p.shape[-1] > 1 else namespace(p).concat([1.0 - p, p], axis=-1)


def average(x: Array, weight: Array | None) -> Array:
    """sum(w x) / sum(w) over rows."""
    xp = namespace(x, weight)
    mean: Array
    if weight is None:
        mean = xp.mean(x, axis=-1)
    else:
        mean = xp.sum(weight * x, axis=-1) / xp.sum(weight, axis=-1)
    return mean


def _check(name: str, mean: Array, target: Array, weight: Array | None = None) -> Namespace:
    if mean.shape != target.shape:
        raise ShapeError(
            f"{name}: expected target of shape {tuple(mean.shape)}, like the prediction, "
            f"got {tuple(target.shape)}"
        )
    return namespace(mean, target, weight)
