"""What only dpnp has: SYCL's devices and queues, refused conversions, and counted reads."""

import copy
import os
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from conftest import own_queue, require
from fits import LABELS, NET, X, assert_same_run, classifier, host

import portnet
from portnet.backend import backend_of, describe


@pytest.fixture
def dpnp():
    require("dpnp")
    with portnet.use_backend("dpnp", dtype="float64"):
        yield sys.modules["dpnp"]


# Devices and queues -----------------------------------------------------------------------------


def test_devices_are_found_by_name_number_device_and_queue(dpnp):
    x = dpnp.ones(1)
    name = x.sycl_device.filter_string
    for given in (name, name.partition(":")[2], 0, x.device, x.sycl_device, x.sycl_queue):
        with portnet.use_backend("dpnp", device=given) as backend:
            assert backend.holds(x)
            assert str(backend) == f"dpnp on {name}"
    with portnet.use_backend("dpnp", device=own_queue()) as backend:
        assert portnet.asarray([1.0]).sycl_queue == own_queue()
        assert str(backend) == f"dpnp on {name} in a queue of its own"
        assert not backend.holds(x)


@pytest.mark.parametrize("given", ["warp", "cpu:99", "level_zero:gpu:99", "", 99, 1.5, np])
def test_unknown_devices_raise(dpnp, given):
    with pytest.raises(ValueError, match=r"unknown device .* for dpnp: \w+Error: "):
        portnet.set_backend("dpnp", device=given)


@pytest.mark.usefixtures("dpnp")
def test_without_a_device_the_backend_is_an_error_and_other_backends_work():
    code = """
import portnet
try:
    portnet.get_backend()
except portnet.BackendUnavailableError as error:
    print(error)
portnet.set_backend("numpy")
print(portnet.asarray([1.0]))
"""
    none = {"ONEAPI_DEVICE_SELECTOR": "cuda:gpu", "PORTNET_BACKEND": "dpnp"}
    env = os.environ | none  # dpnp's wheels have no driver for CUDA
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    message, array = done.stdout.splitlines()
    assert "stage 2, a first array, failed (SyclDeviceCreationError: " in message
    assert "ONEAPI_DEVICE_SELECTOR (the environment variable PORTNET_BACKEND is set)" in message
    assert array == "[1.]"


def test_estimators_take_a_device_with_colons(dpnp):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    name = dpnp.ones(1).sycl_device.filter_string
    net = portnet.MLPRegressor(solver="lbfgs", max_iter=500, alpha=1.0, backend=f"dpnp:{name}")
    net.fit(X, X[:, 0])
    assert backend_of(net.coefs_[0]).name == "dpnp"
    assert type(net.predict(X)) is np.ndarray
    with pytest.raises(ValueError, match="unknown device 'warp' for dpnp"):
        net.set_params(backend="dpnp:warp").fit(X, X[:, 0])


def test_float64_on_a_device_without_it_raises(dpnp, monkeypatch):
    info = dpnp.__array_namespace_info__

    class WithoutFloat64:
        def dtypes(self, *, device=None, kind=None):
            given = info().dtypes(device=device, kind=kind)
            return {name: dtype for name, dtype in given.items() if name != "float64"}

    monkeypatch.setattr(dpnp, "__array_namespace_info__", WithoutFloat64)
    message = r"the dpnp backend cannot create float64 arrays: the device \S+:0 has no float64"
    with pytest.raises(ValueError, match=message):
        portnet.set_backend("dpnp", dtype="float64")
    with portnet.use_backend("dpnp"):
        assert portnet.asarray(np.ones(2)).dtype == dpnp.float32
        assert portnet.asarray([1, 2]).dtype == dpnp.int64
        run = classifier().fit(X, LABELS, epochs=1)
        assert {leaf.dtype.name for leaf in host(run.params)} == {"float32"}
        with pytest.raises(ValueError, match=message):
            run.to("dpnp", dtype="float64")


def test_data_in_two_queues_raise_and_the_message_tells_them_apart(dpnp):
    x, y = portnet.asarray(X), portnet.asarray(LABELS)
    with portnet.use_backend("dpnp", device=own_queue(), dtype="float64"):
        there, labels = portnet.asarray(X), portnet.asarray(LABELS)
    message = r"y is a dpnp array on \S+ in a queue of its own, but X is a dpnp array on \S+\. Move"
    with pytest.raises(TypeError, match=message):
        classifier().fit(x, labels, epochs=1)
    run = classifier().fit(x, y, epochs=1)
    message = r"X is a dpnp array on \S+ in a queue of its own, but the parameters are on dpnp"
    with pytest.raises(TypeError, match=message):
        run.predict(there)
    with pytest.raises(ValueError, match="SYCL queue"):  # dpnp's own
        NET.forward(run.params, there)
    np.testing.assert_array_equal(portnet.asarray(there).asnumpy(), X)
    moved = run.to("dpnp", device=own_queue())
    assert moved.predict(there).sycl_queue == own_queue()
    np.testing.assert_array_equal(moved.predict(there).asnumpy(), run.predict(x).asnumpy())


