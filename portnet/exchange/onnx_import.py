"""Networks in ONNX files, as PyTorch, Keras, skl2onnx and portnet write them."""

import importlib.util
from collections.abc import Callable
from os import PathLike, fsdecode
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from .._typing import Host, Params
from .._validation import how_to_install
from ..backend import FLOATS, ShapeError, get_backend
from ..layers import (
    GELU,
    Chain,
    Dense,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Residual,
    Sigmoid,
    Softplus,
    Tanh,
)
from ..losses import LOSSES
from ..metrics import two_columns
from .errors import ExchangeError
from .onnx_export import width_of
from .templates import find_layer, shortest

__all__ = ["from_onnx"]

SIMPLE: dict[str, Callable[[], Any]] = {
    "Relu": ReLU,
    "Sigmoid": Sigmoid,
    "Softplus": Softplus,
    "Tanh": Tanh,
}
SAME = "Cast", "Dropout", "Flatten", "Identity", "Reshape"  # of rows (rows, n), in inference
# The last operator, and the loss whose `mean` it is.
ENDS = {"Softmax": "softmax_cross_entropy", "Sigmoid": "sigmoid_cross_entropy", "Exp": "poisson"}
TOLERANCE = 1e-5


def from_onnx(path: str | PathLike[str]) -> tuple[Chain, Params, str]:
    """Return the network in an ONNX file: model, parameters, and the loss for what comes after it.

    It reads what `export_onnx` writes for chains of Dense, LayerNorm, ReLU, LeakyReLU, Sigmoid,
    Tanh, Softplus, SiLU and GELU, and Residuals of these: networks, runs and estimators. Of
    PyTorch, Keras, skl2onnx and others it reads chains with ONNX's operators for these (Gemm,
    MatMul and Add, LayerNormalization, Relu, ..., Gelu with tanh). What it has read is compared
    with ONNX's own evaluator on random rows. It needs the extra ``onnx``.

    Parameters
    ----------
    path : path
        The ONNX file.

    Returns
    -------
    model : Chain
        It returns raw outputs: a softmax, sigmoid or exp at the end is not in it. Nor are Dropout
        and Identity, which files do not have.
    params : pytree of arrays
        On the current backend, in the dtype of the file: W (n_in, n_out) and b (1, n_out) of each
        Dense.
    loss : str
        The name of the loss whose `mean` gives the outputs of the file from the raw ones:
        "softmax_cross_entropy" where the file ends with a softmax, "sigmoid_cross_entropy" with a
        sigmoid, "poisson" with exp, else "squared_error".

    Raises
    ------
    portnet.exchange.ExchangeError
        For a file that is something else, such as an ensemble, a classifier of several columns
        of labels, or a layer of one's own; the message names the node.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import portnet
    >>> path = os.path.join(tempfile.mkdtemp(), "net.onnx")
    >>> net, X = portnet.mlp([4, 8, 3]), np.ones((2, 4), np.float32)
    >>> params = portnet.init(net, seed=0)
    >>> portnet.export_onnx((net, params), path)  # doctest: +SKIP
    >>> model, again, loss = portnet.exchange.from_onnx(path)  # doctest: +SKIP
    >>> model.layers, loss  # doctest: +SKIP
    ((Dense(8), ReLU(), Dense(3)), 'squared_error')
    >>> trainer = portnet.Trainer(model, loss, params=again)  # doctest: +SKIP
    """
    if importlib.util.find_spec("onnx") is None:
        raise ImportError(f"from_onnx needs onnx: {how_to_install('onnx')}")
    name = fsdecode(path)
    try:
        file = _open(path)
        output = _output(file)
        parts, loss = _read(file, output)
        dtype = _check_dtype(parts)
        model = Chain([part.layer for part in parts])
        params = tuple(part.params for part in parts)
        _compare(file, output, model, params, loss)
    except ExchangeError as error:
        raise ExchangeError(f"{name}: {error}") from None
    backend = get_backend()
    return model, tree.map(lambda a: backend.asarray(a, dtype), params), loss


class _File(NamedTuple):
    """A graph: its arrays by name, and the nodes that make its other values."""

    graph: Any
    opsets: Any
    arrays: dict[str, Host]
    makers: dict[str, Any]
    x: Any


class _Part(NamedTuple):
    layer: Layer
    params: Any


