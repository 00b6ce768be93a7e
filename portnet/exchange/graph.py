"""Graph: an ONNX model that is put together node by node."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from .errors import ExchangeError

__all__ = ["OPSET", "Graph", "code_of"]

OPSET, IR_VERSION = 19, 9  # the first in which texts are compared
LIMIT = 2**31 - 2**20  # bytes: protobuf's, with room for the nodes
SMALL = 256  # bytes of a constant that is written once


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
        self._renamed: dict[str, str] = {}
        self._known: dict[Any, str] = {}  # names of nodes and constants, by what they are

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

        self.inputs.append(helper.make_tensor_value_info(name, code_of(dtype), ["rows", width]))
        return name

    def constant(self, value: Any, name: str = "constant") -> str:
        """Return the name of a constant array; of text, if it has objects or text.

        Small constants with the same bits are one.
        """
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype(object) if array.dtype.kind == "U" else array
        small = array.dtype != object and array.nbytes <= SMALL
        key = name, array.dtype.str, array.shape, array.tobytes() if small else len(self.constants)
        if key not in self._known:
            found = self._known[key] = self.name(name)
            self.constants.append(numpy_helper.from_array(array, found))
        return self._known[key]

    def takes(self, kind: str, dtype: Any) -> bool:
        """Tell whether an operator takes arrays of a dtype."""
        from onnx import defs

        name = {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
        return f"tensor({name})" in defs.get_schema(kind, OPSET).inputs[0].types

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Return the name of the one output of a node: a new one, or one that is there already."""
        from onnx import helper

        key = kind, inputs, repr(sorted(attributes.items()))
        if key not in self._known:
            found = self._known[key] = self.name(kind)
            self.nodes.append(helper.make_node(kind, list(inputs), [found], found, **attributes))
        return self._known[key]

    def output(
        self, wanted: str, value: str, dtype: Any, shape: Sequence[int | str | None]
    ) -> None:
        """Make a value an output with a name that is free.

        To be called when all nodes are there: the value gets the name of the output. The shape has
        "rows" for their number, and None for what is not known.
        """
        from onnx import helper

        value = self._renamed.get(value, value)
        makers = [node for node in self.nodes if node.output[0] == value]
        if not makers or any(value == output.name for output in self.outputs):
            value = self.add("Identity", value)
            makers = self.nodes[-1:]
        name = self._renamed[value] = self.name(wanted)
        makers[0].name = name
        for node in self.nodes:
            for values in (node.input, node.output):
                values[:] = [name if v == value else v for v in values]
        shown = helper.make_tensor_value_info(name, code_of(dtype), list(shape))
        self.outputs.append(shown)

    def model(self, doc: str, metadata: dict[str, str]) -> Any:
        """Return the ONNX model, checked; raise ExchangeError if the checker refuses it."""
        from onnx import checker, helper, shape_inference

        from .. import __version__

        size = sum(tensor.ByteSize() for tensor in self.constants)
        if size > LIMIT:
            raise ExchangeError(
                f"the parameters have {size:,} bytes, and an ONNX file holds at most {LIMIT:,}: "
                'float32 takes half of float64, run.to("numpy", dtype="float32")'
            )
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
        try:
            checker.check_model(model, full_check=True)
        except (checker.ValidationError, shape_inference.InferenceError) as error:
            raise ExchangeError(f"ONNX's checker refuses the network: {error}") from None
        return model


def code_of(dtype: Any) -> int:
    """Return ONNX's number of a dtype; text has the dtype object."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
