"""Reading: CSV and Parquet files as pandas frames; what is no table is an error of one line.

The first line of a CSV file is read before pandas reads the file, for its separator, its names and
their number: a line of a million names would take pandas minutes.
"""

import codecs
import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from typing import IO, Any

import click

from .._validation import counted
from ..tables.columns import COLUMN_LIMIT, are_numbers, kind_of
from ..tables.missing import WORDS, is_missing_number, stripped
from .errors import note, refuse

__all__ = ["encoding_option", "hint_of", "is_parquet", "read_table"]

HEADER_LIMIT = 1 << 24  # characters of the line of names
SEPARATORS = ",;\t|"
_SAMPLE = 1 << 16  # bytes that show whether a file is text
KINDS_OF_FILES = {
    b"PK\x03\x04": "an archive, or a spreadsheet such as .xlsx: save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet such as .xls: save the sheet as CSV",
    b"\x1f\x8b": "compressed by gzip: decompress it",
    b"BZh": "compressed by bzip2: decompress it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: decompress it",
    b"\x89PNG": "a picture",
    b"%PDF": "a PDF",
    b"ARROW1": "a Feather file: save it as Parquet or CSV",
}


def _encoding(context: click.Context, parameter: click.Parameter, given: str) -> str:
    """Return the usual name of an encoding."""
    try:
        "a".encode(given)  # LookupError for a codec that is not of text, such as base64
        return codecs.lookup(given).name
    except (LookupError, ValueError):
        raise click.BadParameter(f"expected an encoding such as utf-8, got {given!r}") from None


encoding_option = click.option(
    "--encoding", default="utf-8", show_default=True, callback=_encoding, help="Of a CSV file."
)


