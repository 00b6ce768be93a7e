"""Nests of arrays."""

import operator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portnet import tree

NEST = ({"b": 2.0, "W": 1.0}, (), [3.0, None, {"z": (4.0,)}])

nests = st.recursive(
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


def test_map_keeps_shape_types_and_order():
    doubled = tree.map(lambda x: 2 * x, NEST)
    assert doubled == ({"b": 4.0, "W": 2.0}, (), [6.0, None, {"z": (8.0,)}])
    assert list(doubled[0]) == ["b", "W"]
    assert tree.map(operator.neg, Pair(1, (2,))) == Pair(-1, (-2,))
    assert isinstance(tree.map(operator.neg, Pair(1, 2)), Pair)


def test_leaves_and_paths_are_in_the_sorted_order_of_keys():
    assert tree.leaves(NEST) == [1.0, 2.0, 3.0, 4.0]
    assert tree.paths(NEST) == ["[0]['W']", "[0]['b']", "[2][0]", "[2][2]['z'][0]"]


@given(nests)
def test_same_order_as_jax(nest):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    assert tree.leaves(nest) == jax.tree.leaves(nest)


@given(nests)
def test_map_of_identity_is_the_nest_and_paths_lead_to_leaves(nest):
    assert tree.map(lambda x: x, nest) == nest
    for path, leaf in zip(tree.paths(nest), tree.leaves(nest), strict=True):
        assert eval(f"nest{path}", {"nest": nest}) == leaf


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
def test_another_shape_is_an_error_with_the_path(other, message):
    with pytest.raises(ValueError, match=message):
        tree.map(operator.add, NEST, other)


def test_an_error_of_the_function_names_the_leaf():
    with pytest.raises(TypeError) as caught:
        tree.map(operator.add, ({"W": 1, "b": (2, 3)},), ({"W": 1, "b": (2, "x")},))
    assert caught.value.__notes__ == ["at leaf [0]['b'][1] of the nest"]


def test_ravel_and_back(xp):
    nest = xp.tree(({"W": np.arange(6.0).reshape(2, 3), "b": np.ones((1, 3))}, (), [np.zeros(())]))
    flat, unravel = tree.ravel(nest)
    xp.assert_close(flat, [0, 1, 2, 3, 4, 5, 1, 1, 1, 0])
    back = unravel(flat * 2.0)
    xp.assert_close(back[0]["W"], 2 * np.arange(6.0).reshape(2, 3))
    xp.assert_close(back[2][0], 0.0)
    with pytest.raises(ValueError, match=r"unravel: expected shape \(10,\), got \(9,\)"):
        unravel(flat[:9])


def test_ravel_of_nothing():
    with pytest.raises(ValueError, match="at least one array"):
        tree.ravel(((), None))
