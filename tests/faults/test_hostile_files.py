"""Damaged and hostile files: only ModelFileError, quickly and in little memory.

``python tests/faults/test_hostile_files.py 100000`` mutates as many files and prints what it cost.
"""

import bz2
import copy
import gzip
import io
import json
import lzma
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from portnet.files.container import open_container, pack
from portnet.files.errors import ModelFileError

SECONDS, BYTES = 0.1, 50e6  # that a hostile file may cost
START = b'{"__metadata__":{"format":"portnet","crc32":"'
DIGITS = slice(8 + len(START), 16 + len(START))
TENSORS = {
    "layers.0.W": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layers.0.b": np.array([0.5, -0.5, 0.25]),
    "mask": np.array([True, False, True]),
}
GOOD = b"".join(pack(TENSORS, {"config": '{"a": [1]}'}))


def split(contents):
    """Return the header and the data of a container."""
    length = int.from_bytes(contents[:8], "little")
    return contents[8 : 8 + length], contents[8 + length :]


GOOD_HEADER, GOOD_DATA = split(GOOD)


@pytest.fixture(autouse=True)
def _no_hang():
    """Interrupt a test that waits for a FIFO or reads a device without end."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number, frame):
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def load(path):
    with open_container(path) as file:
        return file.read()


def with_checksum(contents):
    """Return a container with the checksum that belongs to its contents."""
    zeroed = contents[: DIGITS.start] + b"00000000" + contents[DIGITS.stop :]
    return zeroed[: DIGITS.start] + b"%08x" % zlib.crc32(zeroed) + zeroed[DIGITS.stop :]


def with_header(text, data=b""):
    """Return a container with this text as header, and a true checksum."""
    text += b" " * (-len(text) % 8)
    return with_checksum(len(text).to_bytes(8, "little") + text + data)


def with_entries(entries, data=b""):
    """Return a container with these entries, as JSON text, after the metadata."""
    return with_header(START + b'00000000"}' + entries + b"}", data)


def with_tensors(tensors, data=b""):
    text = "".join(f",{json.dumps(name)}:{json.dumps(spec)}" for name, spec in tensors.items())
    return with_entries(text.encode(), data)


def spec(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def put(path, contents):
    """Write a new file: some file systems write the data of a file that is overwritten at once."""
    path.unlink(missing_ok=True)
    path.write_bytes(contents)
    return path


def check_refused(path, match=None):
    """Fail unless a file raises ModelFileError with path, finding and remedy; return the message."""
    with pytest.raises(ModelFileError, match=match) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert re.search(r"\. (Load|Give|Read|Install) [^.]+(portnet\.save wrote)?\.$", message), (
        message
    )
    assert len(message) < 1200
    return message


def check_cheap(path, match=None):
    """Fail unless a file is refused within the limits of time and memory."""
    tracemalloc.start()
    try:
        check_refused(path, match)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < BYTES, f"{peak / 1e6:.0f} MB"
    seconds = []
    for _ in range(3):  # other programs slow down some
        begin = time.process_time()
        with pytest.raises(ModelFileError):
            load(path)
        seconds.append(time.process_time() - begin)
    assert min(seconds) < SECONDS, f"{min(seconds):.3f} s"
    return min(seconds), peak


@pytest.fixture
def given(tmp_path):
    """Write contents to a file, and return its path."""

    def write(contents, name="model"):
        return put(tmp_path / name, contents)

    return write


def test_b0_the_undamaged_file_is_read(given):
    """The other tests would pass if every file were refused."""
    found = load(given(GOOD))
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(found[name], array)
    assert load(given(with_tensors({"a": spec("U8", [2], 0, 2)}, b"ab")))["a"].tolist() == [97, 98]
    assert with_checksum(GOOD) == GOOD


def test_b1_truncated_at_every_byte(given):
    check_cheap(given(b""), "is empty")
    for size in range(1, len(GOOD)):
        check_refused(given(GOOD[:size]), "is truncated")


@pytest.mark.parametrize("length", [0x0178, 0x5E78, 0x9C78 & ~7, 0x0280, 0x0480])
def test_b1_truncated_where_the_length_looks_like_another_kind(given, length):
    """The file begins as zlib data or a pickle does."""
    room = length - len(START) - len(b'00000000","a":""}}')
    contents = with_header(START + b'00000000","a":"' + b"x" * room + b'"}}')
    assert contents.startswith(length.to_bytes(8, "little"))
    assert load(given(contents)) == {}
    for size in (*range(1, 80), length):
        check_refused(given(contents[:size]), "is truncated")


@pytest.mark.parametrize("tail", [b"\0", b" ", b"\n", GOOD])
def test_b1_longer_than_its_tensors(given, tail):
    check_refused(given(GOOD + tail), "bytes follow its last tensor")
    check_refused(given(with_checksum(GOOD + tail)), "bytes follow its last tensor")


def test_b2_every_bit_flipped(given):
    data = len(GOOD) - sum(array.nbytes for array in TENSORS.values())
    for at in range(len(GOOD)):
        for bit in range(8):
            flipped = bytearray(GOOD)
            flipped[at] ^= 1 << bit
            check_refused(given(flipped), "checksum" if at >= data else None)


def test_b2_digits_of_the_checksum_in_capitals(given):
    contents = next(
        contents
        for i in range(100)
        if re.search(rb"[a-f]", (contents := with_tensors({str(i): spec("U8", [0], 0, 0)}))[DIGITS])
    )
    load(given(contents))
    capitals = contents[: DIGITS.start] + contents[DIGITS].upper() + contents[DIGITS.stop :]
    check_refused(given(capitals), "eight hexadecimal digits")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**63 - 1, 2**40, 2**31, (1 << 20) + 8])
def test_b3_length_of_the_header_above_the_limit(given, length):
    for contents in (GOOD, b"\0" * 8 + b"{" * 100, b"\0" * 8 + b'{"x":'):
        path = given(length.to_bytes(8, "little") + contents[8:])
        check_cheap(path, rf"header has {length:,} bytes, expected at most 1,048,576")


@pytest.mark.parametrize("length", [1 << 20, 1000, len(GOOD) - 7])
def test_b3_header_longer_than_the_file(given, length):
    check_cheap(given(length.to_bytes(8, "little") + GOOD[8:]), "is truncated: it has")


@pytest.mark.parametrize("length", [0, 1, 8, 48, 64])
def test_b3_header_too_short(given, length):
    check_refused(given(length.to_bytes(8, "little") + GOOD[8:]))
    check_refused(given(with_checksum(length.to_bytes(8, "little") + GOOD[8:])))


ROOM = (1 << 20) - len(START) - 20  # bytes of a header for a bomb


def filled(unit, begin=b",", end=b""):
    """Return a container whose header is full of a unit."""
    count = (ROOM - len(begin) - len(end)) // len(unit)
    return with_entries(begin + unit * count + end)


BOMBS = {
    "arrays in arrays": filled(b"[", b',"a":'),
    "arrays in arrays, closed": filled(b"[" * 400_000 + b"]" * 400_000, b',"a":'),
    "objects in objects": filled(b'{"a":', b',"a":'),
    "tensors without anything": filled(b'"":{},', end=b'"":{}'),
    "tensors of the least size": with_entries(
        b"".join(b',"%x":{"dtype":0,"shape":[],"data_offsets":[]}' % i for i in range(20_000))
    ),
    "10,001 tensors": with_entries(
        b"".join(
            b',"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(10_001)
        )
    ),
    "names with numbers": with_entries(b"".join(b',"%x":1' % i for i in range(100_000))),
    "as many names as are parsed": with_entries(b"".join(b',"%x":1' % i for i in range(49_000))),
    "empty arrays": filled(b"[],", b',"a":[', b"[]]"),
    "empty arrays, as many as are parsed": with_entries(b',"a":[' + b"[]," * 29_000 + b"[]]"),
    "sizes": filled(b"999,", b',"a":{"dtype":"U8","data_offsets":[0,0],"shape":[', b"0]}"),
    "texts": filled(b'"ab",', b',"a":[', b'""]'),
    "quotes": filled(b'"'),
    "escaped quotes": filled(rb"\"", b',"', b'":1'),
    "backslashes": filled(rb"\\", b',"', b'":1'),
    "a name of 1 MB": filled(b"x", b',"', b'":1'),
    "a name of 1 MB in escapes": filled(rb"\ud83d\ude00", b',"', b'":1'),
    "a name of 1 MB in four bytes each": filled("😀".encode(), b',"', b'":1'),
    "a number of 1 MB": filled(b"9", b',"a":'),
    "many long numbers": filled(b"9" * 4000 + b",", b',"a":[', b"0]"),
    "exponents": filled(b"1e999,", b',"a":[', b"0]"),
    "commas": filled(b","),
    "colons": filled(b":"),
    "spaces": filled(b" "),
    "zeros": filled(b"\0"),
    "metadata of 1 MB": with_header(START + b'00000000","a":"' + b"x" * (ROOM - 30) + b'"},"a":1}'),
    "metadata entries": with_header(
        START + b'00000000"' + b"".join(b',"%x":""' % i for i in range(45_000)) + b"}}", b"data"
    ),
    "duplicates": filled(b'"a":1,', end=b'"a":1'),
    "not closed": filled(b'"a', end=b""),
}


@pytest.mark.parametrize("name", BOMBS)
def test_b4_bombs_within_the_limit_of_the_header(given, name):
    contents = BOMBS[name]
    assert int.from_bytes(contents[:8], "little") <= 1 << 20
    check_cheap(given(contents))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("tensors of the least size", "it has more than 10,000 tensors"),
        ("empty arrays", "it has more than 10,000 tensors"),
        ("names with numbers", "it has more than 50,000 entries"),
        ("a number of 1 MB", "it has a number of more than 19 digits"),
        ("as many names as are parsed", "has 49,000 tensors, expected at most 10,000"),
    ],
)
def test_b4_limits_are_checked_before_parsing(given, name, match):
    check_refused(given(BOMBS[name]), match)


def test_b4_a_million_tensors(given):
    entry = b',"%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    contents = with_entries(b"".join(entry % i for i in range(1_000_000)))
    check_cheap(given(contents), "expected at most 1,048,576")


def test_b4_nesting_is_refused_whatever_limit_the_process_has(given):
    """A parser without a limit of its own would use up the stack."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        check_refused(given(BOMBS["arrays in arrays"]), "nested deeper than 3")
        check_refused(given(BOMBS["objects in objects"]), "nested deeper than 3")
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        (b',"a":1,"a":1', "the key 'a' twice"),
        (b',"__metadata__":{}', "the key '__metadata__' twice"),
        (b',"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}', "key 'dtype' twice"),
        (b',"a":1,"\\u0061":1', "the key 'a' twice"),
    ],
)
def test_b4_duplicate_keys(given, entries, match):
    check_refused(given(with_entries(entries)), match)


