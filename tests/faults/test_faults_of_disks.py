"""Disks that are full or fail while a fit writes its checkpoints; what is left can be resumed.

python tests/faults/test_faults_of_disks.py
"""

import collections
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import processes
import pytest
from processes import Victim, differing, quietly, temporaries

import portnet
from portnet.files import atomic, checkpoint

ROWS = np.random.default_rng(8).standard_normal((64, 6))
LABELS = (ROWS[:, 0] > 0).astype(int)
TRAINER = portnet.Trainer(portnet.mlp([6, 16, 2]), "softmax_cross_entropy", batch_size=16)
LARGE = portnet.Trainer(portnet.mlp([6, 200, 200, 2]), "softmax_cross_entropy", batch_size=16)
CALLS = "open", "write", "fsync", "close", "replace", "link", "unlink"


def fit(trainer=TRAINER, **options):
    return quietly(trainer.fit, ROWS, LABELS, **{"epochs": 4} | options)


class FaultyOS:
    """The module os, whose n-th call, of those that checkpoints make, does something instead."""

    def __init__(self, at, fault, calls=CALLS):
        self.count, self.at, self.fault, self.calls, self.failed = 0, at, fault, calls, ""

    def __getattr__(self, name):
        function = getattr(os, name)
        if name not in self.calls:
            return function

        def counted(*args, **options):
            self.count += 1
            if self.count == self.at:
                self.failed = name
                self.fault(*args)
            return function(*args, **options)

        return counted


def io_error(*args):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def use(faulty, patch):
    patch.setattr(atomic, "os", faulty)
    patch.setattr(checkpoint, "os", faulty)


