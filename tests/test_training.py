"""Trainer: steps, epochs, prediction, weights, devices, divergence and custom parts."""

import os
import pickle
import re
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from counting import Counting, conversions
from custom import Square

import portnet
from portnet import tree
from portnet.training import make_step

RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 5))
CENTRES = RNG.standard_normal((3, 5)) * 2
LABELS = RNG.integers(0, 3, 96)
X = X + CENTRES[LABELS]
NET = portnet.mlp([5, 8, 3])


def classifier(**options):
    given = {"optimizer": "adam", "batch_size": 16, "seed": 1} | options
    return portnet.Trainer(given.pop("model", NET), "softmax_cross_entropy", **given)


def host(pytree):
    return [portnet.to_numpy(leaf) for leaf in tree.leaves(pytree)]


def assert_equal(a, b):
    for p, q in zip(host(a), host(b), strict=True):
        np.testing.assert_array_equal(p, q)


def assert_near(a, b, tolerance):
    for p, q in zip(host(a), host(b), strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)


# Steps, epochs and seeds ------------------------------------------------------------------------


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


def test_50_float64_steps_on_every_backend_equal_numpy(xp):
    if xp.float_name != "float64":
        pytest.skip(reason="this device has no float64")
    net = portnet.mlp([5, 16, 3], "tanh", dropout=0.1, norm="layer")
    with portnet.use_backend("numpy", dtype="float64"):
        expected = classifier(model=net).fit(X[:80], LABELS[:80], epochs=10)
    run = classifier(model=net).fit(X[:80], LABELS[:80], epochs=10)
    assert_near(run.params, expected.params, 1e-12)
    np.testing.assert_allclose(run.history["loss"], expected.history["loss"], rtol=1e-12)


def test_one_float32_step_on_every_backend_equals_numpy(xp):
    with portnet.use_backend("numpy"):
        expected = classifier(batch_size=None).fit(X, LABELS, epochs=1)
    with portnet.use_backend(xp.name, device=xp.device):
        run = classifier(batch_size=None).fit(X, LABELS, epochs=1)
    for leaf in tree.leaves(run.params):
        assert str(leaf.dtype).endswith("float32")
    assert_near(run.params, expected.params, 1e-5)


def test_fits_with_equal_seeds_are_equal_and_with_others_differ(xp):
    runs = [classifier(seed=s).fit(X, LABELS, epochs=2) for s in (1, 1, 2)]
    assert_equal(runs[0].params, runs[1].params)
    assert runs[0].history == runs[1].history
    assert (host(runs[0].params)[0] != host(runs[2].params)[0]).any()


def test_seed_sets_initial_weights_order_and_dropout_masks():
    start, _ = NET.init(np.random.default_rng(0), 5)
    dropping = portnet.mlp([5, 8, 3], dropout=0.5)
    given = start[0], (), (), start[2]
    for options in (
        {"epochs": 0},  # initial weights
        {"epochs": 1, "params": start},  # order of the rows
        {"epochs": 1, "params": given, "model": dropping, "batch_size": None},  # dropout masks
    ):
        epochs = options.pop("epochs")
        one, two = (
            classifier(seed=seed, **options).fit(X, LABELS, epochs=epochs) for seed in (1, 2)
        )
        assert (host(one.params)[0] != host(two.params)[0]).any(), options


def test_losses_and_optimizers_by_name_object_or_function_are_equal():
    def half_squares(pred, target, weight=None):
        e = pred - target
        return 0.5 * (e * e).sum() / len(e), e / len(e)

    y = X @ np.arange(5.0)
    runs = [
        portnet.Trainer(portnet.mlp([5, 4, 1]), loss, optimizer, 16).fit(X, y, epochs=2)
        for loss, optimizer in [
            ("squared_error", "sgd"),
            (portnet.SquaredError(), portnet.SGD()),
            (half_squares, portnet.SGD(0.1)),
        ]
    ]
    assert_near(runs[0].params, runs[1].params, 0)
    assert_near(runs[0].params, runs[2].params, 1e-6)


