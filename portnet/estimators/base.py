"""The base class of MLPClassifier and MLPRegressor: fit, validation sets, backends."""

import copy
import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass, replace
from itertools import pairwise
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import perceptron, summary, tree
from .._typing import Array, ArrayLike, Device, Host, Params, Tree
from .._validation import warn
from ..backend import (
    Backend,
    backend_of,
    describe,
    device_argument,
    get_backend,
    is_host,
    to_numpy,
    use_backend,
)
from ..data import checks
from ..data.dataset import Dataset
from ..engine.epoch import quiet
from ..engine.packing import unpacked
from ..losses import Loss
from ..optimizers import OPTIMIZERS
from ..transforms import refuse_transforms
from . import coefs, inputs
from .checkpoints import FitFiles
from .ensemble import fit_networks, join, networks_of, refuse_for_networks
from .inputs import _host_weights
from .own_losses import ROWS, check_own_loss
from .scoring import measured, name_of_scorer, scorer_of, scorers_of
from .solvers import FitState, fit_lbfgs, fit_stochastic, forward, solver_of
from .sparse_dense import SparseDense
from .tasks import FitTasks, has_callbacks

__all__ = ["STOCHASTIC"]

STOCHASTIC = ("sgd", "adam")
# Results of a fit besides the network; they are deleted when a new network is initialized.
_FIT_RESULTS = (
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
    "_optimizer",
    "_no_improvement_count",
    "_class_counts",
    "_curves",
    "_layer_params",
    "_resumable",
)
_LAYER = HasMethods(["init", "forward", "backward"])


_FLOATS = (np.float64, np.float32)


def _is_stochastic(estimator: Any) -> bool:
    if estimator.solver not in STOCHASTIC:
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    return True


class _Validation(NamedTuple):
    """The validation set: features on the backend, targets and weights on the host."""

    data: Dataset
    y: Host
    weight: Host | None


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


