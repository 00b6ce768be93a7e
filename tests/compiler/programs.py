"""Random programs over the array API: a hypothesis strategy, and comparison of results.

A program is a list of expressions without branches, each Python source over the earlier values. It is
run while it is drawn: a line that NumPy rejects, or that has no defined result (an integer division
by zero, a cast of nan to an integer), is drawn again. So every program is valid for each of its
`VALUE_SETS` sets of values, and its repr is source that can be pasted and run.

The terms of sums of floats, and of products of arrays that are not C-ordered, may be added in another
order. A sum is *exact* if no order rounds (small multiples of a power of two); then it may be used
like any other value. Every other sum is *inexact*: it has a tolerance, and only views of it are used.
"""

import math
import random
import warnings
from dataclasses import dataclass, field

import array_api_compat.numpy as xnp
import numpy as np
from hypothesis import strategies as st

from portnet.backend import namespace

VALUE_SETS = 2  # number of sets of values for which every program is valid
FLOATS, SIGNED, INTEGERS = ("float32", "float64"), ("int32", "int64"), ("uint8", "int32", "int64")
DTYPES = ("float64", "float32", "int32", "int64", "bool", "uint8")
LAYOUTS = ("C", "F", "steps", "negative", "zero strides", "read-only", "unaligned", "shared")
LARGEST = 40_000  # maximal size of a value
POOL = 50_000  # size of the memory of "shared" arguments
SLACK = 64  # tolerance of a sum / (eps * sum of magnitudes)


# Arguments --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """An argument: values from a seed, in a memory layout."""

    shape: tuple[int, ...]
    dtype: str
    layout: str
    kind: str  # of values: "small", "normal", "wide"
    seed: int
    offset: int = 0  # into the memory of "shared" arguments

    def values(self, value_set, shape=None):
        """Return a new C-ordered array of the values."""
        shape = self.shape if shape is None else shape
        rng = np.random.default_rng((self.seed, value_set))
        if self.dtype == "bool":
            return rng.random(shape) < 0.5
        if self.dtype == "uint8":
            return rng.integers(0, 256 if self.kind == "wide" else 5, shape).astype("uint8")
        if self.dtype in SIGNED:
            far = np.iinfo(self.dtype).max if self.kind == "wide" else 6
            return np.asarray(rng.integers(-far, far, shape, endpoint=True), dtype=self.dtype)
        if self.kind == "small":
            return np.asarray(rng.integers(-16, 17, shape) / 4).astype(self.dtype)
        a = np.asarray(rng.standard_normal(shape)).astype(self.dtype)
        if self.kind == "wide" and a.size:
            big = float(np.finfo(self.dtype).max) / 2
            special = [np.nan, np.inf, -np.inf, 0.0, -0.0, big, -big, 1.0, 1e-30, -1e4]
            some = rng.random(shape) < 0.3
            a[some] = rng.choice(special, int(some.sum())).astype(self.dtype)
        return a

    def make(self, value_set, pools):
        """Return the argument in its layout; `pools` has the memory shared so far, by dtype."""
        if self.layout == "shared":
            return self._view(value_set, pools)
        a = np.asarray(self.values(value_set))
        if self.layout == "F":
            return np.asfortranarray(a)
        if self.layout == "steps":
            base = np.zeros([2 * n for n in a.shape], a.dtype)
            view = base[tuple(slice(None, None, 2) for _ in a.shape) or ...]
        elif self.layout == "negative":
            view = np.zeros_like(a)[tuple(slice(None, None, -1) for _ in a.shape) or ...]
        elif self.layout == "unaligned":
            view = np.zeros(a.nbytes + 1, "uint8")[1:].view(a.dtype).reshape(a.shape)
        elif self.layout == "zero strides" and a.ndim > 0 and a.shape[0] > 0:
            row = np.ascontiguousarray(a[:1])
            strides = (0, *row.strides[1:])
            return np.lib.stride_tricks.as_strided(row, a.shape, strides, writeable=True)
        else:
            a.flags.writeable = self.layout != "read-only"
            return a
        view[...] = a
        return view

    def _view(self, value_set, pools):
        """Return a view of the memory that all shared arguments of this dtype have in common."""
        if self.dtype not in pools:
            pools[self.dtype] = self.values(value_set, (POOL,))
        size = math.prod(self.shape)
        return pools[self.dtype][self.offset : self.offset + size].reshape(self.shape)

    def __str__(self):
        return f"{self.shape} {self.dtype}, {self.layout}, {self.kind}, seed {self.seed}" + (
            f", offset {self.offset}" if self.layout == "shared" else ""
        )


# Programs ---------------------------------------------------------------------------------------


