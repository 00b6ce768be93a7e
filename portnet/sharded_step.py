"""The training step of `make_step` in two parts, for batches that are cut into shards."""

from dataclasses import replace
from typing import Any

from . import tree
from ._typing import Array, Params, State, ValueAndGrad
from .backend import namespace
from .engine.sharded_step import ShardedStep
from .layers import Layer, dparams_of
from .losses import Loss, Reduced
from .optimizers import Optimizer
from .rng import Key
from .training import update

__all__ = ["make_sharded_step"]


def make_sharded_step(model: Layer, loss: Loss, optimizer: Optimizer) -> ShardedStep:
    """Return the step of `make_step` as sums over the rows of shards, and the update of them.

    The loss must be a mean over rows, or a sum if its `reduction` is "sum": then the sum over the
    rows of all shards is that of the batch.
    """
    averaged = getattr(loss, "reduction", "mean") == "mean"
    ours: Any = loss
    total: Any = replace(ours, reduction="sum") if isinstance(ours, Reduced) else None

    def summed(pred: Array, y: Array, weight: Array | None) -> ValueAndGrad:
        if not averaged:
            return loss(pred, y, weight)
        if total is not None and weight is None:
            pair: ValueAndGrad = total(pred, y, None)
            return pair
        value, dpred = loss(pred, y, weight)  # a weighted one has been multiplied by mean(weight)
        rows = pred.shape[-2]
        value, dpred = value * rows, dpred * rows
        if weight is not None:  # a loss of a user's may divide by weights that are all 0 here
            xp = namespace(weight)
            some = xp.sum(weight) > 0
            value = xp.where(some, value, xp.zeros_like(value))
            dpred = xp.where(some, dpred, xp.zeros_like(dpred))
        return value, dpred

    def part(
        params: Params, x: Array, y: Array, weight: Array | None, key: Key | None
    ) -> tuple[Array, Params]:
        pred, cache = model.forward(params, x, key)
        value, dpred = summed(pred, y, weight)
        return value, dparams_of(model, params, cache, dpred)

    def finish(
        params: Params,
        state: State,
        value: Array,
        grads: Params,
        rows: Array,
        weights: Array,
        scale: Array | None,
    ) -> tuple[Params, State, Array]:
        if averaged:
            value, grads = value / rows, tree.map(lambda g: g / rows, grads)
        params, state = update(optimizer, params, state, grads, scale)
        return params, state, value

    return ShardedStep(part, finish)
