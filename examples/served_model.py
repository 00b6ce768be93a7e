"""A classifier in a file, and a second process that serves its predictions without scikit-learn.

178 wines of three growers, thirteen measures of each (`pip install ".[sklearn]"` brings the data).
The first process trains, with a checkpoint after each tenth epoch, and saves the classifier. The
second one opens the file where scikit-learn cannot be imported: it takes rows of numbers from its
standard input, one JSON list a line, and answers each with a class and a probability.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import common
import numpy as np

import portnet


def serve(path):
    """Answer rows of the standard input, until its end."""
    sys.modules["sklearn"] = None  # as if it were not installed
    model = portnet.load(path, backend="numpy")
    for line in sys.stdin:
        row = np.array([json.loads(line)])
        answer = {
            "class": str(model.predict(row)[0]),
            "probability": float(model.predict_proba(row).max()),
        }
        print(json.dumps(answer), flush=True)


def ask(path, rows):
    """Start the second process, and return its answers."""
    lines = "\n".join(json.dumps(row) for row in rows.tolist())
    command = [sys.executable, __file__, "--serve", str(path)]
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    options = common.parser(__doc__)
    options.add_argument("--epochs", type=common.at_least(1), default=200)
    options.add_argument("--serve", type=Path, help="serve the model of this file")
    args = common.begin(options)
    if args.serve:
        return serve(args.serve)
    data = common.scikit_learn_data(options, "load_wine")
    warnings.simplefilter("ignore")  # of a fit that could go on
    growers = np.array(["Barolo", "Grignolino", "Barbera"])
    y, X = growers[data.target], (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    test = np.arange(len(X)) % 4 == 0

    net = portnet.MLPClassifier((16,), random_state=0, max_iter=args.epochs, backend=args.backend)
    with tempfile.TemporaryDirectory() as folder:
        path, checkpoint = Path(folder, "wine.safetensors"), Path(folder, "checkpoint.safetensors")
        net.fit(X[~test], y[~test], checkpoint=checkpoint, every=10)
        portnet.save(net, path)
        answers = ask(path, X[test])
        print(f"accuracy on {test.sum()} others {net.score(X[test], y[test]):.3f}")
        sizes = path.stat().st_size, checkpoint.stat().st_size
        print("bytes of the file {:,}, of the checkpoint {:,}".format(*sizes))
    same = [answer["class"] for answer in answers] == list(net.predict(X[test]))
    print(f"the second process answers the same: {same}")
    for answer in answers[:3]:
        print(f"  {answer['class']}, {answer['probability']:.3f}")
    return None


if __name__ == "__main__":
    main()
