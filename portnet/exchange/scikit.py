"""scikit-learn's MLPClassifier and MLPRegressor: fitted estimators, from and to portnet's."""

import copy
import inspect
from typing import Any

import numpy as np

from .. import perceptron
from .._validation import how_to_install
from ..backend import get_backend
from .errors import ExchangeError

__all__ = ["from_sklearn", "to_sklearn"]

# Fitted attributes that both have, with the same meaning; not every fit has all of them.
SHARED = (
    "_label_binarizer",
    "_no_improvement_count",
    "_random_state",
    "best_loss_",
    "best_validation_score_",
    "classes_",
    "coefs_",
    "feature_names_in_",
    "intercepts_",
    "loss_",
    "loss_curve_",
    "n_features_in_",
    "n_iter_",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
    "t_",
    "validation_scores_",
)
# Parameters of portnet's that decide where and how it computes, but not what.
WHERE = "backend", "compile"
ACTIVATIONS = "identity", "logistic", "tanh", "relu"  # of both


def from_sklearn(estimator: Any) -> Any:
    """Return portnet's estimator of a fitted one of scikit-learn, with all that it has learned.

    `predict`, `predict_proba` and `score` give its answers. `partial_fit` and `fit` with
    ``warm_start=True`` go on where it ended, with the state of its optimizer. It is on the current
    backend. Needs the extra ``sklearn``.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Fitted. It stays as it is.

    Returns
    -------
    MLPClassifier or MLPRegressor
        Of portnet, with the same parameters.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.neural_network import MLPClassifier
    >>> import portnet
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> other = MLPClassifier(random_state=1, max_iter=300).fit(X, y)
    >>> net = portnet.exchange.from_sklearn(other)
    >>> type(net).__module__, bool(abs(net.predict_proba(X) - other.predict_proba(X)).max() < 1e-6)
    ('portnet.estimators.classifier', True)
    """
    kind, _ = _kinds(estimator, theirs=True)
    from ..estimators import architecture

    names = kind._get_param_names()
    given = estimator.get_params(deep=False)
    new = kind(**{n: copy.deepcopy(v) for n, v in given.items() if n in names})
    _copy_fitted(estimator, new)
    new._seed, new._class_counts, new._fitted_on_host = new.random_state, (), True
    architecture.record(new)
    if isinstance(new.random_state, np.random.RandomState):
        new._random_state = new.random_state
    if hasattr(estimator, "_optimizer"):
        new._optimizer = _solver_from(estimator._optimizer, new)
    backend = get_backend()
    return new if backend.is_host else new.to(backend.name, device=backend.device)


def to_sklearn(estimator: Any) -> Any:
    """Return scikit-learn's estimator of a fitted one of portnet, with all that it has learned.

    `predict`, `predict_proba` and `score` give its answers. `partial_fit` and `fit` with
    ``warm_start=True`` go on where it ended, with the state of its optimizer, if that is one of
    scikit-learn's. What runs it needs no portnet.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Of portnet, fitted, on any backend. It stays as it is.

    Returns
    -------
    sklearn.neural_network.MLPClassifier or MLPRegressor
        With the same parameters, but `backend` and `compile`. Raises ExchangeError if another one
        that scikit-learn does not have is set: `dropout` and `optimizer` can be reset, while a norm
        or an activation that the network was fitted with are a part of it. Of an ensemble, give one
        of its `estimators_`.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> import portnet
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> net = portnet.MLPClassifier(random_state=1, max_iter=300).fit(X, y)
    >>> other = portnet.exchange.to_sklearn(net)
    >>> type(other).__module__.partition(".")[0], bool((other.predict(X) == net.predict(X)).all())
    ('sklearn', True)
    """
    ours, kind = _kinds(estimator, theirs=False)
    names = kind._get_param_names()
    given = estimator.get_params(deep=False)
    _refuse_network(estimator)
    _refuse_others(estimator, {n: v for n, v in given.items() if n not in names}, ours)
    from ..estimators import architecture
    from ..estimators.optimizers import SklearnAdam, SklearnSGD

    here = estimator.to("numpy")
    given |= {"activation": perceptron.fitted_with(vars(here))["activation"]}
    here.set_params(activation=given["activation"], norm=None, dropout=0.0)
    if perceptron.changed_since_fit(vars(here)):  # without dropout
        architecture.rebuild(here, [W.shape[0] for W in here.coefs_] + [here.n_outputs_])
    new = kind(**{n: copy.deepcopy(v) for n, v in given.items() if n in names})
    try:
        new._validate_params()
    except ValueError as error:
        raise ExchangeError(f"to_sklearn: {error}") from None
    if isinstance(getattr(here, "classes_", None), list):
        raise ExchangeError("to_sklearn: scikit-learn's MLPClassifier has no several heads")
    _copy_fitted(here, new)
    if isinstance(new.random_state, np.random.RandomState):
        new._random_state = new.random_state
    if new.solver != "lbfgs":
        for name, value in _before_training(new).items():
            vars(new).setdefault(name, value)
    # A warm start with early stopping ends with these, if no epoch is better. As after a fit of
    # scikit-learn's they are the same arrays, which it changes in place: those of the last epoch.
    new._best_coefs, new._best_intercepts = new.coefs_, new.intercepts_
    solver = getattr(here, "_optimizer", None)
    if solver is not None and isinstance(solver.rule, SklearnAdam | SklearnSGD):
        new._optimizer = _optimizer_from(solver, new)
    return new


