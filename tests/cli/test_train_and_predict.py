"""``portnet train`` and ``portnet predict``, from a file to predictions."""

import os
import re
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from tables_for_cli import ENVIRONMENT, call, flowers, houses, pandas, process, refused

import portnet
from portnet.tables import TableModel


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_classifier_from_csv_to_predictions():
    flowers().to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "species", "--out", "m.safetensors")
    assert done.exit_code == 0, done.output
    assert "classification of 'species': 3 classes\n" in done.stdout
    assert "4 columns: 2 of numbers, 1 of text, 1 of dates\n" in done.stdout
    assert "120 rows to train, 30 to test\n" in done.stdout
    assert re.search(r"^epoch 1: training loss [\d.]+$", done.stderr, re.MULTILINE)
    accuracy = float(re.search(r"test accuracy ([\d.]+) on 30 rows", done.stdout)[1])
    guess = float(re.search(r"guess +([\d.]+) for always (iris|rose|tulip)", done.stdout)[1])
    assert accuracy > 0.85 > 0.5 > guess
    for line in ("predict m.safetensors new.csv", "export m.safetensors m.onnx", "show m.saf"):
        assert f"  portnet {line}" in done.stdout

    new = flowers(80, seed=1)
    columns = ["extra", "seen", "colour", "width", "length"]
    new.assign(extra=1)[columns].to_csv("new.csv", index=False)
    done = call("predict", "m.safetensors", "new.csv", "--out", "p.csv", "--proba")
    assert done.exit_code == 0, done.output
    assert done.stdout == "wrote 80 predictions of 'species' to p.csv\n"
    assert "note: the column 'extra' is ignored\n" in done.stderr
    found = pandas.read_csv("p.csv")
    assert list(found) == ["species", "P(iris)", "P(rose)", "P(tulip)"]
    assert (found["species"] == new["species"]).mean() > 0.85
    model = portnet.load("m.safetensors", backend="numpy")
    assert isinstance(model, TableModel)
    np.testing.assert_array_equal(found["species"], model.predict(new))
    np.testing.assert_allclose(found.iloc[:, 1:], model.predict_proba(new), rtol=1e-6)
    printed = call("predict", "m.safetensors", "new.csv").stdout
    assert printed == "species\n" + "".join(f"{name}\n" for name in found["species"])


def test_the_scores_are_those_of_the_rows_that_were_held_out():
    """With another seed the test rows are others: the model of --test 0 has no score."""
    frame = flowers()
    frame.to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "species", "--seed", "3", "--epochs", "3")
    from sklearn.model_selection import train_test_split

    _, test = train_test_split(frame, test_size=30, random_state=3, stratify=frame["species"])
    model = portnet.load("model.safetensors", backend="numpy")
    expected = (model.predict(test) == test["species"]).mean()
    assert f"test accuracy {expected:.4f} on 30 rows" in done.stdout
    done = call("train", "data.csv", "--target", "species", "--test", "0", "--epochs", "3")
    assert done.exit_code == 0
    assert "150 rows to train\n" in done.stdout
    assert "accuracy" not in done.stdout


def test_a_regressor_learns_prices_of_any_size_beside_the_guess_of_the_mean():
    houses().to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "price", "--hidden", "32", "--epochs", "300")
    assert done.exit_code == 0, done.output
    assert "regression of 'price': numbers (--task classification if that" in done.stdout
    error = float(re.search(r"test error ([\d.]+) \(.*R2 ([\d.]+)\) on 60 rows", done.stdout)[1])
    guess = float(re.search(r"guess ([\d.e+]+) for always the mean", done.stdout)[1])
    assert error < 20_000 < 80_000 < guess
    new = houses(50, seed=1)
    new.drop(columns="price").to_csv("new.csv", index=False)
    assert call("predict", "model.safetensors", "new.csv", "--out", "p.csv").exit_code == 0
    assert np.abs(pandas.read_csv("p.csv")["price"] - new["price"]).mean() < 20_000
    assert "--proba: model.safetensors predicts a number, 'price'" in refused(
        "predict", "model.safetensors", "new.csv", "--proba"
    )


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    flowers().to_csv("data.csv", index=False)
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = ("--seed", seed, "--epochs", 3, "--out", name)
        assert call("train", "data.csv", "--target", "species", *options).exit_code == 0
        found[name] = portnet.load(name, backend="numpy").predict_proba(flowers())
    assert (found["a"] == found["b"]).all()
    assert (found["a"] != found["c"]).any()


