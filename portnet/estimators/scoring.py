"""Scoring: the metrics of early stopping and of `history_`, by scikit-learn's scorers."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from sklearn.metrics import get_scorer

from .._typing import ArrayLike
from .._validation import warn

__all__ = [
    "Scorer",
    "measured",
    "monitoring",
    "name_of_scorer",
    "refuse_taken",
    "scorer_of",
    "scorers_of",
]

Scorer = Callable[..., float]  # of estimator, X, y, and sample_weight=


def name_of_scorer(given: Any) -> str:
    """Return the name of a metric in `history_`."""
    if isinstance(given, str):
        return given
    function = getattr(given, "_score_func", given)
    return str(getattr(function, "__name__", type(given).__name__))


def scorer_of(given: Any, what: str) -> Scorer:
    """Return the scorer of a name, or a callable as it is; errors begin with `what`."""
    if not isinstance(given, str):
        if not callable(given):
            raise ValueError(
                f"{what}: expected the name of a scorer of scikit-learn, or a callable(estimator, "
                f"X, y), got {given!r}"
            )
        return given  # type: ignore[no-any-return]
    try:
        return get_scorer(given)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def scorers_of(given: Any) -> dict[str, Scorer]:
    """Return the scorers of the parameter `metrics`, by their names in `history_`."""
    if given is None:
        return {}
    if isinstance(given, dict):
        found = {str(name): scorer_of(one, f"metrics[{name!r}]") for name, one in given.items()}
    else:
        several = given if isinstance(given, list | tuple) else [given]
        if "loss" in several:
            raise ValueError("metrics: 'loss' is always in history_, leave it out")
        found = {name_of_scorer(one): scorer_of(one, "metrics") for one in several}
        if len(found) < len(several):
            raise ValueError(f"metrics: two have the same name: give a dict, got {list(found)}")
    refuse_taken(found)
    return found


def refuse_taken(names: Iterable[str], monitored: str = "loss") -> None:
    """Raise ValueError for names of metrics that `history_` has for something else.

    `monitored` is the name of what early stopping monitors.
    """
    taken = {"loss", "validation_loss", *(f"validation_{name}" for name in (monitored, *names))}
    for name in names:
        if name in taken or name == monitored == "negative_loss":
            raise ValueError(
                f"metrics: history_ has {name!r} already: give another name, as in "
                f"metrics={{'my_{name}': ...}}"
            )


def takes_weights(scorer: Scorer) -> bool:
    """Tell whether a scorer can be given weights: as its parameter, or that of its metric."""
    try:
        parameters = inspect.signature(getattr(scorer, "_score_func", scorer)).parameters
    except ValueError:  # a function in C without a signature
        return False
    return "sample_weight" in parameters or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    )


def measured(
    scorer: Scorer, name: str, estimator: Any, X: Any, y: ArrayLike, w: ArrayLike, *, what: str
) -> float:
    """Return the score of an estimator as a float; ValueError if it is no number.

    A scorer that takes no weights is called without. Errors begin with `what`.
    """
    weights = {"sample_weight": w} if w is not None and takes_weights(scorer) else {}
    value = scorer(estimator, X, y, **weights)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{what}: expected a number from {name!r}, got {value!r:.80}: give a scorer of one "
            "metric"
        ) from None


def monitoring(score: Callable[[Any], float], name: str) -> Callable[[Any], float]:
    """Return a score of parameters that warns when it is NaN for the first time."""
    warned = False

    def warning(params: Any) -> float:
        nonlocal warned
        value = score(params)
        if math.isnan(value) and not warned:
            warned = True
            warn(
                f"scoring: {name!r} is NaN for the validation set. An epoch with NaN is never the "
                "best one, and does not count towards n_iter_no_change"
            )
        return value

    return warning
