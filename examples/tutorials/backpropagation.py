"""For students: five small networks, from one neuron to noisy pictures, each with its mathematics.

Run it with ``python examples/tutorials/backpropagation.py``: it prints its results and writes PNG
files into the current folder. Editors that know cells (``# %%``) run it cell by cell.
"""

# %% [markdown]
# # Backpropagation, from one neuron to noisy pictures
#
# Five written exercises, each a little harder than the one before. For each: the network, its
# mathematics, the training, and a picture. The numbers are those that the exercises print. The
# scripts in `examples/` repeat each exercise with options, and time it.
#
# You need Python and a little calculus: the chain rule is enough. Each row of an array is a sample,
# so that a layer computes $z = x W + b$ for all samples at once.

# %%
from dataclasses import dataclass

import numpy as np

import portnet
from portnet import plots

portnet.set_backend("numpy", dtype="float64")

# %% [markdown]
# ## 1. One neuron
#
# The smallest network: two inputs, one output. It learns to repeat its second input.

# %%
X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
y = np.array([[0.0], [1.0], [1.0], [0.0]])

# %% [markdown]
# The neuron computes a weighted sum, and squashes it to a number between 0 and 1:
#
# $$z = x W + b, \qquad a = \sigma(z) = \frac{1}{1 + e^{-z}}$$
#
# The loss says how far $a$ is from the target $y$. Here it is half the sum of the squares:
#
# $$L = \frac{1}{2} \sum (a - y)^2$$
#
# To make the loss smaller, we need its derivative with respect to each weight. The chain rule goes
# from the loss back to the weights, factor by factor. We write $\delta$ for the derivative with
# respect to $z$:
#
# $$\delta = \frac{\partial L}{\partial z} = (a - y) \, \sigma'(z), \qquad
# \sigma'(z) = a (1 - a)$$
#
# $$\frac{\partial L}{\partial W} = x^{T} \delta, \qquad
# \frac{\partial L}{\partial b} = \sum \delta$$
#
# Gradient descent takes a small step downhill, with the learning rate $\eta$:
#
# $$W \leftarrow W - \eta \frac{\partial L}{\partial W}, \qquad
# b \leftarrow b - \eta \frac{\partial L}{\partial b}$$
#
# `portnet.explain_step` makes one such step and shows every quantity in the order in which it is
# computed. `dz1` is $\delta$, `dW1` is the gradient of $W$, and `uW1` the update.

# %%
neuron = portnet.Chain([portnet.Dense(1), portnet.Sigmoid()])
start = ({"W": np.array([[0.1], [0.2]]), "b": np.array([[0.3]])}, ())
loss = portnet.SquaredError(reduction="sum")  # half the sum of the squares
print(portnet.explain_step(neuron, loss, portnet.SGD(0.05), start, X, y))

# %% [markdown]
# Now 10,000 such steps. The written exercise has a mistake: it takes the derivative of the sigmoid
# at $a$ instead of at $z$. In portnet a layer has `forward` and `backward`, so a layer with this
# mistake is short to write. We train both.

# %%


@dataclass(frozen=True)
class ExerciseSigmoid(portnet.Sigmoid):
    """A sigmoid whose backward takes s'(a) for s'(z)."""

    def backward(self, params, cache, dy):
        """dx = dy s(a) (1 - s(a)), which is wrong."""
        s, _ = self.forward((), cache)
        return (), dy * s * (1 - s)


def train(sigmoid):
    net = portnet.Chain([portnet.Dense(1), sigmoid])
    trainer = portnet.Trainer(net, loss, portnet.SGD(0.05), batch_size=None, params=start)
    return trainer.fit(X, y, epochs=10_000)


right, exercise = train(portnet.Sigmoid()), train(ExerciseSigmoid())
for name, run in {"exercise": exercise, "right derivative": right}.items():
    weights = run.params[0]
    print(f"{name:<17}", weights["W"].ravel(), weights["b"].ravel(), run.predict([[0, 1]])[0])

