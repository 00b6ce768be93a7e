"""A training step, quantity by quantity: each with its name, its formula, its shape and its value.

The names are those of notebooks: z1 = x @ W1 + b1 is the output of the first Dense, a1 that of its
activation; y_k is the output of any other layer, the k-th one. dz1, dW1 are the gradients of the
loss with respect to z1, W1; uW1 is the update of W1, and W1_new = W1 + uW1.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from . import rng, tree
from ._typing import Array, ArrayLike, Host, Params, State
from ._validation import (
    FORWARD_CALL,
    LOSS_CALL,
    check_methods,
    check_pair,
    check_signature,
    name_of,
    resolve,
)
from .backend import Backend, backend_of, get_backend, to_numpy
from .data import checks
from .layers import ACTIVATIONS, Dense, Layer
from .losses import LOSSES, Loss
from .optimizers import OPTIMIZERS, Optimizer
from .recording import Record, recorded
from .training import make_step

__all__ = ["ExplainedStep", "Quantity", "explain_step"]

LARGEST = 1_000_000  # parameters, or numbers in x: more are no step to read
SHOWN = 64  # numbers of an array that Markdown shows one by one


@dataclass(frozen=True, eq=False)
class Quantity:
    """A quantity of a training step.

    Attributes
    ----------
    name : str
        Such as "dW1".
    formula : str
        How it is computed, such as "dW1 = x.T @ dz1".
    value : array
        Of any shape, in the library of the parameters.
    part : str
        "given", "forward", "loss", "backward", "update" or "new parameters".
    source : str
        What computed it, such as "layers[0] Dense(8)".

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.step_by_step import Quantity
    >>> Quantity("a1", "a1 = tanh(z1)", np.zeros((4, 2)), "forward", "layers[1] Tanh()").shape
    (4, 2)
    """

    name: str
    formula: str
    value: Array
    part: str
    source: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(self.value.shape)


@dataclass(frozen=True, eq=False)
class ExplainedStep:
    """One training step: its quantities in the order in which they are computed.

    ``print(step)`` is a table, `markdown` has the numbers; ``step["dW1"]`` is the value of one
    quantity, an array of any shape.

    Attributes
    ----------
    quantities : tuple of Quantity
    params, state : pytrees of arrays
        After the step, as `portnet.make_step` returns them.
    loss : 0-d array
        Before the update.

    Examples
    --------
    >>> import portnet
    >>> net, x, y = portnet.mlp([1, 1]), [[1.0], [2.0]], [[3.0], [6.0]]
    >>> step = portnet.explain_step(net, "squared_error", "sgd", portnet.init(net), x, y)
    >>> step["z1"].shape, [quantity.name for quantity in step if quantity.part == "update"]
    ((2, 1), ['uW1', 'ub1'])
    """

    quantities: tuple[Quantity, ...]
    params: Params
    state: State
    loss: Array

    def __iter__(self) -> Iterator[Quantity]:
        return iter(self.quantities)

    def __len__(self) -> int:
        return len(self.quantities)

    def __getitem__(self, name: str) -> Any:
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity.value
        names = ", ".join(quantity.name for quantity in self.quantities)
        raise KeyError(f"unknown quantity {name!r}. The names are {names}")

    def __str__(self) -> str:
        rows = [(q.name, _size(q.shape), _range(q.value), q.formula) for q in self.quantities]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines, part = list[str](), ""
        for quantity, row in zip(self.quantities, rows, strict=True):
            if quantity.part != part:
                part = quantity.part
                lines += [""] * bool(lines) + [part.upper()]
            cells = [cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)]
            source = f"   [{quantity.source}]" if quantity.source else ""
            lines.append(f"  {'  '.join(cells).rstrip()}{source}")
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return tables in Markdown, with the numbers of arrays of up to 64 elements.

        Of larger ones they have the smallest and the largest number.
        """
        lines, part = list[str](), ""
        for q in self.quantities:
            if q.part != part:
                part = q.part
                lines += [""] * bool(lines) + [f"**{part[0].upper()}{part[1:]}**", ""]
                lines += ["| | shape | formula | value |", "|---|---|---|---|"]
            formula = f"`{q.formula}`" + (f" ({q.source})" if q.source else "")
            cells = (f"`{q.name}`", _size(q.shape), formula, _numbers(q.value))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def __repr__(self) -> str:
        return f"<a training step of {len(self)} quantities, loss {float(self.loss):.4g}: print it>"


