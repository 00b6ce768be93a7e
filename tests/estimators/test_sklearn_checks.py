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
    """Yield what is checked: the solvers as they are, and each new parameter, several together."""
    clipped = portnet.chain(portnet.ClipNorm(5.0), portnet.AdamW(0.01))
    stops = {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 15}
    for made, loss, score, more in (
        (MLPClassifier, LogitsOfThree(), "accuracy", {"class_weight": "balanced", "heads": True}),
        (MLPRegressor, AbsoluteError(), "r2", {}),
    ):
        for options in (
            *({"solver": solver} for solver in SOLVERS),
            {"norm": "layer", "activation": ["gelu"], "n_networks": 2, "loss": loss},
            {"norm": portnet.LayerNorm(1e-3), "activation": portnet.SiLU(), "solver": "lbfgs"}
            | {"n_networks": 2, "metrics": []},
            {"optimizer": clipped, "metrics": [score]} | more,
            {"optimizer": "adamw", "dropout": 0.1},
            {"scoring": score, "metrics": [score]} | stops,
        ):
            short = {"max_iter": 20, "learning_rate_init": 0.01} if options.get("metrics") else {}
            yield made(**{"max_iter": 50} | short | options)


def expected_to_fail(estimator):
    """Return the checks that fail by the meaning of a parameter, each with the reason."""
    found = {}
    equivalence = [
        f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")
    ]
    if estimator.dropout:  # a row of weight k is k rows in expectation only
        found |= dict.fromkeys(
            equivalence, "units are dropped by row: each copy of one drops others"
        )
    if estimator.early_stopping:
        found |= dict.fromkeys(equivalence, "rows are held out at random: each copy by itself")
        names = (
            "fit_score_takes_y",
            "n_features_in_after_fitting",
            "estimators_partial_fit_n_features",
        )
        reason = "partial_fit does not support early_stopping=True, as in scikit-learn"
        found |= {f"check_{name}": reason for name in names}
    return found


@parametrize_with_checks(list(configurations()), expected_failed_checks=expected_to_fail)
@pytest.mark.filterwarnings("ignore")
def test_estimators_pass_scikit_learn_checks(estimator, check):
    if "'cupy'" in str(check):
        status = next(s for s in portnet.backends() if s.name == "cupy")
        if not status.usable:
            pytest.skip(f"cupy cannot be used: {status.reason.partition('. ')[0]}")
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator",
    [
        MLPRegressor(max_iter=20, metrics=["neg_max_error"]),
        MLPClassifier(max_iter=20, metrics=["adjusted_rand_score"]),
    ],
    ids=["regressor", "classifier"],
)
def test_metrics_without_weights_pass_the_checks_of_weights(estimator):
    from sklearn.utils.estimator_checks import estimator_checks_generator

    checks = [check for _, check in estimator_checks_generator(estimator, mark=None)]
    of_weights = [check for check in checks if "check_sample_weight" in str(check)]
    assert len(of_weights) >= 5
    for check in of_weights:
        check(estimator)


def test_every_new_parameter_is_checked():
    ours = MLPClassifier().get_params() | MLPRegressor().get_params()
    theirs = {*sklearn_nn.MLPClassifier().get_params(), *sklearn_nn.MLPRegressor().get_params()}
    of_devices = {"backend", "compile"}  # tested with each library by themselves
    for name in (
        {*ours, "loss", "early_stopping"} - (theirs - {"loss", "early_stopping"}) - of_devices
    ):
        changed = {type(e) for e in configurations() if getattr(e, name, None) != ours[name]}
        assert changed >= (
            {MLPClassifier} if name in ("class_weight", "heads") else {MLPClassifier, MLPRegressor}
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", [MLPClassifier, MLPRegressor])
def test_early_stopping_fails_the_checks_that_it_fails_in_scikit_learn(made):
    """The checks that are expected to fail: scikit-learn's own network fails nearly all of them."""
    theirs = getattr(sklearn_nn, made.__name__)(
        max_iter=50, early_stopping=True, validation_fraction=0.3
    )
    results = check_estimator(theirs, on_fail=None, on_skip=None)
    failed = {r["check_name"] for r in results if r["status"] == "failed"}
    ours = {*expected_to_fail(made(early_stopping=True))}
    dense = {"check_sample_weight_equivalence_on_dense_data"}  # its classifier happens to pass it
    assert ours - dense <= failed <= ours


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
