"""L-BFGS in the Trainer: full batches, and resumed runs."""

import numpy as np
import pytest
from fits import LABELS, NOISE, XV, X, assert_same_run, host, trainer

import portnet


def test_lbfgs_reaches_the_least_squares_solution():
    y = X @ np.arange(5.0) + np.random.default_rng(0).standard_normal(96)
    with portnet.use_backend("numpy", dtype="float64"):
        optimizer = portnet.LBFGS(gtol=1e-7, ftol=0)
        t = portnet.Trainer(portnet.mlp([5, 1]), "squared_error", optimizer)
        run = t.fit(X, y, epochs=200, metrics=["r2"], callbacks=[lambda report: None])
    A = np.c_[X, np.ones(96)]
    expected = np.linalg.lstsq(A, y, rcond=None)[0]
    np.testing.assert_allclose(host(run.params)[0][:, 0], expected[:5], rtol=1e-7, atol=1e-7)
    assert run.stopped.startswith("converged")
    assert run.epoch < 30
    assert np.all(np.diff(run.history["loss"]) <= 0)
    assert run.history["loss"][-1] == pytest.approx(run.evaluate(X, y)["loss"], rel=1e-12)


def test_lbfgs_reaches_a_lower_loss_than_adam_and_uses_weights():
    weight = np.arange(96) % 3
    copies = np.repeat(np.arange(96), weight)
    with portnet.use_backend("numpy", dtype="float64"):
        t = trainer(optimizer="lbfgs")
        a = t.fit(X, LABELS, epochs=5, sample_weight=weight)
        b = t.fit(X[copies], LABELS[copies], epochs=5)
        far = t.fit(X, LABELS, epochs=60)
        adam = trainer().fit(X, LABELS, epochs=60)
    np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-7)
    assert far.history["loss"][-1] < adam.history["loss"][-1]


def test_lbfgs_rejects_dropout():
    with pytest.raises(ValueError, match="LBFGS needs a loss that is the same in every evaluation"):
        trainer(model=portnet.mlp([5, 8, 3], dropout=0.1), optimizer="lbfgs").fit(X, LABELS)


def test_lbfgs_resumed_with_other_data_resets_its_memory():
    """The memory of L-BFGS holds for one function: other data, weights or tolerances reset it."""
    t = trainer(optimizer="lbfgs", model=portnet.mlp([5, 3]))
    other = XV, NOISE
    noisy = np.r_[X, X], np.r_[LABELS, (LABELS + 1) % 3]  # otherwise the weights diverge
    with portnet.use_backend("numpy", dtype="float64"):
        for epochs in (2, 200):  # before it has converged, and after
            run = t.fit(*noisy, epochs=epochs).fit(*other, epochs=200)
            fresh = t.fit(*other, epochs=200)
            assert run.history["loss"][-1] == pytest.approx(run.evaluate(*other)["loss"])
            assert run.history["loss"][-1] == pytest.approx(fresh.history["loss"][-1], rel=1e-5)
        done = t.fit(*noisy, epochs=200)
        heavy = done.fit(*noisy, epochs=200, class_weight={1: 10.0})
        expected = t.fit(*noisy, epochs=200, class_weight={1: 10.0})
        assert heavy.history["loss"][-1] == pytest.approx(expected.history["loss"][-1], rel=1e-5)
        closer = portnet.Trainer(t.model, t.loss, portnet.LBFGS(gtol=1e-9, ftol=0))
        assert closer.fit(*noisy, epochs=200, resume=done).epoch > done.epoch
    assert done.stopped.startswith("converged")


def test_resuming_a_converged_lbfgs_run_does_not_train():
    t = trainer(optimizer="lbfgs", model=portnet.mlp([5, 3]))
    whole = t.fit(X, LABELS, epochs=400)
    assert whole.epoch < 400
    half = t.fit(X, LABELS, epochs=300)
    again = half.fit(X, LABELS, epochs=100)
    assert_same_run(again, whole)
    assert again.stopped == whole.stopped != ""
