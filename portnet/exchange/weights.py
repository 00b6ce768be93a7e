"""Weights of PyTorch and Keras: of dense layers and layer norms, in their order.

| portnet            | PyTorch                  | Keras              |
|--------------------|--------------------------|--------------------|
| W (n_in, n_out)    | weight, W.T              | kernel, W          |
| b (1, n_out)       | bias (n_out,)            | bias (n_out,)      |
| gamma (1, n_in)    | weight (n_in,)           | gamma (n_in,)      |
| beta (1, n_in)     | bias (n_in,)             | beta (n_in,)       |
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import rng, tree
from .._typing import Array, ArrayLike, Host, Params
from ..backend import FLOATS, get_backend
from ..layers import Chain, Dense, Layer, LayerNorm, Residual
from .errors import ExchangeError
from .onnx_export import Ensemble, Parts, parts_of

__all__ = ["from_keras", "from_torch", "to_keras", "to_torch"]

NAMES = {Dense: ("W", "b"), LayerNorm: ("gamma", "beta")}


def to_torch(thing: Any) -> dict[str, Any]:
    """Return the parameters as the state dict of a `torch.nn.Sequential` with the same layers.

    Parameters
    ----------
    thing : Run, MLPClassifier, MLPRegressor or (model, params)
        On any backend.

    Returns
    -------
    dict of str: torch tensor
        ``{"0.weight": (n_out, n_in), "0.bias": (n_out,), ...}`` on the CPU, in the dtype of the
        parameters. The numbers are the positions of the layers in the Chain: for
        ``portnet.mlp([4, 8, 3])`` they are those of ``Sequential(Linear(4, 8), ReLU(), Linear(8,
        3))``. Of a Chain within it, "1.0.weight". Raises ExchangeError for a layer with other
        parameters, and for a Residual.

    Examples
    --------
    >>> import portnet
    >>> net = portnet.mlp([4, 8, 3])
    >>> state = portnet.exchange.to_torch((net, portnet.init(net, seed=0)))  # doctest: +SKIP
    >>> sequential.load_state_dict(state)  # doctest: +SKIP
    <All keys matched successfully>
    """
    import torch

    parts, state = _parts_of_one(thing, "to_torch"), {}
    for where, layer, given in _slots(parts.model, parts.params):
        if "Residual" in where:
            raise ExchangeError(
                f"to_torch: {where}: a Sequential has no Residual: write a torch.nn.Module, and "
                "take the arrays from the parameters"
            )
        first, second = (np.asarray(given[name]) for name in NAMES[type(layer)])
        first = first.T if isinstance(layer, Dense) else first[0]
        state[f"{where}.weight"] = torch.from_numpy(np.array(first, order="C"))
        state[f"{where}.bias"] = torch.from_numpy(np.array(second[0]))
    return state


def from_torch(state_dict: Mapping[str, Any], model: Layer) -> Params:
    """Return the parameters of a model from the state dict of a PyTorch network.

    The modules of the state dict are those of the layers in their order, whatever their names are.
    A state dict does not say what is between them: give the model with the same activations.

    Parameters
    ----------
    state_dict : dict of str: torch tensor or array
        Of Linear and LayerNorm modules; those without bias get a bias of 0.
    model : layer
        Such as ``portnet.mlp([4, 8, 3], "relu")``.

    Returns
    -------
    pytree of arrays
        On the current backend, in the dtype of the state dict, W (n_in, n_out) and b (1, n_out) of
        each Dense, for ``model.forward(params, x)`` and ``portnet.Trainer(model, ...,
        params=params)``. Raises ExchangeError where they do not fit.

    Notes
    -----
    `portnet.GELU` is ``torch.nn.GELU(approximate="tanh")``. `portnet.LayerNorm` has the same
    default of eps. Networks return raw outputs (logits), as those of PyTorch usually do.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> state = {"0.weight": np.array([[1.0, 2.0]]), "0.bias": np.array([3.0])}  # of a Linear(2, 1)
    >>> net = portnet.mlp([2, 1])
    >>> params = portnet.exchange.from_torch(state, net)
    >>> net.forward(params, np.array([[1.0, 1.0]]))[0]
    array([[6.]])
    """
    modules: dict[str, dict[str, Host]] = {}
    for key, value in state_dict.items():
        module, _, name = str(key).rpartition(".")
        if name not in ("weight", "bias"):
            raise ExchangeError(
                f"from_torch: {key!r}: expected weights and biases of Linear and LayerNorm, the "
                "layers with parameters that portnet has"
            )
        modules.setdefault(module, {})[name] = _host(value, f"from_torch: {key!r}")
    found = []
    for module, given in modules.items():
        if "weight" not in given:
            raise ExchangeError(f"from_torch: the module {module!r} has a bias, but no weight")
        weight = given["weight"]
        found.append((f"{module!r}", weight.T, given.get("bias")))
    return _filled("from_torch", model, found)


def to_keras(thing: Any) -> list[Host]:
    """Return the parameters as Keras has them: the list that `set_weights` takes.

    Parameters
    ----------
    thing : Run, MLPClassifier, MLPRegressor or (model, params)
        On any backend.

    Returns
    -------
    list of arrays
        Of each Dense kernel (n_in, n_out) and bias (n_out,), of each LayerNormalization gamma and
        beta (n_in,), in the order of the layers. Raises ExchangeError for a layer with other
        parameters.

    Examples
    --------
    >>> import portnet
    >>> net = portnet.mlp([4, 8, 3])
    >>> weights = portnet.exchange.to_keras((net, portnet.init(net, seed=0)))
    >>> [array.shape for array in weights]
    [(4, 8), (8,), (8, 3), (3,)]
    """
    parts, arrays = _parts_of_one(thing, "to_keras"), []
    for _, layer, given in _slots(parts.model, parts.params):
        first, second = (np.array(given[name]) for name in NAMES[type(layer)])
        arrays += [first if isinstance(layer, Dense) else first[0], second[0]]
    return arrays


def from_keras(weights: Sequence[ArrayLike], model: Layer) -> Params:
    """Return the parameters of a model from the weights of a Keras model: of its `get_weights`.

    Parameters
    ----------
    weights : list of arrays
        Of Dense and LayerNormalization layers, in their order. If no Dense has a bias, the biases
        are 0.
    model : layer
        With the same layers, such as ``portnet.mlp([4, 8, 3], "relu")``.

    Returns
    -------
    pytree of arrays
        On the current backend, in the dtype of the weights, W (n_in, n_out) and b (1, n_out) of
        each Dense, for ``model.forward(params, x)`` and ``portnet.Trainer(model, ...,
        params=params)``. Raises ExchangeError where they do not fit.

    Notes
    -----
    A softmax or sigmoid at the end of a Keras model has no layer here: portnet's networks return
    what is before it, and the loss has it: ``portnet.SoftmaxCrossEntropy().mean(raw)``. Keras' gelu
    is exact by default; `portnet.GELU` is that with ``approximate=True``. LayerNormalization has
    epsilon 1e-3 by default: ``portnet.LayerNorm(1e-3)``.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net = portnet.mlp([2, 1])
    >>> params = portnet.exchange.from_keras([np.array([[1.0], [2.0]]), np.array([3.0])], net)
    >>> net.forward(params, np.array([[1.0, 1.0]]))[0]
    array([[6.]])
    """
    arrays = [_host(a, f"from_keras: weights[{i}]") for i, a in enumerate(weights)]
    layers = [layer for _, layer in _layers(model)]
    dense = sum(isinstance(layer, Dense) for layer in layers)
    with_bias = len(arrays) != 2 * len(layers) - dense
    if with_bias and len(arrays) != 2 * len(layers):
        raise ExchangeError(
            f"from_keras: expected {2 * len(layers)} arrays, kernel and bias of each Dense, gamma "
            f"and beta of each LayerNorm, got {len(arrays)}"
        )
    found, rest = [], iter(enumerate(arrays))
    for layer in layers:
        i, first = next(rest)
        second = next(rest)[1] if with_bias or not isinstance(layer, Dense) else None
        found.append((f"weights[{i}]", first, second))
    return _filled("from_keras", model, found)


# Parts of a model -------------------------------------------------------------------------------


def _parts_of_one(thing: Any, who: str) -> Parts:
    """Return the parts of one network; raise ExchangeError for an ensemble."""
    parts = parts_of(thing)
    if isinstance(parts.model, Ensemble):
        count = len(parts.model.models)
        what, part = f"{count} runs", "runs[i], one of them"
        if hasattr(thing, "estimators_"):
            what, part = f"n_networks={count}", "estimators_[i], one of them"
        raise ExchangeError(f"{who}: expected one network, got {what}: give {part}")
    return parts


def _layers(model: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the places and the layers of a model that have parameters, if they are portnet's."""
    if isinstance(model, Chain):
        for i, layer in enumerate(model.layers):
            yield from _layers(layer, f"{where}.{i}" if where else str(i))
    elif isinstance(model, Residual):
        yield from _layers(model.layer, f"{where} Residual".strip())
    elif type(model) in NAMES:
        yield where or "0", model


