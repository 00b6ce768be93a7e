"""Estimators on data that are read in parts."""

import signal
import threading

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sources import LABELS, ROWS, Sliced, X, mapped, order_as_defined, small_windows

import portnet
from portnet import MLPClassifier, MLPRegressor
from portnet.data.sources import order, reading
from portnet.estimators import solvers

small_windows = small_windows
NAMES = np.array(["ant", "bee", "cat"])
BATCH = 16


def classifier(**options):
    given = {"hidden_layer_sizes": (8,), "batch_size": BATCH, "max_iter": 4, "random_state": 0}
    return MLPClassifier(**given | options)


def fitted(net, *args, **options):
    with pytest.warns(ConvergenceWarning):
        return net.fit(*args, **options)


def same(a, b):
    for p, q in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_], strict=True):
        np.testing.assert_array_equal(p, q)
    assert a.loss_curve_ == b.loss_curve_


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_fit_has_the_bits_of_one_in_memory_in_that_order(small_windows, solver, monkeypatch):
    net = fitted(classifier(solver=solver), Sliced(X), NAMES[LABELS])
    draw = np.random.RandomState(0)
    for a, b in ((5, 8), (8, 3)):
        draw.uniform(size=(a, b))
        draw.uniform(size=b)
    seed = int(draw.randint(1 << 31))
    plan = order.plan_of(ROWS, 24, BATCH, 0, "blocks")
    orders = [order_as_defined(plan, seed, epoch) for epoch in range(4)]
    drawn = iter(orders)
    monkeypatch.setattr(solvers._Orders, "draw", lambda self, count: [next(drawn)] * count)
    monkeypatch.setattr(solvers._Orders, "keep", lambda self, count: None)
    monkeypatch.setattr("portnet.engine.epoch.EpochExecutor.epochs_at_once", lambda self, *args: 1)
    expected = fitted(classifier(solver=solver), X, NAMES[LABELS])
    same(net, expected)
    assert net.classes_.tolist() == NAMES.tolist()
    assert net.t_ == 4 * ROWS


def test_predictions_and_scores_of_sources_are_those_of_arrays(small_windows, tmp_path):
    net = fitted(classifier(), Sliced(X), Sliced(LABELS))
    assert net.n_features_in_ == 5
    for given in (Sliced(X), mapped(tmp_path, X)):
        np.testing.assert_array_equal(net.predict(given), net.predict(X))
        np.testing.assert_allclose(net.predict_proba(given), net.predict_proba(X), rtol=1e-6)
        assert net.score(given, Sliced(LABELS)) == net.score(X, LABELS) > 0.9


def test_kinds_of_sources_give_the_same_fit(small_windows, tmp_path):
    net = fitted(classifier(), Sliced(X), LABELS)
    same(net, fitted(classifier(), mapped(tmp_path, X), mapped(tmp_path, LABELS, "y")))
    same(net, fitted(classifier(), Sliced(X), Sliced(LABELS.astype("int8"))))
    assert net.coefs_[0].dtype == np.float32
    wide = fitted(classifier(), Sliced(X.astype("float64")), LABELS)
    assert wide.coefs_[0].dtype == np.float64


def test_small_sources_and_small_or_joblib_s_maps_are_arrays(tmp_path, monkeypatch):
    expected = fitted(classifier(), X, LABELS)
    same(fitted(classifier(), Sliced(X), Sliced(LABELS)), expected)
    same(fitted(classifier(), mapped(tmp_path, X), LABELS), expected)
    monkeypatch.setattr(reading, "SMALL", 0)
    folder = tmp_path / "joblib_memmapping_folder_1_a"
    folder.mkdir()
    same(fitted(classifier(), mapped(folder, X), LABELS), expected)


def test_early_stopping_holds_out_pieces(small_windows):
    net = classifier(early_stopping=True, max_iter=60, n_iter_no_change=3, validation_fraction=0.2)
    net.fit(Sliced(X), LABELS)
    assert net.best_validation_score_ > 0.9
    assert len(net.validation_scores_) < 60
    other = classifier(early_stopping=True, max_iter=5)
    fitted(other, Sliced(X), LABELS, X_val=Sliced(X[:100]), y_val=Sliced(LABELS[:100]))


