"""Products through cuBLAS: which numbers it is given, by a module that does what its manual says."""

import ctypes
import gc
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from cpu_device import CPUDevice, needs_gxx
from plans import Case

from portnet import namespace
from portnet.compiler.cuda import kernels
from portnet.compiler.cuda.gpu import GPU, WORKSPACE
from portnet.compiler.cuda.kernels import Product
from portnet.compiler.errors import EagerError

KINDS = {0: np.float32, 1: np.float64}  # CUDA_R_32F, CUDA_R_64F
ARITHMETIC = {0: 68, 1: 70}  # CUBLAS_COMPUTE_32F and _64F: neither is TF32


@pytest.fixture(autouse=True)
def _no_kernels_for_small_products(monkeypatch):
    monkeypatch.setattr(kernels, "SMALL", 0)


def memory(address, rows, columns, ld, dtype):
    """Return the matrix (rows, columns) that lies column by column at an address."""
    assert ld >= max(1, rows), "cuBLAS refuses such a leading dimension"
    width = np.dtype(dtype).itemsize
    span = ((columns - 1) * ld + rows) * width
    given = (ctypes.c_char * span).from_address(address)
    return np.ndarray((rows, columns), dtype, given, 0, (width, ld * width))


class Cublas:
    """cublasGemmEx on the CPU, and the calls in their order."""

    def __init__(self, arithmetic=ARITHMETIC):
        self.calls, self.arithmetic, self.made = [], arithmetic, 17

    def create(self):
        self.calls.append("create")
        self.made += 1
        return self.made - 1

    def destroy(self, handle):
        self.calls.append(f"destroy {handle}")

    def set_stream(self, handle, stream):
        assert (handle, stream) == (17, 99)
        self.calls.append("set_stream")

    def set_workspace(self, handle, address, nbytes):
        assert (handle, nbytes) == (17, WORKSPACE)
        assert address == 4096
        self.calls.append("set_workspace")

    def gemm_ex(
        self, handle, op_a, op_b, m, n, k, alpha, a, a_kind, lda, b, b_kind, ldb, beta, c, c_kind, ldc, arithmetic, algorithm
    ):  # fmt: skip
        self.calls.append("gemm_ex")
        assert handle == 17
        assert a_kind == b_kind == c_kind
        assert arithmetic == self.arithmetic[a_kind]
        assert algorithm == -1
        dtype = KINDS[a_kind]
        number = ctypes.c_float if dtype is np.float32 else ctypes.c_double
        assert (number.from_address(alpha).value, number.from_address(beta).value) == (1, 0)
        left = memory(a, *((k, m) if op_a else (m, k)), lda, dtype)
        right = memory(b, *((n, k) if op_b else (k, n)), ldb, dtype)
        result = (left.T if op_a else left) @ (right.T if op_b else right)
        memory(c, m, n, ldc, dtype)[...] = result


class Stream:
    """A stream of CuPy's, and the calls in their order."""

    def __init__(self, cuda, fails=False):
        self.cuda, self.calls, self.fails, self.ptr = cuda, [], fails, 99

    def __enter__(self):
        self.calls.append("enter")
        self.before, self.cuda.current = self.cuda.current, self

    def __exit__(self, *error):
        self.calls.append("exit")
        self.cuda.current = self.before

    def begin_capture(self):
        self.calls.append("begin")

    def end_capture(self):
        self.calls.append("end")
        if self.fails:
            raise OSError("operation failed due to a previous error during capture")
        return "graph"


@pytest.fixture(autouse=True)
def _no_handles_of_others(monkeypatch):
    monkeypatch.setattr("portnet.compiler.cuda.gpu._local", threading.local())


def gpu(fails=False, tf32=False):
    """Return a GPU without a GPU."""
    device, cuda = object.__new__(GPU), SimpleNamespace(streams=[])
    cuda.current = Stream(cuda)
    cuda.get_current_stream = lambda: cuda.current

    def stream(non_blocking):
        assert non_blocking
        cuda.streams.append(Stream(cuda, fails))
        return cuda.streams[-1]

    cuda.Stream = stream
    device.cupy, device.number = SimpleNamespace(cuda=cuda), 0
    device.cublas = Cublas({0: 77, 1: 70} if tf32 else ARITHMETIC)  # 77: CUBLAS_..._32F_FAST_TF32
    device.stream, device.tf32 = cuda.Stream(non_blocking=True), tf32
    device.workspace = SimpleNamespace(data=SimpleNamespace(ptr=4096))
    device.numbers = {name: np.array([1, 0], name) for name in ("float32", "float64")}
    return device


class Device(CPUDevice):
    """The device for tests, with the products of a GPU."""

    def __init__(self, tf32=False):
        super().__init__()
        self.gpu = gpu(tf32=tf32)
        self.gpu._handle()
        self.gpu.cublas.calls.clear()

    def product(self, *args):
        self._do(lambda: self.gpu.product(*args))


# How a matrix (rows, columns) lies: the shape of the array, and the view of it.
LAYOUTS = {
    "whole": (lambda m, n: (m, n), lambda x: x),
    "transposed": (lambda m, n: (n, m), lambda x: namespace(x).matrix_transpose(x)),
    "padded": (lambda m, n: (m + 1, n + 3), lambda x: x[1:, 2:-1]),
    "padded, transposed": (
        lambda m, n: (n + 2, m + 4),
        lambda x: namespace(x).matrix_transpose(x[1:-1, 3:-1]),
    ),
    "every second row": (lambda m, n: (2 * m, n), lambda x: x[1::2, :]),
    "every second row, transposed": (
        lambda m, n: (2 * n, m),
        lambda x: namespace(x).matrix_transpose(x[::2, :]),
    ),
    "of a vector": (lambda m, n: (m * n,), None),
}
SHAPES = ((1, 1, 1), (1, 5, 1), (5, 1, 7), (1, 1, 6), (6, 1, 1), (1, 7, 33), (33, 7, 1), (4, 3, 5))


