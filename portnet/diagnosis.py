"""Diagnosis: what is wrong with a run, in plain words: each finding has its figure and a remedy.

The layers, their gradients and the next update are computed on up to 1,000 rows, and the history is
looked at. Most findings are reported only if the loss is poor, more than half of that of the best
constant prediction: a network that has learned its task may have saturated units.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import tree
from ._typing import Host, Params
from ._validation import check_integer, name_of, warn
from .backend import to_numpy
from .data.dataset import Dataset
from .layers import Dense, ReLU, Sigmoid, Tanh
from .lbfgs import LBFGS
from .losses import (
    AbsoluteError,
    Huber,
    PoissonLoss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from .protocols import RunLike
from .recording import Record, recorded

__all__ = ["Diagnose", "Diagnosis", "Finding", "column_name", "diagnose", "step_rule"]

ROWS = 1000  # of the data, evenly spaced
KINDS = (  # causes before consequences
    "inputs that are not scaled",
    "targets that are not scaled",
    "labels out of balance",
    "learning rate too large",
    "dead units",
    "saturated units",
    "vanishing gradients",
    "exploding gradients",
    "learning rate too small",
    "validation loss that turned",
)
# Limits, as tests/test_diagnosis.py tries them on healthy fits and on fits made ill on purpose.
SCALE = 10.0  # the root mean square of a column of X, or 10 times that of y
BALANCE = 0.1  # the share of a class, times the number of classes
DEAD = 0.5  # the share of ReLUs that are 0 for every row
SATURATED = 0.7  # the share of outputs whose derivative is below 4% of the largest
VANISHING, EXPLODING = 1e-3, 1e3  # the gradient of a layer's outputs, to that of the last layer's
STILL = 0.05  # how far all steps together move the parameters, as a share of their size
FALLS = 0.97  # of the loss three epochs before: it has not stopped falling
LEAPS = 0.1  # how far one step moves them
RISES = 1.5  # the loss in the end, to its smallest, or to that of the best constant prediction
TURNS = 1.3  # the validation loss in the end, to its smallest, both as medians of three epochs


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: in plain words, with the figure behind it and the usual remedy.

    Examples
    --------
    >>> from portnet.diagnosis import Finding
    >>> print(Finding("dead units", "9 of 10 units are 0", "use a smaller learning rate", 0.9))
    dead units: 9 of 10 units are 0. Usual remedy: use a smaller learning rate
    """

    kind: str
    text: str
    remedy: str
    figure: float

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}. Usual remedy: {self.remedy}"


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a run, the likely causes first; it is false if there are none.

    Examples
    --------
    >>> from portnet.diagnosis import Diagnosis
    >>> print(Diagnosis((), epoch=20))
    nothing was found after epoch 20: inputs, labels, units, gradients, learning rate and validation
    loss look healthy
    """

    findings: tuple[Finding, ...]
    epoch: int

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __str__(self) -> str:
        if not self.findings:
            return (
                f"nothing was found after epoch {self.epoch}: inputs, labels, units, gradients, "
                "learning rate and validation\nloss look healthy"
            )
        return "\n".join(f"{i}. {finding}" for i, finding in enumerate(self.findings, start=1))


@dataclass(eq=False)
class Diagnose:
    """A callback that warns of what `run.diagnose` finds, once for each kind of finding.

    Parameters
    ----------
    every : int
        It looks after the first epoch, after every so many, and after the last.

    Examples
    --------
    >>> import warnings
    >>> import portnet
    >>> X, y = [[0.0], [1.0], [2.0]], [1, 1, 1]
    >>> trainer = portnet.Trainer(portnet.mlp([1, 2]), "softmax_cross_entropy")
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     run = trainer.fit(X, y, callbacks=[portnet.Diagnose()])
    >>> print(str(caught[0].message).partition(".")[0])
    labels out of balance: all 3 rows have the class 1
    """

    every: int = 10
    _reported: set[str] = field(default_factory=set, init=False, repr=False)
    _epoch: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.every = check_integer("Diagnose: every", self.every, 1)

    def __call__(self, report: Any) -> None:
        """Warn of new findings."""
        data = getattr(report, "_data", None)
        if data is None:
            raise TypeError(
                f"Diagnose is a callback of fit, callbacks=[portnet.Diagnose()], got {report!r}; "
                "run.diagnose(X, y) looks at a run"
            )
        if report.epoch <= self._epoch:  # another fit
            self._reported.clear()
        self._epoch = report.epoch
        if report.epoch not in (1, report.epochs) and report.epoch % self.every:
            return
        with report.run.backend.active():
            found = diagnose(report.run, data)
        for finding in found:
            if finding.kind not in self._reported:
                self._reported.add(finding.kind)
                warn(f"{finding} (after epoch {report.epoch})")


def diagnose(run: RunLike, data: Dataset) -> Diagnosis:
    """Return the findings about a run on a dataset, the rows that it was trained on."""
    facts = _facts(run, data)
    found = [*_of_data(facts), *_of_units(facts)]
    found += _of_gradients(facts, {finding.kind for finding in found})
    found += _of_learning_rate(facts, {finding.kind for finding in found})
    found += _of_validation(facts)
    found.sort(key=lambda finding: KINDS.index(finding.kind))
    return Diagnosis(tuple(found), run.epoch)


# What is looked at ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Facts:
    """What a diagnosis looks at, on the host: of some rows, and of the history."""

    run: RunLike
    rows: int  # of all data
    x: Host
    y: Host
    every_y: Host
    pred: Host
    records: list[Record]
    loss: float  # a mean over rows
    constant: float | None  # the loss of the best constant prediction; None if it is not known
    step: float | None  # the size of the next update to that of the parameters

    @property
    def poor(self) -> float:
        """The loss to that of the best constant prediction, or to that of the first epoch.

        Of the loss of these rows, which may have been held out, and the last training loss, the
        smaller one counts.
        """
        return min(self.loss / self.reference if self.reference > 0 else 0.0, self.trained)

    @property
    def trained(self) -> float:
        """The last training loss to that of the best constant prediction, or of the first epoch."""
        if not math.isfinite(self.loss):
            return math.inf
        return self.losses[-1] / self.reference if self.losses and self.reference > 0 else 0.0

    @property
    def reference(self) -> float:
        """The loss of the best constant prediction, or that of the first epoch."""
        if self.constant is not None:
            return self.constant if self.constant > 1e-12 else 0.0
        return self.losses[0] if self.losses else 0.0

    @property
    def losses(self) -> list[float]:
        """The finite training losses, as means over rows."""
        summed = getattr(self.run.trainer.loss, "reduction", "mean") == "sum"
        losses = self.run.history.get("loss", [])
        return [v / self.rows if summed else v for v in losses if math.isfinite(v)]

    @property
    def optimizer(self) -> Any:
        """What makes the steps, the last part of a chain."""
        return step_rule(self.run.trainer.optimizer)


def step_rule(optimizer: Any) -> Any:
    """Return the part of a chain that makes the steps: its last one."""
    while getattr(optimizer, "parts", None):
        optimizer = optimizer.parts[-1]
    return optimizer


def column_name(column: int, names: tuple[str, ...] | None) -> str:
    """Return how messages name a column of X."""
    return f"column {column}" + (f" ({names[column]!r})" if names else "") + " of X"


def _facts(run: RunLike, data: Dataset) -> _Facts:
    rows, trainer = len(data), run.trainer
    some = np.unique(np.linspace(0, rows - 1, min(rows, ROWS)).astype(int))
    order = some if data.order is None else data.order[some]
    part = Dataset(data.backend, data.X, data.y, data.weight, order)
    x, y, weight = next(part.batches(len(order)))
    model, records = recorded(trainer.model, inside=True)
    step = None
    summed = getattr(trainer.loss, "reduction", "mean") == "sum"
    with np.errstate(all="ignore"):
        pred, cache = model.forward(run.params, x)
        value, dpred = trainer.loss(pred, y, weight)
        grads, _ = model.backward(run.params, cache, dpred)
        if not isinstance(trainer.optimizer, LBFGS):
            share = (trainer.batch_size or rows) / len(order) if summed else 1.0
            step = _relative_step(run, tree.map(lambda g: share * g, grads))
        hosts = to_numpy(y), None if weight is None else to_numpy(weight)
        constant = _constant_loss(trainer.loss, *hosts, run.outputs)
    loss = float(to_numpy(value))
    if summed:
        loss, constant = loss / len(order), None if constant is None else constant / len(order)
    return _Facts(
        run=run,
        rows=rows,
        x=to_numpy(x),
        y=to_numpy(y),
        every_y=to_numpy(data.y),
        pred=to_numpy(pred),
        records=records,
        loss=loss,
        constant=constant,
        step=step,
    )


def _relative_step(run: RunLike, grads: Params) -> float | None:
    """Return the size of the next update to that of the parameters."""
    optimizer = run.trainer.optimizer
    state = optimizer.init(run.params) if run.state is None else run.state
    try:
        updates, _ = optimizer.update(grads, state, run.params)
    except Exception:  # a state of other parameters, as of a run that was put together by hand
        return None
    size = _norm(run.params)
    return _norm(updates) * getattr(run, "_scale", 1.0) / size if size > 0 else None


def _constant_loss(loss: Any, y: Host, weight: Host | None, outputs: int) -> float | None:
    """Return the loss of the best constant prediction; None for losses that are not portnet's."""
    w = np.ones(len(y)) if weight is None else weight
    tiny = 1e-12
    if y.ndim == 1:
        mean = np.bincount(y, w, outputs) / max(w.sum(), tiny)
    else:
        mean = (y * w[:, None]).sum(axis=0) / max(w.sum(), tiny)
    if type(loss) is SoftmaxCrossEntropy:
        best = np.log(np.maximum(mean, tiny))
    elif type(loss) is SigmoidCrossEntropy:
        p = np.clip(mean, tiny, 1 - tiny)
        best = np.log(p / (1 - p))
    elif type(loss) is PoissonLoss:
        best = np.log(np.maximum(mean, tiny))
    elif type(loss) is AbsoluteError:
        best = np.median(y, axis=0)
    elif type(loss) in (SquaredError, Huber):
        best = mean
    else:
        return None
    dtype = y.dtype if y.dtype.kind == "f" else np.float64
    pred = np.broadcast_to(best.astype(dtype), (len(y), outputs))
    return float(loss(pred, y, None if weight is None else weight.astype(dtype))[0])


