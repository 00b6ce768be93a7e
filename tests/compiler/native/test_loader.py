"""Object files loaded without LLVM: the same functions as LLVM loads, or none."""

import ctypes
import struct

import numpy as np
import pytest

from portnet.compiler import native_policy

if native_policy.why_no_machine_code():
    pytest.skip(f"no machine code: {native_policy.why_no_machine_code()}", allow_module_level=True)

from portnet.compiler.native import llvm, loader

if not loader.processor():
    pytest.skip("object files are loaded by LLVM here", allow_module_level=True)

# Constants of its own, a function that calls another, and a call of the C library.
TEXT = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare double @cos(double)
define void @add(ptr %to) noinline {
  %x = load double, ptr %to
  %y = fadd double %x, 0x400921FB54442D18
  store double %y, ptr %to
  ret void
}
define void @work(ptr %table) {
  %from = load ptr, ptr %table
  %at = getelementptr i64, ptr %table, i64 1
  %to = load ptr, ptr %at
  %np = getelementptr i64, ptr %table, i64 2
  %n = load i64, ptr %np
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %n, i1 false)
  call void @add(ptr %to)
  %last = getelementptr double, ptr %to, i64 99
  %x = load double, ptr %last
  %y = call double @cos(double %x)
  store double %y, ptr %last
  ret void
}
"""


@pytest.fixture(scope="module")
def contents():
    return llvm.compiled(TEXT, "")


def results(functions):
    x, out = np.linspace(0, 1, 100), np.zeros(100)
    table = np.array([x.ctypes.data, out.ctypes.data, x.nbytes])
    functions["work"](table.ctypes.data)
    return out


def test_functions_do_what_those_loaded_by_llvm_do(contents):
    expected = np.linspace(0, 1, 100)
    expected[0] += np.pi
    expected[-1] = np.cos(1.0)
    by_llvm = results(llvm.loaded(contents, ("work", "add"), ""))
    functions = loader.load(contents, ("work", "add"))
    np.testing.assert_array_equal(results(functions), by_llvm)
    np.testing.assert_allclose(by_llvm, expected, rtol=1e-15)


def test_memory_of_the_code_cannot_be_written(contents):
    memory = loader.load(contents, ("work",))["memory"]
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with open("/proc/self/maps", encoding="ascii") as maps:
        for line in maps:
            start, _, end = line.split()[0].partition("-")
            if int(start, 16) <= address < int(end, 16):
                assert line.split()[1] == "r-xp"  # nor is it shared with copies of the process
                return
    raise AssertionError("the memory is not mapped")


def section_of(contents, wanted):
    """Return where the headers of the sections of a kind are."""
    start, size, count = struct.unpack_from("<Q10xHHH", contents, 40)[0], *_sizes(contents)
    return [
        start + i * size
        for i in range(count)
        if struct.unpack_from("<4xI", contents, start + i * size)[0] == wanted
    ]


def _sizes(contents):
    return struct.unpack_from("<HH", contents, 58)


def changed(contents, at, kind, value):
    made = bytearray(contents)
    struct.pack_into(kind, made, at, value)
    return bytes(made)


def relocation(contents):
    """Return where the first relocation is."""
    (header,) = section_of(contents, 4)
    return struct.unpack_from("<Q", contents, header + 24)[0]


DAMAGES = {
    "empty": lambda c: b"",
    "cut in the header": lambda c: c[:40],
    "cut in a section": lambda c: c[: relocation(c) + 8],
    "another machine": lambda c: changed(c, 18, "<H", 183),
    "a program": lambda c: changed(c, 16, "<H", 2),
    "32 bits": lambda c: changed(c, 4, "<B", 1),
    "a relative address": lambda c: changed(
        c, relocation(c) + 8, "<Q", struct.unpack_from("<Q", c, relocation(c) + 8)[0] + 1
    ),
    "a relocation elsewhere": lambda c: changed(c, relocation(c), "<Q", 1 << 20),
    "a symbol that is not there": lambda c: changed(c, relocation(c) + 8, "<Q", (9999 << 32) + 1),
    "relocations of another kind": lambda c: changed(c, section_of(c, 4)[0] + 4, "<I", 9),
    "a section longer than memory": lambda c: changed(c, section_of(c, 1)[0] + 32, "<Q", 1 << 63),
    "no symbols": lambda c: changed(c, section_of(c, 2)[0] + 4, "<I", 1),
    "an unknown function": lambda c: c.replace(b"\0cos\0", b"\0cqs\0"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_other_files_are_left_to_llvm(name, contents):
    damaged = DAMAGES[name](contents)
    assert damaged != contents
    assert loader.load(damaged, ("work",)) is None


def test_function_that_is_not_there_is_left_to_llvm(contents):
    assert loader.load(contents, ("work", "play")) is None


def test_code_that_cannot_be_made_executable_is_left_to_llvm(contents, monkeypatch):
    class Library:
        def __init__(self, *args, **options):
            pass

        cos, memcpy = ctypes.CDLL(None).cos, ctypes.CDLL(None).memcpy

        def mprotect(self, *args):
            return -1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert loader.load(contents, ("work",)) is None


def test_processor_is_known_by_its_features():
    text = loader.processor()
    assert "vendor_id" in text
    assert " sse2 " in text
    assert "MHz" not in text  # which changes
