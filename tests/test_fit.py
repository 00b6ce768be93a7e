"""Trainer.fit: resuming, early stopping, callbacks, Ctrl-C, labels, weights and validation."""

import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
from custom import Square

import portnet
from portnet import tree
from portnet.data import labels, split
from portnet.optimizers import OPTIMIZERS
from portnet.training import make_step

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 3, 96)
X = RNG.standard_normal((96, 5)) + 2 * RNG.standard_normal((3, 5))[LABELS]
NOISE = RNG.integers(0, 3, 40)  # random labels: the validation loss soon rises
XV = RNG.standard_normal((40, 5))
NAMES = np.array(["cat", "dog", "emu"])
NET = portnet.mlp([5, 8, 3])


def trainer(loss="softmax_cross_entropy", **options):
    given = {"model": NET, "optimizer": portnet.Adam(0.01), "batch_size": 16, "seed": 1} | options
    return portnet.Trainer(given.pop("model"), loss, **given)


def host(pytree):
    return [portnet.to_numpy(leaf) for leaf in tree.leaves(pytree) if hasattr(leaf, "dtype")]


def assert_equal(a, b):
    assert len(host(a)) == len(host(b)) > 0
    for p, q in zip(host(a), host(b), strict=True):
        np.testing.assert_array_equal(p, q)


def assert_near(a, b, tolerance):
    for p, q in zip(host(a), host(b), strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)


def assert_same_run(a, b):
    assert_equal(a.params, b.params)
    assert_equal(
        (a.state, a._last, a._best, 0 * host(a.params)[0]),
        (b.state, b._last, b._best, 0 * host(b.params)[0]),
    )
    assert a.history == b.history
    assert (a.epoch, a.step, a.best_epoch, a._scale) == (b.epoch, b.step, b.best_epoch, b._scale)


# Resuming a run ---------------------------------------------------------------------------------

DECAY = portnet.CosineDecay(0.05, steps=100, warmup=10)
RESUME_CASES = {
    **{name: (name, {}) for name in [*OPTIMIZERS, "lbfgs"]},
    "constant": (portnet.SGD(portnet.Constant(0.05)), {}),
    "step decay": (portnet.Momentum(portnet.StepDecay(0.05, 30)), {}),
    "exponential decay": (portnet.Nesterov(portnet.ExponentialDecay(0.05, 30)), {}),
    "inverse decay": (portnet.RMSProp(portnet.InverseDecay(0.01, 30)), {}),
    "cosine decay": (portnet.AdamW(DECAY), {}),
    "chain": (
        portnet.chain(portnet.WeightDecay(0.01, "W"), portnet.ClipNorm(0.5), portnet.Adam(DECAY)),
        {},
    ),
    "dropout": ("adam", {"dropout": 0.3, "norm": "layer"}),
}
MONITORING = {
    "validation": (XV, NOISE),
    "metrics": ["accuracy", "log_loss"],
    "early_stopping": portnet.EarlyStopping("loss", patience=19, min_change=0.02),
    "reduce_on_plateau": portnet.ReduceOnPlateau(patience=2, factor=0.5, min_change=0.3),
}


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


# Early stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", [None, "validation_accuracy", "loss"])
def test_early_stopping_restores_the_parameters_of_the_best_epoch(monitor):
    data = {"validation": (XV, NOISE), "metrics": ["accuracy"]}
    every = list(trainer().epochs(X, LABELS, epochs=40, **data))
    numbers = every[-1].history[monitor or "validation_loss"]
    stopping = portnet.EarlyStopping(monitor, patience=4)
    run = trainer().fit(X, LABELS, epochs=40, early_stopping=stopping, **data)
    # The reference: a loop over the history.
    best, at = None, 0
    for epoch, number in enumerate(numbers, 1):
        gain = (
            None
            if best is None
            else (number - best if monitor == "validation_accuracy" else best - number)
        )
        if best is None or gain > 0:
            best, at = number, epoch
        if epoch - at == 4:
            break
    assert (run.epoch, run.best_epoch) == (epoch, at)
    assert_equal(run.params, every[at - 1].params)
    assert run.history == every[epoch - 1].history
    assert run.evaluate(XV, NOISE)["loss"] == pytest.approx(run.history["validation_loss"][at - 1])
    if epoch < 40:
        assert run.stopped.startswith(
            f"early stopping: {monitor or 'validation_loss'} was best in epoch {at}, "
        )
    else:
        assert run.stopped == ""


def test_early_stopping_true_has_patience_10_and_restores():
    data = {"epochs": 60, "validation": (XV, NOISE)}
    run = trainer().fit(X, LABELS, early_stopping=True, **data)
    assert run.epoch == run.best_epoch + 10
    kept = trainer().fit(X, LABELS, early_stopping=portnet.EarlyStopping(restore=False), **data)
    assert_equal(kept.best.params, run.params)
    last = list(trainer().epochs(X, LABELS, early_stopping=True, **data))[-1]
    assert_equal(kept.params, last.params)
    assert_equal(last.best.params, run.params)
    with pytest.raises(ValueError, match="best: no epoch was monitored; fit with early_stopping="):
        trainer().fit(X, LABELS, epochs=1).best  # noqa: B018


def test_resuming_after_early_stopping_continues_from_the_last_epoch():
    data = {"validation": (XV, NOISE), "early_stopping": portnet.EarlyStopping(patience=3)}
    stopped = trainer().fit(X, LABELS, epochs=40, **data)
    more = stopped.fit(X, LABELS, epochs=2, validation=(XV, NOISE))
    plain = trainer().fit(X, LABELS, epochs=stopped.epoch + 2, validation=(XV, NOISE))
    assert_equal(more.params, plain.params)
    assert more.history == plain.history
    assert stopped.fit(X, LABELS, epochs=2, **data).epoch == stopped.epoch + 2  # and not 1


