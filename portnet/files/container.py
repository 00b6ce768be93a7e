"""Container: a safetensors file of named arrays with a checksum; reading it cannot run code.

The format is that of the safetensors library (https://github.com/huggingface/safetensors), which
reads these files. Not every file of that library is a container. In order:

1. 8 bytes: the length of the header, an unsigned little-endian integer, a multiple of 8, at most
   1 MiB.
2. The header: a JSON object in UTF-8, padded with spaces. It begins with
   ``{"__metadata__":{"format":"portnet","crc32":"01234567"`` without spaces; the rest of
   ``__metadata__`` maps text to text. Every other key is the name of a tensor, and its value is
   ``{"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}``. The offsets count bytes from
   the end of the header.
3. The data of the tensors, little-endian, in C order, without gaps. Larger items come first, so
   that all tensors are aligned.

The eight hexadecimal digits of ``crc32`` are the CRC-32 of the whole file (length, header and data)
in which they are ``00000000``.

All limits are checked before anything is allocated for what the header claims: 1 MiB of header,
10,000 tensors, the size of the file and the physical memory. What a file is depends on its content,
never on its name.
"""

import contextlib
import functools
import importlib
import json
import math
import os
import queue
import re
import reprlib
import stat
import sys
import threading
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from .errors import ModelFileError

__all__ = [
    "HEADER_LIMIT",
    "TENSOR_LIMIT",
    "Container",
    "Packed",
    "Spec",
    "crc32",
    "open_container",
    "outside_texts",
    "pack",
    "refuse_constant",
    "without_duplicates",
]

HEADER_LIMIT = 1 << 20  # bytes
TENSOR_LIMIT = 10_000
_NDIM_LIMIT = 64  # of NumPy
_SHAPE_LIMIT = 1 << 48  # bytes: of an array without items, the sizes other than 0 count
_BLOCK = 1 << 21  # bytes that are read while the checksum of the block before is computed
_THREADS = 4  # at most, for the checksum: disks are not faster
_START = b'{"__metadata__":{"format":"portnet","crc32":"'
_NO_CRC = b"00000000"
_CRC_AT = 8 + len(_START)

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype.str: code for code, dtype in _DTYPES.items()}

_LOAD_ANOTHER = "Load another copy of the file, or an earlier checkpoint"
_SAVE_FIRST = "Give the path of a file that portnet.save wrote"


