"""Empty, 0-d, non-contiguous and unusual arrays: replays equal eager calls."""

import warnings

import numpy as np
import pytest
from checking import LAYOUTS, a, check
from programs import assert_same

import portnet
from portnet.backend import namespace


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_empty_arrays_equal_eager_calls(shape):
    def fn(x, y):
        xp = namespace(x)
        return (
            x + y,
            xp.sum(x),
            xp.sum(x, axis=0),
            xp.concat([x, y], axis=0),
            x.T if x.ndim == 2 else x,
            y,
        )

    for donate in ((), (0,), (0, 1)):
        check(fn, a(*shape), a(*shape), donate=donate)


def test_matmul_over_an_empty_axis_equals_eager():
    check(lambda x, y: x @ y, a(2, 0), a(0, 3))
    check(lambda x, y: (x @ y, x), a(0, 2), a(2, 3), donate=(0,))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_0d_arrays_equal_eager_calls(dtype):
    def fn(x, y):
        xp = namespace(x)
        return (
            x + y,
            x * 2,
            x,
            xp.reshape(x, (1, 1)),
            xp.sum(x),
            x[...],
            x[None],
            xp.where(x > y, x, y),
        )

    x, y = np.array(3, dtype), np.array(4, dtype)
    for donate in ((), (0,), (1,), (0, 1)):
        check(fn, x, y, donate=donate)


def test_0d_results_do_not_change_in_later_calls():
    compiled = portnet.compile(lambda x: namespace(x).max(x))
    first = compiled(a(3))
    second = compiled(a(3, start=100.0))
    assert (float(first), float(second)) == (2.0, 101.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_memory_layout_equals_eager_calls(layout):
    def fn(x, y):
        xp = namespace(x)
        return x @ y, x + y, xp.matrix_transpose(x) @ y, x[1:] * 2.0, xp.exp(x), xp.max(y, axis=0)

    compiled = portnet.compile(fn)
    for _ in range(2):
        x, y = (LAYOUTS[layout](v) for v in (a(3, 3), a(3, 3, start=-1.0)))
        assert_same(compiled(x, y), fn(x, y))


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_alternating_memory_layouts_equal_eager_calls(name):
    """Calls with alternating layouts equal eager calls."""
    compiled = portnet.compile(lambda x, y: (x - y, x.T), donate=(0,))
    for layout in ("C", name, "F", name, "C"):
        x, y = LAYOUTS[layout](a(3, 3)), LAYOUTS[name](a(3, 3, start=7.0))
        expected = (x - y, x.T.copy())
        assert_same(compiled(x, y), expected)


def test_big_endian_arrays_equal_eager_calls():
    x = a(3).astype(">f8")
    compiled = portnet.compile(lambda x: x + 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        np.testing.assert_array_equal(compiled(x), x + 1.0)
        np.testing.assert_array_equal(compiled(a(3)), a(3) + 1.0)


@pytest.mark.parametrize(
    "dtype", ["complex128", "float16", "longdouble", "int8", "uint16", "uint64"]
)
def test_dtypes_outside_the_compiled_set_equal_eager_calls(dtype):
    compiled = portnet.compile(lambda x: (x + x, x * 3))
    x = a(3).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(2):
            assert_same(compiled(x), (x + x, x * 3))


def test_memory_maps_equal_eager_calls(tmp_path):
    m = np.memmap(tmp_path / "numbers", dtype="float64", mode="w+", shape=(3, 2))
    m[:] = a(3, 2)
    compiled = portnet.compile(lambda x: (x * 2.0, namespace(x).max(x), x.T))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(2):
            for actual, expected in zip(compiled(m), (a(3, 2) * 2, 3.5, a(3, 2).T), strict=True):
                np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(m, a(3, 2))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("kind", ["masked", "matrix", "read-only subclass"])
def test_subclasses_of_arrays_run_eagerly(kind):
    """A masked array keeps its mask, and a matrix its matrix product."""
    from conftest import _frozen

    def fn(x):
        return x * x + 1.0, x

    x = {
        "masked": lambda: np.ma.masked_array(a(2, 2), mask=[[True, False], [False, False]]),
        "matrix": lambda: np.matrix(a(2, 2)),
        "read-only subclass": lambda: _frozen(a(2, 2)),
    }[kind]()
    compiled = portnet.compile(fn)
    plain = compiled(a(2, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            actual = compiled(x)
            expected = fn(x)
            for p, q in zip(actual, expected, strict=True):
                assert type(p) is type(q)
                np.testing.assert_array_equal(np.asarray(p), np.asarray(q))
                if kind == "masked":
                    np.testing.assert_array_equal(p.mask, q.mask)
    assert len([w for w in caught if w.category is not PendingDeprecationWarning]) <= 1
    assert_same(compiled(a(2, 2)), plain)


def test_lists_are_pytrees_and_not_arrays():
    compiled = portnet.compile(lambda xs: [x + 1.0 for x in xs])
    assert_same(compiled([a(2), 1.0]), [a(2) + 1.0, 2.0])
