"""Estimators with parameters beyond scikit-learn's in files, also without scikit-learn."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from dataclasses import dataclass

import numpy as np

import portnet
from portnet import MLPClassifier, MLPRegressor, ModelFileError
from portnet.files import estimators
from portnet.files.encoding import encode
from portnet.files.predictor import Predictor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((60, 5))
CODES = DRAW.integers(0, 3, 60)
HEADS = np.stack([CODES, 10 * DRAW.integers(0, 4, 60)], axis=1)
TEXT_HEADS = np.stack(
    [np.array(["a", "b", "c"])[CODES], np.array(list("wxyz"))[HEADS[:, 1] // 10]], 1
)


@dataclass(frozen=True)
class Scale:
    """y = a x, a layer of a user."""

    def init(self, rng, n_in):
        return {"a": 1.0 + rng.random((1, n_in))}, n_in

    def forward(self, params, x, key=None):
        return params["a"] * x, x

    def backward(self, params, cache, dy):
        xp = portnet.namespace(dy)
        return {"a": xp.sum(dy * cache, axis=-2, keepdims=True)}, params["a"] * dy


@dataclass(frozen=True)
class LogLink:
    """The loss of a gamma distribution with mean exp(pred)."""

    def __call__(self, pred, target, weight=None):
        xp, rows = portnet.namespace(pred), pred.shape[0]
        ratio = target * xp.exp(-pred)
        if weight is None:
            return xp.sum(ratio + pred) / rows, (1.0 - ratio) / rows
        w = weight[:, None] / xp.sum(weight)
        return xp.sum(w * (ratio + pred)), w * (1.0 - ratio)

    def mean(self, pred):
        return portnet.namespace(pred).exp(pred)


SMALL = {"hidden_layer_sizes": (6, 4), "random_state": 3, "max_iter": 5}
FITS = {
    "norm and dropout": (MLPClassifier(norm="layer", dropout=0.2, **SMALL), CODES, {}),
    "activations": (MLPClassifier(activation=["gelu", portnet.SiLU()], **SMALL), CODES, {}),
    "one layer": (MLPRegressor(activation=portnet.LeakyReLU(0.2), **SMALL), X[:, 0], {}),
    "own layer": (MLPClassifier(activation=["tanh", Scale()], **SMALL), CODES, {"Scale": Scale}),
    "optimizer": (
        MLPClassifier(
            optimizer=portnet.chain(
                portnet.ClipNorm(1.0), portnet.AdamW(portnet.CosineDecay(0.01, steps=9))
            ),
            **SMALL,
        ),
        CODES,
        {},
    ),
    "loss": (MLPRegressor(loss=portnet.Huber(0.5), **SMALL), X[:, 0], {}),
    "own mean": (MLPRegressor(loss=LogLink(), **SMALL), np.exp(X[:, 0]), {"LogLink": LogLink}),
    "curves": (MLPClassifier(metrics=["f1_macro"], early_stopping=True, **SMALL), CODES, {}),
    "scoring": (MLPClassifier(scoring="loss", early_stopping=True, **SMALL), CODES, {}),
    "heads": (MLPClassifier(norm="layer", **SMALL), HEADS, {}),
    "text heads": (MLPClassifier(**SMALL), TEXT_HEADS, {}),
}


def answers(estimator):
    found = [estimator.predict(X)]
    if getattr(estimator, "classes_", None) is not None:
        probable = estimator.predict_proba(X)
        found += probable if isinstance(probable, list) else [probable]
    return found


@pytest.mark.parametrize("name", FITS)
def test_what_is_loaded_has_the_parameters_and_answers(name, tmp_path):
    net, y, custom = FITS[name]
    net.fit(X, y)
    for state in (False, True):
        portnet.save(net, tmp_path / "net", state=state)
        again = portnet.load(tmp_path / "net", custom=custom)
        assert again.get_params() == net.get_params()
        assert again.history_ == net.history_
        for a, b in zip(answers(again), answers(net), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert again.score(X, y) == net.score(X, y)
    assert_same_weights(again.partial_fit(X, y), net.partial_fit(X, y)) if not (
        net.early_stopping
    ) else None


def assert_same_weights(actual, expected):
    for a, b in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FITS)
def test_without_scikit_learn_a_predictor_answers_the_same(name, tmp_path, monkeypatch):
    net, y, custom = FITS[name]
    portnet.save(net.fit(X, y), tmp_path / "net")
    monkeypatch.setattr(estimators, "find_spec", lambda name: None)
    predictor = portnet.load(tmp_path / "net", custom=custom)
    assert type(predictor) is Predictor
    for a, b in zip(answers(predictor), answers(net), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    for x in (X[:1], X.tolist()):
        np.testing.assert_array_equal(predictor.predict(x), net.predict(np.asarray(x)))


def test_a_layer_that_is_not_given_is_named(tmp_path):
    net, y, _ = FITS["own layer"]
    portnet.save(net.fit(X, y), tmp_path / "net")
    with pytest.raises(ModelFileError, match=r"'Scale' is not portnet's own\. Give its class"):
        portnet.load(tmp_path / "net")


@pytest.mark.parametrize("name", ["norm and dropout", "curves", "optimizer"])
def test_a_checkpoint_goes_on_with_the_same_bits(name, tmp_path):
    net, y, _ = FITS[name]
    once = net.set_params(max_iter=12).fit(X, y)
    other = type(net)(**net.get_params()).set_params(max_iter=5)
    other.fit(X, y, checkpoint=tmp_path / "net").set_params(max_iter=12)
    again = type(net)(**other.get_params()).fit(X, y, resume=tmp_path / "net")
    assert_same_weights(again, once)
    assert again.history_ == once.history_
    net.set_params(max_iter=5)


def changed(described, name, value):
    tensors = {}
    described["fitted"]["dict"][name] = encode(value, name, tensors)
    return tensors


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer_params", 3, "the layers of the network"),
        ("layer_params", ((),), "expected parameters of"),
        (
            "layer_params",
            tuple({"gamma": np.ones((1, 9))} for _ in range(6)),
            "expected parameters",
        ),
        ("curves", {"f1": [1.0]}, r"curves: expected arrays \(epochs,\)"),
        ("resumable", {"first": True}, "resumable: expected first, state, rows, best, last"),
    ],
)
def test_a_file_with_other_parts_is_refused(name, value, message):
    net, y, _ = FITS["norm and dropout"]
    tensors = {}
    described = estimators.describe(net.fit(X, y), tensors, True)
    tensors |= changed(described, name, value)
    with pytest.raises(ModelFileError, match=message):
        estimators.estimator_from(described, tensors, {})


def test_a_state_that_would_read_other_memory_is_refused():
    net = MLPClassifier(**{**SMALL, "random_state": np.random.RandomState(0)}).fit(X, CODES)
    tensors = {}
    described = estimators.describe(net, tensors, True)
    state = described["fitted"]["dict"]["resumable"]["dict"]["state"]["dict"]
    state["state"]["dict"]["pos"] = 10**6
    with pytest.raises(ModelFileError, match="expected a position of 0 to 624"):
        estimators.estimator_from(described, tensors, {})


def test_summaries_name_the_layers(capsys):
    net, y, _ = FITS["norm and dropout"]
    net.fit(X, y).summary()
    text = capsys.readouterr().out
    for line in ("LayerNorm(eps=1e-05)", "beta (1, 6)", "Dropout(rate=0.2)", "Dense(4)", "softmax"):
        assert line in text
    assert f"{sum(w.size for w in net.get_weights())} parameters" in text
