"""The self-test of graphs finds whatever is wrong with a device, and names the stage."""

import numpy as np
import pytest
from cpu_device import CPUDevice, needs_gxx

from portnet.compiler.cuda import gpu, selftest
from portnet.compiler.cuda.kernels import Product
from portnet.compiler.cuda.planning import device_plan
from portnet.compiler.errors import EagerError

pytestmark = [needs_gxx, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # of NaN


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_device_that_works_passes(seed):
    assert selftest.failed_stage(CPUDevice(seed)) == ""


def plan():
    program, arrays = selftest._program()
    moving = {2: selftest.ROWS * selftest.INPUTS * 4, 4: selftest.ROWS * 8}
    return device_plan(program, 0, [0, 1], moving), arrays


def test_it_covers_each_kind_of_kernel_and_a_product_by_cublas():
    made, _ = plan()
    kinds = {kernel.kind for kernel in made.kernels}
    assert kinds == {"elements", "rows", "columns", "whole", "product"}
    products = [isinstance(call, Product) for call in made.program.launches]
    assert products.count(True) == 1
    assert any(
        call.name.endswith("_product")
        for call in made.program.launches
        if not isinstance(call, Product)
    )
    assert made.program.scratch, "a sum that several blocks share"
    assert set(made.program.moving) == {2, 4}


@pytest.mark.parametrize("number", range(len(plan()[0].program.launches)))
def test_a_launch_that_does_nothing_is_found(number):
    class Lazy(CPUDevice):
        calls = 0

        def skips(self):
            self.calls += 1
            return (self.calls - 1) % count == number

        def launch(self, *args):
            if not self.skips():
                super().launch(*args)

        def product(self, *args):
            if not self.skips():
                super().product(*args)

    count = len(plan()[0].program.launches)
    assert selftest.failed_stage(Lazy()).startswith("comparing the result: ")


def test_faults_of_a_device_are_named():
    class Eager(CPUDevice):  # what is captured is also run
        def capture(self, calls):
            calls()
            return super().capture(calls)

    class Still(CPUDevice):
        def replay(self, graph):
            pass

    class Dirty(CPUDevice):  # memory is not set to zeros
        def zero(self, array):
            super().put(array, np.full(array.nbytes, 7, np.uint8))

    for device in (Eager, Still, Dirty):
        assert selftest.failed_stage(device()).startswith("comparing the result: "), device

    class Broken(CPUDevice):
        stage = ""

        def compile(self, source):
            return 1 / 0 if self.stage == "compiling a kernel" else super().compile(source)

        def launch(self, *args):
            return 1 / 0 if self.stage == "a step without a graph" else super().launch(*args)

        def capture(self, calls):
            return 1 / 0 if self.stage == "capturing" else super().capture(calls)

        def replay(self, graph):
            return 1 / 0 if self.stage == "replaying" else super().replay(graph)

    for stage in ("compiling a kernel", "a step without a graph", "capturing", "replaying"):
        device = Broken()
        device.stage = stage
        expected = f"{stage}: ZeroDivisionError: division by zero"
        assert selftest.failed_stage(device) == expected


@pytest.fixture
def devices(monkeypatch):
    """Let the stand-in be the GPU; return those that were made."""
    made = []

    class Device(CPUDevice):
        number, fails = 0, None

        def __init__(self, tf32=False):
            super().__init__()
            self.tf32 = tf32
            made.append(self)

        def compile(self, source):
            if Device.fails is not None:
                raise Device.fails
            return super().compile(source)

    monkeypatch.setattr(gpu, "GPU", Device)
    monkeypatch.setattr(gpu, "missing", lambda: "")
    monkeypatch.setattr(selftest, "_failed", {})
    made.append(Device)
    return made


def test_a_device_is_tested_once(devices, monkeypatch):
    tests, failed_stage = [], selftest.failed_stage
    monkeypatch.setattr(selftest, "failed_stage", lambda d: tests.append(d.tf32) or failed_stage(d))
    for tf32 in (True, False):
        assert selftest.device_for(tf32).tf32 == tf32
    assert tests == [False], "products of float32 are compared"


def test_a_device_that_failed_is_not_used(devices):
    devices[0].fails = OSError("no")
    for _ in range(2):
        with pytest.raises(EagerError, match="graphs failed: compiling a kernel: OSError: no"):
            selftest.device_for()
    devices[0].fails = None  # but it stays so
    with pytest.raises(EagerError, match="graphs failed: compiling a kernel: OSError: no"):
        selftest.device_for()


def test_too_little_memory_is_no_failure_of_graphs(devices):
    devices[0].fails = MemoryError("10 bytes")
    with pytest.raises(MemoryError, match="10 bytes"):
        selftest.device_for()
    devices[0].fails = None
    selftest.device_for()


def test_missing_libraries_name_the_extra(monkeypatch):
    monkeypatch.setattr(gpu, "missing", lambda: "cuda-core and nvmath-python")
    with pytest.raises(EagerError, match=r"need cuda-core and nvmath-python: install.*cuda13"):
        selftest.device_for()
