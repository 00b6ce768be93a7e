"""Object cache: compiled machine code in files of the user, so that it is compiled once.

A file is used only if it and its folder belong to the user and nobody else can write to them, and
if its contents have the checksum that it begins with. Everything that goes wrong (a folder that
cannot be written, a full disk) means that the code is compiled, and nothing else.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..settings import cache_folder

__all__ = ["LIMIT", "cached_object", "is_cached"]

LIMIT = 64 << 20  # bytes of all files: the ones that were used last are kept
_CHECKSUM = hashlib.sha256().digest_size


def is_cached(key: str) -> bool:
    """Tell whether there is a file of this key; it may still turn out to be unusable."""
    folder = _folder()
    # Path.exists raises where the folder cannot be searched.
    return folder is not None and os.path.exists(folder / _name(key))


def cached_object(key: str, target: str, compile: Callable[[], bytes] | None) -> bytes:
    """Return the object file of a key from the cache, or else compile it and put it there.

    `key` and `target` are everything that the contents depend on: the program, the versions, the
    processor. The file of a key is found without the compiler; it is used if it is for `target`.
    Without `compile`, b"" is what is not there.
    """
    folder = _folder()
    if folder is None:
        return compile() if compile else b""
    path, head = folder / _name(key), hashlib.sha256(target.encode()).digest()
    found = _read(path)
    if found is not None and found[: len(head)] == head:
        return found[len(head) :]
    if compile is None:
        return b""
    made = compile()
    with contextlib.suppress(OSError):
        _write(path, head + made)
        _limit_size(folder)
    return made


def _name(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()}.o"


def _folder() -> Path | None:
    """Return the folder of the cache, made if need be; None if there is none to be trusted."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _belongs_to_user(folder.lstat(), stat.S_ISDIR) else None
    except OSError:
        return None


def _belongs_to_user(status: os.stat_result, kind: Callable[[int], bool]) -> bool:
    """Tell whether a file or folder is of the kind, the user's, and writable by nobody else."""
    others = stat.S_IWGRP | stat.S_IWOTH
    return kind(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & others


def _read(path: Path) -> bytes | None:
    """Return the contents of a file; None if it cannot be used."""
    try:
        # A link, or a file of somebody else, might hold other people's code; a pipe would wait.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not _belongs_to_user(os.fstat(file.fileno()), stat.S_ISREG):
                return None
            contents = file.read()
    except OSError:
        return None
    checksum, found = contents[:_CHECKSUM], contents[_CHECKSUM:]
    if hashlib.sha256(found).digest() != checksum:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # it was used: it goes last
    return found


def _write(path: Path, contents: bytes) -> None:
    """Write a file whole or not at all: other processes may read and write it at the same time."""
    number, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(hashlib.sha256(contents).digest() + contents)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _limit_size(folder: Path) -> None:
    """Delete the files that were not used for longest, until the rest is within the limit."""
    files = []
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process deleted it
            if entry.name.endswith((".o", ".part")):
                files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LIMIT:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= size