def _before_training(estimator: Any) -> dict[str, Any]:
    """Return what scikit-learn's sgd and adam expect of a network that was not trained."""
    monitored = estimator.early_stopping
    return {
        "loss_curve_": [],
        "_no_improvement_count": 0,
        "best_loss_": None if monitored else np.inf,
        "best_validation_score_": -np.inf if monitored else None,
        "validation_scores_": [] if monitored else None,
    }


def _kinds(estimator: Any, theirs: bool) -> tuple[Any, Any]:
    """Return portnet's and scikit-learn's class of a fitted estimator; else raise TypeError."""
    try:
        from sklearn import neural_network
    except ImportError as error:
        raise ImportError(f"this needs scikit-learn: {how_to_install('sklearn')}") from error
    from .. import estimators

    name = "from_sklearn" if theirs else "to_sklearn"
    for kind in ("MLPClassifier", "MLPRegressor"):
        pair = getattr(estimators, kind), getattr(neural_network, kind)
        if isinstance(estimator, pair[theirs]):
            if not (hasattr(estimator, "coefs_") or hasattr(estimator, "estimators_")):
                raise TypeError(f"{name}: expected a fitted estimator, got {kind}: fit it")
            return pair
    whose = "scikit-learn" if theirs else "portnet"
    raise TypeError(
        f"{name}: expected a fitted MLPClassifier or MLPRegressor of {whose}, got "
        f"{type(estimator).__module__}.{type(estimator).__name__}"
    )


def _copy_fitted(source: Any, new: Any) -> None:
    for name in SHARED:
        if name in vars(source):
            setattr(new, name, copy.deepcopy(vars(source)[name]))


def _refuse_others(estimator: Any, others: dict[str, Any], ours: Any) -> None:
    """Raise ExchangeError if parameters that scikit-learn does not have are set."""
    signature = inspect.signature(ours.__init__).parameters
    changed = {
        name: value
        for name, value in others.items()
        if name not in WHERE
        and not (name in signature and repr(value) == repr(signature[name].default))
    }
    if changed:
        given = ", ".join(f"{name}={value!r:.60}" for name, value in changed.items())
        reset = [f"{n}={signature[n].default!r}" for n in changed if n in signature]
        remedy = f"reset it before: estimator.set_params({', '.join(reset)})"
        raise ExchangeError(
            f"to_sklearn: scikit-learn's {ours.__name__} has no {given}"
            + (f": if it may be lost, {remedy}" if reset else "")
        )


def _refuse_network(estimator: Any) -> None:
    """Raise ExchangeError if scikit-learn has no such network, whatever the parameters are now."""
    networks = vars(estimator).get("estimators_", [])
    if networks:
        raise ExchangeError(
            f"to_sklearn: scikit-learn has no n_networks={len(networks)}: give one of them, "
            "to_sklearn(estimator.estimators_[0])"
        )
    fitted = perceptron.fitted_with(vars(estimator))
    norm, activation = fitted.get("norm"), fitted["activation"]
    if norm is not None:
        raise ExchangeError(
            f"to_sklearn: scikit-learn has no norm={norm!r:.60}, with which the network was "
            "fitted: fit another with norm=None"
        )
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ExchangeError(
            f"to_sklearn: scikit-learn has no activation={activation!r:.60}, with which the "
            f"network was fitted: fit another with one of {', '.join(ACTIVATIONS)}"
        )


# The optimizers: scikit-learn's have lists of arrays, those of coefs_ before the others -----------


def _as_params(arrays: list[Any]) -> Any:
    """Return the arrays of coefs_ and intercepts_ as a pytree like the parameters."""
    half, params = len(arrays) // 2, []
    for W, b in zip(arrays[:half], arrays[half:], strict=True):
        params += [{"W": np.array(W), "b": np.array(b)[None, :]}, ()]
    return tuple(params[:-1])


def _as_list(pytree: Any) -> list[Any]:
    """The inverse of `_as_params`."""
    dense = pytree[::2]
    return [np.array(p["W"]) for p in dense] + [np.array(p["b"][0, :]) for p in dense]


def _solver_from(optimizer: Any, e: Any) -> Any:
    """Return portnet's solver with the state of scikit-learn's."""
    from ..estimators.optimizers import SklearnAdam, SklearnSGD
    from ..estimators.solvers import Solver

    lr, params = float(e.learning_rate_init), _as_params(e.coefs_ + e.intercepts_)
    if hasattr(optimizer, "ms"):
        adam = SklearnAdam(lr, float(e.beta_1), float(e.beta_2), float(e.epsilon))
        state = adam.init(params)
        m, v, t = optimizer.ms, optimizer.vs, 0.0 * state.t + optimizer.t
        return Solver(adam, state._replace(t=t, m=_as_params(m), v=_as_params(v)), lr)
    sgd, now = SklearnSGD(lr, float(e.momentum), e.nesterovs_momentum), optimizer.learning_rate
    state = sgd.init(params)
    state = state._replace(lr=0.0 * state.lr + now, v=_as_params(optimizer.velocities))
    return Solver(sgd, state, float(now))


def _optimizer_from(solver: Any, e: Any) -> Any:
    """Return scikit-learn's optimizer with the state of portnet's."""
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

    params, state, lr = e.coefs_ + e.intercepts_, solver.state, e.learning_rate_init
    if hasattr(state, "m"):
        adam = AdamOptimizer(params, lr, e.beta_1, e.beta_2, e.epsilon)
        adam.t, adam.ms, adam.vs = int(state.t), _as_list(state.m), _as_list(state.v)
        return adam
    sgd = SGDOptimizer(params, lr, e.learning_rate, e.momentum, e.nesterovs_momentum, e.power_t)
    sgd.velocities, sgd.learning_rate = _as_list(state.v), float(solver.learning_rate)
    return sgd
