"""Evidence: what a diagnosis looks at, of up to 1,000 rows of a dataset and of a run's history."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import tree
from ._typing import Host, Params
from .backend import to_numpy
from .data.dataset import Batch, Dataset
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
from .training import init

__all__ = ["SCALE", "Facts", "Start", "constant_loss", "facts_of", "norm_of", "step_rule"]

ROWS = 1000  # of the data, evenly spaced
SCALE = 10.0  # the root mean square of a column of X that is scaled, at most
TINY = 1e-3  # at least, unless it is 0


@dataclass(frozen=True, eq=False)
class Facts:
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
    batch: Batch  # x, y, weight, where the run's parameters are
    size: float  # of the parameters
    step: float | None  # the size of the next update to that of the parameters

    @cached_property
    def far(self) -> Host:
        """The columns of X that are not scaled, the worst first."""
        x = self.x.astype(float)
        size = np.sqrt(np.mean(x * x, axis=0))
        far = np.flatnonzero((size > SCALE) | ((size > 0) & (size < TINY)))
        order: Host = far[np.argsort(-np.abs(np.log10(size[far])), kind="stable")]
        return order

    @property
    def weighted(self) -> bool:
        """Whether rows have weights, as those of classes."""
        return self.batch[2] is not None

    @cached_property
    def start(self) -> "Start | None":
        """What the initial parameters tell; None where they or their update are not known."""
        try:
            with np.errstate(all="ignore"):
                return start_of(self.run, self.batch)
        except Exception:  # a run that was put together by hand, of other parameters
            return None

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
    def steps(self) -> int:
        """The number of steps made."""
        return self.run.epoch * -(-self.rows // (self.run.trainer.batch_size or self.rows))

    @property
    def optimizer(self) -> Any:
        """What makes the steps, the last part of a chain."""
        return step_rule(self.run.trainer.optimizer)


def step_rule(optimizer: Any) -> Any:
    """Return the part of a chain that makes the steps: its last one."""
    while getattr(optimizer, "parts", None):
        optimizer = optimizer.parts[-1]
    return optimizer


@dataclass(frozen=True, eq=False)
class Start:
    """What the initial parameters tell, without the last bias: it goes to the mean of the targets.

    No matrix of several rows counts as smaller than Glorot's initial weights: small ones may grow.
    """

    loss: float  # of the initial parameters, or of the mean of the targets: the smaller one
    size: float
    step: float  # the size of the first update to that of the parameters
    grown: float  # the size of the parameters now to that at the start


def start_of(run: RunLike, batch: Batch) -> Start | None:
    """Return what the initial parameters tell; None where there is but one bias."""
    trainer, (x, y, weight) = run.trainer, batch
    if trainer.params is None:
        first = init(trainer.model, run.inputs, seed=trainer.seed, like=x)
    else:
        first = tree.map(lambda p: run.backend.asarray(p, run.backend.dtype), trainer.params)
    pred, cache = trainer.model.forward(first, x)
    value, dpred = trainer.loss(pred, y, weight)
    grads, _ = trainer.model.backward(first, cache, dpred)
    rows, loss = x.shape[0], float(to_numpy(value))
    if tuple(y.shape) == tuple(pred.shape):
        mean = run.backend.xp.zeros_like(y) + run.backend.xp.mean(y, axis=0, keepdims=True)
        loss = min(loss, float(to_numpy(trainer.loss(mean, y, weight)[0])))
    if getattr(trainer.loss, "reduction", "mean") == "sum":
        share = (trainer.batch_size or rows) / rows
        loss, grads = loss / rows, tree.map(lambda g: share * g, grads)
    updates, _ = trainer.optimizer.update(grads, trainer.optimizer.init(first), first)
    leaves = list(zip(*map(tree.leaves, (first, updates, run.params)), strict=True))
    biases = [i for i, (p, *_) in enumerate(leaves) if p.shape[0] == 1 and not norm_of(p) > 0]
    leaves = [leaf for i, leaf in enumerate(leaves) if i not in biases[-1:]]
    if not leaves:
        return None
    matrices = [p.shape if p.ndim == 2 and p.shape[0] > 1 else () for p, *_ in leaves]
    usual = [math.sqrt(2 / sum(1 / n for n in shape)) if shape else 0.0 for shape in matrices]
    size = math.hypot(*(max(norm_of(p), u) for (p, *_), u in zip(leaves, usual, strict=True)))
    step, now = (math.hypot(*(norm_of(leaf[k]) for leaf in leaves)) for k in (1, 2))
    return Start(loss, size, step / size, now / size) if size > 0 else None


def facts_of(run: RunLike, data: Dataset) -> Facts:
    """Return what a diagnosis looks at."""
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
        constant = constant_loss(trainer.loss, *hosts, run.outputs)
    loss = float(to_numpy(value))
    if summed:
        loss, constant = loss / len(order), None if constant is None else constant / len(order)
    return Facts(
        run=run,
        rows=rows,
        x=to_numpy(x),
        y=to_numpy(y),
        every_y=to_numpy(data.y),
        pred=to_numpy(pred),
        records=records,
        loss=loss,
        constant=constant,
        batch=(x, y, weight),
        size=norm_of(run.params),
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
    size = norm_of(run.params)
    return norm_of(updates) * getattr(run, "_scale", 1.0) / size if size > 0 else None


def constant_loss(loss: Any, y: Host, weight: Host | None, outputs: int) -> float | None:
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


def norm_of(pytree: Params) -> float:
    """Return the Euclidean norm of all arrays of a pytree."""
    squares = [np.sum(np.square(to_numpy(leaf).astype(float))) for leaf in tree.leaves(pytree)]
    return math.sqrt(sum(map(float, squares)))
