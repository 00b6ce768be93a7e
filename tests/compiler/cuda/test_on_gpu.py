"""Graphs on a GPU: what only a GPU can show."""

import gc
import re
import threading

import numpy as np
import pytest
from conftest import require

import portnet
from portnet import tree

pytestmark = pytest.mark.gpu
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cupy():
    require("cupy")
    import cupy

    with portnet.use_backend("cupy"):
        yield cupy


@pytest.fixture
def gpu(cupy):
    pytest.importorskip("nvmath.bindings", reason="nvmath-python is not installed")
    from portnet.compiler.cuda.gpu import GPU

    return GPU()


def test_the_self_test_passes(gpu):
    from portnet.compiler.cuda.selftest import failed_stage

    assert failed_stage(gpu) == ""


def test_the_self_test_names_the_stage_that_fails(gpu, monkeypatch):
    from portnet.compiler.cuda.selftest import failed_stage

    monkeypatch.setattr(gpu, "product", lambda *args: None)  # nothing is computed
    assert failed_stage(gpu).startswith("comparing the result: W differs")
    monkeypatch.setattr(gpu, "compile", lambda source: 1 / 0)
    assert failed_stage(gpu) == "compiling a kernel: ZeroDivisionError: division by zero"


def step_on(gpu, cupy, layers=3, width=64):
    """Return the graph of a step, its donated arrays, and their values at the start."""
    from portnet.engine import epoch_graph

    made = []
    original = epoch_graph.DeviceStep

    def keep(*args):
        made.append(original(*args))
        return made[-1]

    epoch_graph.DeviceStep = keep
    try:
        sizes = [20, *[width] * (layers - 1), 3]
        X, y = rng.random((64, 20)).astype("f4"), rng.integers(0, 3, 64)
        trainer = portnet.Trainer(
            portnet.mlp(sizes), "softmax_cross_entropy", portnet.Adam(1e-3), batch_size=32
        )
        trainer.fit(X, y, epochs=1, progress=False)
    finally:
        epoch_graph.DeviceStep = original
    step, step.closed = made[0], False
    step.device.workspace = step.device.empty(1 << 25)  # it was released with the fit
    step.capture()
    donated = [step.kept["donated", d] for d in sorted(step.plan.plan.donated.values())]
    return step, donated, [a.copy() for a in donated]


@pytest.mark.parametrize("width", [64, 512])  # kernels for all products; cuBLAS for most
def test_replays_have_the_bits_of_steps_made_call_by_call(gpu, cupy, width):
    step, donated, start = step_on(gpu, cupy, width=width)
    results = []
    for make in (step.run, step.replay):
        for a, b in zip(donated, start, strict=True):
            a[...] = b
        for i in range(200):
            step.kept["counter", 0].fill(i % 2)
            make()
            if make == step.replay:  # other memory comes and goes
                cupy.full((1000 + i,), cupy.nan, "f4")
                cupy.get_default_memory_pool().free_all_blocks()
        results.append([a.get() for a in donated])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("layers", "width"), [(1, 8), (3, 8), (6, 8), (3, 512)])
def test_a_step_has_few_nodes(gpu, cupy, layers, width):
    from portnet.compiler.cuda.kernels import Product

    step, _, _ = step_on(gpu, cupy, layers, width)
    nodes = set(re.findall(r'"(graph_\d+_node_\d+)"\[', step.graph.debug_dot_str(0)))
    launches = step.plan.program.launches
    products = [c for c in launches if isinstance(c, Product)]
    assert len(launches) <= 5 * layers + 4
    # cuBLAS may add up the parts of a product in a second kernel
    assert len(launches) <= len(nodes) <= len(launches) + len(products)
    assert bool(products) == (width > 8)


def fits(kind, **options):
    """Return the parameters after fits as graphs, call by call, and on NumPy."""
    X, y = rng.random((100, 20)).astype(kind), rng.integers(0, 3, 100)
    net = portnet.mlp([20, 40, 40, 3], dropout=0.2)
    found = []
    for name, compiled in (("cupy", True), ("cupy", False), ("numpy", True)):
        with portnet.use_backend(name, dtype=kind):
            trainer = portnet.Trainer(
                net, "softmax_cross_entropy", "adam", batch_size=32, compile=compiled, **options
            )
            run = trainer.fit(X, y, epochs=17, progress=False)
        found.append([portnet.to_numpy(p) for p in tree.leaves(run.params)])
    return found


