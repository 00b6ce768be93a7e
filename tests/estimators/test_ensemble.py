"""Estimators with several networks: each is that of a fit by itself, and predictions are means."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import copy
import pickle
import subprocess
import sys
import warnings

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import portnet
from portnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
TARGETS = {
    "three classes": Y,
    "two classes": Y > 0,
    "text": np.array(["a", "b", "c"])[Y],
    "labels": np.stack([Y > 0, Y > 1], axis=1).astype(int),
    "heads": np.stack([Y, 2 * (Y > 0)], axis=1),
}


def classifier(**parameters):
    given = {"hidden_layer_sizes": (8,), "max_iter": 8, "random_state": 0, "n_networks": 3}
    return MLPClassifier(**given | parameters)


def regressor(**parameters):
    given = {"hidden_layer_sizes": (8,), "max_iter": 8, "random_state": 0, "n_networks": 3}
    return MLPRegressor(**given | parameters)


def alone(network):
    """The estimator of one network, as a user makes it."""
    return type(network)(**network.get_params())


def assert_same_networks(found, expected):
    for a, b in zip(found.estimators_, expected.estimators_, strict=True):
        for W, V in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_], strict=True):
            np.testing.assert_allclose(W, V, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"solver": "sgd", "early_stopping": True, "tol": 1.0, "n_iter_no_change": 2},
        {"solver": "lbfgs"},
        {"dropout": 0.2, "norm": "layer", "optimizer": portnet.AdamW(0.01)},
    ],
    ids=["adam", "early stopping", "l-bfgs", "dropout"],
)
def test_networks_are_those_of_fits_one_by_one(parameters):
    weight = np.linspace(0.5, 1.5, len(X))
    found = classifier(**parameters).fit(X, Y, sample_weight=weight)
    seeds = [network.random_state for network in found.estimators_]
    assert len(set(seeds)) == 3
    for network in found.estimators_:
        expected = alone(network).fit(X, Y, sample_weight=weight)
        assert network.n_iter_ == expected.n_iter_
        for a, b in zip(network.coefs_, expected.coefs_, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert found.n_iter_ == max(network.n_iter_ for network in found.estimators_)
    assert np.isclose(found.loss_, np.mean([network.loss_ for network in found.estimators_]))


def test_seeds_come_from_random_state():
    def seeds(random_state):
        fitted = classifier(random_state=random_state, max_iter=1).fit(X, Y)
        return [network.random_state for network in fitted.estimators_]

    assert seeds(0) == seeds(0) == seeds(np.random.RandomState(0))
    assert set(seeds(0)).isdisjoint(seeds(1))


@pytest.mark.parametrize("name", TARGETS)
def test_probabilities_are_means_and_classes_follow(name):
    y = TARGETS[name]
    found = classifier(max_iter=30).fit(X, y)
    proba = found.predict_proba(X)
    each = [network.predict_proba(X) for network in found.estimators_]
    if name == "heads":
        for head, known in enumerate(found.classes_):
            mean = np.mean([p[head] for p in each], axis=0)
            np.testing.assert_allclose(proba[head], mean, rtol=1e-12, atol=1e-14)
            assert (found.predict(X)[:, head] == known[mean.argmax(axis=1)]).all()
        return
    mean = np.mean(each, axis=0)
    np.testing.assert_allclose(proba, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.predict_log_proba(X), np.log(mean), rtol=1e-9, atol=1e-12)
    expected = mean > 0.5 if name == "labels" else found.classes_[mean.argmax(axis=1)]
    assert (found.predict(X) == expected).all()
    assert found.score(X, y) == (found.predict(X) == y).reshape(len(X), -1).all(axis=1).mean()


def test_certain_networks_have_probabilities_of_0_and_1():
    found = classifier(max_iter=1).fit(X, Y > 0)
    for network in found.estimators_:
        network.coefs_[-1] *= 1e6
    proba = found.predict_proba(X)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)


@pytest.mark.parametrize(
    "parameters", [{}, {"loss": "poisson"}, {"loss": "huber"}], ids=["squares", "counts", "huber"]
)
@pytest.mark.parametrize("outputs", [1, 2])
def test_regressor_returns_mean_and_standard_deviation(parameters, outputs):
    y = np.abs(X[:, :outputs]) if outputs > 1 else np.abs(X[:, 0])
    found = regressor(**parameters).fit(X, y)
    each = np.stack([network.predict(X) for network in found.estimators_])
    mean, std = found.predict(X, return_std=True)
    assert mean.shape == std.shape == y.shape
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.predict(X), mean)


def test_spread_grows_away_from_the_data():
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (100, 1))
    found = regressor(n_networks=8, activation="tanh", max_iter=300, learning_rate_init=0.02)
    found.fit(x, np.sin(3 * x[:, 0]))
    _, std = found.predict([[0.0], [4.0]], return_std=True)
    assert std[1] > 5 * std[0]


def test_going_on_equals_an_uninterrupted_fit():
    found = classifier(max_iter=4).fit(X, Y).set_params(max_iter=9).fit(X, Y, resume=True)
    assert_same_networks(found, classifier(max_iter=9).fit(X, Y))


def test_partial_fit_is_that_of_each_network():
    found = classifier()
    for part in (slice(0, 60), slice(60, 150)):
        found.partial_fit(X[part], Y[part], classes=[0, 1, 2])
    for network in found.estimators_:
        expected = alone(network)
        for part in (slice(0, 60), slice(60, 150)):
            expected.partial_fit(X[part], Y[part], classes=[0, 1, 2])
        np.testing.assert_allclose(network.coefs_[0], expected.coefs_[0], rtol=1e-12)
    assert found.predict_proba(X).shape == (150, 3)


def test_warm_start_goes_on_from_the_weights():
    found = regressor(warm_start=True).fit(X, X[:, 0])
    one = copy.deepcopy(found.estimators_[1])
    found.fit(X, X[:, 0])
    np.testing.assert_allclose(found.estimators_[1].coefs_[0], one.fit(X, X[:, 0]).coefs_[0])


def test_initialized_networks_predict():
    found = regressor().initialize(X, X[:, 0])
    assert found.predict(X).shape == (150,)
    assert_same_networks(found.fit(X, X[:, 0], resume=True), regressor().fit(X, X[:, 0]))


def test_refits_with_another_number_of_networks():
    found = classifier().fit(X, Y)
    found.set_params(n_networks=1).fit(X, Y)
    assert not hasattr(found, "estimators_")
    expected = classifier(n_networks=1).fit(X, Y)
    np.testing.assert_array_equal(found.coefs_[0], expected.coefs_[0])
    found.set_params(n_networks=2).fit(X, Y)
    assert not hasattr(found, "coefs_")
    assert len(found.estimators_) == 2


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("state", [False, True])
def test_saved_classifiers_predict_the_same(name, state, tmp_path):
    found = classifier().fit(X, TARGETS[name])
    portnet.save(found, tmp_path / "model.safetensors", state=state)
    again = portnet.load(tmp_path / "model.safetensors")
    assert (again.predict(X) == found.predict(X)).all()
    for model in (again, pickle.loads(pickle.dumps(found))):
        for p, q in zip(model.predict_proba(X), found.predict_proba(X), strict=True):
            np.testing.assert_array_equal(p, q)
    assert again.get_params() == found.get_params()
    assert again.n_iter_ == found.n_iter_


def test_saved_regressors_go_on(tmp_path):
    found = regressor(max_iter=4).fit(X, X[:, 0])
    portnet.save(found, tmp_path / "model.safetensors", state=True)
    again = portnet.load(tmp_path / "model.safetensors").set_params(max_iter=8)
    assert_same_networks(again.fit(X, X[:, 0], resume=True), regressor().fit(X, X[:, 0]))


def test_files_open_without_scikit_learn(tmp_path):
    expected = {}
    for name, y in TARGETS.items():
        found = classifier(max_iter=30).fit(X, y)
        portnet.save(found, tmp_path / f"{name}.safetensors")
        proba = found.predict_proba(X)
        expected[f"{name} proba"] = np.concatenate(proba, axis=1) if name == "heads" else proba
        expected[name] = found.predict(X)
    for loss in ("squared_error", "poisson"):
        found = regressor(loss=loss).fit(X, np.abs(X[:, 0]))
        portnet.save(found, tmp_path / f"{loss}.safetensors")
        expected[loss] = found.predict(X)
    np.savez(tmp_path / "expected.npz", X=X, **expected)
    code = f"""
