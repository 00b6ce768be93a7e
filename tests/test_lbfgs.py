"""L-BFGS: equality with SciPy and dense formulas, line search, barriers, purity and errors."""

import itertools
import math
import pickle

import numpy as np
import pytest
from counting import Counting, conversions, counting

from portnet import lbfgs, optimizers
from portnet.backend import ShapeError, namespace
from portnet.lbfgs import LBFGS, minimize

# Objective functions ----------------------------------------------------------------------------


def rosenbrock(x):
    xp = namespace(x)
    a, b = x[1:] - x[:-1] ** 2, 1.0 - x[:-1]
    zero = xp.zeros_like(x[:1])
    g = xp.concat([-400.0 * x[:-1] * a - 2.0 * b, zero]) + xp.concat([zero, 200.0 * a])
    return xp.sum(100.0 * a**2 + b**2), g


def rosenbrock_start(n):
    return np.resize([-1.2, 1.0], n)


def logistic(scales, l2, rows=200, seed=0):
    """L2-regularized logistic regression on random data with columns of these scales."""
    draw = np.random.default_rng(seed)
    X = draw.standard_normal((rows, len(scales))) * scales
    p = 1 / (1 + np.exp(-X @ (draw.standard_normal(len(scales)) / scales)))
    sign = np.where(draw.uniform(size=rows) < p, 1.0, -1.0)

    def f(w):
        margin = sign * (X @ w)
        missed = np.exp(-np.logaddexp(0, margin))
        value = np.mean(np.logaddexp(0, -margin)) + 0.5 * l2 * (w @ w)
        return value, -X.T @ (sign * missed) / rows + l2 * w

    return f


def beale(v):
    k = np.array([1, 2, 3])
    r = np.array([1.5, 2.25, 2.625]) - v[0] * (1 - v[1] ** k)
    return r @ r, np.array([-2 * r @ (1 - v[1] ** k), 2 * r @ (v[0] * k * v[1] ** (k - 1))])


def powell(x):
    """Powell's singular function, extended: the Hessian at the minimum has rank 2 of 4."""
    p, q = x[0::4] + 10 * x[1::4], x[2::4] - x[3::4]
    r, s = x[1::4] - 2 * x[2::4], x[0::4] - x[3::4]
    g = np.zeros_like(x)
    g[0::4], g[1::4] = 2 * p + 40 * s**3, 20 * p + 4 * r**3
    g[2::4], g[3::4] = 10 * q - 8 * r**3, -10 * q - 40 * s**3
    return np.sum(p**2 + 5 * q**2 + r**4 + 10 * s**4), g


def quadratic(n, condition):
    h = np.geomspace(1, condition, n)
    return lambda x: (np.sum(0.5 * h * (x - 1) ** 2), h * (x - 1))


def waves(seed, n=5):
    """A quadratic plus random cosines: smooth, with many minima and negative curvature."""
    draw = np.random.default_rng(seed)
    A, c = draw.standard_normal((2 * n, n)), draw.uniform(0, 6, 2 * n)
    start = draw.standard_normal(n) * 3
    return lambda x: (
        np.sum(np.cos(A @ x + c)) + 0.05 * (x @ x),
        -A.T @ np.sin(A @ x + c) + 0.1 * x,
    ), start


def elementwise(f, slope):
    """Return the sum of f over the elements of x as an objective, without overflow warnings."""

    def of(x):
        with np.errstate(all="ignore"):
            return np.sum(f(x)).astype(x.dtype), np.asarray(slope(x), dtype=x.dtype)

    return of


NO_TOLERANCE = LBFGS(gtol=0, ftol=0)


def iterations(f, x, steps, optimizer=NO_TOLERANCE, state=None):
    """Yield (x, state) after each iteration."""
    state = state or optimizer.init(x)
    for _ in range(steps):
        x, state = optimizer.iterate(f, x, state)
        yield x, state


# Equality with SciPy ----------------------------------------------------------------------------

CASES = {  # f, start, tolerance of x
    "rosenbrock 2": (rosenbrock, rosenbrock_start(2), 1e-8),
    "rosenbrock 10": (rosenbrock, rosenbrock_start(10), 1e-8),
    "rosenbrock 100": (rosenbrock, rosenbrock_start(100), 1e-8),
    "logistic": (logistic(np.ones(10), 1e-2), np.zeros(10), 1e-8),
    "logistic, 0.1 per row": (logistic(np.ones(20), 0.1, seed=1), np.zeros(20), 1e-8),
    # f resolves x only to sqrt(eps f / curvature), and the small columns have no curvature but
    # that of L2: neither implementation comes closer.
    "logistic, ill-scaled": (logistic(np.geomspace(0.01, 100, 10), 0.1), np.zeros(10), 1e-6),
    "beale": (beale, np.ones(2), 1e-8),
    "powell": (powell, np.resize([3.0, -1.0, 0.0, 1.0], 20), 1e-3),
    "quadratic 1e3": (quadratic(30, 1e3), np.zeros(30), 1e-8),
}


