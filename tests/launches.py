"""How many kernels a training step launches: eagerly on a GPU, and as a graph.

``python tests/launches.py`` prints the table of examples/guide/devices.md.
"""

import sys
from pathlib import Path

import numpy as np

import portnet
from portnet import tree
from portnet.backend import Backend
from portnet.compiler.cuda.planning import device_plan
from portnet.compiler.planner import traced
from portnet.compiler.simplify import simplify
from portnet.engine.packing import Packing
from portnet.engine.step_executor import MakeStepAndSum

sys.path.insert(0, str(Path(__file__).parent))
from counting import Counting, recorded

BEGIN, END = "<!-- launches: begin -->", "<!-- launches: end -->"
SIZES, BATCH = (784, 256, 10), 16
STEPS = 12  # more than the arrays that are joined one by one


def network(layers, **options):
    """Return a network of so many Dense layers."""
    inputs, hidden, outputs = SIZES
    return portnet.mlp([inputs, *[hidden] * (layers - 1), outputs], **options)


def data(steps):
    draw = np.random.default_rng(0)
    X = draw.standard_normal((steps * BATCH, SIZES[0])).astype("float32")
    return X, draw.integers(0, SIZES[-1], steps * BATCH)


def of_epoch(model, optimizer, steps, loss="softmax_cross_entropy", **options):
    """Return what an eager epoch of so many steps does, as `counting.recorded` gives it."""
    X, y = data(steps)
    given = {"batch_size": BATCH, "compile": False} | options
    runs = portnet.Trainer(model, loss, optimizer, **given).epochs(
        Counting(X), Counting(y), epochs=2
    )
    next(runs)
    with recorded() as records:
        next(runs)
    return records


def eager(model, optimizer, **options):
    """Return the names of the operations that a step launches, on a library of vectors."""
    before = Backend.eager_vectors
    Backend.eager_vectors = True
    try:
        few = list(of_epoch(model, optimizer, STEPS, **options).launches)
        more = list(of_epoch(model, optimizer, 2 * STEPS, **options).launches)
    finally:
        Backend.eager_vectors = before
    names = []
    for name in sorted(set(more)):
        each, rest = divmod(more.count(name) - few.count(name), STEPS)
        assert rest == 0, f"steps differ by their {name}"
        names += [name] * each
    return names


def graph(model, optimizer):
    """Return the number of launches in the graph of a step."""
    params = tree.map(lambda a: a.astype("float32"), portnet.init(model))
    state = optimizer.init(params)
    packings = Packing.of(params), Packing.of(state)
    loss = portnet.SoftmaxCrossEntropy()
    step = MakeStepAndSum(portnet.make_step, True)(model, loss, optimizer, *packings)
    vectors = [packing.pack(p) for packing, p in zip(packings, (params, state), strict=True)]
    flat = [v for vector in vectors for v in vector.values()]
    X, y = data(1)
    order, numbers = np.zeros(BATCH, np.int64), np.zeros((1, 1), np.int32)
    given = [*flat, np.zeros(2), X, y, order, numbers, numbers]
    kinds = [(a.shape, a.dtype) for a in given]

    def rebuild(traced):
        left = iter(traced)
        packed = [{k: next(left) for k in vector} for vector in vectors]
        sums, batch = next(left), (next(left), next(left), None)
        return [*packed, sums, batch, next(left), portnet.rng.Key(next(left), next(left)), None], {}

    program = simplify(traced(step, kinds, rebuild, True))
    return len(device_plan(program, 0, list(range(len(flat) + 1)), {}).program.launches)


def table():
    """Return the lines of the guide's table."""
    networks = {
        **{f"{n} layer{'s' * (n > 1)}": network(n) for n in (1, 2, 3, 4, 6)},
        "3 layers, dropout": network(3, dropout=0.5),
        "3 layers, LayerNorm": network(3, norm="layer"),
    }
    optimizers = {"SGD": portnet.SGD(), "Adam": portnet.Adam()}
    lines = [
        "| launches a step | " + " | ".join(f"{o}: eager | graph" for o in optimizers) + " |",
        "|---" * (1 + 2 * len(optimizers)) + "|",
    ]
    for name, model in networks.items():
        numbers = [n for o in optimizers.values() for n in (len(eager(model, o)), graph(model, o))]
        lines.append(f"| {name} | " + " | ".join(map(str, numbers)) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
