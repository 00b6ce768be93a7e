"""Atomic files: whatever fails, the old file or the new one is there, and nothing else."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from descriptors import HAVE_PROC, open_below

from portnet.files import atomic
from portnet.files.atomic import check_writable, link_file, remove_stale, write_file
from portnet.files.errors import CheckpointError

OLD, NEW = b"old", [b"new ", memoryview(b"contents"), b"", b" of three buffers"]
WHOLE = b"".join(NEW)


@pytest.fixture
def path(tmp_path):
    """A file that is to be replaced, alone in its folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "model"
    path.write_bytes(OLD)
    return path


def names(folder):
    return sorted(os.listdir(folder))


class System:
    """The os module, in which the call of a number fails, after a list of what was called."""

    TRACED = ("stat", "access", "open", "fstat", "chmod", "write", "fsync", "close", "replace")

    def __init__(self, fails_at=None, error=None, limit=None):
        self.fails_at, self.error, self.limit = fails_at, error, limit
        self.calls = []

    def __getattr__(self, name):
        real = getattr(os, name)
        return self._traced(name, real) if name in self.TRACED else real

    def _traced(self, name, real):
        def call(*args, **kwargs):
            self.calls.append(name)
            if len(self.calls) - 1 == self.fails_at:
                if name == "close":
                    real(*args)  # the system closes the file even where it reports an error
                raise self.error
            if name == "write" and self.limit is not None:
                args = (args[0], args[1][: self.limit])
            return real(*args, **kwargs)

        return call


class Late:
    """NEW, whose second word is the patch: it is computed late."""

    parts = [b"new ", memoryview(b"--------"), b"", b" of three buffers"]  # noqa: RUF012
    nbytes = len(WHOLE)

    def __init__(self, compute=lambda: None):
        self.compute = compute

    def patch(self):
        self.compute()
        return 4, b"contents"

    def __iter__(self):
        raise AssertionError("large buffers are written in parts")


@pytest.fixture(params=["small", "large"])
def new(request, monkeypatch):
    """Buffers to be written: as they are, or large ones with a patch."""
    if request.param == "small":
        return NEW
    monkeypatch.setattr(atomic, "_LARGE", 1)
    return Late()


@pytest.fixture
def system(monkeypatch):
    def use(*args, **kwargs):
        made = System(*args, **kwargs)
        monkeypatch.setattr(atomic, "os", made)
        return made

    return use


def test_buffers_are_written_in_order(tmp_path):
    path = tmp_path / "model"
    write_file(path, NEW)
    assert path.read_bytes() == WHOLE
    write_file(str(path), iter([b"other"]))
    assert path.read_bytes() == b"other"
    write_file(os.fsencode(path), [])
    assert path.read_bytes() == b""
    assert names(tmp_path) == ["model"]


def test_arrays_are_buffers_of_any_shape(tmp_path):
    x = np.arange(6.0).reshape(2, 3)
    write_file(tmp_path / "model", [x.data, np.empty((0, 3)).data])
    assert (tmp_path / "model").read_bytes() == x.tobytes()


def test_data_are_on_the_disk_before_the_rename_and_the_folder_after_it(path, system):
    calls = system().calls
    write_file(path, NEW)
    whole = ["write"] * 3 + ["fsync", "close", "replace", "fsync", "close"]
    assert calls[-len(whole) :] == whole


def test_patch_is_computed_while_the_disk_is_busy(path, system, monkeypatch):
    monkeypatch.setattr(atomic, "_LARGE", 1)
    computed = threading.Event()
    made, seen = system(), []

    def fsync(number, real=os.fsync):
        if not seen:
            seen.append(computed.wait(10))
        real(number)

    monkeypatch.setattr(made, "fsync", lambda n: made.calls.append("fsync") or fsync(n), False)
    write_file(path, Late(computed.set))
    assert seen == [True]
    assert path.read_bytes() == WHOLE
    whole = ["write"] * 3 + ["fsync", "write", "fsync", "close", "replace", "fsync", "close"]
    assert made.calls[-len(whole) :] == whole


