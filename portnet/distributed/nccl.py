"""NCCL: how CuPy arrays move between ranks. They are never given to MPI.

MPI tells the ranks NCCL's id, and carries what is no array. NCCL's calls are put on CuPy's current
stream, in order with the kernels that write what they send and read what they receive.
"""

from typing import Any, Protocol

from .watchdog import Watchdog

__all__ = ["NCCLTransport", "has_nccl"]


class _AllGather(Protocol):
    rank: int
    size: int

    def allgather(self, thing: Any) -> list[Any]:
        """Return what each rank gave."""


def has_nccl() -> bool:
    """Tell whether CuPy was built with NCCL, and finds it."""
    try:
        from cupy.cuda import nccl
    except ImportError:
        return False
    return bool(getattr(nccl, "available", True)) and hasattr(nccl, "NcclCommunicator")


class NCCLTransport:
    """Moves CuPy arrays of float32 or float64 between ranks, each on a GPU of its own.

    Parameters
    ----------
    communicator : Communicator
        Tells all ranks the id that rank 0 draws.
    watchdog : Watchdog
        Waits for what NCCL does: a rank that does not come ends the job.
    """

    def __init__(self, communicator: _AllGather, watchdog: Watchdog) -> None:
        import cupy
        from cupy.cuda import nccl

        self._cupy, self._nccl, self._watchdog = cupy, nccl, watchdog
        self.size = communicator.size
        drawn = nccl.get_unique_id() if communicator.rank == 0 else None
        unique = communicator.allgather(drawn)[0]
        self._comm: Any = nccl.NcclCommunicator(self.size, unique, communicator.rank)

    def exchange(self, send: Any, into: Any, counts: list[int]) -> None:
        """Send ``send[d]`` to rank d, and receive in the order of the ranks."""
        kind, stream = self._kind(send), self._cupy.cuda.get_current_stream().ptr
        with self._watchdog:
            self._nccl.groupStart()
            place = 0
            for k, count in enumerate(counts):
                part, received = send[k], into[place : place + count]
                self._comm.send(part.data.ptr, part.size, kind, k, stream)
                self._comm.recv(received.data.ptr, received.size, kind, k, stream)
                place += count
            self._nccl.groupEnd()
            self._wait()

    def allgather(self, part: Any, into: Any) -> None:
        """Write the parts of all ranks into a vector."""
        kind, stream = self._kind(part), self._cupy.cuda.get_current_stream().ptr
        with self._watchdog:
            self._comm.allGather(part.data.ptr, into.data.ptr, part.size, kind, stream)
            self._wait()

    def allreduce(self, vector: Any) -> None:
        """Replace a vector by its sum over the ranks, in an order that NCCL chooses."""
        kind, stream = self._kind(vector), self._cupy.cuda.get_current_stream().ptr
        at = vector.data.ptr
        with self._watchdog:
            self._comm.allReduce(at, at, vector.size, kind, self._nccl.NCCL_SUM, stream)
            self._wait()

    def _wait(self) -> None:
        """Wait for the device: flags are read after this, and a rank may have been lost."""
        self._cupy.cuda.get_current_stream().synchronize()

    def _kind(self, array: Any) -> int:
        kinds = {"float32": self._nccl.NCCL_FLOAT32, "float64": self._nccl.NCCL_FLOAT64}
        return int(kinds[str(array.dtype)])
