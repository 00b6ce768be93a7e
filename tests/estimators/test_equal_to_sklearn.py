"""The estimators: scikit-learn's checks, equality with scikit-learn, backends, tools, errors."""

import inspect
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import portnet
from portnet.backend import is_host, to_numpy
from portnet.data.dataset import Dataset
from portnet.engine import executor

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import sklearn.neural_network as sklearn_nn
from sklearn.base import clone
from sklearn.datasets import (
    load_iris,
    make_multilabel_classification,
    make_regression,
)
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from portnet import MLPClassifier, MLPRegressor
from portnet.estimators import base, objective, solvers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SOLVERS = ("adam", "sgd", "lbfgs")
X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
BINARY = (Y > 0).astype(int)
XR, YR = make_regression(120, 5, n_targets=1, noise=3.0, random_state=0)
YR = (YR - YR.mean()) / YR.std()
XM, YM = make_multilabel_classification(90, 6, n_classes=3, random_state=0)
Y3 = np.stack([YR, YR**2, np.sin(3 * YR)], axis=1)
COUNTS = np.random.default_rng(0).poisson(np.exp(0.5 * XR[:, 0]))
SMALL = {"hidden_layer_sizes": (7,), "max_iter": 8, "random_state": 0}


def params(estimator):
    return [*estimator.coefs_, *estimator.intercepts_]


def assert_same(actual, expected, rtol=0.0, atol=1e-10):
    for a, b in zip(params(actual), params(expected), strict=True):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=rtol, atol=atol)


# scikit-learn's own checks ----------------------------------------------------------------------


@parametrize_with_checks(
    [
        estimator
        for solver in SOLVERS
        for estimator in (
            MLPClassifier(solver=solver, max_iter=50),
            MLPClassifier(solver=solver, max_iter=50, class_weight="balanced"),
            MLPRegressor(solver=solver, max_iter=50),
        )
    ]
)
@pytest.mark.filterwarnings("ignore")
def test_estimators_pass_scikit_learn_checks(estimator, check):
    if "'cupy'" in str(check):
        status = next(s for s in portnet.backends() if s.name == "cupy")
        if not status.usable:
            pytest.skip(f"cupy cannot be used: {status.reason.partition('. ')[0]}")
    check(estimator)


def test_scikit_learn_checks_include_the_array_api_checks():
    from sklearn.utils.estimator_checks import estimator_checks_generator

    for made in (MLPClassifier, MLPRegressor):
        names = [str(check) for _, check in estimator_checks_generator(made(), mark=None)]
        assert sum("check_array_api_input" in name for name in names) >= 3
        assert sum("check_array_api_same_namespace" in name for name in names) >= 1


# Equality with scikit-learn ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_signatures_extend_those_of_scikit_learn(name):
    actual, others = getattr(portnet, name), getattr(sklearn_nn, name)
    sklearn_init = list(inspect.signature(others.__init__).parameters.values())
    portnet_init = list(inspect.signature(actual.__init__).parameters.values())
    for a, b in zip(portnet_init, sklearn_init, strict=False):
        assert (a.name, a.kind, a.default) == (b.name, b.kind, b.default)
    more = portnet_init[len(sklearn_init) :]
    assert [p.name for p in more] == ["class_weight", "backend", "compile"][
        name == "MLPRegressor" :
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in more)
    assert [p.default for p in more] == [None, None, True][name == "MLPRegressor" :]
    for method in ("fit", "partial_fit", "predict", "score", "get_params", "set_params"):
        a = list(inspect.signature(getattr(actual, method)).parameters)
        b = list(inspect.signature(getattr(others, method)).parameters)
        assert a[: len(b)] == b, method
        assert set(a[len(b) :]) <= {"X_val", "y_val", "sample_weight_val"}
    public = {n for n in dir(others) if not n.startswith("_")}
    assert public <= set(dir(actual))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_fitted_attributes_equal_those_of_scikit_learn(name, early_stopping, solver):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    options = {"solver": solver, "early_stopping": early_stopping, **SMALL}
    fitted = [getattr(m, name)(**options).fit(frame, Y) for m in (portnet, sklearn_nn)]
    found = [
        {n: v for n, v in vars(e).items() if n.endswith("_") and not n.startswith("_")}
        for e in fitted
    ]
    assert set(found[0]) == set(found[1])
    for key, value in found[1].items():
        assert type(found[0][key]) is type(value) or isinstance(value, np.generic), key
        if key not in ("coefs_", "intercepts_"):
            same = np.testing.assert_allclose if key != "feature_names_in_" else None
            if isinstance(value, str) or value is None or same is None:
                assert np.all(found[0][key] == value), key
            else:
                same(found[0][key], value, rtol=1e-9, err_msg=key)


