"""Kernels with one fault each: prints, as JSON, those whose results are right all the same.

`test_mutations.py` starts this as a process of its own: each mutant runs in a child of it, since it
may crash.
"""

import json
import os
import re
import signal
import sys

import numpy as np
import plans
from cpu_device import CPUDevice
from plans import PRELUDE, Case
from test_kernels import dropped, softmax

from portnet import namespace

# A fault: its name, what it is found by, and what stands there instead.
FAULTS = (
    ("barrier", r"__syncthreads\(\);", ""),
    ("guard", r"if \(i >= \d+\) return;", ""),
    ("guard", r"(?<== )mine < \d+(?=;)", "true"),
    ("guard", r"if \(live\) ", ""),
    ("guard", r"live && ", ""),
    ("guard", r"last && ", ""),
    ("guard", r" && threadIdx\.[xy] == 0", ""),
    ("guard", r"if \(threadIdx\.[xy] == 0\) ", ""),
    ("guard", r" && lane == 0", ""),
    ("guard", r"if \(c\d == 0\) ", ""),
    ("guard", r"if \(c1 < \d+\)", "if (true)"),
    ("guard", r"if \(first == 0\) ", ""),
    ("guard", r"if \(lane < h\) ", ""),
    ("guard", r"if \(\(int\)threadIdx\.x < h\)", "if (true)"),
    ("guard", r"if \(last\) \*done = 0;", ""),
    ("index", r"\(long long\)(c\d+|blockIdx\.\w|k|\([^()]*\)) \*", r"((long long)\1 + 1) *"),
    ("index", r"\[(i|j|k|lane|lane \+ h|threadIdx\.[xy]|threadIdx\.x \+ h|0)\]", r"[\1 + 1]"),
    ("index", r"(?<=p\d) \+ (\d+)(?=[) ])", r" + \1 + 4"),
    ("index", r"= i ([/%])", r"= (i + 1) \1"),
    ("index", r"= i;", "= i + 1;"),
    ("index", r"\(i / (\d+) % (\d+)\)", r"((i + 1) / \1 % \2)"),
    ("index", r"lane \+ j \*", "lane + 1 + j *"),
    ("index", r"blockIdx\.x \* (\d+) \+ threadIdx\.", r"blockIdx.x * \1 + 1 + threadIdx."),
    ("index", r"blockIdx\.y \* (\d+) \+ threadIdx\.", r"blockIdx.y * \1 + 1 + threadIdx."),
    ("index", r"parts\d+\[(?=\()", r"\g<0>1 + "),
    ("index", r"\+ c1\]", "+ c1 + 1]"),
    ("bound", r"(?<=\b[ikj] < )(\d+)(?=;)", r"\1 - 1"),
    ("bound", r"(?<=k = )(\d+)(?=;)", r"\1 + 1"),
    ("bound", r"(?<=int h = )(\d+)(?=;)", r"\1 / 2"),
    ("bound", r"(?<=h > )0", "1"),
    ("bound", r"min\((\d+),", r"min(\1 - 1,"),
    ("bound", r"blockIdx\.y \+ 1\) \* (\d+)", r"blockIdx.y + 1) * \1 - 1"),
    ("bound", r"(?<=c1 < )(\d+)(?=\))", r"\1 - 1"),
    ("bound", r"atomicAdd\(done, 1u\) == (\d+)", r"atomicAdd(done, 1u) == \1 - 1"),
)


def elements(a, b, row, column):
    """In place, with operands of fewer elements."""
    xp = namespace(a)
    t = xp.matrix_transpose(b)
    return (a * t + row) * column, xp.where(t > row, t, a)[1::2, ::3] * 2.0


def sums(x, y):
    xp = namespace(x)
    return xp.sum(x * 2.0, axis=0), xp.sum(x * x), xp.max(y, axis=0), xp.mean(y), x + 1.0


def lanes(x):
    """Rows, of which the last block has fewer, in place, with 4 threads and more for each."""
    xp = namespace(x)
    s = xp.sum(x, axis=1, keepdims=True)
    centred = x - s
    return centred * xp.max(centred, axis=1, keepdims=True), xp.min(x * s, axis=1)


