"""Checkpoints of an estimator's fit: the estimator as it would be if the fit had ended there."""

import copy
import math
from contextlib import AbstractContextManager
from dataclasses import replace
from os import PathLike, fspath
from os.path import abspath
from typing import Any

import numpy as np

from .. import tree
from .._typing import Host
from ..data.dataset import Dataset
from ..engine.packing import unpacked
from ..engine.rank_checks import check_equal
from ..engine.ranks import current_ranks, is_first, summed_as
from ..files import checkpoint as checkpoints
from ..files.encoding import decode
from ..files.errors import ModelFileError, ResumeMismatchError
from ..files.estimators import estimator_from
from ..files.generators import set_generator
from ..files.models import check_header, open_file
from .solvers import FitState, Position

__all__ = ["FitFiles", "check_ranks"]

# Parameters that may differ when a fit is resumed: they do not change its steps.
FREE = "max_iter", "verbose", "compile", "backend", "warm_start"
FROM_ESTIMATOR = (
    "Give the same data and parameters, or start from it: "
    "portnet.load(path).set_params(warm_start=True, ...).fit(X, y)"
)


class FitFiles:
    """The checkpoint that one fit writes, and that from which it is resumed; each may be None."""

    def __init__(
        self,
        path: str | PathLike[str] | None,
        every: int | str,
        keep: int,
        on_error: str,
        resume: str | PathLike[str] | bool | None,
    ) -> None:
        self.checkpoint = None
        if path is not None:
            self.checkpoint = checkpoints.Checkpoint.of(path, every, keep, on_error)
            if self.checkpoint.unit == "steps":
                raise ValueError("every: estimators write after epochs: give epochs or seconds")
        elif (every, keep, on_error) != (1, 1, "raise"):
            raise ValueError("every, keep and on_checkpoint_error need checkpoint=path")
        self.resume = checkpoints.path_to_resume(resume, self.checkpoint)
        if not isinstance(self.resume, str | PathLike | None):
            raise TypeError(
                "resume: expected the path of a checkpoint of an estimator, or True, got "
                f"{self.resume!r:.80}. To go on from a fitted estimator, use warm_start=True"
            )
        self.writer: checkpoints.Writer | None = None
        self._described: dict[str, Any] = {}
        self._tensors: dict[str, Any] = {}
        self._rng: Any = None
        self._first: Any = None
        self._estimator: Any = None

    def summed(self) -> AbstractContextManager[None]:
        """Return the context of a fit that goes on from what ranks may have written."""
        return summed_as(checkpoints.sums_of(self.resume))

    def begin(self, estimator: Any, rng: np.random.RandomState) -> None:
        """Read the checkpoint, and set the generator to where the resumed fit began."""
        self._estimator = estimator
        if self.checkpoint is not None and is_first():
            self.checkpoint.check_writable()
        if self.resume is not None:
            self._described, self._tensors = open_file(self.resume, "estimator")
            if "progress" not in self._described:
                raise ModelFileError(f"{self.resume}: an estimator, but no checkpoint of a fit")
            try:
                set_generator(rng, self._progress()["first"])
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise ModelFileError(f"{self.resume}: its progress: {error}") from None
        self._rng, self._first = rng, rng.get_state(legacy=False)

    def _progress(self) -> Any:
        return decode(self._described["progress"], self._tensors, {})

    def start(
        self, data: Dataset, validation: Any, start: FitState
    ) -> tuple[FitState, Position | None]:
        """Return the state from which training goes on, and the position of its orders.

        Raises ResumeMismatchError where data or parameters are others than those of the checkpoint.
        """
        now = _in_common(self._estimator, data, validation)
        position = None
        if self.resume is not None:
            try:
                before = checkpoints.in_common(self._described["checkpoint"])
                found = checkpoints.differences(before, now)
                found += self._other_names()
                if found:
                    raise checkpoints.mismatch(str(self.resume), found, FROM_ESTIMATOR)
                start, position = self._resumed(data, start)
            except (ModelFileError, ResumeMismatchError):
                raise
            except Exception as error:  # of values that do not fit together
                raise ModelFileError(f"{self.resume}: {type(error).__name__}: {error}") from None
            if start.n_iter > (most := self._estimator.max_iter):
                raise ValueError(
                    f"max_iter: {fspath(self.resume)} was written after {start.n_iter} iterations, "
                    f"which count, got max_iter={most}: give max_iter={start.n_iter} or more"
                )
        if self.checkpoint is not None:
            goes_on = self.resume is not None and abspath(self.resume) == self.checkpoint.path
            at = (start.n_iter, 0) if goes_on else None
            check_header(self._estimator, now)
            if is_first():  # the other ranks wait
                self.writer = checkpoints.Writer(
                    self.checkpoint, now, at, _best_epoch(start), source=self.resume or ""
                )
        return start, position

    def _other_names(self) -> list[str]:
        """Return where the names of features and classes differ: the arrays have only codes."""
        fitted = self._described["fitted"]["dict"]
        names, labels = (fitted.get(name) for name in ("feature_names_in_", "labels"))
        before = {"feature_names_in_": decode(names, self._tensors, {})}
        if labels is not None:
            classes = decode(labels, self._tensors, {})["classes"]
            before["classes_"] = classes["names"] if isinstance(classes, dict) else classes
        now = vars(self._estimator)
        if "_label_binarizer" in now:
            now = now | {"classes_": now["_label_binarizer"].classes_}
        return [
            line
            for name, saved in before.items()
            for line in checkpoints.differing_names(name, saved, now.get(name))
        ]

    def _resumed(self, data: Dataset, start: FitState) -> tuple[FitState, Position]:
        own = self._estimator, *self._estimator.get_params(deep=False).values()
        custom = {getattr(v, "__name__", type(v).__name__): v for v in own}
        custom[type(self._estimator).__name__] = type(self._estimator)
        saved, progress = estimator_from(self._described, self._tensors, custom), self._progress()
        move = data.backend.asarray

        def on_backend(pytree: Any) -> Any:
            return tree.map(lambda a: move(a, a.dtype.name) if hasattr(a, "dtype") else a, pytree)

        params = on_backend(saved._network()[1])
        best = on_backend(progress["best"])
        if progress.get("last") is not None:
            params, best = on_backend(progress["last"]), params
        if best is not None:
            _check_shapes(best, params)
        solver = saved._optimizer
        if not data.backend.is_host:
            solver = type(solver)(solver.rule, on_backend(solver.state), solver.learning_rate)
        _check_shapes(solver.state, solver.rule.init(params))
        state = FitState(
            params,
            loss=float(getattr(saved, "loss_", math.nan)),  # none before the first epoch
            n_iter=saved.n_iter_,
            t=saved.t_,
            solver=solver,
            best_loss=math.inf if saved.best_loss_ is None else float(saved.best_loss_),
            best_score=progress["best_score"],
            best=best,
            no_improvement=saved._no_improvement_count,
            losses=list(map(float, progress["losses"])),
            scores=list(map(float, progress["scores"])),
            curves={n: list(map(float, v)) for n, v in progress.get("curves", {}).items()},
        )
        return state, self._position(progress, data)

    def _position(self, progress: dict[str, Any], data: Any) -> Position:
        """Return the position of the orders; raise ModelFileError unless it is one of these data.

        What reads the rows of an order does not look whether they are there.
        """
        order, generator = progress["order"], progress["generator"]
        shuffle, what = bool(self._estimator.shuffle), f"an order of the {len(data)} rows"
        if not isinstance(data, Dataset):
            fits, what = (order is not None) == shuffle, "the seed of the orders"
            if fits and shuffle:
                fits = order.dtype.kind == "i" and order.shape == (1,) and 0 <= order[0] < 1 << 31
        else:
            rows = np.arange(len(data)) if data.order is None and shuffle else data.order
            if rows is None or order is None:
                fits = rows is order
            else:
                fits = order.dtype.kind == "i" and np.array_equal(np.sort(order), np.sort(rows))
            what += ", each of them once"
        if not fits or (generator is None) == shuffle:
            raise ModelFileError(f"{self.resume}: expected {what}")
        if generator is not None:
            set_generator(self._rng, generator)
        return order, generator

    def epochs_until_due(self, most: int) -> int:
        """Return after how many epochs, at most, somebody has to look."""
        return most if self.writer is None else self.writer.epochs_until_due(most)

    def after(self, now: FitState, position: Position, epochs: int, ends: bool) -> None:
        """Write the checkpoint if it is due after so many more epochs, or because training ends."""
        if self.writer is None or not (self.writer.is_due(epochs) or ends):
            return
        snapshot: Any = copy.copy(self._estimator)
        for name in ("loss_curve_", "validation_scores_"):
            if getattr(snapshot, name, None) is not None:
                setattr(snapshot, name, list(getattr(snapshot, name)))
        solver = replace(now.solver, state=unpacked(now.solver.state))
        now = replace(now, params=unpacked(now.params), best=unpacked(now.best), solver=solver)
        best_epoch = _best_epoch(now)
        is_earlier = 0 < best_epoch < now.n_iter  # then its parameters are the estimator's
        snapshot._store_result(replace(now, params=now.best) if is_earlier else now)
        progress = {
            "first": self._first,
            "order": position[0],
            "generator": position[1],
            "best": None if is_earlier else now.best,
            "best_score": float(now.best_score),
            "losses": np.array(now.losses, np.float64),
            "scores": np.array(now.scores, np.float64),
            "curves": {n: np.array(v, np.float64) for n, v in now.curves.items()},
        }
        if is_earlier:
            progress["last"] = now.params
        self.writer.write(snapshot, (now.n_iter, 0), best_epoch, progress)


