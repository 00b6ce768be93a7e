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

from ._typing import Host
from ._validation import check_integer, name_of, warn
from .backend import to_numpy
from .data.dataset import Dataset
from .evidence import SCALE, Facts, facts_of, norm_of
from .layers import Dense, ReLU, Sigmoid, Tanh
from .losses import AbsoluteError, Huber, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError
from .protocols import RunLike
from .remedies import fitting
from .summary import table_html

__all__ = ["Diagnose", "Diagnosis", "Finding", "column_name", "diagnose"]

SHOWN = 3  # columns, or outputs, that a finding names
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
UNSCALED = "inputs that are not scaled", "targets that are not scaled"
STUCK = "learning rate too large", "dead units", "saturated units", "vanishing gradients"
FINDER = "portnet.find_learning_rate(trainer, X, y) suggests one"
# Limits, as tests/test_diagnosis.py tries them on healthy fits and on fits made ill on purpose.
BALANCE = 0.1  # the share of a class, times the number of classes
DEAD = 0.5  # the share of ReLUs that are 0 for every row
SATURATED = 0.7  # the share of outputs whose derivative is below 4% of the largest
VANISHING, EXPLODING = 1e-3, 1e3  # the gradient of a layer's outputs, to that of the last layer's
STILL = 0.05  # how far all steps together move the parameters, as a share of their size
FALLS = 0.97  # of the loss three epochs before, its cube of that nine before: it still falls
LEAPS = 0.1  # how far one step moves them, the first one too
GROWS = 4.0  # the size of the parameters to that at the start
BLOWN = 10.0  # the loss to that of the initial parameters
NOTHING = 0.9  # the training loss to that of the best constant prediction: nothing was learned
HIGH = 0.7  # the loss now to that, which may be lower by chance where the training loss leaps
RISES = 1.5  # the loss in the end, to its smallest, or to that of the best constant prediction
NOISE = 3.0  # how far it rises, to its median change from epoch to epoch
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

    def _repr_html_(self) -> str:
        if not self.findings:
            return table_html(str(self).replace("\n", " "))
        title = "1 finding" if len(self) == 1 else f"{len(self)} findings"
        table = [(finding.kind, finding.text, finding.remedy) for finding in self]
        return table_html(
            f"{title} after epoch {self.epoch}", ("finding", "figures", "usual remedy"), table
        )


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

    def has_warned(self, kind: str) -> bool:
        """Tell whether it has warned of a kind of finding in the last fit."""
        return kind in self._reported


def diagnose(run: RunLike, data: Dataset) -> Diagnosis:
    """Return the findings about a run on a dataset, the rows that it was trained on."""
    facts = facts_of(run, data)
    found = list(_of_data(facts))
    for look in (_of_large_rates, _of_units, _of_gradients, _of_small_rates):
        found += look(facts, {finding.kind for finding in found})
    found += _of_validation(facts)
    found.sort(key=lambda finding: KINDS.index(finding.kind))
    return Diagnosis(tuple(found), run.epoch)


def _remedy(facts: Facts, *names: str) -> str:
    layers = [record.layer for record in facts.records]
    return fitting(facts.run, layers, len(facts.far) > 0, names)


def column_name(column: int, names: tuple[str, ...] | None) -> str:
    """Return how messages name a column of X."""
    return f"column {column}" + (f" ({names[column]!r})" if names else "") + " of X"


# Findings ---------------------------------------------------------------------------------------


def _of_data(facts: Facts) -> Iterator[Finding]:
    """Inputs and targets that are not scaled, labels out of balance."""
    x, names = facts.x.astype(float), facts.run.feature_names
    worst = facts.far
    if len(worst):
        texts = [
            f"{column_name(j, names)} has mean {x[:, j].mean():.3g} and standard deviation "
            f"{x[:, j].std():.3g}"
            for j in map(int, worst[:SHOWN])
        ]
        yield Finding(
            UNSCALED[0],
            _counted(len(worst), f"{x.shape[1]:,} columns", texts)
            + ", where networks want about 0 and 1",
            "(X - mean) / std of each column, with mean and std of the training rows",
            float(np.sqrt(np.mean(x[:, worst[0]] ** 2))),
        )
    loss = facts.run.trainer.loss
    if isinstance(loss, SquaredError | AbsoluteError | Huber) and facts.poor > 0.5:
        largest = float(np.sqrt(np.mean(np.square(facts.y.astype(float)))))
        if largest > 10 * SCALE:
            yield Finding(
                UNSCALED[1],
                f"the root mean square of y is {largest:.3g}, where networks give about 1",
                "(y - mean) / std, and undo it for predictions",
                largest,
            )
    yield from _of_labels(facts)


