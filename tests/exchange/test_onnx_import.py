"""from_onnx: networks in ONNX files of PyTorch, Keras, ONNX's helper and portnet, by ONNX Runtime."""

import os
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from served import Of, served

import portnet
from portnet.exchange import ExchangeError, from_onnx

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


def predictions(path, x=X):
    """Return what the network and the loss that were read compute."""
    model, params, loss = from_onnx(path)
    return portnet.losses.LOSSES[loss]().mean(model.forward(params, x)[0]), model, loss


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
def test_networks_of_portnet_are_the_same_there_and_back(activation, dtype, tmp_path):
    net, x = portnet.mlp([4, 8, 5, 3], activation), X.astype(dtype)
    params = portnet.init(net, seed=0, like=x)
    portnet.export_onnx((net, params), tmp_path / "m")
    model, again, loss = from_onnx(tmp_path / "m")
    assert loss == "squared_error"
    np.testing.assert_array_equal(model.forward(again, x)[0], net.forward(params, x)[0])
    assert portnet.tree.leaves(again)[0].dtype == dtype


ACTIVATIONS = [
    portnet.ReLU(),
    portnet.LeakyReLU(),
    portnet.LeakyReLU(0.3),
    portnet.LeakyReLU(0.0),
    portnet.Sigmoid(),
    portnet.Tanh(),
    portnet.Softplus(),
    portnet.SiLU(),
    portnet.GELU(),
]
NORMS = [portnet.LayerNorm(), portnet.LayerNorm(1e-3)]
RESIDUALS = [
    portnet.Residual(portnet.Dense(5)),
    portnet.Residual(portnet.Softplus()),
    portnet.Residual(portnet.Identity()),
    portnet.Residual(portnet.Residual(portnet.GELU())),
    portnet.Residual(portnet.Chain([portnet.LayerNorm(), portnet.Dense(5), portnet.SiLU()])),
    portnet.Residual(portnet.Chain([portnet.Residual(portnet.Dense(5)), portnet.LeakyReLU(0.1)])),
]


