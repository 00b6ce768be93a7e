"""Callbacks: early stopping, plateaus, and functions that are called after each epoch.

Early stopping and plateaus monitor one metric of the history. Their state is a `MonitorState`, a
part of the run, so that a run that is continued is monitored as if it had not been interrupted.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ._validation import check_choice, check_integer, check_number
from .data.dataset import Dataset
from .metrics import METRICS, SMALLER_IS_BETTER
from .progress import write_line
from .run import Run, with_run

__all__ = ["EarlyStopping", "MonitorState", "ReduceOnPlateau", "Report"]


class MonitorState(NamedTuple):
    """The state of a monitor: the best value, its epoch, and the number of epochs since.

    Examples
    --------
    >>> from portnet.callbacks import EarlyStopping, MonitorState
    >>> EarlyStopping().update(MonitorState("loss"), 0.5, epoch=1)
    MonitorState(monitor='loss', best=0.5, epoch=1, epochs_since=0)
    """

    monitor: str
    best: float = math.nan
    epoch: int = 0
    epochs_since: int = 0


@dataclass(frozen=True)
class _Monitor:
    """Monitors one metric: the base of EarlyStopping and ReduceOnPlateau."""

    monitor: str | None = None
    patience: int = 10
    min_change: float = 0.0
    mode: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.monitor, str | None):
            raise TypeError(f"{name}: expected monitor as a name, got {self.monitor!r}")
        object.__setattr__(self, "patience", check_integer(f"{name}: patience", self.patience, 1))
        check_number(self, "min_change", "a finite min_change >= 0", lambda d: 0 <= d < math.inf)
        if self.mode is not None:
            check_choice("mode", self.mode, ("min", "max"))

    def start(self, names: list[str], before: MonitorState | None) -> MonitorState:
        """Return the state to start from; raise ValueError unless `monitor` is in the history."""
        default = "validation_loss" if "validation_loss" in names else "loss"
        monitor = default if self.monitor is None else self.monitor
        if (
            monitor.startswith("validation_")
            and monitor not in names
            and "validation_loss" not in names
        ):
            raise ValueError(
                f"{type(self).__name__}: {monitor!r} needs validation rows: give fit "
                "validation=0.1, or validation=(X, y)"
            )
        check_choice("metric to monitor", monitor, names)
        self._sign(monitor)
        if before is None or before.monitor != monitor:
            return MonitorState(monitor)
        return before._replace(epochs_since=0) if before.epochs_since >= self.patience else before

    def update(self, state: MonitorState, value: float, epoch: int) -> MonitorState:
        """Return the next state: better means by more than `min_change`; NaN is never better."""
        gain = self._sign(state.monitor) * (value - state.best)
        if gain > self.min_change or (math.isnan(state.best) and not math.isnan(value)):
            return MonitorState(state.monitor, value, epoch)
        return state._replace(epochs_since=state.epochs_since + 1)

    def _sign(self, monitor: str) -> int:
        """1 where larger is better, -1 where smaller is."""
        if self.mode is not None:
            return 1 if self.mode == "max" else -1
        metric = monitor.removeprefix("validation_")
        if metric == "loss" or metric in SMALLER_IS_BETTER:
            return -1
        if metric in METRICS:
            return 1
        raise ValueError(
            f"{type(self).__name__}: is a larger {monitor} better, or a smaller one? Say "
            'mode="max" or mode="min"'
        )


@dataclass(frozen=True)
class EarlyStopping(_Monitor):
    """Stop after `patience` epochs without improvement; keep the best parameters.

    Parameters
    ----------
    monitor : str, optional
        A name of the history, such as "validation_accuracy"; by default "validation_loss", or
        "loss" without validation rows. The training loss is averaged over the steps of the epoch,
        so it belongs to slightly older parameters than those that are kept; metrics of the training
        rows are computed after the epoch.
    patience : int
        The number of epochs without improvement after which training stops.
    min_change : float
        An improvement is a change by more than this.
    mode : {"min", "max"}, optional
        Whether smaller or larger is better; known for portnet's own losses and metrics.
    restore : bool
        Whether the run that `fit` returns has the parameters of the best epoch, also if training
        ended for another reason; else it has the last ones.

    Examples
    --------
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error", portnet.SGD(0.1))
    >>> X, y = [[-1.0], [0.0], [1.0]], [-2.0, 0.0, 2.0]
    >>> stopping = portnet.EarlyStopping("loss", patience=3, min_change=1e-3)
    >>> run = trainer.fit(X, y, epochs=1000, early_stopping=stopping)
    >>> run.epoch < 1000, run.best_epoch == run.epoch - 3
    (True, True)
    """

    restore: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.restore, bool):
            raise TypeError(f"EarlyStopping: restore is True or False, got {self.restore!r}")


@dataclass(frozen=True)
class ReduceOnPlateau(_Monitor):
    """Multiply all updates by `factor` after `patience` epochs without improvement.

    Works with any optimizer and schedule, because it scales the updates: Trainer multiplies them by
    `scale`, which starts at 1 and is in the history.

    Parameters
    ----------
    monitor, patience, min_change, mode
        As in `EarlyStopping`.
    factor : float
        0 < factor < 1.
    min_scale : float
        The smallest scale.

    Examples
    --------
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error", portnet.SGD(0.1))
    >>> X, y = [[-1.0], [0.0], [1.0]], [-2.0, 0.0, 2.0]
    >>> plateau = portnet.ReduceOnPlateau("loss", patience=3, min_change=1e-3, factor=0.5)
    >>> run = trainer.fit(X, y, epochs=1000, reduce_on_plateau=plateau)
    >>> run.history["scale"][0], run.history["scale"][-1]
    (1.0, 0.0001)
    """

    patience: int = 5
    factor: float = field(default=0.1, kw_only=True)
    min_scale: float = field(default=1e-4, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "factor", "0 < factor < 1", lambda f: 0 < f < 1)
        check_number(self, "min_scale", "0 <= min_scale < 1", lambda f: 0 <= f < 1)

    def reduce(self, state: MonitorState, scale: float) -> tuple[MonitorState, float]:
        """Return the state and the scale for the next epoch."""
        if state.epochs_since < self.patience:
            return state, scale
        return state._replace(epochs_since=0), max(scale * self.factor, self.min_scale)


def start_monitors(
    run: Run,
    data: Dataset,
    held_out: Dataset | None,
    stopping: EarlyStopping | None,
    plateau: ReduceOnPlateau | None,
) -> Run:
    """Return the run with the states of its monitors; raise ValueError for unknown names."""
    names = ["loss", *run.metrics]
    if held_out is not None:
        names = ["loss", *(f"validation_{name}" for name in names)]
    monitors, best = dict(run._monitors), run._best
    if stopping is not None and not _is_best_valid(run, data, held_out, names):
        monitors, best = {}, None  # other rows or another loss: values are not comparable
    if plateau is not None:
        monitors["plateau"] = plateau.start(names, monitors.get("plateau"))
    if stopping is not None:
        monitors["early_stopping"] = stopping.start(names, monitors.get("early_stopping"))
        best = best if monitors["early_stopping"].epoch else None
    return replace(run, _monitors=monitors, _best=best)


def _is_best_valid(run: Run, data: Dataset, held_out: Dataset | None, names: list[str]) -> bool:
    """Tell whether the best parameters still have the value for which they were kept."""
    state = run._monitors.get("early_stopping")
    if state is None or run._best is None or state.monitor not in names or state.monitor == "loss":
        return True  # nothing to compare, or known after an epoch only
    found = replace(run, params=run._best)._evaluate(held_out or data, run.metrics)
    number = found[state.monitor.removeprefix("validation_")]
    return math.isclose(number, state.best, rel_tol=1e-4, abs_tol=1e-6)


def update_monitors(
    run: Run,
    values: dict[str, float],
    stopping: EarlyStopping | None,
    plateau: ReduceOnPlateau | None,
) -> Run:
    """Return the run after its monitors got the values of its last epoch."""
    if stopping is None and plateau is None:
        return run
    monitors = dict(run._monitors)
    if plateau is not None:
        state = monitors["plateau"]
        state = plateau.update(state, values[state.monitor], run.epoch)
        monitors["plateau"], scale = plateau.reduce(state, run._scale)
        run = replace(run, _scale=scale)
    if stopping is not None:
        state = monitors["early_stopping"]
        state = stopping.update(state, values[state.monitor], run.epoch)
        monitors["early_stopping"] = state
        if state.epoch == run.epoch:
            run = replace(run, _best=run.params)
        if state.epochs_since >= stopping.patience:
            best = (
                f"best in epoch {state.epoch}, {state.best:.4g}"
                if state.epoch
                else "NaN in every epoch"
            )
            run = replace(run, stopped=f"early stopping: {state.monitor} was {best}")
    return replace(run, _monitors=monitors)


@dataclass(frozen=True)
class Report:
    """The argument of a callback, after each epoch.

    Attributes
    ----------
    epoch, epochs : int
        The number of epochs so far, and in the end.
    metrics : dict of floats
        The last value of each list of the history: ``report.metrics["validation_loss"]``.
    seconds : float
        The duration of the epoch.
    run : Run
        The run so far, with the parameters of this epoch; it can be kept and used.

    Examples
    --------
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error", portnet.SGD(0.1))
    >>> X, y = [[-1.0], [0.0], [1.0]], [-2.0, 0.0, 2.0]
    >>> def good_enough(report):
    ...     return report.metrics["loss"] < 0.01  # True ends the training
    >>> run = trainer.fit(X, y, epochs=1000, callbacks=[good_enough])
    >>> run.epoch < 1000
    True
    """

    epoch: int
    epochs: int
    metrics: dict[str, float]
    seconds: float
    run: Run = field(repr=False)
    _data: Dataset | None = field(default=None, repr=False)  # the training rows, for Diagnose


Callback = Callable[[Report], object]  # True ends training


def report_epoch(report: Report, callbacks: Iterable[Callback], verbose: bool) -> Run:
    """Call the callbacks with the report; return the run, which one may have stopped."""
    run = report.run
    if verbose:
        words = "  ".join(f"{name} {number:.4g}" for name, number in report.metrics.items())
        write_line(f"epoch {report.epoch}/{report.epochs}  {words}  {report.seconds:.1f} s")
    for call in callbacks:
        name = getattr(call, "__name__", repr(call))
        try:
            answer = call(report)
        except BaseException as error:
            if isinstance(error, Exception):
                error.add_note(
                    f"in callback {name} after epoch {run.epoch}: see this error's `run`"
                )
            if isinstance(error, StopIteration):  # which would end the loop silently
                raise with_run(RuntimeError(f"callback {name} raised {error!r}"), run) from error
            raise with_run(error, run)  # noqa: B904 (the error itself)
        if not isinstance(answer, bool | np.bool_ | None):
            message = f"callback {name}: expected True to stop, or False or None, got {answer!r}"
            raise with_run(TypeError(message), run)
        if answer:
            run = replace(run, stopped=f"stopped by callback {name}")
    if verbose and run.stopped:
        write_line(run.stopped)
    return run