def explain_step(
    model: Layer,
    loss: str | Loss,
    optimizer: str | Optimizer,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    state: State = None,
    *,
    weight: ArrayLike = None,
    key: rng.Key | None = None,
) -> ExplainedStep:
    """Make one training step, and return every quantity of it in order, by name.

    The numbers are those of `portnet.make_step`. Nothing that is given is changed.

    Parameters
    ----------
    model : layer
    loss, optimizer : str or object
        As in `portnet.Trainer`; L-BFGS makes no such steps.
    params : pytree of arrays
        As `portnet.init` returns them, or those of a run. At most a million numbers.
    x : (rows, n_in)
        A batch.
    y : (rows,) or (rows, n_out)
        Its targets.
    state : pytree of arrays, optional
        The optimizer's; by default that before the first step.
    weight : (rows,), optional
        The weights of the rows in the loss.
    key : rng.Key, optional
        Determines the random numbers of Dropout; without it Dropout does nothing.

    Returns
    -------
    ExplainedStep
        ``print`` shows a table, a notebook the numbers, and ``step["dW1"]`` is one of the arrays.

    Raises
    ------
    ValueError
        for more than a million parameters, or numbers in x.
    DataError, ShapeError, TypeError
        as in training.

    Examples
    --------
    >>> import portnet
    >>> net, x, y = portnet.mlp([1, 1]), [[1.0], [2.0]], [[3.0], [6.0]]
    >>> params = portnet.tree.map(lambda p: 0 * p, portnet.init(net))
    >>> step = portnet.explain_step(net, "squared_error", portnet.SGD(0.5), params, x, y)
    >>> for quantity in step:
    ...     if quantity.part in ("backward", "update"):
    ...         print(quantity.formula, "=", float(quantity.value[0, 0]))
    dW1 = x.T @ dz1 = -7.5
    db1 = the sum of the rows of dz1 = -4.5
    uW1 = -lr dW1 = 3.75
    ub1 = -lr db1 = 2.25
    """
    loss = resolve("loss", loss, LOSSES)
    optimizer = resolve("optimizer", optimizer, OPTIMIZERS)
    check_methods("a model", model, ("init", "forward", "backward"))
    check_signature(f"forward of {name_of(model)}", model.forward, *FORWARD_CALL)
    check_methods("a loss(pred, target, weight)", loss, ("__call__",))
    check_signature("a loss", loss, *LOSS_CALL)
    check_methods("an optimizer", optimizer, ("init", "update"))
    leaves = tree.leaves(params)
    _refuse_large("the network has", sum(prod(np.shape(p)) for p in leaves), "parameters")
    _refuse_large("x has", prod(getattr(x, "shape", None) or np.shape(x)), "numbers")
    arrays = [p for p in leaves if hasattr(p, "dtype")]
    backend = backend_of(arrays[0]) if arrays else get_backend()
    with backend.active():
        x = checks.features(x, backend, name="x")
        weight = checks.row_weights(weight, backend, rows=x.shape[0], name="weight")
        copy, records = recorded(model)
        of_loss, of_update = _RecordedLoss(loss, backend), _RecordedUpdate(optimizer)
        state = optimizer.init(params) if state is None else state
        step = make_step(copy, of_loss, of_update)
        new, state, value = step(params, state, x, y, weight, key)
    y, updates = of_loss.target, of_update.updates
    names = _Names(records)
    found = [Quantity("x", "x: the inputs, a row for each sample", x, "given")]
    found.append(Quantity("y", "y: the targets", y, "given"))
    if weight is not None:
        found.append(Quantity("w", "w: the weights of the rows", weight, "given"))
    found += names.of_params()
    found += [
        Quantity(names.outputs[i], names.forward(i), record.y, "forward", names.sources[i])
        for i, record in enumerate(records)
    ]
    found += _of_loss(loss, names.outputs[-1] if records else "x", y, weight, value, of_loss.dpred)
    for i in reversed(range(len(records))):
        found += names.backward(i)
    found += names.of_updates(optimizer, updates, new)
    return ExplainedStep(tuple(found), new, state, value)


class _RecordedLoss:
    """A loss that checks the targets, and keeps them and the gradient."""

    def __init__(self, loss: Any, backend: Backend) -> None:
        self.loss, self.backend = loss, backend
        self.target: Any = None
        self.dpred: Any = None

    def __call__(
        self, pred: Array, target: ArrayLike, weight: Array | None = None
    ) -> tuple[Array, Array]:
        """Return value, dpred."""
        rows, outputs = pred.shape[0], pred.shape[-1]
        self.target = checks.targets(target, self.backend, self.loss, rows=rows, outputs=outputs)
        value, self.dpred = self.loss(pred, self.target, weight)
        return value, self.dpred


