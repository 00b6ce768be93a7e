"""Ranks: the processes that train one model together, and what they agree on.

Every rank has all rows and all parameters; each computes the gradients of its share of every batch,
and all make the same update. So all of them must take the same decisions: what one of them alone
knows (an error, a signal, the value of a metric) is sent to the others here.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

from .interrupts import interrupts

__all__ = [
    "AgreedInterrupt",
    "Communicator",
    "DistributedError",
    "Ranks",
    "Transport",
    "current_ranks",
    "fit_signals",
    "is_agreed",
    "is_first",
    "of_first_rank",
    "set_ranks",
    "summed_as",
    "together",
]

SIGNALS = signal.SIGINT, signal.SIGTERM
INTERRUPT = "KeyboardInterrupt"  # instead of a message
LATE = 0.3  # seconds in which Ctrl-C reaches all ranks


class DistributedError(RuntimeError):
    """An error of training on several ranks; `rank` is the first one where something failed.

    Every rank raises it, after the same step.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank

    def __reduce__(self) -> Any:
        return type(self), (self.args[0], self.rank)


class AgreedInterrupt(KeyboardInterrupt):
    """A KeyboardInterrupt of one rank, which all ranks raise at the same place."""


class Transport(Protocol):
    """Moves arrays of one library between ranks; each method is called by all ranks."""

    def exchange(self, send: Any, into: Any, counts: list[int]) -> None:
        """Send ``send[d]`` (own count, m) to rank d; `into` (sum of counts, m) has what came.

        `counts` has the number of rows that each rank sends.
        """

    def allgather(self, part: Any, into: Any) -> None:
        """Write the parts (m,) of all ranks into a vector (size * m,), in their order."""

    def allreduce(self, vector: Any) -> None:
        """Replace a vector by its sum over the ranks, in an order of the library's own."""


class Communicator(Protocol):
    """How ranks communicate. Each method but `abort` is called by all ranks."""

    rank: int
    size: int

    def allgather(self, thing: Any) -> list[Any]:
        """Return what each rank gave, in the order of the ranks."""

    def transport(self, library: str) -> Transport:
        """Return what moves the arrays of a library, "numpy" or "cupy"."""

    def moves(self, library: str) -> bool:
        """Tell whether arrays of a library can be given to the transport as they are."""

    def abort(self, status: int) -> None:
        """End the processes of all ranks."""


