"""Training: the step that all the other files are for, and the loop around it.

Everything here is a function of its arguments but for one place, the loop of `Trainer.epochs`,
where parameters and state are replaced step after step. The host reads numbers once per epoch:
within one, losses are added up where the arrays live.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import rng as random
from . import tree
from . import validation as check
from .backend import (
    Backend,
    ShapeError,
    backend_of,
    describe,
    get_backend,
    is_host,
    namespace,
    to_numpy,
)
from .layers import Layer
from .losses import LOSSES, Loss, Reduced
from .optimizers import OPTIMIZERS, Adam, Optimizer
from .options import integer, methods, named

Array = Any
Params = Any
State = Any
Metric = str | Callable[..., Array]
Step = Callable[..., tuple[Params, State, Array]]
_Rows = tuple[Array, Array, Array | None]  # X, y, weight: checked, and where the parameters are

_BLOCK = 16_384  # rows predicted at once, so that memory does not grow with the data


def make_step(model: Layer, loss: Loss, optimizer: Optimizer) -> Step:
    """Return the training step: forward, loss, backward, update, as one pure function.

    ``step(params, state, x, y, weight=None, key=None) -> params, state, value``, for a batch x
    (rows, n_in) with targets y and weights (rows,), and the key that layers draw from
    (`portnet.rng.key`; None: nothing is drawn). `value` is the loss before the update, 0-d. It can
    be traced: nothing looks at a value. Raises ShapeError where arrays do not fit each other.
    """

    def step(
        params: Params,
        state: State,
        x: Array,
        y: Array,
        weight: Array | None = None,
        key: random.Key | None = None,
    ) -> tuple[Params, State, Array]:
        pred, caches = model.forward(params, x, key)
        value, dpred = loss(pred, y, weight)
        grads, _ = model.backward(params, caches, dpred)
        updates, state = optimizer.update(grads, state, params)
        return tree.map(_add, params, updates), state, value

    return step


def _add(p: Array, u: Array) -> Array:
    if p.shape != u.shape or p.dtype != u.dtype:
        raise ShapeError(
            f"expected an update of shape {tuple(p.shape)} and dtype {p.dtype}, like its "
            f"parameter, got {tuple(u.shape)} and {u.dtype}"
        )
    return p + u


def init(
    model: Layer, n_in: int | None = None, *, seed: int = 0, like: Array | None = None
) -> Params:
    """Return initial parameters of a model: the same for the same seed on every backend.

    Parameters
    ----------
    model : layer
    n_in : int, optional
        Number of inputs; models of `portnet.mlp` know theirs.
    seed : int
    like : array, optional
        Where the parameters are born: in the library, on the device and with the floating dtype of
        this array. By default on the current backend.
    """
    n_in = getattr(model, "n_in", None) if n_in is None else n_in
    if n_in is None:
        raise ValueError("init: expected n_in, the number of inputs: this model does not know it")
    place = get_backend() if like is None else backend_of(like)
    n_in, seed = integer("n_in", n_in, 1), integer("seed", seed, 0)
    params, _ = model.init(random.generator(seed), n_in)
    return tree.map(lambda p: place.asarray(p, place.dtype), params)


class DivergenceError(ArithmeticError):
    """The loss stopped being finite. `run` is the run as it was before that epoch."""

    def __init__(self, message: str, run: "Run | None" = None) -> None:
        super().__init__(message)
        self.run = run


@dataclass(frozen=True, eq=False)
class Trainer:
    """A model, a loss and an optimizer, and how they go through the data.

    Parameters
    ----------
    model : layer
        Anything with init, forward and backward: `portnet.mlp`, `portnet.Chain`, your own.
    loss : str or callable
        A name of `portnet.losses.LOSSES`, one of the losses, or your own function.
    optimizer : str or optimizer
        A name of `portnet.optimizers.OPTIMIZERS`, one of the optimizers, or your own.
    batch_size : int or None
        Rows in a step; None is batch gradient descent: all rows in every step, in their order.
    seed : int
        Draws the initial parameters, the order of the rows and what layers drop.
    shuffle : bool
        Whether batches take the rows in a new order in each epoch.
    params : nest of arrays, optional
        Initial parameters, in the shapes of the model's own; nothing writes into them.

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
    optimizer: str | Optimizer = field(default_factory=Adam)
    batch_size: int | None = 128
    seed: int = 0
    shuffle: bool = True
    params: Params | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", named("loss", self.loss, LOSSES))
        object.__setattr__(self, "optimizer", named("optimizer", self.optimizer, OPTIMIZERS))
        methods("a model", self.model, ("init", "forward", "backward"))
        methods("a loss(pred, target, weight)", self.loss, ("__call__",))
        methods("an optimizer", self.optimizer, ("init", "update"))
        if not isinstance(self.shuffle, bool):
            raise ValueError(f"shuffle: expected True or False, got {self.shuffle!r}")
        if self.batch_size is not None:
            integer("batch_size", self.batch_size, 1)
        integer("seed", self.seed, 0)

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int = 10,
        validation: tuple[Any, ...] | None = None,
        sample_weight: Any = None,
        metrics: Iterable[Metric] = (),
        progress: bool | None = None,
    ) -> "Run":
        """Train from the initial parameters for a number of epochs and return the run.

        Parameters
        ----------
        X : (rows, features)
            An array of any library stays where it is, and the parameters are born there; NumPy
            arrays, lists and frames go to the backend. Cast to the backend's dtype.
        y : (rows,) or (rows, outputs)
            Integer labels for softmax cross-entropy, else targets, one column for each output.
        epochs : int
            How often to go through the data; 0 only initialises.
        validation : (X, y) or (X, y, sample_weight), optional
            Evaluated after each epoch.
        sample_weight : (rows,), optional
            Counts each row that often: the loss of all rows is sum(w l) / sum(w). In a batch, w l
            is summed over its rows and divided by their number and by the mean of all weights.
        metrics : names or functions (mean, target, weight) -> 0-d array
            Computed after each epoch on the validation rows, or on all training rows where there
            are none.
        progress : bool, optional
            Whether to draw a progress bar; by default where stderr is a terminal.

        Returns
        -------
        Run

        Raises
        ------
        DataError, TypeError, ValueError
            for data and options that cannot be used, before anything is computed.
        DivergenceError
            where the loss stops being finite.
        """
        run, rows, held_out = self._start(X, y, validation, sample_weight, metrics)
        for trained in _epochs(run, rows, held_out, integer("epochs", epochs, 0), progress):
            run = trained
        return run

    def epochs(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int = 10,
        validation: tuple[Any, ...] | None = None,
        sample_weight: Any = None,
        metrics: Iterable[Metric] = (),
        progress: bool | None = None,
    ) -> Iterator["Run"]:
        """Train like `fit`, and yield the run after every epoch; ``break`` when you have enough.

        Each run yielded stays as it is: it can be kept, compared and gone back to.
        """
        started = self._start(X, y, validation, sample_weight, metrics)
        return _epochs(*started, integer("epochs", epochs, 0), progress)

    def _start(
        self, X: Any, y: Any, validation: Any, sample_weight: Any, metrics: Iterable[Metric]
    ) -> tuple["Run", "_Rows", "_Rows | None"]:
        """Check everything, move the data, make the parameters."""
        named = {"X": X, "y": y, "sample_weight": sample_weight}
        held_out = check.validation_set(validation)
        place = check.home(**named, **{f"validation {k}": v for k, v in held_out.items()})
        with place.active():
            X = check.features(X, place, width=getattr(self.model, "n_in", None))
            params, outputs = self.model.init(random.generator(self.seed), X.shape[1])
            if self.params is not None:
                params = check.parameters(self.params, params, place)
            params = tree.map(lambda p: place.asarray(p, place.dtype), params)
            state = self.optimizer.init(params)  # type: ignore[union-attr]
            chosen = check.named_metrics(metrics, self.loss, outputs)
            run = Run(self, params, state, place, X.shape[1], outputs, chosen)
            rows = run._rows(X, y, sample_weight)
            checked = run._rows(**held_out, name="validation ") if held_out else None
            check.check_metrics(chosen, rows[1])
        return run, rows, checked


