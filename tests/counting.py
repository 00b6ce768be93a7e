"""An array library that records each conversion to a host value, which synchronizes a GPU.

It wraps NumPy, follows the array API standard, and has its own device, "counter".
"""

import operator
from types import SimpleNamespace

import array_api_compat.numpy as np_compat
import numpy as np

conversions: list[str] = []  # the names of the methods by which values left the device


class Counting:
    device = "counter"

    def __init__(self, host):
        self.host = np.asarray(host)

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)

    def __array_namespace__(self, api_version=None):
        return counting

    def __getitem__(self, index):
        return _wrap(self.host[_unwrap(index)])

    def to_device(self, device, stream=None):
        assert device == "counter"
        return self


def _operator(name):
    reflected = name.startswith("__r") and name not in ("__rshift__", "__round__")
    base = getattr(operator, "__" + name[3:] if reflected else name)

    def method(self, other=None):
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


def _function(f):
    def call(*args, **kwargs):
        kwargs.pop("device", None)
        return _wrap(f(*_unwrap(args), **{k: _unwrap(v) for k, v in kwargs.items()}))

    return call


class _Info:
    def dtypes(self, *, device=None, kind=None):
        return np_compat.__array_namespace_info__().dtypes(kind=kind)


_FUNCTIONS = """
    abs all any arange argmax asarray astype concat cos empty exp
    expand_dims expm1 floor full isfinite isinf log log1p matmul matrix_transpose max maximum
    mean min minimum ones ones_like reshape sign sqrt stack sum
    take tanh where zeros zeros_like
"""
counting = SimpleNamespace(
    __name__="counting",
    __array_namespace_info__=_Info,
    isdtype=np_compat.isdtype,
    **{name: _function(getattr(np_compat, name)) for name in _FUNCTIONS.split()},
    **{name: getattr(np, name) for name in ("float32", "float64", "int32", "int64", "bool")},
)
