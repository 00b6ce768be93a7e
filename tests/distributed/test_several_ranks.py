"""Fits on several ranks, as threads: the same bits for any number, and the same decisions."""

import signal
import warnings

import numpy as np
import pytest
from worlds import ThreadCommunicator, World, of_all, on_ranks, sha

import portnet
import portnet.distributed
from portnet.engine.ranks import DistributedError, Ranks, current_ranks, is_first, set_ranks

SIZES = [1, 2, 3, 4, 8]


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(0)
    X = draw.normal(size=(333, 10))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


def network(dropout=0.2):
    return portnet.Chain(
        (portnet.Dense(16), portnet.ReLU(), portnet.Dropout(dropout), portnet.Dense(2))
    )


def fit(data, epochs=3, rows=None, **options):
    X, y = data
    own = {k: options.pop(k) for k in ("validation", "sample_weight", "metrics") if k in options}
    own |= {k: options.pop(k) for k in ("callbacks", "checkpoint", "resume") if k in options}
    own |= {k: options.pop(k) for k in ("early_stopping", "every") if k in options}
    options = {"loss": "softmax_cross_entropy", "batch_size": 64} | options
    trainer = portnet.Trainer(options.pop("model", network()), **options)
    return trainer.fit(X[:rows], y[:rows], epochs=epochs, **own)


class DoubledError:
    """A loss of a user: a mean over rows, without a reduction of its own."""

    def __call__(self, pred, target, weight=None):
        value, dpred = portnet.SquaredError()(pred, target, weight)
        return 2 * value, 2 * dpred


