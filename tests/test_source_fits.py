"""Fits of data that are read in parts: bits, resuming, validation, weights, threads that end."""

import gc
import signal
import threading
import traceback

import numpy as np
import pytest
from custom import Square
from fits import DiedError, SendsSIGINT, assert_equal, assert_near, assert_same_run, dies_after
from sources import BATCH, LABELS, ROWS, Sliced, X, mapped, order_as_defined, plan, small_windows

import portnet
from portnet import rng
from portnet.data.sources import order, reading

pytestmark = pytest.mark.usefixtures("small_windows")
small_windows = small_windows
NET = portnet.mlp([5, 8, 3])


def trainer(model=NET, **options):
    given = {"optimizer": "adam", "batch_size": BATCH, "seed": 3} | options
    return portnet.Trainer(model, given.pop("loss", "softmax_cross_entropy"), **given)


@pytest.fixture
def source(tmp_path):
    return mapped(tmp_path, X, "X"), mapped(tmp_path, LABELS, "y")


@pytest.fixture
def in_order_of_source(monkeypatch):
    """Let fits in memory take the rows in the order of a source."""

    def set_plan(plan):
        monkeypatch.setattr(
            rng, "order", lambda seed, epoch, n: order_as_defined(plan, seed, epoch)
        )

    return set_plan


def threads():
    return [t.name for t in threading.enumerate() if t.name == "portnet windows"]


# The bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_fit_has_the_bits_of_a_fit_in_memory_of_rows_in_that_order(
    source, in_order_of_source, dropout, compiled
):
    of_net = trainer(portnet.mlp([5, 8, 3], dropout=dropout), compile=compiled)
    run = of_net.fit(*source, epochs=3)
    assert plan().windows > 4
    assert not threads()
    in_order_of_source(plan())
    other = of_net.fit(X, LABELS, epochs=3)
    assert_same_run(run, other)


def test_machine_code_has_the_same_bits(source, in_order_of_source, compile_at_first_call):
    of_net = trainer(portnet.mlp([5, 8, 3], dropout=0.2))
    run = of_net.fit(*source, epochs=3)
    in_order_of_source(plan())
    assert_same_run(run, of_net.fit(X, LABELS, epochs=3))


@pytest.mark.parametrize("float_name", ["float32", "float64"])
def test_fit_on_other_backends_has_the_bits_of_a_fit_in_memory(
    source, in_order_of_source, backend_name, float_name
):
    of_net = trainer(portnet.mlp([5, 8, 3], dropout=0.3))
    with portnet.use_backend(backend_name, dtype=float_name):
        run = of_net.fit(*source, epochs=2)
        row_bytes = 24 if float_name == "float32" else 48
        in_order_of_source(plan(row_bytes=row_bytes))
        other = of_net.fit(X, LABELS, epochs=2)
        assert run.backend.name == backend_name
    assert_same_run(run, other)


def test_no_shuffle_and_full_shuffle_are_those_of_memory(source):
    for how in (False, "full"):
        run = trainer(shuffle=how).fit(*source, epochs=2)
        assert_same_run(run, trainer(shuffle=how).fit(X, LABELS, epochs=2))
    again = trainer(shuffle="full").fit(X, LABELS, epochs=2)
    assert_same_run(again, trainer(shuffle=True).fit(X, LABELS, epochs=2))


def test_a_small_source_is_trained_on_as_in_memory(source, monkeypatch):
    monkeypatch.setattr(reading, "SMALL", 1 << 26)
    run = trainer(batch_size=None).fit(*source, epochs=2, validation=0.1, metrics=["accuracy"])
    other = trainer(batch_size=None).fit(X, LABELS, epochs=2, validation=0.1, metrics=["accuracy"])
    assert_same_run(run, other)


def test_sources_of_every_kind_give_the_same_bits(source):
    run = trainer().fit(*source, epochs=1)
    for given in [
        (Sliced(X), Sliced(LABELS)),
        (source[0], LABELS),
        (Sliced(X), LABELS.tolist()),
        (Sliced(X.astype("float64")), LABELS.astype("int8")),
    ]:
        assert_same_run(run, trainer().fit(*given, epochs=1))


def test_parts_of_memory_maps_are_read_from_their_place_in_the_file(tmp_path):
    wide = np.vstack([np.full((7, 5), np.nan, "float32"), X, np.full((9, 5), np.nan, "float32")])
    part = mapped(tmp_path, wide, "wide")[7:-9]
    run = trainer().fit(part, LABELS, epochs=1)
    assert_same_run(run, trainer().fit(Sliced(X), LABELS, epochs=1))


