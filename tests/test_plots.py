"""Pictures: files of the right kind, with the lines, levels and captions that were asked for."""

import subprocess
import sys

import numpy as np
import pytest

import portnet
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


X = np.random.default_rng(0).standard_normal((60, 2))
TWO = (X[:, 0] > 0).astype(int)
THREE = TWO + (X[:, 1] > 0.5)


def run_of(outputs, loss, y, data=X):
    trainer = portnet.Trainer(portnet.mlp([2, 8, outputs], "tanh"), loss, portnet.Adam(0.05))
    return trainer.fit(data, y, epochs=30, progress=False)


def words(figure):
    """Return legend, label of the colour bar, and labels of the axes."""
    axis = figure.axes[0]
    legend = axis.get_legend()
    bar = figure.axes[1].get_ylabel() if len(figure.axes) > 1 else ""
    named = [] if legend is None else [text.get_text() for text in legend.get_texts()]
    return named, bar, (axis.get_xlabel(), axis.get_ylabel())


NAMES = np.array(["ham", "spam"])[TWO]
BOUNDARIES = {
    "one sigmoid": (lambda: run_of(1, "sigmoid_cross_entropy", TWO), TWO, ["0", "1"], "1"),
    "two softmax": (lambda: run_of(2, "softmax_cross_entropy", TWO), TWO, ["0", "1"], "1"),
    "text": (lambda: run_of(2, "softmax_cross_entropy", NAMES), NAMES, ["ham", "spam"], "spam"),
    "one sigmoid of text": (
        lambda: run_of(1, "sigmoid_cross_entropy", NAMES),
        NAMES,
        ["ham", "spam"],
        "spam",
    ),
    "a function (n, 1)": (lambda: lambda x: (x[:, :1] > 0) * 1.0, TWO, ["0", "1"], "1"),
    "a function (n,)": (lambda: lambda x: (x[:, 0] > 0) * 0.9, TWO[:, None], ["0", "1"], "1"),
}


@pytest.mark.parametrize("case", BOUNDARIES)
def test_decision_boundary_of_two_classes_is_the_probability_of_the_second(case, drawn, tmp_path):
    make, y, classes, second = BOUNDARIES[case]
    path = plots.decision_boundary(tmp_path / "b.svg", make(), X, y, title="T")
    assert b"<svg" in path.read_bytes()
    assert words(drawn[0]) == (classes, f"probability of {second}", ("x1", "x2"))
    assert drawn[0].axes[0].get_title() == "T"
    points = drawn[0].axes[0].collections[-1].get_offsets()  # of the second class
    np.testing.assert_array_equal(points, X[TWO == 1])


def test_decision_boundary_of_three_classes_has_a_colour_for_each(drawn, tmp_path):
    run = run_of(3, "softmax_cross_entropy", THREE)
    plots.decision_boundary(tmp_path / "b.png", run, X, THREE)
    assert words(drawn[0]) == (["0", "1", "2"], "", ("x1", "x2"))
    (image,) = drawn[0].axes[0].get_images()
    assert len(np.unique(image.get_array()[..., :3].reshape(-1, 3), axis=0)) == 3


def test_decision_boundary_of_numbers_is_on_their_own_scale(drawn, tmp_path):
    y = 40 * X[:, 0] - 300
    run = run_of(1, "squared_error", y)
    plots.decision_boundary(tmp_path / "b.png", run, X, y)
    assert words(drawn[0])[:2] == ([], "prediction, and target of the points")
    low, high = drawn[0].axes[0].collections[0].get_clim()
    assert low <= y.min() < -300 < y.max() <= high


def test_decision_boundary_of_estimators_and_frames(drawn, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=["width", "height"])
    options = {"hidden_layer_sizes": (8,), "max_iter": 400, "random_state": 0, "tol": 1e-2}
    net = portnet.MLPClassifier(**options).fit(frame, NAMES)
    plots.decision_boundary(tmp_path / "b.png", net, frame, NAMES)
    axes = ("width", "height")
    assert words(drawn[0]) == (["ham", "spam"], "probability of spam", axes)
    net = portnet.MLPRegressor(**options).fit(frame, X[:, 0])
    plots.decision_boundary(tmp_path / "c.png", net, frame, X[:, 0])
    assert words(drawn[1]) == ([], "prediction, and target of the points", axes)
    run = run_of(1, "sigmoid_cross_entropy", TWO, frame)
    plots.decision_boundary(tmp_path / "d.png", run, frame, TWO)
    assert words(drawn[2]) == (["0", "1"], "probability of 1", axes)


def test_decision_boundary_needs_two_columns(tmp_path):
    with pytest.raises(ValueError, match=r"expected X \(rows, 2\).*got \(60, 3\) and \(60,\)"):
        plots.decision_boundary(tmp_path / "b.png", lambda x: x, np.ones((60, 3)), TWO)


def test_plots_are_an_attribute_of_the_package_imported_late():
    code = (
        "import sys, portnet; assert 'matplotlib' not in sys.modules; "
        "assert 'plots' in dir(portnet); portnet.plots.curves; "
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_images(drawn, tmp_path):
    path = plots.images(tmp_path / "i.pdf", [np.eye(2)] * 3, ["a", "b", "c"], columns=2)
    assert path.read_bytes().startswith(b"%PDF")
    assert [axis.get_title() for axis in drawn[0].axes] == ["a", "b", "c", ""]
