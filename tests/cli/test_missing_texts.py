"""Texts that stand for missing values, such as ? and NA: in numbers, texts, dates and the target."""

import numpy as np
import pytest
from tables_for_cli import call, flowers, houses, pandas, refused

import portnet

TRAIN = ("train", "data.csv", "--target", "species", "--epochs", "3")
WORDS = ["", "?", "-", "--", ".", "NA", "N/A", "n/a", "null", "NULL", "None", "none", "nan", "NaN"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def with_gaps(column, text, frame=None):
    """Return flowers with a gap in every ninth row, and as the text has it in a CSV file."""
    frame = flowers() if frame is None else frame
    frame[column] = frame[column].astype(object)
    frame.loc[::9, column] = None
    return frame, frame.assign(**{column: frame[column].where(frame[column].notna(), text)})


def trained(frame, *options, name="data.csv", target="species"):
    frame.to_csv(name, index=False) if name.endswith("csv") else frame.to_parquet(name)
    done = call("train", name, "--target", target, "--epochs", "3", *options)
    assert done.exit_code == 0, done.output
    return portnet.load("model.safetensors", backend="numpy"), done


@pytest.mark.parametrize("blanks", [False, True])
@pytest.mark.parametrize("word", WORDS)
def test_a_column_of_numbers_with_a_word_for_missing_is_that_with_empty_cells(word, blanks):
    plain, marked = with_gaps("length", f" {word} " if blanks else word)
    expected, _ = trained(plain)
    found, done = trained(marked)
    assert (found.columns, found.kinds) == (expected.columns, expected.kinds)
    probabilities = expected.predict_proba(flowers(seed=1))
    np.testing.assert_array_equal(found.predict_proba(flowers(seed=1)), probabilities)
    np.testing.assert_array_equal(found.predict_proba(marked), expected.predict_proba(plain))
    said = f"note: column 'length' has {word!r} in 17 rows: taken as missing\n"
    assert (said in done.stderr) == (
        word in ("?", "-", "--", ".", "none") or (blanks and word != "")
    )


@pytest.mark.parametrize("word", ["?", "-"])
def test_words_for_missing_at_predict_are_missing_and_counted(word):
    plain, marked = with_gaps("length", word)
    flowers().to_csv("data.csv", index=False)
    assert call(*TRAIN).exit_code == 0
    plain.to_csv("plain.csv", index=False)
    marked.to_csv("marked.csv", index=False)
    expected, found = (
        call("predict", "model.safetensors", name, "--proba")
        for name in ("plain.csv", "marked.csv")
    )
    assert found.exit_code == 0, found.output
    assert found.stdout == expected.stdout
    assert found.stderr == f"note: column 'length' has {word!r} in 17 rows: taken as missing\n"


@pytest.mark.parametrize("separator", [",", ";"])
def test_truth_values_dates_and_decimal_commas_with_marks(separator):
    frame = flowers().assign(member=lambda f: f["width"] > 3)
    gaps, marked = with_gaps("member", "?", frame)
    gaps, marked = (
        f.assign(seen=gaps["seen"].where(frame.index % 7 > 0, text))
        for f, text in ((gaps, None), (marked, "-"))
    )
    gaps, marked = (
        f.assign(width=frame["width"].astype(object).where(frame.index % 5 > 0, text))
        for f, text in ((gaps, None), (marked, "?"))
    )
    expected, _ = trained(gaps)
    decimal = "," if separator == ";" else "."
    marked["width"] = [str(w).replace(".", decimal) for w in marked["width"]]
    marked.to_csv("data.csv", index=False, sep=separator, decimal=decimal)
    done = call(*TRAIN)
    assert done.exit_code == 0, done.output
    found = portnet.load("model.safetensors", backend="numpy")
    assert dict(zip(found.columns, found.kinds, strict=True))["member"] == "n"
    assert found.kinds == expected.kinds
    np.testing.assert_array_equal(found.predict_proba(frame), expected.predict_proba(frame))
    done = call("predict", "model.safetensors", "data.csv")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("mark", ["?", "-"])
def test_a_mark_in_a_column_of_text_stays_one_of_its_texts_and_is_said(mark):
    frame = flowers()
    frame.loc[::9, "colour"] = mark
    model, done = trained(frame)
    assert (
        f"note: column 'colour' has {mark!r} in 17 rows: kept as one of its texts\n" in done.stderr
    )
    (known,) = model.transformer.named_transformers_["texts"].steps[-1][1].categories_
    assert mark in known.tolist()


def test_blanks_around_texts_are_no_difference():
    frame = flowers()
    expected, _ = trained(frame)
    blank = frame.assign(
        colour=frame["colour"].map(lambda c: f"{c}  " if isinstance(c, str) else " NA ")
    )
    found, done = trained(blank)
    assert "kept" not in done.stderr
    proba = expected.predict_proba(frame)
    np.testing.assert_array_equal(found.predict_proba(frame), proba)
    np.testing.assert_array_equal(
        found.predict_proba(
            frame.assign(colour=frame["colour"].map(lambda c: f" {c} ", na_action="ignore"))
        ),
        proba,
    )


def test_a_text_among_numbers_is_named():
    frame = flowers().assign(size=lambda f: f["length"].astype(object))
    frame.loc[41, "size"] = "big"
    _, done = trained(frame)
    assert (
        "note: column 'size' is left out: 150 different texts in 150 rows, as identifiers have; "
        "'big' in row 42 is no number, as most others are\n"
    ) in done.stderr
    few = flowers().assign(size=[str(i % 5) for i in range(150)])
    few.loc[41, "size"] = "big"
    _, done = trained(few)
    assert (
        "note: column 'size' is taken as text: 'big' in row 42 is no number, as most others are\n"
    ) in done.stderr


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
@pytest.mark.parametrize("word", ["?", " ? ", "NA", "N/A", "null", "None", "nan", "-", ""])
def test_rows_whose_target_is_a_word_for_missing_are_left_out_and_counted(name, word):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame = flowers()
    frame.loc[::10, "species"] = word
    model, done = trained(frame, name=name)
    assert model.classes_.tolist() == ["iris", "rose", "tulip"]
    shown = f" ({word.strip()!r} in 15)" if word else ""
    assert f"note: 15 of 150 rows have no 'species'{shown}: they are left out\n" in done.stderr
    assert "108 rows to train, 27 to test\n" in done.stdout


@pytest.mark.parametrize("word", ["?", "-", "--", "none"])
@pytest.mark.parametrize("task", ["rooms", "price"])
def test_a_target_of_numbers_with_a_word_for_missing(word, task):
    frame = houses().drop(columns="price" if task == "rooms" else "rooms")
    frame[task] = frame[task].astype(object)
    frame.loc[::10, task] = word
    model, done = trained(frame, target=task)
    assert (
        f"note: 30 of 300 rows have no {task!r} ({word!r} in 30): they are left out\n"
        in done.stderr
    )
    classes = model.classes_
    assert (classes is None) if task == "price" else (classes.tolist() == [1, 2, 3, 4, 5, 6])


def test_a_minus_beside_a_plus_is_a_class_and_so_is_one_beside_a_single_text():
    for other in ("+", "good"):
        frame = flowers().assign(species=lambda f: np.where(f["length"] > 2, "-", other))  # noqa: B023
        model, done = trained(frame)
        assert model.classes_.tolist() == sorted(["-", other])
        assert "note: the target 'species' has '-' as a class\n" in done.stderr
        assert "left out" not in done.stderr


def test_a_target_of_text_that_is_to_be_a_number_may_have_marks_in_parquet():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame = houses()
    frame["price"] = frame["price"].astype(str)
    frame.loc[:9, "price"] = "?"
    model, done = trained(frame, "--task", "regression", name="data.parquet", target="price")
    assert model.classes_ is None
    assert "10 of 300 rows have no 'price' ('?' in 10)" in done.stderr


def test_a_target_of_nothing_but_marks():
    flowers().assign(species="?").to_csv("data.csv", index=False)
    assert "expected at least 10 rows with a 'species', got 0" in refused(*TRAIN)


def test_a_frame_of_a_spreadsheet_with_marks_among_numbers():
    frame = flowers()
    mixed = frame.assign(length=[x if i % 9 else "?" for i, x in enumerate(frame["length"])])
    assert set(map(type, mixed["length"])) == {float, str}
    model = portnet.tables.TableModel.fit(
        mixed, "species", portnet.MLPClassifier(solver="lbfgs", max_iter=5000, random_state=0)
    )
    assert dict(zip(model.columns, model.kinds, strict=True))["length"] == "n"
    gaps = frame.assign(length=pandas.to_numeric(mixed["length"], errors="coerce"))
    np.testing.assert_array_equal(model.predict_proba(mixed), model.predict_proba(gaps))
