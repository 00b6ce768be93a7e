"""Parquet and Arrow files as sources, through pyarrow: the columns of X as one array of rows."""

import functools
import glob
import os
import threading
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import numpy as np

from ..._typing import Host
from ..._validation import how_to_install
from ..checks import DataError

__all__ = ["parquet"]

NARROW = "float16 float32 int8 int16 uint8 uint16 bool"  # what float32 holds exactly


def parquet(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]],
    target: str | None = None,
    *,
    columns: Sequence[str] | None = None,
) -> Any:
    """Return X and y of Parquet or Arrow (Feather) files, which are read in parts during a fit.

    Decoding takes longer than reading numbers: for many epochs, write X and y to files of NumPy's
    once, `portnet.data.to_npy`.

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
    X = _Rows(files, chosen, np.dtype(np.float32 if kinds <= set(NARROW.split()) else np.float64))
    if target is None:
        return X
    first = files[0].dtype_of(target)
    for file in files[1:]:
        if file.dtype_of(target) != first:
            raise DataError(
                f"parquet: column {target!r} is {files[0].type_of(target)} in {files[0].path}, and "
                f"{file.type_of(target)} in {file.path}"
            )
    return X, _Rows(files, [target], first, is_target=True)


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

    def read(self, group: int, names: list[str]) -> list[Host]:
        """Return the columns of a group of rows."""
        try:
            with self._lock:
                if self._arrow is not None:
                    table = self._arrow.get_batch(group).select(names)
                else:
                    table = self._file.read_row_group(group, columns=names)
        except (self._pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"parquet: group {group} of {self.path} cannot be read: {error}"
            ) from error
        return [self._column(table, name, group) for name in names]

    def _column(self, table: Any, name: str, group: int) -> Host:
        column = table.column(name)
        if column.null_count:
            missing = column.is_null().to_numpy(zero_copy_only=False)
            row = sum(self.groups[:group]) + int(np.flatnonzero(missing)[0])
            raise DataError(
                f"parquet: column {name!r} of {self.path} has no value in row {row} of the file "
                f"(and {column.null_count - 1} more near it): fill it, or leave such rows out"
            )
        if self._pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        found: Host = column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(False)
        return found


class _Rows:
    """Rows of some columns, of files one after the other."""

    def __init__(
        self, files: tuple[_File, ...], names: list[str], dtype: Any, is_target: bool = False
    ) -> None:
        self.dtype, self._files, self._names, self._is_target = dtype, files, names, is_target
        self._groups = [(f, g) for f, file in enumerate(files) for g in range(len(file.groups))]
        sizes = [files[f].groups[g] for f, g in self._groups]
        self._ends = np.cumsum([0, *sizes])
        rows = int(self._ends[-1])
        self.shape: tuple[int, ...] = (rows,) if is_target else (rows, len(names))
        self.chunks = (max(sizes, default=0), *self.shape[1:])
        self._read = functools.lru_cache(maxsize=2)(self._read_group)  # one for each thread

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Host:
        start, stop, step = rows.indices(len(self))
        first = int(np.searchsorted(self._ends, start, side="right")) - 1
        parts = []
        for group in range(max(first, 0), len(self._groups)):
            begin = int(self._ends[group])
            if begin >= stop:
                break
            parts.append(self._read(group)[max(start - begin, 0) : stop - begin])
        found = np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)
        return found[::step]

    def _read_group(self, group: int) -> Host:
        file, number = self._files[self._groups[group][0]], self._groups[group][1]
        columns = file.read(number, self._names)
        if self._is_target:
            return columns[0]
        found = np.empty((len(columns[0]), len(columns)), self.dtype)
        for i, column in enumerate(columns):
            found[:, i] = column
        return found


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
