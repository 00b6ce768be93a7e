"""The command ``predict``: the predictions of a model for the rows of a file."""

import io
import os
from typing import Any

import click
import numpy as np

from .. import load
from .._validation import counted
from ..files.atomic import check_writable, write_file
from ..tables import TableError, TableModel
from ..tables.columns import canonical
from .errors import FILE, note, refuse
from .notes import say_missing
from .read import encoding_option, read_table

__all__ = ["predict"]


@click.command()
@click.argument("model", type=FILE)
@click.argument("data", type=FILE)
@click.option(
    "--out", type=FILE, help="The file of the predictions, CSV; by default they are printed."
)
@click.option("--proba", is_flag=True, help="Also the probability of each class.")
@encoding_option
def predict(model: str, data: str, out: str | None, proba: bool, encoding: str) -> None:
    """Predict the target of a MODEL that train wrote, for each row of DATA, CSV or Parquet.

    Columns are found by their names, in any order; others are ignored.
    """
    if out is not None:
        for path in (model, data):
            if os.path.exists(out) and os.path.exists(path) and os.path.samefile(out, path):
                raise refuse(f"{out}: it would be lost: give another name")
        check_writable(out)
    loaded = load_table(model)
    if proba and loaded.classes_ is None:
        raise refuse(f"--proba: {model} predicts a number, {loaded.target!r}, without classes")
    kinds = dict(zip(loaded.columns, loaded.kinds, strict=True))
    texts = [name for name, kind in kinds.items() if kind == "t"]
    frame = read_table(data, encoding=encoding, texts=texts)
    try:
        answers = _answers(loaded, frame, proba)
    except TableError as error:
        raise refuse(f"{data}: {error}") from None
    _say_unknown(loaded, frame)
    text = io.StringIO()
    answers.to_csv(text, index=False, lineterminator="\n")
    if out is None:
        click.echo(text.getvalue(), nl=False)
    else:
        write_file(out, [text.getvalue().encode()])
        click.echo(f"wrote {counted(len(answers), 'prediction')} of {loaded.target!r} to {out}")


def load_table(path: str) -> TableModel:
    """Return the model of a file that ``train`` wrote, on NumPy."""
    loaded = load(path, backend="numpy")
    if not isinstance(loaded, TableModel):
        raise refuse(
            f"{path}: expected a model that portnet train wrote, got a "
            f"{type(loaded).__name__}: portnet.load returns it in Python"
        )
    return loaded


def _answers(model: TableModel, frame: Any, proba: bool) -> Any:
    """Return a frame with the prediction of each row and, if wanted, the probabilities."""
    import pandas

    columns = {model.target: model.predict(frame)}
    if proba and model.classes_ is not None:
        each = model.predict_proba(frame)
        names = [f"P({name})" for name in model.classes_]
        columns |= dict(zip(names, each.T, strict=True))
    return pandas.DataFrame(columns)


def _say_unknown(model: TableModel, frame: Any) -> None:
    """Say how many texts were not there in training, and which columns are ignored."""
    others = [name for name in frame.columns if name not in (*model.columns, model.target)]
    if others:
        shown = ", ".join(map(repr, others[:3])) + f" and {len(others) - 3:,} more" * (
            len(others) > 3
        )
        several = len(others) > 1
        note(f"the column{'s' * several} {shown} {'are' if several else 'is'} ignored")
    for name, kind in zip(model.columns, model.kinds, strict=True):
        if kind != "t":
            say_missing(frame[name], kind)
    known = model.transformer.named_transformers_.get("texts")
    if known is None:
        return
    texts = [n for n, kind in zip(model.columns, model.kinds, strict=True) if kind == "t"]
    for name, categories in zip(texts, known.steps[-1][1].categories_, strict=True):
        given = canonical(frame, [name], "t")[name].dropna()
        unknown = int(np.count_nonzero(~given.isin(set(categories))))
        if unknown:
            rows = counted(unknown, "row")
            note(f"column {name!r} has unknown text in {rows}, which training did not have")