def test_patch_of_small_buffers_is_written_with_them(path, system):
    class Small(Late):
        def __iter__(self):
            return iter(NEW)

    calls = system().calls
    write_file(path, Small())
    assert path.read_bytes() == WHOLE
    assert calls.count("fsync") == 2


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "broken"), KeyboardInterrupt(), MemoryError()]
)
def test_error_of_the_patch_leaves_the_old_file_after_fsync_has_ended(path, monkeypatch, error):
    monkeypatch.setattr(atomic, "_LARGE", 1)
    threads = set(threading.enumerate())

    def fail():
        raise error

    with pytest.raises(CheckpointError if isinstance(error, OSError) else type(error)):
        write_file(path, Late(fail))
    assert set(threading.enumerate()) <= threads
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["model"]


def test_thread_that_cannot_start_is_no_error(path, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(atomic, "_LARGE", 1)
    monkeypatch.setattr(threading.Thread, "start", start)
    write_file(path, Late())
    assert path.read_bytes() == WHOLE


def test_path_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file("model", NEW)
    check_writable("model")
    assert (tmp_path / "model").read_bytes() == WHOLE
    assert names(tmp_path) == ["model"]


def test_system_may_write_a_part_at_a_time(path, system):
    calls = system(limit=3).calls
    write_file(path, NEW)
    assert path.read_bytes() == WHOLE
    assert calls.count("write") == 2 + 3 + 6


def test_system_that_writes_nothing_is_an_error(path, system):
    system(limit=0)
    with pytest.raises(CheckpointError, match="nothing was written") as caught:
        write_file(path, NEW)
    assert caught.value.errno == errno.EIO
    assert path.read_bytes() == OLD


def count_calls(path, new=NEW):
    system = System()
    before, atomic.os = atomic.os, system
    try:
        write_file(path, new)
    finally:
        atomic.os = before
    path.write_bytes(OLD)
    return system.calls


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_error_of_every_call_in_turn_leaves_the_old_file_and_nothing_else(
    path, system, new, number
):
    calls = count_calls(path, new)
    assert {"open", "write", "fsync", "close", "replace"} <= set(calls)
    for at, name in enumerate(calls[:-1]):  # the last one closes the folder
        error = OSError(number, os.strerror(number))
        made = system(at, error)
        with pytest.raises(CheckpointError) as caught:
            write_file(path, new)
        after_rename = "replace" in calls[:at]
        assert path.read_bytes() == (WHOLE if after_rename else OLD), (at, name)
        assert names(path.parent) == ["model"], (at, name)
        assert caught.value.errno == number
        assert caught.value.filename == str(path)
        assert caught.value.__cause__ is error
        message = str(caught.value)
        assert os.strerror(number) in message
        assert str(path) in message
        assert ("the new file is in its place" in message) == after_rename
        # An fsync that failed once may succeed the second time although the data are lost.
        assert made.calls[: at + 1] == calls[: at + 1]
        assert set(made.calls[at + 1 :]) <= {"close"}, (at, name, made.calls)
        assert not HAVE_PROC or not open_below(path.parent), (at, name)
        path.write_bytes(OLD)
    system(len(calls) - 1, OSError(number, "closing a folder"))
    write_file(path, new)
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_any_other_exception_of_every_call_is_raised_again(path, system, new, error):
    calls = count_calls(path, new)
    for at, name in enumerate(calls):
        system(at, error)
        with pytest.raises(error):
            write_file(path, new)
        assert path.read_bytes() == (WHOLE if "replace" in calls[:at] else OLD), (at, name)
        assert names(path.parent) == ["model"], (at, name)
        path.write_bytes(OLD)


def test_exception_of_the_buffers_is_raised_again(path):
    def buffers():
        yield b"some"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_file(path, buffers())
    with pytest.raises(TypeError):
        write_file(path, ["text"])
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["model"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_folder_whose_file_system_cannot_synchronise_it_is_no_error(path, system, number):
    calls = count_calls(path)
    folder_sync = len(calls) - 1 - calls[::-1].index("fsync")
    system(folder_sync, OSError(number, "no fsync of folders"))
    write_file(path, NEW)
    assert path.read_bytes() == WHOLE
    system(calls.index("fsync"), OSError(number, "no fsync"))
    with pytest.raises(CheckpointError):  # but of files it is
        write_file(path, NEW)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.EFBIG, "free space"),
        (errno.EACCES, "choose a folder and a file that you may write"),
        (errno.EROFS, "choose a folder and a file that you may write"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EIO, "check the disk"),
        (errno.EBADMSG, "write to another place"),
    ],
)
def test_message_says_what_to_do(path, system, number, remedy):
    calls = count_calls(path)
    system(calls.index("write"), OSError(number, os.strerror(number)))
    with pytest.raises(CheckpointError, match=remedy) as caught:
        write_file(path, NEW)
    assert str(caught.value).startswith(f"[Errno {number}] the file cannot be written (")
    assert isinstance(caught.value, OSError)


