"""Two blobs: a 2-8-4-1 network of sigmoids learns two clouds of points by gradient descent.

The document's gradient is a sum over the rows while the loss that it prints is their mean: here the
loss is the sum (``reduction="sum"``), divided by the rows for printing.
"""

import time

import by_hand
import common
import numpy as np

import portnet
from portnet import plots


def document(rows=200):
    """Return the document's points, labels (rows, 1) and initial parameters, from one generator."""
    draw = np.random.default_rng(0)
    X = np.vstack([draw.normal([c, c], 0.5, (rows // 2, 2)) for c in (-1, 1)])
    y = np.repeat([[0.0], [1.0]], rows // 2, axis=0)
    params = []
    for n_in, n_out in ((2, 8), (8, 4), (4, 1)):
        params += [{"W": draw.normal(0, 1, (n_in, n_out)) * 0.3, "b": np.zeros((1, n_out))}, ()]
    return X, y, tuple(params[:-1])


def trainer(params):
    """Return the document's gradient descent: all rows in every step, summed, learning rate 0.1."""
    net = portnet.mlp([2, 8, 4, 1], activation="sigmoid")
    loss = portnet.SigmoidCrossEntropy(reduction="sum")
    return portnet.Trainer(net, loss, portnet.SGD(0.1), batch_size=None, params=params)


def main():
    options = common.parser(__doc__)
    options.add_argument("--epochs", type=common.at_least(1), default=2000)
    args = common.begin(options)
    X, y, params = document()
    began = time.perf_counter()
    run = trainer(params).fit(X, y, epochs=0)
    for done in range(0, args.epochs, 400):
        run = run.fit(X, y, epochs=min(400, args.epochs - done))
        if run.epoch % 400 == 0:
            loss = run.history["loss"][-1] / len(X)
            accuracy = run.evaluate(X, y, metrics=["accuracy"])["accuracy"]
            print(f"Epoch {run.epoch}, Loss {loss:.4f}, Acc {accuracy:.3f}")
    seconds = time.perf_counter() - began
    accuracy = run.evaluate(X, y, metrics=["accuracy"])["accuracy"]
    print(f"Final training accuracy: {accuracy:.3f}")
    weights = [(p["W"], p["b"]) for p in params[::2]]
    common.beside(seconds, by_hand.two_blobs, X, y, weights, epochs=args.epochs)
    out = args.out / "two_blobs.png"
    title = "Two blobs, 2-8-4-1"
    common.picture(out, lambda ax: plots.decision_boundary(run, X, y, title=title, ax=ax))


if __name__ == "__main__":
    main()
