"""Sample weights and class weights."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import warnings

import numpy as np
from problems import BINARY, SMALL, SOLVERS, XM, YM, X, Y, assert_same

from portnet import MLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("solver", SOLVERS)
def test_sample_weight_k_equals_k_copies_of_the_row(solver):
    """Weight k is k copies, 0 is no row (in any batches); doubling all weights halves alpha."""
    draw = np.random.default_rng(0)
    options = {**SMALL, "solver": solver, "max_iter": 5}
    w = draw.integers(0, 4, len(X))
    whole = {**options, "batch_size": 10**4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = MLPClassifier(**whole).fit(X, Y, w)
        b = MLPClassifier(**whole).fit(X.repeat(w, axis=0), Y.repeat(w))
    assert_same(a, b)
    met = w > 0
    c = MLPClassifier(batch_size=16, **options).fit(X, Y, w)
    d = MLPClassifier(batch_size=16, **options).fit(X[met], Y[met], w[met])
    assert_same(c, d, atol=0)
    assert c.t_ == d.t_
    assert_same(
        MLPClassifier(**options).fit(X, Y, np.full(150, 2.0)),
        MLPClassifier(alpha=0.5e-4, **options).fit(X, Y, 1.0),
    )


def test_class_weight_equals_the_product_with_sample_weight():
    w = {0: 1.0, 1: 5.0, 2: 0.5}
    each = np.array([w[label] for label in Y])
    options = {"batch_size": 30, **SMALL}
    expected = MLPClassifier(**options).fit(X, Y, each)
    assert_same(MLPClassifier(class_weight=w, **options).fit(X, Y), expected, atol=0)
    text = np.array(["x", "y", "z"])[Y]
    of_text = {"y": 5.0, "z": 0.5}  # 1 for the rest
    assert_same(MLPClassifier(class_weight=of_text, **options).fit(X, text), expected, atol=0)
    own = np.random.default_rng(0).uniform(0, 1, 150)
    assert_same(
        MLPClassifier(class_weight=w, **options).fit(X, Y, own),
        MLPClassifier(**options).fit(X, Y, own * each),
        atol=0,
    )
    few = np.r_[0:50, 50:60, 100:130]
    balanced = MLPClassifier(class_weight="balanced", **options).fit(X[few], Y[few])
    by_hand = {0: 90 / 3 / 50, 1: 90 / 3 / 10, 2: 90 / 3 / 30}
    assert_same(balanced, MLPClassifier(class_weight=by_hand, **options).fit(X[few], Y[few]))
    binary = MLPClassifier(class_weight={1: 3.0}, **options).fit(X, BINARY)
    assert_same(binary, MLPClassifier(**options).fit(X, BINARY, 1.0 + 2.0 * BINARY), atol=0)


def test_class_weight_of_multilabel_targets_equals_sample_weight():
    from sklearn.utils.class_weight import compute_sample_weight

    options = {"batch_size": 30, **SMALL}
    for given in ("balanced", [{0: 1, 1: 2}, {0: 3, 1: 1}, {0: 1, 1: 1}]):
        w = compute_sample_weight(given, YM)
        a = MLPClassifier(class_weight=given, **options).fit(XM, YM)
        assert_same(a, MLPClassifier(**options).fit(XM, YM, w), atol=0)


def test_balanced_class_weight_in_partial_fit_counts_all_rows_so_far():
    """The class counts are those of all rows so far, not only of the call."""
    options = {"shuffle": False, **SMALL}
    net = MLPClassifier(class_weight="balanced", **options)
    plain = MLPClassifier(**options)
    counts = np.zeros(3)
    for rows in (np.r_[0:50, 50:60], np.r_[60:100], np.r_[100:150]):
        counts += np.bincount(Y[rows], minlength=3)
        met = counts > 0
        w = np.where(met, counts.sum() / met.sum() / np.maximum(counts, 1), 1)[Y[rows]]
        net.partial_fit(X[rows], Y[rows], classes=[0, 1, 2])
        plain.partial_fit(X[rows], Y[rows], w, classes=[0, 1, 2])
        assert_same(net, plain)


def test_balanced_class_weight_of_multilabel_targets_uses_sample_weight():
    w = np.random.default_rng(0).integers(0, 3, len(XM))
    options = {"class_weight": "balanced", "solver": "lbfgs", **SMALL}
    a = MLPClassifier(**options).fit(XM, YM, w)
    b = MLPClassifier(**options).fit(XM.repeat(w, axis=0), YM.repeat(w, axis=0))
    assert_same(a, b, atol=1e-8)
    with pytest.raises(ValueError, match="a list of 3 dicts, one for each label"):
        MLPClassifier(class_weight=[{0: 1, 1: 2}], **SMALL).fit(XM, YM)
    with pytest.raises(ValueError, match="a list of 3 dicts, one for each label"):
        MLPClassifier(class_weight={0: 1, 1: 2}, **SMALL).fit(XM, YM)


def test_class_weight_ignores_classes_that_a_fold_lacks():
    some = {0: 1.0, 1: 2.0, 2: 3.0}
    net = MLPClassifier(class_weight=some, **SMALL).fit(X[:100], Y[:100])
    expected = MLPClassifier(class_weight={1: 2.0}, **SMALL).fit(X[:100], Y[:100])
    assert_same(net, expected, atol=0)
    with pytest.raises(ValueError, match="expected classes among 0, 1, got 2"):
        MLPClassifier(class_weight={0: 1.0, 2: 1.0}, **SMALL).fit(X[:100], Y[:100])


def test_balanced_class_weight_of_a_warm_start_counts_only_its_rows():
    """The class counts are those of the rows of this fit only."""
    few = np.r_[0:50, 50:60, 100:130]
    options = {"batch_size": 30, "warm_start": True, **SMALL}
    net = MLPClassifier(class_weight="balanced", **options).fit(X, Y).fit(X[few], Y[few])
    by_hand = {0: 90 / 3 / 50, 1: 90 / 3 / 10, 2: 90 / 3 / 30}
    plain = MLPClassifier(**options).fit(X, Y)
    assert_same(net, plain.set_params(class_weight=by_hand).fit(X[few], Y[few]))


def test_class_weight_of_all_zeros_raises_and_names_class_weight():
    with pytest.raises(ValueError, match="class_weight: expected at least one weight above 0"):
        MLPClassifier(class_weight={0: 0, 1: 0, 2: 0}, **SMALL).fit(X, Y)
