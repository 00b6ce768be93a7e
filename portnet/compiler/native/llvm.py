"""LLVM: from its IR to an object file, and to functions that can be called."""

import ctypes
import functools
import os
import subprocess
import sys
from typing import Any

__all__ = ["compiled", "loaded", "python", "trouble_with"]


def _target(cpu: str) -> Any:
    """Return a processor as LLVM's target, by its name; "" is this one. Each engine owns one."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    here = binding.get_host_cpu_name()
    features = binding.get_host_cpu_features().flatten() if cpu in ("", here) else ""
    triple = binding.Target.from_default_triple()
    return triple.create_target_machine(cpu=cpu or here, features=features, opt=3, jit=True)


def compiled(text: str, cpu: str) -> bytes:
    """Return the object file of functions in LLVM IR, for a processor."""
    from llvmlite import binding

    machine, module = _target(cpu), binding.parse_assembly(text)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    # Unrolled loops take nearly twice as long to compile, and hardly shorter to run.
    options.loop_unrolling = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def loaded(contents: bytes, names: tuple[str, ...], cpu: str) -> dict[str, Any]:
    """Return the functions of these names of an object file, and what keeps them alive."""
    from llvmlite import binding

    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _target(cpu))
    engine.add_object_file(binding.ObjectFileRef.from_data(contents))
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    made: dict[str, Any] = {n: kind(engine.get_function_address(n)) for n in names}
    return made | {"engine": engine}


@functools.lru_cache(maxsize=16)
def trouble_with(cpu: str) -> str:
    """Return why LLVM cannot compile for a processor of this name; "" if it can.

    Another process tries it: a name that LLVM does not know may end the process.
    """
    text = "define void @nothing(ptr %table) {\n ret void\n}"
    code = f"from {__name__} import compiled; compiled({text!r}, {cpu!r})"
    tried = python(code, check=False)
    said = tried.stderr.decode(errors="replace").strip().splitlines()
    if tried.returncode or any("not a recognized" in line for line in said):
        return said[-1] if said else f"the compiler ended with {tried.returncode}"
    return ""


def python(code: str, check: bool, given: str = "") -> Any:
    """Run code in another process; return what subprocess says of it."""
    return subprocess.run(
        [sys.executable, "-P", "-S", "-c", code],
        input=given.encode(),
        capture_output=True,
        check=check,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        process_group=0,  # Ctrl-C is for this process, not for that one
    )
