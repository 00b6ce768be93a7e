"""Compare the rate that portnet.find_learning_rate suggests with a grid, on small problems.

    python ci/learning_rates.py [--seeds 2] [--trials 200]

Each fit of a grid is made with the same network, data, optimizer and number of epochs, and its
final loss on the training rows is compared: a ratio of 1.1 is within 10% of the best of the grid.
"""

import argparse
import warnings
from dataclasses import replace

import numpy as np

import portnet
from portnet import lr_finder

DRAW = np.random.default_rng(7)
X = DRAW.standard_normal((600, 6))
LABELS = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
NOISY = np.where(DRAW.random(600) < 0.2, 1 - LABELS, LABELS)
THREE = np.digitize(X[:, 0] + 0.5 * X[:, 1] + 0.5 * DRAW.standard_normal(600), [-0.5, 0.5])
SMOOTH = np.sin(X[:, 0]) + 0.5 * X[:, 1] * X[:, 2] + 0.3 * DRAW.standard_normal(600)
LINEAR = X @ np.arange(1, 7) / 5 + 0.5 * DRAW.standard_normal(600)
COUNTS = DRAW.poisson(np.exp(0.6 * X[:, 0] - 0.3 * X[:, 1]))
HEAVY = SMOOTH + 3 * (DRAW.random(600) < 0.1) * DRAW.standard_normal(600)
GRID = np.geomspace(1e-3, 3.2, 15)

SIGMOID, SOFTMAX, SQUARED = "sigmoid_cross_entropy", "softmax_cross_entropy", "squared_error"


def mlp(*sizes, activation="relu", **options):
    return portnet.mlp([6, *sizes], activation, **options)


PROBLEMS = {  # network, loss, optimizer, rows in a batch, targets, epochs
    "linear, SGD": (mlp(1), SQUARED, portnet.SGD(), 32, LINEAR, 40),
    "logistic, SGD": (mlp(1), SIGMOID, portnet.SGD(), 32, NOISY, 40),
    "logistic, Adam": (mlp(1), SIGMOID, portnet.Adam(), 32, NOISY, 40),
    "softmax, Momentum": (mlp(3), SOFTMAX, portnet.Momentum(), 32, THREE, 40),
    "ReLU, softmax, Adam": (mlp(16, 3), SOFTMAX, portnet.Adam(), 32, THREE, 40),
    "ReLU, softmax, SGD": (mlp(16, 3), SOFTMAX, portnet.SGD(), 32, THREE, 40),
    "tanh, noisy labels, Momentum": (
        mlp(8, 1, activation="tanh"), SIGMOID, portnet.Momentum(), 64, NOISY, 40,
    ),
    "ReLU, squares, Adam": (mlp(16, 1), SQUARED, portnet.Adam(), 32, SMOOTH, 40),
    "ReLU, squares, SGD": (mlp(16, 1), SQUARED, portnet.SGD(), 32, SMOOTH, 40),
    "tanh, squares, RMSProp": (
        mlp(16, 1, activation="tanh"), SQUARED, portnet.RMSProp(), 32, SMOOTH, 40,
    ),
    "ReLU, Huber, Nesterov": (mlp(16, 1), "huber", portnet.Nesterov(), 32, HEAVY, 40),
    "ReLU, absolute, Adam": (mlp(16, 1), "absolute_error", portnet.Adam(), 32, HEAVY, 40),
    "ReLU, Poisson, Adam": (mlp(8, 1), "poisson", portnet.Adam(), 32, COUNTS, 40),
    "tanh, all rows, SGD": (
        mlp(8, 1, activation="tanh"), SQUARED, portnet.SGD(), None, LINEAR, 500,
    ),
    "tanh, all rows, Adam": (
        mlp(8, 1, activation="tanh"), SQUARED, portnet.Adam(), None, SMOOTH, 300,
    ),
    "dropout, AdamW": (mlp(32, 3, dropout=0.2), SOFTMAX, portnet.AdamW(), 32, THREE, 40),
    "four layers, Adam": (mlp(16, 16, 16, 3), SOFTMAX, portnet.Adam(), 32, THREE, 30),
    "clipped SGD": (
        mlp(16, 1), SQUARED, portnet.chain(portnet.ClipNorm(1.0), portnet.SGD()), 32, SMOOTH, 40,
    ),
}  # fmt: skip


def trainer_of(name, seed):
    net, loss, optimizer, batch, _, _ = PROBLEMS[name]
    return portnet.Trainer(net, loss, optimizer, batch, seed=seed)


def final_loss(name, seed, lr):
    """Return the loss of the training rows after a fit with this rate; inf if it diverges."""
    trainer, (*_, y, epochs) = trainer_of(name, seed), PROBLEMS[name]
    trainer = replace(trainer, optimizer=lr_finder._with_rate(trainer.optimizer, float(lr)))
    try:
        return trainer.fit(X, y, epochs=epochs, progress=False).evaluate(X, y)["loss"]
    except portnet.DivergenceError:
        return np.inf


def compare(name, seed, **options):
    """Return the suggestion, its final loss, the best rate of the grid and its final loss."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overflow at rates that are too large
        y = PROBLEMS[name][-2]
        found = portnet.find_learning_rate(trainer_of(name, seed), X, y, **options)
        losses = [final_loss(name, seed, lr) for lr in GRID]
        best = int(np.argmin(losses))
        loss = final_loss(name, seed, found.suggestion)
    return found.suggestion, loss, float(GRID[best]), losses[best]


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--trials", type=int, default=200, help="steps of each trial")
    args, ratios = options.parse_args(), []
    print("| problem | seed | suggestion | its loss | best of the grid | its loss | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in PROBLEMS:
        for seed in range(args.seeds):
            lr, loss, best, least = compare(name, seed, trials=args.trials)
            ratios.append(loss / least)
            print(
                f"| {name} | {seed} | {lr:.2g} | {loss:.4f} | {best:.2g} | {least:.4f} | "
                f"{ratios[-1]:.3f} |"
            )
    close = sum(ratio <= 1.1 for ratio in ratios)
    print(f"\n{close} of {len(ratios)} within 10%; the worst ratio is {max(ratios):.2f}")


if __name__ == "__main__":
    main()
