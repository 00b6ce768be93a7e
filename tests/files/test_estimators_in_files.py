"""Fitted estimators in files: what is loaded predicts the same, also without scikit-learn."""

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import sklearn

import portnet
from portnet import MLPClassifier, MLPRegressor, ModelFileError, tree
from portnet.files import estimators
from portnet.files.container import open_container, pack
from portnet.files.models import describe

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((60, 5))
CODES = DRAW.integers(0, 3, 60)
TARGETS = {
    "numbers": CODES,
    "text": np.array(["ant", "bee", "cat"])[CODES],
    "objects": np.array(["ant", "bee", "cat"], object)[CODES],
    "two numbers": (CODES > 0) * 2 - 1,
    "truth": CODES > 1,
    "floats": CODES * 1.0,
    "labels": np.eye(3, dtype=int)[CODES],
    "one class": np.zeros(60, int),
}
OPTIONS = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate": "adaptive"},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True},
    "two layers": {"hidden_layer_sizes": (6, 4), "activation": "logistic"},
    "weights": {"class_weight": "balanced"},
}


def classifier(**options):
    return MLPClassifier(**{"hidden_layer_sizes": (8,), "random_state": 3, "max_iter": 5} | options)


def public(estimator):
    return {k: v for k, v in vars(estimator).items() if not k.startswith("_")}


def assert_same_attributes(a, b):
    assert set(public(a)) == set(public(b))
    for name, value in public(a).items():
        for p, q in zip(tree.leaves([value]), tree.leaves([public(b)[name]]), strict=True):
            assert np.array_equal(p, q) or (p != p and q != q), name
            assert type(p) is type(q) or isinstance(p, np.ndarray), name


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("option", OPTIONS)
def test_classifier_is_loaded_as_it_was(target, option, path):
    y = TARGETS[target]
    if option == "early stopping" and target == "one class":
        pytest.skip("there is nothing to stratify")
    fitted = classifier(**OPTIONS[option]).fit(X, y)
    for state in (False, True):
        portnet.save(fitted, path, state=state)
        again = portnet.load(path)
        assert type(again) is MLPClassifier
        assert again.get_params() == fitted.get_params()
        assert_same_attributes(again, fitted)
        for method in ("predict", "predict_proba"):
            a, b = (getattr(e, method)(X) for e in (again, fitted))
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert again.score(X, y) == fitted.score(X, y)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_regressor_is_loaded_as_it_was(loss, outputs, path):
    y = np.abs(X[:, :outputs]) if outputs > 1 else np.abs(X[:, 0])
    fitted = MLPRegressor(loss=loss, random_state=0, max_iter=5).fit(X, y)
    portnet.save(fitted, path)
    again = portnet.load(path)
    assert_same_attributes(again, fitted)
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_continues_exactly_with_the_state(solver, path):
    fitted = classifier(solver=solver).partial_fit(X, CODES, classes=[0, 1, 2])
    portnet.save(fitted, path, state=True)
    again = portnet.load(path)
    for estimator in (fitted, again):
        for _ in range(3):
            estimator.partial_fit(X[:20], CODES[:20])
    assert_same_attributes(again, fitted)


def test_without_the_state_partial_fit_starts_the_optimizer_anew(path):
    fitted = classifier().fit(X, CODES)
    portnet.save(fitted, path)
    again = portnet.load(path)
    assert not hasattr(again, "_optimizer")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="no optimizer state"):
            again.partial_fit(X, CODES)
    assert again.t_ == fitted.t_  # as it was
    with pytest.warns(UserWarning, match=r"partial_fit: .* no optimizer state: .*state=True keep"):
        again.partial_fit(X, CODES)
    again.partial_fit(X, CODES)
    assert again.t_ == fitted.t_ + 120
    with pytest.warns(UserWarning, match="no optimizer state"):
        fitted.without_state().partial_fit(X, CODES)
    fitted.set_params(solver="lbfgs").fit(X, CODES).set_params(solver="adam")
    fitted.partial_fit(X, CODES)  # L-BFGS leaves none
    portnet.load(path).set_params(warm_start=True).fit(X, CODES)  # as in every fit


