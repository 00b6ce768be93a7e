"""Machine code: results equal NumPy's bit for bit, and compilation starts when it pays.

Everything here is compiled at its first call (PORTNET_NATIVE=always). The reference is the replay
by NumPy's calls, or eager NumPy: bit for bit, except for the order of the terms in a mean or a sum
of random programs (`programs.py`).
"""

import itertools
import platform
import warnings
from collections import OrderedDict

import numpy as np
import programs as pg
import pytest
from checking import (
    BLOCKS,
    FAULT_SEARCH,
    STEPS,
    chain_of_sums,
    check_groups_equal_eager,
    check_replay_equals_eager,
    check_steps_equal_eager,
    set_block_size,
)
from custom import Square
from hypothesis import given, settings
from machine_code import assert_bits, executable_of, numpy_and_native_results

import portnet
from portnet import tree
from portnet.backend import namespace
from portnet.compiler import CompileWarning, native_policy, planner
from portnet.compiler.native import llvm, llvm_ir, lowering
from portnet.compiler.numpy_codegen import NumPyCodegen
from portnet.compiler.simplify import simplify
from portnet.engine import compile_cache
from portnet.layers import ACTIVATIONS
from portnet.losses import LOSSES

pytest.importorskip("llvmlite", reason="the extra `native` is not installed")
pytestmark = pytest.mark.usefixtures("compile_at_first_call")


# Bitwise equality --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [None, *BLOCKS])
def test_random_programs_equal_eager_calls(block, monkeypatch):
    if block:
        set_block_size(monkeypatch, block)
    settings(FAULT_SEARCH, max_examples=60)(given(pg.programs())(check_replay_equals_eager))()


@pytest.mark.parametrize("block", [None, 3])
def test_groups_equal_eager_calls(block, monkeypatch):
    if block:
        set_block_size(monkeypatch, block)
    check_groups_equal_eager()


@pytest.mark.parametrize(("name", "block"), [*((n, None) for n in STEPS), ("adam", 5)])
def test_epochs_of_every_optimizer_equal_eager_epochs_bit_for_bit(name, block, monkeypatch):
    if block:
        set_block_size(monkeypatch, block)
    check_steps_equal_eager(STEPS[name])
    check_steps_equal_eager(STEPS[name], "float32", dropout=0.0)


def assert_native(monkeypatch, fn, *args, donate=(), left=0):
    """Return the results of machine code; fail unless they equal NumPy's bit for bit.

    At most `left` operations of fn may not be machine code.
    """
    by_calls, by_code, way = numpy_and_native_results(monkeypatch, fn, *args, donate=donate)
    assert_bits(by_code, by_calls, way.native)
    done, _, all_ = way.native.partition(" operations")[0].partition(" of ")
    assert int(all_ or 0) - int(done or 0) <= left, way.explain()
    return by_code


def data(loss, rows, dtype):
    draw = np.random.default_rng(rows)
    x = draw.standard_normal((rows, 5)).astype(dtype)
    if "cross_entropy" in loss:
        if "sigmoid" in loss:
            return x, draw.integers(0, 2, (rows, 1)).astype(dtype)
        return x, draw.integers(0, 3, rows)
    return x, np.abs(draw.standard_normal((rows, 3))).astype(dtype)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_steps_of_every_activation_and_loss_equal_numpy_calls(activation, loss, monkeypatch):
    x, y = data(loss, 9, "float32")
    net = portnet.mlp([5, 8, 7, 1 if "sigmoid" in loss else 3], activation)
    params = portnet.init(net, seed=1, like=x)
    adam = portnet.Adam()
    step = portnet.make_step(net, LOSSES[loss](), adam)
    assert_native(monkeypatch, step, params, adam.init(params), x, y, donate=(0, 1), left=99)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("name", ["sum", "max", "min", "prod", "mean"])
