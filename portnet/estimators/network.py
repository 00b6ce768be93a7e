"""Network: the model and parameters of scikit-learn's `coefs_`; the first layer may be sparse."""

from dataclasses import dataclass
from typing import Any

from .._typing import Array, Params
from ..backend import namespace
from ..layers import ACTIVATIONS, Chain, Dense, Layer

__all__ = ["HIDDEN", "SparseDense", "from_coefs", "to_coefs"]

HIDDEN = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


@dataclass(frozen=True)
class SparseDense(Dense):
    """y = x @ W + b for a SciPy sparse matrix x (rows, n_in), on NumPy.

    It is for the first layer of a network: dx is not computed.
    """

    def forward(self, params: Params, x: Any, key: Any = None) -> tuple[Array, Any]:
        """y = x @ W + b."""
        return x @ params["W"] + params["b"], x

    def backward(self, params: Params, cache: Any, dy: Array) -> tuple[Params, Any]:
        """dW = x.T @ dy; db = the sum of the rows of dy."""
        x = cache
        return {"W": x.T @ dy, "b": namespace(dy).sum(dy, axis=-2, keepdims=True)}, None


def from_coefs(
    coefs: list[Array], intercepts: list[Array], activation: str, *, sparse: bool = False
) -> tuple[Chain, Params]:
    """Return the model and the parameters of scikit-learn's `coefs_` and `intercepts_`.

    Each layer has W (n_in, n_out) and b (n_out,). If `sparse`, the first layer takes sparse x.
    """
    layers: list[Layer] = []
    params: list[Any] = []
    for W, b in zip(coefs, intercepts, strict=True):
        first = SparseDense if sparse and not layers else Dense
        layers += [first(W.shape[1]), ACTIVATIONS[HIDDEN[activation]]]
        params += [{"W": W, "b": b[None, :]}, ()]
    return Chain(layers[:-1]), tuple(params[:-1])


def to_coefs(params: Params) -> tuple[list[Array], list[Array]]:
    """Return `coefs_` and `intercepts_`: the inverse of `from_coefs`."""
    return [p["W"] for p in params[::2]], [p["b"][0, :] for p in params[::2]]
