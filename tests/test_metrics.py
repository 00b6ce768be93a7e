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


def classes(p):
    """Return the predicted classes."""
    return (p[:, 0] >= 0.5).astype(int) if p.shape[1] == 1 else p.argmax(1)


def names(t):
    """Return the true classes."""
    return t if t.ndim == 1 else t[:, 0].astype(int) if t.shape[1] == 1 else t.argmax(1)


def f1_of(p, t, c):
    guess, true = classes(p) == c, names(t) == c
    both = guess.sum() + true.sum()
    return 2 * (guess & true).sum() / both if both else np.nan


def area(score, positive):
    """Return the fraction of pairs that are in the right order: of all pairs, one by one."""
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    return np.mean(pairs)


def among(p, t, k):
    order = np.argsort(p, axis=1, kind="stable")[:, ::-1][:, :k]
    return np.mean([c in best for c, best in zip(names(t), order, strict=True)])


COARSE = np.round(PROBA, 1)  # with equal probabilities
ROUND1 = np.round(P1, 1)

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
    *[
        (metric, p, y, formula)
        for p, y in (
            (PROBA, LABELS),
            (COARSE, LABELS),
            (PROBA, np.eye(4)[LABELS]),
            (P1, T1),
            (ROUND1, T1),
        )
        for metric, formula in (
            (metrics.f1_macro, lambda p, t: np.nanmean([f1_of(p, t, c) for c in range(4)])),
            (
                metrics.f1_weighted,
                lambda p, t: np.mean([f1_of(p, t, c) for c in names(t)]),
            ),
            (
                metrics.roc_auc_ovr,
                lambda p, t: np.mean(
                    [
                        area(metrics.two_columns(p)[:, c], names(t) == c)
                        for c in range(max(2, p.shape[1]))
                    ]
                ),
            ),
            (metrics.top_k_accuracy, lambda p, t: among(metrics.two_columns(p), t, 2)),
        )
    ],
    *[
        (metric, p, T1, formula)
        for p in (P1, ROUND1)
        for metric, formula in (
            (metrics.f1, lambda p, t: f1_of(p, t, 1)),
            (metrics.roc_auc, lambda p, t: area(p[:, 0], names(t) == 1)),
        )
    ],
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


NO_ARGMAX = (
    metrics.log_loss,
    metrics.label_accuracy,
    metrics.mean_absolute_error,
    metrics.mean_squared_error,
    metrics.r2,
)


def test_every_public_metric_is_tested():
    public = {
        getattr(metrics, n) for n in metrics.__all__ if inspect.isfunction(getattr(metrics, n))
    }
    public.remove(metrics.confusion_matrix)  # no number
    assert public == {case[0] for case in CASES} == set(metrics.METRICS.values())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].__name__}{np.shape(c[2])}")
def test_metric_equals_its_formula(case, weighted, xp):
    metric, pred, target, formula = case
    sorts = metric in (metrics.roc_auc, metrics.roc_auc_ovr)
    if (sorts or (metric not in NO_ARGMAX and pred.shape[1] > 1)) and xp.id == "strict-no_x64":
        pytest.skip(reason="array-api-strict 2.6.1: indices are int64, which no_x64 lacks")
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
        case "f1":
            return sk.f1_score(t, guess, **w)
        case "f1_macro" | "f1_weighted":
            return sk.f1_score(t, guess, average=name[3:], **w)
        case "roc_auc":
            return sk.roc_auc_score(t, pred[:, -1], **w)
        case "roc_auc_ovr":
            score = pred[:, 0] if pred.shape[1] == 1 else pred / pred.sum(1, keepdims=True)
            return sk.roc_auc_score(t, score, multi_class="ovr", **w)
        case "top_k_accuracy":
            return sk.top_k_accuracy_score(t, pred, k=2, labels=range(pred.shape[1]), **w)
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
    *[
        (n, PROBA, y)
        for n in ("f1_macro", "f1_weighted", "roc_auc_ovr", "top_k_accuracy")
        for y in (LABELS, np.eye(4)[LABELS])
    ],
    *[(n, p, T1) for n in ("f1", "f1_macro", "f1_weighted", "roc_auc") for p in (P1, ROUND1)],
    ("roc_auc_ovr", P1, T1),
    ("top_k_accuracy", COARSE, LABELS),
    ("f1_macro", PROBA, LABELS % 3),  # a class that is predicted only
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


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_confusion_matrix_equals_that_of_scikit_learn(weight, xp):
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for p, y, n in ((PROBA, LABELS, 4), (PROBA, np.eye(4)[LABELS], 4), (P1, T1, 2)):
        if xp.id == "strict-no_x64" and n == 4:
            continue  # array-api-strict 2.6.1: argmax makes int64, which no_x64 lacks
        given = None if weight is None else xp.asarray(weight)
        counts = metrics.confusion_matrix(xp.asarray(p), xp.asarray(y), given)
        expected = sk.confusion_matrix(names(y), classes(p), sample_weight=weight, labels=range(n))
        xp.assert_close(counts, expected)


