"""Operators of ONNX: ONNX Runtime computes what NumPy does, for each operation of a trace."""

import numpy as np
import pytest
from served import Of, assert_equal, node_kinds, served

import portnet
from portnet.compiler import ir
from portnet.exchange import ExchangeError
from portnet.exchange.operators import OF_BOOLEANS, OF_INTEGERS, OTHERS, REDUCED, SAME

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

D = np.linspace(-1.5, 2, 5)
FUNCTIONS = {
    "abs": lambda xp, x: xp.abs(x),
    "add": lambda xp, x: x + D.astype(x.dtype),
    "all": lambda xp, x: xp.astype(xp.all(x < 2, axis=-1, keepdims=True), x.dtype),
    "any": lambda xp, x: xp.astype(xp.any(x < 0, axis=-1), x.dtype),
    "argmax": lambda xp, x: xp.argmax(x, axis=-1, keepdims=True),
    "argmin": lambda xp, x: xp.argmin(x, axis=1),
    "astype": lambda xp, x: xp.astype(3 * x, xp.int32),
    "broadcast_to": lambda xp, x: xp.broadcast_to(xp.sum(x, axis=1, keepdims=True), x.shape) * x,
    "ceil": lambda xp, x: xp.ceil(x),
    "clip": lambda xp, x: xp.clip(x, -0.5, 1.0) + xp.clip(x, None, 0.2) + xp.clip(x, x * x, 3 + x),
    "concat": lambda xp, x: xp.concat([x, xp.ones_like(x), 2 * x], axis=-1),
    "conj": lambda xp, x: xp.conj(x),
    "cos": lambda xp, x: xp.cos(x),
    "divide": lambda xp, x: x / (2.0 + x * x),
    "divide integers": lambda xp, x: xp.astype(x > 0, xp.int64) / 3,
    "equal": lambda xp, x: xp.astype(xp.sign(x) == 1, x.dtype),
    "exp": lambda xp, x: xp.exp(x),
    "expm1": lambda xp, x: xp.expm1(x) / x,
    "expm1 near 0": lambda xp, x: xp.expm1(1e-9 * x) / (1e-9 * x),
    "floor": lambda xp, x: xp.floor(x),
    "getitem": lambda xp, x: x[:, 1:4] * x[:, ::-1][:, :3] + x[:, -1, None],
    "getitem of rows": lambda xp, x: xp.concat([x[1:], x[:1]]) + x[::-1, :] + x[0],
    "getitem of new axes": lambda xp, x: x[None, :, None, 2:4],
    "greater": lambda xp, x: xp.astype(x > 0.5, x.dtype),
    "greater_equal": lambda xp, x: xp.astype(x >= D[2:3], x.dtype),
    "isfinite": lambda xp, x: xp.isfinite(x / xp.maximum(x, 0.0)),
    "isinf": lambda xp, x: xp.isinf(x / xp.maximum(x, 0.0)),
    "isnan": lambda xp, x: xp.isnan(xp.maximum(x, 0.0) / xp.maximum(x, 0.0)),
    "less": lambda xp, x: xp.astype(x < 1, x.dtype),
    "less_equal": lambda xp, x: xp.astype(x <= x[:, :1], x.dtype),
    "log": lambda xp, x: xp.log(x * x + 1),
    "log10": lambda xp, x: xp.log10(x * x + 1),
    "log1p": lambda xp, x: xp.log1p(x * x),
    "log1p near 0": lambda xp, x: xp.log1p(1e-9 * x) / (1e-9 * x),
    "log2": lambda xp, x: xp.log2(x * x + 1),
    "logaddexp": lambda xp, x: xp.logaddexp(20 * x, x),
    "logical_and": lambda xp, x: xp.logical_and(x > 0, x < 1),
    "logical_not": lambda xp, x: xp.logical_not(x > 0),
    "logical_or": lambda xp, x: xp.logical_or(x > 1, x < 0),
    "logical_xor": lambda xp, x: xp.logical_xor(x > 0, x < 1),
    "matmul": lambda xp, x: xp.matmul(x, xp.matmul(xp.matrix_transpose(x), x)) / x.shape[1],
    "max": lambda xp, x: x - xp.max(x, axis=-1, keepdims=True),
    "maximum": lambda xp, x: xp.maximum(x, 0.5) + xp.maximum(x, 0.0),
    "mean": lambda xp, x: xp.mean(x, axis=-1),
    "mean of rows": lambda xp, x: x - xp.mean(x, axis=0),
    "min": lambda xp, x: xp.min(x, axis=-1),
    "minimum": lambda xp, x: xp.minimum(x, -x),
    "multiply": lambda xp, x: x * 3,
    "negative": lambda xp, x: -x,
    "not_equal": lambda xp, x: x != xp.abs(x),
    "permute_dims": lambda xp, x: xp.permute_dims(xp.permute_dims(x, (1, 0))[1:, :], (1, 0)),
    "positive": lambda xp, x: +x,
    "pow": lambda xp, x: xp.abs(x) ** 1.5 + x**3,
    "prod": lambda xp, x: xp.prod(x, axis=-1),
    "real": lambda xp, x: xp.real(x),
    "reciprocal": lambda xp, x: xp.reciprocal(2.0 + x * x),
    "reshape": lambda xp, x: xp.reshape(xp.sum(xp.reshape(x[:, :4], (-1, 2, 2)), axis=2), (-1, 2)),
    "reshape with rows": lambda xp, x: xp.reshape(xp.reshape(x, (5, x.shape[0])), x.shape),
    "round": lambda xp, x: xp.round(2 * x),
    "sign": lambda xp, x: xp.sign(x),
    "sin": lambda xp, x: x + xp.sin(x) ** 2,
    "sqrt": lambda xp, x: xp.sqrt(xp.abs(x)),
    "square": lambda xp, x: xp.square(x),
    "std": lambda xp, x: xp.std(x, axis=-1, correction=1),
    "subtract": lambda xp, x: 1 - x,
    "sum": lambda xp, x: xp.sum(x),
    "sum of truth values": lambda xp, x: xp.sum(xp.astype(x > 0, xp.int32), axis=1),
    "take": lambda xp, x: xp.take(x, np.array([3, 0, 0], np.uint8), axis=1),
    "tanh": lambda xp, x: xp.tanh(x),
    "var": lambda xp, x: xp.var(x, axis=(0, 1)) * x,
    "where": lambda xp, x: xp.where(x > 0, x, xp.zeros_like(x)) + xp.where(x > 1, 1.0, x),
    "bitwise_and": lambda xp, x: (x > 0) & (x < 1) & True,
    "bitwise_and integers": lambda xp, x: xp.astype(9 * x, xp.int64) & 3,
    "bitwise_invert": lambda xp, x: ~(x > 0),
    "bitwise_invert integers": lambda xp, x: ~xp.astype(9 * x, xp.int32),
    "bitwise_or": lambda xp, x: (x < 0) | (x > 1),
    "bitwise_or integers": lambda xp, x: xp.astype(9 * x, xp.int64) | 3,
    "bitwise_xor": lambda xp, x: (x > 0) ^ (x < 1),
    "bitwise_xor integers": lambda xp, x: xp.astype(9 * x, xp.int64) ^ 3,
    "ceil of integers": lambda xp, x: xp.ceil(xp.astype(9 * x, xp.int64)),
    "floor of integers": lambda xp, x: xp.floor(xp.astype(9 * x, xp.int32)),
    "round of integers": lambda xp, x: xp.round(xp.astype(9 * x, xp.int64)),
    "isnan of integers": lambda xp, x: xp.isnan(xp.astype(9 * x, xp.int64)),
    "isfinite of truth values": lambda xp, x: xp.isfinite(x > 0),
    "greater of truth values": lambda xp, x: (x > 0) > (x > 1),
    "equal of truth values": lambda xp, x: (x > 0) == (x > 1),
    "where of truth values": lambda xp, x: xp.where(x > 0, x < 1, x < -1),
    "log1p at its ends": lambda xp, x: xp.log1p(xp.where(x > 0, x / (0 * x), -1.0)),
    "sum over no axis": lambda xp, x: xp.sum(x, axis=()),
    "products of rows": lambda xp, x: x[:, None, :] - x[None, :, :],
    "matmul with three axes": lambda xp, x: xp.matmul(x[:, None, :], x[:, :, None]),
    "truth values": lambda xp, x: xp.maximum(x > 0, x < 1) * xp.minimum(x > 0, x < 1),
}
# Functions whose float64 kernels ONNX Runtime lacks.
FLOAT32 = {
    "acos": lambda xp, x: xp.acos(xp.tanh(x)),
    "acosh": lambda xp, x: xp.acosh(2 + x * x),
    "asin": lambda xp, x: xp.asin(xp.tanh(x)),
    "asinh": lambda xp, x: xp.asinh(x),
    "atan": lambda xp, x: xp.atan(x),
    "atanh": lambda xp, x: xp.atanh(0.5 * xp.tanh(x)),
    "cosh": lambda xp, x: xp.cosh(x),
    "sinh": lambda xp, x: xp.sinh(x),
    "tan": lambda xp, x: xp.tan(0.5 * xp.tanh(x)),
}
LACKING = {
    "atan2": lambda xp, x: xp.atan2(x, 1 + x),
    "bitwise_left_shift": lambda xp, x: xp.astype(x, xp.int64) << 1,
    "bitwise_right_shift": lambda xp, x: xp.astype(x, xp.int64) >> 1,
    "copysign": lambda xp, x: xp.copysign(x, -x),
    "floor_divide": lambda xp, x: x // 2,
    "hypot": lambda xp, x: xp.hypot(x, 1 + x),
    "imag": lambda xp, x: xp.imag(x),
    "nextafter": lambda xp, x: xp.nextafter(x, 2 * x),
    "remainder": lambda xp, x: x % 2,
    "signbit": lambda xp, x: xp.signbit(x),
    "trunc": lambda xp, x: xp.trunc(x),
}


