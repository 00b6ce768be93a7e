"""Models of tables: what is rebuilt from a file equals what was fitted, attribute by attribute."""

import json

import numpy as np
import pytest

pandas = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import portnet
from portnet.files.container import open_container, pack
from portnet.files.show import text_of
from portnet.tables import TableError, TableModel
from portnet.tables.transformers import CATEGORY_LIMIT, fitted, parts_of, rebuilt

ROWS = 120
NAMES, KINDS = ["age", "city", "since", "member", "size"], "ntdnt"


def table(seed=0, rows=ROWS):
    draw = np.random.default_rng(seed)
    frame = pandas.DataFrame(
        {
            "age": draw.normal(40, 10, rows),
            "city": draw.choice(["Bern", "Łódź", "São Paulo", None], rows),
            "since": pandas.date_range("2020-01-01", periods=rows).astype(str),
            "member": draw.choice([True, False], rows),
            "size": draw.choice(["S", "M", "L"], rows),
        }
    )
    frame.loc[::7, "age"] = np.nan
    frame.loc[3, "since"] = None
    frame["label"] = np.where(
        frame["age"].fillna(40) + 9 * (frame["city"] == "Bern") > 42, "b", "a"
    )
    frame["price"] = 1e5 + 3e4 * frame["member"] + 100 * frame["age"].fillna(40)
    return frame


@pytest.fixture(scope="module")
def classifier():
    estimator = portnet.MLPClassifier((8,), solver="lbfgs", random_state=0, max_iter=200)
    return TableModel.fit(table().drop(columns="price"), "label", estimator)


@pytest.fixture(scope="module")
def regressor():
    estimator = portnet.MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", random_state=0)
    return TableModel.fit(table().drop(columns="label"), "price", estimator)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.safetensors")


def assert_same(a, b, where="it"):
    """Fail unless two fitted objects of scikit-learn have equal attributes, private ones, too."""
    assert type(a) is type(b), where
    if isinstance(a, BaseEstimator):
        assert_same(vars(a), vars(b), f"{where}.{type(a).__name__}")
    elif isinstance(a, dict):
        assert set(a) == set(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    else:
        assert a == b or (a != a and b != b), where


@pytest.mark.parametrize("kinds", ["ntdnt", "n", "t", "d", "tt"])
def test_the_rebuilt_transformer_has_every_attribute_of_the_fitted_one(kinds):
    names = {"ntdnt": NAMES, "n": ["age"], "t": ["city"], "d": ["since"], "tt": ["city", "size"]}
    frame = portnet.tables.columns.canonical(table(), names[kinds], kinds)
    first = fitted(frame, names[kinds], kinds)
    second = rebuilt(names[kinds], kinds, parts_of(first))
    assert_same(first, second)
    other = portnet.tables.columns.canonical(table(1), names[kinds], kinds)
    a, b = first.transform(other), second.transform(other)
    assert type(a) is type(b)
    dense = [x.toarray() if hasattr(x, "toarray") else x for x in (a, b)]
    np.testing.assert_array_equal(*dense)


def test_features_are_those_of_scikit_learns_transformers_built_by_hand(classifier):
    frame = table()
    dates = pandas.to_datetime(frame["since"], utc=True) - pandas.Timestamp(0, tz="UTC")
    by_hand = pandas.DataFrame(
        {
            "age": frame["age"],
            "since": dates / pandas.Timedelta(days=1),
            "member": frame["member"].astype(float),
            "city": frame["city"].fillna("").astype(object),
            "size": frame["size"].astype(object),
        }
    )
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    made = ColumnTransformer(
        [
            ("numbers", numbers, ["age", "since", "member"]),
            ("texts", OneHotEncoder(handle_unknown="ignore"), ["city", "size"]),
        ],
        sparse_threshold=0,
    )
    expected = made.fit_transform(by_hand)
    np.testing.assert_array_equal(classifier.prepared(frame), expected.astype(np.float32))


def test_of_many_texts_the_most_frequent_are_features():
    texts = [f"t{i:03}" for i in range(150) for _ in range(1 + (i % 2))]  # odd ones are there twice
    frame = pandas.DataFrame({"x": texts})
    made = fitted(frame.astype(object), ["x"], "t")
    (categories,) = made.named_transformers_["texts"].steps[-1][1].categories_
    odd = {f"t{i:03}" for i in range(1, 150, 2)}
    rest = [f"t{i:03}" for i in range(0, 150, 2)][: CATEGORY_LIMIT - len(odd)]
    assert set(categories) == odd | set(rest)
    assert_same(made, rebuilt(["x"], "t", parts_of(made)))


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge")
def test_many_texts_make_sparse_features_also_after_loading(path):
    frame = pandas.DataFrame({f"x{i}": [str(j % 40) for j in range(200)] for i in range(3)})
    frame["y"] = np.arange(200) % 2
    frame["x0"] = frame["x0"] + "t"  # pandas' text
    frame[["x1", "x2"]] = frame[["x1", "x2"]] + "t"
    model = TableModel.fit(frame, "y", portnet.MLPClassifier(solver="lbfgs", max_iter=20))
    model.save(path)
    again = portnet.load(path, backend="numpy")
    assert hasattr(model.prepared(frame), "toarray")
    assert hasattr(again.prepared(frame.head(1)), "toarray")
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))


