"""export_onnx: ONNX Runtime predicts what runs, estimators and networks do."""

import copy
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from custom import Square
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Of, assert_equal, node_kinds, served

import portnet
from portnet.exchange import ExchangeError
from portnet.exchange.graph import Graph

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def exported(thing, X, path):
    """Return what ONNX Runtime computes for the rows X."""
    portnet.export_onnx(thing, path)
    node_kinds(path)
    return served(path, X)


def parameters(net, X, seed=0):
    """Return parameters without zeros, in the dtype of X."""
    draw = np.random.default_rng(seed)
    params = portnet.init(net, seed=seed, like=X, n_in=X.shape[1])
    return portnet.tree.map(lambda a: a + 0.3 * draw.normal(size=a.shape).astype(a.dtype), params)


# Networks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snake:
    """y = x + sin(x)^2."""

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        return x + portnet.namespace(x).sin(x) ** 2, x

    def backward(self, params, cache, dy):
        return (), dy * (1 + portnet.namespace(dy).sin(2 * cache))


@dataclass(frozen=True)
class Gated:
    """y = (x A) / (1 + e^-(x B)), written for NumPy."""

    n_out: int

    def init(self, rng, n_in):
        return {n: rng.normal(size=(n_in, self.n_out)) for n in "AB"}, self.n_out

    def forward(self, params, x, key=None):
        return (x @ params["A"]) / (1 + np.exp(-(x @ params["B"]))), x

    def backward(self, params, cache, dy):
        raise NotImplementedError


