"""Population: several networks of one model, trained as one program, and what they predict."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from ._typing import AnyArray, Array, ArrayLike
from ._validation import check_integer, options_by_name, refuse_unknown
from .backend import namespace, read_floats, to_numpy
from .callbacks import EarlyStopping, ReduceOnPlateau
from .data.checks import check_feature_names, named_metrics
from .data.dataset import Dataset
from .engine.networks import with_rate
from .layers import Layer
from .losses import Loss
from .optimizers import Adam, Optimizer
from .population_epochs import FitTogether, fit_together
from .preparation import FitOptions
from .run import Metric, Run
from .trainer import Trainer
from .transforms import OWN, Chained

__all__ = ["Population", "PopulationRun"]

OPTIONS = (
    "epochs",
    "validation",
    "sample_weight",
    "class_weight",
    "metrics",
    "early_stopping",
    "reduce_on_plateau",
    "progress",
)


@dataclass(frozen=True, eq=False)
class Population:
    """Trains several networks of one model: each gets what a `portnet.Trainer` would give it.

    Where that is faster, all networks are trained as one program, whose arrays have one more axis
    in front: small networks on the CPU, which spend their time in calls, and those on devices. Else
    they are trained one after the other; also from data that are read in parts, and on several
    ranks. The results are the same but for rounding: to 1e-12 in float64, except where training
    itself multiplies differences in the last digit, as it may over many steps at a large rate.

    Parameters
    ----------
    model : layer
        Anything with init, forward and backward, as in `portnet.Trainer`.
    n_networks : int
        The number of networks, at least 1.
    loss : str or callable
    optimizer : str or optimizer
        Each network has a state of its own.
    batch_size : int or None
    seeds : sequence of int, optional
        The seed of each network, which draws its initial parameters, the order of its rows, what
        its layers drop, and the rows that a fraction for validation sets aside. By default 0, 1,
        2, ...
    learning_rates : sequence of float, optional
        The learning rate of each network; by default that of the optimizer.
    shuffle, compile : bool
        As in `portnet.Trainer`.

    Examples
    --------
    >>> import portnet
    >>> X, y = [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0]
    >>> net = portnet.mlp([1, 8, 1], "tanh")
    >>> population = portnet.Population(net, 4, "squared_error", portnet.Adam(0.05))
    >>> run = population.fit(X, y, epochs=200)
    >>> len(run), len(run[0].history["loss"])
    (4, 200)
    >>> mean, std = run.predict([[0.5], [5.0]], return_std=True)  # they differ far from the data
    >>> bool(std[1] > std[0])
    True
    """

    model: Layer
    n_networks: int
    loss: str | Loss
    optimizer: str | Optimizer = field(default_factory=Adam)
    batch_size: int | None = 128
    seeds: Sequence[int] | None = field(default=None, kw_only=True)
    learning_rates: Sequence[float] | None = field(default=None, kw_only=True)
    shuffle: bool = field(default=True, kw_only=True)
    compile: bool = field(default=True, kw_only=True)
    trainers: tuple[Trainer, ...] = field(init=False, repr=False)

    def __new__(cls, *args: object, **options: object) -> "Population":
        """Refuse options of other names, with what to write instead."""
        refuse_unknown("Population", options, [f.name for f in fields(cls) if f.init])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        count = check_integer("n_networks", self.n_networks, 1)
        seeds = _listed("seeds", range(count) if self.seeds is None else self.seeds, count)
        seeds = [check_integer(f"seeds[{k}]", seed, 0) for k, seed in enumerate(seeds)]
        first = Trainer(
            self.model,
            self.loss,
            self.optimizer,
            self.batch_size,
            seeds[0],
            self.shuffle,
            compile=self.compile,
        )
        optimizers: list[Any] = [first.optimizer] * count
        if self.learning_rates is not None:
            rates = _listed("learning_rates", self.learning_rates, count)
            _check_has_rate(first.optimizer)
            optimizers = [_with_rate(first.optimizer, k, rate) for k, rate in enumerate(rates)]
        trainers = [
            replace(first, seed=seed, optimizer=optimizer)
            for seed, optimizer in zip(seeds, optimizers, strict=True)
        ]
        for name in ("loss", "optimizer"):
            object.__setattr__(self, name, getattr(first, name))
        object.__setattr__(self, "n_networks", count)
        object.__setattr__(self, "seeds", tuple(seeds))
        object.__setattr__(self, "trainers", tuple(trainers))

    @options_by_name(lambda: OPTIONS, "epochs=10")
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
        progress: bool | None = None,
    ) -> "PopulationRun":
        """Train all networks and return their runs; the options are those of `Trainer.fit`.

        X is (rows, features), y (rows,) or (rows, outputs). Early stopping and plateaus are those
        of each network; one that has stopped is as it was then, while the others go on.

        Raises DivergenceError where the loss of a network stops being finite; its message has the
        number of the network, and `run` is that of this network. Ctrl-C ends training after a step
        and returns the runs so far, with a warning.
        """
        options = FitOptions(
            epochs=epochs,
            validation=validation,
            sample_weight=sample_weight,
            class_weight=class_weight,
            metrics=metrics,
            early_stopping=early_stopping,
            reduce_on_plateau=reduce_on_plateau,
            progress=progress,
        )
        return PopulationRun(tuple(fit_together(self.trainers, X, y, options)))

    @options_by_name(lambda: OPTIONS, "epochs=10")
    def explain(self, X: ArrayLike, y: ArrayLike, **options: Any) -> None:
        """Print how `fit` would train the networks on such data: together or in turn, and why.

        The options are those of `fit`; nothing is trained. X is (rows, n_in), y (rows,) or (rows,
        n_out).
        """
        together = FitTogether.of(self.trainers, X, y, FitOptions(**options))
        print(together.description)  # noqa: T201


def _listed(name: str, given: Any, count: int) -> list[Any]:
    """Return a sequence as a list; raise ValueError unless it has `count` elements."""
    if isinstance(given, str) or not (hasattr(given, "__len__") and hasattr(given, "__iter__")):
        raise TypeError(f"{name}: expected one for each of {count} networks, got {given!r}")
    listed = list(given)
    if len(listed) != count:
        raise ValueError(
            f"{name}: expected one for each of {count} networks, got {len(listed)}: give as many "
            "as n_networks"
        )
    return [one.item() if isinstance(one, np.generic) else one for one in listed]


def _check_has_rate(optimizer: Any) -> None:
    """Raise TypeError unless an optimizer, or a part of a chain, is portnet's with a number."""
    parts = optimizer.parts if isinstance(optimizer, Chained) else (optimizer,)
    rules = [part for part in parts if isinstance(part, OWN)]
    if not rules:
        raise TypeError(
            f"learning_rates: expected one of portnet's optimizers, which have an lr, got "
            f"{optimizer}"
        )
    if callable(rules[0].lr):
        raise TypeError(
            f"learning_rates: {optimizer} has a schedule, which they would replace: give an "
            "optimizer whose lr is a number"
        )


