"""Fitted estimators from and to scikit-learn: the same answers, and the same training after that."""

import copy
import warnings

import numpy as np
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st

import portnet
from portnet.exchange import ExchangeError, from_sklearn, to_sklearn

neural_network = pytest.importorskip("sklearn.neural_network", reason="scikit-learn is missing")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge"
)
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(120, 4))
CODES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.3)
TARGETS = {
    "text": np.array(["no", "perhaps", "yes"])[CODES],
    "two classes": CODES > 0,
    "labels": (X[:, :3] > 0).astype(int),
    "number": X[:, 0] * X[:, 1],
    "numbers": X[:, :2] ** 2,
    "counts": CODES,
}
SOLVERS = {
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
    "sgd": {"solver": "sgd", "momentum": 0.8, "learning_rate_init": 0.05},
    "plain sgd": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate": "invscaling"},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 10, "n_iter_no_change": 1},
}


def make(module, target, **options):
    """Return an estimator that is not fitted."""
    options = {"hidden_layer_sizes": (6, 5), "max_iter": 15, "random_state": 0} | options
    if target in ("text", "two classes", "labels"):
        return module.MLPClassifier(**options)
    loss = "poisson" if target == "counts" else "squared_error"
    return module.MLPRegressor(loss, **options)


def answers(estimator, rows=X):
    found = [estimator.predict(rows)]
    return [*found, estimator.predict_proba(rows)] if hasattr(estimator, "predict_proba") else found


def assert_same(a, b, y, tolerance=1e-12):
    for found, expected in zip(answers(a), answers(b), strict=True):
        assert found.dtype == expected.dtype
        if found.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(found, expected)
    assert abs(a.score(X, y) - b.score(X, y)) <= 1e-9


