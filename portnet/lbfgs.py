"""L-BFGS: from the last steps and how the gradient changed on them, nearly Newton's steps.

For functions of one vector whose value and gradient are exact: full batches, not random ones.
`minimize` is all that most callers need; `LBFGS` makes one iteration at a time.

The vectors stay where they are, in any array library. What decides where to step next are a few
numbers for each evaluation of f, and they come to the host together, in one transfer; nothing else
does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ._typing import Array
from ._validation import check_integer, check_methods, check_number
from .backend import ShapeError, describe, namespace, to_numpy

Objective = Callable[[Array], tuple[Array, Array]]  # x (n,) -> value 0-d, gradient (n,)

# A step t along d is good where it lowers f by C1 of what the slope promised (Armijo) and leaves
# at most C2 of the slope: the strong Wolfe conditions. C2 is wide, as d is nearly Newton's step.
C1, C2 = 1e-3, 0.9
EVALUATIONS = 20  # of f in one line search, at most


class Result(NamedTuple):
    """Where a minimization ended, and why.

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
    """What L-BFGS remembers besides x.

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
    y: tuple[Array, ...]  # how the gradient changed on them
    evaluations: int  # of f so far
    status: str  # why it ended; empty while it goes on


@dataclass(frozen=True)
class LBFGS:
    """x <- x - t H g: H is the inverse Hessian that BFGS builds from the last `memory` steps.

    Nocedal and Wright (2006), algorithms 7.4 and 7.5. It has converged where max |g_i| <= gtol, or
    where f_k - f_{k+1} <= ftol max(|f_k|, |f_{k+1}|, 1).

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
        """Nothing is known: the first iteration evaluates f at its start, too."""
        return LBFGSState(math.nan, None, (), (), 0, "")

    def iterate(self, f: Objective, x: Array, state: LBFGSState) -> tuple[Array, LBFGSState]:
        """Make one iteration: a direction, a line search along it, a new pair in the memory.

        Parameters
        ----------
        f : callable
            ``f(x) -> value, gradient``: 0-d and (n,), of the dtype of x. Where it is inf or NaN
            away from the start, the line search steps back.
        x : array (n,), floating
        state : LBFGSState

        Returns
        -------
        x, state
            The very ones that were given where state.status says that all is over. Where no lower
            point is found, even along -g, x is unchanged, and the status says so.

        Raises
        ------
        ShapeError
            where x, the value or the gradient has another shape or dtype than these.
        TypeError
            where x is no floating array, or f returns no pair.
        FloatingPointError
            where the value or the gradient at the start is not finite.
        """
        if state.status:
            return x, state
        _check_start(f, x)
        if state.gradient is None:
            state = self._first(f, x, state)
        if state.status:
            return x, state
        found, tries, endless = _search(f, x, state)
        evaluations = state.evaluations + tries
        if found is None and state.s:  # a memory that leads nowhere is worth nothing
            state = state._replace(s=(), y=())
            found, tries, endless = _search(f, x, state)
            evaluations += tries
        if found is None:
            status = f"the line search cannot go lower in {x.dtype}"
            return x, state._replace(evaluations=evaluations, status=status)
        s, y = state.s, state.y
        if _curved(found, x):
            s, y = (*s, found.s)[-self.memory :], (*y, found.y)[-self.memory :]
            endless = False  # the next step knows how far to go
        status = self._status(state.value, found)
        if endless and not status:
            status = "f falls without end along a line: it seems to have no minimum"
        return found.x, LBFGSState(found.value, found.gradient, s, y, evaluations, status)

    def _first(self, f: Objective, x: Array, state: LBFGSState) -> LBFGSState:
        """Evaluate f at the start, which must be finite."""
        value, gradient, largest = _evaluate(f, x)
        f_x, g_max = _numbers([value, largest])
        if not (math.isfinite(f_x) and g_max <= _limit(x)):
            raise FloatingPointError(
                "LBFGS: expected a start where the value, the gradient and its square are finite, "
                f"got a value of {f_x:.6g} and a largest |gradient| of {g_max:.6g}"
            )
        return state._replace(value=f_x, gradient=gradient, evaluations=1, status=self._flat(g_max))

    def _status(self, before: float, found: "_Point") -> str:
        fall = before - found.value
        if fall <= self.ftol * max(abs(before), abs(found.value), 1.0):
            low = f"converged: the value fell by {fall:.3g}, within ftol"
        else:
            low = ""
        return self._flat(found.largest) or low

    def _flat(self, largest: float) -> str:
        return f"converged: max |g| = {largest:.3g} <= gtol" if largest <= self.gtol else ""


def minimize(
    f: Objective,
    x: Array,
    optimizer: LBFGS = LBFGS(),
    *,
    max_iter: int = 1000,
) -> Result:
    """x* = argmin f(x), by iterations of L-BFGS from x until they have converged.

    Parameters
    ----------
    f : callable
        ``f(x) -> value, gradient``: see `LBFGS.iterate`, also for what is raised.
    x : array (n,), floating
        The start.
    optimizer : LBFGS
    max_iter : int

    Returns
    -------
    Result
        The lowest point that was met; `converged` is False where max_iter or the floating precision
        ended it, and `message` says so.

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
    """d = -H g, by the two loops of Nocedal and Wright (2006), algorithm 7.4.

    H starts from gamma = <s, y> / <y, y> of the newest pair, the size of the inverse Hessian along
    y, so that t = 1 is nearly always a good step. Without pairs, d = -g / |g|. All of this stays on
    the device.
    """
    if not s:
        xp, norm = namespace(g), _dot(g, g) ** 0.5
        return -g / xp.where(norm > 0, norm, xp.ones_like(norm))
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
    """Tell whether <s, y> is positive beyond rounding, as H stays positive definite only then.

    L-BFGS-B's test (Zhu et al. 1997): eps times what <s, y> is where the slope vanishes, so that
    the scale of f does not matter. What the direction divides by must also be normal numbers, and
    gamma no larger than has a square.
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
    x: Array = None
    gradient: Array = None
    s: Array = None  # x + t d - x, as it was rounded
    y: Array = None


