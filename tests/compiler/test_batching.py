"""Batching: what a function does for several networks is what it does for each of them."""

import numpy as np
import pytest

import portnet
from portnet.compiler.errors import EagerError
from portnet.engine.networks import ForNetworks, rows_in_turn

DRAW = np.random.default_rng(0)
A, B = DRAW.standard_normal((4, 3, 5)), DRAW.standard_normal((4, 3, 5))  # of four networks
W, V, N = (
    DRAW.standard_normal((4, 5, 2)),
    DRAW.standard_normal((4, 5)),
    DRAW.standard_normal(4),
)
NARROW = DRAW.standard_normal((4, 20, 3))  # many rows of few columns
ROW = DRAW.standard_normal((4, 1, 3))
SHARED = DRAW.standard_normal((3, 5))
ROWS = DRAW.integers(0, 3, (4, 7))
HIGH = DRAW.standard_normal((4, 2, 3, 5))

CASES = {  # a function of the arrays of one network, which are those of each, and which are shared
    "elementwise": (lambda xp, a, b: xp.where(a > b, xp.exp(a) - 2.0 * b, 1.0), (A, B), ()),
    "broadcasting": (lambda xp, a, v, n: a * v + n, (A, V, N), ()),
    "a shared array": (lambda xp, v, x: x * v - xp.sum(x), (V,), (SHARED,)),
    "a shared array with more axes": (lambda xp, v, h: h + v, (V,), (HIGH[0],)),
    "nothing of its own": (lambda xp, a, x: (x + 1.0, xp.sum(x)), (A,), (SHARED,)),
    "clip and powers": (lambda xp, a, n: xp.clip(a, -0.5, 0.5) ** 2 + n**2, (A, N), ()),
    "a power of a number": (lambda xp, n: xp.pow(xp.abs(n), 1.5), (N,), ()),
    "sums": (
        lambda xp, a: (xp.sum(a), xp.sum(a, axis=-1), xp.sum(a, axis=0, keepdims=True)),
        (A,),
        (),
    ),
    "many rows of few columns": (
        lambda xp, a, b: (
            a + b,
            b * xp.exp(a),
            xp.sum(a, axis=0, keepdims=True),
            xp.sum(a, axis=0),
        ),
        (NARROW, ROW),
        (),
    ),
    "sums of all": (lambda xp, a: xp.sum(a, axis=None, keepdims=True), (A,), ()),
    "sums over two axes": (lambda xp, h: xp.mean(h, axis=(0, 2)), (HIGH,), ()),
    "reductions of a number": (lambda xp, n: (xp.sum(n), xp.max(n, keepdims=True)), (N,), ()),
    "variance": (lambda xp, a: xp.var(a, axis=-1, correction=1), (A,), ()),
    "argmax": (lambda xp, a: (xp.argmax(a), xp.argmax(a, axis=0)), (A,), ()),
    "argmax that keeps axes": (lambda xp, a: xp.argmax(a, keepdims=True), (A,), ()),
    "products": (lambda xp, a, w: a @ w, (A, W), ()),
    "products with a shared array": (lambda xp, w, x: (x @ w, w.mT @ x.mT), (W,), (SHARED,)),
    "products with vectors": (
        lambda xp, a, w, v: (a @ v, v @ w, v @ v, a @ xp.ones(5)),
        (A, W, V),
        (),
    ),
    "products with more axes": (lambda xp, h, w: h @ w, (HIGH, W), ()),
    "transposition": (lambda xp, h: xp.permute_dims(h, (2, 0, 1)) * 2.0, (HIGH,), ()),
    "shapes": (
        lambda xp, a: (xp.reshape(a, (5, 3)), xp.reshape(a, (-1,)), a[None, :, 0], a[1:, ::-2]),
        (A,),
        (),
    ),
    "broadcast_to": (lambda xp, v: xp.broadcast_to(v, (2, 3, 5)), (V,), ()),
    "concat": (lambda xp, a, x: xp.concat([a, x, a], axis=1), (A,), (SHARED,)),
    "stack": (lambda xp, v, n: (xp.stack([v, v], axis=-1), xp.stack([n, n])), (V, N), ()),
    "take of its own": (lambda xp, a: xp.take(a, xp.asarray([2, 0, 0]), axis=1), (A,), ()),
    "take by its own numbers": (lambda xp, i, x: xp.take(x, i, axis=0), (ROWS,), (SHARED,)),
    "take of columns": (lambda xp, i, x: xp.take(x, i, axis=1), (ROWS,), (SHARED,)),
    "casts": (lambda xp, a: xp.astype(xp.astype(a > 0, xp.int64), xp.float32), (A,), ()),
    "constants": (lambda xp, a: a + xp.asarray(np.arange(5.0)), (A,), ()),
    "a pytree": (lambda xp, a, b: {"x": (a, [b]), "none": None}, (A, B), ()),
}


def batched(function, own, shared, compiled=False):
    for_one = ForNetworks(
        lambda *args: function(portnet.namespace(args[0]), *args), own[0].shape[0]
    )
    flags = (True,) * len(own) + (False,) * len(shared)

    def call(*args):
        return for_one(args, flags)

    return (portnet.compile(call) if compiled else call)(*own, *shared)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_function_of_networks_is_that_of_each(name, compiled):
    function, own, shared = CASES[name]
    found = batched(function, own, shared, compiled)
    for k in range(4):
        expected = function(portnet.namespace(A), *(a[k] for a in own), *shared)
        each = portnet.tree.leaves(found)
        wanted = portnet.tree.leaves(expected)
        assert len(each) == len(wanted)
        for a, b in zip(each, wanted, strict=True):
            assert a[k].dtype == b.dtype
            assert a[k].shape == b.shape
            np.testing.assert_allclose(a[k], b, rtol=1e-13, atol=1e-14)


def test_functions_on_every_backend(xp):
    for name in ("broadcasting", "products with a shared array", "stack", "shapes"):
        function, own, shared = CASES[name]
        expected = batched(function, own, shared)
        found = batched(function, xp.tree(own), xp.tree(shared))
        for a, b in zip(portnet.tree.leaves(found), portnet.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(xp.numpy(a), b, rtol=20 * xp.rtol, atol=xp.rtol)


def test_values_cannot_be_looked_at():
    with pytest.raises(EagerError, match="the truth of an array"):
        batched(lambda xp, a: a if a[0, 0] > 0 else -a, (A,), ())


def test_a_function_that_counts_is_refused():
    numbers = iter(range(10))
    with pytest.raises(EagerError, match="two traces of it differ"):
        batched(lambda xp, a: a + float(next(numbers)), (A,), ())


def test_numbers_of_rows_of_its_own_array_are_refused():
    with pytest.raises(EagerError, match="take of each network's own array"):
        batched(lambda xp, a, i: xp.take(a, i, axis=0), (A, ROWS), ())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_rows_in_turn_are_batches_of_each_network(size):
    orders = np.stack([DRAW.permutation(5) for _ in range(3)])
    found = rows_in_turn(orders, min(size, 5)).tolist()
    expected = [
        row
        for begin in range(0, 5, size)
        for order in orders
        for row in order[begin : begin + size]
    ]
    assert found == expected
