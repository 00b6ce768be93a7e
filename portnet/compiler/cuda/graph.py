"""Graph: a plan bound to its arrays on a device, run call by call or replayed as one graph.

It knows the device only by the few methods of `Device`, so that the same code runs on a GPU and, in
the tests, on a CPU.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .kernels import Launch, Product
from .planning import DevicePlan

__all__ = ["Device", "DeviceStep"]


class Device(Protocol):
    """What a replay needs of a device; everything is done in the order of the calls."""

    def buffer(self, nbytes: int) -> Any:
        """Return memory: an object that keeps it, with its `address`."""

    def upload(self, buffer: Any, array: Any) -> None:
        """Copy a NumPy array to a buffer; the array may be changed afterwards."""

    def zero(self, buffer: Any) -> None:
        """Set a buffer to zeros."""

    def compile(self, source: str) -> Any:
        """Return the kernels of a source."""

    def launch(self, kernels: Any, launch: Launch, addresses: list[int]) -> None:
        """Launch a kernel."""

    def product(self, product: Product, a: int, b: int, c: int) -> None:
        """Compute a product of matrices at these addresses."""

    def capture(self, calls: Callable[[], None]) -> Any:
        """Return the graph of what `calls` launches, without running it."""

    def replay(self, graph: Any) -> None:
        """Run a graph."""

    def wait(self) -> None:
        """Wait until everything is done."""


class DeviceStep:
    """A plan on a device, with fixed addresses: buffers of its own, and the arguments'.

    Parameters
    ----------
    plan : DevicePlan
    device : Device
    arguments : list
        A buffer, with its `address`, for each input, donated ones too. They hold C-contiguous
        arrays, and are kept.
    counter : buffer
        Eight bytes: the number of the step, by which arguments move. Each run adds 1.
    """

    def __init__(self, plan: DevicePlan, device: Device, arguments: list[Any], counter: Any) -> None:
        self.plan, self.device = plan, device
        layout, program = plan.plan.layout, plan.program
        self.kept: dict[tuple[str, int], Any] = {("counter", 0): counter}
        for number, argument in enumerate(arguments):
            self.kept["argument", number] = self.kept["donated", number] = argument
        for number, nbytes in enumerate(layout.buffers):
            self.kept["buffer", number] = device.buffer(nbytes)
        for number, nbytes in enumerate(program.scratch):
            self.kept["scratch", number] = device.buffer(nbytes)
            device.zero(self.kept["scratch", number])
        for number, constant in enumerate(layout.constants.arrays):
            # As it lies: the kernels read it by its strides.
            lowest = min([0, *[s * (n - 1) for s, n in zip(constant.strides, constant.shape)]])
            assert lowest == 0, "a constant that lies backwards"
            span = sum(s * (n - 1) for s, n in zip(constant.strides, constant.shape))
            flat = np.ndarray((span + constant.itemsize,), np.uint8, constant)
            self.kept["constant", number] = device.buffer(flat.nbytes)
            device.upload(self.kept["constant", number], flat)
        self.kernels = device.compile(program.source)
        self.graph: Any = None

    def _address(self, base: tuple[str, int]) -> int:
        return int(self.kept[base].address)

    def run(self) -> None:
        """Do one step, call by call."""
        for call in self.plan.program.launches:
            if isinstance(call, Product):
                at = [self._address(x.base) + x.offset for x in (call.a, call.b, call.c)]
                self.device.product(call, *at)
            else:
                addresses = [self._address(base) for base in call.parameters]
                self.device.launch(self.kernels, call, addresses)

    def capture(self) -> None:
        """Capture the step as a graph; nothing is computed."""
        self.graph = self.device.capture(self.run)

    def replay(self) -> None:
        """Do one step: by the graph, if it is captured."""
        if self.graph is None:
            self.run()
        else:
            self.device.replay(self.graph)