def _norm(pytree: Params) -> float:
    """Return the Euclidean norm of all arrays of a pytree."""
    squares = [np.sum(np.square(to_numpy(leaf).astype(float))) for leaf in tree.leaves(pytree)]
    return math.sqrt(sum(map(float, squares)))


# Findings ---------------------------------------------------------------------------------------


def _of_data(facts: _Facts) -> Iterator[Finding]:
    """Inputs and targets that are not scaled, labels out of balance."""
    x, names = facts.x.astype(float), facts.run.feature_names
    size = np.sqrt(np.mean(x * x, axis=0))
    j = int(np.argmax(size))
    if size[j] > SCALE or 0 < size[j] < 1e-3:
        yield Finding(
            "inputs that are not scaled",
            f"{column_name(j, names)} has mean {x[:, j].mean():.3g} and standard deviation "
            f"{x[:, j].std():.3g}, where networks want about 0 and 1",
            "(X - mean) / std of each column, with mean and std of the training rows",
            float(size[j]),
        )
    loss = facts.run.trainer.loss
    if isinstance(loss, SquaredError | AbsoluteError | Huber) and facts.poor > 0.5:
        largest = float(np.sqrt(np.mean(np.square(facts.y.astype(float)))))
        if largest > 10 * SCALE:
            yield Finding(
                "targets that are not scaled",
                f"the root mean square of y is {largest:.3g}, where networks give about 1",
                "(y - mean) / std, and undo it for predictions",
                largest,
            )
    yield from _of_labels(facts)


