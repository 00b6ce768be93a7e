"""Data sets and helpers that the tests of the estimators share."""

import numpy as np
from sklearn.datasets import load_iris, make_multilabel_classification, make_regression

from portnet.backend import to_numpy

SOLVERS = ("adam", "sgd", "lbfgs")
X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
BINARY = (Y > 0).astype(int)
XR, YR = make_regression(120, 5, n_targets=1, noise=3.0, random_state=0)
YR = (YR - YR.mean()) / YR.std()
XM, YM = make_multilabel_classification(90, 6, n_classes=3, random_state=0)
Y3 = np.stack([YR, YR**2, np.sin(3 * YR)], axis=1)
COUNTS = np.random.default_rng(0).poisson(np.exp(0.5 * XR[:, 0]))
SMALL = {"hidden_layer_sizes": (7,), "max_iter": 8, "random_state": 0}


def params(estimator):
    return [*estimator.coefs_, *estimator.intercepts_]


def assert_same(actual, expected, rtol=0.0, atol=1e-10):
    for a, b in zip(params(actual), params(expected), strict=True):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=rtol, atol=atol)


PROBLEMS = {
    "three classes": ("MLPClassifier", X, Y, {}),
    "two classes": ("MLPClassifier", X, BINARY, {}),
    "text": ("MLPClassifier", X, np.array(["x", "y", "z"])[Y], {}),
    "labels": ("MLPClassifier", XM, YM, {}),
    "regression": ("MLPRegressor", XR, YR, {}),
    "three outputs": ("MLPRegressor", XR, Y3, {}),
    "poisson": ("MLPRegressor", XR, COUNTS, {"loss": "poisson"}),
}


def raise_keyboard_interrupt():
    raise KeyboardInterrupt
