"""Optimizer checks: does an optimizer of your own keep the protocol, and go downhill?"""

from typing import Any

import numpy as np

from . import rng as random
from . import tree
from ._typing import Params
from ._validation import check_methods, check_pair, name_of, resolve
from .backend import Backend, backend_of, describe, get_backend, is_host, to_numpy
from .optimizers import OPTIMIZERS, Optimizer

__all__ = ["OptimizerError", "check_optimizer", "returns_parameters"]

STEPS = 20  # with the same gradient: also a learning rate that warms up has then moved something


class OptimizerError(AssertionError):
    """An optimizer does not do what is asked of one; the message says what.

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

    Updates, which are added to the parameters, have their nest, shapes and dtypes; the state keeps
    its own, and holds arrays; nothing that is given is changed; the same arguments give the same
    results; and 20 steps with one gradient go against it. Float32 stays float32.

    Parameters
    ----------
    optimizer : str or optimizer
    params : nest of arrays, optional
        In any library, of any shape; by default random ones of a Dense layer and a 0-d one, on
        the current backend.
    seed : int
        Of the random parameters.

    Raises
    ------
    OptimizerError
        The message says what was expected and what was given.

    Examples
    --------
    >>> import portnet
    >>> portnet.check_optimizer("adam")  # no error
    >>> portnet.check_optimizer(portnet.SGD(portnet.CosineDecay(0.1, steps=100)))
    """
    optimizer = resolve("optimizer", optimizer, OPTIMIZERS)
    check_methods("an optimizer", optimizer, ("init", "update"))
    if params is None:
        draw = random.generator(seed)
        shapes = {"W": (4, 3), "b": (1, 3), "scale": ()}
        backend = get_backend()
        dtype = "float64" if backend.supports("float64") else "float32"
        drawn = {k: backend.asarray(draw.standard_normal(s), dtype) for k, s in shapes.items()}
        params = (drawn, ())
    for kind in ("float32", None):  # None: their own
        _check(optimizer, params if kind is None else _cast(params, kind))


def returns_parameters(optimizer: Any, params: Params) -> bool:
    """Tell whether an update by gradients of 0 is the parameters themselves, and no update."""
    try:
        zeros = tree.map(lambda p: 0.0 * p, params)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        pairs = list(zip(_host(params), _host(updates), strict=True))
    except Exception:  # an optimizer of somebody's own may raise anything; other messages say it
        return False
    moved = [np.abs(u - p).max() <= 0.1 * np.abs(p).max() for p, u in pairs if np.any(p)]
    return bool(moved) and all(moved)


def _check(optimizer: Any, params: Params) -> None:
    name = name_of(optimizer)
    grads = tree.map(lambda p: 1.0 * p, params)  # of the sum of squares, halved
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
        answer = check_pair(optimizer, "update", "updates, state", optimizer.update(*given))
        updates, state = answer
        if [a.tobytes() for a in _host(given)] != before:
            raise OptimizerError(f"{name}: update changes its arguments in place")
        _check_like(updates, params, f"{name}: updates", "the parameters")
        _check_like(state, first, f"{name}: the state", "that of init")
        again = optimizer.update(*given)
        if [a.tobytes() for a in _host(answer)] != [a.tobytes() for a in _host(again)]:
            raise OptimizerError(f"{name}: update of the same arguments gives other results")
        moved = [m + u for m, u in zip(moved, _host(updates), strict=True)]
    if not all(np.isfinite(m).all() for m in moved):
        raise OptimizerError(f"{name}: updates of finite gradients are not finite")
    along = sum(float(np.sum(m * g)) for m, g in zip(moved, _host(grads), strict=True))
    if not along < 0:
        raise OptimizerError(
            f"{name}: expected updates that go against the gradient, as -lr * g does; {STEPS} "
            f"steps went {'along it' if along > 0 else 'nowhere'}"
        )


def _check_state(state: Any, params: Params, name: str) -> None:
    there = backend_of(tree.leaves(params)[0])
    for path, leaf in zip(tree.paths(state), tree.leaves(state), strict=True):
        if isinstance(leaf, np.generic) and there.is_host:
            continue  # 0-d results of NumPy's are numbers of its own
        if not hasattr(leaf, "dtype") or is_host(leaf) != there.is_host:
            raise OptimizerError(
                f"{name}: expected a state of arrays where the parameters are, got {leaf!r} at "
                f"state{path}: what changes from step to step is an array, 0 * p[..., 0], say"
                if not hasattr(leaf, "dtype")
                else f"{name}: the state has {describe(leaf)} at state{path}, the parameters are "
                f"in {there}"
            )


def _check_like(given: Any, expected: Any, what: str, whose: str) -> None:
    try:
        tree.map(lambda e, g: None, expected, given)
    except ValueError as error:
        raise OptimizerError(f"{what}: expected the pytree of {whose}: {error}") from None
    rows = zip(tree.paths(expected), tree.leaves(expected), tree.leaves(given), strict=True)
    for path, e, g in rows:
        if np.shape(g) != tuple(e.shape) or getattr(g, "dtype", None) != e.dtype:
            raise OptimizerError(
                f"{what}{path}: expected shape {tuple(e.shape)} and dtype {e.dtype}, as of "
                f"{whose}, got {np.shape(g)} and {getattr(g, 'dtype', type(g).__name__)}"
            )


def _cast(params: Params, dtype: str) -> Params:
    there = backend_of(tree.leaves(params)[0])
    backend = Backend(there.name, dtype, there.device, there.xp)
    return tree.map(lambda p: backend.asarray(p, dtype), params)


def _host(nest: Any) -> list[Any]:
    return [np.asarray(to_numpy(a)) for a in tree.leaves(nest)]
