"""README.md and the guide: Python blocks run as pasted, files exist; README takes five minutes."""

import importlib.util
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import portnet

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = sorted((ROOT / "examples" / "guide").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *GUIDE]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
WORDS_PER_MINUTE = 238  # reading silently: Brysbaert (2019), doi.org/10.1016/j.jml.2019.104047
USABLE = [status.name for status in portnet.backends() if status.usable]
NEEDS = {  # what a block contains: the package that it needs beyond the extra `test`
    "plots.": "matplotlib",
    "sklearn": "sklearn",
    "MLPClassifier": "sklearn",
    "dask.distributed": "distributed",
    "export_onnx": "onnx",
    "onnxruntime": "onnxruntime",
}


@dataclass(frozen=True)
class Block:
    """A Python block of a page, with those before it in its section, on which it may rely."""

    page: str
    section: str
    number: int  # within the section, from 1
    code: str
    before: tuple[str, ...]

    def __str__(self):
        return f"{Path(self.page).stem}-{self.section}-{self.number}".replace(" ", "-")


def blocks(text, page="README.md"):
    """Return the Python blocks of a Markdown text, section by section."""
    found = []
    for part in re.split(r"^## ", text, flags=re.MULTILINE):
        section = part.partition("\n")[0].removeprefix("# ")
        codes = re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        found += [Block(page, section, i + 1, c, tuple(codes[:i])) for i, c in enumerate(codes)]
    return found


BLOCKS = [block for page, text in TEXTS.items() for block in blocks(text, page)]


def block(text):
    """Return the only block that contains a text."""
    (found,) = [b for b in BLOCKS if text in b.code]
    return found


def run(chosen, monkeypatch, folder):
    """Run a block after those before it in its section, as in a new session; return its names.

    Only the names that the blocks themselves define are there, warnings are errors, and files are
    written into `folder`. Where CuPy cannot be used, another library takes its place.
    """
    codes = [*chosen.before, chosen.code]
    for text, package in NEEDS.items():
        if text in "".join(codes):
            pytest.importorskip(package, reason=f"{package} is not installed")
    other = next(name for name in ("cupy", "torch", "numpy") if name in USABLE)
    monkeypatch.chdir(folder)
    names = {"__name__": "__main__"}
    with warnings.catch_warnings():
        # Another cluster of this machine may have the port of Dask's dashboard.
        warnings.filterwarnings("ignore", r"\s*Port \d+ is already in use")
        for i, code in enumerate(codes, 1):
            where = f"{chosen.page}, {chosen.section}, block {i}"
            exec(compile(code.replace('"cupy"', f'"{other}"'), where, "exec"), names)
    return names


@pytest.mark.parametrize("chosen", BLOCKS, ids=str)
def test_block_runs_as_pasted(chosen, monkeypatch, tmp_path):
    run(chosen, monkeypatch, tmp_path)


@pytest.mark.parametrize("page", TEXTS)
def test_every_fence_is_closed_and_has_a_known_language(page):
    fences = re.findall(r"^\s*```(.*)$", TEXTS[page], re.MULTILINE)
    assert all(fences[::2])
    assert not any(fences[1::2])
    assert set(fences[::2]) <= {"bash", "python", "text"}
    assert len([b for b in BLOCKS if b.page == page]) == fences.count("python")


def test_readme_reads_in_five_minutes():
    """Code and tables count; targets of links, and what a reader has to unfold, do not."""
    shown = re.sub(r"<details>.*?</details>", "", README, flags=re.DOTALL)
    words = re.sub(r"\]\(.*?\)|[|-]{3,}|\|", " ", shown).split()
    assert len(words) <= 5 * WORDS_PER_MINUTE


def test_every_page_of_the_guide_is_linked_in_readme():
    for path in PAGES[1:]:
        assert f"]({path.relative_to(ROOT)})" in README


def test_block_that_uses_an_undefined_name_fails(monkeypatch, tmp_path):
    (wrong,) = blocks("## Wrong\n\n```python\nprint(X)\n```\n")
    with pytest.raises(NameError, match="'X'"):
        run(wrong, monkeypatch, tmp_path)


def test_first_block_learns_and_draws_the_first_picture(monkeypatch, tmp_path, assert_same_picture):
    names = run(BLOCKS[0], monkeypatch, tmp_path)
    assert names["run"].history["validation_accuracy"][-1] > 0.95
    drawn = re.search(r'savefig\("(.*?)"', BLOCKS[0].code).group(1)
    assert (tmp_path / drawn).read_bytes().startswith(b"\x89PNG")
    first = re.search(r"!\[.*?\]\((.*?)\)", README).group(1)
    assert Path(first).name == drawn
    assert (ROOT / first).stat().st_size < 60_000
    assert_same_picture(tmp_path / drawn, ROOT / first)


def test_training_step_written_out_learns_xor(monkeypatch, tmp_path):
    names = run(block("explain_step(net"), monkeypatch, tmp_path)
    assert float(names["value"]) < 1e-6
    np.testing.assert_allclose(names["pred"], names["y"], atol=1e-3)