def _of_labels(facts: Facts) -> Iterator[Finding]:
    """A class that has few rows, and that the run misses; of several labels a row, each by itself.

    A label is looked at if it is 0 or 1 in every row, and not if the targets are X itself.
    """
    loss, outputs = facts.run.trainer.loss, facts.run.outputs
    if not hasattr(loss, "classes") or facts.rows < 2:
        return
    mean = loss.mean(facts.pred) if hasattr(loss, "mean") else facts.pred
    guess = np.asarray(loss.classes(mean))
    every, some = facts.every_y, facts.y
    if every.ndim == 2 and outputs > 1 and isinstance(loss, SigmoidCrossEntropy):
        if some.shape == facts.x.shape and np.array_equal(some, facts.x):
            return
        found = [
            (j, *rare)
            for j in range(outputs)
            if np.isin(every[:, j], (0, 1)).all()
            and (rare := _rare(every[:, j].astype(int), some[:, j].astype(int), guess[:, j], 2))
        ]
        if not found:
            return
        found.sort(key=lambda each: each[2])
        shares = [each[2] for each in found]
        texts = [
            f"output {j} is {label} in all {facts.rows:,} rows"
            if share == 1
            else f"output {j} is {label} in {100 * share:.2g}% of the rows, and the run finds "
            f"{hit} of {of} of them"
            for j, label, share, hit, of in found[:SHOWN]
        ]
        remedies = ["rows with the other label, or a network without the output"] * (
            shares[-1] == 1
        )
        if shares[0] < 1:
            larger = "sample_weight=, larger for rows with the rare label"
            remedies = [larger, *remedies, "look at each output by itself"]
        yield Finding(
            "labels out of balance",
            _counted(len(found), f"{outputs:,} outputs", texts),
            "; ".join(remedies),
            float(found[0][2]),
        )
        return
    labels = _labels(every, loss), _labels(some, loss)
    if labels[0] is None or labels[1] is None:
        return
    one = _rare(labels[0], labels[1], guess, max(outputs, 2))
    if one is None:
        return
    label, share, hit, of = one
    name = label if facts.run.classes is None else facts.run.classes[label]
    if share == 1:
        text = f"all {facts.rows:,} rows have the class {name}"
        remedy = "give rows of each class; were the rows sorted by class before they were split?"
    else:
        text = f"class {name} has {100 * share:.2g}% of the rows, and the run finds {hit} of {of} "
        text += "of them"
        remedy = "" if facts.weighted else 'class_weight="balanced"; '
        remedy += 'look at the metric "balanced_accuracy"'
    yield Finding("labels out of balance", text, remedy, share)


def _rare(every: Host, some: Host, guess: Host, classes: int) -> tuple[int, float, int, int] | None:
    """Return the rarest class, its share of all rows, and how many of some rows are found, of all.

    None unless its share is small and fewer than half are found, or it is the only class.
    """
    counts = np.bincount(every, minlength=classes)
    present = np.flatnonzero(counts)
    rare = int(present[np.argmin(counts[present])])
    share = float(counts[rare] / counts.sum())
    members = some == rare
    hit, of = int((guess[members] == rare).sum()), int(members.sum())
    if len(present) == 1 or (share * classes < BALANCE and of and hit / of < 0.5):
        return rare, share, hit, of
    return None


def _counted(count: int, of: str, texts: list[str]) -> str:
    """Return the texts about the worst of some columns or outputs, and how many there are."""
    more = [] if count <= len(texts) else ["..."]
    return "; ".join([f"{count} of {of}: {texts[0]}" if count > 1 else texts[0], *texts[1:], *more])


