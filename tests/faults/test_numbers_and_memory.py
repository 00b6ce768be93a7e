"""Numbers, memory and devices that fail (table D): the error says so, and what was there stays.

python tests/faults/test_numbers_and_memory.py WHAT FOLDER
"""

import os
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from processes import finish, leaves, quietly, start, temporaries

import portnet

try:
    import resource
except ImportError:  # Windows
    resource = None

MEGABYTE = 1 << 20
X = np.random.default_rng(3).standard_normal((96, 5))
LABELS = np.arange(96) % 3


def trainer(model=None, **more):
    model = model or portnet.mlp([5, 8, 3])
    return portnet.Trainer(model, "softmax_cross_entropy", batch_size=16, **more)


def test_d1_divergence_says_where_and_keeps_the_history(tmp_path):
    made = portnet.Trainer(portnet.mlp([5, 8, 1]), "squared_error", portnet.SGD(1e4), batch_size=16)
    with pytest.raises(portnet.DivergenceError, match=r"epoch \d+, step \d+") as error:
        quietly(made.fit, X, X[:, 0], epochs=200, checkpoint=tmp_path / "run.st")
    assert "layers" in str(error.value) or "loss" in str(error.value)
    assert np.isfinite(error.value.run.history.get("loss", [])).all()
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_d2_values_above_float32_are_refused_before_training(value, tmp_path):
    path, bad = tmp_path / "run.st", X.copy()
    bad[7, 3] = value
    trainer().fit(X, LABELS, epochs=2, checkpoint=path)
    before = path.read_bytes()
    for more in ({}, {"resume": True}, {"resume": path}):
        with pytest.raises(portnet.DataError, match="too large for float32"):
            trainer().fit(bad, LABELS, epochs=3, checkpoint=path, **more)
    assert path.read_bytes() == before