SIZES = [np.int64(8), (np.int64(8),), np.array([8, 4]), [8, 4], range(8, 4, -2)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_numpy_numbers_as_parameters_are_loaded(sizes, path):
    fitted = classifier(hidden_layer_sizes=sizes, alpha=np.float64(0.1)).fit(X, CODES)
    portnet.save(fitted, path)
    again = portnet.load(path)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert again.alpha == 0.1


def test_numpy_truth_values_as_parameters_are_loaded(path):
    options = {"shuffle": np.True_, "warm_start": np.True_, "early_stopping": np.False_}
    portnet.save(classifier(**options).fit(X, CODES), path)
    again = portnet.load(path)
    for name, value in options.items():
        assert getattr(again, name) is bool(value)
    again.fit(X, CODES)


@pytest.mark.parametrize("dtype", ["U2", "U9", object])
def test_labels_with_nul_or_of_a_long_dtype_are_loaded_as_they_were(dtype, path):
    names = np.array(["a", "b\0", "c"], dtype)
    fitted = classifier(max_iter=2).fit(X, names[np.arange(len(X)) % 3])
    portnet.save(fitted, path)
    again = portnet.load(path)
    assert again.classes_.dtype == fitted.classes_.dtype
    assert again.classes_.tolist() == fitted.classes_.tolist()
    found, expected = again.predict(X), fitted.predict(X)
    assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


@pytest.mark.parametrize("dtype", ["U9999999", "U999999", "i8", "S3", 3, None, "U"])
def test_hostile_dtypes_of_labels_are_refused(dtype, path):
    portnet.save(classifier(max_iter=2).fit(X, NAMES_OF_20[np.arange(len(X)) % 20]), path)
    container = open_container(path)
    described, arrays = describe(container), container.read()
    described["fitted"]["dict"]["labels"]["dict"]["classes"]["dict"]["dtype"] = dtype
    with open(path, "wb") as file:
        file.writelines(pack(arrays, {"format_version": "1", "portnet": json.dumps(described)}))
    if dtype == "U":
        portnet.load(path)
        return
    with pytest.raises(ModelFileError, match="expected dtype U or O"):
        portnet.load(path)


NAMES_OF_20 = np.array([f"name {i}" for i in range(20)])


def test_feature_names_are_kept_and_checked(path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=list("abcde"))
    fitted = classifier().fit(frame, CODES)
    portnet.save(fitted, path)
    again = portnet.load(path)
    np.testing.assert_array_equal(again.feature_names_in_, fitted.feature_names_in_)
    np.testing.assert_array_equal(again.predict(frame), fitted.predict(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        again.predict(frame[list("edcba")])


def test_predictor_warns_of_missing_names_as_its_estimator_does(path, monkeypatch):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    portnet.save(classifier().fit(pandas.DataFrame(X, columns=list("abcde")), CODES), path)
    estimator = portnet.load(path)
    monkeypatch.setattr(estimators, "find_spec", lambda name: None)
    for model in (estimator, portnet.load(path)):
        words = "X does not have valid feature names, but MLPClassifier was fitted with feature"
        with pytest.warns(UserWarning, match=words):
            model.predict(X)


def test_random_generator_as_a_parameter_is_left_out(path):
    fitted = classifier(random_state=np.random.RandomState(1)).fit(X, CODES)
    portnet.save(fitted, path)
    assert portnet.load(path).random_state is None


def test_estimator_moves_between_backends(xp, path):
    x = xp.asarray(X.astype("float32"))
    fitted = classifier().fit(x, xp.asarray(CODES))
    portnet.save(fitted, path, state=True)
    on_host = portnet.load(path, backend="numpy")
    assert type(on_host.coefs_[0]) is np.ndarray
    back = portnet.load(path)
    assert type(back.coefs_[0]) is type(fitted.coefs_[0])
    for a, b, c in zip(fitted.coefs_, on_host.coefs_, back.coefs_, strict=True):
        np.testing.assert_array_equal(portnet.to_numpy(a), b)
        np.testing.assert_array_equal(portnet.to_numpy(c), b)


def test_estimator_that_is_not_fitted_is_an_error(path):
    with pytest.raises(TypeError, match="expected a fitted estimator, got MLPClassifier: fit it"):
        portnet.save(MLPClassifier(), path)


def test_pickle_without_state_is_smaller():
    fitted = classifier(hidden_layer_sizes=(64,)).fit(X, CODES)
    small = fitted.without_state()
    assert len(pickle.dumps(fitted)) > 2 * len(pickle.dumps(small))
    np.testing.assert_array_equal(small.predict_proba(X), fitted.predict_proba(X))
    assert hasattr(fitted, "_optimizer")


def test_many_names_of_features_and_classes_are_loaded(path, tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    names = [f"a feature with a long name, number {i}, in metres" for i in range(30_000)]
    frame = pandas.DataFrame(np.ones((2000, 1)) * np.arange(30_000) % 7, columns=names)
    frame = frame.astype("float32")
    y = np.array([f"class number {i}, which has a long name" for i in range(2000)])
    fitted = classifier(hidden_layer_sizes=(1,), max_iter=1)
    fitted.fit(frame[:20], y[:20], checkpoint=tmp_path / "net")
    portnet.save(fitted, path)
    for file in (path, tmp_path / "net"):
        again = portnet.load(file)
        assert list(again.feature_names_in_) == names
        assert type(again.feature_names_in_) is type(fitted.feature_names_in_)
    fitted = classifier(hidden_layer_sizes=(1,), max_iter=1).fit(frame[names[:2]], y)
    portnet.save(fitted, path)
    assert list(portnet.load(path).classes_) == sorted(y)


def test_description_above_the_limit_is_an_error_before_training(tmp_path, capsys):
    weights = {i: 1.0 + i for i in range(60_000)}
    made = classifier(hidden_layer_sizes=(1,), max_iter=1, class_weight=weights, verbose=True)
    with pytest.raises(ModelFileError, match=r"save: the description is too large for a file"):
        made.fit(np.ones((6, 1)), np.arange(6), checkpoint=tmp_path / "net")
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


# Attributes of the user's own, and requests of metadata ---------------------------------------------


def changed(path, change):
    """Write a file anew with another description."""
    with open_container(path) as container:
        described, arrays = describe(container), container.read()
    change(described)
    with open(path, "wb") as file:
        for part in pack(arrays, {"format_version": "1", "portnet": json.dumps(described)}):
            file.write(part)


def test_attributes_that_the_user_sets_are_loaded(path, tmp_path):
    fitted = classifier().fit(X, CODES)
    plain = (portnet.save(fitted, path), Path(path).read_bytes())[1]
    assert b'\\"own\\"' not in plain
    fitted.threshold_, fitted.notes = np.array([0.5, 0.25]), {"author": "me", "runs": [1, 2]}
    for state in (False, True):
        portnet.save(fitted, path, state=state)
        assert_same_attributes(portnet.load(path), fitted)
    x = served(path, tmp_path)
    np.testing.assert_array_equal(x["predict"], fitted.predict(X))


@pytest.mark.parametrize("name", ["helper_", "predict"])
def test_attributes_that_cannot_be_written_are_an_error(name, path, tmp_path):
    fitted = classifier().fit(X, CODES)
    setattr(fitted, name, MLPRegressor() if name == "helper_" else 3)
    with pytest.raises(TypeError, match=rf"attribute '{name}' of MLPClassifier cannot be written"):
        portnet.save(fitted, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["alpha", "hidden_layer_sizes", "coefs_", "predict", "__init__"])
def test_hostile_attributes_are_refused(name, path):
    portnet.save(classifier().fit(X, CODES), path)
    changed(path, lambda described: described.update(own={"dict": {name: 1}}))
    with pytest.raises(ModelFileError, match="expected other attributes"):
        portnet.load(path)


def test_requests_of_metadata_are_loaded(path, tmp_path):
    fitted = classifier().fit(X, CODES)
    with sklearn.config_context(enable_metadata_routing=True):
        fitted.set_fit_request(sample_weight="weights", X_val=True)
        fitted.set_score_request(sample_weight=False)
    portnet.save(fitted, path)
    again = portnet.load(path)
    assert str(again.get_metadata_routing()) == str(fitted.get_metadata_routing())
    np.testing.assert_array_equal(served(path, tmp_path)["predict"], fitted.predict(X))
    fitted = Plain((8,), max_iter=5).fit(X, CODES)
    with sklearn.config_context(enable_metadata_routing=True):
        fitted.set_fit_request(sample_weight=True)
    portnet.save(fitted, path)
    again = portnet.load(path, custom={"Plain": Plain})
    assert again.get_metadata_routing().fit.requests["sample_weight"] is True


@pytest.mark.parametrize(
    "requests",
    [3, [], {"fit": 1}, {"go": {"dict": {}}}, {"fit": {"dict": {"me": True}}}]
    + [{"fit": {"dict": {"sample_weight": v}}} for v in ("no name", 3, {"tuple": []})],
)
def test_hostile_requests_of_metadata_are_refused(requests, path):
    portnet.save(classifier().fit(X, CODES), path)
    requests = {"dict": requests} if isinstance(requests, dict) else requests
    changed(path, lambda described: described.update(requests=requests))
    with pytest.raises(ModelFileError):
        portnet.load(path)


# Subclasses ----------------------------------------------------------------------------------------


class Plain(MLPClassifier):
    """A subclass that answers in another way."""

    def predict(self, X):
        return super().predict(X) + 100


class Scaled(MLPRegressor):
    """A subclass with parameters and attributes of its own, and without most of its base's."""

    def __init__(self, factor=2.0, hidden_layer_sizes=(7,), random_state=0):
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation="tanh",
            max_iter=5,
            random_state=random_state,
        )
        self.factor = factor

    def fit(self, X, y, **more):
        self.mean_ = np.mean(X, axis=0)
        return super().fit((X - self.mean_) * self.factor, y, **more)

    def predict(self, X):
        return super().predict((X - self.mean_) * self.factor)


def test_subclass_is_named_and_given_at_load(path):
    fitted = Plain((8,), random_state=3, max_iter=5).fit(X, CODES)
    portnet.save(fitted, path, state=True)
    with pytest.raises(
        ModelFileError, match=r"'Plain' is a subclass of MLPClassifier.*custom=\{'Plain'"
    ):
        portnet.load(path)
    again = portnet.load(path, custom={"Plain": Plain})
    assert type(again) is Plain
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    assert_same_attributes(again, fitted)
    for other in (MLPRegressor, "Plain", object, Scaled):
        with pytest.raises(ModelFileError, match="expected a subclass of MLPClassifier"):
            portnet.load(path, custom={"Plain": other})


def test_subclass_of_the_same_name_is_not_loaded_as_its_base(path):
    named = type("MLPClassifier", (Plain,), {})
    portnet.save(named((8,), max_iter=5).fit(X, CODES), path)
    with pytest.raises(ModelFileError, match="is a subclass of MLPClassifier"):
        portnet.load(path)
    assert type(portnet.load(path, custom={"MLPClassifier": named})) is named


def test_parameters_and_attributes_of_a_subclass_are_loaded(path, tmp_path):
    fitted = Scaled(3.0).fit(X, X[:, 0], checkpoint=tmp_path / "net")
    portnet.save(fitted, path)
    for file in (path, tmp_path / "net"):
        again = portnet.load(file, custom={"Scaled": Scaled})
        assert_same_attributes(again, fitted)
        assert (again.get_params(), again.factor) == (fitted.get_params(), 3.0)
        np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    resumed = Scaled(3.0).fit(X, X[:, 0], resume=tmp_path / "net")
    np.testing.assert_array_equal(resumed.predict(X), fitted.predict(X))
    with pytest.raises(ModelFileError, match="factor"):
        portnet.load(path, custom={"Scaled": MLPRegressor})


def test_attributes_of_a_subclass_that_cannot_be_written_are_an_error(path, tmp_path):
    fitted = Plain((8,), max_iter=5).fit(X, CODES)
    fitted.helper_ = MLPRegressor()
    with pytest.raises(TypeError, match=r"attribute 'helper_' of Plain cannot be written"):
        portnet.save(fitted, path)
    assert list(tmp_path.iterdir()) == []


def test_attributes_of_a_subclass_may_be_infinite(path):
    net = Plain((5,), random_state=0, max_iter=2).fit(X, CODES)
    net.thresholds_ = np.array([0.5, np.inf])
    portnet.save(net, path)
    again = portnet.load(path, custom={"Plain": Plain})
    np.testing.assert_array_equal(again.thresholds_, net.thresholds_)
    net.coefs_[0][0, 0] = np.nan
    with pytest.raises(ModelFileError, match=r"save: the tensor 'coefs_\.0' has NaN or infinity"):
        portnet.save(net, path)
    portnet.load(path, custom={"Plain": Plain})


def test_parameters_that_no_longer_fit_the_network_are_an_error(path, tmp_path):
    fitted = classifier().fit(X, CODES).set_params(hidden_layer_sizes=(8, 4))
    with pytest.raises(ModelFileError, match=r"save: expected 3 layers, got 2.*fit the estimator"):
        portnet.save(fitted, path)
    assert list(tmp_path.iterdir()) == []


def test_subclass_without_scikit_learn_is_an_error(path, monkeypatch):
    portnet.save(Plain((8,), max_iter=5).fit(X, CODES), path)
    monkeypatch.setattr(estimators, "find_spec", lambda name: None)
    with pytest.raises(ModelFileError, match=r"'Plain' is a subclass of.*needs scikit-learn"):
        portnet.load(path, custom={"Plain": Plain})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class", 3),
        ("base", "object"),
        ("inherited", None),
        ("own", {"dict": {"coefs_": []}}),
        ("own", {"dict": {"hidden_layer_sizes": 3}}),
        ("own", {"tuple": []}),
    ],
)
def test_hostile_subclasses_are_refused(name, value, path):
    portnet.save(Plain((8,), max_iter=5).fit(X, CODES), path)
    changed(path, lambda described: described.update({name: value}))
    with pytest.raises(ModelFileError):
        portnet.load(path, custom={"Plain": Plain})


# Without scikit-learn ------------------------------------------------------------------------------

SERVE = """
import sys
sys.modules["sklearn"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "sklearn" else find(name, *a)
import numpy as np, portnet
x = np.load(sys.argv[2])
model = portnet.load(sys.argv[1])
assert "MLP" in repr(model), model
found = {"predict": model.predict(x)}
if model.classes_ is not None:
    found |= {"proba": model.predict_proba(x), "classes": model.classes_}
np.savez(sys.argv[3], **{k: v.astype(str) if v.dtype == object else v for k, v in found.items()})
assert "sklearn.base" not in sys.modules
"""


def served(path, tmp_path):
    """Return what another process, without scikit-learn, predicts."""
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-c", SERVE, path, tmp_path / "x.npy", tmp_path / "out.npz"]
    subprocess.run(command, check=True)
    return dict(np.load(tmp_path / "out.npz"))


@pytest.mark.parametrize("target", TARGETS)
def test_second_process_without_scikit_learn_predicts_the_same(target, path, tmp_path):
    fitted = classifier().fit(X, TARGETS[target])
    portnet.save(fitted, path, state=True)
    found = served(path, tmp_path)
    np.testing.assert_array_equal(found["proba"], fitted.predict_proba(X))
    np.testing.assert_array_equal(
        found["predict"], fitted.predict(X).astype(found["predict"].dtype)
    )
    np.testing.assert_array_equal(found["classes"], fitted.classes_.astype(found["classes"].dtype))


def test_regressor_without_scikit_learn_predicts_the_same(path, tmp_path):
    fitted = MLPRegressor(random_state=0, max_iter=5).fit(X, X[:, 0])
    portnet.save(fitted, path)
    np.testing.assert_array_equal(served(path, tmp_path)["predict"], fitted.predict(X))


def test_predictor_checks_its_rows(path, monkeypatch, xp):
    if xp.id == "strict-no_x64":
        pytest.skip(reason="array-api-strict 2.6.1: argmax makes int64, which no_x64 lacks")
    fitted = classifier().fit(X.astype("float32"), CODES)
    portnet.save(fitted, path)
    monkeypatch.setattr(estimators, "find_spec", lambda name: None)
    predictor = portnet.load(path, backend="numpy")
    with pytest.raises(TypeError, match=r"got a Predictor of a MLPClassifier: copy the file"):
        portnet.save(predictor, path)
    with pytest.raises(portnet.DataError, match="expected 5 features, got 4"):
        predictor.predict(X[:, :4])
    moved = portnet.load(path)  # to the backend of this thread
    x = xp.asarray(X.astype("float32"))
    found = portnet.to_numpy(moved.predict(x))
    assert (found == fitted.predict(X.astype("float32"))).mean() > 0.95
    with portnet.use_backend("numpy"):
        regressor = MLPRegressor(random_state=0, max_iter=2).fit(X, X[:, 0])
    portnet.save(regressor, path)
    with pytest.raises(TypeError, match="predict_proba needs a classifier"):
        portnet.load(path, backend="numpy").predict_proba(X)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_features_in_", 6),
        ("n_outputs_", 2),
        ("n_layers_", 9),
        ("out_activation_", "cube"),
        ("coefs_", []),
        ("labels", None),
    ],
)
def test_attributes_that_do_not_fit_are_refused(name, value, path):
    portnet.save(classifier().fit(X, CODES), path)
    container = open_container(path)
    described, arrays = describe(container), container.read()
    described["fitted"]["dict"][name] = value
    with open(path, "wb") as file:
        for part in pack(arrays, {"format_version": "1", "portnet": json.dumps(described)}):
            file.write(part)
    with pytest.raises(ModelFileError):
        portnet.load(path)


