"""make_step and train_epoch: what a training step and an epoch are."""

import numpy as np
import pytest
from fits import LABELS, NET, X, assert_equal, assert_near, classifier, host

import portnet
from portnet import tree
from portnet.training import make_step


@pytest.mark.parametrize("batch_size", [None, 1, 40, 96, 1000])
def test_epoch_equals_a_loop_over_make_step(batch_size):
    """Full batches, single samples and a ragged last batch, compared with a loop over make_step."""
    net = portnet.mlp([5, 8, 3], dropout=0.2)
    with portnet.use_backend("numpy", dtype="float64"):
        trainer = classifier(model=net, batch_size=batch_size)
        start, run = trainer.fit(X, LABELS, epochs=0), trainer.fit(X, LABELS, epochs=2)
    step = make_step(net, trainer.loss, trainer.optimizer)
    params, state, losses = start.params, start.state, []
    for epoch in range(2):
        order = np.arange(96) if batch_size is None else portnet.rng.order(1, epoch, 96)
        size, total = batch_size or 96, 0.0
        for i in range(0, 96, size):
            rows, key = order[i : i + size], portnet.rng.key(1, epoch)._replace(first=i)
            params, state, value = step(params, state, X[rows], LABELS[rows], None, key)
            total += value * len(rows)
        losses.append(total / 96)
    assert_near(params, run.params, 1e-12)
    np.testing.assert_allclose(run.history["loss"], losses, rtol=1e-12)


def test_step_is_a_pure_function(xp):
    net = portnet.mlp([5, 4, 3], dropout=0.2, norm="layer")
    step = make_step(net, portnet.SoftmaxCrossEntropy(), portnet.Adam())
    draw = np.random.default_rng(0)
    params = xp.tree(net.init(draw, 5)[0])
    state = portnet.Adam().init(params)
    x, y = xp.asarray(X[:8]), xp.asarray(LABELS[:8])
    before = [xp.numpy(a).copy() for a in (*tree.leaves(params), *tree.leaves(state), x, y)]
    first = step(params, state, x, y, None, portnet.rng.key(0, 0))
    again = step(params, state, x, y, None, portnet.rng.key(0, 0))
    after = [xp.numpy(a) for a in (*tree.leaves(params), *tree.leaves(state), x, y)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(tree.leaves(first), tree.leaves(again), strict=True):
        np.testing.assert_array_equal(xp.numpy(a), xp.numpy(b))
        assert portnet.get_backend().holds(a)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "huber", "sigmoid_cross_entropy"])
def test_step_under_jax_jit_equals_the_eager_step(loss, jax):
    """A step reads no value, so JAX can trace it, including its key."""
    net = portnet.mlp([5, 4, 3], "gelu", dropout=0.2, norm="layer")
    with portnet.use_backend("jax", dtype="float64"):
        step = make_step(net, portnet.losses.LOSSES[loss](), portnet.Adam())
        params = portnet.init(net)
        y = LABELS[:8] if loss == "softmax_cross_entropy" else np.eye(3)[LABELS[:8]]
        x, y, w = portnet.asarray(X[:8]), portnet.asarray(y), portnet.asarray(np.arange(8.0))
        key = portnet.rng.key(0, 0)
        traced = portnet.rng.Key(*(portnet.asarray(np.array([[n]]), dtype="int32") for n in key))
        eager = step(params, portnet.Adam().init(params), x, y, w, key)
        jitted = jax.jit(step)(params, portnet.Adam().init(params), x, y, w, traced)
    assert_near(jitted, eager, 1e-13)


@pytest.mark.parametrize("batch_size", [1, 10])
def test_batch_step_divides_by_the_mean_of_all_weights(batch_size):
    """The gradient of a step is that of sum(w l) / (batch rows * mean of all weights)."""
    weight = np.random.default_rng(0).uniform(0, 3, 96)
    with portnet.use_backend("numpy", dtype="float64"):
        trainer = classifier(batch_size=batch_size, optimizer="sgd", shuffle=False)
        start = trainer.fit(X, LABELS, epochs=0)
        run = trainer.fit(X, LABELS, epochs=1, sample_weight=weight)
    loss = portnet.SoftmaxCrossEntropy(reduction="sum")
    step, params, state = make_step(NET, loss, trainer.optimizer), start.params, start.state
    for i in range(0, 96, batch_size):
        rows = slice(i, i + batch_size)
        w = weight[rows] / weight.mean() / len(X[rows])
        params, state, _ = step(params, state, X[rows], LABELS[rows], w)
    assert_near(params, run.params, 1e-12)


