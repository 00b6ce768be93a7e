"""For those with more data than memory: training from files that are read in parts.

Run it with ``python examples/tutorials/more_data_than_memory.py``, after
``pip install ".[sklearn,plot]"``. It writes 170 MB into a temporary folder, and removes them at the
end. Editors that know cells (``# %%``) run it cell by cell.
"""

# %% [markdown]
# # More data than memory
#
# The data of a small network may be large. `Trainer.fit` and the estimators take data that are
# never in memory as a whole:
#
# | data | what you give as `X` (and `y`) |
# |---|---|
# | NumPy files | `numpy.load(path, mmap_mode="r")`, a memory map |
# | HDF5, Zarr | a dataset of h5py, an array of Zarr |
# | dask | the array as it is, computed chunk by chunk |
# | Parquet, Arrow | `X, y = portnet.data.parquet("data/*.parquet", target="price")` |
# | anything else | an object with `shape`, `dtype` and row slices `X[a:b]` |
# | batches that come from somewhere | a generator: `fit_batches`, or `partial_fit` in a loop |
#
# The files here are small, so that the page is quickly made. A function measures the most memory
# that NumPy holds at a time, beyond what was there before.

# %%
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

import portnet


def peak(call):
    """Return what a call returns; print the most memory that it held at a time."""
    tracemalloc.start()
    result = call()
    print(f"{tracemalloc.get_traced_memory()[1] / 1e6:.1f} MB at most")
    tracemalloc.stop()
    return result


# %% [markdown]
# ## The files
#
# Write the file chunk by chunk, too. Here each chunk is drawn; yours would come from a database or
# from CSV files.

# %%
folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
path = Path(folder.name)
rows, columns, size = 1_200_000, 32, 50_000
draw = np.random.default_rng(0)
rule = draw.standard_normal((columns, 4)) / np.sqrt(columns)

X = np.lib.format.open_memmap(path / "X.npy", "w+", np.float32, (rows, columns))
y = np.lib.format.open_memmap(path / "y.npy", "w+", np.int8, (rows,))
for start in range(0, rows, size):
    x = draw.standard_normal((size, columns), dtype=np.float32)
    X[start : start + size] = 5 + 3 * x  # not scaled
    y[start : start + size] = np.argmax(np.tanh(3 * x @ rule), axis=1)  # four classes
X.flush()
y.flush()

X = np.load(path / "X.npy", mmap_mode="r")
y = np.load(path / "y.npy", mmap_mode="r")
print(f"X has {X.nbytes / 1e6:.1f} MB, y {y.nbytes / 1e6:.1f} MB")

# %% [markdown]
# ## A source of your own: scaled data without a second file
#
# Networks want inputs of about 1. scikit-learn's scaler has a `partial_fit`, so it reads the file
# once in chunks. What is scaled need not be stored: an object that scales the rows that are asked
# for is a source as good as a file. The last chunk is kept for a test.

# %%
chunks = [slice(start, start + size) for start in range(0, rows, size)]
*training, last = chunks


def fit_scaler():
    scaler = StandardScaler()
    for chunk in training:
        scaler.partial_fit(X[chunk])
    return scaler


class Scaled:
    """Rows of an array, scaled when they are read."""

    def __init__(self, rows, scaler):
        self.rows, self.scaler = rows, scaler
        self.shape, self.dtype = rows.shape, np.dtype(np.float32)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, part):
        return self.scaler.transform(self.rows[part])


scaler = peak(fit_scaler)
scaled, labels = Scaled(X[: last.start], scaler), y[: last.start]
X_test, y_test = scaler.transform(X[last]), y[last]

# %% [markdown]
# ## Training
#
# `fit` is called as ever. A thread reads the next rows while the network is trained on those
# before; two buffers of 32 MB hold them, whatever the size of the file. Only for files in large
# chunks do they grow, to about 128 MB, so that each holds rows of 16 chunks. A fraction for
# validation, metrics, early stopping, weights, checkpoints and `run.fit` work as with arrays.

# %%
model = portnet.mlp([columns, 32, 4])
trainer = portnet.Trainer(model, "softmax_cross_entropy", "adam", batch_size=512)
run = peak(lambda: trainer.fit(scaled, labels, epochs=2, validation=0.05, metrics=["accuracy"]))
print(f"test accuracy {run.score(X_test, y_test):.3f}")

