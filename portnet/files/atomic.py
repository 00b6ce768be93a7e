"""Atomic files: a file is written whole or not at all, whatever fails.

The data go to a temporary file in the same folder, which is synchronised with the disk (fsync) and
renamed to its place; then the folder is synchronised. After a crash or a power failure there is the
old file or the new one (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).

The checksum of a large file is computed while the disk is busy: the data are written with zeros in
its place and synchronised, meanwhile the checksum is computed; then its digits are written over the
zeros, and the file is synchronised again before it is renamed.
"""

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from .errors import CheckpointError

__all__ = ["Patched", "check_writable", "link_file", "remove_stale", "write_file"]

_CHUNK = 64 << 20  # bytes of one write: Ctrl-C waits for its end
_LARGE = 4 << 20  # bytes; for less, another fsync takes longer than a checksum
_OTHER_HOST = 24 * 3600  # seconds after which a temporary file of another machine is stale
_T = TypeVar("_T")
_being_written: set[str] = set()  # names of the temporary files of this process


@runtime_checkable
class Patched(Protocol):
    """Buffers, some bytes of which take long to compute: the patch.

    `parts` are the buffers with other bytes in its place, and `nbytes` is their size. Iterating
    returns the buffers with the patch.
    """

    nbytes: int
    parts: Sequence[bytes | memoryview]

    def patch(self) -> tuple[int, bytes]:
        """Return the place of the patch in the file, and its bytes."""

    def __iter__(self) -> Iterator[bytes | memoryview]: ...


def write_file(
    path: str | os.PathLike[str],
    buffers: Iterable[bytes | memoryview] | Patched,
    *,
    mode: int | None = None,
) -> None:
    """Write buffers one after the other to a file, which is replaced whole or left as it was.

    The patch of large buffers is computed while the disk is busy.

    `mode` are the permissions of the file; without it, those of the file that is replaced, or of a
    new file of `open`. A symbolic link stays: the file that it points to is written, in its own
    folder. Errors: CheckpointError if anything cannot be done; the temporary file is removed then,
    and the old file is as it was. The only exception is a folder that cannot be synchronised after
    the new file has been put in its place: the message says so.
    """
    target = _behind_links(path)
    with _temporary(target, mode) as (temporary, numbers):
        patched = buffers if isinstance(buffers, Patched) and buffers.nbytes >= _LARGE else None
        for buffer in buffers if patched is None else patched.parts:
            _write(numbers[-1], buffer)
        if patched is not None:
            at, patch = _sync_and(numbers[-1], patched.patch)
            os.lseek(numbers[-1], at, os.SEEK_SET)
            _write(numbers[-1], patch)
        os.fsync(numbers[-1])
        os.close(numbers.pop())  # some network file systems report a full disk only now
        os.replace(temporary, target)
        _sync_folder(numbers, target)
    remove_stale(path)


def link_file(path: str | os.PathLike[str], to: str | os.PathLike[str]) -> None:
    """Give a file a second name; a file of that name is replaced whole.

    After that, the second name survives a power failure. The file is copied where the file system
    has no links, or another one has the folder of that name. Where `path` is a symbolic link, what
    it points to has the second name. Errors: CheckpointError; FileNotFoundError if there is no such
    file.
    """
    name, path, to = os.path.basename(os.fsdecode(path)), _behind_links(path), _behind_links(to)
    folder = os.path.dirname(to)
    temporary_name = _temporary_name(name)  # of `path`: the next file there removes a stale one
    temporary = os.path.join(folder, temporary_name)
    numbers: list[int] = []
    _being_written.add(temporary_name)
    try:
        numbers = _open_folder(folder)
        os.link(path, temporary)
        os.replace(temporary, to)
    except FileNotFoundError:
        raise
    except OSError:
        with open(path, "rb") as file:
            write_file(to, iter(lambda: file.read(_CHUNK), b""))
    else:
        # Else a power failure might lose this name, but not what is written to `path` next.
        _sync_folder(numbers, to)
    finally:
        for number in numbers:
            with contextlib.suppress(OSError):
                os.close(number)
        with contextlib.suppress(OSError):  # renamed, or left where `to` is the same file already
            os.unlink(temporary)
        _being_written.discard(temporary_name)


def check_writable(path: str | os.PathLike[str], *others: str | os.PathLike[str]) -> None:
    """Raise CheckpointError if a file cannot be written to a path; nothing is left behind.

    `others` are paths under which the file may be kept later: their names must not be too long for
    the file system, and what has these names already must be files.
    """
    path = os.fsdecode(path)
    with _temporary(_behind_links(path), None):
        for other in map(_behind_links, others):
            try:
                _permissions(other)
            except OSError as error:
                what = f"the file cannot be kept as {os.path.basename(other)}"
                raise _checkpoint_error(error, path, what) from error


def remove_stale(path: str | os.PathLike[str]) -> None:
    """Delete the temporary files of a path whose process has ended, for instance was killed.

    Temporary files of living processes stay, and those of other machines for a day.
    """
    path = os.fsdecode(path)
    if (target := _behind_links(path)) != path:
        remove_stale(target)
    folder, name = os.path.split(path)
    ours = re.compile(re.escape(_prefix(name)) + r"([1-9]\d{0,9})-([0-9a-f]{8})[0-9a-f]{16}\.tmp")
    # What cannot be deleted is litter, no error.
    with contextlib.suppress(OSError), os.scandir(folder or os.curdir) as entries:
        for entry in entries:
            if match := ours.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if _is_stale(int(match[1]), match[2], entry):
                        os.unlink(entry.path)


