"""Single neuron: one sigmoid, trained twice: with its derivative, and with the document's.

The document multiplies the error by der(a), where a = s(z) is the neuron's output: the derivative
of the sigmoid at the point a instead of at z, a sigmoid of a sigmoid. The weights still go the
right way, because every factor is positive, but by other steps. A layer of ten lines shows it,
beside the right one.
"""

from dataclasses import dataclass

import by_hand
import common
import numpy as np

import portnet
from portnet import plots

X = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
Y = np.array([[0], [1], [1], [0]])
START = ({"W": np.array([[0.1], [0.2]]), "b": np.array([[0.3]])}, ())


@dataclass(frozen=True)
class DocumentSigmoid(portnet.Sigmoid):
    """y = s(x), but backward takes s'(y) = s(y) (1 - s(y)) for the derivative, which is s'(x)."""

    def backward(self, params, cache, dy):
        """dx = dy s(y) (1 - s(y)): not the derivative; `portnet.check_layer` says so."""
        s, _ = self.forward((), cache)
        return (), dy * s * (1 - s)


def train(sigmoid, epochs):
    """Return the run of gradient descent on half the sum of squares, learning rate 0.05."""
    net = portnet.Chain([portnet.Dense(1), sigmoid])
    loss = portnet.SquaredError(reduction="sum")
    trainer = portnet.Trainer(net, loss, portnet.SGD(0.05), batch_size=None, params=START)
    return trainer.fit(X, Y, epochs=epochs)


def report(name, run):
    """Print weights, bias and the prediction for [0, 1] as the document does."""
    dense = portnet.tree.map(portnet.to_numpy, run.params)[0]
    print(name)
    print(dense["W"])
    print(dense["b"][0])
    print(run.predict([[0, 1]])[0])


def main():
    options = common.parser(__doc__)
    options.add_argument("--epochs", type=common.at_least(1), default=10_000)
    args = common.begin(options)
    run, seconds = common.timed(train, DocumentSigmoid(), args.epochs)
    runs = {
        "with the document's derivative": run,
        "with the derivative of the sigmoid": train(portnet.Sigmoid(), args.epochs),
    }
    for name, run in runs.items():
        report(name, run)
    weights, bias = START[0]["W"], START[0]["b"][0]
    common.beside(seconds, by_hand.single_neuron, X, Y, weights, bias, epochs=args.epochs)
    try:
        portnet.check_layer(DocumentSigmoid())
    except portnet.GradientError as error:
        print(f"check_layer: {error}")
    lines = {name: run.history["loss"] for name, run in runs.items()}
    out = args.out / "single_neuron.png"
    style = {"title": "One neuron", "ylabel": "loss (sum)", "log": True}
    common.picture(out, lambda ax: plots.curves(lines, **style, ax=ax))


if __name__ == "__main__":
    main()