def python(code, *args, **kwargs):
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


LIMITED = """
import resource, sys
from portnet.files.atomic import check_writable, write_file
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
check_writable(sys.argv[1])
try:
    write_file(sys.argv[1], [b"x" * 60_000, b"y" * 60_000])
except OSError as error:
    print(type(error).__name__, error.errno, error)
write_file(sys.argv[1] + "2", [b"x" * 60_000])
"""


def test_full_disk_leaves_the_old_file(path):
    """The size that a process may write is limited: the system's own error, after a part."""
    pytest.importorskip("resource", reason="this system has no limits of resources")
    done = python(LIMITED, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"CheckpointError {errno.EFBIG} ")
    assert "free space" in done.stdout
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["model", "model2"]


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def permissions(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_are_those_of_open_those_of_the_old_file_or_the_given_ones(tmp_path, umask):
    path, plain = tmp_path / "model", tmp_path / "plain"
    plain.write_bytes(b"")
    write_file(path, NEW)
    assert permissions(path) == permissions(plain) == 0o666 & ~umask
    os.chmod(path, 0o604)
    write_file(path, NEW)
    assert permissions(path) == 0o604
    write_file(path, NEW, mode=0o666)
    assert permissions(path) == 0o666
    write_file(tmp_path / "secret", NEW, mode=0o600)
    assert permissions(tmp_path / "secret") == 0o600


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_temporary_file_is_never_more_open_than_the_file(path):
    os.chmod(path, 0o600)
    seen = []

    def buffers():
        seen.extend(permissions(path.parent / n) for n in names(path.parent))
        yield b"x"

    write_file(path, buffers())
    assert seen == [0o600, 0o600]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_temporary_file_is_made_for_the_user_alone(path, monkeypatch):
    os.chmod(path, 0o640)
    seen, real = [], os.chmod

    def chmod(temporary, mode):
        seen.append((permissions(temporary), mode))
        real(temporary, mode)

    monkeypatch.setattr(os, "chmod", chmod)
    write_file(path, NEW)
    assert seen == [(0o600, 0o640)]


def test_file_of_somebody_else_with_the_name_of_the_temporary_stays(path, monkeypatch):
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: "0" * 16)
    left = temporary(path, os.getpid())
    for error in both(path):
        assert error.errno == errno.EEXIST
    assert left.read_bytes() == b"part"
    assert path.read_bytes() == OLD


