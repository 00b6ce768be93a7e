"""Ensembles: an estimator with ``n_networks=K`` is K of them, which differ in their seeds.

The networks are `estimators_`: estimators of the same parameters with ``n_networks=1``, and seeds
that `random_state` draws. Each is fitted as it would be by itself; where that is faster, the epochs
of all are trained together: not from data that are read in parts, nor on several ranks.
With callbacks they are not, either: each network is then a fit of its own, of which its callbacks
are told.

Ctrl-C ends the fits of all. Where they are trained in turn, networks that it leaves untrained are
not in `estimators_`, and their seeds are kept for a fit that goes on.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from ..engine.epoch import quiet
from ..engine.ranks import current_ranks
from .architecture import record
from .solvers import FitState

__all__ = [
    "OfEachNetwork",
    "fit_networks",
    "join",
    "leave_networks",
    "missing_in_ensemble",
    "networks_of",
    "refuse_for_networks",
]

# Attributes that are the same for all networks.
COMMON = (
    "_fitted_on_host",
    "_label_binarizer",
    "classes_",
    "feature_names_in_",
    "n_features_in_",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
)
# Attributes of a network that an ensemble has for itself, too.
KEPT = "_fitted_with", "_metadata_request", "_sklearn_output_config", "_skl_callbacks"


class OfEachNetwork:
    """A fitted attribute that an ensemble lacks, and its networks have.

    It is only asked where the estimator has no value of its own, to raise an AttributeError.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, estimator: Any, owner: type) -> Any:
        """Raise AttributeError; return this from the class."""
        if estimator is None:
            return self
        kind, networks = owner.__name__, networks_of(estimator)
        if networks:
            raise AttributeError(missing_in_ensemble(kind, self.name, len(networks)))
        raise AttributeError(
            f"{kind!r} object has no attribute {self.name!r}", name=self.name, obj=estimator
        )


def missing_in_ensemble(kind: str, name: str, count: int) -> str:
    """Return the message for an attribute that only the networks of an ensemble have."""
    return (
        f"this {kind} has {count} networks, and no {name}: each of its networks has one, "
        f"estimators_[0].{name} and so on"
    )


def networks_of(estimator: Any) -> list[Any]:
    """Return the estimators of an ensemble; none for an estimator of one network."""
    found: list[Any] = vars(estimator).get("estimators_", [])
    return found


def refuse_for_networks(estimator: Any, what: str) -> None:
    """Raise ValueError for an ensemble, which lacks `what`."""
    if networks_of(estimator):
        raise ValueError(
            f"{what}: this {type(estimator).__name__} has {len(estimator.estimators_)} networks: "
            f"ask each of them, estimators_[0].{what} and so on"
        )


def leave_networks(estimator: Any, goes_on: bool) -> None:
    """Forget the networks of an ensemble; raise ValueError for a fit that goes on."""
    if goes_on:
        raise ValueError(
            f"n_networks=1, but {len(estimator.estimators_)} networks are fitted: use a new "
            "estimator"
        )
    for name in ("estimators_", "_fitted_with", "_missing_seeds", "n_iter_", "t_", "loss_"):
        vars(estimator).pop(name, None)


def fit_networks(
    estimator: Any, fit: Callable[[Any], FitState], goes_on: bool, incremental: bool
) -> FitState:
    """Fit the networks of an ensemble, one after the other, and set its attributes.

    `fit` fits one of them; with `goes_on` they are those of the last fit.
    """
    count, known = int(estimator.n_networks), networks_of(estimator) if goes_on else []
    networks = []
    if goes_on and hasattr(estimator, "coefs_"):
        raise ValueError(
            f"n_networks={count}, but the fit was one of a single network: use a new estimator"
        )
    if known:
        seeds = vars(estimator).get("_missing_seeds", [])  # of an interrupted fit
        if len(known) + len(seeds) != count:
            raise ValueError(
                f"n_networks={count}, but {len(known)} networks are fitted: use a new estimator"
            )
        networks = copy.deepcopy(known)  # if one raises, the others are as they were
        given = estimator.get_params(deep=False)
        for name in ("n_networks", "random_state"):
            given.pop(name)
        for network in networks:
            network.set_params(**given)
    else:
        draw = check_random_state(estimator.random_state)
        seeds = draw.randint(np.iinfo(np.int32).max, size=count)
    networks += [
        clone(estimator).set_params(n_networks=1, random_state=int(seed)) for seed in seeds
    ]
    if incremental:  # the first call of partial_fit has learned the classes
        for network in networks[len(known) :]:
            own = vars(estimator)
            vars(network).update({n: own[n] for n in ("classes_", "_label_binarizer") if n in own})
    done = _fitted(estimator, networks, fit, incremental)
    networks = [networks[k] if k in done else known[k] for k in sorted({*done, *range(len(known))})]
    join(estimator, networks)
    record(estimator)
    vars(estimator).pop("_missing_seeds", None)
    if len(networks) < count:
        estimator._missing_seeds = [int(seed) for seed in seeds[len(networks) - count :]]
    warned = [state for state in done.values() if state.warning]
    if not warned:
        return FitState(None)
    if len(done) < count:
        return replace(_interrupted(estimator, done), params=None)
    some = f" ({len(warned)} of {count} networks)" if len(warned) < count else ""
    return replace(warned[0], params=None, warning=warned[0].warning + some)


