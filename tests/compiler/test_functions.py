"""Each function and operator of the array API: replays equal eager calls."""

import array_api_compat.numpy as xnp
import numpy as np
import programs as pg
import pytest
from checking import a, check, interpreted
from programs import assert_same

import portnet
from portnet.backend import namespace

LINES = {
    "float": [f"xp.{f}(x)" for f in pg.UNARY["float"]]
    + [f"xp.{f}(x, y)" for f in [*pg.BINARY["float"], "copysign"]]
    + [f"xp.{f}(x, 0.75)" for f in pg.BINARY["float"]]
    + [f"xp.{f}(2.0, y)" for f in pg.BINARY["float"]]
    + [f"x {op} y" for op in pg.OPERATORS["float"]]
    + [f"x {op} 2" for op in pg.OPERATORS["float"]]
    + [f"1.5 {op} x" for op in pg.OPERATORS["float"]]
    + ["-x", "+x", "abs(x)", "xp.signbit(x)", "xp.clip(x, 0.0, 1.0)", "x @ xp.matrix_transpose(y)"],
    "int": [f"xp.{f}(x)" for f in pg.UNARY["int"]]
    + [f"xp.{f}(x, y)" for f in [*pg.BINARY["int"], "floor_divide", "remainder"]]
    + [f"xp.{f}(x, 3)" for f in pg.BINARY["int"]]
    + [f"xp.{f}(3, y)" for f in pg.BINARY["int"]]
    + [f"x {op} y" for op in [*pg.OPERATORS["int"], "//", "%"]]
    + [f"x {op} 3" for op in [*pg.OPERATORS["int"], "//", "%", "**", "<<", ">>"]]
    + [f"3 {op} x" for op in [*pg.OPERATORS["int"], "//", "%"]]
    + ["-x", "+x", "abs(x)", "~x", "xp.pow(x, 2)", "x @ xp.matrix_transpose(y)"]
    + ["xp.bitwise_left_shift(x, y & 3)", "xp.bitwise_right_shift(x, y & 3)", "5 << (x & 3)"],
    "bool": [f"xp.{f}(x)" for f in pg.UNARY["bool"]]
    + [f"xp.{f}(x, y)" for f in pg.BINARY["bool"]]
    + [f"x {op} y" for op in pg.OPERATORS["bool"]]
    + [f"x {op} True" for op in pg.OPERATORS["bool"]]
    + [f"False {op} x" for op in pg.OPERATORS["bool"]]
    + ["~x", "xp.where(x, 1.0, 2.0)", "xp.where(x, xp.asarray(3), xp.asarray(4))"],
}
LINES["any"] = [
    *(
        f"xp.{f}(x{axis}{keep})"
        for f in ("max", "min", "any", "all", "argmax", "argmin")
        for axis in ("", ", axis=0", ", axis=-1", ", axis=(0, 1)", ", axis=()")
        for keep in ("", ", keepdims=True")
        if not (f.startswith("arg") and "(" in axis)
    ),
    *(f"xp.astype(x, xp.{dtype})" for dtype in pg.DTYPES),
    *("xp.reshape(x, (-1,))", "xp.reshape(x, (3, 2))", "xp.permute_dims(x, (1, 0))", "x.T", "x.mT"),
    *("xp.matrix_transpose(x)", "x[1]", "x[:, -1]", "x[::-1, ::2]", "x[None]", "x[..., None]"),
    *("x[0, 1]", "x[...]", "x[1:1]", "x[5:]", "x[-1:0:-1, 1:]", "x[:, :, None]", "x[0, ..., 1]"),
    *(f"xp.concat([x, y, x], axis={axis})" for axis in (0, 1, -1, None)),
    *(f"xp.stack([x, y], axis={axis})" for axis in (0, 1, 2, -1, -2)),
    *("xp.take(x, xp.asarray([1, 0, 1]), axis=0)", "xp.take(x[0], xp.asarray([2, 0]))"),
    *("xp.expand_dims(x, axis=1)", "xp.squeeze(xp.expand_dims(x, axis=0), axis=0)"),
    *(
        "xp.broadcast_to(x[0], (4, 3))",
        "xp.flip(x)",
        "xp.flip(x, axis=0)",
        "xp.flip(x, axis=(0, 1))",
    ),
    *("xp.zeros_like(x)", "xp.ones_like(x)", "xp.full_like(x, 1)", "xp.zeros((2,))", "xp.ones(3)"),
    *("xp.full((2, 2), 7)", "xp.full((), 1.5)", "xp.arange(5)", "xp.arange(1, 9, 3)", "xp.eye(3)"),
    *("xp.arange(3, dtype=xp.int32)", "xp.arange(0.0, 1.0, 0.25)", "xp.eye(2, 3, k=1)"),
    *("xp.linspace(0.0, 1.0, 5)", "xp.asarray([1, 2])", "xp.asarray(2.5)", "xp.asarray([[True]])"),
    *("xp.zeros_like(x, dtype=xp.float32)", "xp.full((2,), 1, dtype=xp.uint8)"),
    *("xp.asarray(x)", "xp.where(x == y, x, y)", "xp.flip(x)[..., 1]"),
]