def _labels(y: Host, loss: Any) -> Host | None:
    """Return integer labels (rows,), where each row has one; else None."""
    if y.ndim == 2 and y.shape[1] == 1:
        return (y[:, 0] >= 0.5).astype(int)
    if y.ndim == 2:
        return y.argmax(axis=1) if isinstance(loss, SoftmaxCrossEntropy) else None
    return y.astype(int)


def _of_units(facts: Facts, kinds: set[str]) -> Iterator[Finding]:
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
            remedy = _remedy(facts, "smaller rate", "scale", "He", "LeakyReLU")
            bad = figure >= DEAD
        elif isinstance(record.layer, Sigmoid | Tanh):
            centred = 2 * y - 1 if isinstance(record.layer, Sigmoid) else y
            kind, figure = "saturated units", float((1 - centred * centred < 0.04).mean())
            text = (
                f"{100 * figure:.0f}% of the outputs of {where} are within 1% of their limits, "
                "where the derivative is almost 0"
            )
            remedy = _remedy(facts, "smaller weights", "scale", "smaller rate", "LayerNorm")
            bad = figure >= SATURATED
        else:
            continue
        if bad and (kind not in worst or figure > worst[kind].figure):
            worst[kind] = Finding(kind, text, remedy, figure)
    yield from worst.values()


