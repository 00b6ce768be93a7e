"""The command ``export``: a model as an ONNX file, with the preparation of its columns."""

import importlib.util
import os
from typing import Any

import click
import numpy as np

from .. import Run, load, tree
from .._validation import how_to_install
from ..files.atomic import check_writable, write_file
from ..files.container import open_container
from ..files.models import describe
from ..files.shapes import check_parameters
from ..layers import Chain, Dense, Residual
from ..losses import PoissonLoss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from ..tables import TableModel
from .errors import refuse
from .graph import Graph
from .onnx_columns import about_columns, add_columns
from .onnx_layers import add_answers, add_layers

__all__ = ["export", "onnx_model"]


@click.command()
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
def export(model: str, out: str) -> None:
    """Write a MODEL of portnet to OUT, an ONNX file, which ONNX Runtime and others run.

    A model that train wrote has an input for each column, and fills missing values, scales and
    encodes within the file. Networks, runs and estimators of portnet.save have one input, x.
    """
    if importlib.util.find_spec("onnx") is None:
        raise refuse(f"needs onnx, which is not installed: {how_to_install('onnx')}")
    if os.path.exists(out) and os.path.exists(model) and os.path.samefile(out, model):
        raise refuse(f"{out}: the model would be lost: give another name")
    check_writable(out)
    _refuse_own_parts(model)
    graph = onnx_model(load(model, backend="numpy"))
    try:
        data = graph.SerializeToString()
    except Exception as error:  # protobuf's, above 2 GB
        raise refuse(f"{out}: ONNX cannot hold it: {error}") from None
    write_file(out, [data])
    inputs = [value.name for value in graph.graph.input]
    shown = ", ".join(inputs[:8]) + ", ..." * (len(inputs) > 8)
    names = ", ".join(value.name for value in graph.graph.output)
    click.echo(f"wrote {out}: {len(inputs)} input{'s' * (len(inputs) > 1)} ({shown}), {names}")
    dates = [k for k, v in _metadata(graph).items() if v.startswith("date")]
    if dates:
        click.echo("dates are days since 1970-01-01 (UTC) there")


def _metadata(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _refuse_own_parts(path: str) -> None:
    """Raise for a file that names classes or functions that are not portnet's."""
    with open_container(path) as container:
        names = sorted(_own_parts(describe(container)))
    if names:
        raise refuse(
            f"{path}: {', '.join(map(repr, names))} {'are' if len(names) > 1 else 'is'} not "
            "portnet's own, and cannot be exported"
        )


def _own_parts(value: Any) -> set[str]:
    """Return the names of what is not portnet's own in a description."""
    if isinstance(value, list):
        return set().union(*map(_own_parts, value))
    if not isinstance(value, dict):
        return set()
    own = {value["custom"]} if isinstance(value.get("custom"), str) else set()
    return own.union(*map(_own_parts, value.values()))


def onnx_model(thing: Any) -> Any:
    """Return the ONNX model of what `portnet.load` returns, on NumPy.

    Raises ClickException for layers and losses that have no ONNX form.
    """
    if isinstance(thing, TableModel):
        return _of_table(thing)
    if isinstance(thing, Run):
        return _of_run(thing)
    if isinstance(thing, tuple):
        return _of_network(*thing)
    if not hasattr(thing, "coefs_"):
        raise refuse(f"{type(thing).__name__} cannot be exported: install scikit-learn")
    graph = Graph({"x"})
    dtype = thing.coefs_[0].dtype
    x = graph.input("x", dtype, thing.n_features_in_)
    _add_estimator(graph, thing, x)
    return graph.model(f"portnet {type(thing).__name__}", {})


def _of_table(model: TableModel) -> Any:
    graph = Graph({*model.columns, ""})
    more = {} if model.classes_ is not None else {"shift": model.shift, "scale": model.scale}
    _add_estimator(graph, model.estimator, add_columns(graph, model), **more)
    doc = f"portnet's prediction of {model.target!r} from {len(model.columns)} columns"
    return graph.model(doc, about_columns(model))


def _of_network(model: Any, params: Any) -> Any:
    width = _width(model, params)
    if width is None:
        raise refuse("export: expected a network with parameters")
    dtype = tree.leaves(params)[0].dtype
    graph = Graph({"x"})
    y = add_layers(graph, model, params, graph.input("x", dtype, width), dtype)
    graph.output("y", y, dtype, check_parameters(model, params, width) or width)
    return graph.model("a portnet network", {})


def _width(model: Any, params: Any) -> int | None:
    """Return the number of inputs of a model; None if its parameters do not say it."""
    if isinstance(model, Chain):
        found = (_width(*pair) for pair in zip(model.layers, params, strict=True))
        return next((width for width in found if width is not None), None)
    if isinstance(model, Residual):
        return _width(model.layer, params)
    name, axis = ("W", -2) if isinstance(model, Dense) else ("gamma", -1)
    return int(params[name].shape[axis]) if isinstance(params, dict) and name in params else None


def _of_run(run: Run) -> Any:
    loss = run.trainer.loss
    if not type(loss).__module__.startswith(f"{__package__.rpartition('.')[0]}.losses"):
        raise refuse(f"export: the loss {type(loss).__name__} has no ONNX form")
    activations = {
        SoftmaxCrossEntropy: "softmax",
        SigmoidCrossEntropy: "logistic",
        PoissonLoss: "exp",
    }
    graph, dtype = Graph({"x"}), np.dtype(run.backend.dtype)
    x = graph.input("x", dtype, run.inputs)
    raw = add_layers(graph, run.trainer.model, run.params, x, dtype)
    labels = np.arange(max(2, run.outputs)) if run.classes is None else run.classes
    activation = activations.get(type(loss), "identity")
    last = activation == "logistic"
    add_answers(graph, raw, activation, run.outputs, dtype, labels=labels, last=last)
    return graph.model("a portnet run", {})


def _add_estimator(graph: Graph, estimator: Any, x: str, **more: Any) -> None:
    """Add the network of an estimator, and its answers."""
    labels = getattr(estimator, "classes_", None)
    if isinstance(labels, list) or estimator.out_activation_ == "loss.mean":
        what = "several heads" if isinstance(labels, list) else "a loss with a mean of its own"
        raise refuse(f"export: an estimator with {what} has no ONNX form")
    model, params = estimator._network()
    params = tree.map(np.asarray, params)
    dtype = params[0]["W"].dtype
    raw = add_layers(graph, model, params, x, dtype)
    add_answers(
        graph,
        raw,
        estimator.out_activation_,
        estimator.n_outputs_,
        dtype,
        labels=None if labels is None else np.asarray(labels),
        **more,
    )
