"""The signature of a call: which arguments share a plan."""

import gc
import warnings
import weakref

import numpy as np
import pytest
from checking import (
    Calls,
    Pair,
    PairDataclass,
    a,
    one_warning,
)
from programs import assert_same

import portnet
from portnet.backend import namespace


def test_python_scalars_are_part_of_the_plan_key():
    def fn(x, k):
        return x + k if isinstance(k, bool) else x * k if isinstance(k, int) else x / k

    compiled = portnet.compile(fn)
    x = a(3)
    for _ in range(2):
        assert_same(compiled(x, 1), x * 1)
        assert_same(compiled(x, True), x + True)
        assert_same(compiled(x, 1.0), x / 1.0)
        assert_same(compiled(x, 4), x * 4)
        assert_same(compiled(x, 4.0), x / 4.0)
    zero = portnet.compile(lambda x, k: x * k)
    for _ in range(2):
        assert_same(zero(x, 0.0), x * 0.0)
        assert_same(zero(x, -0.0), x * -0.0)
        assert_same(zero(x, float("nan")), x * np.nan)
        assert_same(zero(x, float("inf")), x * np.inf)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_scalars_are_promoted_unlike_python_scalars(dtype):
    compiled = portnet.compile(lambda x, k: x * k)
    x = a(3, dtype=dtype)
    for k in (
        2.0,
        np.float64(2.0),
        np.float32(2.0),
        2.0,
        np.float64(3.0),
        np.array(2.0),
        np.float64(2.0),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert_same(compiled(x, k), x * k)


def test_pytree_structure_is_part_of_the_plan_key():
    compiled = portnet.compile(lambda pytree: (type(pytree), len(pytree)))
    x = a(2)
    for _ in range(2):
        for pytree in (
            (x, x),
            [x, x],
            (x,),
            [x],
            {"a": x},
            Pair(x, x),
            (x, None),
            (None, x),
            (x, 1),
        ):
            assert compiled(pytree) == (type(pytree), len(pytree))
    keys = portnet.compile(lambda pytree: list(pytree))
    for names in ("ab", "ba", "ac", "ab"):
        assert keys(dict.fromkeys(names, x)) == list(names)
    one = portnet.compile(lambda pytree: pytree["a"] - pytree["b"])
    assert_same(one({"a": a(2), "b": a(2, start=9.0)}), a(2) - a(2, start=9.0))
    assert_same(one({"b": a(2, start=9.0), "a": a(2)}), a(2) - a(2, start=9.0))


def test_dtypes_and_shapes_are_part_of_the_plan_key():
    compiled = portnet.compile(lambda x: (x + x, x.shape[0] if x.ndim else -1))
    for dtype in ("float32", "float64", "int32", "int64", "uint8"):
        for shape in ((2,), (1, 2), (2, 1), (2, 2), (), (0,), (0, 3)):
            x = a(*shape, dtype=dtype)
            assert_same(compiled(x), (x + x, x.shape[0] if x.ndim else -1))


def test_nan_as_a_python_scalar_equals_eager():
    counted = Calls(lambda x, k: x * k)
    compiled = portnet.compile(counted)
    for _ in range(4):
        assert_same(compiled(a(2), float("nan")), a(2) * np.nan)


def test_twenty_shapes_in_turn_equal_eager_calls():
    def fn(x, y):
        return x * 2.0 + y, namespace(x).sum(x)

    compiled = portnet.compile(fn, donate=(1,))
    for _ in range(3):
        for n in range(20):
            x = a(n, dtype="float64")
            actual = compiled(x, x.copy())
            assert_same(actual, fn(x, x.copy()), (0.0, 1e-12))


def test_eight_most_recent_plans_are_kept():
    counted = Calls(lambda x: x + 1.0)
    compiled = portnet.compile(counted)
    for _ in range(3):
        for n in range(8):
            assert_same(compiled(a(n)), a(n) + 1.0)
    assert counted.count == 16
    for n in range(20):
        compiled(a(n))
    before = counted.count
    for n in range(12, 20):
        compiled(a(n))
    assert counted.count == before
    compiled(a(0))
    assert counted.count == before + 2


def test_plans_keep_no_reference_to_arguments():
    compiled = portnet.compile(lambda x, y: (x + y, y), donate=(0,))
    for _ in range(2):
        y = a(50)
        dead = weakref.ref(y)
        compiled(a(50), y)
        del y
        gc.collect()
        assert dead() is None


def test_arguments_that_overlap_only_in_the_second_call_equal_eager():
    step = portnet.compile(lambda p, q: (p + 1, q * 3), donate=0)
    p, _ = step(np.zeros(3), np.ones(3))
    _, q = step(p, p)
    np.testing.assert_array_equal(q, [3, 3, 3])


def test_argument_of_an_unknown_class_runs_eagerly_and_is_named():
    compiled = portnet.compile(lambda p, x: p.first * x)
    with one_warning("an argument is a PairDataclass"):
        compiled(PairDataclass(2.0, None), a(3))
    compiled(PairDataclass(2.0, None), a(3))  # no second warning
