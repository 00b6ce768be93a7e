"""Schedule: the order of the operations; elementwise ones on large arrays run block by block."""

from collections.abc import Iterator
from dataclasses import dataclass

from .ir import POINTWISE, Node
from .views import region, root

__all__ = ["Step", "blocks", "grouped"]

BLOCK = 16_384  # elements of a block: with its companions it fits into a core's cache


@dataclass(eq=False)
class Step:
    """One operation, or a group of elementwise ones that runs block by block along axis 0."""

    nodes: list[Node]
    rows: int = 0  # of a block; 0: no blocks

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a group's arrays."""
        return self.nodes[0].shape


def grouped(nodes: list[Node]) -> list[Step]:
    """Return the steps: groups of large elementwise operations of one shape; all others alone.

    A group stays open, and takes in what comes, until something needs one of its results.
    """
    steps: list[Step] = []
    open_: list[Step] = []  # groups that are not yet steps
    home: dict[int, Step] = {}  # the open group of a node, by id

    def close(group: Step) -> None:
        rows = max(1, BLOCK // max(1, group.nodes[0].size // group.shape[0]))
        if len(group.nodes) > 1 and 2 * rows <= group.shape[0]:
            group.rows = rows
            steps.append(group)
        else:
            steps.extend(Step([n]) for n in group.nodes)
        open_.remove(group)
        for n in group.nodes:
            del home[id(n)]

    for node in nodes:
        needed = [home[id(r)] for r in map(root, node.nodes) if id(r) in home]
        large = _blockable(node)
        for group in dict.fromkeys(needed):
            if not (large and group.shape == node.shape and _aligned_inside(node, group)):
                close(group)
        if not large:
            steps.append(Step([node]))
            continue
        found = next((g for g in open_ if g.shape == node.shape), None)
        if found is None:
            found = Step([])
            open_.append(found)
        found.nodes.append(node)
        home[id(node)] = found
    while open_:
        close(open_[0])
    return steps


def _blockable(node: Node) -> bool:
    return node.op in POINTWISE and node.size > 2 * BLOCK and node.shape[0] > 1


def _aligned_inside(node: Node, group: Step) -> bool:
    """Tell whether a node reads the results of a group element by element, or not at all."""
    members = {id(n) for n in group.nodes}
    return all(
        id(root(i)) not in members or (i.shape == node.shape and region(i) is not None)
        for i in node.nodes
    )


def blocks(step: Step) -> Iterator[tuple[int, int]]:
    """Yield the first row of each block of a group, and the row after its last."""
    for start in range(0, step.shape[0], step.rows):
        yield start, min(start + step.rows, step.shape[0])
