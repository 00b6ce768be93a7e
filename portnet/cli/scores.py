"""Scores: those of a model on rows, beside those of a guess that needs no features."""

from typing import Any

import numpy as np

from .._validation import counted

__all__ = ["report", "trivial"]


def trivial(y: Any, task: str) -> Any:
    """Return the most frequent class of y (rows,), the first of equal ones, or its mean."""
    if task == "regression":
        return float(np.mean(y))
    classes, counts = np.unique(y, return_counts=True)
    return classes[int(np.argmax(counts))]


def report(task: str, y: Any, predicted: Any, guess: Any) -> list[str]:
    """Return lines with the scores of predictions for y (rows,), and of the guess.

    Accuracy; or the coefficient of determination, 1 - sum (y - p)^2 / sum (y - mean)^2, which is
    NaN for equal y, and the root of the mean squared error.
    """
    rows = f"{counted(len(y), 'row')} that {'was' if len(y) == 1 else 'were'} not trained on"
    if task == "classification":
        right, trivially = float(np.mean(y == predicted)), float(np.mean(y == guess))
        return [
            f"test accuracy {right:.4f} on {rows}",
            f"     guess    {trivially:.4f} for always {guess!s}",
        ]
    error, trivially = (float(np.sqrt(np.mean((y - p) ** 2))) for p in (predicted, guess))
    spread = float(np.mean((y - np.mean(y)) ** 2))
    r2 = 1 - error**2 / spread if spread else float("nan")
    return [
        f"test error {error:.5g} (root of the mean squared error, R2 {r2:.4f}) on {rows}",
        f"     guess {trivially:.5g} for always the mean, {guess:.5g}",
    ]