import sys
sys.modules["sklearn"] = None
import importlib.util
find = importlib.util.find_spec
import portnet.files.estimators as estimators
estimators.find_spec = lambda name: None if name == "sklearn" else find(name)
import numpy as np, portnet
expected = np.load(r"{tmp_path / "expected.npz"}")
for name in {[*TARGETS, "squared_error", "poisson"]!r}:
    model = portnet.load(rf"{tmp_path}/{{name}}.safetensors")
    assert type(model).__name__ == "Predictor"
    found = model.predict(expected["X"])
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected[name], rtol=1e-12)
        continue
    assert (found == expected[name]).all(), name
    proba = model.predict_proba(expected["X"])
    proba = np.concatenate(proba, axis=1) if name == "heads" else proba
    np.testing.assert_allclose(proba, expected[name + " proba"], rtol=1e-12, atol=1e-14)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_networks_move_to_another_backend():
    pytest.importorskip("torch", reason="torch is not installed")
    found = classifier(max_iter=30).fit(X, Y)
    moved = found.to("torch")
    assert (moved.predict(X) == found.predict(X)).all()
    assert moved.to("numpy").predict_proba(X) == pytest.approx(found.predict_proba(X))


def test_arrays_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, y = torch.asarray(X), torch.asarray(X[:, 0].copy())
    mean, std = regressor().fit(x, y).predict(x, return_std=True)
    assert isinstance(mean, torch.Tensor)
    expected = regressor().fit(X, X[:, 0]).predict(X, return_std=True)
    np.testing.assert_allclose(mean.numpy(), expected[0], rtol=1e-9)
    np.testing.assert_allclose(std.numpy(), expected[1], rtol=1e-6, atol=1e-9)