def test_training_lowers_every_loss():
    draw = np.random.default_rng(3)
    z = draw.standard_normal((400, 4))
    signal = z[:, :2] @ [[1.0, -0.5], [0.5, 1.0]]
    kinds = {
        "squared_error": signal,
        "absolute_error": signal,
        "huber": signal,
        "poisson": draw.poisson(np.exp(signal)),
        "sigmoid_cross_entropy": (signal > 0).astype(int),
        "softmax_cross_entropy": (signal[:, 0] > 0).astype(int),
    }
    for loss, y in kinds.items():
        run = portnet.Trainer(portnet.mlp([4, 16, 2]), loss, portnet.Adam(0.01), 32).fit(
            z, y, epochs=30
        )
        first, last = run.history["loss"][0], run.history["loss"][-1]
        assert last < (0.97 if loss == "poisson" else 0.5) * first, (loss, first, last)


# Prediction -------------------------------------------------------------------------------------


def test_predict_proba_and_predict_class_agree_with_accuracy(xp):
    metrics = ["accuracy"] if argmax_works(xp) else []
    run = classifier(optimizer=portnet.Adam(0.01)).fit(X, LABELS, epochs=15, metrics=metrics)
    proba = run.predict_proba(X)
    assert isinstance(proba, np.ndarray)
    assert proba.shape == (96, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(proba, run.predict(X))
    if argmax_works(xp):
        classes = run.predict_class(X)
        np.testing.assert_array_equal(classes, proba.argmax(axis=1))
        accuracy = (classes == LABELS).mean()
        assert accuracy > 0.8
        assert run.history["accuracy"][-1] == pytest.approx(accuracy, rel=1e-5)
        assert run.evaluate(X, LABELS)["accuracy"] == pytest.approx(accuracy, rel=1e-5)


def argmax_works(xp):
    return xp.id != "strict-no_x64"  # array-api-strict 2.6.1: argmax makes int64 there


def test_predictions_are_in_the_library_of_the_input(other_xp):
    run = classifier().fit(X, LABELS, epochs=1)
    x = other_xp.asarray(X[:4])
    for method in (run.predict, run.predict_proba, run.predict_class):
        assert portnet.get_backend().holds(method(x))
        assert isinstance(method(X[:4]), np.ndarray)
        assert isinstance(method(X[:4].tolist()), np.ndarray)


def test_pickled_run_predicts_and_evaluates_equally(xp):
    if xp.name == "array_api_strict":
        pytest.skip(reason="array-api-strict 2.6.1: its arrays cannot be pickled")
    run = classifier().fit(X, LABELS, epochs=1, metrics=["accuracy"])
    copy = pickle.loads(pickle.dumps(run))
    np.testing.assert_array_equal(copy.predict(X), run.predict(X))
    assert copy.backend == run.backend
    assert copy.history == run.history
    assert copy.evaluate(X, LABELS) == run.evaluate(X, LABELS)


def test_predict_class_of_binary_and_multilabel_targets():
    one = portnet.Trainer(portnet.mlp([5, 4, 1]), "sigmoid_cross_entropy").fit(
        X, LABELS == 0, epochs=2
    )
    assert one.predict_class(X).shape == (96,)
    np.testing.assert_array_equal(one.predict_class(X), one.predict(X) >= 0.5)
    many = portnet.Trainer(portnet.mlp([5, 4, 3]), "sigmoid_cross_entropy").fit(
        X, np.eye(3)[LABELS], epochs=2, metrics=["label_accuracy"]
    )
    assert many.predict_class(X).shape == (96, 3)
    share = (many.predict_class(X) == np.eye(3)[LABELS]).mean()
    assert many.history["label_accuracy"][-1] == pytest.approx(share)


def test_poisson_prediction_is_the_exponential_of_the_output():
    run = portnet.Trainer(portnet.mlp([5, 4, 1]), "poisson").fit(X, LABELS, epochs=1)
    raw, _ = NET.__class__.forward(run.trainer.model, run.params, X.astype("float32"))
    np.testing.assert_allclose(run.predict(X), np.exp(raw)[:, 0], rtol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 95, 96, 97])  # 95 leaves one row to the last block
