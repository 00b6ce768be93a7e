"""Estimators in files: parameters and fitted attributes; without scikit-learn, a predictor."""

import importlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from .. import perceptron
from .._validation import counted
from .encoding import TEXT_LIMIT, decode, encode, has_custom, refuse_repeated, text_array
from .errors import ModelFileError
from .generators import generator_of
from .predictor import Predictor
from .shapes import check_parameters, is_floating

__all__ = ["describe", "estimator_from", "is_estimator"]

_PACKAGE = __package__.rpartition(".")[0]  # the estimators need scikit-learn: never imported above
CLASSES = "MLPClassifier", "MLPRegressor"
OUTPUTS = "softmax", "logistic", "identity", "exp", "loss.mean"
HEADS = "multiclass-multioutput"  # the kind of labels of several heads
NETWORK = "coefs_", "intercepts_", "n_features_in_", "n_outputs_", "n_layers_", "out_activation_"
# Fitted attributes besides the network; not every fit has all of them.
RESULTS = (
    "n_iter_",
    "t_",
    "loss_",
    "best_loss_",
    "best_validation_score_",
    "_no_improvement_count",
)
INTEGERS = (
    "n_features_in_",
    "n_outputs_",
    "n_layers_",
    "n_iter_",
    "t_",
    "_no_improvement_count",
)
LISTS = "loss_curve_", "validation_scores_"
# Attributes of an estimator that are written in another way, or that a fit makes again.
OTHERS = (
    "_callback_fit_ctx",
    "classes_",
    "feature_names_in_",
    "_class_counts",
    "_curves",
    "_fitted_on_host",
    "_fitted_with",
    "_label_binarizer",
    "_layer_params",
    "_metadata_request",
    "_missing_seeds",
    "_optimizer",
    "_parent_callback_ctx",
    "_random_state",
    "_resumable",
    "_seed",
    "_skl_callbacks",
    "_skl_callbacks_to_teardown",
    "_sklearn_output_config",
    "_validated",
    "estimators_",
)
REQUESTED_BY = "fit", "partial_fit", "predict", "predict_proba", "predict_log_proba", "score"
KNOWN = {*NETWORK, *RESULTS, *LISTS, *OTHERS}


def is_estimator(thing: object) -> bool:
    """Tell whether a thing is one of portnet's estimators, also of a subclass.

    Raises TypeError for a predictor, which has too little of its estimator.
    """
    if isinstance(thing, Predictor):
        raise TypeError(
            f"save: expected an estimator, got a Predictor of a {thing.name}: copy the file it was "
            "loaded from, or load that where scikit-learn is installed"
        )
    return _base_of(type(thing)) is not None


def _base_of(kind: type) -> Any:
    """Return the class of portnet's that a class is, or is derived from; None for others."""
    for base in kind.__mro__:
        if base.__module__.startswith(f"{_PACKAGE}.estimators.") and base.__name__ in CLASSES:
            return base
    return None