def _open(path: str | PathLike[str]) -> _File:
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's
            raise
        raise ExchangeError(f"expected an ONNX file: {error}") from None
    graph = model.graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            arrays[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    makers = {out: node for node in graph.node for out in node.output if out not in arrays}
    inputs = [value for value in graph.input if value.name not in arrays]
    if len(inputs) != 1:
        raise ExchangeError(f"expected one input (rows, n_in), got {[v.name for v in inputs]}")
    return _File(graph, model.opset_import, arrays, makers, inputs[0])


def _output(file: _File) -> Any:
    """Return the output of numbers: the probabilities, or the first one."""
    floats = [v for v in file.graph.output if v.type.tensor_type.elem_type in (1, 11)]
    found = [v for v in floats if "prob" in v.name.lower()] or floats
    if not found:
        names = [v.name for v in file.graph.output]
        raise ExchangeError(
            f"expected an output of float32 or float64, got {names}: skl2onnx needs the option "
            "zipmap=False"
        )
    return found[0]


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _read(file: _File, output: Any) -> tuple[list[_Part], str]:
    """Return the layers, from the first to the last, and the name of the loss."""
    value, loss = _end(file, output.name)
    parts = _chain(file, value, file.x.name)
    if not tree.leaves([part.params for part in parts]):
        raise ExchangeError("expected at least one dense layer, a Gemm or a MatMul")
    return parts, loss


def _data(file: _File, node: Any) -> list[str]:
    """Return the names of the operands that are no constants."""
    return [i for i in node.input if i and i not in file.arrays]


def _end(file: _File, value: str) -> tuple[str, str]:
    """Return the value before a softmax, sigmoid or exp at the end, and the loss with that mean."""
    last = value
    while (node := file.makers.get(last)) is not None and (data := _data(file, node)):
        if node.op_type in ENDS:
            axis = _attributes(node).get("axis", -1)
            if node.op_type == "Softmax" and axis not in (-1, 1):
                raise _other(node, f"has axis={axis}")
            return data[0], ENDS[node.op_type]
        if node.op_type not in (*SAME, "Concat"):
            break
        last = data[-1]  # of a Concat, 1 - p and p of two classes
    return value, "squared_error"


def _chain(file: _File, value: str, begin: str) -> list[_Part]:
    """Return the layers from the value `begin` to a value; they are read from the last one."""
    parts: list[_Part] = []
    bias = None
    while value != begin:
        node = file.makers.get(value)
        if node is None and begin == file.x.name:
            raise ExchangeError(f"nothing makes {value!r} from the input {begin!r}")
        if node is None:
            raise ExchangeError(f"a sum with {begin!r} is no x + f(x), the sum of a Residual")
        kind, given, data = node.op_type, _attributes(node), _data(file, node)
        arrays = [file.arrays.get(i) for i in node.input]
        if bias is not None and kind not in ("Add", "Gemm", "MatMul", *SAME):
            raise _other(node, "adds a constant that is no bias of a product before it")
        found = None if bias is not None else find_layer(value, file.makers, file.arrays)
        if found is not None:
            parts.append(_Part(found.layer, found.params))
            value = found.x
        elif kind == "Add" and len(data) == 2 and bias is None:
            part, value = _residual(file, node, *data)
            parts.append(part)
        elif len(data) != 1:
            raise _other(node, f"has {len(data)} inputs that depend on {file.x.name!r}")
        elif kind in SAME:
            value = data[0]
        elif kind == "Add":
            (array,) = [a for a in arrays if a is not None]
            bias, value = array if bias is None else array + bias, data[0]
        elif kind in ("MatMul", "Gemm"):
            parts.append(_dense(node, given, arrays, bias))
            bias, value = None, data[0]
        else:
            parts.append(_activation(node, kind, given, arrays))
            value = data[0]
    if bias is not None:
        raise ExchangeError(f"a constant is added to the input {begin!r}, before any product")
    return parts[::-1]


def _residual(file: _File, node: Any, a: str, b: str) -> tuple[_Part, str]:
    """Return the Residual of x + f(x) or f(x) + x, and x."""
    if not _depends(file, b, a):
        a, b = b, a
    if not _depends(file, b, a):
        raise _other(node, "adds two values, neither of which is made from the other")
    parts = _chain(file, b, a)
    if len(parts) == 1:
        return _Part(Residual(parts[0].layer), parts[0].params), a
    if not parts:
        return _Part(Residual(Identity()), ()), a
    chain = Chain([part.layer for part in parts])
    return _Part(Residual(chain), tuple(part.params for part in parts)), a


def _depends(file: _File, value: str, on: str) -> bool:
    """Tell whether a value is another one, or is made from it."""
    seen, ahead = set(), [value]
    while ahead:
        value = ahead.pop()
        if value == on:
            return True
        if value not in seen and value in file.makers:
            ahead += file.makers[value].input
        seen.add(value)
    return False


def _other(node: Any, why: str) -> ExchangeError:
    return ExchangeError(
        f"the node {node.name or node.output[0]!r}, {node.op_type}, {why}: from_onnx reads chains "
        "of the layers that its documentation lists"
    )


def _dense(node: Any, given: dict[str, Any], arrays: list[Any], bias: Any) -> _Part:
    W = arrays[1]
    if W is None or W.ndim != 2 or given.get("transA", 0):
        raise _other(node, "is no product of the rows and a constant matrix")
    if given.get("transB", 0):
        W = W.T
    W = np.multiply(W, given.get("alpha", 1.0), dtype=W.dtype)
    if len(arrays) > 2 and arrays[2] is not None:
        own = np.multiply(arrays[2], given.get("beta", 1.0), dtype=W.dtype)
        bias = own if bias is None else own + bias
    b = np.zeros(W.shape[1], W.dtype) if bias is None else np.asarray(bias)
    if b.size not in (1, W.shape[1]) or b.ndim > 2:
        raise _other(node, f"has a bias of shape {b.shape}, for {W.shape[1]} outputs")
    b = np.broadcast_to(b.reshape(1, -1), (1, W.shape[1]))
    return _Part(Dense(W.shape[1]), {"W": W, "b": b})


def _activation(node: Any, kind: str, given: dict[str, Any], arrays: list[Any]) -> _Part:
    if kind in SIMPLE:
        return _Part(SIMPLE[kind](), ())
    if kind == "LeakyRelu":
        return _Part(LeakyReLU(shortest(np.float32(given.get("alpha", 0.01)))), ())
    if kind == "Gelu":
        if given.get("approximate", b"none") != b"tanh":
            raise _other(node, 'is exact, and portnet.GELU is that with approximate="tanh"')
        return _Part(GELU(), ())
    if kind == "LayerNormalization" and arrays[1] is not None:
        gamma = np.asarray(arrays[1])
        beta = np.zeros_like(gamma) if [*arrays, None][2] is None else np.asarray(arrays[2])
        if gamma.ndim != 1 or beta.shape != gamma.shape or given.get("axis", -1) not in (-1, 1):
            raise _other(node, "does not normalise each row")
        norm = LayerNorm(shortest(np.float32(given.get("epsilon", 1e-5))))
        return _Part(norm, {"gamma": gamma[None], "beta": beta[None]})
    raise _other(node, "is not among the layers of portnet")


def _check_dtype(parts: list[_Part]) -> str:
    dtypes = sorted({a.dtype.name for part in parts for a in tree.leaves(part.params)})
    if len(dtypes) != 1 or dtypes[0] not in FLOATS:
        raise ExchangeError(f"expected one dtype, float32 or float64, got {dtypes}")
    return str(dtypes[0])


def _compare(file: _File, output: Any, model: Chain, params: Params, loss: str) -> None:
    """Raise ExchangeError unless the network computes what ONNX's evaluator does."""
    from onnx import helper, reference

    needed, nodes = {output.name}, []
    for node in reversed(file.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    graph = helper.make_graph(
        nodes[::-1],
        "part",
        [file.x],
        [output],
        [t for t in file.graph.initializer if t.name in needed],
    )
    part = helper.make_model(graph, opset_imports=file.opsets)
    first = tree.leaves(params)[0]
    kind = file.x.type.tensor_type
    rows = kind.shape.dim[0].dim_value if kind.shape.dim else 0
    width = width_of(model, params)
    assert width is not None, "a network without parameters is refused before"
    X = np.random.default_rng(0).normal(size=(rows or 7, width)).astype(first.dtype)
    given = X.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    with np.errstate(all="ignore"):
        (expected,) = reference.ReferenceEvaluator(part).run([output.name], {file.x.name: given})
        try:
            mean = LOSSES[loss]().mean(model.forward(params, X)[0])  # type: ignore[attr-defined]
        except ShapeError as refused:
            raise ExchangeError(f"its layers do not fit: {refused}") from None
    if expected.ndim == 2 and expected.shape[-1] == 2 * mean.shape[-1] == 2:
        mean = two_columns(mean)
    if mean.size != expected.size:
        raise ExchangeError(f"its output has the shape {expected.shape}, the network {mean.shape}")
    error = np.abs(mean - expected.reshape(mean.shape)).max()
    if not error <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ExchangeError(
            f"it computes something else than its layers do, {model!r}: they differ by {error:.1e}"
        )
