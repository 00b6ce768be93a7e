"""A fitted network answers as it was fitted, whatever `set_params` has set since."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import copy
import pickle

import numpy as np
from problems import SMALL, XR, YR, X, Y

import portnet
from portnet import MLPClassifier, MLPRegressor, ModelFileError
from portnet.files import estimators
from portnet.files.predictor import Predictor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
CHANGES = (
    {"dropout": 1.5},
    {"dropout": 0.2},
    {"norm": "batch"},
    {"norm": "layer"},
    {"activation": "tanh"},
    {"activation": ["relu", "gelu"]},
    {"activation": "tan", "norm": portnet.LayerNorm(), "dropout": 0.5},
)
STARTS = {
    "plain": {},
    "all": {"dropout": 0.1, "norm": portnet.LayerNorm(1e-2), "activation": [portnet.SiLU()]},
}


def assert_equal_weights(actual, expected):
    for a, b in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# Answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("change", [*CHANGES, {"norm": None, "dropout": 0.0, "activation": "relu"}])
def test_parameters_set_after_the_fit_leave_all_answers(
    change, start, networks, tmp_path, monkeypatch
):
    net = MLPClassifier(**SMALL, **STARTS[start], n_networks=networks).fit(X, Y)
    expected = net.predict_proba(X)
    other = pickle.loads(pickle.dumps(net)).set_params(**change)
    copies = [other, copy.deepcopy(other), pickle.loads(pickle.dumps(other)), other.to("numpy")]
    for state in (False, True):
        portnet.save(other, tmp_path / "m", state=state)
        copies.append(portnet.load(tmp_path / "m"))
        assert repr(copies[-1]) == repr(other)  # with the parameters of now
    monkeypatch.setattr(estimators, "find_spec", lambda name: None)
    copies.append(portnet.load(tmp_path / "m"))
    assert isinstance(copies[-1], Predictor)
    for one in copies:
        np.testing.assert_array_equal(one.predict_proba(X), expected)
    if networks == 1:
        assert_equal_weights(other, net)
        weights = [2.0 * w for w in net.get_weights()]
        other.set_weights(weights)
        np.testing.assert_array_equal(
            other.predict_proba(X), net.set_weights(weights).predict_proba(X)
        )


def test_a_refused_fit_leaves_the_network_usable():
    net = MLPClassifier(**SMALL).fit(X, Y)
    expected = net.predict(X)
    with pytest.raises(ValueError, match="dropout"):
        net.set_params(dropout=1.5).fit(X, Y)
    with pytest.raises(ValueError, match="norm"):
        net.set_params(dropout=0.0, norm="batch").fit(X, Y)
    np.testing.assert_array_equal(net.predict(X), expected)
    net.set_params(norm=None).partial_fit(X, Y)


def test_summaries_and_exports_are_those_of_the_fit(capsys, tmp_path):
    net = MLPClassifier(**SMALL, norm="layer").fit(X, Y)
    net.summary()
    expected = capsys.readouterr().out
    net.set_params(norm=None, activation="tanh").summary()
    assert capsys.readouterr().out == expected
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    portnet.export_onnx(net, tmp_path / "m")
    session = runtime.InferenceSession(tmp_path / "m")
    found = session.run(["probabilities"], {session.get_inputs()[0].name: X})[0]
    np.testing.assert_allclose(found, net.predict_proba(X), atol=1e-12)


def test_a_list_of_activations_that_changes_leaves_the_network():
    given = ["tanh"]
    net = MLPClassifier(**SMALL, activation=given).fit(X, Y)
    expected = net.predict_proba(X)
    given[0] = "relu"
    np.testing.assert_array_equal(net.predict_proba(X), expected)


class Exponential:
    """Half the squared error of exp(pred)."""

    def __call__(self, pred, target, weight=None):
        xp, rows = portnet.namespace(pred), pred.shape[0]
        w = xp.ones_like(pred[:, :1]) / rows if weight is None else weight[:, None] / weight.sum()
        mean = self.mean(pred)
        return 0.5 * (w * (mean - target) ** 2).sum(), w * (mean - target) * mean

    def mean(self, pred):
        return portnet.namespace(pred).exp(pred)


def test_a_loss_of_ones_own_stays_that_of_the_network():
    net = MLPRegressor(**SMALL, loss=Exponential()).fit(XR, YR)
    expected = net.predict(XR)
    net.set_params(loss="squared_error")
    np.testing.assert_array_equal(net.predict(XR), expected)
    with pytest.raises(ValueError, match=r"'identity', but .*'loss.mean'. Use a new estimator"):
        net.partial_fit(XR, YR)
    np.testing.assert_array_equal(net.predict(XR), expected)


def test_pickles_of_versions_that_kept_no_parameters_predict_and_are_trained():
    net = MLPClassifier(**SMALL, dropout=0.1, norm="layer").fit(X, Y)
    expected = net.predict_proba(X)
    del net._fitted_with
    old = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(old.predict_proba(X), expected)
    assert old.set_params(max_iter=9).fit(X, Y, resume=True).n_iter_ == 9
    assert old.partial_fit(X, Y).n_iter_ == 1


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_ensembles_are_saved_whatever_n_networks_is_now(count, tmp_path):
    net = MLPRegressor(**SMALL, n_networks=3).fit(XR, YR)
    expected = net.predict(XR, return_std=True)
    portnet.save(net.set_params(n_networks=count), tmp_path / "m")
    again = portnet.load(tmp_path / "m")
    assert again.n_networks == count
    np.testing.assert_array_equal(again.predict(XR, return_std=True), expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "fitted_with: expected a dict of parameters"),
        ({"dict": {"depth": 1}}, "fitted_with: 'depth' is no parameter"),
        ({"dict": {"norm": "layer"}}, "expected parameters"),
        ({"dict": {"activation": None}}, "no activation"),
    ],
)
def test_files_with_other_parameters_of_the_fit_are_refused(value, message):
    tensors = {}
    net = MLPClassifier(**SMALL).fit(X, Y).set_params(activation="tanh")
    described = estimators.describe(net, tensors, False)
    assert described["fitted_with"] == {"dict": {"activation": "relu"}}
    described["fitted_with"] = value
    with pytest.raises(ModelFileError, match=message):
        estimators.estimator_from(described, tensors, {})


def test_a_loaded_fit_goes_on_with_the_parameters_of_the_fit_only(tmp_path):
    net = MLPClassifier(**SMALL).fit(X, Y).set_params(alpha=0.5)
    portnet.save(net, tmp_path / "m", state=True)
    again = portnet.load(tmp_path / "m").set_params(max_iter=9)
    with pytest.raises(ValueError, match=r"made with alpha=0.0001, but the parameters say 0.5"):
        again.fit(X, Y, resume=True)
    again.set_params(alpha=1e-4).fit(X, Y, resume=True)
    assert_equal_weights(again, MLPClassifier(**{**SMALL, "max_iter": 9}).fit(X, Y))


def test_a_file_without_state_says_how_to_keep_it(tmp_path):
    portnet.save(MLPClassifier(**SMALL).fit(X, Y), tmp_path / "m")
    with pytest.raises(ValueError, match=r"portnet\.save\(estimator, path, state=True\)"):
        portnet.load(tmp_path / "m").fit(X, Y, resume=True)


# Fits that go on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("norm", [None, "layer"])
def test_partial_fit_goes_on_with_dropout_and_without(norm, solver):
    """Dropout that drops nothing does not change the steps of the network without it."""
    options = {**SMALL, "shuffle": False, "norm": norm, "solver": solver}
    expected, net = MLPClassifier(**options).fit(X, Y), MLPClassifier(**options).fit(X, Y)
    for rate in (1e-15, 1e-15, 0.0, 0.0, 1e-15):
        expected.partial_fit(X, Y)
        net.set_params(dropout=rate).partial_fit(X, Y)
        for a, b in zip(net.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    before = net.get_weights()
    assert any(
        (a != b).any()
        for a, b in zip(
            before, net.set_params(dropout=0.5).partial_fit(X, Y).get_weights(), strict=True
        )
    )


@pytest.mark.parametrize(("one", "other"), [(0.0, 0.2), (0.2, 0.0), (0.2, 0.4)])
def test_warm_starts_take_another_dropout(one, other):
    net = MLPClassifier(**SMALL, dropout=one, warm_start=True).fit(X, Y)
    expected = MLPClassifier(**SMALL, dropout=other, warm_start=True).fit(X, Y)
    expected.set_weights(net.get_weights())
    net.set_params(dropout=other).fit(X, Y)
    for name in ("loss_curve_", "best_loss_", "_no_improvement_count"):
        setattr(expected, name, pickle.loads(pickle.dumps(getattr(net, name))))
    expected.fit(X, Y)
    assert_equal_weights(net, expected)
    resumed = net.set_params(max_iter=9).fit(X, Y, resume=True)
    assert resumed.n_iter_ == 9


def test_another_norm_is_refused_with_what_differs():
    net = MLPClassifier(**SMALL, norm="layer", warm_start=True).fit(X, Y).set_params(norm=None)
    before = dict(vars(net))
    text = r"shapes \[\] besides.*has \[\(1, 7\), \(1, 7\)\]. Use a new .*norm='layer', activation="
    for go_on in (net.fit, net.partial_fit):
        with pytest.raises(ValueError, match=text):
            go_on(X, Y)
    assert vars(net) == before


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize(
    "change",
    [
        {"activation": "tanh"},
        {"dropout": 0.2},
        {"norm": "layer"},
        {"batch_size": 30},
        {"random_state": 9},
        {"random_state": None},
        {"alpha": 0.1},
        {"shuffle": False},
        {"early_stopping": True},
        {"tol": 0.1},
        {"n_iter_no_change": 3},
        {"class_weight": "balanced"},
    ],
    ids=str,
)
def test_a_resumed_fit_refuses_parameters_that_would_change_its_bits(change, networks):
    options = {**SMALL, "n_networks": networks}
    net = MLPClassifier(**options).fit(X, Y)
    back = {name: getattr(net, name) for name in change}
    net.set_params(max_iter=9, **change)
    before, ((name, value),) = pickle.dumps(net), change.items()
    with pytest.raises(ValueError, match=rf"made with {name}=.*, but the parameters say {value!r}"):
        net.fit(X, Y, resume=True)
    assert pickle.dumps(net) == before
    net.set_params(**back).fit(X, Y, resume=True)
    expected = MLPClassifier(**{**options, "max_iter": 9}).fit(X, Y)
    np.testing.assert_array_equal(net.predict_proba(X), expected.predict_proba(X))


def test_a_resumed_fit_takes_equal_parameters_and_those_that_change_no_step():
    net = MLPClassifier(**SMALL, activation=["relu"], class_weight={0: 1.0, 1: 2.0, 2: 1.0})
    net.fit(X, Y).set_params(
        activation=("relu",),
        class_weight={0: 1, 1: 2, 2: 1},
        random_state=np.int64(0),
        max_iter=9,
        verbose=False,
        compile=False,
        metrics=["f1_macro"],
        warm_start=True,
    )
    assert net.fit(X, Y, resume=True).n_iter_ == 9


def test_what_initialize_made_is_trained_with_other_parameters_but_its_own():
    net = MLPClassifier(**SMALL).initialize(X, Y).set_params(alpha=0.1, batch_size=30)
    expected = MLPClassifier(**SMALL, alpha=0.1, batch_size=30).fit(X, Y)
    assert_equal_weights(net.fit(X, Y, resume=True), expected)
    net.initialize(X, Y).set_params(activation="logistic")
    with pytest.raises(ValueError, match="made with activation='relu', but"):
        net.fit(X, Y, resume=True)


@pytest.mark.parametrize("way", ["resume", "warm_start", "partial_fit"])
def test_a_network_does_not_become_an_ensemble(way):
    net = MLPClassifier(**SMALL, warm_start=way == "warm_start").fit(X, Y).set_params(n_networks=3)
    expected = net.predict_proba(X)
    go_on = {
        "resume": lambda: net.fit(X, Y, resume=True),
        "warm_start": lambda: net.fit(X, Y),
        "partial_fit": lambda: net.partial_fit(X, Y),
    }
    with pytest.raises(ValueError, match="n_networks=3, but the fit was one of a single network"):
        go_on[way]()
    np.testing.assert_array_equal(net.predict_proba(X), expected)
