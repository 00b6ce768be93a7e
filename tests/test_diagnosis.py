"""run.diagnose and the callback Diagnose: alarms on fits made ill on purpose, none on healthy ones."""

import importlib
import io
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

import portnet
from portnet import tree

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((400, 6))
LABELS = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
THREE = np.digitize(X[:, 0] + 0.5 * X[:, 1], [-0.5, 0.5])
NOISY = np.where(DRAW.random(400) < 0.2, 1 - LABELS, LABELS)
SMOOTH = np.sin(X[:, 0]) + 0.5 * X[:, 1] * X[:, 2] + 0.1 * DRAW.standard_normal(400)
SMALL = 0.01 * np.random.default_rng(1).standard_normal(400)
COUNTS = DRAW.poisson(np.exp(0.5 * X[:, 0]))
CLASSES, SIGMOID, SQUARED = "softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error"
PATTERNS = np.array(
    [list(map(float, c)) for c in "1111 0000 1010 0101 1100 0011 1001 0110".split()]
)


def fit(net, loss, optimizer, X, y, epochs=20, batch=32, params=None, **options):
    trainer = portnet.Trainer(net, loss, optimizer, batch, params=params, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the scale of X in the first epoch
        return trainer.fit(X, y, epochs=epochs, progress=False, **options)


def mlp(*hidden, outputs=1, activation="relu", **options):
    return portnet.mlp([6, *hidden, outputs], activation, **options)


# Twenty healthy fits: networks, losses and optimizers as people choose them.
HEALTHY = {
    "adam": lambda: fit(mlp(32, outputs=2), CLASSES, portnet.Adam(0.01), X, LABELS),
    "adam, default rate": lambda: fit(mlp(64, 64, outputs=3), CLASSES, "adam", X, THREE),
    "sgd": lambda: fit(mlp(16, outputs=3), CLASSES, portnet.SGD(0.1), X, THREE),
    "momentum": lambda: fit(mlp(16, 16), SIGMOID, portnet.Momentum(0.02), X, LABELS),
    "nesterov": lambda: fit(mlp(16), SIGMOID, portnet.Nesterov(0.02), X, LABELS),
    "rmsprop": lambda: fit(mlp(16), SIGMOID, portnet.RMSProp(3e-3), X, LABELS),
    "adamw, dropout": lambda: fit(
        mlp(64, 64, outputs=2, dropout=0.3), CLASSES, portnet.AdamW(3e-3), X, NOISY
    ),
    "lbfgs": lambda: fit(mlp(8), SQUARED, "lbfgs", X, SMOOTH, 30),
    "tanh": lambda: fit(mlp(16, activation="tanh"), SQUARED, portnet.Adam(0.01), X, SMOOTH, 50),
    "tanh, deep": lambda: fit(
        mlp(*[16] * 5, activation="tanh"), SQUARED, portnet.Adam(3e-3), X, SMOOTH, 30
    ),
    "sigmoid": lambda: fit(
        mlp(16, activation="sigmoid"), SIGMOID, portnet.Adam(0.03), X, LABELS, 50
    ),
    "relu, deep": lambda: fit(mlp(*[32] * 8), SQUARED, portnet.Adam(1e-3), X, SMOOTH, 30),
    "gelu, norm": lambda: fit(
        mlp(32, 32, activation="gelu", norm="layer"), SQUARED, portnet.Adam(3e-3), X, SMOOTH
    ),
    "huber": lambda: fit(mlp(32), "huber", portnet.Adam(0.01), X, SMOOTH),
    "absolute error": lambda: fit(mlp(32), "absolute_error", portnet.Adam(0.01), X, SMOOTH),
    "poisson": lambda: fit(mlp(16), "poisson", portnet.Adam(0.01), X, COUNTS),
    "linear": lambda: fit(mlp(), SIGMOID, portnet.SGD(0.5), X, NOISY, 50),
    "schedule, clipping": lambda: fit(
        mlp(32, 32, outputs=3),
        CLASSES,
        portnet.chain(portnet.ClipNorm(1.0), portnet.Adam(portnet.CosineDecay(0.01, steps=260))),
        X,
        THREE,
    ),
    "early stopping": lambda: fit(
        mlp(64, 64, outputs=2),
        CLASSES,
        portnet.Adam(0.01),
        X,
        NOISY,
        100,
        validation=0.3,
        early_stopping=True,
    ),
    "learned by heart": lambda: fit(
        portnet.mlp([4, 8, 4]),
        CLASSES,
        portnet.SGD(0.3),
        PATTERNS,
        np.repeat(range(4), 2),
        3000,
        None,
    ),
    "nothing to learn": lambda: fit(
        mlp(8, outputs=2), CLASSES, portnet.AdamW(1e-3), X, DRAW.integers(0, 2, 400), 10
    ),
    "not done yet": lambda: fit(
        mlp(), SQUARED, portnet.Adam(1e-3), X, 0.003 * X[:, 0] + SMALL, 100
    ),
    "a long sum": lambda: fit(
        mlp(8, activation="sigmoid"),
        portnet.SigmoidCrossEntropy(reduction="sum"),
        portnet.SGD(0.002),
        X,
        LABELS,
        500,
        None,
    ),
}


def shifted(net, change):
    return change(portnet.init(net, 6, seed=1))


def negative_biases(net):
    return shifted(net, lambda params: tree.map(lambda p: p - 30.0 * (p.shape[0] == 1), params))


def large_weights(net, factor):
    return shifted(net, lambda params: tree.map(lambda p: factor * p, params))


DEEP = mlp(*[8] * 10, activation="sigmoid")
RELU, SATURATED = mlp(16, 16), mlp(16, activation="sigmoid")
FAR = X * [1, 1, 1, 1, 1, 0.01] + [0, 0, 0, 0, 0, 2000.0]
RARE = np.zeros(400, int)
RARE[DRAW.permutation(400)[:8]] = 1
WIDE = mlp(*[32] * 8, weights=lambda rng, i, o: rng.standard_normal((i, o)))

ILL = {
    "dead ReLUs": (
        "dead units",
        lambda: (
            fit(RELU, SQUARED, portnet.SGD(0.01), X, SMOOTH, params=negative_biases(RELU)),
            SMOOTH,
        ),
    ),
    "ReLUs that a large rate has killed": (
        "dead units",
        lambda: (fit(mlp(16, 16), SQUARED, portnet.Adam(3.0), X, SMOOTH, 30), SMOOTH),
    ),
    "saturated sigmoids": (
        "saturated units",
        lambda: (
            fit(
                SATURATED,
                SIGMOID,
                portnet.SGD(0.01),
                X,
                LABELS,
                5,
                params=large_weights(SATURATED, 30),
            ),
            LABELS,
        ),
    ),
    "saturated tanh": (
        "saturated units",
        lambda: (
            fit(
                mlp(16, activation="tanh"),
                SQUARED,
                portnet.SGD(1e-4),
                X,
                SMOOTH,
                5,
                params=large_weights(mlp(16, activation="tanh"), 20),
            ),
            SMOOTH,
        ),
    ),
    "ten layers of sigmoids": (
        "vanishing gradients",
        lambda: (fit(DEEP, SQUARED, portnet.SGD(0.1), X, SMOOTH), SMOOTH),
    ),
    "initial weights that are too large": (
        "exploding gradients",
        lambda: (fit(WIDE, SQUARED, portnet.SGD(1e-12), X, SMOOTH, 3), SMOOTH),
    ),
    "a rate a million times too small": (
        "learning rate too small",
        lambda: (fit(mlp(16), SQUARED, portnet.SGD(1e-7), X, SMOOTH), SMOOTH),
    ),
    "Adam's rate far too small": (
        "learning rate too small",
        lambda: (fit(mlp(16, outputs=2), CLASSES, portnet.Adam(1e-7), X, LABELS), LABELS),
    ),
    "a rate at which the loss rises": (
        "learning rate too large",
        lambda: (
            fit(
                mlp(16, activation="tanh"),
                SQUARED,
                portnet.SGD(lambda t: 0.05 * 1.02**t),
                X,
                SMOOTH,
                15,
            ),
            SMOOTH,
        ),
    ),
    "Adam's rate far too large": (
        "learning rate too large",
        lambda: (
            fit(mlp(16, outputs=2, activation="tanh"), CLASSES, portnet.Adam(3.0), X, LABELS),
            LABELS,
        ),
    ),
    "a column of years": (
        "inputs that are not scaled",
        lambda: (fit(RELU, SIGMOID, portnet.SGD(1e-6), FAR, LABELS), LABELS),
    ),
    "inputs of millionths": (
        "inputs that are not scaled",
        lambda: (fit(RELU, SIGMOID, portnet.Adam(), 1e-6 * X, LABELS), LABELS),
    ),
    "targets in the thousands": (
        "targets that are not scaled",
        lambda: (fit(RELU, SQUARED, portnet.Adam(), X, 5000 * SMOOTH), 5000 * SMOOTH),
    ),
    "2% of one class": (
        "labels out of balance",
        lambda: (fit(mlp(8, outputs=2), CLASSES, portnet.Adam(1e-3), X, RARE), RARE),
    ),
    "one class only": (
        "labels out of balance",
        lambda: (fit(mlp(8), SIGMOID, portnet.Adam(1e-3), X, 0 * RARE), 0 * RARE),
    ),
    "learned by heart": (
        "validation loss that turned",
        lambda: (
            fit(
                mlp(128, 128, outputs=2), CLASSES, portnet.Adam(0.01), X, NOISY, 40, validation=0.4
            ),
            NOISY,
        ),
    ),
}


@pytest.fixture
def fitted(monkeypatch):
    """The last run that Trainer.fit returned, with its rows."""
    last, fit_once = {}, portnet.Trainer.fit

    def remembers(self, X, y, **options):
        last["run"] = fit_once(self, X, y, **options)
        last["data"] = X, y
        return last["run"]

    monkeypatch.setattr(portnet.Trainer, "fit", remembers)
    return last


def test_there_are_twenty_healthy_fits():
    assert len(HEALTHY) >= 20


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_a_healthy_fit(name, fitted):
    run = HEALTHY[name]()
    found = run.diagnose(*fitted["data"])
    assert not found, str(found)
    assert len(found) == 0
    assert str(found).startswith(f"nothing was found after epoch {run.epoch}: ")


@pytest.mark.parametrize("name", HEALTHY)
def test_callback_finds_nothing_in_any_epoch_of_a_healthy_fit(name, monkeypatch):
    found, fit_once = [], portnet.Trainer.fit
    monkeypatch.setattr(portnet.diagnosis, "warn", found.append)

    def watched(self, X, y, **options):
        return fit_once(self, X, y, callbacks=[portnet.Diagnose(every=1)], **options)

    monkeypatch.setattr(portnet.Trainer, "fit", watched)
    HEALTHY[name]()
    assert found == []


def test_every_kind_of_finding_is_shown_on_an_ill_fit():
    assert {kind for kind, _ in ILL.values()} == {*portnet.diagnosis.KINDS}


@pytest.mark.parametrize("name", ILL)
def test_an_ill_fit_raises_its_alarm(name, fitted):
    kind, make = ILL[name]
    run, _ = make()
    found = {finding.kind: finding for finding in run.diagnose(*fitted["data"])}
    assert kind in found, found
    finding = found[kind]
    assert any(c.isdigit() for c in finding.text)
    assert str(finding) == f"{kind}: {finding.text}. Usual remedy: {finding.remedy}"


EXAMPLES = {
    "pattern_weaver": [],
    "two_blobs": [],
    "patterns_2x2": ["0 1 0 1"],
    "single_neuron": [],
    "xor": [],
    "blobs": ["--rows", 4000, "--features", 8, "--classes", 4, "--hidden", 32, "--batch", 100],
    "backprop_by_hand": [],
    "training_features": [],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_is_found_in_the_runs_of_an_example(name, monkeypatch, tmp_path):
    if name == "training_features":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "examples")
    fit_once, found = portnet.Trainer.fit, []

    def diagnosed(self, X, y, **options):
        run = fit_once(self, X, y, **options)
        found.append(run.diagnose(X, y) if run.epoch else ())
        return run

    def diagnosed_epochs(self, X, y, **options):
        for run in epochs(self, X, y, **options):
            yield run
        found.append(run.diagnose(X, y))

    epochs = portnet.Trainer.epochs
    monkeypatch.setattr(portnet.Trainer, "fit", diagnosed)
    monkeypatch.setattr(portnet.Trainer, "epochs", diagnosed_epochs)
    monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path), *map(str, EXAMPLES[name])])
    with redirect_stdout(io.StringIO()):
        code = 0
        try:
            importlib.import_module(name).main()
        except SystemExit as end:
            code = end.code
    assert not code
    assert any(isinstance(each, portnet.diagnosis.Diagnosis) for each in found)
    assert not any(found), [str(each) for each in found if each]