def joined(x, y, order):
    xp = namespace(x)
    rows = xp.take(x, order, axis=0)
    long = xp.concat([rows, y], axis=0)
    return xp.concat([xp.sum(long * long, axis=1), y[0, :]]), xp.matrix_transpose(rows), long


def moved(s, x):
    xp = namespace(x)
    return s + xp.sum(x, axis=0)


def cases():
    """Return cases by their names."""
    draw = np.random.default_rng(0)

    def normal(*shape):
        return draw.standard_normal(shape).astype("f4")

    key = np.full((1, 1), 7, "i4")
    made = {
        "elements": Case(elements, [normal(9, 33), normal(33, 9), normal(33), normal(9, 1)], (0,)),
        "sums": Case(sums, [normal(300, 40), normal(19, 7)], (0,)),
        "one block": Case(sums, [normal(19, 7), normal(20, 33)]),
        "lanes": Case(lanes, [normal(19, 61)], (0,)),
        "softmax": Case(softmax, [normal(300, 10), normal(1, 10), draw.integers(0, 10, 300)], (0,)),
        "joined": Case(joined, [normal(9, 13), normal(4, 13), draw.permutation(9)[:5]]),
        "large copy": Case(lambda x: namespace(x).matrix_transpose(x), [normal(70, 70)], (0,)),
        "dropout": Case(dropped, [key, key, normal(7, 33)]),
        "moved": Case(
            moved, [normal(5), x := normal(12, 5)], (0,), moving={1: 60}, given=[normal(5), x[:3]]
        ),
    }
    plans.together(list(made.values()))
    return made


def mutants(text):
    """Return (kind, line, text) of each kernel with one fault."""
    head, body = text.split("\n", 1)
    found = []
    for kind, pattern, instead in FAULTS:
        for at in re.finditer(pattern, body):
            new = body[: at.start()] + at.expand(instead) + body[at.end() :]
            begin = body.rfind("\n", 0, at.start()) + 1
            line = body[begin : body.find("\n", at.end())].strip()
            where = at.start() - begin - (len(body[begin:]) - len(body[begin:].lstrip()))
            found.append(
                (kind, f"{line[:where]}<{at[0]}>{line[where + len(at[0]) :]}", head + "\n" + new)
            )
    return found


def ends(case, seeds):
    """Return the arrays after two steps, for each order of the threads."""
    found = []
    for seed in seeds:
        device = CPUDevice(seed, flags=("-O1", "-w"))
        step, arrays = case.step(device)
        for _ in range(2):
            step.run()
        device.check()
        found += [a.tobytes() for a in arrays]
    return found


def survives(case, right):
    """Tell whether the results of a case are right; it runs in a child."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            same = ends(case, (1, 2)) == right
        except BaseException:
            same = False
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    return status == 0


def main():
    # sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # of the faults' own messages
    made = cases()
    source = next(iter(made.values())).plan.program.source
    texts = plans.kernels_of(source)
    number, all_texts, found = 0, [source], []
    for name, case in made.items():
        for k, launch in enumerate(case.plan.program.launches):
            for kind, line, text in mutants(texts[launch.name]):
                number += 1
                renamed = f"mutant{number}"
                all_texts.append(text.replace(f" {launch.name}(", f" {renamed}(", 1))
                found.append((name, k, launch.name.split("_", 1)[1], kind, line, renamed))
    whole = "\n".join(all_texts)
    rights, survivors = {}, []
    for case in made.values():
        case.plan.program.source = whole
    for name, k, kernel, kind, line, renamed in found:
        case = made[name]
        if name not in rights:
            rights[name] = ends(case, (1, 2))
        launches = list(case.plan.program.launches)
        case.plan.program.launches[k] = launches[k]._replace(name=renamed)
        if survives(case, rights[name]):
            survivors.append([name, kernel, kind, line])
        case.plan.program.launches[:] = launches
    print(json.dumps({"count": number, "survivors": survivors}))


if __name__ == "__main__":
    assert PRELUDE
    main()
