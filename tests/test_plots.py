"""Plots: file formats, lines, levels, labels and legends."""

import re
import subprocess
import sys

import numpy as np
import pytest

import portnet
from portnet import plots

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
from matplotlib.contour import ContourSet

LINES = {"training": [1.0, 0.5, 0.2], "validation": [1.1, 0.7, 0.6]}


@pytest.fixture
def drawn(monkeypatch):
    """Collect the figures that are drawn, for inspection."""
    figures, figure = [], plots._figure
    monkeypatch.setattr(
        plots, "_figure", lambda *size: figures.append(figure(*size)) or figures[-1]
    )
    return figures


def test_curves_draws_lines_levels_scales_and_titles(drawn, tmp_path):
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


RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(centre, 0.5, (20, 2)) for centre in ((0, 0), (2, 1), (0, 3))])
THREE = np.repeat([0, 1, 2], 20)
TWO = np.repeat([0, 1], 20)
NAMES = np.array(["ant", "bee", "cat"])
BOUNDARY = "decision_boundary: "


def fitted(loss, outputs, X, y):
    """Return a run of a small network."""
    net = portnet.mlp([2, 8, outputs], "tanh")
    return portnet.Trainer(net, loss, portnet.Adam(0.05), batch_size=20).fit(X, y, epochs=20)


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def bar(figure):
    """Return the label and the limits of the colour bar, or None without one."""
    if len(figure.axes) < 2:
        return None
    return figure.axes[1].get_ylabel(), *(round(float(y), 6) for y in figure.axes[1].get_ylim())


def lines(figure):
    """Return the number of decision boundaries that are drawn in black."""
    found = [c for c in figure.axes[0].collections if isinstance(c, ContourSet) and not c.filled]
    return len(found)


def test_decision_boundary_of_a_function_returning_a_probability_column(drawn, tmp_path):
    path = plots.decision_boundary(
        tmp_path / "r.svg", lambda x: 1 / (1 + np.exp(2 - x[:, :1])), X[:40], TWO[:, None] * 1.0
    )
    assert b"<svg" in path.read_bytes()
    assert legend(drawn[0]) == ["class 0", "class 1"]
    assert bar(drawn[0]) == ("probability of class 1", 0, 1)
    assert lines(drawn[0]) == 1


@pytest.mark.parametrize(
    ("loss", "outputs"), [("softmax_cross_entropy", 2), ("sigmoid_cross_entropy", 1)]
)
@pytest.mark.parametrize("names", [np.array([0, 1]), NAMES], ids=["numbers", "text"])
def test_decision_boundary_of_a_two_class_run_shows_its_class_names(
    loss, outputs, names, drawn, tmp_path
):
    y = names[TWO]
    plots.decision_boundary(tmp_path / "r.png", fitted(loss, outputs, X[:40], y), X[:40], y)
    assert legend(drawn[0]) == [f"class {names[0]}", f"class {names[1]}"]
    assert bar(drawn[0]) == (f"probability of class {names[1]}", 0, 1)
    assert lines(drawn[0]) == 1


@pytest.mark.parametrize("names", [np.array([0, 1, 2]), NAMES], ids=["numbers", "text"])
def test_decision_boundary_of_a_three_class_run_has_three_contours(names, drawn, tmp_path):
    y = names[THREE]
    plots.decision_boundary(tmp_path / "r.png", fitted("softmax_cross_entropy", 3, X, y), X, y)
    assert legend(drawn[0]) == [f"class {name}" for name in names]
    assert bar(drawn[0]) is None
    assert lines(drawn[0]) == 3  # around each class


def test_decision_boundary_of_a_regression_is_not_clipped_to_0_and_1(drawn, tmp_path):
    y = 40 * X[:, 0] - 30
    run = fitted("squared_error", 1, X, y)
    for model in (run, run.predict):
        plots.decision_boundary(tmp_path / "r.png", model, X, y)
        label, low, high = bar(drawn[-1])
        assert label == "prediction"
        assert low <= y.min()
        assert high >= y.max()
        assert drawn[-1].axes[0].get_legend() is None


