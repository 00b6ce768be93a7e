"""Templates: what `export_onnx` writes for the layers that it has no one operator for.

They are made by the exporter itself, with marked numbers where layers of a kind differ.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .._typing import Host, Params
from ..layers import GELU, Layer, LayerNorm, LeakyReLU, SiLU, Softplus
from .batch_trace import trace_batch
from .graph import Graph
from .operators import add_program

__all__ = ["Found", "find_layer", "shortest"]

WIDTH = 2
# The layers, and the numbers that differ, each with a value that no other constant has.
MARKED: dict[Any, dict[str, Any]] = {
    LayerNorm: {"eps": 0.125, "gamma": [[0.2, 0.3]], "beta": [[0.4, 0.6]]},
    GELU: {},
    SiLU: {},
    LeakyReLU: {"slope": 0.375},
    Softplus: {},
}
PARAMETERS = "gamma", "beta"
COMMUTATIVE = "Add", "Max", "Mul"


class Found(NamedTuple):
    """A layer, its parameters, and the name of the value that it is applied to."""

    layer: Layer
    params: Params
    x: str


class _Template(NamedTuple):
    kind: Any
    makers: dict[str, Any]  # the nodes, by the names of their results
    constants: dict[str, Host]
    marked: dict[str, str]  # what differs, by the names of its constants
    result: str


def find_layer(value: str, makers: Mapping[str, Any], arrays: Mapping[str, Host]) -> Found | None:
    """Return the layer that makes a value of an ONNX graph; None if no template fits.

    `makers` are the nodes of the graph, by the names of their results, `arrays` its constants.
    """
    for template in _templates():
        bound = _match(template, template.result, value, makers, arrays, {})
        if bound is None:
            continue
        given = {name: arrays[bound[c]] for c, name in template.marked.items()}
        params = {name: given.pop(name).reshape(1, -1) for name in PARAMETERS if name in given}
        if any(a.size != 1 for a in given.values()) or len({a.size for a in params.values()}) > 1:
            continue
        try:
            layer = template.kind(
                **{name: shortest(a.reshape(())[()]) for name, a in given.items()}
            )
        except ValueError:  # a slope or an eps that the layer does not have
            continue
        return Found(layer, params or (), bound["x"])
    return None


def shortest(number: Any) -> float:
    """Return the shortest number that is the same in the dtype of a NumPy scalar."""
    return float(str(number))


@cache
def _templates() -> tuple[_Template, ...]:
    return tuple(_template(kind, marks) for kind, marks in MARKED.items())


def _template(kind: Any, marks: dict[str, Any]) -> _Template:
    from onnx import numpy_helper

    params = {name: np.array(marks[name]) for name in PARAMETERS if name in marks}
    layer = kind(**{name: mark for name, mark in marks.items() if name not in params})
    graph = Graph({"x"})
    graph.input("x", np.float64, WIDTH)
    traced = trace_batch(lambda x: layer.forward(params, x)[0], WIDTH, np.float64, {WIDTH})
    (result,) = add_program(graph, traced, "x")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.constants}
    marked = {
        constant: name
        for constant, array in constants.items()
        for name, mark in marks.items()
        if np.array_equal(array, mark)
    }
    makers = {node.output[0]: node for node in graph.nodes}
    return _Template(kind, makers, constants, marked, result)


def _match(
    template: _Template,
    wanted: str,
    value: str,
    makers: Mapping[str, Any],
    arrays: Mapping[str, Host],
    bound: dict[str, str],
) -> dict[str, str] | None:
    """Return the values of a graph, by their names in the template, where one fits; else None."""
    if wanted in bound:
        return bound if bound[wanted] == value else None
    if wanted == "x":
        return None if value in arrays else bound | {"x": value}
    if wanted in template.constants:
        given = arrays.get(value)
        if given is None or given.dtype.kind not in "fi":
            return None
        if wanted in template.marked:
            return bound | {wanted: value}
        constant = template.constants[wanted]  # which float32 may have rounded
        same = given.size == constant.size and np.allclose(given, constant, 1e-6, 0.0)
        return bound if same else None
    ours, theirs = template.makers[wanted], makers.get(value)
    if theirs is None or _form(theirs) != _form(ours):
        return None
    orders = [theirs.input]
    if ours.op_type in COMMUTATIVE:
        orders.append(theirs.input[::-1])
    for order in orders:
        found: dict[str, str] | None = bound
        for ours_in, theirs_in in zip(ours.input, order, strict=True):
            if found is not None:
                found = _match(template, ours_in, theirs_in, makers, arrays, found)
        if found is not None:
            return found | {wanted: value}
    return None


def _form(node: Any) -> Any:
    """Return what two nodes have in common that do the same."""
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return node.op_type, len(node.input), attributes
