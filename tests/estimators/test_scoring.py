"""What early stopping monitors, and the curves of history_."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import numpy as np
import sklearn.neural_network as sklearn_nn
from problems import SMALL, XM, XR, YM, YR, X, Y, assert_same
from sklearn.metrics import f1_score, get_scorer, log_loss, make_scorer, mean_squared_error

import portnet
from portnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X_VAL, Y_VAL = X[::3] + 0.3 * np.random.default_rng(0).standard_normal((50, 4)), Y[::3]
W = np.random.default_rng(1).integers(0, 3, len(Y)).astype(float)
W_VAL = np.random.default_rng(2).integers(1, 4, len(Y_VAL)).astype(float)
TEXT, TEXT_VAL = np.array(["x", "y", "z"])[Y], np.array(["x", "y", "z"])[Y_VAL]


def after_each_epoch(epochs, **options):
    """Return the networks of fits that end after each epoch."""
    nets = [MLPClassifier(**{**SMALL, **options, "max_iter": n}) for n in range(1, epochs + 1)]
    return [net.fit(X, TEXT, W) for net in nets]


def test_history_has_what_the_scorers_say_after_each_epoch():
    half = make_scorer(f1_score, response_method="predict", average="macro")
    metrics = {"f1": half, "auc": "roc_auc_ovr"}
    net = MLPClassifier(metrics=metrics, alpha=0.1, **SMALL)
    net.fit(X, TEXT, W, X_val=X_VAL, y_val=TEXT_VAL, sample_weight_val=W_VAL)
    plain = after_each_epoch(8, alpha=0.1)
    assert_same(net, plain[-1], atol=0)  # it only looks
    assert list(net.history_) == [
        "loss",
        "validation_loss",
        "f1",
        "auc",
        "validation_f1",
        "validation_auc",
    ]
    rows = W > 0
    for e, one in enumerate(plain):
        assert net.history_["loss"][e] == one.loss_
        p = one.predict_proba(X_VAL)
        expected = log_loss(TEXT_VAL, p, sample_weight=W_VAL)
        assert net.history_["validation_loss"][e] == pytest.approx(expected, rel=1e-12)
        for name, scorer in (("f1", half), ("auc", get_scorer("roc_auc_ovr"))):
            train = scorer(one, X[rows], TEXT[rows], sample_weight=W[rows])
            assert net.history_[name][e] == pytest.approx(train, rel=1e-12)
            held_out = scorer(one, X_VAL, TEXT_VAL, sample_weight=W_VAL)
            assert net.history_[f"validation_{name}"][e] == pytest.approx(held_out, rel=1e-12)


@pytest.mark.parametrize(
    "scoring", ["loss", "neg_log_loss", "f1_macro", lambda net, x, y: -abs(net.coefs_[0]).max()]
)
def test_early_stopping_keeps_the_epoch_with_the_best_score(scoring):
    options = {
        "learning_rate_init": 0.05,
        "batch_size": 30,
        "max_iter": 40,
        "hidden_layer_sizes": (9,),
    }
    net = MLPClassifier(early_stopping=True, scoring=scoring, random_state=0, **options)
    net.set_params(n_iter_no_change=6, tol=0).fit(X, TEXT, X_val=X_VAL, y_val=TEXT_VAL)
    options["max_iter"] = 1 + int(np.argmax(net.validation_scores_))
    plain = MLPClassifier(random_state=0, **options).fit(X, TEXT)
    assert_same(net, plain, atol=0)
    if scoring == "loss":
        expected = -log_loss(TEXT_VAL, plain.predict_proba(X_VAL))
        name = "validation_negative_loss"
    else:
        scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
        expected = scorer(plain, X_VAL, TEXT_VAL)
        name = f"validation_{scoring if isinstance(scoring, str) else '<lambda>'}"
    assert net.best_validation_score_ == pytest.approx(expected, rel=1e-12)
    assert net.history_[name] == net.validation_scores_


def test_scoring_by_accuracy_equals_the_default():
    pair = [
        MLPClassifier(early_stopping=True, scoring=s, **SMALL).fit(X, Y) for s in (None, "accuracy")
    ]
    assert_same(*pair, atol=0)
    assert pair[0].history_ == pair[1].history_
    pair = [MLPRegressor(early_stopping=True, scoring=s, **SMALL).fit(XR, YR) for s in (None, "r2")]
    assert_same(*pair, atol=0)
    np.testing.assert_allclose(pair[0].validation_scores_, pair[1].validation_scores_)
    assert list(pair[1].history_) == ["loss", "validation_r2"]


def test_an_empty_list_of_metrics_has_loss_and_score_on_training_and_validation_rows():
    net = MLPRegressor(early_stopping=True, metrics=[], **SMALL).fit(XR, YR)
    assert sorted(net.history_) == ["loss", "r2", "validation_loss", "validation_r2"]
    net = MLPRegressor(metrics=[], **SMALL).fit(XR, YR, X_val=XR[:20], y_val=YR[:20])
    assert sorted(net.history_) == ["loss", "validation_loss"]
    expected = 0.5 * mean_squared_error(YR[:20], net.predict(XR[:20]))
    assert net.history_["validation_loss"][-1] == pytest.approx(expected)
    assert MLPRegressor(**SMALL).fit(XR, YR).history_.keys() == {"loss"}


def test_metrics_of_labels_sparse_rows_and_frames():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    pandas = pytest.importorskip("pandas")
    options = {"metrics": "f1_micro", "early_stopping": True, "validation_fraction": 0.3, **SMALL}
    dense = MLPClassifier(**options).fit(XM, YM).history_
    for features in (scipy_sparse.csr_matrix(XM), pandas.DataFrame(XM, columns=list("abcdef"))):
        found = MLPClassifier(**options).fit(features, YM).history_
        for name, curve in dense.items():
            np.testing.assert_allclose(found[name], curve)


def test_curves_of_arrays_on_other_libraries_are_the_same(torch):
    options = {"metrics": ["f1_macro"], "early_stopping": True, "scoring": "neg_log_loss", **SMALL}
    here = MLPClassifier(**options).fit(X, Y).history_
    there = MLPClassifier(**options).fit(torch.tensor(X), torch.tensor(Y)).history_
    for name, curve in here.items():
        np.testing.assert_allclose(there[name], curve, rtol=1e-8)


def test_curves_go_on_with_a_warm_start_and_have_nan_where_a_metric_was_not_computed():
    net = MLPClassifier(metrics=["f1_macro"], warm_start=True, **SMALL).fit(X, Y)
    net.set_params(metrics=["f1_micro"]).fit(X, Y)
    assert [len(c) for c in net.history_.values()] == [16, 16, 16]
    assert np.isnan(net.history_["f1_macro"][8:]).all()
    assert np.isnan(net.history_["f1_micro"][:8]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["f1macro"]}, "metrics: 'f1macro' is not a valid scoring value"),
        ({"metrics": [3]}, "metrics: expected the name of a scorer of scikit-learn, or a callable"),
        ({"metrics": {"a": "f1macro"}}, r"metrics\['a'\]: 'f1macro' is not a valid scoring"),
        ({"metrics": ["r2", "r2"]}, "metrics: two have the same name: give a dict"),
        ({"metrics": ["loss"]}, "metrics: 'loss' is always in history_, leave it out"),
        ({"metrics": lambda net, x, y: "high"}, "expected a number from '<lambda>', got 'high'"),
        (
            {"scoring": "f1macro", "early_stopping": True},
            "scoring: 'f1macro' is not a valid scoring",
        ),
        ({"scoring": lambda net, x, y: {}, "early_stopping": True}, "expected a number from"),
    ],
)
def test_bad_scorers_raise_and_change_nothing(options, message):
    net = MLPClassifier(**SMALL).fit(X, Y).set_params(**options)
    before = dict(vars(net))
    with pytest.raises(ValueError, match=message):
        net.fit(X, Y)
    assert vars(net) == before


def test_history_of_lbfgs_is_that_of_scikit_learn_s_iterations(tmp_path):
    given = {**SMALL, "solver": "lbfgs", "alpha": 0.1}
    net = MLPClassifier(**given, metrics=["accuracy"], early_stopping=True)
    net.fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    theirs = [sklearn_nn.MLPClassifier(**{**given, "max_iter": n}).fit(X, Y) for n in range(1, 9)]
    assert list(net.history_) == ["loss", "validation_loss", "accuracy", "validation_accuracy"]
    expected = {
        "loss": [one.loss_ for one in theirs],
        "validation_loss": [log_loss(Y_VAL, one.predict_proba(X_VAL)) for one in theirs],
        "accuracy": [one.score(X, Y) for one in theirs],
        "validation_accuracy": [one.score(X_VAL, Y_VAL) for one in theirs],
    }
    for name, curve in net.history_.items():
        np.testing.assert_allclose(curve, expected[name], rtol=1e-5)
    assert not hasattr(net, "loss_curve_")
    portnet.save(net, tmp_path / "net.safetensors")
    assert portnet.load(tmp_path / "net.safetensors").history_ == net.history_


def test_history_is_that_of_the_last_solver():
    net = MLPClassifier(warm_start=True, **SMALL).fit(X, Y)
    net.set_params(solver="lbfgs").fit(X, Y)
    assert len(net.history_["loss"]) == net.n_iter_
    assert net.history_["loss"][-1] == net.loss_
    net.set_params(solver="adam", metrics=["accuracy"], max_iter=3).fit(X, Y)
    assert net.history_["loss"] == net.loss_curve_
    assert len(net.history_["accuracy"]) == len(net.loss_curve_)
    assert list(net.history_) == ["loss", "accuracy"]


def test_history_before_a_fit_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no history_: fit it"):
        MLPClassifier().history_  # noqa: B018


def test_validation_sets_that_lbfgs_does_not_use_are_warned_of():
    net = MLPClassifier(solver="lbfgs", early_stopping=True, **SMALL)
    with pytest.warns(UserWarning, match=r"lbfgs has no early stopping. With metrics=\[...\]"):
        net.fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert list(net.history_) == ["loss"]


def accuracy_without_weights(net, x, y):
    return float(np.mean(net.predict(x) == y))


class Counting:
    def __init__(self):
        self.given = []

    def __call__(self, net, x, y, **options):
        self.given.append(options.get("sample_weight"))
        return 0.5


@pytest.mark.parametrize(
    "scoring",
    [
        "adjusted_rand_score",  # its metric has no sample_weight
        make_scorer(lambda y, pred: float(np.mean(y == pred)), response_method="predict"),
        accuracy_without_weights,
    ],
)
def test_scorers_without_weights_score_weighted_fits(scoring):
    net = MLPClassifier(early_stopping=True, scoring=scoring, metrics={"m": scoring}, **SMALL)
    given = {"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": W_VAL}
    net.set_params(tol=0, n_iter_no_change=99).fit(X, Y, W, **given)
    scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
    last = MLPClassifier(**SMALL).fit(X, Y, W)
    assert net.history_["validation_m"] == net.validation_scores_
    assert net.validation_scores_[-1] == pytest.approx(scorer(last, X_VAL, Y_VAL))
    assert net.history_["m"][-1] == pytest.approx(scorer(last, X[W > 0], Y[W > 0]))


def test_scorers_with_weights_or_any_option_get_them():
    scorer = Counting()
    net = MLPClassifier(metrics={"m": scorer}, **SMALL | {"max_iter": 1})
    net.fit(X, Y, W, X_val=X_VAL, y_val=Y_VAL)
    np.testing.assert_array_equal(scorer.given[0], W[W > 0])
    assert scorer.given[1] is None


def test_errors_of_a_scorer_s_own_are_raised():
    def scorer(net, x, y, sample_weight=None):
        raise TypeError("got an unexpected keyword argument 'sample_weight'")

    with pytest.raises(TypeError, match="got an unexpected keyword argument 'sample_weight'"):
        MLPClassifier(metrics=scorer, **SMALL).fit(X, Y, W)


def loss(net, x, y):
    return 0.0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"metrics": {"loss": "accuracy"}}, "loss"),
        ({"metrics": loss}, "loss"),
        ({"metrics": {"validation_loss": "accuracy"}}, "validation_loss"),
        ({"metrics": {"f1": "f1_macro", "validation_f1": "f1_micro"}}, "validation_f1"),
        (
            {"metrics": {"validation_accuracy": "f1_micro"}, "early_stopping": True},
            "validation_acc",
        ),
        ({"metrics": {"negative_loss": "f1_micro"}, "early_stopping": True, "scoring": "loss"}, ""),
        ({"metrics": [], "early_stopping": True, "scoring": loss}, "loss"),
    ],
)
def test_names_of_metrics_that_history_has_already_raise(options, name):
    net = MLPClassifier(**SMALL).fit(X, Y).set_params(**options)
    before = dict(vars(net))
    with pytest.raises(ValueError, match=f"(metrics|scoring): history_ has '{name}.*' already"):
        net.fit(X, Y)
    assert vars(net) == before


def test_errors_name_the_parameter_that_has_the_scorer():
    def bad(net, x, y):
        return "high"

    for options, text in (
        ({"metrics": bad}, "^metrics: expected a number from 'bad'"),
        ({"scoring": bad, "early_stopping": True}, "^scoring: expected a number from 'bad'"),
    ):
        with pytest.raises(ValueError, match=text):
            MLPClassifier(**options, **SMALL).fit(X, Y)


def test_a_score_that_is_nan_warns_once():
    def scorer(net, x, y):
        return np.nan

    net = MLPClassifier(early_stopping=True, scoring=scorer, **SMALL)
    with pytest.warns(
        UserWarning, match="scoring: 'scorer' is NaN for the validation set"
    ) as found:
        net.fit(X, Y)
    assert sum("is NaN" in str(one.message) for one in found) == 1
    assert net.best_validation_score_ == -np.inf
