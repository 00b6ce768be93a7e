"""Summaries of models, runs, histories and estimators, as text and as HTML."""

import math
import re
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pytest
from custom import Square

import portnet
from portnet import summary


def cells(text):
    """Return the cells of a table that is aligned by two spaces or more."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


class Tables(HTMLParser):
    """Reads HTML: the cells of its tables, and its text; fails where tags are not closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.rows, self.words = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


# Models -----------------------------------------------------------------------------------------


def test_summary_prints_layers_shapes_parameters_and_memory(capsys):
    assert portnet.mlp([4, 8, 3], "relu", dropout=0.5, norm="layer").summary() is None
    printed = capsys.readouterr().out
    *table, totals = printed.splitlines()
    assert cells("\n".join(table)) == [
        ["layer", "output", "parameters", "count"],
        ["inputs", "(rows, 4)"],
        ["Dense(8)", "(rows, 8)", "W (4, 8), b (1, 8)", "40"],
        ["LayerNorm(eps=1e-05)", "(rows, 8)", "beta (1, 8), gamma (1, 8)", "16"],
        ["ReLU()", "(rows, 8)", "0"],
        ["Dropout(rate=0.5)", "(rows, 8)", "0"],
        ["Dense(3)", "(rows, 3)", "W (8, 3), b (1, 3)", "27"],
    ]
    # 40 + 16 + 27 numbers of 4 bytes; 8 + 8 + 8 + 8 + 3 outputs
    assert totals == ("83 parameters, 332 B as float32; 35 outputs of layers for each row, 140 B")


def numbers_of(tree):
    return sum(np.size(leaf) for leaf in portnet.tree.leaves(tree))


@pytest.mark.parametrize(
    "net",
    [
        portnet.mlp([5, 7, 2], "gelu"),
        portnet.Chain([portnet.Residual(portnet.Dense(3)), portnet.Dense(1)], n_in=3),
        portnet.Chain(
            [
                portnet.Dense(6),
                portnet.Residual(portnet.Chain([portnet.Dense(6), portnet.Tanh()])),
                portnet.Chain([portnet.Chain([portnet.Dense(2)])]),
            ],
            n_in=3,
        ),
        portnet.Chain([Square(), portnet.Dense(2)], n_in=3),
        portnet.Chain([], n_in=3),
    ],
)
def test_parameters_and_outputs_of_the_table_are_those_of_the_network(net):
    params, x = portnet.init(net), np.ones((2, net.n_in), dtype="float32")
    for given in (None, params):
        rows = summary.layer_rows(net, given)
        assert sum(row.n_params for row in rows) == numbers_of(params)
        outputs = [row.n_out for row in rows if row.n_out is not None]
        assert outputs[-1] == net.forward(params, x)[0].shape[1]
    assert sum(row.nbytes for row in rows) == 4 * numbers_of(params)


def test_layers_inside_of_others_are_indented(capsys):
    inner = portnet.Chain([portnet.Dense(2), portnet.Tanh()])
    portnet.Chain([portnet.Residual(inner), portnet.Dense(1)]).summary(n_in=2)
    names = [line[:14].rstrip() for line in capsys.readouterr().out.splitlines()]
    assert names[1:7] == ["inputs", "Residual", "  Chain", "    Dense(2)", "    Tanh()", "Dense(1)"]


def test_summary_takes_the_dtype_of_parameters_of_every_library(xp, capsys):
    net = portnet.mlp([2, 3])
    params = portnet.init(net)
    net.summary(params=params)
    size = 8 if xp.float_name == "float64" else 4
    assert f"9 parameters, {9 * size} B as {xp.float_name};" in capsys.readouterr().out
    net.summary()  # of new parameters, on the current backend
    assert f"9 parameters, {9 * size} B as {xp.float_name};" in capsys.readouterr().out


