"""Columns: which are numbers, text or dates, and their values as float64 or text.

A kind is one letter: "n", numbers and truth values; "t", text; "d", dates, which become days since
1970-01-01 (UTC). Missing values are NaN in each kind; among numbers and dates, so are texts that
stand for them, such as "?" and "NA". Text has no blanks around it. Needs pandas.
"""

import difflib
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from .missing import TEXT_DTYPES, is_missing_number, stripped

__all__ = [
    "COLUMN_LIMIT",
    "DATE",
    "KINDS",
    "TableError",
    "are_numbers",
    "canonical",
    "columns_text",
    "kind_of",
    "missing_columns",
    "to_frame",
]

COLUMN_LIMIT = 20_000  # of a model
KINDS = {"n": "number", "t": "text", "d": "date"}
DATE = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}.*)?$"  # ISO 8601: no other order is certain
_TRUTH = {"true": 1.0, "false": 0.0}
# Without zeros in front, which only identifiers have.
NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|[+-]?inf(?:inity)?",
    re.ASCII | re.IGNORECASE,
)


class TableError(ValueError):
    """A table is not what was expected: a column is missing, or has values of another kind.

    Examples
    --------
    >>> raise TableError("expected a column 'age'")
    Traceback (most recent call last):
        ...
    portnet.tables.columns.TableError: expected a column 'age'
    """


def to_frame(X: Any) -> Any:
    """Return a frame of pandas or polars, or a dict of columns, as a pandas frame (rows, columns).

    Raises TypeError for arrays, whose columns have no names.
    """
    import pandas

    if isinstance(X, pandas.DataFrame):
        return X
    if hasattr(X, "columns") and hasattr(X, "get_column"):  # polars, without pyarrow
        return pandas.DataFrame({name: X.get_column(name).to_list() for name in X.columns})
    if isinstance(X, dict):
        return pandas.DataFrame(X)
    raise TypeError(f"expected a data frame, or a dict of columns, got {type(X).__name__}")


def kind_of(values: Any) -> str:
    """Return the kind of a pandas column (rows,): "n", "t", "d", or "" if all are missing.

    A column of text is of numbers if all its values are, except for some that stand for missing
    ones, such as "?": without these it would not be text. Text of digits alone stays text.

    Raises TableError for values that are of no kind, such as lists.
    """
    from pandas import api

    types = api.types
    given = values.dropna()
    if not len(given):
        return ""
    if hasattr(given.dtype, "categories"):
        given = given.astype(given.dtype.categories.dtype)
    if types.is_complex_dtype(given.dtype):
        raise TableError(f"column {values.name!r} has complex numbers: leave it out")
    if types.is_bool_dtype(given.dtype) or types.is_numeric_dtype(given.dtype):
        return "n"
    if types.is_datetime64_any_dtype(given.dtype):
        return "d"
    inferred = api.types.infer_dtype(given, skipna=True)
    if inferred in ("boolean", "integer", "floating", "mixed-integer-float", "decimal"):
        return "n"
    if inferred in ("date", "datetime", "datetime64"):
        return "d"
    if inferred == "string":
        return _kind_of_text(given)
    marks = given.map(lambda value: isinstance(value, str) and is_missing_number(value))
    if marks.any():  # among numbers, as spreadsheets have them
        return kind_of(given[~marks])
    kinds = sorted({type(value).__name__ for value in given.iloc[:1000]})
    raise TableError(
        f"column {values.name!r} has values of type {', '.join(kinds)}, expected numbers, text or "
        "dates: leave it out"
    )


def _kind_of_text(given: Any) -> str:
    """Return the kind of a column (rows,) of text without missing values."""
    texts = {text.strip() for text in given.iloc[:100]}
    texts = {text for text in texts if not is_missing_number(text)}
    if any(not _is_number(t) and not re.match(DATE, t) for t in texts):
        return "t"  # as most columns are
    texts = {text.strip() for text in given.unique()}
    rest = {text for text in texts if not is_missing_number(text)}
    if rest and all(re.match(DATE, text) for text in rest):
        return "d" if _dates(given[~_missing(given)]).notna().all() else "t"
    return "n" if len(rest) < len(texts) and are_numbers(rest) else "t"


def are_numbers(texts: Collection[str]) -> bool:
    """Tell whether texts are numbers, or truth values, and there is one.

    Examples
    --------
    >>> are_numbers(["1", "-2.5e3"]), are_numbers(["True", "false"]), are_numbers(["007"])
    (True, True, False)
    """
    numbers = sum(NUMBER.fullmatch(text) is not None for text in texts)
    truths = sum(text.lower() in _TRUTH for text in texts)
    return len(texts) > 0 and len(texts) in (numbers, truths)


def _is_number(text: str) -> bool:
    return are_numbers([text])


def columns_text(kinds: str) -> str:
    """Return how many columns there are of each kind.

    Examples
    --------
    >>> columns_text("ntt")
    '1 of numbers, 2 of text'
    """
    names = {"n": "numbers", "t": "text", "d": "dates"}
    return ", ".join(f"{kinds.count(k):,} of {name}" for k, name in names.items() if k in kinds)


