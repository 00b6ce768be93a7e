"""The kernels are compiled for GPUs; none is needed for that, only cuda.core."""

import io
import re

import numpy as np
import pytest
import test_kernels
from nvrtc_check import ARCHITECTURES, spills
from test_fusion import step_of

import portnet
from portnet import namespace
from portnet.compiler.cuda import gpu, kernels

core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")

OPTIONS = gpu.OPTIONS


def compiled(source, arch):
    """Return the code of a source for an architecture; fail where the compiler says anything."""
    options = core.ProgramOptions(arch=arch, **OPTIONS)
    log = io.StringIO()
    code = core.Program(source, "c++", options).compile("cubin", logs=log).code
    assert not log.getvalue().strip(), log.getvalue()
    return bytes(code)


def ptx(source):
    """Return the PTX of a source, by the compiler itself: cuda.core needs a driver for that."""

    def checked(result):
        assert result[0] == nvrtc.nvrtcResult.NVRTC_SUCCESS, result
        return result[1:]

    options = core.ProgramOptions(arch="compute_80", **OPTIONS).as_bytes("nvrtc")
    (program,) = checked(nvrtc.nvrtcCreateProgram(source.encode(), b"k.cu", 0, [], []))
    checked(nvrtc.nvrtcCompileProgram(program, len(options), options))
    (size,) = checked(nvrtc.nvrtcGetPTXSize(program))
    text = b" " * size
    checked(nvrtc.nvrtcGetPTX(program, text))
    checked(nvrtc.nvrtcDestroyProgram(program))
    return text.decode()


@pytest.fixture(scope="module")
def sources():
    """Return sources by name: the kinds of kernels, and the steps of several trainings."""
    found = {"kinds": test_kernels.for_sanitizers()[0].plan.program.source}
    x = test_kernels.draw((33, 31), "float64")
    found["functions"] = test_kernels.Case(test_kernels.functions, [x, x]).plan.program.source
    found["functions, float32"] = test_kernels.Case(
        test_kernels.functions, [x.astype("f4"), x.astype("f4")]
    ).plan.program.source
    found["divisions"] = test_kernels.Case(test_kernels.divisions, [x, x]).plan.program.source
    salt = np.ones((1, 1), "i4")
    found["dropout"] = test_kernels.Case(test_kernels.dropped, [salt, salt, x]).plan.program.source
    for name, net, optimizer in (
        ("relu", portnet.mlp([20, 256, 256, 3]), portnet.Adam(1e-3)),
        ("relu, large", portnet.mlp([20, 1000, 1000, 3]), portnet.Adam(1e-3)),
        (
            "tanh",
            portnet.mlp([20, 33, 3], "tanh", norm="layer", dropout=0.2),
            portnet.Momentum(0.1),
        ),
        ("wide rows", portnet.mlp([20, 2000, 300], "gelu", norm="layer"), portnet.Adam(1e-3)),
        ("widest rows", portnet.mlp([20, 8, 50_000]), portnet.Adam(1e-3)),
    ):
        (plan,) = step_of(net, optimizer)
        found[name] = plan.program.source
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile_without_a_warning(sources, arch):
    for name, source in sources.items():
        assert compiled(source, arch)[:4] == b"\x7fELF", name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_kernel_spills_registers(sources, arch):
    seen = 0
    for name, source in sources.items():
        for kernel, stack, spilled in spills(source, arch):
            seen += 1
            assert spilled == 0, f"{name}: {kernel}"
            # Sine and cosine of large numbers need memory, and so do the widest rows.
            if "functions" not in name and name != "widest rows":
                assert stack == 0, f"{name}: {kernel}"
    assert seen > 80


def test_the_device_compiles_for_ieee_arithmetic(monkeypatch):
    given = []
    options = core.ProgramOptions
    monkeypatch.setattr(core, "ProgramOptions", lambda **k: given.append(k) or options(**k))
    gpu._compiled('extern "C" __global__ void k(int* p) { *p = 1; }', "sm_90")
    ieee = {"fma": False, "ftz": False, "prec_div": True, "prec_sqrt": True}
    assert given == [{"arch": "sm_90", **ieee}]


def test_the_code_does_not_contract_or_flush(sources):
    for name in ("kinds", "relu"):
        text = ptx(sources[name])
        assert ".ftz" not in text.replace("ex2.approx.ftz.f32", ""), name  # within expf
        assert not re.search(r"\b(div|sqrt)\.(approx|full)\.", text), name
    for dtype in ("f4", "f8"):
        x = np.ones((5, 7), dtype)

        def fn(x, y):
            xp = namespace(x)
            return x * y + x, xp.sqrt(x) - x * x, xp.sum(x * y, axis=1)

        text = ptx(test_kernels.Case(fn, [x, x]).plan.program.source)
        assert "fma." not in text
        assert ".ftz" not in text
        assert "sqrt.rn.f" in text
    text = ptx(test_kernels.Case(lambda x, y: x / y, [x.astype("f4")] * 2).plan.program.source)
    assert "div.rn.f32" in text


def test_the_device_compiles_them_with_the_same_options(sources):
    assert gpu._compiled(sources["relu"], "sm_90")[:4] == b"\x7fELF"
    assert re.fullmatch(r"cuda-core [\d.]+ nvrtc \(\d+, \d+\)", gpu._compiler())
    assert kernels.PRELUDE in sources["relu"]


def test_a_warning_would_be_found():
    with pytest.raises(AssertionError, match="never referenced"):
        compiled("__global__ void k(int* p) { int unused; *p = 1; }", "sm_90")