@pytest.mark.parametrize("name", CASES)
def test_minimum_and_evaluations_equal_those_of_scipy(name):
    scipy = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")
    f, start, close = CASES[name]
    options = {"maxcor": 10, "gtol": 1e-10, "ftol": 0, "maxiter": 5000, "maxfun": 5000}
    reference = scipy.minimize(f, start, jac=True, method="L-BFGS-B", options=options)
    actual = minimize(f, start, LBFGS(gtol=1e-10, ftol=0), max_iter=5000)
    assert actual.value == pytest.approx(reference.fun, rel=1e-8, abs=1e-8)
    np.testing.assert_allclose(actual.x, reference.x, rtol=0, atol=close)
    assert actual.evaluations <= 1.5 * reference.nfev
    value, gradient = f(actual.x)
    assert actual.value == value
    np.testing.assert_array_equal(actual.gradient, gradient)


def test_total_evaluations_at_default_tolerances_equal_scipy():
    """The total is compared, as the single counts depend on rounding."""
    scipy = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")
    actual = reference = 0
    for f, start, _ in CASES.values():
        result = minimize(f, start, max_iter=5000)
        assert result.converged, result.message
        actual += result.evaluations
        reference += scipy.minimize(f, start, jac=True, method="L-BFGS-B").nfev
    assert actual <= 1.1 * reference


@pytest.mark.parametrize(
    ("f", "start", "most"),
    [
        (rosenbrock, rosenbrock_start(2), 56),
        (rosenbrock, rosenbrock_start(100), 750),
        (quadratic(30, 1e3), np.zeros(30), 340),
        (quadratic(4, 1.0), np.full(4, 2.0), 3),
        (beale, np.ones(2), 21),
        (elementwise(lambda x: x**4, lambda x: 4 * x**3), np.full(3, 1e4), 72),
        (elementwise(lambda x: np.cosh(x - 1), lambda x: np.sinh(x - 1)), np.full(3, 50.0), 90),
    ],
    ids=["rosenbrock 2", "rosenbrock 100", "quadratic", "bowl", "beale", "quartic", "cosh"],
)
def test_number_of_evaluations_does_not_grow(f, start, most):
    """The limits are a fifth above the counts at the time of writing."""
    result = minimize(f, start, LBFGS(gtol=1e-7, ftol=0), max_iter=5000)
    assert result.message.startswith("converged: max |g|")
    assert result.evaluations <= most


# Backends ---------------------------------------------------------------------------------------


def test_iterations_on_every_backend_equal_numpy(xp):
    start = rosenbrock_start(6)
    actual = list(iterations(rosenbrock, xp.asarray(start), 15))
    rtol = 1e-8 if xp.float_name == "float64" else 2e-2  # differences grow along the valley
    for (x, state), (x_np, state_np) in zip(actual, iterations(rosenbrock, start, 15), strict=True):
        xp.assert_close(x, x_np, rtol=rtol, atol=rtol)
        assert state.value == pytest.approx(state_np.value, rel=10 * rtol)
        assert type(state.value) is float
        assert len(state.s) == len(state.y) == len(state_np.s)
        for array in (state.gradient, *state.s, *state.y):
            xp.check_kind(array)


def test_minimum_is_found_on_every_backend(xp):
    result = minimize(rosenbrock, xp.asarray(rosenbrock_start(4)), LBFGS(gtol=1e-3))
    assert result.converged
    xp.assert_close(result.x, np.ones(4), rtol=1e-2)
    xp.check_kind(result.gradient)


def test_float32_start_gives_float32_iterations(xp):
    x = xp.asarray(rosenbrock_start(4), "float32")
    optimizer = LBFGS(gtol=np.float64(1e-4), ftol=np.float64(1e-9))
    for x_k, state in iterations(rosenbrock, x, 12, optimizer):
        for array in (x_k, state.gradient, *state.s, *state.y):
            xp.check_kind(array, "float32")


def test_gradients_of_torch_autograd_reach_the_minimum(torch):
    def f(x):
        x = x.clone().requires_grad_()
        value = torch.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        return value, torch.autograd.grad(value, x)[0]

    start = torch.tensor(rosenbrock_start(4))
    result = minimize(f, start, LBFGS(gtol=1e-9, ftol=0))
    assert not result.x.requires_grad
    np.testing.assert_allclose(result.x.numpy(), np.ones(4), atol=1e-8)


def test_host_reads_once_per_evaluation(monkeypatch):
    monkeypatch.setattr(counting, "finfo", np.finfo, raising=False)
    x = Counting(rosenbrock_start(4))
    before = len(conversions)
    *_, (x, state) = iterations(rosenbrock, x, 20)
    assert len(state.s) == 10
    assert conversions[before:] == ["__array__"] * state.evaluations
    host = list(iterations(rosenbrock, rosenbrock_start(4), 20))[-1]
    np.testing.assert_allclose(x.host, host[0], rtol=1e-8)


