"""Trainer: trains a model on data; its loop over epochs is `_epochs`.

Functions are pure, except for that loop, which replaces the run after each epoch. The host reads
values from the device once per epoch; within an epoch, losses are added up on the device.
"""

import math
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from . import callbacks, rng, summary
from ._typing import Array, ArrayLike, Params
from ._validation import (
    FORWARD_CALL,
    LOSS_CALL,
    check_integer,
    check_methods,
    check_signature,
    name_of,
    options_by_name,
    refuse_unknown,
    resolve,
)
from .backend import namespace
from .callbacks import Callback, EarlyStopping, ReduceOnPlateau, Report
from .data.dataset import Dataset
from .divergence import divergence_error, warn_of_unscaled_inputs
from .engine.epoch import EpochExecutor, first_state, quiet, run_epochs
from .engine.epoch_state import Epochs
from .engine.full_batch import Gradient, value_and_grad
from .engine.inference import explain_forward
from .engine.interrupts import PAUSE
from .engine.packing import unpacked
from .engine.rank_checks import agreed_stop, check_parameters
from .engine.ranks import (
    AgreedInterrupt,
    current_ranks,
    fit_signals,
    is_agreed,
    is_first,
    of_first_rank,
    together,
)
from .engine.row_orders import RowOrders
from .layers import Layer
from .lbfgs import LBFGS
from .losses import LOSSES, Loss
from .optimizers import OPTIMIZERS, Adam, Optimizer
from .preparation import (
    Fit,
    FitOptions,
    check_ranks,
    epoch_plan,
    full_gradient_of,
    prepare,
    summed_as_in,
)
from .progress import progress_bar
from .protocols import TrainerLike
from .run import BLOCK, EpochProgress, Metric, Run, is_mean, record, warn, with_run
from .training import make_step
from .transforms import joined_parameters, refuse_transforms

__all__ = ["Trainer", "interrupted_run", "train"]