def test_best_epoch_is_reset_for_another_validation_set():
    watched = {"early_stopping": portnet.EarlyStopping(patience=30)}
    first = trainer().fit(X, LABELS, epochs=5, validation=(X, LABELS), **watched)
    again = first.fit(X, LABELS, epochs=5, validation=(XV, NOISE), **watched)
    numbers = again.history["validation_loss"]
    assert again.best_epoch == 6 + int(np.argmin(numbers[5:]))
    assert again.evaluate(XV, NOISE)["loss"] == pytest.approx(min(numbers[5:]), rel=1e-5)


def test_early_stopping_ignores_changes_below_min_change():
    wide = portnet.EarlyStopping("loss", patience=2, min_change=1e9)
    assert trainer().fit(X, LABELS, epochs=9, early_stopping=wide).epoch == 3


def test_early_stopping_of_a_custom_metric_follows_mode():
    def share(mean, target, weight=None):
        return (mean.argmax(-1) == target).mean()

    for mode in ("max", "min"):
        stopping = portnet.EarlyStopping("share", patience=3, mode=mode)
        run = trainer().fit(X, LABELS, epochs=30, metrics=[share], early_stopping=stopping)
        best = max if mode == "max" else min
        assert run.history["share"][run.best_epoch - 1] == best(run.history["share"])


def test_early_stopping_treats_nan_as_no_improvement():
    def odd(mean, target, weight=None):
        odd.calls += 1
        return np.float32(np.nan if odd.calls in (1, 4, 5, 6) else -odd.calls)

    odd.calls = -1  # fit calls the metric once before the first epoch
    stopping = portnet.EarlyStopping("odd", patience=3, mode="min")
    run = trainer().fit(X, LABELS, epochs=9, metrics=[odd], early_stopping=stopping)
    assert (run.epoch, run.best_epoch) == (6, 3)


# ReduceOnPlateau --------------------------------------------------------------------------------


def test_reduce_on_plateau_equals_torch(torch):
    numbers = np.random.default_rng(0).normal(size=60).cumsum()
    numbers[7:20] = numbers[7]
    plateau = portnet.ReduceOnPlateau(
        "loss", patience=3, factor=0.5, min_scale=0.01, min_change=0.1
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=0.1, threshold_mode="abs", min_lr=0.01, eps=0
    )
    watch, scale = plateau.start(["loss"], None), 1.0
    for epoch, number in enumerate(numbers, 1):
        watch, scale = plateau.reduce(plateau.update(watch, number, epoch), scale)
        reference.step(number)
        assert scale == pytest.approx(optimizer.param_groups[0]["lr"])
    assert scale < 0.1


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_reduce_on_plateau_scales_the_updates_of_any_optimizer(optimizer):
    plateau = portnet.ReduceOnPlateau("loss", patience=1, factor=0.25, min_change=1e9)
    with portnet.use_backend("numpy", dtype="float64"):
        t = trainer(optimizer=optimizer, batch_size=None)
        run = t.fit(X, LABELS, epochs=3, reduce_on_plateau=plateau)
        start = t.fit(X, LABELS, epochs=0)
    assert run.history["scale"] == [1.0, 1.0, 0.25]
    assert run._scale == 0.0625
    params, state = start.params, start.state
    for scale in (1.0, 1.0, 0.25):  # the reference: scaled updates of the optimizer
        before, (params, state, _) = (
            params,
            make_step(NET, t.loss, t.optimizer)(params, state, X, LABELS),
        )
        params = tree.map(lambda p, q, s=scale: p + s * (q - p), before, params)
    assert_near(run.params, params, 1e-12)


def test_scale_of_a_plateau_is_reset_for_another_optimizer():
    plateau = portnet.ReduceOnPlateau("loss", patience=1, factor=0.25, min_change=1e9)
    run = trainer().fit(X, LABELS, epochs=5, reduce_on_plateau=plateau)
    assert run._scale < 1
    assert run.fit(X, LABELS, epochs=1)._scale == 1  # reduce_on_plateau is not set
    fast = trainer(optimizer=portnet.Adam(0.02))
    other = fast.fit(X, LABELS, epochs=1, resume=run, reduce_on_plateau=plateau)
    assert other.history["scale"][-1] == 1
    same = trainer().fit(X, LABELS, epochs=1, resume=run, reduce_on_plateau=plateau)
    assert same.history["scale"][-1] == run._scale


# Callbacks, verbose output and history ----------------------------------------------------------


def test_callbacks_get_a_report_of_every_epoch_and_can_stop():
    seen = []

    def enough(report):
        seen.append(report)
        return np.bool_(report.metrics["accuracy"] > 2) or report.epoch == 3

    run = trainer().fit(X, LABELS, epochs=9, metrics=["accuracy"], callbacks=[enough])
    assert [r.epoch for r in seen] == [1, 2, 3]
    assert run.epoch == 3
    assert run.stopped == "stopped by callback enough"
    assert [r.metrics["loss"] for r in seen] == run.history["loss"]
    assert [r.metrics["accuracy"] for r in seen] == run.history["accuracy"]
    assert all(r.epochs == 9 and r.seconds > 0 for r in seen)
    assert_equal(seen[0].run.params, trainer().fit(X, LABELS, epochs=1).params)
    assert seen[0].run.history["loss"] == run.history["loss"][:1]
    assert trainer().fit(X, LABELS, epochs=2, callbacks=lambda report: None).epoch == 2


