"""Training on several ranks: what `ci/bench.py --scale` measures, and its table.

In each round a job of one rank and one of two run in turn, each with one thread a rank: with the
sum over 8 shards that has the same bits for any number of ranks, and with the plain all-reduce. A
job trains a few epochs; its figure is the fastest one. The scaling is that of two ranks against one
rank that makes the same sums. Where other programs keep the cores busy, ranks wait for each other;
so the seconds of the processor that a rank's gradients take are measured, too.
"""

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKLOADS = {"large": 1.7, "medium-1024": 1.5, "medium-128": None}  # speed-ups that are wanted
KINDS = {"deterministic": [], "plain": ["--no-deterministic"]}
PARTS = "gradients", "update", "exchange"
BATCHES = 5  # in an epoch
EPOCHS = {"large": 5, "medium-1024": 20, "medium-128": 100}


def job(name, ranks, options):
    """Return what rank 0 of a job has measured, in seconds a step."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    command = [str(mpiexec if mpiexec.exists() else "mpiexec"), "-n", str(ranks), sys.executable]
    command += ["-m", "portnet.distributed", *options, str(Path(__file__).resolve()), name]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1"}
    env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench_scale: {name} on {ranks} ranks failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def least(times, name, clock=time.perf_counter):
    """Wrap a function so that its shortest call is kept in a dict of seconds."""

    def wrap(function):
        def timed(*args):
            began = clock()
            result = function(*args)
            times[name] = min(times.get(name, 1e9), clock() - began)
            return result

        return timed

    return wrap


def rank(name):
    """Train, as a rank of a job; rank 0 prints the seconds of a step, an exchange and an update."""
    import bench_peers

    from portnet import distributed
    from portnet.engine import sharded_executor, tree_sum

    times = {}
    for kind in (tree_sum.TreeSum, tree_sum.AllReduce):
        kind.finish = least(times, "exchange")(kind.finish)
        kind.add_own = least(times, "gradients", time.thread_time)(kind.add_own)
    executor, call = sharded_executor._CompiledShards, sharded_executor._CompiledShards._call
    update = least(times, "update")(call)

    def called(self, function, *args):
        return (update if function is self.function else call)(self, function, *args)

    executor._call = called
    problem = bench_peers.Problem(bench_peers.WORKLOADS[name])
    rows, marks = BATCHES * problem.workload.batch, []
    problem.trainer.fit(
        problem.X[:rows],
        problem.y[:rows],
        epochs=EPOCHS[name],
        callbacks=[lambda report: marks.append(time.perf_counter())],
    )
    epochs = [b - a for a, b in itertools.pairwise(marks)]
    if distributed.rank() == 0:
        print(json.dumps({"step": min(epochs) / BATCHES, **times}))


def measure(rounds):
    """Return the minima of all jobs by workload, kind and ranks."""
    found = {}
    for number in range(rounds):
        for name in WORKLOADS:
            for kind, options in KINDS.items():
                for ranks in (1, 2):
                    print(f"round {number + 1}: {name}, {kind}, ranks: {ranks}", file=sys.stderr)
                    new = job(name, ranks, options)
                    old = found.setdefault(name, {}).setdefault(kind, {}).get(ranks, new)
                    found[name][kind][ranks] = {k: min(old[k], new[k]) for k in new}
    return found


def table(found, rounds):
    """Return the table as Markdown."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = (
        "Other programs kept the cores busy, so ranks waited for each other: the measured steps "
        "say little, the model's more. To be measured again on free cores."
    )
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    lines = [
        "# Two ranks against one",
        "",
        f"`python ci/bench.py --scale --rounds {rounds}`, {date.today()}, {processor}, "
        f"{cores} cores, load {load:.1f}. {_about()} Milliseconds a step, "
        "minima of rounds in turn; one BLAS thread a rank.",
        "",
        *([busy, ""] if load > cores + 1 else []),
        "| workload | sums | 1 rank | 2 ranks | speed-up | wanted | gradients, 1 rank | 2 ranks | "
        "update | exchange | model, 2 ranks | speed-up |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, kinds in found.items():
        for kind, by_ranks in kinds.items():
            one, two = by_ranks[1], by_ranks[2]
            wanted = WORKLOADS[name] if kind == "deterministic" else None
            model = two["gradients"] + one["update"] + two["exchange"]
            alone = one["gradients"] + one["update"]
            ratio = one["step"] / two["step"]
            cells = [f"{1e3 * x:.2f}" for x in (one["step"], two["step"])]
            cells += [f"{ratio:.2f}", f"{wanted:.1f}" if wanted else ""]
            parts = one["gradients"], two["gradients"], one["update"], two["exchange"], model
            cells += [*[f"{1e3 * x:.2f}" for x in parts], f"{alone / model:.2f}"]
            lines.append(f"| {name} | {kind} | {' | '.join(cells)} |")
    lines += [
        "",
        "Deterministic: 8 shards, the same bits for any number of ranks. Plain: one part a rank, "
        "and MPI's all-reduce; with one rank, the whole batch at once. Gradients are the "
        "milliseconds of a processor that those of a rank's share take; update and exchange "
        "are the "
        "shortest of all steps. The model is their sum on two ranks, and its speed-up that against "
        "gradients and update of one.",
        "",
        "| workload | deterministic / plain of the model, 1 rank | 2 ranks |",
        "|---|---|---|",
    ]
    for name, kinds in found.items():
        both = []
        for ranks, parts in (1, PARTS[:2]), (2, PARTS):
            sums = [sum(kinds[kind][ranks][part] for part in parts) for kind in KINDS]
            both.append(sums[0] / sums[1])
        lines.append(f"| {name} | {both[0]:.2f} | {both[1]:.2f} |")
    return "\n".join(lines) + "\n"


def _about():
    import numpy as np
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    return f"NumPy {np.__version__}, {name} {'.'.join(map(str, version))}."


def scale(rounds, out):
    """Measure, print the table, and write it to a folder, if one is given."""
    text = table(measure(rounds), rounds)
    print(text)
    if out:
        path = out / "scaling.md"
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    rank(sys.argv[1])
