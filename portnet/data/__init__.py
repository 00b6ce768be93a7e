"""Data: files that are read in parts; checks, labels, datasets and splits are in its modules."""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

__all__ = ["parquet", "to_npy"]

if _TYPE_CHECKING:
    from .sources.npy import to_npy as to_npy
    from .sources.parquet import parquet as parquet


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> _Any:
    """Import what reads sources at its first use: most programs do not need it."""
    found: _Any
    if name == "to_npy":
        from .sources.npy import to_npy

        found = to_npy
    elif name == "parquet":
        from .sources.parquet import parquet

        found = parquet
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found
