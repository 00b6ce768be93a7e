"""Fingerprints of a fit: checksums of its data, whatever their layout, without copies."""

import tracemalloc
import zlib

import numpy as np
import pytest

from portnet.files.checkpoint import fingerprint


def layouts():
    x = np.random.default_rng(0).standard_normal((700, 1000)).astype(np.float32)  # three blocks
    return {
        "C": x,
        "Fortran": np.asfortranarray(x),
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "empty": x[:0],
        "vector": x[0],
        "read-only": np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    }


@pytest.mark.parametrize("layout", layouts())
def test_fingerprint_is_the_checksum_of_the_bytes_in_c_order(layout):
    x = layouts()[layout]
    found = fingerprint({"x": x, "none": None}, {})["data"]
    crc = f"{zlib.crc32(x.tobytes()):08x}"
    assert found == {"x": {"shape": list(x.shape), "dtype": "float32", "crc32": crc}}


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_fingerprint_does_not_copy_arrays_in_c_order(dtype):
    x = np.ones((1000, 1000), dtype)
    tracemalloc.start()
    try:
        fingerprint({"x": x}, {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 20


def test_fingerprint_of_integers_of_all_sizes_is_the_same():
    found = [fingerprint({"y": np.arange(5, dtype=d)}, {}) for d in ("i1", "i4", "i8", "u2")]
    assert all(f == found[0] for f in found)
