"""Coefs: the initial weights of an estimator's network, in scikit-learn's order.

Each W and b is uniform in -bound to bound, bound = sqrt(factor / (n_in + n_out)), with factor 2
before logistic units and else 6 (Glorot and Bengio 2010).
"""

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .._typing import Host, Params
from ..layers import ACTIVATIONS, Dropout, LayerNorm, Sigmoid
from ..perceptron import layers, plain, stride
from ..rng import generator

__all__ = ["draw"]

_DRAW_NOTHING = (*map(type, ACTIVATIONS.values()), LayerNorm, Dropout)


def draw(
    parameters: Mapping[str, Any], n_in: int, sizes: Sequence[int], rng: np.random.RandomState
) -> tuple[list[Host], list[Host], tuple[Params, ...]]:
    """Return the initial coefs, intercepts and parameters of other layers, on the host.

    `sizes` are those of the hidden layers and of the output. Layers of one's own draw from another
    generator, so that W and b are those of a network without them.
    """
    coefs: list[Host] = []
    intercepts: list[Host] = []

    def dense(n_in: int, n_out: int, factor: float) -> None:
        bound = math.sqrt(factor / (n_in + n_out))
        coefs.append(rng.uniform(-bound, bound, (n_in, n_out)))
        intercepts.append(rng.uniform(-bound, bound, n_out))

    if plain(parameters):
        factor = 2.0 if parameters["activation"] == "logistic" else 6.0
        for pair in pairwise([n_in, *sizes]):
            dense(*pair, factor)
        return coefs, intercepts, ()
    made, step = layers(parameters, sizes), stride(parameters)
    others: list[Params] = []
    activations = made[1 + (parameters.get("norm") is not None) :: step]
    factors = [2.0 if isinstance(layer, Sigmoid) else 6.0 for layer in activations]
    factors.append(factors[-1] if factors else 6.0)
    own = any(type(layer) not in _DRAW_NOTHING for i, layer in enumerate(made) if i % step)
    seeded = generator(int(copy.deepcopy(rng).randint(2**31)) if own else 0)
    for i, layer in enumerate(made):
        if i % step == 0:
            n_out = sizes[i // step]
            dense(n_in, n_out, factors[i // step])
        else:
            params, n_out = layer.init(seeded, n_in)
            others.append(params)
        n_in = n_out
    return coefs, intercepts, tuple(others)
