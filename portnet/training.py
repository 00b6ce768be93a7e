"""Training: the training step, and the plain loop over batches.

All functions are pure. `portnet.Trainer` (trainer.py) makes the same steps, faster, and adds
validation, callbacks and a history.
"""

from collections.abc import Callable, Iterable

from . import rng as random
from . import tree
from ._typing import Array, Params, State
from ._validation import check_integer, check_pair, name_of
from .backend import ShapeError, backend_of, get_backend
from .layers import Layer
from .losses import Loss
from .optimizers import Optimizer

__all__ = ["Step", "init", "make_step", "train_epoch"]

Step = Callable[..., tuple[Params, State, Array]]


def make_step(model: Layer, loss: Loss, optimizer: Optimizer) -> Step:
    """Return the training step: forward, loss, backward, update, as one pure function.

    ``step(params, state, x, y, weight=None, key=None, scale=None) -> params, state, value``, for a
    batch x (rows, n_in) with targets y and weights (rows,). `key` is what layers such as Dropout
    draw from (`portnet.rng.key`; None as in inference), `scale` a 0-d factor of the updates, and
    `value` the loss before the update, 0-d. No branch depends on the values of arrays, so that the
    step can be compiled. Raises ShapeError if shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net, sgd, X = portnet.mlp([1, 1]), portnet.SGD(0.1), np.array([[1.0], [2.0]])
    >>> step = portnet.make_step(net, portnet.SquaredError(), sgd)
    >>> params = portnet.init(net, like=X)
    >>> params, state, before = step(params, sgd.init(params), X, 3.0 * X)
    >>> params, state, after = step(params, state, X, 3.0 * X)
    >>> bool(after < before)
    True
    """

    def step(
        params: Params,
        state: State,
        x: Array,
        y: Array,
        weight: Array | None = None,
        key: random.Key | None = None,
        scale: Array | None = None,
    ) -> tuple[Params, State, Array]:
        pred, cache = model.forward(params, x, key)
        value, dpred = loss(pred, y, weight)
        backward = model.backward(params, cache, dpred)
        grads, _ = check_pair(model, "backward", "dparams, dx", backward)
        update = optimizer.update(grads, state, params)
        updates, state = check_pair(optimizer, "update", "updates, state", update)
        if scale is not None:
            updates = tree.map(lambda u: scale * u, updates)
        return _apply(params, updates, optimizer), state, value

    return step


def _apply(params: Params, updates: Params, optimizer: Optimizer) -> Params:
    """Return p + u of all parameters; errors name the optimizer."""
    try:
        return tree.map(_add, params, updates)
    except ValueError as error:
        error.add_note(
            f"these are the updates of {name_of(optimizer)}: update(grads, state, params) returns "
            "updates, a pytree like params, and state"
        )
        raise


def _add(p: Array, u: Array) -> Array:
    if p.shape != u.shape or p.dtype != u.dtype:
        raise ShapeError(
            f"expected an update of shape {tuple(p.shape)} and dtype {p.dtype}, like its "
            f"parameter, got {tuple(u.shape)} and {u.dtype}"
        )
    return p + u


def init(
    model: Layer, n_in: int | None = None, *, seed: int = 0, like: Array | None = None
) -> Params:
    """Return initial parameters of a model: the same for the same seed on every backend.

    Parameters
    ----------
    model : layer
    n_in : int, optional
        Number of inputs; not needed for models of `portnet.mlp`.
    seed : int
    like : array, optional
        Where the parameters are created: in the library, on the device and with the floating dtype
        of this array, which may have any shape. By default on the current backend.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net = portnet.mlp([4, 3])
    >>> (dense,) = portnet.init(net, seed=0, like=np.ones(1))
    >>> dense["W"].shape, dense["b"].shape
    ((4, 3), (1, 3))
    """
    n_in = getattr(model, "n_in", None) if n_in is None else n_in
    if n_in is None:
        raise ValueError("init: expected n_in, the number of inputs: the model does not define it")
    backend = get_backend() if like is None else backend_of(like)
    n_in, seed = check_integer("n_in", n_in, 1), check_integer("seed", seed, 0)
    params, _ = model.init(random.generator(seed), n_in)
    return tree.map(lambda p: backend.asarray(p, backend.dtype), params)


def train_epoch(
    step: Step, params: Params, state: State, batches: Iterable[tuple[Array, ...]]
) -> tuple[Params, State, list[Array]]:
    """Make a step for each batch: forward, loss, backward, update.

    Parameters
    ----------
    step : function
        As returned by `make_step`.
    params, state : pytrees of arrays
        They are not modified. Start with ``state = optimizer.init(params)``.
    batches : iterable of (x, y) or (x, y, weight)
        Each x is (rows, n_in).

    Returns
    -------
    params, state, values
        After the last step; the loss of each batch before its step, 0-d arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet import Adam, init, make_step, mlp
    >>> from portnet.losses import SquaredError
    >>> X, y = np.linspace(-1, 1, 40).reshape(-1, 1), np.linspace(0, 2, 40).reshape(-1, 1)
    >>> net, adam = mlp([1, 8, 1], "tanh"), Adam(0.05)
    >>> step, params = make_step(net, SquaredError(), adam), init(net, like=X)
    >>> state = adam.init(params)
    >>> for epoch in range(100):
    ...     batches = [(X[i : i + 10], y[i : i + 10]) for i in range(0, 40, 10)]
    ...     params, state, losses = train_epoch(step, params, state, batches)
    >>> bool(losses[-1] < 1e-2)
    True
    """
    values = []
    for batch in batches:
        params, state, value = step(params, state, *batch)
        values.append(value)
    return params, state, values
