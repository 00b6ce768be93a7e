"""Transformers: scikit-learn's preparation of columns, and what of it is written to a file.

Numbers and dates: missing values become the median (SimpleImputer), then each column has mean 0 and
standard deviation 1 (StandardScaler). Text: a missing value is the text "", then each text is a
column of 0 and 1 (OneHotEncoder); a text that was not there in training is a row of zeros.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["CATEGORY_LIMIT", "MISSING", "fitted", "parts_of", "rebuilt"]

MISSING = ""  # the text of missing values
CATEGORY_LIMIT = 100  # texts of a column; others count as unknown


def fitted(frame: Any, names: Sequence[str], kinds: str) -> Any:
    """Return a ColumnTransformer that was fitted on a frame (rows, columns), as `canonical` makes.

    Of a column with more than `CATEGORY_LIMIT` texts, the most frequent ones are used.
    """
    texts = [n for n, kind in zip(names, kinds, strict=True) if kind == "t"]
    categories = [_most_frequent(frame[name]) for name in texts]
    return _make(names, kinds, categories).fit(frame)


def _most_frequent(values: Any) -> Any:
    counts = Counter(values.fillna(MISSING))
    kept = sorted(counts, key=lambda text: (-counts[text], text))[:CATEGORY_LIMIT]
    return np.array(sorted(kept), object)


def _make(names: Sequence[str], kinds: str, categories: list[Any]) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [n for n, kind in zip(names, kinds, strict=True) if kind != "t"]
    texts = [n for n, kind in zip(names, kinds, strict=True) if kind == "t"]
    parts: list[Any] = []
    if numbers:
        impute = SimpleImputer(strategy="median", keep_empty_features=True)
        parts.append(("numbers", make_pipeline(impute, StandardScaler()), numbers))
    if texts:
        fill = SimpleImputer(strategy="constant", fill_value=MISSING, keep_empty_features=True)
        encode = OneHotEncoder(categories=categories, handle_unknown="ignore", dtype=np.float32)
        parts.append(("texts", make_pipeline(fill, encode), texts))
    return ColumnTransformer(parts)


def parts_of(transformer: Any) -> dict[str, Any]:
    """Return the fitted attributes of a transformer of `fitted`, as arrays, numbers and text.

    "numbers": the median, mean, var and scale of each column, (columns,) each, and the number of
    rows; "texts": the texts of all columns, one after the other, and how many each column has.
    """
    found: dict[str, Any] = {"sparse": bool(transformer.sparse_output_)}
    given = transformer.named_transformers_
    if "numbers" in given:
        impute, scale = (step for _, step in given["numbers"].steps)
        found["numbers"] = {
            "median": impute.statistics_,
            "mean": scale.mean_,
            "var": scale.var_,
            "scale": scale.scale_,
            "rows": np.asarray(scale.n_samples_seen_),
        }
    if "texts" in given:
        encoder = given["texts"].steps[-1][1]
        found["texts"] = {
            "categories": [str(text) for texts in encoder.categories_ for text in texts],
            "counts": np.array([len(texts) for texts in encoder.categories_]),
        }
    return found


def rebuilt(names: Sequence[str], kinds: str, parts: dict[str, Any]) -> Any:
    """Return the fitted ColumnTransformer of its parts; ValueError if they do not fit together.

    scikit-learn fits it on one row, so that its own attributes are there; those that depend on the
    data are set after that.
    """
    import pandas

    width = sum(kind != "t" for kind in kinds)
    numbers, categories = parts.get("numbers"), []
    if (numbers is not None) != (width > 0) or ("texts" in parts) != ("t" in kinds):
        raise ValueError(f"expected parts of the kinds {kinds!r:.80}, got {sorted(parts)}")
    if "texts" in parts:
        categories = _split(parts["texts"], kinds.count("t"))
    if numbers is not None:
        for name in ("median", "mean", "var", "scale"):
            if numbers[name].shape != (width,) or numbers[name].dtype != np.float64:
                raise ValueError(f"{name}: expected float64 ({width},), got {numbers[name]!r:.80}")
        if not (numbers["scale"] > 0).all():
            raise ValueError("scale: expected numbers above 0")
    texts = iter(categories)
    row = {n: [next(texts)[0] if k == "t" else 0.0] for n, k in zip(names, kinds, strict=True)}
    frame = pandas.DataFrame(row)
    for name, kind in zip(names, kinds, strict=True):
        if kind == "t":
            frame[name] = frame[name].astype(object)
    made = _make(names, kinds, categories).fit(frame)
    made.sparse_output_ = bool(parts["sparse"])
    if numbers is not None:
        impute, scale = (step for _, step in made.named_transformers_["numbers"].steps)
        impute.statistics_ = numbers["median"]
        scale.mean_, scale.var_, scale.scale_ = (numbers[n] for n in ("mean", "var", "scale"))
        scale.n_samples_seen_ = _rows(numbers["rows"])
    return made


def _rows(given: Any) -> Any:
    return given if given.ndim else given[()]


def _split(texts: dict[str, Any], columns: int) -> list[Any]:
    """Return the categories of each column, sorted and different, as arrays of objects."""
    counts, names = np.asarray(texts["counts"]), list(texts["categories"])
    if counts.shape != (columns,) or counts.dtype.kind not in "iu" or (counts < 1).any():
        raise ValueError(f"counts: expected a count for each of {columns} columns of text")
    if counts.max(initial=0) > CATEGORY_LIMIT or counts.sum() != len(names):
        raise ValueError(f"categories: expected {counts.sum()}, got {len(names)}")
    found, ends = [], np.cumsum(counts)
    for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
        part = names[end - count : end]
        if not all(isinstance(n, str) for n in part) or part != sorted(set(part)):
            raise ValueError("categories: expected different texts, sorted")
        found.append(np.array(part, object))
    return found
