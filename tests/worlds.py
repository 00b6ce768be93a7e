"""Ranks as threads of one process: what several ranks compute, without MPI."""

import hashlib
import threading

import numpy as np

import portnet
from portnet.engine.ranks import Ranks, set_ranks

SECONDS = 60  # that a rank waits for the others


class World:
    """What threads share that act as ranks."""

    def __init__(self, size):
        self.size, self.given = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=SECONDS)


class ThreadCommunicator:
    """A rank of a world of threads; each call is counted by its name."""

    def __init__(self, world, rank):
        self.world, self.rank, self.size = world, rank, world.size
        self.calls = {"allgather": 0, "exchange": 0, "gather": 0, "allreduce": 0}

    def _all(self, thing):
        world = self.world
        world.given[self.rank] = thing
        world.barrier.wait()
        found = list(world.given)
        world.barrier.wait()
        return found

    def allgather(self, thing):
        self.calls["allgather"] += 1
        return self._all(thing)

    def moves(self, library):
        return library == "numpy"

    def transport(self, library):
        assert library == "numpy"
        return _ThreadTransport(self)

    def abort(self, status):
        self.world.barrier.abort()


class _ThreadTransport:
    def __init__(self, communicator):
        self.communicator = communicator

    def exchange(self, send, into, counts):
        self.communicator.calls["exchange"] += 1
        assert isinstance(send, np.ndarray)
        assert isinstance(into, np.ndarray)
        found = self.communicator._all(send.copy())
        assert [part.shape[1] for part in found] == counts
        into[...] = np.concatenate([part[self.communicator.rank] for part in found])

    def allgather(self, part, into):
        self.communicator.calls["gather"] += 1
        into[...] = np.concatenate(self.communicator._all(part.copy()))

    def allreduce(self, vector):
        self.communicator.calls["allreduce"] += 1
        vector[...] = sum(self.communicator._all(vector.copy()))


def on_ranks(size, function, **options):
    """Return what ``function()``, or ``function(rank)`` if it takes one, returns on each rank.

    Errors are returned, too. `options` are those of `Ranks`.
    """
    world, results = World(size), [None] * size
    takes_rank = bool(function.__code__.co_argcount)

    def work(rank):
        try:
            set_ranks(Ranks(ThreadCommunicator(world, rank), **options))
            results[rank] = function(rank) if takes_rank else function()
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def of_all(size, function, **options):
    """Return what `function` returns on each rank; raise if one of them raises."""
    results = on_ranks(size, function, **options)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def sha(pytree):
    """Return the SHA-256 of arrays."""
    host = [np.ascontiguousarray(portnet.to_numpy(a)) for a in portnet.tree.leaves(pytree)]
    return hashlib.sha256(b"".join(a.tobytes() for a in host)).hexdigest()
