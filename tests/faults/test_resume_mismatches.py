"""Resuming: what a checkpoint must have in common with the fit, and what it is refused for."""

import json
from typing import NamedTuple

import numpy as np
import pytest
from fits import LABELS, NET, X, trainer
from processes import differing, quietly

import portnet
from portnet.files import checkpoint
from portnet.files.container import open_container, pack

OPTIONS = {"validation": 0.25, "epochs": 4, "metrics": ["accuracy"]}
OTHER = X.copy()
OTHER[5, 2] += 1e-6
W = np.ones(96)

# What differs -> the lines that say so, each at its beginning.
DATA = {
    "a value of X": ((OTHER, LABELS, {}), {"data.X.crc32"}),
    "a label": ((X, np.roll(LABELS, 1), {}), {"data.y.crc32"}),
    "fewer rows": ((X[:80], LABELS[:80], {}), {"data.X.shape[0]", "data.y.shape[0]"}),
    "weights": ((X, LABELS, {"sample_weight": W}), {"data.sample_weight"}),
    "class_weight": (
        (X, LABELS, {"class_weight": "balanced"}),
        {"data.sample_weight", "options.class_weight"},
    ),
    "validation": ((X, LABELS, {"validation": 0.5}), {"data.validation X", "options.validation"}),
    "no validation": (
        (X, LABELS, {"validation": None}),
        {"data.validation X", "data.validation y", "options.validation"},
    ),
    "early_stopping": ((X, LABELS, {"early_stopping": True}), {"options.early_stopping"}),
    "reduce_on_plateau": ((X, LABELS, {"reduce_on_plateau": True}), {"options.reduce_on_plateau"}),
    "metrics": ((X, LABELS, {"metrics": ["log_loss"]}), {"metrics[0]"}),
    "two of them": (
        (OTHER, LABELS, {"early_stopping": True}),
        {"data.X.crc32", "options.early_stopping"},
    ),
}
# Here the validation rows are others, too.
SPLIT_OTHERWISE = "a label", "fewer rows", "weights", "class_weight", "validation", "no validation"
TRAINERS = {
    "batch_size": ({"batch_size": 8}, {"batch_size"}),
    "seed": ({"seed": 2}, {"seed"}),
    "shuffle": ({"shuffle": False}, {"shuffle"}),
    "compile": ({"compile": False}, {"compile"}),
    "learning rate": ({"optimizer": portnet.Adam(0.02)}, {"optimizer.lr"}),
    "optimizer": ({"optimizer": portnet.RMSProp(0.01)}, {"optimizer"}),
    "loss": ({"loss": "squared_error"}, {"loss"}),
    "model": ({"model": portnet.mlp([5, 9, 3])}, {"model.layers[0].n_out"}),
    "activation": ({"model": portnet.mlp([5, 8, 3], "tanh")}, {"model.layers[1]"}),
    "two of them": ({"seed": 2, "batch_size": 8}, {"seed", "batch_size"}),
}


def stop_within(path, at=8, **options):
    """Train until a checkpoint within an epoch; return its path."""

    class StopError(Exception):
        pass

    write, wrote = checkpoint.write_file, []

    def write_some(*args):
        write(*args)
        wrote.append(1)
        if len(wrote) == at:
            raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_file", write_some)
        with pytest.raises(StopError):
            trainer(compile=False, **options).fit(
                X, LABELS, checkpoint=path, every="1 steps", **OPTIONS
            )
    run = portnet.load(path)
    assert run.step > 0
    return path


def lines(error):
    """Return where the differences are, as the message lists them."""
    found = [line.strip() for line in str(error.value).split("\n") if line.startswith("  ")]
    assert all(" in the checkpoint, " in line and line.endswith(" now") for line in found)
    return {line.split(": ")[0] for line in found}


def has_all(found, expected):
    return all(any(f.startswith(e) for f in found) for e in expected)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("mismatch") / "run.st"
    trainer().fit(X, LABELS, checkpoint=path, **OPTIONS | {"epochs": 2})
    return path


@pytest.mark.parametrize("case", DATA)
def test_other_data_or_options_are_listed(case, path):
    (x, y, options), expected = DATA[case]
    before = path.read_bytes()
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer().fit(x, y, resume=path, **OPTIONS | options)
    assert str(error.value).startswith(f"{path} was made by another fit")
    assert has_all(lines(error), expected)
    if case not in SPLIT_OTHERWISE:
        assert len(lines(error)) == len(expected)
    assert path.read_bytes() == before


