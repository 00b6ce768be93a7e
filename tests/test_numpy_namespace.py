"""NumPy as a namespace of the standard: array_api_compat.numpy's functions, without its import."""

import subprocess
import sys

import array_api_compat.numpy as compat
import numpy as np
import pytest

from portnet import _numpy


def test_same_names_are_unchanged_in_array_api_compat():
    changed = {
        name
        for name in _numpy.SAME
        if getattr(np, name, None) is not getattr(compat, name)
        or getattr(_numpy, name) is not getattr(np, name)
    }
    assert not changed


def test_other_names_are_those_of_array_api_compat():
    for name in ("sort", "cumulative_sum", "unique_all", "linalg", "fft", "clip", "std", "nonzero"):
        assert getattr(_numpy, name) is getattr(compat, name)
    with pytest.raises(AttributeError):
        _numpy.no_such_name  # noqa: B018
    assert not hasattr(_numpy, "__wrapped__")


X = np.array([[1.5, -0.0, np.nan], [-2.5, np.inf, 3.0]])


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        ("arange", (1, 7, 2), {"dtype": np.float32, "device": "cpu"}),
        ("asarray", ([1.0, 2.0],), {"dtype": np.float32, "device": "cpu", "copy": True}),
        ("asarray", (X,), {"copy": False}),
        ("astype", (X, np.float32), {}),
        ("astype", (X, np.float64), {"copy": False}),
        ("astype", (X[0, 0], np.float32), {}),
        ("floor", (X,), {}),
        ("floor", (np.arange(3),), {}),
        ("matmul", (np.ones((2, 3)), np.ones((3, 2))), {}),
        ("matrix_transpose", (X,), {}),
        ("ones_like", (X,), {"dtype": np.int32}),
        ("permute_dims", (X, (1, 0)), {}),
        ("sign", (X,), {}),
        ("sign", (np.array([[1 + 1j, 3, -2j]]),), {}),
        ("zeros", ((2, 3),), {"dtype": np.float32, "device": "cpu"}),
        ("zeros_like", (X,), {}),
    ],
    ids=str,
)
def test_own_functions_equal_those_of_array_api_compat(name, args, options):
    actual, expected = (getattr(xp, name)(*args, **options) for xp in (_numpy, compat))
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(actual, expected)
    assert np.shares_memory(actual, X) == np.shares_memory(expected, X)


def test_finfo_takes_a_dtype_or_an_array():
    for given in (np.float32, np.dtype("float64"), X):
        assert _numpy.finfo(given).eps == compat.finfo(given).eps


def test_array_namespace_is_numpys_for_arrays_and_scalars():
    assert _numpy.array_namespace(X, np.float32(1), None, 2.0) is _numpy
    with pytest.raises(TypeError):
        _numpy.array_namespace(2.0, None)


def test_training_loads_no_other_parts_of_numpy():
    code = (
        "import sys, portnet\n"
        "loaded = set(sys.modules)\n"
        "data = [[1.0, 2.0], [2.0, 3.0], [0.0, 1.0]], [1.0, 2.0, 0.0]\n"
        "trainer = portnet.Trainer(portnet.mlp([2, 3, 1], dropout=0.1), 'huber', 'adam')\n"
        "run = trainer.fit(*data, epochs=2, progress=False)\n"
        "run.predict(data[0])\n"
        "loaded = set(sys.modules) - loaded\n"
        "slow = {'array_api_compat.numpy', 'numpy.f2py', 'numpy.testing', 'numpy.ma'} & loaded\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_of_the_standard_is_that_of_array_api_compat():
    assert _numpy.__array_api_version__ == compat.__array_api_version__