# Figures, by other means -------------------------------------------------------------------------


def test_share_of_dead_units_is_that_of_a_plain_forward_pass():
    params = portnet.init(RELU, 6, seed=1, like=X)
    first = {"W": params[0]["W"], "b": params[0]["b"] - 30.0 * (np.arange(16) < 12)}
    run = fit(RELU, SQUARED, portnet.SGD(1e-6), X, SMOOTH, 2, params=(first, *params[1:]))
    (finding,) = (f for f in run.diagnose(X, SMOOTH) if f.kind == "dead units")
    z = X @ portnet.to_numpy(run.params[0]["W"]) + portnet.to_numpy(run.params[0]["b"])
    assert finding.figure == (z.max(axis=0) <= 0).mean() >= 0.75
    assert finding.text.startswith("12 of 16 units of layers[1] ReLU() are 0 for each of 400 rows")


def test_unscaled_column_is_named_with_its_mean():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(FAR, columns=list("abcdef"))
    run = fit(RELU, SIGMOID, portnet.SGD(1e-6), frame, LABELS, 2)
    finding = next(iter(run.diagnose(frame, LABELS)))
    assert finding.text.startswith("column 5 ('f') of X has mean 2e+03 and standard deviation 0.01")
    assert finding.figure == pytest.approx(np.sqrt((FAR[:, 5] ** 2).mean()), rel=1e-4)


