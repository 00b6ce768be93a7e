"""Single findings of diagnose: columns, outputs, remedies that fit, and their tables in notebooks."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import portnet
from portnet import diagnosis

DRAW = np.random.default_rng(2)
X = DRAW.standard_normal((400, 6))
Y = np.sin(X[:, 0])
SQUARED, SIGMOID = "squared_error", "sigmoid_cross_entropy"


def fit(net, loss, optimizer, X, y, epochs=5, **options):
    trainer = portnet.Trainer(net, loss, optimizer, 32, params=options.pop("params", None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trainer.fit(X, y, epochs=epochs, progress=False, **options)


def finding(run, X, y, kind):
    return {f.kind: f for f in run.diagnose(X, y)}.get(kind)


# Columns -----------------------------------------------------------------------------------------

UNSCALED = "inputs that are not scaled"


def scaled(*factors):
    return X * [*factors, *[1.0] * (6 - len(factors))]


def test_small_column_beside_others_that_are_scaled_is_found():
    x = scaled(1, 1, 1e-6)
    found = finding(fit(portnet.mlp([6, 8, 1]), SQUARED, "adam", x, Y), x, Y, UNSCALED)
    assert found.text.startswith("column 2 of X has mean ")
    assert found.figure == pytest.approx(np.sqrt((x[:, 2] ** 2).mean()), rel=1e-3)


def test_worst_columns_are_named_and_all_are_counted(frame):
    x = scaled(1e-4, 20, 1, 1e5, 50)
    data = frame(x, [f"feature {i}" for i in range(6)])
    run = fit(portnet.mlp([6, 8, 1]), SQUARED, portnet.SGD(1e-12), data, Y)
    found = finding(run, data, Y, UNSCALED)
    assert found.text.startswith("4 of 6 columns: column 3 ('feature 3') of X has mean ")
    order = [found.text.index(f"('feature {i}')") for i in (3, 0, 4)]
    assert order == sorted(order)
    assert "feature 1" not in found.text
    assert "; ..., where networks want about 0 and 1" in found.text


def test_columns_of_zeros_and_scaled_ones_are_not_named():
    x = scaled(0, 5, 0.01)
    run = fit(portnet.mlp([6, 8, 1]), SQUARED, "adam", x, Y)
    assert finding(run, x, Y, UNSCALED) is None


# Outputs -----------------------------------------------------------------------------------------

LABELS = "labels out of balance"


def several(*shares):
    """Return labels (400, outputs), each 1 in a share of the rows that X does not predict."""
    return (np.random.default_rng(0).random((400, len(shares))) < shares).astype(float)


def test_rare_label_of_several_is_found():
    y = several(0.5, 0.02, 0.4)
    found = finding(
        fit(portnet.mlp([6, 2, 3]), SIGMOID, portnet.Adam(0.01), X, y, 20), X, y, LABELS
    )
    count = int(y[:, 1].sum())
    assert found.text == (
        f"output 1 is 1 in {100 * count / 400:.2g}% of the rows, and the run finds 0 of {count} of "
        "them"
    )
    assert found.figure == pytest.approx(count / 400)
    assert "sample_weight" in found.remedy
    assert "class_weight" not in found.remedy  # which is an error for several labels


def test_label_that_never_changes_is_found_beside_a_rare_one():
    y = several(0.5, 0.02, 1.0, 0.3)
    found = finding(
        fit(portnet.mlp([6, 2, 4]), SIGMOID, portnet.Adam(0.01), X, y, 20), X, y, LABELS
    )
    assert found.text.startswith("2 of 4 outputs: output 1 is 1 in ")
    assert found.text.endswith("; output 2 is 1 in all 400 rows")
    assert "a network without the output" in found.remedy


def test_rare_label_that_is_found_is_no_finding():
    y = np.stack([X[:, 0] > 0, X[:, 1] > 2], axis=1).astype(float)
    assert y[:, 1].mean() < 0.05
    run = fit(portnet.mlp([6, 32, 2]), SIGMOID, portnet.Adam(0.02), X, y, 60)
    assert finding(run, X, y, LABELS) is None


def test_probabilities_and_the_inputs_themselves_are_no_labels():
    soft = 0.1 + 0.3 * several(0.01, 0.5)
    run = fit(portnet.mlp([6, 8, 2]), SIGMOID, "adam", X, soft)
    assert finding(run, X, soft, LABELS) is None
    pixels = several(0.5, 0.01, 0.0, 0.5, 0.3, 0.6)
    run = fit(portnet.mlp([6, 8, 6]), SIGMOID, "adam", pixels, pixels)
    assert finding(run, pixels, pixels, LABELS) is None


def test_class_weight_is_no_remedy_where_rows_have_weights():
    y = (several(0.02)[:, 0]).astype(int)
    w = np.ones(400)
    run = fit(portnet.mlp([6, 8, 1]), SIGMOID, portnet.Adam(1e-3), X, y, sample_weight=w)
    with_weights = {f.kind: f for f in run.diagnose(X, y, w)}[LABELS]
    assert "class_weight" not in with_weights.remedy
    assert "class_weight" in finding(run, X, y, LABELS).remedy


# Remedies ----------------------------------------------------------------------------------------


def ill(net, kind, optimizer=None, factor=1.0, shift=0.0, epochs=3):
    params = portnet.init(net, 6, seed=1)
    params = portnet.tree.map(lambda p: factor * p - shift * (p.shape[0] == 1), params)
    run = fit(net, SQUARED, optimizer or portnet.SGD(1e-30), X, Y, epochs, params=params)
    return finding(run, X, Y, kind).remedy


def test_relu_is_no_remedy_for_a_network_that_has_it():
    relu = portnet.mlp([6, *[8] * 6, 1], weights=lambda rng, i, o: 0.05 * rng.random((i, o)))
    remedy = ill(relu, "vanishing gradients")
    assert "in place of Sigmoid" not in remedy
    assert "He's initial weights" in remedy
    sigmoid = ill(portnet.mlp([6, *[8] * 10, 1], "sigmoid"), "vanishing gradients")
    assert "ReLU or Tanh in place of Sigmoid" in sigmoid
    assert "He's" not in sigmoid


def test_remedies_that_a_network_has_are_left_out():
    plain = portnet.mlp([6, 16, 1])
    assert "LeakyReLU in place of ReLU" in ill(plain, "dead units", shift=30.0)
    assert "scaled inputs" not in ill(plain, "dead units", shift=30.0)
    tanh, normed = (portnet.mlp([6, 16, 1], "tanh", norm=n) for n in (None, "layer"))
    assert "LayerNorm" in ill(tanh, "saturated units", factor=30.0)
    assert "LayerNorm" not in ill(normed, "saturated units", factor=30.0)
    wide = portnet.mlp([6, *[32] * 8, 1], weights=lambda rng, i, o: rng.standard_normal((i, o)))
    assert "ClipNorm" in ill(wide, "exploding gradients")
    clipped = portnet.chain(portnet.ClipNorm(1.0), portnet.SGD(1e-30))
    assert "ClipNorm" not in ill(wide, "exploding gradients", clipped)


def test_decay_and_dropout_are_no_remedies_where_they_are_used():
    noisy = np.where(DRAW.random(400) < 0.3, 1.0, 0.0)
    kind = "validation loss that turned"
    for options, optimizer, left_out in (
        ({}, portnet.Adam(0.01), []),
        ({"dropout": 0.05}, portnet.AdamW(0.01), ["dropout", "AdamW"]),
    ):
        net = portnet.mlp([6, 128, 128, 1], **options)
        run = fit(net, SIGMOID, optimizer, X, noisy, 60, validation=0.4)
        remedy = finding(run, X, noisy, kind).remedy
        for word in ("dropout", "AdamW"):
            assert (word in remedy) == (word not in left_out)
        assert remedy.startswith("early_stopping=True, more data")


# Warnings during a fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("callback", [True, False])
def test_unscaled_inputs_are_warned_of_once(callback):
    x = scaled(1, 1, 1, 1, 1, 3000)
    trainer = portnet.Trainer(portnet.mlp([6, 8, 1]), SQUARED, portnet.SGD(1e-9), 32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callbacks = [portnet.Diagnose()] if callback else []
        trainer.fit(x, Y, epochs=5, progress=False, callbacks=callbacks)
    about = [str(w.message) for w in caught if "column 5" in str(w.message)]
    assert len(about) == 1, about
    assert about[0].startswith(UNSCALED) == callback


def test_trainer_warns_of_what_the_callback_has_not_found():
    """A few rows of one column are very large, and its root mean square is not."""
    x = X.copy()
    x[:2, 5] = 120.0
    net = portnet.mlp([6, 8, 1])
    params = portnet.tree.map(lambda p: 60 * p, portnet.init(net, seed=0))
    trainer = portnet.Trainer(net, SQUARED, portnet.SGD(1e-12), 32, params=params)
    with pytest.warns(UserWarning, match="column 5 of X reaches 120, where networks want about 1"):
        trainer.fit(x, Y, epochs=1, progress=False, callbacks=[portnet.Diagnose()])


# Tables ------------------------------------------------------------------------------------------


def cells(html):
    """Return the text of each row of the only table."""
    from html.parser import HTMLParser

    class Rows(HTMLParser):
        rows, inside = [], False

        def handle_starttag(self, tag, attrs):
            if tag == "tr":
                self.rows.append([])
            if tag in ("td", "th"):
                self.rows[-1].append("")
                self.inside = True

        def handle_endtag(self, tag):
            self.inside = self.inside and tag not in ("td", "th")

        def handle_data(self, data):
            if self.inside:
                self.rows[-1][-1] += data

    parser = Rows()
    parser.rows = []
    parser.feed(html)
    return parser.rows


def test_diagnosis_is_a_table_in_a_notebook():
    y = several(0.5, 0.02)
    x = scaled(1e5)
    run = fit(portnet.mlp([6, 8, 2]), SIGMOID, portnet.SGD(1e-12), x, y)
    found = run.diagnose(x, y)
    html = found._repr_html_()
    head, *rows = cells(html)
    assert head == ["finding", "figures", "usual remedy"]
    assert rows == [[f.kind, f.text, f.remedy] for f in found]
    assert len(rows) >= 2
    assert f"<b>{len(rows)} findings after epoch 5</b>" in html


def test_diagnosis_without_findings_is_a_line_in_a_notebook():
    run = fit(portnet.mlp([6, 16, 1]), SQUARED, portnet.Adam(0.01), X, Y, 20)
    html = run.diagnose(X, Y)._repr_html_()
    assert "<table>" not in html
    assert "nothing was found after epoch 20" in html


def test_html_of_a_diagnosis_is_escaped():
    names = np.where(several(0.02)[:, 0] > 0, "<i>rare</i>", "usual")
    run = fit(portnet.mlp([6, 8, 2]), "softmax_cross_entropy", portnet.Adam(1e-3), X, names)
    html = run.diagnose(X, names)._repr_html_()
    assert "&lt;i&gt;rare" in html
    assert "<i>" not in html


def test_learning_rates_are_a_table_in_a_notebook():
    trainer = portnet.Trainer(portnet.mlp([6, 8, 1], "tanh"), SQUARED, portnet.SGD(), 32)
    found = portnet.find_learning_rate(trainer, X, Y, tests=1, trials=30)
    head, *rows = cells(found._repr_html_())
    assert head == ["learning rate", "loss at the end of its trial", ""]
    assert [row[0] for row in rows] == [f"{lr:.3g}" for lr in sorted(found.trials)]
    (suggested,) = (row for row in rows if row[2])
    assert suggested == [
        f"{found.suggestion:.3g}",
        f"{found.trials[found.suggestion]:.4g}",
        "suggested",
    ]
    none = portnet.find_learning_rate(trainer, X, Y, tests=1, trials=0)
    assert "<table>" not in none._repr_html_()
    assert str(none) in none._repr_html_()


def test_noise_of_the_validation_loss_is_no_turn():
    """The best of many epochs is lower than the last ones by chance."""
    draw = np.random.default_rng(0)
    noisy = 0.15 + 0.04 * draw.standard_normal(60).clip(-1.2, 1.2)
    rising = 0.1 + 0.002 * np.arange(60)
    for values, expected in ((noisy, []), (rising, ["validation loss that turned"])):
        losses = np.linspace(0.3, 0.01, 60)
        history = {"loss": losses.tolist(), "validation_loss": [0.5, *values[1:].tolist()]}
        facts = SimpleNamespace(run=SimpleNamespace(history=history))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(diagnosis, "_remedy", lambda *names: "")
            found = list(diagnosis._of_validation(facts))
        assert [finding.kind for finding in found] == expected
        assert all("medians of three epochs" in finding.text for finding in found)
