"""Inference: outputs computed in blocks of rows equal those of one product."""

import importlib.util
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import portnet
from portnet.compiler import native_policy
from portnet.data.dataset import Dataset
from portnet.engine import inference

NET = portnet.mlp([3, 8, 2], "tanh")
X = np.random.default_rng(0).standard_normal((700, 3))
PARAMS, _ = NET.init(np.random.default_rng(1), 3)
(A, _, B) = PARAMS
EXPECTED = np.tanh(X @ A["W"] + A["b"]) @ B["W"] + B["b"]


@pytest.mark.parametrize("rows", [0, 64, 101, 700])
@pytest.mark.parametrize("compiled", [False, True])
def test_forward_in_blocks_equals_one_product(rows, compiled, xp):
    if compiled and xp.id == "numpy-readonly":
        pytest.skip(reason="subclasses of ndarray are not compiled")
    out = inference.forward(NET, xp.tree(PARAMS), xp.asarray(X[:rows]), 100, compiled=compiled)
    assert out.shape == (rows, 2)
    xp.assert_close(out, EXPECTED[:rows])


def test_forward_never_gets_more_rows_than_a_block():
    sizes = []

    class Spy(portnet.Identity):
        def forward(self, params, x, key=None):
            sizes.append(len(x))
            return x, ()

    out = inference.forward(Spy(), (), X, 100, compiled=False)
    np.testing.assert_array_equal(out, X)
    assert sizes == [100] * 7


def test_outputs_of_a_dataset_are_in_its_order(xp):
    order = np.random.default_rng(2).permutation(700)[:150]
    data = Dataset(portnet.get_backend(), xp.asarray(X), None, None, order)
    out = inference.forward_dataset(NET, xp.tree(PARAMS), data, 100)
    xp.assert_close(out, EXPECTED[order])


# Threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", ["never", "always"])
@pytest.mark.parametrize("rows", [1, 10, 3000])
def test_predictions_of_several_threads_equal_those_of_one(rows, native, monkeypatch):
    """A server answers with one network from several threads at once."""
    if native == "always" and native_policy.why_no_machine_code():
        pytest.skip(f"no machine code: {native_policy.why_no_machine_code()}")
    monkeypatch.setenv("PORTNET_NATIVE", native)
    draw = np.random.default_rng(0)
    data = draw.standard_normal((4, rows, 6)).astype("float32")
    labels = draw.integers(0, 3, rows)
    net = portnet.mlp([6, 40, 3], "tanh", dropout=0.5)
    run = portnet.Trainer(net, "softmax_cross_entropy").fit(data[0], labels, epochs=1)
    predict = [run.predict, run.predict_class]
    if importlib.util.find_spec("sklearn") is not None and rows > 1:
        estimator = portnet.MLPClassifier((40,), max_iter=2, tol=10.0, n_iter_no_change=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.fit(data[0], labels)
        predict += [estimator.predict, estimator.predict_proba]
    for function in predict:
        expected = [function(x) for x in data]
        with ThreadPoolExecutor(4) as threads:
            answers = threads.map(function, [data[k % 4] for k in range(60)])
            for k, answer in enumerate(answers):
                np.testing.assert_array_equal(answer, expected[k % 4])