def describe(
    estimator: Any, tensors: dict[str, Any], state: bool, name: str = ""
) -> dict[str, Any]:
    """Return the description of a fitted estimator; the names of its tensors begin with `name`."""
    networks = vars(estimator).get("estimators_", [])
    if not networks and not hasattr(estimator, "coefs_"):
        raise TypeError(
            f"save: expected a fitted estimator, got {type(estimator).__name__}: fit it"
        )
    given = {} if networks else dict(estimator.__dict__)  # the networks have what was fitted
    parameters = estimator.get_params(deep=False)
    if isinstance(parameters.get("random_state"), np.random.RandomState):
        parameters["random_state"] = None  # a generator that others may use, too
    fitted: dict[str, Any] = {n: given[n] for n in (*NETWORK, *RESULTS) if n in given}
    if fitted.get("best_loss_") == np.inf:  # before the first epoch; tensors are finite
        fitted["best_loss_"] = float("inf")
    fitted |= {n: _numbers(given[n]) for n in LISTS if n in given}
    if given.get("_layer_params"):
        fitted["layer_params"] = given["_layer_params"]
    if given.get("_curves"):
        fitted["curves"] = {name: _numbers(curve) for name, curve in given["_curves"].items()}
    if "feature_names_in_" in given:
        fitted["feature_names_in_"] = [str(name) for name in given["feature_names_in_"]]
    binarizer = given.get("_label_binarizer")
    if binarizer is not None:
        fitted["labels"] = {
            "classes": (
                [_labels(classes) for classes in binarizer.classes_]
                if binarizer.y_type_ == HEADS
                else _labels(binarizer.classes_)
            ),
            "kind": str(binarizer.y_type_),
            "sparse": bool(binarizer.sparse_input_),
        }
    if state:
        fitted["optimizer"] = given.get("_optimizer")
        fitted["class_counts"] = given.get("_class_counts", ())
        rng = given.get("_random_state")
        if rng is not None:
            fitted["generator"], fitted["seed"] = rng.get_state(legacy=False), given.get("_seed")
            if isinstance(fitted["seed"], np.random.RandomState):
                fitted["seed"] = None
            if given.get("_resumable") is not None:
                fitted["resumable"] = given["_resumable"]._asdict()
    base = _base_of(type(estimator))
    described: dict[str, Any] = {"class": type(estimator).__name__}
    changed = _changed_since_fit(estimator, parameters, networks, state)
    if changed:
        described["fitted_with"] = encode(changed, f"{name}fitted_with", tensors, plain=True)
    requests = _requests(estimator)
    if requests:
        described["requests"] = encode(requests, "requests", tensors)
    inherited: dict[str, Any] = {}
    if type(estimator) is base:
        own = _own_attributes(estimator, {*parameters}, tensors)
        described |= {"own": own} if own["dict"] else {}
    else:
        named = [n for n in base._get_param_names() if n not in parameters]
        inherited = {n: vars(estimator)[n] for n in named if n in vars(estimator)}
        described["base"] = base.__name__
        described["inherited"] = encode(_plain(inherited), "inherited", tensors, plain=True)
        described["own"] = _own_attributes(estimator, {*parameters, *named}, tensors)
    if networks:
        described["networks"] = [
            describe(network, tensors, state, f"{name}networks.{k}.")
            for k, network in enumerate(networks)
        ]
        if vars(estimator).get("_missing_seeds"):  # Ctrl-C has ended the fit before them
            described["missing_seeds"] = list(estimator._missing_seeds)
    else:
        _check_before(fitted, parameters | inherited | changed)
    return described | {
        "parameters": encode(_plain(parameters), f"{name}parameters", tensors, plain=True),
        "fitted": encode(fitted, name.removesuffix("."), tensors),
    }


def _changed_since_fit(
    estimator: Any, parameters: dict[str, Any], networks: list[Any], state: bool
) -> dict[str, Any]:
    """Return the parameters of the last fit that are others now.

    They are those of the network, and with the state, all.
    """
    own = vars(estimator)
    if isinstance(parameters.get("random_state"), np.random.RandomState | None):
        own = own | {"random_state": None}
    names = [*perceptron.fitted_with(own)] if "_fitted_with" in own and state else None
    found = perceptron.changed_since_fit(own, names or perceptron.OF_NETWORK)
    found.pop("n_networks", None)
    found.pop("hidden_layer_sizes", None)
    if networks:
        count = len(networks) + len(own.get("_missing_seeds", []))
        if count != parameters.get("n_networks"):
            found["n_networks"] = count
    return _plain(found)


def _own_attributes(estimator: Any, others: set[str], tensors: dict[str, Any]) -> Any:
    """Return, encoded, the attributes that are not portnet's; TypeError for those of other kinds.

    They are those of a subclass, or such as a user sets.
    """
    known, kind = KNOWN | others, type(estimator)
    own = {n: value for n, value in vars(estimator).items() if n not in known}
    hidden = [n for n in own if kind is _base_of(kind) and hasattr(kind, n)]  # methods
    encoded = encode(own, "own", tensors)
    for name, value in encoded["dict"].items():
        if name in hidden or has_custom(value):
            raise TypeError(
                f"the attribute {name!r} of {type(estimator).__name__} cannot be written, got "
                f"{own[name]!r:.80}: keep arrays, numbers, text, lists and dicts, or pickle it"
            )
    return encoded


