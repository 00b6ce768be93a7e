"""Messy tables: each is read, with a note, or refused in one line, and nothing is written."""

import os
import re
import resource
import sys

import numpy as np
import pytest
from tables_for_cli import call, flowers, pandas, process, refused

import portnet
from portnet.tables.columns import COLUMN_LIMIT

TRAIN = ("train", "data.csv", "--target", "y")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(content, name="data.csv"):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def rows(line, count=40):
    """Return a text with some lines, {i} is their number and {k} is 0 or 1."""
    return "".join(line.format(i=i, k=i % 2) + "\n" for i in range(count))


NO_TABLES = {
    "an empty file": ("", "got an empty file"),
    "blank lines": ("\n\n  \n", "got an empty file"),
    "a header only": ("x,y\n", "expected rows below the names of the columns, got none"),
    "a binary file": (bytes(range(256)) * 9, "got a binary file"),
    "a spreadsheet": (b"PK\x03\x04" + bytes(99), "a spreadsheet such as .xlsx: save the sheet as"),
    "a compressed file": (b"\x1f\x8b" + bytes(99), "compressed by gzip: decompress it"),
    "a picture": (b"\x89PNG" + bytes(99), "a picture"),
    "a damaged Parquet file": (b"PAR1" + bytes(99), "Parquet file"),
    "commas only": (",,,\n,,,\n", "its first line has no names of columns"),
    "another encoding": (
        ("x,y\n" + rows("{i},{k}") + "3,é\n").encode("latin-1"),
        r"not written in utf-8 in line 42: give its encoding, such as --encoding latin-1",
    ),
    "UTF-16": ("x,y\n1,é\n".encode("utf-16"), "not written in utf-8: give --encoding utf-16"),
    "UTF-16 without a mark": (
        ("x,y\n" + rows("{i},{k}")).encode("utf-16-le"),
        "or text in UTF-16: give --encoding utf-16-le",
    ),
    "UTF-16 of big endian": (
        ("x,y\n" + rows("{i},{k}")).encode("utf-16-be"),
        "or text in UTF-16: give --encoding utf-16-be",
    ),
    "UTF-32": ("x,y\n1,é\n".encode("utf-32"), "not written in utf-8: give --encoding utf-32"),
    "no line of names": (rows("{i},{k}.5"), "there are 2: .*: the first line must have the names"),
    "no names, numbers twice": (
        rows("0,0,{k}"),
        "in the columns 1, 2, 3: the first line must have the names of the columns",
    ),
    "blanks as separators": (
        "x y\n" + rows("{i} {k}"),
        r"there is 1: 'x y': columns are separated by a comma, semicolon, tab or \|",
    ),
    "a name twice": ("x,x,y\n1,2,3\n", "got 'x' in the columns 1, 2: rename them"),
    "names that differ in blanks": ("x, x,y\n1,2,3\n", "got 'x' in the columns 1, 2"),
    "a long row": (
        "x,y\n1,2\n1,2,3\n",
        "not as CSV is written: Expected 2 fields in line 3, saw 3",
    ),
    "a long first row": ("x,y\n1,2,3\n1,2\n", "the first row has more than the 2 values"),
    "an open quote": ('x,y\n"1,2\n3,4\n', "not as CSV is written: EOF inside string"),
    "no such column": ("a,b\n" + rows("{i},{k}"), "expected the column 'y'; there are 2: 'a', 'b'"),
    "the target alone": ("y\n" + rows("{k}"), "expected columns from which 'y' can be learned"),
    "no column of use": ("a,y\n" + rows("1,{k}"), "expected columns from which 'y' can be learned"),
    "no target in any row": ("a,y\n" + rows("{i},"), "at least 10 rows with a 'y', got 0"),
    "few rows": ("a,y\n" + rows("{i},{k}", 9), "at least 10 rows with a 'y', got 9"),
    "one class": (
        "a,y\n" + rows("{i},spam"),
        "at least two classes in the target 'y', got one, 's",
    ),
    "one number": (
        "a,y\n" + rows("{i},1.5"),
        "at least two values in the target 'y', got one, 1.5",
    ),
    "identifiers as target": ("a,y\n" + rows("{k},id{i}"), "got 40 different values in 40 rows"),
    "infinity": (
        "a,y\n" + rows("{i},{k}") + "inf,1\n",
        "^portnet train: data.csv: column 'a': expected a finite number, got inf in row 41$",
    ),
    "dates as target": (
        "a,y\n" + rows("{i},2024-01-3{k}"),
        "the target: expected classes or numbers in 'y', got dates$",
    ),
    "a target of infinity": ("a,y\n" + rows("{i},{i}.5") + "1,inf\n", "target: .* a finite number"),
    "numbers without end": ("a,y\n" + rows("{k}e300,{k}"), "column 'a' has numbers too large"),
}


