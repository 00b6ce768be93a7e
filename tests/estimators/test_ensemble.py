"""Estimators with several networks: each is that of a fit by itself, and predictions are means."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import copy
import json
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


@pytest.fixture
def together(monkeypatch):
    """Let networks be trained together wherever they can be, and count how often they are."""
    from portnet.estimators import together as module

    made = []
    original = module._Stack.train
    monkeypatch.setattr(module, "is_faster_in_turn", lambda *args, **options: False)

    def train(self, *given):
        made.append(len(self.networks))
        return original(self, *given)

    monkeypatch.setattr(module._Stack, "train", train)
    return made


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
        {
            "max_iter": 60,
            "tol": 0.01,
            "n_iter_no_change": 1,
            "n_networks": 7,
            "learning_rate_init": 0.05,
        },
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1},
        {"solver": "sgd", "learning_rate": "invscaling", "shuffle": False},
        {"batch_size": 20, "early_stopping": True, "metrics": ["f1_macro"]},
        {"compile": False},
    ],
    ids=[
        "adam",
        "early stopping",
        "l-bfgs",
        "dropout",
        "different ends",
        "adaptive",
        "invscaling",
        "curves",
        "not compiled",
    ],
)
def test_networks_are_those_of_fits_one_by_one(parameters, together):
    weight = np.linspace(0.5, 1.5, len(X))
    found = classifier(**parameters).fit(X, Y, sample_weight=weight)
    assert bool(together) == (parameters.get("solver") != "lbfgs")
    if parameters.get("n_networks") == 7:
        assert len(set(together)) > 1  # some went on without the others
        assert len({network.n_iter_ for network in found.estimators_}) > 3
    seeds = [network.random_state for network in found.estimators_]
    assert len(set(seeds)) == found.n_networks
    for network in found.estimators_:
        expected = alone(network).fit(X, Y, sample_weight=weight)
        assert network.n_iter_ == expected.n_iter_
        if hasattr(expected, "history_"):
            for name, curve in expected.history_.items():
                np.testing.assert_allclose(network.history_[name], curve, rtol=1e-12)
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


def test_a_network_that_diverges_is_an_error_as_by_itself(together):
    options = {"solver": "sgd", "learning_rate_init": 1e5, "max_iter": 50}
    found = regressor(**options)
    with pytest.raises(ValueError, match="non-finite"):
        found.fit(X, X[:, 0])
    assert together
    assert not hasattr(found, "estimators_")


def test_ctrl_c_ends_all_networks(together, monkeypatch):
    import signal

    from portnet.estimators import together as module

    original = module.run_networks

    def run(*args, **options):
        if len(together) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **options)

    monkeypatch.setattr(module, "run_networks", run)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        found = regressor(early_stopping=True, max_iter=50).fit(X, X[:, 0])
    assert [network.n_iter_ for network in found.estimators_] == [2, 2, 2]


def interrupt(monkeypatch, network, after):
    """Press Ctrl-C in the fit of one network, counted from 0, after some epochs or iterations."""
    import signal

    from portnet.estimators import solvers

    seen = []

    def counted(function, counts):
        def call(*args, **options):
            if counts(args[0]):
                seen.append(args[0])  # the executor, or the estimator: one for each network
                each = list(dict.fromkeys(map(id, seen)))
                if len(each) == network + 1 and [*map(id, seen)].count(each[-1]) == after:
                    signal.raise_signal(signal.SIGINT)
            return function(*args, **options)

        return call

    run, line = solvers.run_epochs, solvers._print  # L-BFGS has a line for each iteration
    monkeypatch.setattr(solvers, "run_epochs", counted(run, lambda executor: True))
    monkeypatch.setattr(solvers, "_print", counted(line, lambda one: one.solver == "lbfgs"))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_ctrl_c_in_turn_ends_all_networks_and_leaves_out_the_untrained(solver, monkeypatch):
    options = {"n_networks": 4, "solver": solver, "compile": False, "metrics": []}
    with monkeypatch.context() as patch:
        patch.setattr("portnet.estimators.together.is_faster_in_turn", lambda *a, **k: True)
        interrupt(patch, 1, 3)
        with pytest.warns(UserWarning, match="interrupted by user. 2 of 4 networks have been tra"):
            found = regressor(**options).fit(X, X[:, 0])
    iterations = [network.n_iter_ for network in found.estimators_]
    assert iterations == ([8, 2] if solver == "adam" else [8, 3])
    each = np.stack([network.predict(X) for network in found.estimators_])
    np.testing.assert_allclose(found.predict(X), each.mean(axis=0), rtol=1e-12)
    whole = regressor(**options).fit(X, X[:, 0])
    np.testing.assert_array_equal(each[0], whole.estimators_[0].predict(X))
    for again in (found, clone(found)):
        again.fit(X, X[:, 0])
        assert_same_networks(again, whole)


def interrupted_fit(monkeypatch, **options):
    """Return an ensemble of four networks whose third Ctrl-C has kept from being trained."""
    with monkeypatch.context() as patch:
        patch.setattr("portnet.estimators.together.is_faster_in_turn", lambda *a, **k: True)
        interrupt(patch, 1, 1)
        with pytest.warns(UserWarning, match="resume=True"):
            return classifier(n_networks=4, metrics=[], **options).fit(X, Y)


@pytest.mark.parametrize("state", ["memory", "pickle", "file"])
def test_a_fit_that_goes_on_trains_what_ctrl_c_left_out(state, monkeypatch, tmp_path):
    found = interrupted_fit(monkeypatch)
    if state == "pickle":
        found = pickle.loads(pickle.dumps(found))
    elif state == "file":
        portnet.save(found, tmp_path / "m.safetensors", state=True)
        found = portnet.load(tmp_path / "m.safetensors")
    assert len(found.estimators_) == 2
    found.fit(X, Y, resume=True)
    whole = classifier(n_networks=4, metrics=[]).fit(X, Y)
    assert [network.n_iter_ for network in found.estimators_] == [8] * 4
    for k in (0, 2, 3):  # the other one began an epoch twice
        for a, b in zip(found.estimators_[k].coefs_, whole.estimators_[k].coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
    assert found.fit(X, Y, resume=True).n_iter_ == 8


def test_ctrl_c_while_a_fit_goes_on_keeps_the_networks_after_it(monkeypatch):
    options = {"n_networks": 3, "metrics": []}
    found = classifier(**options).fit(X, Y).set_params(max_iter=12)
    before = copy.deepcopy(found)
    with monkeypatch.context() as patch:
        patch.setattr("portnet.estimators.together.is_faster_in_turn", lambda *a, **k: True)
        interrupt(patch, 1, 2)
        with pytest.warns(UserWarning, match="2 of 3 networks have been trained; the others are"):
            found.fit(X, Y, resume=True)
    assert [network.n_iter_ for network in found.estimators_] == [12, 9, 8]
    np.testing.assert_array_equal(found.estimators_[2].coefs_[0], before.estimators_[2].coefs_[0])
    found.fit(X, Y, resume=True)
    assert [network.n_iter_ for network in found.estimators_] == [12] * 3


def test_ctrl_c_ends_the_first_partial_fit_of_all_networks(monkeypatch):
    found = classifier()
    with monkeypatch.context() as patch:
        interrupt(patch, 1, 1)
        with pytest.warns(UserWarning, match="2 of 3 networks have been trained; predictions are"):
            found.partial_fit(X, Y, classes=[0, 1, 2])
    assert found.predict_proba(X).shape == (150, 3)
    found.partial_fit(X, Y)
    assert [len(network.loss_curve_) for network in found.estimators_] == [2, 1, 1]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([3, -1], "missing_seeds: expected a list of integers, got"),
        ("ab", "missing_seeds: expected a list of integers, got 'ab'"),
        ([True, 2], "missing_seeds: expected a list of integers, got"),
        ([5], "expected 4 networks, as n_networks, got 2"),
        ([], "expected 4 networks, as n_networks, got 2"),
    ],
)
def test_files_with_other_seeds_than_ctrl_c_left_are_refused(seeds, message, monkeypatch, tmp_path):
    from portnet.files.container import open_container, pack
    from portnet.files.models import describe

    path = tmp_path / "m.safetensors"
    portnet.save(interrupted_fit(monkeypatch), path)
    with open_container(path) as container:
        description, tensors = describe(container), container.read()
    assert len(description["missing_seeds"]) == 2
    description["missing_seeds"] = seeds
    text = json.dumps(description)
    path.write_bytes(
        b"".join(bytes(b) for b in pack(tensors, {"format_version": "1", "portnet": text}))
    )
    with pytest.raises(portnet.ModelFileError, match=message):
        portnet.load(path)


def test_the_number_of_networks_stays_after_ctrl_c(monkeypatch):
    found = interrupted_fit(monkeypatch)
    with pytest.raises(ValueError, match="n_networks=3, but 2 networks are fitted"):
        found.set_params(n_networks=3).fit(X, Y, resume=True)
    found.set_params(n_networks=1).fit(X, Y)
    assert not hasattr(found, "_missing_seeds")


def test_layers_that_cannot_be_traced_are_trained_in_turn(together):
    class Looks(portnet.Tanh):
        def forward(self, params, x, key=None):
            assert float(x[0, 0]) < 1e9
            return super().forward(params, x)

    found = regressor(activation=Looks(), compile=False, max_iter=3).fit(X, X[:, 0])
    for network in found.estimators_:
        expected = alone(network).fit(X, X[:, 0])
        np.testing.assert_array_equal(network.coefs_[0], expected.coefs_[0])


def test_callbacks_see_the_fit_of_each_network(together):
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="r2")
    found = regressor(max_iter=3).set_callbacks(monitor).fit(X, X[:, 0])
    assert not together
    last = found.estimators_[-1]
    assert monitor.get_logs().data[-1]["r2"] == pytest.approx(last.score(X, X[:, 0]))


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


OF_EACH = [
    "coefs_",
    "intercepts_",
    "history_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
]


@pytest.mark.parametrize("name", OF_EACH)
def test_attributes_of_each_network_say_where_they_are(name):
    found = classifier(max_iter=2).fit(X, Y)
    text = rf"this MLPClassifier has 3 networks, and no {name}.* estimators_\[0\]\.{name} and"
    with pytest.raises(AttributeError, match=text):
        getattr(found, name)
    assert not hasattr(found, name)
    for network in found.estimators_:
        assert hasattr(network, name)
    assert name in MLPClassifier.__doc__.partition("estimators_ : list")[2]
    assert name in MLPRegressor.__doc__.partition("estimators_ : list")[2]
    single = MLPClassifier(max_iter=2)
    with pytest.raises(AttributeError, match=name):
        getattr(single, name)
    assert hasattr(single.fit(X, Y), name)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_lines_of_verbose_name_the_network(solver, capsys):
    found = regressor(verbose=True, max_iter=2, solver=solver).fit(X, X[:, 0])
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert {line.partition(": ")[0] for line in lines} == {f"estimators_[{k}]" for k in range(3)}
    assert not any("_name" in vars(network) for network in found.estimators_)
    found.set_params(n_networks=1).fit(X, X[:, 0])
    assert "estimators_" not in capsys.readouterr().out


@pytest.mark.parametrize("made", [classifier, regressor])
def test_true_is_no_number_of_networks(made):
    with pytest.raises(ValueError, match="n_networks: expected an integer, got True"):
        made(n_networks=True).fit(X, Y)