def _requests(estimator: Any) -> dict[str, dict[str, Any]]:
    """Return by method what `set_fit_request` and its like have set."""
    if "_metadata_request" not in vars(estimator):
        return {}
    routing, found = estimator.get_metadata_routing(), {}
    for method in REQUESTED_BY:
        given = getattr(getattr(routing, method, None), "requests", {})
        found[method] = {name: value for name, value in given.items() if value is not None}
    return {method: given for method, given in found.items() if given}


def _set_requests(estimator: Any, requests: Any) -> None:
    """Set what `_requests` has returned."""
    from sklearn import config_context

    for method, given in requests.items():
        if method not in REQUESTED_BY or not all(isinstance(v, bool | str) for v in given.values()):
            raise ModelFileError(f"requests: expected names or truth values, got {given!r:.80}")
        with config_context(enable_metadata_routing=True):  # or it cannot be set
            getattr(estimator, f"set_{method}_request")(**given)


def _check_before(values: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Raise ModelFileError where `load` would refuse what is to be saved."""
    try:
        _check(values, parameters)
        if "labels" in values:
            labels = values["labels"]
            _check_labels(labels | {"classes": _all_classes(labels)}, values)
    except ModelFileError as error:
        raise ModelFileError(
            f"save: {error}. Nothing was written, because portnet.load would refuse it: fit the "
            "estimator again, with the parameters that it has now"
        ) from None


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with lists for arrays of numbers and ranges, such as sizes of layers."""
    plain = {k: v.tolist() for k, v in parameters.items() if isinstance(v, np.ndarray)}
    return parameters | plain | {k: [*v] for k, v in parameters.items() if isinstance(v, range)}


def _numbers(values: Any) -> Any:
    return None if values is None else np.array(values, np.float64)


def _labels(classes: Any) -> Any:
    """Return classes as an array of numbers, or as a dict of a dtype and a list of text."""
    if classes.dtype.kind in "OU":
        if not all(isinstance(c, str) for c in classes):
            raise TypeError(f"classes_: expected text or numbers, got {classes[:5]!r}")
        names, dtype = classes.tolist(), classes.dtype.kind
        longer = dtype == "U" and np.array(names).dtype != classes.dtype  # than the names need
        if longer and classes.nbytes <= TEXT_LIMIT:
            dtype = classes.dtype.str[1:]
        return {"dtype": dtype, "names": names}
    if classes.dtype.kind not in "biuf" or classes.dtype.itemsize > 8:
        raise TypeError(
            f"classes_: labels of dtype {classes.dtype} cannot be written: give text, or numbers "
            "of at most 64 bits, such as y.astype('float64')"
        )
    return classes


def estimator_from(
    described: Mapping[str, Any], tensors: dict[str, Any], custom: Mapping[str, Any]
) -> Any:
    """Return the estimator of a description; a `Predictor` where scikit-learn is not installed."""
    name = described.get("base", described.get("class"))
    if name not in CLASSES:
        raise ModelFileError(f"expected one of {', '.join(CLASSES)}, got {name!r:.80}")
    with_sklearn = find_spec("sklearn") is not None
    kind = _subclass(described, custom, with_sklearn) if "base" in described else None
    fitted = dict(described["fitted"]["dict"])
    for key in ("coefs_", "intercepts_", "layer_params", "optimizer"):
        refuse_repeated(fitted.get(key), key)
    if not with_sklearn:  # the optimizers are scikit-learn's
        for key in ("optimizer", "generator", "class_counts", "seed", "resumable", "curves"):
            fitted.pop(key, None)
    else:
        wing = importlib.import_module(f"{_PACKAGE}.estimators")
    values = decode({"dict": fitted}, tensors, custom)
    parameters = decode(described["parameters"], tensors, custom)
    changed = decode(described.get("fitted_with", {"dict": {}}), tensors, custom)
    if not isinstance(changed, dict):
        raise ModelFileError(f"fitted_with: expected a dict of parameters, got {changed!r:.80}")
    more: dict[str, dict[str, Any]] = {"inherited": {}, "own": {}}
    if with_sklearn:  # a predictor has none of these
        more |= {n: decode(described[n], tensors, custom) for n in more if kind or n in described}
        _check_more(kind or getattr(wing, name), kind is None, parameters, **more)
    if "networks" in described:
        members = [estimator_from(one, tensors, custom) for one in described["networks"]]
        missing = described.get("missing_seeds", [])
        _check_networks(members, missing, name, parameters | changed)
        if not with_sklearn:
            return Predictor.joined(members)
        estimator = (kind or getattr(wing, name))(**parameters)
        importlib.import_module(f"{_PACKAGE}.estimators.ensemble").join(estimator, members)
        if missing:
            estimator._missing_seeds = list(missing)
        return _completed(estimator, described, tensors, custom, more, changed)
    made_with = parameters | more["inherited"] | changed
    _check(values, made_with)
    labels = values.pop("labels", None)
    if (labels is None) == (name == "MLPClassifier"):
        raise ModelFileError(f"{name}: expected labels for a classifier only")
    if labels is not None:
        if not isinstance(labels, dict) or set(labels) != {"classes", "kind", "sparse"}:
            raise ModelFileError(f"labels: expected classes, kind and sparse, got {labels!r:.80}")
        labels["classes"] = _all_classes(labels)
        _check_labels(labels, values)
    if not with_sklearn:
        return Predictor.of(name, values, made_with, labels)
    estimator = _fitted(kind or getattr(wing, name), values, parameters, labels, made_with)
    return _completed(estimator, described, tensors, custom, more, changed)


def _completed(
    estimator: Any,
    described: Mapping[str, Any],
    tensors: Any,
    custom: Any,
    more: Any,
    changed: dict[str, Any],
) -> Any:
    """Return an estimator with its parameters at the fit, and what does not come from it."""
    vars(estimator).update(more["inherited"] | more["own"])
    wing = importlib.import_module(f"{_PACKAGE}.estimators.architecture")
    wing.record(estimator)
    if unknown := changed.keys() - estimator._fitted_with.keys():
        raise ModelFileError(f"fitted_with: {min(unknown)!r:.80} is no parameter")
    estimator._fitted_with |= changed
    if "requests" in described:
        _set_requests(estimator, decode(described["requests"], tensors, custom))
    return estimator


def _check_networks(
    members: list[Any], missing: Any, name: str, parameters: dict[str, Any]
) -> None:
    """Raise ModelFileError unless these can be the networks of an ensemble."""
    count = parameters.get("n_networks")
    seeds = isinstance(missing, list) and all(type(s) is int and 0 <= s < 2**31 for s in missing)
    if not seeds:
        raise ModelFileError(f"missing_seeds: expected a list of integers, got {missing!r:.80}")
    total = len(members) + len(missing)
    if total != count or total < 2 or not members:
        raise ModelFileError(f"expected {count!r:.80} networks, as n_networks, got {len(members)}")
    for member in members:
        kind = member.name if isinstance(member, Predictor) else _base_of(type(member)).__name__
        same = all(
            getattr(member, n) == getattr(members[0], n)
            for n in ("n_features_in_", "n_outputs_", "out_activation_")
        )
        classes: Any = getattr(member, "classes_", None)
        if classes is not None and not isinstance(classes, list):
            same = same and np.array_equal(classes, members[0].classes_)
        if kind != name or not same or hasattr(member, "estimators_"):
            raise ModelFileError("expected networks of one kind, with equal inputs and outputs")


def _check_more(kind: type, ours: bool, parameters: Any, inherited: Any, own: Any) -> None:
    """Raise ModelFileError unless the other attributes of an estimator are none of portnet's."""
    known = KNOWN.union(parameters, inherited) if isinstance(inherited, dict) else KNOWN
    fits = isinstance(own, dict) and not known.intersection(own) and not KNOWN & {*inherited}
    if not fits or (ours and (inherited or any(hasattr(kind, name) for name in own))):
        raise ModelFileError("expected other attributes than portnet's own")


def _subclass(described: Mapping[str, Any], custom: Mapping[str, Any], with_sklearn: bool) -> Any:
    """Return the class of the caller's that the estimator of a description has."""
    name, base = described["class"], described["base"]
    if not isinstance(name, str):
        raise ModelFileError(f"expected the name of a class, got {name!r:.80}")
    if not with_sklearn:
        raise ModelFileError(
            f"{name!r:.80} is a subclass of {base}, which needs scikit-learn: install it, and give "
            f"the class: portnet.load(path, custom={{{name!r:.80}: ...}})"
        )
    if name not in custom:
        raise ModelFileError(
            f"{name!r:.80} is a subclass of {base}, and not portnet's own. Give the class: "
            f"portnet.load(path, custom={{{name!r:.80}: ...}})"
        )
    given = custom[name]
    if not isinstance(given, type) or getattr(_base_of(given), "__name__", "") != base:
        raise ModelFileError(f"custom: expected a subclass of {base} for {name!r}, got {given!r}")
    return given


def _check(values: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Raise ModelFileError unless the arrays are those of a network of these sizes."""
    missing = [n for n in NETWORK if n not in values]
    if missing or parameters.get("activation") is None:
        raise ModelFileError(f"the estimator has no {missing[0] if missing else 'activation'}")
    for name in INTEGERS:
        if name in values and type(values[name]) is not int:
            raise ModelFileError(f"{name}: expected an integer, got {values[name]!r:.80}")
    coefs, intercepts = values["coefs_"], values["intercepts_"]
    lists = isinstance(coefs, list) and isinstance(intercepts, list)
    if not lists or not len(coefs) == len(intercepts) == values["n_layers_"] - 1 >= 1:
        raise ModelFileError("expected coefs_ and intercepts_ of each layer")
    sizes = [*perceptron.hidden_sizes(parameters), values["n_outputs_"]]
    if len(sizes) != len(coefs) or values["out_activation_"] not in OUTPUTS:
        raise ModelFileError(f"expected {len(sizes)} layers, got {len(coefs)}")
    try:
        expected = perceptron.network(parameters, coefs, intercepts, values.get("layer_params", ()))
        perceptron.layers(parameters, sizes)  # of these sizes
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise ModelFileError(f"the layers of the network: {error}") from None
    model, params = expected
    check_parameters(model, params, values["n_features_in_"], "coefs_")
    widths = [W.shape[1] for W in coefs]
    if widths != sizes:
        raise ModelFileError(f"coefs_: expected {sizes} outputs of the layers, got {widths}")


def _all_classes(labels: dict[str, Any]) -> Any:
    """Return the classes of a description; a list of them for several heads."""
    if labels.get("kind") != HEADS:
        return _classes_from(labels["classes"])
    if not isinstance(labels["classes"], list) or not labels["classes"]:
        raise ModelFileError("expected classes of each head")
    return [_classes_from(classes) for classes in labels["classes"]]


def _check_labels(labels: dict[str, Any], values: dict[str, Any]) -> None:
    """Raise ModelFileError unless the classes are those of the output layer."""
    classes, kind, outputs = labels["classes"], labels["kind"], values["n_outputs_"]
    activation = values["out_activation_"]
    heads = classes if kind == HEADS else [classes]
    if kind == HEADS:
        classes = np.concatenate([np.arange(len(head)) for head in heads])
        fits = len(classes) == outputs and activation == "softmax"
    elif kind == "binary":
        fits = len(classes) in (1, 2) and outputs == 1 and activation == "logistic"
    elif kind in ("multiclass", "multilabel-indicator"):
        wanted = "softmax" if kind == "multiclass" else "logistic"
        fits = len(classes) == outputs and activation == wanted
    else:
        raise ModelFileError(f"labels: expected binary, multiclass or multilabel, got {kind!r:.80}")
    if not fits:
        raise ModelFileError(
            f"labels: the output layer has {counted(outputs, 'output')} ({activation}), which does "
            f"not fit {counted(len(classes), 'class', 'classes')} of kind {kind}"
        )
    for one in heads:
        if not len(one) or not (one[:-1] < one[1:]).all():
            raise ModelFileError(f"classes: expected different ones, sorted, got {one[:5]!r:.80}")


def _classes_from(labels: Any) -> Any:
    if isinstance(labels, dict):
        names, dtype = text_array(labels["names"]), labels["dtype"]
        if dtype == "O":  # not from the array, whose names have no NUL at their end
            return np.array(labels["names"], object)
        length = dtype[1:] if isinstance(dtype, str) and re.fullmatch(r"U\d{1,6}", dtype) else ""
        if dtype != "U" and not (length and 4 * int(length) * len(names) <= TEXT_LIMIT):
            raise ModelFileError(f"classes: expected dtype U or O, got {dtype!r:.80}")
        return names.astype(dtype) if length and int(length) * 4 > names.itemsize else names
    if getattr(labels, "ndim", 0) != 1:
        raise ModelFileError("expected classes (classes,)")
    return labels


def _curves(curves: Any) -> dict[str, list[float]]:
    """Return the curves of metrics, checked: arrays (epochs,) by name."""
    arrays: list[Any] = list(curves.values()) if isinstance(curves, dict) else [None]
    if not all(is_floating(curve) and curve.ndim == 1 for curve in arrays):
        raise ModelFileError("curves: expected arrays (epochs,) of floats by name")
    return {name: curve.tolist() for name, curve in curves.items()}


def _check_resumable(given: Any, values: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Raise ModelFileError unless a fit can go on from this: `estimators.resuming.Resumable`."""
    names = {"first": bool, "state": dict | None, "rows": int, "best": bool, "last": tuple | None}
    fits = isinstance(given, dict) and set(given) == set(names)
    if not fits or not all(isinstance(given[name], kind) for name, kind in names.items()):
        raise ModelFileError(f"resumable: expected {', '.join(names)}, got {given!r:.80}")
    if given["state"] is not None:
        generator_of(given["state"])  # which checks it
    if given["last"] is not None:
        model = perceptron.network(parameters, values["coefs_"], values["intercepts_"], ())[0]
        check_parameters(model, given["last"], values["n_features_in_"], "resumable")


def _fitted(
    kind: Any,
    values: dict[str, Any],
    parameters: dict[str, Any],
    labels: dict[str, Any] | None,
    made_with: dict[str, Any],
) -> Any:
    """Return a fitted estimator of a class; its network was `made_with` other parameters."""
    estimator = kind(**parameters)
    optimizer, generator, counts, seed = [
        values.pop(n, None) for n in ("optimizer", "generator", "class_counts", "seed")
    ]
    resumable, curves = values.pop("resumable", None), values.pop("curves", None)
    if (others := values.pop("layer_params", None)) is not None:
        estimator._layer_params = others
    if curves is not None:
        estimator._curves = _curves(curves)
    if resumable is not None:
        wing = importlib.import_module(f"{_PACKAGE}.estimators.resuming")
        _check_resumable(resumable, values, made_with)
        estimator._resumable = wing.Resumable(**resumable)
    if values.get("best_loss_") is not None:
        values["best_loss_"] = np.float64(values["best_loss_"])
    if values.get("loss_curve_") is not None:
        values["loss_curve_"] = list(values["loss_curve_"])
    if values.get("validation_scores_") is not None:
        values["validation_scores_"] = values["validation_scores_"].tolist()
    if "feature_names_in_" in values:
        values["feature_names_in_"] = np.array(values["feature_names_in_"], object)
    estimator.__dict__.update(values)
    if labels is not None:
        from sklearn.preprocessing import LabelBinarizer

        if labels["kind"] == HEADS:
            wing = importlib.import_module(f"{_PACKAGE}.estimators.heads")
            binarizer = wing.Heads(labels["classes"])
        else:
            binarizer = LabelBinarizer()
            binarizer.classes_, binarizer.y_type_ = labels["classes"], labels["kind"]
            binarizer.sparse_input_ = labels["sparse"]
        estimator._label_binarizer, estimator.classes_ = binarizer, labels["classes"]
    if optimizer is not None:
        estimator._optimizer, estimator._class_counts = optimizer, tuple(counts or ())
    if generator is not None:
        estimator._random_state, estimator._seed = generator_of(generator), seed
    return estimator
