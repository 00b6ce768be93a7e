"""Backends: the array library, device and dtype of new arrays.

Only this file knows the names of the array libraries.

1. A script chooses the backend once: ``set_backend("cupy")``; a test or a thread chooses it for a
   block: ``with use_backend("torch"):``. The default is NumPy, or the value of PORTNET_BACKEND.
2. The backend only decides where *new* arrays are created: data from the host, initial parameters.
   Every computation takes its library and device from its arguments: ``xp = namespace(x)``.
3. An optional library is imported at its first use, and tried once.
4. There is no silent fallback: a backend that cannot be used is an error, which says what is
   missing and how to install it.
"""

import copyreg
import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import array_api_compat
import numpy as np

from . import _numpy
from ._typing import AnyArray, Array, ArrayLike, Device, DType, Host, Namespace
from ._validation import check_choice

__all__ = [
    "Backend",
    "BackendStatus",
    "BackendUnavailableError",
    "ShapeError",
    "asarray",
    "backends",
    "get_backend",
    "namespace",
    "set_backend",
    "to_numpy",
    "use_backend",
]

FLOATS = ("float32", "float64")
_NATIVE: dict[str | None, DType] = {name: np.dtype(name) for name in FLOATS}
DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", *FLOATS)


class BackendUnavailableError(RuntimeError):
    """An array library or its device cannot be used here; the message says what is missing.

    Examples
    --------
    >>> import portnet
    >>> try:
    ...     with portnet.use_backend("cupy"):
    ...         x = portnet.asarray([1.0])
    ... except portnet.BackendUnavailableError as error:
    ...     reason = str(error)  # what is missing, and what to install
    """


class ShapeError(ValueError):
    """An array has the wrong shape; the message says where, what was expected and what was given.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net = portnet.mlp([4, 3])
    >>> try:
    ...     net.forward(portnet.init(net), np.ones((2, 5)))
    ... except portnet.ShapeError as error:
    ...     print(error)
    layers[0] Dense(3): expected x of shape (rows, 4), got (2, 5)
    """


# Library and device of an array -----------------------------------------------------------------


def namespace(*arrays: Array | float | None) -> Namespace:
    """Return the array API namespace of arrays of any shape; None and Python scalars are ignored.

    Raises TypeError if an argument is not an array, or if libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> x = np.array([0.0, 1.0])
    >>> xp = portnet.namespace(x)
    >>> xp.exp(x) > 2.0
    array([False,  True])
    """
    if all(type(a) is np.ndarray or a is None for a in arrays):  # fast path, ten times faster
        return _numpy
    a: Any
    for a in arrays:  # traced arrays accept NumPy arrays as constants
        if hasattr(type(a), "__portnet_trace__"):
            return a.__array_namespace__()
    try:
        return _numpy.array_namespace(*arrays)
    except TypeError:
        kinds = [describe(a) for a in arrays if not isinstance(a, int | float | None)]
        raise TypeError(
            f"expected arrays of one library, got {' and '.join(dict.fromkeys(kinds)) or 'none'}; "
            "portnet.asarray moves data to the backend, portnet.to_numpy to the host"
        ) from None


def device(x: Array) -> Device:
    """Return the device of an array."""
    return array_api_compat.device(x)


def describe(x: ArrayLike) -> str:
    """Return the library and device of an array as text: ``a torch array on cpu``."""
    if not array_api_compat.is_array_api_obj(x):
        return f"a {type(x).__name__}"
    return f"a {_name(_numpy.array_namespace(x))} array on {device_name(x)}"


def device_name(x: Array) -> str:
    """Return the name of the device of an array: ``cpu``, ``cuda:0``, ``device1``."""
    return _device_text(device(x)) + _queue_text(device(x))


def device_argument(x: Array, name: str) -> str:
    """Return what to write to get the device of the array called `name`: ``'cuda:1'``."""
    where = device(x)
    return f"{name}.device" if _queue_text(where) else repr(_device_text(where))


# Where new arrays are created -------------------------------------------------------------------


