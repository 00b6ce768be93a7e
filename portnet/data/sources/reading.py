"""Readers: rows of a source as NumPy arrays, checked to be those that were asked for.

A memory map is read from its file, single rows as well: pages of the map would stay resident, and a
file that became shorter would end the process (SIGBUS) instead of raising an error. Arrays in
another order than row by row, and maps that do not show what is in the file, are read through the
map after a look at the length of the file, and copied; the pages are given back.
"""

import math
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..._typing import ArrayLike, Host
from ...backend import to_numpy
from .. import checks, labels
from ..checks import DataError, is_source

__all__ = [
    "PART",
    "Reader",
    "check_map",
    "distinct_labels",
    "in_memory_if_small",
    "parts_of",
    "reader_of",
]

PART = 1 << 20  # bytes that are read at once, where all rows are
APART = 1 << 11  # bytes from row to row up to which it is faster to read what is between, too
SMALL = 1 << 26  # bytes of data that are read as a whole: as many as two windows have

SHARED = "r", "r+", "w+"  # modes of maps whose pages are those of the file


class Reader:
    """The rows of a source: an object with shape, dtype, len and row slices, or a NumPy array.

    Attributes
    ----------
    shape, dtype
        Those of the source when it was opened; later slices must have them.
    chunk : int
        How many rows are stored together; 0 where that is unknown or does not matter.
    random : bool
        Whether single rows can be read fast.
    in_pieces : bool
        Whether many pieces are read better together, by `read_pieces`, than one by one.
    name : str
        The argument that it was, for messages.
    """

    random = False

    def __init__(self, x: Any, name: str) -> None:
        self.x, self.name = x, name
        shape = tuple(x.shape)
        if any(n is None or n != n for n in shape):  # dask: unknown chunks
            raise DataError(f"{name}: its shape is unknown, {shape}: use .compute_chunk_sizes()")
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(x.dtype) if isinstance(x.dtype, str | type) else x.dtype
        self.chunk = _chunk_of(x)
        self.in_pieces = bool(getattr(x, "is_large", False)) and hasattr(x, "read_pieces")

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Host:
        """Return rows."""
        start, stop, _ = rows.indices(len(self))
        try:
            return self.read(start, stop)
        except DataError:
            size = self.chunk or parts_of(self)  # in parts it says which rows cannot be read
            for first in range(start, stop, size):
                self.read(first, min(first + size, stop))
            raise

    @property
    def kind(self) -> str:
        """What it is, for messages."""
        library, dot, _ = type(self.x).__module__.partition(".")
        return f"{library} {type(self.x).__name__}" if dot else type(self.x).__name__

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return int(np.dtype(self.dtype).itemsize * math.prod(self.shape[1:]))

    def read(self, start: int, stop: int) -> Host:
        """Return the rows from `start` to `stop`; raise DataError, with the place, without them."""
        try:
            found = to_numpy(self.x[start:stop])
        except (DataError, MemoryError):
            raise
        except Exception as error:  # of any library: a chunk that is damaged, a file that is gone
            chunk = f" (chunk {start // self.chunk})" if self.chunk else ""
            raise DataError(
                f"{self.where(start, stop)}{chunk} cannot be read: {type(error).__name__}: {error}"
            ) from error
        if found.shape != (stop - start, *self.shape[1:]):
            now = f": it has {len(self.x)} rows now" if len(self.x) < self.shape[0] else ""
            raise DataError(
                f"{self.where(start, stop)}: expected shape {(stop - start, *self.shape[1:])}, got "
                f"{found.shape}{now}"
            )
        if found.dtype != self.dtype and found.dtype.kind not in "OUT":
            raise DataError(
                f"{self.where(start, stop)}: expected dtype {self.dtype}, got {found.dtype}"
            )
        return found

    def read_into(self, start: int, stop: int, out: Host) -> bool:
        """Read rows into `out`, of the same dtype, where that saves a copy; return whether it did.

        Values are not checked.
        """
        return False

    def read_pieces(self, pieces: list[tuple[int, int]], out: Host) -> Iterator[None]:
        """Read pieces (start, stop) into `out`, one behind the other, and cast; yield in between.

        Values are not checked. For sources that are read `in_pieces`.
        """
        yield from self.x.read_pieces(pieces, out)

    def read_all(self, pieces: list[tuple[int, int]]) -> Host:
        """Return the rows of pieces (start, stop), one behind the other."""
        if not self.in_pieces:
            return np.concatenate([self.read(*piece) for piece in pieces])
        rows = sum(stop - start for start, stop in pieces)
        found = np.empty((rows, *self.shape[1:]), self.dtype)
        for _ in self.read_pieces(pieces, found):
            pass
        return found

    def take(self, rows: Host) -> Host:
        """Return single rows, given in ascending order."""
        raise DataError(
            f'{self.name}: shuffle="full" reads single rows, which takes too long from a '
            f"{self.kind}: use shuffle=True, or write it to a file of NumPy's once: "
            "portnet.data.to_npy(source, path)"
        )

    def give_back(self) -> None:
        """Free the memory that reading has left in use."""

    def where(self, start: int, stop: int) -> str:
        """Return the beginning of a message about rows."""
        return f"{self.name}: rows {start} to {stop - 1} of the {self.kind}"