def whole_files(folder):
    """Return epoch and step of every checkpoint in a folder; each must be whole."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".st"):
            run = portnet.load(os.path.join(folder, name))
            found[name] = run.epoch, run.step
    return found


# One call of the system after the other fails ----------------------------------------------------


@pytest.mark.parametrize(("keep", "large"), [(1, False), (2, False), (1, True)])
def test_each_failing_call_leaves_a_checkpoint_and_says_so(keep, large, tmp_path, monkeypatch):
    """The old file is intact or replaced, the temporary one is gone, the error has the run.

    The checksum of a large file is written last, after an fsync of its own.
    """
    monkeypatch.setattr(atomic, "_LARGE", 1 if large else atomic._LARGE)
    failed = collections.Counter()
    for at in range(1, 1000):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        path = str(folder / "run.st")
        fit(epochs=1, checkpoint=path)
        faulty = FaultyOS(at, io_error)
        with pytest.MonkeyPatch.context() as patch:
            use(faulty, patch)
            error, run = None, None
            try:
                run = fit(checkpoint=path, resume=True, keep=keep)
            except portnet.CheckpointError as raised:
                error = raised
        if not faulty.failed:
            break
        failed[faulty.failed] += 1
        epoch = portnet.load(path).epoch
        if error is None:  # a copy was made, or litter stayed, or there was nothing to do
            copied = ["open", "link", "replace"] if keep > 1 else []
            assert faulty.failed in ("unlink", "close", *copied)
            assert run.epoch == 4
        else:
            assert error.errno == errno.EIO
            kept = [str(folder / f"run-epoch-{n}.st") for n in range(1, 4)] if keep > 1 else []
            assert error.filename in (path, *kept)
            assert faulty.failed not in ("unlink", "link")
            run = getattr(error, "run", None)
        at_start = run is None  # it was the check before training
        if at_start:
            assert epoch == 1
        elif run.epoch < 4 or faulty.failed != "unlink":
            assert epoch in (run.epoch - 1, run.epoch)
            assert epoch < run.epoch or faulty.failed != "write"
        if faulty.failed != "unlink":
            assert temporaries(folder) == []
        assert set(whole_files(folder)) >= {"run.st"}
        assert fit(checkpoint=path, resume=True, keep=keep).epoch == 4
        assert temporaries(folder) == []
        shutil.rmtree(folder)
    print(f"disks, keep={keep}: {sum(failed.values())} failing calls, {dict(failed)}")
    assert failed["write"] >= 6
    assert failed["fsync"] >= (9 if large else 6)
    assert failed["replace"] >= 3


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_training_goes_on_with_a_warning_where_that_is_wanted(call, tmp_path):
    path = str(tmp_path / "run.st")
    whole = fit()
    for at in range(1, 100):
        fit(epochs=1, checkpoint=path)
        faulty = FaultyOS(at, io_error, (call,))
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            use(faulty, patch)
            warnings.simplefilter("always")
            run = TRAINER.fit(
                ROWS,
                LABELS,
                epochs=4,
                checkpoint=path,
                resume=True,
                on_checkpoint_error="warn",
            )
        if not faulty.failed:
            assert at > 3
            break
        assert [w.filename for w in caught] == [__file__]
        assert str(caught[0].message).startswith("training goes on without a checkpoint: [Errno 5]")
        assert run.epoch == 4
        assert run.history == whole.history
        assert portnet.load(path).epoch == 4  # written again at the end
        assert temporaries(tmp_path) == []


# Killed at each call ----------------------------------------------------------------------------


EAGER = portnet.Trainer(TRAINER.model, TRAINER.loss, batch_size=16, compile=False)
OPTIONS = {
    "epochs": 3,  # of three steps
    "validation": 0.25,
    "early_stopping": portnet.EarlyStopping(patience=50),
    "every": "2 steps",
}


def fit_and_die(tell, path, keep, at):
    def die(*args):
        os.kill(os.getpid(), 9)

    with pytest.MonkeyPatch.context() as patch:
        use(FaultyOS(at, die), patch)
        fit(EAGER, checkpoint=path, resume=True, keep=keep, **OPTIONS)


def kill_at_each_call(keep):
    """Kill a fit in each call of the system that its checkpoints make; return whether all is well."""
    kills, failed = 0, 0
    with tempfile.TemporaryDirectory() as top:
        whole = os.path.join(top, "whole")
        portnet.save(fit(EAGER, checkpoint=whole + ".st", **OPTIONS), whole, state=True)
        for at in range(1, 1000):
            folder = os.path.join(top, str(at))
            os.mkdir(folder)
            path, again = os.path.join(folder, "run.st"), os.path.join(folder, "again")
            _, status = Victim(fit_and_die, path, keep, at).end()
            if status == 0:
                break
            assert status == -9, f"the fit ended with status {status}"
            kills += 1
            found = whole_files(folder)
            newest = max(found.values(), default=(0, 0))
            if found and found.get("run.st") != newest:
                failed += 1
                print(f"killed in call {at}: {found}")
            run = fit(EAGER, checkpoint=path, resume=True, keep=keep, **OPTIONS)
            portnet.save(run, again, state=True)
            different = differing(again, whole) + temporaries(folder)
            found = whole_files(folder)
            best = found.pop("run-best.st", None)
            if different or len(found) > keep or found["run.st"] != (3, 0):
                failed += 1
                print(f"killed in call {at} and resumed: {different}, {found}")
            if keep > 1 and (best is None or best[0] != run.best_epoch):
                failed += 1
                print(f"killed in call {at}: the best is {best}, not {run.best_epoch}")
            shutil.rmtree(folder)
    print(f"disks, keep={keep}: killed in {kills} calls of the system, one after the other")
    return failed == 0 and kills > 20


@pytest.mark.skipif(not processes.can_fork, reason="needs os.fork")
@pytest.mark.parametrize("keep", [1, 3])
def test_killed_in_each_call_the_newest_checkpoint_is_whole(keep):
    processes.script(__file__, "kill at each call", keep)


# Checkpoints that are kept ----------------------------------------------------------------------


def test_the_last_ones_are_kept_also_over_a_resume(tmp_path):
    path = str(tmp_path / "run.st")
    fit(epochs=5, checkpoint=path, keep=3)
    assert whole_files(tmp_path) == {
        "run.st": (5, 0),
        "run-epoch-4.st": (4, 0),
        "run-epoch-3.st": (3, 0),
    }
    fit(epochs=7, checkpoint=path, keep=3, resume=True)
    assert whole_files(tmp_path) == {
        "run.st": (7, 0),
        "run-epoch-6.st": (6, 0),
        "run-epoch-5.st": (5, 0),
    }


def test_older_ones_that_cannot_be_deleted_stay(tmp_path):
    path = str(tmp_path / "run.st")

    def refuse(name, *more):
        if "-epoch-" in os.path.basename(name) and not name.endswith(".tmp"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    faulty = FaultyOS(0, refuse, ("unlink",))
    with pytest.MonkeyPatch.context() as patch:
        use(faulty, patch)
        faulty.__dict__["unlink"] = lambda name: (refuse(name), os.unlink(name))
        assert fit(epochs=5, checkpoint=path, keep=2).epoch == 5
    assert whole_files(tmp_path)["run.st"] == (5, 0)
    assert len(whole_files(tmp_path)) == 5
    fit(epochs=6, checkpoint=path, keep=2, resume=True)
    assert whole_files(tmp_path) == {"run.st": (6, 0), "run-epoch-5.st": (5, 0)}


def test_checkpoint_that_somebody_moves_is_no_error(tmp_path):
    path = str(tmp_path / "run.st")

    def move(report):
        if os.path.exists(path):
            os.rename(path, tmp_path / "mine")

    assert fit(checkpoint=path, keep=3, callbacks=[move]).epoch == 4
    assert portnet.load(path).epoch == 4


def test_file_systems_without_links_get_copies(tmp_path):
    path = str(tmp_path / "run.st")

    def no_links(*args, **options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    faulty = FaultyOS(0, None, ())
    faulty.__dict__["link"] = no_links
    with pytest.MonkeyPatch.context() as patch:
        use(faulty, patch)
        fit(checkpoint=path, keep=2, epochs=3)
    assert whole_files(tmp_path) == {"run.st": (3, 0), "run-epoch-2.st": (2, 0)}
    assert temporaries(tmp_path) == []


# Full disks --------------------------------------------------------------------------------------


def starve(path, limit):
    """Fit where there is no space after the first checkpoint; say what the error was as JSON."""

    def begin(report):
        if limit and report.epoch == 2:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) // 2, -1))

    told = {}
    try:
        fit(LARGE, checkpoint=path, callbacks=[begin])
    except portnet.CheckpointError as error:
        told = {
            "errno": error.errno,
            "filename": error.filename,
            "message": str(error),
            "epoch": error.run.epoch,
        }
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    told |= {"old": portnet.load(path).epoch, "files": os.listdir(os.path.dirname(path))}
    portnet.save(fit(LARGE, epochs=1), path)  # smaller: there is space again
    print(json.dumps(told | {"new": portnet.load(path).epoch}))


def check_starved(status, out, err, number, path):
    assert status == 0, err
    told = json.loads(out)
    message = told.pop("message")
    expected = {"errno": number, "filename": path, "epoch": 2, "old": 1, "new": 1}
    assert told == expected | {"files": ["run.st"]}
    assert message.startswith(f"[Errno {number}] the file cannot be written")
    assert "; free space there, or write to another disk: " in message


@pytest.mark.skipif(os.name == "nt", reason="needs RLIMIT_FSIZE")
def test_limit_of_the_size_of_a_file_leaves_the_old_one(tmp_path):
    path = str(tmp_path / "run.st")
    end = processes.finish(processes.start(__file__, "starve", path, "limit"))
    check_starved(*end, errno.EFBIG, path)


def on_tmpfs(options, *command):
    """Run Python with a tmpfs of its own, mounted on a folder; return how it ended, and the folder.

    The mount is in a namespace of the process and ends with it. Skips the test where that is not
    allowed.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("a tmpfs needs unshare")
    with tempfile.TemporaryDirectory() as folder:
        mount = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
        for flags in ("-m", "-rm"):
            shell = [unshare, flags, "sh", "-c", f'mount -t tmpfs -o {options} none "$0"', folder]
            done = subprocess.run(shell, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        else:
            pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
        run = [unshare, flags, "sh", "-c", mount, folder, sys.executable, *command, folder]
        done = subprocess.run(
            run, capture_output=True, text=True, check=False, env=processes.environment()
        )
        return done.returncode, done.stdout, done.stderr, folder


def test_full_disk_leaves_the_old_file(tmp_path):
    path = str(tmp_path / "run.st")
    fit(LARGE, epochs=1, checkpoint=path)
    size = os.path.getsize(path) * 3 // 2048  # in kB: there is space for one and a half
    status, out, err, folder = on_tmpfs(f"size={size}k", __file__, "starve on tmpfs")
    check_starved(status, out, err, errno.ENOSPC, os.path.join(folder, "run.st"))


# Places that cannot be written ---------------------------------------------------------------------


class Untouched:
    """Data that nobody may look at."""

    def __getattribute__(self, name):
        raise AssertionError(f"the data were looked at: {name}")


def refused(path, number, words, **options):
    """Fail unless a fit is refused before the data are looked at."""
    with pytest.raises(portnet.CheckpointError, match=words) as error:
        TRAINER.fit(Untouched(), Untouched(), checkpoint=path, **options)
    assert (error.value.errno, error.value.filename) == (number, os.fspath(path))


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"on_checkpoint_error": "warn"}])
def test_places_that_cannot_be_written_are_refused_before_training(options, tmp_path):
    path = tmp_path / "missing" / "run.st"
    refused(path, errno.ENOENT, "make its folder first", **options)
    refused(tmp_path, errno.EISDIR, "give the path of a file in that folder", **options)
    (tmp_path / "file").write_text("no folder")
    refused(tmp_path / "file" / "run.st", errno.ENOTDIR, "make its folder first", **options)
    refused(tmp_path / ("n" * 300), errno.ENAMETOOLONG, "choose a shorter name", **options)
    refused(tmp_path / "r\0n", errno.EINVAL, "cannot contain the character NUL", **options)
    (tmp_path / "run-best.st").mkdir()
    refused(tmp_path / "run.st", errno.EISDIR, "cannot be kept as run-best.st", keep=2, **options)
    (tmp_path / "run-best.st").rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        refused(tmp_path / "fifo", errno.EINVAL, "it is a device, FIFO or socket", **options)
    assert sorted(os.listdir(tmp_path)) in (["fifo", "file"], ["file"])