# Line search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_every_step_meets_the_strong_wolfe_conditions(seed):
    """f1 <= f0 + c1 <g0, s> and |<g1, s>| <= c2 |<g0, s>|, for any length of d."""
    f, x = waves(seed)
    optimizer = LBFGS(gtol=1e-6, ftol=0)
    state = optimizer.init(x)
    for _ in range(60):
        (f0, g0), x0 = f(x), x
        x, state = optimizer.iterate(f, x, state)
        f1, g1 = f(x)
        slope = g0 @ (x - x0)
        assert slope < 0
        assert f1 <= f0 + 1e-4 * slope + 1e-14 * abs(f0)
        assert abs(g1 @ (x - x0)) <= 0.9 * abs(slope) * (1 + 1e-9)
        assert state.value == f1
        np.testing.assert_array_equal(state.gradient, g1)
        np.testing.assert_array_equal(state.s[-1], x - x0)
        np.testing.assert_array_equal(state.y[-1], g1 - g0)
        if state.status:
            break
    assert state.status.startswith("converged: max |g|")
    assert np.max(np.abs(f(x)[1])) <= 1e-6


def search(*answers):
    """Search along t = x from value 0 and slope -1; return the trials and the point found."""
    seen, answers = [], iter(answers)

    def f(x):
        seen.append(float(x[0]))
        value, slope = next(answers)
        return np.float64(value), np.array([slope])

    state = lbfgs.LBFGSState(0.0, np.array([-1.0]), (), (), 1, "")
    found, tries, _ = lbfgs._search(f, np.zeros(1), state)
    assert tries == len(seen)
    assert seen[0] == 1
    return seen, found


@pytest.mark.parametrize(
    "first",
    [
        (-0.9e-4, 0.0),  # too small a decrease for a slope of -1
        (0.5, -0.1),
        (-5.0, np.nan),
        (-5.0, 1e200),
        (np.nan, 0.0),
        (-np.inf, 0.0),
    ],
)
def test_search_shortens_a_step_that_is_too_high_steep_or_not_finite(first):
    seen, found = search(first, (-0.3, 0.9))
    assert 0.1 <= seen[1] <= 0.9
    assert found.t == seen[1]
    assert found.value == -0.3


def test_search_extends_a_step_whose_slope_is_too_negative():
    def cube(t):  # a cubic with its minimum at sqrt(20)
        return -t + t**3 / 60, -1 + t**2 / 20

    seen, found = search(cube(1), (-3.0, 0.0))
    assert seen[1] == 5  # the predicted zero of the slope, at most 4 steps further
    seen, found = search((-0.99, -0.98), (-4.0, -0.95), (-9.0, -0.9))
    assert seen == [1, 5, 21]
    assert found.t == 21


def test_search_narrows_the_bracket_to_a_good_step():
    """The bracket shrinks from both sides."""
    seen, found = search((-1.0, 2.0), (-2.0, 1.5), (-3.0, 0.5))
    assert 1 > seen[1] > seen[2] > 0
    assert found.value == -3
    seen, found = search((-1.0, 0.91), (-2.0, 0.89))
    assert 0 < found.t == seen[1] < 1
    seen, found = search((-1.0, 2.0), (-2.0, -1.5), (-1.5, 0.0))
    assert seen[1] < seen[2] < 1
    assert found.t == seen[2]


@pytest.mark.parametrize("kind", range(5))
def test_trials_equal_those_of_more_and_thuente_in_scipy(kind):
    """The reference is SciPy's dcsrch, with consistent and inconsistent values and slopes."""
    dcsrch = pytest.importorskip("scipy.optimize._dcsrch", reason="SciPy is not installed")
    draw, compared = np.random.default_rng(kind), 0
    for _ in range(200):
        size = 10.0 ** draw.uniform(-3, 2)
        a, w, phase = draw.uniform(0, 0.9), draw.uniform(0.3, 9), draw.uniform(0, 6)
        noise = draw.uniform(-1, 1, (20, 2)) * (10.0 ** draw.uniform(-3, 1, (20, 1)))

        def line(t, i, size=size, a=a, w=w, phase=phase, noise=noise):
            if kind == 4:
                return noise[i]
            bowl = (t - size) ** 2 / (2 * size) - size / 2, t / size - 1
            wave = a / w * (np.sin(w * t + phase) - np.sin(phase)), a * np.cos(w * t + phase)
            return [
                bowl,
                (bowl[0] + wave[0], bowl[1] + wave[1]),
                (-t / (1 + t * t / size), -(1 - t * t / size) / (1 + t * t / size) ** 2),
                (wave[0] - 0.01 * t, wave[1] - 0.01),
            ][kind]

        slope0 = -1.0 if kind == 4 else float(line(0.0, 0)[1])
        if slope0 >= 0:
            continue
        reference = []

        def phi(t, seen=reference):
            seen.append(float(t))
            return line(t, len(seen) - 1)[0]

        def slope(t, seen=reference):
            return line(t, len(seen) - 1)[1]

        answer = dcsrch.DCSRCH(phi, slope, lbfgs.C1, lbfgs.C2, 0.1, 0, 1e300)
        answer(1.0, 0.0, slope0, maxiter=lbfgs.EVALUATIONS)
        actual = []

        def f(x, actual=actual, slope0=slope0):
            actual.append(float(x[0]))
            value, slope = line(actual[-1], len(actual) - 1)
            return np.float64(value), np.array([slope])

        # With one pair in memory, the direction is 1 and the slope along it slope0.
        g = np.array([slope0])
        state = lbfgs.LBFGSState(0.0, g, (np.array([1.0]),), (-g,), 1, "")
        lbfgs._search(f, np.zeros(1), state)
        n = min(len(actual), len(reference))  # at the end, SciPy evaluates its best point again
        np.testing.assert_allclose(actual[:n], reference[:n], rtol=1e-6)
        assert len(reference) - len(actual) in (0, 1)
        compared += n
    assert compared > 200


