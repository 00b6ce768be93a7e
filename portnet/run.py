"""Run: the result of training so far; it predicts, evaluates, continues, moves."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from . import _validation as options
from . import summary, tree
from ._typing import AnyArray, Array, ArrayLike, Device, Host, Params, State, Tree
from .backend import Backend, describe, is_host, read_floats, to_numpy, use_backend
from .data import checks
from .data import labels as _labels
from .data.dataset import Dataset
from .engine.inference import forward, forward_blocks, grouped, joined
from .evaluation import evaluate_blocks, is_by_row
from .files import save
from .losses import SigmoidCrossEntropy
from .metrics import OF_ROWS, two_columns
from .protocols import TrainerLike

if TYPE_CHECKING:
    from .data.sources.dataset import SourceDataset
    from .diagnosis import Diagnosis

__all__ = ["History", "Run"]

Metric = str | Callable[..., Array]


class EpochProgress(NamedTuple):
    """The part of an interrupted epoch that was done: sum of losses, finite steps, its plan."""

    loss: float = 0.0
    finite: float = 0.0
    plan: str = ""


BLOCK = 16_384  # rows predicted at once: bounds the memory
GROUP = 2**16  # outputs that are evaluated at once: they stay in the processor's cache


class History(dict[str, list[float]]):
    """The values of each epoch by name: a dict of plain lists; NaN where there was none.

    Examples
    --------
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error")
    >>> history = trainer.fit([[1.0], [2.0]], [1.0, 2.0], epochs=5).history
    >>> sorted(history), len(history["loss"])
    (['loss'], 5)
    """

    def __repr__(self) -> str:
        return summary.history_text(self)

    def _repr_html_(self) -> str:
        return summary.history_html(self)

    def to_dict(self) -> dict[str, list[float]]:
        """Return a plain dict of lists."""
        return {name: list(numbers) for name, numbers in self.items()}

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row for each epoch, counted from 1."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        epochs = range(1, 1 + max(map(len, self.values()), default=0))
        return pandas.DataFrame(self.to_dict(), index=pandas.Index(epochs, name="epoch"))


@dataclass(frozen=True, eq=False)
class Run:
    """The result of training so far: parameters, optimizer state and history; immutable.

    Attributes
    ----------
    params : pytree of arrays
        The parameters, where the data live: of each Dense W (n_in, n_out) and b (1, n_out). After
        early stopping, those of the best epoch.
    state : pytree of arrays
        The optimizer's, after the last step.
    feature_names : tuple of str, or None
        The names of the columns of X, where it was a frame. Other names, or another order, are an
        error wherever rows are given.
    classes : array of str, or None
        The names of the classes, sorted, where the labels were text; the columns of
        `predict_proba` are in this order.
    epoch : int
        The number of epochs so far.
    step : int
        The number of steps made in the next epoch, if Ctrl-C ended training within one.
    history : dict of lists
        A value for each epoch: ``loss``, the mean over the rows of the losses before each step (the
        sum for ``reduction="sum"``; with L-BFGS, the loss of all rows after the iteration);
        ``validation_loss`` and
        ``validation_<metric>`` after the epoch, or ``<metric>`` on the training rows where no
        validation rows were given; ``scale`` where updates are reduced on a plateau.
    best_epoch : int or None
        The epoch in which the metric that early stopping monitors was best.
    stopped : str
        Why training ended before its last epoch; else empty.

    Examples
    --------
    >>> import portnet
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
    >>> trainer = portnet.Trainer(portnet.mlp([1, 2]), "softmax_cross_entropy", portnet.Adam(0.1))
    >>> run = trainer.fit(X, y, epochs=100, metrics=["accuracy"])
    >>> run.predict_class([[0.5], [2.5]])
    array(['no', 'yes'], dtype='<U3')
    >>> run.fit(X, y, epochs=10).epoch
    110
    """

    trainer: TrainerLike
    params: Params = field(repr=False)
    state: State = field(repr=False)
    backend: Backend
    inputs: int
    outputs: int
    metrics: dict[str, Callable[..., Array]] = field(default_factory=dict, repr=False)
    feature_names: tuple[str, ...] | None = None
    classes: Host | None = None
    epoch: int = 0
    step: int = 0
    stopped: str = ""
    # What continuing needs besides: the parameters after the last step, if `params` are those of
    # the best epoch; those of the best epoch; the states of early stopping and plateau; the scale
    # of the updates; the progress of an interrupted epoch; whether targets were (rows,).
    _last: Params = field(default=None, repr=False)
    _best: Params = field(default=None, repr=False)
    _monitors: dict[str, Any] = field(default_factory=dict, repr=False)
    _scale: float = field(default=1.0, repr=False)
    _progress: EpochProgress = field(default=EpochProgress(), repr=False)
    _history: dict[str, list[float]] = field(default_factory=dict, repr=False)
    _one_dimensional: bool = field(default=False, repr=False)

    def __repr__(self) -> str:
        return summary.run_line(self)

    def __str__(self) -> str:
        return summary.run_text(self)

    def _repr_html_(self) -> str:
        return summary.run_html(self)

    def summary(self) -> None:
        """Print the run, and a table of its layers with their parameters and the memory."""
        print(summary.run_summary(self))  # noqa: T201

    def plot(self, metric: str = "loss", *, log: bool = False, ax: Any = None) -> Any:
        """Draw the curves of a metric; return matplotlib's Axes: see `portnet.plots.history`."""
        from .plots import history  # which needs matplotlib

        return history(self, metric, log=log, ax=ax)

    @property
    def history(self) -> History:
        """The values of each epoch."""
        # The lists are shared with later runs, which append to them: take this run's part.
        return History(
            {name: list(numbers[: self.epoch]) for name, numbers in self._history.items()}
        )

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best monitored metric, under early stopping; else None."""
        state = self._monitors.get("early_stopping")
        return state.epoch if state is not None and state.epoch else None

    @property
    def best(self) -> "Run":
        """The run with the parameters of its best epoch; its `fit` continues from the last one.

        Raises ValueError without early stopping.
        """
        if self._best is None:
            raise ValueError(
                "best: no epoch was monitored; fit with early_stopping=portnet.EarlyStopping()"
            )
        last = self.params if self._last is None else self._last
        return replace(self, params=self._best, _last=last)

    def fit(self, X: ArrayLike, y: ArrayLike, *more: Any, **options: Any) -> "Run":
        """Train for more epochs, exactly as if training had not stopped; return the new run.

        Takes the arguments of `Trainer.fit`: give the same data and options. The order of the rows,
        dropout masks, schedules and early stopping continue where they were; after an interruption,
        within the epoch, which counts as one of `epochs`. Metrics are by default those of the run.
        X is (rows, n_in), y (rows,) or (rows, n_out).
        """
        if "resume" in options:
            raise TypeError(
                "run.fit goes on with this run and takes no resume: to go on from a file, give "
                "Trainer.fit(..., resume=path)"
            )
        run: Run = self.trainer.fit(X, y, *more, resume=self, **options)
        return run

    def to(self, name: str, *, device: Device = None, dtype: str | None = None) -> "Run":
        """Return this run with its arrays moved to a backend: ``run.to("numpy")``.

        Takes the arguments of `portnet.set_backend`; by default the dtype stays, and the values are
        the same bit for bit.
        """
        with use_backend(name, device=device, dtype=dtype or self.backend.dtype) as backend:

            def move(pytree: Tree) -> Tree:
                return tree.map(lambda a: backend.asarray(a) if hasattr(a, "dtype") else a, pytree)

            names = ("params", "state", "_last", "_best")
            return replace(self, backend=backend, **{n: move(getattr(self, n)) for n in names})

    def save(self, path: str | PathLike[str], *, state: bool = False) -> None:
        """Write the run to a file, which `portnet.load` reads: see `portnet.save`.

        `state` says whether to write what continuing exactly needs.
        """
        save(self, path, state=state)

    def without_state(self) -> "Run":
        """Return the run without the optimizer's state: it predicts, but cannot be continued.

        A pickle of it is a third as large, with Adam.
        """
        stopped = self.stopped.partition(": run.fit(")[0]  # it no longer continues from there
        run = replace(self, stopped=stopped, step=0, _progress=EpochProgress())
        return replace(run, state=None, _last=None, _best=None)

    def predict(self, X: ArrayLike) -> AnyArray:
        """Return the mean of the target for each row, in the library of X.

        X is (rows, n_in). The shape is (rows, outputs); (rows,) for one output that was trained on
        y of shape (rows,).
        This is the network's output for squared, absolute and Huber error and for losses of your
        own, its exponential for Poisson, and probabilities for the cross-entropies. Raw outputs are
        ``model.forward(run.params, x)[0]``.
        """
        flat = self._one_dimensional and self.outputs == 1
        return self._answer(X, lambda mean: mean[:, 0] if flat else mean)

    def predict_proba(self, X: ArrayLike) -> AnyArray:
        """Return the probability of each class or label (rows, classes), in the library of X.

        The columns are in the order of `classes`, where the labels were text. One output makes two
        columns, the probabilities of 0 and of 1, as in scikit-learn. Raises TypeError unless the
        loss is a cross-entropy.
        """
        self._classes("predict_proba")
        return self._answer(X, two_columns)

    def predict_class(self, X: ArrayLike) -> AnyArray:
        """Return the most probable class of each row (rows,), as integers, in the library of X.

        Where the labels were text, the names of the classes, as a NumPy array. For several labels
        a row, 0 or 1 for each (rows, labels). Raises TypeError unless the loss is a cross-entropy.
        """
        answer = self._answer(X, self._classes("predict_class"))
        return answer if self.classes is None else self.classes[to_numpy(answer)]

    def evaluate(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike = None,
        *,
        metrics: Iterable[Metric] | None = None,
    ) -> dict[str, float]:
        """Return the loss and the metrics (by default those of the fit) on these rows.

        X is (rows, n_in), y (rows,) or (rows, n_out), sample_weight (rows,).
        """
        chosen = self.metrics
        if metrics is not None:
            chosen = checks.named_metrics(metrics, self.trainer.loss, self.outputs)
        if any(map(checks.is_source, (X, y, sample_weight))):
            from .data.sources.reading import PART, in_memory_if_small

            given = {"X": X, "y": y, "sample_weight": sample_weight}
            X, y, sample_weight = in_memory_if_small(given, PART).values()
        self._check_reachable(X=X, y=y, sample_weight=sample_weight)
        checks.check_feature_names(X, self.feature_names)
        with self.backend.active():
            data = self._dataset(X, y, sample_weight)
            checks.check_metrics(chosen, data.y)
            return self._evaluate(data, chosen)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> float:
        """Return the accuracy on these rows, or R^2 where the loss predicts no classes.

        As in scikit-learn, more is better and 1 is perfect. For several labels a row, the accuracy
        is that of all labels. X is (rows, n_in), y (rows,) or (rows, n_out), sample_weight (rows,).
        """
        name = self._score_name
        return self.evaluate(X, y, sample_weight, metrics=[name])[name]

    @property
    def _score_name(self) -> str:
        """The metric that is the score."""
        if not hasattr(self.trainer.loss, "classes"):
            return "r2"
        several = isinstance(self.trainer.loss, SigmoidCrossEntropy) and self.outputs > 1
        return "label_accuracy" if several else "accuracy"

    def diagnose(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> "Diagnosis":
        """Return what is wrong with the run: findings with figures and remedies; print it.

        It looks for inputs that are not scaled, labels out of balance, dead ReLUs, saturated
        sigmoids, vanishing and exploding gradients, a learning rate that is far off, and a
        validation loss that turned. Give the rows of the fit: X is (rows, n_in), y (rows,) or
        (rows, n_out), sample_weight (rows,). The callback `portnet.Diagnose` looks during a fit.
        Raises ValueError for a run of no epochs.
        """
        from .diagnosis import diagnose

        if self.epoch == 0:
            raise ValueError(
                "diagnose: the run has no epochs, so there is nothing to look at: train it first, "
                "run = run.fit(X, y). If training diverged in its first epoch, the error says the "
                "likely cause"
            )
        self._check_reachable(X=X, y=y, sample_weight=sample_weight)
        checks.check_feature_names(X, self.feature_names)
        with self.backend.active():
            data = self._dataset(X, y, sample_weight)
            return diagnose(self, data if isinstance(data, Dataset) else data.some)

    # Parts of the methods and of training

    def _dataset(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike, name: str = ""
    ) -> "Dataset | SourceDataset":
        """Return checked features, targets and weights on the run's backend."""
        backend, loss = self.backend, self.trainer.loss
        if checks.is_source(X):
            from .data.sources.dataset import source_dataset

            return source_dataset(
                X,
                y,
                sample_weight,
                backend=backend,
                loss=loss,
                inputs=self.inputs,
                outputs=self.outputs,
                classes=self.classes,
                name=name,
            )
        X = checks.features(X, backend, width=self.inputs, name=name + "X")
        rows = X.shape[0]
        if self.classes is not None:
            y = _labels.encode(y, self.classes, name=name + "y")
        y = checks.targets(y, backend, loss, rows=rows, outputs=self.outputs, name=name + "y")
        w = checks.row_weights(sample_weight, backend, rows=rows, name=name + "sample_weight")
        return Dataset(backend, X, y, w)

    def _check_reachable(self, **arrays: ArrayLike) -> None:
        """Raise TypeError where an array lives in another library, or on another device."""
        for name, x in arrays.items():
            checks.refuse_without_values(x, name)
            if not is_host(x) and not self.backend.holds(x):
                raise TypeError(
                    f"{name} is {describe(x)}, but the parameters are on "
                    f"{self.backend}: give portnet.to_numpy({name})"
                )

    def _forward(self, X: Array) -> Array:
        """Return the raw outputs for all rows, block by block."""
        trainer = self.trainer
        return forward(trainer.model, self.params, X, BLOCK, compiled=trainer.compile)

    def _blocks(self, X: Array) -> Iterator[Array]:
        """Yield the raw outputs of blocks of rows, on the host; each is overwritten by the next."""
        trainer = self.trainer
        blocks = forward_blocks(trainer.model, self.params, X, BLOCK, compiled=trainer.compile)
        return grouped(blocks, GROUP)

    def _is_by_group(self, X: Array) -> bool:
        """Tell whether losses and answers are computed group by group: of many, on the host."""
        many = X.shape[0] * self.outputs > GROUP
        return many and self.backend.is_host and is_by_row(self.trainer.loss)

    def _mean(self, pred: Array) -> Array:
        return self.trainer.loss.mean(pred) if hasattr(self.trainer.loss, "mean") else pred

    def _answer(self, X: ArrayLike, finish: Callable[[Array], Array]) -> Array:
        plain = self.feature_names is None and checks.is_plain(X, self.inputs)
        if not plain:
            if checks.is_source(X):
                return self._answer_in_parts(X, finish)
            self._check_reachable(X=X)
            checks.check_feature_names(X, self.feature_names)
        with self.backend.active():
            x = checks.features(X, self.backend, width=self.inputs, plain=plain)
            if self._is_by_group(x):
                blocks = (finish(self._mean(pred)) for pred in self._blocks(x))
                answer = joined(blocks, x.shape[0])
            else:
                answer = finish(self._mean(self._forward(x)))
        return to_numpy(answer) if is_host(X) else answer

    def _answer_in_parts(self, X: ArrayLike, finish: Callable[[Array], Array]) -> Host:
        """Return the answers for the rows of a source, which is never read as a whole."""
        from .data.sources.dataset import check_features
        from .data.sources.reading import parts_of, reader_of

        checks.check_feature_names(X, self.feature_names)
        reader = reader_of(X, "X")
        check_features(reader, "X", self.inputs)
        rows, size, found = len(reader), parts_of(reader), None
        with self.backend.active():
            for start in range(0, rows, size):
                stop = min(start + size, rows)
                with checks.rows_from(start):
                    x = checks.features(reader.read(start, stop), self.backend, width=self.inputs)
                part = to_numpy(finish(self._mean(self._forward(x))))
                if found is None:
                    found = np.empty((rows, *part.shape[1:]), part.dtype)
                found[start:stop] = part
        assert found is not None  # it has rows
        return found

    def _classes(self, method: str) -> Callable[[Array], Array]:
        if not hasattr(self.trainer.loss, "classes"):
            raise TypeError(
                f"{method} needs a loss that predicts classes, sigmoid_cross_entropy or "
                f"softmax_cross_entropy; this run was trained with {self.trainer.loss}: use predict"
            )
        return self.trainer.loss.classes  # type: ignore[no-any-return]

    def _evaluate(
        self, data: "Dataset | SourceDataset", metrics: dict[str, Callable[..., Array]]
    ) -> dict[str, float]:
        if not isinstance(data, Dataset):
            return self._evaluate_in_parts(data, metrics)
        X, y, weight = data.arrays
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite loss is returned as it is
            if self._is_by_group(X):
                preds, loss = self._blocks(X), self.trainer.loss
                numbers = evaluate_blocks(preds, loss, y, weight, metrics, measure)
            else:
                pred = self._forward(X)
                numbers = {"loss": self.trainer.loss(pred, y, weight)[0]}
                mean = self._mean(pred) if metrics else pred
                for name, metric in metrics.items():
                    numbers[name] = measure(name, metric, mean, y, weight)
        return dict(zip(numbers, read_floats(list(numbers.values())), strict=True))

    def _evaluate_in_parts(
        self, data: "SourceDataset", metrics: dict[str, Callable[..., Array]]
    ) -> dict[str, float]:
        """Return loss and metrics of a source, part by part.

        Metrics that are no means over rows need the predictions of all rows in memory.
        """
        xp, loss, shares = self.backend.xp, self.trainer.loss, 0.0
        whole = {name: m for name, m in metrics.items() if m not in OF_ROWS}
        means = {name: m for name, m in metrics.items() if name not in whole}
        totals, kept = dict.fromkeys(("loss", *means), 0.0), []
        with np.errstate(over="ignore", invalid="ignore"):
            for part in data.parts():
                X, y, w = part.arrays
                share = len(part) if w is None else read_floats([xp.sum(w)])[0]
                if share == 0:  # there are only weights of 0
                    continue
                pred = self._forward(X)
                mean = self._mean(pred) if metrics else pred
                numbers = [loss(pred, y, w)[0]]
                numbers += [measure(name, m, mean, y, w) for name, m in means.items()]
                shares += share
                for name, number in zip(totals, read_floats(numbers), strict=True):
                    totals[name] += share * number if name != "loss" or is_mean(loss) else number
                if whole:
                    kept.append((mean, y, w))
        found = {n: t / shares if n != "loss" or is_mean(loss) else t for n, t in totals.items()}
        if whole:
            columns: list[Any] = [
                None if c[0] is None else xp.concat(list(c)) for c in zip(*kept, strict=True)
            ]
            numbers = [measure(name, m, *columns) for name, m in whole.items()]
            found |= dict(zip(whole, read_floats(numbers), strict=True))
        return {name: found[name] for name in ("loss", *metrics)}