@pytest.mark.parametrize("case", TRAINERS)
def test_another_trainer_is_listed(case, path):
    options, expected = TRAINERS[case]
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer(**options).fit(X, LABELS, resume=path, **OPTIONS)
    assert has_all(lines(error), expected)


def test_another_trainer_and_other_data_are_listed_together(path):
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer(batch_size=8).fit(OTHER, LABELS, resume=path, **OPTIONS | {"early_stopping": True})
    assert {"batch_size", "data.X.crc32", "options.early_stopping"} == lines(error)


# Data that the run of the checkpoint cannot take.
VX, VY = X[:20], LABELS[:20]
UNFIT = {
    "another width": ((X[:, :4], LABELS, {}), {"data.X.shape[1]"}),
    "another width of the validation rows": (
        (X, LABELS, {"validation": (VX[:, :4], VY)}),
        {"data.validation X.shape[1]"},
    ),
    "more outputs": ((X, np.eye(4)[LABELS], {}), {"data.y.shape[1]"}),
    "another label": ((X, LABELS * 3, {}), {"data"}),
    "text": ((X, np.array(["cat", "dog", "emu"])[LABELS], {}), {"classes"}),
    "fewer classes of text": ((X, np.array(["cat", "dog"])[(LABELS > 0) * 1], {}), {"data"}),
    "weights": ((X[:, :4], LABELS, {"sample_weight": W}), {"data.X.shape[1]"}),
}


@pytest.mark.parametrize("n_in", [None, 5])
@pytest.mark.parametrize("case", UNFIT)
def test_data_that_do_not_fit_are_listed(case, n_in, tmp_path):
    (x, y, options), expected = UNFIT[case]
    given = OPTIONS | ({"validation": (VX, VY)} if "validation" in options else {})
    made = trainer(model=portnet.Chain([portnet.Dense(8), portnet.Dense(3)], n_in=n_in))
    made.fit(X, LABELS, checkpoint=tmp_path / "run.st", **given)
    with pytest.raises(portnet.ResumeMismatchError) as error:
        made.fit(x, y, resume=tmp_path / "run.st", **given | options)
    assert has_all(lines(error), expected)
    if case == "weights" and n_in is None:
        assert has_all(lines(error), {"data.sample_weight"})


def test_data_that_can_be_used_in_no_fit_are_an_error_of_the_data(path):
    for bad in (X * np.nan, np.full(X.shape, None), X[None]):
        with pytest.raises(portnet.DataError):
            trainer().fit(bad, LABELS, resume=path, **OPTIONS)


def test_names_of_columns_and_classes_are_listed(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=list("abcde"))
    names = np.array(["cat", "dog", "emu"])
    path = tmp_path / "run.st"
    trainer().fit(frame, names[LABELS], checkpoint=path, **OPTIONS | {"epochs": 2})
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer().fit(frame.rename(columns={"a": "z"}), names[LABELS], resume=path, **OPTIONS)
    assert lines(error) == {"feature_names[0]"}
    names[1] = "doe"
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer().fit(frame, names[LABELS], resume=path, **OPTIONS)
    assert lines(error) == {"classes[1]"}
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer().fit(frame[list("edcba")], names[LABELS], resume=path, **OPTIONS)
    assert has_all(lines(error), {"feature_names[4]", "data.X.crc32", "classes[1]"})


def test_another_dtype_is_listed(path):
    with (
        portnet.use_backend("numpy", dtype="float64"),
        pytest.raises(portnet.ResumeMismatchError) as error,
    ):
        trainer().fit(X, LABELS, resume=path, **OPTIONS)
    assert lines(error) == {"dtype"}


def test_other_rows_within_an_epoch_are_listed(tmp_path):
    path = stop_within(tmp_path / "run.st")
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer(compile=False).fit(X[:80], LABELS[:80], resume=path, **OPTIONS)
    assert has_all(lines(error), {"data.X.shape[0]", "data.y.shape[0]"})
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer(compile=False, seed=2).fit(X, LABELS, resume=path, **OPTIONS)
    assert "seed" in lines(error)


def test_epochs_and_how_it_is_shown_may_differ(path):
    run = trainer().fit(X, LABELS, resume=path, progress=False, **OPTIONS | {"epochs": 5})
    assert run.epoch == 5


# Files that are no checkpoints, and other versions ---------------------------------------------