def test_error_in_a_callback_has_the_run_so_far():
    def broken(report):
        if report.epoch == 2:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        trainer().fit(X, LABELS, epochs=9, callbacks=[broken])
    assert caught.value.__notes__ == ["in callback broken after epoch 2: see this error's `run`"]
    again = caught.value.run.fit(X, LABELS, epochs=2)
    assert_same_run(again, trainer().fit(X, LABELS, epochs=4))

    def ends(report):
        next(iter([]))

    with pytest.raises(RuntimeError, match=r"callback ends raised StopIteration\(\)") as caught:
        trainer().fit(X, LABELS, callbacks=[ends])
    assert caught.value.run.epoch == 1
    with pytest.raises(
        TypeError, match=r"expected True to stop, or False or None, got 0\.5"
    ) as caught:
        trainer().fit(X, LABELS, callbacks=[lambda report: 0.5])
    assert caught.value.run.epoch == 1


def test_verbose_prints_a_line_for_each_epoch(capsys):
    trainer().fit(X, LABELS, epochs=12, verbose=True, validation=(XV, NOISE), metrics=["accuracy"],
                  early_stopping=portnet.EarlyStopping("loss", patience=1, min_change=10))  # fmt: skip
    first, second, end = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/12  loss 3.955  validation_loss 1.")
    assert "  validation_accuracy 0." in second
    assert second.endswith(" s")
    assert end.startswith("early stopping: loss was best in epoch 1, 3.955")
    trainer().fit(X, LABELS, epochs=2, verbose=0)
    assert capsys.readouterr().out == ""
    trainer().fit(X, LABELS, epochs=2, verbose=1)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_history_converts_to_a_dict_and_a_dataframe():
    run = trainer().fit(X, LABELS, epochs=3, metrics=["accuracy"])
    plain = run.history.to_dict()
    assert type(plain) is dict
    assert {type(v) for v in plain.values()} == {list}
    assert plain == run.history
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = run.history.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.index) == [1, 2, 3]
    assert frame["loss"].tolist() == run.history["loss"]
    assert list(trainer().fit(X, LABELS, epochs=0).history.to_pandas().index) == []


