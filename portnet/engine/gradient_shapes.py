"""Gradient shapes: which layer is to blame when a training step raises an error."""

from typing import Any

from .. import tree
from .._typing import Array, Params
from ..layers import Chain, Residual
from .packing import unpacked

__all__ = ["add_note_of_layer"]

ROWS = 8


def add_note_of_layer(error: Exception, model: Any, params: Params, dataset: Any) -> None:
    """Add a note to the error of a step if a layer returns gradients of other shapes.

    A step does not check them: the error is raised where such a gradient is used, in the layer
    before or in the optimizer, which does not say whose it is.
    """
    try:
        x = dataset.head(ROWS).arrays[0]
        found, _ = _search(model, unpacked(params), x, "")
    except Exception:  # of the same cause, or of data that are read in parts
        return
    if found:
        error.add_note(found)


def _search(layer: Any, params: Params, x: Array, where: str) -> tuple[str, Array]:
    """Return a message about the first layer with gradients of other shapes, or "", and y."""
    if isinstance(layer, Chain):
        for i, (part, own) in enumerate(zip(layer.layers, params, strict=True)):
            found, x = _search(part, own, x, f"{where}layers[{i}] ")
            if found:
                return found, x
        return "", x
    if isinstance(layer, Residual):
        found, y = _search(layer.layer, params, x, f"{where}layer ")
        return found, x + y
    y, cache = layer.forward(params, x)
    dparams, dx = layer.backward(params, cache, y)  # y has the shape of dy
    pairs = [("dx", dx, "x", x)]
    pairs += [
        ("a gradient", a, "its parameter", b)
        for a, b in zip(tree.leaves(dparams), tree.leaves(params), strict=True)
    ]
    for what, gradient, of, given in pairs:
        if tuple(gradient.shape) != tuple(given.shape):
            return (
                f"{where}{type(layer).__name__}: expected backward to return {what} of shape "
                f"{tuple(given.shape)}, like {of}, got {tuple(gradient.shape)}: "
                "portnet.check_layer(layer) checks backward"
            ), y
    return "", y
