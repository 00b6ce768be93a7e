"""What users run, timed in new processes: whole fits and predictions, beside what others write.

A row of `ROWS` is one piece of work and its contenders. Each of them runs in a process of its own,
in turn, A B C A B C; the clock starts after the imports of NumPy and of the contender's library and
after the data are made, and stops at the end of the work. What is imported during the work counts.
Predictions are called again and again in one process: seconds of one call, after a first one.

portnet runs twice: "portnet first" with an empty folder for compiled code, a new one in each round,
and "portnet second" with the folder that the first has filled.

The results of all contenders must agree, within the row's `rtol`: losses of the first, the middle
and the last epoch of the documents' loops (1e-6; float64, as in the documents), loss, number of
epochs and accuracy of the estimators (1e-4), and the loss of all rows where each contender draws
its own batches (0.05 after five epochs, 0.2 for one sample at a time).
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
LOOP = "the document's loop"
TIMES = ("first", "second")


@dataclass(frozen=True)
class Row:
    """A piece of work.

    Each contender is a function that imports its library, makes the data and returns `work` and
    `numbers`: ``work()`` is timed, ``numbers(result)`` is compared. `targets` has, for a contender,
    other / portnet at least, for portnet's first and second process.
    """

    title: str
    contenders: dict[str, Callable[[], tuple]]
    targets: dict[str, tuple[float, float]] = field(default_factory=dict)
    rtol: float = 1e-6
    repeated: bool = False
    long: bool = False  # left out by --quick


# Documents --------------------------------------------------------------------------------------


def example_of(name):
    sys.path.insert(0, str(ROOT / "examples"))
    return __import__(name)


def _document(title, targets, contenders, scale, **options):
    """Return a row; a function of `contenders` returns work, whose losses are compared."""

    def portnet():
        import portnet

        portnet.set_backend("numpy", dtype="float64")
        return contenders[0](), lambda run: [scale * v for v in three(run.history["loss"])]

    def loop():
        return contenders[1](example_of("by_hand")), lambda result: three(result[0])

    return Row(title, {"portnet": portnet, LOOP: loop}, {LOOP: targets}, **options)


def three(losses):
    return [losses[i] for i in (0, len(losses) // 2, -1)]


def _two_blobs(epochs, targets):
    def portnet():
        example = example_of("two_blobs")
        X, y, params = example.document()
        return lambda: example.trainer(params).fit(X, y, epochs=epochs)

    def loop(by_hand):
        X, y, params = example_of("two_blobs").document()
        weights = [(p["W"], p["b"]) for p in params if p]
        return lambda: by_hand.two_blobs(X, y, weights, epochs=epochs)

    title = f"document 001: 2-8-4-1, one step an epoch, {epochs:,} epochs"
    return _document(title, targets, (portnet, loop), 1 / 200)


def _single_neuron(epochs, targets):
    def portnet():
        example = example_of("single_neuron")
        return lambda: example.train(example.DocumentSigmoid(), epochs)

    def loop(by_hand):
        example = example_of("single_neuron")
        weights, bias = example.START[0]["W"], 0.3
        return lambda: by_hand.single_neuron(example.X, example.Y, weights, bias, epochs=epochs)

    title = f"document 003: one neuron, one step an epoch, {epochs:,} epochs"
    return _document(title, targets, (portnet, loop), 2 / 4)


def _xor(epochs, targets, shuffle=False, **options):
    def portnet():
        example = example_of("xor")
        trainer = replace(example.trainer(1), shuffle=shuffle)
        return lambda: trainer.fit(example.X, example.Y, epochs=epochs)

    def loop(by_hand):
        example, draw = example_of("xor"), np.random.default_rng(0)
        columns = [p[name].T for p in example.document_weights() if p for name in ("W", "b")]
        orders = (lambda: draw.permutation(4)) if shuffle else None
        return lambda: by_hand.xor(example.X, example.Y, columns, epochs=epochs, orders=orders)

    title = f"document 004: 2-2-1, four steps an epoch, {epochs:,} epochs" + ", shuffled" * shuffle
    return _document(title, targets, (portnet, loop), 2.0, **options)


# Estimators -------------------------------------------------------------------------------------


def _table(rows, features, dtype="float64"):
    """Return rows of two classes, a line between them, with noise."""
    draw = np.random.default_rng(0)
    X = draw.standard_normal((rows, features))
    y = (X[:, :4].sum(axis=1) + draw.standard_normal(rows) > 0).astype(int)
    return X.astype(dtype), y


def _dataset(name):
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(return_X_y=True)


def _classifier(who):
    if who == "portnet":
        from portnet import MLPClassifier
    else:
        from sklearn.neural_network import MLPClassifier
    return partial(MLPClassifier, random_state=0)


def _estimators(title, work, targets, **options):
    """Return a row of portnet's classifier and scikit-learn's: work(class) is as a contender is."""
    contenders = {who: partial(_estimator, work, who) for who in ("portnet", "scikit-learn")}
    return Row(title, contenders, {"scikit-learn": targets}, **({"rtol": 1e-4} | options))


def _estimator(work, who):
    return work(_classifier(who))


def _fitting(data, **options):
    """Return the work that fits ``MLPClassifier(**options)`` to the data."""

    def work(classifier):
        X, y = data()
        return lambda: classifier(**options).fit(X, y), partial(_numbers_of, X, y)

    return work


def _numbers_of(X, y, net):
    return [net.loss_, net.n_iter_, net.score(X, y)]


def _partial_fitting(rows):
    def work(classifier):
        X, y = _table(20_000, 20)
        starts = [(i * rows) % len(X) for i in range(1000)]

        def call():
            net = classifier()
            for i in starts:
                net.partial_fit(X[i : i + rows], y[i : i + rows], classes=[0, 1])
            return net

        return call, lambda net: [net.loss_, net.score(X, y)]

    return work


def _cross_validating(classifier):
    from sklearn.model_selection import cross_val_score

    X, y = _dataset("breast_cancer")
    return lambda: cross_val_score(classifier(), X, y, cv=5), list


def _predicting(rows, features, dtype="float64", hidden=(100,), classes=2, method="predict"):
    def work(classifier):
        draw = np.random.default_rng(0)
        X = draw.standard_normal((rows, features)).astype(dtype)
        net = _fitted(classifier, features, dtype, hidden, classes)
        call = getattr(net, method)
        return lambda: call(X), lambda result: np.ravel(result)[:100].tolist()

    return work


def _serving(threads):
    """Return the work of a server: 1,000 predictions of one row, from several threads at once."""

    def work(classifier):
        draw = np.random.default_rng(0)
        rows = list(draw.standard_normal((1000, 1, 20)))
        net = _fitted(classifier, 20, "float64", (100,), 2)

        def call():
            with ThreadPoolExecutor(threads) as pool:
                parts = [rows[i::threads] for i in range(threads)]
                done = list(pool.map(lambda part: [net.predict_proba(x) for x in part], parts))
            return [done[i % threads][i // threads] for i in range(len(rows))]

        return call, lambda result: np.ravel(result)[:100].tolist()

    return work


def _fitted(classifier, features, dtype, hidden, classes):
    draw = np.random.default_rng(1)
    X = draw.standard_normal((800, features)).astype(dtype)
    return classifier(hidden_layer_sizes=hidden, max_iter=5).fit(X, np.arange(800) % classes)


# Trainer, torch and JAX -------------------------------------------------------------------------

SIZES, BATCH, LR = (20, 64, 64, 2), 200, 1e-3


def _weights():
    """Return W and b of each layer, the same for all."""
    draw = np.random.default_rng(2)
    return [
        ((draw.standard_normal((n, m)) * (2 / n) ** 0.5).astype("float32"), np.zeros(m, "float32"))
        for n, m in pairwise(SIZES)
    ]


def _trainer():
    import portnet

    params = []
    for W, b in _weights():
        params += [{"W": W, "b": b[None]}, ()]
    net = portnet.mlp(list(SIZES))
    return portnet.Trainer(net, "softmax_cross_entropy", "adam", BATCH, params=tuple(params[:-1]))


def _portnet_trainer(epochs):
    X, y = _table(20_000, SIZES[0], "float32")
    _trainer()  # imports the library
    return lambda: _trainer().fit(X, y, epochs=epochs), lambda run: [run.evaluate(X, y)["loss"]]


def _trainers(epochs):
    return {
        "portnet": partial(_portnet_trainer, epochs),
        "torch": partial(_torch_trainer, epochs),
        "torch fused": partial(_torch_trainer, epochs, fused=True),
        "jax": partial(_jax_trainer, epochs),
    }


def _torch_net(weights, *last):
    import torch

    layers = []
    for W, b in weights:
        dense = torch.nn.Linear(*W.shape)
        with torch.no_grad():
            dense.weight.copy_(torch.from_numpy(W.T.copy()))
            dense.bias.copy_(torch.from_numpy(b))
        layers += [dense, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1], *last)


def _torch_trainer(epochs, **options):
    import torch

    host = _table(20_000, SIZES[0], "float32")
    loss_of = torch.nn.CrossEntropyLoss()

    def work():
        X, y = (torch.from_numpy(a) for a in host)
        net = _torch_net(_weights())
        optimizer = torch.optim.Adam(net.parameters(), lr=LR, **options)
        for _ in range(epochs):
            order, total = torch.randperm(len(X)), 0.0
            for i in range(0, len(X), BATCH):
                rows = order[i : i + BATCH]
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(net(X[rows]), y[rows])
                loss.backward()
                optimizer.step()
                total += loss.detach()
            total.item()
        return net

    def numbers(net):
        X, y = (torch.from_numpy(a) for a in host)
        with torch.no_grad():
            return [loss_of(net(X), y).item()]

    return work, numbers


def _jax_trainer(epochs):
    import jax
    import jax.numpy as jnp

    host = _table(20_000, SIZES[0], "float32")

    def loss(params, x, t):
        for W, b in params[:-1]:
            x = jax.nn.relu(x @ W + b)
        W, b = params[-1]
        log_p = jax.nn.log_softmax(x @ W + b)
        return -jnp.mean(jnp.take_along_axis(log_p, t[:, None], axis=1))

    @partial(jax.jit, donate_argnums=(0, 1))
    def epoch(params, state, key, X, y):
        def step(carry, rows):
            params, (t, m, v) = carry
            value, g = jax.value_and_grad(loss)(params, X[rows], y[rows])
            t, tmap = t + 1, jax.tree.map
            m = tmap(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = tmap(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            c1, c2 = 1 - 0.9**t, 1 - 0.999**t
            params = tmap(
                lambda p, m, v: p - LR * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), params, m, v
            )
            return (params, (t, m, v)), value

        orders = jax.random.permutation(key, len(X)).reshape(-1, BATCH)
        (params, state), values = jax.lax.scan(step, (params, state), orders)
        return params, state, values.mean()

    def work():
        X, y = (jnp.asarray(a) for a in host)
        params = jax.tree.map(jnp.asarray, _weights())
        m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        state = jnp.zeros(()), m, v
        for key in jax.random.split(jax.random.key(0), epochs):
            params, state, value = epoch(params, state, key, X, y)
            float(value)
        return jax.block_until_ready(params)

    return work, lambda params: [float(loss(params, *map(jnp.asarray, host)))]


def _run_predicting():
    X, y = _table(800, SIZES[0], "float32")
    run = _trainer().fit(X, y, epochs=0)
    return lambda: run.predict(X[:1]), lambda result: np.ravel(result).tolist()


def _torch_predicting(X, net):
    """Return what calls a module of torch with rows that are a tensor already."""
    import torch

    x = torch.from_numpy(X)

    def call():
        with torch.no_grad():
            return net(x)

    return call, lambda result: result.numpy().ravel()[:100].tolist()


def _torch_run_predicting():
    import torch

    X, _ = _table(800, SIZES[0], "float32")
    return _torch_predicting(X[:1], _torch_net(_weights(), torch.nn.Softmax(dim=1)))


MILLION = {"rows": 1_000_000, "features": 32, "hidden": (100, 100), "classes": 8}


def _torch_million():
    import torch

    draw = np.random.default_rng(0)
    X = draw.standard_normal((MILLION["rows"], MILLION["features"])).astype("float32")
    sizes = MILLION["features"], "float32", MILLION["hidden"], MILLION["classes"]
    net = _fitted(_classifier("scikit-learn"), *sizes)
    weights = zip(net.coefs_, net.intercepts_, strict=True)
    return _torch_predicting(X, _torch_net(weights, torch.nn.Softmax(dim=1)))


# Rows -------------------------------------------------------------------------------------------


def _rows():
    yield "001", _two_blobs(2000, (1.0, 1.5))
    yield "001-long", _two_blobs(20_000, (2, 2.5))
    yield "004", _xor(10_000, (4, 7))
    yield "004-shuffled", _xor(10_000, (None, 3), shuffle=True, rtol=0.2)
    yield "003", _single_neuron(10_000, (2, 3))
    for name in ("digits", "breast_cancer", "iris"):
        work = _fitting(partial(_dataset, name))
        yield name, _estimators(f"MLPClassifier().fit, {name}", work, (1.4, 1.7))
    work = _fitting(partial(_table, 20_000, 20))
    yield "20000", _estimators("MLPClassifier().fit, 20,000 x 20", work, (2.5, 3))
    work = _fitting(partial(_table, 200_000, 30), max_iter=25)
    title = "MLPClassifier(max_iter=25).fit, 200,000 x 30"
    yield "200000", _estimators(title, work, (1.8, 2), long=True)
    title = "Trainer.fit, 20,000 x 20, hidden (64, 64), 5 epochs, float32"
    targets = {"torch": (3, 3), "jax": (0.85, 0.85)}
    yield "trainer", Row(title, _trainers(5), targets, rtol=0.05)
    title = title.replace(
        "5 epochs", "100 epochs"
    )  # what it is once imports and compilers are done
    yield "trainer-long", Row(title, _trainers(100), rtol=0.2, long=True)
    for rows in (1, 10, 100):
        title = f"partial_fit of {rows} row{'s' * (rows > 1)}, 1,000 times"
        targets = (2, 2) if rows == 100 else (None, None)
        yield f"partial-{rows}", _estimators(title, _partial_fitting(rows), targets)
    title = "cross_val_score, 5 folds, breast_cancer"
    yield "cross-validation", _estimators(title, _cross_validating, (1.5, 2))
    repeated = {"repeated": True}
    title = "predict of 1 row, MLPClassifier"
    yield "predict-1", _estimators(title, _predicting(1, 20), (1.5, 1.5), **repeated)
    for n in (1, 2):
        title = f"predict_proba of 1 row, 1,000 times, from {n} thread{'s' * (n > 1)}"
        yield f"server-{n}", _estimators(title, _serving(n), (None, None), **repeated)
    contenders = {"portnet": _run_predicting, "torch": _torch_run_predicting}
    targets = {"torch": (0.83, 0.83)}
    title = "predict of 1 row, run, 20-64-64-2"
    yield "predict-run", Row(title, contenders, targets, rtol=1e-4, **repeated)
    for dtype in ("float64", "float32"):
        title, work = f"predict of 10,000 x 20, {dtype}", _predicting(10_000, 20, dtype)
        yield f"predict-{dtype}", _estimators(title, work, (1.1, 1.1), **repeated)
    work = _predicting(**MILLION, dtype="float32", method="predict_proba")
    title = "predict_proba of 1,000,000 rows, 32-100-100-8"
    row = _estimators(title, work, (1.2, 1.2), long=True, rtol=1e-3, **repeated)
    contenders, targets = row.contenders | {"torch": _torch_million}, row.targets
    yield (
        "predict-million",
        replace(row, contenders=contenders, targets=targets | {"torch": (1.5, 1.5)}),
    )


ROWS = dict(_rows())
NEEDS = {"scikit-learn": "sklearn", "torch": "torch", "torch fused": "torch", "jax": "jax"}


def names(quick=False):
    """Return the names of the rows that can run here."""
    with_sklearn = find_spec("sklearn") is not None
    return [
        name
        for name, row in ROWS.items()
        if (with_sklearn or "scikit-learn" not in row.contenders) and not (quick and row.long)
    ]


# Measuring --------------------------------------------------------------------------------------


def whole(name, rounds, seconds):
    """Measure a row: see `measured`."""
    return measured(name, ROWS[name], __file__, rounds, seconds)


def measured(name, row, script, rounds, seconds):
    """Measure a row: the contenders in turn, each in new processes; check that they agree.

    ``python script name contender`` runs one of them, as `main` does. At most `rounds`, and up to
    two fewer where they take long, at least one.
    """
    began = time.perf_counter()
    runs = [w for w in row.contenders if w not in NEEDS or find_spec(NEEDS[w]) is not None]
    found = {}
    for n in range(rounds):
        if n >= max(1, rounds - 2) and time.perf_counter() - began > 80 * seconds:
            break
        with tempfile.TemporaryDirectory() as folder:
            for who in runs:
                for turn in TIMES if who == "portnet" else ("",):
                    done, label = _in_a_process(script, name, who, folder), f"{who} {turn}".strip()
                    case = found.setdefault(label, {"seconds": [], "numbers": done["numbers"]})
                    case["seconds"].append(done["seconds"])
    for who, case in found.items():
        np.testing.assert_allclose(
            case["numbers"],
            found["portnet first"]["numbers"],
            rtol=row.rtol,
            atol=2e-9,  # document 001 adds 1e-9 inside its logarithms
            err_msg=f"{name}: {who}",
        )
    return {"steps": found}


def _in_a_process(script, name, who, folder):
    """Return seconds and numbers of a contender, with this folder for what portnet compiles."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PORTNET_CACHE_DIR"] = folder
    command = [sys.executable, str(Path(script).resolve()), name, who]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(row, who):
    """Run one contender of a row and print what it took."""
    warnings.simplefilter("ignore")
    work, numbers = row.contenders[who]()
    began = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    if row.repeated:
        seconds = _one_call(work)
    print(json.dumps({"seconds": seconds, "numbers": [float(n) for n in numbers(result)]}))
    for thread in threading.enumerate():  # what compiles beside the work must not slow the next one
        if thread.name == "portnet compiles":
            thread.join()


def _one_call(work):
    """Return the seconds of one call: the least of three means, each of about 0.1 s."""
    count, means = 1, []
    while len(means) < 3:
        began = time.perf_counter()
        for _ in range(count):
            work()
        took = time.perf_counter() - began
        if took < 0.05:
            count *= 2
        else:
            means.append(took / count)
    return min(means)


if __name__ == "__main__":
    main(ROWS[sys.argv[1]], sys.argv[2])