def test_estimator_in_another_queue_raises_and_names_what_moves_it(dpnp):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    x, y = portnet.asarray(X), portnet.asarray(LABELS)
    net = portnet.MLPClassifier((4,), solver="lbfgs", max_iter=500, alpha=1.0).fit(x, y)
    with portnet.use_backend("dpnp", device=own_queue(), dtype="float64"):
        there = portnet.asarray(X)
    with pytest.raises(ValueError, match=r"estimator\.to\('dpnp', device=X\.device\) is a copy"):
        net.predict(there)
    moved = net.to("dpnp", device=there.device)
    np.testing.assert_array_equal(moved.predict(there).asnumpy(), net.predict(x).asnumpy())


# Conversions ------------------------------------------------------------------------------------


def test_numpy_arrays_and_dpnp_arrays_are_not_mixed(dpnp):
    there = portnet.asarray(X)
    params = portnet.init(NET, like=there)
    with pytest.raises(
        TypeError, match=r"a numpy array on cpu and a dpnp array on \S+; portnet.as"
    ):
        NET.forward(params, X)
    loss = portnet.SoftmaxCrossEntropy()
    with pytest.raises(TypeError, match="expected arrays of one library"):
        loss(there[:, :3], LABELS)
    with portnet.use_backend("numpy"), pytest.raises(TypeError, match="X is a numpy array on cpu,"):
        classifier().fit(X, there[:, 0], epochs=1)
    run = classifier().fit(there, LABELS, epochs=1)  # host data follow the first array
    assert run.backend.name == "dpnp"
    with pytest.raises(TypeError, match="Implicit conversion"):  # dpnp's own
        portnet.to_numpy([there[0], there[1]])


def test_usm_ndarrays_become_dpnp_arrays_of_the_same_memory(dpnp):
    there = portnet.asarray(X)
    inner = there.get_array()
    assert describe(inner) == describe(there)
    np.testing.assert_array_equal(portnet.to_numpy(inner), X)
    assert portnet.asarray(inner).get_array() is inner
    run = classifier().fit(inner, portnet.asarray(LABELS).get_array(), epochs=1)
    assert_same_run(run, classifier().fit(there, LABELS, epochs=1))
    assert isinstance(run.predict(inner), dpnp.ndarray)


def test_complex_and_nonfinite_arrays_raise(dpnp):
    with pytest.raises(ValueError, match="expected real numbers, got complex64 data"):
        portnet.asarray(dpnp.ones(2, dtype="complex64"))
    with pytest.raises(ValueError, match="X contains NaN at row 0, column 0"):
        classifier().fit(dpnp.full((4, 5), dpnp.nan), [0, 1, 2, 0], epochs=1)
    with portnet.use_backend("dpnp"), pytest.raises(ValueError, match=r"1e\+300 is too large"):
        portnet.asarray(dpnp.asarray([1e300]))


def test_too_little_memory_names_the_batch_size(dpnp):
    class Large(portnet.Identity):
        def forward(self, params, x, key=None):
            if x.shape[0] == 16:
                dpnp.empty(1 << 44)
            return super().forward(params, x, key)

    net = portnet.Chain([Large(), portnet.Dense(3)])
    message = r"dpnp on \S+ has too little memory for steps of 16 rows: .* A smaller batch_size"
    with pytest.raises(MemoryError, match=message):
        classifier(model=net).fit(portnet.asarray(X), LABELS, epochs=1)


# Pickles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index",
    [slice(None), (slice(None), 0), (0, 0), slice(0, 0), (slice(None), slice(None, None, 2))],
)
def test_arrays_are_pickled_and_copied_through_the_host(dpnp, index):
    there = portnet.asarray(X)[index]
    backend_of(there)  # portnet has seen an array of dpnp
    for again in (pickle.loads(pickle.dumps(there)), copy.deepcopy(there)):
        assert isinstance(again, dpnp.ndarray)
        assert again.device == there.device
        assert again.dtype == there.dtype
        np.testing.assert_array_equal(again.asnumpy(), X[index])


