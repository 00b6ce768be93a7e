"""Jobs of MPI, for real: bits, faults and resumption of scripts on several processes.

Each job has a time limit. The scripts are unchanged ones: only what shows a fault asks for its rank.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mpi4py", reason="jobs of MPI need mpi4py")
BESIDE = Path(sys.executable).with_name("mpiexec")
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="jobs of MPI need mpiexec")
LIMIT = 30  # seconds in which a job with a fault must have ended
PATIENCE = 120  # seconds for a job without one, on a busy machine
# MPICH then uses the network only, as if each rank had a machine of its own.
OVER_TCP = {"MPIR_CVAR_NOLOCAL": "1", "FI_PROVIDER": "tcp", "UCX_TLS": "tcp,self"}
ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import hashlib, os, sys, time
import numpy as np
import portnet

draw = np.random.default_rng(0)
X = draw.normal(size=(500, 10))
y = (X[:, 0] * X[:, 1] > 0).astype(int)
epochs, options, more, callbacks = 6, {}, {}, []
RANK = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")))
#change
net = portnet.Chain((portnet.Dense(16), portnet.ReLU(), portnet.Dropout(0.1), portnet.Dense(2)))
trainer = portnet.Trainer(net, "softmax_cross_entropy", batch_size=64, **options)
run = trainer.fit(X, y, epochs=epochs, callbacks=callbacks, **more)
data = b"".join(a.tobytes() for a in portnet.tree.leaves(run.params))
sys.stdout.write(f"sha {hashlib.sha256(data).hexdigest()} {run.stopped}\\n")
"""
SLOW = """
def note(report):
    if report.epoch == 3:
        open(f"pid{RANK}", "w").write(str(os.getpid()))
    time.sleep(0.02)
callbacks.append(note)
epochs = 100_000
"""
CHECKPOINT = """
more = {"checkpoint": "run", "resume": True, "every": "5 steps"}
"""


class Job:
    """A job that runs a script in a folder; `limit` is in seconds."""

    def __init__(self, folder, size, change="", options=(), environment=None, mpi=(), before=()):
        script = folder / "train.py"
        script.write_text(SCRIPT.replace("#change", change))
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        env |= {"OPENBLAS_NUM_THREADS": "1", "TQDM_DISABLE": "1"} | (environment or {})
        command = [
            *before,
            MPIEXEC,
            *mpi,
            "-n",
            str(size),
            sys.executable,
            "-W",
            "error::RuntimeWarning",
        ]
        command += ["-m", "portnet.distributed", *map(str, options), str(script)]
        self.folder, self.began = folder, time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def ends(self, limit=LIMIT):
        """Return the exit status and what was printed."""
        try:
            printed, _ = self.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            printed, _ = self.process.communicate()
            raise AssertionError(f"the job has not ended after {limit} s: {printed}") from None
        return self.process.returncode, printed

    def pid(self, rank):
        """Return the number of a rank's process, once it trains."""
        path = self.folder / f"pid{rank}"
        while not (path.exists() and path.read_text()):
            assert self.process.poll() is None, self.ends()
            assert time.monotonic() - self.began < LIMIT
            time.sleep(0.02)
        return int(path.read_text())


def is_running(pid):
    """Tell whether a process still runs after two seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True


def hashes(printed):
    """Return the hashes that the ranks have printed."""
    return re.findall(r"sha ([0-9a-f]{64}) ", printed)


def hash_of(job):
    status, printed = job.ends(PATIENCE)
    assert status == 0, printed
    (found,) = set(hashes(printed))
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return hash_of(Job(tmp_path_factory.mktemp("alone"), 1))


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_a_job_has_the_bits_of_one_process(tmp_path, alone, size):
    status, printed = Job(tmp_path, size).ends(PATIENCE)
    assert status == 0, printed
    assert hashes(printed) == [alone] * size


def test_without_mpiexec_a_script_is_a_job_of_one(tmp_path, alone):
    job = Job(tmp_path, 1)
    job.ends()
    script = str(tmp_path / "train.py")
    command = [sys.executable, "-m", "portnet.distributed", script]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=LIMIT)
    assert hashes(done.stdout) == [alone], done.stderr


def test_other_shards_and_the_plain_all_reduce(tmp_path, alone):
    four = {hash_of(Job(tmp_path, n, options=["--shards", 4])) for n in (1, 2)}
    assert len(four) == 1
    plain = hash_of(Job(tmp_path, 2, options=["--no-deterministic"]))
    assert len({*four, plain, alone}) == 3


def test_estimators_and_draws_without_a_seed(tmp_path):
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")
    change = """
