"""Kernels, run on a CPU, against NumPy."""

import os
import subprocess
import sys

import numpy as np
import plans
import pytest
from cpu_device import HERE, CPUDevice, needs_gxx, sanitizers
from plans import SIZES, Case, same_for_orders, together, ulps

from portnet import namespace, rng

pytestmark = needs_gxx
FLOATS = ("float32", "float64")


def draw(shape, dtype, seed=0):
    """Return floats with zeros, infinities and NaN among them."""
    generator = np.random.default_rng((seed, *shape))
    x = generator.standard_normal(shape).astype(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -2.0, 1e-30]
    some = generator.random(shape) < 0.1
    x[some] = generator.choice(special, int(some.sum())).astype(dtype)
    return x


def shapes(count, most=30_000, seed=0):
    """Return pairs of sizes; each size comes first and second as often."""
    generator, found = np.random.default_rng(seed), []
    while len(found) < count:
        pairs = np.stack([generator.permutation(SIZES), generator.permutation(SIZES)], axis=1)
        found += [tuple(pair) for pair in pairs.tolist() if pair[0] * pair[1] <= most]
    return found[:count]


# Elementwise operations ---------------------------------------------------------------------------


def arithmetic(a, b, row, column):
    xp = namespace(a)
    c = a * b - a / (xp.abs(b) + 0.5)
    d = xp.sqrt(xp.abs(c)) + row * column
    e = xp.where(d > b, xp.maximum(a, d), xp.minimum(b, column))
    f = xp.sign(a) * xp.floor(b) + xp.ceil(a) - xp.trunc(b) + xp.copysign(a, b)
    g = xp.square(a) ** 1 + xp.reciprocal(b + 3.0) + (a**2 - b**0.5) * (row**-1)
    h = xp.astype(xp.isfinite(a), a.dtype) - xp.astype(xp.isnan(b), a.dtype) + xp.isinf(a)
    return c, d, e, f, g, h, xp.logical_and(a > 0, b <= row), -xp.positive(a) != b


def layouts(a, b, big):
    """Views: transposed, strided, from the end, broadcast, with axes more or less."""
    xp = namespace(a)
    t = xp.matrix_transpose(b)
    inner = big[1::2, 2::3]
    c = a + t * inner
    d = xp.flip(a, axis=0) - xp.flip(t, axis=1) + inner[:, :1]
    e = xp.reshape(a, (-1,)) * 2.0
    f = xp.expand_dims(a, axis=1) + xp.expand_dims(a[:1, :], axis=0)
    g = a[0, :] - inner[-1, :]
    return c, d, e, f, g, xp.matrix_transpose(c) * 0.5, xp.broadcast_to(a[:, :1], a.shape) + 0.0


def whole_numbers(i, j, u):
    xp = namespace(i)
    k = i * 1664525 + j - (i ^ j) + (i & 255) + (j | 7) - ~i
    v = (u ^ (u >> 16)) * 2246822507
    v = (v ^ (v >> 13)) * 3266489909
    narrow = xp.astype(i, xp.int16)
    w = narrow * narrow - xp.astype(u, xp.int16)
    x = xp.astype(v, xp.uint16)
    y = xp.astype(j, xp.int8) * xp.astype(i, xp.int8)
    return (
        k,
        v ^ (v >> 16),
        w,
        x * x,
        y,
        xp.abs(i) * xp.sign(j),
        xp.maximum(i, j) - xp.minimum(i, j) + (i << 3) - (j >> 2),
        xp.square(narrow),
        xp.astype(i, xp.float32) + xp.astype(v, xp.float32),
        xp.astype(j, xp.bool) & (i > j),
        xp.logical_xor(xp.astype(i, xp.bool), xp.logical_not(xp.astype(j, xp.bool))),
        xp.astype(i > j, xp.int64) + xp.astype(u, xp.int64),
    )


@pytest.fixture(params=[1 << 19, 1], ids=["one each", "several each"])
def elements_of_a_thread(request, monkeypatch):
    """Let a thread compute one element, or several, as it does of large arrays."""
    monkeypatch.setattr("portnet.compiler.cuda.kernels.LARGE", request.param)


