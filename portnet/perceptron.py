"""Perceptron: the network of an estimator, from its parameters and attributes, and its answers.

Each hidden layer is Dense, norm, activation, dropout; the last layer is Dense. `coefs_` and
`intercepts_` have the W and b of the Dense layers; `others` has the parameters of all layers
between them, in order, () for those without. Nothing here needs scikit-learn.
"""

import functools
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from . import tree
from ._typing import Array, Params
from ._validation import check_methods
from .backend import namespace
from .engine.compile_cache import is_cacheable
from .layers import NORMS, Chain, Dense, Layer, mlp
from .losses import SoftmaxCrossEntropy
from .metrics import logistic
from .rng import Undrawn

__all__ = [
    "HIDDEN",
    "OF_NETWORK",
    "Shapes",
    "changed_since_fit",
    "class_probabilities",
    "fitted_with",
    "hidden_sizes",
    "layers",
    "mean_logits",
    "network",
    "of_heads",
    "others_from",
    "plain",
    "shapes",
    "split",
    "stride",
]

# The activations of hidden layers: scikit-learn's names, then portnet's.
HIDDEN = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
HIDDEN |= {name: name for name in ("leaky_relu", "gelu", "silu", "softplus")}


# The parameters of an estimator that say, with those arrays, what its network computes.
OF_NETWORK = "activation", "norm", "dropout", "loss"


class Shapes(NamedTuple):
    """Shapes of a network: of the W of each Dense layer, and of the arrays between them."""

    coefs: list[tuple[int, int]]
    others: list[tuple[int, ...]]


