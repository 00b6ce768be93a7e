"""Training: the training step, and the plain loop over batches.

A batch is some rows of the data, each a sample; an epoch is a pass over the batches of all rows.

A step has four parts: the model, a layer (layers.py), computes `pred`; the loss (losses.py)
compares pred with the targets; the model propagates the gradient of the loss back to its
parameters; the optimizer (optimizers.py) turns the gradients (`grads`; `dparams` in layers.py, g in
the equations of optimizers.py) into updates, which are added to the parameters.

Parameters, gradients and updates are pytrees: nested tuples, lists and dicts of arrays, such as
``({"W": W1, "b": b1}, (), {"W": W2, "b": b2})``. ``tree.map(f, a, b)`` calls f with each array of a
and the array at the same position in b, and returns the results as a pytree.

All functions are pure: they modify no argument. `portnet.Trainer` (trainer.py) makes the same
steps, faster, and adds validation, callbacks and a history.
"""

from collections.abc import Callable, Iterable
from typing import Any

from . import rng, tree  # random numbers, pytrees
from ._typing import Array, Params, State  # names of types
from ._validation import check_integer, check_pair, name_of  # for errors with clear messages
from .backend import ShapeError, backend_of, get_backend
from .layers import Layer, dparams_of
from .losses import Loss
from .optimizers import Optimizer

__all__ = ["Step", "init", "make_step", "train_epoch"]

Step = Callable[..., tuple[Params, State, Array]]  # the type of a training step


def make_step(model: Layer, loss: Loss, optimizer: Optimizer) -> Step:
    """Return the training step: forward, loss, backward, update, as one pure function.

    ``step(params, state, x, y, weight=None, key=None, scale=None) -> params, state, value``:

    * `params` are the parameters of the model, first ``portnet.init(model)``;
    * `state` is the state of the optimizer, first ``optimizer.init(params)``;
    * `x` (rows, n_in): inputs of a batch; `y` (rows, n_out) or (rows,): targets;
    * `weight` (rows,) holds the weights of the rows in the loss;
    * `key`, a new `portnet.rng.key` in each step, determines the random numbers of Dropout; without
      it Dropout does nothing, as in inference, that is, in predictions after training;
    * `scale`, a 0-d array (of shape ()), multiplies the updates;
    * `value`, a 0-d array, is the loss before the update.

    No `if` depends on the values of arrays, so that `portnet.compile` can speed up the step.
    Raises ShapeError if shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net, sgd, X = portnet.mlp([1, 1]), portnet.SGD(0.1), np.array([[1.0], [2.0]])  # x @ W + b
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
        key: rng.Key | None = None,
        scale: Array | None = None,
    ) -> tuple[Params, State, Array]:
        pred, cache = model.forward(params, x, key)
        value, dpred = loss(pred, y, weight)  # dpred: the gradient of value
        grads = dparams_of(model, params, cache, dpred)  # model.backward, without its dx
        params, state = update(optimizer, params, state, grads, scale)
        return params, state, value

    return step


def update(
    optimizer: Optimizer, params: Params, state: State, grads: Params, scale: Array | None = None
) -> tuple[Params, State]:
    """Return params and state after the optimizer's update, multiplied by `scale`, 0-d.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> sgd, params = portnet.SGD(0.1), {"b": np.ones(2)}
    >>> update(sgd, params, sgd.init(params), {"b": np.ones(2)})[0]
    {'b': array([0.9, 0.9])}
    """
    # check_pair returns the pair, or raises TypeError if it is no pair
    pair = optimizer.update(grads, state, params)
    updates, state = check_pair(optimizer, "update", "updates, state", pair)
    if scale is not None:
        updates = tree.map(lambda u: scale * u, updates)
    return _apply(params, updates, optimizer), state


def _apply(params: Params, updates: Params, optimizer: Optimizer) -> Params:
    """Return param + update for every parameter; errors name the optimizer."""
    try:
        return tree.map(_add, params, updates)
    except ValueError as error:  # ShapeError (a ValueError), or another structure
        error.add_note(
            f"these are the updates of {name_of(optimizer)}: update(grads, state, params) returns "
            "updates, a pytree like params, and state"
        )
        raise


def _add(param: Array, update: Array) -> Array:
    if param.shape != update.shape or param.dtype != update.dtype:
        raise ShapeError(
            f"expected an update of shape {tuple(param.shape)} and dtype {param.dtype}, like its "
            f"parameter, got {tuple(update.shape)} and {update.dtype}"
        )
    return param + update


def init(
    model: Layer, n_in: int | None = None, *, seed: int = 0, like: Array | None = None
) -> Params:
    """Return initial parameters of a model; they depend on the seed, not on the backend.

    A backend is an array library, a device and a floating dtype. The model's own method `init`
    draws the parameters as NumPy arrays; this function moves them to the backend.

    Parameters
    ----------
    model : layer
    n_in : int, optional
        Number of inputs; by default the `n_in` of the model.
    seed : int
        Seed of the random numbers, at least 0.
    like : array, optional
        The parameters are created on the backend of this array, which may have any shape. By
        default they are on the current backend (`portnet.set_backend`).

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
    params, _ = model.init(rng.generator(seed), n_in)  # the second value is the number of outputs
    return tree.map(lambda array: backend.asarray(array, backend.dtype), params)


def train_epoch(
    step: Step, params: Params, state: State, batches: Iterable[tuple[Any, ...]]
) -> tuple[Params, State, list[Array]]:
    """Make a step for each batch; return the new parameters and state, and the loss of each batch.

    Parameters
    ----------
    step : function
        As returned by `make_step`.
    params, state : pytrees of arrays
        They are not modified. Start with ``state = optimizer.init(params)``.
    batches : iterable of (x, y), (x, y, weight) or (x, y, weight, key)
        The arguments of `step` after state; without its key, Dropout does nothing. weight is
        (rows,) or None.

    Returns
    -------
    params, state : pytrees of arrays
        After the last step.
    values : list of 0-d arrays
        The loss of each batch, before its update.

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
    ...     params, state, values = train_epoch(step, params, state, batches)
    >>> bool(values[-1] < 1e-2)
    True
    """
    values = []
    for batch in batches:
        params, state, value = step(params, state, *batch)
        values.append(value)
    return params, state, values
