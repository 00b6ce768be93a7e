"""The epoch: its loop, of compiled and of eager steps."""

import os
import signal

import numpy as np
import pytest
from counting import Counting, conversions
from fits import LABELS, MONITORING, X, assert_same_run, host, trainer

import portnet
from portnet import tree


def test_parameters_changed_between_epochs_equal_eager_training():
    X = np.linspace(-1, 1, 40).reshape(20, 2).astype("float32")
    losses = {}
    for how in (True, False):
        net = portnet.mlp([2, 4, 1], "tanh")
        for run in portnet.Trainer(net, "squared_error", "adam", 5, compile=how).epochs(
            X, X[:, :1], epochs=3
        ):
            losses.setdefault(how, []).append(run.history["loss"][-1])
            for p in tree.leaves(run.params):
                p *= 0.5
    assert losses[True] == losses[False]


# Interrupts --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("default_sigint_handler")
@pytest.mark.parametrize("at", [1, 4, 6, 7, 18])
def test_ctrl_c_between_compiled_steps_resumes_exactly(at, monkeypatch):
    """Parameters and state are those after the step, and later training does not change them."""
    import tqdm.auto

    monkeypatch.setenv("PORTNET_NATIVE", "never")

    class Bar(tqdm.auto.tqdm):
        steps = 0

        def update(self, n=1):
            Bar.steps += 1
            if Bar.steps == at:
                signal.raise_signal(signal.SIGINT)
            return super().update(n)

    net = portnet.Chain([portnet.Dense(8), portnet.ReLU(), portnet.Dropout(0.2), portnet.Dense(3)])
    whole = trainer(model=net).fit(X, LABELS, epochs=3, **MONITORING)
    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    with pytest.warns(UserWarning, match="interrupted"):
        run = trainer(model=net).fit(X, LABELS, epochs=3, progress=True, **MONITORING)
    kept = host((run.params, run.state))
    before = [a.copy() for a in kept]
    rest = 3 - run.epoch
    after = run.fit(X, LABELS, epochs=rest, **MONITORING) if rest else run
    assert_same_run(after, whole)
    assert all(np.array_equal(a, b) for a, b in zip(kept, before, strict=True))


@pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: no step is compiled"
)
def test_interrupt_within_a_compiled_step_keeps_the_finished_steps(monkeypatch):
    from portnet.compiler.executable import Bound

    monkeypatch.setenv("PORTNET_NATIVE", "never")
    whole, calls = Bound.__call__, []
    expected = trainer().fit(X, LABELS, epochs=3)

    def torn(self, arrays):
        calls.append(1)
        if len(calls) == 10:
            for vector in self.replay.last:
                vector[...] = 7  # half written
            raise KeyboardInterrupt
        return whole(self, arrays)

    monkeypatch.setattr(Bound, "__call__", torn)
    with pytest.warns(UserWarning, match=r"interrupted after step 3 of epoch 2"):
        run = trainer().fit(X, LABELS, epochs=3)
    assert_same_run(run.fit(X, LABELS, epochs=2), expected)


# Losses of an epoch ------------------------------------------------------------------------------


SCHEDULES = (
    portnet.Constant(0.1),
    portnet.StepDecay(0.1, 3),
    portnet.ExponentialDecay(0.1, 3),
    portnet.InverseDecay(0.1, 3),
    portnet.CosineDecay(0.1, 30, warmup=3),
)


