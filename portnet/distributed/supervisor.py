"""Supervisor: starts the process of a rank, and names the rank where that process is killed.

MPI ends a job where a process is killed, within milliseconds: the other ranks cannot say which one
it was, and MPI names a process and no rank. So on Linux each rank is the child of a process that
does nothing but wait for it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

__all__ = ["NUMBERS", "follow_supervisor", "rank_of_launcher", "supervise"]

SUPERVISOR = "PORTNET_SUPERVISOR"  # environment variable: the supervisor's process
NUMBERS = "PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"
PASSED_ON = "SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"
OF_PARENT = 1  # prctl: PR_SET_PDEATHSIG
REASONS = {
    "SIGKILL": ", as Linux does where memory runs out",
    "SIGSEGV": ": a library has crashed",
}


def rank_of_launcher() -> str:
    """Return the number that a launcher has given this process; "" if none has started it."""
    found = [value for name in NUMBERS if (value := os.environ.get(name, "")).isdecimal()]
    return found[0] if found else ""


def supervise(rank: str, command: list[str]) -> int:
    """Run a command as the process of a rank; return its exit status, 128 + n after signal n.

    Signals are passed on. The command gets a process group of its own, so that a launcher that
    signals a group does not reach it twice.
    """
    environment = os.environ | {SUPERVISOR: str(os.getpid())}
    # What the launcher has opened is passed on, too: MPI talks to it.
    child = subprocess.Popen(command, env=environment, close_fds=False, process_group=0)
    passed = []

    def pass_on(number: int, frame: object) -> None:
        passed.append(number)
        child.send_signal(number)

    for name in PASSED_ON:
        if signal.getsignal(number := getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    status = child.wait()
    if status >= 0:
        return status
    if -status not in passed:
        name = signal.Signals(-status).name
        print(  # noqa: T201
            f"portnet.distributed: rank {rank} (process {child.pid}) was killed by signal "
            f"{-status} ({name}{REASONS.get(name, '')}). The job ends.",
            file=sys.stderr,
            flush=True,
        )
    return 128 - status


def follow_supervisor() -> bool:
    """Tell whether this process has a supervisor; it is then killed where that one ends."""
    number = os.environ.pop(SUPERVISOR, "")
    if not number:
        return False
    import ctypes

    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    prctl(OF_PARENT, signal.SIGKILL)
    if os.getppid() != int(number):  # it had ended before
        sys.exit(1)
    return True
