"""compile(fn): replays equal eager calls, and no array that a caller holds is written to.

Random programs (`programs.py`) are replayed, interpreted and run eagerly. Training steps of every
layer, loss and optimizer are replayed a hundred times with their state fed back.
"""

import gc
import inspect
import os
import pickle
import random
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import array_api_compat.numpy as xnp
import array_api_strict
import numpy as np
import programs as pg
import pytest
from custom import Square
from hypothesis import given, settings
from programs import assert_same, snapshot

import portnet
from portnet import rng, tree
from portnet.backend import ShapeError, namespace
from portnet.compiler import tracer
from portnet.engine.compile_cache import compile_cached
from portnet.engine.full_batch import _value_and_grad_of
from portnet.layers import ACTIVATIONS
from portnet.losses import LOSSES
from portnet.optimizers import OPTIMIZERS
from portnet.schedules import CosineDecay, ExponentialDecay, InverseDecay, StepDecay
from portnet.transforms import ClipNorm, WeightDecay, chain

EXAMPLES = int(os.environ.get("PORTNET_EXAMPLES", "60"))


def interpreted(fn, args, xp, xp_args):
    """Trace fn with args, and run the traced operations with the functions of xp."""
    kinds = [(x.shape, x.dtype) for x in args]
    program = tracer.trace(fn, kinds, lambda traced: (traced, {}))
    leaves = iter(program.interpret(xp, xp_args))
    return tree.map(lambda _: next(leaves), program.results)


# Helpers ----------------------------------------------------------------------------------------


class Calls:
    """A function that counts its calls."""

    def __init__(self, fn):
        self.fn, self.count = fn, 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self.fn(*args, **kwargs)


def arrays(pytree):
    """Return the NumPy arrays of a pytree, without its scalars."""
    return [a for a in tree.leaves(pytree) if isinstance(a, np.ndarray)]


def not_donated(args, donate):
    """Return the arguments that must not change, even if they share memory with a donated one."""
    return [x for i, x in enumerate(args) if i not in donate]


def check_memory(result, kept):
    """Fail if results share memory with each other or with `kept`, or are read-only."""
    results = arrays(result)
    for i, a in enumerate(results):
        assert a.flags.writeable, "a result is read-only"
        for b in results[:i]:
            assert not np.shares_memory(a, b), "two results share memory"
        for b in kept:
            assert not np.shares_memory(a, b), "a result shares memory with what is not donated"


def copies(pytree):
    return tree.map(lambda a: np.array(a, copy=True) if isinstance(a, np.ndarray) else a, pytree)


def check(fn, *args, donate=(), calls=3, traced=True):
    """Fail unless each call of compile(fn) equals fn and writes to donated arguments only."""
    counted = Calls(fn)
    compiled = portnet.compile(counted, donate=donate)
    history = []
    for _ in range(calls):
        expected = fn(*copies(args))
        given_args = copies(args)
        held = arrays(not_donated(given_args, donate))
        before = snapshot(held)
        actual = compiled(*given_args)
        assert_same(actual, expected)
        check_memory(actual, held)
        assert snapshot(held) == before
        history.append((actual, snapshot(arrays(actual))))
    for actual, then in history:
        assert snapshot(arrays(actual)) == then, "a result changed in a later call"
    if traced:
        assert counted.count == 2, f"fn was called {counted.count} times, not traced twice"
    return compiled


@contextmanager
def one_warning(*words, here=None):
    """Expect exactly one warning inside: a UserWarning with one of these words and this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    messages = [str(w.message) for w in caught]
    assert len(messages) == 1, messages
    (warning,) = caught
    assert issubclass(warning.category, UserWarning)
    assert warning.category.__module__.startswith("portnet.compiler"), warning.category
    text = f"{messages[0]} ({warning.filename}:{warning.lineno})"
    assert any(word in messages[0] for word in words) or not words, messages[0]
    if here is not None:
        assert os.path.basename(__file__) in text, text
        assert str(line_of(here)) in text, f"expected line {line_of(here)} in: {text}"


def line_of(fn):
    """Return the number of the line of fn that ends with the comment 'here'."""
    lines, start = inspect.getsourcelines(fn)
    return start + next((i for i, line in enumerate(lines) if line.rstrip().endswith("# here")), 0)


def a(*shape, dtype="float64", start=1.0):
    """Return an array of distinct values."""
    return (np.arange(int(np.prod(shape))) * 0.5 + start).reshape(shape).astype(dtype)


# Random programs --------------------------------------------------------------------------------


@given(pg.programs())
@settings(max_examples=EXAMPLES)
def test_random_programs_replayed_equal_eager_calls(program):
    """Every call gives equal results and writes to donated arguments only."""
    counted = Calls(program.function())
    compiled = portnet.compile(counted, donate=program.donate)
    history = []
    with np.errstate(all="ignore"):
        for call in range(4):
            value_set = call % pg.VALUE_SETS
            expected = program.function()(*program.inputs(value_set))
            args = program.inputs(value_set)
            held = not_donated(args, program.donate)
            before = snapshot(held)
            actual = compiled(*args)
            assert_same(actual, expected, program.tolerance(value_set))
            assert snapshot(held) == before, "an argument that is not donated changed"
            captured = [c for k, c in counted.fn.__globals__.items() if k in program.constants]
            check_memory(actual, held + captured)
            history.append((actual, snapshot(arrays(actual))))
            if call == 1:  # the caller owns the results and may write to them
                mine, _ = history.pop(0)
                for result in arrays(mine):
                    result[...] = 1
    for actual, then in history:
        assert snapshot(arrays(actual)) == then, "a result changed in a later call"
    assert counted.count == 2, f"fn was called {counted.count} times, not traced twice"


@given(pg.programs())
@settings(max_examples=EXAMPLES)
def test_random_programs_interpreted_equal_eager_calls(program):
    """On NumPy bit for bit except for sums; also on array_api_strict."""
    fn = program.function()
    with np.errstate(all="ignore"):
        for value_set in range(pg.VALUE_SETS):
            args = program.inputs(value_set)
            expected = fn(*args)
            before = snapshot(args)
            assert_same(interpreted(fn, args, xnp, args), expected, program.tolerance(value_set))
            assert snapshot(args) == before
            strict = [array_api_strict.asarray(np.array(x)) for x in args]
            try:
                expected = program.function(array_api_strict.asarray)(*strict)
            except IndexError:  # NumPy's short form of an index is not in the standard
                continue
            actual = interpreted(fn, args, array_api_strict, strict)
            assert_same(plain(actual), plain(expected), program.tolerance(value_set))


def is_strict(x):
    return type(x).__module__.startswith("array_api_strict")


def plain(pytree):
    return tree.map(lambda x: np.asarray(x) if is_strict(x) else x, pytree)


@given(pg.programs(most=8))
@settings(max_examples=EXAMPLES // 3)
def test_random_programs_on_jax_keep_structure_shapes_and_dtypes(program):
    """Structure, shapes and dtypes must be equal. Programs that JAX rejects are skipped."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    if any(c.shape == () for c in program.constants.values()):
        return  # JAX types a captured 0-d array weakly
    fn = program.function(jax.numpy.asarray)
    args = [jax.numpy.asarray(np.array(x)) for x in program.inputs(0)]
    try:
        expected = fn(*args)
    except (TypeError, ValueError, IndexError):  # JAX deviates from NumPy here
        return
    actual = portnet.compile(fn)(*args)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.shape(x) == np.shape(y)
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None) or not np.shape(y)