class _MLP(CallbackSupportMixin, BaseEstimator, ABC):
    """Everything that the classifier and the regressor share: all but the meaning of y."""

    _fitted_on_host = True  # set by a fit of a new network
    _class_counts: tuple[Any, ...] = ()
    _random_state: np.random.RandomState  # set by the first fit

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(perceptron.HIDDEN)), list, tuple, _LAYER],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "backend": [str, None],
        "compile": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "norm": [None, StrOptions({"layer"}), _LAYER],
        "optimizer": [None, StrOptions(set(OPTIMIZERS)), HasMethods(["init", "update"])],
        "scoring": [None, str, callable],
        "metrics": [None, str, callable, list, tuple, dict],
        "n_networks": [Interval(Integral, 1, None, closed="left")],
    }

    def _set_parameters(self, given: dict[str, object]) -> None:
        """Set the parameters to the arguments of `__init__`."""
        for name, value in given.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    # The meaning of y: implemented by the classifier and the regressor -------------------------

    @abstractmethod
    def _host_labels(self, y: ArrayLike) -> ArrayLike:
        """Return unchecked y, on the host if it is encoded there."""

    @abstractmethod
    def _is_plain(self, y: object, rows: int) -> bool:
        """Return whether y is a NumPy array (rows,) that needs no checks."""

    @abstractmethod
    def _learn_targets(self, y: ArrayLike, backend: Backend, incremental: bool) -> None:
        """Set the number of outputs and the classes from y, or check y against the classes."""

    @abstractmethod
    def _encode(self, y: ArrayLike, name: str = "y") -> Any:
        """Return checked y as class indices (rows,), or (rows, outputs)."""

    @abstractmethod
    def _loss_and_activation(self) -> tuple[Loss, str]:
        """Return the loss, summed over rows, and the name of the output activation."""

    @abstractmethod
    def _validation_score(self, raw: Array, y: Host, weight: Host | None) -> float:
        """Return the score of raw outputs (rows, outputs) that early stopping monitors."""

    @abstractmethod
    def _decode(self, y: Host) -> Host:
        """Return the targets that were encoded as y: the inverse of `_encode`."""

    def _targets(self, y: ArrayLike, backend: Backend) -> Array:
        """Return encoded y on the backend, as the loss needs it."""
        return inputs.targets(y, backend)

    # Fitting ------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike = None,
        *,
        X_val: ArrayLike = None,
        y_val: ArrayLike = None,
        sample_weight_val: ArrayLike = None,
        checkpoint: str | PathLike[str] | None = None,
        every: int | str = 1,
        keep: int = 1,
        on_checkpoint_error: str = "raise",
        resume: str | PathLike[str] | bool | None = None,
    ) -> Self:
        """Train from initial weights or, with `warm_start`, from the current weights.

        Parameters
        ----------
        X : (rows, features)
            Array of any library, list, data frame or SciPy sparse matrix. Sparse data stay sparse
            on NumPy; on other backends each batch becomes dense. float32 and float64 are kept,
            other dtypes become float64.
        y : (rows,) or (rows, outputs)
            Class labels or numbers; they are moved to the backend of X.
        sample_weight : (rows,), optional
            Multiplies the loss of each row; a batch divides by the sum of its weights.
        X_val, y_val : like X and y, optional
            Validation set for early stopping, instead of a part of X. In a Pipeline:
            ``transform_input=["X_val"]`` and ``set_fit_request(X_val=True, y_val=True)``.
        sample_weight_val : (validation rows,), optional
        checkpoint : path, optional
            Where sgd and adam write the estimator from time to time, and at the end;
            `portnet.load` reads it. SIGTERM then ends training after the step, and the process with
            status 143.
        every : int or str
            A number of epochs, or a text such as "30 seconds": then after the epoch.
        keep, on_checkpoint_error
            As in `portnet.Trainer.fit`. Under early stopping, the estimator in a checkpoint has the
            parameters of the best epoch so far.
        resume : path or bool, optional
            The path of a checkpoint: training goes on exactly where it ended, as if it had not
            ended. True is that of `checkpoint`, if it exists. Without `checkpoint`, True goes on
            from this estimator's last fit, or from `initialize`: with the same data,
            ``MLPClassifier(max_iter=10).fit(X, y)``, then ``set_params(max_iter=20)`` and
            ``fit(X, y, resume=True)`` have the bits of 20 epochs at once.

        Returns
        -------
        self
            A fit that raises leaves the estimator unchanged, except if a convergence warning is
            turned into an error: it is raised after the fit.
        """
        validation = {"X_val": X_val, "y_val": y_val, "sample_weight_val": sample_weight_val}
        files = None
        given = checkpoint, every, keep, on_checkpoint_error
        goes_on = resume is True and given == (None, 1, 1, "raise")
        if goes_on and self.solver == "lbfgs":
            raise ValueError("resume: give solver='sgd' or 'adam', not 'lbfgs'")
        if not goes_on and (given != (None, 1, 1, "raise") or resume not in (None, False)):
            if self.solver == "lbfgs":
                raise ValueError("checkpoint and resume: give solver='sgd' or 'adam', not 'lbfgs'")
            if self.n_networks > 1:
                raise ValueError(
                    f"checkpoint and resume=path: a checkpoint holds one network, but n_networks="
                    f"{self.n_networks}: save the fitted estimator, portnet.save(estimator, path)"
                )
            files = FitFiles(checkpoint, every, keep, on_checkpoint_error, resume)
        return self._fit_or_restore(
            lambda: self._fit(X, y, sample_weight, validation, files=files, resume=goes_on),
            X=X,
            y=y,
            sample_weight=sample_weight,
        )

    @_fit_context(prefer_skip_nested_validation=True)
    def initialize(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Make the network with its initial weights, as `fit` does, and do not train.

        The estimator then predicts. ``fit(X, y, resume=True)``, `warm_start` and `partial_fit`
        begin with its weights, which `set_weights` sets. A fit from there has the bits of one that
        begins anew.

        Parameters
        ----------
        X, y
            As in `fit`: they determine the number of inputs and outputs, the classes, the backend
            and the dtype.

        Returns
        -------
        self
            A call that raises leaves the estimator unchanged.

        Examples
        --------
        >>> from portnet import MLPRegressor
        >>> net = MLPRegressor(hidden_layer_sizes=(3,)).initialize([[0.0, 1.0]], [2.0])
        >>> [w.shape for w in net.get_weights()]
        [(2, 3), (3,), (3, 1), (1,)]
        """
        return self._fit_or_restore(lambda: self._fit(X, y, None, train=False), X=X, y=y)

    def _fit_or_restore(self, fit: Callable[[], FitState], **given: ArrayLike) -> Self:
        """Fit, restoring all attributes if that raises; the warning comes last, as it may raise.

        Errors name the argument of `given` that they are about.
        """
        before: dict[str, Any] = dict(self.__dict__)
        rng = before.get("_random_state") if isinstance(self.random_state, Integral) else None
        rng_state = None if rng is None else rng.get_state()
        try:
            with inputs.errors_name_argument(**given):
                done = fit()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            if rng is not None:
                rng.set_state(rng_state)
            raise
        if done.warning:
            warn(done.warning, done.category)
        return self

    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike,
        validation: dict[str, ArrayLike] | None = None,
        incremental: bool = False,
        files: FitFiles | None = None,
        resume: bool = False,
        train: bool = True,
    ) -> FitState:
        """Check the data, initialize or continue the network, train, and set the attributes."""
        if incremental:  # scikit-learn validates the parameters in the first call only
            self._validate_changed_params()
            if self.early_stopping:
                raise ValueError("partial_fit does not support early_stopping=True")
        self._check_options()
        if self.n_networks > 1:
            more = validation, incremental, files, resume, train
            goes_on = incremental or resume or (self.warm_start and train)
            return fit_networks(
                self, lambda one: one._fit(X, y, sample_weight, *more), goes_on, incremental
            )
        if "estimators_" in self.__dict__:
            self._leave_networks(incremental or resume or (self.warm_start and train))
        hidden = self._hidden_sizes()
        given = X, y, sample_weight
        resume = resume and hasattr(self, "coefs_")
        first = not hasattr(self, "coefs_") or not (
            (self.warm_start and train) or incremental or resume
        )
        method = "partial_fit" if incremental else "fit"
        backend = self._backend_for(X) if first else self._backend_of_network(X, method)
        with backend.active():
            backend, X, y = self._check_data(backend, X, self._host_labels(y), first)
        with backend.active(), quiet():
            self._learn_targets(y, backend, incremental or resume)
            y = self._encode(y)
            before = self._last_fit() if resume else None
            rng = self._generator(incremental and not first) if before is None else self._rewound()
            if files is not None:
                files.begin(self, rng)
            start = before or Resumable(first, None if incremental else self._state_of(rng), 0)
            sizes = [X.shape[1], *hidden, self.n_outputs_]
            if first:
                self._initialize(sizes, backend, rng)
            elif start.first and before is not None:  # the numbers that the network took
                coefs.draw(self.__dict__, sizes[0], sizes[1:], rng)
            self._check_sizes(sizes)
            if not incremental:
                self._class_counts = ()
            data = Dataset(backend, X, self._targets(y, backend))
            if not isinstance(self.loss, str) and (first or not incremental):
                check_own_loss(self.loss, to_numpy(self._targets(y[:ROWS], backend)), backend)
            if not train:
                self._resumable = start
                return FitState(None)
            data, weight = self._with_weights(data, y, sample_weight)
            held_out = self._given_validation(backend, **(validation or {}))
            if held_out is None and self.early_stopping and self.solver in STOCHASTIC:
                data, held_out = self._split(data, to_numpy(y), weight, rng)
            measure = self._measure(data, to_numpy(y), weight, held_out)
            if before is not None:
                self._check_resumed(before, len(data))
            fit = self._run_solver
            if not incremental and has_callbacks(self):
                fit = with_callbacks(type(self)._run_solver).__get__(self)
            return fit(data, held_out, rng, incremental, files, start, before, measure, given)

    def _leave_networks(self, goes_on: bool) -> None:
        """Forget the networks of an ensemble; raise ValueError for a fit that goes on."""
        if goes_on:
            raise ValueError(
                f"n_networks=1, but {len(self.estimators_)} networks are fitted: use a new "
                "estimator"
            )
        for name in ("estimators_", "n_iter_", "t_", "loss_"):
            self.__dict__.pop(name, None)

    def _check_options(self) -> None:
        """Raise ValueError for parameters that exclude each other."""
        if self.optimizer is not None:
            check_optimizer(self)
        if self.solver == "lbfgs":
            more = {"dropout": self.dropout or None, "optimizer": self.optimizer}
            more["metrics"] = self.metrics
            for name, value in more.items():
                if value is not None:
                    raise ValueError(
                        f"{name}={value!r} needs solver='adam' or 'sgd', which train in epochs; "
                        "got solver='lbfgs'"
                    )
        elif self.scoring is not None and not self.early_stopping:
            raise ValueError(
                f"scoring={self.scoring!r} is monitored by early stopping: set early_stopping=True,"
                " or give metrics=[...] to have a curve of it in history_"
            )

    def _state_of(self, rng: np.random.RandomState) -> dict[str, Any] | None:
        """Return the state of a generator, unless an integer seed says it."""
        if isinstance(self.random_state, Integral):
            return None
        return dict(rng.get_state(legacy=False))

    # Going on from a fit --------------------------------------------------------------------------

    def _last_fit(self) -> Resumable:
        found: Resumable | None = self.__dict__.get("_resumable")
        if found is None:
            raise ValueError(
                "resume=True goes on from the last fit of sgd or adam, or from initialize; the last"
                " call was another one, or its state was left out (without_state, state=False). "
                "warm_start=True begins with the weights alone"
            )
        return found

    def _rewound(self) -> np.random.RandomState:
        """Return a generator in the state at the begin of the last fit."""
        start = self._last_fit()
        if start.state is None:
            self._random_state = check_random_state(self._seed)
        else:
            self._random_state = copy.deepcopy(self._random_state)
            self._random_state.set_state(start.state)
        return self._random_state

    def _check_resumed(self, before: Resumable, rows: int) -> None:
        """Raise ValueError where data or parameters differ from those of the last fit."""
        if before.rows not in (0, rows):
            raise ValueError(
                f"resume=True needs the data of the last fit, which had {before.rows} training "
                f"rows, got {rows}: warm_start=True trains on other data"
            )
        if self.n_iter_ > self.max_iter:
            raise ValueError(
                f"max_iter: the last fit ended after {self.n_iter_} iterations, which count, got "
                f"max_iter={self.max_iter}: give max_iter={self.n_iter_} or more"
            )
        if "_optimizer" not in self.__dict__:  # after `initialize`
            return
        last, now = self._optimizer.rule, solver_of(self, ()).rule
        if type(last) is not type(now) or (is_dataclass(now) and last != now):
            raise ValueError(
                f"resume=True: the last fit was made with {last}, but the parameters say "
                f"{now}: warm_start=True begins anew with another optimizer"
            )

    def _validate_params(self) -> None:
        """Validate the parameters as scikit-learn does, but for those that have their default."""
        kind = type(self)
        defaults, given = _defaults_of(kind), vars(self)
        changed = {
            n: given.get(n) for n in _names_of(kind) if given.get(n) is not defaults.get(n, n)
        }
        validate_parameter_constraints(
            self._parameter_constraints, changed, caller_name=kind.__name__
        )

    def _validate_changed_params(self) -> None:
        """Validate the parameters, unless they are the objects that were validated last."""
        now = [self.__dict__.get(name) for name in _names_of(type(self))]
        last = self.__dict__.get("_validated", [])
        if len(now) != len(last) or any(a is not b for a, b in zip(now, last, strict=True)):
            self._validate_params()
            self._validated = now

    def _generator(self, resume: bool) -> np.random.RandomState:
        """Return a new random generator, or the previous one to resume with the same seed."""
        before, seed = self.__dict__.get("_seed", self), self.random_state
        # By value: a pickle does not keep the identity of integers.
        same = before is seed or (isinstance(seed, Integral) and before == seed)
        if not (resume and same):
            self._seed = seed
            self._random_state = check_random_state(seed)
        return self._random_state

    def _initialize(self, sizes: list[int], backend: Backend, rng: np.random.RandomState) -> None:
        """Draw the initial weights, in scikit-learn's order."""
        *drawn, others = coefs.draw(self.__dict__, sizes[0], sizes[1:], rng)
        self.coefs_, self.intercepts_ = [
            [backend.asarray(a, backend.dtype) for a in arrays] for arrays in drawn
        ]
        self.n_layers_, self.n_iter_, self.t_ = len(sizes), 0, 0
        _, self.out_activation_ = self._loss_and_activation()
        for name in _FIT_RESULTS:
            self.__dict__.pop(name, None)
        if others:
            self._layer_params = tree.map(lambda a: backend.asarray(a, backend.dtype), others)

    def _run_solver(
        self,
        data: Dataset,
        validation: _Validation | None,
        rng: np.random.RandomState,
        incremental: bool,
        files: FitFiles | None,
        begin: Resumable,
        before: Resumable | None,
        measure: Callable[[Params], dict[str, float]] | None,
        given: tuple[ArrayLike, ArrayLike, ArrayLike],
    ) -> FitState:
        """Run the solver and set the attributes to its result."""
        model, params = self._network(data)
        loss, _ = self._loss_and_activation()
        start = FitState(params, getattr(self, "loss_", math.nan), t=self.t_)
        tasks = None
        if not incremental and has_callbacks(self):
            epochs = None if self.solver == "lbfgs" else int(self.max_iter)
            tasks = FitTasks(self, given, epochs, self._attributes_of)
        if self.solver == "lbfgs":
            done = fit_lbfgs(self, model, loss, data, start, tasks=tasks)
            self.__dict__.pop("_resumable", None)
        else:
            seed = None if perceptron.plain(self.__dict__) else int(rng.randint(2**31))
            start, position = self._resume(start, incremental, before), None
            if files is not None:
                start, position = files.start(data, validation, start)
            done = fit_stochastic(
                self,
                model,
                loss,
                data,
                start,
                rng,
                batch_size=self._batch_size(len(data)),
                incremental=incremental,
                score=self._score_of(validation) if self.early_stopping else None,
                measure=measure,
                tasks=tasks,
                files=files,
                position=position,
                resumed=before is not None,
                seed=seed,
            )
            if incremental:
                self.__dict__.pop("_resumable", None)
            else:
                self._resumable = begin._replace(
                    rows=len(data), best=done.best is not None, last=done.last
                )
        self._store_result(done)
        if tasks is not None:
            tasks.finish(done)
        return done

    def _store_result(self, done: FitState) -> None:
        """Set the attributes to the result of a fit."""
        if done.solver is not None:
            self._store_solver_state(done)
        self.__dict__.update(self._attributes_of(done))
        if not math.isnan(done.loss):
            self.loss_ = np.float64(done.loss)

    def _attributes_of(self, now: FitState) -> dict[str, Any]:
        """Return the attributes of the network in a state of its fit."""
        found: dict[str, Any] = {"n_iter_": now.n_iter, "t_": now.t}
        W, b, others = perceptron.split(self.__dict__, unpacked(now.params))
        found |= {"coefs_": W, "intercepts_": b}
        if not perceptron.plain(self.__dict__):
            found["_layer_params"] = others
        return found

    def _network(self, data: Dataset | None = None) -> tuple[Any, Params]:
        """Return the model for dense or sparse data, and its parameters."""
        first = {"first": SparseDense} if data is not None and data.is_sparse else {}
        others = self.__dict__.get("_layer_params", ())
        return perceptron.network(self.__dict__, self.coefs_, self.intercepts_, others, **first)

    def _resume(self, start: FitState, incremental: bool, before: Resumable | None) -> FitState:
        """Return the start of sgd or adam, with the solver state of the previous fit."""
        fitted = self.__dict__
        if before is not None:
            best = start.params if before.best else None
            last = start.params if before.last is None else before.last
            start = replace(start, params=last, best=best, n_iter=self.n_iter_)
        best_loss, best_score = fitted.get("best_loss_"), fitted.get("best_validation_score_")
        if incremental and "loss_curve_" in fitted and fitted.get("_optimizer") is None:
            warn(
                "partial_fit: the estimator has no optimizer state: it was saved without it "
                "(state=True keeps it). The optimizer begins anew"
            )
        return replace(
            start,
            solver=fitted.get("_optimizer") if incremental or before is not None else None,
            best_loss=math.inf if best_loss is None else best_loss,
            best_score=-math.inf if best_score is None else best_score,
            no_improvement=fitted.get("_no_improvement_count", 0),
        )

    def _store_solver_state(self, done: FitState) -> None:
        """Set the attributes of sgd and adam; the lists of earlier fits are extended."""
        monitored = self.early_stopping
        self._optimizer = done.solver
        self._no_improvement_count = done.no_improvement
        self.best_loss_ = None if monitored else np.float64(done.best_loss)
        self.best_validation_score_ = done.best_score if monitored else None
        self.loss_curve_ = self.__dict__.get("loss_curve_", [])
        # In place: nothing after this can raise, so nothing has to be restored.
        self.loss_curve_.extend(map(np.float64, done.losses))
        scores = self.__dict__.get("validation_scores_") or []
        scores.extend(done.scores)
        self.validation_scores_ = scores if monitored else None
        if done.curves or "_curves" in self.__dict__:
            self._store_curves(done)

    def _store_curves(self, done: FitState) -> None:
        """Extend the curves; epochs in which a metric was not computed have NaN."""
        epochs = len(done.losses)
        earlier = len(self.loss_curve_) - epochs
        old = self.__dict__.get("_curves", {})
        self._curves = {
            name: [
                *old.get(name, [math.nan] * earlier),
                *done.curves.get(name, [math.nan] * epochs),
            ]
            for name in {**old, **done.curves}
        }

    # Scores and curves ----------------------------------------------------------------------------

    @property
    def history_(self) -> dict[str, list[float]]:
        """The curves of sgd and adam: for each name, a list with a number for each epoch.

        "loss" is `loss_curve_`. With early stopping, "validation_accuracy" (or "validation_r2", or
        the name of `scoring`; for 'loss', "validation_negative_loss") is `validation_scores_`. With
        `metrics`, there are "validation_loss" (the loss without the penalty), and each metric after
        the epoch for the training rows ("f1_macro") and the validation rows
        ("validation_f1_macro").
        """
        if "loss_curve_" not in self.__dict__:
            what = "fit it with sgd or adam"
            if networks_of(self):
                what = "each of its networks has one, estimators_[0].history_ and so on"
            raise AttributeError(f"this {type(self).__name__} has no history_: {what}")
        found = {"loss": [float(value) for value in self.loss_curve_]}
        if self.validation_scores_ is not None:
            found[f"validation_{self._monitored()}"] = [float(v) for v in self.validation_scores_]
        curves = self.__dict__.get("_curves", {})
        return found | {name: list(curve) for name, curve in curves.items()}

    def _monitored(self) -> str:
        """Return the name of the score that early stopping monitors."""
        if self.scoring is not None and self.scoring != "loss":
            return name_of_scorer(self.scoring)
        default = "accuracy" if isinstance(self, ClassifierMixin) else "r2"
        return default if self.scoring is None else "negative_loss"

    def _score_of(self, validation: _Validation | None) -> Callable[[Params], float]:
        """Return the score of parameters on the validation set, which early stopping monitors."""
        assert validation is not None
        held_out, y, weight = validation
        if self.scoring == "loss":
            loss = self._loss_on(validation)
            return lambda params: -loss(params)
        if self.scoring is not None:
            name, scorer = name_of_scorer(self.scoring), scorer_of(self.scoring, "scoring")
            X, labels = _host_rows(held_out), self._decode(y)
            return lambda params: measured(scorer, name, self._at(params), X, labels, weight)

        def score(params: Params) -> float:
            raw = forward(self._network(held_out)[0], params, held_out, compiled=self.compile)
            return self._validation_score(raw, y, weight)

        return score

    def _loss_on(self, rows: _Validation) -> Callable[[Params], float]:
        """Return the loss of parameters on rows, without the penalty."""
        data, y, weight = rows
        loss, _ = self._loss_and_activation()
        target, w, total = self._targets(y, data.backend), None, float(len(y))
        if weight is not None:
            w, total = data.backend.asarray(weight, data.backend.dtype), float(weight.sum())

        def value(params: Params) -> float:
            raw = forward(self._network(data)[0], params, data, compiled=self.compile)
            return float(to_numpy(loss(raw, target, w)[0])) / total

        return value

    def _measure(
        self, data: Dataset, y: Host, weight: Host | None, validation: _Validation | None
    ) -> Callable[[Params], dict[str, float]] | None:
        """Return the function that computes `metrics` after an epoch; None without any."""
        if self.metrics is None:
            return None
        scorers, monitored = scorers_of(self.metrics), ""
        if validation is not None and self.early_stopping and self.scoring != "loss":
            monitored = self._monitored()
            scorers.setdefault(
                monitored,
                type(self).score if self.scoring is None else scorer_of(self.scoring, "scoring"),
            )
        order = np.arange(len(data)) if data.order is None else data.order
        w = None if weight is None else weight[order]
        parts = [("", _host_rows(data), self._decode(y[order]), w)]
        loss = None
        if validation is not None:
            held_out, y_val, w_val = validation
            parts.append(("validation_", _host_rows(held_out), self._decode(y_val), w_val))
            loss = self._loss_on(validation)

        def measure(params: Params) -> dict[str, float]:
            estimator = self._at(params)
            found = {} if loss is None else {"validation_loss": loss(params)}
            for prefix, *rows in parts:
                for name, scorer in scorers.items():
                    if not (prefix and name == monitored):  # it is in validation_scores_
                        found[prefix + name] = measured(scorer, name, estimator, *rows)
            return found

        return measure

    def _at(self, params: Params) -> Self:
        """Return a copy with these parameters, which predicts host data without names."""
        new = copy.copy(self)
        new.__dict__.pop("feature_names_in_", None)
        new.__dict__.update(self._attributes_of(FitState(params)), _fitted_on_host=True)
        return new

    def _batch_size(self, rows: int) -> int:
        if isinstance(self.batch_size, str):  # "auto"
            return min(200, rows)
        if not 1 <= self.batch_size <= rows:
            warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
            )
        return min(max(int(self.batch_size), 1), rows)

    # Checks before a fit -------------------------------------------------------------------------

    def _hidden_sizes(self) -> list[int]:
        given = self.hidden_layer_sizes
        sizes = list(given) if hasattr(given, "__iter__") else [given]
        if not all(isinstance(n, Integral) and not isinstance(n, bool) for n in sizes):
            raise ValueError(f"hidden_layer_sizes must be integers > 0, got {sizes}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _check_sizes(self, sizes: list[int]) -> None:
        """Raise ValueError if a warm start would need a network of other sizes."""
        shapes = [tuple(np.shape(W)) for W in self.coefs_]
        if not perceptron.plain(self.__dict__):
            others = [tuple(np.shape(a)) for a in tree.leaves(self.__dict__.get("_layer_params"))]
            expected = perceptron.shapes(self.__dict__, sizes[0], sizes[1:])
            fits = (shapes, others) == expected
        else:
            fits = "_layer_params" not in self.__dict__ and shapes == list(pairwise(sizes))
        if not fits:
            raise ValueError(
                f"with {sizes[0]} features, hidden_layer_sizes={self.hidden_layer_sizes} and "
                f"{sizes[-1]} outputs, the network would have the sizes {sizes}; but the fitted "
                f"network has weights of the shapes {shapes}. Use a new estimator"
            )

    def _backend_for(self, X: ArrayLike) -> Backend:
        """Return the backend of a new network: that of X or, for host data, `backend`."""
        self._fitted_on_host = is_host(X)
        if not self._fitted_on_host:
            return backend_of(X)
        if self.backend is None:
            return get_backend()
        name, _, device = self.backend.partition(":")
        with use_backend(name, device=device or None) as backend:
            return backend

    def _backend_of_network(self, X: ArrayLike, method: str) -> Backend:
        """Return the backend of the network; raise ValueError if X is on another."""
        backend = backend_of(self.coefs_[0])
        if is_host(X):
            allowed, where, more = self._fitted_on_host or backend.is_host, "'numpy'", ""
        else:
            allowed, more = backend.holds(X), ", portnet.to_numpy(X) is X on the host"
            where = f"{backend_of(X).name!r}, device={device_argument(X, 'X')}"
        if not allowed:
            raise ValueError(
                f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace "
                f"and the same device as those passed to fit(). X is {describe(X)}, and the "
                f"network is on {backend}: estimator.to({where}) is a copy of it there{more}"
            )
        return backend

    def _check_data(
        self, backend: Backend, X: ArrayLike, y: ArrayLike, first: bool
    ) -> tuple[Backend, Any, Any]:
        """Return the backend with the network's dtype, X on it (or CSR), and y."""
        numeric = {"multi_output": True, "y_numeric": isinstance(self, RegressorMixin)}
        given = X
        named = first or hasattr(self, "feature_names_in_")
        if not named and checks.is_plain(X, self.n_features_in_) and self._is_plain(y, len(X)):
            return backend, inputs.to_backend(X, backend), y
        if is_host(X):
            y = y if is_host(y) else to_numpy(y)
            X, y = validate_data(
                self, X, y, reset=first, accept_sparse=["csr", "csc"], dtype=_FLOATS, **numeric
            )
            if first:
                backend = replace(
                    backend, dtype=inputs.network_dtype_of_host_data(given, X.dtype.name, backend)
                )
            X = inputs.to_backend(X, backend)
        else:
            if first:
                backend = replace(backend, dtype=inputs.network_dtype(X, backend))
            X = inputs.device_features(X, backend)
            validate_data(self, X, y, reset=first, skip_check_array=True)
            if is_host(y) or not backend.holds(y):
                y = y if hasattr(y, "tocsr") else to_numpy(y)
                y = validate_data(self, y=y, reset=first, **numeric)
            check_consistent_length(X, y)
        if not is_host(y):
            if y.ndim > 2:
                raise ValueError(f"Found array with dim {y.ndim}, while dim <= 2 is required.")
            y = inputs.as_array("y", y, backend)
            checks._check_finite(y, "Input y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True) if is_host(y) else y[:, 0]
        return backend, X, y

    def _features(self, X: ArrayLike, backend: Backend) -> Any:
        """Return checked X for prediction or validation, on the backend."""
        if not is_host(X):
            X = inputs.device_features(X, backend)
            validate_data(self, X, reset=False, skip_check_array=True)
            return X
        if not hasattr(self, "feature_names_in_") and checks.is_plain(X, self.n_features_in_):
            return inputs.to_backend(X, backend)
        sparse = ["csr", "csc"]
        X = validate_data(self, X, reset=False, accept_sparse=sparse)
        if X.dtype == object:  # numbers as objects, or None
            missing = np.argwhere([[v is None for v in row] for row in X])
            if len(missing):
                row, column = missing[0]
                raise TypeError(
                    f"Input X contains None at row {row}, column {column}: give numbers"
                )
            X = validate_data(self, X, reset=False, accept_sparse=sparse, dtype=_FLOATS)
        return inputs.to_backend(X, backend)

    def _with_weights(
        self, data: Dataset, y: ArrayLike, given: ArrayLike
    ) -> tuple[Dataset, Host | None]:
        """Return the dataset of the rows with weight > 0, and the sample weights on the host.

        The weights of the dataset are multiplied by the class weights; the others are not.
        """
        sample_weight = _host_weights(given, len(data))
        host = self._with_class_weights(y, sample_weight)
        name = "sample_weight" if host is sample_weight else "class_weight"
        weight = checks.row_weights(host, data.backend, rows=len(data), name=name)
        if weight is None:
            return data, None
        positive = to_numpy(weight) > 0  # in the backend's dtype, where tiny weights may be 0
        order = None if positive.all() else np.flatnonzero(positive)
        return replace(data, weight=weight, order=order), sample_weight

    def _with_class_weights(self, y: ArrayLike, sample_weight: Host | None) -> Host | None:
        """Return the sample weights times the class weights."""
        return sample_weight

    # The validation set ---------------------------------------------------------------------------

    def _split(
        self, data: Dataset, y: Host, weight: Host | None, rng: np.random.RandomState
    ) -> tuple[Dataset, _Validation]:
        """Return training and validation set, of the same rows as in scikit-learn."""
        if not self.validation_fraction > 0:
            raise ValueError(
                "validation_fraction: early_stopping=True needs a fraction above 0, or X_val and "
                f"y_val; got {self.validation_fraction}"
            )
        order = np.arange(len(data)) if data.order is None else data.order
        binary = isinstance(self, ClassifierMixin) and self.n_outputs_ == 1
        train, held_out = train_test_split(
            order,
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=y[order] if binary else None,
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        self._check_training_classes(y[order], y[train])
        validation = _Validation(
            replace(data, order=held_out),
            y[held_out],
            None if weight is None else weight[held_out],
        )
        return replace(data, order=train), validation

    def _check_training_classes(self, y: Host, y_train: Host) -> None:
        """Raise ValueError if the training set has no row of a class."""

    def _given_validation(
        self,
        backend: Backend,
        X_val: ArrayLike = None,
        y_val: ArrayLike = None,
        sample_weight_val: ArrayLike = None,
    ) -> _Validation | None:
        """Return the validation set given to `fit`, checked, or None."""
        if X_val is None and y_val is None:
            if sample_weight_val is not None:
                raise ValueError("sample_weight_val is provided, but X_val was not provided.")
            return None
        if y_val is None:
            raise ValueError("X_val is provided, but y_val was not provided.")
        if X_val is None:
            raise ValueError("y_val is provided, but X_val was not provided.")
        if not self.early_stopping and self.metrics is None:
            raise ValueError(
                "X_val and y_val are passed to fit while at the same time early_stopping is False. "
                "Set early_stopping=True, or give metrics=[...] to have curves of them in history_"
            )
        if self.solver == "lbfgs":
            warn("X_val and y_val are ignored: lbfgs has no early stopping")
        try:
            with inputs.errors_name_argument(
                X_val=X_val, y_val=y_val, sample_weight_val=sample_weight_val
            ):
                return self._check_validation(backend, X_val, y_val, sample_weight_val)
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"in the validation set: {error}") from None

    def _check_validation(
        self, backend: Backend, X_val: ArrayLike, y_val: ArrayLike, w: ArrayLike
    ) -> _Validation:
        if not is_host(X_val) and not backend.holds(X_val):
            X_val = to_numpy(X_val)
        X_val = self._features(X_val, backend)
        (y_val,) = inputs.on_host(self._host_labels(y_val))
        numeric = {"multi_output": True, "y_numeric": isinstance(self, RegressorMixin)}
        y_val = validate_data(self, y=y_val, reset=False, **numeric)
        if numeric["y_numeric"] and y_val.dtype.kind in "OUSV":
            y_val = y_val.astype(np.float64)
        check_consistent_length(X_val, y_val)
        if X_val.shape[0] < 2:
            raise ValueError("The validation set is too small: expected at least 2 rows, got 1.")
        if y_val.ndim == 2 and y_val.shape[1] == 1:
            y_val = column_or_1d(y_val, warn=True)
        weight = _host_weights(w, X_val.shape[0])
        return _Validation(Dataset(backend, X_val), self._encode(y_val, "y_val"), weight)

    # Prediction -----------------------------------------------------------------------------------

    def _apply(self, X: ArrayLike, method: str, finish: Callable[[Array], Any]) -> Any:
        """Return finish(raw outputs (rows, outputs)), an array or several, in the library of X."""
        networks = [self]
        if not hasattr(self, "coefs_"):
            check_is_fitted(self)  # which raises, and takes long
            networks = networks_of(self)
        with inputs.errors_name_argument(X=X):
            backend = networks[0]._backend_of_network(X, method)
            with backend.active(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                data = Dataset(backend, self._features(X, backend))
                raws = [forward(*n._network(data), data, compiled=self.compile) for n in networks]
                result = finish(raws[0] if networks[0] is self else self._joined(raws))
                if isinstance(result, list):  # of several heads
                    return list(inputs.on_host(*result)) if is_host(X) else result
                return inputs.on_host(result)[0] if is_host(X) else result

    def _joined(self, raws: list[Array]) -> Array:
        """Return the raw outputs that have the mean prediction of those of several networks."""
        raise NotImplementedError

    # Weights ------------------------------------------------------------------------------------

    def get_weights(self) -> list[Host]:
        """Return copies of all parameters as NumPy arrays, layer by layer.

        They are W (n_in, n_out) and b (n_out,) of each Dense layer and, between them, those of
        other layers: beta and gamma of LayerNorm.
        """
        check_is_fitted(self)
        refuse_for_networks(self, "get_weights()")
        return [np.array(to_numpy(a)) for a in self._arrays()]

    def set_weights(self, weights: Sequence[ArrayLike]) -> Self:
        """Set all parameters: a list of arrays as that of `get_weights`.

        The state of the optimizer stays. Raises ValueError, and changes nothing, unless number
        and shapes are those of `get_weights` and all values are finite.

        Examples
        --------
        >>> from portnet import MLPRegressor
        >>> net = MLPRegressor(hidden_layer_sizes=()).initialize([[0.0, 1.0]], [2.0])
        >>> net.set_weights([[[1.0], [2.0]], [0.5]]).predict([[3.0, 4.0]])
        array([11.5])
        """
        check_is_fitted(self)
        refuse_for_networks(self, "set_weights(...)")
        now, given = self._arrays(), list(weights)
        if len(given) != len(now):
            raise ValueError(
                f"set_weights: expected {len(now)} arrays, as get_weights returns, got {len(given)}"
            )
        backend = replace(backend_of(now[0]), dtype=str(to_numpy(now[0]).dtype))
        arrays = []
        for i, (old, new) in enumerate(zip(now, given, strict=True)):
            host, shape = np.asarray(to_numpy(new), np.float64), tuple(old.shape)
            if host.shape != shape:
                raise ValueError(
                    f"set_weights: array {i}: expected shape {shape}, got {host.shape}"
                )
            if not np.isfinite(host).all():
                raise ValueError(f"set_weights: array {i}: expected finite values, got NaN or inf")
            arrays.append(backend.asarray(host, backend.dtype))
        _, params = self._network()
        new_params = iter(arrays)
        W, b, rest = [], [], []
        for i, part in enumerate(params):
            if i % perceptron.stride(self.__dict__):
                rest.append(tree.map(lambda old: next(new_params), part))
            else:
                W.append(next(new_params))
                b.append(next(new_params))
        self.coefs_, self.intercepts_ = W, b
        if rest and "_layer_params" in self.__dict__:
            self._layer_params = tuple(rest)
        if self.__dict__.get("_resumable") is not None:
            self._resumable = self._resumable._replace(last=None)
        return self

    def _arrays(self) -> list[Array]:
        """Return all parameters, layer by layer."""
        found: list[Array] = []
        for i, part in enumerate(self._network()[1]):
            if i % perceptron.stride(self.__dict__):
                found += tree.leaves(part)
            else:
                found += [part["W"], part["b"][0, :]]
        return found

    # Files --------------------------------------------------------------------------------------

    def summary(self) -> None:
        """Print the layers, the shapes of their parameters, the memory and the last loss."""
        check_is_fitted(self)
        print(summary.estimator_text(self))  # noqa: T201

    def without_state(self) -> Self:
        """Return a copy without the optimizer's state: it predicts, and its pickle is smaller.

        A call of `partial_fit` begins with a new optimizer, and warns.
        """
        new = copy.copy(self)
        for name in ("_optimizer", "_random_state", "_seed", "_resumable"):
            new.__dict__.pop(name, None)
        if networks_of(self):
            new.estimators_ = [network.without_state() for network in self.estimators_]
        return new

    # Moving -------------------------------------------------------------------------------------

    def to(self, name: str, *, device: Device = None, dtype: str | None = None) -> Self:
        """Return a copy of the fitted estimator on another backend: ``est.to("numpy")``.

        The arguments are those of `portnet.set_backend`. By default the dtype is that of the
        network, and all values are copied exactly. scikit-learn's `move_estimator_to` works, too.
        """
        check_is_fitted(self)
        first = (networks_of(self) or [self])[0]
        dtype = dtype or backend_of(first.coefs_[0]).dtype
        with use_backend(name, device=device, dtype=dtype) as backend:
            return self.__sklearn_array_api_convert__(
                lambda a: backend.xp.asarray(backend.asarray(a), device=backend.device, copy=True)
            )

    move_to = to

    def __sklearn_array_api_convert__(self, convert: Callable[[Array], Array]) -> Self:
        """Return a copy with each array of the network and of its solver converted."""

        def convert_all(pytree: Tree) -> Tree:
            return tree.map(lambda a: convert(np.asarray(a) if is_host(a) else a), pytree)

        new = copy.copy(self)
        if networks_of(self):
            convert_one = type(self).__sklearn_array_api_convert__
            join(new, [convert_one(network, convert) for network in self.estimators_])
            return new
        for name, value in new.__dict__.items():
            if isinstance(value, list):
                setattr(new, name, list(value))
        new.coefs_ = convert_all(self.coefs_)
        new.intercepts_ = convert_all(self.intercepts_)
        if "_layer_params" in self.__dict__:
            new._layer_params = convert_all(self._layer_params)
        if self.__dict__.get("_resumable") is not None:
            new._resumable = self._resumable._replace(last=convert_all(self._resumable.last))
        if hasattr(self, "classes_") and not is_host(self.classes_):
            new.classes_ = convert_all(self.classes_)
        new._fitted_on_host = self._fitted_on_host or is_host(new.coefs_[0])
        if getattr(self, "_optimizer", None) is not None:
            new._optimizer = replace(self._optimizer, state=convert_all(self._optimizer.state))
        if hasattr(self, "_random_state"):
            new._random_state = copy.deepcopy(self._random_state)
        return new


@functools.cache
def _names_of(kind: Any) -> list[str]:
    names: list[str] = kind._get_param_names()  # which reads a signature: that takes long
    return names


@functools.cache
def _defaults_of(kind: Any) -> dict[str, Any]:
    """Return the valid defaults of a class; of a subclass with checks of its own, none."""
    ours = next(c for c in kind.__mro__ if c.__module__.startswith(f"{__package__}."))
    if kind._parameter_constraints is not ours._parameter_constraints:
        return {}
    names = inspect.signature(ours.__init__).parameters
    return {name: p.default for name, p in names.items() if p.default is not p.empty}


def check_optimizer(estimator: Any) -> None:
    """Raise an error where the parameter `optimizer` cannot be used with the other ones."""
    given = estimator.optimizer
    if isinstance(given, type):
        raise TypeError(
            f"optimizer: expected an object, got the class {given.__name__}: write it with ()"
        )
    if estimator.solver == "sgd" and estimator.learning_rate != "constant":
        raise ValueError(
            f"optimizer={given!r} and learning_rate={estimator.learning_rate!r} exclude each other:"
            " give the optimizer a schedule, such as portnet.AdamW(portnet.CosineDecay(1e-3, "
            "steps=1000)), and leave learning_rate at 'constant'"
        )
    if not isinstance(given, str):
        refuse_transforms(given)


def _host_rows(data: Dataset) -> Any:
    """Return the rows of a dataset on the host, in its order: an array, or sparse data."""
    X = data.X if data.is_csr else to_numpy(data.X)
    return X if data.order is None else X[data.order]
