"""Fits, attributes, output and warnings equal those of scikit-learn's estimators."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import inspect
import pickle

import numpy as np
import sklearn.neural_network as sklearn_nn
from problems import PROBLEMS, SMALL, SOLVERS, X, Y, assert_same
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning

import portnet
from portnet import MLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_signatures_extend_those_of_scikit_learn(name):
    actual, others = getattr(portnet, name), getattr(sklearn_nn, name)
    sklearn_init = list(inspect.signature(others.__init__).parameters.values())
    portnet_init = list(inspect.signature(actual.__init__).parameters.values())
    for a, b in zip(portnet_init, sklearn_init, strict=False):
        assert (a.name, a.kind, a.default) == (b.name, b.kind, b.default)
    more = portnet_init[len(sklearn_init) :]
    assert all(p.kind is p.KEYWORD_ONLY for p in more)
    own: dict = {"class_weight": None, "loss": "log_loss", "heads": False}
    own = own if name == "MLPClassifier" else {}
    own |= {"backend": None, "compile": True, "dropout": 0.0, "norm": None, "optimizer": None}
    assert {p.name: p.default for p in more} == {
        **own,
        "scoring": None,
        "metrics": None,
        "n_networks": 1,
    }
    for method in ("fit", "partial_fit", "predict", "score", "get_params", "set_params"):
        a = list(inspect.signature(getattr(actual, method)).parameters)
        b = list(inspect.signature(getattr(others, method)).parameters)
        assert a[: len(b)] == b, method
        more = {"X_val", "y_val", "sample_weight_val"}
        more |= {"checkpoint", "every", "keep", "on_checkpoint_error", "resume", "return_std"}
        assert set(a[len(b) :]) <= more
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
