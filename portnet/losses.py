"""Losses: each returns its value and its gradient.

A loss is a function ``loss(pred, target, weight=None) -> value, dpred``:

* `pred` (rows, n_out) is the raw output of the network, without a last activation;
* `target` has the shape and dtype of `pred`, or is (rows,) integer labels for softmax;
* `weight` (rows,) holds the weights of the rows;
* `value` is the loss of the batch, 0-d, and `dpred` = dvalue/dpred has the shape of `pred`.

| symbol | meaning                                                               |
|--------|-----------------------------------------------------------------------|
| z      | `pred` in the losses of counts and classes, which predict exp(z) or p |
| p      | probabilities: sigmoid(z) or softmax(z)                               |
| t      | `target`; for labels one-hot: 1 for the class, 0 for the others       |
| e      | pred - target                                                         |
| l, w   | the loss and the weight of one row; w = 1 without weights             |
| sum_j  | the sum over the outputs                                              |

The z that sigmoid or softmax turns into probabilities are called logits. The cross-entropies take
logits, not probabilities, so that they need no logarithm of 0.

Every loss sums over outputs and averages over rows: value = sum(w l) / sum(w), where a sum(w) of 0
is replaced by 1. ``reduction="sum"`` omits the division.

Any function with this signature is a loss; Trainer takes its value for this mean, unless the loss
has ``reduction = "sum"``. portnet's losses also have

* ``mean(pred)``, the prediction for the target: pred itself, exp(z) for counts, p for classes (in
  statistics, the inverse link function); AbsoluteError predicts a median;
* ``low`` and ``high``, the range of valid t;
* ``classes(mean)`` (cross-entropies only), the predicted classes or labels, from the probabilities
  that ``mean(pred)`` returned.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from ._typing import Array, Namespace, ValueAndGrad  # names of types
from ._validation import check_choice, check_number  # for errors with clear messages
from .backend import ShapeError, device, namespace  # namespace(x): the array library of x

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

Loss = Callable[[Array, Array, Array | None], ValueAndGrad]  # the type of a loss


@dataclass(frozen=True)
class Reduced:
    """Base class of portnet's losses: the reduction from losses of rows to one value.

    By default the prediction is pred, and targets have no bounds.

    Shapes: pred, target and dpred are (rows, n_out), weight (rows,), value 0-d.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        The mean or the sum over rows.

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
    low, high = -inf, inf  # the range of valid t

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, ("mean", "sum"))

    def mean(self, pred: Array) -> Array:
        """Return the prediction for the target: pred."""
        return pred

    def _reduce(self, row_loss: Array, row_dpred: Array, weight: Array | None) -> ValueAndGrad:
        """value = sum(w l) / sum(w), dpred = w (dl/dpred) / sum(w).

        l is row_loss (rows,), dl/dpred is row_dpred (rows, n_out).
        """
        xp = namespace(row_loss, weight)
        rows = row_loss.shape[-1]
        if weight is None:
            value = xp.sum(row_loss, axis=-1)
            if self.reduction == "mean":
                return value / rows, row_dpred / rows
            return value, row_dpred
        if weight.shape[-1:] != (rows,) or weight.dtype != row_loss.dtype:
            raise ShapeError(
                f"{type(self).__name__}: expected weight of shape ({rows},) and dtype "
                f"{row_loss.dtype}, got {tuple(weight.shape)} and {weight.dtype}"
            )
        if self.reduction == "mean":
            total = xp.sum(weight, axis=-1, keepdims=True)
            weight = weight / (total + xp.astype(total == 0, total.dtype))  # 1 for a total of 0
        return xp.sum(weight * row_loss, axis=-1), xp.expand_dims(weight, axis=-1) * row_dpred


@dataclass(frozen=True)
class SquaredError(Reduced):
    """l = sum_j e_j^2 / 2, e = pred - target;  dl/dpred = e.

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
        xp = _checked_namespace(self, pred, target)
        e = pred - target
        return self._reduce(xp.sum(0.5 * e * e, axis=-1), e, weight)


@dataclass(frozen=True)
class AbsoluteError(Reduced):
    """l = sum_j |e_j|, e = pred - target;  dl/dpred = sign(e).

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
        xp = _checked_namespace(self, pred, target)
        e = pred - target
        return self._reduce(xp.sum(xp.abs(e), axis=-1), xp.sign(e), weight)


@dataclass(frozen=True)
class Huber(Reduced):
    """l = sum_j q_j (|e_j| - q_j / 2), e = pred - target, q = min(|e|, delta).

    This is e^2 / 2 for |e| up to delta, and linear beyond (Huber 1964). dl/dpred is e, clipped to
    -delta and delta.

    Shapes: pred, target and dpred are (rows, n_out), weight (rows,), value 0-d.

    Parameters
    ----------
    delta : float
        The error, > 0, beyond which the loss is linear.
    reduction : {"mean", "sum"}

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
        xp = _checked_namespace(self, pred, target)
        e = pred - target
        q = xp.minimum(xp.abs(e), self.delta)
        clipped = xp.minimum(xp.maximum(e, -self.delta), self.delta)
        return self._reduce(xp.sum(q * (xp.abs(e) - 0.5 * q), axis=-1), clipped, weight)


@dataclass(frozen=True)
class PoissonLoss(Reduced):
    """l = sum_j (exp(z_j) - t_j z_j);  dl/dz = exp(z) - t, for counts t with mean exp(z).

    l is -log of the Poisson probability of t, without the constant log(t!). exp(z) overflows for
    z = pred > 88 in float32 and > 709 in float64.

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
        z, t = pred, target
        xp = _checked_namespace(self, z, t)
        mean = xp.exp(z)
        return self._reduce(xp.sum(mean - t * z, axis=-1), mean - t, weight)

    def mean(self, pred: Array) -> Array:
        """Return the prediction for the target, its mean: exp(z)."""
        z = pred
        mean: Array = namespace(z).exp(z)
        return mean


