"""Metrics, compared with formulas written in NumPy and with scikit-learn."""

import inspect

import numpy as np
import pytest

import portnet
from portnet import metrics

RNG = np.random.default_rng(0)
PROBA = RNG.dirichlet(np.ones(4), 50)
LABELS = RNG.integers(0, 4, 50)
P1, T1 = RNG.random((50, 1)), RNG.integers(0, 2, (50, 1)).astype(float)
MANY, TAGS = RNG.random((50, 3)), RNG.integers(0, 2, (50, 3)).astype(float)
VALUES, TRUE = RNG.standard_normal((50, 2)), RNG.standard_normal((50, 2))
WEIGHT = RNG.integers(0, 3, 50).astype(float)


def balanced(guess, t):
    return np.mean([(guess == c)[t == c].mean() for c in np.unique(t)])


# metric, prediction, target, formula in NumPy (weights become copies of rows)
CASES = [
    (metrics.accuracy, PROBA, LABELS, lambda p, t: (p.argmax(1) == t).mean()),
    (metrics.accuracy, PROBA, np.eye(4)[LABELS], lambda p, t: (p.argmax(1) == t.argmax(1)).mean()),
    (metrics.accuracy, P1, T1, lambda p, t: ((p >= 0.5) == t).mean()),
    (metrics.balanced_accuracy, PROBA, LABELS, lambda p, t: balanced(p.argmax(1), t)),
    (
        metrics.balanced_accuracy,
        PROBA,
        np.eye(4)[LABELS],
        lambda p, t: balanced(p.argmax(1), t.argmax(1)),
    ),
    (metrics.balanced_accuracy, P1, T1, lambda p, t: balanced(p[:, 0] >= 0.5, t[:, 0])),
    (metrics.log_loss, PROBA, LABELS, lambda p, t: -np.log(p[range(len(t)), t]).mean()),
    (metrics.log_loss, PROBA, PROBA[::-1], lambda p, t: -(t * np.log(p)).sum(1).mean()),
    (metrics.log_loss, P1, T1, lambda p, t: -np.log(np.where(t == 1, p, 1 - p)).mean()),
    (metrics.label_accuracy, MANY, TAGS, lambda p, t: ((p >= 0.5) == t).mean()),
    (metrics.mean_absolute_error, VALUES, TRUE, lambda p, t: abs(p - t).mean()),
    (metrics.mean_squared_error, VALUES, TRUE, lambda p, t: ((p - t) ** 2).mean()),
    (
        metrics.r2,
        VALUES,
        TRUE,
        lambda p, t: np.mean(1 - ((t - p) ** 2).sum(0) / ((t - t.mean(0)) ** 2).sum(0)),
    ),
]


ARGMAX = (metrics.accuracy, metrics.balanced_accuracy)


def test_every_public_metric_is_tested():
    public = {
        getattr(metrics, n) for n in metrics.__all__ if inspect.isfunction(getattr(metrics, n))
    }
    assert public == {case[0] for case in CASES} == set(metrics.METRICS.values())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].__name__}{np.shape(c[2])}")
def test_metric_equals_its_formula(case, weighted, xp):
    metric, pred, target, formula = case
    if metric in ARGMAX and pred.shape[1] > 1 and xp.id == "strict-no_x64":
        pytest.skip(reason="array-api-strict 2.6.1: argmax makes int64, which no_x64 lacks")
    copies = np.repeat(np.arange(50), WEIGHT.astype(int) if weighted else 1)
    got = metric(xp.asarray(pred), xp.asarray(target), xp.asarray(WEIGHT) if weighted else None)
    xp.assert_close(got, formula(pred[copies], target[copies]))


def sklearn_value(name, pred, target, weight):
    """Return scikit-learn's value, with the predictions in the form that it expects."""
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    t = target.argmax(1) if target.shape == pred.shape and pred.shape[1] == 4 else target
    guess = (pred >= 0.5).astype(int) if pred.shape[1] < 4 else pred.argmax(1)
    w = {"sample_weight": weight}
    match name:
        case "accuracy":
            return sk.accuracy_score(t, guess, **w)
        case "balanced_accuracy":
            return sk.balanced_accuracy_score(t, guess, **w)
        case "label_accuracy":
            each = [sk.accuracy_score(t[:, j], guess[:, j], **w) for j in range(t.shape[1])]
            return np.mean(each)
        case "log_loss":
            return sk.log_loss(
                t,
                pred if pred.shape[1] > 1 else pred[:, 0],
                labels=range(max(2, pred.shape[1])),
                **w,
            )
        case "mean_absolute_error":
            return sk.mean_absolute_error(t, pred, **w)
        case "mean_squared_error":
            return sk.mean_squared_error(t, pred, **w)
        case "r2":
            return sk.r2_score(t, pred, **w)


