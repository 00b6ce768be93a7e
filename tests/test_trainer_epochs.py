"""Epochs that nothing looks at are trained in a row: the same runs as one by one."""

import signal
import subprocess
import sys

import numpy as np
import pytest

import portnet
from portnet import tree

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 3, 50)
X = RNG.standard_normal((50, 4)) + LABELS[:, None]
WEIGHT = RNG.uniform(0.5, 2, 50)


def trainer(**options):
    net = portnet.mlp([4, 8, 3], "tanh", dropout=options.pop("dropout", 0.2))
    return portnet.Trainer(net, "softmax_cross_entropy", **{"batch_size": 16, **options})


def look(report):
    """Make the epochs watched, and so trained one by one."""


def assert_same_run(run, expected):
    assert (run.epoch, run.step, run.stopped) == (expected.epoch, expected.step, expected.stopped)
    assert run.history == expected.history
    for name in ("params", "state"):
        a, b = tree.leaves(getattr(run, name)), tree.leaves(getattr(expected, name))
        for p, q in zip(a, b, strict=True):
            np.testing.assert_array_equal(portnet.to_numpy(p), portnet.to_numpy(q))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": None},
        {"shuffle": False, "compile": False},
        {"optimizer": "sgd", "dropout": 0.0, "batch_size": 50},
        {"optimizer": portnet.SGD(portnet.StepDecay(0.1, 5, 0.5))},
    ],
    ids=["default", "full batch", "eager", "one batch", "schedule"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_epochs_in_a_row_equal_epochs_one_by_one(options, weighted):
    weight = WEIGHT if weighted else None
    run, expected = (
        trainer(**options).fit(X, LABELS, epochs=23, sample_weight=weight, callbacks=calls)
        for calls in ([], [look])
    )
    assert_same_run(run, expected)
    more = [r.fit(X, LABELS, epochs=4, sample_weight=weight) for r in (run, expected)]
    assert_same_run(*more)


def test_epochs_in_a_row_equal_epochs_one_by_one_on_every_backend(xp):
    data, labels = xp.asarray(X), xp.asarray(LABELS)
    run, expected = (
        trainer().fit(data, labels, epochs=7, callbacks=calls) for calls in ([], [look])
    )
    assert_same_run(run, expected)


@pytest.mark.parametrize("at", [3, 17])
def test_divergence_in_a_row_of_epochs_has_the_run_before_that_epoch(at):
    def rate(t):  # far too large from the first step of epoch `at` on
        return portnet.namespace(t).where(t >= 4 * (at - 1), 1e38 + 0.0 * t, 0.1 + 0.0 * t)

    runs = []
    for calls in ([], [look]):
        fit = trainer(optimizer=portnet.SGD(rate), dropout=0.0).fit
        with np.errstate(over="ignore"), pytest.raises(portnet.DivergenceError) as error:
            fit(X, LABELS, epochs=30, callbacks=calls)
        assert f"in epoch {at}, step " in str(error.value)
        runs.append(error.value.run)
    assert runs[0].epoch == at - 1 == len(runs[0].history["loss"])
    assert_same_run(*runs)


@pytest.mark.parametrize("handler", ["default", "raises"])
def test_interrupt_in_a_row_of_epochs_resumes_exactly(handler, monkeypatch):
    """Also between two epochs, under a handler that raises by itself."""

    def raises(number, frame):
        raise KeyboardInterrupt

    expected = trainer().fit(X, LABELS, epochs=12)
    whole, calls = portnet.trainer.rng.order, []

    def order(seed, epoch, rows):
        calls.append(epoch)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        return whole(seed, epoch, rows)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler if handler == "default" else raises)
    try:
        monkeypatch.setattr(portnet.trainer.rng, "order", order)
        with pytest.warns(UserWarning, match="interrupted"):
            run = trainer().fit(X, LABELS, epochs=12)
    finally:
        signal.signal(signal.SIGINT, before)
        monkeypatch.undo()
    assert 0 < run.epoch < 12  # the orders of several epochs are drawn before the first of them
    run = run.fit(X, LABELS, epochs=12 - run.epoch)
    assert_same_run(run, expected)


def test_fit_without_a_bar_imports_no_progress_bar():
    code = (
        "import sys, portnet\n"
        "trainer = portnet.Trainer(portnet.mlp([1, 1]), 'squared_error')\n"
        "trainer.fit([[1.0], [2.0]], [1.0, 2.0], epochs=2, progress=False)\n"
        "trainer.fit([[1.0], [2.0]], [1.0, 2.0], epochs=2)\n"
        "assert 'tqdm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.PIPE)


@pytest.mark.parametrize("stderr", [None, object()], ids=["none", "no isatty"])
def test_stderr_that_is_no_file_has_no_bar(stderr, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr)
    assert trainer().fit(X, LABELS, epochs=2).epoch == 2


def test_interrupt_before_epochs_are_made_again_is_no_divergence(monkeypatch):
    """Epochs that are not finite are made again: the epoch that was is not known before."""
    whole, calls = portnet.trainer.rng.order, []

    def order(seed, epoch, rows):
        calls.append(epoch)
        if calls.count(1) == 2:  # epoch 2, again
            raise KeyboardInterrupt  # as a handler other than Python's does
        return whole(seed, epoch, rows)

    monkeypatch.setattr(portnet.trainer.EpochExecutor, "epochs_at_once", lambda *args: 9)
    monkeypatch.setattr(portnet.trainer.rng, "order", order)
    net, optimizer = portnet.mlp([4, 3]), portnet.SGD(20.0)  # too large
    fit = portnet.Trainer(net, "squared_error", optimizer, batch_size=16).fit
    with pytest.warns(UserWarning, match="interrupted after epoch 1"):
        assert fit(X, X[:, :3], epochs=30).epoch == 1
