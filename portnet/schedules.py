"""Schedules: learning rates as functions of t, the number of steps made so far.

A schedule is any function ``lr(t)`` that takes and returns a 0-d array (or a number). It is passed
as an optimizer's `lr`: ``Adam(CosineDecay(1e-3, steps=10_000, warmup=500))``. t counts the
optimizer's steps: an epoch has ceil(rows / batch_size) of them. t is part of the optimizer's state,
so a schedule continues when training is resumed. In float32 t does not grow beyond 2^24, or 16.7
million, steps.

These are frozen dataclasses, which can be pickled, printed and compared. A lambda works, too, but
cannot be pickled. Called with an array of t, each returns the whole curve.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

from ._typing import Array, Namespace
from ._validation import check_number
from .backend import namespace

__all__ = ["Constant", "CosineDecay", "ExponentialDecay", "InverseDecay", "StepDecay"]


@dataclass(frozen=True)
class Constant:
    """lr(t) = lr.

    t is a number, or an array of any shape; lr(t) has the shape of t.

    Examples
    --------
    >>> import portnet
    >>> lr = portnet.Constant(0.1)
    >>> lr(0), lr(1000)
    (0.1, 0.1)
    """

    lr: float

    def __post_init__(self) -> None:
        _positive(self, "lr")

    def __call__(self, t: Array) -> Array:
        """Return lr in the shape of t."""
        return self.lr + 0.0 * t


@dataclass(frozen=True)
class ExponentialDecay:
    """lr(t) = lr factor^(t / every): in `every` steps the rate decays by `factor`, continuously.

    t is a number, or an array of any shape; lr(t) has the shape of t.

    Examples
    --------
    >>> import portnet
    >>> lr = portnet.ExponentialDecay(1.0, every=100, factor=0.5)
    >>> lr(0), lr(100), lr(200)
    (1.0, 0.5, 0.25)
    """

    lr: float
    every: float
    factor: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "lr", "every")
        check_number(self, "factor", "0 < factor <= 1", lambda f: 0 < f <= 1)

    def __call__(self, t: Array) -> Array:
        """Return lr factor^(t / every)."""
        return self.lr * self.factor ** (t / self.every)


@dataclass(frozen=True)
class StepDecay(ExponentialDecay):
    """lr(t) = lr factor^floor(t / every): the rate is multiplied by `factor` every `every` steps.

    t is a number, or an array of any shape; lr(t) has the shape of t.

    Examples
    --------
    >>> import portnet
    >>> lr = portnet.StepDecay(1.0, every=100, factor=0.5)
    >>> lr(99), lr(100), lr(199), lr(200)
    (1.0, 0.5, 0.5, 0.25)
    """

    def __call__(self, t: Array) -> Array:
        """Return lr factor^floor(t / every)."""
        decays: Array = _functions(t).floor(t / self.every)
        return self.lr * self.factor**decays


@dataclass(frozen=True)
class InverseDecay:
    """lr(t) = lr / (1 + t / steps)^power.

    For 1/2 < power <= 1 the sum of the rates is infinite and that of their squares finite: the
    condition for stochastic gradient descent to converge (Robbins and Monro 1951).
    ``InverseDecay(lr, 1, 0.5)`` is scikit-learn's "invscaling".

    t is a number, or an array of any shape; lr(t) has the shape of t.

    Examples
    --------
    >>> import portnet
    >>> lr = portnet.InverseDecay(1.0, steps=100)
    >>> lr(0), lr(100), lr(300)
    (1.0, 0.5, 0.25)
    """

    lr: float
    steps: float
    power: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "lr", "steps", "power")

    def __call__(self, t: Array) -> Array:
        """Return lr / (1 + t / steps)^power."""
        return self.lr / (1.0 + t / self.steps) ** self.power


@dataclass(frozen=True)
class CosineDecay:
    """lr(t) = end + (lr - end) (1 + cos(pi x)) / 2, x = (t - warmup) / (steps - warmup) in [0, 1].

    Half a cosine from lr down to `end`, which is reached after `steps` steps and then kept
    (Loshchilov and Hutter 2017). During the first `warmup` steps, which count towards `steps`, the
    rate rises linearly from lr / (warmup + 1) to lr, as Adam's first averages are inaccurate.

    t is a number, or an array of any shape; lr(t) has the shape of t.

    Examples
    --------
    >>> import portnet
    >>> lr = portnet.CosineDecay(1.0, steps=109, warmup=9)
    >>> lr(0), lr(9), lr(59), lr(109)
    (0.1, 1.0, 0.5, 0.0)
    >>> optimizer = portnet.Adam(portnet.CosineDecay(1e-3, steps=10_000, warmup=500))
    """

    lr: float
    steps: float
    warmup: float = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "lr", "steps")
        check_number(self, "warmup", "0 <= warmup < steps", lambda w: 0 <= w < self.steps)
        check_number(self, "end", "0 <= end <= lr", lambda e: 0 <= e <= self.lr)

    def __call__(self, t: Array) -> Array:
        """Return the linear warmup, then half a cosine."""
        f = _functions(t)
        x = f.minimum(f.maximum(t - self.warmup, 0.0) / (self.steps - self.warmup), 1.0)
        warmup = f.minimum((t + 1.0) / (self.warmup + 1.0), 1.0)
        rate: Array = warmup * (self.end + (self.lr - self.end) * (0.5 + 0.5 * f.cos(math.pi * x)))
        return rate


_PYTHON = SimpleNamespace(floor=math.floor, cos=math.cos, minimum=min, maximum=max)


def _functions(t: Array) -> Namespace:
    """Return a namespace with floor, cos, minimum and maximum for an array or a number t."""
    return namespace(t) if hasattr(t, "dtype") else _PYTHON


def _positive(schedule: object, *names: str) -> None:
    for name in names:
        check_number(schedule, name, f"a finite {name} > 0", lambda x: 0 < x < math.inf)