PROBLEMS = {
    "three classes": ("MLPClassifier", X, Y, {}),
    "two classes": ("MLPClassifier", X, BINARY, {}),
    "text": ("MLPClassifier", X, np.array(["x", "y", "z"])[Y], {}),
    "labels": ("MLPClassifier", XM, YM, {}),
    "regression": ("MLPRegressor", XR, YR, {}),
    "three outputs": ("MLPRegressor", XR, Y3, {}),
    "poisson": ("MLPRegressor", XR, COUNTS, {"loss": "poisson"}),
}
SETTINGS = {
    "adam": {},
    "adam, options": {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-4, "batch_size": 32},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "no nesterov": {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.2,
        "tol": 0.05,
        "n_iter_no_change": 1,
    },
    "alpha": {"alpha": 3.0, "batch_size": 17},
    "deep": {"hidden_layer_sizes": (6, 5, 4), "activation": "tanh"},
    "logistic": {"activation": "logistic", "momentum": 0.5, "solver": "sgd"},
    "identity": {"activation": "identity", "shuffle": False},
    "no hidden layer": {"hidden_layer_sizes": (), "alpha": 0.1},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 3},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_twenty_epochs_equal_those_of_scikit_learn(problem, setting):
    """Weights, loss curve, scores and number of iterations, from the same random state."""
    name, features, y, more = PROBLEMS[problem]
    options = {"hidden_layer_sizes": (8,), **more, **SETTINGS[setting]}
    if problem == "three outputs":  # the loss differs by design, and so does the stopping
        options |= {"n_iter_no_change": 30}
    weights = np.random.default_rng(1).uniform(0.1, 3, len(y)) if setting != "adam" else None
    pair = [
        getattr(m, name)(random_state=3, max_iter=20, **options).fit(features, y, weights)
        for m in (portnet, sklearn_nn)
    ]
    actual, reference = pair
    assert_same(actual, reference)
    assert actual.n_iter_ == reference.n_iter_
    assert actual.t_ == reference.t_
    if problem != "three outputs":
        np.testing.assert_allclose(actual.loss_curve_, reference.loss_curve_, rtol=1e-9)
        if options.get("early_stopping"):
            np.testing.assert_allclose(actual.validation_scores_, reference.validation_scores_)
            assert actual.best_validation_score_ == pytest.approx(reference.best_validation_score_)
        else:
            assert actual.best_loss_ == pytest.approx(reference.best_loss_)
    a, b = actual.predict(features), reference.predict(features)
    if name == "MLPClassifier":
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
        p = actual.predict_proba(features)
        np.testing.assert_allclose(p, reference.predict_proba(features), atol=1e-10)
        np.testing.assert_allclose(actual.predict_log_proba(features), np.log(p))
    else:
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
        assert a.shape == b.shape
    assert actual.score(features, y) == pytest.approx(reference.score(features, y))


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p != "three outputs"])
@pytest.mark.parametrize("setting", ["adam", "no hidden layer", "logistic", "deep"])
def test_lbfgs_iterations_and_minimum_equal_those_of_scikit_learn(problem, setting):
    """The first iterations are equal; with a single minimum, both converge to it.

    With several minima, rounding decides to which of them long searches converge. The same holds
    for one minimum in a flat valley, as for the unscaled features of the multilabel data: there
    scikit-learn's own loss differs by 5e-7 between processors. Scaled features have no such valley.
    """
    name, features, y, more = PROBLEMS[problem]
    options = {"hidden_layer_sizes": (8,), **more, **SETTINGS[setting], "solver": "lbfgs"}
    few = [
        getattr(m, name)(random_state=1, max_iter=10, **options).fit(features, y)
        for m in (portnet, sklearn_nn)
    ]
    assert few[0].n_iter_ == few[1].n_iter_
    assert_same(*few, atol=1e-6)
    assert few[0].loss_ <= few[1].loss_ * (1 + 1e-6)
    if setting != "no hidden layer":
        return
    options |= {"tol": 1e-6, "max_iter": 2000}
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    end = [
        getattr(m, name)(random_state=1, **options).fit(scaled, y) for m in (portnet, sklearn_nn)
    ]
    assert end[0].loss_ == pytest.approx(end[1].loss_, rel=1e-12)


def test_lbfgs_with_several_outputs_reaches_the_least_squares_minimum():
    """scikit-learn's gradient is not that of its loss, so the true squared error is compared."""
    found = []
    for package in (portnet, sklearn_nn):
        options = {"hidden_layer_sizes": (), "alpha": 0.0, "tol": 1e-8, "max_iter": 500}
        net = package.MLPRegressor(solver="lbfgs", random_state=0, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.fit(XR, Y3)
        found.append(0.5 * ((net.predict(XR) - Y3) ** 2).sum(axis=1).mean())
    A = np.c_[XR, np.ones(len(XR))]
    best = 0.5 * ((A @ np.linalg.lstsq(A, Y3, rcond=None)[0] - Y3) ** 2).sum(axis=1).mean()
    assert found[0] == pytest.approx(best, rel=1e-6)
    assert found[0] <= found[1] * (1 + 1e-9)


def test_warm_starts_equal_those_of_scikit_learn():
    for solver in ("adam", "sgd"):
        pair = [
            m.MLPClassifier(warm_start=True, solver=solver, **SMALL) for m in (portnet, sklearn_nn)
        ]
        for net in pair:
            net.fit(X, Y)
            net.set_params(max_iter=3).fit(X, Y)
        assert_same(*pair)
        np.testing.assert_allclose(pair[0].loss_curve_, pair[1].loss_curve_)
        assert len(pair[0].loss_curve_) == 11
        assert pair[0].n_iter_ == 3
        assert pair[0].t_ == pair[1].t_


def test_partial_fit_equals_scikit_learn_except_for_the_order():
    """Without shuffling, all calls are equal; with it, each call has another order."""
    pair = [
        m.MLPClassifier(shuffle=False, batch_size=20, random_state=0) for m in (portnet, sklearn_nn)
    ]
    for net in pair:
        for rows in (slice(0, 60), slice(60, 150), slice(20, 90)):
            net.partial_fit(X[rows], Y[rows], classes=[0, 1, 2])
    assert_same(*pair)
    assert pair[0].n_iter_ == pair[1].n_iter_ == 1
    assert pair[0].t_ == pair[1].t_
    pair = [m.MLPClassifier(batch_size=20, random_state=0) for m in (portnet, sklearn_nn)]
    for net in pair:
        net.partial_fit(X, Y, classes=[0, 1, 2])
    assert_same(*pair)  # the first call has the order of scikit-learn
    seen = []
    for _ in range(3):
        before = pickle.loads(pickle.dumps(pair[0]))
        seen.append(before._random_state.permutation(len(X)))
        pair[0].partial_fit(X, Y)
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[1], seen[2])


def test_verbose_output_equals_that_of_scikit_learn(capsys):
    texts = []
    for m in (portnet, sklearn_nn):
        options = {"verbose": True, "random_state": 0, "tol": 0.1, "n_iter_no_change": 2}
        m.MLPClassifier(max_iter=30, **options).fit(X, Y)
        m.MLPClassifier(early_stopping=True, max_iter=30, **options).fit(X, Y)
        m.MLPClassifier(
            solver="sgd", learning_rate="adaptive", learning_rate_init=1e-5, **options
        ).fit(X, Y)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_warnings_equal_those_of_scikit_learn():
    for options in (
        {"max_iter": 2},
        {"max_iter": 2, "solver": "lbfgs"},
        {"max_fun": 2, "solver": "lbfgs"},
    ):
        texts = []
        for m in (portnet, sklearn_nn):
            with pytest.warns(ConvergenceWarning) as caught:
                m.MLPClassifier(random_state=0, **options).fit(X, Y)
            texts.append("".join(str(caught[0].message).split()))
            if m is portnet:
                assert "sklearn" in caught[0].filename  # where scikit-learn's warning filters match
        assert texts[0] == texts[1]
    with pytest.warns(UserWarning, match="It is going to be clipped"):
        MLPClassifier(batch_size=1000, **SMALL).fit(X, Y)
    with pytest.warns(DataConversionWarning):
        MLPClassifier(**SMALL).fit(X, Y[:, None])


