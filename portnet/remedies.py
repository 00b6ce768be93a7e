"""Remedies: what usually helps against a finding, as far as a run has not done it already."""

from collections.abc import Iterable, Sequence
from typing import Any

from .layers import GELU, Dropout, LayerNorm, LeakyReLU, ReLU, Residual, Sigmoid, SiLU, Softplus
from .lbfgs import LBFGS
from .optimizers import AdamW
from .protocols import RunLike
from .transforms import ClipNorm, WeightDecay

__all__ = ["fitting"]


def fitting(run: RunLike, layers: Sequence[Any], unscaled: bool, names: Iterable[str]) -> str:
    """Return the remedies of these names, without those that the run has already.

    `layers` are those of its model, and `unscaled` says whether some inputs are not scaled.

    Examples
    --------
    >>> import portnet
    >>> trainer = portnet.Trainer(portnet.mlp([1, 8, 1]), "squared_error")
    >>> run = trainer.fit([[1.0], [2.0]], [1.0, 2.0], epochs=1)
    >>> fitting(run, trainer.model.layers, False, ["smaller rate", "He", "scale", "LeakyReLU"])
    'a smaller learning rate or LeakyReLU in place of ReLU'
    """
    trainer = run.trainer
    rules = _parts(trainer.optimizer)
    own = trainer.params is not None  # initial weights that no initialiser has drawn
    drawn = {str(getattr(layer, "weights", "")).partition("_")[0] for layer in layers}
    ramps = any(isinstance(layer, ReLU | LeakyReLU | GELU | SiLU | Softplus) for layer in layers)

    def have(kind: Any) -> bool:
        return any(isinstance(each, kind) for each in (*layers, *rules))

    remedies = {
        "smaller rate": ("a smaller learning rate", not have(LBFGS)),
        "smaller weights": ("smaller initial weights", True),
        "scale": ("scaled inputs", unscaled),
        "He": ("He's initial weights", ramps and (own or "he" not in drawn)),
        "Glorot": ("Glorot's initial weights", not ramps and (own or "glorot" not in drawn)),
        "LeakyReLU": ("LeakyReLU in place of ReLU", True),
        "no Sigmoid": ("ReLU or Tanh in place of Sigmoid", have(Sigmoid)),
        "LayerNorm": ("LayerNorm", not have(LayerNorm)),
        "Residual": ("portnet.Residual", not _holds(trainer.model, Residual)),
        "fewer layers": ("fewer layers", True),
        "ClipNorm": ("portnet.ClipNorm before the optimizer", not have(ClipNorm | LBFGS)),
        "early stopping": ("early_stopping=True", run.best_epoch is None),
        "more data": ("more data", True),
        "Dropout": ("dropout", not have(Dropout)),
        "decay": ("AdamW or portnet.WeightDecay", not have(AdamW | WeightDecay | LBFGS)),
        "smaller network": ("a smaller network", True),
    }
    fitting = [text for text, fits in map(remedies.__getitem__, names) if fits]
    return ", ".join([*fitting[:-2], " or ".join(fitting[-2:])])


def _parts(optimizer: Any) -> list[Any]:
    """Return the parts of a chain of optimizers, or the one."""
    parts = getattr(optimizer, "parts", None)
    return [rule for part in parts for rule in _parts(part)] if parts else [optimizer]


def _holds(layer: Any, kind: Any) -> bool:
    """Tell whether a model is, or contains, a layer of a kind."""
    inside = [*getattr(layer, "layers", ()), *filter(None, [getattr(layer, "layer", None)])]
    return isinstance(layer, kind) or any(_holds(each, kind) for each in inside)