def _slots(model: Any, params: Params, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the place, the layer and the parameters of each layer that has some.

    Raises ExchangeError for a layer that is not portnet's and has parameters.
    """
    if isinstance(model, Chain):
        for i, (layer, part) in enumerate(zip(model.layers, params, strict=True)):
            yield from _slots(layer, part, f"{where}.{i}" if where else str(i))
    elif isinstance(model, Residual):
        yield from _slots(model.layer, params, f"{where} Residual".strip())
    elif type(model) in NAMES:
        yield where or "0", model, params
    elif tree.leaves(params):
        raise ExchangeError(
            f"layer {where or '0'}, {type(model).__name__}: it has parameters of its own, which "
            "other libraries have no name for"
        )


def _filled(who: str, model: Layer, found: list[tuple[str, Host, Host | None]]) -> Params:
    """Return the parameters of a model with these arrays: a name, W or gamma, b or beta of each."""
    if not found:
        raise ExchangeError(f"{who}: expected arrays, got none")
    n_in = getattr(model, "n_in", None) or int(found[0][1].shape[0])
    template, _ = model.init(rng.generator(0), n_in)
    slots = list(_slots(model, template))
    if len(slots) != len(found):
        raise ExchangeError(
            f"{who}: the model has {len(slots)} layers with parameters, "
            f"{', '.join(repr(layer) for _, layer, _ in slots)}, but the weights are of "
            f"{len(found)}: {', '.join(name for name, _, _ in found)}"
        )
    dtypes = {a.dtype.name for _, first, second in found for a in (first, second) if a is not None}
    if len(dtypes) > 1 or not dtypes <= {*FLOATS}:
        raise ExchangeError(f"{who}: expected one dtype, float32 or float64, got {sorted(dtypes)}")
    backend, new = get_backend(), {}
    for (where, layer, given), (name, first, second) in zip(slots, found, strict=True):
        a, b = NAMES[type(layer)]
        first = first if first.ndim == 2 else first[None]
        second = np.zeros_like(given[b], first.dtype) if second is None else second[None]
        for part, array in ((a, first), (b, second)):
            if array.shape != given[part].shape:
                raise ExchangeError(
                    f"{who}: {name}: expected {part} of layer {where}, {layer!r}, of shape "
                    f"{given[part].shape}, got {array.shape}"
                )
        new[where] = {n: _moved(backend, p) for n, p in ((a, first), (b, second))}
    return _replaced(model, template, new)


def _replaced(model: Any, params: Params, new: dict[str, Params], where: str = "") -> Params:
    """Return the parameters of a model with those of `new`, by their places."""
    if isinstance(model, Chain):
        pairs = enumerate(zip(model.layers, params, strict=True))
        return tuple(
            _replaced(layer, part, new, f"{where}.{i}" if where else str(i))
            for i, (layer, part) in pairs
        )
    if isinstance(model, Residual):
        return _replaced(model.layer, params, new, f"{where} Residual".strip())
    return new.get(where or "0", params)


def _moved(backend: Any, array: Host) -> Array:
    moved: Array = backend.asarray(np.ascontiguousarray(array), array.dtype.name)
    return moved


def _host(value: Any, name: str) -> Host:
    """Return a tensor or an array on the host."""
    try:
        array = np.array(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (TypeError, ValueError) as error:  # bfloat16, of which NumPy has none
        raise ExchangeError(f"{name}: {error}: convert it to float32") from None
    if array.dtype.kind != "f" or not 1 <= array.ndim <= 2:
        raise ExchangeError(
            f"{name}: expected floats with one axis or two, got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array
