"""Full batch: the loss and its gradient over all rows, for L-BFGS."""

from collections.abc import Callable
from typing import Any

from .. import tree
from .._typing import Array, Params
from ..backend import Backend
from ..run import Rows, Run
from .compile_cache import made_once


def value_and_grad(
    run: Run, rows: Rows, fn: Callable[..., Any]
) -> tuple[Callable[[Array], Any], Array, Callable[..., Any]]:
    """Return v -> loss, gradient for parameters as one vector; that of the run; its inverse.

    `fn` is `gradient_of` the run's trainer, at its place.
    """
    vector, unravel = tree.ravel(run.params)
    return lambda v: fn(unravel(v), rows), vector, unravel


def gradient_of(trainer: Any, place: Backend) -> Callable[..., tuple[Array, Array]]:
    """Return params, rows -> loss, its gradient as one vector; compiled where steps are, too."""
    make = made_once if trainer.compile and place.name in ("numpy", "jax") else _uncompiled
    return make(_value_and_grad_of, trainer.model, trainer.loss)


def _uncompiled(make: Callable[..., Any], *parts: Any) -> Any:
    return make(*parts)


def _value_and_grad_of(model: Any, loss: Any) -> Callable[..., tuple[Array, Array]]:
    def function(params: Params, rows: Rows) -> tuple[Array, Array]:
        X, y, weight = rows
        pred, caches = model.forward(params, X)
        value, dpred = loss(pred, y, weight)
        grads, _ = model.backward(params, caches, dpred)
        return value, tree.ravel(grads)[0]

    return function
