"""Pictures: files of the right kind, with the lines, levels and captions that were asked for."""

import numpy as np
import pytest

from portnet import plots

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

LINES = {"training": [1.0, 0.5, 0.2], "validation": [1.1, 0.7, 0.6]}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, to look into."""
    figures, figure = [], plots._figure
    monkeypatch.setattr(
        plots, "_figure", lambda *size: figures.append(figure(*size)) or figures[-1]
    )
    return figures


def test_curves(drawn, tmp_path):
    path = plots.curves(
        tmp_path / "c.png",
        LINES,
        title="T",
        log=True,
        below=("accuracy", {"validation": [0.1, 0.2, 0.3]}),
        levels={"best": 0.9},
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    top, bottom = drawn[0].axes
    assert [line.get_label() for line in top.lines] == ["training", "validation"]
    np.testing.assert_array_equal(top.lines[1].get_xydata(), [[1, 1.1], [2, 0.7], [3, 0.6]])
    assert [line.get_label() for line in bottom.lines] == ["validation", "best"]
    assert (top.get_yscale(), bottom.get_yscale()) == ("log", "linear")
    assert (top.get_title(), bottom.get_ylabel()) == ("T", "accuracy")


def test_regions(drawn, tmp_path):
    X, labels = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), np.array([[0.0], [1.0], [1.0]])
    path = plots.regions(tmp_path / "r.svg", lambda x: (x[:, :1] > 0.5) * 1.0, X, labels)
    assert b"<svg" in path.read_bytes()
    legend = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert legend == ["class 0", "class 1"]


def test_images(drawn, tmp_path):
    path = plots.images(tmp_path / "i.pdf", [np.eye(2)] * 3, ["a", "b", "c"], columns=2)
    assert path.read_bytes().startswith(b"%PDF")
    assert [axis.get_title() for axis in drawn[0].axes] == ["a", "b", "c", ""]