def test_prediction_in_blocks_equals_prediction_at_once(block, monkeypatch):
    with portnet.use_backend("numpy", dtype="float64"):  # float32 products round by shape
        run = classifier().fit(X, LABELS, epochs=1)
    whole, numbers = run.predict(X), run.evaluate(X, LABELS)
    monkeypatch.setattr(portnet.run, "_BLOCK", block)
    np.testing.assert_allclose(run.predict(X), whole, rtol=1e-12)
    assert run.evaluate(X, LABELS) == pytest.approx(numbers, rel=1e-12)


def test_dropout_is_off_in_prediction_and_on_in_training():
    net = portnet.mlp([5, 64, 3], dropout=0.5)
    run = classifier(model=net, optimizer=portnet.SGD(1e-12), batch_size=None).fit(
        X, LABELS, epochs=3
    )
    without, (dense, _, _, out) = portnet.mlp([5, 64, 3]), run.params
    plain = classifier(model=without, params=(dense, (), out)).fit(X, LABELS, epochs=0)
    np.testing.assert_array_equal(run.predict(X), plain.predict(X))
    assert run.evaluate(X, LABELS) == plain.evaluate(X, LABELS)
    np.testing.assert_array_equal(run.predict(X), run.predict(X))
    # The parameters hardly move, so the losses differ by the masks, and from inference.
    losses = [*run.history["loss"], run.evaluate(X, LABELS)["loss"]]
    assert len({round(loss, 6) for loss in losses}) == 4


# History, validation, epochs --------------------------------------------------------------------


def test_history_has_losses_and_validation_metrics():
    run = classifier().fit(
        X[:64], LABELS[:64], epochs=4, validation=(X[64:], LABELS[64:]), metrics=["accuracy"]
    )
    assert set(run.history) == {"loss", "validation_loss", "validation_accuracy"}
    assert {len(numbers) for numbers in run.history.values()} == {4}
    assert all(type(n) is float for numbers in run.history.values() for n in numbers)
    final = run.evaluate(X[64:], LABELS[64:])
    assert run.history["validation_loss"][-1] == pytest.approx(final["loss"])
    assert run.history["validation_accuracy"][-1] == pytest.approx(final["accuracy"])
    assert run.epoch == 4


def test_custom_metrics_are_in_the_history():
    def worst(mean, target, weight=None):
        return abs(mean - target).max()

    y = X @ np.arange(5.0)
    trainer = portnet.Trainer(portnet.mlp([5, 1]), "squared_error")
    run = trainer.fit(X, y, epochs=1, metrics=["r2", worst])
    expected = abs(run.predict(X) - y).max()
    assert run.history["worst"] == [pytest.approx(expected, rel=1e-5)]
    assert run.evaluate(X, y, metrics=["mean_absolute_error"]).keys() == {
        "loss",
        "mean_absolute_error",
    }


def test_epochs_iterator_can_be_left_and_its_runs_kept():
    kept = []
    for run in classifier().epochs(X, LABELS, epochs=50):
        kept.append(run)
        if run.epoch == 3:
            break
    whole = classifier().fit(X, LABELS, epochs=5)
    assert [len(r.history["loss"]) for r in kept] == [1, 2, 3]
    assert_equal(run.params, classifier().fit(X, LABELS, epochs=3).params)
    assert run.history["loss"] == whole.history["loss"][:3]
    assert (host(kept[0].params)[0] != host(kept[2].params)[0]).any()


