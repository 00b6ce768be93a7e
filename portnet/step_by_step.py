"""A training step, quantity by quantity: each with its name, its formula, its shape and its value.

`step_formulas` has the names.
"""

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
from .backend import Backend, ShapeError, backend_of, get_backend, to_numpy
from .data import checks
from .layers import Layer
from .lbfgs import LBFGS
from .losses import LOSSES, Loss
from .optimizers import OPTIMIZERS, Optimizer
from .recording import recorded, recorded_optimizer
from .step_formulas import Names, Quantity, of_loss, of_updates
from .training import make_step

__all__ = ["ExplainedStep", "explain_step"]

LARGEST = 1_000_000  # parameters, or numbers in x: more are no step to read
SHOWN = 64  # numbers of an array that Markdown shows one by one


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
        for quantity, row, source in zip(self.quantities, rows, self._sources(), strict=True):
            if quantity.part != part:
                part = quantity.part
                lines += [""] * bool(lines) + [part.upper()]
            cells = [cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)]
            source = f"   [{source}]" if source else ""
            lines.append(f"  {'  '.join(cells).rstrip()}{source}")
        return "\n".join(lines)

    def _sources(self) -> list[str]:
        """Return what computed each quantity; "" where that is as in the line before."""
        before = ["", *(q.source for q in self.quantities)]
        return [
            q.source if q.source != last else ""
            for q, last in zip(self.quantities, before, strict=False)
        ]

    def markdown(self) -> str:
        """Return tables in Markdown, with the numbers of arrays of up to 64 elements.

        Of larger ones they have the smallest and the largest number.
        """
        lines, part = list[str](), ""
        for q, source in zip(self.quantities, self._sources(), strict=True):
            if q.part != part:
                part = q.part
                lines += [""] * bool(lines) + [f"**{part[0].upper()}{part[1:]}**", ""]
                lines += ["| | shape | formula | value |", "|---|---|---|---|"]
            formula = f"`{q.formula}`" + (f" ({source})" if source else "")
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
    if isinstance(optimizer, LBFGS) or optimizer == "lbfgs":
        raise TypeError(
            "explain_step: L-BFGS makes no single steps: each of its iterations evaluates the loss "
            "several times. Give another optimizer, such as portnet.SGD(0.1)"
        )
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
        copy, records = recorded(model, inside=True)
        recorded_loss = _RecordedLoss(loss, backend)
        copy_of_optimizer, parts = recorded_optimizer(optimizer)
        state = optimizer.init(params) if state is None else state
        step = make_step(copy, recorded_loss, copy_of_optimizer)
        new, state, value = step(params, state, x, y, weight, key)
    y, names = recorded_loss.target, Names(records)
    found = [Quantity("x", "x: the inputs, a row for each sample", x, "given")]
    found.append(Quantity("y", "y: the targets", y, "given"))
    if weight is not None:
        found.append(Quantity("w", "w: the weights of the rows", weight, "given"))
    found += [*names.of_params(), *names.forward()]
    found += of_loss(loss, names.last, y, weight, value, recorded_loss.dpred)
    found += [*names.backward(), *of_updates(names.of_all_params, params, parts, new)]
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
        pair = self.loss(pred, self.target, weight)
        value, self.dpred = check_pair(self.loss, "a call", "value, dpred", pair)
        if np.shape(self.dpred) != tuple(pred.shape):
            raise ShapeError(
                f"{name_of(self.loss)}: expected dpred of shape {tuple(pred.shape)}, as that of "
                f"pred, got {np.shape(self.dpred)}"
            )
        return value, self.dpred


def _refuse_large(what: str, count: int, of: str) -> None:
    if count > LARGEST:
        raise ValueError(
            f"explain_step: {what} {count:,} {of}, and every quantity of the step is kept: give a "
            f"smaller network of the same layers, and a few rows (at most {LARGEST:,} {of})"
        )


# Text -------------------------------------------------------------------------------------------


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
