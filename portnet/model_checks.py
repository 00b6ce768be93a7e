"""Model checks: a model, its loss and its metrics are tried on a few rows before training."""

import numpy as np

from ._typing import Array, Model, Params
from ._validation import check_pair, name_of
from .backend import Backend, describe
from .data.dataset import Dataset
from .run import Run, measure

__all__ = ["try_out"]


def try_out(run: Run, data: Dataset) -> None:
    """Call the loss and the metrics on a few rows, so that errors are raised before training."""
    X, y, w = data.head(8).arrays
    pred = _forward(run.trainer.model, run.params, X, run.backend)
    with np.errstate(all="ignore"):
        try:
            answer = run.trainer.loss(pred, y, w)
        except Exception as error:
            error.add_note(f"in the loss {run.trainer.loss}, called as loss(pred, target, weight)")
            raise
        pair = answer if isinstance(answer, tuple | list) and len(answer) == 2 else (None, None)
        shapes = [getattr(a, "shape", None) for a in pair]
        if shapes != [(), pred.shape]:
            raise TypeError(
                f"the loss {run.trainer.loss}: expected it to return value, dpred of shapes () and "
                f"{tuple(pred.shape)}, got {answer!r}"
            )
        for name, metric in run.metrics.items():
            measure(name, metric, run._mean(pred), y, w)


def _forward(model: Model, params: Params, x: Array, backend: Backend) -> Array:
    """Return the outputs of a model; raise TypeError for a layer that changes library or dtype.

    Outputs must be in the library, on the device and in the dtype of x.
    """
    try:
        pred, _ = check_pair(model, "forward", "y, cache", model.forward(params, x))
        if backend.holds(pred) and pred.dtype == x.dtype:
            return pred
    except TypeError as error:
        try:
            wrong = _layer_that_leaves(model, params, x, backend)
        except Exception:  # from the same cause
            wrong = None
        if wrong is None:
            raise
        raise TypeError(wrong) from error
    raise TypeError(_layer_that_leaves(model, params, x, backend))


def _layer_that_leaves(
    model: Model, params: Params, x: Array, backend: Backend, name: str = ""
) -> str | None:
    """Return a message about the first layer that changes the library or the dtype; or None."""
    inner = getattr(model, "layer", None)  # of a Residual
    if inner is not None and hasattr(inner, "forward"):
        found = _layer_that_leaves(
            inner, params, x, backend, f"{name.rstrip()}.layer " if name else "layer "
        )
        if found is not None:
            return found
    for i, layer in enumerate(getattr(model, "layers", ())):
        found = _layer_that_leaves(layer, params[i], x, backend, f"{name}layers[{i}] ")
        if found is not None:
            return found
        x, _ = check_pair(layer, "forward", "y, cache", layer.forward(params[i], x), i)
    if hasattr(model, "layers"):
        return None
    y = model.forward(params, x)[0]
    if backend.holds(y) and y.dtype == x.dtype:
        return None
    return (
        f"{name}{name_of(model)}: expected forward to return {describe(x)} of dtype {x.dtype}, "
        f"like x, got {describe(y)} of dtype {y.dtype}. Take functions from portnet.namespace(x), "
        "and write constants as Python numbers"
    )