def test_each_row_is_read_once_in_an_epoch_and_chunks_as_a_whole():
    x = Sliced(X, chunks=(32, 5))
    x.slices.clear()
    trainer().fit(x, LABELS, epochs=2)
    assert all(start % 32 == 0 or stop % 32 == 0 for start, stop in x.slices[-20:])
    x.slices.clear()
    trainer().fit(x, LABELS, epochs=0)
    before = sum(b - a for a, b in x.slices)
    x.slices.clear()
    trainer().fit(x, LABELS, epochs=2)
    assert sum(b - a for a, b in x.slices) == before + 2 * ROWS


# Going on -----------------------------------------------------------------------------------------


def interrupting(at, **options):
    net = portnet.Chain([portnet.Dense(8), SendsSIGINT(), portnet.Dropout(0.2), portnet.Dense(3)])
    SendsSIGINT.at, SendsSIGINT.times = at, 1
    return trainer(net, compile=False, **options)


AT = [*((at, True) for at in (1, 16, 17, 40, 188, 189, 190, 250, 378)), (40, "full"), (40, False)]


@pytest.mark.parametrize(("at", "shuffle"), AT)
def test_interrupted_at_any_step_and_continued_gives_the_same_bits(
    source, at, shuffle, default_sigint_handler
):
    whole = interrupting(at=0, shuffle=shuffle).fit(*source, epochs=2)
    with pytest.warns(UserWarning, match="interrupted after"):
        half = interrupting(at, shuffle=shuffle).fit(*source, epochs=2)
    assert not threads()
    assert (half.epoch, half.step) == divmod(at, -(-ROWS // BATCH))
    SendsSIGINT.at = 0
    if half.epoch < 2:
        half = half.fit(*source, epochs=2 - half.epoch)
    assert_equal(half.params, whole.params)
    assert half.history == whole.history


def test_a_fit_that_died_goes_on_from_its_checkpoint_with_the_same_bits(
    source, tmp_path, monkeypatch
):
    path = tmp_path / "run.safetensors"
    options = {"epochs": 3, "checkpoint": path, "every": "70 steps", "metrics": ["accuracy"]}
    whole = trainer().fit(*source, epochs=3, metrics=["accuracy"])
    for writes in (2, 3):
        with monkeypatch.context() as patched:
            dies_after(patched, writes)
            with pytest.raises(DiedError):
                trainer().fit(*source, **options, resume=True)
        assert not threads()
    run = trainer().fit(*source, **options, resume=True)
    assert_same_run(run, whole)


def test_a_checkpoint_of_other_data_or_of_another_plan_is_refused(source, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    trainer().fit(*source, epochs=1, checkpoint=path)
    other = X.copy()
    other[0, 0] += 1
    with pytest.raises(portnet.ResumeMismatchError, match=r"data\.X\.crc32"):
        trainer().fit(mapped(tmp_path, other), source[1], epochs=2, resume=path)
    with pytest.raises(portnet.ResumeMismatchError, match=r"data\.X\.shape"):
        trainer().fit(Sliced(X[:-1]), LABELS[:-1], epochs=2, resume=path)


def test_an_interrupted_epoch_with_another_plan_is_refused(
    source, monkeypatch, default_sigint_handler
):
    with pytest.warns(UserWarning, match="interrupted"):
        half = interrupting(at=30).fit(*source, epochs=2)
    SendsSIGINT.at = 0
    monkeypatch.setattr(order, "WINDOW", 512 * 24)
    with pytest.raises(portnet.DataError, match="windows of 256, and continues with the same only"):
        half.fit(*source, epochs=2)


def test_epochs_yields_runs_that_can_be_continued(source):
    whole = trainer().fit(*source, epochs=3)
    runs = []
    for run in trainer().epochs(*source, epochs=3):
        runs.append(run)
        if len(runs) == 1:
            assert threads()
            break
    del run
    gc.collect()
    assert not threads()
    assert_same_run(runs[0].fit(*source, epochs=2), whole)


# What fit can do besides ---------------------------------------------------------------------------


def test_early_stopping_plateau_and_callbacks_work(source):
    seen = []
    run = trainer(optimizer=portnet.Adam(0.05)).fit(
        *source,
        epochs=40,
        validation=0.2,
        metrics=["accuracy", "f1_macro"],
        early_stopping=portnet.EarlyStopping(patience=3),
        reduce_on_plateau=portnet.ReduceOnPlateau(patience=1),
        callbacks=[seen.append, portnet.Diagnose()],
        verbose=False,
    )
    assert "early stopping" in run.stopped
    assert len(seen) < 40
    assert run.history["scale"][-1] < 1
    assert min(run.history["validation_accuracy"]) > 0.9
    assert not threads()
    before = np.argmin(run.history["validation_loss"]) + 1
    assert run.best_epoch == before


def test_a_fraction_is_held_out_and_not_trained_on():
    seen, marked = set(), np.column_stack([np.arange(ROWS) / 1024, X[:, 1:]]).astype("float32")

    class Marks(Square):
        def forward(self, params, x, key=None):
            if key is not None:
                seen.update((1024 * x[:, 0]).astype(int).tolist())
            return super().forward(params, x, key)

    net = portnet.Chain([Marks(), portnet.Dense(3)])
    trainer(net, compile=False, optimizer=portnet.SGD(1e-9)).fit(
        Sliced(marked), LABELS, epochs=2, validation=0.25
    )
    assert abs(len(seen) / ROWS - 0.75) < 0.01
    left = [{int(LABELS[r]) for r in rows} for rows in (seen, set(range(ROWS)) - seen)]
    assert left == [{0, 1, 2}, {0, 1, 2}]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "loss", ["softmax_cross_entropy", portnet.SoftmaxCrossEntropy(reduction="sum")]
)
def test_evaluation_in_parts_is_that_of_all_rows(source, loss, weighted, monkeypatch):
    monkeypatch.setattr(reading, "PART", 700 * 20)
    run = trainer(loss=loss).fit(X, LABELS, epochs=1)
    names = ["accuracy", "log_loss", "balanced_accuracy", "f1_macro", "top_k_accuracy"]
    weight = np.where(np.arange(ROWS) < 800, 0.0, np.arange(ROWS) % 7) if weighted else None
    found = run.evaluate(*source, weight, metrics=names)
    expected = run.evaluate(X, LABELS, weight, metrics=names)
    assert list(found) == list(expected) == ["loss", *names]
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    assert run.score(*source) == pytest.approx(run.score(X, LABELS))
    assert run.evaluate(X, source[1]) == run.evaluate(X, LABELS)
    run.diagnose(*source)


def test_predictions_of_a_source_are_those_of_its_rows(source, backend_name, monkeypatch):
    monkeypatch.setattr(reading, "PART", 700 * 20)
    names = np.array(["ant", "bee", "cat"])
    with portnet.use_backend(backend_name):
        run = trainer().fit(X, names[LABELS], epochs=1)
        for method in ("predict", "predict_proba"):
            found = getattr(run, method)(source[0])
            assert type(found) is np.ndarray
            np.testing.assert_allclose(found, getattr(run, method)(X), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run.predict_class(source[0]), run.predict_class(X))


def test_metrics_of_all_training_rows_are_those_of_memory(source):
    run = trainer().fit(*source, epochs=2, metrics=["accuracy", "roc_auc_ovr"])
    found = run.evaluate(X, LABELS)
    for name in ("accuracy", "roc_auc_ovr"):
        assert run.history[name][-1] == pytest.approx(found[name], rel=1e-5)


def test_text_labels_weights_and_class_weights_give_the_fit_in_memory(
    source, in_order_of_source, tmp_path
):
    names = np.array(["ant", "bee", "cat"])[LABELS]
    weight = (np.arange(ROWS) % 5).astype("float64")
    options = {"epochs": 2, "class_weight": "balanced"}
    found = trainer().fit(
        source[0], mapped(tmp_path, names), sample_weight=mapped(tmp_path, weight, "w"), **options
    )
    in_order_of_source(plan(row_bytes=28))
    expected = trainer().fit(X, names, sample_weight=weight, **options)
    assert found.classes.tolist() == ["ant", "bee", "cat"]
    assert_near(found.params, expected.params, 1e-5)
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-5)


def test_regression_with_several_outputs_and_a_mapped_y(tmp_path, in_order_of_source):
    Y = np.column_stack([X[:, 0] + X[:, 1], X[:, 2]]).astype("float32")
    of_two = trainer(portnet.mlp([5, 8, 2]), loss="squared_error")
    run = of_two.fit(mapped(tmp_path, X), mapped(tmp_path, Y, "y"), epochs=2, metrics=["r2"])
    in_order_of_source(plan(row_bytes=28))
    assert_equal(run.params, of_two.fit(X, Y, epochs=2).params)
    assert run.history["r2"][-1] == pytest.approx(run.score(X, Y), rel=1e-5)


def test_a_validation_set_may_be_a_source(source):
    run = trainer().fit(*source, epochs=2, validation=source, metrics=["accuracy"])
    plain = trainer().fit(*source, epochs=2, validation=(X, LABELS), metrics=["accuracy"])
    for name, numbers in run.history.items():
        np.testing.assert_allclose(numbers, plain.history[name], rtol=1e-5)


def test_explain_and_find_learning_rate_take_sources(source, capsys):
    trainer().explain(*source)
    assert "replayed" in capsys.readouterr().out
    portnet.find_learning_rate(trainer(), *source, steps=20, tests=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": None}, "batch_size=None needs all rows in each step"),
        ({"optimizer": "lbfgs"}, "LBFGS needs all rows in each step"),
    ],
)
def test_what_needs_all_rows_takes_memory_maps_and_refuses_other_sources(source, options, message):
    with pytest.raises(portnet.DataError, match=message):
        trainer(**options).fit(Sliced(X), LABELS, epochs=1)
    run = trainer(**options).fit(*source, epochs=2)
    assert_same_run(run, trainer(**options).fit(X, LABELS, epochs=2))


