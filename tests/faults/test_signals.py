"""Signals to a process that trains: what a preempted job leaves behind, and how it ends.

python tests/faults/test_signals.py
"""

import json
import os
import signal
import sys
import threading

import numpy as np
import processes
import pytest
from processes import differing, quietly

import portnet

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")

ROWS = np.random.default_rng(2).standard_normal((96, 6))
LABELS = (ROWS[:, 0] > ROWS[:, 1]).astype(int)
OPTIONS = {"epochs": 4, "validation": 0.25}  # 72 rows: an epoch has nine steps


class Calls:
    """A layer that calls a function in its n-th training step."""

    at, what = 0, staticmethod(lambda: None)

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        if key is not None:
            Calls.at -= 1
            if Calls.at == 0:
                Calls.what()
        return x, None

    def backward(self, params, cache, dy):
        return (), dy


NET = portnet.Chain([portnet.Dense(8), Calls(), portnet.Dropout(0.2), portnet.Dense(2)])
TRAINER = portnet.Trainer(NET, "softmax_cross_entropy", batch_size=8, seed=3, compile=False)


def fit(**options):
    return quietly(TRAINER.fit, ROWS, LABELS, **OPTIONS | options)


def say(word):
    print(word, flush=True)


def send(*numbers):
    """Return a function that sends these signals to this process."""

    def send_them():
        for number in numbers:
            signal.raise_signal(number)

    return send_them


def interrupt_and_wait():
    """Send SIGINT, say so, and wait: only another signal ends this step."""
    signal.raise_signal(signal.SIGINT)
    say("waiting")
    threading.Event().wait()


ACTIONS = {
    "SIGTERM": send(signal.SIGTERM),
    "SIGTERM twice": send(signal.SIGTERM, signal.SIGTERM),
    "SIGINT": send(signal.SIGINT),
    "SIGINT and wait": interrupt_and_wait,
    "SIGTERM then SIGINT": send(signal.SIGTERM, signal.SIGINT),
}


def child(action, at, path):
    """Fit with a checkpoint (or none, for the path "") and an action in its n-th step."""
    for number in (signal.SIGINT, signal.SIGTERM):  # as in a terminal
        default = signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler
        signal.signal(number, default)
    options = {"checkpoint": path, "every": 100} if path else {}
    Calls.at, Calls.what = int(at), ACTIONS.get(action, lambda: None)
    if action == "from outside":
        options |= {"callbacks": [lambda report: say(f"epoch {report.epoch}")], "epochs": 10**6}
    if action == "user's own":
        seen = []
        signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
        ours = signal.getsignal(signal.SIGTERM)
        Calls.what = send(signal.SIGTERM)
    if action == "in the last write":
        from portnet.files import checkpoint

        write = checkpoint.write_file
        checkpoint.write_file = lambda *args: (send(signal.SIGTERM)(), write(*args))
    run = fit(**options)
    told = {"epoch": run.epoch, "step": run.step, "stopped": run.stopped}
    if action == "user's own":
        told |= {"seen": seen, "kept": signal.getsignal(signal.SIGTERM) is ours}
    say(json.dumps(told))


def end_of(action, at, path=""):
    """Run a child to its end; return its exit status and what it printed."""
    return processes.finish(processes.start(__file__, action, at, path))


def resume(path):
    """Resume in this process; fail unless all is as in a fit that nothing ended."""
    Calls.at = 0
    again, whole = (os.path.join(os.path.dirname(path), n) for n in ("again", "whole"))
    portnet.save(fit(checkpoint=path, resume=True), again, state=True)
    portnet.save(fit(), whole, state=True)
    custom = {"Calls": Calls}
    assert differing(again, whole) == []
    expected = portnet.load(whole, custom=custom).predict(ROWS)
    np.testing.assert_array_equal(portnet.load(again, custom=custom).predict(ROWS), expected)


@pytest.mark.parametrize("at", [1, 13, 18, 36])  # within an epoch, in its last step, in the last
@pytest.mark.parametrize("action", ["SIGTERM", "SIGTERM twice"])
def test_sigterm_writes_the_checkpoint_and_exits_with_143(action, at, tmp_path):
    path = str(tmp_path / "run.st")
    status, out, err = end_of(action, at, path)
    assert (status, out) == (143, ""), err
    run = portnet.load(path, custom={"Calls": Calls})
    assert (run.epoch, run.step) == divmod(at, 9)
    resume(path)


