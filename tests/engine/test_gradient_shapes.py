"""A layer whose backward returns another shape is named by the error of the fit."""

from dataclasses import dataclass

import numpy as np
import pytest

import portnet

X = np.random.default_rng(0).normal(size=(40, 4))
Y = np.arange(40) % 3


@dataclass(frozen=True)
class Wrong:
    """y = 2 x, with a dx of its first columns."""

    columns: int = 2

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        return 2 * x, None

    def backward(self, params, cache, dy):
        return (), 2 * dy[:, : self.columns]


@dataclass(frozen=True)
class Scaled(Wrong):
    """y = a x, with a da of another shape."""

    def init(self, rng, n_in):
        return {"a": rng.standard_normal((1, n_in))}, n_in

    def forward(self, params, x, key=None):
        return params["a"] * x, (params["a"], x)

    def backward(self, params, cache, dy):
        a, x = cache
        return {"a": (dy * x)[:2, :3]}, dy * a


def notes_of(fit):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of any library)
        fit()
    return " ".join(getattr(caught.value, "__notes__", []))


LAYERS = {
    "dx": (
        Wrong(),
        r"layers[1] Wrong: expected backward to return dx of shape (8, 6), like x, got",
    ),
    "dparams": (
        Scaled(),
        "layers[1] Scaled: expected backward to return a gradient of shape (1, 6)",
    ),
    "within": (
        portnet.Residual(portnet.Chain([portnet.Tanh(), Wrong()])),
        "layers[1] layer layers[1] Wrong: expected backward to return dx of shape (8, 6)",
    ),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("layer", "message"), LAYERS.values(), ids=LAYERS)
def test_trainer_names_the_layer(layer, message, compiled):
    net = portnet.Chain([portnet.Dense(6), layer, portnet.Dense(3)])
    trainer = portnet.Trainer(net, "softmax_cross_entropy", "adam", compile=compiled)
    assert message in notes_of(lambda: trainer.fit(X, Y, epochs=1))


@pytest.mark.parametrize(("layer", "message"), LAYERS.values(), ids=LAYERS)
def test_estimators_name_the_layer(layer, message):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    net = portnet.MLPClassifier((6,), activation=layer, max_iter=2)
    assert message in notes_of(lambda: net.fit(X, Y))
    assert not hasattr(net, "coefs_")


def test_other_errors_get_no_note():
    @dataclass(frozen=True)
    class Fails(Wrong):
        def backward(self, params, cache, dy):
            raise ValueError("not today")

    net = portnet.Chain([portnet.Dense(6), Fails(), portnet.Dense(3)])
    trainer = portnet.Trainer(net, "softmax_cross_entropy", "adam")
    assert "expected backward" not in notes_of(lambda: trainer.fit(X, Y, epochs=1))