class Spec(NamedTuple):
    """A tensor of a container: NumPy dtype, shape, and bytes begin:end of the data."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


class Packed:
    """The buffers of a container: iterating returns them with the checksum, in order.

    The checksum takes as long as writing to memory. `write_file` writes `parts` first, and computes
    the checksum, with `patch`, while the disk is busy with them.

    Attributes
    ----------
    parts : list of bytes or memoryview
        The buffers, with zeros for the digits of the checksum.
    nbytes : int
        Bytes of all buffers together.
    """

    def __init__(self, parts: list[bytes | memoryview]) -> None:
        self.parts = parts
        self.nbytes = sum(map(len, parts))

    def patch(self) -> tuple[int, bytes]:
        """Return where the digits of the checksum are, and the digits."""
        return _CRC_AT, _digits(crc32(self.parts))

    def __iter__(self) -> Iterator[bytes | memoryview]:
        at, digits = self.patch()
        head = bytes(self.parts[0])
        yield head[:at] + digits + head[at + len(digits) :]
        yield from self.parts[1:]


def pack(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Packed:
    """Return the buffers of the container of some arrays, to be written one after the other.

    Arrays in C order are not copied: they must not change until the buffers are written. Errors:
    TypeError for an array whose dtype a container cannot hold, ValueError for a name that is empty
    or holds NUL, and for more tensors or a longer header than a reader accepts.

    Examples
    --------
    >>> buffers = pack({"W": np.zeros((2, 3), np.float32)}, {"made by": "hand"})
    >>> [len(buffer) for buffer in buffers]
    [144, 24]
    """
    if len(tensors) > TENSOR_LIMIT:
        raise ValueError(f"{len(tensors):,} tensors, but a file holds at most {TENSOR_LIMIT:,}")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata {_shown(key)} must be text with a text, not {_shown(value)}")
        if key in ("format", "crc32"):
            raise ValueError(f"metadata {key!r} is set by the container itself")
    arrays: list[tuple[str, str, np.ndarray]] = []
    for name, array in tensors.items():
        if not _is_name(name):
            raise ValueError(f"a tensor is named {_shown(name)}; expected text without NUL")
        # NumPy's functions return scalars where the array would have no dimension.
        code = _code(array.dtype) if isinstance(array, np.ndarray | np.generic) else None
        if code is None:
            found = getattr(array, "dtype", type(array).__name__)
            raise TypeError(
                f"tensor {_shown(name)} is {found}; a file holds NumPy arrays of dtype "
                f"{', '.join(map(str, _DTYPES.values()))} and bfloat16"
            )
        little = array.dtype if code == "BF16" else _DTYPES[code]
        # Not ascontiguousarray, which turns a scalar into a vector.
        arrays.append((name, code, np.asarray(array, dtype=little, order="C")))
    arrays.sort(key=lambda item: (-item[2].itemsize, item[0]))

    own = {"format": "portnet", "crc32": _NO_CRC.decode()}
    header: dict[str, Any] = {"__metadata__": {**own, **metadata}}
    begin = 0
    for name, code, array in arrays:
        end = begin + array.nbytes
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": (begin, end)}
        begin = end
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a name or metadata cannot be written as UTF-8: {error}") from None
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise ValueError(
            f"the names and metadata need {len(text):,} bytes, but a file holds at most "
            f"{HEADER_LIMIT:,}; use shorter names or less metadata"
        )
    head = len(text).to_bytes(8, "little") + text
    data = [array.reshape(-1).view(np.uint8).data for _, _, array in arrays if array.size]
    return Packed([head, *data])


def crc32(buffers: Iterable[bytes | memoryview]) -> int:
    """Return the CRC-32 of buffers of bytes, one after the other; large ones take threads.

    Examples
    --------
    >>> crc32([b"12345", memoryview(b"6789")]) == 0xCBF43926
    True
    """
    return _checksum(_groups(map(memoryview, buffers)), 0)


class Container:
    """An open file of named arrays whose header was checked; `read` returns the arrays.

    The file stays open, so that `read` returns what this header describes even where another file
    has been moved to its path; it is closed with the container (``with open_container(path) as
    file:``). `metadata` and `specs` are covered by the checksum, which only `read` checks.

    Attributes
    ----------
    path : str
        Path of the file.
    metadata : dict of str to str
        Metadata, with ``"format": "portnet"`` and without the checksum.
    specs : dict of str to Spec
        dtype, shape and place of each tensor, in the order of the data.
    nbytes : int
        Bytes of all tensors together.
    """

    def __init__(
        self, path: str, number: int, head: bytes, metadata: dict[str, str], specs: dict[str, Spec]
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.specs = specs
        self.nbytes = sum(spec.end - spec.begin for spec in specs.values())
        self._number, self._head_size = number, len(head)
        self._expected = head[_CRC_AT : _CRC_AT + 8]
        self._head_crc = zlib.crc32(head[:_CRC_AT] + _NO_CRC + head[_CRC_AT + 8 :])
        self.close = weakref.finalize(self, os.close, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(self) -> dict[str, np.ndarray]:
        """Return the arrays by name; ModelFileError if the file differs from what was written.

        The arrays are writable and aligned, and most are views of one buffer.
        """
        if not self.close.alive:
            raise ValueError(f"{self.path}: the container is closed")
        memory = np.empty(self.nbytes + 64, np.uint8)
        shift = -memory.__array_interface__["data"][0] % 64
        data = memory[shift : shift + self.nbytes]
        crc = _checksum(self._fill(data.data), self._head_crc)
        if _digits(crc) != self._expected:
            raise _error(
                self.path,
                f"is damaged: its checksum is {_digits(crc).decode()}, expected "
                f"{self._expected.decode()}",
                _LOAD_ANOTHER,
            )
        arrays = {}
        for name, spec in self.specs.items():
            part = data[spec.begin : spec.end]
            if spec.dtype == np.bool_ and part.max(initial=0) > 1:
                raise _error(
                    self.path,
                    f"tensor {_shown(name)} holds the byte {part.max()}, expected 0 or 1 in a "
                    "tensor of truth values",
                    _LOAD_ANOTHER,
                )
            array = part.view(spec.dtype).reshape(spec.shape)
            arrays[name] = np.require(array, requirements="A")
        return arrays

    def _fill(self, data: memoryview) -> Iterator[list[memoryview]]:
        """Read the data of the file, and yield each block that has been read."""
        os.lseek(self._number, self._head_size, os.SEEK_SET)
        with open(self._number, "rb", buffering=0, closefd=False) as file:
            for at in range(0, len(data), _BLOCK):
                block = data[at : at + _BLOCK]
                filled = 0
                while filled < len(block):
                    count = file.readinto(block[filled:])
                    if not count:
                        raise _error(self.path, "became shorter while it was read", _LOAD_ANOTHER)
                    filled += count
                yield [block]


def open_container(path: str | os.PathLike[str]) -> Container:
    """Return the container of a path, with its header read and checked.

    Errors: ModelFileError, which begins with the path, for everything that is no container or a
    damaged one; OSError for a path that does not exist or must not be read.
    """
    path = os.fsdecode(path)
    # Opening a device may do something, and opening a FIFO waits: look before, and again after.
    _check_regular(path, os.stat(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags)
    try:
        status = os.fstat(number)
        _check_regular(path, status)
        head = _read_head(path, number, status.st_size)
        metadata, specs = _parse(path, head, status.st_size - len(head))
        return Container(path, number, head, metadata, specs)
    except BaseException:
        os.close(number)
        raise


def _error(path: str, found: str, remedy: str) -> ModelFileError:
    return ModelFileError(f"{path}: {found}. {remedy}.")


def _shown(thing: object) -> str:
    """Return the start of the repr of something that may be long."""
    return _REPR.repr(thing)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def _digits(crc: int) -> bytes:
    return f"{crc:08x}".encode()


def _groups(buffers: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """Yield the bytes of all buffers in groups of parts: a block in each but the last one."""
    group: list[memoryview] = []
    room = _BLOCK
    for buffer in buffers:
        while len(buffer) >= room:
            yield [*group, buffer[:room]]
            buffer = buffer[room:]
            group, room = [], _BLOCK
        if len(buffer):
            group.append(buffer)
            room -= len(buffer)
    if group:
        yield group


def _checksum(groups: Iterable[list[memoryview]], crc: int) -> int:
    """Return the CRC-32 of data that continue those of `crc`, computed in threads.

    zlib releases Python's lock: the next group is read while the ones before are added up.
    """
    todo: queue.SimpleQueue[tuple[int, list[memoryview]] | None] = queue.SimpleQueue()
    sizes: list[int] = []
    found: dict[int, int] = {}

    def add_up() -> None:
        while (item := todo.get()) is not None:
            own = 0
            for part in item[1]:
                own = zlib.crc32(part, own)
            found[item[0]] = own

    threads: list[threading.Thread] = []
    wanted = min(_THREADS, os.cpu_count() or 1)
    try:
        for index, group in enumerate(groups):
            sizes.append(sum(map(len, group)))
            todo.put((index, group))
            if index and len(threads) < wanted:  # a single group needs none
                thread = threading.Thread(target=add_up, name="portnet-checksum", daemon=True)
                try:
                    thread.start()
                    threads.append(thread)
                except RuntimeError:  # no more threads
                    wanted = len(threads)
    finally:
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join()
    if not threads:
        todo.put(None)
        add_up()
    for index, size in enumerate(sizes):
        crc = _times(crc, _power(size)) ^ found[index]
    return crc


@functools.lru_cache(16)
def _power(size: int) -> int:
    """Return the factor of a CRC-32 that `size` bytes follow: x**(8 size) modulo its polynomial."""
    result, square = 1 << 31, 1 << 23  # the highest bit is 1, the next x
    while size:
        if size & 1:
            result = _times(result, square)
        square = _times(square, square)
        size >>= 1
    return result


def _times(a: int, b: int) -> int:
    """Return the product of two polynomials over GF(2) modulo that of CRC-32."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return product


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", "__metadata__") and "\0" not in name