def test_weights_of_a_summed_loss_are_not_normalized():
    """The gradient of a step is that of sum(w l) over its rows, without division."""
    weight = np.random.default_rng(0).uniform(0, 3, 96)
    loss = portnet.SoftmaxCrossEntropy(reduction="sum")
    with portnet.use_backend("numpy", dtype="float64"):
        trainer = portnet.Trainer(NET, loss, portnet.SGD(1e-3), batch_size=10, shuffle=False)
        start = trainer.fit(X, LABELS, epochs=0)
        run = trainer.fit(X, LABELS, epochs=1, sample_weight=weight)
    step, params, state = make_step(NET, loss, trainer.optimizer), start.params, start.state
    total = 0.0
    for i in range(0, 96, 10):
        rows = slice(i, i + 10)
        params, state, value = step(params, state, X[rows], LABELS[rows], weight[rows])
        total += value
    assert_near(params, run.params, 1e-12)
    assert run.history["loss"] == [pytest.approx(total, rel=1e-12)]


def test_updates_of_another_structure_or_shape_raise():
    class Broken:
        def init(self, params):
            return ()

        def update(self, grads, state, params):
            return grads[:1], state

    with pytest.raises(ValueError, match="pytrees differ at the top"):
        classifier(optimizer=Broken()).fit(X, LABELS, epochs=1)

    class Wide(Broken):
        def update(self, grads, state, params):
            return tree.map(lambda g: g[None], grads), state

    with pytest.raises(portnet.ShapeError, match=r"expected an update of shape \(5, 8\)") as caught:
        classifier(optimizer=Wide()).fit(X, LABELS, epochs=1)
    leaf, whose = caught.value.__notes__
    assert leaf == "at leaf [0]['W'] of the pytree"
    assert whose.startswith("these are the updates of Wide")

    class WrongAxis(portnet.Dense):
        def backward(self, params, cache, dy):
            grads, dx = super().backward(params, cache, dy)
            return {**grads, "b": dy.sum(axis=-1, keepdims=True)}, dx

    net = portnet.Chain([WrongAxis(3)])
    with pytest.raises(portnet.ShapeError, match=r"of shape \(1, 3\) .*, got \(96, 3\)"):
        classifier(model=net, batch_size=None).fit(X, LABELS, epochs=1)


def test_updates_of_another_dtype_raise():
    class Wide:
        def init(self, params):
            return ()

        def update(self, grads, state, params):
            return tree.map(lambda g: -0.1 * g.astype("float64"), grads), state

    with pytest.raises(
        portnet.ShapeError, match=r"and dtype float32, like its parameter, got \(5, 8\) and float64"
    ):
        classifier(optimizer=Wide()).fit(X, LABELS, epochs=1)


def test_train_epoch_equals_an_epoch_of_trainer(xp):
    net, loss, adam = portnet.mlp([5, 8, 3], "tanh"), portnet.SoftmaxCrossEntropy(), portnet.Adam()
    options = {"batch_size": 16, "shuffle": False, "compile": False}
    run = portnet.Trainer(net, loss, adam, **options).fit(X, LABELS, epochs=2)
    step = make_step(net, loss, adam)
    x, labels = xp.asarray(X), xp.asarray(LABELS)
    params = portnet.init(net, like=x)
    state, before = adam.init(params), host(params)
    kept = params
    for epoch in range(2):
        batches = [(x[i : i + 16, ...], labels[i : i + 16, ...]) for i in range(0, 96, 16)]
        params, state, values = portnet.train_epoch(step, params, state, batches)
        assert len(values) == 6
        total = sum(float(v) * b[0].shape[0] for v, b in zip(values, batches, strict=True)) / 96
        assert run.history["loss"][epoch] == pytest.approx(total, rel=1e-5)
    for p, q in zip(host(params), host(run.params), strict=True):
        np.testing.assert_allclose(
            p, q, rtol=1e-12 if xp.float_name == "float64" else 1e-5, atol=1e-7
        )
    assert_equal(kept, before)
