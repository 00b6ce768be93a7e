"""Preparation of a fit: check options and data, move the data, begin or resume a run."""

import copy
import os
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import callbacks, rng, tree
from ._typing import Array, ArrayLike, State
from ._validation import check_integer, warn
from .backend import Backend, to_numpy
from .callbacks import Callback, EarlyStopping, ReduceOnPlateau
from .data import checks, labels
from .data.checks import DataError
from .data.dataset import Dataset
from .data.split import split
from .engine.full_batch import Gradient, gradient_of, value_and_grad
from .engine.rank_checks import check_equal
from .engine.ranks import current_ranks, is_first, summed_as
from .files.errors import ModelFileError
from .lbfgs import LBFGS
from .model_checks import try_out
from .protocols import TrainerLike
from .run import EpochProgress, Metric, Run

__all__ = [
    "Fit",
    "FitOptions",
    "check_ranks",
    "epoch_plan",
    "for_trainer",
    "full_gradient_of",
    "needs_all_rows",
    "new_run",
    "prepare",
    "resumed_run",
    "summed_as_in",
]


if TYPE_CHECKING:
    from .data.sources.dataset import SourceDataset
    from .files.checkpoint import Writer


def _sources() -> Any:
    """Return the module of datasets that are read in parts: most fits have none."""
    from .data.sources import dataset

    return dataset


