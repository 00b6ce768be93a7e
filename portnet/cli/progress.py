"""Progress: a bar on a terminal, else some lines; made of what the estimators print."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click

__all__ = ["shown"]

LINES = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000}


@contextmanager
def shown(epochs: int) -> Iterator[None]:
    """Show on stderr what an estimator with ``verbose=True`` prints within the block."""
    follow = _Follow(epochs)
    try:
        with redirect_stdout(follow):
            yield
    finally:
        follow.end()


class _Follow(io.TextIOBase):
    """A stdout that reads the number, the loss and the score of each epoch."""

    def __init__(self, epochs: int) -> None:
        self.epoch, self.line, self.rest = 0, "", ""
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=epochs, unit="epoch", file=sys.stderr, leave=False)

    def write(self, text: str) -> int:
        """Take lines; those of an epoch are shown when the next one begins."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if found := re.match(r"Iteration (\d+), loss = (\S+)", line):
                self._show()
                self.epoch, self.line = int(found[1]), f"training loss {float(found[2]):.4g}"
            elif found := re.match(r"Validation score: (\S+)", line):
                self.line += f", validation score {float(found[1]):.4g}"
        return len(text)

    def _show(self, last: bool = False) -> None:
        if not self.epoch:
            return
        if self.bar is not None:
            self.bar.update(self.epoch - self.bar.n)
            self.bar.set_postfix_str(self.line)
        elif last or self.epoch in LINES:
            click.echo(f"epoch {self.epoch}: {self.line}", err=True)

    def end(self) -> None:
        """Show the last epoch."""
        self._show(last=True)
        if self.bar is not None:
            self.bar.close()
