"""portnet: neural networks for every array library, written once, by hand.

Choose the library and device with `set_backend`, build a network with `mlp`, train it with
`Trainer`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import tree
from ._validation import how_to_install as _how_to_install
from .backend import (
    BackendUnavailableError,
    ShapeError,
    asarray,
    backends,
    get_backend,
    namespace,
    set_backend,
    to_numpy,
    use_backend,
)
from .callbacks import EarlyStopping, ReduceOnPlateau, Report
from .compiler import CompileWarning, compile
from .data.checks import DataError
from .diagnosis import Diagnose
from .divergence import DivergenceError
from .files import CheckpointError, ModelFileError, ResumeMismatchError, load, save
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
from .lbfgs import LBFGS
from .losses import (
    AbsoluteError,
    Huber,
    PoissonLoss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from .lr_finder import find_learning_rate
from .optimizer_checks import OptimizerError, check_optimizer
from .optimizers import SGD, Adam, AdamW, Momentum, Nesterov, RMSProp
from .run import Run
from .schedules import Constant, CosineDecay, ExponentialDecay, InverseDecay, StepDecay
from .step_by_step import explain_step
from .trainer import Trainer
from .training import init, make_step, train_epoch
from .transforms import ClipNorm, WeightDecay, chain

__version__ = "0.1.0"

__all__ = [
    "GELU",
    "LBFGS",
    "SGD",
    "AbsoluteError",
    "Adam",
    "AdamW",
    "BackendUnavailableError",
    "Chain",
    "CheckpointError",
    "ClipNorm",
    "CompileWarning",
    "Constant",
    "CosineDecay",
    "DataError",
    "Dense",
    "Diagnose",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "ExponentialDecay",
    "GradientError",
    "Huber",
    "Identity",
    "InverseDecay",
    "LayerNorm",
    "LeakyReLU",
    "ModelFileError",
    "Momentum",
    "Nesterov",
    "OptimizerError",
    "PoissonLoss",
    "Population",
    "RMSProp",
    "ReLU",
    "ReduceOnPlateau",
    "Report",
    "Residual",
    "ResumeMismatchError",
    "Run",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "Softplus",
    "SquaredError",
    "StepDecay",
    "Tanh",
    "Trainer",
    "WeightDecay",
    "asarray",
    "backends",
    "chain",
    "check_gradients",
    "check_layer",
    "check_loss",
    "check_optimizer",
    "compile",
    "explain_step",
    "export_onnx",
    "find_learning_rate",
    "get_backend",
    "init",
    "load",
    "make_step",
    "mlp",
    "namespace",
    "save",
    "set_backend",
    "to_numpy",
    "train_epoch",
    "tree",
    "use_backend",
]

if _TYPE_CHECKING:
    from .estimators.classifier import MLPClassifier as MLPClassifier
    from .estimators.regressor import MLPRegressor as MLPRegressor
    from .exchange.onnx_export import export_onnx as export_onnx
    from .population import Population as Population


def __getattr__(name: str) -> _Any:
    """Import at first use what needs optional dependencies, or much that few programs need."""
    if name in ("plots", "exchange"):
        from importlib import import_module

        return import_module(f".{name}", __name__)
    if name == "export_onnx":
        from .exchange import export_onnx

        return export_onnx
    if name == "Population":
        from .population import Population

        return Population
    if name not in ("MLPClassifier", "MLPRegressor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import estimators
    except ImportError as error:  # not installed, or too old
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ImportError(
            f"{name} needs scikit-learn 1.9 or later: {_how_to_install('sklearn')}"
        ) from error
    return getattr(estimators, name)


def __dir__() -> list[str]:
    """Return the public names, with the estimators if scikit-learn is installed."""
    from importlib.util import find_spec

    estimators = ["MLPClassifier", "MLPRegressor"] if find_spec("sklearn") else []
    return sorted({*globals(), "Population", "plots", "exchange", "export_onnx", *estimators})
