"""Plain NumPy loops of the five documents: the examples and the benchmarks are timed beside them.

They use NumPy only. Each computes what its document computes in each step, in that order, with its
losses, and is the reference of the tests. What a document prints is returned.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def pattern_recognition(X, y, hidden_size=4, lr=0.1, epochs=1000):
    """Document 000: sigmoid hidden layer, sigmoid output; return the predictions, 0 or 1."""

    def clipped_sigmoid(z):
        return 1 / (1 + np.exp(-np.clip(z, -500, 500)))

    draw = np.random.RandomState(42)
    W1, b1 = draw.randn(X.shape[1], hidden_size) * 0.5, np.zeros((1, hidden_size))
    W2, b2 = draw.randn(hidden_size, 1) * 0.5, np.zeros((1, 1))
    for _ in range(epochs):
        a1 = clipped_sigmoid(X @ W1 + b1)
        a2 = clipped_sigmoid(a1 @ W2 + b2)
        m = X.shape[0]
        dz2 = a2 - y.reshape(-1, 1)
        dW2, db2 = (a1.T @ dz2) / m, np.sum(dz2, axis=0, keepdims=True) / m
        dz1 = (dz2 @ W2.T) * a1 * (1 - a1)
        dW1, db1 = (X.T @ dz1) / m, np.sum(dz1, axis=0, keepdims=True) / m
        W2 -= lr * dW2
        b2 -= lr * db2
        W1 -= lr * dW1
        b1 -= lr * db1
    a1 = clipped_sigmoid(X @ W1 + b1)
    return (clipped_sigmoid(a1 @ W2 + b2) > 0.5).astype(int).flatten()


def two_blobs(X, y, params, lr=0.1, epochs=2000):
    """Document 001: three sigmoid layers; return the loss of each epoch and the last outputs."""
    (W1, b1), (W2, b2), (W3, b3) = [(W.copy(), b.copy()) for W, b in params]
    losses, eps = [], 1e-9

    def derivative(a):
        return a * (1 - a)

    for _ in range(epochs):
        a1 = sigmoid(X.dot(W1) + b1)
        a2 = sigmoid(a1.dot(W2) + b2)
        a3 = sigmoid(a2.dot(W3) + b3)
        losses.append(-np.mean(y * np.log(a3 + eps) + (1 - y) * np.log(1 - a3 + eps)))
        dz3 = a3 - y
        dW3, db3 = a2.T.dot(dz3), dz3.sum(axis=0, keepdims=True)
        dz2 = dz3.dot(W3.T) * derivative(a2)
        dW2, db2 = a1.T.dot(dz2), dz2.sum(axis=0, keepdims=True)
        dz1 = dz2.dot(W2.T) * derivative(a1)
        dW1, db1 = X.T.dot(dz1), dz1.sum(axis=0, keepdims=True)
        W3 -= lr * dW3
        b3 -= lr * db3
        W2 -= lr * dW2
        b2 -= lr * db2
        W1 -= lr * dW1
        b1 -= lr * db1
    return losses, a3


def patterns_2x2(X, labels, W1, W2, lr=0.1, epochs=1000):
    """Document 002: ReLU and softmax, samples as columns; return the losses and probabilities."""
    x, t, m = X.T, np.eye(4)[labels].T, len(X)
    W1, b1, W2, b2 = W1.copy(), np.zeros((8, 1)), W2.copy(), np.zeros((4, 1))
    losses = []

    def forward():
        z1 = np.dot(W1, x) + b1
        a1 = np.maximum(0, z1)
        z2 = np.dot(W2, a1) + b2
        exp_z = np.exp(z2 - np.max(z2, axis=0, keepdims=True))
        return z1, a1, exp_z / np.sum(exp_z, axis=0, keepdims=True)

    for _ in range(epochs):
        z1, a1, a2 = forward()
        losses.append(-np.sum(t * np.log(a2)) / m)
        dz2 = a2 - t
        dW2, db2 = np.dot(dz2, a1.T) / m, np.sum(dz2, axis=1, keepdims=True) / m
        dz1 = np.dot(W2.T, dz2) * (z1 > 0).astype(float)
        dW1, db1 = np.dot(dz1, x.T) / m, np.sum(dz1, axis=1, keepdims=True) / m
        W1 -= lr * dW1
        b1 -= lr * db1
        W2 -= lr * dW2
        b2 -= lr * db2
    return losses, forward()[2].T


def single_neuron(X, y, weights, bias, lr=0.05, epochs=10_000):
    """Document 003, whose derivative of the sigmoid is taken at the output; return what it learns.

    The result is the losses of all epochs, the weights and the bias.
    """

    def derivative(x):
        return sigmoid(x) * (1 - sigmoid(x))

    losses = []
    for _ in range(epochs):
        a = sigmoid(np.dot(X, weights) + bias)
        error = a - y
        losses.append(np.square(np.subtract(a, y)).mean())
        delta = error * derivative(a)
        weights = weights - lr * np.dot(X.T, delta)
        for row in delta:
            bias = bias - lr * row
    return losses, weights, bias


def xor(X, y, params, lr=0.1, epochs=10_000, orders=None):
    """Document 004: one sample at a time, as a column; return the losses and the last outputs.

    `orders()` returns the order of the samples in an epoch; by default it is always the same.
    """
    W1, b1, W2, b2 = (p.copy() for p in params)
    losses = []

    def forward(x):
        v = sigmoid(np.dot(W1, x) + b1)
        return v, sigmoid(np.dot(W2, v) + b2)

    def derivative(a):
        return a * (1 - a)

    for _ in range(epochs):
        total = 0
        for i in orders() if orders else range(len(X)):
            x, t = X[i].reshape(-1, 1), y[i].reshape(-1, 1)
            v, a = forward(x)
            d2 = (a - t) * derivative(a)
            d1 = np.dot(W2.T, d2) * derivative(v)
            W2 -= lr * np.dot(d2, v.T)
            b2 -= lr * d2
            W1 -= lr * np.dot(d1, x.T)
            b1 -= lr * d1
            total += np.mean((t - a) ** 2)
        losses.append(total / len(X))
    return losses, forward(X.T)[1]
