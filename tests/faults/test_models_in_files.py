"""Files that are whole, but not what they should be (A11, A12, B6 to B8, B12): what load says."""

import json
import math
import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fits import LABELS, X, assert_same_run, trainer
from processes import leaves, quietly

import portnet
from portnet import ModelFileError
from portnet.files import container
from portnet.files.container import open_container, pack
from portnet.files.models import describe

GOLDEN = Path(__file__).parent.parent / "files" / "golden"
KINDS = "network", "run", "checkpoint", "estimator"


def make(kind, path):
    """Write a file of a kind; return the name of a tensor of its parameters."""
    net = portnet.mlp([5, 8, 3])
    if kind == "network":
        portnet.save((net, portnet.init(net, like=np.zeros(1))), path)
    elif kind == "run":
        trainer().fit(X, LABELS, epochs=1).save(path, state=True)
    elif kind == "checkpoint":
        trainer().fit(X, LABELS, epochs=2, checkpoint=path)
    else:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
        fitted = quietly(portnet.MLPClassifier((8,), max_iter=2).fit, X, LABELS)
        portnet.save(fitted, path, state=True)
        return "coefs_.0"
    return "layers.0.W"


def change(path, of_tensors=None, of_description=None):
    """Write a file anew with other tensors or another description, and a right checksum."""
    with open_container(path) as file:
        described, tensors = describe(file), file.read()
    if of_tensors is not None:
        tensors = of_tensors(tensors)
    text = json.dumps(described)
    if of_description is not None:
        text = of_description(text)
    parts = pack(tensors, {"format_version": "1", "portnet": text})
    Path(path).write_bytes(b"".join(parts))


def refuse(path, match, kind):
    """Check that a file is refused, by load and by a fit that resumes it, at little cost."""
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(ModelFileError, match=match) as error:
            portnet.load(path)
        assert time.process_time() - began < 1.0  # it takes 0.1 s of this process
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(str(path))
    if kind == "checkpoint":
        with pytest.raises((ModelFileError, portnet.ResumeMismatchError)):
            trainer().fit(X, LABELS, epochs=3, resume=path)


@pytest.mark.parametrize("version", [1])
def test_a11_checkpoint_of_an_older_format_is_resumed_exactly(version, tmp_path):
    rows = np.linspace(-1.0, 1.0, 60).reshape(20, 3)
    names = np.array(["ant", "bee"])[(rows[:, 0] + rows[:, 1] ** 2 > 0.2).astype(int)]
    rate = portnet.CosineDecay(0.05, steps=40, warmup=3)
    optimizer = portnet.chain(portnet.ClipNorm(1.0), portnet.AdamW(rate, only="W"))
    model = portnet.mlp([3, 5, 2], "leaky_relu", dropout=0.1)
    made = portnet.Trainer(model, "softmax_cross_entropy", optimizer, batch_size=8)
    options = {"validation": 0.25, "metrics": ["accuracy"], "early_stopping": True}
    golden = GOLDEN / f"checkpoint-v{version}.safetensors"
    again = made.fit(rows, names, epochs=6, resume=golden, **options)
    assert again.epoch == 6
    whole = made.fit(rows, names, epochs=6, **options)
    for p, q in zip(leaves(again.params), leaves(whole.params), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-5)  # another machine made the file


def test_a12_checkpoint_moves_between_backends_bit_for_bit(xp, tmp_path):
    path, back = tmp_path / "run.st", tmp_path / "back.st"
    x = X.astype(portnet.get_backend().dtype)
    with portnet.use_backend("numpy", dtype=portnet.get_backend().dtype):
        trainer().fit(x, LABELS, epochs=2, checkpoint=path)
        host = portnet.load(path)
    moved = portnet.load(path)  # to the backend of this thread
    assert moved.backend.name == portnet.get_backend().name
    moved.save(back, state=True)
    again = portnet.load(back, backend="numpy")
    assert_same_run(again, host)
    for p, q in zip(
        leaves(moved.params, moved.state), leaves(host.params, host.state), strict=True
    ):
        assert (p.dtype, p.tobytes()) == (q.dtype, q.tobytes())
    resumed = trainer().fit(xp.asarray(x), LABELS, epochs=3, resume=path)
    assert (resumed.epoch, resumed.backend.name) == (3, moved.backend.name)