@pytest.mark.parametrize(
    ("activation", "loss", "optimizer"),
    [
        *[(name, "softmax_cross_entropy", "adam") for name in portnet.layers.ACTIVATIONS],
        *[("gelu", name, "adam") for name in portnet.losses.LOSSES],
        *[("gelu", "softmax_cross_entropy", name) for name in portnet.optimizers.OPTIMIZERS],
        *[("gelu", "huber", portnet.SGD(rate)) for rate in SCHEDULES],
        ("gelu", "huber", portnet.chain(portnet.ClipNorm(0.1), portnet.AdamW(only="W"))),
        ("gelu", "huber", portnet.chain(portnet.WeightDecay(0.1), portnet.Nesterov(SCHEDULES[-1]))),
    ],
)
def test_host_synchronizations_do_not_grow_with_steps(activation, loss, optimizer):
    """The number of times the host asks for a value does not grow with the number of steps."""
    counts = {}
    y = LABELS if loss == "softmax_cross_entropy" else np.eye(3)[LABELS]
    net = portnet.mlp([5, 8, 3], activation, dropout=0.1, norm="layer")
    net = portnet.Chain([portnet.Residual(portnet.Dense(5)), net])
    for batch in (96, 32, 8):
        trainer = portnet.Trainer(net, loss, optimizer, batch_size=batch)
        weight = Counting(np.ones(96, "float32"))
        plateau = portnet.ReduceOnPlateau(patience=1, factor=0.5, min_change=1e9)
        runs = trainer.epochs(
            Counting(X / 100),
            Counting(y),
            epochs=5,
            sample_weight=weight,
            reduce_on_plateau=plateau,
            early_stopping=portnet.EarlyStopping("loss"),
        )
        for _ in range(3):  # data are checked before the first epoch
            scale = next(runs)._scale
        assert scale < 1
        conversions.clear()
        next(runs)
        counts[batch] = list(conversions)
    assert counts[96] == counts[32] == counts[8] == ["__array__"], counts


def test_counting_library_records_conversions():
    conversions.clear()
    x = Counting(1.0)
    assert float(x + 1) == 2.0
    assert conversions == ["__float__"]


def test_mean_loss_of_many_steps_is_accurate():
    """200,000 losses of 0.1 have the mean 0.1: the sum is not float32."""
    net, ones = portnet.Identity(), np.full((200_000, 1), 1.0)
    run = portnet.Trainer(net, "absolute_error", batch_size=10).fit(ones, ones * 0.9, epochs=1)
    assert run.history["loss"][0] == pytest.approx(0.1, rel=1e-6)


def test_mean_of_an_inexact_loss_of_many_steps_is_accurate():
    """The losses are summed in float64: a float32 sum of 20,000 equal losses drifts."""
    net, ones = portnet.Identity(), np.ones((200_000, 1))
    run = portnet.Trainer(net, "absolute_error", batch_size=10).fit(ones, ones * 0.93, epochs=1)
    expected = float(np.float32(1) - np.float32(0.93))
    assert run.history["loss"][0] == pytest.approx(expected, rel=1e-6)


# Memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy", "array_api_strict"])
def test_too_little_memory_names_the_batch_size_on_devices(name):
    class Full(portnet.Dense):
        calls = 0

        def forward(self, params, x, key=None):
            Full.calls += x.shape[0] == 5
            if Full.calls > 2:
                raise MemoryError("cannot allocate 10 bytes")
            return super().forward(params, x, key)

    X = np.linspace(-1, 1, 40).reshape(20, 2)
    with portnet.use_backend(name):
        trainer = portnet.Trainer(Full(1), "squared_error", "adam", batch_size=5, compile=False)
        before = portnet.Trainer(portnet.Dense(1), "squared_error", "adam", batch_size=5)
        run = before.fit(X, X[:, :1], epochs=1, progress=False)
        kept = [portnet.to_numpy(p).copy() for p in tree.leaves(run.params)]
        words = "cannot allocate 10 bytes"
        if name != "numpy":  # that error is Python's own
            words = "array_api_strict.* too little memory for steps of 5 rows: cannot allocate 10 "
            words += r"bytes\. A smaller batch_size needs less; parameters and optimizer are as"
        with pytest.raises(MemoryError, match=words) as caught:
            trainer.fit(X, X[:, :1], epochs=1, progress=False)
    assert ("batch_size" in str(caught.value)) == (name != "numpy")
    for p, q in zip(kept, tree.leaves(run.params), strict=True):
        np.testing.assert_array_equal(p, portnet.to_numpy(q))
