"""Sums over shards and ranks: the tree, and its bits for any number of ranks."""

import numpy as np
import pytest
from worlds import of_all

from portnet.engine.ranks import current_ranks
from portnet.engine.tree_sum import FLAGS, AllReduce, TreeSum, subtrees


def along_the_tree(vectors):
    """Add vectors pairwise: ((v0 + v1) + (v2 + v3)) + ...; their number is a power of two."""
    while len(vectors) > 1:
        vectors = [a + b for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def test_subtrees_of_three_ranks_are_the_largest_that_fit():
    assert subtrees(0, 2, 0, 8) == [(0, 2)]
    assert subtrees(2, 5, 0, 8) == [(2, 4), (4, 5)]
    assert subtrees(5, 8, 0, 8) == [(5, 6), (6, 8)]
    assert subtrees(0, 8, 0, 8) == [(0, 8)]
    assert subtrees(3, 3, 0, 8) == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("shards", [1, 2, 8, 16])
def test_subtrees_of_all_ranks_cover_each_shard_once(size, shards):
    covered = []
    for rank in range(size):
        begin, end = shards * rank // size, shards * (rank + 1) // size
        for low, high in subtrees(begin, end, 0, shards):
            count = high - low
            assert count & (count - 1) == 0
            assert low % count == 0  # a node of the tree
            covered += range(low, high)
    assert covered == list(range(shards))


def vectors_of(shards, length, dtype="float32"):
    draw = np.random.default_rng(0)
    found = draw.normal(size=(shards, length)) * 10.0 ** draw.integers(-6, 6, (shards, length))
    found[:, -FLAGS:] = 0
    found[0, :2] = -0.0  # its sign must not be lost
    found[:, 0] = -0.0
    return found.astype(dtype)


def summed(vectors, flags=lambda rank: (0.0, 0.0, 0.0), again=1):
    """Return the sum as a rank of the world computes it."""
    ranks, length = current_ranks(), vectors.shape[1]
    transport = None if ranks.size == 1 else ranks.communicator.transport("numpy")
    at = ranks.rank, ranks.size, len(vectors), length, str(vectors.dtype)
    made = TreeSum(*at, transport)
    buffer = np.empty(length, vectors.dtype)

    def leaf(shard):
        buffer[...] = vectors[shard]
        return buffer

    for _ in range(again):
        made.add_own(leaf)
        made.flag(flags(ranks.rank))
        total = made.finish()
    return total[:length].copy()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13])
@pytest.mark.parametrize("length", [4, 5, 101])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_has_the_bits_of_pairwise_additions_on_any_number_of_ranks(size, length, dtype):
    vectors = vectors_of(8, length, dtype)
    expected = along_the_tree(list(vectors))
    if length == 101:  # the order matters
        assert not np.array_equal(expected, np.add.accumulate(vectors)[-1])
    for found in of_all(size, lambda: summed(vectors, again=2)):
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("shards", "size"), [(1, 3), (2, 8), (32, 5)])
def test_other_numbers_of_shards(shards, size):
    vectors = vectors_of(shards, 20)
    for found in of_all(size, lambda: summed(vectors)):
        assert found.tobytes() == along_the_tree(list(vectors)).tobytes()


def test_flags_of_a_rank_without_shards_count():
    vectors = vectors_of(2, 11)
    found = of_all(5, lambda: summed(vectors, lambda rank: (float(rank == 3), 1.0, 0.0)))
    for total in found:
        assert total[-FLAGS:].tolist() == [1.0, 5.0, 0.0]
        assert total[:-FLAGS].tobytes() == along_the_tree(list(vectors))[:-FLAGS].tobytes()


def test_a_rank_that_failed_sends_zeros_and_its_flag():
    def fails(rank):
        ranks = current_ranks()
        made = TreeSum(rank, 2, 4, 8, "float32", ranks.communicator.transport("numpy"))
        made.add_own(lambda shard: np.ones(8, np.float32))
        made.flag([float(rank == 1), 0, 0], clear=rank == 1)
        return made.finish()[:8].tolist()

    assert of_all(2, fails) == [[2.0] * 5 + [1.0, 0.0, 0.0]] * 2


def test_all_reduce_adds_one_vector_of_each_rank():
    def reduced(rank):
        transport = current_ranks().communicator.transport("numpy")
        made = AllReduce(rank, 3, 6, "float64", transport)
        made.add_own(lambda part: np.full(6, 10.0**part))
        made.flag([0, rank, 0])
        return made.finish().tolist()

    assert of_all(3, reduced) == [[111.0] * 3 + [0.0, 3.0, 0.0]] * 3
