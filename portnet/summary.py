"""Summaries: models, runs and histories as text, and as HTML for notebooks.

`layer_rows` is the table of the layers of anything that has some: a model, a run, an estimator.
The methods `summary`, `__str__`, `__repr__` and `_repr_html_` of these classes call the functions
of this file, which knows those classes by their attributes only. No array leaves its device: only
shapes and dtypes are read. Everything that is written into HTML is escaped.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from . import tree
from ._typing import Params, Tree
from ._validation import check_integer, check_pair
from .backend import BackendUnavailableError, ShapeError, backend_of, get_backend
from .rng import ShapesOnly, Undrawn

__all__ = [
    "LayerRow",
    "Summarized",
    "bytes_text",
    "estimator_text",
    "history_html",
    "history_text",
    "is_container",
    "layer_rows",
    "layers_html",
    "layers_text",
    "model_html",
    "model_text",
    "network_text",
    "predictor_html",
    "run_html",
    "run_line",
    "run_summary",
    "run_text",
    "shorten",
    "table_html",
    "table_model_html",
    "totals_text",
    "trainer_html",
]

LAST = 5  # epochs of a history that are shown
Table = Sequence[Sequence[str]]


class LayerRow(NamedTuple):
    """A layer in the table: `n_out` and `shapes` are those of its outputs and its parameters.

    `params` are its parameters, or None where only their shapes are known; `nbytes` is their size,
    0 then. A layer that holds others has depth less than theirs, and no parameters of its own.
    """

    depth: int
    name: str
    n_out: int | None
    shapes: dict[str, tuple[int, ...]]
    nbytes: int = 0
    params: Params = None

    @property
    def n_params(self) -> int:
        """The number of parameters."""
        return sum(map(math.prod, self.shapes.values()))


def layer_rows(thing: Any, params: Params = None, n_in: int | None = None) -> list[LayerRow]:
    """Return a row for each layer, after a row for the inputs.

    Parameters
    ----------
    thing : model, Run, or fitted estimator
    params : pytree of arrays, optional
        Those of a model; a run and an estimator have their own.
    n_in : int, optional
        The number of inputs of a model that does not define it.

    Raises
    ------
    ValueError
        for a model without n_in, an estimator that is not fitted, and parameters of other layers.
    """
    model: Any = getattr(thing, "trainer", thing)
    model = getattr(model, "model", model)
    if hasattr(thing, "hidden_layer_sizes"):  # an estimator of scikit-learn's interface
        return _rows_of_estimator(thing)
    if model is not thing:
        n_in = getattr(thing, "inputs", getattr(thing, "n_features_in_", n_in))
        params = getattr(thing, "params", params)
    if not hasattr(model, "init") or not hasattr(model, "forward"):
        raise TypeError(f"expected a model, a run or a fitted estimator, got {shorten(thing, 60)}")
    known = getattr(model, "n_in", None)
    n_in = known if n_in is None else n_in
    if n_in is None:
        raise ValueError(
            f"expected n_in, the number of inputs: {shorten(model, 60)} does not define it. Give "
            "n_in=4, or make the model so: portnet.Chain(layers, n_in=4)"
        )
    n_in = check_integer("n_in", n_in, 1)
    rows = [LayerRow(0, "inputs", n_in, {})]
    _add_rows(model, params, n_in, -1, rows)
    return rows


def _add_rows(layer: Any, params: Params, n_in: int, depth: int, rows: list[LayerRow]) -> int:
    """Append the rows of a layer, which is at depth -1 for a model; return its outputs."""
    if is_container(layer, "Chain"):
        if layer.n_in not in (None, n_in):
            raise ShapeError(f"Chain: expected {layer.n_in} features, got {n_in}")
        given = [None] * len(layer.layers) if params is None else params
        if not isinstance(given, Sequence) or len(given) != len(layer.layers):
            count = len(given) if isinstance(given, Sequence) else shorten(given, 40)
            raise ShapeError(
                f"Chain: expected parameters of {len(layer.layers)} layers, got {count}"
            )
        if depth >= 0:
            rows.append(LayerRow(depth, "Chain", None, {}))
        for inner, part in zip(layer.layers, given, strict=True):
            n_in = _add_rows(inner, part, n_in, depth + 1, rows)
        return n_in
    depth = max(depth, 0)
    if is_container(layer, "Residual"):
        rows.append(LayerRow(depth, "Residual", None, {}))
        n_out = _add_rows(layer.layer, params, n_in, depth + 1, rows)
        if n_out != n_in:
            raise ShapeError(
                f"Residual: expected a layer with {n_in} outputs, as many as inputs, got {n_out}"
            )
        return n_in
    # The weights are not drawn; a layer of a user's own draws as ever.
    try:
        pair = layer.init(ShapesOnly(), n_in)
    except ValueError as error:  # ShapeError, or a layer that writes into its weights
        if isinstance(error, ShapeError):
            raise
        pair = layer.init(Undrawn(), n_in)
    drawn, n_out = check_pair(layer, "init", "params, n_out", pair)
    shapes, nbytes = _shapes(drawn if params is None else params)
    nbytes = 0 if params is None else nbytes
    name = shorten(layer, 40)
    name = type(layer).__name__ if " object at 0x" in repr(layer) else name
    rows.append(LayerRow(depth, name, n_out, shapes, nbytes, params))
    return int(n_out)


def _rows_of_estimator(estimator: Any) -> list[LayerRow]:
    """Return the rows of a fitted MLPClassifier or MLPRegressor."""
    name = type(estimator).__name__
    if not hasattr(estimator, "coefs_"):
        raise ValueError(f"this {name} is not fitted yet: call fit(X, y) first")
    rows = [LayerRow(0, "inputs", int(estimator.coefs_[0].shape[0]), {})]
    others = iter(_between(estimator))
    for W, b in zip(estimator.coefs_, estimator.intercepts_, strict=True):
        if len(rows) > 1:
            rows += next(others)
        params, n_out = {"W": W, "b": b}, int(W.shape[1])
        shapes, nbytes = _shapes(params)
        rows.append(LayerRow(0, f"Dense({n_out})", n_out, shapes, nbytes, params))
    rows.append(LayerRow(0, str(estimator.out_activation_), rows[-1].n_out, {}))
    return rows


def _between(estimator: Any) -> list[list[LayerRow]]:
    """Return the rows of what is behind each hidden Dense layer of an estimator."""
    widths = [int(W.shape[1]) for W in estimator.coefs_]
    inputs = [int(W.shape[0]) for W in estimator.coefs_[1:]]
    fitted = vars(estimator).get("_fitted_with") or vars(estimator)
    if isinstance(fitted["activation"], str) and not hasattr(estimator, "_layer_params"):
        return [[LayerRow(0, fitted["activation"], n, {})] for n in widths[:-1]]
    model, params = estimator._network()
    layers, hidden = list(zip(model.layers, params, strict=True)), len(inputs)
    step = (len(layers) - 1) // hidden if hidden else 0
    found = []
    for i, (width, n_in) in enumerate(zip(widths[:-1], inputs, strict=True)):
        n_outs = [width, n_in, n_in] if fitted.get("norm") is not None else [n_in, n_in]
        rows = []
        for (layer, part), n_out in zip(
            layers[1 + i * step : (i + 1) * step], n_outs, strict=False
        ):
            rows.append(LayerRow(0, shorten(layer, 40), n_out, *_shapes(part), part))
        found.append(rows)
    return found


def is_container(layer: object, name: str) -> bool:
    """Tell whether a layer is a Chain or a Residual, or of a subclass."""
    module = f"{__package__}.layers"  # which imports this file
    return any(c.__name__ == name and c.__module__ == module for c in type(layer).__mro__)


def _shapes(params: Tree) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the shapes of arrays by their paths, and their bytes."""
    shapes, nbytes = {}, 0
    for path, leaf in zip(tree.paths(params), tree.leaves(params), strict=True):
        name = re.sub(r"^\['(\w+)'\]$", r"\1", path) or "parameters"  # W for ['W']
        shapes[name] = shape = tuple(map(int, getattr(leaf, "shape", ())))
        nbytes += math.prod(shape) * _itemsize(getattr(leaf, "dtype", "float64"))
    return shapes, nbytes


