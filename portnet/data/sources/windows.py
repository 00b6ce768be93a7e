"""Windows: the rows of epochs in memory, of which a thread reads the next ones ahead."""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..._typing import Host
from ..._validation import warn
from ..dataset import Dataset
from .dataset import SourceDataset
from .order import Plan, row_order, rows_of_window

__all__ = ["Window", "Windows"]

PIECE = 1 << 20  # bytes that are read at once; between two of these the thread can end
LOOK = 0.05  # seconds after which one who waits for rows looks whether a signal has come


class Window(NamedTuple):
    """Rows in memory, the order in which to take them, and the number of those before them.

    The dataset may have other rows, too, which are not in the order.
    """

    dataset: Dataset
    order: Host
    first: int


class Windows:
    """The windows of epochs, in turn. Each is valid until the next one is taken.

    There are two buffers, one after the other in the same arrays: while the rows of one are trained
    on, a thread fills the other. Arrays stay the same, as compiled steps are bound to them.

    Parameters
    ----------
    data : SourceDataset
    plan : Plan
    seed : int
    epochs : range
        The numbers of the epochs that may be asked for, in this order.
    first : int
        The first row of the first epoch that may be asked for.
    weight : float
        Divides the weights.
    """

    def __init__(
        self,
        data: SourceDataset,
        plan: Plan,
        seed: int,
        epochs: Sequence[int],
        first: int = 0,
        weight: float = 1.0,
    ) -> None:
        self.data, self.plan, self.seed, self.weight = data, plan, seed, weight
        self._size, self._epochs = min(plan.window, plan.rows), epochs
        self._begin = first // plan.window
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._current: tuple[tuple[int, int], Window] | None = None
        self._slot: int | None = None  # that the window in use occupies
        self._moved: Dataset | None = None  # on a device
        self._several = data.counts is not None and int((data.counts > 0).sum()) > 1

    def of_epoch(self, epoch: int, row: int, interrupted: list[int]) -> Iterator[Window]:
        """Yield the windows of an epoch from that on which has row number `row` of it.

        They end early where a signal comes while one waits for rows.
        """
        for number in range(row // self.plan.window, self.plan.windows):
            window = self._take(epoch, number, interrupted)
            if window is None:
                return
            yield window

    def close(self) -> None:
        """End the thread, and give back the pages of memory maps."""
        self._closed.set()
        self._free.put(-1)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.plan.shuffle == "full":
            for reader in (self.data.features, self.data.targets, self.data.weights):
                if reader is not None:
                    reader.give_back()
        self._current = None

    def _take(self, epoch: int, number: int, interrupted: list[int]) -> Window | None:
        if self._current is not None and self._current[0] == (epoch, number):
            return self._current[1]  # it goes on after a pause
        if self._thread is None:
            self._start()
        if self._slot is not None:
            self._free.put(self._slot)
            self._slot = self._current = None
        while True:
            try:
                found = self._ready.get(timeout=LOOK)
                break
            except queue.Empty:
                if interrupted:
                    return None
        if isinstance(found, BaseException):
            self._ready.put(found)  # whoever asks again gets it, too
            raise found
        at, self._slot, order = found
        slot = self._slot
        assert at == (epoch, number)
        if self._several:
            self._warn_of_one_class(slot, len(order))
        window = Window(self._on_backend(slot, len(order)), order, number * self.plan.window)
        if window.dataset is self._host:
            window = window._replace(order=order + slot * self._size)
        self._current = at, window
        return window

    def _start(self) -> None:
        data, rows = self.data, 2 * self._size
        backend, y = data.backend, data.read_targets(*next(data.source_rows(0, 1)))[0]
        of_y = y.dtype if backend.supports(y.dtype.name) else np.dtype(np.int32)
        X: Any = backend.window((rows, data.features.shape[1]), np.dtype(data.host.dtype))
        targets: Any = backend.window((rows, *y.shape[1:]), of_y)
        shape = (rows,) if data.is_weighted else None
        weights: Any = shape and backend.window(shape, np.dtype(data.host.dtype))
        self._host = Dataset(backend if backend.is_host else data.host, X, targets, weights)
        for slot in (0, 1):
            self._free.put(slot)
        # A daemon: the interpreter can end while a source does not answer.
        thread = threading.Thread(target=self._work, name="portnet windows", daemon=True)
        thread.start()  # raises where there is no memory for it
        self._thread = thread

    def _on_backend(self, slot: int, rows: int) -> Dataset:
        """Return the dataset that steps take rows from."""
        data = self.data
        if data.backend.is_host:
            return self._host
        begin, first = slot * self._size, self._moved is None
        part = slice(begin, begin + (self._size if first else rows))
        before: Any = (None, None, None) if self._moved is None else self._moved.arrays
        arrays: list[Any] = [
            given if given is None else data.backend.upload(given[part], into)
            for given, into in zip(self._host.arrays, before, strict=True)
        ]
        if self._moved is None or arrays[0] is not before[0]:
            self._moved = Dataset(data.backend, *arrays)
        return self._moved

    def _warn_of_one_class(self, slot: int, rows: int) -> None:
        begin = slot * self._size
        y: Any = self._host.y[begin : begin + rows, ...]
        labels = y if y.ndim == 1 else y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0]
        if rows > 1 and (labels == labels[0]).all():
            self._several = False  # once is enough
            warn(
                f"{rows} rows that are trained on one after the other are all of one class: the "
                "source is sorted. Write its rows in another order, or use "
                'Trainer(shuffle="full") with a file of NumPy\'s (portnet.data.to_npy)'
            )

    # In the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            for epoch, number in self._in_turn():
                slot = self._free.get()
                if self._closed.is_set():
                    return
                order = self._fill(epoch, number, slot)
                if order is None:
                    return
                self._ready.put(((epoch, number), slot, order))
        except BaseException as error:  # raised, with its traceback, where the window is taken
            self._ready.put(error)

    def _in_turn(self) -> Iterator[tuple[int, int]]:
        begin = self._begin
        for epoch in self._epochs:
            for number in range(begin, self.plan.windows):
                yield epoch, number
            begin = 0

    def _fill(self, epoch: int, number: int, slot: int) -> Host | None:
        """Read the rows of a window; return their order, None if it is no longer wanted."""
        data, plan, begin = self.data, self.plan, slot * self._size
        arrays: Any = self._host.arrays
        X, y, w = arrays
        order = row_order(plan, self.seed, epoch, number)
        if plan.shuffle == "full":
            ascending = np.argsort(order)
            part = slice(begin, begin + len(order))
            X[part], y[part], weight = data.take(order[ascending])
            if w is not None:
                w[part] = np.asarray(weight) / self.weight
            order[ascending] = np.arange(len(order))
            return order
        size = max(1, PIECE // max(1, data.features.row_bytes))
        if data.features.chunk:
            size = max(1, size // data.features.chunk) * data.features.chunk
        ranges = rows_of_window(plan, self.seed, epoch, number)
        pieces = [piece for rows in ranges for piece in data.pieces(*rows, size)]
        at = begin + len(order)
        for _ in data.read_features_of(pieces, X[begin:at]):
            if self._closed.is_set():
                return None
        y[begin:at], weight = data.read_targets_of(pieces)
        if w is not None:
            w[begin:at] = np.asarray(weight) / self.weight
        return order