def test_a_loaded_classifier_predicts_the_same_bits(classifier, path):
    portnet.save(classifier, path)
    again = portnet.load(path, backend="numpy")
    other = table(1)
    np.testing.assert_array_equal(again.predict_proba(other), classifier.predict_proba(other))
    np.testing.assert_array_equal(again.predict(other), classifier.predict(other))
    assert (again.target, again.columns, again.kinds) == ("label", tuple(NAMES), KINDS)
    assert again.classes_.tolist() == ["a", "b"]
    assert (again.predict(table()) == table()["label"]).mean() > 0.9
    assert_same(again.transformer, classifier.transformer)


def test_a_loaded_regressor_predicts_in_the_units_of_the_target(regressor, path):
    regressor.save(path)
    again, frame = portnet.load(path, backend="numpy"), table()
    found = again.predict(frame)
    np.testing.assert_array_equal(found, regressor.predict(frame))
    assert found.shape == (ROWS,)
    assert (
        np.abs(found - frame["price"]).mean()
        < 0.2 * np.abs(frame["price"] - frame["price"].mean()).mean()
    )
    with pytest.raises(TypeError, match="predicts the number 'price'"):
        again.predict_proba(frame)


def test_columns_are_found_by_name_and_others_are_ignored(classifier):
    frame = table()
    turned = frame[frame.columns[::-1]].assign(more=1)
    np.testing.assert_array_equal(classifier.predict_proba(turned), classifier.predict_proba(frame))
    with pytest.raises(TableError, match="expected the column 'city'; there are 6"):
        classifier.predict(frame.drop(columns="city"))
    with pytest.raises(TableError, match="at least one row"):
        classifier.predict(frame.head(0))


def test_a_table_of_another_backend_is_saved_and_loaded(classifier, path, other_xp):
    moved = classifier.to(other_xp.name, device=other_xp.device)
    portnet.save(moved, path)
    again = portnet.load(path)
    assert portnet.get_backend().holds(again.estimator.coefs_[0])
    frame = table(1)
    for model in (moved, again):
        np.testing.assert_allclose(
            model.predict_proba(frame), classifier.predict_proba(frame), rtol=2e-4, atol=1e-5
        )


