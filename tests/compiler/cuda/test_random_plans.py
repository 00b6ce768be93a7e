"""Random functions as plans: fusing, memory that is used again, and orders of threads."""

import os

import numpy as np
import pytest
from cpu_device import CPUDevice, needs_gxx
from plans import Case, together

from portnet import namespace
from portnet.compiler.errors import EagerError

UNARY = ("negative", "square", "abs", "sign", "floor")
BINARY = ("add", "subtract", "multiply", "maximum", "minimum")


class Function:
    """A random function of arrays whose elements are small whole numbers: no operation rounds.

    The shapes are those of a matrix, its rows, its columns and one element; a prime keeps numbers
    small.
    """

    def __init__(self, seed, rows, columns, length=12):
        draw = np.random.default_rng(seed)
        m, n = rows, columns
        kinds = [(m, n), (m, n), (m, 1), (1, n), (n,), (), (n, m)]
        self.shapes = [kinds[k] for k in draw.permutation(len(kinds))[: draw.integers(2, 6)]] + [
            (m, n)
        ]
        self.donate = tuple(k for k in range(len(self.shapes)) if draw.random() < 0.6)
        self.seed, self.rows, self.columns, self.length = seed, m, n, length
        dtype = "float64"
        self.arrays = [np.asarray(draw.integers(-5, 6, s)).astype(dtype) for s in self.shapes]

    def __call__(self, *arrays):
        draw, xp = np.random.default_rng(self.seed + 10**6), namespace(*arrays)
        values = list(arrays)
        for _ in range(self.length):
            made = self.made(draw, xp, values)
            if made is not None:
                values.append(made)
        count = draw.integers(2, 7)
        picked = [values[-1 - k] for k in draw.permutation(min(len(values), 9))[:count]]
        return tuple(picked)

    def made(self, draw, xp, values):
        x, y = (values[-1 - int(min(draw.exponential(3), len(values) - 1))] for _ in range(2))
        kind = draw.integers(0, 12)
        if kind < 2:
            return getattr(xp, UNARY[draw.integers(len(UNARY))])(x) % 7.0
        if kind < 6:
            op = BINARY[draw.integers(len(BINARY))]
            return getattr(xp, op)(x, y) % 5.0 if self.common(x, y) else None
        if kind < 9 and len(x.shape) == 2:
            axis = (0, 1, None)[draw.integers(3)]
            if 1 in x.shape and axis is not None and x.shape[axis] == 1:
                return None
            reduce = getattr(xp, ("sum", "max", "min")[draw.integers(3)])
            return reduce(x, axis=axis, keepdims=bool(draw.integers(2)) and axis is not None)
        if kind == 9 and len(x.shape) == 2:
            return xp.matrix_transpose(x)
        if kind == 10 and len(x.shape) == 2:
            return xp.flip(x, axis=int(draw.integers(2)))
        if kind == 11 and self.common(x, y):
            return xp.where(x > y, x, y * 2.0) % 6.0
        return x[:1, :] if kind == 10 and len(x.shape) == 2 else None

    def common(self, x, y):
        try:
            return np.broadcast_shapes(x.shape, y.shape) in (
                (self.rows, self.columns),
                (self.rows, 1),
                (1, self.columns),
                (self.columns,),
                (self.columns, self.rows),
            )
        except ValueError:
            return False


SEEDS = int(os.environ.get("PORTNET_SEEDS", "40"))  # more in ci/kernels


def case_of(seed, rows, columns):
    function = Function(seed, rows, columns)
    return Case(function, function.arrays, donate=function.donate)


@needs_gxx
@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (3, 40), (90, 34), (33, 33)])
@pytest.mark.parametrize("large", [1 << 19, 1])  # then a thread computes several elements
def test_random_functions(rows, columns, large, monkeypatch):
    monkeypatch.setattr("portnet.compiler.cuda.kernels.LARGE", large)
    for start in range(0, SEEDS, 40):
        check(rows, columns, start=start)


def check(rows, columns, count=40, start=0):
    """Fail unless random functions, from this seed on, equal NumPy in two steps."""
    cases = []
    for seed in range(start, start + count):
        try:
            cases.append((seed, case_of(seed, rows, columns)))
        except EagerError:
            continue
    assert len(cases) > 0.8 * count
    together([case for _, case in cases])
    for seed, case in cases:
        for order in (0, 1, 2):
            device = CPUDevice(order)
            step, arrays = case.step(device)
            step.capture()
            values = [a.copy() for a in case.arrays]
            for _ in range(2):
                step.replay()
                given = values[: len(case.program.inputs)]
                expected = case.program.interpret(np, given)
                for d, e in zip(case.results, expected, strict=True):
                    got = device.get(arrays[d], values[d])
                    np.testing.assert_array_equal(got, e, f"seed {seed}, order {order}")
                for d, e in zip(case.results, expected, strict=True):
                    values[d] = np.asarray(e).copy()
            device.check()
            for k, value in enumerate(values):
                np.testing.assert_array_equal(device.get(arrays[k], value), value, f"argument {k}")
