"""L-BFGS: a quasi-Newton method that approximates the inverse Hessian from the last steps.

For functions of one vector with exact values and gradients: full batches, not random ones.
`minimize` iterates until convergence; `LBFGS` makes one iteration at a time.

Vectors stay on their device, in any array library. The line search needs a few numbers for each
evaluation of f, which are moved to the host in one transfer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._typing import Array, ValueAndGrad
from ._validation import check_integer, check_methods, check_number
from .backend import ShapeError, describe, namespace, read_floats

__all__ = ["LBFGS", "LBFGSState", "Result", "minimize"]

Objective = Callable[[Array], ValueAndGrad]  # x (n,) -> value 0-d, gradient (n,)

# The strong Wolfe conditions on a step t along d: f(t) <= f(0) + C1 t f'(0) (Armijo) and
# |f'(t)| <= C2 |f'(0)|. C2 is large, as d is close to Newton's step.
C1, C2 = 1e-3, 0.9
EVALUATIONS = 20  # maximum for one line search


class Result(NamedTuple):
    """Result of a minimization: the point, and why it stopped.

    x and gradient have shape (n,).

    Examples
    --------
    >>> import numpy as np
    >>> from portnet import lbfgs
    >>> f = lambda x: (np.sum((x - 3.0) ** 2), 2 * (x - 3.0))
    >>> result = lbfgs.minimize(f, np.zeros(2))
    >>> result.x, result.converged
    (array([3., 3.]), True)
    """

    x: Array
    value: float
    gradient: Array
    iterations: int
    evaluations: int
    converged: bool
    message: str


class LBFGSState(NamedTuple):
    """State of L-BFGS besides x.

    gradient and the arrays of s and y have shape (n,).

    Examples
    --------
    >>> import numpy as np
    >>> from portnet import lbfgs
    >>> f = lambda x: (np.sum((x - 3.0) ** 2), 2 * (x - 3.0))
    >>> optimizer, x = lbfgs.LBFGS(), np.zeros(2)
    >>> x, state = optimizer.iterate(f, x, optimizer.init(x))
    >>> state.value < 18.0, len(state.s)  # f at the start is 18
    (True, 1)
    """

    value: float  # f(x); nan before the first evaluation
    gradient: Array | None  # (n,) at x; None before the first evaluation
    s: tuple[Array, ...]  # the last steps x_{k+1} - x_k, newest last
    y: tuple[Array, ...]  # the changes of the gradient on these steps
    evaluations: int  # of f so far
    status: str  # why it stopped; empty while it runs


@dataclass(frozen=True)
class LBFGS:
    """x <- x - t H g: H is the BFGS estimate of the inverse Hessian from the last `memory` steps.

    Nocedal and Wright (2006), algorithms 7.4 and 7.5. It has converged if max |g_i| <= gtol, or if
    f_k - f_{k+1} <= ftol max(|f_k|, |f_{k+1}|, 1).

    Shapes: x and the gradient are (n,), the value of f is 0-d.

    Examples
    --------
    >>> import portnet
    >>> net = portnet.mlp([1, 8, 1], "tanh")
    >>> trainer = portnet.Trainer(net, "squared_error", portnet.LBFGS())
    >>> run = trainer.fit([[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0], epochs=50)
    >>> run.history["loss"][-1] < 1e-3
    True
    """

    memory: int = 10
    gtol: float = 1e-5
    ftol: float = 2.2e-9

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", check_integer("LBFGS: memory", self.memory, 1))
        check_number(self, "gtol", "a finite gtol >= 0", lambda tol: 0 <= tol < math.inf)
        check_number(self, "ftol", "a finite ftol >= 0", lambda tol: 0 <= tol < math.inf)

    def init(self, params: Array) -> LBFGSState:
        """Return the initial state; the first iteration also evaluates f at the start."""
        return LBFGSState(math.nan, None, (), (), 0, "")

    def iterate(self, f: Objective, x: Array, state: LBFGSState) -> tuple[Array, LBFGSState]:
        """Make one iteration: compute the direction, search along it, update the memory.

        Parameters
        ----------
        f : callable
            ``f(x) -> value, gradient``: 0-d and (n,), of the dtype of x. If it is inf or NaN away
            from the start, the line search backtracks.
        x : array (n,), floating
        state : LBFGSState

        Returns
        -------
        x, state
            The given objects if state.status is not empty. If no lower point is found, even along
            -g, x is unchanged and the status says so.

        Raises
        ------
        ShapeError
            if x, the value or the gradient has another shape or dtype.
        TypeError
            if x is not a floating array, or f does not return a pair.
        FloatingPointError
            if the value or the gradient at the start is not finite.
        """
        if not state.status:
            _check_start(f, x)
            if state.gradient is None:
                state = self._first(f, x, state)
        if state.status:
            return x, state
        found, tries, unbounded = _search(f, x, state)
        evaluations = state.evaluations + tries
        if found is None and state.s:  # restart without memory, along -g
            state = state._replace(s=(), y=())
            found, tries, unbounded = _search(f, x, state)
            evaluations += tries
        if found is None:
            status = f"the line search found no lower point in {x.dtype}"
            return x, state._replace(evaluations=evaluations, status=status)
        s, y = state.s, state.y
        if _curved(found, x):
            s, y = (*s, found.s)[-self.memory :], (*y, found.y)[-self.memory :]
            unbounded = False  # the curvature scales the next step
        status = self._status(state.value, found)
        if unbounded and not status:
            status = "f appears unbounded below along the search direction"
        return found.x, LBFGSState(found.value, found.gradient, s, y, evaluations, status)

    def _first(self, f: Objective, x: Array, state: LBFGSState) -> LBFGSState:
        """Evaluate f at the start; raise FloatingPointError if it is not finite."""
        value, gradient, largest = _evaluate(f, x)
        f_x, g_max = read_floats([value, largest])
        if not (math.isfinite(f_x) and g_max <= _limit(x)):
            raise FloatingPointError(
                "LBFGS: expected a start where the value, the gradient and its square are finite, "
                f"got a value of {f_x:.6g} and a largest |gradient| of {g_max:.6g}"
            )
        status = self._check_gtol(g_max)
        return state._replace(value=f_x, gradient=gradient, evaluations=1, status=status)

    def _status(self, before: float, found: "_Point") -> str:
        decrease = before - found.value
        status = self._check_gtol(found.largest)
        if not status and decrease <= self.ftol * max(abs(before), abs(found.value), 1.0):
            status = f"converged: the value decreased by {decrease:.3g}, within ftol"
        return status

    def _check_gtol(self, largest: float) -> str:
        return f"converged: max |g| = {largest:.3g} <= gtol" if largest <= self.gtol else ""


def minimize(
    f: Objective,
    x: Array,
    optimizer: LBFGS = LBFGS(),
    *,
    max_iter: int = 1000,
) -> Result:
    """x* = argmin f(x), by iterations of L-BFGS from x until convergence.

    Parameters
    ----------
    f : callable
        ``f(x) -> value, gradient``: see `LBFGS.iterate`, also for the errors.
    x : array (n,), floating
        The start.
    optimizer : LBFGS
    max_iter : int

    Returns
    -------
    Result
        The lowest point found. `converged` is False if it stopped at max_iter or at the floating
        precision, and `message` says so.

    Examples
    --------
    >>> import numpy as np
    >>> minimize(lambda x: (np.sum((x - 3.0) ** 2), 2 * (x - 3.0)), np.zeros(2)).x
    array([3., 3.])
    """
    max_iter = check_integer("minimize: max_iter", max_iter, 1)
    check_methods("an optimizer", optimizer, ("init", "iterate"))
    state, iterations = optimizer.init(x), 0
    while not state.status and iterations < max_iter:
        before = x
        x, state = optimizer.iterate(f, before, state)
        iterations += x is not before
    assert state.gradient is not None
    return Result(
        x,
        state.value,
        state.gradient,
        iterations,
        state.evaluations,
        state.status.startswith("converged"),
        state.status or f"not converged in max_iter = {max_iter} iterations",
    )


# The direction ----------------------------------------------------------------------------------


def _direction(g: Array, s: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
    """d = -H g, by the two-loop recursion of Nocedal and Wright (2006), algorithm 7.4.

    H starts from gamma = <s, y> / <y, y> of the newest pair, the size of the inverse Hessian along
    y, so that t = 1 is nearly always accepted. Without pairs, d = -g / |g|. Nothing is moved to the
    host.
    """
    if not s:
        xp, norm = namespace(g), _dot(g, g) ** 0.5
        divisor: Array = xp.where(norm > 0, norm, xp.ones_like(norm))
        return -g / divisor
    q = g
    pairs = [(s_i, y_i, _dot(s_i, y_i)) for s_i, y_i in zip(s, y, strict=True)]
    alphas = []
    for s_i, y_i, sy in reversed(pairs):
        alpha = _dot(s_i, q) / sy
        alphas.append(alpha)
        q = q - alpha * y_i
    r = q * (pairs[-1][2] / _dot(y[-1], y[-1]))
    for (s_i, y_i, sy), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = _dot(y_i, r) / sy
        r = r + (alpha - beta) * s_i
    return -r


def _curved(found: "_Point", x: Array) -> bool:
    """Return whether <s, y> is positive beyond rounding: else H may not be positive definite.

    The test of L-BFGS-B (Zhu et al. 1997), <s, y> > eps t |f'(0)|, which does not depend on the
    scale of f. Also, the divisors of the direction must be normal numbers, and gamma^2 finite.
    """
    info = namespace(x).finfo(x.dtype)
    tiny = float(info.smallest_normal)
    low = max(float(info.eps) * found.t * abs(found.slope0), tiny)
    return found.sy > low and found.yy > tiny and found.sy / found.yy < math.sqrt(float(info.max))


# The line search --------------------------------------------------------------------------------


class _Point(NamedTuple):
    """A point x + t d on the line; numbers are on the host, vectors on their device."""

    t: float
    value: float  # inf where f or its gradient is not finite
    slope: float  # <g, d>
    slope0: float = 0.0  # the slope at t = 0
    largest: float = 0.0  # max |g|
    sy: float = 0.0  # <s, y>
    yy: float = 0.0  # <y, y>
    x: Any = None  # these are arrays; None at the start, which the search does not return
    gradient: Any = None
    s: Any = None  # x + t d - x, with its rounding
    y: Any = None


def _search(f: Objective, x: Array, state: LBFGSState) -> tuple[_Point | None, int, bool]:
    """Find a step along the state's direction that meets the strong Wolfe conditions.

    More and Thuente (1994), with the steps of L-BFGS-B. `low` is the lowest point so far, and f
    decreases from it towards `high`; an acceptable step is between them, or beyond `low` if there
    is no `high` yet. The search ends when they are within a tenth of each other.

    Returns the point (the lowest if none is acceptable, None if none is lower), the number of
    evaluations, and whether f was still decreasing at the furthest point.
    """
    assert state.gradient is not None
    d = _direction(state.gradient, state.s, state.y)
    eps = float(namespace(x).finfo(x.dtype).eps)
    evaluate = _along(f, x, state.gradient, d)
    start = low = _Point(0.0, state.value, 0.0)
    high: _Point | None = None
    t, widths, first_stage = 1.0, (math.inf, math.inf), True
    for tries in range(1, EVALUATIONS + 1):
        p = evaluate(t)
        if tries == 1:
            if not p.slope0 < 0:  # not a descent direction, by rounding, or NaN
                return None, tries, False
            start = low = start._replace(slope=p.slope0)  # from the first transfer
        armijo = C1 * start.slope
        sufficient = p.value <= start.value + t * armijo
        if sufficient and abs(p.slope) <= C2 * abs(start.slope):
            return p, tries, False
        first_stage = first_stage and not (sufficient and p.slope >= 0)
        # In the first stage, a lower point without sufficient decrease: use f(t) - C1 t f'(0).
        tilt = armijo if first_stage and not sufficient and p.value <= low.value else 0.0
        inner, here = _tilted(low, tilt), _tilted(p, tilt)
        outer = high and _tilted(high, tilt)
        span = (t + 1.1 * (t - low.t) if tries > 1 else 0.0, t + 4.0 * (t - low.t))
        t = _trial(inner, outer, here, span)
        if here.value > inner.value:
            high = p
        else:
            high = low if here.slope * inner.slope < 0 else high
            low = p
        if high is None:
            continue
        width = abs(high.t - low.t)
        if width >= 0.66 * widths[0]:
            t = 0.5 * (low.t + high.t)
        widths = widths[1], width
        ends = sorted((low.t, high.t))
        narrow = width <= 0.1 * ends[1] and high.value < math.inf
        if narrow or not ends[0] < t < ends[1]:
            break
        if abs(low.slope * width) <= eps * abs(low.value):
            break  # the possible decrease is below the rounding of f
    return (low if low.value < start.value else None), tries, high is None


def _tilted(p: _Point, slope: float) -> _Point:
    """Return the point of f(t) - slope t."""
    return p._replace(value=p.value - p.t * slope, slope=p.slope - slope)


def _trial(low: _Point, high: _Point | None, p: _Point, span: tuple[float, float]) -> float:
    """Return the next t, from the minima of a cubic and of a parabola.

    The four cases of More and Thuente (1994), section 4. `span` bounds t if there is no `high`.
    """
    if p.value == math.inf:
        return low.t + 0.25 * (p.t - low.t)
    width = p.t - low.t
    if p.value > low.value:  # 1: higher; a minimum is between
        cubic = _cubic(low, p)
        parabola = low.t + 0.5 * width * low.slope / ((low.value - p.value) / width + low.slope)
        if not math.isfinite(cubic):
            return parabola
        if abs(cubic - low.t) < abs(parabola - low.t):
            return cubic
        return cubic + 0.5 * (parabola - cubic)
    cubic, turns = _cubic(p, low), p.slope - low.slope
    secant = p.t - width * p.slope / turns if turns else math.inf
    if p.slope * low.slope < 0:  # 2: lower, and the slope has turned; a minimum is between
        if not math.isfinite(cubic):
            return secant
        return cubic if abs(cubic - p.t) > abs(secant - p.t) else secant
    if abs(p.slope) < abs(low.slope):  # 3: lower, and flatter; a minimum may be further out
        if not (cubic - p.t) * width > 0:  # also if nan
            cubic = high.t if high is not None else span[1] if width > 0 else span[0]
        if high is None:
            far = cubic if abs(cubic - p.t) > abs(secant - p.t) else secant
            return min(max(far, span[0]), span[1])
        near = cubic if abs(cubic - p.t) < abs(secant - p.t) else secant
        limit = p.t + 0.66 * (high.t - p.t)
        return min(limit, near) if width > 0 else max(limit, near)
    if high is not None:  # 4: lower, and as steep
        cubic = _cubic(p, high)
        return cubic if math.isfinite(cubic) else p.t + 0.25 * (high.t - p.t)
    return span[1] if width > 0 else span[0]


def _along(f: Objective, x: Array, g: Array, d: Array) -> Callable[[float], _Point]:
    """Return the function that evaluates f at x + t d, with one transfer to the host."""
    limit = _limit(x)
    along_g = _dot(g, d)

    def evaluate(t: float) -> _Point:
        x_t = x + t * d
        value, g_t, largest = _evaluate(f, x_t)
        s, y = x_t - x, g_t - g
        numbers = [value, largest, _dot(g_t, d), along_g, _dot(s, y), _dot(y, y)]
        f_t, g_max, slope, slope0, sy, yy = read_floats(numbers)
        f_t = f_t if math.isfinite(f_t) and g_max <= limit else math.inf
        return _Point(t, f_t, slope, slope0, g_max, sy, yy, x_t, g_t, s, y)

    return evaluate


def _cubic(a: _Point, b: _Point) -> float:
    """Return the minimum of the cubic through two values and slopes; nan if it has none.

    Nocedal and Wright (2006), equation 3.59, in the scaled form of More and Thuente (1994).
    """
    theta = 3 * (a.value - b.value) / (b.t - a.t) + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    if not 0 < scale < math.inf:
        return math.nan
    square = (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)
    if not square >= 0:  # also NaN
        return math.nan
    gamma = math.copysign(scale * math.sqrt(square), b.t - a.t)
    below = gamma - a.slope + gamma + b.slope
    return a.t + (gamma - a.slope + theta) / below * (b.t - a.t) if below else math.nan


# Evaluation -------------------------------------------------------------------------------------


def _evaluate(f: Objective, x: Array) -> tuple[Array, Array, Array]:
    """Return f(x), its gradient and max |g|, or raise ShapeError; the gradient is a copy.

    In the gradient, components above `_limit` or not finite become 0, so that no product overflows:
    NumPy would warn. max |g| is that of the original.
    """
    result = f(x)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(f"expected f(x) to return value, gradient, got {describe(result)}")
    for a, name, shape in zip(result, ("value", "gradient"), ((), tuple(x.shape)), strict=True):
        given = getattr(a, "shape", None)
        if given is None or tuple(given) != shape or a.dtype != x.dtype:
            got = describe(a) if given is None else f"{tuple(given)} and {a.dtype}"
            raise ShapeError(
                f"f: expected a {name} of shape {shape} and dtype {x.dtype}, got {got}"
            )
    value, g = result
    xp = namespace(x, value, g)
    size = xp.abs(g)
    return value, xp.where(size <= _limit(x), g, xp.zeros_like(g)), xp.max(size)


def _limit(x: Array) -> float:
    """Return the largest |g_i| for which <y, y> is guaranteed to be finite."""
    return math.sqrt(float(namespace(x).finfo(x.dtype).max) / (4.0 * x.shape[0]))


def _dot(a: Array, b: Array) -> Array:
    """<a, b>, 0-d; not a matrix product, which some devices compute in reduced precision."""
    product: Array = namespace(a).sum(a * b)
    return product


def _check_start(f: Objective, x: Array) -> None:
    check_methods("an objective f(x) -> value, gradient", f, ("__call__",))
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "real floating"):
        raise TypeError(f"LBFGS: expected x of a floating dtype, got {x.dtype}")
    if x.ndim != 1 or x.shape[0] == 0:
        raise ShapeError(f"LBFGS: expected x of shape (n,), n >= 1, got {tuple(x.shape)}")
