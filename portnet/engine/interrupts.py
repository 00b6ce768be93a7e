"""Interrupts: Ctrl-C ends an epoch after a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interrupts"]


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Append to the yielded list on Ctrl-C, instead of raising KeyboardInterrupt within a step.

    A second Ctrl-C raises KeyboardInterrupt at once. Signal handlers other than Python's stay in
    place; threads get no signals.
    """
    interrupted: list[int] = []

    def note(number: int, frame: object) -> None:
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(number)

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
