"""Checkpoints: a run in a file from time to time, and what a resumed fit must have in common."""

import dataclasses
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np

from .. import rng
from .._validation import check_integer, warn
from ..backend import to_numpy
from .atomic import check_writable, link_file, remove_stale, write_file
from .code_checksum import code_checksum
from .container import crc32, open_container
from .encoding import encode, has_custom
from .errors import CheckpointError, ModelFileError, ResumeMismatchError
from .models import (
    TRAINER,
    check_header,
    describe,
    is_checkpoint,
    open_file,
    run_from,
    to_buffers,
)

__all__ = [
    "Checkpoint",
    "Writer",
    "check_run",
    "comparable",
    "comparable_code",
    "comparable_names",
    "differences",
    "differing_names",
    "fingerprint",
    "in_common",
    "mismatch",
    "path_to_resume",
    "resumed",
    "sums_of",
]

UNITS = "epochs", "steps", "seconds"
ON_ERROR = "raise", "warn"
FROM_RUN = (
    "Give the same data and options, or start from it: Trainer.fit(resume=portnet.load(path))"
)
# In the description of a checkpoint that has others beside it; a resumed fit may have other ones.
KEPT = "name", "best_epoch"
MOST_SHARDS = 1 << 16  # of a file: each is a vector


@dataclass(frozen=True)
class Checkpoint:
    """Where and when a fit writes its run, checked; `Trainer.fit` documents the options."""

    path: str
    every: int = 1
    unit: str = "epochs"
    keep: int = 1
    on_error: str = "raise"

    @classmethod
    def of(
        cls, path: str | PathLike[str], every: int | str, keep: int, on_error: str
    ) -> "Checkpoint":
        """Return a checkpoint of the options of a fit; raise for options that cannot be used."""
        if not isinstance(path, str | PathLike):
            raise TypeError(f"checkpoint: expected a path, got {path!r}")
        number, unit = every, "epochs"
        if isinstance(every, str):
            found = re.fullmatch(r"\s*(\d+)\s*([a-z]+?)s?\s*", every)
            unit = f"{found[2]}s" if found else ""
            number = int(found[1]) if found else 0
        if (
            unit not in UNITS
            or isinstance(number, bool)
            or not isinstance(number, int | np.integer)
        ):
            raise ValueError(
                "every: expected a number of epochs, or a text such as '500 steps' or "
                f"'30 seconds', got {every!r}"
            )
        if on_error not in ON_ERROR:
            raise ValueError(f"on_checkpoint_error: expected 'raise' or 'warn', got {on_error!r}")
        number, keep = check_integer("every", number, 1), check_integer("keep", keep, 1)
        # The folder of now: a callback may change to another one.
        return cls(os.path.abspath(path), number, unit, keep, on_error)

    def older(self, epoch: int, step: int) -> str:
        """Return the name under which the checkpoint of an epoch is kept when a newer one comes."""
        root, end = os.path.splitext(self.path)
        return f"{root}-epoch-{epoch}{f'-step-{step}' if step else ''}{end}"

    def all_older(self) -> list[tuple[int, int]]:
        """Return epoch and step of the files that have such names."""
        folder, name = os.path.split(self.path)
        root, end = map(re.escape, os.path.splitext(name))
        pattern = re.compile(rf"{root}-epoch-(\d+)(?:-step-(\d+))?{end}")
        matches = filter(None, map(pattern.fullmatch, os.listdir(folder or os.curdir)))
        return sorted((int(m[1]), int(m[2] or 0)) for m in matches)

    @property
    def best(self) -> str:
        """The name under which the checkpoint of the best epoch is kept."""
        root, end = os.path.splitext(self.path)
        return f"{root}-best{end}"

    def check_writable(self) -> None:
        """Raise CheckpointError if the file, or one that is kept, cannot be written."""
        longest = self.older(99_999_999, 99_999_999)
        check_writable(self.path, *((self.best, longest) if self.keep > 1 else ()))