def test_sigterm_without_a_checkpoint_ends_the_process():
    status, out, err = end_of("SIGTERM", 13)
    assert (status, out) == (-signal.SIGTERM, ""), err


def test_sigterm_from_outside_writes_the_checkpoint(tmp_path):
    path = str(tmp_path / "run.st")
    process = processes.start(__file__, "from outside", 0, path)
    assert process.stdout.readline() == "epoch 1\n"
    process.send_signal(signal.SIGTERM)
    status, _, err = processes.finish(process)
    assert status == 143, err
    run = portnet.load(path, custom={"Calls": Calls})
    assert run.epoch * 9 + run.step > 0
    assert processes.temporaries(tmp_path) == []


def test_sigterm_during_the_last_write_is_not_lost(tmp_path):
    path = str(tmp_path / "run.st")
    status, out, err = end_of("in the last write", 0, path)
    assert (status, out) == (143, ""), err
    assert portnet.load(path, custom={"Calls": Calls}).epoch == 4


def test_sigint_writes_the_checkpoint_and_returns_the_run(tmp_path):
    path = str(tmp_path / "run.st")
    status, out, err = end_of("SIGINT", 13, path)
    assert status == 0, err
    told = json.loads(out)
    assert (told["epoch"], told["step"]) == (1, 4)
    assert "interrupted after step 4 of epoch 2" in told["stopped"]
    run = portnet.load(path, custom={"Calls": Calls})
    assert (run.epoch, run.step, run.stopped) == (1, 4, "")
    resume(path)


def test_second_sigint_ends_the_step_at_once(tmp_path):
    path = str(tmp_path / "run.st")
    process = processes.start(__file__, "SIGINT and wait", 13, path)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    status, out, err = processes.finish(process)  # the step itself would wait for ever
    assert status == 0, err
    told = json.loads(out)
    assert (told["epoch"], told["step"]) == (1, 3)  # it is not counted
    resume(path)


def test_sigint_after_sigterm_ends_the_step_and_exits_with_143(tmp_path):
    path = str(tmp_path / "run.st")
    status, out, err = end_of("SIGTERM then SIGINT", 13, path)
    assert (status, out) == (143, ""), err
    run = portnet.load(path, custom={"Calls": Calls})
    assert (run.epoch, run.step) == (1, 3)
    resume(path)


def test_sigterm_handler_of_the_user_stays(tmp_path):
    status, out, err = end_of("user's own", 13, str(tmp_path / "run.st"))
    assert status == 0, err
    expected = {"epoch": 4, "step": 0, "stopped": "", "seen": [signal.SIGTERM], "kept": True}
    assert json.loads(out) == expected


def test_handlers_are_as_before_after_each_end(tmp_path):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    assert before[signal.SIGTERM] == signal.SIG_DFL
    Calls.at, Calls.what = 13, send(signal.SIGTERM)
    with pytest.raises(SystemExit) as error:
        fit(checkpoint=tmp_path / "run.st")
    assert error.value.code == 143
    assert (error.value.run.epoch, error.value.run.step) == (1, 4)
    assert {n: signal.getsignal(n) for n in before} == before


def test_checkpoints_in_a_thread_leave_signals_alone(tmp_path):
    path, found = str(tmp_path / "run.st"), {}
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def look():
        found.update({n: signal.getsignal(n) for n in before})

    def train():
        Calls.at, Calls.what = 5, look
        found["run"] = TRAINER.fit(ROWS, LABELS, checkpoint=path, **OPTIONS)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert {n: found[n] for n in before} == before
    assert found["run"].epoch == portnet.load(path, custom={"Calls": Calls}).epoch == 4


def test_sigterm_in_a_loop_over_epochs_exits_with_143(tmp_path):
    path = str(tmp_path / "run.st")
    Calls.at, Calls.what = 13, send(signal.SIGTERM)
    seen = []
    with pytest.raises(SystemExit) as error:
        seen.extend(TRAINER.epochs(ROWS, LABELS, checkpoint=path, **OPTIONS))
    assert (error.value.code, len(seen), error.value.run.step) == (143, 1, 4)
    resume(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:])
    else:
        sys.exit(pytest.main(["-q", __file__]))
