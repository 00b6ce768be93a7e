"""Optimizers, transforms and chains, compared with textbook loops, torch and optax."""

import operator
import pickle
from dataclasses import replace

import numpy as np
import pytest

import portnet
from portnet import optimizers, transforms, tree
from portnet.optimizers import SGD, Adam, AdamW, Momentum, Nesterov, RMSProp
from portnet.schedules import CosineDecay, InverseDecay, StepDecay
from portnet.transforms import Chained, ClipNorm, WeightDecay, chain


def inverse(t):
    return 0.05 / (1 + t / 10)


# Every public optimizer has a case: portnet's, torch's and optax's.
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
    "nesterov": (
        Nesterov(0.02, beta=0.8),
        lambda t, p: t.SGD(p, 0.02, momentum=0.8, nesterov=True),
        lambda o: o.sgd(0.02, momentum=0.8, nesterov=True),
    ),
    "rmsprop": (
        RMSProp(0.01, beta=0.95, eps=1e-6),
        lambda t, p: t.RMSprop(p, 0.01, alpha=0.95, eps=1e-6),
        lambda o: o.rmsprop(0.01, decay=0.95, eps=1e-6, eps_in_sqrt=False),
    ),
    "adamw": (
        AdamW(0.05, decay=0.1),
        lambda t, p: t.AdamW(p, 0.05, weight_decay=0.1),
        lambda o: o.adamw(0.05, weight_decay=0.1),
    ),
    "adamw of W": (
        AdamW(0.05, decay=0.1, only="W"),
        lambda t, p: t.AdamW(
            [{"params": p[:1]}, {"params": p[1:], "weight_decay": 0}], 0.05, weight_decay=0.1
        ),
        lambda o: o.adamw(0.05, weight_decay=0.1, mask={"W": True, "b": False}),
    ),
    "clipped updates": (
        chain(Adam(0.05), ClipNorm(0.05)),
        None,
        lambda o: o.chain(o.adam(0.05), o.clip_by_global_norm(0.05)),
    ),
    "scheduled sgd": (
        SGD(InverseDecay(0.05, steps=10)),
        None,
        lambda o: o.sgd(lambda t: 0.05 / (1 + t / 10)),
    ),
    "scheduled momentum": (
        Momentum(InverseDecay(0.05, steps=10), beta=0.8),
        None,
        lambda o: o.sgd(lambda t: 0.05 / (1 + t / 10), momentum=0.8),
    ),
    "scheduled nesterov": (
        Nesterov(StepDecay(0.02, every=7, factor=0.5), beta=0.8),
        None,
        lambda o: o.sgd(o.exponential_decay(0.02, 7, 0.5, staircase=True), 0.8, nesterov=True),
    ),
    "scheduled adamw": (
        AdamW(CosineDecay(0.1, steps=30, warmup=4, end=0.01), decay=0.1),
        None,
        lambda o: o.adamw(
            o.warmup_cosine_decay_schedule(0.02, 0.1, 4, 30, end_value=0.01), weight_decay=0.1
        ),
    ),
    "scheduled rmsprop": (
        RMSProp(inverse, beta=0.95, eps=1e-6),
        None,
        lambda o: o.rmsprop(inverse, decay=0.95, eps=1e-6, eps_in_sqrt=False),
    ),
    "decayed momentum": (
        chain(WeightDecay(0.1), Momentum(0.02, beta=0.8)),
        lambda t, p: t.SGD(p, 0.02, momentum=0.8, weight_decay=0.1),
        lambda o: o.chain(o.add_decayed_weights(0.1), o.sgd(0.02, momentum=0.8)),
    ),
    "decayed W": (
        chain(WeightDecay(0.1, only="W"), SGD(0.02)),
        lambda t, p: t.SGD([{"params": p[:1], "weight_decay": 0.1}, {"params": p[1:]}], 0.02),
        lambda o: o.chain(o.add_decayed_weights(0.1, mask={"W": True, "b": False}), o.sgd(0.02)),
    ),
    "clipped adam": (
        chain(ClipNorm(0.5), Adam(0.05)),
        None,
        lambda o: o.chain(o.clip_by_global_norm(0.5), o.adam(0.05)),
    ),
    "decayed, clipped nesterov": (
        chain(WeightDecay(0.1, only="W"), ClipNorm(0.5), Nesterov(inverse, beta=0.8)),
        None,
        lambda o: o.chain(
            o.add_decayed_weights(0.1, mask={"W": True, "b": False}),
            o.clip_by_global_norm(0.5),
            o.sgd(inverse, 0.8, nesterov=True),
        ),
    ),
}
START = {"W": np.array([[1.0, -2.0], [0.5, 3.0]]), "b": np.array([[-1.2, 1.0]])}


