"""Parameters: their names and defaults, and those that exclude each other."""

import functools
import inspect
from typing import Any

from ..transforms import refuse_transforms

__all__ = ["check_options", "defaults_of", "names_of"]


def check_options(estimator: Any) -> None:
    """Raise ValueError for parameters that exclude each other."""
    if isinstance(estimator.n_networks, bool):
        raise ValueError(f"n_networks: expected an integer, got {estimator.n_networks}")
    if estimator.optimizer is not None:
        _check_optimizer(estimator)
    if estimator.solver == "lbfgs":
        more = {"dropout": estimator.dropout or None, "optimizer": estimator.optimizer}
        for name, value in more.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} needs solver='adam' or 'sgd', which train in epochs; "
                    "got solver='lbfgs'"
                )
    elif estimator.scoring is not None and not estimator.early_stopping:
        raise ValueError(
            f"scoring={estimator.scoring!r} is monitored by early stopping: set "
            "early_stopping=True, or give metrics=[...] to have a curve of it in history_"
        )


@functools.cache
def names_of(kind: Any) -> list[str]:
    """Return the names of the parameters of a class."""
    names: list[str] = kind._get_param_names()  # which reads a signature: that takes long
    return names


@functools.cache
def defaults_of(kind: Any) -> dict[str, Any]:
    """Return the valid defaults of a class; of a subclass with checks of its own, none."""
    ours = next(c for c in kind.__mro__ if c.__module__.startswith(f"{__package__}."))
    if kind._parameter_constraints is not ours._parameter_constraints:
        return {}
    names = inspect.signature(ours.__init__).parameters
    return {name: p.default for name, p in names.items() if p.default is not p.empty}


def _check_optimizer(estimator: Any) -> None:
    """Raise an error where the parameter `optimizer` cannot be used with the other ones."""
    given = estimator.optimizer
    if isinstance(given, type):
        raise TypeError(
            f"optimizer: expected an object, got the class {given.__name__}: write it with ()"
        )
    if estimator.solver == "sgd" and estimator.learning_rate != "constant":
        raise ValueError(
            f"optimizer={given!r} and learning_rate={estimator.learning_rate!r} exclude "
            "each other: give the optimizer a schedule, such as "
            "portnet.AdamW(portnet.CosineDecay(1e-3, steps=1000)), and leave learning_rate at "
            "'constant'"
        )
    if not isinstance(given, str):
        refuse_transforms(given)
