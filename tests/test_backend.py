"""Backends: selection, availability probes, conversion of arrays, and error messages."""

import copyreg
import os
import pickle
import re
import subprocess
import sys
import threading
from decimal import Decimal
from types import SimpleNamespace

import array_api_strict
import numpy as np
import pytest

import portnet
from portnet import backend
from portnet.backend import BackendUnavailableError, namespace
from portnet.cli import report
from portnet.compiler import native_policy


def python(code, **environment):
    """Run code in a fresh Python; returns what it printed, or fails with its error."""
    env = {k: v for k, v in os.environ.items() if k != "PORTNET_BACKEND"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Selection of the backend -----------------------------------------------------------------------


def test_default_backend_is_numpy_float32_on_the_cpu():
    now = portnet.get_backend()
    assert (now.name, now.dtype, str(now.device)) == ("numpy", "float32", "cpu")


def test_use_backend_block_overrides_set_backend():
    portnet.set_backend("array_api_strict", device="device1", dtype="float64")
    assert portnet.get_backend().name == "array_api_strict"
    with portnet.use_backend("numpy") as inner:
        assert portnet.get_backend() is inner
        portnet.set_backend("numpy", dtype="float64")  # the default changes, the block wins
        assert portnet.get_backend().dtype == "float32"
        with portnet.use_backend("array_api_strict"):
            assert portnet.get_backend().name == "array_api_strict"
        assert portnet.get_backend() is inner
    assert (portnet.get_backend().name, portnet.get_backend().dtype) == ("numpy", "float64")


def test_use_backend_blocks_can_end_in_any_order():
    def generator():
        with portnet.use_backend("array_api_strict"):
            yield

    inner = generator()
    next(inner)
    with portnet.use_backend("numpy", dtype="float64"):
        inner.close()  # the outer block ends first
        assert portnet.get_backend().dtype == "float64"
    assert (portnet.get_backend().name, portnet.get_backend().dtype) == ("numpy", "float32")


def test_use_backend_restores_the_backend_after_an_error():
    with pytest.raises(ZeroDivisionError), portnet.use_backend("array_api_strict"):
        1 / 0  # noqa: B018
    assert portnet.get_backend().name == "numpy"


def test_set_backend_is_per_process_and_use_backend_per_thread():
    seen, inside, leave = {}, threading.Event(), threading.Event()

    def with_use():
        with portnet.use_backend("array_api_strict", dtype="float64"):
            inside.set()
            leave.wait(10)
            seen["use"] = portnet.get_backend().name

    def plain():
        seen["plain"] = portnet.get_backend().name, portnet.get_backend().dtype

    user = threading.Thread(target=with_use)
    user.start()
    inside.wait(10)
    assert portnet.get_backend().name == "numpy"  # the block of another thread has no effect here
    portnet.set_backend("numpy", dtype="float64")
    other = threading.Thread(target=plain)
    other.start()
    other.join()
    leave.set()
    user.join()
    assert seen == {"use": "array_api_strict", "plain": ("numpy", "float64")}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: portnet.set_backend("numpi"),
            ValueError,
            "'numpi': did you mean 'numpy'",
        ),
        (
            lambda: portnet.set_backend("cuda"),
            ValueError,
            "The names are numpy, cupy, torch, jax, dpnp",
        ),
        (lambda: portnet.set_backend("numpy", dtype="float16"), ValueError, "did you mean 'float"),
        (lambda: portnet.set_backend("numpy", dtype=np.float32), ValueError, "unknown dtype"),
        (
            lambda: portnet.set_backend("numpy", device="cuda:0"),
            ValueError,
            "unknown device 'cuda:0' for numpy: NumPy's only device is 'cpu'",
        ),
        (
            lambda: portnet.set_backend("array_api_strict", device="device9"),
            ValueError,
            "unknown device 'device9' for array_api_strict",
        ),
        (
            lambda: portnet.set_backend("array_api_strict", device="no_float64", dtype="float64"),
            ValueError,
            "the array_api_strict backend cannot create float64 arrays: the device no_float64 has no",
        ),
    ],
)
def test_set_backend_rejects_bad_options_and_keeps_the_backend(call, error, message):
    before = portnet.get_backend()
    with pytest.raises(error, match=message):
        call()
    assert portnet.get_backend() is before


