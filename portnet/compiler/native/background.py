"""Background: another process compiles machine code, while the calls here go on without it.

The results have the same bits with and without machine code, so that it does not matter when it is
ready. The other process puts it into the cache, too, even if this one has ended meanwhile. It is no
thread of this process: Python, which lowers, and the import of LLVM would hold Python's lock.
"""

import json
import os
import re
import sys
import threading
import time

from .llvm import python
from .plan_text import plan_of
from .scan import PlanCode

__all__ = ["Compilation", "can_compile_beside"]

_seconds = [0.0]  # that the other processes have taken
SHARE = 0.5  # of the time that this process computes, at most


def can_compile_beside() -> bool:
    """Tell whether another process may compile now: one at a time, on a core that is free.

    Where many processes share the cores, as in a search for parameters, they do not slow each other
    down by much: after the first, compilers run for `SHARE` of the processor time of this process
    at most.
    """
    name = os.path.basename(sys.executable or "")
    if getattr(sys, "frozen", False) or not re.fullmatch(r"python[\d.]*[a-z]?", name):
        return False  # a program that contains Python would start itself
    if any([not c.is_lost for c in list(_running)]) or _seconds[0] > SHARE * time.process_time():
        return False
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) > 1
    return (os.cpu_count() or 1) > 1


class Compilation:
    """The code of plans, that another process compiles; it is loaded here when it is ready."""

    def __init__(self, codes: list[PlanCode]) -> None:
        self.finished = False
        self._codes, self._process = [code for code in codes if not code.functions], os.getpid()
        self._thread = threading.Thread(target=self._run, name="portnet compiles", daemon=True)
        _running.add(self)
        try:
            self._thread.start()
        except RuntimeError:  # no thread can start
            self._fail()
            self.finished = True
            _running.discard(self)

    def _run(self) -> None:
        began = time.perf_counter()
        try:
            texts = json.dumps([code.text for code in self._codes])
            done = python(_code(), True, texts)
            for code, contents in zip(self._codes, json.loads(done.stdout), strict=True):
                code.load(bytes.fromhex(contents))
        except Exception:  # without the code the calls go on
            self._fail()
        finally:
            _seconds[0] += time.perf_counter() - began
            self.finished = True
            _running.discard(self)

    def _fail(self) -> None:
        """See to it that the same is not tried again at each step."""
        for code in self._codes:
            code.failed_beside = True

    @property
    def is_lost(self) -> bool:
        """Whether this process is a copy of the one that waits."""
        return self._process != os.getpid()

    def wait(self) -> None:
        """Return when it is finished."""
        self._thread.join()


# Other work goes first: with a thread on each core, BLAS waits for the slowest one. The package
# comes without its __init__, which imports all that training needs, and takes 0.06 s.
_CODE = """
import os, sys, types
os.nice(19)
package = types.ModuleType({package!r})
package.__path__, package.__version__ = {path!r}, {version!r}
sys.modules[{package!r}] = package
from {here} import compile_given
compile_given()
"""


def _code() -> str:
    """Return what the other process runs."""
    package = __name__.partition(".")[0]
    whole = sys.modules[package]
    path, version = list(whole.__path__), whole.__version__
    return _CODE.format(package=package, path=path, version=version, here=__name__)


def compile_given() -> None:
    """Compile plans, given as texts on the standard input: the work of the other process."""
    plans = [plan_of(text) for text in json.load(sys.stdin)]
    json.dump([PlanCode(*plan).contents().hex() for plan in plans], sys.stdout)


_running: set[Compilation] = set()
