"""Labels of tables: exact, and compared with classes as the table that was trained on has them."""

import decimal

import numpy as np
import pytest

pandas = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import io

from sklearn.metrics import accuracy_score, r2_score

import portnet
from portnet.tables import TableError, TableModel
from portnet.tables.columns import are_numbers
from portnet.tables.labels import exact_numbers, labels_like, labels_of
from portnet.tables.missing import WORDS, is_missing_number

D = decimal.Decimal
LABELS = {
    "integers": ([3, 1], [3, 1], "i"),
    "large integers": ([10**17, 10**17 + 1], [10**17, 10**17 + 1], "i"),
    "integers of 64 bits": ([2**64 - 1, 0], [2**64 - 1, 0], "u"),
    "larger integers": ([2**64, -1], ["18446744073709551616", "-1"], "U"),
    "whole floats": ([1.0, 2.0], [1, 2], "i"),
    "large floats": ([2.0**60, 1.0], ["1152921504606846976", "1"], "U"),
    "floats": ([0.5, 2.0], ["0.5", "2"], "U"),
    "truth values": ([True, False], [True, False], "b"),
    "whole decimals": ([D("12345678901234567"), D("1.00")], [12345678901234567, 1], "i"),
    "decimals": ([D("0.5"), D("2")], ["0.5", "2"], "U"),
    "text": (["b", " a "], ["b", "a"], "U"),
    "text of digits": (["007", "8"], ["007", "8"], "U"),
}


@pytest.mark.parametrize(("values", "expected", "kind"), LABELS.values(), ids=LABELS)
def test_labels_are_exact(values, expected, kind):
    for given in (pandas.Series(values, name="y"), pandas.Series(values, name="y", dtype=object)):
        found = labels_of(given)
        assert found.tolist() == expected
        assert found.dtype.kind == kind


def test_labels_of_float32_are_those_of_float32():
    assert labels_of(pandas.Series([0.1, 0.25], dtype="float32")).tolist() == ["0.1", "0.25"]


@pytest.mark.parametrize("dtype", ["Int64", "UInt64", "int32", "uint8"])
def test_integers_of_every_dtype_are_exact(dtype):
    top = {"Int64": 2**63 - 1, "UInt64": 2**64 - 1, "int32": 2**31 - 1, "uint8": 255}[dtype]
    found = exact_numbers(pandas.Series([top, top - 1], dtype=dtype))
    assert found.tolist() == [top, top - 1]


def test_dates_are_no_labels():
    with pytest.raises(TableError, match="classes or numbers in 'y', got dates"):
        labels_of(pandas.Series(["2024-01-31", "2024-02-01"], name="y"))


LIKE = {
    "floats as integers": ([1.0, 2.0], np.array([1, 2]), [1, 2]),
    "integers as text": ([1, 2], np.array(["1", "2"]), ["1", "2"]),
    "floats as text": ([0.5, 2.0], np.array(["0.5", "2"]), ["0.5", "2"]),
    "text as truth values": (["true", "False"], np.array([False, True]), [1, 0]),
    "a value of no class": ([1, 7], np.array([1, 2]), [1, 7]),
    "large integers": ([10**17 + 1, 5], np.array([10**17, 10**17 + 1]), [10**17 + 1, 5]),
}


@pytest.mark.parametrize(("values", "classes", "expected"), LIKE.values(), ids=LIKE)
def test_labels_are_made_those_of_the_classes(values, classes, expected):
    assert labels_like(pandas.Series(values, name="y"), classes).tolist() == expected


WRONG = {
    "missing": ([1, None], np.array([1, 2]), "expected a 'y' in each row, got none in row 2"),
    "missing text": (["a", None], np.array(["a", "b"]), "got none in row 2: leave such rows out"),
    "a mark": (["1", "?", "2"], np.array([1, 2]), "got none in row 2"),
    "others": (
        [7, 8],
        np.array(["007", "008"]),
        r"some of the classes \['007', '008'\] in 'y', got '7' in row 1 .*: read the column as text",
    ),
    "text for numbers": (["a", "b"], np.array([1, 2]), "expected a number, got 'a' in row 1"),
}


