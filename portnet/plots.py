"""Pictures: curves of a run, the regions of a classifier in the plane, small images side by side.

The only file that imports matplotlib (extra ``plot``), and it does so when a picture is drawn. Each
function writes one file, of the kind that the path's ending names, and returns the path. Nothing is
shown on a screen and no global state of matplotlib is touched.
"""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

__all__ = ["curves", "images", "regions"]

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


def regions(
    path: Path,
    predict: Callable[[Any], Any],
    X: Any,
    labels: Any,
    *,
    title: str = "",
) -> Path:
    """Draw points (rows, 2) by their labels 0 or 1, over the probability of class 1 in the plane.

    `predict` maps host points (n, 2) to probabilities (n, 1).
    """
    X, labels = np.asarray(X), np.asarray(labels).ravel()
    low, high = X.min(axis=0) - 0.5, X.max(axis=0) + 0.5
    across, up = np.linspace(low[0], high[0], 201), np.linspace(low[1], high[1], 201)
    grid = np.stack(np.meshgrid(across, up), axis=-1)
    heights = np.asarray(predict(grid.reshape(-1, 2))).reshape(201, 201)
    figure = _figure(6, 5)
    axis = figure.subplots()
    shades = axis.contourf(across, up, heights, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.5)
    axis.contour(across, up, heights, [0.5], colors="black", linewidths=1)
    for label, colour in ((0, "tab:blue"), (1, "tab:red")):
        at = X[labels == label]
        axis.scatter(
            at[:, 0], at[:, 1], s=24, c=colour, edgecolors="white", lw=0.6, label=f"class {label}"
        )
    figure.colorbar(shades, label="probability of class 1")
    axis.set(title=title, xlabel="x1", ylabel="x2")
    axis.legend()
    return _save(figure, path)


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
        raise ImportError('pictures need matplotlib: pip install "portnet[plot]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def _rectangle(width: int, height: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="black", linewidth=1.5)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