def _of_labels(facts: _Facts) -> Iterator[Finding]:
    """A class that has few rows, and that the run misses."""
    loss, outputs = facts.run.trainer.loss, facts.run.outputs
    every, some = _labels(facts.every_y, loss), _labels(facts.y, loss)
    if every is None or some is None or facts.rows < 2:
        return
    classes = max(outputs, 2)
    counts = np.bincount(every, minlength=classes)
    present = np.flatnonzero(counts)
    names = facts.run.classes
    if len(present) == 1:
        name = names[present[0]] if names is not None else present[0]
        yield Finding(
            "labels out of balance",
            f"all {facts.rows:,} rows have the class {name}",
            "give rows of each class; were the rows sorted by class before they were split?",
            1.0,
        )
        return
    rare = int(present[np.argmin(counts[present])])
    share = counts[rare] / counts.sum()
    mean = loss.mean(facts.pred) if hasattr(loss, "mean") else facts.pred
    members = some == rare
    found, of = int((loss.classes(mean)[members] == rare).sum()), int(members.sum())
    if share * classes < BALANCE and of and found / of < 0.5:
        name = names[rare] if names is not None else rare
        yield Finding(
            "labels out of balance",
            f"class {name} has {100 * share:.2g}% of the rows, and the run finds {found} of {of} "
            "of them",
            'class_weight="balanced"; look at the metric "balanced_accuracy"',
            float(share),
        )


