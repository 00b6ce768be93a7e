"""The structure of the package: order of imports, public names, docstrings and doctests."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import portnet

PACKAGE = Path(portnet.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each file may import from portnet. Every file must be listed.
ALLOWED = {
    "tree": set(),
    "options": set(),
    "backend": {"options"},
    "rng": {"backend"},
    "layers": {"backend", "options", "rng"},
    "losses": {"backend", "options"},
    "metrics": {"backend", "losses"},
    "optimizers": {"backend", "options", "tree"},
    "schedules": {"backend", "options"},
    "transforms": {"backend", "optimizers", "options", "tree"},
    "lbfgs": {"backend", "options", "tree"},
    "compiler/outcomes": set(),
    "compiler/settings": set(),
    "compiler/keys": set(),
    "compiler/program": set(),
    "compiler/trace": {"compiler/program", "tree"},
    "compiler/rewrite": {"compiler/program", "compiler/trace"},
    "compiler/plan": {"compiler/program", "compiler/rewrite", "compiler/trace"},
    "compiler/explain": {"compiler/plan"},
    "compiler/numpy_replay": {
        "compiler/outcomes",
        "compiler/plan",
        "compiler/program",
        "compiler/rewrite",
        "compiler/trace",
    },
    "compiler/c_parts": set(),
    "compiler/llvm": {"compiler/c_parts"},
    "compiler/places": {
        "compiler/llvm",
        "compiler/numpy_replay",
        "compiler/plan",
        "compiler/program",
        "compiler/rewrite",
    },
    "compiler/segments": {
        "compiler/c_parts",
        "compiler/llvm",
        "compiler/numpy_replay",
        "compiler/places",
        "compiler/plan",
        "compiler/program",
        "compiler/trace",
    },
    "compiler/native": {
        "compiler/c_parts",
        "compiler/llvm",
        "compiler/numpy_replay",
        "compiler/plan",
        "compiler/segments",
        "compiler/settings",
    },
    "compiler/planned": {
        "compiler/explain",
        "compiler/keys",
        "compiler/native",
        "compiler/numpy_replay",
        "compiler/outcomes",
        "compiler/plan",
        "compiler/program",
        "compiler/rewrite",
        "compiler/settings",
        "compiler/trace",
    },
    "compiler/jax_jit": {"compiler/outcomes", "compiler/trace"},
    "compiler/compiled": {
        "compiler/jax_jit",
        "compiler/keys",
        "compiler/outcomes",
        "compiler/planned",
    },
    "compiler": {"compiler/compiled", "compiler/outcomes", "compiler/settings"},
    "stepping": {"backend", "compiler", "rng", "tree"},
    "validation": {"backend", "losses", "metrics", "options", "tree"},
    "gradcheck": {"backend", "layers", "losses", "options", "rng", "tree", "validation"},
    "labels": {"backend", "losses", "rng", "validation"},
    "run": {"backend", "labels", "metrics", "stepping", "tree", "validation"},
    "optimizer_checks": {"backend", "optimizers", "options", "rng", "tree"},
    "faults": {"backend", "lbfgs", "losses", "optimizer_checks", "options", "run"},
    "watching": {"faults", "metrics", "options", "run"},
    "starting": {
        "backend",
        "labels",
        "lbfgs",
        "options",
        "rng",
        "run",
        "tree",
        "validation",
        "watching",
    },
    "training": {"backend", "layers", "losses", "optimizers", "options", "rng", "tree"},
    "trainer": {
        "backend",
        "faults",
        "layers",
        "lbfgs",
        "losses",
        "optimizers",
        "options",
        "rng",
        "run",
        "starting",
        "stepping",
        "training",
        "transforms",
        "tree",
        "watching",
    },
    "solvers": {"backend", "layers", "losses", "optimizers", "tree"},
    "descent": {
        "backend",
        "faults",
        "layers",
        "lbfgs",
        "losses",
        "run",
        "solvers",
        "stepping",
        "tree",
    },
    "following": {"backend", "validation"},
    "estimators": {
        "backend",
        "descent",
        "following",
        "labels",
        "losses",
        "options",
        "solvers",
        "stepping",
        "tree",
        "validation",
    },
    "plots": {"backend", "options"},
    "__main__": {"", "backend", "compiler", "options"},
}
NOT_EXPORTED = (
    "Layer",
    "Optimizer",
    "AdamState",
    "VState",
    "Reduced",
    "Chained",
    "LBFGSState",
    "Result",
)  # not available as portnet.Name
ARRAY_API_MODULES = (
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "schedules",
    "transforms",
    "lbfgs",
    "solvers",
)
ARRAY_LIBRARIES = {"numpy", "cupy", "torch", "jax", "array_api_strict", "scipy"}
# Optional libraries that each file may import, inside functions only.
LAZY = {
    "compiler/compiled": {"torch"},
    "compiler/jax_jit": {"jax"},
    "plots": {"matplotlib"},
    "trainer": {"tqdm"},
    "watching": {"tqdm"},
    "run": {"pandas"},
    "backend": {"cupy", "torch", "jax"},
}


def imports(path):
    """Yield (module, level, whether it is at the top of the file) for every import."""
    parsed = ast.parse(path.read_text())
    top = set(
        ast.walk(
            ast.Module([n for n in parsed.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        )
    )
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], 0, node in top
        elif isinstance(node, ast.ImportFrom):
            if node.level and node.module is None:
                for alias in node.names:
                    yield alias.name, node.level, node in top
            else:
                yield (node.module or "").split(".")[0], node.level, node in top


def name_of(path):
    """Return the name of a file in ALLOWED; __init__.py has the name of its folder."""
    name = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return name.removesuffix("/__init__")


def internal_imports(path):
    """Yield the names of the files of portnet that a file imports."""
    for module, level, _ in imports(path):
        if level:
            folder = path.parents[level - 1]
            target = folder / module if module else folder
            if target.with_suffix(".py").exists() or target.is_dir():
                found = target.relative_to(PACKAGE).as_posix()
                yield "" if found == "." else found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_imports_only_what_is_allowed(path):
    if path == PACKAGE / "__init__.py":
        return
    names = set(internal_imports(path))
    assert names <= ALLOWED[name_of(path)], f"{path} imports {names - ALLOWED[name_of(path)]}"


def test_allowed_imports_have_no_cycle():
    seen = []
    for name, needed in ALLOWED.items():
        assert needed - {""} <= set(seen), name
        seen.append(name)


@pytest.mark.parametrize("name", ARRAY_API_MODULES)
def test_array_api_modules_import_no_array_library(name):
    modules = {module for module, level, _ in imports(PACKAGE / f"{name}.py") if not level}
    assert not modules & ARRAY_LIBRARIES
    assert "array_api_compat" not in modules


def test_optional_libraries_are_imported_lazily_and_only_where_allowed():
    optional = {
        "cupy",
        "torch",
        "jax",
        "array_api_strict",
        "matplotlib",
        "tqdm",
        "sklearn",
        "pandas",
    }
    found = {}
    for path in FILES:
        for module, level, at_top in imports(path):
            if not level and module in optional:
                if path.stem == "estimators" and module == "sklearn":
                    continue  # estimators.py is itself imported lazily: see below
                assert not at_top, f"{path.name} imports {module} at the top"
                found.setdefault(name_of(path), set()).add(module)
    for name, modules in found.items():
        assert modules <= LAZY[name] | {"array_api_strict"}, name


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_importing_an_estimator_without_scikit_learn_says_what_to_install(name):
    """portnet itself imports without scikit-learn."""
    code = f"""
