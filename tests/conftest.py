"""Fixtures that run a test on every available array library, and on strict and read-only ones."""

import functools
import importlib
import os
import signal
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault(
    "JAX_ENABLE_X64", "1"
)  # read by JAX at import; without it there is no float64
# Compilation dominates the time of JAX's tests: share its cache between tests.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/portnet-tests-jax")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")  # read by matplotlib at import: no windows
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read by SciPy at import; scikit-learn asks for it
os.environ["PORTNET_CACHE_DIR"] = f"{tempfile.gettempdir()}/portnet-tests"  # not the user's own
os.environ.pop("PORTNET_BACKEND", None)  # the tests set their backend themselves
if "PYTEST_XDIST_WORKER" in os.environ:  # read by BLAS at import: several workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import array_api_strict
import hypothesis
import numpy as np
import pytest

import portnet
from portnet.backend import backends

# Modules that tests share: a failed assertion shows its values there, too.
pytest.register_assert_rewrite("checking", "fits", "machine_code", "problems", "programs", "served")

# Ctrl-C as in a terminal: a process that a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, without deadlines: failures are reproducible.
hypothesis.settings.register_profile("portnet", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("portnet")

# The suite runs compiled, which is the default; PORTNET_NATIVE=always compiles every plan to machine
# code at its first call. PORTNET_TESTS=eager runs the suite without the compiler.
if os.environ.get("PORTNET_TESTS") == "eager":
    portnet.backend.Backend.compiler = ""

STRICTEST = {
    "boolean_indexing": False,
    "data_dependent_shapes": False,
    "enabled_extensions": (),
}


class ReadOnly(np.ndarray):
    """A read-only NumPy array whose results are read-only, too."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if out is not None:
            raise ValueError(f"{ufunc.__name__} writes into its argument")
        return _frozen(getattr(ufunc, method)(*_plain(inputs), **_plain(kwargs)))

    def __array_function__(self, func, types, args, kwargs):
        return _frozen(func(*_plain(args), **_plain(kwargs)))

    def astype(self, *args, **kwargs):
        return _frozen(_plain(self).astype(*args, **kwargs))

    def __getitem__(self, index):
        return _frozen(_plain(self)[_plain(index)])


def _plain(x):
    if isinstance(x, ReadOnly):
        return x.view(np.ndarray)
    if isinstance(x, tuple | list):
        return type(x)(_plain(v) for v in x)
    return {k: _plain(v) for k, v in x.items()} if isinstance(x, dict) else x


def _frozen(x):
    if isinstance(x, tuple | list):
        return type(x)(_frozen(v) for v in x)
    if not isinstance(x, np.ndarray | np.generic):
        return x
    x = np.asarray(x).view(ReadOnly)
    x.flags.writeable = False
    return x


@dataclass
class Library:
    """An array library under test."""

    id: str
    name: str  # of the portnet backend
    device: Any = None
    float_name: str = "float64"  # the widest floating dtype of the device
    strict_flags: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def active(self):
        """Set the flags of the library and the backend of portnet, within a block."""
        if self.id == "dpnp-queue":
            self.device = own_queue()
        with ExitStack() as stack:
            if self.strict_flags:
                stack.enter_context(array_api_strict.ArrayAPIStrictFlags(**self.strict_flags))
            stack.enter_context(
                portnet.use_backend(self.name, device=self.device, dtype=self.float_name)
            )
            yield self

    @property
    def rtol(self):
        """The relative tolerance for agreement with float64 NumPy."""
        return 1e-12 if self.float_name == "float64" else 2e-5

    def asarray(self, host, dtype=None):
        """Return host data as an array of this library, floats in its widest dtype."""
        host = np.asarray(host)
        if dtype is None and host.dtype.kind == "f":
            dtype = self.float_name
        if dtype is None and host.dtype.kind in "iu":
            dtype = "int32" if self.id == "strict-no_x64" else "int64"
        array = portnet.get_backend().asarray(host, dtype or str(host.dtype))
        return _frozen(array) if self.id == "numpy-readonly" else array

    def tree(self, pytree):
        """Return a pytree of host arrays as arrays of this library."""
        return portnet.tree.map(self.asarray, pytree)

    def numpy(self, array):
        """Return an array of this library as a NumPy array, without portnet."""
        if self.name == "torch":
            return array.cpu().numpy()
        if self.name == "cupy":
            return array.get()
        if self.name == "dpnp":
            return array.asnumpy()
        if self.name == "array_api_strict":
            return np.asarray(array.to_device(array_api_strict.Device("CPU_DEVICE")))
        return np.asarray(array)

    def check_kind(self, array, dtype=None):
        """Fail unless the array is of this library, on this device, of this floating dtype."""
        backend = portnet.get_backend()
        assert backend.holds(array), f"{portnet.backend.describe(array)} is not in {self.id}"
        if self.id == "numpy-readonly" and array.ndim > 0:
            assert isinstance(array, ReadOnly), f"{type(array)} is not read-only"
        name = str(array.dtype).rpartition(".")[2]
        assert name == (dtype or self.float_name), f"dtype {name} in {self.id}"

    def assert_close(self, actual, expected, rtol=None, atol=0.0, dtype=None):
        """Fail unless an array of this library is close to a host array, with its shape."""
        self.check_kind(actual, dtype)
        host = self.numpy(actual)
        assert host.shape == np.shape(expected), f"shape {host.shape}, not {np.shape(expected)}"
        if rtol is None:
            rtol, atol = self.rtol, max(atol, self.rtol)
        np.testing.assert_allclose(host, expected, rtol=rtol, atol=atol)


@functools.cache
def own_queue():
    """Return a SYCL queue besides the default one: dpnp refuses arrays of both in one operation."""
    import dpctl

    return dpctl.SyclQueue()


LIBRARIES = [
    Library("numpy", "numpy"),
    Library("numpy-readonly", "numpy"),
    Library("strict", "array_api_strict"),
    Library("strictest", "array_api_strict", strict_flags=STRICTEST),
    Library("strict-device1", "array_api_strict", "device1", strict_flags=STRICTEST),
    Library("strict-device2", "array_api_strict", "device2", strict_flags=STRICTEST),
    Library("strict-no_float64", "array_api_strict", "no_float64", "float32", STRICTEST),
    Library("strict-no_x64", "array_api_strict", "no_x64", "float32", STRICTEST),
    Library("torch", "torch"),
    Library("jax", "jax"),
    Library("cupy", "cupy"),
    Library("dpnp", "dpnp"),
    Library("dpnp-queue", "dpnp"),
]


def _params(libraries):
    marks = {"cupy": [pytest.mark.gpu]}
    return [pytest.param(lib, id=lib.id, marks=marks.get(lib.id, [])) for lib in libraries]


@functools.cache
def avoid_deadlock():
    """Keep dpnp from calling oneMKL's vector functions.

    On a CPU they wait for the queue while dpnp 0.20 holds the GIL, for which the queue's host tasks
    wait: now and then a test would stand still.
    """
    vector = importlib.import_module("dpnp.backend.extensions.vm._vm_impl")
    vector._is_available = lambda: False


REQUIRED = {"cupy": "PORTNET_REQUIRE_GPU", "dpnp": "PORTNET_REQUIRE_DPNP"}


def require(name):
    """Skip the test if a backend cannot be used; fail if it is required: see REQUIRED."""
    status = next(s for s in backends() if s.name == name)
    if not status.usable:
        variable = REQUIRED.get(name)
        if variable and os.environ.get(variable) == "1":
            pytest.fail(f"{variable}=1, but {name} cannot be used: {status.reason}")
        pytest.skip(f"{name} cannot be used: {status.reason.partition('. ')[0]}")
    if name == "dpnp":
        avoid_deadlock()


@pytest.fixture(params=_params(LIBRARIES))
def xp(request):
    """Every array library in turn, set as the backend of this thread."""
    require(request.param.name)
    with request.param.active() as library:
        yield library


THIRD_PARTY = ("torch", "jax", "cupy", "dpnp")


@pytest.fixture(params=_params([lib for lib in LIBRARIES if lib.id in THIRD_PARTY]))
def other_xp(request):
    """torch, JAX, CuPy and dpnp only, for tests that are slow or need no strict library."""
    require(request.param.name)
    with request.param.active() as library:
        yield library


@pytest.fixture(params=_params([lib for lib in LIBRARIES if lib.id in ("strict", *THIRD_PARTY)]))
def backend_name(request):
    """The name of each backend except NumPy, for tests that set the backend themselves."""
    require(request.param.name)
    return request.param.name


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="jax is not installed")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(autouse=True)
def _restore_default_backend():
    """Restore the default backend of the process after each test."""
    before = portnet.backend._default
    yield
    portnet.backend._default = before


@pytest.fixture(autouse=True)
def _close_figures():
    """Close the figures of pyplot after each test: it keeps them, and warns of many."""
    yield
    if "matplotlib.pyplot" in sys.modules and sys.modules["matplotlib"] is not None:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def assert_same_picture():
    """Fail unless two PNG files show the same, up to the fonts of another matplotlib."""
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")

    def check(path, expected):
        drawn, kept = (image.imread(p)[..., :3] for p in (path, expected))
        assert drawn.shape == kept.shape
        assert abs(drawn - kept).mean() < 0.02

    return check


@pytest.fixture
def compile_at_first_call(monkeypatch):
    """Compile every plan to machine code at its first call."""
    monkeypatch.setenv("PORTNET_NATIVE", "always")


@pytest.fixture
def default_sigint_handler():
    """Set Python's default SIGINT handler, which is missing if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["pandas", "polars"])
def frame(request):
    """Make a frame of an array with five columns."""
    library = pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return lambda x, names="abcde": library.DataFrame(
        {name: x[:, j] for j, name in enumerate(names)}
    )
