"""A network trained on any backend, written as an ONNX file, and served where portnet is not.

Three classes, each an arm of a spiral. The network has a layer of one's own, for which the export
needs no code: each operation of its forward pass becomes an operator of ONNX. onnx_server.py
serves the file in a process that does not import portnet (pip install ".[onnx]" onnxruntime).
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np

import portnet

ROUNDS = 2_000


@dataclass(frozen=True)
class Snake:
    """y = x + sin(x)^2;  dy/dx = 1 + sin(2 x)."""

    def init(self, rng, n_in):
        """No parameters, as many outputs as inputs."""
        return (), n_in

    def forward(self, params, x, key=None):
        """y = x + sin(x)^2."""
        return x + portnet.namespace(x).sin(x) ** 2, x

    def backward(self, params, cache, dy):
        """dx = dy (1 + sin(2 x))."""
        return (), dy * (1 + portnet.namespace(dy).sin(2 * cache))


def spirals(rows, seed):
    """Return points (rows, 2) and their colours (rows,)."""
    draw = np.random.default_rng(seed)
    arm = draw.integers(0, 3, rows)
    radius = draw.uniform(0.1, 1, rows)
    angle = 4 * radius + 2 * np.pi / 3 * arm + draw.normal(0, 0.2, rows)
    X = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    return X, np.array(["blue", "green", "red"])[arm]


def serve(path, rows):
    """Start the second process, and return its answer."""
    command = [sys.executable, str(Path(__file__).with_name("onnx_server.py")), str(path)]
    given = json.dumps(rows.tolist())
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def microseconds(call, *args):
    """Return the median time of a call."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call(*args)
        times.append(time.perf_counter() - began)
    return 1e6 * sorted(times)[ROUNDS // 2]


def main():
    options = common.parser(__doc__)
    options.add_argument("--epochs", type=common.at_least(1), default=100)
    args = common.begin(options, dtype="float32")
    if not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        options.error('this example needs: pip install ".[onnx]" onnxruntime')
    (X, y), (X_test, y_test) = spirals(900, 0), spirals(300, 1)

    layers = [portnet.Dense(32), Snake(), portnet.Dense(32), Snake(), portnet.Dense(3)]
    trainer = portnet.Trainer(
        portnet.Chain(layers), "softmax_cross_entropy", portnet.Adam(0.01), batch_size=100
    )
    run = trainer.fit(X, y, epochs=args.epochs)
    print(f"accuracy on {len(X_test)} others {run.score(X_test, y_test):.3f}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "spirals.onnx")
        portnet.export_onnx(run, path)
        print(f"the file has {path.stat().st_size:,} bytes")
        answer = serve(path, X_test)
    run = run.to("numpy")
    same = answer["label"] == run.predict_class(X_test).tolist()
    apart = np.abs(np.array(answer["probabilities"]) - run.predict_proba(X_test)).max()
    print(f"the second process imports portnet: {answer['portnet']}")
    print(f"its labels are the same: {same}; its probabilities, to 1e-6: {apart < 1e-6}")
    ours, theirs = microseconds(run.predict_proba, X_test[:1]), answer["microseconds"]
    print(f"one row: portnet {ours:.0f} us, ONNX Runtime {theirs:.0f} us")


if __name__ == "__main__":
    main()