class Ranks:
    """A communicator, how gradients are summed, and the signals of the fit that is under way.

    Parameters
    ----------
    communicator : Communicator
    shards : int
        Into how many parts a batch is cut, whatever the number of ranks: a power of two.
    deterministic : bool
        Whether the sum over the shards has the same bits for any number of ranks.
    """

    def __init__(
        self, communicator: Communicator, shards: int = 8, deterministic: bool = True
    ) -> None:
        if type(shards) is not int or shards < 1 or shards & (shards - 1):
            raise ValueError(f"shards: expected a power of two, such as 8, got {shards!r}")
        self.communicator, self.shards, self.deterministic = communicator, shards, deterministic
        self.rank, self.size = communicator.rank, communicator.size
        self.received: list[int] = []  # signals of this rank
        self.agreed: list[int] = []  # signals that all ranks know of, since the same step
        self.pending: BaseException | None = None  # an error that the next step tells the others

    def __repr__(self) -> str:
        how = f"shards={self.shards}" if self.deterministic else "deterministic=False"
        return f"rank {self.rank} of {self.size}, {how}"

    @property
    def sums(self) -> dict[str, Any]:
        """How gradients are summed, for a checkpoint: a resumed fit must do the same."""
        if self.deterministic:
            return {"deterministic": True, "shards": self.shards}
        return {"deterministic": False}

    def agree(self, thing: Any = None, error: BaseException | None = None) -> list[Any]:
        """Return what each rank gave; raise on all ranks if one of them has an error.

        Signals that a rank has received are known to all after this. KeyboardInterrupt of one rank
        is that of all, unless another one has an error.
        """
        message = None if error is None else f"{type(error).__name__}: {error}"
        message = INTERRUPT if isinstance(error, KeyboardInterrupt) else message
        mine = message, [n for n in self.received if n in SIGNALS], thing
        found = self.communicator.allgather(mine)
        for n in SIGNALS:
            if any(n in signals for _, signals, _ in found):
                self.add_signal(n)
        failed = [(k, text) for k, (text, _, _) in enumerate(found) if text is not None]
        if failed and all(text == INTERRUPT for _, text in failed):
            raise AgreedInterrupt from error
        failed = [(k, text) for k, text in failed if text != INTERRUPT]
        own = isinstance(error, Exception | KeyboardInterrupt)
        if error is not None and (len(failed) == self.size or not own):
            raise error  # as in one process alone
        if failed:
            raised = DistributedError(f"rank {failed[0][0]}: {failed[0][1]}", failed[0][0])
            if hasattr(error, "run"):
                raised.run = error.run  # type: ignore[attr-defined, union-attr]
            raise raised from error
        return [value for _, _, value in found]

    def add_signal(self, number: int) -> None:
        """Add a signal to those that all ranks know of."""
        if number not in self.agreed:
            self.agreed.append(number)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let an error that one rank raises within end all ranks: with it, or `DistributedError`.

        For what all ranks do, and may fail on one of them only.
        """
        try:
            yield
        except (DistributedError, AgreedInterrupt):  # all ranks raise it
            raise
        except GeneratorExit:
            raise
        except BaseException as error:
            self.agree(error=error)
        else:
            self.agree()


class Alone:
    """The communicator of one process."""

    rank, size = 0, 1

    def allgather(self, thing: Any) -> list[Any]:
        """Return what this process gave."""
        return [thing]

    def transport(self, library: str) -> Transport:
        """Raise ValueError: one process has no other to send arrays to."""
        raise ValueError(f"one process moves no arrays of {library}")

    def moves(self, library: str) -> bool:
        """Tell whether arrays of a library are summed as they are."""
        return library == "numpy"

    def abort(self, status: int) -> None:
        """End this process."""
        raise SystemExit(status)


_ranks: ContextVar[Ranks | None] = ContextVar("portnet ranks", default=None)


def current_ranks() -> Ranks | None:
    """Return the ranks that this thread trains with; None if it trains alone."""
    return _ranks.get()


def set_ranks(ranks: Ranks | None) -> None:
    """Let fits of this thread be those of several ranks; None: of one process alone."""
    _ranks.set(ranks)


def is_agreed(error: KeyboardInterrupt) -> bool:
    """Tell whether all ranks know of an interrupt; one process alone always does."""
    ranks = _ranks.get()
    return ranks is None or ranks.size == 1 or isinstance(error, AgreedInterrupt)


@contextmanager
def summed_as(sums: dict[str, Any] | None) -> Iterator[None]:
    """Let the fits of one process within sum gradients as ranks did that have these `Ranks.sums`.

    So it goes on with their checkpoint, with the same bits. Nothing happens without `sums`, and on
    ranks.
    """
    if sums is None or _ranks.get() is not None:
        yield
        return
    before = _ranks.set(Ranks(Alone(), **sums))
    try:
        yield
    finally:
        _ranks.reset(before)


def is_first() -> bool:
    """Tell whether this process writes files and lines: it trains alone, or is rank 0."""
    ranks = _ranks.get()
    return ranks is None or ranks.rank == 0


def together() -> AbstractContextManager[None]:
    """Return `Ranks.together` for several ranks; for one process alone, what does nothing."""
    ranks = _ranks.get()
    return nullcontext() if ranks is None else ranks.together()


def of_first_rank(compute: Callable[[], Any]) -> Any:
    """Return what a function returned on rank 0, after all ranks have called it.

    So that the ranks take the same decisions even where their processors round differently.
    """
    ranks = _ranks.get()
    if ranks is None:
        return compute()
    found, failure = None, None
    try:
        found = compute()
    except BaseException as error:
        failure = error
    return ranks.agree(found, failure)[0]


@contextmanager
def fit_signals(terminate: bool = False) -> Iterator[list[int]]:
    """Yield the list of signals that end a fit: see `interrupts`.

    On several ranks it has those that all of them know of: a signal that one rank receives is sent
    with its next gradients, so that all end after the same step. Ctrl-C at mpiexec is for all
    ranks: where it reaches this one late, it is for the fit that it has ended.
    """
    ranks = _ranks.get()
    if ranks is None:
        with interrupts(terminate) as received:
            yield received
        return
    before = ranks.received, ranks.agreed
    with interrupts(terminate) as received:
        ranks.received, ranks.agreed = received, []
        try:
            yield ranks.agreed
        finally:
            if signal.SIGINT in ranks.agreed:
                _wait_for_signal(received)
            ranks.received, ranks.agreed = before


def _wait_for_signal(received: list[int]) -> None:
    """Wait a little for a Ctrl-C that other ranks have received; threads get none."""
    end = time.monotonic() + LATE
    main = threading.current_thread() is threading.main_thread()
    while main and signal.SIGINT not in received and time.monotonic() < end:
        time.sleep(0.01)