def missing_columns(given: Sequence[str], needed: Sequence[str]) -> str:
    """Return what is wrong if needed columns are not among those that are given, else ""."""
    there = set(given)
    missing = [name for name in needed if name not in there]
    if not missing:
        return ""
    shown = ", ".join(map(repr, missing[:3])) + f" and {len(missing) - 3} more" * (len(missing) > 3)
    folded = {str(name).strip().casefold(): name for name in given}
    close = difflib.get_close_matches(missing[0].strip().casefold(), folded, 1)
    hint = f" (did you mean {folded[close[0]]!r}?)" if close else ""
    names = ", ".join(repr(name) for name in list(given)[:8])
    return (
        f"expected the column{'s' * (len(missing) > 1)} {shown}{hint}; there "
        f"{'is' if len(given) == 1 else 'are'} {len(given):,}: {names}{', ...' * (len(given) > 8)}"
    )


def canonical(X: Any, names: Sequence[str], kinds: str) -> Any:
    """Return the columns of a frame in the order of `names`: float64, and text as objects.

    Other columns are ignored. Raises TableError for missing columns and values of another kind.
    """
    import pandas

    frame = to_frame(X)
    wrong = missing_columns(list(frame.columns), names)
    if wrong:
        raise TableError(wrong)
    columns = {}
    for name, kind in zip(names, kinds, strict=True):
        values = frame[name]
        if values.ndim != 1:
            raise TableError(f"there are several columns {name!r}")
        columns[name] = _CONVERT[kind](values)
    return pandas.DataFrame(columns, index=frame.index)


def _numbers(values: Any) -> Any:
    """Return a column as float64; TableError for text and for infinity."""
    import pandas

    if pandas.api.types.is_datetime64_any_dtype(values.dtype):
        raise _wrong(values, values.notna(), "a number")
    if pandas.api.types.is_numeric_dtype(values.dtype):
        found = values.to_numpy(np.float64, na_value=np.nan)
    else:
        texts = values.astype(object).map(_number)
        parsed = pandas.to_numeric(texts.astype(object), errors="coerce")
        if (bad := parsed.isna() & texts.notna()).any():
            raise _wrong(values, bad, "a number")
        found = parsed.to_numpy(np.float64, na_value=np.nan)
    if (infinite := np.isinf(found)).any():
        raise _wrong(values, infinite, "a finite number")
    return found


def _number(value: Any) -> Any:
    """Return a value of a column of numbers: NaN for a text such as "?", 1 for "true"."""
    if not isinstance(value, str):
        return value
    return np.nan if is_missing_number(value) else _TRUTH.get(value.strip().lower(), value)


def _days(values: Any) -> Any:
    """Return a column of dates as days since 1970-01-01, float64."""
    import pandas

    if pandas.api.types.is_numeric_dtype(values.dtype) and values.notna().any():
        raise _wrong(values, values.notna(), "a date such as 2024-03-31")
    parsed = _dates(values)
    if (bad := parsed.isna() & ~_missing(values)).any():
        raise _wrong(values, bad, "a date such as 2024-03-31")
    epoch = pandas.Timestamp("1970-01-01", tz="UTC")
    return ((parsed - epoch) / pandas.Timedelta(days=1)).to_numpy(np.float64)


def _missing(values: Any) -> Any:
    """Tell which values of a column of dates are missing (rows,)."""
    marks = [isinstance(v, str) and is_missing_number(v) for v in values]
    return values.isna() | np.array(marks, bool)


def _dates(values: Any) -> Any:
    """Return a column as times of UTC, NaT for what is no date."""
    import pandas

    if pandas.api.types.is_datetime64_any_dtype(values.dtype):
        return pandas.to_datetime(values, utc=True)
    values = stripped(values.astype(object))
    # pandas reads "today", too.
    other = [isinstance(v, str) and not re.match(DATE, v) for v in values]
    given = values.mask(np.array(other, bool))
    return pandas.to_datetime(given, utc=True, format="ISO8601", errors="coerce")


def _texts(values: Any) -> Any:
    """Return a column as text without blanks around it, NaN where it is missing."""
    if str(values.dtype) in TEXT_DTYPES:  # faster
        return stripped(values).to_numpy(object, na_value=np.nan)
    plain = getattr(values.dtype, "kind", "") == "f"  # float32 0.1 is "0.1", not as float64
    found = np.array([_text(v) for v in (values.to_numpy() if plain else values)], object)
    found[values.isna().to_numpy()] = np.nan
    return found


def _text(value: Any) -> str:
    """Return a value as text: 1 and 1.0 are the same, as a column with missing values is float."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


_CONVERT = {"n": _numbers, "d": _days, "t": _texts}


def _wrong(values: Any, bad: Any, expected: str) -> TableError:
    at = int(np.argmax(np.asarray(bad)))
    label, value = values.index[at], values.iloc[at]
    row = label if isinstance(label, int | np.integer) else at  # as in the whole table
    value = value.item() if isinstance(value, np.generic) else value
    return TableError(
        f"column {values.name!r}: expected {expected}, got {value!r:.60} in row {row + 1}"
    )
