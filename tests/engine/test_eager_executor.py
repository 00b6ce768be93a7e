"""Eager steps: their launches, their vectors of parameters, what they copy, and where."""

import sys
from pathlib import Path

import launches
import numpy as np
import pytest
from counting import Counting, Device, counting, recorded
from fits import LABELS, X

import portnet
from portnet import transforms, tree
from portnet.backend import _LIBRARIES, Backend, _Library
from portnet.engine import loss_sums
from portnet.engine.eager_executor import EagerExecutor
from portnet.engine.loss_sums import LossSums, read_sums
from portnet.engine.packing import VectorModel, vector_packing
from portnet.layers import dparams_of

# Launches ----------------------------------------------------------------------------------------

OPTIMIZERS = {  # and the launches of an update of one vector
    "sgd": (portnet.SGD(), 3),
    "momentum": (portnet.Momentum(), 5),
    "adam": (portnet.Adam(), 21),
    "adamw": (portnet.AdamW(), 23),
}


def joined(layers):
    """The copies that join the gradients of so many Dense layers: CuPy's, up to 8 arrays."""
    return 2 * layers if layers <= 4 else 1


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layers", range(1, 7))
def test_launches_of_a_step(name, layers):
    optimizer, update = OPTIMIZERS[name]
    made = launches.eager(launches.network(layers), optimizer)
    rows, loss = 2, 19
    dense = 4 * layers  # x @ W, + b, dW, db
    between = 5 * (layers - 1)  # dx, relu, and its derivative
    assert made.count("matmul") == 3 * layers - 1, "the first layer's dx is computed"
    assert len(made) == rows + loss + dense + between + joined(layers) + update


@pytest.mark.parametrize(
    ("options", "names", "more"),
    [({"dropout": 0.5}, 0, 35), ({"norm": "layer"}, 2, 21)],
    ids=["dropout", "norm"],
)
def test_launches_of_other_layers(options, names, more):
    plain = launches.eager(launches.network(3), portnet.Adam())
    made = launches.eager(launches.network(3, **options), portnet.Adam())
    concat = joined(3 + names) - joined(3)
    assert len(made) - concat == len(plain) + 2 * more


def test_weights_and_names_that_decay_cost_a_vector_more():
    plain = len(launches.eager(launches.network(3), portnet.AdamW()))
    assert len(launches.eager(launches.network(3), portnet.AdamW(only="W"))) - plain == 14


def test_the_end_of_an_epoch_has_as_many_launches_whatever_its_steps(monkeypatch):
    monkeypatch.setattr(Backend, "eager_vectors", True)
    net, step = launches.network(2), len(launches.eager(launches.network(2), portnet.SGD()))
    for steps in (20, 40):
        records = launches.of_epoch(net, portnet.SGD(), steps)
        assert records.conversions == ["__array__"]
        # parameters joined; losses joined; whether all are finite; casts, one vector
        assert len(records.launches) - steps * step == 4 + 1 + 2 + 2 + 2


def test_table_of_the_guide_has_these_counts():
    text = (Path(__file__).parents[2] / "examples/guide/devices.md").read_text()
    shown = text.partition(launches.BEGIN)[2].partition(launches.END)[0]
    assert shown.strip().splitlines() == launches.table(), "python tests/launches.py prints it"


# Vectors of parameters ---------------------------------------------------------------------------


@pytest.fixture
def both(monkeypatch):
    """Return what a function returns with vectors of parameters, and without them."""

    def compare(function):
        results, made = [], []
        whole = EagerExecutor.__init__

        def init(self, *args):
            whole(self, *args)
            made.append(self.packing is not None)

        monkeypatch.setattr(EagerExecutor, "__init__", init)
        for on in (True, False):
            monkeypatch.setattr(Backend, "eager_vectors", on)
            made.clear()
            results.append(function())
            assert made
            assert all(m is on for m in made)
        return results

    return compare


