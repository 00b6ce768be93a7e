"""Populations whose networks are trained in turn: from sources, and on several ranks."""

import numpy as np
import pytest
from sources import LABELS, Sliced, X, small_windows
from worlds import of_all, sha

from portnet import Trainer, mlp, tree
from portnet.population import Population

small_windows = small_windows


@pytest.mark.parametrize("validation", [None, 0.2])
def test_data_that_are_read_in_parts_train_each_network_in_turn(small_windows, capsys, validation):
    population = Population(mlp([5, 8, 3], dropout=0.1), 2, "softmax_cross_entropy", seeds=[3, 4])
    run = population.fit(Sliced(X), LABELS, epochs=2, validation=validation)
    for seed, one in zip((3, 4), run, strict=True):
        trainer = Trainer(mlp([5, 8, 3], dropout=0.1), "softmax_cross_entropy", seed=seed)
        alone = trainer.fit(Sliced(X), LABELS, epochs=2, validation=validation)
        for a, b in zip(tree.leaves(one.params), tree.leaves(alone.params), strict=True):
            np.testing.assert_array_equal(a, b)
        assert one.history == alone.history
    population.explain(Sliced(X), LABELS)
    assert "in turn: the data are read in parts" in capsys.readouterr().out
    classes = run.predict_class(Sliced(X))
    np.testing.assert_array_equal(classes, run.predict_class(X))
    assert run.score(Sliced(X), LABELS) == pytest.approx((classes == LABELS).mean())
    more = run.fit(Sliced(X), LABELS, epochs=1, validation=validation)
    assert [one.epoch for one in more] == [3, 3]


def test_several_ranks_train_each_network_in_turn():
    population = Population(mlp([5, 8, 3], dropout=0.1), 2, "softmax_cross_entropy", batch_size=16)
    runs = [
        run
        for size in (1, 2, 3)
        for run in of_all(size, lambda: population.fit(X[:100], LABELS[:100]))
    ]
    assert len({sha([one.params for one in run]) for run in runs}) == 1
    for a, b in zip(
        tree.leaves([one.params for one in population.fit(X[:100], LABELS[:100])]),
        tree.leaves([one.params for one in runs[0]]),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
