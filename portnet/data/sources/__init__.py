"""Sources: data that are read in parts, because they may be larger than memory."""

__all__ = ["dataset", "npy", "order", "parquet", "reading", "windows"]
