"""fit(resume=True) and initialize: ten epochs and ten more are twenty, bit for bit."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import pickle

import numpy as np
from problems import SMALL, XM, XR, YM, YR, X, Y
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale

import portnet
from portnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def assert_equal_bits(actual, expected):
    for a, b in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert actual.history_ == expected.history_
    for name in ("n_iter_", "t_", "loss_", "best_loss_", "best_validation_score_"):
        assert getattr(actual, name) == getattr(expected, name), name


SETTINGS = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.2,
        "tol": 0.05,
        "n_iter_no_change": 1,
    },
    "in order": {"shuffle": False},
    "early stopping": {"early_stopping": True, "learning_rate_init": 0.02},
    "dropout and norm": {"dropout": 0.3, "norm": "layer"},
    "optimizer": {"optimizer": portnet.AdamW(portnet.CosineDecay(0.01, steps=100))},
    "class weights": {"class_weight": "balanced"},
    "metrics": {"metrics": ["f1_macro"], "early_stopping": True},
    "generator": {"random_state": np.random.RandomState(3)},
    "stopped": {"tol": 10.0, "n_iter_no_change": 11},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_ten_epochs_and_ten_are_twenty(setting):
    options = {"hidden_layer_sizes": (8,), "batch_size": 40, "random_state": 5, **SETTINGS[setting]}
    once = clone(MLPClassifier(max_iter=20, **options)).fit(X, Y)
    twice = clone(MLPClassifier(max_iter=10, **options)).fit(X, Y)
    assert twice.n_iter_ <= 10
    twice.set_params(max_iter=20).fit(X, Y, resume=True)
    assert_equal_bits(twice, once)
    twice.set_params(max_iter=25).fit(X, Y, resume=True)
    assert_equal_bits(twice, clone(MLPClassifier(max_iter=25, **options)).fit(X, Y))


IRIS = load_iris()
# Networks of these sizes are trained together or in turn, as is faster.
OF_SEVERAL = {
    "batches": {"batch_size": 32},
    "two layers": {"hidden_layer_sizes": (8, 5), "batch_size": 32, "max_iter": 20},
    "in order": {"batch_size": 16, "shuffle": False},
    "sgd, tanh": {"solver": "sgd", "learning_rate_init": 0.05, "activation": "tanh"},
    "some stop": {"tol": 0.01, "n_iter_no_change": 3, "learning_rate_init": 0.01, "batch_size": 32},
    "some stop early": {
        "hidden_layer_sizes": (8, 5),
        "early_stopping": True,
        "tol": 0.05,
        "n_iter_no_change": 3,
        "batch_size": 32,
        "random_state": 3,
        "max_iter": 20,
    },
    "large": {"hidden_layer_sizes": (300, 300), "batch_size": 32, "max_iter": 12},
}


@pytest.mark.parametrize("first", [4, 10, 20])
@pytest.mark.parametrize("setting", OF_SEVERAL)
def test_networks_that_go_on_have_the_bits_of_those_that_did_not_stop(setting, first):
    """Whatever the number of epochs, and where some of the networks have ended before."""
    options = {"hidden_layer_sizes": (8,), "random_state": 0, "n_networks": 3, "max_iter": 60}
    options |= OF_SEVERAL[setting]
    features, labels = scale(IRIS.data), IRIS.target
    whole = MLPClassifier(**options).fit(features, labels)
    net = MLPClassifier(**options | {"max_iter": min(first, options["max_iter"] // 2)})
    net.fit(features, labels).set_params(max_iter=options["max_iter"])
    net.fit(features, labels, resume=True)
    assert len({one.n_iter_ for one in whole.estimators_}) > 1 or "stop" not in setting.split()
    for a, b in zip(net.estimators_, whole.estimators_, strict=True):
        assert_equal_bits(a, b)


def test_a_fit_without_a_seed_goes_on_exactly():
    net = MLPClassifier(random_state=None, hidden_layer_sizes=(8,), batch_size=40, max_iter=5)
    net.initialize(X, Y)
    other = pickle.loads(pickle.dumps(net))
    net.fit(X, Y, resume=True).set_params(max_iter=9).fit(X, Y, resume=True)
    assert_equal_bits(net, other.set_params(max_iter=9).fit(X, Y, resume=True))


@pytest.mark.parametrize("way", ["pickle", "file", "to"])
@pytest.mark.parametrize("setting", ["adam", "early stopping", "dropout and norm", "generator"])
def test_a_fit_goes_on_from_a_copy(setting, way, tmp_path):
    options = {"hidden_layer_sizes": (8,), "batch_size": 40, "random_state": 5, **SETTINGS[setting]}
    once = clone(MLPClassifier(max_iter=20, **options)).fit(X, Y)
    net = clone(MLPClassifier(max_iter=10, **options)).fit(X, Y)
    if way == "pickle":
        net = pickle.loads(pickle.dumps(net))
    elif way == "file":
        portnet.save(net, tmp_path / "net.safetensors", state=True)
        net = portnet.load(tmp_path / "net.safetensors")
    else:
        net = net.to("numpy")
    assert_equal_bits(net.set_params(max_iter=20).fit(X, Y, resume=True), once)


@pytest.mark.parametrize("setting", ["adam", "early stopping", "dropout and norm"])
def test_fits_on_other_libraries_go_on_exactly(setting, torch):
    options = {"hidden_layer_sizes": (8,), "batch_size": 40, "random_state": 5, **SETTINGS[setting]}
    x, y = torch.tensor(X), torch.tensor(Y)
    once = clone(MLPClassifier(max_iter=20, **options)).fit(x, y)
    twice = clone(MLPClassifier(max_iter=10, **options)).fit(x, y).set_params(max_iter=20)
    assert_equal_bits(twice.fit(x, y, resume=True), once)


@pytest.mark.parametrize(
    ("net", "features", "y"),
    [
        (MLPRegressor(**SMALL), XR, YR),
        (MLPRegressor(loss=portnet.Huber(0.5), early_stopping=True, **SMALL), XR, YR),
        (MLPClassifier(**SMALL), XM, YM),
        (MLPClassifier(norm="layer", dropout=0.5, **SMALL), X, np.array(["x", "y", "z"])[Y]),
    ],
)
def test_initialize_and_a_fit_from_there_equal_a_fit(net, features, y):
    weights = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    first = clone(net).initialize(features, y)
    assert first.n_iter_ == first.t_ == 0
    assert first.predict(features).shape == y.shape
    assert not hasattr(first, "history_")
    once = clone(net).fit(features, y, weights)
    assert_equal_bits(first.fit(features, y, weights, resume=True), once)
    assert_equal_bits(clone(net).fit(features, y, weights, resume=True), once)  # of nothing
    warm = clone(net).set_params(warm_start=True).initialize(features, y)
    np.testing.assert_array_equal(warm.fit(features, y, weights).n_iter_, once.n_iter_)
    assert [n for n in vars(first.initialize(features, y)) if "loss" in n] == ["loss"]


def test_initialize_begins_anew_also_with_warm_start():
    net = MLPClassifier(warm_start=True, **SMALL).fit(X, Y)
    fresh = MLPClassifier(**SMALL).initialize(X, Y)
    for a, b in zip(net.initialize(X, Y).get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_that_are_set_are_those_that_training_begins_with():
    net = MLPClassifier(early_stopping=True, **SMALL).fit(X, Y)
    weights = [w * 0 + 0.1 for w in net.get_weights()]
    net.set_params(max_iter=9).set_weights(weights)
    weights[0][:] = 7.0  # the network has copies
    net.fit(X, Y, resume=True)
    assert 0 < abs(net.get_weights()[0] - 0.1).max() < 0.01


def test_a_callback_or_ctrl_c_that_ended_a_fit_does_not_end_the_next():
    net = MLPClassifier(**SMALL).set_callbacks(Stop(3)).fit(X, Y)
    assert net.n_iter_ == 3
    net.set_callbacks().fit(X, Y, resume=True)
    assert_equal_bits(net, MLPClassifier(**SMALL).fit(X, Y))


class Stop:
    def __init__(self, after):
        self.after = after

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context):
        return context.task_id + 1 == self.after


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        ({"max_iter": 5}, (X, Y), "ended after 8 iterations, which count, got max_iter=5: give"),
        ({}, (X[:140], Y[:140]), "needs the data of the last fit, which had 150 training rows"),
        ({}, (X[:, :3], Y), "X has 3 features, but MLPClassifier is expecting 4"),
        ({}, (X, Y + 1), "classes not in `self.classes_`"),
        ({"learning_rate_init": 0.1}, (X, Y), r"lr=0.001.*, but the parameters say .*lr=0.1"),
        ({"optimizer": "adamw"}, (X, Y), "the parameters say AdamW"),
        ({"solver": "lbfgs"}, (X, Y), "resume: give solver='sgd' or 'adam', not 'lbfgs'"),
        ({"hidden_layer_sizes": (3,)}, (X, Y), "Use a new estimator"),
    ],
)
def test_a_fit_that_cannot_go_on_says_why_and_changes_nothing(change, data, message):
    net = MLPClassifier(**SMALL).fit(X, Y).set_params(**change)
    before = dict(vars(net))
    with pytest.raises(ValueError, match=message):
        net.fit(*data, resume=True)
    assert vars(net) == before


def test_what_was_no_fit_of_epochs_cannot_go_on():
    text = "resume=True goes on from the last fit of sgd or adam, or from initialize"
    for net in (
        MLPClassifier(**SMALL).partial_fit(X, Y, classes=[0, 1, 2]),
        MLPClassifier(solver="lbfgs", **SMALL).fit(X, Y).set_params(solver="adam"),
        MLPClassifier(**SMALL).fit(X, Y).without_state(),
    ):
        with pytest.raises(ValueError, match=text):
            net.fit(X, Y, resume=True)