def _of_gradients(facts: Facts, kinds: set[str]) -> Iterator[Finding]:
    """Gradients that vanish or explode on the way back through the layers."""
    if not math.isfinite(facts.loss):
        yield Finding(
            "exploding gradients",
            f"the loss of these rows is {facts.loss}",
            _remedy(facts, "smaller rate", "scale", "ClipNorm"),
            facts.loss,
        )
        return
    dense = [r for r in facts.records if isinstance(r.layer, Dense) and r.dparams is not None]
    if len(dense) < 2 or facts.poor <= 0.5 or kinds & {"learning rate too large", "dead units"}:
        return
    sizes = [norm_of(r.dy) / math.sqrt(max(r.dy.shape[-1], 1)) for r in dense]
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
            _remedy(facts, "no Sigmoid", "He", "Glorot", "LayerNorm", "Residual", "fewer layers"),
        ),
        (
            high,
            ratios[high] > EXPLODING,
            "exploding gradients",
            "they grow from layer to layer",
            _remedy(facts, "He", "Glorot", "LayerNorm", "ClipNorm"),
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


def _of_large_rates(facts: Facts, kinds: set[str]) -> Iterator[Finding]:
    """A learning rate far too large: the loss rises, or steps are large and help nothing."""
    if facts.step is None or not facts.losses:
        return
    found = _blow_up(facts)
    if len(facts.losses) >= 3:
        found = found or _rise(facts) or _large_steps(facts)
    if found:
        scaled = "after scaling, " if kinds & {*UNSCALED} else ""
        remedy = f"{scaled}a smaller learning rate{_than(facts)}: {FINDER}"
        yield Finding("learning rate too large", found[0], remedy, found[1])


def _blow_up(facts: Facts) -> tuple[str, float] | None:
    """Return a text and a figure where the first steps have led far off, in the first epochs too.

    Then the loss is many times that of the initial parameters.
    """
    start = facts.start
    if start is None or not start.loss > 0:
        return None
    last = facts.losses[-1]
    far = start.grown > (GROWS if start.step > LEAPS else GROWS**3)
    if not (far and min(last, facts.loss) > BLOWN * max(start.loss, facts.reference)):
        return None
    text = (
        f"the parameters have become {start.grown:.3g} times as large as they were at the start, "
        f"and the loss went from {start.loss:.4g} to {last:.4g}"
    )
    return text, start.grown


def _rise(facts: Facts) -> tuple[str, float] | None:
    """Return a text and a figure where the training loss rose."""
    losses = facts.losses
    least = min(losses)
    last = min(losses[-1], float(np.median(losses[-3:])))  # the median is larger in a steep fall
    if not (last > RISES * least and last - least > 0.2 * facts.reference and facts.poor > 0.5):
        return None
    epoch = losses.index(least) + 1
    text = f"the loss rose from {least:.4g} in epoch {epoch} to {last:.4g}"
    return text, last / least if least > 0 else math.inf


def _large_steps(facts: Facts) -> tuple[str, float] | None:
    """Return a text and a figure where steps are large, and the loss is not below a trivial one.

    That is the loss of the best constant prediction, or where it is not known, of the mean of the
    targets, or of the initial parameters. The size of a step is that of the update to the
    parameters, as they are or as they were at the start, whichever is larger: the best parameters
    may be close to 0.
    """
    losses, known = facts.losses, facts.constant is not None
    last, trivial, than = float(np.median(losses[-3:])), facts.reference, "the best constant has"
    if known and not last > NOTHING * trivial > 0:
        return None
    start, step = facts.start, facts.step or 0.0
    if start is not None:
        step *= facts.size / max(facts.size, start.size)
        if not known:
            trivial, than = start.loss, "a guess (the mean, or the initial parameters) has"
        far = start.step > LEAPS and start.grown > GROWS
        if far and last > NOTHING * trivial > 0 and facts.loss > HIGH * trivial:
            text = (
                f"the first step was {start.step:.2g} times as large as the initial parameters, "
                f"these have become {start.grown:.3g} times as large, and the loss is {last:.4g}, "
                f"where {than} {trivial:.4g}"
            )
            return text, start.grown
    stays = all(
        last >= falls * float(np.median(losses[-m:-n] or losses[:1]))
        for m, n, falls in ((6, 3, FALLS), (12, 6, FALLS**3))
    )
    leaps = step > LEAPS and facts.poor > 1.05
    lost = known and facts.trained > RISES and step * facts.steps > 1
    if not (stays and (leaps or lost)):
        return None
    text = f"a step changes the parameters by {step:.2g} of their size"
    if known:
        text += f", and the loss is {last:.4g}, where {than} {trivial:.4g}"
    return text, step


def _of_small_rates(facts: Facts, kinds: set[str]) -> Iterator[Finding]:
    """A learning rate that is far too small: the parameters and the loss hardly change."""
    losses, step = facts.losses, facts.step
    if step is None or len(losses) < 5 or kinds & {*STUCK} or not facts.poor > 0.8:
        return
    way = step * facts.steps
    first, last = losses[0], float(np.median(losses[-3:]))
    stays = abs(first - last) < 0.05 * abs(first)
    # Or it is still above that of a constant, which any network learns with its last bias.
    above = facts.constant is not None and last > max(facts.constant, 0.8 * first)
    if 0 < way < STILL and (stays or above):
        yield Finding(
            "learning rate too small",
            f"a step changes the parameters by {step:.2g} of their size, all {facts.run.epoch} "
            f"epochs by less than {way:.2g}, and the loss went from {first:.4g} to {last:.4g}",
            f"a larger learning rate{_than(facts)}: {FINDER}",
            step,
        )


def _than(facts: Facts) -> str:
    lr = getattr(facts.optimizer, "lr", None)
    return f" than {lr:g}" if isinstance(lr, float) else ""


def _of_validation(facts: Facts) -> Iterator[Finding]:
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
    # From epoch to epoch it changes by noise, of which a minimum is the lowest.
    noise = float(np.median(np.abs(np.diff(values[best:])))) if len(values) > best + 1 else 0.0
    turned = last > TURNS * least and last - least > max(0.1 * values[0], NOISE * noise)
    if turned and losses[-1] < losses[best]:
        yield Finding(
            "validation loss that turned",
            f"it was {least:.4g} in epoch {best + 1} and is {last:.4g} in the end, as medians of "
            f"three epochs, while the training loss fell from {losses[best]:.4g} to "
            f"{losses[-1]:.4g}: the network learns the "
            "training rows by heart",
            _remedy(facts, "early stopping", "more data", "Dropout", "decay", "smaller network"),
            last / least if least > 0 else math.inf,
        )
