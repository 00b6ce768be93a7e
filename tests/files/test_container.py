"""Containers: what is written, what is read back, and what neither writer nor reader accepts."""

import json
import os
import sys
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from descriptors import HAVE_PROC, open_below

from portnet.files import container
from portnet.files.container import Spec, open_container, pack
from portnet.files.errors import ModelFileError

DTYPES = "f8 f4 f2 i8 i4 i2 i1 u8 u4 u2 u1 ?".split()
START = b'{"__metadata__":{"format":"portnet","crc32":"'


def write(path, tensors, metadata=None):
    path.write_bytes(b"".join(pack(tensors, metadata or {})))
    return path


def read(path):
    with open_container(path) as file:
        return file.read()


def with_checksum(contents):
    """Set the checksum of a container whose digits are anything."""
    at = 8 + len(START)
    zeroed = contents[:at] + b"00000000" + contents[at + 8 :]
    return zeroed[:at] + b"%08x" % zlib.crc32(zeroed) + zeroed[at + 8 :]


def by_hand(header, data):
    """Return a container with a true checksum, without the code under test."""
    header = {"__metadata__": {"format": "portnet", "crc32": "-" * 8}, **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return with_checksum(len(text).to_bytes(8, "little") + text + data)


def examples():
    draw = np.random.default_rng(0)
    arrays = {}
    for dtype in DTYPES:
        for shape in [(), (3,), (2, 3), (0,), (0, 5), (2, 1, 3, 2)]:
            values = draw.integers(0, 2 if dtype == "?" else 100, shape)
            arrays[f"{dtype} {shape}"] = np.asarray(values).astype(dtype)
    return arrays


def test_arrays_of_every_dtype_and_shape_are_read_back(tmp_path):
    arrays = examples()
    found = read(write(tmp_path / "model", arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_nan_payloads_and_signed_zeros_keep_their_bits(tmp_path):
    bits = np.array([0x7FF8000000000123, 0x8000000000000000, 0xFFF0000000000000], np.uint64)
    found = read(write(tmp_path / "model", {"x": bits.view("f8")}))["x"]
    np.testing.assert_array_equal(found.view("u8"), bits)


def test_bfloat16_is_read_back_where_ml_dtypes_is_installed(tmp_path, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    path = write(tmp_path / "model", {"x": array})
    found = read(path)["x"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found, array)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ModelFileError, match=r"tensor 'x' has dtype BF16\. Install ml_dtypes"):
        open_container(path)


def test_arrays_in_other_orders_are_written_in_c_order_and_little_endian(tmp_path):
    x = np.arange(24.0).reshape(4, 6)
    frozen = x.copy()
    frozen.flags.writeable = False
    arrays = {
        "fortran": np.asfortranarray(x),
        "big-endian": x.astype(">f8"),
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "reversed": x[::-1].copy()[::-1],
        "read-only": frozen,
        "subclass": x.view(np.recarray),
    }
    found = read(write(tmp_path / "model", arrays))
    for name in arrays:
        assert found[name].dtype == np.dtype("<f8"), name
        np.testing.assert_array_equal(found[name], x, err_msg=name)


def test_arrays_in_c_order_are_not_copied():
    x, y = np.arange(10.0), np.arange(6, dtype=np.int8).reshape(2, 3)
    _, first, second = pack({"y": y, "x": x, "empty": np.empty((0, 3))}, {})
    assert np.shares_memory(np.asarray(first), x)
    assert np.shares_memory(np.asarray(second), y)


def test_checksum_is_computed_when_it_is_needed(monkeypatch):
    """Saving computes it while the disk is busy: the parts have zeros in its place."""
    tensors, computed = {"x": np.arange(10.0)}, []
    checksum = container._checksum
    monkeypatch.setattr(container, "_checksum", lambda *args: computed.append(1) or checksum(*args))
    packed = pack(tensors, {"a": "b"})
    contents = bytearray(b"".join(packed.parts))
    assert packed.nbytes == len(contents)
    assert contents[8 + len(START) :].startswith(b"00000000")
    assert not computed
    at, digits = packed.patch()
    contents[at : at + len(digits)] = digits
    assert contents == b"".join(packed) == with_checksum(bytes(contents))


def test_packing_takes_no_memory_for_arrays_in_c_order():
    x = np.zeros((500, 1000))  # 4 MB
    tracemalloc.start()
    try:
        packed = pack({f"layers.{i}.W": x for i in range(5)}, {})
        packed.patch()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 20


def test_reading_takes_the_memory_of_the_arrays(tmp_path):
    x = np.zeros((500, 1000))
    path = write(tmp_path / "model", {f"layers.{i}.W": x for i in range(5)})
    tracemalloc.start()
    try:
        found = read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 5
    assert peak < 5 * x.nbytes * 1.02


def test_layout_is_the_documented_one():
    arrays = {
        "b": np.array([1, 2, 3], np.int8),
        "d": np.zeros(1, np.float32),
        "a": np.ones(2, np.float32),
        "c": np.array([True]),
        "e": np.zeros((2, 2)),
    }
    contents = b"".join(pack(arrays, {"épo": "1", "config": '{"a": [1]}'}))
    length = int.from_bytes(contents[:8], "little")
    assert length % 8 == 0
    text = contents[8 : 8 + length]
    assert text.startswith(START)
    header = json.loads(text)
    metadata = header.pop("__metadata__")
    at = 8 + len(START)
    digits = contents[at : at + 8]
    zeroed = contents[:at] + b"00000000" + contents[at + 8 :]
    assert f"{zlib.crc32(zeroed):08x}" == metadata.pop("crc32") == digits.decode()
    assert metadata == {"format": "portnet", "épo": "1", "config": '{"a": [1]}'}
    assert list(header) == ["e", "a", "d", "b", "c"]
    ends = [32, 40, 44, 47, 48]
    assert [h["data_offsets"] for h in header.values()] == [
        list(pair) for pair in zip([0, *ends], ends, strict=False)
    ]
    assert header["e"] == {"dtype": "F64", "shape": [2, 2], "data_offsets": [0, 32]}
    assert contents[8 + length :] == b"".join(arrays[name].tobytes() for name in "eadbc")


def test_bytes_of_a_small_file_never_change():
    contents = b"".join(pack({"W": np.array([1.0, -2.0], np.float32)}, {"made": "today"}))
    assert contents == (
        b'\x80\0\0\0\0\0\0\0{"__metadata__":{"format":"portnet","crc32":"18a7f7f2","made":"today"},'
        b'"W":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}    \0\0\x80?\0\0\0\xc0'
    )


def test_metadata_and_specs_are_known_before_the_data_are_read(tmp_path):
    arrays = {"W": np.zeros((2, 3), np.float32), "b": np.zeros(3)}
    path = write(tmp_path / "model", arrays, {"one": "1", "": "ü\n\0"})
    with open_container(path) as file:
        assert file.path == str(path)
        assert file.metadata == {"format": "portnet", "one": "1", "": "ü\n\0"}
        assert file.specs == {
            "b": Spec(np.dtype("f8"), (3,), 0, 24),
            "W": Spec(np.dtype("f4"), (2, 3), 24, 48),
        }
        assert file.nbytes == 48


def test_arrays_are_writable_aligned_views_of_one_buffer(tmp_path):
    found = read(write(tmp_path / "model", examples()))
    memory = {id(x if x.base is None else x.base) for x in found.values() if x.size}
    for name, x in found.items():
        assert x.flags.writeable, name
        assert x.flags.aligned, name
        assert x.flags.c_contiguous, name
    bases = [x.base for x in found.values() if x.size]
    assert all(base is bases[0] for base in bases) or len(memory) == 1
    first = max(found.values(), key=lambda x: x.itemsize)
    assert first.__array_interface__["data"][0] % 8 == 0


def test_tensors_that_another_writer_left_unaligned_are_aligned(tmp_path):
    path = tmp_path / "model"
    header = {
        "a": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F64", "shape": [2], "data_offsets": [1, 17]},
    }
    path.write_bytes(by_hand(header, b"\7" + np.array([1.5, 2.5]).tobytes()))
    found = read(path)
    np.testing.assert_array_equal(found["a"], [7])
    np.testing.assert_array_equal(found["b"], [1.5, 2.5])
    assert found["b"].flags.aligned
    assert found["b"].flags.writeable


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros(2, complex), "complex128"),
        (np.array(["a"]), "<U1"),
        (np.array([None]), "object"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.zeros(2, [("a", "f4")]), "a"),
        (np.zeros(2, np.longdouble), "float128|longdouble|complex|float96|float64"),
        ([1.0], "list"),
        (1.0, "float"),
    ],
)
def test_dtype_that_a_file_cannot_hold_names_the_tensor(array, found):
    with pytest.raises(TypeError, match=rf"tensor 'layers\.0\.W' is .*({found})"):
        pack({"layers.0.W": array}, {})