@dataclass(frozen=True, eq=False)
class Run:
    """What training gave so far: parameters, optimizer state and history. Nothing changes it.

    Attributes
    ----------
    params : nest of arrays
        The parameters, where the data live.
    state : nest of arrays
        The optimizer's.
    epoch : int
        How many epochs were trained.
    history : dict of lists
        A number for each epoch: ``loss``, the mean over the rows of what the loss was in the
        epoch's steps (their sum for ``reduction="sum"``); ``validation_loss`` and
        ``validation_<metric>`` after the epoch, or ``<metric>`` on the training rows where no
        validation rows were given.
    """

    trainer: Trainer
    params: Params = field(repr=False)
    state: State = field(repr=False)
    place: Backend
    inputs: int
    outputs: int
    metrics: dict[str, Callable[..., Array]] = field(default_factory=dict, repr=False)
    epoch: int = 0
    _log: dict[str, list[float]] = field(default_factory=dict, repr=False)

    @property
    def history(self) -> dict[str, list[float]]:
        """The numbers of each epoch."""
        # The lists are shared with later runs, which only append: take as many as are this run's.
        return {name: list(numbers[: self.epoch]) for name, numbers in self._log.items()}

    def predict(self, X: Any) -> Array:
        """Return the mean of the target for each row (rows, outputs), in the library of X.

        This is the network's output for squared, absolute and Huber error and for losses of your
        own, its exponential for Poisson, and probabilities for the cross-entropies. Raw outputs are
        ``model.forward(run.params, x)[0]``.
        """
        return self._answer(X, lambda mean: mean)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class or label (rows, outputs), in the library of X.

        Raises TypeError unless the loss is a cross-entropy.
        """
        self._classes("predict_proba")
        return self.predict(X)

    def predict_class(self, X: Any) -> Array:
        """Return the most probable class of each row (rows,), as integers, in the library of X.

        For several labels a row, 0 or 1 for each (rows, labels). Raises TypeError unless the loss
        is a cross-entropy.
        """
        return self._answer(X, self._classes("predict_class"))

    def evaluate(
        self, X: Any, y: Any, sample_weight: Any = None, *, metrics: Iterable[Metric] | None = None
    ) -> dict[str, float]:
        """Return the loss and the metrics (by default those of the fit) on these rows."""
        chosen = self.metrics
        if metrics is not None:
            chosen = check.named_metrics(metrics, self.trainer.loss, self.outputs)
        self._reachable(X=X, y=y, sample_weight=sample_weight)
        with self.place.active():
            rows = self._rows(X, y, sample_weight)
            check.check_metrics(chosen, rows[1])
            return self._evaluate(rows, chosen)

    # What the methods are made of

    def _rows(self, X: Any, y: Any, sample_weight: Any, name: str = "") -> _Rows:
        """Return checked features, targets and weights where the parameters are."""
        place, loss = self.place, self.trainer.loss
        X = check.features(X, place, width=self.inputs, name=name + "X")
        rows = X.shape[0]
        y = check.targets(y, place, loss, rows=rows, outputs=self.outputs, name=name + "y")
        w = check.row_weights(sample_weight, place, rows=rows, name=name + "sample_weight")
        return X, y, w

    def _reachable(self, **arrays: Any) -> None:
        """Raise TypeError where an array lives in another library, or on another device."""
        for name, x in arrays.items():
            if not is_host(x) and not self.place.holds(x):
                raise TypeError(
                    f"{name} is {describe(x)}, but the parameters live in "
                    f"{self.place}: give portnet.to_numpy({name})"
                )

    def _forward(self, X: Array) -> Array:
        """Return the raw outputs for all rows, block by block."""
        model, rows = self.trainer.model, X.shape[0]
        parts = [X[i : min(i + _BLOCK, rows), :] for i in range(0, rows, _BLOCK)]
        blocks = [model.forward(self.params, x)[0] for x in parts]
        return blocks[0] if len(blocks) == 1 else namespace(X).concat(blocks, axis=0)

    def _mean(self, pred: Array) -> Array:
        return self.trainer.loss.mean(pred) if hasattr(self.trainer.loss, "mean") else pred

    def _answer(self, X: Any, finish: Callable[[Array], Array]) -> Array:
        self._reachable(X=X)
        with self.place.active():
            x = check.features(X, self.place, width=self.inputs)
            answer = finish(self._mean(self._forward(x)))
        return to_numpy(answer) if is_host(X) else answer

    def _classes(self, method: str) -> Callable[[Array], Array]:
        if not hasattr(self.trainer.loss, "classes"):
            raise TypeError(
                f"{method} needs a loss that predicts classes, sigmoid_cross_entropy or "
                f"softmax_cross_entropy; this run was trained with {self.trainer.loss}: use predict"
            )
        return self.trainer.loss.classes  # type: ignore[no-any-return]

    def _evaluate(self, rows: _Rows, metrics: dict[str, Callable[..., Array]]) -> dict[str, float]:
        X, y, weight = rows
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite loss is told as it is
            pred = self._forward(X)
            numbers = {"loss": self.trainer.loss(pred, y, weight)[0]}  # type: ignore[operator]
            mean = self._mean(pred) if metrics else None
            for name, metric in metrics.items():
                numbers[name] = metric(mean, y, weight)
        return dict(zip(numbers, _read(list(numbers.values())), strict=True))


# The loop ---------------------------------------------------------------------------------------


def _epochs(
    run: Run, rows: _Rows, held_out: _Rows | None, epochs: int, progress: bool | None
) -> Iterator[Run]:
    from tqdm.auto import tqdm

    trainer, count = run.trainer, rows[0].shape[0]
    steps = -(-count // (trainer.batch_size or count))
    loss: Any = trainer.loss
    if rows[2] is not None and isinstance(loss, Reduced):
        loss = replace(loss, reduction="sum")  # the weights bring the division: see _one_epoch
    step = make_step(trainer.model, loss, trainer.optimizer)  # type: ignore[arg-type]
    log: dict[str, list[float]] = {name: list(v) for name, v in run.history.items()}
    hidden = None if progress is None else not progress  # None: hidden unless on a terminal
    with tqdm(total=epochs * steps, unit="step", disable=hidden, leave=True) as bar:
        for _ in range(epochs):
            with run.place.active():
                params, state, value = _one_epoch(step, run, rows, bar.update)
                trained = replace(run, params=params, state=state, epoch=run.epoch + 1, _log=log)
                numbers = {"loss": value}
                if held_out is not None:
                    found = trained._evaluate(held_out, run.metrics)
                    numbers |= {f"validation_{name}": v for name, v in found.items()}
                elif run.metrics:
                    numbers |= {**trained._evaluate(rows, run.metrics), "loss": value}
            for name, number in numbers.items():
                log.setdefault(name, []).append(number)
            if not bar.disable:
                bar.set_postfix({"epoch": trained.epoch} | numbers, refresh=False)
            run = trained
            yield run


def _one_epoch(
    step: Step, run: Run, data: _Rows, advance: Callable[[int], Any]
) -> tuple[Params, State, float]:
    """Go through the rows once; returns the new parameters and state, and the loss."""
    (X, y, weight), trainer, xp = data, run.trainer, run.place.xp
    rows, batch = X.shape[0], trainer.batch_size or X.shape[0]
    params, state, key = run.params, run.state, random.key(trainer.seed, run.epoch)
    averaged = getattr(trainer.loss, "reduction", "mean") == "mean"
    order = None
    if trainer.batch_size is not None and trainer.shuffle:
        order = run.place.asarray(random.order(trainer.seed, run.epoch, rows))
    if weight is not None and averaged:
        # A batch divides by its rows, not by its weights: else a row would count by its neighbours,
        # and not at all in a batch of its own. All rows together it is sum(w l) / sum(w).
        weight = weight / xp.mean(weight)
    # Kept where the arrays are: the sum of the losses, and the number of steps in which it was
    # finite. A sum that stopped being finite stays so: the next step was the first bad one.
    wide = xp.float64 if run.place.supports("float64") else xp.float32
    total = finite = xp.zeros((), dtype=wide, device=run.place.device)
    with np.errstate(over="ignore", invalid="ignore"):  # the sum tells, and the error says more
        for start in range(0, rows, batch):
            stop = min(start + batch, rows)
            x, t, w = (_batch(xp, a, order, start, stop) for a in (X, y, weight))
            w = w / (stop - start) if w is not None and averaged else w
            params, state, value = step(params, state, x, t, w, key._replace(first=start))
            total = total + value * (stop - start if averaged else 1)
            finite = finite + xp.astype(xp.isfinite(total), wide)
            advance(1)
    sound = [xp.astype(xp.all(xp.isfinite(p)), wide) for p in tree.leaves(params)]
    loss, good, *intact = _read([total, finite, *sound])  # the host waits here, once per epoch
    if not np.isfinite(loss) or not all(intact):
        what, last = ("loss", good + 1) if not np.isfinite(loss) else ("parameters", good)
        raise DivergenceError(
            f"the {what} stopped being finite in epoch {run.epoch + 1}, step {int(last)}; the run "
            "as it was before that epoch is the error's `run`. Try a smaller learning rate, or "
            "scale the inputs to about -1 to 1",
            run,
        )
    return params, state, loss / rows if averaged else loss


def _batch(xp: Any, a: Array | None, order: Array | None, start: int, stop: int) -> Array | None:
    """Return rows start to stop: of the order, or as they are."""
    if order is None or a is None:
        return a if a is None or stop - start == a.shape[0] else a[start:stop, ...]
    return xp.take(a, order[start:stop], axis=0)


def _read(numbers: list[Any]) -> list[float]:
    """Return 0-d arrays and numbers as floats, with one wait for the device."""
    arrays = [v for v in numbers if hasattr(v, "shape")]
    host = iter(to_numpy(namespace(*arrays).stack(arrays)) if arrays else ())
    return [float(next(host) if hasattr(v, "shape") else v) for v in numbers]
