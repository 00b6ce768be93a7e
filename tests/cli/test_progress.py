"""Progress: a bar on a terminal, lines elsewhere."""

import io
import sys

import pytest

pytest.importorskip("click", reason="click is not installed")

from portnet.cli.progress import shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(monkeypatch, stderr, epochs, scores=True):
    monkeypatch.setattr(sys, "stderr", stderr)
    before = sys.stdout
    with shown(epochs):
        for i in range(1, epochs + 1):
            print(f"Iteration {i}, loss = {1 / i:.8f}")
            if scores:
                print(f"Validation score: {i / 100:f}")
        print("Training loss did not improve more than tol=0.0001. Stopping.")
    assert sys.stdout is before
    return stderr.getvalue()


def test_a_terminal_has_a_bar_with_the_last_losses(monkeypatch):
    text = printed(monkeypatch, Terminal(), 40)
    assert "40/40" in text
    assert "training loss 0.025, validation score 0.4" in text
    assert "\n" not in text.rstrip("\n")


@pytest.mark.parametrize("scores", [True, False])
def test_elsewhere_some_epochs_and_the_last_one_are_lines(monkeypatch, scores):
    text = printed(monkeypatch, io.StringIO(), 40, scores)
    assert [int(line.split()[1].rstrip(":")) for line in text.splitlines()] == [1, 2, 5, 10, 20, 40]
    end = ", validation score 0.4" if scores else ""
    assert text.endswith(f"epoch 40: training loss 0.025{end}\n")


def test_an_error_within_the_block_ends_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    before = sys.stdout

    def fit():
        with shown(3):
            print("Iteration 1, loss = 1.0")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit()
    assert sys.stdout is before