def _checkpoints() -> Any:
    """Return the module of checkpoints, whose import takes 0.02 s: most fits have none."""
    from .files import checkpoint

    return checkpoint


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of `Trainer.fit`, which documents them, checked."""

    epochs: int = 10
    validation: object = None
    sample_weight: ArrayLike = None
    class_weight: object = None
    metrics: Iterable[Metric] | None = None
    early_stopping: Any = False
    reduce_on_plateau: Any = False
    callbacks: Iterable[Callback] = ()
    progress: bool | None = None
    verbose: bool = False
    resume: Run | str | PathLike[str] | bool | None = None
    checkpoint: Any = None
    every: int | str = 1
    keep: int = 1
    on_checkpoint_error: str = "raise"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", check_integer("epochs", self.epochs, 0))
        if isinstance(self.validation, bool | int | float | np.number):
            if self.validation is True or not 0 < self.validation < 1:
                raise ValueError(
                    f"validation: expected a fraction between 0 and 1, got {self.validation!r}"
                )
            object.__setattr__(self, "validation", float(self.validation))
        for name, kind in ("early_stopping", EarlyStopping), ("reduce_on_plateau", ReduceOnPlateau):
            given = getattr(self, name)
            given = kind() if given is True else given or None
            if not isinstance(given, kind | None):
                raise TypeError(
                    f"{name}: expected True or a portnet.{kind.__name__}, got {given!r}"
                )
            object.__setattr__(self, name, given)
        listed = isinstance(self.callbacks, Iterable) and not isinstance(self.callbacks, str)
        calls = tuple(self.callbacks or ()) if listed else (self.callbacks,)
        for call in calls:
            if not callable(call) or isinstance(call, type):
                raise TypeError(f"callbacks: expected functions of a report, got {call!r}")
        object.__setattr__(self, "callbacks", calls)
        if isinstance(self.metrics, Iterable) and not isinstance(self.metrics, str):
            object.__setattr__(self, "metrics", tuple(self.metrics))  # they are looked at twice
        for name in ("progress", "verbose"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, bool | int) or given not in (0, 1, 2)):
                raise TypeError(f"{name}: expected True or False, got {given!r}")
        given = self.checkpoint
        if given is not None:
            given = _checkpoints().Checkpoint.of(
                given, self.every, self.keep, self.on_checkpoint_error
            )
            object.__setattr__(self, "checkpoint", given)
        elif (self.every, self.keep, self.on_checkpoint_error) != (1, 1, "raise"):
            raise ValueError("every, keep and on_checkpoint_error need checkpoint=path")
        if not isinstance(self.resume, Run | None):
            resume = _checkpoints().path_to_resume(self.resume, given)
            object.__setattr__(self, "resume", resume)
        if not isinstance(self.resume, Run | str | PathLike | None):
            raise TypeError(
                "resume: expected a run that fit returned, or the path of a checkpoint, got "
                f"{self.resume!r}"
            )


class Fit(NamedTuple):
    """A prepared fit: the run before the first step, the data, the last epoch, what writes files.

    `held_out` is the validation data, `writer` writes checkpoints; each may be None.
    """

    run: Run
    data: "Dataset | SourceDataset"
    held_out: "Dataset | SourceDataset | None"
    last: int
    writer: "Writer | None"


def summed_as_in(resume: object) -> AbstractContextManager[None]:
    """Return the context of a fit that goes on from a checkpoint, which ranks may have written."""
    if not isinstance(resume, str | PathLike):
        return nullcontext()
    return summed_as(_checkpoints().sums_of(resume))


def prepare(trainer: TrainerLike, X: ArrayLike, y: ArrayLike, options: FitOptions) -> Fit:
    """Check everything, move the data, and begin or resume a run; nothing is trained."""
    before = options.resume
    if options.checkpoint is not None and is_first():
        options.checkpoint.check_writable()
    X, y, options = _with_sources(trainer, X, y, options)
    if not isinstance(before, str | PathLike):
        assert isinstance(before, Run | None)
        return _prepare(trainer, X, y, options, before, None)
    given = options.metrics if isinstance(options.metrics, tuple) else (options.metrics,)
    run, common, found = _checkpoints().resumed(before, trainer, given)
    if found:
        raise _mismatch(trainer, X, y, options, common, found)
    try:
        return _prepare(trainer, X, y, options, run, common)
    except DataError as error:
        found = _of_other_data(trainer, X, y, options, run, common, error)
        if not found:
            raise
        raise _checkpoints().mismatch(str(before), found) from error


def _with_sources(
    trainer: TrainerLike, X: ArrayLike, y: ArrayLike, options: FitOptions
) -> tuple[ArrayLike, ArrayLike, FitOptions]:
    """Return the data with sources opened, or read as a whole if they are small.

    Memory maps stay arrays where each step needs all rows.
    """
    held_out = options.validation if isinstance(options.validation, tuple | list) else ()
    if not any(map(checks.is_source, (X, y, options.sample_weight, *held_out))):
        return X, y, options
    from .data.sources.reading import in_memory_if_small

    if needs_all_rows(trainer) and isinstance(X, np.memmap):
        X = np.asarray(X)
    given = {"X": X, "y": y, "sample_weight": options.sample_weight}
    X, y, weight = in_memory_if_small(given).values()
    options = copy.copy(options)  # which are checked already
    object.__setattr__(options, "sample_weight", weight)
    if held_out:
        named = {f"validation {n}": a for n, a in checks.validation_set(held_out).items()}
        object.__setattr__(options, "validation", tuple(in_memory_if_small(named).values()))
    return X, y, options


def _prepare(
    trainer: TrainerLike,
    X: ArrayLike,
    y: ArrayLike,
    options: FitOptions,
    before: Run | None,
    common: dict[str, Any] | None,
) -> Fit:
    """Prepare a fit from the run before it; `common` is there if that is from a checkpoint."""
    fraction = options.validation
    if isinstance(trainer.optimizer, LBFGS) and options.reduce_on_plateau is not None:
        raise ValueError("reduce_on_plateau: LBFGS finds the length of its steps by itself")
    held_out = {} if isinstance(fraction, float) else checks.validation_set(fraction)
    arrays = {"X": X, "y": y, "sample_weight": options.sample_weight}
    arrays |= {f"validation {name}": a for name, a in held_out.items()}
    if before is not None and common is not None:  # a file: it goes where the data are
        to = checks.backend_for(**arrays)
        dtypes = {"dtype": before.backend.dtype}, {"dtype": to.dtype}
        before = before.to(to.name, device=to.device)
    if before is None:
        backend, width = checks.backend_for(**arrays), getattr(trainer.model, "n_in", None)
    else:
        before._check_reachable(**arrays)
        backend, width = before.backend, before.inputs
    names = checks.feature_names(X) if before is None else before.feature_names
    for name in ("X", "validation X"):
        if name in arrays:
            checks.check_feature_names(arrays[name], names, name)
    with backend.active():
        in_parts = checks.is_source(X)
        if in_parts:
            _sources().check_features(X, "X", width)
            _refuse_all_rows(trainer)
        else:
            X = checks.features(X, backend, width=width)
        if before is None:
            run = replace(new_run(trainer, X, y, backend), feature_names=names)
        else:
            run = resumed_run(trainer, before, options.reduce_on_plateau is not None)
            if common is not None:
                run = replace(run, stopped=before.stopped)
        if options.metrics is not None:
            chosen = checks.named_metrics(options.metrics, trainer.loss, run.outputs)
            run = replace(run, metrics=chosen)
        data: Any = run._dataset(X, y, options.sample_weight)
        run = replace(run, _one_dimensional=checks.one_dimensional(y))
        checked: Any = run._dataset(**held_out, name="validation ") if held_out else None
        checks.check_metrics(run.metrics, data.y)
        if isinstance(fraction, float):
            given = (trainer.seed,) if in_parts else (trainer.loss, trainer.seed)
            cut = _sources().split_source if in_parts else split
            data, checked = cut(fraction, data, *given)
        if options.class_weight is not None and in_parts:
            data = _sources().with_class_weights(options.class_weight, data)
        elif options.class_weight is not None:
            weights = labels.class_weights(
                options.class_weight, data, trainer.loss, run.outputs, run.classes
            )
            data = replace(data, weight=weights)
        try_out(run, checked or data)
        if isinstance(trainer.optimizer, LBFGS):
            _refuse_random_layers(run, data.X)
            run = _same_function(run, data, before)
        run = callbacks.start_monitors(
            run, data, checked, options.early_stopping, options.reduce_on_plateau
        )
        if run.stopped and before is not None and common is not None:  # as it ended
            run = replace(run, _monitors=before._monitors)
        if options.early_stopping and options.early_stopping.monitor is None and checked is None:
            warn(
                "early_stopping: there are no validation rows, so the training loss is monitored, "
                "which says nothing of new data. Give validation=0.1, or (X, y); or choose it by "
                'name: early_stopping=portnet.EarlyStopping("loss")'
            )
    if run.step and not common and run._progress.plan != epoch_plan(trainer, data):
        if before is not None and trainer is before.trainer:
            raise DataError(
                f"the run stopped after step {run.step} of an epoch with {run._progress.plan}, and "
                f"continues with the same only, got {epoch_plan(trainer, data)}"
            )
        run = replace(run, step=0, _progress=EpochProgress())
    if not common:
        _check_step(run, data)
    start, writer = run.epoch, None
    if common or options.checkpoint is not None:
        now = _in_common(run, data, checked, options, (common or {}).get("start", start))
        found = []
        if common:
            found = _checkpoints().differences(common | dtypes[0], now | dtypes[1])
        if found:
            raise _checkpoints().mismatch(str(options.resume), found)
        _check_step(run, data)
        if common and not isinstance(trainer.optimizer, LBFGS):  # else arrays would be broadcast
            try:
                _check_state(run.state, trainer.optimizer.init(run.params))
            except ValueError as error:
                raise ModelFileError(f"{error}: the file is damaged") from None
        start = now["start"]
        if common and (run.epoch, run.step) > (start + options.epochs, 0):
            there = f"{run.epoch - start} epochs" + (f" and {run.step} steps" if run.step else "")
            raise ValueError(
                f"epochs: {options.resume} was written after {there}, which count, got "
                f"epochs={options.epochs}: give epochs={run.epoch - start + bool(run.step)} or more"
            )
        if options.checkpoint is not None:
            _checkpoints().check_run(run, now)
            path = options.resume if isinstance(options.resume, str | PathLike) else ""
            resumed = common is not None and os.path.abspath(path) == options.checkpoint.path
            at = (run.epoch, run.step) if resumed else None
            if is_first():  # the other ranks wait
                writer = _checkpoints().Writer(
                    options.checkpoint, now, at, run.best_epoch or 0, path
                )
    return Fit(run, data, checked, start + options.epochs, writer)


def check_ranks(fit: Fit, options: FitOptions) -> None:
    """Raise DistributedError, on all ranks, unless each is about to make the same fit."""
    ranks = current_ranks()
    if ranks is None:
        return
    run, trainer = fit.run, fit.run.trainer

    def describe() -> dict[str, Any]:
        from .files.models import TRAINER

        return {
            **{n: _checkpoints().comparable_code(getattr(trainer, n), n) for n in TRAINER},
            **_in_common(run, fit.data, fit.held_out, options, run.epoch),
            "backend": f"{run.backend.name}, {run.backend.dtype}",
            "epoch": run.epoch,
            "step": run.step,
            "epochs": fit.last - run.epoch,
            "checkpoint": options.checkpoint is not None,
            "classes": _checkpoints().comparable_names(run.classes),
            "feature_names": _checkpoints().comparable_names(run.feature_names),
        }

    state = () if isinstance(trainer.optimizer, LBFGS) else run.state
    check_equal(describe, run.params, state, _checkpoints().differences)
    if isinstance(trainer.optimizer, LBFGS) and ranks.size > 1:
        warn("L-BFGS is not distributed: every rank computes all rows, with the same result")


def _mismatch(
    trainer: TrainerLike,
    X: ArrayLike,
    y: ArrayLike,
    options: FitOptions,
    common: dict[str, Any],
    found: list[str],
) -> Exception:
    """Return the error for the checkpoint of another trainer: it lists other data, too."""
    # Data that this trainer cannot take are not compared.
    with suppress(Exception):
        found += _compared(_prepared_anew(trainer, X, y, options), options, common)
    error: Exception = _checkpoints().mismatch(str(options.resume), list(dict.fromkeys(found)))
    return error


def _prepared_anew(trainer: TrainerLike, X: ArrayLike, y: ArrayLike, options: FitOptions) -> Fit:
    """Return the fit that these options would begin without a checkpoint."""
    plain: dict[str, Any] = {"every": 1, "keep": 1, "on_checkpoint_error": "raise"}
    plain |= {"resume": None, "checkpoint": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepare(trainer, X, y, replace(options, **plain))


def _compared(fit: Fit, options: FitOptions, common: dict[str, Any]) -> list[str]:
    """Return where the data and options of a fit differ from those of a checkpoint."""
    now = _in_common(fit.run, fit.data, fit.held_out, options, common["start"])
    now |= {"metrics": common["metrics"]} if options.metrics is None else {}
    found: list[str] = _checkpoints().differences(common, now)
    return found


def _of_other_data(
    trainer: TrainerLike,
    X: ArrayLike,
    y: ArrayLike,
    options: FitOptions,
    run: Run,
    common: dict[str, Any],
    error: DataError,
) -> list[str]:
    """Return where data that a resumed run cannot take differ from those that it was trained on.

    Empty if they could be used in no fit, as with NaN: then `error` says more.
    """
    names_of = _checkpoints().differing_names
    with suppress(Exception):
        fit = _prepared_anew(trainer, X, y, options)
        found = _compared(fit, options, common)
        for name in ("feature_names", "classes"):
            found += names_of(name, getattr(run, name), getattr(fit.run, name))
        return found
    arrays = {"X": X, "y": y, "sample_weight": options.sample_weight}
    with suppress(Exception):
        if isinstance(options.validation, tuple):
            held_out = checks.validation_set(options.validation)
            arrays |= {f"validation {name}": a for name, a in held_out.items()}
        found = names_of("feature_names", run.feature_names, checks.feature_names(X))
        for name, given in arrays.items():
            known = common["data"].get(name)
            if given is None or known is None:
                continue
            host = to_numpy(given)
            if host.ndim not in (1, 2):
                return []
            text = host.dtype.kind == "O" and all(isinstance(v, str) for v in host.flat)
            with np.errstate(over="ignore"):
                exact = text or host.dtype.kind in "iubUT"
                if not exact and not np.isfinite(host.astype(run.backend.dtype)).all():
                    return []
            columns = [shape[1] if len(shape) > 1 else 1 for shape in (known["shape"], host.shape)]
            if columns[0] != columns[1]:
                found.append(
                    f"data.{name}.shape[1]: {columns[0]} in the checkpoint, {columns[1]} now"
                )
        return found or [f"data: other values in the checkpoint, {error} now"]
    return []


def _in_common(
    run: Run,
    data: "Dataset | SourceDataset",
    held_out: "Dataset | SourceDataset | None",
    options: FitOptions,
    start: int,
) -> dict[str, Any]:
    """Return what a fit that resumes this one must have in common with it."""
    chosen = {
        "validation": options.validation if isinstance(options.validation, float) else None,
        "class_weight": options.class_weight,
        "early_stopping": options.early_stopping,
        "reduce_on_plateau": options.reduce_on_plateau,
    }
    arrays: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix, rows in (("", data), ("validation ", held_out)):
        if isinstance(rows, Dataset):
            named = {"X": rows.X, "y": rows.y, "sample_weight": rows.weight}
            arrays |= {prefix + name: a for name, a in named.items()}
        elif rows is not None:  # some rows stand for all
            shapes |= {prefix + name: shape for name, (shape, _) in rows.fingerprints.items()}
            arrays |= {prefix + name: a for name, (_, a) in rows.fingerprints.items()}
    found = _checkpoints().fingerprint(arrays, chosen)
    for name, shape in shapes.items():
        found["data"][name]["shape"] = list(shape)
    if run.trainer.params is not None:
        params = _checkpoints().fingerprint({}, {"params": run.trainer.params})["options"]
        found["options"] |= params
    if not isinstance(data, Dataset):  # files of the same rows may be taken in other orders
        assert run.trainer.batch_size is not None  # see `_refuse_all_rows`
        found["order"] = str(data.plan(run.trainer.batch_size, run.trainer.shuffle))
    ranks = current_ranks()
    if ranks is not None:
        found["distributed"] = ranks.sums
    return {"start": start, "metrics": sorted(run.metrics), **found}


def _check_step(run: Run, data: "Dataset | SourceDataset") -> None:
    """Raise ModelFileError for a step that is none of the epoch, as in a damaged file."""
    plan = epoch_plan(run.trainer, data)
    steps = -(-len(data) // (run.trainer.batch_size or len(data)))
    if run.step and not (run.step in range(steps) and run._progress.plan == plan):
        raise ModelFileError(
            f"resume: the run stopped after step {run.step} of an epoch with "
            f"{run._progress.plan!r:.80}, but this one has {steps} steps: the file is damaged"
        )


def epoch_plan(trainer: TrainerLike, data: "Dataset | SourceDataset") -> str:
    """Return a text of all that decides which rows each step of an epoch takes."""
    text = (
        f"{len(data)} rows, batch_size={trainer.batch_size}, seed={trainer.seed}, "
        f"shuffle={trainer.shuffle}"
    )
    if isinstance(data, Dataset):
        return text
    assert trainer.batch_size is not None  # see `_refuse_all_rows`
    return f"{text}, {data.plan(trainer.batch_size, trainer.shuffle)}"


def needs_all_rows(trainer: TrainerLike) -> bool:
    """Return whether each step is of all rows."""
    return isinstance(trainer.optimizer, LBFGS) or trainer.batch_size is None


def _refuse_all_rows(trainer: TrainerLike) -> None:
    """Raise DataError where each step needs all rows, which are read in parts."""
    if needs_all_rows(trainer):
        what = "LBFGS" if isinstance(trainer.optimizer, LBFGS) else "batch_size=None"
        raise DataError(
            f"X: {what} needs all rows in each step, but a source of this size is read in parts: "
            "give numpy.asarray(X) if it fits in memory, or take another optimizer with batches"
        )


def new_run(trainer: TrainerLike, X: Array, y: ArrayLike, backend: Backend) -> Run:
    """Return a run with initial parameters."""
    draw = rng.generator(trainer.seed) if trainer.params is None else rng.Undrawn()
    params, outputs = trainer.model.init(draw, X.shape[1])
    if trainer.params is not None:
        params = checks.parameters(trainer.params, params, backend)
    params = tree.map(lambda p: backend.asarray(p, backend.dtype), params)
    if checks.is_source(y):
        from .data.sources.reading import distinct_labels

        y = distinct_labels(y)
    classes = labels.class_names(y, trainer.loss, outputs)
    state = trainer.optimizer.init(params)
    return Run(trainer, params, state, backend, X.shape[1], outputs, classes=classes)


def for_trainer(trainer: TrainerLike, fit: Fit) -> Fit:
    """Return a new fit for another trainer of the same model, loss and kind of optimizer."""
    run, backend = fit.run, fit.run.backend
    with backend.active():
        params, _ = trainer.model.init(rng.generator(trainer.seed), run.inputs)
        params = tree.map(lambda p: backend.asarray(p, backend.dtype), params)
        state = trainer.optimizer.init(params)
    return fit._replace(run=replace(run, trainer=trainer, params=params, state=state))


def resumed_run(trainer: TrainerLike, run: Run, plateau: bool) -> Run:
    """Return a run that a trainer continues from the parameters after its last step."""
    scale, monitors = run._scale, dict(run._monitors)
    if run.state is None:
        raise ValueError(
            "resume: the run has no optimizer state: it was saved without it (state=True keeps "
            "it). To start anew from its parameters, give Trainer(..., params=run.params)"
        )
    if run.trainer is not trainer:
        if trainer.params is not None:
            raise ValueError(
                "resume: expected a trainer without params: the run has the parameters"
            )
        params, _ = trainer.model.init(rng.Undrawn(), run.inputs)
        checks.parameters(run.params, params, run.backend)
        ours, theirs = _kind(trainer.optimizer), _kind(run.trainer.optimizer)
        if ours != theirs:
            raise ValueError(
                f"resume: the run was trained with {theirs}, whose state does not fit {ours}. To "
                "start anew from its parameters, give Trainer(..., params=run.params)"
            )
        if not isinstance(trainer.optimizer, LBFGS):
            _check_state(run.state, trainer.optimizer.init(run.params))
    if not plateau or trainer.optimizer != run.trainer.optimizer:
        scale = 1.0
        monitors.pop("plateau", None)
    last = run.params if run._last is None else run._last
    return replace(
        run,
        trainer=trainer,
        params=last,
        stopped="",
        _last=None,
        _scale=scale,
        _monitors=monitors,
    )


def _check_state(state: State, fresh: State) -> None:
    """Raise ValueError unless a state has the pytree and the shapes of a new one."""

    def check_shape(old: ArrayLike, new: ArrayLike) -> None:
        if np.shape(old) != np.shape(new):
            raise ValueError(f"shape {np.shape(old)} for {np.shape(new)}")

    try:
        tree.map(check_shape, state, fresh)
    except ValueError as error:
        raise ValueError(f"resume: the optimizer's state does not fit: {error}") from None


def _kind(optimizer: object) -> str:
    """Return the class names of an optimizer and of the parts of a chain."""
    parts = getattr(optimizer, "parts", None)
    return type(optimizer).__name__ if parts is None else f"chain({', '.join(map(_kind, parts))})"


def _same_function(run: Run, data: Dataset, before: Run | None) -> Run:
    """Return the run of L-BFGS, with its memory if that belongs to the loss of these rows.

    If it had converged, it stays so under the same optimizer.
    """
    if before is None or run.state.gradient is None:
        return run
    function, vector, _ = value_and_grad(run.params, data, full_gradient_of(run))
    with np.errstate(over="ignore", invalid="ignore"):
        value, gradient = function(vector)
    same = bool(run.backend.xp.all(gradient == run.state.gradient))  # waits for the device
    if not same or float(value) != run.state.value:
        return replace(run, state=run.trainer.optimizer.init(run.params))
    status = run.state.status if run.trainer.optimizer == before.trainer.optimizer else ""
    return replace(run, state=run.state._replace(status=status), stopped=status)


def full_gradient_of(run: Run) -> Gradient:
    """Return (params, (X, y, weight)) -> loss, gradient as one vector, of a run."""
    return gradient_of(run.trainer.model, run.trainer.loss, run.backend, run.trainer.compile)


def _refuse_random_layers(run: Run, X: Array) -> None:
    """Raise ValueError for models with random outputs: L-BFGS compares values between steps."""
    x, model = X[: min(32, X.shape[0]), ...], run.trainer.model
    still, _ = model.forward(run.params, x)
    drawn, _ = model.forward(run.params, x, rng.key(run.trainer.seed, 0))
    if bool(run.backend.xp.any(still != drawn)):  # waits for the device
        raise ValueError(
            "LBFGS needs a loss that is the same in every evaluation, but this model draws at "
            "random in training (Dropout): use another optimizer, or leave such layers out"
        )