def test_first_trial_is_accepted_if_it_is_good():
    """The first step has length 1; later steps have t = 1."""
    for size in (1.3, 5.0):
        seen, x = [], np.array([0.0, size])

        def f(x, seen=seen):
            seen.append(x)
            return 0.25 * np.sum(x**2), 0.5 * x

        (x1, s1), (x2, s2), *_ = iterations(f, x, 2)
        np.testing.assert_allclose(x1, [0, size - 1])
        assert (s1.evaluations, s2.evaluations) == (2, 3)
        np.testing.assert_allclose(x2, 0, atol=1e-15)  # gamma is exact for this quadratic
        for x, point in zip((seen[1], seen[2]), (x1, x2), strict=True):
            np.testing.assert_array_equal(x, point)


BARRIERS = {  # f, its slope, start, the minimum
    "nan": (lambda x: x - np.log(x), lambda x: 1 - 1 / x, 3e-3, 1.0),
    "nan gradient": (
        lambda x: (x - 1) ** 2,
        lambda x: np.where(x > 0, 2 * x - 2, np.nan),
        9.0,
        1.0,
    ),
    "inf": (lambda x: np.where(x > 0.9, (x - 1) ** 2, np.inf), lambda x: 2 * x - 2, 1e3, 1.0),
    "-inf": (lambda x: np.where(x > 0.9, (x - 1) ** 2, -np.inf), lambda x: 2 * x - 2, 1e3, 1.0),
    "overflow": (lambda x: np.exp(x) - 2 * x, lambda x: np.exp(x) - 2, -80.0, math.log(2)),
    "steep": (lambda x: np.exp(x * x), lambda x: 2 * x * np.exp(x * x), 6.0, 0.0),
    "huge gradient": (
        lambda x: np.where(x > 0, x - np.log(x), 0),
        lambda x: np.where(x > 0, 1 - 1 / x, -1e30),
        3e-3,
        1.0,
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", BARRIERS)
def test_minimum_is_found_beside_nan_inf_and_overflow(name, dtype):
    f, slope, start, minimum = BARRIERS[name]
    f = elementwise(f, slope)
    for n in (1, 3):
        # after a long first step, the second mostly reaches the barrier
        x = np.linspace(start, start + 0.01 * abs(start), n).astype(dtype)
        result = minimize(f, x, max_iter=300)
        np.testing.assert_allclose(result.x, minimum, atol=1e-3)
        assert result.x.dtype == dtype
        assert math.isfinite(result.value)


def test_step_beyond_a_barrier_is_shortened():
    f = elementwise(lambda x: x - np.log(x), lambda x: 1 - 1 / x)
    x = np.array([3.0])
    value, g = f(x)
    far = (np.array([1.0]),), (np.array([0.01]),)  # gamma = 100: the first trial is at -63.7
    x1, state = LBFGS().iterate(f, x, lbfgs.LBFGSState(float(value), g, *far, 1, ""))
    assert 0 < x1[0] < 3
    assert state.value < value
    assert 3 < state.evaluations <= 6
    assert len(state.s) == 2  # a good point, without a restart


def test_search_stops_at_the_precision_of_float32():
    """The minimum within float32 is found in few evaluations and reported."""
    h = np.geomspace(1, 1e3, 20).astype("float32")

    def f(x):
        return np.sum(h * (x - 1) ** 2) + np.float32(100), 2 * h * (x - 1)

    result = minimize(f, np.zeros(20, "float32"), NO_TOLERANCE)
    assert result.message in (
        "converged: the value decreased by 0, within ftol",
        "the line search found no lower point in float32",
    )
    assert result.converged == result.message.startswith("converged")
    assert result.value == pytest.approx(100, rel=1e-6)
    assert result.evaluations <= result.iterations + 20


def test_start_at_the_minimum_converges_without_iterations(xp):
    x = xp.asarray(np.ones(3))
    result = minimize(rosenbrock, x)
    assert result.x is x
    assert result.converged
    assert result.message == "converged: max |g| = 0 <= gtol"
    assert (result.value, result.iterations, result.evaluations) == (0.0, 0, 1)
    xp.assert_close(result.gradient, np.zeros(3))


def test_constant_function_converges_after_one_evaluation():
    f = elementwise(lambda x: 0 * x + 3, lambda x: 0 * x)
    for tol in (0, 1e-5):
        result = minimize(f, np.ones(2), LBFGS(gtol=tol, ftol=tol))
        assert result.converged
        assert result.evaluations == 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (lambda x: -x, lambda x: -np.ones_like(x)),
        (lambda x: -(x**2), lambda x: -2 * x),
        (lambda x: -np.sqrt(x), lambda x: -0.5 / np.sqrt(x)),
        (lambda x: -np.exp(x), lambda x: -np.exp(x)),
        (lambda x: -np.log(x), lambda x: -1 / x),
    ],
    ids=["-x", "-x^2", "-sqrt(x)", "-exp(x)", "-log(x)"],
)
def test_unbounded_function_ends_without_convergence(f, slope, dtype):
    """It ends without a warning, and does not report convergence if f is unbounded."""
    for optimizer in (LBFGS(), NO_TOLERANCE):
        result = minimize(elementwise(f, slope), np.ones(2, dtype), optimizer, max_iter=2000)
        assert result.evaluations <= 4000
        assert result.value < -10
        assert np.all(np.isfinite(result.x))
    if f(2.0) == -2.0:
        message = "f appears unbounded below along the search direction"
        assert result.message == message
        assert not result.converged
        assert result.evaluations == 1 + lbfgs.EVALUATIONS


