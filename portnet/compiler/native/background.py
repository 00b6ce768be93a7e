"""Background: machine code is compiled in a thread, while the calls go on without it.

LLVM runs without Python's lock. The results have the same bits with and without machine code, so
that it does not matter when it is ready.
"""

import os
import threading
from typing import Any

from .jit import machine_code

__all__ = ["Compilation", "has_spare_core"]


def has_spare_core() -> bool:
    """Tell whether a thread can run beside the caller's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) > 1
    return (os.cpu_count() or 1) > 1


class Compilation:
    """Functions that are compiled in a thread: `machine_code` then returns them at once.

    If that fails, `machine_code` raises the error.
    """

    def __init__(self, functions: tuple[str, ...], names: tuple[str, ...]) -> None:
        self.finished = False
        self._given = functions, names
        # Not a daemon: LLVM must not run while the process ends.
        self._thread = threading.Thread(target=self._run, name="portnet compiles")
        _running.add(self)
        try:
            self._thread.start()
        except RuntimeError:  # no thread can start: it is compiled where it is asked for
            self.finished = True
            _running.discard(self)

    def _run(self) -> None:
        try:
            machine_code(*self._given)
        except Exception:  # raised again where the functions are asked for
            pass
        finally:
            self.finished = True
            _running.discard(self)

    def wait(self) -> None:
        """Return when it is finished."""
        if not self.finished:
            self._thread.join()


_running: set[Any] = set()


def _wait_for_all() -> None:
    for compilation in list(_running):
        compilation.wait()


# A child process has copies of LLVM's locks, which no thread would release there.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_all)