def test_whole_numbers_are_classes_if_they_are_few_and_task_decides_otherwise():
    frame = houses()
    frame.to_csv("data.csv", index=False)
    common = ("--target", "rooms", "--epochs", "2")
    done = call("train", "data.csv", *common)
    assert "classification of 'rooms': 6 classes (--task regression if" in done.stdout
    new = ("predict", "model.safetensors", "data.csv", "--out", "p.csv")
    assert call(*new).exit_code == 0
    assert set(pandas.read_csv("p.csv")["rooms"]) <= set(range(1, 7))
    done = call("train", "data.csv", *common, "--task", "regression")
    assert "regression of 'rooms': numbers\n" in done.stdout
    frame.loc[0, "rooms"] = (
        np.nan
    )  # pandas reads floats then, and the classes are whole all the same
    frame.to_csv("data.csv", index=False)
    done = call("train", "data.csv", *common)
    assert "note: 1 of 300 rows has no 'rooms': it is left out\n" in done.stderr
    assert portnet.load("model.safetensors").classes_.tolist() == [1, 2, 3, 4, 5, 6]


def test_truth_values_as_target():
    frame = houses().assign(dear=lambda f: f["price"] > 280_000)
    frame.drop(columns="price").to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "dear", "--epochs", "50")
    assert "classification of 'dear': 2 classes\n" in done.stdout
    done = call("predict", "model.safetensors", "data.csv")
    assert set(done.stdout.split()) == {"dear", "True", "False"}


@pytest.mark.parametrize("library", ["pyarrow", "polars"])
def test_parquet_files_are_read_whatever_their_name_is(library):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame = flowers()
    frame["seen"] = pandas.to_datetime(frame["seen"])
    if library == "polars":
        pytest.importorskip("polars", reason="polars is not installed")
        import polars

        given = {name: frame[name].tolist() for name in frame}
        given["colour"] = [None if v != v else v for v in given["colour"]]
        polars.DataFrame(given).write_parquet("data.bin")
    else:
        frame.to_parquet("data.bin")
    assert call("train", "data.bin", "--target", "species", "--epochs", "60").exit_code == 0
    frame.to_csv("new.csv", index=False)
    from_csv = call("predict", "model.safetensors", "new.csv")
    from_parquet = call("predict", "model.safetensors", "data.bin")
    assert from_csv.exit_code == from_parquet.exit_code == 0
    assert from_csv.stdout == from_parquet.stdout


def test_without_pyarrow_a_parquet_file_says_what_to_install(monkeypatch):

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with open("data.parquet", "wb") as file:
        file.write(b"PAR1" + bytes(100))
    assert "need pyarrow: pip install pyarrow" in refused("train", "data.parquet", "--target", "y")


def test_the_parts_of_a_table_have_the_same_share_of_each_class():
    from portnet.cli.target import split

    y = ["rare"] * 10 + ["usual"] * 90
    for seed in range(5):
        first, second = split(pandas.DataFrame({"y": y}), "y", "classification", 0.2, seed)
        assert first["y"].value_counts().to_dict() == {"usual": 72, "rare": 8}
        assert second["y"].value_counts().to_dict() == {"usual": 18, "rare": 2}


def test_early_stopping_says_which_epoch_is_kept():
    houses(900).to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "price", "--epochs", "9")
    scores = portnet.load("model.safetensors").estimator.validation_scores_
    best = 1 + int(np.argmax(scores))
    assert max(scores) > 0.5  # R2, in the units that are trained on
    assert f"trained 9 epochs; the network is that of epoch {best}, the best\n" in done.stdout
    assert f", validation score {scores[0]:.4g}\n" in done.stderr