def test_program_repr_is_the_source_that_runs():
    argument = pg.Argument((2,), "float64", "C", "small", 1)
    program = pg.Program([argument], {"c0": np.ones(2)}, [("v1", "v0 + c0")], "(v1, v0)", (0,))
    assert "    v1 = v0 + c0\n    return (v1, v0)\n" in repr(program)
    (x,) = program.inputs(0)
    assert_same(program.function()(x), (x + 1, x))


# Each function of the array API -----------------------------------------------------------------

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


# Training steps ---------------------------------------------------------------------------------

MORE_OPTIMIZERS = {
    "clipped and decayed, cosine": chain(
        ClipNorm(0.5), WeightDecay(0.01, only="W"), portnet.Adam(CosineDecay(0.02, 80, warmup=9))
    ),
    "clipped updates": chain(portnet.RMSProp(0.01), ClipNorm(0.05)),
    "inverse": portnet.Nesterov(InverseDecay(0.02, 20, 0.5)),
    "step decay": portnet.SGD(StepDecay(0.05, 30)),
    "exponential": portnet.Momentum(ExponentialDecay(0.02, 50, 0.3)),
    "custom schedule": portnet.AdamW(lambda t: 0.01 / (1.0 + t), decay=0.1, only="W"),
}


def data(loss, rows, n_in=3, n_out=4, dtype="float64", seed=0):
    """Return x, y and weights that a loss takes."""
    draw = np.random.default_rng((seed, rows))
    x = draw.standard_normal((rows, n_in)).astype(dtype)
    if loss == "softmax_cross_entropy":
        y = draw.integers(0, n_out, rows)
    elif loss == "poisson":
        y = draw.poisson(1.0, (rows, n_out)).astype(dtype)
    else:
        y = draw.uniform(0, 1, (rows, n_out)).astype(dtype)
    return x, y, draw.uniform(0.5, 2.0, rows).astype(dtype)


def start(model, optimizer, dtype="float64"):
    params = tree.map(lambda p: p.astype(dtype), portnet.init(model, 3, seed=1))
    return params, optimizer.init(params)


def train(model, loss, optimizer, batches, dtype="float64", steps=100, rtol=1e-9):
    """Compare replayed steps, with parameters and state donated, with eager steps."""
    step = portnet.make_step(model, LOSSES[loss]() if isinstance(loss, str) else loss, optimizer)
    counted = Calls(step)
    compiled = portnet.compile(counted, donate=(0, 1))
    params, state = start(model, optimizer, dtype)
    replayed, replayed_state = copies((params, state))
    kept = []
    for i in range(steps):
        batch = batches[i % len(batches)]
        params, state, value = step(params, state, *batch)
        held = arrays(batch)
        before = snapshot(held)
        replayed, replayed_state, replayed_value = compiled(replayed, replayed_state, *batch)
        assert snapshot(held) == before
        kept.append((value, replayed_value))
    check_memory((replayed, replayed_state, replayed_value), held)
    assert counted.count == 2 * len({len(b[0]) for b in batches})
    values, replayed_values = np.array(kept).T
    np.testing.assert_allclose(replayed_values, values, rtol=rtol, atol=rtol)
    eager = (params, state)
    assert tree.paths(eager) == tree.paths((replayed, replayed_state))
    for path, p, q in zip(
        tree.paths(eager), tree.leaves(eager), tree.leaves((replayed, replayed_state)), strict=True
    ):
        assert p.dtype == q.dtype, path
        np.testing.assert_allclose(q, p, rtol=rtol, atol=rtol, err_msg=path)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", [*OPTIMIZERS, *MORE_OPTIMIZERS])