def test_summary_of_bfloat16(torch, capsys):
    params = ({"W": torch.ones((2, 3), dtype=torch.bfloat16), "b": torch.ones((1, 3))},)
    portnet.mlp([2, 3]).summary(params=params)
    assert f"9 parameters, {6 * 2 + 3 * 4} B as bfloat16" in capsys.readouterr().out


def test_large_network_is_not_drawn(capsys):
    portnet.mlp([30_000, 50_000, 2]).summary()  # 12 GB if its weights were drawn in float64
    assert "1,500,150,002 parameters, 5.6 GiB as float32" in capsys.readouterr().out


def test_summary_of_a_network_beyond_any_memory(capsys):
    portnet.mlp([10**7, 10**7, 1], norm="layer").summary()  # 800 TB in float64
    assert "100,000,040,000,001 parameters, 363.8 TiB as float32" in capsys.readouterr().out


class Writing:
    """A layer whose `init` changes the weights that an initializer returned."""

    def init(self, rng, n_in):
        W = portnet.rng.he_normal(rng, n_in, 2)
        W[0] = 1.0
        return {"W": W}, 2

    def forward(self, params, x, key=None):
        return x @ params["W"], x

    def backward(self, params, cache, dy):
        return {"W": cache.T @ dy}, dy @ params["W"].T


def test_summary_of_a_layer_that_writes_into_its_weights(capsys):
    portnet.Chain([Writing()], n_in=3).summary()
    printed = capsys.readouterr().out
    assert "6 parameters" in printed
    assert "\nWriting  (rows, 2)  W (3, 2)" in printed  # not <test_summary.Writing object at 0x...>


def test_each_layer_has_a_summary(capsys):
    portnet.Dense(3).summary(4)
    assert "Dense(3)  (rows, 3)  W (4, 3), b (1, 3)     15" in capsys.readouterr().out
    portnet.LayerNorm().summary(4)
    assert "8 parameters" in capsys.readouterr().out
    portnet.Tanh().summary(4)
    assert "0 parameters" in capsys.readouterr().out
    residual = portnet.Residual(portnet.mlp([4, 4]))
    residual.summary(4)
    assert "  Dense(4)  (rows, 4)" in capsys.readouterr().out
    assert residual._repr_html_() is None
    with pytest.raises(ValueError, match="expected n_in, the number of inputs"):
        residual.summary()


def test_trainer_has_html_with_its_options_and_layers():
    trainer = portnet.Trainer(portnet.mlp([2, 3, 1]), "huber", batch_size=7)
    html = trainer._repr_html_()
    Tables(html)
    for text in ("Huber(", "Adam(lr=0.001", "batch_size", ">7<", "Dense(3)", "13 parameters"):
        assert text in html, text
    without = portnet.Trainer(portnet.Chain([portnet.Dense(2)]), "huber")._repr_html_()
    assert "(Dense(2),)" in without


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**40, "5.0 TiB")],
)
def test_bytes_are_in_powers_of_1024(count, text):
    assert summary.bytes_text(count) == text


def test_summary_without_the_number_of_inputs_says_how_to_give_it(capsys):
    net = portnet.Chain([portnet.Dense(2)])
    with pytest.raises(
        ValueError, match=r"^expected n_in, the number of inputs: .* Give n_in=4, or"
    ):
        net.summary()
    net.summary(3)
    assert "8 parameters" in capsys.readouterr().out
    with pytest.raises(portnet.ShapeError, match="Chain: expected 4 features, got 3"):
        portnet.mlp([4, 2]).summary(3)
    for wrong in (0, 2.5, "x"):
        with pytest.raises((TypeError, ValueError), match="n_in"):
            net.summary(wrong)
    assert capsys.readouterr().out == ""


