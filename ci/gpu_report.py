"""Write what `ci/gpu` found as Markdown: the machine, and what passed in each part.

    python ci/gpu_report.py FOLDER

The folder has the files gpu-part-N.xml that pytest has written (JUnit's format), from one run or
from several of the same day; the report is gpu-run.md in it. Fails if no test was run.
"""

import importlib.metadata
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from datetime import date
from pathlib import Path

LIBRARIES = (
    "numpy cupy-cuda13x cupy-cuda12x cuda-core nvmath-python torch jax scikit-learn "
    "array-api-compat pytest"
).split()


def commit():
    """Return the commit that was tested: as PORTNET_COMMIT has it, or of the checkout."""
    if os.environ.get("PORTNET_COMMIT"):
        return os.environ["PORTNET_COMMIT"]
    here = Path(__file__).resolve().parent
    found = subprocess.run(
        ["git", "-C", here, "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "of an unknown number"


def machine():
    """Return device, driver and versions, as one line."""
    import cupy

    runtime = cupy.cuda.runtime
    names = [
        runtime.getDeviceProperties(n)["name"].decode() for n in range(runtime.getDeviceCount())
    ]
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = f"CUDA {_version(runtime.driverGetVersion())} (driver)"
    cuda += f" and {_version(runtime.runtimeGetVersion())} (runtime)"
    return f"{', '.join(names)}; {cuda}; Python {sys.version.split()[0]}; {', '.join(versions)}"


def _version(number):
    return f"{number // 1000}.{number % 1000 // 10}"


def part(path):
    """Return the row of the table of a part, and its skips and failures by reason."""
    reasons, failed, count, seconds = Counter(), [], Counter(), 0.0
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        seconds += float(suite.get("time", 0))
        for case in suite.iter("testcase"):
            kinds = {child.tag: child for child in case}
            bad = kinds.get("failure", kinds.get("error"))
            if bad is not None:
                failed.append(f"{case.get('classname')}::{case.get('name')}")
            elif "skipped" in kinds:
                reasons[kinds["skipped"].get("message", "")] += 1
            count[
                "failed" if bad is not None else "skipped" if "skipped" in kinds else "passed"
            ] += 1
    number = path.stem.rpartition("-")[2]
    row = (
        f"| {number} | {count['passed']} | {count['failed']} | {count['skipped']} | {seconds:.0f} |"
    )
    return row, count, failed, reasons


def main(folder):
    """Write the report; return what a shell takes as success."""
    parts = [part(path) for path in sorted(folder.glob("gpu-part-*.xml"))]
    if not sum((count for _, count, _, _ in parts), Counter())["passed"]:
        print("gpu_report: no test has passed", file=sys.stderr)
        return 1
    lines = [
        "# What `ci/gpu` found",
        "",
        f"{date.today()}, commit {commit()}; {machine()}",
        "",
        "| part | passed | failed | skipped | seconds |",
        "|---|---|---|---|---|",
        *[row for row, *_ in parts],
        "",
        "Parts 4 and 7 are examples and a benchmark, without tests. Skipped:",
        "",
    ]
    skipped = sum((reasons for *_, reasons in parts), Counter())
    lines += [f"- {count}: {reason}" for reason, count in skipped.most_common()]
    failures = [name for _, _, failed, _ in parts for name in failed]
    if failures:
        lines += ["", "Failed:", "", *[f"- `{name}`" for name in failures]]
    (folder / "gpu-run.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
