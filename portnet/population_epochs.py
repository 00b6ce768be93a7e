"""The epochs of several networks, together or in turn: what `portnet.Population` does.

Together, all networks make their steps as one program (`engine.networks`). After an epoch, what
looks at it (validation, metrics, early stopping, plateaus) does so for each network, as in
`trainer`. A network that has stopped is as it was then; once half of them have, the others go on
without them.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import callbacks, rng, tree
from ._typing import Array, ArrayLike, Host, Params, State
from .backend import device, namespace, read_vectors
from .compiler import Compiled
from .compiler.errors import EagerError
from .data.dataset import Dataset
from .divergence import DivergenceError, divergence_error, warn_of_unscaled_inputs
from .engine.compile_cache import compiler_for, compiles, is_cacheable, makes_machine_code
from .engine.epoch import EpochExecutor, quiet
from .engine.epoch_state import Epochs
from .engine.interrupts import interrupts
from .engine.networks import (
    ForNetworks,
    MakeNetworksStep,
    NetworksResult,
    OwnRates,
    is_faster_in_turn,
    rows_in_turn,
    run_networks,
    size_of_step,
    stacked,
    unstacked,
)
from .engine.packing import unpacked
from .engine.ranks import current_ranks, together
from .layers import Chain, Dropout, Residual
from .lbfgs import LBFGS
from .preparation import Fit, FitOptions, epoch_plan, for_trainer, prepare
from .progress import progress_bar
from .protocols import TrainerLike
from .run import EpochProgress, Run, measure, record
from .trainer import ScaledByBatchWeight, _epoch_metrics, interrupted_run, train
from .training import make_step

__all__ = ["FitTogether", "fit_together"]

MOST = 1 << 26  # elements of what all networks need at once


def fit_together(
    trainers: Sequence[TrainerLike],
    X: ArrayLike,
    y: ArrayLike,
    options: FitOptions,
    before: Sequence[Run] | None = None,
) -> list[Run]:
    """Return the runs of all trainers, as their `fit` would; `before` are those that go on."""
    with together():
        fit = FitTogether.of(trainers, X, y, options, before)
    if not fit.in_turn:
        try:
            runs = _Together(fit.fits, options).train()
        except EagerError as error:  # nothing was trained
            fit = replace(fit, in_turn=str(error))
    if fit.in_turn:
        runs = _train_in_turn(fit.fits, options)
    stopping = options.early_stopping
    restored = bool(stopping and stopping.restore)
    return [run.best if restored and run._best is not None else run for run in runs]


@dataclass(frozen=True)
class FitTogether:
    """A prepared fit of several networks: `in_turn` says why they are trained one by one, or ""."""

    fits: list[Fit]
    in_turn: str

    @classmethod
    def of(
        cls,
        trainers: Sequence[TrainerLike],
        X: ArrayLike,
        y: ArrayLike,
        options: FitOptions,
        before: Sequence[Run] | None = None,
    ) -> "FitTogether":
        """Check everything, move the data, and begin or resume the runs; nothing is trained."""
        fits: list[Fit] = []
        alike = before is None and not isinstance(options.validation, float)
        for k, trainer in enumerate(trainers):
            if fits and alike:
                fits.append(for_trainer(trainer, fits[0]))
                continue
            with warnings.catch_warnings():
                if fits:  # all would say the same
                    warnings.simplefilter("ignore")
                resume = None if before is None else before[k]
                fits.append(prepare(trainer, X, y, replace(options, resume=resume)))
        return cls(fits, _why_in_turn(fits, options))

    @property
    def description(self) -> str:
        """How the networks are trained, in a line."""
        how = f"in turn: {self.in_turn}" if self.in_turn else "together, as one program"
        return f"{len(self.fits)} networks are trained {how}"


def _why_in_turn(fits: list[Fit], options: FitOptions) -> str:
    """Return why networks are trained in turn; "" where they are trained together."""
    run, data = fits[0].run, fits[0].data
    leaves = tree.leaves(run.params)
    if len(fits) == 1:
        return "there is one"
    if not (isinstance(data, Dataset) and isinstance(fits[0].held_out, Dataset | None)):
        return "the data are read in parts"
    if current_ranks() is not None:
        return "several ranks train each of them"
    if isinstance(run.trainer.optimizer, LBFGS):
        return "L-BFGS evaluates the loss as often as each network needs"
    if not leaves or not all(hasattr(leaf, "dtype") for leaf in tree.leaves(run.state)):
        return "the optimizer's state holds more than arrays"
    if any((f.run.epoch, f.run.step) != (run.epoch, 0) or f.run.stopped for f in fits):
        return "they have not made the same number of steps"
    if any(len(f.data) != len(data) for f in fits):
        return "they have different numbers of rows"
    size = min(run.trainer.batch_size or len(data), len(data))
    elements, count = size_of_step(run.params, size, int(data.X.shape[1]))
    own = math.prod(data.X.shape) if fits[1].data is not data else 0
    if len(fits) * max(elements, count, own) > MOST:
        return "together they would need much memory"
    if run.backend.is_host and _is_faster_in_turn(fits[0], options, elements, count):
        return "their arrays are so large that this is faster"
    return ""


def _is_faster_in_turn(fit: Fit, options: FitOptions, elements: int, count: int) -> bool:
    run, rows = fit.run, len(fit.data)
    return is_faster_in_turn(
        elements,
        count,
        steps=-(-rows // (run.trainer.batch_size or rows)),
        looked_at=_is_looked_at(options, fit),
        shuffled=_shuffles(run.trainer),
        machine_code=run.trainer.compile and makes_machine_code(),
    )


def _shuffles(trainer: TrainerLike) -> bool:
    return trainer.batch_size is not None and bool(trainer.shuffle)


def _is_looked_at(options: FitOptions, fit: Fit) -> bool:
    """Tell whether anything looks at the networks after each epoch."""
    monitored = options.early_stopping, options.reduce_on_plateau
    return bool(any(monitored) or fit.held_out is not None or fit.run.metrics)


def _train_in_turn(fits: list[Fit], options: FitOptions) -> list[Run]:
    """Return the runs of fits that are made one after the other."""
    runs = [fit.run for fit in fits]
    alone = replace(options, progress=options.progress if len(fits) == 1 else False)
    with progress_bar(len(fits), False if len(fits) == 1 else options.progress) as bar:
        for k, fit in enumerate(fits):
            try:
                runs[k] = train(fit, alone)
            except DivergenceError as error:
                error.add_note(_note(k, fit.run))
                raise
            if runs[k].stopped.startswith("interrupted"):
                break
            bar.update(1)
    return runs


def _note(k: int, run: Run) -> str:
    lr = getattr(run.trainer.optimizer, "lr", None)
    rate = f", learning rate {lr:g}" if isinstance(lr, float) else ""
    return f"this is network {k} of the population, with seed {run.trainer.seed}{rate}"


# Together ---------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """The rows that networks are trained on.

    `offsets` has the first row of each network, where they have rows of their own; else None.
    """

    data: Dataset
    offsets: Host | None


class _Together:
    """Networks that are trained together: `runs` has those of all, as they were last.

    `networks` are the numbers of those in the arrays; of these, `alive` go on.
    """

    def __init__(self, fits: list[Fit], options: FitOptions) -> None:
        self.fits, self.options = fits, options
        first = fits[0]
        self.last, self.epoch = first.last, first.run.epoch
        self.trainer, self.backend = first.run.trainer, first.run.backend
        self.rows = len(first.data)
        self.size = min(self.trainer.batch_size or self.rows, self.rows)
        self.steps = -(-self.rows // self.size)
        self.averaged = getattr(self.trainer.loss, "reduction", "mean") == "mean"
        self.looked_at = _is_looked_at(options, first)
        rates = [_rate(fit.run.trainer.optimizer) for fit in fits]
        self.rates = rates if len(set(rates)) > 1 else None
        self.draws = _draws(self.trainer.model)
        self.histories = [dict(fit.run.history) for fit in fits]
        self.runs = [
            replace(fit.run, _history=history)
            for fit, history in zip(fits, self.histories, strict=True)
        ]
        self.alive = list(range(len(fits)))
        self._begin(self.alive)

    def train(self) -> list[Run]:
        """Train until all have ended, and return the runs."""
        total = (self.last - self.epoch) * self.steps
        with progress_bar(total, self.options.progress) as bar, interrupts() as interrupted:
            try:
                while self.epoch < self.last and self.alive and not interrupted:
                    self._advance(bar, interrupted)
                if interrupted:
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                self._interrupted()
            finally:
                self.executor.close()
        self._write()
        return self.runs

    def _data(self, k: int) -> Dataset:
        data = self.fits[k].data
        assert isinstance(data, Dataset)  # others are trained in turn
        return data

    def _begin(self, networks: list[int]) -> None:
        """Put these networks into arrays."""
        self.networks = networks
        runs = [self.runs[k] for k in networks]
        with self.backend.active():
            self.params = stacked([run.params for run in runs])
            self.state = stacked([self._state_of(k) for k in networks])
            self.train_rows = self._joined([self.fits[k].data for k in networks], weighted=True)
        trainer, loss = self.trainer, self.trainer.loss
        if self.train_rows.data.weight is not None and self.averaged:
            loss = ScaledByBatchWeight(loss)
        optimizer = trainer.optimizer if self.rates is None else OwnRates(trainer.optimizer)
        self.own_rows = _shuffles(trainer) or self.train_rows.offsets is not None
        self.executor = EpochExecutor(
            MakeNetworksStep(make_step, len(networks), self.own_rows, self.averaged),
            (trainer.model, loss, optimizer),
            averaged=False,
            compiled=trainer.compile and compiler_for(self.backend) != "graph",
            planned=(self.last - self.epoch) * self.steps,
        )
        self.evaluate = _Evaluation(runs[0], len(networks))
        held_out = [self.fits[k].held_out for k in networks]
        looked = held_out if held_out[0] is not None else [self.fits[k].data for k in networks]
        with self.backend.active():
            self.looked_rows = self._joined(looked) if self.looked_at else None

    def _state_of(self, k: int) -> State:
        run = self.runs[k]
        if self.rates is None:
            return run.state
        first = tree.leaves(run.params)[0]
        xp = namespace(first)
        return xp.asarray(self.rates[k], dtype=first.dtype, device=device(first)), run.state

    def _joined(self, parts: list[Any], weighted: bool = False) -> _Rows:
        """Return the rows of all networks; `weighted` divides weights by their mean."""
        if weighted and parts[0].weight is not None and self.averaged:
            scaled = {id(d): _with_mean_weight_1(d) for d in parts}
            parts = [scaled[id(d)] for d in parts]
        if all(d is parts[0] for d in parts):
            return _Rows(parts[0], None)
        arrays = [
            None if given[0] is None else namespace(*given).concat(given, axis=0)
            for given in zip(*(d.arrays for d in parts), strict=True)
        ]
        offsets = np.arange(len(parts)) * len(parts[0])
        return _Rows(parts[0].with_arrays(arrays), offsets)

    # Steps

    def _epochs(self, numbers: range) -> Epochs:
        """Return the epochs of these numbers."""
        trainer, data, offsets = self.trainer, *self.train_rows
        seeds = [self.runs[k].trainer.seed for k in self.networks]
        size, orders = self.size, None
        if self.own_rows:
            size = self.size * len(self.networks)
            if _shuffles(trainer):
                orders = [
                    np.stack([rng.order(seed, n, self.rows) for seed in seeds]) for n in numbers
                ]
            elif self.steps > 1:
                same = np.broadcast_to(np.arange(self.rows), (len(seeds), self.rows))
                orders = [same] * len(numbers)
            if orders is not None:
                begin = 0 if offsets is None else offsets[:, None]
                orders = [rows_in_turn(order + begin, self.size) for order in orders]
        keys: list[Any] = [None] * len(numbers)
        if self.draws:
            for i, n in enumerate(numbers):
                salts = [rng.key(seed, n).salt for seed in seeds]
                keys[i] = rng.Key(np.asarray(salts, np.int32).reshape(-1, 1, 1))
        scales = [self.runs[k]._scale for k in self.networks]
        scale = None
        if any(s != 1 for s in scales):
            scale = self.backend.asarray(np.asarray(scales), self.backend.dtype)
        networks = len(self.networks) if self.own_rows else 1
        return Epochs(data, size, keys, orders, scale, networks=networks)

    def _advance(self, bar: Any, interrupted: list[int]) -> None:
        """Train for an epoch, or for several where nothing looks at them."""
        count = 1 if self.looked_at else self.last - self.epoch
        rows = self.rows * (len(self.networks) if self.own_rows else 1)
        count = min(count, self.executor.epochs_at_once(0.05, rows, self.steps))
        with self.backend.active(), quiet():
            end = run_networks(
                self.executor,
                self.params,
                self.state,
                self._epochs(range(self.epoch, self.epoch + count)),
                interrupted,
                sums=np.zeros((2, len(self.networks))),
                advance=bar.update,
            )
            ended = end.done == self.steps
            finished = end.losses if ended else end.losses[:-1]
            places = [self.networks.index(k) for k in self.alive]
            finite = end.finite & np.isfinite(end.losses).all(axis=0)
            if not finite[places].all():
                self._diverged(next(k for k in self.alive if not finite[self.networks.index(k)]))
            if self.averaged:
                finished = finished / self.rows
            self.params, self.state = end.params, end.state
            self._record(finished, end, ended)

    def _record(self, losses: Host, end: NetworksResult, ended: bool) -> None:
        """Take in the epochs that were finished, and the steps of one that was not."""
        self.epoch += len(losses)
        if not self.looked_at:
            for at, k in enumerate(self.networks):
                for i, loss in enumerate(losses[:, at].tolist()):
                    record(self.histories[k], {"loss": loss}, self.epoch - len(losses) + i + 1)
            if self.epoch - len(losses) == 0 and len(losses):
                self._write()
                warn_of_unscaled_inputs(self.runs[0], self._data(0), float(losses[0, 0]), self.rows)
        elif len(losses):
            self._look(losses[0])
        if not ended and end.done:
            self._write()
            for at, k in enumerate(self.networks):
                plan = epoch_plan(self.runs[k].trainer, self.fits[k].data)
                progress = EpochProgress(
                    float(end.losses[-1][at]), float(end.finite_steps[at]), plan
                )
                if k in self.alive:
                    self.runs[k] = replace(self.runs[k], step=end.done, _progress=progress)

    def _look(self, losses: Host) -> None:
        """Evaluate the networks after an epoch, and let their monitors look at them."""
        self._write()
        monitored = self.options.early_stopping, self.options.reduce_on_plateau
        found = self._values()
        for at, k in enumerate(self.networks):
            if k not in self.alive:
                continue
            run, scale = self.runs[k], self.runs[k]._scale
            values = {"loss": float(losses[at])} | found[at]
            run = callbacks.update_monitors(run, values, *monitored)
            if self.epoch == 1 and k == 0:
                warn_of_unscaled_inputs(run, self._data(k), values["loss"], self.rows)
            values |= {} if monitored[1] is None else {"scale": scale}
            record(self.histories[k], values, self.epoch)
            self.runs[k] = run
        self.alive = [k for k in self.alive if not self.runs[k].stopped]
        if self.alive and 2 * len(self.alive) <= len(self.networks) and self.epoch < self.last:
            self._write()
            self.executor.close()
            self._begin(self.alive)

    def _values(self) -> list[dict[str, float]]:
        """Return the values of the history of an epoch, but for the loss, of each network."""
        held_out = self.fits[0].held_out is not None
        if not held_out and not self.runs[0].metrics:
            return [{} for _ in self.networks]
        assert self.looked_rows is not None
        found = self.evaluate(self.params, *self.looked_rows)
        if found is None:
            return [
                _epoch_metrics(self.runs[k], self.fits[k].data, self.fits[k].held_out)
                for k in self.networks
            ]
        if held_out:
            return [{f"validation_{name}": v for name, v in one.items()} for one in found]
        return [{name: v for name, v in one.items() if name != "loss"} for one in found]

    def _write(self) -> None:
        """Let the runs of the networks that go on have what the arrays have."""
        places = [self.networks.index(k) for k in self.alive]
        params = unstacked(unpacked(self.params), places)
        state = unpacked(self.state)
        state = unstacked(state if self.rates is None else state[1], places)
        for k, p, s in zip(self.alive, params, state, strict=True):
            self.runs[k] = replace(self.runs[k], params=p, state=s, epoch=self.epoch)

    def _diverged(self, k: int) -> None:
        """Raise the error of a network whose loss or parameters stopped being finite."""
        self._write()
        run, options = self.runs[k], replace(self.options, progress=False)
        note = _note(k, run)
        try:
            train(self.fits[k]._replace(run=run), options)
        except DivergenceError as found:
            found.add_note(note)
            raise
        error = divergence_error(run, self._data(k), "the loss stopped being finite", 1)
        error.add_note(note)
        raise error

    def _interrupted(self) -> None:
        """Say that Ctrl-C has ended the training of the networks that were not at their end."""
        self._write()
        first = True
        for k in self.alive:
            with warnings.catch_warnings():
                if not first:
                    warnings.simplefilter("ignore")
                self.runs[k] = interrupted_run(self.runs[k], self.last)
            first = False
        self.alive = []


class _Evaluation:
    """The loss and the metrics of all networks, on rows that they share or that are their own."""

    def __init__(self, run: Run, count: int) -> None:
        model, loss, self.metrics = run.trainer.model, run.trainer.loss, run.metrics
        self.count, self.widest = count, max(max(p.shape) for p in tree.leaves(run.params))

        def of_one(params: Params, batch: Any) -> list[Array]:
            X, y, weight = batch
            pred = model.forward(params, X)[0]
            mean = run._mean(pred) if self.metrics else pred
            numbers = [loss(pred, y, weight)[0]]
            for name, metric in self.metrics.items():
                number = measure(name, metric, mean, y, weight)
                numbers.append(namespace(pred).astype(number, pred.dtype))
            return numbers

        pure = is_cacheable((model, loss)) and not self.metrics
        self.functions: dict[bool, Any] = {
            own: partial(_evaluated, ForNetworks(of_one, count, pure), own) for own in (False, True)
        }
        if compiles(run.backend, run.trainer.compile):
            self.functions = {
                own: Compiled(function, (), pure=pure) for own, function in self.functions.items()
            }
        self.failed = False

    def __call__(
        self, params: Params, data: Dataset, offsets: Host | None
    ) -> list[dict[str, float]] | None:
        """Return the values of each network by name; None where that cannot be done at once."""
        if self.failed or self.count * len(data) * self.widest > MOST // 8:
            return None
        own = offsets is not None
        batch = data.arrays
        if own:
            batch = tree.map(
                lambda a: namespace(a).reshape(a, (self.count, -1, *a.shape[1:])), batch
            )
        try:
            with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read_vectors(self.functions[own](unpacked(params), batch))
        except EagerError:
            self.failed = True
            return None
        names = ["loss", *self.metrics]
        return [
            {name: float(values[k]) for name, values in zip(names, found, strict=True)}
            for k in range(self.count)
        ]


def _evaluated(function: ForNetworks, own: bool, params: Params, batch: Any) -> Any:
    return function((params, batch), (True, own))


def _with_mean_weight_1(data: Dataset) -> Dataset:
    assert data.weight is not None
    weight = data.weight / data.backend.xp.mean(data.weight)
    return replace(data, weight=weight)


def _rate(optimizer: Any) -> float | None:
    """Return the learning rate of an optimizer, or of the part of a chain that has one."""
    parts = getattr(optimizer, "parts", (optimizer,))
    rates = [part.lr for part in parts if isinstance(getattr(part, "lr", None), int | float)]
    return float(rates[0]) if rates else None


def _draws(layer: Any) -> bool:
    """Tell whether a layer may draw random numbers: all but portnet's own, Dropout among them."""
    if isinstance(layer, Chain):
        return any(map(_draws, layer.layers))
    if isinstance(layer, Residual):
        return _draws(layer.layer)
    return isinstance(layer, Dropout) or not is_cacheable(layer)