def _check_shapes(given: Any, expected: Any) -> None:
    """Raise ValueError unless a pytree has the structure and the shapes of another."""

    def check(a: Any, b: Any) -> None:
        if np.shape(a) != np.shape(b):
            raise ValueError(f"expected the shape {np.shape(b)}, got {np.shape(a)}")

    tree.map(check, given, expected)


def _best_epoch(now: FitState) -> int:
    """Return the epoch of this fit with the best validation score; 0 if there is none."""
    return 0 if now.best is None else 1 + now.scores.index(now.best_score)


def _in_common(
    estimator: Any, data: Any, validation: Any, as_json: Any = checkpoints.comparable
) -> dict[str, Any]:
    """Return what a fit that resumes this one must have in common with it."""
    arrays: dict[str, Any] = _arrays(data, "")
    if validation is not None:
        arrays |= _arrays(validation.data, "validation ")
        arrays |= {"validation y": validation.y, "validation sample_weight": validation.weight}
    options = {k: v for k, v in estimator.get_params(deep=False).items() if k not in FREE}
    if isinstance(options["random_state"], np.random.RandomState):
        options["random_state"] = None  # its state is in the checkpoint
    found = checkpoints.fingerprint(arrays, options, as_json)
    if not isinstance(data, Dataset):  # the plan is a part of what decides the order of its rows
        size = estimator._batch_size(len(data), warns=False)
        found["order"] = str(data.plan(size, bool(estimator.shuffle)))
    ranks = current_ranks()
    return found if ranks is None else found | {"distributed": ranks.sums}


