"""MPI: how ranks communicate, through mpi4py. Arrays of the host only are given to MPI."""

import os
from typing import Any

from .._validation import how_to_install
from ..engine.ranks import Transport
from .supervisor import NUMBERS
from .watchdog import Watchdog

__all__ = ["MPICommunicator", "start_mpi"]

# How many processes a launcher has started.
SIZES = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE"


def start_mpi() -> Any:
    """Start MPI and return mpi4py's module MPI.

    Raises ImportError, which says what to install, and RuntimeError where mpiexec is that of
    another MPI than mpi4py's.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no library of MPI
        raise ImportError(
            f"training on several processes needs MPI: {error}. {how_to_install('mpi')} "
            "gives you MPICH; on a cluster, install mpi4py for its own MPI"
        ) from error
    vendor = MPI.get_vendor()[0]
    if not MPI.Is_initialized():
        if vendor != "Open MPI":  # it would end the process, with a message of its own
            _check_launcher(1, vendor, SIZES[:1])
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    _check_launcher(MPI.COMM_WORLD.Get_size(), vendor, SIZES)
    return MPI


def _check_launcher(size: int, vendor: str, names: tuple[str, ...]) -> None:
    """Raise RuntimeError if the launcher of another MPI has started this process.

    Each process then believes that it is alone, of size 1.
    """
    for name in names + NUMBERS * (len(names) > 1):
        value = os.environ.get(name, "")
        if size == 1 and value.isdecimal() and int(value) > (1 if name in names else 0):
            raise RuntimeError(
                f"{name}={value}, but each process is alone: mpiexec is that of another MPI than "
                f"mpi4py's, {vendor}. Start the job with the mpiexec of {vendor}, or install "
                "mpi4py for the other one"
            )


class MPICommunicator:
    """All processes of an MPI job. `timeout` is that of `Watchdog`, in seconds."""

    def __init__(self, timeout: float) -> None:
        self._mpi = start_mpi()
        world = self._mpi.COMM_WORLD
        self.rank, self.size = int(world.Get_rank()), int(world.Get_size())
        # Of their own, so that messages of the script's cannot be taken for those of a fit.
        self._objects, self._arrays = world.Dup(), world.Dup()
        self.watchdog = Watchdog(self._mpi, timeout)

    def allgather(self, thing: Any) -> list[Any]:
        """Return what each rank gave, in the order of the ranks."""
        with self.watchdog:
            found: list[Any] = self._objects.allgather(thing)
        return found

    def moves(self, library: str) -> bool:
        """Tell whether arrays of a library can be given to the transport as they are."""
        if library != "cupy" or self.size == 1:
            return library == "numpy"
        from .nccl import has_nccl

        return all(self.allgather(has_nccl()))

    def transport(self, library: str) -> Transport:
        """Return what moves the arrays of a library between ranks."""
        if library == "numpy":
            return HostTransport(self._mpi, self._arrays, self.watchdog)
        from .nccl import NCCLTransport

        found: Transport = NCCLTransport(self, self.watchdog)
        return found

    def abort(self, status: int) -> None:
        """End the processes of all ranks."""
        self._mpi.COMM_WORLD.Abort(status)


class HostTransport:
    """Moves NumPy arrays between ranks."""

    def __init__(self, mpi: Any, communicator: Any, watchdog: Watchdog) -> None:
        self._mpi, self._comm, self._watchdog = mpi, communicator, watchdog

    def exchange(self, send: Any, into: Any, counts: list[int]) -> None:
        """Send ``send[d]`` to rank d, and receive in the order of the ranks."""
        with self._watchdog:
            if max(counts) == 1:
                self._comm.Alltoall(send, into)
                return
            size, one = into.shape[1], send[0].size
            received = [count * size for count in counts]
            self._comm.Alltoallv(
                [send, ([one] * len(counts), _begins([one] * len(counts)))],
                [into, (received, _begins(received))],
            )

    def allgather(self, part: Any, into: Any) -> None:
        """Write the parts of all ranks into a vector."""
        with self._watchdog:
            self._comm.Allgather(part, into)

    def allreduce(self, vector: Any) -> None:
        """Replace a vector by its sum over the ranks, in an order that MPI chooses."""
        with self._watchdog:
            self._comm.Allreduce(self._mpi.IN_PLACE, vector)


def _begins(counts: list[int]) -> list[int]:
    return [sum(counts[:k]) for k in range(len(counts))]
