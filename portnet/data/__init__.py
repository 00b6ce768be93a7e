"""Data: checks, labels, datasets, sources, and the split into training and validation sets."""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

__all__ = ["checks", "dataset", "labels", "parquet", "split", "to_npy"]

if _TYPE_CHECKING:
    from .sources.npy import to_npy as to_npy
    from .sources.parquet import parquet as parquet


def __getattr__(name: str) -> _Any:
    """Import what reads sources at its first use: most programs do not need it."""
    if name == "to_npy":
        from .sources.npy import to_npy

        return to_npy
    if name == "parquet":
        from .sources.parquet import parquet

        return parquet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