@dataclass(frozen=True)
class Backend:
    """An array library, one of its devices, and the floating dtype of new arrays.

    The methods take arrays of any shape.

    Examples
    --------
    >>> import portnet
    >>> with portnet.use_backend("numpy", dtype="float64") as backend:
    ...     print(backend.name, backend.device, backend.dtype)
    numpy cpu float64
    """

    name: str
    dtype: str = "float32"
    device: Device = field(default=None, hash=False)  # CuPy's devices cannot be hashed
    xp: Namespace = field(default=None, repr=False, compare=False)
    matmul_precision: str = field(default="ieee", repr=False)  # see `set_backend`

    def __reduce__(
        self,
    ) -> tuple[object, ...]:  # names, as modules and some devices cannot be pickled
        where = _device_text(self.device) if self.name in _LIBRARIES else self.device
        return _rebuild, (self.name, self.dtype, where, self.xp.__name__, self.matmul_precision)

    def __str__(self) -> str:
        return f"{self.name} on {_device_text(self.device)}{_queue_text(self.device)}"

    @property
    def real(self) -> DType:
        """The floating dtype, as an object of the library."""
        return getattr(self.xp, self.dtype)

    @property
    def is_host(self) -> bool:
        """Whether the arrays are NumPy arrays, in host memory."""
        return self.name == "numpy"

    @property
    def compiler(self) -> str:
        """How steps are compiled: "replay" (a plan), "jit" (by JAX), "graph" (on a GPU) or ""."""
        return self._library.compiler

    @property
    def eager_vectors(self) -> bool:
        """Whether eager steps are faster on vectors of all parameters, of which layers' are views.

        They are where a call takes long in comparison with its arithmetic, and slices are views.
        """
        return self._library.eager_vectors

    def supports(self, dtype: str) -> bool:
        """Return whether this device has arrays of a dtype."""
        if self.is_host:
            return dtype in DTYPES
        return dtype in self.xp.__array_namespace_info__().dtypes(device=self.device)

    def require(self, dtype: str) -> None:
        """Raise ValueError unless `dtype` is a known name and this device has it."""
        check_choice("dtype", dtype, DTYPES)
        if not self.supports(dtype):
            why = (
                'jax has 64-bit dtypes only after jax.config.update("jax_enable_x64", True)'
                if self.name == "jax"
                else f"the device {_device_text(self.device)} has no {dtype}"
            )
            raise ValueError(f"the {self.name} backend cannot create {dtype} arrays: {why}")

    def holds(self, x: object) -> bool:
        """Return whether x is an array of this library on this device."""
        if not array_api_compat.is_array_api_obj(x):
            return False
        other = backend_of(x)
        return bool(self.name == other.name and self.device == other.device)

    def asarray(self, x: ArrayLike, dtype: str | None = None) -> Array:
        """Convert a list, a data frame or an array of any library; see `portnet.asarray`."""
        if type(x) is np.ndarray and self.is_host and x.dtype is _NATIVE.get(dtype):
            return x
        if dtype is not None:
            self.require(dtype)
        with self.active():
            return self._converted(x, dtype)

    def _converted(self, x: ArrayLike, dtype: str | None) -> Array:
        if self.name != "numpy" and self.holds(x):
            a: Array = detached(x)
            if "complex" in _dtype_name(a.dtype):
                raise ValueError(f"expected real numbers, got {_dtype_name(a.dtype)} data")
            wanted = dtype or (self.dtype if "float" in _dtype_name(a.dtype) else None)
            if wanted is None or a.dtype == getattr(self.xp, wanted):
                return a
            with np.errstate(over="ignore"):  # array-api-strict casts with NumPy, which warns
                cast: Array = self.xp.astype(a, getattr(self.xp, wanted))
            narrower = wanted == "float32" and _dtype_name(a.dtype) == "float64"
            if narrower and bool(self.xp.any(self.xp.isinf(cast) & self.xp.isfinite(a))):
                raise _too_large(to_numpy(a), wanted)  # bool() has already waited for the device
            return cast
        host = _as_numeric(to_numpy(x))
        host = _cast(host, dtype or (None if host.dtype.kind in "iub" else self.dtype))
        if self.is_host and host.dtype.isnative:
            return host
        if host.dtype.name == "int64" and not self.supports("int64"):
            host = _cast(host, "int32")
        self.require(host.dtype.name)
        host = host.astype(host.dtype.newbyteorder("="), copy=False)
        if self.name == "torch" and (not host.flags.writeable or min(host.strides, default=0) < 0):
            host = host.copy()  # torch warns of read-only memory and has no negative strides
        dtype_of = getattr(self.xp, host.dtype.name)
        moved: Array
        if host.ndim == 0 or not 0 < self._library.upload_block < host.nbytes:
            moved = self.xp.asarray(host, dtype=dtype_of, device=self.device)
            return moved
        moved = self.xp.empty(host.shape, dtype=dtype_of, device=self.device)
        rows = max(1, self._library.upload_block * host.shape[0] // host.nbytes)
        for start in range(0, host.shape[0], rows):
            block = self.xp.asarray(host[start : start + rows], device=self.device)
            moved[start : start + rows, ...] = block  # type: ignore[index]
        return moved

    def window(self, shape: tuple[int, ...], dtype: DType) -> Host:
        """Return an array on the host from which `upload` copies fast: in pinned memory for CuPy.

        Its values are arbitrary.
        """
        if not self._library.pinned:
            return np.empty(shape, dtype)
        import cupyx

        return cupyx.empty_pinned(shape, dtype)  # type: ignore[no-any-return]

    def upload(self, host: Host, into: Array | None) -> Array:
        """Copy rows to the device: to the beginning of an array, or to a new one for None.

        Returns that array, or a new one of all rows where arrays are immutable. `host` may be
        overwritten afterwards.
        """
        with self.active():
            if into is None or not self._library.writable:
                dtype = getattr(self.xp, host.dtype.name)
                return self.xp.asarray(host, dtype=dtype, device=self.device, copy=True)  # type: ignore[no-any-return]
            rows: Any = into[: len(host), ...]
            if self._library.pinned:
                import cupy

                rows.set(host)  # on the current stream, behind the steps that read the rows before
                cupy.cuda.get_current_stream().synchronize()
            else:
                rows[...] = self.xp.asarray(host, device=self.device)
            return into

    def row_numbers(self, order: ArrayLike, rows: int) -> Array:
        """Move row numbers below `rows`, as the smallest integers that every library takes by."""
        return self.asarray(order, "int32" if rows <= 2**31 else "int64")

    def active(self) -> AbstractContextManager[object]:
        """Return a context for kernels on this device: CuPy launches on the *current* device."""
        if self._library.current_device and self.device is not None:
            return self.device  # type: ignore[no-any-return]
        return nullcontext()

    @property
    def _library(self) -> "_Library":
        return _LIBRARIES.get(self.name, _UNKNOWN)


def _rebuild(name: str, dtype: str, where: Device, module: str, precision: str = "ieee") -> Backend:
    if name in _LIBRARIES:
        where = _LIBRARIES[name].find_device(where)
    return Backend(name, dtype, where, importlib.import_module(module), precision)


def asarray(x: ArrayLike, *, dtype: str | None = None) -> AnyArray:
    """Move data to the current backend.

    Parameters
    ----------
    x : array of any library, list, data frame or scalar
        Of any shape. Arrays of the backend are returned as they are (torch tensors detached).
    dtype : str, optional
        By default floating data get the backend's dtype; integers and booleans keep theirs, except
        that int64 becomes int32 on a device without 64-bit integers.

    Raises
    ------
    ValueError
        for ragged lists, text, complex numbers, and values that are too large for the dtype.
    BackendUnavailableError
        if PORTNET_BACKEND names a backend that cannot be used.

    Examples
    --------
    >>> import portnet
    >>> with portnet.use_backend("numpy"):
    ...     portnet.asarray([[1.5, 2.5]])
    array([[1.5, 2.5]], dtype=float32)
    """
    return get_backend().asarray(x, dtype)


def to_numpy(x: ArrayLike) -> Host:
    """Return an array of any library, a list or a data frame as a NumPy array.

    The result has the shape of x. The call waits for the device. Raises ValueError for ragged lists
    and masked values.

    Examples
    --------
    >>> import portnet
    >>> portnet.to_numpy([[1, 2], [3, 4]])
    array([[1, 2],
           [3, 4]])
    """
    if isinstance(x, np.ndarray | np.generic):
        if hasattr(x, "filled") and np.any(getattr(x, "mask", False)):
            raise ValueError("expected no masked values: replace them with x.filled(...)")
        return np.asarray(x)
    if array_api_compat.is_torch_array(x):
        x = x.detach().cpu()
        return np.asarray((x.float() if "bfloat16" in str(x.dtype) else x).numpy())
    if array_api_compat.is_cupy_array(x):
        return np.asarray(x.get())
    if _is_dpnp_array(x):
        return np.asarray(sys.modules["dpnp"].asnumpy(x))
    if array_api_compat.is_array_api_obj(x) and hasattr(x, "to_device"):
        xp = _numpy.array_namespace(x)
        if hasattr(xp, "Device"):  # array-api-strict: NumPy can read only its CPU device
            x = x.to_device(xp.Device("CPU_DEVICE"))
    try:
        return np.asarray(x)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(
            "expected a rectangular array of numbers, got rows of different lengths"
        ) from error


def set_backend(
    name: str, *, device: Device = None, dtype: str = "float32", matmul_precision: str = "ieee"
) -> None:
    """Set where new arrays are created, for the whole process.

    Parameters
    ----------
    name : {"numpy", "cupy", "torch", "jax", "dpnp", "array_api_strict"}
    device : optional
        A device of the library or its name (``"cuda:1"``, ``"cpu"``, for dpnp also
        ``"level_zero:gpu:0"`` or a queue); the library's default if None.
    dtype : {"float32", "float64"}
        The dtype of floating data.
    matmul_precision : {"ieee", "tf32"}
        Of the float32 products in steps that are CUDA graphs. With "tf32" a GPU of Ampere or later
        rounds each factor to 11 bits, and multiplies several times as fast: an element of a
        product is then within about 1e-3 of the sum of its terms' magnitudes, with "ieee" within
        1e-6. Predictions, eager steps and L-BFGS stay "ieee".

    Raises
    ------
    BackendUnavailableError
        if the library or the device cannot be used; the message says what to install.
    ValueError
        for an unknown name or device, a dtype that the device does not have, or TF32 elsewhere than
        on CuPy.

    Examples
    --------
    >>> import portnet
    >>> portnet.set_backend("numpy", dtype="float64")
    >>> portnet.asarray([1.0]).dtype
    dtype('float64')
    >>> portnet.set_backend("numpy")  # the default
    """
    global _default
    _default = _resolve(name, device, dtype, matmul_precision)


@contextmanager
def use_backend(
    name: str, *, device: Device = None, dtype: str = "float32", matmul_precision: str = "ieee"
) -> Iterator[Backend]:
    """Set where the current thread creates new arrays, inside a ``with``.

    The arguments are those of `set_backend`, which it overrides inside the block. Other threads are
    not affected.

    Examples
    --------
    >>> import portnet
    >>> with portnet.use_backend("numpy", dtype="float64"):
    ...     portnet.asarray([1.0]).dtype
    dtype('float64')
    """
    backend = _resolve(name, device, dtype, matmul_precision)
    stack = _thread.__dict__.setdefault("stack", [])
    stack.append(backend)
    try:
        yield backend
    finally:  # by identity instead of pop(): generators may leave their blocks in any order
        del stack[max(i for i, b in enumerate(stack) if b is backend)]


def get_backend() -> Backend:
    """Return the current thread's backend if one is set, else the process's (NumPy by default).

    Raises BackendUnavailableError or ValueError if PORTNET_BACKEND does not name a usable backend.

    Examples
    --------
    >>> import portnet
    >>> with portnet.use_backend("numpy"):
    ...     print(portnet.get_backend())
    numpy on cpu
    """
    stack = getattr(_thread, "stack", None)
    if stack:
        return stack[-1]  # type: ignore[no-any-return]
    if _default is not None:
        return _default
    return _from_environment(os.environ.get("PORTNET_BACKEND") or "numpy")


def backend_of(x: ArrayLike) -> Backend:
    """Return the backend of an array; for lists and data frames, the current one.

    The dtype is that of the array if float32 or float64, else the current backend's.
    """
    if not array_api_compat.is_array_api_obj(x):
        return get_backend()
    xp = _numpy.array_namespace(x)
    if _is_dpnp_array(x):
        _make_picklable(xp)
    dtype = _dtype_name(x.dtype)
    current = get_backend()
    dtype = dtype if dtype in FLOATS else current.dtype
    precision = current.matmul_precision if current.name == _name(xp) else "ieee"
    return Backend(_name(xp), dtype, array_api_compat.device(x), xp, precision)


def is_host(x: object) -> bool:
    """Return whether x is host data: a NumPy or dask array, a list, a data frame or a scalar."""
    if isinstance(x, np.ndarray | np.generic) or not array_api_compat.is_array_api_obj(x):
        return True
    return bool(array_api_compat.is_dask_array(x))


def _is_dpnp_array(x: Any) -> bool:
    """Return whether x is an array of dpnp: a dpnp.ndarray, or the usm_ndarray inside of it."""
    dpnp: Any = sys.modules.get("dpnp")
    return hasattr(dpnp, "tensor") and isinstance(x, dpnp.ndarray | dpnp.tensor.usm_ndarray)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device had too little memory; dpnp's error is no MemoryError."""
    return isinstance(error, MemoryError) or type(error).__name__ == "USMAllocationError"


def detached(x: Any) -> Any:
    """Return x without autograd history: torch tensors detached, anything else unchanged.

    A usm_ndarray, whose operators give usm_ndarrays, becomes the dpnp.ndarray of the same memory.
    """
    if _is_dpnp_array(x):
        return sys.modules["dpnp"].asarray(x)
    return x.detach() if array_api_compat.is_torch_array(x) and x.requires_grad else x


def kind_of_tensor(x: ArrayLike) -> str:
    """Return "sparse" or "meta" for a torch tensor without dense values, else ""."""
    if not array_api_compat.is_torch_array(x):
        return ""
    if "strided" not in str(x.layout):
        return "sparse"
    return "meta" if x.device.type == "meta" else ""


# Available backends -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can be used, and the reason if not.

    Examples
    --------
    >>> import portnet
    >>> numpy = portnet.backends()[0]
    >>> numpy.name, numpy.usable, numpy.device
    ('numpy', True, 'cpu')
    """

    name: str
    usable: bool
    version: str | None = None
    device: str | None = None
    reason: str | None = None


def backends() -> list[BackendStatus]:
    """Return the status of every backend; imports all installed array libraries.

    Examples
    --------
    >>> import portnet
    >>> "numpy" in [status.name for status in portnet.backends() if status.usable]
    True
    """
    return [_probe(name) for name in _LIBRARIES]


@functools.cache
def _probe(name: str) -> BackendStatus:
    """Import the library and try it, once per process."""
    library = _LIBRARIES[name]
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken library may raise anything at import
        reason = (
            f"stage 1, import {name}, failed ({_first_line(error)}). Install it: {library.install}"
        )
        return BackendStatus(name, usable=False, reason=reason)
    version = getattr(module, "__version__", None)
    try:
        where = library.try_out(module)
    except BackendUnavailableError as error:
        return BackendStatus(name, usable=False, version=version, reason=str(error))
    return BackendStatus(name, usable=True, version=version, device=where)


def _try_default(module: Any) -> str:
    return device_name(module.asarray([1.0]))


def _try_dpnp(dpnp: Any) -> str:
    """Try stages 2 and 3: the import succeeds without any device."""
    if not hasattr(dpnp, "tensor"):
        raise BackendUnavailableError(
            f"dpnp 0.20 or newer is needed, here is {dpnp.__version__}. Update it: "
            f"{_LIBRARIES['dpnp'].install}"
        )
    try:
        x = dpnp.ones((2, 2), dtype="float32")
    except Exception as error:
        own = os.path.join(sys.prefix, "lib", "libintelocl.so")  # of the package intel-opencl-rt
        path = own if os.path.exists(own) else "the path of libintelocl.so"
        raise BackendUnavailableError(
            f"stage 2, a first array, failed ({_first_line(error)}). For an Intel GPU install its "
            "driver; for the CPU, set the environment variable OCL_ICD_FILENAMES to "
            f"{path} before Python starts. See sycl-ls and ONEAPI_DEVICE_SELECTOR"
        ) from error
    try:
        total = float(((x * 2 + 1) @ x).sum())  # a kernel, oneMKL, a reduction, a copy back
    except Exception as error:
        raise BackendUnavailableError(
            f"stage 3, a first operation on {device_name(x)}, failed ({_first_line(error)}). "
            f"Libraries of oneAPI may be missing: {_LIBRARIES['dpnp'].install}"
        ) from error
    if total != 24.0:
        raise BackendUnavailableError(f"stage 3, a first operation, gave {total} instead of 24.0")
    _make_picklable(dpnp)
    return f"{device_name(x)} ({x.sycl_device.name.strip()})"


def _try_jax(module: Any) -> str:
    try:
        return _device_text(module.devices()[0])
    except Exception as error:  # jaxlib reports a missing plugin or driver as RuntimeError
        raise BackendUnavailableError(f"jax has no device ({_first_line(error)})") from error


def _try_cupy(cupy: Any) -> str:
    """Try stages 2 and 3: stage 1, the import, succeeds even without a driver."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise BackendUnavailableError(
            f"stage 2, counting CUDA devices, failed ({_first_line(error)}). Install or update the "
            "NVIDIA driver: it must be at least as new as the CUDA runtime of the CuPy wheel"
        ) from error
    if count == 0:
        raise BackendUnavailableError(
            "stage 2, counting CUDA devices, found none. See nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    try:
        # A training step needs allocation, a compiled kernel, cuBLAS, a reduction, a copy back.
        a = cupy.ones((2, 2), dtype="float32")
        total = float(((a * 2 + 1) @ a).sum())
    except Exception as error:
        raise BackendUnavailableError(
            f"stage 3, a first operation on the GPU, failed ({_first_line(error)}). The CUDA "
            f"libraries may be missing: {_LIBRARIES['cupy'].install}"
        ) from error
    if total != 24.0:
        raise BackendUnavailableError(f"stage 3, a first operation, gave {total} instead of 24.0")
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return f"cuda:{cupy.cuda.Device().id} ({properties['name'].decode()})"


# Devices by name --------------------------------------------------------------------------------


def _cpu_only(name: str) -> str:
    if name != "cpu":
        raise ValueError("NumPy's only device is 'cpu'")
    return name


def _cupy_device(name: str) -> Device:
    import cupy

    kind, _, number = name.partition(":")
    index = kind if kind.isdigit() else (number or "0")
    count = cupy.cuda.runtime.getDeviceCount()
    if (kind not in ("cuda", "gpu") and not kind.isdigit()) or not index.isdigit():
        raise ValueError("CuPy's devices are 0, 'cuda:0' and so on")
    if int(index) >= count:
        raise ValueError(f"this machine has {count} CUDA device(s), numbered from 0")
    return cupy.cuda.Device(int(index))


def _torch_device(name: str) -> Device:
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise ValueError(_first_line(error)) from error


def _jax_device(name: str) -> Device:
    import jax

    kind, _, number = name.partition(":")
    try:
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(_first_line(error)) from error


def _dpnp_device(name: Device) -> Device:
    """Return the device of a filter string, or of dpnp's or dpctl's device or queue."""
    import dpnp

    try:
        return dpnp.empty(0, device=name, dtype="int32").device
    except Exception as error:  # dpctl's SyclDeviceCreationError is no ValueError
        raise ValueError(_first_line(error)) from error


def _strict_device(name: str) -> Device:
    import array_api_strict

    return array_api_strict.Device(name)


@dataclass(frozen=True)
class _Library:
    namespace: str  # the module with the functions of the standard
    install: str  # how to install it
    find_device: Callable[[Any], Device]  # by name; raises ValueError
    try_out: Callable[[Any], str] = _try_default  # returns the name of the default device
    compiler: str = ""  # see Backend.compiler
    eager_vectors: bool = False  # see Backend.eager_vectors
    current_device: bool = False  # whether a device is made current, and then used
    pinned: bool = False  # whether copies to a device are from pinned memory: see Backend.window
    writable: bool = True  # whether arrays can be written into
    upload_block: int = 0  # bytes: larger arrays are copied to the device in blocks; 0: at once
    finds_objects: bool = False  # find_device also takes devices, which say more than their names


_LIBRARIES = {
    "numpy": _Library("portnet._numpy", "pip install numpy", _cpu_only, compiler="replay"),
    "cupy": _Library(
        "array_api_compat.cupy",
        'pip install "cupy-cuda13x[ctk]" or, with what CUDA graphs need, pip install ".[cuda13]" '
        "in a checkout of portnet (for CUDA 12: 12 in the place of 13)",
        _cupy_device,
        _try_cupy,
        compiler="graph",
        eager_vectors=True,
        current_device=True,
        pinned=True,
        upload_block=2**26,  # CuPy copies through pinned memory: a power of two, which it keeps
    ),
    "torch": _Library(
        "array_api_compat.torch", "pip install torch", _torch_device, eager_vectors=True
    ),
    "jax": _Library(
        "jax.numpy", "pip install jax", _jax_device, _try_jax, compiler="jit", writable=False
    ),
    "dpnp": _Library(
        "dpnp",
        'pip install dpnp (or pip install ".[dpnp]" in a checkout of portnet)',
        _dpnp_device,
        _try_dpnp,
        eager_vectors=True,
        finds_objects=True,
    ),
    "array_api_strict": _Library(
        "array_api_strict", "pip install array-api-strict", _strict_device
    ),
}


_UNKNOWN = _Library("", "", _cpu_only)


def _resolve(name: str, where: Device, dtype: str, precision: str = "ieee") -> Backend:
    check_choice("backend", name, _LIBRARIES)
    check_choice("dtype", dtype, FLOATS)
    check_choice("matmul_precision", precision, ("ieee", "tf32"))
    if precision == "tf32" and (name != "cupy" or dtype != "float32"):
        raise ValueError(
            f'matmul_precision="tf32" is for float32 on the cupy backend, got {dtype} on {name}'
        )
    status = _probe(name)
    if not status.usable:
        raise BackendUnavailableError(f"the {name} backend cannot be used: {status.reason}")
    if where is not None:
        try:
            library = _LIBRARIES[name]
            if isinstance(where, str | int):
                given = str(where)
            else:
                given = where if library.finds_objects else _device_text(where)
            where = library.find_device(given)
        except ValueError as error:
            raise ValueError(f"unknown device {where!r} for {name}: {error}") from error
    xp = importlib.import_module(_LIBRARIES[name].namespace)
    if where is None:
        where = device(xp.asarray([1.0]))  # the library's current default
    backend = Backend(name, dtype, where, xp, precision)
    backend.require(dtype)
    return backend


@functools.cache
def _from_environment(name: str) -> Backend:
    try:
        return _resolve(name, None, "float32")
    except (BackendUnavailableError, ValueError) as error:
        raise type(error)(f"{error} (the environment variable PORTNET_BACKEND is set)") from error


_default: Backend | None = None
_thread = threading.local()


# Helpers ----------------------------------------------------------------------------------------


def _name(xp: Namespace) -> str:
    """Return the name of the library behind a namespace: numpy, cupy, torch, jax and so on."""
    name = str(xp.__name__).removeprefix("array_api_compat.")
    return "numpy" if xp is _numpy else name.split(".")[0]


def _dtype_name(dtype: DType) -> str:
    """Return "float32" for np.float32, torch.float32, array_api_strict.float32."""
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def _as_numeric(host: Host) -> Host:
    """Return host data as a numeric array; converts objects (Decimal, None, mixed columns)."""
    if host.dtype.kind in "fiub":
        return host
    if host.dtype.kind != "O":
        raise ValueError(f"expected real numbers, got data of dtype {host.dtype}")
    for v in host.flat:  # float() would return days for some and nanoseconds for others
        if isinstance(v, np.datetime64 | np.timedelta64):
            raise ValueError(f"expected real numbers, got {v!r}")
    integers = all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in host.flat)
    try:
        return host.astype(np.int64 if integers else np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"expected real numbers: {error}") from error


