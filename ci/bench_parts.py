"""What one process of ci/bench.py measures: each part is a function, and returns plain data."""

import ctypes
import gc
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

import bench_peers as peers
import bench_whole
import numpy as np

import portnet

LONG = 30.0  # seconds, after which three rounds are enough


def interleaved(starts, rounds, seconds, whole=lambda n: n):
    """Time every contender in turn, round after round: A B C A B C ...; all must be warm.

    How many steps a round has is found for each by itself, so that it lasts about `seconds`; every
    round begins anew, at the initial parameters. Returns, for each: n, the seconds of one step in
    each round, and how many cores were busy.
    """
    counts = {}
    gc.collect()
    gc.freeze()  # what the libraries made at import is not looked through again and again
    for name, start in starts.items():
        n = whole(1)
        while True:
            took = _timed(start, n)[0]
            if took > seconds / 4:
                break
            n = whole(ceil(n * min(10, seconds / 2 / max(took, 1e-6))))
        counts[name] = whole(ceil(n * seconds / took))
    if "Trainer.fit" in counts:  # which begins by compiling: no fewer steps than the bare loop
        counts["Trainer.fit"] = max(counts["Trainer.fit"], counts["portnet"])
    found = {name: {"steps": counts[name], "seconds": [], "cores": []} for name in starts}
    began = time.perf_counter()
    for r in range(rounds):
        if r >= 3 and time.perf_counter() - began > LONG:
            break
        for name, start in starts.items():
            took, busy = _timed(start, counts[name])
            found[name]["seconds"].append(took / counts[name])
            found[name]["cores"].append(round(busy / took, 2))
    return found


def _timed(start, n):
    go = start()
    busy, began = time.process_time(), time.perf_counter()
    go(n)
    return time.perf_counter() - began, time.process_time() - busy


def steps(name, rounds, seconds):
    """The training step of a workload, in portnet and its peers; first, equal losses."""
    problem = peers.Problem(peers.WORKLOADS[name])
    starts, first, losses = peers.competitors(problem), {}, {}
    n = problem.workload.whole(20 if problem.workload.multiplications < 2e8 else 2)
    for who, start in starts.items():
        began = time.perf_counter()
        losses[who] = start()(n)
        first[who] = time.perf_counter() - began
    peers.check(problem, losses)
    found = interleaved(starts, rounds, seconds, problem.workload.whole)
    for who, times in found.items():  # what compiling took, and whatever else happens only once
        times["first"] = max(first[who] - n * min(times["seconds"]), 0.0)
    return {"steps": found, "losses": losses, "checked": n}


# The estimators, and predicting -----------------------------------------------------------------


def _classifiers():
    """Return name: class of portnet's and of scikit-learn's classifier."""
    import sklearn.neural_network

    warnings.filterwarnings("ignore", module="sklearn|portnet")
    return {"portnet": portnet.MLPClassifier, "scikit-learn": sklearn.neural_network.MLPClassifier}


def fit(name, rounds, seconds):
    """A whole fit of the estimators: Adam, 100 hidden units, batches of 200, 20 epochs or 4."""
    from sklearn.datasets import load_digits

    if name == "digits":
        (X, y), epochs = load_digits(return_X_y=True), 20
    else:
        draw = np.random.default_rng(0)
        X, epochs = draw.standard_normal((20_000, 32), dtype=np.float32), 4
        y = (X[:, :4].sum(axis=1) + draw.standard_normal(len(X)) > 0).astype(int)
    options = {"max_iter": epochs, "tol": 0.0, "n_iter_no_change": 10**9, "random_state": 0}
    losses = {who: made(**options).fit(X, y).loss_ for who, made in _classifiers().items()}
    np.testing.assert_allclose(losses["portnet"], losses["scikit-learn"], rtol=1e-3)

    def starting(made):
        return lambda: lambda n: [made(**options).fit(X, y) for _ in range(n)]

    starts = {who: starting(made) for who, made in _classifiers().items()}
    return {"steps": interleaved(starts, rounds, seconds), "losses": losses}