@pytest.mark.parametrize("name", ["", "a\0b", "__metadata__", 1, None])
def test_name_that_is_no_text_is_an_error(name):
    with pytest.raises(ValueError, match="a tensor is named"):
        pack({name: np.zeros(2)}, {})


def test_text_that_is_no_unicode_is_an_error():
    with pytest.raises(ValueError, match="cannot be written as UTF-8"):
        pack({"\ud800": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="cannot be written as UTF-8"):
        pack({}, {"a": "\udfff"})


@pytest.mark.parametrize(("key", "value"), [("a", 1), (1, "a"), ("a", None), ("a", b"b")])
def test_metadata_other_than_text_are_an_error(key, value):
    with pytest.raises(TypeError, match="must be text with a text"):
        pack({}, {key: value})


@pytest.mark.parametrize("key", ["format", "crc32"])
def test_metadata_of_the_container_cannot_be_given(key):
    with pytest.raises(ValueError, match=f"'{key}' is set by the container itself"):
        pack({}, {key: "x"})


def test_what_exceeds_the_limits_of_the_reader_is_not_written(tmp_path):
    arrays = {str(i): np.zeros(1, np.int8) for i in range(10_000)}
    assert len(read(write(tmp_path / "model", arrays))) == 10_000
    with pytest.raises(ValueError, match="10,001 tensors, but a file holds at most 10,000"):
        pack({**arrays, "more": np.zeros(1)}, {})
    room = (1 << 20) - len(b"".join(pack({}, {"a": ""})).rstrip()) + 8
    assert read(write(tmp_path / "model", {}, {"a": "x" * room})) == {}
    with pytest.raises(ValueError, match="at most 1,048,576; use shorter names or less metadata"):
        pack({}, {"a": "x" * (room + 1)})


def test_brackets_and_quotes_in_text_are_no_structure(tmp_path):
    text = '\\" [[[[{{{{:::\\\\"\\'
    path = write(tmp_path / "model", {text: np.zeros(2)}, {text: text * 100, "\\": "}}]]"})
    with open_container(path) as file:
        assert file.metadata[text] == text * 100
        assert list(file.read()) == [text]


def test_empty_container_is_read_back(tmp_path):
    assert read(write(tmp_path / "model", {})) == {}


def test_scalar_and_an_array_of_64_dimensions(tmp_path):
    arrays = {"scalar": np.float64(2.5).reshape(()), "deep": np.full((1,) * 64, 3.0)}
    found = read(write(tmp_path / "model", arrays))
    assert found["scalar"].shape == ()
    assert found["scalar"] == 2.5
    assert found["deep"].shape == (1,) * 64


@pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path])
def test_path_is_text_bytes_or_a_path(tmp_path, kind):
    path = write(tmp_path / "mödel", {"x": np.ones(3)})
    np.testing.assert_array_equal(read(kind(path))["x"], np.ones(3))