def test_grid_search_over_the_number_of_networks():
    grid = {"mlpclassifier__n_networks": [1, 2]}
    search = GridSearchCV(make_pipeline(StandardScaler(), classifier()), grid, cv=2).fit(X, Y)
    assert search.best_estimator_.predict(X).shape == (150,)
    assert clone(classifier()).get_params() == classifier().get_params()


def test_ensemble_is_better_than_its_networks_on_average():
    data, y = load_diabetes(return_X_y=True)
    data, y = data / data.std(axis=0), (y - y.mean()) / y.std()
    found = regressor(n_networks=6, hidden_layer_sizes=(50,), max_iter=200, tol=0.0)
    found.fit(data[:300], y[:300])
    each = [network.score(data[300:], y[300:]) for network in found.estimators_]
    assert found.score(data[300:], y[300:]) > np.mean(each)


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [0, -1, 1.5, "2", None])
def test_bad_numbers_of_networks_are_refused(given):
    with pytest.raises(ValueError, match="'n_networks' parameter of MLPRegressor"):
        regressor(n_networks=given).fit(X, X[:, 0])


def test_one_network_has_no_spread():
    found = regressor(n_networks=1).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="fit with n_networks=8"):
        found.predict(X, return_std=True)


def test_ensembles_are_checked_as_estimators_are(tmp_path):
    with pytest.raises(NotFittedError):
        regressor().predict(X)
    found = regressor().fit(X, X[:, 0])
    before = pickle.dumps(found)
    with pytest.raises(ValueError, match="X has 3 features, but MLPRegressor is expecting 4"):
        found.predict(X[:, :3])
    with pytest.raises(ValueError, match="save the fitted estimator"):
        found.fit(X, X[:, 0], checkpoint=tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="has 3 networks: ask each of them"):
        found.get_weights()
    with pytest.raises(ValueError, match="has 3 networks: ask each of them"):
        found.set_weights([])
    with pytest.raises(AttributeError, match=r"estimators_\[0\].history_"):
        _ = found.history_
    with pytest.raises(ValueError, match="NaN"):
        found.partial_fit(X, np.full(150, np.nan))
    with pytest.raises(ValueError, match="n_networks=2, but 3 networks are fitted"):
        clone(found).fit(X, X[:, 0]).set_params(n_networks=2).partial_fit(X, X[:, 0])
    with pytest.raises(ValueError, match="n_networks=1, but 3 networks are fitted"):
        clone(found).fit(X, X[:, 0]).set_params(n_networks=1).partial_fit(X, X[:, 0])
    assert pickle.dumps(found) == before


def test_networks_warn_together():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier(max_iter=2).fit(X, Y)
    (warning,) = caught
    assert warning.category is ConvergenceWarning
    assert "Maximum iterations (2) reached" in str(warning.message)


def test_summary_and_history(capsys):
    found = classifier().fit(X, Y)
    found.summary()
    assert "MLPClassifier of 3 networks; the first one:" in capsys.readouterr().out
    assert len(found.estimators_[0].history_["loss"]) == 8
    assert found.without_state().predict(X).shape == (150,)
    assert not hasattr(found.without_state().estimators_[0], "_optimizer")
