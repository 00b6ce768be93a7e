"""For users of GPUs: set_backend, arrays that stay on their device, graphs, TF32, and waiting.

Run it with ``python examples/tutorials/gpu_users.py``, after ``pip install ".[cuda13,plot]"``
or ``".[cuda12,plot]"``. Where CuPy finds no GPU, it says so and runs on NumPy. Editors that know
cells (``# %%``) run it cell by cell.
"""

# %% [markdown]
# # Training on a GPU
#
# One line chooses where new arrays are created: `portnet.set_backend("cupy")`. The rest of a
# program stays as it is. If CuPy, its libraries or a GPU are missing, this line is an error that
# says which; nothing falls back silently. This page must run anywhere, so it catches that error,
# says so, and goes on with NumPy.

# %%
import textwrap
import time

import numpy as np

import portnet

try:
    portnet.set_backend("cupy")
    backend = "cupy"
except portnet.BackendUnavailableError as error:
    print("No GPU here, so what follows runs on NumPy:")
    print(textwrap.fill(str(error), 96))
    backend = "numpy"
portnet.set_backend(backend)
print("new arrays:", portnet.get_backend(), portnet.get_backend().dtype)

# %% [markdown]
# `python -m portnet` lists all backends, and why some cannot be used.
#
# ## Data from the host
#
# Give NumPy arrays to `fit`. They are copied to the GPU once, as float32, and stay there for all
# epochs. Results are returned where the data came from: NumPy in, NumPy out.

# %%
draw = np.random.default_rng(0)
X = draw.standard_normal((20_000, 64))
y = np.argmax(X @ draw.standard_normal((64, 8)), axis=1)

net = portnet.mlp([64, 128, 8])
trainer = portnet.Trainer(net, "softmax_cross_entropy", portnet.Adam(0.002), batch_size=1000)
run = trainer.fit(X, y, epochs=5)
print(run)
ax = run.plot()
ax.figure.savefig("loss.png", dpi=120)
print("the parameters:", type(run.params[0]["W"]))
print("predictions of NumPy data:", type(run.predict_proba(X[:5])))

# %% [markdown]
# ## Arrays that stay on their device
#
# Arrays that are already on a GPU are not copied, and the results are there, too. The same holds
# for torch, JAX and dpnp arrays, whatever the backend is: training runs in the library of the
# arrays.

# %%
X_device = portnet.asarray(X)  # on the backend
print("X:", type(X_device))
print("predictions of it:", type(run.predict_proba(X_device[:5, :])))

# %% [markdown]
# `portnet.to_numpy` copies an array to the host. `run.to` moves a whole run, so that a network that
# was trained on a GPU can be used where there is none; `run.save(path)` and `portnet.load(path)`
# do so through a file.

# %%
on_host = run.to("numpy")
print(type(on_host.params[0]["W"]), f"accuracy {on_host.score(X, y):.3f}")

# %% [markdown]
# Code of your own takes the library from its arguments, so that it runs everywhere:

# %%


def norm(x):
    xp = portnet.namespace(x)  # numpy, cupy, torch, ...
    return xp.sqrt(xp.sum(x * x))


print([round(float(norm(p["W"])), 3) for p in run.params if p])

# %% [markdown]
# ## The same numbers
#
# Initial weights, batches and dropout masks depend on the seed only, not on the library. In float64
# the parameters after some steps agree with NumPy's up to rounding. `use_backend` chooses a backend
# for a block of code. Here NumPy is compared with CuPy and torch, as far as they work where this
# page is made.

# %%


def weights(name):
    with portnet.use_backend(name, dtype="float64"):
        return portnet.to_numpy(trainer.fit(X, y, epochs=1).params[0]["W"])


usable = {status.name for status in portnet.backends() if status.usable}
for name in sorted(usable & {"cupy", "torch"}):
    difference = np.abs(weights(name) - weights("numpy")).max()
    print(f"NumPy and {name}: largest difference of a weight {difference:.0e}")

