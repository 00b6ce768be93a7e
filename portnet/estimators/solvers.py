"""Solvers: scikit-learn's epochs of sgd and adam, and iterations of L-BFGS.

Each takes options (any object with the parameters of `portnet.MLPClassifier`), a model, a loss
summed over rows, a dataset and the FitState to start from, and returns a new FitState. The host
reads numbers once per epoch, or once per evaluation of L-BFGS.
"""

import math
import signal
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from .._typing import Array, Host, Params, State
from ..backend import namespace
from ..data.dataset import Dataset
from ..engine.compile_cache import compile_cached, compiles, is_cacheable, release
from ..engine.epoch import EpochExecutor, EpochResult, run_epochs
from ..engine.epoch_state import Epochs
from ..engine.inference import forward_dataset
from ..engine.packing import unpacked
from ..engine.ranks import fit_signals, is_agreed, is_first, of_first_rank, together
from ..engine.windows import run_windows
from ..layers import Layer
from ..lbfgs import LBFGS
from ..losses import Loss
from ..optimizers import OPTIMIZERS
from ..rng import Key, key
from ..transforms import joined_parameters
from . import objective
from .idle_executors import executor_of
from .optimizers import SklearnAdam, SklearnSGD

__all__ = [
    "EpochsWanted",
    "FitState",
    "Position",
    "Training",
    "fit_lbfgs",
    "fit_stochastic",
    "forward",
    "solver_of",
    "stochastic",
    "trained_alone",
]


# An order of the rows (of a source: the seed of the orders of its epochs), and the state of a
# generator; each may be None.
Position = tuple[Any, Any]
FTOL = 2.220446049250313e-09  # SciPy's, for L-BFGS-B
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


@dataclass(frozen=True)
class Solver:
    """The optimizer, its state, and the current learning rate of solver="sgd"."""

    rule: Any
    state: State
    learning_rate: float


@dataclass(frozen=True)
class FitState:
    """The result of a fit, and the start of one that resumes it, in scikit-learn's terms."""

    params: Params
    loss: float = math.nan
    n_iter: int = 0
    t: int = 0  # rows seen
    solver: Any = None  # a Solver, set by the first epoch
    best_loss: float = math.inf
    best_score: float = -math.inf
    best: Params = None  # the parameters of the best score of this fit
    last: Params = None  # at the end, those of the last epoch if they are not the best ones
    no_improvement: int = 0
    losses: list[float] = field(default_factory=list)  # of the epochs of this fit
    scores: list[float] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)  # of metrics, by name
    warning: str = ""
    category: type[Warning] = ConvergenceWarning
    interrupted: bool = False


def _changed(now: FitState, **changes: Any) -> FitState:
    """Return ``replace(now, **changes)``, in a fifth of the time: an epoch may take no longer."""
    new = object.__new__(FitState)
    vars(new).update(vars(now), **changes)
    return new


def forward(model: Layer, params: Params, data: Any, *, compiled: bool = True) -> Array:
    """Return the raw outputs (rows, outputs), computed in blocks of rows."""
    if not isinstance(data, Dataset):  # it is read in parts
        parts = [forward(model, params, part, compiled=compiled) for part in data.parts()]
        outputs: Array = namespace(parts[0]).concat(parts, axis=0)
        return outputs
    return forward_dataset(model, params, data, block_size(params), compiled=compiled)


