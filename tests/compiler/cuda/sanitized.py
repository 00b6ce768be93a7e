"""Run kernels under the sanitizers of g++; `test_kernels.py` starts this as a process of its own."""

import ctypes
import os
import sys

import numpy as np
from cpu_device import CPUDevice
from test_kernels import for_sanitizers

FLAGS = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def main(broken):
    if broken:  # an element beside an array must be found
        (case,) = for_sanitizers(1)
        source = case.plan.program.source
        case.plan.program.source = source.replace("))[i]", "))[i + 1]", 1)
        assert source != case.plan.program.source
        case.run(CPUDevice(0, FLAGS, pad=0))
    for seed in (0, 1):
        for number, case in enumerate(for_sanitizers()):
            got = case.run(CPUDevice(seed, FLAGS, pad=0))
            for a, b in zip(got, case.expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4, err_msg=f"case {number}")


if __name__ == "__main__":
    os.environ.pop("PORTNET_NVRTC", None)  # it does not run beside the sanitizers
    assert hasattr(ctypes.CDLL(None), "__asan_init"), "the sanitizers are not loaded"
    main(broken=len(sys.argv) > 1)
    print("clean")