def test_unknown_devices_of_torch_and_jax_raise(torch, jax):
    for name, device in (
        ("torch", "cuda:7"),
        ("torch", "warp"),
        ("jax", "gpu:9"),
        ("jax", "cpu:9"),
    ):
        with pytest.raises(ValueError, match=f"unknown device '{device}' for {name}"):
            portnet.set_backend(name, device=device)
    portnet.set_backend("torch", device="cpu")
    portnet.set_backend("jax", device="cpu:0")
    portnet.set_backend("jax", device=jax.devices()[0])


def test_float64_on_jax_needs_x64(jax):
    jax.config.update("jax_enable_x64", False)
    try:
        with portnet.use_backend("jax"):
            with pytest.raises(ValueError, match="jax_enable_x64"):
                portnet.asarray([1.7, 2.9], dtype="float64")
            with pytest.raises(ValueError, match="jax_enable_x64"):
                portnet.check_gradients(portnet.mlp([2, 2]), "huber", [[0.5, 1.5]], [[1.0, 2.0]])
        with pytest.raises(ValueError, match=r"jax\.config\.update\(\"jax_enable_x64\", True\)"):
            portnet.set_backend("jax", dtype="float64")
        with portnet.use_backend("jax"):
            run = portnet.Trainer(portnet.mlp([2, 2]), "softmax_cross_entropy").fit(
                [[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=1
            )  # int64 labels and orders become int32 without a warning
        assert str(run.params[0]["W"].dtype) == "float32"
    finally:
        jax.config.update("jax_enable_x64", True)


def test_portnet_backend_variable_sets_the_default_backend():
    code = "import portnet; b = portnet.get_backend(); print(b.name, b.dtype)"
    assert python(code, PORTNET_BACKEND="array_api_strict") == "array_api_strict float32"
    assert python(code, PORTNET_BACKEND="") == "numpy float32"
    code = """
import portnet
try:
    portnet.asarray([1.0])
except ValueError as error:
    print(error)
portnet.set_backend("numpy")
print(portnet.asarray([1.0]).dtype)
"""
    reported, dtype = python(code, PORTNET_BACKEND="nunpy").splitlines()
    assert "did you mean 'numpy'" in reported
    assert "PORTNET_BACKEND" in reported
    assert dtype == "float32"


def test_importing_portnet_imports_no_optional_library():
    code = """
import sys, portnet
optional = "torch jax cupy dpnp array_api_strict matplotlib sklearn pandas scipy tqdm llvmlite".split()
print([name for name in optional if name in sys.modules])
"""
    assert python(code) == "[]"


def test_command_line_lists_backends_packages_and_machine_code():
    done = subprocess.run(
        [sys.executable, "-m", "portnet"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("numpy", "cupy", "torch", "jax", "dpnp", "array_api_strict"):
        assert f"\n  {name}" in done
    for package in ("numpy", "llvmlite", "scikit-learn", "matplotlib"):
        assert re.search(rf"^  {package} ([\d.]+|not installed)", done, re.MULTILINE)
    assert re.search(
        r"^NumPy steps are compiled to machine code: (yes|yes, for .+|no, .+)$", done, re.MULTILINE
    )
    assert "new arrays are created in numpy on cpu as float32" in done


def test_command_line_says_how_to_install_missing_packages():
    code = (
        "import importlib.metadata as m, importlib.util as u, runpy\n"
        "known, find = m.version, u.find_spec\n"
        "def version(name):\n"
        "    if name in ('llvmlite', 'matplotlib', 'scikit-learn'):\n"
        "        raise m.PackageNotFoundError\n"
        "    return known(name)\n"
        "m.version = version\n"
        "u.find_spec = lambda name, *a: None if name == 'llvmlite' else find(name, *a)\n"
        "runpy.run_module('portnet', run_name='__main__')"
    )
    done = python(code)
    for package, extra in {
        "llvmlite": "native",
        "scikit-learn": "sklearn",
        "matplotlib": "plot",
    }.items():
        here = rf'pip install "\.\[{extra}\]" in a checkout of portnet'
        expected = rf'^  {package} not installed: (pip install "{package}[^"]*" \(or )?{here}\)?$'
        assert re.search(expected, done, re.MULTILINE), done
    assert "NumPy steps are compiled to machine code: no, llvmlite is not installed" in done


def test_command_line_reports_the_portnet_native_settings(monkeypatch, capsys):
    monkeypatch.setattr(report, "backends", list)  # which imports all libraries
    for name in [name for name in os.environ if name.startswith("PORTNET_")]:
        monkeypatch.delenv(name)
    if native_policy.why_no_machine_code():
        pytest.skip(f"there is no machine code here: {native_policy.why_no_machine_code()}")
    for name, value, expected in (
        ("PORTNET_NATIVE", "never", "no, PORTNET_NATIVE=never is set"),
        ("PORTNET_NATIVE", "maybe", "no, PORTNET_NATIVE: expected always, never or auto, got 'ma"),
        ("PORTNET_NATIVE", "always", "yes\n"),
        ("PORTNET_NATIVE_CPU", "nonsense", "no, PORTNET_NATIVE_CPU: expected LLVM's name of a pr"),
    ):
        with monkeypatch.context() as settings:
            settings.setenv(name, value)
            report.show_installed()
        done = capsys.readouterr().out
        assert f"\nNumPy steps are compiled to machine code: {expected}" in done
    for value, expected in (("0", "no folder"), ("1", "/tmp/portnet")):
        monkeypatch.setenv("PORTNET_CACHE", value)
        monkeypatch.setenv("PORTNET_CACHE_DIR", "/tmp/portnet")
        report.show_installed()
        assert f"machine code is kept in {expected}\n" in capsys.readouterr().out


def test_command_line_fails_without_traceback_for_an_unknown_default():
    env = os.environ | {"PORTNET_BACKEND": "nunpy"}
    command = [sys.executable, "-m", "portnet"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "\n  numpy" in done.stdout
    assert "did you mean 'numpy'" in done.stderr
    assert "Traceback" not in done.stderr


# Probes of CuPy ---------------------------------------------------------------------------------


def fake_cupy(count=1, total=24.0, error=None):
    """A stand-in for CuPy that gets as far as the arguments allow."""

    def get_device_count():
        if isinstance(count, Exception):
            raise count
        return count

    class Array:
        def __mul__(self, other):
            return self

        def __add__(self, other):
            return self

        def __matmul__(self, other):
            return self

        def sum(self):
            return total

    def make_ones(shape, dtype):
        if error:
            raise error
        return Array()

    runtime = SimpleNamespace(
        getDeviceCount=get_device_count, getDeviceProperties=lambda i: {"name": b"Fake GPU"}
    )
    cuda = SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0))
    return SimpleNamespace(__version__="14.2.0", cuda=cuda, ones=make_ones)


@pytest.fixture
def probes():
    """Clear the cached probes before and after the test: they run once per process."""
    backend._probe.cache_clear()
    yield
    backend._probe.cache_clear()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            None,
            r"stage 1, import cupy, failed \(ModuleNotFoundError.*pip install \"cupy-cuda13x\[ctk\]\"",
        ),
        (
            fake_cupy(RuntimeError("cudaErrorInsufficientDriver: too old\nmore")),
            r"stage 2, counting CUDA devices, failed \(RuntimeError: cudaErrorInsufficientDriver: too old\)"
            r".*NVIDIA driver",
        ),
        (fake_cupy(0), "stage 2, counting CUDA devices, found none.*nvidia-smi"),
        (
            fake_cupy(error=RuntimeError("Failure finding libnvrtc.so.13")),
            r"stage 3, a first operation on the GPU, failed \(RuntimeError: .*cupy-cuda13x\[ctk\]",
        ),
        (fake_cupy(total=23.0), "stage 3, a first operation, gave 23.0 instead of 24.0"),
    ],
    ids=["import", "driver", "no device", "no libraries", "wrong sum"],
)
def test_cupy_probe_names_the_stage_that_failed(module, message, probes, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", module)
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match=message):
            portnet.set_backend("cupy")
    status = next(s for s in portnet.backends() if s.name == "cupy")
    assert not status.usable
    assert portnet.get_backend().name == "numpy"  # no fallback, no change