@dataclass
class Program:
    """A function of arrays, with its arguments and tolerances."""

    arguments: list[Argument]
    constants: dict[str, np.ndarray]  # captured by the function
    lines: list[tuple[str, str]]  # name, expression
    result: str
    donate: tuple[int, ...]
    tags: list[str] = field(default_factory=list)  # the operations, for statistics
    # for each set of values: name -> tolerance of a sum or of a view of one
    tolerances: list[dict[str, np.ndarray]] = field(default_factory=list)

    @property
    def source(self):
        """The source of the function."""
        names = ", ".join(f"v{i}" for i in range(len(self.arguments)))
        body = [f"{name} = {expression}" for name, expression in self.lines]
        body = ["xp = namespace(v0)", *body, f"return {self.result}"]
        return f"def program({names}):\n" + "".join(f"    {line}\n" for line in body)

    def function(self, convert=lambda c: c):
        """Return a new function; `convert` moves the constants to another library."""
        space = {"namespace": namespace}
        space |= {name: convert(c.copy()) for name, c in self.constants.items()}
        exec(self.source, space)
        return space["program"]

    def inputs(self, value_set):
        """Return new arguments."""
        pools = {}
        return [argument.make(value_set, pools) for argument in self.arguments]

    def tolerance(self, value_set):
        """Return a pytree like the results, of their tolerances (0: equal bit for bit)."""
        names = [name for name, _ in self.lines] + [f"v{i}" for i in range(len(self.arguments))]
        names = dict.fromkeys(names, 0.0) | self.tolerances[value_set]
        return eval(self.result, {}, names)

    def __repr__(self):
        lines = [f"# v{i}: {a}" for i, a in enumerate(self.arguments)]
        for name, c in self.constants.items():
            lines.append(f"{name} = np.asarray({c.tolist()}, dtype='{c.dtype}')")
        lines.append(f"# donate={self.donate}")
        return "\n".join(["", *lines, self.source])


# Building programs ------------------------------------------------------------------------------

UNARY = {
    "float": "acos acosh asin asinh atan atanh cos cosh exp expm1 log log10 log1p log2 reciprocal "
    "sin sinh sqrt tan tanh isfinite isinf isnan abs ceil floor trunc round sign square negative "
    "positive",
    "int": "abs ceil floor trunc round sign square negative positive bitwise_invert",
    "bool": "logical_not bitwise_invert",
}
BINARY = {
    "float": "add subtract multiply divide floor_divide remainder pow maximum minimum atan2 hypot "
    "logaddexp nextafter equal not_equal less less_equal greater greater_equal",
    "int": "add subtract multiply maximum minimum bitwise_and bitwise_or bitwise_xor equal "
    "not_equal less less_equal greater greater_equal",
    "bool": "logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor equal not_equal",
}
OPERATORS = {
    "float": "+ - * / // % ** == != < <= > >=",
    "int": "+ - * & | ^ == != < <= > >=",
    "bool": "& | ^ == !=",
}
UNARY, BINARY, OPERATORS = (
    {kind: names.split() for kind, names in table.items()} for table in (UNARY, BINARY, OPERATORS)
)


def kind(a):
    """Return "float", "int" or "bool"; dtypes of one kind may be mixed."""
    return {"f": "float", "i": "int", "u": "int", "b": "bool"}[a.dtype.kind]


