"""Functions as plans of kernels, run on the device for tests and compared with NumPy."""

import re

import numpy as np
from cpu_device import CPUDevice

from portnet import _numpy
from portnet.compiler.cuda.graph import DeviceStep
from portnet.compiler.cuda.kernels import PRELUDE, Product
from portnet.compiler.cuda.planning import device_plan
from portnet.compiler.simplify import simplify
from portnet.compiler.tracer import trace

SIZES = (1, 2, 7, 31, 32, 33, 257, 1025)


class Case:
    """A function of arrays, its results by NumPy, and its plan, whose results replace arrays.

    `donate` are the arguments that results may replace; the other results replace arrays that are
    added to the arguments.
    """

    def __init__(self, fn, arrays, donate=(), moving=None, given=None, steps=1):
        self.arrays = [np.ascontiguousarray(a) for a in arrays]
        given = list(self.arrays if given is None else given)  # as the function sees them
        self.program = simplify(self.traced(fn, given))
        with np.errstate(all="ignore"):
            expected = self.traced(fn, given).interpret(_numpy, given)
        self.expected = [np.asarray(e) for e in expected]
        left = [self.arrays[d] for d in donate]
        more = []
        for e in self.expected:
            same = [k for k, a in enumerate(left) if (a.shape, a.dtype) == (e.shape, e.dtype)]
            if same:
                left.pop(same[0])
            else:
                more.append(np.zeros(e.shape, e.dtype))
        self.arrays += more
        kinds = [(a.shape, a.dtype) for a in [*given, *more]]
        count = len(given)
        program = simplify(trace(fn, kinds, lambda traced: (traced[:count], {})))
        reusable = [*donate, *range(count, len(kinds))]
        self.plan = device_plan(program, 0, reusable, moving or {})
        self.results = [self.plan.plan.donated[k] for k in range(len(self.expected))]

    @staticmethod
    def traced(fn, given):
        return trace(fn, [(a.shape, a.dtype) for a in given], lambda traced: (traced, {}))

    def step(self, device):
        """Return the plan bound to copies of the arrays, and these."""
        arrays = []
        for host in [*self.arrays, np.zeros(1, np.int64)]:
            arrays.append(device.empty(host.nbytes))
            device.put(arrays[-1], host)
        return DeviceStep(self.plan, device, arrays[:-1], arrays[-1]), arrays

    def run(self, device):
        """Return the results of one step."""
        step, arrays = self.step(device)
        step.run()
        assert device.get(arrays[-1], np.zeros(1, np.int64)) == 1, "the step was not counted"
        device.check()
        for k, host in enumerate(self.arrays):
            if k not in self.results:
                np.testing.assert_array_equal(
                    device.get(arrays[k], host), host, "an argument changed"
                )
        return [device.get(arrays[d], self.arrays[d]) for d in self.results]


def renamed(plan, prefix):
    """Return the kernels and launches of a plan with other names."""
    names = [x.name for x in plan.program.launches if not isinstance(x, Product)]
    text = plan.program.source[len(PRELUDE) :]
    for name in names:
        text = text.replace(f" {name}(", f" {prefix}{name}(")
    launches = [
        x if isinstance(x, Product) else x._replace(name=prefix + x.name)
        for x in plan.program.launches
    ]
    return text, launches


def together(cases):
    """Give all cases one source, so that it is compiled once; return them."""
    parts = [renamed(case.plan, f"case{number}_") for number, case in enumerate(cases)]
    source = "\n".join([PRELUDE, *[text for text, _ in parts]])
    for case, (_, launches) in zip(cases, parts, strict=True):
        case.plan.program.source, case.plan.program.launches = source, launches
    return cases


def kernels_of(source):
    """Return the text of each kernel of a source by its name."""
    found = re.findall(r'(extern "C" __global__ void (\w+)\(.*?\n\})', source, re.DOTALL)
    return {name: text for text, name in found}


def same_for_orders(case, seeds=(0, 1, 2)):
    """Fail unless the results have the same bits for these orders of the threads; return them."""
    first, *others = [case.run(CPUDevice(seed)) for seed in seeds]
    for results in others:
        for a, b in zip(first, results, strict=True):
            assert a.tobytes() == b.tobytes(), "the order of the threads shows"
    return first


def ulps(a, b):
    """Return the largest distance of floats, in units in the last place of the second."""
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(all="ignore"):
        wide = np.abs(a.astype("longdouble") - b.astype("longdouble")) / np.spacing(np.abs(b))
    return float(np.max(np.where(same, 0, wide), initial=0))
