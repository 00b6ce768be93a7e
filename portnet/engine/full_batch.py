"""Full batch: the loss of all rows and its gradient as one vector, for L-BFGS."""

from collections.abc import Callable

from .. import tree
from .._typing import Array, Model, Params, ValueAndGrad
from ..backend import Backend
from ..data.dataset import Batch, Dataset
from ..layers import dparams_of
from .compile_cache import compile_cached, compiles

__all__ = ["Gradient", "gradient_of", "value_and_grad"]

Loss = Callable[[Array, Array, Array | None], ValueAndGrad]
Gradient = Callable[[Params, Batch], ValueAndGrad]


def value_and_grad(
    params: Params, data: Dataset, function: Gradient
) -> tuple[Callable[[Array], ValueAndGrad], Array, Callable[[Array], Params]]:
    """Return v -> loss, gradient for parameters as one vector v; `params` as v; v -> params.

    `function` is what `gradient_of` returns.
    """
    vector, unravel = tree.ravel(params)
    return lambda v: function(unravel(v), data.arrays), vector, unravel


def gradient_of(model: Model, loss: Loss, backend: Backend, compiled: bool) -> Gradient:
    """Return (params, (X, y, weight)) -> loss, its gradient as one vector."""
    if compiles(backend, compiled):
        return compile_cached(_value_and_grad_of, model, loss)
    return _value_and_grad_of(model, loss)


def _value_and_grad_of(model: Model, loss: Loss) -> Gradient:
    def function(params: Params, batch: Batch) -> ValueAndGrad:
        X, y, weight = batch
        pred, caches = model.forward(params, X)
        value, dpred = loss(pred, y, weight)
        return value, tree.ravel(dparams_of(model, params, caches, dpred))[0]

    return function
