"""NumPy's functions in C, called from machine code."""

import numpy as np
import pytest
from machine_code import assert_bits, numpy_and_native_results

from portnet.backend import namespace
from portnet.compiler.native import numpy_c

pytest.importorskip("llvmlite", reason="the extra `native` is not installed")
pytestmark = pytest.mark.usefixtures("compile_at_first_call")


def test_c_functions_that_differ_from_numpy_are_rejected(monkeypatch):
    f = np.dtype("float64")
    assert numpy_c.loop(np.exp, (f, f)) is not None
    assert numpy_c.loop(np.exp, (np.dtype("int64"), f)) is None
    sin, exp = numpy_c.loop(np.sin, (f, f)), numpy_c.loop(np.exp, (f, f))
    assert not numpy_c._as_numpy(np.exp, sin, (f, f))
    assert numpy_c._as_numpy(np.exp, exp, (f, f))
    single = numpy_c.product("gemm", np.dtype("float32"))
    if single is not None:  # otherwise NumPy has another BLAS
        gemv = numpy_c.product("gemv", f)
        assert numpy_c._multiplies("gemv", gemv, f)


def test_operations_without_c_functions_use_numpy(monkeypatch):
    monkeypatch.setattr(numpy_c, "loop", lambda *args: None)
    monkeypatch.setattr(numpy_c, "product", lambda *args: None)
    fn = lambda x: namespace(x).exp(namespace(x).matmul(x * 2.0, x * 0.5)) + 1.0  # noqa: E731
    by_calls, by_code, way = numpy_and_native_results(
        monkeypatch, fn, np.arange(9.0).reshape(3, 3) / 10
    )
    assert_bits(by_code, by_calls)
    assert way.native.startswith("3 of 5")