def predict(name, rounds, seconds):
    """predict_proba of a 32-100-100-8 network for some rows of float32, NumPy to NumPy."""
    draw, sizes = np.random.default_rng(0), (32, 100, 100, 8)
    X = draw.standard_normal((int(name), sizes[0]), dtype=np.float32)
    small = draw.standard_normal((800, sizes[0]), dtype=np.float32), np.arange(800) % sizes[-1]
    run = portnet.Trainer(portnet.mlp(sizes), "softmax_cross_entropy").fit(*small, epochs=0)
    calls = {"portnet": lambda: run.predict_proba(X)}
    left_out = peers.missing()
    if "scikit-learn" not in left_out:
        for who, made in _classifiers().items():
            net = made(sizes[1:-1], max_iter=1, random_state=0).fit(*small)
            calls[who if who != "portnet" else "portnet MLPClassifier"] = _calling(net, X)
    if "torch" not in left_out:
        calls["torch"] = _torch_predicting(run, X)
        np.testing.assert_allclose(calls["torch"](), calls["portnet"](), rtol=1e-3, atol=1e-6)

    return {"steps": interleaved(_starts(calls), rounds, seconds)}


def _starts(calls):
    """Return starts for `interleaved`; each call is made once before, and results are dropped."""

    def starting(call):
        call()
        return lambda: lambda n: [None for _ in range(n) if call() is None]

    return {who: starting(call) for who, call in calls.items()}


def _calling(net, X):
    return lambda: net.predict_proba(X)


def _torch_predicting(run, X):
    import torch

    layers = []
    for p in filter(None, run.params):
        dense = torch.nn.Linear(*p["W"].shape)
        with torch.no_grad():
            dense.weight.copy_(torch.tensor(p["W"].T.copy()))
            dense.bias.copy_(torch.tensor(p["b"][0]))
        layers += [dense, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1))

    @torch.inference_mode()
    def call():
        return net(torch.from_numpy(X)).numpy()

    return call


# Files ------------------------------------------------------------------------------------------


def files(name, rounds, seconds):
    """What files cost, in the folder for temporary files (TMPDIR), beside the least there is.

    Saving and loading 100 MB of parameters, beside writing and reading the same bytes; loading a
    run of 100 MB with the state of Adam, beside reading them; a fit with a checkpoint every epoch,
    beside the fit without one.
    """
    if name == "checkpoint" and rounds > 2:  # 2% of a fit is less than its times vary
        rounds = max(rounds, 11)
    with tempfile.TemporaryDirectory() as folder:
        made = {"checkpoint": _fits, "load state": _state}.get(name, partial(_parameters, name))
        return {"steps": interleaved(_starts(made(folder)), rounds, seconds)}


