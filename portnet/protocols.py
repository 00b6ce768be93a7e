"""Protocols: what files need of a trainer and of a run that they must not import."""

from typing import Any, Protocol

from ._typing import ArrayLike, Host, Params, State
from .backend import Backend
from .layers import Layer

__all__ = ["RunLike", "TrainerLike"]


class TrainerLike(Protocol):
    """What a run needs of its trainer, a `portnet.Trainer`."""

    @property
    def model(self) -> Layer:
        """The network."""

    @property
    def loss(self) -> Any:
        """The loss."""

    @property
    def optimizer(self) -> Any:
        """The optimizer."""

    @property
    def batch_size(self) -> int | None:
        """Rows in a step."""

    @property
    def seed(self) -> int:
        """The seed."""

    @property
    def shuffle(self) -> bool | str:
        """Whether batches are shuffled."""

    @property
    def params(self) -> Params:
        """The initial parameters."""

    @property
    def compile(self) -> bool:
        """Whether steps are compiled."""

    def fit(self, X: ArrayLike, y: ArrayLike, *more: Any, **options: Any) -> Any:
        """Train; return the run."""


class RunLike(Protocol):
    """What a diagnosis needs of a run, a `portnet.Run`."""

    @property
    def trainer(self) -> TrainerLike:
        """The trainer."""

    @property
    def backend(self) -> Backend:
        """Where the parameters are."""

    @property
    def params(self) -> Params:
        """The parameters."""

    @property
    def state(self) -> State:
        """The optimizer's state."""

    @property
    def inputs(self) -> int:
        """The number of inputs."""

    @property
    def outputs(self) -> int:
        """The number of outputs."""

    @property
    def epoch(self) -> int:
        """The number of epochs."""

    @property
    def best_epoch(self) -> int | None:
        """The best epoch under early stopping."""

    @property
    def history(self) -> dict[str, list[float]]:
        """The values of each epoch."""

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns."""

    @property
    def classes(self) -> Host | None:
        """The names of the classes."""