def test_gradient_of_the_wrong_sign_ends_without_convergence():
    """Every step goes uphill: x does not change, and further iterations do nothing."""

    def f(x):
        return np.sum(x**2), -2 * x

    x = np.array([1.0, -2.0])
    result = minimize(f, x)
    assert result.x is x
    assert not result.converged
    assert result.message == "the line search found no lower point in float64"
    assert result.iterations == 0
    assert result.evaluations <= 1 + lbfgs.EVALUATIONS
    _, state = LBFGS().iterate(f, x, LBFGS().init(x))
    again = LBFGS().iterate(None, x, state)
    assert again[0] is x
    assert again[1] is state


def test_memory_with_an_uphill_direction_is_reset():
    f, start = quadratic(3, 10.0), np.zeros(3)
    *_, (x, state) = iterations(f, start, 3)
    uphill = state._replace(y=tuple(-y for y in state.y))
    x1, state1 = NO_TOLERANCE.iterate(f, x, uphill)
    assert state1.value < state.value
    assert len(state1.s) == 1  # along -g, and only that step is stored
    np.testing.assert_allclose(np.cross(x1 - x, state.gradient), 0, atol=1e-12)
    assert state.evaluations + 2 <= state1.evaluations <= state.evaluations + 5


# Direction and memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, 2, 5, 12])
def test_two_loop_recursion_equals_the_dense_formula(pairs, xp):
    """H <- (I - rho s y') H (I - rho y s') + rho s s', from gamma I (Nocedal and Wright, 6.17)."""
    draw, n = np.random.default_rng(pairs), 7
    A = draw.standard_normal((n, n))
    hessian = A @ A.T + np.eye(n)
    s = draw.standard_normal((pairs, n))
    y = s @ hessian
    g = draw.standard_normal(n)
    H = np.eye(n) * (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    for s_i, y_i in zip(s, y, strict=True):
        V = np.eye(n) - np.outer(y_i, s_i) / (s_i @ y_i)
        H = V.T @ H @ V + np.outer(s_i, s_i) / (s_i @ y_i)
    d = lbfgs._direction(
        xp.asarray(g), tuple(xp.asarray(v) for v in s), tuple(xp.asarray(v) for v in y)
    )
    tol = 1e-10 if xp.float_name == "float64" else 1e-2
    xp.assert_close(d, -H @ g, rtol=tol, atol=tol)


def test_memory_keeps_the_newest_pairs():
    points = [rosenbrock_start(6)]
    for x, state in iterations(rosenbrock, points[0], 12, LBFGS(memory=4, gtol=0, ftol=0)):
        points.append(x)
        assert len(state.s) == min(len(points) - 1, 4)
        for s, before, after in zip(state.s[::-1], points[-2::-1], points[:0:-1], strict=False):
            np.testing.assert_array_equal(s, after - before)


def test_more_memory_takes_fewer_iterations():
    f, start = quadratic(30, 1e3), np.zeros(30)
    one, ten = (minimize(f, start, LBFGS(memory, gtol=1e-6, ftol=0)) for memory in (1, 10))
    assert one.converged
    assert ten.converged
    assert ten.iterations < 0.85 * one.iterations


@pytest.mark.parametrize(("dtype", "power"), [("float64", 60), ("float32", 30), ("float32", -20)])
def test_steps_do_not_depend_on_the_scale_of_f(dtype, power):
    """Powers of two are exact: the steps are equal bit for bit, if |g| > 1 at the start."""
    scale = 2.0**power

    def scaled(x):
        value, g = rosenbrock(x)
        return value * x.dtype.type(scale), g * x.dtype.type(scale)

    start = (50 * rosenbrock_start(4)).astype(dtype)
    plain = list(iterations(rosenbrock, start, 12))
    other = list(iterations(scaled, start, 12))
    for (x, state), (x_scaled, state_scaled) in zip(plain, other, strict=True):
        np.testing.assert_array_equal(x, x_scaled)
        assert len(state.s) == len(state_scaled.s) > 0


def test_pairs_without_curvature_are_skipped():
    """With negative curvature along the step, H would not stay positive definite."""

    def f(x):  # falls ever more steeply up to a barrier at 2
        value = -(x[0] ** 2) if x[0] < 2 else np.inf
        return np.float64(value), -2 * x

    for _, state in iterations(f, np.ones(1), 3):
        assert state.s == state.y == ()
    assert state.value == pytest.approx(-4, abs=1e-6)


@pytest.mark.parametrize(
    ("sy", "yy", "kept"),
    [
        (1e-3, 1.0, True),
        (1e-3, 1e18, True),  # steep, but curved
        (-1e-3, 1.0, False),
        (0.0, 1.0, False),
        (1e-16, 1.0, False),  # rounding error, as <g, s> = 1
        (1e-3, 0.0, False),  # a zero divisor
        (1e-3, 1e-310, False),
        (1e-3, 1e-170, False),  # gamma would be too large for a square
    ],
)
def test_curvature_condition_rejects_flat_and_tiny_pairs(sy, yy, kept):
    found = lbfgs._Point(t=2.0, value=0.0, slope=0.0, slope0=-0.5, sy=sy, yy=yy)
    assert lbfgs._curved(found, np.ones(2)) == kept


@pytest.mark.parametrize("seed", range(5))
def test_cubic_interpolation_finds_the_minimum(seed):
    """The values and slopes are those of a cubic with a known minimum."""
    draw = np.random.default_rng(seed)
    at, a, t0, t1 = draw.uniform(-1, 1), draw.uniform(0.5, 2), *draw.uniform(2, 3, 2)
    b = 3 * a * draw.uniform(5, 9)  # far from the maximum

    def point(t):
        u = t - at
        return lbfgs._Point(t, a * u**3 + b * u**2, 3 * a * u**2 + 2 * b * u)

    assert lbfgs._cubic(point(t0), point(t1)) == pytest.approx(at, abs=1e-6)
    assert lbfgs._cubic(point(t1), point(t0)) == pytest.approx(at, abs=1e-6)


def test_cubic_without_a_minimum_gives_nan_and_the_bound():
    line = [lbfgs._Point(t, -t, -1.0) for t in (0.0, 1.0)]
    assert math.isnan(lbfgs._cubic(*line))
    assert lbfgs._trial(line[0], None, line[1], (2.1, 5.0)) == 5.0
    high = lbfgs._Point(1.0, math.inf, 1.0)
    assert lbfgs._trial(line[0], None, high, (0.0, 5.0)) == 0.25


# Purity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [rosenbrock, logistic(np.geomspace(0.1, 10, 6), 0.01)])
def test_continued_iterations_equal_uninterrupted_ones(f):
    start = rosenbrock_start(6) * 0.5
    optimizer = LBFGS(memory=5, gtol=0, ftol=0)
    *_, (x, state) = iterations(f, start, 10, optimizer)
    ten = minimize(f, start, optimizer, max_iter=10)
    np.testing.assert_array_equal(ten.x, x)
    assert (ten.iterations, ten.evaluations, ten.value) == (10, state.evaluations, state.value)
    assert not ten.converged
    assert ten.message == "not converged in max_iter = 10 iterations"
    x, state = pickle.loads(pickle.dumps((x, state)))
    *_, (x, state) = iterations(f, x, 10, optimizer, state)
    twenty = minimize(f, start, optimizer, max_iter=20)
    np.testing.assert_array_equal(twenty.x, x)
    np.testing.assert_array_equal(twenty.gradient, state.gradient)
    assert (twenty.value, twenty.evaluations) == (state.value, state.evaluations)
    assert twenty.evaluations > ten.evaluations


def test_minimize_writes_to_no_array_of_f():
    kept = []

    def f(x):
        value, g = rosenbrock(x)
        for a in (x, g):
            a.flags.writeable = False
            kept.append((a, a.copy()))
        return value, g

    start = rosenbrock_start(4)
    minimize(f, start, max_iter=20)
    for a, copy in kept:
        np.testing.assert_array_equal(a, copy)


def test_f_can_reuse_its_gradient_buffer():
    buffer = np.zeros(6)

    def f(x):
        value, g = rosenbrock(x)
        buffer[:] = g
        return value, buffer

    start = rosenbrock_start(6)
    mine, plain = minimize(f, start), minimize(rosenbrock, start)
    np.testing.assert_array_equal(mine.x, plain.x)
    assert mine.gradient is not buffer


def test_iterate_is_a_pure_function():
    *_, (x, state) = iterations(rosenbrock, rosenbrock_start(4), 5)
    first, second = (LBFGS().iterate(rosenbrock, x, state) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1].value == second[1].value
    assert first[1].evaluations == second[1].evaluations


# Convergence, options and errors ----------------------------------------------------------------


def test_gtol_stops_at_the_first_small_gradient():
    for gtol in (1e-2, 1e-6):
        result = minimize(rosenbrock, rosenbrock_start(4), LBFGS(gtol=gtol, ftol=0))
        largest = np.max(np.abs(result.gradient))
        assert result.message == f"converged: max |g| = {largest:.3g} <= gtol"
        assert largest <= gtol
        *_, (_, before) = iterations(rosenbrock, rosenbrock_start(4), result.iterations - 1)
        assert np.max(np.abs(before.gradient)) > gtol


@pytest.mark.parametrize(("scale", "ftol"), [(1.0, 1e-4), (1.0, 1e-9), (1e6, 1e-4), (1e-2, 1e-4)])
def test_ftol_stops_at_the_first_small_decrease(scale, ftol):
    def f(x):
        value, g = rosenbrock(x)
        return scale * (value + 2), scale * g

    result = minimize(f, rosenbrock_start(4), LBFGS(gtol=0, ftol=ftol))
    states = [state for _, state in iterations(f, rosenbrock_start(4), result.iterations)]
    values = [state.value for state in states]
    assert result.message.startswith("converged: the value decreased by ")
    assert values[-1] == result.value
    falls = [(a - b) / max(abs(a), abs(b), 1) for a, b in itertools.pairwise(values)]
    assert falls[-1] <= ftol < min(falls[:-1])


def test_lbfgs_is_hashable_comparable_and_picklable():
    optimizer = LBFGS(5, 1e-6, 0)
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    assert hash(optimizer) == hash(LBFGS(5, 1e-6, 0.0))
    assert not hasattr(optimizer, "update")  # not an optimizer of batches
    assert "LBFGS" not in vars(optimizers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LBFGS(0), "LBFGS: memory: expected an integer of at least 1, got 0"),
        (lambda: LBFGS(2.5), "LBFGS: memory: expected an integer of at least 1, got 2.5"),
        (lambda: LBFGS(True), "LBFGS: memory: expected an integer of at least 1, got True"),
        (lambda: LBFGS(gtol=-1), "LBFGS: expected a finite gtol >= 0, got -1"),
        (lambda: LBFGS(gtol=math.nan), "LBFGS: expected a finite gtol >= 0, got nan"),
        (lambda: LBFGS(ftol=math.inf), "LBFGS: expected a finite ftol >= 0, got inf"),
        (lambda: LBFGS(ftol="1"), "LBFGS: expected a finite ftol >= 0, got '1'"),
        (
            lambda: minimize(rosenbrock, np.ones(2), max_iter=0),
            "minimize: max_iter: expected an integer of at least 1, got 0",
        ),
    ],
)
def test_bad_options_raise_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 1)), ShapeError, r"expected x of shape \(n,\), n >= 1, got \(2, 1\)"),
        (np.array(1.0), ShapeError, r"expected x of shape \(n,\), n >= 1, got \(\)"),
        (np.ones(0), ShapeError, r"expected x of shape \(n,\), n >= 1, got \(0,\)"),
        (np.ones(2, int), TypeError, "expected x of a floating dtype, got int64"),
        (np.ones(2, complex), TypeError, "expected x of a floating dtype, got complex128"),
        ([1.0, 2.0], TypeError, "expected arrays of one library, got a list"),
    ],
)
def test_bad_starts_raise(x, error, message):
    with pytest.raises(error, match=message):
        minimize(rosenbrock, x)


