"""Compile a source of kernels for GPUs, as `ci/kernels` asks for each one that the tests run."""

import functools
import io
import re

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


@functools.cache
def spills(source, arch):
    """Return (kernel, bytes of its stack, bytes spilled); fail where the compiler warns."""
    from cuda.core import Program, ProgramOptions

    from portnet.compiler.cuda.gpu import OPTIONS

    log = io.StringIO()
    options = ProgramOptions(arch=arch, ptxas_options="-v", **OPTIONS)
    Program(source, "c++", options).compile("cubin", logs=log)
    text = log.getvalue()
    assert not re.search("warning|error", text), text[:3000]
    found = re.findall(
        r"properties for (\w+)\n.*?(\d+) bytes stack frame, (\d+) bytes spill stores", text
    )
    assert len(found) >= source.count('extern "C" __global__')
    return [(name, int(stack), int(spilled)) for name, stack, spilled in found]


def check(source):
    """Fail where a kernel does not compile, or spills registers, on one of the architectures."""
    for arch in ARCHITECTURES:
        for name, _, spilled in spills(source, arch):
            assert not spilled, f"{name} spills {spilled} bytes on {arch}"