def test_d2_estimators_refuse_values_above_float32(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    bad = np.asarray(X, "float32")
    bad[7, 3] = np.inf
    with pytest.raises(ValueError, match="infinity or a value too large for dtype"):
        portnet.MLPClassifier().fit(bad, LABELS, checkpoint=tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class RunsOut:
    """A layer whose memory ends in one of its steps, as that of a GPU may."""

    steps: ClassVar[list] = [-1]  # until it ends

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        if key is not None:
            self.steps[0] -= 1
            if not self.steps[0]:
                raise MemoryError("no memory left on the device")
        return x, None

    def backward(self, params, cache, dy):
        return (), dy


def test_d3_memory_that_ends_in_a_step_leaves_the_last_checkpoint(tmp_path):
    path = tmp_path / "run.st"
    net = portnet.Chain([portnet.Dense(8), RunsOut(), portnet.Dense(3)])
    made = trainer(model=net, compile=False)
    expected = made.fit(X, LABELS, epochs=3)
    RunsOut.steps[0] = 10  # of 6 in an epoch
    with pytest.raises(MemoryError, match="no memory left on the device"):
        made.fit(X, LABELS, epochs=3, checkpoint=path)
    assert temporaries(tmp_path) == []
    assert portnet.load(path, custom={"RunsOut": RunsOut}).epoch == 1
    again = made.fit(X, LABELS, epochs=3, checkpoint=path, resume=True)
    assert again.history == expected.history
    for p, q in zip(leaves(again.params), leaves(expected.params), strict=True):
        np.testing.assert_array_equal(p, q)


def test_d4_backend_that_cannot_be_used_is_an_error_and_never_another_one(tmp_path):
    path = tmp_path / "run.st"
    trainer().fit(X, LABELS, epochs=1, checkpoint=path)
    missing = [status.name for status in portnet.backends() if not status.usable]
    if not missing:
        pytest.skip("each backend can be used here")
    for name in missing:
        with pytest.raises(portnet.BackendUnavailableError, match=name):
            portnet.load(path, backend=name)
        with pytest.raises(portnet.BackendUnavailableError, match=name):
            portnet.load(path).to(name)


def test_d4_checkpoint_of_a_backend_that_is_missing_opens_on_numpy(tmp_path):
    """The file says where a run was trained; that library need not be here."""
    import json

    from portnet.files.container import open_container, pack
    from portnet.files.models import describe

    path = tmp_path / "run.st"
    run = trainer().fit(X, LABELS, epochs=1, checkpoint=path)
    with open_container(path) as file:
        described, tensors = describe(file), file.read()
    described["backend"] = "cupy"
    parts = pack(tensors, {"format_version": "1", "portnet": json.dumps(described)})
    path.write_bytes(b"".join(parts))
    again = portnet.load(path)
    assert again.backend.name == "numpy"
    for p, q in zip(leaves(again.params), leaves(run.params), strict=True):
        np.testing.assert_array_equal(p, q)


# Memory ----------------------------------------------------------------------------------------


def limited(more):
    """Let this process have so many bytes more than it has now; None lifts the limit."""
    if more is None:
        return resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return resource.setrlimit(resource.RLIMIT_AS, (now + more, -1))


def ends(call, *args, **options):
    """Return whether a call raises MemoryError; any other error is one."""
    try:
        call(*args, **options)
    except MemoryError:
        return True
    return False


def load_and_save(folder):
    """Load and save a network of 200 MB with less memory than that."""
    path = os.path.join(folder, "net.st")
    net = portnet.Chain([portnet.Dense(5000)], n_in=10_000)
    params = ({"W": np.ones((10_000, 5000), "float32"), "b": np.ones((1, 5000), "float32")},)
    portnet.save((net, params), path)
    with open(path, "rb") as file:
        before = file.read(4096)
    limited(50 * MEGABYTE)
    failed = ends(portnet.load, path)
    limited(None)
    _, found = portnet.load(path)
    assert (found[0]["W"] == 1).all()
    with open(path, "rb") as file:
        assert file.read(4096) == before
    return failed


def fit_and_fit(folder):
    """Train with less memory than the parameters need, and then with enough."""
    rows, labels = np.ones((64, 6)), np.arange(64) % 2
    made = portnet.Trainer(portnet.mlp([6, 8, 2]), "softmax_cross_entropy", compile=False)
    path = os.path.join(folder, "run.st")
    quietly(made.fit, rows, labels, epochs=1, checkpoint=path)
    large = portnet.Trainer(portnet.mlp([6, 6000, 6000, 2]), "softmax_cross_entropy", compile=False)
    estimator = quietly(portnet.MLPClassifier((8,), max_iter=2, random_state=0).fit, rows, labels)
    expected, sizes = estimator.predict_proba(rows), (6000, 6000)
    limited(100 * MEGABYTE)
    failed = ends(quietly, large.fit, rows, labels, epochs=1, checkpoint=path)
    estimator.set_params(hidden_layer_sizes=sizes)
    failed = failed and ends(quietly, estimator.fit, rows, labels, checkpoint=path + "2")
    limited(None)
    estimator.set_params(hidden_layer_sizes=(8,))
    assert (estimator.predict_proba(rows) == expected).all()
    quietly(estimator.fit, rows, labels)
    assert portnet.load(path).epoch == 1
    assert quietly(made.fit, rows, labels, epochs=2, checkpoint=path, resume=True).epoch == 2
    assert temporaries(folder) == []
    return failed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")
@pytest.mark.parametrize("what", ["load_and_save", "fit_and_fit"])
def test_d5_memory_of_the_host_that_ends_is_a_memory_error(what, tmp_path):
    if what == "fit_and_fit":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    status, out, err = finish(start(__file__, what, tmp_path))
    assert status == 0, f"{out[-2000:]}\n{err[-2000:]}"


if __name__ == "__main__":
    sys.exit(not globals()[sys.argv[1]](sys.argv[2]))