def _cast(host: Host, dtype: str | None) -> Host:
    """Return host data in another dtype, or raise ValueError if a value does not fit."""
    if dtype is None or host.dtype == np.dtype(dtype):
        return host
    if np.dtype(dtype).kind == "i" and host.dtype.kind in "iu" and host.size:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if host.min() < low or host.max() > high:
            raise ValueError(f"integers from {host.min()} to {host.max()} do not fit {dtype}")
    try:
        with np.errstate(over="raise"):
            return host.astype(dtype)
    except FloatingPointError:
        raise _too_large(host, dtype) from None


def _too_large(host: Host, dtype: str) -> ValueError:
    largest = np.max(np.abs(host), where=np.isfinite(host), initial=0)
    return ValueError(
        f"a value of {largest:.3g} is too large for {dtype}: scale the data, "
        'or ask for dtype="float64"'
    )


def _make_picklable(dpnp: Any) -> None:
    """Let pickle and copy take dpnp's arrays: through the host, as CuPy's go.

    dpnp has no pickles of its own. A dpnp.ndarray is pickled as the usm_ndarray that it holds.
    """
    copyreg.pickle(dpnp.tensor.usm_ndarray, _reduce_usm)


def _reduce_usm(x: Any) -> tuple[Any, ...]:
    return _usm_array, (to_numpy(x), _device_text(device(x)))  # queues cannot be pickled


