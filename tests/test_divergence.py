"""DivergenceError and its likely cause."""

import re

import numpy as np
import pytest
from fits import LABELS, SendsSIGINT, X, assert_equal, diverging, trainer

import portnet
from portnet import tree
from portnet.training import make_step


def test_divergence_names_the_likely_cause():
    y = X @ np.arange(5.0)
    far = X * [1, 1, 3e4, 1, 1]
    message, run = diverging(far, y, portnet.SGD(0.1))
    largest = abs(far[:, 2]).max()
    assert (
        f"Likely cause: column 2 of X reaches {largest:.3g}, where networks want about 1" in message
    )
    assert (
        "or try a smaller learning rate than 0.1. The run as it was before that epoch is" in message
    )
    assert_equal(
        run.params,
        portnet.Trainer(portnet.mlp([5, 8, 1]), "squared_error", portnet.SGD(0.1), 16)
        .fit(far, y, epochs=run.epoch)
        .params,
    )
    message, _ = diverging(X, 1e9 * y, portnet.SGD(0.1))
    assert f"Likely cause: the targets reach {abs(1e9 * y).max():.3g}, where" in message
    message, _ = diverging(X, y, portnet.SGD(1e3))
    assert f"The inputs are scaled (column {abs(X).max(0).argmax()} of X reaches" in message
    assert "so try a smaller learning rate than 1000, or portnet.ClipNorm" in message
    message, _ = diverging(X, y, portnet.SGD(portnet.Constant(1e3)))
    assert "so try a smaller learning rate, or" in message


def test_divergence_advice_fits_the_optimizer():
    y = X @ np.arange(5.0)
    message, _ = diverging(X, y, portnet.chain(portnet.WeightDecay(0.1), portnet.SGD(1e3)))
    assert "try a smaller learning rate than 1000, or portnet.ClipNorm" in message
    start = portnet.init(portnet.mlp([5, 8, 1]))
    far = portnet.Trainer(
        portnet.mlp([5, 8, 1]), "poisson", "lbfgs", params=tree.map(lambda p: p * 1e4 + 1e4, start)
    )
    with pytest.raises(portnet.DivergenceError) as caught:
        far.fit(X, np.ones(96))
    assert "try another start, Trainer(params=...). The run" in str(caught.value)
    assert "learning rate" not in str(caught.value)


def test_divergence_of_lbfgs_at_the_start_names_the_likely_cause():
    message, run = diverging(X * 1e30, X @ np.arange(5.0), "lbfgs")
    assert "Likely cause: column" in message
    assert run.epoch == 0


def test_clip_norm_trains_where_plain_sgd_diverges():
    y = X @ np.arange(5.0)
    diverging(X, y, portnet.SGD(0.5))
    clipped = portnet.chain(portnet.ClipNorm(0.1), portnet.SGD(0.5))
    run = portnet.Trainer(portnet.mlp([5, 8, 1]), "squared_error", clipped, 16).fit(X, y, epochs=50)
    assert run.history["loss"][-1] < 0.3 * run.history["loss"][0]


@pytest.mark.usefixtures("default_sigint_handler")
def test_divergence_in_a_resumed_epoch_names_the_step_of_the_epoch():
    y = X @ np.arange(5.0)
    t = trainer(
        "squared_error", model=portnet.Chain([SendsSIGINT(), portnet.Dense(1)]), compile=False
    )
    SendsSIGINT.at, SendsSIGINT.times = 2, 1
    with pytest.warns(UserWarning, match="interrupted after step 2 of epoch 1"):
        run = t.fit(X, y, epochs=1)
    with pytest.raises(portnet.DivergenceError, match=r"epoch 1, step 3\."):
        run.fit(X * 1e15, y, epochs=1)


def test_divergence_names_large_columns_and_negative_targets():
    y = X @ np.arange(5.0)
    message, _ = diverging(X * [1, 1, 100, 1, 1], y, portnet.SGD(10.0))
    assert "Likely cause: column 2 of X reaches" in message
    down = np.minimum(1e9 * y, 0)  # large and negative
    message, _ = diverging(X, down, portnet.SGD(0.1))
    assert f"Likely cause: the targets reach {abs(down).max():.3g}, where" in message


def test_divergence_does_not_name_large_labels_as_the_cause():
    t = portnet.Trainer(portnet.mlp([5, 150]), "softmax_cross_entropy", portnet.SGD(1e38))
    with pytest.raises(portnet.DivergenceError, match="The inputs are scaled"):
        t.fit(X, np.arange(96) + 54, epochs=50)


# Epoch, step and run of the error ----------------------------------------------------------------


