"""python -m portnet.distributed: its options, and what it does before MPI starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from portnet.distributed import __main__ as launcher
from portnet.distributed import supervisor

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, code="import runpy; runpy.run_module('portnet.distributed', {}, '__main__')"):
    """Run the module as `python -m` does; return the exit status and stderr."""
    command = [sys.executable, "-c", f"import sys\n{code}", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert not done.stdout or "usage" in done.stdout
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: script"),
        (["no-such-file.py"], "there is no file no-such-file.py"),
        (["--timeout", 0, __file__], "--timeout: expected seconds above 0, got 0"),
        (["--timeout", "nan", __file__], "--timeout: expected seconds above 0, got nan"),
        (["--shards", "many", __file__], "argument --shards: invalid int value: 'many'"),
        (["--workers", 2, __file__], "unrecognized arguments: --workers"),
    ],
    ids=str,
)
def test_bad_options_are_errors_before_anything_starts(arguments, words):
    status, printed = run(*arguments)
    assert status == 2
    assert words in printed


def test_without_mpi_the_error_says_what_to_install():
    code = """
sys.modules["mpi4py"] = None
import runpy
runpy.run_module("portnet.distributed", {}, "__main__")
"""
    status, printed = run(__file__, code=code)
    assert status == 1
    assert "training on several processes needs MPI" in printed
    assert '".[mpi]"' in printed or "mpi4py" in printed
    assert "Traceback" not in printed


def test_shards_that_are_no_power_of_two_end_the_job():
    pytest.importorskip("mpi4py", reason="MPI starts before")
    status, printed = run("--shards", 3, __file__)
    assert status == 1
    assert "shards: expected a power of two, such as 8, got 3" in printed
    assert "Traceback" not in printed


@pytest.fixture
def started(monkeypatch):
    """The command that `_start_rank` would start, and its environment."""
    found = []
    monkeypatch.setattr(os, "execv", lambda path, command: found.append((path, command)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    for name in (*launcher.THREADS, *launcher.LOCAL_SIZES, *supervisor.NUMBERS):
        monkeypatch.setenv(name, "1")  # so that it is as before in the end
        monkeypatch.delenv(name)
    return found


def test_ranks_of_a_machine_share_its_cores(started, monkeypatch):
    monkeypatch.setenv("MPI_LOCALNRANKS", "3")
    command = [sys.executable, "-m", "portnet.distributed", "train.py"]
    launcher._start_rank(command)
    assert started == [(sys.executable, command)]
    assert [os.environ[name] for name in launcher.THREADS] == ["5"] * 3


@pytest.mark.parametrize("names", [{}, {"MPI_LOCALNRANKS": "1"}])
def test_one_rank_has_all_cores(started, monkeypatch, names):
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    launcher._start_rank(["python"])
    assert not started


def test_threads_that_the_user_has_chosen_stay(started, monkeypatch):
    monkeypatch.setenv("MPI_LOCALNRANKS", "4")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    launcher._start_rank(["python"])
    assert not started
    assert os.environ["OMP_NUM_THREADS"] == "7"


# Supervisors ------------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="supervisors are for Linux")
SUPERVISED = """
import sys
from portnet.distributed.supervisor import supervise
sys.exit(supervise("3", [sys.executable, "-c", sys.argv[1]]))
"""
FOLLOWS = """
import os, signal, sys, time
from portnet.distributed.supervisor import follow_supervisor
assert follow_supervisor()
"""


def supervised(code):
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, FOLLOWS + code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@linux
@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("sys.exit(7)", 7, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "rank 3 (process {pid}) was killed by signal 9 (SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGABRT)", 134, "rank 3 (process {pid}) was killed by signal 6 (SIGABRT)"),
    ],
)  # fmt: skip
def test_a_supervisor_returns_the_status_and_names_what_was_killed(code, status, words):
    process = supervised(f"print(os.getpid(), flush=True)\n{code}")
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert words.format(pid=printed.strip()) in errors
    assert bool(errors) == bool(words)


@linux
def test_a_supervisor_passes_signals_on_and_is_silent_about_these():
    process = supervised("print('ready', flush=True)\ntime.sleep(60)")
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not errors


@linux
def test_a_rank_is_killed_where_its_supervisor_is():
    process = supervised("print(os.getpid(), flush=True)\ntime.sleep(60)")
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=60)  # to the end of what the rank prints, too
    assert process.returncode == -signal.SIGKILL
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.02)
    raise AssertionError("the rank lives on")


def test_the_rank_is_known_from_the_launcher(started, monkeypatch):
    assert supervisor.rank_of_launcher() == ""
    monkeypatch.setenv("PMI_RANK", "5")
    assert supervisor.rank_of_launcher() == "5"
