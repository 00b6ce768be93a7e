"""Training is killed at random times and resumed, again and again: the same bits come out.

    python tests/faults/test_kill_training.py [KILLS] [KIND]...

A run that was killed so often is equal to the one that was never killed: parameters, optimizer
state, history, monitors and predictions, bit for bit. The kind "terminated" gets SIGTERM in place
of SIGKILL.
"""

import os
import sys
import tempfile
import time
from importlib.util import find_spec

import numpy as np
import processes
import pytest
from processes import Victim, differing, draws, kill_after, quietly, temporaries

import portnet

ROWS = np.random.default_rng(3).standard_normal((420, 12))
LABELS = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 1).astype(int) + (ROWS[:, 2] > 0.5)
NET = portnet.mlp([12, 32, 16, 3], "tanh", dropout=0.2)
MONITORS = {
    "validation": 0.2,
    "metrics": ["accuracy"],
    "early_stopping": portnet.EarlyStopping(patience=6, min_change=1e-3),
    "reduce_on_plateau": portnet.ReduceOnPlateau(patience=2),
}
ADAM = portnet.Adam(portnet.CosineDecay(0.02, 900, 20))


def trainer(model=NET, optimizer=ADAM, **options):
    given = {"batch_size": 16, "seed": 4} | options
    return portnet.Trainer(model, "softmax_cross_entropy", optimizer, **given)


KINDS = {
    "eager": (trainer(compile=False), {"epochs": 60, "every": "3 steps", **MONITORS}),
    "compiled": (trainer(batch_size=8), {"epochs": 60, "every": "3 steps", **MONITORS}),
    "unwatched": (trainer(), {"epochs": 40, "every": "7 steps"}),
    "terminated": (trainer(batch_size=8), {"epochs": 60, "every": "3 steps", **MONITORS}),
    "lbfgs": (trainer(portnet.mlp([12, 8, 3], "tanh"), "lbfgs"), {"epochs": 60, "every": 1}),
}


class Source:
    """Rows of an array, a slice at a time."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, part):
        return self.rows[part]


class FromSource:
    """An estimator that is fitted to a source, in parts: in windows of two batches."""

    def __init__(self, net):
        self.net = net

    def fit(self, X, y, **options):
        from portnet.data.sources import order, reading

        before = reading.SMALL, order.BLOCK, order.WINDOW
        reading.SMALL, order.BLOCK, order.WINDOW = 0, 8 * 104, 128 * 104
        try:
            return self.net.fit(Source(X), y, **options)
        finally:
            reading.SMALL, order.BLOCK, order.WINDOW = before


if find_spec("sklearn"):
    ESTIMATOR = {"hidden_layer_sizes": (16,), "random_state": 2, "max_iter": 60, "tol": 0.0}
    KINDS["estimator"] = portnet.MLPClassifier(**ESTIMATOR, early_stopping=True), {"every": 1}
    NET_IN_PARTS = portnet.MLPClassifier(**ESTIMATOR, batch_size=64, early_stopping=True)
    KINDS["estimator, source"] = FromSource(NET_IN_PARTS), {"every": 2}


def train(tell, kind, path, result):
    """Train with a checkpoint from where it is; tell each one; write the run and predictions."""
    from portnet.files import checkpoint

    write = checkpoint.write_file

    def telling(*args, **options):
        write(*args, **options)
        tell(b"c")

    checkpoint.write_file = telling
    which, options = KINDS[kind]
    # One line: whoever finds the checkpoint goes on, and whoever finds none begins.
    run = quietly(which.fit, ROWS, LABELS, checkpoint=path, resume=True, **options)
    portnet.save(run, result, state=True)
    np.save(result + ".npy", run.predict(ROWS))


def place_of(thing):
    """Return epoch and step of a run; an estimator's are after an epoch."""
    return (thing.epoch, thing.step) if hasattr(thing, "epoch") else (thing.n_iter_, 0)


def compare(whole, result, folder):
    """Return the names of what differs between two fits, in the files that `train` wrote."""
    different = differing(whole, result) + temporaries(folder)
    if np.load(whole + ".npy").tobytes() != np.load(result + ".npy").tobytes():
        different.append("predictions")
    return different


def chains(kind, kills, folder, seed):
    """Kill training so many times, in chains to its end; return whether all is as it should be."""
    draw = draws(seed)
    whole, path, result = (os.path.join(folder, n) for n in ("whole", "run.st", "result"))
    began = time.perf_counter()
    told, status = Victim(train, kind, os.path.join(folder, "other.st"), whole).end()
    assert status == 0
    checkpoints, seconds = len(told), time.perf_counter() - began
    each, killed, places, ends, different = seconds / checkpoints, 0, set(), 0, []
    most, number = max(1, checkpoints // kills), 15 if kind == "terminated" else 9
    while killed < kills or os.path.exists(path):
        victim, last = Victim(train, kind, path, result), killed == kills
        if last:
            _, status = victim.end()
        else:
            waits = draw.random() < 0.9  # else it is killed before, or during, a first checkpoint
            if waits:
                victim.wait_for(b"c", int(draw.integers(1, most + 1)))
            life = draw.uniform(0, 2 * each if waits else seconds / 4)
            _, status = kill_after(victim, life, number)
        if status == 0:
            ends += 1
            different += compare(whole, result, folder)
            os.unlink(path)
            continue
        # SIGTERM before the fit begins has no checkpoint to write.
        expected = (-9,) if number == 9 else (143, -15)
        assert status in expected, f"training ended with status {status}"
        killed += 1
        if os.path.exists(path):
            places.add(place_of(portnet.load(path)))
    run = portnet.load(whole)
    print(
        f"training, {kind}: {killed} kills in {ends} chains, resumed from {len(places)} places "
        f"({sum(step > 0 for _, step in places)} within an epoch) of {place_of(run)[0]} epochs, "
        f"{checkpoints} checkpoints, {seconds:.1f} s"
        f"{' (early stopping)' * bool(getattr(run, 'stopped', ''))}; "
        f"different: {', '.join(different) or 'nothing'} (seed {seed})",
        flush=True,
    )
    return not different and ends > 0


def main(kills=30, *kinds):
    failed = False
    for kind in kinds or KINDS:
        seed = int.from_bytes(os.urandom(4), "little")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PORTNET_CACHE_DIR"] = folder + "/cache"  # kills hit its files, too
            failed = not chains(kind, kills, folder, seed) or failed
    return failed


@pytest.mark.skipif(not processes.can_fork, reason="needs os.fork")
@pytest.mark.parametrize("kind", KINDS)
def test_killed_training_that_is_resumed_is_the_same(kind):
    processes.script(__file__, 6, kind)


if __name__ == "__main__":
    count, *kinds = sys.argv[1:] or [30]
    sys.exit(main(int(count), *kinds))
