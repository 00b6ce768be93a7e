"""Population: the networks are those of fits one by one; bad input; early stopping; Ctrl-C."""

import math
import pickle
import signal
from dataclasses import dataclass

import numpy as np
import pytest
from custom import Square

import portnet
from portnet import population_epochs, tree
from portnet.population import Population, PopulationRun

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((50, 2))
Y = X[:, :1] * X[:, 1:]
LABELS = (Y[:, 0] > 0).astype(int)
WEIGHTS = DRAW.uniform(0.1, 2, 50)
SMALL = portnet.mlp([2, 8, 4, 1], "tanh")
RICH = portnet.mlp([2, 8, 2], "relu", dropout=0.3, norm="layer")
STOPPING = portnet.EarlyStopping(patience=3)
CLIPPED = portnet.chain(
    portnet.ClipNorm(0.1), portnet.WeightDecay(1e-3, only="W"), portnet.Nesterov(0.1)
)
OWN = portnet.Chain([portnet.Dense(6), Square(), portnet.Residual(portnet.Dense(6))])
OWN = portnet.Chain([*OWN.layers, portnet.Dropout(0.2), portnet.Dense(1)])

CASES = {  # model, loss, optimizer, options of Population, options of fit
    "all rows": (SMALL, "squared_error", portnet.Adam(0.01), {"batch_size": None}, {}),
    "batches": (SMALL, "squared_error", portnet.Adam(0.01), {}, {}),
    "one batch": (SMALL, "squared_error", portnet.Adam(0.01), {"batch_size": 1000}, {}),
    "without shuffling": (SMALL, "huber", portnet.Momentum(0.01), {"shuffle": False}, {}),
    "sum": (SMALL, portnet.SquaredError(reduction="sum"), portnet.SGD(1e-3), {}, {}),
    "learning rates": (
        SMALL,
        "squared_error",
        portnet.AdamW(0.01, only="W"),
        {"learning_rates": [0.1, 0.01, 0.02, 0.001]},
        {},
    ),
    "learning rates of a chain": (
        SMALL,
        "squared_error",
        CLIPPED,
        {"learning_rates": np.asarray([0.1, 0.01, 0.02, 0.001])},
        {},
    ),
    "clipping and dropout": (RICH, "softmax_cross_entropy", CLIPPED, {}, {}),
    "schedule": (
        RICH,
        "softmax_cross_entropy",
        portnet.RMSProp(portnet.CosineDecay(0.01, 50)),
        {},
        {},
    ),
    "own layer": (OWN, "squared_error", portnet.Adam(0.01), {"seeds": [3, 3, 0, 7]}, {}),
    "weights": (SMALL, "squared_error", portnet.Adam(0.01), {}, {"sample_weight": WEIGHTS}),
    "a validation set": (
        RICH,
        "softmax_cross_entropy",
        portnet.Adam(0.03),
        {},
        {"validation": (X[:20], LABELS[:20]), "early_stopping": STOPPING, "metrics": ["accuracy"]},
    ),
    "a fraction for validation": (
        RICH,
        "softmax_cross_entropy",
        portnet.Adam(0.05),
        {},
        {
            "validation": 0.3,
            "early_stopping": STOPPING,
            "reduce_on_plateau": portnet.ReduceOnPlateau(patience=1),
            "metrics": ["log_loss", "accuracy"],
        },
    ),
    "a fraction, all rows": (
        SMALL,
        "squared_error",
        portnet.Adam(0.05),
        {"batch_size": None},
        {"validation": 0.3, "sample_weight": WEIGHTS},
    ),
    "a fraction, without shuffling": (
        SMALL,
        "squared_error",
        portnet.Adam(0.05),
        {"shuffle": False},
        {"validation": 0.3, "metrics": ["r2"]},
    ),
    "class weights": (
        RICH,
        "softmax_cross_entropy",
        portnet.Adam(0.01),
        {},
        {"validation": 0.3, "class_weight": "balanced", "sample_weight": WEIGHTS},
    ),
    "metrics of the training rows": (
        SMALL,
        "squared_error",
        portnet.Adam(0.01),
        {},
        {"metrics": ["r2", "mean_absolute_error"]},
    ),
    "not compiled": (RICH, "softmax_cross_entropy", CLIPPED, {"compile": False}, {}),
}


