"""Random numbers that are equal on every backend.

The array API standard has no random numbers, and the generators of the libraries differ. So:

* numbers drawn once (initial weights, the order of rows) come from NumPy's Generator on the host
  and are moved: the same seed gives the same network and the same batches on every backend;
* numbers drawn in every step (dropout) come from a counter-based hash of (seed, epoch, layer, row,
  column) in 32-bit integer array operations: the same bits on every backend, and no state, so that
  a resumed run draws the same numbers as an uninterrupted one.
"""

import hashlib
from collections.abc import Callable
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from ._typing import Array, Host
from .backend import device, namespace

__all__ = [
    "INITIALIZERS",
    "Key",
    "Undrawn",
    "fold",
    "generator",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "keep_mask",
    "key",
    "lecun_normal",
    "lecun_uniform",
    "order",
    "shuffled",
    "zeros",
]

Generator = np.random.Generator


class Undrawn(Generator):
    """A Generator for a layer's `init` of which only the shapes are used: it draws no weights.

    The initializers of this module then return zeros of their shape, which saves most of the time
    in which a large network begins to train; those of users draw as ever.

    Examples
    --------
    >>> from portnet import rng
    >>> rng.he_normal(rng.Undrawn(), 2, 3)
    array([[0., 0., 0.],
           [0., 0., 0.]])
    """

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def weights(self, n_in: int, n_out: int) -> Host:
        """Return zeros (n_in, n_out)."""
        return np.zeros((n_in, n_out))


class ShapesOnly(Undrawn):
    """An Undrawn whose weights take no memory, of any size: they cannot be written to.

    Examples
    --------
    >>> from portnet import rng
    >>> rng.he_normal(rng.ShapesOnly(), 10**6, 10**6).shape  # 8 TB
    (1000000, 1000000)
    """

    def weights(self, n_in: int, n_out: int) -> Host:
        """Return zeros (n_in, n_out), all of them the same one."""
        return np.broadcast_to(0.0, (n_in, n_out))


def generator(seed: int) -> Generator:
    """Return NumPy's Generator for a seed: the `rng` of a layer's `init`.

    Examples
    --------
    >>> from portnet import rng
    >>> draw = rng.generator(0)
    >>> rng.he_normal(draw, 4, 3).shape
    (4, 3)
    """
    return np.random.default_rng(seed)


def order(seed: int, epoch: int, rows: int) -> Host:
    """Return the order of the rows in an epoch: a permutation determined by (seed, epoch).

    The shape is (rows,).

    Examples
    --------
    >>> from portnet import rng
    >>> rng.order(seed=0, epoch=1, rows=5)
    array([0, 4, 3, 1, 2])
    >>> rng.order(seed=0, epoch=2, rows=5)
    array([0, 1, 3, 4, 2])
    """
    return np.random.default_rng((seed, 1, epoch)).permutation(rows)


def shuffled(seed: int, rows: int) -> Host:
    """Return a permutation of the rows for a validation split, independent of `order`.

    The shape is (rows,).

    Examples
    --------
    >>> from portnet import rng
    >>> rng.shuffled(seed=0, rows=5)
    array([4, 2, 1, 0, 3])
    """
    return np.random.default_rng((seed, 2)).permutation(rows)


# Initial weights (n_in, n_out), float64 on the host ---------------------------------------------


def zeros(rng: Generator | None, n_in: int, n_out: int) -> Host:
    """W = 0.

    The shape is (n_in, n_out).

    Examples
    --------
    >>> from portnet import rng
    >>> rng.zeros(None, 2, 3)
    array([[0., 0., 0.],
           [0., 0., 0.]])
    """
    return rng.weights(n_in, n_out) if isinstance(rng, Undrawn) else np.zeros((n_in, n_out))


def lecun_normal(rng: Generator, n_in: int, n_out: int) -> Host:
    """W ~ N(0, 1 / n_in): linear units preserve the variance (LeCun et al. 1998).

    The shape is (n_in, n_out).

    Examples
    --------
    >>> from portnet import rng
    >>> W = rng.lecun_normal(rng.generator(0), 100, 400)
    >>> W.shape, round(float(W.var()), 3)
    ((100, 400), 0.01)
    """
    return _normal(rng, n_in, n_out, sqrt(1 / n_in))


def lecun_uniform(rng: Generator, n_in: int, n_out: int) -> Host:
    """W ~ U(-a, a), a = sqrt(3 / n_in): the variance of `lecun_normal`.

    The shape is (n_in, n_out).

    Examples
    --------
    >>> from portnet import rng
    >>> W = rng.lecun_uniform(rng.generator(0), 300, 400)
    >>> W.shape, round(float(abs(W).max()), 3)
    ((300, 400), 0.1)
    """
    return _uniform(rng, n_in, n_out, sqrt(3 / n_in))


def glorot_normal(rng: Generator, n_in: int, n_out: int) -> Host:
    """W ~ N(0, 2 / (n_in + n_out)): for tanh and sigmoid units (Glorot and Bengio 2010).

    The shape is (n_in, n_out).

    Examples
    --------
    >>> from portnet import rng
    >>> W = rng.glorot_normal(rng.generator(0), 100, 300)
    >>> W.shape, round(float(W.var()), 3)
    ((100, 300), 0.005)
    """
    return _normal(rng, n_in, n_out, sqrt(2 / (n_in + n_out)))


