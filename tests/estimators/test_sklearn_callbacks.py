"""scikit-learn's callbacks: its score monitor and progress bar, and callbacks of one's own."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import numpy as np
from problems import SMALL, SOLVERS, XR, YR, X, Y, assert_same
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import portnet
from portnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

W = np.random.default_rng(1).uniform(0.5, 2, len(Y))


class Log:
    """Notes what it is called with; ends training at the end of a task."""

    max_propagation_depth = None

    def __init__(self, stop_after=None):
        self.stop_after, self.calls = stop_after, []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.calls.append((context.task_name, context.task_id, X, y, metadata, fitted_estimator))
        return context.task_name == "epoch" and context.task_id == self.stop_after

    def ends(self, name="epoch"):
        return [call for call in self.calls if call[0] == name]


def test_callbacks_get_the_estimator_as_if_the_fit_had_ended_there():
    log = Log()
    net = MLPClassifier(norm="layer", **SMALL).set_callbacks(log).fit(X, Y, W)
    assert_same(net, MLPClassifier(norm="layer", **SMALL).fit(X, Y, W), atol=0)
    assert log.calls[:3] == ["setup", "begin fit", "begin epoch"]
    assert log.calls[-1] == "teardown"
    assert [call[:2] for call in log.ends()] == [("epoch", k) for k in range(8)]
    for k, (_, _, features, y, metadata, fitted) in enumerate(log.ends()):
        one = MLPClassifier(norm="layer", **{**SMALL, "max_iter": k + 1}).fit(X, Y, W)
        np.testing.assert_array_equal(fitted.predict_proba(X), one.predict_proba(X))
        assert features is X
        assert y is Y
        assert metadata == {"sample_weight": W}
        assert fitted.n_iter_ == k + 1
    assert len(log.ends("fit")) == 1


def test_the_score_monitor_logs_each_epoch():
    pytest.importorskip("pandas")
    monitor = ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    net = MLPClassifier(metrics=["accuracy", "neg_log_loss"], **SMALL).set_callbacks(monitor)
    net.fit(X, Y)
    found = monitor.get_logs().data_as_pandas
    epochs = found[found["task_name"] == "epoch"]
    for name in ("accuracy", "neg_log_loss"):
        np.testing.assert_allclose(epochs[name], net.history_[name])


def test_the_progress_bar_is_drawn(capfd):
    pytest.importorskip("rich", reason="scikit-learn's progress bar needs rich")
    from sklearn.callback import ProgressBar

    MLPRegressor(**SMALL).set_callbacks(ProgressBar()).fit(XR, YR)
    text = "".join(capfd.readouterr())
    assert "MLPRegressor - fit" in text
    assert "100%" in text


def test_a_callback_ends_the_fit():
    net = MLPClassifier(**SMALL).set_callbacks(Log(stop_after=2)).fit(X, Y)
    assert net.n_iter_ == 3
    assert_same(net, MLPClassifier(**{**SMALL, "max_iter": 3}).fit(X, Y), atol=0)
    stopped = MLPClassifier(early_stopping=True, **SMALL).set_callbacks(Log(stop_after=4))
    assert len(stopped.fit(X, Y).validation_scores_) == 5


@pytest.mark.parametrize("solver", SOLVERS)
def test_callbacks_do_not_change_the_fit(solver):
    log = Log()
    net = MLPClassifier(solver=solver, **SMALL)
    assert_same(clone(net).set_callbacks(log).fit(X, Y), clone(net).fit(X, Y), atol=0)
    name = "iteration" if solver == "lbfgs" else "epoch"
    assert len(log.ends(name)) == 8


def test_callbacks_work_in_searches_and_pipelines():
    log, monitor = Log(), ScoringMonitor(scoring="accuracy")
    net = make_pipeline(StandardScaler(), MLPClassifier(**SMALL).set_callbacks(monitor))
    search = GridSearchCV(net, {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=2, n_jobs=1)
    search.set_callbacks(log).fit(X, Y)  # it goes to the networks by itself
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(log.ends()) == len(rows) == 8 * (2 * 2 + 1)
    assert not hasattr(search.best_estimator_[-1], "_parent_callback_ctx")


def test_an_error_in_a_fit_tears_callbacks_down_and_restores_the_estimator():
    class Failing(Log):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("no")

    net = MLPClassifier(**SMALL).fit(X, Y).set_callbacks(failing := Failing())
    before = dict(vars(net))
    with pytest.raises(RuntimeError, match="no"):
        net.fit(X, Y)
    assert failing.calls == ["setup", "begin fit", "begin epoch", "teardown"]
    assert vars(net) == before
    with pytest.raises(TypeError, match="callbacks must be instances"):
        net.set_callbacks(3)


def test_callbacks_are_kept_by_clone_and_left_out_of_files(tmp_path):
    net = MLPClassifier(**SMALL).set_callbacks(Log()).fit(X, Y)
    portnet.save(net, tmp_path / "net.safetensors")
    loaded = portnet.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(loaded.predict(X), net.predict(X))
    assert not hasattr(loaded, "_skl_callbacks")


def test_callbacks_and_a_checkpoint_of_one_fit(tmp_path):
    net = MLPClassifier(**SMALL).set_callbacks(Log(stop_after=4))
    net.fit(X, Y, checkpoint=tmp_path / "net")
    assert portnet.load(tmp_path / "net").n_iter_ == net.n_iter_ == 5
    assert sorted(n for n in vars(net) if "callback" in n) == ["_skl_callbacks"]
