"""portnet.compile: the contract of calls, pytrees, donation, errors, threads, explain."""

import gc
import os
import pickle
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import checking
import numpy as np
import pytest
from checking import (
    LAYOUTS,
    CustomError,
    Pair,
    a,
    arrays,
    assert_close,
    check,
    check_memory,
    copies,
    data,
    line_of,
    not_donated,
    one_warning,
    reads_float,
    same_error,
    start,
)
from programs import assert_same, snapshot

import portnet
from portnet import tree
from portnet.backend import ShapeError, namespace
from portnet.losses import LOSSES

# Pytrees and Python values -----------------------------------------------------------------------


def test_pytree_arguments_and_results_keep_their_structure():
    def fn(pytree, pair, *more, **named):
        x, (y, none), table = pytree
        assert none is None
        assert isinstance(pair, Pair)
        out = {"z": x + y, "a": [table["k"] * 2.0, None, ()], "m": Pair(more[0], {"q": x})}
        return out, Pair(named["w"] - x, 3), [1.5, True, "text"], {}, ()

    args = ((a(3), [a(3), None], {"k": a(2), "b": 7}), Pair(a(1), None), a(2, 2))
    expected = fn(*args, w=a(3))
    compiled = portnet.compile(fn)
    for _ in range(3):
        assert_same(compiled(*args, w=a(3)), expected)


def test_single_array_none_empty_and_scalar_results():
    check(lambda x: x + 1.0, a(3))
    check(lambda x: None, a(3))
    check(lambda x: (), a(3))
    check(lambda x: 2.5, a(3))
    check(lambda x: (x.shape, x.ndim, x.size), a(3, 4))
    check(lambda x: namespace(x).ones(4), a(3))
    assert portnet.compile(lambda p, q: p + q)(1, 2) == 3
    assert portnet.compile(lambda: 3)() == 3


