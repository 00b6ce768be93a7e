"""Errors of files."""

__all__ = ["CheckpointError", "ModelFileError", "ResumeMismatchError"]


class ModelFileError(ValueError):
    """A file is damaged, hostile, or no model of portnet's."""


class CheckpointError(OSError):
    """A file cannot be written; errno and filename are those of the cause."""


class ResumeMismatchError(ValueError):
    """A checkpoint belongs to other data, or to other settings."""
