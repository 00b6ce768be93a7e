"""Layers: values, gradients compared with finite differences, JAX and torch, and errors."""

import dataclasses
import inspect
import pickle

import numpy as np
import pytest

import portnet
from portnet import layers, rng, tree
from portnet.layers import dparams_of

# Every public layer needs at least one case: see test_every_public_layer_is_tested.
CASES = [
    layers.Dense(4),
    layers.Dense(3, weights="he_uniform"),
    layers.Identity(),
    layers.ReLU(),
    layers.LeakyReLU(),
    layers.LeakyReLU(slope=0.3),
    layers.LeakyReLU(slope=0.0),
    layers.Sigmoid(),
    layers.Tanh(),
    layers.Softplus(),
    layers.SiLU(),
    layers.GELU(),
    layers.Dropout(0.4),
    layers.Dropout(0.0),
    layers.LayerNorm(),
    layers.LayerNorm(eps=0.1),
    layers.Residual(layers.Dense(6)),
    layers.Residual(layers.Chain([layers.Dense(5), layers.Tanh(), layers.Dense(6)])),
    layers.Chain([]),
    layers.Chain([layers.Dense(5), layers.SiLU(), layers.Dropout(0.3), layers.Dense(2)]),
    layers.mlp([6, 5, 4, 3], ["gelu", "tanh"], dropout=0.2, norm="layer"),
]
ELEMENTWISE = {  # the formulas, in float64 NumPy
    layers.Identity(): lambda x: x,
    layers.ReLU(): lambda x: np.where(x > 0, x, 0),
    layers.LeakyReLU(): lambda x: np.where(x > 0, x, 0.01 * x),
    layers.Sigmoid(): lambda x: np.where(x > 0, 1, np.exp(-abs(x))) / (1 + np.exp(-abs(x))),
    layers.Tanh(): lambda x: (1 - np.exp(-2 * abs(x))) / (1 + np.exp(-2 * abs(x))) * np.sign(x),
    layers.Softplus(): lambda x: np.logaddexp(0, x),
    layers.SiLU(): lambda x: x * np.where(x > 0, 1, np.exp(-abs(x))) / (1 + np.exp(-abs(x))),
    layers.GELU(): lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


def public_layers():
    """Return every class of the module with a backward, except the protocol."""
    return {
        c
        for name, c in vars(layers).items()
        if inspect.isclass(c) and hasattr(c, "backward") and name not in ("Layer",)
    }


def start(layer, xp, rows=5, n_in=6, seed=0):
    """Return random parameters, biases included, and x, in the library."""
    draw = np.random.default_rng(seed)
    params, _ = layer.init(draw, n_in)
    params = tree.map(lambda p: p + 0.3 * draw.standard_normal(p.shape), params)
    return xp.tree(params), xp.asarray(draw.standard_normal((rows, n_in)))


def test_every_public_layer_is_tested():
    assert public_layers() == {type(case) for case in CASES}
    assert set(layers.ACTIVATIONS.values()) <= set(ELEMENTWISE)


@pytest.mark.parametrize("layer", CASES, ids=repr)
def test_gradient_equals_finite_differences(layer, xp):
    _, x = start(layer, xp)
    portnet.check_layer(layer, x)


@pytest.mark.parametrize("layer", CASES, ids=repr)
def test_results_keep_library_dtype_device_and_shape(layer, xp):
    params, x = start(layer, xp)
    _, n_out = layer.init(rng.generator(0), 6)
    for key in (None, rng.key(0, 1)):
        y, cache = layer.forward(params, x, key)
        xp.check_kind(y)
        assert tuple(y.shape) == (5, n_out)
        grads, dx = layer.backward(params, cache, y)
        xp.check_kind(dx)
        assert tuple(dx.shape) == (5, 6)
        tree.map(lambda p, g: xp.assert_close(g * 0.0, np.zeros(p.shape)), params, grads)


@pytest.mark.parametrize("layer", CASES, ids=repr)
def test_float32_input_gives_float32_results(layer, xp):
    params, x = start(layer, xp)
    to32 = lambda a: xp.asarray(xp.numpy(a), "float32")  # noqa: E731
    params, x = tree.map(to32, params), to32(x)
    y, cache = layer.forward(params, x, rng.key(0, 0))
    grads, dx = layer.backward(params, cache, y)
    for array in (y, dx, *tree.leaves(grads)):
        xp.check_kind(array, "float32")


@pytest.mark.parametrize("layer", ELEMENTWISE, ids=repr)
def test_activation_equals_its_formula(layer, xp):
    x = np.concatenate([np.linspace(-8, 8, 41), [-30.0, 30.0]]).reshape(1, -1)
    y, _ = layer.forward((), xp.asarray(x))
    xp.assert_close(y, ELEMENTWISE[layer](x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", CASES, ids=repr)
def test_inputs_of_1000_do_not_overflow(layer, dtype, xp):
    if dtype == "float64" and xp.float_name == "float32":
        pytest.skip(reason="this device has no float64")
    params, _ = start(layer, xp)
    params = tree.map(lambda p: xp.asarray(xp.numpy(p), dtype), params)
    x = xp.asarray(np.array([[1000.0, -1000.0, 0.0, 1000.0, -1000.0, 0.5]]), dtype)
    y, cache = layer.forward(params, x)  # a RuntimeWarning is an error
    grads, dx = layer.backward(params, cache, y * 0.0 + 1.0)
    for array in (y, dx, *tree.leaves(grads)):
        assert np.isfinite(xp.numpy(array)).all()


@pytest.mark.parametrize("layer", CASES, ids=repr)
def test_numpy_float64_options_keep_float32(layer):
    fields = {
        name: np.float64(value) for name, value in vars(layer).items() if isinstance(value, float)
    }
    layer = dataclasses.replace(layer, **fields)
    params, _ = layer.init(rng.generator(0), 6)
    params = tree.map(lambda p: p.astype("float32"), params)
    y, cache = layer.forward(params, np.ones((3, 6), "float32"), rng.key(0, 0))
    grads, dx = layer.backward(params, cache, y)
    assert {a.dtype.name for a in (y, dx, *tree.leaves(grads))} == {"float32"}
    assert all(type(value) is not np.float64 for value in vars(layer).values())


def test_dense_equals_hand_computed_values(xp):
    params = {"W": xp.asarray([[1.0, 2.0], [3.0, 4.0]]), "b": xp.asarray([[10.0, 20.0]])}
    x, dy = xp.asarray([[1.0, 1.0], [2.0, 0.0], [0.0, -1.0]]), xp.asarray([[1.0, 0.0]] * 3)
    y, cache = layers.Dense(2).forward(params, x)
    xp.assert_close(y, [[14.0, 26.0], [12.0, 24.0], [7.0, 16.0]])
    grads, dx = layers.Dense(2).backward(params, cache, dy)
    xp.assert_close(grads["W"], [[3.0, 0.0], [0.0, 0.0]])
    xp.assert_close(grads["b"], [[3.0, 0.0]])
    xp.assert_close(dx, [[1.0, 3.0]] * 3)


def test_layer_norm_rows_have_mean_0_and_variance_1(xp):
    layer = layers.LayerNorm(eps=1e-12)
    params, _ = layer.init(rng.generator(0), 6)
    x = np.random.default_rng(0).standard_normal((4, 6)) * 50 + 300
    y = xp.numpy(layer.forward(xp.tree(params), xp.asarray(x))[0])
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose((y**2).mean(axis=1), 1, rtol=1e-3)


def test_leading_axes_equal_independent_networks(xp):
    net = layers.mlp([6, 5, 3], norm="layer")
    some = [start(net, xp, seed=s) for s in range(3)]
    stack = portnet.get_backend().xp.stack
    x = stack([x for _, x in some])
    params = tree.map(lambda *ps: stack(ps), *[p for p, _ in some])
    y, cache = net.forward(params, x)
    grads, dx = net.backward(params, cache, y)
    for i, (p, one) in enumerate(some):
        yi, ci = net.forward(p, one)
        gi, dxi = net.backward(p, ci, yi)
        np.testing.assert_allclose(xp.numpy(y)[i], xp.numpy(yi), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(xp.numpy(dx)[i], xp.numpy(dxi), rtol=1e-4, atol=1e-5)
        for a, b in zip(tree.leaves(grads), tree.leaves(gi), strict=True):
            np.testing.assert_allclose(xp.numpy(a)[i], xp.numpy(b), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", CASES, ids=repr)
@pytest.mark.parametrize("key", [None, rng.key(3, 1)], ids=["inference", "training"])
def test_backward_equals_jax_grad_of_forward(layer, key, jax):
    with portnet.use_backend("jax", dtype="float64"):
        x = portnet.asarray(np.random.default_rng(1).standard_normal((5, 6)))
        params = tree.map(
            lambda p: p + 0.1, portnet.init(layer, 6, seed=2, like=x)
        )  # biases start at 0
        y, cache = layer.forward(params, x, key)
        dy = portnet.asarray(np.random.default_rng(2).standard_normal(tuple(y.shape)))
        actual = layer.backward(params, cache, dy)
        reference = jax.grad(lambda p, x: (layer.forward(p, x, key)[0] * dy).sum(), argnums=(0, 1))(
            params, x
        )
    for a, b in zip(tree.leaves(actual), tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", CASES, ids=repr)
@pytest.mark.parametrize("key", [None, rng.key(3, 1)], ids=["inference", "training"])
def test_backward_equals_torch_autograd_of_forward(layer, key, torch):
    with portnet.use_backend("torch", dtype="float64"):
        x = portnet.asarray(np.random.default_rng(1).standard_normal((5, 6)))
        params = tree.map(lambda p: p + 0.1, portnet.init(layer, 6, seed=2))
        for array in (x, *tree.leaves(params)):
            array.requires_grad_()
        y, cache = layer.forward(params, x, key)
        dy = portnet.asarray(np.random.default_rng(2).standard_normal(tuple(y.shape)))
        (y * dy).sum().backward()
        grads, dx = layer.backward(params, cache, dy)
    pairs = [
        (dx, x.grad),
        *zip(tree.leaves(grads), [p.grad for p in tree.leaves(params)], strict=True),
    ]
    for actual, reference in pairs:
        np.testing.assert_allclose(actual.detach(), reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", CASES, ids=repr)
def test_layers_are_hashable_comparable_and_picklable(layer):
    copy = pickle.loads(pickle.dumps(layer))
    assert copy == layer
    assert hash(copy) == hash(layer)
    assert type(layer).__name__ in repr(layer)


def test_chain_gives_every_layer_a_separate_key(xp):
    x = xp.asarray(np.ones((4, 50)))
    chain = layers.Chain([layers.Dropout(0.5), layers.Dropout(0.5)])
    _, (first, second) = chain.forward(((), ()), x, rng.key(0, 0))
    assert (xp.numpy(first) != xp.numpy(second)).any()


def test_dropout_keeps_the_mean_and_is_the_identity_in_inference(xp):
    layer, x = layers.Dropout(0.3), xp.asarray(np.ones((200, 100)))
    y, _ = layer.forward((), x, rng.key(1, 0))
    host = xp.numpy(y)
    assert abs((host == 0).mean() - 0.3) < 0.01
    np.testing.assert_allclose(host[host != 0], 1 / 0.7, rtol=1e-6)
    assert layer.forward((), x)[0] is x


def test_mlp_has_the_documented_layers_and_weights():
    net = layers.mlp([6, 5, 4, 3], ["relu", "tanh"], dropout=0.1, norm="layer")
    kinds = [type(layer).__name__ for layer in net.layers]
    hidden = ["Dense", "LayerNorm", "{}", "Dropout"]
    expected = [k.format(f) for f in ("ReLU", "Tanh") for k in hidden]
    assert kinds == [*expected, "Dense"]
    assert [layer.weights for layer in net.layers if isinstance(layer, layers.Dense)] == [
        "he_normal",
        "glorot_uniform",
        "glorot_uniform",
    ]
    assert layers.mlp([3, 2]).layers == (layers.Dense(2),)
    for name in layers.ACTIVATIONS:  # He's weights for activations that turn half of the units off
        saturates = name in ("identity", "sigmoid", "tanh")
        first = layers.mlp([3, 4, 2], name).layers[0]
        assert first.weights == ("glorot_uniform" if saturates else "he_normal"), name
    assert layers.mlp([3, 4, 2], weights="zeros").layers[0].weights == "zeros"
    assert layers.mlp([3, 4, 2], activation=layers.LeakyReLU(0.2)).layers[1].slope == 0.2


def test_shape_errors_name_the_layer_and_its_position():
    net = layers.Chain([layers.Dense(8), layers.ReLU(), layers.Dense(3)])
    params = portnet.init(net, 5)
    narrow = (params[0], (), portnet.init(layers.Dense(3), 7))
    with pytest.raises(
        portnet.ShapeError,
        match=r"^layers\[2\] Dense\(3\): expected x of shape \(rows, 7\), got \(12, 8\)$",
    ):
        net.forward(narrow, np.zeros((12, 5), "float32"))
    nested = layers.Chain([layers.Identity(), net])
    with pytest.raises(portnet.ShapeError, match=r"^layers\[1\]\.layers\[0\] Dense\(8\): expected"):
        nested.forward(((), params), np.zeros((12, 4), "float32"))
    with pytest.raises(portnet.ShapeError, match=r"layers\[0\] Residual: expected a layer with 6"):
        layers.Chain([layers.Residual(layers.Dense(3))]).init(rng.generator(0), 6)
    with pytest.raises(portnet.ShapeError, match="expected parameters of 3 layers, got 2"):
        net.forward(params[:2], np.zeros((1, 5), "float32"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: layers.Dense(0), ValueError, r"Dense: n_out: expected an integer of at least 1"),
        (lambda: layers.Dense(2.5), ValueError, "got 2.5"),
        (lambda: layers.Dense(2, weights="he_norm"), ValueError, "did you mean 'he_normal'"),
        (lambda: layers.LeakyReLU(1.5), ValueError, "LeakyReLU: expected 0 <= slope < 1, got 1.5"),
        (lambda: layers.Dropout(1.0), ValueError, "Dropout: expected 0 <= rate < 1"),
        (lambda: layers.LayerNorm(eps=0), ValueError, "LayerNorm: expected eps > 0"),
        (lambda: layers.mlp([4]), ValueError, "at least two sizes"),
        (lambda: layers.mlp([4, 0, 2]), ValueError, "mlp: a size: expected an integer"),
        (lambda: layers.mlp([4, 3, 2], "rellu"), ValueError, "did you mean 'relu'"),
        (lambda: layers.mlp([4, 3, 2], ["relu", "relu"]), ValueError, "each of 1 hidden layers"),
        (lambda: layers.mlp([4, 3, 2], norm="layr"), ValueError, "did you mean 'layer'"),
        (
            lambda: layers.Chain([layers.ReLU]),
            TypeError,
            r"layers\[0\] of a Chain.*write it with \(\)",
        ),
        (lambda: layers.Chain([3]), TypeError, "with init, forward, backward, got 3"),
        (
            lambda: layers.Chain(layers.ReLU()),
            TypeError,
            "Chain: expected a list of layers, got ReLU",
        ),
        (lambda: layers.Residual(layers.ReLU), TypeError, "the layer of a Residual.*write it with"),
        (lambda: layers.LeakyReLU("a"), ValueError, "LeakyReLU: expected 0 <= slope < 1, got 'a'"),
        (lambda: layers.Dense(3, np.eye(3)), ValueError, "unknown initialiser"),
        (lambda: layers.mlp([3, 2], weights=np.eye(3)), ValueError, "unknown initialiser"),
        (lambda: layers.mlp([5]), ValueError, "mlp: expected at least two sizes"),
        (
            lambda: layers.mlp(4, 8, 2),
            TypeError,
            r"mlp: expected a list of sizes, inputs first and outputs last, such as mlp\(\[4, 8, 2\]\), "
            r"got mlp\(4, 8, 2\)",
        ),
        (
            lambda: layers.Dense(8, 4),
            TypeError,
            r"Dense\(8, 4\): the inputs come from the data, so write Dense\(4\)",
        ),
        (lambda: layers.mlp(np.eye(3)), ValueError, "mlp: a size: expected an integer"),
        (
            lambda: layers.mlp([3, 3, 2], dropout=None),
            ValueError,
            "Dropout: expected 0 <= rate < 1",
        ),
        (
            lambda: portnet.init(layers.Dense(3, lambda g, n, m: np.zeros((m, n))), 2),
            ValueError,
            r"Dense\(3\): expected W of shape \(2, 3\), got \(3, 2\)",
        ),
        (lambda: portnet.init(layers.Dense(3)), ValueError, "expected n_in"),
        (lambda: portnet.init(layers.mlp([4, 2]), 5), ValueError, "expected 4 features, got 5"),
    ],
)
def test_bad_options_raise(make, error, message):
    with pytest.raises(error, match=message):
        make()


# dparams: backward without dx --------------------------------------------------------------------

FIRST_LAYERS = {
    "dense": [portnet.Dense(4)],
    "norm": [portnet.LayerNorm(), portnet.Dense(4)],
    "dropout": [portnet.Dropout(0.3), portnet.Dense(4)],
    "activation": [portnet.Tanh(), portnet.GELU(), portnet.Dense(4)],
    "nested": [portnet.Chain([portnet.Chain([portnet.Dense(4), portnet.ReLU()]), portnet.Tanh()])],
    "nested without parameters": [portnet.Chain([portnet.ReLU()]), portnet.Dense(4)],
    "residual": [portnet.Residual(portnet.Chain([portnet.Tanh(), portnet.Dense(5)]))],
    "no parameters": [],
}


@pytest.mark.parametrize("rest", [[], [portnet.ReLU(), portnet.LayerNorm(), portnet.Dense(2)]])
@pytest.mark.parametrize("name", FIRST_LAYERS)
def test_dparams_are_those_of_backward(name, rest, xp):
    net = portnet.Chain([*FIRST_LAYERS[name], *rest, portnet.Softplus()])
    draw = np.random.default_rng(0)
    params = xp.tree(net.init(draw, 5)[0])
    x = xp.asarray(draw.standard_normal((6, 5)))
    y, cache = net.forward(params, x, rng.key(0, 0))
    dy = xp.asarray(draw.standard_normal(y.shape))
    expected, dx = net.backward(params, cache, dy)
    assert dx.shape == x.shape
    found = dparams_of(net, params, cache, dy)
    assert tree.paths(found) == tree.paths(expected) == tree.paths(params)
    for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(xp.numpy(a), xp.numpy(b))


def test_dparams_of_the_first_layer_with_parameters_need_no_dx():
    class Counted(portnet.Dense):
        calls = 0

        def backward(self, params, cache, dy):
            Counted.calls += 1
            return super().backward(params, cache, dy)

        def dparams(self, params, cache, dy):
            return super().dparams(params, cache, dy)

    class Activation(portnet.Tanh):
        def backward(self, params, cache, dy):
            raise AssertionError("nothing before the first parameters is needed")

    net = portnet.Chain([Activation(), Counted(3), portnet.ReLU(), Counted(3)])
    params, x = net.init(np.random.default_rng(0), 5)[0], np.ones((4, 5))
    y, cache = net.forward(params, x)
    dparams_of(net, params, cache, y)
    assert Counted.calls == 1, "only the second Dense computes its dx"


def test_a_subclass_with_its_own_backward_does_not_inherit_dparams():
    class Halved(portnet.Dense):
        def backward(self, params, cache, dy):
            dparams, dx = super().backward(params, cache, dy)
            return tree.map(lambda g: 0.5 * g, dparams), dx

    class Again(Halved):
        pass

    params, x = portnet.Dense(3).init(np.random.default_rng(0), 5)[0], np.ones((4, 5))
    y, cache = portnet.Dense(3).forward(params, x)
    whole = dparams_of(portnet.Dense(3), params, cache, y)
    for layer in (Halved(3), Again(3), portnet.Residual(Halved(5))):
        found = dparams_of(layer, params, cache, y)
        np.testing.assert_array_equal(found["W"], 0.5 * whole["W"])


def test_a_layer_with_a_replaced_backward_does_not_use_dparams():
    layer = portnet.Dense(3)
    object.__setattr__(layer, "backward", lambda params, cache, dy: ({"W": 7.0}, None))
    assert dparams_of(layer, {}, None, np.ones(1)) == {"W": 7.0}


def test_dparams_of_a_layer_whose_backward_returns_no_pair():
    class Wrong(portnet.Tanh):
        def backward(self, params, cache, dy):
            return dy

    with pytest.raises(TypeError, match="expected backward to return dparams, dx"):
        dparams_of(Wrong(), (), None, np.ones(1))