def assert_reads_back(layers, dtype, path, drawn=True):
    """Check that the file has these layers and parameters, to the last bit."""
    net, x = portnet.Chain(layers, n_in=4), X.astype(dtype)
    draw = np.random.default_rng(1)
    params = portnet.init(net, seed=0, like=x)
    if drawn:  # no zeros and ones
        params = portnet.tree.map(lambda a: a + draw.normal(size=a.shape).astype(dtype), params)
    portnet.export_onnx((net, params), path)
    model, again, _ = from_onnx(path)
    kept = [i for i, a in enumerate(layers) if not isinstance(a, portnet.Dropout)]
    assert [repr(a) for a in model.layers] == [repr(layers[i]) for i in kept]
    wanted, found = (portnet.tree.leaves(p) for p in (params, again))
    assert len(wanted) == len(found)
    for a, b in zip(wanted, found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(model.forward(again, x)[0], net.forward(params, x)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", ACTIVATIONS + NORMS + RESIDUALS, ids=repr)
def test_each_layer_of_portnet_is_the_same_there_and_back(layer, dtype, tmp_path):
    for drawn in (True, False):
        layers = [portnet.Dense(5), layer, portnet.Dropout(0.2), portnet.Dense(3)]
        assert_reads_back(layers, dtype, tmp_path / "m", drawn)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    layers=st.lists(
        st.sampled_from([portnet.Dense(5), *ACTIVATIONS, *NORMS, *RESIDUALS]), max_size=6
    ),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_random_networks_are_the_same_there_and_back(layers, dtype, tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "m"
    assert_reads_back([portnet.Dense(5), *layers, portnet.Dense(2)], dtype, path)


LOSSES = {
    "softmax_cross_entropy": (3, ["a", "b", "c"]),
    "sigmoid_cross_entropy": (1, ["a", "b", "b"]),
    "squared_error": (1, [0.5, 1.0, 2.0]),
    "poisson": (1, [0.0, 1.0, 4.0]),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_runs_are_read_with_their_loss_and_trained_on(loss, tmp_path):
    outputs, labels = LOSSES[loss]
    y = np.asarray(labels)[np.arange(9) % 3]
    run = portnet.Trainer(portnet.mlp([4, 8, outputs]), loss, portnet.Adam(0.02)).fit(X, y)
    portnet.export_onnx(run, tmp_path / "m")
    found, model, name = predictions(tmp_path / "m")
    assert name == loss
    expected = run.predict(X)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-6)
    again = portnet.Trainer(model, name, params=from_onnx(tmp_path / "m")[1])
    loss_after = again.fit(X, y, epochs=2).history["loss"]
    assert loss_after[0] < portnet.Trainer(model, loss).fit(X, y, epochs=1).history["loss"][0] + 1


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("target", ["classes", "two classes", "labels", "numbers", "counts"])
def test_estimators_with_norms_and_activations_are_read(target, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    kind, more = portnet.MLPClassifier, {}
    if target in ("numbers", "counts"):
        kind, more = portnet.MLPRegressor, {"loss": "poisson"} if target == "counts" else {}
    y = {
        "classes": np.array(["a", "b", "c"])[np.arange(9) % 3],
        "two classes": np.arange(9) % 2,
        "labels": np.stack([np.arange(9) % 2, np.arange(9) % 3 > 0], axis=1).astype(int),
        "numbers": X[:, 0],
        "counts": np.arange(9.0),
    }[target]
    options = {"norm": "layer", "dropout": 0.1, "activation": ["gelu", portnet.LeakyReLU(0.2)]}
    given = kind(hidden_layer_sizes=(5, 4), max_iter=3, **options, **more).fit(X, y)
    portnet.export_onnx(given, tmp_path / "m")
    found, model, loss = predictions(tmp_path / "m")
    answer = given.predict_proba if hasattr(given, "predict_proba") else given.predict
    expected = np.asarray(answer(X)).reshape(9, -1)
    np.testing.assert_allclose(found, expected[:, -found.shape[1] :], atol=1e-6)
    assert loss == {
        "classes": "softmax_cross_entropy",
        "numbers": "squared_error",
        "counts": "poisson",
    }.get(target, "sigmoid_cross_entropy")
    assert portnet.LeakyReLU(0.2) in model.layers


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("several", ["networks", "heads", "own layer"])
def test_what_export_writes_of_several_networks_is_an_error(several, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    y = np.arange(9) % 3
    more, message = {
        "networks": ({"n_networks": 2}, "Log, is not among"),
        "heads": ({}, "Slice, is not among"),
        "own layer": ({"activation": Of(lambda xp, x: xp.sin(x))}, "Sin, is not among"),
    }[several]
    y = np.stack([y, y[::-1]], axis=1) if several == "heads" else y
    given = portnet.MLPClassifier((5,), max_iter=3, **more)
    portnet.export_onnx(given.initialize(X, y), tmp_path / "m")
    with pytest.raises(ExchangeError, match=message):
        from_onnx(tmp_path / "m")


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimators_are_read(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    for y in (X[:, 0] > 0, np.arange(9) % 3):
        model = portnet.MLPClassifier((5,), activation="logistic", max_iter=3).fit(X, y)
        portnet.export_onnx(model, tmp_path / "m")
        found, _, _ = predictions(tmp_path / "m")
        np.testing.assert_allclose(found[:, -1], model.predict_proba(X)[:, -1], atol=1e-6)


def test_a_network_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    module = nn.Sequential(
        nn.Flatten(),
        nn.Linear(4, 8),
        nn.ReLU(),
        nn.LayerNorm(8, eps=1e-3),
        nn.Linear(8, 6, bias=False),
        nn.SiLU(),
        nn.Dropout(0.5),
        nn.Linear(6, 6),
        nn.LeakyReLU(0.2),
        nn.Linear(6, 6),
        nn.GELU(approximate="tanh"),
        nn.Linear(6, 5),
        nn.Softplus(),
        nn.Linear(5, 3),
        nn.Softmax(-1),
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        torch.onnx.export(module, (torch.zeros(2, 4),), str(tmp_path / "m"), dynamo=False)
    found, model, loss = predictions(tmp_path / "m")
    assert loss == "softmax_cross_entropy"
    assert portnet.LayerNorm(1e-3) in model.layers
    assert portnet.LeakyReLU(0.2) in model.layers
    with torch.no_grad():
        np.testing.assert_allclose(found, module(torch.from_numpy(X)).numpy(), atol=1e-6)


def test_a_model_of_keras(tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    layers = keras.layers
    given = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(6, activation="tanh"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        expected = given(X, training=False)
        given.export(str(tmp_path / "m.onnx"), format="onnx", verbose=False)
    found, _, loss = predictions(tmp_path / "m.onnx")
    assert loss == "softmax_cross_entropy"
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize("labels", [["a", "b", "c"], [0, 1, 1], [0.5, 1.0, 2.0]])
def test_an_estimator_of_skl2onnx(labels, tmp_path):
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from sklearn import neural_network

    classifies = labels != [0.5, 1.0, 2.0]
    kind = neural_network.MLPClassifier if classifies else neural_network.MLPRegressor
    given = kind(hidden_layer_sizes=(5,), max_iter=9).fit(X, np.asarray(labels)[np.arange(9) % 3])
    options = {"zipmap": False} if classifies else None
    file = skl2onnx.to_onnx(given, X[:1], options=options, target_opset=18)
    onnx.save(file, tmp_path / "m")
    found, _, _ = predictions(tmp_path / "m")
    expected = given.predict_proba(X)[:, -1] if classifies else given.predict(X)
    np.testing.assert_allclose(found[:, -1], expected, atol=1e-6)
    if classifies:  # our file has the same outputs
        portnet.export_onnx(portnet.exchange.from_sklearn(given), tmp_path / "ours")
        ours = onnx.load(tmp_path / "ours").graph.output
        assert [o.name for o in ours] == [o.name for o in file.graph.output]


# Files made by hand -----------------------------------------------------------------------------

DRAW = np.random.default_rng(1)
ARRAYS = {
    "W": DRAW.normal(size=(4, 3)).astype(np.float32),
    "V": DRAW.normal(size=(5, 3)).astype(np.float32),
    "b": DRAW.normal(size=3).astype(np.float32),
    "c": DRAW.normal(size=(1, 5)).astype(np.float32),
    "two": np.float32(2.0),
    "double": np.float64([[1.0]] * 3),
    "gamma": DRAW.normal(size=3).astype(np.float32),
}
L = [("MatMul", ["x", "W"], {}), ("Add", ["b", "0"], {})]
GOOD = {
    "product and bias": L,
    "Gemm": [
        ("Gemm", ["x", "W", "b"], {"alpha": 0.5, "beta": 2.0}),
        ("Tanh", ["0"], {}),
        ("Gemm", ["1", "V", "c"], {"transB": 1}),
        ("Relu", ["2"], {}),
    ],
    "a bias of one number": [*L, ("Relu", ["1"], {}), ("Gemm", ["2", "V"], {"transB": 1})],
    "two biases": [*L, ("Add", ["1", "two"], {})],
    "layer norm without bias": [*L, ("LayerNormalization", ["1", "gamma"], {"epsilon": 0.01})],
    "names that change nothing": [
        ("Cast", ["x"], {"to": 1}),
        ("MatMul", ["0", "W"], {}),
        ("Identity", ["1"], {}),
    ],
    "softmax of its two axes": [*L, ("Softmax", ["1"], {"axis": 1})],
    "a sum from the right": [*L, ("Tanh", ["1"], {}), ("Add", ["2", "1"], {})],
    "a sigmoid within": [*L, ("Sigmoid", ["1"], {}), ("Gemm", ["2", "V", "c"], {"transB": 1})],
}
SUMS = [("Add", ["1", "3"], {}), ("Add", ["2", "4"], {})]
BAD = {
    "another operator": ([*L, ("Sin", ["1"], {})], "node 'n2', Sin, is not among the layers"),
    "a branch": (
        [*L, ("Relu", ["1"], {}), ("Tanh", ["1"], {}), ("Add", ["2", "3"], {})],
        "node 'n4', Add, adds two values, neither of which is made from the other",
    ),
    "a sum beside another": (
        [*L, ("Tanh", ["1"], {}), ("Tanh", ["2"], {}), *SUMS],
        "a sum with '2' is no x . f",
    ),
    "a product": ([*L, ("Mul", ["1", "1"], {})], "node 'n2', Mul, has 2 inputs that depend on 'x'"),
    "a slope of 2": (
        [*L, ("Mul", ["1", "two"], {}), ("Max", ["1", "2"], {})],
        "node 'n3', Max, has 2 inputs",
    ),
    "an exact gelu": ([*L, ("Gelu", ["1"], {})], "node 'n2', Gelu, is exact"),
    "a scale": ([*L, ("Mul", ["1", "two"], {})], "node 'n2', Mul, is not among"),
    "a constant after": ([*L, ("Relu", ["1"], {}), ("Add", ["2", "b"], {})], "'n2', Relu, adds a"),
    "a constant before": ([("Add", ["x", "two"], {}), ("MatMul", ["0", "W"], {})], "to the input"),
    "no layers": ([("Relu", ["x"], {})], "at least one dense layer"),
    "two dtypes": (
        [*L, ("Cast", ["1"], {"to": 11}), ("MatMul", ["2", "double"], {})],
        r"one dtype, float32 or float64, got \['float32', 'float64'\]",
    ),
    "the columns": ([("Transpose", ["x"], {}), ("MatMul", ["0", "W"], {})], "Transpose, is not"),
    "a product from the left": ([("MatMul", ["W", "x"], {})], "MatMul, is no product of the rows"),
    "softmax of the rows": ([*L, ("Softmax", ["1"], {"axis": 0})], "Softmax, has axis=0"),
    "another shape": (
        [*L, ("Reshape", ["1", "shape"], {}), ("Softmax", ["2"], {})],
        "something else than its layers do",
    ),
}


def written(nodes, path):
    """Write a file with nodes of (kind, inputs, attributes), whose outputs are 0, 1, ..."""
    helper = onnx.helper
    arrays = ARRAYS | {"shape": np.array([-1, 1])}
    made = [
        helper.make_node(kind, names, [str(i)], f"n{i}", **more)
        for i, (kind, names, more) in enumerate(nodes)
    ]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", 1, ["rows", 4])],
        [helper.make_tensor_value_info(str(len(nodes) - 1), 1, None)],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    return path


@pytest.mark.parametrize("nodes", GOOD.values(), ids=GOOD)
def test_files_made_by_hand(nodes, tmp_path):
    path = written(nodes, tmp_path / "m")
    (expected,) = served(path, X).values()
    found, _, _ = predictions(path)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("nodes", "message"), BAD.values(), ids=BAD)
def test_other_files_are_errors_that_name_the_node(nodes, message, tmp_path):
    path = written(nodes, tmp_path / "m")
    with pytest.raises(ExchangeError, match=message) as caught:
        from_onnx(path)
    assert str(caught.value).startswith(str(path))


def test_what_is_no_onnx_file_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"<html>Not found</html>")
    with pytest.raises(ExchangeError, match="m: expected an ONNX file"):
        from_onnx(tmp_path / "m")
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="from_onnx needs onnx"):
        from_onnx(tmp_path / "m")


def test_the_parameters_are_on_the_current_backend(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = written(L, tmp_path / "m")
    with portnet.use_backend("torch"):
        _, params, _ = from_onnx(path)
    assert isinstance(params[0]["W"], torch.Tensor)
