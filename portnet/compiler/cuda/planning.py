"""Planning for a device: from a traced program to kernels, products and buffers."""

from ..errors import EagerError
from ..ir import Node, Program, computed
from ..memory import BufferAssignment
from ..planner import Plan, donated_results
from ..simplify import materialize_reshapes
from ..views import root
from . import kernels
from .fusion import Kernel, fused

__all__ = ["DevicePlan", "device_plan"]


class DevicePlan:
    """A plan whose steps are kernels, and what it does on a device.

    `kernels` are the groups, `program` the source and the launches: see `kernels.Program`.
    """

    def __init__(self, plan: Plan, groups: list[Kernel], moving: dict[int, int]) -> None:
        self.plan, self.kernels = plan, groups
        assignment = _Buffers(plan.program, groups, plan.donated)  # type: ignore[arg-type]
        plan.layout = assignment.layout()
        self.program = kernels.emitted(plan, groups, set(assignment.registers), moving)

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers."""
        return sum((*self.plan.layout.buffers, *self.program.scratch))


def device_plan(
    program: Program, before: int, reusable: list[int], moving: dict[int, int]
) -> DevicePlan:
    """Return the plan of a simplified program.

    `reusable` are the donated inputs, and `moving` the bytes by which inputs move from step to
    step, by their numbers. Raises EagerError for what no kernel can do.
    """
    if any(n.size == 0 for n in program.nodes):
        raise EagerError("an array without elements")
    program, donated = donated_results(
        _rows_copied(materialize_reshapes(program), moving), reusable
    )
    if len(donated) != len(program.leaves):
        raise EagerError("a result that replaces no donated array")
    program, groups = fused(program)
    return DevicePlan(Plan(program, before, [], donated, None), groups, moving)  # type: ignore[arg-type]


def _rows_copied(program: Program, moving: dict[int, int]) -> Program:
    """Copy what moves and is an operand of a product, which needs a fixed address: once."""
    inside = {id(n) for i, n in enumerate(program.inputs) if moving.get(i)}
    new: dict[int, Node] = {}
    nodes: list[Node] = []
    copies: dict[int, Node] = {}  # by the id of a view of what moves

    def copied(view: Node) -> Node:
        """Return the same view of a copy."""
        if id(view) not in copies:
            of = root(view)
            if view is of:
                made = Node("copy", (of,), (), of.shape, of.dtype)
            else:
                below = copied(view.inputs[0])
                made = Node(view.op, (below,), view.attrs, view.shape, view.dtype)
            nodes.append(made)
            copies[id(view)] = made
        return copies[id(view)]

    for node in program.nodes:
        made = node.with_inputs(new)
        if made.op == "matmul" and any(id(root(i)) in inside for i in made.nodes):
            given = [copied(i) if id(root(i)) in inside else i for i in made.inputs]
            made = Node("matmul", tuple(given), made.attrs, made.shape, made.dtype)
        nodes.append(made)
        new[id(node)] = made
    return program.rewritten(nodes, new)


class _Buffers(BufferAssignment):
    """Assigns memory to what more than one kernel needs; all else stays in registers."""

    registers: dict[int, int]

    def _scratch(self) -> tuple[dict[int, int], list[int]]:
        self.registers = {}
        for s, step in enumerate(self.steps):
            for n in step.nodes:
                readers = [q for q, _ in self.reads.get(id(n), [])]
                if computed(n) and not self._leaves(n, s, readers):
                    self.registers[id(n)] = 0
        return self.registers, []
