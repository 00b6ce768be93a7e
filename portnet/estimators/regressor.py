"""MLPRegressor: scikit-learn's, where X lives."""

import math
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from .._typing import Array, Host
from ..backend import Backend, is_host, namespace, to_numpy
from ..losses import Loss, SquaredError
from . import inputs, objective
from .base import _MLP, _is_stochastic


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
        with inputs.errors_name_argument(X=X, y=y, sample_weight=sample_weight):
            return self._fit_or_restore(lambda: self._fit(X, y, sample_weight, incremental=True))

    def predict(self, X: Any) -> Array:
        """Return the mean of the target, (rows,) or (rows, outputs), in the library of X."""
        mean = self._answer(X, "predict", self._mean)
        return mean[:, 0] if mean.shape[1] == 1 else mean

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R2 on these rows: 1 is perfect, 0 is as good as the mean of y.

        X is (rows, features), y (rows,) or (rows, outputs), sample_weight (rows,).
        """
        with inputs.errors_name_argument(X=X, y=y, sample_weight=sample_weight):
            pred, y, weight = inputs.on_host(self.predict(X), y, sample_weight)
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

    def _learn_targets(self, y: Any, backend: Backend, incremental: bool) -> None:
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
            return objective.PoissonDeviance(reduction="sum"), "exp"
        return SquaredError(reduction="sum"), "identity"
