"""Compare the scores of portnet's estimators with scikit-learn's, and write the table.

    python ci/estimators_table.py [--only solvers,models] [--out ci/results]

*solvers*: each of six data sets that come with scikit-learn, three solvers, the defaults otherwise
(after a StandardScaler), 5 folds, 5 seeds: the mean of the 25 scores (accuracy, R2) and their
standard error, once with scikit-learn's initial weights and row orders, once with others (other
seeds). The difference of the first is rounding; the second shows how large noise is.

*models*: one network, an ensemble and early stopping, beside scikit-learn's gradient boosting and
random forest, on the same folds, each with its defaults: where is a network the right choice?

A part that is not chosen stays in the file as it is.
"""

import argparse
import datetime
import platform
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
import sklearn.neural_network as theirs
from sklearn import datasets, ensemble
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

import portnet

DATA = ["digits", "breast_cancer", "wine", "iris", "diabetes", "linnerud"]
REGRESSION = "diabetes", "linnerud"  # linnerud has three numbers to predict
SOLVERS = ["adam", "sgd", "lbfgs"]
SEEDS, FOLDS = 5, 5
NETWORKS = 8
MODELS = [
    "one network",
    f"ensemble of {NETWORKS}",
    "early stopping",
    f"both, {NETWORKS}",
    "HistGradientBoosting",
    "RandomForest",
]


def facts():
    """Return a line about when, with what and where a part was measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return (
        f"{datetime.date.today()}, commit {commit}, {platform.machine()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}, "
        f"scikit-learn {sklearn.__version__}."
    )


# Solvers ------------------------------------------------------------------------------------------


def scores(package, name, solver, first_seed):
    """Return the 25 scores, and the seconds that all took."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    regression = name in REGRESSION
    made = package.MLPRegressor if regression else package.MLPClassifier
    found, start = [], time.perf_counter()
    for seed in range(SEEDS):
        folds = (KFold if regression else StratifiedKFold)(FOLDS, shuffle=True, random_state=seed)
        net = make_pipeline(StandardScaler(), made(solver=solver, random_state=first_seed + seed))
        found += list(cross_val_score(net, X, y, cv=folds))
    return np.array(found), time.perf_counter() - start


def solvers():
    """Return the lines of the part about solvers."""
    rows, worst = [], 0.0
    cells = [(name, solver) for name in DATA for solver in SOLVERS]
    for name, solver in tqdm(cells):
        a, seconds_a = scores(theirs, name, solver, 0)
        b, seconds_b = scores(portnet, name, solver, 0)
        c, _ = scores(portnet, name, solver, 100)
        # Of the differences, fold by fold: what is common to both does not count as noise.
        error = (c - a).std(ddof=1) / np.sqrt(len(a))
        worst = min(worst, (c.mean() - a.mean()) / error if error else 0.0)
        rows.append(
            f"| {name} | {solver} | {a.mean():.4f} | {b.mean():.4f} | {np.abs(a - b).max():.1e} "
            f"| {c.mean():.4f} | {c.mean() - a.mean():+.4f} ± {error:.4f} "
            f"| {seconds_a:.1f} | {seconds_b:.1f} |"
        )
    return [
        "# Scores of the estimators beside scikit-learn's",
        "",
        f"`python ci/estimators_table.py`, {facts()}",
        "",
        f"Means of {FOLDS} folds and {SEEDS} seeds; accuracy, for diabetes and linnerud R2; "
        "defaults, after a StandardScaler. *Same seeds*: the initial weights and orders of rows "
        "are scikit-learn's; *largest* is the largest difference of one of the 25 scores. *Other "
        "seeds*: portnet with five others, and the difference to scikit-learn with its standard "
        "error. Seconds are of the 25 fits, one after the other, on a shared machine: no "
        "benchmark.",
        "",
        "| data | solver | scikit-learn | portnet, same seeds | largest | portnet, other seeds "
        "| difference | s | s |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"The lowest difference with other seeds is {worst:.1f} standard errors.",
    ]


# Models -------------------------------------------------------------------------------------------