@pytest.mark.parametrize(
    ("tensors", "data", "match"),
    [
        ({"a": spec("U8", [4], 0, 4), "b": spec("U8", [4], 2, 6)}, 6, "'b' begins at byte 2"),
        ({"a": spec("U8", [4], 0, 4), "b": spec("U8", [4], 0, 4)}, 4, "'b' begins at byte 0"),
        ({"a": spec("U8", [2], 0, 2), "b": spec("U8", [2], 4, 6)}, 6, "'b' begins at byte 4"),
        ({"a": spec("U8", [2], 1, 3)}, 3, "'a' begins at byte 1 of the data, expected 0"),
        ({"a": spec("U8", [2], 0, 2)}, 3, "bytes follow its last tensor"),
        ({}, 1, "bytes follow its last tensor"),
        ({"a": spec("U8", [4], 0, 4)}, 3, "is truncated: it has 3 bytes of data, expected 4"),
        ({"a": spec("U8", [2], 2, 0)}, 2, "the first not above the second"),
        ({"a": spec("U8", [0], 1, 1)}, 0, "begins at byte 1"),
        ({"a": spec("U8", [-1], 0, 1)}, 1, "'a' has .*-1.*, expected a shape"),
        ({"a": spec("U8", [-1, -1], 0, 1)}, 1, "expected a shape"),
        ({"a": spec("U8", [1.0], 0, 1)}, 1, "'a' has .*1.0.*, expected a shape"),
        ({"a": spec("U8", [True], 0, 1)}, 1, "'a' has .*True.*, expected a shape"),
        ({"a": spec("U8", [None], 0, 1)}, 1, "expected a shape"),
        ({"a": spec("U8", ["1"], 0, 1)}, 1, "expected a shape"),
        ({"a": spec("U8", [[1]], 0, 1)}, 1, "nested deeper than 3"),
        ({"a": spec("U8", 1, 0, 1)}, 1, "expected a shape"),
        ({"a": spec("U8", None, 0, 1)}, 1, "expected a shape"),
        ({"a": spec("U8", "1", 0, 1)}, 1, "expected a shape"),
        ({"a": spec("U8", {}, 0, 1)}, 1, "expected a shape"),
        ({"a": spec("U8", [1] * 65, 0, 1)}, 1, "a shape of at most 64 whole numbers"),
        ({"a": spec("U8", [1], 0, True)}, 1, "data_offsets of two whole numbers"),
        ({"a": spec("U8", [1], 0.0, 1)}, 1, "data_offsets of two whole numbers"),
        ({"a": spec("U8", [1], -1, 0)}, 1, "data_offsets of two whole numbers"),
        ({"a": {**spec("U8", [1], 0, 1), "data_offsets": [0, 1, 2]}}, 1, "data_offsets of two"),
        ({"a": {**spec("U8", [1], 0, 1), "data_offsets": [1]}}, 1, "data_offsets of two"),
        ({"a": {**spec("U8", [1], 0, 1), "data_offsets": None}}, 1, "data_offsets of two"),
        # 2**62 items of 4 bytes are 0 in 64 bits, and 2**64 are 0, too.
        ({"a": spec("F32", [2**62], 0, 0)}, 0, f"expected {2**64} bytes"),
        ({"a": spec("U8", [2**32, 2**32], 0, 0)}, 0, f"expected {2**64} bytes"),
        ({"a": spec("U8", [2**63], 0, 1)}, 1, f"expected {2**63} bytes"),
        ({"a": spec("U8", [2**64 + 1], 0, 1)}, 1, "more than 19 digits"),
        ({"a": spec("U8", [10**18] * 64, 0, 1)}, 1, "expected 1000"),
        ({"a": spec("F64", [0, 2**62], 0, 0)}, 0, "also where one is 0"),
        ({"a": spec("U8", [2**31, 0, 2**31], 0, 0)}, 0, "also where one is 0"),
        ({"a": spec("U8", [2**62], 0, 2**62)}, 0, "sizes for at most 281,474,976,710,656 bytes"),
        ({"a": spec("U8", [2**48], 0, 2**48)}, 0, "is truncated"),
        ({"a": spec("F32", [2], 0, 4)}, 4, "expected 8 bytes for shape"),
        ({"a": spec("F32", [], 0, 8)}, 8, "expected 4 bytes for shape"),
    ],
)
def test_b5_sizes_that_do_not_fit(given, tensors, data, match):
    check_cheap(given(with_tensors(tensors, b"\0" * data)), match)


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_b5_constants_that_are_no_json(given, constant):
    entries = b',"a":{"dtype":"U8","shape":[%b],"data_offsets":[0,0]}' % constant
    check_refused(given(with_entries(entries)), f"it holds {constant.decode()}")


