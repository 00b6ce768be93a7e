"""A device for tests: the kernels compiled by g++ and run on the CPU, thread after thread.

Graphs record what is launched and run only when they are replayed. During a capture everything
raises that CuPy and CUDA forbid there. Memory that is freed is filled with NaN.
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
GXX = shutil.which("g++")
_built: dict[str, ctypes.CDLL] = {}


def build(source, flags=("-O1",)):
    """Compile a source of kernels; return the library."""
    heads = re.findall(r'extern "C" __global__ void (\w+)\((.*?)\) \{', source)
    text = [f'#include "{HERE / "serial_cuda.h"}"', source]
    for name, given in heads:
        count = len([p for p in given.split(",") if p.strip()])
        call = ", ".join(f"a[{i}]" for i in range(count))
        text.append(f"static void call_{name}(char** a) {{ {name}({call}); }}")
        text.append(
            f'extern "C" int launch_{name}(char** a, unsigned gx, unsigned gy, unsigned bx, '
            f"unsigned by, unsigned seed) {{ return serial::launch(call_{name}, a, gx, gy, bx, by, "
            "seed); }"
        )
    whole = "\n".join(text)
    key = hashlib.sha256((whole + repr(flags)).encode()).hexdigest()
    if key not in _built:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "k.cpp")
            path.write_text(whole)
            command = [GXX, "-std=c++17", *flags, "-ffp-contract=off", "-Wall", "-Werror"]
            command += ["-Wno-unknown-pragmas", "-Wno-unused", "-Wno-maybe-uninitialized"]
            command += ["-shared", "-fPIC", "-o", str(Path(folder, "k.so")), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[:3000] + "\n" + source
            _built[key] = ctypes.CDLL(str(Path(folder, "k.so")))
    return _built[key]


class CPUDevice:
    """See `portnet.compiler.cuda.graph.Device`."""

    def __init__(self, seed=0):
        self.seed = seed
        self.recording = None
        self.launched = 0

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
        raw = np.full(nbytes + 64, 0xFF, np.uint8)  # NaN in every float type
        start = -raw.ctypes.data % 64
        array = raw[start : start + nbytes]
        weakref.finalize(array, raw.fill, 0xFF)
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
        return build(source)

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

    def wait(self):
        self._forbidden("synchronizing")
