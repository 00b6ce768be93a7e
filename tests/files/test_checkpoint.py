"""Checkpoints: a fit that ended anywhere goes on as if it had not ended."""

import os
import shutil

import numpy as np
import pytest
from fits import LABELS, DiedError, X, assert_equal, assert_same_run, dies_after, trainer

import portnet
from portnet import tree
from portnet.files import checkpoint

NET = portnet.mlp([5, 8, 3], "gelu", norm="layer", dropout=0.1)
WATCHED = {
    "metrics": ["accuracy"],
    "validation": 0.2,
    "early_stopping": portnet.EarlyStopping(patience=50),
    "reduce_on_plateau": portnet.ReduceOnPlateau(patience=1, min_change=0.1),
}
# The best epoch has no checkpoint of its own if they are written after each 7 or 11 epochs.
RARE = {"validation": 0.2, "early_stopping": portnet.EarlyStopping(patience=100)}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.safetensors")


def fit(path=None, every=1, epochs=12, resume=None, options=WATCHED, **more):
    made = trainer(model=NET, optimizer=portnet.chain(portnet.ClipNorm(1.0), portnet.Adam(0.01)))
    files = {} if path is None else {"checkpoint": path, "every": every}
    return made.fit(X, LABELS, epochs=epochs, resume=resume, **files, **options, **more)


@pytest.mark.parametrize("options", [WATCHED, {}], ids=["watched", "alone"])
@pytest.mark.parametrize("every", [1, 3, "1 step", "2 steps", "7 steps", "1 epoch"])
@pytest.mark.parametrize("writes", [1, 3])
def test_fit_that_died_goes_on_exactly(options, every, writes, path, monkeypatch):
    expected = fit(options=options)
    with monkeypatch.context() as m:
        dies_after(m, writes)
        with pytest.raises(DiedError):
            fit(path, every, options=options)
    there = portnet.load(path)
    assert 0 < there.epoch * 6 + there.step < 12 * 6
    assert_same_run(fit(path, every, resume=True, options=options), expected)
    assert_same_run(fit(resume=path, options=options), expected)  # it has ended: nothing to do
    np.testing.assert_array_equal(fit(resume=path, options=options).predict(X), expected.predict(X))


def test_checkpoint_within_an_epoch_has_its_steps(path, monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "never")  # a compiled call makes many steps
    dies_after(monkeypatch, 2)
    with pytest.raises(DiedError):
        fit(path, "4 steps", options={})
    there = portnet.load(path)
    assert (there.epoch, there.step) == (1, 2)


def test_each_step_of_an_epoch_may_have_its_checkpoint(path, monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "never")
    dies_after(monkeypatch, 3)
    with pytest.raises(DiedError):
        fit(path, "1 step", options={})
    there = portnet.load(path)
    assert (there.epoch, there.step) == (0, 3)


