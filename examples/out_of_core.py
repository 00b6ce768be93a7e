"""Training from a file that is never in memory as a whole, and whose rows are sorted by class.

The file is written and read in parts. `Trainer.fit` takes blocks of its rows in a new order in each
epoch, and mixes rows in memory; beside it, the order of the file.
"""

import tempfile
import tracemalloc
import warnings
from pathlib import Path

import common
import numpy as np

import portnet
from portnet import plots

COLUMNS, CLASSES = 48, 6


def write(folder, rows):
    """Write X and y, a class after the other, and return memory maps of the files."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((4 * CLASSES, COLUMNS))
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (rows, COLUMNS))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int8, (rows,))
    for start in range(0, rows, 20_000):
        part = slice(start, start + 20_000)
        y[part] = np.arange(rows)[part] * CLASSES // rows
        kinds = y[part] + CLASSES * draw.integers(0, 4, len(y[part]))
        X[part] = 0.6 * centres[kinds] + draw.standard_normal((len(kinds), COLUMNS))
    X.flush()
    y.flush()
    return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in "Xy"]


def main():
    options = common.parser(__doc__)
    options.add_argument("--rows", type=common.at_least(1000), default=1_200_000)
    options.add_argument("--epochs", type=common.at_least(1), default=4)
    args = common.begin(options, dtype="float32")
    net, accuracies = portnet.mlp([COLUMNS, 32, CLASSES]), {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        X, y = write(Path(name), args.rows)
        print(f"X: {X.shape[0]:,} x {X.shape[1]}, {X.nbytes / 1e6:.0f} MB in a file")
        for shuffle, how in ((True, "blocks, mixed in memory"), (False, "in the file's order")):
            trainer = portnet.Trainer(
                net, "softmax_cross_entropy", "adam", batch_size=256, shuffle=shuffle
            )
            tracemalloc.start()
            with warnings.catch_warnings(action="ignore"):  # that the rows are sorted
                run, seconds = common.timed(
                    trainer.fit, X, y, epochs=args.epochs, validation=0.1, metrics=["accuracy"]
                )
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            accuracies[how] = run.history["validation_accuracy"]
            print(f"{how}: accuracy {accuracies[how][-1]:.3f}, {seconds:.1f} s")
            print(f"   the most that NumPy held: {most / 1e6:.0f} MB")
        classes = trainer.fit(X, y, epochs=0).predict_class(X)  # predictions are in parts, too
        print(f"{len(classes):,} predictions")
        del X, y  # Windows removes no files that are mapped
    common.picture(
        args.out / "out_of_core.png",
        lambda ax: plots.curves(accuracies, ylabel="validation accuracy", ax=ax),
    )


if __name__ == "__main__":
    main()
