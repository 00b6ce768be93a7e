"""L = (sum of w l + alpha/2 sum of W^2) / sum of w: the objective of scikit-learn's MLP.

l is the loss of a row, w its weight, and W the parameters named W of all layers: not biases, nor
those of norms. The sums over rows are those of a batch, so the penalty is stronger in small batches
than in large ones, as in scikit-learn.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import tree
from .._typing import Array, Params, State, ValueAndGrad
from ..backend import namespace
from ..data.dataset import Batch
from ..engine.sharded_step import ShardedStep
from ..layers import Layer, dparams_of
from ..losses import Loss, PoissonLoss
from ..optimizers import Optimizer
from ..rng import Key
from ..training import update
from .optimizers import SklearnAdam, SklearnSGD

__all__ = [
    "Part",
    "PoissonDeviance",
    "make_penalized_step",
    "make_sharded_penalized_step",
    "over_all_rows",
    "penalized",
    "summed",
    "summing",
]

Part = Callable[[Params, Batch], tuple[Array, Params]]  # the loss of a batch, its gradient


@dataclass(frozen=True)
class PoissonDeviance(PoissonLoss):
    """l = sum_j t_j log(t_j / e^p_j) - t_j + e^p_j;  dl/dp = e^p - t: half the deviance.

    This is `PoissonLoss` plus t log t - t, so that it is 0 where e^p = t.
    """

    def __call__(self, pred: Array, target: Array, weight: Array | None = None) -> ValueAndGrad:
        """Return value, dpred."""
        value, dpred = super().__call__(pred, target, weight)
        xp, t = namespace(target), target
        t_log_t = t * xp.log(xp.where(t > 0, t, xp.ones_like(t)))
        least, _ = self._reduce(xp.sum(t_log_t - t, axis=-1), dpred, weight)
        return value + least, dpred


def summed(
    model: Layer, loss: Loss, params: Params, batch: Batch, key: Key | None = None
) -> tuple[Array, Params]:
    """Return sum of w l over a batch x, y, w, and its gradient; `loss` must be a sum over rows."""
    x, y, weight = batch
    pred, caches = model.forward(params, x, key)
    value, dpred = loss(pred, y, weight)
    return value, dparams_of(model, params, caches, dpred)


def summing(model: Layer, loss: Loss) -> Part:
    """Return `summed` as a function of parameters and a batch."""
    return lambda params, batch: summed(model, loss, params, batch)


def penalized(
    value: Array, grads: Params, params: Params, alpha: float, total: Array | float
) -> tuple[Array, Params]:
    """Return L = (value + alpha/2 sum of W^2) / total and dL = (grads + alpha W) / total."""
    if alpha > 0:
        for p in params:
            if _has_weights(p):
                value = value + 0.5 * alpha * namespace(p["W"]).sum(p["W"] * p["W"])
        grads = tuple(
            {**g, "W": g["W"] + alpha * p["W"]} if _has_weights(p) else g
            for g, p in zip(grads, params, strict=True)
        )
    return value / total, tree.map(lambda g: g / total, grads)


def _has_weights(params: Params) -> bool:
    return isinstance(params, dict) and "W" in params


def make_penalized_step(
    model: Layer, loss: Loss, optimizer: Optimizer, alpha: float
) -> Callable[..., tuple[Params, State, Array]]:
    """Return ``step(params, state, x, y, weight, key=None) -> params, state, L``.

    L is that before the update; `key` is for layers that draw random numbers. What an optimizer
    other than scikit-learn's returns is checked.
    """
    updated = _update_of(optimizer)

    def step(
        params: Params,
        state: State,
        x: Array,
        y: Array,
        weight: Array | None,
        key: Key | None = None,
    ) -> tuple[Params, State, Array]:
        value, grads = summed(model, loss, params, (x, y, weight), key)
        total = x.shape[0] if weight is None else namespace(weight).sum(weight)
        value, grads = penalized(value, grads, params, alpha, total)
        params, state = updated(params, state, grads)
        return params, state, value

    return step


def _update_of(optimizer: Optimizer) -> Callable[..., tuple[Params, State]]:
    """Return the update ``(params, state, grads) -> params, state`` of an optimizer."""
    if not isinstance(optimizer, SklearnSGD | SklearnAdam):
        return partial(update, optimizer)

    def updated(params: Params, state: State, grads: Params) -> tuple[Params, State]:
        updates, state = optimizer.update(grads, state, params)
        return tree.map(lambda p, u: p + u, params, updates), state

    return updated


def make_sharded_penalized_step(
    model: Layer, loss: Loss, optimizer: Optimizer, alpha: float
) -> ShardedStep:
    """Return the step of `make_penalized_step` as sums over shards, and the update of them."""
    updated = _update_of(optimizer)

    def part(
        params: Params, x: Array, y: Array, weight: Array | None, key: Key | None
    ) -> tuple[Array, Params]:
        return summed(model, loss, params, (x, y, weight), key)

    def finish(
        params: Params,
        state: State,
        value: Array,
        grads: Params,
        rows: Array,
        weights: Array,
        scale: None,
    ) -> tuple[Params, State, Array]:
        value, grads = penalized(value, grads, params, alpha, weights)
        params, state = updated(params, state, grads)
        return params, state, value

    return ShardedStep(part, finish, weighted=True)


def over_all_rows(
    part: Part,
    alpha: float,
    batches: Callable[[], Iterable[Batch]],
    total: Array | float,
    params: Params,
) -> tuple[Callable[[Array], ValueAndGrad], Array, Callable[[Array], Params]]:
    """Return the function v -> L, dL/dv over all batches, the vector v of `params`, and unravel.

    `part(params, batch)` is that of `summing`; `total` is the sum of all weights.
    """
    vector, unravel = tree.ravel(params)

    def function(v: Array) -> tuple[Array, Array]:
        p = unravel(v)
        value: Any = None
        grads: Params = None
        for batch in batches():
            more, dpart = part(p, batch)
            value = more if value is None else value + more
            grads = dpart if grads is None else tree.map(lambda a, b: a + b, grads, dpart)
        value, grads = penalized(value, grads, p, alpha, total)
        return value, tree.ravel(grads)[0]

    return function, vector, unravel
