"""Helpers of the tests of machine code: results compared with NumPy's calls."""

import numpy as np

import portnet
from portnet import tree


def executable_of(compiled):
    (way,) = compiled._entries.values()
    return way


def numpy_and_native_results(monkeypatch, fn, *args, donate=()):
    """Return the results of NumPy's calls, those of machine code, and the native plan."""
    with monkeypatch.context() as m:
        m.setenv("PORTNET_NATIVE", "never")
        by_calls = portnet.compile(fn, donate=donate)(*tree.map(np.array, args))
    native = portnet.compile(fn, donate=donate)
    by_code = native(*tree.map(np.array, args))
    return tree.leaves(by_calls), tree.leaves(by_code), executable_of(native)


def assert_bits(actual, expected, where=""):
    for a, b in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes(), f"{where}: {a} is not {b}, to the bit"
