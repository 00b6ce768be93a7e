"""The base class of MLPClassifier and MLPRegressor: fit, validation sets, backends."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted

from .. import perceptron, summary, tree
from .._typing import Array, ArrayLike, Device, Host, Params
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
from ..engine.rank_checks import check_parameters
from ..engine.ranks import is_first, together
from ..losses import Loss
from ..optimizers import OPTIMIZERS
from . import (
    architecture,
    coefs,
    curves,
    fit_data,
    inputs,
    moving,
    parameters,
    resuming,
    validation_sets,
)
from . import weights as weights_of
from .checkpoints import FitFiles, check_ranks
from .curves import Validation
from .ensemble import (
    OfEachNetwork,
    fit_networks,
    leave_networks,
    missing_in_ensemble,
    networks_of,
    refuse_for_networks,
)
from .inputs import _host_weights
from .own_losses import ROWS, check_own_loss
from .resuming import Resumable
from .solvers import FitState, Training, fit_lbfgs, forward, stochastic, trained_alone
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


def _is_stochastic(estimator: Any) -> bool:
    if estimator.solver not in STOCHASTIC:
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    return True


def _in_parts(X: ArrayLike, solver: str) -> tuple[Any, Any]:
    """Return X of a fit, and the module that reads it in parts; None if it is small."""
    from . import parts

    X = parts.reader_for(X, solver)
    return X, None if isinstance(X, np.ndarray) else parts


class _MLP(CallbackSupportMixin, BaseEstimator, ABC):
    """Everything that the classifier and the regressor share: all but the meaning of y."""

    _fitted_on_host = True  # set by a fit of a new network
    _class_counts: tuple[Any, ...] = ()
    _random_state: np.random.RandomState  # set by the first fit
    # Attributes that a fit sets, but not that of an ensemble.
    coefs_: Any = OfEachNetwork()
    intercepts_: Any = OfEachNetwork()
    loss_curve_: Any = OfEachNetwork()
    best_loss_: Any = OfEachNetwork()
    validation_scores_: Any = OfEachNetwork()
    best_validation_score_: Any = OfEachNetwork()

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
            other dtypes become float64. Memory maps, arrays of h5py, Zarr and dask, and
            `portnet.data.parquet` are read in parts if they have more than 64 MB: sgd and adam then
            mix rows as `portnet.Trainer` does, and a validation set is of pieces of rows that lie
            together.
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
            ``fit(X, y, resume=True)`` have the bits of 20 epochs at once. Parameters that would
            change these bits must be those of the last fit. lbfgs cannot go on.

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

        def fit() -> FitState:
            with nullcontext() if files is None else files.summed():
                return self._fit(X, y, sample_weight, validation, files=files, resume=goes_on)

        return self._fit_or_restore(fit, X=X, y=y, sample_weight=sample_weight)

    @_fit_context(prefer_skip_nested_validation=True)
    def initialize(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Make the network with its initial weights, as `fit` does, and do not train.

        The estimator then predicts. ``fit(X, y, resume=True)``, `warm_start` and `partial_fit`
        begin with its weights, which `set_weights` sets. With ``resume=True``, which lbfgs does not
        have, the fit has the bits of one that begins anew; with `warm_start`, sgd and adam take the
        rows in another order.

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
        with together():
            self._check_options(incremental)
        goes_on = incremental or resume or (self.warm_start and train)
        if resume and networks_of(self):
            resuming.check_parameters(self)
        if self.n_networks > 1:
            more = validation, incremental, files, resume, train
            return fit_networks(
                self, lambda one: one._fit(X, y, sample_weight, *more), goes_on, incremental
            )
        with together():
            if "estimators_" in self.__dict__:
                leave_networks(self, goes_on)
            prepared = self._prepare(
                X, y, sample_weight, validation, incremental, files, resume, train
            )
        if prepared is None:
            return FitState(None)
        fit = self._run_solver
        if not incremental and has_callbacks(self) and is_first():
            fit = with_callbacks(type(self)._run_solver).__get__(self)
        with prepared[0].backend.active(), quiet():
            return fit(*prepared)

    def _check_options(self, incremental: bool) -> None:
        if incremental:  # scikit-learn validates the parameters in the first call only
            self._validate_changed_params()
            if self.early_stopping:
                raise ValueError("partial_fit does not support early_stopping=True")
        parameters.check_options(self)

    def _prepare(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike,
        validation: dict[str, ArrayLike] | None,
        incremental: bool,
        files: FitFiles | None,
        resume: bool,
        train: bool,
    ) -> tuple[Any, ...] | None:
        """Check the data, and initialize or continue the network.

        Return the arguments of `_run_solver`; None if nothing is to be trained.
        """
        hidden = self._hidden_sizes()
        given = X, y, sample_weight
        resume = resume and hasattr(self, "coefs_")
        first = not hasattr(self, "coefs_") or not (
            (self.warm_start and train) or incremental or resume
        )
        method = "partial_fit" if incremental else "fit"
        in_parts: Any = None  # the module of data that are read in parts
        if checks.is_source(X):
            X, in_parts = _in_parts(X, self.solver)
        backend = self._backend_for(X) if first else self._backend_of_network(X, method)
        with backend.active():
            y = self._host_labels(y)
            if in_parts:
                backend, y = fit_data.check_parts(self, in_parts, backend, X, y, first)
            else:
                backend, X, y = fit_data.check_data(self, backend, X, y, first)
        with backend.active(), quiet():
            self._learn_targets(y, backend, incremental or resume)
            y = self._encode(y)
            before = resuming.last_fit(self) if resume else None
            if before is not None:
                resuming.check_parameters(self, trained=before.rows > 0)
            rng = (
                self._generator(incremental and not first)
                if before is None
                else resuming.rewound(self)
            )
            if files is not None:
                files.begin(self, rng)
            start = before or Resumable(
                first, None if incremental else resuming.state_of(self, rng), 0
            )
            sizes = [X.shape[1], *hidden, self.n_outputs_]
            if start.first and before is not None:  # the numbers that the network took
                coefs.draw(self.__dict__, sizes[0], sizes[1:], rng)
            if first:
                self._initialize(sizes, backend, rng)
                architecture.check_sizes(self, sizes)
            else:
                architecture.adopt(self, sizes)
            if first or not incremental:
                architecture.record(self)
            if not incremental:
                self._class_counts = ()
            data: Any = None if in_parts else Dataset(backend, X, self._targets(y, backend))
            if not isinstance(self.loss, str) and (first or not incremental):
                check_own_loss(self.loss, to_numpy(self._targets(y[:ROWS, ...], backend)), backend)
            if not train:
                self._resumable = start
                return None
            if in_parts:
                weight = _host_weights(sample_weight, len(X))
                of_class = self._with_class_weights(y, weight)
                loss, outputs = self._loss_and_activation()[0], max(self.n_outputs_, 1)
                own = None if isinstance(self.loss, str) else self._targets
                data = in_parts.parts_dataset(X, y, of_class, backend, loss, outputs, own)
            else:
                data, weight = fit_data.with_weights(self, data, y, sample_weight)
            held_out = validation_sets.given(self, backend, **(validation or {}))
            if held_out is None and self.early_stopping and self.solver in STOCHASTIC:
                split = validation_sets.split_parts if in_parts else validation_sets.split
                data, held_out = split(self, data, to_numpy(y), weight, rng)
            measure = curves.measure_of(self, data, to_numpy(y), weight, held_out)
            if before is not None:
                resuming.check_resumed(self, before, len(data))
            return data, held_out, rng, incremental, files, start, before, measure, given

    def _validate_params(self) -> None:
        """Validate the parameters as scikit-learn does, but for those that have their default."""
        kind = type(self)
        defaults, given = parameters.defaults_of(kind), vars(self)
        changed = {
            n: given.get(n)
            for n in parameters.names_of(kind)
            if given.get(n) is not defaults.get(n, n)
        }
        validate_parameter_constraints(
            self._parameter_constraints, changed, caller_name=kind.__name__
        )

    def _validate_changed_params(self) -> None:
        """Validate the parameters, unless they are the objects that were validated last."""
        now = [self.__dict__.get(name) for name in parameters.names_of(type(self))]
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

    def _run_solver(self, *prepared: Any) -> FitState:
        """Run the solver and set the attributes to its result."""
        done: FitState = trained_alone(self._solving(*prepared))
        return done

    def _solving(
        self,
        data: Dataset,
        validation: Validation | None,
        rng: np.random.RandomState,
        incremental: bool,
        files: FitFiles | None,
        begin: Resumable,
        before: Resumable | None,
        measure: Callable[[Params], dict[str, float]] | None,
        given: tuple[ArrayLike, ArrayLike, ArrayLike],
        shared: Any = None,
    ) -> Training:
        """Run the solver as `solvers.stochastic` does, and set the attributes to its result."""
        model, params = self._network(data)
        loss, _ = self._loss_and_activation()
        start = FitState(params, getattr(self, "loss_", math.nan), t=self.t_)
        tasks = None
        if not incremental and has_callbacks(self):
            epochs = None if self.solver == "lbfgs" else int(self.max_iter)
            with together():
                tasks = FitTasks(self, given, epochs, self._attributes_of)
        if self.solver == "lbfgs":
            check_ranks(self, data, validation, start, rng, "fit", False)
            done = fit_lbfgs(self, model, loss, data, start, measure=measure, tasks=tasks)
            self.__dict__.pop("_resumable", None)
        else:
            seed = None if perceptron.plain(self.__dict__) else int(rng.randint(2**31))
            with together():
                start, position = self._resume(start, incremental, before), None
                if files is not None:
                    start, position = files.start(data, validation, start)
            writes = files is not None and files.checkpoint is not None
            method = "partial_fit" if incremental else "fit"
            check_ranks(self, data, validation, start, rng, method, writes)
            done = yield from stochastic(
                self,
                model,
                loss,
                data,
                start,
                rng,
                batch_size=self._batch_size(len(data)),
                incremental=incremental,
                score=curves.score_of(self, validation) if self.early_stopping else None,
                measure=measure,
                tasks=tasks,
                files=files,
                position=position,
                resumed=before is not None,
                seed=seed,
                shared=shared,
            )
            if incremental:
                self.__dict__.pop("_resumable", None)
            else:
                self._resumable = begin._replace(
                    rows=len(data), best=done.best is not None, last=done.last
                )
        check_parameters(done.params)
        self._store_result(done)
        if tasks is not None:
            tasks.finish(done)
        return done

    def _store_result(self, done: FitState) -> None:
        """Set the attributes to the result of a fit."""
        if done.solver is not None:
            self._store_solver_state(done)
        elif done.curves:  # of L-BFGS
            self._curves = done.curves
        self.__dict__.update(self._attributes_of(done))
        if not math.isnan(done.loss):
            self.loss_ = np.float64(done.loss)

    def _attributes_of(self, now: FitState) -> dict[str, Any]:
        """Return the attributes of the network in a state of its fit."""
        found: dict[str, Any] = {"n_iter_": now.n_iter, "t_": now.t}
        fitted = perceptron.fitted_with(self.__dict__)
        W, b, others = perceptron.split(fitted, unpacked(now.params))
        found |= {"coefs_": W, "intercepts_": b}
        if not perceptron.plain(fitted):
            found["_layer_params"] = others
        return found

    def _network(self, data: Dataset | None = None) -> tuple[Any, Params]:
        """Return the model for dense or sparse data, and its parameters."""
        first = {"first": SparseDense} if data is not None and data.is_sparse else {}
        others = self.__dict__.get("_layer_params", ())
        fitted = perceptron.fitted_with(self.__dict__)
        return perceptron.network(fitted, self.coefs_, self.intercepts_, others, **first)

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
        old = {} if "loss" in old else old  # they are those of L-BFGS
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
        """The curves of the last fit: for each name, a list with a number for each epoch.

        "loss" is `loss_curve_`; of L-BFGS, the loss after each iteration. With early stopping,
        "validation_accuracy" (or "validation_r2", or the name of `scoring`; for 'loss',
        "validation_negative_loss") is `validation_scores_`. With `metrics`, there are
        "validation_loss" (the loss without the penalty), and each metric after the epoch for the
        training rows ("f1_macro") and the validation rows ("validation_f1_macro").
        """
        if networks_of(self):
            count = len(networks_of(self))
            raise AttributeError(missing_in_ensemble(type(self).__name__, "history_", count))
        return curves.history_of(self)

    def _batch_size(self, rows: int, warns: bool = True) -> int:
        if isinstance(self.batch_size, str):  # "auto"
            return min(200, rows)
        if warns and not 1 <= self.batch_size <= rows:
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

    def _with_class_weights(self, y: ArrayLike, sample_weight: Host | None) -> Host | None:
        """Return the sample weights times the class weights."""
        return sample_weight

    def _check_training_classes(self, y: Host, y_train: Host) -> None:
        """Raise ValueError if the training set has no row of a class."""

    # Prediction -----------------------------------------------------------------------------------

    def _apply(self, X: ArrayLike, method: str, finish: Callable[[Array], Any]) -> Any:
        """Return finish(raw outputs (rows, outputs)), an array or several, in the library of X."""
        networks = [self]
        if not hasattr(self, "coefs_"):
            check_is_fitted(self)  # which raises, and takes long
            networks = networks_of(self)
        if checks.is_source(X):
            from .parts import is_read_in_parts

            if is_read_in_parts(X):
                return self._apply_to_parts(X, method, finish, networks)
        with inputs.errors_name_argument(X=X):
            backend = networks[0]._backend_of_network(X, method)
            with backend.active(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                data = Dataset(backend, fit_data.features(self, X, backend))
                result = finish(self._raw(data, networks))
                if isinstance(result, list):  # of several heads
                    return list(inputs.on_host(*result)) if is_host(X) else result
                return inputs.on_host(result)[0] if is_host(X) else result

    def _raw(self, data: Dataset, networks: list[Any]) -> Array:
        """Return the raw outputs of a network, or those of the mean prediction of several."""
        pairs = [network._network(data) for network in networks]
        raws = [forward(net, params, data, compiled=self.compile) for net, params in pairs]
        return raws[0] if networks[0] is self else self._joined(raws)

    def _apply_to_parts(
        self, X: ArrayLike, method: str, finish: Callable[[Array], Any], networks: list[Any]
    ) -> Any:
        """Return finish(raw outputs) of a source, part by part."""
        from .parts import features_of_parts, joined_answers

        backend, several = networks[0]._backend_of_network(X, method), False

        def answers() -> Iterator[list[Any]]:
            nonlocal several
            for x in features_of_parts(self, X, backend):
                result = finish(self._raw(Dataset(backend, x), networks))
                several = isinstance(result, list)
                yield list(inputs.on_host(*(result if several else [result])))

        with backend.active(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            columns = joined_answers(answers(), X.shape[0])
        return columns if several else columns[0]

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
        return [np.array(to_numpy(a)) for a in weights_of.arrays(self)]

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
        weights_of.set_arrays(self, weights)
        return self

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
        new: Self = moving.converted(self, convert)
        return new
