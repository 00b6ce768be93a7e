"""Helpers of the compiler's tests: compiled calls compared with eager ones."""

import inspect
import os
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import programs as pg
import pytest
from hypothesis import HealthCheck, Phase, settings
from programs import assert_same, snapshot

import portnet
from portnet import tree
from portnet.backend import get_backend
from portnet.compiler import schedule, tracer
from portnet.data.dataset import Dataset
from portnet.engine import compile_cache
from portnet.engine.epoch import EpochExecutor
from portnet.engine.epoch_state import Epochs, EpochState
from portnet.engine.loss_sums import read_sums
from portnet.engine.packing import unpacked
from portnet.optimizers import OPTIMIZERS
from portnet.transforms import ClipNorm, WeightDecay, chain


def interpreted(fn, args, xp, xp_args):
    """Trace fn with args, and run the traced operations with the functions of xp."""
    kinds = [(x.shape, x.dtype) for x in args]
    program = tracer.trace(fn, kinds, lambda traced: (traced, {}))
    leaves = iter(program.interpret(xp, xp_args))
    return tree.map(lambda _: next(leaves), program.results)


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
    """Expect exactly one warning inside: a UserWarning with one of these words and the line of `here`."""
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
        assert os.path.basename(inspect.getsourcefile(here)) in text, text
        assert str(line_of(here)) in text, f"expected line {line_of(here)} in: {text}"


def line_of(fn):
    """Return the number of the line of fn that ends with the comment 'here'."""
    lines, start = inspect.getsourcelines(fn)
    return start + next((i for i, line in enumerate(lines) if line.rstrip().endswith("# here")), 0)


def a(*shape, dtype="float64", start=1.0):
    """Return an array of distinct values."""
    return (np.arange(int(np.prod(shape))) * 0.5 + start).reshape(shape).astype(dtype)


def is_strict(x):
    return type(x).__module__.startswith("array_api_strict")


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


def assert_close(actual, expected, rtol=1e-11):
    for p, q in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        np.testing.assert_allclose(p, q, rtol=rtol, atol=rtol)


class Pair(NamedTuple):
    first: Any
    second: Any


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


def reads_float(x):
    return x * float(x[0])  # here


def reads_if(x):
    if x[0] > 0:  # here
        return x * 3.0
    return x


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


@dataclass(frozen=True)
class PairDataclass:
    first: Any
    second: Any


BLOCKS = (1, 3, 16, 50)  # elements
FAULT_SEARCH = settings(
    max_examples=400,
    phases=[Phase.generate],
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def check_replay_equals_eager(program):
    """Fail unless three replays equal eager calls and change no argument that is not donated."""
    compiled = portnet.compile(program.function(), donate=program.donate)
    history = []
    with np.errstate(all="ignore"):
        for value_set in (0, 1, 0):
            expected = program.function()(*program.inputs(value_set))
            args = program.inputs(value_set)
            held = [x for i, x in enumerate(args) if i not in program.donate]
            before = pg.snapshot(held)
            actual = compiled(*args)
            pg.assert_same(actual, expected, program.tolerance(value_set))
            assert pg.snapshot(held) == before, "an argument that is not donated changed"
            results = [a for a in tree.leaves(actual) if isinstance(a, np.ndarray)]
            history.append((results, pg.snapshot(results)))
    for results, then in history:
        assert pg.snapshot(results) == then, "a result changed in a later call"


def set_block_size(monkeypatch, elements):
    """Set the number of elements of a block, and drop the plans made so far."""
    monkeypatch.setattr(schedule, "BLOCK", elements)
    monkeypatch.setattr(compile_cache, "_kept", OrderedDict())


def chain_of_sums(x, y):
    """Groups of elementwise operations, some of whose results are used outside of their group."""
    xp = portnet.namespace(x, y)
    a = xp.exp(-x * x) + y
    b = a * a - x
    e = xp.flip(b, axis=0) * a + xp.flip(a, axis=0)  # a row of one block with one of another
    c = xp.maximum(a, b) / (1.0 + xp.abs(y))
    total = xp.sum(c, axis=0, keepdims=True)
    d = (c - total) * a
    return d, xp.sum(d * b, axis=-1), xp.where(d > 0, b, x), xp.astype(d > y, x.dtype) * c, e


def check_groups_equal_eager():
    """Fail unless groups of many blocks equal eager calls, the last block included."""
    for rows, columns in ((7, 3), (64, 5), (32, 1), (131, 1), (2, 40)):
        draw = np.random.default_rng(rows)
        for donate in ((), (0,), (0, 1)):
            compiled, kept = portnet.compile(chain_of_sums, donate=donate), []
            for _ in range(3):
                x, y = draw.standard_normal((2, rows, columns))
                expected = chain_of_sums(x, y)
                actual = compiled(x.copy(), y.copy())
                for a, b in zip(actual, expected, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
                kept.append((actual, [np.array(a) for a in actual]))
            for results, copies in kept:
                for a, b in zip(results, copies, strict=True):
                    np.testing.assert_array_equal(a, b, "a result changed in a later call")


STEPS = {
    **{name: make() for name, make in OPTIMIZERS.items()},
    "adamw of W": portnet.AdamW(1e-2, only="W"),
    "clipped": chain(ClipNorm(0.1), WeightDecay(0.1, only="b"), portnet.Adam(1e-2)),
}


def check_steps_equal_eager(optimizer, dtype="float64", dropout=0.2):
    """Fail unless three epochs of compiled steps equal eager ones, bit for bit."""
    net = portnet.mlp([5, 8, 7, 3], "tanh", dropout=dropout, norm="layer")
    loss = portnet.SoftmaxCrossEntropy()
    draw = np.random.default_rng(0)
    X, y = draw.standard_normal((50, 5)).astype(dtype), draw.integers(0, 3, 50)
    weight = draw.uniform(0.5, 2, 50).astype(dtype)
    params = portnet.init(net, seed=1, like=X)
    ends = []
    for compiled in (True, False):
        executor = EpochExecutor(portnet.make_step, (net, loss, optimizer), True, compiled)
        state = EpochState(params, optimizer.init(params), np.zeros(2))
        kept = []
        for epoch in range(3):
            order = np.random.default_rng(epoch).permutation(50)
            data = Dataset(get_backend(), X, y, weight, order)
            start = state._replace(done=0, sums=np.zeros(2), before=())
            state = executor.run(start, Epochs(data, 16, [portnet.rng.key(0, epoch)]))
            (sums,), _ = read_sums([state.sums], [])
            state = state._replace(
                params=unpacked(state.params), state=unpacked(state.state), sums=sums
            )
            kept.append((state, [np.array(a) for a in tree.leaves(state)]))
        for then, copies in kept:
            for a, b in zip(tree.leaves(then), copies, strict=True):
                np.testing.assert_array_equal(a, b, "an epoch's arrays changed in a later one")
        executor.close()
        ends.append(kept)
    for (a, _), (b, _) in zip(*ends, strict=True):
        assert tree.paths(a) == tree.paths(b)
        for path, p, q in zip(tree.paths(a), tree.leaves(a), tree.leaves(b), strict=True):
            np.testing.assert_array_equal(p, q, err_msg=path)