# %% [markdown]
# ## What a step is made of
#
# A GPU takes about a microsecond to start a kernel, however small its arrays are, and Python takes
# longer than that to ask for it. So `fit` records a whole training step as one **CUDA graph**, with
# kernels made for this network, and starts it with one call. On NumPy, the step is a plan that is
# replayed in memory that is used again. `trainer.explain` prints which it is and what it is made
# of; where graphs cannot be used, it says why.

# %%
trainer.explain(X, y)

# %% [markdown]
# `Trainer(..., compile=False)` makes each step eagerly, operation by operation. The results are the
# same up to the order of sums.

# %%
eager = portnet.Trainer(
    net, "softmax_cross_entropy", portnet.Adam(0.002), batch_size=1000, compile=False
)
difference = eager.fit(X, y, epochs=5).history["loss"][-1] - run.history["loss"][-1]
print(f"difference of the losses: {abs(difference):.0e}")

# %% [markdown]
# ## TF32
#
# Products of matrices are IEEE float32. With `matmul_precision="tf32"` the tensor cores of a GPU
# (Ampere or later) round the factors to 11 bits, and multiply several times as fast. This holds for
# training steps that are graphs; predictions stay IEEE. It exists on CuPy only, and elsewhere it is
# an error.

# %%
try:
    with portnet.use_backend(backend, matmul_precision="tf32"):
        rounded = trainer.fit(X, y, epochs=5)
    print(f"loss with TF32 {rounded.history['loss'][-1]:.5f}, IEEE {run.history['loss'][-1]:.5f}")
except ValueError as error:
    print(error)

# %% [markdown]
# ## What waits for the GPU
#
# Calls on a GPU return before their work is done. The host waits, and the GPU may run idle,
# whenever a number goes from the device to the host. `fit` waits at its start, to check the data.
# Then it waits once in each epoch, for the loss, and once more if there is validation data. L-BFGS
# waits in each evaluation of the loss.
#
# In code of your own, these wait: `float(value)`, `bool(value)` and `print(array)`; `to_numpy`,
# `run.to("numpy")` and predictions of NumPy data. Predictions of arrays on the device stay there;
# the host waits once, to know whether the inputs are finite.
#
# Here is a loop of your own. The losses are added up where they are, and read once.
# `portnet.compile` makes steps faster on NumPy and JAX. On CuPy they run eagerly in such a loop:
# only `fit` and the estimators make graphs.

# %%
adam = portnet.Adam(0.002)
loss = portnet.SoftmaxCrossEntropy()
step = portnet.compile(portnet.make_step(net, loss, adam), donate=(0, 1))
params = portnet.init(net, seed=0)
state = adam.init(params)
X_device, y_device = portnet.asarray(X), portnet.asarray(y)
total = 0.0
for start in range(0, 20_000, 1000):
    batch = slice(start, start + 1000)
    params, state, value = step(params, state, X_device[batch, :], y_device[batch])
    total = total + value  # on the device: nothing waits
print(f"mean loss {float(total) / 20:.4f}")  # one wait

# %% [markdown]
# ## When is it worth it?
#
# Large products are faster on a GPU, small networks with small batches on a CPU. Measure with your
# sizes. The first fit includes compiling, so time the second one.

# %%
for hidden, batch in ((16, 32), (256, 4000)):
    wide = portnet.mlp([64, hidden, 8])
    timed = portnet.Trainer(wide, "softmax_cross_entropy", "adam", batch_size=batch)
    timed.fit(X, y, epochs=1)
    began = time.perf_counter()
    timed.fit(X, y, epochs=2)
    seconds = time.perf_counter() - began
    print(
        f"{backend}, 64-{hidden}-8, batches of {batch}: {2 * len(X) / seconds:,.0f} rows a second"
    )

# %% [markdown]
# ## Where to go on
#
# - `examples/guide/devices.md` lists what each backend needs, and the kernels of a step.
# - `examples/blobs.py --backend cupy --hidden 1024 1024 --batch 8192` measures a larger network.
# - [More data than memory](more_data_than_memory.html) shows how to train in chunks, which also
#   serves where the data do not fit on the GPU.