def _behind_links(path: str | os.PathLike[str]) -> str:
    """Return a path as text; of a symbolic link, the path of what it points to."""
    path = os.fsdecode(path)
    return os.path.realpath(path) if os.path.islink(path) else path


def _is_stale(process: int, host: str, entry: os.DirEntry[str]) -> bool:
    """Tell whether a temporary file belongs to no living process."""
    if host != _host():
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _OTHER_HOST
    if process == os.getpid():
        # A process that had the same number, as in a container that was started again.
        return entry.name not in _being_written
    if os.name == "nt":
        return False  # os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # a process of somebody else
        return False
    return False


def _host() -> str:
    """Return eight digits for the machine and its set of process numbers (PID namespace)."""
    numbers = ""
    with contextlib.suppress(OSError):
        numbers = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{socket.gethostname()} {numbers}'.encode()):08x}"


def _temporary_name(name: str) -> str:
    return f"{_prefix(name)}{os.getpid()}-{_host()}{secrets.token_hex(8)}.tmp"


def _prefix(name: str) -> str:
    # File systems limit a name to 255 bytes, and the temporary one is longer.
    return f".{os.fsdecode(os.fsencode(name)[:200])}."


@contextlib.contextmanager
def _temporary(path: str, mode: int | None) -> Iterator[tuple[str, list[int]]]:
    """Make the temporary file of a path: yield its path, and the numbers of its folder and its own.

    Those that the block has not taken from the list are closed at the end, and the file is removed
    unless the block has renamed it. OSError becomes CheckpointError.
    """
    folder, name = os.path.split(path)
    temporary_name = _temporary_name(name)
    temporary = os.path.join(folder, temporary_name)
    numbers: list[int] = []
    owned = True  # also before it is made: Ctrl-C may come in between
    _being_written.add(temporary_name)
    try:
        old = _permissions(path)
        permissions = old if mode is None else mode
        numbers += _open_folder(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        # The permissions of a new file are those that `open` gives it.
        numbers.append(os.open(temporary, flags, 0o666 if permissions is None else 0o600))
        if permissions is not None:
            found = stat.S_IMODE(os.fstat(numbers[-1]).st_mode)
            if found != permissions:
                os.chmod(temporary, permissions)
        yield temporary, numbers
    except OSError as error:
        owned = not isinstance(error, FileExistsError)
        if isinstance(error, CheckpointError):
            raise
        raise _checkpoint_error(error, path) from error
    finally:
        for number in numbers:
            with contextlib.suppress(OSError):
                os.close(number)
        if owned:
            with contextlib.suppress(OSError, ValueError):  # ValueError: of NUL in the path
                os.unlink(temporary)
        _being_written.discard(temporary_name)


def _open_folder(folder: str) -> list[int]:
    """Return the number of an open folder, alone; none on Windows, which cannot open folders."""
    return [] if os.name == "nt" else [os.open(folder or os.curdir, os.O_RDONLY)]


def _permissions(path: str) -> int | None:
    """Return the permissions of the file to be replaced, None if there is none; check its kind."""
    if "\0" in path:
        raise OSError(errno.EINVAL, "a path cannot contain the character NUL")
    if not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a device, FIFO or socket")
    # A rename would replace a file that its owner has protected.
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_IMODE(status.st_mode) & 0o777


def _write(number: int, buffer: bytes | memoryview) -> None:
    """Write a whole buffer; the system may write a part of it at a time."""
    view = memoryview(buffer)
    if not view.nbytes:
        return  # cast refuses sizes of 0
    view = view.cast("B")
    while len(view):
        written = os.write(number, view[:_CHUNK])
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        view = view[written:]


def _sync_and(number: int, compute: Callable[[], _T]) -> _T:
    """Synchronise a file with the disk; return what `compute` returns, which is called meanwhile.

    An error of either is raised when both have ended: the file must not be closed before. One of
    fsync must not be lost: a later fsync may succeed although the data are not on the disk.
    """
    errors: list[BaseException] = []

    def synchronise() -> None:
        try:
            os.fsync(number)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=synchronise, name="portnet-fsync", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads: the caller synchronises the file anyway
        return compute()
    try:
        result = compute()
    finally:
        thread.join()
    if errors:
        raise errors[0]
    return result


def _sync_folder(numbers: list[int], path: str) -> None:
    """Synchronise the folder, the one open file left, with the disk, where the file system can."""
    for number in numbers:
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise CheckpointError(
                    error.errno,
                    f"the new file is in its place, but its folder cannot be synchronised with the "
                    f"disk ({error.strerror}), so that a power failure may bring the old file "
                    "back; check the disk",
                    path,
                ) from error


_REMEDIES = {
    "free space there, or write to another disk": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "choose a folder and a file that you may write": (errno.EACCES, errno.EPERM, errno.EROFS),
    "make its folder first": (errno.ENOENT, errno.ENOTDIR),
    "give the path of a file in that folder": (errno.EISDIR,),
    "choose a shorter name": (errno.ENAMETOOLONG,),
    "check the disk, or write to another one": (errno.EIO,),
}


def _checkpoint_error(
    error: OSError, path: str, what: str = "the file cannot be written"
) -> CheckpointError:
    """Return the error of a file that cannot be written: what happened, and what to do."""
    remedies = (remedy for remedy, numbers in _REMEDIES.items() if error.errno in numbers)
    remedy = next(remedies, "write to another place")
    message = f"{what} ({error.strerror or error}); {remedy}"
    return CheckpointError(error.errno, message, path)
