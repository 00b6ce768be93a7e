"""Estimators on every backend, moved between backends, and their dtypes."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import pickle

import numpy as np
from problems import BINARY, PROBLEMS, SMALL, SOLVERS, XR, YR, X, Y, assert_same, params
from sklearn.exceptions import NotFittedError

import portnet
from portnet import MLPClassifier, MLPRegressor
from portnet.backend import is_host

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Backends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_estimators_on_every_backend_equal_numpy(xp, problem, solver):
    """Results stay on the device of the input and equal those on NumPy."""
    if xp.id == "numpy-readonly":
        pytest.skip("NumPy is data on the host here; scikit-learn's checks cover read-only data")
    if (solver != "adam" or xp.id == "jax") and problem != "three classes":
        pytest.skip("covered by adam and by the other libraries")
    if xp.id == "strict-no_x64" and problem in ("three classes", "text"):
        pytest.skip("array-api-strict 2.6.1: argmax makes int64, which no_x64 lacks")
    name, features, y, more = PROBLEMS[problem]
    options = {**more, **SMALL, "solver": solver, "max_iter": 4}
    weights = np.random.default_rng(1).uniform(0.1, 3, len(y))
    expected = getattr(portnet, name)(**options)
    with portnet.use_backend("numpy", dtype="float64"):
        expected.fit(features.astype(xp.float_name), y, weights.astype(xp.float_name))
    actual = getattr(portnet, name)(**options)
    there = xp.asarray(features)
    actual.fit(there, y if problem == "text" else xp.asarray(y), xp.asarray(weights))
    atol = 1e-10 if xp.float_name == "float64" else 1e-3
    for a, b in zip(params(actual), params(expected), strict=True):
        xp.check_kind(a)
        np.testing.assert_allclose(xp.numpy(a), b, atol=atol)
    methods = (
        ["predict", "predict_proba", "predict_log_proba"]
        if name == "MLPClassifier"
        else ["predict"]
    )
    for method in methods:
        answer = getattr(actual, method)(there)
        host = getattr(expected, method)(features.astype(xp.float_name))
        if problem == "text" and method == "predict":
            assert isinstance(answer, np.ndarray)
            assert (answer == host).mean() > 0.98
            continue
        assert portnet.get_backend().holds(answer)
        assert xp.numpy(answer).shape == host.shape
        np.testing.assert_allclose(xp.numpy(answer), host, atol=10 * atol, rtol=1e-3)
        if xp.id != "strict-no_x64":
            assert xp.numpy(answer).dtype == host.dtype
    score = actual.score(there, y, weights)
    assert type(score) is float
    assert score == pytest.approx(expected.score(features, y, weights), abs=0.02)
    if solver != "lbfgs" and problem != "labels":
        actual.partial_fit(there, y)
        assert portnet.get_backend().holds(actual.coefs_[0])


def test_host_data_train_on_the_backend_and_predictions_return_to_host(backend_name):
    """The backend is `backend` or the default; host input gives host results, device input stays."""
    X32 = X.astype(np.float32)
    for net in (MLPClassifier(backend=backend_name, **SMALL), MLPClassifier(**SMALL)):
        if net.backend is None:
            portnet.set_backend(backend_name)
        net.fit(X32, Y)
        assert portnet.backend.backend_of(net.coefs_[0]).name == backend_name
        for answer in (net.predict(X32), net.predict_proba(X32), net.predict_log_proba(X32)):
            assert type(answer) is np.ndarray
        there = portnet.backend.backend_of(net.coefs_[0]).asarray(X32)
        assert not is_host(net.predict_proba(there))
        net.partial_fit(X32, Y)
        assert portnet.backend.backend_of(net.coefs_[0]).name == backend_name
        portnet.set_backend("numpy")


def test_backend_parameter_accepts_a_device_and_rejects_unknown_ones(torch):
    net = MLPClassifier(backend="torch:cpu", **SMALL).fit(X, Y)
    assert net.coefs_[0].device == torch.device("cpu")
    assert net.coefs_[0].dtype == torch.float64  # X's
    for name, message in (("tohrch", "did you mean 'torch'"), ("torch:moon", "unknown device")):
        with pytest.raises(ValueError, match=message):
            MLPClassifier(backend=name).fit(X, Y)
    # Device arrays override the parameter.
    there = torch.asarray(X)
    assert isinstance(MLPClassifier(backend="numpy", **SMALL).fit(there, Y).coefs_[0], torch.Tensor)


def test_weights_and_predictions_have_the_dtype_of_the_features(torch):
    for dtype, expected in [
        (np.float32, "float32"),
        (np.float64, "float64"),
        (np.int32, "float64"),
        (np.float16, "float64"),
        (bool, "float64"),
    ]:
        for data in (X.astype(dtype), torch.asarray(X.astype(dtype))):
            net = MLPRegressor(**SMALL).fit(data, YR[:1].repeat(150) + X[:, 0])
            assert {str(a.dtype).rpartition(".")[2] for a in params(net)} == {expected}
            assert str(net.predict(data).dtype).endswith(expected)
    net = MLPClassifier(**SMALL).fit(X.astype(np.float32), Y)
    assert net.predict_proba(X).dtype == np.float32  # the dtype of the network
    assert net.partial_fit(X, Y).coefs_[0].dtype == np.float32


def test_predicting_on_another_library_raises_and_names_the_remedy(torch):
    there = torch.asarray(X)
    net = MLPClassifier(**SMALL).fit(there, Y)
    message = r"MLPClassifier.predict\(\) must use the same namespace .* estimator.to\('numpy'\)"
    with pytest.raises(ValueError, match=message):
        net.predict(X)
    host = MLPClassifier(**SMALL).fit(X, Y)
    with pytest.raises(ValueError, match=r"MLPClassifier.predict_proba\(\) must use the same"):
        host.predict_proba(there)
    with pytest.raises(ValueError, match=r"MLPClassifier.partial_fit\(\) must use the same"):
        host.partial_fit(there, Y)
    assert net.fit(X, Y).predict(X).shape == (150,)  # a new fit may use another backend


@pytest.mark.parametrize("solver", SOLVERS)
def test_moving_to_another_backend_and_back_keeps_the_estimator(torch, solver):
    """Predictions, weights and the continuation of training are equal on the new backend."""
    net = MLPClassifier(solver=solver, **SMALL).fit(X, Y)
    there = net.to("torch")
    assert there is not net
    assert isinstance(there.coefs_[0], torch.Tensor)
    assert isinstance(net.coefs_[0], np.ndarray)
    assert isinstance(there.predict(torch.asarray(X)), torch.Tensor)
    np.testing.assert_array_equal(there.predict(X), net.predict(X))
    back = there.move_to("numpy")
    assert_same(back, net, atol=0)
    assert back.coefs_[0].dtype == np.float64
    assert net.to("torch", dtype="float32").coefs_[0].dtype == torch.float32
    if solver != "lbfgs":
        for moved in (back, there):
            again = pickle.loads(pickle.dumps(net)).partial_fit(X, Y)
            assert_same(moved.partial_fit(X, Y), again, atol=1e-12)
            assert len(moved.loss_curve_) == len(net.loss_curve_) + 1
    with pytest.raises(NotFittedError):
        MLPClassifier().to("torch")


def test_move_estimator_to_of_scikit_learn_moves_weights_and_state(torch):
    from sklearn.utils._array_api import move_estimator_to

    net = MLPRegressor(early_stopping=True, **SMALL).fit(torch.asarray(XR), torch.asarray(YR))
    moved = move_estimator_to(net, np, "cpu")
    assert_same(moved, net, atol=0)
    np.testing.assert_allclose(moved.predict(XR), net.predict(torch.asarray(XR)).numpy())
    assert isinstance(moved._optimizer.state.m[0]["W"], np.ndarray)


def test_cross_val_predict_on_torch_equals_numpy(torch):
    from sklearn import config_context
    from sklearn.model_selection import cross_val_predict

    there = torch.asarray(X), torch.asarray(Y)
    net = MLPClassifier(**SMALL).fit(*there)
    assert isinstance(net.classes_, torch.Tensor)
    assert isinstance(net.to("numpy").classes_, np.ndarray)
    net.partial_fit(*there, classes=[0, 1, 2])
    assert isinstance(net.classes_, torch.Tensor)
    assert isinstance(MLPClassifier(backend="torch", **SMALL).fit(X, Y).classes_, np.ndarray)
    with config_context(array_api_dispatch=True):
        found = cross_val_predict(MLPClassifier(**SMALL), *there, method="predict_proba", cv=3)
    host = cross_val_predict(MLPClassifier(**SMALL), X, Y, method="predict_proba", cv=3)
    np.testing.assert_allclose(found.numpy(), host, atol=1e-10)


def test_moved_copy_shares_no_memory_with_the_original():
    net = MLPClassifier(**SMALL).fit(X, Y)
    before = net.predict_proba(X)
    net.to("numpy").coefs_[0][:] = 0
    np.testing.assert_array_equal(net.predict_proba(X), before)


def test_moved_copy_has_its_own_random_state():
    net = MLPClassifier(batch_size=10, **SMALL).fit(X, Y)
    again, moved = pickle.loads(pickle.dumps(net)), net.to("numpy")
    moved.partial_fit(X, Y)
    assert_same(net.partial_fit(X, Y), again.partial_fit(X, Y), atol=0)


def test_error_on_another_device_names_how_to_move(torch):
    host = MLPClassifier(**SMALL).fit(X, Y)
    with pytest.raises(ValueError, match=r"portnet\.to_numpy\(X\) is X on the host"):
        host.predict(torch.asarray(X))
    with portnet.use_backend("array_api_strict", device="device1", dtype="float64") as backend:
        net = MLPClassifier(**SMALL).fit(backend.asarray(X), Y)
    with portnet.use_backend("array_api_strict", dtype="float64") as backend:
        message = r"estimator\.to\('array_api_strict', device='.*'\) is a copy of it there"
        with pytest.raises(ValueError, match=message):
            net.predict(backend.asarray(X))


def test_weights_moved_to_the_host_by_the_user_predict_equally(torch):
    net = MLPRegressor(**SMALL).fit(torch.asarray(XR), torch.asarray(YR))
    expected = net.predict(torch.asarray(XR)).numpy()
    net.coefs_ = [W.numpy() for W in net.coefs_]
    net.intercepts_ = [b.numpy() for b in net.intercepts_]
    np.testing.assert_allclose(net.predict(XR), expected)


# Dtypes ------------------------------------------------------------------------------------------


def test_device_without_float64_trains_in_float32_or_raises():
    """Integers become float32; float64 data raise an error that names the remedy."""
    options = {"device": "no_float64"}
    with portnet.use_backend("array_api_strict", **options):
        net = MLPRegressor(**SMALL).fit((10 * XR).astype(int).tolist(), YR)
        assert portnet.backend.backend_of(net.coefs_[0]).dtype == "float32"
        with pytest.raises(ValueError, match=r"X is float64, but .* Use X.astype\('float32'\)"):
            MLPRegressor(**SMALL).fit(XR, YR)


def test_moving_to_a_device_keeps_the_dtype():
    net = MLPClassifier(**SMALL).fit(X.astype(np.float32), Y)
    there = net.to("array_api_strict", device="device1")
    assert "device1" in portnet.backend.device_name(there.coefs_[0])
    assert portnet.backend.backend_of(there.coefs_[0]).dtype == "float32"


def test_boolean_and_int32_labels_keep_their_dtype(torch):
    net = MLPClassifier(**SMALL).fit(torch.asarray(X), torch.asarray(BINARY > 0))
    assert isinstance(net.classes_, torch.Tensor)
    assert net.predict(torch.asarray(X)).dtype == torch.bool
    with portnet.use_backend("array_api_strict", device="no_x64", dtype="float32") as backend:
        there = backend.asarray(X.astype(np.float32))
        net = MLPClassifier(**SMALL).fit(there, BINARY)
        assert "int32" in str(net.classes_.dtype)


def test_overflow_in_a_float32_network_names_float64_as_the_remedy():
    net = MLPRegressor(**SMALL).fit(XR.astype(np.float32), YR)
    with pytest.raises(ValueError, match=r"too large for float32.* as float64 from the first fit"):
        net.predict(XR * 1e300)


@pytest.mark.parametrize("learning_rate", ["adaptive", "invscaling"])
def test_learning_rate_schedules_keep_float32(learning_rate):
    options = {"solver": "sgd", "learning_rate": learning_rate, "tol": 10, "n_iter_no_change": 1}
    net = MLPClassifier(**options, **SMALL).fit(X.astype(np.float32), Y)
    assert net.coefs_[0].dtype == net._optimizer.state.lr.dtype == np.float32
