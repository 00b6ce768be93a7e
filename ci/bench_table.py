"""The table of ci/bench.py, with the targets, and its picture."""

import datetime
import json
import math
import os
import platform
import statistics
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from bench_peers import WORKLOADS, missing
from bench_whole import ROWS, TIMES

HERE = Path(__file__).parent

# other / portnet, at least; what is not here is reported only.
FASTER = {
    "tiny": {"by hand": 1.6},
    "xor": {"by hand": 1.5},
    "small": {"torch": 5, "jax": 1.5, "scikit-learn": 4},
    "medium-128": {"torch": 1.0, "jax": 0.9, "scikit-learn": 2},
    "medium-1024": {"torch": 1.0, "jax": 1.0, "scikit-learn": 2},
    "large": {"torch": 1.0, "jax": 1.0, "scikit-learn": 1.3},
}
WITHIN = {"medium-1024": 1.35, "large": 1.2}  # portnet / floor, at most
MEMORY = 1.2  # of what the step must hold, at most
FILES = {  # title, what is beside, portnet / that, at most
    "save": ("saving 100 MB of parameters", "writing the bytes, fsync of file and folder", 1.3),
    "load": ("loading them", "reading the bytes", 1.5),
    "load state": ("loading a run of 100 MB with Adam's state", "reading the bytes", 1.5),
    "checkpoint": ("examples/blobs.py, a checkpoint every epoch", "the fit without", 1.02),
}
EXPONENT = 1.1  # p of time ~ work^p: linear, but for the noise of the machine


