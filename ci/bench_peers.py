"""The workloads of ci/bench.py, and the same training step in portnet and in each of its peers.

A competitor is a function of a `Problem` that returns `start`; ``go = start()`` begins at the
initial parameters, and ``go(n)`` makes n steps, waits until they are done, and returns the loss of
the last one (in the documents' workloads, the mean loss of all steps). Everybody gets the same
parameters, the same rows in the same order and the same dtype; where there are batches, taking the
rows of a batch out of the dataset is part of the step. In the documents' workloads every contender
reads the loss in each step, as the documents do.

* portnet: `portnet.compile` of `make_step`, and a for loop around it, with machine code from the
  first call on, as a long training has it (the extra `native`), and without; "eager" is without
  `compile`.
* Trainer.fit, scikit-learn: the whole fit, checks, shuffling and history included, divided by the
  number of its steps; at least two epochs. No early stopping. scikit-learn draws its own
  parameters and orders.
* by hand: NumPy as one writes it after reading about backpropagation. For `tiny` and `xor` the
  documents' loops (examples/by_hand.py), else a plain Adam.
* torch: eager, torch.optim.Adam with its defaults, and with foreach=True and fused=True.
* jax: jit of one step, parameters and state donated.
* floor: only the matrix products of the step, into preallocated arrays; the first layer has no dx.
"""

import itertools
import os
import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from statistics import mean
from unittest.mock import patch

import numpy as np

import portnet

ROOT = Path(__file__).resolve().parent.parent
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8  # Adam's, the same in portnet, torch and by hand


