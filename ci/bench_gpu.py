"""Time a training step on a GPU beside its peers, and write the table.

    python ci/bench_gpu.py [--only small,large] [--rounds 5] [--seconds 0.3] [--out FOLDER]

Each contender has a process of its own, and only one works at a time. All train the same network
from the same parameters on the same rows in the same order, in IEEE float32 (no TF32 anywhere),
with the data on the GPU and the rows of a batch taken in the step. First their losses after the
same steps are compared, then they are timed in turn, A B C A B C; a number is the least of the
rounds, a ratio is other / portnet.

* portnet: `Trainer.fit`, all of it (checks, orders of the rows, losses read once an epoch), divided
  by its steps; one CUDA graph per step. "eager" is the same with ``compile=False``.
* torch eager: torch.optim.Adam, the faster of foreach=True and fused=True.
* torch.compile: mode="reduce-overhead" of the loss, and of the optimizer's step.
* torch graph: the whole step captured by hand as a CUDA graph, with fused capturable Adam.
* jax: jit of one step, parameters and state donated, products in "highest" precision.
* products: only the matrix products of the step, one CUDA graph.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from datetime import date
from math import ceil
from pathlib import Path

HERE = Path(__file__).resolve().parent
LR = 1e-3
LEAST = 5  # epochs of a run: a fit copies parameters, and captures its graph, once
WORKLOADS = {  # sizes, rows of a batch, batches of the dataset
    "small": ((20, 32, 32, 2), 32, 100),
    "medium-128": ((784, 256, 128, 10), 128, 100),
    "medium-1024": ((784, 256, 128, 10), 1024, 20),
    "large": ((32, 512, 512, 512, 8), 4096, 20),
    "huge": ((4096, 4096, 4096, 4096, 10), 8192, 4),
}
TARGETS = {  # other / portnet
    "small": {"torch eager": 4, "torch.compile": 1.5, "jax": 1.5, "torch graph": 1},
    "large": {"torch eager": 0.97, "torch.compile": 0.97, "jax": 0.97, "torch graph": 0.97},
}
TARGETS["medium-128"] = TARGETS["medium-1024"] = TARGETS["small"]
TARGETS["huge"] = TARGETS["large"]


class Problem:
    """A workload: data, initial parameters, the order of the rows in each epoch."""

    def __init__(self, name):
        import numpy as np

        import portnet

        self.name = name
        self.sizes, self.batch, self.batches = WORKLOADS[name]
        draw, self.rows = np.random.default_rng(0), self.batch * self.batches
        self.X = draw.standard_normal((self.rows, self.sizes[0]), dtype=np.float32)
        self.y = draw.integers(0, self.sizes[-1], self.rows)
        self.net = portnet.mlp(self.sizes)
        with portnet.use_backend("numpy"):
            self.params = portnet.init(self.net)
        leaves = portnet.tree.leaves(self.params)
        self.weights = [
            (np.array(a), np.array(b)) for a, b in zip(*[iter(leaves)] * 2, strict=True)
        ]

    def orders(self, epoch):
        """Return the order of the rows in an epoch: that of `Trainer.fit`."""
        import portnet

        return portnet.rng.order(0, epoch, self.rows)

    def epochs(self, n):
        """Return how many epochs make at least n steps."""
        return max(1, ceil(n / self.batches))


def portnet_fit(problem, **options):
    """Return what trains for n steps, whole epochs, and returns the mean loss of the last."""
    import cupy

    import portnet

    X, y = cupy.asarray(problem.X), cupy.asarray(problem.y)
    trainer = portnet.Trainer(
        problem.net,
        "softmax_cross_entropy",
        portnet.Adam(LR),
        batch_size=problem.batch,
        params=problem.params,
        **options,
    )

    def go(n):
        run = trainer.fit(X, y, epochs=problem.epochs(n), progress=False)
        cupy.cuda.Device().synchronize()
        return run.history["loss"][-1]

    return go


def torch_step(problem, optimizer_options, compiled=False, graph=False):
    import torch

    X, y = torch.from_numpy(problem.X).cuda(), torch.from_numpy(problem.y).cuda()
    made = {}

    def start():
        layers = []
        for W, b in problem.weights:
            dense = torch.nn.Linear(*W.shape, device="cuda")
            with torch.no_grad():
                dense.weight.copy_(torch.from_numpy(W.T.copy()))
                dense.bias.copy_(torch.from_numpy(b.reshape(-1)))
            layers += [dense, torch.nn.ReLU()]
        net = torch.nn.Sequential(*layers[:-1])
        optimizer = torch.optim.Adam(net.parameters(), lr=LR, **optimizer_options)
        return net, optimizer

    def whole(net, optimizer):
        loss_of = torch.nn.CrossEntropyLoss()

        def loss_and_backward(rows):
            value = loss_of(net(X[rows]), y[rows])
            value.backward()
            return value.detach()

        forward = torch.compile(loss_and_backward, mode="reduce-overhead") if compiled else None
        update = torch.compile(optimizer.step, mode="reduce-overhead") if compiled else None

        def step(rows):
            optimizer.zero_grad(set_to_none=not graph)
            if compiled:
                torch.compiler.cudagraph_mark_step_begin()
                value = forward(rows).clone()
                update()
            else:
                value = loss_and_backward(rows)
                optimizer.step()
            return value

        return step

    def captured(net, optimizer):
        rows, total = torch.zeros(problem.batch, dtype=torch.int64, device="cuda"), None
        step = whole(net, optimizer)
        total = torch.zeros((), device="cuda")
        keep = [p.detach().clone() for p in net.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(rows)
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            total += step(rows)
        with torch.no_grad():
            for p, k in zip(net.parameters(), keep, strict=True):
                p.copy_(k)
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()
        total.zero_()

        def run(index):
            rows.copy_(index)
            recorded.replay()
            return total

        return run, total, (net, optimizer, step)  # kept: the graph has their addresses

    def go(n):
        # A compiled step and a graph are made once, and go on from where they are: only the first
        # run begins at the initial parameters, and its loss is the one that is compared.
        if not made or not (compiled or graph):
            net, optimizer = start()
            if graph:
                made["step"], made["total"], made["kept"] = captured(net, optimizer)
            else:
                made["step"] = whole(net, optimizer)
        step, last = made["step"], None
        for epoch in range(problem.epochs(n)):
            order = torch.from_numpy(problem.orders(epoch)).cuda()
            if graph:
                made["total"].zero_()
                for i in range(problem.batches):
                    step(order[i * problem.batch : (i + 1) * problem.batch])
                last = made["total"] / problem.batches
            else:
                total = torch.zeros((), device="cuda")
                for i in range(problem.batches):
                    total += step(order[i * problem.batch : (i + 1) * problem.batch])
                last = total / problem.batches
            last = float(last)  # once an epoch, as portnet does
        return last

    return go


def jax_step(problem):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y.astype("int32"))
    tmap = jax.tree.map

    def loss(params, rows):
        z = X_[0][rows]
        for W, b in params[:-1]:
            z = jax.nn.relu(z @ W + b)
        W, b = params[-1]
        p = jax.nn.log_softmax(z @ W + b)
        return -jnp.mean(jnp.take_along_axis(p, X_[1][rows][:, None], axis=1))

    X_ = [X, y]

    def step(params, state, data, rows, total):
        X_[0], X_[1] = data
        value, grads = jax.value_and_grad(loss)(params, rows)
        count, m, v = state[0] + 1, *state[1:]
        m = tmap(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = tmap(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
        c1, c2 = 1 - 0.9**count, 1 - 0.999**count
        new = tmap(lambda p, m, v: p - LR * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), params, m, v)
        return new, (count, m, v), total + value

    jitted = jax.jit(step, donate_argnums=(0, 1, 4))

    def go(n):
        params = [(jnp.array(W), jnp.array(b)) for W, b in problem.weights]
        zeros = tmap(jnp.zeros_like, params)
        state, last = (jnp.zeros(()), zeros, tmap(jnp.zeros_like, params)), 0.0
        for epoch in range(problem.epochs(n)):
            order = problem.orders(epoch).astype("int32").reshape(problem.batches, -1)
            rows, total = [jnp.asarray(o) for o in order], jnp.zeros(())
            for index in rows:
                params, state, total = jitted(params, state, (X, y), index, total)
            last = float(total) / problem.batches
        return last

    return go


def products(problem):
    """Return the graph of the products of a step alone."""
    import cupy

    from portnet.compiler.cuda.gpu import GPU
    from portnet.compiler.cuda.kernels import Matrix, Product

    device, calls, kept = GPU(), [], []

    def product(m, n, k, ta, tb):
        a, b, c = (cupy.random.random(s, dtype="f4") for s in ((m, k), (k, n), (m, n)))
        kept.extend((a, b, c))
        base = ("buffer", 0)
        left = Matrix(base, 0, m if ta else k, ta)
        right = Matrix(base, 0, k if tb else n, tb)
        spec = Product(m, n, k, left, right, Matrix(base, 0, n), "float32")
        calls.append((spec, a.data.ptr, b.data.ptr, c.data.ptr))

    for i, (n_in, n_out) in enumerate(zip(problem.sizes, problem.sizes[1:], strict=False)):
        product(problem.batch, n_out, n_in, False, False)
        product(n_in, n_out, problem.batch, True, False)
        if i:
            product(problem.batch, n_in, n_out, False, True)

    def run():
        for call in calls:
            device.product(*call)

    run()
    graph = device.capture(run)

    def go(n):
        for _ in range(problem.epochs(n) * problem.batches):
            device.replay(graph)
        device.wait()
        return None

    return go


CONTENDERS = {
    "portnet": portnet_fit,
    "portnet eager": lambda p: portnet_fit(p, compile=False),
    "torch eager foreach": lambda p: torch_step(p, {"foreach": True}),
    "torch eager fused": lambda p: torch_step(p, {"fused": True}),
    "torch.compile": lambda p: torch_step(p, {"capturable": True}, compiled=True),
    "torch graph": lambda p: torch_step(p, {"fused": True, "capturable": True}, graph=True),
    "jax": jax_step,
    "products": products,
}


def work(name, who):
    """Be the process of a contender: a line with its first loss, then one for each count given."""
    import portnet

    with portnet.use_backend("cupy"):
        problem = Problem(name)
        go = CONTENDERS[who](problem)
        print(json.dumps(go(1)), flush=True)  # one epoch, which also warms up
        for line in sys.stdin:
            steps = problem.epochs(int(line)) * problem.batches
            gc.collect()
            began = time.perf_counter()
            go(int(line))
            print(json.dumps([time.perf_counter() - began, steps]), flush=True)


class Worker:
    """A contender's process."""

    def __init__(self, name, who, env, log):
        command = [sys.executable, __file__, "--case", f"{name}:{who}"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=env, stdin=pipe, stdout=pipe, stderr=log, text=True
        )
        self.who, self.seconds, self.count, self.loss = who, [], 1, None
        self.batches = WORKLOADS[name][2]

    def read(self):
        """Return what the process says next; None where it has failed."""
        for line in self.process.stdout:
            if line[:1] in "[n0123456789-":  # libraries may print, too
                return json.loads(line)
        return None

    def run(self, count):
        """Return the seconds of one step; None where the process has failed."""
        try:
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        except OSError:
            return None
        took = self.read()
        return took and took[0] / took[1]


