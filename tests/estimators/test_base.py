"""What both estimators share: parameters, state between fits, copies and subclasses."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import pickle

import numpy as np
from problems import BINARY, SMALL, SOLVERS, XR, YR, X, Y, assert_same, raise_keyboard_interrupt
from sklearn.base import clone

from portnet import MLPClassifier, MLPRegressor
from portnet.estimators import base, solvers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Parameters --------------------------------------------------------------------------------------


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


def test_default_batch_size_is_at_most_200():
    features, y = np.tile(X, (2, 1)), np.tile(Y, 2)
    net = MLPClassifier(**SMALL).fit(features, y)
    assert_same(net, MLPClassifier(batch_size=200, **SMALL).fit(features, y), atol=0)


def test_batch_size_of_all_training_rows_does_not_warn():
    MLPClassifier(batch_size=150, **SMALL).fit(X, Y)
    with pytest.warns(UserWarning, match="It is going to be clipped"):
        MLPClassifier(batch_size=150, early_stopping=True, **SMALL).fit(X, Y)


# State between fits ------------------------------------------------------------------------------


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


def test_random_state_changed_between_partial_fits_is_used():
    a, b = (
        MLPClassifier(batch_size=10, **SMALL).partial_fit(X, Y, classes=[0, 1, 2]) for _ in "ab"
    )
    assert_same(a, b, atol=0)
    a.partial_fit(X, Y)
    b.set_params(random_state=7).partial_fit(X, Y)
    assert abs(a.coefs_[0] - b.coefs_[0]).max() > 0


def test_warm_start_with_other_layer_sizes_or_classes_raises():
    net = MLPClassifier(warm_start=True, **SMALL).fit(X, Y)
    net.set_params(hidden_layer_sizes=(9,))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(9,\) and .* Use a new estimator"):
        net.fit(X, Y)
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same"):
        net.set_params(hidden_layer_sizes=(7,)).fit(X, BINARY)


def test_failed_partial_fit_leaves_the_random_state_unchanged():
    pair = [MLPClassifier(batch_size=10, **SMALL) for _ in range(2)]
    for net in pair:
        net.partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="Solver produced non-finite"):
        pair[0].partial_fit(X * 1e300, Y)
    assert_same(*(net.partial_fit(X, Y) for net in pair), atol=0)


def test_failed_partial_fit_does_not_rewind_a_generator_of_the_user():
    draw = np.random.RandomState(0)
    net = MLPClassifier(batch_size=10, **{**SMALL, "random_state": draw})
    net.partial_fit(X, Y, classes=[0, 1, 2])
    before = draw.get_state()
    with pytest.raises(ValueError, match="Solver produced non-finite"):
        net.partial_fit(X * 1e300, Y)
    after = draw.get_state()
    assert before[2] != after[2] or bool((before[1] != after[1]).any())


def test_keyboard_interrupt_before_training_keeps_the_earlier_fit(monkeypatch):
    net = MLPClassifier(**SMALL).fit(X, Y)
    attributes = dict(vars(net))
    monkeypatch.setattr(base, "stochastic", lambda *args, **options: raise_keyboard_interrupt())
    with pytest.raises(KeyboardInterrupt):
        net.fit(X[:, :3], BINARY)
    assert vars(net) == attributes


def test_partial_fit_with_early_stopping_raises():
    net = MLPRegressor(early_stopping=True, **SMALL)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        net.partial_fit(XR, YR)


def test_predict_uses_weights_set_by_the_user():
    net = MLPRegressor(hidden_layer_sizes=(), max_iter=1).fit(XR, YR)
    net.coefs_ = [np.ones((5, 1))]
    net.intercepts_[0][:] = 2.0
    np.testing.assert_allclose(net.predict(XR), XR.sum(axis=1) + 2)


def test_prediction_blocks_have_bounded_size():
    for shape in [(4, 7), (5000, 3), (3, 5000), (2**25, 1)]:
        wide = ({"W": np.broadcast_to(0.0, shape)}, ())
        size = solvers.block_size(wide)
        assert 1 <= size <= 16_384
        assert size == 1 or size * max(shape) <= 2**24


# Copies and subclasses ---------------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", [7, 1000])
def test_pickled_estimator_continues_with_the_same_order(seed):
    options = {"batch_size": 10, **SMALL, "random_state": seed}
    net = MLPClassifier(**options).partial_fit(X, Y, classes=[0, 1, 2])
    other = pickle.loads(pickle.dumps(net))
    for _ in range(3):
        other = pickle.loads(pickle.dumps(other)).set_params(random_state=int(str(seed)))
        assert_same(net.partial_fit(X, Y), other.partial_fit(X, Y), atol=0)