def test_fit_changes_no_array_of_the_user():
    run = classifier().fit(X, LABELS, epochs=1)
    run.history["loss"].append(0.0)
    assert len(run.history["loss"]) == 1
    start = tree.map(lambda p: p.astype("float32"), NET.init(np.random.default_rng(0), 5)[0])
    held = classifier(params=start).fit(X, LABELS, epochs=0)
    kept = start[0]["W"][0, 0]
    start[0]["W"][0, 0] = 99.0
    assert held.params[0]["W"][0, 0] == kept
    before = tree.map(np.copy, start)
    x, y = X.astype("float32"), LABELS.copy()
    x.flags.writeable = y.flags.writeable = False
    trainer = classifier(params=start)
    trainer.fit(x, y, epochs=2)
    assert_equal(start, before)
    assert_equal(trainer.fit(x, y, epochs=0).params, before)


def test_training_starts_from_given_parameters(xp):
    start, _ = NET.init(np.random.default_rng(9), 5)
    run = classifier(params=start).fit(X, LABELS, epochs=0)
    for a, b in zip(tree.leaves(run.params), tree.leaves(start), strict=True):
        np.testing.assert_array_equal(xp.numpy(a), b.astype(xp.float_name))


def test_sample_weight_k_equals_k_copies_of_the_row():
    weight = np.arange(96) % 3
    copies = np.repeat(np.arange(96), weight)
    with portnet.use_backend("numpy", dtype="float64"):
        trainer = classifier(batch_size=None, optimizer="sgd")
        a = trainer.fit(X, LABELS, epochs=5, sample_weight=weight)
        b = trainer.fit(X[copies], LABELS[copies], epochs=5)
        assert_near(a.params, b.params, 1e-10)
        np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-10)
        held = trainer.fit(X, LABELS, epochs=1, validation=(X, LABELS, weight))
        assert held.history["validation_loss"][0] == pytest.approx(
            held.evaluate(X[copies], LABELS[copies])["loss"]
        )


def test_metrics_use_sample_weight():
    weight = np.arange(96) % 3
    copies = np.repeat(np.arange(96), weight)
    run = classifier().fit(X, LABELS, epochs=1)
    expected = run.evaluate(X[copies], LABELS[copies], metrics=["accuracy"])
    assert run.evaluate(X, LABELS, weight, metrics=["accuracy"]) == pytest.approx(expected)
    trained = classifier().fit(X, LABELS, epochs=1, sample_weight=weight, metrics=["accuracy"])
    again = trained.evaluate(X, LABELS, weight)
    assert trained.history["accuracy"][0] == pytest.approx(again["accuracy"])
    held = classifier().fit(
        X, LABELS, epochs=1, validation=(X, LABELS, weight), metrics=["accuracy"]
    )
    assert held.history["validation_accuracy"][0] == pytest.approx(expected["accuracy"])


def test_metrics_do_not_change_the_training_loss():
    plain, watched = (classifier().fit(X, LABELS, epochs=2, metrics=m) for m in ((), ["accuracy"]))
    assert plain.history["loss"] == watched.history["loss"]
    assert classifier().fit(X, LABELS, epochs=1, metrics=None).history.keys() == {"loss"}


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


def test_sample_weight_is_passed_to_a_custom_loss():
    class Squares:
        reduction = "mean"  # a plain class attribute, no dataclass field

        def __call__(self, pred, target, weight=None):
            e, share = pred - target, (weight / weight.sum())[:, None]
            return (share * e * e / 2).sum(), share * e

    weight, y = np.arange(96.0) % 3, X @ np.arange(5.0)
    options = {"optimizer": "sgd", "batch_size": None}
    with portnet.use_backend("numpy", dtype="float64"):
        custom, built_in = (
            portnet.Trainer(portnet.mlp([5, 1]), loss, **options).fit(
                X, y, epochs=3, sample_weight=weight
            )
            for loss in (Squares(), "squared_error")
        )
    assert_near(custom.params, built_in.params, 1e-10)


