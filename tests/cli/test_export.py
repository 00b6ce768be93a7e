"""``portnet export``: ONNX Runtime computes what portnet does."""

import numpy as np
import pytest
from custom import Square
from tables_for_cli import call, flowers, houses, refused

import portnet

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def session(path):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(path, feed):
    """Return the outputs of an ONNX file by name."""
    opened = session(path)
    names = [value.name for value in opened.get_outputs()]
    return dict(zip(names, opened.run(None, feed), strict=True))


def exported(thing, X):
    """Return what ONNX Runtime computes for the rows X of a network, run or estimator."""
    portnet.save(thing, "m.safetensors")
    done = call("export", "m.safetensors", "m.onnx")
    assert done.exit_code == 0, done.output
    return answers("m.onnx", {"x": X})


def feed_of(frame, columns, kinds):
    """Return the inputs of a table's ONNX file, made without portnet."""
    import pandas

    feed = {}
    for name, kind in zip(columns, kinds, strict=True):
        values = frame[name]
        if kind == "t":
            column = values.fillna("").to_numpy(object)
        elif kind == "d":
            since = pandas.to_datetime(values) - pandas.Timestamp(0)
            column = (since / pandas.Timedelta(days=1)).to_numpy(float)
        else:
            column = values.to_numpy(float)
        feed[name] = column[:, None]
    return feed


@pytest.mark.parametrize("labels", [["iris", "rose", "tulip"], [3, 5, 8], [False, True, True]])
def test_a_table_of_numbers_texts_and_dates(labels):
    names = dict(zip(["iris", "rose", "tulip"], labels, strict=True))
    frame = flowers().assign(species=lambda f: f["species"].map(names))
    frame.to_csv("data.csv", index=False)
    assert call("train", "data.csv", "--target", "species", "--epochs", "40").exit_code == 0
    done = call("export", "model.safetensors", "m.onnx")
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        "wrote m.onnx: 4 inputs (length, width, colour, seen), label, probabilities\n"
        "dates are days since 1970-01-01 (UTC) there\n"
    )
    new = flowers(200, seed=1)
    new.loc[:2, "colour"] = "never seen"
    new.loc[5:9, ["length", "seen", "colour"]] = np.nan
    model = portnet.load("model.safetensors", backend="numpy")
    found = answers("m.onnx", feed_of(new, model.columns, model.kinds))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(new), atol=1e-5)
    expected = model.predict(new)
    assert found["label"].tolist() == expected.tolist()
    assert len(set(expected.tolist())) == len(set(labels))


def test_a_table_with_a_price_in_its_own_units():
    houses().to_csv("data.csv", index=False)
    assert call("train", "data.csv", "--target", "price", "--epochs", "30").exit_code == 0
    assert call("export", "model.safetensors", "m.onnx").exit_code == 0
    new = houses(100, seed=1)
    model = portnet.load("model.safetensors", backend="numpy")
    (found,) = answers("m.onnx", feed_of(new, model.columns, model.kinds)).values()
    assert found.shape == (100, 1)
    np.testing.assert_allclose(found[:, 0], model.predict(new), rtol=1e-5)


@pytest.mark.parametrize("columns", [["length"], ["colour"]])
def test_a_table_of_one_column(columns):
    frame = flowers()[[*columns, "species"]]
    frame.to_csv("data.csv", index=False)
    assert call("train", "data.csv", "--target", "species", "--epochs", "5").exit_code == 0
    assert call("export", "model.safetensors", "m.onnx").exit_code == 0
    model = portnet.load("model.safetensors", backend="numpy")
    found = answers("m.onnx", feed_of(frame, model.columns, model.kinds))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(frame), atol=1e-5)


def test_large_offsets_are_scaled_in_float64():
    frame = houses().rename(columns={"size": "when"})
    frame["when"] += 1.7e9  # seconds since 1970: float32 has steps of 128
    frame.to_csv("data.csv", index=False)
    assert call("train", "data.csv", "--target", "price", "--epochs", "30").exit_code == 0
    assert call("export", "model.safetensors", "m.onnx").exit_code == 0
    model = portnet.load("model.safetensors", backend="numpy")
    (found,) = answers("m.onnx", feed_of(frame, model.columns, model.kinds)).values()
    np.testing.assert_allclose(found[:, 0], model.predict(frame), rtol=1e-5)


