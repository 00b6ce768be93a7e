"""Explain: the description of a plan."""

from collections import Counter

from .planner import Plan

__all__ = ["explain"]


def explain(plan: Plan, native: str, source: tuple[str, str]) -> str:
    """Return the plan as text: operations before and after, groups, buffers and bytes."""
    after = plan.operations
    lines = [
        f"{plan.before} operations traced, {len(after)} left: "
        + ", ".join(f"{n} {op}" for op, n in Counter(n.op for n in after).most_common())
    ]
    groups = [s for s in plan.steps if s.rows]
    lines.append(f"{len(groups)} groups run block by block")
    for g in groups:
        names = " ".join(n.op for n in g.nodes)
        lines.append(f"  {len(g.nodes)} on {g.shape}, {g.rows} rows at a time: {names}")
    results = len(plan.program.leaves)
    layout = plan.layout
    inside = sum(layout[n].base[0] == "donated" for n in after)
    lines.append(
        f"{len(layout.buffers)} buffers of {sum(layout.buffers):,} bytes and {len(layout.blocks)} "
        f"blocks of {sum(layout.blocks):,} bytes hold {len(after)} results; {inside} are computed "
        "in donated arrays"
    )
    lines.append(
        f"{len(plan.donated)} of {results} results replace donated arrays, "
        f"{len(layout.copies)} of them by a copy"
    )
    if native:
        lines.append(native)
    return "\n".join([*lines, "", *source[1].splitlines()])
