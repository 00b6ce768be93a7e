"""64 small networks as one program: what `ci/bench.py --ensembles` measures, and its table.

Networks of 2-8-4-1 at 4, 20 and 200 rows, all rows in each step: `portnet.Population` beside 64
loops of the document's NumPy code, and ``MLPClassifier(n_networks=64)`` beside 64 fits of
scikit-learn; both beside 64 fits of portnet's own. Each contender has new processes, in turn, as in
bench_whole.py, and the results must agree.

The floor of a step are the calls of NumPy that no order of the networks can spare: products, and
exp or tanh of all units.
"""

import datetime
import os
import sys
import timeit
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from bench_whole import ROOT, Row, example_of, main, measured, three

NETWORKS = 64
LOOP, FITS = "the document's loop", "a loop of portnet's fits"
SKLEARN = "scikit-learn"
WANTED = {LOOP: 8, SKLEARN: 8, FITS: 0.9}
SIZES = 4, 20, 200  # rows


@dataclass(frozen=True)
class Ensemble(Row):
    """A row of the table, with what the floor of a step is made of."""

    rows: int = 0
    epochs: int = 0
    function: str = "tanh"


# Populations: document 001, gradient descent with sigmoids -----------------------------------


def _parts(rows):
    import portnet

    portnet.set_backend("numpy", dtype="float64")
    X, y, params = example_of("two_blobs").document(rows)
    one = example_of("two_blobs").trainer(params)
    given = one.model, NETWORKS, one.loss, one.optimizer, one.batch_size
    return portnet.Population(*given), X, y


def _losses(runs):
    return [v for run in runs for v in three(run.history["loss"])]


def _together(rows, epochs):
    population, X, y = _parts(rows)
    return lambda: population.fit(X, y, epochs=epochs), _losses


def _in_turn(rows, epochs):
    population, X, y = _parts(rows)
    return lambda: [t.fit(X, y, epochs=epochs) for t in population.trainers], _losses


def _by_hand(rows, epochs):
    import portnet

    population, X, y = _parts(rows)
    starts = [portnet.init(t.model, seed=t.seed) for t in population.trainers]
    starts = [[(p["W"], p["b"]) for p in params if p] for params in starts]
    by_hand = example_of("by_hand")

    def work():
        return [by_hand.two_blobs(X, y, weights, epochs=epochs)[0] for weights in starts]

    return work, lambda found: [rows * v for each in found for v in three(each)]


def _population(rows, epochs):
    contenders = {"portnet": _together, LOOP: _by_hand, FITS: _in_turn}
    return Ensemble(
        "Population, gradient descent, sigmoid",
        {who: partial(start, rows, epochs) for who, start in contenders.items()},
        rtol=1e-3,  # steps so long that rounding grows
        rows=rows,
        epochs=epochs,
        function="exp",
    )


# Estimators: Adam, tanh -----------------------------------------------------------------------

OPTIONS = {"hidden_layer_sizes": (8, 4), "activation": "tanh", "learning_rate_init": 0.01}


def _estimators(rows, epochs):
    options = OPTIONS | {"batch_size": rows, "max_iter": epochs, "n_iter_no_change": epochs}
    seeds = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=NETWORKS)

    def data():
        X, y, _ = example_of("two_blobs").document(rows)
        return X, y[:, 0].astype(int)

    def ensemble():
        from portnet import MLPClassifier

        X, y = data()
        work = partial(MLPClassifier(**options, n_networks=NETWORKS, random_state=0).fit, X, y)
        return work, lambda net: [one.loss_ for one in net.estimators_]

    def loop(of):
        if of == SKLEARN:
            from sklearn.neural_network import MLPClassifier
        else:
            from portnet import MLPClassifier
        X, y = data()

        def work():
            return [MLPClassifier(**options, random_state=int(s)).fit(X, y) for s in seeds]

        return work, lambda nets: [one.loss_ for one in nets]

    return Ensemble(
        "MLPClassifier(n_networks=64), adam, tanh",
        {"portnet": ensemble, SKLEARN: partial(loop, SKLEARN), FITS: partial(loop, FITS)},
        rtol=1e-4,
        rows=rows,
        epochs=epochs,
    )


def _rows():
    for rows in SIZES:
        yield f"population-{rows}", _population(rows, 1000 if rows > 20 else 2000)
    for rows in SIZES:
        yield f"estimators-{rows}", _estimators(rows, 500)


ROWS = dict(_rows())


# Measuring ------------------------------------------------------------------------------------