@pytest.mark.parametrize(("name", "value"), [("BACKEND", "nunpy"), ("NATIVE", "maybe")])
def test_wrong_environment_variables_are_one_line(name, value):
    flowers().to_csv("data.csv", index=False)
    done = process("train", "data.csv", "--target", "species", **{f"PORTNET_{name}": value})
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert f"PORTNET_{name}" in done.stderr
    assert os.listdir() == ["data.csv"]


def test_the_training_curve_is_a_picture():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    houses(900).to_csv("data.csv", index=False)
    common = ("train", "data.csv", "--target", "price", "--epochs", "5")
    done = call(*common, "--plot", "curve.png")
    assert done.exit_code == 0, done.output
    assert "108 to stop in time" in done.stdout  # 15% of 720
    assert "wrote the training curve to curve.png\n" in done.stdout
    with open("curve.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert "--plot: expected a name that ends in .png" in refused(*common, "--plot", "curve.xyz")
    for other in ("m.png", "./m.png", os.path.abspath("m.png")):
        text = refused(*common, "--out", "m.png", "--plot", other)
        assert f"--plot: {other} is the file of --out" in text
    assert not os.path.exists("m.png")


def test_backends_give_the_same_predictions(backend_name):
    flowers().to_csv("data.csv", index=False)
    if backend_name == "array_api_strict":
        pytest.skip("a backend for tests only")
    for name in ("numpy", backend_name):
        options = ("--backend", name, "--out", name, "--epochs", 5)
        done = call("train", "data.csv", "--target", "species", *options)
        assert done.exit_code == 0, done.output
    a, b = (call("predict", name, "data.csv", "--proba").stdout for name in ("numpy", backend_name))
    a, b = (np.array([line.split(",")[1:] for line in x.splitlines()[1:]], float) for x in (a, b))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_an_unknown_backend_is_refused_before_the_file_is_read():
    flowers().to_csv("data.csv", index=False)
    line = refused("train", "data.csv", "--target", "species", "--backend", "nunpy")
    assert "--backend: " in line
    assert "'numpy'" in line


def test_an_earlier_model_stays_where_training_fails_and_keeps_its_permissions():

    flowers().to_csv("data.csv", index=False)
    with open("model.safetensors", "w") as file:
        file.write("old")
    os.chmod("model.safetensors", 0o640)
    refused("train", "data.csv", "--target", "nothing")
    with open("model.safetensors") as file:
        assert file.read() == "old"
    assert call("train", "data.csv", "--target", "species", "--epochs", "2").exit_code == 0
    assert stat.S_IMODE(os.stat("model.safetensors").st_mode) == 0o640
    portnet.load("model.safetensors")


WRONG_OPTIONS = {
    "no target": ((), "Missing option '--target'"),
    "sizes": (("--target", "species", "--hidden", "a,b"), "sizes of layers such as 64,32, got 'a,"),
    "a size of 0": (("--target", "species", "--hidden", "8,0"), "such as 64,32, got '8,0'"),
    "epochs": (("--target", "species", "--epochs", "0"), "0 is not in the range"),
    "test": (("--target", "species", "--test", "1"), "1"),
    "task": (("--target", "species", "--task", "ranking"), "'ranking' is not one of"),
    "encoding": (("--target", "species", "--encoding", "utf-99"), "an encoding such as utf-8, got"),
    "the data as out": (("--target", "species", "--out", "data.csv"), "the data would be lost"),
    "the data as plot": (("--target", "species", "--plot", "data.csv"), "the data would be lost"),
    "a test of NaN": (("--target", "species", "--test", "nan"), "from 0 to below 1, got nan"),
    "a test of all rows": (
        ("--target", "species", "--test", "0.9999"),
        "two different 'species' in the 1 row to train with, got one",
    ),
    "an encoding of no text": (
        ("--target", "species", "--encoding", "base64"),
        "an encoding such as utf-8, got 'base64'",
    ),
    "an empty name of the model": (("--target", "species", "--out", ""), "path of a file, got ''"),
    "an empty name of a plot": (("--target", "species", "--plot", ""), "path of a file, got ''"),
    "no folder": (("--target", "species", "--out", "no/m"), "no/m: the file cannot be written"),
    "the target dropped": (("--target", "species", "--drop", "species"), "is the target"),
    "an unknown column dropped": (("--target", "species", "--drop", "zz"), "no column 'zz'"),
    "a close name": (("--target", "Species"), r"did you mean 'species'\?"),
    "an unknown option": (("--target", "species", "--epoch", "3"), "No such option"),
    "a target of text for regression": (
        ("--target", "species", "--task", "regression"),
        "the target: column 'species': expected a number, got ",
    ),
    "a target of dates": (("--target", "seen"), "expected classes or numbers in 'seen', got dates"),
    "numbers for classification": (
        ("--target", "length", "--task", "classification"),
        "expected classes in the target 'length', got 150 different values in 150 rows.*regression",
    ),
}


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_wrong_options_are_an_error_of_one_line(options, message):
    flowers().to_csv("data.csv", index=False)
    assert re.search(message, refused("train", "data.csv", *options))


def test_no_hidden_layer_is_a_linear_model():
    flowers().to_csv("data.csv", index=False)
    done = call("train", "data.csv", "--target", "species", "--hidden", "0", "--epochs", "5")
    assert done.exit_code == 0, done.output
    assert portnet.load("model.safetensors").estimator.coefs_[0].shape[1] == 3


def test_predict_refuses_what_is_no_model_of_a_table(tmp_path):
    flowers().to_csv("data.csv", index=False)
    net = portnet.mlp([2, 1])
    portnet.save((net, portnet.init(net, like=np.zeros(1))), "net.safetensors")
    assert "expected a model that portnet train wrote" in refused(
        "predict", "net.safetensors", "data.csv"
    )
    assert "data.csv" in refused("predict", "data.csv", "data.csv")
    assert refused("predict", "none", "data.csv").endswith("none: No such file or directory")
    assert "Missing argument 'DATA'" in refused("predict", "net.safetensors")
    for arguments in (("", "data.csv"), ("none", ""), ("none", "data.csv", "--out", "")):
        assert "expected the path of a file, got ''" in refused("predict", *arguments)


def test_predict_never_replaces_its_inputs():
    flowers().to_csv("data.csv", index=False)
    call("train", "data.csv", "--target", "species", "--epochs", "2")
    for name in ("data.csv", "model.safetensors"):
        assert "it would be lost" in refused(
            "predict", "model.safetensors", "data.csv", "--out", name
        )


def test_real_processes_print_results_on_stdout_and_the_rest_on_stderr():
    flowers().to_csv("data.csv", index=False)
    done = process("train", "data.csv", "--target", "species", "--epochs", "30")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    assert "epoch 1: training loss" in done.stderr
    assert "Warning" not in done.stderr
    done = process("predict", "model.safetensors", "data.csv")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 151
    done = process("train", "data.csv", "--target", "none")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_reader_that_stops_early_is_no_error():

    flowers(20_000).to_csv("data.csv", index=False)
    call("train", "data.csv", "--target", "species", "--epochs", "1")
    command = f"{sys.executable} -m portnet predict model.safetensors data.csv --proba | head -2"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.stdout.startswith("species,")
    assert done.stderr == ""


def test_ctrl_c_keeps_the_model_so_far():

    houses(3000).to_csv("data.csv", index=False)
    command = [sys.executable, "-m", "portnet", "train", "data.csv", "--target", "price"]
    options = ["--epochs", "1000000", "--hidden", "512,512", "--test", "0.1"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    for line in process.stderr:
        if line.startswith("epoch 1:"):
            break
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "wrote model.safetensors" in out
    portnet.load("model.safetensors")


def test_an_error_names_the_row_of_the_file():
    frame = houses()
    number = frame.select_dtypes("number").columns[0]
    frame = frame.astype({number: float})
    frame.loc[40, number] = np.inf
    frame.to_csv("data.csv", index=False)
    target = frame.columns[-1]
    text = refused("train", "data.csv", "--target", target)
    assert "expected a finite number, got inf in row 41" in text
