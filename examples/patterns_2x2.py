"""Patterns 2 x 2: a 4-8-4 network names what a matrix of black and white cells shows.

Eight of the sixteen matrices have a name: solid, vertical, horizontal and diagonal, two of each.
Gradient descent learns them from the document's small weights (seed 42) or from He's (--init he).
Then matrices are classified: given as arguments ("1 0 1 0" or 1 0 1 0), or else typed in.
"""

import sys

import by_hand
import common
import numpy as np

import portnet
from portnet import plots

NAMES = ("solid", "vertical", "horizontal", "diagonal")
X = np.array([list(c) for c in "1111 0000 1010 0101 1100 0011 1001 0110".split()], dtype=float)
Y = np.repeat(np.arange(4), 2)
NET = portnet.mlp([4, 8, 4], activation="relu", weights="he_normal")


def document_weights():
    """Return W1 (4, 8) and W2 (8, 4) as the document draws them: transposed, a hundredth."""
    draw = np.random.RandomState(42)
    W1, W2 = draw.randn(8, 4).T * 0.01, draw.randn(4, 8).T * 0.01
    return {"W": W1, "b": np.zeros((1, 8))}, (), {"W": W2, "b": np.zeros((1, 4))}


def train(init, seed, epochs):
    """Return the first run that has all eight right; starts whose ReLUs die are drawn again."""
    for attempt in range(20):
        start = {"params": document_weights()} if init == "document" else {}
        start["seed"] = seed + 10_000 * attempt
        trainer = portnet.Trainer(NET, "softmax_cross_entropy", portnet.SGD(0.1), None, **start)
        run = trainer.fit(X, Y, epochs=epochs)
        right = int((run.predict_class(X) == Y).sum())
        print(f"Loss {run.history['loss'][-1]:.4f} after {epochs} epochs, {right} of 8 right")
        if right == 8 or init == "document":
            return run
        print("Units that are off for all eight matrices learn nothing: drawing other weights")
    return run


def read(text):
    """Return the four cells of "1 0 1 0", "1010" or "1 0 / 1 0"; raise ValueError for others."""
    cells = "".join(c for c in text if c not in ",;/[]" and not c.isspace())
    if len(cells) != 4 or set(cells) - {"0", "1"}:
        raise ValueError(f"expected four cells, each 0 or 1, such as 1 0 1 0; got {text.strip()!r}")
    return np.array([[float(c) for c in cells]])


def matrices(words):
    """Return the matrices in the arguments: one in each, or cells without quotes, four by four."""
    if any(len(word) > 3 for word in words):
        return words
    cells = [cell for word in words for cell in word if cell not in ",;/[]"]
    return [" ".join(cells[i : i + 4]) for i in range(0, len(cells), 4)]


def classify(run, texts):
    """Print the class of each matrix, with probabilities; say what is wrong with the others."""
    wrong = 0
    for text in texts:
        try:
            x = read(text)
        except ValueError as error:
            print(error, file=sys.stderr)
            wrong += 1
            continue
        p = run.predict_proba(x)[0]
        print(f"{NAMES[p.argmax()]:<10}", *(f"{n} {v:.3f}" for n, v in zip(NAMES, p, strict=True)))
        if not (x == X).all(axis=1).any():
            print(" " * 10, "one of the eight matrices that have no label, so this is a guess")
    return wrong


def typed():
    """Yield what is typed in, line by line, until an empty line or the end."""
    print("Type matrices as four cells, row by row, such as 1 0 1 0; an empty line ends")
    try:
        while line := input("matrix: ").strip():
            yield line
    except EOFError:
        print()


def main():
    options = common.parser(__doc__)
    options.add_argument("matrix", nargs="*", help='"1 0 1 0", or 1 0 1 0')
    options.add_argument("--init", choices=("document", "he"), help="he if a seed is given")
    options.add_argument("--seed", type=common.at_least(0), help="of He's weights")
    options.add_argument("--epochs", type=common.at_least(1), default=10_000)
    args = common.begin(options)
    init = args.init or ("document" if args.seed is None else "he")
    run, seconds = common.timed(train, init, args.seed or 0, args.epochs)
    W1, _, W2 = (p and p["W"] for p in document_weights())
    common.beside(seconds, by_hand.patterns_2x2, X, Y, W1.T, W2.T, epochs=args.epochs)
    every = np.array([[float(c) for c in f"{n:04b}"] for n in range(16)])
    proba = run.predict_proba(every)
    guess = ["" if (x == X).all(axis=1).any() else "guess: " for x in every]
    captions = [f"{g}{NAMES[p.argmax()]} {p.max():.2f}" for g, p in zip(guess, proba, strict=True)]
    title = "All sixteen matrices: the eight that were learned, and guesses for the others"
    images, out = list(every.reshape(-1, 2, 2)), args.out / "patterns_2x2.png"
    common.picture(out, lambda ax: plots.images(images, captions, columns=8, title=title, ax=ax))
    given = matrices(args.matrix)
    sys.exit(1 if classify(run, given or typed()) and given else 0)


if __name__ == "__main__":
    main()
