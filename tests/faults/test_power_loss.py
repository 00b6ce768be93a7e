"""A power loss at any moment of a save leaves the whole old file or the whole new one.

The calls of the system that a save makes are recorded, and every prefix of them is replayed on a
model of a disk. The disk has what was synchronised (fsync). In all combinations, it has or lacks
each write that no fsync of its file follows, and each change of names that no fsync of the folder
follows. A rename is one change: POSIX makes it atomic. Most file systems promise more (Pillai et
al., "All File Systems Are Not Created Equal", OSDI 2014).
"""

import errno
import itertools
import os

import pytest

from portnet.files import atomic

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows cannot synchronise folders")

OLD = b"the old contents of this file"
NEW = [b"new con", b"tents, longer than ", b"the old ones"]
WHOLE = b"".join(NEW)

# What may be called without being recorded, since it changes nothing that is in a file.
UNRECORDED = "lseek stat fstat access scandir getpid kill readlink strerror fsdecode fsencode chmod"


class Recorder:
    """The os module, with a log of what was done in a folder, in which a file is a number.

    Operations: ("write", file, at, data), ("truncate", file), ("sync", file), ("name", name, file),
    ("rename", name, new name, file), ("remove", name), ("sync folder",).
    """

    def __init__(self, folder, left_out=None):
        self.folder, self.log, self._left_out = os.fspath(folder), [], left_out
        self._synchronised = 0  # times that files were
        self.files = {name: i for i, name in enumerate(sorted(os.listdir(folder)))}
        self._count, self._opened = len(self.files), {}  # number of the system: file, or the folder

    def __getattr__(self, name):
        found = getattr(os, name)
        if callable(found) and name not in UNRECORDED.split():
            raise NotImplementedError(f"os.{name} is not recorded")
        return found

    def open(self, path, flags, mode=0o777):
        number = os.open(path, flags, mode)
        if path == self.folder:
            self._opened[number] = "folder"
            return number
        name = self._name(path)
        if name not in self.files:
            self.files[name], self._count = self._count, self._count + 1
            self.log.append(("name", name, self.files[name]))
        if flags & os.O_TRUNC:
            self.log.append(("truncate", self.files[name]))
        self._opened[number] = self.files[name]
        return number

    def write(self, number, data):
        at = os.lseek(number, 0, os.SEEK_CUR)
        written = os.write(number, data)
        self.log.append(("write", self._opened[number], at, bytes(data[:written])))
        return written

    def fsync(self, number):
        what = self._opened[number]
        self._synchronised += what != "folder"
        kinds = ["folder"] if what == "folder" else ["file", f"file, {self._synchronised}"]
        if self._left_out not in kinds:
            self.log.append(("sync folder",) if what == "folder" else ("sync", what))

    def close(self, number):
        os.close(number)
        del self._opened[number]

    def link(self, path, to):
        os.link(path, to)
        name, new = self._name(path), self._name(to)
        self.files[new] = self.files[name]
        self.log.append(("name", new, self.files[new]))

    def replace(self, path, to):
        os.replace(path, to)
        name, new = self._name(path), self._name(to)
        if self.files[name] == self.files.get(new):
            return  # two names of one file: POSIX leaves both
        self.files[new] = self.files.pop(name)
        self.log.append(("rename", name, new, self.files[new]))

    def unlink(self, path):
        os.unlink(path)
        del self.files[self._name(path)]
        self.log.append(("remove", self._name(path)))

    def _name(self, path):
        folder, name = os.path.split(path)
        assert folder == self.folder
        return name


def disks(log, names, files):
    """Yield the contents by name on each disk that a power loss may leave after these operations.

    Before them, the disk has the files `names`, by name, and the contents `files`, by file.
    """
    unsure = [i for i in range(len(log)) if may_be_missing(log, i)]
    for kept in itertools.product((True, False), repeat=len(unsure)):
        lost = {i for i, keep in zip(unsure, kept, strict=True) if not keep}
        on_disk, contents = dict(names), {file: bytearray(data) for file, data in files.items()}
        for i, operation in enumerate(log):
            if i not in lost:
                apply(operation, on_disk, contents)
        yield {name: bytes(contents.get(file, b"")) for name, file in on_disk.items()}


