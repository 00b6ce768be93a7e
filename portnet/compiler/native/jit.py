"""JIT: compile LLVM IR to machine code, for this processor or the one of PORTNET_NATIVE_CPU.

A NumPy call costs half a microsecond before it computes anything, and the steps of small networks
consist of such calls. Machine code does what lies between the NumPy calls that remain. This is the
extra ``native``: llvmlite, numba's LLVM.
"""

import ctypes
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np

from ..settings import native_cpu
from .numpy_c import c_library
from .object_cache import cached_object, is_cached

__all__ = ["is_compiled", "machine_code", "target_cpu", "why_not"]


def why_not() -> str:
    """Return why there is no machine code on this computer; "" where there is."""
    known = {"linux": ("x86_64", "aarch64"), "darwin": ("x86_64", "arm64")}
    here = sys.platform, platform.machine()
    if sys.implementation.name != "cpython":
        return f"it needs CPython, and this is {sys.implementation.name}"
    if here[1] not in known.get(here[0], ()):
        return f"it is made on Linux and macOS, x86-64 and ARM, and this is {' '.join(here)}"
    try:
        c_library()
    except (AttributeError, OSError) as error:
        return f"NumPy's library in C is not where it was: {error}"
    return ""


DECLARED = """
declare float @llvm.fabs.f32(float)
declare double @llvm.fabs.f64(double)
declare float @llvm.sqrt.f32(float)
declare double @llvm.sqrt.f64(double)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""


def target_cpu() -> str:
    """Return LLVM's name of the processor to compile for; ValueError where it does not know it."""
    from llvmlite import binding

    chosen = native_cpu()
    if chosen:
        problem = _trouble_with(chosen)
        if problem:
            raise ValueError(
                "PORTNET_NATIVE_CPU: expected LLVM's name of a processor whose instructions this "
                f"one has, such as x86-64-v3, got {chosen!r}: {problem}"
            )
    return chosen or str(binding.get_host_cpu_name())


@functools.lru_cache(maxsize=16)
def _trouble_with(cpu: str) -> str:
    """Return why LLVM cannot compile for a processor; "" if it can.

    Another process asks it: a name that LLVM does not know may end the process.
    """
    code = f"from {__name__} import make_nothing; make_nothing({cpu!r})"
    tried = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    said = tried.stderr.strip().splitlines()
    if tried.returncode or any("not a recognized" in line for line in said):
        return said[-1] if said else f"the compiler ended with {tried.returncode}"
    return ""


def make_nothing(cpu: str) -> None:
    """Compile and call a function that does nothing."""
    text = "define void @nothing(ptr %table) {\n ret void\n}"
    _machine_code((text,), ("nothing",), cpu)["nothing"](0)


def _target(cpu: str) -> Any:
    """Return a processor as a target: each engine owns one."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    here = cpu == binding.get_host_cpu_name()
    features = binding.get_host_cpu_features().flatten() if here else ""
    triple = binding.Target.from_default_triple()
    return triple.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)


def machine_code(functions: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """Compile; return the functions of these names, and what keeps them alive."""
    return _machine_code(functions, names, target_cpu())


@functools.lru_cache(maxsize=64)  # LLVM does not give all of its memory back
def _machine_code(functions: tuple[str, ...], names: tuple[str, ...], cpu: str) -> dict[str, Any]:
    from llvmlite import binding

    target, text = _target(cpu), "\n".join([DECLARED, *functions])
    features = binding.get_host_cpu_features().flatten()
    found = f"{binding.llvm_version_info} {target.triple} {cpu} {features}"
    contents = cached_object(_key(text), found, lambda: _compiled(text, target))
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target)
    engine.add_object_file(binding.ObjectFileRef.from_data(contents))
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    made: dict[str, Any] = {n: kind(engine.get_function_address(n)) for n in names}
    return made | {"engine": engine}


def is_compiled(functions: tuple[str, ...]) -> bool:
    """Tell whether the cache has these functions; the compiler need not be loaded for that."""
    return is_cached(_key("\n".join([DECLARED, *functions])))


def _key(text: str) -> str:
    """Return the program, the versions, and what NumPy knows about the processor, as a text."""
    from ... import __version__

    processor = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]
    known = [__version__, np.__version__, _version_of_llvmlite(), native_cpu(), processor, text]
    return "\n".join(map(str, known))


@functools.cache
def _version_of_llvmlite() -> str:
    return importlib.metadata.version("llvmlite")  # the import takes 0.03 s


def _compiled(text: str, target: Any) -> bytes:
    """Return the object file of functions in LLVM IR."""
    from llvmlite import binding

    module = binding.parse_assembly(text)
    module.triple, module.data_layout = target.triple, str(target.target_data)
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    # Unrolled loops take nearly twice as long to compile, and hardly shorter to run.
    options.loop_unrolling = False
    builder = binding.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(target.emit_object(module))
