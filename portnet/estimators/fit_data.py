"""The data of a fit and of predictions, checked as scikit-learn does, on the backend."""

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import validate_data

from .._typing import ArrayLike, Host
from ..backend import Backend, is_host, to_numpy
from ..data import checks
from ..data.dataset import Dataset
from . import inputs
from .inputs import _host_weights

__all__ = ["check_data", "check_parts", "features", "with_weights"]

_FLOATS = (np.float64, np.float32)


def check_data(
    estimator: Any, backend: Backend, X: ArrayLike, y: ArrayLike, first: bool
) -> tuple[Backend, Any, Any]:
    """Return the backend with the network's dtype, X on it (or CSR), and y."""
    numeric = {"multi_output": True, "y_numeric": isinstance(estimator, RegressorMixin)}
    given = X
    named = first or hasattr(estimator, "feature_names_in_")
    if (
        not named
        and checks.is_plain(X, estimator.n_features_in_)
        and estimator._is_plain(y, len(X))
    ):
        return backend, inputs.to_backend(X, backend), y
    if is_host(X):
        y = y if is_host(y) else to_numpy(y)
        X, y = validate_data(
            estimator, X, y, reset=first, accept_sparse=["csr", "csc"], dtype=_FLOATS, **numeric
        )
        if first:
            backend = replace(
                backend, dtype=inputs.network_dtype_of_host_data(given, X.dtype.name, backend)
            )
        X = inputs.to_backend(X, backend)
    else:
        if first:
            backend = replace(backend, dtype=inputs.network_dtype(X, backend))
        X = inputs.device_features(X, backend)
        validate_data(estimator, X, y, reset=first, skip_check_array=True)
        if is_host(y) or not backend.holds(y):
            y = y if hasattr(y, "tocsr") else to_numpy(y)
            y = validate_data(estimator, y=y, reset=first, **numeric)
        check_consistent_length(X, y)
    if not is_host(y):
        if y.ndim > 2:
            raise ValueError(f"Found array with dim {y.ndim}, while dim <= 2 is required.")
        y = inputs.as_array("y", y, backend)
        checks.check_finite(y, "Input y")
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True) if is_host(y) else y[:, 0]
    return backend, X, y


def check_parts(
    estimator: Any, parts: Any, backend: Backend, X: Any, y: ArrayLike, first: bool
) -> tuple[Backend, Any]:
    """Return the backend with the network's dtype, and y, for X that is read in parts."""
    from ..data.sources.dataset import check_features

    check_features(X, "X")
    validate_data(estimator, X, reset=first, skip_check_array=True)
    numeric = {"multi_output": True, "y_numeric": isinstance(estimator, RegressorMixin)}
    y = validate_data(estimator, y=inputs.on_host(y)[0], reset=first, **numeric)
    check_consistent_length(X, y)
    if first:
        backend = replace(backend, dtype=parts.network_dtype(X, backend))
    return backend, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def features(estimator: Any, X: ArrayLike, backend: Backend) -> Any:
    """Return checked X for prediction or validation, on the backend."""
    if not is_host(X):
        X = inputs.device_features(X, backend)
        validate_data(estimator, X, reset=False, skip_check_array=True)
        return X
    if not hasattr(estimator, "feature_names_in_") and checks.is_plain(X, estimator.n_features_in_):
        return inputs.to_backend(X, backend)
    sparse = ["csr", "csc"]
    X = validate_data(estimator, X, reset=False, accept_sparse=sparse)
    if X.dtype == object:  # numbers as objects, or None
        missing = np.argwhere([[v is None for v in row] for row in X])
        if len(missing):
            row, column = missing[0]
            raise TypeError(f"Input X contains None at row {row}, column {column}: give numbers")
        X = validate_data(estimator, X, reset=False, accept_sparse=sparse, dtype=_FLOATS)
    return inputs.to_backend(X, backend)


def with_weights(
    estimator: Any, data: Dataset, y: ArrayLike, given: ArrayLike
) -> tuple[Dataset, Host | None]:
    """Return the dataset of the rows with weight > 0, and the sample weights on the host.

    The weights of the dataset are multiplied by the class weights; the others are not.
    """
    sample_weight = _host_weights(given, len(data))
    host = estimator._with_class_weights(y, sample_weight)
    name = "sample_weight" if host is sample_weight else "class_weight"
    weight = checks.row_weights(host, data.backend, rows=len(data), name=name)
    if weight is None:
        return data, None
    positive = to_numpy(weight) > 0  # in the backend's dtype, where tiny weights may be 0
    order = None if positive.all() else np.flatnonzero(positive)
    return replace(data, weight=weight, order=order), sample_weight
