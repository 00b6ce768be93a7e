"""Random numbers: initializers, epoch orders and dropout masks, equal on every backend."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import portnet
from portnet import rng, tree

VARIANCE = {  # of W (n_in, n_out), from the papers
    "zeros": lambda n_in, n_out: 0,
    "lecun_normal": lambda n_in, n_out: 1 / n_in,
    "lecun_uniform": lambda n_in, n_out: 1 / n_in,
    "glorot_normal": lambda n_in, n_out: 2 / (n_in + n_out),
    "glorot_uniform": lambda n_in, n_out: 2 / (n_in + n_out),
    "he_normal": lambda n_in, n_out: 2 / n_in,
    "he_uniform": lambda n_in, n_out: 2 / n_in,
}


def test_every_initializer_is_tested():
    assert set(VARIANCE) == set(rng.INITIALIZERS)


@pytest.mark.parametrize("name", VARIANCE)
def test_initializer_has_the_variance_of_its_paper(name):
    W = rng.INITIALIZERS[name](rng.generator(0), 300, 500)
    variance = VARIANCE[name](300, 500)
    assert W.shape == (300, 500)
    assert abs(W.mean()) < 0.01 * math.sqrt(variance + 1e-9)
    np.testing.assert_allclose(W.var(), variance, rtol=0.02)
    if name.endswith("uniform"):
        assert abs(W).max() <= math.sqrt(3 * variance)
        assert abs(W).max() > 0.99 * math.sqrt(3 * variance)


def test_same_seed_gives_equal_parameters_on_every_backend(xp):
    net = portnet.mlp([7, 6, 5], norm="layer")
    ours = portnet.init(net, seed=3)
    with portnet.use_backend("numpy", dtype="float64"):
        reference = portnet.init(net, seed=3)
        other = portnet.init(net, seed=4)
    for a, b in zip(tree.leaves(ours), tree.leaves(reference), strict=True):
        assert portnet.get_backend().holds(a)
        np.testing.assert_array_equal(xp.numpy(a), b.astype(xp.float_name))
    assert (other[0]["W"] != reference[0]["W"]).any()


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 50))
def test_order_is_a_permutation_and_a_function_of_seed_and_epoch(seed, epoch, rows):
    order = rng.order(seed, epoch, rows)
    assert sorted(order) == list(range(rows))
    np.testing.assert_array_equal(order, rng.order(seed, epoch, rows))


def test_orders_differ_between_seeds_and_epochs():
    orders = {tuple(rng.order(s, e, 20)) for s in range(5) for e in range(5)}
    assert len(orders) == 25


# Dropout masks ----------------------------------------------------------------------------------


def lowbias32(h):
    """The published hash, in Python integers."""
    h = ((h ^ (h >> 16)) * 0x7FEB352D) % 2**32
    h = ((h ^ (h >> 15)) * 0x846CA68B) % 2**32
    return h ^ (h >> 16)


def keep_by_hand(key, rows, columns, rate):
    """The same mask from unsigned Python integers, one number at a time."""
    mask = np.empty((rows, columns), bool)
    for i in range(rows):
        for j in range(columns):
            row = lowbias32(((key.first + i) * 0x61C88647 + key.salt) % 2**32)
            bits = lowbias32((row + j * 0x3C6EF373) % 2**32) % 2**31
            mask[i, j] = bits >= round(rate * 2**31)
    return mask


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.999])
def test_dropout_mask_is_equal_on_every_backend(rate, xp):
    key = rng.fold(rng.key(7, 3), 2)._replace(first=5)
    x = xp.asarray(np.zeros((11, 13)))
    mask = xp.numpy(rng.keep_mask(key, x, rate))
    np.testing.assert_array_equal(mask, keep_by_hand(key, 11, 13, rate))


def test_key_of_arrays_gives_the_same_mask_as_key_of_integers(xp):
    x = xp.asarray(np.zeros((11, 13)))
    key = rng.key(7, 3)
    as_array = rng.Key(*(xp.asarray(np.array([[n]]), "int32") for n in key))
    a, b = rng.keep_mask(rng.fold(as_array, 1), x, 0.5), rng.keep_mask(rng.fold(key, 1), x, 0.5)
    np.testing.assert_array_equal(xp.numpy(a), xp.numpy(b))


def test_mask_of_a_slice_is_the_slice_of_the_mask():
    key, x = rng.key(1, 0), np.zeros((10, 4))
    whole = rng.keep_mask(key, x, 0.5)
    for first in range(0, 10, 3):
        part = rng.keep_mask(key._replace(first=first), x[first : first + 3], 0.5)
        np.testing.assert_array_equal(part, whole[first : first + 3])


def test_masks_are_uncorrelated_between_seeds_epochs_layers_and_rows():
    x, base = np.zeros((64, 64)), rng.key(0, 0)
    keys = {
        "base": base,
        "seed": rng.key(1, 0),
        "epoch": rng.key(0, 1),
        "layer 0": rng.fold(base, 0),
        "layer 1": rng.fold(base, 1),
        "layer 0.1": rng.fold(rng.fold(base, 0), 1),
        "layer 1.0": rng.fold(rng.fold(base, 1), 0),
    }
    masks = {name: rng.keep_mask(key, x, 0.5) for name, key in keys.items()}
    for a in masks:
        for b in masks:
            if a != b:  # independent masks agree in half of their cells
                assert abs((masks[a] == masks[b]).mean() - 0.5) < 0.05, (a, b)
    mask = masks["base"].astype(float) - 0.5
    for other in (np.roll(mask, 1, axis=0), np.roll(mask, 1, axis=1), mask.T):
        assert abs((mask * other).mean()) < 0.02  # neighbours are not correlated
    assert len({row.tobytes() for row in masks["base"]}) == 64


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.9])
def test_share_of_dropped_cells_is_the_rate(rate):
    kept = rng.keep_mask(rng.key(0, 0), np.zeros((1000, 200)), rate)
    assert abs(1 - kept.mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / kept.size)


def test_shuffled_order_differs_from_the_order_of_every_epoch():
    """Otherwise the validation rows would be the rows of certain batches."""
    for seed in (0, 1, 7):
        aside = rng.shuffled(seed, 50)
        assert sorted(aside) == list(range(50))
        np.testing.assert_array_equal(aside, rng.shuffled(seed, 50))
        assert all((aside != rng.order(s, e, 50)).any() for s in (seed, 2) for e in range(9))
        assert (aside != rng.shuffled(seed + 1, 50)).any()


def test_weights_that_are_not_used_are_not_drawn(monkeypatch):
    sizes = {}
    for name, init in rng.INITIALIZERS.items():
        W = init(rng.Undrawn(), 3, 4)
        sizes[name] = W.shape, W.dtype, float(abs(W).max())
    assert set(sizes.values()) == {((3, 4), np.dtype("float64"), 0.0)}
    net = portnet.mlp([3, 5, 2], norm="layer")
    params, other = portnet.init(net), portnet.init(portnet.mlp([3, 4, 2], norm="layer"))
    X, y = np.random.default_rng(0).random((20, 3)), np.arange(20) % 2

    def fail(*args, **options):
        raise AssertionError("weights were drawn")

    trainer = portnet.Trainer(net, "softmax_cross_entropy", params=params)
    for name in ("generator", "shuffled"):
        monkeypatch.setattr(rng, name, fail)
    run = trainer.fit(X, y, epochs=1, progress=False)
    assert [p.shape for p in portnet.tree.leaves(run.params)] == [
        p.shape for p in portnet.tree.leaves(params)
    ]
    wrong = portnet.Trainer(net, "softmax_cross_entropy", params=other)
    with pytest.raises(portnet.DataError, match=r"params.*expected shape \(3, 5\)"):
        wrong.fit(X, y, epochs=1, progress=False)