def test_examples_of_scikit_learn_documentation_give_the_same_results():
    path = Path(__file__).parents[2] / "ci" / "sklearn_examples.py"
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same") == 9


def test_estimators_pass_the_tests_of_scikit_learn(tmp_path):
    """The installed tests, with the import replaced and without one that calls a private method."""
    pytest.importorskip("sklearn.neural_network.tests.test_mlp", reason="tests are not installed")
    source = Path(sklearn_nn.__file__).parent / "tests" / "test_mlp.py"
    line = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
    text = source.read_text()
    assert line in text
    (tmp_path / "test_sklearn_mlp.py").write_text(
        text.replace(line, line.replace("sklearn.neural_network", "portnet"))
    )
    (tmp_path / "conftest.py").write_text("from sklearn.conftest import *\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--deselect",
            "test_sklearn_mlp.py::test_gradient",
            "test_sklearn_mlp.py",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


# Gradient ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p != "text"])
def test_gradient_equals_finite_differences_of_the_loss(problem, activation, weighted):
    """Any number of outputs, with weights and alpha, in blocks."""
    name, features, y, more = PROBLEMS[problem]
    net = getattr(portnet, name)(activation=activation, **more, **SMALL)
    w = np.random.default_rng(2).uniform(0, 2, len(y)) if weighted else None
    net.fit(features, y, w)
    backend = portnet.backend.backend_of(features)
    model, p = objective.network(net.coefs_, net.intercepts_, activation)
    loss, _ = net._loss_and_activation()
    target = net._encode(y)
    target = target if target.ndim == 1 else target.astype(float)
    data = Dataset(backend, features, target, w)
    total = len(y) if w is None else w.sum()
    f, v, _ = objective.over_all_rows(
        objective.summing(model, loss), 0.7, lambda: data.batches(29), total, p
    )
    value, gradient = f(v)
    draw = np.random.default_rng(3)
    for _ in range(3):
        d = draw.standard_normal(len(v))
        h = 1e-6
        numeric = (f(v + h * d)[0] - f(v - h * d)[0]) / (2 * h)
        assert gradient @ d == pytest.approx(numeric, rel=1e-5, abs=1e-7)
    whole, _, _ = objective.over_all_rows(
        objective.summing(model, loss), 0.7, lambda: data.batches(10**6), total, p
    )
    np.testing.assert_allclose(whole(v)[1], gradient, atol=1e-12)
    assert whole(v)[0] == pytest.approx(value)


# Backends ---------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"X: a value of .* is too large for float32"):
        plain.fit(dense.astype(np.float32), Y).predict(rows * 1e300)


def test_sparse_multilabel_targets_equal_those_of_scikit_learn():
    sparse = pytest.importorskip("scipy.sparse")
    pair = [m.MLPClassifier(**SMALL).fit(XM, sparse.csr_matrix(YM)) for m in (portnet, sklearn_nn)]
    assert_same(*pair)
    a, b = (net.predict(XM) for net in pair)
    assert sparse.issparse(a) == sparse.issparse(b)
    np.testing.assert_array_equal(np.asarray(a.todense()), np.asarray(b.todense()))


# Sample weights and class weights ---------------------------------------------------------------


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


# Validation sets passed by the user -------------------------------------------------------------


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


# scikit-learn's tools ---------------------------------------------------------------------------


def test_pipeline_transforms_the_validation_set():
    from sklearn import config_context
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    raw = 5 + 3 * X
    options = {"early_stopping": True, **SMALL}
    with config_context(enable_metadata_routing=True):
        net = MLPClassifier(**options).set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), net, transform_input=["X_val"])
        pipeline.fit(raw[30:], Y[30:], X_val=raw[:30], y_val=Y[:30])
    scaler = StandardScaler().fit(raw[30:])
    plain = MLPClassifier(**options).fit(
        scaler.transform(raw[30:]), Y[30:], X_val=scaler.transform(raw[:30]), y_val=Y[:30]
    )
    assert_same(pipeline[-1], plain, atol=0)


def test_grid_search_with_workers_equals_that_of_scikit_learn(torch):
    """Workers do not inherit the default backend, but use the `backend` parameter."""
    from sklearn.model_selection import GridSearchCV, cross_val_score

    grid = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(5,), ()]}
    found = [
        GridSearchCV(m.MLPClassifier(**SMALL), grid, n_jobs=jobs, cv=2).fit(X, Y)
        for m, jobs in ((portnet, 2), (sklearn_nn, None))
    ]
    np.testing.assert_allclose(*(s.cv_results_["mean_test_score"] for s in found))
    assert found[0].best_params_ == found[1].best_params_
    search = GridSearchCV(MLPClassifier(backend="torch", **SMALL), {"alpha": [0.1, 1]}, n_jobs=2)
    assert isinstance(search.fit(X, Y).best_estimator_.coefs_[0], torch.Tensor)
    assert len(cross_val_score(MLPRegressor(**SMALL), XR, YR, cv=3)) == 3


def test_clone_pickle_and_joblib_keep_parameters_and_state(tmp_path):
    joblib = pytest.importorskip("joblib")
    for solver in SOLVERS:
        net = MLPClassifier(solver=solver, class_weight="balanced", **SMALL).fit(X, Y)
        assert not hasattr(clone(net), "coefs_")
        assert clone(net).get_params() == net.get_params()
        joblib.dump(net, tmp_path / "net")
        for other in (pickle.loads(pickle.dumps(net)), joblib.load(tmp_path / "net")):
            np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))
            if solver != "lbfgs":
                again = pickle.loads(pickle.dumps(net))
                assert_same(other.partial_fit(X, Y), again.partial_fit(X, Y), atol=0)


