"""Parquet and Arrow files as sources, through pyarrow: the columns of X as one array of rows.

Such files are in groups of rows, of which Parquet decodes whole columns only. Small groups are
decoded as a whole. Of large ones (pyarrow writes a million rows by default), one column at a time
is in memory beside the rows that are wanted, and a window decodes each group once for all of these.
"""

import functools
import glob
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np

from ..._typing import Host
from ..._validation import how_to_install
from ..checks import DataError

__all__ = ["parquet"]

WHOLE = 1 << 22  # bytes of a group of rows up to which it is decoded as a whole
SLICE = 1 << 21  # bytes of the rows of larger groups that are read for a window
SLICES = 128  # in a group at most
AT_ONCE = 1 << 25  # bytes that are read at once where all rows are, from large groups
NARROW = "float16 float32 int8 int16 uint8 uint16 bool"  # what float32 holds exactly


def parquet(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]],
    target: str | None = None,
    *,
    columns: Sequence[str] | None = None,
) -> Any:
    """Return X and y of Parquet or Arrow (Feather) files, which are read in parts during a fit.

    Decoding takes longer than reading numbers: for many epochs, write X and y to files of NumPy's
    once, `portnet.data.to_npy`. Groups of rows are best of up to 4 MB: an epoch in a new order
    decodes larger ones several times, so that memory is bounded. ``row_group_size`` of
    ``pyarrow.parquet.write_table`` is their number of rows. Under limits of address space, such as
    RLIMIT_DATA, set ``ARROW_DEFAULT_MEMORY_POOL=system``: pyarrow reserves much more than it uses.

    Parameters
    ----------
    paths : path, or paths
        Files, a folder of them, or a pattern such as "data/*.parquet"; their rows follow each other
        in this order, that of names in a folder.
    target : str, optional
        The column that is y, of numbers or text. None: X alone is returned, for predictions.
    columns : names, optional
        The columns of X; by default all but the target. They are numbers.

    Returns
    -------
    X : source (rows, columns)
        float32 if it holds the values of all columns exactly, else float64.
    y : source (rows,)

    Raises
    ------
    DataError
        for a column that is missing, has no numbers, or has another type in a later file, with
        column and file; for missing values when they are read.

    Examples
    --------
    >>> import portnet
    >>> try:
    ...     X, y = portnet.data.parquet("nothing/*.parquet", target="price")
    ... except portnet.DataError as error:
    ...     print(error)
    parquet: no file is called nothing/*.parquet
    """
    if hasattr(paths, "schema"):  # a table, or a dataset of pyarrow
        raise DataError(
            f"parquet: expected paths of files, got a {type(paths).__name__}: give the paths, or "
            "take what is in memory as an array, such as table.to_pandas()"
        )
    found = _paths_of(paths)
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            f"portnet.data.parquet needs pyarrow: {how_to_install('parquet')}"
        ) from error
    files = tuple(_File(path, pyarrow) for path in found)
    names = files[0].names
    if target is not None:
        _check_column(target, files)
    chosen = [n for n in names if n != target] if columns is None else list(columns)
    twice = [n for i, n in enumerate(chosen) if n in chosen[:i]]
    if twice or (target is not None and target in chosen):
        what = f"{twice[0]!r} twice" if twice else f"{target!r}, which is the target"
        raise DataError(f"parquet: columns: expected the columns of X, each once, got {what}")
    if not chosen:
        raise DataError(f"parquet: {files[0].path} has no column besides {target!r}")
    for name in chosen:
        _check_column(name, files)
        for file in files:
            if not file.is_numeric(name):
                raise DataError(
                    f"parquet: column {name!r} of {file.path} is {file.type_of(name)}, but numbers "
                    "are needed: leave it out, columns=[...], or write it as numbers"
                )
    kinds = {str(file.dtype_of(name)) for file in files for name in chosen}
    X = ParquetRows(
        files, chosen, np.dtype(np.float32 if kinds <= set(NARROW.split()) else np.float64)
    )
    if target is None:
        return X
    first = files[0].dtype_of(target)
    for file in files[1:]:
        if file.dtype_of(target) != first:
            raise DataError(
                f"parquet: column {target!r} is {files[0].type_of(target)} in {files[0].path}, and "
                f"{file.type_of(target)} in {file.path}"
            )
    return X, ParquetRows(files, [target], first, is_target=True)


