"""Description: the JSON that says what is in a file; its limits are checked before it is parsed.

A parser needs much time and memory for many values in little text, and its own limit of nesting
depends on the process.
"""

import json
from typing import Any

import numpy as np

from .container import outside_texts, refuse_constant, without_duplicates
from .errors import ModelFileError

__all__ = ["DEPTH_LIMIT", "SIZE_LIMIT", "VALUE_LIMIT", "check_description", "parse_description"]

SIZE_LIMIT = 1 << 19  # bytes; the names of many features or classes are tensors
VALUE_LIMIT = 30_000  # numbers, texts, lists and objects
DEPTH_LIMIT = 200  # of lists and objects in each other: 50 Chains


def check_description(text: str, more: int = 0) -> None:
    """Raise ValueError for a description above the limits, also with so many values more."""
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) > SIZE_LIMIT:
        raise ValueError(f"it has {len(raw):,} bytes, expected at most {SIZE_LIMIT:,}")
    outside = outside_texts(raw)
    opens = (outside == ord("{")) | (outside == ord("["))
    closes = (outside == ord("}")) | (outside == ord("]"))
    depth = np.cumsum(opens.view(np.int8) - closes.view(np.int8), dtype=np.int32)
    if depth.max(initial=0) > DEPTH_LIMIT:
        raise ValueError(f"it is nested deeper than {DEPTH_LIMIT}")
    # Each value is the first of a list or object, or stands behind a comma.
    firsts = 1 + np.count_nonzero(opens) - np.count_nonzero(opens[:-1] & closes[1:])
    values = firsts + np.count_nonzero(outside == ord(",")) + more
    if values > VALUE_LIMIT:
        raise ValueError(f"it has {values:,} values, expected at most {VALUE_LIMIT:,}")


def parse_description(text: str) -> Any:
    """Return a description as Python's lists, dicts and so on; raise ModelFileError for others."""
    try:
        check_description(text)
        return json.loads(
            text, object_pairs_hook=without_duplicates, parse_constant=refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"its description is no JSON as expected: {error}") from None
