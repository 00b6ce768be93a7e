"""Progress: the bar of a fit, and lines that do not spoil it; in terminals and in notebooks."""

import sys
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

__all__ = ["progress_bar", "write_line"]

DELAY = 0.5  # seconds before a notebook gets a bar that was not asked for


class _NoBar(nullcontext[Any]):
    """A progress bar that is not drawn."""

    disable = True

    def __enter__(self) -> "_NoBar":
        return self

    def update(self, steps: int) -> None:
        """Do nothing."""


def progress_bar(total: int, shown: bool | None) -> Any:
    """Return a progress bar over steps.

    By default it is drawn on a terminal, and in a notebook for a fit that takes a while.
    """
    # Programs without a console have no stderr, and others replace it by an object of their own.
    is_terminal = getattr(sys.stderr, "isatty", bool)
    if shown is False or (shown is None and not is_terminal() and not _in_notebook()):
        return _NoBar()  # tqdm takes as long to import as a small network to train
    delay = DELAY if shown is None and not is_terminal() else 0
    return _tqdm()(total=total, unit="step", disable=False, leave=True, delay=delay)


def write_line(line: str) -> None:
    """Print a line to stdout, without spoiling a progress bar."""
    _tqdm().write(line)


def _in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


def _tqdm() -> Any:
    """Return tqdm's bar: a widget in notebooks that have ipywidgets, else text."""
    if _in_notebook() and find_spec("ipywidgets") is None:
        from tqdm.std import tqdm  # tqdm.auto would warn: IProgress not found
    else:
        from tqdm.auto import tqdm
    return tqdm