def test_columns_may_have_the_names_of_nodes_and_outputs():
    frame = flowers().rename(
        columns={"length": "label", "width": "Gemm", "colour": "probabilities"}
    )
    frame.to_csv("data.csv", index=False)
    assert call("train", "data.csv", "--target", "species", "--epochs", "5").exit_code == 0
    assert call("export", "model.safetensors", "m.onnx").exit_code == 0
    model = portnet.load("model.safetensors", backend="numpy")
    found = answers("m.onnx", feed_of(frame, model.columns, model.kinds))
    assert list(found) == ["label_", "probabilities_"]
    assert found["label_"].tolist() == model.predict(frame).tolist()


def test_the_metadata_say_what_each_input_is():
    flowers().to_csv("data.csv", index=False)
    call("train", "data.csv", "--target", "species", "--epochs", "2")
    call("export", "model.safetensors", "m.onnx")
    found = {e.key: e.value for e in onnx.load("m.onnx").metadata_props}
    assert found == {
        "target": "species",
        "input length": "number: float64 (rows, 1), NaN where missing",
        "input width": "number: float64 (rows, 1), NaN where missing",
        "input colour": 'text: text (rows, 1) without blanks around it, "" where missing',
        "input seen": "date: float64 (rows, 1), days since 1970-01-01 UTC, NaN where missing",
    }
    kinds = {i.name: (i.type, i.shape) for i in session("m.onnx").get_inputs()}
    assert kinds["width"] == ("tensor(double)", ["rows", 1])
    assert kinds["colour"] == ("tensor(string)", ["rows", 1])


# Networks, runs and estimators: see tests/exchange ------------------------------------------------


def test_a_network_a_run_and_an_estimator():
    X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    y = np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)]
    net = portnet.mlp([3, 4, 2])
    params = portnet.init(net, like=X)
    found = exported((net, params), X)
    np.testing.assert_allclose(found["y"], net.forward(params, X)[0], atol=1e-6)
    run = portnet.Trainer(net, "softmax_cross_entropy").fit(X, y, epochs=5)
    assert exported(run, X)["label"].tolist() == run.predict_class(X).tolist()
    estimator = portnet.MLPClassifier((5,), solver="lbfgs", alpha=0.1).fit(X, y)
    found = exported(estimator, X)
    np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(X), atol=1e-6)
    assert found["label"].tolist() == estimator.predict(X).tolist()


# What cannot be exported ------------------------------------------------------------------------


def own_loss(pred, target, weight=None):
    return np.mean((pred - target) ** 2), 2 * (pred - target) / pred.size


def test_layers_and_losses_that_are_not_portnets_are_named():
    X = np.ones((4, 2), np.float32)
    net = portnet.Chain([portnet.Dense(2), Square()], n_in=2)
    portnet.save((net, portnet.init(net, like=X)), "net")
    assert refused("export", "net", "m.onnx").startswith(
        "portnet export: net: 'Square' is not portnet's own"
    )
    run = portnet.Trainer(portnet.mlp([2, 1]), own_loss).fit(X, X[:, :1], epochs=1)
    run.save("run")
    assert "'own_loss' is not portnet's own" in refused("export", "run", "m.onnx")


def test_what_onnx_lacks_is_one_line(monkeypatch):
    monkeypatch.setattr(portnet.Tanh, "forward", lambda self, p, x, key=None: (x // 2, x))
    net = portnet.mlp([2, 2, 1], "tanh")
    portnet.save((net, portnet.init(net, seed=0)), "net")
    assert refused("export", "net", "m.onnx").startswith(
        "portnet export: net: the operation floor_divide of float32 has no operator in ONNX"
    )


def test_errors_of_export_write_nothing(monkeypatch):
    assert refused("export", "none", "m.onnx").endswith("none: No such file or directory")
    with open("data.csv", "w") as file:
        file.write("a,b\n1,2\n")
    assert "data.csv" in refused("export", "data.csv", "m.onnx")
    net = portnet.mlp([2, 1])
    portnet.save((net, portnet.init(net, like=np.zeros(1))), "net")
    assert "the model would be lost" in refused("export", "net", "net")
    assert "no/m.onnx" in refused("export", "net", "no/m.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs onnx, which is not installed" in refused("export", "net", "m.onnx")