def is_mean(loss: Any) -> bool:
    """Return whether a loss is a mean over rows, as losses of users are, or a sum."""
    return getattr(loss, "reduction", "mean") == "mean"


def measure(
    name: str, metric: Callable[..., Array], mean: Array, y: Array, w: Array | None
) -> Array:
    """Return metric(mean, y, w); errors name the metric; raise TypeError unless it is a number."""
    try:
        number = metric(mean, y, w)
    except Exception as error:
        error.add_note(f"in metric {name!r}, which is called as metric(mean, target, weight)")
        raise
    if getattr(number, "shape", ()) != () or not hasattr(number, "__float__"):
        raise TypeError(f"metric {name!r}: expected one number, got {number!r}")
    return number


def record(log: dict[str, list[float]], numbers: dict[str, float], epoch: int) -> None:
    """Append the values of an epoch to the lists of a history; NaN where one is missing."""
    for name in {**log, **numbers}:
        column = log.setdefault(name, [])
        column += [math.nan] * (epoch - 1 - len(column)) + [numbers.get(name, math.nan)]


_Error = TypeVar("_Error", bound=BaseException)


def with_run(error: _Error, run: Run) -> _Error:
    """Return the error with the run so far as its `run`, so that nothing is lost."""
    error.run = run  # type: ignore[attr-defined]
    return error


def warn(message: str, run: Run) -> None:
    """Warn at the first line outside of portnet; a warning that is an error has the run."""
    try:
        options.warn(message)
    except Warning as error:
        raise with_run(error, run) from None
