"""Print what `import portnet` costs beyond `import numpy`: the best of 7 fresh processes each.

In seconds of the processor's time, which other work on the machine hardly changes.
"""

import resource
import subprocess
import sys

LIMIT = 0.3


def spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def best(code: str) -> float:
    times = []
    for _ in range(7):
        before = spent()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(spent() - before)
    return min(times)


numpy, portnet = best("import numpy"), best("import portnet")
print(f"import numpy {numpy:.3f} s, import portnet {portnet:.3f} s: {portnet - numpy:.3f} s more")
sys.exit(portnet - numpy > LIMIT)
