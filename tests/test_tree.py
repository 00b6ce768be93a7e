"""Pytrees: map, leaves, paths, ravel, and errors for a mismatched structure."""

import operator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portnet import tree

PYTREE = ({"b": 2.0, "W": 1.0}, (), [3.0, None, {"z": (4.0,)}])

pytrees = st.recursive(
    st.integers(-9, 9) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("Wbxyz"), inner, max_size=3)
    ),
    max_leaves=8,
)


class Pair(NamedTuple):
    first: object
    second: object


def test_map_keeps_structure_container_types_and_key_order():
    doubled = tree.map(lambda x: 2 * x, PYTREE)
    assert doubled == ({"b": 4.0, "W": 2.0}, (), [6.0, None, {"z": (8.0,)}])
    assert list(doubled[0]) == ["b", "W"]
    assert tree.map(operator.neg, Pair(1, (2,))) == Pair(-1, (-2,))
    assert isinstance(tree.map(operator.neg, Pair(1, 2)), Pair)


def test_leaves_and_paths_are_in_sorted_key_order():
    assert tree.leaves(PYTREE) == [1.0, 2.0, 3.0, 4.0]
    assert tree.paths(PYTREE) == ["[0]['W']", "[0]['b']", "[2][0]", "[2][2]['z'][0]"]


@given(pytrees)
def test_leaves_have_the_same_order_as_in_jax(pytree):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    assert tree.leaves(pytree) == jax.tree.leaves(pytree)


@given(pytrees)
def test_map_of_identity_is_the_pytree_and_paths_lead_to_leaves(pytree):
    assert tree.map(lambda x: x, pytree) == pytree
    for path, leaf in zip(tree.paths(pytree), tree.leaves(pytree), strict=True):
        assert eval(f"pytree{path}", {"pytree": pytree}) == leaf


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (({"b": 1.0}, (), [3.0, None, {"z": (4.0,)}]), r"\[0\]: expected a dict with keys"),
        (({"b": 1.0, "W": 2.0}, ()), "the top: expected a tuple of 3, got a tuple of 2"),
        (({"b": 1.0, "W": 2.0}, 5.0, [3.0]), r"\[1\]: expected a tuple of 0, got a leaf"),
        (
            ({"b": 1.0, "W": 2.0}, (), [3.0, None, {"z": (4.0, 5.0)}]),
            r"\[2\]\[2\]\['z'\]: expected a tuple of 1, got a tuple of 2",
        ),
    ],
)
def test_map_over_mismatched_structures_raises_with_the_path(other, message):
    with pytest.raises(ValueError, match=message):
        tree.map(operator.add, PYTREE, other)


def test_error_of_the_mapped_function_names_the_leaf():
    with pytest.raises(TypeError) as caught:
        tree.map(operator.add, ({"W": 1, "b": (2, 3)},), ({"W": 1, "b": (2, "x")},))
    assert caught.value.__notes__ == ["at leaf [0]['b'][1] of the pytree"]


def test_unravel_inverts_ravel(xp):
    pytree = xp.tree(
        ({"W": np.arange(6.0).reshape(2, 3), "b": np.ones((1, 3))}, (), [np.zeros(())])
    )
    flat, unravel = tree.ravel(pytree)
    xp.assert_close(flat, [0, 1, 2, 3, 4, 5, 1, 1, 1, 0])
    back = unravel(flat * 2.0)
    xp.assert_close(back[0]["W"], 2 * np.arange(6.0).reshape(2, 3))
    xp.assert_close(back[2][0], 0.0)
    with pytest.raises(ValueError, match=r"unravel: expected shape \(10,\), got \(9,\)"):
        unravel(flat[:9])


def test_ravel_of_a_pytree_without_arrays_raises():
    with pytest.raises(ValueError, match="at least one array"):
        tree.ravel(((), None))


def test_keys_that_cannot_be_sorted_are_named():
    with pytest.raises(
        TypeError, match=r"whose keys can be sorted, .* got keys \['a', 3\]"
    ) as error:
        tree.map(abs, [{"W": 1.0}, {"a": 1.0, 3: 2.0}])
    assert error.value.__notes__ == ["at leaf [1] of the pytree"]