ax = plots.compare({"right derivative": right, "exercise": exercise}, log=True)
ax.set_title("One neuron: the loss")
ax.figure.savefig("one_neuron.png", dpi=120)

# %% [markdown]
# The first line has the numbers of the exercise. It still learns, because the wrong derivative is
# positive, as the right one is: the steps go downhill, but have other lengths. Here they become
# longer, and the loss even falls faster, so the loss does not reveal the mistake. A numerical check
# does: change $z$ a little, look how much $a$ changes, and compare.

# %%
try:
    portnet.check_layer(ExerciseSigmoid())
except portnet.GradientError as error:
    print(*str(error).split(". "), sep="\n")
portnet.check_layer(portnet.Sigmoid())  # the right one passes

# %% [markdown]
# ## 2. XOR: a hidden layer
#
# One neuron draws one straight line. The output of XOR is 1 where exactly one input is 1, and no
# line separates these cases. Two hidden neurons are enough:
#
# $$z_1 = x W_1 + b_1, \quad a_1 = \sigma(z_1), \quad z_2 = a_1 W_2 + b_2, \quad a_2 = \sigma(z_2)$$
#
# **Backpropagation** is the chain rule, layer by layer from the end. What a layer needs is the
# $\delta$ of the layer after it:
#
# $$\delta_2 = (a_2 - y) \odot a_2 (1 - a_2), \qquad
# \delta_1 = (\delta_2 W_2^{T}) \odot a_1 (1 - a_1)$$
#
# $$\frac{\partial L}{\partial W_2} = a_1^{T} \delta_2, \qquad
# \frac{\partial L}{\partial W_1} = x^{T} \delta_1$$
#
# The sign $\odot$ multiplies element by element. Compare with the step: `dz2` is $\delta_2$ and
# `dz1` is $\delta_1$.

# %%
X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
y = np.array([[0.0], [1.0], [1.0], [0.0]])
draw = np.random.RandomState(42)
W1, b1, W2, b2 = draw.rand(2, 2), draw.rand(2, 1), draw.rand(1, 2), draw.rand(1, 1)
start = ({"W": W1.T, "b": b1.T}, (), {"W": W2.T, "b": b2.T}, ())
net = portnet.Chain([portnet.Dense(2), portnet.Sigmoid(), portnet.Dense(1), portnet.Sigmoid()])

step = portnet.explain_step(net, loss, portnet.SGD(0.1), start, X, y)
for quantity in step:
    if quantity.part == "backward":
        print(f"{quantity.name:<4} {quantity.shape}  {quantity.formula}")

# %% [markdown]
# The same by hand, in NumPy:

# %%
a1, a2 = step["a1"], step["a2"]
delta2 = (a2 - y) * a2 * (1 - a2)
delta1 = (delta2 @ start[2]["W"].T) * a1 * (1 - a1)
print(np.abs(X.T @ delta1 - step["dW1"]).max(), np.abs(a1.T @ delta2 - step["dW2"]).max())

# %% [markdown]
# The exercise goes through the samples one at a time (*stochastic* gradient descent), and asks
# whether it converges faster than with all four in each step (*batch* gradient descent).

# %%


def train(batch_size):
    trainer = portnet.Trainer(
        net, "squared_error", portnet.SGD(0.1), batch_size, shuffle=False, params=start
    )
    return trainer.fit(X, y, epochs=10_000)


runs = {"stochastic": train(1), "batch": train(None)}
for epoch in range(0, 10_000, 3000):  # the exercise prints the square, portnet's loss is half of it
    print(f"Epoch {epoch + 1}, loss {2 * runs['stochastic'].history['loss'][epoch]:.6f}")
print(runs["stochastic"].predict(X).ravel())
print(runs["batch"].predict(X).ravel())

ax = plots.compare(runs, log=True)
ax.set_title("XOR: the loss")
ax.figure.savefig("xor_loss.png", dpi=120)

# %% [markdown]
# Stochastic gradient descent is faster here: it makes four steps in an epoch, where batch gradient
# descent makes one. What has it learned? A column below is a hidden neuron, a row one of the four
# inputs. The first neuron is large for (1, 1) only, like AND. The second is large for all inputs
# but (0, 0), like OR. The output is large for OR without AND. Red weights are positive, blue ones
# negative, and the colour of a circle is its bias.

