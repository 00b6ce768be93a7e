"""Compile cache: what is compiled, and which compiled functions are kept."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from ..compiler import Compiled, compile, native_mode


def made_once(
    make: Callable[..., Callable[..., Any]],
    *parts: Any,
    form: Any = (),
    donate: tuple[int, ...] = (),
) -> Compiled:
    """Return compile(make(*parts, *form)); the same one for equal parts, if they last.

    So a second fit, or another `partial_fit`, need not trace.
    """
    if not _lasting(parts):
        return compile(make(*parts, *form), donate)
    name = make, parts, repr(parts), form, native_mode()
    with _lock:
        fn = _kept.pop(name, None)
        _kept[name] = compile(make(*parts, *form), donate) if fn is None else fn
        while len(_kept) > 16:
            _kept.popitem(last=False)
        return _kept[name]


_kept: OrderedDict[Any, Compiled] = OrderedDict()


_lock = threading.Lock()


def release() -> None:
    """Give back the memory of what `made_once` keeps; who uses it makes its buffers anew.

    A megabyte may stay: small networks are trained in many short calls.
    """
    for fn in list(_kept.values()):
        fn.release(1 << 20)


def _lasting(part: Any) -> bool:
    """Whether equal parts will always do the same: our frozen dataclasses, down to their numbers.

    Somebody else's may read what is none of their fields: a class attribute, a global variable.
    """
    if isinstance(part, tuple):
        return all(_lasting(p) for p in part)
    if is_dataclass(part) and not isinstance(part, type):
        frozen = type(part).__dataclass_params__.frozen  # type: ignore[attr-defined]
        ours = type(part).__module__.partition(".")[0] == __name__.partition(".")[0]
        return ours and frozen and all(_lasting(getattr(part, f.name)) for f in fields(part))
    return part is None or type(part) in (bool, int, float, str)
