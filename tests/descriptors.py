"""Which files of a folder this process has open: those of other tests and threads do not count."""

import contextlib
import os
from pathlib import Path

HAVE_PROC = os.path.isdir("/proc/self/fd")


def open_below(folder):
    """Return the sorted targets of this process's descriptors that lie in a folder or are it."""
    found, folder = [], str(Path(folder).resolve())
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since the list was made
            target = os.readlink(f"/proc/self/fd/{number}")
            if target == folder or target.startswith(folder + os.sep):
                found.append(target)
    return sorted(found)
