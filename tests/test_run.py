"""Run: feature names, shapes of predictions, moving to another backend."""

import pickle

import numpy as np
import pytest
from custom import Square
from fits import LABELS, MONITORING, X, assert_equal, assert_near, host, trainer

import portnet
from portnet import tree

# Feature names, and shapes of predictions --------------------------------------------------------


UNSEEN = (
    "The feature names should match those that were passed during fit.\nFeature names unseen at fit "
    "time:\n- z\nFeature names seen at fit time, yet now missing:\n- c\n"
)
ORDER = (
    "The feature names should match those that were passed during fit.\nFeature names must be in the "
    "same order as they were in fit.\n"
)


@pytest.mark.parametrize(("names", "message"), [("abzde", UNSEEN), ("edcba", ORDER)])
def test_other_feature_names_raise_in_every_method(names, message, frame):
    run = trainer().fit(frame(X), LABELS, epochs=2)
    assert run.feature_names == tuple("abcde")
    wrong = frame(X, names)
    for given, call in (
        ("", lambda: run.predict(wrong)),
        ("", lambda: run.predict_class(wrong)),
        ("", lambda: run.predict_proba(wrong)),
        ("", lambda: run.evaluate(wrong, LABELS)),
        ("", lambda: run.fit(wrong, LABELS)),
        ("", lambda: run.to("numpy").predict(wrong)),
        ("", lambda: pickle.loads(pickle.dumps(run)).predict(wrong)),
        ("validation X: ", lambda: run.fit(frame(X), LABELS, validation=(wrong, LABELS))),
        ("validation X: ", lambda: trainer().fit(frame(X), LABELS, validation=(wrong, LABELS))),
    ):
        with pytest.raises(portnet.DataError) as error:
            call()
        assert str(error.value) == given + message


def test_feature_name_errors_equal_those_of_scikit_learn(frame):
    """The messages equal those of a scikit-learn estimator."""
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    reference = linear.LinearRegression().fit(frame(X), X[:, 0])
    run = portnet.Trainer(portnet.mlp([5, 1]), "squared_error").fit(frame(X), X[:, 0], epochs=1)
    for wrong in (frame(X, "edcba"), frame(X, "abzde"), frame(X, "vwxyz")):
        messages = []
        for model in (reference, run):
            with pytest.raises(ValueError, match="feature names") as error:
                model.predict(wrong)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_feature_names_in_fit_or_predict_only_warn(frame):
    named = trainer().fit(frame(X), LABELS, epochs=1)
    plain = trainer().fit(X, LABELS, epochs=1)
    assert plain.feature_names is None
    with pytest.warns(UserWarning, match=r"X does not have valid feature names, but Run was") as w:
        answer = named.predict(X)
    assert w[0].filename == __file__
    with pytest.warns(UserWarning, match=r"X has feature names, but Run was fitted without"):
        np.testing.assert_array_equal(plain.predict(frame(X)), answer)


def test_feature_names_of_mixed_types_raise():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises(TypeError, match=r"only supported if all input features have string names"):
        trainer().fit(pandas.DataFrame(X, columns=["a", 1, 2, 3, 4]), LABELS)
    run = trainer().fit(pandas.DataFrame(X), LABELS, epochs=1)  # integer columns: no names
    assert run.feature_names is None
    run.predict(X)


@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson", "sigmoid_cross_entropy"])
def test_predictions_have_the_shape_of_y(loss, backend_name):
    with portnet.use_backend(backend_name):
        y = (LABELS > 0) * 1.0
        net = portnet.Trainer(portnet.mlp([5, 4, 1]), loss)
        flat, column = (net.fit(X, t, epochs=1) for t in (y, y[:, None]))
        as_list = net.fit(X.tolist(), y.tolist(), epochs=1)
        given = portnet.asarray(X)
        for run, shape in ((flat, (96,)), (column, (96, 1)), (as_list, (96,))):
            assert run.predict(X).shape == shape
            assert tuple(run.predict(given).shape) == shape
        assert (y - flat.predict(X)).shape == (96,)
        on = flat.fit(X, y, epochs=1).to("numpy")
        assert pickle.loads(pickle.dumps(on)).predict(X).shape == (96,)
        np.testing.assert_array_equal(flat.predict(X), column.predict(X)[:, 0])
        assert flat.fit(X, y[:, None], epochs=1).predict(X).shape == (96, 1)  # as the last y


