"""ONNX Runtime, and layers of one's own, for the tests of the exchange."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import portnet


@dataclass(frozen=True)
class Of:
    """y = f(xp, x): a layer of a user's own, with a function of any operations."""

    f: Callable[[Any, Any], Any]

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        return self.f(portnet.namespace(x), x), None

    def backward(self, params, cache, dy):
        raise NotImplementedError


def served(path, X, inputs=None):
    """Return the outputs of an ONNX file by name, computed by ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": X}), strict=True))


def assert_equal(found, expected, dtype):
    """Compare to 1e-6 in float32 and 1e-12 in float64, of the value or of 1."""
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def node_kinds(path):
    """Return the operators of an ONNX file, after the checker has passed."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    return [node.op_type for node in model.graph.node]