import random, warnings
warnings.simplefilter("ignore")
X = np.random.normal(size=(200, 5)) + random.random()
y = X[:, 0] > 0
model = portnet.MLPClassifier((8,), max_iter=5).fit(X, y)
sys.stdout.write(f"sha {hashlib.sha256(model.coefs_[0].tobytes()).hexdigest()} \\n")
sys.exit()
"""
    status, printed = Job(tmp_path, 3, change).ends()
    assert status == 0, printed
    assert len(hashes(printed)) == 3
    assert len(set(hashes(printed))) == 1


def test_a_killed_job_resumes_on_other_numbers_of_ranks_with_the_same_bits(tmp_path, alone):
    """Killed on 2 ranks, resumed and killed on 3, resumed on 1, and by python train.py."""
    kill = """
def kill(report):
    if RANK == 1 and report.epoch == AT:
        os.kill(os.getpid(), 9)
callbacks.append(kill)
"""
    for size, at in ((2, 3), (3, 5)):
        status, printed = Job(tmp_path, size, CHECKPOINT + kill.replace("AT", str(at))).ends()
        assert status != 0
        assert not hashes(printed)
    written = (tmp_path / "run").read_bytes()
    assert hash_of(Job(tmp_path, 1, CHECKPOINT)) == alone
    (tmp_path / "run").write_bytes(written)
    command = [sys.executable, str(tmp_path / "train.py")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=env, timeout=PATIENCE
    )
    assert hashes(done.stdout) == [alone], done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_of_a_rank_ends_the_job_and_the_checkpoint_resumes(tmp_path, alone):
    job = Job(tmp_path, 3, CHECKPOINT + SLOW)
    pids = [job.pid(k) for k in range(3)]
    os.kill(pids[1], signal.SIGKILL)
    began = time.monotonic()
    status, printed = job.ends()
    assert status != 0
    assert time.monotonic() - began < LIMIT
    assert f"rank 1 (process {pids[1]}) was killed by signal 9 (SIGKILL" in printed
    assert printed.count("was killed by signal") == 1  # not the others, which MPI ends
    assert not any(map(is_running, pids))
    change = f"import portnet\nepochs = portnet.load('run').epoch + 2\n{CHECKPOINT}"
    before = (tmp_path / "run").read_bytes()
    found = set()
    for size in (1, 2):
        (tmp_path / "run").write_bytes(before)
        found.add(hash_of(Job(tmp_path, size, change)))
    assert len(found) == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the state is read from /proc")
def test_a_stopped_rank_ends_the_job(tmp_path):
    job = Job(tmp_path, 2, SLOW)
    pid = job.pid(1)
    os.kill(pid, signal.SIGSTOP)
    status, printed = job.ends()
    assert status != 0
    assert f"rank 1 is stopped (process {pid}, as by SIGSTOP)" in printed
    assert "was killed by signal" not in printed
    assert not is_running(pid)


def test_a_rank_that_does_not_come_ends_the_job_after_the_timeout(tmp_path):
    change = """
if RANK == 1:
    time.sleep(1000)
"""
    status, printed = Job(tmp_path, 2, change, ["--timeout", 2]).ends()
    assert status != 0
    assert "rank 0 has waited 2 s for rank 1" in printed
    assert "--timeout SECONDS" in printed


def test_ranks_that_make_different_fits_end_after_the_timeout(tmp_path):
    """One leaves the loop over epochs and begins another fit; none is late, and all wait."""
    change = """
for run in portnet.Trainer(portnet.mlp([10, 2]), "softmax_cross_entropy").epochs(X, y, epochs=6):
    if RANK == 0 and run.epoch == 2:
        break
"""
    status, printed = Job(tmp_path, 2, change, ["--timeout", 2]).ends()
    assert status != 0
    assert "rank 0 has waited 2 s for the others: all of them wait, as they make diff" in printed


def test_a_rank_that_waits_in_vain_for_a_script_that_has_ended(tmp_path):
    status, printed = Job(tmp_path, 2, "if RANK == 1: sys.exit()").ends()
    assert status != 0
    assert "the script of rank 1 has ended, but rank 0 waits for it" in printed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("if RANK == 1: raise KeyError('in the script')", "KeyError: 'in the script'"),
        ("callbacks.append(lambda report: RANK == 1 and 1 // 0)", "rank 1: ZeroDivisionError"),
        ("if RANK == 1: options['seed'] = 5", "seed: 0 on rank 0, 5 on rank 1"),
        ("if RANK == 1: X[7, 2] = np.inf", "rank 1: DataError: X contains infinity"),
        ("X = X[: len(X) - RANK]; y = y[: len(X)]", "data.X.shape[0]: 500 on rank 0, 499 on"),
        ("options['batch_size'] = 0", "multiple values for keyword argument 'batch_size'"),
        ("sys.exit('no data')", "no data"),
    ],
    ids=str,
)
def test_an_error_ends_the_job_with_its_cause(tmp_path, change, words):
    status, printed = Job(tmp_path, 2, change).ends()
    assert status != 0
    assert words in printed
    assert "runpy" not in printed  # frames of the script only
    assert not hashes(printed)


@pytest.mark.skipif(sys.platform != "linux", reason="supervisors are for Linux")
def test_a_crash_of_a_library_names_the_rank(tmp_path):
    """A segmentation fault in a callback of rank 1."""
    change = """
