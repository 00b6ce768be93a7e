"""Compile cache: what is compiled, and which compiled functions are kept."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from ..backend import Backend
from ..compiler import Compiled, compile, native_mode

__all__ = [
    "compile_cached",
    "compiler_for",
    "compiles",
    "is_cacheable",
    "makes_machine_code",
    "release",
]


def compiler_for(backend: Backend, wanted: bool = True) -> str:
    """Return how the steps of a fit on this backend are compiled: "replay", "jit", "graph" or "".

    This is the one place that decides it, from `wanted` and the backend's `compiler`.
    """
    return backend.compiler if wanted else ""


def compiles(backend: Backend, wanted: bool = True) -> bool:
    """Tell whether functions of this backend's arrays are compiled one by one."""
    return compiler_for(backend, wanted) in ("replay", "jit")


def makes_machine_code() -> bool:
    """Tell whether steps that are often made become machine code here."""
    from ..compiler.native_policy import why_no_machine_code

    return native_mode() != "never" and not why_no_machine_code()


def compile_cached(
    make: Callable[..., Callable[..., Any]],
    *parts: object,
    form: tuple[object, ...] = (),
    donate: tuple[int, ...] = (),
) -> Compiled:
    """Return compile(make(*parts, *form)); the same function for equal, cacheable parts.

    A second fit, or another `partial_fit`, then need not trace. These parts are pure.
    """
    if not is_cacheable(parts):
        return compile(make(*parts, *form), donate)
    name = make, parts, repr(parts), form, native_mode()
    with _lock:
        fn = _kept.pop(name, None)
        _kept[name] = Compiled(make(*parts, *form), donate, pure=True) if fn is None else fn
        while len(_kept) > 16:
            _kept.popitem(last=False)
        return _kept[name]


_kept: OrderedDict[object, Compiled] = OrderedDict()
_lock = threading.Lock()


def release() -> None:
    """Release the buffers of cached functions; the next call allocates them again.

    Up to a megabyte each is kept: small networks are trained in many short calls.
    """
    for fn in list(_kept.values()):
        fn.release(1 << 20)


def is_cacheable(part: object) -> bool:
    """Tell whether equal parts always compute the same: portnet's frozen dataclasses of numbers.

    A user's class may read more than its fields: a class attribute, a global variable.
    """
    if isinstance(part, tuple):
        return all(is_cacheable(p) for p in part)
    if is_dataclass(part) and not isinstance(part, type):
        frozen = type(part).__dataclass_params__.frozen  # type: ignore[attr-defined]
        ours = type(part).__module__.partition(".")[0] == __name__.partition(".")[0]
        names = [f.name for f in fields(part)]
        as_made = set(vars(part)) <= set(names)  # else a method was replaced by force
        return ours and frozen and as_made and all(is_cacheable(getattr(part, n)) for n in names)
    return part is None or type(part) in (bool, int, float, str)
