"""Optimizers: from gradients to updates, in order of difficulty.

An optimizer has two pure methods, as in optax (so that optax's optimizers can be used with JAX):

* ``init(params) -> state`` returns the state before the first step; the parameters themselves come
  from `portnet.init` (training.py);
* ``update(grads, state, params) -> updates, state``: the updates are *added* to the parameters.

In the equations param is a parameter, g its gradient (in `grads`; `dparams` in layers.py) and u its
update; ``<-`` is an assignment. t is the number of steps made so far (in losses.py, the target).

Gradients, updates and averages in the state are pytrees like the parameters: nested tuples, lists
and dicts of arrays. ``tree.map(f, a, b)`` calls f with each array of a and the array at the same
position in b, and returns the results as a pytree.

What changes from step to step, such as t, is an array in the state; constants are fields. A
learning rate is a number, or a schedule: a function of t (`portnet.schedules`, or your own).
`portnet.transforms` has clipping, weight decay and `chain`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from . import tree
from ._typing import Array, Params, State  # names of types
from ._validation import (
    check_decay,  # these two raise errors with clear messages
    check_number,
    decays,  # which parameters decay, by dict key
)
from .backend import ShapeError, device, namespace  # namespace(x): the array library of x

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamState",
    "AdamW",
    "Momentum",
    "MomentumState",
    "Nesterov",
    "Optimizer",
    "RMSProp",
    "RMSPropState",
]

# lr, or lr(t), where t is a 0-d array
LearningRate = float | Callable[[Any], Array | float]


class Optimizer(Protocol):
    """The protocol of an optimizer, for type checkers: two pure methods.

    Shapes: updates and gradients have the shapes of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> from portnet import tree
    >>> class SignDescent:  # u = -lr sign(g)
    ...     def init(self, params):
    ...         return ()
    ...     def update(self, grads, state, params):
    ...         return tree.map(lambda g: -0.01 * portnet.namespace(g).sign(g), grads), state
    >>> portnet.check_optimizer(SignDescent())  # raises OptimizerError if it is wrong
    """

    def init(self, params: Params) -> State:
        """Return the state before the first step."""

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Return the updates, which are added to the parameters, and the next state."""


@dataclass(frozen=True)
class SGD:
    """u = -lr g: gradient descent, or stochastic gradient descent with batches.

    Shapes: updates and gradients have the shapes of the parameters; t is 0-d.

    Parameters
    ----------
    lr : float or function of t
        Learning rate.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> optimizer, params = portnet.SGD(0.5), np.array([1.0, 2.0])
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(np.array([0.5, -1.0]), state, params)
    >>> params + updates
    array([0.75, 2.5 ])
    """

    lr: LearningRate = 0.1

    def __post_init__(self) -> None:
        _check_lr(self)

    def init(self, params: Params) -> State:
        """t = 0."""
        return _zero(params)

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """u = -lr g."""
        t = state  # all that SGD needs
        lr = _learning_rate(self.lr, t)
        return tree.map(lambda g: -lr * g, grads), t + 1.0


class MomentumState(NamedTuple):
    """State of Momentum and Nesterov: t steps made; the velocity v.

    t is 0-d; v has the shapes of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> portnet.Momentum().init(np.ones(2))
    MomentumState(t=array(0.), v=array([0., 0.]))
    """

    t: Array | float  # a float where there are no parameters
    v: Params


@dataclass(frozen=True)
class Momentum:
    """v <- beta v + g;  u = -lr v: the heavy-ball method (Polyak 1964; Sutskever et al. 2013).

    v, the velocity, is a fading sum of g. Shapes: updates, gradients and v have the shapes of the
    parameters; t is 0-d.

    Parameters
    ----------
    lr : float or function of t
        Learning rate.
    beta : float
        Momentum, 0 <= beta < 1: the factor of past gradients at each step.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> optimizer, params = portnet.Momentum(0.5, beta=0.5), np.array([1.0])
    >>> state = optimizer.init(params)
    >>> for grads in (np.array([1.0]), np.array([1.0])):
    ...     updates, state = optimizer.update(grads, state, params)
    ...     print(updates)
    [-0.5]
    [-0.75]
    """

    lr: LearningRate = 0.1
    beta: float = 0.9

    def __post_init__(self) -> None:
        _check_lr(self)
        _check_beta(self, "beta")

    def init(self, params: Params) -> State:
        """t = 0, v = 0."""
        return MomentumState(_zero(params), tree.map(_zeros_like, params))

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """v <- beta v + g;  u = -lr v."""
        lr = _learning_rate(self.lr, state.t)
        v = tree.map(lambda v, g: self.beta * v + g, state.v, grads)
        return tree.map(lambda v: -lr * v, v), MomentumState(state.t + 1.0, v)