def test_layer_has_ten_lines_and_trains(monkeypatch, tmp_path):
    chosen = block("class Snake")
    names = run(chosen, monkeypatch, tmp_path)
    body = re.search(r"^@dataclass.*?(?=\n\n\n)", chosen.code, re.MULTILINE | re.DOTALL).group()
    code = [line for line in body.splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 10
    fitted = portnet.Trainer(names["net"], "squared_error").fit(
        [[0.0], [1.0]], [0.0, 1.0], epochs=2
    )
    assert len(fitted.history["loss"]) == 2


def test_estimator_takes_the_place_of_scikit_learn_s(monkeypatch, tmp_path):
    names = run(block("train_test_split(X, y, random_state=0)\nmodel"), monkeypatch, tmp_path)
    assert names["model"].score(names["X_test"], names["y_test"]) > 0.9


def test_estimator_stops_early_on_given_validation_data(monkeypatch, tmp_path):
    names = run(block("# early stopping on validation"), monkeypatch, tmp_path)
    assert names["net"].n_iter_ == len(names["net"].validation_scores_)


def test_estimator_has_a_history_of_its_scores(monkeypatch, tmp_path):
    net = run(block("net.history_"), monkeypatch, tmp_path)["net"]
    names = [f"{part}{name}" for part in ("", "validation_") for name in ("loss", "f1", "roc_auc")]
    assert sorted(net.history_) == sorted(names)
    assert net.best_validation_score_ > 0.98


def test_run_and_estimator_move_to_numpy(monkeypatch, tmp_path):
    names = run(block('MLPClassifier(backend="cupy"'), monkeypatch, tmp_path)
    assert isinstance(portnet.tree.leaves(names["run"].params)[0], np.ndarray)
    assert isinstance(names["clf"].coefs_[0], np.ndarray)


def test_training_stops_early_and_goes_on(monkeypatch, tmp_path):
    names = run(block("reduce_on_plateau"), monkeypatch, tmp_path)
    assert names["run"].epoch > 20
    assert names["run"].classes.tolist() == ["ant", "bee", "cat"]
    assert portnet.tree.leaves(names["run"].params)[0].dtype == np.float64


def test_run_with_a_learning_rate_of_one_s_own_can_be_pickled(tmp_path, monkeypatch):
    (tmp_path / "rate_of_readme.py").write_text(block("class Harmonic").code)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("rate_of_readme")
    X, y = np.random.default_rng(0).standard_normal((2, 40, 3))
    trainer = portnet.Trainer(portnet.mlp([3, 4, 3]), "squared_error", module.optimizer)
    fitted = trainer.fit(X, y, epochs=2)
    again = pickle.loads(pickle.dumps(fitted)).fit(X, y, epochs=1)
    np.testing.assert_array_equal(again.predict(X), fitted.fit(X, y, epochs=1).predict(X))


def test_compiled_step_learns_and_explains_itself(monkeypatch, tmp_path, capsys):
    names = run(block("portnet.compile("), monkeypatch, tmp_path)
    assert float(names["value"]) < 1e-3
    assert "operations traced" in capsys.readouterr().out


def test_two_commands_stand_near_the_top():
    done = subprocess.run([sys.executable, ROOT / "ci" / "readme"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert README.index("```bash") < 600


@pytest.mark.parametrize("page", TEXTS)
def test_named_files_exist(page):
    named = set(re.findall(r"(?:portnet|examples|ci|\.github)/[\w./-]+\w", TEXTS[page]))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", [*TEXTS, "CHANGELOG.md", ".github/CONTRIBUTING.md"])
def test_links_lead_to_files(document):
    path = ROOT / document
    links = re.findall(r"\]\((?!https?:|#)(.*?)(?:#.*?)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_links_to_sections_of_readme_lead_to_a_heading():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(#(.*?)\)", README)
    links += re.findall(r"README\.md#(.*?)\)", "".join(TEXTS.values()))
    assert set(links) <= anchors


def test_every_backend_is_in_the_table():
    for status in portnet.backends():
        assert f"| `{status.name}` |" in TEXTS["examples/guide/devices.md"]


def test_commands_of_the_shell_are_the_same_in_both_pages():
    shell = TEXTS["examples/guide/shell.md"].partition("```bash\n")[2].partition("```")[0]
    assert shell in README


def test_comparison_has_a_row_for_each_that_is_shown(monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.syspath_prepend(ROOT / "ci")
    comparison = importlib.import_module("comparison")
    table = README.partition("| row | portnet |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(comparison.ROWS)
    assert {line.count("|") for line in table.splitlines()[1:]} == {7}
    monkeypatch.setattr(sys, "argv", ["comparison.py", "resume", "head"])
    with pytest.raises(SystemExit):
        comparison.main()
    assert "no row head; there are dropout, activations" in capsys.readouterr().err


def test_commands_of_the_comparison_show_their_rows():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    command = [sys.executable, ROOT / "ci" / "comparison.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(lines) == re.findall(r'^    "(\w+)": \w+,$', command[1].read_text(), re.MULTILINE)
    needed = {name: ("onnx", "onnxruntime") for name in ("onnx", "serve")}
    for name, packages in (needed | {"exchange": ("torch",)}).items():
        missing = any(importlib.util.find_spec(package) is None for package in packages)
        assert lines.pop(name).startswith("needs ") == missing
    assert not any(line.startswith("needs ") for line in lines.values())
