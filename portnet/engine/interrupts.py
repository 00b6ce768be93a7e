"""Interrupts: signals end an epoch after a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["PAUSE", "interrupts"]

PAUSE = -1  # in the list of signals: the epoch ends after the step, and goes on


@contextmanager
def interrupts(terminate: bool = False) -> Iterator[list[int]]:
    """Append to the yielded list on Ctrl-C, instead of raising KeyboardInterrupt within a step.

    A second Ctrl-C raises KeyboardInterrupt at once. With `terminate`, SIGTERM is appended, too.
    Signal handlers other than Python's stay in place; threads get no signals.
    """
    interrupted: list[int] = []

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT and any(n != PAUSE for n in interrupted):
            raise KeyboardInterrupt
        interrupted.append(number)

    wanted: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
    if terminate:
        wanted[signal.SIGTERM] = signal.SIG_DFL
    main = threading.current_thread() is threading.main_thread()
    ours = {n: before for n, before in wanted.items() if main and signal.getsignal(n) is before}
    for number in ours:
        signal.signal(number, note)
    try:
        yield interrupted
    finally:
        for number, before in ours.items():
            signal.signal(number, before)
