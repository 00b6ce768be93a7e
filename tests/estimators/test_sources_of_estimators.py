"""Estimators on data that are read in parts."""

import itertools
import os
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from fits import DiedError, dies_after
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sources import LABELS, ROWS, Sliced, X, mapped, order_as_defined, small_windows

import portnet
from portnet import MLPClassifier, MLPRegressor
from portnet.data.sources import order, reading
from portnet.estimators import solvers
from portnet.files.generators import set_generator

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


def test_a_large_validation_set_is_read_in_parts(small_windows, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PART", 100 * 20)
    options = {"early_stopping": True, "max_iter": 5}
    held_out, labels, weight = X[:900], NAMES[LABELS[:900]], np.arange(900) % 3
    given = {"y_val": labels, "sample_weight_val": weight}
    expected = fitted(classifier(**options), X, NAMES[LABELS], X_val=held_out, **given)
    source = Sliced(held_out)
    for x in (source, mapped(tmp_path, held_out)):
        net = fitted(classifier(**options), X, NAMES[LABELS], X_val=x, **given)
        same(net, expected)
        assert net.validation_scores_ == expected.validation_scores_
    assert max(stop - start for start, stop in source.slices) == 100
    with pytest.raises(ValueError, match="in the validation set: X has 4 features, but"):
        classifier(**options).fit(X, LABELS, X_val=Sliced(held_out[:, :4]), y_val=LABELS[:900])
    broken = Sliced(BROKEN[2_500:])
    with pytest.raises(ValueError, match="validation X contains NaN at row 400, column 3"):
        classifier(**options).fit(X, LABELS, X_val=broken, y_val=LABELS[2_500:])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("names", [["ant", "bee", "cat"], ["ant", "bee"]])
def test_early_stopping_without_a_class_to_train_on_is_an_error(small_windows, names):
    y = np.array(names)[:2][np.arange(ROWS) % 2]
    y[:3] = names[-1]  # a piece of rows that lie together, where it is another class
    rare = len(names) == 3
    found = set()
    for seed in range(12):
        net = classifier(early_stopping=True, max_iter=1, random_state=seed)
        net.set_params(validation_fraction=0.5)
        try:
            net.fit(Sliced(X), y)
        except ValueError as error:
            found.add(str(error)[:70])
    assert (len(found) == 1) == rare
    for text in found:
        assert text.startswith(
            "early_stopping: all rows of the classes ['cat'] are in the validation"
        )


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


CHECKPOINTED = {
    "adam": {},
    "in order": {"shuffle": False},
    "sgd": {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1},
    "early stopping": {"early_stopping": True},
    "class weights": {"class_weight": "balanced", "random_state": None},
    "dropout and curves": {
        "dropout": 0.2,
        "norm": "layer",
        "optimizer": "adamw",
        "metrics": ["f1_macro"],
    },
}


@pytest.mark.parametrize("option", CHECKPOINTED)
@pytest.mark.parametrize("every", [1, 2, "1 seconds"])
def test_a_fit_that_died_goes_on_from_its_checkpoint_exactly(
    small_windows, option, every, tmp_path, monkeypatch
):
    if every == "1 seconds":  # of a clock that shows another second at each look
        clock = itertools.count()
        monkeypatch.setattr(
            "portnet.files.checkpoint.time", SimpleNamespace(monotonic=clock.__next__)
        )
    path, options = tmp_path / "net", {"max_iter": 6} | CHECKPOINTED[option]
    weight = (np.arange(ROWS) % 3).astype(float)
    given, kept = (Sliced(X), NAMES[LABELS], weight), {"checkpoint": path, "every": every}
    with monkeypatch.context() as m:
        dies_after(m, 2)
        with pytest.raises(DiedError):
            classifier(**options).fit(*given, **kept)
    half = portnet.load(path)
    assert half.n_iter_ == (4 if every == 2 else 2)
    again = fitted(classifier(**options), *given, **kept, resume=True)
    whole = classifier(**options)
    if options.get("random_state", 0) is None:  # the seed is in the checkpoint only
        whole.random_state = np.random.RandomState()
        whole.random_state.set_state(first_state(path))
    fitted(whole, *given)
    same(again, whole)
    assert (
        again._random_state.get_state(legacy=False)["state"]["pos"]
        == (whole._random_state.get_state(legacy=False)["state"]["pos"])
    )
    same(classifier(**options).fit(*given, resume=path), whole)  # it has ended


def first_state(path):
    from portnet.files.encoding import decode
    from portnet.files.models import open_file

    described, tensors = open_file(path, "estimator")
    rng = np.random.RandomState()
    set_generator(rng, decode(described["progress"], tensors, {})["first"])
    return rng.get_state(legacy=False)


def test_what_cannot_be_resumed_is_refused(small_windows, tmp_path, monkeypatch):
    path = tmp_path / "net"
    fitted(classifier(max_iter=2), Sliced(X), LABELS, checkpoint=path)
    other = X.copy()
    other[0, 0] += 1
    for x, y, message in (
        (Sliced(other), LABELS, r"data\.X\.crc32"),
        (Sliced(X[:-1]), LABELS[:-1], r"data\.X\.shape"),
        (X, LABELS, r"order: .*blocks of 16 rows, windows of 256.* in the checkpoint"),
    ):
        with pytest.raises(portnet.ResumeMismatchError, match=message):
            classifier().fit(x, y, resume=path)
    monkeypatch.setattr(order, "WINDOW", 512 * 24)
    with pytest.raises(portnet.ResumeMismatchError, match=r"order: .*windows of 256.*windows of 5"):
        classifier().fit(Sliced(X), LABELS, resume=path)


def test_sigterm_writes_a_checkpoint_that_goes_on_exactly(small_windows, tmp_path, monkeypatch):
    class Terminates(Sliced):
        def __getitem__(self, rows):
            if len(self.slices) == 700:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
            return super().__getitem__(rows)

    path, options = tmp_path / "net", {"max_iter": 12, "tol": 0.0}
    with pytest.raises(SystemExit, match="143"):
        classifier(**options).fit(Terminates(X), LABELS, checkpoint=path, every=100)
    assert portnet.load(path).n_iter_ < 12
    again = fitted(classifier(**options), Sliced(X), LABELS, resume=path)
    same(again, fitted(classifier(**options), Sliced(X), LABELS))
    assert not [t for t in threading.enumerate() if t.name == "portnet windows"]


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
        (lambda net: net.predict(Sliced(X[:, 0])), r"X: expected shape \(rows, features\), got"),
        (lambda net: net.predict(Sliced(X[:, :4])), "X has 4 features, but MLPClassifier is exp"),
        (lambda net: net.set_params(solver="lbfgs").fit(Sliced(X), LABELS), "lbfgs needs all rows"),
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


@pytest.mark.parametrize("small", [0, 1 << 26])
def test_a_file_that_became_shorter_is_an_error_with_the_place(
    small_windows, small, tmp_path, monkeypatch
):
    monkeypatch.setattr(reading, "SMALL", small)
    net, x = fitted(classifier(), X, LABELS), mapped(tmp_path, X)
    os.truncate(tmp_path / "a.npy", 30_000)
    message = r"^X: rows 1493 to 3020 of the file .*a\.npy: the file became shorter, from 60548 to "
    calls = [
        lambda: net.predict(x),
        lambda: net.score(x, LABELS),
        lambda: classifier().fit(x, LABELS),
        lambda: classifier().partial_fit(x, LABELS, classes=[0, 1, 2]),
    ]
    for call in calls:
        with pytest.raises(portnet.DataError, match=message):
            call()


def test_bad_values_are_named_with_their_rows(small_windows, tmp_path, monkeypatch):
    with_nan, other = X.copy(), LABELS.copy()
    with_nan[2_900, 3], other[2_900] = np.nan, 7
    for most in (0, 1 << 26):  # read in parts, or as a whole
        monkeypatch.setattr(reading, "SMALL", most)
        for x in (mapped(tmp_path, with_nan), Sliced(with_nan)):
            with pytest.raises(portnet.DataError, match="row 2900, column 3"):
                classifier().fit(x, LABELS)
        net = fitted(classifier(), Sliced(X), LABELS)
        before = [a.copy() for a in net.get_weights()]
        calls = [
            lambda n=net: n.partial_fit(Sliced(X), other),
            lambda n=net: n.set_params(warm_start=True).fit(Sliced(X), other),
            lambda: classifier(early_stopping=True).fit(X, LABELS, X_val=Sliced(X), y_val=other),
        ]
        for call in calls:
            with pytest.raises(portnet.DataError, match="the first unknown one is at row 2900"):
                call()
        for a, b in zip(before, net.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_sparse_answers_for_parts_are_stacked(small_windows):
    sparse = pytest.importorskip("scipy.sparse")
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
    net = fitted(classifier(), X, sparse.csr_array(Y))
    found = net.predict(Sliced(X))
    np.testing.assert_array_equal(found.toarray(), net.predict(X).toarray())


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
