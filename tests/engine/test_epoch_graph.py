"""Whole trainings as graphs, replayed on a CPU by the device for tests."""

import os
import signal
import warnings
from collections import OrderedDict

import numpy as np
import pytest
from cpu_device import CPUDevice, needs_gxx
from sources import Sliced, small_windows

import portnet
from portnet import tree
from portnet.backend import Backend
from portnet.compiler import CompileWarning
from portnet.compiler.cuda import selftest
from portnet.compiler.errors import EagerError
from portnet.data.dataset import Dataset
from portnet.engine import compile_cache, epoch_graph
from portnet.engine.epoch import EpochExecutor
from portnet.engine.epoch_state import Epochs, EpochState
from portnet.engine.loss_sums import read_sums
from portnet.engine.packing import unpacked

if os.environ.get("PORTNET_TESTS") == "eager":
    pytest.skip("PORTNET_TESTS=eager: no step is compiled", allow_module_level=True)

pytestmark = needs_gxx
small_windows = small_windows
RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 3, 100)
X = RNG.standard_normal((100, 6)) + RNG.standard_normal((3, 6))[LABELS]
TARGETS = X @ RNG.standard_normal((6, 2))
WEIGHT = RNG.uniform(0.5, 2.0, 100)
NET = portnet.mlp([6, 9, 3])


class Graphs:
    """What the fits of a test did on their devices."""

    def __init__(self):
        self.devices, self.steps, self.on = [], [], True
        self.captured = True  # else steps run call by call

    def device(self, tf32=False):
        self.devices.append(CPUDevice(len(self.devices), ("-O0",)))
        return self.devices[-1]

    def step(self, *args):
        self.steps.append(DEVICE_STEP(*args))
        if not self.captured:
            self.steps[-1].capture = lambda: None
        return self.steps[-1]

    def eagerly(self, function):
        """Return what a function returns where nothing is compiled for a device."""
        self.on = False
        try:
            return function()
        finally:
            self.on = True


DEVICE_STEP = epoch_graph.DeviceStep


@pytest.fixture
def graphs(monkeypatch):
    made = Graphs()
    monkeypatch.setattr(Backend, "compiler", property(lambda self: "graph" if made.on else ""))
    monkeypatch.setattr(selftest, "device_for", made.device)
    monkeypatch.setattr(epoch_graph, "DeviceStep", made.step)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        yield made
    for device in made.devices:
        device.check()
        assert device.recording is None, "a stream was left capturing"


@pytest.fixture(autouse=True)
def _float64():
    with portnet.use_backend("numpy", dtype="float64"):
        yield


def trainer(**options):
    given = {"model": NET, "optimizer": portnet.Adam(0.01), "batch_size": 16, "seed": 1} | options
    loss = given.pop("loss", "softmax_cross_entropy")
    return portnet.Trainer(given.pop("model"), loss, **given)


def assert_near(a, b, tolerance=1e-10):
    for p, q in zip(tree.leaves(a.params), tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)
    assert list(a.history) == list(b.history)
    for name, numbers in a.history.items():
        np.testing.assert_allclose(numbers, b.history[name], rtol=tolerance, atol=tolerance)
    assert (a.epoch, a.step, a.best_epoch) == (b.epoch, b.step, b.best_epoch)


def assert_same(a, b):
    for p, q in zip(tree.leaves(a.params), tree.leaves(b.params), strict=True):
        np.testing.assert_array_equal(p, q)
    assert a.history == b.history


def check(graphs, make, y=LABELS, epochs=3, X=X, **options):
    """Fail unless a fit by graphs is near an eager one; return it."""
    options = {"progress": False, "epochs": epochs} | options
    run = make().fit(X, y, **options)
    assert graphs.steps, "there was no graph"
    assert all(step.graph is not None for step in graphs.steps)
    assert_near(run, graphs.eagerly(lambda: make().fit(X, y, **options)))
    return run


