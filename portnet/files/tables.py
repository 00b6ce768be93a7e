"""Tables in files: the target, the columns, the parts of their preparation, and the estimator."""

import importlib
import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from .._validation import how_to_install
from . import estimators
from .encoding import decode, encode, refuse_repeated
from .errors import ModelFileError

__all__ = ["describe", "is_table", "table_from"]

_PACKAGE = __package__.rpartition(".")[0]  # its tables need pandas: never imported above
FIELDS = "target", "columns", "kinds", "preparation", "shift", "scale"


def is_table(thing: object) -> bool:
    """Tell whether a thing is a `TableModel`, without importing its module."""
    kind = type(thing)
    return kind.__module__ == f"{_PACKAGE}.tables.model" and kind.__name__ == "TableModel"


def describe(model: Any, tensors: dict[str, Any], state: bool) -> dict[str, Any]:
    """Return the description of a table's model."""
    transformers = importlib.import_module(f"{_PACKAGE}.tables.transformers")
    values = {
        "target": model.target,
        "columns": list(model.columns),
        "kinds": model.kinds,
        "preparation": transformers.parts_of(model.transformer),
        "shift": model.shift,
        "scale": model.scale,
    }
    return {
        "table": encode(values, "", tensors),
        "estimator": estimators.describe(model.estimator, tensors, state),
    }


def table_from(
    described: Mapping[str, Any], tensors: dict[str, Any], custom: Mapping[str, Any]
) -> Any:
    """Return the model of a description; its transformers are fitted anew, then set."""
    missing = [name for name in ("sklearn", "pandas") if find_spec(name) is None]
    if missing:
        raise ModelFileError(
            f"a model of a table needs pandas and scikit-learn: {how_to_install('cli')}"
        )
    refuse_repeated(described.get("table"), "table")
    values = decode(described.get("table"), tensors, custom)
    estimator = estimators.estimator_from(described.get("estimator", {}), tensors, custom)
    if not isinstance(values, dict) or set(values) != set(FIELDS):
        raise ModelFileError(f"table: expected {', '.join(FIELDS)}, got {values!r:.80}")
    _check(values)
    tables = importlib.import_module(f"{_PACKAGE}.tables")
    transformers = importlib.import_module(f"{_PACKAGE}.tables.transformers")
    names, kinds = tuple(values["columns"]), values["kinds"]
    try:
        transformer = transformers.rebuilt(names, kinds, values["preparation"])
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ModelFileError(f"its preparation: {type(error).__name__}: {error}") from None
    features = len(transformer.get_feature_names_out())
    if features != estimator.n_features_in_:
        raise ModelFileError(
            f"its preparation makes {features} features, and its network has "
            f"{estimator.n_features_in_}"
        )
    _check_outputs(estimator)
    return tables.TableModel(
        values["target"],
        names,
        kinds,
        transformer,
        estimator,
        values["shift"],
        values["scale"],
    )


def _check_outputs(estimator: Any) -> None:
    """Raise ModelFileError unless a network has the outputs of one column: a number, or classes."""
    classes = getattr(estimator, "classes_", None)
    expected, activation = 1, estimator.out_activation_
    if classes is not None:
        expected = len(classes) if len(classes) > 2 else 1
        fits = activation == ("softmax" if expected > 1 else "logistic")
        fits = fits and estimator._label_binarizer.y_type_ in ("binary", "multiclass")
    else:
        fits = activation in ("identity", "exp")
    if not fits or estimator.n_outputs_ != expected or (classes is not None and len(classes) < 2):
        raise ModelFileError(
            f"estimator: expected the outputs of one column, got {estimator.n_outputs_} with "
            f"{activation}"
        )


def _check(values: Mapping[str, Any]) -> None:
    """Raise ModelFileError unless the fields have values that a fit makes."""
    names, kinds = values["columns"], values["kinds"]
    limit = importlib.import_module(f"{_PACKAGE}.tables.columns").COLUMN_LIMIT
    if (
        not isinstance(names, list)
        or not 0 < len(names) <= limit
        or not all(isinstance(n, str) for n in names)
    ):
        raise ModelFileError(f"columns: expected names, got {names!r:.80}")
    if not isinstance(values["target"], str) or len({*names, values["target"]}) <= len(names):
        raise ModelFileError("columns: expected different names, none that of the target")
    if not isinstance(kinds, str) or len(kinds) != len(names) or set(kinds) - set("ntd"):
        raise ModelFileError(f"kinds: expected n, t or d for each column, got {kinds!r:.80}")
    for name in ("shift", "scale"):
        number = values[name]
        if type(number) is not float or not math.isfinite(number):
            raise ModelFileError(f"{name}: expected a number, got {number!r:.80}")
    if values["scale"] <= 0:
        raise ModelFileError(f"scale: expected a number above 0, got {values['scale']}")
    if not isinstance(values["preparation"], dict):
        raise ModelFileError("preparation: expected a dict")
