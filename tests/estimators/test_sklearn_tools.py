"""Pipelines, searches and other tools of scikit-learn, with the estimators."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import warnings

import numpy as np
import sklearn.neural_network as sklearn_nn
from problems import SMALL, XR, YR, X, Y, assert_same
from sklearn.exceptions import ConvergenceWarning

import portnet
from portnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_pipeline_transforms_the_validation_set():
    from sklearn import config_context
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    raw = 5 + 3 * X
    options = {"early_stopping": True, **SMALL}
    with config_context(enable_metadata_routing=True):
        net = MLPClassifier(**options).set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), net, transform_input=["X_val"])
        pipeline.fit(raw[30:], Y[30:], X_val=raw[:30], y_val=Y[:30])
    scaler = StandardScaler().fit(raw[30:])
    plain = MLPClassifier(**options).fit(
        scaler.transform(raw[30:]), Y[30:], X_val=scaler.transform(raw[:30]), y_val=Y[:30]
    )
    assert_same(pipeline[-1], plain, atol=0)


def test_grid_search_with_workers_equals_that_of_scikit_learn(torch):
    """Workers do not inherit the default backend, but use the `backend` parameter."""
    from sklearn.model_selection import GridSearchCV, cross_val_score

    grid = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(5,), ()]}
    found = [
        GridSearchCV(m.MLPClassifier(**SMALL), grid, n_jobs=jobs, cv=2).fit(X, Y)
        for m, jobs in ((portnet, 2), (sklearn_nn, None))
    ]
    np.testing.assert_allclose(*(s.cv_results_["mean_test_score"] for s in found))
    assert found[0].best_params_ == found[1].best_params_
    search = GridSearchCV(MLPClassifier(backend="torch", **SMALL), {"alpha": [0.1, 1]}, n_jobs=2)
    assert isinstance(search.fit(X, Y).best_estimator_.coefs_[0], torch.Tensor)
    assert len(cross_val_score(MLPRegressor(**SMALL), XR, YR, cv=3)) == 3


def test_meta_estimators_and_permutation_importance_work():
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    net = MLPClassifier(hidden_layer_sizes=(7,), max_iter=20, random_state=0, solver="lbfgs")
    for made in (
        CalibratedClassifierCV(net, cv=2),
        StackingClassifier([("net", net)], LogisticRegression(), cv=2),
        BaggingClassifier(net, n_estimators=2, random_state=0),
        OneVsRestClassifier(net),
        AdaBoostClassifier(net, n_estimators=2, random_state=0),
    ):
        assert made.fit(X, Y).score(X, Y) > 0.8
    importance = permutation_importance(net.fit(X, Y), X, Y, n_repeats=2, random_state=0)
    assert importance.importances_mean.argmax() in (2, 3)  # the petals


def test_decision_boundary_display_works():
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    from sklearn.inspection import DecisionBoundaryDisplay

    net = MLPClassifier(**SMALL).fit(X[:, :2], Y)
    for method in ("predict", "predict_proba"):
        display = DecisionBoundaryDisplay.from_estimator(
            net, X[:, :2], response_method=method, grid_resolution=10
        )
        assert display.response.shape[:2] == (10, 10)
    pyplot.close("all")


def test_convergence_warning_matches_filters_for_module_sklearn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")
        MLPClassifier(**SMALL).fit(X, Y)
