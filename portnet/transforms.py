"""Transforms: changes to the gradients before an optimizer, or to its updates.

A transform has an optimizer's two methods, and returns gradients instead of updates. `chain`
combines transforms and an optimizer into one optimizer:
``chain(WeightDecay(1e-4), ClipNorm(1.0), Momentum(0.1))`` clips the gradients, and
``chain(Adam(), ClipNorm(0.1))`` the updates.
"""

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from . import tree
from ._typing import Params, State
from ._validation import check_decay, check_methods, check_number, decays
from .backend import namespace
from .optimizers import SGD, Adam, AdamW, Momentum, Nesterov, Optimizer, RMSProp

__all__ = ["Chained", "ClipNorm", "WeightDecay", "chain", "joined_parameters"]

ELEMENTWISE = (SGD, Momentum, Nesterov, RMSProp, Adam, AdamW)  # with WeightDecay and ClipNorm
OWN = (SGD, Momentum, RMSProp, Adam)  # portnet's optimizers, with their subclasses


@dataclass(frozen=True)
class WeightDecay:
    """g <- g + decay p: the gradient of L + decay |p|^2 / 2 (ridge, or L2, regularisation).

    Shapes: gradients g have the shapes of the parameters p.

    Parameters
    ----------
    decay : float
        Relative to the mean loss, so it does not depend on the batch size.
    only : str, optional
        The name of the parameters that decay; ``only="W"`` excludes biases and LayerNorm's gains.
        By default every parameter decays.

    Notes
    -----
    For Adam and RMSProp, which divide by the size of the gradients, see `portnet.AdamW`.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> decay = portnet.WeightDecay(0.1)
    >>> g, p = np.array([0.0]), np.array([2.0])
    >>> decay.update(g, decay.init(p), p)[0]
    array([0.2])
    >>> optimizer = portnet.chain(portnet.WeightDecay(1e-4, only="W"), portnet.SGD(0.1))
    """

    decay: float
    only: str | None = None

    def __post_init__(self) -> None:
        check_decay(self)

    def init(self, params: Params) -> State:
        """Return an empty state; raise ValueError if no parameter is named `only`."""
        decays(self, tree.paths(params))
        return ()

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """g <- g + decay p."""
        decaying = iter(decays(self, tree.paths(params)))
        g = tree.map(lambda g, p: g + self.decay * p if next(decaying) else g, grads, params)
        return g, state


@dataclass(frozen=True)
class ClipNorm:
    """g <- g min(1, limit / |g|), |g| = sqrt(sum of g_i^2 over all parameters).

    All gradients are scaled alike, which keeps their direction (Pascanu et al. 2013). The norm
    stays on the device: the host does not wait for it. If it overflows, the gradients become 0.

    Shapes: gradients g have the shapes of the parameters p.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> clip = portnet.ClipNorm(1.0)
    >>> g, p = np.array([3.0, 4.0]), np.array([0.0, 0.0])
    >>> clip.update(g, clip.init(p), p)[0]
    array([0.6, 0.8])
    >>> optimizer = portnet.chain(portnet.ClipNorm(1.0), portnet.Adam())
    """

    limit: float

    def __post_init__(self) -> None:
        check_number(self, "limit", "a finite limit > 0", lambda c: 0 < c < math.inf)

    def init(self, params: Params) -> State:
        """Return an empty state."""
        return ()

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """g <- g limit / max(|g|, limit), which does not divide by 0."""
        squares = [namespace(g).sum(g * g) for g in tree.leaves(grads)]
        if not squares:
            return grads, state
        xp = namespace(*squares)
        norm = xp.sqrt(reduce(add, squares))
        scale = self.limit / xp.maximum(norm, self.limit)
        return tree.map(lambda g: scale * g, grads), state


@dataclass(frozen=True)
class Chained:
    """Transforms and an optimizer in sequence, each applied to the result of the one before.

    Shapes: gradients and updates have the shapes of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> optimizer = portnet.chain(portnet.ClipNorm(1.0), portnet.SGD(0.5))
    >>> g, p = np.array([3.0, 4.0]), np.array([0.0, 0.0])
    >>> optimizer.update(g, optimizer.init(p), p)[0]
    array([-0.3, -0.4])
    """

    parts: tuple[Optimizer, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("chain: expected at least one optimizer, got nothing")
        for i, part in enumerate(self.parts):
            check_methods(f"part {i + 1} of a chain", part, ("init", "update"))
        steps = [i for i, part in enumerate(_flat(self)) if isinstance(part, OWN)]
        if len(steps) > 1:
            raise ValueError(f"chain: expected one optimizer, got {len(steps)} in {self.parts}")
        if steps and any(isinstance(part, WeightDecay) for part in _flat(self)[steps[0] :]):
            raise ValueError(
                "chain: expected WeightDecay before the optimizer: after it, parameters would grow"
            )

    def init(self, params: Params) -> State:
        """Return the states of the parts."""
        return tuple(part.init(params) for part in self.parts)

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Pass the gradients through every part; the last one returns the updates."""
        states = []
        for part, s in zip(self.parts, state, strict=True):
            grads, s = part.update(grads, s, params)
            states.append(s)
        return grads, tuple(states)


def refuse_transforms(optimizer: object) -> None:
    """Raise TypeError for transforms without an optimizer."""
    if all(isinstance(part, WeightDecay | ClipNorm) for part in _flat(optimizer)):
        raise TypeError(
            f"expected an optimizer, got {optimizer}, which changes gradients but makes no step: "
            "portnet.chain(..., portnet.Adam())"
        )


def joined_parameters(optimizer: object) -> str:
    """Return whether an optimizer's steps are the same for parameters that are joined to vectors.

    "one": for one vector of all parameters; "by name": for a vector of those of one name, as weight
    decay with `only` needs; "": they may not be the same, as for custom optimizers. A norm of all
    gradients then differs by its rounding.

    Examples
    --------
    >>> import portnet
    >>> joined_parameters(portnet.Adam()), joined_parameters(portnet.AdamW(only="W"))
    ('one', 'by name')
    """
    parts: list[Any] = _flat(optimizer)
    if any(
        type(part) not in (*ELEMENTWISE, WeightDecay, ClipNorm) or "update" in vars(part)
        for part in parts
    ):
        return ""
    return "by name" if any(getattr(part, "only", None) for part in parts) else "one"


def _flat(optimizer: object) -> list[object]:
    """Return the parts of a chain, with nested chains flattened."""
    if not isinstance(optimizer, Chained):
        return [optimizer]
    return [inner for part in optimizer.parts for inner in _flat(part)]


def chain(*parts: Optimizer) -> Chained:
    """Return an optimizer that passes gradients through transforms and then an optimizer.

    Examples
    --------
    >>> chain(ClipNorm(1.0), WeightDecay(1e-4)).parts
    (ClipNorm(limit=1.0), WeightDecay(decay=0.0001, only=None))
    """
    return Chained(parts)
