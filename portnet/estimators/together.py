"""Together: the epochs of several estimators' networks as those of one program.

Each network has its own rules and its own orders of rows (`solvers.stochastic`); where all want
epochs, these are trained at once. A network that has ended stays in the arrays, unseen, until half
of them have.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ..compiler.errors import EagerError
from ..engine.compile_cache import compiler_for, makes_machine_code
from ..engine.epoch import EpochExecutor, EpochResult
from ..engine.epoch_state import Epochs
from ..engine.interrupts import interrupts
from ..engine.networks import (
    MakeNetworksStep,
    is_faster_in_turn,
    rows_in_turn,
    run_networks,
    size_of_step,
    stacked,
    unstacked,
)
from ..engine.packing import unpacked
from ..rng import Key
from .solvers import EpochsWanted, Training, trained_alone

__all__ = ["Shared", "train_together"]


class Shared:
    """Says how many epochs of all networks take how long, to each of their fits."""

    def __init__(self) -> None:
        self.executor: EpochExecutor | None = None
        self.networks = 1

    def pace(self, alone: EpochExecutor) -> Any:
        """Return what says it to the fit of one network, whose own executor is `alone`."""
        return alone if self.executor is None else self

    def epochs_at_once(self, seconds: float, rows: int, steps: int) -> int:
        """See `EpochExecutor.epochs_at_once`."""
        assert self.executor is not None
        return self.executor.epochs_at_once(seconds, rows * self.networks, steps)


def train_together(trainings: list[Training], shared: Shared, looked_at: bool) -> dict[int, Any]:
    """Run the trainings of networks to their ends, together where that is faster; return results.

    They are by the numbers of the networks: once one is interrupted, those after it have none.

    `looked_at` tells whether each epoch is looked at.
    """
    done: dict[int, Any] = {}
    wanted: dict[int, EpochsWanted] = {}

    def go_on(k: int, end: EpochResult | None) -> None:
        try:
            wanted[k] = next(trainings[k]) if end is None else trainings[k].send(end)
        except StopIteration as ended:
            done[k] = ended.value
            wanted.pop(k, None)

    stack = None
    try:
        with interrupts() as interrupted:
            for k in range(len(trainings)):
                go_on(k, None)
            while wanted:
                if stack is None and not _can_be_joined(wanted, looked_at):
                    break
                if stack is None or 2 * len(wanted) <= len(stack.networks):
                    if stack is not None:
                        stack.executor.close()
                    stack = _Stack(wanted, shared)
                try:
                    results = stack.train(wanted, interrupted)
                except EagerError:
                    break  # nothing was trained: each by itself
                for k, end in results.items():
                    wanted[k].interrupted.extend(interrupted)
                    go_on(k, end)
        shared.executor = None
        for k, first in list(wanted.items()):
            first.interrupted.extend(interrupted)  # before any network was trained
            done[k] = trained_alone(trainings[k], first)
            if done[k].interrupted:
                break
    finally:
        if stack is not None:
            stack.executor.close()
        for training in trainings:
            training.close()
    return done


def _can_be_joined(wanted: dict[int, EpochsWanted], looked_at: bool) -> bool:
    """Tell whether the epochs of all networks can be made as one program, and should be.

    Also those of a single one: a fit that goes on, where the others have ended, has the bits of one
    in which they end only then.
    """
    (first, *others), data = wanted.values(), next(iter(wanted.values())).epochs.dataset
    if data.is_csr:
        return False
    for other in others:
        same = other.epochs.size == first.epochs.size and other.epochs.rows == first.epochs.rows
        if not same or other.alone.parts != first.alone.parts:
            return False
    if not data.backend.is_host:
        return True
    elements, count = size_of_step(first.params, first.epochs.size, int(data.X.shape[1]))
    return not is_faster_in_turn(
        elements,
        count,
        steps=first.epochs.steps,
        looked_at=looked_at,
        shuffled=first.epochs.orders is not None,
        machine_code=first.alone.compiled and makes_machine_code(),
    )


class _Stack:
    """The networks that are in the arrays."""

    def __init__(self, wanted: dict[int, EpochsWanted], shared: Shared) -> None:
        self.networks = list(wanted)
        first = wanted[self.networks[0]]
        self.own_rows = first.epochs.orders is not None
        count, alone = len(self.networks), first.alone
        backend = first.epochs.dataset.backend
        self.executor = EpochExecutor(
            MakeNetworksStep(alone.make, count, self.own_rows, True),
            alone.parts,
            averaged=False,
            compiled=alone.compiled and compiler_for(backend) != "graph",
            planned=alone.planned,
            likely=alone.likely,
        )
        self.params: Any = None
        self.state: Any = None
        self.parts: list[tuple[Any, Any]] = [(None, None)] * count  # those of each network
        shared.executor, shared.networks = self.executor, count if self.own_rows else 1

    def train(
        self, wanted: dict[int, EpochsWanted], interrupted: list[int]
    ) -> dict[int, EpochResult]:
        """Train as many epochs as all networks want; return the results of each."""
        now = [
            (wanted[k].params, wanted[k].state) if k in wanted else part
            for k, part in zip(self.networks, self.parts, strict=True)
        ]
        pairs = zip(now, self.parts, strict=True)
        if any(p is not q or s is not t for (p, s), (q, t) in pairs):
            self.params = stacked([unpacked(params) for params, _ in now])
            self.state = stacked([unpacked(state) for _, state in now])
        end = run_networks(
            self.executor,
            self.params,
            self.state,
            self._epochs(wanted),
            interrupted,
            sums=np.zeros((2, len(self.networks))),
            advance=lambda made: None,
            look_at=lambda params, state: (params, state),
        )
        self.params, self.state = end.params, end.state
        places = range(len(self.networks))
        parts = [unstacked(unpacked(t), places) for t in (end.params, end.state)]
        self.parts = list(zip(*parts, strict=True))
        return {
            k: EpochResult(
                *self.parts[at],
                end.losses[:, at].tolist(),
                float(end.finite_steps[at]),
                end.done,
                bool(end.finite[at]),
            )
            for at, k in enumerate(self.networks)
            if k in wanted
        }

    def _epochs(self, wanted: dict[int, EpochsWanted]) -> Epochs:
        first = next(iter(wanted.values()))
        count = min(len(one.epochs.keys) for one in wanted.values())
        of_each = [wanted.get(k, first).epochs for k in self.networks]  # ended ones: any rows
        size, orders = first.epochs.size, None
        data = first.epochs.dataset
        if self.own_rows:
            orders = [
                rows_in_turn(np.stack([each.orders[e] for each in of_each]), size)  # type: ignore[index]
                for e in range(count)
            ]
            size, data = size * len(self.networks), replace(data, order=None)
        keys: list[Any] = [None] * count
        if first.epochs.keys[0] is not None:
            for e in range(count):
                salts = [each.keys[e].salt for each in of_each]  # type: ignore[union-attr]
                keys[e] = Key(np.asarray(salts, np.int32).reshape(-1, 1, 1))
        networks = len(self.networks) if self.own_rows else 1
        return Epochs(data, size, keys, orders, networks=networks)
