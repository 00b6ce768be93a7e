"""JIT: compile LLVM IR to machine code, for this processor or the one of PORTNET_NATIVE_CPU.

A NumPy call costs half a microsecond before it computes anything, and the steps of small networks
consist of such calls. Machine code does what lies between the NumPy calls that remain. This is the
extra ``native``: llvmlite, numba's LLVM.
"""

import functools
import importlib.util
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..settings import native_cpu
from . import llvm, loader
from .numpy_c import c_library, products
from .object_cache import cached_object, is_cached

__all__ = [
    "check_cpu",
    "compiled",
    "is_compiled",
    "loaded",
    "machine_code",
    "object_file",
    "why_not",
]


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


MOST = 64  # programs that are kept: LLVM does not give all of its memory back
DECLARED = """
declare float @llvm.fabs.f32(float)
declare double @llvm.fabs.f64(double)
declare float @llvm.sqrt.f32(float)
declare double @llvm.sqrt.f64(double)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""


def check_cpu(cpu: str) -> None:
    """Raise ValueError where LLVM does not know the processor of PORTNET_NATIVE_CPU."""
    problem = llvm.trouble_with(cpu)
    if problem:
        raise ValueError(
            "PORTNET_NATIVE_CPU: expected LLVM's name of a processor whose instructions this "
            f"one has, such as x86-64-v3, got {cpu!r}: {problem}"
        )


def machine_code(functions: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """Compile; return the functions of these names, and what keeps them alive."""
    text = "\n".join(functions)
    return loaded(text, names, object_file(text, lambda: compiled(text)))


def is_compiled(functions: tuple[str, ...]) -> bool:
    """Tell whether the cache has these functions; the compiler need not be loaded for that."""
    return is_cached(_key("\n".join(functions)))


def compiled(text: str) -> bytes:
    """Return the object file of functions in LLVM IR."""
    return llvm.compiled(f"{DECLARED}\n{text}", native_cpu())


def object_file(known_by: str, make: Callable[[], bytes] | None) -> bytes:
    """Return the object file of a key: from memory, from the cache, or else made.

    Without `make`, b"" stands for one that is not there.
    """
    here = known_by, native_cpu()
    if here not in _contents:
        target = "" if loader.processor() else _target()
        contents = cached_object(_key(known_by), target, make)
        if not contents:
            return b""
        _keep(_contents, here, contents)
    return _contents[here]


def loaded(known_by: str, names: tuple[str, ...], contents: bytes) -> dict[str, Any]:
    """Return the functions of these names of an object file, and what keeps them alive."""
    here = known_by, native_cpu()
    if here not in _loaded:
        found = loader.load(contents, names) if loader.processor() else None
        _keep(_loaded, here, llvm.loaded(contents, names, here[1]) if found is None else found)
    return _loaded[here]


_contents: dict[tuple[str, str], bytes] = {}
_loaded: dict[tuple[str, str], dict[str, Any]] = {}


def _keep(store: dict[Any, Any], key: Any, value: Any) -> None:
    while len(store) >= MOST:
        store.pop(next(iter(store)), None)  # another thread may have removed it
    store[key] = value


def forget() -> None:
    """Drop all compiled code of this process that nothing uses: for tests of the cache."""
    _contents.clear()
    _loaded.clear()


def _key(text: str) -> str:
    """Return the program, the versions, and what is known about the processor, as a text."""
    from ... import __version__

    processor = np._core._multiarray_umath.__cpu_features__, loader.processor()  # type: ignore[attr-defined]
    versions = __version__, np.__version__, products(), _version_of_llvmlite()
    return "\n".join(map(str, [*versions, native_cpu(), *processor, text]))


@functools.cache
def _target() -> str:
    """Return what LLVM knows about the processor."""
    from llvmlite import binding

    features = binding.get_host_cpu_features().flatten()
    return f"{binding.llvm_version_info} {binding.get_host_cpu_name()} {features}"


@functools.cache
def _version_of_llvmlite() -> str:
    """Return what tells versions of llvmlite apart, without its import, which takes 0.03 s."""
    spec = importlib.util.find_spec("llvmlite")
    origin = Path((spec and spec.origin) or "")
    found = [origin, origin.with_name("_version.py")]
    return "\n".join(p.read_text(encoding="utf-8") for p in found if p.is_file())
