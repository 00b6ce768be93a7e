"""check_optimizer must accept every optimizer of ours and reject what is planted."""

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
def test_every_public_optimizer_passes(name, xp):
    portnet.check_optimizer(name)
    params = xp.tree(({"W": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.ones((1, 3))},))
    portnet.check_optimizer(OPTIMIZERS[name](), params)


@pytest.mark.parametrize("optimizer", CHAINS)
def test_chains_and_schedules_pass(optimizer):
    portnet.check_optimizer(optimizer)


def test_optimizers_of_optax_pass(jax):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    params = {"W": jax.numpy.ones((3, 2)), "b": jax.numpy.ones(2)}
    portnet.check_optimizer(optax.adam(1e-2), params)
    with portnet.use_backend("jax"):
        portnet.check_optimizer(optax.adam(1e-2))


@dataclass(frozen=True)
class Plain:
    """u = -0.1 g, in the ten lines of a user."""

    def init(self, params):
        return tree.map(lambda p: 0.0 * p, params)

    def update(self, grads, state, params):
        return tree.map(lambda g: -0.1 * g, grads), state


class ReturnsParameters(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda p, g: p - 0.1 * g, params, grads), state


class Climbs(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: 0.1 * g, grads), state


class StandsStill(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: 0.0 * g, grads), state


class Widens(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: -np.float64(0.1) * g, grads), state


class WidensItsState(Plain):
    def update(self, grads, state, params):
        u, _ = super().update(grads, state, params)
        return u, tree.map(lambda s: s * np.float64(1), state)


class AnotherShape(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: -0.1 * g[None], grads), state


class AnotherNest(Plain):
    def update(self, grads, state, params):
        return super().update(grads, state, params)[0][:1], state


class InPlace(Plain):
    def update(self, grads, state, params):
        for g in tree.leaves(grads):
            g *= -0.1
        return grads, state


class WritesItsState(Plain):
    def update(self, grads, state, params):
        for s, g in zip(tree.leaves(state), tree.leaves(grads), strict=True):
            s += g
        return super().update(grads, state, params)


class CountsInPython(Plain):
    def init(self, params):
        return 0

    def update(self, grads, state, params):
        return super().update(grads, state, params)[0], state + 1


class DrawsAtRandom(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: -np.random.default_rng().uniform() * g, grads), state


class UpdatesOnly(Plain):
    def update(self, grads, state, params):
        return super().update(grads, state, params)[0][0]["W"]


class NotFinite(Plain):
    def update(self, grads, state, params):
        return tree.map(lambda g: -g * np.inf, grads), state


FAULTS = [
    (ReturnsParameters(), "got the parameters themselves"),
    (
        Climbs(),
        "expected updates that go against the gradient, as -lr . g does; 20 steps went along",
    ),
    (StandsStill(), "20 steps went nowhere"),
    (
        Widens(),
        r"updates\[0\]\['W'\]: expected shape \(4, 3\) and dtype float32, .* got .* float64",
    ),
    (WidensItsState(), "the state.*: expected shape .* and dtype float32, as of that of init, got"),
    (AnotherShape(), r"expected shape \(4, 3\) .*, got \(1, 4, 3\)"),
    (AnotherNest(), "updates: expected the nest of the parameters"),
    (InPlace(), "update changes its arguments in place"),
    (WritesItsState(), "update changes its arguments in place"),
    (CountsInPython(), "expected a state of arrays where the parameters are, got 0 at state"),
    (DrawsAtRandom(), "update of the same arguments gives other results"),
    (NotFinite(), "updates of finite gradients are not finite"),
]


def test_ten_lines_of_a_user_pass():
    portnet.check_optimizer(Plain())


@pytest.mark.parametrize(("optimizer", "message"), FAULTS, ids=lambda v: type(v).__name__)
def test_planted_faults_are_rejected(optimizer, message):
    with np.errstate(invalid="ignore"), pytest.raises(portnet.OptimizerError, match=message):
        portnet.check_optimizer(optimizer)


def test_what_is_no_optimizer_is_a_type_error():
    with pytest.raises(TypeError, match=r"expected update to return updates, state, got a ndarray"):
        portnet.check_optimizer(UpdatesOnly())
    with pytest.raises(TypeError, match="expected an optimizer with init, update"):
        portnet.check_optimizer(portnet.LBFGS())
    with pytest.raises(ValueError, match="unknown optimizer 'adamm': did you mean 'adam'"):
        portnet.check_optimizer("adamm")


def test_divergence_of_an_optimizer_that_returns_parameters_says_so():
    X, y = np.random.default_rng(0).standard_normal((2, 24, 3))
    trainer = portnet.Trainer(portnet.mlp([3, 3]), "squared_error", ReturnsParameters())
    with pytest.raises(portnet.DivergenceError) as error:
        trainer.fit(X, y, epochs=400, progress=False)
    assert "ReturnsParameters() returns parameters, where updates are expected" in str(error.value)
    assert "portnet.check_optimizer" in str(error.value)
    with pytest.raises(portnet.DivergenceError, match="try a smaller learning rate than 100000"):
        replace(trainer, optimizer=portnet.SGD(1e5)).fit(X, y, epochs=400, progress=False)
