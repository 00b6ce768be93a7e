"""Packing: pytrees of NumPy arrays as one vector for each dtype."""

from typing import NamedTuple

import numpy as np
import pytest

from portnet import tree
from portnet.engine.packing import PackedTree, Packing, unpacked


class State(NamedTuple):
    t: np.ndarray
    m: tuple


PYTREES = {
    "layers": ({"W": np.arange(6.0).reshape(2, 3), "b": np.ones((1, 3))}, (), {"W": np.eye(3)}),
    "two dtypes": [np.arange(3, dtype=np.float32), np.asarray(7, np.int64), np.ones((2, 1))],
    "named tuple": State(np.asarray(2.0), (np.zeros((2, 2)), None)),
    "empty": (),
}


def assert_equal(actual, expected):
    assert tree.paths(actual) == tree.paths(expected)
    for a, b in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", PYTREES)
def test_pack_and_unpack_are_inverse(name):
    pytree = PYTREES[name]
    packing = Packing.of(pytree)
    vectors = packing.pack(pytree)
    assert len(vectors) == len({leaf.dtype for leaf in tree.leaves(pytree)})
    assert_equal(packing.unpack(vectors), pytree)
    assert type(packing.unpack(vectors)) is type(pytree)
    packed = PackedTree(packing, vectors)
    assert_equal(unpacked(packed), pytree)
    assert unpacked(pytree) is pytree


def test_packed_values_are_copies_and_unpacked_ones_are_views():
    pytree = (np.zeros(3), np.ones(2))
    packing = Packing.of(pytree)
    vectors = packing.pack(pytree)
    vectors["float64"][...] = 5
    assert (pytree[0] == 0).all()
    assert (packing.unpack(vectors)[0] == 5).all()
    again = packing.pack(PackedTree(packing, vectors))
    again["float64"][...] = 6
    assert (vectors["float64"] == 5).all()


@pytest.mark.parametrize("form", ["pytree", "packed"])
def test_fill_writes_into_the_same_vectors(form):
    first, second = (np.zeros((2, 3)), np.zeros(1)), (np.arange(6.0).reshape(2, 3), np.full(1, 9.0))
    packing = Packing.of(first)
    vectors = packing.pack(first)
    kept = vectors["float64"]
    given = second if form == "pytree" else PackedTree(packing, packing.pack(second))
    packing.fill(vectors, given)
    assert vectors["float64"] is kept
    assert_equal(packing.unpack(vectors), second)


@pytest.mark.parametrize("other", [(np.zeros(3),), [np.zeros(2)], (np.zeros(2, np.float32),)])
def test_another_structure_shape_or_dtype_raises(other):
    packing = Packing.of((np.zeros(2),))
    with pytest.raises(ValueError, match="a step changed the structure of its state"):
        packing.pack(other)


def test_leaves_that_cannot_be_packed_raise():
    with pytest.raises(TypeError, match=r"the state holds 3 at \[1\]: a 0-d array would be comp"):
        Packing.of((np.zeros(2), 3))

    class Sub(np.ndarray):
        pass

    with pytest.raises(TypeError):
        Packing.of((np.zeros(2).view(Sub),))
