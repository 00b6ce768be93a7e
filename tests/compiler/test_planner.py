"""The planner of the compiler: its replays equal eager calls, and its faults are detected.

Random programs and training steps run with blocks of a few elements, so that small arrays make
groups of many blocks. The same checks must then fail with a fault planted in the planner.
"""

import re

import numpy as np
import programs as pg
import pytest
from checking import (
    BLOCKS,
    FAULT_SEARCH,
    STEPS,
    check_groups_equal_eager,
    check_replay_equals_eager,
    check_steps_equal_eager,
    set_block_size,
)
from hypothesis import given, settings
from hypothesis.errors import HypothesisException

import portnet
from portnet.backend import get_backend
from portnet.compiler import memory, numpy_codegen, replay, schedule
from portnet.data.dataset import Dataset
from portnet.engine.epoch import EpochExecutor
from portnet.engine.epoch_state import Epochs, EpochState


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


# Operations and memory that the plan saves -------------------------------------------------------


def explained(capsys, fn, *args, donate=()):
    portnet.compile(fn, donate=donate).explain(*args)
    return capsys.readouterr().out


def test_gradient_of_the_network_input_is_not_computed(capsys):
    net = portnet.mlp([4, 6, 3])
    step = portnet.make_step(net, portnet.SquaredError(), portnet.SGD())
    params = portnet.init(net, seed=0)
    x, y = np.ones((5, 4), np.float32), np.ones((5, 3), np.float32)
    text = explained(capsys, step, params, portnet.SGD().init(params), x, y, donate=(0, 1))
    assert " 5 matmul " in text.partition("left")[2]  # forward 2, dW 2, dx of the second layer


def test_optimizer_updates_all_parameters_in_one_group():
    """The number of Adam's operations does not depend on the number of layers."""
    counts = []
    for sizes in ([4, 6, 3], [4, 6, 6, 6, 6, 3]):
        net, adam = portnet.mlp(sizes), portnet.Adam()
        params = portnet.init(net, seed=0)
        executor = EpochExecutor(portnet.make_step, (net, portnet.SquaredError(), adam))
        X, y = np.ones((8, 4), np.float32), np.ones((8, 3), np.float32)
        start = EpochState(params, adam.init(params), np.zeros(2))
        step = executor._step(start, Epochs(Dataset(get_backend(), X, y), 8))
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
    assert "3 left\n" in text
    assert " 2 add       2 x (4,)\n" in text
    assert " 1 multiply  (4,)\n" in text


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


# Planted faults ----------------------------------------------------------------------------------


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
        replay.Replay,
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

    aligned = replay.aligned
    monkeypatch.setattr(replay, "aligned", poisoned)
    monkeypatch.setenv("PORTNET_NATIVE", "never")  # machine code has no blocks
    set_block_size(monkeypatch, 3)
    monkeypatch.setattr(*FAULTS[name])
    wrong = AssertionError, ValueError, KeyError, IndexError, BaseExceptionGroup
    with pytest.raises((*wrong, HypothesisException)) as caught:  # flaky failures
        all_checks()
    assert not re.search("DID NOT", str(caught.value))