def test_layer_that_does_not_fit_is_an_error_of_summary_and_no_html(capsys):
    net = portnet.Chain([portnet.Residual(portnet.Dense(3))], n_in=2)
    # The outputs of f are not as many as its inputs.
    with pytest.raises(portnet.ShapeError, match="Residual: expected a layer with 2 outputs"):
        net.summary()
    assert net._repr_html_() is None  # a notebook then shows the repr
    assert portnet.Chain([portnet.Dense(2)])._repr_html_() is None


def test_html_of_a_model_has_the_cells_of_the_text(capsys):
    net = portnet.mlp([4, 8, 3])
    net.summary()
    *lines, totals = capsys.readouterr().out.splitlines()
    html = Tables(net._repr_html_())
    assert [[c for c in row if c] for row in html.rows] == cells("\n".join(lines))
    assert html.words[-1] == totals


@dataclass(frozen=True)
class Scripted:
    """A layer whose repr would run in a browser, and whose parameters have such a name."""

    name: str = "<script>alert(1)</script>&"

    def init(self, rng, n_in):
        return {"<b>": np.ones((1, n_in))}, n_in

    def forward(self, params, x, key=None):
        return params["<b>"] * x, x

    def backward(self, params, cache, dy):
        return {"<b>": (dy * cache).sum(axis=0, keepdims=True)}, params["<b>"] * dy


def test_html_is_escaped():
    net = portnet.Chain([Scripted(), portnet.Dense(2)], n_in=2)
    X, names = [[0.0, 1.0], [1.0, 0.0]], ["<img src=x onerror=alert(1)>", "b"]

    def metric(mean, target, weight=None):
        return 1.0

    metric.__name__ = "<i>m</i>"
    trainer = portnet.Trainer(net, "softmax_cross_entropy", compile=False)
    run = trainer.fit(X, names, epochs=2, metrics=[metric])
    for thing in (net, run, run.history):
        html = thing._repr_html_()
        for tag in ("<script", "<img", "<b>'", "<i>"):
            assert tag not in html
        Tables(html)
    assert "&lt;script&gt;" in net._repr_html_()
    assert "&lt;img" in run._repr_html_()
    assert "&lt;i&gt;m" in run.history._repr_html_()


# Runs -------------------------------------------------------------------------------------------

X = np.linspace(-1, 1, 40).reshape(20, 2)


def fitted(epochs=12, **options):
    trainer = portnet.Trainer(portnet.mlp([2, 3, 1], "tanh"), "squared_error", portnet.Adam(0.1))
    return trainer.fit(X, X[:, 0] - 1, epochs=epochs, **options)


def test_run_is_printed_with_its_network_losses_and_backend():
    run = fitted(validation=0.2)
    last = {name: f"{numbers[-1]:.4g}" for name, numbers in run.history.items()}
    losses = f"loss {last['loss']}, validation_loss {last['validation_loss']}"
    assert repr(run) == (
        f"Run(2 inputs, Dense(3), Tanh(), Dense(1); 12 epochs, {losses}; numpy on cpu, float32)"
    )
    head, *lines = str(run).splitlines()
    assert head == "run of 12 epochs"
    assert cells("\n".join(lines)) == [
        ["network", "2 inputs, Dense(3), Tanh(), Dense(1)"],
        ["parameters", "13, 52 B as float32"],
        ["loss", repr(run.trainer.loss)],
        ["optimizer", repr(run.trainer.optimizer)],
        ["last epoch", losses],
        ["backend", "numpy on cpu, float32"],
    ]


def test_run_that_stopped_is_printed_with_its_best_epoch_and_reason():
    stopping = portnet.EarlyStopping("loss", patience=2, min_change=0.1)
    run = fitted(epochs=100, early_stopping=stopping)
    best = run.history["loss"][run.best_epoch - 1]
    assert f"; {run.epoch} epochs, loss" in repr(run)
    assert f", best epoch {run.best_epoch};" in repr(run)
    assert f"best epoch  {run.best_epoch}: loss {best:.4g}\n" in str(run)
    assert f"stopped     {run.stopped}\n" in str(run)


