"""Trainer.fit: resuming, sample weights, kinds of data."""

import pickle
import threading

import numpy as np
import pytest
from custom import Square
from fits import (
    LABELS,
    MONITORING,
    NAMES,
    NET,
    NOISE,
    RESUME_CASES,
    RNG,
    XV,
    X,
    assert_equal,
    assert_near,
    assert_same_run,
    classifier,
    host,
    trainer,
)

import portnet
from portnet import tree

# Resuming a run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESUME_CASES)
def test_resuming_10_of_20_epochs_equals_an_uninterrupted_run(name):
    optimizer, network = RESUME_CASES[name]
    t = trainer(optimizer=optimizer, model=portnet.mlp([5, 8, 3], **network))
    options = dict(MONITORING)
    if name == "lbfgs":
        t, options = trainer(optimizer=portnet.LBFGS(gtol=1e-7, ftol=0)), {"validation": 0.2}
    whole = t.fit(X, LABELS, epochs=20, **options)
    half = t.fit(X, LABELS, epochs=10, **options)
    again = half.fit(X, LABELS, epochs=10, **options)
    assert whole.epoch == 20
    assert_same_run(again, whole)
    at_half, at_end = (host(r.params if r._last is None else r._last)[0] for r in (half, whole))
    assert (at_half != at_end).any()
    assert half.epoch == 10  # the earlier run did not change
    if name != "lbfgs":
        assert whole.history["scale"][-1] < 1
        assert 1 <= whole.best_epoch <= 20


def test_resuming_on_other_backends_equals_an_uninterrupted_run(other_xp):
    t = trainer(model=portnet.mlp([5, 8, 3], dropout=0.3))
    whole = t.fit(X, LABELS, epochs=4, validation=0.2, metrics=["accuracy"])
    again = t.fit(X, LABELS, epochs=2, validation=0.2, metrics=["accuracy"])
    with portnet.use_backend("numpy"):  # a run keeps its backend
        again = again.fit(X, LABELS, epochs=2, validation=0.2)
    assert_same_run(again, whole)


def test_resuming_with_optax_equals_an_uninterrupted_run(jax):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    with portnet.use_backend("jax", dtype="float64"):
        t = trainer(optimizer=optax.adam(optax.cosine_decay_schedule(0.01, 40)))
        whole = t.fit(X, LABELS, epochs=4, reduce_on_plateau=True)
        again = t.fit(X, LABELS, epochs=2, reduce_on_plateau=True)
        assert_same_run(again.fit(X, LABELS, epochs=2, reduce_on_plateau=True), whole)


def test_resuming_a_pickled_run_equals_an_uninterrupted_run():
    whole = trainer().fit(X, LABELS, epochs=4, **MONITORING)
    half = pickle.loads(pickle.dumps(trainer().fit(X, LABELS, epochs=2, **MONITORING)))
    assert_same_run(half.fit(X, LABELS, epochs=2, **MONITORING), whole)


def test_resuming_one_run_twice_gives_equal_runs():
    """Resuming one run twice gives equal runs, and changes no history of another run."""
    start = trainer().fit(X, LABELS, epochs=2)
    a, b = (start.fit(X, LABELS, epochs=2) for _ in range(2))
    assert_same_run(a, b)
    assert len(start.history["loss"]) == 2
    early = next(trainer().epochs(X, LABELS, epochs=3))
    assert early.fit(X, LABELS, epochs=1).history["loss"] == start.history["loss"]


def test_resume_with_another_trainer_continues_params_and_history():
    first = trainer().fit(X, LABELS, epochs=3)
    same = trainer().fit(X, LABELS, epochs=2, resume=first)
    assert_same_run(same, trainer().fit(X, LABELS, epochs=5))
    slower = trainer(optimizer=portnet.Adam(1e-9), batch_size=32)
    run = slower.fit(X, LABELS, epochs=2, resume=first)
    assert run.trainer is slower
    assert len(run.history["loss"]) == 5
    assert_near(run.params, first.params, 1e-6)
    assert run.history["loss"][-1] != first.history["loss"][-1]


def test_metrics_not_computed_in_an_epoch_are_nan_in_the_history():
    run = trainer().fit(X, LABELS, epochs=1, metrics=["accuracy"])
    run = run.fit(X, LABELS, epochs=1)
    assert list(run.history) == ["loss", "accuracy"]
    run = run.fit(X, LABELS, epochs=1, validation=(XV, NOISE), metrics=[])
    nan = run.history["accuracy"][2], *run.history["validation_loss"][:2]
    assert np.isnan(nan).all()
    assert {len(numbers) for numbers in run.history.values()} == {3}
    assert np.isfinite(run.history["loss"]).all()