def test_meta_estimators_and_permutation_importance_work():
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    net = MLPClassifier(hidden_layer_sizes=(7,), max_iter=20, random_state=0, solver="lbfgs")
    for made in (
        CalibratedClassifierCV(net, cv=2),
        StackingClassifier([("net", net)], LogisticRegression(), cv=2),
        BaggingClassifier(net, n_estimators=2, random_state=0),
        OneVsRestClassifier(net),
        AdaBoostClassifier(net, n_estimators=2, random_state=0),
    ):
        assert made.fit(X, Y).score(X, Y) > 0.8
    importance = permutation_importance(net.fit(X, Y), X, Y, n_repeats=2, random_state=0)
    assert importance.importances_mean.argmax() in (2, 3)  # the petals


def test_decision_boundary_display_works():
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    from sklearn.inspection import DecisionBoundaryDisplay

    net = MLPClassifier(**SMALL).fit(X[:, :2], Y)
    for method in ("predict", "predict_proba"):
        display = DecisionBoundaryDisplay.from_estimator(
            net, X[:, :2], response_method=method, grid_resolution=10
        )
        assert display.response.shape[:2] == (10, 10)
    pyplot.close("all")


# Bad input --------------------------------------------------------------------------------------

HUGE = np.full((4, 4), 1e300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"alpha": -1},
            r"The 'alpha' parameter of MLPClassifier must be a float in the range "
            r"\[0.0, inf\). Got -1 instead.",
        ),
        ({"solver": "newton"}, "The 'solver' parameter of MLPClassifier must be a str among"),
        ({"hidden_layer_sizes": (3, 0)}, r"hidden_layer_sizes must be > 0, got \[3, 0\]."),
        ({"hidden_layer_sizes": (3.5,)}, r"hidden_layer_sizes must be integers > 0, got \[3.5\]"),
        ({"max_iter": 0}, "The 'max_iter' parameter of MLPClassifier must be an int in the range"),
        ({"backend": 3}, "The 'backend' parameter of MLPClassifier must be an instance of 'str'"),
        ({"backend": "nupmy"}, "did you mean 'numpy'"),
        ({"class_weight": "even"}, "The 'class_weight' parameter of MLPClassifier must be"),
        ({"class_weight": {7: 1.0}}, "class_weight: expected classes among 0, 1, 2, got 7"),
        ({"class_weight": {0: -1.0}}, "class_weight: expected a finite weight >= 0 for 0, got -1"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, "at least one weight above 0"),
        ({"early_stopping": True, "validation_fraction": 0.0}, "validation_fraction: .* got 0.0"),
    ],
)
def test_bad_parameters_raise_and_set_no_attribute(options, message):
    net = MLPClassifier(**{**SMALL, **options})
    with pytest.raises(ValueError, match=message):
        net.fit(X, Y)
    assert [n for n in vars(net) if n.endswith("_")] == []


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
        with pytest.raises(ValueError, match=r"X: a value of .* is too large for float32"):
            call(XR * 1e300)


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


def test_divergence_raises_or_keeps_the_best_weights():
    options = {"solver": "sgd", "learning_rate_init": 1e3, "activation": "identity"}
    with pytest.raises(
        ValueError, match=r"Solver produced non-finite parameter weights.*iteration"
    ):
        MLPRegressor(**{**SMALL, "max_iter": 100}, **options).fit(XR, 1e3 * YR)
    net = MLPRegressor(early_stopping=True, **{**SMALL, "max_iter": 100}, **options)
    with pytest.warns(
        ConvergenceWarning, match="parameters are those of the best validation score"
    ):
        net.fit(XR, 1e3 * YR)
    assert np.isfinite(net.predict(XR)).all()
    assert net.n_iter_ == len(net.loss_curve_) == len(net.validation_scores_) < 100
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        MLPRegressor(solver="lbfgs", **SMALL).fit(1e300 * XR, YR)


def test_poisson_loss_rejects_negative_targets():
    with pytest.raises(ValueError, match=r"out of the valid range of the loss 'poisson'.*y >= 0"):
        MLPRegressor("poisson", **SMALL).fit(XR, YR)


def test_warm_start_with_other_layer_sizes_or_classes_raises():
    net = MLPClassifier(warm_start=True, **SMALL).fit(X, Y)
    net.set_params(hidden_layer_sizes=(9,))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(9,\) and .* Use a new estimator"):
        net.fit(X, Y)
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same"):
        net.set_params(hidden_layer_sizes=(7,)).fit(X, BINARY)


def test_keyboard_interrupt_ends_training_and_keeps_the_weights(monkeypatch):
    """It gives scikit-learn's warning and keeps the weights reached so far."""
    epochs, whole = [], solvers._epoch

    def epoch(step, rows, now, size, pressed):
        epochs.append(now.n_iter)
        if len(epochs) == 3:
            pressed.append(2)
        return whole(step, rows, now, size, pressed)

    monkeypatch.setattr(solvers, "_epoch", epoch)
    net = MLPClassifier(batch_size=50, **SMALL)
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        net.fit(X, Y)
    assert net.n_iter_ == len(net.loss_curve_) == 2
    assert net.predict(X).shape == (150,)