def test_history_to_pandas_without_pandas_raises(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        trainer().fit(X, LABELS, epochs=1).history.to_pandas()


# Ctrl-C -----------------------------------------------------------------------------------------


@pytest.fixture
def default_sigint_handler():
    """Set Python's default SIGINT handler, which is missing if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class SendsSIGINT(Square):
    """A layer that sends SIGINT in the n-th training step."""

    at = 0
    times = 1

    def forward(self, params, x, key=None):
        if key is not None:
            SendsSIGINT.at -= 1
            if SendsSIGINT.at == 0:
                for _ in range(SendsSIGINT.times):
                    signal.raise_signal(signal.SIGINT)
        return super().forward(params, x, key)


def interrupted(at, method="fit", times=1, **options):
    net = portnet.Chain([portnet.Dense(8), SendsSIGINT(), portnet.Dropout(0.2), portnet.Dense(3)])
    SendsSIGINT.at, SendsSIGINT.times = at, times
    return getattr(trainer(model=net, compile=False), method)(X, LABELS, **options)


@pytest.mark.usefixtures("default_sigint_handler")
@pytest.mark.parametrize("at", [1, 4, 6, 7, 9, 18])  # an epoch has six steps
def test_ctrl_c_ends_after_the_step_and_resuming_is_exact(at):
    whole = interrupted(0, epochs=3, **MONITORING)
    epoch, step = divmod(at, 6)
    where = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
    word = f"training was interrupted after {where}"
    if at < 18:
        word += rf": run\.fit\(X, y, epochs={3 - epoch}\) with the same options continues exactly from there"
    with pytest.warns(UserWarning, match=word + "$") as caught:
        run = interrupted(at, epochs=3, **MONITORING)
    assert caught[0].filename == __file__
    assert (run.epoch, run.step) == (epoch, step)
    assert word.removeprefix("training was ").split(":")[0] in run.stopped
    assert len(run.history.get("loss", [])) == epoch
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run.predict(X)
    if at == 9:  # pickling keeps it
        run = pickle.loads(pickle.dumps(run))
    again = run.fit(X, LABELS, epochs=3 - epoch, **MONITORING)
    assert_same_run(again, whole)


@pytest.mark.usefixtures("default_sigint_handler")
def test_resuming_a_partial_epoch_needs_the_same_rows():
    with pytest.warns(UserWarning, match="interrupted"):
        run = interrupted(8, epochs=3)
    with pytest.raises(portnet.DataError, match=r"with 96 rows, batch_size=16, .* got 90 rows"):
        run.fit(X[:90], LABELS[:90])
    # Another trainer starts the epoch again, from the current parameters.
    other = portnet.Trainer(run.trainer.model, run.trainer.loss, portnet.Adam(), 32, seed=1)
    again = other.fit(X, LABELS, epochs=1, resume=run)
    assert (again.epoch, again.step) == (run.epoch + 1, 0)


@pytest.mark.usefixtures("default_sigint_handler")
def test_ctrl_c_warning_points_to_the_caller_and_has_the_run():
    with pytest.warns(UserWarning, match="interrupted") as caught:
        run = interrupted(8, epochs=3)
    SendsSIGINT.at = 2
    with pytest.warns(UserWarning, match="interrupted") as again:
        run.fit(X, LABELS, epochs=2)
    assert {w.filename for w in (*caught, *again)} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="interrupted") as error:
            interrupted(8, epochs=3)
    assert (error.value.run.epoch, error.value.run.step) == (1, 2)


@pytest.mark.usefixtures("default_sigint_handler")
def test_second_ctrl_c_ends_within_the_step():
    """The current step is discarded; the finished steps are kept."""
    with pytest.warns(UserWarning, match=r"step 2 of epoch 2: run\.fit\(X, y, epochs=2\)"):
        run = interrupted(9, epochs=3, times=2)
    assert (run.epoch, run.step) == (1, 2)
    assert_same_run(run.fit(X, LABELS, epochs=2), interrupted(0, epochs=3))


@pytest.mark.usefixtures("default_sigint_handler")
def test_ctrl_c_in_a_loop_over_epochs_raises_with_the_run():
    seen = []
    runs = interrupted(8, "epochs", epochs=3)
    seen.append(next(runs))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt) as caught:
        next(runs)
    assert [r.epoch for r in seen] == [1]
    assert (caught.value.run.epoch, caught.value.run.step) == (1, 2)


@pytest.mark.usefixtures("default_sigint_handler")
@pytest.mark.parametrize("at", [1, 4, 6, 7, 18])
def test_ctrl_c_between_compiled_steps_resumes_exactly(at, monkeypatch):
    """Parameters and state are those after the step, and later training does not change them."""
    import tqdm.auto

    class Bar(tqdm.auto.tqdm):
        steps = 0

        def update(self, n=1):
            Bar.steps += 1
            if Bar.steps == at:
                signal.raise_signal(signal.SIGINT)
            return super().update(n)

    net = portnet.Chain([portnet.Dense(8), portnet.ReLU(), portnet.Dropout(0.2), portnet.Dense(3)])
    whole = trainer(model=net).fit(X, LABELS, epochs=3, **MONITORING)
    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    with pytest.warns(UserWarning, match="interrupted"):
        run = trainer(model=net).fit(X, LABELS, epochs=3, progress=True, **MONITORING)
    kept = host((run.params, run.state))
    before = [a.copy() for a in kept]
    rest = 3 - run.epoch
    after = run.fit(X, LABELS, epochs=rest, **MONITORING) if rest else run
    assert_same_run(after, whole)
    assert all(np.array_equal(a, b) for a, b in zip(kept, before, strict=True))


@pytest.mark.usefixtures("default_sigint_handler")
def test_ctrl_c_in_a_callback_resumes_exactly():
    def press(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after epoch 2"):
        run = trainer().fit(X, LABELS, epochs=4, callbacks=[press])
    assert_same_run(run.fit(X, LABELS, epochs=2), trainer().fit(X, LABELS, epochs=4))


def test_custom_sigint_handler_is_kept():
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        run = interrupted(3, epochs=2)
        assert run.epoch == 2
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def raising_sigint_handler():
    """Set a custom handler that raises KeyboardInterrupt at once."""

    def raises(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, raises)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("raising_sigint_handler")
@pytest.mark.parametrize("at", [1, 4, 6, 7, 9, 18])  # an epoch has six steps
def test_raising_sigint_handler_keeps_finished_steps_and_resumes_exactly(at):
    whole = interrupted(0, epochs=3, **MONITORING)
    epoch, step = divmod(at - 1, 6)  # the interrupted step was not finished
    with pytest.warns(UserWarning, match="continues exactly from there"):
        run = interrupted(at, epochs=3, **MONITORING)
    assert (run.epoch, run.step) == (epoch, step)
    SendsSIGINT.at = 0
    assert_same_run(run.fit(X, LABELS, epochs=3 - epoch, **MONITORING), whole)


class SendsSIGINTInEvaluation(Square):
    """A layer that sends SIGINT in the n-th evaluation of the validation set."""

    at = 0

    def forward(self, params, x, key=None):
        if key is None and x.shape[0] == 31:
            SendsSIGINTInEvaluation.at -= 1
            if SendsSIGINTInEvaluation.at == 0:
                signal.raise_signal(signal.SIGINT)
        return super().forward(params, x, key)


@pytest.mark.parametrize("handler", ["raising_sigint_handler", "default_sigint_handler"])
def test_interrupt_in_the_evaluation_keeps_the_epoch(handler, request):
    request.getfixturevalue(handler)
    net = portnet.Chain([portnet.Dense(8), SendsSIGINTInEvaluation(), portnet.Dense(3)])
    options = {"validation": (X[:31], LABELS[:31])}
    SendsSIGINTInEvaluation.at = 0
    whole = trainer(model=net, compile=False).fit(X, LABELS, epochs=4, **options)
    SendsSIGINTInEvaluation.at = 2
    with pytest.warns(UserWarning, match=r"interrupted after epoch 2: run\.fit\(X, y, epochs=2\)"):
        run = trainer(model=net, compile=False).fit(X, LABELS, epochs=4, **options)
    assert (run.epoch, run.step) == (2, 0)
    assert_same_run(run.fit(X, LABELS, epochs=2, **options), whole)


@pytest.mark.usefixtures("raising_sigint_handler")
def test_interrupt_within_an_lbfgs_iteration_has_the_run_so_far():
    net = portnet.Chain([portnet.Dense(8), SendsSIGINT(), portnet.Dense(3)])
    t = trainer(model=net, optimizer="lbfgs", compile=False)
    calls, forward = [], SendsSIGINT.forward

    def counted(self, params, x, key=None):
        calls.append(1)
        if len(calls) == 12:
            signal.raise_signal(signal.SIGINT)
        return forward(self, params, x, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SendsSIGINT, "forward", counted)
        kept = []
        with pytest.raises(KeyboardInterrupt) as error:
            kept.extend(t.epochs(X, LABELS, epochs=50))
    run = error.value.run
    assert run.epoch == len(kept) > 0
    whole = t.fit(X, LABELS, epochs=run.epoch + 3)
    assert_same_run(run.fit(X, LABELS, epochs=3), whole)


@pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: no step is compiled"
)
def test_interrupt_within_a_compiled_step_keeps_the_finished_steps(monkeypatch):
    from portnet.compiler.executable import Bound

    whole, calls = Bound.__call__, []
    expected = trainer().fit(X, LABELS, epochs=3)

    def torn(self, arrays):
        calls.append(1)
        if len(calls) == 10:
            for vector in self.replay.last:
                vector[...] = 7  # half written
            raise KeyboardInterrupt
        return whole(self, arrays)

    monkeypatch.setattr(Bound, "__call__", torn)
    with pytest.warns(UserWarning, match=r"interrupted after step 3 of epoch 2"):
        run = trainer().fit(X, LABELS, epochs=3)
    assert_same_run(run.fit(X, LABELS, epochs=2), expected)


def test_fit_in_a_thread_equals_fit_in_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(trainer().fit(X, LABELS, epochs=2)))
    thread.start()
    thread.join()
    assert_equal(found[0].params, trainer().fit(X, LABELS, epochs=2).params)


@pytest.mark.usefixtures("default_sigint_handler")
@pytest.mark.parametrize("how", ["early stopping", "callback"])
def test_ctrl_c_in_the_epoch_in_which_training_stops_is_reported(how):
    """Resuming would train beyond the end of the uninterrupted run, so it is not offered."""
    options = {"early_stopping": portnet.EarlyStopping("loss", patience=1, min_change=9.0)}
    if how == "callback":
        options = {"callbacks": [lambda report: report.epoch == 2]}
    whole = interrupted(0, epochs=9, **options)
    assert whole.epoch == 2
    assert how in whole.stopped
    with pytest.warns(UserWarning, match=r"step 3 of epoch 2: run\.fit\(X, y, epochs=8\)"):
        run = interrupted(9, epochs=9, **options)
    assert_same_run(run.fit(X, LABELS, epochs=8, **options), whole)
    with pytest.warns(UserWarning, match="interrupted") as caught:
        run = interrupted(12, epochs=9, **options)  # in its last step
    assert [str(w.message) for w in caught] == [
        f"training was interrupted in its last epoch, and had ended: {whole.stopped}"
    ]
    assert_same_run(run, whole)


@pytest.mark.usefixtures("default_sigint_handler")
def test_ctrl_c_during_lbfgs_resumes_exactly():
    def press(report):
        if report.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    t = trainer(optimizer="lbfgs")
    with pytest.warns(UserWarning, match="interrupted after epoch 2"):
        run = t.fit(X, LABELS, epochs=5, callbacks=[press])
    assert_same_run(run.fit(X, LABELS, epochs=3), t.fit(X, LABELS, epochs=5))


# Feature names, and shapes of predictions ---------------------------------------------------------


@pytest.fixture(params=["pandas", "polars"])
def frame(request):
    """Make a frame of an array with five columns."""
    library = pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return lambda x, names="abcde": library.DataFrame(
        {name: x[:, j] for j, name in enumerate(names)}
    )


UNSEEN = (
    "The feature names should match those that were passed during fit.\nFeature names unseen at fit "
    "time:\n- z\nFeature names seen at fit time, yet now missing:\n- c\n"
)
ORDER = (
    "The feature names should match those that were passed during fit.\nFeature names must be in the "
    "same order as they were in fit.\n"
)


@pytest.mark.parametrize(("names", "message"), [("abzde", UNSEEN), ("edcba", ORDER)])
def test_other_feature_names_raise_in_every_method(names, message, frame):
    run = trainer().fit(frame(X), LABELS, epochs=2)
    assert run.feature_names == tuple("abcde")
    wrong = frame(X, names)
    for given, call in (
        ("", lambda: run.predict(wrong)),
        ("", lambda: run.predict_class(wrong)),
        ("", lambda: run.predict_proba(wrong)),
        ("", lambda: run.evaluate(wrong, LABELS)),
        ("", lambda: run.fit(wrong, LABELS)),
        ("", lambda: run.to("numpy").predict(wrong)),
        ("", lambda: pickle.loads(pickle.dumps(run)).predict(wrong)),
        ("validation X: ", lambda: run.fit(frame(X), LABELS, validation=(wrong, LABELS))),
        ("validation X: ", lambda: trainer().fit(frame(X), LABELS, validation=(wrong, LABELS))),
    ):
        with pytest.raises(portnet.DataError) as error:
            call()
        assert str(error.value) == given + message


def test_feature_name_errors_equal_those_of_scikit_learn(frame):
    """The messages equal those of a scikit-learn estimator."""
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    reference = linear.LinearRegression().fit(frame(X), X[:, 0])
    run = portnet.Trainer(portnet.mlp([5, 1]), "squared_error").fit(frame(X), X[:, 0], epochs=1)
    for wrong in (frame(X, "edcba"), frame(X, "abzde"), frame(X, "vwxyz")):
        messages = []
        for model in (reference, run):
            with pytest.raises(ValueError, match="feature names") as error:
                model.predict(wrong)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_feature_names_in_fit_or_predict_only_warn(frame):
    named = trainer().fit(frame(X), LABELS, epochs=1)
    plain = trainer().fit(X, LABELS, epochs=1)
    assert plain.feature_names is None
    with pytest.warns(UserWarning, match=r"X does not have valid feature names, but Run was") as w:
        answer = named.predict(X)
    assert w[0].filename == __file__
    with pytest.warns(UserWarning, match=r"X has feature names, but Run was fitted without"):
        np.testing.assert_array_equal(plain.predict(frame(X)), answer)


def test_feature_names_of_mixed_types_raise():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises(TypeError, match=r"only supported if all input features have string names"):
        trainer().fit(pandas.DataFrame(X, columns=["a", 1, 2, 3, 4]), LABELS)
    run = trainer().fit(pandas.DataFrame(X), LABELS, epochs=1)  # integer columns: no names
    assert run.feature_names is None
    run.predict(X)


@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson", "sigmoid_cross_entropy"])
def test_predictions_have_the_shape_of_y(loss, backend_name):
    with portnet.use_backend(backend_name):
        y = (LABELS > 0) * 1.0
        net = portnet.Trainer(portnet.mlp([5, 4, 1]), loss)
        flat, column = (net.fit(X, t, epochs=1) for t in (y, y[:, None]))
        as_list = net.fit(X.tolist(), y.tolist(), epochs=1)
        given = portnet.asarray(X)
        for run, shape in ((flat, (96,)), (column, (96, 1)), (as_list, (96,))):
            assert run.predict(X).shape == shape
            assert tuple(run.predict(given).shape) == shape
        assert (y - flat.predict(X)).shape == (96,)
        on = flat.fit(X, y, epochs=1).to("numpy")
        assert pickle.loads(pickle.dumps(on)).predict(X).shape == (96,)
        np.testing.assert_array_equal(flat.predict(X), column.predict(X)[:, 0])
        assert flat.fit(X, y[:, None], epochs=1).predict(X).shape == (96, 1)  # as the last y


def test_predict_proba_of_one_output_has_two_columns(backend_name):
    with portnet.use_backend(backend_name):
        for y in (LABELS > 0, (LABELS > 0)[:, None], np.where(LABELS > 0, "yes", "no")):
            run = portnet.Trainer(portnet.mlp([5, 4, 1]), "sigmoid_cross_entropy").fit(
                X, y, epochs=1
            )
            proba = run.predict_proba(X)
            assert proba.shape == (96, 2)
            np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
            np.testing.assert_array_equal(proba[:, 1], run.predict(X).reshape(-1))
            second = run.predict_class(X).reshape(-1) == ("yes" if run.classes is not None else 1)
            np.testing.assert_array_equal(proba.argmax(axis=1) == 1, second)


def test_early_stopping_without_validation_warns_what_is_monitored():
    with pytest.warns(
        UserWarning, match="early_stopping: there are no validation rows, so the tr"
    ) as w:
        trainer().fit(X, LABELS, epochs=1, early_stopping=True)
    assert w[0].filename == __file__
    trainer().fit(X, LABELS, epochs=1, early_stopping=portnet.EarlyStopping("loss"))
    trainer().fit(X, LABELS, epochs=1, early_stopping=True, validation=0.2)


@pytest.mark.parametrize("kind", ["float32", "float64", "bool"])
def test_float_and_boolean_labels_equal_integer_labels(kind, backend_name):
    with portnet.use_backend(backend_name):
        labels = LABELS > 0 if kind == "bool" else LABELS.astype(kind)
        net = portnet.Trainer(portnet.mlp([5, 4, 3]), "softmax_cross_entropy")
        expected = net.fit(X, labels.astype(int), epochs=2)
        for y in (labels, labels.tolist(), portnet.asarray(labels), labels[:, None]):
            run = net.fit(X, y, epochs=2)
            assert run.history["loss"] == expected.history["loss"]


# Labels and class weights -----------------------------------------------------------------------


def text_labels():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    words = NAMES[LABELS]
    return {
        "list": words.tolist(),
        "numpy": words,
        "objects": words.astype(object),
        "series": pandas.Series(words),
        "categories": pandas.Series(words).astype("category"),
        "numpy strings": words.astype(np.dtypes.StringDType()),
    }


@pytest.mark.parametrize(
    "kind", ["list", "numpy", "objects", "series", "categories", "numpy strings"]
)
def test_text_labels_equal_integer_labels(kind):
    y = text_labels()[kind]
    metrics = ["accuracy"]
    run = trainer().fit(X, y, epochs=8, validation=(XV, NAMES[NOISE]), metrics=metrics)
    plain = trainer().fit(X, LABELS, epochs=8, validation=(XV, NOISE), metrics=metrics)
    assert_equal(run.params, plain.params)
    assert run.history == plain.history
    assert run.classes.tolist() == NAMES.tolist()
    np.testing.assert_array_equal(run.predict_class(X), NAMES[plain.predict_class(X)])
    assert run.evaluate(X, y) == plain.evaluate(X, LABELS)
    assert_same_run(run.fit(X, y, epochs=1), plain.fit(X, LABELS, epochs=1))


def test_two_text_labels_work_with_one_output(other_xp):
    words = np.where(LABELS == 0, "yes", "no")
    t = trainer("sigmoid_cross_entropy", model=portnet.mlp([5, 8, 1]))
    run = t.fit(other_xp.asarray(X), words, epochs=3, metrics=["accuracy", "log_loss"])
    plain = t.fit(other_xp.asarray(X), (LABELS == 0).astype(float), epochs=3)
    assert_equal(run.params, plain.params)
    assert run.classes.tolist() == ["no", "yes"]
    answer = run.predict_class(other_xp.asarray(X))  # text is always on the host
    assert isinstance(answer, np.ndarray)
    np.testing.assert_array_equal(answer == "yes", plain.predict_class(X) == 1)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
@pytest.mark.parametrize("text", [False, True])
def test_class_weight_equals_the_sample_weight_of_its_rows(loss, text):
    classes = 3 if loss == "softmax_cross_entropy" else 2
    labels = LABELS % classes
    y = NAMES[labels] if text else labels
    given = {NAMES[c] if text else c: w for c, w in enumerate((0.5, 2.0, 3.0)[:classes])}
    of_rows = np.array([0.5, 2.0, 3.0])[labels]
    own = RNG.uniform(0.5, 2, 96)
    with portnet.use_backend("numpy", dtype="float64"):
        t = trainer(loss, model=portnet.mlp([5, 8, 3 if classes == 3 else 1]))
        a = t.fit(X, y, epochs=3, class_weight=given, sample_weight=own)
        b = t.fit(X, y, epochs=3, sample_weight=own * of_rows)
        c = t.fit(X, y, epochs=3, class_weight={k: v for k, v in given.items() if v != 2.0})
        d = t.fit(X, y, epochs=3, sample_weight=np.where(of_rows == 2.0, 1.0, of_rows))
    assert_near(a.params, b.params, 1e-12)
    assert_near(c.params, d.params, 1e-12)


@pytest.mark.parametrize("weight", [None, RNG.integers(0, 3, 96)])
def test_balanced_class_weight_equals_that_of_scikit_learn(weight, other_xp):
    utils = pytest.importorskip("sklearn.utils", reason="scikit-learn is not installed")
    y = np.where(RNG.random(96) < 0.2, 0, 2)  # class 1 is empty
    copies = np.repeat(np.arange(96), 1 if weight is None else weight)
    table = utils.class_weight.compute_class_weight(
        "balanced", classes=np.array([0, 2]), y=y[copies]
    )
    expected = np.where(y == 0, *table) * (1 if weight is None else weight)
    t = trainer(batch_size=None)
    a = t.fit(X, y, epochs=3, class_weight="balanced", sample_weight=weight)
    b = t.fit(X, y, epochs=3, sample_weight=expected)
    assert_near(a.params, b.params, 1e-12)


def test_class_weight_and_split_accept_one_hot_targets():
    """One-hot rows have a class weight and a stratified split; probabilities mix class weights."""
    hot, soft = np.eye(3)[LABELS], np.full((96, 3), 1 / 3)
    with portnet.use_backend("numpy", dtype="float64"):
        for given in ({0: 0.5, 2: 3.0}, "balanced"):
            a, b = (trainer().fit(X, y, epochs=2, class_weight=given) for y in (LABELS, hot))
            assert_near(a.params, b.params, 1e-12)
        c = trainer().fit(X, soft, epochs=2, class_weight={0: 4.0})
        d = trainer().fit(X, soft, epochs=2, sample_weight=np.full(96, 2.0))
        assert_near(c.params, d.params, 1e-12)
    e, f = (trainer().fit(X, y, epochs=2, validation=0.3) for y in (LABELS, hot))
    assert e.history["validation_loss"] == pytest.approx(f.history["validation_loss"], rel=1e-5)


def test_column_object_and_dataframe_labels_equal_1d_labels():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    expected = trainer().fit(X, LABELS, epochs=1).params
    for y in (LABELS[:, None], LABELS.astype(object), pandas.DataFrame({"y": LABELS}),
              NAMES[LABELS][:, None], pandas.Series(LABELS, dtype="Int64")):  # fmt: skip
        assert_equal(trainer().fit(X, y, epochs=1).params, expected)


# Validation split -------------------------------------------------------------------------------


def test_validation_fraction_is_stratified_and_set_by_the_seed():
    seen = {}

    def spy(mean, target, weight=None):
        seen["y"] = target  # the last call has all rows
        return np.float32(0)

    run = trainer().fit(X, LABELS, epochs=2, validation=0.25, metrics=[spy])
    assert seen["y"].shape == (24,)
    for label in range(3):  # the split is stratified
        share = np.bincount(LABELS)[label] * 0.25
        assert abs((seen["y"] == label).sum() - share) <= 1
    same = trainer().fit(X, LABELS, epochs=2, validation=0.25, metrics=[spy])
    other = trainer(seed=2).fit(X, LABELS, epochs=2, validation=0.25, metrics=[spy])
    assert_same_run(run, same)
    assert run.history["validation_loss"] != other.history["validation_loss"]


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_validation_and_training_rows_partition_the_dataset(loss, xp):
    if xp.id == "strict-no_x64" and loss == "softmax_cross_entropy":
        pytest.skip(reason="array-api-strict 2.6.1: argmax makes int64, which no_x64 lacks")
    rows = np.arange(50.0)[:, None]
    y, w = (np.arange(50) % 5, rows[:, 0] + 1)
    t = portnet.Trainer(portnet.mlp([1, 5]), loss)
    target = y if loss == "softmax_cross_entropy" else np.eye(5)[y]
    given = t.fit(rows, target, epochs=0)._dataset(rows, target, w)
    (X1, y1, w1), (X2, y2, w2) = (d.arrays for d in split.split(0.3, given, t.loss, 7))
    X1, y1, w1, X2, y2, w2 = (xp.numpy(a) for a in (X1, y1, w1, X2, y2, w2))
    assert len(X2) == 15
    assert sorted([*X1[:, 0], *X2[:, 0]]) == rows[:, 0].tolist()
    for part, target, weight in ((X1, y1, w1), (X2, y2, w2)):
        labels = target if target.ndim == 1 else target.argmax(1)
        np.testing.assert_array_equal(labels, part[:, 0] % 5)
        np.testing.assert_array_equal(weight, part[:, 0] + 1)
    if loss == "softmax_cross_entropy":
        assert [int((y2 == c).sum()) for c in range(5)] == [3] * 5


# Sample weights and shards ----------------------------------------------------------------------


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


# Moving a run to another backend ----------------------------------------------------------------


def test_moved_run_keeps_state_and_resumes_equally(other_xp):
    with portnet.use_backend("numpy", dtype="float64"):
        t = trainer(model=portnet.mlp([5, 8, 3], "tanh", dropout=0.2))
        half = t.fit(X, LABELS, epochs=2, **MONITORING)
        whole = half.fit(X, LABELS, epochs=2, **MONITORING)
    there = half.to(other_xp.name, device=other_xp.device)
    assert there.backend.dtype == "float64"
    assert all(there.backend.holds(a) for a in tree.leaves((there.params, there.state)))
    assert_equal(there.params, half.params)
    moved = there.fit(X, LABELS, epochs=2, **MONITORING)
    assert_near(moved.params, whole.params, 1e-11)
    back = moved.to("numpy")
    assert_equal(back.params, moved.params)
    assert back.history == moved.history
    np.testing.assert_allclose(back.predict(X), whole.predict(X), rtol=1e-9)
    narrow = half.to(other_xp.name, dtype="float32")
    assert str(host(narrow.params)[0].dtype) == "float32"


def test_lbfgs_run_can_be_moved_and_resumed():
    run = trainer(optimizer="lbfgs").fit(X, LABELS, epochs=3)
    with portnet.use_backend("array_api_strict"):
        there = run.to("array_api_strict")
        assert there.fit(X, LABELS, epochs=1).epoch == 4
    with pytest.raises(ValueError, match="unknown backend 'nunpy': did you mean 'numpy'"):
        run.to("nunpy")


# L-BFGS -----------------------------------------------------------------------------------------


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


# Divergence -------------------------------------------------------------------------------------


def diverging(x, y, optimizer, loss="squared_error"):
    t = portnet.Trainer(portnet.mlp([5, 8, 1]), loss, optimizer, 16)
    with pytest.raises(portnet.DivergenceError) as caught:
        t.fit(x, y, epochs=500)
    return str(caught.value), caught.value.run


def test_divergence_names_the_likely_cause():
    y = X @ np.arange(5.0)
    far = X * [1, 1, 3e4, 1, 1]
    message, run = diverging(far, y, portnet.SGD(0.1))
    largest = abs(far[:, 2]).max()
    assert (
        f"Likely cause: column 2 of X reaches {largest:.3g}, where networks want about 1" in message
    )
    assert (
        "or try a smaller learning rate than 0.1. The run as it was before that epoch is" in message
    )
    assert_equal(
        run.params,
        portnet.Trainer(portnet.mlp([5, 8, 1]), "squared_error", portnet.SGD(0.1), 16)
        .fit(far, y, epochs=run.epoch)
        .params,
    )
    message, _ = diverging(X, 1e9 * y, portnet.SGD(0.1))
    assert f"Likely cause: the targets reach {abs(1e9 * y).max():.3g}, where" in message
    message, _ = diverging(X, y, portnet.SGD(1e3))
    assert f"The inputs are scaled (column {abs(X).max(0).argmax()} of X reaches" in message
    assert "so try a smaller learning rate than 1000, or portnet.ClipNorm" in message
    message, _ = diverging(X, y, portnet.SGD(portnet.Constant(1e3)))
    assert "so try a smaller learning rate, or" in message


def test_divergence_advice_fits_the_optimizer():
    y = X @ np.arange(5.0)
    message, _ = diverging(X, y, portnet.chain(portnet.WeightDecay(0.1), portnet.SGD(1e3)))
    assert "try a smaller learning rate than 1000, or portnet.ClipNorm" in message
    start = portnet.init(portnet.mlp([5, 8, 1]))
    far = portnet.Trainer(
        portnet.mlp([5, 8, 1]), "poisson", "lbfgs", params=tree.map(lambda p: p * 1e4 + 1e4, start)
    )
    with pytest.raises(portnet.DivergenceError) as caught:
        far.fit(X, np.ones(96))
    assert "try another start, Trainer(params=...). The run" in str(caught.value)
    assert "learning rate" not in str(caught.value)


def test_divergence_of_lbfgs_at_the_start_names_the_likely_cause():
    message, run = diverging(X * 1e30, X @ np.arange(5.0), "lbfgs")
    assert "Likely cause: column" in message
    assert run.epoch == 0


def test_clip_norm_trains_where_plain_sgd_diverges():
    y = X @ np.arange(5.0)
    diverging(X, y, portnet.SGD(0.5))
    clipped = portnet.chain(portnet.ClipNorm(0.1), portnet.SGD(0.5))
    run = portnet.Trainer(portnet.mlp([5, 8, 1]), "squared_error", clipped, 16).fit(X, y, epochs=50)
    assert run.history["loss"][-1] < 0.3 * run.history["loss"][0]


# Data frames, tensors and dtypes ----------------------------------------------------------------


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


# Best epoch, resumed epochs, splits and likely causes of divergence ----------------------------


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
