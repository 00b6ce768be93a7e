"""Which operations share a kernel, how many launches a step has, and what no kernel can do."""

import warnings

import numpy as np
import pytest
from cpu_device import CPUDevice, needs_gxx
from plans import Case

import portnet
from portnet import namespace, tree
from portnet.backend import Backend
from portnet.compiler import CompileWarning
from portnet.compiler.cuda import selftest
from portnet.compiler.cuda.kernels import Launch, Product
from portnet.compiler.errors import EagerError


def kernels(fn, *arrays, **kwargs):
    """Return (kind, operations) of each kernel of a function's plan."""
    case = Case(fn, arrays, **kwargs)
    return [(k.kind, [n.op for n in k.nodes]) for k in case.plan.kernels]


def a(*shape, dtype="float64"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def test_elementwise_operations_share_a_kernel():
    def fn(x, y):
        xp = namespace(x)
        z = xp.exp(x * y) + 1.0
        return z, xp.where(z > y, x, z)

    assert kernels(fn, a(5, 7), a(5, 7)) == [
        ("elements", "multiply exp add greater where".split()),
    ]


def test_other_shapes_have_kernels_of_their_own():
    assert kernels(lambda x, y: (x + 1.0, y + 1.0), a(5, 7), a(7, 5)) == [
        ("elements", ["add"]),
        ("elements", ["add"]),
    ]
    # Axes of one element are left out.
    found = kernels(lambda x, y: (x + 1.0, y + 1.0), a(5, 7), a(5, 1, 7))
    assert found == [("elements", ["add", "add"])]


def test_a_softmax_is_one_kernel():
    def fn(z):
        xp = namespace(z)
        e = xp.exp(z - xp.max(z, axis=1, keepdims=True))
        return e / xp.sum(e, axis=1, keepdims=True)

    assert kernels(fn, a(5, 7)) == [("rows", "max subtract exp sum divide".split())]


def test_sums_of_columns_and_of_all_share_kernels_with_what_they_add():
    def fn(x):
        xp = namespace(x)
        return xp.sum(x * x, axis=0), xp.max(x + 1.0, axis=0)

    assert kernels(fn, a(40, 7)) == [("columns", "multiply sum add max".split())]
    assert kernels(lambda x: namespace(x).sum(x * x), a(40, 7)) == [("whole", ["multiply", "sum"])]


def test_results_of_columns_are_for_later_kernels():
    def fn(x):
        return x - namespace(x).sum(x * 2.0, axis=0)

    assert [kind for kind, _ in kernels(fn, a(40, 7))] == ["columns", "elements"]


def test_a_scalar_is_computed_again_in_each_kernel_that_reads_it():
    def fn(t, x, y):
        t = t + 1.0
        rate = 0.1 / (1.0 - 0.9**t)
        return t, x * rate, y * rate

    found = kernels(fn, np.array(1.0), a(5, 7), a(3), donate=(0,))
    assert found[0] == ("elements", ["add"])  # the result itself
    assert [kind for kind, _ in found[1:]] == ["elements", "elements"]
    assert all("pow" in ops for _, ops in found[1:])


def test_what_a_product_needs_and_gives_is_in_memory():
    def fn(x, w, b):
        xp = namespace(x)
        return xp.maximum((x * 2.0) @ w + b, 0.0)

    assert kernels(fn, a(5, 7), a(7, 3), a(3)) == [
        ("elements", ["multiply"]),
        ("product", ["matmul"]),
        ("elements", ["add", "maximum"]),
    ]


def test_concats_of_results_are_in_the_last_kernel():
    def fn(x, y):
        xp = namespace(x)
        return xp.concat([x + 1.0, y]), xp.concat([y * 2.0, x])

    case = Case(fn, [a(4), a(3)])
    assert [k.kind for k in case.plan.kernels] == ["elements", "elements", "join"]
    assert [launch.name for launch in case.plan.program.launches][-1] == "finish"


def step_of(net, optimizer, rows=32, sample_weight=None, **options):
    """Return the plans of a training's steps on 20 columns."""
    columns, classes, loss = 20, 3, "softmax_cross_entropy"
    made = []
    device = CPUDevice()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backend, "compiler", property(lambda self: "graph"))
        patch.setattr(selftest, "device_for", lambda tf32: device)
        from portnet.engine import epoch_graph

        whole = epoch_graph.DeviceStep

        def kept(plan, *rest):
            made.append(plan)
            return whole(plan, *rest)

        patch.setattr(epoch_graph, "DeviceStep", kept)
        patch.setattr(device, "compile", lambda source: None)
        patch.setattr(device, "capture", lambda calls: [])
        X, y = a(2 * rows, columns, dtype="float32"), np.arange(2 * rows) % classes
        trainer = portnet.Trainer(net, loss, optimizer, batch_size=rows, **options)
        trainer.fit(X, y, epochs=1, sample_weight=sample_weight, progress=False)
    return made