@pytest.mark.parametrize(("content", "message"), NO_TABLES.values(), ids=NO_TABLES)
def test_what_is_no_table_is_refused_in_one_line(content, message):
    write(content)
    assert re.search(message, refused(*TRAIN))


def test_a_folder_and_a_file_that_is_not_there():
    assert refused(*TRAIN) == "portnet: data.csv: No such file or directory"
    os.mkdir("data.csv")
    assert refused(*TRAIN).endswith(
        "data.csv: expected a CSV or Parquet file, got a folder or a device"
    )


def test_a_file_that_must_not_be_read():
    write("x,y\n1,2\n")
    os.chmod("data.csv", 0)
    if os.access("data.csv", os.R_OK):
        pytest.skip("this user may read every file")
    assert refused(*TRAIN) == "portnet: data.csv: Permission denied"


def test_errors_and_notes_show_no_control_characters_of_a_file():
    write("a\x1b[31m,y\n" + rows("1,{k}"))
    done = call(*TRAIN)
    assert done.exit_code == 2
    assert "\x1b" not in done.output
    write("a,y\n" + rows("{i},{k}") + "3,\x1b[31m\n" * 20)
    assert "\x1b" not in call(*TRAIN).output


def test_columns_that_are_of_no_use_are_left_out_with_the_reason():
    frame = flowers(80)
    frame["ticket"] = [f"T{i}" for i in range(80)]
    frame["when"] = [f"{1 + i % 28:02}.{1 + i // 28:02}.2024" for i in range(80)]
    frame["cost"] = [f"$1,{i:03}.50" for i in range(80)]
    frame["empty"] = np.nan
    frame["same"] = "x"
    frame["number"] = range(1000, 1080)
    frame.to_csv("data.csv")  # and pandas' index, without a name
    done = call("train", "data.csv", "--target", "species", "--epochs", "2")
    assert done.exit_code == 0, done.output
    for text in (
        "column 1 of data.csv: left out, without a name",
        "column 'ticket' is left out: 80 different texts in 80 rows, as identifiers have",
        "column 'cost' is left out: 80 different texts in 80 rows, as identifiers have; if they are "
        "numbers, write them as 1234.5",
        "column 'when' is left out: 80 different texts in 80 rows, as identifiers have; if they are "
        "dates, write them as 2024-03-31",
        "column 'empty' is left out: it has no values",
        "column 'same' is left out: all its values are 'x'",
        "column 'number' counts the rows; if it is no feature, leave it out: --drop number",
        "column 'seen' has dates: days since 1970-01-01 are used",
    ):
        assert f"note: {text}\n" in done.stderr
    model = portnet.load("model.safetensors", backend="numpy")
    assert model.columns == ("length", "width", "colour", "seen", "number")


def test_rows_without_a_target_are_left_out_with_a_note():
    frame = flowers()
    frame.loc[:9, "species"] = None
    frame.to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "species", "--epochs", "2")
    assert "note: 10 of 150 rows have no 'species': they are left out\n" in done.stderr
    assert "112 rows to train, 28 to test\n" in done.stdout


