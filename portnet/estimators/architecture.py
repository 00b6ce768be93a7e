"""Architecture: what a fit has made its network of, and a later fit that goes on with another.

A fitted network answers as it was fitted: `_fitted_with` has the parameters of that fit, and
`set_params` changes the next one. A fit that goes on takes the parameters of now, if the arrays of
the network are those that they need.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Integral
from typing import Any, cast

import numpy as np

from .. import perceptron, tree
from .parameters import names_of

__all__ = ["adopt", "check_sizes", "rebuild", "record"]


def record(estimator: Any) -> None:
    """Remember the parameters of a fit."""
    given, kind = vars(estimator), cast(Hashable, type(estimator))
    names = (*names_of(kind), *perceptron.OF_NETWORK)
    found = {n: given[n] for n in names if n in given}
    if isinstance(found["activation"], list):  # which the user may change
        found["activation"] = tuple(found["activation"])
    if not isinstance(found.get("random_state"), Integral):  # a generator changes
        found["random_state"] = None
    estimator._fitted_with = found


def adopt(estimator: Any, sizes: Sequence[int]) -> None:
    """Give a fitted network the parameters of now; raise ValueError if it has other arrays.

    Dropout has none: layers, and the state of the optimizer, are then put together anew.
    """
    changed = perceptron.changed_since_fit(vars(estimator))
    check_sizes(estimator, sizes)
    if not changed:
        return
    if "loss" in changed:
        _, activation = estimator._loss_and_activation()
        if activation != estimator.out_activation_:
            raise ValueError(
                f"loss={estimator.loss!r:.80}: its network would end with {activation!r}, but the "
                f"fitted network ends with {estimator.out_activation_!r}. Use a new estimator"
            )
    rebuild(estimator, sizes)


def rebuild(estimator: Any, sizes: Sequence[int]) -> None:
    """Put a fitted network together as the parameters of now say, of the arrays that it has."""
    own = vars(estimator)
    arrays = tree.leaves(own.pop("_layer_params", ()))
    if not perceptron.plain(own):
        estimator._layer_params = perceptron.others_from(own, sizes[0], sizes[1:], arrays)
    now = {name: own[name] for name in perceptron.OF_NETWORK if name in own}
    estimator._fitted_with = {**perceptron.fitted_with(own), **now}
    solver = own.get("_optimizer")
    if solver is not None:
        values = iter(tree.leaves(solver.state))
        new = solver.rule.init(estimator._network()[1])
        estimator._optimizer = replace(solver, state=tree.map(lambda _: next(values), new))


def check_sizes(estimator: Any, sizes: Sequence[int]) -> None:
    """Raise ValueError if a fit that goes on would need a network of other sizes."""
    own = vars(estimator)
    shapes = [tuple(np.shape(W)) for W in estimator.coefs_]
    others: list[Any] = []
    if "_layer_params" in own:
        others = [tuple(np.shape(a)) for a in tree.leaves(own["_layer_params"])]
    needed, needed_others = list(pairwise(sizes)), list[Any]()
    if not perceptron.plain(own):
        needed, needed_others = perceptron.shapes(own, sizes[0], sizes[1:])
    if shapes != needed:
        raise ValueError(
            f"with {sizes[0]} features, hidden_layer_sizes={estimator.hidden_layer_sizes} and "
            f"{sizes[-1]} outputs, the network would have the sizes {list(sizes)}; but the fitted "
            f"network has weights of the shapes {shapes}. Use a new estimator"
        )
    if others != needed_others:
        raise ValueError(
            f"with norm={estimator.norm!r:.80} and activation={estimator.activation!r:.80}, the "
            f"network would have other parameters of the shapes {needed_others} besides its "
            f"weights; but the fitted network has {others}. Use a new estimator, or set "
            f"what it was fitted with, {_set_back(own)}"
        )


def _set_back(own: dict[str, Any]) -> str:
    """Return the call that sets norm and activation to those of the fit."""
    fitted = perceptron.fitted_with(own)
    given = ", ".join(f"{n}={fitted.get(n)!r:.80}" for n in ("norm", "activation"))
    return f"set_params({given})"
