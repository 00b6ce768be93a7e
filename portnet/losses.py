"""Losses: each returns its value and its gradient.

A loss is a function ``loss(pred, target, weight=None) -> value, dpred``:

* `pred` (rows, n_out) is the raw output of the network: the cross-entropies take logits, so they
  need no clipping and no epsilon;
* `target` has the shape and dtype of `pred`, or is (rows,) integer labels for softmax;
* `weight` (rows,) holds the weights of the rows;
* `value` is 0-d, and `dpred` = dvalue/dpred has the shape of `pred`.

Every loss sums over outputs and averages over rows: value = sum(w l) / sum(w), where the
denominator is 1 if all weights are 0. ``reduction="sum"`` omits the division.

Any function with this signature and this division is a loss: Trainer relies on the division if a
batch has weights. portnet's losses also have ``mean(pred)``, the expected target (the inverse link
function); ``low`` and ``high``, the range of valid targets; and the cross-entropies have
``classes(mean)``, the predicted classes or labels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from ._typing import Array, Namespace, ValueAndGrad
from ._validation import check_choice, check_number
from .backend import ShapeError, device, namespace

__all__ = [
    "LOSSES",
    "AbsoluteError",
    "Huber",
    "Loss",
    "PoissonLoss",
    "Reduced",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "one_hot",
]

Loss = Callable[[Array, Array, Array | None], ValueAndGrad]  # of pred, target, weight


@dataclass(frozen=True)
class Reduced:
    """Base class of losses: reduction over rows; identity link and unbounded targets by default.

    Shapes: pred, target and dpred are (rows, n_out), weight (rows,), value 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> pred, target = np.array([[1.0], [3.0]]), np.zeros((2, 1))
    >>> float(portnet.SquaredError()(pred, target)[0])
    2.5
    >>> float(portnet.SquaredError(reduction="sum")(pred, target)[0])
    5.0
    """

    reduction: str = field(default="mean", kw_only=True)
    low, high = -inf, inf  # class attributes, not fields

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, ("mean", "sum"))

    def mean(self, pred: Array) -> Array:
        """E[target] = pred."""
        return pred

    def _reduce(self, row_loss: Array, drow: Array, weight: Array | None) -> ValueAndGrad:
        """value = sum(w l) / sum(w), dpred = w dl / sum(w), from l (rows,) and dl (rows, n_out)."""
        xp = namespace(row_loss, weight)
        rows = row_loss.shape[-1]
        if weight is None:
            value = xp.sum(row_loss, axis=-1)
            return (value, drow) if self.reduction == "sum" else (value / rows, drow / rows)
        if weight.shape[-1:] != (rows,) or weight.dtype != row_loss.dtype:
            raise ShapeError(
                f"{type(self).__name__}: expected weight of shape ({rows},) and dtype "
                f"{row_loss.dtype}, got {tuple(weight.shape)} and {weight.dtype}"
            )
        if self.reduction == "mean":
            total = xp.sum(weight, axis=-1, keepdims=True)
            weight = weight / (total + xp.astype(total == 0, total.dtype))
        return xp.sum(weight * row_loss, axis=-1), xp.expand_dims(weight, axis=-1) * drow


@dataclass(frozen=True)
class SquaredError(Reduced):
    """l = sum_j (p_j - t_j)^2 / 2;  dl/dp = p - t.

    Shapes: pred, target and dpred are (rows, n_out), weight (rows,), value 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> value, dpred = portnet.SquaredError()(np.array([[1.0], [3.0]]), np.zeros((2, 1)))
    >>> float(value)
    2.5
    >>> dpred
    array([[0.5],
           [1.5]])
    """

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        xp = _check(self, pred, target)
        e = pred - target
        return self._reduce(xp.sum(0.5 * e * e, axis=-1), e, weight)


@dataclass(frozen=True)
class AbsoluteError(Reduced):
    """l = sum_j |p_j - t_j|;  dl/dp = sign(p - t).

    Shapes: pred, target and dpred are (rows, n_out), weight (rows,), value 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> value, dpred = portnet.AbsoluteError()(np.array([[1.0], [-3.0]]), np.zeros((2, 1)))
    >>> float(value)
    2.0
    >>> dpred
    array([[ 0.5],
           [-0.5]])
    """

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        xp = _check(self, pred, target)
        e = pred - target
        return self._reduce(xp.sum(xp.abs(e), axis=-1), xp.sign(e), weight)


@dataclass(frozen=True)
class Huber(Reduced):
    """l = sum_j q (|e| - q/2), e = p - t, q = min(|e|, delta);  dl/dp = e clipped to +-delta.

    This is e^2/2 up to delta, and linear beyond (Huber 1964).

    Shapes: pred, target and dpred are (rows, n_out), weight (rows,), value 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> value, dpred = portnet.Huber(delta=2.0)(np.array([[1.0], [10.0]]), np.zeros((2, 1)))
    >>> float(value)  # (1/2 + 18) / 2
    9.25
    >>> dpred
    array([[0.5],
           [1. ]])
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "delta", "delta > 0", lambda d: d > 0)

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        xp = _check(self, pred, target)
        e = pred - target
        q = xp.minimum(xp.abs(e), self.delta)
        clipped = xp.minimum(xp.maximum(e, -self.delta), self.delta)
        return self._reduce(xp.sum(q * (xp.abs(e) - 0.5 * q), axis=-1), clipped, weight)