def test_a_class_with_one_row_is_no_reason_to_fail():
    frame = flowers(700)  # with rows to stop in time
    frame.loc[0, "species"] = "orchid"
    frame.to_csv("data.csv", index=False)
    for seed in range(4):
        done = call("train", "data.csv", "--target", "species", "--epochs", "2", "--seed", seed)
        assert done.exit_code == 0, done.output


def test_many_texts_in_a_column_are_limited_with_a_note():
    draw = np.random.default_rng(0)
    town = [f"town {i}" for i in draw.integers(0, 300, 2000)]
    pandas.DataFrame({"town": town, "y": draw.integers(0, 2, 2000)}).to_csv("data.csv")
    done = call(*TRAIN, "--epochs", "2")
    assert re.search(
        r"column 'town' has \d{3} different texts: the 100 most frequent are used", done.stderr
    )
    assert portnet.load("model.safetensors").estimator.coefs_[0].shape[0] == 100


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_and_decimal_commas(separator):
    frame = flowers()
    frame.to_csv("plain.csv", index=False)
    frame.to_csv("data.csv", index=False, sep=separator, decimal=",")
    found = []
    for name in ("plain.csv", "data.csv"):
        assert call("train", name, "--target", "species", "--epochs", "3").exit_code == 0
        found.append(portnet.load("model.safetensors").predict_proba(frame))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "cp1252"])
def test_other_encodings(encoding):
    frame = flowers().replace("rose", "Rosé").rename(columns={"width": "größe"})
    frame.to_csv("data.csv", index=False, encoding=encoding)
    option = () if encoding == "utf-8-sig" else ("--encoding", encoding)
    done = call("train", "data.csv", "--target", "species", "--epochs", "40", *option)
    assert done.exit_code == 0, done.output
    model = portnet.load("model.safetensors", backend="numpy")
    assert "größe" in model.columns
    assert "Rosé" in model.classes_.tolist()
    done = call("predict", "model.safetensors", "data.csv", *option, "--out", "p.csv")
    assert "Rosé" in pandas.read_csv("p.csv")["species"].tolist()


def test_codes_with_leading_zeros_stay_text_at_predict():
    """Training saw letters, too; a new file with digits only would be read as numbers."""
    draw = np.random.default_rng(0)
    code = draw.choice(["007", "042", "A1"], 200)
    pandas.DataFrame({"code": code, "y": code == "007"}).to_csv("data.csv", index=False)
    assert call(*TRAIN, "--epochs", "100").exit_code == 0
    write("code\n007\n042\n")
    done = call("predict", "model.safetensors", "data.csv")
    assert done.stdout == "y\nTrue\nFalse\n"
    assert done.stderr == ""


def test_unknown_texts_are_counted_at_predict():
    flowers().to_csv("data.csv", index=False)
    call("train", "data.csv", "--target", "species", "--epochs", "2")
    new = flowers(30, seed=1)
    new.loc[:1, "colour"] = ["green", "pink"]
    new.to_csv("new.csv", index=False)
    done = call("predict", "model.safetensors", "new.csv", "--out", "p.csv")
    assert done.exit_code == 0
    assert (
        done.stderr
        == "note: column 'colour' has unknown text in 2 rows, which training did not have\n"
    )


WRONG_AT_PREDICT = {
    "a missing column": (lambda f: f.drop(columns="width"), "new.csv: expected the column 'width'"),
    "text in numbers": (
        lambda f: f.assign(width="wide"),
        "new.csv: column 'width': expected a number, got 'wide' in row 1",
    ),
    "no dates": (lambda f: f.assign(seen="today"), "column 'seen': expected a date such as 2024"),
    "numbers for dates": (
        lambda f: f.assign(seen=20240131),
        "'seen': expected a date such as 2024",
    ),
    "infinity": (lambda f: f.assign(width=np.inf), "column 'width': expected a finite number"),
    "no rows": (lambda f: f.head(0), "expected rows below the names of the columns, got none"),
}


