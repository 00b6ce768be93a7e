"""Plots: training curves, the predictions of a model in the plane, small images.

Only this file imports matplotlib (extra ``plot``), when a plot is drawn. Each function writes one
file, in the format of the path's suffix, and returns the path. Nothing is shown on a screen, and
the global state of matplotlib is not changed.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from ._typing import ArrayLike, Host
from ._validation import how_to_install
from .backend import to_numpy

__all__ = ["curves", "decision_boundary", "images", "learning_rates"]

Path = str | PathLike[str]


def curves(
    path: Path,
    lines: Mapping[str, Sequence[float]],
    *,
    title: str = "",
    ylabel: str = "loss",
    log: bool = False,
    levels: Mapping[str, float] | None = None,
    below: tuple[str, Mapping[str, Sequence[float]]] | None = None,
) -> Path:
    """Draw a line for each named sequence over the epochs 1, 2, ...

    Parameters
    ----------
    path : path
        The file to write.
    lines : dict of sequences
        Name: one number for each epoch.
    title, ylabel : str
    log : bool
        Whether the vertical axis is logarithmic.
    levels : dict of floats, optional
        Name: height of a dashed line in the lowest panel.
    below : (ylabel, lines), optional
        A second panel with its own vertical axis.

    Examples
    --------
    >>> import tempfile
    >>> from portnet import plots
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = plots.curves(f"{folder}/loss.png", {"training": [0.9, 0.4, 0.2]}, log=True)
    >>> path.endswith("loss.png")
    True
    """
    panels = [(ylabel, lines)] + ([] if below is None else [below])
    figure = _figure(7, 1.2 + 2.9 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, series) in zip(axes, panels, strict=True):
        for name, numbers in series.items():
            marker = "o" if len(numbers) <= 30 else None
            axis.plot(range(1, len(numbers) + 1), numbers, label=name, marker=marker, markersize=4)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    for (name, height), style in zip((levels or {}).items(), ("--", ":", "-."), strict=False):
        axes[-1].axhline(height, color="black", linestyle=style, linewidth=1, label=name)
    for axis in axes:
        axis.legend(frameon=False)
    if log:
        axes[0].set_yscale("log")
    axes[0].set_title(title)
    axes[-1].set_xlabel("epoch")
    return _save(figure, path)


def decision_boundary(
    path: Path,
    model: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    title: str = "",
) -> Path:
    """Draw points (rows, 2) by their labels, over the predictions of a model in the plane.

    Two classes: the probability of the second, and the line where it is 1/2. More classes, or a
    model that predicts only labels: the predicted class, paler where its probability is lower.
    Regression: the prediction, and the points in the colour of their target.

    Parameters
    ----------
    path : path
        The file to write.
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

    Raises
    ------
    ValueError
        if `X` is not (rows, 2), `y` has several columns, or the model returns none of these.

    Examples
    --------
    >>> import tempfile
    >>> from portnet import plots
    >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0, 0, 1]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = lambda points: points.min(axis=1) > 0.5
    ...     path = plots.decision_boundary(f"{folder}/plane.png", model, X, y)
    >>> path.endswith("plane.png")
    True
    """
    columns = getattr(X, "columns", None)
    points, targets = to_numpy(X), to_numpy(y)
    if points.ndim != 2 or points.shape[1] != 2 or not points.size:
        raise ValueError(f"decision_boundary: expected X of shape (rows, 2), got {points.shape}")
    if targets.size != len(points):
        raise ValueError(
            f"decision_boundary: expected y of shape ({len(points)},), a label or target for each "
            f"point, got {targets.shape}"
        )
    points, targets = points.astype(float), targets.ravel()
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.where(high > low, 0.1 * (high - low), 0.5)
    sides = np.linspace(low - margin, high + margin, _SIDE).T
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    inputs = grid if columns is None else type(X)(dict(zip(columns, grid.T, strict=True)))
    classes, values = _predict(model, inputs, targets)
    values = values.reshape(_SIDE, _SIDE, -1)
    figure = _figure(6, 5)
    axis = figure.subplots()
    names = ["x1", "x2"] if columns is None else [str(c) for c in columns]
    axis.set(title=title, xlabel=names[0], ylabel=names[1])
    markers = {"s": 24, "edgecolors": "white", "lw": 0.6}
    if classes is None:
        from matplotlib.ticker import MaxNLocator

        numbers = values[..., 0]
        # Round levels, from below the lowest prediction and target to above the highest.
        levels = MaxNLocator(12).tick_values(
            min(numbers.min(), targets.min()), max(numbers.max(), targets.max())
        )
        shades = axis.contourf(*sides, numbers, levels, cmap="viridis")
        axis.scatter(*points.T, c=targets, norm=shades.norm, cmap="viridis", **markers)
        figure.colorbar(shades, label="prediction")
        return _save(figure, path)
    draw = _draw_two if len(classes) == 2 and not np.isin(values, (0, 1)).all() else _draw_several
    draw(figure, axis, sides, values, classes)
    for name, colour in zip(classes, _colours(len(classes)), strict=True):
        members = points[targets == name]
        axis.scatter(*members.T, color=colour, label=f"class {_text(name)}", **markers)
    axis.legend()
    return _save(figure, path)


_SIDE = 201  # grid points along each axis


def _predict(model: Any, points: ArrayLike, y: Host) -> tuple[Host | None, Host]:
    """Return classes and their probabilities (n, classes); or None and predicted numbers (n,)."""
    known, probable = None, None  # of a function: inferred from the values
    if not hasattr(model, "predict"):
        values = to_numpy(model(points))
    else:
        known = getattr(model, "classes_", getattr(model, "classes", None))
        try:
            values, probable = to_numpy(model.predict_proba(points)), True
        except (AttributeError, TypeError):  # a regressor, or a classifier without probabilities
            values, probable = to_numpy(model.predict(points)), False
    seen, number = np.unique(y), len(points)
    values = values[:, 0] if values.shape == (number, 1) else values
    if values.shape == (number,):
        if values.dtype.kind != "f" or (probable is False and known is not None):
            known = np.unique(np.concatenate([seen, values])) if known is None else known
            values = (values[:, None] == np.asarray(known)).astype(float)  # labels
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
    classes = classes if known is None else np.asarray(known)
    if len(classes) != values.shape[1] or not np.isin(seen, classes).all():
        raise ValueError(
            f"decision_boundary: the model has {values.shape[1]} classes, "
            f"{', '.join(map(_text, classes))}, but y has {', '.join(map(_text, seen))}"
        )
    return classes, values


def _draw_two(figure: Any, axis: Any, sides: Host, values: Host, classes: Host) -> None:
    """Draw the probability of the second of two classes, and the line where it is 1/2."""
    second = np.clip(values[..., 1], 0, 1)
    shades = axis.contourf(*sides, second, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.5)
    _draw_line(axis, sides, second - 0.5)
    figure.colorbar(shades, label=f"probability of class {_text(classes[1])}")


def _draw_several(figure: Any, axis: Any, sides: Host, values: Host, classes: Host) -> None:
    """Draw the most probable class of each grid point, paler where it is less probable."""
    colours = _colours(len(classes))[values.argmax(axis=-1)]
    pale = 1 - 0.5 * values.max(axis=-1, keepdims=True) * (1 - colours)
    extent = (*sides[0][[0, -1]], *sides[1][[0, -1]])
    axis.imshow(pale, extent=extent, origin="lower", aspect="auto")
    for k in range(len(classes) if len(classes) > 1 else 0):
        _draw_line(axis, sides, values[..., k] - np.delete(values, k, axis=-1).max(axis=-1))


def _draw_line(axis: Any, sides: Host, heights: Host) -> None:
    """Draw the contour of height 0 if there is one: matplotlib warns if there is none."""
    if heights.min() < 0 < heights.max():
        axis.contour(*sides, heights, [0], colors="black", linewidths=1)


def _colours(count: int) -> Any:
    """Return an RGB colour (count, 3) for each class; two classes are blue and red."""
    from matplotlib import colormaps

    if count > 10:
        return colormaps["turbo"](np.linspace(0.05, 0.95, count))[:, :3]
    return colormaps["tab10"]([0, 3, 2, 1, 4, 5, 6, 7, 8, 9][:count])[:, :3]


def _text(name: object) -> str:
    """Return the name of a class as text, "1" for 1.0."""
    return f"{name:g}" if isinstance(name, float) else str(name)


def images(
    path: Path, pictures: Sequence[Any], captions: Sequence[str], *, columns: int, title: str = ""
) -> Path:
    """Draw small images (height, width), 1 black and 0 white, in rows, each under its caption.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from portnet import plots
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = plots.images(f"{folder}/squares.png", [np.eye(8)] * 2, ["a", "b"], columns=2)
    >>> path.endswith("squares.png")
    True
    """
    rows = -(-len(pictures) // columns)
    figure = _figure(1.5 * columns, 0.5 + 1.7 * rows)
    from matplotlib.patches import Rectangle

    for axis in figure.subplots(rows, columns, squeeze=False).ravel():
        axis.set_axis_off()
    for axis, picture, caption in zip(figure.axes, pictures, captions, strict=False):
        axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
        height, width = np.shape(picture)
        axis.add_patch(
            Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="black", linewidth=1.5)
        )
        axis.set_title(caption, fontsize=9)
    figure.suptitle(title)
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"plots need matplotlib: {how_to_install('plot')}") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path


def learning_rates(
    lrs: ArrayLike, losses: ArrayLike, suggestion: float | None, ax: Any = None
) -> Any:
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
    axes = _figure(7, 4.1).subplots() if ax is None else ax
    rates, heights = to_numpy(lrs), to_numpy(losses)
    axes.plot(rates, heights)
    axes.set_xscale("log")
    # Where the loss explodes, its height would hide the fall before that.
    low, first = float(heights.min()), float(heights[0])
    margin = max(first - low, 0.05 * abs(first), 1e-12)
    axes.set_ylim(low - 0.1 * margin, first + 0.5 * margin)
    if suggestion is not None:
        axes.axvline(suggestion, color="black", linestyle="--", linewidth=1)
        loss = float(np.interp(np.log(suggestion), np.log(rates), heights))
        label = f"suggestion {suggestion:.2g}"
        axes.plot([suggestion], [loss], "o", color="black", label=label)
        axes.legend(frameon=False)
    axes.set(xlabel="learning rate", ylabel="loss", title="Learning-rate range test")
    axes.grid(alpha=0.3)
    return axes