@dataclass(frozen=True)
class Nesterov(Momentum):
    """v <- beta v + g;  u = -lr (g + beta v): Nesterov's accelerated gradient.

    Nesterov (1983), as in Sutskever et al. (2013), but param is the point ahead where they take the
    gradient. v is the velocity, as in `Momentum`.

    Shapes: updates, gradients and v have the shapes of the parameters; t is 0-d.

    Parameters
    ----------
    lr : float or function of t
        Learning rate.
    beta : float
        Momentum, 0 <= beta < 1: the factor of past gradients at each step.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> optimizer, params = portnet.Nesterov(0.5, beta=0.5), np.array([1.0])
    >>> state = optimizer.init(params)
    >>> for grads in (np.array([1.0]), np.array([1.0])):
    ...     updates, state = optimizer.update(grads, state, params)
    ...     print(updates)
    [-0.75]
    [-0.875]
    """

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """v <- beta v + g;  u = -lr (g + beta v)."""
        lr = _learning_rate(self.lr, state.t)
        v = tree.map(lambda v, g: self.beta * v + g, state.v, grads)
        u = tree.map(lambda v, g: -lr * (g + self.beta * v), v, grads)
        return u, MomentumState(state.t + 1.0, v)


class RMSPropState(NamedTuple):
    """State of RMSProp: t steps made; the running mean v of g^2.

    t is 0-d; v has the shapes of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> portnet.RMSProp().init(np.ones(2))
    RMSPropState(t=array(0.), v=array([0., 0.]))
    """

    t: Any
    v: Params


@dataclass(frozen=True)
class RMSProp:
    """v <- beta v + (1 - beta) g^2;  u = -lr g / (sqrt(v) + eps).

    Tieleman and Hinton (2012), lecture 6.5. v is a running mean of g^2, in which recent steps
    count most. Each coordinate moves by about lr; the first steps are larger, up to
    lr / sqrt(1 - beta), as v starts at 0.

    Shapes: updates, gradients and v have the shapes of the parameters; t is 0-d.

    Parameters
    ----------
    lr : float or function of t
        Learning rate.
    beta : float
        The factor of the running mean, 0 <= beta < 1.
    eps : float
        A small number > 0, which prevents divisions by 0.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> optimizer, params = portnet.RMSProp(0.1), np.array([1.0, 1.0])
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(np.array([5.0, -0.01]), state, params)
    >>> updates.round(3)  # lr / sqrt(1 - beta), whatever the size of the gradient
    array([-0.316,  0.316])
    """

    lr: LearningRate = 1e-3
    beta: float = 0.9
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_lr(self)
        _check_beta(self, "beta")
        _check_eps(self)

    def init(self, params: Params) -> State:
        """t = 0, v = 0."""
        return RMSPropState(_zero(params), tree.map(_zeros_like, params))

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """v <- beta v + (1 - beta) g^2;  u = -lr g / (sqrt(v) + eps)."""
        lr = _learning_rate(self.lr, state.t)
        v = tree.map(lambda v, g: self.beta * v + (1 - self.beta) * (g * g), state.v, grads)
        u = tree.map(lambda v, g: -lr * g / (namespace(v).sqrt(v) + self.eps), v, grads)
        return u, RMSPropState(state.t + 1.0, v)


class AdamState(NamedTuple):
    """State of Adam: t steps made; the running means m of g and v of g^2.

    t is 0-d; m and v have the shapes of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> portnet.Adam().init(np.ones(2))
    AdamState(t=array(0.), m=array([0., 0.]), v=array([0., 0.]))
    """

    t: Array | float  # a float where there are no parameters
    m: Params
    v: Params


