"""Epochs inside machine code: the same bits as steps made eagerly, one by one."""

import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fits import LABELS, MONITORING, X, assert_equal, assert_same_run, trainer

import portnet
from portnet import rng, tree
from portnet.backend import get_backend
from portnet.compiler import native_policy
from portnet.data.dataset import Dataset
from portnet.engine import compile_cache, epoch_scan
from portnet.engine.epoch import EpochExecutor
from portnet.engine.epoch_state import Epochs, EpochState
from portnet.engine.loss_sums import read_sums
from portnet.engine.packing import unpacked
from portnet.layers import ACTIVATIONS
from portnet.losses import LOSSES
from portnet.optimizers import OPTIMIZERS

if native_policy.why_no_machine_code():
    pytest.skip(f"no machine code: {native_policy.why_no_machine_code()}", allow_module_level=True)
if os.environ.get("PORTNET_TESTS") == "eager":
    pytest.skip("PORTNET_TESTS=eager: no step is compiled", allow_module_level=True)

from portnet.compiler.native.plan_text import plan_of
from portnet.compiler.native.scan import PlanCode

DRAW = np.random.default_rng(7)
ROWS = 23
DATA = DRAW.standard_normal((ROWS, 5))
CLASSES = DRAW.integers(0, 3, ROWS)
COUNTS = DRAW.poisson(1.0, (ROWS, 3)) + 0.5
WEIGHT = DRAW.uniform(0.5, 2, ROWS)


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """Machine code is used at once, and another process would make the same."""
    monkeypatch.setenv("PORTNET_NATIVE", "always")
    whole = PlanCode.contents

    def contents(code):
        again = PlanCode(*plan_of(code.text))
        assert again.text == code.text
        if code.lowering is None:
            assert again.lowering is None
        else:
            assert again.lowering.functions == code.lowering.functions
            made = [[c._kept(*base) for base in c.lowering.bases] for c in (again, code)]
            assert made[0] == made[1]
        return whole(code)

    monkeypatch.setattr(PlanCode, "contents", contents)


def epochs_of(data, size, count, shuffle=True, scale=None, key=True):
    rows = len(data)
    return Epochs(
        data,
        size,
        [rng.key(0, n) if key else None for n in range(count)],
        [rng.order(0, n, rows) for n in range(count)] if shuffle else None,
        scale,
    )


def run(parts, epochs, compiled, start=None, after=lambda made: False):
    """Return the state after the epochs, unpacked, and whether a scan made them."""
    executor = EpochExecutor(portnet.make_step, parts, True, compiled, planned=10**6)
    if start is None:
        params = portnet.init(parts[0], 5, seed=1, like=epochs.dataset.X)
        start = EpochState(params, parts[2].init(params), np.zeros(2))
    end = executor.run(start, epochs, after)
    scans = [scan for step in executor._steps for scan in getattr(step, "_scans", {}).values()]
    executor.close()
    *before, sums = read_sums([*end.before, end.sums], [])[0]
    end = end._replace(params=unpacked(end.params), state=unpacked(end.state))
    end = end._replace(sums=sums, before=tuple(before))
    return end, scans != [] and None not in scans


def assert_scan_equals_eager(net, loss, optimizer, size, dtype, **options):
    target = CLASSES if loss is SOFTMAX else COUNTS.astype(dtype)
    weight = WEIGHT.astype(dtype) if options.pop("weighted", False) else None
    data = Dataset(get_backend(), DATA.astype(dtype), target, weight)
    if options.pop("scaled", False):
        options["scale"] = np.asarray(0.5, dtype)
    epochs = epochs_of(data, size, 3, **options)
    (expected, _), (actual, scanned) = (
        run((net, loss, optimizer), epochs, compiled) for compiled in (False, True)
    )
    assert scanned
    assert_same_state(actual, expected)


def assert_same_state(actual, expected):
    assert tree.paths(actual) == tree.paths(expected)
    assert actual.done == expected.done
    for path, p, q in zip(tree.paths(actual), *map(tree.leaves, (actual, expected)), strict=True):
        p, q = np.asarray(p), np.asarray(q)
        assert (p.dtype, p.shape, p.tobytes()) == (q.dtype, q.shape, q.tobytes()), path


