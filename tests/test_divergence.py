"""DivergenceError and its likely cause."""

import numpy as np
import pytest
from fits import X, assert_equal, diverging

import portnet
from portnet import tree


def test_divergence_names_the_likely_cause():
    y = X @ np.arange(5.0)
    far = X * [1, 1, 3e4, 1, 1]
    message, run = diverging(far, y, portnet.SGD(0.1))
    largest = abs(far[:, 2]).max()
    assert (
        f"Likely cause: column 2 of X reaches {largest:.3g}, where networks want about 1" in message
    )
    assert (
        "or try a smaller learning rate than 0.1. The run as it was before that epoch is" in message
    )
    assert_equal(
        run.params,
        portnet.Trainer(portnet.mlp([5, 8, 1]), "squared_error", portnet.SGD(0.1), 16)
        .fit(far, y, epochs=run.epoch)
        .params,
    )
    message, _ = diverging(X, 1e9 * y, portnet.SGD(0.1))
    assert f"Likely cause: the targets reach {abs(1e9 * y).max():.3g}, where" in message
    message, _ = diverging(X, y, portnet.SGD(1e3))
    assert f"The inputs are scaled (column {abs(X).max(0).argmax()} of X reaches" in message
    assert "so try a smaller learning rate than 1000, or portnet.ClipNorm" in message
    message, _ = diverging(X, y, portnet.SGD(portnet.Constant(1e3)))
    assert "so try a smaller learning rate, or" in message


def test_divergence_advice_fits_the_optimizer():
    y = X @ np.arange(5.0)
    message, _ = diverging(X, y, portnet.chain(portnet.WeightDecay(0.1), portnet.SGD(1e3)))
    assert "try a smaller learning rate than 1000, or portnet.ClipNorm" in message
    start = portnet.init(portnet.mlp([5, 8, 1]))
    far = portnet.Trainer(
        portnet.mlp([5, 8, 1]), "poisson", "lbfgs", params=tree.map(lambda p: p * 1e4 + 1e4, start)
    )
    with pytest.raises(portnet.DivergenceError) as caught:
        far.fit(X, np.ones(96))
    assert "try another start, Trainer(params=...). The run" in str(caught.value)
    assert "learning rate" not in str(caught.value)


def test_divergence_of_lbfgs_at_the_start_names_the_likely_cause():
    message, run = diverging(X * 1e30, X @ np.arange(5.0), "lbfgs")
    assert "Likely cause: column" in message
    assert run.epoch == 0


def test_clip_norm_trains_where_plain_sgd_diverges():
    y = X @ np.arange(5.0)
    diverging(X, y, portnet.SGD(0.5))
    clipped = portnet.chain(portnet.ClipNorm(0.1), portnet.SGD(0.5))
    run = portnet.Trainer(portnet.mlp([5, 8, 1]), "squared_error", clipped, 16).fit(X, y, epochs=50)
    assert run.history["loss"][-1] < 0.3 * run.history["loss"][0]