@pytest.mark.parametrize(("values", "classes", "message"), WRONG.values(), ids=WRONG)
def test_labels_that_cannot_be_compared_are_refused(values, classes, message):
    with pytest.raises(TableError, match=message):
        labels_like(pandas.Series(values, name="y"), classes)


def test_words_for_missing_are_those_of_pandas():
    for word in WORDS:
        frame = pandas.read_csv(io.StringIO(f"a,b\n{word},1\nx,2\n"))
        assert frame["a"].isna().tolist() == [True, False], word
        assert is_missing_number(f" {word} ")


@pytest.mark.parametrize("text", ["1", "-1.5", ".5", "5.", "1e-3", "+2E10", "inf", "0", "0.50"])
def test_texts_that_are_numbers(text):
    assert np.isfinite(float(text)) or text == "inf"
    assert are_numbers([text])


@pytest.mark.parametrize(
    "text", ["", "007", "-01", "1_000", "0x10", "1,5", "1 2", ".", "e5", "²", "1\u0661"]
)
def test_texts_that_are_no_numbers(text):
    assert not are_numbers([text])


# score and the HTML of a model ------------------------------------------------------------------


def table(seed=0, rows=80):
    draw = np.random.default_rng(seed)
    frame = pandas.DataFrame(
        {"size": draw.normal(size=rows), "kind": draw.choice(["a", "b"], rows)}
    )
    frame["label"] = np.where(frame["size"] + draw.normal(0, 0.5, rows) > 0, "yes", "no")
    frame["price"] = 1e5 * frame["size"] + draw.normal(0, 1e4, rows)
    return frame


@pytest.fixture(scope="module")
def classifier():
    estimator = portnet.MLPClassifier((4,), solver="lbfgs", random_state=0, max_iter=2000)
    return TableModel.fit(table().drop(columns="price"), "label", estimator)


@pytest.fixture(scope="module")
def regressor():
    estimator = portnet.MLPRegressor(
        hidden_layer_sizes=(4,), solver="lbfgs", random_state=0, max_iter=5000
    )
    return TableModel.fit(table().drop(columns="label"), "price", estimator)


def test_score_is_scikit_learns(classifier, regressor):
    new = table(1)
    found = classifier.score(new)
    assert found == accuracy_score(new["label"], classifier.predict(new))
    assert 0.5 < found < 1
    assert type(found) is float
    blanks = new.assign(label=new["label"] + "  ")
    assert classifier.score(blanks) == found
    assert regressor.score(new) == r2_score(new["price"], regressor.predict(new))
    text = new.assign(price=new["price"].map(repr))
    assert regressor.score(text) == regressor.score(new) > 0.5


def test_score_needs_the_target_in_each_row(classifier, regressor):
    new = table(1)
    for model, name in ((classifier, "label"), (regressor, "price")):
        with pytest.raises(TableError, match=f"expected the column '{name}'; there are"):
            model.score(new.drop(columns=name))
        gap = new.assign(**{name: new[name].astype(object)})
        gap.loc[4, name] = None
        with pytest.raises(TableError, match=f"expected a '{name}' in each row, got none in row 5"):
            model.score(gap)
    with pytest.raises(TableError, match="expected at least one row"):
        classifier.score(new.head(0))


def test_notebooks_show_a_model_as_a_table(classifier, regressor):
    html = classifier._repr_html_()
    for text in ("label: [&#x27;no&#x27;, &#x27;yes&#x27;]", "MLPClassifier", "Dense(4)"):
        assert text in html
    assert "1 of numbers, 1 of text: [&#x27;size&#x27;, &#x27;kind&#x27;]" in html
    assert html.count("<table>") == 2
    assert "price: a number" in regressor._repr_html_()


def test_names_of_columns_are_escaped_in_html():
    name = "<script>alert(1)</script>"
    frame = table().drop(columns="price").rename(columns={"size": name})
    estimator = portnet.MLPClassifier((4,), solver="lbfgs", random_state=0, max_iter=2000)
    html = TableModel.fit(frame, "label", estimator)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
