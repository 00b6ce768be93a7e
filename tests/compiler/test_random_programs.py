"""Random programs (`programs.py`): replayed and interpreted, they equal eager calls."""

import os

import array_api_compat.numpy as xnp
import array_api_strict
import numpy as np
import programs as pg
import pytest
from checking import (
    Calls,
    arrays,
    check_memory,
    interpreted,
    is_strict,
    not_donated,
)
from hypothesis import given, settings
from programs import assert_same, snapshot

import portnet
from portnet import tree

EXAMPLES = int(os.environ.get("PORTNET_EXAMPLES", "60"))


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


def plain(pytree):
    return tree.map(lambda x: np.asarray(x) if is_strict(x) else x, pytree)


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
