"""A model is called on a few rows before training: its errors and warnings."""

import os
from dataclasses import dataclass

import numpy as np
import pytest
from custom import Square
from fits import X

import portnet


@dataclass(frozen=True)
class ConvertsToNumPy(Square):
    """A layer that converts its input to NumPy."""

    def forward(self, params, x, key=None):
        return np.asarray(x) ** 2, x


class ReturnsFloat64(Square):
    def forward(self, params, x, key=None):
        return x * x * np.float64(1), x


def test_layer_that_changes_library_or_dtype_raises_and_is_named(torch):
    inner = portnet.Chain([portnet.Dense(3), ConvertsToNumPy()])
    net = portnet.Chain([inner, portnet.Dense(3)])
    message = (
        r"^layers\[0\] layers\[1\] ConvertsToNumPy\(\): expected forward to return a torch array on cpu of "
        r"dtype torch.float32, like x, got a numpy array on cpu of dtype float32"
    )
    with pytest.raises(TypeError, match=message):
        portnet.Trainer(net, "squared_error").fit(torch.asarray(X), torch.asarray(X[:, :3]))
    net = portnet.Chain([portnet.Dense(3), portnet.Residual(ConvertsToNumPy())])
    with pytest.raises(
        TypeError, match=r"^layers\[1\]\.layer ConvertsToNumPy\(\): expected forward to"
    ):
        portnet.Trainer(net, "squared_error").fit(torch.asarray(X), torch.asarray(X[:, :3]))
    net = portnet.Chain([portnet.Dense(3), ReturnsFloat64()])
    with pytest.raises(
        TypeError, match=r"^layers\[1\] ReturnsFloat64\(\): .* of dtype float32, like x, got"
    ):
        portnet.Trainer(net, "squared_error").fit(X, X[:, :3])


@pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: no step is compiled"
)
def test_compile_warning_names_the_layer_that_runs_eagerly():
    net = portnet.Chain([portnet.Dense(3), ConvertsToNumPy()])
    with pytest.warns(
        portnet.CompileWarning, match=r"np\.asarray\(x\), .*, in ConvertsToNumPy\.forward\)"
    ):
        portnet.Trainer(net, "squared_error").fit(X, X[:, :3], epochs=1)