# %% [markdown]
# **The order of the rows.** A disk reads rows that lie together much faster than single ones. So an
# epoch takes *blocks* of rows in a new order, and mixes the rows of many blocks in memory: at least
# 16, and 128 of a file like this one. The order is a function of the seed and the epoch, so that a
# fit that was interrupted goes on exactly where it was. That is as good as mixing all rows, also
# where the file is sorted by class: `ci/results/out-of-core.md` has the measurements.
# `Trainer(..., shuffle="full")` mixes all rows of a NumPy file; in a large one it reads each by
# itself, which takes about a microsecond a row. `shuffle=False` reads from the front to the back.
#
# **Errors name the place.** NaN in a late part of the file, a chunk that is damaged, a file that
# becomes shorter, a class that was not there before: each is a `DataError` with the row numbers.

# %%
broken = np.lib.format.open_memmap(path / "broken.npy", "w+", np.float32, (700_000, columns))
broken[654_321, 7] = np.nan
try:
    trainer.fit(broken, labels[:700_000], epochs=1)
except portnet.DataError as error:
    print(error)
del broken

# %% [markdown]
# Predictions and scores go through the file in parts, too:

# %%
classes = peak(lambda: run.predict_class(scaled))
print(f"accuracy on {len(classes):,} rows: {(classes == labels).mean():.3f}")

# %% [markdown]
# ## Estimators
#
# The same with `MLPClassifier`, and solvers `adam` and `sgd`. y is read as a whole there.

# %%
net = portnet.MLPClassifier(hidden_layer_sizes=(32,), batch_size=512, random_state=0)
net.set_params(early_stopping=True, n_iter_no_change=1, tol=0.1)
peak(lambda: net.fit(scaled, labels))
print(f"test accuracy {net.score(X_test, y_test):.3f}")

# %% [markdown]
# ## Batches that come from somewhere
#
# Where there are no row slices, as in a stream, make the batches yourself. `fit_batches` makes a
# step of each. Rows are in the order in which they come.

# %%


def batches():
    for start in range(0, 200_000, 256):
        part = slice(start, start + 256)
        yield scaler.transform(X[part]), y[part]


stream = peak(lambda: trainer.fit_batches(batches, epochs=2))
print(f"test accuracy {stream.score(X_test, y_test):.3f}")
ax = portnet.plots.curves({"from the file": run.history["loss"], "batches": stream.history["loss"]})
ax.figure.savefig("loss.png", dpi=120)

# %% [markdown]
# scikit-learn's way is a loop over chunks with `partial_fit`: each call goes once through its
# chunk, in batches, and keeps the state of Adam for the next one.

# %%


def fit_in_chunks():
    net = portnet.MLPClassifier(hidden_layer_sizes=(32,), batch_size=512, random_state=0)
    for chunk in training[:8]:
        net.partial_fit(scaler.transform(X[chunk]), y[chunk], classes=np.arange(4))
    return net


net = peak(fit_in_chunks)
print(f"test accuracy {net.score(X_test, y_test):.3f}")

# %% [markdown]
# ## What to look out for
#
# - **Slow sources.** Parquet and compressed HDF5 must be decoded in each epoch. For many epochs
#   write them to a NumPy file once: `X = portnet.data.to_npy(X, "X.npy", dtype="float32")`.
# - **Chunks.** Blocks are whole chunks of HDF5, Zarr, dask and Parquet files. Many chunks of about
#   1 MB are better than a few large ones: more of them are in memory at a time. A group of rows of
#   a Parquet file that has more than 4 MB (pyarrow writes a million rows, if it is not told
#   `row_group_size`) is decoded a column at a time, and again for each window that needs rows of
#   it: memory stays small, but an epoch takes several times as long.
# - **Limits of memory.** pyarrow reserves up to 1 GB of addresses at once, most of which it never
#   uses. Where these count, under `ulimit -d` or `-v`, set `ARROW_DEFAULT_MEMORY_POOL=system`.
# - **GPUs.** After `portnet.set_backend("cupy")` the rows are read in the same way, and a window at
#   a time is copied to the GPU, from memory that is pinned.
# - **All rows in each step**, as with L-BFGS or `batch_size=None`: memory maps only.
#
# At the end, remove the files.

# %%
X = y = labels = scaled = None  # Windows removes no files that are mapped
folder.cleanup()
