"""The learning-rate range test: a rate that rises from step to step, and the losses (Smith 2017).

The rate rises geometrically from `low` to `high`, and the test ends where the loss explodes. While
the rate is too small the loss hardly changes, then it falls, and at last it rises. Short trials
with a few constant rates around what the test finds decide, as a rate that is good for one step may
be too large, or too small, for many.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

from . import rng
from ._typing import ArrayLike, Host
from ._validation import check_integer, name_of
from .backend import read_floats
from .data.checks import DataError
from .data.dataset import Batch, Dataset
from .divergence import divergence_error
from .evidence import step_rule
from .lbfgs import LBFGS
from .optimizers import Optimizer
from .preparation import FitOptions, prepare
from .protocols import TrainerLike
from .run import Run
from .summary import table_html
from .training import init, make_step

__all__ = ["LearningRates", "find_learning_rate"]

EXPLODED = 4.0  # the loss, to the smallest so far, at which the test ends (as in fastai)
FEWEST = 10  # steps that the test needs before that
# The test finds SHARE of the rate at which the loss is lowest before it rises by RISE of its fall.
SHARE, RISE = 0.3, 0.02
# The rates of the trials, as factors, and how often `trials` steps each has: far apart, then close.
STAGES = ((1 / 9, 1 / 3, 1.0, 3.0, 9.0), 1), ((3**-0.5, 1.0, 3**0.5), 4)
ROWS = 1000  # evenly spaced in the data, whose loss is computed after each step


@dataclass(frozen=True, eq=False)
class LearningRates:
    """The result of a learning-rate range test; print it, or draw it with `plot`.

    Attributes
    ----------
    lrs : array of float (n,)
        The rate of each step.
    losses : array of float (n,)
        The loss after that step, of the same rows each time (at most 1,000), without dropout; the
        mean of the tests.
    suggestion : float or None
        A rate to train with; None where the loss did not fall at any rate.
    trials : dict of float: float
        The rate of each trial, and the loss at its end; inf where it diverged.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.lr_finder import LearningRates
    >>> print(LearningRates(np.array([0.1, 1.0]), np.array([2.0, 3.0]), None))
    no learning rate is suggested: the loss did not fall at any rate from 0.1 to 1
    """

    lrs: Host
    losses: Host
    suggestion: float | None
    trials: dict[float, float] = field(default_factory=dict)

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses over the rates and return matplotlib's Axes; see `portnet.plots`.

        The rates and losses have shape (n,).
        """
        from .plots import learning_rates

        return learning_rates(self.lrs, self.losses, self.suggestion, ax=ax)

    def __str__(self) -> str:
        span = f"from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}"
        if self.suggestion is None:
            return f"no learning rate is suggested: the loss did not fall at any rate {span}"
        return f"learning rate {self.suggestion:.3g}, from {len(self.lrs)} steps with rates {span}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def _repr_html_(self) -> str:
        table = [
            (f"{lr:.3g}", f"{loss:.4g}", "suggested" if lr == self.suggestion else "")
            for lr, loss in sorted(self.trials.items())
        ]
        head = "learning rate", "loss at the end of its trial", ""
        return table_html(str(self), head, table, right=(0, 1))