def check_ranks(
    estimator: Any,
    data: Dataset,
    validation: Any,
    start: FitState,
    rng: np.random.RandomState,
    method: str,
    checkpoint: bool,
) -> None:
    """Raise DistributedError, on all ranks, unless each is about to make the same fit.

    `method` is that of the estimator; `checkpoint` is whether one will be written.
    """
    describe_code = checkpoints.comparable_code

    def describe() -> dict[str, Any]:
        fitted = vars(estimator)
        classes = fitted["_label_binarizer"].classes_ if "_label_binarizer" in fitted else None
        names = fitted.get("feature_names_in_")
        return {
            "estimator": describe_code(type(estimator), "estimator"),
            "method": method,
            "max_iter": estimator.max_iter,
            "n_iter": start.n_iter,
            "generator": checkpoints.comparable(rng.get_state(legacy=False), "generator"),
            "no_improvement": start.no_improvement,
            "best": [repr(float(start.best_loss)), repr(float(start.best_score))],
            "checkpoint": checkpoint,
            "backend": f"{data.backend.name}, {data.backend.dtype}",
            "classes": checkpoints.comparable_names(classes),
            "feature_names": checkpoints.comparable_names(names),
            **_in_common(estimator, data, validation, describe_code),
        }

    state = () if start.solver is None else unpacked(start.solver.state)
    check_equal(describe, start.params, state, checkpoints.differences)


def _arrays(data: Any, name: str) -> dict[str, Any]:
    if not isinstance(data, Dataset):  # some rows of a source stand for all
        found: dict[str, Any] = {}
        for part, (shape, some) in data.fingerprints.items():
            found |= {f"{name}{part}": some, f"{name}{part}.shape": np.asarray(shape)}
        return found
    X: dict[str, Any] = {f"{name}X": data.X}
    if data.is_sparse:
        X = {f"{name}X.{part}": getattr(data.X, part) for part in ("data", "indices", "indptr")}
    order: Host | None = data.order
    return X | {f"{name}y": data.y, f"{name}sample_weight": data.weight, f"{name}rows": order}