def test_pickled_run_is_loaded_by_another_process_and_goes_on(dpnp, tmp_path):
    run = classifier().fit(portnet.asarray(X), LABELS, epochs=2)
    (tmp_path / "run").write_bytes(pickle.dumps((run, X, LABELS)))
    code = """
import pickle, sys
file = sys.argv[1]
run, X, y = pickle.load(open(file, "rb"))
assert type(run.params[0]["W"]).__module__.startswith("dpnp"), type(run.params[0]["W"])
run = run.fit(X, y, epochs=1)
pickle.dump(run.to("numpy").params, open(file, "wb"))
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "run"], check=True)
    expected = run.fit(X, LABELS, epochs=1).params
    for a, b in zip(
        host(pickle.loads((tmp_path / "run").read_bytes())), host(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_pickled_estimator_predicts_and_goes_on(dpnp, solver):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    x, y = portnet.asarray(X), portnet.asarray(LABELS)
    net = portnet.MLPClassifier((4,), solver=solver, max_iter=5, random_state=0).fit(x, y)
    for again in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        np.testing.assert_array_equal(again.predict(x).asnumpy(), net.predict(x).asnumpy())
        assert backend_of(again.coefs_[0]).holds(net.coefs_[0])
        if solver == "adam":
            expected = copy.deepcopy(net).partial_fit(x, y).coefs_
            for a, b in zip(again.partial_fit(x, y).coefs_, expected, strict=True):
                np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_saved_run_is_loaded_on_dpnp_and_on_the_host(dpnp, tmp_path):
    run = classifier().fit(portnet.asarray(X), LABELS, epochs=2)
    portnet.save(run, tmp_path / "run")
    for name in ("dpnp", "numpy"):
        again = portnet.load(tmp_path / "run", backend=name)
        assert again.backend.name == name
        np.testing.assert_allclose(again.predict(X), run.predict(X), rtol=1e-12)


# Reads by the host ------------------------------------------------------------------------------


@pytest.fixture
def reads(dpnp, monkeypatch):
    """Count what dpnp copies to the host, which waits for the device, by the name of the method."""
    counts = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def method(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, method)

    for name in ("__bool__", "__complex__", "__float__", "__index__", "__int__"):
        count(dpnp.ndarray, name)
    count(sys.modules["dpnp.tensor._copy_utils"], "_copy_to_numpy")  # asnumpy, item, tolist
    return counts


def test_reads_are_counted(dpnp, reads):
    x = dpnp.ones((1, 2))
    for read in (
        lambda: float(x[0, 0]),
        lambda: int(x[0, 0]),
        lambda: bool(x[0, 0]),
        lambda: x.item(1),
        lambda: x.tolist(),
        lambda: dpnp.asnumpy(x),
        lambda: portnet.to_numpy(x),
        lambda: portnet.to_numpy(x.get_array()),
        lambda: [1.0, 2.0][x.astype("int32")[0, 0]],
    ):
        reads.clear()
        read()
        assert reads.total() == 1, reads
    reads.clear()
    dpnp.sum(x @ x.T + 1)
    assert not reads


@pytest.mark.parametrize("loss", portnet.losses.LOSSES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_epoch_reads_once_however_many_batches_it_has(dpnp, reads, loss, optimizer):
    y = LABELS if loss == "softmax_cross_entropy" else np.eye(3)[LABELS]
    net = portnet.mlp([5, 8, 3], "gelu", dropout=0.1, norm="layer")
    found = {}
    for batch in (96, 32, 8):
        trainer = portnet.Trainer(net, loss, optimizer, batch_size=batch)
        data = portnet.asarray(X / 100), portnet.asarray(y)
        runs = trainer.epochs(
            *data,
            epochs=3,
            sample_weight=dpnp.ones(96),
            reduce_on_plateau=portnet.ReduceOnPlateau(patience=1),
            early_stopping=portnet.EarlyStopping("loss"),
        )
        next(runs)  # data are checked before the first epoch
        reads.clear()
        next(runs)
        found[batch] = dict(reads)
    assert found == {batch: {"_copy_to_numpy": 1} for batch in (96, 32, 8)}


def test_a_longer_fit_reads_once_per_epoch(dpnp, reads):
    data = portnet.asarray(X), portnet.asarray(LABELS)
    found = []
    for epochs in (2, 7):
        reads.clear()
        classifier().fit(*data, epochs=epochs)
        found.append(reads.total())
    assert found[1] - found[0] == 5


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge")
def test_an_epoch_of_an_estimator_reads_once_however_many_batches_it_has(dpnp, reads):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    data = portnet.asarray(X), portnet.asarray(LABELS)
    found = {}
    for batch in (96, 32, 8):
        totals = []
        for epochs in (2, 7):
            reads.clear()
            portnet.MLPClassifier((8,), batch_size=batch, max_iter=epochs).fit(*data)
            totals.append(reads.total())
        found[batch] = totals[1] - totals[0]
    assert found == {96: 5, 32: 5, 8: 5}


def test_lbfgs_reads_once_per_evaluation(dpnp, reads):
    def f(x):
        return dpnp.sum((x - 3.0) ** 4), 4 * (x - 3.0) ** 3

    optimizer, x = portnet.LBFGS(), dpnp.zeros(4)
    state = optimizer.init(x)
    reads.clear()
    for _ in range(6):
        x, state = optimizer.iterate(f, x, state)
    assert state.evaluations > 6
    assert reads == {"_copy_to_numpy": state.evaluations}
