"""Networks, runs and estimators in files: what is loaded is what was saved."""

import importlib.util
import json
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fits import (
    LABELS,
    NAMES,
    NET,
    RESUME_CASES,
    X,
    assert_equal,
    assert_same_run,
    classifier,
    trainer,
)

import portnet
from portnet import ModelFileError, tree
from portnet.files import encoding
from portnet.files.container import open_container, pack
from portnet.files.models import describe
from portnet.files.show import text_of
from portnet.layers import ACTIVATIONS
from portnet.losses import LOSSES
from portnet.optimizers import OPTIMIZERS


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.safetensors")


def reloaded(thing, path, custom=None, **options):
    portnet.save(thing, path, **options)
    return portnet.load(path, custom=custom)


# Networks ----------------------------------------------------------------------------------------

LAYERS = [
    portnet.Dense(4, "he_uniform"),
    *ACTIVATIONS.values(),
    portnet.LeakyReLU(0.3),
    portnet.Dropout(0.2),
    portnet.LayerNorm(1e-3),
    portnet.Residual(portnet.Chain([portnet.Dense(6), portnet.Tanh(), portnet.Dense(3)])),
    portnet.mlp([3, 5, 2], "silu", norm="layer", dropout=0.1),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_is_loaded_as_it_was(layer, dtype, path):
    params = portnet.init(layer, 3, seed=1, like=np.zeros(1, dtype))
    if not tree.leaves(params):
        layer = portnet.Chain([portnet.Dense(3), layer])
        params = portnet.init(layer, 3, seed=1, like=np.zeros(1, dtype))
    model, found = reloaded((layer, params), path)
    assert model == layer
    assert tree.paths(found) == tree.paths(params)
    for p, q in zip(tree.leaves(found), tree.leaves(params), strict=True):
        assert (p.dtype, p.shape, p.tobytes()) == (q.dtype, q.shape, q.tobytes())
        p += 1.0  # it can be written


def read_description(path):
    """Return the description in a file: dicts, lists and arrays, and objects as (class, fields).

    As the docstring of portnet.files describes the format, with safetensors and json alone.
    """
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    with safetensors.safe_open(path, framework="np") as file:
        description = json.loads(file.metadata()["portnet"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def value(v):
        if isinstance(v, list):
            return [value(part) for part in v]
        if not isinstance(v, dict):
            return v
        if "tensor" in v:
            return tensors[v["tensor"]]
        if "text" in v:
            return bytes(tensors[v["text"]["tensor"]]).decode().split("\0")[:-1]
        if "object" in v:
            return v["object"], value({"dict": v["fields"]})
        if "tuple" in v or "items" in v:
            return value(v.get("tuple", v.get("items")))
        return {key: value(part) for key, part in v.get("dict", v).items()}

    return value(description)


def read_network(path):
    """Return the layers of a network in a file, as (class, fields), and its parameters."""
    described = read_description(path)
    _, chain = described["model"]
    return chain["layers"], described["params"]


def test_reader_of_twenty_lines_reads_a_network(path):
    net = portnet.mlp([4, 6, 3], "tanh")
    params = portnet.init(net, seed=2, like=np.zeros(1, "float32"))
    portnet.save((net, params), path)
    layers, found = read_network(path)
    assert [name for name, _ in layers] == ["Dense", "Tanh", "Dense"]
    assert [fields["n_out"] for name, fields in layers if name == "Dense"] == [6, 3]
    for p, q in zip(found, params, strict=True):
        if q:
            assert_equal([p["W"], p["b"]], [q["W"], q["b"]])


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def test_reader_of_the_docstring_reads_runs(path):
    options = {"validation": 0.25, "early_stopping": True, "metrics": ["accuracy"]}
    run = trainer().fit(X, NAMES[LABELS], epochs=4, checkpoint=path, **options)
    found = read_description(path)
    assert (found["kind"], found["run"]["epoch"]) == ("run", 4)
    assert found["run"]["classes"] == list(NAMES)
    assert found["run"]["trainer"]["optimizer"] == ("Adam", vars(run.trainer.optimizer))
    np.testing.assert_array_equal(found["run"]["history"]["loss"], run.history["loss"])
    assert found["run"]["_monitors"]["early_stopping"][1]["epoch"] == run.best_epoch
    for p, q in zip(found["run"]["_best"] or found["run"]["params"], run.best.params, strict=True):
        assert not q or np.array_equal(p["W"], q["W"])
    assert found["checkpoint"]["data"]["y"]["shape"] == [72]
    assert found["progress"] is None


def test_reader_of_the_docstring_reads_estimators(path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    wide = pandas.DataFrame(np.tile(X, 400), columns=[f"name {i}" for i in range(2000)])
    y = (LABELS > 1) * 2 - 1
    fitted = portnet.MLPClassifier((4, 3), activation="logistic", random_state=0, max_iter=2)
    with pytest.warns(UserWarning, match="converged"):
        fitted.fit(wide, y, checkpoint=path)
    found = read_description(path)
    fit = found["fitted"]
    assert fit["feature_names_in_"] == list(wide.columns)
    x = wide.to_numpy()
    for W, b in zip(fit["coefs_"], fit["intercepts_"], strict=True):
        x = sigmoid(x @ W + b)  # of the layers and of the outputs
    assert (found["parameters"]["activation"], fit["out_activation_"]) == ("logistic", "logistic")
    np.testing.assert_allclose(x[:, 0], fitted.predict_proba(wide)[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(fit["labels"]["classes"], fitted.classes_)
    assert len(found["progress"]["losses"]) == fit["n_iter_"] == 2


def keys_of(path):
    with open_container(path) as container:
        described = describe(container)
    found = {*described, *described["made"]}
    for part in ("run", "checkpoint"):
        found |= set(described.get(part, {}))
    if described["kind"] == "run":
        found |= {*described["run"]["trainer"]["dict"], *described["run"]["_monitors"]["dict"]}
    for part in ("fitted", "progress"):
        found |= set((described.get(part) or {"dict": {}})["dict"])
    return found | set(
        (described.get("fitted") or {"dict": {}})["dict"].get("labels", {"dict": {}})["dict"]
    )


def test_docstring_names_every_field_of_a_file(path):
    text = portnet.files.__doc__
    trainer().fit(
        X,
        LABELS,
        checkpoint=path,
        validation=0.25,
        early_stopping=True,
        reduce_on_plateau=True,
    )
    found = keys_of(path) | set(encoding._Decoder.KINDS) | {"scalar", "fields"}
    portnet.save((NET, portnet.init(NET, like=np.zeros(1))), path)
    found |= keys_of(path)
    if importlib.util.find_spec("sklearn"):
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")

        class Own(portnet.MLPClassifier):
            pass

        frame = pandas.DataFrame(X, columns=list("abcde"))
        for made in (portnet.MLPClassifier, Own):
            net = made((3,), max_iter=2, early_stopping=True, class_weight="balanced")
            net.set_params(norm="layer", metrics=["f1_macro"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                net.fit(frame, LABELS, checkpoint=path)
            found |= keys_of(path)
    assert [name for name in sorted(found) if f'"{name}"' not in text] == []


TABLE = "float", "tuple", "dict", "items", "tensor", "text", "object", "function", "custom"
CHECKSUM = {"shape", "dtype", "crc32"}


def plain_objects(value, name="description"):
    """Yield the names of the objects with keys of their own; fail where one has no name."""
    if isinstance(value, list):
        for part in value:
            yield from plain_objects(part, "")
    elif isinstance(value, dict) and set(value) != CHECKSUM:
        keys = set(TABLE).intersection(value)
        if not keys:
            assert name
            yield name
        for key, part in value.items():
            inside = value["fields"] or {} if key == "fields" else part if key == "dict" else {}
            for found in inside.values():
                yield from plain_objects(found, "")
            if not inside and key != "fields":
                yield from plain_objects(part, "" if keys else key)


def test_objects_with_keys_of_their_own_are_those_of_the_docstring(path):
    text = portnet.files.__doc__.split("Objects with keys of their own are the ")[1]
    named = re.findall(r'(?:"(\w+)")', text[: text.index("and the checksum")])
    net = portnet.Chain([portnet.Dense(3), Snake()])
    options = {"early_stopping": True, "reduce_on_plateau": True, "metrics": [own_metric]}
    start = portnet.Trainer(net, "softmax_cross_entropy", params=portnet.init(net, 5, like=X))
    found = set()
    for made in (trainer(), start):
        made.fit(X, LABELS, validation=0.25, checkpoint=path, epochs=2, **options)
        with open_container(path) as container:
            found |= set(plain_objects(describe(container)))
    assert found == {"description", *named}


def own_metric(pred, target, weight=None):
    return portnet.namespace(pred).mean(pred)


def test_checksum_is_that_of_the_docstring(path):
    net = portnet.mlp([4, 6, 3])
    portnet.save((net, portnet.init(net, like=np.zeros(1))), path)
    with open(path, "rb") as file:
        whole = file.read()
    (size,) = struct.unpack("<Q", whole[:8])
    crc = json.loads(whole[8 : 8 + size])["__metadata__"]["crc32"]
    assert int(crc, 16) == zlib.crc32(whole.replace(crc.encode(), b"00000000", 1))


@dataclass(frozen=True)
class Snake:
    """x + sin^2(a x) / a: a layer of the user's, with a field and a parameter."""

    a: float = 1.0
    table: tuple = (1, 2)

    def init(self, rng, n_in):
        return {"s": np.ones((1, n_in))}, n_in

    def forward(self, params, x, key=None):
        xp = portnet.namespace(x)
        return params["s"] * (x + xp.sin(self.a * x) ** 2 / self.a), x

    def backward(self, params, x, dy):
        xp = portnet.namespace(x)
        y = x + xp.sin(self.a * x) ** 2 / self.a
        ds = xp.sum(dy * y, axis=0, keepdims=True)
        return {"s": ds}, dy * params["s"] * (1.0 + xp.sin(2.0 * self.a * x))


def own_loss(pred, target, weight=None):
    xp = portnet.namespace(pred)
    return xp.mean((pred - target) ** 2), 2.0 * (pred - target) / pred.shape[0]


def test_custom_parts_are_given_at_load(path):
    net = portnet.Chain([portnet.Dense(4), Snake(0.5), portnet.Dense(1)], n_in=5)
    run = portnet.Trainer(net, own_loss, batch_size=32).fit(X, X[:, 0], epochs=2)
    portnet.save(run, path, state=True)
    with pytest.raises(ModelFileError, match=r"'Snake' is not portnet's own\. Give its class"):
        portnet.load(path)
    with pytest.raises(ModelFileError, match=r"loss: 'own_loss' is not portnet's own"):
        portnet.load(path, custom={"Snake": Snake})
    again = portnet.load(path, custom={"Snake": Snake, "own_loss": own_loss})
    assert again.trainer.model == net
    np.testing.assert_array_equal(again.predict(X), run.predict(X))
    assert_same_run(again.fit(X, X[:, 0], epochs=2), run.fit(X, X[:, 0], epochs=2))


def test_custom_class_of_other_fields_is_an_error(path):
    net = portnet.Chain([portnet.Dense(4), Snake()])
    portnet.save((net, portnet.init(net, 3, like=np.zeros(1))), path)

    class Other:
        pass

    with pytest.raises(ModelFileError, match=r"layers\.1: Other cannot be made: .*give an object"):
        portnet.load(path, custom={"Snake": Other})
    model, _ = portnet.load(path, custom={"Snake": Snake(3.0)})
    assert model.layers[1] == Snake(3.0)


def test_numpy_numbers_in_settings_are_loaded(path):
    made = trainer(
        batch_size=np.int64(16), seed=np.int32(3), optimizer=portnet.SGD(np.float64(0.1))
    )
    run = made.fit(X, LABELS, epochs=1)
    again = reloaded(run, path, state=True)
    assert (again.trainer.batch_size, again.trainer.seed) == (16, 3)
    assert_same_run(again.fit(X, LABELS, epochs=1), run.fit(X, LABELS, epochs=1))


@dataclass(frozen=True, eq=False)
class Standardized:
    """(x - mean) / std: a layer that checks its arrays."""

    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self):
        if not (np.asarray(self.std) > 0).all():
            raise ValueError("std: expected numbers above 0")

    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x, key=None):
        return (x - portnet.namespace(x).asarray(self.mean)) / self.std, None

    def backward(self, params, cache, dy):
        return (), dy / self.std


def test_arrays_of_a_custom_layer_are_loaded(path):
    net = portnet.Chain([Standardized(X.mean(axis=0), X.std(axis=0)), portnet.Dense(2)], n_in=5)
    params = portnet.init(net, like=np.zeros(1))
    model, found = reloaded((net, params), path, {"Standardized": Standardized})
    expected, _ = net.forward(params, X)
    np.testing.assert_array_equal(model.forward(found, X)[0], expected)


class Slots:
    """A layer whose fields are nowhere listed as values."""

    __slots__ = ("a",)

    def __init__(self, a=1.0):
        self.a = a

    def init(self, rng, n_in):
        return {"s": np.ones((1, n_in))}, n_in

    def forward(self, params, x, key=None):
        return params["s"] * x * self.a, x

    def backward(self, params, x, dy):
        return params, dy


def test_what_would_be_loaded_as_another_thing_cannot_be_saved(path):
    import functools

    params = portnet.init(portnet.Chain([Slots(3.0)]), 2, like=np.zeros(1))
    with pytest.raises(TypeError, match=r"Slots has __slots__.*make it a dataclass"):
        portnet.save((portnet.Chain([Slots(3.0)]), params), path)

    first = Snake

    @dataclass(frozen=True)
    class Snake2(Snake):
        pass

    Snake2.__name__ = "Snake"
    net = portnet.Chain([first(), Snake2()])
    with pytest.raises(TypeError, match="there are two classes named Snake: rename one"):
        portnet.save((net, portnet.init(net, 2, like=np.zeros(1))), path)
    loss = functools.partial(own_loss)
    run = portnet.Trainer(portnet.mlp([5, 1]), loss).fit(X, X[:, 0], epochs=1)
    with pytest.raises(TypeError, match=r"trainer\.loss: a function with arguments of its own"):
        run.save(path)


def test_tensor_that_is_named_twice_is_refused(path):
    """A small file would make a model of any size."""
    net = portnet.Chain([portnet.Dense(4), portnet.Dense(4), portnet.Dense(4)], n_in=4)
    portnet.save((net, portnet.init(net, like=np.zeros(1))), path)

    def change(described):
        layers = described["params"]["tuple"]
        described["params"]["tuple"] = [layers[0], layers[0], layers[2]]

    rewritten(path, change, lambda a: {k: v for k, v in a.items() if "layers.1" not in k})
    with pytest.raises(ModelFileError, match="params: a tensor is named twice"):
        portnet.load(path)


def test_weights_that_are_shared_are_saved_for_each_layer(path):
    net = portnet.Chain([portnet.Dense(4), portnet.Dense(4)], n_in=4)
    (layer, _) = portnet.init(net, like=np.zeros(1))
    _, found = reloaded((net, (layer, layer)), path)
    np.testing.assert_array_equal(found[1]["W"], layer["W"])


def test_unknown_device_is_an_error(path):
    net = portnet.mlp([2, 1])
    portnet.save((net, portnet.init(net, like=np.zeros(1))), path)
    for options in ({"device": "nonsense:7"}, {"backend": "numpy", "device": "nonsense:7"}):
        with pytest.raises((ValueError, TypeError), match="device"):
            portnet.load(path, **options)


def test_function_without_a_name_cannot_be_saved(path):
    run = portnet.Trainer(portnet.mlp([5, 1]), lambda p, t, w: own_loss(p, t)).fit(X, X[:, 0])
    with pytest.raises(TypeError, match=r"trainer\.loss: expected what has a name.*Define it with"):
        portnet.save(run, path)


@pytest.mark.parametrize("thing", [3, "text", None, (1, 2), portnet.mlp([2, 1]), {"W": np.ones(2)}])
def test_other_things_are_an_error_and_write_nothing(thing, path, tmp_path):
    with pytest.raises(TypeError, match="save: expected a run, a fitted MLPClassifier or"):
        portnet.save(thing, path)
    assert list(tmp_path.iterdir()) == []


# What is saved can be loaded -------------------------------------------------------------------


def test_parameters_in_lists_are_loaded_as_they_were(path):
    net = portnet.Chain([portnet.mlp([4, 3], "tanh"), portnet.Tanh(), portnet.Dense(2)], n_in=4)
    params = [
        list(portnet.init(net, like=np.zeros(1))[0]),
        [],
        {"W": np.ones((3, 2)), "b": X[:1, :2]},
    ]
    _, found = reloaded((net, params), path)
    assert (type(found), type(found[0]), found[1]) == (list, list, [])
    assert_equal(found, params)
    made = trainer(model=net, params=params)
    with pytest.raises(portnet.DataError):  # the trainer wants the pytree of the model
        made.fit(X[:, :4], LABELS, epochs=1)
    params = list(portnet.init(NET, like=np.zeros(1, "float32")))
    run = trainer(params=params).fit(X, LABELS, epochs=1, checkpoint=path)
    assert_same_run(portnet.load(path), run)
    assert_same_run(portnet.load(path).fit(X, LABELS, epochs=1), run.fit(X, LABELS, epochs=1))


LONG = [f"a feature with a long name, number {i}, in metres \u00b5" for i in range(30_000)]


def test_many_names_of_features_are_loaded(path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(np.ones((4, len(LONG)), "float32"), columns=LONG)
    frame.iloc[::2] = 0.0
    made = portnet.Trainer(portnet.mlp([len(LONG), 1]), "squared_error", portnet.SGD(1e-6))
    run = made.fit(frame, frame.iloc[:, 0], epochs=2, checkpoint=path)
    for _ in range(2):
        again = portnet.load(path)
        assert again.feature_names == tuple(LONG)
        np.testing.assert_array_equal(again.predict(frame), run.predict(frame))
        run.save(path)
    assert made.fit(frame, frame.iloc[:, 0], epochs=3, resume=None, checkpoint=path).epoch == 3
    assert made.fit(frame, frame.iloc[:, 0], epochs=4, resume=path).epoch == 4


@pytest.mark.parametrize("number", [3, 700, 40_000])
def test_many_classes_are_loaded(number, path):
    names = np.array([f"class number {i} \u00e9" for i in range(number)])
    model = portnet.mlp([1, number])
    run = portnet.Trainer(model, "softmax_cross_entropy").fit(np.ones((number, 1)), names, epochs=0)
    again = reloaded(run, path)
    assert (again.classes == run.classes).all()
    assert again.classes.dtype == run.classes.dtype


def test_odd_names_are_loaded_as_they_were(path):
    """Also where a name is empty, has a lone surrogate or NUL, or the table is a list."""
    for more in ("", "\ud800", "\U0001f600", "with\0NUL"):
        for kind in (tuple, list):
            table = kind([*LONG[:1000], more, ""])
            net = portnet.Chain([portnet.Dense(2), Snake(1.0, table)], n_in=3)
            params = portnet.init(net, like=np.zeros(1))
            model, _ = reloaded((net, params), path, {"Snake": Snake})
            assert model.layers[1].table == table


BAD_TEXT = {
    "floats": np.zeros(8, "float32"),
    "a matrix": np.zeros((2, 4), "uint8"),
    "no end": np.array([65, 0, 66], "uint8"),
    "no UTF-8": np.array([255, 0], "uint8"),
    "many": np.zeros(encoding.COUNT_LIMIT + 1, "uint8"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_text_of_another_form_is_refused(case, path):
    trainer().fit(X, LABELS, epochs=1).save(path)
    change = set_at("run", "feature_names", value={"text": {"tensor": "names"}})
    rewritten(path, change, lambda arrays: {**arrays, "names": BAD_TEXT[case]})
    with pytest.raises(ModelFileError, match=r"feature_names|expected"):
        portnet.load(path)


def test_too_much_text_is_an_error_before_training(path, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "TEXT_LIMIT", 20_000)
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame, done = pandas.DataFrame(np.ones((4, 1000)), columns=LONG[:1000]), []
    made = portnet.Trainer(portnet.mlp([1000, 1]), "squared_error")
    run = made.fit(frame, np.ones(4), epochs=1)
    with pytest.raises(ModelFileError, match=r"feature_names: expected at most .* shorter names"):
        run.save(path)
    with pytest.raises(ModelFileError, match="feature_names: expected at most"):
        made.fit(frame, np.ones(4), checkpoint=path, callbacks=[done.append])
    assert (done, list(tmp_path.iterdir())) == ([], [])


def test_description_above_the_limit_is_an_error_before_training(path, tmp_path):
    done = []
    net = portnet.Chain([portnet.Dense(3), Snake(1.0, tuple(range(200_000)))], n_in=5)
    with pytest.raises(ModelFileError, match=r"save: the description is too large for a file"):
        trainer(model=net).fit(X, LABELS, checkpoint=path, callbacks=[done.append])
    net = portnet.Chain([portnet.Dense(1)] * 5001, n_in=1)
    with pytest.raises(ModelFileError, match=r"save: the description is too large .* bytes"):
        portnet.save((net, portnet.init(net, like=np.zeros(1))), path)
    assert (done, list(tmp_path.iterdir())) == ([], [])


OTHER_PARAMETERS = {
    "a bias (n,)": (lambda p: {**p, "b": p["b"][0]}, r"layers\.0\.b: expected shape \(1, 4\), got"),
    "the transpose": (lambda p: {**p, "W": p["W"].T}, r"layers\.0\.W: expected shape \(3, 4\)"),
    "integers": (
        lambda p: {**p, "W": p["W"].astype(int)},
        r"layers\.0\.W: expected floats, got int",
    ),
    "another name": (lambda p: {"W": p["W"], "c": p["b"]}, r"layers\.0: expected parameters \["),
    "a tuple": (lambda p: (p["W"], p["b"]), r"layers\.0: expected parameters \["),
}


@pytest.mark.parametrize("case", OTHER_PARAMETERS)
def test_parameters_that_load_would_refuse_cannot_be_saved(case, path, tmp_path):
    change, message = OTHER_PARAMETERS[case]
    net = portnet.mlp([3, 4, 2])
    first, *others = portnet.init(net, like=np.zeros(1))
    portnet.save((net, (first, *others)), path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ModelFileError, match=f"save: {message}.*Nothing was written"):
        portnet.save((net, (change(first), *others)), path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_of_16_bits_are_loaded_bit_for_bit(backend, dtype, path):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    params = portnet.init(NET, like=np.zeros(1, "float32"))
    params = tree.map(lambda a: jax.numpy.asarray(a, getattr(jax.numpy, dtype)), params)
    portnet.save((NET, params), path)
    _, found = portnet.load(path, backend=backend)
    for p, q in zip(tree.leaves(found), tree.leaves(params), strict=True):
        assert str(p.dtype).endswith(dtype)
        values = p.float() if backend == "torch" else np.asarray(p)
        np.testing.assert_array_equal(np.asarray(values, "float32"), np.asarray(q, "float32"))
    bad = tree.map(lambda a: a * np.nan, params)
    with pytest.raises(ModelFileError, match=r"save: .* NaN or infinity"):
        portnet.save((NET, bad), path)
    rewritten(
        path, lambda d: d, lambda arrays: {n: a * a.dtype.type("nan") for n, a in arrays.items()}
    )
    with pytest.raises(ModelFileError, match="NaN or infinity"):
        portnet.load(path, backend=backend)


@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_parameters_of_another_byte_order_are_loaded_as_those_of_this_machine(dtype, path):
    params = tree.map(lambda a: a.astype(dtype), portnet.init(NET, like=np.zeros(1)))
    portnet.save((NET, params), path)
    _, found = portnet.load(path)
    for p, q in zip(tree.leaves(found), tree.leaves(params), strict=True):
        assert p.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(p, q)


@dataclass(frozen=True)
class Keys:
    """A layer whose parameters have keys of its own."""

    keys: tuple

    def init(self, rng, n_in):
        return {key: np.ones((1, n_in)) for key in self.keys}, n_in

    def forward(self, params, x, key=None):
        return x * params[self.keys[0]], x

    def backward(self, params, cache, dy):
        return params, dy


def test_keys_of_parameters(path):
    for keys in (("a.b", "\u00e9", ""), (1, 2), (("t", 1), ("t", 2))):
        layer = Keys(keys)
        params, _ = layer.init(None, 2)
        _, found = reloaded((layer, params), path, {"Keys": Keys})
        assert set(found) == set(keys)
    layer = Keys(("a.b", 3))
    with pytest.raises(TypeError, match=r"keys can be sorted, such as text, got keys \['a.b', 3\]"):
        portnet.save((layer, layer.init(None, 2)[0]), path)
    with pytest.raises(TypeError, match=r"got keys \['a.b', 3\]"):
        portnet.init(layer, 2, like=np.zeros(1))


def test_layer_of_a_module_named_layers_is_not_portnets_own(path):
    @dataclass(frozen=True)
    class Bend(Snake):
        pass

    Bend.__module__ = "their.layers"
    net = portnet.Chain([portnet.Dense(4), Bend(2.0)], n_in=3)
    params = portnet.init(net, like=np.zeros(1))
    model, found = reloaded((net, params), path, {"Bend": Bend})
    assert model == net
    assert_equal(found, params)


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESUME_CASES)
@pytest.mark.parametrize("state", [True, False])
def test_run_of_every_optimizer_is_loaded_as_it_was(name, state, path):
    optimizer, network = RESUME_CASES[name]
    make = lambda: trainer(optimizer=optimizer, model=portnet.mlp([5, 8, 3], **network))  # noqa: E731
    if name == "lbfgs" and network:
        pytest.skip("L-BFGS takes no random layers")
    run = make().fit(X, LABELS, epochs=3)
    again = reloaded(run, path, state=state)
    assert again.history == run.history
    assert (again.epoch, again.outputs, again.backend) == (3, 3, run.backend)
    assert_equal(again.params, run.params)
    np.testing.assert_array_equal(again.predict_proba(X), run.predict_proba(X))
    if state:
        assert_same_run(again, run)
        assert_same_run(again.fit(X, LABELS, epochs=2), run.fit(X, LABELS, epochs=2))
    elif tree.leaves(run.state):
        with pytest.raises(
            ValueError, match=r"no optimizer state: it was saved without it \(state"
        ):
            again.fit(X, LABELS)
    else:
        again.fit(X, LABELS, epochs=1)


@pytest.mark.parametrize("name", LOSSES)
def test_run_of_every_loss_predicts_the_same(name, path):
    y = LABELS if "softmax" in name else (LABELS > 1) * 1.0
    model = portnet.mlp([5, 4, 3 if "softmax" in name else 1])
    run = portnet.Trainer(model, name, batch_size=32).fit(X, y, epochs=2)
    again = reloaded(run, path)
    np.testing.assert_array_equal(again.predict(X), run.predict(X))
    assert again.trainer.loss == run.trainer.loss
    assert again.evaluate(X, y) == run.evaluate(X, y)


def test_everything_about_a_run_is_kept(path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=list("abcde"))
    options = {
        "validation": 0.2,
        "metrics": ["accuracy", "log_loss"],
        "early_stopping": portnet.EarlyStopping("validation_accuracy", patience=2),
        "reduce_on_plateau": portnet.ReduceOnPlateau("loss", patience=1, min_change=1.0),
    }
    run = classifier().fit(frame, NAMES[LABELS], epochs=9, **options)
    again = reloaded(run, path, state=True)
    assert again.feature_names == tuple("abcde")
    assert list(again.classes) == list(NAMES)
    assert (again.stopped, again.best_epoch) == (run.stopped, run.best_epoch)
    assert_equal(again.best.params, run.best.params)
    assert_same_run(again, run)
    assert list(again.predict_class(frame)) == list(run.predict_class(frame))
    assert again.evaluate(frame, NAMES[LABELS]) == run.evaluate(frame, NAMES[LABELS])


def test_run_that_was_interrupted_within_an_epoch_continues_exactly(path):
    import signal

    whole = trainer()
    expected = whole.fit(X, LABELS, epochs=4)
    steps = []

    def stop(report):
        steps.append(1)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="interrupted"):
        run = whole.fit(X, LABELS, epochs=4, callbacks=[stop])
    again = reloaded(run, path, state=True)
    assert_same_run(again.fit(X, LABELS, epochs=4 - again.epoch), expected)


def test_interrupted_run_without_state_does_not_say_that_it_continues_exactly(path):
    import signal

    with pytest.warns(UserWarning, match="interrupted"):
        run = trainer().fit(
            X, LABELS, epochs=4, callbacks=[lambda report: signal.raise_signal(signal.SIGINT)]
        )
    assert "continues exactly from there" in reloaded(run, path, state=True).stopped
    for fewer in (reloaded(run, path), reloaded(run.without_state(), path), run.without_state()):
        assert fewer.stopped == "interrupted after epoch 1"
    run.save(path, state=True)  # as a file of an earlier version had it
    rewritten(path, lambda d: d["run"].pop("state") and None, without_state)
    assert portnet.load(path).stopped == "interrupted after epoch 1"


def without_state(arrays):
    return {n: a for n, a in arrays.items() if not n.startswith("optimizer")}


def test_run_save_writes_the_same_as_save(path, tmp_path):
    run = trainer().fit(X, LABELS, epochs=1)
    run.save(path, state=True)
    portnet.save(run, tmp_path / "other", state=True)
    assert_same_run(portnet.load(path), portnet.load(tmp_path / "other"))


def test_run_moves_between_backends_bit_for_bit(xp, path):
    run = trainer().fit(xp.asarray(X.astype("float32")), LABELS, epochs=2)
    portnet.save(run, path, state=True)
    host = portnet.load(path, backend="numpy")
    assert host.backend.name == "numpy"
    assert_equal((host.params, host.state), (run.params, run.state))
    back = portnet.load(path)  # the backend of this thread
    assert back.backend == run.backend
    assert_equal((back.params, back.state), (run.params, run.state))
    by_name = portnet.load(path, backend=run.backend.name, device=run.backend.device)
    assert by_name.backend == run.backend


def test_network_goes_to_the_current_backend(xp, path):
    net = portnet.mlp([3, 4, 2])
    params = portnet.init(net, like=xp.asarray(X[:2].astype("float32")))
    portnet.save((net, params), path)
    _, found = portnet.load(path)
    assert type(found[0]["W"]) is type(params[0]["W"])
    assert_equal(found, params)


def test_without_state_the_file_and_the_pickle_are_smaller(path, tmp_path):
    run = trainer(model=portnet.mlp([5, 64, 3])).fit(X, LABELS, epochs=1)
    run.save(path)
    run.save(tmp_path / "state", state=True)
    small, large = (tmp_path / n for n in ("model.safetensors", "state"))
    assert large.stat().st_size > 2.5 * small.stat().st_size - 4000
    assert len(pickle.dumps(run)) > 2 * len(pickle.dumps(run.without_state()))
    np.testing.assert_array_equal(run.without_state().predict(X), run.predict(X))
    with pytest.raises(ValueError, match="no optimizer state"):
        run.without_state().fit(X, LABELS)


def test_pickles_hold_no_compiled_code_and_no_buffers():
    run = trainer(model=portnet.mlp([5, 64, 3])).fit(X, LABELS, epochs=1)
    leaves = [*tree.leaves(run.params), *tree.leaves(run.state)]
    assert len(pickle.dumps(run)) < sum(np.asarray(a).nbytes + 200 for a in leaves) + 3000


def test_parameters_whose_sum_overflows_are_finite(path):
    net = portnet.mlp([2, 3, 1])
    params = portnet.init(net, like=np.zeros(1, "float32"))
    params[0]["W"][...] = 3e38
    _, found = reloaded((net, params), path)
    np.testing.assert_array_equal(found[0]["W"], params[0]["W"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused(bad, path):
    net = portnet.mlp([2, 3, 1])
    params = portnet.init(net, like=np.zeros(1))
    portnet.save((net, params), path)
    params[0]["W"][1, 1] = bad
    rewritten(path, lambda d: d, lambda arrays: {**arrays, "layers.0.W": params[0]["W"]})
    with pytest.raises(ModelFileError, match=r"'layers\.0\.W' has NaN or infinity: load\(\.\.\."):
        portnet.load(path)
    _, found = portnet.load(path, allow_nonfinite=True)
    np.testing.assert_array_equal(found[0]["W"], params[0]["W"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["network", "run"])
def test_parameters_that_are_not_finite_cannot_be_saved_over_a_good_file(kind, bad, path):
    run = trainer().fit(X, LABELS, epochs=1)
    good = run if kind == "run" else (run.trainer.model, run.params)
    portnet.save(good, path)
    params = tree.map(np.array, run.params)
    params[0]["W"][1, 1] = bad
    thing = replace(run, params=params) if kind == "run" else (run.trainer.model, params)
    with pytest.raises(
        ModelFileError, match=r"save: the tensor 'layers\.0\.W' has NaN or inf.*pickle"
    ):
        portnet.save(thing, path)
    portnet.load(path)


def test_parameters_under_other_names_are_not_finite_either(path):
    run_of = trainer().fit(X, LABELS, epochs=1)
    run_of.save(path)

    def change(described):
        text = json.dumps(described).replace("layers.0.W", "history.W")
        return json.loads(text)

    def rename(arrays):
        return {n.replace("layers.0.W", "history.W"): a * np.nan for n, a in arrays.items()}

    rewritten(path, change, rename)
    with pytest.raises(ModelFileError, match=r"'history\.W' has NaN or infinity"):
        portnet.load(path)


def nested_chains(count):
    net = portnet.Dense(3)
    for _ in range(count):
        net = portnet.Chain([net])
    return net, portnet.init(net, 3, like=np.zeros(1))


@pytest.mark.parametrize("count", [60, 150, 300])
def test_layers_nested_too_deeply_cannot_be_saved(count, path):
    portnet.save(nested_chains(48), path)
    model, _ = portnet.load(path)
    assert model == nested_chains(48)[0]
    sys.setrecursionlimit((before := sys.getrecursionlimit()) + 1500)
    try:
        thing = nested_chains(count)
    finally:
        sys.setrecursionlimit(before)
    with pytest.raises(ModelFileError, match=r"save: .* nested (deeper than 200|too deeply)"):
        portnet.save(thing, path)
    portnet.load(path)


# What is refused -----------------------------------------------------------------------------------


def rewritten(path, change, tensors=None):
    """Write the file anew with another description, and a right checksum."""
    container = open_container(path)
    described, arrays = describe(container), container.read()
    described = change(described) or described
    if tensors is not None:
        arrays = tensors(arrays) or arrays
    metadata = {"format_version": "1", "portnet": json.dumps(described)}
    with open(path, "wb") as file:
        for part in pack(arrays, metadata):
            file.write(part)


@pytest.fixture
def run_path(path):
    trainer().fit(X, LABELS, epochs=1).save(path, state=True)
    return path


def set_at(*keys, value):
    def change(described):
        inside = described
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = value

    return change


LAYER = "run", "trainer", "dict", "model", "fields", "layers", "tuple", 0
WRONG = {
    "an unknown layer": (set_at(*LAYER, "object", value="Conv"), "'Conv' is no class of this"),
    "a class that is none": (set_at(*LAYER, "object", value="Run"), "'Run' is no class of this"),
    "a function as a class": (set_at(*LAYER, "object", value="exec"), "'exec' is no class"),
    "a class that is a list": (set_at(*LAYER, "object", value=[]), "unhashable|no class"),
    "another width": (set_at(*LAYER, "fields", "n_out", value=9), r"expected shape \(5, 9\)"),
    "a huge width": (set_at(*LAYER, "fields", "n_out", value=10**12), "expected shape"),
    "a negative width": (set_at(*LAYER, "fields", "n_out", value=-1), "Dense cannot be made"),
    "a width of text": (set_at(*LAYER, "fields", "n_out", value="8"), "Dense cannot be made"),
    "fields of other names": (set_at(*LAYER, "fields", value={"no": 1}), "Dense cannot be made"),
    "fields that are none": (set_at(*LAYER, "fields", value=3), "not as it is written"),
    "an unknown kind": (set_at("kind", value="picture"), "not that of a network"),
    "a network": (set_at("kind", value="network"), "expected a known kind of value, got|model"),
    "an estimator": (set_at("kind", value="estimator"), "expected one of MLPClassifier"),
    "no run": (set_at("run", value=None), "belongs to nothing in it"),
    "a run of nothing": (set_at("run", value={}), "belongs to nothing in it"),
    "other inputs": (set_at("run", "inputs", value=6), "expected 5 inputs, got 6"),
    "other outputs": (set_at("run", "outputs", value=2), "expected 2 outputs, got 3"),
    "inputs of text": (set_at("run", "inputs", value="5"), "inputs: expected"),
    "another dtype": (set_at("dtype", value="float99"), "float99"),
    "an unknown tensor": (
        set_at("run", "params", value={"tensor": "x"}),
        "belongs to nothing|no t",
    ),
    "params of another form": (set_at("run", "params", value=None), "belongs to nothing|expected"),
    "an unknown metric": (
        set_at("run", "metrics", value={"function": "eval"}),
        "no function 'eval'",
    ),
    "a batch size of text": (
        set_at("run", "trainer", "dict", "batch_size", value="many"),
        "batch_size",
    ),
    "state of another form": (set_at("run", "state", value={"tuple": []}), "belongs to nothing|"),
    "an unknown value": (set_at("run", "epoch", value={"what": 1}), "a known kind of value"),
    "long names": (
        set_at("run", "classes", value=["a" * 90_000, *map(str, range(20_000))]),
        "expected shorter names",
    ),
    "a deep value": (
        set_at("run", "epoch", value=json.loads("[" * 300 + "]" * 300)),
        "nested deeper than 200",
    ),
    "a list as a number": (set_at("run", "epoch", value=[[]]), "epoch: expected"),
}


MONITOR = {"object": "MonitorState", "fields": {"monitor": "loss", "best": 0.5}}
NONSENSE = {
    "a negative epoch": ("epoch", -1),
    "True as an epoch": ("epoch", True),
    "a negative step": ("step", -1),
    "no inputs": ("inputs", 0),
    "a scale that is none": ("_scale", {"float": "nan"}),
    "a scale above 1": ("_scale", 1.5),
    "a negative scale": ("_scale", -0.5),
    "a metric that is a number": ("metrics", {"dict": {"a": 5}}),
    "a class twice": ("classes", ["a", "a", "b"]),
    "classes in another order": ("classes", ["b", "a", "c"]),
    "fewer classes": ("classes", ["a", "b"]),
    "classes that are numbers": ("classes", [1, 2, 3]),
    "names that are numbers": ("feature_names", [1, 2, 3, 4, 5]),
    "fewer names": ("feature_names", ["a", "b"]),
    "monitors of another kind": ("_monitors", {"dict": {"early_stopping": 3}}),
    "other monitors": ("_monitors", {"dict": {"other": MONITOR}}),
    "an epoch of a monitor": (
        "_monitors",
        {"dict": {"plateau": {**MONITOR, "fields": {"monitor": "loss", "epoch": -1}}}},
    ),
    "a value of a monitor": (
        "_monitors",
        {"dict": {"plateau": {**MONITOR, "fields": {"monitor": "loss", "best": "x"}}}},
    ),
    "progress of another kind": ("_progress", {"tuple": [0.0, 0.0, ""]}),
    "a plan of numbers": ("_progress", {"object": "EpochProgress", "fields": {"plan": 3}}),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_runs_that_no_fit_makes_are_refused(name, path):
    field, value = NONSENSE[name]
    trainer().fit(X, NAMES[LABELS], epochs=1).save(path, state=True)
    good = portnet.load(path)
    rewritten(path, set_at("run", field, value=value))
    with pytest.raises(ModelFileError, match=f"{field}|expected a list of text"):
        portnet.load(path)
    with pytest.raises(ModelFileError, match=r"save: epoch: .*Nothing was written"):
        portnet.save(replace(good, epoch=-1), path)


@pytest.mark.parametrize("name", WRONG)
def test_descriptions_that_do_not_fit_are_refused(name, run_path):
    change, message = WRONG[name]
    rewritten(run_path, change)
    with pytest.raises(ModelFileError, match=message) as error:
        portnet.load(run_path)
    assert str(error.value).startswith(run_path)


def test_deep_description_is_refused(path):
    deep = "[" * 100_000 + "]" * 100_000
    with open(path, "wb") as file:
        for part in pack({"x": np.ones(1)}, {"format_version": "1", "portnet": deep}):
            file.write(part)
    with pytest.raises(ModelFileError, match=r"its description is no JSON|nested"):
        portnet.load(path)


@pytest.mark.parametrize(
    "tensors",
    [
        lambda a: {**a, "extra": np.ones(3)},
        lambda a: {k: v for k, v in a.items() if k != "layers.0.b"},
        lambda a: {k.replace("layers.0.W", "layers.0.w"): v for k, v in a.items()},
        lambda a: {**a, "layers.0.W": a["layers.0.W"].T.copy()},
        lambda a: {**a, "layers.0.W": a["layers.0.W"].astype(np.int32)},
        lambda a: {**a, "layers.0.W": a["layers.0.W"][:0]},
    ],
    ids=["extra", "missing", "renamed", "another shape", "integers", "empty"],
)
def test_other_tensors_are_refused(tensors, run_path):
    rewritten(run_path, lambda d: None, tensors)
    with pytest.raises(ModelFileError, match=r"tensor|layers"):
        portnet.load(run_path)


@pytest.mark.parametrize("version", ["2", "99", "0", "-1", "1.0", "", "x", "9" * 5000])
def test_other_format_versions_are_refused(version, path):
    with open(path, "wb") as file:
        for part in pack({"x": np.ones(1)}, {"format_version": version, "portnet": "{}"}):
            file.write(part)
    with pytest.raises(ModelFileError, match=r"format version 1 to 1, got .*update portnet"):
        portnet.load(path)


def test_errors_of_a_path_in_bytes_name_it(path):
    with open(path, "wb") as file:
        file.write(b"no model, but some text")
    with pytest.raises(ModelFileError, match=r"model\.safetensors: is no portnet model"):
        portnet.load(path.encode())


def test_pickle_opens_where_the_compiler_and_scikit_learn_are_missing(tmp_path):
    run = trainer().fit(X, LABELS, epochs=3)
    (tmp_path / "run").write_bytes(pickle.dumps(run))
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", run.predict_proba(X))
    code = f"""
import pickle, sys
sys.modules["llvmlite"] = sys.modules["sklearn"] = sys.modules["cupy"] = None
import numpy as np
folder = {str(tmp_path)!r}
run = pickle.load(open(folder + "/run", "rb"))
np.testing.assert_array_equal(run.predict_proba(np.load(folder + "/x.npy")), np.load(folder + "/y.npy"))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_listed_classes_are_made():
    """No class that does more than hold numbers."""
    known = set(encoding.known_classes())
    assert {"Dense", "Chain", "Adam", "AdamState", "SquaredError", "CosineDecay"} <= known
    assert not known & {"Run", "Trainer", "Backend", "FitState", "Report"}
    assert {type(make()).__name__ for make in OPTIMIZERS.values()} <= known


# Command line ----------------------------------------------------------------------------------------


def show(*arguments):
    command = [sys.executable, "-m", "portnet", "show", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_show_prints_what_is_in_a_file_without_making_it(path):
    net = portnet.Chain([portnet.Dense(4), Snake(0.5)])
    run = portnet.Trainer(net, own_loss, batch_size=32).fit(X, X[:, :4], epochs=1)
    run.save(path)
    done = show(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run, format version 1, ")
    assert f"portnet {portnet.__version__}" in done.stdout
    assert "Snake(a=0.5, table=(1, 2))" in done.stdout
    assert "layers.0.W    float32  (5, 4)" in done.stdout


def test_show_prints_no_control_characters(path):
    change = set_at(*LAYER, "object", value="\x1b[31mDense")
    trainer().fit(X, LABELS, epochs=1).save(path)
    rewritten(path, change)
    done = show(path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("where", [LAYER, ("run", "trainer", "dict")])
def test_show_prints_no_control_characters_of_names_of_fields(where, path):
    place = (*where, "fields") if where is LAYER else where
    trainer().fit(X, LABELS, epochs=1).save(path)
    rewritten(path, set_at(*place, "\x1b[31m", value=1))
    done = show(path)
    assert done.returncode == 0
    assert "31m" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("settings", [{"dict": 5}, "x", [1, 2], {"dict": [[1, 2]]}, {}, None])
@pytest.mark.parametrize("where", [("run",), ("run", "trainer")])
def test_show_of_damaged_settings_is_an_error_of_one_line(where, settings, path):
    trainer().fit(X, LABELS, epochs=1).save(path)
    container = open_container(path)
    description = json.loads(container.metadata["portnet"])
    set_at(*where, value=settings)(description)
    description["all"] = [{"tensor": name} for name in container.specs]
    rewritten(path, lambda old: description)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: its description is damaged"):
        text_of(path)


def test_show_of_damaged_settings_prints_no_traceback(path):
    trainer().fit(X, LABELS, epochs=1).save(path)
    rewritten(path, set_at("run", "trainer", value={"dict": 5}))
    done = show(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_show_of_no_model_says_what_it_is(path):
    with open(path, "wb") as file:
        pickle.dump({"W": 1}, file)
    done = show(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pickle" in done.stderr
    assert show(path + "x").returncode == 2