X = np.ones(2)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((X[0], np.ones(3)), ShapeError, r"a gradient of shape \(2,\).*got \(3,\) and float64"),
        ((X[0], np.ones((2, 1))), ShapeError, r"gradient of shape \(2,\).*got \(2, 1\)"),
        (
            (X[0], X.astype("float32")),
            ShapeError,
            r"gradient.*dtype float64, got \(2,\) and float32",
        ),
        ((X[0], [1.0, 1.0]), ShapeError, r"gradient of shape \(2,\) and dtype float64, got a list"),
        ((X[:1], X), ShapeError, r"a value of shape \(\) and dtype float64, got \(1,\)"),
        ((1.0, X), ShapeError, r"a value of shape \(\).*got a float$"),
        ((np.float32(1), X), ShapeError, r"a value of shape \(\).*got \(\) and float32"),
        (X[0], TypeError, r"expected f\(x\) to return value, gradient, got a numpy array"),
        (X, TypeError, r"expected f\(x\) to return value, gradient, got a numpy array"),
        ((np.float64(np.nan), X), FloatingPointError, "finite, got a value of nan and .* of 1$"),
        ((np.float64(-np.inf), X), FloatingPointError, "finite, got a value of -inf"),
        (
            (X[0], X * np.inf),
            FloatingPointError,
            r"expected a start where .* largest \|gradient\| of inf",
        ),
        (
            (X[0], X * np.nan),
            FloatingPointError,
            r"got a value of 1 and a largest \|gradient\| of nan",
        ),
        (
            (X[0], X * 1e200),
            FloatingPointError,
            r"its square are finite, .* largest \|gradient\| of 1e\+200",
        ),
    ],
)
def test_bad_values_and_gradients_of_f_raise(answer, error, message):
    with pytest.raises(error, match=message):
        minimize(lambda x: answer, X)


