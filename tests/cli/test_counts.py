"""Counts in the lines of the command line: 1 row, 2 rows."""

import re

import pytest
from tables_for_cli import call, flowers, houses, refused

from portnet._validation import counted

# "1 of 150 rows" counts rows, and so do "at least 10 rows" and "11 rows".
WRONG = re.compile(
    r"(?<![\d.,])1 (?!(row|column|class|epoch|input|prediction|name|value|text)\b)\w+s\b"
)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_count_has_its_noun_in_singular_or_plural():
    assert [counted(n, "row") for n in (0, 1, 2, 2000)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "2,000 rows",
    ]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]


def test_counts_of_one_are_singular_in_every_command():
    frame = flowers()[["length", "species"]]
    frame.loc[0, "species"] = None
    frame.to_csv("data.csv", index=False)
    options = ("--epochs", "1", "--test", "0.001", "--hidden", "2")
    done = call("train", "data.csv", "--target", "species", *options)
    assert "1 of 150 rows has no 'species': it is left out\n" in done.stderr
    assert "after 1 epoch: more" in done.stderr
    for text in ("1 column: 1 of numbers\n", "148 rows to train, 1 to test\n", "trained 1 epoch\n"):
        assert text in done.stdout
    assert "on 1 row that was not trained on\n" in done.stdout
    assert not WRONG.search(done.output), done.output
    frame.head(1).assign(more=1).to_csv("one.csv", index=False)
    done = call("predict", "model.safetensors", "one.csv", "--out", "p.csv")
    assert done.stdout == "wrote 1 prediction of 'species' to p.csv\n"
    assert done.stderr == "note: the column 'more' is ignored\n"
    frame.head(1).assign(more=1, other=2).to_csv("one.csv", index=False)
    done = call("predict", "model.safetensors", "one.csv")
    assert done.stderr == "note: the columns 'more', 'other' are ignored\n"
    frame[["species"]].to_csv("one.csv", index=False)
    line = refused("predict", "model.safetensors", "one.csv")
    assert line.endswith("expected the column 'length'; there is 1: 'species'")


def test_counts_of_one_are_singular_in_the_onnx_file():
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    flowers()[["length", "species"]].to_csv("data.csv", index=False)
    call("train", "data.csv", "--target", "species", "--epochs", "1")
    done = call("export", "model.safetensors", "m.onnx")
    assert done.stdout == "wrote m.onnx: 1 input (length), label, probabilities\n"
    assert onnx.load("m.onnx").doc_string == "portnet's prediction of 'species' from 1 column"


def test_counts_of_one_in_a_regression_and_in_errors():
    houses().to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "price", "--epochs", "1", "--test", "0.001")
    assert "on 1 row that was not trained on\n" in done.stdout
    houses(10).assign(price=[1] * 9 + [2]).to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "price", "--test", 0.9)
    assert (
        "expected at least two different 'price' in the 1 row to train with, got one" in done.stderr
    )
    with open("data.csv", "w") as file:
        file.write("x\n1,2\n" + "3\n" * 20)
    assert "the first row has more than the 1 value with a name" in refused(
        "train", "data.csv", "--target", "x"
    )