def test_symbolic_link_to_a_file_is_read(tmp_path):
    write(tmp_path / "blob", {"x": np.ones(3)})
    (tmp_path / "model").symlink_to("blob")
    np.testing.assert_array_equal(read(tmp_path / "model")["x"], np.ones(3))


def test_path_that_does_not_exist_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_container(tmp_path / "model")


def test_file_that_is_replaced_while_it_is_open_is_read_as_it_was(tmp_path):
    path = write(tmp_path / "model", {"x": np.ones(3)})
    with open_container(path) as file:
        os.replace(write(tmp_path / "other", {"x": np.zeros((5, 5))}), path)
        np.testing.assert_array_equal(file.read()["x"], np.ones(3))
        np.testing.assert_array_equal(file.read()["x"], np.ones(3))  # again
    assert read(path)["x"].shape == (5, 5)


def test_arrays_are_independent_of_the_file(tmp_path):
    path = write(tmp_path / "model", {"x": np.ones(3)})
    found = read(path)["x"]
    found += 1
    path.write_bytes(b"")
    np.testing.assert_array_equal(found, np.full(3, 2.0))
    with pytest.raises(ModelFileError, match="is empty"):
        read(path)


def test_file_that_changes_after_its_header_was_read_is_damaged(tmp_path):
    path = write(tmp_path / "model", {"x": np.ones(1000)})
    size = path.stat().st_size
    with open_container(path) as file, open(path, "r+b") as other:
        other.seek(size - 1)
        other.write(b"\1")
        other.flush()
        with pytest.raises(ModelFileError, match=r"checksum is [0-9a-f]{8}, expected [0-9a-f]{8}"):
            file.read()
        other.truncate(size - 1)
        with pytest.raises(ModelFileError, match="became shorter"):
            file.read()


@pytest.mark.skipif(not HAVE_PROC, reason="there is no /proc")
def test_file_is_closed_after_the_block_with_the_container_and_after_an_error(tmp_path):
    path = write(tmp_path / "model", {"x": np.ones(3)})
    bad = tmp_path / "bad"
    bad.write_bytes(path.read_bytes()[:-1])
    with open_container(path) as file:
        assert open_below(tmp_path) == [str(path.resolve())]
    assert not open_below(tmp_path)
    with pytest.raises(ValueError, match="the container is closed"):
        file.read()
    file = open_container(path)
    del file
    assert not open_below(tmp_path)
    with pytest.raises(ModelFileError):
        open_container(bad)
    assert not open_below(tmp_path)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(container, "_BLOCK", 16)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("sizes", [[], [1], [15], [16], [17], [5, 30, 1, 100, 3], [33] * 50, [512]])
