"""Layers as ONNX nodes, and what comes after the last one: probabilities, labels, numbers."""

import math
from typing import Any

import numpy as np

from .. import layers as kinds
from .errors import refuse
from .graph import Graph

__all__ = ["add_answers", "add_layers"]

# Elementwise layers that ONNX has with the same formula.
SAME = {kinds.ReLU: "Relu", kinds.Sigmoid: "Sigmoid", kinds.Tanh: "Tanh"}
NOTHING = (kinds.Identity, kinds.Dropout)  # in inference


def add_layers(graph: Graph, model: Any, params: Any, x: str, dtype: Any, where: str = "") -> str:
    """Return the name of the output of a model (rows, n_out) for the value x (rows, n_in).

    Raises ClickException, which names the layer and its place, for layers that are not portnet's.
    """
    kind = type(model)

    def number(value: float) -> str:
        return graph.constant(np.asarray(value, dtype))

    if kind is kinds.Chain:
        for i, (layer, part) in enumerate(zip(model.layers, params, strict=True)):
            x = add_layers(graph, layer, part, x, dtype, f"{where}.{i}" if where else f"layer {i}")
        return x
    if kind is kinds.Residual:
        inner = add_layers(graph, model.layer, params, x, dtype, f"{where}, in a Residual")
        return graph.add("Add", x, inner)
    if kind is kinds.Dense:
        W, b = graph.constant(params["W"], "W"), graph.constant(params["b"], "b")
        return graph.add("Gemm", x, W, b)
    if kind in SAME:
        return graph.add(SAME[kind], x)
    if kind in NOTHING:
        return x
    if kind is kinds.LeakyReLU:
        return graph.add("Max", x, graph.add("Mul", x, number(model.slope)))
    if kind is kinds.Softplus:
        least = graph.add("Exp", graph.add("Neg", graph.add("Abs", x)))
        rest = graph.add("Log", graph.add("Add", least, number(1.0)))
        return graph.add("Add", graph.add("Max", x, number(0.0)), rest)
    if kind is kinds.SiLU:
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    if kind is kinds.GELU:
        cube = graph.add("Mul", graph.add("Mul", x, x), x)
        inner = graph.add("Add", x, graph.add("Mul", cube, number(0.044715)))
        h = graph.add("Tanh", graph.add("Mul", inner, number(math.sqrt(2 / math.pi))))
        half = graph.add("Mul", x, number(0.5))
        return graph.add("Mul", half, graph.add("Add", h, number(1.0)))
    if kind is kinds.LayerNorm:
        # ONNX Runtime's LayerNormalization takes means of float64 in float32.
        last = graph.constant(np.asarray([-1], np.int64), "axes")
        centred = graph.add("Sub", x, graph.add("ReduceMean", x, last))
        var = graph.add("ReduceMean", graph.add("Mul", centred, centred), last)
        r = graph.add("Sqrt", graph.add("Add", var, number(model.eps)))
        gamma, beta = (graph.constant(params[n], n) for n in ("gamma", "beta"))
        return graph.add("Add", graph.add("Mul", graph.add("Div", centred, r), gamma), beta)
    raise refuse(
        f"export: {kind.__name__}{f' ({where})' if where else ''} has no ONNX form here; layers of "
        f"portnet's own have: {', '.join(sorted(_names()))}"
    )


def _names() -> list[str]:
    more = "Chain Dense GELU LayerNorm LeakyReLU Residual SiLU Softplus".split()
    return [*more, *(kind.__name__ for kind in (*SAME, *NOTHING))]


def add_answers(
    graph: Graph, raw: str, activation: str, outputs: int, dtype: Any, **more: Any
) -> None:
    """Make the outputs of the graph from the raw outputs of the network (rows, outputs).

    `activation` is "softmax", "logistic", "exp" or "identity". The last two make "prediction"
    (rows, outputs), shift + scale * it in float64 if these are given. "softmax" makes "label"
    (rows,) and "probabilities" (rows, classes), and so does "logistic" with one output; with
    several, each is a label of its own, 0 or 1 (rows, outputs).

    `labels` are those of the classes. `last` says whether the last of equally probable classes is
    taken.
    """
    if activation in ("identity", "exp"):
        answer = raw if activation == "identity" else graph.add("Exp", raw)
        if "scale" in more:
            dtype = np.float64
            answer = graph.add("Cast", answer, to=11)
            scale, shift = (graph.constant(np.float64(more[n])) for n in ("scale", "shift"))
            answer = graph.add("Add", graph.add("Mul", answer, scale), shift)
        graph.output("prediction", answer, dtype, outputs)
        return
    if activation == "softmax":
        p = graph.add("Softmax", raw, axis=-1)
    elif outputs == 1:
        both = graph.add("Concat", graph.add("Neg", raw), raw, axis=-1)
        p = graph.add("Sigmoid", both)
        outputs = 2
    else:
        p = graph.add("Sigmoid", raw)
        half = graph.constant(np.asarray(0.5, dtype))
        chosen = graph.add("GreaterOrEqual" if more.get("last") else "Greater", p, half)
        graph.output("label", graph.add("Cast", chosen, to=7), np.int64, outputs)
        graph.output("probabilities", p, dtype, outputs)
        return
    at = graph.add("ArgMax", p, axis=-1, keepdims=0, select_last_index=int(more.get("last", 0)))
    labels = np.asarray(more["labels"])
    named = labels.astype(object) if labels.dtype.kind == "U" else labels
    graph.output("label", graph.add("Gather", graph.constant(named, "labels"), at), named.dtype)
    graph.output("probabilities", p, dtype, outputs)