def laid_out(name, rows, columns):
    shape, view = LAYOUTS[name]
    if view is None:
        return shape(rows, columns), lambda x: namespace(x).reshape(x, (rows, columns))
    return shape(rows, columns), view


@needs_gxx
@pytest.mark.parametrize("shape", SHAPES)
def test_operands_of_every_layout(shape):
    m, k, n = shape
    for left, right in itertools.product(LAYOUTS, LAYOUTS):
        (a_shape, a_view), (b_shape, b_view) = laid_out(left, m, k), laid_out(right, k, n)
        generator = np.random.default_rng(0)
        for dtype in ("float32", "float64"):
            a = generator.integers(-8, 9, a_shape).astype(dtype)  # products are exact
            b = generator.integers(-8, 9, b_shape).astype(dtype)

            def product(a, b, a_view=a_view, b_view=b_view):
                return a_view(a) @ b_view(b)

            case, device = Case(product, [a, b]), Device()
            (result,) = case.run(device)
            np.testing.assert_array_equal(result, case.expected[0], f"{left} @ {right}, {shape}")
            assert device.gpu.cublas.calls == ["set_stream", "set_workspace", "gemm_ex"]


@needs_gxx
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tf32_is_asked_for_products_of_float32_alone(dtype):
    a = np.ones((3, 4), dtype)
    case, device = Case(lambda a, b: a @ b, [a, a.T]), Device(tf32=True)
    (result,) = case.run(device)  # the stand-in asserts what is asked for
    np.testing.assert_array_equal(result, case.expected[0])


def test_each_thread_has_a_handle_of_its_own():
    """Two threads may capture, at the same time, steps of devices that one of them has made."""
    device, found = gpu(), []
    cublas = device.cublas
    cublas.set_stream = lambda handle, stream: found.append(handle)
    cublas.set_workspace = lambda handle, *rest: found.append(handle)
    cublas.gemm_ex = lambda handle, *rest: found.append(handle)
    square = kernels.Matrix(("buffer", 0), 0, 2)
    product = Product(2, 2, 2, square, square, square, "float32")

    def work():
        device.product(product, 0, 0, 0)
        device.product(product, 0, 0, 0)

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    del thread
    assert found == 6 * [17] + 6 * [18]
    assert cublas.calls.count("create") == 2
    gc.collect()
    assert "destroy 18" in cublas.calls, "it ends with its thread"
    assert "destroy 17" not in cublas.calls


def test_a_handle_is_created_before_a_capture():
    device, order = gpu(), []
    device.cublas.create = lambda: order.append("create") or 17
    begin = device.stream.begin_capture
    device.stream.begin_capture = lambda: order.append("begin") or begin()
    device.capture(lambda: order.append("calls"))
    assert order == ["create", "begin", "calls"]


@needs_gxx
def test_a_product_is_written_where_it_is_needed():
    """Both parts of a gradient lie in one vector."""

    def fn(x, y, z):
        xp = namespace(x)
        t = xp.matrix_transpose(x)
        return xp.concat([xp.reshape(t @ y, (-1,)), xp.sum(y, axis=0), xp.reshape(t @ z, (-1,))])

    generator = np.random.default_rng(0)
    arrays = [generator.integers(-8, 9, s).astype("f4") for s in ((6, 5), (6, 3), (6, 4))]
    case, device = Case(fn, arrays), Device()
    (result,) = case.run(device)
    np.testing.assert_array_equal(result, case.expected[0])
    places = [x.c for x in case.plan.program.launches if isinstance(x, Product)]
    assert [(c.base, c.offset) for c in places] == [(places[0].base, 0), (places[0].base, 4 * 18)]
    assert device.gpu.cublas.calls == 2 * ["set_stream", "set_workspace", "gemm_ex"]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::2],
        lambda x: namespace(x).flip(x[:, :3], axis=0),
        lambda x: namespace(x).broadcast_to(x[:1, :3], (4, 3)),
    ],
)
def test_views_that_cublas_cannot_read_are_refused_or_copied(view):
    x, y = np.ones((4, 6)), np.ones((3, 2))
    with pytest.raises(EagerError, match="no product of a view with strides"):
        Case(lambda x, y: view(x) @ y, [x, y])


def test_rows_that_move_are_copied_before_a_product():
    case = Case(lambda x, w: x @ w, [np.ones((4, 3)), np.ones((3, 2))], moving={0: 96})
    assert [k.kind for k in case.plan.kernels] == ["elements", "product"]


def test_a_capture_is_ended_on_its_stream():
    device = gpu()
    before = device.cupy.cuda.current
    seen = []
    assert device.capture(lambda: seen.append(device.cupy.cuda.current)) == "graph"
    (stream,) = device.cupy.cuda.streams
    assert seen == [stream]
    assert stream.calls == ["enter", "begin", "end", "exit"]
    assert device.cupy.cuda.current is before


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_error_in_a_capture_ends_it_and_is_raised(error, fails):
    """Also where CUDA says that the capture is invalid."""
    device = gpu(fails)

    def calls():
        raise error("within")

    with pytest.raises(error, match="within"):
        device.capture(calls)
    (stream,) = device.cupy.cuda.streams
    assert stream.calls == ["enter", "begin", "end", "exit"]
