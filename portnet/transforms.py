"""Transforms: what is done to the gradients before an optimizer gets them.

A transform has an optimizer's two methods, and returns gradients in the place of updates; `chain`
puts transforms and an optimizer one after the other, and is an optimizer itself:
``chain(WeightDecay(1e-4), ClipNorm(1.0), Momentum(0.1))``.
"""

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from . import tree
from .backend import namespace
from .options import methods, number

__all__ = ["Chained", "ClipNorm", "WeightDecay", "chain"]

Array = Any
Params = Any  # a nest of arrays: see portnet.tree
State = Any


@dataclass(frozen=True)
class WeightDecay:
    """g <- g + decay p: the gradient of L + decay |p|^2 / 2 (ridge, or L2, regularisation).

    Parameters
    ----------
    decay : float
        Of the mean loss: the same `decay` means the same for every batch size.
    only : str, optional
        The name of the parameters that decay; ``only="W"`` spares biases and LayerNorm's gains. By
        default every parameter decays.

    Notes
    -----
    For Adam and RMSProp, which divide by the size of the gradients, see `portnet.AdamW`.
    """

    decay: float
    only: str | None = None

    def __post_init__(self) -> None:
        number(self, "decay", "a finite decay >= 0", lambda d: 0 <= d < math.inf)
        if not isinstance(self.only, str | None):
            raise TypeError(f"WeightDecay: expected the name of parameters, got {self.only!r}")

    def init(self, params: Params) -> State:
        """Nothing to remember; raises ValueError where no parameter has the name `only`."""
        if tree.leaves(params) and not any(self._decays(params)):
            raise ValueError(
                f"WeightDecay: no parameter is named {self.only!r}; there are "
                f"{', '.join(tree.paths(params))}"
            )
        return ()

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """g <- g + decay p."""
        decays = iter(self._decays(params))
        return tree.map(
            lambda g, p: g + self.decay * p if next(decays) else g, grads, params
        ), state

    def _decays(self, params: Params) -> list[bool]:
        if self.only is None:
            return [True] * len(tree.leaves(params))
        return [path.endswith(f"[{self.only!r}]") for path in tree.paths(params)]


@dataclass(frozen=True)
class ClipNorm:
    """g <- g min(1, limit / |g|), |g| = sqrt(sum of g_i^2 over all parameters).

    All gradients shrink alike, so that their direction stays (Pascanu et al. 2013). The norm stays
    where the arrays are: the host does not wait for it. Where it overflows, the step is 0.
    """

    limit: float

    def __post_init__(self) -> None:
        number(self, "limit", "a finite limit > 0", lambda c: 0 < c < math.inf)

    def init(self, params: Params) -> State:
        """Nothing to remember."""
        return ()

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """g <- g limit / max(|g|, limit): this form divides by no zero."""
        squares = [namespace(g).sum(g * g) for g in tree.leaves(grads)]
        if not squares:
            return grads, state
        xp = namespace(*squares)
        norm = xp.sqrt(reduce(add, squares))
        scale = self.limit / xp.maximum(norm, self.limit)
        return tree.map(lambda g: scale * g, grads), state


@dataclass(frozen=True)
class Chained:
    """Transforms and an optimizer, each given what the one before it returned: see `chain`."""

    parts: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("chain: expected at least one optimizer, got nothing")
        for i, part in enumerate(self.parts):
            methods(f"part {i + 1} of a chain", part, ("init", "update"))

    def init(self, params: Params) -> State:
        """Return the states of the parts."""
        return tuple(part.init(params) for part in self.parts)

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Pass the gradients through every part; what the last returns are the updates."""
        after = []
        for part, s in zip(self.parts, state, strict=True):
            grads, s = part.update(grads, s, params)
            after.append(s)
        return grads, tuple(after)


def refuse_transforms(optimizer: Any) -> None:
    """Raise TypeError for a transform, or a chain that ends with one, in an optimizer's place."""
    last = optimizer
    while isinstance(last, Chained):
        last = last.parts[-1]
    if isinstance(last, WeightDecay | ClipNorm):
        raise TypeError(
            f"expected an optimizer, got {optimizer}, which changes gradients but makes no step: "
            f"portnet.chain({last}, portnet.Adam())"
        )


def chain(*parts: Any) -> Chained:
    """Return an optimizer that passes gradients through transforms and then an optimizer.

    >>> chain(ClipNorm(1.0), WeightDecay(1e-4)).parts
    (ClipNorm(limit=1.0), WeightDecay(decay=0.0001, only=None))
    """
    return Chained(parts)
