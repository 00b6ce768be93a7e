"""What scikit-learn's MLP minimizes, and its two updates: the mathematics of `portnet.estimators`.

With l the loss of a row, w its weight and W the weights of all layers (biases are spared), a step
goes down

    L = (sum of w l  +  alpha/2 sum of W^2) / sum of w

where the sums are over the rows of its batch. So alpha counts as much as one row of weight alpha,
and more in small batches than in large ones: scikit-learn's meaning of alpha, which is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import tree
from .._typing import Array, Params, State
from ..backend import namespace
from ..layers import ACTIVATIONS, Chain, Dense, Layer
from ..losses import Loss, PoissonLoss
from ..optimizers import Optimizer

HIDDEN = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


@dataclass(frozen=True)
class SparseDense(Dense):
    """y = x W + b for rows x that SciPy holds sparse, on NumPy: the zeros are not multiplied.

    For the first layer of a network: nobody asks for its dx.
    """

    def forward(self, params: Params, x: Any, key: Any = None) -> tuple[Array, Any]:
        """y = x W + b."""
        return x @ params["W"] + params["b"], x

    def backward(self, params: Params, cache: Any, dy: Array) -> tuple[Params, Any]:
        """dW = x^T dy; db = the sum of the rows of dy."""
        x = cache
        return {"W": x.T @ dy, "b": namespace(dy).sum(dy, axis=-2, keepdims=True)}, None


def network(
    coefs: list[Array], intercepts: list[Array], activation: str, *, sparse: bool = False
) -> tuple[Chain, Params]:
    """Return the model and the parameters of scikit-learn's `coefs_` and `intercepts_`.

    Each W (n_in, n_out) comes with its b (n_out,); hidden layers have the activation. The first
    layer takes sparse rows, or dense ones.
    """
    layers: list[Layer] = []
    params: list[Any] = []
    for W, b in zip(coefs, intercepts, strict=True):
        first = SparseDense if sparse and not layers else Dense
        layers += [first(W.shape[1]), ACTIVATIONS[HIDDEN[activation]]]
        params += [{"W": W, "b": b[None, :]}, ()]
    return Chain(layers[:-1]), tuple(params[:-1])


def unpack(params: Params) -> tuple[list[Array], list[Array]]:
    """Return `coefs_` and `intercepts_`: the inverse of `network`."""
    return [p["W"] for p in params[::2]], [p["b"][0, :] for p in params[::2]]


# What is minimized ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoissonDeviance(PoissonLoss):
    """l = sum_j t_j log(t_j / e^p_j) - t_j + e^p_j;  dl/dp = e^p - t: half the deviance.

    This is `PoissonLoss` and t log t - t, which makes it 0 where e^p = t.
    """

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> Any:
        """Return value, dpred."""
        value, dpred = super().__call__(pred, target, weight)
        xp, t = namespace(target), target
        t_log_t = t * xp.log(xp.where(t > 0, t, xp.ones_like(t)))
        least, _ = self._reduce(xp.sum(t_log_t - t, axis=-1), dpred, weight)
        return value + least, dpred


def summed(model: Layer, loss: Loss, params: Params, batch: tuple[Array, ...]) -> tuple[Any, Any]:
    """Return sum of w l over a batch x, y, w, and its gradient; the loss must be one that sums."""
    x, y, weight = batch
    pred, caches = model.forward(params, x)
    value, dpred = loss(pred, y, weight)
    return value, model.backward(params, caches, dpred)[0]


def summing(model: Layer, loss: Loss) -> Callable[[Params, Any], Any]:
    """Return `summed` as a function of parameters and a batch."""
    return lambda params, batch: summed(model, loss, params, batch)


def penalized(value: Array, grads: Params, params: Params, alpha: float, total: Any) -> Any:
    """Return L = (value + alpha/2 sum of W^2) / total and dL = (grads + alpha W) / total."""
    if alpha > 0:
        for p in params:
            if p:
                value = value + 0.5 * alpha * namespace(p["W"]).sum(p["W"] * p["W"])
        grads = tuple(
            {**g, "W": g["W"] + alpha * p["W"]} if g else g
            for g, p in zip(grads, params, strict=True)
        )
    return value / total, tree.map(lambda g: g / total, grads)


def make_penalized_step(
    model: Layer, loss: Loss, optimizer: Optimizer, alpha: float
) -> Callable[..., Any]:
    """Return ``step(params, state, x, y, weight) -> params, state, L``, L before the update."""

    def step(params: Params, state: State, x: Array, y: Array, weight: Array | None) -> Any:
        value, grads = summed(model, loss, params, (x, y, weight))
        total = x.shape[0] if weight is None else namespace(weight).sum(weight)
        value, grads = penalized(value, grads, params, alpha, total)
        updates, state = optimizer.update(grads, state, params)
        return tree.map(lambda p, u: p + u, params, updates), state, value

    return step


def over_all_rows(
    part: Callable[[Params, Any], Any],
    alpha: float,
    batches: Callable[[], Any],
    total: Any,
    params: Params,
) -> tuple[Callable[[Array], Any], Array, Callable[[Array], Params]]:
    """Return v -> L, dL/dv over all batches for parameters as one vector; these; the inverse.

    `part(params, batch)` is `summed` of a model and a loss.
    """
    vector, unravel = tree.ravel(params)

    def function(v: Array) -> tuple[Array, Array]:
        p = unravel(v)
        value, grads = None, None
        for batch in batches():
            more, dpart = part(p, batch)
            value = more if value is None else value + more
            grads = dpart if grads is None else tree.map(lambda a, b: a + b, grads, dpart)
        value, grads = penalized(value, grads, p, alpha, total)
        return value, tree.ravel(grads)[0]

    return function, vector, unravel


# The updates ------------------------------------------------------------------------------------
