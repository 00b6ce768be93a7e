"""MLPRegressor: scikit-learn's regressor for arrays of any library."""

import math
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from .. import perceptron
from .._typing import AnyArray, Array, ArrayLike, Host
from ..backend import Backend, is_host, namespace, to_numpy
from ..layers import Layer
from ..losses import AbsoluteError, Huber, Loss, SquaredError
from ..optimizers import Optimizer
from . import inputs, objective
from .base import _MLP, _is_stochastic
from .ensemble import networks_of
from .own_losses import mean_of, sum_of

__all__ = ["MLPRegressor"]


_MORE_LOSSES = {"absolute_error": AbsoluteError, "huber": Huber}


class MLPRegressor(RegressorMixin, _MLP):
    """Multi-layer perceptron regressor with scikit-learn's interface, for arrays of any library.

    It minimizes half the squared error, summed over the outputs, or half the Poisson deviance, by
    L-BFGS, sgd or adam.

    Parameters
    ----------
    loss : {'squared_error', 'poisson', 'absolute_error', 'huber'} or callable, \
default='squared_error'
        'poisson' is for counts, y >= 0; the predicted mean is the exponential of the output. A loss
        of your own is called ``loss(pred, target, weight) -> value, dpred``, with pred and target
        (rows, outputs): the mean over rows (or the sum, if it has ``reduction = "sum"``) and its
        gradient, which `fit` checks. If it has a method ``mean(pred)``, that is the prediction.
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of the hidden layers; ``()`` is linear regression.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Activation of the hidden layers; also 'leaky_relu', 'gelu', 'silu', 'softplus', a layer of
        your own, or a list with one for each hidden layer.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        L-BFGS computes every step from all rows; it suits small datasets.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (parameters named W, also of layers of your own);
        divided by the number of rows of the batch, or the sum of their weights.
    batch_size : int, default='auto'
        Rows per step of sgd and adam; 'auto' is ``min(200, rows)``.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Schedule of sgd: see `MLPClassifier`.
    learning_rate_init : float, default=0.001
        Initial learning rate of sgd and adam.
    power_t : float, default=0.5
        Exponent of 'invscaling'.
    max_iter : int, default=200
        Maximum number of epochs, or of iterations of L-BFGS.
    shuffle : bool, default=True
        Whether sgd and adam shuffle the rows in each epoch.
    random_state : int, RandomState instance, default=None
        Seed of the initial weights, the validation split and the order of the rows.
    tol : float, default=1e-4
        Minimum improvement of the loss, or of the validation score, within `n_iter_no_change`
        epochs; for L-BFGS, the largest component of the gradient at convergence.
    verbose : bool, default=False
        Whether to print the loss of each iteration; of an ensemble, with the number of the network.
    warm_start : bool, default=False
        Whether `fit` starts from the weights of the previous fit. Other `hidden_layer_sizes` are
        then an error.
    momentum : float, default=0.9
        Momentum of sgd.
    nesterovs_momentum : bool, default=True
        Whether sgd uses Nesterov's momentum.
    early_stopping : bool, default=False
        Whether sgd and adam stop when R2 of the validation set stops improving, and keep the best
        weights.
    validation_fraction : float, default=0.1
        Fraction of the rows held out for early stopping, if `X_val` is not given.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of adam's running means of the gradient and of its square.
    epsilon : float, default=1e-8
        Added to the divisor of adam's step.
    n_iter_no_change : int, default=10
        Epochs without an improvement of `tol` after which training stops; `np.inf`: never.
    max_fun : int, default=15000
        Maximum number of evaluations of the loss by L-BFGS.
    backend : str, default=None
        Backend of the network if X is host data: see `MLPClassifier`.
    compile : bool, default=True
        Whether training steps and predictions are compiled: see `MLPClassifier`.
    dropout : float, default=0.0
        Probability to drop a hidden unit in a training step of sgd or adam.
    norm : {'layer'}, layer or None, default=None
        What is between each hidden layer's product and its activation: 'layer' is
        `portnet.LayerNorm`.
    optimizer : str or optimizer, default=None
        What makes the steps instead of sgd or adam: an optimizer, such as
        ``portnet.AdamW(portnet.CosineDecay(1e-3, steps=1000))`` or ``portnet.chain(
        portnet.ClipNorm(1.0), portnet.Adam(1e-3))``, or a name of `portnet.optimizers.OPTIMIZERS`,
        whose learning rate is then `learning_rate_init`. `alpha` is added to the loss as ever.
    scoring : str or callable, default=None
        What ``early_stopping=True`` monitors: a scorer of scikit-learn or its name, such as
        'roc_auc', or 'loss' for the loss. By default R2.
    metrics : str, callable, list of these, or dict, default=None
        Scorers that are computed after each epoch (or iteration of L-BFGS), for the training rows
        and the validation rows: see `history_`. ``[]`` has the curves of the loss and of the
        monitored score. `X_val` is then allowed without early stopping. Here and in `scoring`, the
        weights of rows go to scorers that have a parameter `sample_weight`, or whose metric has it.
    n_networks : int, default=1
        The number of networks: with more than one, `fit` trains an ensemble of networks that differ
        in their seeds, which `random_state` draws, and `predict` returns the mean of what they
        predict; with ``return_std=True`` also the standard deviation. Ctrl-C is as in
        `MLPClassifier`.

    Attributes
    ----------
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, t_, coefs_, \
    intercepts_, history_, n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_, \
out_activation_
        As in `MLPClassifier`; the validation scores are R2.
    estimators_ : list of MLPRegressor
        The networks of an ensemble, each with all these attributes. The ensemble lacks `coefs_`,
        `intercepts_`, `history_`, `loss_curve_`, `best_loss_`, `validation_scores_` and
        `best_validation_score_`.

    Notes
    -----
    The differences from scikit-learn listed for `MLPClassifier` hold here, too, as far as they do
    not concern classes. For several outputs, scikit-learn reports the mean of their squared errors,
    but uses the gradient of the sum; here the loss is the sum as well. The steps of sgd and adam
    are the same.

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
        "loss": [StrOptions({"squared_error", "poisson", *_MORE_LOSSES}), callable],
    }

    def __init__(
        self,
        loss: str | Loss = "squared_error",
        hidden_layer_sizes: ArrayLike = (100,),
        activation: object = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
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
        dropout: float = 0.0,
        norm: str | Layer | None = None,
        optimizer: str | Optimizer | None = None,
        scoring: object = None,
        metrics: object = None,
        n_networks: int = 1,
    ) -> None:
        self._set_parameters(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> Self:
        """Train one epoch on these rows, in a new order.

        X is (rows, features), y (rows,) or (rows, outputs), sample_weight (rows,).
        A call that raises leaves the estimator unchanged.
        """
        return self._fit_or_restore(
            lambda: self._fit(X, y, sample_weight, incremental=True),
            X=X,
            y=y,
            sample_weight=sample_weight,
        )

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Return the mean of the target, (rows,) or (rows, outputs), in the library of X.

        With `return_std`, return the mean over the networks of an ensemble, and the standard
        deviation: how much they differ, which grows with the distance from the data they know.
        """
        if not hasattr(self, "coefs_"):
            check_is_fitted(self)
            each = [network._predict(X) for network in networks_of(self)]
            together = namespace(*each).stack(each)
            mean = namespace(together).mean(together, axis=0)
            return (mean, namespace(together).std(together, axis=0)) if return_std else mean
        if return_std:
            raise ValueError(
                "return_std=True needs several networks, whose spread it is: fit with n_networks=8"
            )
        return self._predict(X)

    def _predict(self, X: ArrayLike) -> AnyArray:
        """Return what one network predicts."""
        mean = self._apply(X, "predict", self._mean)
        return mean[:, 0] if mean.shape[1] == 1 else mean

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> float:
        """Return R2: 1 is perfect; predicting the mean of y gives 0.

        X is (rows, features), y (rows,) or (rows, outputs), sample_weight (rows,).
        """
        with inputs.errors_name_argument(X=X, y=y, sample_weight=sample_weight):
            pred, y, weight = inputs.on_host(self.predict(X), y, sample_weight)
            return float(r2_score(y, pred, sample_weight=weight))

    def _mean(self, raw: Array) -> Array:
        if self.out_activation_ == "loss.mean":
            mean: Array = perceptron.fitted_with(vars(self))["loss"].mean(raw)
            return mean
        return namespace(raw).exp(raw) if self.out_activation_ == "exp" else raw

    def _validation_score(self, raw: Array, y: Host, weight: Host | None) -> float:
        mean = to_numpy(self._mean(raw))
        if not np.isfinite(mean).all():
            return math.nan
        return float(r2_score(y, mean, sample_weight=weight))

    def _host_labels(self, y: ArrayLike) -> ArrayLike:
        if y is None or not is_host(y):
            return y
        y = inputs.whole(y)
        try:  # numbers as objects: convert them, so that their values are checked
            host = to_numpy(y)
            return host.astype(np.float64) if host.dtype == object else y
        except (ValueError, TypeError, OverflowError):
            return y

    def _is_plain(self, y: object, rows: int) -> bool:
        if type(y) is not np.ndarray or y.shape != (rows,) or y.dtype.char not in "fd":
            return False
        return y.dtype.isnative and bool(np.isfinite(y).all())

    def _learn_targets(self, y: ArrayLike, backend: Backend, incremental: bool) -> None:
        self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]

    def _encode(self, y: ArrayLike, name: str = "y") -> Any:
        if (
            isinstance(self.loss, str)
            and self.loss == "poisson"
            and bool((y < 0).any() if is_host(y) else namespace(y).any(y < 0))
        ):
            raise ValueError(
                f"Some value(s) of {name} are out of the valid range of the loss 'poisson': it is "
                "for counts, y >= 0."
            )
        if (1 if y.ndim == 1 else y.shape[1]) != self.n_outputs_:
            raise ValueError(f"`{name}` has {y.shape[1:]} outputs per row, `y` {self.n_outputs_}.")
        return y[:, None] if y.ndim == 1 else y

    def _decode(self, y: Host) -> Host:
        return y[:, 0] if y.shape[1] == 1 else y

    def _loss_and_activation(self) -> tuple[Loss, str]:
        if isinstance(self.loss, str) and self.loss == "poisson":
            return objective.PoissonDeviance(reduction="sum"), "exp"
        if not isinstance(self.loss, str):
            return sum_of(self.loss), mean_of(self.loss)
        if self.loss in _MORE_LOSSES:
            return _MORE_LOSSES[self.loss](reduction="sum"), "identity"
        return SquaredError(reduction="sum"), "identity"
