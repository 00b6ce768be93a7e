"""Plots: what is drawn, where, with which labels; and what is refused, before anything is drawn."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest

import portnet
from portnet import plots

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

LINES = {"training": [1.0, 0.5, 0.2], "validation": [1.1, 0.7, 0.6]}


@pytest.fixture
def nothing_drawn():
    """Fail if the test has made a figure."""
    yield
    assert plt.get_fignums() == []


def xy(line):
    return line.get_xydata().tolist()


def texts(ax):
    return [text.get_text() for text in ax.texts]


# Axes -------------------------------------------------------------------------------------------


def every_plot(run):
    """Return each function of the module with arguments, to be called with ax."""
    X, y = [[0.0, 0.0], [1.0, 1.0]], [0, 1]
    return {
        "curves": lambda ax: plots.curves(LINES, ax=ax),
        "history": lambda ax: plots.history(run, ax=ax),
        "plot": lambda ax: run.plot(ax=ax),
        "compare": lambda ax: plots.compare([run, run], ax=ax),
        "network": lambda ax: plots.network(run, ax=ax),
        "decision_boundary": lambda ax: plots.decision_boundary(run, X, y, ax=ax),
        "learning_rates": lambda ax: plots.learning_rates([0.1, 1.0], [2.0, 1.0], 0.5, ax=ax),
        "images": lambda ax: plots.images([np.eye(2)], ["a"], columns=1, ax=ax),
    }


NAMES_OF_PLOTS = [*every_plot(None)]


@pytest.fixture
def small_run():
    net = portnet.mlp([2, 3, 1], "tanh")
    trainer = portnet.Trainer(net, "sigmoid_cross_entropy")
    return trainer.fit([[0.0, 0.0], [1.0, 1.0]], [0, 1], epochs=3)


def test_every_public_function_is_in_these_tests(small_run):
    assert set(plots.__all__) == set(every_plot(small_run)) - {"plot"}


@pytest.mark.parametrize("name", NAMES_OF_PLOTS)
def test_plot_draws_into_the_axes_that_are_given_and_no_other_figure(name, small_run):
    figure = Figure()  # not one of pyplot
    left, right = figure.subplots(1, 2)
    assert every_plot(small_run)[name](right) is right
    assert right.has_data() or right.texts
    assert not left.has_data()
    assert plt.get_fignums() == []
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", NAMES_OF_PLOTS)
def test_plot_makes_one_new_figure_of_pyplot_which_notebooks_show(name, small_run, tmp_path):
    other = plt.figure()
    ax = every_plot(small_run)[name](None)
    assert plt.get_fignums() == [other.number, ax.figure.number]
    assert not other.axes
    ax.figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES_OF_PLOTS)
def test_axes_of_another_kind_are_refused(name, small_run, nothing_drawn):
    with pytest.raises(TypeError, match=r"^ax: expected matplotlib's Axes, such as .*, got 'x'$"):
        every_plot(small_run)[name]("x")


@pytest.mark.parametrize("name", sorted({*plots.__all__} - {"learning_rates"}))
@pytest.mark.parametrize("path", ["loss.png", "folder"])
def test_call_with_a_path_says_what_to_write_now(name, path, tmp_path, nothing_drawn):
    path = tmp_path / path if path == "folder" else path
    before = {  # the arguments after the path
        "curves": ([LINES], {"below": ("accuracy", LINES)}),
        "decision_boundary": ([len, X, THREE], {"title": "T"}),
        "images": ([[np.eye(2)], ["a"]], {"columns": 1}),
    }
    args, options = before.get(name, ([], {}))
    expected = f"{name} takes no path: it returns matplotlib's Axes. Write ax = plots.{name}(...), "
    calls = [lambda f: f(path, *args, **options), lambda f: f(path=path, **options)]
    for call in calls:
        with pytest.raises(TypeError, match="^" + re.escape(expected)) as error:
            call(getattr(plots, name))
        assert str(error.value).endswith(f"ax.figure.savefig({str(path)!r})")
    assert not list(tmp_path.iterdir())


def test_plot_without_matplotlib_says_what_to_install(small_run, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in every_plot(small_run).values():
        with pytest.raises(ImportError, match=r"plots need matplotlib: pip install .*\[plot\]"):
            draw(None)


# Curves -----------------------------------------------------------------------------------------


def test_curves_draws_lines_levels_scales_and_titles():
    ax = plots.curves(LINES, title="T", ylabel="error", log=True, levels={"best": 0.9})
    assert legend(ax) == ["training", "validation", "best"]
    assert xy(ax.lines[1]) == [[1, 1.1], [2, 0.7], [3, 0.6]]
    assert (ax.get_yscale(), ax.get_title()) == ("log", "T")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "error")


X1 = np.linspace(-1, 1, 40)[:, None]


def fit(optimizer, epochs=12, **options):
    """Return a run of a line through 40 rows, of which 10 validate; 3 steps an epoch."""
    trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error", optimizer, batch_size=10)
    options = {"validation": 0.25} | options
    return trainer.fit(X1, 2 * X1 + 1, epochs=epochs, **options)


def test_plot_of_a_run_has_its_numbers_and_its_best_epoch():
    stopping = portnet.EarlyStopping(patience=2, min_change=0.05)
    run = fit(portnet.SGD(0.1), epochs=50, early_stopping=stopping)
    ax = run.plot()
    assert legend(ax) == ["training", "validation", f"best epoch {run.best_epoch}"]
    epochs = range(1, run.epoch + 1)
    for line, name in zip(ax.lines, ["loss", "validation_loss"], strict=False):
        assert xy(line) == [list(pair) for pair in zip(epochs, run.history[name], strict=True)]
    assert set(ax.lines[2].get_xdata()) == {run.best_epoch}
    assert run.best_epoch < run.epoch
    assert len(ax.figure.axes) == 1  # the learning rate is constant


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_ticks_are_whole_epochs(epochs):
    ax = fit(portnet.SGD(0.1), epochs=epochs).plot()
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)


def test_plot_of_another_metric_and_of_training_rows_only():
    run = fit(portnet.SGD(0.1), metrics=["r2"])
    ax = run.plot("r2")
    assert legend(ax) == ["validation"]
    assert ax.get_ylabel() == "r2"
    assert ax.lines[0].get_ydata().tolist() == run.history["validation_r2"]
    assert legend(run.plot("validation_loss")) == ["validation"]
    run = fit(portnet.SGD(0.1), metrics=["r2"], validation=None)
    ax = run.plot("r2", log=True)
    assert legend(ax) == ["training"]
    assert ax.get_yscale() == "log"


def rate(ax):
    """Return the label and the numbers of the axis on the right."""
    (right,) = [other for other in ax.figure.axes if other is not ax]
    return right.get_ylabel(), right.lines[0].get_ydata()


@pytest.mark.parametrize("chained", [False, True])
def test_learning_rate_of_a_schedule_is_that_of_the_first_step_of_each_epoch(chained):
    optimizer = portnet.Momentum(lambda t: 0.1 / (1 + t))
    optimizer = portnet.chain(portnet.ClipNorm(1.0), optimizer) if chained else optimizer
    ax = fit(optimizer).plot()
    label, rates = rate(ax)
    assert label == "learning rate"
    np.testing.assert_allclose(rates, [0.1 / (1 + 3 * epoch) for epoch in range(12)], rtol=1e-6)
    assert ax.get_zorder() > min(other.get_zorder() for other in ax.figure.axes)


@pytest.mark.parametrize("backend_of_run", ["numpy", "torch", "jax"])
def test_learning_rate_that_plateaus_reduce_is_multiplied_by_the_scale(backend_of_run):
    if backend_of_run != "numpy":
        pytest.importorskip(backend_of_run, reason=f"{backend_of_run} is not installed")
    plateau = portnet.ReduceOnPlateau("validation_loss", patience=2, min_change=10.0, factor=0.5)
    with portnet.use_backend(backend_of_run, dtype="float32"):
        run = fit(portnet.SGD(lambda t: 0.01 + 0.0 * t), reduce_on_plateau=plateau)
        constant = fit(portnet.SGD(0.01), reduce_on_plateau=plateau)
    scales = run.history["scale"]
    assert scales[0] == 1
    assert scales[-1] < 0.1
    for each in (run, constant):
        label, rates = rate(each.plot())
        assert label == "learning rate"
        np.testing.assert_allclose(rates, 0.01 * np.array(scales), rtol=1e-5)
    label, rates = rate(run.without_state().plot())  # the steps are not known any more
    assert label == "scale of the updates"
    np.testing.assert_allclose(rates, scales, rtol=1e-5)


def test_schedule_of_a_long_run_is_drawn_at_200_epochs():
    run = fit(portnet.SGD(portnet.InverseDecay(0.01, steps=10)), epochs=1000)
    _, rates = rate(run.plot())
    assert len(rates) == 200
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.01 / (1 + 2997 / 10))


def test_plot_of_a_history_and_of_an_estimator():
    run = fit(portnet.SGD(0.1))
    for given in (run.history, run.history.to_dict()):
        assert legend(plots.history(given)) == ["training", "validation"]
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    settings = {"max_iter": 5, "early_stopping": True, "n_iter_no_change": 9, "random_state": 0}
    with pytest.warns(UserWarning, match="Maximum iterations"):
        classifier = portnet.MLPClassifier((4,), **settings).fit(X, THREE)
    assert plots.history(classifier).lines[0].get_ydata().tolist() == classifier.loss_curve_
    ax = plots.history(classifier, "score")
    assert legend(ax) == ["validation"]
    assert ax.lines[0].get_ydata().tolist() == classifier.validation_scores_


def test_plot_refuses_what_has_no_curves(nothing_drawn):
    run, trainer = fit(portnet.SGD(0.1)), portnet.Trainer(portnet.mlp([1, 1]), "squared_error")
    empty = trainer.fit(X1, X1, epochs=0)
    message = "the history is empty, as no epoch was trained: run.fit(X, y, epochs=10)"
    for draw in (empty.plot, lambda: plots.history({}), lambda: plots.history(empty.history)):
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            draw()
    with pytest.raises(ValueError, match="^other: " + re.escape(message)):
        plots.compare({"run": run, "other": empty})
    with pytest.raises(ValueError, match="unknown metric 'los': did you mean 'loss'"):
        run.plot("los")
    with pytest.raises(ValueError, match=r"^run 1: unknown metric 'accuracy'"):
        plots.compare([run], "accuracy")
    for wrong, hint in ((trainer, "give the run that it returns"), (3, "got 3$")):
        with pytest.raises(TypeError, match=f"expected a run, a history or a fitted .*{hint}"):
            plots.history(wrong)
    with pytest.raises(TypeError, match=r"Chain.*give the run that fit"):
        plots.history(portnet.mlp([1, 1]))
    for wrong in (run, [], {}, 3):
        with pytest.raises((TypeError, ValueError), match=r"^compare: expected "):
            plots.compare(wrong)


def test_plot_of_an_estimator_without_curves_is_refused(nothing_drawn):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    several = portnet.MLPClassifier((2,), solver="lbfgs", n_networks=2).fit(X[:40], TWO)
    for estimator, advice in (
        (portnet.MLPClassifier(), r"call its fit\(X, y\)"),
        (several, "give one of its estimators_"),
    ):
        with pytest.raises(ValueError, match=f"expected a fitted estimator, got .*: {advice}"):
            plots.history(estimator)


def test_history_of_a_fit_by_lbfgs_is_drawn():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    fitted = portnet.MLPClassifier((2,), solver="lbfgs", random_state=0).fit(X[:40], TWO)
    (line,) = plots.history(fitted).lines
    assert line.get_ydata().tolist() == fitted.history_["loss"]


def test_compare_draws_each_run_in_its_colour_with_its_best_epoch():
    stopping = portnet.EarlyStopping(patience=3)
    runs = {"fast": fit(portnet.SGD(0.3)), "slow": fit(portnet.SGD(0.01), early_stopping=stopping)}
    ax = plots.compare(runs, title="T")
    assert legend(ax) == ["fast", "slow"]
    assert ax.get_legend().get_title().get_text() == "solid: validation, dashed: training"
    dashed, solid, *slow = ax.lines
    assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-")
    assert dashed.get_ydata().tolist() == runs["fast"].history["loss"]
    assert solid.get_ydata().tolist() == runs["fast"].history["validation_loss"]
    np.testing.assert_array_equal(dashed.get_color(), solid.get_color())
    assert not np.array_equal(solid.get_color(), slow[0].get_color())
    best = runs["slow"].best_epoch
    assert xy(slow[2]) == [[best, runs["slow"].history["validation_loss"][best - 1]]]
    assert len(slow) == 3


def test_compare_of_a_list_and_of_more_runs_than_colours_of_a_cycle():
    run = fit(portnet.SGD(0.1), epochs=2, validation=None)
    ax = plots.compare([run] * 12)
    assert legend(ax) == [f"run {k}" for k in range(1, 13)]
    assert len({tuple(line.get_color()) for line in ax.lines}) == 12


# Networks ---------------------------------------------------------------------------------------

PARAMS = (
    {"W": np.array([[1.0, -2.0, 0.0], [0.5, 3.0, -1.0]]), "b": np.array([[0.1, 0.2, -4.0]])},
    (),
    {"W": np.array([[1.0], [2.0], [-3.0]]), "b": np.array([[0.5]])},
)


def lines_between(ax):
    return [c for c in ax.collections if isinstance(c, LineCollection)]


def circles(ax):
    return [c for c in ax.collections if not isinstance(c, LineCollection)]


def test_small_network_is_drawn_as_neurons_and_weights(xp):
    ax = plots.network(portnet.mlp([2, 3, 1], "tanh"), xp.tree(PARAMS))
    first, second = lines_between(ax)
    np.testing.assert_allclose(first.get_array(), PARAMS[0]["W"].ravel(), rtol=1e-6)
    np.testing.assert_allclose(second.get_array(), PARAMS[2]["W"].ravel(), rtol=1e-6)
    inputs, hidden, outputs = circles(ax)
    assert [len(c.get_offsets()) for c in circles(ax)] == [2, 3, 1]
    np.testing.assert_allclose(hidden.get_array(), PARAMS[0]["b"].ravel(), rtol=1e-6)
    np.testing.assert_allclose(outputs.get_array(), [0.5], rtol=1e-6)
    assert inputs.get_array() is None
    for drawn in (first, second, hidden):  # one scale, symmetric: white is 0
        assert (drawn.norm.vmin, drawn.norm.vmax) == (-4, 4)
        assert type(drawn.norm) is Normalize
    # The line of W_ij leads from input i to neuron j; thicker is larger.
    starts, ends = inputs.get_offsets(), hidden.get_offsets()
    for k, (i, j) in enumerate(np.ndindex(2, 3)):
        np.testing.assert_allclose(first.get_segments()[k], [starts[i], ends[j]])
    widths = np.array(first.get_linewidths())
    assert np.argsort(widths)[-1] == np.argmax(abs(PARAMS[0]["W"]))
    assert texts(ax)[:3] == [
        "inputs\n(rows, 2)",
        "Dense(3)\nTanh()\n(rows, 3)\n9 params",
        "Dense(1)\n(rows, 1)\n4 params",
    ]
    assert texts(ax)[3:] == ["x1", "x2", "y1"]
    assert ax.get_title() == "13 parameters"


def test_network_without_parameters_has_gray_lines_and_no_colour_bar():
    ax = plots.network(portnet.mlp([2, 3, 1], "tanh"))
    assert [line.get_array() for line in lines_between(ax)] == [None, None]
    assert len(ax.figure.axes) == 1


def test_network_of_a_run_has_the_names_of_its_data(frame):
    y = np.array(["no", "yes"])[TWO]
    net = portnet.mlp([5, 3, 2], "tanh")
    rows = np.random.default_rng(0).standard_normal((40, 5))
    run = portnet.Trainer(net, "softmax_cross_entropy").fit(frame(rows), y, epochs=1)
    ax = plots.network(run)
    assert texts(ax)[3:] == [*"abcde", "no", "yes"]
    one = portnet.Trainer(portnet.mlp([5, 1]), "sigmoid_cross_entropy").fit(rows, y, epochs=1)
    assert texts(plots.network(one))[-1] == "yes"  # whose probability it is


def test_network_of_an_estimator():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    settings = {"solver": "lbfgs", "max_iter": 500, "random_state": 0}
    classifier = portnet.MLPClassifier((4,), **settings).fit(X, NAMES[THREE])
    ax = plots.network(classifier)
    np.testing.assert_array_equal(lines_between(ax)[0].get_array(), classifier.coefs_[0].ravel())
    assert texts(ax)[1] == "Dense(4)\nrelu\n(rows, 4)\n12 params"
    assert texts(ax)[3:] == ["x1", "x2", "ant", "bee", "cat"]
    with pytest.raises(ValueError, match="this MLPRegressor is not fitted yet: call fit"):
        plots.network(portnet.MLPRegressor())


@pytest.mark.parametrize(
    "net",
    [
        portnet.mlp([17, 3]),
        portnet.mlp([2, 17, 1]),
        portnet.mlp([2] * 8),
        portnet.Chain([portnet.Residual(portnet.Dense(2)), portnet.Dense(1)], n_in=2),
        portnet.Chain([portnet.Tanh(), portnet.Dense(1)], n_in=2),
    ],
    ids=["inputs", "neurons", "layers", "residual", "no weights first"],
)
def test_other_networks_are_drawn_as_boxes(net):
    ax = plots.network(net)
    assert lines_between(ax) == []
    rows = portnet.summary.layer_rows(net)
    assert len(ax.patches) == len(rows)
    assert f"{rows[1].n_params:,} parameters" in texts(ax) or not rows[1].shapes


def test_large_network_is_drawn_at_once_and_a_deep_one_in_part():
    ax = plots.network(portnet.mlp([10_000, 20_000, 10]))  # 200 million weights are not drawn
    assert ax.get_title() == "200,220,010 parameters"
    assert "200,020,000 parameters" in texts(ax)
    deep = plots.network(portnet.mlp([4, *[32] * 50, 2]))
    assert len(deep.patches) == 30
    assert "72 more layers" in texts(deep)


def test_network_of_weights_that_are_all_0_or_not_finite():
    for W in (np.zeros((2, 1)), np.array([[np.nan], [1.0]])):
        net = portnet.mlp([2, 1])
        ax = plots.network(net, ({"W": W, "b": np.zeros((1, 1))},))
        ax.figure.draw_without_rendering()


def test_network_refuses_what_has_no_layers(nothing_drawn):
    with pytest.raises(ValueError, match=r"expected n_in, .*Give n_in=4, or make the model so"):
        plots.network(portnet.Dense(3))
    with pytest.raises(TypeError, match="expected a model, a run or a fitted estimator, got 3"):
        plots.network(3)
    with pytest.raises(portnet.ShapeError, match="expected 2 features, got 3"):
        plots.network(portnet.mlp([2, 1]), n_in=3)
    with pytest.raises(portnet.ShapeError, match="expected parameters of 3 layers"):
        plots.network(portnet.mlp([2, 3, 1]), PARAMS[:2])


def test_network_of_a_single_layer_takes_n_in():
    assert plots.network(portnet.Dense(3), n_in=2).get_title() == "9 parameters"
    parameterless = portnet.Chain([portnet.Tanh()], n_in=2)
    assert plots.network(parameterless).get_title() == "0 parameters"


# Decision boundaries ----------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(centre, 0.5, (20, 2)) for centre in ((0, 0), (2, 1), (0, 3))])
THREE = np.repeat([0, 1, 2], 20)
TWO = np.repeat([0, 1], 20)
NAMES = np.array(["ant", "bee", "cat"])
BOUNDARY = "decision_boundary: "


def fitted(loss, outputs, X, y):
    """Return a run of a small network."""
    net = portnet.mlp([2, 8, outputs], "tanh")
    return portnet.Trainer(net, loss, portnet.Adam(0.05), batch_size=20).fit(X, y, epochs=20)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def bar(ax):
    """Return the label and the limits of the colour bar, or None without one."""
    bars = [other for other in ax.figure.axes if other is not ax]
    if not bars:
        return None
    return bars[0].get_ylabel(), *(round(float(y), 6) for y in bars[0].get_ylim())


def lines(ax):
    """Return the number of decision boundaries that are drawn in black."""
    return len([c for c in ax.collections if isinstance(c, ContourSet) and not c.filled])


def test_decision_boundary_of_a_function_returning_a_probability_column():
    ax = plots.decision_boundary(
        lambda x: 1 / (1 + np.exp(2 - x[:, :1])), X[:40], TWO[:, None] * 1.0
    )
    assert legend(ax) == ["class 0", "class 1"]
    assert bar(ax) == ("probability of class 1", 0, 1)
    assert lines(ax) == 1


@pytest.mark.parametrize(
    ("loss", "outputs"), [("softmax_cross_entropy", 2), ("sigmoid_cross_entropy", 1)]
)
@pytest.mark.parametrize("names", [np.array([0, 1]), NAMES], ids=["numbers", "text"])
def test_decision_boundary_of_a_two_class_run_shows_its_class_names(loss, outputs, names):
    y = names[TWO]
    ax = plots.decision_boundary(fitted(loss, outputs, X[:40], y), X[:40], y)
    assert legend(ax) == [f"class {names[0]}", f"class {names[1]}"]
    assert bar(ax) == (f"probability of class {names[1]}", 0, 1)
    assert lines(ax) == 1


@pytest.mark.parametrize("names", [np.array([0, 1, 2]), NAMES], ids=["numbers", "text"])
def test_decision_boundary_of_a_three_class_run_has_three_contours(names):
    y = names[THREE]
    ax = plots.decision_boundary(fitted("softmax_cross_entropy", 3, X, y), X, y)
    assert legend(ax) == [f"class {name}" for name in names]
    assert bar(ax) is None
    assert lines(ax) == 3  # around each class


def test_decision_boundary_of_a_regression_is_not_clipped_to_0_and_1():
    y = 40 * X[:, 0] - 30
    run = fitted("squared_error", 1, X, y)
    for model in (run, run.predict):
        ax = plots.decision_boundary(model, X, y)
        label, low, high = bar(ax)
        assert label == "prediction"
        assert low <= y.min()
        assert high >= y.max()
        assert ax.get_legend() is None


def test_decision_boundary_accepts_estimators_and_their_methods():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.svm import SVC

    names = NAMES[THREE]
    settings = {"hidden_layer_sizes": (8,), "solver": "lbfgs", "max_iter": 2000, "random_state": 0}
    classifier = portnet.MLPClassifier(**settings).fit(X, names)
    for model in (classifier, SVC().fit(X, names), classifier.predict, classifier.predict_proba):
        ax = plots.decision_boundary(model, X, names)
        assert legend(ax) == ["class ant", "class bee", "class cat"]
    regressor = portnet.MLPRegressor(**settings).fit(X, TWO[np.arange(60) % 40])
    ax = plots.decision_boundary(regressor, X, TWO[np.arange(60) % 40])
    assert bar(ax)[0] == "prediction"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_decision_boundary_passes_dataframes_to_estimators_fitted_on_them(library):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    frame = frames.DataFrame({"length": X[:, 0], "width": X[:, 1]})
    classifier = portnet.MLPClassifier((8,), solver="lbfgs", random_state=0)
    ax = plots.decision_boundary(classifier.fit(frame, THREE), frame, THREE)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "width")


@pytest.mark.parametrize("height", [0.2, 3e6, -1.0])
def test_decision_boundary_of_equal_predictions_has_no_contour(height):
    ax = plots.decision_boundary(lambda x: np.full(len(x), height), X[:40], TWO)
    assert lines(ax) == 0


def test_decision_boundary_accepts_arrays_of_other_libraries(other_xp):
    run = fitted("sigmoid_cross_entropy", 1, X[:40], TWO)
    x, y = other_xp.asarray(X[:40]), other_xp.asarray(TWO)
    ax = plots.decision_boundary(run, x, y)
    assert legend(ax) == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("model", "x", "y", "message"),
    [
        (len, X[:, :1], THREE, BOUNDARY + r"expected X of shape (rows, 2), got (60, 1)"),
        (
            len,
            np.c_[X, X[:, 0]],
            THREE,
            BOUNDARY
            + "expected X of shape (rows, 2), got (60, 3): choose two columns, and a model "
            "that was fitted on them",
        ),
        (len, X[:0], THREE[:0], BOUNDARY + "expected X of shape (rows, 2), got (0, 2)"),
        (
            len,
            np.where(np.arange(60)[:, None] == 7, np.nan, X),
            THREE,
            BOUNDARY + "expected finite points, got [nan nan] in row 7",
        ),
        (
            len,
            X,
            np.eye(3)[THREE],
            BOUNDARY + "expected y of shape (60,), a label or target for each point, got (60, 3)",
        ),
        (
            lambda x: x[:, [0, 1, 1]],
            X,
            THREE,
            BOUNDARY
            + "expected the model to return a number, a label, or probabilities that sum to "
            "1 for each of 40401 points, got an array of shape (40401, 3)",
        ),
        (
            lambda x: np.full((len(x), 2), 0.5),
            X,
            THREE,
            BOUNDARY + "the model has 2 classes, 0, 1, but y has 0, 1, 2",
        ),
    ],
    ids=[
        "one feature",
        "three features",
        "no rows",
        "NaN",
        "one-hot",
        "no probabilities",
        "other classes",
    ],
)
def test_decision_boundary_rejects_bad_input_and_draws_nothing(model, x, y, message, nothing_drawn):
    with pytest.raises(ValueError, match=re.escape(message)):
        plots.decision_boundary(model, x, y)


def test_decision_boundary_of_what_cannot_predict_says_what_to_give(nothing_drawn):
    net = portnet.mlp([2, 3])
    trainer = portnet.Trainer(net, "softmax_cross_entropy")
    for wrong, hint in (
        (net, ", a network without parameters: give the run, or a function that calls forward"),
        (trainer, ": give the run that its fit(X, y) returns"),
        (3, "got 3"),
    ):
        with pytest.raises(TypeError, match="expected a run, .*" + re.escape(hint)):
            plots.decision_boundary(wrong, X, THREE)
    wide = trainer = portnet.Trainer(portnet.mlp([3, 3]), "softmax_cross_entropy")
    wide = trainer.fit(np.c_[X, X[:, 0]], THREE, epochs=1)
    message = (
        BOUNDARY + "expected a model of two features, got one of 3: fit one on two columns of X"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        plots.decision_boundary(wide, X, THREE)


def test_decision_boundary_of_a_run_and_an_estimator_of_another_library(other_xp):
    x, y = other_xp.asarray(X), other_xp.asarray(THREE)
    run = fitted("softmax_cross_entropy", 3, x, y)
    models = [run]
    if importlib.util.find_spec("sklearn"):
        models.append(portnet.MLPClassifier((4,), solver="lbfgs", random_state=0).fit(x, y))
    for model in models:
        for points, labels in ((X, THREE), (x, y)):
            assert legend(plots.decision_boundary(model, points, labels)) == [
                "class 0",
                "class 1",
                "class 2",
            ]


def test_importing_portnet_does_not_import_matplotlib():
    code = """