def test_cupy_is_usable_when_every_stage_passes(probes, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    status = next(s for s in portnet.backends() if s.name == "cupy")
    assert status.usable
    assert (status.version, status.device) == ("14.2.0", "cuda:0 (Fake GPU)")


# Probes of dpnp ---------------------------------------------------------------------------------


def fake_dpnp(total=24.0, no_device=None, error=None):
    """A stand-in for dpnp that gets as far as the arguments allow."""

    class Array:
        sycl_device = SimpleNamespace(filter_string="level_zero:gpu:0", name="Fake GPU ")
        device = SimpleNamespace(sycl_device=sycl_device)

        def __mul__(self, other):
            return self

        def __add__(self, other):
            return self

        def __matmul__(self, other):
            if error:
                raise error
            return self

        def sum(self):
            return total

    def make_ones(shape, dtype):
        if no_device:
            raise no_device
        return Array()

    tensor = SimpleNamespace(usm_ndarray=type("usm_ndarray", (), {}))
    return SimpleNamespace(__version__="0.20.0", ndarray=Array, tensor=tensor, ones=make_ones)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            None,
            r"stage 1, import dpnp, failed \(ModuleNotFoundError.*pip install dpnp"
            r" \(or pip install \"\.\[dpnp\]\"",
        ),
        (SimpleNamespace(__version__="0.18.1"), "dpnp 0.20 or newer is needed, here is 0.18.1"),
        (
            fake_dpnp(no_device=RuntimeError("Default device is unavailable.")),
            r"stage 2, a first array, failed \(RuntimeError: Default device is unavailable\.\)"
            ".*Intel GPU.*OCL_ICD_FILENAMES.*libintelocl.so",
        ),
        (
            fake_dpnp(error=RuntimeError("no oneMKL")),
            r"stage 3, a first operation on level_zero:gpu:0, failed \(RuntimeError: no oneMKL\)",
        ),
        (fake_dpnp(total=23.0), "stage 3, a first operation, gave 23.0 instead of 24.0"),
    ],
    ids=["import", "old", "no device", "no libraries", "wrong sum"],
)
def test_dpnp_probe_names_the_stage_that_failed(module, message, probes, monkeypatch):
    monkeypatch.setitem(sys.modules, "dpnp", module)
    with pytest.raises(BackendUnavailableError, match=message):
        portnet.set_backend("dpnp")
    assert not next(s for s in portnet.backends() if s.name == "dpnp").usable
    assert portnet.get_backend().name == "numpy"  # no fallback, no change
    np.testing.assert_array_equal(portnet.to_numpy([1]), [1])  # whatever dpnp is