class _RecordedUpdate:
    """An optimizer that keeps its updates."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.updates: Params = None

    def __repr__(self) -> str:
        return name_of(self.optimizer)

    def init(self, params: Params) -> State:
        """Return the state before the first step."""
        return self.optimizer.init(params)

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Return updates, state."""
        pair = self.optimizer.update(grads, state, params)
        self.updates, state = check_pair(self.optimizer, "update", "updates, state", pair)
        return self.updates, state


def _refuse_large(what: str, count: int, of: str) -> None:
    if count > LARGEST:
        raise ValueError(
            f"explain_step: {what} {count:,} {of}, and every quantity of the step is kept: give a "
            f"smaller network of the same layers, and a few rows (at most {LARGEST:,} {of})"
        )


class _Names:
    """The names and formulas of the quantities of layers."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.inputs, self.outputs = list[str](), list[str]()
        self.params = list[list[str]]()  # of each layer
        self.sources = [f"{r.path} {name_of(r.layer)}".strip() for r in records]
        taken, k, last = set[str](), 0, "x"
        elementwise = tuple({type(layer) for layer in ACTIVATIONS.values()})
        for i, record in enumerate(records, start=1):
            number, output = f"_{i}", f"y_{i}"
            if isinstance(record.layer, Dense):
                k += 1
                number, output = str(k), f"z{k}"
            elif k and f"a{k}" not in taken and isinstance(record.layer, elementwise):
                output = f"a{k}"
            taken.add(output)
            self.params.append([key + number + rest for key, rest in _keys(record.params)])
            self.inputs.append(last)
            self.outputs.append(output)
            last = output

    def of_params(self) -> list[Quantity]:
        """Return the parameters that are given."""
        return [
            Quantity(name, f"{name}: parameters", value, "given", source)
            for names, record, source in zip(self.params, self.records, self.sources, strict=True)
            for name, value in zip(names, tree.leaves(record.params), strict=True)
        ]

    def _substituted(self, i: int, text: str) -> str:
        """Return an equation of layer i with the names of its quantities."""
        keys = _keys(self.records[i].params)
        pairs = zip(keys, self.params[i], strict=True)
        names = {key: name for (key, rest), name in pairs if not rest}
        names |= {"x": self.inputs[i], "y": self.outputs[i]}
        names |= {"dx": f"d{self.inputs[i]}", "dy": f"d{self.outputs[i]}"}
        return _renamed(text, names)

    def forward(self, i: int) -> str:
        """Return the formula of the output of layer i, from its docstring where it says y = ..."""
        equation = _after(r"^y = ", _equations(self.records[i].layer))
        if equation:
            return self._substituted(i, f"y = {equation}")
        name = type(self.records[i].layer).__name__
        return f"{self.outputs[i]} = {name}({', '.join([self.inputs[i], *self.params[i]])})"

    def backward(self, i: int) -> list[Quantity]:
        """Return the gradients that layer i computes: of its parameters, and of its input."""
        record, source, output = self.records[i], self.sources[i], self.outputs[i]
        name, text = type(record.layer).__name__, _equations(record.layer)
        dense = type(record.layer).backward is Dense.backward
        by_layer = f"from {name}.backward(d{output})"
        found = []
        for param, value in zip(self.params[i], tree.leaves(record.dparams), strict=True):
            formula = by_layer
            if dense:
                rows = f"the sum of the rows of d{output}"
                formula = rows if param.startswith("b") else f"{self.inputs[i]}.T @ d{output}"
            found.append(Quantity(f"d{param}", f"d{param} = {formula}", value, "backward", source))
        if i == 0:  # nothing needs the gradient of the inputs
            return found
        derivative, dx = _after(r"(?:\by'|dy/dx) = ", text), _after(r"\bdx = ", text)
        formula = by_layer
        if dense:
            formula = f"d{output} @ {next(p for p in self.params[i] if p.startswith('W'))}.T"
        elif derivative:
            of_y = self._substituted(i, derivative)
            formula = f"d{output} {output}',  {output}' = {of_y}"
        elif dx:
            formula = self._substituted(i, dx)
        d_input = f"d{self.inputs[i]}"
        found.append(Quantity(d_input, f"{d_input} = {formula}", record.dx, "backward", source))
        return found

    def of_updates(self, optimizer: Optimizer, updates: Params, new: Params) -> list[Quantity]:
        """Return the updates and the new parameters."""
        names = [name for names in self.params for name in names]
        parts = getattr(optimizer, "parts", (optimizer,))
        found, source = [], name_of(parts[-1])
        sentence = re.split(r"\.(?:\s|$)|: ", _equations(parts[-1]))[0]
        for name, update in zip(names, tree.leaves(updates), strict=True):
            formula = f"u{name} = {type(optimizer).__name__}.update of d{name}"
            if re.search(r"\bu = ", sentence):
                g = f"d{name}" if len(parts) == 1 else "g"
                formula = _renamed(sentence, {"u": f"u{name}", "g": g, "param": name})
                if len(parts) > 1:
                    before = ", ".join(name_of(part) for part in parts[:-1])
                    formula += f",  g = d{name} after {before}"
            found.append(Quantity(f"u{name}", formula, update, "update", source))
        for name, value in zip(names, tree.leaves(new), strict=True):
            formula = f"{name}_new = {name} + u{name}"
            found.append(Quantity(f"{name}_new", formula, value, "new parameters"))
        return found


def _of_loss(
    loss: Any, pred: str, y: Array, weight: Array | None, value: Array, dpred: Array
) -> list[Quantity]:
    """Return the loss and its gradient with respect to the last output."""
    text, source = _equations(loss), name_of(loss)
    of_row = _after(r"^l = ", text)
    gradient = _after(r"\bdl/d(?:pred|z) (?:=|is) ", text)
    reduction = getattr(loss, "reduction", None)
    name = getattr(loss, "__name__", type(loss).__name__)
    formula, d_formula = f"loss = {name}({pred}, y)", f"d{pred} = its gradient, from {name}"
    if of_row and reduction in ("mean", "sum"):
        target = "y" if y.ndim == 2 else "t"
        names = {"pred": pred, "z": pred, "target": target, "t": target}
        one_hot = "" if y.ndim == 2 else ",  t = y as one-hot rows"
        sums = {"mean": "sum(w l) / sum(w)", "sum": "sum(w l)"}
        if weight is None:
            sums = {"mean": "the mean of l over the rows", "sum": "the sum of l over the rows"}
        formula = f"loss = {sums[reduction]},  l = {_renamed(of_row, names)}{one_hot}"
        if gradient:
            by = "(w / sum(w))" if reduction == "mean" else "w"
            if weight is None:
                by = "(1 / rows)" if reduction == "mean" else ""
            d_formula = f"d{pred} = {by + ' ' * bool(by)}dl/d{pred},  dl/d{pred} = "
            d_formula += _renamed(gradient, names)
    return [
        Quantity("loss", formula, value, "loss", source),
        Quantity(f"d{pred}", d_formula, dpred, "loss", source),
    ]


def _keys(params: Params) -> list[tuple[str, str]]:
    """Return the key of each parameter of a layer, and a suffix for those of layers within it."""
    paths = [re.findall(r"\w+", path) or ["params"] for path in tree.paths(params)]
    names = ["param_y" if path[-1] == "y" else path[-1] for path in paths]  # y_1 is an output
    return [
        (name, "".join(f"_{part}" for part in path[:-1]))
        for name, path in zip(names, paths, strict=True)
    ]


# Text -------------------------------------------------------------------------------------------


def _equations(thing: object) -> str:
    """Return the first paragraphs of a docstring, in one line: the equations are there."""
    text = getattr(thing if hasattr(thing, "__name__") else type(thing), "__doc__", None) or ""
    return re.split(r" (?:Parameters|Notes|Examples|Attributes) -{3}| Shapes: ", _one_line(text))[0]


def _after(start: str, text: str) -> str:
    """Return what follows `start` in a docstring, until the end of the clause; "" if nothing."""
    found = re.search(start + r"(.+?)(?:;|\.\s|\.$|$)", text)
    return re.sub(r" \([A-Z]\w+ (?:et al|and\b).*", "", found[1]) if found else ""


def _renamed(text: str, names: dict[str, str]) -> str:
    """Return an equation with other names; z also stands in z_j, but x not in x_hat."""
    either = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return re.sub(rf"\b({either})(?=\b|_[a-z]\b)", lambda m: names[m[1]], text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _size(shape: tuple[int, ...]) -> str:
    return str(shape) if shape else "0-d"


def _range(value: Array) -> str:
    """Return the number of an array, or the smallest and the largest."""
    host = to_numpy(value)
    if not host.size:
        return "empty"
    low, high = f"{host.min():.4g}", f"{host.max():.4g}"
    return low if low == high else f"{low} to {high}"


def _numbers(value: Array) -> str:
    """Return the numbers of a small array for a cell of a table, a line for each row."""
    host: Host = to_numpy(value)
    if not 0 < host.size <= SHOWN or host.ndim > 2:
        return _range(value)
    lines = [" ".join(f"{number:.4g}" for number in row) for row in np.atleast_2d(host)]
    return "<br>".join(f"`{line}`" for line in lines)
