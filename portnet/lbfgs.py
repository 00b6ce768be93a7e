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
from typing import Any, NamedTuple

from .backend import ShapeError, describe, namespace, to_numpy
from .options import integer, methods, number

Array = Any
Objective = Callable[[Array], tuple[Array, Array]]  # x (n,) -> value 0-d, gradient (n,)

# A step t along d is good where it lowers f by C1 of what the slope promised (Armijo) and leaves
# at most C2 of the slope: the strong Wolfe conditions. C2 is wide, as d is nearly Newton's step.
C1, C2 = 1e-4, 0.9
EVALUATIONS = 20  # of f in one line search, at most


class Result(NamedTuple):
    """Where a minimization ended, and why."""

    x: Array
    value: float
    gradient: Array
    iterations: int
    evaluations: int
    converged: bool
    message: str


class LBFGSState(NamedTuple):
    """What L-BFGS remembers besides x."""

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
    """

    memory: int = 10
    gtol: float = 1e-5
    ftol: float = 2.2e-9

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", integer("LBFGS: memory", self.memory, 1))
        number(self, "gtol", "a finite gtol >= 0", lambda tol: 0 <= tol < math.inf)
        number(self, "ftol", "a finite ftol >= 0", lambda tol: 0 <= tol < math.inf)

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

    >>> import numpy as np
    >>> minimize(lambda x: (np.sum((x - 3.0) ** 2), 2 * (x - 3.0)), np.zeros(2)).x
    array([3., 3.])
    """
    max_iter = integer("minimize: max_iter", max_iter, 1)
    methods("an optimizer", optimizer, ("init", "iterate"))
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
    y, so that t = 1 is nearly always a good step. Without pairs, d = -g / max(1, |g|). All of this
    stays on the device.
    """
    if not s:
        xp, norm = namespace(g), _dot(g, g) ** 0.5
        return -g / xp.where(norm > 1, norm, xp.ones_like(norm))
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

    Nocedal and Wright (2006), algorithms 3.5 and 3.6, as one loop: `low` is the lowest point so far
    that meets Armijo's condition, and f falls from it towards `high`, with good steps between the
    two; as long as there is no `high`, they are further out.

    Returns the point (the lowest where there is no good one, None where none is lower), the number
    of evaluations, and whether f still fell at the furthest point that was tried.
    """
    d = _direction(state.gradient, state.s, state.y)
    eps = float(namespace(x).finfo(x.dtype).eps)
    evaluate = _along(f, x, state.gradient, d)
    start = low = _Point(0.0, state.value, 0.0)
    high, t = None, 1.0
    for tries in range(1, EVALUATIONS + 1):
        point = evaluate(t)
        if tries == 1:
            if not point.slope0 < 0:  # rounding made it no descent, or NaN
                return None, tries, False
            start = low = start._replace(slope=point.slope0)  # it came with the first transfer
        if point.value > min(start.value + C1 * t * start.slope, low.value):
            high = point
        elif abs(point.slope) <= C2 * abs(start.slope):
            return point, tries, False
        else:
            forward = high is None or high.t > low.t
            before, low = low, point
            if (point.slope >= 0) == forward:
                high = before
        if high is None:
            t = _beyond(before, low)
        elif abs(low.slope * (high.t - low.t)) > eps * abs(low.value):
            t = _between(low, high)
        else:  # what is left to gain is less than the rounding of f
            break
    return (low if low.value < start.value else None), tries, high is None


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


def _between(low: _Point, high: _Point) -> float:
    """Where a cubic has its minimum, but a tenth of the width or more away from both ends."""
    width = high.t - low.t
    if high.value == math.inf:
        return low.t + 0.25 * width
    part = (_cubic(low, high) - low.t) / width
    return low.t + width * (0.5 if math.isnan(part) else min(max(part, 0.1), 0.9))


def _beyond(before: _Point, low: _Point) -> float:
    """Where a cubic has its minimum, but 1.1 to 4 times as far as the last step (More, Thuente)."""
    width = low.t - before.t
    part = (_cubic(before, low) - low.t) / width
    return low.t + width * (max(part, 1.1) if 0 < part < 4 else 4.0)


def _cubic(a: _Point, b: _Point) -> float:
    """Where the cubic through two values and slopes has its minimum; nan where it has none.

    Nocedal and Wright (2006), equation 3.59.
    """
    p = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t)
    square = p * p - a.slope * b.slope
    if not 0 <= square < math.inf:
        return math.nan
    root = math.copysign(math.sqrt(square), b.t - a.t)
    below = b.slope - a.slope + 2 * root
    return b.t - (b.t - a.t) * (b.slope + root - p) / below if below else math.nan


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
    methods("an objective f(x) -> value, gradient", f, ("__call__",))
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "real floating"):
        raise TypeError(f"LBFGS: expected x of a floating dtype, got {x.dtype}")
    if x.ndim != 1 or x.shape[0] == 0:
        raise ShapeError(f"LBFGS: expected x of shape (n,), n >= 1, got {tuple(x.shape)}")
