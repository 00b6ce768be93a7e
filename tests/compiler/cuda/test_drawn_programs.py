"""Random programs as kernels on the CPU equal the same operations one by one on NumPy."""

import os
import random

import numpy as np
import pytest
from cpu_device import GXX, CPUDevice

from portnet import _numpy as xp
from portnet.compiler.cuda.graph import DeviceStep
from portnet.compiler.cuda.planning import device_plan
from portnet.compiler.simplify import simplify
from portnet.compiler.tracer import trace

pytestmark = pytest.mark.skipif(GXX is None, reason="g++ is not installed")
DONATED = ("a", "v", "s", "c")


class Drawn:
    """A random function of arrays of fitting shapes; the first four arguments are donated."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.rows = self.draw.choice([1, 2, 5, 31, 32, 33, 70, 130])
        self.columns = self.draw.choice([1, 2, 3, 7, 32, 33, 65])
        R, C = self.rows, self.columns
        self.shapes = {"a": (R, C), "v": (R * C + C,), "s": (), "c": (1, C)}
        self.shapes |= {"b": (R, C), "d": (C,), "e": (R, 1), "w": (C, C), "i": (R,)}
        self.dtype = self.draw.choice(["f8", "f8", "f4"])
        self.seed = seed

    def kinds(self):
        return [
            (shape, np.dtype("i8" if name == "i" else self.dtype))
            for name, shape in self.shapes.items()
        ]

    def arguments(self):
        rng = np.random.default_rng(self.seed)
        return [
            rng.integers(0, self.rows, shape)
            if dtype.kind == "i"
            else rng.normal(size=shape).astype(dtype)
            for shape, dtype in self.kinds()
        ]

    def __call__(self, *args):
        given = dict(zip(self.shapes, args, strict=True))
        index, values, draw = given.pop("i"), list(given.values()), random.Random(self.seed + 1)
        R, C = self.rows, self.columns

        def some(test=lambda x: True):
            found = [x for x in values if test(x)]
            return draw.choice(found[-8:] if draw.random() < 0.6 else found)

        def matrix(x):
            return len(x.shape) == 2

        for _ in range(draw.randint(5, 22)):
            kind = draw.choice(
                ["two"] * 3 + ["one", "where"] + ["reduce"] * 3 + ["matmul", "move"] * 2
            )
            x = some()
            if kind == "two":
                y = some()
                try:
                    shape = np.broadcast_shapes(x.shape, y.shape)
                except ValueError:
                    continue
                if shape not in ((R, C), (1, C), (C,), (R, 1), (), x.shape, y.shape):
                    continue
                x = draw.choice([x + y, x - y, 0.5 * x * y, xp.maximum(x, y), x / (1.0 + y * y)])
            elif kind == "one":
                x = draw.choice([xp.exp(-xp.abs(x)), xp.tanh(x), -x, xp.sqrt(xp.abs(x)) + 0.1])
            elif kind == "where":
                x = draw.choice([xp.where(x > 0.1, x, 0.5 * x), x * xp.astype(x > 0, x.dtype)])
            elif kind == "reduce":
                x = some(lambda x: x.shape)
                axis, keep = draw.choice([None, *range(len(x.shape))]), draw.random() < 0.5
                x = draw.choice([xp.sum, xp.mean, xp.max])(x, axis=axis, keepdims=keep)
            elif kind == "matmul":
                x = some(matrix)
                fitting = [y for y in values if matrix(y) and y.shape[0] == x.shape[1]]
                if not fitting:
                    continue
                x = 0.1 * (x @ draw.choice(fitting))
            else:
                x = some(matrix)
                moved = [
                    xp.matrix_transpose(x),
                    xp.reshape(x, (-1,)),
                    x[: max(1, R // 2)],
                    x[:, :1],
                ]
                if x.shape[0] == R:
                    moved.append(xp.take(x, index, axis=0))
                x = draw.choice(moved)
            values.append(x)
        return self.results(given, values, draw)

    def results(self, given, values, draw):
        """Return results in the shapes of the donated arguments, of as many values as fit."""
        a, v, s, c = (given[name] for name in DONATED)
        R, C = self.rows, self.columns
        for x in values[8:]:
            if x.shape in ((R, C), (1, C), (C,), (R, 1), ()) and draw.random() < 0.5:
                a = a + 0.1 * x
            if x.shape == (R, C) and draw.random() < 0.5:
                a = 0.5 * a + x / (1.0 + xp.max(xp.abs(x), axis=1, keepdims=True))
                c = c + xp.sum(x, axis=0, keepdims=True)
            if draw.random() < 0.4:
                s = s + 0.01 * xp.sum(x)
        if draw.random() < 0.7:
            v = xp.concat([xp.reshape(a, (-1,)), 0.9 * v[R * C :]])
        return a, v, s, c


@pytest.mark.parametrize("seed", range(int(os.environ.get("PORTNET_SEEDS", "40")) // 4))
def test_random_programs_equal_numpy(seed):
    drawn = Drawn(seed)
    program = simplify(trace(drawn, drawn.kinds(), lambda traced: (traced, {})))
    plan, given = device_plan(program, 0, [0, 1, 2, 3], {}), drawn.arguments()
    expected = program.interpret(xp, [a.copy() for a in given])
    found = []
    for order in (0, seed + 1):  # of the threads
        arrays, counter = [a.copy() for a in given], np.zeros(1, np.int64)
        step = DeviceStep(plan, CPUDevice(order), arrays, counter)
        step.capture()
        step.replay()
        assert counter[0] == 1
        found.append([arrays[plan.plan.donated[k]].copy() for k in range(len(expected))])
        for argument, before in zip(arrays[4:], given[4:], strict=True):
            np.testing.assert_array_equal(argument, before)
    tolerance = 1e-9 if drawn.dtype == "f8" else 2e-3
    for one, other, wanted in zip(*found, expected, strict=True):
        np.testing.assert_array_equal(one, other)  # the order of threads changes no bit
        np.testing.assert_allclose(one, wanted, rtol=tolerance, atol=tolerance)