def _labels(y: Host, loss: Any) -> Host | None:
    """Return integer labels (rows,), where each row has one; else None."""
    if not hasattr(loss, "classes"):
        return None
    if y.ndim == 2 and y.shape[1] == 1:
        return (y[:, 0] >= 0.5).astype(int)
    if y.ndim == 2:
        return y.argmax(axis=1) if isinstance(loss, SoftmaxCrossEntropy) else None
    return y.astype(int)


def _of_units(facts: _Facts) -> Iterator[Finding]:
    """ReLUs that are 0 for every row, sigmoids and tanh that hardly have a derivative."""
    rows = len(facts.x)
    if rows < 2 or facts.poor <= 0.5:
        return
    worst: dict[str, Finding] = {}
    for record in facts.records:
        y, where = to_numpy(record.y), f"{record.path} {name_of(record.layer)}".strip()
        if isinstance(record.layer, ReLU):
            dead = (y <= 0).all(axis=0)
            kind, figure = "dead units", float(dead.mean())
            text = (
                f"{int(dead.sum())} of {dead.size} units of {where} are 0 for each of {rows:,} "
                "rows: no gradient passes, and they no longer learn"
            )
            remedy = "a smaller learning rate, scaled inputs, He's initial weights, or LeakyReLU"
            bad = figure >= DEAD
        elif isinstance(record.layer, Sigmoid | Tanh):
            centred = 2 * y - 1 if isinstance(record.layer, Sigmoid) else y
            kind, figure = "saturated units", float((1 - centred * centred < 0.04).mean())
            text = (
                f"{100 * figure:.0f}% of the outputs of {where} are within 1% of their limits, "
                "where the derivative is almost 0"
            )
            remedy = "smaller initial weights, scaled inputs, a smaller learning rate, or LayerNorm"
            bad = figure >= SATURATED
        else:
            continue
        if bad and (kind not in worst or figure > worst[kind].figure):
            worst[kind] = Finding(kind, text, remedy, figure)
    yield from worst.values()


def _of_gradients(facts: _Facts, kinds: set[str]) -> Iterator[Finding]:
    """Gradients that vanish or explode on the way back through the layers."""
    if not math.isfinite(facts.loss):
        yield Finding(
            "exploding gradients",
            f"the loss of these rows is {facts.loss}",
            "a smaller learning rate, scaled inputs, portnet.ClipNorm",
            facts.loss,
        )
        return
    dense = [r for r in facts.records if isinstance(r.layer, Dense) and r.dparams is not None]
    if len(dense) < 2 or facts.poor <= 0.5 or "dead units" in kinds:
        return
    sizes = [_norm(r.dy) / math.sqrt(max(r.dy.shape[-1], 1)) for r in dense]
    if not sizes[-1] > 0:
        return
    ratios = [size / sizes[-1] for size in sizes[:-1]]
    low, high = int(np.argmin(ratios)), int(np.argmax(ratios))
    for i, bad, kind, less, remedy in (
        (
            low,
            ratios[low] < VANISHING,
            "vanishing gradients",
            "almost nothing reaches it",
            "ReLU or Tanh in place of Sigmoid, He's or Glorot's initial weights, LayerNorm, "
            "portnet.Residual, or fewer layers",
        ),
        (
            high,
            ratios[high] > EXPLODING,
            "exploding gradients",
            "they grow from layer to layer",
            "He's or Glorot's initial weights, LayerNorm, or portnet.ClipNorm before the optimizer",
        ),
    ):
        if bad:
            yield Finding(
                kind,
                f"the gradient with respect to the outputs of {dense[i].path} "
                f"{name_of(dense[i].layer)} is {ratios[i]:.2g} times as large as that of the last "
                f"layer: {less}",
                remedy,
                ratios[i],
            )