def test_rows_of_weight_0_are_left_out(small_windows):
    weight = (np.arange(ROWS) % 3 > 0).astype(float)
    broken = LABELS.copy()
    broken[weight == 0] = (broken[weight == 0] + 1) % 3
    a = fitted(classifier(), Sliced(X), LABELS, weight)
    same(a, fitted(classifier(), Sliced(X), broken, Sliced(weight)))
    assert a.t_ == 4 * (weight > 0).sum()
    for options in ({}, {"early_stopping": True}):
        balanced = classifier(class_weight="balanced", **options)
        assert fitted(balanced, Sliced(X), LABELS, weight).score(X, LABELS) > 0.9


def test_partial_fit_goes_once_through_a_source(small_windows):
    net = classifier()
    for _ in range(3):
        net.partial_fit(Sliced(X), LABELS, classes=[0, 1, 2])
    assert net.t_ == 3 * ROWS
    assert net.score(X, LABELS) > 0.9


def test_regressors_and_several_outputs(small_windows):
    net = MLPRegressor(hidden_layer_sizes=(8,), batch_size=BATCH, max_iter=20, random_state=0)
    Y = np.column_stack([X[:, 0] + X[:, 1], X[:, 2]])
    fitted(net, Sliced(X), Sliced(Y))
    assert net.score(Sliced(X), Sliced(Y)) == pytest.approx(net.score(X, Y))
    assert net.score(X, Y) > 0.9
    one = fitted(clone(net), Sliced(X), Y[:, 0])
    assert one.predict(Sliced(X)).shape == (ROWS,)


def test_multilabel_targets(small_windows):
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
    net = fitted(classifier(), Sliced(X), Y)
    np.testing.assert_array_equal(net.predict(Sliced(X)), net.predict(X))
    assert net.score(Sliced(X), Y) > 0.8


BROKEN = X.copy()
BROKEN[2_900, 3] = np.nan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net.fit(Sliced(BROKEN), LABELS), "X contains NaN at row 2900, column 3"),
        (lambda net: net.predict(Sliced(BROKEN)), "X contains NaN at row 2900, column 3"),
        (lambda net: net.fit(Sliced(X.astype(str)), LABELS), "X: expected real numbers, got"),
        (lambda net: net.fit(Sliced(X[:, 0]), LABELS), r"X: expected shape \(rows, features\)"),
        (lambda net: net.fit(Sliced(X), LABELS[:-1]), "inconsistent numbers of samples"),
        (lambda net: net.predict(Sliced(X[:, :4])), "X has 4 features, but MLPClassifier is exp"),
        (lambda net: net.set_params(solver="lbfgs").fit(Sliced(X), LABELS), "lbfgs needs all rows"),
        (
            lambda net: net.fit(Sliced(X), LABELS, checkpoint="a"),
            "checkpoint and resume=path: not for",
        ),
        (lambda net: net.partial_fit(Sliced(X), LABELS + 1), "y"),
    ],
)
def test_bad_data_are_refused_and_leave_the_estimator_as_it_was(small_windows, call, message):
    net = fitted(classifier(), X, LABELS)
    before = [W.copy() for W in net.coefs_]
    with pytest.raises(ValueError, match=message):
        call(net)
    for W, b in zip(net.coefs_, before, strict=True):
        np.testing.assert_array_equal(W, b)
    assert not [t for t in threading.enumerate() if t.name == "portnet windows"]


def test_lbfgs_takes_a_memory_map_as_an_array(small_windows, tmp_path):
    a = fitted(classifier(solver="lbfgs"), mapped(tmp_path, X), LABELS)
    b = fitted(classifier(solver="lbfgs"), X, LABELS)
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


def test_ctrl_c_ends_a_fit_and_its_thread(small_windows, default_sigint_handler):
    class Interrupts(Sliced):
        def __getitem__(self, rows):
            if len(self.slices) == 400:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            return super().__getitem__(rows)

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        net = classifier(max_iter=1000, tol=0, n_iter_no_change=1000).fit(Interrupts(X), LABELS)
    assert net.n_iter_ < 1000
    assert not [t for t in threading.enumerate() if t.name == "portnet windows"]


def test_other_backends(small_windows, backend_name):
    net = classifier(backend=backend_name)
    fitted(net, Sliced(X), LABELS)
    assert portnet.backend.describe(net.coefs_[0]).startswith(f"a {backend_name} ")
    assert net.score(Sliced(X), LABELS) > 0.9
