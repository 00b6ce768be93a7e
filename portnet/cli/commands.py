"""The commands of ``portnet``, with click."""

import click

from .. import __version__
from .errors import OneLine
from .export import export
from .predict import predict
from .report import show_installed
from .show import show
from .train import train

__all__ = ["commands"]


@click.group("portnet", cls=OneLine, invoke_without_command=True)
@click.version_option(__version__, message="portnet %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Neural networks written once, by hand: train on a table, predict, export.

    Without a command: what is installed, which backends can be used, or why not.
    """
    if context.invoked_subcommand is None:
        show_installed()


for _command in (train, predict, export, show):
    commands.add_command(_command)
