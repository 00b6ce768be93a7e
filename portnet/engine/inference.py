"""Inference: the outputs of a model for many rows, block by block."""

import functools
from collections.abc import Callable
from typing import Any

from .._typing import Array, Params
from ..backend import backend_of, namespace
from ..compiler import Compiled
from .compile_cache import made_once, release


def forward(model: Any, params: Params, X: Array, size: int, *, compiled: bool = True) -> Array:
    """Return the raw outputs of all rows, `size` at a time: memory does not grow with their number.

    Whole blocks are replayed from one plan, where there is more than one.
    """
    count = X.shape[0]
    if count <= size:
        return model.forward(params, X)[0]
    eager = functools.partial(_outputs, model)
    known = compiled and backend_of(X).name in ("numpy", "jax")
    fn = made_once(_forward_of, model) if known else eager
    if known and isinstance(fn, Compiled) and fn.refusal(params, X[:size, ...]):
        fn = eager
    parts = [
        (fn if start + size <= count else eager)(params, X[start : min(start + size, count), ...])
        for start in range(0, count, size)
    ]
    release()
    return namespace(X).concat(parts, axis=0)


def _outputs(model: Any, params: Params, x: Array) -> Array:
    return model.forward(params, x)[0]


def _forward_of(model: Any) -> Callable[..., Array]:
    return functools.partial(_outputs, model)
