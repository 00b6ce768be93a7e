"""Compare the scores of portnet's estimators with scikit-learn's, and write the table.

    python ci/estimators_table.py [--out ci/results]

Each of five data sets that come with scikit-learn, three solvers, the defaults otherwise (after a
StandardScaler), 5 folds, 5 seeds: the mean of the 25 scores (accuracy, R2) and their standard
error, once with scikit-learn's initial weights and row orders, once with others (other seeds). The
difference of the first is rounding; the second shows how large noise is.
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
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

import portnet

DATA = ["digits", "breast_cancer", "wine", "iris", "diabetes"]
SOLVERS = ["adam", "sgd", "lbfgs"]
SEEDS, FOLDS = 5, 5


def scores(package, name, solver, first_seed):
    """Return the 25 scores, and the seconds that all took."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    regression = name == "diabetes"
    made = package.MLPRegressor if regression else package.MLPClassifier
    found, start = [], time.perf_counter()
    for seed in range(SEEDS):
        folds = (KFold if regression else StratifiedKFold)(FOLDS, shuffle=True, random_state=seed)
        net = make_pipeline(StandardScaler(), made(solver=solver, random_state=first_seed + seed))
        found += list(cross_val_score(net, X, y, cv=folds))
    return np.array(found), time.perf_counter() - start


def main():
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = options.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
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
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    versions = f"scikit-learn {sklearn.__version__}"
    lines = [
        "# Scores of the estimators beside scikit-learn's",
        "",
        f"`python ci/estimators_table.py`, {datetime.date.today()}, commit {commit}, "
        f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"SciPy {scipy.__version__}, {versions}.",
        "",
        f"Means of {FOLDS} folds and {SEEDS} seeds; accuracy, for diabetes R2; defaults, after a "
        "StandardScaler. *Same seeds*: the initial weights and orders of rows are scikit-learn's; "
        "*largest* is the largest difference of one of the 25 scores. *Other seeds*: portnet with "
        "five others, and the difference to scikit-learn with its standard error. Seconds are of "
        "the 25 fits, one after the other, on a shared machine: no benchmark.",
        "",
        "| data | solver | scikit-learn | portnet, same seeds | largest | portnet, other seeds "
        "| difference | s | s |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"The lowest difference with other seeds is {worst:.1f} standard errors.",
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "estimators.md"
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