ELEMENTWISE = [
    portnet.Identity(),
    portnet.ReLU(),
    portnet.LeakyReLU(0.2),
    portnet.Sigmoid(),
    portnet.Tanh(),
    portnet.GELU(),
    portnet.SiLU(),
    portnet.Softplus(),
    portnet.Dropout(0.5),
    Square(),
    Snake(),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", [*ELEMENTWISE, Gated(4)], ids=lambda a: type(a).__name__)
def test_each_layer(layer, dtype, tmp_path):
    net = portnet.Chain([portnet.Dense(4), layer, portnet.Dense(3)], n_in=5)
    X = np.random.default_rng(0).normal(size=(50, 5)).astype(dtype)
    X[:2] *= 300  # where exponentials overflow
    params = parameters(net, X)
    found = exported((net, params), X, tmp_path / "m.onnx")["y"]
    with np.errstate(over="ignore"):
        expected, _ = net.forward(params, X)
    assert found.dtype == dtype
    size = np.abs(expected).max(axis=1, keepdims=True) + 1
    assert_equal(found / size, expected / size, dtype)


layers = st.deferred(lambda: simple | residuals)
simple = st.sampled_from([*ELEMENTWISE, portnet.LayerNorm(0.1)])
residuals = st.lists(simple, min_size=1, max_size=2).map(
    lambda parts: portnet.Residual(portnet.Chain([*parts, portnet.Tanh()]))
)
dense = st.builds(portnet.Dense, st.integers(1, 9))


@settings(max_examples=40)
@given(
    parts=st.lists(dense | layers, max_size=6),
    width=st.integers(1, 7),
    rows=st.integers(1, 20),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_random_networks(parts, width, rows, dtype, seed, tmp_path_factory):
    # The activations grow without bound through squares and residuals: end with tanh.
    net = portnet.Chain([portnet.Dense(4), *parts, portnet.Tanh(), portnet.Dense(2)], n_in=width)
    X = np.random.default_rng(seed).normal(size=(rows, width)).astype(dtype)
    params = portnet.tree.map(lambda a: 0.3 * a, parameters(net, X, seed))
    path = tmp_path_factory.mktemp("random") / "m.onnx"
    found = exported((net, params), X, path)["y"]
    expected, _ = net.forward(params, X)
    # Norms of nearly equal numbers lose digits: as many as portnet loses.
    wider = np.float64 if dtype == "float32" else np.longdouble
    exact, _ = net.forward(portnet.tree.map(lambda a: a.astype(wider), params), X.astype(wider))
    lost = 10 * float(np.abs(expected - exact).max())
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance + lost)


def test_a_network_that_begins_with_a_norm(tmp_path):
    net = portnet.Chain([portnet.LayerNorm(), portnet.Dense(2)])
    X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    params = parameters(net, X)
    found = exported((net, params), X, tmp_path / "m.onnx")
    assert_equal(found["y"], net.forward(params, X)[0], "float32")


def test_a_network_without_layers(tmp_path):
    X = np.ones((3, 2), np.float32)
    found = exported((portnet.Chain([], n_in=2), ()), X, tmp_path / "m.onnx")
    np.testing.assert_array_equal(found["y"], X)


def test_product_and_bias_are_one_operator_also_in_layers_of_ones_own(tmp_path):
    net = portnet.Chain([Of(lambda xp, x: np.ones(3) + x @ np.ones((2, 3)))], n_in=2)
    X = np.ones((3, 2))
    with portnet.use_backend("numpy", dtype="float64"):
        found = exported((net, ((),)), X, tmp_path / "m.onnx")
    np.testing.assert_array_equal(found["y"], np.full((3, 3), 3.0))
    assert node_kinds(tmp_path / "m.onnx") == ["Gemm"]


def test_a_product_that_is_needed_twice_stays_one(tmp_path):
    def f(xp, x):
        product = x @ np.ones((2, 3), np.float32)
        return (product + np.ones(3, np.float32)) * product

    portnet.export_onnx((portnet.Chain([Of(f)], n_in=2), ((),)), tmp_path / "m.onnx")
    assert node_kinds(tmp_path / "m.onnx") == ["MatMul", "Add", "Mul"]


def test_the_kernels_of_one_layer_are_in_the_file_once(tmp_path):
    net = portnet.mlp([20, 64, 32, 3])
    portnet.export_onnx((net, portnet.init(net, seed=0)), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 4 * 3600 + 1500


# Runs -------------------------------------------------------------------------------------------

RUNS = {
    "softmax": ("softmax_cross_entropy", 3, ["a", "b", "c"]),
    "softmax of numbers": ("softmax_cross_entropy", 3, [0, 1, 2]),
    "sigmoid": ("sigmoid_cross_entropy", 1, ["a", "b", "b"]),
    "sigmoid of numbers": ("sigmoid_cross_entropy", 1, [0.0, 1.0, 1.0]),
    "squares": ("squared_error", 1, [0.5, 1.0, 2.0]),
    "counts": ("poisson", 1, [0.0, 1.0, 4.0]),
}


def flower_rows(dtype):
    draw = np.random.default_rng(0)
    code = draw.integers(0, 3, 90)
    return (code[:, None] + draw.normal(size=(90, 2))).astype(dtype), code


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "outputs", "labels"), RUNS.values(), ids=RUNS)
def test_runs(loss, outputs, labels, dtype, tmp_path):
    X, code = flower_rows(dtype)
    y = np.asarray(labels)[code]
    with portnet.use_backend("numpy", dtype=dtype):
        trainer = portnet.Trainer(portnet.mlp([2, 8, outputs]), loss, portnet.Adam(0.02))
        run = trainer.fit(X, y, epochs=30)
    found = exported(run, X, tmp_path / "m.onnx")
    if "cross" in loss:
        assert list(found) == ["label", "probabilities"]
        assert_equal(found["probabilities"], run.predict_proba(X), dtype)
        assert found["label"].tolist() == run.predict_class(X).tolist()
        assert found["label"].dtype in (object, np.int64)
        assert len(set(found["label"].tolist())) == len(set(labels))
    else:
        assert list(found) == ["prediction"]
        assert_equal(found["prediction"][:, 0], run.predict(X), dtype)


