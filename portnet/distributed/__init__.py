r"""Training on several processes, on one machine or many, started by MPI.

    pip install "portnet[mpi]"
    mpiexec -n 4 python -m portnet.distributed train.py

runs an unchanged script on four ranks: `Trainer.fit`, and `fit` and `partial_fit` of the
estimators, find the others. Options before the script: ``--shards 8``, ``--no-deterministic``,
``--timeout 600`` (seconds that a rank waits for another one).

Every rank runs the whole script and has all rows. Of each batch a rank computes the gradients of
its share, the sums of all ranks are added, and every rank makes the same update. So the memory of a
rank is that of one process, and the result that of one process, too, save for rounding. A step is
that of the whole batch, whatever the number of ranks: `batch_size` and the learning rate mean the
same.

The same bits for any number of ranks
    A batch of b rows is cut into S shards (``--shards``, a power of two, 8), shard s with its rows
    from b s // S to b (s + 1) // S, and their sums are added along a fixed binary tree: see
    `engine.tree_sum`. Which rank adds what does not matter, so 1, 2, 3 or 8 ranks have the same
    bits, and a checkpoint goes on with any number of them. It stores the shards, so that it goes on
    in one process without MPI, too. A checkpoint that was begun in one process without shards does
    not go on here. More ranks than shards train, but those without a shard idle. This holds for the
    same versions, processors and BLAS. ``--no-deterministic`` makes one part for each rank and
    leaves the order of the sum to MPI or NCCL: products of larger matrices, other bits for each
    number of ranks.

What ranks know of each other
    A step has one exchange of one vector: gradients, sum of losses, rows, a flag for errors and one
    for each signal. An error on one rank is raised on all of them after the same step, as
    `DistributedError` with the rank and the cause; so is one of a callback, a metric or a
    checkpoint. Ctrl-C on one rank, or at mpiexec (MPICH's passes it on, that of Open MPI kills the
    job), ends all after the same step, and so does a KeyboardInterrupt in a callback or a metric;
    `fit` returns the same run on all ranks. Metrics of rank 0 decide on early stopping; a callback
    may stop on any rank, but scikit-learn's callbacks of an estimator are called on rank 0, for
    all. Before the first step the ranks compare settings, the code of functions and classes (not
    the global variables that they read), checksums of data (in the dtype of the backend; of data
    that are read in parts, those of some thousand rows and the order in which all are read) and
    parameters, and versions, and none starts if they differ; in the end they compare their
    parameters. Metrics and validation rows are computed by every rank, all of them; L-BFGS is not
    distributed, and each rank computes the same. The networks of a `Population`, or of
    ``n_networks``, are trained in turn. Rank 0 writes checkpoints while the others wait, and it
    alone draws the progress bar and shows warnings. What a script prints, each rank prints: ask
    `rank`. `Trainer.fit_batches` is refused; a fit in a thread that the script starts, and one of
    joblib's workers, trains alone. Sources are read in such a thread, where `rank` is 0: if one of
    your own needs the rank, ask before the fit.

Faults
    A rank that dies, or whose script raises, ends the job, with a status that is not 0. On Linux,
    where each rank is the child of a process that waits for it, the rank that was killed is named.
    A rank that is stopped (SIGSTOP, after 10 s, where /proc shows it) or does not come within the
    timeout ends the job, too, with status 75, or 9 where mpiexec reports a rank that it has killed
    itself. Where the network is cut, the ranks on both sides end after the timeout, but MPICH's
    mpiexec waits for the machine that it cannot reach, until it can: press Ctrl-C twice, or kill
    it. Only a script that calls ``os._exit(0)`` ends the job with that status. Start the job again
    with ``checkpoint=path, resume=True``, on as many ranks as there are. Each rank takes its share
    of the machine's cores, unless OMP_NUM_THREADS is set. The global generators of `random` and
    `numpy.random` begin with one seed on all ranks.

GPUs
    CuPy arrays go through NCCL, where CuPy has it, each rank on a GPU that the script chooses, and
    else through the host, as arrays of torch, JAX and dpnp do. No device's array is given to MPI.

A model of the step
    With P parameters in float32, b rows a rank, F flop/s and R ranks whose links carry B bytes/s in
    each direction with a latency of a seconds for each message:

        compute   C = 6 P b / F                       forward and backward
        update    U = 28 P / M                        Adam reads and writes 7 numbers; M bytes/s
        exchange  X = 8 P (R - 1) / (R B) + 2 (R - 1) a    bytes on the wire of each rank, messages
        efficiency  (C + U) / (C + U + X)             of R ranks with R times the rows

    Nothing overlaps. The plain all-reduce has the same bytes, and 2 log2(R) a for 2 (R - 1) a.
    For large R, the bytes take 8 F / (6 b B) of C, whatever P: efficiency stays above 80% for
    b > 16 F / (3 B) rows a rank, 2,100 at F = 20 Tflop/s and B = 50 GB/s; above R = C / (8 a) the
    messages alone take a quarter of C. With these, b = 4,096, M = 2 TB/s, a = 2 us within a machine
    of 8 GPUs and 5 us between machines, and S = R shards (MB are those of a rank and step):

        ============  =====  ======  =======  =======  =============  ======
        P             R      MB      C, ms    X, ms    deterministic  plain
        ============  =====  ======  =======  =======  =============  ======
        0.55 million      8     3.9     0.68     0.11           87 %    88 %
        0.55 million     64     4.3     0.68     0.72           49 %    82 %
        0.55 million  1,024     4.4     0.68    10.3             6 %    78 %
        10 million        8    70      12.3      1.4            90 %    90 %
        10 million       64    79      12.3      2.2            85 %    88 %
        10 million    1,024    80      12.3     11.8            51 %    88 %
        100 million       8   700     123       14              90 %    90 %
        100 million      64   788     123       16              88 %    89 %
        100 million   1,024   799     123       26              83 %    89 %
        ============  =====  ======  =======  =======  =============  ======

    So with the same bits efficiency falls under 80% at 11, 153 and 1,510 ranks. Nothing of
    this was measured on GPUs. ``python ci/bench.py --scale`` measures C, U and X of two ranks on
    two cores, and puts their sum beside the measured step, in ``ci/results/scaling.md``.
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
