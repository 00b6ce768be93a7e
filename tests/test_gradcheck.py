"""check_layer, check_loss and check_gradients: accept right gradients and reject wrong ones."""

from dataclasses import dataclass

import numpy as np
import pytest
from custom import Square

import portnet
from portnet import layers, losses, tree
from portnet.gradcheck import GradientError, check_gradients, check_layer, check_loss


class DividedDense(layers.Dense):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return {**grads, "W": grads["W"] / dy.shape[0]}, dx  # the loss has already divided


class SlightlyWrongBias(layers.Dense):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return {**grads, "b": grads["b"] * 1.0001}, dx


class SlightlyWrongInput(layers.Dense):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return grads, dx * 0.999


class OneWrongEntry(layers.Dense):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        W = grads["W"].copy()
        W[0, 0] *= 1.001
        return {**grads, "W": W}, dx


class ReLUAlwaysOn(layers.ReLU):
    def backward(self, params, cache, dy):
        return (), dy * (cache >= 0)  # the output is never below 0


class SigmoidOfSigmoid(layers.Sigmoid):
    def backward(self, params, cache, dy):
        s, _ = self.forward((), cache)
        return (), dy * s * (1 - s)


class TanhOfInput(layers.Tanh):
    def forward(self, params, x, key=None):
        return np.tanh(x), x

    def backward(self, params, cache, dy):
        return (), dy * (1 - cache**2)


class LayerNormWithoutMeans(layers.LayerNorm):
    def backward(self, params, cache, dy):
        _, r = cache
        grads, _ = super().backward(params, cache, dy)
        return grads, dy * params["gamma"] * r


class DropoutWithoutMask(layers.Dropout):
    def backward(self, params, cache, dy):
        return (), dy


class ResidualWithoutSkip(layers.Residual):
    def backward(self, params, cache, dy):
        return self.layer.backward(params, cache, dy)


class ChainWithReversedGradients(layers.Chain):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return grads[::-1], dx


class BackwardNotLinear(layers.Identity):
    def backward(self, params, cache, dy):
        return (), dy + 1e-3


class Float32Gradient(layers.Dense):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return {**grads, "b": grads["b"].astype("float32")}, dx


WRONG_LAYERS = [
    (DividedDense(3), r"dparams\['W'\] is wrong"),
    (SlightlyWrongBias(3), r"dparams\['b'\] is wrong"),
    (SlightlyWrongInput(3), "dx is wrong"),
    (OneWrongEntry(3), r"dparams\['W'\] is wrong"),
    (ReLUAlwaysOn(), "dx is wrong"),
    (SigmoidOfSigmoid(), "dx is wrong"),
    (TanhOfInput(), "dx is wrong"),
    (LayerNormWithoutMeans(), "dx is wrong"),
    (DropoutWithoutMask(0.5), "in training: dx is wrong"),
    (ResidualWithoutSkip(layers.Dense(6)), "dx is wrong"),
    (
        ChainWithReversedGradients([layers.Dense(6), layers.Dense(6)]),
        r"dparams\[0\]\['W'\] is wrong",
    ),
    (BackwardNotLinear(), "not linear in dy"),
    (Float32Gradient(3), r"expected dparams\['b'\] of shape \(1, 3\) and dtype float64"),
]


