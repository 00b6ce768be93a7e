"""Ctrl-C during Trainer.fit: what is kept, and how training resumes."""

import pickle
import signal
import threading
import warnings

import fits
import pytest
from custom import Square
from fits import (
    LABELS,
    MONITORING,
    SendsSIGINT,
    X,
    assert_equal,
    assert_same_run,
    interrupted,
    trainer,
)

import portnet


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
    assert caught[0].filename == fits.__file__
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
    assert {w.filename for w in caught} == {fits.__file__}
    assert {w.filename for w in again} == {__file__}
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


# Resumed epochs ----------------------------------------------------------------------------------


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
