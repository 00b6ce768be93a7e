"""Trainer.fit: resuming, sample weights, L-BFGS, kinds of data."""

import pickle

import numpy as np
import pytest
from fits import (
    LABELS,
    MONITORING,
    NAMES,
    NET,
    NOISE,
    RESUME_CASES,
    RNG,
    XV,
    SendsSIGINT,
    X,
    assert_equal,
    assert_near,
    assert_same_run,
    diverging,
    host,
    interrupted,
    trainer,
)

import portnet
from portnet import tree
from portnet.data import labels, split

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
    with pytest.raises(TypeError, match="resume: expected a run that fit returned, got True"):
        trainer().fit(X, LABELS, resume=True)


def test_lbfgs_resumed_with_other_data_resets_its_memory():
    """The memory of L-BFGS holds for one function: other data, weights or tolerances reset it."""
    t = trainer(optimizer="lbfgs", model=portnet.mlp([5, 3]))
    other = XV, NOISE
    noisy = np.r_[X, X], np.r_[LABELS, (LABELS + 1) % 3]  # otherwise the weights diverge
    with portnet.use_backend("numpy", dtype="float64"):
        for epochs in (2, 200):  # before it has converged, and after
            run = t.fit(*noisy, epochs=epochs).fit(*other, epochs=200)
            fresh = t.fit(*other, epochs=200)
            assert run.history["loss"][-1] == pytest.approx(run.evaluate(*other)["loss"])
            assert run.history["loss"][-1] == pytest.approx(fresh.history["loss"][-1], rel=1e-5)
        done = t.fit(*noisy, epochs=200)
        heavy = done.fit(*noisy, epochs=200, class_weight={1: 10.0})
        expected = t.fit(*noisy, epochs=200, class_weight={1: 10.0})
        assert heavy.history["loss"][-1] == pytest.approx(expected.history["loss"][-1], rel=1e-5)
        closer = portnet.Trainer(t.model, t.loss, portnet.LBFGS(gtol=1e-9, ftol=0))
        assert closer.fit(*noisy, epochs=200, resume=done).epoch > done.epoch
    assert done.stopped.startswith("converged")


def test_resuming_a_converged_lbfgs_run_does_not_train():
    t = trainer(optimizer="lbfgs", model=portnet.mlp([5, 3]))
    whole = t.fit(X, LABELS, epochs=400)
    assert whole.epoch < 400
    half = t.fit(X, LABELS, epochs=300)
    again = half.fit(X, LABELS, epochs=100)
    assert_same_run(again, whole)
    assert again.stopped == whole.stopped != ""


def test_resume_with_another_optax_optimizer_raises(jax):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    with portnet.use_backend("jax", dtype="float64"):
        run = trainer(optimizer=optax.adam(0.01)).fit(X, LABELS, epochs=1)
        for other in (optax.sgd(0.1), optax.adagrad(0.1)):
            with pytest.raises(ValueError, match="resume: the optimizer's state does not fit"):
                trainer(optimizer=other).fit(X, LABELS, resume=run)


# Sample weights and shards -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 96])
def test_sample_weight_of_a_custom_loss_equals_the_built_in_loss(batch_size):
    """The custom loss divides by the sum of weights of its batch, as in the README."""

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


# L-BFGS ------------------------------------------------------------------------------------------


def test_lbfgs_reaches_the_least_squares_solution():
    y = X @ np.arange(5.0) + np.random.default_rng(0).standard_normal(96)
    with portnet.use_backend("numpy", dtype="float64"):
        optimizer = portnet.LBFGS(gtol=1e-7, ftol=0)
        t = portnet.Trainer(portnet.mlp([5, 1]), "squared_error", optimizer)
        run = t.fit(X, y, epochs=200, metrics=["r2"], callbacks=[lambda report: None])
    A = np.c_[X, np.ones(96)]
    expected = np.linalg.lstsq(A, y, rcond=None)[0]
    np.testing.assert_allclose(host(run.params)[0][:, 0], expected[:5], rtol=1e-7, atol=1e-7)
    assert run.stopped.startswith("converged")
    assert run.epoch < 30
    assert np.all(np.diff(run.history["loss"]) <= 0)
    assert run.history["loss"][-1] == pytest.approx(run.evaluate(X, y)["loss"], rel=1e-12)