def test_convergence_warning_as_an_error_keeps_the_fit():
    net = MLPClassifier(**SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            net.fit(X, Y)
    assert net.score(X, Y) > 0


def test_predict_uses_weights_set_by_the_user():
    net = MLPRegressor(hidden_layer_sizes=(), max_iter=1).fit(XR, YR)
    net.coefs_ = [np.ones((5, 1))]
    net.intercepts_[0][:] = 2.0
    np.testing.assert_allclose(net.predict(XR), XR.sum(axis=1) + 2)


# Subclasses, folds, interrupts and repeated fits ------------------------------------------------


class Narrow(MLPClassifier):
    """A subclass with parameters of its own."""

    def __init__(self, width=10, alpha=1e-3, random_state=0):
        self.width = width
        super().__init__(
            hidden_layer_sizes=(width,), alpha=alpha, random_state=random_state, max_iter=5
        )


def test_subclass_with_its_own_parameters_fits_and_clones():
    net = Narrow(width=6).fit(X, Y)
    assert net.coefs_[0].shape == (4, 6)
    assert net.get_params() == {"width": 6, "alpha": 1e-3, "random_state": 0}
    assert_same(net, MLPClassifier(6, alpha=1e-3, random_state=0, max_iter=5).fit(X, Y), atol=0)
    assert clone(net).width == 6


def test_warm_starts_with_early_stopping_equal_those_of_scikit_learn():
    """If no epoch of a fit improves the best score, its last weights are kept."""
    pair = [
        m.MLPClassifier((9,), warm_start=True, early_stopping=True, max_iter=2, random_state=0)
        for m in (portnet, sklearn_nn)
    ]
    for y in (Y, Y, Y, (Y + 1) % 3, (Y + 1) % 3, (Y + 1) % 3):
        for net in pair:
            net.fit(X, y)
        assert_same(*pair)
        np.testing.assert_allclose(pair[0].validation_scores_, pair[1].validation_scores_)
        assert pair[0].best_validation_score_ == pair[1].best_validation_score_


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


def test_overflow_of_adam_moments_raises():
    """Otherwise every later update of Adam would be 0."""
    for x in (X * 1e160, X.astype(np.float32) * np.float32(1e25)):
        with pytest.raises(ValueError, match="In iteration 1, loss, weights or moments stopped"):
            MLPClassifier(**SMALL).fit(x, Y)


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


def test_convergence_warning_matches_filters_for_module_sklearn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")
        MLPClassifier(**SMALL).fit(X, Y)


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


@pytest.mark.parametrize("solver", SOLVERS)
def test_keyboard_interrupt_in_a_step_keeps_the_weights(solver, monkeypatch):
    steps = []

    def interrupt(*args):
        steps.append(1)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return whole(*args)

    whole = objective.summed
    monkeypatch.setattr(objective, "summed", interrupt)
    net = MLPClassifier(solver=solver, batch_size=50, compile=False, **{**SMALL, "max_iter": 40})
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        net.fit(X, Y)
    assert net.n_iter_ > 2
    assert net.predict(X).shape == (150,)
    assert not hasattr(net, "loss_curve_") or len(net.loss_curve_) == net.n_iter_


def test_failed_partial_fit_leaves_the_random_state_unchanged():
    pair = [MLPClassifier(batch_size=10, **SMALL) for _ in range(2)]
    for net in pair:
        net.partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="Solver produced non-finite"):
        pair[0].partial_fit(X * 1e300, Y)
    assert_same(*(net.partial_fit(X, Y) for net in pair), atol=0)


def test_random_state_changed_between_partial_fits_is_used():
    a, b = (
        MLPClassifier(batch_size=10, **SMALL).partial_fit(X, Y, classes=[0, 1, 2]) for _ in "ab"
    )
    assert_same(a, b, atol=0)
    a.partial_fit(X, Y)
    b.set_params(random_state=7).partial_fit(X, Y)
    assert abs(a.coefs_[0] - b.coefs_[0]).max() > 0


@pytest.mark.parametrize("missing", [np.nan, None, "NA"])
def test_missing_labels_raise(missing):
    if missing == "NA":
        missing = pytest.importorskip("pandas", reason="pandas is not installed").NA
    for kind in (list, lambda y: np.array(y, dtype=object)):
        with pytest.raises(ValueError, match=r"Input y contains (NaN|None)\."):
            MLPClassifier(**SMALL).fit(X, kind(["a", "b", missing] * 50))


def test_moved_copy_shares_no_memory_with_the_original():
    net = MLPClassifier(**SMALL).fit(X, Y)
    before = net.predict_proba(X)
    net.to("numpy").coefs_[0][:] = 0
    np.testing.assert_array_equal(net.predict_proba(X), before)


def test_device_without_float64_trains_in_float32_or_raises():
    """Integers become float32; float64 data raise an error that names the remedy."""
    options = {"device": "no_float64"}
    with portnet.use_backend("array_api_strict", **options):
        net = MLPRegressor(**SMALL).fit((10 * XR).astype(int).tolist(), YR)
        assert portnet.backend.backend_of(net.coefs_[0]).dtype == "float32"
        with pytest.raises(ValueError, match=r"X is float64, but .* Use X.astype\('float32'\)"):
            MLPRegressor(**SMALL).fit(XR, YR)


def test_lbfgs_with_a_validation_set_warns_of_no_early_stopping():
    net = MLPClassifier(solver="lbfgs", early_stopping=True, **SMALL)
    with pytest.warns(UserWarning, match="lbfgs has no early stopping"):
        net.fit(X, Y, X_val=X, y_val=Y)


def test_losses_are_numpy_float64():
    for solver in SOLVERS:
        net = MLPClassifier(solver=solver, **SMALL).fit(X, Y)
        assert type(net.loss_) is np.float64
        if solver != "lbfgs":
            assert {type(loss) for loss in net.loss_curve_} == {np.float64}
            assert type(net.best_loss_) is np.float64


# Interrupts, state between fits, and stopping ---------------------------------------------------


def at_loss_call(monkeypatch, calls, act):
    """Call `act` at one call of the loss; return the list of calls."""
    seen, whole = [], objective.summed

    def summed(*args):
        seen.append(1)
        if len(seen) == calls:
            act()
        return whole(*args)

    monkeypatch.setattr(objective, "summed", summed)
    return seen


def raise_keyboard_interrupt():
    raise KeyboardInterrupt


def test_keyboard_interrupt_before_training_keeps_the_earlier_fit(monkeypatch):
    net = MLPClassifier(**SMALL).fit(X, Y)
    attributes = dict(vars(net))
    monkeypatch.setattr(base, "fit_stochastic", lambda *args, **options: raise_keyboard_interrupt())
    with pytest.raises(KeyboardInterrupt):
        net.fit(X[:, :3], BINARY)
    assert vars(net) == attributes


