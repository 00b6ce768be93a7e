"""Gradient checks: compare backward with central differences of forward.

For f with the Jacobian J, a random direction v and random weights u, <u, J v> can be computed in
two ways: as the slope of <u, f> along v, by central differences, and as <J^T u, v>, where J^T u is
what `backward` returns. Two evaluations of f check the gradient of an array of any size; a wrong
entry anywhere changes the product. Each parameter array, and x, is checked along its own direction,
so that the error names the wrong one.

Central differences have a relative error of about eps^(2/3): check in float64. If f has a kink
(ReLU at 0) within the step, a smaller step is tried.
"""

from collections.abc import Callable

import numpy as np

from . import rng, tree
from ._typing import Array, Cache, Params, Tree
from ._validation import (
    LOSS_CALL,
    check_integer,
    check_methods,
    check_pair,
    check_signature,
    name_of,
    resolve,
)
from .backend import Backend, backend_of, namespace, to_numpy
from .data import checks
from .layers import Layer, dparams_of
from .losses import LOSSES, Loss

__all__ = ["GradientError", "check_gradients", "check_layer", "check_loss"]


class GradientError(AssertionError):
    """A backward is not the derivative of its forward; the message names the array.

    Examples
    --------
    >>> import portnet
    >>> class Wrong(portnet.Tanh):
    ...     def backward(self, params, cache, dy):
    ...         return (), dy  # without the derivative of tanh
    >>> try:
    ...     portnet.check_layer(Wrong())
    ... except portnet.GradientError as error:
    ...     print(str(error).partition(".")[0])
    Wrong() in inference: dx is wrong
    """


def check_layer(
    layer: Layer, x: Array | None = None, *, n_in: int | None = None, rows: int = 5, seed: int = 0
) -> float:
    """Check `layer.backward` against `layer.forward`, in training (with a key) and in inference.

    Parameters
    ----------
    layer : layer
    x : array (rows, n_in), optional
        The point of the check, in any library; random NumPy float64 by default.
    n_in, rows, seed : int
        Shape and seed of the random x. n_in is by default that of the layer, or 6. The seed also
        determines the parameters and the directions.

    Returns
    -------
    float
        The largest relative error.

    Raises
    ------
    GradientError
        if a derivative differs, a backward is not linear in dy, a gradient has another shape or
        dtype than its array, or float32 does not stay float32.

    Examples
    --------
    >>> import portnet
    >>> portnet.check_layer(portnet.Dense(3)) < 1e-6
    True
    """
    check_methods("a layer", layer, ("init", "forward", "backward"))
    draw, n_in = rng.generator(seed), n_in or getattr(layer, "n_in", None) or 6
    x = draw.standard_normal((check_integer("rows", rows, 1), n_in)) if x is None else x
    backend = backend_of(x)
    x = checks.features(x, backend, name="x")
    params = _random_params(layer, x, draw, backend)
    errors = []
    for k, mode in ((None, "in inference"), (rng.key(seed, 0), "in training")):
        _check_float32(layer, params, x, k)
        y, cache = check_pair(layer, "forward", "y, cache", layer.forward(params, x, k))
        dy = _normal(draw, y)
        dparams, dx = check_pair(
            layer, "backward", "dparams, dx", layer.backward(params, cache, dy)
        )
        _check_linear(layer, params, cache, dy, (dparams, dx))
        for a, b in zip(
            tree.leaves(dparams), tree.leaves(dparams_of(layer, params, cache, dy)), strict=True
        ):
            if not np.array_equal(to_numpy(a), to_numpy(b), equal_nan=True):
                raise GradientError(f"{layer}: dparams differs from that of backward")

        def f(at: Tree, k: rng.Key | None = k, dy: Array = dy) -> float:
            return _dot(dy, layer.forward(at[0], at[1], k)[0])

        names = [f"dparams{p}" for p in tree.paths(params)] + ["dx"]
        errors.append(_compare(f, (params, x), (dparams, dx), names, draw, f"{layer} {mode}"))
    return max(errors)