@dataclass(frozen=True)
class Adam:
    """u = -lr m_hat / (sqrt(v_hat) + eps), m_hat = m / (1 - beta1^t), v_hat = v / (1 - beta2^t).

    m <- beta1 m + (1 - beta1) g and v <- beta2 v + (1 - beta2) g^2 are running means of the
    gradient and of its square. They start at 0; the divisions correct this bias (Kingma and Ba
    2015, algorithm 1). Here t counts the step being made: 1 in the first step, where a schedule
    gets 0.

    Shapes: updates, gradients, m and v have the shapes of the parameters; t is 0-d.

    Parameters
    ----------
    lr : float or function of t
        Learning rate.
    beta1, beta2 : float
        The factors of the running means of g and of g^2, at least 0 and less than 1.
    eps : float
        A small number > 0, which prevents divisions by 0.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> optimizer, params = portnet.Adam(0.1), np.array([1.0, 1.0])
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(np.array([5.0, -0.01]), state, params)
    >>> updates.round(3)  # the first step is lr, whatever the size of the gradient
    array([-0.1,  0.1])
    """

    lr: LearningRate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_lr(self)
        _check_beta(self, "beta1")
        _check_beta(self, "beta2")
        _check_eps(self)

    def init(self, params: Params) -> State:
        """t = 0, m = 0, v = 0."""
        return AdamState(
            _zero(params), tree.map(_zeros_like, params), tree.map(_zeros_like, params)
        )

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Update the running means, correct their bias, and return u."""
        lr, t = _learning_rate(self.lr, state.t), state.t + 1.0
        m = tree.map(lambda m, g: self.beta1 * m + (1 - self.beta1) * g, state.m, grads)
        v = tree.map(lambda v, g: self.beta2 * v + (1 - self.beta2) * (g * g), state.v, grads)
        correction1 = one_minus_power(self.beta1, t)  # 1 - beta1^t
        correction2 = one_minus_power(self.beta2, t)

        def update_of(m: Array, v: Array) -> Array:  # m / correction1 is m_hat, and so with v
            u: Array = -lr * (m / correction1) / (namespace(v).sqrt(v / correction2) + self.eps)
            return u

        return tree.map(update_of, m, v), AdamState(t, m, v)


@dataclass(frozen=True)
class AdamW(Adam):
    """u = Adam's u - lr decay param: decoupled weight decay (Loshchilov and Hutter 2019).

    A decay that is added to the gradient (`portnet.transforms.WeightDecay`) is divided by
    sqrt(v_hat), so that parameters with large g hardly decay; here it is not divided.

    Shapes: updates, gradients, m and v have the shapes of the parameters; t is 0-d.

    Parameters
    ----------
    lr : float or function of t
        Learning rate.
    beta1, beta2, eps : float
        As in `Adam`.
    decay : float
        The factor of weight decay, at least 0.
    only : str, optional
        The dict key of the parameters that decay, such as "W". By default every parameter decays,
        biases included, as in PyTorch and optax.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> params = {"W": np.ones(1), "b": np.ones(1)}
    >>> optimizer = portnet.AdamW(0.1, decay=0.5, only="W")
    >>> state = optimizer.init(params)
    >>> grads = {"W": np.zeros(1), "b": np.zeros(1)}
    >>> optimizer.update(grads, state, params)[0]["W"]
    array([-0.05])
    """

    decay: float = 0.01
    only: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self)

    def init(self, params: Params) -> State:
        """t = 0, m = 0, v = 0; raises ValueError if no parameter is named `only`."""
        decays(self, tree.paths(params))  # the paths of the parameters, such as "[0]['W']"
        return super().init(params)

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """u = Adam's u - lr decay param."""
        lr_decay = _learning_rate(self.lr, state.t) * self.decay
        updates, state = super().update(grads, state, params)
        # whether each parameter decays, in the order in which tree.map visits them
        decaying = iter(decays(self, tree.paths(params)))

        def decayed(u: Any, param: Any) -> Any:
            return u - lr_decay * param if next(decaying) else u

        return tree.map(decayed, updates, params), state


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {  # what Trainer(optimizer=...) accepts
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}


def _learning_rate(lr: LearningRate, t: Array | float) -> Array | float:
    """Return lr or lr(t); raise ShapeError unless it is a number or a 0-d array like t."""
    if not callable(lr):
        return lr
    value = lr(t)
    if isinstance(value, int | float):  # also NumPy's float64, which would promote float32
        return float(value)
    if hasattr(t, "dtype") and getattr(value, "dtype", None) != t.dtype:
        raise ShapeError(
            f"learning rate {lr}: expected a Python number or a 0-d {t.dtype} array like t, "
            f"got {value!r}"
        )
    if getattr(value, "shape", ()) != ():
        raise ShapeError(f"learning rate {lr}: expected one number, got shape {value.shape}")
    return value


def one_minus_power(beta: float, t: Array | float) -> Array | float:
    """1 - beta^t = -expm1(t log(beta)), accurate also if beta^t is close to 1."""
    if beta == 0:
        return 1.0
    expm1 = math.expm1 if type(t) is float else namespace(t).expm1  # a float if no parameters
    return -expm1(t * math.log(beta))


def _zeros_like(param: Array) -> Array:
    zeros: Array = namespace(param).zeros_like(param)
    return zeros


def _zero(params: Params) -> Array | float:
    """Return a 0-d zero of the dtype and on the device of the parameters; 0.0 if there are none."""
    for param in tree.leaves(params):  # the first, if any
        zero: Array = namespace(param).zeros((), dtype=param.dtype, device=device(param))
        return zero
    return 0.0


def _check_lr(optimizer: Any) -> None:
    if not callable(optimizer.lr) or isinstance(optimizer.lr, type):
        expected = "a finite lr > 0, or a function of t"
        check_number(optimizer, "lr", expected, lambda lr: 0 < lr < math.inf)


def _check_beta(optimizer: object, name: str) -> None:
    check_number(optimizer, name, f"0 <= {name} < 1", lambda beta: 0 <= beta < 1)


def _check_eps(optimizer: object) -> None:
    check_number(optimizer, "eps", "a finite eps > 0", lambda e: 0 < e < math.inf)