def find_learning_rate(
    trainer: TrainerLike | Run,
    X: ArrayLike,
    y: ArrayLike,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
    tests: int = 3,
    trials: int = 200,
    sample_weight: ArrayLike = None,
    class_weight: object = None,
) -> LearningRates:
    """Make steps with rising learning rates, in a copy, and suggest a rate.

    The trainer, its parameters and optimizer, the run, random numbers and the backend are as before
    afterwards.

    Parameters
    ----------
    trainer : Trainer or Run
        Where to start: from the trainer's initial parameters, or from those of a run. Its optimizer
        must have a number `lr`, which does not matter.
    X : (rows, n_in)
    y : (rows,) or (rows, n_out)
        The data of the fit, at least two rows.
    low, high : float
        The first rate and the largest one, 0 < low < high.
    steps : int
        How many steps there are from `low` to `high`, at least 20.
    tests : int
        How often the test is made, with the rows in other orders, and from other initial parameters
        unless they are given; the losses are averaged.
    trials : int
        How many steps each of the first trials has, made as often as the test; 0 for no trials.
        Then the suggestion is that of the range test alone.
    sample_weight, class_weight
        As in `Trainer.fit`.

    Returns
    -------
    LearningRates
        With `lrs`, `losses`, `suggestion` and `plot()`.

    Raises
    ------
    TypeError
        for L-BFGS, and for optimizers without a number `lr`.
    DivergenceError
        where the loss is not finite within the first steps.

    Notes
    -----
    The range test finds 0.3 times the rate at which the smoothed loss was lowest before it rose.
    Then this rate, and a third, a ninth, three and nine times of it, are tried for `trials` steps;
    then the best of these, and 1 / sqrt(3) and sqrt(3) times of it, for four times as many; none
    is above `high`. The one with the lowest loss is suggested. With the defaults there are 10,800
    steps in all, and 600 with ``trials=0``.

    In 36 fits of 18 small problems (``python ci/learning_rates.py --seeds 2``), 34 of the
    suggestions led to a loss within 10% of the best that any rate of a grid had from the same seed,
    and the worst one to 1.29 times that: fits at one rate differ that much from seed to seed. It is
    a rate to begin with: a schedule that decays to 0 can start higher.

    References
    ----------
    L. N. Smith, Cyclical learning rates for training neural networks, 2017; J. Howard and S.
    Gugger, fastai: a layered API for deep learning, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> X = np.random.default_rng(0).standard_normal((200, 2))
    >>> trainer = portnet.Trainer(portnet.mlp([2, 16, 1]), "squared_error", portnet.SGD())
    >>> found = portnet.find_learning_rate(trainer, X, X[:, 0] * X[:, 1])
    >>> 0.01 < found.suggestion < 1
    True
    """
    if isinstance(trainer, Run):
        trainer = replace(trainer.trainer, params=trainer.params)  # type: ignore[type-var]
    if not all(hasattr(trainer, name) for name in ("model", "loss", "optimizer", "batch_size")):
        raise TypeError(
            f"find_learning_rate: expected a portnet.Trainer or a run, got {name_of(trainer):.100}"
        )
    _check_rates(low, high)
    steps, tests = check_integer("steps", steps, 20), check_integer("tests", tests, 1)
    trials = check_integer("trials", trials, 0)
    _check_optimizer(trainer.optimizer)
    options = FitOptions(epochs=1, sample_weight=sample_weight, class_weight=class_weight)
    prepared = prepare(trainer, X, y, options)
    run, data = prepared.run, prepared.data
    data = data if isinstance(data, Dataset) else data.some
    if len(data) < 2:
        raise DataError(
            f"find_learning_rate: expected at least 2 rows, got {len(data)}: one row says nothing "
            "of how a fit of others goes"
        )
    lrs = np.geomspace(low, high, steps)
    with run.backend.active(), np.errstate(all="ignore"):
        every = [_range_test(run, data, lrs, number) for number in range(tests)]
        shortest = min(map(len, every))
        if shortest < FEWEST:
            what = f"the loss stopped being finite at a learning rate of {lrs[shortest]:.3g}"
            smaller = f"rates from a smaller one on, low={low / 1000:.3g}"
            raise divergence_error(run, data, what, shortest + 1, smaller)
        lrs, losses = lrs[:shortest], np.mean([each[:shortest] for each in every], axis=0)
        rate, tried = suggested(lrs, losses), dict[float, float]()
        if rate is not None and trials:
            for factors, times in STAGES:
                tried = {
                    lr: float(
                        np.mean([_trial(run, data, lr, times * trials, n) for n in range(tests)])
                    )
                    for lr in sorted({min(factor * rate, high) for factor in factors})
                }
                rate = min(tried, key=lambda r: tried[r])
    return LearningRates(lrs, losses, rate, tried)


def _check_rates(low: float, high: float) -> None:
    numbers = all(isinstance(x, int | float | np.number) for x in (low, high))
    if not numbers or isinstance(low, bool) or not 0 < low < high < math.inf:
        raise ValueError(f"expected rates 0 < low < high, got low={low!r} and high={high!r}")


def _check_optimizer(optimizer: Any) -> None:
    """Raise TypeError unless the optimizer has a learning rate that is a number."""
    if isinstance(optimizer, LBFGS):
        raise TypeError(
            "find_learning_rate: L-BFGS finds the length of its steps by itself: it has no "
            "learning rate"
        )
    rule = step_rule(optimizer)
    lr = getattr(rule, "lr", None)
    if callable(lr):
        raise TypeError(
            f"find_learning_rate: {name_of(rule)} has a schedule: give a number, such as "
            f"{type(rule).__name__}(0.001), and use the suggestion as the lr of the schedule"
        )
    if not isinstance(lr, int | float):
        raise TypeError(
            f"find_learning_rate: expected an optimizer with a number lr, got {name_of(rule)}"
        )


