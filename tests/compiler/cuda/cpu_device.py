"""A device for tests: the kernels compiled by g++ and run on the CPU, thread after thread.

Graphs record what is launched and run only when they are replayed. During a capture everything
raises that CuPy and CUDA forbid there. Memory that is freed is filled with NaN.
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np
import nvrtc_check
import pytest

HERE = Path(__file__).parent
# Fibers and sections are those of Linux.
GXX = shutil.which("g++") if sys.platform == "linux" else None
PAD = 4096  # bytes before and after each array; nothing may write to them
NOISE = np.random.default_rng(0).integers(0, 256, PAD + 2048, np.uint8)
NOISE[3::4] = 0x7E  # large numbers, as floats
MISSING = "g++ is not installed" if sys.platform == "linux" else "kernels run on Linux only"
needs_gxx = pytest.mark.skipif(GXX is None, reason=MISSING)
_folders = []  # kept until the process ends
_built: dict[str, ctypes.CDLL] = {}


def sanitizers():
    """Return the libraries of the sanitizers of g++, to be loaded first; [] if one is missing."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        command = [GXX, f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_file():
            return []
        found.append(path)
    return found


@functools.cache
def _runtime(flags):
    """Return a folder with the header, compiled, and what runs kernels."""
    folder = tempfile.TemporaryDirectory()
    _folders.append(folder)
    header = Path(folder.name, "serial_cuda.h")
    header.write_text((HERE / "serial_cuda.h").read_text())
    for made in (
        ["-DSERIAL_RUNTIME", "-c", "-x", "c++", "-o", header.with_suffix(".o"), header],
        ["-x", "c++-header", "-o", f"{header}.gch", header],
    ):
        done = _compiled(flags, *made)
        assert done.returncode == 0, done.stderr
    return folder.name


def _compiled(flags, *rest):
    command = [
        GXX,
        "-std=c++17",
        *flags,
        "-U_FORTIFY_SOURCE",
        "-fcf-protection=none",
        "-ffp-contract=off",
        "-fPIC",
        "-Wall",
        "-Werror",
    ]
    command += ["-Wno-unknown-pragmas", "-Wno-unused", "-Wno-maybe-uninitialized"]
    command += [str(part) for part in rest]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def build(source, flags=("-O1",)):
    """Compile a source of kernels; return the library."""
    key = hashlib.sha256((source + repr(flags)).encode()).hexdigest()
    if key not in _built:
        if os.environ.get("PORTNET_NVRTC"):  # see ci/kernels
            nvrtc_check.check(source)
        _built[key] = _library(source, flags, key)
    return _built[key]


def _library(source, flags, key):
    head, *bodies = re.split(r'(?=extern "C" __global__ )', source)
    text = ['#include "serial_cuda.h"', head]
    for body in bodies:
        name, given = re.match(r".*? void (\w+)\((.*?)\) \{", body).groups()
        count = len([p for p in given.split(",") if p.strip()])
        call = ", ".join(f"a[{i}]" for i in range(count))
        shared = "nullptr, 0"
        if "__shared__" in body:
            section = f"shared_{name}"
            place = f'static __attribute__((section("{section}")))'
            body = body.replace("__shared__", place)
            text.append(
                f'extern "C" char __start_{section}[] __attribute__((visibility("hidden")));'
            )
            text.append(
                f'extern "C" char __stop_{section}[] __attribute__((visibility("hidden")));'
            )
            shared = f"__start_{section}, (size_t)(__stop_{section} - __start_{section})"
        waits = "true" if shared != "nullptr, 0" or "__syncthreads" in body else "false"
        text += [body, f"static void call_{name}(char** a) {{ {name}({call}); }}"]
        text.append(
            f'extern "C" int launch_{name}(char** a, unsigned gx, unsigned gy, unsigned bx, '
            f"unsigned by, unsigned seed) {{ return serial::launch(call_{name}, a, gx, gy, bx, by, "
            f"seed, {waits}, {shared}); }}"
        )
    path = Path(_runtime(flags), f"{key}.cpp")
    path.write_text("\n".join(text))
    done = _compiled(
        flags, "-shared", "-o", path.with_suffix(".so"), path, path.with_name("serial_cuda.o")
    )
    assert done.returncode == 0, done.stderr[:3000] + "\n" + source
    return ctypes.CDLL(str(path.with_suffix(".so")))