def _itemsize(dtype: object) -> int:
    """Return the bytes of an element, of a dtype of any library: that of bfloat16 is 2."""
    bits = re.search(r"\d+$", str(getattr(dtype, "name", dtype)))
    return int(bits.group()) // 8 if bits else 1


# Text -------------------------------------------------------------------------------------------


def shorten(thing: object, width: int) -> str:
    """Return repr(thing) on one line of at most `width` characters."""
    text = " ".join(repr(thing).split())
    return text if len(text) <= width else text[: width - 3] + "..."


def bytes_text(count: float) -> str:
    """Return a number of bytes as text.

    Examples
    --------
    >>> bytes_text(268), bytes_text(4 * 2**20)
    ('268 B', '4.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _layer_table(rows: Iterable[LayerRow]) -> list[list[str]]:
    table = []
    for row in rows:
        shapes = ", ".join(f"{name} {shape}" for name, shape in row.shapes.items())
        output = "" if row.n_out is None else f"(rows, {row.n_out})"
        count = f"{row.n_params:,}" if row.shapes or row.n_out is not None else ""
        table.append(["  " * row.depth + row.name, output, shapes, count])
    table[0][-1] = ""  # the inputs
    return table


def totals_text(rows: Sequence[LayerRow]) -> str:
    """Return the sums of the table: parameters, outputs for each row, and their bytes."""
    count, dtype = sum(row.n_params for row in rows), _dtype(rows)
    size = _itemsize(dtype)
    nbytes = sum(row.nbytes for row in rows) or count * size
    outputs = sum(row.n_out for row in rows[1:] if row.n_out is not None)
    parameters = "1 parameter" if count == 1 else f"{count:,} parameters"
    return (
        f"{parameters}, {bytes_text(nbytes)} as {dtype}; "
        f"{outputs:,} outputs of layers for each row, {bytes_text(outputs * size)}"
    )


def _dtype(rows: Sequence[LayerRow]) -> str:
    """Return the dtype of the parameters; without any, that of new arrays."""
    for row in rows:
        for leaf in tree.leaves(row.params):
            return str(leaf.dtype).rpartition(".")[2]
    try:
        return get_backend().dtype
    except (BackendUnavailableError, ValueError):  # of PORTNET_BACKEND: no reason not to print
        return "float32"


def _aligned(head: Sequence[str], table: Table, right: Sequence[int] = ()) -> list[str]:
    """Return the lines of a table; columns of the numbers in `right` are aligned right."""
    widths = [max(map(len, column)) for column in zip(head, *table, strict=True)]
    lines = []
    for line in (head, *table):
        cells = [
            f"{cell:>{w}}" if j in right else f"{cell:<{w}}"
            for j, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


HEAD = "layer", "output", "parameters", "count"


def layers_text(rows: Sequence[LayerRow]) -> str:
    """Return the table of `layer_rows` as text, with its sums."""
    lines = _aligned(HEAD, _layer_table(rows), right=[3])
    return "\n".join([*lines, totals_text(rows)])


class Summarized:
    """The base class of layers: `summary`, and the same table in notebooks.

    Examples
    --------
    >>> import portnet
    >>> portnet.Residual(portnet.Dense(4)).summary(n_in=4)
    layer       output     parameters          count
    inputs      (rows, 4)
    Residual
      Dense(4)  (rows, 4)  W (4, 4), b (1, 4)     20
    20 parameters, 80 B as float32; 4 outputs of layers for each row, 16 B
    """

    def summary(self, n_in: int | None = None, params: Params = None) -> None:
        """Print the layers, the shapes of their outputs and parameters, and the memory.

        `n_in` is needed where the model does not define it; `params`, any arrays of the shapes of
        the parameters, say in which dtype they are.
        """
        print(model_text(self, n_in, params))  # noqa: T201

    def _repr_html_(self) -> str | None:
        return model_html(self)


def model_text(model: Any, n_in: int | None = None, params: Params = None) -> str:
    """Return the summary of a model as text: see `portnet.Chain.summary`."""
    return layers_text(layer_rows(model, params, n_in))


def network_text(rows: Sequence[LayerRow], width: int = 60) -> str:
    """Return the layers on one line: ``2 inputs, Dense(8), Tanh(), Dense(1)``.

    Layers in the middle are left out where they are too many.
    """
    inputs = "1 input" if rows[0].n_out == 1 else f"{rows[0].n_out} inputs"
    names = [row.name for row in rows[1:]]
    while len(text := ", ".join([inputs, *names])) > width and len(names) > 3:
        middle = len(names) // 2
        names[middle - 1 : middle + 2] = ["..."]
    return text


def _last_values(history: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name} {_number(v[-1])}" for name, v in history.items() if len(v))


def _epochs(run: Any) -> str:
    return _count(run.epoch, "epoch")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _where(run: Any) -> str:
    return f"{run.backend}, {run.backend.dtype}"


def run_line(run: Any) -> str:
    """Return a run on one line: its `repr`."""
    parts = [_epochs(run), _last_values(run.history)]
    if run.best_epoch is not None:
        parts.append(f"best epoch {run.best_epoch}")
    done = ", ".join(filter(None, parts))
    return f"Run({_network(run)[0]}; {done}; {_where(run)})"


def _network(run: Any) -> tuple[str, str]:
    """Return the layers of a run on one line, and the size of its parameters; never raise."""
    try:
        rows = layer_rows(run)
    except Exception:
        return shorten(run.trainer.model, 60), ""
    totals = totals_text(rows).partition(";")[0]
    return network_text(rows), re.sub(" parameters?", "", totals)


def _facts(run: Any) -> list[tuple[str, str]]:
    network, parameters = _network(run)
    trainer = run.trainer
    facts = [
        ("network", network),
        ("parameters", parameters),
        ("loss", shorten(trainer.loss, 80)),
        ("optimizer", shorten(trainer.optimizer, 80)),
        ("last epoch", _last_values(run.history) or "none yet"),
    ]
    if run.best_epoch is not None:
        monitor = run._monitors["early_stopping"]
        facts.append(("best epoch", f"{monitor.epoch}: {monitor.monitor} {_number(monitor.best)}"))
    if run.stopped:
        facts.append(("stopped", run.stopped))
    if run.classes is not None:
        facts.append(("classes", shorten(run.classes.tolist(), 80)))
    return [*facts, ("backend", _where(run))]


def run_text(run: Any) -> str:
    """Return a run as text of a few lines: what `print` shows."""
    facts = [(f"  {name}", text) for name, text in _facts(run) if text]
    width = max(len(name) for name, _ in facts)
    return "\n".join([f"run of {_epochs(run)}", *(f"{n:<{width}}  {t}" for n, t in facts)])


def run_summary(run: Any) -> str:
    """Return a run as text, with the table of its layers and the memory of its parts."""
    rows = layer_rows(run)
    state = _shapes([leaf for leaf in tree.leaves(run.state) if hasattr(leaf, "dtype")])[1]
    memory = f"state of the optimizer: {bytes_text(state)}"
    return "\n".join([run_text(run), "", layers_text(rows), memory])


def estimator_text(estimator: Any) -> str:
    """Return a fitted MLPClassifier or MLPRegressor as text, with the table of its layers."""
    networks = getattr(estimator, "estimators_", [])
    if networks:
        name = f"{type(estimator).__name__} of {len(networks)} networks; the first one:"
        return f"{name}\n\n{estimator_text(networks[0])}"
    rows = layer_rows(estimator)
    facts = [
        ("solver", f"{estimator.solver}, {_count(estimator.n_iter_, 'iteration')}"),
        ("loss", _number(estimator.loss_) if hasattr(estimator, "loss_") else ""),
    ]
    scores = getattr(estimator, "validation_scores_", None)
    if scores:
        facts.append(("best validation score", _number(max(scores))))
    if hasattr(estimator, "classes_"):
        several = isinstance(estimator.classes_, list)  # heads
        names = [c.tolist() for c in (estimator.classes_ if several else [estimator.classes_])]
        facts.append(("classes", shorten(names if several else names[0], 80)))
    facts.append(("backend", str(backend_of(estimator.coefs_[0]))))
    facts = [(f"  {name}", text) for name, text in facts if text]
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {text}" for name, text in facts]
    return "\n".join([type(estimator).__name__, *lines, "", layers_text(rows)])


# Histories --------------------------------------------------------------------------------------


def _history_table(
    history: Mapping[str, Sequence[float]],
) -> tuple[int, list[str], list[list[str]]]:
    """Return the number of epochs, the head and the lines: the first epoch, and the last ones."""
    epochs = max(map(len, history.values()), default=0)
    last = range(max(epochs - LAST, 0), epochs)
    shown = list(last) if epochs <= LAST + 2 else [0, -1, *last]
    shown = list(range(epochs)) if epochs <= LAST + 2 else shown

    def line(k: int) -> list[str]:
        if k < 0:
            return ["..."] * (1 + len(history))
        numbers = [_number(v[k]) if k < len(v) else "nan" for v in history.values()]
        return [str(k + 1), *numbers]

    return epochs, ["epoch", *map(str, history)], [line(k) for k in shown]


def history_text(history: Mapping[str, Sequence[float]]) -> str:
    """Return a history as a table of its first and its last epochs."""
    epochs, head, table = _history_table(history)
    if not epochs:
        return "History of no epochs"
    count = "1 epoch" if epochs == 1 else f"{epochs} epochs; to_dict() has every number"
    return "\n".join([f"History of {count}", *_aligned(head, table, right=range(len(head)))])


# HTML -------------------------------------------------------------------------------------------


def _html_table(head: Sequence[str], table: Table, right: Sequence[int] = ()) -> str:
    """Return a table as HTML; notebooks have their own style of tables."""

    def cells(line: Sequence[str], tag: str) -> str:
        style = [f' style="text-align: {"right" if j in right else "left"}"' for j in range(9)]
        found = []
        for j, cell in enumerate(line):
            text = escape(cell.lstrip())
            indent = "&emsp;" * ((len(cell) - len(cell.lstrip())) // 2)
            found.append(f"<{tag}{style[min(j, 8)]}>{indent}{text}</{tag}>")
        return f"<tr>{''.join(found)}</tr>"

    body = "".join(cells(line, "td") for line in table)
    top = f"<thead>{cells(head, 'th')}</thead>" if head else ""
    return f"<table>{top}<tbody>{body}</tbody></table>"


def table_html(
    title: str, head: Sequence[str] = (), table: Table = (), right: Sequence[int] = ()
) -> str:
    """Return a title, and below it a table if it has lines, as HTML."""
    shown = _html_table(head, table, right) if table else ""
    return f"<div><p><b>{escape(title)}</b></p>{shown}</div>"


def layers_html(rows: Sequence[LayerRow]) -> str:
    """Return the table of `layer_rows` as HTML, with its sums."""
    table = _html_table(HEAD, _layer_table(rows), right=[3])
    return f"<div>{table}<p>{escape(totals_text(rows))}</p></div>"


def model_html(model: Any) -> str | None:
    """Return the summary of a model as HTML; None, for its repr, where inputs are not known."""
    try:
        return layers_html(layer_rows(model))
    except Exception:  # n_in is not known, or layers do not fit: a notebook shows the repr
        return None


def trainer_html(trainer: Any) -> str:
    """Return a trainer as HTML: its loss, its optimizer, its options and its layers."""
    fields = [name for name in trainer.__dataclass_fields__ if name not in ("model", "params")]
    facts = [[name, shorten(getattr(trainer, name), 80)] for name in fields]
    table = _html_table((), facts)
    layers = model_html(trainer.model) or f"<p>{escape(shorten(trainer.model, 200))}</p>"
    return f"<div><p><b>{type(trainer).__name__}</b></p>{table}{layers}</div>"


def predictor_html(predictor: Any) -> str:
    """Return an estimator that was opened without scikit-learn as HTML: its class and layers."""
    title = escape(f"{predictor.name} on {predictor.backend}, {predictor.backend.dtype}")
    return f"<div><p><b>{title}</b></p>{layers_html(layer_rows(predictor))}</div>"


def table_model_html(model: Any, columns: str) -> str:
    """Return a model of a table as HTML: its target, its columns, and the layers to unfold."""
    classes = model.classes_
    what = "a number" if classes is None else shorten(classes.tolist(), 80)
    facts = [
        ("predicts", f"{model.target}: {what}"),
        ("from", f"{columns}: {shorten(list(model.columns), 160)}"),
        ("network", type(model.estimator).__name__),
    ]
    layers = layers_html(layer_rows(model.estimator))
    table = _html_table((), [list(fact) for fact in facts])
    folded = f"<details><summary>layers</summary>{layers}</details>"
    return f"<div><p><b>Model of a table</b></p>{table}{folded}</div>"


def history_html(history: Mapping[str, Sequence[float]]) -> str:
    """Return a history as HTML: a table of its first and its last epochs."""
    _, head, table = _history_table(history)
    return table_html(history_text(history).partition("\n")[0], head, table, range(len(head)))


def run_html(run: Any) -> str:
    """Return a run as HTML: what `print` shows, its layers and its history to unfold."""
    facts = _html_table((), [[f"{name}", text] for name, text in _facts(run) if text])
    try:
        layers = layers_html(layer_rows(run))
    except Exception:  # a layer of a user's own: see `_network`
        layers = ""
    parts = [("layers", layers), ("history", history_html(run.history) if run.epoch else "")]
    folded = "".join(
        f"<details><summary>{name}</summary>{html}</details>" for name, html in parts if html
    )
    return f"<div><p><b>Run of {_epochs(run)}</b></p>{facts}{folded}</div>"
