"""Labels of any kind, and class weights."""

import numpy as np
import pytest
from fits import (
    LABELS,
    NAMES,
    NOISE,
    RNG,
    XV,
    X,
    assert_equal,
    assert_near,
    assert_same_run,
    trainer,
)

import portnet
from portnet import DataError
from portnet.data import labels


def text_labels():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    words = NAMES[LABELS]
    return {
        "list": words.tolist(),
        "numpy": words,
        "objects": words.astype(object),
        "series": pandas.Series(words),
        "categories": pandas.Series(words).astype("category"),
        "numpy strings": words.astype(np.dtypes.StringDType()),
    }


@pytest.mark.parametrize(
    "kind", ["list", "numpy", "objects", "series", "categories", "numpy strings"]
)
def test_text_labels_equal_integer_labels(kind):
    y = text_labels()[kind]
    metrics = ["accuracy"]
    run = trainer().fit(X, y, epochs=8, validation=(XV, NAMES[NOISE]), metrics=metrics)
    plain = trainer().fit(X, LABELS, epochs=8, validation=(XV, NOISE), metrics=metrics)
    assert_equal(run.params, plain.params)
    assert run.history == plain.history
    assert run.classes.tolist() == NAMES.tolist()
    np.testing.assert_array_equal(run.predict_class(X), NAMES[plain.predict_class(X)])
    assert run.evaluate(X, y) == plain.evaluate(X, LABELS)
    assert_same_run(run.fit(X, y, epochs=1), plain.fit(X, LABELS, epochs=1))


def test_two_text_labels_work_with_one_output(other_xp):
    words = np.where(LABELS == 0, "yes", "no")
    t = trainer("sigmoid_cross_entropy", model=portnet.mlp([5, 8, 1]))
    run = t.fit(other_xp.asarray(X), words, epochs=3, metrics=["accuracy", "log_loss"])
    plain = t.fit(other_xp.asarray(X), (LABELS == 0).astype(float), epochs=3)
    assert_equal(run.params, plain.params)
    assert run.classes.tolist() == ["no", "yes"]
    answer = run.predict_class(other_xp.asarray(X))  # text is always on the host
    assert isinstance(answer, np.ndarray)
    np.testing.assert_array_equal(answer == "yes", plain.predict_class(X) == 1)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
@pytest.mark.parametrize("text", [False, True])
def test_class_weight_equals_the_sample_weight_of_its_rows(loss, text):
    classes = 3 if loss == "softmax_cross_entropy" else 2
    labels = LABELS % classes
    y = NAMES[labels] if text else labels
    given = {NAMES[c] if text else c: w for c, w in enumerate((0.5, 2.0, 3.0)[:classes])}
    of_rows = np.array([0.5, 2.0, 3.0])[labels]
    own = RNG.uniform(0.5, 2, 96)
    with portnet.use_backend("numpy", dtype="float64"):
        t = trainer(loss, model=portnet.mlp([5, 8, 3 if classes == 3 else 1]))
        a = t.fit(X, y, epochs=3, class_weight=given, sample_weight=own)
        b = t.fit(X, y, epochs=3, sample_weight=own * of_rows)
        c = t.fit(X, y, epochs=3, class_weight={k: v for k, v in given.items() if v != 2.0})
        d = t.fit(X, y, epochs=3, sample_weight=np.where(of_rows == 2.0, 1.0, of_rows))
    assert_near(a.params, b.params, 1e-12)
    assert_near(c.params, d.params, 1e-12)


@pytest.mark.parametrize("weight", [None, RNG.integers(0, 3, 96)])
def test_balanced_class_weight_equals_that_of_scikit_learn(weight, other_xp):
    utils = pytest.importorskip("sklearn.utils", reason="scikit-learn is not installed")
    y = np.where(RNG.random(96) < 0.2, 0, 2)  # class 1 is empty
    copies = np.repeat(np.arange(96), 1 if weight is None else weight)
    table = utils.class_weight.compute_class_weight(
        "balanced", classes=np.array([0, 2]), y=y[copies]
    )
    expected = np.where(y == 0, *table) * (1 if weight is None else weight)
    t = trainer(batch_size=None)
    a = t.fit(X, y, epochs=3, class_weight="balanced", sample_weight=weight)
    b = t.fit(X, y, epochs=3, sample_weight=expected)
    assert_near(a.params, b.params, 1e-12)


