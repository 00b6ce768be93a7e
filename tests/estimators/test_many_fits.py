"""Many fits at once, on the workers of joblib and of a Dask cluster: the same numbers as one by one.

The clusters are real: each worker is a process, and a script of its own starts them, as a user's
would.
"""

import json
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

PROLOGUE = """
import json
import os
import warnings

import joblib
import numpy as np
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score

import portnet

X, y = load_iris(return_X_y=True)
net = portnet.MLPClassifier((16,), random_state=0, max_iter=15)
grid = {"alpha": [1e-4, 1e-1], "learning_rate_init": [1e-3, 1e-2]}
warnings.filterwarnings("ignore", "Stochastic Optimizer")


def scores():
    search = GridSearchCV(net, grid, cv=3, n_jobs=2).fit(X, y)
    folds = cross_val_score(net, X, y, cv=4, n_jobs=2)
    weights = search.best_estimator_.coefs_[0].sum()
    return [*search.cv_results_["mean_test_score"], *folds, weights]


def limits(seconds):
    import time

    import threadpoolctl

    time.sleep(seconds)  # so that no worker takes both
    return os.getpid(), [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]


def main():
    with joblib.parallel_config("sequential"):
        alone = scores()
    BODY
    print(json.dumps({"alone": alone, "found": found, "limits": found_limits, "pid": os.getpid()}))


if __name__ == "__main__":
    main()
"""

LOKY = """
with joblib.parallel_config("loky", n_jobs=2):
    found = scores()
    found_limits = joblib.Parallel()(joblib.delayed(limits)(1.0) for _ in range(2))
"""

DASK = """
from dask.distributed import Client, LocalCluster

cluster = LocalCluster(
    n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
)
with cluster, Client(cluster) as client, joblib.parallel_config("dask"):
    found = scores()
    found_limits = list(client.run(limits, 0.0).values())
"""


@pytest.mark.parametrize(("package", "body"), [("joblib", LOKY), ("distributed", DASK)])
def test_searches_on_two_workers_equal_those_in_one_process(package, body, tmp_path):
    pytest.importorskip(package, reason=f"{package} is not installed")
    script = tmp_path / "search.py"
    body = textwrap.indent(body.strip(), "    ").strip()
    script.write_text(PROLOGUE.replace("BODY", body), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["found"] == result["alone"]
    assert len(set(result["found"])) > 3  # the fits are different ones
    workers = {pid for pid, _ in result["limits"]}
    assert len(workers) == 2
    assert result["pid"] not in workers
    assert all(0 < n <= 1 for _, pools in result["limits"] for n in pools)  # threads of BLAS