def _with_rate(optimizer: Any, lr: float) -> Optimizer:
    """Return a copy of an optimizer with another learning rate."""
    parts = getattr(optimizer, "parts", None)
    changes = {"lr": lr} if not parts else {"parts": (*parts[:-1], _with_rate(parts[-1], lr))}
    names = {f.name for f in fields(optimizer) if f.init} if is_dataclass(optimizer) else set()
    if set(changes) <= names:
        return replace(optimizer, **changes)  # type: ignore[no-any-return]
    other: Optimizer = copy.copy(optimizer)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    return other


def _range_test(run: Run, data: Dataset, lrs: Host, number: int) -> Host:
    """Return the loss of some rows after a step of each rate, until it explodes."""
    losses = list[float]()
    for loss in _steps(run, data, lrs, number, every=1):
        losses.append(loss)
        if not math.isfinite(loss):
            return np.array(losses[:-1])
        if len(losses) >= FEWEST and loss > EXPLODED * min(losses):
            break
    return np.array(losses)


def _trial(run: Run, data: Dataset, lr: float, steps: int, number: int) -> float:
    """Return the loss at the end of steps of one rate: the mean of its last tenth; inf if NaN."""
    every = max(1, steps // 50)
    losses = list(_steps(run, data, np.full(steps, lr), number, every))
    mean = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    return mean if math.isfinite(mean) else math.inf


def _steps(run: Run, data: Dataset, lrs: Host, number: int, every: int) -> Iterator[float]:
    """Make a step with each rate; yield the loss of some rows after every so many steps."""
    trainer, params = run.trainer, run.params
    if number > 0 and trainer.params is None:
        params = init(trainer.model, run.inputs, seed=trainer.seed + number, like=data.X)
    state = trainer.optimizer.init(params)
    some = np.unique(np.linspace(0, len(data) - 1, min(len(data), ROWS)).astype(int))
    part = replace(data, order=some if data.order is None else data.order[some])
    x_part, y_part, weight_part = next(part.batches(len(some)))
    batches = _batches(trainer, data, number)
    for i, lr in enumerate(lrs):
        optimizer = _with_rate(trainer.optimizer, float(lr))
        step = make_step(trainer.model, trainer.loss, optimizer)
        x, y, weight = next(batches)
        key = rng.key(trainer.seed, number * len(lrs) + i)
        params, state, _ = step(params, state, x, y, weight, key)
        if (i + 1) % every == 0:
            pred, _ = trainer.model.forward(params, x_part)
            (loss,) = read_floats([trainer.loss(pred, y_part, weight_part)[0]])
            yield loss


def _batches(trainer: TrainerLike, data: Dataset, number: int) -> Iterator[Batch]:
    """Yield batches without end, in orders as those of a fit, of other epochs in each test."""
    rows = len(data)
    size = min(trainer.batch_size or rows, rows)
    epoch = 1_000_000 * number
    while True:
        order = None
        if trainer.batch_size is not None and trainer.shuffle:
            order = rng.order(trainer.seed, epoch, rows)
        for batch in replace(data, order=order).batches(size):
            if batch[0].shape[0] == size:  # a shorter one has a noisier loss
                yield batch
        epoch += 1


def suggested(lrs: Host, losses: Host) -> float | None:
    """Return 0.3 times the rate at which the loss is lowest before it rises again, or None.

    The losses (n,) are smoothed over the rates (n,). They rise where they exceed the lowest so far
    by 2% of the whole fall. None is returned if they fall by less than 1%.

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.lr_finder import suggested
    >>> lrs = np.geomspace(1e-4, 10.0, 51)
    >>> losses = 1 - np.minimum(lrs, 1) + np.maximum(lrs - 1, 0) ** 2  # lowest at a rate of 1
    >>> 0.2 < suggested(lrs, losses) < 0.4
    True
    """
    smooth = _smoothed(np.minimum(losses, 2 * losses[0] if losses[0] > 0 else losses))
    fall = smooth[0] - smooth.min()
    if not fall > 0.01 * abs(smooth[0]):
        return None
    lowest = 0
    for i, loss in enumerate(smooth):
        if loss < smooth[lowest]:
            lowest = i
        elif smooth[0] - smooth[lowest] > 0.1 * fall and loss > smooth[lowest] + RISE * fall:
            break
    return float(SHARE * lrs[lowest])


def _smoothed(losses: Host) -> Host:
    """Return the losses (n,) averaged with a Gaussian of a standard deviation of two steps."""
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2) ** 2)
    smooth: Host = np.convolve(np.pad(losses, 6, mode="edge"), kernel / kernel.sum(), "valid")
    return smooth