class ArrayReader(Reader):
    """The rows of a NumPy array in memory."""

    random = True

    def take(self, rows: Host) -> Host:
        """Return single rows."""
        found: Host = self.x[rows]
        return found


class MapReader(Reader):
    """The rows of a memory map, read from its file where they lie there one after the other."""

    random = True

    def __init__(self, x: Any, name: str) -> None:
        super().__init__(x, name)
        self._file: int | None = None
        self._lock = threading.Lock()
        self._root = _root_of(x)
        # Pages of a map that is not shared have the only copy of what was written.
        self._shared = self._root is not None and self._root.mode in SHARED
        large = self._shared and len(self._root.base) > SMALL
        self._gives_back = large and hasattr(mmap, "MADV_DONTNEED")
        self.chunk = self._size = 0
        if self._root is not None:
            self._size = _size_of(self._root)
            self._check_size(len(self))
            self._open(self._root)

    def _open(self, root: Any) -> None:
        """Open the file, unless the map does not show what is in it."""
        x, writes = self.x, root.mode != "r"
        if root.filename is None or not self._shared or not x.flags.c_contiguous or not x.size:
            return
        if writes:
            root.flush()
        self._offset = root.offset + _address(x) - _address(root)
        try:
            number = os.open(root.filename, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:  # it was renamed or removed; the map is still there
            return
        weakref.finalize(self, os.close, number)
        # Another file may have the name by now.
        if os.fstat(number).st_size == root.base.size():
            self._file = number
            ends = [(0, 1), (len(x) - 1, len(x))]
            same = all(self.read(a, b).tobytes() == np.asarray(x[a:b]).tobytes() for a, b in ends)
            self._file = number if same else None

    @property
    def kind(self) -> str:
        """What it is, for messages."""
        return f"file {self.x.filename}" if self.x.filename else "memory map"

    def read(self, start: int, stop: int) -> Host:
        """Return the rows from `start` to `stop`."""
        if self._file is None:
            self._check_size(stop)
            found = super().read(start, stop)
            if self._gives_back:
                found = found.copy()
                self.give_back()
            return found
        found = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.read_into(start, stop, found)
        return found

    def read_into(self, start: int, stop: int, out: Host) -> bool:
        """Read rows into `out`, of the same dtype; return whether it did."""
        if self._file is None or not out.flags.c_contiguous:
            return False
        view: Any = out.reshape(-1).view(np.uint8).data
        at = self._offset + start * self.row_bytes
        done = 0
        while done < len(view):
            try:
                count = _read_at(self._file, view[done:], at + done, self._lock)
            except OSError as error:
                raise DataError(f"{self.where(start, stop)} cannot be read: {error}") from error
            if count == 0:
                self._check_size(stop)
                raise DataError(f"{self.where(start, stop)}: the file ends before them")
            done += count
        return True

    def take(self, rows: Host) -> Host:
        """Return single rows, given in ascending order."""
        if self._file is None:
            self._check_size(int(rows[-1]) + 1)
            return np.asarray(self.x[rows])
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if (int(rows[-1]) - int(rows[0])) * self.row_bytes <= APART * len(rows):
            self._take_of_blocks(rows, found)
        else:
            self._take_each(rows, found)
        return found

    def _take_of_blocks(self, rows: Host, out: Host) -> None:
        """Read the blocks that have the rows, and take these."""
        size, done = max(1, PART // max(1, self.row_bytes)), 0
        block = np.empty((size, *self.shape[1:]), self.dtype)
        while done < len(rows):
            first = int(rows[done])
            end = done + int(np.searchsorted(rows[done : done + size], first + size))
            stop = int(rows[end - 1]) + 1
            self.read_into(first, stop, block[: stop - first])
            np.take(block, rows[done:end] - first, axis=0, out=out[done:end], mode="clip")
            done = end

    def _take_each(self, rows: Host, out: Host) -> None:
        """Read each row by itself."""
        assert self._file is not None
        number, length, begin = self._file, self.row_bytes, self._offset
        view: Any = out.reshape(-1).view(np.uint8).data
        for first in range(0, len(rows), 1024):
            part = rows[first : first + 1024]
            places = (part * length + begin).tolist()
            try:
                found = b"".join([_bytes_at(number, length, at, self._lock) for at in places])
            except OSError:
                found = b""
            if len(found) == len(part) * length:
                view[first * length : first * length + len(found)] = found
                continue
            for i, row in enumerate(part.tolist(), first):  # one of them raises, and says where
                self.read_into(row, row + 1, out[i : i + 1])

    def give_back(self) -> None:
        """Let no page of a large map be resident; they are read again from the file when needed."""
        if self._gives_back:
            self._root.base.madvise(mmap.MADV_DONTNEED)

    def _check_size(self, stop: int) -> None:
        """Raise DataError for a file that became shorter, whose pages must not be touched.

        The rows up to `stop` were asked for.
        """
        if self._root is None:
            return
        size = self._root.base.size()
        if size >= self._size:
            return
        first = 0
        if self.x.flags.c_contiguous:
            begin = self._root.offset + _address(self.x) - _address(self._root)
            first = min(max(0, size - begin) // max(1, self.row_bytes), len(self) - 1)
        raise DataError(
            f"{self.where(first, max(first + 1, stop))}: the file became shorter, from "
            f"{self._size} to {size} bytes, while it was read"
        )


def _read_at(number: int, into: memoryview, at: int, lock: threading.Lock) -> int:
    """Read bytes of a file from a place; return how many."""
    into = into[: 1 << 30]  # systems read less than 2 GiB at once
    if hasattr(os, "preadv"):
        return os.preadv(number, [into], at)
    with lock:
        os.lseek(number, at, os.SEEK_SET)
        found = os.read(number, len(into))
    into[: len(found)] = found
    return len(found)


def _bytes_at(number: int, length: int, at: int, lock: threading.Lock) -> bytes:
    """Return bytes of a file from a place; fewer where it ends."""
    if hasattr(os, "pread"):
        return os.pread(number, length, at)
    with lock:
        os.lseek(number, at, os.SEEK_SET)
        return os.read(number, length)


def _root_of(x: Any) -> Any:
    """Return the memory map that a part of one was taken from; None if that is unknown."""
    while isinstance(x, np.memmap) and not isinstance(x.base, mmap.mmap):
        x = x.base
    return x if isinstance(x, np.memmap) else None


def _size_of(root: Any) -> int:
    """Return the bytes that the file of a memory map has at least."""
    before = root.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    return int(before + len(root.base))


def check_map(x: Any, name: str) -> None:
    """Raise DataError for a memory map whose file became shorter: touching it ends the process."""
    root = _root_of(x)
    if root is not None and root.base.size() < _size_of(root):
        MapReader(x, name)  # raises


def _address(x: Any) -> int:
    return int(x.__array_interface__["data"][0])


def _chunk_of(x: Any) -> int:
    """Return how many rows a source stores together; 0 if that is unknown."""
    chunks = getattr(x, "shards", None) or getattr(x, "chunks", None)
    first = chunks[0] if chunks else 0
    first = max(first, default=0) if isinstance(first, tuple) else first  # dask: each chunk's
    return int(first) if isinstance(first, int | np.integer) else 0


def reader_of(x: ArrayLike, name: str) -> Reader:
    """Return the reader of a source or of host data; device arrays are copied to the host."""
    if isinstance(x, Reader):
        return x
    if isinstance(x, np.memmap):
        return MapReader(x, name)
    return Reader(x, name) if is_source(x) else ArrayReader(to_numpy(x), name)


def parts_of(reader: Reader) -> int:
    """Return how many rows to read at once, where all of them are read in order."""
    if reader.in_pieces:
        return int(reader.x.rows_at_once)
    rows = max(1, min(16_384, PART // max(1, reader.row_bytes)))
    if not reader.chunk:
        return rows
    return max(reader.chunk, rows // reader.chunk * reader.chunk)


def in_memory_if_small(given: dict[str, ArrayLike], most: int | None = None) -> dict[str, Any]:
    """Return X, y and weights with sources read, if X is in memory or all are small; else readers.

    Small are up to `most` bytes, by default SMALL. Rows that were read are mixed as in memory, and
    everything works as there.
    """
    found = {name: reader_of(x, name) if is_source(x) else x for name, x in given.items()}
    readers = [r for r in found.values() if isinstance(r, Reader)]
    total = sum(math.prod(r.shape) * max(4, np.dtype(r.dtype).itemsize) for r in readers)
    if total > (SMALL if most is None else most) and isinstance(next(iter(found.values())), Reader):
        return found
    return {n: labels.decoded(r[:]) if isinstance(r, Reader) else r for n, r in found.items()}


def distinct_labels(y: Any, name: str = "y") -> Any:
    """Return the labels that occur in a source, if they are text; else some rows of it."""
    if not isinstance(y, Reader) or y.dtype.kind not in "OUST":
        return y[:1] if isinstance(y, Reader) else y
    found: Any = None
    for start in range(0, len(y), parts_of(y)):
        block = labels.decoded(y.read(start, min(start + parts_of(y), len(y))))
        with checks.rows_from(start):
            text = labels.text_of(block, name)
        if text is None:
            return block
        found = np.unique(text) if found is None else np.union1d(found, text)
    return found
