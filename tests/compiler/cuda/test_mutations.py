"""Faults in kernels are found: each barrier and guard removed, each index and bound shifted by one."""

import json
import os
import re
import subprocess
import sys

from cpu_device import HERE, needs_gxx

# Faults that change no result, as (kernel, fault in the line) and why.
EQUIVALENT = (
    (
        r"finish|copy\d+|k\d+_join",
        r"<__syncthreads\(\);>",
        "no copy of these kernels writes what another one reads",
    ),
    (
        r"k\d+_whole",
        r"<__syncthreads\(\);>",
        "one thread alone writes the part of its block, counts the block, and adds up the parts",
    ),
    (
        r"k\d+_(rows|columns)",
        r".*<(if \(live\) |live && )>.*",
        "a thread beside the array computes the last row or column again, and stores its value again",
    ),
    (
        r"k\d+_rows",
        r"if \(live< && lane == 0>\).*",
        "all threads of a row have the same result, and store it",
    ),
    (
        r"k\d+_whole",
        r"<if \(threadIdx.x == 0\) >.*= (v\d+|s\d+\[0\]);",
        "all threads have the same result, and store it",
    ),
    (
        r"k\d+_columns",
        r"<if \(threadIdx.y == 0\) >for \(int k = 1;.*",
        "what the other threads of a column add up is not used",
    ),
    (
        r"k\d+_(whole|columns)",
        r"if \(<last && >\(.*\)\) \{",
        "what other blocks add up is not stored",
    ),
    (
        r"k\d+_product",
        r".*<(row < \d+ && | && column < \d+)>.*",
        "elements beside the array add to a sum that is not stored; the sanitizers find the read",
    ),
    (
        r"k\d+_product",
        r".*<(kb < \d+ && | && ka < \d+)>.*",
        "they are multiplied by 0; the sanitizers find the read, and infinite elements the product",
    ),
    (
        r"k\d+_columns",
        r"if \(last && \(live< && threadIdx.y == 0>\)\) \{",
        "what the other threads of a column add up is not stored",
    ),
)


def is_equivalent(kernel, line):
    """Tell whether a fault is known to change no result."""
    return any(re.fullmatch(k, kernel) and re.fullmatch(f, line) for k, f, _ in EQUIVALENT)


@needs_gxx
def test_each_fault_is_found_or_changes_nothing():
    path = os.pathsep.join([str(HERE), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HERE / "mutants.py")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["count"] > 500
    left = [s for s in result["survivors"] if not is_equivalent(s[1], s[3])]
    assert not left, "\n".join(map(str, left))
    kinds = {kind for _, _, kind, _ in result["survivors"]}
    assert kinds == {"barrier", "guard"}, "each index and bound that is shifted shows"
