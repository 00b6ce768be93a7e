"""Notes: which columns of a table are used, and what is said of those that are not."""

from typing import Any

from ..tables.columns import TableError, kind_of
from ..tables.transformers import CATEGORY_LIMIT
from .errors import note, refuse

__all__ = ["kinds_of"]

FEW = 20  # rows; below, each of a few texts may be different by chance
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
        return f"all its values are {given.iloc[0]!r:.40}"
    if kind == "t" and different > FEW and 2 * different > len(given):
        why = f"{different:,} different texts in {len(values):,} rows, as identifiers have"
        if given.iloc[:100].astype(str).str.match(OTHER_DATE).all():
            why += "; if they are dates, write them as 2024-03-31"
        return why
    return ""


def _hint(values: Any, kind: str) -> None:
    """Say what may not be meant."""
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
