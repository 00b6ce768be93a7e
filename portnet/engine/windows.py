"""Epochs of a source: windows of its rows are trained on one after the other."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from .._typing import Params, State, Tree
from .epoch import EpochExecutor, EpochResult, run_epochs
from .epoch_state import Epochs

__all__ = ["run_windows"]


def run_windows(
    executor: EpochExecutor,
    params: Params,
    state: State,
    windows: Iterable[Any],
    epochs: Callable[[Any], Epochs],
    interrupted: list[int],
    *,
    done: int = 0,
    sums: tuple[float, float] = (0.0, 0.0),
    advance: Callable[[int], object] = lambda made: None,
    look_at: Callable[[Params, State], Tree] = lambda params, state: params,
) -> EpochResult:
    """Make the steps of one epoch from step `done` on, as `run_epochs` does; packed results.

    `windows` are those of the epoch from the one with that step on, each with the number `first` of
    rows before it; `epochs` makes the epoch of one, whose `first` is set here. It ends early after
    a step that is not finite.
    """
    now = EpochResult(params, state, [sums[0]], sums[1], done, True)
    try:
        for window in windows:
            part = replace(epochs(window), first=window.first)
            before = window.first // part.size
            end = run_epochs(
                executor,
                now.params,
                now.state,
                part,
                interrupted,
                done=now.done - before,
                sums=(now.losses[0], now.finite_steps),
                advance=advance,
                look_at=look_at,
                packed=True,
            )
            now = end._replace(done=before + end.done)
            if interrupted or not end.finite or end.finite_steps < now.done:
                break
    except KeyboardInterrupt:  # raised between two windows by a handler other than Python's
        interrupted.append(0)
    return now
