"""Networks: the steps of several networks as one step, whose arrays have one more axis in front.

The step of one network is traced, and each of its operations is done for all networks at once (see
`compiler.batching`), so that layers, losses and optimizers need not know of it: each network gets
the step that it would get by itself, with its own rows, keys, clipping and learning rate. On JAX
this is ``jax.vmap``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from .._typing import Array, Host, Params, State, Tree
from ..backend import device, namespace, to_numpy
from ..compiler.batching import interpret_batched, traced_for_one
from ..compiler.jax_backend import vmapped
from ..rng import Key
from .compile_cache import is_cacheable
from .eager_executor import Step
from .epoch import EpochExecutor, first_state, run_steps
from .epoch_state import Epochs
from .loss_sums import read_sums
from .packing import unpacked

__all__ = [
    "ForNetworks",
    "MakeNetworksStep",
    "NetworksResult",
    "OwnRates",
    "is_faster_in_turn",
    "rows_in_turn",
    "run_networks",
    "size_of_step",
    "stacked",
    "unstacked",
    "with_rate",
]


def stacked(trees: Sequence[Tree]) -> Tree:
    """Return pytrees of equal shapes as one, whose arrays have the axis of networks in front."""
    return tree.map(lambda *arrays: namespace(*arrays).stack(arrays), *trees)


def unstacked(pytree: Tree, networks: Sequence[int]) -> list[Tree]:
    """Return the pytrees of these networks: views, where the library has them."""
    return [tree.map(lambda a, k=k: a[k, ...], pytree) for k in networks]


class ForNetworks:
    """A function of one network's arrays, as a function of those of several networks.

    Parameters
    ----------
    fn : function
        A pure function of pytrees of arrays, which returns one.
    count : int
        The number of networks.
    pure : bool
        Whether fn is known to be pure: any other is traced twice, to see that.

    Notes
    -----
    It is called with `batched`, a tuple that says for each argument whether its arrays have the
    axis of networks in front; those of the results have it. Raises EagerError for what cannot be
    traced.
    """

    def __init__(self, fn: Callable[..., Any], count: int, pure: bool = False) -> None:
        self.fn, self.count, self.pure = fn, count, pure
        self._programs: dict[Any, Any] = {}

    def __call__(self, args: tuple[Any, ...], batched: tuple[bool, ...]) -> Any:
        """Return the results of all networks."""
        arrays: list[Any] = []
        many: list[bool] = []
        for given, each in zip(args, batched, strict=True):
            leaves = tree.leaves(given)
            arrays += leaves
            many += [each] * len(leaves)
        xp = namespace(*arrays)
        if xp.__name__.startswith(("jax", "array_api_compat.jax")):
            return vmapped(self.fn, batched, self.count)(*args)
        form = tuple([(a.shape, str(a.dtype)) for a in arrays]), tuple(many)
        if form not in self._programs:
            self._programs[form] = self._traced(args, arrays, many)
        program, constants = self._programs[form]
        ends = iter(interpret_batched(program, xp, arrays, many, self.count, constants))
        return tree.map(lambda _: next(ends), program.results)

    def _traced(self, args: Any, arrays: list[Any], many: list[bool]) -> Any:
        def rebuild(given: Any) -> Any:
            ends = iter(given)
            return tree.map(lambda _: next(ends), args), {}

        return traced_for_one(self.fn, arrays, many, rebuild, self.pure), {}


@dataclass(frozen=True)
class OwnRates:
    """An optimizer whose learning rate is the first part of its state, so that networks may differ.

    `optimizer` is one of portnet's, or a chain with one of them.
    """

    optimizer: Any

    def init(self, params: Params) -> State:
        """Return the state of the optimizer; `with_rate` puts the learning rate in front."""
        return self.optimizer.init(params)

    def update(self, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        """Return the updates with the learning rate of the state."""
        rate, inner = state
        updates, inner = with_rate(self.optimizer, lambda t: rate).update(grads, inner, params)
        return updates, (rate, inner)


def with_rate(optimizer: Any, rate: Any) -> Any:
    """Return the optimizer with another learning rate: of a chain, the part that has one."""
    parts = getattr(optimizer, "parts", None)
    if parts is not None:
        return replace(optimizer, parts=tuple([with_rate(part, rate) for part in parts]))
    return replace(optimizer, lr=rate) if hasattr(optimizer, "lr") else optimizer


@dataclass(frozen=True)
class MakeNetworksStep:
    """Makes the step of several networks from a model, a loss and an optimizer.

    Parameters
    ----------
    make : function
        Makes the step of one network from these parts: see `portnet.make_step`.
    count : int
        The number of networks.
    own_rows : bool
        Whether each network has rows of its own: the rows of a batch are then those of the first
        network, followed by those of the second, and so on. Else all take the same.
    averaged : bool
        Whether the loss is a mean over rows: its value is then multiplied by their number.
    """

    make: Callable[..., Step]
    count: int
    own_rows: bool
    averaged: bool

    def __call__(self, *parts: Any) -> Step:
        """Return the step of all networks."""
        step = self.make(*parts)
        count, own_rows, averaged = self.count, self.own_rows, self.averaged

        def of_one(params: Any, state: Any, batch: Any, salt: Any, first: Any, scale: Any) -> Any:
            key = None if salt is None else Key(salt, first)
            given = {k: v for k, v in (("key", key), ("scale", scale)) if v is not None}
            params, state, value = step(params, state, *batch, **given)
            return params, state, value * batch[1].shape[0] if averaged else value

        function = ForNetworks(of_one, count, is_cacheable(parts))

        def step_of_all(
            params: Params,
            state: State,
            x: Array,
            y: Array,
            weight: Array | None = None,
            key: Key | None = None,
            scale: Array | None = None,
        ) -> tuple[Params, State, Array]:
            batch = x, y, weight
            if own_rows:
                batch = tree.map(_apart(count), batch)
            salt, first = (None, None) if key is None else key
            if type(first) is int:
                first = _number(first, x)
                salt = _moved(salt, x)
            args = params, state, batch, salt, first, scale
            params, state, value = function(args, (True, True, own_rows, True, False, True))
            return params, state, value

        return step_of_all


def _apart(count: int) -> Callable[[Array], Array]:
    def apart(a: Array) -> Array:
        shape = count, a.shape[0] // count, *a.shape[1:]
        answer: Array = namespace(a).reshape(a, shape)
        return answer

    return apart


def _number(value: int, like: Array) -> Array:
    xp = namespace(like)
    answer: Array = xp.full((1, 1), value, dtype=xp.int32, device=device(like))
    return answer


def _moved(salt: Any, like: Array) -> Array:
    xp = namespace(like)
    answer: Array = xp.asarray(salt, dtype=xp.int32, device=device(like))
    return answer


EPOCHS = 200  # of a typical fit


def is_faster_in_turn(
    elements: int,
    parameters: int,
    *,
    steps: int,
    looked_at: bool,
    shuffled: bool,
    machine_code: bool,
) -> bool:
    """Tell whether networks are trained faster in turn than together, on the host.

    `elements` are those of the arrays of a step, and there are `steps` in an epoch. The number of
    epochs does not matter: two ways of adding differ in the last bits, and a fit that is resumed
    has to have those of one with all the epochs. In microseconds of a step of one network, measured
    on one core: a fit begins once for all networks, an epoch is looked at once, and calls are made
    once; but what a network reads and writes stays in the cache, and all of its steps are machine
    code if there are many, where they are in turn.
    """
    total = steps * EPOCHS
    saved = 1200 / total + 300 * looked_at / steps
    if not machine_code:
        saved += 30
    elif shuffled:
        saved += 6 if total < 500 else 0
    else:
        saved += 9 if total < 2000 else 6
    return saved < (0.006 if shuffled else 0.003) * elements + 0.004 * parameters


def size_of_step(params: Params, rows: int, inputs: int) -> tuple[int, int]:
    """Return the elements of the arrays of a step, and the number of parameters, of a network."""
    shapes = [tuple(p.shape) for p in tree.leaves(params)]
    widths = sum(shape[-1] for shape in shapes if len(shape) > 1 and shape[0] > 1)
    return rows * (inputs + widths), sum(math.prod(shape) for shape in shapes)


# Epochs -----------------------------------------------------------------------------------------


class NetworksResult(NamedTuple):
    """The result of epochs of several networks; see `engine.epoch.EpochResult`.

    `losses` is (epochs, networks), `finite_steps` and `finite` are (networks,).
    """

    params: Params
    state: State
    losses: Host
    finite_steps: Host
    done: int
    finite: Host


def run_networks(
    executor: EpochExecutor,
    params: Params,
    state: State,
    epochs: Epochs,
    interrupted: list[int],
    *,
    done: int = 0,
    sums: Host,
    advance: Callable[[int], object],
    look_at: Callable[[Params, State], Tree] = lambda params, state: params,
) -> NetworksResult:
    """Make the steps of epochs of several networks: see `engine.epoch.run_epochs`.

    `sums` is (2, networks).
    """
    start = first_state(executor, params, state, epochs, sums, done)
    end = run_steps(executor, start, epochs, interrupted, advance)
    params = unpacked(end.params)
    totals, _ = read_sums([*end.before, end.sums], [])
    finite = np.ones(sums.shape[1], dtype=bool)
    for p in tree.leaves(look_at(params, unpacked(end.state))):
        xp = namespace(p)
        flat = xp.reshape(p, (p.shape[0], -1))
        finite &= to_numpy(xp.all(xp.isfinite(flat), axis=1))
    losses = np.stack([t[0] for t in totals])
    return NetworksResult(params, end.state, losses, totals[-1][1], end.done, finite)


def rows_in_turn(orders: Host, size: int) -> Host:
    """Return row numbers (networks, rows) as those of batches of `size`, one after the other.

    A batch has the rows of the first network, then those of the second, and so on.

    Examples
    --------
    >>> import numpy as np
    >>> rows_in_turn(np.array([[0, 1, 2], [2, 0, 1]]), 2)
    array([0, 1, 2, 0, 2, 1])
    """
    networks, rows = orders.shape
    full = rows // size * size
    begin = orders[:, :full].reshape(networks, -1, size).transpose(1, 0, 2).reshape(-1)
    return np.concatenate([begin, orders[:, full:].reshape(-1)])
