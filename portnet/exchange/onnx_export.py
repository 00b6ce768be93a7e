"""ONNX files of networks, runs and estimators, from the trace of their predictions."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from .._typing import Array, Host, Params
from .._validation import how_to_install
from ..backend import get_backend, namespace, to_numpy
from ..files.atomic import check_writable, write_file
from ..files.predictor import Predictor
from ..files.shapes import check_parameters
from ..layers import Chain, Dense, Layer, Residual
from ..losses import SoftmaxCrossEntropy
from ..metrics import two_columns
from ..run import Run
from .batch_trace import Length, trace_batch
from .errors import ExchangeError
from .graph import Graph
from .operators import add_program

__all__ = [
    "Ensemble",
    "Parts",
    "add_predictions",
    "export_onnx",
    "onnx_model",
    "parts_of",
    "width_of",
    "write_model",
]


def export_onnx(thing: Any, path: str | PathLike[str]) -> None:
    """Write a run, a fitted estimator or a network as an ONNX file, for ONNX Runtime and others.

    The prediction is traced as `portnet.compile` traces steps, and each operation becomes an ONNX
    operator. So layers of your own need no code for it, and the file holds exactly what portnet
    computes. It needs the extra ``onnx``.

    Parameters
    ----------
    thing : Run, MLPClassifier, MLPRegressor or (model, params)
        On any backend. Of an ensemble, or of the runs of a `portnet.Population`, the mean.
    path : path
        The file, which is written whole or not at all.

    Raises
    ------
    portnet.exchange.ExchangeError
        For an operation that cannot be traced or that ONNX lacks, and for a constant that depends
        on the number of rows: the message names the operation and your line.
    CheckpointError
        If the file cannot be written.

    Notes
    -----
    The input is ``x`` (rows, n_in), in the dtype of the network; any number of rows. The outputs,
    as skl2onnx names them for classifiers:

    * of classifiers, and of runs whose loss predicts classes, ``label`` (rows,), the class, which
      may be text, and ``probabilities`` (rows, classes). For several labels a row, ``label`` has 0
      or 1 for each (rows, labels);
    * of regressors and of other runs, ``prediction`` (rows, outputs), the mean of the target;
    * of (model, params), ``y`` (rows, n_out), the raw outputs.

    ONNX Runtime has no float64 kernels for some functions that portnet's own layers do not use:
    tan, acos, asin, atan, sinh, cosh and their inverses. Export float32 there:
    ``run.to("numpy", dtype="float32")``.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import portnet
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["no", "no", "yes", "yes"])
    >>> trainer = portnet.Trainer(portnet.mlp([1, 2]), "softmax_cross_entropy", portnet.Adam(0.1))
    >>> run = trainer.fit(X, y, epochs=100)
    >>> path = os.path.join(tempfile.mkdtemp(), "run.onnx")
    >>> portnet.export_onnx(run, path)  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession(path)  # doctest: +SKIP
    >>> session.run(["label"], {"x": np.float32([[0.5]])})  # doctest: +SKIP
    [array(['no'], dtype=object)]
    """
    check_writable(path)
    write_model(onnx_model(thing), path)


def write_model(model: Any, path: str | PathLike[str]) -> None:
    """Write an ONNX model to a file, whole or not at all."""
    write_file(path, [model.SerializeToString()])


def onnx_model(thing: Any) -> Any:
    """Return the ONNX model of a run, an estimator or a network, checked: see `export_onnx`."""
    if importlib.util.find_spec("onnx") is None:
        raise ImportError(f"export_onnx needs onnx: {how_to_install('onnx')}")
    parts = parts_of(thing)
    graph = Graph({"x"})
    x = graph.input("x", parts.dtype, parts.width)
    add_predictions(graph, parts, x)
    return graph.model(f"portnet {parts.name}", {})


class Parts(NamedTuple):
    """What is exported: a network on NumPy, and what comes after it.

    `answers` returns the outputs by name from the raw outputs (rows, outputs). `classes` has the
    labels, by the names of the answers that are their codes.
    """

    name: str
    model: Any
    params: Params
    width: int
    dtype: Any
    answers: Callable[[Array], dict[str, Array]]
    classes: Mapping[str, Host] = {}


def add_predictions(
    graph: Graph, parts: Parts, x: str, *, shift: float = 0.0, scale: float = 1.0
) -> None:
    """Add the predictions for the value x (rows, width) to a graph, as its outputs.

    A prediction is shift + scale times that of the network, in float64, if these are given.
    """
    lengths = {n for array in tree.leaves(parts.params) for n in np.shape(array)}
    keys: list[str] = []

    def predictions(x: Array) -> tuple[Array, ...]:
        answers = parts.answers(parts.model.forward(parts.params, x)[0])
        keys[:] = answers
        return tuple(answers.values())

    traced = trace_batch(predictions, parts.width, parts.dtype, lengths)
    names = add_program(graph, traced, x)
    found = []
    for key, name, leaf in zip(keys, names, traced.program.leaves, strict=True):
        dtype = leaf.dtype
        if key in parts.classes:
            labels = _labels(parts.classes[key])
            name = graph.add("Gather", graph.constant(labels, "labels"), name)
            dtype = labels.dtype
        elif key == "label" and dtype != np.int64:
            name, dtype = graph.add("Cast", name, to=7), np.dtype(np.int64)
        elif (shift, scale) != (0.0, 1.0):
            dtype = np.dtype(np.float64)
            name = name if leaf.dtype == dtype else graph.add("Cast", name, to=11)
            name = graph.add("Mul", name, graph.constant(np.float64(scale)))
            name = graph.add("Add", name, graph.constant(np.float64(shift)))
        found.append((key, name, dtype, list(map(_shown, traced.shape(leaf)))))
    for key, name, dtype, shape in found:
        graph.output(key, name, dtype, shape)


def _shown(length: Length) -> int | str | None:
    """Return the length of an axis as ONNX shows it."""
    if not length.factor:
        return length.offset
    return "rows" if length == (1, 0) else None


def _labels(classes: Host) -> Host:
    """Return the labels of classes in a dtype that ONNX has."""
    labels = np.asarray(classes)
    if labels.dtype.kind in "OU" and all(isinstance(label, str) for label in labels):
        return labels.astype(object)
    if labels.dtype.kind not in "biuf" or labels.dtype.itemsize > 8:
        raise ExchangeError(
            f"expected classes that are text or numbers of at most 64 bits, got {labels!r:.80}"
        )
    return labels


# What is exported -------------------------------------------------------------------------------


def parts_of(thing: Any) -> Parts:
    """Return what is exported of a run, a fitted estimator, a predictor or (model, params)."""
    if isinstance(thing, Run):
        return _of_runs((thing,))
    if isinstance(thing, Sequence) and hasattr(thing, "runs"):  # of a Population
        return _of_runs(thing)
    if isinstance(thing, Predictor):
        return _of_predictor(thing)
    if isinstance(thing, tuple) and len(thing) == 2 and hasattr(thing[0], "forward"):
        return _of_network(*thing)
    fitted = hasattr(thing, "coefs_") or hasattr(thing, "estimators_")
    if fitted and hasattr(thing, "_network"):
        return _of_estimator(thing)
    if hasattr(thing, "hidden_layer_sizes"):
        raise TypeError(f"expected a fitted estimator, got {type(thing).__name__}: fit it")
    raise TypeError(
        "expected a run, a fitted MLPClassifier or MLPRegressor of portnet, or (model, params), "
        f"got {type(thing).__name__}"
    )


def _of_network(model: Layer, params: Params) -> Parts:
    width = getattr(model, "n_in", None) or width_of(model, params)
    if width is None:
        raise ExchangeError(
            "the number of inputs is not known from the parameters: give it, "
            "portnet.Chain(layers, n_in=...)"
        )
    params = tree.map(to_numpy, params)
    leaves = tree.leaves(params)
    check_parameters(model, params, width)
    dtype = np.asarray(leaves[0]).dtype if leaves else np.dtype(get_backend().dtype)
    return Parts("network", model, params, width, dtype, lambda raw: {"y": raw})


def width_of(model: Any, params: Any) -> int | None:
    """Return the number of inputs of a model; None if its parameters do not say it."""
    if isinstance(model, Chain):
        found = (width_of(*pair) for pair in zip(model.layers, params, strict=True))
        return next((width for width in found if width is not None), None)
    if isinstance(model, Residual):
        return width_of(model.layer, params)
    name, axis = ("W", -2) if isinstance(model, Dense) else ("gamma", -1)
    return int(params[name].shape[axis]) if isinstance(params, dict) and name in params else None


def _of_runs(runs: Sequence[Run]) -> Parts:
    """Return what is exported of a run, or of those of a population: the mean of all."""
    runs = [run.to("numpy") for run in runs]
    run, several = runs[0], len(runs) > 1
    loss = run.trainer.loss

    def mean_of(raw: Array) -> Array:
        return loss.mean(raw) if hasattr(loss, "mean") else raw

    def answers(raw: Any) -> dict[str, Array]:
        if several:
            each = [mean_of(one) for one in raw]
            mean = namespace(*each).mean(namespace(*each).stack(each), axis=0)
        else:
            mean = mean_of(raw)
        if not hasattr(loss, "classes"):
            return {"prediction": mean}
        return {"label": loss.classes(mean), "probabilities": two_columns(mean)}

    dtype = np.dtype(run.backend.dtype)
    name = f"run of {run.epoch} epochs"
    classes = {} if run.classes is None else {"label": run.classes}
    model: Any = run.trainer.model
    params = run.params
    if several:
        model = Ensemble(tuple(r.trainer.model for r in runs))
        params = tuple(r.params for r in runs)
    return Parts(name, model, params, run.inputs, dtype, answers, classes)


def _of_predictor(predictor: Predictor) -> Parts:
    there = predictor.to("numpy")

    answers, classes = _of_answers(there, there._codes, there.multilabel)
    return Parts(
        there.name,
        there.model,
        there.params,
        there.n_features_in_,
        np.dtype(there.backend.dtype),
        answers,
        classes,
    )


def _of_estimator(estimator: Any) -> Parts:
    there = estimator.to("numpy")
    several = getattr(there, "estimators_", None)
    networks = [e._network() for e in several or [there]]
    dtype = tree.leaves(networks[0][1])[0].dtype
    model, params = networks[0]
    kind = getattr(getattr(there, "_label_binarizer", None), "y_type_", "")
    codes = getattr(there, "_predict_codes", None)
    answers, classes = _of_answers(there, codes, kind == "multilabel-indicator")
    if several:
        model, params, answers = _together(there, networks, answers)
    name = type(estimator).__name__
    return Parts(name, model, params, there.n_features_in_, dtype, answers, classes)


class Ensemble(NamedTuple):
    """Several networks."""

    models: tuple[Layer, ...]

    def forward(self, params: Params, x: Array) -> tuple[list[Array], None]:
        """Return the raw outputs (rows, outputs) of each."""
        each = zip(self.models, params, strict=True)
        return [model.forward(part, x)[0] for model, part in each], None


def _together(estimator: Any, networks: list[Any], answers: Any) -> tuple[Any, Params, Any]:
    """Return model, parameters and answers of an ensemble."""
    models, params = zip(*networks, strict=True)

    def mean(raws: list[Array]) -> dict[str, Array]:
        if hasattr(estimator, "classes_"):
            found: dict[str, Array] = answers(estimator._joined(raws))
            return found
        each = [estimator._mean(raw) for raw in raws]
        xp = namespace(*each)
        return {"prediction": xp.mean(xp.stack(each), axis=0)}

    return Ensemble(models), params, mean


def _of_answers(estimator: Any, codes: Any, multilabel: bool) -> tuple[Any, dict[str, Host]]:
    """Return the function from raw outputs to answers, and the labels, of an estimator."""
    known = getattr(estimator, "classes_", None)
    if known is None:
        return lambda raw: {"prediction": estimator._mean(raw)}, {}
    if not isinstance(known, list):

        def answers(raw: Array) -> dict[str, Array]:
            return {"label": codes(raw), "probabilities": estimator._probabilities(raw)}

        return answers, {} if multilabel else {"label": known}

    def of_heads(raw: Array) -> dict[str, Array]:  # each has the outputs of its classes
        found, begin = {}, 0
        for i, classes in enumerate(known):
            z = raw[:, begin : begin + len(classes)]
            begin += len(classes)
            found[f"label_{i}"] = namespace(z).argmax(z, axis=-1)
            found[f"probabilities_{i}"] = SoftmaxCrossEntropy().mean(z)
        return found

    return of_heads, {f"label_{i}": classes for i, classes in enumerate(known)}
