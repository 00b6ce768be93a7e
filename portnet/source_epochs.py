"""Epochs of data that are read in parts, for Trainer: see `engine.windows`."""

import math
from collections.abc import Callable
from dataclasses import replace

from . import rng
from .data.checks import DataError
from .data.sources.dataset import SourceDataset
from .data.sources.windows import Window, Windows
from .divergence import divergence_error
from .engine.epoch import EpochExecutor
from .engine.epoch_state import Epochs
from .engine.packing import unpacked
from .engine.windows import run_windows
from .preparation import Fit, epoch_plan
from .run import EpochProgress, Run, with_run

__all__ = ["train_epoch_of_source", "windows_of"]


def windows_of(prepared: Fit, averaged: bool) -> Windows:
    """Return the windows of a fit's epochs, which a thread reads ahead.

    `averaged` says that a step divides by its rows, so that the mean of all weights must be 1.
    """
    run, data = prepared.run, prepared.data
    assert isinstance(data, SourceDataset)
    trainer = run.trainer
    size = trainer.batch_size or len(data)
    return Windows(
        data,
        data.plan(size, trainer.shuffle),
        trainer.seed,
        range(run.epoch, prepared.last),
        run.step * size,
        data.total / len(data) if data.is_weighted and averaged else 1.0,
    )


def train_epoch_of_source(
    run: Run,
    data: SourceDataset,
    advance: Callable[[int], object],
    interrupted: list[int],
    executor: EpochExecutor,
    windows: Windows,
    count: int,
) -> tuple[Run, float | None]:
    """Train for an epoch, or for what is left of it; end early on Ctrl-C.

    Returns the run before the epoch is counted, and the loss; None if it is not finished. `count`
    epochs may follow each other, but this is one: so many rows take a while.
    """
    trainer, rows, backend = run.trainer, len(data), run.backend
    size = trainer.batch_size or rows
    key = rng.key(trainer.seed, run.epoch)
    scale = None if run._scale == 1 else backend.asarray(run._scale, backend.dtype)

    def epochs(window: Window) -> Epochs:
        return Epochs(window.dataset, size, [key], [window.order], scale)

    try:
        end = run_windows(
            executor,
            run.params,
            run.state,
            windows.of_epoch(run.epoch, run.step * size, interrupted),
            epochs,
            interrupted,
            done=run.step,
            sums=run._progress[:2],
            advance=advance,
        )
    except DataError as error:
        raise with_run(error, run)  # noqa: B904 (the error itself)
    (loss,), finite = end.losses, end.finite and math.isfinite(end.losses[0])
    if not finite:
        what, at = ("parameters", 0) if math.isfinite(loss) else ("loss", 1)
        at += int(end.finite_steps)
        raise divergence_error(run, data.some, f"the {what} stopped being finite", at)
    ended = end.done * size >= rows
    progress = EpochProgress()
    if end.done and not ended:
        progress = EpochProgress(loss, end.finite_steps, epoch_plan(trainer, data))
    run = replace(run, params=unpacked(end.params), state=unpacked(end.state))
    run = replace(run, step=0 if ended else end.done, _progress=progress)
    mean = loss / rows if executor.averaged else loss
    return run, mean if ended else None