def _interrupted(estimator: Any, done: dict[int, FitState]) -> FitState:
    """Return the result of the network that was interrupted, whose warning says what is left."""
    state = next(state for state in done.values() if state.interrupted)
    some = f" {len(done)} of {int(estimator.n_networks)} networks have been trained; "
    missing = "_missing_seeds" in vars(estimator)
    some += "predictions are theirs" if missing else "the others are as they were"
    more = ": fit(X, y, resume=True) trains the others" if estimator.solver != "lbfgs" else ""
    return replace(state, warning=state.warning + some + more)


def _fitted(
    estimator: Any, networks: list[Any], fit: Callable[[Any], FitState], incremental: bool
) -> dict[int, FitState]:
    """Return the results of the fits of all networks: in turn, or their epochs together.

    Ctrl-C ends all fits: networks that it leaves untrained have no result.
    """
    if not estimator.verbose:
        return _trained(estimator, networks, fit, incremental)
    try:
        for k, network in enumerate(networks):
            network._name = f"estimators_[{k}]: "
        return _trained(estimator, networks, fit, incremental)
    finally:
        for network in networks:
            vars(network).pop("_name", None)


def _trained(
    estimator: Any, networks: list[Any], fit: Callable[[Any], FitState], incremental: bool
) -> dict[int, FitState]:
    """Return the results of `_fitted`; networks with a `_name` print it."""
    done = dict[int, FitState]()
    if incremental or estimator.solver == "lbfgs" or current_ranks() is not None:
        for k, network in enumerate(networks):
            done[k] = fit(network)
            if done[k].interrupted:
                break
        return done
    from .together import Shared, train_together  # few fits need it

    shared, prepared = Shared(), dict[int, Any]()
    for k, network in enumerate(networks):

        def keep(*given: Any, k: int = k) -> FitState:
            prepared[k] = given
            return FitState(None)

        network._run_solver = keep  # all but the solver
        try:
            done[k] = fit(network)
        finally:
            del network._run_solver
        if done[k].interrupted:  # it has callbacks
            break
    if prepared:
        backend = prepared[0][0].backend
        with backend.active(), quiet():
            trainings = [networks[k]._solving(*prepared[k], shared) for k in prepared]
            looked_at = bool(estimator.early_stopping or estimator.metrics is not None)
            found = train_together(trainings, shared, looked_at)
        numbers = list(prepared)
        for at, state in found.items():
            done[numbers[at]] = state
        for k in {*prepared} - {numbers[at] for at in found}:
            del done[k]
    return done


def join(estimator: Any, networks: list[Any]) -> None:
    """Let an estimator be the ensemble of these networks."""
    parameters = set(estimator.get_params(deep=False))
    for network in networks:
        for name in {*vars(network)} - parameters:  # of an earlier fit of one network
            if name not in KEPT:
                vars(estimator).pop(name, None)
    first = vars(networks[0])
    vars(estimator).update({name: first[name] for name in COMMON if name in first})
    estimator.estimators_ = networks
    estimator.n_iter_ = max(network.n_iter_ for network in networks)
    estimator.t_ = max(network.t_ for network in networks)
    losses = [network.loss_ for network in networks if hasattr(network, "loss_")]
    if losses:
        estimator.loss_ = np.float64(np.mean(losses))