def may_be_missing(log, i):
    """Tell whether nothing that follows an operation makes sure that it is on the disk."""
    kind, *given = log[i]
    if kind in ("write", "truncate"):
        return ("sync", given[0]) not in log[i:]
    return kind in ("name", "rename", "remove") and ("sync folder",) not in log[i:]


def apply(operation, names, contents):
    match operation:
        case "write", file, at, data:
            found = contents.setdefault(file, bytearray())
            found.extend(bytes(max(0, at - len(found))))  # zeros where a write before is missing
            found[at : at + len(data)] = data
        case "truncate", file:
            contents[file] = bytearray()
        case "name", name, file:
            names[name] = file
        case "rename", name, new, file:
            names.pop(name, None)
            names[new] = file
        case "remove", name:
            names.pop(name, None)


def disks_after_power_losses(system, names, files):
    """Return the contents by name on each disk after each number of operations: a list of lists."""
    return [list(disks(system.log[:done], names, files)) for done in range(len(system.log) + 1)]


def contents_after_power_losses(folder, save, old=OLD, left_out=None):
    """Return what the file has after a power loss within a save, and after one at its end: sets."""
    path, names, files = folder / "model", {}, {}
    if old is not None:
        path.write_bytes(old)
        names, files = {"model": 0}, {0: old}
    system = Recorder(folder, left_out)
    save(system, str(path))
    assert path.read_bytes() == WHOLE
    found = disks_after_power_losses(system, names, files)
    *within, after = [{disk.get("model") for disk in possible} for possible in found]
    return set().union(*within), after


class Late:
    """NEW, large, with its first letters as the patch, which is written last."""

    parts = [b"---" + NEW[0][3:], *NEW[1:]]  # noqa: RUF012
    nbytes = len(WHOLE)
    patch = staticmethod(lambda: (0, NEW[0][:3]))

    def __iter__(self):
        raise AssertionError("large buffers are written in parts")


def saving(monkeypatch, new):
    def save(system, path):
        monkeypatch.setattr(atomic, "_LARGE", 1)
        monkeypatch.setattr(atomic, "os", system)
        atomic.write_file(path, new)

    return save


@pytest.fixture(params=["at once", "with a patch"])
def write_file(request, monkeypatch):
    return saving(monkeypatch, NEW if request.param == "at once" else Late())


@pytest.fixture
def write_late(monkeypatch):
    return saving(monkeypatch, Late())


def write_in_place(system, path):
    """Do what open(path, "wb").write does, and synchronise all."""
    number = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for data in NEW:
        system.write(number, data)
    for synchronised in (number, system.open(system.folder, os.O_RDONLY)):
        system.fsync(synchronised)
        system.close(synchronised)


@pytest.mark.parametrize("old", [OLD, None], ids=["old file", "no old file"])
def test_file_is_the_old_or_the_new_one_and_after_the_save_the_new_one(tmp_path, write_file, old):
    within, after = contents_after_power_losses(tmp_path, write_file, old)
    assert within == {old, WHOLE}
    assert after == {WHOLE}


def test_without_fsync_of_the_file_there_would_be_mixtures(tmp_path, write_file):
    within, after = contents_after_power_losses(tmp_path, write_file, left_out="file")
    assert {b"", NEW[0], bytes(len(NEW[0])) + NEW[1]} < within - {OLD, WHOLE}
    assert after - {OLD, WHOLE}


def test_without_the_second_fsync_a_file_would_lack_its_patch(tmp_path, write_late):
    """The first one saves time only."""
    without = b"".join(Late.parts)
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    within, after = contents_after_power_losses(tmp_path / "2", write_late, left_out="file, 2")
    assert within == {OLD, WHOLE, without}
    assert after == {WHOLE, without}
    within, after = contents_after_power_losses(tmp_path / "1", write_late, left_out="file, 1")
    assert within == {OLD, WHOLE}
    assert after == {WHOLE}


