"""``portnet`` with and without the extra ``cli``: commands, help, one-line errors, exit codes."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import portnet
from portnet.__main__ import COMMANDS

ROOT = Path(portnet.__file__).parents[1]
PYTHON = sys.executable
WITH_EXTRA = all(find_spec(name) for name in ("click", "pandas", "sklearn"))
needs_extra = pytest.mark.skipif(not WITH_EXTRA, reason="the extra cli is not installed")


def process(*arguments, without=()):
    """Run the command line in a process that does not find some modules."""
    code = (
        "import importlib.util as u, runpy, sys\n"
        f"without, find = {without!r}, u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in without else find(name, *a)\n"
        "sys.modules |= dict.fromkeys(without)\n"
        f"sys.argv = ['portnet', *{[str(a) for a in arguments]!r}]\n"
        "runpy.run_module('portnet', run_name='__main__')"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


@pytest.fixture
def network(tmp_path):
    path, net = tmp_path / "net.safetensors", portnet.mlp([2, 3, 1])
    portnet.save((net, portnet.init(net, like=np.zeros(1))), path)
    return path


BOTH = [(), pytest.param(("click",), id="without click"), pytest.param(("pandas",), id="no pandas")]


@pytest.mark.parametrize("without", BOTH)
def test_the_report_needs_no_extra(without):
    done = process(without=without)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"portnet {portnet.__version__}, Python ")
    for name in ("click", "pandas", "onnx"):
        assert f"\n  {name} " in done.stdout
    assert "new arrays are created in numpy on cpu as float32" in done.stdout


@pytest.mark.parametrize("without", BOTH)
def test_show_needs_no_extra(network, without):
    done = process("show", network, without=without)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("network, format version 1, ")
    for arguments in (("show", f"{network}x"), ("show", __file__), ("show", network.parent)):
        done = process(*arguments, without=without)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert str(arguments[1]) in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("without", ["click", "pandas", "sklearn"])
def test_other_commands_say_which_package_is_missing(command, without):
    done = process(command, "a.csv", "--target", "y", without=(without,))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"portnet {command}: needs ")
    assert without in done.stderr
    assert 'pip install ".[cli]" in a checkout of portnet' in done.stderr


@pytest.mark.parametrize("without", BOTH)
def test_the_version_needs_no_extra(without):
    done = process("--version", without=without)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"portnet {portnet.__version__}\n"


@pytest.mark.parametrize("without", BOTH)
def test_help_lists_every_command(without):
    done = process("--help", without=without)
    assert done.returncode == 0, done.stderr
    for command in (*COMMANDS, "show"):
        assert command in done.stdout


@needs_extra
@pytest.mark.parametrize("command", [*COMMANDS, "show"])
def test_each_command_has_help(command):
    done = process(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: portnet {command} ")


@needs_extra
@pytest.mark.parametrize("arguments", [("tarin",), ("--nothing",), ("show",), ("show", "a", "b")])
def test_wrong_commands_are_one_line(arguments):
    done = process(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("portnet")


def test_importing_portnet_imports_nothing_of_the_command_line():
    code = (
        "import sys, portnet, portnet.__main__\n"
        "found = {n.partition('.')[0] for n in sys.modules} & {'click', 'pandas', 'onnx', 'sklearn'}\n"
        "assert not found, found"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_the_console_script_and_the_extras_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"portnet": "portnet.__main__:main"}
    names = {line.partition(">")[0] for line in project["optional-dependencies"]["cli"]}
    assert names == {"click", "pandas", "pyarrow", "scikit-learn"}
    assert [x.partition(">")[0] for x in project["optional-dependencies"]["onnx"]] == ["onnx"]


@needs_extra
def test_the_commands_of_readme_run_as_they_stand(tmp_path):
    for package in ("matplotlib", "onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    section = (ROOT / "README.md").read_text().split("## From the shell")[1]
    commands = section.split("```bash\n")[1].split("```")[0].splitlines()
    assert [line.split()[1] for line in commands[1:]] == [*COMMANDS, "show"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for line in commands:
        command = re.sub(
            "^(python|portnet)",
            lambda m: {"python": PYTHON}.get(m[0], f"{PYTHON} -m portnet"),
            line,
        )
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, cwd=tmp_path, env=env
        )
        assert done.returncode == 0, done.stderr
    made = {"iris.csv", "iris.safetensors", "curve.png", "predictions.csv", "iris.onnx"}
    assert set(os.listdir(tmp_path)) == made
    assert (tmp_path / "predictions.csv").read_text().startswith("target,P(0),P(1),P(2)\n")


@needs_extra
def test_an_error_that_is_a_bug_shows_its_traceback(monkeypatch):
    from click.testing import CliRunner

    from portnet.cli import show
    from portnet.cli.commands import commands

    def broken(path):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(show, "text_of", broken)
    done = CliRunner().invoke(commands, ["show", "a"])
    assert isinstance(done.exception, ZeroDivisionError)


@needs_extra
def test_out_of_memory_is_one_line(monkeypatch):
    from click.testing import CliRunner

    from portnet.cli import show
    from portnet.cli.commands import commands

    def broken(path):
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr(show, "text_of", broken)
    done = CliRunner().invoke(commands, ["show", "a"])
    assert (done.exit_code, done.stderr) == (
        2,
        "portnet: out of memory: Unable to allocate 7 TiB\n",
    )
