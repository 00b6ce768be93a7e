"""Data that an estimator reads in parts: sources, and large memory maps."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from .._typing import Array, ArrayLike, Host
from ..backend import Backend, to_numpy, use_backend
from ..data import checks
from ..data.sources import reading
from ..data.sources.dataset import SourceDataset, check_features, source_dataset
from ..data.sources.order import Ranges, ranges_of
from ..data.sources.reading import ArrayReader, Reader, parts_of, reader_of
from . import inputs
from .heads import HeadsCrossEntropy

__all__ = [
    "RowsOfSource",
    "as_array_if_small",
    "check_parts",
    "cut",
    "features_of_parts",
    "is_read_in_parts",
    "joined_answers",
    "network_dtype",
    "parts_dataset",
    "reader_for",
]

# In the names of the files by which joblib gives arrays to other processes: they are in memory.
OF_JOBLIB = "joblib_memmapping_folder"


def as_array_if_small(X: ArrayLike, name: str = "X") -> Any:
    """Return a source that is no larger than a window as an array; a larger one as its reader.

    A memory map is used as an array where it is small, or made by joblib.
    """
    if isinstance(X, np.memmap):
        return reader_of(X, name) if is_read_in_parts(X, name) else X
    reader = reader_of(X, name)
    cells = int(np.prod(reader.shape))
    return reader[:] if cells * np.dtype(reader.dtype).itemsize <= reading.SMALL else reader


def is_read_in_parts(X: ArrayLike, name: str = "X") -> bool:
    """Return whether a source is read in parts for predictions: not a small memory map.

    Raises DataError for a small one whose file became shorter.
    """
    if not isinstance(X, np.memmap):
        return True
    if X.nbytes > reading.SMALL and OF_JOBLIB not in str(X.filename):
        return True
    reading.check_map(X, name)
    return False


def reader_for(X: ArrayLike, solver: str) -> Any:
    """Return X of a fit, or its reader if it is to be read in parts."""
    found = as_array_if_small(X)
    if isinstance(found, np.ndarray) and found.ndim == 2 and found.dtype.kind == "f":
        checks.check_finite(found, "X")  # which says where
    if solver == "lbfgs" and isinstance(found, Reader):
        if isinstance(X, np.memmap):
            return X
        raise ValueError(
            "X: lbfgs needs all rows in each iteration, but a source of this size is read in "
            "parts: give numpy.asarray(X), or take solver='adam' or 'sgd'"
        )
    return found


def network_dtype(X: Reader, backend: Backend) -> str:
    """Return the dtype of a new network: float32 is kept, other dtypes become float64."""
    return inputs.network_dtype_of_host_data(
        X, "float32" if str(X.dtype) == "float32" else "float64", backend
    )


class TargetsReader(ArrayReader):
    """Encoded targets in memory, which become those that a loss needs when they are read."""

    def __init__(self, y: Host, needed: Callable[[Host], Host]) -> None:
        super().__init__(y, "y")
        self._needed = needed

    def read(self, start: int, stop: int) -> Host:
        """Return the targets of the rows from `start` to `stop`."""
        return self._needed(super().read(start, stop))

    def take(self, rows: Host) -> Host:
        """Return the targets of single rows."""
        return self._needed(super().take(rows))


class RowsOfSource:
    """The features of a source dataset as a source, of its rows only, in the network's dtype."""

    def __init__(self, data: SourceDataset) -> None:
        self._data = data
        self.shape = len(data), data.features.shape[1]
        self.dtype = np.dtype(data.host.dtype)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Host:
        """Return rows, checked."""
        start, stop, _ = rows.indices(len(self))
        found, at = np.empty((stop - start, self.shape[1]), self.dtype), 0
        for first, last in self._data.source_rows(start, stop):
            self._data.read_features(first, last, found[at : at + last - first])
            at += last - first
        return found


def parts_dataset(
    X: Reader,
    y: Any,
    weight: Host | None,
    backend: Backend,
    loss: Any,
    outputs: int,
    own: Callable[..., Any] | None,
    name: str = "",
) -> SourceDataset:
    """Return the dataset of a source and encoded y; rows of weight 0 are left out.

    ``own(y, backend)`` returns what a loss of the user's own needs of some rows. `name` is before
    the names of arguments in messages.
    """
    y = to_numpy(y)
    if own is not None:
        with use_backend("numpy", dtype=backend.dtype) as host:
            y = TargetsReader(y, partial(own, backend=host))
    found = source_dataset(
        X,
        y,
        weight,
        backend=backend,
        loss=None if isinstance(loss, HeadsCrossEntropy) else loss,  # its targets are integers
        inputs=X.shape[1],
        outputs=outputs,
        classes=None,
        name=name,
    )
    return found if weight is None or weight.all() else cut(found, weight > 0)


def cut(data: SourceDataset, kept: Host) -> SourceDataset:
    """Return the rows that are kept, of a mask (rows,)."""
    ranges: Ranges = ranges_of(kept, 1, len(data.features))
    return replace(data, ranges=ranges).surveyed()


def check_parts(estimator: Any, X: Reader) -> None:
    """Raise ValueError unless a source has features of the fitted estimator."""
    check_features(X, X.name)
    validate_data(estimator, X, reset=False, skip_check_array=True)


def features_of_parts(estimator: Any, X: ArrayLike, backend: Backend) -> Any:
    """Yield X of each part of a source, checked, on the backend."""
    reader = reader_of(X, "X")
    check_parts(estimator, reader)
    for start in range(0, len(reader), parts_of(reader)):
        stop = min(start + parts_of(reader), len(reader))
        with checks.rows_from(start):
            x: Array = checks.features(reader.read(start, stop), backend)
        yield x


def joined_answers(parts: Iterator[list[Any]], rows: int) -> list[Any]:
    """Return the answers for parts of all rows, in turn, as one array each, or a sparse matrix.

    A part is a list of answers: one, or those of several heads.
    """
    first = next(parts)
    if hasattr(first[0], "tocsr"):
        import scipy.sparse

        return [scipy.sparse.vstack([first[0], *(part[0] for part in parts)])]
    found, done = [np.empty((rows, *one.shape[1:]), one.dtype) for one in first], 0
    for part in chain([first], parts):
        for whole, one in zip(found, part, strict=True):
            whole[done : done + len(one)] = one
        done += len(part[0])
    return found
