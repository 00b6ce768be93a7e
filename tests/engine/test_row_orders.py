"""RowOrders: the same permutations as `rng.order`, drawn ahead in a thread."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import portnet
from portnet import rng, tree
from portnet.engine import row_orders
from portnet.engine.row_orders import RowOrders

ROWS = 50_000  # enough to draw ahead


@pytest.fixture
def threads(monkeypatch):
    """Return the epochs that were drawn, and whether in the thread that asks."""
    drawn, order = [], rng.order

    def record(seed, epoch, rows):
        drawn.append((epoch, threading.current_thread() is threading.main_thread()))
        return order(seed, epoch, rows)

    monkeypatch.setattr(rng, "order", record)
    return drawn


def check(orders, epochs):
    for epoch, found in zip(epochs, orders.draw(epochs), strict=True):
        np.testing.assert_array_equal(found, np.random.default_rng((7, 1, epoch)).permutation(ROWS))


def test_orders_are_those_of_rng_whatever_is_drawn_ahead(threads):
    orders = RowOrders(7, ROWS, 12, True)
    for epochs in ([0], range(1, 2), range(2, 5), range(5, 7), range(9, 10), range(9, 12)):
        check(orders, epochs)
    main = [epoch for epoch, is_main in threads if is_main]
    assert main == [0, 3, 4, 9, 9, 11], "what the thread could not know"
    assert max(epoch for epoch, _ in threads) == 11, "no epoch after the last one"


def test_few_rows_and_hosts_need_no_thread(threads):
    for orders in (RowOrders(7, ROWS, 9, False), RowOrders(7, 100, 9, True)):
        for n in range(3):
            orders.draw([n])
        assert orders._thread is None
    assert all(is_main for _, is_main in threads)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_without_a_thread_orders_are_drawn_when_asked_for(monkeypatch, error):
    class Failing(threading.Thread):
        def start(self):
            if error is RuntimeError:
                raise RuntimeError("can't start new thread")
            self._target = None
            super().start()

    monkeypatch.setattr(row_orders.threading, "Thread", Failing)
    orders = RowOrders(7, ROWS, 9, True)
    for n in range(3):
        check(orders, [n])


def test_too_little_memory_is_an_error_of_the_caller(monkeypatch):
    orders, order = RowOrders(7, ROWS, 9, True), rng.order

    def full(seed, epoch, rows):
        raise MemoryError("no more")

    check(orders, [0])
    orders._thread.join()
    monkeypatch.setattr(rng, "order", full)
    orders.draw([1])  # drawn before; the thread for the next one fails silently
    with pytest.raises(MemoryError, match="no more"):
        orders.draw([2])
    monkeypatch.setattr(rng, "order", order)
    check(orders, [2])


FORKED = """
import os
import numpy as np
from portnet.engine.row_orders import RowOrders
orders = RowOrders(7, 2_000_000, 9, True)
orders.draw([0])
child = os.fork()  # while the thread is drawing
expected = np.random.default_rng((7, 1, 1)).permutation(2_000_000)
right = np.array_equal(orders.draw([1])[0], expected)
if child == 0:
    os._exit(0 if right else 1)
assert right and os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_process_draws_them_itself():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    subprocess.run(command, check=True, timeout=60)


def test_a_fit_on_a_device_draws_ahead_and_has_the_same_numbers(threads):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    X, y = torch.randn(40_000, 3, dtype=torch.float64), torch.randint(0, 2, (40_000,))
    found = []
    for name in ("torch", "numpy"):
        with portnet.use_backend(name, dtype="float64"):
            trainer = portnet.Trainer(
                portnet.mlp([3, 4, 2]), "softmax_cross_entropy", "sgd", batch_size=20_000
            )
            data = (X, y) if name == "torch" else (X.numpy(), y.numpy())
            run = trainer.fit(*data, epochs=4, progress=False)
            found.append([portnet.to_numpy(p) for p in tree.leaves(run.params)])
        if name == "torch":
            assert [is_main for _, is_main in sorted(threads)] == [True, False, False, False]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