SOFTMAX = LOSSES["softmax_cross_entropy"]()
NET = portnet.mlp([5, 6, 3], "tanh", dropout=0.2, norm="layer")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 8, 22, 23, 50])
@pytest.mark.parametrize("shuffle", [True, False])
def test_epochs_in_batches_of_any_size_equal_eager_steps(size, shuffle, dtype):
    assert_scan_equals_eager(NET, SOFTMAX, portnet.Adam(), size, dtype, shuffle=shuffle)


@pytest.mark.parametrize("options", [{"weighted": True}, {"scaled": True}, {"key": False}], ids=str)
def test_weights_a_scale_or_no_key_equal_eager_steps(options):
    assert_scan_equals_eager(NET, SOFTMAX, portnet.Adam(), 8, "float32", **options)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_equals_eager_steps(name):
    assert_scan_equals_eager(portnet.mlp([5, 6, 3], name), SOFTMAX, portnet.SGD(), 8, "float32")


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_equals_eager_steps(name):
    loss = SOFTMAX if name == "softmax_cross_entropy" else LOSSES[name]()
    assert_scan_equals_eager(portnet.mlp([5, 6, 3]), loss, portnet.SGD(1e-3), 8, "float64")


OPTIMIZERS_OF_ALL_KINDS = {
    **{name: make() for name, make in OPTIMIZERS.items()},
    "schedule": portnet.SGD(portnet.CosineDecay(0.05, steps=6, warmup=2)),
    "clipped": portnet.chain(portnet.ClipNorm(0.1), portnet.AdamW(1e-2, only="W")),
}


@pytest.mark.parametrize("name", OPTIMIZERS_OF_ALL_KINDS)
def test_every_optimizer_equals_eager_steps(name):
    optimizer = OPTIMIZERS_OF_ALL_KINDS[name]
    assert_scan_equals_eager(NET, SOFTMAX, optimizer, 8, "float32")


@pytest.mark.parametrize("sizes", [[1, 1], [1, 1, 1], [1, 4, 1], [5, 1, 3], [5, 2, 1]])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_and_batches_of_one_equal_calls_of_numpy(sizes, size, dtype, monkeypatch):
    """Products of rows, columns and single elements: NumPy has a function for each."""
    x = DATA[:7, : sizes[0]].astype(dtype)
    x[x < 0.2] = -0.0
    data = Dataset(get_backend(), x, COUNTS[:7, : sizes[-1]].astype(dtype))
    net, loss = portnet.mlp(sizes, "relu"), portnet.SquaredError()
    ends = []
    for mode in ("never", "always"):
        monkeypatch.setenv("PORTNET_NATIVE", mode)
        params = portnet.init(net, seed=1, like=x)
        start = EpochState(params, portnet.SGD().init(params), np.zeros(2))
        ends.append(run((net, loss, portnet.SGD()), epochs_of(data, size, 3), True, start))
    (expected, by_calls), (actual, scanned) = ends
    assert scanned
    assert not by_calls
    assert_same_state(actual, expected)


def test_large_batches_and_wide_layers_equal_eager_steps():
    X = DRAW.standard_normal((3000, 40)).astype("float32")  # more than is copied for a call
    data = Dataset(get_backend(), X, X[:, :1] * 2)
    parts = portnet.mlp([40, 64, 1]), portnet.SquaredError(), portnet.Adam()
    for shuffle in (True, False):
        epochs = epochs_of(data, 1024, 2, shuffle=shuffle)
        params = portnet.init(parts[0], seed=1, like=X)
        start = EpochState(params, parts[2].init(params), np.zeros(2))
        (expected, _), (actual, scanned) = (run(parts, epochs, c, start) for c in (False, True))
        assert scanned
        assert_same_state(actual, expected)


class Correlation:
    """The gradient are the targets themselves."""

    def __call__(self, pred, target, weight=None):
        return portnet.namespace(pred).mean(pred * target), target


def test_targets_that_are_the_inputs_equal_calls_of_numpy(monkeypatch):
    """NumPy has a function of its own for x^T x."""
    X = DRAW.standard_normal((200, 50))
    data, parts = (
        Dataset(get_backend(), X, X),
        (portnet.mlp([50, 50]), Correlation(), portnet.SGD()),
    )
    params, ends = portnet.init(parts[0], seed=1, like=X), []
    for mode in ("never", "always"):
        monkeypatch.setenv("PORTNET_NATIVE", mode)
        start = EpochState(params, parts[2].init(params), np.zeros(2))
        ends.append(run(parts, epochs_of(data, 200, 2, shuffle=False), True, start)[0])
    assert_same_state(*ends)


