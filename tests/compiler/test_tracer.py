"""The tracer: what is recorded, and what makes a call run eagerly, with its cause."""

import random
import time
import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from checking import (
    Calls,
    PairDataclass,
    a,
    check,
    check_memory,
    copies,
    data,
    one_warning,
    reads_float,
    reads_if,
    same_error,
    start,
)
from programs import assert_same

import portnet
from portnet.backend import namespace
from portnet.losses import LOSSES

# Constants ---------------------------------------------------------------------------------------


def test_equal_constants_of_different_type_or_sign_stay_distinct():
    """0.0 == -0.0 and 1 == 1.0 == True, but operations with them differ."""

    def fn(x, n):
        xp = namespace(x)
        return [
            *(x * 0.0, x * -0.0, 0.0 - x * 0.0, x + 0.0, x + -0.0, x - 0.0),
            *(xp.full((2,), 1), xp.full((2,), 1.0), xp.full((2,), True)),
            *(xp.full((2,), 0.0), xp.full((2,), -0.0), xp.full_like(x, 0.0), xp.full_like(x, -0.0)),
            *(xp.asarray([0.0]), xp.asarray([-0.0]), xp.asarray([1]), xp.asarray([True])),
            *(xp.asarray(1), xp.asarray(1.0), xp.asarray(True), xp.asarray(-0.0), xp.asarray(0.0)),
            *(xp.where(x > 1, 0.0, x), xp.where(x > 1, -0.0, x), xp.copysign(x, -0.0)),
            *(xp.copysign(x, 0.0), xp.zeros(2), xp.zeros(2, dtype=xp.int32), xp.arange(2)),
            *(xp.arange(2.0), xp.arange(2, dtype=xp.float32), n * 1, n + 0, n * 0, n // 1),
            *(xp.sum(x, axis=0), xp.sum(x, axis=0, keepdims=True), xp.sum(n), x * 1, x * 1.0),
            *(
                xp.max(x, axis=0),
                xp.max(x, axis=-1),
                x / 1,
                x**1,
                x**2,
                x * x,
                x**0.5,
                xp.clip(x, 0.0, 2.0),
                x - x,
                +x,
            ),
        ]

    check(fn, a(3), np.array([1, 2], "int32"))
    with np.errstate(all="ignore"):
        wide = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324])
        check(fn, wide, np.array([2**31 - 1], "int32"))


