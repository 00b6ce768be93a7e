"""Explain: the description of a plan for a device."""

from collections import Counter

from ..views import root
from .kernels import Product
from .planning import DevicePlan

__all__ = ["explain"]


def explain(plan: DevicePlan) -> str:
    """Return the launches of a plan as text: what each computes, and the bytes of the buffers."""
    launches = plan.program.launches
    by_cublas = sum(isinstance(call, Product) for call in launches)
    lines = [
        f"{len(launches)} launches, {by_cublas} of them products by cuBLAS; "
        f"buffers of {plan.nbytes:,} bytes"
    ]
    for call in launches:
        if isinstance(call, Product):
            m, n, k = call[:3]
            lines.append(f"  product ({m}, {k}) @ ({k}, {n}), by cuBLAS")
            continue
        number, _, kind = call.name.partition("_")
        if kind == "product":
            a, b = plan.kernels[int(number[1:])].nodes[0].inputs
            lines.append(f"  product {a.shape} @ {b.shape}, by a kernel")
        elif kind:
            kernel = plan.kernels[int(number[1:])]
            names = Counter(root(n).op for n in kernel.nodes)
            done = ", ".join(op if n == 1 else f"{n} {op}" for op, n in names.items())
            lines.append(f"  {kind} {kernel.domain}: {done}")
        elif call.name == "finish":
            lines.append("  results that are copied to their place, and the count of the steps")
        else:
            lines.append("  a result that is copied to its place")
    return "\n".join(lines)
