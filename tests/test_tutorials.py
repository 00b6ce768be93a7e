"""The tutorials run as they stand, print what they promise, and become pages of the site."""

import importlib
import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import portnet

ROOT = Path(__file__).parent.parent
CI = ROOT / "ci"
FOLDER = ROOT / "examples" / "tutorials"
USABLE = {status.name for status in portnet.backends() if status.usable}
NEEDS = {
    "backpropagation": ["matplotlib"],
    "scikit_learn_users": ["matplotlib", "sklearn", "pandas"],
    "gpu_users": ["matplotlib"],
    "more_data_than_memory": ["matplotlib", "sklearn"],
}
SMALL = '''"""For tests: a small
tutorial.

More.
"""

# %% [markdown]
# # A small page
#
# The formula
# $a_1 = b$ and `code_1`.
#
# ## Second
# - a point

# %%
from pathlib import Path

x = 1 < 2

# %%

print("x is", x, "<b>")
Path("a_picture.png").write_bytes(b"PNG 1")
# %%
print(x)
Path("b.png").write_bytes(b"PNG 2")
'''


@pytest.fixture
def tutorials(monkeypatch):
    monkeypatch.syspath_prepend(CI)
    return importlib.import_module("tutorials")


@pytest.fixture
def planted(tmp_path):
    """Write a script into a folder of its own."""

    def write(text, name="planted"):
        folder = tmp_path / "scripts"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        return folder

    return write


# The scripts ------------------------------------------------------------------------------------


def need(name):
    for package in NEEDS[name]:
        pytest.importorskip(package, reason=f"{package} is not installed")


