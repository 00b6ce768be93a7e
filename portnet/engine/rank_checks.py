"""Rank checks: the ranks of a fit begin with the same things and end with the same parameters."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import tree
from .._typing import Params, State
from ..backend import to_numpy
from .ranks import DistributedError, current_ranks

__all__ = ["agreed_stop", "check_equal", "check_parameters"]


def check_equal(
    describe: Callable[[], dict[str, Any]],
    params: Params,
    state: State,
    differences: Callable[..., list[str]],
) -> None:
    """Raise DistributedError, on all ranks, unless each is about to make the same fit.

    ``describe()`` returns what a fit depends on, as JSON, besides the initial parameters and the
    state of the optimizer;
    `differences` is `files.checkpoint.differences`. One process alone is not asked.
    """
    ranks = current_ranks()
    if ranks is None or ranks.size == 1:
        return
    with ranks.together():
        mine = describe() | {"initial parameters": _checksum(params)}
        mine |= {"state of the optimizer": _checksum(state), "versions": _versions()}
    found = ranks.agree(mine)
    lines = []
    for k, theirs in enumerate(found[1:], 1):
        words = "on rank 0", f"on rank {k}"
        lines += [f"\n  {line}" for line in differences(found[0], theirs, words=words)]
    if lines:
        more = f"\n  and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise DistributedError(
            "the ranks do not train the same, and none of them starts:"
            f"{''.join(lines[:8])}{more}\n"
            "All ranks must have the same script, data, options and versions, and what a script "
            "draws itself needs a seed"
        )


def _versions() -> dict[str, str]:
    """Return the versions that decide the bits of results."""
    import platform

    from .. import __version__

    return {
        "Python": platform.python_version().rpartition(".")[0],
        "portnet": __version__,
        "NumPy": np.__version__,
        "machine": platform.machine(),
    }


def _checksum(pytree: Params | State) -> str:
    """Return the CRC-32 of the arrays of a pytree."""
    crc = 0
    for leaf in tree.leaves(pytree):
        crc = zlib.crc32(np.ascontiguousarray(to_numpy(leaf)).data, crc)
    return f"{crc:08x}"


def check_parameters(params: Params) -> None:
    """Raise DistributedError, on all ranks, unless their parameters are the same, bit for bit."""
    ranks = current_ranks()
    if ranks is None or ranks.size == 1:
        return
    found = ranks.agree(_checksum(params))
    others = [k for k, crc in enumerate(found) if crc != found[0]]
    if others:
        raise DistributedError(
            f"rank {others[0]} has other parameters than rank 0 after the same steps, and the last "
            "checkpoint may be wrong, too: a processor or its memory is faulty, or the processors "
            "or libraries of the ranks round differently",
            others[0],
        )


def agreed_stop(stopped: str) -> str:
    """Return why training stops: what the first rank that stops says."""
    ranks = current_ranks()
    return stopped if ranks is None else next(filter(None, ranks.agree(stopped)), "")