def tables():
    """Return the data sets by name: X, y, and whether y are numbers to predict."""
    draw = np.random.default_rng(0)
    found = {
        name: (*getattr(datasets, f"load_{name}")(return_X_y=True), name in REGRESSION)
        for name in DATA
    }
    X = draw.standard_normal((1000, 10))
    smooth = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * X[:, 3:].sum(axis=1)
    found["smooth function"] = X, smooth + 0.1 * draw.standard_normal(1000), True
    X, y, _ = *datasets.make_classification(1000, 20, n_informative=10, random_state=0), 0
    found["clusters"] = X, y, False
    X = draw.uniform(-1, 1, (1000, 10))
    steps = np.floor(3 * X[:, 0]) * (X[:, 1] > 0) + np.floor(2 * X[:, 2])
    found["steps"] = X, steps + 0.1 * draw.standard_normal(1000), True
    return found


def model(name, regression, seed, several_outputs=False):
    """Return a model with its defaults; networks after a StandardScaler, also of y."""
    if name in ("HistGradientBoosting", "RandomForest"):
        kind = "Regressor" if regression else "Classifier"
        trees = getattr(ensemble, name + kind)(random_state=seed)
        return MultiOutputRegressor(trees) if several_outputs and name.startswith("Hist") else trees
    several = NETWORKS if str(NETWORKS) in name else 1
    stops = "early" in name or "both" in name
    made = portnet.MLPRegressor if regression else portnet.MLPClassifier
    net = made(n_networks=several, early_stopping=stops, random_state=seed)
    net = make_pipeline(StandardScaler(), net)
    return TransformedTargetRegressor(net, transformer=StandardScaler()) if regression else net


def models():
    """Return the lines of the part about models."""
    rows = []
    for name, (X, y, regression) in tqdm(tables().items()):
        folds = (KFold if regression else StratifiedKFold)(FOLDS, shuffle=True, random_state=0)
        found = [
            cross_val_score(model(m, regression, 0, y.ndim > 1), X, y, cv=folds) for m in MODELS
        ]
        best = max(each.mean() for each in found)
        cells = [
            f"**{each.mean():.3f}**" if each.mean() > best - 5e-4 else f"{each.mean():.3f}"
            for each in found
        ]
        shape = f"{len(X):,} x {X.shape[1]}"
        rows.append(f"| {name} | {shape} | {'R2' if regression else 'accuracy'} | ")
        rows[-1] += " | ".join(cells) + " |"
    return [
        "## A network, an ensemble, or trees?",
        "",
        f"`python ci/estimators_table.py --only models`, {facts()}",
        "",
        f"Means of {FOLDS} folds, the same for all, the best of a line in bold; differences below "
        "0.01 are noise. All have their defaults. Networks come after a StandardScaler, of the "
        f"numbers to predict, too; *ensemble of {NETWORKS}* is ``n_networks={NETWORKS}``, *early "
        "stopping* ``early_stopping=True``. The last three data sets are drawn: a smooth function "
        "of ten columns, clusters of points (`make_classification`), and a function of steps, with "
        "seven columns that say nothing. R2 below 0 is worse than the mean of y: linnerud has 20 "
        "rows, for three numbers each (with gradient boosting for one after the other).",
        "",
        "| data | rows x columns | score | " + " | ".join(MODELS) + " |",
        "|---" * (3 + len(MODELS)) + "|",
        *rows,
    ]


PARTS = {"solvers": solvers, "models": models}


def main():
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS))
    args = options.parse_args()
    if unknown := sorted(set(args.only) - set(PARTS)):
        options.error(f"--only: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    warnings.simplefilter("ignore", ConvergenceWarning)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "estimators.md"
    first, _, second = (path.read_text() if path.exists() else "").partition("\n## ")
    old = {"solvers": first.strip(), "models": f"## {second}".strip() if second else ""}
    new = {part: "\n".join(PARTS[part]()) for part in PARTS if part in args.only}
    text = "\n\n".join(filter(None, (old | new).values())) + "\n"
    path.write_text(text)
    print(text)
    print(path)


if __name__ == "__main__":
    main()
