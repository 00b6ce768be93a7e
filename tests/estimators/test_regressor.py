"""MLPRegressor: losses and predictions."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import warnings

import numpy as np
import sklearn.neural_network as sklearn_nn
from problems import SMALL, XR, Y3, YR

import portnet
from portnet import MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_poisson_loss_rejects_negative_targets():
    with pytest.raises(ValueError, match=r"out of the valid range of the loss 'poisson'.*y >= 0"):
        MLPRegressor("poisson", **SMALL).fit(XR, YR)


def test_lbfgs_with_several_outputs_reaches_the_least_squares_minimum():
    """scikit-learn's gradient is not that of its loss, so the true squared error is compared."""
    found = []
    for package in (portnet, sklearn_nn):
        options = {"hidden_layer_sizes": (), "alpha": 0.0, "tol": 1e-8, "max_iter": 500}
        net = package.MLPRegressor(solver="lbfgs", random_state=0, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.fit(XR, Y3)
        found.append(0.5 * ((net.predict(XR) - Y3) ** 2).sum(axis=1).mean())
    A = np.c_[XR, np.ones(len(XR))]
    best = 0.5 * ((A @ np.linalg.lstsq(A, Y3, rcond=None)[0] - Y3) ** 2).sum(axis=1).mean()
    assert found[0] == pytest.approx(best, rel=1e-6)
    assert found[0] <= found[1] * (1 + 1e-9)


def test_predictions_that_overflow_do_not_warn():
    net = MLPRegressor(**SMALL).fit(XR.astype(np.float32), YR)
    assert not np.isfinite(net.predict(np.full((1, 5), 3e38, dtype=np.float32))).all()
