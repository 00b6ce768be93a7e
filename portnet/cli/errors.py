"""Errors: what is wrong with what was given, in one line on stderr, with exit code 2."""

import os
from collections.abc import Callable
from typing import Any

import click

from .. import (
    BackendUnavailableError,
    CheckpointError,
    DataError,
    DivergenceError,
    ModelFileError,
)
from ..tables.columns import TableError

__all__ = ["FILE", "OneLine", "note", "refuse"]

# Errors whose messages are for users. Any other one is a bug, and shows its traceback.
EXPECTED = (
    BackendUnavailableError,
    CheckpointError,
    DataError,
    DivergenceError,
    ModelFileError,
    TableError,
    OSError,
    MemoryError,
)


def refuse(message: str) -> click.ClickException:
    """Return the error of a message, to be raised."""
    return click.UsageError(message)


def note(message: str) -> None:
    """Print a note on stderr, in one line."""
    click.echo(f"note: {_one_line(message)}", err=True)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


class _File(click.Path):
    """The path of a file, which must not be empty."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the path."""
        if not os.fspath(value):
            self.fail("expected the path of a file, got ''", param, ctx)
        return super().convert(value, param, ctx)


FILE = _File(readable=False)  # opening it says what is wrong


class OneLine(click.Group):
    """A group of commands whose errors are one line, without usage and traceback."""

    def main(self, *args: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """Run a command; end the process with 0, 2 for an error, 130 for Ctrl-C."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **more)
        raise SystemExit(_code(lambda: super(OneLine, self).main(*args, **_plain(more))))


def _plain(more: dict[str, Any]) -> dict[str, Any]:
    return more | {"standalone_mode": False}


def _code(run: Callable[[], Any]) -> int:
    """Return the exit code of a command; its error is printed.

    Where the reader of stdout has what it wants, as head does, click ends the process with 1.
    """
    try:
        found = run()
        return found if isinstance(found, int) else 0
    except click.ClickException as error:
        message = error.format_message()
        where = getattr(getattr(error, "ctx", None), "command_path", "") or "portnet"
    except (click.Abort, KeyboardInterrupt):
        click.echo("portnet: interrupted", err=True)
        return 130
    except EXPECTED as error:
        message, where = _text(error), "portnet"
    click.echo(f"{where}: {_one_line(message)}", err=True)
    return 2


def _text(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, CheckpointError):
        return f"{error.filename}: {error.strerror}"
    return str(error)
