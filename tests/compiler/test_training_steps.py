"""Training steps of every layer, loss and optimizer, replayed a hundred times."""

from dataclasses import dataclass

import numpy as np
import pytest
from checking import Calls, a, arrays, assert_close, check_memory, copies, data, start
from custom import Square
from programs import snapshot

import portnet
from portnet import rng, tree
from portnet.backend import namespace
from portnet.engine.full_batch import _value_and_grad_of
from portnet.layers import ACTIVATIONS
from portnet.losses import LOSSES
from portnet.optimizers import OPTIMIZERS
from portnet.schedules import CosineDecay, ExponentialDecay, InverseDecay, StepDecay
from portnet.transforms import ClipNorm, WeightDecay, chain

MORE_OPTIMIZERS = {
    "clipped and decayed, cosine": chain(
        ClipNorm(0.5), WeightDecay(0.01, only="W"), portnet.Adam(CosineDecay(0.02, 80, warmup=9))
    ),
    "clipped updates": chain(portnet.RMSProp(0.01), ClipNorm(0.05)),
    "inverse": portnet.Nesterov(InverseDecay(0.02, 20, 0.5)),
    "step decay": portnet.SGD(StepDecay(0.05, 30)),
    "exponential": portnet.Momentum(ExponentialDecay(0.02, 50, 0.3)),
    "custom schedule": portnet.AdamW(lambda t: 0.01 / (1.0 + t), decay=0.1, only="W"),
}


def train(model, loss, optimizer, batches, dtype="float64", steps=100, rtol=1e-9):
    """Compare replayed steps, with parameters and state donated, with eager steps."""
    step = portnet.make_step(model, LOSSES[loss]() if isinstance(loss, str) else loss, optimizer)
    counted = Calls(step)
    compiled = portnet.compile(counted, donate=(0, 1))
    params, state = start(model, optimizer, dtype)
    replayed, replayed_state = copies((params, state))
    kept = []
    for i in range(steps):
        batch = batches[i % len(batches)]
        params, state, value = step(params, state, *batch)
        held = arrays(batch)
        before = snapshot(held)
        replayed, replayed_state, replayed_value = compiled(replayed, replayed_state, *batch)
        assert snapshot(held) == before
        kept.append((value, replayed_value))
    check_memory((replayed, replayed_state, replayed_value), held)
    assert counted.count == 2 * len({len(b[0]) for b in batches})
    values, replayed_values = np.array(kept).T
    np.testing.assert_allclose(replayed_values, values, rtol=rtol, atol=rtol)
    eager = (params, state)
    assert tree.paths(eager) == tree.paths((replayed, replayed_state))
    for path, p, q in zip(
        tree.paths(eager), tree.leaves(eager), tree.leaves((replayed, replayed_state)), strict=True
    ):
        assert p.dtype == q.dtype, path
        np.testing.assert_allclose(q, p, rtol=rtol, atol=rtol, err_msg=path)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", [*OPTIMIZERS, *MORE_OPTIMIZERS])