def test_lbfgs_reaches_a_lower_loss_than_adam_and_uses_weights():
    weight = np.arange(96) % 3
    copies = np.repeat(np.arange(96), weight)
    with portnet.use_backend("numpy", dtype="float64"):
        t = trainer(optimizer="lbfgs")
        a = t.fit(X, LABELS, epochs=5, sample_weight=weight)
        b = t.fit(X[copies], LABELS[copies], epochs=5)
        far = t.fit(X, LABELS, epochs=60)
        adam = trainer().fit(X, LABELS, epochs=60)
    np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-7)
    assert far.history["loss"][-1] < adam.history["loss"][-1]


def test_lbfgs_rejects_dropout():
    with pytest.raises(ValueError, match="LBFGS needs a loss that is the same in every evaluation"):
        trainer(model=portnet.mlp([5, 8, 3], dropout=0.1), optimizer="lbfgs").fit(X, LABELS)


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


# Best epoch, resumed epochs, splits and likely causes of divergence ------------------------------


def test_best_epoch_is_restored_if_all_epochs_run():
    """All epochs ran within the patience: `params` are still those of the best epoch."""
    data = {"epochs": 12, "validation": (XV, NOISE)}
    every = list(trainer().epochs(X, LABELS, **data))
    run = trainer().fit(X, LABELS, early_stopping=portnet.EarlyStopping(patience=50), **data)
    assert run.stopped == ""
    assert run.best_epoch < run.epoch == 12
    assert_equal(run.params, every[run.best_epoch - 1].params)
    assert_equal(run._last, every[-1].params)
    assert_equal(run.best.params, run.params)
    assert_equal(run.best.best._last, run._last)  # `best` of the best run is the same run


def test_resuming_one_run_differently_keeps_histories_separate():
    """Each has its own history, in either order."""
    start = trainer().fit(X, LABELS, epochs=2)
    slow = trainer(optimizer=portnet.Adam(1e-6)).fit(X, LABELS, epochs=2, resume=start)
    numbers = slow.history["loss"]
    fast = start.fit(X, LABELS, epochs=2)
    assert fast.history == trainer().fit(X, LABELS, epochs=4).history
    assert slow.history["loss"] == numbers != fast.history["loss"]


def test_epoch_numbers_continue_in_reports_and_output(capsys):
    seen = []
    run = trainer().fit(X, LABELS, epochs=2)
    run.fit(X, LABELS, epochs=3, verbose=True, callbacks=[seen.append])
    assert [(r.epoch, r.epochs) for r in seen] == [(3, 5), (4, 5), (5, 5)]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["3/5", "4/5", "5/5"]


def test_callbacks_after_one_that_stops_are_called():
    seen = []

    def stop(report):
        return report.epoch == 2

    def save(report):
        seen.append(report.epoch)

    run = trainer().fit(X, LABELS, epochs=9, callbacks=[stop, save])
    assert run.stopped == "stopped by callback stop"
    assert seen == [1, 2]


def test_best_epoch_is_reset_for_another_monitored_metric():
    data = {"validation": (XV, NOISE)}
    run = trainer().fit(X, LABELS, epochs=9, early_stopping=True, **data)
    assert run.best_epoch < 9
    on = run.fit(X, LABELS, epochs=1, early_stopping=portnet.EarlyStopping("loss"), **data)
    assert on.best_epoch == 10
    assert_equal(on.params, trainer().fit(X, LABELS, epochs=10).params)


def test_best_raises_if_the_new_metric_was_nan_in_every_epoch():
    def odd(mean, target, weight=None):
        return float("nan")

    run = trainer().fit(X, LABELS, epochs=2, early_stopping=portnet.EarlyStopping("loss"))
    watched = portnet.EarlyStopping("odd", mode="max")
    on = run.fit(X, LABELS, epochs=1, metrics=[odd], early_stopping=watched)
    assert on.best_epoch is None
    with pytest.raises(ValueError, match="best: no epoch was monitored"):
        on.best  # noqa: B018
    assert_equal(on.params, trainer().fit(X, LABELS, epochs=3).params)


def test_default_options_are_those_of_the_documentation():
    assert portnet.EarlyStopping() == portnet.EarlyStopping(None, 10, 0.0, mode=None, restore=True)
    assert portnet.ReduceOnPlateau() == portnet.ReduceOnPlateau(
        None, 5, 0.0, mode=None, factor=0.1, min_scale=1e-4
    )