def test_bad_gradient_after_the_start_raises():
    def f(x):
        value, g = rosenbrock(x)
        return value, (g if x is start else g[:1])

    start = np.zeros(2)
    with pytest.raises(ShapeError, match=r"a gradient of shape \(2,\)"):
        minimize(f, start)


def test_f_that_returns_another_library_raises(torch):
    with pytest.raises((TypeError, ShapeError), match="expected"):
        minimize(lambda x: (torch.sum(torch.ones(2)), torch.ones(2)), np.ones(2, "float32"))


def test_bad_objective_or_optimizer_raises():
    with pytest.raises(TypeError, match=r"an objective f\(x\) -> value, gradient"):
        minimize(None, np.ones(2))
    with pytest.raises(TypeError, match=r"an optimizer with init, iterate.*write it with \(\)"):
        minimize(rosenbrock, np.ones(2), LBFGS)


def test_errors_raised_in_f_propagate():
    def f(x):
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match="mine"):
        minimize(f, np.ones(2))


# Trial points of the line search ----------------------------------------------------------------


def test_first_trial_has_distance_1():
    """For any gradient; if its square underflows, rounding ends the search."""
    seen = []

    def f(x):
        seen.append(x)
        return 0.5 * np.sum(x**2), x

    minimize(f, np.array([3.0, 4.0]), max_iter=1)
    np.testing.assert_allclose(seen[1], [2.4, 3.2])
    tiny = np.full(2, 1e-200)
    np.testing.assert_array_equal(lbfgs._direction(tiny, (), ()), -tiny)
    state = lbfgs.LBFGSState(0.0, tiny, (), (), 1, "")
    assert lbfgs._search(f, np.zeros(2), state) == (None, 1, False)