def test_checksum_of_blocks_in_threads_equals_that_of_the_whole(tmp_path, sizes):
    draw = np.random.default_rng(1)
    arrays = {str(i): draw.integers(0, 256, n).astype(np.uint8) for i, n in enumerate(sizes)}
    head, *data = pack(arrays, {})
    at = 8 + len(START)
    whole = b"".join([head[:at], b"00000000", head[at + 8 :], *data])
    assert head[at : at + 8] == b"%08x" % zlib.crc32(whole)
    found = read(write(tmp_path / "model", arrays))
    for name, x in arrays.items():
        np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize("size", [0, 5, 16, 100, 1000])
@pytest.mark.usefixtures("small_blocks")
def test_crc32_is_that_of_zlib(size):
    data = np.random.default_rng(size).bytes(size)
    assert container.crc32([data]) == zlib.crc32(data)
    assert container.crc32([data[:3], memoryview(data)[3:]]) == zlib.crc32(data)


@pytest.mark.usefixtures("small_blocks")
def test_groups_hold_a_block_each():
    parts = [memoryview(bytes(range(n))) for n in (5, 30, 1, 0, 14, 3)]
    groups = list(container._groups(parts))
    assert [sum(map(len, group)) for group in groups] == [16, 16, 16, 5]
    assert b"".join(part for group in groups for part in group) == b"".join(parts)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("possible", [0, 1])
def test_thread_that_cannot_start_is_no_error(tmp_path, monkeypatch, possible):
    started = []

    def start(thread, start=threading.Thread.start):
        if len(started) == possible:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    x = np.arange(100.0)
    np.testing.assert_array_equal(read(write(tmp_path / "model", {"x": x}))["x"], x)
    assert len(started) == possible


@pytest.mark.usefixtures("small_blocks")
def test_threads_end_when_reading_is_interrupted():
    def groups():
        for _ in range(5):
            yield [memoryview(b"x" * 16)]
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        container._checksum(groups(), 0)
    assert set(threading.enumerate()) <= before


def test_tensors_that_exceed_the_memory_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "model", {"x": np.ones(4)})
    assert container._physical_memory() > 1 << 20
    monkeypatch.setattr(container, "_physical_memory", lambda: 31)
    with pytest.raises(ModelFileError, match=r"needs 32 bytes of memory .* at most the 31"):
        open_container(path)


def test_truth_values_other_than_0_and_1_are_refused(tmp_path):
    path = tmp_path / "model"
    header = {"mask": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}
    path.write_bytes(by_hand(header, b"\0\1\0"))
    assert read(path)["mask"].tolist() == [False, True, False]
    path.write_bytes(by_hand(header, b"\0\1\2"))
    with pytest.raises(ModelFileError, match="tensor 'mask' holds the byte 2, expected 0 or 1"):
        read(path)


SAFETENSORS = "safetensors is not installed"


def test_safetensors_reads_what_portnet_wrote(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason=SAFETENSORS)
    from safetensors import safe_open

    arrays = examples()
    path = write(tmp_path / "model", arrays, {"config": '{"a": "ü"}'})
    found = safetensors.load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert len(metadata.pop("crc32")) == 8
    assert metadata == {"format": "portnet", "config": '{"a": "ü"}'}


def test_arrays_of_a_safetensors_file_with_portnet_s_metadata_are_read(tmp_path):
    """Only its metadata are missing: with them, the file of the other writer is read."""
    safetensors = pytest.importorskip("safetensors.numpy", reason=SAFETENSORS)
    arrays = examples()
    path = tmp_path / "model"
    contents = safetensors.save(arrays)
    path.write_bytes(contents)
    with pytest.raises(
        ModelFileError,
        match=r"looks like a safetensors file that portnet did not write .*expected "
        r"'format': 'portnet' in its metadata, found \{\}\. Read it with the safetensors library",
    ):
        open_container(path)
    length = int.from_bytes(contents[:8], "little")
    path.write_bytes(by_hand(json.loads(contents[8 : 8 + length]), contents[8 + length :]))
    found = read(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_container_that_safetensors_wrote_again_is_refused(tmp_path):
    """It writes the metadata in any order: the checksum, or its place, is another."""
    safetensors = pytest.importorskip("safetensors.numpy", reason=SAFETENSORS)
    path = tmp_path / "model"
    path.write_bytes(safetensors.save({"x": np.ones(2)}, {"format": "portnet", "crc32": "0" * 8}))
    with pytest.raises(ModelFileError, match="is damaged"):
        read(path)