def test_seconds_are_counted_on_a_clock_that_does_not_jump(path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    written = []
    whole = checkpoint.Writer.write
    monkeypatch.setattr(
        checkpoint.Writer,
        "write",
        lambda self, thing, *a, **k: written.append(thing.epoch) or whole(self, thing, *a, **k),
    )

    def later(report):
        now[0] += 4.0

    fit(path, "10 seconds", options={"callbacks": [later]})
    assert written == [3, 6, 9, 12, 12]  # the last one at the end, where nothing is new


def test_uninterrupted_fit_with_checkpoints_equals_one_without(path):
    assert_same_run(fit(path, "5 steps"), fit())
    assert portnet.load(path).epoch == 12


def test_resume_true_without_a_file_begins(path):
    assert_same_run(fit(path, resume=True), fit())


def test_resumed_fit_that_has_ended_early_stays_so(path):
    options = {"validation": 0.2, "early_stopping": portnet.EarlyStopping(patience=1)}
    expected = fit(path, epochs=60, options=options)
    assert expected.stopped.startswith("early stopping")
    again = fit(path, epochs=60, resume=True, options=options)
    assert (again.stopped, again.epoch) == (expected.stopped, expected.epoch)
    assert_same_run(again, expected)


def test_more_epochs_go_on_from_the_end(path):
    fit(path, epochs=5)
    assert_same_run(fit(path, epochs=12, resume=True), fit())


@pytest.mark.parametrize("early", [False, True])
def test_fewer_epochs_than_the_checkpoint_has_are_an_error(early, path, monkeypatch):
    options = {"early_stopping": portnet.EarlyStopping("loss", patience=1, min_change=9.0)}
    run = fit(path, epochs=6, options=options if early else {})
    given = {"options": options if early else {}}
    message = rf"epochs: .* after {run.epoch} epochs, which count, got epochs=1: give epochs="
    with pytest.raises(ValueError, match=message):
        fit(path, epochs=1, resume=True, **given)
    assert_same_run(fit(path, epochs=run.epoch, resume=True, **given), run)
    monkeypatch.setenv("PORTNET_NATIVE", "never")
    with monkeypatch.context() as m:
        dies_after(m, 2)
        with pytest.raises(DiedError):
            fit(path, "4 steps", options={})
    with pytest.raises(ValueError, match=r"after 1 epochs and 2 steps.* give epochs=2 or more"):
        fit(resume=path, epochs=1, options={})


def test_epochs_of_a_run_that_a_fit_began_with_do_not_count(path):
    run = fit(epochs=3, options={})
    made = run.trainer
    made.fit(X, LABELS, epochs=4, resume=run, checkpoint=path)
    assert made.fit(X, LABELS, epochs=4, resume=path).epoch == 7
    with pytest.raises(ValueError, match="after 4 epochs, which count, got epochs=3"):
        made.fit(X, LABELS, epochs=3, resume=path)
    os.unlink(path)
    run.fit(X, LABELS, epochs=2, checkpoint=path)
    assert_same_run(made.fit(X, LABELS, epochs=6, resume=path), made.fit(X, LABELS, epochs=9))


def test_run_of_a_checkpoint_continues_as_any_run(path):
    fit(path, epochs=5)
    run = portnet.load(path)
    assert_same_run(run.fit(X, LABELS, epochs=7, **WATCHED), fit().best)


def test_epochs_writes_checkpoints_too(path):
    made = trainer(model=NET)
    for run in made.epochs(X, LABELS, epochs=3, checkpoint=path):
        if run.epoch == 2:
            break
    assert portnet.load(path).epoch == 2
    expected = trainer(model=NET).fit(X, LABELS, epochs=3)
    assert_same_run(trainer(model=NET).fit(X, LABELS, epochs=3, resume=path), expected)


def test_lbfgs_goes_on_exactly(path, monkeypatch):
    def lbfgs(**more):
        made = trainer(model=portnet.mlp([5, 4, 3]), optimizer="lbfgs")
        return made.fit(X, LABELS, epochs=8, **more)

    expected = lbfgs()
    with monkeypatch.context() as m:
        dies_after(m, 3)
        with pytest.raises(DiedError):
            lbfgs(checkpoint=path)
    assert_same_run(lbfgs(resume=path), expected)


def test_last_and_best_checkpoints_are_kept(path, tmp_path):
    run = fit(path, keep=3, epochs=7)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "run-best.safetensors",
        "run-epoch-5.safetensors",
        "run-epoch-6.safetensors",
        "run.safetensors",
    ]
    epochs = [portnet.load(str(tmp_path / name)).epoch for name in names]
    assert epochs == [run.best_epoch, 5, 6, 7]


def assert_best(path, run, at):
    """Fail unless the checkpoint of an epoch is kept as the best one, and has the best epoch."""
    there = portnet.load(path.replace("run.", "run-best."))
    assert (there.epoch, there.best_epoch) == (at, run.best_epoch)
    assert_equal(there.best.params, run.best.params)


@pytest.mark.parametrize("every", [7, "25 steps", 11])
def test_best_is_the_first_checkpoint_after_the_best_epoch(every, path, monkeypatch):
    seen, write = {}, checkpoint.Writer.write

    def note(self, run, at, *args):
        seen.setdefault(run.best_epoch, at[0])
        write(self, run, at, *args)

    with monkeypatch.context() as m:
        m.setattr(checkpoint.Writer, "write", note)
        run = fit(path, every, epochs=41, keep=2, options=RARE)
    assert run.best_epoch not in seen.values()
    assert_best(path, run, seen[run.best_epoch])