def glorot_uniform(rng: Generator, n_in: int, n_out: int) -> Host:
    """W ~ U(-a, a), a = sqrt(6 / (n_in + n_out)): the variance of `glorot_normal`.

    The shape is (n_in, n_out).

    Examples
    --------
    >>> from portnet import rng
    >>> W = rng.glorot_uniform(rng.generator(0), 200, 400)
    >>> W.shape, round(float(abs(W).max()), 3)
    ((200, 400), 0.1)
    """
    return _uniform(rng, n_in, n_out, sqrt(6 / (n_in + n_out)))


def he_normal(rng: Generator, n_in: int, n_out: int) -> Host:
    """W ~ N(0, 2 / n_in): for ReLU units, half of which are 0 (He et al. 2015).

    The shape is (n_in, n_out).

    Examples
    --------
    >>> from portnet import rng
    >>> W = rng.he_normal(rng.generator(0), 100, 400)
    >>> W.shape, round(float(W.var()), 3)
    ((100, 400), 0.02)
    """
    return _normal(rng, n_in, n_out, sqrt(2 / n_in))


def he_uniform(rng: Generator, n_in: int, n_out: int) -> Host:
    """W ~ U(-a, a), a = sqrt(6 / n_in): the variance of `he_normal`.

    The shape is (n_in, n_out).

    Examples
    --------
    >>> from portnet import rng
    >>> W = rng.he_uniform(rng.generator(0), 600, 400)
    >>> W.shape, round(float(abs(W).max()), 3)
    ((600, 400), 0.1)
    """
    return _uniform(rng, n_in, n_out, sqrt(6 / n_in))


def _normal(rng: Generator, n_in: int, n_out: int, scale: float) -> Host:
    if isinstance(rng, Undrawn):
        return zeros(rng, n_in, n_out)
    return rng.standard_normal((n_in, n_out)) * scale


def _uniform(rng: Generator, n_in: int, n_out: int, a: float) -> Host:
    if isinstance(rng, Undrawn):
        return zeros(rng, n_in, n_out)
    return rng.uniform(-a, a, (n_in, n_out))


INITIALIZERS: dict[str, Callable[[Generator, int, int], Host]] = {
    f.__name__: f
    for f in (
        glorot_uniform,
        glorot_normal,
        he_uniform,
        he_normal,
        lecun_uniform,
        lecun_normal,
        zeros,
    )
}


# Random bits from counters ----------------------------------------------------------------------
# int32 throughout: its products wrap around in every library, while torch lacks arithmetic on
# uint32 and some devices have no int64. Every array has two axes, because NumPy warns when a
# 0-d integer overflows. Masking the sign bits makes a right shift logical.

_ROW, _COLUMN, _LAYER = 0x61C88647, 0x3C6EF373, 0x2545F491  # odd, with well mixed bits


class Key(NamedTuple):
    """The key from which a layer draws random numbers: two integers, which `keep_mask` hashes.

    Both are Python ints, or int32 arrays (1, 1) in a traced step.

    Examples
    --------
    >>> from portnet import rng
    >>> key = rng.key(seed=0, count=1)
    >>> key == rng.key(seed=0, count=1), key == rng.key(seed=0, count=2)
    (True, False)
    """

    salt: Any  # a hash of (seed, epoch, layer)
    first: Any = 0  # the position of the first row in the epoch


def key(seed: int, count: int) -> Key:
    """Return the key of an epoch, or of a step: a different one for every (seed, count).

    Examples
    --------
    >>> from portnet import rng
    >>> rng.key(seed=0, count=1) == rng.key(seed=1, count=0)
    False
    """
    digest = hashlib.blake2b(f"{seed} {count}".encode(), digest_size=4).digest()
    return Key(int.from_bytes(digest, "little", signed=True))


def fold(key: Key, index: int) -> Key:
    """Return the key of layer `index`. For nested layers the order of the indices matters.

    Examples
    --------
    >>> from portnet import rng
    >>> key = rng.key(seed=0, count=1)
    >>> rng.fold(key, 0) == rng.fold(key, 1)
    False
    """
    salt = key.salt * _LAYER + _signed((index + 1) * _COLUMN)
    return Key(_signed(salt) if isinstance(salt, int) else salt, key.first)


def keep_mask(key: Key, x: Array, rate: float) -> Array:
    """Return a mask of the shape of x (rows, columns), False with probability `rate`.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet import rng
    >>> kept = rng.keep_mask(rng.key(seed=0, count=1), np.ones((100, 50)), rate=0.2)
    >>> kept.shape, round(float(kept.mean()), 1)
    ((100, 50), 0.8)
    """
    xp, where = namespace(x), device(x)
    rows, columns = x.shape[-2:]
    row = xp.arange(rows, dtype=xp.int32, device=where)[:, None] + key.first
    column = xp.arange(columns, dtype=xp.int32, device=where)[None, :]
    bits = _mix(_mix(row * _ROW + key.salt) + column * _COLUMN) & 0x7FFFFFFF
    return bits >= min(round(rate * 2**31), 2**31 - 1)


def _mix(h: Array) -> Array:
    """Hash int32 numbers by `lowbias32` (C. Wellons, hash-prospector)."""
    h = (h ^ ((h >> 16) & 0xFFFF)) * 0x7FEB352D
    h = (h ^ ((h >> 15) & 0x1FFFF)) * _signed(0x846CA68B)
    return h ^ ((h >> 16) & 0xFFFF)


def _signed(number: int) -> int:
    """Return the low 32 bits of an integer as those of an int32."""
    return (number + 2**31) % 2**32 - 2**31
