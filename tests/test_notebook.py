"""A notebook: one progress bar, no warnings, tables instead of reprs, and pictures."""

import os
import re
from pathlib import Path

import pytest

import portnet

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

FIT = """
import time, portnet

trainer = portnet.Trainer(portnet.mlp([2, 3, 1]), "squared_error")
run = trainer.fit(
    [[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0], epochs=8, callbacks=[lambda report: time.sleep({pause})]
)
"""
WITHOUT_WIDGETS = "import sys; sys.modules['ipywidgets'] = None"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Execute cells in a new kernel of this Python; return the outputs of each cell."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(Path(portnet.__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which shows pictures

    def execute(*cells):
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
        where = {"metadata": {"path": tmp_path}}
        nbclient.NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources=where
        ).execute()
        return [cell.outputs for cell in notebook.cells]

    return execute


def visible(text):
    """Return the lines that a screen shows: a carriage return begins a line anew."""
    return [line.rpartition("\r")[2] for line in text.rstrip("\r\n").split("\n")]


def test_bar_without_widgets_is_one_line_of_text_without_a_warning(execute):
    _, outputs = execute(WITHOUT_WIDGETS, FIT.format(pause=0.1))
    assert {output.output_type for output in outputs} == {"stream"}
    (line,) = visible("".join(output.text for output in outputs))
    assert re.fullmatch(r"100%\|.*\| 8/8 \[.*step/s.*loss=.*\]", line)


def test_bar_with_widgets_is_one_widget_and_nothing_beside_it(execute):
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
    (outputs,) = execute(FIT.format(pause=0.1))
    (output,) = outputs
    assert output.output_type == "display_data"
    assert "application/vnd.jupyter.widget-view+json" in output.data


@pytest.mark.parametrize("before", ["", WITHOUT_WIDGETS], ids=["widgets", "text"])
def test_short_fit_and_progress_false_draw_no_bar(before, execute):
    slow = FIT.format(pause=0.1).replace("epochs=8", "epochs=8, progress=False")
    assert execute(before, FIT.format(pause=0), slow) == [[], [], []]


def test_progress_true_draws_a_bar_at_once_and_verbose_prints_to_stdout(execute):
    text = FIT.format(pause=0).replace("epochs=8", "epochs=2, progress=True, verbose=True")
    _, outputs = execute(WITHOUT_WIDGETS, text)
    printed = {name: "" for name in ("stdout", "stderr")}
    for output in outputs:
        printed[output.name] += output.text
    assert [line.partition("  ")[0] for line in printed["stdout"].split("\n")] == [
        "epoch 1/2",
        "epoch 2/2",
        "",
    ]
    assert "2/2" in visible(printed["stderr"])[-1]


def test_results_are_shown_as_tables(execute):
    _, *shown = execute(FIT.format(pause=0), "run", "run.history", "run.trainer.model")
    for (output,), text in zip(shown, ["Run of 8 epochs", "History of 8", "Dense(3)"], strict=True):
        assert text in output.data["text/html"]
        assert len(output.data["text/plain"]) < 500


def test_plots_are_shown_once(execute):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("matplotlib_inline", reason="matplotlib_inline is not installed")
    points = "[[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0]"
    calls = [
        "run.plot();",
        "portnet.plots.network(run);",
        f"portnet.plots.decision_boundary(run, {points});",
        "portnet.plots.compare([run, run]);",
    ]
    _, *shown = execute("%matplotlib inline\n" + FIT.format(pause=0), *calls)
    for outputs in shown:
        (output,) = outputs
        assert "image/png" in output.data