def block_size(params: Params) -> int:
    """Return how many rows to compute at once, so that memory is bounded."""
    widest = max(int(max(p["W"].shape)) for p in params if type(p) is dict and "W" in p)
    return max(1, min(16_384, 2**24 // widest))


# Epochs of sgd and adam -------------------------------------------------------------------------


class EpochsWanted(NamedTuple):
    """Epochs that `stochastic` wants to be trained: what `run_epochs` takes.

    `alone` is the executor of a fit of one network.
    """

    alone: EpochExecutor
    params: Params
    state: State
    epochs: Epochs
    interrupted: list[int]


Training = Generator[EpochsWanted, EpochResult, Any]  # asks for epochs, gets their results


def trained_alone(training: Training, wanted: EpochsWanted | None = None) -> Any:
    """Train the epochs of one network and return the result; `wanted` are the first ones."""
    try:
        wanted = next(training) if wanted is None else wanted
        while True:
            try:
                end = run_epochs(*wanted, look_at=_both, packed=True)
            except BaseException as error:
                wanted = training.throw(error)
            else:
                wanted = training.send(end)
    except StopIteration as ended:
        return ended.value


def _both(params: Params, state: State) -> tuple[Params, State]:
    return params, state


def fit_stochastic(*args: Any, **options: Any) -> FitState:
    """Train one network: see `stochastic`."""
    done: FitState = trained_alone(stochastic(*args, **options))
    return done


def stochastic(
    options: Any,
    model: Layer,
    loss: Loss,
    data: Any,
    now: FitState,
    rng: np.random.RandomState,
    *,
    batch_size: int,
    incremental: bool = False,
    score: Callable[[Params], float] | None = None,
    measure: Callable[[Params], dict[str, float]] | None = None,
    tasks: Any = None,
    files: Any = None,
    position: Position | None = None,
    resumed: bool = False,
    seed: int | None = None,
    shared: Any = None,
) -> Training:
    """Train epochs of sgd or adam until a stopping rule holds; one epoch if incremental.

    `data` is a Dataset, or a SourceDataset, which is read in parts.

    With `score`, the result has the parameters of the best score or, as in scikit-learn, the last
    ones if no score is above the best of earlier fits. What `measure` returns after each epoch is
    added to the curves. `tasks`, a `tasks.FitTasks`, calls callbacks around epochs. `seed` is that
    of layers that draw random numbers, if there are any.

    Raises ValueError if an epoch is not finite and no parameters have a best score. `files`, a
    `checkpoints.FitFiles`, writes the state after epochs; `position` is that of the orders where
    they go on. If `resumed` without it, the orders of the epochs before are drawn again.

    Whoever runs this generator trains the epochs that it yields, alone or with those of other
    networks; `shared`, a `together.Shared`, then says how many take how long.
    """
    if now.solver is None:
        now = replace(now, solver=solver_of(options, now.params))
    parts = model, loss, now.solver.rule, float(options.alpha)
    rows, steps = len(data), -(-len(data) // batch_size)
    at_least = int(min(options.max_iter, options.n_iter_no_change + 1))  # epochs
    new = EpochExecutor(
        objective.make_penalized_step,
        parts,
        compiled=getattr(options, "compile", True),
        planned=0 if incremental else at_least * steps,
        likely=0 if incremental else options.max_iter // 2 * steps,
        vectors=_vectors(options, now.solver.rule) if seed is None or is_cacheable(model) else "",
        sharded=objective.make_sharded_penalized_step,
    )
    in_memory, generator = isinstance(data, Dataset), rng if options.shuffle else None
    orders: Any = _Orders(data, generator) if in_memory else _Seed(generator)
    if position is not None:
        orders.go_to(position)
    elif resumed and in_memory:  # those of windows follow from the number of the epoch
        orders.skip(now.n_iter)
    windows = None if in_memory else _windows_of(options, data, batch_size, orders, now.n_iter)
    looked_at = incremental or score is not None or _is_invscaling(options)  # after each epoch
    looked_at = looked_at or measure is not None or tasks is not None
    one_by_one = 0

    def train(
        now: FitState, executor: EpochExecutor, interrupted: list[int]
    ) -> Generator[EpochsWanted, EpochResult, tuple[FitState, bool]]:
        """Train one epoch, or as many as no rule looks at; return whether training ends."""
        nonlocal one_by_one
        count = 1
        if windows is None and not looked_at and not one_by_one:  # no rule ends training before
            least = min(options.n_iter_no_change + 1 - now.no_improvement, options.max_iter)
            least = min(least, options.max_iter - now.n_iter)
            pace = executor if shared is None else shared.pace(executor)
            count = max(1, min(int(least), pace.epochs_at_once(0.05, rows, steps)))
            count = count if files is None else files.epochs_until_due(count)
        keys: list[Key | None] = [None] * count
        if seed is not None:
            keys = [key(seed, now.n_iter + epoch) for epoch in range(1, count + 1)]
        task = None if tasks is None else tasks.begin(now)
        given = executor, now.params, now.solver.state
        if windows is None:
            epochs = Epochs(data, batch_size, keys, orders.draw(count))
            end = yield EpochsWanted(*given, epochs, interrupted)
        else:
            ahead = windows.of_epoch(now.n_iter, 0, interrupted)
            epochs_of = lambda w: Epochs(w.dataset, batch_size, keys, [w.order])  # noqa: E731
            end = run_windows(*given, ahead, epochs_of, interrupted, look_at=_both)
        finite = end.finite and all(map(math.isfinite, end.losses))
        if not finite and count > 1:  # which epoch is it? They are made again
            orders.keep(0)
            one_by_one = count
            return now, False
        if windows is None:
            orders.keep(len(end.losses))
        one_by_one -= one_by_one > 0
        if not interrupted and not finite:
            return _diverged(now), True
        solver = replace(now.solver, state=end.state)
        now = replace(now, params=end.params, solver=solver)
        now = replace(now, losses=[*now.losses], scores=[*now.scores])
        for loss_sum in end.losses[:-1] if interrupted else end.losses:
            now = _changed(now, loss=loss_sum / rows, n_iter=now.n_iter + 1, t=now.t + rows)
            _print(options, f"Iteration {now.n_iter}, loss = {now.loss:.8f}")
            now.losses.append(now.loss)
            now = _with_best(options, now, score)
            if measure is not None:
                found = of_first_rank(partial(measure, unpacked(now.params)))
                now = _with_curves(now, found)
        if interrupted:  # the steps of the last epoch are kept, but it does not count
            return _interrupted(now), True
        if _is_invscaling(options):
            lr = float(options.learning_rate_init) / (now.t + 1) ** options.power_t
            now = replace(now, solver=_with_rate(now.solver, lr))
        ended = incremental
        if tasks is not None:
            ended = tasks.end(task, now) or ended
        if now.no_improvement > options.n_iter_no_change:
            now, stopped = _no_progress(options, now)
            ended = ended or stopped
        if not ended and now.n_iter == options.max_iter:
            message = (
                f"Stochastic Optimizer: Maximum iterations ({int(options.max_iter)}) reached "
                "and the optimization hasn't converged yet."
            )
            return replace(now, warning=message), True
        return now, ended

    kept, ended = executor_of(options, new, data, now.params, keep=incremental), False
    ended = ended or bool((position or resumed) and _has_ended(options, now))
    reading = nullcontext() if windows is None else closing(windows)
    with fit_signals(files is not None) as interrupted, kept as executor, reading:
        while not ended:
            before, at = now, None if files is None else orders.position
            try:
                now, ended = yield from train(now, executor, interrupted)
            except KeyboardInterrupt as error:  # outside of steps, by a handler not Python's
                if interrupted or not is_agreed(error):  # the second one
                    raise
                now, ended = _interrupted(now), True
            except (RuntimeError, TypeError, ValueError) as error:
                from ..engine.gradient_shapes import add_note_of_layer

                add_note_of_layer(error, model, now.params, data)
                raise
            if files is not None:
                done = now.n_iter - before.n_iter
                with together():
                    if interrupted and not done:  # what is resumed begins with a whole epoch
                        files.after(before, at, 0, ends=True)
                    elif done:
                        files.after(now, orders.position, done, ends=ended or bool(interrupted))
            if signal.SIGTERM in interrupted:
                raise SystemExit(128 + signal.SIGTERM)
    solver = replace(now.solver, state=unpacked(now.solver.state))
    if now.best is None:
        return replace(now, params=unpacked(now.params), solver=solver)
    best, last = unpacked(now.best), None if now.best is now.params else unpacked(now.params)
    return replace(now, params=best, best=best, last=last, solver=solver)


def _windows_of(options: Any, data: Any, batch_size: int, seed: "_Seed", epoch: int) -> Any:
    """Return the windows of the epochs of a source from `epoch` on."""
    from ..data.sources.windows import Windows

    plan = data.plan(batch_size, bool(options.shuffle))
    return Windows(data, plan, seed.seed or 0, range(epoch, epoch + int(options.max_iter)))


def _has_ended(options: Any, now: FitState) -> bool:
    """Tell whether a rule had ended the fit when its last checkpoint was written."""
    return bool(now.n_iter >= options.max_iter or now.no_improvement > options.n_iter_no_change)


class _Seed:
    """The seed of the orders of all epochs of a source; None without `rng`, which draws it."""

    def __init__(self, rng: np.random.RandomState | None) -> None:
        self.rng, self.seed = rng, None if rng is None else int(rng.randint(1 << 31))

    @property
    def position(self) -> Position:
        """The seed, and the state of the generator after it was drawn."""
        if self.rng is None:
            return None, None
        return np.array([self.seed]), self.rng.get_state(legacy=False)

    def go_to(self, position: Position) -> None:
        """Go on from a position."""
        if self.rng is not None:
            self.seed = int(position[0][0])
            self.rng.set_state(position[1])


class _Orders:
    """The orders of the epochs: each shuffles the one before it, as in scikit-learn.

    Without `rng`, the order stays.
    """

    def __init__(self, data: Dataset, rng: np.random.RandomState | None) -> None:
        shuffled = data.order is None and rng is not None
        self.order, self.rng = np.arange(len(data)) if shuffled else data.order, rng
        self._drawn: list[Host] = []
        self._before: Any = None  # order and state of rng, before the last orders were drawn

    @property
    def position(self) -> Position:
        """The last order, and the state of the generator."""
        return self.order, None if self.rng is None else self.rng.get_state(legacy=False)

    def go_to(self, position: Position) -> None:
        """Go on from a position."""
        self.order = position[0]
        if self.rng is not None:
            self.rng.set_state(position[1])

    def skip(self, count: int) -> None:
        """Go on from where so many epochs have been made."""
        if self.order is not None and self.rng is not None:
            for _ in range(count):
                self.order = self.order[self.rng.permutation(len(self.order))]

    def draw(self, count: int) -> list[Host] | None:
        """Return the orders of the next epochs; None for all rows as they are."""
        if self.order is None or self.rng is None:
            return None if self.order is None else [self.order] * count
        # legacy=False: a RandomState may have another generator than MT19937
        state = self.rng.get_state(legacy=False) if count > 1 else None
        self._before = self.order, state
        self._drawn = []
        for _ in range(count):
            self.order = self.order[self.rng.permutation(len(self.order))]
            self._drawn.append(self.order)
        return self._drawn

    def keep(self, count: int) -> None:
        """Go back to where only the first `count` of the last orders are drawn."""
        if self.rng is not None and count < len(self._drawn):
            self.order, state = self._before
            self.rng.set_state(state)
            self.draw(count)


def _interrupted(now: FitState) -> FitState:
    return replace(
        now, warning="Training interrupted by user.", category=UserWarning, interrupted=True
    )


def _is_invscaling(options: Any) -> bool:
    return bool(options.solver == "sgd" and options.learning_rate == "invscaling")


def _with_best(options: Any, now: FitState, score: Callable[[Params], float] | None) -> FitState:
    """Update the best loss or score, and count the epochs without an improvement of tol."""
    no_improvement = now.no_improvement + 1
    if score is None:
        improved = not now.loss > now.best_loss - options.tol
        best_loss = min(now.best_loss, now.loss)
        no_improvement = 0 if improved else no_improvement
        return _changed(now, best_loss=best_loss, no_improvement=no_improvement)
    value = of_first_rank(partial(score, unpacked(now.params)))
    now.scores.append(value)
    _print(options, f"Validation score: {value:f}")
    improved = not value < now.best_score + options.tol
    now = replace(now, no_improvement=0 if improved else no_improvement)
    if value > now.best_score:
        now = replace(now, best_score=value, best=now.params)
    return now


def _with_curves(now: FitState, measured: dict[str, float]) -> FitState:
    """Add the values of an epoch to the curves."""
    curves = {name: [*now.curves.get(name, ()), value] for name, value in measured.items()}
    return replace(now, curves=now.curves | curves)


def _no_progress(options: Any, now: FitState) -> tuple[FitState, bool]:
    """Stop, or continue with a fifth of the learning rate."""
    what = "Validation score" if now.scores else "Training loss"
    message = (
        f"{what} did not improve more than tol={options.tol:f} for {options.n_iter_no_change} "
        "consecutive epochs."
    )
    adaptive = options.solver == "sgd" and options.learning_rate == "adaptive"
    if adaptive and now.solver.learning_rate > 1e-6:
        lr = now.solver.learning_rate / 5
        _print(options, f"{message} Setting learning rate to {lr:f}")
        return replace(now, solver=_with_rate(now.solver, lr), no_improvement=0), False
    reason = " Learning rate too small." if adaptive else ""
    _print(options, f"{message}{reason} Stopping.")
    return now, True


def _diverged(before: FitState) -> FitState:
    """Return the state before an epoch that is not finite; raise without best parameters."""
    reason = f"In iteration {before.n_iter + 1}, loss, weights or moments stopped being finite"
    if before.best is None:
        raise ValueError(f"{NOT_FINITE} ({reason}.)")
    return replace(
        before,
        warning=f"{NOT_FINITE} {reason}: training ended there, and the parameters are those of the "
        "best validation score.",
    )


def solver_of(options: Any, params: Params) -> Solver:
    """Return the solver of the options, before its first step."""
    lr = float(options.learning_rate_init)
    given = getattr(options, "optimizer", None)
    rule: Any
    if isinstance(given, str):
        rule = _NAMED[given](lr)
    elif given is not None:
        rule = given
    elif options.solver == "sgd":
        rule = SklearnSGD(lr, float(options.momentum), options.nesterovs_momentum)
    else:
        rule = SklearnAdam(lr, float(options.beta_1), float(options.beta_2), float(options.epsilon))
    return Solver(rule, rule.init(params), lr)


_NAMED: dict[str, Callable[[float], Any]] = dict(OPTIMIZERS)  # type: ignore[arg-type]


def _vectors(options: Any, rule: Any) -> str:
    """Return whether steps are the same for parameters that are joined: `EpochExecutor.vectors`."""
    joined = "one" if isinstance(rule, SklearnSGD | SklearnAdam) else joined_parameters(rule)
    # The penalty is of weights only.
    return "by name" if joined == "one" and options.alpha > 0 else joined


def _with_rate(solver: Solver, lr: float) -> Solver:
    """Return sgd with another learning rate, of the same dtype and device."""
    state = unpacked(solver.state)
    return replace(solver, state=state._replace(lr=0.0 * state.lr + lr), learning_rate=lr)


# Iterations of L-BFGS ---------------------------------------------------------------------------


def fit_lbfgs(
    options: Any,
    model: Layer,
    loss: Loss,
    data: Dataset,
    start: FitState,
    *,
    measure: Callable[[Params], dict[str, float]] | None = None,
    tasks: Any = None,
) -> FitState:
    """Iterate L-BFGS until convergence, max_iter or max_fun.

    `measure` and `tasks` are as in `stochastic`, with iterations for epochs. The curves of the
    result have the loss after each iteration, too.

    Raises ValueError if the initial loss is not finite.
    """
    total = len(data) if data.weight is None else namespace(data.weight).sum(data.weight)
    size = block_size(start.params)
    part: objective.Part = objective.summing(model, loss)
    if not data.is_sparse and compiles(data.backend, getattr(options, "compile", True)):
        part = compile_cached(objective.summing, model, loss)
    function, v, unravel = objective.over_all_rows(
        part, float(options.alpha), lambda: data.batches(size), total, start.params
    )
    eps = float(namespace(v).finfo(v.dtype).eps)
    optimizer = LBFGS(memory=10, gtol=options.tol, ftol=max(FTOL, eps))
    state, n_iter, stopped = optimizer.init(v), 0, False
    curves: dict[str, list[float]] = {"loss": []}

    def goes_on() -> bool:
        more = not state.status and n_iter < options.max_iter and not stopped
        return bool(more and state.evaluations <= options.max_fun)

    # The line search steps back if the loss overflows.
    with fit_signals() as interrupted, np.errstate(over="ignore", invalid="ignore"):
        while of_first_rank(goes_on) and not interrupted:
            before = v
            task = None if tasks is None else tasks.begin(replace(start, params=unravel(v)))
            try:
                v, state = optimizer.iterate(function, v, state)
            except FloatingPointError as error:
                raise ValueError(f"{NOT_FINITE} ({error})") from None
            except KeyboardInterrupt as error:  # raised by a SIGINT handler that is not Python's
                if not is_agreed(error):  # the others know nothing of it
                    raise
                interrupted.append(0)
            if v is not before:
                n_iter += 1
                _print(options, f"Iteration {n_iter}, loss = {state.value:.8f}")
                curves["loss"].append(float(state.value))
                if measure is not None:
                    for name, value in of_first_rank(partial(measure, unravel(v))).items():
                        curves.setdefault(name, []).append(value)
            if tasks is not None:
                made = replace(start, params=unravel(v), loss=state.value, n_iter=n_iter)
                stopped = tasks.end(task, made)
    release()
    done = replace(start, params=unravel(v), loss=state.value, n_iter=n_iter, curves=curves)
    if interrupted:
        return _interrupted(done)
    if stopped:
        return done
    # In SciPy's order: at max_iter this is the message, whether converged or not.
    if n_iter >= options.max_iter:
        reason, status = "STOP: TOTAL NO. OF ITERATIONS REACHED LIMIT", 1
    elif state.evaluations > options.max_fun:
        reason, status = "STOP: TOTAL NO. OF F,G EVALUATIONS EXCEEDS LIMIT", 1
    elif state.status.startswith("converged") or eps > 1e-10:
        return done  # float32 has converged when the line search finds no lower loss
    else:
        reason, status = f"ABNORMAL: {state.status}", 2
    message = (
        f"lbfgs failed to converge after {n_iter} iteration(s) (status={status}):\n{reason}\n"
        + (
            "\nIncrease the number of iterations to improve the convergence "
            f"(max_iter={options.max_iter})."
            if n_iter == options.max_iter
            else ""
        )
        + "\nYou might also want to scale the data as shown in:\n"
        "    https://scikit-learn.org/stable/modules/preprocessing.html"
    )
    return replace(done, warning=message)


def _print(options: Any, line: str) -> None:
    if options.verbose and is_first():
        print(vars(options).get("_name", "") + line)  # noqa: T201 (to stdout, as scikit-learn does)
