"""The order of the rows of a source: every row once, blocks together, windows of 16 blocks."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import order_as_defined

from portnet.data.sources.order import (
    FEWEST,
    MOST,
    Plan,
    plan_of,
    ranges_of,
    row_order,
    rows_of_window,
)

SIZES = st.integers(1, 400)


def rows_of(plan, seed, epoch, number):
    """Return the rows of a window in the order in which they are trained on."""
    read = np.concatenate([np.arange(*p) for p in rows_of_window(plan, seed, epoch, number)])
    return read[row_order(plan, seed, epoch, number)]


@given(st.integers(1, 3000), SIZES, SIZES, st.integers(0, 5), st.integers(0, 5))
def test_windows_have_the_order_of_the_definition(rows, block, window, seed, epoch):
    plan = Plan(rows, block, window, "blocks")
    found = np.concatenate([rows_of(plan, seed, epoch, w) for w in range(plan.windows)])
    np.testing.assert_array_equal(found, order_as_defined(plan, seed, epoch))
    assert sorted(found) == list(range(rows))


@given(st.integers(1, 3000), SIZES, SIZES)
def test_a_window_reads_few_ranges_that_do_not_touch(rows, block, window):
    plan = Plan(rows, block, window, "blocks")
    for number in range(plan.windows):
        ranges = rows_of_window(plan, 3, 1, number)
        assert sum(b - a for a, b in ranges) == min(window, rows - number * window)
        assert all(a[1] != b[0] for a, b in itertools.pairwise(ranges))
        assert len(ranges) <= window // block + 3


@given(st.integers(1, 10**9), st.integers(1, 10**5), st.integers(1, 5000), st.integers(0, 10**6))
def test_a_plan_has_full_batches_and_at_least_16_blocks_in_a_window(rows, size, batch, chunk):
    plan = plan_of(rows, size, batch, chunk, "blocks")
    assert plan.window % batch == 0
    assert plan.window >= FEWEST * plan.block
    bound = max(2 * MOST, (FEWEST + 1) * size * batch + 2 * MOST)
    assert plan.window * size <= bound
    if chunk and FEWEST * chunk * size <= MOST:
        assert plan.block % chunk == 0


def test_orders_of_other_epochs_and_seeds_differ():
    plan = Plan(1000, 10, 200, "blocks")
    found = {tuple(rows_of(plan, s, e, 0)) for s in range(3) for e in range(3)}
    assert len(found) == 9


def test_full_shuffle_is_the_order_in_memory_and_no_shuffle_that_of_the_source():
    full, none = Plan(100, 10, 30, "full"), Plan(100, 10, 30, "")
    found = np.concatenate([row_order(full, 5, 2, w) for w in range(4)])
    np.testing.assert_array_equal(found, np.random.default_rng((5, 1, 2)).permutation(100))
    found = np.concatenate([rows_of(none, 5, 2, w) for w in range(4)])
    np.testing.assert_array_equal(found, np.arange(100))


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 7), st.data())
def test_ranges_are_the_rows_of_the_kept_pieces(kept, size, data):
    rows = data.draw(st.integers((len(kept) - 1) * size + 1, len(kept) * size))
    expected = [r for r in range(rows) if kept[r // size]]
    ranges = ranges_of(np.array(kept), size, rows)
    assert ranges.rows == len(expected)
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected)))
    found = [r for a, b in ranges.source_rows(start, stop) for r in range(a, b)]
    assert found == expected[start:stop]
    if expected:
        numbers = np.arange(start, max(stop, start))
        np.testing.assert_array_equal(ranges.numbers(numbers), expected[start:stop])


@pytest.mark.parametrize("chunk", [0, 64, 1000])
def test_the_text_of_a_plan_tells_plans_apart(chunk):
    texts = {str(plan_of(10**6, 64, 128, chunk, how)) for how in ("blocks", "")}
    assert len(texts) == 2