@dataclass(frozen=True)
class Workload:
    """Sizes of the layers, rows of a batch, batches of the data set; or one of the documents."""

    sizes: tuple[int, ...]
    batch: int
    batches: int
    document: str = ""

    def whole(self, n):
        """Return n, rounded up so that whole epochs make it, at least two."""
        unit = 2 if n < 2 * self.batches and not self.document else self.batches
        return unit * ceil(n / unit)

    def epochs(self, n):
        """Return rows and epochs that make n steps."""
        batches = min(n // 2, self.batches) if not self.document else self.batches
        return batches * self.batch, n // batches

    @property
    def multiplications(self):
        """Those of the matrix products of one step: forward, dW, and dx but for the first layer."""
        each = [a * b for a, b in itertools.pairwise(self.sizes)]
        return self.batch * (3 * sum(each) - each[0])


WORKLOADS = {
    "tiny": Workload((2, 8, 4, 1), 200, 1, "two_blobs"),
    "xor": Workload((2, 2, 1), 1, 4, "xor"),
    "small": Workload((20, 32, 32, 2), 32, 100),
    "medium-128": Workload((784, 256, 128, 10), 128, 100),
    "medium-1024": Workload((784, 256, 128, 10), 1024, 20),
    "large": Workload((32, 512, 512, 512, 8), 4096, 20),
}


class Problem:
    """A workload with its data, trainer and initial parameters."""

    def __init__(self, workload):
        self.workload, self.document = workload, workload.document
        self.dtype = "float64" if self.document else "float32"
        if self.document:
            example = _import("examples", self.document)
            if self.document == "xor":
                self.X, self.y = example.X * 1.0, example.Y * 1.0
                params, made, self.scale = example.document_weights(), example.trainer(1), 2.0
            else:
                self.X, self.y, params = example.document()
                made, self.scale = example.trainer(params), 1 / len(self.X)
            batch, self.orders = workload.batch, None
            starts = range(0, len(self.X), batch)
            self._feed = [(self.X[i : i + batch], self.y[i : i + batch]) for i in starts]
        else:
            draw = np.random.default_rng(0)
            rows = workload.batch * workload.batches
            self.X = draw.standard_normal((rows, workload.sizes[0]), dtype=np.float32)
            self.y = draw.integers(0, workload.sizes[-1], rows)
            net = portnet.mlp(workload.sizes)
            params = portnet.init(net)
            made = portnet.Trainer(
                net, "softmax_cross_entropy", "adam", workload.batch, params=params
            )
            self.orders = draw.permutation(rows).reshape(workload.batches, -1)
        self.trainer, self.params = made, params

    @property
    def weights(self):
        """W and b of each layer."""
        return [(p["W"], p["b"]) for p in self.params if p]

    def feed(self, convert=lambda a: a):
        """Return what the steps of an epoch are given: x, t; or X, y and the rows of the batch."""
        if self.document:
            return [(convert(x), convert(t)) for x, t in self._feed]
        X, y = convert(self.X), convert(self.y)
        return [(X, y, convert(rows)) for rows in self.orders]


def _import(folder, name):
    sys.path.insert(0, str(ROOT / folder))
    return __import__(name)


def _stepping(problem, step, fresh, feed, wait=lambda arrays: None):
    """Return `start` for a step(params, state, ...) -> params, state, loss."""
    document = problem.document

    def start():
        begin = fresh()
        wait(begin)

        def go(n):
            (params, state), total = begin, 0.0
            for args in itertools.islice(itertools.cycle(feed), n):
                params, state, value = step(params, state, *args)
                if document:
                    total += float(value)
            wait((params, state))
            return total / n * problem.scale if document else float(value)

        return go

    return start


# portnet ----------------------------------------------------------------------------------------


def compiled(problem, native=True):
    """As a long training has it; or as one has it without the extra `native`, or a short one."""
    return _portnet(problem, lambda step: portnet.compile(step, donate=(0, 1)), 1 if native else -1)


def eager(problem):
    return _portnet(problem, lambda step: step)


def _portnet(problem, compiler, after=0):
    trainer = problem.trainer
    step = portnet.make_step(trainer.model, trainer.loss, trainer.optimizer)

    def batch_step(params, state, X, y, rows):
        xp = portnet.namespace(X)
        return step(params, state, xp.take(X, rows, axis=0), xp.take(y, rows, axis=0))

    def begin():
        params = portnet.tree.map(np.array, problem.params)
        return params, trainer.optimizer.init(params)

    def fresh():
        if after and not step_of._entries:  # machine code at the first call, or never
            with patch.dict(os.environ, PORTNET_NATIVE="always" if after > 0 else "never"):
                step_of(*begin(), *feed[0])
        return begin()

    step_of, feed = compiler(step if problem.document else batch_step), problem.feed()
    start = _stepping(problem, step_of, fresh, feed)
    start.release = getattr(step_of, "release", None)
    return start


def trainer_fit(problem):
    def go(n):
        rows, epochs = problem.workload.epochs(n)
        X, y = problem.X[:rows], problem.y[:rows]
        return problem.trainer.fit(X, y, epochs=epochs, progress=False).history["loss"][-1]

    portnet.set_backend("numpy", dtype=problem.dtype)
    return lambda: go


# By hand, and the products alone ----------------------------------------------------------------


def by_hand(problem):
    if problem.document:
        return _document_by_hand(problem)

    def start():
        weights = [p.copy() for pair in problem.weights for p in pair]
        return lambda n: _adam_by_hand(weights, itertools.islice(cycle(problem.feed()), n))

    cycle = itertools.cycle
    return start


def _document_by_hand(problem):
    loops, weights = _import("examples", "by_hand"), problem.weights
    if problem.document == "xor":
        (W1, b1), (W2, b2) = weights
        columns = W1.T, b1.T, W2.T, b2.T
        return lambda: lambda n: mean(loops.xor(problem.X, problem.y, columns, epochs=n // 4)[0])
    return lambda: lambda n: mean(loops.two_blobs(problem.X, problem.y, weights, epochs=n)[0])


def _adam_by_hand(weights, feed):
    """Train on batches with ReLU, softmax and Adam; return the loss of the last batch."""
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    layers = len(weights) // 2
    for t, (X, y, rows) in enumerate(feed, 1):
        a, labels, n = [X[rows]], y[rows], len(rows)
        for i in range(layers):
            z = a[-1] @ weights[2 * i] + weights[2 * i + 1]
            a.append(np.maximum(z, 0) if i < layers - 1 else z)
        e = np.exp(a[-1] - a[-1].max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        loss = -np.mean(np.log(p[np.arange(n), labels]))
        p[np.arange(n), labels] -= 1
        d, grads = p / n, []
        for i in reversed(range(layers)):
            grads = [a[i].T @ d, d.sum(axis=0, keepdims=True), *grads]
            if i:
                d = d @ weights[2 * i].T * (a[i] > 0)
        for i, g in enumerate(grads):
            m[i] = BETA1 * m[i] + (1 - BETA1) * g
            v[i] = BETA2 * v[i] + (1 - BETA2) * g**2
            m_hat, v_hat = m[i] / (1 - BETA1**t), v[i] / (1 - BETA2**t)
            weights[i] = weights[i] - LR * m_hat / (np.sqrt(v_hat) + EPS)
    return float(loss)


def floor(problem):
    sizes, batch = problem.workload.sizes, problem.workload.batch
    draw = np.random.default_rng(0)
    a = [draw.standard_normal((batch, n)).astype(problem.dtype) for n in sizes]
    d = [x.copy() for x in a]
    W = [np.asarray(w, problem.dtype) for w, _ in problem.weights]
    dW = [np.empty_like(w) for w in W]
    products = [(a[i], w, np.empty_like(a[i + 1])) for i, w in enumerate(W)]
    for i in reversed(range(len(W))):
        products.append((a[i].T, d[i + 1], dW[i]))
        if i:
            products.append((d[i + 1], W[i].T, np.empty_like(d[i])))

    def go(n):
        for _ in range(n):
            for left, right, out in products:
                np.matmul(left, right, out=out)
        return 0.0

    return lambda: go


# Peers ------------------------------------------------------------------------------------------


def torch_eager(problem, **options):
    import torch

    nn, document = torch.nn, problem.document
    dtype = getattr(torch, problem.dtype)
    losses = {
        "": nn.CrossEntropyLoss(),
        "two_blobs": nn.BCEWithLogitsLoss(reduction="sum"),
        "xor": lambda a, t: 0.5 * nn.functional.mse_loss(a, t, reduction="sum"),
    }
    loss_of, feed = losses[document], problem.feed(torch.from_numpy)

    def start():
        layers = []
        for W, b in problem.weights:
            dense = nn.Linear(*W.shape, dtype=dtype)
            with torch.no_grad():
                dense.weight.copy_(torch.tensor(W.T.copy()))
                dense.bias.copy_(torch.tensor(b[0]))
            layers += [dense, nn.Sigmoid() if document else nn.ReLU()]
        net = nn.Sequential(*layers[: None if document == "xor" else -1])
        if document:
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        else:
            optimizer = torch.optim.Adam(net.parameters(), **options)

        def go(n):
            total = 0.0
            for X, y, *rows in itertools.islice(itertools.cycle(feed), n):
                x, t = (X[rows[0]], y[rows[0]]) if rows else (X, y)
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(net(x), t)
                loss.backward()
                optimizer.step()
                if document:
                    total += loss.item()
            return total / n * problem.scale if document else loss.item()

        return go

    return start


def jax_jit(problem):
    import jax
    import jax.numpy as jnp

    document, tmap = problem.document, jax.tree.map
    jax.config.update("jax_enable_x64", problem.dtype == "float64")

    def forward(params, x):
        for W, b in params[:-1]:
            x = jax.nn.sigmoid(x @ W + b) if document else jax.nn.relu(x @ W + b)
        W, b = params[-1]
        return x @ W + b

    def loss(params, x, t):
        z = forward(params, x)
        if document == "xor":
            return 0.5 * jnp.sum((jax.nn.sigmoid(z) - t) ** 2)
        if document:
            return jnp.sum(jnp.logaddexp(0, z) - t * z)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), t[:, None], axis=1))

    def step(params, state, X, y, rows=None):
        x, t = (X, y) if rows is None else (X[rows], y[rows])
        value, grads = jax.value_and_grad(loss)(params, x, t)
        if document:
            return tmap(lambda p, g: p - 0.1 * g, params, grads), state, value
        count, m, v = state[0] + 1, *state[1:]
        m = tmap(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, grads)
        v = tmap(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, grads)
        c1, c2 = 1 - BETA1**count, 1 - BETA2**count
        params = tmap(lambda p, m, v: p - LR * (m / c1) / (jnp.sqrt(v / c2) + EPS), params, m, v)
        return params, (count, m, v), value

    def fresh():
        params = tmap(jnp.array, problem.weights)
        if document:
            return params, ()
        zeros = [tmap(jnp.zeros_like, params) for _ in range(2)]
        return params, (jnp.zeros((), problem.dtype), *zeros)

    step = jax.jit(step, donate_argnums=(0, 1))
    return _stepping(problem, step, fresh, problem.feed(jnp.asarray), jax.block_until_ready)


def sklearn_fit(problem):
    from sklearn.neural_network import MLPClassifier

    workload = problem.workload
    warnings.filterwarnings("ignore", module="sklearn")

    def go(n):
        rows, epochs = workload.epochs(n)
        net = MLPClassifier(
            workload.sizes[1:-1],
            batch_size=workload.batch,
            max_iter=epochs,
            alpha=0.0,
            tol=0.0,
            n_iter_no_change=10**9,
            random_state=0,
        )
        return net.fit(problem.X[:rows], problem.y[:rows]).loss_

    return lambda: go


NEEDS = {"torch": "torch", "jax": "jax", "scikit-learn": "sklearn"}  # name to install: to import


def missing():
    """Return the names of the peers that are not installed."""
    return [name for name, module in NEEDS.items() if find_spec(module) is None]


def competitors(problem):
    """Return name: start of every contender that runs in this workload, portnet first."""
    makers = {
        "portnet": compiled,
        "portnet without native": lambda problem: compiled(problem, native=False),
        "portnet eager": eager,
        "Trainer.fit": trainer_fit,
        "floor": floor,
        "by hand": by_hand,
        "torch": torch_eager,
        "torch foreach": lambda problem: torch_eager(problem, foreach=True),
        "torch fused": lambda problem: torch_eager(problem, fused=True),
        "jax": jax_jit,
        "scikit-learn": sklearn_fit,
    }
    left_out = set(missing())
    if problem.document:  # plain gradient descent
        left_out |= {"torch foreach", "torch fused", "scikit-learn"}
    return {
        name: make(problem)
        for name, make in makers.items()
        if name not in left_out and name.split()[0] not in left_out
    }


def check(problem, losses):
    """Raise AssertionError unless every contender has the same loss after the same steps."""
    for name in set(losses) - {"Trainer.fit", "floor", "scikit-learn"}:  # these draw other batches
        rtol = 1e-9 if problem.document else 1e-3
        if (problem.document, name) == ("two_blobs", "by hand"):
            rtol = 1e-5  # the document adds 1e-9 inside its logarithms
        np.testing.assert_allclose(losses[name], losses["portnet eager"], rtol=rtol, err_msg=name)