@pytest.mark.parametrize("layers", range(1, 7))
@pytest.mark.parametrize("case", ["shuffled", "in order", "weights", "one row"])
def test_launches_of_a_relu_network(layers, case):
    net = portnet.mlp([20, *[32] * (layers - 1), 3])
    options = {
        "in order": {"shuffle": False},
        "weights": {"sample_weight": np.ones(64)},
        "one row": {"rows": 1},
    }.get(case, {})
    (plan,) = step_of(net, portnet.Adam(1e-3), **options)
    launches = plan.program.launches
    copies = [n for kernel in plan.kernels for n in kernel.nodes if n.op == "copy"]
    assert len(copies) == (case == "in order"), "x is copied once, for both of its products"
    more = {"weights": 1, "one row": 3}.get(case, 0)
    assert len(launches) <= 5 * layers + 4 + more
    products = [x for x in launches if isinstance(x, Product) or x.name.endswith("_product")]
    assert len(products) == 3 * layers - 1  # the first layer's dx is not computed
    assert all(isinstance(x, Launch | Product) for x in launches)


@pytest.mark.parametrize(
    ("fn", "arrays", "words"),
    [
        (lambda x: namespace(x).sum(x, axis=1), [a(2, 3, 4)], "sum of (2, 3, 4)"),
        (lambda x: namespace(x).argmax(x, axis=1), [a(3, 4)], "argmax"),
        (lambda x: namespace(x).var(x, axis=1), [a(3, 4)], "var"),
        (lambda x: namespace(x).round(x), [a(3, 4)], "round"),
        (lambda x: namespace(x).nextafter(x, x), [a(3, 4)], "nextafter of float64"),
        (lambda x: x * 2.0, [a(3, 4, dtype="float16")], "multiply of float16"),
        (lambda x: x * x, [a(3, 4).astype("complex128")], "multiply of complex128"),
        (lambda x: namespace(x).sum(x, axis=0), [a(3, 4, dtype="float16")], "sum of float16"),
        (lambda x, i: x << i, [np.arange(3), np.arange(3)], "bitwise_left_shift by None"),
        (lambda x: x // 3, [np.arange(3)], "floor_divide of int64"),
        (lambda x: x @ x, [a(2, 3, 3)], "product of"),
        (lambda x: x @ x, [np.ones((3, 3), "int64")], "product of"),
        (lambda x, i: namespace(x).take(x, i, axis=1), [a(3, 4), np.arange(2)], "take"),
        (lambda x: x[:0] + 1.0, [a(3, 4)], "without elements"),
        (lambda x, y: x @ y[:, ::2], [a(3, 4), a(4, 6)], "strides"),
    ],
)
def test_what_no_kernel_can_do_is_named(fn, arrays, words, monkeypatch):
    monkeypatch.setattr("portnet.compiler.cuda.kernels.SMALL", 0)  # products go to cuBLAS
    with pytest.raises(EagerError) as caught:
        Case(fn, arrays)
    assert words in str(caught.value)


def test_a_result_without_a_place_is_named():
    from portnet.compiler.cuda.planning import device_plan

    program = Case(lambda x: x + 1.0, [a(3)]).program
    with pytest.raises(EagerError, match="replaces no donated array"):
        device_plan(program, 0, [], {})


@needs_gxx
def test_a_fit_that_no_kernel_can_do_is_eager_with_one_warning(monkeypatch):
    class Rounded(portnet.ReLU):
        """A layer whose forward pass has an operation without a kernel."""

        def forward(self, params, x, key=None):
            out, cache = portnet.ReLU.forward(self, params, x, key)
            return namespace(x).round(out * 64.0) / 64.0, cache

    net = portnet.Chain([portnet.Dense(8), Rounded(), portnet.Dense(3)])
    X, y = a(50, 5), np.arange(50) % 3
    given = net, "softmax_cross_entropy", portnet.Adam(1e-2)
    trainer = portnet.Trainer(*given, batch_size=16)
    expected = portnet.Trainer(*given, batch_size=16, compile=False).fit(
        X, y, epochs=3, progress=False
    )
    monkeypatch.setattr(Backend, "compiler", property(lambda self: "graph"))
    monkeypatch.setattr(selftest, "device_for", lambda tf32: CPUDevice())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer.fit(X, y, epochs=3, progress=False)
    assert [w.category for w in caught] == [CompileWarning], [str(w.message) for w in caught]
    assert str(caught[0].message) == "training runs eagerly: there is no kernel for round"
    for p, q in zip(tree.leaves(run.params), tree.leaves(expected.params), strict=True):
        np.testing.assert_array_equal(p, q)
