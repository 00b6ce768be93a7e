"""Tables, and calls of the command line, that its tests share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import portnet

pandas = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
testing = pytest.importorskip("click.testing", reason="click is not installed")


def call(*arguments):
    """Return what a command prints and its exit code; an exception that is a bug is raised."""
    from portnet.cli.commands import commands

    done = testing.CliRunner().invoke(commands, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def refused(*arguments):
    """Return the one line on stderr of a command that must fail, and write nothing."""
    before = sorted(os.listdir())
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.output
    assert sorted(os.listdir()) == before
    return lines[0]


# The same portnet from another working folder.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(portnet.__file__).parents[1])}


def process(*arguments, **environment):
    """Run the command line in a process of its own."""
    env = ENVIRONMENT | environment
    command = [sys.executable, "-m", "portnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def flowers(rows=150, seed=0):
    """Return a table of three kinds that numbers and text tell apart, with gaps."""
    draw = np.random.default_rng(seed)
    kind = draw.integers(0, 3, rows)
    frame = pandas.DataFrame(
        {
            "length": 2.0 * kind + draw.normal(0, 0.4, rows),
            "width": draw.normal(3, 1, rows),
            "colour": np.array(["red", "blue", "white"])[(kind + (draw.random(rows) < 0.1)) % 3],
            "seen": pandas.date_range("2023-01-01", periods=rows).astype(str),
            "species": np.array(["iris", "rose", "tulip"])[kind],
        }
    )
    frame.loc[::11, "width"] = np.nan
    frame.loc[::13, "colour"] = None
    return frame


def houses(rows=300, seed=0):
    """Return a table whose price is 50,000 + 2,000 size, and 30,000 more by the lake."""
    draw = np.random.default_rng(seed)
    frame = pandas.DataFrame(
        {
            "size": draw.uniform(30, 200, rows),
            "lake": draw.choice(["yes", "no"], rows),
            "rooms": draw.integers(1, 7, rows),
        }
    )
    noise = draw.normal(0, 5000, rows)
    frame["price"] = 50_000 + 2000 * frame["size"] + 30_000 * (frame["lake"] == "yes") + noise
    return frame
