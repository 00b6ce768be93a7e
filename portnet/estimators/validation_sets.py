"""Validation sets: a part of the training data, or one that is given to `fit`."""

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import validate_data

from .._typing import ArrayLike, Host
from .._validation import warn
from ..backend import Backend, is_host, to_numpy
from ..data import checks
from ..data.dataset import Dataset
from . import fit_data, inputs
from .curves import Validation
from .inputs import _host_weights

__all__ = ["given", "split", "split_parts"]


def split(
    estimator: Any, data: Dataset, y: Host, weight: Host | None, rng: np.random.RandomState
) -> tuple[Dataset, Validation]:
    """Return training and validation set, of the same rows as in scikit-learn."""
    _check_fraction(estimator.validation_fraction)
    order = np.arange(len(data)) if data.order is None else data.order
    binary = isinstance(estimator, ClassifierMixin) and estimator.n_outputs_ == 1
    train, held_out = train_test_split(
        order,
        random_state=rng,
        test_size=estimator.validation_fraction,
        stratify=y[order] if binary else None,
    )
    if len(held_out) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of "
            "your dataset."
        )
    estimator._check_training_classes(y[order], y[train])
    validation = Validation(
        replace(data, order=held_out),
        y[held_out],
        None if weight is None else weight[held_out],
    )
    return replace(data, order=train), validation


def split_parts(
    estimator: Any, data: Any, y: Host, weight: Host | None, rng: np.random.RandomState
) -> tuple[Any, Validation]:
    """Return training and validation set of a source: pieces of rows that lie together."""
    from ..data.sources.dataset import split_source

    _check_fraction(estimator.validation_fraction)
    train, held_out = split_source(estimator.validation_fraction, data, rng.randint(1 << 31))
    rows = held_out.rows
    if data.counts is None:  # several labels for each row, or numbers
        estimator._check_training_classes(y, y[train.rows])
    else:
        estimator._check_training_classes(*map(np.flatnonzero, (data.counts, train.counts)))
    return train, Validation(held_out, y[rows], None if weight is None else weight[rows])


def _check_fraction(fraction: float) -> None:
    if not fraction > 0:
        raise ValueError(
            "validation_fraction: early_stopping=True needs a fraction above 0, or X_val and "
            f"y_val; got {fraction}"
        )


def given(
    estimator: Any,
    backend: Backend,
    X_val: ArrayLike = None,
    y_val: ArrayLike = None,
    sample_weight_val: ArrayLike = None,
) -> Validation | None:
    """Return the validation set given to `fit`, checked, or None."""
    if X_val is None and y_val is None:
        if sample_weight_val is not None:
            raise ValueError("sample_weight_val is provided, but X_val was not provided.")
        return None
    if y_val is None:
        raise ValueError("X_val is provided, but y_val was not provided.")
    if X_val is None:
        raise ValueError("y_val is provided, but X_val was not provided.")
    if not estimator.early_stopping and estimator.metrics is None:
        raise ValueError(
            "X_val and y_val are passed to fit while at the same time early_stopping is False. "
            "Set early_stopping=True, or give metrics=[...] to have curves of them in history_"
        )
    if estimator.solver == "lbfgs" and estimator.metrics is None:
        warn(
            "X_val and y_val are ignored: lbfgs has no early stopping. With metrics=[...], "
            "history_ has curves of them"
        )
    try:
        with inputs.errors_name_argument(
            X_val=X_val, y_val=y_val, sample_weight_val=sample_weight_val
        ):
            return _checked(estimator, backend, X_val, y_val, sample_weight_val)
    except (ValueError, TypeError) as error:
        kind = next(k for k in (TypeError, checks.DataError, ValueError) if isinstance(error, k))
        raise kind(f"in the validation set: {error}") from None


def _checked(
    estimator: Any, backend: Backend, X_val: ArrayLike, y_val: ArrayLike, w: ArrayLike
) -> Validation:
    """Return a given validation set, checked."""
    in_parts: Any = None
    if checks.is_source(X_val):
        from . import parts

        X_val = parts.as_array_if_small(X_val, "X_val")
        in_parts = None if isinstance(X_val, np.ndarray) else parts
    if in_parts:
        in_parts.check_parts(estimator, X_val)
    else:
        if not is_host(X_val) and not backend.holds(X_val):
            X_val = to_numpy(X_val)
        X_val = fit_data.features(estimator, X_val, backend)
    (y_val,) = inputs.on_host(estimator._host_labels(y_val))
    numeric = {"multi_output": True, "y_numeric": isinstance(estimator, RegressorMixin)}
    y_val = validate_data(estimator, y=y_val, reset=False, **numeric)
    if numeric["y_numeric"] and y_val.dtype.kind in "OUSV":
        y_val = y_val.astype(np.float64)
    check_consistent_length(X_val, y_val)
    if X_val.shape[0] < 2:
        raise ValueError("The validation set is too small: expected at least 2 rows, got 1.")
    if y_val.ndim == 2 and y_val.shape[1] == 1:
        y_val = column_or_1d(y_val, warn=True)
    weight, y_val = _host_weights(w, X_val.shape[0]), estimator._encode(y_val, "y_val")
    if in_parts:
        loss, outputs = estimator._loss_and_activation()[0], max(estimator.n_outputs_, 1)
        own = None if isinstance(estimator.loss, str) else estimator._targets
        given = X_val, y_val, None, backend, loss, outputs, own
        data = in_parts.parts_dataset(*given, name="validation ")
    else:
        data = Dataset(backend, X_val)
    return Validation(data, y_val, weight)