def test_run_of_no_epochs_and_run_without_state_are_printed(capsys):
    none = fitted(epochs=0)
    assert "; 0 epochs; numpy" in repr(none)
    assert "last epoch  none yet" in str(none)
    assert str(none.history) == "History of no epochs"
    for run in (none, fitted(epochs=1).without_state()):
        Tables(run._repr_html_())
        Tables(run.history._repr_html_())
        run.summary()
    assert "run of 1 epoch\n" in capsys.readouterr().out


def test_run_of_text_labels_names_its_classes():
    trainer = portnet.Trainer(portnet.mlp([2, 2]), "softmax_cross_entropy")
    run = trainer.fit(X, ["ant", "bee"] * 10, epochs=1)
    assert "classes     ['ant', 'bee']\n" in str(run)


def test_run_of_a_large_network_stays_on_a_line():
    net = portnet.mlp([2, *[4] * 40, 1])
    run = portnet.Trainer(net, "squared_error").fit(X, X[:, 0], epochs=1)
    assert len(repr(run)) < 200
    assert re.match(r"Run\(2 inputs, Dense\(4\), .*\.\.\., .*Dense\(1\); 1 epoch, loss ", repr(run))


def test_run_of_every_library_is_printed_with_its_backend(xp):
    x = xp.asarray(X)
    trainer = portnet.Trainer(portnet.mlp([2, 1]), "squared_error", compile=False)
    run = trainer.fit(x, x[:, 0], epochs=1)
    backend = portnet.get_backend()
    assert f"; {backend}, {xp.float_name})" in repr(run)
    assert f"3, {3 * (8 if xp.float_name == 'float64' else 4)} B as {xp.float_name}" in str(run)
    Tables(run._repr_html_())


@dataclass(frozen=True)
class Fragile:
    """A layer whose `init` works once: then it counts on a file, say, that is gone."""

    def init(self, rng, n_in):
        if isinstance(rng, portnet.rng.Undrawn):
            raise OSError("gone")
        return (), n_in

    def forward(self, params, x, key=None):
        return x, None

    def backward(self, params, cache, dy):
        return (), dy


def test_printing_a_run_never_raises(monkeypatch):
    trainer = portnet.Trainer(portnet.mlp([2, 1]), "squared_error")
    run = trainer.fit(X, X[:, 0], epochs=1)
    broken = portnet.Chain([Fragile()], n_in=2)
    object.__setattr__(run.trainer, "model", broken)
    assert repr(run).startswith("Run(Chain(")
    assert "network     Chain(" in str(run)
    Tables(run._repr_html_())
    with pytest.raises(OSError, match="gone"):
        run.summary()


def test_summary_of_a_run_has_the_layers_and_the_memory_of_the_optimizer(capsys):
    run = fitted()
    run.summary()
    printed = capsys.readouterr().out
    assert printed.startswith(str(run))
    assert "Dense(3)  (rows, 3)  W (2, 3), b (1, 3)      9" in printed
    # Adam: two averages of 13 parameters, and the number of steps
    state = sum(leaf.nbytes for leaf in portnet.tree.leaves(run.state))
    assert printed.endswith(f"state of the optimizer: {state} B\n")
    assert state >= 2 * 13 * 4


def test_html_of_a_run_has_its_facts_layers_and_history():
    run = fitted()
    html = Tables(run._repr_html_())
    facts = {row[0]: row[1] for row in html.rows if len(row) == 2}
    assert facts["parameters"] == "13, 52 B as float32"
    assert facts["last epoch"] == f"loss {run.history['loss'][-1]:.4g}"
    assert ["Dense(3)", "(rows, 3)", "W (2, 3), b (1, 3)", "9"] in html.rows
    assert ["12", f"{run.history['loss'][-1]:.4g}"] in html.rows
    assert "Run of 12 epochs" in html.words


# Histories --------------------------------------------------------------------------------------