def test_a_file_has_no_pickle_and_safetensors_reads_it(classifier, path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    portnet.save(classifier, path)
    found = safetensors.load_file(path)
    np.testing.assert_array_equal(
        found["preparation.numbers.median"][0], np.nanmedian(table()["age"])
    )
    with open(path, "rb") as file:
        assert b"sklearn" not in file.read()


def test_show_says_what_is_predicted_from_what(classifier, path):
    portnet.save(classifier, path)
    text = text_of(path)
    assert text.startswith("table, format version 1, ")
    for line in (
        "  predicts: 'label'",
        "  from numbers: ['age', 'member']",
        "  from text: ['city', 'size']",
        "  from dates: ['since']",
        "  class: 'MLPClassifier'",
    ):
        assert line in text.splitlines()


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge")
def test_many_columns_are_saved_and_loaded(path):
    names = [f"a column with a long name {i}" for i in range(3000)]
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(20, 3000)), columns=names)
    frame["y"] = np.arange(20) % 2
    model = TableModel.fit(frame, "y", portnet.MLPClassifier((4,), solver="lbfgs", max_iter=5))
    portnet.save(model, path)
    again = portnet.load(path, backend="numpy")
    assert again.columns == tuple(names)
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    assert "columns" in text_of(path)


def test_without_pandas_loading_says_what_to_install(classifier, path, monkeypatch):
    portnet.save(classifier, path)
    monkeypatch.setattr(
        "portnet.files.tables.find_spec", lambda name: None if name == "pandas" else True
    )
    with pytest.raises(portnet.ModelFileError, match=r"needs pandas .*\[cli\]"):
        portnet.load(path)


def test_numbers_that_are_too_large_are_refused_by_name():
    frame = pandas.DataFrame({"x": [1e300, -1e300] * 5, "y": [0, 1] * 5})
    with pytest.raises(TableError, match="column 'x' has numbers too large"):
        TableModel.fit(frame, "y", portnet.MLPClassifier())
    frame = pandas.DataFrame({"x": [1.0, 2.0] * 5, "y": [1e300, -1e300] * 5})
    with pytest.raises(TableError, match="the target 'y' has numbers that are too large"):
        TableModel.fit(frame, "y", portnet.MLPRegressor())


def test_frames_that_no_file_could_hold_are_refused_before_the_fit():
    estimator, y = portnet.MLPClassifier(), [0, 1]
    for frame, target, message in (
        (pandas.DataFrame({0: [1.0, 2.0], "y": y}), "y", "names of columns that are text"),
        (pandas.DataFrame([[1, 2, 0]], columns=["a", "a", "y"]), "y", "different names"),
        (pandas.DataFrame({"a": [1.0, 2.0], "y": y}), "Y", "did you mean 'y'"),
        (pandas.DataFrame({"y": y}), "y", "at least one column besides the target"),
        (pandas.DataFrame(np.zeros((2, 20_002))).add_prefix("c"), "c0", "at most 20,000 columns"),
    ):
        with pytest.raises(TableError, match=message):
            TableModel.fit(frame, target, estimator)


# Damaged descriptions ---------------------------------------------------------------------------


def rewritten(path, change):
    """Write the file anew, with a changed description and the same tensors."""
    with open_container(path) as container:
        metadata, tensors = dict(container.metadata), container.read()
    description = json.loads(metadata["portnet"])
    change(description)
    metadata = {"format_version": "1", "portnet": json.dumps(description)}
    with open(path, "wb") as file:
        file.writelines(pack(tensors, metadata))


def put(*keys, value):
    def change(description):
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = value

    return change


