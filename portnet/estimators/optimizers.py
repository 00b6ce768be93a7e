"""Optimizers: the updates of scikit-learn's sgd and adam."""

from dataclasses import dataclass
from typing import NamedTuple

from .. import optimizers, tree
from .._typing import Array, Params, State
from ..backend import namespace
from ..optimizers import AdamState

__all__ = ["SklearnAdam", "SklearnSGD", "VelocityState"]


class VelocityState(NamedTuple):
    """The learning rate, which may change between epochs, and the velocity v."""

    lr: Array | float
    v: Params


@dataclass(frozen=True)
class SklearnSGD:
    """v <- momentum v - lr g;  u = v, or momentum v - lr g with the new v (Nesterov).

    With a constant lr these are the steps of `portnet.Momentum` and `portnet.Nesterov`. If lr
    changes, v keeps the earlier steps as they were made.
    """

    lr: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = True

    def init(self, params: Params) -> State:
        """Return the state: lr, and v = 0."""
        lr = optimizers._zero(params) + self.lr
        return VelocityState(lr, tree.map(optimizers._zeros_like, params))

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Update v and return the step u."""
        lr = state.lr
        v = tree.map(lambda v, g: self.momentum * v - lr * g, state.v, grads)
        u = tree.map(lambda v, g: self.momentum * v - lr * g, v, grads) if self.nesterov else v
        return u, VelocityState(lr, v)


@dataclass(frozen=True)
class SklearnAdam(optimizers.Adam):
    """u = -lr c m / (sqrt(v) + eps), c = sqrt(1 - beta2^t) / (1 - beta1^t).

    `portnet.Adam`, except that eps is added to sqrt(v) without bias correction (Kingma and Ba 2015,
    last paragraph of section 2).
    """

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Update the running means and return the step u."""
        t = state.t + 1.0
        m = tree.map(lambda m, g: self.beta1 * m + (1 - self.beta1) * g, state.m, grads)
        v = tree.map(lambda v, g: self.beta2 * v + (1 - self.beta2) * (g * g), state.v, grads)
        one1 = optimizers.one_minus_power(self.beta1, t)
        one2 = optimizers.one_minus_power(self.beta2, t)
        rate = self.lr * one2**0.5 / one1
        u = tree.map(lambda m, v: -rate * m / (namespace(v).sqrt(v) + self.eps), m, v)
        return u, AdamState(t, m, v)
