"""Trainer.explain: how the steps of a fit are made."""

import os

import numpy as np
import pytest

import portnet

X = np.random.default_rng(0).random((50, 4))
if os.environ.get("PORTNET_TESTS") == "eager":
    pytest.skip("PORTNET_TESTS=eager: no step is compiled", allow_module_level=True)


def test_explain_says_how_steps_are_made(xp, capsys):
    y = np.arange(50) % 3
    trainer = portnet.Trainer(portnet.mlp([4, 5, 3]), "softmax_cross_entropy", batch_size=20)
    compiled = portnet.get_backend().compiler
    trainer.explain(X, y)
    text = capsys.readouterr().out
    expected = {
        "replay": "2 steps of an epoch, on 20 rows: replayed\n",
        "graph": "2 steps of an epoch, on 20 rows: a CUDA graph\n",
        "jit": "each kind of step is compiled by jax.jit\n",
        "": "each step runs eagerly, operation by operation\n",
    }
    assert text.startswith(expected[compiled])
    assert ("\n1 step of an epoch, on 10 rows: " in text) == (compiled in ("replay", "graph"))
    assert "\npredictions, 16,384 rows at a time at most: " in text
    eager = portnet.Trainer(portnet.mlp([4, 5, 3]), "softmax_cross_entropy", compile=False)
    eager.explain(X, y)
    text = capsys.readouterr().out
    assert text.startswith("each step runs eagerly, operation by operation: compile=False\n")
    assert text.endswith("at a time at most: eager\n")


def test_explain_takes_the_options_of_fit_and_trains_nothing(capsys):
    y = np.arange(50) % 3
    net, calls = portnet.mlp([4, 5, 3]), []
    trainer = portnet.Trainer(net, "softmax_cross_entropy", batch_size=None)
    trainer.explain(X, y, validation=0.2, sample_weight=np.ones(50), callbacks=[calls.append])
    assert capsys.readouterr().out.startswith("1 step of an epoch, on 40 rows: replayed")
    assert calls == []
    run = trainer.fit(X, y, epochs=2, progress=False)
    portnet.Trainer(net, "softmax_cross_entropy", batch_size=20).explain(X, y, resume=run)
    assert capsys.readouterr().out.startswith("2 steps of an epoch, on 20 rows: replayed")
    portnet.Trainer(net, "softmax_cross_entropy", "lbfgs").explain(X, y)
    assert "L-BFGS" in capsys.readouterr().out
    with pytest.raises(portnet.DataError, match="50 rows"):
        trainer.explain(X, y[:-1])
    for method in (trainer.fit, trainer.explain):
        with pytest.raises(portnet.DataError, match="X: expected arrays, got None"):
            method(None, None)
    with pytest.raises(TypeError, match=r"explain.*epoch"):
        trainer.explain(X, y, epoch=3)
    assert capsys.readouterr().out == ""
