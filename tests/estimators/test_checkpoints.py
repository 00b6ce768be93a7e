"""Checkpoints of estimators: a fit that ended after any epoch goes on as if it had not ended."""

import signal

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import scipy.sparse
from fits import DiedError, dies_after

import portnet
from portnet import MLPClassifier, MLPRegressor, tree
from portnet.estimators import solvers
from portnet.files.container import open_container, pack

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((90, 5))
Y = DRAW.integers(0, 3, 90)
SPARSE = scipy.sparse.csr_matrix(np.where(X > 0, X, 0))
OPTIONS = {
    "adam": {},
    "early stopping": {"early_stopping": True},
    "sgd, adaptive": {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 2},
    "sgd, invscaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "in order": {"shuffle": False, "batch_size": 20},
    "class weights": {"class_weight": "balanced"},
}


def classifier(**options):
    return MLPClassifier(
        **{"hidden_layer_sizes": (7,), "random_state": 3, "max_iter": 25} | options
    )


def assert_same_fit(a, b):
    names = {n for n in (*vars(a), *vars(b)) if not n.startswith("_")}
    for name in sorted(names | {"_no_improvement_count"}):
        p, q = getattr(a, name), getattr(b, name)
        if name != "random_state":
            for i, j in zip(tree.leaves([p]), tree.leaves([q]), strict=True):
                np.testing.assert_array_equal(i, j, name)
    for p, q in zip(*(tree.leaves(e._optimizer.state) for e in (a, b)), strict=True):
        np.testing.assert_array_equal(p, q)
    for p, q in zip(*(e._random_state.get_state() for e in (a, b)), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("data", [X, SPARSE], ids=["dense", "sparse"])
def test_fit_that_died_goes_on_exactly(option, every, data, tmp_path, monkeypatch):
    path, options = tmp_path / "net", OPTIONS[option]
    expected = classifier(**options).fit(data, Y)
    died = classifier(**options)
    with monkeypatch.context() as m:
        dies_after(m, 2)
        with pytest.raises(DiedError):
            died.fit(data, Y, checkpoint=path, every=every)
    assert not hasattr(died, "coefs_")  # a fit that raises changes nothing
    assert portnet.load(path).n_iter_ == 2 * every
    again = classifier(**options).fit(data, Y, checkpoint=path, every=every, resume=True)
    assert_same_fit(again, expected)
    assert_same_fit(classifier(**options).fit(data, Y, resume=path), expected)  # it has ended


def signal_in_epoch(monkeypatch, number, epoch=1):
    """Let a signal arrive before the first step of an epoch, where each is trained by itself."""
    whole, count = solvers.run_epochs, []

    def run_epochs(*args, **options):
        count.append(1)
        if len(count) == epoch:
            signal.raise_signal(number)
        return whole(*args, **options)

    monkeypatch.setattr(solvers, "run_epochs", run_epochs)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("before", ["", "fitted", "warm"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fit_that_a_signal_ended_in_its_first_epoch_goes_on_exactly(
    option, before, number, tmp_path, monkeypatch
):
    path, options = tmp_path / "net", {"batch_size": 20, "warm_start": before == "warm"}

    def make():
        made = classifier(**options | OPTIONS[option])
        return made.set_params(max_iter=3).fit(X, Y).set_params(max_iter=25) if before else made

    expected, ended = make().fit(X, Y), make()
    interrupted = pytest.warns(UserWarning, match="Training interrupted by user")
    exits = pytest.raises(SystemExit, match="143")
    with monkeypatch.context() as m:
        signal_in_epoch(m, number)
        with interrupted if number == signal.SIGINT else exits:
            ended.fit(X, Y, checkpoint=path)
    assert portnet.load(path).n_iter_ == 0
    assert_same_fit(make().fit(X, Y, resume=path), expected)


@pytest.mark.parametrize("early", [False, True])
def test_estimator_interrupted_in_its_first_epoch_is_saved(early, tmp_path, monkeypatch):
    ended = classifier(batch_size=20, early_stopping=early)
    with monkeypatch.context() as m:
        signal_in_epoch(m, signal.SIGINT)
        with pytest.warns(UserWarning, match="interrupted"):
            ended.fit(X, Y)
    portnet.save(ended, tmp_path / "net", state=True)
    again = portnet.load(tmp_path / "net")
    np.testing.assert_array_equal(again.predict_proba(X), ended.predict_proba(X))
    assert not hasattr(again, "loss_")
    assert again.best_loss_ == (None if early else np.inf)
    assert type(again.best_loss_) is type(ended.best_loss_)


def test_fit_without_a_seed_goes_on_with_the_same_validation_rows(tmp_path, monkeypatch):
    path = tmp_path / "net"
    options = {"early_stopping": True, "random_state": None}
    with monkeypatch.context() as m:
        dies_after(m, 3)
        with pytest.raises(DiedError):
            classifier(**options).fit(X, Y, checkpoint=path)
    first = classifier(**options).fit(X, Y, resume=path)
    assert_same_fit(classifier(**options).fit(X, Y, resume=path), first)


def test_regressor_goes_on_exactly(tmp_path, monkeypatch):
    make = lambda: MLPRegressor(random_state=1, max_iter=12)  # noqa: E731
    expected = make().fit(X, X[:, 0])
    with monkeypatch.context() as m:
        dies_after(m, 5)
        with pytest.raises(DiedError):
            make().fit(X, X[:, 0], checkpoint=tmp_path / "net")
    assert_same_fit(make().fit(X, X[:, 0], resume=tmp_path / "net"), expected)


def test_checkpoint_is_a_fitted_estimator(tmp_path):
    path = tmp_path / "net"
    fitted = classifier().fit(X, Y, checkpoint=path)
    again = portnet.load(path)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert again.loss_curve_ == fitted.loss_curve_


def test_checkpoint_under_early_stopping_has_the_best_parameters(tmp_path, monkeypatch):
    path, best = tmp_path / "net.st", tmp_path / "net-best.st"
    options = {"early_stopping": True, "n_iter_no_change": 99, "learning_rate_init": 0.01}
    make = lambda: classifier(batch_size=20, **options)  # noqa: E731
    labels = X[:, :3].argmax(axis=1)
    expected = make().fit(X, labels)
    epoch = 1 + int(np.argmax(expected.validation_scores_))
    assert 0 < epoch % 4 < epoch < 20  # the checkpoint after the best epoch is not of that
    with monkeypatch.context() as m:
        dies_after(m, -(-epoch // 4) + 1)
        with pytest.raises(DiedError):
            make().fit(X, labels, checkpoint=path, every=4, keep=2)
    assert portnet.load(best).n_iter_ == -(-epoch // 4) * 4
    for found in path, best:
        there = portnet.load(found)
        np.testing.assert_array_equal(there.coefs_[0], expected.coefs_[0])
        assert_same_fit(make().fit(X, labels, resume=found), expected)
    fitted = make().fit(X, labels, checkpoint=path, every=4, keep=2, resume=True)
    assert portnet.load(best).n_iter_ == -(-epoch // 4) * 4
    assert_same_fit(fitted, expected)
    assert_same_fit(portnet.load(path), expected)


def test_without_early_stopping_none_is_the_best(tmp_path):
    classifier().fit(X, Y, checkpoint=tmp_path / "net", every=7, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "net-epoch-21"]


def test_warm_start_keeps_its_curve(tmp_path):
    plain, written = classifier(warm_start=True), classifier(warm_start=True)
    plain.fit(X, Y).fit(X, Y)
    written.fit(X, Y).fit(X, Y, checkpoint=tmp_path / "net")
    assert written.loss_curve_ == plain.loss_curve_
    assert portnet.load(tmp_path / "net").loss_curve_ == plain.loss_curve_


def test_more_iterations_go_on_from_the_end(tmp_path):
    classifier(max_iter=10).fit(X, Y, checkpoint=tmp_path / "net")
    again = classifier(max_iter=25).fit(X, Y, resume=tmp_path / "net")
    np.testing.assert_array_equal(again.coefs_[0], classifier().fit(X, Y).coefs_[0])


def test_fewer_iterations_than_the_checkpoint_has_are_an_error(tmp_path):
    fitted = classifier(max_iter=10).fit(X, Y, checkpoint=tmp_path / "net")
    assert_same_fit(classifier(max_iter=10).fit(X, Y, resume=tmp_path / "net"), fitted)
    with pytest.raises(ValueError, match=r"max_iter: .* after 10 iterations.* give max_iter=10 or"):
        classifier(max_iter=9).fit(X, Y, resume=tmp_path / "net")


def test_checkpoints_of_an_earlier_fit_do_not_stay(tmp_path):
    classifier(max_iter=9).fit(X, Y, checkpoint=tmp_path / "net", keep=3)
    classifier(max_iter=4, alpha=0.1).fit(X, Y, checkpoint=tmp_path / "net", keep=2)
    names = {p.name: portnet.load(p).n_iter_ for p in tmp_path.iterdir()}
    assert names["net"] == 4
    assert {n for n in names if n != "net-best"} == {"net", "net-epoch-3"}
    assert all(portnet.load(p).alpha == 0.1 for p in tmp_path.iterdir())


def test_other_data_or_parameters_are_refused_with_every_difference(tmp_path):
    path = tmp_path / "net"
    classifier().fit(X, Y, checkpoint=path)
    with pytest.raises(portnet.ResumeMismatchError) as error:
        classifier(alpha=0.5, hidden_layer_sizes=(9,)).fit(X + 1, Y, resume=path)
    for part in ("options.alpha: 0.0001 in the", "options.hidden_layer_sizes", "data.X.crc32"):
        assert part in str(error.value)
    remedy = "or start from it: portnet.load(path).set_params(warm_start=True, ...).fit(X, y)"
    assert str(error.value).endswith(f"Give the same data and parameters, {remedy}")
    started = portnet.load(path).set_params(warm_start=True, alpha=0.5, max_iter=1)
    assert started.fit(X + 1, Y).t_ == 26 * len(X)


def test_other_names_of_features_and_classes_are_differences(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    path, frame = tmp_path / "net", pandas.DataFrame(X, columns=list("abcde"))
    names = np.array(["ant", "bee", "cat"])
    classifier().fit(frame, names[Y], checkpoint=path)
    classifier(max_iter=26).fit(frame, names[Y], resume=path)
    for x, y, expected in [
        (frame, np.array(["ant", "bee", "dog"])[Y], r"classes_\[2\]: \"cat\" in the checkpoint"),
        (frame, Y, r"classes_\[0\]: \"ant\" in the checkpoint, \"0\" now"),
        (frame.rename(columns={"b": "z"}), names[Y], r"feature_names_in_\[1\]: \"b\" in the ch"),
        (X, names[Y], r"feature_names_in_: .* in the checkpoint, null now"),
        (frame[["a"]], names[Y], r"data\.X\.shape\[1\]: 5 in the checkpoint, 1 now"),
    ]:
        with pytest.raises(portnet.ResumeMismatchError, match=expected):
            classifier().fit(x, y, resume=path)


def test_what_cannot_be_resumed_is_an_error(tmp_path):
    path = tmp_path / "net"
    with pytest.raises(ValueError, match="give solver='sgd' or 'adam', not 'lbfgs'"):
        classifier(solver="lbfgs").fit(X, Y, checkpoint=path)
    with pytest.raises(ValueError, match="estimators write after epochs"):
        classifier().fit(X, Y, checkpoint=path, every="3 steps")
    with pytest.raises(ValueError, match="need checkpoint=path"):
        classifier().fit(X, Y, every=3)
    with pytest.raises(ValueError, match="need checkpoint=path"):
        classifier().fit(X, Y, keep=3)
    with pytest.raises(ValueError, match="need checkpoint=path"):
        classifier().fit(X, Y, on_checkpoint_error="warn")
    run = portnet.Trainer(portnet.mlp([5, 3]), "softmax_cross_entropy").fit(X, Y, epochs=1)
    for other in (run, classifier(), 3, [path]):
        with pytest.raises(TypeError, match="resume: expected the path of a checkpoint of an est"):
            classifier().fit(X, Y, resume=other)
    run.save(path)
    with pytest.raises(portnet.ModelFileError, match="expected an estimator, got a file of: run"):
        classifier().fit(X, Y, resume=path)
    portnet.save(classifier().fit(X, Y), path)
    with pytest.raises(portnet.ModelFileError, match="an estimator, but no checkpoint of a fit"):
        classifier().fit(X, Y, resume=path)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64")
def test_labels_that_cannot_be_written_are_an_error_before_training(tmp_path, capsys):
    y = Y.astype(np.longdouble)
    with pytest.raises(TypeError, match=r"classes_: labels of dtype .* give text, or numbers"):
        classifier(verbose=True).fit(X, y, checkpoint=tmp_path / "net")
    assert capsys.readouterr().out == ""
    fitted = classifier().fit(X, y)
    with pytest.raises(TypeError, match=r"such as y\.astype\('float64'\)"):
        portnet.save(fitted, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["progress.best.0.W", "progress.last.0.W", "optimizer.state.m.0.W"]
)
def test_parameters_and_moments_of_other_shapes_are_refused(name, tmp_path):
    path = tmp_path / "net"
    options = {"early_stopping": True, "max_iter": 9 if "last" in name else 1}
    classifier(**options).fit(X, Y, checkpoint=path)
    with open_container(path) as file:
        metadata = {k: v for k, v in file.metadata.items() if k not in ("format", "crc32")}
        tensors = file.read()
    path.write_bytes(b"".join(pack(tensors | {name: tensors[name][:2]}, metadata)))
    with pytest.raises(portnet.ModelFileError, match="expected the shape"):
        classifier(**options | {"max_iter": 12}).fit(X, Y, resume=path)


def test_estimator_on_another_library_goes_on(xp, tmp_path, monkeypatch):
    x, path = xp.asarray(X.astype("float32")), tmp_path / "net"
    expected = classifier(max_iter=6).fit(x, Y)
    with monkeypatch.context() as m:
        dies_after(m, 2)
        with pytest.raises(DiedError):
            classifier(max_iter=6).fit(x, Y, checkpoint=path)
    again = classifier(max_iter=6).fit(x, Y, resume=path)
    for a, b in zip(again.coefs_, expected.coefs_, strict=True):
        np.testing.assert_array_equal(portnet.to_numpy(a), portnet.to_numpy(b))