class CPUDevice:
    """See `portnet.compiler.cuda.graph.Device`.

    Parameters
    ----------
    seed : int
        Of the order of the threads and blocks; 0: their own.
    flags : tuple of str
        Of g++.
    pad : int
        Bytes before and after each array, which `check` looks at. With 0 the sanitizers see each
        access outside an array.
    """

    def __init__(self, seed=0, flags=("-O1",), pad=PAD):
        self.seed, self.flags, self.pad = seed, flags, pad
        self.recording = None
        self.launched = 0
        self.pads = []

    def check(self):
        """Fail if a kernel wrote beside an array."""
        right = all((pad == noise).all() for pad, noise in self.pads)
        assert right, "a kernel wrote beside an array"

    def _do(self, work):
        if self.recording is not None:
            self.recording.append(work)
        else:
            self.launched += 1
            work()

    def _forbidden(self, what):
        if self.recording is not None:
            raise RuntimeError(f"the current stream is capturing, so {what} is disallowed")

    def empty(self, nbytes):
        self._forbidden("allocating")
        around = 2 * self.pad + (64 if self.pad else 0)
        raw = np.full(nbytes + around, 0xFF, np.uint8)  # NaN in every float type
        start = self.pad + (-raw.ctypes.data % 64 if self.pad else 0)
        array = raw[start : start + nbytes]
        if self.pad:
            for pad in raw[:start], raw[start + nbytes :]:
                begin = 4 * len(self.pads) % 1024  # other numbers for each array
                pad[...] = NOISE[begin : begin + pad.size]
                self.pads.append((pad, NOISE[begin : begin + pad.size]))
        weakref.finalize(array, array[:].fill, 0xFF)
        return array

    def put(self, array, host):
        self._forbidden("H2D transfers")
        array.view(np.uint8).reshape(-1)[...] = (
            np.ascontiguousarray(host).reshape(-1).view(np.uint8)
        )

    def get(self, array, like):
        self._forbidden("D2H transfers")
        return array.view(like.dtype).reshape(like.shape).copy()

    def zero(self, array):
        array.fill(0)

    def address(self, array):
        assert array.flags.c_contiguous
        return array.ctypes.data

    def compile(self, source):
        self._forbidden("compiling")
        return build(source, self.flags)

    def launch(self, kernels, launch, addresses):
        function = getattr(kernels, f"launch_{launch.name}")
        given = (ctypes.c_char_p * len(addresses))(*[ctypes.c_char_p(a) for a in addresses])
        shape = (*launch.grid, *launch.block)

        def work():
            assert function(given, *shape, self.seed) == 0, f"{launch.name}: a missed barrier"

        self._do(work)

    def product(self, p, a, b, c):
        def matrix(x, at, rows, columns):
            given = (columns, rows) if x.transposed else (rows, columns)
            width = np.dtype(p.dtype).itemsize
            span = (given[0] - 1) * x.ld * width + given[1] * width
            memory = (ctypes.c_char * span).from_address(at)
            m = np.ndarray(given, p.dtype, memory, 0, (x.ld * width, width))
            return m.T if x.transposed else m

        def work():
            left, right = matrix(p.a, a, p.m, p.k), matrix(p.b, b, p.k, p.n)
            matrix(p.c, c, p.m, p.n)[...] = left @ right

        self._do(work)

    def capture(self, calls):
        assert self.recording is None
        self.recording = []
        try:
            calls()
            return self.recording
        finally:
            self.recording = None

    def replay(self, graph):
        for work in graph:
            work()
        self.launched += len(graph)

    def close(self):
        pass

    def wait(self):
        self._forbidden("synchronizing")
