"""The Pattern Weaver: one hidden layer of sigmoids learns to tell two patterns apart.

`pattern_recognition_nn` takes and returns what the exercise's function does: gradient descent on
the mean cross-entropy from weights drawn with seed 42, then 0/1 predictions for the training rows.
Run as a script, it learns to tell crosses from pluses on noisy 5 x 5 grids.
"""

import by_hand
import common
import numpy as np

import portnet
from portnet import plots

PLUS = np.array([[0, 0, 1, 0, 0]] * 2 + [[1, 1, 1, 1, 1]] + [[0, 0, 1, 0, 0]] * 2)
CROSS = np.eye(5, dtype=int) | np.eye(5, dtype=int)[::-1]


def train(X, y, hidden_size=4, lr=0.1, epochs=1000):
    """Return the run: X (rows, features), y rows of 0 or 1."""
    X, draw = np.asarray(X), np.random.RandomState(42)
    W1 = draw.randn(X.shape[1], hidden_size) * 0.5
    W2 = draw.randn(hidden_size, 1) * 0.5
    params = (
        {"W": W1, "b": np.zeros((1, hidden_size))},
        (),
        {"W": W2, "b": np.zeros((1, 1))},
    )
    # The last sigmoid is in the loss: with cross-entropy its derivative is just a2 - y.
    net = portnet.mlp([X.shape[1], hidden_size, 1], activation="sigmoid")
    trainer = portnet.Trainer(
        net, "sigmoid_cross_entropy", portnet.SGD(lr), batch_size=None, params=params
    )
    return trainer.fit(X, np.asarray(y).reshape(-1, 1), epochs=epochs)


def pattern_recognition_nn(X, y, hidden_size=4, lr=0.1, epochs=1000):
    """Train on X (rows, features) and y (rows,) of 0 or 1; return 0/1 integers (rows,)."""
    return predictions(train(X, y, hidden_size, lr, epochs), X)


def predictions(run, X):
    """Return 1 where the probability is above 0.5, else 0."""
    return (portnet.to_numpy(run.predict(X)) > 0.5).astype(int).flatten()


def patterns(rows, noise, seed):
    """Return pluses (0) and crosses (1), flat, with a share of the cells flipped."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 2, rows)
    X = np.stack([PLUS.ravel(), CROSS.ravel()])[y]
    return np.where(draw.random(X.shape) < noise, 1 - X, X).astype(float), y


def main():
    options = common.parser(__doc__)
    options.add_argument("--noise", type=float, default=0.2, help="share of flipped cells")
    options.add_argument("--epochs", type=common.at_least(1), default=1000)
    args = common.begin(options)
    X, y = patterns(400, args.noise, seed=0)
    Xt, yt = patterns(400, args.noise, seed=1)
    run, seconds = common.timed(train, X, y, epochs=args.epochs)
    print(f"Training accuracy: {(predictions(run, X) == y).mean():.3f}")
    print(f"Accuracy on new patterns: {(predictions(run, Xt) == yt).mean():.3f}")
    common.beside(seconds, by_hand.pattern_recognition, X, y, epochs=args.epochs)
    captions = [("plus" if p < 0.5 else "cross") + f" {p:.2f}" for p in run.predict(Xt[:10])[:, 0]]
    title = "Noisy pluses and crosses, with the probability of a cross"
    images = list(Xt[:10].reshape(-1, 5, 5))
    out = args.out / "pattern_weaver.png"
    common.picture(out, lambda ax: plots.images(images, captions, columns=5, title=title, ax=ax))


if __name__ == "__main__":
    main()
