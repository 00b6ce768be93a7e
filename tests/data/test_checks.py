"""Validation of data, labels, weights, devices and options: error types and messages."""

import re
from datetime import datetime, time, timedelta

import array_api_strict
import numpy as np
import pytest

import portnet
from portnet import DataError, ShapeError, tree

X = np.arange(24.0).reshape(6, 4) / 10
LABELS = np.array([0, 1, 2, 0, 1, 2])
VALUES = np.arange(6.0)
NET = portnet.mlp([4, 3, 3])
START, _ = NET.init(np.random.default_rng(0), 4)


def changed(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


def classify(X=X, y=LABELS, fit=None, **options):
    trainer = portnet.Trainer(NET, "softmax_cross_entropy", "sgd", **options)
    return trainer.fit(X, y, **({"epochs": 1} | (fit or {})))


def regress(X=X, y=VALUES, loss="squared_error", outputs=1, **fit):
    trainer = portnet.Trainer(portnet.mlp([4, 3, outputs]), loss)
    return trainer.fit(X, y, **({"epochs": 1} | fit))


def strict(host, device="device1"):
    dtype = array_api_strict.float32 if np.asarray(host).dtype.kind == "f" else None
    return array_api_strict.asarray(host, dtype=dtype, device=array_api_strict.Device(device))


class Sparse:
    def toarray(self):
        return X


CASES = {
    # X
    "1-D X": (
        lambda: classify(X[0]),
        DataError,
        "X: expected shape (rows, features), got (4,): X.res",
    ),
    "3-D X": (
        lambda: classify(X[None]),
        DataError,
        "X: expected shape (rows, features), got (1, 6, 4)",
    ),
    "0-D X": (lambda: classify(1.0), DataError, "X: expected shape (rows, features), got ()"),
    "no rows": (
        lambda: classify(X[:0], LABELS[:0]),
        DataError,
        "at least one row and one feature, go",
    ),
    "no features": (
        lambda: portnet.Trainer(portnet.Dense(3), "softmax_cross_entropy").fit(X[:, :0], LABELS),
        DataError,
        "at least one row and one feature, got shape (6, 0)",
    ),
    "X with another number of features": (
        lambda: classify(X[:, :3]),
        DataError,
        "X: expected 4 features, got 3",
    ),
    "ragged X": (
        lambda: classify([[1, 2, 3, 4], [5, 6]]),
        DataError,
        "X: expected a rectangular array of numbers, got rows of different lengths",
    ),
    "text X": (
        lambda: classify([["a"] * 4] * 6),
        DataError,
        "X: column 0 contains text such as 'a', but numbers are needed: drop it, or",
    ),
    "mixed X": (
        lambda: classify(np.array([["a", 1, 2, 3]] * 6, dtype=object)),
        DataError,
        "X: column 0 contains text such as 'a', but numbers are needed: drop it, or",
    ),
    "complex X": (
        lambda: classify(X + 1j),
        DataError,
        "X: expected real numbers, got data of dtype co",
    ),
    "dates in X": (
        lambda: classify(np.zeros((6, 4), "datetime64[s]")),
        DataError,
        "X: column 0 contains dates or times, but numbers are needed: convert them to days or seconds",
    ),
    "sparse X": (
        lambda: classify(Sparse()),
        TypeError,
        "X: sparse data was passed, but dense is requi",
    ),
    "masked X": (
        lambda: classify(np.ma.masked_greater(X, 1)),
        DataError,
        "X: expected no masked values: replace them with x.filled(...)",
    ),
    "NaN in X": (
        lambda: classify(changed(X, (3, 1), np.nan)),
        DataError,
        "X contains NaN at row 3, column 1",
    ),
    "several NaN in X": (
        lambda: classify(changed(X, (slice(2, 4), 1), np.nan)),
        DataError,
        "X contains NaN at row 2, column 1 (and 1 more)",
    ),
    "None in X": (
        lambda: classify([[1, 2, None, 4]] * 6),
        DataError,
        "X contains NaN at row 0, column 2 (and 5 more)",
    ),
    "infinite X": (
        lambda: classify(changed(X, (0, 2), -np.inf)),
        DataError,
        "X contains infinity or a value too large for float32 at row 0, column 2",
    ),
    "X too large": (
        lambda: classify(changed(X, (3, 1), -1e300)),
        DataError,
        "X: a value of 1e+300 is too large for float32 at row 3, column 1: scale the data",
    ),
    "X too large on a device": (
        lambda: classify(
            array_api_strict.asarray(changed(X, (0, 0), 1e300)), array_api_strict.asarray(LABELS)
        ),
        DataError,
        "X: a value of 1e+300 is too large for float32 at row 0, column 0: scale the data",
    ),
    # labels
    "no y": (lambda: classify(y=None), DataError, "y: expected targets, got None"),
    "short y": (
        lambda: classify(y=LABELS[:5]),
        DataError,
        "y: expected 6 rows, as many as in X, got shape (5,)",
    ),
    "0-D y": (
        lambda: classify(y=1),
        DataError,
        "y: expected 6 rows, as many as in X, got shape ()",
    ),
    "label too large": (
        lambda: classify(y=changed(LABELS, 4, 3)),
        DataError,
        "y: expected labels from 0 to 2 (the network has 3 outputs), got 3 at row 4",
    ),
    "negative label": (
        lambda: classify(y=changed(LABELS, 1, -1)),
        DataError,
        "y: expected labels from 0 to 2 (the network has 3 outputs), got -1 at row 1",
    ),
    "fractional labels": (
        lambda: classify(y=LABELS + 0.5),
        DataError,
        "y: expected integer labels from 0 to 2, or probabilities of shape (6, 3); got 0.5 at row",
    ),
    "floating labels out of range": (
        lambda: classify(y=LABELS + 1.0),
        DataError,
        "y: expected labels from 0 to 2 (the network has 3 outputs), got 3 at row",
    ),
    "text labels": (
        lambda: classify(y=list("abcdab")),
        DataError,
        "y: expected 3 classes, as the network has 3 outputs, got 4 classes: 'a', 'b', 'c', 'd'",
    ),
    "labels in two columns": (
        lambda: classify(y=np.c_[LABELS, LABELS]),
        DataError,
        "y: expected integer labels of shape (6,), or probabilities of shape (6, 3), one column for ea",
    ),
    "ragged y": (
        lambda: classify(y=[[0], [1, 2], 0, 0, 0, 0]),
        DataError,
        "y: expected a rectangular",
    ),
    "probabilities above 1": (
        lambda: classify(y=np.eye(3)[LABELS] * 2),
        DataError,
        "y: expected targets from 0 to 1 (as SoftmaxCrossEntropy needs), got 2 at row 0, column 0",
    ),
    "probabilities that do not sum to 1": (
        lambda: classify(y=np.eye(3)[LABELS] * 0.5),
        DataError,
        "y: expected the probabilities of a row to sum to 1, got 0.5 at row 0",
    ),
    # targets
    "target of another shape": (
        lambda: regress(y=np.zeros((6, 2))),
        DataError,
        "y: expected targets of shape (6, 1), one column for each output, got (6, 2)",
    ),
    "1-D target of several outputs": (
        lambda: regress(outputs=2),
        DataError,
        "y: expected targets of shape (6, 2), one column for each output, got (6,)",
    ),
    "NaN in y": (
        lambda: regress(y=changed(VALUES, 2, np.nan)),
        DataError,
        "y contains NaN at row 2",
    ),
    "infinite y": (
        lambda: regress(y=changed(VALUES, 5, np.inf)),
        DataError,
        "y contains infinity or a value too large for float32 at row 5",
    ),
    "y too large": (
        lambda: regress(y=VALUES * 1e300),
        DataError,
        "y: a value of 5e+300 is too large",
    ),
    "text targets": (
        lambda: regress(y=["a"] * 6),
        DataError,
        "y: expected numbers, got text such as",
    ),
    "sigmoid target out of range": (
        lambda: regress(loss="sigmoid_cross_entropy"),
        DataError,
        "y: expected targets from 0 to 1 (as SigmoidCrossEntropy needs), got 2 at row 2, column 0",
    ),
    "negative count": (
        lambda: regress(y=VALUES - 1, loss="poisson"),
        DataError,
        "y: expected targets of at least 0 (as PoissonLoss needs), got -1 at row 0, column 0",
    ),
    # weights
    "weights of another shape": (
        lambda: regress(sample_weight=np.ones(5)),
        DataError,
        "sample_weight: expected shape (6,), one weight per row, got (5,)",
    ),
    "negative weight": (
        lambda: regress(sample_weight=changed(np.ones(6), 3, -1)),
        DataError,
        "sample_weight: expected weights of at least 0 (each multiplies the loss of its row), got -1 at row 3",
    ),
    "NaN weight": (
        lambda: regress(sample_weight=changed(np.ones(6), 3, np.nan)),
        DataError,
        "sample_weight contains NaN at row 3",
    ),
    "zero weights": (
        lambda: regress(sample_weight=np.zeros(6)),
        DataError,
        "sample_weight: expected at least one weight above 0, got only zeros",
    ),
    # validation set
    "validation of another width": (
        lambda: classify(fit={"validation": (X[:, :2], LABELS)}),
        DataError,
        "validation X: expected 4 features, got 2",
    ),
    "validation labels out of range": (
        lambda: classify(fit={"validation": (X, LABELS + 1)}),
        DataError,
        "validation y: expected labels from 0 to 2 (the network has 3 outputs), got 3 at row 2",
    ),
    "validation without y": (
        lambda: classify(fit={"validation": X}),
        ValueError,
        "validation: expected (X, y) or (X, y, sample_weight)",
    ),
    # libraries and devices
    "X and y on two devices": (
        lambda: classify(strict(X), strict(LABELS, "device2")),
        TypeError,
        "y is a array_api_strict array on device2, but X is a array_api_strict array on device1. Move",
    ),
    "y on a device, X on the host": (
        lambda: classify(X, strict(LABELS)),
        TypeError,
        "y is a array_api_strict array on device1, but X is a numpy array on cpu, which is moved to numpy on cpu. Move",
    ),
    "weights on a device": (
        lambda: regress(sample_weight=strict(np.ones(6))),
        TypeError,
        "sample_weight is a array_api_strict array on device1, but X is",
    ),
    "validation on another device": (
        lambda: classify(strict(X), fit={"validation": (strict(X, "device2"), LABELS)}),
        TypeError,
        "validation X is a array_api_strict array on device2, but X is",
    ),
    "predicting on another device": (
        lambda: classify().predict(strict(X)),
        TypeError,
        "X is a array_api_strict array on device1, but the parameters are on numpy on cpu: give portn",
    ),
    # parameters
    "parameters of another structure": (
        lambda: classify(params=START[:2]),
        DataError,
        "params: pytrees differ at the top: expected a tuple of 3, got a tuple of 2",
    ),
    "parameters of another shape": (
        lambda: classify(params=({**START[0], "W": START[0]["W"].T}, *START[1:])),
        DataError,
        "params[0]['W']: expected shape (4, 3), got (3, 4)",
    ),
    "NaN parameters": (
        lambda: classify(params=tree.map(lambda p: p * np.nan, START)),
        DataError,
        "params[0]['W'] contains NaN at row 0, column 0 (and 11 more)",
    ),
    "parameters on another device": (
        lambda: classify(params=tree.map(strict, START)),
        TypeError,
        "params[0]['W'] is a array_api_strict array on device1, but X is moved to numpy on cpu",
    ),
    # options
    "batch size 0": (
        lambda: classify(batch_size=0),
        ValueError,
        "batch_size: expected an integer of a",
    ),
    "batch size 2.5": (lambda: classify(batch_size=2.5), ValueError, "at least 1, got 2.5"),
    "negative seed": (
        lambda: classify(seed=-1),
        ValueError,
        "seed: expected an integer of at least 0",
    ),
    "negative epochs": (
        lambda: classify(fit={"epochs": -1}),
        ValueError,
        "epochs: expected an integer",
    ),
    "True epochs": (
        lambda: classify(fit={"epochs": True}),
        ValueError,
        "epochs: expected an integer",
    ),
    "unknown loss": (
        lambda: portnet.Trainer(NET, "softmax_crossentropy"),
        ValueError,
        "unknown loss 'softmax_crossentropy': did you mean 'softmax_cross_entropy'?",
    ),
    "loss without ()": (
        lambda: portnet.Trainer(NET, portnet.SquaredError),
        TypeError,
        "expected a loss(pred, target, weight) with __call__, got <class",
    ),
    "loss of None": (
        lambda: portnet.Trainer(NET, None),
        TypeError,
        "expected a loss(pred, target, weight) with __call__, got None",
    ),
    "unknown optimizer": (
        lambda: portnet.Trainer(NET, "huber", "adan"),
        ValueError,
        "unknown optimizer 'adan': did you mean 'adam'?",
    ),
    "optimizer without ()": (
        lambda: portnet.Trainer(NET, "huber", portnet.Adam),
        TypeError,
        "expected an optimizer with init, update, got <class",
    ),
    "model without methods": (
        lambda: portnet.Trainer([4, 3], "huber"),
        TypeError,
        "expected a model with init, forward, backward, got [4, 3]",
    ),
    "unknown metric": (
        lambda: classify(fit={"metrics": ["acuracy"]}),
        ValueError,
        "unknown metric 'acuracy': did you mean 'accuracy'?",
    ),
    "accuracy of a multilabel target": (
        lambda: regress(
            y=np.eye(3)[LABELS], loss="sigmoid_cross_entropy", outputs=3, metrics="accuracy"
        ),
        ValueError,
        "metric 'accuracy' compares one class per row, but this network has 3 labels per row: use 'label_",
    ),
    "shuffle as text": (
        lambda: classify(shuffle="False"),
        ValueError,
        "shuffle: expected True, 'full' or False, got 'False'",
    ),
    "epochs in an array": (
        lambda: classify(fit={"epochs": np.array([1, 2])}),
        ValueError,
        "epochs: expected an integer of at least 0, got array([1, 2])",
    ),
    "two metrics with one name": (
        lambda: regress(metrics=[lambda m, t, w: 0.0, lambda m, t, w: 1.0]),
        ValueError,
        "metrics: expected functions with distinct names, none of them 'loss', 'scale' or 'validation_...', got '<lambda>' twice",
    ),
    "regression metric of labels": (
        lambda: classify(fit={"metrics": ["r2"]}),
        ValueError,
        "metric 'r2' compares numbers, but y contains labels: use 'accuracy'",
    ),
    "softmax of one output": (
        lambda: regress(y=[0] * 6, loss="softmax_cross_entropy"),
        DataError,
        "softmax_cross_entropy needs a network with one output per class, at least 2",
    ),
    # gradient checks
    "check_gradients with NaN": (
        lambda: portnet.check_gradients(NET, "huber", X * np.nan, X[:, :3]),
        DataError,
        "X contains NaN at row 0, column 0 (and 23 more)",
    ),
    "check_gradients with labels out of range": (
        lambda: portnet.check_gradients(NET, "softmax_cross_entropy", X, LABELS + 9),
        DataError,
        "y: expected labels from 0 to 2 (the network has 3 outputs), got 9 at row 0",
    ),
    "check_gradients with an unknown loss": (
        lambda: portnet.check_gradients(NET, "hubert", X, X),
        ValueError,
        "unknown loss 'hubert': did you mean 'huber'?",
    ),
    "check_layer with a class": (
        lambda: portnet.check_layer(portnet.ReLU),
        TypeError,
        "expected a layer with init, forward, backward, got <class 'portnet.layers.ReLU'>: write it",
    ),
    "check_layer with no rows": (
        lambda: portnet.check_layer(portnet.ReLU(), rows=0),
        ValueError,
        "rows: expected an integer of at least 1, got 0",
    ),
    "init with a negative seed": (
        lambda: portnet.init(NET, seed=-1),
        ValueError,
        "seed: expected an integer of at least 0, got -1",
    ),
    "init with no inputs": (
        lambda: portnet.init(portnet.Dense(3), 0),
        ValueError,
        "n_in: expected an integer of at least 1, got 0",
    ),
    # runs
    "classes of a regression": (
        lambda: regress().predict_class(X),
        TypeError,
        "predict_class needs a loss that predicts classes, sigmoid_cross_entropy or softmax_cross_en",
    ),
    "probabilities of a regression": (
        lambda: regress().predict_proba(X),
        TypeError,
        "predict_proba needs a loss that predicts classes",
    ),
    "predicting another number of features": (
        lambda: classify().predict(X[:, :3]),
        DataError,
        "X: expected 4 features, got 3",
    ),
    "evaluating labels out of range": (
        lambda: classify().evaluate(X, LABELS + 7),
        DataError,
        "y: expected labels from 0 to 2 (the network has 3 outputs), got 7 at row 0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_raises_its_error_and_message(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert type(caught.value) is error


def test_bad_data_on_other_backends_raise(other_xp):
    """The checks run on the device of the arrays."""
    trainer = portnet.Trainer(NET, "softmax_cross_entropy", "sgd")
    with pytest.raises(DataError, match="X contains NaN at row 3, column 1"):
        trainer.fit(other_xp.asarray(changed(X, (3, 1), np.nan)), LABELS)
    with pytest.raises(DataError, match=r"y: expected labels from 0 to 2 .* got 3 at row 4"):
        trainer.fit(other_xp.asarray(X), other_xp.asarray(changed(LABELS, 4, 3)))
    y = other_xp.asarray(LABELS)
    with (
        portnet.use_backend("numpy"),
        pytest.raises(
            TypeError, match=f"y is a {other_xp.name} array on .*, but X is a numpy array"
        ),
    ):
        trainer.fit(X, y)
    with pytest.raises(TypeError, match="y is a array_api_strict array on device1, but X is"):
        trainer.fit(other_xp.asarray(X), strict(LABELS))
    large = other_xp.asarray(changed(X, (0, 0), 1e300))
    with (
        portnet.use_backend(other_xp.name, device=other_xp.device),
        pytest.raises(DataError, match=r"X: a value of 1e\+300 is too large for float32"),
    ):
        trainer.fit(large, LABELS)


def test_mixed_libraries_in_layers_losses_and_metrics_raise(other_xp):
    both = f"got a numpy array on cpu and a {other_xp.name} array on"
    for layer in (portnet.Dense(4), portnet.LayerNorm()):
        params = portnet.init(layer, 4, like=other_xp.asarray(X))
        with pytest.raises(TypeError, match=both):
            layer.forward(params, X)
    with pytest.raises(TypeError, match=both):
        portnet.SquaredError()(X, X, other_xp.asarray(np.ones(6)))
    with pytest.raises(TypeError, match=both):
        portnet.metrics.r2(X, X, other_xp.asarray(np.ones(6)))
    with pytest.raises(TypeError, match=f"got a numpy array on cpu and a {other_xp.name} array on"):
        portnet.SquaredError()(X, other_xp.asarray(X))


def test_other_dtypes_and_memory_layouts_are_accepted():
    """Integers, booleans, float16, other orders in memory, read-only and big-endian data."""
    expected = classify().params
    frozen = X.copy()
    frozen.flags.writeable = False
    for x in (np.asfortranarray(X), frozen, X.astype(">f8"), X.tolist(), X[::-1][::-1]):
        for a, b in zip(tree.leaves(classify(x).params), tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)
    for y in (
        LABELS.tolist(),
        LABELS.astype("uint8"),
        np.eye(3)[LABELS],
        np.eye(3, dtype=int)[LABELS],
    ):
        for a, b in zip(tree.leaves(classify(y=y).params), tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    classify(X > 1)
    classify((X * 10).astype(int))
    regress(y=VALUES > 2, loss="sigmoid_cross_entropy")
    classify(X[:1], LABELS[:1])


def test_bad_data_change_neither_parameters_nor_arrays():
    run = classify()
    before = [p.copy() for p in tree.leaves(run.params)]
    x, y = changed(X, (3, 1), np.nan), LABELS.copy()
    with pytest.raises(DataError):
        run.evaluate(x, y)
    with pytest.raises(DataError):
        run.predict(x)
    for a, b in zip(before, tree.leaves(run.params), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(y, LABELS)


def test_error_classes_have_the_standard_base_classes():
    assert issubclass(DataError, ValueError)
    assert issubclass(ShapeError, ValueError)
    assert issubclass(portnet.BackendUnavailableError, RuntimeError)
    assert issubclass(portnet.DivergenceError, ArithmeticError)
    assert issubclass(portnet.GradientError, AssertionError)


# DataFrame columns, meta and sparse tensors, and mixed cells -------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_text_and_date_columns_raise_and_are_named(library):
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    X = {"age": [1.0, 2, 3], "city": ["Rome", "Oslo", "Lima"], "width": [1, 2, 3]}
    trainer = portnet.Trainer(portnet.mlp([3, 1]), "squared_error")
    with pytest.raises(DataError) as error:
        trainer.fit(module.DataFrame(X), [1.0, 2, 3])
    assert str(error.value) == (
        "X: column 'city' contains text such as 'Rome', but numbers are needed: drop it, or "
        "encode it as one column of 0 and 1 per value (pandas.get_dummies)"
    )
    X["city"] = [datetime(2026, 1, day) for day in (1, 2, 3)]
    with pytest.raises(DataError) as error:
        trainer.fit(module.DataFrame(X), [1.0, 2, 3])
    assert str(error.value) == (
        "X: column 'city' contains dates or times, but numbers are needed: convert them to days or "
        "seconds since a fixed date"
    )


def test_polars_time_columns_and_lazy_frames_raise():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    trainer = portnet.Trainer(portnet.mlp([2, 1]), "squared_error")
    values = [1.0, 2, 3]
    for column in ([time(1), time(2), time(3)], [timedelta(1), timedelta(2), timedelta(3)]):
        frame = polars.DataFrame({"width": values, "when": column})
        with pytest.raises(
            DataError, match=r"^X: column 'when' contains dates or times, but numbers"
        ):
            trainer.fit(frame, values)
    with pytest.raises(DataError, match=r"^X: expected"):
        trainer.fit(polars.DataFrame({"a": values, "b": values}).lazy(), values)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_meta_and_sparse_tensors_raise_and_are_named(torch):
    X, y = torch.ones((6, 3)), torch.zeros(6, dtype=torch.int64)
    trainer = portnet.Trainer(portnet.mlp([3, 3]), "softmax_cross_entropy")
    meta = r"{}: got a tensor on the device 'meta', which has a shape and no values"
    sparse = r"{}: sparse data was passed, but dense is required: use \.to_dense\(\)"
    run = trainer.fit(X, y, epochs=1)
    for wrong, kind, message in (
        (X.to("meta"), DataError, meta),
        (X.to_sparse(), TypeError, sparse),
        (X.to_sparse_csr(), TypeError, sparse),
    ):
        for name, call in (
            ("X", lambda wrong=wrong: trainer.fit(wrong, y)),
            ("y", lambda wrong=wrong: trainer.fit(X, wrong)),
            ("sample_weight", lambda wrong=wrong: trainer.fit(X, y, sample_weight=wrong)),
            ("validation X", lambda wrong=wrong: trainer.fit(X, y, validation=(wrong, y))),
            ("X", lambda wrong=wrong: run.predict(wrong)),
            ("X", lambda wrong=wrong: run.evaluate(wrong, y)),
        ):
            with pytest.raises(kind, match=f"^{message.format(name)}"):
                call()


def test_errors_in_the_validation_set_say_so():
    X, y = np.ones((6, 3)), np.zeros(6, int)
    trainer = portnet.Trainer(portnet.mlp([3, 3]), "softmax_cross_entropy")
    for wrong in ({"a": 1}, object()):
        with pytest.raises((TypeError, ValueError), match=r"^validation X: "):
            trainer.fit(X, y, validation=(wrong, y))
        with pytest.raises((TypeError, ValueError), match=r"^validation y: "):
            trainer.fit(X, y, validation=(X, wrong))
    with pytest.raises(TypeError, match=r"^validation X: sparse data was passed"):
        trainer.fit(X, y, validation=(Sparse(), y))
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises(TypeError, match=r"^validation X: Feature names are only supported"):
        trainer.fit(X, y, validation=(pandas.DataFrame(X, columns=["a", 1, 2]), y))


def test_text_or_date_in_a_cell_raises_and_is_named():
    rows = X.tolist()
    for value, text in (
        ("oops", "text such as 'oops'"),
        (np.datetime64("2026-01-01"), "dates or times"),
        (np.timedelta64(3, "s"), "dates or times"),
    ):
        given = [*rows[:-1], [0.0, value, 1.0, 2.0]]
        for x in (given, np.array(given, dtype=object)):
            with pytest.raises(DataError, match=f"^X: column 1 contains {text}, but numbers are"):
                regress(x)
    with pytest.raises(DataError, match=r"^y: expected real numbers, got np\.timedelta64\(3,'s'\)"):
        regress(y=[1.0, np.timedelta64(3, "s")] * 3)


def test_confusion_matrix_is_no_metric_of_an_epoch():
    with pytest.raises(ValueError, match=r"portnet\.metrics\.confusion_matrix\(run\.predict_proba"):
        portnet.data.checks.named_metrics(["confusion_matrix"], portnet.SoftmaxCrossEntropy(), 3)
