"""Run: predictions, evaluation, feature names, moving to another backend."""

import pickle

import numpy as np
import pytest
from custom import Square
from fits import (
    LABELS,
    MONITORING,
    NET,
    NOISE,
    XV,
    X,
    assert_equal,
    assert_near,
    classifier,
    host,
    trainer,
)

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


def test_moved_run_keeps_best_and_last_parameters():
    run = trainer().fit(X, LABELS, epochs=12, early_stopping=portnet.EarlyStopping(patience=50),
                        validation=(XV, NOISE))  # fmt: skip
    there = run.to("array_api_strict")
    assert run._last is not None
    assert all(
        there.backend.holds(a) for a in tree.leaves((there.params, there._best, there._last))
    )
    assert_equal((there._best, there._last), (run._best, run._last))
    assert_equal(there.best.params, run.params)


def test_resume_and_evaluate_with_arrays_of_another_backend_raise():
    run = trainer().fit(X, LABELS, epochs=1)
    with portnet.use_backend("array_api_strict"):
        x, y = portnet.asarray(X), portnet.asarray(LABELS)
    word = "is a array_api_strict array on .*, but the parameters are on numpy on cpu"
    with pytest.raises(TypeError, match=f"X {word}"):
        run.fit(x, LABELS)
    with pytest.raises(TypeError, match=f"validation X {word}"):
        run.fit(X, LABELS, validation=(x, LABELS))
    with pytest.raises(TypeError, match=f"y {word}"):
        run.evaluate(X, y)


# Prediction --------------------------------------------------------------------------------------


def argmax_works(xp):
    return xp.id != "strict-no_x64"  # array-api-strict 2.6.1: argmax makes int64 there


def test_predict_proba_and_predict_class_agree_with_accuracy(xp):
    metrics = ["accuracy"] if argmax_works(xp) else []
    run = classifier(optimizer=portnet.Adam(0.01)).fit(X, LABELS, epochs=15, metrics=metrics)
    proba = run.predict_proba(X)
    assert isinstance(proba, np.ndarray)
    assert proba.shape == (96, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(proba, run.predict(X))
    if argmax_works(xp):
        classes = run.predict_class(X)
        np.testing.assert_array_equal(classes, proba.argmax(axis=1))
        accuracy = (classes == LABELS).mean()
        assert accuracy > 0.8
        assert run.history["accuracy"][-1] == pytest.approx(accuracy, rel=1e-5)
        assert run.evaluate(X, LABELS)["accuracy"] == pytest.approx(accuracy, rel=1e-5)


def test_predictions_are_in_the_library_of_the_input(other_xp):
    run = classifier().fit(X, LABELS, epochs=1)
    x = other_xp.asarray(X[:4])
    for method in (run.predict, run.predict_proba, run.predict_class):
        assert portnet.get_backend().holds(method(x))
        assert isinstance(method(X[:4]), np.ndarray)
        assert isinstance(method(X[:4].tolist()), np.ndarray)


def test_pickled_run_predicts_and_evaluates_equally(xp):
    if xp.name == "array_api_strict":
        pytest.skip(reason="array-api-strict 2.6.1: its arrays cannot be pickled")
    run = classifier().fit(X, LABELS, epochs=1, metrics=["accuracy"])
    copy = pickle.loads(pickle.dumps(run))
    np.testing.assert_array_equal(copy.predict(X), run.predict(X))
    if xp.id == "dpnp-queue":  # a queue has no pickle: the copy is in its device's default queue
        assert f"{copy.backend} in a queue of its own" == str(run.backend)
    else:
        assert copy.backend == run.backend
    assert copy.history == run.history
    assert copy.evaluate(X, LABELS) == run.evaluate(X, LABELS)


def test_predict_class_of_binary_and_multilabel_targets():
    one = portnet.Trainer(portnet.mlp([5, 4, 1]), "sigmoid_cross_entropy").fit(
        X, LABELS == 0, epochs=2
    )
    assert one.predict_class(X).shape == (96,)
    np.testing.assert_array_equal(one.predict_class(X), one.predict(X) >= 0.5)
    many = portnet.Trainer(portnet.mlp([5, 4, 3]), "sigmoid_cross_entropy").fit(
        X, np.eye(3)[LABELS], epochs=2, metrics=["label_accuracy"]
    )
    assert many.predict_class(X).shape == (96, 3)
    share = (many.predict_class(X) == np.eye(3)[LABELS]).mean()
    assert many.history["label_accuracy"][-1] == pytest.approx(share)


def test_poisson_prediction_is_the_exponential_of_the_output():
    run = portnet.Trainer(portnet.mlp([5, 4, 1]), "poisson").fit(X, LABELS, epochs=1)
    raw, _ = NET.__class__.forward(run.trainer.model, run.params, X.astype("float32"))
    np.testing.assert_allclose(run.predict(X), np.exp(raw)[:, 0], rtol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 95, 96, 97])  # 95 leaves one row to the last block
def test_prediction_in_blocks_equals_prediction_at_once(block, monkeypatch):
    with portnet.use_backend("numpy", dtype="float64"):  # float32 products round by shape
        run = classifier().fit(X, LABELS, epochs=1)
    whole, numbers = run.predict(X), run.evaluate(X, LABELS)
    monkeypatch.setattr(portnet.run, "BLOCK", block)
    np.testing.assert_allclose(run.predict(X), whole, rtol=1e-12)
    assert run.evaluate(X, LABELS) == pytest.approx(numbers, rel=1e-12)


def test_dropout_is_off_in_prediction_and_on_in_training():
    net = portnet.mlp([5, 64, 3], dropout=0.5)
    run = classifier(model=net, optimizer=portnet.SGD(1e-12), batch_size=None).fit(
        X, LABELS, epochs=3
    )
    without, (dense, _, _, out) = portnet.mlp([5, 64, 3]), run.params
    plain = classifier(model=without, params=(dense, (), out)).fit(X, LABELS, epochs=0)
    np.testing.assert_array_equal(run.predict(X), plain.predict(X))
    assert run.evaluate(X, LABELS) == plain.evaluate(X, LABELS)
    np.testing.assert_array_equal(run.predict(X), run.predict(X))
    # The parameters hardly move, so the losses differ by the masks, and from inference.
    losses = [*run.history["loss"], run.evaluate(X, LABELS)["loss"]]
    assert len({round(loss, 6) for loss in losses}) == 4


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


def test_fit_of_a_run_takes_no_resume():
    X = np.ones((10, 2), np.float32)
    run = portnet.Trainer(portnet.mlp([2, 1]), "squared_error").fit(X, X[:, 0], epochs=1)
    with pytest.raises(TypeError, match=r"run\.fit goes on with this run and takes no resume"):
        run.fit(X, X[:, 0], epochs=1, resume=True)
