"""SparseDense: the first layer of a network whose features are a sparse matrix."""

from dataclasses import dataclass
from typing import Any

from .._typing import Array, Cache, Params
from ..backend import namespace
from ..layers import Dense
from ..rng import Key

__all__ = ["SparseDense"]


@dataclass(frozen=True)
class SparseDense(Dense):
    """y = x @ W + b for a SciPy sparse matrix x (rows, n_in), on NumPy.

    It is for the first layer of a network: dx is not computed.
    """

    def forward(self, params: Params, x: Any, key: Key | None = None) -> tuple[Array, Cache]:
        """y = x @ W + b."""
        return x @ params["W"] + params["b"], x

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Any]:
        """dW = x.T @ dy; db = the sum of the rows of dy."""
        x = cache
        return {"W": x.T @ dy, "b": namespace(dy).sum(dy, axis=-2, keepdims=True)}, None
