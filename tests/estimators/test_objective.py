"""The loss and its gradient, and what is reported of it."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import numpy as np
from problems import PROBLEMS, SMALL, SOLVERS, X, Y

import portnet
from portnet import MLPClassifier, MLPRegressor
from portnet.data.dataset import Dataset
from portnet.estimators import objective
from portnet.perceptron import network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p != "text"])
def test_gradient_equals_finite_differences_of_the_loss(problem, activation, weighted):
    """Any number of outputs, with weights and alpha, in blocks."""
    name, features, y, more = PROBLEMS[problem]
    net = getattr(portnet, name)(activation=activation, **more, **SMALL)
    w = np.random.default_rng(2).uniform(0, 2, len(y)) if weighted else None
    net.fit(features, y, w)
    backend = portnet.backend.backend_of(features)
    model, p = network({"activation": activation}, net.coefs_, net.intercepts_)
    loss, _ = net._loss_and_activation()
    target = net._encode(y)
    target = target if target.ndim == 1 else target.astype(float)
    data = Dataset(backend, features, target, w)
    total = len(y) if w is None else w.sum()
    f, v, _ = objective.over_all_rows(
        objective.summing(model, loss), 0.7, lambda: data.batches(29), total, p
    )
    value, gradient = f(v)
    draw = np.random.default_rng(3)
    for _ in range(3):
        d = draw.standard_normal(len(v))
        h = 1e-6
        numeric = (f(v + h * d)[0] - f(v - h * d)[0]) / (2 * h)
        assert gradient @ d == pytest.approx(numeric, rel=1e-5, abs=1e-7)
    whole, _, _ = objective.over_all_rows(
        objective.summing(model, loss), 0.7, lambda: data.batches(10**6), total, p
    )
    np.testing.assert_allclose(whole(v)[1], gradient, atol=1e-12)
    assert whole(v)[0] == pytest.approx(value)


def test_losses_are_numpy_float64():
    for solver in SOLVERS:
        net = MLPClassifier(solver=solver, **SMALL).fit(X, Y)
        assert type(net.loss_) is np.float64
        if solver != "lbfgs":
            assert {type(loss) for loss in net.loss_curve_} == {np.float64}
            assert type(net.best_loss_) is np.float64


def test_loss_of_float32_data_is_summed_in_float64():
    """In float32, many small losses would be lost beside a large one."""
    options = {"hidden_layer_sizes": (), "batch_size": 1, "learning_rate_init": 1e-30}
    options |= {"random_state": 0, "solver": "sgd", "shuffle": False, "max_iter": 1, "alpha": 0.0}
    y = np.r_[1e4, np.full(150, 0.5)]
    net = MLPRegressor(**options).fit(np.zeros((151, 1), dtype=np.float32), y)
    expected = 0.5 * np.mean((y - float(net.intercepts_[0][0])) ** 2)
    assert net.loss_ == pytest.approx(expected, rel=5e-7)