def gradient(params):
    """Return the gradient of Rosenbrock's function of b plus |W|^2."""
    a, b = params["b"][0, 0], params["b"][0, 1]
    db = [[-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)]]
    return {"W": 2.0 * params["W"], "b": np.array(db) * 0.01}


def textbook_loop(optimizer, steps):
    """Run the textbook loop, one array at a time."""
    p = {k: v.copy() for k, v in START.items()}
    m = {k: np.zeros_like(v) for k, v in p.items()}
    v = {k: np.zeros_like(w) for k, w in p.items()}
    parts = getattr(optimizer, "parts", (optimizer,))
    for t in range(1, steps + 1):
        grads = gradient(p)
        for part in parts[:-1]:
            if isinstance(part, WeightDecay):
                for k in grads if part.only is None else [part.only]:
                    grads[k] = grads[k] + part.decay * p[k]
            else:
                norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
                grads = {k: g * min(1, part.limit / norm) for k, g in grads.items()}
        lr = parts[-1].lr(t - 1) if callable(parts[-1].lr) else parts[-1].lr
        for k, g in grads.items():
            match parts[-1]:
                case SGD():
                    p[k] = p[k] - lr * g
                case Nesterov(_, beta):
                    m[k] = beta * m[k] + g
                    p[k] = p[k] - lr * (g + beta * m[k])
                case Momentum(_, beta):
                    m[k] = beta * m[k] + g
                    p[k] = p[k] - lr * m[k]
                case RMSProp(_, beta, eps):
                    v[k] = beta * v[k] + (1 - beta) * g**2
                    p[k] = p[k] - lr * g / (np.sqrt(v[k]) + eps)
                case Adam(_, b1, b2, eps):
                    m[k] = b1 * m[k] + (1 - b1) * g
                    v[k] = b2 * v[k] + (1 - b2) * g**2
                    mhat, vhat = m[k] / (1 - b1**t), v[k] / (1 - b2**t)
                    decay = getattr(parts[-1], "decay", 0)
                    decay = decay if getattr(parts[-1], "only", None) in (None, k) else 0
                    p[k] = p[k] - lr * mhat / (np.sqrt(vhat) + eps) - lr * decay * p[k]
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
    tested = {type(case[0]) for case in CASES.values()}
    assert public == tested - {Chained} == set(optimizers.OPTIMIZERS.values())
    parts = {type(p) for o, _, _ in CASES.values() if isinstance(o, Chained) for p in o.parts}
    assert {transforms.ClipNorm, transforms.WeightDecay} == parts - public
    classes = {"ClipNorm", "WeightDecay", "Chained"}
    assert set(transforms.__all__) == classes | {"chain", "joined_parameters"}


@pytest.mark.parametrize("name", [name for name in CASES if name != "clipped updates"])
def test_optimizer_equals_the_textbook_loop(name, xp):
    optimizer = CASES[name][0]

    def grad(params):
        return xp.tree(gradient(tree.map(xp.numpy, params)))

    # float32 and float64 diverge on a curved function, so float32 makes few steps
    steps, rtol = (40, 1e-12) if xp.float_name == "float64" else (5, 1e-4)
    params, state = run(optimizer, xp.tree(START), grad, steps)
    expected = textbook_loop(optimizer, steps)
    for k in START:
        xp.assert_close(params[k], expected[k], rtol=rtol, atol=rtol)
    for leaf in tree.leaves(state):
        xp.check_kind(leaf)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][1]])
