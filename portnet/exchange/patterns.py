"""Patterns: operations of a trace that one operator of ONNX does together.

Product and bias are Gemm, and maximum(x, 0) is Relu. Sigmoid and Softmax are found as portnet's
layers and losses write them, without overflow; ONNX has them with the same formula.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .._typing import Host
from ..compiler.ir import Node

__all__ = ["Fused", "fused"]


class Fused(NamedTuple):
    """An operator of ONNX, the nodes that it takes, and its attributes."""

    kind: str
    inputs: tuple[Node, ...]
    attributes: Mapping[str, Any]


def fused(node: Node, uses: Mapping[int, int], constants: Mapping[int, Host]) -> Fused | None:
    """Return what one operator does for a node and those before it; None if there is no pattern.

    `uses` are the numbers of operations that need each node, `constants` the arrays, by their ids.
    """

    def is_number(value: Any, wanted: float) -> bool:
        array = constants.get(id(value), ()) if isinstance(value, Node) else value
        return isinstance(array, bool | int | float | np.ndarray) and bool(np.all(array == wanted))

    def like(value: Any, op: str, of: Node) -> bool:
        """Tell whether a value is an operation with the shape and dtype of the result."""
        return isinstance(value, Node) and (value.op, value.shape) == (op, of.shape)

    def times(value: Any, factor: float) -> Node | None:
        """Return x where a value is factor * x."""
        if isinstance(value, Node) and value.op == "multiply":
            for x, other in (value.inputs, value.inputs[::-1]):
                if isinstance(x, Node) and x.shape == value.shape and is_number(other, factor):
                    return x
        return None

    def split(value: Node, wanted: float) -> Node | None:
        """Return the operand besides a number."""
        for x, other in (value.inputs, value.inputs[::-1]):
            if isinstance(x, Node) and x.shape == value.shape and is_number(other, wanted):
                return x
        return None

    if node.dtype.kind != "f":
        return None
    if node.op == "maximum" and (x := split(node, 0.0)) is not None and x.dtype == node.dtype:
        return Fused("Relu", (x,), {})
    if node.op == "add":
        return _gemm(node, uses) or _sigmoid_of_tanh(node, split, times)
    if node.op != "divide" or not isinstance(node.inputs[0], Node):
        return None
    top, bottom = node.inputs
    if not isinstance(bottom, Node) or top.op != "exp":
        return None
    (z,) = top.inputs
    if bottom.op == "sum":
        return _softmax(node, z, top, bottom)
    # e^min(x, 0) / (1 + e^-|x|)
    if z.op != "minimum" or bottom.op != "add" or not like(bottom, "add", node):
        return None
    x, e = split(z, 0.0), split(bottom, 1.0)
    if x is None or e is None or not like(e, "exp", node):
        return None
    minus = e.inputs[0]
    if like(minus, "negative", node) and like(minus.inputs[0], "abs", node):
        return Fused("Sigmoid", (x,), {}) if minus.inputs[0].inputs[0] is x else None
    return None


def _gemm(node: Node, uses: Mapping[int, int]) -> Fused | None:
    """x @ W + b, where nothing else needs x @ W."""
    for product, b in (node.inputs, node.inputs[::-1]):
        if not (isinstance(product, Node) and isinstance(b, Node) and product.op == "matmul"):
            continue
        x, W = product.inputs
        two = len(x.shape) == len(W.shape) == len(node.shape) == 2 and product.shape == node.shape
        alike = x.dtype == W.dtype == b.dtype == node.dtype
        if two and alike and uses[id(product)] == 1:
            return Fused("Gemm", (x, W, b), {})
    return None


def _sigmoid_of_tanh(node: Node, split: Any, times: Any) -> Fused | None:
    """(tanh(x / 2) + 1) / 2."""
    half = split(node, 0.5)
    t = None if half is None else times(half, 0.5)
    if t is None or t.op != "tanh":
        return None
    x = times(t.inputs[0], 0.5)
    return None if x is None else Fused("Sigmoid", (x,), {})


def _softmax(node: Node, shifted: Node, top: Node, bottom: Node) -> Fused | None:
    """e / sum(e), e = exp(z - max(z))."""
    axis = bottom.attr("axis")
    if shifted.op != "subtract" or bottom.inputs[0] is not top or type(axis) is not int:
        return None
    z, most = shifted.inputs
    if not (isinstance(z, Node) and isinstance(most, Node) and most.op == "max"):
        return None
    same = most.inputs[0] is z and most.attrs == bottom.attrs and bool(bottom.attr("keepdims"))
    return Fused("Softmax", (z,), {"axis": axis}) if same and z.shape == node.shape else None