@pytest.fixture(autouse=True)
def float64():
    with portnet.use_backend("numpy", dtype="float64"):
        yield


@pytest.fixture
def together(monkeypatch):
    """Let all that can be trained together be trained together, and count how often it is."""
    made = []
    original = population_epochs._Together.train
    monkeypatch.setattr(population_epochs, "_is_faster_in_turn", lambda *given: False)

    def train(self):
        made.append(self)
        return original(self)

    monkeypatch.setattr(population_epochs._Together, "train", train)
    return made


def population(model, loss, optimizer, **options):
    return Population(model, 4, loss, optimizer, **{"batch_size": 16, **options})


def assert_equal_runs(run, expected, tolerance=1e-12):
    """The same history, parameters, optimizer state and end."""
    assert (run.epoch, run.step, run.stopped) == (expected.epoch, expected.step, expected.stopped)
    assert run.best_epoch == expected.best_epoch
    assert set(run.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(run.history[name], values, rtol=tolerance, atol=tolerance)
    got = tree.leaves((run.params, run.state, run._last, run._best))
    wanted = tree.leaves((expected.params, expected.state, expected._last, expected._best))
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        if isinstance(b, str | None):  # in the state of L-BFGS
            assert a == b
            continue
        a, b = map(portnet.to_numpy, (a, b))
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_networks_are_those_of_fits_one_by_one(name, together):
    model, loss, optimizer, options, of_fit = CASES[name]
    y = LABELS if "cross_entropy" in str(loss) else Y
    with portnet.use_backend("numpy", dtype="float64"):
        several = population(model, loss, optimizer, **options)
        found = several.fit(X, y, epochs=12, **of_fit)
        assert together
        for run, trainer in zip(found, several.trainers, strict=True):
            assert_equal_runs(run, trainer.fit(X, y, epochs=12, **of_fit))
    ends = {str(tree.leaves(run.params)[0]) for run in found}
    assert len(ends) == len(set(several.seeds)) or options.get("learning_rates") is not None


def test_networks_on_every_backend(xp, together):
    for name in ("learning rates", "a fraction for validation"):
        model, loss, optimizer, options, of_fit = CASES[name]
        y = LABELS if "cross_entropy" in str(loss) else Y
        several = population(model, loss, optimizer, **options)
        of_fit = of_fit | ({"metrics": ["log_loss"]} if "metrics" in of_fit else {})
        found = several.fit(X, y, epochs=4, **of_fit)
        assert together
        for run, trainer in zip(found, several.trainers, strict=True):
            assert_equal_runs(run, trainer.fit(X, y, epochs=4, **of_fit), 20 * xp.rtol)


def test_networks_are_those_of_a_loop_by_hand(together):
    """Gradient descent on all rows, written out in NumPy for one network."""
    net, epochs, lr = portnet.mlp([2, 3, 1], "tanh"), 25, [0.1, 0.5, 0.02]
    with portnet.use_backend("numpy", dtype="float64"):
        several = Population(
            net, 3, "squared_error", "sgd", None, seeds=[5, 6, 7], learning_rates=lr
        )
        found = several.fit(X, Y, epochs=epochs)
        starts = [portnet.init(net, seed=seed) for seed in (5, 6, 7)]
    assert together
    for run, rate, start in zip(found, lr, starts, strict=True):
        (first, _, second), losses = start, []
        W1, b1, W2, b2 = first["W"], first["b"], second["W"], second["b"]
        for _ in range(epochs):
            hidden = np.tanh(X @ W1 + b1)
            error = hidden @ W2 + b2 - Y
            losses.append(float((error**2).sum() / 2 / len(X)))
            dz2 = error / len(X)
            dz1 = dz2 @ W2.T * (1 - hidden**2)
            W2, b2 = W2 - rate * hidden.T @ dz2, b2 - rate * dz2.sum(axis=0, keepdims=True)
            W1, b1 = W1 - rate * X.T @ dz1, b1 - rate * dz1.sum(axis=0, keepdims=True)
        np.testing.assert_allclose(run.history["loss"], losses, rtol=1e-12)
        np.testing.assert_allclose(run.params[0]["W"], W1, rtol=1e-10)
        np.testing.assert_allclose(run.params[2]["b"], b2, rtol=1e-10)


def test_networks_that_stop_at_different_epochs_are_as_they_were_then(together):
    with portnet.use_backend("numpy", dtype="float64"):
        several = Population(
            RICH, 9, "softmax_cross_entropy", portnet.Adam(0.05), 16, seeds=range(9)
        )
        options = {"epochs": 40, "validation": 0.4, "early_stopping": STOPPING}
        found = several.fit(X, LABELS, **options)
        expected = [trainer.fit(X, LABELS, **options) for trainer in several.trainers]
    assert len({run.epoch for run in found}) > 3
    assert together[0].networks != list(range(9))  # some went on without the others
    for run, alone in zip(found, expected, strict=True):
        assert_equal_runs(run, alone)


def test_going_on_equals_an_uninterrupted_fit(together):
    with portnet.use_backend("numpy", dtype="float64"):
        several = population(RICH, "softmax_cross_entropy", portnet.Adam(0.01))
        whole = several.fit(X, LABELS, epochs=8)
        again = several.fit(X, LABELS, epochs=3).fit(X, LABELS, epochs=5)
    assert len(together) == 3
    for run, expected in zip(again, whole, strict=True):
        assert_equal_runs(run, expected)


@dataclass(frozen=True)
class Looks:
    """An activation that looks at a value, so that it cannot be traced."""

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        return (x if float(x[0, 0]) > -1e9 else -x), None

    def backward(self, params, cache, dy):
        return (), dy


def test_what_cannot_be_traced_is_trained_in_turn(capsys):
    model = portnet.Chain([portnet.Dense(4), Looks(), portnet.Dense(1)])
    several = population(model, "squared_error", "adam", compile=False)
    found = several.fit(X, Y, epochs=3)
    for run, trainer in zip(found, several.trainers, strict=True):
        assert_equal_runs(run, trainer.fit(X, Y, epochs=3))


class Noisy(Looks):
    """A layer that draws from NumPy's global generator: two calls of it differ."""

    def forward(self, params, x, key=None):
        return x + np.random.standard_normal(), None  # noqa: NPY002


def test_impure_layers_are_not_frozen(together):
    model = portnet.Chain([portnet.Dense(4), Noisy(), portnet.Dense(1)])
    several = population(model, "squared_error", "adam", compile=False)
    np.random.seed(0)  # noqa: NPY002
    losses = several.fit(X, Y, epochs=3)[0].history["loss"]
    np.random.seed(0)  # noqa: NPY002
    assert losses != several.fit(X, Y, epochs=3)[1].history["loss"]


@pytest.mark.parametrize(
    "optimizer", [portnet.LBFGS(), "adam"], ids=["l-bfgs", "wide networks, many rows"]
)
def test_others_are_trained_in_turn(optimizer, capsys):
    wide = portnet.mlp([2, 300, 1])
    several = Population(wide, 2, "squared_error", optimizer, None)
    rows = np.resize(X, (2000, 2))
    several.explain(rows, rows[:, :1], epochs=1000)
    assert "2 networks are trained in turn: " in capsys.readouterr().out
    several = Population(SMALL, 2, "squared_error", optimizer, None)
    for run, trainer in zip(several.fit(X, Y, epochs=3), several.trainers, strict=True):
        assert_equal_runs(run, trainer.fit(X, Y, epochs=3))


def test_small_networks_are_trained_together(capsys):
    several = Population(SMALL, 64, "squared_error", "adam", None)
    several.explain(X, Y, epochs=1000)
    assert capsys.readouterr().out == "64 networks are trained together, as one program\n"


def test_one_network_is_that_of_a_trainer():
    (run,) = Population(SMALL, 1, "squared_error", seeds=[4]).fit(X, Y, epochs=3)
    assert_equal_runs(run, portnet.Trainer(SMALL, "squared_error", seed=4).fit(X, Y, epochs=3))


def test_no_epochs_only_initialise(together):
    found = Population(SMALL, 3, "squared_error", seeds=[4, 5, 6]).fit(X, Y, epochs=0)
    for run, seed in zip(found, (4, 5, 6), strict=True):
        expected = portnet.init(SMALL, seed=seed)
        assert (run.params[0]["W"] == expected[0]["W"]).all()
        assert run.epoch == 0


# Predictions --------------------------------------------------------------------------------------


def test_predictions_are_means_over_the_networks():
    found = population(SMALL, "squared_error", "adam").fit(X, Y[:, 0], epochs=3)
    each = np.stack([run.predict(X) for run in found.runs])
    assert each.shape == (4, 50)
    mean, std = found.predict(X, return_std=True)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(found.predict(X), mean)
    np.testing.assert_array_equal(found.predict_each(X), each)
    ss = ((Y[:, 0] - mean) ** 2).sum() / ((Y[:, 0] - Y[:, 0].mean()) ** 2).sum()
    assert math.isclose(found.score(X, Y[:, 0]), 1 - ss, rel_tol=1e-5)


def test_probabilities_are_averaged_and_classes_follow():
    names = np.array(["down", "up"])[LABELS]
    found = population(RICH, "softmax_cross_entropy", portnet.Adam(0.03)).fit(X, names, epochs=20)
    each = np.stack([run.predict_proba(X) for run in found])
    np.testing.assert_allclose(found.predict_proba(X), each.mean(axis=0), rtol=1e-6)
    expected = np.array(["down", "up"])[each.mean(axis=0).argmax(axis=1)]
    assert (found.predict_class(X) == expected).all()
    assert math.isclose(found.score(X, names), (expected == names).mean(), rel_tol=1e-6)


def test_one_output_has_two_probabilities():
    found = population(SMALL, "sigmoid_cross_entropy", "adam").fit(X, LABELS, epochs=3)
    proba, std = found.predict_proba(X, return_std=True)
    assert proba.shape == std.shape == (50, 2)
    assert (found.predict_class(X) == (proba[:, 1] >= 0.5)).all()


def test_runs_are_a_sequence_and_can_be_pickled():
    found = population(SMALL, "squared_error", "adam").fit(X, Y, epochs=2)
    assert isinstance(found, PopulationRun)
    assert len(found) == 4
    assert found[1:3].runs == found.runs[1:3]
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.predict(X), found.predict(X))
    assert "4 networks" in repr(found)


