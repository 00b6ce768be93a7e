"""ShardedExecutor: how the steps of a fit on several ranks are made.

A batch of b rows is cut into S shards: shard s has its rows from b s // S to b (s + 1) // S. Each
rank computes the sums over the rows of its shards, of the loss and of the gradients, as one vector;
`tree_sum` adds them over all shards and ranks; then every rank makes the same update. A vector is

    gradients | sum of losses | sum of weights | rows | errors | SIGINT | SIGTERM

so that one exchange in a step has all that the ranks must know of each other. Sums are divided
once, by the rows or weights of the whole batch: means of means would be wrong for unequal shards.
"""

import functools
import signal
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .. import tree
from .._typing import Array, Params, State
from ..backend import namespace, to_numpy
from ..data.dataset import Batch
from ..rng import Key
from .compile_cache import compile_cached
from .eager_executor import EagerExecutor
from .epoch_state import Epochs, EpochState, Inputs, take
from .packing import Packing, unpacked
from .ranks import DistributedError, Ranks
from .sharded_step import ShardedStep
from .step_executor import Packed, StepExecutor
from .tree_sum import FLAGS, AllReduce, TreeSum

__all__ = ["sharded_executor"]

AFTER = 3 + FLAGS  # numbers after the gradients in a vector


class Shards:
    """The shards of this rank: sums their vectors, and those of all ranks.

    Parameters
    ----------
    ranks : Ranks
    size : int
        The number of gradients.
    dtype : str
    library : module
        Where the vectors are summed: NumPy or CuPy.
    """

    def __init__(self, ranks: Ranks, size: int, dtype: str, library: Any = np) -> None:
        self.ranks, self.size, self.length = ranks, size, size + AFTER
        several = ranks.size > 1
        name = "numpy" if library is np else "cupy"
        transport = ranks.communicator.transport(name) if several else None
        at = ranks.rank, ranks.size
        self.sums: TreeSum | AllReduce = (
            TreeSum(*at, ranks.shards, self.length, dtype, transport, library)
            if ranks.deterministic
            else AllReduce(*at, self.length, dtype, transport, library)
        )
        self.vector = library.zeros(self.length, dtype)  # of a shard

    def total(self, inputs: Inputs, part: Callable[[Inputs, int], object]) -> Any:
        """Return the sum of the vectors of a batch; raise DistributedError where a rank fails.

        ``part(inputs, first)`` writes the sums of some rows into `vector`, which begin at row
        `first` of the batch. The result is overwritten by the next one.
        """
        arrays, index, key = inputs
        rows = int((arrays[1] if index is None else index).shape[0])
        vector, parts = self.vector, self.sums.parts

        def leaf(shard: int) -> Any:
            begin, end = rows * shard // parts, rows * (shard + 1) // parts
            if begin == end:
                vector[...] = 0
                return vector
            vector[self.size + 1 : self.size + 3] = end - begin
            if index is None:
                some: Inputs = tuple(_rows(a, begin, end) for a in arrays), None, key
            else:
                some = arrays, index[begin:end], key
            part(some, begin)
            return vector

        failure, self.ranks.pending = self.ranks.pending, None
        try:
            if failure is None:
                self.sums.add_own(leaf)
        except BaseException as error:  # the other ranks wait: it is sent to them
            failure = error
        received = self.ranks.received
        signals = [float(n in received) for n in (signal.SIGINT, signal.SIGTERM)]
        self.sums.flag([float(failure is not None), *signals], clear=failure is not None)
        found = self.sums.finish()
        failed, *ends = found[self.length - FLAGS : self.length].tolist()
        if failed:
            self._raise(failure)
        for number, count in zip((signal.SIGINT, signal.SIGTERM), ends, strict=True):
            if count:
                self.ranks.add_signal(number)
        return found

    def _raise(self, failure: BaseException | None) -> None:
        """Raise what the ranks that failed have to say."""
        if failure is not None and not isinstance(failure, Exception | KeyboardInterrupt):
            name = type(failure).__name__
            failure = DistributedError(f"{name} within a step", self.ranks.rank)
        self.ranks.agree(error=failure)


def _rows(a: Any, begin: int, end: int) -> Any:
    return a if a is None else a[begin:end] if hasattr(a, "toarray") else a[begin:end, ...]