def measure(workers, rounds, seconds):
    """Return the seconds of a step of each contender, in each round, and losses that must agree."""
    found = {w.who: {"loss": w.loss} for w in workers}
    reference = found[workers[0].who]["loss"]
    for w in workers:
        loss, took = found[w.who]["loss"], w.run(LEAST * w.batches)
        if loss is not None and reference is not None:
            found[w.who]["agrees"] = abs(loss - reference) <= 2e-3 * abs(reference) + 1e-4
        w.count = max(LEAST * w.batches, int(seconds / took)) if took else 0
    for _ in range(rounds):
        for w in workers:
            if w.count and (took := w.run(w.count)):
                w.seconds.append(took)
    for w in workers:
        found[w.who]["seconds"] = w.seconds
        with contextlib.suppress(OSError):  # it may have failed
            w.process.stdin.close()
        w.process.wait(timeout=60)
    return found


def table(results):
    """Return the results as Markdown."""
    lines = ["| workload | contender | step | other / portnet | target |", "|---|---|---|---|---|"]
    for name, found in results.items():
        best = {who: min(f["seconds"]) for who, f in found.items() if f.get("seconds")}
        eager = [who for who in best if who.startswith("torch eager")]
        for who, f in found.items():
            if who not in best:
                lines.append(f"| {name} | {who} | failed | | |")
                continue
            key = "torch eager" if who in eager and best[who] == min(map(best.get, eager)) else who
            target, ratio = TARGETS[name].get(key), best[who] / best["portnet"]
            if who == "products" and name in ("large", "huge"):
                text = f">= {1 / 1.15:.2f}, " + ("met" if ratio >= 1 / 1.15 else "**MISSED**")
            elif target is None:
                text = ""
            else:
                text = f">= {target}, " + ("met" if ratio >= target else "**MISSED**")
            other = "" if f.get("agrees", True) else " (another loss!)"
            lines.append(
                f"| {name} | {who}{other} | {best[who] * 1e6:,.1f} us | {ratio:.2f} | {text} |"
            )
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--only", type=lambda text: text.split(","), default=list(WORKLOADS))
    options.add_argument("--contenders", type=lambda text: text.split(","))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=0.3, help="of a round of a contender")
    options.add_argument("--out", type=Path, default=HERE / "results")
    options.add_argument("--case", help=argparse.SUPPRESS)
    args = options.parse_args()
    contenders = args.contenders or list(CONTENDERS)
    if args.case:
        return work(*args.case.split(":"))
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TQDM_DISABLE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), env.get("PYTHONPATH", "")])
    args.out.mkdir(parents=True, exist_ok=True)
    results = {}
    with (args.out / "bench-gpu.log").open("w") as log:
        for name in args.only:  # all of a workload start at once, as they take long to compile
            workers = [Worker(name, who, env, log) for who in contenders]
            for worker in workers:
                worker.loss = worker.read()
            results[name] = measure(workers, args.rounds, args.seconds)
            write(results, args.out)


def write(results, folder):
    """Print the table so far, and write it and the results: a run that is cut off has some."""
    from gpu_report import commit, machine

    text = f"{date.today()}, commit {commit()}; {machine()}\n\n{table(results)}\n"
    print(text, flush=True)
    (folder / "bench-gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "bench-gpu.md").write_text("# A training step on a GPU\n\n" + text)


if __name__ == "__main__":
    main()