@pytest.fixture
def linked(tmp_path):
    """A symbolic link to a file in another folder."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "there" / "blob").write_bytes(OLD)
    link = tmp_path / "here" / "model"
    try:
        link.symlink_to(Path("..", "there", "blob"))
    except OSError as error:
        pytest.skip(f"symbolic links cannot be made: {error}")
    return link


@pytest.mark.parametrize("exists", [True, False])
def test_symbolic_link_stays_and_its_target_is_written(linked, exists, dead):
    target = linked.resolve()
    if not exists:
        target.unlink()
    left = temporary(linked, dead), temporary(target, dead)
    check_writable(linked)
    assert all(file.exists() for file in left)
    write_file(linked, NEW)
    assert linked.is_symlink()
    assert linked.read_bytes() == target.read_bytes() == WHOLE
    assert (names(linked.parent), names(target.parent)) == (["model"], ["blob"])


def test_link_to_a_link_and_a_loop_of_links(linked):
    second = linked.parent / "second"
    second.symlink_to("model")
    write_file(second, NEW)
    assert second.is_symlink()
    assert linked.is_symlink()
    assert linked.read_bytes() == WHOLE
    loop = linked.parent / "loop"
    loop.symlink_to("loop")
    for error in both(loop):
        assert error.errno == errno.ELOOP


def test_second_name_of_a_symbolic_link_is_that_of_its_target(linked):
    older = linked.parent / "model-epoch-1"
    link_file(linked, older)
    assert not HAVE_PROC or not open_below(linked.parent)
    assert not older.is_symlink()
    write_file(linked, NEW)
    assert older.read_bytes() == OLD
    assert linked.read_bytes() == WHOLE
    assert names(linked.parent) == ["model", "model-epoch-1"]


def test_second_name_on_another_file_system_is_a_copy(linked, system):
    def link(path, to):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    system().link = link
    link_file(linked, linked.parent / "model-epoch-1")
    assert (linked.parent / "model-epoch-1").read_bytes() == OLD
    assert names(linked.parent) == ["model", "model-epoch-1"]
    assert not HAVE_PROC or not open_below(linked.parent)


def test_names_that_are_kept_later_are_checked(path):
    check_writable(path, path.parent / "model-best")
    long = path.parent / ("m" * 256)
    with pytest.raises(CheckpointError, match=r"kept as mmm.*choose a shorter name") as caught:
        check_writable(path, path.parent / "model-best", long)
    assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, str(path))
    (path.parent / "model-best").mkdir()
    with pytest.raises(CheckpointError, match="cannot be kept as model-best") as caught:
        check_writable(path, path.parent / "model-best")
    assert caught.value.errno == errno.EISDIR
    assert names(path.parent) == ["model", "model-best"]


def test_path_with_nul_is_an_error(tmp_path):
    for error in both(f"{tmp_path}/a\0b"):
        assert error.errno == errno.EINVAL
        assert "cannot contain the character NUL" in str(error)


def both(path):
    """Yield the errors of checking a path and of writing to it."""
    for call in (check_writable, lambda p: write_file(p, NEW)):
        with pytest.raises(CheckpointError) as caught:
            call(path)
        assert caught.value.filename == os.fspath(path)
        yield caught.value


def test_missing_folder_is_an_error_at_once(tmp_path):
    for error in both(tmp_path / "missing" / "model"):
        assert error.errno == errno.ENOENT
        assert "make its folder first" in str(error)
    assert names(tmp_path) == []


def test_folder_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", f"{tmp_path}/new/", "", ".", ".."):
        for error in both(path):
            assert error.errno == errno.EISDIR
            assert "give the path of a file" in str(error)
    assert names(tmp_path) == ["folder"]


def test_file_is_no_folder(path):
    for error in both(path / "model"):
        assert error.errno == errno.ENOTDIR
    assert path.read_bytes() == OLD


def test_name_that_is_too_long_is_an_error(tmp_path):
    for error in both(tmp_path / ("x" * 300)):
        assert error.errno == errno.ENAMETOOLONG


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_devices_and_fifos_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "model")
    for error in both(tmp_path / "model"):
        assert "it is a device, FIFO or socket" in str(error)
    assert stat.S_ISFIFO(os.stat(tmp_path / "model").st_mode)
    with pytest.raises(CheckpointError):
        check_writable("/dev/null")


PROTECTED = """
import os, sys
from portnet.files.atomic import check_writable, write_file
if os.geteuid() == 0:  # root may write everything: become nobody
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
for call in (check_writable, lambda path: write_file(path, [b"new"])):
    try:
        call(sys.argv[1])
    except OSError as error:
        print(type(error).__name__, error.errno, error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("protected", ["the folder", "the file"])
def test_protected_folder_or_file_is_an_error_at_once(protected):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are unreadable for nobody
        path = Path(folder) / "model"
        path.write_bytes(OLD)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
            os.chown(folder, 65534, 65534)
        os.chmod(*((folder, 0o555) if protected == "the folder" else (path, 0o444)))
        done = python(PROTECTED, path)
        os.chmod(folder, 0o755)
        found = path.read_bytes(), names(folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"CheckpointError {errno.EACCES} ")
        assert "you may write" in line
    assert found == (OLD, ["model"])


def test_check_leaves_nothing_behind_and_the_file_as_it_is(path):
    check_writable(path)
    check_writable(path.parent / "new")
    assert names(path.parent) == ["model"]
    assert path.read_bytes() == OLD


def temporary(path, process, host=None, digits="0" * 16):
    made = path.parent / f".{path.name}.{process}-{host or atomic._host()}{digits}.tmp"
    made.write_bytes(b"part")
    return made


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporaries_of_dead_processes_are_deleted_after_a_success(path, dead):
    temporary(path, dead)
    temporary(path, os.getpid())  # an earlier process that had our number
    write_file(path, NEW)
    assert names(path.parent) == ["model"]


def test_characters_of_regular_expressions_are_part_of_the_name(tmp_path, dead):
    path = tmp_path / "model+(1)[a].*"
    left, other = temporary(path, dead), temporary(tmp_path / "modell1a", dead)
    write_file(path, NEW)
    assert not left.exists()
    assert other.exists()


def test_temporaries_stay_after_a_failure(path, dead, system):
    left = temporary(path, dead)
    calls = count_calls(path)
    left.write_bytes(b"part")
    system(calls.index("write"), OSError(errno.EIO, "a failure"))
    with pytest.raises(CheckpointError):
        write_file(path, NEW)
    assert names(path.parent) == [left.name, "model"]


def test_temporaries_of_living_processes_and_other_files_stay(path, dead):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        kept = [
            temporary(path, process.pid),
            temporary(path, 1, digits="1" * 16),
            temporary(path.parent / "other", dead),
            temporary(path.parent / "model.b", dead),
            temporary(path, dead, host="0123abcd"),  # a number of another machine
            path.parent / f".model.{dead}-x.tmp",
            path.parent / f"model.{dead}-{'0' * 24}.tmp",
        ]
        for left in kept[-2:]:
            left.write_bytes(b"")
        remove_stale(path)
        assert names(path.parent) == sorted(["model", *(left.name for left in kept)])
    finally:
        process.communicate(b"\n")
    remove_stale(path)
    assert not kept[0].exists()
    assert kept[1].exists()


def test_temporaries_of_other_machines_stay_for_a_day(path, dead):
    left = temporary(path, dead, host="0123abcd")
    for age, exists in [(23 * 3600, True), (25 * 3600, False)]:
        os.utime(left, (time.time() - age,) * 2)
        remove_stale(path)
        assert left.exists() is exists


def test_temporary_that_another_thread_writes_stays(path):
    def buffers():
        write_file(path, [b"other"])
        remove_stale(path)
        assert len(names(path.parent)) == 2
        yield b"mine"

    write_file(path, buffers())
    assert path.read_bytes() == b"mine"
    assert names(path.parent) == ["model"]


def test_long_names_have_temporaries_that_are_found(tmp_path, dead):
    path = tmp_path / ("ü" * 127)  # 254 bytes of the 255 that a name may have
    left = tmp_path / os.fsdecode(
        os.fsencode(f".{'ü' * 100}.{dead}-{atomic._host()}{'0' * 16}.tmp")
    )
    left.write_bytes(b"")
    check_writable(path)
    write_file(path, NEW)
    assert names(tmp_path) == [path.name]


def test_stale_files_that_cannot_be_deleted_are_no_error(path, dead, system):
    folder = temporary(path, dead)
    folder.unlink()
    folder.mkdir()
    write_file(path, NEW)
    remove_stale(path.parent / "missing" / "model")
    assert folder.exists()


def test_threads_that_write_to_one_path_leave_one_whole_file(path):
    errors = []

    def work(letter):
        try:
            for _ in range(20):
                write_file(path, [letter * 1000] * 20)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    found = path.read_bytes()
    assert found == found[:1] * 20_000
    assert names(path.parent) == ["model"]


WRITER = """
import sys
from portnet.files.atomic import write_file
print("begun", flush=True)
while True:
    for letter in b"ab":
        write_file(sys.argv[1], [bytes([letter]) * 100_000] * 20)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_writer_leaves_a_whole_file(path):
    draw = np.random.default_rng(0)
    littered = 0
    for _ in range(10):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(draw.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        littered += len(names(path.parent)) > 1
        found = path.read_bytes()
        assert found in (OLD, found[:1] * 2_000_000)
    write_file(path, NEW)
    assert littered
    assert names(path.parent) == ["model"]