def test_dpnp_without_a_device_names_its_own_driver_for_the_cpu(probes, monkeypatch, tmp_path):
    driver = tmp_path / "lib" / "libintelocl.so"
    driver.parent.mkdir()
    driver.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setitem(sys.modules, "dpnp", fake_dpnp(no_device=RuntimeError("none")))
    with pytest.raises(BackendUnavailableError) as caught:
        portnet.set_backend("dpnp")
    assert f"set the environment variable OCL_ICD_FILENAMES to {driver} before" in str(caught.value)


def test_dpnp_is_usable_when_every_stage_passes(probes, monkeypatch):
    fake = fake_dpnp()
    monkeypatch.setitem(sys.modules, "dpnp", fake)
    monkeypatch.setattr(copyreg, "dispatch_table", dict(copyreg.dispatch_table))
    status = next(s for s in portnet.backends() if s.name == "dpnp")
    assert (status.usable, status.version) == (True, "0.20.0")
    assert status.device == "level_zero:gpu:0 (Fake GPU)"


# Probes of all libraries ------------------------------------------------------------------------


def test_each_library_is_probed_once_per_process(probes, monkeypatch):
    tried = []
    fake = fake_cupy(0)
    fake.cuda.runtime.getDeviceCount = lambda: tried.append(1) or 0
    monkeypatch.setitem(sys.modules, "cupy", fake)
    for _ in range(3):
        portnet.backends()
    assert tried == [1]