def check_loss(
    loss: Loss, pred: Array | None = None, target: Array | None = None, *, seed: int = 0
) -> float:
    """Check the gradient that a loss returns against its value, without and with row weights.

    Parameters
    ----------
    loss : str or callable
        ``loss(pred, target, weight) -> value, dpred``.
    pred, target : arrays (rows, n_out), optional
        Random by default: a normal pred (5, 3) and a target of that shape in (0, 1).
    seed : int
        Seed of the random arrays and directions.

    Returns
    -------
    float
        The largest relative error.

    Raises
    ------
    GradientError
        if the gradient differs from the slope of the value.

    Examples
    --------
    >>> import portnet
    >>> portnet.check_loss("squared_error") < 1e-6
    True
    """
    draw, loss = rng.generator(seed), resolve("loss", loss, LOSSES)
    check_methods("a loss(pred, target, weight)", loss, ("__call__",))
    check_signature("a loss", loss, *LOSS_CALL)
    pred = draw.standard_normal((5, 3)) if pred is None else pred
    backend = backend_of(pred)
    pred = checks.features(pred, backend, name="pred")
    if target is None:
        target = backend.asarray(draw.uniform(0.05, 0.95, tuple(pred.shape)))
    weight = backend.asarray(draw.uniform(0.5, 2.0, (pred.shape[0],)))
    errors = []
    for w, mode in ((None, "without weights"), (weight, "with weights")):
        _, dpred = loss(pred, target, w)

        def f(at: Tree, w: Array | None = w) -> float:
            return float(loss(at[0], target, w)[0])

        errors.append(_compare(f, (pred,), (dpred,), ["dpred"], draw, f"{loss} {mode}"))
    return max(errors)


def check_gradients(
    model: Layer,
    loss: Loss,
    X: Array,
    y: Array,
    *,
    weight: Array | None = None,
    params: Params = None,
    seed: int = 0,
) -> float:
    """Check the gradient of a loss with respect to all parameters of a model, in float64.

    Parameters
    ----------
    model : layer
    loss : str or callable
    X : array (rows, n_in)
        Lists and arrays of any library; cast to float64.
    y : array
        Integer labels (rows,), or targets (rows, outputs), cast to float64: as in `Trainer.fit`.
    weight : array (rows,), optional
    params : pytree of arrays, optional
        The point of the check. By default random, biases included: with zero biases a row of zeros
        is exactly at the kink of ReLU.
    seed : int

    Returns
    -------
    float
        The largest relative error.

    Raises
    ------
    GradientError
        if a derivative differs; the message names the array.
    DataError, ValueError
        for data that cannot be used, and if there is no float64.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net, X = portnet.mlp([2, 8, 3], "tanh"), np.random.default_rng(0).standard_normal((5, 2))
    >>> portnet.check_gradients(net, "softmax_cross_entropy", X, [0, 1, 2, 0, 1]) < 1e-6
    True
    """
    given = backend_of(X)
    backend = Backend(given.name, "float64", given.device, given.xp)
    check_methods("a model", model, ("init", "forward", "backward"))
    draw, loss = rng.generator(seed), resolve("loss", loss, LOSSES)
    check_signature("a loss", loss, *LOSS_CALL)
    X = checks.features(X, backend)
    rows, outputs = X.shape[0], model.init(rng.generator(seed), X.shape[1])[1]
    y = checks.targets(y, backend, loss, rows=rows, outputs=outputs)
    weight = checks.row_weights(weight, backend, rows=rows, name="weight")
    if params is None:
        params = _random_params(model, X, draw, backend)
    params = tree.map(lambda p: backend.asarray(p, "float64"), params)
    pred, cache = model.forward(params, X)
    dparams, _ = model.backward(params, cache, loss(pred, y, weight)[1])

    def value(params: Params) -> float:
        return float(loss(model.forward(params, X)[0], y, weight)[0])

    names = [f"dparams{p}" for p in tree.paths(params)]
    return _compare(value, params, dparams, names, draw, f"{model} under {loss}")


# The check --------------------------------------------------------------------------------------