WAYS = {
    "from": (neural_network, from_sklearn),
    "to": (portnet, to_sklearn),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("target", TARGETS)
def test_predictions_scores_and_attributes_are_the_same(way, target, solver):
    module, convert = WAYS[way]
    y = TARGETS[target]
    given = make(module, target, solver=solver, activation="tanh").fit(X, y)
    before = copy.deepcopy(vars(given))
    found = convert(given)
    assert_same(found, given, y)
    assert type(found).__name__ == type(given).__name__
    assert type(found).__module__.startswith("sklearn" if way == "to" else "portnet")
    public = {n for n in before if n.endswith("_")}
    assert public <= vars(found).keys()
    for name in public:
        np.testing.assert_equal(getattr(found, name), before[name], err_msg=name)
    for name, value in before.items():  # as it was
        if name not in ("_optimizer", "_label_binarizer", "_random_state"):
            np.testing.assert_equal(vars(given)[name], value, err_msg=name)
    assert found.coefs_[0] is not given.coefs_[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("target", ["text", "two classes", "number"])
def test_partial_fit_goes_on_with_the_state_of_the_optimizer(way, solver, target):
    module, convert = WAYS[way]
    y = TARGETS[target]
    # Each library shuffles in its own way
    given = make(module, target, shuffle=False, batch_size=50, **solver)
    if target == "number":
        given.partial_fit(X, y)
    else:
        given.partial_fit(X, y, classes=np.unique(y))
    for _ in range(4):
        given.partial_fit(X, y)
    found = convert(given)
    anew = convert(given)
    del anew._optimizer
    for _ in range(5):
        given.partial_fit(X, y)
        found.partial_fit(X, y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # portnet warns of the lost state
            anew.partial_fit(X, y)
    assert_same(found, given, y, 1e-9)
    assert found.n_iter_ == given.n_iter_ == 1
    assert found.t_ == given.t_ == 1200
    np.testing.assert_allclose(found.loss_curve_, given.loss_curve_, rtol=1e-9)
    assert abs(anew.coefs_[0] - given.coefs_[0]).max() > 1e-6  # the test can fail


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("more", [{}, {"early_stopping": True, "validation_fraction": 0.3}])
def test_a_warm_start_goes_on(way, solver, more):
    module, convert = WAYS[way]
    y = TARGETS["text"]
    given = make(module, "text", solver=solver, warm_start=True, **more).fit(X, y)
    found = convert(given)
    given.fit(X, y)
    found.fit(X, y)
    assert_same(found, given, y, 1e-5 if solver == "lbfgs" else 1e-9)
    if solver != "lbfgs":
        np.testing.assert_allclose(found.loss_curve_, given.loss_curve_, rtol=1e-9)
        assert (found.validation_scores_ is None) == (given.validation_scores_ is None)
        assert found.validation_scores_ == given.validation_scores_


@pytest.mark.parametrize("way", WAYS)
def test_a_warm_start_of_early_stopping_that_finds_nothing_better(way):
    module, convert = WAYS[way]
    y = TARGETS["text"]
    options = {"early_stopping": True, "warm_start": True, "learning_rate_init": 0.02}
    given = make(module, "text", max_iter=60, **options).fit(X, y)
    found = convert(given)
    for estimator in (given, found):
        estimator.set_params(learning_rate_init=1e-9, max_iter=2).fit(X, y)
    assert_same(found, given, y, 1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_float32_text_objects_names_and_generators(way):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    module, convert = WAYS[way]
    frame = pandas.DataFrame(X.astype(np.float32), columns=list("abcd"))
    y = TARGETS["text"].astype(object)
    given = make(module, "text", random_state=np.random.RandomState(3)).fit(frame, y)
    found = convert(given)
    np.testing.assert_array_equal(found.predict(frame), given.predict(frame))
    assert found.coefs_[0].dtype == np.float32
    assert found.feature_names_in_.tolist() == list("abcd")
    assert found.predict(frame).dtype == given.predict(frame).dtype
    state = given.random_state.get_state()[1].copy()
    found.partial_fit(frame, y)
    np.testing.assert_array_equal(given.random_state.get_state()[1], state)
    with pytest.raises(ValueError, match="feature names"):
        found.predict(frame[list("dcba")])


@pytest.mark.parametrize("target", TARGETS)
def test_there_and_back_is_the_same(target):
    y = TARGETS[target]
    given = make(portnet, target).fit(X, y)
    back = from_sklearn(to_sklearn(given))
    assert_same(back, given, y, 0)
    given.partial_fit(X, y)
    back.partial_fit(X, y)
    assert_same(back, given, y, 0)


def test_the_estimator_is_on_the_current_backend():
    pytest.importorskip("torch", reason="torch is not installed")
    y = TARGETS["text"]
    given = make(neural_network, "text").fit(X, y)
    with portnet.use_backend("torch"):
        found = from_sklearn(given)
    assert type(found.coefs_[0]).__module__ == "torch"
    assert_same(found, given, y)
    back = to_sklearn(found.partial_fit(X, y))
    assert type(back.coefs_[0]) is np.ndarray
    assert_same(back, found, y)
    back.partial_fit(X, y)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_an_estimator_without_results_of_a_fit_can_be_trained(early_stopping):
    y = TARGETS["text"]
    given = make(portnet, "text", warm_start=True, early_stopping=early_stopping).fit(X, y)
    for name in ("loss_curve_", "best_loss_", "_no_improvement_count", "validation_scores_"):
        del vars(given)[name]  # of a network that was made, and not trained
    del given.best_validation_score_
    found = to_sklearn(given)
    found.fit(X, y)
    assert len(found.loss_curve_) == found.n_iter_
    if not early_stopping:
        assert len(to_sklearn(given).partial_fit(X, y).loss_curve_) == 1


@settings(max_examples=25)
@cases(
    hidden=st.lists(st.integers(1, 7), max_size=3),
    activation=st.sampled_from(["identity", "logistic", "tanh", "relu"]),
    solver=st.sampled_from(["adam", "sgd", "lbfgs"]),
    target=st.sampled_from(sorted(TARGETS)),
    dtype=st.sampled_from([np.float32, np.float64]),
    width=st.integers(3, 4),
    way=st.sampled_from(sorted(WAYS)),
)
def test_random_estimators(hidden, activation, solver, target, dtype, width, way):
    module, convert = WAYS[way]
    rows, y = X[:, :width].astype(dtype), TARGETS[target]
    options = {"hidden_layer_sizes": hidden, "activation": activation, "solver": solver}
    given = make(module, target, max_iter=3, learning_rate_init=0.01, **options).fit(rows, y)
    found = convert(given)
    for a, b in zip(answers(found, rows), answers(given, rows), strict=True):
        if b.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)
    back = (from_sklearn if way == "to" else to_sklearn)(found)
    for a, b in zip(answers(back, rows), answers(given, rows), strict=True):
        np.testing.assert_array_equal(a, b)


def test_results_can_be_pickled_saved_and_cloned(tmp_path):
    import pickle

    from sklearn.base import clone

    y = TARGETS["text"]
    found = from_sklearn(make(neural_network, "text").fit(X, y))
    assert_same(pickle.loads(pickle.dumps(found)), found, y, 0)
    portnet.save(found, tmp_path / "m", state=True)
    assert_same(portnet.load(tmp_path / "m", backend="numpy"), found, y, 0)
    clone(found)
    clone(to_sklearn(found))


def test_what_cannot_be_converted_is_an_error():
    with pytest.raises(TypeError, match="from_sklearn: expected a fitted estimator, got MLPClass"):
        from_sklearn(neural_network.MLPClassifier())
    with pytest.raises(
        TypeError, match="to_sklearn: expected a fitted estimator, got MLPRegressor"
    ):
        to_sklearn(portnet.MLPRegressor())
    with pytest.raises(TypeError, match=r"of scikit-learn, got portnet\.estimators\.regressor"):
        from_sklearn(portnet.MLPRegressor())
    with pytest.raises(TypeError, match=r"of portnet, got builtins\.int"):
        to_sklearn(1)
    y = TARGETS["text"]
    given = make(portnet, "text", class_weight="balanced", backend="numpy", compile=False)
    given.fit(X, y)
    with pytest.raises(ExchangeError, match=r"has no class_weight='balanced'.*set_params\(class_w"):
        to_sklearn(given)
    to_sklearn(given.set_params(class_weight=None))


def test_a_subclass_gives_portnets_own_class():
    class Mine(neural_network.MLPClassifier):
        pass

    found = from_sklearn(Mine((4,), max_iter=3).fit(X, CODES))
    assert type(found) is portnet.MLPClassifier


@pytest.mark.parametrize("solver", SOLVERS)
def test_dropout_that_is_reset_is_lost_and_the_training_goes_on(solver):
    y = TARGETS["text"]
    net = make(portnet, "text", dropout=0.2, batch_size=120, **SOLVERS[solver]).fit(X, y)
    with pytest.raises(ExchangeError, match=r"has no dropout=0.2.*set_params\(dropout=0.0\)"):
        to_sklearn(net)
    expected = net.predict_proba(X)
    other = to_sklearn(net.set_params(dropout=0.0))
    np.testing.assert_allclose(other.predict_proba(X), expected, atol=1e-12)
    net.partial_fit(X, y)
    other.partial_fit(X, y)
    after = net.predict_proba(X)
    assert abs(after - expected).max() > 1e-5
    np.testing.assert_allclose(other.predict_proba(X), after, atol=1e-10)  # also the optimizers


def test_what_is_no_part_of_sklearns_networks_is_refused_also_after_a_reset():
    y = TARGETS["text"]
    norm = make(portnet, "text", norm="layer").fit(X, y).set_params(norm=None)
    with pytest.raises(ExchangeError, match=r"has no norm='layer', with which .* fit another"):
        to_sklearn(norm)
    gelu = make(portnet, "text", activation="gelu").fit(X, y).set_params(activation="relu")
    with pytest.raises(ExchangeError, match="has no activation='gelu', with which"):
        to_sklearn(gelu)
    several = make(portnet, "text", n_networks=3).fit(X, y).set_params(n_networks=1)
    with pytest.raises(ExchangeError, match=r"to_sklearn\(estimator.estimators_\[0\]\)"):
        to_sklearn(several)
    one = several.estimators_[0]
    np.testing.assert_allclose(to_sklearn(one).predict_proba(X), one.predict_proba(X), atol=1e-12)
    tanh = make(portnet, "text", activation="tanh").fit(X, y).set_params(activation="relu")
    other = to_sklearn(tanh)
    assert other.activation == "tanh"
    np.testing.assert_allclose(other.predict_proba(X), tanh.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("target", ["text", "number"])
def test_the_state_of_an_optimizer_that_sklearn_lacks_is_left_out(target):
    optimizer = portnet.chain(portnet.ClipNorm(1.0), portnet.AdamW(0.01))
    net = make(portnet, target, optimizer=optimizer).fit(X, TARGETS[target])
    with pytest.raises(ExchangeError, match=r"set_params\(optimizer=None\)"):
        to_sklearn(net)
    other = to_sklearn(net.set_params(optimizer=None))
    np.testing.assert_allclose(_answer(other), _answer(net), atol=1e-12)
    assert other.partial_fit(X, TARGETS[target]).t_ > 0


def _answer(estimator):
    proba = getattr(estimator, "predict_proba", None)
    return estimator.predict(X) if proba is None else proba(X)
