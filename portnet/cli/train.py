"""The command ``train``: a network for the columns of a CSV or Parquet file."""

import os
import shlex
import tempfile
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np

from .. import ModelFileError, use_backend
from .._validation import counted, how_to_install
from ..files.atomic import check_writable, write_file
from ..files.models import to_buffers
from ..tables import TableError, TableModel
from ..tables.columns import are_numbers, canonical, columns_text
from . import notes, progress, scores
from . import target as targets
from .errors import FILE, note, refuse
from .read import encoding_option, is_parquet, read_table

__all__ = ["train"]

# From so many rows on, a part of them is kept to stop in time. Of fewer rows, that part says too
# little, above all its accuracy, which is a count.
STOPPING_ROWS = {"classification": 500, "regression": 200}
STOPPING_PART, PATIENCE = 0.15, 20
PICTURES = ".png", ".pdf", ".svg"


def _sizes(context: click.Context, parameter: click.Parameter, given: str) -> tuple[int, ...]:
    """Return the sizes of layers that a text such as 64,32 has; none for 0."""
    if given.strip() == "0":
        return ()
    try:
        sizes = tuple(int(part) for part in given.split(","))
    except ValueError:
        sizes = (0,)
    if not all(1 <= size <= 1 << 20 for size in sizes):
        raise click.BadParameter(f"expected sizes of layers such as 64,32, got {given!r}")
    return sizes


def _part(context: click.Context, parameter: click.Parameter, given: float) -> float:
    """Return a part, which is not NaN."""
    if given != given:
        raise click.BadParameter("expected a number from 0 to below 1, got nan")
    return given


