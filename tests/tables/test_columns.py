"""Columns of tables: their kinds, and their values as float64 or text."""

import datetime
import decimal

import numpy as np
import pytest

pandas = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from portnet.tables.columns import TableError, canonical, kind_of, missing_columns, to_frame

KINDS = {
    "integers": ([1, 2, 3], "n"),
    "floats with a gap": ([1.5, None, 2.0], "n"),
    "truth values": ([True, False], "n"),
    "truth values with a gap": ([True, None, False], "n"),
    "decimals": ([decimal.Decimal("1.5"), None], "n"),
    "text": (["a", "b", None], "t"),
    "text of digits": (["007", "1"], "t"),
    "dates as text": (["2024-01-31", None, "1999-12-31"], "d"),
    "times as text": (["2024-01-31T10:00:00", "2024-01-31 11:30"], "d"),
    "times of zones": (["2024-01-31T10:00:00+02:00", "2024-01-31T10:00:00Z"], "d"),
    "no dates after all": (["2024-01-31", "soon"], "t"),
    "impossible dates": (["2024-01-31", "2024-02-31"], "t"),
    "dates of another order": (["31.01.2024", "01.02.2024"], "t"),
    "dates of Python": ([datetime.date(2024, 1, 31), None], "d"),
    "nothing": ([None, None], ""),
    "NaN": ([np.nan, np.nan], ""),
}


@pytest.mark.parametrize(("values", "kind"), KINDS.values(), ids=KINDS)
def test_kind_of_a_column(values, kind):
    assert kind_of(pandas.Series(values, name="x")) == kind


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean", "category", "datetime64[ns]"])
def test_kind_of_a_column_of_pandas_own_dtypes(dtype):
    made = {
        "category": pandas.Series(["a", "b"], dtype="category"),
        "datetime64[ns]": pandas.Series(pandas.to_datetime(["2024-01-31"])),
    }
    values = made.get(dtype, pandas.Series([1, 0, None], dtype="object"))
    values = values if dtype in made else values.astype(dtype)
    assert kind_of(values) == {"category": "t", "datetime64[ns]": "d"}.get(dtype, "n")


@pytest.mark.parametrize("values", [[[1], [2]], [{}, {}], [b"a", b"b"], [1j, 2j]], ids=repr)
def test_columns_of_other_values_are_refused(values):
    with pytest.raises(TableError, match="column 'x' has"):
        kind_of(pandas.Series(values, name="x"))


def test_numbers_become_float64_with_nan_where_they_are_missing():
    frame = {"x": ["1", " 2.5 ", None, "true"], "y": [True, False, None, True]}
    found = canonical(frame, ["y", "x"], "nn")
    assert list(found) == ["y", "x"]
    np.testing.assert_array_equal(found["x"], [1, 2.5, np.nan, 1])
    np.testing.assert_array_equal(found["y"], [1, 0, np.nan, 1])
    assert found["x"].dtype == found["y"].dtype == np.float64


def test_dates_become_days_since_1970_in_utc():
    texts = ["1970-01-02", None, "1970-01-01T06:00:00", "1970-01-01T02:00:00+02:00"]
    found = canonical({"x": texts}, ["x"], "d")
    np.testing.assert_array_equal(found["x"], [1, np.nan, 0.25, 0])
    days = (datetime.date(2024, 3, 31) - datetime.date(1970, 1, 1)).days
    dates = pandas.to_datetime(["2024-03-31"])
    np.testing.assert_array_equal(canonical({"x": dates}, ["x"], "d")["x"], [days])
    np.testing.assert_array_equal(
        canonical({"x": [datetime.date(2024, 3, 31)]}, ["x"], "d")["x"], [days]
    )


def test_whole_numbers_are_the_same_text_with_and_without_gaps():
    assert canonical({"x": [1, 2]}, ["x"], "t")["x"].tolist() == ["1", "2"]
    found = canonical({"x": [1.0, np.nan, 2.5]}, ["x"], "t")["x"].tolist()
    assert (found[0], found[2]) == ("1", "2.5")
    assert np.isnan(found[1])


WRONG = {
    "text for a number": ({"x": ["1", "two"]}, "n", r"column 'x': .* a number, got 'two' in row 2"),
    "infinity": ({"x": [1.0, np.inf]}, "n", r"a finite number, got .*inf.* in row 2"),
    "infinity as text": ({"x": ["1", "-inf"]}, "n", "a finite number, got '-inf' in row 2"),
    "a date for a number": ({"x": pandas.to_datetime(["2024-01-01"])}, "n", "expected a number"),
    "text for a date": ({"x": [None, "soon"]}, "d", "a date such as 2024-03-31, got 'soon' in row"),
    "a number for a date": ({"x": [20240131]}, "d", "a date such as 2024-03-31, got"),
    "a missing column": ({"X": [1]}, "n", r"column 'x' \(did you mean 'X'\?\); there is 1: 'X'"),
}


@pytest.mark.parametrize(("frame", "kind", "message"), WRONG.values(), ids=WRONG)
def test_values_of_another_kind_are_refused_with_their_place(frame, kind, message):
    with pytest.raises(TableError, match=message):
        canonical(frame, ["x"], kind)


def test_two_columns_of_one_name_are_refused():
    frame = pandas.DataFrame([[1, 2]], columns=["x", "x"])
    with pytest.raises(TableError, match="several columns 'x'"):
        canonical(frame, ["x"], "n")


def test_missing_columns_are_named_and_counted():
    assert missing_columns(["a", "b"], ["b", "a"]) == ""
    found = missing_columns(list("abcdefghij"), ["v", "w", "x", "y", "z"])
    assert found.startswith("expected the columns 'v', 'w', 'x' and 2 more; there are 10: 'a', 'b'")
    assert found.endswith(", ...")


def test_frames_of_polars_and_dicts_are_frames():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    expected = pandas.DataFrame({"x": [1.0, 2.0], "y": ["a", None]})
    for given in (polars.DataFrame({"x": [1.0, 2.0], "y": ["a", None]}), dict(expected)):
        found = canonical(given, ["x", "y"], "nt")
        pandas.testing.assert_frame_equal(found, canonical(expected, ["x", "y"], "nt"))
    with pytest.raises(TypeError, match="expected a data frame, or a dict of columns, got ndarray"):
        to_frame(np.zeros((2, 2)))
