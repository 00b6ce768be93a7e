"""README.md: its snippets run, its two commands are found, and the files it names exist."""

import importlib
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import portnet

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
USABLE = [status.name for status in portnet.backends() if status.usable]
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_first_snippet_trains():
    draw = np.random.default_rng(0)
    X, y = draw.standard_normal((3000, 32)), draw.integers(0, 8, 3000)
    names = {"X": X, "y": y, "Xv": X, "yv": y, "Xnew": X[:5], "Xt": X, "yt": y}
    exec(SNIPPETS[0].replace("epochs=100)", "epochs=2)"), names)
    assert len(names["run"].history["loss"]) == 2


def test_training_snippet_stops_early_and_keeps_the_class_names():
    draw = np.random.default_rng(0)
    X, labels = draw.standard_normal((300, 4)), np.array(["ant", "bee", "cat"])[np.arange(300) % 3]
    pytest.importorskip("pandas", reason="pandas is not installed")
    names = {"X": X, "labels": labels, "portnet": portnet, "net": portnet.mlp([4, 8, 3])}
    exec(SNIPPETS[1], names)
    assert names["run"].epoch > 20
    assert names["run"].classes.tolist() == ["ant", "bee", "cat"]


def test_run_with_a_custom_schedule_can_be_pickled(tmp_path, monkeypatch):
    (tmp_path / "rate_of_readme.py").write_text(SNIPPETS[2])
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("rate_of_readme")
    X, y = np.random.default_rng(0).standard_normal((2, 40, 3))
    trainer = portnet.Trainer(portnet.mlp([3, 4, 3]), "squared_error", module.optimizer)
    run = trainer.fit(X, y, epochs=2)
    again = pickle.loads(pickle.dumps(run)).fit(X, y, epochs=1)
    np.testing.assert_array_equal(again.predict(X), run.fit(X, y, epochs=1).predict(X))


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimator_snippet_fits_and_records_validation_scores():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    other = next(b for b in ("torch", "numpy") if b in USABLE)  # stands in for CuPy
    draw = np.random.default_rng(0)
    X, y = draw.standard_normal((80, 4)), np.arange(80) % 2
    names = {"X": X, "y": y, "Xv": X, "yv": y, "Xnew": X[:5]}
    exec(SNIPPETS[3].replace("cupy", other), names)
    assert names["net"].n_iter_ == len(names["net"].validation_scores_)


def test_custom_layer_snippet_has_at_most_ten_lines_and_trains():
    names = {}
    exec(SNIPPETS[4], names)
    body = re.search(r"^@dataclass.*?(?=\n\n\n)", SNIPPETS[4], re.MULTILINE | re.DOTALL).group()
    code = [line for line in body.splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 10
    run = portnet.Trainer(names["net"], "squared_error").fit([[0.0], [1.0]], [0.0, 1.0], epochs=2)
    assert len(run.history["loss"]) == 2


def test_compile_snippet_converges_and_explains_the_replay(capsys):
    names = {}
    exec(SNIPPETS[5], names)
    assert float(names["value"]) < 1e-3
    assert "replay" in capsys.readouterr().out
    assert len(SNIPPETS) == 6


def test_two_install_commands_stand_near_the_top():
    done = subprocess.run([sys.executable, ROOT / "ci" / "readme"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert README.index("```bash") < 600


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?:portnet|examples|ci)/[\w./-]+\w", README)))
)
def test_named_files_exist(path):
    assert (ROOT / path).exists()


def test_every_backend_is_named_in_the_table():
    for status in portnet.backends():
        assert f"| `{status.name}` |" in README
