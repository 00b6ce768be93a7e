"""Notes: which columns of a table are used, and what is said of those that are not."""

from collections import Counter
from typing import Any

import numpy as np

from .._validation import counted
from ..tables.columns import TableError, are_numbers, kind_of
from ..tables.missing import MARKS, is_missing_number, marks_of
from ..tables.transformers import CATEGORY_LIMIT
from .errors import note, refuse

__all__ = ["kinds_of", "say_missing"]

FEW = 20  # rows; below, each of a few texts may be different by chance
OTHER_NUMBER = r"\s*[$€£¥]?\s*[+-]?\d{1,3}(?:[,'\s]\d{3})*(?:[.,]\d+)?\s*[%$€£¥]?\s*$"
OTHER_DATE = r"\s*\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b"


def kinds_of(frame: Any, target: str) -> dict[str, str]:
    """Return the kinds of the columns of a frame that are used, by name; say what is left out.

    Raises ClickException if no column is left, and for values of no kind.
    """
    kinds: dict[str, str] = {}
    for name in frame.columns:
        if name == target:
            continue
        values = frame[name]
        try:
            kind = kind_of(values)
        except TableError as error:
            raise refuse(f"{error}: --drop {_quoted(str(name))}") from None
        why = _why_not(values, kind)
        if why:
            note(f"column {name!r} is left out: {why}")
        else:
            kinds[str(name)] = kind
            _hint(values, kind)
    if not kinds:
        raise refuse(f"expected columns from which {target!r} can be learned, got none")
    return kinds


def _why_not(values: Any, kind: str) -> str:
    """Return why a column is of no use, or ""."""
    if not kind:
        return "it has no values"
    given = values.dropna()
    different = given.nunique()
    if different == 1 and len(given) == len(values):
        value = given.iloc[0]
        value = value.item() if hasattr(value, "item") else value  # 1, not np.int64(1)
        return f"all its values are {value!r:.40}"
    if kind == "t" and different > FEW and 2 * different > len(given):
        why = f"{different:,} different texts in {counted(len(values), 'row')}, as identifiers have"
        if given.iloc[:100].astype(str).str.match(OTHER_DATE).all():
            why += "; if they are dates, write them as 2024-03-31"
        elif given.iloc[:100].astype(str).str.match(OTHER_NUMBER).all():
            why += "; if they are numbers, write them as 1234.5"
        no_number = _no_number(values)
        return f"{why}; {no_number}" if no_number else why
    return ""


def say_missing(values: Any, kind: str) -> None:
    """Say which texts of a column stand for missing values, or may do so."""
    marks = marks_of(values)
    if kind == "t":
        marks = Counter({text: count for text, count in marks.items() if text in MARKS})
    if not marks:
        return
    shown = ", ".join(f"{text!r} in {counted(n, 'row')}" for text, n in marks.most_common(3))
    means = "kept as one of its texts" if kind == "t" else "taken as missing"
    note(f"column {values.name!r} has {shown}: {means}")


def _no_number(values: Any) -> str:
    """Return which value makes a column text where most are numbers, or ""."""
    given = values.dropna().map(str)
    if 2 * sum(map(_is_number, given.iloc[:100])) < min(len(given), 100):
        return ""  # quickly, for most columns
    numbers = given.map(_is_number).to_numpy()
    if numbers.all() or 2 * numbers.sum() < len(numbers):
        return ""
    at = int(np.argmin(numbers))
    return f"{given.iloc[at]!r:.40} in row {given.index[at] + 1} is no number, as most others are"


def _is_number(text: str) -> bool:
    return text.isdecimal() or are_numbers({"0", text}) or is_missing_number(text)


def _hint(values: Any, kind: str) -> None:
    """Say what may not be meant."""
    say_missing(values, kind)
    if kind == "t" and (no_number := _no_number(values)):
        note(f"column {values.name!r} is taken as text: {no_number}")
    if kind == "t" and (different := values.nunique()) > CATEGORY_LIMIT:
        note(
            f"column {values.name!r} has {different:,} different texts: the {CATEGORY_LIMIT} most "
            "frequent are used, the others count as unknown"
        )
    if kind == "d" and not str(values.dtype).startswith("datetime"):
        note(f"column {values.name!r} has dates: days since 1970-01-01 are used")
    if kind == "n" and str(values.dtype).lower().startswith(("int", "uint")) and _counts(values):
        note(
            f"column {values.name!r} counts the rows; if it is no feature, leave it out: --drop "
            f"{_quoted(str(values.name))}"
        )


def _counts(values: Any) -> bool:
    """Tell whether whole numbers rise from row to row, with few gaps."""
    rising = values.is_monotonic_increasing and values.is_unique and len(values) > FEW
    return bool(rising and int(values.iloc[-1]) - int(values.iloc[0]) < 2 * len(values))


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)
