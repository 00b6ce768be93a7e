"""The estimators' networks, losses, optimizers, metrics and callbacks on several ranks."""

import signal
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="estimators need scikit-learn")
from worlds import of_all, on_ranks, sha

import portnet
from portnet import MLPClassifier, MLPRegressor
from portnet.engine.ranks import DistributedError, current_ranks

SIZES = [1, 2, 3, 8]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(333, 6))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
HEADS = np.column_stack([Y, (X[:, 2] > 0) + (X[:, 3] > 1)])
WEIGHT = DRAW.uniform(0.5, 2.0, 333)
SMALL = {"hidden_layer_sizes": (8,), "batch_size": 64, "max_iter": 4, "random_state": 0}


def squared(pred, target, weight=None):
    """Return the mean of the squared differences over rows, and its gradient."""
    xp = portnet.namespace(pred)
    w = xp.ones_like(pred[:, 0]) if weight is None else weight
    w = xp.expand_dims(w / xp.sum(w), axis=-1)
    return xp.sum(w * (pred - target) ** 2), 2 * w * (pred - target)


@pytest.mark.parametrize(
    ("options", "y"),
    [
        ({"dropout": 0.3, "norm": "layer", "activation": ["gelu"]}, Y),
        ({"dropout": 0.3, "compile": False}, Y),
        ({"loss": squared, "dropout": 0.2}, Y),
        ({"loss": squared, "compile": False}, HEADS[:, 1]),
        ({"optimizer": portnet.chain(portnet.ClipNorm(0.1), portnet.AdamW(1e-2))}, Y),
        ({"metrics": ["accuracy"], "early_stopping": True, "scoring": "roc_auc"}, Y),
        ({"norm": "layer"}, HEADS),
    ],
)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_estimators_have_the_same_bits_on_any_number_of_ranks(options, y, weight):
    def trained():
        return MLPClassifier(**SMALL | options).fit(X, y, weight)

    alone = trained()
    models = [m for size in SIZES for m in of_all(size, trained)]
    assert len({sha(m.get_weights()) for m in models}) == 1
    assert all(m.history_ == models[0].history_ for m in models)
    for a, b in zip(alone.get_weights(), models[0].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    for name, curve in alone.history_.items():
        np.testing.assert_allclose(curve, models[0].history_[name], rtol=1e-7)


def test_resumed_fits_have_the_bits_of_one():
    def trained(most, **resume):
        net = MLPClassifier(dropout=0.2, **SMALL).fit(X, Y)
        return net.set_params(max_iter=most).fit(X, Y, **resume)

    whole = of_all(2, lambda: trained(8))
    parts = of_all(3, lambda: trained(8, resume=True))
    assert len({sha(m.get_weights()) for m in whole + parts}) == 1


def test_ranks_train_from_a_source_that_is_read_in_windows(tmp_path, monkeypatch):
    from portnet.data.sources import order, reading

    monkeypatch.setattr(reading, "SMALL", 0)
    monkeypatch.setattr(order, "BLOCK", 16 * 56)
    monkeypatch.setattr(order, "WINDOW", 64 * 56)
    np.save(tmp_path / "X.npy", X)
    options = {"dropout": 0.2, "loss": squared, "metrics": ["accuracy"], "early_stopping": True}

    def trained():
        source = np.load(tmp_path / "X.npy", mmap_mode="r")
        return MLPClassifier(**SMALL | options).fit(source, Y)

    models = [m for size in SIZES for m in of_all(size, trained)]
    assert len({sha(m.get_weights()) for m in models}) == 1
    assert all(m.history_ == models[0].history_ for m in models)


class Log:
    """Notes the ranks on which it is called; ends training after an epoch, or fails there."""

    max_propagation_depth = None

    def __init__(self, error=None):
        self.error, self.ranks = error, []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.ranks.append(current_ranks().rank)

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.ranks.append(current_ranks().rank)
        if self.error is not None:
            raise self.error
        return context.task_name != "fit" and context.task_id == 1


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_are_called_on_rank_0_and_end_the_fit_of_all(solver):
    log = Log()
    nets = of_all(3, lambda: MLPClassifier(solver=solver, **SMALL).set_callbacks(log).fit(X, Y))
    assert [net.n_iter_ for net in nets] == [2, 2, 2]
    assert len({sha(net.get_weights()) for net in nets}) == 1
    assert log.ranks == [0] * 4  # two epochs, the fit, and the end


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_signal_of_one_rank_ends_all_after_the_same_step(solver):
    class Interrupted(Log):
        def on_fit_task_end(self, estimator, context):
            if context.task_id == 1:
                current_ranks().received.append(signal.SIGINT)

    net = lambda: MLPClassifier(solver=solver, **SMALL).set_callbacks(Interrupted())  # noqa: E731
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        nets = of_all(2, lambda: net().fit(X, Y))
    assert [one.n_iter_ for one in nets] == [2, 2]
    assert len({sha(one.get_weights()) for one in nets}) == 1


def test_an_error_of_a_callback_is_raised_on_all_ranks():
    net = lambda: MLPClassifier(**SMALL).set_callbacks(Log(RuntimeError("no")))  # noqa: E731
    errors = on_ranks(2, lambda: net().fit(X, Y))
    assert {type(e) for e in errors} == {DistributedError}
    assert {str(e) for e in errors} == {"rank 0: RuntimeError: no"}


def test_an_error_of_a_metric_on_one_rank_is_raised_on_all():
    def scorer(estimator, X, y):
        if current_ranks().rank == 1:
            raise RuntimeError("no")
        return 1.0

    errors = on_ranks(2, lambda: MLPClassifier(metrics=scorer, **SMALL).fit(X, Y))
    assert {str(e) for e in errors} == {"rank 1: RuntimeError: no"}


def test_ranks_that_would_draw_other_orders_do_not_start():
    """The networks are equal, but not the generators."""
    net = MLPClassifier(**SMALL).fit(X, Y)

    def trained(rank):
        mine = portnet.MLPClassifier(**SMALL | {"warm_start": True})
        vars(mine).update({k: v for k, v in vars(net).items() if k.endswith("_")})
        mine._label_binarizer = net._label_binarizer
        return mine.set_params(random_state=np.random.RandomState(rank)).fit(X, Y)

    errors = on_ranks(2, trained)
    assert "generator" in str(errors[0])
    assert {type(e) for e in errors} == {DistributedError}


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_ranks_that_round_differently_are_an_error(solver, monkeypatch):
    """As on processors that differ: one of them makes other updates from the same sums."""
    from portnet.engine import rank_checks

    checksum = rank_checks._checksum
    calls = []

    def faulty(params):
        found = checksum(params)
        calls.append(0)
        last = current_ranks().rank == 1 and len(calls) > 4  # after the checks of the begin
        return "other" if last else found

    monkeypatch.setattr(rank_checks, "_checksum", faulty)
    errors = on_ranks(2, lambda: MLPClassifier(solver=solver, **SMALL).fit(X, Y))
    assert {type(e) for e in errors} == {DistributedError}
    assert "rank 1 has other parameters than rank 0" in str(errors[0])


def test_own_losses_of_regressors():
    make = lambda: MLPRegressor(loss=squared, **SMALL).fit(X, X[:, :2] ** 2)  # noqa: E731
    models = [m for size in SIZES for m in of_all(size, make)]
    assert len({sha(m.get_weights()) for m in models}) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(make().predict(X), models[0].predict(X), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"early_stopping": True, "dropout": 0.1}], ids=str)
def test_ensembles_have_the_same_bits_on_any_number_of_ranks(options):
    def trained():
        return MLPClassifier(n_networks=2, **SMALL | options).fit(X, Y)

    models = [m for size in (1, 2, 3) for m in of_all(size, trained)]
    assert len({sha([one.get_weights() for one in m.estimators_]) for m in models}) == 1
    np.testing.assert_allclose(
        trained().predict_proba(X), models[0].predict_proba(X), rtol=1e-7, atol=1e-9
    )