# Errors, and training that ends early -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"n_networks": 0}, ValueError, "n_networks: expected an integer of at least 1, got 0"),
        ({"n_networks": 2.5}, ValueError, "n_networks"),
        ({"n_networks": True}, ValueError, "n_networks"),
        ({"seeds": [1, 2]}, ValueError, "seeds: expected one for each of 3 networks, got 2"),
        ({"seeds": 7}, TypeError, "seeds: expected one for each of 3 networks, got 7"),
        ({"seeds": [0, -1, 2]}, ValueError, r"seeds\[1\]"),
        ({"seeds": [0, "1", 2]}, ValueError, r"seeds\[1\]"),
        ({"learning_rates": [0.1]}, ValueError, "learning_rates: expected one for each of 3"),
        ({"learning_rates": [0.1, 0, 1]}, ValueError, r"learning_rates\[1\]: .*lr > 0"),
        ({"learning_rates": [0.1, "x", 1]}, TypeError, r"learning_rates\[1\]: expected a number"),
        ({"learning_rates": [1, 2, 3], "optimizer": "lbfgs"}, TypeError, "learning_rates"),
        (
            {"learning_rates": [1, 2, 3], "optimizer": portnet.SGD(portnet.CosineDecay(1.0, 9))},
            TypeError,
            "has a schedule",
        ),
        ({"loss": "mse"}, ValueError, "squared_error"),
        ({"n_estimators": 3}, TypeError, "n_estimators"),
    ],
)
def test_bad_options_are_refused(options, kind, message):
    given = {"n_networks": 3, "loss": "squared_error"} | options
    with pytest.raises(kind, match=message):
        Population(SMALL, **given)


