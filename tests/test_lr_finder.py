"""find_learning_rate: the range test, its suggestion, and that it leaves everything as it was."""

import dataclasses
import importlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest

import portnet
from portnet import tree
from portnet.lr_finder import LearningRates, suggested

DRAW = np.random.default_rng(3)
X = DRAW.standard_normal((200, 4))
Y = X[:, 0] * X[:, 1] + 0.3 * DRAW.standard_normal(200)
LABELS = (X[:, 0] > 0).astype(int)
NET = portnet.mlp([4, 8, 1], "tanh")
FAST = {"trials": 0, "tests": 1}


def trainer(optimizer=None, loss="squared_error", model=NET, **options):
    return portnet.Trainer(
        model, loss, optimizer or portnet.SGD(), **({"batch_size": 32} | options)
    )


# The suggestion ----------------------------------------------------------------------------------

TEN = [
    "linear, SGD",
    "logistic, Adam",
    "softmax, Momentum",
    "ReLU, softmax, SGD",
    "tanh, noisy labels, Momentum",
    "tanh, squares, RMSProp",
    "ReLU, Huber, Nesterov",
    "clipped SGD",
    "ReLU, Poisson, Adam",
    "dropout, AdamW",
]


@pytest.mark.parametrize("name", TEN)
def test_suggestion_is_within_10_percent_of_the_best_of_a_grid(name, monkeypatch):
    """Final losses of whole fits; `python ci/learning_rates.py` has more problems and seeds."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "ci")
    _, loss, _, least = importlib.import_module("learning_rates").compare(name, seed=0)
    assert loss <= 1.1 * least


def test_suggestion_of_a_made_up_curve_is_left_of_its_lowest_point():
    """The minimum is known, and what the curve does after the loss has risen does not matter."""
    lrs = np.geomspace(1e-5, 10, 121)
    for lowest in (1e-3, 0.03, 0.5):
        falls = 1.0 - 0.8 * np.clip(np.log(lrs / 1e-5) / np.log(lowest / 1e-5), 0, 1)
        rises = 0.5 * np.clip(np.log(lrs / lowest), 0, None)
        rate = suggested(lrs, falls + rises)
        assert 0.2 * lowest < rate < 0.4 * lowest
        again = np.where(lrs > 5 * lowest, 0.0, falls + rises)  # it falls once more, by chance
        assert suggested(lrs, again) == rate


def test_there_is_no_suggestion_where_the_loss_does_not_fall():
    lrs = np.geomspace(1e-5, 10, 121)
    assert suggested(lrs, np.ones(121)) is None
    assert suggested(lrs, np.linspace(1, 2, 121)) is None
    with np.errstate(all="ignore"):
        found = portnet.find_learning_rate(trainer(), X, 0 * Y, low=1e-12, high=1e-10)
    assert found.suggestion is None
    assert found.trials == {}
    assert str(found) == (
        "no learning rate is suggested: the loss did not fall at any rate from 1e-12 to 1e-10"
    )


def descent(params, rates):
    """Return the loss of all rows after each step of gradient descent, written out."""
    loss, y, losses = portnet.SquaredError(), Y[:, None], []
    for rate in rates:
        pred, cache = NET.forward(params, X)
        grads, _ = NET.backward(params, cache, loss(pred, y)[1])
        params = tree.map(lambda p, g, rate=rate: p - rate * g, params, grads)
        losses.append(float(loss(NET.forward(params, X)[0], y)[0]))
    return losses


@pytest.mark.parametrize("given", [False, True])
def test_losses_are_the_mean_of_tests_written_out(given):
    """The tests start from other initial parameters, unless these are given."""
    with portnet.use_backend("numpy", dtype="float64"):
        starts = [portnet.init(NET, seed=seed) for seed in ((5, 5) if given else (5, 6))]
        t = trainer(batch_size=None, seed=5, params=starts[0] if given else None)
        found = portnet.find_learning_rate(t, X, Y, low=1e-3, high=1.0, steps=20, tests=2, trials=0)
    rates = [1e-3 * 1000 ** (i / 19) for i in range(20)][: len(found.lrs)]
    np.testing.assert_allclose(found.lrs, rates)
    expected = np.mean([descent(start, rates) for start in starts], axis=0)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-9)
    assert np.isclose(found.lrs * 0.3, found.suggestion, rtol=1e-12).sum() == 1


def test_loss_of_a_trial_is_that_of_its_last_steps_written_out():
    with portnet.use_backend("numpy", dtype="float64"):
        t = trainer(batch_size=None)
        found = portnet.find_learning_rate(t, X, Y, tests=1, trials=50)
        for rate, loss in found.trials.items():
            losses = descent(portnet.init(NET, seed=0), [rate] * 200)
            assert loss == pytest.approx(np.mean(losses[3::4][-5:]), rel=1e-9)
        alone = portnet.find_learning_rate(t, X, Y, tests=1, trials=0)
    rates = sorted(found.trials)
    np.testing.assert_allclose(np.array(rates[1:]) / rates[:-1], 3**0.5)
    factor = np.log(rates[1] / alone.suggestion) / np.log(3)
    assert round(factor) in (-2, -1, 0, 1, 2)
    assert factor == pytest.approx(round(factor))


@pytest.mark.parametrize("half", range(-5, 6))
def test_trial_with_the_lowest_loss_is_suggested(half, monkeypatch):
    """Of two stages: rates a factor of 3 apart, then closer to the best of them, in more steps."""
    alone = portnet.find_learning_rate(trainer(portnet.Adam()), X, Y, tests=2, trials=0).suggestion
    wanted, steps = alone * 3 ** (half / 2), []

    def trial(run, data, lr, count, number):
        steps.append(count)
        if lr > 1.1 * wanted and number:
            return np.inf
        # A half is as far from both of its neighbours: the smaller one counts as closer.
        return abs(np.log(lr / wanted) + 0.01)

    monkeypatch.setattr(portnet.lr_finder, "_trial", trial)
    found = portnet.find_learning_rate(trainer(portnet.Adam()), X, Y, tests=2, trials=10)
    assert found.suggestion == pytest.approx(wanted)
    assert found.suggestion in found.trials
    assert steps == [10] * 10 + [40] * 6
    assert f"learning rate {found.suggestion:.3g}, from " in str(found)
    assert repr(found) == f"<{found}>"


def test_rate_is_found_on_every_backend(xp):
    found = portnet.find_learning_rate(trainer(), X, Y, steps=60, **FAST)
    with portnet.use_backend("numpy", dtype="float64"):
        expected = portnet.find_learning_rate(trainer(), X, Y, steps=60, **FAST)
    shared = min(len(found.losses), len(expected.losses)) - 5  # float32 and float64 part at the end
    np.testing.assert_allclose(found.losses[:shared], expected.losses[:shared], rtol=1e-3)
    assert found.suggestion == pytest.approx(expected.suggestion, rel=0.3)
    assert type(found.lrs) is type(found.losses) is np.ndarray


@pytest.mark.parametrize(
    ("optimizer", "loss", "y", "options"),
    [
        (portnet.chain(portnet.ClipNorm(1.0), portnet.Adam()), "huber", Y, {}),
        (portnet.AdamW(), "sigmoid_cross_entropy", LABELS, {"class_weight": "balanced"}),
        (portnet.RMSProp(), "squared_error", Y, {"sample_weight": np.linspace(0, 1, 200)}),
    ],
)
def test_chains_weights_and_losses(optimizer, loss, y, options):
    found = portnet.find_learning_rate(trainer(optimizer, loss), X, y, **FAST, **options)
    assert 1e-4 < found.suggestion < 1


def test_custom_optimizer_with_a_rate_is_copied():
    class Sign:
        def __init__(self, lr):
            self.lr = lr

        def init(self, params):
            return ()

        def update(self, grads, state, params):
            return tree.map(lambda g: -self.lr * np.sign(g), grads), state

    optimizer = Sign(1e-3)
    found = portnet.find_learning_rate(trainer(optimizer), X, Y, **FAST)
    assert 1e-4 < found.suggestion < 1
    assert optimizer.lr == 1e-3


# Everything is as before -------------------------------------------------------------------------


def bits(pytree):
    return [np.asarray(portnet.to_numpy(leaf)).tobytes() for leaf in tree.leaves(pytree)]


def test_nothing_is_changed(xp):
    x, y = xp.asarray(X), xp.asarray(Y)
    model = portnet.mlp([4, 8, 1], dropout=0.5)
    params = xp.tree(tree.map(portnet.to_numpy, portnet.init(model, 4, like=x)))
    t = trainer(portnet.Adam(0.01), model=model, params=params)
    run = t.fit(x, y, epochs=2, progress=False)
    before = bits(params), bits(t.params), bits((run.params, run.state)), run.history
    random_states = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    backend, fields = portnet.get_backend(), dataclasses.asdict(t.optimizer)
    data = bits((x, y))
    for start in (t, run):
        portnet.find_learning_rate(start, x, y, steps=40, tests=2, trials=20)
    assert (bits(params), bits(t.params), bits((run.params, run.state)), run.history) == before
    assert random_states == (random.getstate(), np.random.get_state()[1].tobytes())  # noqa: NPY002
    assert portnet.get_backend() is backend
    assert dataclasses.asdict(t.optimizer) == fields
    assert bits((x, y)) == data
    again = t.fit(x, y, epochs=2, progress=False)
    assert bits((again.params, again.state)) == bits((run.params, run.state))


def test_test_that_is_interrupted_changes_nothing(monkeypatch):
    class Stops(portnet.SGD):
        def update(self, grads, state, params):
            raise KeyboardInterrupt

    start = portnet.init(NET, seed=0)
    t, backend = trainer(Stops(0.1), params=start), portnet.get_backend()
    before = bits(start)
    with pytest.raises(KeyboardInterrupt):
        portnet.find_learning_rate(t, X, Y)
    assert bits(start) == before
    assert portnet.get_backend() is backend


def test_run_starts_from_its_parameters():
    t = trainer()
    run = t.fit(X, Y, epochs=50, progress=False)
    found = portnet.find_learning_rate(run, X, Y, **FAST)
    assert found.losses[0] == pytest.approx(run.evaluate(X, Y)["loss"], rel=1e-3)
    untrained = t.fit(X, Y, epochs=0)
    found = portnet.find_learning_rate(untrained, X, Y, **FAST)
    assert found.losses[0] == pytest.approx(untrained.evaluate(X, Y)["loss"], rel=1e-3)


# Bad input ---------------------------------------------------------------------------------------


class NoRate:
    def init(self, params):
        return ()

    def update(self, grads, state, params):
        return grads, state


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("lbfgs", "L-BFGS finds the length of its steps by itself"),
        (NoRate(), "expected an optimizer with a number lr, got NoRate"),
        (portnet.Adam(portnet.CosineDecay(0.1, steps=10)), r"has a schedule.*Adam\(0\.001\)"),
        (
            portnet.chain(portnet.ClipNorm(1.0), portnet.SGD(lambda t: 0.1)),
            r"has a schedule.*SGD\(0\.001\)",
        ),
    ],
)
def test_optimizer_without_a_number_is_an_error(optimizer, message):
    with pytest.raises(TypeError, match=message):
        portnet.find_learning_rate(trainer(optimizer), X, Y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "0 < low < high"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high, got low=1.0 and high=0.1"),
        ({"high": np.inf}, "0 < low < high"),
        ({"low": "small"}, "got low='small'"),
        ({"steps": 5}, "steps: expected an integer of at least 20"),
        ({"tests": 0}, "tests: expected an integer of at least 1"),
        ({"trials": -1}, "trials: expected an integer of at least 0"),
    ],
)
def test_bad_option_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        portnet.find_learning_rate(trainer(), X, Y, **options)


def test_bad_data_is_an_error():
    with pytest.raises(portnet.DataError, match="expected at least 2 rows, got 1"):
        portnet.find_learning_rate(trainer(), X[:1], Y[:1])
    with pytest.raises(portnet.DataError, match="NaN"):
        portnet.find_learning_rate(trainer(), np.where(X > 2, np.nan, X), Y)
    with pytest.raises(portnet.DataError, match="expected 4 features"):
        portnet.find_learning_rate(trainer(), X[:, :2], Y)
    with pytest.raises(TypeError, match=r"expected a portnet\.Trainer or a run, got Chain"):
        portnet.find_learning_rate(NET, X, Y)


def test_loss_that_is_nan_at_once_is_an_error_that_names_the_cause():
    far = X * [1, 1, 1, 1e18]
    linear = trainer(model=portnet.mlp([4, 1]))
    with pytest.raises(
        portnet.DivergenceError, match=r"at a learning rate of 1e-06.*column 3 of X"
    ):
        portnet.find_learning_rate(linear, far, Y)

    def nan(pred, target, weight=None):
        return pred.sum() * np.nan, pred * np.nan

    with pytest.raises(portnet.DivergenceError, match="stopped being finite"):
        portnet.find_learning_rate(trainer(loss=nan), X, Y)


def test_remedy_for_unscaled_inputs_is_to_scale_them_or_a_smaller_low():
    """The rate of the trainer plays no part in the test."""
    linear = portnet.mlp([4, 1])
    with pytest.raises(portnet.DivergenceError) as caught:
        portnet.find_learning_rate(trainer(portnet.SGD(0.025), model=linear), 1e5 * X, Y, low=1e-5)
    message = str(caught.value)
    assert "Scale the inputs" in message
    assert "low=1e-08" in message
    assert "0.025" not in message
    found = portnet.find_learning_rate(trainer(model=linear), 1e5 * X, Y, low=1e-18, **FAST)
    assert found.suggestion > 0


def test_two_rows_are_enough():
    found = portnet.find_learning_rate(trainer(), X[:2], Y[:2], **FAST)
    assert found.suggestion is None or found.suggestion > 0


# The plot ----------------------------------------------------------------------------------------


def test_plot_marks_the_suggestion():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    found = portnet.find_learning_rate(trainer(), X, Y, **FAST)
    ax = found.plot()
    curve, marked = ax.lines[0], [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(curve.get_xdata(), found.lrs)
    np.testing.assert_array_equal(curve.get_ydata(), found.losses)
    assert marked[0].get_xdata()[0] == found.suggestion
    assert ax.get_xscale() == "log"
    assert found.plot(ax=ax) is ax
    none = LearningRates(np.array([0.1, 1.0]), np.array([1.0, 1.0]), None).plot()
    assert len(none.lines) == 1


def test_plot_without_matplotlib_says_what_to_install(monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="plots need matplotlib"):
        LearningRates(np.array([0.1, 1.0]), np.array([1.0, 1.0]), None).plot()


def test_no_rate_is_above_the_largest():
    X = np.random.default_rng(0).standard_normal((200, 2))
    trainer = portnet.Trainer(portnet.mlp([2, 8, 1]), "squared_error", portnet.SGD())
    found = portnet.find_learning_rate(trainer, X, X[:, 0] * X[:, 1], high=0.02, tests=1)
    assert found.suggestion <= 0.02
    assert max(found.trials) <= 0.02
