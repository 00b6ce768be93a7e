"""Graph: an ONNX model that is put together node by node."""

from collections.abc import Collection
from typing import Any

import numpy as np

__all__ = ["OPSET", "Graph"]

OPSET, IR_VERSION = 19, 9  # the first in which texts are compared


class Graph:
    """Nodes, constants, inputs and outputs of an ONNX graph, whose names are all different.

    `reserved` are names that no node takes: those of the inputs.
    """

    def __init__(self, reserved: Collection[str] = ()) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._names = set(reserved)

    def name(self, wanted: str) -> str:
        """Return a name that is not taken, and take it."""
        found = wanted
        while found in self._names:
            found += "_"
        self._names.add(found)
        return found

    def input(self, name: str, dtype: Any, width: int) -> str:
        """Return the name of an input (rows, width), which is reserved."""
        from onnx import helper

        self.inputs.append(helper.make_tensor_value_info(name, _code(dtype), ["rows", width]))
        return name

    def constant(self, value: Any, name: str = "constant") -> str:
        """Return the name of a constant array; of text, if it has objects or text."""
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype(object) if array.dtype.kind == "U" else array
        found = self.name(name)
        self.constants.append(numpy_helper.from_array(array, found))
        return found

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Return the name of the one output of a new node."""
        from onnx import helper

        found = self.name(name or kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [found], found, **attributes))
        return found

    def output(self, wanted: str, value: str, dtype: Any, *shape: int) -> None:
        """Make a value an output (rows, ...shape) with a name that is free."""
        from onnx import helper

        name = self.add("Identity", value, name=wanted)
        shown = helper.make_tensor_value_info(name, _code(dtype), ["rows", *shape])
        self.outputs.append(shown)

    def model(self, doc: str, metadata: dict[str, str]) -> Any:
        """Return the ONNX model, checked."""
        from onnx import checker, helper

        from .. import __version__

        graph = helper.make_graph(
            self.nodes, "portnet", self.inputs, self.outputs, self.constants, doc_string=doc
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="portnet",
            producer_version=__version__,
            doc_string=doc,
        )
        helper.set_model_props(model, metadata)
        checker.check_model(model, full_check=True)
        return model


def _code(dtype: Any) -> int:
    """Return ONNX's number of a dtype; text has the dtype object."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
