"""Print what `import portnet` costs beyond `import numpy`: the best of 7 fresh processes each."""

import subprocess
import sys
import time

LIMIT = 0.3  # seconds


def best(code: str) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - began)
    return min(times)


numpy, portnet = best("import numpy"), best("import portnet")
print(f"import numpy {numpy:.3f} s, import portnet {portnet:.3f} s: {portnet - numpy:.3f} s more")
sys.exit(portnet - numpy > LIMIT)