@pytest.mark.parametrize("shuffle", [True, False])
def test_fifty_steps_equal_those_of_numpy_in_float64(cupy, shuffle):
    graphs, eager, host = fits("float64", shuffle=shuffle)
    for a, b, c in zip(graphs, eager, host, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(b, c, rtol=1e-10, atol=1e-12)


def test_a_graph_of_large_layers_equals_numpy(cupy):
    X, y = rng.standard_normal((4096, 32)), rng.integers(0, 8, 4096)
    net, found = portnet.mlp([32, 512, 512, 8]), []
    for name in ("cupy", "numpy"):
        with portnet.use_backend(name, dtype="float64"):
            trainer = portnet.Trainer(net, "softmax_cross_entropy", "adam", batch_size=2048)
            run = trainer.fit(X, y, epochs=3, progress=False)
        found.append([portnet.to_numpy(p) for p in tree.leaves(run.params)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_an_error_within_a_capture_leaves_no_stream_capturing(gpu, cupy):
    def fail():
        cupy.zeros(3)
        raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        gpu.capture(fail)
    x = cupy.zeros(5, "f4")
    graph = gpu.capture(lambda: x.fill(2.0))
    gpu.replay(graph)
    assert x.get().tolist() == [2.0] * 5


def test_products_in_tf32_are_within_their_bound(gpu, cupy):
    from portnet.compiler.cuda.gpu import GPU
    from portnet.compiler.cuda.kernels import Matrix, Product

    a, b = (rng.standard_normal((256, 256)).astype("f4") for _ in range(2))
    exact, bound = a.astype("f8") @ b, np.abs(a).astype("f8") @ np.abs(b)
    matrix = Matrix(("buffer", 0), 0, 256)
    product = Product(256, 256, 256, matrix, matrix, matrix, "float32")
    errors = []
    for device in (gpu, GPU(tf32=True)):
        x, y, z = cupy.asarray(a), cupy.asarray(b), cupy.empty((256, 256), "f4")
        device.product(product, x.data.ptr, y.data.ptr, z.data.ptr)
        errors.append(np.max(np.abs(z.get() - exact) / bound))
    assert errors[0] < 1e-6 < errors[1] < 1e-3


def test_tf32_trains(cupy):
    X, y = rng.standard_normal((512, 64)), rng.integers(0, 3, 512)
    losses = []
    for precision in ("ieee", "tf32"):
        with portnet.use_backend("cupy", matmul_precision=precision):
            trainer = portnet.Trainer(
                portnet.mlp([64, 128, 3]), "softmax_cross_entropy", "adam", batch_size=128
            )
            losses.append(trainer.fit(X, y, epochs=5, progress=False).history["loss"][-1])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_out_of_memory_says_what_would_need_less(cupy):
    X, y = cupy.zeros((100_000, 8), "f4"), cupy.zeros(100_000, "int64")
    trainer = portnet.Trainer(
        portnet.mlp([8, 16, 3]), "softmax_cross_entropy", "adam", batch_size=64
    )
    run = trainer.fit(X[:64], y[:64], epochs=1, progress=False)
    before = [p.get() for p in tree.leaves(run.params)]
    wide = portnet.Trainer(
        portnet.mlp([8, 4000, 3]), "softmax_cross_entropy", "sgd", batch_size=100_000
    )
    pool = cupy.get_default_memory_pool()
    pool.set_limit(size=pool.total_bytes() + (1 << 29))
    try:
        with pytest.raises(
            MemoryError, match=r"too little memory for steps of 100000 rows.*batch_size"
        ):
            wide.fit(X, y, epochs=1, progress=False)
    finally:
        pool.set_limit(size=0)
    for a, b in zip(before, tree.leaves(run.params), strict=True):
        np.testing.assert_array_equal(a, b.get())


def small_fit():
    draw = np.random.default_rng(3)
    X, y = draw.random((100, 20)).astype("f4"), draw.integers(0, 3, 100)
    trainer = portnet.Trainer(
        portnet.mlp([20, 32, 3]), "softmax_cross_entropy", "adam", batch_size=32
    )
    run = trainer.fit(X, y, epochs=20, progress=False)
    return [portnet.to_numpy(p) for p in tree.leaves(run.params)]


def test_a_fit_on_a_stream_of_the_users_own(cupy):
    expected = small_fit()
    for blocking in (True, False):
        with cupy.cuda.Stream(non_blocking=not blocking):
            found = small_fit()
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)


def test_fits_in_threads_at_the_same_time(cupy):
    expected, found = small_fit(), [None] * 4

    def fit(number):
        with portnet.use_backend("cupy"):
            found[number] = small_fit()

    threads = [threading.Thread(target=fit, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in found:
        for a, b in zip(expected, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_fits_release_their_memory(cupy):
    pool, used = cupy.get_default_memory_pool(), []
    for _ in range(2):
        for _ in range(20):
            small_fit()
        gc.collect()
        used.append((pool.used_bytes(), pool.total_bytes()))
    assert used[1][0] <= used[0][0] + (1 << 16)
    assert used[1][1] <= used[0][1] + (1 << 20)


@pytest.mark.parametrize("seed", range(100, 140))
def test_random_programs_equal_numpy(gpu, cupy, seed):
    from test_drawn_programs import Drawn

    from portnet import _numpy
    from portnet.compiler.cuda.graph import DeviceStep
    from portnet.compiler.cuda.planning import device_plan
    from portnet.compiler.simplify import simplify
    from portnet.compiler.tracer import trace

    drawn = Drawn(seed)
    program = simplify(trace(drawn, drawn.kinds(), lambda traced: (traced, {})))
    plan, given = device_plan(program, 0, [0, 1, 2, 3], {}), drawn.arguments()
    expected = program.interpret(_numpy, [a.copy() for a in given])
    arrays = [cupy.asarray(a) for a in given]
    step = DeviceStep(plan, gpu, arrays, cupy.zeros(1, "i8"))
    step.capture()
    step.replay()
    tolerance = 1e-9 if drawn.dtype == "f8" else 2e-3
    for k, wanted in enumerate(expected):
        found = arrays[plan.plan.donated[k]].get()
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)