def test_default_and_keyword_arguments_equal_eager_calls():
    def fn(x, y=None, *, scale=2.0, bias=None):
        out = x * scale if y is None else x + y
        return out if bias is None else out - bias

    compiled = portnet.compile(fn, donate=(0,))
    x = a(3)
    for _ in range(2):
        assert_same(compiled(x.copy()), x * 2.0)
        assert_same(compiled(x.copy(), scale=3.0), x * 3.0)
        assert_same(compiled(x.copy(), x), x + x)
        assert_same(compiled(x.copy(), y=x), x + x)
        assert_same(compiled(x.copy(), bias=a(3), scale=1.0), x * 0.0)
        assert_same(compiled(x.copy(), scale=1.0, bias=a(3)), x * 0.0)
        assert_same(compiled(x=x.copy()), x * 2.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        compiled(x, nothing=1)
    with pytest.raises(TypeError, match="positional argument"):
        compiled()


def test_objects_methods_partials_and_builtins_can_be_compiled():
    class Model:
        def __init__(self, w):
            self.w = w

        def __call__(self, x):
            return x * self.w

    model = Model(a(3))
    for fn in (model, model.__call__, partial(lambda k, x: x * k, 2.0), abs):
        assert_same(portnet.compile(fn)(a(3)), fn(a(3)))


def test_nested_compiled_functions_equal_eager_calls():
    inner = portnet.compile(lambda x, y: (x * y, x + 1.0), donate=(0,))

    def outer(x, y):
        p, q = inner(x * 2.0, y)
        return namespace(x).exp(p) + q, x

    check(outer, a(3), a(3))
    twice = portnet.compile(portnet.compile(outer))
    assert_same(twice(a(3), a(3)), outer(a(3), a(3)))


@portnet.compile
def decorated(x):
    return x + 1


def test_decorated_methods_run_and_decorated_functions_pickle():
    class Scaled:
        @portnet.compile
        def times(self, x):
            return 2.0 * x

    with one_warning("an argument is a Scaled"):
        np.testing.assert_array_equal(Scaled().times(a(3)), 2.0 * a(3))
    again = pickle.loads(pickle.dumps(decorated))
    assert again is decorated
    np.testing.assert_array_equal(again(a(3)), a(3) + 1)


# Donation ----------------------------------------------------------------------------------------


PATTERNS = {
    "returned": lambda x, y: x,
    "returned twice": lambda x, y: (x, x),
    "both returned": lambda x, y: (x, y),
    "swapped": lambda x, y: (y, x),
    "transposed": lambda x, y: x.T,
    "both transposed and swapped": lambda x, y: (y.T, x.T),
    "sum and difference": lambda x, y: (x + y, x - y),
    "difference and sum": lambda x, y: (y - x, y + x),
    "plus its transpose": lambda x, y: x + x.T,
    "flipped": lambda x, y: namespace(x).flip(x),
    "difference from flipped": lambda x, y: x - namespace(x).flip(x, axis=0),
    "rows moved up": lambda x, y: namespace(x).concat([x[1:], x[:1]], axis=0),
    "rows moved down": lambda x, y: namespace(x).concat([x[-1:], x[:-1]], axis=0),
    "shifted slices": lambda x, y: (x[1:], x[:-1]),
    "slices and the whole": lambda x, y: (x[1:] + y[:-1], x, y * 2.0),
    "product": lambda x, y: x @ y,
    "product with itself": lambda x, y: (x @ x, x),
    "two products": lambda x, y: (x @ y, y @ x),
    "gradient step": lambda x, y: (x - 0.1 * y, y * 0.9 + x),
    "of intermediate results": lambda x, y: ((x + 1.0) * 2.0, (x + 1.0) * y),
    "of reductions": lambda x, y: (x - namespace(x).max(x, axis=0, keepdims=True), y + x[0, 0]),
    "reshaped": lambda x, y: namespace(x).reshape(namespace(x).reshape(x, (-1,))[::-1], x.shape),
    "one row broadcast": lambda x, y: namespace(x).broadcast_to(x[1:2, :], x.shape),
    "created": lambda x, y: (namespace(x).zeros_like(x), namespace(x).ones_like(y)),
    "taken": lambda x, y: namespace(x).take(x, namespace(x).asarray([2, 0, 1]), axis=0),
    "chosen": lambda x, y: namespace(x).where(y < x.T, x, y.T),
    "of the other argument": lambda x, y: (y + 1.0, y + 2.0, y + 3.0),
    "stacked": lambda x, y: (namespace(x).stack([x, y])[1], namespace(x).stack([y, x])[1]),
}


@pytest.mark.parametrize("donate", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("name", PATTERNS)
def test_donation_writes_only_to_donated_writable_arrays(name, donate):
    fn = PATTERNS[name]
    compiled = portnet.compile(fn, donate=donate)
    x, y = a(3, 3), a(3, 3, start=-2.0)
    history = []
    for _ in range(2):
        for layout in LAYOUTS.values():
            for other in (LAYOUTS["C"], layout):
                args = [layout(x), other(y)]
                expected = fn(*(p.copy() for p in args))
                held = [p for i, p in enumerate(args) if i not in donate or not p.flags.writeable]
                before = snapshot(held)
                result = compiled(*args)
                assert_same(result, expected)
                assert snapshot(held) == before
                check_memory(result, held)
                history.append((result, snapshot(arrays(result))))
    for result, then in history:
        assert snapshot(arrays(result)) == then


@pytest.mark.parametrize("donate", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("name", PATTERNS)
def test_donated_arguments_that_share_memory_equal_eager(name, donate):
    """The same array twice, overlapping slices in both orders, transposed and reversed views."""
    fn = PATTERNS[name]
    compiled = portnet.compile(fn, donate=donate)
    for _ in range(2):
        for share in (
            lambda m: (m[:3], m[:3]),
            lambda m: (m[:3], m[1:4]),
            lambda m: (m[1:4], m[:3]),
            lambda m: (m[:3], m[:3].T),
            lambda m: (m[:3], m[2::-1]),
            lambda m: (m[::2][:3], m[1::2][:3]),  # interleaved: no shared memory
        ):
            memory = a(7, 3)
            args = share(memory)
            expected = fn(*(p.copy() for p in args))
            held = not_donated(args, donate)
            before = snapshot(held)
            result = compiled(*args)
            assert_same(result, expected)
            assert snapshot(held) == before, "an argument that is not donated changed"
            check_memory(result, held)


def test_results_reuse_donated_memory():
    compiled = portnet.compile(lambda p, m, g: (p - 0.1 * g, 0.9 * m + g), donate=(0, 1))
    for _ in range(3):
        p, m, g = a(4, 5), a(4, 5, start=3.0), a(4, 5, start=-1.0)
        expected = (p - 0.1 * g, 0.9 * m + g)
        results = compiled(p, m, g)
        assert_same(results, expected)
        for result in results:
            assert np.shares_memory(result, p) or np.shares_memory(result, m)
        check_memory(results, [g])


def test_results_never_use_memory_that_is_not_donated():
    compiled = portnet.compile(lambda p, g: p - 0.1 * g, donate=())
    p, g = a(4, 5), a(4, 5)
    first = compiled(p, g)
    second = compiled(p, g)
    check_memory((first, second), [p, g])


def test_donated_pytrees_donate_all_their_arrays():
    fn = lambda params, g: {k: params[k] - g for k in params}  # noqa: E731
    compiled = portnet.compile(fn, donate=(0,))
    for _ in range(3):
        params = {"W": a(2, 3), "b": a(1, 3), "n": a(2, 3, dtype="float32")}
        expected = fn(copies(params), 0.5)
        result = compiled(params, 0.5)
        assert_same(result, expected)
        for k, p in params.items():
            assert np.shares_memory(result[k], p)


def test_results_kept_by_the_caller_survive_donation_of_others():
    """Donated results are fed back; results that the caller keeps do not change."""
    compiled = portnet.compile(lambda s, x: (s + x, s * 1.0), donate=(0,))
    s, t, kept = np.zeros((3, 4)), np.zeros((3, 4)), []
    for i in range(20):
        x = a(3, 4, start=i)
        s, before = compiled(s, x)
        t, before_eager = t + x, t * 1.0
        assert_same((s, before), (t, before_eager))
        kept.append((before, before_eager.copy()))
    for replayed, eager in kept:
        assert_same(replayed, eager)


def test_donation_of_keyword_and_missing_arguments_equals_eager():
    compiled = portnet.compile(lambda x, y=None: x + 1.0, donate=(0, 1))
    for _ in range(2):
        assert_same(compiled(a(3)), a(3) + 1.0)
        assert_same(compiled(x=a(3)), a(3) + 1.0)
        assert_same(compiled(a(3), y=a(3)), a(3) + 1.0)
        assert_same(compiled(a(3), 2.0), a(3) + 1.0)


def test_results_of_other_shape_or_dtype_than_donated_are_new():
    compiled = portnet.compile(
        lambda x: (x[:2], namespace(x).astype(x, namespace(x).float32)), donate=(0,)
    )
    for _ in range(2):
        x = a(3)
        result = compiled(x)
        assert_same(result, (a(3)[:2], a(3).astype("float32")))
        check_memory(result, [])


def test_donated_view_leaves_the_rest_of_its_base_unchanged():
    """Memory outside of a donated view does not change."""
    compiled = portnet.compile(lambda x: x * 2.0 + 1.0, donate=(0,))
    for view in (np.s_[1:4, 1:4], np.s_[::2, ::2], np.s_[::-2, 1:], np.s_[:, 2]):
        memory = a(6, 6)
        outside = np.ones((6, 6), bool)
        outside[view] = False
        expected = memory[view] * 2.0 + 1.0
        assert_same(compiled(memory[view]), expected)
        np.testing.assert_array_equal(memory[outside], a(6, 6)[outside])


def test_pytree_argument_that_overlaps_a_donated_one_is_not_written():
    compiled = portnet.compile(lambda x, pytree: (x + 1.0, pytree["w"][0] * 1.0), donate=(0,))
    for _ in range(2):
        memory = a(10)
        pytree = {"w": [memory[3:8]]}
        result = compiled(memory[:6], pytree)
        assert_same(result, (a(10)[:6] + 1.0, a(10)[3:8]))
        np.testing.assert_array_equal(pytree["w"][0], a(10)[3:8])
        check_memory(result, [pytree["w"][0]])
    twice = portnet.compile(lambda pytree: (pytree[0] + 1.0, pytree[1] + 2.0), donate=(0,))
    for _ in range(2):
        x = a(4)
        assert_same(twice([x, x]), (a(4) + 1.0, a(4) + 2.0))


def test_views_that_overlap_a_donated_argument_are_not_written():
    """Overlap is found whatever the `base` of the views is."""
    others = {
        "slice": lambda m: m[2:6],
        "slice of a slice": lambda m: m[1:][1:5],
        "buffer": lambda m: np.frombuffer(m.data)[2:6],
        "slice of a buffer": lambda m: np.frombuffer(memoryview(m))[1:][1:5],
        "strided": lambda m: np.lib.stride_tricks.as_strided(m[2:], (4,), (8,)),
        "slice of a strided": lambda m: np.lib.stride_tricks.as_strided(m, (8,), (8,))[2:6],
        "windows": lambda m: np.lib.stride_tricks.sliding_window_view(m, 4)[2],
        "other dtype": lambda m: m.view("int64")[2:6].view("float64"),
        "reshaped": lambda m: m.reshape(2, 4).reshape(-1)[2:6],
        "reversed": lambda m: m[5:1:-1][::-1],
        "subclass and back": lambda m: np.asarray(m.view(np.matrix).A1)[2:6],
    }
    fn = lambda x, y: (x * 2.0 + 1.0, y + 1.0, y)  # noqa: E731
    for piece in (lambda m: m, lambda m: m[:8], lambda m: m.reshape(8)[:]):
        compiled = portnet.compile(fn, donate=(0,))
        for _ in range(2):
            for name, other in others.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", PendingDeprecationWarning)
                    memory = a(8)
                    x, y = piece(memory), other(memory)
                assert np.shares_memory(x, y), name
                expected = fn(x.copy(), y.copy())
                result = compiled(x, y)
                assert_same(result, expected, where=name)
                np.testing.assert_array_equal(y, expected[2], err_msg=name)
                check_memory(result, [y])


def test_donated_array_made_read_only_between_calls_is_not_written():
    compiled = portnet.compile(lambda s: s + 1.0, donate=(0,))
    s = compiled(a(3))
    s = compiled(s)
    s.flags.writeable = False
    t = compiled(s)
    np.testing.assert_array_equal(s, a(3) + 2.0)
    assert_same(t, a(3) + 3.0)
    assert t.flags.writeable


def test_donating_the_same_array_repeatedly_equals_eager():
    """The caller refills the same array before each call."""
    compiled = portnet.compile(lambda s, x: (s[::-1] + x, s * 1.0), donate=(0,))
    s = np.empty(3)
    for i in range(4):
        s[:] = [i, 1.0, 2.0]
        assert_same(compiled(s, a(3)), (np.array([2.0, 1.0, i]) + a(3), np.array([i, 1.0, 2.0])))


def test_donation_in_an_eager_run_equals_eager():
    def fn(x, y):
        return (x + y, y) if float(y[0]) > 0 else (x - y, x)

    compiled = portnet.compile(fn, donate=(0,))
    with one_warning("float"):
        assert_same(compiled(a(3), a(3)), (a(3) + a(3), a(3)))
    y = -a(3)
    assert_same(compiled(a(3), y), (a(3) + a(3), a(3)))
    np.testing.assert_array_equal(y, -a(3))


def test_donate_accepts_only_nonnegative_integer_positions():
    for wrong in ("x", ("x",), (-1,), 0.5, (True,)):
        with pytest.raises((TypeError, ValueError)):
            portnet.compile(lambda x: x, donate=wrong)


# Errors raised by fn -----------------------------------------------------------------------------


def test_errors_raised_in_fn_propagate_unchanged():
    def fn(x, y):
        if x.shape != y.shape:
            raise CustomError(f"shapes {x.shape}, {y.shape}")
        return x + y

    compiled = portnet.compile(fn, donate=(0,))
    for _ in range(2):
        same_error(fn, compiled, a(3), a(4))
        assert_same(compiled(a(3), a(3)), a(3) + a(3))


def test_shape_errors_of_layers_losses_and_steps_equal_eager_errors():
    net, loss, optimizer = portnet.mlp([3, 8, 4]), LOSSES["squared_error"](), portnet.Adam()
    step = portnet.make_step(net, loss, optimizer)
    compiled = portnet.compile(step, donate=(0, 1))
    params, state = start(net, optimizer)
    x, y, w = data("squared_error", 6)
    for bad in ((x[:, :2], y), (x, y[:, :3]), (x, y.astype("float32")), (x, y, w[:4])):
        error = same_error(step, compiled, params, state, *bad)
        assert isinstance(error, ShapeError)
    wrong = (params[:1], *params[2:])
    same_error(step, compiled, wrong, state, x, y)
    assert_close(compiled(*copies((params, state)), x, y), step(params, state, x, y))


def test_notes_of_errors_are_added_once():
    def fn(pytree):
        return tree.map(lambda x: x @ np.ones((7, 2)), pytree)

    same_error(fn, portnet.compile(fn), {"W": a(2, 3)})


def test_numpy_errors_equal_eager_errors():
    broken = {
        "broadcast": lambda x: x + namespace(x).ones((5, 5)),
        "matmul": lambda x: x @ namespace(x).ones((7, 7)),
        "index": lambda x: x[10, 0],
        "many indices": lambda x: x[0, 0, 0],
        "reshape": lambda x: namespace(x).reshape(x, (5, 5)),
        "axis": lambda x: namespace(x).sum(x, axis=4),
        "concat": lambda x: namespace(x).concat([x, namespace(x).ones((9, 9))]),
        "squeeze": lambda x: namespace(x).squeeze(x, axis=0),
        "empty maximum": lambda x: namespace(x).max(x[:0]),
        "no argument": lambda x: namespace(x).sum(),
        "attribute": lambda x: x.not_an_attribute,
        "function": lambda x: namespace(x).not_a_function(x),
        "text": lambda x: x + "text",
        "none": lambda x: x * None,
    }
    for fn in broken.values():
        compiled = portnet.compile(fn)
        for _ in range(2):
            same_error(fn, compiled, a(2, 3))


def test_python_integers_out_of_range_raise_the_eager_errors():
    x = a(3, dtype="uint8")
    for fn in (lambda x: x + 300, lambda x: x * -1, lambda x: 256 - x, lambda x: x & 1000):
        same_error(fn, portnet.compile(fn), x)
    same_error(lambda x, k: x + k, portnet.compile(lambda x, k: x + k), a(3, dtype="int32"), 2**40)
    check(lambda x: (x < 300, x == -1, x >= -5), x)
    with np.errstate(all="ignore"):
        check(lambda x: (x * 1e300, x + 2**40), a(3, dtype="float32"))


def test_out_of_bounds_indices_raise_the_eager_errors():
    """Indices are checked in every call, as by NumPy."""

    def fn(x, i):
        return namespace(x).take(x, i, axis=0)

    compiled = portnet.compile(fn)
    good, bad = np.array([0, 2]), np.array([0, 7])
    assert_same(compiled(a(3), good), a(3)[good])
    same_error(fn, compiled, a(3), bad)
    assert_same(compiled(a(3), good), a(3)[good])


def test_keyboard_interrupt_in_fn_propagates():
    def fn(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        portnet.compile(fn)(a(3))


# Threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("size", [4, 120])
def test_concurrent_calls_of_eight_threads_equal_eager_calls(size, warm):
    def fn(state, x):
        xp = namespace(state, x)
        h = xp.tanh(x @ state)
        return state - 0.01 * (xp.matrix_transpose(x) @ h), xp.max(h, axis=0)

    compiled = portnet.compile(fn, donate=(0,))
    if warm:
        compiled(np.eye(size), a(size, size) * 1e-4)
    barrier = threading.Barrier(8)

    def work(i):
        x = np.random.default_rng(i).standard_normal((size, size)) / size
        eager = replayed = np.eye(size) * (i + 1)
        eager, replayed = eager.copy(), replayed.copy()
        barrier.wait()
        kept = []
        for _ in range(50):
            eager, top = fn(eager, x)
            replayed, replayed_top = compiled(replayed, x)
            kept.append((replayed_top, top))
        assert_same(replayed, eager)
        for actual, expected in kept:
            assert_same(actual, expected)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, i) for i in range(8)]:
            done.result()


def test_concurrent_calls_with_different_shapes_equal_eager_calls():
    compiled = portnet.compile(lambda x: (x * 2.0, namespace(x).flip(x)))
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait()
        for k in range(50):
            x = a((i + k) % 12, start=i)
            assert_same(compiled(x), (x * 2.0, x[::-1]))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, i) for i in range(8)]:
            done.result()