@pytest.mark.usefixtures("elements_of_a_thread")
def test_arithmetic_has_the_bits_of_numpy():
    cases = []
    for dtype in FLOATS:
        for k, (m, n) in enumerate(shapes(8)):
            arrays = [draw(s, dtype, 2 * k) for s in ((m, n), (m, n), (1, n), (m, 1))]
            cases.append(Case(arithmetic, arrays, donate=(0,) if k % 2 else ()))
    for case in together(cases):
        got = same_for_orders(case)
        for k, (a, b) in enumerate(zip(got, case.expected, strict=True)):
            np.testing.assert_array_equal(a, b, f"result {k} of {b.shape}")


@pytest.mark.usefixtures("elements_of_a_thread")
def test_views_are_read_where_they_lie():
    cases = []
    for dtype in FLOATS:
        for m, n in shapes(8, 9000, seed=1):
            arrays = [draw(s, dtype) for s in ((m, n), (n, m), (2 * m + 1, 3 * n + 2))]
            cases.append(Case(layouts, arrays))
    for case in together(cases):
        for k, (a, b) in enumerate(zip(same_for_orders(case), case.expected, strict=True)):
            np.testing.assert_array_equal(a, b, f"result {k} of {b.shape}")


@pytest.mark.usefixtures("elements_of_a_thread")
def test_integers_wrap_around():
    cases = []
    for dtype, unsigned in (("int32", "uint32"), ("int64", "uint64")):
        for m, n in ((1, 1), (7, 33), (257, 2)):
            generator, info = np.random.default_rng(m), np.iinfo(dtype)
            i, j = generator.integers(info.min, info.max, (2, m, n), dtype, endpoint=True)
            i.flat[0], j.flat[-1] = info.min, info.max
            u = generator.integers(0, np.iinfo(unsigned).max, (m, n), unsigned, endpoint=True)
            cases.append(Case(whole_numbers, [i, j, u]))
    for case in together(cases):
        for k, (a, b) in enumerate(zip(same_for_orders(case), case.expected, strict=True)):
            np.testing.assert_array_equal(a, b, f"result {k} of {b.dtype}")


UNARY = """
exp expm1 log log1p log2 log10 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
""".split()


