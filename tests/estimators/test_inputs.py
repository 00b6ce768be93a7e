"""Features and targets: data frames, sparse arrays, bad data."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import pickle
import warnings

import numpy as np
import sklearn.neural_network as sklearn_nn
from problems import SMALL, XM, XR, YM, YR, X, Y, assert_same
from sklearn.base import clone

import portnet
from portnet import MLPClassifier, MLPRegressor
from portnet.estimators import solvers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Data frames and sparse arrays -------------------------------------------------------------------


def test_dataframes_equal_arrays_and_set_feature_names():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    polars = pytest.importorskip("polars", reason="polars is not installed")
    names = ["a", "b", "c", "d"]
    plain = MLPClassifier(**SMALL).fit(X, Y)
    text = np.array(["x", "y", "z"], dtype=object)[Y]
    for frame, column, labels in [
        (
            pandas.DataFrame(X, columns=names, index=range(7, 157)),
            pandas.Series(Y),
            pandas.Series(text),
        ),
        (polars.DataFrame(X, schema=names), polars.Series(Y), polars.Series(text.tolist())),
    ]:
        net = MLPClassifier(**SMALL).fit(frame, column)
        assert_same(net, plain, atol=0)
        assert net.feature_names_in_.tolist() == names
        assert isinstance(net.predict(frame), np.ndarray)
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            net.predict(X)
        assert set(MLPClassifier(**SMALL).fit(frame, labels).predict(frame)) <= set("xyz")
    with pytest.raises(ValueError, match="feature names should match"):
        net.predict(frame.rename({"a": "e"}))


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_matrix", "coo_array"])
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "sgd", "early_stopping": False},
        {"solver": "adam", "early_stopping": True},
        {"solver": "lbfgs", "early_stopping": False},
    ],
)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_sparse_features_equal_dense_features(backend, options, kind, monkeypatch, request):
    """They stay sparse on NumPy and become dense batch by batch on other backends."""
    request.getfixturevalue("torch")
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    dense = np.where(np.abs(X) > 0.7, X, 0)
    rows = getattr(sparse, kind)(dense)
    options = {"batch_size": 40, **SMALL, **options}
    plain = MLPClassifier(**options).fit(dense, Y)
    monkeypatch.setattr(solvers, "block_size", lambda params: 40)
    made, whole = [0], sparse.csr_matrix.toarray
    for name in ("csr_matrix", "csr_array"):

        def toarray(self, *args, **kwargs):
            made.append(self.shape[0])
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(getattr(sparse, name), "toarray", toarray)
    net = MLPClassifier(backend=backend, **options).fit(rows, Y)
    assert_same(net, plain, atol=1e-9)
    answer = net.predict_proba(rows)
    assert isinstance(answer, np.ndarray)
    np.testing.assert_allclose(answer, plain.predict_proba(dense), atol=1e-9)
    assert max(made) <= (40 if backend == "torch" else 0)
    if options["solver"] == "adam":  # dense after sparse, and sparse after dense
        net.fit(dense, Y, X_val=rows, y_val=Y)
        again = MLPClassifier(backend=backend, **options).fit(rows, Y, X_val=dense, y_val=Y)
        assert_same(net, again, atol=1e-9)
    if not options["early_stopping"]:
        return
    with pytest.raises(ValueError, match=r"X: a value of .* is too large for float32: sc"):
        plain.fit(dense.astype(np.float32), Y).predict(rows * 1e300)


def test_sparse_multilabel_targets_equal_those_of_scikit_learn():
    sparse = pytest.importorskip("scipy.sparse")
    pair = [m.MLPClassifier(**SMALL).fit(XM, sparse.csr_matrix(YM)) for m in (portnet, sklearn_nn)]
    assert_same(*pair)
    a, b = (net.predict(XM) for net in pair)
    assert sparse.issparse(a) == sparse.issparse(b)
    np.testing.assert_array_equal(np.asarray(a.todense()), np.asarray(b.todense()))


def test_sparse_targets_with_torch_features_fit_or_raise(torch):
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    given, labels = torch.asarray(X), np.stack([Y > 0, Y > 1], 1).astype(int)
    several = MLPClassifier(**SMALL).fit(given, sparse.csr_matrix(labels))
    dense = MLPClassifier(**SMALL).fit(given, labels)
    np.testing.assert_array_equal(several.coefs_[0], dense.coefs_[0])
    for net in MLPClassifier(**SMALL), MLPRegressor(**SMALL):
        with pytest.raises(TypeError, match="Sparse data was passed for y, but dense data is req"):
            net.fit(given, sparse.csr_matrix(Y.reshape(-1, 1)))


# Bad data ----------------------------------------------------------------------------------------


BAD_DATA = [
    (X[:, :2], Y, None, "X has 2 features, but MLPClassifier is expecting 4 features as input"),
    (X[0], Y[:1], None, "Reshape your data"),
    (X[:0], Y[:0], None, r"Found array with 0 sample\(s\)"),
    (X * 1j, Y, None, "Complex data not supported"),
    (np.where(X > 2, np.nan, X), Y, None, "Input X contains NaN"),
    (np.where(X > 2, np.inf, X), Y, None, "Input X contains inf"),
    (X, Y[:9], None, "inconsistent numbers of samples"),
    (X, None, None, "requires y to be passed, but the target y is None"),
    (X, Y + 7, None, "`y` has classes not in `self.classes_`"),
    (X, X[:, 0], None, "Unknown label type: "),
    (X, ["a", 1, 2] * 50, None, r"Mix of label input types \(number and string\) in y"),
    (X, Y, -np.ones(150), "Negative values in data passed to `sample_weight`"),
    (X, Y, np.zeros(150), "weight.*zero|zero.*weight"),
    (X, Y, np.ones(9), "sample_weight.shape == "),
    (X, Y, np.full(150, np.nan), "Input sample_weight contains NaN"),
    (X, Y, np.full(150, 1e308), "sum of the weights is too large"),
    ([["a", "b", "c", "d"]], [0], None, "could not convert string to float"),
]


@pytest.mark.parametrize(("features", "y", "w", "message"), BAD_DATA)
@pytest.mark.parametrize("device", [False, True])
def test_bad_data_raise_and_leave_the_estimator_unchanged(features, y, w, message, device, request):
    """In fit and in partial_fit; on the host and on a device the messages are scikit-learn's."""
    move = request.getfixturevalue("torch").asarray if device else np.asarray
    if isinstance(features, list):
        if device:
            pytest.skip("torch has no arrays of text")
    else:
        features = move(features)
    net = MLPClassifier(**SMALL).partial_fit(move(X), Y, classes=[0, 1, 2])
    before, attributes = net.predict_proba(move(X)), dict(vars(net))
    first = "classes not in" in message or "features, but" in message
    for method in ["partial_fit", "fit"][: 1 if first else 2]:
        with pytest.raises((ValueError, TypeError), match=message):
            getattr(net, method)(features, y, w)
        assert bool((net.predict_proba(move(X)) == before).all())
        assert vars(net) == attributes
    net.partial_fit(move(X), Y)
    assert not bool((net.predict_proba(move(X)) == before).all())