def is_parquet(path: str) -> bool:
    """Tell whether a file begins as those of Parquet do; OSError if it cannot be read."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise refuse(f"{path}: expected a CSV or Parquet file, got a folder or a device")
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def read_table(
    path: str,
    *,
    encoding: str = "utf-8",
    texts: Collection[str] = (),
    drop: Collection[str] = (),
    target: str = "",
) -> Any:
    """Return the frame (rows, columns) of a CSV or Parquet file.

    Parameters
    ----------
    path : str
        A regular file. What it is depends on its content, not on its name.
    encoding : str
        Of a CSV file.
    texts : names
        Columns that are text whatever is in them: "007" is not 7 there.
    drop : names
        Columns that are left out; each must be there.
    target : str
        A column of which nothing is lost: of a CSV file it is returned as it is written, "" where
        it is empty.

    Raises ClickException for files that are no table, or have none of the rows.
    """
    if is_parquet(path):
        frame = _parquet(path, drop, target)
    else:
        frame = _csv(path, encoding, set(texts), drop, target)
    if not len(frame):
        raise refuse(f"{path}: expected rows below the names of the columns, got none")
    return frame


def _check_names(path: str, names: list[str], drop: Collection[str]) -> None:
    """Raise for names that are there twice, too many, or not there although they are to be left."""
    if len(names) > COLUMN_LIMIT:
        raise refuse(
            f"{path}: expected at most {COLUMN_LIMIT:,} columns, got {len(names):,}: write those "
            "that matter to another file"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        at = [i + 1 for i, name in enumerate(names) if name == twice[0]]
        raise refuse(
            f"{path}: expected different names of columns, got {twice[0]!r} in the columns "
            f"{', '.join(map(str, at))}{hint_of(names) or ': rename them'}"
        )
    for name in drop:
        if name not in names:
            raise refuse(f"{path}: --drop: there is no column {name!r}")


def hint_of(names: list[str]) -> str:
    """Return what may be wrong with a file whose columns have not the names that are needed."""
    if 2 * sum(are_numbers([name]) for name in names) > len(names):
        return ": the first line must have the names of the columns"
    if len(names) == 1 and len(names[0].split()) > 1:
        return ": columns are separated by a comma, semicolon, tab or |"
    return ""


# Parquet ----------------------------------------------------------------------------------------


def _parquet(path: str, drop: Collection[str], target: str) -> Any:
    import pandas

    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise refuse(f"{path}: Parquet files need pyarrow: pip install pyarrow") from None
    try:
        names = [str(name) for name in parquet.read_schema(path).names]
        _check_names(path, names, drop)
        kept = [name for name in names if name not in drop]
        frame = pandas.read_parquet(path, engine="pyarrow", columns=kept)
        # What pandas had as an index with a name is a column.
        frame = frame.reset_index(level=[name for name in frame.index.names if name in kept])
        exact = None
        if target in kept and pandas.api.types.is_float_dtype(frame[target].dtype):
            column = parquet.read_table(path, columns=[target]).column(target)
            exact = column.to_pandas(integer_object_nulls=True)  # floats have no large integers
    except (ArrowException, OSError, ValueError) as error:
        raise refuse(f"{path}: a damaged Parquet file: {error}") from None
    frame.columns = [str(name) for name in frame.columns]
    if exact is not None:
        frame[target] = exact.to_numpy()
    return frame.reset_index(drop=True)


# CSV --------------------------------------------------------------------------------------------


def _csv(path: str, encoding: str, texts: set[str], drop: Collection[str], target: str) -> Any:
    import pandas

    _check_text(path, encoding)
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # also without the mark
    try:
        separator, names = _header(path, encoding)
        unnamed = [f"column {i + 1}" for i, name in enumerate(names) if not name]
        _check_names(path, [name for name in names if name], drop)
        if unnamed:
            note(f"{', '.join(unnamed[:3])} of {path}: left out, without a name")
        keys = [name or f"\0{i}" for i, name in enumerate(names)]
        decimal = _decimal(path, encoding, separator)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            frame = pandas.read_csv(
                path,
                sep=separator,
                encoding=encoding,
                names=keys,
                header=0,
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
                decimal=decimal,
                dtype={name: "str" for name in names if name in texts},
                # With a sign in front, pandas takes no text for a missing value.
                converters={target: "={}".format} if target in names else None,
            )
    except UnicodeError:
        raise refuse(_not_decoded(path, encoding)) from None
    except (pandas.errors.ParserError, pandas.errors.ParserWarning, csv.Error) as error:
        text = str(error).replace("Error tokenizing data. C error: ", "")
        if "Length of header" in text:
            text = f"the first row has more than the {counted(len(names), 'value')} with a name"
        raise refuse(f"{path}: not as CSV is written: {text}") from None
    frame = frame.drop(columns=[key for key in keys if key[0] == "\0" or key in drop])
    if target in frame:
        frame[target] = frame[target].astype(object).map(lambda text: text[1:].strip())
    for name in frame.columns[[str(dtype) in ("str", "object") for dtype in frame.dtypes]]:
        frame[name] = _read_text(frame[name], decimal, name == target, name in texts)
    return frame


def _read_text(values: Any, decimal: str, target: bool, text: bool) -> Any:
    """Return a column that pandas has read as text, as it is meant.

    Numbers among texts such as "?" get a decimal point; in other columns a text has no blanks
    around it, and is missing if it is "NA" or a word of that kind.
    """
    if decimal == "," and not text:
        points = values.map(lambda v: v.replace(",", ".", 1) if isinstance(v, str) else v)
        given = {v.strip() for v in points.dropna().unique() if isinstance(v, str)}
        if are_numbers({v for v in given if not is_missing_number(v)}):
            return points
    if target or (not text and kind_of(values) != "t"):
        return values
    values = stripped(values)
    return values.mask(values.isin(WORDS))


def _check_text(path: str, encoding: str) -> None:
    """Raise for a file whose start is empty or no text."""
    with open(path, "rb") as file:
        start = file.read(_SAMPLE)
    if not start.strip():
        raise refuse(f"{path}: expected a CSV or Parquet file, got an empty file")
    for magic, what in KINDS_OF_FILES.items():
        if start.startswith(magic):
            raise refuse(f"{path}: expected a CSV or Parquet file, got {what}")
    if encoding.startswith(("utf-16", "utf-32")):
        return
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        name = "utf-32" if start.startswith(b"\xff\xfe\0\0") else "utf-16"
        raise refuse(f"{path}: not written in {encoding}: give --encoding {name}")
    if b"\0" in start:
        raise refuse(f"{path}: expected a CSV or Parquet file, got a binary file{_wide(start)}")


def _wide(start: bytes) -> str:
    """Return the encoding that the zeros among the bytes of Latin letters suggest, or ""."""
    for encoding, every in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        other = start[::2] if encoding == "utf-16-le" else start[1::2]
        if every.count(0) > 0.9 * len(every) and not other.count(0):
            return f", or text in UTF-16: give --encoding {encoding}"
    return ""


def _header(path: str, encoding: str) -> tuple[str, list[str]]:
    """Return the separator of a file and the names in its first line."""
    found: list[list[str]] = []
    for separator in SEPARATORS:
        with open(path, encoding=encoding, newline="") as file:
            records = csv.reader(_lines(path, file), delimiter=separator, skipinitialspace=True)
            try:
                names = next((r for r in records if len(r) > 1 or "".join(r).strip()), [])
            except csv.Error:  # a field of 100,000 characters: of another separator
                names = []
            found.append([name.strip() for name in names])
    best = max(found, key=len)  # the first of equal ones: the comma
    if not any(best):
        raise csv.Error(
            "its first line has no names of columns, or one of more than "
            f"{csv.field_size_limit():,} characters"
        )
    return SEPARATORS[found.index(best)], best


def _lines(path: str, file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file up to a number of characters: names may have line breaks."""
    room = HEADER_LIMIT
    while room > 0 and (line := file.readline(room)):
        room -= len(line)
        yield line
    if room <= 0:
        raise refuse(
            f"{path}: expected names of columns of at most {HEADER_LIMIT:,} characters in the "
            "first line"
        )


def _decimal(path: str, encoding: str, separator: str) -> str:
    """Return "," for a file with numbers such as 1,5, and none such as 1.5, else "."."""
    if separator == ",":
        return "."
    with open(path, encoding=encoding, newline="") as file:
        fields = re.split(rf"[{re.escape(separator)}\s\"]+", file.read(_SAMPLE))
    comma = any(re.fullmatch(r"[+-]?\d+,\d+", field) for field in fields)
    return "," if comma and not any(re.fullmatch(r"[+-]?\d+\.\d+", f) for f in fields) else "."


def _not_decoded(path: str, encoding: str) -> str:
    """Return the error of a file that is in another encoding, with its first such line."""
    name = encoding.removesuffix("-sig")
    where = ""
    if name in ("utf-8", "ascii"):
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode(name)
                except UnicodeDecodeError:
                    where = f" in line {number}"
                    break
    return (
        f"{path}: not written in {name}{where}: give its encoding, such as --encoding latin-1 or "
        "cp1252, or save it as UTF-8"
    )
