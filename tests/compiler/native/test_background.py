"""Machine code compiled in a thread, while the calls go on without it."""

import os
import subprocess
import sys
import threading

import pytest
from fits import LABELS, X, assert_same_run, trainer

import portnet
from portnet.compiler import native_policy

if native_policy.why_no_machine_code():
    pytest.skip(f"no machine code: {native_policy.why_no_machine_code()}", allow_module_level=True)
if os.environ.get("PORTNET_TESTS") == "eager":
    pytest.skip("PORTNET_TESTS=eager: no step is compiled", allow_module_level=True)

from portnet.compiler.native import background, jit
from portnet.engine import compile_cache


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing is compiled yet, and there is a second core."""
    monkeypatch.setenv("PORTNET_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PORTNET_NATIVE", "auto")
    monkeypatch.setattr(background, "has_spare_core", lambda: True)
    compile_cache._kept.clear()
    jit._machine_code.cache_clear()
    yield
    background._wait_for_all()
    compile_cache._kept.clear()


def fit(epochs=400):
    return trainer(batch_size=36).fit(X, LABELS, epochs=epochs)


def counting_scans(monkeypatch):
    from portnet.compiler.native.scan import Scan

    whole, counts = Scan.run, []
    monkeypatch.setattr(Scan, "run", lambda self, count: counts.append(count) or whole(self, count))
    return counts


@pytest.mark.usefixtures("fresh")
def test_fit_goes_on_while_machine_code_is_compiled_and_has_the_same_bits(monkeypatch):
    with monkeypatch.context() as m:
        m.setenv("PORTNET_NATIVE", "never")
        expected = fit()
    gate, whole = threading.Event(), jit._compiled

    def compiled(text, target):
        gate.wait(10)
        return whole(text, target)

    monkeypatch.setattr(jit, "_compiled", compiled)
    counts = counting_scans(monkeypatch)
    assert_same_run(fit(), expected)  # it ends before the compiler does
    assert counts == []
    assert [t.name for t in threading.enumerate()].count("portnet compiles") == 2  # 36 and 24 rows
    gate.set()
    background._wait_for_all()
    assert_same_run(fit(), expected)
    assert sum(counts) > 0


@pytest.mark.usefixtures("fresh")
def test_machine_code_is_used_in_the_fit_in_which_it_becomes_ready(monkeypatch):
    counts, steps = counting_scans(monkeypatch), []

    def wait(executor, epochs):
        steps.append(1)
        if len(steps) == 30:
            background._wait_for_all()

    from portnet.compiler.executable import Bound

    whole = Bound.__call__
    monkeypatch.setattr(Bound, "__call__", lambda self, a: wait(self, a) or whole(self, a))
    run = fit()
    assert len(steps) == 30
    assert sum(counts) == 1200 - 30
    monkeypatch.setenv("PORTNET_NATIVE", "never")
    assert_same_run(run, fit())


@pytest.mark.usefixtures("fresh")
def test_failure_in_the_background_warns_and_the_calls_go_on(monkeypatch):
    def fails(text, target):
        raise RuntimeError("no such processor")

    monkeypatch.setattr(jit, "_compiled", fails)

    def two_fits():
        fit()
        background._wait_for_all()
        return fit()

    with pytest.warns(portnet.CompileWarning, match=r"NumPy goes on: RuntimeError: no such"):
        run = two_fits()
    monkeypatch.setenv("PORTNET_NATIVE", "never")
    assert_same_run(run, fit())


@pytest.mark.usefixtures("fresh")
def test_thread_that_cannot_start_is_no_error(monkeypatch):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    counts = counting_scans(monkeypatch)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    run = fit()
    assert not background._running
    assert sum(counts) > 0  # it is compiled in the fit
    monkeypatch.setenv("PORTNET_NATIVE", "never")
    assert_same_run(run, fit())


@pytest.mark.usefixtures("fresh")
def test_with_one_core_nothing_is_compiled_in_the_background(monkeypatch):
    monkeypatch.setattr(background, "has_spare_core", lambda: False)
    counts = counting_scans(monkeypatch)
    fit(epochs=400)
    assert not background._running
    fit(epochs=2000)  # it is certain to pay: compiled at once
    assert sum(counts) > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_fork_and_exit_wait_for_the_compiler():
    """A child would wait for ever for locks of a thread that it does not have."""
    code = """
import os, sys
import numpy as np, portnet
from portnet.compiler.native import background
background.has_spare_core = lambda: True
X = np.linspace(-1, 1, 40).reshape(20, 2)
def fit():
    net = portnet.mlp([2, 4, 1])
    return portnet.Trainer(net, "squared_error", "adam", 6).fit(X, X[:, :1], epochs=500)
run = fit()
child = os.fork()
assert not background._running
if child == 0:
    os.environ["PORTNET_NATIVE"] = "always"
    again = fit()
    os._exit(0 if again.history["loss"] == run.history["loss"] else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    env = {**os.environ, "PORTNET_CACHE": "0", "PORTNET_NATIVE": "auto"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, timeout=60)
    assert done.returncode == 0
