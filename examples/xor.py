"""XOR: a 2-2-1 network of sigmoids, one sample at a time; then the exercise, all four at once.

The document prints the mean of (y - a)^2 but its gradient is that of half of it: portnet's squared
error is the half, doubled for printing. The exercise asks which converges faster, stochastic or
batch gradient descent: both run here from the same weights with the same learning rate.
"""

import by_hand
import common
import numpy as np

import portnet
from portnet import plots

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
Y = np.array([[0], [1], [1], [0]])
NET = portnet.Chain([portnet.Dense(2), portnet.Sigmoid(), portnet.Dense(1), portnet.Sigmoid()])
CONVERGED = 0.01  # the loss at which we call it learned


def document_weights():
    """Return the parameters as the document draws them, transposed: its samples are columns."""
    draw = np.random.RandomState(42)
    W1, b1, W2, b2 = draw.rand(2, 2), draw.rand(2, 1), draw.rand(1, 2), draw.rand(1, 1)
    return {"W": W1.T, "b": b1.T}, (), {"W": W2.T, "b": b2.T}, ()


def trainer(batch_size, reduction="mean"):
    """Return a trainer that takes the rows in their order, with learning rate 0.1."""
    loss, params = portnet.SquaredError(reduction=reduction), document_weights()
    return portnet.Trainer(NET, loss, portnet.SGD(0.1), batch_size, shuffle=False, params=params)


def mean_squares(run, rows=1):
    """Return the document's loss in each epoch: the mean of (y - a)^2."""
    return [2 * loss / rows for loss in run.history["loss"]]


def verdict(lines):
    """Return a sentence, computed from the curves, on which converges faster."""
    reached = {}
    for name, losses in lines.items():
        below = [epoch for epoch, loss in enumerate(losses, 1) if loss < CONVERGED]
        reached[name] = below[0] if below else None
    parts = [
        f"{name} reaches a loss of {CONVERGED} in epoch {epoch}"
        if epoch
        else f"{name} has not by epoch {len(lines[name])} (loss {lines[name][-1]:.4f})"
        for name, epoch in reached.items()
    ]
    done = {name: epoch for name, epoch in reached.items() if epoch}
    winner = min(done, key=done.get) if done else min(lines, key=lambda name: lines[name][-1])
    return f"{'; '.join(parts)}. Faster: {winner}."


def main():
    options = common.parser(__doc__)
    options.add_argument("--epochs", type=common.at_least(1), default=10_000)
    args = common.begin(options)
    start = trainer(1).fit(X, Y, epochs=0)
    print("Loss for the initialized weights:", 2 * start.evaluate([[0, 1]], [[1]])["loss"])
    sgd, seconds = common.timed(trainer(1).fit, X, Y, epochs=args.epochs)
    lines = {"stochastic (4 steps an epoch)": mean_squares(sgd)}
    for epoch in range(0, args.epochs, 1000):
        print(f"Epoch {epoch + 1}, Loss: {mean_squares(sgd)[epoch]}")
    print("Predicted Output after Training:\n", sgd.predict(X).T)
    columns = [p[name].T for p in document_weights() if p for name in ("W", "b")]
    common.beside(seconds, by_hand.xor, X, Y, columns, epochs=args.epochs)

    lines["batch, mean gradient"] = mean_squares(trainer(None).fit(X, Y, epochs=args.epochs))
    summed = trainer(None, "sum").fit(X, Y, epochs=args.epochs)
    lines["batch, summed gradient"] = mean_squares(summed, rows=4)
    print(verdict(lines))
    title = "XOR, 2-2-1: the same network and learning rate"
    out = args.out / "xor.png"
    style = {"title": title, "ylabel": "mean of (y - a)^2", "log": True}
    common.picture(out, lambda ax: plots.curves(lines, **style, ax=ax))


if __name__ == "__main__":
    main()