def fitted_with(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of the last fit, of an estimator's attributes.

    `set_params` may have changed them since. Where an earlier version has made the pickle, they are
    those of now.
    """
    return attributes.get("_fitted_with") or attributes


def changed_since_fit(
    attributes: Mapping[str, Any], names: Sequence[str] = OF_NETWORK
) -> dict[str, Any]:
    """Return the parameters of the last fit that have other values now."""
    fitted = fitted_with(attributes)
    found = {}
    for name in names:
        if name in fitted and not _is_same(fitted[name], attributes.get(name)):
            found[name] = fitted[name]
    return found


def _is_same(a: Any, b: Any) -> bool:
    """Tell whether values of a parameter are equal; lists are equal to tuples of their items."""
    if a is b:
        return True
    if isinstance(a, list | tuple | np.ndarray) and isinstance(b, list | tuple | np.ndarray):
        return len(a) == len(b) and all(map(_is_same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_is_same(a[key], b[key]) for key in a)
    try:
        return bool(a == b)
    except Exception:  # of an object of the user's own
        return False


def plain(parameters: Mapping[str, Any]) -> bool:
    """Tell whether an estimator's network has only Dense layers and one activation, by its name."""
    dropout, norm = parameters.get("dropout", 0), parameters.get("norm")
    return type(parameters["activation"]) is str and not dropout and norm is None


def stride(parameters: Mapping[str, Any]) -> int:
    """Return the distance of the Dense layers among the layers of a network."""
    norm, dropout = parameters.get("norm"), parameters.get("dropout", 0)
    return 2 + int(norm is not None) + int(dropout != 0)


def hidden_sizes(parameters: Mapping[str, Any]) -> list[int]:
    """Return the units of the hidden layers, unchecked."""
    given = parameters.get("hidden_layer_sizes", ())
    return list(given) if hasattr(given, "__iter__") else [given]


def layers(parameters: Mapping[str, Any], sizes: Sequence[int]) -> tuple[Layer, ...]:
    """Return the layers for sizes of the hidden layers and of the output.

    Raises ValueError or TypeError for what is no activation or norm.
    """
    given, norm, hidden = parameters["activation"], parameters.get("norm"), len(sizes) - 1
    if isinstance(given, str) or not isinstance(given, Sequence):
        given = [given] * hidden
    if len(given) != hidden:
        raise ValueError(
            "activation: expected one for each hidden layer, or one for all, got "
            f"{len(given)} for {hidden} hidden layers"
        )
    named: list[str | Layer] = []
    for i, one in enumerate(given):
        if isinstance(one, str) and one not in HIDDEN:
            raise ValueError(
                f"activation: layer {i + 1}: unknown name {one!r}. The names are "
                f"{', '.join(HIDDEN)}; a layer of your own works, too"
            )
        if not isinstance(one, str):
            check_methods(f"activation {i + 1} as a layer", one, ("init", "forward", "backward"))
        named.append(HIDDEN[one] if isinstance(one, str) else one)
    if isinstance(norm, str) and norm not in NORMS:
        raise ValueError(f"norm: unknown name {norm!r}. The names are {', '.join(NORMS)}")
    dropout = float(parameters.get("dropout", 0))
    made = mlp([1, *sizes], named, dropout=dropout, norm=norm, weights="glorot_uniform")
    return tuple(made.layers)


def network(
    parameters: Mapping[str, Any],
    coefs: Sequence[Array],
    intercepts: Sequence[Array],
    others: Sequence[Params] = (),
    *,
    first: type[Dense] = Dense,
) -> tuple[Chain, Params]:
    """Return the model and the parameters of an estimator's network.

    `parameters` has activation, norm and dropout, as those of the estimator. Each layer has W
    (n_in, n_out) and b (n_out,). `first` is the class of the first layer.
    """
    activation, norm = parameters["activation"], parameters.get("norm")
    widths = tuple([int(W.shape[1]) for W in coefs])
    if isinstance(activation, list):
        activation = tuple(activation)
    given: Any = activation, norm, parameters.get("dropout", 0), widths, first
    # Equal layers of one's own need not be the same.
    make = _model if is_cacheable((activation, norm)) else _model.__wrapped__
    model: Chain = make(*given)
    step, rest = stride(parameters), iter(others)
    params: list[Params] = []
    for i, (W, b) in enumerate(zip(coefs, intercepts, strict=True)):
        params.append({"W": W, "b": b[None, :]})
        if i < len(coefs) - 1:
            params += islice(rest, step - 1) if others else [()] * (step - 1)
    return model, tuple(params)


@functools.lru_cache(maxsize=64)  # to make it takes longer than to predict a row
def _model(
    activation: Any, norm: Any, dropout: Any, widths: tuple[int, ...], first: type[Dense]
) -> Chain:
    parameters = {"activation": activation, "norm": norm, "dropout": dropout}
    made = layers(parameters, widths)
    return Chain([first(widths[0]), *made[1:]])


def split(
    parameters: Mapping[str, Any], params: Params
) -> tuple[list[Array], list[Array], tuple[Params, ...]]:
    """Return coefs, intercepts and others: the inverse of `network`."""
    step = stride(parameters)
    dense = params[::step]
    others = tuple(p for i, p in enumerate(params) if i % step)
    return [p["W"] for p in dense], [p["b"][0, :] for p in dense], others


def shapes(parameters: Mapping[str, Any], n_in: int, sizes: Sequence[int]) -> Shapes:
    """Return the shapes of the network's arrays for n_in inputs.

    An activation of one's own may have another number of outputs than of inputs.
    """
    coefs, others = _undrawn(parameters, n_in, sizes)
    return Shapes(coefs, [tuple(a.shape) for a in tree.leaves(others)])


def others_from(
    parameters: Mapping[str, Any], n_in: int, sizes: Sequence[int], arrays: Sequence[Array]
) -> tuple[Params, ...]:
    """Return the parameters of the layers between the Dense layers, from their arrays, in order."""
    given = iter(arrays)
    return tuple(
        [tree.map(lambda _: next(given), part) for part in _undrawn(parameters, n_in, sizes)[1]]
    )


def _undrawn(
    parameters: Mapping[str, Any], n_in: int, sizes: Sequence[int]
) -> tuple[list[tuple[int, int]], tuple[Params, ...]]:
    """Return the shapes of coefs, and others without values."""
    coefs, others, step = [], [], stride(parameters)
    for i, layer in enumerate(layers(parameters, sizes)):
        if i % step == 0:
            n_out = sizes[i // step]
            coefs.append((n_in, n_out))
        else:
            drawn, n_out = layer.init(Undrawn(), n_in)
            others.append(drawn)
        n_in = n_out
    return coefs, tuple(others)


# Raw outputs ------------------------------------------------------------------------------------


def of_heads(raw: Array, sizes: Sequence[int]) -> list[Array]:
    """Return the columns of each head of (rows, outputs), where `sizes` are their classes."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [raw[:, begin:end] for begin, end in pairwise(ends)]


def class_probabilities(raw: Array, out_activation: str) -> Array:
    """Return the probabilities (rows, classes) of logits: softmax, or logistic for each label.

    One logit (rows, 1) has two classes.
    """
    xp = namespace(raw)
    if out_activation == "softmax":
        return SoftmaxCrossEntropy().mean(raw)
    if raw.shape[1] == 1:
        both: Array = xp.concat([logistic(-raw), logistic(raw)], axis=-1)
        return both
    return logistic(raw)


def mean_logits(raws: Sequence[Array], out_activation: str, sizes: Sequence[int] = ()) -> Array:
    """Return the logits of the mean probabilities of several networks, (rows, outputs).

    `sizes` are the classes of each head, if there are several.
    """
    xp = namespace(*raws)

    def mean(each: list[Array]) -> Array:
        answer: Array = xp.mean(xp.stack(each), axis=0)
        return answer

    def of_softmax(logits: Sequence[Array]) -> Array:
        answer: Array = xp.log(mean([SoftmaxCrossEntropy().mean(z) for z in logits]))
        return answer

    logits: Array
    if sizes:
        heads = zip(*[of_heads(raw, sizes) for raw in raws], strict=True)
        logits = xp.concat([of_softmax(each) for each in heads], axis=-1)
    elif out_activation == "softmax":
        logits = of_softmax(raws)
    else:
        no, yes = mean([logistic(-raw) for raw in raws]), mean([logistic(raw) for raw in raws])
        logits = xp.log(yes) - xp.log(no)
    return logits
