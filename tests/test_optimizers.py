"""Optimizers against ten-line textbook loops, torch and optax."""

import operator
import pickle

import numpy as np
import pytest

import portnet
from portnet import optimizers, tree
from portnet.optimizers import SGD, Adam, Momentum

# Every public optimizer has a case: our own, torch's and optax's.
CASES = {
    "sgd": (SGD(0.1), lambda t, p: t.SGD(p, 0.1), lambda o: o.sgd(0.1)),
    "momentum": (
        Momentum(0.02, beta=0.8),
        lambda t, p: t.SGD(p, 0.02, momentum=0.8),
        lambda o: o.sgd(0.02, momentum=0.8),
    ),
    "adam": (Adam(0.05), lambda t, p: t.Adam(p, 0.05), lambda o: o.adam(0.05)),
    "adam without means": (
        Adam(0.05, beta1=0.0, beta2=0.9, eps=1e-4),
        lambda t, p: t.Adam(p, 0.05, (0.0, 0.9), 1e-4),
        lambda o: o.adam(0.05, 0.0, 0.9, 1e-4),
    ),
}
START = {"W": np.array([[1.0, -2.0], [0.5, 3.0]]), "b": np.array([[-1.2, 1.0]])}


def gradient(params):
    """Of Rosenbrock's function of b plus a bowl in W."""
    a, b = params["b"][0, 0], params["b"][0, 1]
    db = [[-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)]]
    return {"W": 2.0 * params["W"], "b": np.array(db) * 0.01}


def by_hand(optimizer, steps):
    """The textbook's loop, on one array at a time."""
    p = {k: v.copy() for k, v in START.items()}
    m = {k: np.zeros_like(v) for k, v in p.items()}
    v = {k: np.zeros_like(w) for k, w in p.items()}
    for t in range(1, steps + 1):
        for k, g in gradient(p).items():
            match optimizer:
                case SGD(lr):
                    p[k] = p[k] - lr * g
                case Momentum(lr, beta):
                    m[k] = beta * m[k] + g
                    p[k] = p[k] - lr * m[k]
                case Adam(lr, b1, b2, eps):
                    m[k] = b1 * m[k] + (1 - b1) * g
                    v[k] = b2 * v[k] + (1 - b2) * g**2
                    mhat, vhat = m[k] / (1 - b1**t), v[k] / (1 - b2**t)
                    p[k] = p[k] - lr * mhat / (np.sqrt(vhat) + eps)
    return p


def run(optimizer, params, grad, steps):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(grad(params), state, params)
        params = tree.map(operator.add, params, updates)
    return params, state


def test_every_public_optimizer_is_tested():
    named = vars(optimizers).items()
    classes = {name: c for name, c in named if isinstance(c, type) and hasattr(c, "update")}
    public = {c for name, c in classes.items() if name != "Optimizer"}
    assert (
        public == {type(case[0]) for case in CASES.values()} == set(optimizers.OPTIMIZERS.values())
    )


@pytest.mark.parametrize("name", CASES)
def test_textbook(name, xp):
    optimizer = CASES[name][0]

    def grad(params):
        return xp.tree(gradient(tree.map(xp.numpy, params)))

    # float32 and float64 part company on a curved function, so few steps there
    steps, rtol = (40, 1e-12) if xp.float_name == "float64" else (5, 1e-4)
    params, state = run(optimizer, xp.tree(START), grad, steps)
    expected = by_hand(optimizer, steps)
    for k in START:
        xp.assert_close(params[k], expected[k], rtol=rtol, atol=rtol)
    for leaf in tree.leaves(state):
        xp.check_kind(leaf)


@pytest.mark.parametrize("name", CASES)
def test_torch(name, torch):
    params = {k: torch.tensor(v, requires_grad=True) for k, v in START.items()}
    theirs = CASES[name][1](torch.optim, list(params.values()))
    for _ in range(40):
        for k, g in gradient({k: p.detach().numpy() for k, p in params.items()}).items():
            params[k].grad = torch.tensor(g)
        theirs.step()
    ours, _ = run(CASES[name][0], START, gradient, 40)
    for k in START:
        np.testing.assert_allclose(ours[k], params[k].detach(), rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_optax_drops_in(name, jax):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    start = {k: jax.numpy.asarray(v) for k, v in START.items()}

    def grad(params):
        return {k: jax.numpy.asarray(v) for k, v in gradient(params).items()}

    theirs, _ = run(CASES[name][2](optax), start, grad, 40)
    ours, _ = run(CASES[name][0], START, gradient, 40)
    for k in START:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=1e-10)


def test_optax_in_the_trainer(jax):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    X = np.random.default_rng(0).standard_normal((64, 3))
    y = X @ [[1.0], [2.0], [-1.0]]
    with portnet.use_backend("jax", dtype="float64"):
        net = portnet.mlp([3, 4, 1])
        runs = [
            portnet.Trainer(net, "squared_error", opt, batch_size=16).fit(X, y, epochs=3)
            for opt in (optax.adam(1e-2), Adam(1e-2))
        ]
    np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32(name, xp):
    params = tree.map(lambda p: xp.asarray(p, "float32"), START)
    params, state = run(CASES[name][0], params, lambda p: p, 3)
    for leaf in (*tree.leaves(params), *tree.leaves(state)):
        xp.check_kind(leaf, "float32")


@pytest.mark.parametrize("name", CASES)
def test_numpy_scalars_as_options_widen_nothing(name):
    given = {k: np.float64(v) for k, v in vars(CASES[name][0]).items()}
    optimizer = type(CASES[name][0])(**given)
    params = tree.map(lambda p: p.astype("float32"), START)
    params, state = run(optimizer, params, lambda p: p, 3)
    assert {a.dtype.name for a in (*tree.leaves(params), *tree.leaves(state))} == {"float32"}


@pytest.mark.parametrize("name", CASES)
def test_optimizers_are_values_and_bear_nothing_to_learn(name):
    optimizer = CASES[name][0]
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    assert hash(pickle.loads(pickle.dumps(optimizer))) == hash(optimizer)
    updates, _ = optimizer.update(((), ()), optimizer.init(((), ())), ((), ()))
    assert updates == ((), ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.0), "SGD: expected a finite lr > 0, got 0.0"),
        (lambda: SGD(float("nan")), "SGD: expected a finite lr > 0, got nan"),
        (lambda: Momentum(beta=1.0), "Momentum: expected 0 <= beta < 1, got 1.0"),
        (lambda: Adam(beta1=-0.1), "Adam: expected 0 <= beta1 < 1, got -0.1"),
        (lambda: Adam(beta2=2), "Adam: expected 0 <= beta2 < 1, got 2"),
        (lambda: Adam(eps=0), "Adam: expected eps > 0, got 0"),
        (lambda: SGD("0.1"), "SGD: expected a finite lr > 0, got '0.1'"),
        (lambda: SGD(None), "SGD: expected a finite lr > 0, got None"),
        (lambda: SGD(True), "SGD: expected a finite lr > 0, got True"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