def test_reductions_equal_numpy_bit_for_bit(name, dtype, monkeypatch):
    if name == "mean" and "int" in dtype:
        pytest.skip("the standard has means of floats only")

    def fn(x):
        reduce = getattr(namespace(x), name)
        axes = [None, *range(x.ndim), *([(0, 1), (1, 2), (0, 2)] if x.ndim > 2 else [])]
        return [reduce(x, axis=a, keepdims=k) for a in axes for k in (False, True)]

    draw = np.random.default_rng(0)
    shapes = [
        (1,),
        (7,),
        (8,),
        (130,),
        (9, 1),
        (1, 9),
        (5, 7),
        (3, 8),
        (40, 65),
        (65, 3),
        (4, 5, 6),
    ]
    for shape in shapes:
        x = draw.uniform(0.5, 1.5, shape) * (draw.choice([-1, 1], shape) if name != "prod" else 1)
        x = (x * (1 if "float" in dtype else 3)).astype(dtype)
        assert_bits(assert_native(monkeypatch, fn, x, left=99), fn(x), f"{name} of {shape}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matmul_equals_numpy_bit_for_bit(dtype, monkeypatch):
    """All shapes for which NumPy calls another BLAS function, and all memory layouts."""

    def fn(a, *matrices):
        xp = namespace(a)
        a = a * 2.0  # products of arguments stay NumPy's, as their layout varies
        left = xp.matrix_transpose(a)
        again = xp.matrix_transpose(left * 0.5)  # column-major
        products = [xp.matmul(a, left), xp.matmul(left, a)]  # these stay NumPy's calls
        for b in matrices:
            b = b * 2.0
            products += [xp.matmul(a, b), xp.matmul(xp.matrix_transpose(b), left)]
            products += [xp.matmul(again, b), xp.matmul(a[1:, :], b), xp.matmul(a, b[:, :1])]
        return products

    draw = np.random.default_rng(0)
    for m, k in itertools.product([1, 2, 5, 33], [1, 2, 17]):
        a, *matrices = (draw.standard_normal(s).astype(dtype) for s in [(m, k), (k, 1), (k, 16)])
        # NumPy's calls: A @ A.T; b with gaps; if m or k is 1, a scalar times a row, and the like.
        left = 4 if min(m, k) > 1 else 99
        results = assert_native(monkeypatch, fn, a, *matrices, left=left)
        # In the eager call, left is column-major.
        for one, eager in zip(results, fn(a, *matrices), strict=True):
            np.testing.assert_allclose(one, eager, rtol=1e-4 if a.itemsize == 4 else 1e-12)


SPECIAL = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-310, 3e38, 0.1, 7.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_pair_of_special_values_equals_numpy(dtype, monkeypatch):
    def fn(x, y):
        xp = namespace(x, y)
        pairs = [x + y, x - y, x * y, x / y, xp.maximum(x, y), xp.minimum(x, y)]
        pairs += [x > y, x >= y, x < y, x <= y, x == y, x != y, xp.where(x > y, x, y)]
        alone = [-x, xp.abs(x), xp.square(x), xp.sqrt(x), xp.reciprocal(x), +x]
        alone += [xp.isnan(x), xp.isfinite(x), xp.isinf(x), xp.sign(x), xp.exp(-x), xp.tanh(-x)]
        casts = [xp.astype(x, xp.float32), xp.astype(x, xp.float64), xp.astype(x != 0, x.dtype)]
        return [*pairs, *alone, *casts, xp.logical_not(x > y), (x > 0) & (y > 0), (x > 0) ^ (y > 0)]

    x, y = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL))
    with np.errstate(all="ignore"):
        x, y = x.astype(dtype), y.astype(dtype)
        for n in (3, len(x)):  # isinf and sign of an argument stay NumPy's calls
            assert_native(monkeypatch, fn, x[:n], y[:n], left=2)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_integer_overflow_wraps_as_in_numpy(dtype, monkeypatch):
    def fn(x, y):
        xp = namespace(x, y)
        sums = [x + y, x - y, x * y, x & y, x | y, x ^ y, x << 3, x >> 2, ~x, -x, abs(x)]
        compared = [x > y, x <= y, x == y, xp.maximum(x, y)]
        casts = [xp.astype(x, t) for t in (xp.int64, xp.uint32, xp.int8, xp.float32, xp.bool)]
        return [*sums, *compared, *casts, x // 3, x % 5]

    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    numbers = np.array([low, low + 1, 0, 1, 2, 3, high // 3, high - 1, high], dtype)
    x, y = (a.ravel() for a in np.meshgrid(numbers, numbers))
    assert_native(monkeypatch, fn, x, y, left=99)


def test_broadcast_transposed_and_sliced_operands_equal_numpy(monkeypatch):
    """Rows, columns, scalars, transposed and reversed views, and three axes."""

    def fn(x, row, column, one):
        xp = namespace(x)
        h = x * 2.0
        rest = [h + row, column * h, h - one, xp.matrix_transpose(h) * 3.0, h[::-1, :] + x]
        rest += [h[:, 1:] - h[:, :-1], h[::2, ::2] * one, xp.broadcast_to(row, x.shape) * h]
        cube = xp.reshape(h, (2, 3, 4)) + xp.permute_dims(xp.reshape(x, (3, 4, 2)), (2, 0, 1))
        return [*rest, cube, xp.concat([h, x], axis=1), xp.concat([x, h, x], axis=0)]

    x = np.arange(24.0).reshape(6, 4)
    args = x, np.arange(4.0), np.arange(6.0).reshape(6, 1), np.array(0.3)
    assert_native(monkeypatch, fn, *args, left=99)
    assert_native(monkeypatch, fn, np.asfortranarray(x), *args[1:], left=99)


def test_donated_state_over_100_calls_equals_eager(monkeypatch):
    """A hundred calls, each with the results of the last; results that are kept do not change."""
    step = lambda p, g: (p - 0.1 * namespace(p).tanh(p) * g, namespace(p).sum(p * g))  # noqa: E731
    native, draw = portnet.compile(step, donate=(0,)), np.random.default_rng(0)
    p = q = draw.standard_normal((3, 4))
    p = p.copy()
    kept = []
    for _ in range(100):
        g = draw.standard_normal((3, 4))
        (p, total), (q, expected) = native(p, g), step(q, g)
        assert_bits([p], [q])
        np.testing.assert_allclose(total, expected, rtol=1e-13)
        kept.append((total, total.copy()))
    for total, copy in kept:
        assert total == copy


@pytest.mark.parametrize("kind", ["int8", "int32", "int64"])
def test_signed_with_unsigned_integers_equal_numpy(kind, monkeypatch):
    def fn(x, y):
        return [x < y, x == y, x >= y, x != y, x * 2 > y, x + 1 <= y]

    x, y = np.array([-1, -1, 3], kind), np.array([5, 2**64 - 1, 2], np.uint64)
    assert_bits(assert_native(monkeypatch, fn, x, y, left=99), fn(x, y))


def test_equal_constants_of_different_layouts_stay_distinct(monkeypatch):
    C = np.array([[1.0, 2], [3, 4]])
    F = np.asfortranarray(C)
    fn = lambda x: (x + F, (x * 2) * C, x - C[::-1], x / F[::-1], (x * 3) * C.T.copy().T)  # noqa: E731
    x = np.ones((2, 2))
    assert_bits(assert_native(monkeypatch, fn, x), fn(x))


@pytest.mark.parametrize("kind", ["int32", "uint32", "int64"])
def test_shifts_by_all_bits_and_more_equal_numpy(kind, monkeypatch):
    x = np.array([1, 2**31 - 1, 5], kind)
    bits = 8 * x.itemsize
    fn = lambda x: [x << bits - 1, x << bits, x >> bits + 1, x >> bits - 1]  # noqa: E731
    assert_bits(assert_native(monkeypatch, fn, x, left=99), fn(x))


def test_negative_powers_of_integers_raise_as_in_numpy():
    with pytest.raises(ValueError, match="negative integer powers"):
        portnet.compile(lambda x, y: x**y)(np.array([2, 3]), np.array([1, -1]))


@pytest.mark.parametrize("dtype", ["float16", "complex64", "complex128", "longdouble"])
def test_dtypes_without_machine_code_equal_numpy(dtype, monkeypatch):
    def fn(x):
        xp = namespace(x)
        y = x * 2
        return [xp.concat([x, y, y + 1], axis=0), xp.sum(y, axis=0), xp.exp(y), xp.sum(x), -y]

    x = (np.arange(12.0).reshape(4, 3) / 7).astype(dtype)
    for got, e in zip(portnet.compile(fn)(x), fn(x), strict=True):
        np.testing.assert_array_equal(got, e)


SIZES = [*range(1, 18), 31, 33, 63, 65]


def ragged(x, w):
    """Operations of every kind, on any number of rows and columns."""
    xp = namespace(x)
    h = xp.tanh(xp.matmul(x * 0.5, w))
    shifted = h - xp.max(h, axis=1, keepdims=True)
    e = xp.exp(shifted)
    p = e / xp.sum(e, axis=1, keepdims=True)
    dx = xp.matmul(p * (h > 0), xp.matrix_transpose(w * 2.0))
    moved = xp.sqrt(xp.maximum(dx, 0.0)) / xp.maximum(xp.abs(x), 0.25) + xp.log1p(x * x)
    ends = [xp.sum(moved, axis=0), xp.min(moved, axis=0), xp.mean(moved * x), xp.sum(p, axis=0)]
    return [h, p, dx, moved, xp.where(x > 0, 1.0 / x, x), (x * x + 0.5) ** 0.5, *ends]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ragged_sizes_equal_the_replay_bit_for_bit(dtype, monkeypatch):
    draw = np.random.default_rng(0)
    for i, n in enumerate(SIZES):
        for rows, columns in ((n, SIZES[i * 5 % len(SIZES)]), (SIZES[i * 8 % len(SIZES)], n)):
            x = draw.standard_normal((rows, columns)).astype(dtype)
            w = draw.standard_normal((columns, SIZES[i * 3 % len(SIZES)])).astype(dtype)
            with np.errstate(all="raise", under="ignore"):
                results = assert_native(monkeypatch, ragged, x, w, left=99)
                for a, b in zip(results, ragged(x, w), strict=True):
                    np.testing.assert_allclose(a, b, rtol=2e-5 if dtype == "float32" else 1e-11)


FUNCTIONS = ["exp", "expm1", "log", "log1p", "sqrt", "tanh", "sin", "cos", "sinh", "log2"]


def assert_strided(monkeypatch, fn, *args):
    """Return the results for arguments in their own layout; they equal NumPy's calls bit for bit."""
    with monkeypatch.context() as m:
        m.setenv("PORTNET_NATIVE", "never")
        by_calls = portnet.compile(fn)(*args)
    by_code = portnet.compile(fn)(*args)
    assert_bits(by_code, by_calls)
    return by_code


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [5, 64, 1000])
def test_strided_arguments_equal_eager_calls_bit_for_bit(n, dtype, monkeypatch):
    """NumPy's functions may round differently for negative strides or gaps between elements."""
    x = np.random.default_rng(n).uniform(0.1, 2, (n, 7)).astype(dtype)
    views = [x[::-1, 0], x[::2, :], x.T, x[:, 3], x[::-1, ::-1], np.asfortranarray(x)]

    def fn(x):
        xp = namespace(x)
        sums = [xp.sum(x, axis=a) for a in range(x.ndim)]
        return [*(getattr(xp, f)(x) for f in FUNCTIONS), x**x, *sums, xp.max(x, axis=0)]

    for view in views:
        assert_bits(assert_strided(monkeypatch, fn, view), fn(view))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [2, 0.5, -1, 3.0, 2.5])
def test_powers_equal_eager_bit_for_bit_or_within_one_ulp_for_0d(exponent, dtype, monkeypatch):
    draw = np.random.default_rng(0).uniform(0.1, 2, 200).astype(dtype)
    e = np.asarray(exponent, dtype)
    shapes = [draw, draw[:1], draw[:1].reshape(1, 1), draw[:6].reshape(2, 3)]
    for x in shapes:
        for exponents in (e, np.full(1, e), np.full(x.shape, e)):
            fn = lambda x, e: [x**exponent, (x * 2.0) ** e, (x * 2.0) ** (e * 2.0)]  # noqa: E731
            assert_bits(assert_strided(monkeypatch, fn, x, exponents), fn(x, exponents))
    fn = lambda x, e: [x**exponent, (x * 2.0) ** exponent, (x * 2.0) ** e]  # noqa: E731
    native = portnet.compile(fn)
    with monkeypatch.context() as m:
        m.setenv("PORTNET_NATIVE", "never")
        replay = portnet.compile(fn)
        replay(draw[0, ...], e)
    for i in range(100):
        x = draw[i, ...]
        got = native(x, e)
        assert_bits(got, replay(x, e))
        assert_bits(got[:1], [np.asarray(x**exponent)])
        np.testing.assert_array_max_ulp(np.array(got), np.array(fn(x, e)), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_max_of_positive_and_negative_zeros_keeps_the_sign(dtype, monkeypatch):
    def fn(x):
        xp = namespace(x)
        largest = [xp.max(x * 2.0, axis=a) for a in (0, 1)]
        both = [xp.maximum(x, x[::-1, :]), xp.minimum(x, 0.0), xp.maximum(0.0 * x, x)]
        return [*largest, *both, xp.min(x * 2.0, axis=1)]

    draw = np.random.default_rng(0)
    for n in SIZES:
        x = draw.choice([0.0, -0.0], (40, n)).astype(dtype)
        assert_bits(assert_native(monkeypatch, fn, x, left=99), fn(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*STEPS, "inverse decay"])
def test_fits_are_equal_bit_for_bit_with_and_without_machine_code(name, dtype, monkeypatch):
    portnet.set_backend("numpy", dtype=dtype)
    draw = np.random.default_rng(0)
    X, y = draw.standard_normal((70, 4)), draw.integers(0, 3, 70)
    decay = portnet.SGD(portnet.InverseDecay(0.1, 5, 0.5))
    net = portnet.mlp([4, 8, 3], "silu", dropout=0.1, norm="layer")
    ends = []
    for mode in ("never", "always", "auto", "auto"):
        monkeypatch.setenv("PORTNET_NATIVE", mode)
        trainer = portnet.Trainer(
            net, "softmax_cross_entropy", STEPS.get(name, decay), batch_size=9, seed=0
        )
        run = trainer.fit(X, y, epochs=8, progress=False)
        run = run.fit(X, y, epochs=8, progress=False)
        ends.append([*tree.leaves(run.params), np.array(run.history["loss"])])
    for other in ends[1:]:
        assert_bits(other, ends[0])


def test_machine_code_that_starts_within_a_fit_changes_no_result(monkeypatch):
    """Compare two equal fits, and 150 + 150 epochs with 300; machine code starts in between."""
    monkeypatch.setenv("PORTNET_NATIVE", "auto")
    portnet.set_backend("numpy", dtype="float64")
    X, y = np.random.default_rng(0).standard_normal((2, 200, 10))
    optimizer = portnet.SGD(portnet.InverseDecay(0.1, 5, 0.5))
    trainer = portnet.Trainer(
        portnet.mlp([10, 24, 10], "tanh"), "squared_error", optimizer, batch_size=8, seed=0
    )
    first = trainer.fit(X, y, epochs=300, progress=False)
    assert any(w.scanned for fn in compile_cache._kept.values() for w in fn._entries.values())
    again = trainer.fit(X, y, epochs=300, progress=False)
    halves = trainer.fit(X, y, epochs=150, progress=False).fit(X, y, epochs=150, progress=False)
    assert_bits(tree.leaves(again.params), tree.leaves(first.params))
    assert_bits(tree.leaves(halves.params), tree.leaves(first.params))


def test_equal_classifiers_are_equal_bit_for_bit(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.setenv("PORTNET_NATIVE", "auto")
    draw = np.random.default_rng(0)
    X, y = draw.standard_normal((100, 5)), draw.integers(0, 2, 100)
    fits = [
        portnet.MLPClassifier(
            random_state=0, batch_size=10, max_iter=200, tol=0.0, n_iter_no_change=999
        )
        for _ in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ConvergenceWarning
        a, b = (tree.leaves((f.fit(X, y).coefs_, f.intercepts_)) for f in fits)
    assert_bits(a, b)


# Start of compilation ----------------------------------------------------------------------------


def test_auto_compiles_when_it_pays_and_changes_no_result(monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "auto")
    compiled = portnet.compile(lambda x: namespace(x).exp(x) * 2.0 + x**0.5)
    x = np.linspace(0, 1, 2**19)
    results = [compiled(x)]
    way = executable_of(compiled)
    assert 1 < way.calls_left < 2000
    while way.calls_left > 0:
        assert not way.native
        results = [results[0], compiled(x)]
    assert way.native
    assert_bits([*results, compiled(x)], results[:1] * 3)


def test_never_compiles_no_machine_code(monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "never")
    compiled = portnet.compile(lambda x: x * 2.0 + 1.0)
    compiled(np.ones(10**6))
    assert executable_of(compiled).calls_left == np.inf
    assert not executable_of(compiled).native


def test_unknown_value_of_portnet_native_raises(monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "yes")
    with pytest.raises(
        ValueError, match=r"PORTNET_NATIVE: expected always, never or auto, got 'yes'"
    ):
        portnet.compile(lambda x: x * 2.0)(np.ones(3))


def test_fit_follows_portnet_native_after_an_equal_fit(monkeypatch):
    X, y = np.random.default_rng(0).standard_normal((2, 40, 3))
    runs = []
    for mode in ("never", "always"):
        monkeypatch.setenv("PORTNET_NATIVE", mode)
        trainer = portnet.Trainer(portnet.mlp([3, 4, 3], "tanh"), "squared_error", seed=0)
        runs.append(trainer.fit(X, y, epochs=2, progress=False))
        compiled = [fn for key, fn in compile_cache._kept.items() if key[-1] == mode]
        assert any(w.scanned == (mode == "always") for f in compiled for w in f._entries.values())
    assert_bits(*(tree.leaves(run.params) for run in runs))


def test_pays_after_depends_on_the_size_of_the_work():
    small = planner.traced(lambda x: x * 2.0, [((10,), np.dtype(float))], lambda t: (t, {}))
    calls = [
        native_policy.pays_after(planner.make(simplify(p), 1, []))
        for p in (
            small,
            planner.traced(lambda x: x * 2.0, [((10**7,), np.dtype(float))], lambda t: (t, {})),
            planner.traced(lambda x: x[1:], [((10,), np.dtype(float))], lambda t: (t, {})),
        )
    ]
    assert calls[0] > 10_000 > 100 > calls[1] > 0
    assert calls[2] == np.inf  # never, as there is nothing to compile
    enormous = [((10**12,), np.dtype(float))]
    large = planner.traced(lambda x: x * 2.0, enormous, lambda t: (t, {}))
    assert native_policy.pays_after(planner.make(simplify(large), 1, [])) == 1


def test_machine_code_without_llvmlite_raises_or_is_skipped(monkeypatch):
    native_policy.why_no_machine_code.cache_clear()
    monkeypatch.setattr(native_policy.importlib.util, "find_spec", lambda name: None)
    try:
        compiled = portnet.compile(lambda x: x + 1.0)
        with pytest.raises(ValueError, match=r"no machine code here: llvmlite is not installed"):
            compiled(np.ones(3))
        monkeypatch.setenv("PORTNET_NATIVE", "auto")
        compiled(np.ones(3))
        assert executable_of(compiled).calls_left == np.inf
    finally:
        native_policy.why_no_machine_code.cache_clear()


def test_failure_of_llvm_warns_and_falls_back_to_numpy(monkeypatch):

    def fails(functions, segments):
        raise RuntimeError("no such processor")

    monkeypatch.setattr(lowering, "machine_code", fails)
    compiled = portnet.compile(lambda x: x * 2.0 + 1.0)
    with pytest.warns(CompileWarning, match=r"NumPy goes on: RuntimeError: no such processor"):
        np.testing.assert_array_equal(compiled(np.arange(3.0)), [1, 3, 5])
    np.testing.assert_array_equal(compiled(np.arange(3.0)), [1, 3, 5])
    assert "segment0" not in executable_of(compiled).explain(source=True)


def test_unknown_portnet_native_cpu_raises(monkeypatch):
    """LLVM itself would abort the process."""
    from llvmlite import binding

    monkeypatch.setenv("PORTNET_NATIVE", "always")
    monkeypatch.setenv("PORTNET_NATIVE_CPU", "nonsense")
    compiled = portnet.compile(lambda x: x * 3.0 + 1.0)
    message = r"^PORTNET_NATIVE_CPU: expected LLVM's name of .* got 'nonsense': "
    with pytest.raises(ValueError, match=message):
        compiled(np.arange(3.0))
    monkeypatch.setenv("PORTNET_NATIVE_CPU", str(binding.get_host_cpu_name()))
    np.testing.assert_array_equal(compiled(np.arange(3.0)), [1, 4, 7])
    assert "segment0" in executable_of(compiled).explain(source=True)


def test_explain_lists_the_machine_code_functions(capsys):
    fn = portnet.compile(lambda x: namespace(x).exp(-x) * 2.0 + namespace(x).argmax(x, axis=0))
    x = np.ones((3, 4))
    fn(x)
    fn.explain(x)
    text = capsys.readouterr().out
    assert "4 of 5 operations are machine code, in 2 functions" in text
    assert "segment0" not in text
    fn.explain(x, source=True)
    longer = capsys.readouterr().out
    assert longer.startswith(text)
    assert "segment0(table)" in longer


@pytest.mark.parametrize("cpu", ["x86-64", "generic"])
def test_portnet_native_cpu_sets_the_target_processor(cpu, monkeypatch):
    if (cpu == "x86-64") != (platform.machine() == "x86_64"):
        pytest.skip(f"{cpu} is no target on {platform.machine()}")

    compiled, whole = [], llvm.compiled
    monkeypatch.setattr(llvm, "compiled", lambda text, to: compiled.append(to) or whole(text, to))
    monkeypatch.setenv("PORTNET_NATIVE_CPU", cpu)
    monkeypatch.setenv("PORTNET_CACHE", "0")
    assert_native(monkeypatch, lambda x: x * 2.0 + namespace(x).exp(-x), np.arange(9.0))
    assert compiled == [cpu]


def test_machine_code_compiled_during_a_call_is_kept(monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "auto")
    compiled = portnet.compile(lambda x: 1.0 / x + namespace(x).exp(x))
    x = np.ones(8000)
    compiled(x)
    way = executable_of(compiled)

    def again(*args):
        with np.errstate(all="ignore"):
            while not way.native:
                compiled(x)

    with np.errstate(divide="call", call=again):
        compiled(np.zeros(8000))
    assert ["segment0" in replay.names for replay in way.pool] == [True]


def test_machine_code_is_released_with_its_function():
    """Machine code lives as long as its function, and is released with it."""
    for _ in range(30):
        portnet.compile(lambda x: x * 2.0 - 1.0)(np.ones(5))
    kept = [portnet.compile(lambda x, i=i: x * float(i)) for i in range(10)]
    for _ in range(3):
        assert [fn(np.ones(2))[0] for fn in kept] == list(range(10))


def test_calls_from_several_threads_equal_serial_calls():
    from concurrent.futures import ThreadPoolExecutor

    compiled = portnet.compile(chain_of_sums)
    draw = np.random.default_rng(0)
    xs = draw.standard_normal((16, 2, 64, 5))
    expected = [compiled(*x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, e in zip(pool.map(lambda x: compiled(*x), xs), expected, strict=True):
                assert_bits(got, e)


# Floating-point errors ---------------------------------------------------------------------------


HIDDEN = {  # floating-point errors in lanes that are not selected or padding
    "sqrt": lambda x: namespace(x).sqrt(namespace(x).maximum(x, 0.0)),
    "divide": lambda x: 1.0 / namespace(x).maximum(x, 1.0),
    "where": lambda x: 1.0 / namespace(x).where(x > 0, x, 1.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", HIDDEN)
def test_no_spurious_floating_point_errors_are_reported(name, dtype, monkeypatch):
    for n in SIZES:
        x = np.linspace(-2, 2, n).astype(dtype)
        with np.errstate(all="raise"):
            assert_native(monkeypatch, HIDDEN[name], x)
            assert np.add(x, x).shape == x.shape  # no error flag is left for NumPy's next call


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_any_number_of_rows_does_not_warn(dtype, monkeypatch):
    loss = portnet.SoftmaxCrossEntropy()
    for n in SIZES:
        pred = np.linspace(-2, 2, 3 * n, dtype=dtype).reshape(n, 3)
        with np.errstate(all="raise"):
            assert_native(monkeypatch, loss, pred, np.arange(n) % 3, left=99)


def test_machine_code_reports_no_floating_point_errors():
    """As documented in `compile`; eager calls raise at the operation."""
    fn = lambda x: 1.0 / x - x * 1e300  # noqa: E731
    x = np.array([0.0, 1e300])
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(portnet.compile(fn)(x), [np.inf, -np.inf])
        with pytest.raises(FloatingPointError):
            fn(x)


def test_errstate_raise_in_an_eager_fit_raises_at_the_operation():
    X, y = np.ones((8, 2)), np.ones((8, 1))
    net = portnet.Chain([portnet.Dense(3), Square(), portnet.Dense(1)])
    sgd = portnet.SGD(1e30)
    trainer = portnet.Trainer(net, "squared_error", sgd, batch_size=4, compile=False)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError) as found:
        trainer.fit(X, y, epochs=1, progress=False)
    assert any(entry.path.name == "custom.py" for entry in found.traceback)
    with pytest.raises(portnet.DivergenceError, match=r"in epoch 1, step 2"):
        trainer.fit(X, y, epochs=1, progress=False)


def test_errstate_raise_in_an_eager_estimator_raises():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    X, y = np.linspace(-1, 1, 40).reshape(20, 2), np.arange(20) % 2
    net = portnet.MLPClassifier(solver="sgd", learning_rate_init=1e200, compile=False)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
        net.fit(X, y)
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        net.fit(X, y)


@pytest.mark.parametrize("mode", ["never", "always"])
def test_divergence_is_detected_equally_with_and_without_compile(mode, monkeypatch):
    """Epoch and step are equal for compiled and eager steps."""
    monkeypatch.setenv("PORTNET_NATIVE", mode)
    X, y = np.linspace(-1, 1, 80).reshape(40, 2), np.arange(40) % 2
    found = []
    for compiled in (True, False):
        sgd = portnet.SGD(1e4)
        net = portnet.mlp([2, 8, 1], "relu")
        trainer = portnet.Trainer(net, "squared_error", sgd, batch_size=10, compile=compiled)
        with pytest.raises(portnet.DivergenceError) as error:
            trainer.fit(X, y, epochs=50, progress=False)
        found.append(str(error.value))
    assert found[0] == found[1]
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        portnet.MLPClassifier(solver="sgd", learning_rate_init=1e200).fit(X, y)


def test_clip_norm_of_a_zero_gradient_does_not_divide_by_zero():
    X, y = np.zeros((9, 2)), np.zeros((9, 1))
    net = portnet.Chain([portnet.Dense(1, weights="zeros")])
    optimizer = portnet.chain(portnet.ClipNorm(1.0), portnet.SGD(0.1))
    with np.errstate(all="raise"):
        run = portnet.Trainer(net, "squared_error", optimizer, batch_size=4).fit(
            X, y, epochs=3, progress=False
        )
    assert run.history["loss"] == [0.0] * 3


def test_squared_error_of_batches_of_nine_rows_does_not_warn():
    portnet.set_backend("numpy", dtype="float64")
    X, y = np.random.default_rng(0).standard_normal((2, 90, 3))
    trainer = portnet.Trainer(portnet.mlp([3, 8, 3]), "squared_error", batch_size=9, seed=0)
    with np.errstate(all="warn"):  # pytest turns warnings into errors
        trainer.fit(X, y, epochs=3, progress=False)


# Planted faults ----------------------------------------------------------------------------------


original_init = lowering.Lowering.__init__


def keep_no_results(self, plan):
    original_init(self, plan)
    self.kept = set()
    self.readers = {}


FAULTS = {
    "dependent operations are reordered": (
        lowering._CompiledCall,
        "conflicts_with",
        lambda self, reads, writes: False,
    ),
    "a loop reads what it has overwritten": (lowering._Loop, "can_add", lambda *args: True),
    "a result that is read is not stored": (lowering.Lowering, "__init__", keep_no_results),
    "terms are added in another order": (lowering, "FEW", lowering.FEW | {"sum": 10**6}),
    "an argument is copied before a function that depends on strides": (
        lowering.Lowering,
        "_has_unknown_strides",
        lambda self, node: False,
    ),
    "a BLAS matrix has the wrong order": (
        lowering,
        "_order",
        lambda shape, by_column: ("i32 101", shape[1]),
    ),
    "a comparison has the wrong sign": (
        llvm_ir,
        "COMPARISONS",
        llvm_ir.COMPARISONS | {"greater": ("olt", "lt")},
    ),
    "a column is not broadcast": (
        lowering,
        "broadcast",
        lambda shape, strides, to: (*[0] * (len(to) - len(shape)), *strides),
    ),
}


def all_checks(monkeypatch):
    test_broadcast_transposed_and_sliced_operands_equal_numpy(monkeypatch)
    test_every_pair_of_special_values_equals_numpy("float64", monkeypatch)
    test_matmul_equals_numpy_bit_for_bit("float32", monkeypatch)
    test_reductions_equal_numpy_bit_for_bit("sum", "float32", monkeypatch)
    test_strided_arguments_equal_eager_calls_bit_for_bit(64, "float64", monkeypatch)
    check_groups_equal_eager()
    for optimizer in (portnet.Adam(), STEPS["clipped"]):
        check_steps_equal_eager(optimizer)
    FAULT_SEARCH(given(pg.programs())(check_replay_equals_eager))()


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_of_machine_code_is_detected(name, monkeypatch):
    monkeypatch.setattr(*FAULTS[name])
    monkeypatch.setattr(
        compile_cache, "_kept", OrderedDict()
    )  # no plan of earlier or for later tests
    with pytest.raises((AssertionError, CompileWarning, BaseExceptionGroup)):
        all_checks(monkeypatch)


def test_machine_code_stays_where_another_thread_generates_the_calls_at_once(monkeypatch):
    compiled, x = portnet.compile(lambda x: (x * 2.0 + 1.0) * x - x), np.ones((5, 3))
    executable, finish = compiled.executable(x), NumPyCodegen.finish

    def finish_after_the_compiler(codegen, returned):
        monkeypatch.setattr(NumPyCodegen, "finish", finish)
        executable._compile()
        return finish(codegen, returned)

    monkeypatch.setattr(NumPyCodegen, "finish", finish_after_the_compiler)
    assert "segment0" in executable.code.source[1]