import sys, portnet
assert "matplotlib" not in sys.modules
assert portnet.plots.decision_boundary
assert "plots" in dir(portnet)
assert "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Images -----------------------------------------------------------------------------------------


def test_images_are_drawn_in_rows_under_their_captions():
    pictures = [np.eye(2), [[0, 1], [1, 0]], np.ones((2, 1))]
    ax = plots.images(pictures, ["a", "b", "c"], columns=2, title="T")
    assert texts(ax) == ["a", "b", "c"]
    assert ax.get_title() == "T"
    for image, picture in zip(ax.images, pictures, strict=True):
        np.testing.assert_array_equal(image.get_array(), picture)
    left, right, below = (image.get_extent() for image in ax.images)
    assert left[1] < right[0]  # beside
    assert below[3] < left[2]  # below
    assert below[1] - below[0] == pytest.approx((below[3] - below[2]) / 2)  # cells are squares
    (x, y) = ax.texts[0].get_position()
    assert x == pytest.approx(np.mean(left[:2]))
    assert y > left[3]


@pytest.mark.parametrize(
    ("pictures", "captions", "message"),
    [
        ([], [], "expected pictures (height, width), got []"),
        ([np.ones(3)], ["a"], "expected pictures (height, width), got [(3,)]"),
        ([np.eye(2)], ["a", "b"], "expected 1 captions, got 2"),
    ],
)
def test_images_refuses_bad_input(pictures, captions, message, nothing_drawn):
    with pytest.raises(ValueError, match="^images: " + re.escape(message)):
        plots.images(pictures, captions, columns=2)


@pytest.mark.parametrize(("count", "entries"), [(13, 13), (60, 41)])
def test_long_legend_is_beside_the_plot(count, entries):
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def nearest(points):
        return np.argmax(points @ X.T, axis=1)

    ax = plots.decision_boundary(nearest, X, np.arange(count))
    ax.figure.canvas.draw()
    legend = ax.get_legend()
    assert legend.get_window_extent().x0 >= ax.get_window_extent().x1
    assert legend.get_window_extent().x1 <= ax.figure.bbox.x1
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == entries
    assert texts[-1] == ("class 12" if count == 13 else "and 20 more")
