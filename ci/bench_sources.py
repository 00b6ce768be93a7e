"""Measure training on data that are read in parts, and write the table and the picture.

    python ci/bench_sources.py [--only speed,memory,shuffle] [--rounds 20] [--gb 4] [--out FOLDER]

Each measurement runs in a process of its own, with one thread of BLAS. Speed: an epoch of the
networks `medium` of ci/bench.py, in memory, from a memory map and from other sources, in turn; the
minimum of the rounds counts. The files are in the page cache, as one that was just written is.
Memory: the largest resident size of a process that trains on a file, evaluates and predicts it.
Shuffle: the accuracy on test rows after each epoch, of rows that are sorted by class in the file.
A whole run takes about ten minutes and writes files of 4 GB (sparse) into the temporary folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench import environment
from bench_table import about

HERE = Path(__file__).resolve().parent
SIZES = (784, 256, 128, 10)
SEEDS = 5
EPOCHS = 10


# Speed --------------------------------------------------------------------------------------------


def in_hdf5(folder, X):
    import h5py

    file = h5py.File(folder / "X.h5", "w")
    return file.create_dataset("X", data=X, chunks=(256, X.shape[1]))


def in_zarr(folder, X):
    import zarr

    return zarr.create_array(store=str(folder / "X.zarr"), data=X, chunks=(256, X.shape[1]))


def in_dask(folder, X):
    from dask import array

    return array.from_array(np.load(folder / "X.npy", mmap_mode="r"), chunks=(256, X.shape[1]))


def in_parquet(folder, X):
    import portnet

    pyarrow = __import__("pyarrow.parquet")
    table = pyarrow.table({f"x{i}": X[:, i] for i in range(X.shape[1])})
    pyarrow.parquet.write_table(table, folder / "X.parquet", row_group_size=1024)
    return portnet.data.parquet(folder / "X.parquet")


OTHERS = {"HDF5": in_hdf5, "Zarr": in_zarr, "dask": in_dask, "Parquet": in_parquet}


def speed(batch, rounds, others, folder):
    """Return the rows a second of each source, with batches of so many rows."""
    import portnet

    rows = 24_576
    draw = np.random.default_rng(0)
    X = draw.standard_normal((rows, SIZES[0]), dtype=np.float32)
    y = draw.integers(0, SIZES[-1], rows)
    np.save(folder / "X.npy", X)
    sources = {"memory": X, "memory map": np.load(folder / "X.npy", mmap_mode="r")}
    for name, make in OTHERS.items():
        try:
            sources[name] = make(folder, X)
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    trainer = portnet.Trainer(portnet.mlp(SIZES), "softmax_cross_entropy", "adam", batch)
    seconds = {name: [] for name in sources}
    for number in range(rounds):
        for name, source in sources.items():
            if name in OTHERS and number >= others:
                continue  # no target
            found = []
            trainer.fit(source, y, epochs=2, callbacks=[lambda r, f=found: f.append(r.seconds)])
            seconds[name] += [found[1:]]
    return {name: rows / min(map(min, found)) for name, found in seconds.items()}


# Memory -------------------------------------------------------------------------------------------


def memory(gb, folder):
    """Return the largest resident size in MB of a process, after each thing that it does."""
    import portnet

    width, rows = 64, int(gb * 1e9) // 256
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (rows, width))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int64, (rows,))
    y[...] = np.arange(rows) % 8
    draw = np.random.default_rng(0)
    for start in range(0, rows, rows // 64):  # the rest are holes of the file: zeros
        part = slice(start, start + 1000)
        X[part] = draw.standard_normal(X[part].shape)
    X.flush(), y.flush()
    size = os.stat(folder / "X.npy").st_size
    del X, y

    def peak(field="VmHWM"):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

    Path("/proc/self/clear_refs").write_text("5")  # writing the file does not count
    X, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "Xy")
    net = portnet.mlp([width, 64, 8])
    trainer = portnet.Trainer(net, "softmax_cross_entropy", "adam", batch_size=1024)
    began, found = time.perf_counter(), {"before": peak()}
    run = trainer.fit(X, y, epochs=1, validation=0.05, metrics=["accuracy"])
    found["fit"], seconds = peak(), time.perf_counter() - began
    run.evaluate(X, y)
    found["evaluate"] = peak()
    run.predict_class(X)
    found["predict_class"] = peak()
    began = time.perf_counter()
    portnet.Trainer(net, "softmax_cross_entropy", "adam", batch_size=1024, shuffle="full").fit(
        X, y, epochs=1
    )
    found['fit with shuffle="full"'], full = peak(), time.perf_counter() - began
    return {"MB": found, "bytes": size, "rows": rows, "seconds": seconds, "full": full}


# Shuffle ------------------------------------------------------------------------------------------


def shuffle(folder):
    """Return the test accuracies after each epoch, by the way of shuffling: mean over seeds."""
    import warnings

    import portnet
    from portnet.data.sources import order, reading

    warnings.simplefilter("ignore", UserWarning)  # of windows of one class
    rows, classes, width = 40_000, 8, 20
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((3 * classes, width))
    kind = draw.integers(0, 3 * classes, rows + 10_000)
    X = (0.7 * centres[kind] + draw.standard_normal((len(kind), width))).astype(np.float32)
    y = kind % classes
    test, train = (X[rows:], y[rows:]), slice(0, rows)
    by_class = np.argsort(y[train], kind="stable")
    np.save(folder / "X.npy", X[train][by_class])
    np.save(folder / "y.npy", y[train][by_class])
    files = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in "Xy"]
    reading.SMALL, row = 0, 4 * (width + 1)
    ways = {"full shuffle": ("full", 1, 1)}
    for share in (20, 5):  # percent of the rows in a window
        for blocks in (16, 128):
            ways[f"{share}% in memory, {blocks} blocks"] = (True, share, blocks)
    ways["no shuffle"] = (False, 20, 16)
    found = {}
    for name, (how, share, blocks) in ways.items():
        order.WINDOW = rows * share // 100 * row
        order.BLOCK = max(row, order.WINDOW // blocks)
        runs = []
        for seed in range(SEEDS):
            net, seen = portnet.mlp([width, 64, classes]), []
            trainer = portnet.Trainer(
                net, "softmax_cross_entropy", "adam", 32, seed=seed, shuffle=how
            )
            trainer.fit(
                *files,
                epochs=EPOCHS,
                callbacks=[lambda r, s=seen: s.append(r.run.score(*test)) and None],
            )
            runs.append(seen)
        found[name] = np.mean(runs, axis=0).tolist()
    return found


def draw_picture(found, path):
    try:
        import matplotlib

        import portnet

        ax = portnet.plots.curves(
            found, title="40,000 rows, sorted by class in the file", ylabel="test accuracy"
        )
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return
    matplotlib.rcParams["svg.hashsalt"] = "portnet"  # equal numbers, equal files
    ax.figure.savefig(path, metadata={"Date": None})


# The table ----------------------------------------------------------------------------------------


def in_a_process(part, *args):
    command = [sys.executable, __file__, "--part", json.dumps([part, *args])]
    with tempfile.TemporaryDirectory(prefix="portnet-sources-") as folder:
        done = subprocess.run(
            [*command, "--folder", folder],
            env=environment(1),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def table(found, given):
    host = given["versions"]
    text = [
        "# Data larger than memory",
        "",
        f"`python ci/bench_sources.py`, {given['date']}, commit {given['commit']}, on "
        f"{given['cpu']} ({given['cores']} cores, load {given['load']} at the start), Python "
        f"{host['Python']}, NumPy {host['numpy']}. One thread of BLAS; another thread reads "
        "ahead.",
    ]
    if "speed" in found:
        text += ["", "## Speed", ""]
        text += [
            f"Rows a second of an epoch of {'-'.join(map(str, SIZES))} (`medium` of ci/bench.py), "
            "minimum of rounds in turn (few of them for sources without a target); files are in "
            "the page cache. Target: from a memory map at "
            "least 0.9 of that in memory.",
            "",
            "| source | " + " | ".join(f"batch {b} | of memory" for b in found["speed"]) + " |",
            "|---|" + "---|---|" * len(found["speed"]),
        ]
        columns = list(found["speed"].values())
        for name in columns[0]:
            cells = [f"{c[name]:,.0f} | {c[name] / c['memory']:.2f}" for c in columns]
            text.append(f"| {name} | {' | '.join(cells)} |")
    if "memory" in found:
        one = found["memory"]
        text += ["", "## Memory", ""]
        text += [
            f"A file of {one['bytes'] / 1e9:.2f} GB ({one['rows']:,} rows of 64 float32), y a file "
            "of int64, 64-64-8, one epoch with a twentieth of the rows held out "
            f"({one['seconds']:.0f} s). Largest resident size of the process so far. Target: under "
            '600 MB. The epoch with shuffle="full", which reads each row by itself, took '
            f"{one['full']:.0f} s.",
            "",
            "| after | MB |",
            "|---|---|",
            *(f"| {name} | {mb:.0f} |" for name, mb in one["MB"].items()),
        ]
    if "shuffle" in found:
        at = [1, 3, 5, EPOCHS]
        text += ["", "## Shuffling sorted data", ""]
        text += [
            "Test accuracy after epochs, mean of 5 seeds: 40,000 rows of 8 classes, sorted by "
            "class in the file, 20-64-8, Adam, batches of 32. A window holds a share of the rows, "
            "of so many blocks; of a file without chunks, a window of portnet's has 128 blocks.",
            "",
            "| rows are taken by | " + " | ".join(f"epoch {n}" for n in at) + " |",
            "|---|" + "---|" * len(at),
        ]
        for name, numbers in found["shuffle"].items():
            text.append(f"| {name} | {' | '.join(f'{numbers[n - 1]:.3f}' for n in at)} |")
        text += ["", "![test accuracy after each epoch](out-of-core.svg)"]
    return "\n".join([*text, ""])


def main():
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--only", type=lambda text: text.split(","))
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--others", type=int, default=2, help="rounds of sources without a target")
    options.add_argument("--gb", type=float, default=4.0, help="size of the file of the memory")
    options.add_argument("--out", type=Path, help="by default ci/results, for a whole run")
    options.add_argument("--part", type=json.loads, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.part:
        name, *given = args.part
        made = {"speed": speed, "memory": memory, "shuffle": shuffle}[name](*given, args.folder)
        return print(json.dumps(made))
    chosen = args.only or ["speed", "memory", "shuffle"]
    args.threads, found = [1], {}
    given = about(args)
    if "speed" in chosen:
        found["speed"] = {
            b: in_a_process("speed", b, args.rounds, args.others) for b in (128, 1024)
        }
    if "memory" in chosen:
        found["memory"] = in_a_process("memory", args.gb)
    if "shuffle" in chosen:
        found["shuffle"] = in_a_process("shuffle")
    text = table(found, given)
    print(text)
    out = args.out or (None if args.only else HERE / "results")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "out-of-core.md").write_text(text)
        if "shuffle" in found:
            draw_picture(found["shuffle"], out / "out-of-core.svg")


if __name__ == "__main__":
    main()
