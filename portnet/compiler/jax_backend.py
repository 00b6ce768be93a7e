"""JAX backend: a compiled function is ``jax.jit`` of it, with the same warnings."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .errors import CompileWarning, name_of
from .tracer import line_of_error

__all__ = ["Jitted"]

PLANS = 8  # sets of Python numbers; JAX keeps a plan for each shape by itself


class Jitted:
    """fn under jax.jit; Python numbers among its arguments are static."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.entries: OrderedDict[Any, Callable[..., Any]] = OrderedDict()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what fn does."""
        import jax

        leaves, pytree = jax.tree_util.tree_flatten((args, kwargs))
        dynamic = [hasattr(leaf, "dtype") for leaf in leaves]
        static = [None if d else leaf for d, leaf in zip(dynamic, leaves, strict=True)]
        arrays = [leaf for d, leaf in zip(dynamic, leaves, strict=True) if d]
        key = pytree, tuple(dynamic), tuple((type(s), repr(s)) for s in static)
        shapes = tuple((a.shape, str(a.dtype)) for a in arrays)

        def call(arrays: list[Any]) -> Any:
            left = iter(arrays)
            filled = [next(left) if d else s for d, s in zip(dynamic, static, strict=True)]
            args, kwargs = jax.tree_util.tree_unflatten(pytree, filled)
            return self.fn(*args, **kwargs)

        entry = self.entries.get((key, shapes)) or self.entries.get(key)
        if entry is None or (key, shapes) not in self.entries:
            reason = _refused(jax, call, arrays)
            if reason:
                result = self.fn(*args, **kwargs)  # fn's own errors come from here
                self._keep((key, shapes), self.fn)
                text = f"{name_of(self.fn)} runs eagerly: {reason}"
                warnings.warn(text, CompileWarning, stacklevel=4)
                return result
            entry = self.entries.get(key) or jax.jit(call)
            self._keep(key, entry)
            self._keep((key, shapes), entry)
        return self.fn(*args, **kwargs) if entry is self.fn else entry(arrays)

    def _keep(self, key: Any, entry: Any) -> None:
        self.entries[key] = entry
        while len(self.entries) > 2 * PLANS:
            self.entries.popitem(last=False)


def _refused(jax: Any, call: Callable[..., Any], arrays: list[Any]) -> str:
    """Return why a function cannot be traced by JAX, or ""."""
    try:
        first, second = jax.make_jaxpr(call)(arrays), jax.make_jaxpr(call)(arrays)
    except Exception as error:
        where = line_of_error(error.__traceback__)
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"tracing it raised {message} (at {where})"
    same = str(first) == str(second) and all(
        a is b or (a.shape == b.shape and bool((a == b).all()))
        for a, b in zip(first.consts, second.consts, strict=True)
    )
    return "" if same else "two traces of it differ: it draws random numbers, or counts"


def vmapped(fn: Callable[..., Any], batched: tuple[bool, ...], count: int) -> Callable[..., Any]:
    """Return fn for several networks at once: ``jax.vmap`` over the arguments that are batched."""
    import jax

    axes = tuple([0 if each else None for each in batched])
    vmapped: Callable[..., Any] = jax.vmap(fn, in_axes=axes, axis_size=count)
    return vmapped
