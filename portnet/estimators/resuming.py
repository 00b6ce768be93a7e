"""Resuming: what `fit(resume=True)` needs to go on from the last fit, bit for bit."""

import copy
from dataclasses import is_dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from .._typing import Params
from ..perceptron import OF_NETWORK, changed_since_fit, fitted_with
from .solvers import solver_of

__all__ = ["Resumable", "check_parameters", "check_resumed", "last_fit", "rewound", "state_of"]

# Parameters that may differ: they do not change the steps, or are checked by themselves (sizes,
# n_networks, and those of the optimizer).
FREE = (
    *("max_iter", "max_fun", "verbose", "compile", "backend", "warm_start", "metrics"),
    *("hidden_layer_sizes", "n_networks"),
    *("solver", "optimizer", "learning_rate_init", "momentum", "nesterovs_momentum"),
    *("beta_1", "beta_2", "epsilon"),
)


class Resumable(NamedTuple):
    """What `fit` needs to go on from a fit, besides fitted attributes.

    `first` tells whether the fit began with a new network, `state` is that of the generator at its
    begin if `random_state` is no integer, `rows` the number of training rows. Under early stopping,
    `best` tells whether the network has the parameters of the best epoch, and `last` are those of
    the last one if they are others.
    """

    first: bool
    state: dict[str, Any] | None
    rows: int
    best: bool = False
    last: Params = None


def state_of(estimator: Any, rng: np.random.RandomState) -> dict[str, Any] | None:
    """Return the state of a generator, unless an integer seed says it."""
    if isinstance(estimator.random_state, Integral):
        return None
    return dict(rng.get_state(legacy=False))


def last_fit(estimator: Any) -> Resumable:
    """Return what the last fit has left; raise ValueError if it was none of epochs."""
    found: Resumable | None = estimator.__dict__.get("_resumable")
    if found is None:
        raise ValueError(
            "resume=True goes on from the last fit of sgd or adam, or from initialize; the last "
            "call was another one, or its state was left out: by without_state, or in a file, "
            "which has it after portnet.save(estimator, path, state=True). warm_start=True begins "
            "with the weights alone"
        )
    return found


def rewound(estimator: Any) -> np.random.RandomState:
    """Return a generator in the state at the begin of the last fit."""
    start = last_fit(estimator)
    rng: np.random.RandomState
    if start.state is None:
        rng = check_random_state(estimator._seed)
    else:
        rng = copy.deepcopy(estimator._random_state)
        rng.set_state(start.state)
    estimator._random_state = rng
    return rng


def check_parameters(estimator: Any, trained: bool = True) -> None:
    """Raise ValueError where a parameter would not give the bits of one fit.

    A network that is not `trained` has only what it was made of.
    """
    own = dict(vars(estimator))
    if not isinstance(own.get("random_state"), Integral):  # its state is known
        own["random_state"] = None
    fitted = fitted_with(own)
    names = fitted if trained else (*OF_NETWORK, "random_state")
    changed = changed_since_fit(own, [n for n in names if n not in FREE])
    for name, value in changed.items():
        raise ValueError(
            f"resume=True: the last fit was made with {name}={value!r:.80}, but the parameters say "
            f"{own[name]!r:.80}: the fit would not have the bits of one fit. Set it back, or use "
            "warm_start=True, which begins with the weights alone"
        )


def check_resumed(estimator: Any, before: Resumable, rows: int) -> None:
    """Raise ValueError where data or parameters differ from those of the last fit."""
    if before.rows not in (0, rows):
        raise ValueError(
            f"resume=True needs the data of the last fit, which had {before.rows} training "
            f"rows, got {rows}: warm_start=True trains on other data"
        )
    if estimator.n_iter_ > estimator.max_iter:
        raise ValueError(
            f"max_iter: the last fit ended after {estimator.n_iter_} iterations, which count, got "
            f"max_iter={estimator.max_iter}: give max_iter={estimator.n_iter_} or more"
        )
    if "_optimizer" not in estimator.__dict__:  # after `initialize`
        return
    last, now = estimator._optimizer.rule, solver_of(estimator, ()).rule
    if type(last) is not type(now) or (is_dataclass(now) and last != now):
        raise ValueError(
            f"resume=True: the last fit was made with {last}, but the parameters say "
            f"{now}: warm_start=True begins anew with another optimizer"
        )