import ctypes
callbacks.append(lambda report: RANK == 1 and report.epoch == 3 and ctypes.string_at(0) == b"")
"""
    status, printed = Job(tmp_path, 3, change).ends()
    assert status != 0
    assert re.search(r"rank 1 \(process \d+\) was killed by signal 11 \(SIGSEGV: a lib", printed)
    assert printed.count("was killed by signal") == 1


def test_the_status_of_a_script_is_that_of_the_job(tmp_path):
    status, printed = Job(tmp_path, 2, "if RANK == 1: sys.exit(3)").ends()
    assert status == 3, printed


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_signals_end_all_ranks_after_the_same_step(tmp_path, number, status):
    """A signal for one rank: it tells the others."""
    job = Job(tmp_path, 3, CHECKPOINT + SLOW)
    os.kill(job.pid(2), number)
    found, printed = job.ends()
    assert found == status, printed
    if status == 0:
        assert len(set(hashes(printed))) == 1
        assert len(hashes(printed)) == 3
        assert printed.count("UserWarning: training was interrupted") == 1
    else:
        assert not hashes(printed)
    assert (tmp_path / "run").exists()


def test_ctrl_c_at_mpiexec_ends_all_ranks_after_the_same_step(tmp_path):
    """Each rank gets the signal, in a step of its own; what follows the fit is not interrupted."""
    job = Job(tmp_path, 3, CHECKPOINT + SLOW)
    if "HYDRA" not in subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True).stdout:
        job.process.kill()
        pytest.skip("the mpiexec of MPICH passes Ctrl-C on; others end the job")
    for rank in range(3):
        job.pid(rank)
    job.process.send_signal(signal.SIGINT)
    status, printed = job.ends()
    assert status == 0, printed
    assert len(set(hashes(printed))) == 1
    assert len(hashes(printed)) == 3
    assert len(set(re.findall(r" interrupted after (.*?):", printed))) == 1
    assert (tmp_path / "run").exists()


def test_a_ctrl_c_that_reaches_a_rank_late_is_that_of_the_fit(tmp_path):
    """Rank 1 gets the signal when the fit that it ends has ended."""
    late = """
import threading
def both():
    os.kill(int(open("pid0").read()), 2)
    time.sleep(0.15)
    os.kill(os.getpid(), 2)
def start(report):
    if RANK == 1 and report.epoch == 5:
        threading.Thread(target=both).start()
callbacks.append(start)
"""
    rest = """
run = portnet.Trainer(portnet.mlp([10, 2]), "softmax_cross_entropy").fit(
    X, y, epochs=epochs, callbacks=callbacks
)
time.sleep(1)
sys.stdout.write(f"ended in epoch {run.epoch}\\n")
sys.exit()
"""
    status, printed = Job(tmp_path, 2, SLOW + late + rest).ends()
    assert status == 0, printed
    assert len(found := re.findall(r"ended in epoch (\d+)", printed)) == 2
    assert len(set(found)) == 1


def test_warnings_and_lines_come_from_rank_0_only(tmp_path):
    change = "X *= 1e4; more = {'verbose': True}"
    status, printed = Job(tmp_path, 3, change).ends()
    assert status == 0, printed
    assert printed.count("epoch 1/6") == 1
    assert printed.count("UserWarning") == 1


def test_mpiexec_of_another_mpi_is_detected(tmp_path):
    """Each process of the job believes that it is alone."""
    job = Job(tmp_path, 1)
    job.ends()
    script = str(tmp_path / "train.py")
    for name, value in (("OMPI_COMM_WORLD_SIZE", "4"), ("MV2_COMM_WORLD_SIZE", "2")):
        env = os.environ | {"PYTHONPATH": str(ROOT), name: value}
        command = [sys.executable, "-m", "portnet.distributed", script]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=LIMIT)
        assert done.returncode == 1
        assert f"{name}={value}, but each process is alone" in done.stderr
        assert "mpiexec" in done.stderr
        assert not done.stdout


def test_ranks_over_tcp_have_the_same_bits(tmp_path, alone):
    """As on two machines: without the memory that ranks of one machine share."""
    assert hash_of(Job(tmp_path, 2, environment=OVER_TCP)) == alone
