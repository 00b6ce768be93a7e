"""The report of ci/gpu says what passed, and on what."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
XML = """<testsuites><testsuite name="pytest" time="12.6">
<testcase classname="tests.test_a" name="test_one" time="0.1"/>
<testcase classname="tests.test_a" name="test_two"><failure message="E">text</failure></testcase>
<testcase classname="tests.test_a" name="test_three"><error message="E">text</error></testcase>
<testcase classname="tests.test_a" name="test_four"><skipped message="no polars"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def report(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "ci" / "gpu_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "machine", lambda: "a GPU; CUDA 13.0 (driver)")
    return module


def test_the_report_has_the_machine_and_a_line_for_each_part(report, tmp_path):
    (tmp_path / "gpu-part-2.xml").write_text(XML)
    (tmp_path / "gpu-part-5.xml").write_text(XML.replace("failure", "skipped"))
    assert report.main(tmp_path) == 0
    text = (tmp_path / "gpu-run.md").read_text()
    assert f"commit {report.commit()}; a GPU; CUDA 13.0 (driver)\n" in text
    assert "| 2 | 1 | 2 | 1 | 13 |\n| 5 | 1 | 1 | 2 | 13 |\n" in text
    assert "- 2: no polars\n- 1: E\n" in text
    assert "- `tests.test_a::test_two`\n- `tests.test_a::test_three`\n" in text


def test_a_report_of_no_test_is_an_error(report, tmp_path, capsys):
    assert report.main(tmp_path) == 1
    assert "no test has passed" in capsys.readouterr().err
    assert not (tmp_path / "gpu-run.md").exists()
