"""Data: checks, labels, datasets, and the split into training and validation sets."""

__all__ = ["checks", "dataset", "labels", "split"]