CASES = {
    "ragged": ({}, {}),
    "one row is left": ({"batch_size": 33}, {}),
    "no batch is short": ({"batch_size": 20}, {}),
    "in order": ({"shuffle": False}, {}),
    "in order, one row is left": ({"shuffle": False, "batch_size": 33}, {}),
    "larger than the data": ({"batch_size": 1000}, {}),
    "whole": ({"batch_size": None}, {}),
    "batches of one row": ({"batch_size": 1}, {"epochs": 1}),
    "schedule": ({"optimizer": portnet.Adam(portnet.CosineDecay(0.05, steps=30, warmup=4))}, {}),
    "plateau": (
        {"optimizer": portnet.SGD(0.05)},
        {
            "reduce_on_plateau": portnet.ReduceOnPlateau(patience=1, min_change=0.05),
            "epochs": 12,
            "validation": 0.3,
        },
    ),
    "dropout": ({"model": portnet.mlp([6, 9, 8, 3], dropout=0.4)}, {"epochs": 4}),
    "dropout in order": (
        {"model": portnet.mlp([6, 9, 3], dropout=0.4), "shuffle": False},
        {"epochs": 4},
    ),
    "weights": ({}, {"sample_weight": WEIGHT}),
    "class weights": ({"shuffle": False}, {"class_weight": "balanced"}),
    "validation": ({}, {"validation": 0.25, "metrics": ["accuracy"], "early_stopping": True}),
    "norm": ({"model": portnet.mlp([6, 9, 3], "tanh", norm="layer")}, {}),
    "momentum": ({"optimizer": portnet.Momentum(0.05)}, {}),
    "adamw": ({"optimizer": portnet.AdamW(0.01)}, {}),
    "clipped": (
        {
            "optimizer": portnet.transforms.chain(
                portnet.transforms.ClipNorm(0.1), portnet.Adam(0.01)
            )
        },
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fit_is_near_an_eager_one(graphs, name):
    of_trainer, of_fit = CASES[name]
    run = check(graphs, lambda: trainer(**of_trainer), **of_fit)
    if name == "plateau":
        assert run._scale < 1


@pytest.mark.parametrize(
    "loss", ["squared_error", "absolute_error", "huber", "poisson", "sigmoid_cross_entropy"]
)
def test_other_losses(graphs, loss):
    y = {"poisson": np.abs(TARGETS).round(), "sigmoid_cross_entropy": (TARGETS > 0) * 1.0}
    net = portnet.mlp([6, 9, 2])
    check(graphs, lambda: trainer(loss=loss, model=net), y.get(loss, TARGETS), epochs=2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_200_replays_have_the_bits_of_200_uncaptured_steps(graphs, dtype):
    make = {"batch_size": 10, "model": portnet.mlp([6, 9, 3], dropout=0.2)}
    data = X.astype(dtype)
    with portnet.use_backend("numpy", dtype=dtype):
        run = trainer(**make).fit(data, LABELS, epochs=20, progress=False)
        assert all(step.graph is not None for step in graphs.steps)
        graphs.captured = False
        uncaptured = trainer(**make).fit(data, LABELS, epochs=20, progress=False)
        assert graphs.steps[-1].graph is None
    assert_same(run, uncaptured)
    assert run.history["loss"][-1] < run.history["loss"][0]


def test_two_fits_take_turns(graphs):
    """Each has its own memory, though they share their plans."""

    def both():
        left, right = trainer(), trainer(seed=2, optimizer=portnet.Adam(0.01))
        a = left.fit(X, LABELS, epochs=1, progress=False)
        b = right.fit(X[:60], LABELS[:60], epochs=1, progress=False)
        for _ in range(2):
            a = a.fit(X, LABELS, epochs=1, progress=False)
            b = b.fit(X[:60], LABELS[:60], epochs=1, progress=False)
        return a, b

    for got, expected in zip(both(), graphs.eagerly(both), strict=True):
        assert_near(got, expected)


def test_a_fit_within_a_fit(graphs):
    """A callback trains another network with the same plan."""

    def fit():
        inner = []

        def callback(report):
            inner.append(trainer(seed=7).fit(X, LABELS, epochs=2, progress=False))

        outer = trainer().fit(X, LABELS, epochs=3, progress=False, callbacks=[callback])
        return outer, *inner

    for got, expected in zip(fit(), graphs.eagerly(fit), strict=True):
        assert_near(got, expected)


def test_going_on_equals_not_having_stopped(graphs):
    whole = trainer().fit(X, LABELS, epochs=5, progress=False)
    part = trainer().fit(X, LABELS, epochs=2, progress=False)
    before = [p.copy() for p in tree.leaves(part.params)]
    assert_same(part.fit(X, LABELS, epochs=3, progress=False), whole)
    assert_same(trainer().fit(X, LABELS, epochs=3, progress=False, resume=part), whole)
    for p, q in zip(tree.leaves(part.params), before, strict=True):
        np.testing.assert_array_equal(p, q, "a run changed when another went on from it")


def test_a_run_and_its_reports_do_not_change_later(graphs):
    kept = []

    def callback(report):
        params = tree.leaves(report.run.params)
        kept.append((params, [p.copy() for p in params]))

    trainer().fit(X, LABELS, epochs=4, progress=False, callbacks=[callback])
    assert len(kept) == 4
    for params, copies in kept:
        for p, q in zip(params, copies, strict=True):
            np.testing.assert_array_equal(p, q)


# Interrupts and errors ----------------------------------------------------------------------------


def test_an_interrupt_from_a_callback_ends_the_fit(graphs):
    def callback(report):
        if report.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.warns(UserWarning, match="interrupted"):
            part = trainer().fit(X, LABELS, epochs=5, progress=False, callbacks=[callback])
    finally:
        signal.signal(signal.SIGINT, before)
    done = part.epoch + part.step / 7
    assert 2 <= done < 5
    rest = 5 - part.epoch
    assert_same(
        part.fit(X, LABELS, epochs=rest, progress=False),
        trainer().fit(X, LABELS, epochs=5, progress=False),
    )


@pytest.mark.parametrize("call", [1, 2, 5, 8, 15])
def test_an_interrupt_within_a_replay_counts_the_finished_steps(graphs, monkeypatch, call):
    """Another handler raises at once: the device has counted the steps."""
    whole = trainer().fit(X, LABELS, epochs=5, progress=False)
    count = 0

    def replay(self, graph):
        nonlocal count
        count += 1
        CPUDevice_replay(self, graph)
        if count == call:
            raise KeyboardInterrupt

    CPUDevice_replay = CPUDevice.replay
    with monkeypatch.context() as patch:
        patch.setattr(CPUDevice, "replay", replay)
        with pytest.warns(UserWarning, match="interrupted"):
            part = trainer().fit(X, LABELS, epochs=5, progress=False)
    assert part.epoch * 7 + part.step == call
    assert_same(part.fit(X, LABELS, epochs=5 - part.epoch, progress=False), whole)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_between_epochs_counts_the_finished_steps(graphs, monkeypatch, call, after):
    """It is raised where the host prepares the next epoch, before or after it has done so."""
    epochs = 8
    whole = trainer().fit(X, LABELS, epochs=epochs, progress=False)
    begin, calls = epoch_graph._Steps.begin, []

    def interrupted(self, *args):
        calls.append(args[1])
        if len(calls) != call:
            return begin(self, *args)
        if after:
            begin(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # Several epochs are made in one call.
        patch.setattr(
            portnet.engine.epoch.EpochExecutor, "epochs_at_once", lambda self, *given: epochs
        )
        patch.setattr(epoch_graph._Steps, "begin", interrupted)
        with pytest.warns(UserWarning, match="interrupted"):
            part = trainer().fit(X, LABELS, epochs=epochs, progress=False)
    assert part.epoch == call - 1
    assert part.step == 0
    assert_same(part.fit(X, LABELS, epochs=epochs - part.epoch, progress=False), whole)


def test_divergence_is_found_at_its_step(graphs):
    def at():
        with pytest.raises(portnet.DivergenceError) as caught:
            trainer(
                optimizer=portnet.SGD(1e200), loss="squared_error", model=portnet.mlp([6, 2])
            ).fit(X, TARGETS, epochs=5, progress=False)
        return str(caught.value)

    assert at() == graphs.eagerly(at)


def test_an_exception_in_a_capture_leaves_no_stream_capturing(graphs, monkeypatch):
    launch, count = CPUDevice.launch, []

    def fails(self, *args):
        count.append(0)
        if len(count) == 4:
            raise MemoryError("out of memory")
        launch(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(CPUDevice, "launch", fails)
        with pytest.raises(MemoryError, match="out of memory"):
            trainer().fit(X, LABELS, epochs=2, progress=False)
    assert graphs.devices[-1].recording is None
    graphs.steps.clear()
    check(graphs, trainer)  # and the next fit is as ever


def test_what_a_capture_forbids_raises():
    device = CPUDevice()
    array, host = device.empty(8), np.zeros(1)
    for forbidden in (
        lambda: device.empty(8),
        lambda: device.put(array, host),
        lambda: device.get(array, host),
        lambda: device.compile(""),
        device.wait,
    ):
        with pytest.raises(RuntimeError, match="capturing"):
            device.capture(forbidden)
        assert device.recording is None


def test_a_graph_of_a_closed_executor_is_not_used_again(graphs):
    run = trainer().fit(X, LABELS, epochs=1, progress=False)
    first = len(graphs.steps)
    for step in graphs.steps:
        for make in (step.run, step.replay, step.capture):
            with pytest.raises(RuntimeError, match="the step was closed"):
                make()
    run.fit(X, LABELS, epochs=1, progress=False)
    assert len(graphs.steps) == 2 * first


def test_where_there_is_no_device_a_fit_is_eager_with_one_warning(graphs, monkeypatch):
    def none(tf32):
        raise EagerError("the self-test of CUDA graphs failed: capturing: no")

    monkeypatch.setattr(selftest, "device_for", none)
    with pytest.warns(CompileWarning, match="training runs eagerly: the self-test") as caught:
        run = trainer().fit(X, LABELS, epochs=2, progress=False)
    assert len(caught) == 1
    assert_same(run, graphs.eagerly(lambda: trainer().fit(X, LABELS, epochs=2, progress=False)))


def test_compile_false_is_eager(graphs):
    trainer(compile=False).fit(X, LABELS, epochs=2, progress=False)
    assert not graphs.steps


def test_arrays_that_were_changed_in_place_are_read_again(graphs):
    """Arrays in the order of Fortran are copied, and copied again in each call."""
    for order in ("C", "F"):
        results = []
        for on in (True, False):
            graphs.on = on
            data = np.array(X[:40], order=order)
            y, params = LABELS[:40].copy(), portnet.init(NET, 6, seed=1)
            loss, optimizer = portnet.SoftmaxCrossEntropy(), portnet.Adam(0.01)
            executor = EpochExecutor(portnet.make_step, (NET, loss, optimizer), True)
            dataset = Dataset(portnet.get_backend(), data, y, None)
            state = EpochState(params, optimizer.init(params), np.zeros(2))
            for k in range(3):
                data[...], y[...] = X[20 * k : 20 * k + 40], LABELS[20 * k : 20 * k + 40]
                start = state._replace(done=0, sums=np.zeros(2), before=())
                state = executor.run(start, Epochs(dataset, 16))
            results.append(tree.leaves((unpacked(state.params), read_sums([state.sums], [])[0])))
            executor.close()
        graphs.on = True
        for p, q in zip(*results, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-10, atol=1e-10)


# Estimators ---------------------------------------------------------------------------------------


def estimators():
    pytest.importorskip("sklearn")
    return portnet.MLPClassifier, portnet.MLPRegressor


def close(a, b, tolerance=1e-10):
    for p, q in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_], strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)
    assert a.n_iter_ == b.n_iter_
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=tolerance)


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn may be missing
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("kind", [0, 1])
def test_estimators(graphs, solver, kind):
    made = estimators()[kind]
    y = [LABELS, TARGETS][kind]

    def fit():
        net = made(
            hidden_layer_sizes=(7,),
            solver=solver,
            max_iter=4,
            batch_size=16,
            random_state=0,
            alpha=0.01,
        )
        return net.fit(X, y)

    net = fit()
    assert graphs.steps
    close(net, graphs.eagerly(fit))


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn may be missing
def test_early_stopping_of_an_estimator(graphs):
    def fit():
        made = estimators()[0]
        return made(
            hidden_layer_sizes=(7,), early_stopping=True, max_iter=8, random_state=0, batch_size=16
        ).fit(X, LABELS)

    net = fit()
    assert graphs.steps
    close(net, graphs.eagerly(fit))


@pytest.mark.parametrize("order", ["C", "F"])
def test_partial_fit_on_chunks_of_several_sizes(graphs, order):
    made = estimators()[0]

    def fit():
        net = made(hidden_layer_sizes=(7,), random_state=0, batch_size=16)
        for begin, end in ((0, 40), (40, 80), (0, 40), (80, 97), (80, 100), (40, 80)):
            chunk = np.array(X[begin:end], order=order)
            net.partial_fit(chunk, LABELS[begin:end], classes=[0, 1, 2])
        return net

    net = fit()
    assert graphs.steps
    close(net, graphs.eagerly(fit))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_partial_fit_sees_a_chunk_that_was_changed_in_place(graphs, order, shuffle):
    made = estimators()[0]

    def fit():
        net = made(hidden_layer_sizes=(7,), random_state=0, batch_size=16, shuffle=shuffle)
        chunk, y = np.array(X[:40], order=order), LABELS[:40].copy()
        for k in range(3):
            chunk[...] = X[20 * k : 20 * k + 40]
            y[...] = LABELS[20 * k : 20 * k + 40]
            net.partial_fit(chunk, y, classes=[0, 1, 2])
        return net

    net = fit()
    assert graphs.steps
    close(net, graphs.eagerly(fit))


def test_a_chunk_that_no_kernel_can_do_is_trained_eagerly(graphs, monkeypatch):
    """The call that finds this warns once, and goes on; so do the calls after it."""
    made = estimators()[0]
    monkeypatch.setattr(compile_cache, "_kept", OrderedDict())  # other tests have made such plans

    def fit():
        net = made(hidden_layer_sizes=(7,), random_state=0, batch_size=16)
        net.partial_fit(X[:32], LABELS[:32], classes=[0, 1, 2])
        with monkeypatch.context() as patch:
            patch.setattr(epoch_graph, "device_plan", refused)
            if graphs.on:
                with pytest.warns(CompileWarning, match="eagerly: no kernel for it") as caught:
                    net.partial_fit(X[:40], LABELS[:40])
                assert len(caught) == 1
            else:
                net.partial_fit(X[:40], LABELS[:40])
        return net.partial_fit(X[:32], LABELS[:32])

    def refused(*args):
        raise EagerError("no kernel for it")

    net = fit()
    assert graphs.steps
    close(net, graphs.eagerly(fit))


def test_a_compiler_that_fails_does_not_end_a_fit(graphs, monkeypatch):
    def fail(self, source):
        raise OSError("no compiler")

    monkeypatch.setattr(CPUDevice, "compile", fail)
    with pytest.warns(CompileWarning, match="CUDA graphs cannot be made: OSError: no compiler"):
        run = trainer().fit(X, LABELS, epochs=2, progress=False)
    assert run.epoch == 2


def test_a_fit_of_windows_is_near_an_eager_one_and_keeps_its_graphs(graphs, small_windows):
    x, y = np.tile(X, (20, 1))[:-10], np.tile(LABELS, 20)[:-10]
    of_net = trainer(model=portnet.mlp([6, 9, 3], dropout=0.3))
    run = of_net.fit(Sliced(x), y, epochs=3)
    assert len(graphs.steps) == 3  # of full batches in two sizes of windows, and of the last one
    assert_near(run, graphs.eagerly(lambda: of_net.fit(Sliced(x), y, epochs=3)))


def test_explain_says_what_each_kind_of_step_launches(graphs, capsys):
    trainer = portnet.Trainer(NET, "softmax_cross_entropy", "adam", batch_size=32)
    trainer.explain(X, LABELS)
    lines = capsys.readouterr().out.splitlines()
    heads = [n for n, line in enumerate(lines) if line.endswith("a CUDA graph")]
    assert lines[heads[0]] == "3 steps of an epoch, on 32 rows: a CUDA graph"
    assert lines[heads[1]] == "1 step of an epoch, on 4 rows: a CUDA graph"
    assert heads[0] == 0
    for head, step in zip(heads, graphs.steps, strict=True):
        count = len(step.plan.program.launches)
        assert lines[head + 1].startswith(f"{count} launches, 0 of them products by cuBLAS; buffe")
        assert all(line.startswith("  ") for line in lines[head + 2 : head + 2 + count])
    assert "  product (32, 6) @ (6, 9), by a kernel" in lines
    assert "  elements (32, 9): add, maximum" in lines
    assert lines[-1].startswith("predictions, 16,384 rows at a time at most: eager, as a forward")
    assert not any(
        d.get(s.kept["counter", 0], np.zeros(1, np.int64))[0]
        for d, s in zip(graphs.devices * 2, graphs.steps, strict=True)
    ), "a step was made"
    trainer = portnet.Trainer(portnet.mlp([200, 300, 3]), "softmax_cross_entropy", batch_size=None)
    trainer.explain(RNG.random((100, 200)), LABELS)
    text = capsys.readouterr().out
    assert text.startswith("1 step of an epoch, on 100 rows: a CUDA graph\n")
    assert "  product (100, 200) @ (200, 300), by cuBLAS\n" in text


def test_explain_says_why_there_is_no_graph(graphs, monkeypatch, capsys):
    def none(tf32=False):
        raise EagerError("CUDA graphs need cuda-core: install portnet with the extra cuda13")

    monkeypatch.setattr(selftest, "device_for", none)
    trainer = portnet.Trainer(NET, "softmax_cross_entropy", "adam", batch_size=32)
    trainer.explain(X, LABELS)
    assert capsys.readouterr().out.startswith(
        "each step runs eagerly, operation by operation: CUDA graphs need cuda-core: install"
    )
