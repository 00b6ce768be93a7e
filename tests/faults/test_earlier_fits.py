"""A9: a fit that begins anew deletes what an earlier one has left, and never the newest good one.

A fit that keeps one checkpoint deletes no others.

python tests/faults/test_earlier_fits.py
"""

import os
import shutil
import sys
import tempfile
from dataclasses import replace

import numpy as np
import processes
import pytest
import test_faults_of_disks as disks
from processes import Victim, temporaries

import portnet

EARLIER = replace(disks.EAGER, seed=5)
OPTIONS = disks.OPTIONS | {"epochs": 2}


def fit_and_die(tell, path, keep, at):
    def die(*args):
        os.kill(os.getpid(), 9)

    with pytest.MonkeyPatch.context() as patch:
        disks.use(disks.FaultyOS(at, die), patch)
        disks.fit(disks.EAGER, checkpoint=path, keep=keep, **OPTIONS)


def seeds(folder):
    """Return the seed of every checkpoint in a folder; each must be whole."""
    return {
        name: portnet.load(os.path.join(folder, name)).trainer.seed
        for name in os.listdir(folder)
        if name.endswith(".st")
    }


def kill_at_each_call(keep):
    """Kill a fit that begins anew in each call of its checkpoints; return whether all is well."""
    kills, failed = 0, 0
    with tempfile.TemporaryDirectory() as top:
        first = os.path.join(top, "first")
        os.mkdir(first)
        disks.fit(EARLIER, checkpoint=os.path.join(first, "run.st"), keep=3, **OPTIONS)
        before = seeds(first)
        assert len(before) == 4
        for at in range(1, 1000):
            folder = os.path.join(top, str(at))
            shutil.copytree(first, folder)
            path = os.path.join(folder, "run.st")
            _, status = Victim(fit_and_die, path, keep, at).end()
            if status == 0:
                break
            assert status == -9, f"the fit ended with status {status}"
            kills += 1
            found = seeds(folder)
            if "run.st" not in found or (found["run.st"] == 5 and found != before):
                failed += 1
                print(f"killed in call {at}: {found}, there were {before}")
            run = disks.fit(disks.EAGER, checkpoint=path, keep=keep, **OPTIONS)
            found = seeds(folder)
            if keep == 1:  # others stay, and the one file is new
                whole = found == before | {"run.st": 0}
            else:
                best = found.pop("run-best.st", None)
                whole = set(found.values()) | {best or 0} == {0} and len(found) == keep
            if not whole or temporaries(folder):
                failed += 1
                print(f"killed in call {at} and begun again: {found}, {temporaries(folder)}")
            assert portnet.load(path).epoch == run.epoch
            shutil.rmtree(folder)
    print(f"earlier fits, keep={keep}: killed in {kills} calls of the system, one after the other")
    return failed == 0 and kills > 20


@pytest.mark.skipif(not processes.can_fork, reason="needs os.fork")
@pytest.mark.parametrize("keep", [1, 3])
def test_a9_ended_in_each_call_the_newest_of_two_fits_is_whole(keep):
    processes.script(__file__, keep)


def test_earlier_ones_that_cannot_be_deleted_are_no_error(tmp_path):
    path = str(tmp_path / "run.st")
    disks.fit(epochs=5, checkpoint=path, keep=3)

    def refuse(name, *more):
        raise PermissionError(13, "not yours")

    faulty = disks.FaultyOS(0, None, ())
    faulty.__dict__["unlink"] = refuse
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disks.checkpoint, "os", faulty)
        assert disks.fit(epochs=2, checkpoint=path, keep=2).epoch == 2
    assert disks.whole_files(tmp_path)["run.st"] == (2, 0)
    disks.fit(epochs=3, checkpoint=path, keep=2)
    assert disks.whole_files(tmp_path) == {"run.st": (3, 0), "run-epoch-2.st": (2, 0)}


def test_a_damaged_file_among_the_older_ones_is_left_alone(tmp_path):
    path = str(tmp_path / "run.st")
    disks.fit(epochs=5, checkpoint=path, keep=3)
    (tmp_path / "run-epoch-3.st").write_bytes(np.arange(99).tobytes())
    disks.fit(epochs=6, checkpoint=path, keep=2, resume=True)
    disks.fit(epochs=2, checkpoint=path, keep=2)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["run-epoch-1.st", "run-epoch-3.st", "run.st"]


if __name__ == "__main__":
    sys.exit(not all([kill_at_each_call(int(keep)) for keep in sys.argv[1:] or (1, 3)]))