def test_class_weight_and_split_accept_one_hot_targets():
    """One-hot rows have a class weight and a stratified split; probabilities mix class weights."""
    hot, soft = np.eye(3)[LABELS], np.full((96, 3), 1 / 3)
    with portnet.use_backend("numpy", dtype="float64"):
        for given in ({0: 0.5, 2: 3.0}, "balanced"):
            a, b = (trainer().fit(X, y, epochs=2, class_weight=given) for y in (LABELS, hot))
            assert_near(a.params, b.params, 1e-12)
        c = trainer().fit(X, soft, epochs=2, class_weight={0: 4.0})
        d = trainer().fit(X, soft, epochs=2, sample_weight=np.full(96, 2.0))
        assert_near(c.params, d.params, 1e-12)
    e, f = (trainer().fit(X, y, epochs=2, validation=0.3) for y in (LABELS, hot))
    assert e.history["validation_loss"] == pytest.approx(f.history["validation_loss"], rel=1e-5)


def test_column_object_and_dataframe_labels_equal_1d_labels():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    expected = trainer().fit(X, LABELS, epochs=1).params
    for y in (LABELS[:, None], LABELS.astype(object), pandas.DataFrame({"y": LABELS}),
              NAMES[LABELS][:, None], pandas.Series(LABELS, dtype="Int64")):  # fmt: skip
        assert_equal(trainer().fit(X, y, epochs=1).params, expected)


@pytest.mark.parametrize("validation", [0.25, (XV, NOISE)])
def test_class_weight_is_not_applied_to_the_validation_set(validation):
    seen = []

    def spy(mean, target, weight=None):
        seen.append(weight)
        return 0.0

    options = {"epochs": 1, "validation": validation, "metrics": [spy]}
    trainer().fit(X, LABELS, class_weight={0: 5.0}, **options)
    assert seen.pop() is None
    trainer().fit(X, LABELS, class_weight={0: 5.0}, sample_weight=np.full(96, 2.0), **options)
    if validation == 0.25:  # sample weights do
        np.testing.assert_array_equal(seen.pop(), 2.0)
    else:
        assert seen.pop() is None


def test_balanced_class_weight_equals_its_formula():
    """The weight is n_rows / (n_nonempty_classes * n_rows_of_class): 1 on average."""
    y = np.where(np.arange(96) < 16, 0, 2)  # class 1 is empty
    t = trainer()
    data = t.fit(X, y, epochs=0)._dataset(X, y, None)
    weights = labels.class_weights("balanced", data, t.loss, 3, None)
    np.testing.assert_allclose(weights, np.where(y == 0, 96 / (2 * 16), 96 / (2 * 80)), rtol=1e-6)


@pytest.mark.parametrize("kind", ["float32", "float64", "bool"])
def test_float_and_boolean_labels_equal_integer_labels(kind, backend_name):
    with portnet.use_backend(backend_name):
        labels = LABELS > 0 if kind == "bool" else LABELS.astype(kind)
        net = portnet.Trainer(portnet.mlp([5, 4, 3]), "softmax_cross_entropy")
        expected = net.fit(X, labels.astype(int), epochs=2)
        for y in (labels, labels.tolist(), portnet.asarray(labels), labels[:, None]):
            run = net.fit(X, y, epochs=2)
            assert run.history["loss"] == expected.history["loss"]


@pytest.mark.parametrize("weight", [10**400, np.inf, np.nan, -1, "1", True, None, 1j, [2.0]])
def test_class_weights_that_are_no_finite_numbers_raise(weight):
    X, y = np.ones((6, 3)), np.zeros(6, int)
    trainer = portnet.Trainer(portnet.mlp([3, 3]), "softmax_cross_entropy")
    with pytest.raises(
        ValueError, match=r"^class_weight: expected a finite weight >= 0 for 0, got"
    ):
        trainer.fit(X, y, class_weight={0: weight})
    with pytest.raises(
        DataError, match=r"^class_weight: a value of 1e\+300 is too large for float32"
    ):
        trainer.fit(X, y, class_weight={0: 1e300})
