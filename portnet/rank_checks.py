"""Rank checks: the ranks of a fit begin with the same things and end with the same parameters."""

import platform
import zlib
from typing import Any

import numpy as np

from . import tree
from ._typing import Params
from ._validation import warn
from .backend import to_numpy
from .engine.ranks import DistributedError, current_ranks
from .lbfgs import LBFGS
from .preparation import Fit, FitOptions, in_common
from .run import Run

__all__ = ["agreed_stop", "check_parameters", "check_ranks"]


def check_ranks(fit: Fit, options: FitOptions) -> None:
    """Raise DistributedError, on all ranks, unless each is about to make the same fit."""
    ranks = current_ranks()
    if ranks is None:
        return
    from .files.checkpoint import comparable, differences
    from .files.models import TRAINER

    run, trainer = fit.run, fit.run.trainer
    with ranks.together():
        mine: dict[str, Any] = {n: comparable(getattr(trainer, n), n) for n in TRAINER}
        mine |= in_common(run, fit.data, fit.held_out, options, run.epoch)
        mine |= {
            "parameters": checksum(run.params),
            "backend": f"{run.backend.name}, {run.backend.dtype}",
            "epoch": run.epoch,
            "step": run.step,
            "epochs": fit.last - run.epoch,
            "checkpoint": options.checkpoint is not None,
            **versions(),
        }
    ranks.check_equal(mine, differences)
    if isinstance(trainer.optimizer, LBFGS) and ranks.size > 1 and ranks.rank == 0:
        warn("L-BFGS is not distributed: every rank computes all rows, with the same result")


def versions() -> dict[str, str]:
    """Return the versions that decide the bits of results."""
    import portnet  # this module is a part of it

    found = {"portnet": portnet.__version__, "NumPy": np.__version__}
    return {"versions": found | {"machine": platform.machine()}}  # type: ignore[dict-item]


def checksum(params: Params) -> str:
    """Return the CRC-32 of parameters."""
    crc = 0
    for leaf in tree.leaves(params):
        crc = zlib.crc32(np.ascontiguousarray(to_numpy(leaf)).data, crc)
    return f"{crc:08x}"


def check_parameters(run: Run) -> None:
    """Raise DistributedError, on all ranks, unless their parameters are the same, bit for bit."""
    ranks = current_ranks()
    if ranks is None:
        return
    found = ranks.agree(checksum(run.params))
    others = [k for k, crc in enumerate(found) if crc != found[0]]
    if others:
        raise DistributedError(
            f"rank {others[0]} has other parameters than rank 0 after the same steps: the last "
            "checkpoint may be wrong, too. A processor or its memory may be faulty, or the ranks "
            "have processors or libraries that round differently",
            others[0],
        )


def agreed_stop(stopped: str) -> str:
    """Return why training stops: what the first rank that stops says."""
    ranks = current_ranks()
    return stopped if ranks is None else next(filter(None, ranks.agree(stopped)), "")
