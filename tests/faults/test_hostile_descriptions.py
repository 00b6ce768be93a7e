"""Descriptions that were changed by someone who set the checksum right: an error, or a model.

python tests/faults/test_hostile_descriptions.py [COUNT]
"""

import copy
import json
import random
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import portnet
from portnet.files.container import open_container, pack
from portnet.files.models import describe
from portnet.files.show import text_of

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
    """Return paths of a network, a run with state, a checkpoint, an estimator, an ensemble."""
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
            several = portnet.MLPClassifier((4,), max_iter=2, n_networks=3).fit(X, LABELS)
            several.estimators_, several._missing_seeds = several.estimators_[:2], [7]  # Ctrl-C
            portnet.save(several, folder / "interrupted", state=True)
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
            with suppress(portnet.ModelFileError):
                text_of(path)
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


# Descriptions that would cost much -----------------------------------------------------------------

SECONDS, BYTES = 0.1, 50e6  # that a hostile file may cost
SIZE, VALUES_LIMIT, DEPTH = 1 << 19, 30_000, 200
NETWORK = '{"kind":"network","params":[{"tensor":"x"}],"model":...}'


def repeated(piece, each, most=VALUES_LIMIT):
    """Return a list of a piece that has so many values, as long as the limits allow."""
    count = min((most - 20) // each, (SIZE - 200) // (len(piece) + 1))
    return "[" + ",".join([piece] * count) + "]"


def nested(begin, end, depth):
    return begin * depth + "null" + end * depth


PRIME = 2**61 - 1  # Python's hash of its multiples is 0


def items(key, each, count):
    """Return a dict whose keys have one hash, of so many values each."""
    count = min(count, (VALUES_LIMIT - 20) // each, (SIZE - 200) // (len(key) + 24))
    pairs = [f"[{key.replace('...', str(i * PRIME))},0]" for i in range(1, count)]
    return '{"items":[...]}'.replace("...", ",".join(pairs))


RELU = '{"object":"ReLU","fields":{}}'
CHAIN = '{"object":"Chain","fields":{"layers":...}}'
BOMBS = {
    **{piece: repeated(piece, 1) for piece in ("[]", "{}", "0", "0.5", "true", '""', "null")},
    "numbers of 17 digits": repeated("0.12345678901234567", 1),
    "numbers of 4,000 digits": repeated("9" * 4000, 1),
    "huge exponents": repeated("1e9999999", 1),
    "lists in lists": repeated("[[]]", 2),
    "tuples": repeated('{"tuple":[]}', 2),
    "not a number": repeated('{"float":"nan"}', 2),
    "layers": repeated(RELU, 3),
    "layers that are wrong": repeated('{"object":"Dense","fields":{"n_out":1}}', 4),
    "chains": repeated(CHAIN.replace("...", "[]"), 4),
    "chains in chains": nested('{"object":"Chain","fields":{"layers":[', "]}}", DEPTH // 3 - 1),
    "a chain of many": CHAIN.replace("...", repeated(RELU, 3)),
    "chains of many": "[...]".replace(
        "...", ",".join([CHAIN.replace("...", repeated(RELU, 3, 9_000))] * 3)
    ),
    "residuals": nested('{"object":"Residual","fields":{"layer":', "}}", DEPTH // 2 - 1),
    "functions": repeated('{"function":"accuracy"}', 2),
    "tensors": repeated('{"tensor":"x"}', 2),
    "long keys": nested(f'{{"dict":{{"{"k" * (2 * SIZE // DEPTH - 30)}":', "}}", DEPTH // 2 - 1),
    "long names of fields": nested(
        f'{{"object":"Chain","fields":{{"{"k" * (2 * SIZE // DEPTH - 50)}":', "}}", DEPTH // 2 - 1
    ),
    "many keys": "{...}".replace("...", ",".join(f'"{i:x}":0' for i in range(29_000))),
    "keys of one hash": items("...", 3, VALUES_LIMIT),
    "tuples of one hash": items('{"tuple":[...]}', 5, VALUES_LIMIT),
    "dicts of keys of one hash": repeated(items("...", 3, 100), 300),
    "a long text": f'"{"x" * (SIZE - 200)}"',
    "escapes": f'"{(chr(92) + "u00e9") * (SIZE // 6 - 200)}"',
    "backslashes": f'"{chr(92) * (SIZE - 200)}"',
}


def put(path, text):
    with open(path, "wb") as file:
        for part in pack({"x": np.ones(1)}, {"format_version": "1", "portnet": text}):
            file.write(part)


@pytest.mark.parametrize("name", BOMBS)
def test_descriptions_within_the_limits_cost_little(name, tmp_path):
    path = str(tmp_path / "model")
    put(path, NETWORK.replace("...", BOMBS[name]))

    def refused():
        with pytest.raises(portnet.ModelFileError) as caught:
            portnet.load(path)
        return str(caught.value)

    assert "its description is no JSON" not in refused()
    tracemalloc.start()
    try:
        refused()
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    seconds = []
    for _ in range(3):  # other programs slow down some
        begin = time.process_time()
        refused()
        seconds.append(time.process_time() - begin)
    assert min(seconds) < SECONDS


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (repeated("0", 1, 50_000), "49,98. values, expected at most 30,000"),
        ('"%s"' % ("x" * SIZE), "bytes, expected at most 524,288"),
        ("[" * 200 + "]" * 200, "nested deeper than 200"),
        ('{"dict":{"a":0,"b":1,"a":2}}', "the key 'a' twice"),
        ("NaN", "it holds NaN"),
        ("-Infinity", "it holds -Infinity"),
    ],
    ids=["values", "size", "depth", "a key twice", "NaN", "infinity"],
)
def test_descriptions_above_the_limits_are_not_parsed(model, match, tmp_path):
    put(tmp_path / "model", NETWORK.replace("...", model))
    with pytest.raises(portnet.ModelFileError, match=f"its description is no JSON.*{match}"):
        portnet.load(tmp_path / "model")


def test_key_twice_in_items_is_refused(tmp_path):
    put(tmp_path / "model", NETWORK.replace("...", '{"items":[[1,0],[true,0]]}'))
    with pytest.raises(portnet.ModelFileError, match="a key is there twice"):
        portnet.load(tmp_path / "model")


ESCAPE = r"\u001b[31m"  # as JSON; a terminal would write red
LETTERS = "x" * 100_000
MESSAGES = {
    "a class": f'{{"object":"{ESCAPE}","fields":{{}}}}',
    "a field": f'{{"object":"Dense","fields":{{"{ESCAPE}":1}}}}',
    "a value": f'{{"object":"Dense","fields":{{"n_out":"{ESCAPE}"}}}}',
    "a custom class": f'{{"custom":"{ESCAPE}","fields":{{}}}}',
    "a key": f'{{"dict":{{"{ESCAPE}":{{"no":1}}}}}}',
    "a long field": f'{{"object":"Dense","fields":{{"{LETTERS}":1}}}}',
    "a long value": f'{{"object":"Dense","fields":{{"n_out":"{LETTERS}"}}}}',
    "a long custom class": f'{{"custom":"{LETTERS}","fields":{{}}}}',
    "a long key": f'{{"dict":{{"{LETTERS}":{{"no":1}}}}}}',
    "a field of the caller's class": f'{{"custom":"Dense","fields":{{"{ESCAPE}":1}}}}',
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_and_tracebacks_are_short_and_have_no_control_characters(name, tmp_path):
    put(path := tmp_path / "model", NETWORK.replace("...", MESSAGES[name]))
    with pytest.raises(portnet.ModelFileError) as caught:
        portnet.load(path, custom={"Dense": portnet.Dense})
    assert str(caught.value).startswith(str(path))
    shown = "".join(traceback.format_exception(caught.value))
    assert "\x1b" not in shown
    assert len(str(caught.value)) < 2500
    assert len(shown) < 20_000


def test_message_of_a_mismatch_has_no_control_characters(tmp_path):
    path = tmp_path / "\x1b[31mrun"
    trainer = portnet.Trainer(portnet.mlp([3, 2]), "softmax_cross_entropy")
    codes = (X[:, 0] > 0).astype(int)
    trainer.fit(X, codes, epochs=1, checkpoint=path)
    with open_container(path) as container:
        description, tensors = describe(container), container.read()
    description["checkpoint"]["options"]["\x1b[31m"] = 1
    with open(path, "wb") as file:
        text = json.dumps(description)
        file.writelines(pack(tensors, {"format_version": "1", "portnet": text}))
    with pytest.raises(
        portnet.ResumeMismatchError, match=r"\n  options\.\\x1b\[31m: 1 in the"
    ) as caught:
        trainer.fit(X, codes, epochs=2, resume=path)
    assert "\x1b" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(portnet.ModelFileError) as caught:
        portnet.load(path)
    assert str(caught.value).count("[31mrun") == 1


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