def test_full_shuffle_of_what_cannot_be_read_row_by_row_is_refused():
    with pytest.raises(portnet.DataError, match=r'"full" reads single rows.*to_npy'):
        trainer(shuffle="full").fit(Sliced(X), LABELS, epochs=1)


def test_sorted_rows_warn_once(tmp_path):
    rows = np.argsort(LABELS, kind="stable")
    x, y = mapped(tmp_path, X[rows]), mapped(tmp_path, LABELS[rows], "y")
    with pytest.warns(UserWarning, match="all of one class: the source is sorted") as caught:
        trainer(shuffle=False).fit(x, y, epochs=2)
    assert len(caught) == 1
    trainer().fit(x, y, epochs=1)  # blocks from all over the file
    trainer(shuffle="full").fit(x, y, epochs=1)


# Threads ------------------------------------------------------------------------------------------


class Failing(Sliced):
    """A source that fails from its n-th slice on."""

    def __init__(self, a, at):
        super().__init__(a)
        self.at = at

    def __getitem__(self, rows):
        self.at -= 1
        if self.at < 0:
            return self.broken()
        return super().__getitem__(rows)

    def broken(self):
        raise OSError("the disk is gone")


def slices_before_training():
    x = Sliced(X)
    trainer().fit(x, LABELS, epochs=0)
    return len(x.slices)


