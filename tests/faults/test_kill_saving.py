"""A process that saves again and again is killed at random times: no file is ever corrupt.

    python tests/faults/test_kill_saving.py [KILLS]

The same is done to `open(path, "wb").write(...)`, which must leave corrupt files: else the kills
come at times that prove nothing.
"""

import os
import sys
import tempfile
import time

import numpy as np
import processes
import pytest
from processes import Victim, draws, kill_after, temporaries

import portnet
from portnet.files import atomic
from portnet.files.models import to_buffers

NET = portnet.mlp([256, 1024, 768, 8])  # large enough that the checksum is written last
TRAINER = portnet.Trainer(NET, "squared_error", portnet.SGD(0.1))
ROUND = 200  # a byte holds the number of a save


def run_number(n, template):
    """Return a run all of whose parameters are n."""
    from dataclasses import replace

    params = portnet.tree.map(lambda p: np.full_like(p, n), template.params)
    return replace(template, params=params, epoch=n)


def number_of(path):
    """Return the number of the run in a file; raise ModelFileError for a corrupt one."""
    run = portnet.load(path)
    found = {float(v) for leaf in processes.leaves(run.params) for v in (leaf.min(), leaf.max())}
    if found != {float(run.epoch)}:
        raise portnet.ModelFileError(f"a mix of the runs {found}, epoch {run.epoch}")
    return run.epoch


def save_naively(run, path):
    with open(path, "wb") as file:
        file.write(b"".join(to_buffers(run, state=False)))


def save_forever(tell, save, path, first, template):
    """Save runs with the numbers first, first + 1, ...; tell each before, and zero after it."""
    for n in range(first, ROUND):
        run = run_number(n, template)
        tell(bytes([n]))
        save(run, path)
        tell(b"\0")


def seconds_of(save, path, template):
    """Return the seconds of a save: the median of seven."""
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        save(run_number(1, template), path)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[3]


def kills(count, save, folder, seed):
    """Kill so many savers; return the numbers of corrupt files, of litter, and of late states."""
    path, draw = os.path.join(folder, "run.safetensors"), draws(seed)
    X = np.zeros((2, 256), np.float32)
    template = TRAINER.fit(X, np.zeros((2, 8), np.float32), epochs=0)
    assert to_buffers(template, state=False).nbytes >= atomic._LARGE
    seconds, within = seconds_of(save, path, template), 0
    corrupt, litter, stays, last = 0, 0, 0, 1
    for _ in range(count):
        first = last % 100 + 1
        victim = Victim(save_forever, save, path, first, template)
        victim.wait_for(bytes([first]))
        told, status = kill_after(victim, draw.uniform(0, 4 * seconds))
        assert status == -9, f"the saver ended by itself: {status}"
        told = bytes([first]) + told
        begun, done = max(told), max((n for n in told[: told.rfind(0)] if n), default=last)
        within += told[-1] != 0
        litter += bool(temporaries(folder))
        try:
            found = number_of(path)
            if found not in (begun, done):
                raise portnet.ModelFileError(f"run {found}, but {done} was done, {begun} begun")
            last = found
        except portnet.ModelFileError as error:
            corrupt += 1
            if save is not save_naively:
                print(error)
            last = begun
        save(run_number(last, template), path)
        stays += bool(temporaries(folder))
    return {"corrupt": corrupt, "within a save": within, "left": litter, "stale": stays}


def main(count=200):
    seed = int.from_bytes(os.urandom(4), "little")
    with tempfile.TemporaryDirectory() as folder:
        found = kills(count, portnet.save, folder, seed)
    with tempfile.TemporaryDirectory() as folder:
        naive = kills(count, save_naively, folder, seed)
    print(
        f"saving: {count} kills, {found['within a save']} within a save, {found['corrupt']} "
        f"corrupt files; {found['left']} left a temporary file, {found['stale']} of them after the "
        f"next save; open().write: {naive['corrupt']} corrupt files (seed {seed})"
    )
    failed = found["corrupt"] or found["stale"] or not found["within a save"]
    return bool(failed or naive["corrupt"] < min(3, count // 10))


@pytest.mark.skipif(not processes.can_fork, reason="needs os.fork")
def test_kill_during_saving_leaves_a_whole_file():
    processes.script(__file__, 30)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
