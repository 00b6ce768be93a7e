"""A custom layer, as a user writes one, for tests of functions that take layers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Square:
    """y = x^2;  dy/dx = 2 x."""

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        return x * x, x

    def backward(self, params, cache, dy):
        return (), dy * 2 * cache