def test_an_error_in_the_thread_is_raised_with_its_traceback_and_the_run(source):
    at = slices_before_training() + 250  # in the second epoch
    with pytest.raises(portnet.DataError, match=r"X: rows \d+ to \d+ of the Failing") as e:
        trainer().fit(Failing(X, at), LABELS, epochs=5)
    assert "cannot be read: OSError: the disk is gone" in str(e.value)
    frames = [f.name for f in traceback.extract_tb(e.value.__cause__.__traceback__)]
    assert "broken" in frames
    assert "_fill" in [f.name for f in traceback.extract_tb(e.value.__traceback__)]
    assert not threads()
    assert_same_run(e.value.run, trainer().fit(*source, epochs=e.value.run.epoch))


def test_an_error_in_a_callback_ends_the_thread(source):
    def fails(report):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trainer().fit(*source, epochs=3, callbacks=[fails])
    assert not threads()


def test_ctrl_c_while_one_waits_for_rows_ends_the_fit(default_sigint_handler):
    waiting, go_on = threading.Event(), threading.Event()

    class Slow(Failing):
        def broken(self):
            if not waiting.is_set():
                waiting.set()
                threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
                threading.Timer(1.0, go_on.set).start()
            go_on.wait()
            self.at = 10**9
            return np.array(X[:0])

    with pytest.warns(UserWarning, match="training was interrupted after"):
        run = trainer().fit(Slow(X, slices_before_training() + 100), LABELS, epochs=3)
    assert waiting.is_set()
    assert run.stopped
    assert not threads()


def test_divergence_is_reported_with_its_step(source):
    wild = trainer(portnet.mlp([5, 8, 1]), loss="squared_error", optimizer=portnet.SGD(1e9))
    y = X[:, 0]
    with pytest.raises(portnet.DivergenceError, match="in epoch 1, step") as found:
        wild.fit(source[0], y, epochs=2)
    assert not threads()
    step = int(str(found.value).split("step ")[1].split(".")[0])
    assert 1 < step < 20
