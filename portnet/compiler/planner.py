"""Planner: from a function to a plan: trace, simplify, schedule, allocate.

1. `traced` traces the function, twice; two traces that differ cannot be replayed.
2. `simplify` removes operations.
3. `schedule.grouped` orders them: elementwise operations on large arrays become groups that run
   block by block, so that intermediate values stay in the processor's cache.
4. `memory.BufferAssignment` decides where results are written.

Views (reshape, transpose, slices) are no operations: they only say where elements lie.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import EagerError
from .ir import Node, Program, computed, difference
from .memory import BufferAssignment, Layout
from .schedule import Step, grouped
from .simplify import materialize_reshapes
from .tracer import Untraceable, line_of_error, trace
from .views import root

__all__ = ["Plan", "donated_results", "make", "operations", "result_text", "traced", "with_arrays"]


@dataclass(eq=False)
class Plan:
    """The steps of a replay, and where its arrays lie."""

    program: Program
    before: int  # the number of operations in the trace
    steps: list[Step]
    donated: dict[int, int]  # number of a result's leaf: number of the input that it replaces
    layout: Layout

    @property
    def operations(self) -> list[Node]:
        """The operations that are left."""
        return [n for step in self.steps for n in step.nodes]


def make(program: Program, before: int, reusable: list[int]) -> Plan:
    """Return the plan of a simplified program; `reusable` are the donated inputs, by number."""
    program, donated = donated_results(materialize_reshapes(program), reusable)
    steps = grouped([n for n in program.nodes if computed(n)])
    return Plan(program, before, steps, donated, BufferAssignment(program, steps, donated).layout())


def donated_results(program: Program, reusable: list[int]) -> tuple[Program, dict[int, int]]:
    """Return which result replaces which donated input: the first of its shape and dtype.

    Results that are views of a donated input are copied before anything is written.
    """
    free = list(reusable)
    donated: dict[int, int] = {}
    for k, leaf in enumerate(program.leaves):
        if isinstance(leaf, Node):
            for d in free:
                given = program.inputs[d]
                if (given.shape, given.dtype) == (leaf.shape, leaf.dtype):
                    donated[k] = d
                    free.remove(d)
                    break
    inputs = {id(program.inputs[d]) for d in donated.values()}
    leaves, early = list(program.leaves), []
    for k, leaf in enumerate(leaves):
        if isinstance(leaf, Node) and id(root(leaf)) in inputs:
            if k in donated and leaf is program.inputs[donated[k]]:
                continue  # it is returned as it is
            copy = Node("copy", (leaf,), (), leaf.shape, leaf.dtype)
            early.append(copy)
            leaves[k] = copy
    if early:  # views of inputs stand before the copies, all else after
        first = [n for n in program.nodes if root(n).op == "input"]
        ids = {id(n) for n in first}
        rest = [n for n in program.nodes if id(n) not in ids]
        program = replace(program, nodes=[*first, *early, *rest], leaves=leaves)
    return program, donated


def traced(fn: Callable[..., Any], kinds: Any, rebuild: Any, pure: bool = False) -> Program:
    """Trace fn twice; raise EagerError where it cannot be traced, or the traces differ.

    What is known to be `pure` is traced once.
    """
    try:
        first = trace(fn, kinds, rebuild)
        second = first if pure else trace(fn, kinds, rebuild)
    except Untraceable as error:
        where = error.where or line_of_error(error.__traceback__)
        raise EagerError(f"{error} (at {where})") from None
    except Exception as error:
        where = line_of_error(error.__traceback__)
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EagerError(f"tracing it raised {message} (at {where})") from None
    if pure:
        return first
    forms: list[Any] = [{}, {}]
    texts = [
        result_text(p.results, iter(range(len(p.leaves))), names)
        for p, names in zip((first, second), forms, strict=True)
    ]
    try:
        differ = difference(first, second)
    except Exception:  # of a result that compares arrays of its own
        differ = "the results"
    if texts[0] != texts[1] or forms[0] != forms[1]:
        differ = "the pytree of their results"
    if differ:
        raise EagerError(
            f"two traces of it differ in {differ}: it draws random numbers, counts, or looks at "
            "something that changes"
        )
    return first


def operations(program: Program) -> int:
    """Return the number of operations, views not counted."""
    return sum(computed(n) for n in program.nodes)


def with_arrays(x: Any, arrays: Any) -> Any:
    """Return an argument with other arrays in the places of its own."""
    if isinstance(x, np.ndarray | np.generic):
        return next(arrays)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*[with_arrays(i, arrays) for i in x])
    if isinstance(x, tuple | list):
        return type(x)([with_arrays(i, arrays) for i in x])
    if isinstance(x, dict):
        return {k: with_arrays(v, arrays) for k, v in x.items()}
    return x


def result_text(pytree: Any, number: Any, names: dict[str, Any]) -> str:
    """Return the text of the pytree of results, with r0, r1, ... as its leaves."""
    if pytree is None:
        return "None"
    if isinstance(pytree, dict):
        parts = {k: result_text(pytree[k], number, names) for k in sorted(pytree)}
        items = []
        for k in pytree:
            names[f"q{len(names)}"] = k
            items.append(f"q{len(names) - 1}: {parts[k]}")
        return "{" + ", ".join(items) + "}"
    if isinstance(pytree, tuple | list):
        inner = "".join(f"{result_text(i, number, names)}, " for i in pytree)
        if type(pytree) is tuple:
            return f"({inner})"
        if type(pytree) is list:
            return f"[{inner}]"
        names[f"q{len(names)}"] = type(pytree)
        star = "*" if hasattr(pytree, "_fields") else ""
        return f"q{len(names) - 1}({star}[{inner}])"
    return f"r{next(number)}"
