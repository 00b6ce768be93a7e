"""MLPClassifier and MLPRegressor: scikit-learn's, on whatever array library the data live.

Change the import line, and a program written for `sklearn.neural_network` goes on working: the same
parameters, attributes, methods, warnings and messages, and from the same `random_state` the same
numbers. What is different, on purpose:

* X may be an array of any library (CuPy, torch, JAX): the network is trained and answers there.
  Data on the host go to `backend`, or else to where `portnet.set_backend` said, and the answers
  come back.
* The gradient is that of the loss for any number of outputs: squared error is half the *sum* over
  outputs. Each call of `partial_fit` takes the rows in a new order.
* `class_weight`; a validation set of one's own, ``fit(X, y, X_val=..., y_val=...)``.
* A row of weight 0 is as good as absent. A fit that fails leaves the estimator as it was.

This is the only file that imports scikit-learn (extra ``sklearn``).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from . import following as follow
from . import labels, solvers, tree
from . import validation as check
from .backend import (
    Backend,
    backend_of,
    describe,
    device_name,
    get_backend,
    is_host,
    namespace,
    to_numpy,
    use_backend,
)
from .descent import Problem, Progress, Rows, descend, forward, minimize
from .losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError
from .options import warn
from .stepping import quiet

__all__ = ["MLPClassifier", "MLPRegressor"]

Array = Any
Host = np.ndarray[Any, Any]
STOCHASTIC = ("sgd", "adam")
# What a training leaves behind, besides the network: a new one starts without.
_OF_A_TRAINING = (
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
    "_optimizer",
    "_no_improvement_count",
    "_class_rows",
)


_FLOATS = (np.float64, np.float32)


def _is_stochastic(estimator: Any) -> bool:
    if estimator.solver not in STOCHASTIC:
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    return True


class _Validation(NamedTuple):
    """What early stopping scores: the rows, and the right answers and weights on the host."""

    rows: Rows
    y: Host
    weight: Host | None


class _MLP(BaseEstimator):
    """What the classifier and the regressor share: everything but what y means."""

    _from_host = True  # until a fit says otherwise
    _class_rows: tuple[Any, ...] = ()

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(solvers.HIDDEN))],
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
    }

    def _take(self, given: dict[str, Any]) -> None:
        """Set the parameters, as `__init__` was given them."""
        for name, value in given.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    # What y means: the classifier's and the regressor's own -----------------------------------

    def _host_labels(self, y: Any) -> Any:
        """Return y before any check, on the host where it is to be encoded there."""
        raise NotImplementedError

    def _learn(self, y: Any, place: Backend, incremental: bool) -> None:
        """Set what y tells: the number of outputs, the classes; or check it against these."""
        raise NotImplementedError

    def _encode(self, y: Any, name: str = "y") -> Array:
        """Return checked y as (rows,) class numbers, or (rows, outputs)."""
        raise NotImplementedError

    def _output(self) -> tuple[Loss, str]:
        """Return the loss, as a sum over rows, and the name of the output's activation."""
        raise NotImplementedError

    def _score_of(self, raw: Array, y: Host, weight: Host | None) -> float:
        """Return the score that early stopping watches."""
        raise NotImplementedError

    # Fitting ------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Train the network from its initial weights, or from where it is (`warm_start`).

        Parameters
        ----------
        X : (rows, features)
            Arrays of any library, lists, frames; SciPy's sparse matrices, which stay sparse on
            NumPy, and whose rows are made dense batch by batch elsewhere. float32 and float64 are
            kept, all else becomes float64.
        y : (rows,) or (rows, outputs)
            Class labels or numbers; they are moved to where X is.
        sample_weight : (rows,), optional
            Counts each row that often: in a batch, relative to its other rows.
        X_val, y_val : like X and y, optional
            What early stopping scores, in place of a part of the rows. In a Pipeline:
            ``transform_input=["X_val"]`` and ``set_fit_request(X_val=True, y_val=True)``.
        sample_weight_val : (validation rows,), optional

        Returns
        -------
        self
            After an error, the estimator is as it was before. (A convergence warning that is made
            an error comes after the fit.)
        """
        held = {"X_val": X_val, "y_val": y_val, "sample_weight_val": sample_weight_val}
        with follow.told(X=X, y=y, sample_weight=sample_weight):
            return self._commit(lambda: self._fit(X, y, sample_weight, held))

    def _commit(self, fit: Callable[[], Progress]) -> Any:
        """Fit, or leave everything as it was. Warnings come last: as errors, they undo nothing."""
        before: dict[str, Any] = dict(self.__dict__)
        rng = before.get("_random_state") if isinstance(self.random_state, Integral) else None
        drawn = None if rng is None else rng.get_state()
        try:
            done = fit()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            if rng is not None:
                rng.set_state(drawn)
            raise
        if done.warning:
            convergence = done.category == "convergence"
            warn(done.warning, ConvergenceWarning if convergence else UserWarning)
        return self

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        held: dict[str, Any] | None = None,
        incremental: bool = False,
    ) -> Progress:
        """Check the data, begin or go on, train, and set the attributes."""
        if incremental:  # scikit-learn looks at the parameters in the first call only
            self._validate_params()
            if self.early_stopping:
                raise ValueError("partial_fit does not support early_stopping=True")
        hidden = self._hidden_sizes()
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        method = "partial_fit" if incremental else "fit"
        place = self._home(X) if first else self._place(X, method)
        place, X, y = self._checked(place, X, self._host_labels(y), first)
        with place.active(), quiet():
            self._learn(y, place, incremental)
            y = self._encode(y)
            rng = self._generator(incremental and not first)
            sizes = [X.shape[1], *hidden, self.n_outputs_]
            if first:
                self._begin(sizes, place, rng)
            self._check_sizes(sizes)
            if not incremental:
                self._class_rows = ()
            rows = Rows(place, X, follow.targets(y, place))
            rows, weight = self._weighted(rows, y, sample_weight)
            validation = self._given_validation(place, **(held or {}))
            if validation is None and self.early_stopping and self.solver in STOCHASTIC:
                rows, validation = self._split(rows, to_numpy(y), weight, rng)
            return self._solve(rows, validation, rng, incremental)

    def _generator(self, goes_on: bool) -> np.random.RandomState:
        """Return what draws: the one before, if that goes on and is still what is asked for."""
        known, wanted = self.__dict__.get("_seed", self), self.random_state
        # By value: a pickle does not keep the identity of integers.
        same = known is wanted or (isinstance(wanted, Integral) and known == wanted)
        if not (goes_on and same):
            self._seed = wanted
            self._random_state: np.random.RandomState = check_random_state(wanted)
        return self._random_state

    def _begin(self, sizes: list[int], place: Backend, rng: np.random.RandomState) -> None:
        """Draw the initial weights, in scikit-learn's order (Glorot and Bengio 2010)."""
        factor = 2.0 if self.activation == "logistic" else 6.0
        coefs, intercepts = [], []
        for n_in, n_out in pairwise(sizes):
            bound = math.sqrt(factor / (n_in + n_out))
            coefs.append(rng.uniform(-bound, bound, (n_in, n_out)))
            intercepts.append(rng.uniform(-bound, bound, n_out))
        self.coefs_ = [place.asarray(W, place.dtype) for W in coefs]
        self.intercepts_ = [place.asarray(b, place.dtype) for b in intercepts]
        self.n_layers_, self.n_iter_, self.t_ = len(sizes), 0, 0
        _, self.out_activation_ = self._output()
        for name in _OF_A_TRAINING:
            self.__dict__.pop(name, None)

    def _solve(
        self,
        rows: Rows,
        validation: _Validation | None,
        rng: np.random.RandomState,
        incremental: bool,
    ) -> Progress:
        """Run the solver; what it came to goes into the attributes."""
        model, params = self._network(rows)
        loss, _ = self._output()
        problem = Problem(model, loss, float(self.alpha))
        start = Progress(params, getattr(self, "loss_", math.nan), t=self.t_)
        if self.solver == "lbfgs":
            done = minimize(self, problem, rows, start)
        else:

            def score(params: Any) -> float:
                assert validation is not None
                held, right, weight = validation
                raw = forward(self._network(held)[0], params, held, compiled=self.compile)
                return self._score_of(raw, right, weight)

            done = descend(
                self,
                problem,
                rows,
                self._resumed(start, incremental),
                rng,
                batch_size=self._batch_size(rows.number),
                incremental=incremental,
                score=score if self.early_stopping else None,
            )
            self._keep(done)
        self.coefs_, self.intercepts_ = solvers.unpack(done.params)
        self.n_iter_, self.t_ = done.n_iter, done.t
        if not math.isnan(done.loss):
            self.loss_ = np.float64(done.loss)
        return done

    def _network(self, rows: Rows) -> tuple[Any, Any]:
        """Return the model and its parameters, for such rows."""
        return solvers.network(self.coefs_, self.intercepts_, self.activation, sparse=rows.sparse)

    def _resumed(self, start: Progress, incremental: bool) -> Progress:
        """Return where sgd or adam begins: after what the attributes remember."""
        known = self.__dict__
        best_loss, best_score = known.get("best_loss_"), known.get("best_validation_score_")
        return replace(
            start,
            solver=known.get("_optimizer") if incremental else None,
            best_loss=math.inf if best_loss is None else best_loss,
            best_score=-math.inf if best_score is None else best_score,
            no_improvement=known.get("_no_improvement_count", 0),
        )

    def _keep(self, done: Progress) -> None:
        """Set what sgd and adam leave behind; the lists go on from fit to fit."""
        watched = self.early_stopping
        self._optimizer = done.solver
        self._no_improvement_count = done.no_improvement
        self.best_loss_ = None if watched else np.float64(done.best_loss)
        self.best_validation_score_ = done.best_score if watched else None
        self.loss_curve_ = self.__dict__.get("loss_curve_", [])
        # In place, without a copy: nothing can fail from here on.
        self.loss_curve_.extend(map(np.float64, done.losses))
        scores = self.__dict__.get("validation_scores_") or []
        scores.extend(done.scores)
        self.validation_scores_ = scores if watched else None

    def _batch_size(self, rows: int) -> int:
        if isinstance(self.batch_size, str):  # "auto"
            return min(200, rows)
        if not 1 <= self.batch_size <= rows:
            warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
            )
        return min(max(int(self.batch_size), 1), rows)

    # What is checked before a fit ---------------------------------------------------------------

    def _hidden_sizes(self) -> list[int]:
        given = self.hidden_layer_sizes
        sizes = list(given) if hasattr(given, "__iter__") else [given]
        if not all(isinstance(n, Integral) and not isinstance(n, bool) for n in sizes):
            raise ValueError(f"hidden_layer_sizes must be integers > 0, got {sizes}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _check_sizes(self, sizes: list[int]) -> None:
        """Raise ValueError where a fit that goes on would need another network."""
        shapes = [tuple(np.shape(W)) for W in self.coefs_]
        if shapes != list(pairwise(sizes)):
            raise ValueError(
                f"with {sizes[0]} features, hidden_layer_sizes={self.hidden_layer_sizes} and "
                f"{sizes[-1]} outputs, the network would have the sizes {sizes}; but the fitted "
                f"one goes on, with weights of the shapes {shapes}. Use a new estimator"
            )

    def _home(self, X: Any) -> Backend:
        """Return where a new network is born: where X is, or for host data `backend`."""
        self._from_host = is_host(X)
        if not self._from_host:
            return backend_of(X)
        if self.backend is None:
            return get_backend()
        name, _, device = self.backend.partition(":")
        with use_backend(name, device=device or None) as place:
            return place

    def _place(self, X: Any, method: str) -> Backend:
        """Return where the network is, or raise ValueError where X cannot be answered there."""
        here = backend_of(self.coefs_[0])
        if is_host(X):
            followed, where, more = self._from_host or here.name == "numpy", "'numpy'", ""
        else:
            followed, more = here.holds(X), ", portnet.to_numpy(X) is X on the host"
            where = f"{backend_of(X).name!r}, device={device_name(X)!r}"
        if not followed:
            raise ValueError(
                f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace "
                f"and the same device as those passed to fit(). X is {describe(X)}, and the "
                f"network is on {here}: estimator.to({where}) is a copy of it there{more}"
            )
        return here

    def _checked(self, place: Backend, X: Any, y: Any, first: bool) -> tuple[Backend, Any, Any]:
        """Return the place with its dtype, X there (or as CSR), and y on the host or there."""
        numeric = {"multi_output": True, "y_numeric": isinstance(self, RegressorMixin)}
        given = X
        if is_host(X):
            y = y if is_host(y) else to_numpy(y)
            X, y = validate_data(
                self, X, y, reset=first, accept_sparse=["csr", "csc"], dtype=_FLOATS, **numeric
            )
            if first:
                place = replace(place, dtype=follow.floating_host(given, X.dtype.name, place))
            X = follow.moved(X, place)
        else:
            if first:
                place = replace(place, dtype=follow.floating(X, place))
            X = follow.device_features(X, place)
            validate_data(self, X, y, reset=first, skip_check_array=True)
            if is_host(y) or not place.holds(y):
                y = y if hasattr(y, "tocsr") else to_numpy(y)
                y = validate_data(self, y=y, reset=first, **numeric)
            check_consistent_length(X, y)
        if not is_host(y):
            if y.ndim > 2:
                raise ValueError(f"Found array with dim {y.ndim}, while dim <= 2 is required.")
            y = follow.at("y", y, place)
            check._check_finite(y, "Input y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True) if is_host(y) else y[:, 0]
        return place, X, y

    def _features(self, X: Any, place: Backend) -> Any:
        """Return rows to be predicted, or to validate with, at the place."""
        if not is_host(X):
            X = follow.device_features(X, place)
            validate_data(self, X, reset=False, skip_check_array=True)
            return X
        sparse = ["csr", "csc"]
        X = validate_data(self, X, reset=False, accept_sparse=sparse)
        if X.dtype == object:  # objects that are numbers, or None
            nothing = np.argwhere([[v is None for v in row] for row in X])
            if len(nothing):
                row, column = nothing[0]
                raise TypeError(
                    f"Input X contains None at row {row}, column {column}: give numbers"
                )
            X = validate_data(self, X, reset=False, accept_sparse=sparse, dtype=_FLOATS)
        return follow.moved(X, place)

    def _weighted(self, rows: Rows, y: Any, given: Any) -> tuple[Rows, Host | None]:
        """Return the rows that have a weight, with them; and the weights of all, on the host.

        Those do not have the weights of the classes in them.
        """
        own = _host_weights(given, rows.number)
        host = self._class_weighted(y, own)
        name = "sample_weight" if host is own else "class_weight"
        weight = check.row_weights(host, rows.place, rows=rows.number, name=name)
        if weight is None:
            return rows, None
        met = to_numpy(weight) > 0  # there, where tiny weights may have become 0
        return rows._replace(weight=weight, order=None if met.all() else np.flatnonzero(met)), own

    def _class_weighted(self, y: Any, own: Host | None) -> Host | None:
        """Return the weights of the rows, times those of their classes."""
        return own

    # Rows set aside for early stopping ----------------------------------------------------------

    def _split(
        self, rows: Rows, y: Host, weight: Host | None, rng: np.random.RandomState
    ) -> tuple[Rows, _Validation]:
        """Set `validation_fraction` of the rows aside, those that scikit-learn would."""
        if not self.validation_fraction > 0:
            raise ValueError(
                "validation_fraction: early_stopping=True needs a fraction above 0, or X_val and "
                f"y_val; got {self.validation_fraction}"
            )
        order = np.arange(rows.number) if rows.order is None else rows.order
        binary = isinstance(self, ClassifierMixin) and self.n_outputs_ == 1
        train, held = train_test_split(
            order,
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=y[order] if binary else None,
        )
        follow.check_validation_size(len(held))
        self._check_left_out(y[order], y[train])
        aside = _Validation(
            rows._replace(order=held), y[held], None if weight is None else weight[held]
        )
        return rows._replace(order=train), aside

    def _check_left_out(self, y: Host, y_train: Host) -> None:
        """Raise ValueError where no row of a class is left to train on."""

    def _given_validation(
        self,
        place: Backend,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> _Validation | None:
        """Return the validation set that the user gave, checked, or None."""
        if X_val is None and y_val is None:
            if sample_weight_val is not None:
                raise ValueError("sample_weight_val is provided, but X_val was not provided.")
            return None
        if y_val is None:
            raise ValueError("X_val is provided, but y_val was not provided.")
        if X_val is None:
            raise ValueError("y_val is provided, but X_val was not provided.")
        if not self.early_stopping:
            raise ValueError(
                "X_val and y_val are passed to fit while at the same time early_stopping is False: "
                "nothing would look at them. Set early_stopping=True"
            )
        if self.solver == "lbfgs":
            warn("X_val and y_val are not looked at: lbfgs has no early stopping")
        try:
            with follow.told(X_val=X_val, y_val=y_val, sample_weight_val=sample_weight_val):
                return self._checked_validation(place, X_val, y_val, sample_weight_val)
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"in the validation set: {error}") from None

    def _checked_validation(self, place: Backend, X_val: Any, y_val: Any, w: Any) -> _Validation:
        if not is_host(X_val) and not place.holds(X_val):
            X_val = to_numpy(X_val)
        X_val = self._features(X_val, place)
        y_val = self._host_labels(y_val)
        y_val = y_val if is_host(y_val) else to_numpy(y_val)
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
        return _Validation(Rows(place, X_val), self._encode(y_val, "y_val"), weight)

    # Answers ------------------------------------------------------------------------------------

    def _answer(self, X: Any, method: str, finish: Callable[[Array], Array]) -> Array:
        """Return finish(raw outputs (rows, outputs)) in the library of X."""
        check_is_fitted(self)
        with follow.told(X=X):
            return self._answered(X, self._place(X, method), finish)

    def _answered(self, X: Any, place: Backend, finish: Callable[[Array], Array]) -> Array:
        with place.active(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            rows = Rows(place, self._features(X, place))
            answer = finish(forward(*self._network(rows), rows, compiled=self.compile))
            return follow.on_host(answer)[0] if is_host(X) else answer

    # Moving -------------------------------------------------------------------------------------

    def to(self, name: str, *, device: Any = None, dtype: str | None = None) -> Any:
        """Return a copy of the fitted estimator, its arrays in a backend: ``est.to("numpy")``.

        Takes what `portnet.set_backend` takes; the dtype is by default the network's own, and then
        the numbers stay the same bit for bit. scikit-learn's `move_estimator_to` works, too.
        """
        check_is_fitted(self)
        dtype = dtype or backend_of(self.coefs_[0]).dtype
        with use_backend(name, device=device, dtype=dtype) as place:
            return self.__sklearn_array_api_convert__(
                lambda a: place.xp.asarray(place.asarray(a), copy=True)
            )

    move_to = to

    def __sklearn_array_api_convert__(self, convert: Callable[[Array], Array]) -> Any:
        """Return a copy with each array of the network and of its solver converted."""

        def moved(nest: Any) -> Any:
            return tree.map(lambda a: convert(np.asarray(a) if is_host(a) else a), nest)

        new = copy.copy(self)
        for name, value in new.__dict__.items():
            if isinstance(value, list):
                setattr(new, name, list(value))
        new.coefs_, new.intercepts_ = moved(self.coefs_), moved(self.intercepts_)
        if hasattr(self, "classes_") and not is_host(self.classes_):
            new.classes_ = moved(self.classes_)
        new._from_host = self._from_host or is_host(new.coefs_[0])
        if getattr(self, "_optimizer", None) is not None:
            new._optimizer = replace(self._optimizer, state=moved(self._optimizer.state))
        if hasattr(self, "_random_state"):
            new._random_state = copy.deepcopy(self._random_state)
        return new


class MLPClassifier(ClassifierMixin, _MLP):
    """Multi-layer perceptron classifier: scikit-learn's, where X lives.

    Minimizes the cross-entropy by L-BFGS, sgd or adam: softmax for several classes, a logistic
    output for two classes or for each label of a multi-label problem.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of the hidden layers; ``()`` is logistic regression.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Of the hidden layers.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        L-BFGS takes all rows in every iteration: good for few rows.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights; divided by the rows of the batch, or by their
        weights.
    batch_size : int, default='auto'
        Rows in a step of sgd or adam; 'auto' is ``min(200, rows)``.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Of sgd. 'invscaling': ``learning_rate_init / (t_ + 1) ** power_t``, once per epoch;
        'adaptive': a fifth, whenever `n_iter_no_change` epochs brought nothing.
    learning_rate_init : float, default=0.001
        Of sgd and adam.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs at most; iterations of L-BFGS.
    shuffle : bool, default=True
        Whether sgd and adam take the rows in a new order in each epoch.
    random_state : int, RandomState instance, default=None
        Draws the initial weights, the validation set and the order of the rows.
    tol : float, default=1e-4
        What the loss, or the score of early stopping, must gain within `n_iter_no_change` epochs;
        for L-BFGS, the largest gradient at which it has converged.
    verbose : bool, default=False
        Whether to print the loss of each iteration.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the fit before.
    momentum : float, default=0.9
        Of sgd.
    nesterovs_momentum : bool, default=True
        Whether sgd's momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether sgd and adam stop when the score of the validation set gets no better, and keep the
        best weights.
    validation_fraction : float, default=0.1
        The share of the rows that early stopping sets aside, where no `X_val` is given.
    beta_1, beta_2 : float, default=0.9, 0.999
        How slowly adam's means of the gradient and of its square forget.
    epsilon : float, default=1e-8
        Keeps adam's divisor above 0.
    n_iter_no_change : int, default=10
        Epochs without a gain of `tol` before the end; `np.inf` for never.
    max_fun : int, default=15000
        Evaluations of the loss at most, by L-BFGS.
    class_weight : dict of class: weight, or 'balanced', default=None
        Multiplies the weights of the rows of each class, 1 for classes left out; 'balanced' gives
        every class the same weight in all (in `partial_fit`, in all calls so far). For several
        labels a row: 'balanced', or a list with a dict for each, whose weights are multiplied, as
        in scikit-learn's forests.
    backend : str, default=None
        Where the network lives if X is host data: 'numpy', 'cupy', 'torch', 'jax', also with a
        device, 'cupy:1', 'torch:cuda'. None: where `portnet.set_backend` said, in this process
        (the workers of ``n_jobs=2`` are others). Arrays on a device decide for themselves.
    compile : bool, default=True
        Whether the steps of sgd and adam are traced once and replayed, on NumPy and JAX: see
        `portnet.compile`.

    Attributes
    ----------
    classes_ : array or list of arrays
        The class labels, sorted, on the host.
    loss_ : float
        The loss of the last epoch (its mean over the steps, each before its update), or after the
        last iteration of L-BFGS.
    best_loss_ : float or None
        The lowest loss of an epoch; None with early stopping.
    loss_curve_ : list of float
        The loss of each epoch. Not for L-BFGS.
    validation_scores_ : list of float or None
        The accuracy on the validation set after each epoch, with early stopping.
    best_validation_score_ : float or None
        The best of these.
    t_ : int
        Rows seen by sgd or adam.
    coefs_, intercepts_ : list of arrays
        W (n_in, n_out) and b (n_out,) of each layer, where the network lives.
    n_features_in_ : int
    feature_names_in_ : array of str
        Where X was a frame with names.
    n_iter_ : int
        Epochs of the last fit, or iterations.
    n_layers_ : int
    n_outputs_ : int
    out_activation_ : str

    Notes
    -----
    From the same `random_state`, sgd and adam make scikit-learn's steps, and L-BFGS those of
    SciPy's L-BFGS-B until rounding parts them. The loss is that of the logits: scikit-learn's, of
    probabilities that it keeps within eps of 0 and 1, is lower where the network is very sure and
    wrong, as on data that are not scaled; there, training may end in other epochs. An epoch whose
    loss, weights or moments are not finite ends the fit at once, with scikit-learn's error.

    Examples
    --------
    >>> from portnet import MLPClassifier
    >>> from sklearn.datasets import make_classification
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> clf = MLPClassifier(random_state=1, max_iter=300).fit(X[:75], y[:75])
    >>> clf.score(X[75:], y[75:]) > 0.8
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_MLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    loss = "log_loss"  # as scikit-learn's has it, which takes no other

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Any = None,
        backend: str | None = None,
        compile: bool = True,
    ) -> None:
        self._take(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Make one epoch more over these rows, in a new order.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`; y need not have all classes.
        classes : (classes,)
            All classes of all calls: needed in the first.

        Returns
        -------
        self
            After an error, the estimator is as it was before.
        """

        def fit() -> Progress:
            nonlocal y
            y = self._host_labels(y)
            if hasattr(self, "classes_"):
                self.classes_ = self._known  # on the host, to be compared
            labels.refuse_mixed(classes, "classes")
            if _check_partial_fit_first_call(self, classes):
                several = type_of_target(y).startswith("multilabel")
                self._label_binarizer = LabelBinarizer().fit(y if several else classes)
            return self._fit(X, y, sample_weight, incremental=True)

        with follow.told(X=X, y=y, sample_weight=sample_weight):
            return self._commit(fit)

    def predict(self, X: Any) -> Array:
        """Return the class of each row, or 0 and 1 for each label, in the library of X.

        The shape is (rows,), or (rows, labels). Text comes as a NumPy array.
        """

        def names(raw: Array) -> Array:
            codes, binarizer = self._decide(raw), self._label_binarizer
            if _several(binarizer):  # sparse, where the labels were
                return binarizer.inverse_transform(to_numpy(codes)) if is_host(X) else codes
            if is_host(X) or self._known.dtype.kind not in "iufb":
                return self._known[to_numpy(codes)]
            return namespace(codes).take(self._there(backend_of(codes)), codes)

        return self._answer(X, "predict", names)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class (rows, classes), in the library of X."""
        return self._answer(X, "predict_proba", self._probabilities)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`, (rows, classes)."""
        return self._answer(
            X, "predict_log_proba", lambda raw: namespace(raw).log(self._probabilities(raw))
        )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of the rows whose class, or all of whose labels, are right.

        X is (rows, features), y (rows,) or (rows, labels), sample_weight (rows,).
        """
        with follow.told(X=X, y=y, sample_weight=sample_weight):
            pred, y, weight = follow.on_host(self.predict(X), y, sample_weight)
            return float(accuracy_score(y, pred, sample_weight=weight))

    def _probabilities(self, raw: Array) -> Array:
        xp = namespace(raw)
        if self.out_activation_ == "softmax":
            return SoftmaxCrossEntropy().mean(raw)
        if self.n_outputs_ == 1:
            return xp.concat([follow.logistic(-raw), follow.logistic(raw)], axis=-1)
        return follow.logistic(raw)

    def _decide(self, raw: Array) -> Array:
        """Return the number of the most probable class (rows,), or 0 and 1 (rows, labels)."""
        xp, p = namespace(raw), self._probabilities(raw)
        if self.out_activation_ == "softmax":
            return xp.argmax(p, axis=-1)  # the first of equals, as everywhere
        whole = xp.int64 if backend_of(raw).supports("int64") else xp.int32
        if self.n_outputs_ > 1 or _several(self._label_binarizer):
            return xp.astype(p > 0.5, whole)
        return xp.astype((p[:, 1] > p[:, 0]) & (len(self._known) > 1), whole)

    def _score_of(self, raw: Array, y: Host, weight: Host | None) -> float:
        pred = to_numpy(self._decide(raw))
        right = y[:, 0] if self.n_outputs_ == 1 else y
        return float(accuracy_score(right.astype(pred.dtype), pred, sample_weight=weight))

    def _host_labels(self, y: Any) -> Any:
        y = y if is_host(y) else to_numpy(y)
        labels.refuse_mixed(y, "y")
        return y

    def _learn(self, y: Any, place: Backend, incremental: bool) -> None:
        """Learn the classes, or check that y fits those that are known."""
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
        else:
            classes, known = unique_labels(y), self._known
            if self.warm_start:
                if set(classes) != set(known):
                    raise ValueError(
                        "warm_start can only be used where `y` has the same classes as in the "
                        f"previous call to fit. Previously got {known}, `y` has {classes}"
                    )
            elif len(np.setdiff1d(classes, known, assume_unique=True)):
                raise ValueError(
                    "`y` has classes not in `self.classes_`. `self.classes_` has "
                    f"{known}. 'y' has {classes}."
                )
        several = self._label_binarizer.y_type_ == "multiclass" or _several(self._label_binarizer)
        self.n_outputs_ = len(self._known) if several else 1
        # They follow X, too, but for text, and for what only visits a backend.
        follows = not self._from_host and self._known.dtype.kind in "iufb"
        self.classes_ = self._there(place) if follows else self._known

    @property
    def _known(self) -> Host:
        """The classes on the host."""
        return self._label_binarizer.classes_  # type: ignore[no-any-return]

    def _there(self, place: Backend) -> Array:
        """Return numeric classes at a place."""
        return place.asarray(self._known, follow.fitting(self._known, place))

    def _encode(self, y: Any, name: str = "y") -> Array:
        known = self._known
        if _several(self._label_binarizer):
            return np.asarray(self._label_binarizer.transform(y)).astype(bool)
        if y.ndim != 1:
            raise ValueError(f"`{name}` has several labels a row: not what the classes were.")
        if name != "y":
            unknown = np.setdiff1d(unique_labels(y), known)
            if len(unknown):
                raise ValueError(f"`{name}` has classes not in `y`: {unknown}. `y` has {known}.")
        codes = np.searchsorted(known, y)
        return codes if self.n_outputs_ > 1 else (codes > 0)[:, None]

    def _output(self) -> tuple[Loss, str]:
        if self._label_binarizer.y_type_ == "multiclass":
            return SoftmaxCrossEntropy(reduction="sum"), "softmax"
        return SigmoidCrossEntropy(reduction="sum"), "logistic"

    def _class_weighted(self, y: Any, own: Host | None) -> Host | None:
        given = self.class_weight
        if given is None:
            return own
        # The classes of a row: of its labels, 0 or 1 each; the weights of several are multiplied.
        columns, known, tables = [y if y.ndim == 1 else y[:, 0]], self._known.tolist(), [given]
        if _several(self._label_binarizer):
            columns, known = list(y.T), [0, 1]
            tables = given if isinstance(given, list) else [given] * len(columns)
            if isinstance(given, dict) or len(tables) != len(columns):
                raise ValueError(
                    f"class_weight: expected 'balanced', or a list of {len(columns)} dicts, one "
                    f"for each label, got {given!r}"
                )
        weight = np.ones(len(y)) if own is None else own
        before = self._class_rows or [0.0] * len(columns)
        met = []
        for column, table, seen in zip(columns, tables, before, strict=True):
            codes = column.astype(np.int64)
            # Of the calls of partial_fit so far, too: one need not have all classes.
            met.append(np.bincount(codes, own, len(known)) + seen)
            of_class = labels.weights_of_classes(_needed(table, known), known, met[-1])
            weight = weight * of_class[codes]
        self._class_rows = tuple(met)
        return weight

    def _check_left_out(self, y: Host, y_train: Host) -> None:
        if _several(self._label_binarizer):
            pairs = zip(y.T, y_train.T, strict=True)
            lost = [len(np.unique(part)) < len(np.unique(whole)) for whole, part in pairs]
            if any(lost):
                warn(
                    f"early_stopping: for the labels {np.flatnonzero(lost)}, all rows with 1, or "
                    "all with 0, are in the validation set: they cannot be learned"
                )
            return
        left_out = np.setdiff1d(y, y_train).astype(np.int64)
        if len(left_out):
            raise ValueError(
                f"early_stopping: all rows of the classes {self._known[left_out]} are in the "
                "validation set, so that they could not be learned. Give more rows of them, "
                "X_val and y_val, another random_state, or a smaller validation_fraction than "
                f"{self.validation_fraction}"
            )


class MLPRegressor(RegressorMixin, _MLP):
    """Multi-layer perceptron regressor: scikit-learn's, where X lives.

    Minimizes half the squared error, summed over the outputs, or half the Poisson deviance, by
    L-BFGS, sgd or adam.

    Parameters
    ----------
    loss : {'squared_error', 'poisson'}, default='squared_error'
        'poisson' is for counts, y >= 0: the exponential of the output is their mean.
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of the hidden layers; ``()`` is linear regression.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Of the hidden layers.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        L-BFGS takes all rows in every iteration: good for few rows.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights; divided by the rows of the batch, or by their
        weights.
    batch_size : int, default='auto'
        Rows in a step of sgd or adam; 'auto' is ``min(200, rows)``.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Of sgd: see `MLPClassifier`.
    learning_rate_init : float, default=0.001
        Of sgd and adam.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs at most; iterations of L-BFGS.
    shuffle : bool, default=True
        Whether sgd and adam take the rows in a new order in each epoch.
    random_state : int, RandomState instance, default=None
        Draws the initial weights, the validation set and the order of the rows.
    tol : float, default=1e-4
        What the loss, or the score of early stopping, must gain within `n_iter_no_change` epochs;
        for L-BFGS, the largest gradient at which it has converged.
    verbose : bool, default=False
        Whether to print the loss of each iteration.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the fit before.
    momentum : float, default=0.9
        Of sgd.
    nesterovs_momentum : bool, default=True
        Whether sgd's momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether sgd and adam stop when R2 on the validation set gets no better, and keep the best
        weights.
    validation_fraction : float, default=0.1
        The share of the rows that early stopping sets aside, where no `X_val` is given.
    beta_1, beta_2 : float, default=0.9, 0.999
        How slowly adam's means of the gradient and of its square forget.
    epsilon : float, default=1e-8
        Keeps adam's divisor above 0.
    n_iter_no_change : int, default=10
        Epochs without a gain of `tol` before the end; `np.inf` for never.
    max_fun : int, default=15000
        Evaluations of the loss at most, by L-BFGS.
    backend : str, default=None
        Where the network lives if X is host data: see `MLPClassifier`.
    compile : bool, default=True
        Whether the steps are traced once and replayed: see `MLPClassifier`.

    Attributes
    ----------
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, t_, coefs_, \
    intercepts_, n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_, out_activation_
        As those of `MLPClassifier`; the scores of early stopping are R2.

    Notes
    -----
    For several outputs, scikit-learn reports the mean of their squared errors, but descends the
    gradient of the sum; here the loss is the sum, too. sgd and adam make the same steps.

    Examples
    --------
    >>> from portnet import MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> net = MLPRegressor(random_state=1, max_iter=2000, tol=0.1).fit(X[:150], y[:150])
    >>> net.score(X[150:], y[150:]) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_MLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        backend: str | None = None,
        compile: bool = True,
    ) -> None:
        self._take(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Make one epoch more over these rows, in a new order; takes what `fit` takes.

        X is (rows, features), y (rows,) or (rows, outputs), sample_weight (rows,).
        After an error, the estimator is as it was before.
        """
        with follow.told(X=X, y=y, sample_weight=sample_weight):
            return self._commit(lambda: self._fit(X, y, sample_weight, incremental=True))

    def predict(self, X: Any) -> Array:
        """Return the mean of the target, (rows,) or (rows, outputs), in the library of X."""
        mean = self._answer(X, "predict", self._mean)
        return mean[:, 0] if mean.shape[1] == 1 else mean

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R2 on these rows: 1 is perfect, 0 is as good as the mean of y.

        X is (rows, features), y (rows,) or (rows, outputs), sample_weight (rows,).
        """
        with follow.told(X=X, y=y, sample_weight=sample_weight):
            pred, y, weight = follow.on_host(self.predict(X), y, sample_weight)
            return float(r2_score(y, pred, sample_weight=weight))

    def _mean(self, raw: Array) -> Array:
        return namespace(raw).exp(raw) if self.out_activation_ == "exp" else raw

    def _score_of(self, raw: Array, y: Host, weight: Host | None) -> float:
        mean = to_numpy(self._mean(raw))
        if not np.isfinite(mean).all():
            return math.nan
        return float(r2_score(y, mean, sample_weight=weight))

    def _host_labels(self, y: Any) -> Any:
        if y is None or not is_host(y):
            return y
        try:  # objects that are numbers, so that their values are checked
            host = to_numpy(y)
            return host.astype(np.float64) if host.dtype == object else y
        except (ValueError, TypeError, OverflowError):
            return y

    def _learn(self, y: Any, place: Backend, incremental: bool) -> None:
        self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]

    def _encode(self, y: Any, name: str = "y") -> Array:
        if self.loss == "poisson" and bool(
            (y < 0).any() if is_host(y) else namespace(y).any(y < 0)
        ):
            raise ValueError(
                f"Some value(s) of {name} are out of the valid range of the loss 'poisson': it is "
                "for counts, y >= 0."
            )
        if (1 if y.ndim == 1 else y.shape[1]) != self.n_outputs_:
            raise ValueError(f"`{name}` has {y.shape[1:]} outputs a row, `y` {self.n_outputs_}.")
        return y[:, None] if y.ndim == 1 else y

    def _output(self) -> tuple[Loss, str]:
        if self.loss == "poisson":
            return solvers.PoissonDeviance(reduction="sum"), "exp"
        return SquaredError(reduction="sum"), "identity"


def _needed(given: Any, known: list[Any]) -> Any:
    """Return class weights without those of classes that there are not, as long as none lacks one.

    As in scikit-learn: a fold need not have all classes that the user has weights for.
    """
    if not isinstance(given, dict) or any(label not in given for label in known):
        return given
    return {label: given[label] for label in known}


def _several(binarizer: LabelBinarizer) -> bool:
    return bool(binarizer.y_type_ == "multilabel-indicator")


def _host_weights(given: Any, rows: int) -> Host | None:
    """Return checked weights (rows,) on the host, or None; a number is the weight of each row."""
    if given is None:
        return None
    (given,), like = follow.on_host(given), np.broadcast_to(0.0, (rows, 1))
    checked = _check_sample_weight(given, like, dtype=np.float64, ensure_non_negative=True)
    return np.asarray(checked)
