"""Losses, compared with textbook formulas, jax.grad, torch, and finite differences."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import portnet
from portnet import losses

CASES = [
    losses.SquaredError(),
    losses.SquaredError(reduction="sum"),
    losses.AbsoluteError(),
    losses.Huber(),
    losses.Huber(delta=0.3),
    losses.PoissonLoss(),
    losses.SigmoidCrossEntropy(),
    losses.SigmoidCrossEntropy(reduction="sum"),
    losses.SoftmaxCrossEntropy(),
    losses.SoftmaxCrossEntropy(label_smoothing=0.2),
    losses.SoftmaxCrossEntropy(reduction="sum"),
]
# No value is at a kink: there, each library chooses its own subgradient.
PRED = np.array([[0.5, -1.0, 2.0], [-3.0, 0.2, 0.1], [1.5, 1.4, -0.6], [0.05, 2.5, 1.0]])
TARGET = np.array([[0.2, 0.7, 0.1], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4], [1.0, 0.0, 0.0]])
WEIGHT = np.array([1.0, 2.0, 0.0, 0.5])


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


def textbook_loss(loss, p, t):
    """Return the loss of each row by the textbook formula, without protection against overflow."""
    e = p - t
    match loss:
        case losses.SquaredError():
            each = e**2 / 2
        case losses.AbsoluteError():
            each = abs(e)
        case losses.Huber(delta=d):
            each = np.where(abs(e) <= d, e**2 / 2, d * (abs(e) - d / 2))
        case losses.PoissonLoss():
            each = np.exp(p) - t * p
        case losses.SigmoidCrossEntropy():
            s = 1 / (1 + np.exp(-p))
            each = -t * np.log(s) - (1 - t) * np.log(1 - s)
        case losses.SoftmaxCrossEntropy(label_smoothing=a):
            each = -((1 - a) * t + a / p.shape[-1]) * np.log(softmax(p))
    return each.sum(axis=-1)


def test_every_public_loss_is_tested():
    named = vars(losses).items()
    public = {c for name, c in named if hasattr(c, "reduction") and name != "Reduced"}
    assert public == {type(case) for case in CASES} == set(losses.LOSSES.values())


@pytest.mark.parametrize("loss", CASES, ids=repr)
def test_value_equals_the_textbook_formula(loss, xp):
    by_hand = textbook_loss(loss, PRED, TARGET)
    p, t, w = xp.asarray(PRED), xp.asarray(TARGET), xp.asarray(WEIGHT)
    mean = loss.reduction == "mean"
    xp.assert_close(loss(p, t)[0], by_hand.mean() if mean else by_hand.sum())
    weighted = (WEIGHT * by_hand).sum()
    value, dpred = loss(p, t, w)
    xp.assert_close(value, weighted / WEIGHT.sum() if mean else weighted)
    xp.check_kind(dpred)
    assert tuple(dpred.shape) == PRED.shape
    value, dpred = loss(p, t, w * 0.0)  # all weights are 0: the loss is 0, not 0 / 0
    xp.assert_close(value, 0.0)
    xp.assert_close(dpred, np.zeros_like(PRED))


@pytest.mark.parametrize("loss", CASES, ids=repr)
def test_gradient_equals_finite_differences(loss, xp):
    portnet.check_loss(loss, xp.asarray(PRED + 0.01), xp.asarray(TARGET))


@pytest.mark.parametrize("loss", CASES, ids=repr)
def test_gradient_equals_jax_grad(loss, jax):
    with portnet.use_backend("jax", dtype="float64"):
        p, t, w = (portnet.asarray(a) for a in (PRED, TARGET, WEIGHT))
        for weight in (None, w):
            reference = jax.grad(lambda p, weight=weight: loss(p, t, weight)[0])(p)
            np.testing.assert_allclose(loss(p, t, weight)[1], reference, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("loss", "name", "scale"),
    [
        (losses.SquaredError(), "mse_loss", 2 / 3),  # torch also averages over outputs
        (losses.AbsoluteError(), "l1_loss", 1 / 3),
        (losses.Huber(delta=0.7), "huber_loss", 1 / 3),
        (losses.PoissonLoss(), "poisson_nll_loss", 1 / 3),
        (losses.SigmoidCrossEntropy(), "binary_cross_entropy_with_logits", 1 / 3),
        (losses.SoftmaxCrossEntropy(), "cross_entropy", 1),
        (losses.SoftmaxCrossEntropy(label_smoothing=0.1), "cross_entropy", 1),
    ],
)
def test_value_and_gradient_equal_torch(loss, name, scale, torch):
    options = {"delta": loss.delta} if isinstance(loss, losses.Huber) else {}
    if isinstance(loss, losses.SoftmaxCrossEntropy):
        options = {"label_smoothing": loss.label_smoothing}
    p = torch.tensor(PRED, requires_grad=True)
    reference = getattr(torch.nn.functional, name)(p, torch.tensor(TARGET), **options) / scale
    reference.backward()
    value, dpred = loss(PRED, TARGET)
    np.testing.assert_allclose(value, reference.item(), rtol=1e-12)
    np.testing.assert_allclose(dpred, p.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_integer_labels_equal_one_hot_targets(smoothing, xp):
    loss = losses.SoftmaxCrossEntropy(label_smoothing=smoothing)
    labels, z, w = np.array([2, 0, 1, 2]), xp.asarray(PRED), xp.asarray(WEIGHT)
    for weight in (None, w):
        value, dz = loss(z, xp.asarray(labels), weight)
        expected, expected_dz = loss(z, xp.asarray(np.eye(3)[labels]), weight)
        xp.assert_close(value, xp.numpy(expected))
        xp.assert_close(dz, xp.numpy(expected_dz))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "loss", [c for c in CASES if not isinstance(c, losses.PoissonLoss)], ids=repr
)
def test_logits_of_1000_do_not_overflow(loss, dtype, xp):
    if dtype == "float64" and xp.float_name == "float32":
        pytest.skip(reason="this device has no float64")
    z = xp.asarray([[1000.0, -1000.0, 0.0], [-1000.0, -1000.0, 1000.0]], dtype)
    t = xp.asarray([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype)
    value, dz = loss(z, t)  # a RuntimeWarning is an error
    xp.check_kind(value, dtype)
    xp.check_kind(dz, dtype)
    assert np.isfinite(xp.numpy(value))
    assert np.isfinite(xp.numpy(dz)).all()
    assert np.isfinite(xp.numpy(loss.mean(z))).all()


def test_numpy_float64_options_keep_float32():
    p, t = PRED.astype("float32"), TARGET.astype("float32")
    for loss in (losses.Huber(np.float64(0.5)), losses.SoftmaxCrossEntropy(np.float64(0.1))):
        value, dpred = loss(p, t)
        assert value.dtype == dpred.dtype == np.float32


def test_sigmoid_cross_entropy_of_confident_logits_is_accurate(xp):
    z = np.array([[10.0], [15.0], [-15.0]])
    value, _ = losses.SigmoidCrossEntropy(reduction="sum")(
        xp.asarray(z, "float32"), xp.asarray(np.array([[1.0], [1.0], [0.0]]), "float32")
    )
    xp.assert_close(value, np.log1p(np.exp(-abs(z))).sum(), rtol=1e-6, dtype="float32")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32"])
def test_narrow_integer_labels_work_with_300_classes(dtype):
    labels = np.array([3, 100, 7])
    z = np.random.default_rng(0).standard_normal((3, 300))
    expected = losses.SoftmaxCrossEntropy()(z, labels)
    for got, wanted in zip(
        losses.SoftmaxCrossEntropy()(z, labels.astype(dtype)), expected, strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def test_mean_and_classes_equal_their_formulas(xp):
    z = xp.asarray(PRED)
    xp.assert_close(losses.SquaredError().mean(z), PRED)
    xp.assert_close(losses.PoissonLoss().mean(z), np.exp(PRED))
    xp.assert_close(losses.SigmoidCrossEntropy().mean(z), 1 / (1 + np.exp(-PRED)))
    xp.assert_close(losses.SoftmaxCrossEntropy().mean(z), softmax(PRED))
    chosen = losses.SigmoidCrossEntropy().classes(xp.asarray(PRED))
    np.testing.assert_array_equal(xp.numpy(chosen), PRED >= 0.5)
    one = losses.SigmoidCrossEntropy().classes(xp.asarray([[0.2], [0.5], [0.9]]))
    np.testing.assert_array_equal(xp.numpy(one), [0, 1, 1])
    if xp.id != "strict-no_x64":  # array-api-strict 2.6.1: argmax makes int64, which it lacks
        best = losses.SoftmaxCrossEntropy().classes(z)
        np.testing.assert_array_equal(xp.numpy(best), [2, 1, 0, 1])


def test_softmax_mean_of_a_logit_of_minus_infinity_is_zero(xp):
    z = xp.asarray([[0.0, -np.inf, 1.0]])
    p = xp.numpy(losses.SoftmaxCrossEntropy().mean(z))
    np.testing.assert_allclose(p, softmax(np.array([[0.0, -np.inf, 1.0]])), rtol=1e-6)


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.sampled_from(CASES),
    st.sampled_from([0.1, 1.0, 30.0]),
)
def test_weight_k_equals_k_copies_of_the_row(rows, outputs, seed, loss, scale):
    draw = np.random.default_rng(seed)
    pred = draw.standard_normal((rows, outputs)) * scale
    target = draw.dirichlet(np.ones(outputs), rows)
    counts = draw.integers(0, 4, rows)
    value, dpred = loss(pred, target, counts.astype(float))
    copies = np.repeat(np.arange(rows), counts)
    if copies.size == 0:
        assert value == 0
        assert not dpred.any()
        return
    expected, each = loss(pred[copies], target[copies])
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    gathered = np.zeros_like(pred)
    np.add.at(gathered, copies, each)
    np.testing.assert_allclose(dpred, gathered, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", CASES, ids=repr)
def test_losses_are_hashable_comparable_and_picklable(loss):
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert hash(loss) == hash(pickle.loads(pickle.dumps(loss)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: losses.SquaredError()(PRED, TARGET[:, :1]),
            portnet.ShapeError,
            r"SquaredError: expected target of shape \(4, 3\).*got \(4, 1\)",
        ),
        (
            lambda: losses.SigmoidCrossEntropy()(PRED, np.ones((4, 3), int)),
            portnet.ShapeError,
            "dtype float64, like pred, got .* int64",
        ),
        (
            lambda: losses.SoftmaxCrossEntropy()(PRED, np.ones(4)),
            portnet.ShapeError,
            r"integer labels of shape \(4,\).*got float64 of shape \(4,\)",
        ),
        (
            lambda: losses.SoftmaxCrossEntropy()(PRED, np.array([0, 1])),
            portnet.ShapeError,
            r"got int64 of shape \(2,\)",
        ),
        (
            lambda: losses.Huber()(PRED, TARGET, np.ones((4, 1))),
            portnet.ShapeError,
            r"Huber: expected weight of shape \(4,\) and dtype float64, got \(4, 1\)",
        ),
        (lambda: losses.SquaredError(reduction="avg"), ValueError, "unknown reduction 'avg'"),
        (lambda: losses.Huber(delta=-1), ValueError, "Huber: expected delta > 0, got -1"),
        (lambda: losses.Huber(delta=None), ValueError, "Huber: expected delta > 0, got None"),
        (
            lambda: losses.SoftmaxCrossEntropy(label_smoothing=1),
            ValueError,
            "0 <= label_smoothing < 1, got 1",
        ),
    ],
)
def test_bad_targets_weights_and_options_raise(call, error, message):
    with pytest.raises(error, match=message):
        call()