def test_options_of_fit_that_populations_lack_are_refused():
    several = Population(SMALL, 3, "squared_error")
    with pytest.raises(TypeError, match="checkpoint"):
        several.fit(X, Y, checkpoint="run.safetensors")


def test_bad_data_are_refused_as_by_a_trainer():
    several = Population(SMALL, 3, "squared_error")
    with pytest.raises(portnet.DataError, match="expected 2 features"):
        several.fit(np.zeros((5, 3)), Y[:5])


@pytest.mark.parametrize("in_turn", [False, True])
def test_divergence_names_the_network(in_turn, monkeypatch):
    if in_turn:
        monkeypatch.setattr(population_epochs, "_is_faster_in_turn", lambda *given: True)
    rates = [0.01, 1e6, 0.01]
    several = Population(SMALL, 3, "squared_error", "sgd", 16, learning_rates=rates)
    with pytest.raises(portnet.DivergenceError, match="stopped being finite") as caught:
        several.fit(X, Y, epochs=400)
    assert "network 1 of the population, with seed 1, learning rate 1e+06" in str(
        caught.value.__notes__
    )
    assert caught.value.run.trainer is several.trainers[1]
    with pytest.raises(portnet.DivergenceError) as alone:
        several.trainers[1].fit(X, Y, epochs=400)
    assert str(alone.value) == str(caught.value)


