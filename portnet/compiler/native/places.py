"""Places: where in memory the elements of a node are, for code that knows addresses.

A place is a base (a buffer, a donated argument, a constant), bytes into it, and strides. It must be
the same in each call: small arguments that are others each time are copied to a place of their own.
"""

from ..ir import VIEWS, Node, unfrozen
from ..numpy_codegen import Text
from ..planner import Plan
from ..views import broadcast, contiguous, is_contiguous
from .llvm_ir import Access, UnsupportedError

STAGED = 65_536  # bytes: arguments up to here are copied to a place that code can know


class Places:
    """The places of a plan's arrays. `text` is the replay: it has the names of what is there."""

    def __init__(self, plan: Plan, text: Text) -> None:
        self.plan, self.text = plan, text
        self.stages: dict[str, str] = {}  # copies of arguments, by the name of their place
        self.used: set[str] = set()  # bases that code reads or writes

    def first(self) -> list[str]:
        """Return what a replay must do before everything else."""
        return [line for base, line in self.stages.items() if base in self.used]

    def access(self, node: Node) -> Access:
        """Return where the elements of a node lie, which must be the same in each call."""
        strides: tuple[int, ...]
        if node.op in VIEWS:
            return self._viewed(node)
        base, offset, strides = "", 0, contiguous(node.shape, node.dtype.itemsize)
        if node.op == "constant":
            base = self.text.value(node.value)
            strides = self.text.names[base].strides  # of equal constants, the first one's
        elif id(node) in self.text.bound:
            base = self._stage(node)
        elif node.op == "input":
            base = f"d{node.value}"
        elif id(node) in self.plan.memory.places:
            (kind, n), offset = (
                self.plan.memory.places[id(node)].base,
                self.plan.memory.places[id(node)].offset,
            )
            base = f"{'m' if kind == 'buffer' else 'd'}{n}"
        else:
            raise UnsupportedError("scratch")
        self.text.bases.setdefault(base, len(self.text.bases))
        return Access(base, offset, strides, node.dtype)

    def _stage(self, node: Node) -> str:
        """Copy an argument that is another array in each call to a place of its own."""
        if node.nbytes > STAGED or node.size == 0:
            raise UnsupportedError("a large argument")
        base = f"p{node.value}"
        if base not in self.stages:
            self.text.staged[base] = node.nbytes
            place = self.text._array(node, base, 0)
            self.stages[base] = f"copyto({place}, {self.text.of[id(node)]})"
        return base

    def _viewed(self, node: Node) -> Access:
        x = node.inputs[0]
        base, offset, strides, dtype = self.access(x)
        if node.op == "permute_dims":
            return Access(base, offset, tuple(strides[a] for a in node.attr("axes")), dtype)
        if node.op == "broadcast_to":
            return Access(base, offset, broadcast(x.shape, strides, node.shape), dtype)
        if node.op == "reshape":
            if not is_contiguous(x.shape, strides, dtype.itemsize):
                raise UnsupportedError("a reshaped view")
            return Access(base, offset, contiguous(node.shape, dtype.itemsize), dtype)
        new, left = [], list(zip(x.shape, strides, strict=True))
        for key in unfrozen(node.attr("key")):
            if key is None:
                new.append(0)
                continue
            n, stride = left.pop(0)
            if isinstance(key, slice):
                begin, _, step = key.indices(n)
                new.append(stride * step)
            else:
                begin = key
            offset += begin * stride
        return Access(base, offset, (*new, *(s for _, s in left)), dtype)

    def span(self, node: Node) -> tuple[str, int, int]:
        """Return the base, the first byte, and the byte after the last."""
        access = self.access(node)
        return (access.base, *access.span(node.shape))
