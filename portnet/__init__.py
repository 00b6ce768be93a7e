"""portnet: neural networks written once, by hand, on every array library.

Set where arrays live with `set_backend`, build a network with `mlp`, train it with `Trainer`.
"""

from . import tree
from .backend import (
    BackendUnavailableError,
    ShapeError,
    asarray,
    backends,
    get_backend,
    set_backend,
    to_numpy,
    use_backend,
)
from .gradcheck import GradientError, check_gradients, check_layer, check_loss
from .layers import (
    GELU,
    Chain,
    Dense,
    Dropout,
    Identity,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Residual,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
    mlp,
)
from .losses import (
    AbsoluteError,
    Huber,
    PoissonLoss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from .optimizers import SGD, Adam, Momentum
from .training import DivergenceError, Run, Trainer, init, make_step
from .validation import DataError

__version__ = "0.1.0"

__all__ = [
    "GELU",
    "SGD",
    "AbsoluteError",
    "Adam",
    "BackendUnavailableError",
    "Chain",
    "DataError",
    "Dense",
    "DivergenceError",
    "Dropout",
    "GradientError",
    "Huber",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Momentum",
    "PoissonLoss",
    "ReLU",
    "Residual",
    "Run",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "Softplus",
    "SquaredError",
    "Tanh",
    "Trainer",
    "asarray",
    "backends",
    "check_gradients",
    "check_layer",
    "check_loss",
    "get_backend",
    "init",
    "make_step",
    "mlp",
    "set_backend",
    "to_numpy",
    "tree",
    "use_backend",
]