# %%
run = runs["stochastic"]
print(portnet.explain_step(net, "squared_error", portnet.SGD(0.1), run.params, X, y)["a1"].round(2))
ax = plots.network(run)
ax.figure.savefig("xor_network.png", dpi=120)
ax = plots.decision_boundary(lambda points: run.predict(points)[:, 0], X, y, title="XOR, 2-2-1")
ax.figure.savefig("xor_output.png", dpi=120)

# %% [markdown]
# ## 3. Two blobs: cross-entropy
#
# Now 200 points of two classes, and a deeper network, 2-8-4-1. For classes a better loss than the
# square is the cross-entropy, which is large where the network is sure and wrong:
#
# $$l = -y \log a - (1 - y) \log(1 - a)$$
#
# With a sigmoid before it, the derivative of the sigmoid cancels, and at the last layer only the
# error is left:
#
# $$\delta_3 = a - y$$
#
# So learning does not slow down where the sigmoid is flat. In portnet the loss
# `SigmoidCrossEntropy` has the last sigmoid in it, which also keeps rounding errors small.

# %%
draw = np.random.default_rng(0)
X = np.vstack([draw.normal([-1, -1], 0.5, (100, 2)), draw.normal([1, 1], 0.5, (100, 2))])
y = np.repeat([[0.0], [1.0]], 100, axis=0)
start = []
for n_in, n_out in ((2, 8), (8, 4), (4, 1)):
    start += [{"W": draw.normal(0, 1, (n_in, n_out)) * 0.3, "b": np.zeros((1, n_out))}, ()]
net = portnet.mlp([2, 8, 4, 1], activation="sigmoid")

# The gradient of the exercise is a sum over the points; the loss that it prints is their mean.
loss = portnet.SigmoidCrossEntropy(reduction="sum")
trainer = portnet.Trainer(net, loss, portnet.SGD(0.1), batch_size=None, params=tuple(start[:-1]))
run = trainer.fit(X, y, epochs=2000)
for epoch in range(400, 2001, 400):
    print(f"Epoch {epoch}, Loss {run.history['loss'][epoch - 1] / len(X):.4f}")
print(f"Accuracy {run.score(X, y):.3f}")

ax = plots.decision_boundary(run, X, y, title="Two blobs, 2-8-4-1")
ax.figure.savefig("two_blobs.png", dpi=120)

# %% [markdown]
# ## 4. Patterns of 2 x 2 cells: ReLU and softmax
#
# A picture of 2 x 2 black and white cells is solid, vertical, horizontal or diagonal. With more
# than two classes, the network has an output for each. **Softmax** turns them into probabilities:
#
# $$p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \qquad l = -\log p_{y}$$
#
# The loss looks at the probability of the right class $y$ only. Large $z$ would overflow, so one
# subtracts the largest $z$ first; it cancels in the fraction. Again the gradient is an error,
# probability minus 1 for the right class and minus 0 for the others:
#
# $$\delta_2 = p - [k = y]$$
#
# The hidden layer is a **ReLU**, $a = \max(z, 0)$, whose derivative is 1 where $z > 0$ and else 0.

# %%
names = ("solid", "vertical", "horizontal", "diagonal")
codes = "1111 0000 1010 0101 1100 0011 1001 0110".split()
X = np.array([[float(cell) for cell in code] for code in codes])
y = np.repeat(np.arange(4), 2)

draw = np.random.RandomState(42)
W1, W2 = draw.randn(8, 4).T * 0.01, draw.randn(4, 8).T * 0.01  # small, as in the exercise
start = ({"W": W1, "b": np.zeros((1, 8))}, (), {"W": W2, "b": np.zeros((1, 4))})
net = portnet.mlp([4, 8, 4], activation="relu")
trainer = portnet.Trainer(
    net, "softmax_cross_entropy", portnet.SGD(0.1), batch_size=None, params=start
)

