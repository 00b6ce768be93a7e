"""Rows held out for validation."""

import numpy as np
import pytest
from fits import LABELS, NET, XV, X, assert_same_run, trainer

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


def test_validation_fraction_can_be_a_numpy_scalar():
    runs = [trainer().fit(X, LABELS, epochs=1, validation=f) for f in (0.25, np.float32(0.25))]
    assert_same_run(*runs)


def test_validation_split_of_binary_labels_is_stratified():
    y = np.arange(40) < 4
    seen = {}

    def spy(mean, target, weight=None):
        seen["ones"] = int(target.sum())
        return 0.0

    for seed in range(8):
        t = trainer("sigmoid_cross_entropy", model=portnet.mlp([5, 1]), seed=seed)
        t.fit(XV, y, epochs=1, validation=0.5, metrics=[spy])
        assert seen["ones"] == 2


def test_validation_split_names_the_part_with_zero_weight():
    weight = np.zeros(96)
    weight[0] = 1.0
    rows = X, LABELS, weight
    for seed in range(8):
        t = trainer(seed=seed)
        given = t.fit(X, LABELS, epochs=0)._dataset(*rows)
        order = portnet.rng.shuffled(seed, 96)
        order = order[np.argsort(LABELS[order], kind="stable")]
        held_out = 0 in order[((np.arange(48) + 0.5) * 2).astype(int)]
        word = "48 rows to " + ("train" if held_out else "validate") + " on have the weight 0"
        with pytest.raises(portnet.DataError, match=word):
            split.split(0.5, given, t.loss, seed)


def test_seed_determines_the_validation_split():
    """With given parameters and full batches, the seed determines only the split."""
    start = portnet.init(NET, seed=0)
    losses = set()
    for seed in range(3):
        t = trainer(seed=seed, params=start, batch_size=None)
        losses.add(t.fit(X, LABELS, epochs=1, validation=0.25).history["validation_loss"][0])
    assert len(losses) == 3