class Writer:
    """Writes the checkpoints of one fit: when, and under which names.

    Parameters
    ----------
    checkpoint : Checkpoint
    common : dict
        What a resumed fit must have in common, as `fingerprint` returns it.
    at : (epoch, step), optional
        Where the fit goes on, if it is resumed from this checkpoint: older ones of it count, too.
    best_epoch : int
        The best epoch so far, if there is one.
    source : path
        Another checkpoint that the fit goes on from: it stays.

    Notes
    -----
    If more than one is kept, each checkpoint has the name of the newest one's file: others that an
    earlier fit has left beside it are known by that, and deleted, but not before the first
    checkpoint of this fit is written. Other files stay, also copies of checkpoints, save where this
    fit writes one of the same name.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        common: Mapping[str, Any],
        at: tuple[int, int] | None = None,
        best_epoch: int = 0,
        source: str | PathLike[str] = "",
    ) -> None:
        self.checkpoint, self.common = checkpoint, common
        self._kept = {"name": os.path.basename(checkpoint.path)} if checkpoint.keep > 1 else {}
        self._source = os.path.abspath(source) if source else ""
        self._at, self._is_first = at, True
        self._steps, self._epochs, self._time = 0, 0, time.monotonic()
        self._best = 0  # the best epoch whose checkpoint has the name of the best
        self._written: list[tuple[int, int]] = []  # epoch and step of those that are kept
        self._linked: set[tuple[int, int]] = set()  # of those with a name of their own
        if at is not None:
            before = [f for f in self._all_older() if f < at]
            self._linked, self._written = set(before), [*before, at]
            best = _checkpoint_of(checkpoint.best)
            if best == {**common, **self._kept, "best_epoch": best_epoch}:
                self._best = best_epoch
            # The process may have been killed before it did these.
            self._keep_best(best_epoch)
            self._delete_oldest()
            remove_stale(checkpoint.path)

    def advance(self, steps: int) -> bool:
        """Count steps; return whether a checkpoint is due after them, within an epoch."""
        self._steps += steps
        every, unit = self.checkpoint.every, self.checkpoint.unit
        if unit == "steps":
            return self._steps >= every
        return unit == "seconds" and time.monotonic() - self._time >= every

    def epochs_until_due(self, most: int) -> int:
        """Return after how many epochs, at most, somebody has to look."""
        if self.checkpoint.unit != "epochs":
            return most
        return max(1, min(most, self.checkpoint.every - self._epochs))

    def is_due(self, epochs: int) -> bool:
        """Count finished epochs; return whether a checkpoint is due after them."""
        self._epochs += epochs
        ended = self.checkpoint.unit == "epochs" and self._epochs >= self.checkpoint.every
        return ended or self.advance(0)

    def write(
        self, thing: Any, at: tuple[int, int], best_epoch: int = 0, progress: Any = None
    ) -> None:
        """Write a run or an estimator now, unless it is written already.

        `at` are epoch and step; `best_epoch` is the best one so far, 0 if there is none, whose
        parameters the thing has, too. `progress` is what continuing needs besides.
        """
        self._steps, self._epochs, self._time = 0, 0, time.monotonic()
        if self._written and self._written[-1] == at:
            return
        try:
            self._keep_older()
            common = {**self.common, **self._kept}
            if best_epoch and self._kept:
                common["best_epoch"] = best_epoch
            buffers = to_buffers(thing, state=True, common=common, progress=progress)
            write_file(self.checkpoint.path, buffers)
            self._written.append(at)
            self._keep_best(best_epoch)
        except (CheckpointError, ModelFileError) as error:
            if self.checkpoint.on_error == "raise":
                raise
            warn(f"training goes on without a checkpoint: {error}")
            return
        self._delete_oldest()
        if self._is_first:
            self._delete_earlier()
            self._is_first = False

    def _keep_older(self) -> None:
        """Give the newest checkpoint another name before it is replaced."""
        if self.checkpoint.keep > 1 and self._written:
            with suppress(FileNotFoundError):  # somebody has moved it
                link_file(self.checkpoint.path, self.checkpoint.older(*self._written[-1]))
                self._linked.add(self._written[-1])

    def _keep_best(self, best_epoch: int) -> None:
        """Give the first checkpoint after the best epoch its name."""
        if self.checkpoint.keep > 1 and best_epoch not in (0, self._best):
            with suppress(FileNotFoundError):
                link_file(self.checkpoint.path, self.checkpoint.best)
            self._best = best_epoch

    def _delete_oldest(self) -> None:
        """Delete all but the last ones; the newest has been written by now."""
        while len(self._written) > self.checkpoint.keep:
            oldest = self._written.pop(0)
            if oldest in self._linked:  # else a file of that name is somebody else's
                with suppress(OSError):
                    os.unlink(self.checkpoint.older(*oldest))

    def _delete_earlier(self) -> None:
        """Delete the older and best checkpoints of an earlier fit."""
        # Where the fit goes on, the best one and those before are its own.
        others = [found for found in self._all_older() if self._at is None or found > self._at]
        names = [self.checkpoint.older(*found) for found in others if found not in self._linked]
        if self._at is None and not self._best and self._is_kept(self.checkpoint.best):
            names.append(self.checkpoint.best)
        for name in names:
            if name != self._source:
                with suppress(OSError):
                    os.unlink(name)

    def _all_older(self) -> list[tuple[int, int]]:
        """Return epoch and step of the older checkpoints that are kept beside this one."""
        if not self._kept:
            return []
        return [f for f in self.checkpoint.all_older() if self._is_kept(self.checkpoint.older(*f))]

    def _is_kept(self, path: str) -> bool:
        """Tell whether a file was kept beside this checkpoint; by this fit or an earlier one."""
        found = _checkpoint_of(path).get("name")
        return bool(self._kept) and found == self._kept["name"]


def _checkpoint_of(path: str | PathLike[str]) -> dict[str, Any]:
    """Return what the header of a file says of its checkpoint; nothing for other files."""
    found: Any = None
    with suppress(OSError, ModelFileError), open_container(path) as container:
        found = describe(container).get("checkpoint")
    return found if isinstance(found, dict) else {}


# What a resumed fit must have in common -----------------------------------------------------------


def in_common(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a resumed fit must have in common with a checkpoint that says this of itself."""
    return {name: value for name, value in found.items() if name not in KEPT}