SKLEARN_CASES = [
    *[
        (n, PROBA, y)
        for n in ("accuracy", "balanced_accuracy")
        for y in (LABELS, np.eye(4)[LABELS])
    ],
    *[(n, P1, T1) for n in ("accuracy", "balanced_accuracy", "label_accuracy", "log_loss")],
    ("log_loss", PROBA, LABELS),
    ("log_loss", np.eye(4)[LABELS[::-1]], LABELS),  # confident and mostly wrong: clipped
    ("label_accuracy", MANY, TAGS),
    *[(n, VALUES, TRUE) for n in ("mean_absolute_error", "mean_squared_error", "r2")],
    ("balanced_accuracy", PROBA, LABELS % 3),  # a class without rows
]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("case", SKLEARN_CASES, ids=lambda c: f"{c[0]}{np.shape(c[2])}")
def test_metric_equals_that_of_scikit_learn(case, weight):
    name, pred, target = case
    got = metrics.METRICS[name](pred, target, weight)
    np.testing.assert_allclose(got, sklearn_value(name, pred, target, weight), rtol=1e-12)


def test_every_metric_is_compared_with_scikit_learn():
    assert {case[0] for case in SKLEARN_CASES} == set(metrics.METRICS)


def test_smaller_is_better_lists_exactly_the_error_metrics():
    """Errors fall as predictions improve; all other metrics rise."""
    for metric, pred, target, _ in CASES:
        right = np.eye(4)[target] if np.ndim(target) == 1 else target
        gain = metric(right, target) - metric(pred, target)
        assert (gain < 0) == (metric.__name__ in metrics.SMALLER_IS_BETTER), metric


def test_r2_of_a_constant_target_is_1_if_exact_else_0(xp):
    one = xp.asarray(np.ones((5, 1)))
    xp.assert_close(metrics.r2(one, one), 1.0)
    xp.assert_close(metrics.r2(one * 2.0, one), 0.0)


def test_r2_rejects_a_target_of_another_shape():
    with pytest.raises(portnet.ShapeError, match=r"r2: expected target of shape \(50, 2\)"):
        metrics.r2(VALUES, TRUE[:, 0])


def test_probability_of_one_half_is_class_1():
    half, one, zero = np.full((2, 1), 0.5), np.ones((2, 1)), np.zeros((2, 1))
    for metric in (metrics.accuracy, metrics.balanced_accuracy, metrics.label_accuracy):
        assert metric(half, one) == metric(one, half) == 1, metric
        assert metric(half, zero) == metric(zero, half) == 0, metric


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "log_loss"])
def test_classification_metric_rejects_1d_target_for_one_column(name):
    with pytest.raises(portnet.ShapeError, match=rf"{name}: expected target of shape \(50, 1\)"):
        metrics.METRICS[name](P1, T1[:, 0])


@pytest.mark.parametrize("name", ["mean_absolute_error", "mean_squared_error", "label_accuracy"])
def test_elementwise_metric_rejects_a_target_of_another_width(name):
    word = rf"{name}: expected target of shape \(50, 2\), like the prediction, got \(50, 1\)"
    with pytest.raises(portnet.ShapeError, match=word):
        metrics.METRICS[name](VALUES, TRUE[:, :1])


def test_log_loss_rejects_a_one_hot_target_of_another_width():
    with pytest.raises(portnet.ShapeError, match=r"log_loss: expected target of shape \(50, 4\)"):
        metrics.log_loss(PROBA, np.ones((50, 1)))


def test_log_loss_of_exact_predictions_is_eps(xp):
    got = xp.numpy(metrics.log_loss(xp.asarray(P1 * 0 + T1), xp.asarray(T1)))
    assert got == pytest.approx(
        np.finfo(xp.float_name).eps, rel=0.1, abs=0
    )  # as scikit-learn has it
