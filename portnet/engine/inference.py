"""Inference: the outputs of a model for many rows, block by block."""

import functools
from collections.abc import Callable

from .. import tree
from .._typing import Array, Model, Params
from ..backend import Backend, backend_of, namespace
from ..data.dataset import Dataset
from .compile_cache import compile_cached, compiler_for, compiles, is_cacheable, release

__all__ = ["explain_forward", "forward", "forward_dataset"]

CACHED = 2**15  # outputs of a layer for a block of rows
SMALL = 64  # rows up to which a block is never cut
WORTH = 4  # blocks from which on a plan is made


def forward(model: Model, params: Params, X: Array, size: int, *, compiled: bool = True) -> Array:
    """Return the raw outputs (rows, outputs), computing `size` rows at a time to bound the memory.

    On the host, blocks of portnet's own layers, which compute each row by itself, are small enough
    for the processor's cache, and many of them are replayed from one plan, which is kept.
    """
    count = X.shape[0]
    if count <= SMALL:
        return model.forward(params, X)[0]
    worth = 1
    backend = backend_of(X)
    if backend.is_host and is_cacheable(model):
        widest = max((max(p.shape, default=1) for p in tree.leaves(params)), default=1)
        worth, size = WORTH, min(size, max(SMALL, CACHED // max(widest, X.shape[1])))
    if count <= size:
        return model.forward(params, X)[0]
    eager = functools.partial(_outputs, model)
    function: Callable[[Params, Array], Array] = eager
    if count >= worth * size and compiles(backend, compiled):
        cached = compile_cached(_forward_of, model)
        function = eager if cached.refusal(params, X[:size, ...]) else cached
    parts = []
    for start in range(0, count, size):
        block = X[start : min(start + size, count), ...]
        parts.append((function if start + size <= count else eager)(params, block))
    release()
    joined: Array = namespace(X).concat(parts, axis=0)
    return joined


def explain_forward(model: Model, backend: Backend, size: int, *, compiled: bool = True) -> str:
    """Return how `forward` computes outputs, as text."""
    head, ours = f"predictions, {size:,} rows at a time at most: ", is_cacheable(model)
    compiler = compiler_for(backend, compiled)
    if compiler == "replay":
        return head + (
            f"replayed, from {WORTH} blocks on" if ours else "replayed, from 2 blocks on"
        )
    if compiler == "jit":
        return head + "compiled by jax.jit, from 2 blocks on"
    few = ", as a forward pass has few launches" if compiler == "graph" else ""
    return head + "eager" + few


def forward_dataset(
    model: Model, params: Params, data: Dataset, size: int, *, compiled: bool = True
) -> Array:
    """Return the raw outputs of the rows of a dataset, in its order."""
    if data.order is None and not data.is_csr:
        return forward(model, params, data.X, size, compiled=compiled)
    parts = [model.forward(params, x)[0] for x, _, _ in data.batches(size)]
    return parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=0)


def _outputs(model: Model, params: Params, x: Array) -> Array:
    return model.forward(params, x)[0]


def _forward_of(model: Model) -> Callable[..., Array]:
    return functools.partial(_outputs, model)