TABLE = ("table", "dict")
PARTS = (*TABLE, "preparation", "dict")
TEXTS = (*PARTS, "texts", "dict")
DAMAGED = {
    "no table": (put("table", value=5), "known kind of value|no tensor|expected"),
    "another kind": (put(*TABLE, "kinds", value="ntdxt"), "kinds: expected n, t or d"),
    "another text": (put(*TABLE, "kinds", value="nnnnn"), "preparation"),
    "fewer kinds": (put(*TABLE, "kinds", value="ntdn"), "kinds: expected n, t or d"),
    "a name twice": (put(*TABLE, "columns", value=["age"] * 5), "different names"),
    "the target as a column": (put(*TABLE, "target", value="age"), "none that of the target"),
    "numbers as names": (put(*TABLE, "columns", value=[1, 2, 3, 4, 5]), "expected names"),
    "a scale of 0": (put(*TABLE, "scale", value=0.0), "scale: expected a number above 0"),
    "a shift that is NaN": (put(*TABLE, "shift", value={"float": "nan"}), "shift: expected a num"),
    "a shift that is text": (put(*TABLE, "shift", value="1"), "shift: expected a number"),
    "no preparation": (put(*TABLE, "preparation", value={"dict": {}}), "its preparation"),
    "unsorted texts": (
        put(*TEXTS, "categories", value=["z", "Bern", "a", "b", "L", "M", "S"]),
        "different texts, sorted",
    ),
    "fewer texts": (put(*TEXTS, "categories", value=["a"]), "categories: expected 7, got 1"),
    "texts that are numbers": (put(*TEXTS, "categories", value=list(range(7))), "its preparation"),
    "another class": (put("estimator", "class", value="Pipeline"), "expected one of MLPClassifier"),
    "code": (put(*TABLE, "target", value={"custom": "os.system", "fields": None}), "not portnet's"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_descriptions_are_refused(classifier, path, change, message):
    portnet.save(classifier, path)

    def keep(description):
        change(description)
        # Tensors that nothing names any more are another error.
        description["all"] = [{"tensor": name} for name in open_container(path).specs]

    rewritten(path, keep)
    with pytest.raises(portnet.ModelFileError, match=message):
        portnet.load(path)


@pytest.mark.parametrize("name", ["median", "mean", "var", "scale"])
def test_a_preparation_that_is_not_finite_is_refused(classifier, path, name):
    portnet.save(classifier, path)
    with open_container(path) as container:
        metadata, tensors = dict(container.metadata), container.read()
    tensors[f"preparation.numbers.{name}"][0] = np.nan
    with open(path, "wb") as file:
        kept = {k: metadata[k] for k in ("format_version", "portnet")}
        file.writelines(pack(tensors, kept))
    with pytest.raises(portnet.ModelFileError, match="has NaN or infinity"):
        portnet.load(path)


def places(value, keys=()):
    """Yield the keys of each value in a description."""
    yield keys
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in inside:
        yield from places(part, (*keys, key))


OTHER_VALUES = [
    *(
        None,
        True,
        0,
        -1,
        1,
        1 << 62,
        0.5,
        "",
        "a",
        "n",
        "nnnnn",
        "os.system",
        [],
        {},
        [[]],
        ["a"] * 5,
    ),
    *(
        {"tensor": "coefs_.0"},
        {"tensor": "preparation.numbers.mean"},
        {"dict": {}},
        {"float": "nan"},
    ),
]


def test_a_thousand_changed_descriptions_load_or_are_refused(classifier, path):
    """Whatever a description says, there is a ModelFileError, or a model that predicts."""
    portnet.save(classifier, path)
    with open_container(path) as container:
        metadata, tensors = dict(container.metadata), container.read()
    original = json.loads(metadata["portnet"])
    every = [keys for keys in places(original) if keys and keys[0] in ("table", "estimator")]
    draw, loaded, frame = np.random.default_rng(0), 0, table()
    for _ in range(1000):
        description = json.loads(metadata["portnet"])
        put(
            *every[draw.integers(len(every))], value=OTHER_VALUES[draw.integers(len(OTHER_VALUES))]
        )(description)
        description["all"] = [{"tensor": name} for name in tensors]
        kept = {"format_version": "1", "portnet": json.dumps(description)}
        with open(path, "wb") as file:
            file.writelines(pack(tensors, kept))
        try:
            model = portnet.load(path, backend="numpy")
        except portnet.ModelFileError:
            continue
        loaded += 1
        with_names = {name: frame[NAMES[i]] for i, name in enumerate(model.columns)}
        assert model.predict(with_names).shape == (ROWS,)
    assert 0 < loaded < 900