def test_resume_with_other_features_optimizer_or_model_raises():
    run = trainer().fit(X, LABELS, epochs=1)
    with pytest.raises(portnet.DataError, match="X: expected 5 features, got 4"):
        run.fit(X[:, :4], LABELS)
    with pytest.raises(
        ValueError, match=r"trained with Adam, whose state does not fit Momentum\. To"
    ):
        trainer(optimizer="momentum").fit(X, LABELS, resume=run)
    chained = trainer(optimizer=portnet.chain(portnet.ClipNorm(1.0), portnet.Adam()))
    with pytest.raises(ValueError, match=r"does not fit chain\(ClipNorm, Adam\)"):
        chained.fit(X, LABELS, resume=run)
    with pytest.raises(
        portnet.DataError, match=r"params\[0\]\['W'\]: expected shape \(5, 9\), got"
    ):
        trainer(model=portnet.mlp([5, 9, 3])).fit(X, LABELS, resume=run)
    with pytest.raises(TypeError, match="resume: expected a run that fit returned, or the path"):
        trainer().fit(X, LABELS, resume=3)
    with pytest.raises(ValueError, match="resume=True goes on from the checkpoint: give"):
        trainer().fit(X, LABELS, resume=True)


def test_resume_with_another_optax_optimizer_raises(jax):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    with portnet.use_backend("jax", dtype="float64"):
        run = trainer(optimizer=optax.adam(0.01)).fit(X, LABELS, epochs=1)
        for other in (optax.sgd(0.1), optax.adagrad(0.1)):
            with pytest.raises(ValueError, match="resume: the optimizer's state does not fit"):
                trainer(optimizer=other).fit(X, LABELS, resume=run)


def test_resuming_one_run_differently_keeps_histories_separate():
    """Each has its own history, in either order."""
    start = trainer().fit(X, LABELS, epochs=2)
    slow = trainer(optimizer=portnet.Adam(1e-6)).fit(X, LABELS, epochs=2, resume=start)
    numbers = slow.history["loss"]
    fast = start.fit(X, LABELS, epochs=2)
    assert fast.history == trainer().fit(X, LABELS, epochs=4).history
    assert slow.history["loss"] == numbers != fast.history["loss"]


def test_resumed_run_keeps_its_metrics():
    run = trainer().fit(X, LABELS, epochs=1, metrics=["accuracy"]).fit(X, LABELS, epochs=1)
    assert list(run.metrics) == ["accuracy"]
    assert run.history["accuracy"][1] == pytest.approx(run.evaluate(X, LABELS)["accuracy"])


# Sample weights and shards -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 96])
def test_sample_weight_of_a_custom_loss_equals_the_built_in_loss(batch_size):
    """The custom loss divides by the sum of weights of its batch, as in the guide."""

    def squares(pred, target, weight=None):
        w = np.ones(len(pred)) if weight is None else weight
        share = (w / max(w.sum(), 1e-300))[:, None]
        e = pred - target
        return (share * e * e / 2).sum(), share * e

    weight, y = np.where(np.arange(96) < 14, 0.0, np.arange(96) % 5), X @ np.arange(5.0)
    with portnet.use_backend("numpy", dtype="float64"):
        options = {"optimizer": portnet.SGD(0.01), "model": portnet.mlp([5, 1]), "shuffle": False}
        options["compile"] = False  # the loss reads the sum of the weights
        custom, built_in = (
            trainer(loss, batch_size=batch_size, **options).fit(
                X, y, epochs=3, sample_weight=weight
            )
            for loss in (squares, "squared_error")
        )
    assert_near(custom.params, built_in.params, 1e-12)
    np.testing.assert_allclose(custom.history["loss"], built_in.history["loss"], rtol=1e-12)


@pytest.mark.parametrize("loss", portnet.losses.LOSSES)
def test_weight_k_equals_k_copies_and_weight_0_is_ignored(loss):
    weight = np.arange(96) % 4
    copies = np.repeat(np.arange(96), weight)
    y = LABELS if loss == "softmax_cross_entropy" else np.eye(3)[LABELS]
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        with portnet.use_backend("numpy", dtype=dtype):
            t = trainer(loss, batch_size=None, optimizer=portnet.SGD(1e-3))
            a = t.fit(X, y, epochs=5, sample_weight=weight)
            b = t.fit(X[copies], y[copies], epochs=5)
        assert_near(a.params, b.params, tolerance)
        np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=tolerance)