def numbers(kind, rows=2, columns=3):
    draw = np.random.default_rng(0)
    x, y = draw.uniform(0.1, 0.9, (2, rows, columns))
    return {
        "float": lambda: (x, y),
        "float32": lambda: (x.astype("float32"), y.astype("float32")),
        "int": lambda: ((x * 50).astype("int32") + 1, (y * 50).astype("int32") + 1),
        "int64": lambda: ((x * 50).astype("int64") + 1, (y * 50).astype("int64") + 1),
        "uint8": lambda: (
            (x * 50).astype("uint8") + np.uint8(1),
            (y * 9).astype("uint8") + np.uint8(1),
        ),
        "bool": lambda: (x > 0.5, y > 0.5),
    }[kind]()


def function_of_lines(lines):
    """Return a function of x, y that returns the values of these lines."""
    space = {"namespace": namespace}
    values = "".join(f"        {line},\n" for line in lines)
    exec(f"def fn(x, y):\n    xp = namespace(x)\n    return [\n{values}    ]\n", space)
    return space["fn"]


@pytest.mark.parametrize("kind", ["float", "float32", "int", "int64", "uint8", "bool"])
def test_every_elementwise_function_and_operator_equals_eager(kind):
    family = {"float32": "float", "int64": "int", "uint8": "int"}.get(kind, kind)
    lines = LINES[family]
    if kind == "uint8":
        lines = [line for line in lines if line not in ("-x", "xp.negative(x)")]
    with np.errstate(all="ignore"):
        check(function_of_lines(lines), *numbers(kind))
        for line in lines:  # alone, without operations to share or to reorder
            check(function_of_lines([line]), *numbers(kind), calls=2)
        x, y = numbers(kind)
        fn = function_of_lines(lines)
        assert_same(interpreted(fn, (x, y), xnp, (x, y)), fn(x, y))


@pytest.mark.parametrize("kind", ["float", "int", "uint8", "bool"])
def test_every_shape_index_and_creation_function_equals_eager(kind):
    lines = [
        line for line in LINES["any"] if kind != "bool" or not line.startswith(("xp.m", "xp.arg"))
    ]
    check(function_of_lines(lines), *numbers(kind))
    for line in lines:
        check(function_of_lines([line]), *numbers(kind), calls=2)


@pytest.mark.parametrize("name", ["sum", "mean", "prod", "var", "std"])
@pytest.mark.parametrize("kind", ["float", "float32", "int"])
def test_every_reduction_equals_eager(name, kind):
    if kind == "int" and name in ("mean", "var", "std"):
        return
    axes = ["", ", axis=0", ", axis=-1", ", axis=(0, 1)", ", axis=(1,)", ", axis=()"]
    lines = [f"xp.{name}(x{axis}{keep})" for axis in axes for keep in ("", ", keepdims=True")]
    if name in ("var", "std"):
        lines = [line for line in lines if "()" not in line] + [f"xp.{name}(x, correction=1.0)"]
    if name in ("sum", "prod"):
        lines += [f"xp.{name}(x, axis=0, dtype=xp.float64)"]
    fn, args = function_of_lines(lines), numbers(kind, 40, 30)
    if name == "prod":
        args = tuple(x / x.dtype.type(1.0) if kind != "int" else x % 3 for x in args)
    compiled = portnet.compile(fn)
    eps = 0 if kind == "int" else float(np.finfo(args[0].dtype).eps)
    for _ in range(2):
        for actual, expected in zip(compiled(*args), fn(*args), strict=True):
            magnitude = 1200 if name == "sum" else 1.0 if name != "prod" else np.abs(expected)
            assert_same(
                actual,
                expected,
                np.asarray(1200 * 4 * eps if name == "prod" else 64 * eps) * magnitude,
            )


def test_dtype_queries_in_a_trace_equal_those_of_arrays():
    def fn(x, n):
        xp = namespace(x, n)
        assert xp.isdtype(x.dtype, "real floating")
        assert xp.isdtype(n.dtype, ("integral", xp.bool))
        assert xp.finfo(x.dtype).max > 1e30
        assert xp.iinfo(n.dtype).bits == 32
        assert xp.result_type(x, xp.float64) == xp.float64
        assert x.shape == (2, 3)
        assert (x.ndim, x.size, len(n.shape)) == (2, 6, 1)
        return (
            xp.maximum(x, xp.finfo(x.dtype).smallest_normal),
            xp.astype(n, x.dtype),
            xp.iinfo(n.dtype).max,
        )

    check(fn, a(2, 3, dtype="float32"), np.array([1, 2], "int32"))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_powers_of_complex_arrays_equal_eager_calls(dtype):
    x = (np.linspace(-2, 2, 7) + 1j * np.linspace(3, -1, 7)).astype(dtype)
    check(lambda x: [x**2, x**0.5, x**-1, x**3, x * (1 + 2j)], x)


@pytest.mark.parametrize("index", [-5_001, 5_000])
def test_out_of_bounds_indices_of_large_takes_raise(index):
    x, rows = np.zeros((5_000, 20)), np.arange(4_000)
    compiled = portnet.compile(lambda x, rows: namespace(x).take(x, rows, axis=0))
    compiled(x, rows)
    rows[7] = index
    with pytest.raises(IndexError, match="out of bounds"):
        compiled(x, rows)


@pytest.mark.parametrize("correction", [np.float64(1.0), np.int64(1), np.array(1.0), True])
def test_correction_of_a_variance_is_a_number_of_any_type(correction):
    x = np.linspace(-1.0, 2.0, 12).reshape(4, 3)

    def variance(x):
        return namespace(x).var(x, axis=0, correction=correction)

    np.testing.assert_allclose(portnet.compile(variance)(x), variance(x), rtol=1e-14)