# Floating-point errors and warnings --------------------------------------------------------------


def test_numpy_replay_raises_floating_point_errors_as_eager_calls(monkeypatch):
    monkeypatch.setenv(
        "PORTNET_NATIVE", "never"
    )  # machine code reports none: native/test_lowering.py
    fn = lambda x, y: namespace(x).exp(x / y) + 1.0  # noqa: E731
    compiled = portnet.compile(fn, donate=())
    good, bad = (a(3), a(3)), (a(3), np.zeros(3))
    for _ in range(2):
        assert_same(compiled(*good), fn(*good))
        with np.errstate(all="raise"):
            assert_same(compiled(*good), fn(*good))
            same_error(fn, compiled, *bad)
            assert_same(compiled(*good), fn(*good))
        with np.errstate(all="ignore"):
            assert_same(compiled(*bad), fn(*bad))
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        portnet.compile(fn)(*bad)  # in the first call


def test_numpy_replay_gives_floating_point_warnings_as_eager_calls(monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "never")
    compiled = portnet.compile(lambda x: namespace(x).log(x))
    assert_same(compiled(a(3)), np.log(a(3)))
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="divide by zero"):
            assert compiled(np.zeros(3))[0] == -np.inf


def test_tracing_and_dead_operations_do_not_warn():
    def fn(x):
        xp = namespace(x)
        xp.log(x)  # unused, and without values when traced
        return xp.sqrt(x) / xp.sum(x)

    check(fn, a(3))


