"""Trainer.fit_batches: the steps of fit, endless and short generators, errors, Ctrl-C."""

import math
import signal

import numpy as np
import pytest
from fits import LABELS, NAMES, NOISE, XV, X, assert_equal, classifier, trainer

import portnet

SIZE = 16
ROWS = len(X)


def batches(size=SIZE, y=LABELS, x=X):
    for start in range(0, ROWS, size):
        yield x[start : start + size], y[start : start + size]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("given", [batches, list(batches())])
def test_batches_of_one_size_are_the_steps_of_fit(given, compiled):
    net = portnet.mlp([5, 8, 3], dropout=0.3)
    of_net = classifier(model=net, shuffle=False, batch_size=SIZE, compile=compiled)
    run = of_net.fit_batches(given, epochs=3)
    expected = of_net.fit(X, LABELS, epochs=3)
    assert_equal(run.params, expected.params)
    assert_equal(run.state, expected.state)
    assert run.history == expected.history
    again = of_net.fit_batches(given, epochs=2, resume=of_net.fit_batches(given, epochs=1))
    assert_equal(again.params, run.params)
    assert again.history == run.history


def test_other_backends(backend_name):
    with portnet.use_backend(backend_name):
        of_net = classifier(shuffle=False, batch_size=SIZE)
        run = of_net.fit_batches(batches, epochs=2)
        assert_equal(run.params, of_net.fit(X, LABELS, epochs=2).params)


def test_short_last_batches_count_by_their_rows():
    run = classifier().fit_batches(lambda: batches(40), epochs=1)
    expected = classifier(shuffle=False, batch_size=40).fit(X, LABELS, epochs=1)
    assert run.history["loss"] == expected.history["loss"]


def test_an_endless_generator_goes_on_from_epoch_to_epoch():
    def endless():
        while True:
            yield from batches()

    run = classifier().fit_batches(endless(), epochs=3, steps=6)
    expected = classifier(shuffle=False, batch_size=SIZE).fit(X, LABELS, epochs=3)
    assert run.history == expected.history
    made = classifier().fit_batches(endless, epochs=3, steps=6)
    assert made.history == expected.history


def test_monitoring_metrics_and_callbacks():
    seen = []
    run = classifier(optimizer=portnet.Adam(0.05)).fit_batches(
        batches,
        epochs=50,
        validation=(XV, NOISE),
        metrics=["accuracy"],
        early_stopping=portnet.EarlyStopping(patience=2),
        reduce_on_plateau=True,
        callbacks=[seen.append],
    )
    assert "early stopping" in run.stopped
    assert len(seen) == len(run.history["validation_accuracy"]) < 50
    assert set(run.history) == {"loss", "validation_loss", "validation_accuracy", "scale"}


def test_text_labels_weights_and_slices_of_memory_maps(tmp_path):
    np.save(tmp_path / "X.npy", X.astype("float32"))
    x = np.load(tmp_path / "X.npy", mmap_mode="r")
    fast = classifier(optimizer=portnet.Adam(0.05))
    run = fast.fit_batches(lambda: batches(y=NAMES[LABELS], x=x), classes=NAMES, epochs=30)
    assert run.classes.tolist() == NAMES.tolist()
    assert run.score(X, NAMES[LABELS]) > 0.8
    weighted = [(a, b, np.where(b == 0, 0.0, 2.0)) for a, b in batches()]
    heavy = classifier().fit_batches(weighted)
    kept = classifier().fit_batches([(a[b > 0], b[b > 0]) for a, b in batches()])
    for p, q in zip(
        portnet.tree.leaves(heavy.params), portnet.tree.leaves(kept.params), strict=True
    ):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)


def fails_at(number):
    for i, batch in enumerate(batches()):
        if i == number:
            raise OSError("gone")
        yield batch


def with_bad(number, **change):
    for i, (x, y) in enumerate(batches()):
        yield (change.get("x", x), change.get("y", y)) if i == number else (x, y)


NAN = np.full((4, 5), np.nan)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (lambda: iter(()), {}, portnet.DataError, "they ended after 0 in epoch 1"),
        (lambda: batches(), {"steps": 7}, portnet.DataError, "ended after 6 of the 7 steps of epoch 1"),
        (batches(), {"epochs": 2}, ValueError, "a generator ends with the first of 2 epochs"),
        (3, {}, TypeError, "batches: expected batches"),
        ([X], {}, portnet.DataError, r"batch 1 of epoch 1: expected \(X, y\)"),
        (lambda: fails_at(2), {}, OSError, "gone"),
        (lambda: with_bad(2, x=NAN), {}, portnet.DataError, "batch 3 of epoch 1: X contains NaN at row 0"),
        (lambda: with_bad(2, y=LABELS[:3]), {}, portnet.DataError, "batch 3 of epoch 1: y: expected 16 rows"),
        (lambda: with_bad(2, y=LABELS[:16] + 3), {}, portnet.DataError, "batch 3 of epoch 1: y: .*labels"),
        (lambda: with_bad(2, x=X[:16, :4]), {}, portnet.DataError, "batch 3 of epoch 1: X: expected 5 fea"),
        (lambda: batches(y=NAMES[LABELS]), {}, portnet.DataError, r"need classes=\[...\]"),
        (lambda: batches(y=NAMES[LABELS]), {"classes": ["cat", "dog", "fox"]}, portnet.DataError, "labels among 'cat', 'dog', 'fox', got 'emu'"),
        (batches, {"validation": 0.1}, ValueError, "batches have no rows to set aside"),
        (batches, {"resume": "a.safetensors"}, TypeError, "resume: expected a run"),
        (batches, {"steps": 0}, ValueError, "steps"),
        (batches, {"epochs": 0}, portnet.DataError, "epochs=0 sees no batch"),
        (batches, {"early_stopping": portnet.EarlyStopping("validation_loss")}, ValueError, "needs validation"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(given, options, error, message):
    with pytest.raises(error, match=message):
        classifier().fit_batches(given, **options)


def test_an_error_has_the_run_so_far():
    with pytest.raises(OSError, match="gone") as caught:
        classifier().fit_batches(lambda: fails_at(2))
    expected = classifier().fit_batches(list(batches())[:2])
    assert_equal(caught.value.run.params, expected.params)
    with pytest.raises(portnet.DivergenceError, match=r"batch \d+ of epoch 1: the") as caught:
        trainer(
            model=portnet.mlp([5, 8, 1]), loss="squared_error", optimizer=portnet.SGD(1e12)
        ).fit_batches(lambda: ((x, x[:, 0]) for x, _ in [*batches()] * 5))
    assert all(np.isfinite(p).all() for p in portnet.tree.leaves(caught.value.run.params))


def test_ctrl_c_ends_after_a_step(default_sigint_handler):
    def interrupts():
        for i, batch in enumerate(batches()):
            if i == 3:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with pytest.warns(UserWarning, match="interrupted in epoch 1, which does not count"):
        run = classifier().fit_batches(interrupts)
    assert (run.epoch, run.step) == (0, 0)
    assert run.stopped
    expected = classifier().fit_batches(list(batches())[:4])
    assert_equal(run.params, expected.params)
    assert not math.isnan(expected.history["loss"][0])


def test_lbfgs_is_refused():
    with pytest.raises(ValueError, match="LBFGS needs all rows"):
        classifier(optimizer="lbfgs").fit_batches(batches)