def test_a_run_of_several_labels_a_row(tmp_path):
    X, _ = flower_rows("float32")
    trainer = portnet.Trainer(portnet.mlp([2, 8, 2]), "sigmoid_cross_entropy", portnet.Adam(0.02))
    run = trainer.fit(X, (X > 0).astype(np.float32), epochs=20)
    found = exported(run, X, tmp_path / "m.onnx")
    assert_equal(found["probabilities"], run.predict(X), "float32")
    np.testing.assert_array_equal(found["label"], run.predict_class(X))
    assert found["label"].dtype == np.int64


def own_loss(pred, target, weight=None):
    return np.mean((pred - target) ** 2), 2 * (pred - target) / pred.size


class Cauchy:
    """A loss of a user's own, whose prediction is not the network's output."""

    def __call__(self, pred, target, weight=None):
        return own_loss(pred, target)

    def mean(self, pred):
        return np.tanh(pred)


@pytest.mark.parametrize("loss", [own_loss, Cauchy()])
def test_a_run_with_a_loss_and_a_layer_of_ones_own(loss, tmp_path):
    X, code = flower_rows("float32")
    net = portnet.Chain([portnet.Dense(4), Square(), portnet.Dense(1)])
    run = portnet.Trainer(net, loss).fit(X, code.astype(np.float32), epochs=2)
    found = exported(run, X, tmp_path / "m.onnx")
    assert_equal(found["prediction"][:, 0], run.predict(X), "float32")


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_run_on_another_backend(name, tmp_path):
    pytest.importorskip(name, reason=f"{name} is not installed")
    X, code = flower_rows("float32")
    with portnet.use_backend(name):
        run = portnet.Trainer(portnet.mlp([2, 8, 3]), "softmax_cross_entropy").fit(X, code)
        found = exported(run, X, tmp_path / "m.onnx")
        network = exported((run.trainer.model, run.params), X, tmp_path / "n.onnx")
    np.testing.assert_allclose(found["probabilities"], run.predict_proba(X), atol=1e-6)
    assert network["y"].shape == (90, 3)


# Estimators -------------------------------------------------------------------------------------


def estimators():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return portnet.MLPClassifier, portnet.MLPRegressor


FEW = pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge")


@FEW
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_a_classifier_is_small_and_has_no_control_flow(activation, dtype, tmp_path):
    Classifier, _ = estimators()
    draw = np.random.default_rng(0)
    X = draw.normal(size=(200, 20)).astype(dtype)
    y = np.array(["iris", "rose", "tulip"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0)]
    for labels in (y, y == "rose"):
        model = Classifier((64, 32), activation=activation, max_iter=30, random_state=0)
        model.set_params(learning_rate_init=0.02)
        model.fit(X, labels)
        found = exported(model, X, tmp_path / "m.onnx")
        kinds = node_kinds(tmp_path / "m.onnx")
        assert len(kinds) <= 15, kinds
        assert not {"If", "Loop", "Scan"} & {*kinds}
        assert kinds.count("Gemm") == 3
        assert_equal(found["probabilities"], model.predict_proba(X), dtype)
        assert found["label"].tolist() == model.predict(X).tolist()
        assert len(set(found["label"].tolist())) > 1


LABELS = {
    "text": ["no", "yes", "perhaps"],
    "integers": [-5, 3, 70000],
    "small integers": np.array([1, 2, 3], np.uint8),
    "floats": [0.0, 1.0, 4.0],
    "truth values": [False, True, True],
    "text as objects": np.array(["no", "yes", "perhaps"], object),
}


@FEW
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_each_kind(labels, tmp_path):
    Classifier, _ = estimators()
    X, code = flower_rows("float32")
    model = Classifier((5,), max_iter=20, random_state=0).fit(X, np.asarray(labels)[code])
    found = exported(model, X, tmp_path / "m.onnx")
    assert found["label"].tolist() == model.predict(X).tolist()
    (info, proba) = onnx.load(tmp_path / "m.onnx").graph.output
    assert (info.name, proba.name) == ("label", "probabilities")
    assert proba.type.tensor_type.shape.dim[0].dim_param == "rows"


