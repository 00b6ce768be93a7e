"""What can end a training in the middle of an epoch: Ctrl-C, and numbers that run away."""

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from .backend import to_numpy
from .lbfgs import LBFGS
from .run import Rows, Run

__all__ = ["DivergenceError", "diverged", "interrupts", "warn", "with_run"]

Array = Any
_Error = TypeVar("_Error", bound=BaseException)


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Ctrl-C inside makes the list that is given non-empty, instead of cutting a step in two.

    A second one raises KeyboardInterrupt at once. A handler that is not Python's own stays in
    place, and so does everything in threads, which get no signals.
    """
    pressed: list[int] = []

    def note(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def with_run(error: _Error, run: Run) -> _Error:
    """Return the error with the run so far as its `run`, so that nothing is lost."""
    error.run = run  # type: ignore[attr-defined]
    return error


def warn(message: str, run: Run) -> None:
    """Warn at the first line outside of portnet; a warning that is an error has the run."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("portnet."):
        level, frame = level + 1, frame.f_back
    try:
        warnings.warn(message, stacklevel=level)
    except Warning as error:
        raise with_run(error, run) from None


class DivergenceError(ArithmeticError):
    """The loss stopped being finite. `run` is the run as it was before that epoch."""

    run: Run | None = None


def diverged(run: Run, rows: Rows, what: str, step: int) -> DivergenceError:
    """Return the error for a run whose loss or parameters stopped being finite in this step."""
    cause = _cause(*rows[:2], run.place.xp, run.trainer.optimizer)
    message = (
        f"{what} in epoch {run.epoch + 1}, step {step}. {cause}. The run as it was before that "
        "epoch is this error's `run`"
    )
    return with_run(DivergenceError(message), run)


def _cause(X: Array, y: Array, xp: Any, optimizer: Any) -> str:
    """Return the likely cause in words: inputs or targets without scale, or the learning rate."""
    while hasattr(optimizer, "parts"):
        optimizer = optimizer.parts[-1]
    largest = to_numpy(xp.max(xp.abs(X), axis=0))
    column = int(np.argmax(largest))
    lr = getattr(optimizer, "lr", None)
    smaller = "a smaller learning rate" + (f" than {lr:g}" if isinstance(lr, float) else "")
    smaller = "another start, Trainer(params=...)" if isinstance(optimizer, LBFGS) else smaller
    reaches = f"column {column} of X reaches {largest[column]:.3g}"
    if largest[column] > 10:
        return (
            f"Likely cause: {reaches}, where networks want about 1. Scale the inputs, (X - mean) / "
            f"std of each column, or try {smaller}"
        )
    highest = 0.0 if y.ndim == 1 else float(to_numpy(xp.max(xp.abs(y))))
    if highest > 100:
        return (
            f"Likely cause: the targets reach {highest:.3g}, where networks give about 1. Scale "
            f"them, (y - mean) / std, or try {smaller}"
        )
    clip = "" if isinstance(optimizer, LBFGS) else ", or portnet.ClipNorm"
    return f"The inputs are scaled ({reaches}), so try {smaller}{clip}"
