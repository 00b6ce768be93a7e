"""Errors of files."""

__all__ = ["CheckpointError", "ModelFileError", "ResumeMismatchError"]


class ModelFileError(ValueError):
    """A file is damaged, hostile, or no model of portnet's; or what is saved would be no model.

    Examples
    --------
    >>> import os, tempfile
    >>> import portnet
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> with open(path, "w") as file:
    ...     n = file.write("<html>Not found</html>")
    >>> portnet.load(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    portnet.files.errors.ModelFileError: ...model.safetensors: ...HTML...
    """

    def __init__(self, message: str) -> None:
        super().__init__(_plain(message))


class CheckpointError(OSError):
    """A file cannot be written; errno and filename are those of the cause.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net = portnet.mlp([1, 1])
    >>> trainer = portnet.Trainer(net, "squared_error")
    >>> try:
    ...     trainer.fit([[1.0]], [1.0], checkpoint="/no such folder/run")
    ... except portnet.CheckpointError as error:
    ...     print(error.errno, error.filename)  # before anything is trained
    2 /no such folder/run
    """


class ResumeMismatchError(ValueError):
    """A checkpoint belongs to other data, or to other settings.

    Examples
    --------
    >>> import os, tempfile
    >>> import portnet
    >>> path = os.path.join(tempfile.mkdtemp(), "run")
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error")
    >>> run = trainer.fit([[1.0]], [1.0], epochs=2, checkpoint=path)
    >>> try:
    ...     trainer.fit([[1.0]], [3.0], epochs=3, resume=path)
    ... except portnet.ResumeMismatchError as error:
    ...     print("data.y.crc32" in str(error))
    True
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(_plain, message.split("\n"))))


_LONG = 2000  # characters of a message: a file may have names of any length


def _plain(text: str) -> str:
    """Return the start and the end of a text, with escapes for what a terminal would act on."""
    if len(text) > _LONG:
        text = f"{text[: _LONG - 500]} ... {text[-450:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
