"""Labels: the values of a target column as classes, exactly as they are."""

from typing import Any

import numpy as np

from .columns import TableError, canonical, kind_of

__all__ = ["check_given", "exact_numbers", "labels_like", "labels_of"]


def exact_numbers(values: Any) -> Any:
    """Return a column of numbers (rows,) without missing ones, whole ones with every digit.

    int64 or uint64; objects of Python for larger whole numbers; else float64.
    """
    import pandas

    if pandas.api.types.is_integer_dtype(values.dtype):
        unsigned = values.dtype.name.lower().startswith("uint")
        return values.to_numpy(np.uint64 if unsigned else np.int64)
    if all(isinstance(v, bool | np.bool_) for v in values):
        return _column(values, "n").to_numpy()
    given = values.to_numpy()
    if given.dtype == object and all(_is_whole(v) for v in given):
        given = [int(v) for v in given]
        low, high = min(given), max(given)
        if low >= -(1 << 63) and high < 1 << 63:
            return np.array(given, np.int64)
        return np.array(given, np.uint64 if low >= 0 and high < 1 << 64 else object)
    return _column(values, "n").to_numpy()


def _column(values: Any, kind: str) -> Any:
    """Return a column as `canonical` makes it for a kind."""
    name = "" if values.name is None else values.name
    return canonical(values.to_frame(name), [name], kind)[name]


def _is_whole(value: Any) -> bool:
    """Tell whether a value is an integer or a whole Decimal; a float may have lost digits."""
    if isinstance(value, int | np.integer):
        return True
    as_integer = getattr(value, "to_integral_value", None)
    return as_integer is not None and value.is_finite() and value == as_integer()


def labels_of(values: Any) -> Any:
    """Return a column (rows,) without missing values as labels.

    Truth values, whole numbers of 64 bits, or else text: also for numbers such as 0.5, which
    scikit-learn takes for those of a regression. Raises TableError for dates.

    Examples
    --------
    >>> import pandas
    >>> labels_of(pandas.Series([1.0, 2.0]))
    array([1, 2])
    >>> labels_of(pandas.Series([0.5, 2.0]))
    array(['0.5', '2'], dtype='<U3')
    """
    kind = kind_of(values)
    if kind == "d":
        raise TableError(f"expected classes or numbers in {values.name!r}, got dates")
    if kind == "n":
        numbers = exact_numbers(values)
        if all(isinstance(v, bool | np.bool_) for v in values):
            return numbers.astype(bool)
        if numbers.dtype.kind in "iu":
            return numbers
        if numbers.dtype != object and (np.abs(numbers) < 1 << 53).all():
            whole = numbers.astype(np.int64)
            if (numbers == whole).all():
                return whole
    return _column(values, "t").to_numpy().astype(str)


def check_given(values: Any) -> None:
    """Raise TableError for a missing value in a column (rows,)."""
    if (missing := values.isna().to_numpy()).any():
        raise TableError(
            f"expected a {values.name!r} in each row, got none in row {int(missing.argmax()) + 1}: "
            "leave such rows out"
        )


def labels_like(values: Any, classes: Any) -> Any:
    """Return a column (rows,) as labels that can be compared with classes (classes,).

    Raises TableError for missing values, and where no value is one of the classes.
    """
    text = classes.dtype.kind in "OU"
    column = _column(values, "t" if text else "n")
    check_given(column)
    found = exact_numbers(values) if not text and kind_of(values) == "n" else column.to_numpy()
    if not np.isin(found, classes).any():
        as_text = text and kind_of(values) != "t"
        raise TableError(
            f"expected some of the classes {classes.tolist()[:3]!r:.60} in {values.name!r}, got "
            f"{found.tolist()[0]!r:.40} in row 1 and none of them elsewhere"
            + ": read the column as text, for instance with dtype=str"
            * as_text
        )
    return found