@pytest.mark.parametrize(("layer", "message"), WRONG_LAYERS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_wrong_layers_are_rejected(layer, message, seed):
    with pytest.raises(GradientError, match=message):
        check_layer(layer, seed=seed)


@dataclass(frozen=True)
class DoubledGradient(losses.SquaredError):
    def __call__(self, pred, target, weight=None):
        value, dpred = super().__call__(pred, target, weight)
        return value, 2 * dpred  # the gradient of e^2, with the value of e^2 / 2


@dataclass(frozen=True)
class MeanOverOutputs(losses.SquaredError):
    def __call__(self, pred, target, weight=None):
        value, dpred = super().__call__(pred, target, weight)
        return value / pred.shape[-1], dpred


@dataclass(frozen=True)
class GradientWithoutWeight(losses.SquaredError):
    def __call__(self, pred, target, weight=None):
        return super().__call__(pred, target, weight)[0], super().__call__(pred, target)[1]


@dataclass(frozen=True)
class GradientWithoutSmoothing(losses.SoftmaxCrossEntropy):
    def __call__(self, pred, target, weight=None):
        _, dpred = losses.SoftmaxCrossEntropy()(pred, target, weight)
        return super().__call__(pred, target, weight)[0], dpred


@dataclass(frozen=True)
class UnclippedHuber(losses.Huber):
    def __call__(self, pred, target, weight=None):
        return super().__call__(pred, target, weight)[0], losses.SquaredError()(
            pred, target, weight
        )[1]


@pytest.mark.parametrize(
    "loss",
    [
        DoubledGradient(),
        MeanOverOutputs(),
        GradientWithoutWeight(),
        GradientWithoutSmoothing(label_smoothing=0.1),
        UnclippedHuber(delta=0.1),
    ],
    ids=lambda v: type(v).__name__,
)
def test_wrong_losses_are_rejected(loss):
    with pytest.raises(GradientError, match="dpred is wrong"):
        check_loss(loss)


def test_right_custom_loss_is_accepted():
    def log_cosh(pred, target, weight=None):
        e = pred - target
        weight = np.ones(len(pred)) if weight is None else weight
        share = (weight / weight.sum())[:, None]
        return (share * np.log(np.cosh(e))).sum(), share * np.tanh(e)

    assert check_loss(log_cosh) < 1e-9


def test_right_custom_layer_is_accepted(xp):
    x = xp.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    assert check_layer(Square(), x) <= (1e-8 if xp.float_name == "float64" else 1e-2)


X = np.random.default_rng(0).standard_normal((7, 4))
LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize("activation", sorted(layers.ACTIVATIONS))
def test_models_of_every_activation_are_accepted(activation):
    net = layers.mlp([4, 6, 5, 3], activation, norm="layer")
    assert check_gradients(net, losses.SoftmaxCrossEntropy(), X, LABELS) < 1e-8
    weight = np.arange(7.0)
    assert check_gradients(net, losses.Huber(), X, np.eye(3)[LABELS], weight=weight) < 1e-8


def test_models_with_other_libraries_and_lists_are_accepted(other_xp):
    net = layers.mlp([4, 6, 3], "tanh")
    x, y = other_xp.asarray(X), other_xp.asarray(LABELS)
    assert check_gradients(net, losses.SoftmaxCrossEntropy(), x, y) < 1e-8
    assert check_gradients(net, losses.SoftmaxCrossEntropy(), X.tolist(), LABELS.tolist()) < 1e-8


def test_wrong_layer_in_a_model_with_given_params_is_rejected():
    net = layers.Chain([layers.Dense(5), SigmoidOfSigmoid(), layers.Dense(3)])
    params = portnet.init(net, 4)
    with pytest.raises(GradientError, match=r"dparams\[0\]\['W'\] is wrong"):
        check_gradients(net, losses.SoftmaxCrossEntropy(), X, LABELS, params=params)


def test_kink_within_the_difference_step_is_accepted():
    x = np.full((1, 1), 3e-6)  # the kink of ReLU is within the first step
    assert check_layer(layers.ReLU(), x) < 1e-8


@pytest.mark.parametrize("seed", range(20))
def test_right_model_is_accepted_with_any_seed(seed):
    net = layers.mlp([6, 16, 16, 3], "relu", dropout=0.2)
    assert check_layer(net, rows=50, seed=seed) < 1e-8


def test_mean_of_shard_gradients_equals_the_whole_gradient():
    net, loss = layers.mlp([4, 6, 3], "gelu"), losses.SoftmaxCrossEntropy()
    with portnet.use_backend("numpy", dtype="float64"):
        params = portnet.init(net)

    def gradient(rows):
        pred, cache = net.forward(params, X[rows])
        return net.backward(params, cache, loss(pred, LABELS[rows])[1])[0]

    whole, parts = gradient(slice(0, 6)), [gradient(slice(i, i + 2)) for i in (0, 2, 4)]
    mean = tree.map(lambda *g: sum(g) / 3, *parts)
    for a, b in zip(tree.leaves(whole), tree.leaves(mean), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@dataclass(frozen=True)
class Widens(Square):
    """A NumPy scalar turns float32 into float64."""

    def forward(self, params, x, key=None):
        return x * x * np.float64(1), x


class WidensInTraining(Square):
    def forward(self, params, x, key=None):
        return (x * x if key is None else x * x * np.float64(1)), x


class WidensBackward(Square):
    def backward(self, params, cache, dy):
        return (), dy * cache * np.float64(2)


WIDENING = [Widens(), WidensInTraining(), WidensBackward(), layers.Chain([Widens()])]


@pytest.mark.parametrize("layer", WIDENING)
def test_layer_that_widens_float32_is_rejected(layer):
    with pytest.raises(GradientError, match=r"to return float32 for float32 x, got float64"):
        check_layer(layer)


class ReturnsNoCache(Square):
    def forward(self, params, x, key=None):
        return x * x


class ReturnsNoDx(Square):
    def backward(self, params, cache, dy):
        return dy * 2 * cache


def test_forward_without_cache_raises_and_names_the_layer():
    message = r"ReturnsNoCache\(\): expected forward to return y, cache, got a ndarray of shape"
    with pytest.raises(TypeError, match=f"^{message}"):
        check_layer(ReturnsNoCache())
    before = portnet.Chain([layers.Dense(4), ReturnsNoCache(), layers.Dense(3)])
    for net in (portnet.Chain([layers.Dense(3), ReturnsNoCache()]), before):
        for rows in (2, 5):  # an array of two rows could be unpacked
            with pytest.raises(TypeError, match=rf"^layers\[1\] {message}"):
                portnet.Trainer(net, "squared_error").fit(np.ones((rows, 2)), np.ones((rows, 3)))
    with pytest.raises(TypeError, match=rf"^{message}"):
        check_layer(layers.Residual(ReturnsNoCache()))
    with pytest.raises(TypeError, match=rf"^{message}"):
        portnet.Trainer(ReturnsNoCache(), "squared_error").fit(np.ones((2, 2)), np.ones((2, 2)))


def test_backward_without_dx_raises_and_names_the_layer():
    with pytest.raises(
        TypeError, match=r"^ReturnsNoDx\(\): expected backward to return dparams, dx, got"
    ):
        check_layer(layers.Chain([ReturnsNoDx()]))
    with pytest.raises(
        TypeError, match=r"^ReturnsNoDx\(\): expected backward to return dparams, dx, got"
    ):
        check_layer(layers.Residual(ReturnsNoDx()))
    with pytest.raises(
        TypeError, match=r"^ReturnsNoDx\(\): expected backward to return dparams, dx, got"
    ):
        check_layer(ReturnsNoDx())


def test_init_without_output_size_raises():
    class ReturnsNoOutputSize(Square):
        def init(self, rng, n_in):
            return ()

    with pytest.raises(TypeError, match=r"expected init to return params, n_out, got 0 values"):
        portnet.init(layers.Chain([ReturnsNoOutputSize()]), 3)


def test_relative_error_follows_the_usual_convention():
    class DoubledGradient(Square):
        def backward(self, params, cache, dy):
            return (), dy * 4 * cache

    with pytest.raises(GradientError, match=r"relative error 5\.0e-01, allowed"):
        check_layer(DoubledGradient())


def test_loss_without_weight_argument_raises_with_the_signature():
    def loss(pred, target):
        return ((pred - target) ** 2).sum(), 2 * (pred - target)

    message = (
        r"a loss is called with \(pred, target, weight\), got one that takes \(pred, target\): write "
        r"def loss\(pred, target, weight=None\), and return value, dpred"
    )
    with pytest.raises(TypeError, match=message):
        check_loss(loss)
    with pytest.raises(TypeError, match=message):
        check_gradients(layers.mlp([2, 1]), loss, np.ones((3, 2)), np.ones(3))
    with pytest.raises(TypeError, match=message):
        portnet.Trainer(layers.mlp([2, 1]), loss)


def test_metric_without_weight_argument_raises_with_the_signature():
    def metric(mean, target):
        return 0.0

    with pytest.raises(
        TypeError, match=r"a metric is called with \(mean, target, weight\), got one"
    ):
        portnet.Trainer(layers.mlp([2, 1]), "huber").fit(
            np.ones((2, 2)), [1.0, 2.0], metrics=[metric]
        )


def test_dparams_that_differ_from_those_of_backward_are_found():
    class Wrong(portnet.Dense):
        def backward(self, params, cache, dy):
            return super().backward(params, cache, dy)

        def dparams(self, params, cache, dy):
            dparams = super().dparams(params, cache, dy)
            return dparams | {"b": 2.0 * dparams["b"]}

    # super().backward calls the wrong dparams, too, so that the slopes find it
    with pytest.raises(portnet.GradientError):
        portnet.check_layer(Wrong(3))

    class Apart(Wrong):
        def backward(self, params, cache, dy):
            return portnet.Dense(self.n_out).backward(params, cache, dy)

        def dparams(self, params, cache, dy):
            return super().dparams(params, cache, dy)

    with pytest.raises(portnet.GradientError, match="dparams differs"):
        portnet.check_layer(Apart(3))
