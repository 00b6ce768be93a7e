"""Coefs: from scikit-learn's `coefs_` and `intercepts_` to a model with parameters, and back."""

from .._typing import Array, Params
from ..layers import ACTIVATIONS, Chain, Dense, Layer
from .sparse_dense import SparseDense

__all__ = ["HIDDEN", "from_coefs", "to_coefs"]

HIDDEN = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


def from_coefs(
    coefs: list[Array], intercepts: list[Array], activation: str, *, sparse: bool = False
) -> tuple[Chain, Params]:
    """Return the model and the parameters of scikit-learn's `coefs_` and `intercepts_`.

    Each layer has W (n_in, n_out) and b (n_out,). If `sparse`, the first layer takes sparse x.
    """
    layers: list[Layer] = []
    params: list[Params] = []
    for W, b in zip(coefs, intercepts, strict=True):
        first = SparseDense if sparse and not layers else Dense
        layers += [first(W.shape[1]), ACTIVATIONS[HIDDEN[activation]]]
        params += [{"W": W, "b": b[None, :]}, ()]
    return Chain(layers[:-1]), tuple(params[:-1])


def to_coefs(params: Params) -> tuple[list[Array], list[Array]]:
    """Return `coefs_` and `intercepts_`: the inverse of `from_coefs`."""
    return [p["W"] for p in params[::2]], [p["b"][0, :] for p in params[::2]]
