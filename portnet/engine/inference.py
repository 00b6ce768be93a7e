"""Inference: the outputs of a model for many rows, block by block."""

import functools
from collections.abc import Callable, Iterator

import numpy as np

from .. import tree
from .._typing import Array, Model, Params
from ..backend import Backend, backend_of, namespace
from ..data.dataset import Dataset
from .compile_cache import compile_cached, compiler_for, compiles, is_cacheable, release

__all__ = [
    "explain_forward",
    "forward",
    "forward_blocks",
    "forward_dataset",
    "grouped",
    "joined",
]

CACHED = 2**15  # outputs of a layer for a block of rows
SMALL = 64  # rows up to which a block is never cut
WORTH = 4  # blocks from which on a plan is made


def forward(model: Model, params: Params, X: Array, size: int, *, compiled: bool = True) -> Array:
    """Return the raw outputs (rows, outputs), computed as in `forward_blocks`."""
    if X.shape[0] <= SMALL:
        return model.forward(params, X)[0]
    return joined(forward_blocks(model, params, X, size, compiled=compiled), X.shape[0])


def forward_blocks(
    model: Model, params: Params, X: Array, size: int, *, compiled: bool = True
) -> Iterator[Array]:
    """Yield the raw outputs of blocks of at most `size` rows, in order, to bound the memory.

    On the host, blocks of portnet's own layers, which compute each row by itself, are small enough
    for the processor's cache, and many of them are replayed from one plan, which is kept.
    """
    count, worth = X.shape[0], 1
    backend = backend_of(X)
    if backend.is_host and is_cacheable(model):
        widest = max((max(p.shape, default=1) for p in tree.leaves(params)), default=1)
        worth, size = WORTH, min(size, max(SMALL, CACHED // max(widest, X.shape[1])))
    if count <= max(size, SMALL):
        yield model.forward(params, X)[0]
        return
    eager = functools.partial(_outputs, model)
    function: Callable[[Params, Array], Array] = eager
    if count >= worth * size and compiles(backend, compiled):
        cached = compile_cached(_forward_of, model)
        function = eager if cached.refusal(params, X[:size, ...]) else cached
    try:
        for start in range(0, count, size):
            block = X[start : min(start + size, count), ...]
            yield (function if start + size <= count else eager)(params, block)
    finally:
        release()


def grouped(blocks: Iterator[Array], size: int) -> Iterator[Array]:
    """Yield blocks on the host together, up to `size` numbers at once, in one buffer.

    A group is overwritten by the next one. What follows has fewer, longer calls.
    """
    buffer, done = None, 0
    for block in blocks:
        rows = block.shape[0]
        if buffer is None:
            count = max(1, size // max(1, rows * block.shape[1])) * rows
            buffer = np.empty((count, block.shape[1]), block.dtype)
        if done + rows > len(buffer):
            yield buffer[:done]
            done = 0
        buffer[done : done + rows] = block
        done += rows
    if buffer is not None and done:
        yield buffer[:done]


def joined(blocks: Iterator[Array], count: int) -> Array:
    """Return blocks of rows as one array of `count` rows; on the host, without a second copy."""
    first = next(blocks)
    if first.shape[0] == count:
        return first
    if type(first) is not np.ndarray:
        whole: Array = namespace(first).concat([first, *blocks], axis=0)
        return whole
    rows = np.empty((count, *first.shape[1:]), first.dtype)
    rows[: len(first)], done = first, len(first)
    for block in blocks:
        rows[done : done + block.shape[0]] = block
        done += block.shape[0]
    return rows


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
