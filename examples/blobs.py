"""Blobs: a network of three layers learns large overlapping clouds, beside the best rule there is.

Each class is two Gaussian clouds of points, so that no straight line divides them. Because we made
them, we know the rule that no classifier can beat on average, Bayes': take the class whose clouds
are most likely at the point. `--compare BACKEND` trains 50 steps on two backends and prints how far
apart they are.
"""

import time

import common
import numpy as np
from tqdm import tqdm

import portnet
from portnet import plots


def blobs(rows, features, classes, seed):
    """Return points (rows, features), labels (rows,), and the centres (classes, 2, features)."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((classes, 2, features)) * 3.0 / np.sqrt(features)
    y = draw.integers(0, classes, rows)
    X = centres[y, draw.integers(0, 2, rows)] + draw.standard_normal((rows, features))
    return X.astype(np.float32), y, centres


def bayes(X, centres):
    """Return the class with the largest density at each point: the mean over its two clouds."""
    half = [-0.5 * ((X[:, None, :] - pair) ** 2).sum(axis=-1) for pair in centres]
    return np.stack([np.logaddexp(d[:, 0], d[:, 1]) for d in half], axis=1).argmax(axis=1)


def network(args, batch):
    """Return a fresh trainer: the features, the hidden layers, the classes."""
    net = portnet.mlp([args.features, *args.hidden, args.classes])
    return portnet.Trainer(net, "softmax_cross_entropy", "adam", batch, args.seed)


def compare(args, X, y, Xv, yv):
    """Train 50 float64 steps on both backends from one seed; print how far apart they are."""
    batch, found = max(1, min(args.batch, len(X) // 10)), {}
    rows = min(10 * batch, len(X))
    for name in (args.backend, args.compare):
        with portnet.use_backend(name, dtype="float64"):
            run = network(args, batch).fit(X[:rows], y[:rows], epochs=5)
        params = [portnet.to_numpy(p) for p in portnet.tree.leaves(run.params)]
        found[name] = params, (run.predict_class(Xv) == yv).mean()
    (a, accuracy_a), (b, accuracy_b) = found[args.backend], found[args.compare]
    worst = max(float(abs(p - q).max()) for p, q in zip(a, b, strict=True))
    steps = 5 * -(-rows // batch)
    print(f"Largest parameter difference after {steps} float64 steps: {worst:.1e}")
    print(f"Accuracy: {args.backend} {accuracy_a:.4f}, {args.compare} {accuracy_b:.4f}")


def main():
    options = common.parser(__doc__)
    options.add_argument("--rows", type=common.at_least(2), default=200_000)
    for name, default in {"features": 32, "classes": 8, "epochs": 10,
                          "batch": 1024}.items():  # fmt: skip
        options.add_argument(f"--{name}", type=common.at_least(1), default=default)
    options.add_argument("--seed", type=common.at_least(0), default=0)
    hidden = {"type": common.at_least(1), "nargs": "*", "default": [128, 128]}
    options.add_argument("--hidden", **hidden, help="units of each hidden layer")
    options.add_argument("--compare", metavar="BACKEND", help="50 float64 steps on both")
    args = common.begin(options, dtype="float32")
    X, y, centres = blobs(args.rows, args.features, args.classes, args.seed)
    part = -(-args.rows // 10)  # the first tenth of the rows validates
    (X, Xv), (y, yv) = (X[part:], X[:part]), (y[part:], y[:part])
    if args.compare:
        try:
            return compare(args, X, y, Xv, yv)
        except (portnet.BackendUnavailableError, ValueError) as error:
            options.error(f"--compare: {error}")
    best, began = (bayes(Xv, centres) == yv).mean(), time.perf_counter()
    print("epoch  training loss  validation loss  accuracy  samples/s")
    for run in network(args, args.batch).epochs(
        X, y, epochs=args.epochs, validation=(Xv, yv), metrics=["accuracy"]
    ):
        last = {name: numbers[-1] for name, numbers in run.history.items()}
        speed = run.epoch * len(X) / (time.perf_counter() - began)
        tqdm.write(f"{run.epoch:5}  {last['loss']:13.4f}  {last['validation_loss']:15.4f}"
              f"  {last['validation_accuracy']:8.4f}  {speed:9,.0f}")  # fmt: skip
    print(f"Accuracy {last['validation_accuracy']:.4f} on {part:,} validation rows; Bayes' rule "
          f"{best:.4f}; {speed:,.0f} samples per second")  # fmt: skip
    title = "Blobs: " + "-".join(map(str, [args.features, *args.hidden, args.classes]))
    accuracy, level = {"validation": run.history["validation_accuracy"]}, {"Bayes' rule": best}
    common.picture(
        args.out / "blobs.png",
        lambda ax: plots.history(run, title=title, ax=ax),
        lambda ax: plots.curves(accuracy, ylabel="accuracy", levels=level, ax=ax),
    )


if __name__ == "__main__":
    main()