def about(args):
    """Return date, commit, versions and machine."""

    def git(*command):
        done = subprocess.run(
            ["git", *command], capture_output=True, text=True, check=False, cwd=HERE
        )
        return done.stdout.strip()

    changed = git("status", "--short", ":/", ":(top,exclude)ci/results")
    versions = {"Python": platform.python_version()}
    for name in ("numpy", "scikit-learn", "torch", "jax", "llvmlite"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {
        "date": str(datetime.date.today()),
        "commit": git("rev-parse", "--short", "HEAD") + "+changes" * bool(changed),
        "versions": versions,
        "blas": f"{blas['name']} {blas['version']}",
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "threads": args.threads,
        "left out": missing(),
    }


class Found:
    """What was measured, by part, name and threads."""

    def __init__(self, result):
        self.cases = {(c["part"], c["name"], c["threads"]): c["found"] for c in result["cases"]}
        self.threads = result["about"]["threads"]

    def best(self, part, name, threads, who):
        """Return the seconds of one step, the minimum of the rounds; None where there is none."""
        steps = self.cases.get((part, name, threads), {}).get("steps", {})
        return min(steps[who]["seconds"]) if who in steps else None

    def ratio(self, workload, threads, who):
        """Return other / portnet, or None."""
        mine, other = (self.best(workload, workload, threads, w) for w in ("portnet", who))
        return other / mine if mine and other else None

    def of(self, part):
        """Return name: found with the first number of threads."""
        return {n: f for (p, n, t), f in self.cases.items() if p == part and t == self.threads[0]}

    def growth(self):
        """Return part: work, seconds, in the order of the work."""
        epochs = {int(n): min(f["seconds"]) for n, f in self.of("rows").items()}
        widths = {
            f["multiplications"]: min(f["steps"]["portnet"]["seconds"])
            for f in self.of("width").values()
        }
        return {"rows": epochs, "width": widths}


def table(result):
    """Return everything as Markdown."""
    a, found = result["about"], Found(result)
    versions = ", ".join(f"{name} {v}" for name, v in a["versions"].items())
    lines = [
        "# Speed on the CPU",
        "",
        f"`python ci/bench.py`, {a['date']}, commit {a['commit']}, {a['cpu']}, {a['cores']} cores; "
        f"threads: {' and '.join(map(str, a['threads']))}; {versions}; NumPy's BLAS: {a['blas']}.",
        *_disturbed(found, a),
        *[f"\nLeft out: {peer}, not installed (`pip install {peer}`)." for peer in a["left out"]],
        "",
        "Every contender has the same number of threads, sizes, dtype, data, order of the rows and "
        "initial parameters, and after the same steps the same loss. Times are the minimum of "
        "interleaved rounds, with the median in brackets. `ci/bench_peers.py` says what each one "
        "does.",
        "",
        *_whole_fits(found),
        *_targets(found),
        *_files(found),
    ]
    for threads in found.threads:
        lines += _steps(found, threads)
    return "\n".join(lines + _whole(found) + _growth(found) + _memory(found)) + "\n"


def whole_fits(found, threads):
    """Yield of each row and other contender: row, other, portnet's two times, the other's time."""
    for name, row in ROWS.items():
        mine = [found.best("whole", name, threads, f"portnet {time}") for time in TIMES]
        for who in row.contenders:
            other = found.best("whole", name, threads, who)
            if other:
                yield row, who, mine, other


def _whole_fits(found):
    """Return the table of whole fits, with targets for the first number of threads."""
    first, *more = found.threads
    beside = {n: {(r.title, w): [t / m for m in ms] for r, w, ms, t in whole_fits(found, n)}
              for n in more}  # fmt: skip
    rows, verdicts = [], []
    for row, who, mine, other in whole_fits(found, first):
        cells = [row.title, who, *map(_time, mine), _time(other)]
        for least, seconds in zip(row.targets.get(who, (None, None)), mine, strict=True):
            ratio = other / seconds
            cells += [f"{ratio:.2f}", "" if least is None else f">= {least:g}"]
            if least is not None:
                verdicts.append(ratio >= least)
                cells[-1] += ", met" if verdicts[-1] else ", **MISSED**"
        for ratios in filter(None, beside.values()):
            cells.append(", ".join(f"{r:.2f}" for r in ratios.get((row.title, who), [])))
        rows.append(cells)
    if not rows:
        return []
    heads = ["work", "other", "portnet, first", "portnet, second", "other's time"]
    heads += ["other / portnet, first", "target", "other / portnet, second", "target"]
    heads += [f"{_threads(n)}: first, second" for n in more if beside[n]]
    return [
        f"## Whole fits, in new processes, {_threads(first)}",
        "",
        _met(verdicts),
        "",
        "Each contender runs in a new process in each round, from the call to its end: imports of "
        "the library are not counted, those during the work are. portnet first has no compiled "
        "code in its cache, portnet second has that of the first. Contenders without targets are "
        "reported only. PyTorch imports its compiler when the first optimizer is made, and JAX "
        "compiles the epoch: that is most of their time in 5 epochs. Predictions are one call of "
        "many in a process. `ci/bench_whole.py` has the work.",
        "",
        *_grid(heads, rows),
    ]


def _met(verdicts):
    """Return how many targets are met, in words."""
    missed = verdicts.count(False)
    words = f"{len(verdicts) - missed} of {len(verdicts)} targets met"
    return words + f", {missed} MISSED" * bool(missed) + "."


def _targets(found):
    first, *more = found.threads
    rows = []

    def add(workload, other, number, target, met, beside=()):
        verdict = "met" if met else "**MISSED**"
        rows.append([workload, other, number, target, verdict, *beside])

    for workload, targets in FASTER.items():
        for who, least in targets.items():
            ratios = [found.ratio(workload, t, who) for t in found.threads]
            if ratios[0]:
                beside = [f"{r:.2f}" for r in ratios[1:]]
                name = f"{who} / portnet"
                add(workload, name, f"{ratios[0]:.2f}", f">= {least}", ratios[0] >= least, beside)
    for workload, most in WITHIN.items():
        ratios = [found.ratio(workload, t, "floor") for t in found.threads]
        if ratios[0]:
            beside, r = [f"{1 / r:.2f}" for r in ratios[1:]], 1 / ratios[0]
            add(workload, "portnet / matrix products", f"{r:.2f}", f"<= {most}", r <= most, beside)
    if memory := found.of("memory").get("portnet"):
        r = memory["bytes"] / memory["must"]
        add("large", "peak memory / what it must hold", f"{r:.2f}", f"<= {MEMORY}", r <= MEMORY)
    for part, work in found.growth().items():
        if len(work) > 2:
            p, what = _exponent(work), f"p, time ~ {'rows' if part == 'rows' else 'products'}^p"
            add(part, what, f"{p:.2f}", f"<= {EXPONENT}", p <= EXPONENT)
    if not rows:
        return []
    heads = ["workload", "what", _threads(first), "target", "verdict"]
    heads += [f"{_threads(n)}, reported" for n in more]
    words = _met(["MISSED" not in row[4] for row in rows])
    words += f" What counts is the run with {_threads(first)}."
    return ["## Targets of steps, memory and growth", "", words, "", *_grid(heads, rows)]


def _files(found):
    """Return the table of files, with targets."""
    rows, verdicts = [], []
    for name, (title, beside, most) in FILES.items():
        if steps := found.of("files").get(name, {}).get("steps"):
            mine, plain = (statistics.median(steps[who]["seconds"]) for who in ("portnet", "plain"))
            verdicts.append(mine / plain <= most)
            verdict = "met" if verdicts[-1] else "**MISSED**"
            rows.append([title, beside, *map(_time, (mine, plain)), f"{mine / plain:.3f}"])
            rows[-1] += [f"<= {most:g}", verdict]
    if not rows:
        return []
    heads = ["work", "beside", "portnet", "the other", "portnet / other", "target", "verdict"]
    words = " Files lie in the folder for temporary files, and those that are read in the page "
    words += "cache. portnet computes checksums in as many threads as there are cores, up to four. "
    words += "These times are medians, since those of disks vary."
    return ["## Files", "", _met(verdicts) + words, "", *_grid(heads, rows)]


def _disturbed(found, a):
    """Say what the machine did besides."""
    lines = [f"\nLoad of the machine at the start: {a['load']}."] if a["load"] is not None else []
    one, two = (found.best("large", "large", t, "floor") for t in (1, 2))
    if one and two:
        lines[-1:] += [
            f"The products of `large` alone took {two / one:.2f} times as long with two threads as "
            "with one: 0.5 where a second core is free, 1 and more where others use it, and then "
            "the figures with two threads say little."
        ]
    return lines


def _threads(n):
    return f"{n} thread" + "s" * (n > 1)


def _exponent(work):
    """Return p of seconds ~ work^p, by least squares on the logarithms, in the upper half."""
    points = sorted(work.items())[len(work) // 2 - 1 :]
    x, y = ([math.log(v) for v in values] for values in zip(*points, strict=True))
    return statistics.linear_regression(x, y).slope


def _steps(found, threads):
    cases = {w: found.cases.get((w, w, threads)) for w in WORKLOADS}
    cases = {w: case["steps"] for w, case in cases.items() if case}
    if not cases:
        return []
    names = dict.fromkeys(name for steps in cases.values() for name in steps)
    rows = [[who, *[_cell(s.get(who), threads) for s in cases.values()]] for who in names]
    for who in ("portnet", "jax"):
        firsts = [steps[who]["first"] if who in steps else None for steps in cases.values()]
        cells = ["" if s is None else f"{s:.2f} s" for s in firsts]
        if any(cells):
            rows.append([f"{who}: compiling, once", *cells])
    return [
        f"## One training step, {_threads(threads)}, microseconds",
        "",
        *_grid(["", *cases], rows),
        "Cores are named where more were busy than there are threads: JAX prepares the next step "
        "in one thread and computes in another.",
        "",
    ]


def _cell(case, threads):
    if case is None:
        return ""
    micro = [1e6 * s for s in (min(case["seconds"]), statistics.median(case["seconds"]))]
    best, median = (f"{us:,.0f}" if us >= 100 else f"{us:.1f}" for us in micro)
    cores = statistics.median(case["cores"])
    return f"{best} ({median})" + f", {cores:.1f} cores" * (cores > 1.15 * threads)


def _whole(found):
    titles = {
        "fit": "A whole fit of MLPClassifier (Adam, defaults; 1,797 x 64, 20 epochs; 20,000 x 32, "
        "4 epochs)",
        "predict": "Probabilities of 1, 1,000 and 100,000 rows, 32-100-100-8, NumPy to NumPy",
        "import": "Import, in fresh processes",
    }
    lines = []
    for part, title in titles.items():
        cases = {k: f["steps"] for k, f in found.cases.items() if k[0] == part}
        names = dict.fromkeys(who for steps in cases.values() for who in steps)
        rows = [
            [f"{int(n):,}" if n.isdecimal() else n, str(t)]
            + [_seconds(steps.get(who)) for who in names]
            for (_, n, t), steps in cases.items()
        ]
        if rows:
            lines += [f"## {title}", "", *_grid(["", "threads", *names], rows)]
    return lines


def _seconds(case):
    return "" if case is None else _time(min(case["seconds"]))


def _time(seconds):
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.1f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.1f} us"


def _growth(found):
    lines, growth = [], found.growth()
    if growth["rows"]:
        rows = [[f"{n:,}", _time(s), f"{1e9 * s / n:.0f} ns"] for n, s in growth["rows"].items()]
        lines += ["## An epoch of Trainer.fit: 8-16-2, batches of 1,024", ""]
        lines += _grid(["rows", "epoch", "per row"], rows)
    if growth["width"]:
        rows = []
        for name, case in found.of("width").items():
            mine, floor = (min(case["steps"][who]["seconds"]) for who in ("portnet", "floor"))
            each = f"{1e12 * mine / case['multiplications']:.1f} ps"
            rows.append([name, _time(mine), _time(floor), each])
        lines += ["## The step of a w-w-w-8 network, batch 128", ""]
        heads = ["w", "portnet", "matrix products alone", "portnet, per multiplication"]
        lines += _grid(heads, rows)
    return lines


def _memory(found):
    rows = []
    for who, m in found.of("memory").items():
        peak, must = (f"{m[key] / 1e6:.1f} MB" for key in ("bytes", "must"))
        how = "VmHWM, reset before" if m["exact"] else "ru_maxrss"
        rows.append([who, peak, must, f"{m['bytes'] / m['must']:.2f}", how])
    heads = ["", "peak in three steps", "must hold", "ratio", "how the peak was read"]
    return ["## Memory of `large`", "", *_grid(heads, rows)] if rows else []


def _grid(heads, rows):
    width = len(heads)
    filled = [[*row, *[""] * (width - len(row))] for row in rows]
    return [
        f"| {' | '.join(heads)} |",
        "|" + "---|" * width,
        *[f"| {' | '.join(row)} |" for row in filled],
        "",
    ]


# The guide --------------------------------------------------------------------------------------

BEGIN, END = "<!-- ci/bench.py writes from here -->", "<!-- to here -->"


PICTURE = (
    "![time of a step of others divided by portnet's, and cost against rows and width]"
    "(../../ci/results/bench-cpu.svg)"
)
TITLES = {"by hand": "NumPy by hand", "torch": "PyTorch", "jax": "JAX, jit"}


def summary(result):
    """Return what examples/guide/speed.md shows: whole fits, with the first number of threads."""
    a, found = result["about"], Found(result)
    rows = [
        [row.title, *map(_time, mine), _time(other), TITLES.get(who, who)]
        for row, who, mine, other in whole_fits(found, found.threads[0])
        if who in row.targets
    ]
    heads = ["whole fits and predictions", "portnet, first", "portnet, second", "other", "which"]
    return [
        "Rows of documents are written exercises, with the exercise's own loop: 001 is "
        "`examples/two_blobs.py`, 003 `examples/single_neuron.py`, 004 `examples/xor.py`.",
        "",
        f"One thread of {a['cpu']}, {a['date']}: the same data and results for all; the "
        "fastest of several rounds, in turn. Each time is from the call to its end, in a new "
        "process, after the imports of the libraries; PyTorch imports its compiler, and JAX "
        "compiles, during the fit. portnet keeps compiled code in a folder, with the extra "
        "`native`: it is empty in the first process, and the second process finds it filled. The "
        "whole table, with targets, single training steps and memory, is in "
        "[ci/results/bench-cpu.md](../../ci/results/bench-cpu.md).",
        "",
        *_grid(heads, rows),
        PICTURE,
    ]


# Files ------------------------------------------------------------------------------------------


def write(result, text, out):
    """Write JSON, table and, where matplotlib is installed, the picture; yield their paths."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench-cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    yield out / "bench-cpu.json"
    (out / "bench-cpu.md").write_text(text)
    yield out / "bench-cpu.md"
    if out == HERE / "results":
        guide = HERE.parent / "examples" / "guide" / "speed.md"
        before, _, rest = guide.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        guide.write_text("\n".join([before + BEGIN, *summary(result), END + after]))
        yield guide
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    picture(Found(result), out / "bench-cpu.svg")
    yield out / "bench-cpu.svg"


def picture(found, path):
    """Draw the ratios of all workloads, and time against rows and against width."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 3, figsize=(13, 4.2), width_ratios=(2, 1, 1), layout="constrained"
    )
    _bars(axes[0], found)
    labels = {"rows": ("rows", "seconds of an epoch"), "width": ("multiplications", "of a step")}
    for ax, (part, work) in zip(axes[1:], found.growth().items(), strict=True):
        x = sorted(work)
        ax.loglog(x, [work[n] for n in x], "o-", label="portnet")
        if x:
            ax.loglog(x, [work[x[-1]] * n / x[-1] for n in x], ":", color="gray", label="linear")
        what, seconds = labels[part]
        ax.set(xlabel=what, ylabel=f"seconds {seconds}".replace("seconds seconds", "seconds"))
        ax.set_title(f"cost against {part}")
        ax.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(ax, found):
    """Bars of other / portnet: above 1, portnet is faster."""
    first = found.threads[0]
    peers = ["by hand", "scikit-learn", "torch", "torch fused", "jax"]
    workloads = [w for w in WORKLOADS if (w, w, first) in found.cases]
    wide = 0.8 / len(peers)
    for i, who in enumerate(peers):
        ratios = [found.ratio(w, first, who) for w in workloads]
        places = [j + (i - len(peers) / 2 + 0.5) * wide for j, r in enumerate(ratios) if r]
        ax.bar(places, [r - 1 for r in ratios if r], wide, bottom=1, label=who)
    for j, w in enumerate(workloads):
        if w in WITHIN:
            r, label = found.ratio(w, first, "floor"), "matrix products alone" * (w == "large")
            ax.hlines(r, j - 0.45, j + 0.45, color="black", linestyle=":", label=label or None)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_yticks([], minor=True)
    ax.set_xticks(range(len(workloads)), [w.replace("-", "\n") for w in workloads])
    ax.set(ylabel="time / portnet's")
    ax.set_title(f"one training step, {_threads(first)}: above 1, portnet is faster")
    ax.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