def _search(f: Objective, x: Array, state: LBFGSState) -> tuple[_Point | None, int, bool]:
    """Find a step along the state's direction that meets the strong Wolfe conditions.

    More and Thuente (1994), as L-BFGS-B has it, so that the two make the same steps: `low` is the
    lowest point so far, and f falls from it towards `high`; between the two are good steps. As long
    as there is no `high`, they are further out. Where they are within a tenth of each other, `low`
    is good enough.

    Returns the point (the lowest where there is no good one, None where none is lower), the number
    of evaluations, and whether f still fell at the furthest point that was tried.
    """
    d = _direction(state.gradient, state.s, state.y)
    eps = float(namespace(x).finfo(x.dtype).eps)
    evaluate = _along(f, x, state.gradient, d)
    start = low = _Point(0.0, state.value, 0.0)
    high: _Point | None = None
    t, widths, early = 1.0, (math.inf, math.inf), True
    for tries in range(1, EVALUATIONS + 1):
        p = evaluate(t)
        if tries == 1:
            if not p.slope0 < 0:  # rounding made it no descent, or NaN
                return None, tries, False
            start = low = start._replace(slope=p.slope0)  # it came with the first transfer
        enough = C1 * start.slope
        falls = p.value <= start.value + t * enough
        if falls and abs(p.slope) <= C2 * abs(start.slope):
            return p, tries, False
        early = early and not (falls and p.slope >= 0)
        # Early, a point that is lower, but not enough, is judged by f(t) - C1 t f'(0).
        tilt = enough if early and not falls and p.value <= low.value else 0.0
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
            break  # what is left to gain is less than the rounding of f
    return (low if low.value < start.value else None), tries, high is None


def _tilted(p: _Point, slope: float) -> _Point:
    """Return the point on f(t) - slope t."""
    return p._replace(value=p.value - p.t * slope, slope=p.slope - slope)


def _trial(low: _Point, high: _Point | None, p: _Point, span: tuple[float, float]) -> float:
    """Return the next t, from the minima of a cubic and of a parabola: the four cases.

    More and Thuente (1994), section 4; `span` is where it may be, as long as there is no `high`.
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
        if not (cubic - p.t) * width > 0:  # also where there is none
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
        f_t, g_max, slope, slope0, sy, yy = _numbers(numbers)
        f_t = f_t if math.isfinite(f_t) and g_max <= limit else math.inf
        return _Point(t, f_t, slope, slope0, g_max, sy, yy, x_t, g_t, s, y)

    return evaluate


def _cubic(a: _Point, b: _Point) -> float:
    """Where the cubic through two values and slopes has its minimum; nan where it has none.

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


# Values and numbers -----------------------------------------------------------------------------


def _evaluate(f: Objective, x: Array) -> tuple[Array, Array, Array]:
    """Return f(x), its gradient and max |g|, or raise ShapeError; the gradient is a copy.

    Components too large for `_limit`, or not finite, become 0 (max |g| still tells), so that no
    product of gradients overflows: NumPy would warn.
    """
    answer = f(x)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise TypeError(f"expected f(x) to return value, gradient, got {describe(answer)}")
    for a, name, shape in zip(answer, ("value", "gradient"), ((), tuple(x.shape)), strict=True):
        given = getattr(a, "shape", None)
        if given is None or tuple(given) != shape or a.dtype != x.dtype:
            got = describe(a) if given is None else f"{tuple(given)} and {a.dtype}"
            raise ShapeError(
                f"f: expected a {name} of shape {shape} and dtype {x.dtype}, got {got}"
            )
    value, g = answer
    xp = namespace(x, value, g)
    size = xp.abs(g)
    return value, xp.where(size <= _limit(x), g, xp.zeros_like(g)), xp.max(size)


def _limit(x: Array) -> float:
    """Return the largest |g_i| for which <y, y> is sure to be finite."""
    return math.sqrt(float(namespace(x).finfo(x.dtype).max) / (4.0 * x.shape[0]))


def _numbers(arrays: list[Array]) -> list[float]:
    """Bring 0-d arrays to the host, in one transfer."""
    return [float(a) for a in to_numpy(namespace(*arrays).stack(arrays))]


def _dot(a: Array, b: Array) -> Array:
    """<a, b>, 0-d: not as a matrix product, which some devices make of shortened floats."""
    return namespace(a).sum(a * b)


def _check_start(f: Objective, x: Array) -> None:
    check_methods("an objective f(x) -> value, gradient", f, ("__call__",))
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "real floating"):
        raise TypeError(f"LBFGS: expected x of a floating dtype, got {x.dtype}")
    if x.ndim != 1 or x.shape[0] == 0:
        raise ShapeError(f"LBFGS: expected x of shape (n,), n >= 1, got {tuple(x.shape)}")
