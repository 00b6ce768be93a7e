"""For those with more data than memory: training from files, by memory-mapped arrays.

Run it with ``python examples/tutorials/more_data_than_memory.py``, after
``pip install ".[sklearn,plot]"``. It writes 160 MB into a temporary folder, and removes them at the
end. Editors that know cells (``# %%``) run it cell by cell.
"""

# %% [markdown]
# # More data than memory
#
# The data of a small network may be large. This page trains on NumPy files that are never loaded as
# a whole. `numpy.load(path, mmap_mode="r")` returns an array whose rows are read from the disk when
# they are used; the system frees their memory when it needs it.
#
# There are two ways, and both work today:
#
# | | memory that it needs | what you write |
# |---|---|---|
# | in chunks: `partial_fit`, or `run.fit` | a few times that of a chunk | a loop |
# | `Trainer.fit` with the mapped array | a quarter of `X` in float32, and `y` | as usual |
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
# Write the file chunk by chunk, too. The dtype matters: **float32**, the default of portnet.
# Another one is converted when `Trainer` takes the array, and that is a copy in memory of all of
# it.
#
# Here each chunk is drawn; yours would come from a database or from CSV files.

# %%
folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
path = Path(folder.name)
rows, columns, size = 600_000, 32, 50_000
draw = np.random.default_rng(0)
rule = draw.standard_normal((columns, 4)) / np.sqrt(columns)

X = np.lib.format.open_memmap(path / "X.npy", "w+", np.float32, (rows, columns))
y = np.lib.format.open_memmap(path / "y.npy", "w+", np.int64, (rows,))
for start in range(0, rows, size):
    x = draw.standard_normal((size, columns))
    X[start : start + size] = 5 + 3 * x  # not scaled
    y[start : start + size] = np.argmax(np.tanh(3 * x @ rule), axis=1)  # four classes
X.flush()
y.flush()

X = np.load(path / "X.npy", mmap_mode="r")
y = np.load(path / "y.npy", mmap_mode="r")
print(f"X has {X.nbytes / 1e6:.1f} MB, y {y.nbytes / 1e6:.1f} MB")

# %% [markdown]
# ## In chunks, with partial_fit
#
# This is scikit-learn's way. The scaler has a `partial_fit` as well, so it reads the file once in
# chunks. The last chunk is kept for a test. Each call of `partial_fit` goes once through its chunk,
# in batches, and keeps the state of Adam for the next call.

# %%
chunks = [slice(start, start + size) for start in range(0, rows, size)]
*training, last = chunks


def fit_scaler():
    scaler = StandardScaler()
    for chunk in training:
        scaler.partial_fit(X[chunk])
    return scaler


def fit_in_chunks(epochs):
    net = portnet.MLPClassifier(hidden_layer_sizes=(64,), batch_size=256, random_state=0)
    for _ in range(epochs):
        for chunk in training:
            scaled = scaler.transform(X[chunk])
            net.partial_fit(scaled, y[chunk], classes=np.arange(4))
    return net


scaler = peak(fit_scaler)
net = peak(lambda: fit_in_chunks(epochs=2))
X_test, y_test = scaler.transform(X[last]), y[last]
print(f"test accuracy {net.score(X_test, y_test):.3f}")

# %% [markdown]
# Rows are mixed within a chunk only. If the file is sorted, by class or by time, mix it once when
# you write it; else the network fits the last chunk best.
#
# ## In chunks, with Trainer
#
# A run continues on other rows with `run.fit`, so the same loop works with `Trainer`, with layers
# and losses of your own, and **on a GPU**: after `portnet.set_backend("cupy")`, each chunk is
# copied to the GPU when its turn comes.

# %%
model = portnet.mlp([columns, 64, 4])
trainer = portnet.Trainer(model, "softmax_cross_entropy", "adam", batch_size=256)


def train_in_chunks(epochs):
    run = None
    for _ in range(epochs):
        for chunk in training:
            scaled = scaler.transform(X[chunk])
            run = (run or trainer).fit(scaled, y[chunk], epochs=1)
    return run


run = peak(lambda: train_in_chunks(epochs=2))
print(f"test accuracy {run.score(X_test, y_test):.3f}")
ax = portnet.plots.curves({"loss": run.history["loss"]}, log=True, title="The loss of each chunk")
ax.set_xlabel("chunk")
ax.figure.savefig("loss.png", dpi=120)

# %% [markdown]
# ## The whole mapped array, with Trainer
#
# On NumPy, `Trainer.fit` takes the mapped array as it is. It looks once for NaN and infinity in the
# whole of `X`, and holds a byte for each number while it does: a quarter of a float32 `X`. Then it
# reads the rows of one batch after the other. On Linux, a fit of a file of 2 GB has been tried in a
# process that was limited to 1.2 GB: it trains, where loading the file is a MemoryError.
#
# The scaled data need a file of their own.

# %%
scaled = np.lib.format.open_memmap(path / "scaled.npy", "w+", np.float32, X.shape)
for chunk in chunks:
    scaled[chunk] = scaler.transform(X[chunk])
scaled.flush()
scaled = np.load(path / "scaled.npy", mmap_mode="r")

end = last.start
run = peak(lambda: trainer.fit(scaled[:end], y[:end], epochs=2))
print(f"a quarter of X: {scaled[:end].nbytes / 4e6:.1f} MB")
print(f"test accuracy {run.score(scaled[last], y[last]):.3f}")

# %% [markdown]
# The same with the data in memory gives the same numbers, bit for bit, and holds all of `X`:

# %%
other = peak(lambda: trainer.fit(np.array(scaled[:end]), np.array(y[:end]), epochs=2))
print(run.history["loss"] == other.history["loss"])

# %% [markdown]
# What it costs, and what to look out for:
#
# - **The order of the rows.** By default an epoch takes the rows in a new random order, from all
#   over the file. That is fast while the system can keep the file in memory that is free. Where it
#   cannot, each row is read from the disk again, a page of some 4 KB at least. Then write the rows
#   in random order once, and train in chunks, or with `Trainer(..., shuffle=False)`, which reads
#   from the front to the back.
# - **Validation.** `validation=0.1` draws rows, and copies both parts into memory. Give slices,
#   which are no copies: `validation=(X[end:], y[end:])`.
# - **Other dtypes.** A file of float64 is copied as a whole to float32. With
#   `portnet.set_backend("numpy", dtype="float64")` it is not, and one of float32 is.
# - **Other backends.** On CuPy, torch, JAX and dpnp the whole array is copied to the device, so it
#   must fit there. Take chunks.
# - **Predictions** are made in blocks of rows, but checked as a whole, like `X` of `fit`. In chunks
#   they need little:

# %%


def predict():
    return np.concatenate([run.predict_class(scaled[chunk]) for chunk in chunks])


classes = peak(predict)
print(f"accuracy on all {len(classes):,} rows: {(classes == y).mean():.3f}")

# %% [markdown]
# At the end, remove the files.

# %%
folder.cleanup()