def test_epoch_loss_of_weighted_batches_equals_evaluate():
    weight = np.arange(96.0)
    with portnet.use_backend("numpy", dtype="float64"):
        trainer = classifier(optimizer=portnet.SGD(1e-15))
        run = trainer.fit(X, LABELS, epochs=1, sample_weight=weight)
        assert run.history["loss"][0] == pytest.approx(
            run.evaluate(X, LABELS, weight)["loss"], rel=1e-9
        )


def test_epoch_loss_of_a_summed_loss_is_the_sum():
    with portnet.use_backend("numpy", dtype="float64"):
        trainer = portnet.Trainer(
            NET, portnet.SoftmaxCrossEntropy(reduction="sum"), portnet.SGD(1e-15), batch_size=10
        )
        run = trainer.fit(X, LABELS, epochs=1)
        assert run.history["loss"][0] == pytest.approx(run.evaluate(X, LABELS)["loss"], rel=1e-9)


def test_progress_bar_counts_steps_and_is_off_without_a_terminal(capsys):
    classifier().fit(X, LABELS, epochs=2, progress=True)
    shown = capsys.readouterr().err
    assert "12/12" in shown
    classifier().fit(X, LABELS, epochs=2)  # stderr is no terminal here
    assert capsys.readouterr().err == ""


# Backends, devices and threads ------------------------------------------------------------------


def test_training_runs_on_the_backend_of_the_arrays(other_xp):
    x, y = other_xp.asarray(X), other_xp.asarray(LABELS)
    with portnet.use_backend("numpy", dtype="float64"):  # the default backend differs
        run = classifier().fit(x, y, epochs=1)
        assert run.backend.name == other_xp.name
        assert run.backend.holds(run.predict(x))
        lists = classifier().fit(x, LABELS.tolist(), epochs=1, validation=(X, LABELS))
    assert all(run.backend.holds(leaf) for leaf in tree.leaves((run.params, lists.params)))


def test_dataframes_and_lists_equal_arrays():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    expected = classifier().fit(X, LABELS, epochs=1)
    for x, y in [
        (X.tolist(), LABELS.tolist()),
        (pandas.DataFrame(X), pandas.Series(LABELS)),
    ]:
        assert_equal(classifier().fit(x, y, epochs=1).params, expected.params)


def test_torch_parameters_and_predictions_require_no_grad(torch):
    x = torch.tensor(X, dtype=torch.float32, requires_grad=True)
    run = classifier().fit(x, torch.tensor(LABELS), epochs=1)
    assert not any(leaf.requires_grad for leaf in tree.leaves(run.params))
    assert not run.predict(x).requires_grad


SCHEDULES = (
    portnet.Constant(0.1),
    portnet.StepDecay(0.1, 3),
    portnet.ExponentialDecay(0.1, 3),
    portnet.InverseDecay(0.1, 3),
    portnet.CosineDecay(0.1, 30, warmup=3),
)


@pytest.mark.parametrize(
    ("activation", "loss", "optimizer"),
    [
        *[(name, "softmax_cross_entropy", "adam") for name in portnet.layers.ACTIVATIONS],
        *[("gelu", name, "adam") for name in portnet.losses.LOSSES],
        *[("gelu", "softmax_cross_entropy", name) for name in portnet.optimizers.OPTIMIZERS],
        *[("gelu", "huber", portnet.SGD(rate)) for rate in SCHEDULES],
        ("gelu", "huber", portnet.chain(portnet.ClipNorm(0.1), portnet.AdamW(only="W"))),
        ("gelu", "huber", portnet.chain(portnet.WeightDecay(0.1), portnet.Nesterov(SCHEDULES[-1]))),
    ],
)
def test_host_synchronizations_do_not_grow_with_steps(activation, loss, optimizer):
    """The number of times the host asks for a value does not grow with the number of steps."""
    counts = {}
    y = LABELS if loss == "softmax_cross_entropy" else np.eye(3)[LABELS]
    net = portnet.mlp([5, 8, 3], activation, dropout=0.1, norm="layer")
    net = portnet.Chain([portnet.Residual(portnet.Dense(5)), net])
    for batch in (96, 32, 8):
        trainer = portnet.Trainer(net, loss, optimizer, batch_size=batch)
        weight = Counting(np.ones(96, "float32"))
        plateau = portnet.ReduceOnPlateau(patience=1, factor=0.5, min_change=1e9)
        runs = trainer.epochs(
            Counting(X / 100),
            Counting(y),
            epochs=5,
            sample_weight=weight,
            reduce_on_plateau=plateau,
            early_stopping=portnet.EarlyStopping("loss"),
        )
        for _ in range(3):  # data are checked before the first epoch
            scale = next(runs)._scale
        assert scale < 1
        conversions.clear()
        next(runs)
        counts[batch] = list(conversions)
    assert counts[96] == counts[32] == counts[8] == ["__array__"], counts


