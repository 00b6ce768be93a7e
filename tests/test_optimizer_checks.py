"""check_optimizer accepts every public optimizer and rejects faulty ones."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

import portnet
from portnet import tree
from portnet.optimizers import OPTIMIZERS

RATES = [
    portnet.CosineDecay(1e-2, 100, warmup=10),
    portnet.StepDecay(0.1, 5, 0.5),
    lambda t: 0.1 / (1 + t),
]
CHAINS = [
    portnet.chain(portnet.ClipNorm(1.0), portnet.Adam(1e-3)),
    portnet.chain(portnet.WeightDecay(1e-2, only="W"), portnet.Momentum(0.1)),
    portnet.AdamW(1e-3, decay=0.1),
    *(portnet.SGD(rate) for rate in RATES),
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_public_optimizer_is_accepted(name, xp):
    portnet.check_optimizer(name)
    params = xp.tree(({"W": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.ones((1, 3))},))
    portnet.check_optimizer(OPTIMIZERS[name](), params)


@pytest.mark.parametrize("optimizer", CHAINS)
def test_chains_and_schedules_are_accepted(optimizer):
    portnet.check_optimizer(optimizer)


def test_optax_optimizers_are_accepted(jax):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    params = {"W": jax.numpy.ones((3, 2)), "b": jax.numpy.ones(2)}
    portnet.check_optimizer(optax.adam(1e-2), params)
    with portnet.use_backend("jax"):
        portnet.check_optimizer(optax.adam(1e-2))


@dataclass(frozen=True)
class Plain:
    """u = -0.1 g, as a user writes it."""

    def init(self, params):
        return tree.map(lambda p: 0.0 * p, params)

    def update(self, grads, state, params):
        return tree.map(lambda g: -0.1 * g, grads), state


class ReturnsParameters(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda p, g: p - 0.1 * g, params, grads), state


class AscendsGradient(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: 0.1 * g, grads), state


class ReturnsZeros(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: 0.0 * g, grads), state


class ReturnsFloat64(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: -np.float64(0.1) * g, grads), state


class ReturnsFloat64State(Plain):
    def update(self, grads, state, params):
        u, _ = super().update(grads, state, params)
        return u, tree.map(lambda s: s * np.float64(1), state)


class ReturnsAnotherShape(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: -0.1 * g[None], grads), state


class ReturnsAnotherPytree(Plain):
    def update(self, grads, state, params):
        return super().update(grads, state, params)[0][:1], state


class WritesGradients(Plain):
    def update(self, grads, state, params):
        for g in tree.leaves(grads):
            g *= -0.1
        return grads, state


class WritesState(Plain):
    def update(self, grads, state, params):
        for s, g in zip(tree.leaves(state), tree.leaves(grads), strict=True):
            s += g
        return super().update(grads, state, params)


class HasPythonState(Plain):
    def init(self, params):
        return 0

    def update(self, grads, state, params):
        return super().update(grads, state, params)[0], state + 1


class ReturnsRandomUpdates(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: -np.random.default_rng().uniform() * g, grads), state


class ReturnsUpdatesOnly(Plain):
    def update(self, grads, state, params):
        return super().update(grads, state, params)[0][0]["W"]


class ReturnsInfinity(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: -g * np.inf, grads), state


FAULTS = [
    (ReturnsParameters(), "got the parameters themselves"),
    (
        AscendsGradient(),
        "expected updates that go against the gradient, as -lr . g does; 20 steps went along",
    ),
    (ReturnsZeros(), "20 steps went nowhere"),
    (
        ReturnsFloat64(),
        r"updates\[0\]\['W'\]: expected shape \(4, 3\) and dtype float32, .* got .* float64",
    ),
    (
        ReturnsFloat64State(),
        "the state.*: expected shape .* and dtype float32, as of that of init, got",
    ),
    (ReturnsAnotherShape(), r"expected shape \(4, 3\) .*, got \(1, 4, 3\)"),
    (ReturnsAnotherPytree(), "updates: expected the pytree of the parameters"),
    (WritesGradients(), "update changes its arguments in place"),
    (WritesState(), "update changes its arguments in place"),
    (HasPythonState(), "expected a state of arrays of the parameters' library, got 0 at state"),
    (ReturnsRandomUpdates(), "update with equal arguments gives different results"),
    (ReturnsInfinity(), "updates of finite gradients are not finite"),
]


def test_minimal_custom_optimizer_is_accepted():
    portnet.check_optimizer(Plain())


@pytest.mark.parametrize(("optimizer", "message"), FAULTS, ids=lambda v: type(v).__name__)
def test_faulty_optimizers_are_rejected(optimizer, message):
    with np.errstate(invalid="ignore"), pytest.raises(portnet.OptimizerError, match=message):
        portnet.check_optimizer(optimizer)


def test_objects_that_are_no_optimizers_raise():
    with pytest.raises(TypeError, match=r"expected update to return updates, state, got a ndarray"):
        portnet.check_optimizer(ReturnsUpdatesOnly())
    with pytest.raises(TypeError, match="expected an optimizer with init, update"):
        portnet.check_optimizer(portnet.LBFGS())
    with pytest.raises(ValueError, match="unknown optimizer 'adamm': did you mean 'adam'"):
        portnet.check_optimizer("adamm")


def test_divergence_names_an_optimizer_that_returns_parameters():
    X, y = np.random.default_rng(0).standard_normal((2, 24, 3))
    trainer = portnet.Trainer(portnet.mlp([3, 3]), "squared_error", ReturnsParameters())
    with pytest.raises(portnet.DivergenceError) as error:
        trainer.fit(X, y, epochs=400, progress=False)
    assert "ReturnsParameters() returns parameters, where updates are expected" in str(error.value)
    assert "portnet.check_optimizer" in str(error.value)
    with pytest.raises(portnet.DivergenceError, match="try a smaller learning rate than 100000"):
        replace(trainer, optimizer=portnet.SGD(1e5)).fit(X, y, epochs=400, progress=False)
