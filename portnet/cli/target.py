"""Target: the column that is predicted, its task, and the rows that train and test."""

from collections import Counter
from typing import Any

import numpy as np

from .._validation import counted
from ..tables.columns import TableError, are_numbers, canonical, kind_of, missing_columns
from ..tables.labels import exact_numbers, labels_of
from ..tables.missing import WORDS, is_missing_number, stripped
from .errors import note, refuse
from .read import hint_of

__all__ = ["check_target", "split", "task_of"]

LEAST_ROWS = 10
CLASS_LIMIT = 1000
FEW_NUMBERS = 20  # as many different whole numbers are classes
EXACT = 1 << 53  # float64 has all whole numbers up to here


def check_target(
    frame: Any, target: str, path: str, task: str | None, *, written: bool = False
) -> tuple[Any, str]:
    """Return the rows that have a target, with the target as labels or float64, and the task.

    Parameters
    ----------
    frame : data frame (rows, columns)
    target, path : str
        The name of the column, and of the file for errors.
    task : "classification", "regression" or None
        None for what the values suggest.
    written : bool
        Whether the target is as it is written in a CSV file, so that text of digits is numbers.

    Raises ClickException for a target that is not there, or from which nothing is learned.
    """
    import pandas

    wrong = missing_columns(list(frame.columns), [target])
    if wrong:
        raise refuse(f"{path}: {wrong}{hint_of(list(frame.columns))}")
    values = stripped(_plain(frame[target]))
    has = ~_missing(values, written or task == "regression")
    if not has.all():
        _say_missing(values[~has], len(frame))
        frame, values = frame[has], values[has]  # the labels of the rows stay: errors name them
    if len(frame) < LEAST_ROWS:
        raise refuse(
            f"{path}: expected at least {counted(LEAST_ROWS, 'row')} with a {target!r}, got "
            f"{len(frame)}"
        )
    try:
        values = _parsed(values) if written else values
        kind = kind_of(values)
        chosen = task_of(values, kind) if task is None else task
        if chosen == "classification":
            labels = labels_of(values)
        else:
            labels = canonical(values.to_frame(), [target], "n")[target].to_numpy()
            _say_rounded(values, kind)
    except TableError as error:
        why = str(error).removesuffix(": leave it out")
        raise refuse(f"{path}: the target: {why}") from None
    _check_labels(labels, chosen, path, target, kind)
    column = pandas.Series(labels, name=target, index=frame.index)
    return pandas.concat([frame.drop(columns=target), column], axis=1), chosen


def _plain(values: Any) -> Any:
    """Return a column of categories as one of their values."""
    if hasattr(values.dtype, "categories"):
        return values.astype(object)
    return values


def _missing(values: Any, numbers: bool) -> Any:
    """Tell which rows of a target have no value (rows,).

    A text is missing if it is "?" or a word such as "NA"; "-" is, unless "+" is a class, too, or
    only one class would be left. If `numbers`, more texts are missing where the rest is numbers.
    """
    missing = values.isna()
    texts = {value for value in values if isinstance(value, str)}
    if not texts:
        return missing
    if numbers and are_numbers({text for text in texts if not is_missing_number(text)}):
        return missing | values.map(lambda v: isinstance(v, str) and is_missing_number(v))
    none = WORDS | {"?"}
    rest = texts - none - {"-"}
    if "-" in texts and ("+" in rest or len(rest) < 2):
        note(f"the target {values.name!r} has '-' as a class")
    else:
        none |= {"-"}
    return missing | values.isin(none)


def _say_missing(values: Any, rows: int) -> None:
    """Say how many rows have no target, and which texts stand for that."""
    count, texts = len(values), Counter(v for v in values if isinstance(v, str) and v)
    shown = ", ".join(f"{text!r} in {n:,}" for text, n in texts.most_common(3))
    note(
        f"{count:,} of {counted(rows, 'row')} {'has' if count == 1 else 'have'} no "
        f"{values.name!r}{f' ({shown})' * bool(shown)}: {'it is' if count == 1 else 'they are'} "
        "left out"
    )


def _parsed(values: Any) -> Any:
    """Return texts of a CSV file (rows,) as numbers or truth values, if all are, else as texts."""
    import pandas

    texts = list(values)
    if not are_numbers(set(texts)):
        return values
    if texts[0].lower() in ("true", "false"):
        found: Any = [text.lower() == "true" for text in texts]
    elif all(text.lstrip("+-").isdecimal() for text in texts):
        found = [int(text) for text in texts]
    else:
        found = [float(text) for text in texts]
    dtype = float if isinstance(found[0], float) else object
    return pandas.Series(found, index=values.index, name=values.name, dtype=dtype)


def _say_rounded(values: Any, kind: str) -> None:
    """Say that whole numbers lose digits as float64."""
    numbers = exact_numbers(values) if kind == "n" else np.zeros(1)
    if numbers.dtype.kind in "iuO" and max(map(abs, numbers.tolist())) > EXACT:
        note(
            f"the target {values.name!r} has whole numbers above 2**53, which are rounded; if they "
            "are identifiers, nothing can be learned from them"
        )


def _check_labels(labels: Any, task: str, path: str, target: str, kind: str) -> None:
    """Raise for a target with one value only, or with too many classes."""
    different = len(np.unique(labels))
    if different < 2:
        only = "class" if task == "classification" else "value"
        raise refuse(
            f"{path}: expected at least two {only}{'es' if only == 'class' else 's'} in the target "
            f"{target!r}, got one, {labels.tolist()[0]!r:.60}: there is nothing to learn"
        )
    if task == "classification" and (
        different > CLASS_LIMIT or (different > FEW_NUMBERS and 2 * different > len(labels))
    ):
        numbers = kind == "n" or are_numbers(set(map(str, labels.tolist())))
        raise refuse(
            f"{path}: expected classes in the target {target!r}, got {different:,} different "
            f"values in {counted(len(labels), 'row')} (at most {CLASS_LIMIT:,} classes)"
            + ": give --task regression"
            * numbers
        )


def task_of(values: Any, kind: str) -> str:
    """Return "classification" for text, truth values and a few whole numbers, else "regression"."""
    if kind != "n":
        return "classification"
    numbers = exact_numbers(values)
    different = len(np.unique(numbers))
    if different == 2:
        return "classification"
    whole = numbers.dtype.kind in "iuO" or bool((numbers == np.round(numbers)).all())
    few = different <= FEW_NUMBERS and 2 * different <= len(numbers)
    return "classification" if whole and few else "regression"


def split(frame: Any, target: str, task: str, part: float, seed: int) -> tuple[Any, Any]:
    """Return the other rows and a part of the rows of a frame, of each class the same share.

    Where a class has only one row, or the part less rows than there are classes, the rows are drawn
    without regard to classes.
    """
    from sklearn.model_selection import train_test_split

    rows = min(max(1, round(part * len(frame))), len(frame) - 1)
    counts = frame[target].value_counts() if task == "classification" else None
    fits = counts is not None and counts.min() > 1 and min(rows, len(frame) - rows) >= len(counts)
    stratify = frame[target] if fits else None
    first, second = train_test_split(frame, test_size=rows, random_state=seed, stratify=stratify)
    return first, second
