"""Recording: the inputs, outputs and gradients of each layer of a model, while it computes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._typing import Array, Cache, Params
from ._validation import name_of
from .layers import Chain, Layer, Residual
from .rng import Generator, Key

__all__ = ["Record", "recorded"]


@dataclass(eq=False)
class Record:
    """What a layer computed: y from x and params, and dx and dparams from dy.

    Shapes: x and dx are (rows, n_in), y and dy (rows, n_out). `path` is where the layer is in the
    model, such as "layers[0]". What was not computed is None.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> from portnet.recording import recorded
    >>> model, records = recorded(portnet.mlp([2, 3, 1]))
    >>> x = np.ones((5, 2))
    >>> y, cache = model.forward(portnet.init(model, 2, like=x), x)
    >>> [(record.path, record.y.shape) for record in records]
    [('layers[0]', (5, 3)), ('layers[1]', (5, 3)), ('layers[2]', (5, 1))]
    """

    path: str
    layer: Layer
    params: Params
    x: Array
    y: Any = None
    dy: Any = None
    dparams: Any = None
    dx: Any = None


def recorded(model: Layer, *, inside: bool = False) -> tuple[Layer, list[Record]]:
    """Return a model that computes the same, and a list that gets a record of each layer.

    A Chain is taken apart into its layers; so is a Residual if `inside` is true. The list is in
    the order of the forward pass; it belongs to one forward and one backward pass.

    Examples
    --------
    >>> import portnet
    >>> recorded(portnet.mlp([2, 3, 1]))[0].layers
    (Dense(3), ReLU(), Dense(1))
    """
    records: list[Record] = []

    def wrapped(layer: Layer, path: str) -> Layer:
        dot = f"{path}." if path else ""
        if type(layer) is Chain:
            parts = [wrapped(part, f"{dot}layers[{i}]") for i, part in enumerate(layer.layers)]
            return Chain(tuple(parts), layer.n_in)
        if inside and type(layer) is Residual:
            return Residual(wrapped(layer.layer, f"{dot}layer"))
        return _Recorder(layer, path, records)

    return wrapped(model, ""), records


class _Recorder:
    """A layer whose calls are recorded."""

    def __init__(self, layer: Layer, path: str, records: list[Record]) -> None:
        self.layer, self.path, self.records = layer, path, records
        self.record: Record | None = None

    def __repr__(self) -> str:
        return name_of(self.layer)

    def init(self, rng: Generator, n_in: int) -> tuple[Params, int]:
        """Return initial parameters and the number of outputs."""
        return self.layer.init(rng, n_in)

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """Return y and the cache."""
        self.record = Record(self.path, self.layer, params, x)
        self.records.append(self.record)
        pair = self.layer.forward(params, x, key)
        self.record.y = next(_values(pair), None)
        return pair

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """Return dparams and dx."""
        pair = self.layer.backward(params, cache, dy)
        if self.record is not None:
            self.record.dy = dy
            values = _values(pair)
            self.record.dparams, self.record.dx = next(values, None), next(values, None)
        return pair


def _values(pair: object) -> Iterator[Any]:
    """Yield the values of a pair; what is no pair is an error of the caller's."""
    return iter(pair if isinstance(pair, tuple | list) else ())
