"""Targets of ``portnet train``: labels come back from ``predict`` as they were in the file."""

import numpy as np
import pytest
from tables_for_cli import call, flowers, pandas, refused

import portnet

FORMATS = ["csv", "parquet"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def predicted(labels, kind, *options):
    """Return the lines that predict prints for flowers with these labels, and the notes of train."""
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame = flowers().assign(species=labels)
    frame.to_csv("data.csv", index=False) if kind == "csv" else frame.to_parquet("data.parquet")
    done = call("train", f"data.{kind}", "--target", "species", "--epochs", "30", *options)
    assert done.exit_code == 0, done.output
    lines = call("predict", "model.safetensors", f"data.{kind}").stdout.splitlines()
    assert lines.pop(0) == "species"
    return lines, done


def by_length(*names):
    """Return labels that the length of flowers tells apart."""
    return [
        names[min(int(max(x, 0) / 4 * len(names)), len(names) - 1)] for x in flowers()["length"]
    ]


NAMES = {
    "zeros in front": ["007", "042", "100"],
    "text": ["ant", "bee"],
    "whole numbers": [3, 5, 8],
    "identifiers": [10**17, 10**17 + 1, 10**17 + 2],
    "numbers of 64 bits": [2**63 + 1, 2**63 + 2],
    "two numbers": [0.5, 1.5],
    "truth values": [False, True],
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_labels_come_back_as_they_were(names, kind):
    labels = by_length(*names)
    lines, done = predicted(labels, kind)
    assert f"classification of 'species': {len(names)} classes" in done.stdout
    assert ("--task regression" in done.stdout) == (type(names[0]) in (int, float))
    assert set(lines) == set(map(str, names))
    assert np.mean([a == str(b) for a, b in zip(lines, labels, strict=True)]) > 0.8


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_of_digits_are_text_in_the_model_as_well(kind):
    predicted(by_length("007", "008"), kind)
    assert portnet.load("model.safetensors").classes_.tolist() == ["007", "008"]


def test_text_of_digits_in_parquet_stays_text():
    predicted(by_length("1", "2"), "parquet")
    assert portnet.load("model.safetensors").classes_.tolist() == ["1", "2"]


@pytest.mark.parametrize("kind", FORMATS)
def test_large_whole_numbers_keep_their_digits_beside_missing_ones(kind):
    names = [10**17 + 1, 10**17 + 2]
    labels = pandas.array(by_length(*names), dtype="Int64")
    labels[::10] = None
    lines, done = predicted(labels, kind)
    assert set(lines) == set(map(str, names))
    assert "15 of 150 rows have no 'species': they are left out" in done.stderr
    assert portnet.load("model.safetensors").classes_.dtype == np.int64


@pytest.mark.parametrize("names", [[10**25 + 1, 10**25 + 2], [-(2**63) - 1, 2**63]])
def test_whole_numbers_beyond_64_bits_are_labels_as_text(names):
    lines, _ = predicted(by_length(*names), "csv")
    assert set(lines) == set(map(str, names))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numbers_are_classes_if_the_task_says_so(kind, dtype):
    names = np.array([0.1, 0.25, 12.5], dtype)
    lines, _ = predicted(np.array(by_length(*names), dtype), kind, "--task", "classification")
    assert set(lines) == {"0.1", "0.25", "12.5"}
    assert portnet.load("model.safetensors").classes_.tolist() == ["0.1", "0.25", "12.5"]


def test_blanks_around_labels_are_no_difference():
    labels = [f"{a} " if i % 2 else f" {a}" for i, a in enumerate(by_length("ant", "bee"))]
    for kind in FORMATS:
        lines, done = predicted(labels, kind)
        assert "2 classes" in done.stdout
        assert set(lines) == {"ant", "bee"}


def test_identifiers_that_would_lose_digits_in_a_regression_are_named():
    labels = 10**17 + np.arange(150) * 7 % 149
    _, done = predicted(labels, "csv")
    assert "regression of 'species'" in done.stdout
    assert (
        "note: the target 'species' has whole numbers above 2**53, which are rounded" in done.stderr
    )
    _, done = predicted(np.arange(150) * 7 % 149, "csv")
    assert "2**53" not in done.stderr


def test_a_target_that_parquet_has_as_categories_with_gaps():
    labels = pandas.Series(by_length(7, 9), dtype="category")
    labels[::10] = None
    lines, _ = predicted(labels, "parquet")
    assert set(lines) == {"7", "9"}


def test_many_different_texts_of_numbers_in_parquet_name_the_option():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    flowers().assign(species=lambda f: f["length"].astype(str)).to_parquet("data.parquet")
    line = refused("train", "data.parquet", "--target", "species")
    assert line.endswith("(at most 1,000 classes): give --task regression")


def test_lists_as_a_target_are_refused():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    flowers().assign(species=[[1, 2]] * 150).to_parquet("data.parquet")
    assert "the target: column 'species' has values of type" in refused(
        "train", "data.parquet", "--target", "species"
    )