def _parameters(name, folder):
    """Return, for saving or loading four layers of 2500 x 2500: who, a call."""
    ours, plain = os.path.join(folder, "ours"), os.path.join(folder, "plain")
    net = portnet.mlp([2500] * 5)
    params = portnet.init(net, like=np.zeros(1, np.float32))
    portnet.save((net, params), ours)
    data = Path(ours).read_bytes()

    def write():
        number, at = os.open(plain, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 0
        while at < len(data):
            at += os.write(number, memoryview(data)[at:])
        for synchronised in (number, os.open(folder, os.O_RDONLY)):
            os.fsync(synchronised)
            os.close(synchronised)

    loaded = portnet.tree.leaves(portnet.load(ours)[1])
    for given, found in zip(portnet.tree.leaves(params), loaded, strict=True):
        np.testing.assert_array_equal(found, given)
    if name == "load":
        return _loading(ours)
    return {"portnet": lambda: portnet.save((net, params), ours), "plain": write}


def _state(folder):
    """Return, for loading a run of three layers of 1700 x 1700 and Adam's state: who, a call."""
    path, X = os.path.join(folder, "run"), np.zeros((2, 1700), np.float32)
    with portnet.use_backend("numpy", dtype="float32"):
        trainer = portnet.Trainer(portnet.mlp([1700] * 4), "squared_error", "adam")
        run = trainer.fit(X, X, epochs=1, progress=False)
    run.save(path, state=True)
    loaded = portnet.load(path)
    given, found = (portnet.tree.leaves((r.params, r.state)) for r in (run, loaded))
    for one, other in zip(given, found, strict=True):
        np.testing.assert_array_equal(other, one)
    return _loading(path)


def _loading(path):
    def read():
        with open(path, "rb") as file:
            return file.read()

    return {"portnet": lambda: portnet.load(path), "plain": read}


def _fits(folder):
    """Return fits of examples/blobs.py, five epochs, with and without checkpoints: who, a call."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    import blobs

    X, y, _ = blobs.blobs(200_000, 32, 8, seed=0)
    (X, Xv), (y, yv) = (X[20_000:], X[:20_000]), (y[20_000:], y[:20_000])
    net = portnet.mlp([X.shape[1], 128, 128, 8])
    trainer = portnet.Trainer(net, "softmax_cross_entropy", "adam", 1024, seed=0)
    options = {"epochs": 5, "validation": (Xv, yv), "metrics": ["accuracy"], "progress": False}
    path = os.path.join(folder, "blobs")

    def fit(**checkpoint):
        with portnet.use_backend("numpy", dtype="float32"):
            return trainer.fit(X, y, **options, **checkpoint)

    assert fit(checkpoint=path).history == fit().history
    return {"portnet": lambda: fit(checkpoint=path), "plain": fit}


# Growth -----------------------------------------------------------------------------------------


def rows(name, rounds, seconds):
    """An epoch of Trainer.fit: 8-16-2, batches of 1024; the seconds of each of a few epochs."""
    draw, n = np.random.default_rng(0), int(name)
    X = draw.standard_normal((n, 8), dtype=np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(np.int64)
    times, trainer = [], portnet.Trainer(portnet.mlp([8, 16, 2]), "softmax_cross_entropy", "adam")
    trainer, epochs = replace(trainer, batch_size=1024), 2 if n >= 10**7 else 2 + rounds
    began = time.perf_counter()
    trainer.fit(X, y, epochs=epochs, progress=False, callbacks=[lambda r: times.append(r.seconds)])
    return {"seconds": times, "fit": time.perf_counter() - began, "epochs": epochs}


def width(name, rounds, seconds):
    """The step of a w-w-w-8 network, batches of 128, beside its products alone."""
    w = int(name)
    problem = peers.Problem(peers.Workload((w, w, w, 8), 128, 8))
    starts = {"portnet": peers.compiled(problem), "floor": peers.floor(problem)}
    for start in starts.values():
        start()(2)
    found = interleaved(starts, rounds, seconds)
    return {"steps": found, "multiplications": problem.workload.multiplications}


# Memory and import ------------------------------------------------------------------------------


def memory(name, rounds, seconds):
    """Peak memory of three steps of `large`, beyond what the process with the data holds.

    Before, three steps load the libraries and compile, and their arrays are dropped, with the
    buffers that portnet's compiled function keeps.

    What the step must hold: parameters, gradients and the two moments of Adam; the batch and what
    each layer puts out, until backward needs it; and the gradient of the widest.
    """
    make = {"portnet": peers.compiled, "portnet eager": peers.eager}
    make |= {"torch": peers.torch_eager, "jax": peers.jax_jit}
    workload = peers.WORKLOADS["large"]
    start = make[name](peers.Problem(workload))
    start()(3)
    if name == "portnet":
        start.release()
    before, exact = _resident()
    start()(3)
    sizes = workload.sizes
    params = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    must = 4 * (4 * params + workload.batch * (sum(sizes) + max(sizes)))
    return {"bytes": _peak() - before, "must": must, "exact": exact}


def _resident():
    """Return the bytes of memory in use, and make them the peak so far, where Linux can."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, or nobody would see it used
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM
    except (OSError, AttributeError, TypeError):
        return _peak(), False
    return _peak(), True


def _peak():
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except OSError:  # no Linux; in kilobytes there, in bytes on a Mac
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else 1024 * used


def importing(name, rounds, seconds):
    """The time of fresh processes that import a library; "nothing" is Python's own start."""
    modules = ["", "numpy", "portnet"]
    modules += [m for n, m in peers.NEEDS.items() if n not in peers.missing()]
    modules = ["sklearn.neural_network" if m == "sklearn" else m for m in modules]
    found = {m or "nothing": {"seconds": []} for m in modules}
    for _ in range(3):
        for module in modules:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", module and f"import {module}"], check=True)
            found[module or "nothing"]["seconds"].append(time.perf_counter() - began)
    return {"steps": found}


PARTS = (
    {"whole": (bench_whole.whole, list(bench_whole.ROWS))}
    | {workload: (steps, [workload]) for workload in peers.WORKLOADS}
    | {
        "fit": (fit, ["digits", "table"]),
        "predict": (predict, ["1", "1000", "100000"]),
        "import": (importing, ["import"]),
        "rows": (rows, ["10000", "100000", "1000000", "10000000"]),
        "width": (width, ["64", "128", "256", "512", "1024", "2048"]),
        "files": (files, ["save", "load", "load state", "checkpoint"]),
        "memory": (memory, ["portnet", "portnet eager", "torch", "jax"]),
    }
)