def test_decision_boundary_accepts_estimators_and_their_methods(drawn, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.svm import SVC

    names = NAMES[THREE]
    settings = {"hidden_layer_sizes": (8,), "solver": "lbfgs", "max_iter": 2000, "random_state": 0}
    classifier = portnet.MLPClassifier(**settings).fit(X, names)
    for model in (classifier, SVC().fit(X, names), classifier.predict, classifier.predict_proba):
        plots.decision_boundary(tmp_path / "r.png", model, X, names)
        assert legend(drawn[-1]) == ["class ant", "class bee", "class cat"]
    regressor = portnet.MLPRegressor(**settings).fit(X, TWO[np.arange(60) % 40])
    plots.decision_boundary(tmp_path / "r.png", regressor, X, TWO[np.arange(60) % 40])
    assert bar(drawn[-1])[0] == "prediction"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_decision_boundary_passes_dataframes_to_estimators_fitted_on_them(library, drawn, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    frame = frames.DataFrame({"length": X[:, 0], "width": X[:, 1]})
    classifier = portnet.MLPClassifier((8,), solver="lbfgs", random_state=0)
    plots.decision_boundary(tmp_path / "r.png", classifier.fit(frame, THREE), frame, THREE)
    axis = drawn[0].axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("length", "width")


@pytest.mark.parametrize("height", [0.2, 3e6, -1.0])
def test_decision_boundary_of_equal_predictions_has_no_contour(height, drawn, tmp_path):
    plots.decision_boundary(tmp_path / "r.png", lambda x: np.full(len(x), height), X[:40], TWO)
    assert lines(drawn[0]) == 0


def test_decision_boundary_accepts_arrays_of_other_libraries(other_xp, drawn, tmp_path):
    run = fitted("sigmoid_cross_entropy", 1, X[:40], TWO)
    x, y = other_xp.asarray(X[:40]), other_xp.asarray(TWO)
    plots.decision_boundary(tmp_path / "r.png", run, x, y)
    assert legend(drawn[0]) == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("model", "x", "y", "message"),
    [
        (len, X[:, :1], THREE, BOUNDARY + r"expected X of shape (rows, 2), got (60, 1)"),
        (
            len,
            X,
            np.eye(3)[THREE],
            BOUNDARY + "expected y of shape (60,), a label or target for each point, got (60, 3)",
        ),
        (
            lambda x: x[:, [0, 1, 1]],
            X,
            THREE,
            BOUNDARY
            + "expected the model to return a number, a label, or probabilities that sum to "
            "1 for each of 40401 points, got an array of shape (40401, 3)",
        ),
        (
            lambda x: np.full((len(x), 2), 0.5),
            X,
            THREE,
            BOUNDARY + "the model has 2 classes, 0, 1, but y has 0, 1, 2",
        ),
    ],
    ids=["three features", "one-hot", "no probabilities", "other classes"],
)
def test_decision_boundary_rejects_bad_input_and_writes_no_file(model, x, y, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        plots.decision_boundary(tmp_path / "r.png", model, x, y)
    assert not list(tmp_path.iterdir())


def test_importing_portnet_does_not_import_matplotlib():
    code = """
import sys, portnet
assert "matplotlib" not in sys.modules
assert portnet.plots.decision_boundary
assert "plots" in dir(portnet)
assert "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_images_draws_titled_images_and_writes_pdf(drawn, tmp_path):
    path = plots.images(tmp_path / "i.pdf", [np.eye(2)] * 3, ["a", "b", "c"], columns=2)
    assert path.read_bytes().startswith(b"%PDF")
    assert [axis.get_title() for axis in drawn[0].axes] == ["a", "b", "c", ""]
