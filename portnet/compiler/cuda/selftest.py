"""Self-test: whether graphs can be trusted on this machine, tried once for each device.

A small step is captured, replayed, and compared with NumPy. What fails is named by its stage, and
steps then run eagerly: nothing that is not proved on the machine can give wrong numbers.
"""

import threading
from typing import Any

import numpy as np

from ... import _numpy
from ..errors import EagerError
from ..ir import Program
from ..simplify import simplify
from ..tracer import trace
from .graph import Device, DeviceStep
from .planning import device_plan

__all__ = ["device_for", "failed_stage"]

STEPS = 3
ROWS, INPUTS = 70, 150  # too many for a kernel of portnet's own: cuBLAS computes x @ W
_failed: dict[int, str] = {}  # by number of a device
_lock = threading.Lock()


def device_for(tf32: bool = False) -> Device:
    """Return the current device of CuPy; EagerError says why graphs cannot be used on it.

    The self-test is of IEEE products, also where those of the steps are TF32.
    """
    from .gpu import GPU, missing

    lacking = missing()
    if lacking:
        raise EagerError(
            f"CUDA graphs need {lacking}: install portnet with the extra cuda13 (or cuda12)"
        )
    try:
        device = GPU(tf32)
    except MemoryError:
        raise
    except Exception as error:
        raise EagerError(f"cuBLAS cannot be used: {type(error).__name__}: {error}") from None
    with _lock:
        if device.number not in _failed:
            _failed[device.number] = failed_stage(GPU() if tf32 else device)
    if _failed[device.number]:
        raise EagerError(f"the self-test of CUDA graphs failed: {_failed[device.number]}")
    return device


def failed_stage(device: Device) -> str:
    """Return the stage in which a small captured step fails, and how; "" if it is right."""
    stage = "planning"
    try:
        program, arrays = _program()
        plan = device_plan(program, 0, [0, 1], {2: ROWS * INPUTS * 4, 4: ROWS * 8})
        stage = "compiling a kernel"
        device.compile(plan.program.source)
        stage = "allocating memory"
        counter, on_device = np.zeros(1, np.int64), []
        for host in [*arrays, counter]:
            on_device.append(device.empty(host.nbytes))
            device.put(on_device[-1], host)
        step = DeviceStep(plan, device, on_device[:-1], on_device[-1])
        stage = "a step without a graph"
        step.run()
        stage = "capturing"
        step.capture()
        stage = "replaying"
        for _ in range(STEPS - 1):
            step.replay()
        stage = "comparing the result"
        found = [device.get(a, h) for a, h in zip(on_device, [*arrays, counter], strict=True)]
        W, t, xs, y, orders = arrays
        for s in range(STEPS):
            part = slice(s * ROWS, (s + 1) * ROWS)
            W, t = program.interpret(_numpy, [W, t, xs[part], y, orders[part]])
        for name, got, wanted in (
            ("W", found[0], W),
            ("t", found[1], t),
            ("step", found[5], STEPS),
        ):
            error = float(np.max(np.abs(got - wanted)))
            if not error <= 1e-5:
                return f"{stage}: {name} differs by {error:.2g}"
    except MemoryError:  # that says nothing about graphs: others may use the memory
        raise
    except Exception as error:
        return f"{stage}: {type(error).__name__}: {error}"
    return ""


def _program() -> tuple[Program, list[Any]]:
    """Return a small step: products by cuBLAS and by a kernel, reductions, a gather, what moves.

    Its column sum is shared by several blocks. The arrays have the rows of one step more than are
    made, so that a device that makes one more gives wrong numbers, and reads nothing beside them.
    """
    rng = np.random.default_rng(0)
    W, t = rng.standard_normal((INPUTS, 3)).astype("f4"), np.zeros((), "f4")
    xs = 0.1 * rng.standard_normal(((STEPS + 1) * ROWS, INPUTS)).astype("f4")
    y = rng.standard_normal((ROWS, 3)).astype("f4")
    orders = np.concatenate([rng.permutation(ROWS) for _ in range(STEPS + 1)])

    def step(W: Any, t: Any, x: Any, y: Any, order: Any) -> Any:
        xp = _numpy.array_namespace(W)
        z = x @ W
        p = xp.exp(z - xp.max(z, axis=1, keepdims=True))
        p = p / xp.sum(p, axis=1, keepdims=True)
        dz = (p - xp.take(y, order, axis=0)) / (1.0 + xp.sum(y * y))
        db = xp.sum(dz, axis=0, keepdims=True)
        t = t + 1.0
        return W - 0.1 * (xp.matrix_transpose(x) @ dz + db) / t, t

    kinds = [(a.shape, a.dtype) for a in (W, t, xs[:ROWS], y, orders[:ROWS])]
    program = simplify(trace(step, kinds, lambda traced: (traced, {})))
    return program, [W, t, xs, y, orders]