def test_history_is_printed_as_a_table_of_the_first_and_the_last_epochs():
    history = fitted(epochs=1000, validation=0.2).history
    lines = repr(history).splitlines()
    assert lines[0] == "History of 1000 epochs; to_dict() has every number"
    table = cells("\n".join(lines[1:]))
    assert table[0] == ["epoch", "loss", "validation_loss"]
    assert [row[0] for row in table[1:]] == ["1", "...", "996", "997", "998", "999", "1000"]
    for row in (table[1], *table[3:]):
        values = [history[name][int(row[0]) - 1] for name in ("loss", "validation_loss")]
        assert row[1:] == [f"{value:.4g}" for value in values]
    assert len(repr(history)) < 500


def test_short_history_is_printed_whole_and_stays_a_dict():
    history = fitted(epochs=7).history
    table = cells(repr(history))[2:]
    assert [int(row[0]) for row in table] == [1, 2, 3, 4, 5, 6, 7]
    assert history == history.to_dict()
    assert type(history.to_dict()) is dict
    assert str(history) == repr(history)


def test_history_of_epochs_without_a_value_has_nan():
    first = fitted(epochs=2)
    history = first.fit(X, X[:, 0] - 1, epochs=2, validation=0.2).history
    assert math.isnan(history["validation_loss"][0])
    assert cells(repr(history))[2][2] == "nan"


# Estimators -------------------------------------------------------------------------------------


def test_estimators_keep_the_html_of_scikit_learn_with_the_fitted_network():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    settings = {"hidden_layer_sizes": (3,), "solver": "lbfgs", "random_state": 0}
    classifier = portnet.MLPClassifier(**settings).fit(X, ["a", "b"] * 10)
    html = classifier._repr_html_()
    for text in ("hidden_layer_sizes", "n_iter_", "loss_", "coefs_", "classes_", "Fitted"):
        assert text in html, text
    rows = summary.layer_rows(classifier)
    assert [row.name for row in rows] == ["inputs", "Dense(3)", "relu", "Dense(1)", "logistic"]
    assert sum(row.n_params for row in rows) == 2 * 3 + 3 + 3 + 1
    assert "13 parameters, 104 B as float64" in summary.layers_text(rows)


def test_summary_of_estimators(capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.exceptions import NotFittedError

    settings = {"hidden_layer_sizes": (3,), "random_state": 0, "max_iter": 20}
    classifier = portnet.MLPClassifier(**settings, early_stopping=True, n_iter_no_change=2)
    with pytest.raises(NotFittedError):
        classifier.summary()
    classifier.fit(X, ["a", "b"] * 10).summary()
    printed = capsys.readouterr().out
    best = f"{max(classifier.validation_scores_):.4g}"
    assert printed.startswith("MLPClassifier\n  solver                 adam, ")
    assert f"best validation score  {best}\n" in printed
    assert "['a', 'b']" in printed
    assert f"  loss                   {classifier.loss_:.4g}\n" in printed
    assert "  backend                numpy on cpu\n" in printed
    assert "13 parameters, 104 B as float64" in printed
    regressor = portnet.MLPRegressor(**settings, solver="lbfgs").fit(X, 0.0 * X[:, 0])
    regressor.summary()
    plural = "s" * (regressor.n_iter_ != 1)
    expected = f"MLPRegressor\n  solver   lbfgs, {regressor.n_iter_} iteration{plural}\n"
    assert expected in capsys.readouterr().out


def test_predictor_has_html(monkeypatch, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    classifier = portnet.MLPClassifier((3,), solver="lbfgs", random_state=0).fit(X, [0, 1] * 10)
    portnet.save(classifier, tmp_path / "model.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    predictor = portnet.load(tmp_path / "model.safetensors")
    html = Tables(predictor._repr_html_())
    assert ["Dense(3)", "(rows, 3)", "W (2, 3), b (1, 3)", "9"] in html.rows