def test_ctrl_c_ends_after_a_step_and_runs_go_on_exactly(together):
    pressed = []

    def press(pred, target, weight=None):
        return portnet.SquaredError()(pred, target, weight)

    class Optimizer(portnet.Adam):
        """Adam, which presses Ctrl-C in its 30th step."""

        def update(self, grads, state, params):
            pressed.append(0)
            if len(pressed) == 30:
                signal.raise_signal(signal.SIGINT)
            return super().update(grads, state, params)

    several = population(SMALL, press, Optimizer(0.01), compile=False)
    monitored = {"validation": (X, Y)}
    plain = several.fit(X, Y, epochs=4, **monitored)
    assert [run.epoch for run in plain] == [4] * 4


def test_ctrl_c_between_steps(together, monkeypatch):
    made = []
    original = population_epochs.run_networks

    def run(*args, advance, **options):
        def counted(steps):
            made.append(steps)
            if sum(made) == 10:  # the second step of epoch 3
                signal.raise_signal(signal.SIGINT)
            advance(steps)

        return original(*args, advance=counted, **options)

    several = population(RICH, "softmax_cross_entropy", portnet.Adam(0.01))
    whole = several.fit(X, LABELS, epochs=6, validation=(X, LABELS))
    monkeypatch.setattr(population_epochs, "run_networks", run)
    made.clear()
    with pytest.warns(UserWarning, match="interrupted after step 2 of epoch 3") as warned:
        part = several.fit(X, LABELS, epochs=6, validation=(X, LABELS))
    assert len(warned) == 1
    assert {(r.epoch, r.step) for r in part} == {(2, 2)}
    monkeypatch.setattr(population_epochs, "run_networks", original)
    again = part.fit(X, LABELS, epochs=4, validation=(X, LABELS))
    for run_, expected in zip(again, whole, strict=True):
        assert_equal_runs(run_, expected, 1e-6)
