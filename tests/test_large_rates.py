"""A learning rate that is far too large is found by diagnose, and not in fits of good rates."""

import itertools
import warnings

import numpy as np
import pytest

import portnet

KIND = "learning rate too large"


def dataset(seed, rows=300):
    """Return X and targets for each loss; a good fit has at most 0.8 of the trivial loss."""
    draw = np.random.default_rng(seed)
    X = draw.standard_normal((rows, 6))
    sign = X[:, 0] + X[:, 1] * X[:, 2] > 0
    smooth = np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * draw.standard_normal(rows)
    return X, {
        "softmax_cross_entropy": np.digitize(X[:, 0] + 0.5 * X[:, 1], [-0.5, 0.5]),
        "sigmoid_cross_entropy": sign.astype(int),
        "squared_error": smooth,
        "absolute_error": smooth,
        "huber": smooth + 3 * (draw.random(rows) < 0.1) * draw.standard_normal(rows),
        "poisson": draw.poisson(np.exp(0.8 * X[:, 0])),
        "noise": draw.standard_normal(rows),
        "noisy labels": draw.integers(0, 2, rows),
    }


def fitted(hidden, activation, loss, optimizer, X, y, epochs=15, batch=32, seed=0, **options):
    outputs = 3 if loss == "softmax_cross_entropy" else 1
    net = portnet.mlp([X.shape[1], *hidden, outputs], activation, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a loss that is large in the first epoch
        trainer = portnet.Trainer(net, loss, optimizer, batch, seed=seed)
        return trainer.fit(X, y, epochs=epochs, progress=False)


def diagnosed(run, X, y):
    return {finding.kind: finding for finding in run.diagnose(X, y)}


LOSSES = [
    "softmax_cross_entropy",
    "sigmoid_cross_entropy",
    "squared_error",
    "absolute_error",
    "huber",
    "poisson",
]
HIDDEN = [((16,), "relu"), ((64, 64), "relu"), ((32,), "tanh"), ((32, 32), "gelu")]


def trivial(loss, y):
    """Return the loss of the best constant prediction, by the formulas."""
    share = np.bincount(y.astype(int)) / len(y) if "entropy" in loss else None
    if share is not None:
        return -(share * np.log(share)).sum()
    if loss == "poisson":
        return y.mean() - y.mean() * np.log(y.mean())
    e = np.abs(y - (np.median(y) if loss == "absolute_error" else y.mean()))
    return {
        "squared_error": (e * e / 2).mean(),
        "absolute_error": e.mean(),
        "huber": np.where(e <= 1, e * e / 2, e - 0.5).mean(),
    }[loss]


@pytest.mark.parametrize("loss", LOSSES)
def test_rates_of_adam_that_learn_nothing_are_found(loss):
    """Nine of ten of those fits whose loss is above the trivial one."""
    ill = found = 0
    for rate, (hidden, activation), seed in itertools.product([1.0, 3.0, 10.0], HIDDEN, range(3)):
        X, targets = dataset(seed)
        y = targets[loss]
        try:
            run = fitted(hidden, activation, loss, portnet.Adam(rate), X, y, seed=seed)
        except portnet.DivergenceError:
            continue
        if np.median(run.history["loss"][-3:]) < trivial(loss, y):
            continue
        findings = diagnosed(run, X, y)
        ill += 1
        found += KIND in findings
        assert "vanishing gradients" not in findings
        if KIND in findings:
            assert f"a smaller learning rate than {rate:g}: " in findings[KIND].remedy
    assert ill >= 9
    assert found >= 0.9 * ill


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        (portnet.SGD(30.0), "softmax_cross_entropy"),
        (portnet.SGD(30.0), "sigmoid_cross_entropy"),
        (portnet.SGD(10.0), "huber"),
        (portnet.SGD(10.0), "absolute_error"),
        (portnet.Momentum(3.0), "softmax_cross_entropy"),
        (portnet.Momentum(3.0), "sigmoid_cross_entropy"),
        (portnet.Momentum(3.0), "huber"),
        (portnet.Nesterov(1.0), "absolute_error"),
        (portnet.RMSProp(3.0), "squared_error"),
        (portnet.RMSProp(3.0), "softmax_cross_entropy"),
    ],
)
def test_rates_of_other_optimizers_that_learn_nothing_are_found(optimizer, loss):
    for seed in range(3):
        X, targets = dataset(seed)
        y = targets[loss]
        run = fitted((32,), "tanh", loss, optimizer, X, y, seed=seed)
        assert np.median(run.history["loss"][-3:]) > 0.9 * trivial(loss, y)
        assert KIND in diagnosed(run, X, y)