def fit(model, optimizer, epochs=3, **options):
    given = {"batch_size": 10, "seed": 1, "compile": False}
    of_fit = {k: options.pop(k) for k in ("sample_weight", "reduce_on_plateau") if k in options}
    trainer = portnet.Trainer(model, "softmax_cross_entropy", optimizer, **given | options)
    return trainer.fit(X, LABELS, epochs=epochs, progress=False, **of_fit)


def assert_same_bits(a, b):
    assert tree.paths((a.params, a.state)) == tree.paths((b.params, b.state))
    pairs = zip(tree.leaves((a.params, a.state)), tree.leaves((b.params, b.state)), strict=True)
    for p, q in pairs:
        assert (p.shape, p.dtype) == (q.shape, q.dtype)
        np.testing.assert_array_equal(p, q)
    assert a.history == b.history


NET = portnet.mlp([5, 8, 6, 3])
NETS = {
    "relu": NET,
    "dropout": portnet.mlp([5, 8, 6, 3], dropout=0.3),
    "norm": portnet.mlp([5, 8, 3], "tanh", norm="layer"),
    "first layers": portnet.Chain(
        [
            portnet.Dropout(0.2),
            portnet.Tanh(),
            portnet.Chain([portnet.Identity()]),
            portnet.Residual(portnet.Chain([portnet.LayerNorm(), portnet.Dense(5)])),
            portnet.Dense(3),
        ]
    ),
}
ELEMENTWISE = {
    "sgd": portnet.SGD(0.1),
    "momentum": portnet.Momentum(0.1),
    "nesterov": portnet.Nesterov(0.1),
    "rmsprop": portnet.RMSProp(0.01),
    "adam": portnet.Adam(0.01),
    "adamw": portnet.AdamW(0.01, decay=0.1),
    "adamw of W": portnet.AdamW(0.01, decay=0.1, only="W"),
    "schedule": portnet.Adam(portnet.CosineDecay(0.1, 20, warmup=3)),
    "decay of W": portnet.chain(portnet.WeightDecay(0.1, only="W"), portnet.Momentum(0.1)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vectors_of_parameters_do_not_change_a_bit(name, dtype, both):
    with portnet.use_backend("numpy", dtype=dtype):
        assert_same_bits(*both(lambda: fit(NET, ELEMENTWISE[name])))


@pytest.mark.parametrize("name", NETS)
def test_vectors_of_parameters_change_no_model(name, both):
    assert_same_bits(*both(lambda: fit(NETS[name], portnet.Adam(0.01))))


def test_vectors_of_parameters_with_scaled_updates_and_weights(both):
    plateau = portnet.ReduceOnPlateau("loss", patience=1, factor=0.5, min_change=1e9)
    weight = np.linspace(0.5, 2, len(X))
    left, right = both(
        lambda: fit(NET, portnet.Adam(0.01), 5, reduce_on_plateau=plateau, sample_weight=weight)
    )
    assert left._scale < 1
    assert_same_bits(left, right)


def test_a_norm_of_all_gradients_differs_by_its_rounding(both):
    clipped = portnet.chain(portnet.ClipNorm(0.1), portnet.Adam(0.01))
    with portnet.use_backend("numpy", dtype="float64"):
        left, right = both(lambda: fit(NET, clipped))
    for p, q in zip(tree.leaves(left.params), tree.leaves(right.params), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)


def test_a_run_goes_on_from_vectors_and_keeps_its_own_values(both):
    def function():
        run = fit(NET, portnet.Adam(0.01), 2)
        before = [p.copy() for p in tree.leaves((run.params, run.state))]
        after = run.fit(X, LABELS, epochs=2, progress=False)
        for p, q in zip(tree.leaves((run.params, run.state)), before, strict=True):
            np.testing.assert_array_equal(p, q)
        return after

    left, right = both(function)
    assert_same_bits(left, right)
    assert_same_bits(left, fit(NET, portnet.Adam(0.01), 4))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_an_epoch_is_that_of_compiled_steps(reduction):
    """Also where its last batch is shorter."""
    histories = []
    for compiled in (False, True):
        loss = portnet.SoftmaxCrossEntropy(reduction=reduction)
        trainer = portnet.Trainer(NET, loss, portnet.SGD(1e-3), batch_size=10, compile=compiled)
        histories.append(trainer.fit(X, LABELS, epochs=2, progress=False).history["loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_vectors_of_an_estimators_parameters(alpha, solver, both):
    pytest.importorskip("sklearn")

    def function():
        options = {"alpha": alpha, "solver": solver, "random_state": 0, "max_iter": 5}
        found = portnet.MLPClassifier((6, 5), compile=False, tol=0, **options)
        return found.fit(X, LABELS)

    left, right = both(function)
    for p, q in zip(left.coefs_ + left.intercepts_, right.coefs_ + right.intercepts_, strict=True):
        np.testing.assert_array_equal(p, q)
    # the penalty is summed over one vector instead of layer by layer
    np.testing.assert_allclose(left.loss_curve_, right.loss_curve_, rtol=1e-6)


class Doubled(portnet.SGD):
    def update(self, grads, state, params):
        updates, state = super().update(grads, state, params)
        return tree.map(lambda u: 2.0 * u, updates), state


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (portnet.Adam(), "one"),
        (portnet.SGD(lambda t: 0.1 / (1.0 + t)), "one"),
        (portnet.AdamW(only="W"), "by name"),
        (portnet.chain(portnet.ClipNorm(1), portnet.WeightDecay(0.1), portnet.SGD()), "one"),
        (portnet.chain(portnet.WeightDecay(0.1, only="W"), portnet.SGD()), "by name"),
        (Doubled(), ""),
        (portnet.chain(portnet.ClipNorm(1), Doubled()), ""),
        (object(), ""),
    ],
)
def test_only_known_optimizers_take_joined_parameters(optimizer, expected):
    assert transforms.joined_parameters(optimizer) == expected


def test_an_optimizer_with_a_replaced_method_keeps_its_parameters():
    optimizer = portnet.SGD()
    object.__setattr__(optimizer, "update", lambda grads, state, params: (grads, state))
    assert transforms.joined_parameters(optimizer) == ""


def test_parameters_that_are_not_joined():
    assert vector_packing((np.ones(3),), by_name=False) is None
    assert vector_packing((np.ones(3), np.ones(3, np.float32)), by_name=False) is None
    assert vector_packing((), by_name=False) is None


def test_vectors_by_name_have_the_names_of_the_dicts():
    first, second = {"b": np.zeros(3), "W": np.ones((2, 3))}, {"W": np.full(2, 5.0)}
    params = (first, (), [np.full(1, 7.0)], second, {"W": [np.full(1, 8.0)]})
    vectors = vector_packing(params, by_name=True).pack(params)
    assert sorted(vectors.layer) == ["", "W", "b"]
    np.testing.assert_array_equal(vectors.layer["W"], [1, 1, 1, 1, 1, 1, 5, 5])
    np.testing.assert_array_equal(vectors.layer["b"], [0, 0, 0])
    np.testing.assert_array_equal(vectors.layer[""], [7, 8], "['W'][0] is not named W")


def test_a_wrong_gradient_names_the_model():
    class Wrong(portnet.Dense):
        def backward(self, params, cache, dy):
            dparams, dx = super().backward(params, cache, dy)
            return {"W": dparams["W"]}, dx

    params = portnet.init(Wrong(2), 3)
    packing = vector_packing(params, by_name=False)
    model = VectorModel(Wrong(2), packing)
    x = np.ones((4, 3), np.float32)
    y, cache = model.forward(packing.pack(params), x)
    with pytest.raises(ValueError, match="structure") as error:
        dparams_of(model, packing.pack(params), cache, y)
    assert "Dense(2)" in error.value.__notes__[0]


def test_eager_steps_on_other_libraries_are_near(other_xp):
    runs = [fit(NETS["dropout"], portnet.Adam(0.01))]
    other_xp.check_kind(tree.leaves(runs[0].params)[0])
    with portnet.use_backend("numpy", dtype="float64"):
        runs.insert(0, fit(NETS["dropout"], portnet.Adam(0.01)))
    for p, q in zip(*[tree.leaves(run.params) for run in runs], strict=True):
        np.testing.assert_allclose(portnet.to_numpy(q), p, rtol=1e-9, atol=1e-12)
    assert runs[1].history["loss"] == pytest.approx(runs[0].history["loss"], rel=1e-12)


# Sums of losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("piece", [1, 3, 1024])
def test_losses_are_added_one_after_the_other(dtype, piece, monkeypatch):
    monkeypatch.setattr(loss_sums, "PIECE", piece)
    losses = np.random.default_rng(0).standard_normal(10).astype(dtype)
    losses[7] = np.inf
    sums, total, finite = LossSums.after((0.25, 2.0)), np.float64(0.25), 2.0
    for k, loss in enumerate(losses):
        sums = sums.plus(loss, 3 + k % 2)
        total = total + loss * (3 + k % 2)
        finite += np.isfinite(total)
        (found,), _ = read_sums([sums], [])
        np.testing.assert_array_equal(found, [total, finite])
    assert finite == 9


def test_the_loss_of_an_interrupted_step_does_not_count():
    before = LossSums.after((0.0, 0.0)).plus(np.float32(1), 2)
    before.plus(np.float32(100), 2)  # its result was lost
    (found,), _ = read_sums([before], [])
    np.testing.assert_array_equal(found, [2, 1])
    after = before.plus(np.float32(3), 2)
    (found,), _ = read_sums([after], [])
    np.testing.assert_array_equal(found, [8, 2])


def test_sums_and_flags_are_read_in_one_transfer():
    sums = [LossSums.after(Counting([1.0, 1.0])), Counting([5.0, 2.0])]
    sums[0] = sums[0].plus(Counting(np.float32(2)), 1).plus(Counting(np.float32(3)), 1)
    with recorded() as records:
        totals, flags = read_sums(sums, [Counting(True), Counting(False)])
    assert records.conversions == ["__array__"]
    assert flags == [True, False]
    np.testing.assert_array_equal(totals, [[6, 3], [5, 2]])


# Copies from the host ----------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 40])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_an_epoch_copies_its_order_and_nothing_else(steps, dropout):
    net = launches.network(2, dropout=dropout)
    (order,) = launches.of_epoch(net, portnet.Adam(), steps).uploads
    assert (order.shape, order.dtype) == ((steps * launches.BATCH,), np.int32)
    assert launches.of_epoch(net, portnet.Adam(), steps, shuffle=False).uploads == []


def test_an_order_of_a_dataset_is_copied_once():
    from portnet.data.dataset import Dataset
    from portnet.engine.epoch_state import Epochs

    backend = Backend("counting", device=Device(0), xp=counting)
    data = Dataset(backend, Counting(np.arange(6.0)[:, None]), None, None, np.asarray([4, 1, 2]))
    with recorded() as records:
        for _ in range(2):
            list(data.batches(2))
            Epochs(data, 2, [None] * 3).on_device()
    (order,) = records.uploads
    assert order.dtype == np.int32


def test_row_numbers_are_int64_where_int32_ends():
    backend = portnet.get_backend()
    assert backend.row_numbers(np.asarray([1, 2]), 2**31).dtype == np.int32
    assert backend.row_numbers(np.asarray([1, 2]), 2**31 + 1).dtype == np.int64


# Two devices -------------------------------------------------------------------------------------


def _device(name):
    return Device(int(str(name).rpartition(":")[2]))


@pytest.fixture
def devices(monkeypatch):
    """A backend "counting" with two devices, of which 0 is current."""
    monkeypatch.setitem(sys.modules, "counting_namespace", counting)
    library = _Library(
        "counting_namespace",
        "",
        _device,
        lambda module: "counter:0",
        eager_vectors=True,
        current_device=True,
        upload_block=256,
    )
    monkeypatch.setitem(_LIBRARIES, "counting", library)
    portnet.backend._probe.cache_clear()
    with recorded() as records:
        yield records
    portnet.backend._probe.cache_clear()


def assert_on_device_1(records, *pytrees):
    assert records.launches
    assert records.misplaced == []
    for leaf in tree.leaves(pytrees):
        assert leaf.device == Device(1)


@pytest.mark.parametrize("optimizer", [*portnet.optimizers.OPTIMIZERS, portnet.LBFGS()], ids=str)
def test_trainer_creates_its_arrays_on_the_backends_device(devices, optimizer):
    dropout = 0.0 if isinstance(optimizer, portnet.LBFGS) else 0.2
    net = portnet.mlp([5, 8, 3], dropout=dropout, norm="layer")
    with portnet.use_backend("counting", device="counter:1"):
        trainer = portnet.Trainer(net, "softmax_cross_entropy", optimizer, batch_size=16)
        run = trainer.fit(
            X, LABELS, epochs=2, validation=0.2, metrics=["accuracy"], early_stopping=True
        )
        run = run.fit(X, LABELS, epochs=1, validation=0.2, early_stopping=True)
        run.evaluate(X, LABELS)
    probabilities = run.predict_proba(X)
    assert isinstance(probabilities, np.ndarray)
    state = [] if isinstance(optimizer, portnet.LBFGS) else run.state
    assert_on_device_1(devices, run.params, state)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimator_creates_its_arrays_on_the_backends_device(devices):
    pytest.importorskip("sklearn")
    clf = portnet.MLPClassifier((6,), backend="counting:1", max_iter=3, random_state=0)
    clf.fit(X, LABELS)
    clf.predict_proba(X)
    clf.partial_fit(X, LABELS)
    assert_on_device_1(devices, clf.coefs_, clf.intercepts_)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimator_moves_to_a_device_that_is_not_current(devices):
    pytest.importorskip("sklearn")
    clf = portnet.MLPClassifier((6,), max_iter=3, random_state=0).fit(X, LABELS)
    moved = clf.to("counting", device="counter:1")
    expected, found = clf.predict_proba(X), moved.predict_proba(X)
    np.testing.assert_array_equal(found, expected)
    assert_on_device_1(devices, moved.coefs_, moved.intercepts_)


def test_run_moves_to_a_device_that_is_not_current(devices):
    run = fit(NET, portnet.Adam(0.01))
    moved = run.to("counting", device="counter:1")
    np.testing.assert_array_equal(moved.predict_proba(X), run.predict_proba(X))
    assert_on_device_1(devices, moved.params, moved.state)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_an_estimators_data_on_a_device_that_is_not_current(devices):
    pytest.importorskip("sklearn")
    with Device(1):
        x = Counting(np.asarray(X, "float32"))
    clf = portnet.MLPClassifier((6,), max_iter=3, random_state=0).fit(x, LABELS)
    assert_on_device_1(devices, clf.coefs_, clf.intercepts_, clf.predict_proba(x))


def test_data_on_a_device_that_is_not_current_are_trained_there(devices):
    with Device(1):
        x, y = Counting(X), Counting(LABELS)
    run = portnet.Trainer(NET, "softmax_cross_entropy", batch_size=16).fit(x, y, epochs=2)
    assert_on_device_1(devices, run.params, run.predict_proba(x))


# Blocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(100,), (64, 7), (3, 200), (1, 1000), (0, 5), (33, 2, 4), (8, 4), ()]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_copied_in_blocks(devices, shape, order):
    host = np.asarray(np.random.default_rng(0).standard_normal(shape), "float32", order=order)
    with portnet.use_backend("counting", device="counter:1") as backend:
        devices.uploads.clear()
        moved = backend.asarray(host)
    row = host.nbytes // max(1, shape[0]) if shape else 0
    assert all(block.nbytes <= max(256, row) for block in devices.uploads)
    assert len(devices.uploads) == 1 or host.nbytes > 256
    np.testing.assert_array_equal(moved.host, host)
    assert moved.dtype == np.float32
    assert_on_device_1(devices, moved) if host.nbytes > 256 else None
