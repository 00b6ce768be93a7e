"""ShardedStep: a training step in two parts, between which sums over shards are added."""

from collections.abc import Callable
from typing import NamedTuple

from .._typing import Array, Params, State

__all__ = ["ShardedStep"]


class ShardedStep(NamedTuple):
    """A training step in two parts, between which sums over shards are added.

    ``part(params, x, y, weight, key) -> value, grads``: sums over the rows of a shard;
    ``finish(params, state, value, grads, rows, weights, scale) -> params, state, L``: the update of
    the sums over a batch, which has so many rows, and weights of this sum. `weighted` is whether
    that sum is needed; else it is the number of rows.
    """

    part: Callable[..., tuple[Array, Params]]
    finish: Callable[..., tuple[Params, State, Array]]
    weighted: bool = False