def test_100_replayed_steps_of_every_optimizer_equal_eager_steps(name):
    optimizer = MORE_OPTIMIZERS[name] if name in MORE_OPTIMIZERS else OPTIMIZERS[name]()
    x, y, _ = data("softmax_cross_entropy", 12)
    train(portnet.mlp([3, 8, 4], "tanh"), "softmax_cross_entropy", optimizer, [(x, y)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_100_replayed_steps_of_every_activation_equal_eager_steps(name):
    x, y, _ = data("squared_error", 10)
    net = portnet.mlp([3, 6, 5, 4], name, norm="layer")
    train(net, "squared_error", portnet.Adam(1e-2), [(x, y)])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_100_replayed_steps_of_every_loss_equal_eager_steps(name, weighted):
    x, y, w = data(name, 9)
    batch = (x, y, w) if weighted else (x, y)
    train(portnet.mlp([3, 6, 4], "silu"), name, portnet.Momentum(0.01), [batch])
    loss = LOSSES[name](reduction="sum")
    train(portnet.mlp([3, 6, 4], "silu"), loss, portnet.SGD(0.001), [batch], steps=20)


@pytest.mark.parametrize("how", ["never", "always"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_compiled_gradient_equals_finite_differences_of_compiled_loss(
    activation, loss, how, monkeypatch
):
    """The reference is the finite difference of the compiled loss."""
    monkeypatch.setenv("PORTNET_NATIVE", how)
    net = portnet.mlp([3, 6, 5, 4], activation, norm="layer")
    x, y, weight = data(loss, 7)
    v, unravel = tree.ravel(start(net, portnet.SGD())[0])
    fn = portnet.compile(_value_and_grad_of(net, LOSSES[loss]()))
    grad = fn(unravel(v), (x, y, weight))[1]
    draw = np.random.default_rng(2)
    for _ in range(3):
        d, h = draw.standard_normal(v.shape), 1e-5
        up, down = (float(fn(unravel(v + s * h * d), (x, y, weight))[0]) for s in (1, -1))
        np.testing.assert_allclose((up - down) / (2 * h), grad @ d, rtol=1e-6, atol=1e-8)
    assert len(fn._entries) == 1


def test_steps_with_label_smoothing_and_one_hot_targets_equal_eager():
    x, y, w = data("softmax_cross_entropy", 9)
    loss = portnet.SoftmaxCrossEntropy(label_smoothing=0.1)
    train(portnet.mlp([3, 6, 4]), loss, portnet.SGD(0.1), [(x, y)])
    train(portnet.mlp([3, 6, 4]), loss, portnet.SGD(0.1), [(x, np.eye(4)[y], w)])


def test_steps_with_all_weights_zero_equal_eager_steps():
    x, y, _ = data("huber", 5)
    train(portnet.mlp([3, 6, 4]), "huber", portnet.Adam(), [(x, y, np.zeros(5))], steps=5)


@pytest.mark.parametrize("loss", LOSSES)
def test_batches_of_several_lengths_equal_eager_steps(loss):
    batches = [data(loss, rows) for rows in (8, 5, 1)]
    train(portnet.mlp([3, 6, 4], "relu"), loss, portnet.Adam(1e-2), batches, steps=60)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_float32_steps_equal_eager_steps(optimizer):
    x, y, w = data("softmax_cross_entropy", 16, dtype="float32")
    net = portnet.mlp([3, 8, 4], "gelu")
    opt = OPTIMIZERS[optimizer]()
    train(net, "softmax_cross_entropy", opt, [(x, y, w)], "float32", steps=20, rtol=1e-3)


def test_custom_layers_losses_and_optimizers_equal_eager_steps():
    def quartic(pred, target, weight=None):
        xp = namespace(pred)
        e = pred - target
        value = xp.sum(e**4) / pred.shape[0]
        return value, 4.0 * e**3 / pred.shape[0]

    @dataclass(frozen=True)
    class Sign:
        lr: float

        def init(self, params):
            return {"n": np.zeros(())}

        def update(self, grads, state, params):
            u = tree.map(lambda g: -self.lr * namespace(g).sign(g), grads)
            return u, {"n": state["n"] + 1.0}

    @dataclass(frozen=True)
    class Scale:
        def init(self, rng, n_in):
            return {"s": np.ones((1, n_in))}, n_in

        def forward(self, params, x, key=None):
            return params["s"] * x, x

        def backward(self, params, cache, dy):
            xp = namespace(dy)
            ds = xp.sum(dy * cache, axis=-2, keepdims=True)
            return {"s": ds}, dy * params["s"]

    x, y, _ = data("squared_error", 7)
    net = portnet.Chain(
        [portnet.Residual(portnet.Dense(3)), portnet.Dense(5), Square(), Scale(), portnet.Dense(4)]
    )
    train(net, quartic, Sign(1e-3), [(x, y)])


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8])
def test_dropout_steps_use_the_same_masks_as_eager_steps(rate):
    """A key of arrays is an input of the plan; each key of Python ints has its own plan."""
    net = portnet.mlp([3, 16, 16, 4], dropout=rate)
    x, y, _ = data("squared_error", 8)
    step = portnet.make_step(net, LOSSES["squared_error"](), portnet.Adam(1e-2))
    compiled = portnet.compile(step, donate=(0, 1))
    for as_array in (True, False):
        eager = start(net, portnet.Adam(1e-2))
        replayed = copies(eager)
        for i in range(100 if as_array else 12):
            key = rng.Key(rng.key(0, i).salt, 8 * i)
            if as_array:
                key = rng.Key(*(np.array([[k]], "int32") for k in key))
            *eager, value = step(*eager, x, y, None, key)
            *replayed, replayed_value = compiled(*replayed, x, y, None, key)
            np.testing.assert_allclose(replayed_value, value, rtol=1e-9)
        for p, q in zip(tree.leaves(eager), tree.leaves(replayed), strict=True):
            np.testing.assert_allclose(q, p, rtol=1e-9, atol=1e-12)


def test_mask_of_a_key_of_arrays_equals_the_eager_mask():
    def fn(x, salt, first):
        return rng.keep_mask(rng.fold(rng.Key(salt, first), 3), x, 0.4)

    compiled = portnet.compile(fn)
    x = a(6, 5)
    for i in range(5):
        args = (x, np.array([[12345 * i - 7]], "int32"), np.array([[100 * i]], "int32"))
        np.testing.assert_array_equal(compiled(*args), fn(*args))


def test_steps_with_scale_and_keyword_arguments_equal_eager_steps():
    net, loss = portnet.mlp([3, 6, 4]), LOSSES["huber"]()
    x, y, w = data("huber", 6)
    step = portnet.make_step(net, loss, portnet.Adam(1e-2))
    compiled = portnet.compile(step, donate=(0, 1))
    eager = start(net, portnet.Adam(1e-2))
    replayed = copies(eager)
    for i in range(6):
        scale = np.array(1.0 / (i + 1))
        *eager, value = step(*eager, x, y, weight=w, scale=scale)
        *replayed, replayed_value = compiled(*replayed, x, y, weight=w, scale=scale)
        np.testing.assert_allclose(replayed_value, value, rtol=1e-12)
    assert_close(replayed, eager)


def assert_close(actual, expected, rtol=1e-11):
    for p, q in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        np.testing.assert_allclose(p, q, rtol=rtol, atol=rtol)


def test_step_that_takes_the_rows_of_its_batch_equals_eager():
    """As compiled by Trainer: the step takes the rows of its batch itself."""
    net, loss, opt = portnet.mlp([3, 6, 4]), LOSSES["softmax_cross_entropy"](), portnet.Adam(1e-2)
    step = portnet.make_step(net, loss, opt)
    X, y, _ = data("softmax_cross_entropy", 40)

    def batch_step(params, state, X, y, rows):
        xp = namespace(X)
        return step(params, state, xp.take(X, rows, axis=0), xp.take(y, rows, axis=0))

    compiled = portnet.compile(batch_step, donate=(0, 1))
    eager = start(net, opt)
    replayed = copies(eager)
    order = rng.order(0, 0, 40)
    for i in range(0, 40, 8):
        *eager, _ = batch_step(*eager, X, y, order[i : i + 8])
        *replayed, _ = compiled(*replayed, X, y, order[i : i + 8])
    assert_close(replayed, eager)


# Pytrees and Python values ----------------------------------------------------------------------


class Pair(NamedTuple):
    first: Any
    second: Any


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


def test_python_scalars_are_part_of_the_plan_key():
    def fn(x, k):
        return x + k if isinstance(k, bool) else x * k if isinstance(k, int) else x / k

    compiled = portnet.compile(fn)
    x = a(3)
    for _ in range(2):
        assert_same(compiled(x, 1), x * 1)
        assert_same(compiled(x, True), x + True)
        assert_same(compiled(x, 1.0), x / 1.0)
        assert_same(compiled(x, 4), x * 4)
        assert_same(compiled(x, 4.0), x / 4.0)
    zero = portnet.compile(lambda x, k: x * k)
    for _ in range(2):
        assert_same(zero(x, 0.0), x * 0.0)
        assert_same(zero(x, -0.0), x * -0.0)
        assert_same(zero(x, float("nan")), x * np.nan)
        assert_same(zero(x, float("inf")), x * np.inf)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_scalars_are_promoted_unlike_python_scalars(dtype):
    compiled = portnet.compile(lambda x, k: x * k)
    x = a(3, dtype=dtype)
    for k in (
        2.0,
        np.float64(2.0),
        np.float32(2.0),
        2.0,
        np.float64(3.0),
        np.array(2.0),
        np.float64(2.0),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert_same(compiled(x, k), x * k)


def test_pytree_structure_is_part_of_the_plan_key():
    compiled = portnet.compile(lambda pytree: (type(pytree), len(pytree)))
    x = a(2)
    for _ in range(2):
        for pytree in (
            (x, x),
            [x, x],
            (x,),
            [x],
            {"a": x},
            Pair(x, x),
            (x, None),
            (None, x),
            (x, 1),
        ):
            assert compiled(pytree) == (type(pytree), len(pytree))
    keys = portnet.compile(lambda pytree: list(pytree))
    for names in ("ab", "ba", "ac", "ab"):
        assert keys(dict.fromkeys(names, x)) == list(names)
    one = portnet.compile(lambda pytree: pytree["a"] - pytree["b"])
    assert_same(one({"a": a(2), "b": a(2, start=9.0)}), a(2) - a(2, start=9.0))
    assert_same(one({"b": a(2, start=9.0), "a": a(2)}), a(2) - a(2, start=9.0))


def test_dtypes_and_shapes_are_part_of_the_plan_key():
    compiled = portnet.compile(lambda x: (x + x, x.shape[0] if x.ndim else -1))
    for dtype in ("float32", "float64", "int32", "int64", "uint8"):
        for shape in ((2,), (1, 2), (2, 1), (2, 2), (), (0,), (0, 3)):
            x = a(*shape, dtype=dtype)
            assert_same(compiled(x), (x + x, x.shape[0] if x.ndim else -1))


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


# Equal constants of different types and signs ---------------------------------------------------


def test_equal_constants_of_different_type_or_sign_stay_distinct():
    """0.0 == -0.0 and 1 == 1.0 == True, but operations with them differ."""

    def fn(x, n):
        xp = namespace(x)
        return [
            *(x * 0.0, x * -0.0, 0.0 - x * 0.0, x + 0.0, x + -0.0, x - 0.0),
            *(xp.full((2,), 1), xp.full((2,), 1.0), xp.full((2,), True)),
            *(xp.full((2,), 0.0), xp.full((2,), -0.0), xp.full_like(x, 0.0), xp.full_like(x, -0.0)),
            *(xp.asarray([0.0]), xp.asarray([-0.0]), xp.asarray([1]), xp.asarray([True])),
            *(xp.asarray(1), xp.asarray(1.0), xp.asarray(True), xp.asarray(-0.0), xp.asarray(0.0)),
            *(xp.where(x > 1, 0.0, x), xp.where(x > 1, -0.0, x), xp.copysign(x, -0.0)),
            *(xp.copysign(x, 0.0), xp.zeros(2), xp.zeros(2, dtype=xp.int32), xp.arange(2)),
            *(xp.arange(2.0), xp.arange(2, dtype=xp.float32), n * 1, n + 0, n * 0, n // 1),
            *(xp.sum(x, axis=0), xp.sum(x, axis=0, keepdims=True), xp.sum(n), x * 1, x * 1.0),
            *(
                xp.max(x, axis=0),
                xp.max(x, axis=-1),
                x / 1,
                x**1,
                x**2,
                x * x,
                x**0.5,
                xp.clip(x, 0.0, 2.0),
                x - x,
                +x,
            ),
        ]

    check(fn, a(3), np.array([1, 2], "int32"))
    with np.errstate(all="ignore"):
        wide = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324])
        check(fn, wide, np.array([2**31 - 1], "int32"))


def test_traces_that_differ_in_the_sign_of_zero_are_not_replayed():
    """Two traces that differ in the sign of a zero only."""
    signs = iter([0.0, -0.0] * 20)
    compiled = portnet.compile(lambda x: x * next(signs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        results = {bytes(compiled(a(3))) for _ in range(10)}
    assert len(results) == 2


# In-place operators -----------------------------------------------------------------------------


def in_place_on_a_new_array(x, y):
    z = x * 2.0
    z += y
    z *= 3.0
    return z


def in_place_on_an_array_with_two_names(x, y):
    z = x * 2.0
    w = z
    z += y
    return z, w


def in_place_on_the_base_of_a_view(x, y):
    z = x * 2.0
    w = z[1:]
    z += y
    return z, w


def in_place_on_a_reshaped_view(x, y):
    z = x * 2.0
    w = namespace(x).reshape(z, (1, -1))
    w -= 1.0
    return z, w


def in_place_on_a_scalar(x, y):
    """The operator makes a new NumPy scalar; other names keep the old one."""
    s = namespace(x).sum(x)
    t = s
    s += 1.0
    p = x[0]
    q = p
    p *= 2.0
    return s, t, p, q, x * 1.0


def in_place_in_a_list(x, y):
    z = [x * 2.0, y * 2.0]
    w = z[0]
    z[0] += z[1]
    return z, w


def in_place_keeps_the_dtype(x, y):
    z = namespace(x).astype(x, namespace(x).float32)
    z += y
    n = namespace(x).astype(x, namespace(x).int32)
    n *= 2
    return z, n


def in_place_after_use(x, y):
    z = x * 2.0
    w = z + y
    z += 1.0
    return z, w


def in_place_on_an_argument(x, y):
    x += y
    return x * 2.0


def in_place_on_a_captured_array(x, y):
    c = CAPTURED
    c += 0.0
    return x + c


CAPTURED = a(3)


@pytest.mark.parametrize("fn", [v for k, v in list(globals().items()) if k.startswith("in_place_")])
def test_in_place_operators_equal_eager_calls(fn):
    """They may be replayed, or run eagerly with a warning."""
    compiled = portnet.compile(fn)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            eager, replayed = (a(3), a(3, start=5.0)), (a(3), a(3, start=5.0))
            expected = fn(*eager)
            assert_same(compiled(*replayed), expected)
            assert_same(replayed, eager)
    assert len(caught) <= 1


def test_in_place_operators_raise_the_eager_errors():
    def wider(x):
        z = x * 1.0
        z += namespace(x).ones((2, 3))
        return z

    def kind(x):
        z = namespace(x).astype(x, namespace(x).int32)
        z += 1.5
        return z

    for fn in (wider, kind):
        same_error(fn, portnet.compile(fn), a(3))


# Captured arrays --------------------------------------------------------------------------------


def test_captured_arrays_are_copied_as_constants():
    c = a(3)
    compiled = portnet.compile(lambda x: (x + c, c, c[::2], x * 0.0 + c))
    first = compiled(a(3))
    then = c.copy()
    expected = (a(3) + then, then, then[::2], a(3) * 0.0 + then)
    assert_same(first, expected)
    check_memory(first, [c])
    c[:] = 100.0
    assert_same(compiled(a(3)), expected)
    assert_same(first, expected)
    second = compiled(a(3))
    for result in second:
        result[...] = -1.0
    assert_same(compiled(a(3)), expected)
    np.testing.assert_array_equal(c, 100.0)


def test_arrays_created_in_fn_are_new_in_each_call():
    def fn(x):
        xp = namespace(x)
        z = xp.zeros(3)
        return z, z, xp.ones_like(x), xp.asarray([1.0, 2.0]), xp.arange(4) + 1, xp.asarray(x)

    compiled = check(fn, a(2))
    for _ in range(2):
        result = compiled(a(2))
        assert_same(result, fn(a(2)))
        for part in result:
            part[...] = 9


def test_donated_argument_that_is_also_captured_equals_eager():
    p = a(3)
    compiled = portnet.compile(lambda x: (x * 2.0 + p, p), donate=(0,))
    expected = (a(3) * 2.0 + a(3), a(3))
    assert_same(compiled(a(3)), expected)
    result = compiled(p)
    assert_same(result, expected)


# Donation ---------------------------------------------------------------------------------------

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
LAYOUTS = {
    "C": lambda x: x.copy(),
    "F": np.asfortranarray,
    "transposed": lambda x: x.T.copy().T,
    "strided": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "negative strides": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda x: frozen(x.copy()),
    "zero strides": lambda x: np.lib.stride_tricks.as_strided(
        x[:1].copy(), x.shape, (0, x.strides[1]), writeable=True
    ),
    "unaligned": lambda x: unaligned(x),
}


def frozen(x):
    x.flags.writeable = False
    return x


def unaligned(x):
    view = np.zeros(x.nbytes + 1, "uint8")[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


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


# Functions that need values run eagerly ---------------------------------------------------------


def reads_float(x):
    return x * float(x[0])  # here


def reads_int(x):
    return x * int(x[0])  # here


def reads_bool(x):
    return x * 2.0 if bool(x[0] > 0) else x  # here


def reads_if(x):
    if x[0] > 0:  # here
        return x * 3.0
    return x


def reads_complex(x):
    return x * complex(x[0]).real  # here


def reads_index(x):
    return x * range(9)[namespace(x).astype(x[0], namespace(x).int64)]  # here


def reads_while(x):
    while namespace(x).sum(x) < 100.0:  # here
        x = x * 2.0
    return x


def reads_iteration(x):
    total = 0.0
    for v in x:
        total = total + v
    return total


def reads_unpacking(x):
    p, q, r = x
    return p * q * r


def reads_assignment(x):
    y = namespace(x).zeros_like(x)
    y[1:] = x[:-1]  # here
    return y


def reads_asarray(x):
    return np.asarray(x) + 1.0  # here


def reads_numpy(x):
    return np.sin(x)


def reads_mask(x):
    return x[x > 1.0]  # here


def reads_sort(x):
    return namespace(x).sort(x)  # here


def reads_unique(x):
    return namespace(x).unique_values(x)  # here


def reads_nonzero(x):
    return namespace(x).nonzero(x)[0]  # here


def reads_item(x):
    return x * x[0].item()  # here


def reads_tolist(x):
    return x * x.tolist()[0]  # here


def reads_method(x):
    return x - x.mean()


def reads_copy(x):
    return x.copy()


def reads_cumulative(x):
    return namespace(x).cumulative_sum(x)  # here


def reads_linalg(x):
    return x / namespace(x).linalg.vector_norm(x)  # here


def reads_in(x):
    return x * 2.0 if 1.0 in x else x  # here


def reads_len(x):
    return x * len(x)


VALUE_READS = {
    reads_float: ["float"],
    reads_int: ["int"],
    reads_bool: ["bool", "truth"],
    reads_if: ["bool", "truth"],
    reads_complex: ["complex"],
    reads_index: ["index"],
    reads_while: ["bool", "truth"],
    reads_assignment: ["setitem", "assign", "[...] ="],
    reads_asarray: ["asarray", "__array__", "array"],
    reads_mask: ["mask", "bool", "index", "getitem"],
    reads_sort: ["sort"],
    reads_unique: ["unique_values"],
    reads_nonzero: ["nonzero"],
    reads_item: ["item"],
    reads_tolist: ["tolist"],
    reads_cumulative: ["cumulative_sum"],
    reads_linalg: ["linalg", "vector_norm"],
    reads_in: ["in", "contains", "iter"],
}


@pytest.mark.parametrize("fn", VALUE_READS, ids=lambda fn: fn.__name__.removeprefix("reads_"))
def test_reading_a_value_runs_eagerly_with_one_warning(fn):
    compiled = portnet.compile(fn)
    x = a(3)
    with one_warning(*VALUE_READS[fn], here=fn):
        assert_same(compiled(x), fn(x))
    for y in (x, x + 1.0, -x, np.asarray([5.0, 0.5, 1.0])):  # the same plan: no further warning
        assert_same(
            compiled(y) if fn is not reads_while else compiled(abs(y)),
            fn(y) if fn is not reads_while else fn(abs(y)),
        )
    np.testing.assert_array_equal(x, a(3))


@pytest.mark.parametrize(
    "fn",
    [reads_len, reads_iteration, reads_unpacking, reads_numpy, reads_method, reads_copy],
    ids=lambda fn: fn.__name__.removeprefix("reads_"),
)
def test_nonstandard_functions_without_value_reads_equal_eager(fn):
    """Outside the standard, but no value is read: replayed, or eager with a warning."""
    compiled = portnet.compile(fn)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert_same(compiled(a(3)), fn(a(3)))
            assert_same(compiled(-a(3)), fn(-a(3)))
    assert len(caught) <= 1


def test_each_signature_and_each_compiled_function_warns_once():
    compiled = portnet.compile(reads_float)
    for x in (a(3), a(4), a(3, dtype="float32")):
        with one_warning("float", here=reads_float):
            for _ in range(3):
                assert_same(compiled(x), reads_float(x))
    again = portnet.compile(reads_float)
    with one_warning("float", here=reads_float):
        again(a(3))


def test_each_of_twenty_shapes_warns_once():
    """There are more signatures than plans are kept."""
    compiled = portnet.compile(reads_float)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            for n in range(1, 21):
                assert_same(compiled(a(n)), reads_float(a(n)))
    assert len(caught) == 20


def test_warning_names_the_line_of_the_inner_function():
    def fn(x):
        return reads_float(x + 1.0) * 2.0

    with one_warning("float", here=reads_float):
        assert_same(portnet.compile(fn)(a(3)), fn(a(3)))


def test_warning_names_the_line_of_a_custom_layer():
    @dataclass(frozen=True)
    class Fussy:
        def init(self, rng, n_in):
            return (), n_in

        def forward(self, params, x, key=None):
            scale = 1.0 if float(x[0, 0]) > 0 else 2.0  # here
            return x * scale, scale

        def backward(self, params, cache, dy):
            return (), dy * cache

    net = portnet.Chain([portnet.Dense(4), Fussy(), portnet.Dense(4)])
    x, y, _ = data("squared_error", 5)
    optimizer = portnet.Adam(1e-2)
    step = portnet.make_step(net, LOSSES["squared_error"](), optimizer)
    compiled = portnet.compile(step, donate=(0, 1))
    eager = start(net, optimizer)
    replayed = copies(eager)
    with one_warning("float", here=Fussy.forward):
        for _ in range(5):
            *eager, value = step(*eager, x, y)
            *replayed, replayed_value = compiled(*replayed, x, y)
            assert_same(replayed_value, value)
    assert_same(replayed, eager)


def test_one_function_can_run_eagerly_and_replayed_by_signature():
    def fn(x, careful):
        if careful and float(x[0]) < 0:
            return x * 0.0
        return x + 1.0

    counted = Calls(fn)
    compiled = portnet.compile(counted)
    with one_warning("float"):
        for _ in range(3):
            assert_same(compiled(a(3), True), a(3) + 1.0)
    counted.count = 0
    for _ in range(3):
        assert_same(compiled(a(3), False), a(3) + 1.0)
    assert counted.count == 2


def test_value_reads_caught_by_fn_still_run_eagerly():
    """An exception handler in fn must not hide that a value was read."""

    def tries(x):
        try:
            return x * float(x[0])
        except Exception:
            return x * 0.0

    def asks(x):
        return x + 1.0 if hasattr(x, "mean") else x

    def finds(x):
        try:
            return x.mean() + x
        except AttributeError:
            return x * 0.0

    for fn in (tries, asks, finds):
        compiled = portnet.compile(fn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(3):
                assert_same(compiled(a(3)), fn(a(3)))


def random_numpy(x):
    return x + np.random.default_rng().standard_normal(3)


def random_scalar(x):
    return x + random.random()


def random_shape(x):
    return namespace(x).zeros(int(random.random() * 1e6)) + x[0]


def clock_value(x):
    return x * 0.0 + time.perf_counter_ns()


def make_counter():
    seen = []

    def counting(x):
        seen.append(1)
        return x + float(len(seen))

    return counting


@pytest.mark.parametrize(
    "fn", [random_numpy, random_scalar, random_shape, clock_value, make_counter()]
)
def test_random_and_stateful_functions_run_eagerly(fn):
    compiled = portnet.compile(fn)
    with one_warning():
        results = [compiled(a(3)) for _ in range(4)]
    for r, s in pairwise(results):
        assert r.shape != s.shape or (r != s).any(), "drawn once, and replayed"


RANDOM_RESULTS = {
    "number": lambda x: (x, random.random()),
    "NumPy's number": lambda x: (x, np.float64(random.random())),
    "key": lambda x: {str(random.random()): x},
    "length": lambda x: [x] * random.randint(1, 20),
    "kind": lambda x: random.choice([tuple, list])([x]),
    "order": lambda x: dict.fromkeys(random.choice(["ab", "ba"]), x),
    "which": lambda x: random.choice([x, x + 0.0, x * 1.0, -x, abs(x)]),
    "start": lambda x: x[random.randrange(3) :],
    "sign": lambda x: x * random.choice([0.0, -0.0]),
}


@pytest.mark.parametrize("name", RANDOM_RESULTS)
def test_functions_with_random_structure_or_values_are_not_all_replayed(name):
    """Two traces may be equal by chance, so some of the functions may be replayed."""
    replayed = 0
    for _ in range(12):
        compiled = portnet.compile(RANDOM_RESULTS[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            replayed += len({repr(compiled(a(3))) for _ in range(40)}) == 1
    assert replayed < 12


def test_random_choice_of_operations_is_not_replayed():
    draw = np.random.default_rng(0)

    def fn(x):
        xp = namespace(x)
        return (xp.sin, xp.cos, xp.tanh, xp.exp, xp.sqrt)[draw.integers(5)](x)

    compiled = portnet.compile(fn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        results = [compiled(a(3)).tobytes() for _ in range(40)]
    assert len(set(results)) > 1


def test_warning_turned_into_an_error_changes_no_argument():
    compiled = portnet.compile(reads_float, donate=(0,))
    x = a(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="float"):
            compiled(x)
    np.testing.assert_array_equal(x, a(3))


# Errors raised by fn ----------------------------------------------------------------------------


class CustomError(Exception):
    pass


def same_error(fn, compiled, *args):
    """Fail unless both raise the same error and change no argument."""
    before = snapshot(arrays(args))
    with pytest.raises(Exception) as eager:  # noqa: PT011
        fn(*args)
    with pytest.raises(type(eager.value)) as replayed:
        compiled(*args)
    assert type(replayed.value) is type(eager.value)
    texts = [str(replayed.value), str(eager.value)]
    assert texts[0] == texts[1]
    notes = [getattr(e.value, "__notes__", []) for e in (eager, replayed)]
    assert notes[0] == notes[1]
    assert snapshot(arrays(args)) == before
    return replayed.value


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


# Plans ------------------------------------------------------------------------------------------


def test_twenty_shapes_in_turn_equal_eager_calls():
    def fn(x, y):
        return x * 2.0 + y, namespace(x).sum(x)

    compiled = portnet.compile(fn, donate=(1,))
    for _ in range(3):
        for n in range(20):
            x = a(n, dtype="float64")
            actual = compiled(x, x.copy())
            assert_same(actual, fn(x, x.copy()), (0.0, 1e-12))


def test_eight_most_recent_plans_are_kept():
    counted = Calls(lambda x: x + 1.0)
    compiled = portnet.compile(counted)
    for _ in range(3):
        for n in range(8):
            assert_same(compiled(a(n)), a(n) + 1.0)
    assert counted.count == 16
    for n in range(20):
        compiled(a(n))
    before = counted.count
    for n in range(12, 20):
        compiled(a(n))
    assert counted.count == before
    compiled(a(0))
    assert counted.count == before + 2


def test_plans_keep_no_reference_to_arguments():
    compiled = portnet.compile(lambda x, y: (x + y, y), donate=(0,))
    for _ in range(2):
        y = a(50)
        dead = weakref.ref(y)
        compiled(a(50), y)
        del y
        gc.collect()
        assert dead() is None


def test_nan_as_a_python_scalar_equals_eager():
    counted = Calls(lambda x, k: x * k)
    compiled = portnet.compile(counted)
    for _ in range(4):
        assert_same(compiled(a(2), float("nan")), a(2) * np.nan)


# Threads ----------------------------------------------------------------------------------------


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


# Empty, 0-d, non-contiguous and unusual arrays --------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_empty_arrays_equal_eager_calls(shape):
    def fn(x, y):
        xp = namespace(x)
        return (
            x + y,
            xp.sum(x),
            xp.sum(x, axis=0),
            xp.concat([x, y], axis=0),
            x.T if x.ndim == 2 else x,
            y,
        )

    for donate in ((), (0,), (0, 1)):
        check(fn, a(*shape), a(*shape), donate=donate)


def test_matmul_over_an_empty_axis_equals_eager():
    check(lambda x, y: x @ y, a(2, 0), a(0, 3))
    check(lambda x, y: (x @ y, x), a(0, 2), a(2, 3), donate=(0,))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_0d_arrays_equal_eager_calls(dtype):
    def fn(x, y):
        xp = namespace(x)
        return (
            x + y,
            x * 2,
            x,
            xp.reshape(x, (1, 1)),
            xp.sum(x),
            x[...],
            x[None],
            xp.where(x > y, x, y),
        )

    x, y = np.array(3, dtype), np.array(4, dtype)
    for donate in ((), (0,), (1,), (0, 1)):
        check(fn, x, y, donate=donate)


def test_0d_results_do_not_change_in_later_calls():
    compiled = portnet.compile(lambda x: namespace(x).max(x))
    first = compiled(a(3))
    second = compiled(a(3, start=100.0))
    assert (float(first), float(second)) == (2.0, 101.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_memory_layout_equals_eager_calls(layout):
    def fn(x, y):
        xp = namespace(x)
        return x @ y, x + y, xp.matrix_transpose(x) @ y, x[1:] * 2.0, xp.exp(x), xp.max(y, axis=0)

    compiled = portnet.compile(fn)
    for _ in range(2):
        x, y = (LAYOUTS[layout](v) for v in (a(3, 3), a(3, 3, start=-1.0)))
        assert_same(compiled(x, y), fn(x, y))


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_alternating_memory_layouts_equal_eager_calls(name):
    """Calls with alternating layouts equal eager calls."""
    compiled = portnet.compile(lambda x, y: (x - y, x.T), donate=(0,))
    for layout in ("C", name, "F", name, "C"):
        x, y = LAYOUTS[layout](a(3, 3)), LAYOUTS[name](a(3, 3, start=7.0))
        expected = (x - y, x.T.copy())
        assert_same(compiled(x, y), expected)


def test_big_endian_arrays_equal_eager_calls():
    x = a(3).astype(">f8")
    compiled = portnet.compile(lambda x: x + 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        np.testing.assert_array_equal(compiled(x), x + 1.0)
        np.testing.assert_array_equal(compiled(a(3)), a(3) + 1.0)


@pytest.mark.parametrize(
    "dtype", ["complex128", "float16", "longdouble", "int8", "uint16", "uint64"]
)
def test_dtypes_outside_the_compiled_set_equal_eager_calls(dtype):
    compiled = portnet.compile(lambda x: (x + x, x * 3))
    x = a(3).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(2):
            assert_same(compiled(x), (x + x, x * 3))


def test_memory_maps_equal_eager_calls(tmp_path):
    m = np.memmap(tmp_path / "numbers", dtype="float64", mode="w+", shape=(3, 2))
    m[:] = a(3, 2)
    compiled = portnet.compile(lambda x: (x * 2.0, namespace(x).max(x), x.T))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(2):
            for actual, expected in zip(compiled(m), (a(3, 2) * 2, 3.5, a(3, 2).T), strict=True):
                np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(m, a(3, 2))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("kind", ["masked", "matrix", "read-only subclass"])
def test_subclasses_of_arrays_run_eagerly(kind):
    """A masked array keeps its mask, and a matrix its matrix product."""
    from conftest import _frozen

    def fn(x):
        return x * x + 1.0, x

    x = {
        "masked": lambda: np.ma.masked_array(a(2, 2), mask=[[True, False], [False, False]]),
        "matrix": lambda: np.matrix(a(2, 2)),
        "read-only subclass": lambda: _frozen(a(2, 2)),
    }[kind]()
    compiled = portnet.compile(fn)
    plain = compiled(a(2, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            actual = compiled(x)
            expected = fn(x)
            for p, q in zip(actual, expected, strict=True):
                assert type(p) is type(q)
                np.testing.assert_array_equal(np.asarray(p), np.asarray(q))
                if kind == "masked":
                    np.testing.assert_array_equal(p.mask, q.mask)
    assert len([w for w in caught if w.category is not PendingDeprecationWarning]) <= 1
    assert_same(compiled(a(2, 2)), plain)


def test_lists_are_pytrees_and_not_arrays():
    compiled = portnet.compile(lambda xs: [x + 1.0 for x in xs])
    assert_same(compiled([a(2), 1.0]), [a(2) + 1.0, 2.0])


# Floating-point errors and warnings -------------------------------------------------------------


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


# Array libraries other than NumPy ---------------------------------------------------------------


def model_step(x, w):
    xp = namespace(x, w)
    h = xp.tanh(xp.matmul(x, w))
    return {"w": w - 0.1 * xp.matmul(xp.matrix_transpose(x), h), "h": h}, xp.sum(h), (x, None)


def test_jax_arrays_equal_the_numpy_results(jax):
    x, w = a(4, 3) / 10, a(3, 3) / 10
    expected = model_step(x, w)
    compiled = portnet.compile(model_step, donate=(1,))
    for _ in range(3):
        out, total, (same, none) = compiled(jax.numpy.asarray(x), jax.numpy.asarray(w))
        assert isinstance(out["w"], jax.Array)
        assert none is None
        np.testing.assert_allclose(out["w"], expected[0]["w"], rtol=1e-12)
        np.testing.assert_allclose(out["h"], expected[0]["h"], rtol=1e-12)
        np.testing.assert_allclose(total, expected[1], rtol=1e-12)
        np.testing.assert_array_equal(same, x)


def test_jax_function_is_traced_at_most_twice(jax):
    counted = Calls(lambda x, k: x * k if isinstance(k, int) else x / k)
    compiled = portnet.compile(counted)
    x = jax.numpy.arange(3.0)
    for _ in range(4):
        np.testing.assert_allclose(compiled(x, 2), x * 2)
    assert counted.count <= 2
    np.testing.assert_allclose(compiled(x, 2.0), x / 2.0)


def test_jax_function_that_reads_a_value_runs_eagerly_with_one_warning(jax):
    compiled = portnet.compile(reads_if)
    x = jax.numpy.arange(1.0, 4.0)
    with one_warning(here=reads_if):
        for _ in range(3):
            np.testing.assert_allclose(compiled(x), x * 3.0)
    np.testing.assert_allclose(compiled(-x), -x)


def test_jax_errors_raised_in_fn_propagate(jax):
    def fn(x):
        raise CustomError("mine")

    with pytest.raises(CustomError, match=r"^mine$"):
        portnet.compile(fn)(jax.numpy.arange(3.0))
    net = portnet.mlp([3, 2])
    params = tree.map(jax.numpy.asarray, portnet.init(net))
    with pytest.raises(ShapeError, match=r"expected x of shape"):
        portnet.compile(net.forward)(params, jax.numpy.ones((2, 5)))


def test_jax_training_steps_equal_numpy_steps(jax):
    net, optimizer = portnet.mlp([3, 6, 4], "gelu", dropout=0.2), portnet.Adam(1e-2)
    step = portnet.make_step(net, LOSSES["softmax_cross_entropy"](), optimizer)
    x, y, w = data("softmax_cross_entropy", 6)
    compiled = portnet.compile(step, donate=(0, 1))
    eager = start(net, optimizer)
    replayed = tree.map(jax.numpy.asarray, copies(eager))
    batch = [jax.numpy.asarray(v) for v in (x, y, w)]
    for i in range(10):
        key = [np.array([[k]], "int32") for k in (rng.key(0, i).salt, 0)]
        *eager, _ = step(*eager, x, y, w, rng.Key(*key))
        *replayed, _ = compiled(*replayed, *batch, rng.Key(*map(jax.numpy.asarray, key)))
    assert_close(tree.map(np.asarray, replayed), eager, rtol=1e-9)


def test_torch_tensors_run_eagerly_without_gradients(torch):
    counted = Calls(model_step)
    compiled = portnet.compile(counted, donate=(1,))
    x, w = torch.tensor(a(4, 3) / 10), torch.tensor(a(3, 3) / 10)
    expected = model_step(x, w)
    for _ in range(3):
        out, total, (same, none) = compiled(x.clone(), w.clone())
        assert isinstance(out["w"], torch.Tensor)
        assert torch.equal(out["w"], expected[0]["w"])
        assert torch.equal(total, expected[1])
        assert torch.equal(same, x)
        assert none is None
    assert not out["w"].requires_grad
    assert portnet.compile(lambda x: x * float(x[0]))(torch.ones(2)).tolist() == [1.0, 1.0]


def test_array_api_strict_arrays_equal_eager_calls():
    x, w = (array_api_strict.asarray(v) for v in (a(4, 3) / 10, a(3, 3) / 10))
    compiled = portnet.compile(model_step)
    for _ in range(2):
        out, total, (same, none) = compiled(x, w)
        expected = model_step(x, w)
        assert is_strict(out["w"])
        np.testing.assert_array_equal(np.asarray(out["w"]), np.asarray(expected[0]["w"]))
        np.testing.assert_array_equal(np.asarray(total), np.asarray(expected[1]))
        np.testing.assert_array_equal(np.asarray(same), np.asarray(x))
        assert none is None


def test_one_compiled_function_works_on_several_libraries(other_xp):
    compiled = portnet.compile(model_step)
    x, w = a(4, 3) / 10, a(3, 3) / 10
    expected = model_step(x, w)
    for _ in range(2):
        replayed = compiled(other_xp.asarray(x), other_xp.asarray(w))
        other_xp.assert_close(replayed[0]["w"], expected[0]["w"])
        assert_close(compiled(x, w)[0], expected[0])


def test_mixed_libraries_raise_the_eager_error(torch):
    compiled = portnet.compile(model_step)
    same_error(model_step, compiled, a(4, 3), torch.ones(3, 3))


# explain ----------------------------------------------------------------------------------------


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


def test_explain_names_the_cause_and_line_of_an_eager_run(capsys):
    compiled = portnet.compile(reads_float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        compiled.explain(a(3))
    text = capsys.readouterr().out
    assert "eager" in text.lower()
    assert "float" in text
    assert os.path.basename(__file__) in text
    assert str(line_of(reads_float)) in text


# Impure functions, reported causes of eager runs, and release of memory --------------------------


def updates_a_local_array(x):
    w = np.ones(3)
    first = x * w
    w += 1
    return first + x * w


def updates_the_input_of_real(x):
    xp = namespace(x)
    y = x * 2
    z = xp.real(y)
    y += 1
    return z


def where_with_one_argument(x):
    return np.where(x > 2)[0]


def branches_on_ndarray(x):
    return x * 2 if isinstance(x, np.ndarray) else x * 3


@pytest.mark.parametrize("fn", [updates_a_local_array, branches_on_ndarray])
def test_functions_that_rely_on_numpy_arrays_are_replayed(fn):
    check(fn, a(3))


@pytest.mark.parametrize(
    ("fn", "word"),
    [
        (updates_the_input_of_real, "in place (+=)"),
        (where_with_one_argument, "where with one argument"),
    ],
)
def test_unsupported_operation_runs_eagerly_and_is_named(fn, word):
    x = a(5)
    compiled = portnet.compile(fn)
    with one_warning(word):
        first = compiled(x)
    assert_same(first, fn(x))
    assert_same(compiled(x), fn(x))


def test_errstate_in_fn_runs_eagerly_and_is_named():
    def fn(x):
        with np.errstate(divide="ignore"):
            return 1.0 / x

    compiled, x = portnet.compile(fn), np.array([0.0, 1.0])
    with one_warning("np.errstate"):
        assert_same(compiled(x), fn(x))
    assert_same(compiled(x), fn(x))


def test_traced_array_kept_between_calls_raises():
    memo = {}

    def fn(x):
        if "w" not in memo:
            memo["w"] = x * 2
        return memo["w"] + x

    with pytest.raises(TypeError, match="kept: the function is not pure"):
        portnet.compile(fn)(a(2))


@dataclass(frozen=True)
class PairDataclass:
    first: Any
    second: Any


def test_results_in_a_dataclass_run_eagerly():
    compiled = portnet.compile(lambda x: PairDataclass(x + 1, x * 2))
    with one_warning("differ in the results"):
        result = compiled(a(3))
    np.testing.assert_array_equal(result.second, a(3) * 2)


def test_argument_of_an_unknown_class_runs_eagerly_and_is_named():
    compiled = portnet.compile(lambda p, x: p.first * x)
    with one_warning("an argument is a PairDataclass"):
        compiled(PairDataclass(2.0, None), a(3))
    compiled(PairDataclass(2.0, None), a(3))  # no second warning


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_powers_of_complex_arrays_equal_eager_calls(dtype):
    x = (np.linspace(-2, 2, 7) + 1j * np.linspace(3, -1, 7)).astype(dtype)
    check(lambda x: [x**2, x**0.5, x**-1, x**3, x * (1 + 2j)], x)


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


@portnet.compile
def decorated(x):
    return x + 1


def test_arguments_that_overlap_only_in_the_second_call_equal_eager():
    step = portnet.compile(lambda p, q: (p + 1, q * 3), donate=0)
    p, _ = step(np.zeros(3), np.ones(3))
    _, q = step(p, p)
    np.testing.assert_array_equal(q, [3, 3, 3])


@pytest.mark.parametrize("index", [-5_001, 5_000])
def test_out_of_bounds_indices_of_large_takes_raise(index):
    x, rows = np.zeros((5_000, 20)), np.arange(4_000)
    compiled = portnet.compile(lambda x, rows: namespace(x).take(x, rows, axis=0))
    compiled(x, rows)
    rows[7] = index
    with pytest.raises(IndexError, match="out of bounds"):
        compiled(x, rows)


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


def test_layers_that_differ_in_the_sign_of_zero_have_separate_plans():
    make = lambda layer: lambda x: x * layer.slope  # noqa: E731
    kept = [compile_cached(make, portnet.LeakyReLU(slope)) for slope in (0.0, -0.0)]
    assert kept[0] is not kept[1]
    assert compile_cached(make, portnet.LeakyReLU(-0.0)) is kept[1]


ALPHA = 0.1


@dataclass(frozen=True)
class Leaky:
    """A layer that reads a global variable."""

    def init(self, rng, n):
        return (), n

    def forward(self, params, x, key=None):
        return namespace(x).where(x > 0, x, ALPHA * x), x

    def backward(self, params, cache, dy):
        return (), namespace(dy).where(cache > 0, dy, ALPHA * dy)


def test_global_read_by_a_layer_is_read_again_in_each_fit(monkeypatch):
    draw = np.random.default_rng(0)
    X = draw.standard_normal((64, 3))
    y = X[:, :1] ** 2
    net = portnet.Chain([portnet.Dense(4), Leaky(), portnet.Dense(1)])
    for alpha in (0.1, 0.9):
        monkeypatch.setitem(globals(), "ALPHA", alpha)
        losses = [
            portnet.Trainer(net, "squared_error", "adam", 16, compile=how)
            .fit(X, y, epochs=2)
            .history
            for how in (True, False)
        ]
        assert losses[0] == losses[1]


def test_parameters_changed_between_epochs_equal_eager_training():
    X = np.linspace(-1, 1, 40).reshape(20, 2).astype("float32")
    losses = {}
    for how in (True, False):
        net = portnet.mlp([2, 4, 1], "tanh")
        for run in portnet.Trainer(net, "squared_error", "adam", 5, compile=how).epochs(
            X, X[:, :1], epochs=3
        ):
            losses.setdefault(how, []).append(run.history["loss"][-1])
            for p in tree.leaves(run.params):
                p *= 0.5
    assert losses[True] == losses[False]
