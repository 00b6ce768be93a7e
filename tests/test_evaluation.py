"""run.evaluate and predictions of many rows: little memory, and the bits of a plain computation."""

import tracemalloc

import numpy as np
import pytest

import portnet

ROWS = 70_001  # several groups of rows, and a shorter one
DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((ROWS, 7)).astype("float32")
WEIGHT = DRAW.random(ROWS).astype("float32")
METRICS = {
    "softmax_cross_entropy": ["accuracy", "log_loss", "balanced_accuracy", "roc_auc_ovr"],
    "sigmoid_cross_entropy": ["label_accuracy"],
    "squared_error": ["mean_squared_error", "mean_absolute_error", "r2"],
    "poisson": ["mean_absolute_error"],
}
TARGETS = {
    "softmax_cross_entropy": DRAW.integers(0, 3, ROWS),
    "sigmoid_cross_entropy": (DRAW.random((ROWS, 3)) < 0.3).astype("float32"),
    "squared_error": DRAW.standard_normal((ROWS, 3)).astype("float32"),
    "poisson": DRAW.poisson(2.0, (ROWS, 3)).astype("float32"),
}


def trained(loss, **options):
    trainer = portnet.Trainer(portnet.mlp([7, 16, 3]), loss, "adam", 64, **options)
    return trainer.fit(X[:256], TARGETS[getattr(loss, "name", loss)][:256], epochs=1)


def outputs(run, size):
    """Return the raw outputs of all rows, computed block by block as in `run.predict`."""
    parts = [
        run.trainer.model.forward(run.params, X[i : i + size])[0] for i in range(0, ROWS, size)
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", TARGETS)
def test_numbers_have_the_bits_of_all_rows_at_once(loss, weighted):
    run = trained(loss, compile=False)
    y, w, of = TARGETS[loss], WEIGHT if weighted else None, run.trainer.loss
    size = next(
        iter(portnet.engine.inference.forward_blocks(run.trainer.model, run.params, X, ROWS))
    )
    pred = outputs(run, size.shape[0])
    found = run.evaluate(X, y, w, metrics=METRICS[loss])
    assert found.pop("loss") == float(of(pred, y, w)[0])
    mean = of.mean(pred)
    assert found == {
        name: float(portnet.metrics.METRICS[name](mean, y, w)) for name in METRICS[loss]
    }
    np.testing.assert_array_equal(run.predict(X), mean)
    if hasattr(of, "classes"):
        np.testing.assert_array_equal(run.predict_proba(X), mean)
        np.testing.assert_array_equal(run.predict_class(X), of.classes(mean))


def test_sum_of_losses_and_metric_of_ones_own():
    def largest(mean, target, weight=None):
        return mean.max()

    loss = portnet.SquaredError(reduction="sum")
    trainer = portnet.Trainer(portnet.mlp([7, 3]), loss, portnet.SGD(1e-6), 64)
    y = TARGETS["squared_error"]
    run = trainer.fit(X[:256], y[:256], epochs=1)
    found = run.evaluate(X, y, metrics=[largest])
    assert found["loss"] == pytest.approx(((run.predict(X) - y) ** 2).sum() / 2, rel=1e-5)
    assert found["largest"] == run.predict(X).max()


def test_loss_of_ones_own_gets_all_rows():
    rows = []

    class Whole:
        def __call__(self, pred, target, weight=None):
            rows.append(len(pred))
            return portnet.SquaredError()(pred, target, weight)

        def mean(self, pred):
            rows.append(len(pred))
            return pred - pred.mean()

    y = TARGETS["squared_error"]
    run = portnet.Trainer(portnet.mlp([7, 3]), Whole(), "adam", 64).fit(X[:64], y[:64], epochs=1)
    rows.clear()
    run.evaluate(X, y)
    run.predict(X)
    assert rows == [ROWS, ROWS]


def peak(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_evaluation_needs_a_small_part_of_the_memory_of_x(tmp_path):
    """400,000 rows of 32 columns, 51 MB, in a file that is mapped; the loss of a row has 4 bytes."""
    rows, path = 400_000, tmp_path / "X.npy"
    x = np.lib.format.open_memmap(path, "w+", np.float32, (rows, 32))
    for i in range(0, rows, 50_000):
        x[i : i + 50_000] = DRAW.standard_normal((50_000, 32), dtype=np.float32)
    x, y = np.load(path, mmap_mode="r"), DRAW.integers(0, 4, rows)
    trainer = portnet.Trainer(portnet.mlp([32, 64, 4]), "softmax_cross_entropy", "adam", 256)
    run = trainer.fit(x[:1000], y[:1000], epochs=1)
    run.evaluate(x, y)  # plans are made once
    assert peak(lambda: run.evaluate(x, y)) < 5e6
    assert peak(lambda: run.evaluate(x, y, metrics=["accuracy"])) < 10e6
    assert peak(lambda: run.predict_class(x)) < 8 * rows + 3e6
    assert peak(lambda: run.predict_proba(x)) < 16 * rows + 3e6


@pytest.mark.parametrize("row", [0, 12_345, ROWS - 1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_nan_is_found_in_every_block(row, order):
    run = trained("squared_error")
    x = np.array(X, order=order)
    x[row, 6] = np.nan
    message = f"X contains NaN at row {row}, column 6$"
    with pytest.raises(portnet.DataError, match=message):
        run.predict(x)
    with pytest.raises(portnet.DataError, match=message):
        run.evaluate(x, TARGETS["squared_error"])


def test_groups_of_blocks_are_the_blocks_in_order():
    from portnet.engine.inference import grouped, joined

    blocks = [np.full((rows, 2), float(i)) for i, rows in enumerate((3, 3, 3, 3, 2))]
    for size, expected in ((1, [3, 3, 3, 3, 2]), (12, [6, 6, 2]), (1000, [14])):
        groups = [group.copy() for group in grouped(iter(blocks), size)]
        assert [len(group) for group in groups] == expected
        np.testing.assert_array_equal(np.concatenate(groups), np.concatenate(blocks))
        np.testing.assert_array_equal(joined(iter(groups), 14), np.concatenate(blocks))