TENSORS = {
    "missing": lambda a, n: {k: v for k, v in a.items() if k != n},
    "extra": lambda a, n: {**a, "extra": np.ones(3, "float32")},
    "renamed": lambda a, n: {k + "'" * (k == n): v for k, v in a.items()},
    "another shape": lambda a, n: a | {n: a[n][:, :-1].copy()},
    "the transpose": lambda a, n: a | {n: a[n].T.copy()},
    "one dimension": lambda a, n: a | {n: a[n].reshape(-1)},
    "no rows": lambda a, n: a | {n: a[n][:0]},
    "integers": lambda a, n: a | {n: a[n].astype(np.int64)},
    "truth values": lambda a, n: a | {n: a[n] > 0},
    "a path": lambda a, n: {k.replace(n, "../../etc/passwd"): v for k, v in a.items()},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", TENSORS)
def test_b6_other_tensors_than_the_description_has(kind, case, tmp_path):
    path = tmp_path / "model.st"
    name = make(kind, path)
    change(path, lambda arrays: TENSORS[case](arrays, name))
    refuse(path, r"tensor|expected", kind)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_b7_parameters_that_are_not_finite(kind, value, tmp_path):
    path = tmp_path / "model.st"
    name = make(kind, path)

    def with_value(arrays):
        arrays[name][1, 1] = value
        return arrays

    change(path, with_value)
    with pytest.raises(ModelFileError, match=rf"'{name}' has NaN or infinity: .*allow_nonfinite"):
        portnet.load(path)
    portnet.load(path, allow_nonfinite=True)


LAYERS, RUNS, ESTIMATOR = KINDS[:3], KINDS[1:3], KINDS[3:]
WORDS = {  # the kinds of files that have the text, the text, and what is there instead
    "an unknown layer": (LAYERS, '"object": "Dense"', '"object": "Conv3D"'),
    "a class that is no layer": (LAYERS, '"object": "Dense"', '"object": "Adam"'),
    "a builtin": (LAYERS, '"object": "Dense"', '"object": "eval"'),
    "an unknown activation": (LAYERS, '"object": "ReLU"', '"object": "exec"'),
    "10^9 units": (LAYERS, '"n_out": 8', '"n_out": 1000000000'),
    "10^400 units": (LAYERS, '"n_out": 8', f'"n_out": 1{"0" * 400}'),
    "-1 units": (LAYERS, '"n_out": 8', '"n_out": -1'),
    "an unknown optimizer": (RUNS, '"object": "Adam"', '"object": "os.system"'),
    "an unknown loss": (RUNS, '"object": "SoftmaxCrossEntropy"', '"object": "Popen"'),
    "10^9 inputs": (RUNS, '"inputs": 5', '"inputs": 1000000000'),
    "an unknown estimator": (ESTIMATOR, '"class": "MLPClassifier"', '"class": "SVC"'),
    "10^9 hidden units": (ESTIMATOR, '{"tuple": [8]}', '{"tuple": [1000000000]}'),
    "hidden units of text": (ESTIMATOR, '{"tuple": [8]}', '{"tuple": ["8"]}'),
    "an activation": (ESTIMATOR, '"activation": "relu"', '"activation": "exec"'),
    "10^9 layers": (ESTIMATOR, '"n_layers_": 3', '"n_layers_": 1000000000'),
    "text for a number": (ESTIMATOR, '"n_outputs_": 3', '"n_outputs_": "3"'),
    "no JSON": (KINDS, '"kind"', "kind"),
    "a list": (KINDS, '{"kind"', '[{"kind"'),
    "another kind": (KINDS, '"kind": "', '"kind": "no '),
}


@pytest.mark.parametrize(("case", "kind"), [(c, kind) for c in WORDS for kind in WORDS[c][0]])
def test_b8_descriptions_of_what_is_not_there(case, kind, tmp_path):
    path, (_, before, after) = tmp_path / "model.st", WORDS[case]
    make(kind, path)
    with open_container(path) as file:
        assert before in json.dumps(describe(file))
    change(path, of_description=lambda text: text.replace(before, after))
    refuse(path, ".", kind)


def test_b12_file_that_is_replaced_or_shortened_while_it_is_read(tmp_path, monkeypatch):
    path, other = tmp_path / "net.st", tmp_path / "other.st"
    net = portnet.mlp([5, 8, 3])
    params = portnet.init(net, like=np.zeros(1))
    portnet.save((net, params), path)
    portnet.save((net, portnet.init(net, seed=9, like=np.zeros(1))), other)
    read = container.Container.read

    def replaced(self):
        os.replace(other, path)
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(container.Container, "read", replaced)
        _, found = portnet.load(path)
    for p, q in zip(leaves(found), leaves(params), strict=True):
        np.testing.assert_array_equal(p, q)
    _, found = portnet.load(path)
    before = [leaf.copy() for leaf in leaves(found)]
    path.write_bytes(b"")  # no view of the file is left
    for p, q in zip(leaves(found), before, strict=True):
        np.testing.assert_array_equal(p, q)
    portnet.save((net, params), path)

    def shortened(self):
        os.truncate(path, os.path.getsize(path) - 8)
        return read(self)

    monkeypatch.setattr(container.Container, "read", shortened)
    with pytest.raises(ModelFileError, match="became shorter while it was read"):
        portnet.load(path)