@click.command()
@click.argument("data", type=FILE)
@click.option("--target", required=True, help="The column to predict.")
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    help="By default what the values of the target suggest.",
)
@click.option(
    "--hidden",
    default="64,32",
    show_default=True,
    callback=_sizes,
    help="Sizes of the hidden layers; 0 for none.",
)
@click.option(
    "--epochs", type=click.IntRange(1), default=200, show_default=True, help="At most so many."
)
@click.option("--backend", help="Where to train: numpy, cupy, torch, jax, or cupy:1.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="The same seed gives the same model.",
)
@click.option(
    "--test",
    "part",
    type=click.FloatRange(0, 1, max_open=True),
    callback=_part,
    default=0.2,
    show_default=True,
    help="The part of the rows for the test; 0 for none.",
)
@click.option(
    "--out",
    type=FILE,
    default="model.safetensors",
    show_default=True,
    help="The file of the model.",
)
@click.option("--plot", type=FILE, help="A picture of the training curve, such as curve.png.")
@click.option("--drop", multiple=True, help="A column to leave out; may be given several times.")
@encoding_option
def train(
    data: str,
    target: str,
    task: str | None,
    hidden: tuple[int, ...],
    epochs: int,
    backend: str | None,
    seed: int,
    part: float,
    out: str,
    plot: str | None,
    drop: tuple[str, ...],
    encoding: str,
) -> None:
    """Train a network on DATA, a CSV or Parquet file, to predict a column.

    Missing values are filled, numbers are scaled, texts become columns of 0 and 1. All of this is
    in the file of the model, which predict and export read.
    """
    _check_outputs(data, out, plot)
    _check_backend(backend)
    if target in drop:
        raise refuse(f"--drop: {target!r} is the target")
    frame = read_table(data, encoding=encoding, drop=drop, target=target)
    written = not is_parquet(data)
    frame, chosen = targets.check_target(frame, target, data, task, written=written)
    kinds = notes.kinds_of(frame, target)
    frame = _canonical(frame, kinds, target, data)
    held_out = validation = None
    if part:
        frame, held_out = targets.split(frame, target, chosen, part, seed)
    _check_learnable(frame, target)
    if len(frame) >= STOPPING_ROWS[chosen]:
        frame, validation = targets.split(frame, target, chosen, STOPPING_PART, seed)
        validation = _known(validation, frame, target, chosen)
    _say_plan(frame, held_out, validation, target, chosen, task, kinds)
    estimator = _estimator(
        chosen,
        hidden_layer_sizes=hidden,
        max_iter=epochs,
        backend=backend,
        random_state=seed,
        early_stopping=validation is not None,
        batch_size=min(len(frame), 200, max(16, len(frame) // 50)),
    )
    model = _fit(frame, target, estimator, kinds, validation, epochs)
    best = estimator.validation_scores_ and 1 + int(np.argmax(estimator.validation_scores_))
    kept = f"; the network is that of epoch {best}, the best" if best else ""
    click.echo(f"trained {counted(estimator.n_iter_, 'epoch')}{kept}")
    if held_out is not None:
        y = held_out[target].to_numpy()
        guess = scores.trivial(frame[target].to_numpy(), chosen)
        for line in scores.report(chosen, y, model.predict(held_out), guess):
            click.echo(line)
    _write(model, out, plot)
    _say_next(data, out)


def _canonical(frame: Any, kinds: dict[str, str], target: str, path: str) -> Any:
    """Return the columns that are used, as numbers and text, and the target."""
    try:
        found = canonical(frame, list(kinds), "".join(kinds.values()))
    except TableError as error:
        raise refuse(f"{path}: {error}") from None
    dates = [name for name, kind in kinds.items() if kind == "d"]  # numbers are not dates again
    return found.assign(**{name: frame[name] for name in (*dates, target)})


def _check_outputs(data: str, out: str, plot: str | None) -> None:
    """Raise before anything is trained if a file cannot be written."""
    for path in filter(None, (out, plot)):
        if os.path.exists(path) and os.path.exists(data) and os.path.samefile(path, data):
            raise refuse(f"{path}: the data would be lost: give another name")
        check_writable(path)
    if plot is not None:
        if os.path.realpath(plot) == os.path.realpath(out):
            raise refuse(f"--plot: {plot} is the file of --out: give another name")
        if Path(plot).suffix.lower() not in PICTURES:
            raise refuse(f"--plot: expected a name that ends in {', '.join(PICTURES)}, got {plot}")
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise refuse(f"--plot needs matplotlib: {how_to_install('plot')}") from None


def _check_backend(backend: str | None) -> None:
    if backend is not None:
        name, _, device = backend.partition(":")
        try:
            with use_backend(name, device=device or None):
                pass
        except ValueError as error:
            raise refuse(f"--backend: {error}") from None


def _check_learnable(frame: Any, target: str) -> None:
    """Raise if the rows left to train have equal targets."""
    if len(np.unique(frame[target].to_numpy())) < 2:
        raise refuse(
            f"expected at least two different {target!r} in the {counted(len(frame), 'row')} to "
            "train with, got one: give more rows, or another --seed or --test"
        )


def _known(validation: Any, frame: Any, target: str, task: str) -> Any:
    """Return the rows whose class is trained; None if there are none."""
    if task == "classification":
        validation = validation[validation[target].isin(frame[target].unique())]
    return validation if len(validation) else None


def _estimator(task: str, **parameters: Any) -> Any:
    from ..estimators import MLPClassifier, MLPRegressor

    kind = MLPClassifier if task == "classification" else MLPRegressor
    return kind(n_iter_no_change=PATIENCE, verbose=True, **parameters)


def _fit(
    frame: Any, target: str, estimator: Any, kinds: dict[str, str], validation: Any, epochs: int
) -> TableModel:
    """Return the model that is fitted; its warnings become notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with progress.shown(epochs):
                model = TableModel.fit(frame, target, estimator, kinds=kinds, validation=validation)
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            raise refuse(f"the fit failed: {error}") from None
    estimator.set_params(verbose=False)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        if "Maximum iterations" in message:
            after = counted(epochs, "epoch")
            message = f"the loss was still falling after {after}: more --epochs may help"
        note(message)
    return model


def _write(model: TableModel, out: str, plot: str | None) -> None:
    """Write the model and the picture, each whole or not at all."""
    try:
        buffers = to_buffers(model, state=False)
    except ModelFileError as error:
        raise refuse(f"{out}: {error}") from None
    picture = None if plot is None else _picture(model, Path(plot).suffix.lower())
    write_file(out, buffers)
    if plot is not None and picture is not None:
        write_file(plot, [picture])
        click.echo(f"wrote the training curve to {plot}")


def _picture(model: TableModel, suffix: str) -> bytes:
    """Return the picture of a training curve, in the format of a suffix."""
    from .. import plots

    estimator = model.estimator
    scores = estimator.validation_scores_
    figure, axes = plots.stacked(2 if scores else 1)
    plots.curves({"training": estimator.loss_curve_}, title=model.target, ax=axes[0])
    if scores:
        name = "accuracy" if hasattr(estimator, "classes_") else "R2"
        plots.curves({"validation": scores}, ylabel=f"validation {name}", ax=axes[1])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"curve{suffix}")
        figure.savefig(path, dpi=120)
        return Path(path).read_bytes()


def _say_plan(
    frame: Any,
    held_out: Any,
    validation: Any,
    target: str,
    task: str,
    given: str | None,
    kinds: dict[str, str],
) -> None:
    count = len(set(frame[target]))
    what = counted(count, "class", "classes") if task == "classification" else "numbers"
    other = "regression" if task == "classification" else "classification"
    if given is None and are_numbers({"0", *map(str, frame[target].unique())}):  # no truth values
        what += f" (--task {other} if that is not meant)"
    click.echo(f"{task} of {target!r}: {what}")
    click.echo(f"{counted(len(kinds), 'column')}: {columns_text(''.join(kinds.values()))}")
    parts = [counted(len(frame), "row") + " to train"]
    parts += [f"{len(validation):,} to stop in time"] if validation is not None else []
    parts += [f"{len(held_out):,} to test"] if held_out is not None else []
    click.echo(", ".join(parts))


def _say_next(data: str, out: str) -> None:
    file, new = shlex.quote(out), shlex.quote(f"new{Path(data).suffix}")
    click.echo(f"wrote {out}; to go on:")
    click.echo(f"  portnet predict {file} {new} --out predictions.csv")
    click.echo(f"  portnet export {file} {shlex.quote(str(Path(out).with_suffix('.onnx')))}")
    click.echo(f"  portnet show {file}")