def fingerprint(
    arrays: Mapping[str, Any],
    options: Mapping[str, Any],
    as_json: Callable[[Any, str], Any] | None = None,
) -> dict[str, Any]:
    """Return what a fit depends on besides its start, as JSON: checksums of arrays, options.

    `as_json` is `comparable`, unless it is given.
    """
    as_json = comparable if as_json is None else as_json
    return {
        "data": {name: _checksum(a) for name, a in arrays.items() if a is not None},
        "options": {name: as_json(value, name) for name, value in options.items()},
    }


def comparable(value: Any, name: str) -> Any:
    """Return a value as JSON, with checksums for its arrays."""
    tensors: dict[str, Any] = {}
    return _without_arrays(encode(value, name, tensors, plain=True), tensors)


def comparable_code(value: Any, name: str) -> Any:
    """Return `comparable`, with checksums for the code of functions and classes of the user's.

    Also for what cannot be written, such as a lambda.
    """
    found, code = _comparable_fields(value, name), code_checksum(value)
    if not code:
        return found
    return {**(found if isinstance(found, dict) else {"value": found}), "code": code}


def _comparable_fields(value: Any, name: str) -> Any:
    """Return `comparable`; what cannot be written is left to its code."""
    try:
        return comparable(value, name)
    except TypeError:
        if isinstance(value, tuple | list):
            return [_comparable_fields(part, name) for part in value]
        fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        inside = {f.name: _comparable_fields(getattr(value, f.name), name) for f in fields}
        return {"object": type(value).__qualname__, "fields": inside}