GOOD = [
    portnet.Adam(0.01),
    portnet.Adam(1e-3),
    portnet.SGD(0.05),
    portnet.SGD(0.01),
    portnet.Momentum(0.01),
    portnet.RMSProp(1e-3),
    portnet.AdamW(0.01, decay=0.1),
]


@pytest.mark.parametrize("loss", [*LOSSES, "noise", "noisy labels"])
def test_nothing_is_found_of_the_rate_in_fits_of_good_rates(loss):
    """336 fits, 84 of them with targets that do not depend on X."""
    of = {"noise": "squared_error", "noisy labels": "sigmoid_cross_entropy"}.get(loss, loss)
    for optimizer, (hidden, activation), seed in itertools.product(
        GOOD, [*HIDDEN, ((), "relu"), ((16,), "sigmoid")], range(10, 11)
    ):
        X, targets = dataset(seed)
        run = fitted(hidden, activation, of, optimizer, X, targets[loss], 10, seed=seed)
        findings = diagnosed(run, X, targets[loss])
        assert KIND not in findings, (optimizer, hidden, activation, findings)


DRAW = np.random.default_rng(5)
X, E = DRAW.standard_normal((300, 6)), DRAW.standard_normal(300)
T = DRAW.uniform(-1, 1, (300, 1))
BITS = 2.0 * DRAW.integers(0, 2, (300, 5)) - 1
SQUARED, SIGMOID = "squared_error", "sigmoid_cross_entropy"


def small(rng, n_in, n_out):
    return 0.01 * rng.standard_normal((n_in, n_out))


def zeros(rng, n_in, n_out):
    return np.zeros((n_in, n_out))


HARD = {  # where parameters grow, are close to 0, or the loss falls steeply, at rates that are fine
    "mean far from 0": ((16,), "relu", SQUARED, portnet.Adam(0.03), X, 30 + E, 40),
    "bias alone is learned": ((), "relu", SQUARED, portnet.Adam(0.1), X, 5 + E, 60),
    "fast fall": ((16,), "tanh", SQUARED, portnet.SGD(0.01), X, 30 + X[:, 0], 20),
    "noise, weights close to 0": ((), "relu", SQUARED, portnet.SGD(0.1), X, E, 60),
    "decay, weights close to 0": (
        (), "relu", "absolute_error", portnet.chain(portnet.WeightDecay(1.0), portnet.SGD(0.1)),
        X, 0.1 * E, 30,
    ),
    "large decay": ((16,), "relu", SQUARED, portnet.AdamW(0.01, decay=1.0), X, E, 60),
    "targets close to 0": ((16,), "relu", SQUARED, portnet.Adam(0.01), X, 0.01 * X[:, 0], 60),
    "targets of 0": ((16,), "relu", SQUARED, portnet.Adam(0.01), X, 0 * E, 30),
    "one frequency": ((64,), "tanh", SQUARED, portnet.Adam(0.03), T, np.sin(20 * T[:, 0]), 150),
    "parity": ((16,), "tanh", SIGMOID, portnet.Adam(0.01), BITS, BITS.prod(axis=1) > 0, 100),
    "ten rows": ((16,), "relu", SQUARED, portnet.Adam(0.03), X[:10], E[:10], 100),
    "wide": ((512,), "relu", SIGMOID, portnet.Adam(0.01), X, X[:, 0] > 0, 10),
    "few counts": ((16,), "relu", "poisson", portnet.Adam(0.01), X, DRAW.poisson(0.1, 300), 40),
}  # fmt: skip
INITIAL = {
    "small weights, noise": ((16,), "relu", SIGMOID, portnet.Adam(0.01), X, E > 0, 30, small),
    "zero weights, noise": ((), "relu", SIGMOID, portnet.Adam(0.01), X, E > 0, 30, zeros),
    "small weights": ((32, 32), "tanh", SQUARED, portnet.Adam(0.01), X, np.sin(X[:, 0]), 30, small),
}


