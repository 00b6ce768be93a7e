"""The planner of the compiler: its replays equal eager calls, and its faults are detected.

Random programs and training steps run with blocks of a few elements, so that small arrays make
groups of many blocks. The same checks must then fail with a fault planted in the planner.
"""

import re
from collections import OrderedDict

import numpy as np
import programs as pg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import HypothesisException

import portnet
from portnet import tree
from portnet.backend import get_backend
from portnet.compiler import executable, memory, numpy_codegen, schedule
from portnet.data.dataset import Dataset
from portnet.engine import compile_cache
from portnet.engine.executor import Epoch, EpochExecutor, EpochState
from portnet.engine.packing import unpacked
from portnet.optimizers import OPTIMIZERS
from portnet.transforms import ClipNorm, WeightDecay, chain

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
            start = state._replace(done=0, sums=np.zeros(2))
            state = executor.run(start, Epoch(data, 16, portnet.rng.key(0, epoch)))
            state = state._replace(params=unpacked(state.params), state=unpacked(state.state))
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


@pytest.mark.parametrize("block", BLOCKS)
def test_random_programs_in_small_blocks_equal_eager_calls(block, monkeypatch):
    set_block_size(monkeypatch, block)
    settings(FAULT_SEARCH, max_examples=40)(given(pg.programs())(check_replay_equals_eager))()


@pytest.mark.parametrize("block", BLOCKS)
def test_groups_in_small_blocks_equal_eager_calls(block, monkeypatch):
    set_block_size(monkeypatch, block)
    check_groups_equal_eager()


@pytest.mark.parametrize("block", [None, 5])
@pytest.mark.parametrize("name", STEPS)
def test_compiled_epochs_of_every_optimizer_equal_eager_epochs(name, block, monkeypatch):
    if block:
        set_block_size(monkeypatch, block)
    check_steps_equal_eager(STEPS[name])
    check_steps_equal_eager(STEPS[name], "float32", dropout=0.0)


# Operations and memory that the plan saves ------------------------------------------------------


def explained(capsys, fn, *args, donate=()):
    portnet.compile(fn, donate=donate).explain(*args)
    return capsys.readouterr().out


def test_gradient_of_the_network_input_is_not_computed(capsys):
    net = portnet.mlp([4, 6, 3])
    step = portnet.make_step(net, portnet.SquaredError(), portnet.SGD())
    params = portnet.init(net, seed=0)
    x, y = np.ones((5, 4), np.float32), np.ones((5, 3), np.float32)
    text = explained(capsys, step, params, portnet.SGD().init(params), x, y, donate=(0, 1))
    assert "5 matmul" in text.partition("left")[2]  # forward 2, dW 2, dx of the second layer


def test_optimizer_updates_all_parameters_in_one_group():
    """The number of Adam's operations does not depend on the number of layers."""
    counts = []
    for sizes in ([4, 6, 3], [4, 6, 6, 6, 6, 3]):
        net, adam = portnet.mlp(sizes), portnet.Adam()
        params = portnet.init(net, seed=0)
        executor = EpochExecutor(portnet.make_step, (net, portnet.SquaredError(), adam))
        X, y = np.ones((8, 4), np.float32), np.ones((8, 3), np.float32)
        start = EpochState(params, adam.init(params), np.zeros(2))
        step = executor._step(start, Epoch(Dataset(get_backend(), X, y), 8), range(1))
        packed = step.pack(start)
        (planned,) = step.function._entries.values()
        counts.append(sum(n.op == "sqrt" for n in planned.plan.operations))
        assert planned.plan.donated.keys() == {0, 1, 2}
        assert len(packed) == 3
        assert not planned.plan.layout.copies
    assert counts == [1, 1]


def test_repeated_dead_and_constant_operations_are_removed(capsys):
    def fn(x):
        xp = portnet.namespace(x)
        xp.exp(x)  # unused
        table = xp.arange(4.0) * 2.0
        return (x + 1.0) * (x + 1.0) + table, xp.sum(x * 1.0, axis=()) if x.ndim > 5 else x / 1.0

    text = explained(capsys, fn, np.ones(4))
    assert "3 left: 1 add" in text or "left: 2 add, 1 multiply" in text


def test_buffers_are_reused_along_a_chain_of_operations():
    """A chain of a hundred operations needs at most two buffers."""

    def fn(x):
        for i in range(100):
            x = portnet.namespace(x).sin(x) * (1.0 + i)
        return x

    compiled = portnet.compile(fn)
    compiled(np.ones(1000))
    (way,) = compiled._entries.values()
    assert sum(way.plan.layout.buffers) <= 2 * 8 * 1024


def test_clip_with_infinite_bounds_equals_the_eager_call():
    def fn(x):
        xp = portnet.namespace(x)
        return xp.clip(x, -np.inf, 2.0), xp.clip(x, max=float("inf")), xp.where(x > 1, x, np.nan)

    x = np.array([-np.inf, 1.0, 3.0])
    for a, b in zip(portnet.compile(fn)(x), fn(x), strict=True):
        np.testing.assert_array_equal(a, b)


# Planted faults ---------------------------------------------------------------------------------


def bad_edges(step):
    """Leave out the last block if it is shorter than the others."""
    for start in range(0, step.shape[0], step.rows):
        if start + step.rows <= step.shape[0]:
            yield start, start + step.rows


def first_read(placement, node, s):
    """End the lifetime of a result at its first read."""
    readers = placement.reads.get(id(node), [])
    return min([placement.step_of[id(placement.order[p])] for p, _ in readers], default=s)


FAULTS = {
    "a wrong liveness": (memory.BufferAssignment, "_last_read", first_read),
    "a missed hazard": (memory, "_overwrites", lambda *args: True),
    "a group that reads across blocks": (schedule, "_aligned_inside", lambda node, group: True),
    "a bad block edge": (numpy_codegen, "blocks", bad_edges),
    "an aliased result": (numpy_codegen, "FRESH", "{}"),
    "an aliased state": (
        executable.Replay,
        "prepare",
        lambda self, arrays, others: self.last or self._take(arrays, []),
    ),
    "undetected shared memory": (np, "may_share_memory", lambda a, b: False),
}


def check_shared_memory_is_not_written():
    """Fail if a result is written into a donated array that shares memory with an argument."""
    memory = np.arange(8.0)
    portnet.compile(lambda x, y: x + y, donate=0)(memory[:4], memory[2:6])
    np.testing.assert_array_equal(memory, np.arange(8.0))


def all_checks():
    check_shared_memory_is_not_written()
    check_groups_equal_eager()
    for optimizer in (portnet.Adam(), portnet.Nesterov(), STEPS["clipped"]):
        check_steps_equal_eager(optimizer)
    FAULT_SEARCH(given(pg.programs())(check_replay_equals_eager))()


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_of_the_planner_is_detected(name, monkeypatch):
    """New memory is filled with NaN: stale values of an earlier call might be right by chance."""

    def poisoned(nbytes):
        found = aligned(nbytes)
        found[:] = 255
        return found

    aligned = executable.aligned
    monkeypatch.setattr(executable, "aligned", poisoned)
    monkeypatch.setenv("PORTNET_NATIVE", "never")  # machine code has no blocks
    set_block_size(monkeypatch, 3)
    monkeypatch.setattr(*FAULTS[name])
    wrong = AssertionError, ValueError, KeyError, IndexError, BaseExceptionGroup
    with pytest.raises((*wrong, HypothesisException)) as caught:  # flaky failures
        all_checks()
    assert not re.search("DID NOT", str(caught.value))
