"""Plain NumPy loops of the five documents: reference of the tests, and baseline of the benchmarks.

They are as simple as in a course on backpropagation, and do not use portnet.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def pattern_recognition(X, y, hidden_size=4, lr=0.1, epochs=1000):
    """Document 000: sigmoid hidden layer, sigmoid output, gradient of the mean cross-entropy."""
    draw = np.random.RandomState(42)
    W1, b1 = draw.randn(X.shape[1], hidden_size) * 0.5, np.zeros((1, hidden_size))
    W2, b2 = draw.randn(hidden_size, 1) * 0.5, np.zeros((1, 1))
    t, m = np.reshape(y, (-1, 1)), len(X)
    for _ in range(epochs):
        h = sigmoid(X @ W1 + b1)
        a = sigmoid(h @ W2 + b2)
        dz2 = (a - t) / m
        dz1 = dz2 @ W2.T * h * (1 - h)
        W2, b2 = W2 - lr * h.T @ dz2, b2 - lr * dz2.sum(0, keepdims=True)
        W1, b1 = W1 - lr * X.T @ dz1, b1 - lr * dz1.sum(0, keepdims=True)
    return (sigmoid(sigmoid(X @ W1 + b1) @ W2 + b2) > 0.5).astype(int).ravel()


def two_blobs(X, y, params, lr=0.1, epochs=2000):
    """Document 001: three sigmoid layers, summed gradient; returns the mean loss of each epoch."""
    (W1, b1), (W2, b2), (W3, b3) = params
    losses = []
    for _ in range(epochs):
        a1 = sigmoid(X @ W1 + b1)
        a2 = sigmoid(a1 @ W2 + b2)
        a3 = sigmoid(a2 @ W3 + b3)
        losses.append(-np.mean(y * np.log(a3 + 1e-9) + (1 - y) * np.log(1 - a3 + 1e-9)))
        d3 = a3 - y
        d2 = d3 @ W3.T * a2 * (1 - a2)
        d1 = d2 @ W2.T * a1 * (1 - a1)
        W3, b3 = W3 - lr * a2.T @ d3, b3 - lr * d3.sum(0, keepdims=True)
        W2, b2 = W2 - lr * a1.T @ d2, b2 - lr * d2.sum(0, keepdims=True)
        W1, b1 = W1 - lr * X.T @ d1, b1 - lr * d1.sum(0, keepdims=True)
    return losses, a3


def patterns_2x2(X, labels, W1, W2, lr=0.1, epochs=1000):
    """Document 002: ReLU and softmax, samples as columns as in the document; returns the probabilities."""
    x, t, m = X.T, np.eye(4)[labels].T, len(X)
    b1, b2 = np.zeros((8, 1)), np.zeros((4, 1))

    def forward():
        z1 = W1 @ x + b1
        z2 = W2 @ np.maximum(z1, 0) + b2
        e = np.exp(z2 - z2.max(axis=0, keepdims=True))
        return z1, e / e.sum(axis=0, keepdims=True)

    for _ in range(epochs):
        z1, a2 = forward()
        dz2 = a2 - t
        dz1 = W2.T @ dz2 * (z1 > 0)
        W2 = W2 - lr * dz2 @ np.maximum(z1, 0).T / m
        b2 = b2 - lr * dz2.sum(axis=1, keepdims=True) / m
        W1, b1 = W1 - lr * dz1 @ x.T / m, b1 - lr * dz1.sum(axis=1, keepdims=True) / m
    return forward()[1].T


def single_neuron(X, y, weights, bias, lr=0.05, epochs=10_000):
    """Document 003, whose derivative of the sigmoid is taken at the output, not at the weighted sum."""
    for _ in range(epochs):
        a = sigmoid(X @ weights + bias)
        delta = (a - y) * sigmoid(a) * (1 - sigmoid(a))
        weights, bias = weights - lr * X.T @ delta, bias - lr * delta.sum()
    return weights, bias


def xor(X, y, params, lr=0.1, epochs=10_000):
    """Document 004: one sample at a time, as a column; returns the mean loss of each epoch."""
    W1, b1, W2, b2 = (p.copy() for p in params)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for sample, target in zip(X, y, strict=True):
            x = sample.reshape(-1, 1)
            v = sigmoid(W1 @ x + b1)
            a = sigmoid(W2 @ v + b2)
            d2 = (a - target) * a * (1 - a)
            d1 = W2.T @ d2 * v * (1 - v)
            W2, b2 = W2 - lr * d2 @ v.T, b2 - lr * d2
            W1, b1 = W1 - lr * d1 @ x.T, b1 - lr * d1
            total += ((target - a) ** 2).item()
        losses.append(total / len(X))
    return losses, sigmoid(W2 @ sigmoid(W1 @ X.T + b1) + b2)