@pytest.mark.parametrize("linked", [True, False])
def test_resumed_fit_keeps_the_best_of_an_epoch_before(linked, path, monkeypatch):
    expected = fit(epochs=41, options=RARE)
    first = -(-expected.best_epoch // 7) * 7
    with monkeypatch.context() as m:
        keep_best = checkpoint.Writer._keep_best
        if not linked:  # killed before
            m.setattr(
                checkpoint.Writer,
                "_keep_best",
                lambda self, best: best != expected.best_epoch and keep_best(self, best),
            )
        dies_after(m, first // 7 + linked)
        with pytest.raises(DiedError):
            fit(path, 7, epochs=41, keep=2, options=RARE)
    run = fit(path, 7, epochs=41, keep=2, resume=True, options=RARE)
    assert_same_run(run, expected)
    assert_best(path, run, first)


def names(folder):
    return sorted(p.name.removesuffix(".safetensors") for p in folder.iterdir())


@pytest.mark.parametrize("keep", [2, 3])
def test_checkpoints_of_an_earlier_fit_do_not_stay(keep, path, tmp_path, monkeypatch):
    fit(path, keep=3, epochs=9)
    assert names(tmp_path) == ["run", "run-best", "run-epoch-7", "run-epoch-8"]
    trainer(model=NET).fit(X, LABELS, epochs=1).save(tmp_path / "run-epoch-4.safetensors")
    (tmp_path / "run-epoch-3.safetensors").write_bytes(b"mine")
    seen, write = [], checkpoint.write_file

    def look(*args):
        seen.append(names(tmp_path))
        write(*args)

    with monkeypatch.context() as m:
        m.setattr(checkpoint, "write_file", look)
        fit(path, keep=keep, epochs=4, options={})
    # They were there until the first checkpoint of the new fit was, and those of others still are.
    assert "run-epoch-8" in seen[0]
    assert "run-best" in seen[0]
    assert "run-epoch-8" not in seen[1]
    kept = {2: ["run-epoch-3"], 3: ["run-epoch-2", "run-epoch-3"]}[keep]
    assert names(tmp_path) == sorted({"run", "run-epoch-3", "run-epoch-4", *kept})


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("resume", [False, True])
def test_copies_of_a_checkpoint_stay(keep, resume, path, tmp_path):
    fit(path, epochs=4)
    copies = [tmp_path / f"run-{end}.safetensors" for end in ("best", "epoch-2", "epoch-9")]
    for copy in copies:
        shutil.copy(path, copy)
    before = [copy.read_bytes() for copy in copies]
    options = WATCHED if resume else {}  # without early stopping, none is the best
    fit(path, keep=keep, epochs=6 if resume else 1, resume=resume, options=options)
    there = [copy.exists() and copy.read_bytes() for copy in copies]
    replaced = resume and keep > 1 and portnet.load(path).best_epoch > 4
    assert there[replaced:] == before[replaced:]


@pytest.mark.parametrize("resume", [False, True])
def test_fit_that_keeps_no_others_deletes_none(resume, path, tmp_path):
    fit(path, keep=3, epochs=4)
    fit(path, epochs=6, resume=resume)
    assert names(tmp_path) == ["run", "run-best", "run-epoch-2", "run-epoch-3"]


def test_fits_whose_names_look_like_older_checkpoints_leave_each_other_alone(path, tmp_path):
    others = "run-epoch-5", "run-best", "run-epoch-4"
    for other in others:
        fit(str(tmp_path / f"{other}.safetensors"), keep=2, epochs=3, options={})
    before = {name: (tmp_path / f"{name}.safetensors").read_bytes() for name in others}
    fit(path, keep=3, epochs=3, options={})
    fit(path, keep=3, epochs=3, resume=True, options={})
    assert {n: (tmp_path / f"{n}.safetensors").read_bytes() for n in others} == before


def test_checkpoints_of_an_earlier_fit_stay_where_the_new_one_writes_none(path, tmp_path):
    fit(path, keep=3, epochs=5)
    before = names(tmp_path)

    def fail(report):
        raise DiedError

    with pytest.raises(DiedError):
        fit(path, keep=3, every=3, options={"callbacks": [fail]})
    assert names(tmp_path) == before


def test_resume_true_where_only_an_older_checkpoint_is_left_is_an_error(path, tmp_path):
    expected = fit(path, keep=3, epochs=6, options={})
    os.unlink(path)
    before = names(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is not there, but .* resume='.*run-epoch-5\.saf"):
        fit(path, keep=3, epochs=6, resume=True, options={})
    assert names(tmp_path) == before
    older = tmp_path / "run-epoch-5.safetensors"
    assert_same_run(fit(path, keep=3, epochs=6, resume=older, options={}), expected)
    assert_same_run(fit(path, keep=3, epochs=6, resume=True, options={}), expected)


def test_fit_that_goes_on_from_an_older_checkpoint_keeps_that_one(path, tmp_path):
    expected = fit(path, keep=3, epochs=6, options={})
    older = tmp_path / "run-epoch-4.safetensors"
    again = fit(path, keep=2, epochs=6, resume=older, options={})
    assert_same_run(again, expected)
    assert names(tmp_path) == ["run", "run-epoch-4", "run-epoch-5"]


def test_fit_that_goes_on_deletes_later_ones_of_an_earlier_fit(path, tmp_path, monkeypatch):
    fit(path, keep=3, epochs=9, options={})
    with monkeypatch.context() as m:  # killed before they were deleted
        m.setattr(checkpoint.Writer, "_delete_earlier", lambda self: None)
        fit(path, keep=3, epochs=2, options={})
    assert names(tmp_path) == ["run", "run-epoch-1", "run-epoch-7", "run-epoch-8"]
    fit(path, keep=3, epochs=3, resume=True, options={})
    assert names(tmp_path) == ["run", "run-epoch-1", "run-epoch-2"]


def test_checkpoint_moves_between_backends(xp, path):
    x = xp.asarray(X.astype("float32"))
    made = trainer(model=portnet.mlp([5, 8, 3]))
    expected = made.fit(x, LABELS, epochs=4)
    made.fit(x, LABELS, epochs=2, checkpoint=path)
    assert_same_run(made.fit(x, LABELS, epochs=4, resume=path), expected)
    with portnet.use_backend("numpy", dtype=expected.backend.dtype):
        run = made.fit(X.astype("float32"), LABELS, epochs=4, resume=path)
    for p, q in zip(tree.leaves(run.params), tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(p, portnet.to_numpy(q), rtol=1e-3, atol=1e-4)


WRONG = {
    "every": [
        ({"every": 0}, "every"),
        ({"every": "often"}, "every: expected"),
        ({"every": 1.5}, "every: expected"),
    ],
    "keep": [({"keep": 0}, "keep"), ({"keep": "all"}, "keep")],
    "on_checkpoint_error": [({"on_checkpoint_error": "ignore"}, "'raise' or 'warn'")],
    "checkpoint": [({"checkpoint": 3}, "checkpoint: expected a path")],
}


@pytest.mark.parametrize("name", WRONG)
def test_options_that_cannot_be_used_are_errors(name, path):
    for options, message in WRONG[name]:
        with pytest.raises((TypeError, ValueError), match=message):
            trainer().fit(X, LABELS, **({"checkpoint": path} | options))
        assert not os.path.exists(path)
    with pytest.raises(ValueError, match="every, keep and on_checkpoint_error need checkpoint"):
        trainer().fit(X, LABELS, every=3)


def test_other_fit_is_refused_with_every_difference(path):
    fit(path)
    with pytest.raises(portnet.ResumeMismatchError) as error:
        trainer(model=NET, optimizer=portnet.SGD(0.2), batch_size=8).fit(
            X + 1, LABELS, epochs=12, resume=path, **WATCHED
        )
    assert 'optimizer: "Chained" in the checkpoint, "SGD" now' in str(error.value)
    assert "batch_size: 16 in the checkpoint, 8 now" in str(error.value)
    with pytest.raises(portnet.ResumeMismatchError) as error:
        fit(resume=path, options={**WATCHED, "validation": 0.3, "class_weight": {0: 2.0}})
    for part in ("options.validation: 0.2 in", "options.class_weight", "data.X.shape", "data.y"):
        assert part in str(error.value)
    with pytest.raises(portnet.ResumeMismatchError, match=r"data\.X\.crc32"):
        trainer(model=NET, optimizer=portnet.chain(portnet.ClipNorm(1.0), portnet.Adam(0.01))).fit(
            X * 2, LABELS, epochs=12, resume=path, **WATCHED
        )


def test_other_initial_parameters_are_a_difference(path):
    net = portnet.mlp([5, 8, 3])
    first, second = (portnet.init(net, seed=s, like=np.zeros(1, "float32")) for s in (1, 2))
    trainer(model=net, params=first).fit(X, LABELS, epochs=2, checkpoint=path)
    trainer(model=net, params=first).fit(X, LABELS, epochs=3, resume=path)
    with pytest.raises(portnet.ResumeMismatchError, match=r"options\.params"):
        trainer(model=net, params=second).fit(X, LABELS, epochs=3, resume=path)


def test_checkpoint_stays_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    fit("run.st", options={"callbacks": [lambda report: os.chdir(tmp_path / "other")]})
    assert portnet.load(tmp_path / "run.st").epoch == 12
    assert not list((tmp_path / "other").iterdir())


def test_other_files_are_no_checkpoints(path):
    net = portnet.mlp([5, 8, 3])
    portnet.save((net, portnet.init(net, like=X)), path)
    with pytest.raises(portnet.ModelFileError, match="expected a run, got a file of: network"):
        trainer().fit(X, LABELS, resume=path)
    trainer().fit(X, LABELS, epochs=1).save(path)
    with pytest.raises(portnet.ModelFileError, match="it is a run, but no checkpoint"):
        trainer().fit(X, LABELS, resume=path)
    with pytest.raises(FileNotFoundError):
        trainer().fit(X, LABELS, resume=path + "x")