@dataclass(frozen=True)
class SigmoidCrossEntropy(Reduced):
    """l = sum_j (log(1 + exp(z_j)) - t_j z_j);  dl/dz = p - t, p = sigmoid(z) = 1 / (1 + exp(-z)).

    l is sum_j (-t_j log(p_j) - (1 - t_j) log(1 - p_j)), written with the logits z = pred. Targets
    are 0 <= t <= 1. One output serves two classes; of several outputs, each is its own yes or no.

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
        z, t = pred, target
        xp = _checked_namespace(self, z, t)
        # log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)), where exp cannot overflow. The large
        # terms come first: max(z, 0) - t z is exact where t is 0 or 1.
        each = (xp.maximum(z, 0.0) - t * z) + xp.log1p(xp.exp(-xp.abs(z)))
        return self._reduce(xp.sum(each, axis=-1), self.mean(z) - t, weight)  # p - t

    def mean(self, pred: Array) -> Array:
        """p = sigmoid(z), as (tanh(z/2) + 1) / 2, which cannot overflow."""
        z = pred
        p: Array = 0.5 * namespace(z).tanh(0.5 * z) + 0.5
        return p

    def classes(self, mean: Array) -> Array:
        """Return 1 where p >= 0.5, else 0: (rows,) for one output, else (rows, labels)."""
        xp = namespace(mean)
        chosen: Array = xp.astype(mean >= 0.5, xp.int32)
        return chosen[:, 0] if chosen.shape[-1] == 1 else chosen


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Reduced):
    """l = -sum_j t_j log(p_j);  dl/dz = p - t, p_j = softmax(z)_j = exp(z_j) / sum_k exp(z_k).

    z = pred are the logits. dl/dz is p sum_j t_j - t, which is p - t where the t of a row sum to 1.

    Parameters
    ----------
    label_smoothing : float
        t becomes (1 - label_smoothing) t + label_smoothing / classes, with 0 <= label_smoothing < 1
        (Szegedy et al. 2016).
    reduction : {"mean", "sum"}

    Notes
    -----
    pred and dpred are (rows, classes), weight (rows,), value 0-d. The target is (rows,) integer
    labels 0 .. classes - 1, or (rows, classes) probabilities in the dtype of pred.
    A label out of range gives t = 0 and l = 0 (t = label_smoothing / classes with label smoothing):
    to raise an error, the loss would have to wait for the device, such as a GPU. Trainer and
    `check_gradients` raise it.
    log(p) is computed as z - max(z) - log(sum(exp(z - max(z)))), which cannot overflow.

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
        xp = _checked_namespace(self, z, t)
        if self.label_smoothing > 0:
            t = (1 - self.label_smoothing) * t + self.label_smoothing / z.shape[-1]
        shifted = z - xp.max(z, axis=-1, keepdims=True)
        exp_z = xp.exp(shifted)  # up to a factor that cancels in p
        total = xp.sum(exp_z, axis=-1, keepdims=True)
        log_p = shifted - xp.log(total)
        dz = (exp_z / total) * xp.sum(t, axis=-1, keepdims=True) - t  # p sum_j t_j - t
        return self._reduce(-xp.sum(t * log_p, axis=-1), dz, weight)

    def mean(self, pred: Array) -> Array:
        """p = softmax(z)."""
        xp, z = namespace(pred), pred
        exp_z = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
        p: Array = exp_z / xp.sum(exp_z, axis=-1, keepdims=True)
        return p

    def classes(self, mean: Array) -> Array:
        """Return the most probable class of each row, the first of equal ones: (rows,)."""
        chosen: Array = namespace(mean).argmax(mean, axis=-1)
        return chosen


LOSSES: dict[str, Callable[[], Loss]] = {  # the names that Trainer(loss=...) accepts
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "poisson": PoissonLoss,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
}


def one_hot(labels: Array, z: Array) -> Array:
    """Return t (rows, classes) with t_ij = 1 where labels_i = j, else 0.

    labels has shape (rows,); t has the shape and dtype of the logits z.

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
    labels = xp.astype(labels, classes.dtype, copy=False)
    t: Array = xp.astype(labels[..., None] == classes, z.dtype)
    return t


def _checked_namespace(loss: Reduced, pred: Array, target: Array) -> Namespace:
    """Return xp; raise ShapeError unless target has the shape and dtype of pred."""
    xp = namespace(pred, target)
    if pred.shape != target.shape or pred.dtype != target.dtype:
        raise ShapeError(
            f"{type(loss).__name__}: expected target of shape {tuple(pred.shape)} and dtype "
            f"{pred.dtype}, like pred, got {tuple(target.shape)} and {target.dtype}"
        )
    return xp