def test_values_that_overflow_float32_raise():
    for made, x, y, w, name in [
        (MLPRegressor, XR.astype(np.float32), YR * 1e300, None, "y"),
        (MLPRegressor, XR.astype(np.float32), YR, np.full(len(YR), 1e300), "sample_weight"),
    ]:
        with pytest.raises(ValueError, match=f"{name}: a value of .* is too large for float32"):
            made(**SMALL).fit(x, y, w)
    net = MLPRegressor(**SMALL).fit(XR.astype(np.float32), YR)
    for call in (net.predict, lambda x: net.partial_fit(x, YR)):
        with pytest.raises(
            ValueError, match=r"is too large for float32 at row \d+, column \d: scale"
        ):
            call(XR * 1e300)


@pytest.mark.parametrize("missing", [np.nan, None, "NA"])
def test_missing_labels_raise(missing):
    if missing == "NA":
        missing = pytest.importorskip("pandas", reason="pandas is not installed").NA
    for kind in (list, lambda y: np.array(y, dtype=object)):
        with pytest.raises(ValueError, match=r"Input y contains (NaN|None)\."):
            MLPClassifier(**SMALL).fit(X, kind(["a", "b", missing] * 50))


def test_bad_targets_on_torch_raise(torch):
    net, there = MLPRegressor(**SMALL), torch.asarray(XR)
    with pytest.raises(ValueError, match="Found array with dim 3"):
        net.fit(there, torch.asarray(np.ones((120, 2, 2))))
    with pytest.raises(ValueError, match="Input y contains NaN"):
        net.fit(there, torch.asarray(np.where(YR > 1, np.nan, YR)))
    with pytest.raises(ValueError, match="out of the valid range of the loss 'poisson'"):
        MLPRegressor("poisson", **SMALL).fit(there, torch.asarray(YR))
    with pytest.raises(ValueError, match=r"Found array with 0 feature\(s\)"):
        net.fit(there[:, :0], torch.asarray(YR))


def test_float64_dataframes_on_a_device_without_float64_raise():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    polars = pytest.importorskip("polars", reason="polars is not installed")
    with portnet.use_backend("array_api_strict", device="no_float64"):
        for frame in (pandas.DataFrame(XR), polars.DataFrame(XR)):
            with pytest.raises(ValueError, match="X is float64, but"):
                MLPRegressor(**SMALL).fit(frame, YR)


# Object arrays, meta and sparse tensors, and huge integers ---------------------------------------


