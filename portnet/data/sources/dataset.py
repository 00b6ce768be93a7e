"""SourceDataset: features, targets and weights that are read in parts, and checked when read."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ... import rng
from ..._typing import Array, ArrayLike, Host
from ...backend import Backend, use_backend
from .. import checks, labels
from ..checks import DataError, rows_from
from ..dataset import Dataset
from .order import BLOCK, Plan, Ranges, plan_of, ranges_of
from .reading import Reader, parts_of, reader_of

__all__ = [
    "SourceDataset",
    "check_features",
    "source_dataset",
    "split_source",
    "with_class_weights",
]

SEVERAL = 1000  # pieces at least that a source is cut into, of which some are held out
SAMPLE = 4096  # rows that stand for all of them in checks of a model and in a checkpoint
PLACES = 64  # in the source, from which these rows are
READ = 1 << 26  # bytes that are read for them at most


@dataclass(frozen=True, eq=False)
class SourceDataset:
    """Features (rows, n_in), targets and weights (rows,) of a source; a `Dataset` of its parts.

    Parameters
    ----------
    backend : Backend
        Where the parts are moved to.
    features, targets : Reader
    weights : Reader, optional
    loss, outputs, classes
        What the targets must be: see `checks.targets` and `labels.encode`.
    ranges : Ranges, optional
        The rows that belong to it; None: all.
    by_class : array (classes,), optional
        Multiplies the weights.
    prefix : str
        Before the names of arguments in messages.
    counts : array (classes,), optional
        How many rows there are of each class, each counted with its weight.
    total : float
        The sum of the weights.
    """

    backend: Backend
    features: Reader
    targets: Reader
    weights: Reader | None
    loss: Any
    outputs: int
    classes: Host | None
    ranges: Ranges | None = None
    by_class: Host | None = None
    prefix: str = ""
    counts: Host | None = field(default=None, repr=False)
    total: float = 0.0

    is_csr = is_sparse = False

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.features) if self.ranges is None else self.ranges.rows

    @property
    def is_weighted(self) -> bool:
        """Whether its rows have weights."""
        return self.weights is not None or self.by_class is not None

    @functools.cached_property
    def host(self) -> Backend:
        """NumPy, with the dtype of the backend."""
        with use_backend("numpy", dtype=self.backend.dtype) as host:
            return host

    # Reading: rows are numbered as in the source --------------------------------------------------

    def source_rows(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield where the rows from `start` to `stop` of these are in the source, in turn."""
        if self.ranges is None:
            yield start, stop
        else:
            yield from self.ranges.source_rows(start, stop)

    @property
    def rows(self) -> Host:
        """The numbers of its rows in the source."""
        ranges = list(self.source_rows(0, len(self)))
        return np.concatenate([np.arange(*r) for r in ranges])

    def pieces(self, start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield these in pieces of at most `size` rows, which begin at multiples of it."""
        for begin, last in self.source_rows(start, stop):
            while begin < last:
                end = min(begin // size * size + size, last)
                yield begin, end
                begin = end

    def _converted_features(self, block: Host, start: int) -> Host:
        with rows_from(start):
            name, width = self.prefix + "X", self.features.shape[1]
            return np.asarray(checks.features(block, self.host, width=width, name=name))

    def read_features(self, start: int, stop: int, out: Host) -> None:
        """Read rows of X, checked and cast, into an array of the backend's dtype."""
        reader = self.features
        if reader.dtype == out.dtype and reader.read_into(start, stop, out):
            with rows_from(start):
                checks.check_finite(out, self.prefix + "X")
        else:
            out[...] = self._converted_features(reader.read(start, stop), start)

    def read_features_of(self, pieces: list[tuple[int, int]], out: Host) -> Iterator[None]:
        """Read pieces (start, stop) of X as `read_features` does, one behind the other.

        Yields now and then, so that one who no longer wants them need not wait for all.
        """
        ends = np.cumsum([0, *(stop - start for start, stop in pieces)]).tolist()
        if not self.features.in_pieces:
            for (start, stop), at, end in zip(pieces, ends, ends[1:], strict=False):
                self.read_features(start, stop, out[at:end])
                yield
            return
        yield from self.features.read_pieces(pieces, out)
        name = self.prefix + "X"
        try:
            checks.check_finite(out, name)
        except DataError:
            for (start, _), at, end in zip(pieces, ends, ends[1:], strict=False):
                with rows_from(start):  # so that the message has the row
                    checks.check_finite(out[at:end], name)
            raise

    def _converted_targets(self, block: Host, start: int) -> Host:
        with rows_from(start, len(self.targets)):
            name, y = self.prefix + "y", block
            if self.classes is not None:
                y = labels.encode(labels.decoded(y), self.classes, name=name)
            rows, outputs = len(block), self.outputs
            found = checks.targets(y, self.host, self.loss, rows=rows, outputs=outputs, name=name)
            return np.asarray(found)

    def _converted_weights(self, block: Host | None, y: Host, start: int) -> Host | None:
        weight: Any = None
        if block is not None:
            with rows_from(start):
                name = self.prefix + "sample_weight"
                weight = checks.some_weights(block, self.host, rows=len(y), name=name)
        if self.by_class is None:
            return weight  # type: ignore[no-any-return]
        of_class = self.by_class[y] if y.ndim == 1 else _columns(y) @ self.by_class
        return of_class if weight is None else np.asarray(weight * of_class)

    def read_targets(self, start: int, stop: int) -> tuple[Host, Host | None]:
        """Read rows of y, as the loss needs them, and their weights."""
        y = self._converted_targets(self.targets.read(start, stop), start)
        given = None if self.weights is None else self.weights.read(start, stop)
        return y, self._converted_weights(given, y, start)

    def read_targets_of(self, pieces: list[tuple[int, int]]) -> tuple[Host, Host | None]:
        """Read y and weights of pieces (start, stop); checking all at once is faster."""
        y = self.targets.read_all(pieces)
        given = None if self.weights is None else self.weights.read_all(pieces)
        try:
            y = self._converted_targets(y, 0)
            return y, self._converted_weights(given, y, 0)
        except DataError:
            for piece in pieces:  # one by one, so that the message has the row
                self.read_targets(*piece)
            raise

    def read_together(self, pieces: list[tuple[int, int]]) -> tuple[Host, Host, Host | None]:
        """Read pieces (start, stop) of X, y and weights, one behind the other."""
        rows = sum(stop - start for start, stop in pieces)
        X = np.empty((rows, self.features.shape[1]), self.host.dtype)
        for _ in self.read_features_of(pieces, X):
            pass
        return X, *self.read_targets_of(pieces)

    def read(self, start: int, stop: int) -> tuple[Host, Host, Host | None]:
        """Read rows of X, y and weights."""
        X = np.empty((stop - start, self.features.shape[1]), self.host.dtype)
        self.read_features(start, stop, X)
        return X, *self.read_targets(start, stop)

    def take(self, rows: Host) -> tuple[Host, Host, Host | None]:
        """Return single rows of X, y and weights: of these, in ascending order."""
        rows = rows if self.ranges is None else self.ranges.numbers(rows)
        X, y = self.features.take(rows), self.targets.take(rows)
        given = None if self.weights is None else self.weights.take(rows)
        try:
            X, y = self._converted_features(X, 0), self._converted_targets(y, 0)
            return X, y, self._converted_weights(given, y, 0)
        except DataError:
            for row in rows.tolist():  # one by one, so that the message has the row
                self.read(row, row + 1)
            raise

    def parts(self) -> Iterator[Dataset]:
        """Yield all rows in order, in parts on the backend."""
        size, found, rows = parts_of(self.features), list[tuple[int, int]](), 0
        for start, stop in self.pieces(0, len(self), size):
            if found and (not self.features.in_pieces or rows + stop - start > size):
                yield self._moved(*self.read_together(found))
                found, rows = [], 0
            found.append((start, stop))
            rows += stop - start
        yield self._moved(*self.read_together(found))

    def _moved(self, *arrays: Host | None) -> Dataset:
        X, y, w = (a if a is None else self.backend.asarray(a) for a in arrays)
        return Dataset(self.backend, X, y, w)

    # What stands for all rows ---------------------------------------------------------------------

    @functools.cached_property
    def some(self) -> Dataset:
        """Rows from all over the source, for checks of the model and for diagnoses."""
        return self._moved(*self._sample)

    @functools.cached_property
    def _sample(self) -> tuple[Host, Host, Host | None]:
        rows, reader = len(self), self.features
        count = min(rows, SAMPLE, max(8, READ // max(1, 4 * reader.row_bytes)))
        of_chunk = max(1, reader.chunk * reader.row_bytes)
        places = 1 if count == rows else max(1, min(PLACES, count, READ // of_chunk))
        size = count // places
        firsts = np.linspace(0, rows - size, places).astype(np.int64).tolist()
        return self.read_together([p for f in firsts for p in self.source_rows(f, f + size)])

    def head(self, count: int) -> Dataset:
        """Return some rows, at most `count`."""
        return self.some.head(count)

    @property
    def y(self) -> Array:
        """Targets of some rows."""
        found: Array = self.some.y
        return found

    @property
    def weight(self) -> Array | None:
        """Weights of some rows; None if there are none."""
        return self.some.weight

    @property
    def fingerprints(self) -> dict[str, tuple[tuple[int, ...], Host]]:
        """The shapes of X, y and weights, with some of their rows, for a checkpoint."""
        names = "X", "y", "sample_weight"
        return {
            name: ((len(self), *a.shape[1:]), a)
            for name, a in zip(names, self._sample, strict=True)
            if a is not None
        }

    # Checks ---------------------------------------------------------------------------------------

    def surveyed(self) -> "SourceDataset":
        """Return it with the counts of its classes; checks all targets and weights for it."""
        counts: Any = 0.0
        total, largest = 0.0, 0.0
        for start, stop in self.pieces(0, len(self), max(parts_of(self.targets), 1 << 16)):
            y, w = self.read_targets(start, stop)
            if w is not None:
                total += float(w.sum(dtype=np.float64))
                largest = max(largest, float(w.max()))
            if not labels.has_one_label(y, self.loss):
                continue
            if y.ndim == 1:
                counts = counts + np.bincount(y, w, max(self.outputs, 2))
            else:
                counts = counts + (_columns(y) * (1.0 if w is None else w[:, None])).sum(axis=0)
        if self.is_weighted and not largest > 0:
            raise DataError(
                f"{self.prefix}sample_weight: expected at least one weight above 0, got only zeros"
            )
        return replace(self, counts=counts if np.ndim(counts) else None, total=total)

    def plan(self, batch: int, shuffle: bool | str) -> Plan:
        """Return the plan of its epochs; raise DataError for a full shuffle that is too slow."""
        how = "full" if shuffle == "full" else "blocks" if shuffle else ""
        for reader in (self.features, self.targets, self.weights):
            if how == "full" and reader is not None and not reader.random:
                reader.take(np.zeros(1, np.int64))  # raises
        width = self.features.shape[1] + int(np.prod(self.y.shape[1:], initial=1))
        row = np.dtype(self.host.dtype).itemsize * (width + self.is_weighted)
        return plan_of(len(self), row, batch, self.features.chunk, how)


def _columns(y: Host) -> Host:
    """Return the probabilities of each class, of checked targets (rows, 1) or (rows, classes)."""
    return np.hstack([1 - y, y]) if y.shape[1] == 1 else y


def source_dataset(
    X: ArrayLike,
    y: ArrayLike,
    weight: ArrayLike,
    *,
    backend: Backend,
    loss: Any,
    inputs: int,
    outputs: int,
    classes: Host | None,
    name: str = "",
) -> SourceDataset:
    """Return the dataset of a source; y and weights are sources, too, or in memory.

    All targets and weights are checked; features are when they are read.
    """
    if y is None:
        raise DataError(f"{name}y: expected targets, got None")
    features, targets = reader_of(X, name + "X"), reader_of(y, name + "y")
    weights = None if weight is None else reader_of(weight, name + "sample_weight")
    check_features(features, name + "X", inputs)
    for reader in (r for r in (targets, weights) if r is not None):
        if len(reader.shape) == 0 or len(reader) != len(features):
            raise DataError(
                f"{reader.name}: expected {len(features)} rows, as many as in X, got shape "
                f"{reader.shape}"
            )
    given = backend, features, targets, weights, loss, outputs, classes
    return SourceDataset(*given, prefix=name).surveyed()


def check_features(X: Reader, name: str, width: int | None = None) -> None:
    """Raise DataError unless a source has features: rows of numbers."""
    if len(X.shape) != 2 or 0 in X.shape:
        raise DataError(f"{name}: expected shape (rows, features), got {X.shape}")
    if getattr(X.dtype, "kind", "") not in "fiub":
        raise DataError(f"{name}: expected real numbers, got a {X.kind} of dtype {X.dtype}")
    if width is not None and X.shape[1] != width:
        raise DataError(f"{name}: expected {width} features, got {X.shape[1]}")


def split_source(
    fraction: float, data: SourceDataset, seed: int
) -> tuple[SourceDataset, SourceDataset]:
    """Return a training set and a validation set: pieces of rows that lie together, at random.

    Single rows from all over a source could only be read with all that is between them.
    """
    rows, chunk = len(data), data.features.chunk
    size = max(1, min(BLOCK // data.features.row_bytes, rows // SEVERAL))
    size = chunk if chunk and rows // chunk >= SEVERAL // 5 else size
    count = -(-len(data.features) // size)
    held = round(fraction * count)
    if not 0 < held < count:
        raise DataError(
            f"validation={fraction:g} of {rows} rows leaves no row to "
            f"{'validate' if held == 0 else 'train'} on: give more rows, or another fraction"
        )
    kept = np.ones(count, dtype=bool)
    kept[rng.shuffled(seed, count)[:held]] = False
    parts = []
    for mask in (kept, ~kept):
        ranges = ranges_of(mask, size, len(data.features))
        if data.ranges is not None:
            ranges = ranges.within(data.ranges)
        parts.append(replace(data, ranges=ranges).surveyed())
    return parts[0], parts[1]


def with_class_weights(given: object, data: SourceDataset) -> SourceDataset:
    """Return the dataset with weights of its classes: see `labels.class_weights`."""
    if data.counts is None:
        labels.refuse_class_weights(data.y, data.loss)
    known = list(range(len(data.counts))) if data.classes is None else data.classes.tolist()
    found = labels.weights_of_classes(given, known, data.counts)
    try:
        by_class = np.asarray(data.host.asarray(found, data.host.dtype))
    except ValueError as error:
        raise DataError(f"class_weight: {error}") from None
    total = float((by_class * data.counts).sum())
    if not total > 0:
        raise DataError("class_weight: expected at least one weight above 0, got only zeros")
    return replace(data, by_class=by_class, total=total)
