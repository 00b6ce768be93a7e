"""Validation sets: passed by the user, or split off by early stopping."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import numpy as np
from problems import BINARY, COUNTS, PROBLEMS, SMALL, XR, Y3, YR, X, Y, assert_same
from sklearn.exceptions import DataConversionWarning

import portnet
from portnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Validation sets passed by the user --------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
def test_validation_set_gives_the_scores_and_the_best_weights(problem):
    """Scores use the given rows, training uses all other rows, and the best weights are kept."""
    name, features, y, more = PROBLEMS[problem]
    options = {**more, **SMALL, "max_iter": 30, "learning_rate_init": 0.05, "n_iter_no_change": 4}
    w = np.random.default_rng(0).uniform(0.5, 2, 30)
    net = getattr(portnet, name)(early_stopping=True, **options)
    net.fit(features[30:], y[30:], X_val=features[:30], y_val=y[:30], sample_weight_val=w)
    assert len(net.validation_scores_) == net.n_iter_
    assert net.best_validation_score_ == max(net.validation_scores_)
    assert net.score(features[:30], y[:30], w) == pytest.approx(net.best_validation_score_)
    assert net.t_ == net.n_iter_ * (len(y) - 30)
    best = int(np.argmax(net.validation_scores_)) + 1
    short = getattr(portnet, name)(**{**options, "max_iter": best, "n_iter_no_change": 99})
    assert_same(short.fit(features[30:], y[30:]), net, atol=0)


def test_bad_validation_sets_raise_before_training():
    net = MLPClassifier(early_stopping=True, **SMALL)
    for given, message in [
        ({"X_val": X}, "X_val is provided, but y_val was not"),
        ({"y_val": Y}, "y_val is provided, but X_val was not"),
        ({"sample_weight_val": Y}, "sample_weight_val is provided, but X_val"),
        ({"X_val": X[:, :2], "y_val": Y}, "X has 2 features, but MLPClassifier is expecting 4"),
        ({"X_val": X, "y_val": Y[:9]}, "inconsistent numbers of samples"),
        ({"X_val": X, "y_val": Y + 1}, r"`y_val` has classes not in `y`: \[3\]"),
        ({"X_val": X[:1], "y_val": Y[:1]}, "The validation set is too small"),
        ({"X_val": X, "y_val": Y, "sample_weight_val": -Y}, "Negative values"),
        ({"X_val": X * np.nan, "y_val": Y}, "Input X contains NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            net.fit(X, Y, **given)
        assert not hasattr(net, "coefs_")
    with pytest.raises(ValueError, match="early_stopping is False"):
        MLPClassifier(**SMALL).fit(X, Y, X_val=X, y_val=Y)


def test_validation_set_of_other_width_label_count_or_range_raises(torch):
    net = MLPClassifier(early_stopping=True, **SMALL)
    with pytest.raises(ValueError, match="in the validation set: X has 2 features"):
        net.fit(X, Y, X_val=X[:, :2], y_val=Y)
    with pytest.raises(ValueError, match="`y_val` has several labels per row"):
        net.fit(X, Y, X_val=X, y_val=np.stack([BINARY, 1 - BINARY], axis=1))
    net = MLPRegressor(early_stopping=True, **SMALL)
    with pytest.raises(ValueError, match=r"`y_val` has \(3,\) outputs per row, `y` 1"):
        net.fit(XR, YR, X_val=XR, y_val=Y3)
    net = MLPRegressor("poisson", early_stopping=True, **SMALL)
    with pytest.raises(ValueError, match=r"Some value\(s\) of y_val are out of the valid range"):
        net.fit(XR, COUNTS, X_val=XR, y_val=-COUNTS)


def test_validation_set_of_another_library_equals_numpy(torch):
    options = {"early_stopping": True, **SMALL}
    plain = MLPClassifier(**options).fit(X, Y, X_val=X[::2], y_val=Y[::2])
    with portnet.use_backend("array_api_strict", dtype="float64") as backend:
        elsewhere = backend.asarray(X[::2])
    net = MLPClassifier(**options)
    net.fit(torch.asarray(X), Y, X_val=elsewhere, y_val=torch.asarray(Y[::2]))
    assert_same(net, plain)
    with pytest.warns(DataConversionWarning):
        MLPClassifier(**options).fit(X, Y, X_val=X[::2], y_val=Y[::2, None])
    with portnet.use_backend("array_api_strict", device="device1", dtype="float64") as backend:
        elsewhere = backend.asarray(YR)
    net = MLPRegressor(**options).fit(XR, YR, X_val=XR, y_val=elsewhere, sample_weight_val=2.0)
    assert_same(net, MLPRegressor(**options).fit(XR, YR, X_val=XR, y_val=YR), atol=0)


def test_errors_in_the_validation_set_say_so():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    mixed = pandas.DataFrame(X, columns=["a", 1, 2, 3])
    for given in (
        {"X_val": mixed, "y_val": Y},
        {"X_val": X, "y_val": object()},
        {"X_val": X, "y_val": [b"a"] * len(X)},
        {"X_val": X, "y_val": Y, "sample_weight_val": object()},
    ):
        with pytest.raises(TypeError, match=r"^in the validation set: "):
            MLPClassifier(early_stopping=True, **SMALL).fit(X, Y, **given)
    net = MLPRegressor(early_stopping=True, **SMALL)
    with pytest.raises(ValueError, match=r"^in the validation set: could not convert string"):
        net.fit(XR, YR, X_val=XR, y_val=[b"a"] * len(XR))


# Validation sets of early stopping ---------------------------------------------------------------


def test_early_stopping_raises_if_a_class_has_no_training_rows():
    y = np.arange(150) % 2
    y[3] = 2
    messages = []
    for seed in range(30):
        net = MLPClassifier(early_stopping=True, **{**SMALL, "random_state": seed})
        try:
            net.fit(X, y)
        except ValueError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 10  # about a tenth
    for message in messages:
        assert "all rows of the classes [2] are in the validation set" in message
        assert "X_val and y_val" in message


@pytest.mark.parametrize("positives", [3, 147])
def test_early_stopping_raises_if_one_of_two_classes_has_no_training_rows(positives):
    y = (np.arange(150) < positives).astype(int)
    net = MLPClassifier(early_stopping=True, validation_fraction=0.85, **SMALL)

    def fits(y):
        return [net.set_params(random_state=seed).fit(X, y) for seed in range(20)]

    with pytest.raises(ValueError, match=r"all rows of the classes \[[01]\] are in the validation"):
        fits(y)
    with pytest.warns(UserWarning, match=r"for the labels \[0\], all rows with 1, or all with 0"):
        fits(np.stack([y, np.arange(150) % 2], axis=1))


def test_early_stopping_scores_ignore_class_weight():
    options = {"early_stopping": True, "validation_fraction": 0.2, **SMALL}
    net = MLPClassifier(class_weight={0: 1.0, 1: 7.3, 2: 0.21}, **options).fit(X, Y)
    right = 30 * np.array(net.validation_scores_)
    np.testing.assert_allclose(right, right.round(), atol=1e-9)


@pytest.mark.parametrize("y", [Y, BINARY], ids=["three", "two"])
def test_rows_of_weight_zero_are_not_in_the_validation_set(y):
    w = np.random.default_rng(0).integers(0, 3, 150)
    met = w > 0
    options = {"early_stopping": True, "validation_fraction": 0.3, **SMALL}
    a = MLPClassifier(**options).fit(X, y, w)
    b = MLPClassifier(**options).fit(X[met], y[met], w[met])
    assert_same(a, b, atol=0)
    assert a.validation_scores_ == b.validation_scores_
    MLPClassifier(**options).fit(X, Y, np.where(Y == 2, 0.0, 1.0))  # the classes stay complete


def test_early_stopping_with_one_validation_row_raises():
    with pytest.raises(ValueError, match="The validation set is too small"):
        MLPRegressor(early_stopping=True, **SMALL).fit(XR[:5], YR[:5])


def test_error_of_early_stopping_names_the_text_label():
    text = np.where(np.arange(150) == 3, "rare", np.array(["x", "y"])[BINARY])

    def fits():
        net = MLPClassifier(early_stopping=True, validation_fraction=0.5, **SMALL)
        return [net.set_params(random_state=seed).fit(X, text) for seed in range(20)]

    with pytest.raises(ValueError, match=r"all rows of the classes \['rare'\] are in the"):
        fits()


def test_early_stopping_accepts_a_label_that_no_row_has():
    labels = np.stack([np.zeros(150, int), BINARY], axis=1)
    MLPClassifier(early_stopping=True, **SMALL).fit(X, labels)
