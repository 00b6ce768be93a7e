"""Time a training step on dpnp beside NumPy, on this machine's CPU, and print the table.

    python ci/bench_dpnp.py [--rounds 5] [--only small,wide]

A number is the time of `Trainer.fit`, all of it, divided by its steps: the least of the rounds, in
which the contenders take turns. All train the same network in float32 from the same parameters on
the same rows in the same order, with softmax cross-entropy and Adam, and the data on their device.
Their losses are compared first. Set OCL_ICD_FILENAMES as ci/dpnp does.
"""

import argparse
import time
from math import ceil

import numpy as np

import portnet

WORKLOADS = {  # sizes, rows of a batch, batches of the dataset, epochs of a fit
    "small": ((20, 32, 32, 2), 32, 50, 4),
    "medium": ((784, 256, 128, 10), 128, 20, 3),
    "large batch": ((784, 256, 128, 10), 4096, 4, 3),
    "wide": ((32, 512, 512, 512, 8), 4096, 4, 3),
    "widest": ((1024, 2048, 2048, 10), 4096, 2, 2),
}
CONTENDERS = {  # backend, compile
    "NumPy, compiled": ("numpy", True),
    "NumPy, eager": ("numpy", False),
    "dpnp": ("dpnp", False),
}


def fit_of(name, backend, compiled):
    """Return a function that makes a fit and returns its losses, and the number of steps."""
    sizes, batch, batches, epochs = WORKLOADS[name]
    rows = batch * batches
    draw = np.random.default_rng(0)
    X = draw.standard_normal((rows, sizes[0]), dtype=np.float32)
    y = np.argmax(X @ draw.standard_normal((sizes[0], sizes[-1])), axis=1)
    net = portnet.mlp(list(sizes))
    trainer = portnet.Trainer(
        net, "softmax_cross_entropy", "adam", batch_size=batch, seed=0, compile=compiled
    )
    X, y = backend.asarray(X), backend.asarray(y)
    return lambda: trainer.fit(X, y, epochs=epochs).history["loss"], ceil(rows / batch) * epochs


def measure(name, rounds):
    """Return the microseconds of a step for each contender."""
    fits, losses, steps = {}, {}, 0
    for who, (library, compiled) in CONTENDERS.items():
        with portnet.use_backend(library) as backend:
            fits[who], steps = fit_of(name, backend, compiled)
            losses[who] = fits[who]()  # compiles, and warms up
    first = next(iter(losses.values()))
    for who, found in losses.items():
        np.testing.assert_allclose(found, first, rtol=1e-3, err_msg=f"{name}: losses of {who}")
    best = dict.fromkeys(fits, np.inf)
    for _ in range(rounds):
        for who, fit in fits.items():
            start = time.perf_counter()
            fit()
            best[who] = min(best[who], (time.perf_counter() - start) / steps * 1e6)
    return best


def main():
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default=",".join(WORKLOADS), help="workloads, with commas")
    given = options.parse_args()
    print(f"| network, rows of a batch | {' | '.join(CONTENDERS)} | dpnp / NumPy, compiled |")
    print("|---" * (len(CONTENDERS) + 2) + "|")
    for name in given.only.split(","):
        found = measure(name, given.rounds)
        sizes, batch, *_ = WORKLOADS[name]
        times = " | ".join(f"{t:,.0f} us" for t in found.values())
        ratio = found["dpnp"] / found["NumPy, compiled"]
        print(f"| {'-'.join(map(str, sizes))}, {batch} | {times} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
