"""Kernels with one fault each: prints, as JSON, those whose results are right all the same.

`test_mutations.py` starts this as a process of its own: each mutant runs in a child of it, since it
may crash.
"""

import functools
import json
import os
import re
import signal

import numpy as np
import plans
from cpu_device import CPUDevice, build
from plans import Case
from test_kernels import dropped, products, softmax

from portnet import namespace
from portnet.compiler.cuda import kernels

FEW, MANY = range(1, 4), range(1, 40)  # seeds of the orders of the threads
# A fault: its name, what it is found by, and what stands there instead.
FAULTS = (
    ("barrier", r"__syncthreads\(\);", ""),
    ("guard", r"if \(i >= \d+\) return;", ""),
    ("guard", r"if \(i >= \d+\) break;", ""),
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
    ("guard", r"(row|column|ka|kb) < \d+ && ", ""),
    ("guard", r" && (row|column|ka|kb) < \d+", ""),
    ("index", r"(?<=k[ab] = )first", "first + 1"),
    ("index", r"\(long long\)(row|column|ka|kb) \*", r"((long long)\1 + 1) *"),
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
    ("index", r"first \+ (\d+) \* j", r"first + 1 + \1 * j"),
    ("bound", r"(?<=\(int\))(\d+)(?=\);)", r"\1 - 1"),
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


def large_sum(x):
    return x + 1.0, namespace(x).sum(x * x)


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
    return xp.concat([y[0, :], xp.sum(long * long, axis=1)]), xp.matrix_transpose(rows), long


def moved(s, x):
    xp = namespace(x)
    return s + xp.sum(x, axis=0)


def cases():
    """Return cases by their names; each row has the largest element of a column."""
    draw = np.random.default_rng(0)

    def normal(m, n=1):
        x = draw.standard_normal((m, n)).astype("f4")
        if n > 1:
            x[np.arange(m), np.arange(m) % n] += 9
        return x if n > 1 else x[:, 0]

    key = np.full((1, 1), 7, "i4")
    x = normal(81, 5)
    made = {
        "elements": Case(elements, [normal(9, 33), normal(33, 9), normal(33), x[:9, :1]], (0,)),
        "sums": Case(sums, [normal(130, 40), normal(27, 40)], (0,)),
        "large sum": Case(large_sum, [normal(4200)], (0,)),
        "one block": Case(sums, [normal(27, 7), normal(28, 33)]),
        "lanes": Case(lanes, [normal(19, 61)], (0,)),
        "softmax": Case(softmax, [normal(130, 10), normal(1, 10), draw.integers(0, 10, 130)], (0,)),
        "joined": Case(joined, [normal(9, 13), normal(4, 13), draw.permutation(9)[:5]]),
        "large copy": Case(lambda x: namespace(x).flip(x, axis=0), [normal(4100)], (0,)),
        "dropout": Case(dropped, [key, key, normal(7, 33)]),
        "products": Case(products, [normal(19, 21), normal(21, 18), normal(18, 17)]),
        "moved": Case(moved, [x[0], x], (0,), moving={1: 540}, given=[x[0], x[:27]]),
    }
    large, kernels.LARGE = kernels.LARGE, 1
    made["several elements"] = Case(
        elements, [normal(66, 72), normal(72, 66), normal(72), x[:66, :1]], (0,)
    )
    kernels.LARGE = large
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


class Device(CPUDevice):
    """The device for tests, with a library that is compiled already."""

    library = None

    def compile(self, source):
        return self.library


def end(case, seed):
    """Return the arrays after each of two steps, for an order of the threads."""
    device, found = Device(seed), []
    step, arrays = case.step(device)
    for _ in range(2):
        step.run()
        found += [a.tobytes() for a in arrays]
    device.check()
    return found


def survives(case, k, renamed, kind, right):
    """Tell whether the results of a case are right with another kernel in launch k."""
    launches = case.plan.program.launches
    before = launches[k]
    launches[k] = before._replace(name=renamed)
    try:
        return all(end(case, seed) == right for seed in (MANY if kind == "barrier" else FEW))
    except Exception:
        return False
    finally:
        launches[k] = before


def in_children(tasks, count=64):
    """Return the results of functions that may crash: then False."""
    found = []
    while len(found) < len(tasks):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            for task in tasks[len(found) : len(found) + count]:
                signal.alarm(10)  # ends it where it would go on for ever
                os.write(write, b"1" if task() else b"0")
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            found += [byte == ord("1") for byte in pipe.read()]
        _, status = os.waitpid(child, 0)
        if status:
            found.append(False)
    return found


def main():
    made = cases()
    source = next(iter(made.values())).plan.program.source
    texts = plans.kernels_of(source)
    all_texts, found = [source], []
    for name, case in made.items():
        for k, launch in enumerate(case.plan.program.launches):
            for kind, line, text in mutants(texts[launch.name]):
                renamed = f"mutant{len(found)}"
                all_texts.append(text.replace(f" {launch.name}(", f" {renamed}(", 1))
                kernel = launch.name.split("_", 1)[1]
                found.append((name, k, kernel, kind, line, renamed))
    os.environ.pop("PORTNET_NVRTC", None)  # the faults are for the CPU alone
    Device.library = build("\n".join(all_texts), ("-O0", "-w"))
    rights = {name: end(case, 0) for name, case in made.items()}
    for name, case in made.items():
        assert all(end(case, seed) == rights[name] for seed in FEW)
    tasks = [
        functools.partial(survives, made[name], k, renamed, kind, rights[name])
        for name, k, _, kind, _, renamed in found
    ]
    results = zip(found, in_children(tasks), strict=True)
    survivors = [[f[0], f[2], f[3], f[4]] for f, survived in results if survived]
    print(json.dumps({"count": len(found), "survivors": survivors}))


if __name__ == "__main__":
    main()
