"""Machine code in files of the user: found again, and never trusted blindly."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import portnet
from portnet.compiler import native_policy, settings

if native_policy.why_no_machine_code():
    pytest.skip(f"no machine code: {native_policy.why_no_machine_code()}", allow_module_level=True)

from portnet.compiler.native import jit, llvm, loader, object_cache
from portnet.compiler.native.object_cache import cached_object, is_cached


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PORTNET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("PORTNET_CACHE", raising=False)
    return tmp_path / "cache"


TARGET = "a processor"


class Compiler:
    """Counts how often it compiles."""

    def __init__(self, contents=b"machine code"):
        self.contents, self.count = contents, 0

    def __call__(self):
        self.count += 1
        return self.contents


def test_contents_are_compiled_once_for_each_key(folder):
    one, two = Compiler(b"one"), Compiler(b"two")
    assert not is_cached("1")
    for _ in range(3):
        assert cached_object("1", TARGET, one) == b"one"
        assert cached_object("2", TARGET, two) == b"two"
    assert (one.count, two.count) == (1, 1)
    assert is_cached("1")
    assert len(list(folder.iterdir())) == 2


def test_contents_for_another_target_are_not_used(folder):
    """A home folder may be that of several machines."""
    one, two = Compiler(b"one"), Compiler(b"two")
    assert cached_object("key", TARGET, one) == b"one"
    assert cached_object("key", "another", two) == b"two"
    assert cached_object("key", "another", one) == b"two"
    assert cached_object("key", TARGET, one) == b"one"
    assert (one.count, two.count) == (2, 1)


def test_folder_is_made_for_the_user_alone(folder):
    cached_object("key", TARGET, Compiler())
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("cut", [0, 10, -1, None])
def test_damaged_file_is_ignored_and_written_again(folder, cut):
    cached_object("key", TARGET, Compiler())
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:cut] if cut is not None else whole[:-1] + b"?")
    again = Compiler()
    assert cached_object("key", TARGET, again) == b"machine code"
    assert again.count == 1
    assert file.read_bytes() == whole


def test_file_or_folder_that_others_may_write_is_ignored(folder):
    compiler = Compiler()
    cached_object("key", TARGET, compiler)
    (file,) = folder.iterdir()
    file.chmod(0o666)
    cached_object("key", TARGET, compiler)
    assert compiler.count == 2
    cached_object("key", TARGET, compiler)  # the file was written anew
    assert compiler.count == 2
    folder.chmod(0o777)
    cached_object("key", TARGET, compiler)
    assert compiler.count == 3
    assert not is_cached("key")


def test_link_is_ignored(folder, tmp_path):
    compiler = Compiler()
    cached_object("key", TARGET, compiler)
    (file,) = folder.iterdir()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    cached_object("key", TARGET, compiler)
    assert compiler.count == 2
    (tmp_path / "linked").symlink_to(folder)
    os.environ["PORTNET_CACHE_DIR"] = str(tmp_path / "linked")
    cached_object("key", TARGET, compiler)
    assert compiler.count == 3


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_belongs_to_another_user_is_ignored(folder, monkeypatch, what):
    compiler = Compiler()
    cached_object("key", TARGET, compiler)
    asked = []
    belongs = object_cache._belongs_to_user

    def other_user(status, kind):
        asked.append(belongs(status, kind))
        monkeypatch.setattr(os, "geteuid", lambda: status.st_uid + (len(asked) > (what == "file")))
        try:
            return belongs(status, kind)
        finally:
            monkeypatch.undo()
            monkeypatch.setenv("PORTNET_CACHE_DIR", str(folder))
            monkeypatch.setattr(object_cache, "_belongs_to_user", other_user)

    monkeypatch.setattr(object_cache, "_belongs_to_user", other_user)
    cached_object("key", TARGET, compiler)
    assert compiler.count == 2


def test_folder_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PORTNET_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert cached_object("key", TARGET, Compiler()) == b"machine code"
    assert not is_cached("key")


@pytest.mark.parametrize("fails", ["mkstemp", "write", "replace"])
def test_full_disk_is_no_error_and_leaves_nothing(folder, monkeypatch, fails):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    class FullFile:
        def __init__(self, number):
            os.close(number)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        write = full

    def open_full(number, mode):
        return FullFile(number) if mode == "wb" else whole(number, mode)

    whole = os.fdopen
    target = {
        "mkstemp": (object_cache.tempfile, "mkstemp", full),
        "write": (object_cache.os, "fdopen", open_full),
        "replace": (object_cache.os, "replace", full),
    }
    with monkeypatch.context() as m:
        m.setattr(*target[fails])
        assert cached_object("key", TARGET, Compiler()) == b"machine code"
    assert list(folder.iterdir()) == []


def test_size_is_limited_and_files_used_last_are_kept(folder, monkeypatch):
    monkeypatch.setattr(object_cache, "LIMIT", 5000)
    for k in range(4):
        cached_object(str(k), TARGET, Compiler(bytes(1000)))
        path = folder / object_cache._name(str(k))
        os.utime(path, (1e9 + k, 1e9 + k))
    assert cached_object("0", TARGET, Compiler(b"wrong")) == bytes(1000)  # now it was used last
    cached_object("new", TARGET, Compiler(bytes(1000)))
    assert [is_cached(k) for k in ("0", "1", "2", "3", "new")] == [True, False, True, True, True]


def test_no_files_with_portnet_cache_0(folder, monkeypatch):
    monkeypatch.setenv("PORTNET_CACHE", "0")
    cached_object("key", TARGET, Compiler())
    assert not folder.exists()
    assert settings.cache_folder() is None


def test_folder_is_in_the_users_caches_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("PORTNET_CACHE", raising=False)
    monkeypatch.delenv("PORTNET_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    assert settings.cache_folder() == tmp_path / caches / "portnet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert settings.cache_folder() == tmp_path / "xdg" / "portnet"


# Compiled functions ------------------------------------------------------------------------------


def results():
    """Return the results of a compiled function, compiled anew."""
    jit.forget()
    x = np.linspace(-1, 1, 12).reshape(3, 4)
    compiled = portnet.compile(lambda x: portnet.namespace(x).exp(x @ x.T) * 2.0 + 1.0)
    return compiled(x), np.exp(x @ x.T) * 2.0 + 1.0


@pytest.fixture
def native(monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "always")


def test_function_found_in_the_cache_is_not_compiled_and_has_the_same_bits(
    folder, native, monkeypatch
):
    first, expected = results()
    monkeypatch.setattr(llvm, "compiled", lambda text, cpu: pytest.fail("compiled again"))
    second, _ = results()
    assert first.tobytes() == second.tobytes() == expected.tobytes()


def test_calls_use_machine_code_of_the_cache_sooner_than_they_compile(folder, monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "auto")
    x = np.linspace(-1, 1, 2**14).reshape(128, 128)

    def many_operations(x):
        for _ in range(20):
            x = portnet.namespace(x).exp(-x) * 0.5 + 0.1
        return x

    def calls_until_native():
        jit.forget()
        compiled = portnet.compile(many_operations)
        expected, count = compiled(x), 1
        (executable,) = compiled._entries.values()
        while not executable.native:
            assert compiled(x).tobytes() == expected.tobytes()
            count += 1
        assert compiled(x).tobytes() == expected.tobytes()
        return count

    first = calls_until_native()
    monkeypatch.setattr(llvm, "compiled", lambda text, cpu: pytest.fail("compiled again"))
    assert calls_until_native() < first


@pytest.mark.parametrize(
    "changed", ["numpy", "llvmlite", "portnet", "processor", "features", "products"]
)
def test_other_versions_or_another_processor_compile_anew(folder, native, monkeypatch, changed):
    compiled, whole = [], llvm.compiled
    monkeypatch.setattr(llvm, "compiled", lambda *args: compiled.append(0) or whole(*args))
    results()
    if changed == "processor":
        monkeypatch.setattr(loader, "processor", lambda: "another processor")
    elif changed == "llvmlite":
        monkeypatch.setattr(jit, "_version_of_llvmlite", lambda: "0.0.0")
    elif changed == "products":  # of another BLAS
        monkeypatch.setattr(jit, "products", list)
    elif changed == "features":
        monkeypatch.setattr(np._core._multiarray_umath, "__cpu_features__", {})
    else:
        monkeypatch.setattr({"numpy": np, "portnet": portnet}[changed], "__version__", "0.0.0")
    results()
    assert len(compiled) == 2


SCRIPT = """
import numpy as np, portnet
from portnet.compiler.native import llvm
compiled, whole = [], llvm.compiled
llvm.compiled = lambda *args: compiled.append(0) or whole(*args)
x = np.linspace(-1, 1, 96).reshape(32, 3)
run = portnet.Trainer(portnet.mlp([3, 5, 1]), "squared_error", "adam", 8).fit(x, x[:, :1], epochs=3)
print(len(compiled), run.history["loss"][-1].hex())
"""


def test_processes_at_once_and_one_after_them_find_the_same_results(folder):
    env = {**os.environ, "PORTNET_NATIVE": "always", "PORTNET_CACHE_DIR": str(folder)}
    found = []

    def start():
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=env, check=True
        )
        found.append(done.stdout.split())

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start()
    assert len({loss for _, loss in found}) == 1
    assert int(found[-1][0]) == 0  # the last one compiled nothing
    assert not [path for path in folder.iterdir() if path.suffix != ".o"]


def test_folder_that_cannot_be_searched_has_nothing(folder, monkeypatch):
    """Path.exists raises there."""
    cached_object("key", TARGET, Compiler())
    found = os.stat

    def stat(path, *args, **options):
        if str(path).endswith(".o"):
            raise PermissionError(13, "Permission denied", str(path))
        return found(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert not is_cached("key")


def test_pipe_in_place_of_a_file_does_not_wait(folder):
    cached_object("key", TARGET, Compiler())
    (file,) = folder.iterdir()
    file.unlink()
    os.mkfifo(file, 0o600)
    assert cached_object("key", TARGET, Compiler(b"new")) == b"new"
