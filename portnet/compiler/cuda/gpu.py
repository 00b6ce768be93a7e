"""GPU: the device on which CuPy's arrays lie.

Kernels are compiled by NVIDIA's cuda.core, without fast-math, contraction or flushed subnormals
(CuPy's own compiler flushes them), and kept in the cache of machine code. Products go through
cuBLAS on a handle of our own, as CuPy refuses its own while a stream captures. Nothing is allocated
within a capture: all memory belongs to the plan.
"""

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..native.object_cache import cached_object
from .kernels import Launch, Matrix, Product

__all__ = ["GPU", "missing"]

WORKSPACE = 32 << 20  # bytes: what cuBLAS asks for on Hopper
# Of cuBLAS: the type of data, and that of the arithmetic.
TYPES = {"float32": (0, 68), "float64": (1, 70)}
TF32 = 77  # instead of 68
DEFAULT = -1  # cuBLAS chooses the algorithm
# Of the compiler: IEEE arithmetic, as NumPy's.
OPTIONS = {"fma": False, "ftz": False, "prec_div": True, "prec_sqrt": True}
_local = threading.local()


def missing() -> str:
    """Return which libraries are missing that graphs need; "" if none is."""
    names = []
    for name, package in (("cuda.core", "cuda-core"), ("nvmath.bindings", "nvmath-python")):
        try:
            importlib.import_module(name)
        except ImportError:
            names.append(package)
    return " and ".join(names)


class GPU:
    """The current device of CuPy, with IEEE or TF32 products of float32; see `graph.Device`.

    Graphs that may run at the same time need devices of their own: the workspace is shared.
    """

    def __init__(self, tf32: bool = False) -> None:
        import cupy
        from nvmath.bindings import cublas

        self.cupy, self.cublas, self.tf32 = cupy, cublas, tf32
        self.number = cupy.cuda.Device().id
        self.workspace: Any = self.empty(WORKSPACE)
        self.stream = cupy.cuda.Stream(non_blocking=True)  # that captures
        # Host memory: the numbers become part of a graph.
        self.numbers = {name: np.array([1, 0], name) for name in TYPES}
        self._handle()  # an error of cuBLAS is found here

    def close(self) -> None:
        """Release the workspace; graphs of this device must not run any more."""
        self.workspace = None

    def empty(self, nbytes: int) -> Any:
        """Return an array of bytes."""
        return self.cupy.empty(nbytes, np.uint8)

    def put(self, array: Any, host: Any) -> None:
        """Copy a NumPy array to an array of as many bytes."""
        array.view(np.uint8).reshape(-1).set(np.ascontiguousarray(host).reshape(-1).view(np.uint8))

    def get(self, array: Any, like: Any) -> Any:
        """Return an array of bytes as a NumPy array like another."""
        return array.get().view(like.dtype).reshape(like.shape)

    def zero(self, array: Any) -> None:
        """Set an array to zeros."""
        array.fill(0)

    def address(self, array: Any) -> int:
        """Return the address of an array."""
        return int(array.data.ptr)

    def compile(self, source: str) -> Any:
        """Return the kernels of a source, from the cache or compiled now."""
        return _loaded(source, self.number)

    def launch(self, kernels: Any, launch: Launch, addresses: list[int]) -> None:
        """Launch a kernel on the current stream."""
        kernels(launch.name)(launch.grid, launch.block, tuple(addresses))

    def product(self, product: Product, a: int, b: int, c: int) -> None:
        """Compute a product on the current stream.

        cuBLAS has matrices column by column, where ours are transposed: c.T = b.T @ a.T.
        """
        kind, arithmetic = TYPES[product.dtype]
        if self.tf32 and product.dtype == "float32":
            arithmetic = TF32
        numbers = self.numbers[product.dtype]
        one, zero = numbers.ctypes.data, numbers.ctypes.data + numbers.itemsize
        handle = self._handle()
        self.cublas.set_stream(handle, self.cupy.cuda.get_current_stream().ptr)
        self.cublas.set_workspace(handle, self.workspace.data.ptr, WORKSPACE)
        m, n, k = product[:3]
        left, right = _leading(product.b), _leading(product.a)
        self.cublas.gemm_ex(
            *(handle, left[0], right[0], n, m, k),
            *(one, b, kind, left[1], a, kind, right[1]),
            *(zero, c, kind, product.c.ld, arithmetic, DEFAULT),
        )

    def _handle(self) -> int:
        """Return this thread's handle: a handle has one stream, which another thread would change.

        A kept step may be captured in another thread than the one that made the device.
        """
        handles = _local.__dict__.setdefault("handles", {})
        if self.number not in handles:
            handles[self.number] = _Handle(self.cublas)
        number: int = handles[self.number].number
        return number

    def capture(self, calls: Callable[[], None]) -> Any:
        """Return the graph of what `calls` launches."""
        self._handle()  # none can be created within a capture
        with self.stream:
            self.stream.begin_capture()
            try:
                calls()
            except BaseException:  # no stream is left capturing; ending an invalid capture fails
                with contextlib.suppress(Exception):
                    self.stream.end_capture()
                raise
            return self.stream.end_capture()

    def replay(self, graph: Any) -> None:
        """Launch a graph on the current stream."""
        graph.launch(self.cupy.cuda.get_current_stream())

    def wait(self) -> None:
        """Wait for the current stream."""
        self.cupy.cuda.get_current_stream().synchronize()


class _Handle:
    """A handle of cuBLAS, destroyed with the thread that it belongs to."""

    def __init__(self, cublas: Any) -> None:
        self.cublas, self.number = cublas, cublas.create()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the process may be ending
            self.cublas.destroy(self.number)


def _leading(x: Matrix) -> tuple[int, int]:
    return int(x.transposed), x.ld


@functools.lru_cache(maxsize=64)
def _loaded(source: str, number: int) -> Callable[[str], Any]:
    """Return what finds a kernel of a source by name, on the device of this number."""
    import cupy

    arch = f"sm_{cupy.cuda.Device().compute_capability}"
    target = f"{arch} {_compiler()}"
    code = cached_object(f"cuda {target}\n{source}", target, lambda: _compiled(source, arch))
    module = cupy.cuda.function.Module()
    module.load(code)
    return functools.cache(module.get_function)


@functools.cache
def _compiler() -> str:
    from importlib.metadata import version

    from cuda.bindings import nvrtc

    return f"cuda-core {version('cuda-core')} nvrtc {nvrtc.nvrtcVersion()[1:]}"


def _compiled(source: str, arch: str) -> bytes:
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(arch=arch, **OPTIONS)
    return bytes(Program(source, "c++", options).compile("cubin").code)
