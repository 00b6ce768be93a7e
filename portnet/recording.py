"""Recording: what each layer of a model, and each part of an optimizer, computes in a step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._typing import Array, Cache, Params, State
from ._validation import check_pair, name_of
from .layers import Chain, Layer, Residual
from .optimizers import Optimizer
from .rng import Generator, Key
from .transforms import Chained

__all__ = ["Record", "UpdateRecord", "recorded", "recorded_optimizer"]


@dataclass(eq=False)
class Record:
    """What a layer computed: y from x and params, and dx and dparams from dy.

    Shapes: x and dx are (rows, n_in), y and dy (rows, n_out). `path` is where the layer is in the
    model, such as "layers[0]"; `cache` is what `forward` returned for `backward`. What was not
    computed is None.

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
    cache: Any = None
    dy: Any = None
    dparams: Any = None
    dx: Any = None


def recorded(model: Layer, *, inside: bool = False) -> tuple[Layer, list[Record]]:
    """Return a model that computes the same, and a list that gets a record of each layer.

    A Chain is taken apart into its layers. So is a Residual if `inside` is true: its own record
    follows those of its layers. The list is in the order of the forward pass; it belongs to one
    forward and one backward pass.

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
            inner = Residual(wrapped(layer.layer, f"{dot}layer"))
            return _Recorder(layer, path, records, inner)
        return _Recorder(layer, path, records, layer)

    return wrapped(model, ""), records


class _Recorder:
    """A layer whose calls are recorded; `computing` computes the same, and may record, too."""

    def __init__(self, layer: Layer, path: str, records: list[Record], computing: Layer) -> None:
        self.layer, self.path, self.records, self.computing = layer, path, records, computing
        self.record: Record | None = None

    def __repr__(self) -> str:
        return name_of(self.layer)

    def init(self, rng: Generator, n_in: int) -> tuple[Params, int]:
        """Return initial parameters and the number of outputs."""
        return self.layer.init(rng, n_in)

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """Return y and the cache."""
        pair = self.computing.forward(params, x, key)
        values = _values(pair)
        y, cache = next(values, None), next(values, None)
        self.record = Record(self.path, self.layer, params, x, y, cache)
        self.records.append(self.record)
        return pair

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """Return dparams and dx."""
        pair = self.computing.backward(params, cache, dy)
        if self.record is not None:
            self.record.dy = dy
            values = _values(pair)
            self.record.dparams, self.record.dx = next(values, None), next(values, None)
        return pair


def _values(pair: object) -> Iterator[Any]:
    """Yield the values of a pair; what is no pair is an error of the caller's."""
    return iter(pair if isinstance(pair, tuple | list) else ())


# Optimizers -------------------------------------------------------------------------------------


@dataclass(eq=False)
class UpdateRecord:
    """What a part of an optimizer returned: updates, or gradients, and its state after the step.

    The updates have the shapes of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> from portnet.recording import recorded_optimizer
    >>> copy, records = recorded_optimizer(portnet.chain(portnet.ClipNorm(1.0), portnet.SGD(0.5)))
    >>> g, p = np.array([3.0, 4.0]), np.zeros(2)
    >>> updates, state = copy.update(g, copy.init(p), p)
    >>> [record.updates.round(3).tolist() for record in records]
    [[0.6, 0.8], [-0.3, -0.4]]
    """

    part: Any
    updates: Any = None
    state: Any = None


def recorded_optimizer(optimizer: Optimizer) -> tuple[Optimizer, list[UpdateRecord]]:
    """Return an optimizer that computes the same, and a list of a record for each of its parts.

    The records are filled by `update`.

    Examples
    --------
    >>> import portnet
    >>> recorded_optimizer(portnet.Adam())[1]
    [UpdateRecord(part=Adam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08), updates=None, state=None)]
    """
    records: list[UpdateRecord] = []

    def wrapped(part: Optimizer) -> Optimizer:
        if type(part) is Chained:
            return Chained(tuple(wrapped(inner) for inner in part.parts))
        records.append(UpdateRecord(part))
        return _UpdateRecorder(part, records[-1])

    return wrapped(optimizer), records


class _UpdateRecorder:
    """An optimizer whose updates are recorded."""

    def __init__(self, part: Optimizer, record: UpdateRecord) -> None:
        self.part, self.record = part, record

    def __repr__(self) -> str:
        return name_of(self.part)

    def init(self, params: Params) -> State:
        """Return the state before the first step."""
        return self.part.init(params)

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Return updates, state."""
        pair = self.part.update(grads, state, params)
        self.record.updates, self.record.state = check_pair(
            self.part, "update", "updates, state", pair
        )
        return self.record.updates, self.record.state
