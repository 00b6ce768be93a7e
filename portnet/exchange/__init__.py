"""Exchange: networks for other libraries, and from them.

| library      | write           | read             |
|--------------|-----------------|------------------|
| ONNX         | `export_onnx`   | `from_onnx`      |
| scikit-learn | `to_sklearn`    | `from_sklearn`   |
| PyTorch      | `to_torch`      | `from_torch`     |
| Keras        | `to_keras`      | `from_keras`     |

No library is needed but the one that is read or written.
"""

from .errors import ExchangeError
from .onnx_export import export_onnx
from .onnx_import import from_onnx
from .scikit import from_sklearn, to_sklearn
from .weights import from_keras, from_torch, to_keras, to_torch

__all__ = [
    "ExchangeError",
    "export_onnx",
    "from_keras",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "to_keras",
    "to_sklearn",
    "to_torch",
]
