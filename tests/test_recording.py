"""Recording: the inputs, outputs and gradients of each layer."""

import numpy as np
import pytest

import portnet
from portnet import tree
from portnet.recording import recorded


def test_model_whose_layers_are_recorded_computes_the_same():
    inner = portnet.Residual(portnet.mlp([3, 3]))
    net = portnet.Chain([portnet.mlp([2, 3, 3]), inner, portnet.SiLU()])
    x = np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]])
    params = portnet.init(net, 2, like=x)
    copy, records = recorded(net, inside=True)
    y, cache = copy.forward(params, x)
    np.testing.assert_array_equal(y, net.forward(params, x)[0])
    grads, dx = copy.backward(params, cache, np.ones_like(y))
    expected, dx_expected = net.backward(params, net.forward(params, x)[1], np.ones_like(y))
    np.testing.assert_array_equal(dx, dx_expected)
    for a, b in zip(tree.leaves(grads), tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    paths = ["layers[0].layers[0]", "layers[0].layers[1]", "layers[0].layers[2]"]
    paths += ["layers[1].layer.layers[0]", "layers[1]", "layers[2]"]
    assert [r.path for r in records] == paths
    assert len(recorded(net)[1]) == 0
    assert [r.y.shape for r in records] == [(3, 3)] * 6
    np.testing.assert_array_equal(records[4].y, records[2].y + records[3].y)
    np.testing.assert_array_equal(records[4].dx, records[2].dy)
    np.testing.assert_array_equal(records[-1].y, y)
    np.testing.assert_array_equal(records[-1].dy, np.ones_like(y))
    np.testing.assert_array_equal(records[0].dx, dx)


def test_dropout_has_the_same_mask_where_it_is_recorded(xp):
    net = portnet.Chain([portnet.Dense(4), portnet.Dropout(0.5), portnet.Dropout(0.5)])
    x = xp.asarray(np.ones((5, 4)))
    params, key = portnet.init(net, 4, like=x), portnet.rng.key(1, 2)
    copy, records = recorded(net)
    y = copy.forward(params, x, key)[0]
    np.testing.assert_array_equal(xp.numpy(y), xp.numpy(net.forward(params, x, key)[0]))
    assert [type(r.layer).__name__ for r in records] == ["Dense", "Dropout", "Dropout"]


def test_errors_name_the_layer_as_without_recording():
    net = portnet.Chain([portnet.Dense(3), portnet.Tanh()])
    params = portnet.init(net, 2, like=np.ones(1))
    with pytest.raises(portnet.ShapeError, match=r"^layers\[0\] Dense\(3\): expected x of shape"):
        recorded(net)[0].forward(params, np.ones((5, 4)))

    class Wrong(portnet.Tanh):
        def forward(self, params, x, key=None):
            return x

    with pytest.raises(
        TypeError, match=r"^layers\[0\] .*Wrong\(\): expected forward to return y, cache"
    ):
        recorded(portnet.Chain([Wrong()]))[0].forward(((),), np.ones((5, 4)))
