"""Checksums of code: equal for equal code in every process, others for other code."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import portnet
from portnet.files.code_checksum import code_checksum

ROOT = Path(__file__).resolve().parents[2]


def made(text, name="f"):
    """Return what a module of this text defines, as the script of another process would."""
    found = {"__name__": "__main__", "np": np, "portnet": portnet}
    exec(compile(text, "train.py", "exec"), found)
    return found[name]


SAME = [
    ("def f(p): return p + 1", "\n\n# further below\ndef f(p): return p + 1"),
    ("f = lambda p: p in {'a', 'b', 'c'}", "f = lambda p: p in {'c', 'b', 'a'}"),
    ("def g(n):\n return lambda p: n * p\nf = g(2)", "def g(n):\n return lambda p: n * p\nf = g(1 + 1)"),
    ("N = 1\ndef f(p): return N", "N = 2\ndef f(p): return N"),  # globals do not count
]  # fmt: skip
OTHER = [
    ("def f(p): return p + 1", "def f(p): return p + 2"),
    ("def f(p): return np.sin(p)", "def f(p): return np.cos(p)"),
    ("def f(p): return [q + 1 for q in p]", "def f(p): return [q + 2 for q in p]"),
    ("def f(p, n=1): return p * n", "def f(p, n=2): return p * n"),
    ("def f(p, *, n=1): return p * n", "def f(p, *, n=2): return p * n"),
    ("def g(n):\n return lambda p: n * p\nf = g(2)", "def g(n):\n return lambda p: n * p\nf = g(3)"),
    ("a = np.ones(3)\nf = (lambda a: lambda p: p * a)(a)", "a = np.zeros(3)\nf = (lambda a: lambda p: p * a)(a)"),
    ("class f:\n def g(self): return 1", "class f:\n def g(self): return 2"),
    ("class f:\n @property\n def g(self): return 1", "class f:\n @property\n def g(self): return 2"),
    ("class f:\n @staticmethod\n def g(): return 1", "class f:\n @staticmethod\n def g(): return 2"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SAME)
def test_equal_code_has_one_checksum(a, b):
    assert code_checksum(made(a)) == code_checksum(made(b)) != ""


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_other_code_has_another_checksum(a, b):
    assert code_checksum(made(a)) != code_checksum(made(b))


def test_functions_are_found_in_objects_partials_and_containers():
    @dataclass(frozen=True)
    class Holds:
        function: object

    one, two = made("def f(p): return p + 1"), made("def f(p): return p + 2")
    for holds in (Holds, lambda f: [f], lambda f: {"a": f}, lambda f: portnet.SGD(f)):
        assert code_checksum(holds(one)) != code_checksum(holds(two))
    assert code_checksum(functools.partial(one, 1)) != code_checksum(functools.partial(one, 2))


@pytest.mark.parametrize(
    "value",
    [3, None, "text", np.sin, portnet.SquaredError(), portnet.mlp([2, 3, 1]), np.ones(3), [1, {}]],
    ids=str,
)
def test_what_is_not_the_users_has_none(value):
    assert code_checksum(value) == ""


def test_what_refers_to_itself_or_to_modules_ends():
    text = """
import sys, threading
def g():
    lock, module = threading.Lock(), sys
    def f(n): return f(n - 1) if n and lock and module else 0
    return f
f = g()
"""
    assert code_checksum(made(text)) == code_checksum(made(text)) != ""


def test_other_processes_have_the_same_checksum():
    """Sets are in another order where texts have other hashes."""
    code = """
from portnet.files.code_checksum import code_checksum
def f(p, q={"x": 1}): return p in {"a", "b", "c", "d", "e"} and [r for r in q]
print(code_checksum(f))
"""
    found = set()
    for seed in "123":
        env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
        )
        found.add(done.stdout)
    assert len(found) == 1
    assert found != {"\n"}, done.stderr