import sys
sys.modules["sklearn"] = None
import portnet
try:
    from portnet import {name}
except ImportError as error:
    assert 'pip install ".[sklearn]" in a checkout of portnet' in str(error), error
    assert "{name}" in str(error)
else:
    raise SystemExit("imported")
assert not hasattr(portnet, "MLPTransformer")
from portnet import *
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_all_lists_every_public_name():
    assert sorted(set(portnet.__all__)) == sorted(portnet.__all__)
    for name in portnet.__all__:
        assert hasattr(portnet, name)
    for module in ("layers", "losses", "optimizers", "schedules", "transforms", "lbfgs"):
        module = importlib.import_module(f"portnet.{module}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and not name.startswith("_") and name not in NOT_EXPORTED:
                assert name in portnet.__all__, name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_classes_functions_and_methods_have_docstrings(path):
    """This covers the public names only."""
    parsed = ast.parse(path.read_text())
    assert ast.get_docstring(parsed)
    for node in parsed.body:
        for inner in (node, *(node.body if isinstance(node, ast.ClassDef) else ())):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef) and inner.name[0] != "_":
                assert ast.get_docstring(inner), f"{path.name}: {inner.name}"


def test_doctests_of_every_module_pass():
    import doctest

    skipped = {"__init__", "__main__"}
    if not importlib.util.find_spec("sklearn"):
        skipped.add("estimators")
    for path in FILES:
        if path.stem not in skipped:
            module = importlib.import_module(f"portnet.{name_of(path).replace('/', '.')}")
            assert doctest.testmod(module).failed == 0, path.name


def test_readme_table_equals_the_measured_results(monkeypatch):
    monkeypatch.syspath_prepend(PACKAGE.parent / "ci")
    import bench_table

    result = json.loads((PACKAGE.parent / "ci/results/bench-cpu.json").read_text())
    shown = (PACKAGE.parent / "README.md").read_text().partition(bench_table.BEGIN)[2]
    expected = ["", *bench_table.summary(result), ""]
    assert shown.partition(bench_table.END)[0] == "\n".join(expected)