@FEW
def test_multilabel_and_regressors(tmp_path):
    Classifier, Regressor = estimators()
    X, code = flower_rows("float64")
    options = {"max_iter": 20, "random_state": 0}
    model = Classifier((5,), **options).fit(X, (X > 1).astype(int))
    found = exported(model, X, tmp_path / "m.onnx")
    np.testing.assert_array_equal(found["label"], model.predict(X))
    assert_equal(found["probabilities"], model.predict_proba(X), "float64")
    for loss, y in (("squared_error", X), ("squared_error", code), ("poisson", code)):
        model = Regressor(loss, (5,), **options).fit(X, y)
        found = exported(model, X, tmp_path / "m.onnx")["prediction"]
        expected = model.predict(X)
        assert_equal(found, expected if expected.ndim == 2 else expected[:, None], "float64")


@FEW
def test_of_two_equally_probable_classes_a_run_takes_the_second_and_an_estimator_the_first(
    tmp_path,
):
    X, y = np.array([[0.0], [1.0]], np.float32), [0.0, 1.0]
    run = portnet.Trainer(portnet.mlp([1, 1]), "sigmoid_cross_entropy").fit(X, y, epochs=1)
    run = replace(run, params=portnet.tree.map(lambda a: 0 * a, run.params))
    found = exported(run, X, tmp_path / "m.onnx")["label"]
    assert found.tolist() == run.predict_class(X).tolist() == [1, 1]
    Classifier, _ = estimators()
    model = Classifier((), solver="lbfgs").fit(X, y)
    model.coefs_, model.intercepts_ = (
        [0 * a for a in part] for part in (model.coefs_, model.intercepts_)
    )
    found = exported(model, X, tmp_path / "m.onnx")["label"]
    assert found.tolist() == model.predict(X).tolist() == [0, 0]


@FEW
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_an_estimator_on_another_backend(name, tmp_path):
    pytest.importorskip(name, reason=f"{name} is not installed")
    Classifier, _ = estimators()
    X, code = flower_rows("float32")
    model = Classifier((5,), max_iter=5, random_state=0, backend=name)
    model.fit(X, code)
    found = exported(model, X, tmp_path / "m.onnx")
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), atol=1e-6)


@FEW
def test_a_predictor_of_a_file_opened_without_scikit_learn(tmp_path, monkeypatch):
    Classifier, Regressor = estimators()
    X, code = flower_rows("float32")
    y = np.array(["no", "yes", "perhaps"])[code]
    monkeypatch.setattr("portnet.files.estimators.find_spec", lambda name: None)
    for model in (Classifier((5,), max_iter=5).fit(X, y), Regressor(max_iter=5).fit(X, code)):
        portnet.save(model, tmp_path / "model")
        predictor = portnet.load(tmp_path / "model", backend="numpy")
        found = exported(predictor, X, tmp_path / "m.onnx")
        expected = model.predict(X)
        if "label" in found:
            assert found["label"].tolist() == expected.tolist()
        else:
            assert_equal(found["prediction"][:, 0], expected, "float32")


# Bad input --------------------------------------------------------------------------------------


