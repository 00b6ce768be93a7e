"""Scoring: the metrics of early stopping and of `history_`, by scikit-learn's scorers."""

from collections.abc import Callable
from typing import Any

from sklearn.metrics import get_scorer

from .._typing import ArrayLike

__all__ = ["Scorer", "measured", "name_of_scorer", "scorer_of", "scorers_of"]

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
        return {str(name): scorer_of(one, f"metrics[{name!r}]") for name, one in given.items()}
    several = given if isinstance(given, list | tuple) else [given]
    if "loss" in several:
        raise ValueError("metrics: 'loss' is always in history_, leave it out")
    found = {name_of_scorer(one): scorer_of(one, "metrics") for one in several}
    if len(found) < len(several):
        raise ValueError(f"metrics: two have the same name: give a dict, got {list(found)}")
    return found


def measured(
    scorer: Scorer, name: str, estimator: Any, X: Any, y: ArrayLike, w: ArrayLike
) -> float:
    """Return the score of an estimator as a float; ValueError if it is no number."""
    value = scorer(estimator, X, y) if w is None else scorer(estimator, X, y, sample_weight=w)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"scoring: expected a number from {name!r}, got {value!r:.80}: give a scorer of one "
            "metric"
        ) from None
