"""RowOrders: the orders of the rows in epochs, drawn while a device works on those before."""

import contextlib
import threading
from collections.abc import Sequence

from .. import rng
from .._typing import Host

__all__ = ["RowOrders"]

WORTH = 1 << 15  # row numbers that take as long to draw as a thread to start, some 0.3 ms


class RowOrders:
    """The permutations ``rng.order(seed, epoch, rows)`` of epochs, in turn.

    Parameters
    ----------
    seed, rows : int
    last : int
        The number of the epoch at which training ends: there is none to draw ahead.
    ahead : bool
        Whether to draw the orders of the next epochs in a thread, while those that are returned are
        in use. That pays where a device computes and the host only waits: drawing 10 million rows
        takes 0.3 s. The numbers are the same.
    """

    def __init__(self, seed: int, rows: int, last: int, ahead: bool) -> None:
        self.seed, self.rows, self.last, self.ahead = seed, rows, last, ahead
        self._thread: threading.Thread | None = None
        self._drawn: dict[int, Host] = {}  # by epoch: what the thread has drawn so far

    def draw(self, epochs: Sequence[int]) -> list[Host]:
        """Return the orders of these epochs."""
        if self._thread is not None:
            self._thread.join()  # after a fork it does not run, and what is missing is drawn here
            self._thread = None
        known, self._drawn = self._drawn, {}
        orders = [known[n] if n in known else rng.order(self.seed, n, self.rows) for n in epochs]
        following = range(epochs[-1] + 1, min(epochs[-1] + 1 + len(epochs), self.last))
        if self.ahead and len(following) * self.rows >= WORTH:
            self._start(following)
        return orders

    def _start(self, epochs: Sequence[int]) -> None:
        def work(into: dict[int, Host] = self._drawn) -> None:
            with contextlib.suppress(MemoryError):  # raised where they are drawn, if need be
                for n in epochs:
                    into[n] = rng.order(self.seed, n, self.rows)

        thread = threading.Thread(target=work, name="portnet row orders")
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            return
        self._thread = thread
