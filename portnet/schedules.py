"""Schedules: learning rates that change with t, the number of steps made before this one.

A schedule is any function ``lr(t)`` of a 0-d array (or a number) to one like it; give it as an
optimizer's `lr`: ``Adam(CosineDecay(1e-3, steps=10_000, warmup=500))``. t counts the optimizer's
steps: an epoch has ceil(rows / batch_size) of them. t is part of the optimizer's state, so that a
schedule goes on where it was when training goes on. In float32 t is exact up to 16.7 million steps,
and stays there.

These are frozen dataclasses, so that what holds one can be pickled, printed and compared; a lambda
works as well, and cannot be pickled. Called with an array of several t, each gives the whole curve.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ._typing import Array
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
        """Return lr, like t."""
        return self.lr + 0.0 * t


@dataclass(frozen=True)
class ExponentialDecay:
    """lr(t) = lr factor^(t / every): a little less in each step, `factor` times after `every`.

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
    """lr(t) = lr factor^floor(t / every): the same for `every` steps, then `factor` times that.

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
        return self.lr * self.factor ** _functions(t).floor(t / self.every)


@dataclass(frozen=True)
class InverseDecay:
    """lr(t) = lr / (1 + t / steps)^power: half after `steps` steps, a third after twice as many.

    The steps add up to infinity and their squares do not, for 1/2 < power <= 1: the condition under
    which stochastic gradients converge (Robbins and Monro 1951). ``InverseDecay(lr, 1, 0.5)`` is
    scikit-learn's "invscaling".

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

    Half a wave from lr down to `end`, reached after `steps` steps and kept (Loshchilov and Hutter
    2017). During the first `warmup` steps, which are counted in `steps`, the rate rises in a line
    from lr / (warmup + 1) to lr: large steps do harm before Adam has met enough gradients.

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
        """Return the rising line up to `warmup`, then half a cosine."""
        f = _functions(t)
        x = f.minimum(f.maximum(t - self.warmup, 0.0) / (self.steps - self.warmup), 1.0)
        rising = f.minimum((t + 1.0) / (self.warmup + 1.0), 1.0)
        return rising * (self.end + (self.lr - self.end) * (0.5 + 0.5 * f.cos(math.pi * x)))


_NUMBERS = SimpleNamespace(floor=math.floor, cos=math.cos, minimum=min, maximum=max)


def _functions(t: Any) -> Any:
    """Return where floor, cos, minimum and maximum of t are: its library, or Python's numbers."""
    return namespace(t) if hasattr(t, "dtype") else _NUMBERS


def _positive(schedule: Any, *names: str) -> None:
    for name in names:
        check_number(schedule, name, f"a finite {name} > 0", lambda x: 0 < x < math.inf)