# explain and release -----------------------------------------------------------------------------


def test_explain_prints_the_plan(capsys):
    def fn(x, y):
        xp = namespace(x)
        xp.sin(x)  # dead
        return x * y + 1.0, x * y - 1.0

    compiled = portnet.compile(fn, donate=(0,))
    x = a(3)
    compiled.explain(x, a(3))
    text = capsys.readouterr().out.lower()
    for word in ("operation", "group", "buffer", "byte"):
        assert word in text, text
    np.testing.assert_array_equal(x, a(3))
    assert_same(compiled(x, a(3)), fn(a(3), a(3)))


def test_explain_fits_on_a_page_and_prints_the_source_on_request(capsys):
    net, adam = portnet.mlp([20, 64, 64, 64, 64, 64, 3]), portnet.Adam()
    step = portnet.compile(portnet.make_step(net, portnet.SquaredError(), adam), donate=(0, 1))
    params = portnet.init(net)
    args = params, adam.init(params), np.ones((50, 20), np.float32), np.ones((50, 3), np.float32)
    step.explain(*args)
    page = capsys.readouterr().out
    assert len(page.splitlines()) < 60
    assert "def replay" not in page
    assert "5 x (50, 64)" in page
    step.explain(*args, source=True)
    longer = capsys.readouterr().out
    assert longer.startswith(page)
    assert "def replay" in longer
    compile(longer.partition("\n\n")[2], "generated", "exec")


def test_source_of_explain_is_not_an_argument_of_the_function(capsys):
    compiled = portnet.compile(lambda x, source: x + source)
    compiled.explain(a(3), a(3))
    compiled.explain(a(3), a(3), source=True)
    assert capsys.readouterr().out.count("def replay") == 1
    with pytest.raises(TypeError, match="`source` of the function is given by position"):
        compiled.explain(a(3), source=a(3))


def test_explain_names_the_cause_and_line_of_an_eager_run(capsys):
    compiled = portnet.compile(reads_float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        compiled.explain(a(3))
    text = capsys.readouterr().out
    assert "eager" in text.lower()
    assert "float" in text
    assert os.path.basename(checking.__file__) in text
    assert str(line_of(reads_float)) in text


def test_release_frees_buffers_and_later_calls_work():
    compiled = portnet.compile(lambda x: namespace(x).sum(namespace(x).exp(x) * x))
    x = np.linspace(0, 1, 300_000)
    compiled(x)
    (way,) = compiled._entries.values()
    buffers = weakref.ref(way.pool[0])
    compiled.release()
    gc.collect()
    assert buffers() is None
    compiled(x)