# Where it begins and ends ------------------------------------------------------------------------


@pytest.fixture
def one_by_one(monkeypatch):
    """Make each compiled call a single step, so that it can be ended anywhere."""
    monkeypatch.setattr(epoch_scan, "PIECE", 0.0)


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7, 9])
def test_epochs_ended_after_any_step_go_on_from_there(stop):
    data = Dataset(get_backend(), DATA.astype("float32"), CLASSES)
    parts, epochs = (NET, SOFTMAX, portnet.Adam()), epochs_of(data, 8, 3)
    whole, _ = run(parts, epochs, True)
    made = []
    begun, scanned = run(parts, epochs, True, after=lambda n: made.append(n) or sum(made) == stop)
    assert scanned
    assert begun.made(epochs) == stop == sum(made)
    rest, _ = run(parts, epochs, True, begun)
    assert_same_state(rest, whole)


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("when", ["before", "after"])
def test_keyboard_interrupt_keeps_the_finished_steps(stop, when, monkeypatch):
    """A handler may raise at any time: the steps are counted in memory."""
    from portnet.compiler.native.scan import Scan

    data = Dataset(get_backend(), DATA.astype("float32"), CLASSES)
    parts, epochs = (NET, SOFTMAX, portnet.Adam()), epochs_of(data, 8, 3)
    whole, calls = Scan.run, []
    expected, _ = run(parts, epochs, True, after=lambda n: calls.append(n) or sum(calls) == stop)
    calls.clear()

    def interrupted(self, count):
        calls.append(count)
        if len(calls) == stop + (when == "before"):
            if when == "after":
                whole(self, count)
            raise KeyboardInterrupt
        whole(self, count)

    monkeypatch.setattr(Scan, "run", interrupted)
    with pytest.raises(KeyboardInterrupt) as error:
        run(parts, epochs, True)
    ahead = error.value.ahead
    ahead = ahead._replace(params=unpacked(ahead.params), state=unpacked(ahead.state))
    assert_same_state(ahead, expected)


@pytest.mark.parametrize("at", [1, 5, 6, 11])
def test_ctrl_c_in_epochs_of_machine_code_resumes_exactly(at, monkeypatch):
    import signal

    from portnet.compiler.native.scan import Scan

    expected = trainer().fit(X, LABELS, epochs=3, **MONITORING)
    whole, calls = Scan.run, []

    def signalled(self, count):
        calls.append(count)
        whole(self, count)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(epoch_scan, "PIECE", 0.0)
    monkeypatch.setattr(Scan, "run", signalled)
    with pytest.warns(UserWarning, match="interrupted"):
        run = trainer().fit(X, LABELS, epochs=3, **MONITORING)
    assert run.epoch * 6 + run.step == at
    assert_same_run(run.fit(X, LABELS, epochs=3 - run.epoch, **MONITORING), expected)


def test_compiled_calls_are_cut_to_a_twentieth_of_a_second(monkeypatch):
    from portnet.compiler.native.scan import Scan

    whole, counts = Scan.run, []

    def counted(self, count):
        counts.append(count)
        whole(self, count)
        self.seconds = 0.02  # as if a step took so long

    monkeypatch.setattr(Scan, "run", counted)
    trainer().fit(X, LABELS, epochs=4)
    assert counts[0] == 1
    assert set(counts) <= {1, 2}


def test_sums_of_a_block_of_epochs_are_not_those_of_the_block_before():
    data = Dataset(get_backend(), DATA.astype("float32"), CLASSES)
    executor = EpochExecutor(
        portnet.make_step, (NET, SOFTMAX, portnet.Adam()), True, True, planned=10**6
    )
    params = portnet.init(NET, 5, seed=1, like=data.X)
    start = EpochState(params, portnet.Adam().init(params), np.zeros(2))
    sums = []
    for _ in range(2):  # the same three epochs twice, in the buffers of one scan
        end = executor.run(start, epochs_of(data, 8, 3))
        sums.append(np.array([*end.before, end.sums]))
    executor.close()
    np.testing.assert_array_equal(*sums)


# What is scanned ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [np.asfortranarray(DATA), DATA[::-1], DATA[:, ::2], DATA.astype(">f8").astype("f8")[:, 1:]],
    ids=["by column", "backwards", "every other column", "a part"],
)
def test_data_that_are_not_contiguous_equal_contiguous_ones(data):
    runs = [
        portnet.Trainer(portnet.mlp([data.shape[1], 4, 1]), "squared_error", batch_size=8).fit(
            x, data[:, 0], epochs=3
        )
        for x in (data, np.ascontiguousarray(data))
    ]
    assert_equal(runs[0].params, runs[1].params)