@pytest.mark.parametrize("dtype", ["F128", "f32", "O", "", "BOOL ", 4, None, True, [], {}, "U8\0"])
def test_b6_unknown_dtype_names_the_tensor(given, dtype):
    path = given(with_tensors({"layers.3.b": spec(dtype, [1], 0, 1)}, b"\0"))
    check_refused(path, r"tensor 'layers\.3\.b' has .*, expected a dtype of F64, F32")


@pytest.mark.parametrize(
    "entry",
    [
        1,
        None,
        "text",
        [],
        {},
        {"dtype": "U8"},
        {"dtype": "U8", "shape": [0]},
        {**spec("U8", [0], 0, 0), "more": 1},
    ],
)
def test_b6_entry_that_describes_no_tensor_names_it(given, entry):
    path = given(with_tensors({"W": entry}))
    check_refused(path, "tensor 'W' has .*, expected dtype, shape and data_offsets")


@pytest.mark.parametrize("name", ["", "a\0b", "\0", "\ud800", "\udfff\ud800"])
def test_b6_name_that_is_no_text(given, name):
    path = given(with_tensors({name: spec("U8", [0], 0, 0)}))
    check_refused(path, r"tensor '.*' has 'this name', expected text without NUL")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "ünïcode 😀", "a\nb", "\x1b[2J"]
)
def test_b6_other_names_are_names(given, name):
    """They are keys of a dict, never paths; messages show them escaped."""
    path = given(with_tensors({name: spec("U8", [1], 0, 1)}, b"\5"))
    assert load(path)[name].tolist() == [5]
    path = given(with_tensors({name: spec("U8", [1], 0, 2)}, b"\5"))
    assert check_refused(path).isprintable()


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        (b'"format":"portnet","crc32":"00000000","a":1', "expected texts by name"),
        (b'"format":"portnet","crc32":"00000000","a":null', "expected texts by name"),
        (b'"format":"portnet","crc32":"00000000","a":["b"]', "expected texts by name"),
        (b'"format":"portnet","crc32":"00000000","a":"\\ud800"', "expected texts by name"),
        (b'"format":"portnet","crc32":"00000000","\\ud800":""', "expected texts by name"),
        (b'"format":"portnet","crc32":"0000000"', "eight hexadecimal digits"),
        (b'"format":"portnet","crc32":"-0000000"', "eight hexadecimal digits"),
        (b'"format":"portnet"', "eight hexadecimal digits"),
        (b'"format":"portnet","format":"pt"', "twice"),
        (b'"format":"pt"', "that portnet did not write"),
        (b"", "that portnet did not write"),
    ],
)
def test_b8_metadata_of_another_kind(given, metadata, match):
    text = b'{"__metadata__":{' + metadata + b"}}"
    text += b" " * (-len(text) % 8)
    check_refused(given(len(text).to_bytes(8, "little") + text), match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (START + b'00000000"},"\xff":1}', "no JSON as expected .invalid start byte"),
        (START + b'00000000"},"\xed\xa0\x80":1}', "no JSON as expected .invalid"),
        (START + b'00000000"}', "no JSON as expected .Expecting"),
        (START + b'00000000"}}}', "no JSON as expected .Extra data"),
        (START + b'00000000"}} x', "no JSON as expected .Extra data"),
        (START + b'00000000"},}', "no JSON as expected"),
        (START + b'00000000"},"a":\\"}', "no JSON as expected"),
        (b" " + START + b'00000000"}}', "its header begins with"),
        (b"[1]", "its header begins with"),
        (b"\xef\xbb\xbf{}", "its header begins with"),
        (b"{}", "that portnet did not write"),
        (b'{"__metadata__":1}', "expected texts by name"),
        (b'{"__metadata__":[]}', "expected texts by name"),
        (b'{"__metadata__":null}', "expected texts by name"),
        (START.replace(b"{", b"{ ", 1) + b'00000000"}}', "another program changed it"),
    ],
)
def test_b8_header_that_is_no_json_of_ours(given, text, match):
    text += b" " * (-len(text) % 8)
    check_refused(given(len(text).to_bytes(8, "little") + text), match)