def _usm_array(host: Host, where: str) -> Any:
    status = _probe("dpnp")
    if not status.usable:
        raise BackendUnavailableError(f"the dpnp backend cannot be used: {status.reason}")
    return sys.modules["dpnp"].asarray(host, device=_dpnp_device(where)).get_array()


def _device_text(where: Device) -> str:
    if hasattr(where, "sycl_device"):  # dpnp's device, which is a queue of it, or a queue of dpctl
        return str(where.sycl_device.filter_string)
    # array-api-strict's name, or the number of CuPy and JAX.
    value = getattr(where, "_device", getattr(where, "id", None))
    if value is None:
        return str(where)
    return value if isinstance(value, str) else f"{getattr(where, 'platform', 'cuda')}:{value}"


def _queue_text(where: Device) -> str:
    """Return what tells a queue of SYCL from the default one of its device, else ""."""
    queue = getattr(where, "sycl_queue", None)
    if queue is None or queue == _dpnp_device(_device_text(where)).sycl_queue:
        return ""
    return " in a queue of its own"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def read_vectors(arrays: Sequence[Array]) -> list[Host]:
    """Return arrays as vectors on the host, in one transfer: float64, or float32 where that is all.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.backend import read_vectors
    >>> [vector.tolist() for vector in read_vectors([np.asarray(True), np.ones((1, 2))])]
    [[1.0], [1.0, 1.0]]
    """
    moved = [a for a in arrays if not is_host(a)]
    if moved:
        backend = backend_of(moved[0])
        wide = backend.xp.float64 if backend.supports("float64") else backend.xp.float32
        flat = [backend.xp.astype(backend.xp.reshape(a, (-1,)), wide, copy=False) for a in moved]
        ends = np.cumsum([a.shape[0] for a in flat])[:-1]
        found = iter(np.split(to_numpy(backend.xp.concat(flat)), ends))
    return [np.ravel(to_numpy(a)).astype(np.float64) if is_host(a) else next(found) for a in arrays]


def read_floats(numbers: Sequence[Array | float]) -> list[float]:
    """Return 0-d arrays and numbers as floats, in one transfer to the host.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.backend import read_floats
    >>> read_floats([np.asarray(0.5), 2])
    [0.5, 2.0]
    """
    arrays = [v for v in numbers if hasattr(v, "shape")]
    host = iter(to_numpy(namespace(*arrays).stack(arrays)) if arrays else ())
    return [float(next(host) if hasattr(v, "shape") else v) for v in numbers]