def put_labels(**values):
    return lambda described: described["fitted"]["dict"]["labels"]["dict"].update(values)


def put_classes(change):
    """Return a change of a description that has text as its classes."""

    def edit(described):
        names = described["fitted"]["dict"]["labels"]["dict"]["classes"]["dict"]["names"]
        described["fitted"]["dict"]["labels"]["dict"]["classes"]["dict"]["names"] = change(names)

    return edit


WRONG_LABELS = {
    "a class too few": ("text", put_classes(lambda n: n[:2]), "3 outputs .* 2 classes of kind"),
    "a class too many": ("text", put_classes(lambda n: [*n, "dog"]), "3 outputs .* 4 classes"),
    "no class": ("text", put_classes(lambda n: []), "does not fit 0 classes"),
    "a class twice": ("text", put_classes(lambda n: [n[0], *n[:2]]), "different ones, sorted"),
    "classes not sorted": ("text", put_classes(lambda n: n[::-1]), "different ones, sorted"),
    "several as two": ("text", put_labels(kind="binary"), r"has 3 outputs \(softmax\), which does"),
    "classes as labels": (
        "text",
        put_labels(kind="multilabel-indicator"),
        r"has 3 outputs \(softmax",
    ),
    "labels as classes": ("labels", put_labels(kind="multiclass"), r"has 3 outputs \(logistic\)"),
    "two as several": ("truth", put_labels(kind="multiclass"), r"has 1 output \(logistic\)"),
    "numbers": (
        "truth",
        put_labels(kind="continuous"),
        "expected binary, multiclass or multilabel",
    ),
    "no kind": ("truth", put_labels(kind=["binary"]), "expected binary, multiclass or multilabel"),
    "more fields": ("truth", put_labels(more=1), "expected classes, kind and sparse"),
}


