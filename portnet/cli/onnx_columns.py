"""Columns as ONNX nodes: the preparation of a table's model, an input for each column."""

import numpy as np

from ..exchange.graph import Graph
from ..tables import TableModel
from ..tables.columns import KINDS
from ..tables.transformers import parts_of

__all__ = ["about_columns", "add_columns"]

FLOAT = 1  # ONNX's number of float32


def add_columns(graph: Graph, model: TableModel) -> str:
    """Return the name of the features (rows, features), float32, of the inputs of a graph.

    Numbers and dates are inputs (rows, 1) of float64, NaN where missing; text is an input (rows, 1)
    of text, "" where missing.
    """
    parts = parts_of(model.transformer)
    inputs: dict[bool, list[str]] = {True: [], False: []}
    for name, kind in zip(model.columns, model.kinds, strict=True):
        text = kind == "t"
        inputs[text].append(graph.input(name, object if text else np.float64, 1))
    features = []
    if "numbers" in parts:
        numbers = parts["numbers"]
        x = inputs[False][0] if len(inputs[False]) == 1 else ""
        x = x or graph.add("Concat", *inputs[False], axis=-1)
        median = graph.constant(numbers["median"], "median")
        x = graph.add("Where", graph.add("IsNaN", x), median, x)
        x = graph.add("Sub", x, graph.constant(numbers["mean"], "mean"))
        x = graph.add("Div", x, graph.constant(numbers["scale"], "scale"))
        features.append(graph.add("Cast", x, to=FLOAT))
    if "texts" in parts:
        ends = np.cumsum(parts["texts"]["counts"]).tolist()
        for name, start, end in zip(inputs[True], [0, *ends], ends, strict=False):
            texts = np.array(parts["texts"]["categories"][start:end], object)
            same = graph.add("Equal", name, graph.constant(texts, "categories"))
            features.append(graph.add("Cast", same, to=FLOAT))
    return features[0] if len(features) == 1 else graph.add("Concat", *features, axis=-1)


def about_columns(model: TableModel) -> dict[str, str]:
    """Return what the metadata of an ONNX model say of its inputs."""
    notes = {
        "n": "float64 (rows, 1), NaN where missing",
        "d": "float64 (rows, 1), days since 1970-01-01 UTC, NaN where missing",
        "t": 'text (rows, 1) without blanks around it, "" where missing',
    }
    found = {
        f"input {name}": f"{KINDS[kind]}: {notes[kind]}"
        for name, kind in zip(model.columns, model.kinds, strict=True)
    }
    return {"target": model.target} | found