@dataclass(frozen=True)
class PoissonLoss(Reduced):
    """l = sum_j e^p_j - t_j p_j;  dl/dp = e^p - t, for counts t with mean e^p.

    The output p is the logarithm of the mean. log(t!) is omitted, as it does not depend on p. e^p
    overflows for p > 88 in float32 and p > 709 in float64.

    Shapes: pred, target and dpred are (rows, n_out), weight (rows,), value 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> loss, pred = portnet.PoissonLoss(), np.array([[0.0], [0.0]])
    >>> value, dpred = loss(pred, np.array([[1.0], [3.0]]))
    >>> dpred
    array([[ 0.],
           [-1.]])
    >>> loss.mean(pred)
    array([[1.],
           [1.]])
    """

    low = 0.0

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        xp = _check(self, pred, target)
        mean = xp.exp(pred)
        return self._reduce(xp.sum(mean - target * pred, axis=-1), mean - target, weight)

    def mean(self, pred: Array) -> Array:
        """E[target] = e^pred."""
        mean: Array = namespace(pred).exp(pred)
        return mean


@dataclass(frozen=True)
class SigmoidCrossEntropy(Reduced):
    """l = sum_j log(1 + e^z_j) - t_j z_j;  dl/dz = s(z) - t, with s the logistic function.

    This is -t log s(z) - (1 - t) log(1 - s(z)), for logits z and targets 0 <= t <= 1: one output
    for two classes, or one output for each label of a multi-label problem.

    Shapes: pred, target and dpred are (rows, n_out), weight (rows,), value 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> loss, logits = portnet.SigmoidCrossEntropy(), np.array([[0.0], [100.0]])
    >>> value, dlogits = loss(logits, np.array([[1.0], [1.0]]))
    >>> round(float(value), 4)  # log(2) / 2
    0.3466
    >>> loss.mean(logits)
    array([[0.5],
           [1. ]])
    """

    low, high = 0.0, 1.0

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        z = pred
        xp = _check(self, z, target)
        # log(1 + e^z) - t z, the large terms first: their difference is exact where t is 0 or 1
        each = (xp.maximum(z, 0.0) - target * z) + xp.log1p(xp.exp(-xp.abs(z)))
        return self._reduce(xp.sum(each, axis=-1), self.mean(z) - target, weight)

    def mean(self, pred: Array) -> Array:
        """P[label] = s(pred)."""
        t: Array = namespace(pred).tanh(0.5 * pred)
        return 0.5 * t + 0.5

    def classes(self, mean: Array) -> Array:
        """1 where P >= 0.5, else 0: (rows,) for one output, else (rows, labels)."""
        xp = namespace(mean)
        chosen: Array = xp.astype(mean >= 0.5, xp.int32)
        return chosen[:, 0] if chosen.shape[-1] == 1 else chosen


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Reduced):
    """l = -sum_j t_j log p_j, p = softmax(z);  dl/dz = p - t where the t of a row sum to 1.

    In general dl/dz = p sum_j t_j - t.

    Parameters
    ----------
    reduction : {"mean", "sum"}
    label_smoothing : float
        t becomes (1 - a) t + a / classes, 0 <= a < 1 (Szegedy et al. 2016).

    Notes
    -----
    pred and dpred are (rows, classes), weight (rows,), value 0-d. The target is (rows,) integer
    labels 0 .. classes - 1, or (rows, classes) probabilities in the dtype of z.
    A label out of range contributes 0: to raise an error, the loss would have to wait for the
    device. Trainer and `check_gradients` raise it.
    log p = z - max(z) - log(sum(e^(z - max(z)))) cannot overflow.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> loss, logits = portnet.SoftmaxCrossEntropy(), np.zeros((2, 4))
    >>> value, dlogits = loss(logits, np.array([0, 3]))
    >>> round(float(value), 4)  # log(4)
    1.3863
    >>> loss.mean(logits)
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]])
    """

    label_smoothing: float = 0.0
    low, high = 0.0, 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "label_smoothing", "0 <= label_smoothing < 1", lambda a: 0 <= a < 1)

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        z = pred
        t = target if target.ndim == z.ndim else one_hot(target, z)
        xp = _check(self, z, t)
        if self.label_smoothing > 0:
            t = (1 - self.label_smoothing) * t + self.label_smoothing / z.shape[-1]
        shifted = z - xp.max(z, axis=-1, keepdims=True)
        e = xp.exp(shifted)
        total = xp.sum(e, axis=-1, keepdims=True)
        log_p = shifted - xp.log(total)
        dz = (e / total) * xp.sum(t, axis=-1, keepdims=True) - t
        return self._reduce(-xp.sum(t * log_p, axis=-1), dz, weight)

    def mean(self, pred: Array) -> Array:
        """P[class] = softmax(pred)."""
        xp = namespace(pred)
        e = xp.exp(pred - xp.max(pred, axis=-1, keepdims=True))
        p: Array = e / xp.sum(e, axis=-1, keepdims=True)
        return p

    def classes(self, mean: Array) -> Array:
        """Return the most probable class of each row (rows,), the first of several."""
        chosen: Array = namespace(mean).argmax(mean, axis=-1)
        return chosen


