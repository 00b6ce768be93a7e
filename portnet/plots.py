"""Plots: the curves of runs, networks, the predictions of a model in the plane, small images.

Only this file imports matplotlib (extra ``plot``), when a plot is drawn. Each function draws in the
Axes `ax`, or in a new figure of pyplot, which notebooks show by themselves and scripts with
``plt.show()``, and returns the Axes: ``ax.set_title(...)`` changes the plot, and
``ax.figure.savefig("loss.png")`` writes it to a file. Where an argument is refused, nothing is
drawn.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ._typing import ArrayLike, Host, Params
from ._validation import check_choice, how_to_install
from .backend import backend_of, is_host, to_numpy
from .summary import LayerRow, layer_rows, shorten, totals_text

__all__ = [
    "compare",
    "curves",
    "decision_boundary",
    "history",
    "images",
    "learning_rates",
    "network",
]

Axes = Any  # matplotlib's
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _without_path(function: _Function) -> _Function:
    """Return a function that refuses a path as its first argument, which it took before."""

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        first = args[0] if args else options.get("path")
        if isinstance(first, str | PathLike):
            name = function.__name__
            raise TypeError(
                f"{name} takes no path: it returns matplotlib's Axes. Write "
                f"ax = plots.{name}(...), then ax.figure.savefig({str(first)!r})"
            )
        return function(*args, **options)

    return checked  # type: ignore[return-value]


# Curves -----------------------------------------------------------------------------------------


@_without_path
def curves(
    lines: Mapping[str, Sequence[float]],
    *,
    title: str = "",
    ylabel: str = "loss",
    log: bool = False,
    levels: Mapping[str, float] | None = None,
    ax: Axes = None,
) -> Axes:
    """Draw a line for each named sequence over the epochs 1, 2, ...

    Parameters
    ----------
    lines : dict of sequences
        Name: one number for each epoch.
    title, ylabel : str
    log : bool
        Whether the vertical axis is logarithmic.
    levels : dict of floats, optional
        Name: height of a dashed line.
    ax : matplotlib Axes, optional
        Where to draw; by default in a new figure.

    Examples
    --------
    >>> from portnet import plots
    >>> ax = plots.curves({"training": [0.9, 0.4, 0.2]}, log=True)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('epoch', 'loss')
    """
    ax = _axes(ax)
    for name, numbers in lines.items():
        _draw_curve(ax, numbers, label=name)
    for (name, height), style in zip((levels or {}).items(), ("--", ":", "-."), strict=False):
        ax.axhline(height, color="black", linestyle=style, linewidth=1, label=name)
    return _finish_curves(ax, title, ylabel, log)


@_without_path
def history(
    run: Any, metric: str = "loss", *, title: str = "", log: bool = False, ax: Axes = None
) -> Axes:
    """Draw the training and the validation curve of a metric: ``run.plot()``.

    The best epoch of early stopping is marked. Where the learning rate changes, by a schedule or on
    a plateau, it is drawn on an axis on the right.

    Parameters
    ----------
    run : Run, its history, or an estimator fitted by sgd or adam
        The metric "score" of an estimator is that of early stopping.
    metric : str
        A name of the history: "loss" also draws "validation_loss".
    title : str
    log : bool
        Whether the vertical axis is logarithmic.
    ax : matplotlib Axes, optional
        Where to draw; by default in a new figure.

    Examples
    --------
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error")
    >>> run = trainer.fit([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0], epochs=5, validation=0.4)
    >>> ax = run.plot()
    >>> [line.get_label() for line in ax.lines]
    ['training', 'validation']
    """
    found = _curves_of(run, metric)
    best, rate = getattr(run, "best_epoch", None), _learning_rate(run)
    ax = _axes(ax)
    for name, numbers in found.items():
        _draw_curve(ax, numbers, label=name)
    if best is not None:
        ax.axvline(best, color="black", linestyle=":", linewidth=1, label=f"best epoch {best}")
    if rate is not None:
        label, at, values = rate
        right = ax.twinx()
        right.set_ylabel(label, color="gray")
        right.tick_params(axis="y", colors="gray")
        right.plot(at, values, color="gray", linewidth=1, label=label, drawstyle="steps-mid")
        if min(values) > 0 and max(values) > 20 * min(values):
            right.set_yscale("log")
        right.set_zorder(ax.get_zorder() - 1)  # behind the curves
        ax.patch.set_visible(False)
    return _finish_curves(ax, title, metric, log)


@_without_path
def compare(
    runs: Mapping[str, Any] | Iterable[Any],
    metric: str = "loss",
    *,
    title: str = "",
    log: bool = False,
    ax: Axes = None,
) -> Axes:
    """Draw the curves of a metric of several runs in one plot, each run in its colour.

    Where a run has a validation curve, that is solid, and its training curve dashed; its best epoch
    under early stopping is a dot.

    Parameters
    ----------
    runs : dict of runs, or list of runs
        Names and runs, histories or fitted estimators; those of a list are "run 1", "run 2", ...
    metric : str
        A name of the histories: "loss" also draws "validation_loss".
    title : str
    log : bool
        Whether the vertical axis is logarithmic.
    ax : matplotlib Axes, optional
        Where to draw; by default in a new figure.

    Examples
    --------
    >>> import portnet
    >>> X, y, net = [[1.0], [2.0]], [1.0, 2.0], portnet.mlp([1, 1])
    >>> runs = {
    ...     f"lr {lr}": portnet.Trainer(net, "squared_error", portnet.SGD(lr)).fit(X, y)
    ...     for lr in (0.1, 0.01)
    ... }
    >>> ax = portnet.plots.compare(runs)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['lr 0.1', 'lr 0.01']
    """
    named = _named_runs(runs)
    found = {name: _curves_of(run, metric, f"{name}: ") for name, run in named.items()}
    ax = _axes(ax)
    colours, several = _colours(len(named)), False
    for (name, lines), colour in zip(found.items(), colours, strict=True):
        *before, (_, last) = lines.items()
        for _, numbers in before:
            _draw_curve(ax, numbers, color=colour, alpha=0.7, linestyle="--", marker=None)
            several = True
        _draw_curve(ax, last, color=colour, label=name)
        best = getattr(named[name], "best_epoch", None)
        if best is not None:
            ax.plot([best], [last[best - 1]], marker="o", markersize=8, color=colour)
    ax = _finish_curves(ax, title, metric, log)
    if several:
        ax.get_legend().set_title("solid: validation, dashed: training")
    return ax


def _draw_curve(ax: Axes, numbers: Sequence[float], **style: Any) -> None:
    style = {"marker": "o" if len(numbers) <= 30 else None, "markersize": 4, **style}
    ax.plot(range(1, len(numbers) + 1), numbers, **style)


def _finish_curves(ax: Axes, title: str, ylabel: str, log: bool) -> Axes:
    from matplotlib.ticker import MaxNLocator

    whole = {"integer": True, "min_n_ticks": 1}
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], **whole))
    ax.set(title=title, xlabel="epoch", ylabel=ylabel)
    ax.grid(alpha=0.3)
    if log:
        ax.set_yscale("log")
    _legend(ax, framealpha=0.7, edgecolor="none")
    return ax


MOST_INSIDE, MOST_ENTRIES = 12, 40


def _legend(ax: Axes, **style: Any) -> None:
    """Draw the legend, if there is something in it: beside the plot where it is long.

    Of very many entries, the first ones are there, and how many there are more.
    """
    from matplotlib.lines import Line2D

    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    if len(handles) > MOST_INSIDE:
        more = len(handles) - MOST_ENTRIES
        if more > 0:
            handles = [*handles[:MOST_ENTRIES], Line2D([], [], linestyle="")]
            labels = [*labels[:MOST_ENTRIES], f"and {more} more"]
        style |= {"ncols": -(-len(handles) // 21), "fontsize": "small", "frameon": False}
        style |= {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    ax.legend(handles, labels, **style)


def _named_runs(runs: Any) -> dict[str, Any]:
    """Return the runs of `compare` by their names."""
    if hasattr(runs, "history") or hasattr(runs, "predict"):
        raise TypeError("compare: expected several runs: compare([run, other]), got one")
    if isinstance(runs, Mapping):
        named = {str(name): run for name, run in runs.items()}
    elif isinstance(runs, Iterable):
        named = {f"run {k}": run for k, run in enumerate(runs, 1)}
    else:
        raise TypeError(f"compare: expected a dict or a list of runs, got {shorten(runs, 60)}")
    if not named:
        raise ValueError("compare: expected at least one run, got none")
    return named


def _curves_of(thing: Any, metric: str, where: str = "") -> dict[str, list[float]]:
    """Return the curves of a metric: "training" and "validation", or those that there are."""
    if hasattr(thing, "hidden_layer_sizes"):
        given = {"loss": "loss_curve_", "validation_score": "validation_scores_"}
        found = {name: getattr(thing, attribute, None) for name, attribute in given.items()}
        log: Any = {name: numbers for name, numbers in found.items() if numbers is not None}
        log |= getattr(thing, "history_", {})
        if not log:
            several = hasattr(thing, "estimators_")
            raise ValueError(
                f"{where}expected a fitted estimator, got {shorten(thing, 60)}: "
                + ("give one of its estimators_" if several else "call its fit(X, y)")
            )
    else:
        log = getattr(thing, "history", thing)
        if not isinstance(log, Mapping):
            hint = ": give the run that fit(X, y) returns" if hasattr(thing, "init") else ""
            hint = hint or (": give the run that it returns" if hasattr(thing, "fit") else "")
            raise TypeError(
                f"{where}expected a run, a history or a fitted estimator, "
                f"got {shorten(thing, 60)}{hint}"
            )
    if not any(len(numbers) for numbers in log.values()):
        raise ValueError(
            f"{where}the history is empty, as no epoch was trained: run.fit(X, y, epochs=10)"
        )
    names = dict.fromkeys(name.removeprefix("validation_") for name in log)
    try:
        check_choice("metric", metric, (*names, *(n for n in log if n not in names)))
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
    pair = {"training": metric, "validation": f"validation_{metric}"}
    if metric.startswith("validation_"):
        pair = {"validation": metric}
    return {label: list(log[name]) for label, name in pair.items() if name in log}


def _learning_rate(run: Any) -> tuple[str, list[int], list[float]] | None:
    """Return a label, epochs, and the learning rate or the scale there; None where it is constant.

    A schedule is evaluated at the first step of each epoch, of 200 epochs where there are more. The
    steps of an epoch are those made so far, divided by the epochs.
    """
    if not hasattr(run, "trainer"):
        return None
    log, epochs = run.history, run.epoch
    lr, t = _rate_of(run.trainer.optimizer, run.state)
    at = sorted(set(np.linspace(1, epochs, min(epochs, 200)).round().astype(int).tolist()))
    scale = log.get("scale", [1.0] * epochs)
    rates = [1.0] * len(at)
    label = "scale of the updates"
    if callable(lr) and t:
        steps = (t - run.step) / epochs
        with run.backend.active():
            rates = [float(to_numpy(lr(_zero_d(run, steps * (e - 1))))) for e in at]
        label = "learning rate"
    elif isinstance(lr, int | float):
        rates, label = [float(lr)] * len(at), "learning rate"
    values = [
        r * (1.0 if np.isnan(scale[e - 1]) else scale[e - 1])
        for r, e in zip(rates, at, strict=True)
    ]
    return None if max(values) == min(values) else (label, at, values)


def _zero_d(run: Any, t: float) -> Any:
    return run.backend.asarray(t, run.backend.dtype)


def _rate_of(optimizer: Any, state: Any) -> tuple[Any, float]:
    """Return the learning rate of an optimizer, or of that in a chain, and the steps made."""
    parts = getattr(optimizer, "parts", None)
    if parts is not None:
        states = state if isinstance(state, tuple) else [None] * len(parts)
        found = [_rate_of(p, s) for p, s in zip(parts, states, strict=False)]
        return next((pair for pair in found if pair[0] is not None), (None, 0.0))
    t: Any = (
        getattr(state, "t", None) if isinstance(state, tuple) else state
    )  # a tensor has a `t`, too
    return getattr(optimizer, "lr", None), float(t) if hasattr(t, "__float__") else 0.0


# Networks ---------------------------------------------------------------------------------------

MOST_NEURONS, MOST_COLUMNS, MOST_BOXES = 16, 6, 30


class _Column(NamedTuple):
    """Neurons that are drawn below each other, and the weights that lead to them."""

    labels: list[str]
    size: int
    n_params: int = 0
    W: Host | None = None  # (neurons of the column before, neurons)
    b: Host | None = None


@_without_path
def network(
    model: Any,
    params: Params = None,
    *,
    n_in: int | None = None,
    title: str = "",
    ax: Axes = None,
) -> Axes:
    """Draw a network: a small one as neurons and weights, a larger one as a box for each layer.

    A line is a weight, and a circle is the bias of its neuron, where the parameters are known: red
    is positive, blue negative, and thicker lines are larger weights. Networks of up to 16 neurons
    in each of up to 6 layers are small.

    Parameters
    ----------
    model : layer, Run or fitted estimator
    params : pytree of arrays, optional
        The parameters of a model, of any backend; W has shape (n_in, n_out).
    n_in : int, optional
        The number of inputs of a model that does not define it.
    title : str
        By default the number of parameters.
    ax : matplotlib Axes, optional
        Where to draw; by default in a new figure.

    Examples
    --------
    >>> import portnet
    >>> ax = portnet.plots.network(portnet.mlp([2, 3, 1], "tanh"))
    >>> ax.get_title()
    '13 parameters'
    """
    rows = layer_rows(model, params, n_in)
    title = title or totals_text(rows).partition(";")[0].rpartition(", ")[0]
    columns = _columns(rows)
    if columns is None:
        ax = _axes(ax, 6.4, 0.8 + 0.45 * min(len(rows), MOST_BOXES + 1))
        _draw_boxes(ax, rows)
    else:
        names = _names(model, columns[0].size, columns[-1].size)
        high = max(column.size for column in columns)
        ax = _axes(ax, 1.6 + 1.6 * len(columns), 1.6 + 0.42 * max(high, 3))
        _draw_neurons(ax, columns, names)
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def _columns(rows: Sequence[LayerRow]) -> list[_Column] | None:
    """Return the columns of neurons; None for a network that is not small, or not of this kind."""
    columns = [_Column(["inputs"], rows[0].n_out or 0)]
    for row in rows[1:]:
        before = columns[-1]
        if row.n_out is None or row.n_out > MOST_NEURONS or before.size > MOST_NEURONS:
            return None
        if row.shapes.get("W") == (before.size, row.n_out) and set(row.shapes) <= {"W", "b"}:
            W, b = ((row.params or {}).get(name) for name in ("W", "b"))
            W, b = (None if a is None else to_numpy(a).astype(float) for a in (W, b))
            columns.append(
                _Column([row.name], row.n_out, row.n_params, W, None if b is None else b.ravel())
            )
        elif row.n_out == before.size and len(columns) > 1:
            columns[-1] = before._replace(
                labels=[*before.labels, row.name], n_params=before.n_params + row.n_params
            )
        else:
            return None
    return columns if 1 < len(columns) <= MOST_COLUMNS + 1 else None


def _names(model: Any, n_in: int, n_out: int) -> tuple[list[str], list[str]]:
    """Return the names of the inputs and of the outputs."""
    inputs, classes = ("feature_names", "feature_names_in_"), ("classes", "classes_")

    def first(names: Sequence[str], count: int, default: str) -> list[str]:
        known = next((v for n in names if (v := getattr(model, n, None)) is not None), ())
        if len(known) == 2 and count == 1 and default == "y":  # the probability of the second
            known = known[1:]
        fits = len(known) == count
        return (
            [_text(name) for name in known] if fits else [f"{default}{k + 1}" for k in range(count)]
        )

    return first(inputs, n_in, "x"), first(classes, n_out, "y")


def _draw_neurons(
    ax: Axes, columns: Sequence[_Column], names: tuple[Sequence[str], Sequence[str]]
) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    known = [a for column in columns for a in (column.W, column.b) if a is not None]
    largest = max((float(np.nan_to_num(abs(a)).max()) for a in known), default=0.0) or 1.0
    colours = {"cmap": "RdBu_r", "norm": Normalize(-largest, largest)}
    where = [
        np.column_stack([np.full(c.size, float(j)), (c.size - 1) / 2 - np.arange(c.size)])
        for j, c in enumerate(columns)
    ]
    low = min(points[:, 1].min() for points in where)
    lines = None
    for j, (column, points) in enumerate(zip(columns, where, strict=True)):
        if j:
            ends = [(start, end) for start in where[j - 1] for end in points]
            if column.W is None:
                lines = LineCollection(ends, colors="gray", linewidths=0.8, zorder=1)
            else:
                widths = 0.4 + 2.6 * np.nan_to_num(abs(column.W)).ravel() / largest
                lines = LineCollection(ends, linewidths=widths, zorder=1, **colours)
                lines.set_array(column.W.ravel())
            ax.add_collection(lines)
        style = {"s": 200, "edgecolors": "black", "linewidths": 1, "zorder": 2}
        if column.b is None or len(column.b) != column.size:
            ax.scatter(*points.T, c="white", **style)
        else:
            ax.scatter(*points.T, c=column.b, **colours, **style)
        count = [f"{column.n_params:,} params"] if column.n_params else []
        text = "\n".join([*column.labels, f"(rows, {column.size})", *count])
        ax.text(j, low - 0.8, text, ha="center", va="top", fontsize=8)
    for points, texts, side in ((where[0], names[0], -1), (where[-1], names[1], 1)):
        for point, text in zip(points, texts, strict=True):
            ax.annotate(
                text,
                point,
                (side * 13, 0),
                textcoords="offset points",
                ha="right" if side < 0 else "left",
                va="center",
                fontsize=9,
            )
    ax.set(xlim=(-0.4, len(columns) - 0.6), ylim=(low - 0.6, -low + 0.6))
    if known and lines is not None:
        ax.figure.colorbar(lines, ax=ax, label="weight, bias", shrink=0.8)


def _draw_boxes(ax: Axes, rows: Sequence[LayerRow]) -> None:
    """Draw a box for each layer, from the inputs at the top down."""
    from matplotlib.patches import FancyBboxPatch

    half = MOST_BOXES // 2
    shown: list[LayerRow | None] = list(rows)
    if len(rows) > MOST_BOXES:
        shown = [*rows[:half], None, *rows[-half:]]
    for k, row in enumerate(shown):
        if k:
            ax.annotate("", (0.5, -k + 0.3), (0.5, -k + 0.7), arrowprops={"arrowstyle": "->"})
        if row is None:
            ax.text(0.5, -k, f"{len(rows) - 2 * half} more layers", ha="center", va="center")
            continue
        left = 0.06 * row.depth
        colour = "#f3f3f3" if k == 0 else "#dce9f7" if row.shapes else "white"
        ax.add_patch(
            FancyBboxPatch(
                (left, -k - 0.3),
                1 - left,
                0.6,
                boxstyle="round,pad=0,rounding_size=0.04",
                mutation_aspect=5,
                facecolor=colour,
                edgecolor="black",
            )
        )
        output = "" if row.n_out is None else f"(rows, {row.n_out})"
        count = f"{row.n_params:,}" if row.n_params else ""
        style = {"va": "center", "fontsize": 9}
        ax.text(left + 0.03, -k, row.name, ha="left", **style)
        ax.text(0.6, -k, output, ha="center", **style)
        ax.text(0.97, -k, f"{count} parameters" if count else "", ha="right", **style)
    ax.set(xlim=(-0.01, 1.01), ylim=(-len(shown) + 0.5, 0.5))


# Decision boundaries ----------------------------------------------------------------------------


@_without_path
def decision_boundary(
    model: Any, X: ArrayLike, y: ArrayLike, *, title: str = "", ax: Axes = None
) -> Axes:
    """Draw points (rows, 2) by their labels, over the predictions of a model in the plane.

    Two classes: the probability of the second, and the line where it is 1/2. More classes, or a
    model that predicts only labels: the predicted class, paler where its probability is lower.
    Regression: the prediction, and the points in the colour of their target.

    Parameters
    ----------
    model : Run, estimator, or function
        `predict_proba` is called if there is one, else `predict`. A function maps points (n, 2)
        to probabilities, (n, classes) or (n,) of the second of two classes, to labels (n,), or to
        numbers (n,). Numbers in [0, 1] are probabilities if `y` has at most two values.
    X : (rows, 2)
        The points: a list, a data frame (its column names label the axes) or an array of any
        library.
    y : (rows,)
        Their labels, numbers or text, or their targets.
    title : str
    ax : matplotlib Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    ValueError
        if `X` is not (rows, 2) or not finite, the model has other inputs than two, `y` has several
        columns, or the model returns none of these.
    TypeError
        for a network without its parameters.

    Examples
    --------
    >>> from portnet import plots
    >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0, 0, 1]
    >>> ax = plots.decision_boundary(lambda points: points.min(axis=1) > 0.5, X, y)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('x1', 'x2')
    """
    _check_predicts(model)
    columns = getattr(X, "columns", None)
    points, targets = to_numpy(X), to_numpy(y)
    if points.ndim != 2 or points.shape[1] != 2 or not points.size:
        hint = ": choose two columns, and a model that was fitted on them"
        hint = hint if points.ndim == 2 and points.shape[1] > 2 else ""
        raise ValueError(
            f"decision_boundary: expected X of shape (rows, 2), got {points.shape}{hint}"
        )
    if targets.size != len(points):
        raise ValueError(
            f"decision_boundary: expected y of shape ({len(points)},), a label or target for each "
            f"point, got {targets.shape}"
        )
    points, targets = points.astype(float), targets.ravel()
    if not np.isfinite(points).all():
        row = int(np.argwhere(~np.isfinite(points))[0, 0])
        raise ValueError(
            f"decision_boundary: expected finite points, got {points[row]} in row {row}"
        )
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.where(high > low, 0.1 * (high - low), 0.5)
    sides = np.linspace(low - margin, high + margin, _SIDE).T
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    inputs = grid if columns is None else type(X)(dict(zip(columns, grid.T, strict=True)))
    classes, values = _predict(model, _on_backend_of(model, inputs), targets)
    values = values.reshape(_SIDE, _SIDE, -1)
    ax = _axes(ax, 6, 5)
    names = ["x1", "x2"] if columns is None else [str(c) for c in columns]
    ax.set(title=title, xlabel=names[0], ylabel=names[1])
    markers = {"s": 24, "edgecolors": "white", "lw": 0.6}
    if classes is None:
        from matplotlib.ticker import MaxNLocator

        numbers = values[..., 0]
        # Round levels, from below the lowest prediction and target to above the highest.
        levels = MaxNLocator(12).tick_values(
            min(numbers.min(), targets.min()), max(numbers.max(), targets.max())
        )
        shades = ax.contourf(*sides, numbers, levels, cmap="viridis")
        ax.scatter(*points.T, c=targets, norm=shades.norm, cmap="viridis", **markers)
        ax.figure.colorbar(shades, ax=ax, label="prediction")
        return ax
    two = len(classes) == 2 and not np.isin(values, (0, 1)).all()
    (_draw_two if two else _draw_several)(ax, sides, values, classes)
    for name, colour in zip(classes, _colours(len(classes)), strict=True):
        members = points[targets == name]
        ax.scatter(*members.T, color=colour, label=f"class {_text(name)}", **markers)
    _legend(ax)
    return ax


_SIDE = 201  # grid points along each axis


def _check_predicts(model: Any) -> None:
    """Raise TypeError or ValueError for what cannot predict for points of two features."""
    if not hasattr(model, "predict") and not callable(model):
        what = "a run, a fitted estimator, or a function of points (n, 2)"
        hint = ""
        if hasattr(model, "forward"):
            hint = ", a network without parameters: give the run, or a function that calls forward"
        elif hasattr(model, "fit"):
            hint = ": give the run that its fit(X, y) returns"
        raise TypeError(f"decision_boundary: expected {what}, got {shorten(model, 60)}{hint}")
    inputs = getattr(model, "inputs", getattr(model, "n_features_in_", None))
    if inputs not in (None, 2):
        raise ValueError(
            f"decision_boundary: expected a model of two features, got one of {inputs}: fit one on "
            "two columns of X"
        )


def _on_backend_of(model: Any, points: Any) -> Any:
    """Return points (n, 2) where an estimator has its parameters; runs take them from the host."""
    coefs = getattr(model, "coefs_", None)
    if not isinstance(coefs, list) or is_host(coefs[0]):
        return points
    backend = backend_of(coefs[0])
    return backend.asarray(to_numpy(points), backend.dtype)


def _predict(model: Any, points: ArrayLike, y: Host) -> tuple[Host | None, Host]:
    """Return classes and their probabilities (n, classes); or None and predicted numbers (n,)."""
    known, probable = None, None  # of a function: inferred from the values
    if not hasattr(model, "predict"):
        values = to_numpy(model(points))
    else:
        known = getattr(model, "classes_", getattr(model, "classes", None))
        if isinstance(known, list):
            raise TypeError(
                f"decision_boundary: expected a model of one label, got {shorten(model, 60)}, "
                f"which has {len(known)} heads: fit one on a column of y"
            )
        known = None if known is None else to_numpy(known)  # it may be on a device
        try:
            values, probable = to_numpy(model.predict_proba(points)), True
        except (AttributeError, TypeError):  # a regressor, or a classifier without probabilities
            values, probable = to_numpy(model.predict(points)), False
    seen, number = np.unique(y), len(points)
    values = values[:, 0] if values.shape == (number, 1) else values
    if values.shape == (number,):
        if values.dtype.kind != "f" or (probable is False and known is not None):
            known = np.unique(np.concatenate([seen, values])) if known is None else known
            values = (values[:, None] == known).astype(float)  # labels
        elif probable is False:
            return None, values
        elif probable or (len(seen) <= 2 and values.min() >= 0 and values.max() <= 1):
            values = np.stack([1 - values, values], axis=1)
        else:
            return None, values
    if values.ndim != 2 or not np.allclose(values.sum(axis=1), 1, atol=1e-3) or values.min() < 0:
        raise ValueError(
            "decision_boundary: expected the model to return a number, a label, or probabilities "
            f"that sum to 1 for each of {number} points, got an array of shape {values.shape}"
        )
    classes = np.arange(values.shape[1]) if len(seen) != values.shape[1] else seen
    classes = classes if known is None else known
    if len(classes) != values.shape[1] or not np.isin(seen, classes).all():
        raise ValueError(
            f"decision_boundary: the model has {values.shape[1]} classes, "
            f"{', '.join(map(_text, classes))}, but y has {', '.join(map(_text, seen))}"
        )
    return classes, values


def _draw_two(ax: Axes, sides: Host, values: Host, classes: Host) -> None:
    """Draw the probability of the second of two classes, and the line where it is 1/2."""
    second = np.clip(values[..., 1], 0, 1)
    shades = ax.contourf(*sides, second, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.5)
    _draw_line(ax, sides, second - 0.5)
    ax.figure.colorbar(shades, ax=ax, label=f"probability of class {_text(classes[1])}")


def _draw_several(ax: Axes, sides: Host, values: Host, classes: Host) -> None:
    """Draw the most probable class of each grid point, paler where it is less probable."""
    colours = _colours(len(classes))[values.argmax(axis=-1)]
    pale = 1 - 0.5 * values.max(axis=-1, keepdims=True) * (1 - colours)
    extent = (*sides[0][[0, -1]], *sides[1][[0, -1]])
    ax.imshow(pale, extent=extent, origin="lower", aspect="auto")
    for k in range(len(classes) if len(classes) > 1 else 0):
        _draw_line(ax, sides, values[..., k] - np.delete(values, k, axis=-1).max(axis=-1))


def _draw_line(ax: Axes, sides: Host, heights: Host) -> None:
    """Draw the contour of height 0 if there is one: matplotlib warns if there is none."""
    if heights.min() < 0 < heights.max():
        ax.contour(*sides, heights, [0], colors="black", linewidths=1)


def _colours(count: int) -> Any:
    """Return an RGB colour (count, 3) for each class; two classes are blue and red."""
    from matplotlib import colormaps

    if count > 10:
        return colormaps["turbo"](np.linspace(0.05, 0.95, count))[:, :3]
    return colormaps["tab10"]([0, 3, 2, 1, 4, 5, 6, 7, 8, 9][:count])[:, :3]


def _text(name: object) -> str:
    """Return the name of a class as text, "1" for 1.0."""
    return f"{name:g}" if isinstance(name, float) else str(name)


# Images -----------------------------------------------------------------------------------------


@_without_path
def images(
    pictures: Sequence[Any],
    captions: Sequence[str],
    *,
    columns: int,
    title: str = "",
    ax: Axes = None,
) -> Axes:
    """Draw small images (height, width), 1 black and 0 white, in rows, each under its caption.

    Parameters
    ----------
    pictures : sequence of (height, width)
        Arrays or nested lists.
    captions : sequence of str
        One for each image.
    columns : int
        The images in a row.
    title : str
    ax : matplotlib Axes, optional
        Where to draw; by default in a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet import plots
    >>> ax = plots.images([np.eye(8)] * 2, ["a", "b"], columns=2)
    >>> [text.get_text() for text in ax.texts]
    ['a', 'b']
    """
    arrays = [to_numpy(picture) for picture in pictures]
    if not arrays or any(a.ndim != 2 or not a.size for a in arrays):
        shapes = [a.shape for a in arrays]
        raise ValueError(f"images: expected pictures (height, width), got {shapes}")
    if len(captions) != len(arrays):
        raise ValueError(f"images: expected {len(arrays)} captions, got {len(captions)}")
    rows = -(-len(arrays) // columns)
    ax = _axes(ax, 1.5 * columns, 0.5 + 1.7 * rows)
    from matplotlib.patches import Rectangle

    for k, (array, caption) in enumerate(zip(arrays, captions, strict=True)):
        left, top = 1.2 * (k % columns), -1.35 * (k // columns)
        height, width = (side / max(array.shape) for side in array.shape)
        extent = (left, left + width, top - height, top)
        ax.imshow(array, cmap="gray_r", vmin=0, vmax=1, extent=extent)
        frame: Any = {"fill": False, "edgecolor": "black", "linewidth": 1.5}
        ax.add_patch(Rectangle((left, top - height), width, height, **frame))
        ax.text(left + width / 2, top + 0.05, caption, ha="center", va="bottom", fontsize=9)
    ax.set(xlim=(-0.05, 1.2 * columns - 0.15), ylim=(-1.35 * (rows - 1) - 1.05, 0.25), title=title)
    ax.set_axis_off()
    return ax


# Learning rates ---------------------------------------------------------------------------------


def learning_rates(
    lrs: ArrayLike, losses: ArrayLike, suggestion: float | None, ax: Axes = None
) -> Axes:
    """Draw the losses (n,) of a learning-rate range test over the rates (n,); return the Axes.

    Parameters
    ----------
    lrs, losses : (n,)
    suggestion : float or None
        A rate that is marked.
    ax : matplotlib Axes, optional
        Where to draw; by default in a new figure.

    Examples
    --------
    >>> from portnet import plots
    >>> ax = plots.learning_rates([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], 0.03)
    >>> ax.get_xlabel()
    'learning rate'
    """
    ax = _axes(ax)
    rates, heights = to_numpy(lrs), to_numpy(losses)
    ax.plot(rates, heights)
    ax.set_xscale("log")
    # Where the loss explodes, its height would hide the fall before that.
    low, first = float(heights.min()), float(heights[0])
    margin = max(first - low, 0.05 * abs(first), 1e-12)
    ax.set_ylim(low - 0.1 * margin, first + 0.5 * margin)
    if suggestion is not None:
        ax.axvline(suggestion, color="black", linestyle="--", linewidth=1)
        loss = float(np.interp(np.log(suggestion), np.log(rates), heights))
        label = f"suggestion {suggestion:.2g}"
        ax.plot([suggestion], [loss], "o", color="black", label=label)
        ax.legend(frameon=False)
    ax.set(xlabel="learning rate", ylabel="loss", title="Learning-rate range test")
    ax.grid(alpha=0.3)
    return ax


# Axes -------------------------------------------------------------------------------------------


def stacked(count: int) -> tuple[Any, Sequence[Axes]]:
    """Return a figure that pyplot does not know, and Axes of the same epochs, one below another."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"plots need matplotlib: {how_to_install('plot')}") from None
    figure = Figure(figsize=(7, 1.2 + 2.9 * count), layout="constrained")
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    return figure, [*axes]


def _axes(ax: Axes, width: float = 7, height: float = 4.1) -> Axes:
    """Return the Axes `ax`, or those of a new figure of pyplot, as of scikit-learn's displays."""
    try:
        import matplotlib.axes
    except ImportError as error:
        raise ImportError(f"plots need matplotlib: {how_to_install('plot')}") from error
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    if not isinstance(ax, matplotlib.axes.Axes):
        raise TypeError(f"ax: expected matplotlib's Axes, such as plt.gca(), got {shorten(ax, 60)}")
    return ax