class _CompiledShards(StepExecutor):
    """Steps on NumPy: the sums of a shard and the update are each one compiled function."""

    scan_pays = False

    def __init__(
        self, part: Any, finish: Any, packings: Any, key: Key, ranks: Ranks, weighted: bool
    ) -> None:
        super().__init__(finish, packings, key)
        self.part, self.weighted = part, weighted
        (kind,) = packings[0].kinds
        size = sum(prod(shape) for shape, _ in packings[0].leaves)
        self.shards = Shards(ranks, size, kind)
        self._out = self.shards.vector[: size + (2 if weighted else 1)]

    def __call__(self, packed: Packed, inputs: Inputs, scale: Array | None) -> Packed:
        """Make the step of a batch; return params, state, sums."""
        params, state, sums = packed
        key, first = inputs[2], 0 if inputs[2] is None else int(inputs[2].first[0, 0])

        def part(some: Inputs, begin: int) -> None:
            arrays, index, _ = some
            if key is not None:
                key.first[0, 0] = first + begin
            flat = [self._out, *params.values(), *arrays, index, *(key or ())]
            made = self._call(self.part, (self._out, params, *some), flat)
            if made is not None:  # a new array: the plan could not be bound
                self._out[...] = made

        total = self.shards.total(inputs, part)
        flat = [*params.values(), *state.values(), sums, total, scale]
        made = self._call(self.function, (*packed, total, scale), flat)
        return packed if made is None else made

    def _call(self, function: Any, args: Any, flat: list[Any]) -> Any:
        """Make a call that writes into its donated arguments; else return the results.

        `flat` has the arrays of the arguments, in order, and None.
        """
        kind = function, *[None if a is None else a.shape for a in flat]
        flat = [a for a in flat if a is not None]
        if kind not in self._bound:
            executable = function.executable(*args)
            self._bound[kind] = executable and executable.bind(flat)
        bound = self._bound[kind]
        if bound is None:
            return function(*args)
        if bound(flat):
            bound.compile()
        return None

    def scan(self, start: EpochState, epochs: Epochs, planned: int, likely: int) -> None:
        """Return None: the ranks exchange sums in each step."""

    def explain(self, start: EpochState, epochs: Epochs) -> str:
        """Return how the steps of epochs are made, as text."""
        return f"each step is made of compiled sums over shards, on {self.shards.ranks}"


class _EagerShards(EagerExecutor):
    """Steps operation by operation, on any library; sums are added on the host, or by NCCL."""

    def __init__(
        self, make: Any, parts: Any, averaged: bool, vectors: str, start: Any, epochs: Any,
        ranks: Ranks, reason: str = "", compiler: str = "",
    ) -> None:  # fmt: skip
        super().__init__(make, parts, averaged, vectors, start, epochs, reason)
        self.backend, self.ranks = epochs.dataset.backend, ranks
        whole: Any = self.step
        self.weighted = whole.weighted
        params = self.pack(start)[0]
        vector, _ = tree.ravel(params)
        library: Any = np
        if self.backend.name == "cupy" and ranks.communicator.moves("cupy"):
            library = self.backend.xp
        dtype = str(vector.dtype).rpartition(".")[2]
        self.shards = Shards(ranks, int(vector.shape[0]), dtype, library)
        self._on_host = library is np
        self._part: Any = functools.partial(_part, whole, None)
        self._finish: Any = functools.partial(_finish_tree, whole)
        if compiler == "jit":  # its numbers are arrays, so that they may change
            self.key: Any = Key(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int32))
            self._part = compile_cached(_MakePart(make), *parts)
            self._finish = compile_cached(_MakeFinishTree(make), *parts)

    def __call__(self, packed: Any, inputs: Inputs, scale: Array | None) -> Any:
        """Make the step of a batch; return params, state, sums."""
        params, state, sums = packed
        shards = self.shards

        def part(some: Inputs, begin: int) -> None:
            arrays, index, key = some
            if key is not None:
                key = key._replace(first=key.first + begin)
            found = self._part(None, params, arrays, index, key)
            found = to_numpy(found) if self._on_host else found
            shards.vector[: found.shape[0]] = found

        total = shards.total(inputs, part)
        rows = int(total[shards.size + 2])
        vector = self.backend.asarray(total.copy()) if self._on_host else total.copy()
        params, state, value = self._finish(params, state, vector, scale)
        return params, state, sums.plus(value, rows if self.averaged else 1)

    def explain(self, start: EpochState, epochs: Epochs) -> str:
        """Return how the steps of epochs are made, as text."""
        return f"{super().explain(start, epochs)}, on {self.ranks}"


