"""The command ``show``: what is in a file."""

import click

from ..files.show import text_of
from .errors import FILE

__all__ = ["show"]


@click.command()
@click.argument("file", type=FILE)
def show(file: str) -> None:
    """Show what is in FILE: a network, a run, a checkpoint, an estimator or a table's model."""
    click.echo(text_of(file))