class Builder:
    """Builds a program line by line."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.arguments, self.constants, self.lines, self.tags = [], {}, [], []
        self.value_sets = [{} for _ in range(VALUE_SETS)]  # name -> value
        self.inexact = [{} for _ in range(VALUE_SETS)]  # name -> tolerance

    # Random choices

    def choose(self, options):
        return self.random.choice(list(options))

    def integer(self, low, high):
        return self.random.randint(low, high)

    def flag(self):
        return self.random.random() < 0.5

    def value(self, name):
        return self.value_sets[0][name]

    def pick(self, accept=lambda a: True, exact=True):
        """Return the name of a value, or None; half of the time the latest."""
        names = [n for n in reversed(self.value_sets[0]) if not (exact and n in self.inexact[0])]
        names = [n for n in names if accept(self.value(n))]
        if not names:
            return None
        return names[max(self.integer(-len(names), len(names) - 1), 0)]

    def partner(self, name):
        """Return the name of a value that can be combined with `name`."""
        a = self.value(name)

        def fits(b):
            try:
                shape = np.broadcast_shapes(a.shape, b.shape)
            except ValueError:
                return False
            return math.prod(shape) <= LARGEST and kind(a) == kind(b) and mixes(a, b)

        return self.pick(fits)

    def scalar(self, name):
        """Return the source of a Python scalar that can be combined with `name`."""
        a = self.value(name)
        if kind(a) == "bool":
            return self.choose(["True", "False"])
        if a.dtype == np.uint8:
            return str(self.choose([0, 1, 2, 7, 255]))
        if kind(a) == "int":
            signed = a.dtype.kind == "i"
            return str(self.choose([1, 0, 3, -1 if signed else 5, 1000]))
        return self.choose(["0.5", "2", "1.0", "0.0", "-0.0", "-1.5", "1e-3", "3", "1e30"])

    def axis(self, ndim):
        i = self.integer(0, ndim - 1)
        return i - ndim if self.flag() else i

    # Lines

    def evaluate(self, expression, value_set, **replaced):
        """Return the value of an expression with a set of values, or None if it has none."""
        space = {**self.value_sets[value_set], **replaced, "xp": xnp}
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("error")
                result = eval(expression, space)
        except Exception:  # another line is drawn
            return None
        if not isinstance(result, np.ndarray | np.generic) or result.size > LARGEST:
            return None
        return result if result.dtype.name in (*DTYPES, "uint64") else None

    def add(self, tag, expression, tolerances=None):
        """Append a line, unless it has no value with some set of values."""
        values = [self.evaluate(expression, value_set) for value_set in range(VALUE_SETS)]
        if any(v is None or (tolerances is None and v.dtype != values[0].dtype) for v in values):
            return
        name = f"v{len(self.arguments) + len(self.lines)}"
        self.lines.append((name, expression))
        self.tags.append(tag)
        for value_set, v in enumerate(values):
            self.value_sets[value_set][name] = v
            if tolerances is not None:
                self.inexact[value_set][name] = (
                    tolerances[value_set] + 1e-300
                )  # the sign of zero may differ

    def everywhere(self, accept, *names):
        """Return whether `accept` holds for the values of these names in every set."""
        return all(accept(*(value_set[n] for n in names)) for value_set in self.value_sets)


def mixes(a, b):
    """Return whether the standard defines the promotion of the two dtypes."""
    return a.dtype == b.dtype or "uint64" not in (a.dtype.name, b.dtype.name)


OPERATIONS = []


def operation(weight=1):
    def register(f):
        OPERATIONS.extend([f] * weight)
        return f

    return register


@operation(7)
def unary(b):
    if (x := b.pick()) is None:
        return
    name = b.choose(UNARY[kind(b.value(x))])
    b.add(name, f"xp.{name}({x})")


@operation()
def sign_of(b):
    """The sign of nan is not compared."""
    x = b.pick(lambda a: kind(a) == "float")
    y = x and b.partner(x)
    if y is None or not b.everywhere(lambda a: not np.isnan(a).any(), y):
        return
    b.add(
        *(("signbit", f"xp.signbit({y})") if b.flag() else ("copysign", f"xp.copysign({x}, {y})"))
    )


@operation(8)
def binary(b):
    if (x := b.pick()) is None or (y := b.partner(x)) is None:
        return
    name = b.choose(BINARY[kind(b.value(x))])
    b.add(name, f"xp.{name}({x}, {y})")


@operation(9)
def operators(b):
    if (x := b.pick()) is None:
        return
    op = b.choose(OPERATORS[kind(b.value(x))])
    match b.integer(0, 3):
        case 0 | 1:
            y = b.partner(x)
            if y is not None:
                b.add(op, f"{x} {op} {y}")
        case 2:
            b.add(f"{op} scalar", f"{x} {op} {b.scalar(x)}")
        case 3:
            b.add(f"scalar {op}", f"{b.scalar(x)} {op} {x}")


@operation()
def operators_of_one(b):
    if (x := b.pick()) is not None:
        k = kind(b.value(x))
        op = b.choose({"float": ["-", "+", "abs"], "int": ["-", "+", "abs", "~"], "bool": ["~"]}[k])
        b.add(f"{op}x", f"abs({x})" if op == "abs" else f"{op}{x}")


@operation()
def functions_with_scalars(b):
    if (x := b.pick()) is None:
        return
    names = BINARY[kind(b.value(x))]
    name, s = b.choose(names), b.scalar(x)
    b.add(f"{name} scalar", f"xp.{name}({x}, {s})" if b.flag() else f"xp.{name}({s}, {x})")


@operation()
def bits(b):
    if (x := b.pick(lambda a: kind(a) == "int" and a.dtype.name != "uint64")) is None:
        return
    op = b.choose(["<<", ">>"])
    name = {"<<": "bitwise_left_shift", ">>": "bitwise_right_shift"}[op]
    match b.integer(0, 3):
        case 0:
            b.add(op, f"{x} {op} {b.integer(0, 7)}")
        case 1:
            b.add(f"scalar {op}", f"{b.integer(0, 100)} {op} ({x} & 3)")
        case 2:
            if (y := b.partner(x)) is not None:
                b.add(op, f"{x} {op} ({y} & 7)")
        case 3:
            b.add(name, f"xp.{name}({x}, {x} & 3)")


@operation()
def integer_division(b):
    if (x := b.pick(lambda a: kind(a) == "int")) is None or (y := b.partner(x)) is None:
        return
    op, name = b.choose([("//", "floor_divide"), ("%", "remainder")])
    match b.integer(0, 3):
        case 0:
            b.add(f"int {op} scalar", f"{x} {op} {b.choose([1, 3, 7])}")
        case 1:
            b.add(f"int {op}", f"{x} {op} (({y} & 3) + 1)")
        case 2:
            b.add(f"int {name}", f"xp.{name}({x}, xp.maximum({y}, 1))")
        case 3:
            b.add("int **", f"{x} ** {b.integer(0, 3)}")


@operation(2)
def where(b):
    if (x := b.pick()) is None:
        return
    a = b.value(x)
    c = b.pick(lambda c: kind(c) == "bool" and broadcasts(a, c))
    if c is None:
        if kind(a) == "bool":
            return
        c = f"({x} {b.choose(['>', '<='])} {b.choose([0, 1])})"
    match b.integer(0, 2):
        case 0:
            y = b.partner(x)
            if y is not None:
                b.add("where", f"xp.where({c}, {x}, {y})")
        case 1:
            b.add("where scalar", f"xp.where({c}, {x}, {b.scalar(x)})")
        case 2:
            b.add("where scalar", f"xp.where({c}, {b.scalar(x)}, {x})")


def broadcasts(*arrays):
    try:
        return math.prod(np.broadcast_shapes(*(a.shape for a in arrays))) <= LARGEST
    except ValueError:
        return False


@operation()
def clip(b):
    if (x := b.pick(lambda a: kind(a) != "bool" and a.dtype.name != "uint64")) is None:
        return
    low, high = b.choose([("0", "3"), ("1", "2"), ("2", "None"), ("None", "1")])
    b.add("clip", f"xp.clip({x}, {low}, {high})")


@operation(2)
def astype(b):
    if (x := b.pick(lambda a: a.dtype.name != "uint64")) is None:
        return
    to = b.choose(DTYPES)
    if kind(b.value(x)) == "float" and to in INTEGERS:
        info = np.iinfo(to)

        def fits(a):
            with np.errstate(invalid="ignore"):
                return bool(np.all((a > max(info.min, -(2**30))) & (a < min(info.max, 2**30))))

        if not b.everywhere(fits, x):
            return
    b.add("astype", f"xp.astype({x}, xp.{to})")


@operation()
def types(b):
    if (x := b.pick(lambda a: kind(a) == "float")) is None:
        return
    match b.integer(0, 2):
        case 0:
            b.add("finfo", f"{x} + float(xp.finfo({x}.dtype).eps)")
        case 1:
            b.add("isdtype", f"{x} * (2.0 if xp.isdtype({x}.dtype, xp.float32) else 4.0)")
        case 2:
            b.add("result_type", f"xp.astype({x}, xp.result_type({x}, xp.float64))")


# Reductions


def axes(b, a):
    """Return axis= and keepdims= as source, and the axis."""
    keep = ", keepdims=True" if b.flag() else ""
    if a.ndim == 0 or (choice := b.integer(0, 3)) == 0:
        return keep, None
    if choice < 3:
        axis = b.axis(a.ndim)
        return f", axis={axis}{keep}", axis
    axis = tuple(i for i in range(a.ndim) if b.flag())
    return f", axis={axis}{keep}", axis


def exact_sums(a):
    """Return whether no order of addition rounds: small multiples of a power of two."""
    if kind(a) != "float":
        return True
    if (
        not np.isfinite(a).all() or (np.signbit(a) & (a == 0)).any()
    ):  # the sign of -0.0 + 0.0 depends on the order
        return False
    with np.errstate(over="ignore"):
        scaled = np.abs(a.astype("float64")) * 2**8
        return bool((scaled == np.floor(scaled)).all() and scaled.sum() < 2**23)


def safe_sums(a):
    """Return whether no order of addition of the values or their squares overflows."""
    with np.errstate(over="ignore"):
        finite = np.abs(a[np.isfinite(a)])
        return bool((finite**2).sum(dtype=a.dtype) < np.finfo(a.dtype).max / 4)


@operation(4)
def sums(b):
    names = b.choose(["sum", "sum", "mean", "prod", "var", "std"])
    floats = names in ("mean", "var", "std")
    x = b.pick(lambda a: kind(a) == "float" or (kind(a) == "int" and not floats))
    if x is None:
        return
    rest, _ = axes(b, b.value(x))
    a, expression = b.value(x), f"xp.{names}({x}{rest})"
    if kind(a) == "int":
        b.add(f"int {names}", expression)
        return
    if names == "sum" and b.everywhere(exact_sums, x):
        if b.integer(0, 3) == 0:
            expression = f"xp.sum({x}{rest}, dtype=xp.float64)"
        b.add("exact sum", expression)
        return
    if not b.everywhere(safe_sums, x) or (names == "prod" and not b.everywhere(few_factors, x)):
        return
    correction = ""
    if names in ("var", "std") and b.flag():
        correction = ", correction=1"
    tolerances = [
        tolerance(b, names, x, rest + correction, value_set) for value_set in range(VALUE_SETS)
    ]
    if all(t is not None for t in tolerances):
        b.add(f"inexact {names}", f"xp.{names}({x}{rest}{correction})", tolerances)


def few_factors(a):
    return bool(a.size <= 32 and np.isfinite(a).all() and (np.abs(a) < 8).all())


def tolerance(b, name, x, rest, value_set):
    """Return the tolerance of a sum: a multiple of eps, times the sum of magnitudes."""
    a = np.abs(b.value_sets[value_set][x].astype("float64"))
    a = np.where(np.isfinite(a), a, 0.0)
    eps = SLACK * float(np.finfo(b.value(x).dtype).eps)
    kept = rest.replace(", correction=1", "")
    if name == "std":
        var = b.evaluate(
            f"xp.var({x}{rest})", value_set, **{x: b.value_sets[value_set][x].astype("float64")}
        )
        t = tolerance(b, "var", x, rest, value_set)
        if var is None or t is None:
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nan_to_num(t / (np.sqrt(var) + np.sqrt(t)))
    if name == "var":
        count = b.evaluate(f"xp.sum({x}{kept})", value_set, **{x: np.ones_like(a)})
        squares = b.evaluate(f"xp.sum({x}{kept})", value_set, **{x: a * a})
        if count is None or squares is None:
            return None
        return eps * squares / np.maximum(count - ("correction" in rest), 1)
    magnitude = b.evaluate(f"xp.{name}({x}{kept})", value_set, **{x: a})
    return None if magnitude is None else eps * magnitude


@operation(2)
def extremes(b):
    if (x := b.pick(lambda a: kind(a) != "bool")) is None:
        return
    name = b.choose(["max", "min", "argmax", "argmin"])
    rest, axis = axes(b, b.value(x))
    if name.startswith("arg") and isinstance(axis, tuple):
        rest = ""
    b.add(name, f"xp.{name}({x}{rest})")


@operation()
def truths(b):
    if (x := b.pick()) is not None:
        name = b.choose(["any", "all"])
        b.add(name, f"xp.{name}({x}{axes(b, b.value(x))[0]})")


@operation(3)
def products(b):
    x = b.pick(lambda a: a.ndim > 0 and kind(a) != "bool")
    if x is None:
        return
    a = b.value(x)

    def fits(c):
        if kind(c) != kind(a) or c.ndim == 0 or not mixes(a, c):
            return False
        try:
            shape = np.broadcast_shapes(a.shape[:-2], c.shape[:-2])
        except ValueError:
            return False
        return math.prod(shape) <= 64 and a.shape[-1] == c.shape[-2 if c.ndim > 1 else -1]

    y = b.pick(fits)
    if y is not None:
        product(b, *(("matmul", "xp.matmul({}, {})") if b.flag() else ("@", "{} @ {}")), x, y)
        return
    square = a.ndim > 1 and a.shape[-1] == a.shape[-2]
    if a.ndim == 2:
        product(b, "matmul of T", "xp.matmul({}, xp.matrix_transpose({}))", x, x)
    elif square:
        product(b, "@ itself", "{} @ {}", x, x)


def product(b, tag, text, x, y):
    """Append a product of x and y: exact if both are C-ordered, as in the buffers of a plan.

    NumPy propagates other orders of axes through operations, and the terms of a matrix-vector product
    are added in an order that depends on them.
    """
    expression = text.format(x, y)
    floats = kind(b.value(x)) == "float"
    ordered = b.everywhere(lambda *both: all(a.flags.c_contiguous for a in both), x, y)
    if not floats or ordered:
        b.add(tag, expression)
        return
    tolerances = []
    for value_set in b.value_sets:
        p, q = (np.abs(value_set[n].astype("float64")) for n in (x, y))
        p, q = (np.where(np.isfinite(a), a, 0.0) for a in (p, q))
        space = {"xp": xnp, x: p} | {y: q}
        with np.errstate(over="ignore"):
            magnitude = eval(expression, space)
        types = [value_set[n].dtype for n in (x, y)]
        if not (magnitude < float(np.finfo(np.result_type(*types)).max) / 4).all():
            return  # overflow depends on the order, too
        tolerances.append(SLACK * float(max(np.finfo(t).eps for t in types)) * magnitude)
    b.add(f"inexact {tag}", expression, tolerances)


# Views


def view(b, tag, x, expression):
    """Append a view of x; a view of an inexact value is inexact."""
    if x not in b.inexact[0]:
        b.add(tag, expression)
        return
    tolerances = []
    for value_set in range(VALUE_SETS):
        t = np.zeros(b.value_sets[value_set][x].shape) + b.inexact[value_set][x]
        tolerances.append(b.evaluate(expression, value_set, **{x: t}))
    if all(t is not None for t in tolerances):
        b.add(tag, expression, tolerances)


def index(b, shape):
    """Return a basic index, as source."""
    parts = []
    for n in shape:
        if b.integer(0, 9) == 0:
            parts.append("None")
        match b.integer(0, 5):
            case 0 if n > 0:
                parts.append(str(b.integer(-n, n - 1)))
            case 1:
                parts.append(b.choose(["::-1", "::2", "::-2", "::3"]))
            case 2 if n > 1:
                start = b.integer(0, n - 1)
                parts.append(f"{start}:{b.integer(start, n)}")
            case 3 if n > 1:
                parts.append(b.choose(["1:", ":-1", "-1:", "1::2", ":1", "-1:0:-1", f"{n}:"]))
            case _:
                parts.append(":")
    if b.integer(0, 3) == 0:  # an ellipsis for some of the axes, or for none
        start = b.integer(0, len(parts))
        end = b.integer(start, len(parts))
        if not any(p == "None" for p in parts[start:end]):
            parts[start:end] = ["..."]
    elif b.integer(0, 4) == 0 and len(parts) > 1 and parts[-1] == ":":
        parts.pop()  # NumPy's shorter index
    return ", ".join(parts) if parts else "..."


@operation(4)
def slices(b):
    x = b.pick(lambda a: a.ndim > 0, exact=False)
    if x is not None:
        view(b, "slice", x, f"{x}[{index(b, b.value(x).shape)}]")


@operation(3)
def shapes(b):
    if (x := b.pick(exact=False)) is None:
        return
    a = b.value(x)
    match b.integer(0, 8):
        case 0:
            sizes = [(-1,), (a.size,), a.shape[::-1], (1, *a.shape), (*a.shape, 1)]
            sizes += [(-1, n) for n in a.shape if n > 0]
            sizes += [(2, -1)] if a.size and a.size % 2 == 0 else []
            view(b, "reshape", x, f"xp.reshape({x}, {b.choose(sizes)})")
        case 1:
            order = tuple(b.random.sample(range(a.ndim), a.ndim))
            view(b, "permute_dims", x, f"xp.permute_dims({x}, {order})")
        case 2 if a.ndim >= 2:
            view(b, "matrix_transpose", x, f"xp.matrix_transpose({x})")
        case 3 if a.ndim == 2:
            view(b, "T", x, f"{x}.T")
        case 4 if a.ndim >= 2:
            view(b, "mT", x, f"{x}.mT")
        case 5:
            view(b, "expand_dims", x, f"xp.expand_dims({x}, axis={b.axis(a.ndim + 1)})")
        case 6 if 1 in a.shape:
            axis = b.choose([i for i, n in enumerate(a.shape) if n == 1])
            axis = b.choose([axis, axis - a.ndim, (axis,)])
            view(b, "squeeze", x, f"xp.squeeze({x}, axis={axis})")
        case 7:
            shape = tuple(b.integer(1, 3) if n == 1 else n for n in a.shape)
            shape = (b.integer(0, 3), *shape) if b.flag() else shape
            view(b, "broadcast_to", x, f"xp.broadcast_to({x}, {shape})")
        case _:
            axis = f", axis={b.axis(a.ndim)}" if a.ndim and b.flag() else ""
            view(b, "flip", x, f"xp.flip({x}{axis})")


# Joining, taking and creation


@operation(2)
def joins(b):
    if (x := b.pick(lambda a: a.ndim > 0)) is None:
        return
    a, axis = b.value(x), b.choose([0, -1, None])
    parts = [x]
    for _ in range(b.integer(0, 2)):
        y = b.pick(lambda c: joinable(a, c, axis))
        parts.append(y or x)
    b.add("concat", f"xp.concat([{', '.join(parts)}], axis={axis})")


def joinable(a, c, axis):
    if kind(a) != kind(c) or c.ndim == 0 or not mixes(a, c):
        return False
    if axis is None:
        return True
    return (
        a.ndim == c.ndim and np.delete(a.shape, axis).tolist() == np.delete(c.shape, axis).tolist()
    )


@operation()
def stacks(b):
    if (x := b.pick()) is None:
        return
    a = b.value(x)

    def fits(c):
        return c.shape == a.shape and kind(c) == kind(a) and mixes(a, c)

    parts = [x, *(b.pick(fits) for _ in range(b.integer(0, 2)))]
    axis = b.axis(a.ndim + 1)
    b.add("stack", f"xp.stack([{', '.join(parts)}], axis={axis})")


@operation()
def takes(b):
    if (x := b.pick(lambda a: a.ndim > 0 and a.size > 0)) is None:
        return
    a = b.value(x)
    axis = b.axis(a.ndim)
    n = a.shape[axis]
    which = b.pick(lambda a: a.ndim == 1 and a.dtype.name in INTEGERS)
    if which is None or b.flag():
        numbers = [b.integer(0, n - 1) for _ in range(b.integer(0, 4))]
        which = f"xp.asarray({numbers}, dtype=xp.{b.choose(SIGNED)})"
    else:
        which = f"{which} % {n}" if n < 256 else f"{which} & 3"
    b.add("take", f"xp.take({x}, {which}, axis={axis})")


@operation(2)
def creation(b):
    shape = b.choose([(), (3,), (2, 3), (1, 3), (0,), (3, 3)])
    dtype = b.choose(DTYPES)
    x = b.pick()
    like = b.choose(["zeros", "ones"])
    match b.integer(0, 7):
        case 0:
            b.add(like, f"xp.{like}({shape}, dtype=xp.{dtype})")
        case 1:
            fill = {"bool": "True", "uint8": "200"}.get(dtype, "-3" if dtype in SIGNED else "0.1")
            b.add("full", f"xp.full({shape}, {fill}, dtype=xp.{dtype})")
        case 2:
            b.add("arange", f"xp.arange({b.choose(['3', '1, 6, 2', '3, -3, -2', '0', '2.5'])})")
        case 3 if x is not None:
            b.add(f"{like}_like", f"xp.{like}_like({x})")
        case 4 if x is not None:
            b.add("full_like", f"xp.full_like({x}, {b.scalar(x)})")
        case 5:
            real = b.choose([*FLOATS, *SIGNED])
            b.add("eye", f"xp.eye({b.choose(['3', '2, 3', '3, k=1'])}, dtype=xp.{real})")
        case 6:
            b.add(
                "linspace", f"xp.linspace({b.choose(['0.0, 1.0', '3.0, -1.0'])}, {b.integer(1, 5)})"
            )
        case _:
            numbers = b.choose(["[1.5, -2.0, 0.0]", "[[1.0], [2.0]]", "3.0", "[]"])
            b.add("asarray", f"xp.asarray({numbers}, dtype=xp.{b.choose(FLOATS)})")


@operation()
def again(b):
    """Repeat a line under another name."""
    lines = [(name, e) for name, e in b.lines if name not in b.inexact[0]]
    if lines:
        b.add("again", b.choose(lines)[1])


@operation()
def captured(b):
    """Combine a value with a captured array, on either side."""
    if (x := b.pick(lambda a: a.dtype.name in DTYPES)) is None:
        return
    a = b.value(x)
    shape = b.choose([a.shape, a.shape[-1:], ()])
    if math.prod(shape) > 64:
        return
    name = f"c{len(b.constants)}"
    constant = Argument(shape, a.dtype.name, "C", "small", b.integer(0, 99)).values(0)
    b.constants[name] = np.asarray(constant)
    for value_set in b.value_sets:
        value_set[name] = b.constants[name]
    op = b.choose({"float": "+-*/", "int": "+-*&", "bool": "&|^"}[kind(a)])
    b.add("captured", f"{x} {op} {name}" if b.flag() else f"{name} {op} {x}")


# Hypothesis strategy ----------------------------------------------------------------------------


SEEDS = st.integers(0, 2**24 - 1)  # from wider ranges, hypothesis mostly draws small numbers


@st.composite
def programs(draw, most=24):
    """Draw a program of up to `most` lines; each has its own seed, so lines can shrink."""
    b = Builder(draw(SEEDS))
    some = arguments(b)
    for value_set in range(VALUE_SETS):
        pools = {}
        for i, argument in enumerate(some):
            b.value_sets[value_set][f"v{i}"] = argument.make(value_set, pools)
    b.arguments = some
    for _ in range(draw(st.integers(1, most))):
        b.random = random.Random(draw(SEEDS))
        before = len(b.lines)
        for _ in range(20):
            b.choose(OPERATIONS)(b)
            if len(b.lines) > before:
                break
    b.random = random.Random(draw(SEEDS))
    result = results(b)
    donate = tuple(i for i in range(len(some)) if b.flag())
    return Program(some, b.constants, b.lines, result, donate, b.tags, b.inexact)


def arguments(b):
    """Return one to four arguments of shapes that often broadcast."""
    sizes = [0, 1, 1, 2, 2, 3, 3, 4, 5] if b.integer(0, 19) else [90, 150]
    m, n = b.choose(sizes), b.choose(sizes)
    shapes = [(m, n), (m, n), (n, m), (n,), (1, n), (m, 1), (), (m, m), (2, m, n), (1,), (m,)]
    dtypes = b.choose([DTYPES, DTYPES, FLOATS, FLOATS[:1], FLOATS[1:], INTEGERS, ("bool", "int32")])
    found = []
    for _ in range(b.integer(1, 4)):
        shape, dtype = b.choose(shapes), b.choose(dtypes)
        layout = b.choose(LAYOUTS) if b.flag() else "C"
        if found and found[-1].layout == "shared" and b.flag():  # a shared argument exists
            layout, dtype = "shared", found[-1].dtype
        values, seed, offset = b.choose(["small", "normal", "wide"]), b.integer(0, 999), 0
        if layout == "shared":
            values, seed, offset = "small", 0, b.choose([0, 0, 1, 2, n])
        found.append(Argument(shape, dtype, layout, values, seed, offset))
    return found


def results(b):
    """Return the source of a pytree of values: the last line and some others, inputs included."""
    names = [n for n in b.value_sets[0] if not n.startswith("c")]
    chosen = [names[-1]] + [b.choose(names) for _ in range(b.integer(0, 3))]
    match b.integer(0, 3):
        case 0:
            return chosen[0]
        case 1:
            return "{" + ", ".join(f"{'zyxw'[i]!r}: {n}" for i, n in enumerate(chosen)) + "}"
        case 2:
            return f"[None, ({', '.join(chosen)},), 1.5]"
        case _:
            return f"({', '.join(chosen)},)"


# Comparison -------------------------------------------------------------------------------------


def assert_same(actual, expected, tolerance=0.0, where="result"):
    """Fail unless two pytrees are equal, bit for bit where the tolerance is 0.

    nan equals nan of any sign.
    """
    if isinstance(expected, dict):
        assert type(actual) is type(expected), f"{where}: {type(actual)}"
        assert list(actual) == list(expected), f"{where}: {list(actual)}, not {list(expected)}"
        for k in expected:
            assert_same(actual[k], expected[k], _part(tolerance, k), f"{where}[{k!r}]")
    elif isinstance(expected, tuple | list):
        assert type(actual) is type(expected), f"{where}: {type(actual)}"
        assert len(actual) == len(expected), f"{where}: {len(actual)} parts, not {len(expected)}"
        for i, e in enumerate(expected):
            assert_same(actual[i], e, _part(tolerance, i), f"{where}[{i}]")
    elif not isinstance(expected, np.ndarray | np.generic):
        assert type(actual) is type(expected), f"{where}: {type(actual)}"
        assert actual == expected or actual != actual, f"{where}: {actual!r}, not {expected!r}"
    else:
        _assert_same_array(actual, expected, tolerance, where)


def _part(tolerance, key):
    return tolerance[key] if isinstance(tolerance, dict | list | tuple) else tolerance


def _assert_same_array(actual, expected, tolerance, where):
    assert type(actual) in (np.ndarray, type(expected)) or isinstance(actual, np.generic), (
        f"{where}: {type(actual)}"
    )
    assert actual.dtype == expected.dtype, f"{where}: {actual.dtype}, not {expected.dtype}"
    assert actual.shape == expected.shape, f"{where}: {actual.shape}, not {expected.shape}"
    if np.any(tolerance):
        with np.errstate(all="ignore"):
            off = np.abs(actual.astype("float64") - expected.astype("float64"))
            same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
            assert (same | (off <= tolerance)).all(), (
                f"{where}: {actual!r}, not {expected!r} to {tolerance}"
            )
    else:
        np.testing.assert_array_equal(actual, expected, err_msg=where, strict=actual.ndim > 0)
        if expected.dtype.kind == "f":
            number = ~np.isnan(expected)
            same = np.signbit(actual) == np.signbit(expected)
            assert (same | ~number).all(), f"{where}: the sign of a zero: {actual!r}, {expected!r}"


def snapshot(arrays):
    """Return the bytes of arrays, to check that they do not change."""
    return [np.array(a, copy=True).tobytes() for a in arrays]
