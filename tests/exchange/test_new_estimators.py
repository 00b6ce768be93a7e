"""The estimators' own parameters in ONNX files, and what scikit-learn lacks of them."""

import numpy as np
import pytest
from custom import Square
from served import assert_equal, served

import portnet
from portnet.exchange import ExchangeError, to_keras, to_sklearn, to_torch

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed")
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(120, 4))
CODES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.3)
TEXT = np.array(["no", "perhaps", "yes"])[CODES]


def cauchy(pred, target, weight=None):
    """A loss of a user's own: log(1 + e^2), averaged over rows."""
    xp = portnet.namespace(pred)
    e = pred - target
    each = xp.sum(xp.log1p(e * e), axis=-1)
    weight = xp.ones_like(each) if weight is None else weight
    total = xp.sum(weight)
    slope = 2 * e / (1 + e * e)
    return xp.sum(weight * each) / total, xp.expand_dims(weight, axis=-1) * slope / total


CONFIGURATIONS = {
    "dropout": {"dropout": 0.2},
    "norm": {"norm": "layer"},
    "an activation for each layer": {"activation": ["gelu", "tanh"]},
    "a layer of one's own": {"activation": [Square(), "softplus"], "norm": "layer"},
    "an optimizer": {"optimizer": portnet.AdamW(0.01)},
}


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_parameters_of_the_network(options, tmp_path):
    common = {"hidden_layer_sizes": (6, 5), "max_iter": 10, "random_state": 0, **options}
    for y in (TEXT, CODES > 0):
        model = portnet.MLPClassifier(**common).fit(X, y)
        portnet.export_onnx(model, tmp_path / "m")
        found = served(tmp_path / "m", X)
        assert found["label"].tolist() == model.predict(X).tolist()
        assert_equal(found["probabilities"], model.predict_proba(X), "float64")
    model = portnet.MLPRegressor(**common).fit(X, X[:, :2])
    portnet.export_onnx(model, tmp_path / "m")
    assert_equal(served(tmp_path / "m", X)["prediction"], model.predict(X), "float64")
    with pytest.raises(ExchangeError, match="to_sklearn: "):
        to_sklearn(model)


@pytest.mark.parametrize(
    "loss", [cauchy, "huber", portnet.PoissonLoss()], ids=["own", "huber", "Poisson"]
)
def test_losses(loss, tmp_path):
    y = np.abs(X[:, :1]).ravel()
    model = portnet.MLPRegressor(loss, (6,), max_iter=10, random_state=0).fit(X, y)
    portnet.export_onnx(model, tmp_path / "m")
    assert_equal(served(tmp_path / "m", X)["prediction"][:, 0], model.predict(X), "float64")
    with pytest.raises(ExchangeError, match=r"to_sklearn: .*loss"):
        to_sklearn(model)


def test_each_head_has_a_label_and_probabilities(tmp_path):
    y = np.stack([TEXT, np.where(X[:, 2] > 0, "a", "b")], axis=1)
    model = portnet.MLPClassifier((6,), max_iter=30, random_state=0).fit(X, y)
    portnet.export_onnx(model, tmp_path / "m")
    found = served(tmp_path / "m", X)
    assert list(found) == ["label_0", "probabilities_0", "label_1", "probabilities_1"]
    expected, proba = model.predict(X), model.predict_proba(X)
    for i in range(2):
        assert found[f"label_{i}"].tolist() == expected[:, i].tolist()
        assert_equal(found[f"probabilities_{i}"], proba[i], "float64")
    with pytest.raises(ExchangeError, match="several heads"):
        to_sklearn(model)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("y", [TEXT, CODES > 0, (X[:, :2] > 0).astype(int)], ids=["text", "2", "l"])
def test_ensembles(y, solver, tmp_path):
    common = {"hidden_layer_sizes": (6,), "solver": solver, "alpha": 0.1, "n_networks": 3}
    model = portnet.MLPClassifier(**common, max_iter=20, random_state=0).fit(X, y)
    portnet.export_onnx(model, tmp_path / "m")
    found = served(tmp_path / "m", X)
    assert found["label"].tolist() == model.predict(X).tolist()
    assert_equal(found["probabilities"], model.predict_proba(X), "float64")
    model = portnet.MLPRegressor(**common, max_iter=20, random_state=0).fit(X, X[:, 0])
    portnet.export_onnx(model, tmp_path / "m")
    assert_equal(served(tmp_path / "m", X)["prediction"][:, 0], model.predict(X), "float64")
    with pytest.raises(ExchangeError, match=r"has no n_networks=3.*estimators_\[0\]"):
        to_sklearn(model)
    message = r"expected one network, got n_networks=3: give estimators_\[i\]"
    with pytest.raises(ExchangeError, match=f"to_keras: {message}"):
        to_keras(model)
    arrays = to_keras(model.estimators_[1])
    np.testing.assert_array_equal(arrays[0], model.estimators_[1].coefs_[0])
    pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(ExchangeError, match=f"to_torch: {message}"):
        to_torch(model)


def test_a_population_has_no_weights_of_one_network():
    runs = portnet.Population(portnet.mlp([4, 1]), 2, "squared_error", "sgd").fit(
        X, X[:, :1], epochs=1
    )
    with pytest.raises(ExchangeError, match=r"to_keras: .*, got 2 runs: give runs\[i\]"):
        to_keras(runs)
    assert [a.shape for a in to_keras(runs[1])] == [(4, 1), (1,)]


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        ("softmax_cross_entropy", TEXT),
        ("sigmoid_cross_entropy", TEXT == "no"),
        ("squared_error", X[:, 0]),
        ("poisson", CODES),
    ],
)
def test_populations(loss, y, tmp_path):
    outputs = 3 if loss.startswith("softmax") else 1
    with portnet.use_backend("numpy", dtype="float64"):
        population = portnet.Population(portnet.mlp([4, 6, outputs]), 3, loss, portnet.Adam(0.01))
        runs = population.fit(X, y, epochs=5)
    portnet.export_onnx(runs, tmp_path / "m")
    found = served(tmp_path / "m", X)
    if "cross" in loss:
        assert found["label"].tolist() == runs.predict_class(X).tolist()
        assert_equal(found["probabilities"], runs.predict_proba(X), "float64")
    else:
        assert_equal(found["prediction"][:, 0], runs.predict(X), "float64")


def test_norms_go_to_pytorch():
    pytest.importorskip("torch", reason="torch is not installed")
    model = portnet.MLPClassifier((6,), norm="layer", max_iter=5).fit(X, TEXT)
    assert list(to_torch(model)) == [
        f"{i}.{name}" for i in (0, 1, 3) for name in ("weight", "bias")
    ]


def test_an_estimator_that_is_initialized_is_exported(tmp_path):
    model = portnet.MLPClassifier((6,), random_state=0).initialize(X, TEXT)
    portnet.export_onnx(model, tmp_path / "m")
    found = served(tmp_path / "m", X)
    assert_equal(found["probabilities"], model.predict_proba(X), "float64")
    other = to_sklearn(model)
    np.testing.assert_allclose(other.predict_proba(X), model.predict_proba(X), atol=1e-12)
    other.partial_fit(X, TEXT)
