"""What is checked about options, and the messages: names, integers, numbers, objects with methods.

Options are the arguments that are not data: sizes, rates, names. They are checked where an object
is made, so that a mistake is told where it stands and not in the middle of a training.
"""

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["check_decay", "choose", "decays", "integer", "methods", "named", "number"]


def choose(kind: str, name: Any, names: Iterable[str]) -> None:
    """Raise ValueError, suggesting the nearest right one, unless `name` is one of `names`."""
    names = list(names)
    if not isinstance(name, str) or name not in names:
        near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown {kind} {name!r}{hint} The names are {', '.join(names)}")


def named(kind: str, given: Any, table: Mapping[str, Callable[[], Any]]) -> Any:
    """Return what a name stands for in the table; what is no name is returned as it is."""
    if not isinstance(given, str):
        return given
    choose(kind, given, table)
    return table[given]()


def integer(what: str, value: Any, low: int) -> int:
    """Return an option that must be an integer of at least `low`, or raise ValueError."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or found < low:
        raise ValueError(f"{what}: expected an integer of at least {low}, got {value!r}")
    return found


def number(owner: Any, name: str, needed: str, fits: Callable[[float], bool]) -> None:
    """Check a number of a frozen dataclass and keep it as a Python float, or raise ValueError.

    As a float: NumPy's float64 scalars turn every float32 array that they meet into float64.
    """
    value = getattr(owner, name)
    try:
        found = None if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or not fits(found):
        raise ValueError(f"{type(owner).__name__}: expected {needed}, got {value!r}")
    object.__setattr__(owner, name, found)


def check_decay(owner: Any) -> None:
    """Check the options of what makes parameters decay: `decay`, and `only` those of a name."""
    number(owner, "decay", "a finite decay >= 0", lambda d: 0 <= d < math.inf)
    if not isinstance(owner.only, str | None):
        name = type(owner).__name__
        raise TypeError(f"{name}: only is the name of parameters, such as 'W', got {owner.only!r}")


def decays(owner: Any, paths: list[str]) -> list[bool]:
    """Tell for the path of each parameter whether it decays; ValueError where `only` names none."""
    each = [owner.only is None or path.endswith(f"[{owner.only!r}]") for path in paths]
    if each and not any(each):
        name = type(owner).__name__
        raise ValueError(
            f"{name}: no parameter is named {owner.only!r}; there are {', '.join(paths)}"
        )
    return each


def methods(what: str, given: Any, names: tuple[str, ...]) -> None:
    """Raise TypeError unless an object (and not its class) has these methods."""
    if isinstance(given, type) or not all(hasattr(given, name) for name in names):
        hint = ": write it with ()" if isinstance(given, type) else ""
        raise TypeError(f"expected {what} with {', '.join(names)}, got {given!r}{hint}")
