"""What is compiled, and which compiled functions are kept."""

import os
from dataclasses import dataclass

import numpy as np
import pytest

import portnet
from portnet.backend import Backend, namespace
from portnet.engine.compile_cache import compile_cached, compiler_for

eager = pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: nothing is compiled"
)


def make(layer, slope=1.0):
    return lambda x: layer.forward((), x)[0] * slope


@eager
@pytest.mark.parametrize(
    ("name", "compiler"),
    [("numpy", "replay"), ("jax", "jit"), ("torch", ""), ("dpnp", ""), ("cupy", "graph")],
)
def test_backends_say_how_they_are_compiled(name, compiler):
    assert compiler_for(Backend(name)) == compiler
    assert compiler_for(Backend(name), wanted=False) == ""
    assert Backend(name).is_host == (name == "numpy")


def test_equal_parts_share_a_function_and_others_do_not():
    fn = compile_cached(make, portnet.LeakyReLU(0.1), 2.0)
    assert compile_cached(make, portnet.LeakyReLU(0.1), 2.0) is fn
    assert compile_cached(make, portnet.LeakyReLU(0.2), 2.0) is not fn
    assert compile_cached(make, portnet.LeakyReLU(0.1), -2.0) is not fn


def test_parts_of_the_user_are_not_cached():
    @dataclass(frozen=True)
    class Custom(portnet.LeakyReLU):
        """It may read more than its fields."""

    assert compile_cached(make, Custom(0.1)) is not compile_cached(make, Custom(0.1))


def test_layers_that_differ_in_the_sign_of_zero_have_separate_plans():
    make = lambda layer: lambda x: x * layer.slope  # noqa: E731
    kept = [compile_cached(make, portnet.LeakyReLU(slope)) for slope in (0.0, -0.0)]
    assert kept[0] is not kept[1]
    assert compile_cached(make, portnet.LeakyReLU(-0.0)) is kept[1]


ALPHA = 0.1


@dataclass(frozen=True)
class Leaky:
    """A layer that reads a global variable."""

    def init(self, rng, n):
        return (), n

    def forward(self, params, x, key=None):
        return namespace(x).where(x > 0, x, ALPHA * x), x

    def backward(self, params, cache, dy):
        return (), namespace(dy).where(cache > 0, dy, ALPHA * dy)


def test_global_read_by_a_layer_is_read_again_in_each_fit(monkeypatch):
    draw = np.random.default_rng(0)
    X = draw.standard_normal((64, 3))
    y = X[:, :1] ** 2
    net = portnet.Chain([portnet.Dense(4), Leaky(), portnet.Dense(1)])
    for alpha in (0.1, 0.9):
        monkeypatch.setitem(globals(), "ALPHA", alpha)
        losses = [
            portnet.Trainer(net, "squared_error", "adam", 16, compile=how)
            .fit(X, y, epochs=2)
            .history
            for how in (True, False)
        ]
        assert losses[0] == losses[1]