if TYPE_CHECKING:
    from .engine.sharded_step import ShardedStep
    from .files.checkpoint import Writer


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains a model: the loss, the optimizer, and how batches are taken from the data.

    Parameters
    ----------
    model : layer
        Anything with init, forward and backward: `portnet.mlp`, `portnet.Chain`, your own.
    loss : str or callable
        A name of `portnet.losses.LOSSES`, one of the losses, or your own function.
    optimizer : str or optimizer
        A name of `portnet.optimizers.OPTIMIZERS` or "lbfgs", one of the optimizers, or your own.
    batch_size : int or None
        Rows in a step; None is batch gradient descent: all rows in every step, in their order.
        L-BFGS takes all rows in any case, and an epoch is one of its iterations.
    seed : int
        Draws the initial parameters, the order of the rows and what layers drop.
    shuffle : bool or "full"
        Whether batches take the rows in a new order in each epoch. Of data that are read in parts,
        True takes blocks of rows in a new order, and mixes the rows of at least 16 blocks in
        memory; "full" mixes all rows. In a large file each is then read by itself, which takes
        about a microsecond a row. In memory both are the same.
    params : pytree of arrays, optional
        Initial parameters, in the shapes of the model's own; nothing writes into them.
    compile : bool
        Whether steps are traced once and replayed: on NumPy and JAX as by `portnet.compile`, on
        CuPy as CUDA graphs. The same numbers come out, save that sums may be in another order;
        False makes every step eagerly.

    Examples
    --------
    >>> import portnet
    >>> net = portnet.mlp([2, 8, 1], "tanh")
    >>> trainer = portnet.Trainer(net, loss="squared_error", optimizer=portnet.Adam(0.05))
    >>> run = trainer.fit([[0.0, 0.0], [1.0, 1.0]], [0.0, 2.0], epochs=300)
    >>> run.history["loss"][-1] < 1e-3
    True
    """

    model: Layer
    loss: str | Loss
    optimizer: str | Optimizer | LBFGS = field(default_factory=Adam)
    batch_size: int | None = 128
    seed: int = 0
    shuffle: bool | str = True
    params: Params | None = field(default=None, repr=False)
    compile: bool = True

    def __new__(cls, *args: object, **options: object) -> "Trainer":
        """Refuse options of other names, with what to write instead."""
        refuse_unknown("Trainer", options, cls.__dataclass_fields__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", resolve("loss", self.loss, LOSSES))
        known: dict[str, Callable[[], Optimizer | LBFGS]] = {**OPTIMIZERS, "lbfgs": LBFGS}
        object.__setattr__(self, "optimizer", resolve("optimizer", self.optimizer, known))
        check_methods("a model", self.model, ("init", "forward", "backward"))
        check_signature(f"forward of {name_of(self.model)}", self.model.forward, *FORWARD_CALL)
        check_methods("a loss(pred, target, weight)", self.loss, ("__call__",))
        check_signature("a loss", self.loss, *LOSS_CALL)
        if not isinstance(self.optimizer, LBFGS):
            check_methods("an optimizer", self.optimizer, ("init", "update"))
            refuse_transforms(self.optimizer)
        for name, words in (("shuffle", ("full",)), ("compile", ())):
            given = getattr(self, name)
            if not isinstance(given, bool) and given not in words:
                choices = ", ".join(["True", *map(repr, words)])
                raise ValueError(f"{name}: expected {choices} or False, got {given!r}")
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, 1)
        check_integer("seed", self.seed, 0)

    @options_by_name(lambda: FitOptions.__dataclass_fields__, "epochs=10")
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        epochs: int = 10,
        validation: float | tuple[ArrayLike, ...] | None = None,
        sample_weight: ArrayLike = None,
        class_weight: object = None,
        metrics: Iterable[Metric] | None = None,
        early_stopping: EarlyStopping | bool = False,
        reduce_on_plateau: ReduceOnPlateau | bool = False,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        verbose: bool = False,
        resume: Run | str | PathLike[str] | bool | None = None,
        checkpoint: str | PathLike[str] | None = None,
        every: int | str = 1,
        keep: int = 1,
        on_checkpoint_error: str = "raise",
    ) -> Run:
        """Train from the initial parameters for a number of epochs and return the run.

        Parameters
        ----------
        X : (rows, features)
            An array of any library stays where it is, and the parameters are created there; NumPy
            arrays, lists and frames go to the backend, once. Cast to the backend's dtype.
            Memory maps, arrays of h5py, Zarr and dask, `portnet.data.parquet`, and anything else
            with shape, dtype and row slices are read in parts while training goes on, if they have
            more than 64 MB; y and weights may be in memory. See `shuffle`.
        y : (rows,) or (rows, outputs)
            Integer labels from 0 up, text, or probabilities (rows, classes) for softmax
            cross-entropy; two names or 0 and 1 for sigmoid cross-entropy; else targets, one column
            for each output.
        epochs : int
            How often to go through the data; 0 only initialises.
        validation : (X, y) or (X, y, sample_weight), or a fraction of the rows, optional
            Evaluated after each epoch. A fraction, 0 < f < 1, is set aside before training: rows
            that the seed draws, of every class its share where a row has one label. Of data that
            are read in parts, pieces of rows that lie together.
        sample_weight : (rows,), optional
            Counts each row that often: the loss of all rows is sum(w l) / sum(w). In a batch, w l
            is summed over its rows and divided by their number and by the mean of all weights: the
            loss, which divides by the weights of its batch, is multiplied by their mean.
        class_weight : dict of class: weight, or "balanced", optional
            Multiplies the weights of the training rows of each class; 1 for classes left out.
            "balanced" gives every class the same weight in all.
        metrics : names or functions (mean, target, weight) -> 0-d array
            Computed after each epoch on the validation rows, or on all training rows where there
            are none. By default none, or those of the resumed run.
        early_stopping : EarlyStopping or bool
            Ends training when the monitored metric stops improving, and keeps the parameters of the
            best epoch. True is ``EarlyStopping()``.
        reduce_on_plateau : ReduceOnPlateau or bool
            Makes the updates smaller when the monitored metric stops improving.
        callbacks : functions
            Each is called with a `Report` after each epoch; one that returns True ends training.
        progress : bool, optional
            Whether to draw a progress bar; by default where stderr is a terminal, and in a
            notebook for a fit that takes a while.
        verbose : bool
            Whether to print a line with the metrics of each epoch.
        resume : Run or path or bool, optional
            A path is that of a checkpoint: training goes on exactly where it ended, as if it had
            not ended, until the fit that wrote it has `epochs` in all. Epochs of a run from which
            that fit began, as ``run.fit(..., checkpoint=path)`` does, do not count: give the same
            `epochs` as there. Fewer than it has are an error. True is the path of `checkpoint`, if
            it exists; it is an error where only older ones of it are left.
            From a run, training goes on for `epochs` more, with this trainer's optimizer (of the
            same kind), batch size and so on, as ``resume.fit(...)`` does with the run's own. An
            epoch that was interrupted then begins anew where the batches are others, and the scale
            of a plateau where the optimizer is another.
        checkpoint : path, optional
            Where to write the run from time to time, with all that continuing exactly needs, and at
            the end. `portnet.load` reads it. Only with it, SIGTERM, which ends jobs on clusters,
            ends training after the step, writes the file, and exits with status 143. A symbolic
            link stays: the file that it points to is written.
        every : int or str
            A number of epochs, or a text such as "500 steps" or "30 seconds"; within an epoch, a
            checkpoint is written up to 0.05 s after it is due.
        keep : int
            How many checkpoints stay: older ones as NAME-epoch-3, and under early stopping the
            first one after the best epoch, whose parameters `run.best` has, as NAME-best, in the
            folder of `checkpoint`. With more than one, files of these names are replaced, and those
            that an earlier fit with more than one has left are deleted when the first checkpoint of
            this fit has been written. Other files stay, also copies of a checkpoint.
        on_checkpoint_error : {"raise", "warn"}
            What to do if a checkpoint cannot be written. That it cannot be written at all is an
            error before training begins.

        Returns
        -------
        Run
            Ctrl-C ends training after the step and returns the run so far, with a warning that
            says how to go on; `stopped` is then not empty, which a script may want to look at.

        Raises
        ------
        DataError, TypeError, ValueError
            for data and options that cannot be used, before anything is computed. Features that are
            read in parts are checked when they are read: the error's `run` is that before the
            epoch.
        DivergenceError
            where the loss stops being finite.
        CheckpointError
            where a checkpoint cannot be written; the run so far is the error's `run`.
        ResumeMismatchError
            where a checkpoint belongs to other data or options: the message lists them.
        ModelFileError
            for a file that is no checkpoint, and for a run that a checkpoint cannot hold.
        """
        given = dict(
            epochs=epochs,
            validation=validation,
            sample_weight=sample_weight,
            class_weight=class_weight,
            metrics=metrics,
            early_stopping=early_stopping,
            reduce_on_plateau=reduce_on_plateau,
            callbacks=callbacks,
            progress=progress,
            verbose=verbose,
            resume=resume,
            checkpoint=checkpoint,
            every=every,
            keep=keep,
            on_checkpoint_error=on_checkpoint_error,
        )
        with together():
            options = FitOptions(**given)
        with summed_as_in(options.resume):
            return self._fit(X, y, options)

    def _fit(self, X: ArrayLike, y: ArrayLike, options: FitOptions) -> Run:
        with together():
            prepared = prepare(self, X, y, options)
        run = train(prepared, options)
        stopping = options.early_stopping
        return run.best if stopping and stopping.restore and run._best is not None else run

    def fit_batches(
        self,
        batches: Iterable[Any] | Callable[[], Iterable[Any]],
        *,
        epochs: int = 1,
        steps: int | None = None,
        classes: ArrayLike = None,
        validation: tuple[ArrayLike, ...] | None = None,
        metrics: Iterable[Metric] | None = None,
        early_stopping: EarlyStopping | bool = False,
        reduce_on_plateau: ReduceOnPlateau | bool = False,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        verbose: bool = False,
        resume: Run | None = None,
    ) -> Run:
        """Train on batches that the program makes itself, one step each, and return the run.

        `batch_size` and `shuffle` of the trainer do not matter. Data with row slices, such as
        memory maps, are for `fit`, which reads ahead.

        Parameters
        ----------
        batches : iterable, or function that returns one
            Of pairs X (rows, n_in), y (rows,) or (rows, n_out), or with sample_weight (rows,) as
            the third, of any number of rows. A function is called anew for each epoch, as a
            generator yields its batches only once. Weights count within their batch only.
        epochs : int
        steps : int, optional
            Batches of an epoch; by default until they end. With it they may be endless, and the
            next epoch goes on where one ends.
        classes : (classes,), optional
            The names of all classes, where labels are text.
        validation : (X, y) or (X, y, sample_weight), optional
            Evaluated after each epoch.
        metrics, early_stopping, reduce_on_plateau, callbacks, progress, verbose
            As in `fit`; metrics are of the validation set.
        resume : Run, optional
            The run to go on from, with this trainer's optimizer, of the same kind.

        Returns
        -------
        Run
            Ctrl-C ends training after a step; the steps of an epoch that was not finished are kept,
            but it does not count.

        Raises
        ------
        DataError, TypeError, ValueError
            for batches and options that cannot be used; `run` is the run so far.
        DivergenceError
            where the loss stops being finite.

        Examples
        --------
        >>> import numpy as np
        >>> import portnet
        >>> def batches(draw=np.random.default_rng(0)):
        ...     for _ in range(100):
        ...         X = draw.standard_normal((32, 2))
        ...         yield X, X[:, 0] * X[:, 1]
        >>> trainer = portnet.Trainer(portnet.mlp([2, 32, 1]), "squared_error", portnet.Adam(0.01))
        >>> run = trainer.fit_batches(batches, epochs=5)
        >>> run.epoch, run.history["loss"][-1] < 0.1
        (5, True)
        """
        from .batch_fits import fit_batches

        if not isinstance(resume, Run | None):
            raise TypeError(f"resume: expected a run, got {resume!r}")
        if isinstance(validation, int | float | np.number):
            raise ValueError("validation: expected (X, y): batches have no rows to set aside")
        options = FitOptions(
            epochs=epochs,
            validation=validation,
            metrics=metrics,
            early_stopping=early_stopping,
            reduce_on_plateau=reduce_on_plateau,
            callbacks=callbacks,
            progress=progress,
            verbose=verbose,
            resume=resume,
        )
        return fit_batches(self, batches, options, steps, classes)

    @options_by_name(lambda: FitOptions.__dataclass_fields__, "sample_weight=w")
    def explain(self, X: ArrayLike, y: ArrayLike, **options: Any) -> None:
        """Print how `fit` makes its steps of such data: compiled or eagerly, why, and of what.

        The options are those of `fit`. Nothing is trained. X is (rows, n_in), y (rows,) or (rows,
        n_out).
        """
        prepared = prepare(self, X, y, FitOptions(**options))
        if not isinstance(prepared.data, Dataset):
            prepared = prepared._replace(data=prepared.data.some)
        run, data = prepared.run, prepared.data
        assert isinstance(data, Dataset)
        if isinstance(self.optimizer, LBFGS):
            print("each iteration is of L-BFGS, which evaluates loss and gradient of all rows")  # noqa: T201
            return
        with closing(_executor(self, data.weight is not None)) as executor, run.backend.active():
            epochs = _some_epochs(run, data, range(run.epoch, run.epoch + 1), _row_orders(prepared))
            start = first_state(executor, run.params, run.state, epochs)
            with quiet():
                text = executor.explain(start, epochs)
        forward = explain_forward(self.model, run.backend, BLOCK, compiled=self.compile)
        print(f"{text}\n{forward}")  # noqa: T201

    def _repr_html_(self) -> str:
        return summary.trainer_html(self)

    def __getattr__(self, name: str) -> Any:
        hint = f": {name} is the run's. run = trainer.fit(X, y); run.{name}" * hasattr(Run, name)
        raise AttributeError(f"'Trainer' object has no attribute {name!r}{hint}")

    @options_by_name(lambda: FitOptions.__dataclass_fields__, "epochs=10")
    def epochs(self, X: ArrayLike, y: ArrayLike, **options: Any) -> Iterator[Run]:
        """Train like `fit`, which documents the options, and yield the run after every epoch.

        Leave the loop at any time. Each run is immutable, with the parameters of its epoch: it can
        be kept, compared and continued. With early stopping, `run.best` is the best one so far.
        X is (rows, n_in), y (rows,) or (rows, n_out).
        Ctrl-C raises KeyboardInterrupt after a step, and the run so far is the error's `run`.
        """
        with together():
            chosen = FitOptions(**options)
        with summed_as_in(chosen.resume):
            with together():
                prepared = prepare(self, X, y, chosen)
            check_ranks(prepared, chosen)
            runs = _epochs(prepared, chosen)
            resumed = isinstance(chosen.resume, str | PathLike)
            return _within(copy_context(), runs) if resumed else runs


def _within(context: Context, runs: Generator[Run, None, None]) -> Iterator[Run]:
    """Yield the runs of a generator, which works in a context of its own."""
    try:
        while (run := context.run(next, runs, None)) is not None:
            yield run
    finally:
        context.run(runs.close)


# The loop ---------------------------------------------------------------------------------------


def train(prepared: Fit, options: FitOptions) -> Run:
    """Return the run after all epochs, or after those before Ctrl-C."""
    check_ranks(prepared, options)
    run = prepared.run
    try:
        with fit_signals(options.checkpoint is not None) as interrupted:
            for trained in _epochs(prepared, options, interrupted):
                run = trained
            if interrupted:  # by a signal that came after the last step, as in the last write
                raise with_run(_ending(interrupted), run)
    except KeyboardInterrupt as error:
        if not is_agreed(error):  # the others go on: the job must end
            raise
        run = interrupted_run(getattr(error, "run", run), prepared.last)
    return run


def _epochs(
    prepared: Fit, options: FitOptions, interrupted: list[int] | None = None
) -> Generator[Run, None, None]:
    """Yield the run after every epoch; `interrupted` becomes non-empty on Ctrl-C.

    Without it, Ctrl-C is handled here, but not while the caller has the run.
    """
    run, data, held_out, last, writer = prepared
    trainer, steps_left = run.trainer, last - run.epoch
    history: dict[str, list[float]] = dict(run.history)
    executor, per_epoch = _executor(trainer, data.weight is not None), 1
    train: Callable[..., tuple[Run, float | None]]
    windows: Any = nullcontext()
    if isinstance(trainer.optimizer, LBFGS):
        train = partial(_one_iteration, function=full_gradient_of(run))
    else:
        per_epoch = -(-len(data) // (trainer.batch_size or len(data)))
        executor = replace(executor, planned=max(0, steps_left * per_epoch - run.step))
    if not isinstance(data, Dataset):
        from .source_epochs import train_epoch_of_source, windows_of

        windows = closing(found := windows_of(prepared, executor.averaged))
        train = partial(train_epoch_of_source, executor=executor, windows=found)
    elif not isinstance(trainer.optimizer, LBFGS):
        orders = _row_orders(prepared)
        train = partial(_train_epochs, executor=executor, history=history, orders=orders)
        if data.weight is not None and executor.averaged:
            with run.backend.active():
                weight = data.weight / run.backend.xp.mean(data.weight)
            train = partial(train, weight=weight)
    total = max(steps_left * per_epoch - run.step, 0)
    monitored = options.early_stopping, options.reduce_on_plateau
    watched = (*monitored, held_out, run.metrics, options.callbacks, options.verbose)
    some = data if isinstance(data, Dataset) else data.some
    ranks = current_ranks()
    alone = interrupted is not None and ranks is None and not any(map(bool, watched))
    shown = options.progress if is_first() else False
    with progress_bar(total, shown) as bar, closing(executor), windows:
        while run.epoch < last and not run.stopped:
            began, values = time.perf_counter(), {}
            handler: Any = nullcontext(interrupted)
            if interrupted is None:
                handler = fit_signals(options.checkpoint is not None)
            before = run.epoch
            with handler as signals, run.backend.active():
                scale = run._scale
                try:
                    # Nothing looks between epochs that are made alone.
                    count = last - run.epoch if alone and run.epoch else 1
                    count = count if writer is None else writer.epochs_until_due(count)
                    advance = partial(_advance, bar, writer, signals)
                    with quiet():
                        run, loss = train(run, data, advance, signals, count=count)
                except KeyboardInterrupt as error:  # an unfinished iteration of L-BFGS is lost
                    with_run(error, run)
                    raise
                signals[:] = [number for number in signals if number != PAUSE]
                if loss is not None:  # else Ctrl-C ended the epoch before its end
                    values = {"loss": loss} | _agreed_metrics(run, data, held_out, signals)
                    run = replace(run, epoch=run.epoch + 1, _history=history)
                    run = callbacks.update_monitors(run, values, *monitored)
            before_report = run
            try:
                with together() if values or signals else nullcontext():
                    if values:
                        values |= {} if options.reduce_on_plateau is None else {"scale": scale}
                        record(history, values, run.epoch)
                        if not bar.disable:
                            bar.set_postfix({"epoch": run.epoch} | values, refresh=False)
                        report = Report(
                            run.epoch, last, values, time.perf_counter() - began, run, some
                        )
                        verbose = options.verbose and is_first()
                        run = callbacks.report_epoch(report, options.callbacks, verbose)
                        run = replace(run, stopped=agreed_stop(run.stopped)) if ranks else run
                        if run.epoch == 1:
                            loss, calls = values["loss"], options.callbacks
                            warn_of_unscaled_inputs(run, some, loss, len(data), calls)
                    # A later signal ends the next epoch: the file has this one then.
                    ending = bool(signals)
                    if writer is not None:
                        _write(writer, run, run.epoch - before, now=ending)
            except AgreedInterrupt as error:  # of a callback, which the others know nothing of
                raise with_run(error, before_report)  # noqa: B904 (the error itself)
            if ending:
                raise with_run(_ending(signals), run)
            if values:
                yield run
    with together():
        if ranks is not None:
            check_parameters(run.params)
        if writer is not None:
            _write(writer, run, 0, now=True)


def _advance(bar: Any, writer: "Writer | None", signals: list[int], steps: int) -> None:
    """Count steps; let the epoch pause where a checkpoint is due within it."""
    bar.update(steps)
    if writer is not None and writer.advance(steps) and not signals:
        signals.append(PAUSE)


def _write(writer: "Writer", run: Run, epochs: int, now: bool) -> None:
    """Write a checkpoint if it is due, after so many more epochs, or now."""
    try:
        if writer.is_due(epochs) or now:
            writer.write(run, (run.epoch, run.step), run.best_epoch or 0)
    except Exception as error:
        ranks = current_ranks()
        if ranks is not None and not (epochs or now):  # the others are in the midst of an epoch
            ranks.pending = with_run(error, run)
            return
        raise with_run(error, run)  # noqa: B904 (the error itself)


def _ending(signals: list[int]) -> BaseException:
    """Return what ends a fit that a signal has ended: after SIGTERM, the usual exit status."""
    if signal.SIGTERM in signals:
        return SystemExit(128 + signal.SIGTERM)
    return KeyboardInterrupt() if current_ranks() is None else AgreedInterrupt()


def _executor(trainer: TrainerLike, weighted: bool) -> EpochExecutor:
    """Return the executor of a trainer's steps, for losses that are means or sums over rows."""
    averaged, loss = is_mean(trainer.loss), trainer.loss
    loss = ScaledByBatchWeight(loss) if weighted and averaged else loss
    return EpochExecutor(
        make_step,
        (trainer.model, loss, trainer.optimizer),
        averaged,
        trainer.compile,
        vectors=joined_parameters(trainer.optimizer),
        sharded=_sharded_step,
    )