def test_summed_shard_gradients_equal_the_whole_gradient(xp):
    """Gradients of summed losses over shards add up to the whole gradient, also with weights."""
    net = portnet.mlp([5, 8, 3], "tanh", norm="layer")
    params = portnet.init(net, seed=3)
    weight = RNG.uniform(0.5, 2, 96)
    loss = portnet.SoftmaxCrossEntropy(reduction="sum")

    def gradient(rows, loss):
        x, y, w = (xp.asarray(a[rows]) for a in (X, LABELS, weight))
        pred, cache = net.forward(params, x)
        return net.backward(params, cache, loss(pred, y, w)[1])[0]

    shards = [gradient(slice(i, j), loss) for i, j in ((0, 10), (10, 50), (50, 96))]
    mean = tree.map(lambda a, b, c: (a + b + c) / float(weight.sum()), *shards)
    whole = gradient(slice(0, 96), portnet.SoftmaxCrossEntropy())
    for a, b in zip(tree.leaves(mean), tree.leaves(whole), strict=True):
        xp.assert_close(a, xp.numpy(b))


# Data frames, tensors and dtypes -----------------------------------------------------------------


def test_polars_data_equal_numpy_data():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.DataFrame({f"x{j}": X[:, j] for j in range(5)})
    expected = trainer().fit(X, LABELS, epochs=2)
    assert_equal(trainer().fit(frame, polars.Series(LABELS), epochs=2).params, expected.params)
    named = trainer().fit(frame, polars.Series(NAMES[LABELS].tolist()), epochs=2)
    assert_equal(named.params, expected.params)
    with pytest.warns(UserWarning, match="X has feature names, but Run was fitted without"):
        answer = expected.predict(frame)
    np.testing.assert_array_equal(answer, expected.predict(X))


@pytest.mark.parametrize("given", ["torch", "jax"])
def test_tensors_train_on_the_backend_of_their_library(given, request):
    library = pytest.importorskip(given, reason=f"{given} is not installed")
    asarray = library.asarray if given == "torch" else library.numpy.asarray
    run = trainer().fit(asarray(X), asarray(LABELS), epochs=2)
    assert run.backend.name == given
    expected = trainer().fit(X, LABELS, epochs=2)
    assert_near(run.params, expected.params, 1e-4)


def test_data_are_moved_to_the_device_once(monkeypatch, backend_name):
    """X, y and weights go to the device before the first epoch only."""
    moved = []
    with portnet.use_backend(backend_name):
        real = portnet.backend.Backend.asarray

        def spy(self, x, dtype=None):
            if portnet.backend.is_host(x) and np.size(x) >= 96 * 5:
                moved.append(np.shape(x))
            return real(self, x, dtype)

        monkeypatch.setattr(portnet.backend.Backend, "asarray", spy)
        trainer().fit(X, LABELS, epochs=5, validation=(X[:96], LABELS[:96]), metrics=["log_loss"])
    assert moved == [(96, 5)] * 2


def test_float64_data_that_overflow_float32_raise():
    bad = X.copy()
    bad[3, 1] = 1e300
    for options in ({}, {"validation": (bad, LABELS)}):
        with pytest.raises(
            portnet.DataError, match=r"X: a value of 1e\+300 is too large for float32"
        ):
            trainer().fit(X if options else bad, LABELS, **options)
    with portnet.use_backend("numpy", dtype="float64"):
        trainer().fit(np.minimum(bad, 10), LABELS, epochs=1)


# Steps, epochs and seeds -------------------------------------------------------------------------


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
        portnet.Trainer(portnet.mlp([5, 4, 1]), loss, optimizer, 16).fit(X / 10, y, epochs=2)
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


# History, validation, epochs ---------------------------------------------------------------------


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


def test_infinite_validation_loss_is_in_the_history():
    trainer = portnet.Trainer(portnet.mlp([5, 1]), "squared_error")
    run = trainer.fit(X, LABELS, epochs=1, validation=(X * 1e25, LABELS))
    assert run.history["validation_loss"] == [np.inf]


def test_progress_bar_counts_a_ragged_last_batch(capsys):
    classifier(batch_size=40).fit(X, LABELS, epochs=2, progress=True)
    assert "6/6" in capsys.readouterr().err


# Backends, devices and threads -------------------------------------------------------------------


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


# Custom layers, losses, metrics and optimizers ---------------------------------------------------


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
