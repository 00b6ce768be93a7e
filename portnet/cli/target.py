"""Target: the column that is predicted, its task, and the rows that train and test."""

from typing import Any

import numpy as np

from ..tables.columns import TableError, canonical, kind_of, missing_columns
from .errors import note, refuse

__all__ = ["check_target", "split", "task_of"]

LEAST_ROWS = 10
CLASS_LIMIT = 1000
FEW_NUMBERS = 20  # as many different whole numbers are classes


def check_target(frame: Any, target: str, path: str, task: str | None) -> tuple[Any, str]:
    """Return the rows that have a target, with the target as labels or float64, and the task.

    Raises ClickException for a target that is not there, or from which nothing is learned.
    """
    import pandas

    wrong = missing_columns(list(frame.columns), [target])
    if wrong:
        raise refuse(f"{path}: {wrong}")
    has = frame[target].notna()
    if not has.all():
        note(f"{(~has).sum():,} of {len(has):,} rows have no {target!r}: they are left out")
        frame = frame[has]  # the labels of the rows stay: errors name them
    if len(frame) < LEAST_ROWS:
        raise refuse(
            f"{path}: expected at least {LEAST_ROWS} rows with a {target!r}, got {len(frame)}"
        )
    try:
        kind = kind_of(frame[target])
        chosen = task_of(frame[target], kind) if task is None else task
        if chosen == "classification":
            labels = _labels(frame[target], kind)
        else:
            labels = canonical(frame[[target]], [target], "n")[target].to_numpy()
    except TableError as error:
        raise refuse(f"{path}: the target: {error}") from None
    different = len(np.unique(labels))
    if different < 2:
        only = "class" if chosen == "classification" else "value"
        raise refuse(
            f"{path}: expected at least two {only}{'es' if only == 'class' else 's'} in the target "
            f"{target!r}, got one, {labels.tolist()[0]!r:.60}: there is nothing to learn"
        )
    if chosen == "classification" and (
        different > CLASS_LIMIT or (different > FEW_NUMBERS and 2 * different > len(labels))
    ):
        raise refuse(
            f"{path}: expected classes in the target {target!r}, got {different:,} different "
            f"values in {len(labels):,} rows (at most {CLASS_LIMIT:,} classes)"
            + (": give --task regression" if kind == "n" else "")
        )
    column = pandas.Series(labels, name=target, index=frame.index)
    return pandas.concat([frame.drop(columns=target), column], axis=1), chosen


def task_of(values: Any, kind: str) -> str:
    """Return "classification" for text, truth values and a few whole numbers, else "regression"."""
    if kind != "n":
        return "classification"
    numbers = canonical(values.to_frame(), [values.name], "n")[values.name]
    if numbers.nunique() == 2:
        return "classification"
    whole = bool((numbers == numbers.round()).all())
    few = numbers.nunique() <= FEW_NUMBERS and 2 * numbers.nunique() <= len(numbers)
    return "classification" if whole and few else "regression"


def _labels(values: Any, kind: str) -> Any:
    """Return labels as text, truth values, whole numbers or float64."""
    if kind == "t":
        return canonical(values.to_frame(), [values.name], "t")[values.name].to_numpy().astype(str)
    if kind == "d":
        raise TableError(f"expected classes or numbers in {values.name!r}, got dates")
    numbers = canonical(values.to_frame(), [values.name], "n")[values.name].to_numpy()
    if all(isinstance(v, bool | np.bool_) for v in values):
        return numbers.astype(bool)
    if (numbers == np.round(numbers)).all() and np.abs(numbers).max() < 1 << 53:
        return numbers.astype(np.int64)
    return numbers


def split(frame: Any, target: str, task: str, part: float, seed: int) -> tuple[Any, Any]:
    """Return the other rows and a part of the rows of a frame, of each class the same share.

    Where a class has only one row, or the part less rows than there are classes, the rows are drawn
    without regard to classes.
    """
    from sklearn.model_selection import train_test_split

    rows = max(1, round(part * len(frame)))
    counts = frame[target].value_counts() if task == "classification" else None
    fits = counts is not None and counts.min() > 1 and min(rows, len(frame) - rows) >= len(counts)
    stratify = frame[target] if fits else None
    first, second = train_test_split(frame, test_size=rows, random_state=seed, stratify=stratify)
    return first, second