def _code(dtype: np.dtype[Any]) -> str | None:
    """Return safetensors' code of a dtype in either byte order, None if it has none."""
    if dtype.name == "bfloat16":
        return "BF16"
    return _CODES.get(dtype.newbyteorder("<").str)


def _dtype(code: object) -> np.dtype[Any] | None:
    """Return the dtype of safetensors' code, None if it is unknown here."""
    if code == "BF16":
        with contextlib.suppress(ImportError):
            found: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
            return found
    return _DTYPES.get(code) if isinstance(code, str) else None


def _check_regular(path: str, status: os.stat_result) -> None:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    if not stat.S_ISREG(status.st_mode):
        kind = kinds.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise _error(path, f"is {kind}, expected a model file", _SAVE_FIRST)
    if not status.st_size:
        raise _error(path, "is empty, expected a model file", _LOAD_ANOTHER)


def _read(number: int, at: int, size: int) -> bytes:
    """Return `size` bytes of an open file, less at its end."""
    os.lseek(number, at, os.SEEK_SET)
    parts = []
    while size and (part := os.read(number, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_head(path: str, number: int, size: int) -> bytes:
    """Return the length and the header of a file that may be a container."""
    first = _read(number, 0, 512)
    if first[8:_CRC_AT] != _START and (kind := _looks_like(first)):
        raise _error(
            path,
            f"looks like {kind} and is refused: expected a model file of portnet, which never "
            "unpickles",
            _SAVE_FIRST,
        )
    if size <= 8:
        raise _error(
            path, f"is truncated, or no model: it has {size} bytes, expected more", _LOAD_ANOTHER
        )
    length = int.from_bytes(first[:8], "little")
    if first[8:9] != b"{":
        raise _error(
            path,
            f"is no portnet model: its header begins with {first[8:16]!r}, expected {_START!r}",
            _SAVE_FIRST,
        )
    if length > HEADER_LIMIT:
        raise _error(
            path,
            f"is damaged, hostile, or no portnet model: its header has {length:,} bytes, expected "
            f"at most {HEADER_LIMIT:,}",
            _SAVE_FIRST,
        )
    head = _read(number, 0, 8 + length)
    if len(head) < 8 + length or len(head) > size:
        raise _error(
            path,
            f"is truncated: it has {size:,} bytes, expected {8 + length:,} for its header alone",
            _LOAD_ANOTHER,
        )
    return head


_PICKLE = re.compile(rb"\x80[\x01-\x05][^\0]|c[\w.]+\n[\w.]+\n|\([dlt]p\d+\n|\(c[\w.]+\n|[]})]q\0")
_SIGNATURES = {
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x1f\x8b": "gzip data",
    b"x\x01": "zlib data, as joblib writes them",
    b"x\x5e": "zlib data, as joblib writes them",
    b"x\x9c": "zlib data, as joblib writes them",
    b"x\xda": "zlib data, as joblib writes them",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\0": "xz data",
    b"]\0\0": "lzma data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"\x04\x22\x4d\x18": "lz4 data",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer (run `git lfs pull`)",
}


def _looks_like(first: bytes) -> str:
    """Return what other kind of file begins like this, "" if none that is known."""
    # The first bytes of a container depend on the length of its header, and may look like others.
    if first[3:8].strip(b"\0") or first[8:9] not in (b"{", b""):
        if _PICKLE.match(first):
            return "a pickle"
        for signature, kind in _SIGNATURES.items():
            if first.startswith(signature):
                return kind
    if first.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        name = first[30 : 30 + int.from_bytes(first[26:28], "little")]
        if name.endswith(b".npy"):
            return "NumPy arrays in a zip file (.npz)"
        return "a PyTorch file with a pickle" if name.endswith(b"data.pkl") else "a zip file"
    if first[257:262] == b"ustar":
        return "a tar file"
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page (HTML)"
    return "JSON" if re.match(rb'\{\s*"|\[', text) else ""


def _parse(path: str, head: bytes, size: int) -> tuple[dict[str, str], dict[str, Spec]]:
    """Return the metadata and the tensors of a header that has `size` bytes of data behind it."""
    header = _parse_json(path, head[8:])
    metadata = header.pop("__metadata__", {})
    texts = isinstance(metadata, dict) and all(_is_text(v) for v in metadata.values())
    if not texts or not all(map(_is_text, metadata)):
        raise _error(
            path,
            f"is damaged: its metadata are {_shown(metadata)}, expected texts by name",
            _LOAD_ANOTHER,
        )
    if metadata.get("format") != "portnet":
        raise _error(
            path,
            "looks like a safetensors file that portnet did not write and is refused: expected "
            f"'format': 'portnet' in its metadata, found {_shown(metadata)}",
            "Read it with the safetensors library, or give the path of a file that portnet.save "
            "wrote",
        )
    digits = head[_CRC_AT : _CRC_AT + 8]
    if not re.fullmatch(rb"[0-9a-f]{8}", digits) or head[8:_CRC_AT] != _START or len(head) % 8:
        raise _error(
            path,
            f"is damaged, or another program changed it: its header begins with {head[8:62]!r}, "
            f"expected {_START!r} with eight hexadecimal digits, and a length that 8 divides",
            _LOAD_ANOTHER,
        )
    del metadata["crc32"]

    if len(header) > TENSOR_LIMIT:
        raise _error(
            path, f"has {len(header):,} tensors, expected at most {TENSOR_LIMIT:,}", _SAVE_FIRST
        )
    specs = {name: _spec(path, name, entry) for name, entry in header.items()}
    specs = dict(sorted(specs.items(), key=lambda item: (item[1].begin, item[1].end)))
    at = 0
    for name, spec in specs.items():
        if spec.begin != at:
            raise _error(
                path,
                f"is damaged: tensor {_shown(name)} begins at byte {spec.begin:,} of the data, "
                f"expected {at:,}, where the one before it ends",
                _LOAD_ANOTHER,
            )
        at = spec.end
    if at != size:
        what = "is truncated" if at > size else "is damaged: bytes follow its last tensor"
        raise _error(
            path,
            f"{what}: it has {size:,} bytes of data, expected {at:,} for its tensors",
            _LOAD_ANOTHER,
        )
    if size > (memory := _physical_memory()):
        raise _error(
            path,
            f"needs {size:,} bytes of memory for its tensors, expected at most the {memory:,} of "
            "this machine",
            "Load it on a machine with more memory",
        )
    return metadata, specs


def _is_text(thing: object) -> bool:
    """Tell whether something is text that can be written as UTF-8: JSON may hold surrogates."""
    if not isinstance(thing, str):
        return False
    try:
        thing.encode()
    except UnicodeEncodeError:
        return False
    return True


def _spec(path: str, name: str, entry: Any) -> Spec:
    """Return the checked description of a tensor."""

    def error(found: object, expected: str) -> ModelFileError:
        message = f"tensor {_shown(name)} has {_shown(found)}, expected {expected}"
        return _error(path, message, _LOAD_ANOTHER)

    if not _is_name(name) or not _is_text(name):
        raise error("this name", "text without NUL")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise error(entry, "dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _dtype(code)
    if dtype is None:
        if code == "BF16":
            raise _error(
                path, f"tensor {_shown(name)} has dtype BF16", "Install ml_dtypes to read it"
            )
        raise error(code, f"a dtype of {', '.join(_DTYPES)}, BF16")
    if not _sizes(shape) or len(shape) > _NDIM_LIMIT:
        raise error(shape, f"a shape of at most {_NDIM_LIMIT} whole numbers")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise error(offsets, "data_offsets of two whole numbers, the first not above the second")
    # Python's integers do not overflow; the sizes of an empty array do in NumPy.
    begin, end = offsets
    size = math.prod(shape) * dtype.itemsize
    if size != end - begin:
        raise error(offsets, f"{_shown(size)} bytes for shape {_shown(shape)}")
    if math.prod(filter(None, shape)) * dtype.itemsize > _SHAPE_LIMIT:
        raise error(shape, f"sizes for at most {_SHAPE_LIMIT:,} bytes, also where one is 0")
    return Spec(dtype, tuple(shape), begin, end)


def _sizes(things: Any) -> bool:
    # JSON's true and false are integers to isinstance.
    return isinstance(things, list) and all(type(n) is int and n >= 0 for n in things)


def _parse_json(path: str, raw: bytes) -> dict[str, Any]:
    """Return the object of a header whose structure is within the limits."""
    try:
        text = raw.decode()
        _limit_structure(raw)
        parsed = json.loads(
            text, object_pairs_hook=without_duplicates, parse_constant=refuse_constant
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError, too
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise _error(
            path,
            f"is damaged or hostile: its header is no JSON as expected ({reason})",
            _SAVE_FIRST,
        ) from None
    if not isinstance(parsed, dict):
        raise _error(path, "is damaged: its header is no JSON object", _LOAD_ANOTHER)
    return parsed


def outside_texts(raw: bytes) -> np.ndarray:
    """Return the bytes of JSON that are in no text, as an array."""
    plain = np.frombuffer(raw.replace(rb"\\", b"__").replace(rb"\"", b"__"), np.uint8)
    return plain[~np.logical_xor.accumulate(plain == ord('"'))]


def _limit_structure(raw: bytes) -> None:
    """Raise ValueError if JSON is nested deeper, or has more parts, than the header of a container.

    The parser's own limit of nesting depends on the process, and its cost on the number of parts.
    """
    outside = outside_texts(raw)
    opens = (outside == ord("{")) | (outside == ord("["))
    closes = (outside == ord("}")) | (outside == ord("]"))
    depth = np.cumsum(opens.view(np.int8) - closes.view(np.int8), dtype=np.int32)
    if depth.max(initial=0) > 3:
        raise ValueError("it is nested deeper than 3")
    if np.count_nonzero(opens) > 3 * TENSOR_LIMIT + 2:
        raise ValueError(f"it has more than {TENSOR_LIMIT:,} tensors")
    if np.count_nonzero(outside == ord(":")) > 5 * TENSOR_LIMIT:
        raise ValueError(f"it has more than {5 * TENSOR_LIMIT:,} entries")
    if re.search(rb"[0-9]{20}", outside.tobytes()):
        raise ValueError("it has a number of more than 19 digits")


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the dict of the pairs of an object; raise ValueError if it has a key twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {_shown(key)} twice")
    return found


def refuse_constant(constant: str) -> None:
    """Raise ValueError for NaN and infinity, which are no JSON."""
    raise ValueError(f"it holds {constant}")


def _physical_memory() -> int:
    """Return the bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