@pytest.mark.parametrize(("change", "message"), WRONG_AT_PREDICT.values(), ids=WRONG_AT_PREDICT)
def test_other_columns_at_predict_are_refused(change, message):
    flowers().to_csv("data.csv", index=False)
    call("train", "data.csv", "--target", "species", "--epochs", "2")
    change(flowers(30, seed=1)).to_csv("new.csv", index=False)
    assert message in refused("predict", "model.safetensors", "new.csv", "--out", "p.csv")
    assert message in refused("predict", "model.safetensors", "new.csv")


def test_missing_values_anywhere_at_predict_are_filled():
    frame = flowers()
    frame.to_csv("data.csv", index=False)
    call("train", "data.csv", "--target", "species", "--epochs", "60")
    gone = frame.copy()
    gone[["width", "colour", "seen"]] = np.nan
    gone.to_csv("new.csv", index=False)
    done = call("predict", "model.safetensors", "new.csv", "--out", "p.csv")
    assert done.exit_code == 0, done.output
    assert (pandas.read_csv("p.csv")["species"] == frame["species"]).mean() > 0.8


def test_a_million_columns_are_refused_in_bounded_memory():
    names = ",".join(f"c{i}" for i in range(10**6))
    write(names + "\n" + (",".join(["1"] * 10**6) + "\n") * 3)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = process("train", "data.csv", "--target", "c0")
    assert done.returncode == 2
    assert f"at most {COLUMN_LIMIT:,} columns, got 1,000,000" in done.stderr
    assert done.stderr.count("\n") == 1
    if sys.platform == "linux":  # in KiB; 10**6 columns of pandas need several GiB
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before, 1 << 20)


def test_a_long_line_without_end_is_refused():
    write("x" * (20 << 20))
    assert "its first line has no names of columns, or one of more than" in refused(*TRAIN)
    write("xyz," * (5 << 20))
    assert "expected at most 20,000 columns, got" in refused(*TRAIN)
    write('"' + "xyz,\n" * (5 << 20))
    assert "field larger" in refused(*TRAIN) or "columns" in refused(*TRAIN)


def test_thousands_of_columns_are_trained_on():
    draw = np.random.default_rng(0)
    X = draw.normal(size=(60, 3000))
    frame = pandas.DataFrame(X, columns=[f"gene {i}" for i in range(3000)])
    frame.assign(y=(X[:, 0] > 0).astype(int)).to_csv("data.csv", index=False)
    assert call(*TRAIN, "--epochs", "3").exit_code == 0
    done = call("predict", "model.safetensors", "data.csv")
    assert len(done.stdout.splitlines()) == 61


def test_values_of_no_kind_in_parquet_are_named_with_the_option_that_leaves_them_out():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame = flowers()
    frame["list of x"] = [[1, 2]] * len(frame)
    frame.to_parquet("data.csv")
    line = refused("train", "data.csv", "--target", "species")
    assert "column 'list of x' has values of type" in line
    assert line.endswith("--drop 'list of x'")
    options = ("--drop", "list of x", "--epochs", "2")
    assert call("train", "data.csv", "--target", "species", *options).exit_code == 0


def test_an_infinity_is_found_before_anything_is_printed_wherever_it_is():
    """The row may be one of the test, which the fit does not see."""
    frame = flowers()
    frame.loc[7, "length"] = np.inf
    frame.to_csv("data.csv", index=False)
    for seed in range(3):
        done = call("train", "data.csv", "--target", "species", "--seed", seed)
        assert (done.exit_code, done.stdout) == (2, "")
        assert (
            "data.csv: column 'length': expected a finite number, got inf in row 8" in done.stderr
        )


# Parquet ----------------------------------------------------------------------------------------


