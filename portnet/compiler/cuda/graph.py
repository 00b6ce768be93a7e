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

    def empty(self, nbytes: int) -> Any:
        """Return an array of bytes on the device."""

    def put(self, array: Any, host: Any) -> None:
        """Copy a NumPy array to an array of as many bytes; it may be changed afterwards."""

    def get(self, array: Any, like: Any) -> Any:
        """Return an array of bytes as a NumPy array like another; waits for the device."""

    def zero(self, array: Any) -> None:
        """Set an array to zeros."""

    def address(self, array: Any) -> int:
        """Return the address of an array on the device."""

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

    def close(self) -> None:
        """Release what the device itself holds; its graphs are not run any more."""


class DeviceStep:
    """A plan on a device, with fixed addresses: buffers of its own, and the arguments'.

    Parameters
    ----------
    plan : DevicePlan
    device : Device
    arguments : list of arrays
        The inputs, donated ones too: C-contiguous, on the device. They are kept.
    counter : array of int64 (1,)
        The number of the step, by which arguments move. Each run adds 1.
    """

    def __init__(
        self, plan: DevicePlan, device: Device, arguments: list[Any], counter: Any
    ) -> None:
        self.plan, self.device = plan, device
        layout, program = plan.plan.layout, plan.program
        self.kept: dict[tuple[str, int], Any] = {("counter", 0): counter}
        for number, argument in enumerate(arguments):
            self.kept["argument", number] = self.kept["donated", number] = argument
        for number, nbytes in enumerate(layout.buffers):
            self.kept["buffer", number] = device.empty(nbytes)
        for number, nbytes in enumerate(program.scratch):
            self.kept["scratch", number] = device.empty(nbytes)
            device.zero(self.kept["scratch", number])
        for number, constant in enumerate(layout.constants.arrays):
            self.kept["constant", number] = device.empty(max(1, _memory(constant).nbytes))
            device.put(self.kept["constant", number], _memory(constant))
        self.at = {base: device.address(array) for base, array in self.kept.items()}
        self.kernels = device.compile(program.source)
        self.graph: Any = None
        self.closed = False

    def run(self) -> None:
        """Do one step, call by call."""
        if self.closed:
            raise RuntimeError("the step was closed: its memory belongs to others")
        for call in self.plan.program.launches:
            if isinstance(call, Product):
                at = [self.at[x.base] + x.offset for x in (call.a, call.b, call.c)]
                self.device.product(call, *at)
            else:
                addresses = [self.at[base] for base in call.parameters]
                self.device.launch(self.kernels, call, addresses)

    def capture(self) -> None:
        """Capture the step as a graph; nothing is computed."""
        self.graph = self.device.capture(self.run)

    def replay(self) -> None:
        """Do one step: by the graph, if it is captured."""
        if self.graph is None or self.closed:
            self.run()
        else:
            self.device.replay(self.graph)

    def close(self) -> None:
        """Make it an error to run the step; graph and buffers are released with the object."""
        self.closed = True


def _memory(array: Any) -> Any:
    """Return the bytes of an array as they lie: the kernels read it by its strides."""
    span = sum(s * (n - 1) for s, n in zip(array.strides, array.shape, strict=True))
    return np.ndarray((span + array.itemsize,), np.uint8, array)