def test_name_that_keep_makes_too_long_is_refused_before_training(tmp_path):
    path = tmp_path / ("n" * 245 + ".st")  # 255 with -epoch-9 or -best
    words = "cannot be kept as n*-epoch-9*-step-9*.st .*choose a shorter name"
    refused(path, errno.ENAMETOOLONG, words, keep=2)
    assert os.listdir(tmp_path) == []
    assert fit(epochs=2, checkpoint=path).epoch == 2
    shorter = tmp_path / ("n" * 200 + ".st")
    fit(epochs=3, checkpoint=shorter, keep=2)
    assert len(whole_files(tmp_path)) == 3


def test_checkpoint_at_a_symbolic_link_is_written_where_it_points_to(tmp_path):
    target, link = tmp_path / "disk" / "blob.st", tmp_path / "run.st"
    target.parent.mkdir()
    link.symlink_to(target)
    fit(epochs=3, checkpoint=link, keep=2)
    fit(epochs=4, checkpoint=link, keep=2, resume=True)
    assert link.is_symlink()
    assert whole_files(target.parent) == {"blob.st": (4, 0)}
    assert whole_files(tmp_path) == {"run.st": (4, 0), "run-epoch-3.st": (3, 0)}
    assert temporaries(tmp_path) == temporaries(target.parent) == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_folder_and_file_without_permission_are_refused_before_training(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    refused(folder / "run.st", errno.EACCES, "choose a folder and a file that you may write")
    fit(epochs=1, checkpoint=tmp_path / "run.st")
    (tmp_path / "run.st").chmod(0o400)
    refused(tmp_path / "run.st", errno.EACCES, "choose a folder and a file that you may write")


def test_read_only_disk_is_refused_before_training():
    status, out, err, _ = on_tmpfs("ro", __file__, "read-only")
    assert status == 0, out + err


# Two processes, and numbers that stop being finite -------------------------------------------------


def train_seed(tell, path, seed):
    trainer = portnet.Trainer(TRAINER.model, TRAINER.loss, batch_size=16, seed=seed, compile=False)
    fit(trainer, checkpoint=path, every="1 steps", epochs=8)


def two_processes():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.st")
        victims = [Victim(train_seed, path, seed) for seed in (1, 2)]
        ended, seen = [], collections.Counter()

        def wait():
            ended.extend(victim.end()[1] for victim in victims)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while waiting.is_alive():
            if os.path.exists(path):
                seen[portnet.load(path).trainer.seed] += 1
        waiting.join()
        last = portnet.load(path)
        print(f"disks, two processes: {sum(seen.values())} files read, all whole")
        return ended == [0, 0] and last.epoch == 8 and seen and not temporaries(folder)


@pytest.mark.skipif(not processes.can_fork, reason="needs os.fork")
def test_two_processes_that_write_one_path_leave_whole_files():
    processes.script(__file__, "two processes")


@pytest.mark.parametrize("every", [1, "1 steps", "3 steps"])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("optimizer", [portnet.SGD(1e4), portnet.Momentum(1e5), portnet.SGD(1e30)])
def test_divergence_never_replaces_the_last_finite_checkpoint(every, compiled, optimizer, tmp_path):
    path = tmp_path / "run.st"
    net = portnet.mlp([6, 8, 1])
    t = portnet.Trainer(net, "squared_error", optimizer, batch_size=16, compile=compiled)
    with pytest.raises(portnet.DivergenceError) as error:
        quietly(t.fit, ROWS, ROWS[:, 0], epochs=200, checkpoint=path, every=every, keep=3)
    files = sorted(tmp_path.glob("*.st"))
    for file in files:
        run = portnet.load(file)  # which refuses parameters that are not finite
        assert all(np.isfinite(leaf).all() for leaf in processes.leaves(run.params, run.state))
        assert np.isfinite(run.history.get("loss", [])).all()
    if error.value.run.epoch:
        assert path in files
        assert portnet.load(path).epoch == error.value.run.epoch
    if path in files:
        with pytest.raises(portnet.DivergenceError) as again:
            quietly(t.fit, ROWS, ROWS[:, 0], epochs=200, checkpoint=path, resume=True, every=every)
        assert again.value.run.epoch == error.value.run.epoch


def test_checkpoint_whose_optimizer_state_overflows_loads(tmp_path):
    """Adam squares gradients: infinite, where the parameters are finite."""
    path = tmp_path / "run.st"
    t = portnet.Trainer(portnet.mlp([6, 4, 1]), "absolute_error", portnet.Adam(1e-3))
    run = quietly(t.fit, 3e19 * ROWS, ROWS[:, 0], epochs=2, checkpoint=path)
    assert not all(np.isfinite(leaf).all() for leaf in processes.leaves(run.state))
    loaded = portnet.load(path)
    for a, b in zip(processes.leaves(run.params), processes.leaves(loaded.params), strict=True):
        np.testing.assert_array_equal(a, b)


def main(what=None, *args):
    if what is None:
        return pytest.main(["-q", __file__])
    if what == "kill at each call":
        return not kill_at_each_call(int(args[0]))
    if what == "two processes":
        return not two_processes()
    if what == "read-only":
        return refused(Path(args[0], "run.st"), errno.EROFS, "choose a folder and a file that you")
    path = args[0] if what == "starve" else os.path.join(args[0], "run.st")
    return starve(path, what == "starve")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
