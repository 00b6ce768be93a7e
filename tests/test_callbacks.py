"""Early stopping, plateaus, callbacks, verbose output and history."""

import numpy as np
import pytest
from fits import LABELS, NET, NOISE, XV, X, assert_equal, assert_near, assert_same_run, trainer

import portnet
from portnet import tree
from portnet.training import make_step

# Early stopping ----------------------------------------------------------------------------------


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


# ReduceOnPlateau ---------------------------------------------------------------------------------


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


# Callbacks, verbose output and history -----------------------------------------------------------


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


# Best epoch and the options of early stopping ----------------------------------------------------


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


# Reports, output and history ---------------------------------------------------------------------


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


def test_history_to_dict_returns_a_copy():
    history = trainer().fit(X, LABELS, epochs=1).history
    history.to_dict()["loss"].append(0.0)
    assert len(history["loss"]) == 1


def test_early_stopping_without_validation_warns_what_is_monitored():
    with pytest.warns(
        UserWarning, match="early_stopping: there are no validation rows, so the tr"
    ) as w:
        trainer().fit(X, LABELS, epochs=1, early_stopping=True)
    assert w[0].filename == __file__
    trainer().fit(X, LABELS, epochs=1, early_stopping=portnet.EarlyStopping("loss"))
    trainer().fit(X, LABELS, epochs=1, early_stopping=True, validation=0.2)