def test_counting_library_records_conversions():
    conversions.clear()
    x = Counting(1.0)
    assert float(x + 1) == 2.0
    assert conversions == ["__float__"]


def test_threads_train_concurrently_on_different_backends():
    expected, found = classifier().fit(X, LABELS, epochs=2), {}

    def train(name, dtype):
        with portnet.use_backend(name, dtype=dtype):
            found[name] = classifier().fit(X, LABELS, epochs=2)

    threads = [
        threading.Thread(target=train, args=args)
        for args in (("numpy", "float32"), ("array_api_strict", "float64"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_equal(found["numpy"].params, expected.params)
    assert found["array_api_strict"].backend.dtype == "float64"


def test_infinite_parameters_raise_divergence_error():
    y = X @ np.arange(5.0)
    trainer = portnet.Trainer(portnet.mlp([5, 1]), "squared_error", portnet.SGD(1e38), None)
    with pytest.raises(
        portnet.DivergenceError, match=r"the parameters stopped .* epoch 1, step 1\."
    ):
        trainer.fit(X, y, epochs=1)


def test_infinite_validation_loss_is_in_the_history():
    trainer = portnet.Trainer(portnet.mlp([5, 1]), "squared_error")
    run = trainer.fit(X, LABELS, epochs=1, validation=(X * 1e25, LABELS))
    assert run.history["validation_loss"] == [np.inf]


def test_mean_loss_of_many_steps_is_accurate():
    """200,000 losses of 0.1 have the mean 0.1: the sum is not float32."""
    net, ones = portnet.Identity(), np.full((200_000, 1), 1.0)
    run = portnet.Trainer(net, "absolute_error", batch_size=10).fit(ones, ones * 0.9, epochs=1)
    assert run.history["loss"][0] == pytest.approx(0.1, rel=1e-6)


# Divergence -------------------------------------------------------------------------------------


def test_divergence_error_names_epoch_and_step_and_has_the_run(xp):
    y = X @ np.arange(5.0)
    trainer = portnet.Trainer(
        portnet.mlp([5, 1]), "squared_error", portnet.SGD(1e3), batch_size=16, shuffle=False
    )
    # The reference: a loop that checks the loss after every step.
    start = trainer.fit(X, y, epochs=0)
    step = make_step(trainer.model, trainer.loss, trainer.optimizer)
    backend, params, state, number = start.backend, start.params, start.state, 0
    value, y2 = 0.0, y.reshape(-1, 1)
    with np.errstate(all="ignore"):
        while np.isfinite(value):
            rows = slice(16 * (number % 6), 16 * (number % 6) + 16)
            x, t = backend.asarray(X[rows]), backend.asarray(y2[rows])
            params, state, value = step(params, state, x, t)
            value, number = float(value), number + 1
    epoch, bad = divmod(number - 1, 6)
    with pytest.raises(portnet.DivergenceError, match="smaller learning rate") as caught:
        trainer.fit(X, y, epochs=1000)
    found = str(caught.value)
    # the sum of the epoch's losses may overflow a step or two before one of them does
    first = int(found.partition("step ")[2].partition(".")[0])
    assert f"epoch {epoch + 1}," in found
    assert bad - 1 <= first <= bad + 1
    before = caught.value.run
    assert before.epoch == epoch
    assert_equal(before.params, trainer.fit(X, y, epochs=epoch).params)


# Custom layers, losses, metrics and optimizers --------------------------------------------------


def test_custom_layer_and_optimizer_train():
    class SignDescent:
        def init(self, params):
            return ()

        def update(self, grads, state, params):
            return tree.map(lambda g: -0.01 * np.sign(g), grads), state

    net = portnet.Chain([portnet.Dense(8), Square(), portnet.Dense(3)])
    run = classifier(model=net, optimizer=SignDescent()).fit(X, LABELS, epochs=20)
    assert run.history["loss"][-1] < run.history["loss"][0]


def test_model_without_parameters_trains():
    run = portnet.Trainer(portnet.Identity(), "squared_error").fit(X, X, epochs=1)
    assert run.history["loss"] == [0.0]


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


def test_custom_loss_gets_integer_targets_as_floats():
    def squares(pred, target, weight=None):
        e = pred - target
        return 0.5 * (e * e).sum() / len(e), e / len(e)

    built_in = portnet.Trainer(portnet.mlp([5, 1]), "squared_error").fit(X, LABELS, epochs=2)
    custom = portnet.Trainer(portnet.mlp([5, 1]), squares).fit(X, LABELS, epochs=2)
    assert_near(built_in.params, custom.params, 1e-6)


def test_metrics_can_return_python_numbers(other_xp):
    def share(mean, target, weight=None):
        return 0.25

    run = classifier().fit(X, LABELS, epochs=1, metrics=[share, "accuracy"])
    assert run.history["share"] == [0.25]
    assert 0 <= run.history["accuracy"][0] <= 1


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


def test_progress_bar_counts_a_ragged_last_batch(capsys):
    classifier(batch_size=40).fit(X, LABELS, epochs=2, progress=True)
    assert "6/6" in capsys.readouterr().err


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


@pytest.mark.parametrize("bad", [0, 1, 5])
def test_divergence_error_names_the_first_bad_step(bad):
    """The rows of one step are huge, and the steps before it hardly change the parameters."""
    x, y = X.copy(), X @ np.arange(5.0)
    x[16 * bad : 16 * bad + 16] *= 1e30
    trainer = portnet.Trainer(
        portnet.mlp([5, 1]), "squared_error", portnet.SGD(1e-9), 16, shuffle=False
    )
    with pytest.raises(portnet.DivergenceError, match=rf"epoch 1, step {bad + 1}\."):
        trainer.fit(x, y, epochs=1)


def test_mean_of_an_inexact_loss_of_many_steps_is_accurate():
    """The losses are summed in float64: a float32 sum of 20,000 equal losses drifts."""
    net, ones = portnet.Identity(), np.ones((200_000, 1))
    run = portnet.Trainer(net, "absolute_error", batch_size=10).fit(ones, ones * 0.93, epochs=1)
    expected = float(np.float32(1) - np.float32(0.93))
    assert run.history["loss"][0] == pytest.approx(expected, rel=1e-6)


# train_epoch ------------------------------------------------------------------------------------


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


# Warnings and errors at the start of training ---------------------------------------------------


@dataclass(frozen=True)
class ConvertsToNumPy(Square):
    """A layer that converts its input to NumPy."""

    def forward(self, params, x, key=None):
        return np.asarray(x) ** 2, x


class ReturnsFloat64(Square):
    def forward(self, params, x, key=None):
        return x * x * np.float64(1), x


@pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: no step is compiled"
)
def test_compile_warning_names_the_layer_that_runs_eagerly():
    net = portnet.Chain([portnet.Dense(3), ConvertsToNumPy()])
    with pytest.warns(
        portnet.CompileWarning, match=r"np\.asarray\(x\), .*, in ConvertsToNumPy\.forward\)"
    ):
        portnet.Trainer(net, "squared_error").fit(X, X[:, :3], epochs=1)


def test_layer_that_changes_library_or_dtype_raises_and_is_named(torch):
    inner = portnet.Chain([portnet.Dense(3), ConvertsToNumPy()])
    net = portnet.Chain([inner, portnet.Dense(3)])
    message = (
        r"^layers\[0\] layers\[1\] ConvertsToNumPy\(\): expected forward to return a torch array on cpu of "
        r"dtype torch.float32, like x, got a numpy array on cpu of dtype float32"
    )
    with pytest.raises(TypeError, match=message):
        portnet.Trainer(net, "squared_error").fit(torch.asarray(X), torch.asarray(X[:, :3]))
    net = portnet.Chain([portnet.Dense(3), portnet.Residual(ConvertsToNumPy())])
    with pytest.raises(
        TypeError, match=r"^layers\[1\]\.layer ConvertsToNumPy\(\): expected forward to"
    ):
        portnet.Trainer(net, "squared_error").fit(torch.asarray(X), torch.asarray(X[:, :3]))
    net = portnet.Chain([portnet.Dense(3), ReturnsFloat64()])
    with pytest.raises(
        TypeError, match=r"^layers\[1\] ReturnsFloat64\(\): .* of dtype float32, like x, got"
    ):
        portnet.Trainer(net, "squared_error").fit(X, X[:, :3])


UNSCALED = X * np.array([1.0, 1, 4000, 1, 1])


@pytest.mark.parametrize(("loss", "outputs"), [("softmax_cross_entropy", 3), ("squared_error", 1)])
def test_unscaled_inputs_warn_once_and_name_the_column(loss, outputs):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    trainer = portnet.Trainer(portnet.mlp([5, 16, outputs]), loss, portnet.Adam(1e-5))
    with pytest.warns(UserWarning, match="the loss of the first epoch") as caught:
        run = trainer.fit(UNSCALED, LABELS, epochs=3, progress=False)
    (warning,) = caught
    reaches = f"column 2 of X reaches {abs(UNSCALED[:, 2]).max():.3g}, where networks want about 1"
    assert re.search(
        rf"is \S+, where outputs of 0 would have \S+\. {re.escape(reaches)}: scale the inputs",
        str(warning.message),
    )
    assert warning.filename == __file__
    run.fit(UNSCALED, LABELS, epochs=1, progress=False)  # no second warning
    if loss == "squared_error":
        with pytest.warns(UserWarning, match=r"where outputs of 0 would have 0\."):
            trainer.fit(UNSCALED, 0 * LABELS, epochs=1, progress=False)
    frame = pandas.DataFrame(UNSCALED, columns=list("abcde"))
    with pytest.warns(UserWarning, match=r"column 2 \('c'\) of X reaches"):
        trainer.fit(frame, LABELS, epochs=1, progress=False)


def test_custom_loss_is_not_called_with_outputs_of_zero():
    def loss(pred, target, weight=None):
        assert bool((pred != 0).any())
        d = pred - target
        return (d * d).sum() / len(d), 2 * d / len(d)

    trainer = portnet.Trainer(portnet.mlp([5, 1]), loss, portnet.SGD(1e-9), compile=False)
    run = trainer.fit(UNSCALED, 1000 * X[:, 0], epochs=1, progress=False)
    assert run.history["loss"][0] > 1000


def test_scaled_data_do_not_warn():
    for y, loss in ((LABELS, "softmax_cross_entropy"), (1000 * X[:, :3], "squared_error")):
        for x in (X, 9 * X, X / 100):
            portnet.Trainer(portnet.mlp([5, 16, 3]), loss).fit(x, y, epochs=1, progress=False)
