"""Explain: the description of a plan, on a page."""

from collections import Counter
from collections.abc import Iterable

from .planner import Plan

__all__ = ["explain"]

LINES = 15  # of each list: the rest is counted


def explain(plan: Plan, native: str, source: str = "") -> str:
    """Return the plan as text: operations before and after, groups, buffers and bytes.

    `source` is the generated text, which follows if it is given.
    """
    after, layout = plan.operations, plan.layout
    lines = [f"{plan.before} operations traced, {len(after)} left"]
    counts = Counter(n.op for n in after)
    width = max(map(len, counts), default=0)
    for op, count in counts.most_common():
        shapes = Counter(n.shape for n in after if n.op == op)
        largest = sorted(shapes, key=lambda shape: (len(shape), shape), reverse=True)
        shown = "  ".join(str(s) if shapes[s] == 1 else f"{shapes[s]} x {s}" for s in largest[:4])
        lines.append(f"  {count:4} {op:{width}}  {shown}{'  ...' if len(largest) > 4 else ''}")
    groups = [s for s in plan.steps if s.rows]
    lines.append(f"{len(groups)} groups run block by block")
    texts = [
        f"  {len(g.nodes)} on {g.shape}, {g.rows} rows at a time: {_names(n.op for n in g.nodes)}"
        for g in groups
    ]
    lines += _shortened(texts, "groups")
    inside = sum(layout[n].base[0] == "donated" for n in after)
    lines.append(
        f"{len(layout.buffers)} buffers of {sum(layout.buffers):,} bytes and {len(layout.blocks)} "
        f"blocks of {sum(layout.blocks):,} bytes hold {len(after)} results; {inside} are computed "
        "in donated arrays"
    )
    held = Counter(layout[n].base for n in after)
    texts = [
        f"  buffer {i}: {size:,} bytes, for {held['buffer', i]} results"
        for i, size in enumerate(layout.buffers)
    ]
    lines += _shortened(texts, "buffers")
    lines.append(
        f"{len(plan.donated)} of {len(plan.program.leaves)} results replace donated arrays, "
        f"{len(layout.copies)} of them by a copy"
    )
    if native:
        lines.append(native)
    return "\n".join([*lines, *(["", source] if source else [])])


def _names(ops: Iterable[str]) -> str:
    """Return the names of operations in their order, the first twelve."""
    names = list(ops)
    return " ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _shortened(texts: list[str], of: str) -> list[str]:
    """Return the first lines of a list, and how many more there are."""
    more = len(texts) - LINES
    return texts if more <= 1 else [*texts[:LINES], f"  and {more} more {of}"]
