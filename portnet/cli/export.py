"""The command ``export``: a model as an ONNX file, with the preparation of its columns."""

import importlib.util
import os
from typing import Any

import click

from .. import load
from .._validation import counted, how_to_install
from ..exchange import onnx_export as exchange
from ..exchange.errors import ExchangeError
from ..exchange.graph import Graph
from ..files.atomic import check_writable
from ..files.container import open_container
from ..files.models import describe
from ..tables import TableModel
from .errors import FILE, refuse
from .onnx_columns import about_columns, add_columns

__all__ = ["export", "onnx_model"]


@click.command()
@click.argument("model", type=FILE)
@click.argument("out", type=FILE)
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
    try:
        graph = onnx_model(load(model, backend="numpy"))
        exchange.write_model(graph, out)
    except ExchangeError as error:
        raise refuse(f"{model}: {error}") from None
    inputs = [value.name for value in graph.graph.input]
    shown = ", ".join(inputs[:8]) + ", ..." * (len(inputs) > 8)
    names = ", ".join(value.name for value in graph.graph.output)
    click.echo(f"wrote {out}: {counted(len(inputs), 'input')} ({shown}), {names}")
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
            "portnet's own: export it in Python, portnet.export_onnx(portnet.load(path, "
            "custom=...), out)"
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
    """Return the ONNX model of what `portnet.load` returns, on NumPy."""
    if not isinstance(thing, TableModel):
        return exchange.onnx_model(thing)
    graph = Graph({*thing.columns, ""})
    features = add_columns(graph, thing)
    units = {} if thing.classes_ is not None else {"shift": thing.shift, "scale": thing.scale}
    exchange.add_predictions(graph, exchange.parts_of(thing.estimator), features, **units)
    doc = f"portnet's prediction of {thing.target!r} from {counted(len(thing.columns), 'column')}"
    return graph.model(doc, about_columns(thing))
