"""explain_step: the quantities of one training step, by name, with formulas."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

import portnet
from portnet import tree
from portnet.optimizers import OPTIMIZERS

X = [[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]]
T = [[1.0], [0.0], [1.0]]
START = (
    {"W": [[0.3, -0.6, 0.9], [-0.2, 0.8, 0.1]], "b": [[0.05, -0.1, 0.2]]},
    (),
    {"W": [[0.7], [-0.4], [0.6]], "b": [[-0.3]]},
    (),
)


def by_hand(lr):
    """Return every quantity of a step of 2-3-1 with tanh and sigmoid, as lists of Python floats."""
    (W1, b1), (W2, b2) = [(layer["W"], layer["b"][0]) for layer in START[::2]]
    rows, hidden = range(3), range(3)
    z1 = [[sum(X[k][i] * W1[i][j] for i in (0, 1)) + b1[j] for j in hidden] for k in rows]
    a1 = [[math.tanh(z) for z in row] for row in z1]
    z2 = [[sum(a1[k][j] * W2[j][0] for j in hidden) + b2[0]] for k in rows]
    a2 = [[1 / (1 + math.exp(-z))] for (z,) in z2]
    loss = sum((a - t) ** 2 / 2 for (a,), (t,) in zip(a2, T, strict=True)) / 3
    da2 = [[(a - t) / 3] for (a,), (t,) in zip(a2, T, strict=True)]
    dz2 = [[d * a * (1 - a)] for (d,), (a,) in zip(da2, a2, strict=True)]
    dW2 = [[sum(a1[k][j] * dz2[k][0] for k in rows)] for j in hidden]
    db2 = [[sum(d for (d,) in dz2)]]
    da1 = [[dz2[k][0] * W2[j][0] for j in hidden] for k in rows]
    dz1 = [[da1[k][j] * (1 - a1[k][j] ** 2) for j in hidden] for k in rows]
    dW1 = [[sum(X[k][i] * dz1[k][j] for k in rows) for j in hidden] for i in (0, 1)]
    db1 = [[sum(dz1[k][j] for k in rows) for j in hidden]]
    found = {"z1": z1, "a1": a1, "z2": z2, "a2": a2, "loss": loss, "da2": da2, "dz2": dz2}
    found |= {"dW2": dW2, "db2": db2, "da1": da1, "dz1": dz1, "dW1": dW1, "db1": db1}
    for name, value in {"W1": W1, "b1": [b1], "W2": W2, "b2": [b2]}.items():
        step = [[-lr * g for g in row] for row in found[f"d{name}"]]
        found[f"u{name}"] = step
        found[f"{name}_new"] = [
            [p + u for p, u in zip(*pair, strict=True)] for pair in zip(value, step, strict=True)
        ]
    return found


NET = portnet.Chain([portnet.Dense(3), portnet.Tanh(), portnet.Dense(1), portnet.Sigmoid()])


def params_of(xp):
    return tuple(
        {k: xp.asarray(np.array(v)) for k, v in layer.items()} if layer else () for layer in START
    )


def test_quantities_equal_those_computed_by_hand(xp):
    step = portnet.explain_step(
        NET,
        "squared_error",
        portnet.SGD(0.5),
        params_of(xp),
        xp.asarray(np.array(X)),
        xp.asarray(np.array(T)),
    )
    expected = by_hand(0.5)
    for name, value in expected.items():
        xp.assert_close(step[name], np.array(value), rtol=100 * xp.rtol, atol=xp.rtol)
    given = ["x", "y", "W1", "b1", "W2", "b2"]
    forward = ["z1", "a1", "z2", "a2", "loss", "da2", "dz2"]
    backward = ["dW2", "db2", "da1", "dz1", "dW1", "db1"]
    names = ["W1", "b1", "W2", "b2"]
    after = [f"u{n}" for n in names] + [f"{n}_new" for n in names]
    assert [q.name for q in step] == given + forward + backward + after
    assert {n: tuple(np.shape(v)) for n, v in expected.items()} == {
        q.name: q.shape for q in step if q.name not in given
    }


def test_formulas_of_a_network():
    step = portnet.explain_step(NET, "squared_error", portnet.SGD(0.5), portnet.init(NET, 2), X, T)
    formulas = {q.name: q.formula for q in step if q.part not in ("given", "new parameters")}
    assert formulas == {
        "z1": "z1 = x @ W1 + b1",
        "a1": "a1 = tanh(z1)",
        "z2": "z2 = a1 @ W2 + b2",
        "a2": "a2 = 1 / (1 + e^-z2), the logistic function",
        "loss": "loss = the mean of l over the rows,  l = sum_j e_j^2 / 2, e = a2 - y",
        "da2": "da2 = (1 / rows) dl/da2,  dl/da2 = e",
        "dz2": "dz2 = da2 a2',  a2' = a2 (1 - a2)",
        "dW2": "dW2 = a1.T @ dz2",
        "db2": "db2 = the sum of the rows of dz2",
        "da1": "da1 = dz2 @ W2.T",
        "dz1": "dz1 = da1 a1',  a1' = 1 - a1^2",
        "dW1": "dW1 = x.T @ dz1",
        "db1": "db1 = the sum of the rows of dz1",
        "uW1": "uW1 = -lr dW1",
        "ub1": "ub1 = -lr db1",
        "uW2": "uW2 = -lr dW2",
        "ub2": "ub2 = -lr db2",
    }


CASES = {
    "relu": (portnet.mlp([2, 4, 3]), "softmax_cross_entropy", [0, 2, 1]),
    "norm": (portnet.mlp([2, 4, 1], "gelu", norm="layer", dropout=0.5), "huber", [1.0, 0.0, 2.0]),
    "nested": (
        portnet.Chain(
            [portnet.mlp([2, 3, 3]), portnet.Residual(portnet.mlp([3, 3])), portnet.SiLU()]
        ),
        "squared_error",
        np.ones((3, 3)),
    ),
    "one layer": (portnet.Dense(2), "poisson", np.ones((3, 2))),
}


def host(pytree):
    return [portnet.to_numpy(leaf) for leaf in tree.leaves(pytree)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_make_step(case, weighted, xp):
    """The bits of parameters, state and loss, with Dropout's masks, weights and a later state."""
    net, loss, y = CASES[case]
    y = np.array(y)
    y = xp.asarray(y.reshape(3, 1) if y.ndim == 1 and y.dtype.kind == "f" else y)
    loss = portnet.losses.LOSSES[loss]()
    optimizer = portnet.chain(portnet.ClipNorm(1.0), portnet.Adam(0.1))
    x, weight = xp.asarray(np.array(X)), xp.asarray(np.array([1.0, 2.0, 0.5])) if weighted else None
    params, key = (
        xp.tree(portnet.tree.map(portnet.to_numpy, portnet.init(net, 2, like=x))),
        portnet.rng.key(3, 1),
    )
    step = portnet.make_step(net, loss, optimizer)
    params, state, _ = step(params, optimizer.init(params), x, y, weight, key)
    before = host((params, state))
    expected = step(params, state, x, y, weight, key)
    got = portnet.explain_step(net, loss, optimizer, params, x, y, state, weight=weight, key=key)
    for a, b in zip(host((got.params, got.state, got.loss)), host(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    new = [q.value for q in got if q.part == "new parameters"]
    for a, b in zip(host(new), host(expected[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(host((params, state)), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({q.name for q in got}) == len(got)


@dataclass(frozen=True)
class Snake:
    """y = x + sin(x)^2;  dy/dx = 1 + sin(2 x)."""

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        return x + np.sin(x) ** 2, x

    def backward(self, params, cache, dy):
        return (), dy * (1.0 + np.sin(2.0 * cache))


class Scale:
    def init(self, rng, n_in):
        return {"a": np.ones((1, n_in)), "y": np.zeros((1, 1))}, n_in

    def forward(self, params, x, key=None):
        return params["a"] * x + params["y"], x

    def backward(self, params, cache, dy):
        da = np.sum(dy * cache, axis=-2, keepdims=True)
        return {"a": da, "y": np.sum(dy, keepdims=True)}, params["a"] * dy


def test_custom_layers_have_generic_names_and_their_own_equations():
    net = portnet.Chain([Scale(), portnet.Dense(2), Snake(), portnet.Tanh(), portnet.Tanh()])
    with portnet.use_backend("numpy", dtype="float64"):
        step = portnet.explain_step(
            net, "squared_error", "adam", portnet.init(net, 2), X, np.ones((3, 2))
        )
    formulas = {q.name: q.formula for q in step}
    assert formulas["y_1"] == "y_1 = Scale(x, a_1, param_y_1)"
    assert formulas["z1"] == "z1 = y_1 @ W1 + b1"
    assert formulas["y_3"] == "y_3 = z1 + sin(z1)^2"
    assert formulas["dz1"] == "dz1 = dy_3 y_3',  y_3' = 1 + sin(2 z1)"
    assert formulas["a1"] == "a1 = tanh(y_3)"
    assert formulas["y_5"] == "y_5 = tanh(a1)"
    assert formulas["da_1"] == "da_1 = from Scale.backward(dy_1)"
    assert next(q.source for q in step if q.name == "y_1") == "layers[0] Scale"
    assert len({q.name for q in step}) == len(step)


@pytest.mark.parametrize("name", [n for n in portnet.layers.ACTIVATIONS if n != "identity"])
def test_formula_of_each_activation_is_its_own_equation(name):
    net = portnet.mlp([2, 3, 1], name)
    step = portnet.explain_step(net, "squared_error", "sgd", portnet.init(net), X, T)
    formulas = {q.name: q.formula for q in step}
    assert formulas["a1"].startswith("a1 = ")
    assert "z1" in formulas["a1"]
    assert formulas["dz1"].startswith("dz1 = da1 a1',  a1' = ")
    assert " y" not in formulas["a1"] + formulas["dz1"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_formula_of_each_optimizer_names_the_parameter(name):
    net = portnet.mlp([2, 1])
    step = portnet.explain_step(net, "huber", name, portnet.init(net), X, T)
    formula = next(q.formula for q in step if q.name == "uW1")
    assert "uW1 = " in formula
    assert "lr" in formula


@pytest.mark.parametrize("name", portnet.losses.LOSSES)
def test_formula_of_each_loss(name):
    outputs = 2 if "softmax" in name else 1
    net = portnet.mlp([2, outputs])
    y = [0, 1, 1] if outputs == 2 else T
    step = portnet.explain_step(net, name, "sgd", portnet.init(net), X, y)
    formulas = {q.name: q.formula for q in step}
    assert formulas["loss"].startswith("loss = the mean of l over the rows,  l = ")
    assert "z1" in formulas["loss"] or outputs == 2
    assert formulas["dz1"].startswith("dz1 = (1 / rows) dl/dz1,  dl/dz1 = ")
    step = portnet.explain_step(net, name, "sgd", portnet.init(net), X, y, weight=[1.0, 2.0, 3.0])
    assert "sum(w l) / sum(w)" in str(step)


def test_loss_function_and_optimizer_without_equations_have_their_names():
    def mine(pred, target, weight=None):
        return portnet.SquaredError()(pred, target, weight)

    class Step:
        def init(self, params):
            return ()

        def update(self, grads, state, params):
            return tree.map(lambda g: -g, grads), state

    net = portnet.mlp([2, 1])
    step = portnet.explain_step(net, mine, Step(), portnet.init(net), X, np.array(T, np.float32))
    formulas = {q.name: q.formula for q in step}
    assert formulas["loss"] == "loss = mine(z1, y)"
    assert formulas["uW1"] == "uW1 = Step.update of dW1"


def test_table_and_markdown_have_a_line_for_each_quantity():
    net = portnet.mlp([2, 3, 1])
    step = portnet.explain_step(net, "squared_error", "sgd", portnet.init(net), X, T)
    lines = str(step).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [q.name for q in step]
    text = step._repr_markdown_()
    assert text == step.markdown()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(step)
    assert all(len(row.replace("\\|", "").split("|")) == 6 for row in rows)
    assert "`0.5 -1`<br>`2 0.25`<br>`-0.75 1.5`" in rows[0]
    huber = portnet.explain_step(net, "huber", "sgd", portnet.init(net), X, T).markdown()
    assert "\\|e_j\\|" in huber
    assert f"of {len(step)} quantities" in repr(step)
    with pytest.raises(KeyError, match=r"unknown quantity 'dW3'\. The names are x, y, W1"):
        step["dW3"]


def test_markdown_of_large_arrays_has_their_range():
    net = portnet.mlp([2, 100, 1])
    step = portnet.explain_step(net, "squared_error", "sgd", portnet.init(net), X, T)
    row = next(line for line in step.markdown().splitlines() if line.startswith("| `W1`"))
    assert "<br>" not in row
    assert " to " in row


def test_network_of_a_hundred_million_parameters_is_an_error_that_computes_nothing():
    class Never(portnet.SGD):
        def init(self, params):
            raise AssertionError("computed")

    big = ({"W": np.broadcast_to(np.float32(0), (10_000, 10_000)), "b": np.zeros((1, 10_000))},)
    net = portnet.mlp([10_000, 10_000])
    with pytest.raises(
        ValueError, match=r"the network has 100,010,000 parameters.*at most 1,000,000"
    ):
        portnet.explain_step(net, "squared_error", Never(), big, np.zeros((1, 10_000)), X)
    small = portnet.init(portnet.mlp([2, 1]))
    rows = np.broadcast_to(np.float32(0), (600_000, 2))
    with pytest.raises(ValueError, match=r"x has 1,200,000 numbers.*a few rows"):
        portnet.explain_step(portnet.mlp([2, 1]), "squared_error", "sgd", small, rows, rows[:, :1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [[1.0, math.nan]] * 3}, portnet.DataError, "NaN"),
        ({"x": [1.0, 2.0]}, portnet.DataError, "expected shape"),
        ({"x": [[1.0]] * 3}, portnet.ShapeError, "expected x of shape"),
        ({"y": [[1.0]]}, portnet.DataError, "expected 3 rows"),
        ({"y": ["a", "b", "a"]}, portnet.DataError, "y"),
        ({"loss": "mse"}, ValueError, "squared_error"),
        ({"optimizer": "lbfgs"}, TypeError, "L-BFGS makes no single steps"),
        ({"optimizer": portnet.LBFGS()}, TypeError, "L-BFGS makes no single steps"),
        ({"loss": lambda p, t, w=None: (p.sum(), p[None])}, portnet.ShapeError, "expected dpred"),
        ({"loss": lambda p, t, w=None: p.sum()}, TypeError, "to return value, dpred"),
        ({"optimizer": portnet.SGD}, TypeError, r"write it with \(\)"),
        ({"model": 3}, TypeError, "a model with init, forward, backward"),
        ({"params": ()}, portnet.ShapeError, "expected parameters of 1 layers"),
        ({"weight": [1.0]}, portnet.DataError, "weight"),
    ],
)
def test_bad_input_is_an_error(change, error, message):
    net = portnet.mlp([2, 1])
    given = {"model": net, "loss": "squared_error", "optimizer": "sgd", "params": portnet.init(net)}
    given |= {"x": X, "y": T} | change
    with pytest.raises(error, match=message):
        portnet.explain_step(**given)


def test_formulas_of_nested_parameters_have_their_own_names():
    class Mix:
        """y = s x + (1 - s) x."""

        def init(self, rng, n_in):
            return {"deep": [{"k": np.ones((1, 1))}], "s": np.ones((1, 1))}, n_in

        def forward(self, params, x, key=None):
            return params["s"] * x + (1 - params["s"]) * x, x

        def backward(self, params, cache, dy):
            zero = 0.0 * params["s"]
            return {"deep": [{"k": zero}], "s": zero}, dy

    net = portnet.Chain([Mix()])
    params = portnet.init(net, 1)
    step = portnet.explain_step(net, "squared_error", "sgd", params, [[1.0]], [[2.0]])
    assert "= s_1 x + (1 - s_1) x" in str(step)


def test_lists_that_are_too_large_are_refused_as_arrays_are():
    net = portnet.mlp([3, 1])
    params, x = portnet.init(net), [[0.0] * 3] * 400_000
    with pytest.raises(ValueError, match=r"x has 1,?200,?000"):
        portnet.explain_step(net, "squared_error", "sgd", params, x, [[0.0]] * 400_000)


def test_step_shows_what_is_inside_a_residual(xp):
    """y = p + f(p): the gradients through both terms are there, and add up."""
    inner = portnet.Residual(portnet.Chain([portnet.Dense(3), portnet.Sigmoid()]))
    net = portnet.Chain([portnet.Dense(3), inner, portnet.Dense(1)])
    x, y = xp.asarray(np.array(X)), xp.asarray(np.array(T))
    params = xp.tree(tree.map(portnet.to_numpy, portnet.init(net, 2, like=x)))
    step = portnet.explain_step(net, "squared_error", portnet.SGD(1.0), params, x, y)
    (_, z1, z2, a2, y_4, z3) = (
        None if name is None else xp.numpy(step[name])
        for name in (None, "z1", "z2", "a2", "y_4", "z3")
    )
    W1, (W2, b2), W3 = (
        xp.numpy(params[0]["W"]),
        (xp.numpy(params[1][0]["W"]), xp.numpy(params[1][0]["b"])),
        xp.numpy(params[2]["W"]),
    )
    close = {"rtol": 200 * xp.rtol, "atol": 10 * xp.rtol}
    np.testing.assert_allclose(z2, z1 @ W2 + b2, **close)
    np.testing.assert_allclose(a2, 1 / (1 + np.exp(-z2)), **close)
    np.testing.assert_allclose(y_4, z1 + a2, **close)
    dy_4 = ((z3 - np.array(T)) / 3) @ W3.T
    through_f = (dy_4 * a2 * (1 - a2)) @ W2.T
    xp.assert_close(step["dy_4"], dy_4, **close)
    xp.assert_close(step["da2"], dy_4, **close)
    xp.assert_close(step["dz1_f"], through_f, **close)
    xp.assert_close(step["dz1"], dy_4 + through_f, **close)
    xp.assert_close(step["dW1"], np.array(X).T @ (dy_4 + through_f), **close)
    formulas = {q.name: q.formula for q in step}
    assert formulas["y_4"] == "y_4 = z1 + a2"
    assert formulas["da2"] == "da2 = dy_4"
    assert formulas["dz1_f"] == "dz1_f = dz2 @ W2.T"
    assert formulas["dz1"] == "dz1 = dy_4 + dz1_f"
    order = [q.name for q in step if q.part == "backward"]
    assert order[2:] == ["dy_4", "da2", "dz2", "dW2", "db2", "dz1_f", "dz1", "dW1", "db1"]
    assert W1.shape == (2, 3)


def test_residuals_in_residuals_have_their_own_names():
    deep = portnet.Residual(portnet.Residual(portnet.Chain([portnet.Dense(2)])))
    empty = portnet.Residual(portnet.Chain([]))
    net = portnet.Chain([portnet.Dense(2), deep, empty, portnet.Dense(1)])
    with portnet.use_backend("numpy", dtype="float64"):
        step = portnet.explain_step(net, "huber", "sgd", portnet.init(net, 2), X, T)
    formulas = {q.name: q.formula for q in step}
    assert [formulas[n] for n in ("y_3", "y_4", "y_5")] == [
        "y_3 = z1 + z2",
        "y_4 = z1 + y_3",
        "y_5 = y_4 + y_4",
    ]
    assert formulas["dy_4"] == "dy_4 = dy_5 + dy_5"
    assert formulas["dy_3"] == "dy_3 = dy_4"
    assert formulas["dz1_ff"] == "dz1_ff = dz2 @ W2.T"
    assert formulas["dz1_f"] == "dz1_f = dy_3 + dz1_ff"
    assert formulas["dz1"] == "dz1 = dy_4 + dz1_f"
    np.testing.assert_array_equal(step["dz1_f"], step["dy_3"] + step["dz1_ff"])
    np.testing.assert_array_equal(step["dz1"], step["dy_4"] + step["dz1_f"])
    first = portnet.Chain([portnet.Residual(portnet.Dense(2)), portnet.Dense(1)])
    names = [
        q.name for q in portnet.explain_step(first, "huber", "sgd", portnet.init(first, 2), X, T)
    ]
    assert "dz1" in names
    assert not [name for name in names if name.startswith("dx")]


def test_step_shows_masks_and_normalised_rows():
    net = portnet.Chain(
        [portnet.Dense(8), portnet.LayerNorm(), portnet.Dropout(0.25), portnet.Dense(1)]
    )
    with portnet.use_backend("numpy", dtype="float64"):
        params, key = portnet.init(net, 2), portnet.rng.key(1, 2)
        step = portnet.explain_step(net, "huber", "sgd", params, X, T, key=key)
        without = portnet.explain_step(net, "huber", "sgd", params, X, T)
    z, mask, x_hat = step["z1"], step["mask_3"], step["x_hat_2"]
    assert set(np.unique(mask)) == {0.0, 1 / 0.75}
    np.testing.assert_array_equal(step["y_3"], step["y_2"] * mask)
    np.testing.assert_array_equal(step["dy_2"], step["dy_3"] * mask)
    r = 1 / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(step["r_2"], r, rtol=1e-12)
    np.testing.assert_allclose(x_hat, (z - z.mean(axis=1, keepdims=True)) * r, rtol=1e-12)
    np.testing.assert_allclose(step["dgamma_2"], (step["dy_2"] * x_hat).sum(0)[None], rtol=1e-12)
    formulas = {q.name: q.formula for q in step}
    assert formulas["x_hat_2"] == "x_hat_2 = (z1 - mean(z1)) / sqrt(var(z1) + eps)"
    assert formulas["y_2"] == "y_2 = gamma_2 x_hat_2 + beta_2"
    assert formulas["dgamma_2"] == "dgamma_2 = the sum of the rows of dy_2 x_hat_2"
    assert formulas["dz1"].endswith("dx_hat = dy_2 gamma_2")
    assert formulas["y_3"] == "y_3 = y_2 mask_3"
    assert formulas["dy_2"] == "dy_2 = dy_3 mask_3"
    assert "mask_3" not in [q.name for q in without]
    formulas = {q.name: q.formula for q in without}
    assert (formulas["y_3"], formulas["dy_2"]) == ("y_3 = y_2", "dy_2 = dy_3")


def test_step_shows_the_running_means_of_adam(xp):
    """Equations of Kingma and Ba, in plain NumPy, for the second step after clipping."""
    net, x, y = portnet.Dense(1), xp.asarray(np.array(X)), xp.asarray(np.array(T))
    params = xp.tree({"W": np.array([[0.5], [-0.25]]), "b": np.array([[0.0]])})
    optimizer = portnet.chain(portnet.ClipNorm(0.1), portnet.Adam(0.1))
    first = portnet.explain_step(net, "squared_error", optimizer, params, x, y)
    step = portnet.explain_step(net, "squared_error", optimizer, first.params, x, y, first.state)
    close = {"rtol": 1000 * xp.rtol, "atol": 0}
    m = v = 0.0
    for s in (first, step):
        g = {name: xp.numpy(s[name]).astype(float) for name in ("dW1", "db1")}
        norm = np.sqrt(sum((a * a).sum() for a in g.values()))
        clipped = g["dW1"] * min(1.0, 0.1 / norm)
        m, v = 0.9 * m + 0.1 * clipped, 0.999 * v + 0.001 * clipped**2
        xp.assert_close(s["gW1"], clipped, **close)
    m_hat, v_hat = m / (1 - 0.9**2), v / (1 - 0.999**2)
    for name, value in {"m": m, "v": v, "m_hat": m_hat, "v_hat": v_hat}.items():
        xp.assert_close(step[f"{name}W1"], value, **close)
    xp.assert_close(step["uW1"], -0.1 * m_hat / (np.sqrt(v_hat) + 1e-8), **close)
    assert float(step["t"]) == 2
    formulas = {q.name: q.formula for q in step}
    assert formulas["mW1"] == "mW1 <- beta1 mW1 + (1 - beta1) gW1"
    assert formulas["vW1"] == "vW1 <- beta2 vW1 + (1 - beta2) gW1^2"
    assert formulas["v_hatW1"] == "v_hatW1 = vW1 / (1 - beta2^t)"
    assert formulas["uW1"] == "uW1 = -lr m_hatW1 / (sqrt(v_hatW1) + eps)"
    assert formulas["gW1"].startswith("gW1 = dW1 min(1, limit / |g|), |g| = sqrt(sum of g_i^2")


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (portnet.Momentum(), ["vW1 <- beta vW1 + dW1", "uW1 = -lr vW1"]),
        (portnet.Nesterov(), ["vW1 <- beta vW1 + dW1", "uW1 = -lr (dW1 + beta vW1)"]),
        (
            portnet.RMSProp(),
            ["vW1 <- beta vW1 + (1 - beta) dW1^2", "uW1 = -lr dW1 / (sqrt(vW1) + eps)"],
        ),
        (
            portnet.chain(portnet.WeightDecay(0.1), portnet.ClipNorm(1.0), portnet.SGD()),
            [
                "g_1_W1 = dW1 + decay W1",
                "g_2_W1 = g_1_W1 min(1, limit / |g|), |g| = sqrt(sum of g_i^2 over all parameters)",
                "uW1 = -lr g_2_W1",
            ],
        ),
        (
            portnet.chain(portnet.SGD(), portnet.ClipNorm(1.0)),
            [
                "u_1_W1 = -lr dW1",
                "uW1 = u_1_W1 min(1, limit / |g|), |g| = sqrt(sum of g_i^2 over all parameters)",
            ],
        ),
    ],
)
def test_step_shows_what_optimizers_keep_and_pass_on(optimizer, expected):
    net = portnet.mlp([2, 1])
    step = portnet.explain_step(net, "huber", optimizer, portnet.init(net), X, T)
    assert [q.formula for q in step if q.part == "update" and q.name.endswith("W1")] == expected


def test_step_shows_what_custom_layers_and_optimizers_keep():
    class Power:
        """y = e^s, s = a log(x^2 + 1)."""

        def init(self, rng, n_in):
            return {"a": np.ones((1, 1))}, n_in

        def forward(self, params, x, key=None):
            log = np.log(x * x + 1)
            s = params["a"] * log
            y = np.exp(s)
            return y, {"s": s, "log": log, "x": x, "y": y, "a": params["a"]}

        def backward(self, params, cache, dy):
            s, x = cache["s"], cache["x"]
            da = np.sum(dy * np.exp(s) * cache["log"], keepdims=True)
            return {"a": da}, dy * np.exp(s) * params["a"] * 2 * x / (x * x + 1)

    class Slow:
        """w <- w + g;  u = -w."""

        def init(self, params):
            return {"w": tree.map(lambda p: 0 * p, params), "made": 0}

        def update(self, grads, state, params):
            w = tree.map(lambda w, g: w + g, state["w"], grads)
            return tree.map(lambda w: -w, w), {"w": w, "made": state["made"] + 1}

    net = portnet.Chain([Power(), portnet.Dense(1)])
    with portnet.use_backend("numpy", dtype="float64"):
        step = portnet.explain_step(net, "huber", Slow(), portnet.init(net, 2), X, T)
    formulas = {q.name: q.formula for q in step}
    assert formulas["s_1"] == "s_1 = a_1 log(x^2 + 1)"
    assert formulas["log_1"] == "log_1: what Power keeps for backward"
    assert formulas["y_1"] == "y_1 = e^s_1"
    assert formulas["wW1"] == "wW1 <- wW1 + dW1"
    assert formulas["uW1"] == "uW1 = -wW1"
    np.testing.assert_array_equal(step["log_1"], np.log(np.array(X) ** 2 + 1))
    np.testing.assert_array_equal(step["wa_1"], step["da_1"])
    assert "x_1" not in formulas


def test_table_names_the_source_once_and_shortly():
    wide = portnet.Residual(portnet.mlp([2, 30, 30, 30, 2]))
    net = portnet.Chain([wide, portnet.Dense(1)])
    text = str(portnet.explain_step(net, "squared_error", "adam", portnet.init(net, 2), X, T))
    assert max(map(len, text.splitlines())) < 170  # the Residual itself has 190
    assert text.count("[Adam(") == 1
    assert text.count("[layers[1] Dense(1)]") == 3