def sharded_executor(
    ranks: Ranks,
    make: Callable[..., ShardedStep],
    parts: tuple[Any, ...],
    averaged: bool,
    vectors: str,
    compiler: str,
    start: EpochState,
    epochs: Epochs,
) -> StepExecutor | EagerExecutor:
    """Return how the step that `make` makes from `parts` is executed on these ranks.

    `make` returns a `ShardedStep`; the rest is as in `step_executor`.
    """
    eager = functools.partial(_EagerShards, make, parts, averaged, vectors, start, epochs, ranks)
    if compiler != "replay":
        return eager(compiler=compiler)
    params, state = unpacked(start.params), unpacked(start.state)
    try:
        packings = Packing.of(params), Packing.of(state)
    except TypeError as error:
        return eager(str(error))
    if len(packings[0].kinds) != 1:  # no parameters, or of several dtypes
        return eager()
    weighted = make(*parts).weighted and epochs.dataset.weight is not None
    part = compile_cached(_MakePart(make), *parts, form=packings[:1], donate=(0,))
    finish = compile_cached(_MakeFinish(make, averaged), *parts, form=packings, donate=(0, 1, 2))
    number = [np.zeros((1, 1), np.int32) for _ in range(2)]
    step = _CompiledShards(part, finish, packings, Key(*number), ranks, weighted)
    arrays, index, key = epochs.inputs(0, start.done, step.key)
    packed = step.pack(start)
    reason = part.refusal(step._out, packed[0], arrays, index, key)
    reason = reason or finish.refusal(*packed, step.shards.sums.total, epochs.scale)
    return eager(reason) if reason else step


@dataclass(frozen=True)
class _MakePart:
    make: Callable[..., ShardedStep]

    def __call__(self, *given: Any) -> Callable[..., Array]:
        *parts, last = given
        if isinstance(last, Packing):
            return functools.partial(_part, self.make(*parts), last)
        return functools.partial(_part, self.make(*given), None)


@dataclass(frozen=True)
class _MakeFinish:
    make: Callable[..., ShardedStep]
    averaged: bool

    def __call__(self, *given: Any) -> Callable[..., Packed]:
        *parts, of_params, of_state = given
        packings = of_params, of_state
        return functools.partial(_finish, self.make(*parts), self.averaged, packings)


@dataclass(frozen=True)
class _MakeFinishTree:
    make: Callable[..., ShardedStep]

    def __call__(self, *parts: Any) -> Callable[..., Any]:
        return functools.partial(_finish_tree, self.make(*parts))


def _part(
    step: ShardedStep,
    packing: Packing | None,
    out: Any,
    params: Params,
    arrays: Batch,
    index: Array | None,
    key: Key | None,
) -> Array:
    """Return gradients, sum of losses, and sum of weights if needed, as one vector."""
    x, y, weight = take(arrays, index)
    trees = params if packing is None else packing.unpack(params)
    value, grads = step.part(trees, x, y, weight, key)
    if packing is None:
        vector, _ = tree.ravel(grads)
    else:
        (vector,) = packing.pack(grads).values()
    xp = namespace(vector)
    ends = [xp.reshape(xp.astype(value, vector.dtype), (1,))]
    if step.weighted and weight is not None:
        ends.append(xp.reshape(xp.sum(weight), (1,)))
    whole: Array = xp.concat([vector, *ends])
    return whole


def _ends(vector: Array, size: int) -> tuple[Array, Array, Array]:
    """Return the sums of losses, weights and rows, 0-d."""
    xp = namespace(vector)
    value, weights, rows = (xp.reshape(vector[size + k : size + k + 1], ()) for k in range(3))
    return value, weights, rows


def _finish(
    step: ShardedStep,
    averaged: bool,
    packings: Any,
    params: Params,
    state: State,
    sums: Array,
    total: Array,
    scale: Array | None,
) -> Packed:
    """Make the update, and add the loss to the sums; all is packed."""
    of_params, of_state = packings
    (kind,) = of_params.kinds
    size = params[kind].shape[0]
    grads = of_params.unpack({kind: total[:size]})
    value, weights, rows = _ends(total, size)
    trees = of_params.unpack(params), of_state.unpack(state)
    params, state, loss = step.finish(*trees, value, grads, rows, weights, scale)
    xp = namespace(sums)
    added = sums[0] + (loss * rows if averaged else loss)
    finite = sums[1] + xp.astype(xp.isfinite(added), sums.dtype)
    return of_params.pack(params), of_state.pack(state), xp.stack([added, finite])


def _finish_tree(
    step: ShardedStep,
    params: Params,
    state: State,
    total: Array,
    scale: Array | None,
) -> tuple[Params, State, Array]:
    """Make the update; nothing is packed."""
    vector, unravel = tree.ravel(params)
    size = vector.shape[0]
    value, weights, rows = _ends(total, size)
    return step.finish(params, state, value, unravel(total[:size]), rows, weights, scale)
