"""Losses of one's own: equal to built-in ones, weighted, checked at fit, saved."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from dataclasses import dataclass

import numpy as np
import sklearn.neural_network as sklearn_nn
from problems import BINARY, COUNTS, SMALL, XM, XR, Y3, YM, YR, X, Y, assert_same
from sklearn.linear_model import GammaRegressor

import portnet
from portnet import GradientError, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def averaged(each, slopes, weight):
    xp = portnet.namespace(slopes)
    if weight is None:
        return xp.mean(each), slopes / slopes.shape[0]
    share = weight / xp.sum(weight)
    return xp.sum(share * each), share[:, None] * slopes


def half_squares(pred, target, weight=None):
    e = pred - target
    return averaged(0.5 * portnet.namespace(e).sum(e * e, axis=-1), e, weight)


def logistic_loss(pred, target, weight=None):
    xp = portnet.namespace(pred)
    each = xp.sum(xp.log1p(xp.exp(-xp.abs(pred))) + xp.maximum(pred, 0.0) - target * pred, axis=-1)
    return averaged(each, 0.5 * xp.tanh(0.5 * pred) + 0.5 - target, weight)


def pinball(pred, target, weight=None):
    """The loss of the 80 % quantile."""
    xp, e = portnet.namespace(pred), target - pred
    slopes = xp.where(e > 0, -0.8 * xp.ones_like(e), 0.2 * xp.ones_like(e))
    return averaged(xp.sum(xp.maximum(0.8 * e, -0.2 * e), axis=-1), slopes, weight)


@dataclass(frozen=True)
class Gamma:
    """The loss of a gamma distribution with mean exp(pred): t exp(-pred) + pred."""

    def __call__(self, pred, target, weight=None):
        xp = portnet.namespace(pred)
        ratio = target * xp.exp(-pred)
        return averaged(xp.sum(ratio + pred, axis=-1), 1.0 - ratio, weight)

    def mean(self, pred):
        return portnet.namespace(pred).exp(pred)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("target", [YR, Y3])
def test_half_squares_equal_those_of_scikit_learn(target, weighted, solver):
    """For three outputs scikit-learn's gradient of lbfgs is another; then it is portnet's own."""
    w = np.random.default_rng(0).uniform(0, 2, len(YR)) if weighted else None
    own = MLPRegressor(loss=half_squares, solver=solver, **SMALL).fit(XR, target, w)
    module = portnet if solver == "lbfgs" and target.ndim == 2 else sklearn_nn
    reference = module.MLPRegressor(solver=solver, **SMALL).fit(XR, target, w)
    assert_same(own, reference, atol=1e-7 if solver == "lbfgs" else 1e-10)
    np.testing.assert_allclose(own.predict(XR), reference.predict(XR), atol=1e-6)


@pytest.mark.parametrize(("features", "y"), [(X, BINARY), (XM, YM)])
def test_logistic_loss_equals_that_of_scikit_learn(features, y):
    own = MLPClassifier(loss=logistic_loss, **SMALL).fit(features, y)
    reference = sklearn_nn.MLPClassifier(**SMALL).fit(features, y)
    assert_same(own, reference, atol=1e-7)
    np.testing.assert_array_equal(own.predict(features), reference.predict(features))


def test_softmax_loss_on_one_hot_targets_equals_that_of_scikit_learn():
    own = MLPClassifier(loss=portnet.SoftmaxCrossEntropy(), **SMALL).fit(X, Y)
    assert_same(own, sklearn_nn.MLPClassifier(**SMALL).fit(X, Y))
    three = MLPClassifier(loss=portnet.SoftmaxCrossEntropy(label_smoothing=0.3), max_iter=2000)
    three.set_params(random_state=0, solver="lbfgs", alpha=0, tol=1e-6).fit(X, Y)
    # A network that separates the classes gives each its smoothed probability, 1 - 0.3 2/3.
    assert np.quantile(three.predict_proba(X).max(axis=1), 0.8) == pytest.approx(0.8, abs=0.02)


def test_pinball_loss_predicts_its_quantile():
    net = MLPRegressor(loss=pinball, max_iter=3000, tol=0, n_iter_no_change=3000, random_state=0)
    net.set_params(hidden_layer_sizes=(), learning_rate_init=0.01, batch_size=120, alpha=0)
    # At the minimum the share is 0.8, but for as many rows as there are parameters: 6 of 120.
    assert np.mean(net.fit(XR, YR).predict(XR) >= YR) == pytest.approx(0.8, abs=0.05)


def test_a_loss_with_a_mean_of_its_own_predicts_it():
    positive = np.exp(0.3 * YR)
    net = MLPRegressor(loss=Gamma(), hidden_layer_sizes=(), solver="lbfgs", alpha=0, tol=1e-8)
    net.set_params(max_iter=500).fit(XR, positive)
    assert net.out_activation_ == "loss.mean"
    raw = XR @ net.coefs_[0][:, 0] + net.intercepts_[0][0]
    np.testing.assert_allclose(net.predict(XR), np.exp(raw))
    reference = GammaRegressor(alpha=0, solver="newton-cholesky", tol=1e-12).fit(XR, positive)
    loss = [np.mean(positive / p + np.log(p)) for p in (net.predict(XR), reference.predict(XR))]
    # L-BFGS stops where a step lowers the loss by less than 2e-9 of it.
    assert loss[0] - loss[1] == pytest.approx(0, abs=2e-9)
    np.testing.assert_allclose(net.predict(XR), reference.predict(XR), rtol=1e-3)
    poisson = MLPRegressor(loss=portnet.PoissonLoss(), **SMALL).fit(XR, COUNTS)
    assert_same(poisson, sklearn_nn.MLPRegressor(loss="poisson", **SMALL).fit(XR, COUNTS))
    assert poisson.out_activation_ == "exp"
    assert (poisson.predict(XR) > 0).all()


@pytest.mark.parametrize(
    ("name", "expected"), [("absolute_error", portnet.AbsoluteError()), ("huber", portnet.Huber())]
)
def test_names_of_losses_are_those_of_portnet(name, expected):
    a = MLPRegressor(loss=name, **SMALL).fit(XR, YR)
    assert_same(a, MLPRegressor(loss=expected, **SMALL).fit(XR, YR), atol=0)


def test_a_loss_that_is_a_sum_over_rows_says_so():
    @dataclass(frozen=True)
    class Sum:
        reduction: str = "sum"

        def __call__(self, pred, target, weight=None):
            w = portnet.namespace(pred).ones_like(pred[:, 0]) if weight is None else weight
            value, dpred = half_squares(pred, target, weight)
            return value * w.sum(), dpred * w.sum()

    summed = MLPRegressor(loss=Sum(), **SMALL).fit(XR, YR)
    assert_same(summed, MLPRegressor(loss=half_squares, **SMALL).fit(XR, YR))


def wrong(pred, target, weight=None):
    value, dpred = half_squares(pred, target, weight)
    return value, dpred * (1.0 + (target == target[2, 0]))


def test_a_wrong_gradient_names_the_row_and_both_numbers():
    net = MLPRegressor(loss=wrong, **SMALL)
    raw = np.random.default_rng(0).standard_normal((5, 1))
    right = (raw[2, 0] - YR[2]) / 5
    text = rf"loss=wrong: .* In row 2, output 0 .* is {right:.6g} by .* dpred is {2 * right:.6g}$"
    with pytest.raises(GradientError, match=text):
        net.fit(XR, YR)
    assert not hasattr(net, "coefs_")

    def weightless(pred, target, weight=None):
        return half_squares(pred, target, weight)[0], half_squares(pred, target)[1]

    with pytest.raises(GradientError, match=r"its gradient is wrong with weights\. In row"):
        net.set_params(loss=weightless).fit(XR, YR)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda pred, target: (0.0, pred), TypeError, "write def loss"),
        (
            lambda pred, target, weight=None: ((pred - target) ** 2, pred - target),
            ValueError,
            r"loss=<lambda>: expected a number as its value, .* an array of shape \(5, 1\)",
        ),
        (
            lambda pred, target, weight=None: (np.nan, pred),
            GradientError,
            "loss=<lambda>: its value is nan without weights",
        ),
        (
            lambda pred, target, weight=None: (1.0 if weight is None else np.inf, 0 * pred),
            GradientError,
            "loss=<lambda>: its value is inf with weights",
        ),
        (lambda pred, target, weight=None: 0.0, TypeError, "to return value, dpred, got"),
        ("hinge", ValueError, "The 'loss' parameter of MLPClassifier must be"),
        (portnet.SoftmaxCrossEntropy(), ValueError, r"give portnet.SigmoidCrossEntropy\(\)"),
    ],
)
def test_what_is_no_loss_raises_and_changes_nothing(loss, error, message):
    net = MLPClassifier(**SMALL).fit(X, BINARY).set_params(loss=loss)
    before = dict(vars(net))
    with pytest.raises(error, match=message):
        net.fit(X, BINARY)
    assert vars(net) == before
