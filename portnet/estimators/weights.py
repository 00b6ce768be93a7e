"""Weights: all parameters of an estimator's network as a list of arrays, layer by layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import perceptron, tree
from .._typing import Array, ArrayLike
from ..backend import backend_of, to_numpy

__all__ = ["arrays", "set_arrays"]


def arrays(estimator: Any) -> list[Array]:
    """Return all parameters, layer by layer."""
    found: list[Array] = []
    stride = perceptron.stride(perceptron.fitted_with(vars(estimator)))
    for i, part in enumerate(estimator._network()[1]):
        if i % stride:
            found += tree.leaves(part)
        else:
            found += [part["W"], part["b"][0, :]]
    return found


def set_arrays(estimator: Any, weights: Sequence[ArrayLike]) -> None:
    """Set all parameters: see `_MLP.set_weights`."""
    if isinstance(weights, str) or not hasattr(weights, "__iter__"):
        raise TypeError(
            f"set_weights: expected a list of arrays, as get_weights returns, got {weights!r}"
        )
    now, given = arrays(estimator), list(weights)
    if len(given) != len(now):
        raise ValueError(
            f"set_weights: expected {len(now)} arrays, as get_weights returns, got {len(given)}"
        )
    backend = replace(backend_of(now[0]), dtype=str(to_numpy(now[0]).dtype))
    new_arrays = []
    for i, (old, new) in enumerate(zip(now, given, strict=True)):
        shape = tuple(old.shape)
        try:
            host = np.array(to_numpy(new), np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError(f"set_weights: array {i}: expected numbers: {error}") from None
        if host.shape != shape:
            raise ValueError(f"set_weights: array {i}: expected shape {shape}, got {host.shape}")
        if not np.isfinite(host).all():
            raise ValueError(f"set_weights: array {i}: expected finite values, got NaN or inf")
        new_arrays.append(backend.asarray(host, backend.dtype))
    _, params = estimator._network()
    new_params = iter(new_arrays)
    W, b, rest = [], [], []
    stride = perceptron.stride(perceptron.fitted_with(vars(estimator)))
    for i, part in enumerate(params):
        if i % stride:
            rest.append(tree.map(lambda old: next(new_params), part))
        else:
            W.append(next(new_params))
            b.append(next(new_params))
    estimator.coefs_, estimator.intercepts_ = W, b
    if rest and "_layer_params" in estimator.__dict__:
        estimator._layer_params = tuple(rest)
    if estimator.__dict__.get("_resumable") is not None:
        estimator._resumable = estimator._resumable._replace(last=None, best=False)
