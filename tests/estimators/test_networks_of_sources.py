"""The parameters of networks, losses and optimizers on data that are read in parts."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sources import LABELS, ROWS, Sliced, X, order_as_defined, small_windows

import portnet
from portnet import MLPClassifier, MLPRegressor
from portnet.data.sources import windows
from portnet.estimators import solvers

small_windows = small_windows
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NAMES = np.array(["ant", "bee", "cat"])
SMALL = {"hidden_layer_sizes": (8,), "batch_size": 16, "max_iter": 3, "random_state": 0}
HEADS = np.column_stack([NAMES[LABELS], np.where(X[:, 0] > 0, "yes", "no")])


def squared(pred, target, weight=None):
    """Return the mean of the squared differences over rows, and its gradient."""
    xp = portnet.namespace(pred)
    w = xp.ones_like(pred[:, 0]) if weight is None else weight
    w = xp.expand_dims(w / xp.sum(w), axis=-1)
    return xp.sum(w * (pred - target) ** 2), 2 * w * (pred - target)


def fitted_in_parts_and_in_memory(make, y, monkeypatch, *weight, **validation):
    """Return the fit of a source, and that of the array with its rows in the same order."""
    made = []

    class Spied(windows.Windows):
        def __init__(self, data, plan, seed, *more):
            made.append((plan, seed))
            super().__init__(data, plan, seed, *more)

    monkeypatch.setattr(windows, "Windows", Spied)
    in_parts = make().fit(Sliced(X), y, *weight, **validation)
    orders = [order_as_defined(*made[-1], epoch) for epoch in range(in_parts.n_iter_)]
    drawn = iter(orders)
    with monkeypatch.context() as patch:
        patch.setattr(solvers._Orders, "draw", lambda self, count: [next(drawn)] * count)
        patch.setattr(solvers._Orders, "keep", lambda self, count: None)
        patch.setattr("portnet.engine.epoch.EpochExecutor.epochs_at_once", lambda self, *args: 1)
        return in_parts, make().fit(X, y, *weight, **validation)


def same(a, b):
    for p, q in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)
    assert a.history_ == b.history_


@pytest.mark.parametrize(
    ("options", "y"),
    [
        ({"dropout": 0.3, "norm": "layer", "activation": ["gelu"]}, LABELS),
        ({"dropout": 0.3, "compile": False}, NAMES[LABELS]),
        ({"optimizer": portnet.AdamW(portnet.CosineDecay(3e-3, steps=400)), "alpha": 0.1}, LABELS),
        ({"optimizer": portnet.chain(portnet.ClipNorm(0.1), portnet.SGD(0.1))}, LABELS > 0),
        ({"loss": squared}, LABELS),
        ({"loss": squared, "dropout": 0.1}, np.column_stack([LABELS > 0, LABELS > 1])),
        ({"loss": portnet.SoftmaxCrossEntropy()}, NAMES[LABELS]),
        ({"dropout": 0.1}, HEADS),
        ({"metrics": ["accuracy", "neg_log_loss"]}, LABELS),
    ],
)
def test_a_fit_has_the_bits_of_one_in_memory_in_that_order(small_windows, options, y, monkeypatch):
    make = lambda: MLPClassifier(**SMALL | options)  # noqa: E731
    in_parts, in_memory = fitted_in_parts_and_in_memory(make, y, monkeypatch)
    same(in_parts, in_memory)
    np.testing.assert_array_equal(in_parts.predict(Sliced(X)), in_memory.predict(X))
    p, q = in_parts.predict_proba(Sliced(X)), in_memory.predict_proba(X)
    for a, b in zip(*([p], [q]) if not isinstance(p, list) else (p, q), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert in_parts.score(Sliced(X), y) == in_memory.score(X, y)


@pytest.mark.parametrize("loss", [squared, portnet.Huber(0.5), "absolute_error"])
def test_regressors_and_their_losses(small_windows, loss, monkeypatch):
    whole = np.column_stack([LABELS, 2 * LABELS])  # integers, which an own loss gets as floats
    for y in (X[:, 0] + X[:, 1], whole):
        make = lambda: MLPRegressor(loss=loss, dropout=0.1, metrics="r2", **SMALL)  # noqa: E731
        same(*fitted_in_parts_and_in_memory(make, y, monkeypatch))


def test_weights_and_a_given_validation_set(small_windows, monkeypatch):
    make = lambda: MLPClassifier(  # noqa: E731
        loss=squared, early_stopping=True, scoring="f1_macro", metrics=["accuracy"], **SMALL
    )
    weight = np.random.default_rng(1).uniform(0.5, 2.0, ROWS)
    given = {"X_val": X[:200], "y_val": LABELS[:200]}
    same(*fitted_in_parts_and_in_memory(make, LABELS, monkeypatch, weight, **given))


@pytest.mark.parametrize("scoring", ["f1_macro", "loss", None])
def test_early_stopping_on_pieces_of_the_source(small_windows, scoring):
    net = MLPClassifier(early_stopping=True, scoring=scoring, metrics=["accuracy"], **SMALL)
    net.fit(Sliced(X), LABELS)
    assert {len(curve) for curve in net.history_.values()} == {3}
    assert net.history_["accuracy"][-1] > 0.8
    assert net.history_["validation_accuracy"][-1] > 0.8


@pytest.mark.parametrize(
    "options", [{}, {"dropout": 0.2}, {"early_stopping": True, "metrics": ["accuracy"]}]
)
def test_ten_epochs_and_ten_are_twenty(small_windows, options):
    whole = MLPClassifier(**SMALL | options | {"max_iter": 6}).fit(Sliced(X), LABELS)
    net = MLPClassifier(**SMALL | options).fit(Sliced(X), LABELS)
    net.set_params(max_iter=6).fit(Sliced(X), LABELS, resume=True)
    same(net, whole)
    begun = MLPClassifier(**SMALL | options | {"max_iter": 6}).initialize(Sliced(X), LABELS)
    same(begun.fit(Sliced(X), LABELS, resume=True), whole)


def test_callbacks_get_the_source(small_windows):
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    net = MLPClassifier(metrics=["accuracy"], **SMALL).set_callbacks(monitor)
    net.fit(Sliced(X), LABELS)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    np.testing.assert_allclose([row["accuracy"] for row in epochs], net.history_["accuracy"])


def test_a_wrong_gradient_is_found_before_training(small_windows):
    def wrong(pred, target, weight=None):
        value, dpred = squared(pred, target, weight)
        return value, 1.1 * dpred

    with pytest.raises(portnet.GradientError, match=r"loss=wrong: its gradient is wrong"):
        MLPClassifier(loss=wrong, **SMALL).fit(Sliced(X), LABELS)


def test_a_head_with_an_unknown_label_is_refused(small_windows):
    net = MLPClassifier(**SMALL).fit(Sliced(X), HEADS)
    other = HEADS.copy()
    other[7, 1] = "maybe"
    with pytest.raises(ValueError, match="has classes in head 1 that are not among"):
        net.partial_fit(Sliced(X), other)


def test_ensembles_are_those_of_fits_one_by_one(small_windows):
    options = SMALL | {"dropout": 0.1, "max_iter": 2}
    net = MLPClassifier(n_networks=3, **options).fit(Sliced(X), LABELS)
    for one in net.estimators_:
        seeded = options | {"random_state": one.random_state}
        same(one, MLPClassifier(**seeded).fit(Sliced(X), LABELS))
    np.testing.assert_array_equal(net.predict(Sliced(X)), net.predict(X))
    mean = np.mean([one.predict_proba(X) for one in net.estimators_], axis=0)
    np.testing.assert_allclose(net.predict_proba(Sliced(X)), mean, rtol=1e-5, atol=1e-7)
    target = X[:, 0] + X[:, 1]
    spread = MLPRegressor(n_networks=2, **SMALL).fit(Sliced(X), target)
    for a, b in zip(spread.predict(Sliced(X), True), spread.predict(X, True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert net.partial_fit(Sliced(X), LABELS).t_ == 3 * ROWS