def _compare(
    f: Callable[[Tree], float],
    at: Tree,
    grads: Tree,
    names: list[str],
    draw: rng.Generator,
    what: str,
) -> float:
    """Compare the slope of f along a random direction v in each array with <its gradient, v>."""
    arrays, gradients = tree.leaves(at), tree.leaves(grads)
    if len(arrays) != len(gradients):
        raise GradientError(f"{what}: {len(arrays)} arrays, but gradients for {len(gradients)}")
    worst = 0.0
    for i, (name, a, g) in enumerate(zip(names, arrays, gradients, strict=True)):
        if a.shape != g.shape or a.dtype != g.dtype:
            raise GradientError(
                f"{what}: expected {name} of shape {tuple(a.shape)} and dtype {a.dtype}, got "
                f"{tuple(g.shape)} and {g.dtype}"
            )
        v = _normal(draw, a)
        expected = _dot(g, v)
        scale = _dot(namespace(g).abs(g), namespace(v).abs(v))
        eps = float(np.finfo(str(to_numpy(a).dtype)).eps)
        errors = []
        for h in (eps ** (1 / 3), 0.1 * eps ** (1 / 3)):
            high, low = f(_moved(at, i, v, h)), f(_moved(at, i, v, -h))
            slope = (high - low) / (2 * h)
            rounding = eps * max(abs(high), abs(low)) / h  # error of the difference
            errors.append((abs(slope - expected) / (scale + rounding / _rtol(eps) + 1e-300), slope))
            if errors[-1][0] <= _rtol(eps):
                break
        error, slope = min(errors)
        if not error <= _rtol(eps):
            relative = abs(slope - expected) / max(abs(slope), abs(expected), 1e-300)
            raise GradientError(
                f"{what}: {name} is wrong. Along a random direction the derivative is {slope:.10g} "
                f"by central differences and {expected:.10g} by backward "
                f"(relative error {relative:.1e}, allowed {_rtol(eps):.1e})"
            )
        worst = max(worst, error)
    return worst


def _rtol(eps: float) -> float:
    return float(200 * eps ** (2 / 3))  # 7e-9 in float64, 5e-3 in float32


def _check_float32(layer: Layer, params: Params, x: Array, key: rng.Key | None) -> None:
    backend = backend_of(x)
    params = tree.map(lambda p: backend.asarray(p, "float32"), params)
    y, cache = check_pair(
        layer, "forward", "y, cache", layer.forward(params, backend.asarray(x, "float32"), key)
    )
    results = [("forward", y)]
    if str(y.dtype).endswith("float32"):
        results += [("backward", g) for g in tree.leaves(layer.backward(params, cache, y))]
    for method, a in results:
        if not str(a.dtype).endswith("float32"):
            raise GradientError(
                f"{name_of(layer)}: expected {method} to return float32 for float32 x, got "
                f"{a.dtype}: constants must be Python numbers, as NumPy's float64 scalars promote "
                "float32 arrays"
            )


def _check_linear(layer: Layer, params: Params, cache: Cache, dy: Array, grads: Tree) -> None:
    """Check that backward(2 dy) = 2 backward(dy), to the last bit: backward is linear in dy."""
    for once, twice in zip(
        tree.leaves(grads), tree.leaves(layer.backward(params, cache, 2.0 * dy)), strict=True
    ):
        if not np.array_equal(2.0 * to_numpy(once), to_numpy(twice), equal_nan=True):
            raise GradientError(f"{layer}: backward is not linear in dy, or not a pure function")


def _random_params(layer: Layer, x: Array, draw: rng.Generator, backend: Backend) -> Params:
    """Return random parameters of the layer's shapes, also for those that start at 0 or 1."""
    params, _ = layer.init(draw, x.shape[-1])
    noisy = tree.map(lambda p: to_numpy(p) + 0.3 * draw.standard_normal(p.shape), params)
    return tree.map(backend.asarray, noisy)


def _moved(at: Tree, index: int, v: Array, h: float) -> Tree:
    """Return the pytree `at` with h v added to its leaf number `index`."""
    counter = iter(range(len(tree.leaves(at))))
    return tree.map(lambda a: a + h * v if next(counter) == index else a, at)


def _normal(draw: rng.Generator, like: Array) -> Array:
    return backend_of(like).asarray(draw.standard_normal(tuple(like.shape)))


def _dot(a: Array, b: Array) -> float:
    """<a, b>, summed in float64 on the host."""
    return float(np.sum(to_numpy(a).astype(np.float64) * to_numpy(b).astype(np.float64)))
