"""Errors and warnings of the compiler."""

from collections.abc import Callable
from typing import Any

__all__ = ["MISS", "CompileWarning", "EagerError", "name_of"]

MISS = object()  # returned by a guarded call whose guard fails


class CompileWarning(UserWarning):
    """A function, or a part of it, cannot be compiled and runs eagerly; the message says why.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> import portnet
    >>> absolute = portnet.compile(lambda x: x if x[0] > 0 else -x)  # looks at a value
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     absolute(np.array([-1.0, -2.0]))
    array([1., 2.])
    >>> issubclass(caught[0].category, portnet.CompileWarning)
    True
    """


class EagerError(Exception):
    """A call cannot be planned; the message says why, and is empty where no warning is due."""


def name_of(fn: Callable[..., Any]) -> str:
    """Return the name of a function, for messages."""
    return str(getattr(fn, "__qualname__", None) or repr(fn))