@pytest.mark.parametrize("with_sklearn", [True, False])
@pytest.mark.parametrize(("target", "change", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_classes_that_do_not_fit_the_output_layer_are_refused(
    target, change, message, with_sklearn, path, monkeypatch
):
    portnet.save(classifier().fit(X, TARGETS[target]), path)
    changed(path, change)
    if not with_sklearn:
        monkeypatch.setattr(estimators, "find_spec", lambda name: None)
    with pytest.raises(ModelFileError, match=message):
        portnet.load(path)


def test_classes_in_an_array_that_do_not_fit_the_output_layer_are_refused(path):
    portnet.save(classifier().fit(X, CODES), path)
    with open_container(path) as container:
        described, arrays = describe(container), container.read()
    (name,) = [n for n, a in arrays.items() if a.dtype == CODES.dtype and a.shape == (3,)]
    for given in (arrays[name][:2], np.arange(4), np.array([0, 0, 1])):
        kept = arrays | {name: given}
        with open(path, "wb") as file:
            file.writelines(pack(kept, {"format_version": "1", "portnet": json.dumps(described)}))
        with pytest.raises(
            ModelFileError, match=r"labels: the output layer|different ones, sorted"
        ):
            portnet.load(path)


def test_classes_that_load_would_refuse_are_an_error_of_save(tmp_path):
    fitted = classifier().fit(X, CODES)
    fitted._label_binarizer.classes_ = np.arange(2)
    with pytest.raises(ModelFileError, match=r"save: labels: .* Nothing was written"):
        portnet.save(fitted, tmp_path / "m")
    assert not list(tmp_path.iterdir())