def test_rare_class_is_named_as_in_the_labels():
    names = np.array(["usual", "rare"])[RARE]
    run = fit(mlp(8, outputs=2), CLASSES, portnet.Adam(1e-3), X, names)
    (finding,) = run.diagnose(X, names)
    assert finding.text == "class rare has 2% of the rows, and the run finds 0 of 8 of them"
    assert finding.figure == pytest.approx(8 / 400)


def test_step_is_that_of_the_next_epoch_of_one_step():
    with portnet.use_backend("numpy", dtype="float64"):
        run = fit(mlp(16), SQUARED, portnet.Momentum(1e-8), X, SMOOTH, batch=None)
        (finding,) = run.diagnose(X, SMOOTH)
        after = run.fit(X, SMOOTH, epochs=1, progress=False)
    a, b = (np.concatenate([p.ravel() for p in tree.leaves(r.params)]) for r in (run, after))
    size = np.linalg.norm(b - a) / np.linalg.norm(a)
    assert finding.figure == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (portnet.SoftmaxCrossEntropy(), THREE),
        (portnet.SigmoidCrossEntropy(), LABELS[:, None] * 1.0),
        (portnet.SquaredError(), SMOOTH[:, None]),
        (portnet.AbsoluteError(), SMOOTH[:, None]),
        (portnet.PoissonLoss(), COUNTS[:, None] * 1.0),
        (portnet.SquaredError(reduction="sum"), SMOOTH[:, None]),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_no_other_constant_has_a_smaller_loss(loss, y, weighted):
    weight = np.linspace(0.5, 1.5, len(y)) if weighted else None
    if weighted and isinstance(loss, portnet.AbsoluteError):
        pytest.skip("the median is taken without weights")
    outputs = 3 if y.ndim == 1 else 1
    best = portnet.evidence.constant_loss(loss, y, weight, outputs)
    tried = np.stack(np.meshgrid(*[np.linspace(-3, 3, 41)] * outputs), axis=-1).reshape(-1, outputs)
    losses = [loss(np.broadcast_to(c, (len(y), outputs)), y, weight)[0] for c in tried]
    assert best <= min(losses) * (1 + 1e-9)
    assert best == pytest.approx(min(losses), rel=0.1)