def test_none_in_a_list_to_predict_raises_with_row_and_column():
    features, y = np.random.default_rng(0).standard_normal((24, 3)), np.arange(24) % 3
    rows = [[0.3, 0.1, 0.2], [0.3, None, 0.2]]
    for net, target in ((MLPClassifier(max_iter=3), y), (MLPRegressor(max_iter=3), y / 2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ConvergenceWarning
            net.fit(features, target)
        for call in (net.predict, *([net.predict_proba] if hasattr(net, "predict_proba") else [])):
            with pytest.raises(TypeError, match="Input X contains None at row 1, column 1: give n"):
                call(rows)
            with pytest.raises(ValueError, match="Input X contains NaN"):  # as in scikit-learn
                call(np.array(rows, dtype=object))
        with pytest.raises(ValueError, match="Input X contains NaN"):  # as in scikit-learn
            clone(net).fit(rows, target[:2])


def test_object_targets_with_nan_or_infinity_raise():
    from decimal import Decimal

    features = np.random.default_rng(0).standard_normal((6, 3))
    for bad, what in ((Decimal("Infinity"), "infinity"), (None, "NaN"), (Decimal("NaN"), "NaN")):
        y = [bad, Decimal(1), Decimal(2)] * 2
        for given in (y, np.array(y, dtype=object)):
            with pytest.raises(ValueError, match=f"Input y contains {what}"):
                MLPRegressor().fit(features, given)
            with pytest.raises(ValueError, match=f"in the validation set: Input y contains {what}"):
                MLPRegressor(early_stopping=True).fit(
                    features, np.ones(6), X_val=features, y_val=given
                )


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_meta_and_sparse_tensors_raise_and_are_named(torch):
    given, y = torch.asarray(X), torch.asarray(Y)
    fitted = MLPClassifier(**SMALL).fit(given, y)
    meta = r"{}: got a tensor on the device 'meta', which has a shape and no values"
    sparse = r"{}: sparse data was passed, but dense is required: use \.to_dense\(\)"
    for wrong, kind, message in (
        (given.to("meta"), ValueError, meta),
        (given.to_sparse(), TypeError, sparse),
        (given.to_sparse_csr(), TypeError, sparse),
    ):
        stopping = MLPClassifier(early_stopping=True, **SMALL)
        for name, call in (
            ("X", lambda wrong=wrong: MLPClassifier(**SMALL).fit(wrong, y)),
            ("y", lambda wrong=wrong: MLPClassifier(**SMALL).fit(given, wrong)),
            ("X", lambda wrong=wrong: fitted.predict_proba(wrong)),
            ("X", lambda wrong=wrong: fitted.score(wrong, y)),
            ("y", lambda wrong=wrong: fitted.score(given, wrong)),
            ("sample_weight", lambda wrong=wrong: fitted.score(given, y, wrong)),
            ("y", lambda wrong=wrong: MLPRegressor(**SMALL).fit(given, y).score(given, wrong)),
            ("y", lambda wrong=wrong: MLPClassifier(**SMALL).partial_fit(given, wrong, None, [0])),
            (
                "in the validation set: X_val",
                lambda wrong=wrong, net=stopping: net.fit(given, y, X_val=wrong, y_val=y),
            ),
        ):
            with pytest.raises(kind, match=f"^{message.format(name)}"):
                call()


def test_integers_too_large_for_a_float_raise_with_their_position():
    huge, rows = 10**400, X.tolist()
    wide = [[*row[:-1], huge] for row in rows]
    weight, values = [1.0, huge] * (len(rows) // 2), [0.5, huge] * (len(rows) // 2)
    for net, y in (MLPClassifier(**SMALL), Y), (MLPRegressor(**SMALL), np.arange(len(X)) / 9):
        fitted = clone(net).fit(X, y)
        before = pickle.dumps(fitted)
        held = clone(net).set_params(early_stopping=True)
        for name, where, call in (
            ("X", "row 0, column 3", lambda n=fitted, y=y: n.fit(wide, y)),
            ("X", "row 0, column 3", lambda n=fitted, y=y: n.partial_fit(wide, y)),
            ("X", "row 0, column 3", lambda n=fitted: n.predict(wide)),
            ("X", "row 0, column 3", lambda n=fitted, y=y: n.score(wide, y)),
            ("sample_weight", "row 1", lambda n=fitted, y=y: n.fit(X, y, weight)),
            ("sample_weight", "row 1", lambda n=fitted, y=y: n.score(X, y, weight)),
            (
                "in the validation set: sample_weight_val",
                "row 1",
                lambda n=held, y=y: n.fit(X, y, X_val=X, y_val=y, sample_weight_val=weight),
            ),
            ("y", "row 1", lambda n=fitted: n.fit(X, values)),
            ("y", "row 1", lambda n=fitted: n.score(X, values)),
        ):
            if name == "y" and isinstance(net, MLPClassifier):
                continue  # scikit-learn's error for an unknown label type
            with pytest.raises(ValueError, match=f"^{name} contains an integer too .* at {where}"):
                call()
        assert pickle.dumps(fitted) == before
