"""The executor: epochs of compiled steps."""

import numpy as np

import portnet
from portnet import tree


def test_parameters_changed_between_epochs_equal_eager_training():
    X = np.linspace(-1, 1, 40).reshape(20, 2).astype("float32")
    losses = {}
    for how in (True, False):
        net = portnet.mlp([2, 4, 1], "tanh")
        for run in portnet.Trainer(net, "squared_error", "adam", 5, compile=how).epochs(
            X, X[:, :1], epochs=3
        ):
            losses.setdefault(how, []).append(run.history["loss"][-1])
            for p in tree.leaves(run.params):
                p *= 0.5
    assert losses[True] == losses[False]
