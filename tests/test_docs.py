"""Public names have docstrings with shapes and an example; ci/docs notices where one has not."""

import importlib
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CI = Path(__file__).parent.parent / "ci"
Array = Any


@pytest.fixture
def docstrings(monkeypatch):
    monkeypatch.syspath_prepend(CI)
    return importlib.import_module("docstrings")


def without_docstring(x: Array) -> Array:
    return x


def without_example(x: Array) -> Array:
    """Return x (rows, n_in)."""
    return x


def example_skipped(x: Array) -> Array:
    """Return x (rows, n_in).

    Examples
    --------
    >>> example_skipped(1)  # doctest: +SKIP
    1
    """
    return x


def example_elsewhere(x: Array) -> Array:
    """Return x (rows, n_in).

    >>> example_elsewhere(1)
    1
    """
    return x


def without_shapes(x: Array) -> Array:
    """Return x, between 0 and 1 (0, 1) if (x, key) say so.

    Examples
    --------
    >>> without_shapes(1)
    1
    """
    return x


def data_without_shapes(X: Any) -> float:
    """Return 1 whatever X is.

    Examples
    --------
    >>> data_without_shapes(1)
    1.0
    """
    return 1.0


def documented(x: Array) -> Array:
    """Return x of any shape.

    Examples
    --------
    >>> documented(1)
    1
    """
    return x


def without_arrays(n: int) -> int:
    """Return n.

    Examples
    --------
    >>> without_arrays(1)
    1
    """
    return n


@dataclass
class MadeUpDocstring:
    size: int


class Methods:
    """Holds nothing.

    Examples
    --------
    >>> Methods().shaped(1)
    1
    """

    def shaped(self, x: Array) -> Array:
        """Return x (rows, n_in)."""
        return x

    def shapeless(self, x: Array) -> Array:
        """Return x."""
        return x

    def bare(self) -> None:
        pass

    def _private(self, x: Array) -> Array:
        return x


class Inherits(Methods):
    """Holds nothing, x has shape (n,).

    Examples
    --------
    >>> Inherits().shaped(1)
    1
    """


@dataclass
class Fields:
    """Holds an array.

    Examples
    --------
    >>> Fields(1).x
    1
    """

    x: "Array | None"


NO_EXAMPLE = "no section Examples with a >>> that is run"
NO_SHAPES = "takes or returns arrays, gives no shapes"


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (without_docstring, ["it: no docstring"]),
        (without_example, [f"it: {NO_EXAMPLE}"]),
        (example_skipped, [f"it: {NO_EXAMPLE}"]),
        (example_elsewhere, [f"it: {NO_EXAMPLE}"]),
        (without_shapes, [f"it: {NO_SHAPES}"]),
        (data_without_shapes, [f"it: {NO_SHAPES}"]),
        (documented, []),
        (without_arrays, []),
        (MadeUpDocstring, ["it: no docstring"]),
        (
            Methods,
            [
                "it.shapeless: takes or returns arrays, it and its class give no shapes",
                "it.bare: no docstring",
            ],
        ),
        (Inherits, ["it.bare: no docstring"]),
        (Fields, ["it: has arrays, gives no shapes"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_missing_is_found(docstrings, thing, expected):
    assert docstrings.faults_of("it", thing) == expected


@pytest.mark.parametrize(
    "text",
    [
        "(n,)",
        "(rows, n_in)",
        "(rows,\n    n_in)",
        "(1, n_out)",
        "(rows, 2)",
        "a 0-d array",
        "of any shape",
        "the shape of x",
        "the shapes of the parameters",
    ],
)
def test_these_are_shapes(docstrings, text):
    assert docstrings.SHAPE.search(" ".join(text.split()))


@pytest.mark.parametrize(
    "text", ["f(rows, n_in)", "(rows)", "(0, 1)", "(x, y)", "(LeCun et al. 1998)", "a ShapeError"]
)
def test_these_are_not(docstrings, text):
    assert not docstrings.SHAPE.search(text)


def test_a_name_planted_in_a_public_module_is_checked(docstrings, monkeypatch):
    pytest.importorskip("sklearn")
    from portnet import metrics

    monkeypatch.setattr(metrics, "planted", without_docstring, raising=False)
    assert docstrings.faults() == []  # it is not in __all__: private
    monkeypatch.setattr(metrics, "__all__", [*metrics.__all__, "planted"])
    assert docstrings.faults() == ["portnet.metrics.planted: no docstring"]


def test_everything_public_is_documented(docstrings):
    pytest.importorskip("sklearn")
    assert docstrings.faults() == []
    found = docstrings.public()
    import portnet

    for name in portnet.__all__:
        thing = getattr(portnet, name)
        if name != "tree":  # a module, whose own names are checked
            assert thing is found.get(f"portnet.{name}"), name
    assert "portnet.estimators.MLPClassifier" in found
    assert "portnet.tree.map" in found


def test_the_script_fails_where_something_is_missing(docstrings, monkeypatch, tmp_path):
    monkeypatch.setattr(docstrings, "faults", lambda: ["portnet.planted: no docstring"])
    monkeypatch.setattr(sys, "argv", ["docs", str(tmp_path / "site")])
    with pytest.raises(SystemExit, match="planted: no docstring"):
        runpy.run_path(str(CI / "docs"), run_name="__main__")
    assert not (tmp_path / "site").exists()