@pytest.mark.parametrize(
    "options",
    [
        {},  # the last batch has 13 rows
        {"compile": False},
        {"batch_size": 5},  # fewer rows than shards: some have none
        {"batch_size": None, "optimizer": portnet.Momentum(0.1)},
        {"rows": 3},
        {"rows": 1},
        {"shuffle": False, "optimizer": portnet.AdamW(only="W")},
        {"optimizer": portnet.chain(portnet.ClipNorm(0.1), portnet.SGD(0.1))},
        {"loss": portnet.SoftmaxCrossEntropy(reduction="sum"), "optimizer": portnet.SGD(1e-3)},
        {"sample_weight": np.where(np.arange(333) % 3 == 0, 0.0, np.arange(333) / 100)},
        {"validation": 0.2, "metrics": ["accuracy"], "early_stopping": True},
    ],
    ids=str,
)
def test_parameters_have_the_same_bits_on_any_number_of_ranks(data, options):
    alone = fit(data, **options)
    hashes, losses = set(), set()
    for size in SIZES:
        runs = of_all(size, lambda: fit(data, **options))
        hashes |= {sha(run.params) for run in runs} | {sha(runs[0].params)}
        losses |= {tuple(run.history["loss"]) for run in runs}
        assert len(runs) == size
    assert len(hashes) == 1
    assert len(losses) == 1
    # It is the training of one process alone, but for the rounding of sums.
    for a, b in zip(
        portnet.tree.leaves(alone.params), portnet.tree.leaves(runs[0].params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(alone.history["loss"], runs[0].history["loss"], rtol=1e-5)
    assert alone.epoch == runs[0].epoch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_regression_with_a_loss_of_the_users_own(data, dtype):
    X, _ = data

    def regress():
        with portnet.use_backend("numpy", dtype=dtype):
            trainer = portnet.Trainer(
                portnet.mlp([10, 8, 2], "tanh"), DoubledError(), batch_size=32
            )
            return trainer.fit(X, X[:, :2] ** 2, epochs=3)

    alone = regress()
    hashes = {sha(run.params) for size in SIZES for run in of_all(size, regress)}
    assert len(hashes) == 1
    (run, *_) = of_all(2, regress)
    for a, b in zip(
        portnet.tree.leaves(alone.params), portnet.tree.leaves(run.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-6)


class MeanOfWeighted:
    """A loss of a user that divides by the weights of its rows, which may all be 0 in a shard."""

    def __call__(self, pred, target, weight=None):
        xp = portnet.namespace(pred)
        w = xp.expand_dims(weight / xp.sum(weight), axis=-1)
        return xp.sum(w * (pred - target) ** 2) / 2, w * (pred - target)


def test_a_shard_whose_weights_are_all_0_adds_nothing(data):
    X, _ = data
    weight = np.where(np.arange(333) < 60, 0.0, 1.0)  # of batches of 64 rows, shards of 8

    def regress():
        trainer = portnet.Trainer(
            portnet.mlp([10, 1]), MeanOfWeighted(), batch_size=64, shuffle=False
        )
        return trainer.fit(X, X[:, 0], epochs=2, sample_weight=weight)

    alone, (run, _) = regress(), of_all(2, regress)
    for a, b in zip(
        portnet.tree.leaves(alone.params), portnet.tree.leaves(run.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_other_shards_round_differently(data):
    hashes = {sha(of_all(2, lambda: fit(data), shards=s)[0].params) for s in (1, 8, 32)}
    assert len(hashes) == 3


@pytest.mark.parametrize("size", [2, 3])
def test_plain_all_reduce_is_within_rounding(data, size):
    one = fit(data, optimizer=portnet.SGD(0.1))
    runs = of_all(size, lambda: fit(data, optimizer=portnet.SGD(0.1)), deterministic=False)
    assert len({sha(run.params) for run in runs}) == 1
    for a, b in zip(
        portnet.tree.leaves(one.params), portnet.tree.leaves(runs[0].params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_a_step_exchanges_one_vector(data):
    def count():
        fit(data, epochs=2)
        return current_ranks().communicator.calls

    calls = of_all(2, count)[0]
    steps = 2 * 6
    assert (calls["exchange"], calls["gather"], calls["allreduce"]) == (steps, steps, 0)
    assert calls["allgather"] < steps
    calls = of_all(2, count, deterministic=False)[0]
    assert (calls["exchange"], calls["gather"], calls["allreduce"]) == (0, 0, steps)


def test_machine_code_has_the_same_bits(data, monkeypatch):
    pytest.importorskip("llvmlite")
    first = sha(of_all(2, lambda: fit(data))[0].params)
    monkeypatch.setenv("PORTNET_NATIVE", "always")
    assert {sha(run.params) for run in of_all(3, lambda: fit(data))} == {first}


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_arrays_of_other_libraries_go_through_the_host(data, name):
    pytest.importorskip(name)
    X, y = data

    def trained():
        with portnet.use_backend(name, device="cpu"):
            return fit((X, y), epochs=2, batch_size=100, rows=200)

    runs = {size: of_all(size, trained, shards=4) for size in (1, 2, 3)}
    assert len({sha(run.params) for found in runs.values() for run in found}) == 1
    numpy_run = of_all(2, lambda: fit(data, epochs=2, batch_size=100, rows=200), shards=4)[0]
    for a, b in zip(
        portnet.tree.leaves(numpy_run.params), portnet.tree.leaves(runs[2][0].params), strict=True
    ):
        np.testing.assert_allclose(a, portnet.to_numpy(b), rtol=1e-4, atol=1e-5)


# Errors -----------------------------------------------------------------------------------------


class Breaks(type(portnet.ReLU())):
    """A layer that raises on one rank, in its 50th forward pass."""

    def __init__(self, rank):
        object.__setattr__(self, "calls", [])
        object.__setattr__(self, "rank", rank)

    def forward(self, params, x, key=None):
        self.calls.append(1)
        if current_ranks().rank == self.rank and len(self.calls) >= 50:
            raise RuntimeError("the layer broke")
        return super().forward(params, x, key)


def test_an_error_in_a_step_is_raised_on_all_ranks(data):
    def broken():
        model = portnet.Chain((portnet.Dense(4), Breaks(1), portnet.Dense(2)))
        return fit(data, epochs=20, model=model, compile=False)

    errors = on_ranks(3, broken)
    assert [type(e) for e in errors] == [DistributedError] * 3
    assert {str(e) for e in errors} == {"rank 1: RuntimeError: the layer broke"}
    assert {e.rank for e in errors} == {1}
    assert isinstance(errors[1].__cause__, RuntimeError)


def test_an_error_in_a_callback_is_raised_on_all_ranks(data):
    def call(report):
        if current_ranks().rank == 2 and report.epoch == 2:
            raise KeyError("lost")

    errors = on_ranks(3, lambda: fit(data, epochs=4, callbacks=[call]))
    assert [str(e) for e in errors] == ["rank 2: KeyError: 'lost'"] * 3
    assert isinstance(errors[2].__cause__, KeyError)


def test_an_error_of_all_ranks_is_that_of_one_process_alone(data):
    errors = on_ranks(2, lambda: fit(data, epochs=-1))
    assert [type(e) for e in errors] == [ValueError] * 2
    with pytest.raises(ValueError, match="epochs") as alone:
        fit(data, epochs=-1)
    assert {str(e) for e in errors} == {str(alone.value)}


def test_divergence_is_found_on_all_ranks_in_the_same_step(data):
    errors = on_ranks(3, lambda: fit(data, optimizer=portnet.SGD(1e30), epochs=5))
    assert [type(e) for e in errors] == [portnet.DivergenceError] * 3
    assert len({str(e) for e in errors}) == 1


def test_bad_data_of_one_rank_is_named(data):
    X, y = data

    def one_nan(rank):
        mine = X.copy()
        if rank == 1:
            mine[5, 3] = np.nan
        return fit((mine, y))

    errors = on_ranks(2, one_nan)
    assert [type(e) for e in errors] == [DistributedError] * 2
    assert str(errors[0]) == "rank 1: DataError: X contains NaN at row 5, column 3"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed: 0 on rank 0, 1 on rank 2"),
        ({"batch_size": 32}, "batch_size: 64 on rank 0, 32 on rank 2"),
        ({"rows": 332}, "data.X.shape[0]: 333 on rank 0, 332 on rank 2"),
        ({"epochs": 5}, "epochs: 3 on rank 0, 5 on rank 2"),
        ({"optimizer": portnet.SGD(0.1)}, "optimizer: "),
        ({"metrics": ["accuracy"]}, "metrics: "),
        ({"validation": 0.1}, "options.validation: null on rank 0, 0.1 on rank 2"),
        ({"model": network(0.3)}, "model.layers"),
    ],
    ids=str,
)
def test_ranks_with_other_settings_do_not_start(data, change, words):
    seen = []

    def different(rank):
        call = [lambda report: seen.append(report.epoch)]
        return fit(data, callbacks=call, **(change if rank == 2 else {}))

    errors = on_ranks(3, different)
    assert [type(e) for e in errors] == [DistributedError] * 3
    for error in errors:
        assert words in str(error), error
        assert "on rank 1," not in str(error)
    assert not seen


def test_ranks_with_other_values_or_versions_do_not_start(data, monkeypatch):
    X, y = data
    errors = on_ranks(2, lambda rank: fit((X + 0.5 * rank, y)))
    assert all("data.X.crc32: " in str(e) for e in errors)
    before = portnet.engine.rank_checks._versions
    monkeypatch.setattr(
        portnet.engine.rank_checks,
        "_versions",
        lambda: before() | {"NumPy": f"2.{current_ranks().rank}"},
    )
    errors = on_ranks(2, lambda: fit(data))
    assert all('versions.NumPy: "2.0" on rank 0, "2.1" on rank 1' in str(e) for e in errors)


def test_other_parameters_after_the_same_steps_are_an_error(data):
    def spoils(report):
        if current_ranks().rank == 1:
            portnet.tree.leaves(report.run.params)[0][0, 0] += 1

    errors = on_ranks(2, lambda: fit(data, epochs=1, callbacks=[spoils]))
    assert [type(e) for e in errors] == [DistributedError] * 2
    assert "rank 1 has other parameters than rank 0" in str(errors[0])


@pytest.mark.parametrize("shards", [0, 3, -8, 2.0, True, "8"])
def test_shards_are_a_power_of_two(shards):
    with pytest.raises(ValueError, match="shards: expected a power of two, such as 8, got"):
        Ranks(ThreadCommunicator(World(1), 0), shards)


# Decisions --------------------------------------------------------------------------------------


def test_a_callback_of_one_rank_stops_all(data):
    def call(report):
        return current_ranks().rank == 1 and report.epoch == 2

    runs = of_all(3, lambda: fit(data, epochs=5, callbacks=[call]))
    assert [run.epoch for run in runs] == [2] * 3
    assert {run.stopped for run in runs} == {"stopped by callback call"}


def test_a_signal_of_one_rank_ends_all_after_the_same_step(data):
    def call(report):
        ranks = current_ranks()
        if ranks.rank == 1 and report.epoch == 2:
            ranks.received.append(signal.SIGINT)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = of_all(3, lambda: fit(data, epochs=5, callbacks=[call]))
    assert {(run.epoch, run.step) for run in runs} == {(2, 0)}
    assert all(run.stopped.startswith("interrupted after epoch 2") for run in runs)
    more = of_all(2, lambda: runs[0].fit(*data, epochs=3))
    assert sha(more[0].params) == sha(of_all(1, lambda: fit(data, epochs=5))[0].params)


def test_an_interrupt_in_a_callback_of_one_rank_is_that_of_all(data):
    def call(report):
        if current_ranks().rank == 1 and report.epoch == 2:
            raise KeyboardInterrupt

    def stops(report):  # one that only other ranks come to
        return report.epoch == 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = of_all(3, lambda: fit(data, epochs=5, callbacks=[call, stops]))
    assert {(run.epoch, run.step) for run in runs} == {(2, 0)}
    assert {run.stopped.partition(":")[0] for run in runs} == {"interrupted after epoch 2"}
    assert len({sha(run.params) for run in runs}) == 1
    more = of_all(2, lambda: runs[2].fit(*data, epochs=3))
    assert sha(more[0].params) == sha(of_all(1, lambda: fit(data, epochs=5))[0].params)


def test_an_interrupt_in_a_metric_of_one_rank_is_that_of_all(data):
    calls = [0, 0]

    def metric(mean, target, weight):
        calls[current_ranks().rank] += 1
        if current_ranks().rank == 1 and calls[1] == 3:
            raise KeyboardInterrupt
        return portnet.namespace(mean).mean(mean)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = of_all(2, lambda: fit(data, epochs=5, metrics=[metric]))
    assert len({(run.epoch, run.step) for run in runs}) == 1
    assert all(run.stopped.startswith("interrupted after epoch ") for run in runs)
    assert len({sha(run.params) for run in runs}) == 1


class Interrupts(type(portnet.ReLU())):
    """A layer that raises KeyboardInterrupt on rank 1, in its 60th forward pass."""

    def __init__(self):
        object.__setattr__(self, "calls", [])

    def forward(self, params, x, key=None):
        self.calls.append(1)
        if current_ranks().rank == 1 and len(self.calls) == 60:
            raise KeyboardInterrupt
        return super().forward(params, x, key)


def test_an_interrupt_within_a_step_of_one_rank_is_that_of_all(data):
    def interrupted():
        model = portnet.Chain((portnet.Dense(4), Interrupts(), portnet.Dense(2)))
        return fit(data, epochs=20, model=model, compile=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = of_all(3, interrupted)
    assert len({(run.epoch, run.step) for run in runs}) == 1
    assert all(run.stopped.startswith("interrupted after epoch ") for run in runs)
    assert len({sha(run.params) for run in runs}) == 1


def test_an_error_beside_an_interrupt_is_the_cause_on_all_ranks(data):
    def call(report):
        if current_ranks().rank == 0:
            raise KeyboardInterrupt
        if current_ranks().rank == 2:
            raise KeyError("lost")

    errors = on_ranks(3, lambda: fit(data, callbacks=[call]))
    assert [str(e) for e in errors] == ["rank 2: KeyError: 'lost'"] * 3
    assert {e.rank for e in errors} == {2}


def test_a_signal_within_an_epoch_ends_all_after_the_same_step(data):
    class Signals(type(portnet.ReLU())):
        def __init__(self):
            object.__setattr__(self, "calls", [])

        def forward(self, params, x, key=None):
            self.calls.append(1)
            ranks = current_ranks()
            if ranks and ranks.rank == 1 and len(self.calls) == 14:
                ranks.received.append(signal.SIGINT)
            return super().forward(params, x, key)

    def interrupted():
        model = portnet.Chain((portnet.Dense(4), Signals(), portnet.Dense(2)))
        return fit(data, epochs=3, model=model, compile=False, shuffle=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = of_all(2, interrupted)
    assert len({(run.epoch, run.step) for run in runs}) == 1
    assert runs[0].step > 0
    assert len({sha(run.params) for run in runs}) == 1


def test_only_rank_0_prints_and_writes(data, tmp_path, capsys):
    def trained():
        trainer = portnet.Trainer(network(), "softmax_cross_entropy")
        return trainer.fit(*data, epochs=2, verbose=True, checkpoint=tmp_path / "a")

    of_all(3, trained)
    assert capsys.readouterr().out.count("epoch 1/2") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, "4 steps"])
def test_a_fit_resumes_on_another_number_of_ranks(data, tmp_path, every):
    path = tmp_path / "run"
    whole = of_all(1, lambda: fit(data, epochs=6))[0]

    class Ends(Exception):  # noqa: N818
        pass

    def ends(report):
        if report.epoch == 2 * current_ranks().size - 2:  # 2 on 2 ranks, 4 on 3
            raise Ends

    def part(callbacks=()):
        return fit(data, epochs=6, checkpoint=path, every=every, resume=True, callbacks=callbacks)

    for size in (2, 3):
        errors = on_ranks(size, lambda: part([ends]))
        assert [type(e) for e in errors] == [Ends] * size
    assert portnet.load(path).epoch == 3
    runs = of_all(1, lambda: part())
    assert sha(runs[0].params) == sha(whole.params)
    assert runs[0].history == whole.history


def test_a_checkpoint_knows_its_shards(data, tmp_path):
    path = tmp_path / "run"
    of_all(2, lambda: fit(data, checkpoint=path))
    message = "distributed.shards: 8 in the checkpoint, 4 now"
    errors = on_ranks(2, lambda: fit(data, epochs=4, resume=path), shards=4)
    assert all(message in str(e) and isinstance(e, portnet.ResumeMismatchError) for e in errors)
    assert all("python -m portnet.distributed --shards N goes on" in str(e) for e in errors)
    (error,) = on_ranks(1, lambda: fit(data, epochs=4, resume=path), deterministic=False)
    assert "distributed.deterministic: true in the checkpoint, false now" in str(error)


@pytest.mark.parametrize("shards", [8, 2])
@pytest.mark.parametrize("every", [1, "4 steps"])
def test_one_process_goes_on_from_a_checkpoint_of_ranks(data, tmp_path, every, shards):
    """With the same bits, without being told of shards; in fit and in epochs, and on ranks again."""
    path = tmp_path / "run"
    whole = of_all(1, lambda: fit(data, epochs=6), shards=shards)[0]

    class Ends(Exception):  # noqa: N818
        pass

    def ends(report):
        if report.epoch == 3:
            raise Ends

    def part(epochs, **options):
        return fit(data, epochs=epochs, checkpoint=path, every=every, resume=True, **options)

    on_ranks(2, lambda: part(6, callbacks=[ends]), shards=shards)
    before = path.read_bytes()
    run = part(4)
    assert current_ranks() is None
    assert run.epoch == 4
    assert sha(of_all(3, lambda: part(6), shards=shards)[0].params) == sha(whole.params)
    path.write_bytes(before)
    assert sha(part(6).params) == sha(whole.params)
    path.write_bytes(before)
    trainer = portnet.Trainer(network(), "softmax_cross_entropy", batch_size=64)
    for run in trainer.epochs(*data, epochs=6, resume=path):
        assert current_ranks() is None  # within the loop of the caller
        assert run.epoch > 1
        with portnet.use_backend("numpy", dtype="float64"):
            other = portnet.Trainer(portnet.mlp([10, 2]), "softmax_cross_entropy").fit(*data)
        assert portnet.tree.leaves(other.params)[0].dtype == np.float64
    assert sha(run.params) == sha(whole.params)
    assert run.history == whole.history


def test_one_process_goes_on_from_ranks_without_shards(data, tmp_path):
    path = tmp_path / "run"
    of_all(2, lambda: fit(data, checkpoint=path), deterministic=False)
    run = fit(data, epochs=5, resume=path)
    whole = fit(data, epochs=5)
    for a, b in zip(
        portnet.tree.leaves(run.params), portnet.tree.leaves(whole.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_one_process_does_not_go_on_with_shards(data, tmp_path):
    path = tmp_path / "run"
    fit(data, checkpoint=path)
    errors = on_ranks(2, lambda: fit(data, epochs=4, resume=path))
    assert [type(e) for e in errors] == [portnet.ResumeMismatchError] * 2
    assert "distributed: null in the checkpoint" in str(errors[0])
    assert "without portnet.distributed, python goes on" in str(errors[0])


@pytest.mark.parametrize(
    "sums", [None, 7, {}, {"shards": 3}, {"shards": 1 << 40}, {"shards": "8"}, {"shards": True}]
)
def test_a_checkpoint_with_impossible_shards_is_refused(data, tmp_path, monkeypatch, sums):
    from portnet.files import checkpoint

    path = tmp_path / "run"
    of_all(2, lambda: fit(data, checkpoint=path))
    found = {"distributed": {"deterministic": True, **sums} if isinstance(sums, dict) else sums}
    real = checkpoint._checkpoint_of(path)
    monkeypatch.setattr(checkpoint, "_checkpoint_of", lambda path: real | found)
    assert checkpoint.sums_of(path) is None
    with pytest.raises(portnet.ResumeMismatchError, match="distributed"):
        fit(data, epochs=4, resume=path)


def test_a_checkpoint_that_one_rank_cannot_write_ends_all(data, tmp_path):
    path = tmp_path / "run"

    def breaks(report):
        if is_first() and report.epoch == 2:
            path.unlink()
            path.mkdir()

    def trained():
        return fit(data, epochs=4, checkpoint=path, callbacks=[breaks])

    errors = on_ranks(2, trained)
    assert [type(e) for e in errors] == [DistributedError] * 2
    assert str(errors[1]).startswith("rank 0: CheckpointError: ")
    assert isinstance(errors[0].__cause__, portnet.CheckpointError)


def test_a_checkpoint_within_an_epoch_that_cannot_be_written_ends_all(data, tmp_path, monkeypatch):
    from portnet.files import checkpoint

    write = checkpoint.Writer.write

    def fails(self, run, at, *more):
        if at[1]:
            raise portnet.CheckpointError("no space")
        return write(self, run, at, *more)

    monkeypatch.setattr(checkpoint.Writer, "write", fails)
    errors = on_ranks(2, lambda: fit(data, checkpoint=tmp_path / "run", every="4 steps"))
    assert [str(e) for e in errors] == ["rank 0: CheckpointError: no space"] * 2


# Estimators -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_stopping": True},
        {"solver": "sgd", "learning_rate": "adaptive", "alpha": 0.1},
        {"solver": "lbfgs"},
        {"batch_size": 7, "alpha": 0},
        {"compile": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_estimators_have_the_same_bits_on_any_number_of_ranks(data, options, weighted):
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")
    X, y = data
    weight = np.where(y == 1, np.arange(len(y)) / 100, 1.0) if weighted else None

    def trained():
        model = portnet.MLPClassifier((12,), max_iter=8, random_state=0, **options)
        model.fit(X, y, sample_weight=weight)
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = trained()
        models = {size: of_all(size, trained) for size in SIZES}
    hashes = {sha([m.coefs_, m.intercepts_]) for found in models.values() for m in found}
    assert len(hashes) == 1
    for a, b in zip(alone.coefs_, models[2][0].coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    assert models[3][1].n_iter_ == alone.n_iter_


def test_partial_fit_and_sparse_rows(data):
    sparse = pytest.importorskip("scipy.sparse")
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")
    X, y = data

    def trained():
        model = portnet.MLPClassifier((12,), random_state=0)
        for k in range(3):
            rows = slice(100 * k, 100 * k + 100)
            model.partial_fit(sparse.csr_matrix(X[rows] * (X[rows] > 1)), y[rows], classes=[0, 1])
        return model

    models = [m for size in SIZES for m in of_all(size, trained)]
    assert len({sha([m.coefs_, m.intercepts_]) for m in models}) == 1


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("max_iter", "max_iter: 3 on rank 0, 4 on rank 1"),
        ("checkpoint", "checkpoint: false on rank 0, true on rank 1"),
        ("method", 'method: "fit" on rank 0, "partial_fit" on rank 1'),
        ("classes", "classes[1]: \"'c'\" on rank 0, \"'b'\" on rank 1"),
        ("generator", "generator."),
        ("optimizer", "state of the optimizer: "),
    ],
)
def test_estimators_that_differ_do_not_start(data, tmp_path, what, words):
    """Each of these would make ranks wait for each other for ever, or other models."""
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")
    X, y = data

    def trained(rank):
        other = {what} if rank else set()
        labels = np.array(["a", "b" if "classes" in other else "c"])[y]
        model = portnet.MLPClassifier((4,), max_iter=3 + ("max_iter" in other), random_state=0)
        if what in ("method", "optimizer"):
            model.max_iter = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if what == "generator":
                model.set_params(warm_start=True, random_state=np.random.RandomState(0))
                model.fit(X, labels)
                model.random_state.rand(rank)
            elif what == "optimizer":
                model.partial_fit(X, labels, classes=["a", "c"])
                m = portnet.tree.leaves(model._optimizer.state)[-1]
                m += rank
                return model.partial_fit(X, labels)
            elif "method" in other:
                return model.partial_fit(X, labels, classes=["a", "c"])
            return model.fit(
                X, labels, checkpoint=tmp_path / "m" if "checkpoint" in other else None
            )

    errors = on_ranks(2, trained)
    assert [type(e) for e in errors] == [DistributedError] * 2, errors
    assert words in str(errors[0])


def test_ranks_with_other_names_do_not_start(data):
    """The numbers are the same; what the model says of them would not be."""
    X, y = data
    pandas = pytest.importorskip("pandas", reason="frames have names")

    def names(rank):
        return fit((X, np.array(["a", "b" if rank else "c"])[y]))

    def columns(rank):
        return fit((pandas.DataFrame(X, columns=[f"c{k + rank}" for k in range(10)]), y))

    for differs, words in ((names, "classes[1]: "), (columns, "feature_names[0]: ")):
        errors = on_ranks(2, differs)
        assert [type(e) for e in errors] == [DistributedError] * 2
        assert words in str(errors[0])


def test_ranks_with_another_state_of_the_optimizer_do_not_start(data):
    (before,) = of_all(1, lambda: fit(data))

    def goes_on(rank):
        state = portnet.tree.map(lambda a: a + rank, before.state)
        from dataclasses import replace

        return replace(before, state=state).fit(*data, epochs=1)

    errors = on_ranks(2, goes_on)
    assert [type(e) for e in errors] == [DistributedError] * 2
    assert "state of the optimizer: " in str(errors[0])


def test_an_estimator_without_a_seed_is_refused(data):
    """The launcher gives all ranks one global seed; here each rank has its own generator."""
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")
    X, y = data

    def trained(rank):
        return portnet.MLPClassifier((3,), random_state=rank, max_iter=2).fit(X, y)

    errors = on_ranks(2, trained)
    assert [type(e) for e in errors] == [DistributedError] * 2
    assert "options.random_state: 0 on rank 0, 1 on rank 1" in str(errors[0])


def test_estimators_resume_on_another_number_of_ranks(data, tmp_path):
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")
    X, y = data
    path = tmp_path / "model"

    def trained(most, **files):
        return portnet.MLPClassifier((12,), random_state=0, max_iter=most).fit(X, y, **files)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = of_all(1, lambda: trained(9))[0]
        of_all(2, lambda: trained(3, checkpoint=path))
        of_all(3, lambda: trained(6, checkpoint=path, resume=True))
        last = of_all(4, lambda: trained(9, checkpoint=path, resume=True))
    assert {sha([m.coefs_, m.intercepts_]) for m in last} == {
        sha([whole.coefs_, whole.intercepts_])
    }


def test_one_process_goes_on_from_estimators_of_ranks(data, tmp_path):
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")
    path = tmp_path / "model"

    def trained(most, **files):
        return portnet.MLPClassifier((12,), random_state=0, max_iter=most).fit(*data, **files)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = of_all(1, lambda: trained(9))[0]
        of_all(2, lambda: trained(4, checkpoint=path))
        last = trained(9, checkpoint=path, resume=True)
    assert sha([last.coefs_, last.intercepts_]) == sha([whole.coefs_, whole.intercepts_])


# One process alone ------------------------------------------------------------------------------


def test_threads_of_one_process_have_ranks_of_their_own():
    assert current_ranks() is None
    assert sorted(of_all(3, lambda: current_ranks().rank)) == [0, 1, 2]
    assert current_ranks() is None
    assert is_first()


def test_rank_and_size_of_a_process_alone():
    assert (portnet.distributed.rank(), portnet.distributed.size()) == (0, 1)
    found = of_all(2, lambda: (portnet.distributed.rank(), portnet.distributed.size()))
    assert found == [(0, 2), (1, 2)]
    set_ranks(None)


def test_l_bfgs_trains_on_all_rows_everywhere_and_warns(data):
    X, _ = data
    trainer = portnet.Trainer(portnet.mlp([10, 1]), "squared_error", "lbfgs")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = of_all(2, lambda: trainer.fit(X, X[:, 0], epochs=3))
    assert any("L-BFGS is not distributed" in str(w.message) for w in caught)
    assert (
        sha(runs[0].params) == sha(runs[1].params) == sha(trainer.fit(X, X[:, 0], epochs=3).params)
    )


def test_ranks_that_read_files_in_different_orders_do_not_start(data, monkeypatch):
    """The same rows, in chunks on one of the ranks."""
    from sources import Sliced

    from portnet.data.sources import order, reading

    monkeypatch.setattr(reading, "SMALL", 0)  # nothing is read as a whole
    monkeypatch.setattr(order, "BLOCK", 8 * 80)
    monkeypatch.setattr(order, "WINDOW", 1 << 10)
    X, y = data

    def train(rank):
        source = Sliced(X, chunks=(24, X.shape[1]) if rank else None)
        return portnet.Trainer(network(), "softmax_cross_entropy", batch_size=16).fit(source, y)

    found = on_ranks(2, train)
    assert [type(error) for error in found] == [DistributedError] * 2, found
    assert "order: " in str(found[0])


def test_ranks_train_from_a_file_that_is_read_in_windows(data, tmp_path, monkeypatch):
    """The order of a file's rows does not depend on ranks, nor do the bits; NaN ends all ranks."""
    from portnet.data.sources import order, reading

    monkeypatch.setattr(reading, "SMALL", 0)  # nothing is read as a whole
    monkeypatch.setattr(order, "BLOCK", 8 * 80)
    monkeypatch.setattr(order, "WINDOW", 1 << 10)
    X, y = data
    np.save(tmp_path / "X.npy", X)

    def from_file(weight=None):
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        trainer = portnet.Trainer(network(), "softmax_cross_entropy", batch_size=16)
        return trainer.fit(mapped, y, epochs=2, validation=0.2, sample_weight=weight)

    for weight in (None, np.arange(333) / 100):
        alone = from_file(weight)
        runs = [of_all(size, lambda rank, w=weight: from_file(w)) for size in SIZES]
        assert len({sha(run.params) for several in runs for run in several}) == 1
        run = runs[1][0]
        np.testing.assert_allclose(alone.history["loss"], run.history["loss"], rtol=1e-5)
        np.testing.assert_allclose(
            alone.history["validation_loss"], run.history["validation_loss"], rtol=1e-4
        )
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r+")
    mapped[300, 4] = np.nan
    mapped.flush()
    with pytest.raises(portnet.DataError, match="NaN at row 300, column 4"):
        of_all(2, lambda: from_file())


def test_losses_and_schedules_without_a_name_are_compared_by_their_code(data):
    """A lambda cannot be written into a file, but ranks can train with it."""
    squared = portnet.SquaredError()

    def regress(rank, factor=2.0, rate=0.1):
        loss = eval(
            f"lambda p, t, w=None: [{factor} * a for a in squared(p, t, w)]", {"squared": squared}
        )
        lr = eval(f"lambda t: {rate} / (1 + t)")
        trainer = portnet.Trainer(network(), loss, portnet.SGD(lr), batch_size=64)
        return trainer.fit(data[0], data[0][:, :2], epochs=2)

    hashes = {sha(run.params) for n in (1, 2, 3) for run in of_all(n, lambda r: regress(r))}
    assert len(hashes) == 1
    for other, what in (({"factor": 3.0}, "loss"), ({"rate": 0.2}, "optimizer")):
        found = on_ranks(2, lambda r, o=other: regress(r, **(o if r else {})))
        assert all(isinstance(error, portnet.distributed.DistributedError) for error in found), (
            found
        )
        assert what in str(found[0])


def test_functions_of_one_name_are_compared_by_their_code_and_what_they_hold(data):
    """As where a script on one machine is older: the name of a loss is the same."""

    def regress(rank, text, factor):
        found = {"squared": portnet.SquaredError(), "__name__": "__main__"}
        exec(
            f"def loss(p, t, w=None, n={factor}): return [{text} * a for a in squared(p, t, w)]",
            found,
        )
        trainer = portnet.Trainer(network(), found["loss"], portnet.SGD(0.1), batch_size=64)
        return trainer.fit(data[0], data[0][:, :2], epochs=1)

    of_all(2, lambda r: regress(r, "2", 1))
    for a, b in ((("2", 1), ("3", 1)), (("n", 1), ("n", 2))):
        found = on_ranks(2, lambda r, both=(a, b): regress(r, *both[r]))
        assert [type(error) for error in found] == [DistributedError] * 2
        assert "loss.code: " in str(found[1])


def test_estimators_of_the_users_own_are_compared_by_their_code(data):
    """A subclass with a loss of its own, given as a lambda, or in a method."""
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")

    def regress(text, inside):
        found = {"Base": portnet.MLPRegressor, "squared": portnet.SquaredError(), "__name__": "m"}
        exec(
            f"""
class Own(Base):
    _parameter_constraints = {{**Base._parameter_constraints, "factor": "no_validation"}}
    def __init__(self, factor=None, max_iter=3, random_state=0):
        super().__init__(hidden_layer_sizes=(4,), max_iter=max_iter, random_state=random_state)
        self.factor = factor
    def _loss_and_activation(self):
        scale = lambda a: {inside} * self.factor(a)
        return lambda p, t, w=None: [scale(a) for a in squared(p, t, w)], "identity"
model = Own(lambda a: {text} * a)
""",
            found,
        )
        return found["model"].fit(data[0], data[0][:, 0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [m for n in (1, 2, 3) for m in of_all(n, lambda: regress("2", "1"))]
        assert len({sha(m.coefs_) for m in models}) == 1
        for other, what in ((("3", "1"), "factor"), (("2", "5"), "estimator.code")):
            found = on_ranks(2, lambda r, o=other: regress(*(o if r else ("2", "1"))))
            assert [type(error) for error in found] == [DistributedError] * 2, found
            assert what in str(found[0])


def test_batches_of_a_program_are_refused_on_several_ranks(data):
    def fit_batches():
        trainer = portnet.Trainer(network(), "softmax_cross_entropy")
        return trainer.fit_batches(lambda: iter([data]), epochs=1)

    (run,) = of_all(1, fit_batches)
    assert run.epoch == 1
    with pytest.raises(ValueError, match="2 ranks cannot share batches that a program makes"):
        of_all(2, fit_batches)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("early_stopping", [False, True])
def test_estimators_train_from_a_file_on_several_ranks(data, early_stopping, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from portnet.data.sources import order, reading

    monkeypatch.setattr(reading, "SMALL", 0)  # nothing is read as a whole
    monkeypatch.setattr(order, "BLOCK", 8 * 80)
    monkeypatch.setattr(order, "WINDOW", 1 << 10)
    np.save(tmp_path / "X.npy", data[0])

    def fit():
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        options = {"max_iter": 3, "random_state": 0, "batch_size": 16, "n_iter_no_change": 9}
        net = portnet.MLPClassifier((8,), early_stopping=early_stopping, **options)
        return net.fit(mapped, data[1])

    with warnings.catch_warnings():  # which is not for each thread
        warnings.simplefilter("ignore")
        alone = fit()
        found = [of_all(size, fit) for size in (1, 2, 3)]
    assert len({sha(net.coefs_) for nets in found for net in nets}) == 1
    np.testing.assert_allclose(found[1][0].loss_curve_, alone.loss_curve_, rtol=1e-5)
