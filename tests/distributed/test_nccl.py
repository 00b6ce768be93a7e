"""NCCL, with a fake of CuPy: which calls are made, of what, and that the stream is waited for."""

import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from portnet.distributed.nccl import NCCLTransport, has_nccl

SIZE = 3


class FakeArray(np.ndarray):
    """A NumPy array with CuPy's `data.ptr`, here the array itself."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self)


class Wires:
    """What the fakes of all ranks share."""

    def __init__(self):
        self.barrier = threading.Barrier(SIZE, timeout=20)
        self.sent, self.given, self.log = {}, [None] * SIZE, [[] for _ in range(SIZE)]


def fake_cupy(wires, rank):
    """Return the modules cupy and cupy.cuda.nccl of a rank."""
    stream = SimpleNamespace(ptr=77, synchronize=lambda: wires.log[rank].append("synchronize"))

    class NcclCommunicator:
        def __init__(self, size, unique, number):
            wires.log[rank].append(("init", size, unique, number))

        def send(self, array, count, kind, peer, at):
            wires.log[rank].append(("send", count, kind, peer, at))
            wires.sent[rank, peer] = np.array(array)

        def recv(self, array, count, kind, peer, at):
            wires.log[rank].append(("recv", count, kind, peer, at))
            waiting.append((array, peer))

        def allGather(self, part, into, count, kind, at):  # noqa: N802
            wires.log[rank].append(("allGather", count, kind, at))
            wires.given[rank] = np.array(part)
            wires.barrier.wait()
            into[...] = np.concatenate(wires.given)
            wires.barrier.wait()

        def allReduce(self, array, out, count, kind, op, at):  # noqa: N802
            wires.log[rank].append(("allReduce", count, kind, op, at))
            wires.given[rank] = np.array(array)
            wires.barrier.wait()
            out[...] = sum(wires.given)
            wires.barrier.wait()

    waiting = []

    def group_end():
        wires.barrier.wait()
        for array, peer in waiting:
            array[...] = wires.sent[peer, rank].reshape(array.shape)
        waiting.clear()
        wires.barrier.wait()

    nccl = ModuleType("cupy.cuda.nccl")
    nccl.NcclCommunicator, nccl.get_unique_id = NcclCommunicator, lambda: ("id of", rank)
    nccl.groupStart, nccl.groupEnd = lambda: None, group_end
    nccl.NCCL_FLOAT32, nccl.NCCL_FLOAT64, nccl.NCCL_SUM = 7, 8, 0
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(get_current_stream=lambda: stream, nccl=nccl)
    return cupy, nccl


class Silent:
    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


def transports(monkeypatch):
    """Return a transport for each rank, and the log of its calls."""
    wires, found = Wires(), []
    for rank in range(SIZE):
        cupy, nccl = fake_cupy(wires, rank)
        for name, module in (("cupy", cupy), ("cupy.cuda", cupy.cuda), ("cupy.cuda.nccl", nccl)):
            monkeypatch.setitem(sys.modules, name, module)
        communicator = SimpleNamespace(
            rank=rank, size=SIZE, allgather=lambda thing: [("id of", 0)] * SIZE
        )
        found.append(NCCLTransport(communicator, Silent()))
    return found, wires.log


def on_all(work):
    results = [None] * SIZE

    def run(rank):
        results[rank] = work(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(SIZE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def device(array):
    return np.ascontiguousarray(array).view(FakeArray)


def test_all_ranks_use_the_id_of_rank_0(monkeypatch):
    _, log = transports(monkeypatch)
    assert [calls[0] for calls in log] == [("init", SIZE, ("id of", 0), r) for r in range(SIZE)]


@pytest.mark.parametrize(("dtype", "kind"), [("float32", 7), ("float64", 8)])
def test_exchange_sends_each_rank_its_slices_in_the_order_of_ranks(monkeypatch, dtype, kind):
    moved, log = transports(monkeypatch)
    counts, m = [1, 2, 2], 4
    sends = [np.arange(SIZE * k * m).reshape(SIZE, k, m) + 1000.0 * r for r, k in enumerate(counts)]

    def work(rank):
        into = device(np.zeros((sum(counts), m), dtype))
        moved[rank].exchange(device(sends[rank].astype(dtype)), into, counts)
        return np.asarray(into)

    for rank, found in enumerate(on_all(work)):
        np.testing.assert_array_equal(found, np.concatenate([send[rank] for send in sends]))
        assert ("send", counts[rank] * m, kind, 2, 77) in log[rank]
        assert log[rank][-1] == "synchronize"


def test_gather_and_reduce(monkeypatch):
    moved, log = transports(monkeypatch)

    def work(rank):
        into, vector = device(np.zeros(6, np.float32)), device(np.full(2, 10.0**rank, np.float32))
        moved[rank].allgather(device(np.full(2, rank, np.float32)), into)
        moved[rank].allreduce(vector)
        return into.tolist(), vector.tolist()

    assert on_all(work) == [([0, 0, 1, 1, 2, 2], [111, 111])] * SIZE
    assert log[1][-2:] == [("allReduce", 2, 7, 0, 77), "synchronize"]


def test_without_cupy_there_is_no_nccl(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    assert not has_nccl()
