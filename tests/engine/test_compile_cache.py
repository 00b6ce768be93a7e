"""What is compiled, and which compiled functions are kept."""

import os
from dataclasses import dataclass

import pytest

import portnet
from portnet.backend import Backend
from portnet.engine.compile_cache import compile_cached, compiler_for

eager = pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: nothing is compiled"
)


def make(layer, slope=1.0):
    return lambda x: layer.forward((), x)[0] * slope


@eager
@pytest.mark.parametrize(
    ("name", "compiler"), [("numpy", "replay"), ("jax", "jit"), ("torch", ""), ("cupy", "")]
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