def printed_by(name, folder):
    """Run a tutorial as it stands, and return what it printed.

    Warnings are errors, except where a GPU is: there portnet warns if steps cannot be graphs.
    """
    need(name)
    warnings = "default" if "cupy" in USABLE else "error"
    done = subprocess.run(
        [sys.executable, "-W", warnings, FOLDER / f"{name}.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or "cupy" in USABLE
    return done.stdout


def pictures(folder):
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000
    return sorted(path.stem for path in folder.glob("*.png"))


def test_every_tutorial_is_tested_and_in_the_order_of_the_site(tutorials):
    names = [path.stem for path in FOLDER.glob("*.py")]
    assert sorted(names) == sorted(NEEDS) == sorted(tutorials.ORDER)
    assert [path.stem for path in tutorials.scripts()] == list(tutorials.ORDER)


def test_backpropagation_prints_the_numbers_of_the_exercises(tmp_path):
    printed = printed_by("backpropagation", tmp_path)
    assert "exercise          [-0.41953547  8.98887811] [-4.19706344] [0.99177089]" in printed
    assert "ExerciseSigmoid() in inference: dx is wrong" in printed
    losses = re.findall(r"^Epoch \d+, loss (.*)$", printed, re.MULTILINE)
    assert losses == ["0.323954", "0.159365", "0.008618", "0.003295"]
    assert "[0.05464331 0.95032601 0.95006665 0.05336686]" in printed
    assert re.findall(r"Loss (0\.\d+)", printed) == [
        "0.0007",
        "0.0003",
        "0.0002",
        "0.0002",
        "0.0001",
    ]
    differences = re.search(r"^(\S+) (\S+)\nEpoch 1,", printed, re.MULTILINE).groups()
    assert all(float(number) < 1e-15 for number in differences)  # by hand, against explain_step
    accuracies = [float(a) for a in re.findall(r"(?:accuracy|pictures) (\d\.\d+)", printed)]
    assert accuracies[0] == 1
    assert min(accuracies) > 0.95
    names = "one_neuron patterns two_blobs weaver weaver_loss xor_loss xor_network xor_output"
    assert pictures(tmp_path) == names.split()


def test_scikit_learn_users_has_the_scores_of_scikit_learn(tmp_path):
    printed = printed_by("scikit_learn_users", tmp_path)
    ours, others = re.findall(r"^(?:portnet|scikit-learn) +(\[.*)$", printed, re.MULTILINE)
    assert ours == others
    assert float(re.search(r"mean (\S+)$", ours)[1]) > 0.95
    assert "MLPClassifier True" in printed
    assert all(float(a) > 0.9 for a in re.findall(r"test accuracy (\S+)", printed))
    assert "No GPU here: " in printed or "on the GPU: cupy" in printed
    assert pictures(tmp_path) == ["early_stopping"]


def test_gpu_users_says_where_it_runs(tmp_path):
    printed = printed_by("gpu_users", tmp_path)
    if "cupy" in USABLE:
        assert "new arrays: cupy on " in printed
        assert "loss with TF32 " in printed
        assert "predictions of it: <class 'cupy.ndarray'>" in printed
    else:
        assert "No GPU here, so what follows runs on NumPy:\nthe cupy backend cannot be" in printed
        assert "new arrays: numpy on cpu float32" in printed
        assert 'matmul_precision="tf32" is for float32 on the cupy backend' in printed
    assert "predictions of NumPy data: <class 'numpy.ndarray'>" in printed
    compared = dict(re.findall(r"NumPy and (\w+): largest difference of a weight (\S+)", printed))
    assert set(compared) == USABLE & {"cupy", "torch"}
    assert all(float(difference) < 1e-12 for difference in compared.values())
    assert "steps of an epoch, on 1000 rows" in printed
    assert pictures(tmp_path) == ["loss"]


def test_more_data_than_memory_needs_less_memory_than_the_data(tmp_path):
    printed = printed_by("more_data_than_memory", tmp_path)
    X, _ = map(float, re.search(r"X has (\S+) MB, y (\S+) MB", printed).groups())
    scaler, *fits = (float(peak) for peak in re.findall(r"(\S+) MB at most", printed))
    trainer, predicting, estimator, stream, chunks = fits
    assert max(scaler, predicting, stream, chunks) < X / 8
    assert max(trainer, estimator) < 0.65 * X  # two windows, whatever X has
    assert "X contains NaN at row 654321, column 7\n" in printed
    accuracies = re.findall(r"accuracy (?:on .*: )?(\d\.\d+)", printed)
    assert len(accuracies) == 5
    assert all(float(accuracy) > 0.93 for accuracy in accuracies)
    assert pictures(tmp_path) == ["loss"]
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


# The pages --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The texts of a page by tag, and its links and pictures; every tag must be closed."""

    def __init__(self, path):
        super().__init__()
        self.path, self.open, self.found, self.links, self.pictures = path, [], {}, [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "img":
            assert attrs["alt"]
            self.pictures.append(attrs["src"])
        if tag not in ("img", "meta", "br", "link"):
            self.open.append(tag if attrs.get("class") != "output" else "output")
            self.found.setdefault(self.open[-1], []).append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag != "img":
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() in (tag, "output")

    def handle_data(self, data):
        for tag in set(self.open):
            self.found[tag][-1] += data


def check_links(page):
    for link in [*page.links, *page.pictures]:
        if not link.startswith("http"):
            assert (page.path.parent / link.partition("#")[0]).exists(), link


def need_page_makers():
    for package in ("markdown2", "pygments", "latex2mathml"):
        pytest.importorskip(package, reason=f"{package} is not installed")


def test_page_has_text_code_output_and_pictures(tutorials, planted, tmp_path):
    need_page_makers()
    site = tmp_path / "site"
    assert tutorials.build(site, planted(SMALL)) == []
    page = Page(site / "tutorials" / "planted.html")
    assert page.found["title"] == ["A small page - portnet"]
    assert page.found["h2"] == ["Second"]
    assert page.found["li"] == ["a point"]
    assert page.found["math"] == ["a1=b"]
    assert page.found["p"][0] == "The formula a1=b and code_1."
    assert page.found["output"] == ["x is True <b>", "True"]
    assert "x = 1 < 2" in page.found["pre"][0]
    assert "code_1" in page.found["code"]
    assert page.pictures == ["planted-a_picture.png", "planted-b.png"]
    assert [(page.path.parent / p).read_bytes() for p in page.pictures] == [b"PNG 1", b"PNG 2"]
    text = page.path.read_text()
    assert text.index("x is") < text.index("planted-a_picture") < text.index("planted-b.png")
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", text)  # nothing from other hosts
    index = (site / "tutorials" / "index.html").read_text()
    assert '<a href="planted.html">' in index
    assert "For tests: a small tutorial.</li>" in index


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\nx.nothing\n", r"line 11, in <module>\n    x\.nothing[\s\S]*AttributeError"),
        ("import warnings\nwarnings.warn('planted')\n", "UserWarning: planted"),
        ("raise SystemExit('planted')\n", "planted"),
    ],
)
def test_cell_that_fails_is_named_and_no_page_is_written(
    code, message, tutorials, planted, tmp_path
):
    folder = planted(f'"""A."""\n\n# %% [markdown]\n# # Fails\n\n# %%\nx = 0\n\n# %%\n{code}')
    (fault,) = tutorials.build(tmp_path / "site", folder)
    assert fault.startswith("planted.py: a cell failed")
    assert re.search(message, fault), fault
    assert list((tmp_path / "site" / "tutorials").iterdir()) == []


def test_cell_that_does_not_end_is_a_fault(tutorials, planted, tmp_path, monkeypatch):
    monkeypatch.setattr(tutorials, "SECONDS", 1)
    (fault,) = tutorials.build(tmp_path / "site", planted("# %%\nimport time\ntime.sleep(60)\n"))
    assert fault == "planted.py: has not ended after 1 s"


def test_ci_docs_fails_where_a_cell_raises(tutorials, planted, tmp_path, monkeypatch):
    pdoc = pytest.importorskip("pdoc", reason="pdoc is not installed")
    docstrings = importlib.import_module("docstrings")
    monkeypatch.setattr(docstrings, "faults", list)  # what tests/test_docs.py tests
    monkeypatch.setattr(docstrings, "public", dict)
    monkeypatch.setattr(pdoc, "pdoc", lambda *modules, output_directory: None)
    (script,) = planted('# %%\nraise KeyError("planted")\n').iterdir()
    monkeypatch.setattr(tutorials, "scripts", lambda folder: [script])
    monkeypatch.setattr(sys, "argv", ["docs", str(tmp_path / "site")])
    with pytest.raises(SystemExit, match=r"planted\.py: a cell failed[\s\S]*KeyError: 'planted'"):
        runpy.run_path(str(CI / "docs"), run_name="__main__")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# %%\nx = 1\n# %% [raw]\n", "line 3: expected '# %%' or '# %% [markdown]'"),
        ("# %% [markdown]\n# a\nx = 1\n", "line 1: expected only comments, got 'x = 1'"),
    ],
)
def test_cell_of_another_kind_is_an_error(text, message, tutorials):
    with pytest.raises(ValueError, match=re.escape(message)):
        tutorials.cells(text)