def in_parquet(**columns):
    """Write a Parquet file of pyarrow's arrays, with a target y, and return its columns."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(
        {**columns, "y": ["pos", "neg"] * (len(next(iter(columns.values()))) // 2)}
    )
    parquet.write_table(table, "data.csv")
    return table


def parquet_types():
    import datetime
    import decimal

    import pyarrow as pa

    day = datetime.datetime(2024, 1, 1)
    text, ints = (
        [["x", "y", None][i % 3] for i in range(60)],
        [[1, 2, None][i % 3] for i in range(60)],
    )
    times = [day + datetime.timedelta(days=i) if i % 3 else None for i in range(60)]
    money = [decimal.Decimal(i) / 4 if i % 3 else None for i in range(60)]
    return {
        "text": (pa.array(text), "t"),
        "large text": (pa.array(text, pa.large_string()), "t"),
        "dictionary": (pa.array(text).dictionary_encode(), "t"),
        "dictionary of integers": (pa.array(ints).dictionary_encode(), "n"),
        "integers": (pa.array(ints, pa.int8()), "n"),
        "unsigned": (pa.array([2**64 - 1 - i for i in range(60)], pa.uint64()), "n"),
        "half floats": (pa.array(np.arange(60, dtype=np.float16)), "n"),
        "truth values": (pa.array([[True, False, None][i % 3] for i in range(60)]), "n"),
        "decimals": (pa.array(money, pa.decimal128(10, 2)), "n"),
        "large decimals": (
            pa.array([decimal.Decimal(10) ** 50 * i for i in range(60)], pa.decimal256(60, 0)),
            "n",
        ),
        "times": (pa.array(times, pa.timestamp("us")), "d"),
        "times of a zone": (pa.array(times, pa.timestamp("ns", "Europe/Berlin")), "d"),
        "dates": (pa.array([t and t.date() for t in times], pa.date32()), "d"),
        "far dates": (pa.array([datetime.date(9000 + i, 1, 1) for i in range(60)]), "d"),
        "nothing": (pa.nulls(60), ""),
        "times of day": (
            pa.array([datetime.time(i % 24) for i in range(60)]),
            "values of type time",
        ),
        "bytes": (pa.array([b"x"] * 60), "values of type bytes"),
        "lists": (pa.array([[1]] * 60), "values of type ndarray"),
        "structs": (pa.array([{"k": 1}] * 60), "values of type dict"),
    }


NAMES_OF_TYPES = [
    "text", "large text", "dictionary", "dictionary of integers", "integers", "unsigned",
    "half floats", "truth values", "decimals", "large decimals", "times", "times of a zone",
    "dates", "far dates", "nothing", "times of day", "bytes", "lists", "structs",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES_OF_TYPES)
def test_each_type_of_parquet_is_read_or_refused(name):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    types = parquet_types()
    assert list(types) == NAMES_OF_TYPES
    column, kind = types[name]
    in_parquet(a=np.arange(60.0) * 7 % 11, c=column)
    if len(kind) > 1:
        line = refused(*TRAIN)
        assert f"column 'c' has {kind}" in line
        assert line.endswith("--drop c")
        return
    done = call(*TRAIN, "--epochs", "2")
    assert done.exit_code == 0, done.output
    model = portnet.load("model.safetensors", backend="numpy")
    assert dict(zip(model.columns, model.kinds, strict=True)) == {"a": "n"} | (
        {"c": kind} if kind else {}
    )
    done = call("predict", "model.safetensors", "data.csv")
    assert len(done.stdout.splitlines()) == 61


def test_an_index_with_a_name_is_a_column_of_parquet():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame = flowers()
    frame.to_parquet("plain.parquet")
    frame.set_index(["species", "colour"]).to_parquet("data.csv")
    models = []
    for name in ("plain.parquet", "data.csv"):
        done = call("train", name, "--target", "species", "--epochs", "3")
        assert done.exit_code == 0, done.output
        models.append(portnet.load("model.safetensors", backend="numpy"))
    assert set(models[0].columns) == set(models[1].columns)
    done = call("predict", "model.safetensors", "data.csv")
    assert done.stdout.split()[1:] == models[1].predict(frame).tolist()


def test_parquet_that_ends_early_is_refused():
    in_parquet(a=np.arange(60.0))
    with open("data.csv", "rb") as file:
        content = file.read()
    for part in (content[: len(content) // 2], b"PAR1", content[:-8] + b"\xff" * 4 + b"PAR1"):
        write(part)
        assert "data.csv: a damaged Parquet file" in refused(*TRAIN)