def functions(a, b):
    xp = namespace(a)
    return (
        *[getattr(xp, name)(a) for name in UNARY],
        xp.atan2(a, b),
        xp.hypot(a, b),
        xp.abs(b) ** a,
        xp.logaddexp(a, b),
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_are_within_4_ulp(dtype):
    a, b = draw((33, 31), dtype), draw((33, 31), dtype, 1)
    case = Case(functions, [a, b])
    names = [*UNARY, "atan2", "hypot", "pow", "logaddexp"]
    for name, got, expected in zip(names, same_for_orders(case), case.expected, strict=True):
        assert ulps(got, expected) <= 4, name


def divisions(a, b):
    return a // b, a % b


@pytest.mark.parametrize("dtype", FLOATS)
def test_floor_division_and_remainder_are_numpys(dtype):
    a, b = draw((33, 31), dtype), draw((33, 31), dtype, 1)
    case = Case(divisions, [np.round(a * 4), np.where(b == 0, 1, np.round(b * 2))])
    for got, expected in zip(case.run(CPUDevice()), case.expected, strict=True):
        np.testing.assert_array_equal(got, expected)


# Reductions ---------------------------------------------------------------------------------------


def reductions(a, b):
    xp = namespace(a)
    found = []
    for axis in (0, 1, None):
        found += [
            xp.sum(a * b, axis=axis),
            xp.mean(a, axis=axis, keepdims=True),
            xp.max(b, axis=axis),
            xp.min(a - b, axis=axis, keepdims=True),
            xp.any(a > 2.0, axis=axis),
            xp.all(b < 2.0, axis=axis),
            xp.sum(xp.astype(a > b, xp.int64), axis=axis),
        ]
    return tuple(found)


REDUCED = ((2, 2), (2, 1025), (1025, 2), (7, 257), (257, 7), (33, 32), (31, 1025), (1025, 31))


def test_reductions():
    """Rows, columns and whole arrays; the longest are shared by several blocks."""
    cases = []
    for dtype in FLOATS:
        for m, n in REDUCED:
            generator = np.random.default_rng((m, n))
            cases.append(Case(reductions, list(generator.standard_normal((2, m, n)).astype(dtype))))
    for case in together(cases):
        a, b = case.arrays[:2]
        got = iter(zip(same_for_orders(case), case.expected, strict=True))
        for axis in (0, 1, None):
            eps = 8 * np.finfo(a.dtype).eps
            for x, whole, keep in ((a * b, 1, False), (a, a.size, True)):
                size = 1 if whole == 1 else x.size if axis is None else x.shape[axis]
                magnitudes = np.sum(np.abs(x), axis=axis, keepdims=keep) / size
                result, expected = next(got)
                assert result.shape == expected.shape
                assert (np.abs(result - expected) <= eps * magnitudes).all(), (a.shape, axis)
            for _ in range(5):
                np.testing.assert_array_equal(*next(got), f"{a.shape} {axis}")


def test_reductions_along_axes_of_one_element():
    def fn(x):
        xp = namespace(x)
        over = [xp.sum(x, axis=k) + xp.mean(x * x, axis=k) for k in (0, 1)]
        return *over, xp.max(x, axis=0), xp.min(x), xp.sum(x)

    given = ((1, 1), (1, 1025), (1025, 1), (1, 31), (33, 1))
    cases = [Case(fn, [np.random.default_rng(0).standard_normal(shape)]) for shape in given]
    for case in together(cases):
        for got, expected in zip(same_for_orders(case), case.expected, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-12)


def test_several_blocks_share_a_sum():
    """The block that is done last adds the parts in their order, in each step anew."""
    for m, n in ((5000, 3), (300, 40), (70, 70)):
        x = np.random.default_rng(0).standard_normal((m, n)).astype("f4")

        def fn(x):
            xp = namespace(x)
            return xp.sum(x, axis=0), xp.sum(x * x), xp.max(x, axis=0)

        case = Case(fn, [x])
        assert any(max(launch.grid) > 1 for launch in case.plan.program.launches)
        ends = []
        for seed in (0, 1, 2):
            device = CPUDevice(seed)
            step, arrays = case.step(device)
            step.capture()
            for _ in range(3):
                step.replay()
                ends.append([device.get(arrays[d], case.arrays[d]) for d in case.results])
            device.check()
        for end in ends:
            for a, b in zip(end, ends[0], strict=True):
                np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(ends[0][0], x.sum(0, dtype="f8"), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(ends[0][1], np.sum(x * x, dtype="f8"), rtol=1e-6)


def test_reductions_of_nan_and_infinity():
    x = draw((40, 37), "float64")

    def fn(x):
        xp = namespace(x)
        return xp.max(x, axis=0), xp.min(x, axis=1), xp.sum(x, axis=1), xp.max(x)

    case = Case(fn, [x])
    for got, expected in zip(same_for_orders(case), case.expected, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def whole_reductions(i, u):
    xp = namespace(i)
    return (
        xp.sum(i, axis=0),
        xp.prod(i, axis=1),
        xp.max(u),
        xp.min(i, axis=0, keepdims=True),
        xp.sum(u, axis=1),
        xp.any(xp.astype(i, xp.bool), axis=0),
    )


def test_reductions_of_integers_are_exact():
    generator = np.random.default_rng(0)
    i = generator.integers(-(2**62), 2**62, (77, 35))
    u = generator.integers(0, 2**32, (77, 35)).astype("uint32")
    case = Case(whole_reductions, [i, u])
    for got, expected in zip(same_for_orders(case), case.expected, strict=True):
        np.testing.assert_array_equal(got, expected)


# Chains -------------------------------------------------------------------------------------------


def softmax(z, bias, y):
    """Softmax cross-entropy and layer norm: reductions whose results the same kernel uses."""
    xp = namespace(z)
    z = z + bias
    z = z - xp.max(z, axis=1, keepdims=True)
    e = xp.exp(z)
    total = xp.sum(e, axis=1, keepdims=True)
    p = e / total
    t = xp.astype(xp.expand_dims(y, axis=1) == xp.arange(z.shape[1]), z.dtype)
    loss = xp.mean(xp.sum(t * (xp.log(total) - z), axis=1))
    mean = xp.mean(p, axis=1, keepdims=True)
    centred = p - mean
    norm = centred / xp.sqrt(xp.mean(centred * centred, axis=1, keepdims=True) + 1e-5)
    return (p - t) / z.shape[0], loss, norm, xp.sum(p - t, axis=0)


def test_softmax_and_its_loss():
    cases = []
    for dtype in FLOATS:
        for k, (m, n) in enumerate(
            ((1, 1), (2, 7), (33, 10), (7, 257), (32, 32), (257, 3), (2, 1025))
        ):
            generator = np.random.default_rng(n)
            z, bias = generator.standard_normal((m, n)), generator.standard_normal((1, n))
            arrays = [z.astype(dtype) * 3, bias.astype(dtype), generator.integers(0, n, m)]
            cases.append(Case(softmax, arrays, donate=(0,) if k % 2 else ()))
    for case in together(cases):
        for a, b in zip(same_for_orders(case), case.expected, strict=True):
            tolerance = 200 * np.finfo(a.dtype).eps
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def gathered(x, order, y):
    xp = namespace(x)
    rows = xp.take(x, order, axis=0)
    return rows, xp.take(y, order, axis=0) * 2, xp.sum(rows * rows, axis=1), xp.max(rows, axis=0)


def joined(a, b, c):
    xp = namespace(a)
    down = xp.concat([a, b * 2.0, xp.flip(a, axis=0)], axis=0)
    across = xp.concat([a, xp.exp(-c)], axis=1)
    flat = xp.concat([xp.reshape(a + 1.0, (-1,)), xp.reshape(c, (-1,))])
    return down, across, flat, xp.sum(down, axis=1), xp.stack([xp.sum(a), xp.max(c)])


@pytest.mark.usefixtures("elements_of_a_thread")
def test_gathers_and_concats():
    cases, generator = [], np.random.default_rng(0)
    for dtype in FLOATS:
        for m, n in ((1, 1), (7, 31), (33, 2), (257, 33), (2, 1025)):
            x, y = draw((m, n), dtype), generator.integers(0, 9, m)
            order = generator.permutation(2 * m) % m
            cases.append(Case(gathered, [np.nan_to_num(x, posinf=1, neginf=2), order, y]))
            a, b, c = (generator.standard_normal((m, k)).astype(dtype) for k in (n, n, 5))
            cases.append(Case(joined, [a, b, c]))
    for case in together(cases):
        for a, b in zip(same_for_orders(case), case.expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6 if a.dtype == "f4" else 1e-14, atol=1e-5)


def dropped(salt, first, x):
    xp = namespace(x)
    key = rng.fold(rng.Key(salt, first), 2)
    keep = rng.keep_mask(key, x, 0.3)
    return xp.where(keep, x / 0.7, 0.0), keep


@pytest.mark.usefixtures("elements_of_a_thread")
def test_dropout_draws_the_numbers_of_numpy():
    cases = []
    for dtype in FLOATS:
        for m, n in ((1, 1), (7, 33), (257, 31)):
            salt, first = np.full((1, 1), -1234567, "i4"), np.full((1, 1), 64, "i4")
            x = np.random.default_rng(n).standard_normal((m, n)).astype(dtype)
            cases.append(Case(dropped, [salt, first, x]))
    for case in together(cases):
        for a, b in zip(same_for_orders(case), case.expected, strict=True):
            np.testing.assert_array_equal(a, b)


# Memory that is used twice ------------------------------------------------------------------------


def in_place(a, b, v):
    """Results that replace arrays which other elements still need."""
    xp = namespace(a)
    c = a - a[:1, :] + b[:, -1:]
    d = b * xp.sum(a, axis=1, keepdims=True) + xp.matrix_transpose(a)[: b.shape[0], :]
    return c, d, v / xp.max(v) + xp.flip(v, axis=0)


def swapped(a, b, v):
    xp = namespace(a)
    return b, xp.matrix_transpose(a), xp.flip(v, axis=0)


def returned(a, b, v):
    xp = namespace(a)
    e = xp.exp(-a * a)
    return a - 0.1 * (xp.matrix_transpose(b) @ e), b, xp.take(v, xp.astype(v > 0, xp.int64), axis=0)


@pytest.mark.usefixtures("elements_of_a_thread")
def test_results_replace_arguments():
    cases = []
    for fn in (in_place, swapped, returned):
        for n in (1, 2, 33, 80):
            for dtype in FLOATS:
                generator = np.random.default_rng(n)
                a, b = generator.standard_normal((2, n, n)).astype(dtype)
                v = generator.standard_normal(max(2, 65 * n)).astype(dtype)
                cases.append(Case(fn, [a, b, v], donate=(0, 1, 2)))
    for case in together(cases):
        for a, b in zip(same_for_orders(case), case.expected, strict=True):
            tolerance = 1e-4 if a.dtype == "f4" else 1e-12
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("elements_of_a_thread")
def test_rows_that_move_with_the_step():
    x = np.random.default_rng(0).standard_normal((30, 7)).astype("f4")
    w, s = np.ones((7, 3), "f4"), np.zeros(3, "f4")

    def fn(s, x, w):
        xp = namespace(x)
        return s + xp.sum(x @ w, axis=0) + xp.sum(x)

    case = Case(fn, [s, x, w], donate=(0,), moving={1: 10 * 7 * 4}, given=[s, x[:10], w])
    device = CPUDevice()
    step, arrays = case.step(device)
    step.capture()
    for k in range(3):
        step.replay()
        s = fn(s, x[10 * k : 10 * k + 10], w)
        np.testing.assert_allclose(device.get(arrays[0], s), s, rtol=1e-5)


# Sanitizers: see `sanitized.py` -------------------------------------------------------------------


def products(a, b, v):
    """Products by kernels, also of transposed views, with sizes that no tile divides."""
    t = namespace(a).matrix_transpose
    return a @ b, t(b) @ t(a), b @ v, t(v) @ t(b)


def test_small_products():
    cases = []
    for dtype in FLOATS:
        for m, k, n in ((1, 1, 1), (33, 7, 19), (16, 16, 16), (5, 33, 17), (17, 1, 3), (3, 40, 31)):
            arrays = [draw(s, dtype) for s in ((m, k), (k, n), (n, 1))]
            arrays[0][m // 2, 0] = np.inf  # 0 times it is NaN: what pads a tile must be 0 in both
            arrays[1][0, n // 2] = -np.inf
            cases.append(Case(products, arrays))
    for case in together(cases):
        for a, b in zip(same_for_orders(case), case.expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5 if a.dtype == "f4" else 1e-12, atol=1e-5)


def for_sanitizers(most=None):
    """Return cases of each kind of kernel, with sizes that no block divides; at most so many."""
    generator = np.random.default_rng(0)

    def normal(*shape):
        return generator.standard_normal(shape).astype("f4")

    i = generator.integers(-(2**31), 2**31, (7, 33)).astype("i4")
    cases = [
        Case(arithmetic, [normal(7, 33), normal(7, 33), normal(1, 33), normal(7, 1)], donate=(0,)),
        Case(layouts, [normal(31, 7), normal(7, 31), normal(63, 23)]),
        Case(whole_numbers, [i, i[::-1], i.astype("u4")]),
        Case(reductions, [normal(257, 33), normal(257, 33)]),
        Case(reductions, [normal(33, 257), normal(33, 257)]),
        Case(reductions, [normal(2, 1025), normal(2, 1025)]),
        Case(whole_reductions, [i.astype("i8"), i.astype("u4")]),
        Case(softmax, [normal(33, 10), normal(1, 10), generator.integers(0, 10, 33)], donate=(0,)),
        Case(softmax, [normal(3, 257), normal(1, 257), generator.integers(0, 257, 3)]),
        Case(gathered, [normal(33, 7), generator.permutation(33), generator.integers(0, 9, 33)]),
        Case(joined, [normal(33, 7), normal(33, 7), normal(33, 5)]),
        Case(in_place, [normal(33, 33), normal(33, 33), normal(65)], donate=(0, 1, 2)),
        Case(products, [normal(33, 7), normal(7, 19), normal(19, 1)]),
    ]
    with pytest.MonkeyPatch.context() as patch:  # several elements for each thread
        patch.setattr("portnet.compiler.cuda.kernels.LARGE", 1)
        cases.append(
            Case(arithmetic, [normal(33, 33), normal(33, 33), normal(1, 33), normal(33, 1)], (0,))
        )
    return plans.together(cases[:most])


@pytest.mark.parametrize("broken", [False, True])
def test_kernels_are_clean_under_the_sanitizers(broken):
    libraries = sanitizers()
    if not libraries:
        pytest.skip("the sanitizers of g++ are not installed")
    path = os.pathsep.join([str(HERE), *sys.path])
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    environment = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": options, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(HERE / "sanitized.py"), *["broken"] * broken],
        env={**os.environ, "PYTHONMALLOC": "malloc", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if broken:
        assert done.returncode != 0
        assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[-3000:]
    else:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        assert done.stdout.split() == ["clean"]
