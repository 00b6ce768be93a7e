"""An array library that records what a GPU would do, with two devices of which one is current.

It wraps NumPy and follows the array API standard. As in CuPy, an operation runs on the *current*
device, its results are created there, and the `device` of a creation function is only checked.
"""

import contextlib
import operator
from types import SimpleNamespace
from typing import ClassVar

import array_api_compat.numpy as np_compat
import numpy as np

conversions: list[str] = []  # the names of the methods by which values left the device
launches: list[str] = []  # the names of the operations, once for each kernel that CuPy launches
uploads: list[np.ndarray] = []  # the arrays that were copied from the host
misplaced: list[str] = []  # the operations on arrays of a device that was not current
JOINED = 8  # arrays up to which CuPy's concatenate launches a copy for each


class Device:
    """A device; within its ``with`` it is current."""

    current: ClassVar[list["Device"]] = []

    def __init__(self, id):
        self.id = id

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # as CuPy's

    def __repr__(self):
        return f"counter:{self.id}"

    def __enter__(self):
        Device.current.append(self)
        return self

    def __exit__(self, *args):
        Device.current.pop()


Device.current.append(Device(0))


class Counting:
    def __init__(self, host, device=None):
        self.host = np.asarray(host)
        self.device = device or Device.current[-1]

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)

    def __array_namespace__(self, api_version=None):
        return counting

    def __getitem__(self, index):
        return Counting(self.host[_unwrap(index)], self.device)  # a view

    def __setitem__(self, index, value):
        _record("setitem", (self, value))
        self.host[_unwrap(index)] = _unwrap(value)

    def to_device(self, device, stream=None):
        assert device == self.device
        return self


def _record(name, arrays, count=1):
    launches.extend([name] * count)
    if any(a.device != Device.current[-1] for a in arrays if isinstance(a, Counting)):
        misplaced.append(name)


def _operator(name):
    reflected = name.startswith("__r") and name not in ("__rshift__", "__round__")
    base = getattr(operator, "__" + name[3:] if reflected else name)

    def method(self, other=None):
        _record(name, (self, other))
        if name in ("__neg__", "__abs__", "__invert__"):
            return _wrap(base(self.host))
        a, b = self.host, _unwrap(other)
        return _wrap(base(b, a) if reflected else base(a, b))

    return method


_OPERATORS = """
    add radd sub rsub mul rmul truediv rtruediv pow neg abs invert eq ne
    rpow lt le gt ge and or xor rshift lshift mod matmul
"""
for _name in _OPERATORS.split():
    setattr(Counting, f"__{_name}__", _operator(f"__{_name}__"))


def _conversion(name, convert):
    def method(self, *args, **kwargs):
        conversions.append(name)
        return convert(self.host)

    return method


for _name, _convert in {
    "float": float,
    "int": int,
    "bool": bool,
    "index": operator.index,
    "complex": complex,
    "array": np.asarray,
    "iter": iter,
    "len": len,
}.items():
    setattr(Counting, f"__{_name}__", _conversion(f"__{_name}__", _convert))
Counting.tolist = _conversion("tolist", np.ndarray.tolist)
Counting.item = _conversion("item", np.ndarray.item)


def _wrap(x):
    return Counting(x) if isinstance(x, np.ndarray | np.generic) else x


def _unwrap(x):
    if isinstance(x, Counting):
        return x.host
    return type(x)(_unwrap(v) for v in x) if isinstance(x, tuple | list) else x


VIEWS = ("expand_dims", "matrix_transpose", "permute_dims", "reshape")
SIGN = 3  # sign, isnan and a masked store, in array_api_compat


def _function(name):
    f = getattr(np_compat, name)

    def call(*args, **kwargs):
        device = kwargs.pop("device", None)
        assert device is None or isinstance(device, Device)
        found = f(*_unwrap(args), **{k: _unwrap(v) for k, v in kwargs.items()})
        arrays = list(args[0]) if name in ("concat", "stack") else [*args, *kwargs.values()]
        given = [a for a in arrays if isinstance(a, Counting)]
        same = given and isinstance(found, np.ndarray) and np.shares_memory(found, given[0].host)
        if name in VIEWS and same:
            return Counting(found, given[0].device)
        if same or name == "empty":  # astype without a copy
            count = 0
        elif name in ("concat", "stack"):
            count = len(given) if len(given) <= JOINED else 1
        else:
            count = SIGN if name == "sign" else 1
        _record(name, given, count)
        return _wrap(found)

    return call


def _asarray(x, /, *, dtype=None, device=None, copy=None):
    if isinstance(x, Counting) and not copy:
        return x if dtype in (None, x.dtype) else counting.astype(x, dtype)
    if isinstance(x, Counting):
        with device or contextlib.nullcontext():
            _record("copy", [x])
            return Counting(x.host.astype(dtype or x.dtype))
    with device or contextlib.nullcontext():
        host = np.array(x, dtype=dtype)
        uploads.append(host)
        return Counting(host)


class _Info:
    def dtypes(self, *, device=None, kind=None):
        return np_compat.__array_namespace_info__().dtypes(kind=kind)


_FUNCTIONS = """
    abs all any arange argmax astype concat cos empty exp
    expand_dims expm1 floor full isfinite isinf log log1p matmul matrix_transpose max maximum
    mean min minimum ones ones_like reshape sign sqrt stack sum
    take tanh where zeros zeros_like
"""
counting = SimpleNamespace(
    __name__="counting",
    __array_namespace_info__=_Info,
    isdtype=np_compat.isdtype,
    asarray=_asarray,
    finfo=np.finfo,
    **{name: _function(name) for name in _FUNCTIONS.split()},
    **{name: getattr(np, name) for name in ("float32", "float64", "int32", "int64", "bool")},
)


@contextlib.contextmanager
def recorded():
    """Clear the records, and give them: they have what happens within the block."""
    for record in (conversions, launches, uploads, misplaced):
        record.clear()
    yield SimpleNamespace(
        conversions=conversions, launches=launches, uploads=uploads, misplaced=misplaced
    )
