"""Weights of PyTorch and Keras, with PyTorch and Keras as oracles."""

import os
from collections import OrderedDict

import numpy as np
import pytest
from custom import Square
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import portnet
from portnet.exchange import ExchangeError, from_keras, from_torch, to_keras, to_torch

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
NETS = {
    "relu": portnet.mlp([4, 8, 8, 3], "relu"),
    "tanh": portnet.mlp([4, 8, 3], "tanh"),
    "sigmoid": portnet.mlp([4, 8, 3], "sigmoid"),
    "linear": portnet.mlp([4, 3]),
    "all": portnet.Chain(
        [
            portnet.LayerNorm(),
            portnet.Dense(6),
            portnet.Chain([portnet.Softplus(), portnet.Dense(7), portnet.LayerNorm()]),
            portnet.GELU(),
            portnet.Dropout(0.5),
            portnet.Dense(5),
            portnet.SiLU(),
            portnet.Dense(5),
            portnet.LeakyReLU(0.2),
            portnet.Identity(),
            portnet.Dense(3),
        ],
        n_in=4,
    ),
}


def parameters(net, like=X):
    draw = np.random.default_rng(1)
    params = portnet.init(net, seed=0, like=like, n_in=4)
    return portnet.tree.map(lambda a: a + 0.3 * draw.normal(size=a.shape).astype(a.dtype), params)


def raw(net, params, x=X):
    return net.forward(params, x)[0]


# PyTorch ----------------------------------------------------------------------------------------


def sequential(net, n_in, dtype, torch):
    """Return an nn.Sequential with the layers of a network."""
    nn, modules = torch.nn, []
    for layer in net.layers:
        kind = type(layer).__name__
        if kind == "Chain":
            inner, n_in = sequential(layer, n_in, dtype, torch)
            modules.append(inner)
        elif kind == "Dense":
            modules.append(nn.Linear(n_in, layer.n_out, dtype=dtype))
            n_in = layer.n_out
        elif kind == "LayerNorm":
            modules.append(nn.LayerNorm(n_in, eps=layer.eps, dtype=dtype))
        else:
            others = {
                "GELU": lambda: nn.GELU(approximate="tanh"),
                "LeakyReLU": lambda layer=layer: nn.LeakyReLU(layer.slope),
            }
            modules.append(others.get(kind, getattr(nn, kind))())
    return nn.Sequential(*modules), n_in


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_state_dicts_of_a_sequential(net, dtype, torch):
    x = X.astype(dtype)
    tolerance = 2e-6 if dtype == "float32" else 1e-8  # torch's softplus is linear above 20
    module, _ = sequential(net, 4, getattr(torch, dtype), torch)
    module.eval()
    params = from_torch(module.state_dict(), net)
    with torch.no_grad():
        np.testing.assert_allclose(
            raw(net, params, x), module(torch.from_numpy(x)).numpy(), atol=tolerance
        )
    own = parameters(net, x)
    state = to_torch((net, own))
    module.load_state_dict(state)
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, raw(net, own, x), rtol=tolerance, atol=tolerance)
    back = from_torch(state, net)
    portnet.tree.map(np.testing.assert_array_equal, back, own)


activations = st.sampled_from(
    [portnet.ReLU(), portnet.Tanh(), portnet.Sigmoid(), portnet.SiLU(), portnet.LeakyReLU(0.1)]
)
parts = st.one_of(
    st.builds(portnet.Dense, st.integers(1, 9)), activations, st.just(portnet.LayerNorm(0.1))
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.lists(parts, max_size=6), depth=st.integers(0, 2), seed=st.integers(0, 9))
def test_random_networks(layers, depth, seed, torch):
    net = portnet.Chain([portnet.Dense(5), *layers, portnet.Tanh(), portnet.Dense(2)])
    for _ in range(depth):
        net = portnet.Chain([net])
    net = portnet.Chain(net.layers, n_in=4)
    x = X.astype(np.float64)
    params = portnet.init(net, seed=seed, like=x)
    module, _ = sequential(net, 4, torch.float64, torch)
    module.load_state_dict(to_torch((net, params)))
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, raw(net, params, x), atol=1e-9)
    for back in (
        from_torch(module.state_dict(), net),
        from_keras(to_keras((net, params)), net),
    ):
        portnet.tree.map(np.testing.assert_array_equal, back, params)