def network(f):
    return portnet.Chain([Of(f)], n_in=5)


def check(f, dtype, path, rows=(1, 3, 40)):
    """Compare a layer with its file, for several numbers of rows."""
    net = network(f)
    with portnet.use_backend("numpy", dtype=dtype):
        portnet.export_onnx((net, ((),)), path)
    assert node_kinds(path)
    for count in rows:
        X = np.random.default_rng(count).normal(size=(count, 5)).astype(dtype)
        with np.errstate(all="ignore"):
            expected, _ = net.forward(((),), X)
        found = served(path, X)["y"]
        assert found.dtype == np.asarray(expected).dtype
        assert_equal(found, expected, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_operation(name, dtype, tmp_path):
    check(FUNCTIONS[name], dtype, tmp_path / "m.onnx")


@pytest.mark.parametrize("name", FLOAT32)
def test_each_operation_of_float32_alone(name, tmp_path):
    check(FLOAT32[name], "float32", tmp_path / "m.onnx")


@pytest.mark.parametrize("name", LACKING)
def test_an_operation_that_onnx_lacks_is_named_with_the_line(name, tmp_path):
    path = tmp_path / "m.onnx"
    line = LACKING[name].__code__.co_firstlineno
    with pytest.raises(ExchangeError, match=rf"the operation {name} .*{__file__}:{line}, in"):
        portnet.export_onnx((network(LACKING[name]), ((),)), path)
    assert not path.exists()


def test_every_operation_of_a_trace_is_tested():
    tested = {name.partition(" ")[0] for name in (*FUNCTIONS, *FLOAT32, *LACKING)}
    tables = ir.ELEMENTWISE | ir.CALLED | ir.REDUCTIONS | ir.VIEWS
    assert tables <= tested
    assert {*SAME, *OF_BOOLEANS, *OF_INTEGERS, *REDUCED, *OTHERS} <= tested


# The number of rows -----------------------------------------------------------------------------

ROWS = {
    "a number": (lambda xp, x: x / x.shape[0], "the operation divide has the constant 101 for 101"),
    "an array": (lambda xp, x: x * np.arange(x.shape[0])[:, None], "the operation multiply has a"),
    "random": (lambda xp, x: x + np.random.default_rng().normal(size=5), "the operation add has a"),
    "an index": (lambda xp, x: x[x.shape[0] // 2], "getitem has an axis of 50 for 101 rows"),
    "a part": (lambda xp, x: x[:, : x.shape[0] - 99], "getitem is done for 101 rows, and not"),
    "another part": (
        lambda xp, x: x[:, (k := (x.shape[0] - 101) % 4) : k + 2],
        "getitem takes a part that depends",
    ),
    "an operation": (
        lambda xp, x: xp.exp(x) if x.shape[0] == 101 else xp.sin(x),
        "exp is done for",
    ),
    "more of them": (lambda xp, x: sum(x[i] for i in range(x.shape[0])), r"not for 101:"),
    "an axis": (lambda xp, x: xp.sum(x, axis=int(x.shape[0] == 101)), "the operation sum"),
    "a shape": (lambda xp, x: xp.zeros((3, x.shape[0] // 2)) + x[0, 0], "add has an axis of 50"),
    "an operation from 200 rows": (
        lambda xp, x: xp.exp(x) if x.shape[0] > 200 else xp.sin(x),
        r"the operation sin is done for 101 rows, where exp is for 10000",
    ),
    "a number from 200 rows": (
        lambda xp, x: x * (2 if x.shape[0] > 200 else 3),
        r"multiply has the constant 3 for 101 rows and 2 for 10000",
    ),
    "an array from 200 rows": (
        lambda xp, x: x * np.arange(5.0)[:: -1 if x.shape[0] > 200 else 1],
        r"the operation multiply has a constant array",
    ),
    "a part from 200 rows": (lambda xp, x: x - xp.mean(x[:200], axis=0), "for 10000"),
    "an even number": (
        lambda xp, x: x * (2 if x.shape[0] % 2 else 3),
        r"multiply has the constant 2 for 101 rows and 3 for 10000",
    ),
    "a number for one row": (
        lambda xp, x: x * (2 if x.shape[0] > 1 else 3),
        r"the operation multiply is multiply 3 for one row, and multiply 2 for 101",
    ),
    "an operation for one row": (
        lambda xp, x: x if x.shape[0] == 1 else xp.exp(x),
        r"the operation exp is done for 101 rows, and not for one: .*test_onnx_operators.py:\d+",
    ),
    "more operations for one row": (
        lambda xp, x: xp.exp(x) if x.shape[0] == 1 else x,
        r"the operation exp is done for one row, and not for 101 rows: .*operators.py:\d+",
    ),
    "another operation for one row": (
        lambda xp, x: xp.sin(x) if x.shape[0] == 1 else xp.exp(x),
        r"the operation exp is sin for one row, and exp for 101.*test_onnx_operators.py:\d+",
    ),
}


def test_a_layer_that_refuses_one_row_is_exported(tmp_path):
    def spread(xp, x):
        if x.shape[0] == 1:
            raise ValueError("expected at least two rows")
        return x - xp.mean(x, axis=0)

    check(spread, "float32", tmp_path / "m.onnx", rows=(2, 40))


@pytest.mark.parametrize(("f", "message"), ROWS.values(), ids=ROWS)
def test_what_depends_on_the_number_of_rows_is_an_error(f, message, tmp_path):
    with pytest.raises(ExchangeError, match=message):
        portnet.export_onnx((network(f), ((),)), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


CONSTANTS = {
    "with x": lambda xp, x: x + xp.ones_like(x),
    "with one row of x": lambda xp, x: x[:1, :] + xp.zeros_like(x),
    "in a product": lambda xp, x: xp.ones_like(x) @ xp.matrix_transpose(x)[:, :1],
    "as the result": lambda xp, x: xp.full_like(x, 2.0),
    "of columns": lambda xp, x: xp.zeros_like(x) + np.arange(5, dtype=x.dtype),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_with_equal_rows_has_any_number_of_them(name, tmp_path):
    check(CONSTANTS[name], "float32", tmp_path / "m.onnx")


@pytest.mark.parametrize("width", [101, 103, 107])
def test_widths_may_be_the_numbers_of_rows_of_the_trace(width, tmp_path):
    net = portnet.Chain([portnet.Dense(103), portnet.LayerNorm(), portnet.Dense(101)], n_in=width)
    X = np.random.default_rng(0).normal(size=(7, width)).astype(np.float32)
    params = portnet.init(net, like=X)
    portnet.export_onnx((net, params), tmp_path / "m.onnx")
    assert_equal(served(tmp_path / "m.onnx", X)["y"], net.forward(params, X)[0], "float32")


def test_a_layer_that_looks_at_values_is_named_with_its_line(tmp_path):
    def looks(xp, x):
        return x if x[0, 0] > 0 else -x

    line = looks.__code__.co_firstlineno + 1
    message = rf"cannot be traced: the truth of an array.* \(at {__file__}:{line}, in"
    with pytest.raises(ExchangeError, match=message):
        portnet.export_onnx((network(looks), ((),)), tmp_path / "m.onnx")


def test_an_error_of_a_layer_is_given_with_its_line(tmp_path):
    def fails(xp, x):
        return memoryview(x)

    message = rf"cannot be traced: it raised TypeError: .* \(at {__file__}:\d+, in .*fails"
    with pytest.raises(ExchangeError, match=message):
        portnet.export_onnx((network(fails), ((),)), tmp_path / "m.onnx")


def test_a_dtype_that_an_operator_lacks_is_named_with_the_line(tmp_path):
    net = network(lambda xp, x: -xp.astype(x, xp.uint8))
    message = rf"the operation negative of uint8 has no operator in ONNX.*{__file__}"
    with pytest.raises(ExchangeError, match=message):
        portnet.export_onnx((net, ((),)), tmp_path / "m.onnx")


def test_what_the_checker_of_onnx_refuses_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("portnet.exchange.graph.Graph.takes", lambda *args: True)
    net = network(lambda xp, x: -xp.astype(x, xp.uint8))
    with pytest.raises(ExchangeError, match=r"ONNX's checker refuses the network: .*Neg"):
        portnet.export_onnx((net, ((),)), tmp_path / "m.onnx")


def test_complex_numbers_are_an_error(tmp_path):
    def f(xp, x):
        return xp.abs(xp.astype(x, xp.complex64))

    with pytest.raises(ExchangeError, match="complex numbers, which ONNX lacks"):
        portnet.export_onnx((network(f), ((),)), tmp_path / "m.onnx")