def test_cells_know_their_lines(tutorials):
    found = tutorials.cells(SMALL)
    assert [cell.kind for cell in found] == ["text", "code", "code", "code"]
    lines = SMALL.splitlines()
    for cell in found[1:]:
        assert lines[cell.line - 1] == cell.text.splitlines()[0]


def test_site_has_a_page_of_every_module(tutorials, site):
    docstrings = importlib.import_module("docstrings")
    for module in docstrings.MODULES:
        assert (site / f"{module.replace('.', '/')}.html").exists()


def test_site_has_a_page_of_every_tutorial(tutorials, site):
    pages = site / "tutorials"
    for script in tutorials.scripts():
        page = Page(pages / f"{script.stem}.html")
        text = script.read_text(encoding="utf-8")
        (title,) = page.found["h1"]
        assert f"# # {title}\n" in text
        assert page.found["h2"] == re.findall(r"^# ## (.*)$", text, re.MULTILINE)
        assert len(page.found["h2"]) >= 4
        assert len(page.found["output"]) >= 5
        assert len(page.pictures) == text.count("savefig(")
        check_links(page)
        assert not re.search(r"\$|\*\*|https?://(?!www\.w3\.org)", "".join(page.found["main"]))
    student = Page(pages / "backpropagation.html")
    assert len(student.found["math"]) > 30
    assert len(student.pictures) == 8
    index = Page(pages / "index.html")
    assert len(index.found["li"]) == len(NEEDS)
    check_links(index)
    for module in ("portnet.html", "portnet/layers.html"):
        text = (site / module).read_text()
        links = re.findall(r'href="([./]*(?:guide|tutorials)/index.html)"', text)
        assert len(links) == 2
        assert all(((site / module).parent / link).exists() for link in links)


def test_site_has_a_page_of_every_page_of_the_guide(tutorials, site):
    guide = importlib.import_module("guide")
    written = {*(ROOT / "examples" / "guide").glob("*.md"), ROOT / "examples" / "README.md"}
    assert set(guide.PAGES) == written
    for path in guide.PAGES:
        page = Page(site / "guide" / f"{path.stem}.html")
        text = path.read_text(encoding="utf-8")
        assert page.found["h1"] == [text.partition("\n")[0].removeprefix("# ")]
        blocks = re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert page.found.get("pre", []) == blocks
        assert len(page.found.get("table", [])) == len(re.findall(r"^\|-", text, re.MULTILINE))
        check_links(page)
        prose = [t for tag in ("p", "li", "td") for t in page.found.get(tag, [])]
        assert not re.search(r"\]\(|\*\*|`", "".join(prose))
    index = Page(site / "guide" / "index.html")
    assert len(index.found["li"]) == len(written)
    check_links(index)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, as ci/docs makes it, or has made it: ci/check says where."""
    if "PORTNET_SITE" in os.environ:
        return Path(os.environ["PORTNET_SITE"])
    need_page_makers()
    for package in ("pdoc", *NEEDS["scikit_learn_users"]):
        pytest.importorskip(package, reason=f"{package} is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, CI / "docs", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