@pytest.mark.usefixtures("default_sigint_handler")
def test_ctrl_c_in_a_resumed_run_names_the_remaining_epochs():
    run = interrupted(0, epochs=2)
    SendsSIGINT.at, SendsSIGINT.times = 8, 1
    word = r"step 2 of epoch 4: run\.fit\(X, y, epochs=2\) with the same options continues exactly from there$"
    with pytest.warns(UserWarning, match=word):
        run.fit(X, LABELS, epochs=3)


@pytest.mark.usefixtures("default_sigint_handler")
def test_progress_bar_of_a_resumed_epoch_counts_remaining_steps(capsys):
    with pytest.warns(UserWarning, match="interrupted"):
        run = interrupted(8, epochs=3)
    capsys.readouterr()
    run.fit(X, LABELS, epochs=2, progress=True)
    assert "10/10" in capsys.readouterr().err


@pytest.mark.usefixtures("default_sigint_handler")
def test_resuming_with_another_seed_or_shuffle_restarts_the_epoch(capsys):
    with pytest.warns(UserWarning, match="interrupted"):
        run = interrupted(8, epochs=3)
    for options, steps in (({}, 4), ({"seed": 2}, 6), ({"shuffle": False}, 6)):
        capsys.readouterr()
        other = trainer(model=run.trainer.model, **options)
        again = other.fit(X, LABELS, epochs=1, resume=run, progress=True)
        assert f"{steps}/{steps}" in capsys.readouterr().err
        assert (again.epoch, again.step) == (2, 0)


@pytest.mark.usefixtures("default_sigint_handler")
def test_divergence_in_a_resumed_epoch_names_the_step_of_the_epoch():
    y = X @ np.arange(5.0)
    t = trainer(
        "squared_error", model=portnet.Chain([SendsSIGINT(), portnet.Dense(1)]), compile=False
    )
    SendsSIGINT.at, SendsSIGINT.times = 2, 1
    with pytest.warns(UserWarning, match="interrupted after step 2 of epoch 1"):
        run = t.fit(X, y, epochs=1)
    with pytest.raises(portnet.DivergenceError, match=r"epoch 1, step 3\."):
        run.fit(X * 1e15, y, epochs=1)


def test_resume_and_evaluate_with_arrays_of_another_backend_raise():
    run = trainer().fit(X, LABELS, epochs=1)
    with portnet.use_backend("array_api_strict"):
        x, y = portnet.asarray(X), portnet.asarray(LABELS)
    word = "is a array_api_strict array on .*, but the parameters are on numpy on cpu"
    with pytest.raises(TypeError, match=f"X {word}"):
        run.fit(x, LABELS)
    with pytest.raises(TypeError, match=f"validation X {word}"):
        run.fit(X, LABELS, validation=(x, LABELS))
    with pytest.raises(TypeError, match=f"y {word}"):
        run.evaluate(X, y)


@pytest.mark.parametrize("validation", [0.25, (XV, NOISE)])
def test_class_weight_is_not_applied_to_the_validation_set(validation):
    seen = []

    def spy(mean, target, weight=None):
        seen.append(weight)
        return 0.0

    options = {"epochs": 1, "validation": validation, "metrics": [spy]}
    trainer().fit(X, LABELS, class_weight={0: 5.0}, **options)
    assert seen.pop() is None
    trainer().fit(X, LABELS, class_weight={0: 5.0}, sample_weight=np.full(96, 2.0), **options)
    if validation == 0.25:  # sample weights do
        np.testing.assert_array_equal(seen.pop(), 2.0)
    else:
        assert seen.pop() is None


def test_validation_fraction_can_be_a_numpy_scalar():
    runs = [trainer().fit(X, LABELS, epochs=1, validation=f) for f in (0.25, np.float32(0.25))]
    assert_same_run(*runs)


def test_validation_split_of_binary_labels_is_stratified():
    y = np.arange(40) < 4
    seen = {}

    def spy(mean, target, weight=None):
        seen["ones"] = int(target.sum())
        return 0.0

    for seed in range(8):
        t = trainer("sigmoid_cross_entropy", model=portnet.mlp([5, 1]), seed=seed)
        t.fit(XV, y, epochs=1, validation=0.5, metrics=[spy])
        assert seen["ones"] == 2