def test_traces_that_differ_in_the_sign_of_zero_are_not_replayed():
    """Two traces that differ in the sign of a zero only."""
    signs = iter([0.0, -0.0] * 20)
    compiled = portnet.compile(lambda x: x * next(signs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        results = {bytes(compiled(a(3))) for _ in range(10)}
    assert len(results) == 2


# In-place operators ------------------------------------------------------------------------------


def in_place_on_a_new_array(x, y):
    z = x * 2.0
    z += y
    z *= 3.0
    return z


def in_place_on_an_array_with_two_names(x, y):
    z = x * 2.0
    w = z
    z += y
    return z, w


def in_place_on_the_base_of_a_view(x, y):
    z = x * 2.0
    w = z[1:]
    z += y
    return z, w


def in_place_on_a_reshaped_view(x, y):
    z = x * 2.0
    w = namespace(x).reshape(z, (1, -1))
    w -= 1.0
    return z, w


def in_place_on_a_scalar(x, y):
    """The operator makes a new NumPy scalar; other names keep the old one."""
    s = namespace(x).sum(x)
    t = s
    s += 1.0
    p = x[0]
    q = p
    p *= 2.0
    return s, t, p, q, x * 1.0


def in_place_in_a_list(x, y):
    z = [x * 2.0, y * 2.0]
    w = z[0]
    z[0] += z[1]
    return z, w


def in_place_keeps_the_dtype(x, y):
    z = namespace(x).astype(x, namespace(x).float32)
    z += y
    n = namespace(x).astype(x, namespace(x).int32)
    n *= 2
    return z, n


def in_place_after_use(x, y):
    z = x * 2.0
    w = z + y
    z += 1.0
    return z, w


def in_place_on_an_argument(x, y):
    x += y
    return x * 2.0


CAPTURED = a(3)


def in_place_on_a_captured_array(x, y):
    c = CAPTURED
    c += 0.0
    return x + c


@pytest.mark.parametrize("fn", [v for k, v in list(globals().items()) if k.startswith("in_place_")])
def test_in_place_operators_equal_eager_calls(fn):
    """They may be replayed, or run eagerly with a warning."""
    compiled = portnet.compile(fn)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            eager, replayed = (a(3), a(3, start=5.0)), (a(3), a(3, start=5.0))
            expected = fn(*eager)
            assert_same(compiled(*replayed), expected)
            assert_same(replayed, eager)
    assert len(caught) <= 1


def test_in_place_operators_raise_the_eager_errors():
    def wider(x):
        z = x * 1.0
        z += namespace(x).ones((2, 3))
        return z

    def kind(x):
        z = namespace(x).astype(x, namespace(x).int32)
        z += 1.5
        return z

    for fn in (wider, kind):
        same_error(fn, portnet.compile(fn), a(3))


# Captured arrays ---------------------------------------------------------------------------------


def test_captured_arrays_are_copied_as_constants():
    c = a(3)
    compiled = portnet.compile(lambda x: (x + c, c, c[::2], x * 0.0 + c))
    first = compiled(a(3))
    then = c.copy()
    expected = (a(3) + then, then, then[::2], a(3) * 0.0 + then)
    assert_same(first, expected)
    check_memory(first, [c])
    c[:] = 100.0
    assert_same(compiled(a(3)), expected)
    assert_same(first, expected)
    second = compiled(a(3))
    for result in second:
        result[...] = -1.0
    assert_same(compiled(a(3)), expected)
    np.testing.assert_array_equal(c, 100.0)


def test_arrays_created_in_fn_are_new_in_each_call():
    def fn(x):
        xp = namespace(x)
        z = xp.zeros(3)
        return z, z, xp.ones_like(x), xp.asarray([1.0, 2.0]), xp.arange(4) + 1, xp.asarray(x)

    compiled = check(fn, a(2))
    for _ in range(2):
        result = compiled(a(2))
        assert_same(result, fn(a(2)))
        for part in result:
            part[...] = 9


def test_donated_argument_that_is_also_captured_equals_eager():
    p = a(3)
    compiled = portnet.compile(lambda x: (x * 2.0 + p, p), donate=(0,))
    expected = (a(3) * 2.0 + a(3), a(3))
    assert_same(compiled(a(3)), expected)
    result = compiled(p)
    assert_same(result, expected)


# Functions that need values run eagerly ----------------------------------------------------------


def reads_while(x):
    while namespace(x).sum(x) < 100.0:  # here
        x = x * 2.0
    return x


def reads_int(x):
    return x * int(x[0])  # here


def reads_bool(x):
    return x * 2.0 if bool(x[0] > 0) else x  # here


def reads_complex(x):
    return x * complex(x[0]).real  # here


def reads_index(x):
    return x * range(9)[namespace(x).astype(x[0], namespace(x).int64)]  # here


def reads_assignment(x):
    y = namespace(x).zeros_like(x)
    y[1:] = x[:-1]  # here
    return y


def reads_asarray(x):
    return np.asarray(x) + 1.0  # here


def reads_mask(x):
    return x[x > 1.0]  # here


def reads_sort(x):
    return namespace(x).sort(x)  # here


def reads_unique(x):
    return namespace(x).unique_values(x)  # here


def reads_nonzero(x):
    return namespace(x).nonzero(x)[0]  # here


def reads_item(x):
    return x * x[0].item()  # here


def reads_tolist(x):
    return x * x.tolist()[0]  # here


def reads_cumulative(x):
    return namespace(x).cumulative_sum(x)  # here


def reads_linalg(x):
    return x / namespace(x).linalg.vector_norm(x)  # here


def reads_in(x):
    return x * 2.0 if 1.0 in x else x  # here


VALUE_READS = {
    reads_float: ["float"],
    reads_int: ["int"],
    reads_bool: ["bool", "truth"],
    reads_if: ["bool", "truth"],
    reads_complex: ["complex"],
    reads_index: ["index"],
    reads_while: ["bool", "truth"],
    reads_assignment: ["setitem", "assign", "[...] ="],
    reads_asarray: ["asarray", "__array__", "array"],
    reads_mask: ["mask", "bool", "index", "getitem"],
    reads_sort: ["sort"],
    reads_unique: ["unique_values"],
    reads_nonzero: ["nonzero"],
    reads_item: ["item"],
    reads_tolist: ["tolist"],
    reads_cumulative: ["cumulative_sum"],
    reads_linalg: ["linalg", "vector_norm"],
    reads_in: ["in", "contains", "iter"],
}


@pytest.mark.parametrize("fn", VALUE_READS, ids=lambda fn: fn.__name__.removeprefix("reads_"))
def test_reading_a_value_runs_eagerly_with_one_warning(fn):
    compiled = portnet.compile(fn)
    x = a(3)
    with one_warning(*VALUE_READS[fn], here=fn):
        assert_same(compiled(x), fn(x))
    for y in (x, x + 1.0, -x, np.asarray([5.0, 0.5, 1.0])):  # the same plan: no further warning
        assert_same(
            compiled(y) if fn is not reads_while else compiled(abs(y)),
            fn(y) if fn is not reads_while else fn(abs(y)),
        )
    np.testing.assert_array_equal(x, a(3))


def reads_iteration(x):
    total = 0.0
    for v in x:
        total = total + v
    return total


def reads_unpacking(x):
    p, q, r = x
    return p * q * r


def reads_numpy(x):
    return np.sin(x)


def reads_method(x):
    return x - x.mean()


def reads_copy(x):
    return x.copy()


def reads_len(x):
    return x * len(x)


@pytest.mark.parametrize(
    "fn",
    [reads_len, reads_iteration, reads_unpacking, reads_numpy, reads_method, reads_copy],
    ids=lambda fn: fn.__name__.removeprefix("reads_"),
)
def test_nonstandard_functions_without_value_reads_equal_eager(fn):
    """Outside the standard, but no value is read: replayed, or eager with a warning."""
    compiled = portnet.compile(fn)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert_same(compiled(a(3)), fn(a(3)))
            assert_same(compiled(-a(3)), fn(-a(3)))
    assert len(caught) <= 1


def test_each_signature_and_each_compiled_function_warns_once():
    compiled = portnet.compile(reads_float)
    for x in (a(3), a(4), a(3, dtype="float32")):
        with one_warning("float", here=reads_float):
            for _ in range(3):
                assert_same(compiled(x), reads_float(x))
    again = portnet.compile(reads_float)
    with one_warning("float", here=reads_float):
        again(a(3))


def test_each_of_twenty_shapes_warns_once():
    """There are more signatures than plans are kept."""
    compiled = portnet.compile(reads_float)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            for n in range(1, 21):
                assert_same(compiled(a(n)), reads_float(a(n)))
    assert len(caught) == 20


def test_warning_names_the_line_of_the_inner_function():
    def fn(x):
        return reads_float(x + 1.0) * 2.0

    with one_warning("float", here=reads_float):
        assert_same(portnet.compile(fn)(a(3)), fn(a(3)))


def test_warning_names_the_line_of_a_custom_layer():
    @dataclass(frozen=True)
    class Fussy:
        def init(self, rng, n_in):
            return (), n_in

        def forward(self, params, x, key=None):
            scale = 1.0 if float(x[0, 0]) > 0 else 2.0  # here
            return x * scale, scale

        def backward(self, params, cache, dy):
            return (), dy * cache

    net = portnet.Chain([portnet.Dense(4), Fussy(), portnet.Dense(4)])
    x, y, _ = data("squared_error", 5)
    optimizer = portnet.Adam(1e-2)
    step = portnet.make_step(net, LOSSES["squared_error"](), optimizer)
    compiled = portnet.compile(step, donate=(0, 1))
    eager = start(net, optimizer)
    replayed = copies(eager)
    with one_warning("float", here=Fussy.forward):
        for _ in range(5):
            *eager, value = step(*eager, x, y)
            *replayed, replayed_value = compiled(*replayed, x, y)
            assert_same(replayed_value, value)
    assert_same(replayed, eager)


def test_one_function_can_run_eagerly_and_replayed_by_signature():
    def fn(x, careful):
        if careful and float(x[0]) < 0:
            return x * 0.0
        return x + 1.0

    counted = Calls(fn)
    compiled = portnet.compile(counted)
    with one_warning("float"):
        for _ in range(3):
            assert_same(compiled(a(3), True), a(3) + 1.0)
    counted.count = 0
    for _ in range(3):
        assert_same(compiled(a(3), False), a(3) + 1.0)
    assert counted.count == 2


def test_value_reads_caught_by_fn_still_run_eagerly():
    """An exception handler in fn must not hide that a value was read."""

    def tries(x):
        try:
            return x * float(x[0])
        except Exception:
            return x * 0.0

    def asks(x):
        return x + 1.0 if hasattr(x, "mean") else x

    def finds(x):
        try:
            return x.mean() + x
        except AttributeError:
            return x * 0.0

    for fn in (tries, asks, finds):
        compiled = portnet.compile(fn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(3):
                assert_same(compiled(a(3)), fn(a(3)))


def random_numpy(x):
    return x + np.random.default_rng().standard_normal(3)


def random_scalar(x):
    return x + random.random()


def random_shape(x):
    return namespace(x).zeros(int(random.random() * 1e6)) + x[0]


def clock_value(x):
    return x * 0.0 + time.perf_counter_ns()


def make_counter():
    seen = []

    def counting(x):
        seen.append(1)
        return x + float(len(seen))

    return counting


@pytest.mark.parametrize(
    "fn", [random_numpy, random_scalar, random_shape, clock_value, make_counter()]
)
def test_random_and_stateful_functions_run_eagerly(fn):
    compiled = portnet.compile(fn)
    with one_warning():
        results = [compiled(a(3)) for _ in range(4)]
    for r, s in pairwise(results):
        assert r.shape != s.shape or (r != s).any(), "drawn once, and replayed"


RANDOM_RESULTS = {
    "number": lambda x: (x, random.random()),
    "NumPy's number": lambda x: (x, np.float64(random.random())),
    "key": lambda x: {str(random.random()): x},
    "length": lambda x: [x] * random.randint(1, 20),
    "kind": lambda x: random.choice([tuple, list])([x]),
    "order": lambda x: dict.fromkeys(random.choice(["ab", "ba"]), x),
    "which": lambda x: random.choice([x, x + 0.0, x * 1.0, -x, abs(x)]),
    "start": lambda x: x[random.randrange(3) :],
    "sign": lambda x: x * random.choice([0.0, -0.0]),
}


@pytest.mark.parametrize("name", RANDOM_RESULTS)
def test_functions_with_random_structure_or_values_are_not_all_replayed(name):
    """Two traces may be equal by chance, so some of the functions may be replayed."""
    replayed = 0
    for _ in range(12):
        compiled = portnet.compile(RANDOM_RESULTS[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            replayed += len({repr(compiled(a(3))) for _ in range(40)}) == 1
    assert replayed < 12


def test_random_choice_of_operations_is_not_replayed():
    draw = np.random.default_rng(0)

    def fn(x):
        xp = namespace(x)
        return (xp.sin, xp.cos, xp.tanh, xp.exp, xp.sqrt)[draw.integers(5)](x)

    compiled = portnet.compile(fn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        results = [compiled(a(3)).tobytes() for _ in range(40)]
    assert len(set(results)) > 1


def test_warning_turned_into_an_error_changes_no_argument():
    compiled = portnet.compile(reads_float, donate=(0,))
    x = a(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="float"):
            compiled(x)
    np.testing.assert_array_equal(x, a(3))


# Impure functions and reported causes of eager runs ----------------------------------------------


def updates_a_local_array(x):
    w = np.ones(3)
    first = x * w
    w += 1
    return first + x * w


def branches_on_ndarray(x):
    return x * 2 if isinstance(x, np.ndarray) else x * 3


def multiplies_two_names_of_an_array(x):
    y = x[:3] * namespace(x).ones((3, 3))
    z = y
    y @= namespace(x).ones((3, 3))
    return z


@pytest.mark.parametrize(
    "fn", [updates_a_local_array, branches_on_ndarray, multiplies_two_names_of_an_array]
)
def test_functions_that_rely_on_numpy_arrays_are_replayed(fn):
    check(fn, a(3))


def updates_the_input_of_real(x):
    xp = namespace(x)
    y = x * 2
    z = xp.real(y)
    y += 1
    return z


def where_with_one_argument(x):
    return np.where(x > 2)[0]


@pytest.mark.parametrize(
    ("fn", "word"),
    [
        (updates_the_input_of_real, "in place (+=)"),
        (where_with_one_argument, "where with one argument"),
    ],
)
def test_unsupported_operation_runs_eagerly_and_is_named(fn, word):
    x = a(5)
    compiled = portnet.compile(fn)
    with one_warning(word):
        first = compiled(x)
    assert_same(first, fn(x))
    assert_same(compiled(x), fn(x))


def test_errstate_in_fn_runs_eagerly_and_is_named():
    def fn(x):
        with np.errstate(divide="ignore"):
            return 1.0 / x

    compiled, x = portnet.compile(fn), np.array([0.0, 1.0])
    with one_warning("np.errstate"):
        assert_same(compiled(x), fn(x))
    assert_same(compiled(x), fn(x))


def test_traced_array_kept_between_calls_raises():
    memo = {}

    def fn(x):
        if "w" not in memo:
            memo["w"] = x * 2
        return memo["w"] + x

    with pytest.raises(TypeError, match="kept: the function is not pure"):
        portnet.compile(fn)(a(2))


def test_results_in_a_dataclass_run_eagerly():
    compiled = portnet.compile(lambda x: PairDataclass(x + 1, x * 2))
    with one_warning("differ in the results"):
        result = compiled(a(3))
    np.testing.assert_array_equal(result.second, a(3) * 2)