def test_without_fsync_of_the_folder_the_old_file_would_come_back(tmp_path, write_file):
    within, after = contents_after_power_losses(tmp_path, write_file, left_out="folder")
    assert within == {OLD}  # the rename is the last operation
    assert after == {OLD, WHOLE}


def test_writing_in_place_would_leave_mixtures(tmp_path):
    within, after = contents_after_power_losses(tmp_path, write_in_place)
    assert {b"", NEW[0], NEW[0] + OLD[len(NEW[0]) :]} < within - {OLD, WHOLE}
    assert after == {WHOLE}


# A second name -----------------------------------------------------------------------------------


def no_links(path, to):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["links", "no links"])
def system_of(request, monkeypatch):
    """Return a recorder of a folder, whose file system may have no links."""

    def make(folder, left_out=None):
        system = Recorder(folder, left_out)
        if request.param == "no links":
            system.link = no_links
        monkeypatch.setattr(atomic, "os", system)
        return system

    return make


@pytest.mark.parametrize("second", [OLD, None], ids=["old file", "no old file"])
def test_second_name_is_that_of_the_old_file_or_of_the_new_one(tmp_path, system_of, second):
    """Both files are whole; after the call, the second name is that of the new one."""
    (tmp_path / "model").write_bytes(WHOLE)
    names, files = {"model": 0}, {0: WHOLE}
    if second is not None:
        (tmp_path / "model-best").write_bytes(second)
        names, files = names | {"model-best": 1}, files | {1: second}
    system = system_of(tmp_path)
    atomic.link_file(tmp_path / "model", tmp_path / "model-best")
    assert sorted(os.listdir(tmp_path)) == ["model", "model-best"]
    *within, after = disks_after_power_losses(system, names, files)
    assert {disk.get("model-best") for disk in after} == {WHOLE}
    assert {disk.get("model-best") for possible in within for disk in possible} == {second, WHOLE}
    assert {disk["model"] for possible in [*within, after] for disk in possible} == {WHOLE}


def test_second_name_of_the_same_file_stays(tmp_path, system_of):
    (tmp_path / "model").write_bytes(WHOLE)
    os.link(tmp_path / "model", tmp_path / "model-best")
    system = system_of(tmp_path)
    system.files = {"model": 0, "model-best": 0}
    atomic.link_file(tmp_path / "model", tmp_path / "model-best")
    found = disks_after_power_losses(system, {"model": 0, "model-best": 0}, {0: WHOLE})
    for disk in itertools.chain(*found):
        assert (disk["model"], disk["model-best"]) == (WHOLE, WHOLE)
    assert sorted(os.listdir(tmp_path)) == ["model", "model-best"]


def keep_and_write(folder, system):
    """Do what a checkpoint with keep=2 does; return the disks that a power loss may leave."""
    (folder / "model").write_bytes(OLD)
    system.files = {"model": 0}
    system._count = 1
    atomic.link_file(folder / "model", folder / "model-epoch-1")
    atomic.write_file(folder / "model", NEW)
    *within, after = disks_after_power_losses(system, {"model": 0}, {0: OLD})
    return itertools.chain(*within), after


def test_file_that_is_kept_is_there_under_one_of_its_names(tmp_path, system_of):
    within, after = keep_and_write(tmp_path, system_of(tmp_path))
    assert all(OLD in (disk["model"], disk.get("model-epoch-1")) for disk in within)
    assert {(disk["model"], disk["model-epoch-1"]) for disk in after} == {(WHOLE, OLD)}


def test_without_fsync_of_the_folder_a_file_that_is_kept_would_be_lost(tmp_path, system_of):
    _, after = keep_and_write(tmp_path, system_of(tmp_path, left_out="folder"))
    assert any(OLD not in (disk["model"], disk.get("model-epoch-1")) for disk in after)