def test_failed_partial_fit_does_not_rewind_a_generator_of_the_user():
    draw = np.random.RandomState(0)
    net = MLPClassifier(batch_size=10, **{**SMALL, "random_state": draw})
    net.partial_fit(X, Y, classes=[0, 1, 2])
    before = draw.get_state()
    with pytest.raises(ValueError, match="Solver produced non-finite"):
        net.partial_fit(X * 1e300, Y)
    after = draw.get_state()
    assert before[2] != after[2] or bool((before[1] != after[1]).any())


@pytest.mark.parametrize("solver", SOLVERS)
def test_interrupted_epoch_is_not_counted(solver, monkeypatch):
    """The warning is no ConvergenceWarning, which users often ignore."""
    at_loss_call(monkeypatch, 12, raise_keyboard_interrupt)
    net = MLPClassifier(solver=solver, batch_size=50, compile=False, **{**SMALL, "max_iter": 40})
    with pytest.warns(UserWarning, match="Training interrupted by user.") as caught:
        net.fit(X, Y)
    assert [w.category for w in caught] == [UserWarning]
    if solver != "lbfgs":
        assert (net.n_iter_, net.t_) == (3, 450)
        assert net.loss_ == net.loss_curve_[-1]


def test_interrupt_in_the_first_epoch_leaves_no_loss(monkeypatch):
    eager = {**SMALL, "compile": False}
    for net in (MLPClassifier(**eager), MLPClassifier(**eager).fit(X, Y)):
        with monkeypatch.context() as patch:
            at_loss_call(patch, 1, raise_keyboard_interrupt)
            with pytest.warns(UserWarning, match="interrupted"):
                net.fit(X, Y)
        assert not hasattr(net, "loss_")
        assert (net.n_iter_, net.t_, net.loss_curve_) == (0, 0, [])


def test_sigint_ends_training_before_the_end_of_the_epoch(monkeypatch):
    import signal

    seen = at_loss_call(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        MLPClassifier(batch_size=10, compile=False, **SMALL).fit(X, Y)
    assert len(seen) == 5


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("where", ["between steps", "in a step"])
@pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: no step is compiled"
)
def test_keyboard_interrupt_of_compiled_steps_keeps_the_finished_steps(solver, where, monkeypatch):
    """The finished steps are kept, whether it comes between two steps or within one."""
    from portnet.compiler.executable import Bound

    count, finished, steps, target = 0, 10, [], (executor.Epoch, "inputs")
    if where == "in a step":
        finished, target = 11, (Bound, "__call__")
    whole = getattr(*target)

    def interrupt(self, *args):
        steps.append(1)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return whole(self, *args)

    def eagerly(*args):
        nonlocal count
        count += 1
        if count > finished:
            raise KeyboardInterrupt
        return summed(*args)

    summed = objective.summed
    ends = MLPClassifier(solver=solver, batch_size=50, compile=False, **{**SMALL, "max_iter": 40})
    with monkeypatch.context() as m:
        m.setattr(objective, "summed", eagerly)
        with pytest.warns(UserWarning, match="interrupted by user"):
            ends.fit(X, Y)
    monkeypatch.setattr(*target, interrupt)
    net = MLPClassifier(solver=solver, batch_size=50, **{**SMALL, "max_iter": 40})
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        net.fit(X, Y)
    assert net.n_iter_ == 11 // (-(-len(X) // 50))
    for p, q in zip(params(net), params(ends), strict=True):
        np.testing.assert_array_equal(p, q)


def test_partial_fit_with_early_stopping_raises():
    net = MLPRegressor(early_stopping=True, **SMALL)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        net.partial_fit(XR, YR)


def test_balanced_class_weight_of_a_warm_start_counts_only_its_rows():
    """The class counts are those of the rows of this fit only."""
    few = np.r_[0:50, 50:60, 100:130]
    options = {"batch_size": 30, "warm_start": True, **SMALL}
    net = MLPClassifier(class_weight="balanced", **options).fit(X, Y).fit(X[few], Y[few])
    by_hand = {0: 90 / 3 / 50, 1: 90 / 3 / 10, 2: 90 / 3 / 30}
    plain = MLPClassifier(**options).fit(X, Y)
    assert_same(net, plain.set_params(class_weight=by_hand).fit(X[few], Y[few]))


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "sgd"}])
def test_second_fit_equals_the_first(options):
    options = {**SMALL, "max_iter": 20, "tol": 0.01, "n_iter_no_change": 2, **options}
    once, twice = MLPClassifier(**options).fit(X, Y), MLPClassifier(**options).fit(X, Y).fit(X, Y)
    assert_same(once, twice, atol=0)
    for name in ("loss_", "loss_curve_", "best_loss_", "n_iter_", "t_"):
        assert getattr(once, name) == getattr(twice, name), name
    for name in ("validation_scores_", "best_validation_score_"):
        assert getattr(once, name) == getattr(twice, name), name


def test_changing_the_solver_resets_its_state():
    net = MLPClassifier(**SMALL).fit(X, Y).set_params(solver="lbfgs").fit(X, Y)
    plain = MLPClassifier(solver="lbfgs", **SMALL).fit(X, Y)
    assert {n for n in vars(net) if n.endswith("_")} == {n for n in vars(plain) if n.endswith("_")}
    assert_same(*(n.set_params(solver="adam").partial_fit(X, Y) for n in (net, plain)), atol=0)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_epochs_without_improvement_accumulate_over_warm_starts(early_stopping):
    options = {"warm_start": True, "early_stopping": early_stopping, "tol": 10, "max_iter": 2}
    found = []
    for m in (portnet, sklearn_nn):
        net = m.MLPClassifier(n_iter_no_change=5, random_state=0, **options)
        found.append([net.fit(X, Y).n_iter_ for _ in range(5)])
    assert found[0] == found[1] == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("early_stopping", [False, True])
def test_tolerance_of_zero_does_not_stop_on_a_constant_loss(early_stopping):
    options = {"tol": 0.0, "n_iter_no_change": 2, "learning_rate_init": 1e-300, "shuffle": False}
    for m in (portnet, sklearn_nn):
        net = m.MLPClassifier(early_stopping=early_stopping, **options, **SMALL).fit(X, Y)
        assert net.n_iter_ == 8