def test_installed_cupy_without_a_driver_is_unusable():
    pytest.importorskip("cupy", reason="CuPy is not installed")
    status = next(s for s in portnet.backends() if s.name == "cupy")
    if status.usable:
        pytest.skip(reason="there is a GPU here")
    assert "CUDA" in status.reason
    with pytest.raises(BackendUnavailableError, match="the cupy backend cannot be used"):
        portnet.set_backend("cupy")


def test_backends_lists_all_six_backends():
    statuses = {s.name: s for s in portnet.backends()}
    assert list(statuses) == ["numpy", "cupy", "torch", "jax", "dpnp", "array_api_strict"]
    assert statuses["numpy"].version == np.__version__
    for status in statuses.values():
        assert bool(status.device) == status.usable
        assert bool(status.reason) == (not status.usable)


# Conversion of arrays ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_asarray_casts_floats_to_the_backend_dtype_and_keeps_other_dtypes(xp, dtype):
    if dtype == "float64" and xp.float_name == "float32":
        pytest.skip(reason="this device has no float64")
    with portnet.use_backend(xp.name, device=xp.device, dtype=dtype):
        for data in ([[1.5, 2]], np.array([[1.5, 2]], "float16"), np.array([[1.5, 2.0]])):
            array = portnet.asarray(data)
            assert str(array.dtype).rpartition(".")[2] == dtype
            np.testing.assert_array_equal(xp.numpy(array), [[1.5, 2.0]])
        integers = portnet.asarray([1, 2])
        wide = "int32" if xp.id == "strict-no_x64" else "int64"
        assert str(integers.dtype).rpartition(".")[2] == wide
        assert "bool" in str(portnet.asarray([True, False]).dtype)
        assert str(portnet.asarray([1, 2], dtype="float32").dtype).endswith("float32")


def test_asarray_returns_an_array_of_the_backend_itself(xp):
    x = portnet.asarray([1.0, 2.0])
    assert portnet.asarray(x) is x


def test_to_numpy_returns_equal_host_arrays(xp):
    x = xp.asarray([[1.0, 2.0]])
    host = portnet.to_numpy(x)
    assert type(host) is np.ndarray or xp.id == "numpy-readonly"
    np.testing.assert_array_equal(host, [[1.0, 2.0]])
    np.testing.assert_array_equal(portnet.to_numpy([[1, 2], [3, 4]]), [[1, 2], [3, 4]])
    assert portnet.to_numpy(np.float32(2)).shape == ()


def test_asarray_converts_arrays_of_every_library(xp, torch, jax):
    host = np.arange(6.0).reshape(2, 3)
    for source in (
        torch.tensor(host, requires_grad=True),
        torch.tensor(host).T.contiguous().T,  # not contiguous
        jax.numpy.asarray(host),
        array_api_strict.asarray(host, device=array_api_strict.Device("device1")),
        host[::-1][::-1],
    ):
        array = portnet.asarray(source)
        assert portnet.get_backend().holds(array)
        np.testing.assert_array_equal(xp.numpy(array), host)
        assert not getattr(array, "requires_grad", False)


def test_asarray_of_read_only_memory_does_not_warn(other_xp):
    host = np.arange(3.0)
    host.flags.writeable = False
    np.testing.assert_array_equal(other_xp.numpy(portnet.asarray(host)), [0, 1, 2])


def test_asarray_converts_dataframes_and_decimals():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    np.testing.assert_array_equal(portnet.asarray(frame), [[1, 0.5], [2, 1.5]])
    np.testing.assert_array_equal(portnet.asarray([Decimal("1.5"), 2]), [1.5, 2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[1.0, 2.0], [3.0]], "rows of different lengths"),
        (["a", "b"], "expected real numbers, got data of dtype <U1"),
        (np.array([1 + 2j]), "expected real numbers, got data of dtype complex128"),
        (np.array([1.0, "x"], object), "expected real numbers: could not convert string"),
        (np.array([1.0, 1e300]), r"a value of 1e\+300 is too large for float32.*float64"),
        ([1e39], "too large for float32"),
    ],
)
def test_asarray_rejects_ragged_nonnumeric_and_overflowing_data(data, message):
    with pytest.raises(ValueError, match=message):
        portnet.asarray(data)


