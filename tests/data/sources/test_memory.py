"""Processes that may not hold their data train on them, and predict and evaluate them."""

import os
import subprocess
import sys

import numpy as np
import pytest

ROWS, WIDTH, LIMIT = 1_500_000, 64, 300 << 20
SCRIPT = f"""
import resource
import numpy as np
import portnet

X, y = (np.load(name, mmap_mode="r") for name in ("X.npy", "y.npy"))
net = portnet.mlp([{WIDTH}, 16, 4])
trainer = portnet.Trainer(net, "softmax_cross_entropy", "adam", batch_size=2048)
resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))
try:
    np.array(X)
except MemoryError:
    print("too large")
run = trainer.fit(X, y, epochs=2, validation=0.05, metrics=["accuracy"])
print(run.history["validation_accuracy"][-1], run.evaluate(X, y)["accuracy"])
classes = run.predict_class(X)
print((classes == y).mean())
"""


RESIDENT = """

def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) >> 10
"""
ESTIMATOR = f"""
import warnings
import numpy as np
from portnet import MLPClassifier
{RESIDENT}
X, y = (np.load(name, mmap_mode="r") for name in ("X.npy", "y.npy"))
net = MLPClassifier((16,), max_iter=1, random_state=0)
warnings.simplefilter("ignore")
net.fit(np.eye(4, {WIDTH}, dtype="float32"), range(4))
before = resident("VmRSS")
print(net.score(X, y) == (net.predict(X) == y).mean(), len(net.predict_proba(X)) == len(X))
print(resident("VmHWM") - before)
"""
FULL = f"""
import numpy as np
import portnet
{RESIDENT}
X, y = (np.load(name, mmap_mode="r") for name in ("X.npy", "y.npy"))
net = portnet.mlp([{WIDTH}, 16, 4])
trainer = portnet.Trainer(
    net, "softmax_cross_entropy", "adam", batch_size=2048, shuffle="full"
)
before = resident("VmRSS")
trainer.fit(X, y, epochs=2)
print(resident("VmHWM") - before)
"""

PARQUET = f"""
import numpy as np
import portnet
{RESIDENT}
X, y = portnet.data.parquet("data.parquet", target="y")
net = portnet.mlp([{WIDTH}, 16, 4])
trainer = portnet.Trainer(net, "softmax_cross_entropy", "adam", batch_size=2048)
before = resident("VmRSS")
run = trainer.fit(X, y, epochs=1, validation=0.05)
print((run.predict_class(X) == y[:]).mean())
print(resident("VmHWM") - before, portnet.data.to_npy(X, "copy.npy").shape)
print(resident("VmHWM") - before)
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is counted so on Linux only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a folder with X.npy of 366 MB, a sparse file but for the columns of the label, and y."""
    found = tmp_path_factory.mktemp("large")
    X = np.lib.format.open_memmap(found / "X.npy", "w+", np.float32, (ROWS, WIDTH))
    y = np.lib.format.open_memmap(found / "y.npy", "w+", np.int8, (ROWS,))
    y[...] = np.arange(ROWS) % 4
    X[np.arange(ROWS), y] = 1
    X.flush()
    assert X.nbytes > LIMIT
    del X, y
    yield found
    (found / "X.npy").unlink()


def lines_of(script, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@linux
def test_training_from_a_file_of_366_mb_under_a_limit_of_300_mb(folder):
    large, accuracies, predicted = lines_of(SCRIPT, folder)
    assert large == "too large"
    assert [float(a) for a in (*accuracies.split(), predicted)] == [1.0] * 3


@linux
def test_predictions_of_estimators_leave_little_of_a_file_resident(folder):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    equal, grown = lines_of(ESTIMATOR, folder)
    assert equal == "True True"
    assert int(grown) < 150  # MB


@linux
def test_a_full_shuffle_keeps_little_of_a_file_resident(folder):
    (grown,) = lines_of(FULL, folder)
    assert int(grown) < 320  # MB, with the file 384 more; two windows and their order are 120


def write_parquet(path, **options):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    y = np.arange(ROWS) % 4
    zeros = np.zeros(ROWS, np.float32)
    columns = {f"x{i}": (y == i).astype(np.float32) if i < 4 else zeros for i in range(WIDTH)}
    parquet.write_table(pa.table({**columns, "y": y}), path, **options)


@linux
def test_groups_of_rows_of_parquet_files_are_never_in_memory_as_a_whole(tmp_path):
    # A group of 268 MB and one of 115 MB, as pyarrow makes them; 366 MB in all.
    write_parquet(tmp_path / "data.parquet")
    right, trained, copied = lines_of(PARQUET, tmp_path)
    (tmp_path / "copy.npy").unlink()
    assert float(right) == 1
    assert int(trained.split()[0]) < 250  # MB
    assert int(copied) < 250


@linux
def test_training_from_a_parquet_file_of_366_mb_under_a_limit_of_300_mb(tmp_path):
    write_parquet(tmp_path / "data.parquet", row_group_size=1 << 16)
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))\n"
    # The pool that pyarrow prefers reserves more at once than it uses.
    right, _, _ = lines_of(limit + PARQUET, tmp_path, ARROW_DEFAULT_MEMORY_POOL="system")
    (tmp_path / "copy.npy").unlink()
    assert float(right) == 1
