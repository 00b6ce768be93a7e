"""Copies of fitted estimators on another backend."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .. import tree
from .._typing import Array, Tree
from ..backend import is_host
from .ensemble import join, networks_of

__all__ = ["converted"]


def converted(estimator: Any, convert: Callable[[Array], Array]) -> Any:
    """Return a copy with each array of the network and of its solver converted."""

    def convert_all(pytree: Tree) -> Tree:
        return tree.map(lambda a: convert(np.asarray(a) if is_host(a) else a), pytree)

    new = copy.copy(estimator)
    if networks_of(estimator):
        join(new, [converted(network, convert) for network in estimator.estimators_])
        return new
    for name, value in new.__dict__.items():
        if isinstance(value, list):
            setattr(new, name, list(value))
    new.coefs_ = convert_all(estimator.coefs_)
    new.intercepts_ = convert_all(estimator.intercepts_)
    if "_layer_params" in estimator.__dict__:
        new._layer_params = convert_all(estimator._layer_params)
    if estimator.__dict__.get("_resumable") is not None:
        new._resumable = estimator._resumable._replace(last=convert_all(estimator._resumable.last))
    if hasattr(estimator, "classes_") and not is_host(estimator.classes_):
        new.classes_ = convert_all(estimator.classes_)
    new._fitted_on_host = estimator._fitted_on_host or is_host(new.coefs_[0])
    if getattr(estimator, "_optimizer", None) is not None:
        new._optimizer = replace(
            estimator._optimizer, state=convert_all(estimator._optimizer.state)
        )
    if hasattr(estimator, "_random_state"):
        new._random_state = copy.deepcopy(estimator._random_state)
    return new
