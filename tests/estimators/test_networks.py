"""Networks beyond scikit-learn's: norm, dropout, activations for each layer, other optimizers."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import contextlib
import pickle
from dataclasses import dataclass

import numpy as np
import sklearn.neural_network as sklearn_nn
from problems import SMALL, XR, YR, X, Y, assert_same
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import portnet
from portnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@dataclass(frozen=True)
class Gated:
    """y = a tanh(b), where a and b are the halves of x, times a parameter."""

    def init(self, rng, n_in):
        return {"W": 1.0 + 0.1 * rng.standard_normal((1, n_in // 2))}, n_in // 2

    def forward(self, params, x, key=None):
        half = x.shape[-1] // 2
        a, t = x[..., :half], portnet.namespace(x).tanh(x[..., half:])
        return params["W"] * a * t, (a, t)

    def backward(self, params, cache, dy):
        a, t = cache
        xp, W = portnet.namespace(dy), params["W"]
        dW = xp.sum(dy * a * t, axis=-2, keepdims=True)
        return {"W": dW}, xp.concat([W * dy * t, W * dy * a * (1 - t * t)], axis=-1)


def normalised(x, beta, gamma):
    centred = x - x.mean(axis=1, keepdims=True)
    return gamma * centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) + beta


def gelu(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def by_hand(weights, features):
    """Dense, LayerNorm, GELU, Dense, LayerNorm, tanh, Dense, written out."""
    W, b, beta, gamma, W2, b2, beta2, gamma2, W3, b3 = weights
    first = gelu(normalised(features @ W + b, beta, gamma))
    return np.tanh(normalised(first @ W2 + b2, beta2, gamma2)) @ W3 + b3


def half_square(weights, features, y, alpha):
    weighted = sum((W**2).sum() for W in (weights[0], weights[4], weights[8]))
    error = by_hand(weights, features)[:, 0] - y
    return (0.5 * error @ error + 0.5 * alpha * weighted) / len(y)


def test_norm_and_activations_of_each_layer_give_the_network_written_by_hand():
    net = MLPRegressor(
        hidden_layer_sizes=(6, 5), activation=["gelu", portnet.Tanh()], norm="layer", random_state=0
    ).fit(XR, YR)
    weights = net.get_weights()
    np.testing.assert_allclose(net.predict(XR), by_hand(weights, XR)[:, 0], atol=1e-12)
    assert [c.shape for c in net.coefs_] == [(5, 6), (6, 5), (5, 1)]
    np.testing.assert_array_equal(net.coefs_[1], weights[4])
    np.testing.assert_array_equal(net.intercepts_[1], weights[5])


def test_a_step_follows_the_finite_differences_of_the_penalised_loss():
    """One step of gradient descent on all rows moves each weight by -lr times the slope."""
    options = {"activation": ["gelu", "tanh"], "norm": "layer", "alpha": 0.7, "random_state": 1}
    step = {"optimizer": portnet.SGD(0.1), "max_iter": 1, "batch_size": len(YR), "shuffle": False}
    net = MLPRegressor(hidden_layer_sizes=(6, 5), **options, **step).initialize(XR, YR)
    before = net.get_weights()
    after = net.fit(XR, YR, resume=True).get_weights()
    assert net.loss_ == pytest.approx(half_square(before, XR, YR, 0.7), rel=1e-12)
    draw = np.random.default_rng(0)
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        v = draw.standard_normal(a.shape)
        high, low = [
            half_square([*before[:i], a + h * v, *before[i + 1 :]], XR, YR, 0.7)
            for h in (1e-5, -1e-5)
        ]
        assert ((b - a) * v).sum() == pytest.approx(-0.1 * (high - low) / 2e-5, rel=1e-6, abs=1e-9)


def test_norm_and_dropout_leave_the_initial_dense_weights_as_they_are():
    plain = MLPClassifier(**SMALL).initialize(X, Y)
    for more in ({"norm": "layer"}, {"dropout": 0.5}, {"activation": ["relu"]}):
        net = MLPClassifier(**SMALL, **more).initialize(X, Y)
        assert_same(net, plain, atol=0)
        reference = sklearn_nn.MLPClassifier(**{**SMALL, "max_iter": 1}, learning_rate_init=1e-300)
        assert_same(net, reference.fit(X, Y), atol=1e-12)


def test_dropout_drops_its_share_of_units_in_training_and_none_in_prediction():
    seen = []

    class Spy(portnet.Tanh):
        def forward(self, params, x, key=None):
            if key is not None:
                seen.append(abs(x) < 1e-6)
            return super().forward(params, x, key)

    # The second layer has an identity product: what arrives at its activation was dropped or not.
    net = MLPRegressor(
        hidden_layer_sizes=(40, 40),
        activation=["softplus", Spy()],
        dropout=0.3,
        optimizer=portnet.SGD(1e-12),
        alpha=0,
        max_iter=2,
        random_state=0,
        batch_size=60,
        compile=False,
    ).initialize(XR, YR)
    weights = net.get_weights()
    weights[2], weights[3] = np.eye(40), np.zeros(40)
    net.set_weights(weights).fit(XR, YR, resume=True)
    assert len(seen) == 4  # two batches in each of two epochs
    assert not np.array_equal(seen[0], seen[2])  # other units in another epoch
    assert np.mean([zero.mean() for zero in seen]) == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(net.predict(XR), net.predict(XR))
    assert len(seen) == 4


@pytest.mark.parametrize("more", [{"dropout": 0.2}, {"dropout": 0.2, "norm": "layer"}])
def test_compiled_and_eager_fits_with_dropout_are_equal(more):
    pair = [
        MLPClassifier((7, 6), max_iter=15, random_state=0, compile=c, batch_size=40, **more)
        for c in (True, False)
    ]
    a, b = [net.fit(X, Y).get_weights() for net in pair]
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)


def test_a_layer_of_ones_own_may_change_the_width_and_has_parameters():
    assert portnet.check_layer(Gated()) < 1e-6
    for solver in ("adam", "lbfgs"):
        net = MLPClassifier(
            (8, 6), activation=[Gated(), "tanh"], solver=solver, learning_rate_init=0.02
        )
        net.set_params(random_state=0).fit(X, Y)
        assert [c.shape for c in net.coefs_] == [(4, 8), (4, 6), (6, 3)]
        assert [w.shape for w in net.get_weights()][2] == (1, 4)
        assert net.score(X, Y) > 0.9
        for other in (pickle.loads(pickle.dumps(net)), net.to("numpy")):
            np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))
    assert_same(clone(net).fit(X, Y), net, atol=0)


def test_general_networks_take_sparse_features():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    net = MLPClassifier(norm="layer", dropout=0.1, **SMALL).fit(X, Y)
    sparse = MLPClassifier(norm="layer", dropout=0.1, **SMALL).fit(scipy_sparse.csr_matrix(X), Y)
    assert_same(net, sparse, atol=1e-10)
    np.testing.assert_allclose(
        sparse.predict_proba(scipy_sparse.csr_matrix(X)), net.predict_proba(X)
    )


def test_partial_fit_goes_on_with_norm_and_dropout():
    net = MLPClassifier(norm="layer", dropout=0.2, batch_size=30, **SMALL)
    for _ in range(60):
        net.partial_fit(X, Y, classes=[0, 1, 2])
    assert net.loss_curve_[-1] < 0.6 * net.loss_curve_[0]


@pytest.mark.parametrize("library", ["torch", "jax", "array_api_strict"])
def test_other_libraries_give_the_same_network(library):
    pytest.importorskip(library)
    options = {"norm": "layer", "dropout": 0.2, "activation": ["gelu"], "optimizer": "adamw"}
    here = MLPClassifier(**options, **SMALL).fit(X, Y)
    there = MLPClassifier(**options, **SMALL, backend=library)
    with (
        portnet.use_backend(library, dtype="float64")
        if library == "jax"
        else contextlib.nullcontext()
    ):
        there.fit(X, Y)
        for a, b in zip(here.get_weights(), there.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


# Optimizers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (portnet.SGD(0.05), {"momentum": 0}),
        (portnet.Momentum(0.05, 0.8), {"momentum": 0.8, "nesterovs_momentum": False}),
        (portnet.Nesterov(0.05, 0.8), {"momentum": 0.8}),
        (
            portnet.SGD(lambda t: 0.05 / (150 * t + 1) ** 0.5),
            {"momentum": 0, "learning_rate": "invscaling", "batch_size": 150},
        ),
    ],
)
def test_optimizers_make_the_steps_of_scikit_learn(optimizer, options):
    size = {"batch_size": options.pop("batch_size", 40), "alpha": 0.3}
    options = {"solver": "sgd", "learning_rate_init": 0.05, **options}
    reference = sklearn_nn.MLPClassifier(**options, **size, **SMALL).fit(X, Y)
    net = MLPClassifier(optimizer=optimizer, **size, **SMALL).fit(X, Y)
    assert_same(net, reference)
    np.testing.assert_allclose(net.loss_curve_, reference.loss_curve_, rtol=1e-9)


def test_adamw_and_clipping_equal_those_of_torch(torch):
    optimizer = portnet.chain(portnet.ClipNorm(0.5), portnet.AdamW(0.02, decay=0.1))
    options = {"batch_size": len(YR), "shuffle": False, "alpha": 0, "max_iter": 12}
    net = MLPRegressor(hidden_layer_sizes=(4,), activation="tanh", optimizer=optimizer, **options)
    net.set_params(random_state=0).initialize(XR, YR)
    W, b, V, c = [torch.tensor(w, requires_grad=True) for w in net.get_weights()]
    other = torch.optim.AdamW([W, b, V, c], lr=0.02, weight_decay=0.1)
    x, y = torch.tensor(XR), torch.tensor(YR)
    for _ in range(12):
        other.zero_grad()
        loss = 0.5 * ((torch.tanh(x @ W + b) @ V + c)[:, 0] - y).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([W, b, V, c], 0.5)
        other.step()
    net.fit(XR, YR, resume=True)
    for a, t in zip(net.get_weights(), (W, b, V, c), strict=True):
        np.testing.assert_allclose(a, t.detach().numpy(), rtol=1e-5)  # torch adds 1e-6 to the norm


def test_a_name_of_an_optimizer_takes_learning_rate_init():
    named = MLPClassifier(optimizer="rmsprop", learning_rate_init=0.01, **SMALL).fit(X, Y)
    assert_same(named, MLPClassifier(optimizer=portnet.RMSProp(0.01), **SMALL).fit(X, Y), atol=0)


# Searches and bad input ---------------------------------------------------------------------------


def test_grid_search_goes_over_each_new_parameter():
    grids = {
        "dropout": [0.0, 0.2],
        "norm": [None, "layer", portnet.LayerNorm(1e-3)],
        "activation": ["relu", "gelu", portnet.SiLU(), ["tanh"], [Gated()]],
        "optimizer": [None, "adamw", portnet.AdamW(portnet.CosineDecay(0.02, steps=20))],
        "loss": ["log_loss", portnet.SoftmaxCrossEntropy(label_smoothing=0.1)],
        "metrics": [None, ["f1_macro"]],
    }
    for name, values in grids.items():
        net = MLPClassifier((8,), max_iter=20, random_state=0, learning_rate_init=0.01)
        search = GridSearchCV(net, {name: values}, cv=2, error_score="raise").fit(X, Y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all(), name
    net = MLPClassifier((8,), max_iter=20, random_state=0, early_stopping=True)
    GridSearchCV(net, {"scoring": [None, "f1_macro", "loss"]}, cv=2, error_score="raise").fit(X, Y)
    losses = ["squared_error", "absolute_error", "huber", portnet.Huber(0.1)]
    GridSearchCV(MLPRegressor(**SMALL), {"loss": losses}, cv=2, error_score="raise").fit(XR, YR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "The 'dropout' parameter of MLPClassifier must be a float in the range"),
        ({"dropout": "high"}, "The 'dropout' parameter of MLPClassifier must be"),
        ({"norm": "batch"}, "The 'norm' parameter of MLPClassifier must be None, a str among"),
        (
            {"activation": ["relu", "tanh"]},
            "activation: expected one for each hidden layer, or one",
        ),
        ({"activation": ["sigmoid"]}, "activation: layer 1: unknown name 'sigmoid'. The names are"),
        (
            {"activation": [3]},
            "expected activation 1 as a layer with init, forward, backward, got 3",
        ),
        ({"activation": portnet.Tanh}, "write it with"),
        ({"optimizer": "lbfgs"}, "The 'optimizer' parameter of MLPClassifier must be None, a str"),
        ({"optimizer": portnet.AdamW}, "got the class AdamW: write it with"),
        ({"optimizer": portnet.ClipNorm(1.0)}, "changes gradients but makes no step"),
        (
            {"optimizer": "adamw", "solver": "sgd", "learning_rate": "adaptive"},
            "optimizer='adamw' and learning_rate='adaptive' exclude each other: give the optimizer",
        ),
        ({"optimizer": "adamw", "solver": "lbfgs"}, "optimizer='adamw' needs solver='adam' or"),
        ({"dropout": 0.5, "solver": "lbfgs"}, "dropout=0.5 needs solver='adam' or 'sgd', which"),
        ({"scoring": "f1_macro"}, "scoring='f1_macro' is monitored by early stopping: set early_"),
    ],
)
def test_bad_parameters_raise_and_leave_the_estimator_as_it_was(options, message):
    for net in (MLPClassifier(**SMALL), MLPClassifier(**SMALL).fit(X, Y)):
        net.set_params(**options)
        before = dict(vars(net))
        with pytest.raises((ValueError, TypeError), match=message):
            net.fit(X, Y)
        assert vars(net) == before


def test_a_layer_that_cannot_be_traced_trains_eagerly_and_says_so():
    class Peeking(portnet.Tanh):
        def forward(self, params, x, key=None):
            if float(portnet.namespace(x).sum(x)) > 1e9:
                raise OverflowError
            return super().forward(params, x, key)

    with pytest.warns(portnet.CompileWarning, match="training runs eagerly"):
        net = MLPClassifier(activation=Peeking(), **SMALL).fit(X, Y)
    assert_same(net, MLPClassifier(activation="tanh", **SMALL).fit(X, Y), atol=1e-9)


class ReturnsGradients:
    def init(self, params):
        return ()

    def update(self, grads, state, params):
        return grads


class ReturnsRows(ReturnsGradients):
    def update(self, grads, state, params):
        return portnet.tree.map(lambda g: g[:1], grads), state


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (ReturnsGradients(), "expected update to return updates, state, got 3 values"),
        (ReturnsRows(), r"expected an update of shape \(4, 7\) .* got \(1, 7\)"),
        (portnet.AdamW(only="w"), "no parameter is named 'w'; there are"),
    ],
)
def test_what_an_optimizer_returns_is_checked(optimizer, message):
    net = MLPClassifier(**SMALL).fit(X, Y).set_params(optimizer=optimizer)
    before = dict(vars(net))
    with pytest.raises((ValueError, TypeError), match=message):
        net.fit(X, Y)
    assert vars(net) == before


def test_warm_start_with_another_norm_raises():
    net = MLPClassifier(norm="layer", warm_start=True, **SMALL).fit(X, Y)
    with pytest.raises(ValueError, match="Use a new estimator"):
        net.set_params(norm=None).fit(X, Y)
    plain = MLPClassifier(warm_start=True, **SMALL).fit(X, Y)
    with pytest.raises(ValueError, match="Use a new estimator"):
        plain.set_params(norm="layer").fit(X, Y)


# Weights ------------------------------------------------------------------------------------------


def test_weights_that_are_set_are_those_that_predict():
    net = MLPRegressor(hidden_layer_sizes=(3,), norm="layer", random_state=0).fit(XR, YR)
    draw = np.random.default_rng(0)
    weights = [draw.standard_normal(w.shape) for w in net.get_weights()]
    weights_before = [w.copy() for w in weights]
    W, b, beta, gamma, V, c = weights
    expected = np.maximum(normalised(XR @ W + b, beta, gamma), 0) @ V + c
    np.testing.assert_allclose(net.set_weights(weights).predict(XR), expected[:, 0], rtol=1e-12)
    net.partial_fit(XR, YR)
    for a, b in zip(weights, weights_before, strict=True):
        np.testing.assert_array_equal(a, b)  # the caller's arrays are not written to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:-1], "set_weights: expected 4 arrays, as get_weights returns, got 3"),
        (
            lambda w: [w[0].T, *w[1:]],
            r"set_weights: array 0: expected shape \(4, 7\), got \(7, 4\)",
        ),
        (
            lambda w: [*w[:3], "abc"],
            "set_weights: array 3: expected numbers: could not convert",
        ),
        (
            lambda w: None,
            "set_weights: expected a list of arrays, as get_weights returns, got None",
        ),
        (
            lambda w: [*w[:3], w[3] * np.nan],
            "set_weights: array 3: expected finite values, got NaN",
        ),
    ],
)
def test_bad_weights_raise_and_change_nothing(change, message):
    net = MLPClassifier(**SMALL).fit(X, Y)
    before = dict(vars(net))
    with pytest.raises((ValueError, TypeError), match=message):
        net.set_weights(change(net.get_weights()))
    assert vars(net) == before
    with pytest.raises(ValueError, match="not fitted yet"):
        MLPClassifier().get_weights()
