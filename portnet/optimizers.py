"""Optimizers: from gradients to updates, in the order in which they grew out of each other.

An optimizer has two pure methods, optax's protocol (so that optax's optimizers drop in on JAX):

* ``init(params) -> state``;
* ``update(grads, state, params) -> updates, state``: the updates are *added* to the parameters.

Grads, updates and whatever the state remembers are nests of the shape of the parameters. What
changes from step to step is an array of the state (Adam's t); what never changes is a field.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from . import tree
from .backend import device, namespace
from .options import number

Params = Any  # a nest of arrays: see portnet.tree
State = Any


class Optimizer(Protocol):
    """What an optimizer is: two pure methods."""

    def init(self, params: Params) -> State:
        """Return the state before the first step."""

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Return what to add to the parameters, and the next state."""


@dataclass(frozen=True)
class SGD:
    """u = -lr g: gradient descent, stochastic where the gradient is that of a batch."""

    lr: float = 0.1

    def __post_init__(self) -> None:
        _check_lr(self)

    def init(self, params: Params) -> State:
        """Nothing to remember."""
        return ()

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """u = -lr g."""
        return tree.map(lambda g: -self.lr * g, grads), state


@dataclass(frozen=True)
class Momentum:
    """v <- beta v + g;  u = -lr v: a heavy ball (Polyak 1964; Sutskever et al. 2013)."""

    lr: float = 0.1
    beta: float = 0.9

    def __post_init__(self) -> None:
        _check_lr(self)
        _check_beta(self, "beta")

    def init(self, params: Params) -> State:
        """v = 0."""
        return tree.map(_zeros_like, params)

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """v <- beta v + g;  u = -lr v."""
        v = tree.map(lambda v, g: self.beta * v + g, state, grads)
        return tree.map(lambda v: -self.lr * v, v), v


class AdamState(NamedTuple):
    """What Adam remembers: t steps made, the running means m of g and v of g^2."""

    t: Any
    m: Params
    v: Params


@dataclass(frozen=True)
class Adam:
    """u = -lr M / (sqrt(V) + eps), M = m / (1 - beta1^t), V = v / (1 - beta2^t).

    m <- beta1 m + (1 - beta1) g and v <- beta2 v + (1 - beta2) g^2 are running means of the
    gradient and of its square; the divisions make up for their start at 0 (Kingma and Ba 2015,
    algorithm 1).
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_lr(self)
        _check_beta(self, "beta1")
        _check_beta(self, "beta2")
        number(self, "eps", "eps > 0", lambda e: 0 < e < math.inf)

    def init(self, params: Params) -> State:
        """t = 0, m = 0, v = 0."""
        return AdamState(
            _zero(params), tree.map(_zeros_like, params), tree.map(_zeros_like, params)
        )

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Update the running means, correct them for their start, step."""
        t = state.t + 1.0
        m = tree.map(lambda m, g: self.beta1 * m + (1 - self.beta1) * g, state.m, grads)
        v = tree.map(lambda v, g: self.beta2 * v + (1 - self.beta2) * (g * g), state.v, grads)
        correct1 = _one_minus_power(self.beta1, t)
        correct2 = _one_minus_power(self.beta2, t)

        def step(m: Any, v: Any) -> Any:
            return -self.lr * (m / correct1) / (namespace(v).sqrt(v / correct2) + self.eps)

        return tree.map(step, m, v), AdamState(t, m, v)


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"sgd": SGD, "momentum": Momentum, "adam": Adam}


def _one_minus_power(beta: float, t: Any) -> Any:
    """1 - beta^t = -expm1(t log(beta)), to full precision also where beta^t is close to 1."""
    if beta == 0:
        return 1.0
    expm1 = math.expm1 if type(t) is float else namespace(t).expm1  # a float: no parameters
    return -expm1(t * math.log(beta))


def _zeros_like(p: Any) -> Any:
    return namespace(p).zeros_like(p)


def _zero(params: Params) -> Any:
    """Return a 0-d zero of the dtype and on the device of the parameters; 0.0 if there are none."""
    for p in tree.leaves(params):
        return namespace(p).zeros((), dtype=p.dtype, device=device(p))
    return 0.0


def _check_lr(optimizer: Any) -> None:
    number(optimizer, "lr", "a finite lr > 0", lambda lr: 0 < lr < math.inf)


def _check_beta(optimizer: Any, name: str) -> None:
    number(optimizer, name, f"0 <= {name} < 1", lambda beta: 0 <= beta < 1)