def _of_learning_rate(facts: _Facts, kinds: set[str]) -> Iterator[Finding]:
    """A learning rate that is far too small or far too large."""
    losses, step = facts.losses, facts.step
    if step is None or not losses:
        return
    lr = getattr(facts.optimizer, "lr", None)
    than = f" than {lr:g}" if isinstance(lr, float) else ""
    batch = facts.run.trainer.batch_size or facts.rows
    way = step * facts.run.epoch * -(-facts.rows // batch)
    first, last, least = losses[0], float(np.median(losses[-3:])), min(losses)
    finder = "portnet.find_learning_rate(trainer, X, y) suggests one"
    rescaled = kinds & {"inputs that are not scaled", "targets that are not scaled"}
    if (
        len(losses) >= 5
        and 0 < way < STILL
        and not kinds & {"dead units", "saturated units", "vanishing gradients"}
        and facts.poor > 0.8
        and abs(first - last) < 0.05 * abs(first)
    ):
        yield Finding(
            "learning rate too small",
            f"a step changes the parameters by {step:.2g} of their size, all {facts.run.epoch} "
            f"epochs by less than {way:.2g}, and the loss went from {first:.4g} to {last:.4g}",
            f"a larger learning rate{than}: {finder}",
            step,
        )
        return
    rises = len(losses) >= 3 and last > RISES * least and last - least > 0.2 * facts.reference
    rises = rises and facts.poor > 0.5
    stays = len(losses) >= 3 and last >= FALLS * float(np.median(losses[-6:-3] or losses[:1]))
    leaps = stays and step > LEAPS and facts.poor > 1.05
    lost = stays and facts.constant is not None and facts.trained > RISES and way > 1
    if rises or leaps or lost:
        figures = f"a step changes the parameters by {step:.2g} of their size"
        if rises:
            epoch = losses.index(least) + 1
            figures = f"the loss rose from {least:.4g} in epoch {epoch} to {last:.4g}"
        elif lost:
            figures += (
                f", and the loss is {facts.trained:.3g} times that of the best constant prediction"
            )
        scaled = " after scaling, " if rescaled else ""
        yield Finding(
            "learning rate too large",
            figures,
            f"{scaled}a smaller learning rate{than}: {finder}".strip(),
            last / least if rises and least > 0 else step,
        )


def _of_validation(facts: _Facts) -> Iterator[Finding]:
    """A validation loss that rises again while the training loss falls."""
    history = facts.run.history
    losses, values = history.get("loss", []), history.get("validation_loss", [])
    restored = getattr(facts.run, "_last", None) is not None  # the parameters of the best epoch
    if len(values) < 5 or len(losses) != len(values) or restored:
        return
    medians = [float(np.median(values[i : i + 3])) for i in range(len(values) - 2)]
    if not all(map(math.isfinite, medians)):
        return
    best, last, least = medians.index(min(medians)) + 1, medians[-1], min(medians)
    turned = last > TURNS * least and last - least > 0.1 * values[0]
    if turned and losses[-1] < losses[best]:
        yield Finding(
            "validation loss that turned",
            f"it was {least:.4g} in epoch {best + 1} and is {last:.4g} now, while the training "
            f"loss fell from {losses[best]:.4g} to {losses[-1]:.4g}: the network learns the "
            "training rows by heart",
            "early_stopping=True, more data, dropout, AdamW or portnet.WeightDecay, or a smaller "
            "network",
            last / least if least > 0 else math.inf,
        )
