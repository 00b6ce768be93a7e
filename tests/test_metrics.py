"""Metrics, against scikit-learn where it is and by hand where it is not."""

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

# metric, prediction, target, the number by hand (weights as copies of rows)
CASES = [
    (metrics.accuracy, PROBA, LABELS, lambda p, t: (p.argmax(1) == t).mean()),
    (metrics.accuracy, PROBA, np.eye(4)[LABELS], lambda p, t: (p.argmax(1) == t.argmax(1)).mean()),
    (metrics.accuracy, P1, T1, lambda p, t: ((p >= 0.5) == t).mean()),
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


def test_every_public_metric_is_tested():
    public = {
        getattr(metrics, n) for n in metrics.__all__ if inspect.isfunction(getattr(metrics, n))
    }
    assert public == {case[0] for case in CASES} == set(metrics.METRICS.values())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].__name__}{np.shape(c[2])}")
def test_by_hand(case, weighted, xp):
    metric, pred, target, by_hand = case
    if metric is metrics.accuracy and pred.shape[1] > 1 and xp.id == "strict-no_x64":
        pytest.skip(reason="array-api-strict 2.6.1: argmax makes int64, which no_x64 has not")
    copies = np.repeat(np.arange(50), WEIGHT.astype(int) if weighted else 1)
    got = metric(xp.asarray(pred), xp.asarray(target), xp.asarray(WEIGHT) if weighted else None)
    xp.assert_close(got, by_hand(pred[copies], target[copies]))


def test_against_scikit_learn():
    theirs = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    w = {"sample_weight": WEIGHT}
    for got, expected in [
        (
            metrics.accuracy(PROBA, LABELS, WEIGHT),
            theirs.accuracy_score(LABELS, PROBA.argmax(1), **w),
        ),
        (metrics.r2(VALUES, TRUE, WEIGHT), theirs.r2_score(TRUE, VALUES, **w)),
        (
            metrics.mean_absolute_error(VALUES, TRUE, WEIGHT),
            theirs.mean_absolute_error(TRUE, VALUES, **w),
        ),
        (
            metrics.mean_squared_error(VALUES, TRUE, WEIGHT),
            theirs.mean_squared_error(TRUE, VALUES, **w),
        ),
    ]:
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_r2_of_a_constant(xp):
    one = xp.asarray(np.ones((5, 1)))
    xp.assert_close(metrics.r2(one, one), 1.0)
    xp.assert_close(metrics.r2(one * 2.0, one), 0.0)


def test_shapes():
    with pytest.raises(portnet.ShapeError, match=r"r2: expected target of shape \(50, 2\)"):
        metrics.r2(VALUES, TRUE[:, 0])
