"""Backpropagation by hand: the first step of the XOR network, quantity by quantity.

`portnet.explain_step` makes a training step and returns everything that it computes, in order: z,
a, the loss, the gradients, the updates. Here plain Python floats compute the same, with the chain
rule written out for each weight, and a weight that is changed a little shows what a gradient is: a
slope. The tables with all numbers are written as Markdown. Then many such steps are made, and the
network has learned XOR.
"""

import math

import common
import xor

import portnet

X = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
Y = [[0.0], [1.0], [1.0], [0.0]]
LR = 0.1
LOSS = portnet.SquaredError(reduction="sum")


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def by_hand(W1, b1, W2, b2):
    """Return the loss of the four rows and its gradients, in loops over plain Python floats."""
    loss, dW1, db1, dW2, db2 = 0.0, [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0], [0.0, 0.0], 0.0
    for x, (t,) in zip(X, Y, strict=True):
        a1 = [sigmoid(x[0] * W1[0][j] + x[1] * W1[1][j] + b1[j]) for j in (0, 1)]
        a2 = sigmoid(a1[0] * W2[0] + a1[1] * W2[1] + b2)
        loss += (a2 - t) ** 2 / 2
        dz2 = (a2 - t) * a2 * (1 - a2)  # the chain rule: dloss/da2 times da2/dz2
        db2 += dz2
        for j in (0, 1):
            dW2[j] += a1[j] * dz2  # z2 = ... + a1[j] W2[j] + ...
            dz1 = dz2 * W2[j] * a1[j] * (1 - a1[j])  # and on, through W2 and the hidden sigmoid
            db1[j] += dz1
            for i in (0, 1):
                dW1[i][j] += x[i] * dz1
    return loss, dW1, db1, dW2, db2


def lists(step, *names):
    """Return quantities of a step as lists of floats; W2 (2, 1) and b (1, n) become flat."""
    found = [portnet.to_numpy(step[name]) for name in names]
    return [a.tolist() if a.shape == (2, 2) else a.ravel().tolist() for a in found]


def main():
    options = common.parser(__doc__)
    options.add_argument("--epochs", type=common.at_least(1), default=10_000)
    args = common.begin(options)
    params = portnet.tree.map(portnet.asarray, xor.document_weights())
    step = portnet.explain_step(xor.NET, LOSS, portnet.SGD(LR), params, X, Y)
    print(step)

    W1, b1, W2, b2 = lists(step, "W1", "b1", "W2", "b2")
    loss, *gradients = by_hand(W1, b1, W2, b2[0])
    print(f"\nBy hand: loss {loss:.6f}, as in the table: {float(step.loss):.6f}")
    names = ("dW1", "db1", "dW2", "db2")
    for name, hand, value in zip(names, gradients, lists(step, *names), strict=True):
        numbers = hand if isinstance(hand, list) else [hand]
        print(f"{name} by hand  {numbers}\n    in the step {value}")

    h = 1e-6
    W1[0][0] += h
    up = by_hand(W1, b1, W2, b2[0])[0]
    print(f"W1[0, 0] + {h}: the loss rises by {(up - loss) / h:.6f} times that; its gradient is")
    print(f"{gradients[0][0][0]:.6f}, so the update -lr dW1 goes {-LR * gradients[0][0][0]:.6f}")

    path = args.out / "backprop_by_hand.md"
    path.write_text(step.markdown() + "\n", encoding="utf-8")
    print(f"all numbers: {path}")

    trainer = portnet.Trainer(xor.NET, LOSS, portnet.SGD(LR), batch_size=None, params=params)
    run = trainer.fit(X, Y, epochs=args.epochs)
    print(f"after {run.epoch:,} such steps: loss {run.evaluate(X, Y)['loss']:.6f}")
    for x, prediction in zip(X, portnet.to_numpy(run.predict(X)), strict=True):
        print(f"  {x} -> {prediction[0]:.3f}")


if __name__ == "__main__":
    main()