def test_scores_of_one_class_alone():
    p, one = np.array([[0.2], [0.7]]), np.ones((2, 1))
    assert np.isnan(metrics.roc_auc(p, one))
    assert np.isnan(metrics.roc_auc_ovr(p, one))
    assert np.isnan(metrics.roc_auc(p, one, np.zeros(2)))
    assert metrics.f1(p, one) == pytest.approx(2 / 3)
    assert metrics.f1(1 - one, 1 - one) == 0.0  # class 1 never occurs
    assert metrics.f1_macro(p, one) == pytest.approx((2 / 3 + 0) / 2)


def test_top_k_accuracy_of_other_k():
    for k in (1, 2, 3, 4):
        value = metrics.top_k_accuracy(COARSE, LABELS, None, k)
        assert value == pytest.approx(among(COARSE, LABELS, k))


@pytest.mark.parametrize("name", ["f1", "roc_auc"])
def test_metrics_of_two_classes_name_those_of_many(name):
    with pytest.raises(portnet.ShapeError, match=f"{name}: expected two classes, got 4: use '"):
        metrics.METRICS[name](PROBA, LABELS)
    X = RNG.random((50, 3))
    trainer = portnet.Trainer(portnet.mlp([3, 4]), "softmax_cross_entropy")
    with pytest.raises(ValueError, match=f"'{name}' is of two classes, .*has 4: use '"):
        trainer.fit(X, LABELS, metrics=[name], progress=False)


def test_shapes_that_do_not_fit_are_errors():
    for metric in (metrics.f1, metrics.roc_auc, metrics.confusion_matrix):
        with pytest.raises(
            portnet.ShapeError, match=f"{metric.__name__}: expected target of shape"
        ):
            metric(P1, T1[:-1])


def test_metrics_are_used_by_name_in_a_fit(xp):
    if xp.id == "strict-no_x64":
        pytest.skip(reason="array-api-strict 2.6.1: argmax makes int64, which no_x64 lacks")
    X, chosen = RNG.random((50, 3)), ["f1_macro", "roc_auc_ovr", "top_k_accuracy"]
    trainer = portnet.Trainer(portnet.mlp([3, 5, 4]), "softmax_cross_entropy")
    run = trainer.fit(X, LABELS, validation=(X, LABELS), metrics=chosen, epochs=2, progress=False)
    p = portnet.to_numpy(run.predict(X)).astype("float64")
    for name in chosen:
        expected = float(metrics.METRICS[name](p, LABELS))
        assert run.history[f"validation_{name}"][-1] == pytest.approx(expected, rel=1e-4)


def test_score_is_accuracy_or_r2(xp):
    X, tags = RNG.random((50, 3)), TAGS
    if xp.id != "strict-no_x64":
        run = portnet.Trainer(portnet.mlp([3, 4]), "softmax_cross_entropy").fit(
            X, LABELS, epochs=1, progress=False
        )
        assert run.score(X, LABELS) == run.evaluate(X, LABELS, metrics="accuracy")["accuracy"]
    run = portnet.Trainer(portnet.mlp([3, 3]), "sigmoid_cross_entropy").fit(
        X, tags, epochs=1, progress=False
    )
    given = run.evaluate(X, tags, WEIGHT, metrics="label_accuracy")["label_accuracy"]
    assert run.score(X, tags, WEIGHT) == given
    run = portnet.Trainer(portnet.mlp([3, 2]), "squared_error").fit(
        X, VALUES, epochs=1, progress=False
    )
    assert run.score(X, VALUES) == run.evaluate(X, VALUES, metrics="r2")["r2"]
    with pytest.raises(portnet.DataError, match="50 rows"):
        run.score(X, VALUES[:-1])


def test_nan_is_no_good_prediction():
    p = np.array([[0.1], [np.nan], [0.3]])
    assert np.isnan(metrics.roc_auc(p, np.array([[0.0], [1.0], [1.0]])))
    q = np.full((3, 4), np.nan)
    assert np.isnan(metrics.roc_auc_ovr(q, np.array([0, 1, 2])))
    assert metrics.top_k_accuracy(q, np.array([0, 1, 2])) == 0.0


def test_area_of_many_weighted_float32_rows():
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    draw = np.random.default_rng(0)
    p = draw.random((300_000, 1)).astype("float32")
    t = (draw.random((300_000, 1)) < p).astype("float32")
    weight = draw.random(300_000).astype("float32")
    expected = sk.roc_auc_score(t, p[:, 0], sample_weight=weight)
    assert abs(float(metrics.roc_auc(p, t, weight)) - expected) < 2e-7
