"""Fits of batches that a program makes itself: `Trainer.fit_batches`."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import callbacks, rng
from ._validation import check_integer
from .backend import Backend
from .callbacks import Report
from .data import checks, labels
from .data.checks import DataError
from .data.dataset import Dataset
from .divergence import divergence_error
from .engine.epoch import EpochExecutor, quiet, run_epochs
from .engine.epoch_state import Epochs
from .engine.interrupts import interrupts
from .engine.packing import unpacked
from .engine.ranks import current_ranks
from .lbfgs import LBFGS
from .model_checks import try_out
from .preparation import FitOptions, new_run, resumed_run
from .progress import progress_bar
from .protocols import TrainerLike
from .run import EpochProgress, Run, is_mean, record, warn, with_run
from .training import make_step
from .transforms import joined_parameters

__all__ = ["fit_batches"]

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


def fit_batches(
    trainer: TrainerLike, batches: Batches, options: FitOptions, steps: int | None, classes: Any
) -> Run:
    """Make a step of each batch; see `Trainer.fit_batches`."""
    if isinstance(trainer.optimizer, LBFGS):
        raise ValueError("fit_batches: LBFGS needs all rows in each iteration: use fit")
    ranks = current_ranks()
    if ranks is not None and ranks.size > 1:
        raise ValueError(
            f"fit_batches: {ranks.size} ranks cannot share batches that a program makes itself: "
            "give fit a file, or an object that is read in parts, or run one process"
        )
    if steps is not None:
        steps = check_integer("steps", steps, 1)
    source = _Batches(batches, options.epochs, steps)
    before = options.resume
    assert isinstance(before, Run | None)
    fit: _Fit | None = None
    run, history = before, dict[str, list[float]]()
    last = options.epochs + (0 if before is None else before.epoch)
    with progress_bar((steps or 0) * options.epochs, options.progress) as bar:
        try:
            with interrupts() as interrupted:
                while options.epochs and (run is None or (run.epoch < last and not run.stopped)):
                    began, total, rows = time.perf_counter(), 0.0, 0
                    for number, batch in enumerate(source.of_epoch(), 1):
                        if fit is None:
                            fit = _Fit.begin(trainer, batch, before, options, classes)
                            run, history = fit.run, dict(fit.run.history)
                        assert run is not None
                        where = f"batch {number} of epoch {run.epoch + 1}: "
                        with run.backend.active(), quiet():
                            run, loss = fit.step(run, batch, rows, where, interrupted)
                        total, rows = total + loss, rows + fit.rows
                        bar.update(1)
                        if interrupted:
                            raise KeyboardInterrupt
                    assert run is not None  # there was a batch
                    assert fit is not None
                    loss = total / rows if fit.executor.averaged else total
                    run = fit.end_epoch(run, loss, history)
                    values = {name: numbers[-1] for name, numbers in history.items()}
                    report = Report(
                        run.epoch, last, values, time.perf_counter() - began, run, fit.some
                    )
                    run = callbacks.report_epoch(report, options.callbacks, options.verbose)
        except KeyboardInterrupt:
            if run is None:
                raise
            what = f"interrupted in epoch {run.epoch + 1}, which does not count"
            run = replace(_unpacked(run), stopped=what)
            warn(f"training was {what}; the steps that were made are kept", run)
        except Exception as error:
            if run is not None and not hasattr(error, "run"):
                with_run(error, _unpacked(run))
            raise
        finally:
            if fit is not None:
                fit.executor.close()
    if run is None:
        raise DataError(
            "fit_batches: epochs=0 sees no batch, and so not how many features there are"
        )
    stopping = options.early_stopping
    return run.best if stopping and stopping.restore and run._best is not None else run


def _unpacked(run: Run) -> Run:
    return replace(run, params=unpacked(run.params), state=unpacked(run.state))


@dataclass
class _Fit:
    """What all batches of a fit have in common."""

    run: Run
    executor: EpochExecutor
    held_out: Any
    options: FitOptions
    some: Dataset
    rows: int = 0  # of the last batch

    @classmethod
    def begin(
        cls, trainer: TrainerLike, batch: Any, before: Run | None, options: FitOptions, classes: Any
    ) -> "_Fit":
        """Begin or resume a run by the first batch."""
        X, y, weight = batch
        held_out = checks.validation_set(options.validation)
        arrays = {"X": X, "y": y, "sample_weight": weight}
        arrays |= {f"validation {name}": a for name, a in held_out.items()}
        if before is not None:
            before._check_reachable(**arrays)
            backend: Backend = before.backend
        else:
            backend = checks.backend_for(**arrays)
        with backend.active():
            if before is not None:
                run = resumed_run(trainer, before, options.reduce_on_plateau is not None)
                run = replace(run, step=0, _progress=EpochProgress())
            else:
                width = getattr(trainer.model, "n_in", None)
                x = checks.features(X, backend, width=width)
                if classes is None and labels.text_of(y, "y") is not None:
                    raise DataError("y: labels of text need classes=[...], those of all batches")
                run = new_run(trainer, x, y if classes is None else classes, backend)
                run = replace(run, feature_names=checks.feature_names(X))
            if options.metrics is not None:
                found = checks.named_metrics(options.metrics, trainer.loss, run.outputs)
                run = replace(run, metrics=found)
            data: Any = run._dataset(X, y, weight)
            run = replace(run, _one_dimensional=checks.one_dimensional(y))
            checked: Any = run._dataset(**held_out, name="validation ") if held_out else None
            checks.check_metrics(run.metrics, data.y)
            try_out(run, data)
            monitors = options.early_stopping, options.reduce_on_plateau
            run = callbacks.start_monitors(run, data, checked, *monitors)
        # A graph of a GPU is bound to the arrays of a batch: making it takes longer than it saves.
        compiled = trainer.compile and backend.compiler != "graph"
        parts = trainer.model, trainer.loss, trainer.optimizer
        executor = EpochExecutor(
            make_step,
            parts,
            is_mean(trainer.loss),
            compiled,
            vectors=joined_parameters(trainer.optimizer),
        )
        return cls(run, executor, checked, options, data)

    def step(
        self, run: Run, batch: Any, first: int, where: str, interrupted: list[int]
    ) -> tuple[Run, float]:
        """Make a step; return the run and the sum of the losses of the rows."""
        X, y, weight = batch
        checks.check_feature_names(X, run.feature_names)
        run._check_reachable(X=X, y=y, sample_weight=weight)
        try:
            data: Any = run._dataset(X, y, weight)
        except DataError as error:
            raise DataError(f"{where}{error}") from None
        self.some, self.rows = data, len(data)
        scale = None if run._scale == 1 else run.backend.asarray(run._scale, run.backend.dtype)
        key = rng.key(run.trainer.seed, run.epoch)
        end = run_epochs(
            self.executor,
            run.params,
            run.state,
            Epochs(data, len(data), [key], None, scale, first),
            interrupted,
            packed=True,
        )
        if not end.finite or not math.isfinite(end.losses[0]):
            what = "loss" if end.finite else "parameters"
            raise divergence_error(
                _unpacked(run), data, f"{where}the {what} stopped being finite", 1
            )
        return replace(run, params=end.params, state=end.state), end.losses[0]

    def end_epoch(self, run: Run, loss: float, history: dict[str, list[float]]) -> Run:
        """Return the run after an epoch; its values are added to the history."""
        run = _unpacked(run)
        values, scale = {"loss": loss}, run._scale
        with run.backend.active():
            if self.held_out is not None:
                found = run._evaluate(self.held_out, run.metrics)
                values |= {f"validation_{name}": number for name, number in found.items()}
            run = replace(run, epoch=run.epoch + 1, _history=history)
            monitors = self.options.early_stopping, self.options.reduce_on_plateau
            run = callbacks.update_monitors(run, values, *monitors)
        values |= {} if self.options.reduce_on_plateau is None else {"scale": scale}
        record(history, values, run.epoch)
        return run


class _Batches:
    """The batches of each epoch."""

    def __init__(self, given: Batches, epochs: int, steps: int | None) -> None:
        self.steps, self.epoch = steps, 0
        self._make: Callable[[], Iterable[Any]] | None = given if callable(given) else None
        if self._make is None:
            if not hasattr(given, "__iter__"):
                raise TypeError(
                    "batches: expected batches (X, y) or (X, y, sample_weight), or a function that "
                    f"returns them anew for each epoch, got {given!r:.80}"
                )
            once: Any = iter(given)
            if once is given and steps is None and epochs > 1:
                raise ValueError(
                    f"batches: a generator ends with the first of {epochs} epochs: give the "
                    "function that makes it, or steps= batches an epoch"
                )
            # Batches go on where an epoch ends, if its steps are counted.
            goes_on = once is given or steps is not None
            self._make = lambda: once if goes_on else given

    def of_epoch(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield X, y, weight of the batches of the next epoch; raise DataError where they end."""
        assert self._make is not None
        self.epoch += 1
        count = 0
        for batch in self._make():
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                raise DataError(
                    f"batch {count + 1} of epoch {self.epoch}: expected (X, y) or (X, y, "
                    f"sample_weight), got a {type(batch).__name__}"
                )
            count += 1
            yield _in_memory(*batch)
            if count == self.steps:
                return
        if self.steps is not None or not count:
            wanted = f"of the {self.steps} steps of epoch" if self.steps else "in epoch"
            raise DataError(f"batches: they ended after {count} {wanted} {self.epoch}")


def _in_memory(X: Any, y: Any, weight: Any = None) -> tuple[Any, Any, Any]:
    """Return a batch with the parts of sources read."""
    given = {"X": X, "y": y, "sample_weight": weight}
    for name, x in given.items():
        if checks.is_source(x):
            from .data.sources.reading import reader_of

            given[name] = labels.decoded(reader_of(x, name)[:])
    return given["X"], given["y"], given["sample_weight"]