def test_divergence_error_names_epoch_and_step_and_has_the_run(xp):
    y = X @ np.arange(5.0)
    trainer = portnet.Trainer(
        portnet.mlp([5, 1]), "squared_error", portnet.SGD(1e3), batch_size=16, shuffle=False
    )
    # The reference: a loop that checks the loss after every step.
    start = trainer.fit(X, y, epochs=0)
    step = make_step(trainer.model, trainer.loss, trainer.optimizer)
    backend, params, state, number = start.backend, start.params, start.state, 0
    value, y2 = 0.0, y.reshape(-1, 1)
    with np.errstate(all="ignore"):
        while np.isfinite(value):
            rows = slice(16 * (number % 6), 16 * (number % 6) + 16)
            x, t = backend.asarray(X[rows]), backend.asarray(y2[rows])
            params, state, value = step(params, state, x, t)
            value, number = float(value), number + 1
    epoch, bad = divmod(number - 1, 6)
    with pytest.raises(portnet.DivergenceError, match="smaller learning rate") as caught:
        trainer.fit(X, y, epochs=1000)
    found = str(caught.value)
    # the sum of the epoch's losses may overflow a step or two before one of them does
    first = int(found.partition("step ")[2].partition(".")[0])
    assert f"epoch {epoch + 1}," in found
    assert bad - 1 <= first <= bad + 1
    before = caught.value.run
    assert before.epoch == epoch
    assert_equal(before.params, trainer.fit(X, y, epochs=epoch).params)


def test_infinite_parameters_raise_divergence_error():
    y = X @ np.arange(5.0)
    trainer = portnet.Trainer(portnet.mlp([5, 1]), "squared_error", portnet.SGD(1e38), None)
    with pytest.raises(
        portnet.DivergenceError, match=r"the parameters stopped .* epoch 1, step 1\."
    ):
        trainer.fit(X, y, epochs=1)


@pytest.mark.parametrize("bad", [0, 1, 5])
def test_divergence_error_names_the_first_bad_step(bad):
    """The rows of one step are huge, and the steps before it hardly change the parameters."""
    x, y = X.copy(), X @ np.arange(5.0)
    x[16 * bad : 16 * bad + 16] *= 1e30
    trainer = portnet.Trainer(
        portnet.mlp([5, 1]), "squared_error", portnet.SGD(1e-9), 16, shuffle=False
    )
    with pytest.raises(portnet.DivergenceError, match=rf"epoch 1, step {bad + 1}\."):
        trainer.fit(x, y, epochs=1)


# Unscaled inputs ---------------------------------------------------------------------------------


UNSCALED = X * np.array([1.0, 1, 4000, 1, 1])


@pytest.mark.parametrize(("loss", "outputs"), [("softmax_cross_entropy", 3), ("squared_error", 1)])
def test_unscaled_inputs_warn_once_and_name_the_column(loss, outputs):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    trainer = portnet.Trainer(portnet.mlp([5, 16, outputs]), loss, portnet.Adam(1e-5))
    with pytest.warns(UserWarning, match="the loss of the first epoch") as caught:
        run = trainer.fit(UNSCALED, LABELS, epochs=3, progress=False)
    (warning,) = caught
    reaches = f"column 2 of X reaches {abs(UNSCALED[:, 2]).max():.3g}, where networks want about 1"
    assert re.search(
        rf"is \S+, where outputs of 0 would have \S+\. {re.escape(reaches)}: scale the inputs",
        str(warning.message),
    )
    assert warning.filename == __file__
    run.fit(UNSCALED, LABELS, epochs=1, progress=False)  # no second warning
    if loss == "squared_error":
        with pytest.warns(UserWarning, match=r"where outputs of 0 would have 0\."):
            trainer.fit(UNSCALED, 0 * LABELS, epochs=1, progress=False)
    frame = pandas.DataFrame(UNSCALED, columns=list("abcde"))
    with pytest.warns(UserWarning, match=r"column 2 \('c'\) of X reaches"):
        trainer.fit(frame, LABELS, epochs=1, progress=False)


def test_custom_loss_is_not_called_with_outputs_of_zero():
    def loss(pred, target, weight=None):
        assert bool((pred != 0).any())
        d = pred - target
        return (d * d).sum() / len(d), 2 * d / len(d)

    trainer = portnet.Trainer(portnet.mlp([5, 1]), loss, portnet.SGD(1e-9), compile=False)
    run = trainer.fit(UNSCALED, 1000 * X[:, 0], epochs=1, progress=False)
    assert run.history["loss"][0] > 1000


def test_scaled_data_do_not_warn():
    for y, loss in ((LABELS, "softmax_cross_entropy"), (1000 * X[:, :3], "squared_error")):
        for x in (X, 5 * X, X / 100):
            portnet.Trainer(portnet.mlp([5, 16, 3]), loss).fit(x, y, epochs=1, progress=False)
