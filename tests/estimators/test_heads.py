"""Several heads: multiclass-multioutput y, as scikit-learn's forests answer."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import pickle

import numpy as np
from problems import SMALL, X, Y
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score

import portnet
from portnet import MLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SIZE = np.digitize(X[:, 0], [-1, 0, 1]) * 10  # four classes, 0 to 30
HEADS = np.stack([Y, SIZE], axis=1)
TEXT = np.stack([np.array(["x", "y", "z"])[Y], np.array(["s", "m", "l", "xl"])[SIZE // 10]], axis=1)


@pytest.mark.parametrize("y", [HEADS, TEXT, TEXT.astype(object), HEADS.astype(float)])
def test_answers_have_the_form_of_a_forest(y):
    net = MLPClassifier(max_iter=400, random_state=0).fit(X, y)
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    assert isinstance(net.classes_, list)
    for a, b in zip(net.classes_, forest.classes_, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert net.predict(X).shape == forest.predict(X).shape
    assert net.predict(X).dtype == forest.predict(X).dtype
    for method in ("predict_proba", "predict_log_proba"):
        with np.errstate(divide="ignore"):
            ours, theirs = getattr(net, method)(X), getattr(forest, method)(X)
        assert isinstance(ours, list)
        assert [p.shape for p in ours] == [p.shape for p in theirs]
    for i, p in enumerate(net.predict_proba(X)):
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_array_equal(net.classes_[i][p.argmax(axis=1)], net.predict(X)[:, i])
    assert net.score(X, y) == np.mean((net.predict(X) == y).all(axis=1)) > 0.9
    assert net.n_outputs_ == 7


@pytest.mark.parametrize("balanced", [False, True])
def test_heads_of_a_linear_network_are_networks_of_their_own(balanced):
    """Without hidden layers the heads share nothing: each is trained like a single classifier.

    Class weights of both heads are multiplied, as in forests.
    """
    options = {"hidden_layer_sizes": (), "batch_size": len(Y), "shuffle": False, "alpha": 0.5}
    options |= {"max_iter": 40, "random_state": 0}
    w = np.random.default_rng(0).uniform(0.5, 2, len(Y))
    product = w * _balanced(Y, w) * _balanced(SIZE, w) if balanced else w
    together = MLPClassifier(class_weight="balanced" if balanced else None, **options)
    W, b = together.initialize(X, HEADS).get_weights()
    together.fit(X, HEADS, w, resume=True)
    for i, columns in enumerate((slice(0, 3), slice(3, 7))):
        alone = MLPClassifier(**options).initialize(X, HEADS[:, i])
        alone.set_weights([W[:, columns], b[columns]]).fit(X, HEADS[:, i], product, resume=True)
        np.testing.assert_allclose(together.coefs_[0][:, columns], alone.coefs_[0], atol=1e-10)
        p = together.predict_proba(X)[i]
        np.testing.assert_allclose(p, alone.predict_proba(X), atol=1e-10)


def _balanced(y, w):
    codes = np.unique(y, return_inverse=True)[1]
    counts = np.bincount(codes, w)
    return (w.sum() / (len(counts) * counts))[codes]


def test_early_stopping_searches_and_copies_work_with_heads():
    net = MLPClassifier(early_stopping=True, max_iter=100, random_state=0).fit(X, HEADS)
    assert 0 < net.best_validation_score_ <= 1
    for other in (pickle.loads(pickle.dumps(net)), net.to("numpy"), clone(net).fit(X, HEADS)):
        np.testing.assert_array_equal(other.predict(X), net.predict(X))
    search = GridSearchCV(MLPClassifier(**SMALL), {"alpha": [1e-4, 10]}, cv=3, error_score="raise")
    assert np.isfinite(search.fit(X, HEADS).best_score_)
    net = MLPClassifier(early_stopping=True, metrics=[], **SMALL)
    net.fit(X, HEADS, X_val=X[::3], y_val=HEADS[::3])
    assert net.history_["validation_accuracy"][-1] <= 1
    with pytest.raises(ValueError, match=r"`y_val` has classes in head 1 .* known ones: \[99\]"):
        net.fit(X, HEADS, X_val=X[:2], y_val=[[0, 0], [1, 99]])


def test_partial_fit_takes_the_classes_of_each_head():
    net = MLPClassifier(random_state=0)
    classes = [[0, 1, 2], [0, 10, 20, 30]]
    for _ in range(150):
        for rows in (slice(0, 60), slice(60, 150)):
            net.partial_fit(X[rows], HEADS[rows], classes=classes)
    assert net.score(X, HEADS) > 0.7
    net.partial_fit(X[:2], [[0, 0], [1, 0]])  # which looks like labels of 0 and 1
    assert net.predict(X).shape == (150, 2)
    for bad, message in (
        ([[0, 1, 2], [0, 10]], "is not the same as on last call to partial_fit"),
        ([[0, 1, 2], []], r"at least one class for each head, got \[\] for head 1"),
    ):
        with pytest.raises(ValueError, match=message):
            net.partial_fit(X, HEADS, classes=bad)
    with pytest.raises(ValueError, match="`y` has classes in head 0 that are not among"):
        net.partial_fit(X, HEADS + 1)
    with pytest.raises(ValueError, match=r"expected 2 labels in each row, one for each head, got"):
        net.partial_fit(X, Y)


@pytest.mark.parametrize("classes", [[[0, 1, 2], []], [[], [0, 10, 20, 30]]])
def test_a_head_without_a_class_raises(classes):
    net = MLPClassifier(**SMALL)
    with pytest.raises(ValueError, match=r"at least one class for each head, got \[\] for head"):
        net.partial_fit(X, HEADS, classes=classes)
    assert not hasattr(net, "coefs_")


def test_a_head_with_one_class_always_predicts_it():
    y = np.stack([Y, np.full(len(Y), 7)], axis=1)
    net = MLPClassifier(**SMALL).fit(X, y)
    assert set(net.predict(X)[:, 1]) == {7}
    np.testing.assert_array_equal(net.predict_proba(X)[1], 1.0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (HEADS + 0.5, "Unknown label type: continuous-multioutput"),
        (np.where(HEADS == 10, np.nan, HEADS), "NaN"),
        (HEADS[:9], "inconsistent numbers of samples"),
        (np.stack([HEADS[:, 0].astype(object), TEXT[:, 1]], 1), "Mix of label input types"),
    ],
)
def test_bad_heads_raise(y, message):
    net = MLPClassifier(**SMALL)
    with pytest.raises(ValueError, match=message):
        net.fit(X, y)
    assert [n for n in vars(net) if n.endswith("_")] == []


def test_frames_of_numbers_and_text_raise_and_frames_of_text_work():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises(ValueError, match=r"numbers and text .* give all labels as text"):
        MLPClassifier(**SMALL).fit(X, pandas.DataFrame({"a": Y, "b": TEXT[:, 1]}))
    net = MLPClassifier(**SMALL).fit(X, pandas.DataFrame(TEXT, columns=["a", "b"]))
    np.testing.assert_array_equal(net.predict(X), MLPClassifier(**SMALL).fit(X, TEXT).predict(X))


def test_own_losses_and_tables_of_weights_for_heads_raise():
    with pytest.raises(ValueError, match=r"needs y with one class, or labels .* several heads"):
        MLPClassifier(loss=portnet.SquaredError(), **SMALL).fit(X, HEADS)
    with pytest.raises(ValueError, match="a list of 2 dicts, one for each head, got"):
        MLPClassifier(class_weight={0: 1.0}, **SMALL).fit(X, HEADS)
    MLPClassifier(class_weight=[{0: 2.0}, {30: 0.5}], **SMALL).fit(X, HEADS)


def test_heads_on_other_libraries_answer_there(torch):
    net = MLPClassifier(**SMALL).fit(torch.tensor(X), torch.tensor(HEADS))
    plain = MLPClassifier(**SMALL).fit(X, HEADS)
    assert isinstance(net.predict(torch.tensor(X)), torch.Tensor)
    np.testing.assert_array_equal(net.predict(torch.tensor(X)).numpy(), plain.predict(X))
    for a, b in zip(net.predict_proba(torch.tensor(X)), plain.predict_proba(X), strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=1e-10)
    assert all(isinstance(c, torch.Tensor) for c in net.classes_)
    assert net.to("numpy").predict(X).shape == (150, 2)


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_fits_of_heads_are_equal_on_each_library(library, solver):
    pytest.importorskip(library)
    options = {"solver": solver, "class_weight": "balanced", **SMALL}
    here = MLPClassifier(**options).fit(X, HEADS)
    there = MLPClassifier(**options, backend=library).fit(X, HEADS)
    for a, b in zip(here.get_weights(), there.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_summaries_show_heads_and_pictures_of_the_plane_refuse_them(capsys):
    net = MLPClassifier(**SMALL).fit(X[:, :2], TEXT)
    net.summary()
    assert "[['x', 'y', 'z'], ['l', 'm', 's', 'xl']]" in capsys.readouterr().out
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(TypeError, match="which has 2 heads: fit one on a column of y"):
        portnet.plots.decision_boundary(net, X[:, :2], Y)


TWO = np.stack([Y > 0, Y > 1], axis=1).astype(int)


@pytest.mark.parametrize("y", [TWO + 1, 3 * TWO, 2 * TWO - 1, TWO + 1.0, TWO * [1, 2], 0 * TWO + 5])
def test_columns_with_other_labels_than_0_and_1_are_heads_as_in_forests(y):
    net = MLPClassifier(max_iter=400, random_state=0, learning_rate_init=0.01).fit(X, y)
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    for a, b in zip(net.classes_, forest.classes_, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert net.score(X, y) > 0.9
    assert [p.shape for p in net.predict_proba(X)] == [p.shape for p in forest.predict_proba(X)]


@pytest.mark.parametrize("y", [TWO, TWO.astype(bool), TWO.astype(float), 0 * TWO, 0 * TWO + 1])
def test_columns_of_0_and_1_are_multi_label_unless_heads_is_true(y):
    net = MLPClassifier(**SMALL).fit(X, y)
    assert net.classes_.tolist() == [0, 1]
    assert net.predict_proba(X).shape == (150, 2)
    net = MLPClassifier(heads=True, **SMALL).fit(X, y)
    for i, classes in enumerate(net.classes_):
        np.testing.assert_array_equal(classes, np.unique(y[:, i]))
    assert net.predict(X).dtype == y.dtype
    assert [p.shape for p in net.predict_proba(X)] == [(150, len(c)) for c in net.classes_]


@pytest.mark.filterwarnings("ignore:Number of classes in training fold")
def test_folds_of_heads_without_a_class_answer_as_forests():
    y = np.stack([Y, 2 * (Y > 0)], axis=1)
    net = MLPClassifier(**SMALL).fit(X[50:], y[50:])
    assert [c.tolist() for c in net.classes_] == [[1, 2], [2]]
    assert np.isin(net.predict(X)[:, 1], 2).all()
    for given, cv in (
        ({"heads": True}, 3),  # a fold has 0 and 1 only: scikit-learn gives it 0 and 1 for 0 and 2
        ({}, KFold(3, shuffle=True, random_state=0)),
    ):
        found = cross_val_predict(
            MLPClassifier(**SMALL, **given), X, y, cv=cv, method="predict_proba"
        )
        assert [p.shape for p in found] == [(150, 3), (150, 2)]


def test_scores_of_folds_that_had_0_and_1_only_count_right_rows():
    y = np.stack([Y, Y > 0], axis=1).astype(int)
    scores = cross_val_score(MLPClassifier(**SMALL), X, y, cv=KFold(3), error_score="raise")
    rows = slice(0, 100)
    net = MLPClassifier(**SMALL | {"max_iter": 200}).fit(X[rows], y[rows])
    assert net.classes_.tolist() == [0, 1]
    assert scores[2] == net.score(X[100:], y[100:]) == 0.0  # all rows have the class 2
    assert net.score(X[::2], y[::2]) == np.mean((net.predict(X[::2]) == y[::2]).all(axis=1)) > 0
    with pytest.raises(ValueError, match="`y_val` has other labels than 0 and 1, which were"):
        net.set_params(early_stopping=True).fit(X[rows], y[rows], X_val=X, y_val=y)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (TWO, [0, 1, 2]),
        (0 * TWO, [0, 1, 2]),
        (HEADS, [0, 1, 2]),
        (HEADS.tolist(), [0, 1]),
        (TWO + 1, [1, 2]),
        (TEXT, ["x", "y"]),
    ],
)
def test_one_list_of_classes_for_several_columns_raises(y, classes):
    net = MLPClassifier(**SMALL)
    message = r"classes: y has 2 labels in each row: give a list with the classes of each"
    with pytest.raises(ValueError, match=message):
        net.partial_fit(X, y, classes=classes)
    assert not hasattr(net, "classes_")


def test_partial_fit_takes_one_list_of_classes_for_multi_label_y():
    three = np.stack([Y > 0, Y > 1, Y < 1], axis=1)
    for y, classes in ((TWO, [0, 1]), (three, [0, 1, 2]), (three, [0, 1]), (TWO, [False, True])):
        net = MLPClassifier(**SMALL).partial_fit(X, y, classes=classes)
        assert net.classes_.tolist() == list(range(y.shape[1]))
    with pytest.raises(ValueError, match="several heads, but multi-label y of 0 and 1 was fitted"):
        net.partial_fit(X, TWO + 1)
    for nested in ([[0, 1], [0, 1]], ((0, 1), (0, 1))):
        net = MLPClassifier(**SMALL).partial_fit(X, TWO, classes=nested)
        assert [c.tolist() for c in net.classes_] == [[0, 1], [0, 1]]
