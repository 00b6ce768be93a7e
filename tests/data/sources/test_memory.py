"""A process that may not hold its data trains on them, and predicts and evaluates them."""

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


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux only")
def test_training_from_a_file_of_366_mb_under_a_limit_of_300_mb(tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (ROWS, WIDTH))
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.int8, (ROWS,))
    y[...] = np.arange(ROWS) % 4  # X is a sparse file, but for the columns of the label
    X[np.arange(ROWS), y] = 1
    X.flush()
    assert X.nbytes > LIMIT
    del X, y
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    (tmp_path / "X.npy").unlink()
    assert done.returncode == 0, done.stderr
    large, accuracies, predicted = done.stdout.splitlines()
    assert large == "too large"
    assert [float(a) for a in (*accuracies.split(), predicted)] == [1.0] * 3
