"""Sources as files of NumPy's: from them, rows are read faster than from any other."""

import io
import os
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np

from ..._typing import ArrayLike, DType, Host
from ...files.atomic import write_file
from .. import labels
from ..checks import DataError
from .reading import Reader, parts_of, reader_of

__all__ = ["to_npy"]


def to_npy(
    source: ArrayLike, path: str | PathLike[str], *, dtype: str | DType | None = None
) -> Host:
    """Write a source to a .npy file, part by part, and return it as a memory map.

    The file is written whole or not at all.

    Parameters
    ----------
    source : (rows,) or (rows, columns)
        What `Trainer.fit` takes as X or y: arrays of h5py, Zarr and dask, `portnet.data.parquet`,
        NumPy arrays.
    path : path
        Of the file; one that is there is replaced.
    dtype : optional
        By default that of the source. float32 is the one of portnet, which then need not convert.

    Returns
    -------
    memory map of the shape of the source, as of ``numpy.load(path, mmap_mode="r")``

    Raises
    ------
    DataError
        for rows that cannot be read, with their numbers, and for text of any length.
    OSError
        if the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import portnet
    >>> folder = tempfile.TemporaryDirectory()
    >>> X = portnet.data.to_npy(np.eye(3), folder.name + "/X.npy", dtype="float32")
    >>> type(X).__name__, X.dtype.name, X.shape
    ('memmap', 'float32', (3, 3))
    >>> del X
    >>> folder.cleanup()
    """
    reader = reader_of(source, "source")
    if isinstance(reader.x, np.memmap) and _is_file(reader.x.filename, path):
        raise DataError(f"to_npy: the source is in {os.fspath(path)} itself: give another path")
    to = np.dtype(reader.dtype if dtype is None else dtype)
    if to.kind == "O" or to.kind not in "fiubUS":
        raise DataError(
            f"to_npy: a source of dtype {to} cannot be read in parts from a file: numbers or text "
            "of a fixed length are needed. Keep y in memory, y[:]; or give dtype='U20'"
        )
    write_file(path, _buffers(reader, to))
    found: Host = np.load(path, mmap_mode="r")
    return found


def _buffers(reader: Reader, to: np.dtype[Any]) -> Iterator[memoryview | bytes]:
    """Yield the header and the rows of a .npy file."""
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(to), "fortran_order": False}
    np.lib.format.write_array_header_1_0(header, about | {"shape": reader.shape})
    yield header.getvalue()
    size = parts_of(reader)
    for start in range(0, len(reader), size):
        stop = min(start + size, len(reader))
        block = reader.read(start, stop)
        if to.kind in "US" and block.dtype.kind != to.kind:
            block = labels.decoded(block)
        try:
            with np.errstate(over="raise", invalid="raise"):
                rows = np.ascontiguousarray(block, dtype=to)
        except (ValueError, TypeError, FloatingPointError) as error:
            where = reader.where(start, stop)
            raise DataError(f"{where} cannot be written as {to}: {error}") from error
        yield rows.reshape(-1).view(np.uint8).data


def _is_file(name: Any, path: str | PathLike[str]) -> bool:
    return name is not None and os.path.exists(path) and os.path.samefile(name, path)
