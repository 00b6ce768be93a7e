"""Tasks: scikit-learn's callbacks (`sklearn.callback`) around a fit and around its epochs."""

from collections.abc import Callable
from typing import Any

from .._typing import ArrayLike
from ..engine.ranks import is_first, of_first_rank, together
from .solvers import FitState

__all__ = ["FitTasks", "has_callbacks"]


def has_callbacks(estimator: Any) -> bool:
    """Tell whether a fit has callbacks, its own or those of a search or a pipeline around it."""
    given = vars(estimator)
    return bool(given.get("_skl_callbacks")) or "_parent_callback_ctx" in given


class FitTasks:
    """The tasks of one fit: the fit itself, and in it one for each epoch or iteration of L-BFGS.

    `attributes` returns the fitted attributes of a state, which callbacks may ask for.
    """

    def __init__(
        self,
        estimator: Any,
        given: tuple[ArrayLike, ArrayLike, ArrayLike],
        epochs: int | None,
        attributes: Callable[[FitState], dict[str, Any]],
    ) -> None:
        X, y, weight = given
        metadata = {} if weight is None else {"sample_weight": weight}
        self._given = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._attributes = attributes
        self._name = "iteration" if epochs is None else "epoch"
        self._fit: Any = None  # on several ranks, callbacks are called on the first one
        if is_first():
            self._fit = estimator._init_callback_context(max_subtasks=epochs)
            self._fit.call_on_fit_task_begin(**self._given)

    def _at(self, now: FitState) -> dict[str, Any]:
        return self._given | {"reconstruction_attributes": lambda: self._attributes(now)}

    def begin(self, now: FitState) -> Any:
        """Begin an epoch; return its task."""
        with together():
            if self._fit is None:
                return None
            task = self._fit.subcontext(task_name=self._name)
            return task.call_on_fit_task_begin(**self._at(now))

    def end(self, task: Any, now: FitState) -> bool:
        """End an epoch; return whether a callback ends training."""

        def end() -> bool:
            return task is not None and bool(task.call_on_fit_task_end(**self._at(now)))

        return bool(of_first_rank(end))

    def finish(self, now: FitState) -> None:
        """End the fit."""
        with together():
            if self._fit is not None:
                self._fit.call_on_fit_task_end(**self._at(now))