@pytest.mark.parametrize("spaces", range(8))
def test_b8_length_of_the_header_is_a_multiple_of_8(given, spaces):
    text = GOOD_HEADER.rstrip() + b" " * spaces
    contents = with_checksum(len(text).to_bytes(8, "little") + text + GOOD_DATA)
    if len(text) % 8:
        check_refused(given(contents), "a length that 8 divides")
    else:
        assert load(given(contents)).keys() == TENSORS.keys()


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def zipped(name, contents=b"x"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, contents)
    return buffer.getvalue()


def saved(save, *args):
    buffer = io.BytesIO()
    save(buffer, *args)
    return buffer.getvalue()


def other_kinds(payload):
    """Yield files of other kinds, and what the message calls them; `payload` is harmful."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for thing in (payload, [payload], {"a": payload}, (payload, 1)):
            yield pickle.dumps(thing, protocol), "a pickle"
    code = pickle.dumps([payload])
    for level in (0, 1, 6, 9):
        yield zlib.compress(code, level), "zlib data, as joblib writes them"
    yield gzip.compress(code), "gzip data"
    yield bz2.compress(code), "bzip2 data"
    yield lzma.compress(code), "xz data"
    yield lzma.compress(code, lzma.FORMAT_ALONE), "lzma data"
    yield zipped("archive/data.pkl", code), "a PyTorch file with a pickle"
    yield zipped("a"), "a zip file"
    yield saved(zipfile.ZipFile, "w") or b"PK\5\6" + b"\0" * 18, "a zip file"
    yield saved(np.savez, np.ones(2)), r"NumPy arrays in a zip file \(.npz\)"
    yield saved(np.save, np.ones(2)), r"a NumPy array \(.npy\)"
    yield saved(np.save, np.array([payload])), r"a NumPy array \(.npy\)"
    yield b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "an HDF5 file"
    yield b"\n<!DOCTYPE html>\n<html>Not found</html>", "a web page"
    yield b"<html><body>404</body></html>", "a web page"
    yield b'<?xml version="1.0"?><Error/>', "a web page"
    yield b'{"error": "Repository not found"}', "JSON"
    yield b"GGUF\3\0\0\0" + b"\0" * 100, "a GGUF file"
    yield b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"


@pytest.mark.parametrize("name", ["model", "model.safetensors", "model.pkl", "model.npz"])
def test_b9_other_kinds_of_files_are_named_and_never_unpickled(given, tmp_path, name):
    marker = tmp_path / "marker"
    for contents, kind in other_kinds(Payload(marker)):
        path = given(contents, name)
        message = check_refused(path, f"looks like {kind}.* and is refused")
        assert "which never unpickles. Give the path of a file that portnet.save wrote." in message
        assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists()  # the payload has teeth


def test_b9_joblib(tmp_path):
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    path = tmp_path / "model.safetensors"
    for compress, kind in [(0, "a pickle"), (3, "zlib data"), (("gzip", 3), "gzip data")]:
        joblib.dump({"W": np.ones(100)}, path, compress=compress)
        check_cheap(path, f"looks like {kind}")


def test_b9_other_text_and_bytes(given):
    for contents in (b"W,b\n1,2\n3,4\n", b"\0" * 1000, b"\xff" * 1000, bytes(range(256)) * 4):
        check_cheap(given(contents))


@pytest.mark.parametrize("name", ["model.pkl", "model.npz", "model.html", "model"])
def test_b9_container_is_known_by_its_content(given, name):
    assert load(given(GOOD, name)).keys() == TENSORS.keys()


def test_b10_folder(tmp_path):
    check_cheap(tmp_path, "is a folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_b10_fifo_socket_and_links_to_them(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    check_cheap(tmp_path / "fifo", "is a FIFO")
    check_cheap(tmp_path / "link", "is a FIFO")
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{short}/socket")  # the path of a socket has at most 108 bytes
        check_cheap(Path(short) / "socket", "is a socket")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no /dev/zero")
def test_b10_device(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    check_cheap(Path("/dev/zero"), "is a device")
    check_cheap(tmp_path / "link", "is a device")


def test_b10_file_that_became_a_fifo_between_two_looks(tmp_path, given, monkeypatch):
    path, real = given(GOOD), os.open

    def swapped(*args):
        path.unlink()
        os.mkfifo(path)
        return real(*args)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(ModelFileError, match="is a FIFO"):
        open_container(path)


def test_b10_links_to_nothing(tmp_path):
    (tmp_path / "dangling").symlink_to("missing")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "dangling")
    with pytest.raises(OSError, match="loop"):
        load(tmp_path / "loop")


def sparse(path, size):
    try:
        os.truncate(path, size)
    except OSError:
        pytest.skip("the file system has no files of 1 TB")


def test_b10_sparse_file_of_1_tb(given):
    size = 1 << 40
    path = given(b"")
    sparse(path, size)
    check_cheap(path, "is no portnet model")
    path = given(GOOD)
    sparse(path, size)
    check_cheap(path, "bytes follow its last tensor")
    head = with_tensors({"a": spec("U8", [size], 0, size)})
    path = given(head)
    sparse(path, len(head) + size)
    check_cheap(path, "needs 1,099,511,627,776 bytes of memory")


# Mutations.
VALUES = [
    *(0, 1, -1, 2, 7, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 0.0, 1.5, -0.0),
    *(
        True,
        False,
        None,
        "",
        "a",
        "F32",
        "F64",
        "BOOL",
        "BF16",
        "U8",
        "\0",
        "\ud800",
        "__metadata__",
    ),
    *([], [0], [1], [0, 0], [0, 2**62], [[]], {}, {"a": 1}, float("nan"), float("inf")),
]
BASES = [
    GOOD,
    b"".join(pack({}, {})),
    b"".join(pack({"x": np.zeros((0, 3)), "y": np.arange(5, dtype=np.int16)}, {"a": "b" * 50})),
    b"".join(pack({f"layers.{i}.W": np.full((2, i), i, np.float32) for i in range(9)}, {})),
]


def mutate_bytes(draw, contents):
    """Change a few bytes of a file, or move parts of it."""
    out = bytearray(contents)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = draw.randrange(len(out) + 1)
        part = slice(at, at + draw.choice([1, 1, 4, 8, 40]))
        action = draw.randrange(7)
        if action == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif action == 1:
            out[part] = draw.randbytes(len(out[part]))
        elif action == 2:
            del out[part]
        elif action == 3:
            out[at:at] = draw.randbytes(draw.choice([1, 8, 100]))
        elif action == 4:
            other = draw.randrange(len(out) + 1)
            out[at:at] = out[other : other + draw.choice([1, 8, 60])]
        elif action == 5:
            del out[at:]
        else:
            length = draw.choice([0, 1, 2**20, 2**63, 2**64 - 1, draw.randrange(len(out) + 9)])
            out[:8] = length.to_bytes(8, "little")
    return bytes(out)


def mutate_text(draw, contents):
    """Change words and numbers of the header, behind its start."""
    text, data = split(contents)
    words = re.findall(rb'[0-9]+|[A-Za-z_.]+|[\[\]{}:,"]| +', text[len(START) + 8 :])
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(len(words))
        action = draw.randrange(4)
        if action == 0:
            del words[at]
        elif action == 1:
            words.insert(at, draw.choice(words))
        elif action == 2:
            words[at] = json.dumps(draw.choice(VALUES)).encode()
        else:
            words[at] = draw.choice(words)
        words = words or [b""]
    return with_header(text[: len(START) + 8] + b"".join(words), data)


def mutate_values(draw, contents):
    """Change values of the header, which stays JSON; sometimes the data, too."""
    text, data = split(contents)
    header = json.loads(text)
    for _ in range(draw.choice([1, 1, 2, 3])):
        place = header
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(place[key], dict | list) and draw.random() < 0.8:
                place = place[key]
                continue
            action = draw.randrange(4)
            if action == 0:
                del place[key]
            elif action == 1 and isinstance(place, dict):
                place[draw.choice(["a", "", "dtype", "\0", "shape", "ü"])] = place.pop(key)
            else:
                place[key] = copy.deepcopy(draw.choice(VALUES))
            break
    if draw.random() < 0.3:
        data = data[: draw.randrange(len(data) + 1)] + b"\0" * draw.choice([0, 0, 1, 8])
    return with_header(json.dumps(header, separators=(",", ":")).encode(), data)


def mutate(draw):
    contents = draw.choice(BASES)
    how = draw.choice([mutate_bytes, mutate_text, mutate_values])
    changed = how(draw, contents)
    if how is mutate_bytes and draw.random() < 0.3:
        changed = with_checksum(changed)
    if draw.random() < 0.1 and len(changed) > 1:
        changed = mutate_bytes(draw, changed)
    return changed


def check_loaded(contents, found, safetensors):
    """Fail unless the arrays are what the bytes of the file say."""
    assert contents == with_checksum(contents), "the checksum is wrong"
    text, data = split(contents)
    header = json.loads(text)
    del header["__metadata__"]
    assert header.keys() == found.keys()
    total = 0
    for name, array in found.items():
        begin, end = header[name]["data_offsets"]
        assert array.tobytes() == data[begin:end], name
        assert list(array.shape) == header[name]["shape"], name
        total += array.nbytes
    assert total == len(data)
    if safetensors and all(array.dtype.kind in "fiub" for array in found.values()):
        for name, array in safetensors.load(contents).items():
            assert array.dtype == found[name].dtype, name
            assert array.tobytes() == found[name].tobytes(), name


def fuzz(count, seed):
    """Load mutated files; return (files that were read, seconds of the slowest one)."""
    try:
        import safetensors.numpy as safetensors
    except ImportError:
        safetensors = None
    read, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        for i in range(count):
            contents = mutate(random.Random(f"{seed} {i}"))
            put(path, contents)
            begin = time.process_time()
            try:
                found = load(path)
            except BaseException as error:
                if not (isinstance(error, ModelFileError) and str(error).startswith(f"{path}: ")):
                    message = f"file {i} of seed {seed}: {error!r}: {contents!r}"
                    raise AssertionError(message) from error
            else:
                read += 1
                check_loaded(contents, found, safetensors)
            slowest = max(slowest, time.process_time() - begin)
    return read, slowest


def test_mutated_files_raise_only_model_file_error_and_cost_little():
    fuzz(10, 1)  # what is imported at the first use
    tracemalloc.start()
    try:
        read, slowest = fuzz(2000, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 20 < read < 600  # most mutations are refused, and some that change nothing are not
    assert peak < BYTES
    assert slowest < 1


def main(count, seed=0):
    import resource

    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read, slowest = fuzz(count, seed)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{count:,} mutated files in {time.perf_counter() - begin:.0f} s: {read:,} were read, the "
        f"others raised ModelFileError; slowest {slowest * 1e3:.1f} ms, memory grew {grown:.0f} MiB"
    )


def test_long_script_runs():
    done = subprocess.run([sys.executable, __file__, "50"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "50 mutated files" in done.stdout


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
