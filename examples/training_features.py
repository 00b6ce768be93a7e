"""All that `fit` does, on 569 cells with 30 measures each, benign or malignant.

The data come with scikit-learn (`pip install ".[sklearn]"`). Raw measures and a named mistake come
first; then one fit with labels as text, weights of classes, a part of the rows for validation, a
schedule, weight decay, clipping, early stopping and a plateau; Ctrl-C and going on; L-BFGS; another
backend.
"""

import warnings

import common
import numpy as np

import portnet
from portnet import plots


def main():
    options = common.parser(__doc__)
    options.add_argument("--epochs", type=common.at_least(1), default=60)
    args = common.begin(options)
    data = common.scikit_learn_data(options, "load_breast_cancer")
    X, y = data.data, data.target_names[data.target]  # labels as text
    test = np.arange(len(X)) % 5 == 0

    try:
        raw = portnet.Trainer(portnet.mlp([30, 1]), "squared_error", portnet.SGD(1e-3))
        with warnings.catch_warnings(action="ignore"):  # of the scale of X, as the error below
            raw.fit(X[~test], y[~test] == "malignant", epochs=100)
    except portnet.DivergenceError as error:
        print(f"1. Raw measures: {error}")

    print("2. Scaled, with everything")
    X = (X - X[~test].mean(axis=0)) / X[~test].std(axis=0)
    optimizer = portnet.chain(
        portnet.WeightDecay(1e-3, only="W"),
        portnet.ClipNorm(1.0),
        portnet.Adam(portnet.CosineDecay(3e-3, steps=12 * args.epochs, warmup=6)),
    )
    net = portnet.mlp([30, 32, 32, 2], dropout=0.2)
    trainer = portnet.Trainer(net, "softmax_cross_entropy", optimizer, batch_size=32, seed=0)
    rows = X[~test], y[~test]
    settings = {
        "validation": 0.2,  # a fifth of the rows, of both classes their share
        "class_weight": "balanced",
        "metrics": ["accuracy", "balanced_accuracy", "log_loss"],
        "early_stopping": portnet.EarlyStopping("validation_loss", patience=15),
        "reduce_on_plateau": portnet.ReduceOnPlateau(patience=5, factor=0.5),
    }

    def tell(report):
        if report.epoch % 5 == 1:
            loss, valid = report.metrics["loss"], report.metrics["validation_loss"]
            print(f"   epoch {report.epoch:2}  loss {loss:.4f}  validation loss {valid:.4f}")

    run = trainer.fit(*rows, epochs=args.epochs, callbacks=[tell], **settings)
    print(f"   {run.stopped or 'all epochs'}; epoch {run.best_epoch} is kept")
    for name, number in run.evaluate(X[test], y[test]).items():
        print(f"   test {name} {number:.4f}")
    costs = np.where(y[test] == "malignant", 5.0, 1.0)
    dear = run.evaluate(X[test], y[test], sample_weight=costs, metrics=["accuracy"])["accuracy"]
    print(f"   test accuracy where a malignant cell counts five times: {dear:.4f}")
    guess = run.predict_class(X[test])  # text again
    missed = (guess != y[test]) & (y[test] == "malignant")
    print(f"   malignant cells that it misses: {missed.sum()} of {(y[test] == 'malignant').sum()}")

    print("3. Ctrl-C, and on")

    def press(report):
        if report.epoch == min(5, args.epochs):
            raise KeyboardInterrupt  # as Ctrl-C does

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        half = trainer.fit(*rows, epochs=args.epochs, callbacks=[press], **settings)
    print(f"   {caught[0].message}")
    again = half.fit(*rows, epochs=args.epochs - half.epoch, **settings)
    print(f"   the same history as without Ctrl-C: {again.history == run.history}")
    slow = portnet.Trainer(net, trainer.loss, optimizer, batch_size=None)
    more = slow.fit(*rows, epochs=3, metrics=["accuracy"], resume=run)
    print(f"   three more epochs of one step each: loss {more.history['loss'][-1]:.4f}")

    print("4. L-BFGS: all rows in every iteration, no learning rate")
    lbfgs = portnet.Trainer(portnet.mlp([30, 2]), trainer.loss, "lbfgs")
    straight = lbfgs.fit(*rows, epochs=200, validation=0.2, early_stopping=True)
    found = straight.evaluate(X[test], y[test], metrics=["accuracy"])
    print(f"   {straight.stopped}; test accuracy {found['accuracy']:.4f}")

    moved = run.to("numpy", dtype="float32")
    same = (moved.predict_class(X[test]) == guess).all()
    print(f"5. Moved to {moved.backend} in {moved.backend.dtype}: the same answers: {same}")
    shares = {name: run.history[f"validation_{name}"] for name in settings["metrics"][:2]}
    common.picture(
        args.out / "training_features.png",
        lambda ax: run.plot(ax=ax).set_title("Breast cancer"),
        lambda ax: plots.curves(shares, ylabel="share right", ax=ax),
    )


if __name__ == "__main__":
    main()