step = portnet.explain_step(net, "softmax_cross_entropy", portnet.SGD(0.1), start, X, y)
print("the first gradient of the outputs, for a solid picture:", step["dz2"][0] * len(X))
run = trainer.fit(X, y, epochs=10_000)
print(f"loss {run.history['loss'][-1]:.4f}, accuracy {run.score(X, y):.3f}")

# %% [markdown]
# At first all probabilities are about 1/4, so the gradient is -3/4 for the right class and 1/4 for
# each other. (Divided by 8 it is in the step, because the loss is a mean over the pictures.) After
# training all eight are right. The other eight pictures, with one black cell or three, have no
# label: what the network says of them is a guess, even where its probability is high. The picture
# marks guesses with a question mark.

# %%
every = np.array([[float(cell) for cell in f"{n:04b}"] for n in range(16)])
proba = run.predict_proba(every)
captions = []
for cells, p in zip(every, proba, strict=True):
    known = (cells == X).all(axis=1).any()
    captions.append(f"{names[p.argmax()]}{'' if known else '?'} {p.max():.2f}")
ax = plots.images(list(every.reshape(-1, 2, 2)), captions, columns=4, title="All sixteen pictures")
ax.figure.savefig("patterns.png", dpi=120)

# %% [markdown]
# ## 5. The Pattern Weaver: noise, and pictures that it has not seen
#
# The last exercise is a function that learns two patterns with one hidden layer, 25-4-1. We give it
# pluses and crosses of 5 x 5 cells, and flip one cell in five. The loss is the mean cross-entropy:
#
# $$L = \frac{1}{n} \sum_i l_i, \qquad \delta_2 = \frac{a_2 - y}{n}, \qquad
# \delta_1 = (\delta_2 W_2^{T}) \odot a_1 (1 - a_1)$$
#
# What matters is no longer the loss on the training pictures, but on others. So we draw a second
# set, and look at it while the network trains.

# %%
plus = np.array([[0, 0, 1, 0, 0]] * 2 + [[1, 1, 1, 1, 1]] + [[0, 0, 1, 0, 0]] * 2)
cross = np.eye(5, dtype=int) | np.eye(5, dtype=int)[::-1]


def patterns(seed, rows=400):
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 2, rows)
    X = np.stack([plus.ravel(), cross.ravel()])[y]
    return np.where(draw.random(X.shape) < 0.2, 1 - X, X).astype(float), y


X, y = patterns(0)
X_new, y_new = patterns(1)
draw = np.random.RandomState(42)
W1, W2 = draw.randn(25, 4) * 0.5, draw.randn(4, 1) * 0.5
start = ({"W": W1, "b": np.zeros((1, 4))}, (), {"W": W2, "b": np.zeros((1, 1))})
net = portnet.mlp([25, 4, 1], activation="sigmoid")
trainer = portnet.Trainer(
    net, "sigmoid_cross_entropy", portnet.SGD(0.1), batch_size=None, params=start
)
run = trainer.fit(X, y, epochs=1000, validation=(X_new, y_new))
print(f"accuracy {run.score(X, y):.3f}, on new pictures {run.score(X_new, y_new):.3f}")

ax = run.plot()
ax.figure.savefig("weaver_loss.png", dpi=120)
proba = run.predict(X_new[:10])
captions = [("plus" if p < 0.5 else "cross") + f" {p:.2f}" for p in proba]
pictures = list(X_new[:10].reshape(-1, 5, 5))
title = "New pictures, with the probability of a cross"
ax = plots.images(pictures, captions, columns=5, title=title)
ax.figure.savefig("weaver.png", dpi=120)

# %% [markdown]
# ## Where to go on
#
# - `examples/backprop_by_hand.py` computes the step of section 2 with plain Python floats.
# - `portnet/layers.py`, `losses.py`, `optimizers.py` and `training.py` have the equations of this
#   page as code, a few lines each. They are meant to be read.
# - `portnet.check_gradients(net, loss, X, y)` checks a whole network, also with layers of your own.
# - `print(run.diagnose(X, y))` says what may be wrong with a run.