def test_convergence_in_the_last_epoch_does_not_warn():
    options = {**SMALL, "max_iter": 50, "tol": 0.05, "n_iter_no_change": 2}
    n = MLPClassifier(**options).fit(X, Y).n_iter_
    assert n < 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPClassifier(**{**options, "max_iter": n}).fit(X, Y)
        MLPClassifier(**{**options, "max_iter": 1}).partial_fit(X, Y, classes=[0, 1, 2])


@pytest.mark.parametrize("learning_rate", ["adaptive", "invscaling"])
def test_adam_ignores_the_learning_rate_schedule(learning_rate):
    options = {**SMALL, "tol": 10, "n_iter_no_change": 2}
    net = MLPClassifier(learning_rate=learning_rate, **options).fit(X, Y)
    assert_same(net, MLPClassifier(**options).fit(X, Y), atol=0)


@pytest.mark.parametrize("learning_rate", ["adaptive", "invscaling"])
def test_learning_rate_schedules_keep_float32(learning_rate):
    options = {"solver": "sgd", "learning_rate": learning_rate, "tol": 10, "n_iter_no_change": 1}
    net = MLPClassifier(**options, **SMALL).fit(X.astype(np.float32), Y)
    assert net.coefs_[0].dtype == net._optimizer.state.lr.dtype == np.float32


def test_default_batch_size_is_at_most_200():
    features, y = np.tile(X, (2, 1)), np.tile(Y, 2)
    net = MLPClassifier(**SMALL).fit(features, y)
    assert_same(net, MLPClassifier(batch_size=200, **SMALL).fit(features, y), atol=0)


def test_batch_size_of_all_training_rows_does_not_warn():
    MLPClassifier(batch_size=150, **SMALL).fit(X, Y)
    with pytest.warns(UserWarning, match="It is going to be clipped"):
        MLPClassifier(batch_size=150, early_stopping=True, **SMALL).fit(X, Y)


def test_prediction_blocks_have_bounded_size():
    for shape in [(4, 7), (5000, 3), (3, 5000), (2**25, 1)]:
        wide = ({"W": np.broadcast_to(0.0, shape)}, ())
        size = solvers.block_size(wide)
        assert 1 <= size <= 16_384
        assert size == 1 or size * max(shape) <= 2**24


def test_loss_of_float32_data_is_summed_in_float64():
    """In float32, many small losses would be lost beside a large one."""
    options = {"hidden_layer_sizes": (), "batch_size": 1, "learning_rate_init": 1e-30}
    options |= {"random_state": 0, "solver": "sgd", "shuffle": False, "max_iter": 1, "alpha": 0.0}
    y = np.r_[1e4, np.full(150, 0.5)]
    net = MLPRegressor(**options).fit(np.zeros((151, 1), dtype=np.float32), y)
    expected = 0.5 * np.mean((y - float(net.intercepts_[0][0])) ** 2)
    assert net.loss_ == pytest.approx(expected, rel=5e-7)


# L-BFGS


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_lbfgs_has_the_memory_gtol_and_ftol_of_scipy(dtype, monkeypatch):
    given, whole = [], solvers.LBFGS
    monkeypatch.setattr(solvers, "LBFGS", lambda **o: given.append(o) or whole(**o))
    MLPClassifier(solver="lbfgs", tol=0.01, **SMALL).fit(X.astype(dtype), Y)
    ftol = max(2.220446049250313e-09, float(np.finfo(dtype).eps))
    assert given == [{"memory": 10, "gtol": 0.01, "ftol": ftol}]


def test_lbfgs_with_a_failed_line_search_warns_in_float64_only(monkeypatch):
    """It is an abnormal end in float64, and convergence in float32."""

    class Stuck(solvers.LBFGS):
        def iterate(self, f, x, state):
            x, state = super().iterate(f, x, state)
            return x, state._replace(status="the line search found no lower point")

    monkeypatch.setattr(solvers, "LBFGS", Stuck)
    net = MLPClassifier(solver="lbfgs", **SMALL)
    with pytest.warns(ConvergenceWarning) as caught:
        net.fit(X, Y)
    message = str(caught[0].message)
    assert "after 1 iteration(s) (status=2):\nABNORMAL: the line search found no lower" in message
    assert "Increase the number" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.fit(X.astype(np.float32), Y)


def test_lbfgs_that_converges_in_the_last_iteration_warns():
    """SciPy reports that the iteration limit is reached."""
    options = {"solver": "lbfgs", "random_state": 0, "tol": 0.01}
    for m in (portnet, sklearn_nn):
        n = m.MLPClassifier((7,), max_iter=200, **options).fit(X, Y).n_iter_
        assert n < 200
        with pytest.warns(ConvergenceWarning, match="TOTAL NO. OF ITERATIONS REACHED LIMIT"):
            m.MLPClassifier((7,), max_iter=n, **options).fit(X, Y)


def test_verbose_lbfgs_prints_every_iteration(capsys):
    net = MLPClassifier(solver="lbfgs", verbose=True, **SMALL).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"Iteration {i + 1}" for i in range(8)]
    assert lines[-1] == f"Iteration 8, loss = {net.loss_:.8f}"


# Devices and dtypes


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


def test_moving_to_a_device_keeps_the_dtype():
    net = MLPClassifier(**SMALL).fit(X.astype(np.float32), Y)
    there = net.to("array_api_strict", device="device1")
    assert "device1" in portnet.backend.device_name(there.coefs_[0])
    assert portnet.backend.backend_of(there.coefs_[0]).dtype == "float32"


def test_moved_copy_has_its_own_random_state():
    net = MLPClassifier(batch_size=10, **SMALL).fit(X, Y)
    again, moved = pickle.loads(pickle.dumps(net)), net.to("numpy")
    moved.partial_fit(X, Y)
    assert_same(net.partial_fit(X, Y), again.partial_fit(X, Y), atol=0)


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


def test_boolean_and_int32_labels_keep_their_dtype(torch):
    net = MLPClassifier(**SMALL).fit(torch.asarray(X), torch.asarray(BINARY > 0))
    assert isinstance(net.classes_, torch.Tensor)
    assert net.predict(torch.asarray(X)).dtype == torch.bool
    with portnet.use_backend("array_api_strict", device="no_x64", dtype="float32") as backend:
        there = backend.asarray(X.astype(np.float32))
        net = MLPClassifier(**SMALL).fit(there, BINARY)
        assert "int32" in str(net.classes_.dtype)