def rewritten(path, to, change):
    """Write a file as it is, with another version or description, and the right checksum."""
    with open_container(path) as file:
        metadata = {k: v for k, v in file.metadata.items() if k not in ("format", "crc32")}
        tensors = file.read()
    change(metadata)
    to.write_bytes(b"".join(pack(tensors, metadata)))
    return to


def test_newer_format_version_is_refused(path, tmp_path):
    new = rewritten(path, tmp_path / "new.st", lambda m: m.update(format_version="2"))
    words = r"new\.st: expected format version 1 to 1, got '2': a newer version of portnet made it"
    with pytest.raises(portnet.ModelFileError, match=words):
        trainer().fit(X, LABELS, resume=new, **OPTIONS)
    with pytest.raises(portnet.ModelFileError, match=words):
        portnet.load(new)


def test_network_and_estimator_are_no_checkpoints(tmp_path):
    path = tmp_path / "net.st"
    portnet.save((NET, portnet.init(NET, like=np.zeros(1))), path)
    with pytest.raises(
        portnet.ModelFileError, match=r"net\.st: expected a run, got a file of: network"
    ):
        trainer().fit(X, LABELS, resume=path, **OPTIONS)
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from portnet.estimators import MLPClassifier

    portnet.save(quietly(MLPClassifier((4,), max_iter=2).fit, X, LABELS), path)
    with pytest.raises(
        portnet.ModelFileError, match=r"net\.st: expected a run, got a file of: estimator"
    ):
        trainer().fit(X, LABELS, resume=path, **OPTIONS)


@pytest.mark.parametrize("state", [False, True])
def test_run_that_was_saved_is_no_checkpoint(state, tmp_path):
    path = tmp_path / "run.st"
    portnet.save(trainer().fit(X, LABELS, **OPTIONS), path, state=state)
    with pytest.raises(portnet.ModelFileError, match=r"run\.st: it is a run, but no checkpoint"):
        trainer().fit(X, LABELS, resume=path, **OPTIONS)


def test_resume_true_needs_a_checkpoint_and_begins_without_a_file(tmp_path):
    with pytest.raises(ValueError, match="resume=True goes on from the checkpoint"):
        trainer().fit(X, LABELS, resume=True, **OPTIONS)
    with pytest.raises(FileNotFoundError):
        trainer().fit(X, LABELS, resume=tmp_path / "none.st", **OPTIONS)
    run = trainer().fit(X, LABELS, resume=True, checkpoint=tmp_path / "none.st", **OPTIONS)
    assert run.epoch == 4


@pytest.mark.parametrize("what", ["run", "checkpoint"])
@pytest.mark.parametrize("value", [None, 3, [], {}, {"trainer": 1}, {"data": 1, "start": "x"}])
def test_hostile_descriptions_of_checkpoints_are_refused(what, value, path, tmp_path):
    def change(metadata):
        described = json.loads(metadata["portnet"])
        described[what] = value
        metadata["portnet"] = json.dumps(described)

    with open_container(path) as file:
        metadata = dict(file.metadata)
        tensors = file.read()
    metadata = {k: v for k, v in metadata.items() if k not in ("format", "crc32")}
    change(metadata)
    if what == "run":
        tensors = {}
    bad = tmp_path / "bad.st"
    bad.write_bytes(b"".join(pack(tensors, metadata)))
    with pytest.raises((portnet.ModelFileError, portnet.ResumeMismatchError)):
        trainer().fit(X, LABELS, resume=bad, **OPTIONS)


# What is not portnet's own ---------------------------------------------------------------------


class Memory(NamedTuple):
    """The state of `Heavy`."""

    steps: object


class Heavy:
    """SGD with a state of its own class."""

    def init(self, params):
        return Memory(portnet.tree.map(lambda p: 0 * p, params))

    def update(self, grads, state, params):
        state = Memory(portnet.tree.map(lambda v, g: 0.9 * v - 0.05 * g, state.steps, grads))
        return state.steps, state


class Scale:
    """A layer whose parameters are a named tuple."""

    def init(self, rng, n_in):
        return Memory(np.ones((1, n_in), np.float32)), n_in

    def forward(self, params, x, key=None):
        return x * params.steps, (x, params.steps)

    def backward(self, params, cache, dy):
        x, steps = cache
        return Memory((dy * x).sum(0)[None]), dy * steps


