"""Command line: ``python -m portnet``, or ``portnet``.

``python -m portnet`` shows what is installed and which backends can be used, or why not.
``python -m portnet --version`` shows the version of portnet.
``python -m portnet show FILE`` shows what is in a file that `portnet.save` wrote.
``train``, ``predict`` and ``export`` need the extra ``cli``: see `portnet.cli`.
"""

import argparse
import sys
from importlib.util import find_spec

from . import __version__
from ._validation import how_to_install
from .cli.report import show_installed
from .files import ModelFileError
from .files.show import text_of

__all__ = ["main"]

NEEDED = ("click", "pandas", "sklearn")  # modules of the extra cli
COMMANDS = ("train", "predict", "export")  # which need them


def main(arguments: list[str] | None = None) -> None:
    """Run a command: see above."""
    given = sys.argv[1:] if arguments is None else arguments
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        _without_extra(given, missing)
    else:
        from .cli.commands import commands

        commands.main(given, prog_name="portnet")


def _without_extra(given: list[str], missing: list[str]) -> None:
    """Run what needs only NumPy; say what is missing for the other commands."""
    several = "are" if len(missing) > 1 else "is"
    needs = f"needs {', '.join(missing)}, which {several} not installed: {how_to_install('cli')}"
    parser = argparse.ArgumentParser("portnet", description=(__doc__ or "").split("\n")[2])
    parser.add_argument("--version", action="version", version=f"portnet {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    show = commands.add_parser("show", help="show what is in a file")
    show.add_argument("file", help="a network, a run, a checkpoint or an estimator")
    for name in COMMANDS:
        commands.add_parser(name, help=needs)
    if given and given[0] in COMMANDS:
        _fail(f"portnet {given[0]}: {needs}")
    if parser.parse_args(given).command is None:
        show_installed()
        return
    try:
        print(text_of(parser.parse_args(given).file))
    except OSError as error:
        _fail(
            f"portnet: {error.filename}: {error.strerror}"
            if error.filename
            else f"portnet: {error}"
        )
    except ModelFileError as error:
        _fail(f"portnet: {error}")


def _fail(message: str) -> None:
    """End the process with a line on stderr and exit code 2."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
