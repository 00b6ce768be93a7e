"""Errors of model files and checkpoints."""

__all__ = ["CheckpointError", "ModelFileError", "ResumeMismatchError"]


class ModelFileError(ValueError):
    """A file is damaged, hostile, or no portnet model; the message says which, and what to do."""


class CheckpointError(OSError):
    """A file cannot be written; `errno`, `filename` and the message say why, and what to do.

    The file that was there before is as it was, unless the message says otherwise.
    """


class ResumeMismatchError(ValueError):
    """A run cannot be resumed with other data or settings; the message lists every difference."""