class _File:
    """A Parquet or Arrow file: names, types, and groups of rows."""

    def __init__(self, path: str, pyarrow: Any) -> None:
        self.path, self._pyarrow, self._lock = path, pyarrow, threading.Lock()
        try:
            with open(path, "rb") as file:
                start = file.read(6)
            if start == b"ARROW1":
                self._arrow = pyarrow.ipc.open_file(pyarrow.memory_map(path))
                count = self._arrow.num_record_batches
                self.schema = self._arrow.schema
                self.groups = [self._arrow.get_batch(i).num_rows for i in range(count)]
            else:
                from pyarrow import parquet as module

                self._arrow, self._file = None, module.ParquetFile(path)
                about = self._file.metadata
                self.schema = self._file.schema_arrow
                self.groups = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"parquet: {path} cannot be read: {error}") from error
        self.names = list(self.schema.names)
        if len(set(self.names)) < len(self.names):
            raise DataError(f"parquet: {path} has several columns of one name: {self.names}")

    def type_of(self, name: str) -> Any:
        """Return the type of a column."""
        return self.schema.field(name).type

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Return the dtype of a column as an array."""
        try:
            found: np.dtype[Any] = np.dtype(self.type_of(name).to_pandas_dtype())
        except (NotImplementedError, TypeError):
            found = np.dtype(object)
        return found

    def is_numeric(self, name: str) -> bool:
        """Return whether a column has numbers."""
        types, kind = self._pyarrow.types, self.type_of(name)
        return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))

    def columns(self, group: int, names: list[str], whole: bool = False) -> Iterator[Any]:
        """Yield the columns of a group of rows as Arrow arrays, decoded together or in turn."""
        together = whole or self._arrow is not None
        for some in [names] if together else [[name] for name in names]:
            try:
                with self._lock:
                    if self._arrow is not None:
                        table = self._arrow.get_batch(group).select(some)
                    else:
                        table = self._file.read_row_group(group, some, use_threads=whole)
            except (self._pyarrow.ArrowException, OSError) as error:
                raise DataError(
                    f"parquet: group {group} of {self.path} cannot be read: {error}"
                ) from error
            for name in some:
                yield table.column(name)

    def numbers(self, column: Any, name: str, group: int, first: int) -> Host:
        """Return a column of a group, from row `first` of it on, as an array."""
        if column.null_count:
            missing = column.is_null().to_numpy(zero_copy_only=False)
            row = sum(self.groups[:group]) + first + int(np.flatnonzero(missing)[0])
            others = column.null_count - 1
            more = f" (and in {others} more near it)" if others else ""
            raise DataError(
                f"parquet: column {name!r} of {self.path} has no value in row {row} of the file"
                f"{more}: fill it, or leave such rows out"
            )
        if self._pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        types, kind = self._pyarrow.types, column.type
        arrays = column.chunks if hasattr(column, "chunks") else [column]
        if types.is_integer(kind) or types.is_floating(kind):  # `to_numpy` would import pandas
            dtype = np.dtype(kind.to_pandas_dtype())
            parts = [
                np.frombuffer(a.buffers()[1], dtype, len(a), a.offset * dtype.itemsize)
                for a in arrays
                if len(a)
            ]
        else:
            parts = [a.to_numpy(zero_copy_only=False) for a in arrays]
        found: Host = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found


class ParquetRows:
    """Rows of some columns, of files one after the other.

    `chunks` are the rows that are read together for a window; `rows_at_once`, where it is not 0,
    how many to read where all rows are.
    """

    def __init__(
        self, files: tuple[_File, ...], names: list[str], dtype: Any, is_target: bool = False
    ) -> None:
        self.dtype, self._files, self._names, self._is_target = dtype, files, names, is_target
        self._groups = [(f, g) for f, file in enumerate(files) for g in range(len(file.groups))]
        sizes = [files[f].groups[g] for f, g in self._groups]
        self._ends = np.cumsum([0, *sizes])
        rows = int(self._ends[-1])
        self.shape: tuple[int, ...] = (rows,) if is_target else (rows, len(names))
        largest, row_bytes = max(sizes, default=0), np.dtype(dtype).itemsize * len(names)
        self.is_large, slices = largest * row_bytes > WHOLE, 1
        self.rows_at_once = 0
        if self.is_large:
            slices = min(SLICES, -(-largest * row_bytes // SLICE))
            self.rows_at_once = min(largest, max(1, AT_ONCE // row_bytes, largest // 16))
        self.chunks = (-(-largest // slices), *self.shape[1:])
        self._whole = functools.lru_cache(maxsize=2)(self._read_whole)  # one for each thread

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        some, count = ", ".join(self._names[:5]), len(self._names)
        columns = f"column {some}" if count == 1 else f"columns {some}"
        columns += f", ... ({count})" if count > 5 else ""
        paths = [file.path for file in self._files]
        where = paths[0] if len(paths) == 1 else f"{len(paths)} files, {paths[0]} to {paths[-1]}"
        return (
            f"<{self.shape[0]} rows of {self.dtype}, {columns}, in {len(self._groups)} groups of "
            f"rows of {where}>"
        )

    def __getitem__(self, rows: slice) -> Host:
        start, stop, step = rows.indices(len(self))
        found = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        for _ in self.read_pieces([(start, stop)], found):
            pass
        return found[::step]

    def read_pieces(self, pieces: Iterable[tuple[int, int]], out: Host) -> Iterator[None]:
        """Read pieces (start, stop) into `out`, one behind the other; yield after each group."""
        of_group: dict[int, list[tuple[int, int, int]]] = {}
        at = 0
        for start, stop in pieces:
            group = int(np.searchsorted(self._ends, start, side="right")) - 1
            while start < stop:
                begin, end = (int(row) for row in self._ends[group : group + 2])
                last = min(stop, end)
                if last > start:
                    of_group.setdefault(group, []).append((start - begin, last - begin, at))
                at, start, group = at + last - start, last, group + 1
        for group in sorted(of_group):
            self._read_group(group, of_group[group], out)
            yield

    def _read_group(self, group: int, places: list[tuple[int, int, int]], out: Host) -> None:
        """Read rows (first, last) of a group to a place of `out`, for each of `places`."""
        if not self.is_large:
            whole = self._whole(group)
            for first, last, at in places:
                out[at : at + last - first] = whole[first:last]
            return
        f, number = self._groups[group]
        columns = self._files[f].columns(number, self._names)
        for i, (name, column) in enumerate(zip(self._names, columns, strict=True)):
            to = out if self._is_target else out[:, i]
            for first, last, at in places:
                part = column.slice(first, last - first)
                with np.errstate(over="ignore"):  # infinities are reported with their place
                    to[at : at + last - first] = self._files[f].numbers(part, name, number, first)

    def _read_whole(self, group: int) -> Host:
        f, number = self._groups[group]
        file, names = self._files[f], self._names
        columns = file.columns(number, names, whole=True)
        found = [file.numbers(c, n, number, 0) for c, n in zip(columns, names, strict=True)]
        if self._is_target:
            return found[0]
        whole = np.empty((len(found[0]), len(found)), self.dtype)
        for i, column in enumerate(found):
            whole[:, i] = column
        return whole


def _paths_of(given: Any) -> list[str]:
    if not isinstance(given, str | PathLike):
        paths = [os.fspath(path) for path in given]
    else:
        path = os.fspath(given)
        if os.path.isdir(path):
            ends = ".parquet", ".pq", ".arrow", ".feather"
            paths = [os.path.join(path, n) for n in sorted(os.listdir(path)) if n.endswith(ends)]
        else:
            paths = [path] if os.path.exists(path) else sorted(glob.glob(path))
    if not paths:
        raise DataError(f"parquet: no file is called {given}")
    return paths


def _check_column(name: str, files: tuple[_File, ...]) -> None:
    """Raise DataError unless every file has the column."""
    for file in files:
        if name not in file.names:
            there = ", ".join(file.names[:10]) + (", ..." if len(file.names) > 10 else "")
            raise DataError(f"parquet: {file.path} has no column {name!r}; it has {there}")