def test_named_modules_without_bias_count_in_their_order(torch):
    nn = torch.nn
    modules = OrderedDict(
        flat=nn.Flatten(), first=nn.Linear(4, 8, bias=False), act=nn.ReLU(), last=nn.Linear(8, 3)
    )
    module, net = nn.Sequential(modules), NETS["tanh"]
    params = from_torch(module.state_dict(), portnet.mlp([4, 8, 3], "relu"))
    np.testing.assert_array_equal(params[0]["b"], np.zeros((1, 8), np.float32))
    with torch.no_grad():
        expected = module(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(raw(portnet.mlp([4, 8, 3], "relu"), params), expected, atol=1e-6)
    assert abs(raw(net, params) - expected).max() > 0.01  # other activations are another network


def test_training_goes_on_from_weights_of_pytorch(torch):
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    net = portnet.mlp([4, 8, 1], "relu")
    trainer = portnet.Trainer(
        net,
        "squared_error",
        portnet.SGD(0.1),
        shuffle=False,
        params=from_torch(module.state_dict(), net),
    )
    run = trainer.fit(X, X[:, :1], epochs=3)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.from_numpy(X)
        (0.5 * (module(x) - x[:, :1]) ** 2).sum(1).mean().backward()
        optimizer.step()
    module.load_state_dict(to_torch(run), strict=True)
    np.testing.assert_allclose(
        run.predict(X), module(torch.from_numpy(X)).detach().numpy(), atol=1e-6
    )


def test_the_parameters_are_on_the_current_backend_and_runs_may_be_on_any(torch):
    net = NETS["relu"]
    with portnet.use_backend("torch"):
        run = portnet.Trainer(net, "softmax_cross_entropy").fit(X, np.arange(40) % 3, epochs=2)
        params = from_torch(to_torch(run), net)
        assert isinstance(params[0]["W"], torch.Tensor)
    np.testing.assert_array_equal(to_keras(run)[0], run.params[0]["W"].numpy())


def test_estimators_have_weights_for_pytorch(torch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    model = portnet.MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", alpha=1.0)
    model.fit(X.astype(np.float64), X[:, 0] * 2)
    module, _ = sequential(portnet.mlp([4, 8, 1], "relu"), 4, torch.float64, torch)
    module.load_state_dict(to_torch(model))
    found = module(torch.from_numpy(X.astype(np.float64))).detach().numpy()
    np.testing.assert_allclose(found[:, 0], model.predict(X.astype(np.float64)), atol=1e-12)


STATE = {"0.weight": np.ones((8, 4)), "0.bias": np.ones(8)}
BAD_STATES = {
    "too few": (STATE, r"has 2 layers .*Dense\(8\), Dense\(3\), but the weights are of 1: '0'"),
    "a shape": (
        STATE | {"2.weight": np.ones((2, 8)), "2.bias": np.ones(2)},
        r"'2': expected W of layer 2, Dense\(3\), of shape \(8, 3\), got \(8, 2\)",
    ),
    "a bias": (
        STATE | {"2.weight": np.ones((3, 8)), "2.bias": np.ones(4)},
        r"'2': expected b of layer 2, Dense\(3\), of shape \(1, 3\), got \(1, 4\)",
    ),
    "a batch norm": (STATE | {"1.running_mean": np.ones(8)}, "'1.running_mean': expected weights"),
    "another layer": (STATE | {"1.weight": np.ones((8, 8, 1, 1))}, "floats with one axis or two"),
    "integers": ({"0.weight": np.ones((8, 4), int)}, "'0.weight': expected floats"),
    "a bias alone": ({"0.bias": np.ones(8)}, "'0' has a bias, but no weight"),
    "two dtypes": (
        STATE | {"2.weight": np.ones((3, 8), np.float32)},
        r"expected one dtype, float32 or float64, got \['float32', 'float64'\]",
    ),
    "none": ({}, "expected arrays, got none"),
}


@pytest.mark.parametrize(("state", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_state_dicts_that_do_not_fit(state, message):
    with pytest.raises(ExchangeError, match=f"from_torch: .*{message}|{message}"):
        from_torch(state, portnet.mlp([4, 8, 3]))


def test_bfloat16_is_an_error(torch):
    state = {"0.weight": torch.ones((3, 4), dtype=torch.bfloat16)}
    with pytest.raises(ExchangeError, match=r"'0\.weight'.*: convert it to float32"):
        from_torch(state, portnet.mlp([4, 3]))


def test_a_residual_and_layers_of_ones_own_are_errors(torch):
    net = portnet.Chain([portnet.Dense(4), portnet.Residual(portnet.Dense(4))], n_in=4)
    with pytest.raises(ExchangeError, match=r"1 Residual: a Sequential has no Residual"):
        to_torch((net, portnet.init(net, seed=0)))
    own = Square()
    net = portnet.Chain([portnet.Dense(4), own], n_in=4)
    assert list(to_torch((net, portnet.init(net, seed=0)))) == ["0.weight", "0.bias"]


class Scale(Square):
    """y = a x."""

    def init(self, rng, n_in):
        return {"a": np.ones((1, n_in))}, n_in

    def forward(self, params, x, key=None):
        return params["a"] * x, x


def test_a_layer_with_parameters_of_its_own_is_named():
    net = portnet.Chain([portnet.Dense(4), Scale()], n_in=4)
    params = portnet.init(net, seed=0)
    with pytest.raises(ExchangeError, match="layer 1, Scale: it has parameters of its own"):
        to_keras((net, params))
    with pytest.raises(ExchangeError, match="layer 1, Scale: it has parameters of its own"):
        from_keras([np.ones((4, 4)), np.ones(4)], net)


# Keras ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_weight_lists_of_keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(8, activation="relu"),
            layers.LayerNormalization(),
            layers.Dense(6, activation="tanh"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )
    net = portnet.Chain(
        [
            portnet.Dense(8),
            portnet.ReLU(),
            portnet.LayerNorm(1e-3),
            portnet.Dense(6),
            portnet.Tanh(),
            portnet.Dense(3),
        ]
    )
    mean = portnet.SoftmaxCrossEntropy().mean
    params = from_keras(model.get_weights(), net)
    np.testing.assert_allclose(mean(raw(net, params)), model.predict(X, verbose=0), atol=1e-6)
    own = parameters(net)
    model.set_weights(to_keras((net, own)))
    np.testing.assert_allclose(mean(raw(net, own)), model.predict(X, verbose=0), atol=1e-6)


def keras_by_hand(weights, activations, x):
    """What a Keras Sequential of Dense layers computes, from its documentation."""
    for kernel, bias, activation in zip(weights[::2], weights[1::2], activations, strict=True):
        x = activation(np.dot(x, kernel) + bias)
    return x


def test_weight_lists_of_dense_layers():
    net, draw = NETS["tanh"], np.random.default_rng(2)
    weights = [draw.normal(size=s) for s in [(4, 8), (8,), (8, 3), (3,)]]
    x = X.astype(np.float64)
    expected = keras_by_hand(weights, [np.tanh, lambda z: z], x)
    np.testing.assert_allclose(raw(net, from_keras(weights, net), x), expected, atol=1e-12)
    back = to_keras((net, from_keras(weights, net)))
    for a, b in zip(back, weights, strict=True):
        np.testing.assert_array_equal(a, b)
    without = from_keras(weights[::2], net)
    expected = keras_by_hand(
        [weights[0], np.zeros(8), weights[2], np.zeros(3)], [np.tanh, lambda z: z], x
    )
    np.testing.assert_allclose(raw(net, without, x), expected, atol=1e-12)


def test_residuals_count_in_their_order():
    net = portnet.Chain([portnet.Dense(4), portnet.Residual(portnet.Dense(4))], n_in=4)
    params = portnet.init(net, seed=0)
    back = from_keras(to_keras((net, params)), net)
    portnet.tree.map(np.testing.assert_array_equal, back, params)


BAD_LISTS = {
    "too few": ([np.ones((4, 8)), np.ones(8), np.ones((8, 3))], "expected 4 arrays, .*, got 3"),
    "a shape": (
        [np.ones((4, 8)), np.ones(8), np.ones((8, 2)), np.ones(2)],
        r"weights\[2\]: expected W of layer 2, Dense\(3\), of shape \(8, 3\), got \(8, 2\)",
    ),
    "text": (["a"] * 4, r"weights\[0\]: expected floats"),
    "inputs": (
        [np.ones((5, 8)), np.ones(8), np.ones((8, 3)), np.ones(3)],
        r"weights\[0\]: expected W of layer 0, Dense\(8\), of shape \(4, 8\), got \(5, 8\)",
    ),
}


@pytest.mark.parametrize(("weights", "message"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_weight_lists_that_do_not_fit(weights, message):
    with pytest.raises(ExchangeError, match=f"from_keras: .*{message}|from_keras: {message}"):
        from_keras(weights, portnet.mlp([4, 8, 3]))