@pytest.mark.parametrize("name", [*HARD, *INITIAL])
def test_no_epoch_of_a_hard_but_healthy_fit_has_an_alarm_of_its_rate(name):
    hidden, activation, loss, optimizer, X, y, epochs, *weights = (HARD | INITIAL)[name]
    options = {"weights": weights[0]} if weights else {}
    net = portnet.mlp([X.shape[1], *hidden, 1], activation, **options)
    trainer = portnet.Trainer(net, loss, optimizer, 32, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(X, y, epochs=epochs, progress=False, callbacks=[portnet.Diagnose(every=1)])
    assert not [str(w.message) for w in caught if KIND in str(w.message)]


def test_figures_are_those_of_the_first_step_and_of_the_initial_parameters():
    net = portnet.Chain([portnet.Dense(8), portnet.ReLU(), portnet.Dense(1)], n_in=6)
    y = np.sin(X[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = portnet.Trainer(net, SQUARED, portnet.Adam(3.0), 32, seed=2)
        run = trainer.fit(X, y, epochs=20, progress=False)
    finding = diagnosed(run, X, y)[KIND]
    assert finding.text.startswith("the first step was ")
    first = portnet.tree.leaves(portnet.init(net, seed=2, like=X.astype("float32")))
    now = [portnet.to_numpy(p) for p in portnet.tree.leaves(run.params)]
    kept = [i for i, p in enumerate(first) if p.shape != (1, 1)]  # without the last bias

    def size(arrays):
        return np.sqrt(sum((np.asarray(arrays[i], float) ** 2).sum() for i in kept))

    glorot = [np.sqrt(2 * m * n / (m + n)) if m > 1 else 0 for m, n in (p.shape for p in first)]
    start = np.sqrt(sum(max(np.linalg.norm(first[i]), glorot[i]) ** 2 for i in kept))
    count = sum(first[i].size for i in kept)
    assert finding.figure == pytest.approx(size(now) / start, rel=1e-4)
    step = 3.0 * np.sqrt(count) / start  # Adam's first step is lr for each parameter
    assert f"the first step was {step:.2g} times as large" in finding.text
    assert f"the best constant has {np.var(y) / 2:.4g}" in finding.text


def test_loss_of_ones_own_is_compared_with_that_at_the_start():
    def loss(pred, target, weight=None):
        return portnet.SquaredError()(pred, target, weight)

    y = np.sin(X[:, :1])
    run = fitted((16,), "relu", loss, portnet.Adam(3.0), X, y)
    assert (
        "where a guess (the mean, or the initial parameters) has" in diagnosed(run, X, y)[KIND].text
    )
    healthy = fitted((16,), "relu", loss, portnet.Adam(0.01), X, y)
    assert not healthy.diagnose(X, y)


def test_given_initial_parameters_are_the_start():
    net, y = portnet.mlp([6, 16, 1]), np.sin(X[:, 0])
    params = portnet.tree.map(lambda p: 300 * p, portnet.init(net, seed=0))
    trainer = portnet.Trainer(net, SQUARED, portnet.SGD(1e-9), 32, params=params)
    assert KIND not in diagnosed(trainer.fit(X, y, epochs=5, progress=False), X, y)


def test_large_rate_is_found_on_every_backend(xp):
    trainer = portnet.Trainer(portnet.mlp([6, 16, 1]), SQUARED, portnet.Adam(3.0), 32, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer.fit(xp.asarray(X), xp.asarray(np.sin(X[:, 0])), epochs=8, progress=False)
    finding = diagnosed(run, xp.asarray(X), xp.asarray(np.sin(X[:, 0])))[KIND]
    assert finding.text.startswith("the first step was ")


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rate_is_the_cause_where_the_first_epochs_blow_up(seed, epochs):
    x = np.random.default_rng(0).uniform(-3, 3, (400, 1))
    net = portnet.mlp([1, 32, 32, 1], "tanh")
    trainer = portnet.Trainer(net, "squared_error", portnet.SGD(0.9), 32, seed=seed)
    try:
        run = trainer.fit(x, np.sin(2 * x[:, 0]), epochs=epochs)
    except portnet.DivergenceError as error:
        run = error.run
    assert run.epoch > 0
    assert run.history["loss"][-1] > 1e6
    first = run.diagnose(x, np.sin(2 * x[:, 0])).findings[0]
    assert first.kind == "learning rate too large"
    assert "as large as they were at the start" in first.text


def test_rate_is_too_small_where_the_loss_stays_above_that_of_a_constant():
    draw = np.random.default_rng(2)
    x = 2 * draw.standard_normal((2000, 20))
    y = np.argmax(x @ draw.standard_normal((20, 4)), axis=1)
    trainer = portnet.Trainer(
        portnet.mlp([20, 64, 4]), "softmax_cross_entropy", portnet.Adam(1e-5), 50, seed=1
    )
    run = trainer.fit(x, y, epochs=20)
    losses = run.history["loss"]
    assert 1.4 < losses[-1] < 0.95 * losses[0]
    assert [finding.kind for finding in run.diagnose(x, y)] == ["learning rate too small"]
    better = portnet.Trainer(trainer.model, trainer.loss, portnet.Adam(1e-3), 50, seed=1)
    assert not run_of(better, x, y).diagnose(x, y).findings


def run_of(trainer, x, y):
    return trainer.fit(x, y, epochs=20)