LOSSES: dict[str, Callable[[], Loss]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "poisson": PoissonLoss,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
}


def one_hot(labels: Array, z: Array) -> Array:
    """Return t (rows, classes), t_ij = 1 where labels_i = j, in the dtype of z (rows, classes).

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.losses import one_hot
    >>> one_hot(np.array([2, 0]), np.zeros((2, 3)))
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    xp = namespace(labels, z)
    if not xp.isdtype(labels.dtype, "integral") or labels.shape != z.shape[:-1]:
        raise ShapeError(
            "SoftmaxCrossEntropy: expected target as integer labels of shape "
            f"{tuple(z.shape[:-1])} or as {z.dtype} probabilities of shape {tuple(z.shape)}, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    classes = xp.arange(z.shape[-1], device=device(z))  # not in labels' dtype: uint8 ends at 255
    t: Array = xp.astype(xp.astype(labels, classes.dtype)[..., None] == classes, z.dtype)
    return t


def _check(loss: Reduced, pred: Array, target: Array) -> Namespace:
    """Raise ShapeError unless target has the shape and dtype of pred; return their namespace."""
    xp = namespace(pred, target)
    if pred.shape != target.shape or pred.dtype != target.dtype:
        raise ShapeError(
            f"{type(loss).__name__}: expected target of shape {tuple(pred.shape)} and dtype "
            f"{pred.dtype}, like the prediction, got {tuple(target.shape)} and {target.dtype}"
        )
    return xp
