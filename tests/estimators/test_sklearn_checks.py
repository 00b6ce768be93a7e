"""scikit-learn's own checks, tests and examples, run with the estimators."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import sklearn.neural_network as sklearn_nn
from problems import SOLVERS
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

import portnet
from portnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks(
    [
        estimator
        for solver in SOLVERS
        for estimator in (
            MLPClassifier(solver=solver, max_iter=50),
            MLPClassifier(solver=solver, max_iter=50, class_weight="balanced"),
            MLPRegressor(solver=solver, max_iter=50),
        )
    ]
    + [MLPClassifier(n_networks=2, max_iter=50), MLPRegressor(n_networks=3, max_iter=50)]
)
@pytest.mark.filterwarnings("ignore")
def test_estimators_pass_scikit_learn_checks(estimator, check):
    if "'cupy'" in str(check):
        status = next(s for s in portnet.backends() if s.name == "cupy")
        if not status.usable:
            pytest.skip(f"cupy cannot be used: {status.reason.partition('. ')[0]}")
    check(estimator)


@dataclass(frozen=True)  # whose text, unlike that of a function, is the same in each process
class LogitsOfThree:
    """Half the squared error of the logits, which should be 3 or -3."""

    def __call__(self, pred, target, weight=None):
        return portnet.SquaredError()(pred, 3.0 * (2.0 * target - 1.0), weight)


@dataclass(frozen=True)
class AbsoluteError:
    """The loss of the median."""

    def __call__(self, pred, target, weight=None):
        return portnet.AbsoluteError()(pred, target, weight)


def configurations():
    """Yield an estimator of each new parameter; those of dropout last."""
    clipped = portnet.chain(portnet.ClipNorm(5.0), portnet.AdamW(0.003))
    for made, loss in ((MLPClassifier, LogitsOfThree()), (MLPRegressor, AbsoluteError())):
        for options in (
            {"norm": "layer"},
            {"norm": portnet.LayerNorm(1e-3), "solver": "lbfgs"},
            {"activation": ["gelu"]},
            {"activation": portnet.SiLU()},
            {"optimizer": clipped},
            {"optimizer": "adamw"},
            {"loss": loss},
            {"metrics": []},
            {"dropout": 0.1},
        ):
            yield made(max_iter=50, **options)


def expected_to_fail(estimator):
    """A row of weight k is k rows in expectation only: each copy drops units of its own."""
    if not estimator.dropout:
        return {}
    name = "check_sample_weight_equivalence_on_{}_data"
    return dict.fromkeys(map(name.format, ("dense", "sparse")), "units are dropped by row")


@parametrize_with_checks(list(configurations()), expected_failed_checks=expected_to_fail)
@pytest.mark.filterwarnings("ignore")
def test_new_parameters_pass_scikit_learn_checks(estimator, check):
    if "'cupy'" in str(check):
        pytest.skip("cupy is tested above")
    check(estimator)


@pytest.mark.filterwarnings("ignore")
def test_scoring_fails_no_check_that_early_stopping_alone_does_not():
    """The data of some checks are too few to hold rows out; scikit-learn's fail there, too."""
    for made in (MLPClassifier, MLPRegressor):
        failed = []
        for scoring in (None, "loss"):
            net = made(max_iter=50, early_stopping=True, scoring=scoring)
            results = check_estimator(net, on_fail=None, on_skip=None)
            failed.append({r["check_name"] for r in results if r["status"] == "failed"})
        assert failed[0] == failed[1]


def test_scikit_learn_checks_include_the_array_api_checks():
    from sklearn.utils.estimator_checks import estimator_checks_generator

    for made in (MLPClassifier, MLPRegressor):
        names = [str(check) for _, check in estimator_checks_generator(made(), mark=None)]
        assert sum("check_array_api_input" in name for name in names) >= 3
        assert sum("check_array_api_same_namespace" in name for name in names) >= 1


def test_examples_of_scikit_learn_documentation_give_the_same_results():
    path = Path(__file__).parents[2] / "ci" / "sklearn_examples.py"
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same") == 9


def test_estimators_pass_the_tests_of_scikit_learn(tmp_path):
    """The installed tests, with the import replaced and without one that calls a private method."""
    pytest.importorskip("sklearn.neural_network.tests.test_mlp", reason="tests are not installed")
    source = Path(sklearn_nn.__file__).parent / "tests" / "test_mlp.py"
    line = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
    text = source.read_text()
    assert line in text
    (tmp_path / "test_sklearn_mlp.py").write_text(
        text.replace(line, line.replace("sklearn.neural_network", "portnet"))
    )
    (tmp_path / "conftest.py").write_text("from sklearn.conftest import *\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--deselect",
            "test_sklearn_mlp.py::test_gradient",
            "test_sklearn_mlp.py",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