def _sharded_step(*parts: Any) -> "ShardedStep":
    """Return the step for several ranks; most fits need none."""
    from .sharded_step import make_sharded_step

    return make_sharded_step(*parts)


def _row_orders(prepared: Fit) -> RowOrders | None:
    """Return the orders of the rows in all epochs; None where the rows stay in theirs."""
    run, trainer = prepared.run, prepared.run.trainer
    if trainer.batch_size is None or not trainer.shuffle:
        return None
    ahead = not run.backend.is_host
    return RowOrders(trainer.seed, len(prepared.data), prepared.last, ahead)


def _some_epochs(run: Run, data: Dataset, numbers: range, orders: RowOrders | None) -> Epochs:
    """Return the epochs of these numbers."""
    trainer, backend = run.trainer, run.backend
    return Epochs(
        data,
        trainer.batch_size or len(data),
        [rng.key(trainer.seed, n) for n in numbers],
        None if orders is None else orders.draw(numbers),
        None if run._scale == 1 else backend.asarray(run._scale, backend.dtype),
    )


def _train_epochs(
    run: Run,
    data: Dataset,
    advance: Callable[[int], object],
    interrupted: list[int],
    executor: EpochExecutor,
    history: dict[str, list[float]],
    count: int,
    orders: RowOrders | None,
    weight: Array | None = None,
) -> tuple[Run, float | None]:
    """Train for up to `count` epochs, ending after 0.1 s or on Ctrl-C.

    `orders` has those of the rows, if they are shuffled; `weight`, if given, stands for that of the
    data.

    Returns the run before its last finished epoch is counted, and the loss of that; None if no
    epoch was finished. The losses of the epochs before it are in the history. The parameters are
    unpacked, and runs are made, in the end only.
    """
    trainer, rows = run.trainer, len(data)
    batch = trainer.batch_size or rows
    data = data if weight is None else replace(data, weight=weight)
    # What is reached so far changes in one assignment: an interrupt finds all of it, or nothing.
    now, losses = (0, run.params, run.state, run.step, run._progress), list[float]()
    finite, one_by_one, stop = True, 0, time.perf_counter() + 0.1
    try:
        while now[0] < count:
            done, params, state, step, progress = now
            at_once = executor.epochs_at_once(0.05, rows, -(-rows // batch))
            numbers = range(run.epoch + done, run.epoch + done + min(at_once, count - done))
            numbers = numbers[:1] if one_by_one else numbers
            end = run_epochs(
                executor,
                params,
                state,
                _some_epochs(run, data, numbers, orders),
                interrupted,
                done=step,
                sums=progress[:2],
                advance=advance,
                packed=True,
            )
            finite = end.finite and all(map(math.isfinite, end.losses))
            if not finite and len(numbers) > 1:  # which epoch is it? They are made again
                one_by_one, finite = len(numbers), True
                continue
            if not finite:
                break
            one_by_one -= one_by_one > 0
            ended = end.done * batch >= rows
            finished = end.losses if ended else end.losses[:-1]
            losses += [loss / rows if executor.averaged else loss for loss in finished]
            done += len(finished)
            if not ended:
                if end.done:
                    loss, plan = end.losses[-1], epoch_plan(trainer, data)
                    progress = EpochProgress(loss, end.finite_steps, plan)
                    now = done, end.params, end.state, end.done, progress
                break
            now = done, end.params, end.state, 0, EpochProgress()
            if interrupted or time.perf_counter() > stop:
                break
    except (RuntimeError, TypeError, ValueError) as error:
        from .engine.gradient_shapes import add_note_of_layer

        add_note_of_layer(error, trainer.model, now[1], data)
        raise
    except KeyboardInterrupt:  # raised between two epochs by a handler other than Python's
        if current_ranks() is not None:  # the others know nothing of it
            raise
        interrupted.append(0)
    done, params, state, step, progress = now
    last = max(done - 1, 0) if finite else done
    for k in range(last):
        record(history, {"loss": losses[k]}, run.epoch + k + 1)
    run = replace(run, params=unpacked(params), state=unpacked(state), epoch=run.epoch + last)
    run = replace(run, step=step, _progress=progress, _history=history)
    if not finite:
        what, at = ("parameters", 0) if math.isfinite(end.losses[-1]) else ("loss", 1)
        at += int(end.finite_steps)
        raise divergence_error(run, data, f"the {what} stopped being finite", at)
    return run, losses[last] if done else None


@dataclass(frozen=True)
class ScaledByBatchWeight:
    """A weighted loss times the mean weight of its batch: batches add up to one weighted mean.

    A loss divides by the sum of the weights in its batch, so that the influence of a row would
    depend on the other rows of its batch. The mean of all weights must be 1.
    """

    loss: Loss

    def __call__(self, pred: Array, target: Array, weight: Array) -> tuple[Array, Array]:
        """Return value, dpred."""
        value, dpred = self.loss(pred, target, weight)
        share = namespace(weight).mean(weight)
        return share * value, share * dpred


def _one_iteration(
    run: Run,
    data: Dataset,
    advance: Callable[[int], object],
    interrupted: list[int],
    function: Gradient,
    count: int,
) -> tuple[Run, float | None]:
    """Make an iteration of L-BFGS over all rows; return the run and the loss after it."""
    of_vector, vector, unravel = value_and_grad(run.params, data, function)
    with np.errstate(over="ignore", invalid="ignore"):  # the line search steps back from those
        try:
            vector, state = run.trainer.optimizer.iterate(of_vector, vector, run.state)
        except FloatingPointError as error:
            raise divergence_error(run, data, str(error), 1) from None
    advance(1)
    run = replace(run, params=unravel(vector), state=state, stopped=state.status)
    return run, state.value


def _agreed_metrics(run: Run, data: Any, held_out: Any, signals: list[int]) -> dict[str, float]:
    """Return the values of the epoch's history other than the training loss; those of rank 0."""
    if held_out is None and not run.metrics:
        return {}
    compute = partial(_epoch_metrics, run, data, held_out)
    values: dict[str, float]
    try:
        values = of_first_rank(compute)
    except KeyboardInterrupt as error:  # the epoch's steps are done: evaluate again
        if not is_agreed(error):
            raise
        signals.append(0)
        values = of_first_rank(compute)
    return values


def _epoch_metrics(run: Run, data: Any, held_out: Any) -> dict[str, float]:
    """Return the values of the epoch's history other than the training loss."""
    if held_out is not None:
        found = run._evaluate(held_out, run.metrics)
        return {f"validation_{name}": number for name, number in found.items()}
    found = run._evaluate(data, run.metrics) if run.metrics else {}
    return {name: number for name, number in found.items() if name != "loss"}


def interrupted_run(run: Run, last: int) -> Run:
    """Return the run that Ctrl-C ended before epoch `last`, and warn how to continue.

    If training had ended by itself in that epoch, it stays so: to continue would train past its
    end.
    """
    if run.stopped:
        warn(f"training was interrupted in its last epoch, and had ended: {run.stopped}", run)
        return run
    where = f"step {run.step} of epoch {run.epoch + 1}" if run.step else f"epoch {run.epoch}"
    if run.epoch < last:
        left = f"epochs={last - run.epoch}"
        where += f": run.fit(X, y, {left}) with the same options continues exactly from there"
    run = replace(run, stopped=f"interrupted after {where}")
    warn(f"training was {run.stopped}", run)
    return run
