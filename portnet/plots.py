"""Pictures: curves of a run, what a model predicts in the plane, small images side by side.

The only file that imports matplotlib (extra ``plot``), and it does so when a picture is drawn. Each
function writes one file, of the kind that the path's ending names, and returns the path. Nothing is
shown on a screen and no global state of matplotlib is touched.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from .backend import to_numpy
from .options import how_to_install

__all__ = ["curves", "decision_boundary", "images"]

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
        Of the file to write.
    lines : dict of sequences
        Name -> one number for each epoch.
    title, ylabel : str
    log : bool
        Whether the vertical axis is logarithmic.
    levels : dict of floats, optional
        Name -> height of a dashed line, in the lowest panel.
    below : (ylabel, lines), optional
        A second panel with its own vertical axis.
    """
    panels = [(ylabel, lines)] + ([] if below is None else [below])
    figure = _figure(7, 1.2 + 2.9 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, named) in zip(axes, panels, strict=True):
        for name, numbers in named.items():
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
    X: Any,
    y: Any,
    *,
    title: str = "",
) -> Path:
    """Draw what a model predicts in the plane of two features, and points with their targets.

    Two classes are drawn as the probability of the second, more classes each in its colour, fainter
    where the model is less sure, numbers on the scale of the targets.

    Parameters
    ----------
    path : path
        Of the file to write.
    model : Run, fitted estimator, or function
        A function maps points (n, 2) to numbers (n,) or (n, 1), the probability of the second of
        two classes where y holds two classes, or to probabilities (n, classes).
    X : (rows, 2)
        The points; the names of a frame's columns become those of the axes.
    y : (rows,) or (rows, 1)
        Labels, as numbers or text, or targets.
    title : str
    """
    names = list(X.columns) if hasattr(X, "columns") else None
    points, y = np.asarray(to_numpy(X), dtype=float), np.asarray(to_numpy(y)).squeeze()
    if points.ndim != 2 or points.shape[1] != 2 or y.shape != points.shape[:1]:
        raise ValueError(
            "decision_boundary: expected X (rows, 2), to be drawn in a plane, and y (rows,), got "
            f"{points.shape} and {y.shape}"
        )
    low, high = points.min(axis=0), points.max(axis=0)
    edge = 0.08 * np.where(high > low, high - low, 1.0)
    across, up = (np.linspace(a, b, 201) for a, b in zip(low - edge, high + edge, strict=True))
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    asked = grid if names is None else type(X)(dict(zip(names, grid.T, strict=True)))
    values, classes = _predicted(model, asked, y)
    figure = _figure(6, 5)
    axis = figure.subplots()
    if classes is None:
        _draw_numbers(figure, axis, across, up, values.reshape(201, 201), points, y)
    else:
        of_labels = [np.flatnonzero(y.astype(classes.dtype) == c) for c in classes]
        if len(classes) == 2:
            heights = values[:, -1].reshape(201, 201)
            _draw_two_classes(figure, axis, across, up, heights, f"probability of {classes[1]}")
        else:
            _draw_classes(axis, across, up, values.reshape(201, 201, -1))
        colours = ("tab:blue", "tab:red") if len(classes) == 2 else COLOURS
        for k, (label, at) in enumerate(zip(classes, of_labels, strict=True)):
            axis.scatter(*points[at].T, s=24, color=colours[k % 10], label=str(label), **EDGES)
        axis.legend(title="class")
    first, second = names or ("x1", "x2")
    axis.set(title=title, xlabel=first, ylabel=second)
    return _save(figure, path)


COLOURS = [f"C{k}" for k in range(10)]
EDGES: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6}


def _predicted(model: Any, X: Any, y: Any) -> tuple[Any, Any]:
    """Return probabilities (n, classes) and the classes, or numbers (n,) and None."""
    known = getattr(model, "classes_", getattr(model, "classes", None))
    if hasattr(model, "trainer"):  # a run
        of_classes = hasattr(model.trainer.loss, "classes")
    else:
        of_classes = hasattr(model, "classes_")
    if of_classes and hasattr(model, "predict_proba"):
        values = np.asarray(to_numpy(model.predict_proba(X)))
        return values, np.arange(values.shape[1]) if known is None else np.asarray(known)
    if of_classes:  # a classifier without probabilities
        labels = np.asarray(model.predict(X))
        return (labels[:, None] == np.asarray(known)).astype(float), np.asarray(known)
    values = np.asarray(to_numpy(getattr(model, "predict", model)(X)), dtype=float)
    values = values.reshape(len(values), -1)
    labels = np.unique(y)
    if values.shape[1] > 1:
        return values, labels if len(labels) == values.shape[1] else np.arange(values.shape[1])
    two = len(labels) == 2 and values.min() >= 0 and values.max() <= 1
    if two and not hasattr(model, "predict"):
        return np.concatenate([1 - values, values], axis=1), labels
    return values[:, 0], None


def _draw_two_classes(figure: Any, axis: Any, x: Any, y: Any, heights: Any, label: str) -> None:
    shades = axis.contourf(x, y, heights, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.5)
    if heights.min() < 0.5 < heights.max():
        axis.contour(x, y, heights, [0.5], colors="black", linewidths=1)
    figure.colorbar(shades, label=label)


def _draw_classes(axis: Any, x: Any, y: Any, probabilities: Any) -> None:
    from matplotlib.colors import to_rgba_array

    best = probabilities.argmax(axis=-1)
    shades = to_rgba_array(COLOURS)[best % 10]
    shades[..., 3] = 0.6 * probabilities.max(axis=-1)
    box = (x[0], x[-1], y[0], y[-1])
    axis.imshow(shades, origin="lower", extent=box, aspect="auto", interpolation="nearest")
    for k in np.unique(best):
        if (best == k).any() and (best != k).any():
            axis.contour(x, y, best == k, [0.5], colors="black", linewidths=0.8)


def _draw_numbers(figure: Any, axis: Any, x: Any, y: Any, z: Any, points: Any, of: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    of = of.astype(float)
    low, high = min(z.min(), of.min()), max(z.max(), of.max())
    high = high if high > low else low + 1.0
    levels = MaxNLocator(20).tick_values(low, high)
    scale: dict[str, Any] = {"cmap": "viridis", "vmin": levels[0], "vmax": levels[-1]}
    shades = axis.contourf(x, y, z, levels, alpha=0.8, **scale)
    axis.scatter(*points.T, s=24, c=of, **scale, **EDGES)
    figure.colorbar(shades, label="prediction, and target of the points")


def images(
    path: Path, pictures: Sequence[Any], captions: Sequence[str], *, columns: int, title: str = ""
) -> Path:
    """Draw small images (height, width), 1 black and 0 white, in rows, each under its caption."""
    rows = -(-len(pictures) // columns)
    figure = _figure(1.5 * columns, 0.5 + 1.7 * rows)
    for axis in figure.subplots(rows, columns, squeeze=False).ravel():
        axis.set_axis_off()
    for axis, picture, caption in zip(figure.axes, pictures, captions, strict=False):
        axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
        height, width = np.shape(picture)
        axis.add_patch(_rectangle(width, height))
        axis.set_title(caption, fontsize=9)
    figure.suptitle(title)
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"pictures need matplotlib: {how_to_install('plot')}") from error
    return Figure(figsize=(width, height), layout="constrained")


def _rectangle(width: int, height: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="black", linewidth=1.5)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
