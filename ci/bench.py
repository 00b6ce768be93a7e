"""Time portnet beside its peers, in one run, and write the table.

    python ci/bench.py [--quick] [--only whole,tiny,xor] [--threads 1,2] [--rounds 5] [--out FOLDER]
    python ci/bench.py --scale
    python ci/bench.py --ensembles

First come whole fits, which is what users run: each contender has a new process in each round.
Every other part runs in a process of its own, whose number of threads is set before anything is
imported, the same for NumPy, torch and JAX. All competitors of a training step are in one process:
first they must have the same loss after the same steps, then they are timed in turn, A B C A B C;
each round lasts about 0.2 s (two steps, where those take longer) and begins at the initial
parameters. A number in the table is the minimum of the rounds (the JSON has all of them), a ratio
is other / portnet. Targets count with the first number of threads, one; with two, steps and whole
fits are reported beside. A whole run takes about half an hour on two free cores. bench_whole.py has
the whole fits; bench_peers.py says what each competitor of a step does, bench_parts.py what else is
measured. With --scale, two ranks are compared with one: see bench_scale.py.
With --ensembles, 64 networks as one program with loops of fits: see bench_ensembles.py.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def environment(threads):
    """Return the environment of a process whose libraries use that many threads."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM")
    found = dict(os.environ) | {f"{name}_NUM_THREADS": str(threads) for name in names}
    found |= {"NPROC": str(threads), "JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
    if threads == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        found["XLA_FLAGS"] = flags
    path = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return found | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def in_a_process(case):
    """Measure a case in a fresh process and return what it found."""
    command = [sys.executable, str(HERE / "bench.py"), "--case", json.dumps(case)]
    env = environment(case["threads"])
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: {case['part']} {case['name']} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def cases(args):
    """Return everything to measure, part by part."""
    import bench_whole
    from bench_parts import PARTS
    from bench_peers import missing

    rounds = args.rounds or (2 if args.quick else 5)
    chosen, seconds = args.only or list(PARTS), 0.05 if args.quick else 0.2
    if unknown := sorted(set(chosen) - set(PARTS)):
        sys.exit(f"--only: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    # With the first number of threads only:
    once = ["fit", "predict", "import", "files", "rows", "width", "memory"]
    once += ["whole"] * args.quick
    left_out = missing() + (["10000000"] if args.quick else [])
    left_out += [name for name in bench_whole.ROWS if name not in bench_whole.names(args.quick)]
    left_out += list(PARTS["fit"][1]) if "scikit-learn" in left_out else []
    return [
        {"part": part, "name": name, "threads": threads, "rounds": rounds, "seconds": seconds}
        for threads in args.threads
        for part in PARTS
        for name in PARTS[part][1]
        if part in chosen
        and name not in left_out
        and (threads == args.threads[0] or part not in once)
    ]


def main():
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="short rounds; writes no files")
    options.add_argument(
        "--only", type=lambda text: text.split(","), help="whole,tiny,fit,memory,..."
    )
    options.add_argument("--rounds", type=int, help="of each competitor, in turn; 5, quick: 2")
    options.add_argument(
        "--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2]
    )
    options.add_argument("--out", type=Path, help="by default ci/results, for a whole run")
    options.add_argument(
        "--scale", action="store_true", help="two ranks of MPI against one, and nothing else"
    )
    options.add_argument(
        "--ensembles", action="store_true", help="64 networks as one program, and nothing else"
    )
    options.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.case:
        from bench_parts import PARTS

        part, name, rounds, seconds = (args.case[k] for k in ("part", "name", "rounds", "seconds"))
        return print(json.dumps(PARTS[part][0](name, rounds, seconds)))

    if args.scale:
        import bench_scale

        out = args.out or (None if args.quick else HERE / "results")
        return bench_scale.scale(args.rounds or (1 if args.quick else 5), out)

    if args.ensembles:
        import bench_ensembles

        return bench_ensembles.ensembles(
            args, args.out or (None if args.quick else HERE / "results")
        )

    import bench_table
    from tqdm import tqdm

    about, found, bar = bench_table.about(args), [], tqdm(cases(args), unit="case")
    for case in bar:
        names = dict.fromkeys((case["part"], case["name"]))
        bar.set_description(f"{' '.join(names)}, threads: {case['threads']}")
        found.append(case | {"found": in_a_process(case)})
    result = {"about": about, "cases": found}
    text = bench_table.table(result)
    print(text)
    whole = not (args.quick or args.only)
    if args.out or whole:
        for path in bench_table.write(result, text, args.out or HERE / "results"):
            print(path)


if __name__ == "__main__":
    main()