# Backends, the callback, bad input ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["dead ReLUs", "ten layers of sigmoids", "one class only"])
def test_findings_are_the_same_on_every_backend(name, xp, fitted):
    kind, make = ILL[name]
    with portnet.use_backend("numpy", dtype="float64"):
        make()
        expected = fitted["run"].diagnose(*fitted["data"])
    make()
    found = fitted["run"].diagnose(*fitted["data"])
    assert kind in [finding.kind for finding in found]
    assert [finding.kind for finding in found] == [finding.kind for finding in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.figure == pytest.approx(b.figure, rel=0.01)


def test_callback_warns_once_of_each_finding():
    diagnose = portnet.Diagnose(every=2)
    trainer = portnet.Trainer(RELU, SIGMOID, portnet.SGD(1e-6), 32)
    for _ in range(2):  # the same callback, in another fit
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(FAR, LABELS, epochs=6, progress=False, callbacks=[diagnose])
        texts = [str(warning.message) for warning in caught]
        kinds = [
            kind for text in texts for kind in portnet.diagnosis.KINDS if text.startswith(kind)
        ]
        assert "inputs that are not scaled" in kinds
        assert sorted({*kinds}) == sorted(kinds)
        assert any("after epoch 1)" in text for text in texts)
        assert all(warning.filename == __file__ for warning in caught)
    healthy = portnet.Trainer(mlp(32, outputs=2), CLASSES, portnet.Adam(0.01), 32)
    healthy.fit(X, LABELS, epochs=5, progress=False, callbacks=[portnet.Diagnose(every=1)])


def test_callback_that_warns_as_an_error_keeps_the_run():
    trainer = portnet.Trainer(mlp(8), SIGMOID, portnet.Adam(1e-3))
    with pytest.raises(UserWarning, match="labels out of balance") as caught:
        trainer.fit(X, 0 * RARE, epochs=3, progress=False, callbacks=[portnet.Diagnose()])
    assert caught.value.run.epoch == 1


def test_diagnosis_leaves_the_run_and_the_fit_as_they_are():
    trainer = portnet.Trainer(mlp(8, dropout=0.5), SIGMOID, portnet.Adam(1e-3), 32)
    plain = trainer.fit(X, LABELS, epochs=5, progress=False)
    looked = trainer.fit(X, LABELS, epochs=5, progress=False, callbacks=[portnet.Diagnose(every=1)])
    before = [p.copy() for p in tree.leaves((plain.params, plain.state))]
    plain.diagnose(X, LABELS)
    for a, b, c in zip(
        before,
        tree.leaves((plain.params, plain.state)),
        tree.leaves((looked.params, looked.state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert plain.history == looked.history


def test_run_of_no_epochs_is_an_error():
    run = portnet.Trainer(mlp(8), SIGMOID).fit(X, LABELS, epochs=0)
    with pytest.raises(ValueError, match=r"the run has no epochs.*run = run\.fit"):
        run.diagnose(X, LABELS)


def test_bad_input_is_an_error():
    run = fit(mlp(8), SIGMOID, "adam", X, LABELS, 2)
    with pytest.raises(portnet.DataError, match="expected 6 features, got 3"):
        run.diagnose(X[:, :3], LABELS)
    with pytest.raises(portnet.DataError, match="expected 400 rows"):
        run.diagnose(X, LABELS[:-1])
    with pytest.raises(ValueError, match="Diagnose: every"):
        portnet.Diagnose(every=0)
    with pytest.raises(TypeError, match="is a callback of fit"):
        portnet.Diagnose()(run)
    run.diagnose(X[:1], LABELS[:1])  # one row says little, but is no error
    without = run.without_state()
    assert without.diagnose(X, LABELS) is not None


def test_run_that_diverged_is_diagnosed():
    trainer = portnet.Trainer(
        mlp(8, activation="tanh"), SQUARED, portnet.SGD(lambda t: 0.05 * 1.1**t)
    )
    with pytest.raises(portnet.DivergenceError) as caught:
        trainer.fit(X, SMOOTH, epochs=500, progress=False)
    kinds = [finding.kind for finding in caught.value.run.diagnose(X, SMOOTH)]
    assert "learning rate too large" in kinds


def test_custom_loss_model_and_optimizer_are_diagnosed():
    class Step:
        def init(self, params):
            return ()

        def update(self, grads, state, params):
            return tree.map(lambda g: -1e-9 * g, grads), state

    def loss(pred, target, weight=None):
        return portnet.SquaredError()(pred, target, weight)

    run = fit(portnet.Residual(portnet.Dense(6)), loss, Step(), X, X[:, ::-1], 10)
    assert [finding.kind for finding in run.diagnose(X, X[:, ::-1])] == ["learning rate too small"]