def _without_arrays(value: Any, tensors: Mapping[str, Any]) -> Any:
    """Return a description with numbers for arrays of one, and checksums for the others."""
    if isinstance(value, list):
        return [_without_arrays(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if "tensor" not in value:
        return {key: _without_arrays(part, tensors) for key, part in value.items()}
    array = tensors[value["tensor"]]
    return encode(array.item(), "", {}) if array.ndim == 0 else _checksum(array)


def _checksum(array: Any) -> dict[str, Any]:
    """Return shape, dtype and CRC-32 of an array; integers of all sizes have those of int64."""
    host, crc = to_numpy(array), 0
    if host.dtype.kind in "iub":  # a backend may have no other integers than 32 bits
        host = host.astype(np.int64, copy=False)
    if host.flags.c_contiguous:
        crc = crc32([host.reshape(-1).view(np.uint8).data])
    else:  # block by block, since each is copied
        rows = max(1, (1 << 24) // max(1, host[:1].nbytes))
        for begin in range(0, len(host), rows):
            crc = zlib.crc32(np.ascontiguousarray(host[begin : begin + rows]).data, crc)
    return {"shape": list(host.shape), "dtype": host.dtype.name, "crc32": f"{crc:08x}"}


def differences(
    before: Any,
    now: Any,
    where: str = "",
    words: tuple[str, str] = ("in the checkpoint", "now"),
) -> list[str]:
    """Return where two JSON values differ, with both values, and words that say whose they are."""
    kinds = [
        v.get("object", v.get("custom")) if isinstance(v, dict) else None for v in (before, now)
    ]
    if kinds[0] == kinds[1] and isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*before, *now]):
            inside = where if key in ("fields", "tuple", "dict") else f"{where}.{key}"
            found += differences(before.get(key), now.get(key), inside, words)
        return found
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}[{i}]", words)]
    if json.dumps(before) == json.dumps(now):
        return []
    before, now = [k or v for k, v in zip(kinds, (before, now), strict=True)]
    return [f"{where.lstrip('.')}: {_short(before)} {words[0]}, {_short(now)} {words[1]}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def sums_of(path: Any) -> dict[str, Any] | None:
    """Return how the ranks that wrote a checkpoint summed gradients; None for one process alone.

    Also for what is no path of a checkpoint: whoever opens it says so.
    """
    found = _checkpoint_of(path).get("distributed") if isinstance(path, str | PathLike) else None
    if found == {"deterministic": False}:
        return {"deterministic": False}
    shards = found.get("shards") if isinstance(found, dict) else None
    if type(shards) is not int or not 0 < shards <= MOST_SHARDS or shards & (shards - 1):
        return None
    return {"deterministic": True, "shards": shards}


def path_to_resume(resume: Any, checkpoint: Checkpoint | None) -> Any:
    """Return what to resume: True is the checkpoint that is written, if it is there; None: none.

    Anything else is returned as it is.
    """
    if resume is True:
        if checkpoint is None:
            raise ValueError("resume=True goes on from the checkpoint: give checkpoint=path")
        if os.path.exists(checkpoint.path):
            return checkpoint.path
        if os.path.isdir(os.path.dirname(checkpoint.path)):
            for found in reversed(checkpoint.all_older()):  # a fit that begins deletes them
                if is_checkpoint(name := checkpoint.older(*found)):
                    raise FileNotFoundError(
                        f"resume=True: {checkpoint.path} is not there, but an older checkpoint is: "
                        f"give resume={name!r}, or move it away to begin anew"
                    )
        return None
    return None if resume is False else resume


def check_run(run: Any, common: Mapping[str, Any]) -> None:
    """Raise TypeError or ModelFileError if a run has what its checkpoints cannot hold."""
    check_header(run, common)


def resumed(
    path: str | PathLike[str], trainer: Any, metrics: Iterable[Any]
) -> tuple[Any, dict[str, Any], list[str]]:
    """Return the run of a checkpoint, on NumPy, with this trainer; its fingerprint; differences.

    If the trainer differs, or a metric is missing, there is no run, and the differences are listed.
    """
    described, tensors = open_file(path, "run")
    try:
        now = {n: comparable(getattr(trainer, n), n) for n in TRAINER}
        common = described.get("checkpoint")
        if not isinstance(common, dict) or type(common.get("start")) is not int:
            raise ModelFileError(
                "it is a run, but no checkpoint. Start from it: fit(resume=portnet.load(path))"
            )
        common = in_common(common)
        before = _without_arrays(described["run"]["trainer"]["dict"], tensors)
        found = differences(before, now)
        if found:
            return None, common, found
        found = _missing_metrics(described["run"]["metrics"]["dict"], metrics)
        if found:
            return None, common, found
        custom = _custom_of(described["run"], tensors, trainer, metrics)
        run = run_from(described, tensors, custom, trainer)
    except ModelFileError as error:
        raise ModelFileError(f"{fspath(path)}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelFileError(f"{fspath(path)}: {type(error).__name__}: {error}") from None
    if run.state is None:
        raise ModelFileError(f"{fspath(path)}: it has no optimizer state")
    return run, common, []


def _missing_metrics(saved: Mapping[str, Any], metrics: Iterable[Any]) -> list[str]:
    """Return the difference between metrics where one that is not portnet's own is not given."""
    given = _by_name(metrics)
    missing = [v["custom"] not in given for v in saved.values() if has_custom(v)]
    now = sorted(m if isinstance(m, str) else _name_of(m) for m in metrics if m is not None)
    return differences({"metrics": sorted(saved)}, {"metrics": now}) if any(missing) else []


def _name_of(thing: Any) -> str:
    return str(getattr(thing, "__name__", type(thing).__name__))


def _by_name(metrics: Iterable[Any]) -> dict[str, Any]:
    return {_name_of(metric): metric for metric in metrics if callable(metric)}


def comparable_names(names: Any) -> Any:
    """Return names, or lists of them, as JSON; many as a checksum; None for none."""
    if names is None:
        return None
    texts = [repr(np.asarray(one).tolist()) for one in names]
    return texts if len(texts) <= 50 else f"{zlib.crc32(repr(texts).encode()):08x}"


def differing_names(what: str, before: Any, now: Any) -> list[str]:
    """Return where two lists of names differ; one line if there are many. None is no list."""
    before, now = [None if n is None else list(map(str, n)) for n in (before, now)]
    found = differences({what: before}, {what: now})
    if len(found) > 5:
        found = [f"{what}: {_short(before)} in the checkpoint, {_short(now)} now"]
    return found


def _custom_of(
    described: Mapping[str, Any], tensors: Mapping[str, Any], trainer: Any, metrics: Iterable[Any]
) -> dict[str, Any]:
    """Return by name what a run has that is not portnet's own, but the fit's: see `decode`.

    That is metrics, and the classes of the parameters and of the optimizer's state.
    """
    found = _by_name(metrics)
    if not has_custom({n: v for n, v in described.items() if n not in ("trainer", "metrics")}):
        return found
    inputs = described["inputs"]
    if not 0 < inputs <= sum(array.size for array in tensors.values()):
        raise ModelFileError(f"it has {inputs} inputs, but no parameters for them")
    params, _ = trainer.model.init(rng.Undrawn(), inputs)

    def add(pytree: Any) -> None:
        if hasattr(pytree, "_fields"):
            found[type(pytree).__name__] = type(pytree)
        for part in pytree.values() if isinstance(pytree, dict) else pytree:
            if isinstance(part, dict | list | tuple):
                add(part)

    add((params, trainer.optimizer.init(params)))
    return found


def mismatch(
    path: str | PathLike[str], found: list[str], remedy: str = FROM_RUN
) -> ResumeMismatchError:
    """Return the error that lists differences, and says what to do."""
    lines = "".join(f"\n  {line}" for line in found)
    own = ""
    if any(line.startswith("distributed: null") for line in found):
        own = "It sums whole batches, not shards: without portnet.distributed, python goes on.\n"
    elif any(line.startswith("distributed") for line in found):
        own = (
            "python -m portnet.distributed --shards N goes on with a run of N shards, and "
            "--no-deterministic with one that has none.\n"
        )
    if any(line.startswith("metrics") for line in found):
        own += (
            "Give metrics=[...] with functions of your own, too: the file has only their names.\n"
        )
    return ResumeMismatchError(
        f"{fspath(path)} was made by another fit, and cannot be resumed exactly:{lines}\n{own}"
        f"{remedy}"
    )
