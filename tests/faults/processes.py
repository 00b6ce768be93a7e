"""Helpers of the tests that kill, stop and starve whole processes; the tests are scripts, too.

A script of these tests forks its victims: it imports portnet once, and it never trains by itself,
so that each victim begins in the state of a new process.
"""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import portnet

ROOT = Path(portnet.__file__).resolve().parent.parent
TIMEOUT = 300  # seconds: of what would never end; nothing here takes a tenth of it
can_fork = hasattr(os, "fork")


def environment(**more):
    """Return the environment of a process that imports this portnet, with one thread."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return os.environ | threads | {"PYTHONPATH": path} | more


def start(*command, **options):
    """Start Python with the arguments; its output is text in pipes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], env=environment(), **pipes | options
    )


def finish(process):
    """Wait for a process; return its exit status, its output and its errors."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    return process.returncode, out, err


def script(*command):
    """Run a script of these tests to its end; return its last line; fail if it fails."""
    status, out, err = finish(start(*command))
    assert status == 0, f"exit status {status}\n{out[-3000:]}\n{err[-3000:]}"
    print(out, end="")
    return out.strip().rpartition("\n")[2]


class Victim:
    """A forked process that calls a function with a file to tell things, one byte each."""

    def __init__(self, function, *args):
        self.told, tell = os.pipe()
        self.process = os.fork()
        if not self.process:
            status = 1
            try:
                os.close(self.told)
                function(lambda byte: os.write(tell, byte), *args)
                status = 0
            except SystemExit as error:
                status = error.code
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(tell)

    def wait_for(self, byte, count=1):
        """Wait until a byte was told so many times; return the number of times, less at the end."""
        found = 0
        while found < count and (got := os.read(self.told, 1)):
            found += got == byte
        return found

    def end(self, number=None):
        """Send a signal, wait for the end; return all that was told, and the exit status."""
        if number is not None:
            os.kill(self.process, number)
        told = b""
        while part := os.read(self.told, 1 << 16):
            told += part
        os.close(self.told)
        _, status = os.waitpid(self.process, 0)
        return told, os.waitstatus_to_exitcode(status)


def kill_after(victim, seconds, number=9):
    """Kill a victim at a time; return what it had told by then, and its exit status."""
    time.sleep(seconds)
    return victim.end(number)


def temporaries(folder):
    """Return the names of the temporary files in a folder."""
    return sorted(name for name in os.listdir(folder) if name.endswith(".tmp"))


def leaves(*pytrees):
    """Return all arrays of pytrees on the host."""
    return [
        portnet.to_numpy(leaf) for leaf in portnet.tree.leaves(pytrees) if hasattr(leaf, "dtype")
    ]


def differing(a, b):
    """Return the names of what differs, bit for bit, between two files of one kind."""
    from portnet.files.container import open_container
    from portnet.files.models import describe

    opened = [open_container(path) for path in (a, b)]
    one, other = map(describe, opened)
    arrays, others = (container.read() for container in opened)
    names = sorted(
        n
        for n in {*arrays, *others}
        if n not in arrays
        or n not in others
        or arrays[n].dtype != others[n].dtype
        or arrays[n].shape != others[n].shape
        or arrays[n].tobytes() != others[n].tobytes()
    )
    parts = (d["run"] if "run" in d else {"fitted": d["fitted"]} for d in (one, other))
    run, now = ({k: _arrays(v) for k, v in part.items()} for part in parts)
    return names + sorted(n for n in {*run, *now} if run.get(n) != now.get(n))


def _arrays(described):
    """Return a description with arrays for NumPy's scalars, which moved runs do not have."""
    if isinstance(described, list):
        return [_arrays(part) for part in described]
    if isinstance(described, dict):
        return {k: _arrays(v) for k, v in described.items() if k != "scalar"}
    return described


def quietly(call, *args, **options):
    """Call a function without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **options)


def draws(seed):
    """Return the generator of the random times of a script."""
    return np.random.default_rng(seed)
