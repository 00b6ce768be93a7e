"""Training on several processes, on one machine or many, started by MPI.

    pip install "portnet[mpi]"
    mpiexec -n 4 python -m portnet.distributed train.py

runs an unchanged script on 4 ranks: `Trainer.fit`, and `fit` of the estimators, find the others.
"""

from ..engine.ranks import Communicator, DistributedError, Ranks, current_ranks, set_ranks

__all__ = ["Communicator", "DistributedError", "Ranks", "rank", "set_ranks", "size"]


def rank() -> int:
    """Return the number of this process among those that train together, from 0.

    Examples
    --------
    >>> import portnet.distributed
    >>> portnet.distributed.rank()  # alone
    0
    """
    ranks = current_ranks()
    return 0 if ranks is None else ranks.rank


def size() -> int:
    """Return how many processes train together; 1 for one alone.

    Examples
    --------
    >>> import portnet.distributed
    >>> portnet.distributed.size()
    1
    """
    ranks = current_ranks()
    return 1 if ranks is None else ranks.size