def test_predict_proba_of_one_output_has_two_columns(backend_name):
    with portnet.use_backend(backend_name):
        for y in (LABELS > 0, (LABELS > 0)[:, None], np.where(LABELS > 0, "yes", "no")):
            run = portnet.Trainer(portnet.mlp([5, 4, 1]), "sigmoid_cross_entropy").fit(
                X, y, epochs=1
            )
            proba = run.predict_proba(X)
            assert proba.shape == (96, 2)
            np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
            np.testing.assert_array_equal(proba[:, 1], run.predict(X).reshape(-1))
            second = run.predict_class(X).reshape(-1) == ("yes" if run.classes is not None else 1)
            np.testing.assert_array_equal(proba.argmax(axis=1) == 1, second)


def test_early_stopping_without_validation_warns_what_is_monitored():
    with pytest.warns(
        UserWarning, match="early_stopping: there are no validation rows, so the tr"
    ) as w:
        trainer().fit(X, LABELS, epochs=1, early_stopping=True)
    assert w[0].filename == __file__
    trainer().fit(X, LABELS, epochs=1, early_stopping=portnet.EarlyStopping("loss"))
    trainer().fit(X, LABELS, epochs=1, early_stopping=True, validation=0.2)


@pytest.mark.parametrize("kind", ["float32", "float64", "bool"])
def test_float_and_boolean_labels_equal_integer_labels(kind, backend_name):
    with portnet.use_backend(backend_name):
        labels = LABELS > 0 if kind == "bool" else LABELS.astype(kind)
        net = portnet.Trainer(portnet.mlp([5, 4, 3]), "softmax_cross_entropy")
        expected = net.fit(X, labels.astype(int), epochs=2)
        for y in (labels, labels.tolist(), portnet.asarray(labels), labels[:, None]):
            run = net.fit(X, y, epochs=2)
            assert run.history["loss"] == expected.history["loss"]


# Moving a run to another backend -----------------------------------------------------------------


def test_moved_run_keeps_state_and_resumes_equally(other_xp):
    with portnet.use_backend("numpy", dtype="float64"):
        t = trainer(model=portnet.mlp([5, 8, 3], "tanh", dropout=0.2))
        half = t.fit(X, LABELS, epochs=2, **MONITORING)
        whole = half.fit(X, LABELS, epochs=2, **MONITORING)
    there = half.to(other_xp.name, device=other_xp.device)
    assert there.backend.dtype == "float64"
    assert all(there.backend.holds(a) for a in tree.leaves((there.params, there.state)))
    assert_equal(there.params, half.params)
    moved = there.fit(X, LABELS, epochs=2, **MONITORING)
    assert_near(moved.params, whole.params, 1e-11)
    back = moved.to("numpy")
    assert_equal(back.params, moved.params)
    assert back.history == moved.history
    np.testing.assert_allclose(back.predict(X), whole.predict(X), rtol=1e-9)
    narrow = half.to(other_xp.name, dtype="float32")
    assert str(host(narrow.params)[0].dtype) == "float32"


def test_lbfgs_run_can_be_moved_and_resumed():
    run = trainer(optimizer="lbfgs").fit(X, LABELS, epochs=3)
    with portnet.use_backend("array_api_strict"):
        there = run.to("array_api_strict")
        assert there.fit(X, LABELS, epochs=1).epoch == 4
    with pytest.raises(ValueError, match="unknown backend 'nunpy': did you mean 'numpy'"):
        run.to("nunpy")


# Predictions: plain arrays and blocks of rows ----------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1e300, "X: a value of 1e[+]300 is too large for float32"),
        (np.nan, "X contains NaN at row 1"),
    ],
)
def test_bad_values_in_a_plain_array_name_the_argument(value, message):
    given = X[:3].copy()
    given[1, 2] = value
    with pytest.raises(portnet.DataError, match=f"^{message}"):
        trainer().fit(X, LABELS, epochs=0).predict(given)


def test_custom_layer_sees_all_rows_of_a_prediction_at_once_and_is_not_traced():
    """It may compare the rows, and its plan could not be kept for the next prediction."""
    seen = []

    class Centre(Square):
        def forward(self, params, x, key=None):
            seen.append(type(x).__name__)
            return x - portnet.namespace(x).mean(x, axis=0, keepdims=True), None

    net = portnet.Chain([portnet.Dense(100), Centre(), portnet.Dense(1)])
    run = portnet.Trainer(net, "squared_error", compile=False).fit(X, X[:, :1], epochs=0)
    rows = np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32)
    expected = net.forward(run.params, rows)[0]
    run = portnet.Trainer(net, "squared_error", params=run.params).fit(X, X[:, :1], epochs=0)
    seen.clear()
    np.testing.assert_array_equal(run.predict(rows), expected)
    assert seen == ["ndarray"]