def test_a_network_that_is_too_large_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("portnet.exchange.graph.LIMIT", 1000)
    net = portnet.mlp([20, 20])
    with pytest.raises(ExchangeError, match=r"have 1,7\d\d bytes, .* at most 1,000: float32 takes"):
        portnet.export_onnx((net, portnet.init(net, seed=0)), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_two_outputs_may_be_the_same_value_and_an_input_an_output(tmp_path):
    graph = Graph({"x"})
    x = graph.input("x", np.float32, 2)
    y = graph.add("Relu", graph.add("Neg", x))
    for name, value in {"a": y, "b": y, "x": x, "c": graph.constant([1.0, 2.0])}.items():
        graph.output(
            name, value, np.float64 if name == "c" else np.float32, [None, 2][name == "c" :]
        )
    onnx.save(graph.model("", {}), tmp_path / "m")
    X = np.array([[-1.0, 2.0]], np.float32)
    found = served(tmp_path / "m", X)
    assert list(found) == ["a", "b", "x_", "c"]
    np.testing.assert_array_equal(found["a"], [[1.0, 0.0]])
    np.testing.assert_array_equal(found["b"], [[1.0, 0.0]])
    np.testing.assert_array_equal(found["x_"], X)
    np.testing.assert_array_equal(found["c"], [1.0, 2.0])


def test_things_that_cannot_be_exported(tmp_path):
    path = tmp_path / "m.onnx"
    Classifier, _ = estimators()
    with pytest.raises(TypeError, match="expected a fitted estimator, got MLPClassifier: fit it"):
        portnet.export_onnx(Classifier(), path)
    with pytest.raises(TypeError, match=r"expected a run, a fitted MLPClassifier .*got Chain"):
        portnet.export_onnx(portnet.mlp([1, 1]), path)
    net = portnet.Chain([Square(), portnet.Sigmoid()])
    with pytest.raises(ExchangeError, match=r"number of inputs is not known.*n_in="):
        portnet.export_onnx((net, ((), ())), path)
    with pytest.raises(ValueError, match=r"expected .*\(2, 1\)"):
        portnet.export_onnx((portnet.mlp([2, 1]), ({"W": np.ones((3, 1)), "b": np.ones(1)},)), path)
    assert not path.exists()


def test_labels_without_onnx_form_are_an_error(tmp_path):
    Classifier, _ = estimators()
    X, code = flower_rows("float32")
    with pytest.warns(UserWarning, match="Stochastic"):
        model = Classifier((5,), max_iter=2).fit(X, code.astype(np.longdouble))
    with pytest.raises(ExchangeError, match="expected classes that are text or numbers"):
        portnet.export_onnx(model, tmp_path / "m.onnx")


@FEW
def test_an_unwritable_path_leaves_the_estimator_as_it_was(tmp_path):
    Classifier, _ = estimators()
    X, code = flower_rows("float32")
    model = Classifier((5,), max_iter=5, random_state=0).fit(X, code)
    before = copy.deepcopy(model.__dict__)
    with pytest.raises(portnet.CheckpointError, match=r"no/m\.onnx"):
        portnet.export_onnx(model, tmp_path / "no" / "m.onnx")
    with pytest.raises(portnet.CheckpointError):
        portnet.export_onnx(model, tmp_path)
    assert not list(tmp_path.iterdir())
    assert before.keys() == model.__dict__.keys()
    np.testing.assert_array_equal(model.predict(X), type(model).predict(model, X))
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(before[name], getattr(model, name), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_file_is_as_it_was_after_an_error(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    net = portnet.Chain([Of(lambda xp, x: x // 2)], n_in=2)
    with pytest.raises(ExchangeError, match="the operation floor_divide of float32"):
        portnet.export_onnx((net, ((),)), path)
    assert path.read_bytes() == b"before"


def test_without_onnx_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    net = portnet.mlp([1, 1])
    with pytest.raises(ImportError, match=r"export_onnx needs onnx: .*\[onnx\]"):
        portnet.export_onnx((net, portnet.init(net, seed=0)), tmp_path / "m.onnx")


def test_importing_portnet_imports_neither_the_exchange_nor_onnx():
    import subprocess

    code = (
        "import sys, portnet\n"
        "assert not {'onnx', 'portnet.exchange'} & sys.modules.keys()\n"
        "portnet.export_onnx, portnet.exchange\n"
        "assert not {'onnx', 'sklearn', 'torch'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
