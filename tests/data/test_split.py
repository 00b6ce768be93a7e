"""Rows held out for validation."""

import numpy as np
import pytest
from fits import LABELS, X, assert_same_run, trainer

import portnet
from portnet.data import split


def test_validation_fraction_is_stratified_and_set_by_the_seed():
    seen = {}

    def spy(mean, target, weight=None):
        seen["y"] = target  # the last call has all rows
        return np.float32(0)

    run = trainer().fit(X, LABELS, epochs=2, validation=0.25, metrics=[spy])
    assert seen["y"].shape == (24,)
    for label in range(3):  # the split is stratified
        share = np.bincount(LABELS)[label] * 0.25
        assert abs((seen["y"] == label).sum() - share) <= 1
    same = trainer().fit(X, LABELS, epochs=2, validation=0.25, metrics=[spy])
    other = trainer(seed=2).fit(X, LABELS, epochs=2, validation=0.25, metrics=[spy])
    assert_same_run(run, same)
    assert run.history["validation_loss"] != other.history["validation_loss"]


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_validation_and_training_rows_partition_the_dataset(loss, xp):
    if xp.id == "strict-no_x64" and loss == "softmax_cross_entropy":
        pytest.skip(reason="array-api-strict 2.6.1: argmax makes int64, which no_x64 lacks")
    rows = np.arange(50.0)[:, None]
    y, w = (np.arange(50) % 5, rows[:, 0] + 1)
    t = portnet.Trainer(portnet.mlp([1, 5]), loss)
    target = y if loss == "softmax_cross_entropy" else np.eye(5)[y]
    given = t.fit(rows, target, epochs=0)._dataset(rows, target, w)
    (X1, y1, w1), (X2, y2, w2) = (d.arrays for d in split.split(0.3, given, t.loss, 7))
    X1, y1, w1, X2, y2, w2 = (xp.numpy(a) for a in (X1, y1, w1, X2, y2, w2))
    assert len(X2) == 15
    assert sorted([*X1[:, 0], *X2[:, 0]]) == rows[:, 0].tolist()
    for part, target, weight in ((X1, y1, w1), (X2, y2, w2)):
        labels = target if target.ndim == 1 else target.argmax(1)
        np.testing.assert_array_equal(labels, part[:, 0] % 5)
        np.testing.assert_array_equal(weight, part[:, 0] + 1)
    if loss == "softmax_cross_entropy":
        assert [int((y2 == c).sum()) for c in range(5)] == [3] * 5