def test_optimizer_equals_that_of_torch(name, torch):
    params = {k: torch.tensor(v, requires_grad=True) for k, v in START.items()}
    reference = CASES[name][1](torch.optim, list(params.values()))
    for _ in range(40):
        for k, g in gradient({k: p.detach().numpy() for k, p in params.items()}).items():
            params[k].grad = torch.tensor(g)
        reference.step()
    actual, _ = run(CASES[name][0], START, gradient, 40)
    for k in START:
        np.testing.assert_allclose(actual[k], params[k].detach(), rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_optimizer_equals_that_of_optax(name, jax):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    start = {k: jax.numpy.asarray(v) for k, v in START.items()}

    def grad(params):
        return {k: jax.numpy.asarray(v) for k, v in gradient(params).items()}

    reference, _ = run(CASES[name][2](optax), start, grad, 40)
    actual, _ = run(CASES[name][0], START, gradient, 40)
    optimizer = CASES[name][0]
    scheduled = callable(getattr(getattr(optimizer, "parts", (optimizer,))[-1], "lr", None))
    # optax counts steps in int32, whose quotients are float32 numbers
    rtol = 2e-6 if scheduled else 1e-10
    for k in START:
        np.testing.assert_allclose(actual[k], reference[k], rtol=rtol)


def test_trainer_accepts_optax_optimizers(jax):
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
def test_float32_parameters_give_float32_updates_and_state(name, xp):
    params = tree.map(lambda p: xp.asarray(p, "float32"), START)
    params, state = run(CASES[name][0], params, lambda p: p, 3)
    for leaf in (*tree.leaves(params), *tree.leaves(state)):
        xp.check_kind(leaf, "float32")


@pytest.mark.parametrize("name", CASES)
def test_numpy_float64_options_keep_float32(name):
    def wide(part):
        numbers = {k: np.float64(v) for k, v in vars(part).items() if isinstance(v, float)}
        return replace(part, **numbers)

    optimizer = CASES[name][0]
    if isinstance(optimizer, Chained):
        optimizer = chain(*map(wide, optimizer.parts))
    else:
        optimizer = wide(optimizer)
    params = tree.map(lambda p: p.astype("float32"), START)
    params, state = run(optimizer, params, lambda p: p, 3)
    assert {a.dtype.name for a in (*tree.leaves(params), *tree.leaves(state))} == {"float32"}


@pytest.mark.parametrize("name", CASES)
def test_optimizers_are_picklable_and_accept_no_parameters(name):
    optimizer = CASES[name][0]
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    assert hash(pickle.loads(pickle.dumps(optimizer))) == hash(optimizer)
    updates, _ = optimizer.update(((), ()), optimizer.init(((), ())), ((), ()))
    assert updates == ((), ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.0), "SGD: expected a finite lr > 0, or a function of t, got 0.0"),
        (lambda: SGD(float("nan")), "SGD: expected a finite lr > 0, or a function of t, got nan"),
        (lambda: Momentum(beta=1.0), "Momentum: expected 0 <= beta < 1, got 1.0"),
        (lambda: Adam(beta1=-0.1), "Adam: expected 0 <= beta1 < 1, got -0.1"),
        (lambda: Adam(beta2=2), "Adam: expected 0 <= beta2 < 1, got 2"),
        (lambda: Adam(eps=0), "Adam: expected a finite eps > 0, got 0"),
        (lambda: SGD("0.1"), "SGD: expected a finite lr > 0, or a function of t, got '0.1'"),
        (lambda: SGD(None), "SGD: expected a finite lr > 0, or a function of t, got None"),
        (lambda: SGD(True), "SGD: expected a finite lr > 0, or a function of t, got True"),
        (lambda: SGD(CosineDecay), "SGD: expected a finite lr > 0, or a function of t, got <class"),
        (lambda: RMSProp(eps=-1e-9), "RMSProp: expected a finite eps > 0, got -1e-09"),
        (lambda: RMSProp(beta=1), "RMSProp: expected 0 <= beta < 1, got 1"),
        (lambda: AdamW(decay=-0.1), "AdamW: expected a finite decay >= 0, got -0.1"),
        (lambda: Nesterov(beta=-1), "Nesterov: expected 0 <= beta < 1, got -1"),
        (lambda: ClipNorm(0), "ClipNorm: expected a finite limit > 0, got 0"),
        (lambda: ClipNorm(float("inf")), "ClipNorm: expected a finite limit > 0, got inf"),
        (lambda: WeightDecay(-1), "WeightDecay: expected a finite decay >= 0, got -1"),
        (lambda: chain(), "chain: expected at least one optimizer, got nothing"),
    ],
)
def test_bad_options_raise_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chain(SGD), "expected part 1 of a chain with init, update, got <class"),
        (
            lambda: chain(ClipNorm(1.0), 0.1),
            "expected part 2 of a chain with init, update, got 0.1",
        ),
        (
            lambda: WeightDecay(0.1, only=3),
            "expected only as a name of parameters, such as 'W', got 3",
        ),
    ],
)
def test_bad_parts_of_a_chain_raise(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_weight_decay_of_an_unknown_name_raises():
    with pytest.raises(ValueError, match=r"no parameter is named 'w'; there are \['W'\], \['b'\]"):
        chain(WeightDecay(0.1, only="w"), SGD()).init(START)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clip_norm_limits_the_norm_and_keeps_the_direction(scale, xp):
    """Below the limit, g is unchanged; above it, the norm is the limit and the direction is kept."""
    g = {"W": scale * np.array([[3.0, 4.0]]), "b": scale * np.array([[12.0]])}
    clipped, _ = ClipNorm(6.5).update(xp.tree(g), (), xp.tree(g))
    factor = min(1.0, 6.5 / (13 * scale))
    for k in g:
        xp.assert_close(clipped[k], g[k] * factor)
    if factor == 1:
        np.testing.assert_array_equal(xp.numpy(clipped["W"]), g["W"].astype(xp.float_name))


def test_clip_norm_keeps_zeros_and_propagates_nan(xp):
    zeros = xp.tree({"W": np.zeros((2, 3))})
    clipped, _ = ClipNorm(1.0).update(zeros, (), zeros)
    xp.assert_close(clipped["W"], np.zeros((2, 3)))
    bad = xp.tree({"W": np.array([[np.nan, 1.0]]), "b": np.array([[1.0]])})
    clipped, _ = ClipNorm(1.0).update(bad, (), bad)
    assert np.isnan(xp.numpy(clipped["b"])).all()  # NaN is not hidden by the clip


def test_weight_decay_does_not_depend_on_the_batch_size():
    """One step has the same decay with a full batch and with half batches."""
    X, y = np.ones((8, 2)), np.zeros((8, 1))
    for batch in (8, 4):
        with portnet.use_backend("numpy", dtype="float64"):
            optimizer = chain(WeightDecay(0.5), SGD(0.1))
            trainer = portnet.Trainer(
                portnet.Dense(1, weights=lambda r, i, o: np.array([[1.0], [-1.0]])),
                "squared_error",
                optimizer,
                batch,
            )  # the gradient of the loss is 0 here: x @ W = 0 throughout
            run = trainer.fit(X, y, epochs=1)
        steps = 8 // batch
        np.testing.assert_allclose(run.params["W"], [[0.95**steps], [-(0.95**steps)]], rtol=1e-12)


BAD_RATES = {
    "wide": (lambda t: np.array(0.1), r"expected a Python number or a 0-d float32 array"),
    "none": (lambda t: None, r"expected a Python number or a 0-d float32 array like t, got None"),
    "long": (lambda t: np.zeros(2, "float32"), r"expected one number, got shape \(2,\)"),
    "text": (lambda t: "0.1", r"expected a Python number or a 0-d float32 array like t, got '0.1'"),
}


@pytest.mark.parametrize("name", BAD_RATES)
def test_schedules_that_return_no_scalar_raise(name):
    rate, message = BAD_RATES[name]
    params = tree.map(lambda p: p.astype("float32"), START)
    with pytest.raises(portnet.ShapeError, match=message):
        SGD(rate).update(params, SGD(rate).init(params), params)


def test_schedules_can_return_python_numbers(xp):
    params = xp.tree(START)
    for rate in (lambda t: 0.1, lambda t: 1, lambda t: np.float64(0.1)):
        updates, _ = SGD(rate).update(params, SGD(rate).init(params), params)
        xp.assert_close(updates["W"], -rate(0) * START["W"])


def test_optimizer_names_are_lowercase_class_names():
    names = {name: make.__name__.lower() for name, make in optimizers.OPTIMIZERS.items()}
    assert names == {name: name for name in optimizers.OPTIMIZERS}


def test_default_options_are_those_of_the_documentation():
    assert SGD() == SGD(0.1)
    assert Momentum() == Momentum(0.1, 0.9)
    assert Nesterov() == Nesterov(0.1, 0.9)
    assert RMSProp() == RMSProp(1e-3, 0.9, 1e-8)
    assert Adam() == Adam(1e-3, 0.9, 0.999, 1e-8)
    assert AdamW() == AdamW(1e-3, 0.9, 0.999, 1e-8, 0.01)


def test_weight_decay_only_matches_the_whole_name():
    """only="b" does not match LayerNorm's beta."""
    net = portnet.mlp([2, 3, 1], norm="layer")
    params = portnet.init(net)
    grads = tree.map(np.zeros_like, params)
    decay = WeightDecay(0.5, only="b")
    ones = tree.map(np.ones_like, params)
    updates, _ = decay.update(grads, decay.init(params), ones)
    moved = [p for p, u in zip(tree.paths(params), tree.leaves(updates), strict=True) if u.any()]
    assert moved == [p for p in tree.paths(params) if p.endswith("['b']")]
    assert any("beta" in p for p in tree.paths(params))


def test_chain_without_an_optimizer_raises():
    nested = chain(ClipNorm(2.0), chain(WeightDecay(0.1), ClipNorm(1.0)))
    with pytest.raises(TypeError, match="which changes gradients but makes no step"):
        portnet.Trainer(portnet.mlp([2, 1]), "huber", nested)
    with pytest.raises(TypeError, match="which changes gradients but makes no step"):
        portnet.Trainer(portnet.mlp([2, 1]), "huber", ClipNorm(1.0))
    portnet.Trainer(
        portnet.mlp([2, 1]), "huber", chain(ClipNorm(1.0), chain(WeightDecay(1), SGD()))
    )


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_first_step_of_adam_is_lr_in_float32(size):
    """The bias correction 1 - beta2 = 0.001 must be accurate in float32."""
    g = {"W": np.array([[size, -size]], "float32")}
    updates, _ = Adam(1e-3).update(g, Adam().init(g), g)
    np.testing.assert_allclose(updates["W"], [[-1e-3, 1e-3]], rtol=5e-7 + 1e-8 / size)
