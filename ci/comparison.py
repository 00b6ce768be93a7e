"""Show what README's comparison with other libraries says of portnet, row by row.

    python ci/comparison.py            # all rows
    python ci/comparison.py heads      # one of them

Each row is a function, which checks what it shows and returns a line of results.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec

import numpy as np
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.preprocessing import scale

import portnet
from portnet import MLPClassifier, MLPRegressor, exchange

X, Y = load_iris(return_X_y=True)
X = scale(X)
CANCER, MALIGNANT = load_breast_cancer(return_X_y=True)
CANCER = scale(CANCER)
OPTIONS = {"hidden_layer_sizes": (16, 8), "max_iter": 30, "batch_size": 16, "random_state": 0}


def dropout():
    net = MLPClassifier(dropout=0.2, norm="layer", **OPTIONS).fit(X, Y)
    shapes = [array.shape for array in net.get_weights()]
    assert len(shapes) == 10  # W, b, and beta and gamma of both LayerNorms
    return f"accuracy {net.score(X, Y):.3f}, parameters {shapes}"


def activations():
    net = MLPClassifier(activation=["gelu", portnet.Tanh()], **OPTIONS).fit(X, Y)
    W, b, V, c, U, d = net.get_weights()
    z = X @ W + b
    z = z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2
    logits = np.tanh(z @ V + c) @ U + d
    assert (net.predict(X) == logits.argmax(axis=1)).all()
    return f"GELU, then tanh: accuracy {net.score(X, Y):.3f}, as written by hand"


def loss():
    def quartic(pred, target, weight):
        w = np.ones((len(pred), 1)) if weight is None else weight[:, None]
        error = pred - target
        return (w * error**4).sum() / w.sum(), 4 * w * error**3 / w.sum()

    net = MLPRegressor(loss=quartic, **OPTIONS).fit(X[:, :3], X[:, 3])
    try:
        MLPRegressor(loss=lambda p, t, w: (((p - t) ** 2).mean(), p - t)).fit(X[:, :3], X[:, 3])
    except portnet.GradientError as error:
        return f"R2 {net.score(X[:, :3], X[:, 3]):.3f}; of a wrong gradient: {error}"[:135] + "..."
    raise AssertionError("the wrong gradient was not found")


def scorer():
    net = MLPClassifier(early_stopping=True, scoring="roc_auc", random_state=0)
    net.fit(CANCER, MALIGNANT)
    assert max(net.history_["validation_roc_auc"]) == net.best_validation_score_
    return f"training ended after {net.n_iter_} epochs, area {net.best_validation_score_:.4f}"


def curves():
    net = MLPClassifier(metrics=["accuracy", "f1_macro"], **OPTIONS)
    net.fit(X[::2], Y[::2], X_val=X[1::2], y_val=Y[1::2])
    assert {len(curve) for curve in net.history_.values()} == {net.n_iter_}
    return f"{net.n_iter_} numbers of each of {', '.join(net.history_)}"


def optimizers():
    rate = portnet.CosineDecay(0.02, steps=300, warmup=20)
    clipped = portnet.chain(portnet.ClipNorm(1.0), portnet.AdamW(rate, decay=0.01))
    scores = [MLPClassifier(optimizer=o, **OPTIONS).fit(X, Y).score(X, Y) for o in (clipped, None)]
    assert scores[0] > 0.9
    return "accuracy after 30 epochs: {:.3f}, of adam as it is {:.3f}".format(*scores)


def heads():
    y = np.stack([Y, 2 * (Y > 0)], axis=1)
    net = MLPClassifier(learning_rate_init=0.02, **OPTIONS).fit(X, y)
    shapes = [p.shape for p in net.predict_proba(X)]
    assert shapes == [(150, 3), (150, 2)]
    return f"predict: {net.predict(X).shape}, predict_proba: {shapes}, classes {net.classes_}"


def weights():
    net = MLPClassifier(**OPTIONS).initialize(X, Y)
    before = net.get_weights()
    other = MLPClassifier(**OPTIONS | {"random_state": 1}).initialize(X, Y).set_weights(before)
    assert (net.predict_proba(X) == other.predict_proba(X)).all()
    return f"{len(before)} arrays moved, before any training"


def resume():
    once = MLPClassifier(**OPTIONS | {"max_iter": 20}).fit(X, Y)
    twice = MLPClassifier(**OPTIONS | {"max_iter": 10}).fit(X, Y)
    twice.set_params(max_iter=20).fit(X, Y, resume=True)
    assert all((a == b).all() for a, b in zip(once.coefs_, twice.coefs_, strict=True))
    return "ten epochs and ten have the bits of twenty"


def callbacks():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    net = MLPClassifier(**OPTIONS).set_callbacks(monitor).fit(X, Y)
    scores = [row["accuracy"] for row in monitor.get_logs().data]
    assert len(scores) >= net.n_iter_
    return f"scikit-learn's ScoringMonitor has seen {len(scores)} scores, the last {scores[-1]:.3f}"


def ensembles():
    net = MLPRegressor(n_networks=8, **OPTIONS | {"max_iter": 200}).fit(X[:, :1], X[:, 2])
    _, std = net.predict([[0.0], [10.0]], return_std=True)
    assert std[1] > std[0]
    return f"standard deviation {std[0]:.2f} at the data, {std[1]:.2f} far from them"


def population():
    net = portnet.mlp([4, 8, 3], "tanh")
    given = net, 32, "softmax_cross_entropy", "adam", 150
    several = portnet.Population(*given, learning_rates=np.geomspace(1e-3, 0.1, 32).tolist())
    seconds = []
    for train in (several.fit, lambda *a, **k: [one.fit(*a, **k) for one in several.trainers]):
        began = time.perf_counter()
        runs = train(X[::10], Y[::10], epochs=500)
        seconds.append(time.perf_counter() - began)
    assert len(runs) == 32
    return "32 networks with rates of their own: {:.2f} s, in turn {:.2f} s".format(*seconds)


def onnx():
    import onnxruntime

    net = MLPClassifier(norm="layer", n_networks=3, **OPTIONS).fit(X, Y)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.onnx")
        portnet.export_onnx(net, path)
        session = onnxruntime.InferenceSession(path)
        label, probabilities = session.run(["label", "probabilities"], {"x": X})
    assert (label == net.predict(X)).all()
    return f"largest difference {abs(probabilities - net.predict_proba(X)).max():.1e}"


SERVER = """
import json, sys, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
label, probabilities = session.run(["label", "probabilities"], {"x": json.load(sys.stdin)})
print(json.dumps([label.tolist(), probabilities.tolist(), "portnet" in sys.modules]))
"""


def serve():
    y = np.array(["setosa", "versicolor", "virginica"])[Y]
    net = MLPClassifier(activation="gelu", norm="layer", **OPTIONS).fit(X, y)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.onnx")
        portnet.export_onnx(net, path)
        done = subprocess.run(
            [sys.executable, "-c", SERVER, path],
            input=json.dumps(X.tolist()),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    label, probabilities, imported = json.loads(done.stdout)
    assert label == net.predict(X).tolist()
    assert abs(probabilities - net.predict_proba(X)).max() < 1e-12
    assert not imported
    return f"the same {len(label)} labels from a process without portnet, the first {label[0]!r}"


def exchanges():
    net = MLPClassifier(**OPTIONS).fit(X, Y)
    theirs = exchange.to_sklearn(net)
    assert isinstance(theirs, TheirClassifier)
    assert (exchange.from_sklearn(theirs).predict_proba(X) == net.predict_proba(X)).all()
    state, model = exchange.to_torch(net), portnet.mlp([4, 16, 8, 3])
    for params in (
        exchange.from_torch(state, model),
        exchange.from_keras(exchange.to_keras(net), model),
    ):
        raw, _ = model.forward(params, X)
        assert (raw.argmax(axis=1) == net.predict(X)).all()
    return f"the same classes by scikit-learn's network, {', '.join(state)}, and Keras' list"


def quality():
    models = {
        "one network": MLPClassifier(max_iter=500, random_state=0),
        "8 networks": MLPClassifier(max_iter=500, random_state=0, n_networks=8),
        "early stopping": MLPClassifier(max_iter=500, random_state=0, early_stopping=True),
        "gradient boosting": HistGradientBoostingClassifier(random_state=0),
        "forest": RandomForestClassifier(random_state=0),
    }
    scores = {k: cross_val_score(m, CANCER, MALIGNANT, cv=3).mean() for k, m in models.items()}
    assert min(scores["one network"], scores["8 networks"]) > 0.96
    return "breast cancer: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items())


ROWS = {
    "dropout": dropout,
    "activations": activations,
    "loss": loss,
    "scorer": scorer,
    "curves": curves,
    "optimizers": optimizers,
    "heads": heads,
    "weights": weights,
    "resume": resume,
    "callbacks": callbacks,
    "ensembles": ensembles,
    "population": population,
    "onnx": onnx,
    "serve": serve,
    "exchange": exchanges,
    "quality": quality,
}
ONNX = ["onnx", "onnxruntime"]
NEEDS = {"onnx": ONNX, "serve": ONNX, "exchange": ["torch"]}


def main():
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("rows", nargs="*", metavar="row", help=", ".join(ROWS))
    chosen = options.parse_args().rows or list(ROWS)
    if unknown := sorted({*chosen} - {*ROWS}):
        options.error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    warnings.simplefilter("ignore")  # of short fits
    for name in chosen:
        missing = [m for m in NEEDS.get(name, []) if find_spec(m) is None]
        text = f"needs {' and '.join(missing)}" if missing else ROWS[name]()
        print(f"{name}: {text}")


if __name__ == "__main__":
    main()
