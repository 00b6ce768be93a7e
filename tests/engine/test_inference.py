"""Inference: outputs computed in blocks of rows equal those of one product."""

import numpy as np
import pytest

import portnet
from portnet.data.dataset import Dataset
from portnet.engine import inference

NET = portnet.mlp([3, 8, 2], "tanh")
X = np.random.default_rng(0).standard_normal((700, 3))
PARAMS, _ = NET.init(np.random.default_rng(1), 3)
(A, _, B) = PARAMS
EXPECTED = np.tanh(X @ A["W"] + A["b"]) @ B["W"] + B["b"]


@pytest.mark.parametrize("rows", [0, 64, 101, 700])
@pytest.mark.parametrize("compiled", [False, True])
def test_forward_in_blocks_equals_one_product(rows, compiled, xp):
    if compiled and xp.id == "numpy-readonly":
        pytest.skip(reason="subclasses of ndarray are not compiled")
    out = inference.forward(NET, xp.tree(PARAMS), xp.asarray(X[:rows]), 100, compiled=compiled)
    assert out.shape == (rows, 2)
    xp.assert_close(out, EXPECTED[:rows])


def test_forward_never_gets_more_rows_than_a_block():
    sizes = []

    class Spy(portnet.Identity):
        def forward(self, params, x, key=None):
            sizes.append(len(x))
            return x, ()

    out = inference.forward(Spy(), (), X, 100, compiled=False)
    np.testing.assert_array_equal(out, X)
    assert sizes == [100] * 7


def test_outputs_of_a_dataset_are_in_its_order(xp):
    order = np.random.default_rng(2).permutation(700)[:150]
    data = Dataset(portnet.get_backend(), xp.asarray(X), None, None, order)
    out = inference.forward_dataset(NET, xp.tree(PARAMS), data, 100)
    xp.assert_close(out, EXPECTED[order])