def test_layer_of_ones_own_is_part_of_the_machine_code():
    class Scaled:
        def init(self, rng, n_in):
            return {"s": np.ones((1, n_in))}, n_in

        def forward(self, params, x, key=None):
            return params["s"] * x, x

        def backward(self, params, x, dy):
            return {"s": portnet.namespace(x).sum(dy * x, axis=0, keepdims=True)}, dy * params["s"]

    net = portnet.Chain([Scaled(), portnet.Dense(3)])
    assert_scan_equals_eager(net, SOFTMAX, portnet.Adam(), 8, "float32")


@pytest.mark.parametrize("lies", ["C", "F"])
def test_constants_of_a_layer_are_read_as_they_lie(lies):
    """A few numbers, row by row or column by column."""
    mixed = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]], "float32", order=lies)

    class Mixed:
        def init(self, rng, n_in):
            return {"s": np.ones((1, n_in))}, n_in

        def forward(self, params, x, key=None):
            return params["s"] * (x @ mixed), x @ mixed

        def backward(self, params, x, dy):
            ds = portnet.namespace(x).sum(dy * x, axis=0, keepdims=True)
            return {"s": ds}, (dy * params["s"]) @ mixed.T

    net = portnet.Chain([portnet.Dense(3), Mixed(), portnet.Dense(3)])
    assert_scan_equals_eager(net, SOFTMAX, portnet.SGD(0.01), 8, "float32")


def test_row_numbers_are_trusted_only_where_they_are_the_orders():
    """A user's own index out of range is NumPy's IndexError."""

    class Table:
        def init(self, rng, n_in):
            return {"T": np.ones((4, 3))}, 3

        def forward(self, params, x, key=None):
            xp = portnet.namespace(x)
            rows = xp.astype(x[:, 0], xp.int64)
            return xp.take(params["T"], rows, axis=0), x

        def backward(self, params, x, dy):
            return {"T": 0 * params["T"]}, 0 * x

    x = np.zeros((6, 2))
    x[4, 0] = 9
    with pytest.raises(IndexError, match="out of bounds"):
        portnet.Trainer(portnet.Chain([Table()]), SOFTMAX).fit(x, [0, 1, 2, 0, 1, 2], epochs=2)


def test_failure_of_llvm_warns_and_goes_on_by_calls(monkeypatch):
    from portnet.compiler.native import jit, scan

    def fails(text):
        raise RuntimeError("no such processor")

    expected = trainer().fit(X, LABELS, epochs=3)
    monkeypatch.setattr(scan, "compiled", fails)
    jit.forget()
    monkeypatch.setenv("PORTNET_CACHE", "0")
    monkeypatch.setattr(compile_cache, "_kept", OrderedDict())
    with pytest.warns(portnet.CompileWarning, match=r"NumPy goes on: RuntimeError: no such"):
        run = trainer().fit(X, LABELS, epochs=3)
    assert_same_run(run, expected)


def test_code_that_cannot_be_loaded_warns_and_the_fit_goes_on(monkeypatch, tmp_path):
    """The cache has it, but neither loader may make memory executable."""
    from portnet.compiler.native import jit, llvm, loader

    def refused(*args):
        raise RuntimeError("memory cannot be made executable")

    monkeypatch.setenv("PORTNET_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compile_cache, "_kept", OrderedDict())
    jit.forget()
    expected = trainer().fit(X, LABELS, epochs=3)
    monkeypatch.setattr(compile_cache, "_kept", OrderedDict())
    jit.forget()
    monkeypatch.setattr(loader, "load", lambda *args: None)
    monkeypatch.setattr(llvm, "loaded", refused)
    with pytest.warns(portnet.CompileWarning, match="NumPy goes on: RuntimeError: memory"):
        run = trainer().fit(X, LABELS, epochs=3)
    assert_same_run(run, expected)


def test_threads_that_train_at_once_equal_one_after_the_other():
    def fit(seed):
        return trainer(seed=seed).fit(X, LABELS, epochs=20)

    expected = [fit(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for run, alone in zip(threads.map(fit, range(4)), expected, strict=True):
            assert_same_run(run, alone)
