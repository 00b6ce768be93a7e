"""python -m portnet.distributed: its options, and what it does before MPI starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from portnet.distributed import __main__ as launcher

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
    """The command that `_share_cores` would start, and its environment."""
    found = []
    monkeypatch.setattr(os, "execv", lambda path, command: found.append((path, command)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    for name in (*launcher.THREADS, *launcher.LOCAL_SIZES):
        monkeypatch.setenv(name, "1")  # so that it is as before in the end
        monkeypatch.delenv(name)
    return found


def test_ranks_of_a_machine_share_its_cores(started, monkeypatch):
    monkeypatch.setenv("MPI_LOCALNRANKS", "3")
    launcher._share_cores(["python", "-m", "portnet.distributed", "train.py"])
    command = [sys.executable, "-m", "portnet.distributed", "train.py"]
    assert started == [(sys.executable, command)]
    assert [os.environ[name] for name in launcher.THREADS] == ["5"] * 3


@pytest.mark.parametrize("names", [{}, {"MPI_LOCALNRANKS": "1"}])
def test_one_rank_has_all_cores(started, monkeypatch, names):
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    launcher._share_cores(["python"])
    assert not started


def test_threads_that_the_user_has_chosen_stay(started, monkeypatch):
    monkeypatch.setenv("MPI_LOCALNRANKS", "4")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    launcher._share_cores(["python"])
    assert not started
    assert os.environ["OMP_NUM_THREADS"] == "7"