def _with_rate(optimizer: Any, k: int, rate: Any) -> Any:
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise TypeError(f"learning_rates[{k}]: expected a number, got {rate!r}")
    try:
        return with_rate(optimizer, float(rate))
    except ValueError as error:
        raise ValueError(f"learning_rates[{k}]: {error}") from None


class Spread(NamedTuple):
    """What networks predict: the mean and the standard deviation over them, each (rows, ...)."""

    mean: AnyArray
    std: AnyArray


@dataclass(frozen=True, eq=False)
class PopulationRun(Sequence[Run]):
    """The runs of a population: a sequence, whose predictions are means over the networks.

    Attributes
    ----------
    runs : tuple of Run
        That of each network, as `Trainer.fit` returns it: with parameters, history and the rest.

    Examples
    --------
    >>> import portnet
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
    >>> net = portnet.mlp([1, 8, 2], "tanh")
    >>> population = portnet.Population(net, 3, "softmax_cross_entropy", portnet.Adam(0.1))
    >>> run = population.fit(X, y, epochs=60)
    >>> run.predict_class([[0.5], [2.5]])
    array(['no', 'yes'], dtype='<U3')
    >>> run[1].epoch
    60
    """

    runs: tuple[Run, ...]

    def __len__(self) -> int:
        """Return the number of networks."""
        return len(self.runs)

    def __getitem__(self, k: Any) -> Any:
        """Return the run of a network; of a slice, a PopulationRun."""
        return PopulationRun(self.runs[k]) if isinstance(k, slice) else self.runs[k]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __repr__(self) -> str:
        return f"PopulationRun of {len(self)} networks: {self.runs[0]!r}, ..."

    @options_by_name(lambda: OPTIONS, "epochs=10")
    def fit(self, X: ArrayLike, y: ArrayLike, **options: Any) -> "PopulationRun":
        """Train all networks for more epochs, as if training had not stopped; return their runs.

        To rounding: where some have stopped, the others are trained in turn.
        Give the data and options of the first fit. X is (rows, n_in), y (rows,) or (rows, n_out).
        """
        trainers: Any = [run.trainer for run in self.runs]
        return PopulationRun(
            tuple(fit_together(trainers, X, y, FitOptions(**options), before=self.runs))
        )

    def predict_each(self, X: ArrayLike) -> list[AnyArray]:
        """Return what each network predicts: see `Run.predict`. X is (rows, n_in)."""
        return [run.predict(X) for run in self.runs]

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Return the mean over the networks of what they predict, in the library of X.

        With `return_std`, return mean and standard deviation (population's: divided by the number
        of networks). X is (rows, n_in), the shapes are those of `Run.predict`.
        """
        return self._mean(self.predict_each(X), return_std)

    def predict_proba(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Return the mean of the networks' probabilities (rows, classes): see `Run.predict_proba`.

        With `return_std`, return mean and standard deviation. X is (rows, n_in).
        """
        return self._mean([run.predict_proba(X) for run in self.runs], return_std)

    def predict_class(self, X: ArrayLike) -> AnyArray:
        """Return the class with the highest mean probability: see `Run.predict_class`.

        X is (rows, n_in).
        """
        run = self.runs[0]
        choose = run._classes("predict_class")
        answer = choose(self._mean([r._answer(X, _same) for r in self.runs], False))
        return answer if run.classes is None else run.classes[to_numpy(answer)]

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> float:
        """Return the accuracy of the mean prediction on these rows, or its R^2: see `Run.score`.

        X is (rows, n_in), y (rows,) or (rows, n_out), sample_weight (rows,).
        """
        run = self.runs[0]
        run._check_reachable(X=X, y=y, sample_weight=sample_weight)
        check_feature_names(X, run.feature_names)
        (metric,) = named_metrics([run._score_name], run.trainer.loss, run.outputs).values()
        with run.backend.active():
            data = run._dataset(X, y, sample_weight)
            parts = [data] if isinstance(data, Dataset) else data.parts()
            found = [
                (self._mean([r._mean(r._forward(d.X)) for r in self.runs], False), d.y, d.weight)
                for d in parts
            ]
            xp = run.backend.xp
            columns = [
                c[0] if len(c) == 1 or c[0] is None else xp.concat(list(c))
                for c in zip(*found, strict=True)
            ]
            return read_floats([metric(*columns)])[0]

    def _mean(self, each: list[Array], return_std: bool) -> Any:
        xp = namespace(*each)
        together = xp.stack(each)
        mean = xp.mean(together, axis=0)
        return Spread(mean, xp.std(together, axis=0)) if return_std else mean


def _same(mean: Array) -> Array:
    return mean
