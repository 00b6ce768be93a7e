"""Curves: what early stopping monitors, and what `history_` has of each epoch."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import ClassifierMixin

from .._typing import Host, Params
from ..backend import to_numpy
from ..data.dataset import Dataset
from .scoring import (
    measured,
    monitoring,
    name_of_scorer,
    refuse_taken,
    scorer_of,
    scorers_of,
)
from .solvers import FitState, forward

__all__ = ["Validation", "history_of", "measure_of", "score_of"]


class Validation(NamedTuple):
    """The validation set: features on the backend, targets and weights on the host."""

    data: Any  # a Dataset, or one of a source
    y: Host
    weight: Host | None


def history_of(estimator: Any) -> dict[str, list[float]]:
    """Return the curves of a fitted estimator, by name."""
    curves = estimator.__dict__.get("_curves", {})
    if "loss" in curves:  # of L-BFGS
        return {name: list(curve) for name, curve in curves.items()}
    if "loss_curve_" not in estimator.__dict__:
        raise AttributeError(f"this {type(estimator).__name__} has no history_: fit it")
    found = {"loss": [float(value) for value in estimator.loss_curve_]}
    if estimator.validation_scores_ is not None:
        scores = [float(value) for value in estimator.validation_scores_]
        found[f"validation_{monitored(estimator)}"] = scores
    return found | {name: list(curve) for name, curve in curves.items()}


def monitored(estimator: Any) -> str:
    """Return the name of the score that early stopping monitors."""
    if estimator.scoring is not None and estimator.scoring != "loss":
        return name_of_scorer(estimator.scoring)
    default = "accuracy" if isinstance(estimator, ClassifierMixin) else "r2"
    return default if estimator.scoring is None else "negative_loss"


def score_of(estimator: Any, validation: Validation | None) -> Callable[[Params], float]:
    """Return the score of parameters on the validation set, which early stopping monitors."""
    assert validation is not None
    held_out, y, weight = validation
    if estimator.scoring == "loss":
        loss = loss_on(estimator, validation)
        return lambda params: -loss(params)
    if estimator.scoring is not None:
        name, scorer = name_of_scorer(estimator.scoring), scorer_of(estimator.scoring, "scoring")
        X, labels = host_rows(held_out), estimator._decode(y)
        rows = X, labels, weight
        return monitoring(
            lambda params: measured(scorer, name, at(estimator, params), *rows, what="scoring"),
            name,
        )

    def score(params: Params) -> float:
        raw = forward(estimator._network(held_out)[0], params, held_out, compiled=estimator.compile)
        return float(estimator._validation_score(raw, y, weight))

    return score


def loss_on(estimator: Any, rows: Validation) -> Callable[[Params], float]:
    """Return the loss of parameters on rows, without the penalty."""
    data, y, weight = rows
    loss, _ = estimator._loss_and_activation()
    target, w, total = estimator._targets(y, data.backend), None, float(len(y))
    if weight is not None:
        w, total = data.backend.asarray(weight, data.backend.dtype), float(weight.sum())

    def value(params: Params) -> float:
        raw = forward(estimator._network(data)[0], params, data, compiled=estimator.compile)
        return float(to_numpy(loss(raw, target, w)[0])) / total

    return value


def measure_of(
    estimator: Any, data: Any, y: Host, weight: Host | None, validation: Validation | None
) -> Callable[[Params], dict[str, float]] | None:
    """Return the function that computes `metrics` after an epoch; None without any."""
    if estimator.metrics is None:
        return None
    scorers, watched = scorers_of(estimator.metrics), ""
    own = list(scorers)
    stops = estimator.early_stopping and estimator.solver != "lbfgs"
    if validation is not None and stops:
        refuse_taken(own, monitored(estimator))
    if validation is not None and stops and estimator.scoring != "loss":
        watched = monitored(estimator)
        if watched == "loss":
            raise ValueError("scoring: history_ has 'loss' already: rename the function")
        given = estimator.scoring
        default = type(estimator).score if given is None else scorer_of(given, "scoring")
        scorers.setdefault(watched, default)
    if isinstance(data, Dataset):
        order = np.arange(len(data)) if data.order is None else data.order
    else:
        order = data.rows
    w = None if weight is None else weight[order]
    parts = [("", host_rows(data), estimator._decode(y[order]), w)]
    loss = None
    if validation is not None:
        held_out, y_val, w_val = validation
        parts.append(("validation_", host_rows(held_out), estimator._decode(y_val), w_val))
        loss = loss_on(estimator, validation)

    def measure(params: Params) -> dict[str, float]:
        net = at(estimator, params)
        found = {} if loss is None else {"validation_loss": loss(params)}
        for prefix, *rows in parts:
            for name, scorer in scorers.items():
                if not (prefix and name == watched):  # it is in validation_scores_
                    what = "metrics" if name in own else "scoring"
                    found[prefix + name] = measured(scorer, name, net, *rows, what=what)
        return found

    return measure


def at(estimator: Any, params: Params) -> Any:
    """Return a copy with these parameters, which predicts host data without names."""
    new = copy.copy(estimator)
    new.__dict__.pop("feature_names_in_", None)
    new.__dict__.update(estimator._attributes_of(FitState(params)), _fitted_on_host=True)
    return new


def host_rows(data: Any) -> Any:
    """Return the rows of a dataset on the host, in its order: an array, sparse data, a source."""
    if not isinstance(data, Dataset):
        from .parts import RowsOfSource

        return RowsOfSource(data)
    X = data.X if data.is_csr else to_numpy(data.X)
    return X if data.order is None else X[data.order]