def test_validation_split_names_the_part_with_zero_weight():
    weight = np.zeros(96)
    weight[0] = 1.0
    rows = X, LABELS, weight
    for seed in range(8):
        t = trainer(seed=seed)
        given = t.fit(X, LABELS, epochs=0)._dataset(*rows)
        order = portnet.rng.shuffled(seed, 96)
        order = order[np.argsort(LABELS[order], kind="stable")]
        held_out = 0 in order[((np.arange(48) + 0.5) * 2).astype(int)]
        word = "48 rows to " + ("train" if held_out else "validate") + " on have the weight 0"
        with pytest.raises(portnet.DataError, match=word):
            split.split(0.5, given, t.loss, seed)


def test_resumed_run_keeps_its_metrics():
    run = trainer().fit(X, LABELS, epochs=1, metrics=["accuracy"]).fit(X, LABELS, epochs=1)
    assert list(run.metrics) == ["accuracy"]
    assert run.history["accuracy"][1] == pytest.approx(run.evaluate(X, LABELS)["accuracy"])


def test_seed_determines_the_validation_split():
    """With given parameters and full batches, the seed determines only the split."""
    start = portnet.init(NET, seed=0)
    losses = set()
    for seed in range(3):
        t = trainer(seed=seed, params=start, batch_size=None)
        losses.add(t.fit(X, LABELS, epochs=1, validation=0.25).history["validation_loss"][0])
    assert len(losses) == 3


@pytest.mark.parametrize("mode", ["min", "max"])
def test_early_stopping_treats_an_equal_value_as_no_improvement(mode):
    def same(mean, target, weight=None):
        return 0.5

    stopping = portnet.EarlyStopping("same", patience=3, mode=mode)
    run = trainer().fit(X, LABELS, epochs=9, metrics=[same], early_stopping=stopping)
    assert (run.epoch, run.best_epoch) == (4, 1)


@pytest.mark.parametrize("name", ["loss", *portnet.metrics.METRICS])
@pytest.mark.parametrize("prefix", ["", "validation_"])
def test_early_stopping_knows_the_direction_of_every_metric(name, prefix):
    smaller = name == "loss" or name in portnet.metrics.SMALLER_IS_BETTER
    stopping = portnet.EarlyStopping(prefix + name)
    watch = stopping.update(stopping.start(["loss", prefix + name], None), 0.5, 1)
    assert (stopping.update(watch, 0.4, 2).epoch == 2) == smaller
    assert (stopping.update(watch, 0.6, 2).epoch == 2) != smaller


def test_history_to_dict_returns_a_copy():
    history = trainer().fit(X, LABELS, epochs=1).history
    history.to_dict()["loss"].append(0.0)
    assert len(history["loss"]) == 1


def test_divergence_names_large_columns_and_negative_targets():
    y = X @ np.arange(5.0)
    message, _ = diverging(X * [1, 1, 100, 1, 1], y, portnet.SGD(10.0))
    assert "Likely cause: column 2 of X reaches" in message
    down = np.minimum(1e9 * y, 0)  # large and negative
    message, _ = diverging(X, down, portnet.SGD(0.1))
    assert f"Likely cause: the targets reach {abs(down).max():.3g}, where" in message


def test_divergence_does_not_name_large_labels_as_the_cause():
    t = portnet.Trainer(portnet.mlp([5, 150]), "softmax_cross_entropy", portnet.SGD(1e38))
    with pytest.raises(portnet.DivergenceError, match="The inputs are scaled"):
        t.fit(X, np.arange(96) + 54, epochs=50)


def test_balanced_class_weight_equals_its_formula():
    """The weight is n_rows / (n_nonempty_classes * n_rows_of_class): 1 on average."""
    y = np.where(np.arange(96) < 16, 0, 2)  # class 1 is empty
    t = trainer()
    data = t.fit(X, y, epochs=0)._dataset(X, y, None)
    weights = labels.class_weights("balanced", data, t.loss, 3, None)
    np.testing.assert_allclose(weights, np.where(y == 0, 96 / (2 * 16), 96 / (2 * 80)), rtol=1e-6)


def test_moved_run_keeps_best_and_last_parameters():
    run = trainer().fit(X, LABELS, epochs=12, early_stopping=portnet.EarlyStopping(patience=50),
                        validation=(XV, NOISE))  # fmt: skip
    there = run.to("array_api_strict")
    assert run._last is not None
    assert all(
        there.backend.holds(a) for a in tree.leaves((there.params, there._best, there._last))
    )
    assert_equal((there._best, there._last), (run._best, run._last))
    assert_equal(there.best.params, run.params)
