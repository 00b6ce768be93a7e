"""What looks at a training after each epoch: early stopping, plateaus, callbacks.

Early stopping and plateaus watch one number of the history. What they remember from epoch to epoch
is a `Watch`, a part of the run, so that a training that goes on goes on watching where it was.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ._validation import check_choice, check_integer, check_number
from .data.dataset import Dataset
from .metrics import METRICS, SMALLER_IS_BETTER
from .run import Run, with_run

__all__ = ["EarlyStopping", "ReduceOnPlateau", "Report", "Watch"]


class Watch(NamedTuple):
    """What watching a number remembers: its best value, the epoch of that, how many are since.

    Examples
    --------
    >>> from portnet.callbacks import EarlyStopping, Watch
    >>> EarlyStopping().watch(Watch("loss"), 0.5, epoch=1)
    Watch(monitor='loss', best=0.5, epoch=1, since=0)
    """

    monitor: str
    best: float = math.nan
    epoch: int = 0
    since: int = 0


@dataclass(frozen=True)
class _Watching:
    """What early stopping and plateaus share: which number they watch, and what better means."""

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

    def begin(self, names: list[str], before: Watch | None) -> Watch:
        """Return what to go on from; raise ValueError unless `monitor` is a name of the history."""
        default = "validation_loss" if "validation_loss" in names else "loss"
        monitor = default if self.monitor is None else self.monitor
        without = monitor not in names and "validation_loss" not in names
        if without and monitor.startswith("validation_"):
            raise ValueError(
                f"{type(self).__name__}: {monitor!r} needs validation rows: give fit "
                "validation=0.1, or validation=(X, y)"
            )
        check_choice("number to monitor", monitor, names)
        self._sign(monitor)
        if before is None or before.monitor != monitor:
            return Watch(monitor)
        return before._replace(since=0) if before.since >= self.patience else before

    def watch(self, watch: Watch, value: float, epoch: int) -> Watch:
        """Return the next watch: better is by more than `min_change`; NaN is never better."""
        gain = self._sign(watch.monitor) * (value - watch.best)
        if gain > self.min_change or (math.isnan(watch.best) and not math.isnan(value)):
            return Watch(watch.monitor, value, epoch)
        return watch._replace(since=watch.since + 1)

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
class EarlyStopping(_Watching):
    """Stop after `patience` epochs in which a number did not get better; keep the best parameters.

    Parameters
    ----------
    monitor : str, optional
        A name of the history, such as "validation_accuracy"; by default the loss of the validation
        rows, or of the training where there are none. The training's loss is what it was before
        each step of the epoch, so it tells of parameters a little older than those that are kept; a
        metric of the training rows is measured after the epoch.
    patience : int
        So many epochs without a better number end the training.
    min_change : float
        Better is by more than this.
    mode : {"min", "max"}, optional
        Whether smaller or larger is better; portnet's own losses and metrics know it.
    restore : bool
        Whether the run that `fit` returns predicts with the parameters of the best epoch, also
        where training ended for another reason; else with those of the last.

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
class ReduceOnPlateau(_Watching):
    """Multiply all updates by `factor` after `patience` epochs in which a number got no better.

    Works with any optimizer and schedule, because the updates are what shrinks: Trainer multiplies
    them by `scale`, which starts at 1 and is a list of the history.

    Parameters
    ----------
    monitor, patience, min_change, mode
        As in `EarlyStopping`.
    factor : float
        0 < factor < 1.
    lowest : float
        The scale shrinks no further than to this.

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
    lowest: float = field(default=1e-4, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "factor", "0 < factor < 1", lambda f: 0 < f < 1)
        check_number(self, "lowest", "0 <= lowest < 1", lambda f: 0 <= f < 1)

    def reduce(self, watch: Watch, scale: float) -> tuple[Watch, float]:
        """Return the watch and the scale for the next epoch."""
        if watch.since < self.patience:
            return watch, scale
        return watch._replace(since=0), max(scale * self.factor, self.lowest)


def begin(
    run: Run,
    data: Dataset,
    held_out: Dataset | None,
    stopping: EarlyStopping | None,
    plateau: ReduceOnPlateau | None,
) -> Run:
    """Return the run with the watches to begin with; raise ValueError for unknown names."""
    names = ["loss", *run.metrics]
    if held_out is not None:
        names = ["loss", *(f"validation_{name}" for name in names)]
    watches, best = dict(run._watches), run._best
    if stopping is not None and not _still_true(run, data, held_out, names):
        watches, best = {}, None  # other rows, or another loss: what was best means nothing
    if plateau is not None:
        watches["plateau"] = plateau.begin(names, watches.get("plateau"))
    if stopping is not None:
        watches["early_stopping"] = stopping.begin(names, watches.get("early_stopping"))
        best = best if watches["early_stopping"].epoch else None
    return replace(run, _watches=watches, _best=best)


def _still_true(run: Run, data: Dataset, held_out: Dataset | None, names: list[str]) -> bool:
    """Tell whether the best parameters still have the number for which they were kept."""
    watch = run._watches.get("early_stopping")
    if watch is None or run._best is None or watch.monitor not in names or watch.monitor == "loss":
        return True  # nothing to compare, or what only an epoch can tell
    found = replace(run, params=run._best)._evaluate(held_out or data, run.metrics)
    number = found[watch.monitor.removeprefix("validation_")]
    return math.isclose(number, watch.best, rel_tol=1e-4, abs_tol=1e-6)


def after_epoch(
    run: Run,
    numbers: dict[str, float],
    stopping: EarlyStopping | None,
    plateau: ReduceOnPlateau | None,
) -> Run:
    """Return the run after its watches saw the numbers of its last epoch."""
    if stopping is None and plateau is None:
        return run
    watches = dict(run._watches)
    if plateau is not None:
        watch = watches["plateau"]
        watch = plateau.watch(watch, numbers[watch.monitor], run.epoch)
        watches["plateau"], scale = plateau.reduce(watch, run._scale)
        run = replace(run, _scale=scale)
    if stopping is not None:
        watch = watches["early_stopping"]
        watch = stopping.watch(watch, numbers[watch.monitor], run.epoch)
        watches["early_stopping"] = watch
        if watch.epoch == run.epoch:
            run = replace(run, _best=run.params)
        if watch.since >= stopping.patience:
            best = (
                f"best in epoch {watch.epoch}, {watch.best:.4g}"
                if watch.epoch
                else "never a number"
            )
            run = replace(run, stopped=f"early stopping: {watch.monitor} was {best}")
    return replace(run, _watches=watches)


@dataclass(frozen=True)
class Report:
    """What a callback is given after each epoch.

    Attributes
    ----------
    epoch, epochs : int
        How many epochs are trained, and how many it will be.
    numbers : dict of floats
        The last number of each list of the history: ``report.numbers["validation_loss"]``.
    seconds : float
        How long the epoch took.
    run : Run
        The run so far, with the parameters of this epoch; it can be kept and used.

    Examples
    --------
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error", portnet.SGD(0.1))
    >>> X, y = [[-1.0], [0.0], [1.0]], [-2.0, 0.0, 2.0]
    >>> def good_enough(report):
    ...     return report.numbers["loss"] < 0.01  # True ends the training
    >>> run = trainer.fit(X, y, epochs=1000, callbacks=[good_enough])
    >>> run.epoch < 1000
    True
    """

    epoch: int
    epochs: int
    numbers: dict[str, float]
    seconds: float
    run: Run = field(repr=False)


Callback = Callable[[Report], Any]  # True ends training


def tell(report: Report, callbacks: Iterable[Callback], verbose: bool) -> Run:
    """Return the run after the callbacks were given the report; one may have stopped it."""
    run = report.run
    if verbose:
        words = "  ".join(f"{name} {number:.4g}" for name, number in report.numbers.items())
        _write(f"epoch {report.epoch}/{report.epochs}  {words}  {report.seconds:.1f} s")
    for call in callbacks:
        name = getattr(call, "__name__", repr(call))
        try:
            answer = call(report)
        except BaseException as error:
            if isinstance(error, Exception):
                error.add_note(
                    f"in callback {name} after epoch {run.epoch}: see this error's `run`"
                )
            if isinstance(error, StopIteration):  # which would end the loop, and not be seen
                raise with_run(RuntimeError(f"callback {name} raised {error!r}"), run) from error
            raise with_run(error, run)  # noqa: B904 (the error itself)
        if not isinstance(answer, bool | np.bool_ | None):
            message = f"callback {name}: expected True to stop, or False or None, got {answer!r}"
            raise with_run(TypeError(message), run)
        if answer:
            run = replace(run, stopped=f"callback {name} said stop")
    if verbose and run.stopped:
        _write(run.stopped)
    return run


def _write(line: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(line)  # to stdout, without spoiling a progress bar
