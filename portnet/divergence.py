"""Divergence: the error for a loss that stops being finite, with its likely cause."""

from collections.abc import Iterable

import numpy as np

from . import _validation as options
from ._typing import Array
from .backend import read_floats, to_numpy
from .data.dataset import Dataset
from .diagnosis import UNSCALED, Diagnose, column_name
from .evidence import SCALE, step_rule
from .lbfgs import LBFGS
from .losses import Reduced
from .optimizer_checks import returns_parameters
from .run import Run, warn, with_run

__all__ = [
    "DivergenceError",
    "divergence_error",
    "warn_of_unscaled_inputs",
]


class DivergenceError(ArithmeticError):
    """The loss stopped being finite. `run` is the run as it was before that epoch.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error", portnet.SGD(1e6))
    >>> try:
    ...     run = trainer.fit([[1.0], [2.0]], [1.0, 2.0], epochs=50)
    ... except portnet.DivergenceError as error:
    ...     run = error.run
    >>> run.epoch < 50
    True
    """

    run: Run | None = None


def divergence_error(
    run: Run, data: Dataset, what: str, step: int, smaller: str = ""
) -> DivergenceError:
    """Return the error for a run whose loss or parameters stopped being finite in this step.

    `smaller` is the advice to make smaller steps; by default, a smaller learning rate.
    """
    cause = _cause(run, data.X, data.y, smaller)
    message = (
        f"{what} in epoch {run.epoch + 1}, step {step}. {cause}. The run as it was before that "
        "epoch is this error's `run`"
    )
    return with_run(DivergenceError(message), run)


def _largest_column(run: Run, X: Array) -> tuple[float, str]:
    """Return the size of the largest column of X, and a text that names the column.

    That is its root mean square, or a tenth of its largest value: a few rows may be far off.
    """
    xp = run.backend.xp
    with np.errstate(over="ignore", invalid="ignore"):  # infinite: it is too large in any case
        size, largest = (
            to_numpy(a) for a in (xp.sqrt(xp.mean(X * X, axis=0)), xp.max(xp.abs(X), axis=0))
        )
    sizes = np.maximum(size, largest / 10)
    column = int(np.argmax(sizes))
    name = column_name(column, run.feature_names)
    return float(sizes[column]), f"{name} reaches {largest[column]:.3g}"


def warn_of_unscaled_inputs(
    run: Run, data: Dataset, loss: float, rows: int, callbacks: Iterable[object] = ()
) -> None:
    """Warn if the first epoch's loss is ten times that of outputs of 0, and X is not scaled.

    `rows` is how many there are in all. Called once per fit, for portnet's losses, after the
    callbacks: not if a `Diagnose` of them has warned. The host waits for the device twice, or not
    at all if the loss is small.
    """
    X, of_loss, xp = data.X, run.trainer.loss, run.backend.xp
    if not (loss > 10 and isinstance(run.trainer.loss, Reduced)):
        return
    if any(isinstance(call, Diagnose) and call.has_warned(UNSCALED[0]) for call in callbacks):
        return
    _, y, weight = data.head(1000).arrays
    some = min(1000, X.shape[0])
    zeros = xp.zeros((some, run.outputs), dtype=X.dtype, device=run.backend.device)
    with np.errstate(over="ignore", invalid="ignore"):
        (of_zeros,) = read_floats([of_loss(zeros, y, weight)[0]])
    if of_loss.reduction == "sum":
        of_zeros *= rows / some
    if not loss > 10 * of_zeros:
        return
    largest, reaches = _largest_column(run, X)
    if largest > SCALE:
        warn(
            f"the loss of the first epoch is {loss:.4g}, where outputs of 0 would have "
            f"{of_zeros:.4g}. {reaches}, where networks want about 1: scale the inputs, (X - mean) "
            "/ std of each column",
            run,
        )


def _cause(run: Run, X: Array, y: Array, smaller: str) -> str:
    """Return the likely cause: unscaled inputs or targets, or the learning rate."""
    optimizer, xp = step_rule(run.trainer.optimizer), run.backend.xp
    if hasattr(optimizer, "update") and returns_parameters(run.trainer.optimizer, run.params):
        return (
            f"{options.name_of(run.trainer.optimizer)} returns parameters, where updates are "
            "expected: what is added to the parameters, such as -lr * g. portnet.check_optimizer "
            "checks it"
        )
    largest, reaches = _largest_column(run, X)
    lr = getattr(optimizer, "lr", None)
    if isinstance(optimizer, LBFGS):
        smaller = "another start, Trainer(params=...)"
    elif not smaller:
        smaller = "a smaller learning rate" + (f" than {lr:g}" if isinstance(lr, float) else "")
    if largest > SCALE:
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
