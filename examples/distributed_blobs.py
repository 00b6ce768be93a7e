"""Distributed blobs: the blobs of blobs.py, trained by several processes, with the same bits.

    python -m portnet.distributed examples/distributed_blobs.py
    mpiexec -n 2 python -m portnet.distributed examples/distributed_blobs.py

Both print the same hash of the parameters. As a plain script, it trains alone.
"""

import hashlib
import time

import common
import numpy as np

import portnet
from portnet import distributed


def blobs(rows, classes=4, features=16):
    """Return points of overlapping blobs, and their classes: the same on every rank."""
    draw = np.random.default_rng(0)
    centres = draw.normal(0, 1.2, (classes, features))
    labels = draw.integers(0, classes, rows)
    return (centres[labels] + draw.normal(0, 1, (rows, features))).astype(np.float32), labels


def sha(params):
    """Return the SHA-256 of parameters."""
    arrays = [np.ascontiguousarray(portnet.to_numpy(a)) for a in portnet.tree.leaves(params)]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def main():
    options = common.parser(__doc__)
    options.add_argument("--rows", type=common.at_least(100), default=40_000)
    options.add_argument("--epochs", type=common.at_least(1), default=5)
    args = common.begin(options, dtype="float32")
    X, y = blobs(args.rows)
    net = portnet.mlp([X.shape[1], 128, 128, 4])
    trainer = portnet.Trainer(net, "softmax_cross_entropy", portnet.Adam(1e-3), batch_size=1000)
    began = time.perf_counter()
    run = trainer.fit(X, y, epochs=args.epochs, validation=0.1, metrics=["accuracy"])
    seconds = time.perf_counter() - began
    if distributed.rank() == 0:  # every rank runs the whole script
        print(f"ranks: {distributed.size()}, {seconds:.1f} s")
        print(f"accuracy on held-out rows {run.history['validation_accuracy'][-1]:.4f}")
        print(f"SHA-256 of the parameters {sha(run.params)[:16]}")
        common.picture(args.out / "distributed_blobs.png", run.plot)


if __name__ == "__main__":
    main()