def floor(row):
    """Return the seconds of the products of a step, and of exp or tanh of its units, in NumPy.

    Each is one call for all networks, in arrays that are there.
    """
    draw, sizes = np.random.default_rng(0), (2, 8, 4, 1)
    x = [draw.standard_normal((NETWORKS, row.rows, n)) for n in sizes]
    W = [draw.standard_normal((NETWORKS, *shape)) for shape in pairwise(sizes)]
    calls = []
    for i, weight in enumerate(W):
        y, function = np.empty_like(x[i + 1]), getattr(np, row.function)
        calls.append(partial(np.matmul, x[i], weight, out=y))
        calls.append(partial(function, x[i + 1], out=y))
        calls.append(partial(np.matmul, x[i].swapaxes(1, 2), x[i + 1]))
        if i:
            calls.append(partial(np.matmul, x[i + 1], weight.swapaxes(1, 2)))
    return sum(min(timeit.repeat(call, number=20, repeat=20)) / 20 for call in calls)


def orders(row):
    """Return the seconds in which scikit-learn's generators draw an order for each network."""
    draws = [np.random.RandomState(seed) for seed in range(NETWORKS)]
    last = np.arange(row.rows)
    times = timeit.repeat(
        lambda: [last[draw.permutation(row.rows)] for draw in draws], number=5, repeat=20
    )
    return min(times) / 5


def table(found, about, rounds):
    """Return the table as Markdown."""
    shown = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# 64 networks as one program",
        "",
        f"`python ci/bench.py --ensembles --rounds {rounds}`, {datetime.date.today()}, commit "
        f"{about['commit']}, {about['cpu']}, {about['cores']} cores, load {about['load']}; one "
        f"thread; {shown}.",
        "",
        f"{NETWORKS} networks of 2-8-4-1, all rows in each step, float64: whole fits in new "
        "processes, minima of rounds in turn; the losses agree. portnet's compiled code is kept "
        "in a folder that the process before has filled; *first* is with an empty one. A loop is "
        f"{NETWORKS} fits, one after the other. Wanted: {WANTED[LOOP]} times a loop of the "
        f"document's code or of scikit-learn's fits, {WANTED[FITS]} times one of portnet's own. "
        "*Step* is a step of all networks, of a loop and of portnet. *Floor* is what NumPy "
        "takes for the products and for exp or tanh of the units alone, each as one call for "
        "all networks, in arrays that are there; where it is near an eighth of the loop's step, "
        "8 times cannot be reached. (portnet computes a sigmoid by tanh, which cannot overflow "
        "and takes twice as long as exp.) The estimators draw an order of the rows for each "
        "network and epoch, as scikit-learn does: *orders* is what its generators take for "
        "that.",
        "",
        "| networks | rows | epochs | portnet | first | loop of | its time | loop / portnet | "
        "wanted | its step, us | step, us | floor, us | orders, us |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, steps in found.items():
        row, floor_of_step = ROWS[name], steps["floor"]
        best = {who: min(case["seconds"]) for who, case in steps["steps"].items()}
        mine = best["portnet second"]
        for who in list(row.contenders)[1:]:
            if who not in best:
                continue
            ratio = best[who] / mine
            met = "met" if ratio >= WANTED[who] else "**missed**"
            cells = [row.title, str(row.rows), f"{row.epochs:,}", f"{mine:.3f} s"]
            cells += [f"{best['portnet first']:.3f} s", who.removeprefix("a loop of ")]
            cells += [f"{best[who]:.2f} s", f"{ratio:.1f}", f"{WANTED[who]}, {met}"]
            cells.append(f"{1e6 * best[who] / row.epochs:.0f}")
            cells += [f"{1e6 * mine / row.epochs:.0f}", f"{1e6 * floor_of_step:.0f}"]
            cells.append(f"{1e6 * steps['orders']:.0f}" if steps["orders"] else "none")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ensembles(args, out):
    """Measure, print the table, and write it to a folder, if one is given."""
    import bench_table

    os.environ.update({f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")})
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    rounds, found = args.rounds or (1 if args.quick else 3), {}
    about = bench_table.about(args)
    about["versions"] = {n: about["versions"][n] for n in ("Python", "numpy", "scikit-learn")}
    for name, row in ROWS.items():
        print(name, file=sys.stderr)
        found[name] = measured(name, row, __file__, rounds, 100.0)
        found[name] |= {
            "floor": floor(row),
            "orders": orders(row) if SKLEARN in row.contenders else 0,
        }
    text = table(found, about, rounds)
    print(text)
    if out:
        (out / "ensembles.md").write_text(text, encoding="utf-8")
        print(out / "ensembles.md")


if __name__ == "__main__":
    main(ROWS[sys.argv[1]], sys.argv[2])