def test_asarray_rejects_unknown_and_unsupported_dtypes():
    with pytest.raises(ValueError, match="unknown dtype 'flaot32': did you mean 'float32'"):
        portnet.asarray([1.0], dtype="flaot32")
    with pytest.raises(ValueError, match="unknown dtype 'float16'"):
        portnet.asarray([1.7], dtype="float16")
    with (
        portnet.use_backend("array_api_strict", device="no_float64"),
        pytest.raises(ValueError, match="the device no_float64 has no float64"),
    ):
        portnet.asarray([1.7], dtype="float64")


def test_bfloat16_tensors_convert_and_sparse_tensors_raise(torch):
    x = torch.tensor([[1.5, 2.0]])
    np.testing.assert_array_equal(portnet.to_numpy(x.bfloat16()), [[1.5, 2.0]])
    with pytest.raises(TypeError, match="X: sparse data was passed"):
        portnet.Trainer(portnet.mlp([2, 2]), "huber").fit(x.to_sparse(), [[1.0, 1.0]])


def test_errors_raised_by_array_conversion_propagate():
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise ValueError("the disk is on fire")

    with pytest.raises(ValueError, match="the disk is on fire"):
        portnet.asarray(Broken())


def test_set_backend_accepts_torch_device_objects(torch):
    portnet.set_backend("torch", device=torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"unknown device .*cuda.* for torch"):
            portnet.set_backend("torch", device=torch.device("cuda"))


def test_asarray_rejects_integers_that_overflow_int32():
    with (
        portnet.use_backend("array_api_strict", device="no_x64"),
        pytest.raises(ValueError, match="integers from 1 to 8589934592 do not fit int32"),
    ):
        portnet.asarray([1, 2**33])


def test_asarray_rejects_complex_tensors(torch):
    with (
        portnet.use_backend("torch"),
        pytest.raises(ValueError, match="expected real numbers, got complex64 data"),
    ):
        portnet.asarray(torch.tensor([1j]))


def test_namespace_of_mixed_libraries_raises_and_names_them(torch):
    with pytest.raises(TypeError) as caught:
        namespace(np.zeros(2), torch.zeros(2))
    assert "a numpy array on cpu and a torch array on cpu" in str(caught.value)
    assert "portnet.asarray" in str(caught.value)
    with pytest.raises(TypeError, match="got a list"):
        namespace([1.0])


def test_backend_is_hashable_with_an_unhashable_device():
    class Unhashable:
        __hash__ = None

    assert hash(backend.Backend("cupy", "float32", Unhashable())) is not None


def test_asarray_accepts_every_memory_layout_of_host_data(xp):
    """Reversed, column-major, read-only, big-endian and strided arrays keep their values."""
    a = np.arange(12.0).reshape(3, 4)
    frozen = a.copy()
    frozen.flags.writeable = False
    for given in (a[::-1, ::-1], np.asfortranarray(a), frozen, a.astype(">f8"), a[:, ::2]):
        for dtype in ("float32", xp.float_name):
            moved = portnet.asarray(given, dtype=dtype)
            assert portnet.get_backend().holds(moved)
            assert portnet.to_numpy(moved).dtype.name == dtype
            np.testing.assert_array_equal(portnet.to_numpy(moved), given)
    integers = np.arange(6, dtype=">i4")[::-1]
    np.testing.assert_array_equal(portnet.to_numpy(portnet.asarray(integers)), integers)


def test_tf32_is_for_float32_on_cupy_alone():
    with pytest.raises(ValueError, match="is for float32 on the cupy backend"):
        portnet.set_backend("numpy", matmul_precision="tf32")
    with pytest.raises(ValueError, match="matmul_precision"):
        portnet.set_backend("numpy", matmul_precision="fast")
    assert portnet.get_backend().matmul_precision == "ieee"
    assert pickle.loads(pickle.dumps(portnet.get_backend())).matmul_precision == "ieee"
