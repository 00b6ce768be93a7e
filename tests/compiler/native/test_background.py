"""Machine code compiled by another process, while the calls go on without it."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from fits import LABELS, X, assert_same_run, trainer

import portnet
from portnet.compiler import native_policy

if native_policy.why_no_machine_code():
    pytest.skip(f"no machine code: {native_policy.why_no_machine_code()}", allow_module_level=True)
if os.environ.get("PORTNET_TESTS") == "eager":
    pytest.skip("PORTNET_TESTS=eager: no step is compiled", allow_module_level=True)

from portnet.compiler.native import background, jit, llvm
from portnet.engine import compile_cache


def wait_for_all():
    for compilation in list(background._running):
        compilation.wait()


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing is compiled yet, and there is a second core."""
    monkeypatch.setenv("PORTNET_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PORTNET_NATIVE", "auto")
    monkeypatch.setattr(background, "_seconds", [0.0])
    # At the lowest priority it would take half a minute beside other tests.
    monkeypatch.setattr(background, "_CODE", background._CODE.replace("os.nice(19)", ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    compile_cache._kept.clear()
    jit.forget()
    yield tmp_path
    wait_for_all()
    compile_cache._kept.clear()
    jit.forget()


def fit(epochs=60):
    return trainer(batch_size=36).fit(X, LABELS, epochs=epochs)


@pytest.fixture
def expected(monkeypatch):
    with monkeypatch.context() as m:
        m.setenv("PORTNET_NATIVE", "never")
        run = fit()
    compile_cache._kept.clear()
    return run


@pytest.fixture
def counts(monkeypatch):
    """The numbers of steps that machine code makes."""
    from portnet.compiler.native.scan import Scan

    whole, counts = Scan.run, []
    monkeypatch.setattr(Scan, "run", lambda self, count: counts.append(count) or whole(self, count))
    return counts


@pytest.fixture
def here(monkeypatch):
    """Fail where this process compiles."""
    monkeypatch.setattr(llvm, "compiled", lambda text, cpu: pytest.fail("compiled here"))


@pytest.mark.usefixtures("here")
def test_fit_goes_on_while_another_process_compiles(expected, fresh, counts, monkeypatch):
    gate, whole = threading.Event(), background.python

    def python(*args):
        gate.wait(10)
        return whole(*args)

    monkeypatch.setattr(background, "python", python)
    assert_same_run(fit(), expected)  # it ends before the compiler does
    assert counts == []
    assert [t.name for t in threading.enumerate()].count("portnet compiles") == 1
    gate.set()
    wait_for_all()
    assert_same_run(fit(), expected)
    assert sum(counts) > 0


@pytest.mark.usefixtures("here")
def test_machine_code_is_used_in_the_fit_in_which_it_becomes_ready(
    expected, fresh, counts, monkeypatch
):
    from portnet.compiler.executable import Bound

    whole, steps = Bound.__call__, []

    def call(self, arrays):
        steps.append(1)
        if background._running:
            wait_for_all()
            started.append(len(steps))
        return whole(self, arrays)

    started = []
    monkeypatch.setattr(Bound, "__call__", call)
    assert_same_run(fit(), expected)
    assert len(started) == 1
    assert len(steps) == started[0]  # at the next step it is there
    assert sum(counts) == 180 - len(steps)


def test_code_is_in_the_cache_even_if_this_process_does_not_wait(expected, fresh, counts):
    fit()
    wait_for_all()
    assert len(list(fresh.iterdir())) == 2  # for 36 and for 24 rows
    compile_cache._kept.clear()
    jit.forget()
    assert_same_run(fit(), expected)
    assert sum(counts) == 180


def test_without_a_cache_the_other_process_hands_the_code_over(
    expected, fresh, counts, monkeypatch
):
    monkeypatch.setenv("PORTNET_CACHE", "0")
    fit()
    wait_for_all()
    assert not list(fresh.iterdir())
    assert_same_run(fit(), expected)
    assert sum(counts) > 0


FAILURES = {
    "it cannot start": OSError("no more processes"),
    "it ends with an error": subprocess.CalledProcessError(1, "python"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failure_of_the_other_process_is_no_error(expected, fresh, counts, monkeypatch, name):
    tried = []

    def python(*args):
        tried.append(1)
        raise FAILURES[name]

    monkeypatch.setattr(background, "python", python)
    for _ in range(2):
        assert_same_run(fit(), expected)
        wait_for_all()
    assert len(tried) == 1  # and not again at each step
    assert counts == []


def test_answer_that_is_no_code_is_no_error(expected, fresh, monkeypatch):
    class Done:
        stdout = json.dumps(["", "abcd"])

    monkeypatch.setattr(background, "python", lambda *args: Done())
    assert_same_run(fit(), expected)
    wait_for_all()
    assert_same_run(fit(), expected)


def test_thread_that_cannot_start_is_no_error(expected, fresh, monkeypatch):
    tried = []

    def no_thread(self):
        tried.append(1)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert_same_run(fit(), expected)
    assert not background._running
    assert len(tried) == 1


class Busy:
    is_lost = False


BUSY = {
    "one core": lambda m: m.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False),
    "compilers took too long": lambda m: m.setattr(background, "_seconds", [1e9]),
    "a program that contains Python": lambda m: m.setattr(sys, "executable", "/usr/bin/blender"),
    "a program of a similar name": lambda m: m.setattr(sys, "executable", "/bin/mypythonapp"),
    "no executable": lambda m: m.setattr(sys, "executable", None),
    "a frozen program": lambda m: m.setattr(sys, "frozen", True, raising=False),
    "another one is compiling": lambda m: m.setattr(background, "_running", {Busy()}),
}


@pytest.mark.parametrize("name", BUSY)
def test_no_other_process_is_started(expected, fresh, counts, monkeypatch, name):
    monkeypatch.setattr(background, "python", lambda *args: pytest.fail("started"))
    with monkeypatch.context() as m:
        BUSY[name](m)
        assert_same_run(fit(), expected)
        assert not background.can_compile_beside()
        assert counts == []
        fit(epochs=4000)  # it is certain to pay: compiled here, at once
        assert sum(counts) > 0


def test_compilers_take_a_share_of_the_time_that_the_process_computes(monkeypatch, fresh):
    monkeypatch.setattr(time, "process_time", lambda: 10.0)
    background._seconds[0] = 0.99 * background.SHARE * 10.0
    assert background.can_compile_beside()
    background._seconds[0] = 1.01 * background.SHARE * 10.0
    assert not background.can_compile_beside()


def test_plan_that_needs_numpy_is_not_compiled_again_and_again(fresh, counts, monkeypatch):
    """An operation between the others that has no machine code."""

    class Sorted:
        def init(self, rng, n_in):
            return {"s": portnet.init(portnet.Dense(n_in), n_in)["W"]}, n_in

        def forward(self, params, x, key=None):
            return portnet.namespace(x).var(x, axis=0, keepdims=True) * x, x

        def backward(self, params, x, dy):
            return {"s": params["s"] * 0.0}, dy

    tried, whole = [], background.python
    monkeypatch.setattr(background, "python", lambda *args: tried.append(1) or whole(*args))
    net = portnet.Chain([portnet.Dense(4), Sorted(), portnet.Dense(3)])
    model = portnet.Trainer(net, "softmax_cross_entropy", "adam", batch_size=36)
    for _ in range(3):
        model.fit(X, LABELS, epochs=60)
        wait_for_all()
    assert len(tried) <= 1
    assert counts == []


def test_other_process_has_the_lowest_priority():
    code = background._code().replace("compile_given()", "print(os.nice(0))")
    assert llvm.python(code, True).stdout.strip() == b"19"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_copy_of_the_process_goes_on_and_may_compile_itself():
    code = """
import os, sys
import numpy as np, portnet
from portnet.compiler.native import background
os.sched_getaffinity = lambda process: {0, 1}
X = np.linspace(-1, 1, 40).reshape(20, 2)
def fit(batch_size):
    net = portnet.mlp([2, 4, 1])
    return portnet.Trainer(net, "squared_error", "adam", batch_size).fit(X, X[:, :1], epochs=150)
run = fit(6)
assert background._running
before = set(background._running)
child = os.fork()
if child == 0:
    again = fit(6)
    assert again.history["loss"] == run.history["loss"]
    fit(5)
    assert background._running - before
    for compilation in list(background._running - before):
        compilation.wait()
    os._exit(0)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    env = {**os.environ, "PORTNET_CACHE": "0", "PORTNET_NATIVE": "auto"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, timeout=60)
    assert done.returncode == 0


def test_process_ends_without_waiting_for_the_compiler(tmp_path):
    """And the other one goes on, and puts the code into the cache."""
    code = """
import os
import numpy as np, portnet
from portnet.compiler.native import background, llvm
os.sched_getaffinity = lambda process: {0, 1}
X = np.linspace(-1, 1, 40).reshape(20, 2)
net = portnet.mlp([2, 4, 1])
portnet.Trainer(net, "squared_error", "adam", 5).fit(X, X[:, :1], epochs=100)
print(len(background._running))
"""
    env = {**os.environ, "PORTNET_CACHE_DIR": str(tmp_path), "PORTNET_NATIVE": "auto"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("1", "")
    for _ in range(1200):  # it has the lowest priority
        if list(tmp_path.glob("*.o")):
            return
        time.sleep(0.05)
    raise AssertionError("nothing was compiled")
