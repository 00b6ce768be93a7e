"""What the examples share: the options --backend and --out, times and pictures."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import portnet


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every example."""
    options = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    options.add_argument("--backend", default="numpy", help="numpy, cupy, torch, jax, dpnp, ...")
    options.add_argument("--out", type=Path, default=Path(), help="folder for pictures")
    return options


def at_least(low: int) -> Callable[[str], int]:
    """Return the type of an option that must be an integer of at least `low`."""

    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} up, got {text!r}")
        return int(text)

    return integer


def begin(options: argparse.ArgumentParser, dtype: str = "float64") -> argparse.Namespace:
    """Read the options and set the backend; a backend that cannot be used ends the program."""
    args = options.parse_args()
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # JAX reads it at import: 64 bits are off else
    try:
        portnet.set_backend(args.backend, dtype=dtype)
        args.out.mkdir(parents=True, exist_ok=True)
    except (portnet.BackendUnavailableError, ValueError, OSError) as error:
        options.error(str(error))
    return args


def scikit_learn_data(options: argparse.ArgumentParser, loader: str, **how: Any) -> Any:
    """Return a data set that comes with scikit-learn; without it, the program ends."""
    try:
        from sklearn import datasets
    except ImportError:
        options.error('the data come with scikit-learn: pip install ".[sklearn]"')
    return getattr(datasets, loader)(**how)


def timed(call: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float]:
    """Return what a call returns, and how many seconds it took."""
    began = time.perf_counter()
    return call(*args, **options), time.perf_counter() - began


def beside(seconds: float, loop: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Print how long portnet took, and how long the document's loop takes."""
    _, other = timed(loop, *args, **options)
    print(f"portnet: {seconds:.2f} s; the document's loop: {other:.2f} s")


def picture(path: Path, *panels: Callable[..., Any]) -> None:
    """Draw panels below each other into a file, and say where it is, or why there is none.

    Each panel is a function that draws in the matplotlib Axes `ax`.
    """
    try:
        ax = panels[0](ax=None) if len(panels) == 1 else stacked(panels)
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return
    ax.figure.savefig(path, dpi=120)
    print(f"picture: {path}")


def stacked(panels: Sequence[Callable[..., Any]]) -> Any:
    """Draw panels below each other, over the same epochs; return the Axes of the last."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError('plots need matplotlib: pip install ".[plot]"') from None
    size = (7, 1.2 + 2.9 * len(panels))
    _, axes = plt.subplots(len(panels), sharex=True, figsize=size, layout="constrained")
    for draw, ax in zip(panels, axes, strict=True):
        draw(ax=ax)
        ax.label_outer()
    return ax
