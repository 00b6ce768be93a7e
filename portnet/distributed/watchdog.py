"""Watchdog: ends a job in which a rank waits for one that is stopped, has ended, or is lost.

MPI itself ends a job where a process dies. A process that is stopped, or a network that drops
everything, would make the others wait for ever. So each rank counts its exchanges in memory that
the ranks of a machine share; a thread looks at these numbers once a second.
"""

import os
import sys
import threading
import time
from typing import Any

import numpy as np

__all__ = ["DRAIN", "STATUS", "TIMEOUT", "Watchdog"]

TIMEOUT = 600.0  # seconds that a rank may wait for another one that is running
STOPPED = 10  # looks at a process that is stopped, or has ended, until the job is ended
SECONDS = 1.0  # between two looks
DRAIN = 0.3  # seconds in which mpiexec passes on what was printed, before the job is ended
STATUS = 75  # of a job that the watchdog ends: EX_TEMPFAIL, it may be tried again
ENDED = np.iinfo(np.int64).max


class Watchdog:
    """Counts the exchanges of this rank, within ``with watchdog:``, and looks after the others.

    Parameters
    ----------
    mpi : module
        mpi4py's.
    timeout : float
        Seconds after which the job is ended where another rank does not come.
    """

    def __init__(self, mpi: Any, timeout: float = TIMEOUT) -> None:
        self._mpi, self.timeout = mpi, timeout
        world = mpi.COMM_WORLD
        self.rank, self.size = world.Get_rank(), world.Get_size()
        self._waiting, self._waited = False, 0.0
        self.counts = np.zeros(1, np.int64)  # of exchanges, by rank on this machine
        self._at = 0
        if self.size == 1:
            return
        node = world.Split_type(mpi.COMM_TYPE_SHARED)
        self._at = node.Get_rank()
        self.known: list[tuple[int, int]] = node.allgather((self.rank, os.getpid()))
        window = mpi.Win.Allocate_shared(
            8 if node.Get_rank() else 8 * node.Get_size(), 1, comm=node
        )
        memory, _ = window.Shared_query(0)
        self.counts = np.frombuffer(memory, np.int64)[: node.Get_size()]
        self.counts[self._at] = 0
        node.Barrier()
        threading.Thread(target=self._watch, name="portnet watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self.counts[self._at] += 1
        self._waiting = True

    def __exit__(self, *error: object) -> None:
        self._waiting = False

    def end(self) -> None:
        """Say that this rank's script has ended."""
        self.counts[self._at] = ENDED

    def _watch(self) -> None:
        looks, seen, ill = 0, -1, 0
        while True:
            time.sleep(min(SECONDS, self.timeout / 4))
            mine = int(self.counts[self._at])
            if not self._waiting or mine != seen:  # looks are counted: the whole job may be stopped
                looks, seen, ill = 0, mine, 0
                continue
            looks += 1
            found = self._fault(mine)
            ill = ill + 1 if found else 0
            # The first rank that waits speaks; the others only where it does not.
            patience = 0 if self._speaks(mine) else 3
            if found and ill >= min(STOPPED, self.timeout) + patience:
                self._end(found)
            if looks * min(SECONDS, self.timeout / 4) >= self.timeout + patience:
                late = [k for k, count in self._others() if count < mine]
                whom = f"rank {', '.join(map(str, late))}" if late else "ranks on other machines"
                why = "a process hangs, does something else, or cannot be reached"
                if not late and len(self.known) == self.size:
                    whom, why = "the others", "all of them wait, as they make different fits"
                self._end(
                    f"rank {self.rank} has waited {self.timeout:g} s for {whom}: {why}. --timeout "
                    "SECONDS lets ranks wait longer"
                )

    def _others(self) -> list[tuple[int, int]]:
        """Return rank and count of the others on this machine."""
        return [(k, int(c)) for (k, _), c in zip(self.known, self.counts, strict=True)]

    def _speaks(self, mine: int) -> bool:
        waiting = [k for k, count in self._others() if mine <= count < ENDED]
        return not any(k < self.rank for k in waiting)

    def _fault(self, mine: int) -> str:
        """Return why a rank on this machine will not come; "" where none is known."""
        for (rank, pid), count in zip(self.known, self.counts, strict=True):
            if count == ENDED:
                return (
                    f"the script of rank {rank} has ended, but rank {self.rank} waits for it: all "
                    "ranks must make the same fits"
                )
            if count < mine and _is_stopped(pid):
                return f"rank {rank} is stopped (process {pid}, as by SIGSTOP)"
        return ""

    def _end(self, why: str) -> None:
        print(f"portnet.distributed: {why}. The job ends.", file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(DRAIN)
        # mpiexec kills the others, also a stopped one. MPI_Abort may wait for a lost network.
        os._exit(STATUS)


def _is_stopped(pid: int) -> bool:
    """Tell whether a process of this machine is stopped; False where that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state: bytes = file.read().rpartition(b")")[2].split()[0]
            return state in (b"T", b"t")
    except OSError:
        return False
