"""Native policy: whether and when a plan becomes machine code."""

import functools
import importlib.util
from math import inf
from typing import TYPE_CHECKING

from .ir import ELEMENTWISE
from .settings import cache_folder, native_cpu, native_mode

__all__ = ["check_native_cpu", "native_after", "pays_after", "why_no_machine_code"]

if TYPE_CHECKING:  # planning is not needed by who only imports
    from .planner import Plan


@functools.cache
def why_no_machine_code() -> str:
    """Return why there is no machine code here; "" where there is."""
    if importlib.util.find_spec("llvmlite") is None:
        return "llvmlite is not installed"
    from .native.jit import why_not

    return why_not()


def check_native_cpu() -> None:
    """Raise ValueError where PORTNET_NATIVE_CPU names a processor that LLVM does not know."""
    if native_cpu():
        from .native.jit import check_cpu

        check_cpu(native_cpu())


def native_after(plan: "Plan") -> float:
    """Return the number of the call from which on a plan is machine code; inf: it never is.

    ``PORTNET_NATIVE`` says when: see `native_mode`.
    """
    mode, why_not = native_mode(), why_no_machine_code()
    if mode == "always" and why_not:
        raise ValueError(
            f"PORTNET_NATIVE=always, but there is no machine code here: {why_not}. The extra "
            "native has what it needs; python -m portnet says how to install it"
        )
    if mode == "never" or why_not:
        return inf
    check_native_cpu()
    return 1 if mode == "always" else pays_after(plan)


def pays_after(plan: "Plan", cached: bool = False) -> float:
    """Return after how many calls machine code has paid; inf: there is nothing to compile.

    To compile it takes 0.05 s and 1.2 ms for each operation, of which a half counts where the code
    is kept for the next process. Code that is `cached` takes 6 ms to look for, and 0.03 s where
    LLVM must load it. A call of NumPy's costs 0.8 us, and an elementwise operation 0.15 ns for each
    element.
    """
    count = len(plan.operations)
    cost = (0.05 + 1.2e-3 * count) * (0.5 if cache_folder() else 1)
    if cached:
        cost = 0.006 if loads_without_llvm() else 0.03
    elements = sum(n.size for n in plan.operations if n.op in ELEMENTWISE)
    saved = 8e-7 * count + 1.5e-10 * elements
    return max(1, int(cost / saved)) if count else inf


@functools.cache
def loads_without_llvm() -> bool:
    """Tell whether compiled code of the cache is loaded without LLVM here."""
    from .native.loader import processor

    return bool(processor())