def test_100_replayed_steps_of_every_optimizer_equal_eager_steps(name):
    optimizer = MORE_OPTIMIZERS[name] if name in MORE_OPTIMIZERS else OPTIMIZERS[name]()
    x, y, _ = data("softmax_cross_entropy", 12)
    train(portnet.mlp([3, 8, 4], "tanh"), "softmax_cross_entropy", optimizer, [(x, y)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_100_replayed_steps_of_every_activation_equal_eager_steps(name):
    x, y, _ = data("squared_error", 10)
    net = portnet.mlp([3, 6, 5, 4], name, norm="layer")
    train(net, "squared_error", portnet.Adam(1e-2), [(x, y)])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_100_replayed_steps_of_every_loss_equal_eager_steps(name, weighted):
    x, y, w = data(name, 9)
    batch = (x, y, w) if weighted else (x, y)
    train(portnet.mlp([3, 6, 4], "silu"), name, portnet.Momentum(0.01), [batch])
    loss = LOSSES[name](reduction="sum")
    train(portnet.mlp([3, 6, 4], "silu"), loss, portnet.SGD(0.001), [batch], steps=20)


@pytest.mark.parametrize("how", ["never", "always"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_compiled_gradient_equals_finite_differences_of_compiled_loss(
    activation, loss, how, monkeypatch
):
    """The reference is the finite difference of the compiled loss."""
    monkeypatch.setenv("PORTNET_NATIVE", how)
    net = portnet.mlp([3, 6, 5, 4], activation, norm="layer")
    x, y, weight = data(loss, 7)
    v, unravel = tree.ravel(start(net, portnet.SGD())[0])
    fn = portnet.compile(_value_and_grad_of(net, LOSSES[loss]()))
    grad = fn(unravel(v), (x, y, weight))[1]
    draw = np.random.default_rng(2)
    for _ in range(3):
        d, h = draw.standard_normal(v.shape), 1e-5
        up, down = (float(fn(unravel(v + s * h * d), (x, y, weight))[0]) for s in (1, -1))
        np.testing.assert_allclose((up - down) / (2 * h), grad @ d, rtol=1e-6, atol=1e-8)
    assert len(fn._entries) == 1


def test_steps_with_label_smoothing_and_one_hot_targets_equal_eager():
    x, y, w = data("softmax_cross_entropy", 9)
    loss = portnet.SoftmaxCrossEntropy(label_smoothing=0.1)
    train(portnet.mlp([3, 6, 4]), loss, portnet.SGD(0.1), [(x, y)])
    train(portnet.mlp([3, 6, 4]), loss, portnet.SGD(0.1), [(x, np.eye(4)[y], w)])


def test_steps_with_all_weights_zero_equal_eager_steps():
    x, y, _ = data("huber", 5)
    train(portnet.mlp([3, 6, 4]), "huber", portnet.Adam(), [(x, y, np.zeros(5))], steps=5)


@pytest.mark.parametrize("loss", LOSSES)
def test_batches_of_several_lengths_equal_eager_steps(loss):
    batches = [data(loss, rows) for rows in (8, 5, 1)]
    train(portnet.mlp([3, 6, 4], "relu"), loss, portnet.Adam(1e-2), batches, steps=60)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_float32_steps_equal_eager_steps(optimizer):
    x, y, w = data("softmax_cross_entropy", 16, dtype="float32")
    net = portnet.mlp([3, 8, 4], "gelu")
    opt = OPTIMIZERS[optimizer]()
    train(net, "softmax_cross_entropy", opt, [(x, y, w)], "float32", steps=20, rtol=1e-3)


def test_custom_layers_losses_and_optimizers_equal_eager_steps():
    def quartic(pred, target, weight=None):
        xp = namespace(pred)
        e = pred - target
        value = xp.sum(e**4) / pred.shape[0]
        return value, 4.0 * e**3 / pred.shape[0]

    @dataclass(frozen=True)
    class Sign:
        lr: float

        def init(self, params):
            return {"n": np.zeros(())}

        def update(self, grads, state, params):
            u = tree.map(lambda g: -self.lr * namespace(g).sign(g), grads)
            return u, {"n": state["n"] + 1.0}

    @dataclass(frozen=True)
    class Scale:
        def init(self, rng, n_in):
            return {"s": np.ones((1, n_in))}, n_in

        def forward(self, params, x, key=None):
            return params["s"] * x, x

        def backward(self, params, cache, dy):
            xp = namespace(dy)
            ds = xp.sum(dy * cache, axis=-2, keepdims=True)
            return {"s": ds}, dy * params["s"]

    x, y, _ = data("squared_error", 7)
    net = portnet.Chain(
        [portnet.Residual(portnet.Dense(3)), portnet.Dense(5), Square(), Scale(), portnet.Dense(4)]
    )
    train(net, quartic, Sign(1e-3), [(x, y)])


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8])
def test_dropout_steps_use_the_same_masks_as_eager_steps(rate):
    """A key of arrays is an input of the plan; each key of Python ints has its own plan."""
    net = portnet.mlp([3, 16, 16, 4], dropout=rate)
    x, y, _ = data("squared_error", 8)
    step = portnet.make_step(net, LOSSES["squared_error"](), portnet.Adam(1e-2))
    compiled = portnet.compile(step, donate=(0, 1))
    for as_array in (True, False):
        eager = start(net, portnet.Adam(1e-2))
        replayed = copies(eager)
        for i in range(100 if as_array else 12):
            key = rng.Key(rng.key(0, i).salt, 8 * i)
            if as_array:
                key = rng.Key(*(np.array([[k]], "int32") for k in key))
            *eager, value = step(*eager, x, y, None, key)
            *replayed, replayed_value = compiled(*replayed, x, y, None, key)
            np.testing.assert_allclose(replayed_value, value, rtol=1e-9)
        for p, q in zip(tree.leaves(eager), tree.leaves(replayed), strict=True):
            np.testing.assert_allclose(q, p, rtol=1e-9, atol=1e-12)


def test_mask_of_a_key_of_arrays_equals_the_eager_mask():
    def fn(x, salt, first):
        return rng.keep_mask(rng.fold(rng.Key(salt, first), 3), x, 0.4)

    compiled = portnet.compile(fn)
    x = a(6, 5)
    for i in range(5):
        args = (x, np.array([[12345 * i - 7]], "int32"), np.array([[100 * i]], "int32"))
        np.testing.assert_array_equal(compiled(*args), fn(*args))


def test_steps_with_scale_and_keyword_arguments_equal_eager_steps():
    net, loss = portnet.mlp([3, 6, 4]), LOSSES["huber"]()
    x, y, w = data("huber", 6)
    step = portnet.make_step(net, loss, portnet.Adam(1e-2))
    compiled = portnet.compile(step, donate=(0, 1))
    eager = start(net, portnet.Adam(1e-2))
    replayed = copies(eager)
    for i in range(6):
        scale = np.array(1.0 / (i + 1))
        *eager, value = step(*eager, x, y, weight=w, scale=scale)
        *replayed, replayed_value = compiled(*replayed, x, y, weight=w, scale=scale)
        np.testing.assert_allclose(replayed_value, value, rtol=1e-12)
    assert_close(replayed, eager)


def test_step_that_takes_the_rows_of_its_batch_equals_eager():
    """As compiled by Trainer: the step takes the rows of its batch itself."""
    net, loss, opt = portnet.mlp([3, 6, 4]), LOSSES["softmax_cross_entropy"](), portnet.Adam(1e-2)
    step = portnet.make_step(net, loss, opt)
    X, y, _ = data("softmax_cross_entropy", 40)

    def batch_step(params, state, X, y, rows):
        xp = namespace(X)
        return step(params, state, xp.take(X, rows, axis=0), xp.take(y, rows, axis=0))

    compiled = portnet.compile(batch_step, donate=(0, 1))
    eager = start(net, opt)
    replayed = copies(eager)
    order = rng.order(0, 0, 40)
    for i in range(0, 40, 8):
        *eager, _ = batch_step(*eager, X, y, order[i : i + 8])
        *replayed, _ = compiled(*replayed, X, y, order[i : i + 8])
    assert_close(replayed, eager)
