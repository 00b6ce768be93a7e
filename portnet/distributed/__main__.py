"""Runs a script on all ranks of an MPI job; a rank that fails ends the job."""

import argparse
import os
import random
import runpy
import sys
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..engine.ranks import DistributedError, Ranks, set_ranks
from .mpi import MPICommunicator
from .supervisor import follow_supervisor, rank_of_launcher, supervise
from .watchdog import DRAIN, TIMEOUT

__all__ = ["main"]

THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
LOCAL_SIZES = "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"


def main() -> None:
    """Run the script that the command line names."""
    options = _options(sys.argv[1:])
    _start_rank([sys.executable, *sys.orig_argv[1:]])
    try:
        communicator = MPICommunicator(options.timeout)
        ranks = Ranks(communicator, options.shards, options.deterministic)
    except (ImportError, RuntimeError, ValueError) as error:
        sys.exit(f"portnet.distributed: {error}")
    set_ranks(ranks)
    seed = communicator.allgather(int.from_bytes(os.urandom(4), "little"))[0]
    random.seed(seed)  # a script that draws without a seed draws the same on all ranks
    np.random.seed(seed)  # noqa: NPY002 (what such scripts draw from)
    if ranks.rank:
        warnings.showwarning = _show_nothing
    try:
        _run(options.script, options.arguments)
    except SystemExit as error:
        status = _status(error.code)
        if status:
            _abort(ranks, status)
    except BaseException as error:
        _print_error(ranks, error)
        _abort(ranks, 130 if isinstance(error, KeyboardInterrupt) else 1)
    communicator.watchdog.end()


def _options(arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser(
        prog="mpiexec -n 4 python -m portnet.distributed",
        description="Run a script on all ranks of an MPI job: its fits train together.",
    )
    parser.add_argument("--shards", type=int, default=8, help="parts of a batch: a power of two; 8")
    parser.add_argument(
        "--no-deterministic",
        dest="deterministic",
        action="store_false",
        help="sum gradients in any order: a little faster, other bits for another number of ranks",
    )
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT, help="seconds to wait for a rank; 600"
    )
    parser.add_argument("script", help="a file of Python")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    found = parser.parse_args(arguments)
    if not found.timeout > 0:
        parser.error(f"--timeout: expected seconds above 0, got {found.timeout:g}")
    if not Path(found.script).exists():
        parser.error(f"there is no file {found.script}")
    return found


def _start_rank(command: list[str]) -> None:
    """Start this process again, where it needs a supervisor, or its share of the cores.

    Each rank would otherwise use all cores of its machine in matrix products. The libraries read
    these variables when they are loaded, which has happened by now.
    """
    supervised = sys.platform == "linux" and follow_supervisor()
    rank, shared = rank_of_launcher(), _share_cores()
    if sys.platform == "linux" and rank and not supervised:
        sys.exit(supervise(rank, command))
    if shared:
        os.execv(command[0], command)


def _share_cores() -> bool:
    """Set the threads of this rank; False where it has all cores, or the user has chosen."""
    local = max([int(os.environ.get(name, "1")) for name in LOCAL_SIZES])
    if local == 1 or any(name in os.environ for name in THREADS):
        return False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ |= dict.fromkeys(THREADS, str(max(1, (cores or 1) // local)))
    return True


def _run(script: str, arguments: list[str]) -> None:
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


def _show_nothing(*warning: object, **more: object) -> None:
    """Drop a warning: rank 0 shows the same one."""


def _status(code: object) -> int:
    """Return the exit status of a SystemExit; a text is printed, as Python does."""
    if code is None or isinstance(code, int):
        return int(code or 0)
    print(code, file=sys.stderr)  # noqa: T201
    return 1


def _print_error(ranks: Ranks, error: BaseException) -> None:
    """Print the traceback of an error; where several ranks have one, that of the first cause."""
    of_others = isinstance(error, DistributedError) and error.rank not in (None, ranks.rank)
    if of_others or (isinstance(error, KeyboardInterrupt) and ranks.rank):
        time.sleep(2.0)  # the rank that failed ends the job meanwhile
    elif ranks.rank:
        time.sleep(0.5)  # where all ranks have the same error, rank 0 prints it
    print(f"rank {ranks.rank} of {ranks.size} ends the job:", file=sys.stderr)  # noqa: T201
    error = error.with_traceback(_of_script(error.__traceback__))
    sys.excepthook(type(error), error, error.__traceback__)


def _of_script(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames that run the script."""
    skipped = trace
    while skipped is not None:
        name = skipped.tb_frame.f_code.co_filename
        if name != __file__ and "runpy" not in name:
            return skipped
        skipped = skipped.tb_next
    return trace


def _abort(ranks: Ranks, status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(DRAIN)
    ranks.communicator.abort(status)


if __name__ == "__main__":
    main()
