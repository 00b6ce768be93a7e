"""Files of every format version load, and predict what they did when they were made."""

import json
from pathlib import Path

import numpy as np
import pytest

import portnet
from portnet.files.models import VERSION

GOLDEN = Path(__file__).parent / "golden"
X = np.linspace(-1.0, 1.0, 60).reshape(20, 3)
VERSIONS = range(1, VERSION + 1)


def load(name, version):
    return portnet.load(GOLDEN / f"{name}-v{version}.safetensors")


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def expected(version):
    return json.loads((GOLDEN / f"expected-v{version}.json").read_text())


def test_network_of_every_version(version, expected):
    net, params = load("network", version)
    found = net.forward(params, X.astype("float32"))[0]
    np.testing.assert_allclose(found, expected["network"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["run", "checkpoint"])
def test_run_of_every_version(version, expected, name):
    run = load(name, version)
    run = run if name == "run" else run.best
    np.testing.assert_allclose(run.predict_proba(X), expected["run"], rtol=1e-4, atol=1e-6)
    assert run.history == expected["history"]
    assert list(run.classes) == ["ant", "bee"]


def test_checkpoint_of_every_version_continues(version):
    run = load("checkpoint", version)
    labels = run.predict_class(X)
    assert run.fit(X, labels, epochs=2, validation=0.25).epoch == 6


def test_estimator_of_every_version(version, expected):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    estimator = load("estimator", version)
    np.testing.assert_allclose(estimator.predict_proba(X), expected["estimator"], rtol=1e-6)
    estimator.partial_fit(X, estimator.predict(X))


def test_table_of_every_version(version, expected):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = {
        "seen": [f"2024-01-{day:02}" for day in range(1, 21)],
        "size": [*X[:, 0].tolist()[:-1], None],
        "colour": ["red", "blue", None, "red"] * 5,
    }
    table = load("table", version)
    np.testing.assert_allclose(table.predict_proba(frame), expected["table"], rtol=1e-5)
    assert (table.target, table.classes_.tolist()) == ("kind", ["ant", "bee"])


def test_golden_files_exist_for_every_version():
    """Whoever raises VERSION makes the files of the new one: golden/make.py."""
    names = {path.name for path in GOLDEN.glob("*.safetensors")}
    kinds = "network", "run", "checkpoint", "estimator", "table"
    assert names == {f"{kind}-v{version}.safetensors" for kind in kinds for version in VERSIONS}
