"""Descriptions that were changed by someone who set the checksum right: an error, or a model.

python tests/faults/test_hostile_descriptions.py [COUNT]
"""

import copy
import json
import random
import sys
import tempfile
import time
import tracemalloc
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import portnet
from portnet.files.container import open_container, pack
from portnet.files.models import describe

X = np.linspace(-1.0, 1.0, 60).reshape(20, 3)
LABELS = np.array(["ant", "bee"])[(X[:, 0] > 0).astype(int)]
VALUES = [
    *(None, True, False, 0, -1, 1, 10**12, 10**400, 0.5, 1e308, "", "x", "Dense", "exec", [], {}),
    *(
        [[]],
        {"tuple": []},
        {"float": "nan"},
        {"float": "x"},
        {"tensor": "layers.0.W"},
        {"dict": {}},
    ),
    *(
        {"object": "Dense", "fields": {"n_out": 3}},
        {"object": "Run", "fields": {}},
        {"items": [[]]},
    ),
    *({"custom": "os.system", "fields": {"command": "true"}}, {"function": "accuracy"}, [None] * 9),
    *(
        {"object": "Chain", "fields": {"layers": []}},
        {"object": ["Dense"], "fields": None},
        "a" * 9999,
    ),
]


def files(folder):
    """Return paths of a network, a run with state, a checkpoint, an estimator."""
    folder = Path(folder)
    net = portnet.mlp([3, 4, 2], "gelu", norm="layer", dropout=0.1)
    portnet.save((net, portnet.init(net, like=X)), folder / "network")
    trainer = portnet.Trainer(net, "softmax_cross_entropy", batch_size=8)
    options = {"validation": 0.25, "metrics": ["accuracy"], "early_stopping": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer.fit(X, LABELS, epochs=2, checkpoint=folder / "checkpoint", **options)
        run.save(folder / "run", state=True)
        if find_spec("sklearn"):
            net = portnet.MLPClassifier((4,), max_iter=2, early_stopping=True).fit(X, LABELS)
            portnet.save(net, folder / "estimator", state=True)
    return sorted(folder.iterdir())


def places(value, path=()):
    """Yield the keys to each value of a description."""
    yield path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in list(pairs):
            yield from places(part, (*path, key))


def changed(description, draw):
    """Return a description in which some values are others, are gone, or have another name."""
    made = copy.deepcopy(description)
    for _ in range(draw.choice([1, 1, 2, 5])):
        *keys, last = draw.choice([p for p in places(made) if p])
        inside = made
        for key in keys:
            inside = inside[key]
        kind = draw.randrange(4)
        if kind == 0 and isinstance(inside, dict):
            inside[draw.choice(["x", "object", "fields", "tuple", "n_out"])] = inside.pop(last)
        elif kind == 1:
            del inside[last]
        elif kind == 2:
            other = draw.choice([p for p in places(made) if p])
            found = made
            for key in other:
                found = found[key]
            inside[last] = copy.deepcopy(found)
        else:
            inside[last] = copy.deepcopy(draw.choice(VALUES))
    return made


def fuzz(count, seed):
    """Load so many changed files; return how many were read, and the longest time in seconds."""
    draw, read, slowest = random.Random(seed), 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        originals = []
        for path in files(folder):
            with open_container(path) as container:
                originals.append((describe(container), container.read()))
        path = Path(folder, "changed")
        for _ in range(count):
            description, tensors = draw.choice(originals)
            text = json.dumps(changed(description, draw))
            with open(path, "wb") as file:
                for part in pack(tensors, {"format_version": "1", "portnet": text}):
                    file.write(part)
            began = time.perf_counter()
            try:
                portnet.load(path)
                read += 1
            except portnet.ModelFileError as error:
                if not str(error).startswith(str(path)):
                    raise
            slowest = max(slowest, time.perf_counter() - began)
    return read, slowest


def main(count):
    seed = random.randrange(10**9)
    print(f"{count:,} changed descriptions, seed {seed}", end=": ", flush=True)
    read, slowest = fuzz(count, seed)
    print(f"{read} were read, the others raised ModelFileError; slowest {1e3 * slowest:.1f} ms")


def test_changed_descriptions_raise_model_file_error():
    fuzz(1, 0)  # what is imported at first use
    tracemalloc.start()
    try:
        read, _ = fuzz(400, 7)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert read < 300


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
