"""Missing values: the texts that stand for them in files, such as ? and NA."""

from collections import Counter
from typing import Any

__all__ = ["MARKS", "TEXT_DTYPES", "WORDS", "is_missing_number", "marks_of", "stripped"]

# What pandas reads as missing in every column of a CSV file.
_PANDAS = (
    "#N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a nan null"
)
WORDS = frozenset(["", "#N/A N/A", *_PANDAS.split()])
# Missing among numbers and dates only: a text column may have - as one of its texts.
MARKS = frozenset(["?", "-", "--", "."])
TEXT_DTYPES = "str", "string"  # pandas' own, besides objects
_AMONG_NUMBERS = MARKS | {word.lower() for word in WORDS}


def stripped(values: Any) -> Any:
    """Return a pandas column (rows,) of any values whose texts have no blanks around them."""
    if str(values.dtype) in TEXT_DTYPES:
        return values.str.strip()
    if values.dtype != object:
        return values
    return values.map(lambda value: value.strip() if isinstance(value, str) else value)


def is_missing_number(text: str) -> bool:
    """Tell whether a text stands for a missing value in a column of numbers or dates.

    Examples
    --------
    >>> [is_missing_number(text) for text in ("?", " na ", "-", "-1", "no")]
    [True, True, True, False, False]
    """
    return text.strip().lower() in _AMONG_NUMBERS


def marks_of(values: Any) -> Counter[str]:
    """Return how often each text that stands for a missing number is in a column (rows,).

    Empty texts do not count. A column of another dtype than text has none.
    """
    if values.dtype != object and str(values.dtype) not in TEXT_DTYPES:
        return Counter()
    found: Counter[str] = Counter()
    for text, count in values.value_counts().items():
        if isinstance(text, str) and text.strip() and is_missing_number(text):
            found[text.strip()] += int(count)
    return found