class Times:
    """A layer with an array that is not trained."""

    def __init__(self, factors):
        self.factors = factors

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        return x * self.factors, None

    def backward(self, params, cache, dy):
        return (), dy * self.factors


def test_arrays_and_numpy_numbers_of_a_trainer_are_compared_by_value(tmp_path):
    path = tmp_path / "run.st"

    def fit(factor=1.0, batch=16, **options):
        net = portnet.Chain(
            [portnet.Dense(8), Times(np.full(8, factor, np.float32)), portnet.Dense(3)]
        )
        t = trainer(model=net, batch_size=batch)
        return t.fit(X, LABELS, checkpoint=path, resume=True, **OPTIONS | options)

    fit(batch=np.int64(16), epochs=2)
    assert fit().epoch == 4
    with pytest.raises(portnet.ResumeMismatchError) as error:
        fit(2.0, np.int64(8))
    assert lines(error) == {"batch_size", "model.layers[1].factors.crc32"}


def spread(mean, target, weight):
    return (mean * mean).sum() / mean.shape[0]


def test_own_metrics_layers_and_states_resume_exactly(tmp_path):
    net = portnet.Chain([portnet.Dense(8), Scale(), portnet.Dense(3)])
    t = trainer(model=net, optimizer=Heavy())
    options = {"metrics": [spread, "accuracy"], "validation": 0.25}
    whole = t.fit(X, LABELS, epochs=4, **options)
    path = tmp_path / "run.st"
    t.fit(X, LABELS, epochs=2, checkpoint=path, **options)
    again = t.fit(X, LABELS, epochs=4, checkpoint=path, resume=True, **options)
    for a, b in zip(
        portnet.tree.leaves(whole.state), portnet.tree.leaves(again.state), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert whole.history == again.history
    assert type(again.state) is Memory


class Spread:
    """A metric that is an object."""

    def __call__(self, mean, target, weight):
        return spread(mean, target, weight)


@pytest.mark.parametrize("own", [spread, Spread()], ids=["function", "object"])
def test_metric_that_is_not_given_again_is_a_difference(own, tmp_path):
    path = tmp_path / "run.st"
    trainer().fit(X, LABELS, checkpoint=path, **OPTIONS | {"metrics": ["accuracy", own]})
    for metrics in (None, ["accuracy"], ["log_loss"]):
        with pytest.raises(
            portnet.ResumeMismatchError, match=r"Give metrics=.* functions of your own"
        ) as error:
            trainer().fit(OTHER, LABELS, resume=path, **OPTIONS | {"metrics": metrics})
        assert lines(error) == {"metrics", "data.X.crc32"}
    again = trainer().fit(X, LABELS, resume=path, **OPTIONS | {"metrics": ["accuracy", own]})
    assert again.epoch == 4


def test_what_cannot_be_written_is_an_error_before_training(tmp_path):
    path, made = tmp_path / "run.st", []
    loss = lambda pred, target, weight: ((pred * 0).sum(), pred * 0)  # noqa: E731
    with pytest.raises(TypeError, match=r"trainer\.loss: expected what has a name"):
        trainer(loss=loss).fit(X, LABELS, checkpoint=path, callbacks=[made.append])
    metric = lambda mean, target, weight: mean.sum()  # noqa: E731
    with pytest.raises(TypeError, match=r"metrics\.<lambda>: expected what has a name"):
        trainer().fit(X, LABELS, checkpoint=path, metrics=[metric], callbacks=[made.append])
    assert made == []
    assert list(tmp_path.iterdir()) == []


# A fit that has ended ----------------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
def test_resuming_a_fit_that_has_ended_changes_nothing(early, tmp_path):
    """The process may be killed after its last checkpoint."""
    stopping = portnet.EarlyStopping("loss", patience=2, min_change=9.0)
    options = OPTIONS | {"early_stopping": stopping if early else False, "epochs": 5}
    path, one, other = (str(tmp_path / name) for name in ("run.st", "one", "other"))
    run = trainer().fit(X, LABELS, checkpoint=path, **options)
    assert bool(run.stopped) == early
    portnet.save(run, one, state=True)
    before, steps = (tmp_path / "run.st").read_bytes(), []
    options |= {"checkpoint": path, "resume": True, "callbacks": [steps.append]}
    portnet.save(trainer().fit(X, LABELS, **options), other, state=True)
    assert differing(one, other) == []
    assert steps == []
    assert (tmp_path / "run.st").read_bytes() == before
