"""Data, networks and helpers that the tests of Trainer, Run and callbacks share."""

import signal

import numpy as np
import pytest
from custom import Square

import portnet
from portnet import tree
from portnet.files import checkpoint
from portnet.optimizers import OPTIMIZERS

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 3, 96)
X = RNG.standard_normal((96, 5)) + 2 * RNG.standard_normal((3, 5))[LABELS]
NOISE = RNG.integers(0, 3, 40)  # random labels: the validation loss soon rises
XV = RNG.standard_normal((40, 5))
NAMES = np.array(["cat", "dog", "emu"])
NET = portnet.mlp([5, 8, 3])


def trainer(loss="softmax_cross_entropy", **options):
    given = {"model": NET, "optimizer": portnet.Adam(0.01), "batch_size": 16, "seed": 1} | options
    return portnet.Trainer(given.pop("model"), loss, **given)


def classifier(**options):
    given = {"optimizer": "adam", "batch_size": 16, "seed": 1} | options
    return portnet.Trainer(given.pop("model", NET), "softmax_cross_entropy", **given)


def host(pytree):
    return [portnet.to_numpy(leaf) for leaf in tree.leaves(pytree) if hasattr(leaf, "dtype")]


def assert_equal(a, b):
    assert len(host(a)) == len(host(b)) > 0
    for p, q in zip(host(a), host(b), strict=True):
        np.testing.assert_array_equal(p, q)


def assert_near(a, b, tolerance):
    for p, q in zip(host(a), host(b), strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)


def assert_same_run(a, b):
    assert_equal(a.params, b.params)
    assert_equal(
        (a.state, a._last, a._best, 0 * host(a.params)[0]),
        (b.state, b._last, b._best, 0 * host(b.params)[0]),
    )
    assert a.history == b.history
    assert (a.epoch, a.step, a.best_epoch, a._scale) == (b.epoch, b.step, b.best_epoch, b._scale)


DECAY = portnet.CosineDecay(0.05, steps=100, warmup=10)
RESUME_CASES = {
    **{name: (name, {}) for name in [*OPTIMIZERS, "lbfgs"]},
    "constant": (portnet.SGD(portnet.Constant(0.05)), {}),
    "step decay": (portnet.Momentum(portnet.StepDecay(0.05, 30)), {}),
    "exponential decay": (portnet.Nesterov(portnet.ExponentialDecay(0.05, 30)), {}),
    "inverse decay": (portnet.RMSProp(portnet.InverseDecay(0.01, 30)), {}),
    "cosine decay": (portnet.AdamW(DECAY), {}),
    "chain": (
        portnet.chain(portnet.WeightDecay(0.01, "W"), portnet.ClipNorm(0.5), portnet.Adam(DECAY)),
        {},
    ),
    "dropout": ("adam", {"dropout": 0.3, "norm": "layer"}),
}
MONITORING = {
    "validation": (XV, NOISE),
    "metrics": ["accuracy", "log_loss"],
    "early_stopping": portnet.EarlyStopping("loss", patience=19, min_change=0.02),
    "reduce_on_plateau": portnet.ReduceOnPlateau(patience=2, factor=0.5, min_change=0.3),
}


class SendsSIGINT(Square):
    """A layer that sends SIGINT in the n-th training step."""

    at = 0
    times = 1

    def forward(self, params, x, key=None):
        if key is not None:
            SendsSIGINT.at -= 1
            if SendsSIGINT.at == 0:
                for _ in range(SendsSIGINT.times):
                    signal.raise_signal(signal.SIGINT)
        return super().forward(params, x, key)


def interrupted(at, method="fit", times=1, **options):
    net = portnet.Chain([portnet.Dense(8), SendsSIGINT(), portnet.Dropout(0.2), portnet.Dense(3)])
    SendsSIGINT.at, SendsSIGINT.times = at, times
    return getattr(trainer(model=net, compile=False), method)(X, LABELS, **options)


def diverging(x, y, optimizer, loss="squared_error"):
    t = portnet.Trainer(portnet.mlp([5, 8, 1]), loss, optimizer, 16)
    with pytest.raises(portnet.DivergenceError) as caught:
        t.fit(x, y, epochs=500)
    return str(caught.value), caught.value.run


class DiedError(Exception):
    """The process ends."""


def dies_after(monkeypatch, writes):
    """Let a fit die right after so many checkpoints."""
    whole, count = checkpoint.Writer.write, []

    def write(self, *args, **options):
        whole(self, *args, **options)
        count.append(1)
        if len(count) == writes:
            raise DiedError

    monkeypatch.setattr(checkpoint.Writer, "write", write)
