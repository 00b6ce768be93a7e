"""Optimizer checks: whether an optimizer follows the protocol and decreases the loss."""

import numpy as np

from . import rng, tree
from ._typing import Host, Params, State, Tree
from ._validation import check_methods, check_pair, name_of, resolve
from .backend import Backend, backend_of, describe, get_backend, is_host, to_numpy
from .optimizers import OPTIMIZERS, Optimizer

__all__ = ["OptimizerError", "check_optimizer", "returns_parameters"]

STEPS = 20  # with one gradient: enough for learning rates with warmup


class OptimizerError(AssertionError):
    """An optimizer does not follow the protocol; the message says what is wrong.

    Examples
    --------
    >>> import portnet
    >>> class Ascent(portnet.SGD):
    ...     def update(self, grads, state, params):
    ...         updates, state = super().update(grads, state, params)
    ...         return portnet.tree.map(lambda u: -u, updates), state
    >>> try:
    ...     portnet.check_optimizer(Ascent())
    ... except portnet.OptimizerError as error:
    ...     print(str(error).partition(",")[0])
    Ascent(lr=0.1): expected updates that go against the gradient
    """


def check_optimizer(
    optimizer: str | Optimizer, params: Params | None = None, *, seed: int = 0
) -> None:
    """Check ``init(params) -> state`` and ``update(grads, state, params) -> updates, state``.

    Updates must have the structure, shapes and dtypes of the parameters, and the state those of its
    initial value, and hold arrays; arguments must not be modified; equal arguments must give equal
    results; 20 steps with one gradient must go against it. Also checked with float32 parameters.

    Parameters
    ----------
    optimizer : str or optimizer
    params : pytree of arrays, optional
        In any library, of any shape; by default random arrays on the current backend.
    seed : int
        Seed of the random parameters.

    Raises
    ------
    OptimizerError
        if a check fails; the message says what was expected and what was given.

    Examples
    --------
    >>> import portnet
    >>> portnet.check_optimizer("adam")  # no error
    >>> portnet.check_optimizer(portnet.SGD(portnet.CosineDecay(0.1, steps=100)))
    """
    optimizer = resolve("optimizer", optimizer, OPTIMIZERS)
    check_methods("an optimizer", optimizer, ("init", "update"))
    if params is None:
        draw = rng.generator(seed)
        shapes = {"W": (4, 3), "b": (1, 3), "scale": ()}
        backend = get_backend()
        dtype = "float64" if backend.supports("float64") else "float32"
        arrays = {k: backend.asarray(draw.standard_normal(s), dtype) for k, s in shapes.items()}
        params = (arrays, ())
    _check(optimizer, _cast(params, "float32"))
    _check(optimizer, params)


def returns_parameters(optimizer: Optimizer, params: Params) -> bool:
    """Return whether `update` returns parameters instead of updates, tried with gradients of 0."""
    try:
        zeros = tree.map(lambda p: 0.0 * p, params)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        pairs = list(zip(_host(params), _host(updates), strict=True))
    except Exception:  # a custom optimizer may raise anything; other checks report it
        return False
    moved = [np.abs(u - p).max() <= 0.1 * np.abs(p).max() for p, u in pairs if np.any(p)]
    return bool(moved) and all(moved)


def _check(optimizer: Optimizer, params: Params) -> None:
    name = name_of(optimizer)
    grads = tree.map(lambda p: 1.0 * p, params)  # the gradient of sum(p^2) / 2
    state = first = optimizer.init(params)
    _check_state(first, params, name)
    if returns_parameters(optimizer, params):
        raise OptimizerError(
            f"{name}: expected update to return updates, which are added to the parameters, such "
            "as -lr * g; got the parameters themselves"
        )
    moved = [np.zeros(p.shape) for p in _host(params)]
    for _ in range(STEPS):
        given = grads, state, params
        before = [a.tobytes() for a in _host(given)]
        result = check_pair(optimizer, "update", "updates, state", optimizer.update(*given))
        updates, state = result
        if [a.tobytes() for a in _host(given)] != before:
            raise OptimizerError(f"{name}: update changes its arguments in place")
        _check_like(updates, params, f"{name}: updates", "the parameters")
        _check_like(state, first, f"{name}: the state", "that of init")
        again = optimizer.update(*given)
        if [a.tobytes() for a in _host(result)] != [a.tobytes() for a in _host(again)]:
            raise OptimizerError(f"{name}: update with equal arguments gives different results")
        moved = [m + u for m, u in zip(moved, _host(updates), strict=True)]
    if not all(np.isfinite(m).all() for m in moved):
        raise OptimizerError(f"{name}: updates of finite gradients are not finite")
    along = sum(float(np.sum(m * g)) for m, g in zip(moved, _host(grads), strict=True))
    if not along < 0:
        raise OptimizerError(
            f"{name}: expected updates that go against the gradient, as -lr * g does; {STEPS} "
            f"steps went {'along it' if along > 0 else 'nowhere'}"
        )


def _check_state(state: State, params: Params, name: str) -> None:
    backend = backend_of(tree.leaves(params)[0])
    for path, leaf in zip(tree.paths(state), tree.leaves(state), strict=True):
        if not hasattr(leaf, "dtype") or is_host(leaf) != backend.is_host:
            raise OptimizerError(
                f"{name}: expected a state of arrays of the parameters' library, got {leaf!r} at "
                f"state{path}: use an array for values that change, such as 0 * p[..., 0]"
                if not hasattr(leaf, "dtype")
                else f"{name}: the state has {describe(leaf)} at state{path}, the parameters are "
                f"in {backend}"
            )


def _check_like(given: Tree, expected: Tree, what: str, whose: str) -> None:
    try:
        tree.map(lambda e, g: None, expected, given)
    except ValueError as error:
        raise OptimizerError(f"{what}: expected the pytree of {whose}: {error}") from None
    leaves = zip(tree.paths(expected), tree.leaves(expected), tree.leaves(given), strict=True)
    for path, e, g in leaves:
        if np.shape(g) != tuple(e.shape) or getattr(g, "dtype", None) != e.dtype:
            raise OptimizerError(
                f"{what}{path}: expected shape {tuple(e.shape)} and dtype {e.dtype}, as of "
                f"{whose}, got {np.shape(g)} and {getattr(g, 'dtype', type(g).__name__)}"
            )


def _cast(params: Params, dtype: str) -> Params:
    given = backend_of(tree.leaves(params)[0])
    backend = Backend(given.name, dtype, given.device, given.xp)
    return tree.map(lambda p: backend.asarray(p, dtype), params)


def _host(pytree: Tree) -> list[Host]:
    return [np.asarray(to_numpy(a)) for a in tree.leaves(pytree)]