def test_float64_dataframes_on_a_device_without_float64_raise():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    polars = pytest.importorskip("polars", reason="polars is not installed")
    with portnet.use_backend("array_api_strict", device="no_float64"):
        for frame in (pandas.DataFrame(XR), polars.DataFrame(XR)):
            with pytest.raises(ValueError, match="X is float64, but"):
                MLPRegressor(**SMALL).fit(frame, YR)


def test_overflow_in_a_float32_network_names_float64_as_the_remedy():
    net = MLPRegressor(**SMALL).fit(XR.astype(np.float32), YR)
    with pytest.raises(ValueError, match=r"too large for float32.* as float64 from the first fit"):
        net.predict(XR * 1e300)


# Weights and validation sets of early stopping


def test_class_weight_of_all_zeros_raises_and_names_class_weight():
    with pytest.raises(ValueError, match="class_weight: expected at least one weight above 0"):
        MLPClassifier(class_weight={0: 0, 1: 0, 2: 0}, **SMALL).fit(X, Y)


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


# Predictions


def test_probabilities_of_large_logits_are_exact():
    """Probabilities are exact for large logits, without a warning; 0.5 predicts the first class."""
    net = MLPClassifier(hidden_layer_sizes=(), max_iter=1).fit(X[:, :1], BINARY)
    net.coefs_, net.intercepts_ = [np.ones((1, 1))], [np.zeros(1)]
    x = np.array([[50.0], [-50.0], [-800.0], [0.0]])
    small = np.exp(-50.0)
    expected = [[small, 1], [1, small], [1, 0], [0.5, 0.5]]
    np.testing.assert_allclose(net.predict_proba(x), expected, rtol=1e-12)
    assert net.predict(x).tolist() == [1, 0, 0, 0]
    assert net.predict_log_proba(x)[2, 1] == -np.inf
    labels = MLPClassifier(hidden_layer_sizes=(), max_iter=1)
    labels.fit(X[:, :1], np.stack([BINARY, 1 - BINARY], axis=1))
    labels.coefs_, labels.intercepts_ = [np.ones((1, 2))], [np.zeros(2)]
    assert labels.predict(x).tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]


def test_predictions_that_overflow_do_not_warn():
    net = MLPRegressor(**SMALL).fit(XR.astype(np.float32), YR)
    assert not np.isfinite(net.predict(np.full((1, 5), 3e38, dtype=np.float32))).all()


def test_single_class_is_always_predicted():
    net = MLPClassifier(**SMALL).fit(X[:50], np.full(50, 3))
    net.intercepts_[-1][:] = 9.0
    assert set(net.predict(X)) == {3}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", 1], r"Mix of label input types \(number and string\) in classes"),
        ([b"a", 1], r"Mix of label input types \(bytes and number\) in classes"),
        (["a", np.True_], r"Mix of label input types \(number and string\) in classes"),
        (["a", None], "Input classes contains None"),
    ],
)
def test_classes_of_mixed_types_raise(classes, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**SMALL).partial_fit(X, np.array(["a", "1"])[BINARY], classes=classes)


def test_multilabel_targets_after_single_labels_raise():
    net = MLPClassifier(**SMALL).partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="`y` has several labels per row"):
        net.partial_fit(X, np.stack([BINARY, BINARY, 1 - BINARY], axis=1))


@pytest.mark.parametrize("seed", [7, 1000])
def test_pickled_estimator_continues_with_the_same_order(seed):
    options = {"batch_size": 10, **SMALL, "random_state": seed}
    net = MLPClassifier(**options).partial_fit(X, Y, classes=[0, 1, 2])
    other = pickle.loads(pickle.dumps(net))
    for _ in range(3):
        other = pickle.loads(pickle.dumps(other)).set_params(random_state=int(str(seed)))
        assert_same(net.partial_fit(X, Y), other.partial_fit(X, Y), atol=0)


def test_every_partial_fit_validates_the_parameters():
    for bad in ({"alpha": -5}, {"momentum": 7}, {"batch_size": -3}, {"activation": "sigmoid"}):
        net = MLPClassifier(**SMALL).partial_fit(X, Y, classes=[0, 1, 2])
        (name,) = bad
        with pytest.raises(ValueError, match=f"The '{name}' parameter of MLPClassifier must be"):
            net.set_params(**bad).partial_fit(X, Y)
    from sklearn import config_context

    net = MLPClassifier(batch_size=-3, **SMALL)
    with config_context(skip_parameter_validation=True), pytest.warns(UserWarning, match="clipped"):
        assert net.fit(X, Y).loss_ > 0


def test_predict_accepts_and_rejects_the_same_input_as_scikit_learn():
    pair = [m.MLPClassifier(**SMALL).fit(X, Y) for m in (portnet, sklearn_nn)]
    for bad in ([["1", "2", "3", "4"]], [["x", "y", "z", "u"]], [[1 + 2j, 0, 0, 0]], {"a": [1]}):
        messages = []
        for net in pair:
            with pytest.raises((ValueError, TypeError)) as caught:
                net.predict(bad)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    for fine in (np.ones((2, 4), dtype=np.int8), np.ones((2, 4), dtype=bool), [[1, 2, 3, 4]]):
        np.testing.assert_array_equal(pair[0].predict(fine), pair[1].predict(fine))


# Object arrays, meta and sparse tensors, and huge integers ----------------------------------------


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


def test_sparse_targets_with_torch_features_fit_or_raise(torch):
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    given, labels = torch.asarray(X), np.stack([Y > 0, Y > 1], 1).astype(int)
    several = MLPClassifier(**SMALL).fit(given, sparse.csr_matrix(labels))
    dense = MLPClassifier(**SMALL).fit(given, labels)
    np.testing.assert_array_equal(several.coefs_[0], dense.coefs_[0])
    for net in MLPClassifier(**SMALL), MLPRegressor(**SMALL):
        with pytest.raises(TypeError, match="Sparse data was passed for y, but dense data is req"):
            net.fit(given, sparse.csr_matrix(Y.reshape(-1, 1)))


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