def test_armijo_condition_includes_equality():
    assert search((-lbfgs.C1, 0.0))[0] == [1]


def test_values_too_large_for_a_cubic_give_a_finite_trial():
    """The trial is that of a parabola or of the slopes."""
    seen, _ = search((1.7e308, 1.0), (-0.1, 0.0))
    assert 0 <= seen[1] < 1e-300


def test_cubic_interpolation_does_not_depend_on_scale():
    at, after = lbfgs._Point(1.0, 0.0, -1.0), lbfgs._Point(3.0, 0.5, 2.0)
    for scale in (1e-200, 1e200):
        large = [p._replace(value=scale * p.value, slope=scale * p.slope) for p in (at, after)]
        assert lbfgs._cubic(*large) == pytest.approx(lbfgs._cubic(at, after), rel=1e-12)
    flat = [lbfgs._Point(t, 1.0, 0.0) for t in (0.0, 1.0)]
    assert math.isnan(lbfgs._cubic(*flat))


@pytest.mark.parametrize("kind", ["armijo", "falls", "ties"])
def test_trials_for_given_values_and_slopes_equal_dcsrch(kind):
    """The reference is dcsrch: near the Armijo line, for long falls, and for equal values."""
    dcsrch = pytest.importorskip("scipy.optimize._dcsrch", reason="SciPy is not installed")
    for seed in range(300):
        u = np.random.default_rng(seed).uniform(0, 1, (20, 2))
        sign = np.where(u[::-1, 0] < 0.5, 1, -1)
        actual, reference = [], []

        def line(t, i, u=u, sign=sign):
            if kind == "armijo":
                return lbfgs.C1 * t * (1 - 4 * u[i, 0]), sign[i] * (0.91 + u[i, 1])
            if kind == "falls":
                return -t * (1 + 2 * u[i, 0]), -0.91 - 2 * u[i, 1]
            return (np.floor(5 * u[i, 0]) - 3) * lbfgs.C1, np.floor(5 * u[i, 1]) - 2.5

        def phi(t, seen=reference, line=line):
            seen.append(float(t))
            return line(t, len(seen) - 1)[0]

        def slope(t, seen=reference, line=line):
            return line(t, len(seen) - 1)[1]

        def f(x, seen=actual, line=line):
            seen.append(float(x[0]))
            value, slope = line(seen[-1], len(seen) - 1)
            return np.float64(value), np.array([slope])

        answer = dcsrch.DCSRCH(phi, slope, lbfgs.C1, lbfgs.C2, 0.1, 0, 1e300)
        answer(1.0, 0.0, -1.0, maxiter=lbfgs.EVALUATIONS)
        state = lbfgs.LBFGSState(0.0, np.array([-1.0]), (), (), 1, "")
        lbfgs._search(f, np.zeros(1), state)
        n = min(len(actual), len(reference))
        np.testing.assert_allclose(actual[:n], reference[:n], rtol=1e-6)
        assert len(reference) - len(actual) in (0, 1)
