"""The solvers: interrupts, divergence, stopping, L-BFGS."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import os
import warnings

import numpy as np
import sklearn.neural_network as sklearn_nn
from problems import SMALL, SOLVERS, XR, YR, X, Y, assert_same, params, raise_keyboard_interrupt
from sklearn.exceptions import ConvergenceWarning

import portnet
from portnet import MLPClassifier, MLPRegressor
from portnet.compiler import native_policy
from portnet.engine import epoch_scan, epoch_state
from portnet.estimators import objective, solvers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Interrupts --------------------------------------------------------------------------------------


def test_keyboard_interrupt_ends_training_and_keeps_the_weights(monkeypatch):
    """It gives scikit-learn's warning and keeps the weights reached so far."""
    calls, whole = [], solvers.run_epochs

    def run_epochs(executor, params, state, epochs, interrupted, **options):
        calls.append(1)
        if len(calls) == 3:
            interrupted.append(2)
        return whole(executor, params, state, epochs, interrupted, **options)

    monkeypatch.setattr(solvers, "run_epochs", run_epochs)
    monkeypatch.setattr(solvers.EpochExecutor, "epochs_at_once", lambda *args: 1)
    net = MLPClassifier(batch_size=50, **SMALL)
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        net.fit(X, Y)
    assert net.n_iter_ == len(net.loss_curve_) == 2
    assert net.predict(X).shape == (150,)


@pytest.mark.parametrize("solver", SOLVERS)
def test_keyboard_interrupt_in_a_step_keeps_the_weights(solver, monkeypatch):
    steps = []

    def interrupt(*args):
        steps.append(1)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return whole(*args)

    whole = objective.summed
    monkeypatch.setattr(objective, "summed", interrupt)
    net = MLPClassifier(solver=solver, batch_size=50, compile=False, **{**SMALL, "max_iter": 40})
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        net.fit(X, Y)
    assert net.n_iter_ > 2
    assert net.predict(X).shape == (150,)
    assert not hasattr(net, "loss_curve_") or len(net.loss_curve_) == net.n_iter_


def at_loss_call(monkeypatch, calls, act):
    """Call `act` at one call of the loss; return the list of calls."""
    seen, whole = [], objective.summed

    def summed(*args):
        seen.append(1)
        if len(seen) == calls:
            act()
        return whole(*args)

    monkeypatch.setattr(objective, "summed", summed)
    return seen


@pytest.mark.parametrize("solver", SOLVERS)
def test_interrupted_epoch_is_not_counted(solver, monkeypatch):
    """The warning is no ConvergenceWarning, which users often ignore."""
    at_loss_call(monkeypatch, 12, raise_keyboard_interrupt)
    net = MLPClassifier(solver=solver, batch_size=50, compile=False, **{**SMALL, "max_iter": 40})
    with pytest.warns(UserWarning, match="Training interrupted by user.") as caught:
        net.fit(X, Y)
    assert [w.category for w in caught] == [UserWarning]
    if solver != "lbfgs":
        assert (net.n_iter_, net.t_) == (3, 450)
        assert net.loss_ == net.loss_curve_[-1]


def test_interrupt_in_the_first_epoch_leaves_no_loss(monkeypatch):
    eager = {**SMALL, "compile": False}
    for net in (MLPClassifier(**eager), MLPClassifier(**eager).fit(X, Y)):
        with monkeypatch.context() as patch:
            at_loss_call(patch, 1, raise_keyboard_interrupt)
            with pytest.warns(UserWarning, match="interrupted"):
                net.fit(X, Y)
        assert not hasattr(net, "loss_")
        assert (net.n_iter_, net.t_, net.loss_curve_) == (0, 0, [])


def test_sigint_ends_training_before_the_end_of_the_epoch(monkeypatch):
    import signal

    seen = at_loss_call(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        MLPClassifier(batch_size=10, compile=False, **SMALL).fit(X, Y)
    assert len(seen) == 5


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("where", ["between steps", "in a step"])
@pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: no step is compiled"
)
def test_keyboard_interrupt_of_compiled_steps_keeps_the_finished_steps(solver, where, monkeypatch):
    """The finished steps are kept, whether it comes between two steps or within one."""
    from portnet.compiler.executable import Bound

    count, finished, steps, target = 0, 10, [], (epoch_state.Epochs, "inputs")
    if where == "in a step":
        finished, target = 11, (Bound, "__call__")
    whole = getattr(*target)

    def interrupt(self, *args):
        steps.append(1)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return whole(self, *args)

    def eagerly(*args):
        nonlocal count
        count += 1
        if count > finished:
            raise KeyboardInterrupt
        return summed(*args)

    summed = objective.summed
    ends = MLPClassifier(solver=solver, batch_size=50, compile=False, **{**SMALL, "max_iter": 40})
    with monkeypatch.context() as m:
        m.setattr(objective, "summed", eagerly)
        with pytest.warns(UserWarning, match="interrupted by user"):
            ends.fit(X, Y)
    monkeypatch.setattr(*target, interrupt)
    monkeypatch.setenv("PORTNET_NATIVE", "never")
    net = MLPClassifier(solver=solver, batch_size=50, **{**SMALL, "max_iter": 40})
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        net.fit(X, Y)
    assert net.n_iter_ == 11 // (-(-len(X) // 50))
    for p, q in zip(params(net), params(ends), strict=True):
        np.testing.assert_array_equal(p, q)


# Several epochs at once --------------------------------------------------------------------------


def fitted(monkeypatch, count, options, stop=None, warns=True):
    """Return a network trained `count` epochs at once, and what its random state draws next.

    `stop` is the step after which Ctrl-C is pressed.
    """
    made = []

    def run_epochs(executor, params, state, epochs, interrupted, **given):
        def advance(n):
            made.append(n)
            if stop is not None and sum(made) >= stop:
                interrupted.append(2)

        return whole(executor, params, state, epochs, interrupted, advance=advance, **given)

    whole = solvers.run_epochs
    with monkeypatch.context() as m, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        m.setattr(solvers.EpochExecutor, "epochs_at_once", lambda *args: count)
        m.setattr(solvers, "run_epochs", run_epochs)
        m.setattr(epoch_scan, "PIECE", 0.0)
        options = {"batch_size": 40, "tol": 1e-2, "max_iter": 60, "n_iter_no_change": 4} | options
        net = MLPClassifier((6,), random_state=3, **options).fit(X, Y)
    return net, net._random_state.randint(2**31)


@pytest.mark.parametrize("place", ["permutation", "get_state"])
def test_interrupt_that_is_raised_between_steps_keeps_the_weights(place, monkeypatch):
    """A handler other than Python's may raise anywhere, also while orders are drawn."""

    class Random(np.random.RandomState):
        calls = 0

        def raise_sometime(self, name, *args, **options):
            if name == place:
                self.calls += 1
                if self.calls == 7:
                    raise KeyboardInterrupt
            return getattr(super(), name)(*args, **options)

        def permutation(self, *args):
            return self.raise_sometime("permutation", *args)

        def get_state(self, *args, **options):
            return self.raise_sometime("get_state", *args, **options)

    monkeypatch.setattr(solvers.EpochExecutor, "epochs_at_once", lambda *args: 4)
    options = {"batch_size": 40, "max_iter": 60, "tol": 0.0, "n_iter_no_change": 60}
    net = MLPClassifier((6,), random_state=Random(0), **options)
    with pytest.warns(UserWarning, match="Training interrupted by user."):
        net.fit(X, Y)
    assert 0 < net.n_iter_ == len(net.loss_curve_) < 60
    assert net.predict(X).shape == Y.shape


ALL_AT_ONCE = [
    {},
    {"shuffle": False},
    {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.3},
    {"solver": "sgd", "learning_rate": "invscaling"},
    {"early_stopping": True},
    {"max_iter": 7},
]


@pytest.mark.parametrize("native", ["never", "always"])
@pytest.mark.parametrize("stop", [None, 1, 4, 9, 12])
@pytest.mark.parametrize("options", ALL_AT_ONCE, ids=str)
def test_epochs_at_once_equal_epochs_one_by_one(options, stop, native, monkeypatch):
    """Weights, losses, number of iterations and random state; also where Ctrl-C ends training."""
    if native == "always" and native_policy.why_no_machine_code():
        pytest.skip(f"no machine code: {native_policy.why_no_machine_code()}")
    monkeypatch.setenv("PORTNET_NATIVE", native)
    (one, drawn_by_one), (many, drawn) = (
        fitted(monkeypatch, count, options, stop) for count in (1, 5)
    )
    assert (many.n_iter_, many.t_, drawn) == (one.n_iter_, one.t_, drawn_by_one)
    assert many.loss_curve_ == one.loss_curve_
    for p, q in zip(params(many), params(one), strict=True):
        np.testing.assert_array_equal(p, q)


def test_epochs_at_once_with_another_generator_do_not_warn(monkeypatch):
    """RandomState.get_state warns unless its generator is MT19937."""
    monkeypatch.setattr(solvers.EpochExecutor, "epochs_at_once", lambda *args: 5)
    rng = np.random.RandomState(np.random.PCG64(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        MLPClassifier((6,), max_iter=8, random_state=rng).fit(X, Y)


def test_divergence_in_epochs_at_once_is_that_of_one_epoch(monkeypatch):
    errors = []
    for count in (1, 5):
        options = {"solver": "sgd", "learning_rate_init": 1e200, "activation": "identity"}
        with pytest.raises(ValueError, match="non-finite parameter weights") as error:
            fitted(monkeypatch, count, options)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_epochs_that_are_made_again_have_the_same_orders(monkeypatch):
    seen, whole = [], solvers.run_epochs

    def run_epochs(executor, params, state, epochs, interrupted, **options):
        seen.append([order.tolist() for order in epochs.orders])
        end = whole(executor, params, state, epochs, interrupted, **options)
        return end._replace(finite=False) if len(seen) == 1 else end

    monkeypatch.setattr(solvers, "run_epochs", run_epochs)
    monkeypatch.setattr(solvers.EpochExecutor, "epochs_at_once", lambda *args: 3)
    options = {"batch_size": 40, "max_iter": 4, "tol": 0.0, "n_iter_no_change": 60}
    MLPClassifier((6,), random_state=0, **options).fit(X, Y)
    block, *one_by_one = seen
    assert len(block) == 3
    assert [orders[0] for orders in one_by_one[:3]] == block


# Divergence --------------------------------------------------------------------------------------


def test_divergence_raises_or_keeps_the_best_weights():
    options = {"solver": "sgd", "learning_rate_init": 1e3, "activation": "identity"}
    with pytest.raises(
        ValueError, match=r"Solver produced non-finite parameter weights.*iteration"
    ):
        MLPRegressor(**{**SMALL, "max_iter": 100}, **options).fit(XR, 1e3 * YR)
    net = MLPRegressor(early_stopping=True, **{**SMALL, "max_iter": 100}, **options)
    with pytest.warns(
        ConvergenceWarning, match="parameters are those of the best validation score"
    ):
        net.fit(XR, 1e3 * YR)
    assert np.isfinite(net.predict(XR)).all()
    assert net.n_iter_ == len(net.loss_curve_) == len(net.validation_scores_) < 100
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        MLPRegressor(solver="lbfgs", **SMALL).fit(1e300 * XR, YR)


def test_overflow_of_adam_moments_raises():
    """Otherwise every later update of Adam would be 0."""
    for x in (X * 1e160, X.astype(np.float32) * np.float32(1e25)):
        with pytest.raises(ValueError, match="In iteration 1, loss, weights or moments stopped"):
            MLPClassifier(**SMALL).fit(x, Y)


# Stopping ----------------------------------------------------------------------------------------


def test_convergence_warning_as_an_error_keeps_the_fit():
    net = MLPClassifier(**SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            net.fit(X, Y)
    assert net.score(X, Y) > 0


@pytest.mark.parametrize("early_stopping", [False, True])
def test_epochs_without_improvement_accumulate_over_warm_starts(early_stopping):
    options = {"warm_start": True, "early_stopping": early_stopping, "tol": 10, "max_iter": 2}
    found = []
    for m in (portnet, sklearn_nn):
        net = m.MLPClassifier(n_iter_no_change=5, random_state=0, **options)
        found.append([net.fit(X, Y).n_iter_ for _ in range(5)])
    assert found[0] == found[1] == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("early_stopping", [False, True])
def test_tolerance_of_zero_does_not_stop_on_a_constant_loss(early_stopping):
    options = {"tol": 0.0, "n_iter_no_change": 2, "learning_rate_init": 1e-300, "shuffle": False}
    for m in (portnet, sklearn_nn):
        net = m.MLPClassifier(early_stopping=early_stopping, **options, **SMALL).fit(X, Y)
        assert net.n_iter_ == 8


def test_convergence_in_the_last_epoch_does_not_warn():
    options = {**SMALL, "max_iter": 50, "tol": 0.05, "n_iter_no_change": 2}
    n = MLPClassifier(**options).fit(X, Y).n_iter_
    assert n < 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPClassifier(**{**options, "max_iter": n}).fit(X, Y)
        MLPClassifier(**{**options, "max_iter": 1}).partial_fit(X, Y, classes=[0, 1, 2])


@pytest.mark.parametrize("learning_rate", ["adaptive", "invscaling"])
def test_adam_ignores_the_learning_rate_schedule(learning_rate):
    options = {**SMALL, "tol": 10, "n_iter_no_change": 2}
    net = MLPClassifier(learning_rate=learning_rate, **options).fit(X, Y)
    assert_same(net, MLPClassifier(**options).fit(X, Y), atol=0)


# L-BFGS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_lbfgs_has_the_memory_gtol_and_ftol_of_scipy(dtype, monkeypatch):
    given, whole = [], solvers.LBFGS
    monkeypatch.setattr(solvers, "LBFGS", lambda **o: given.append(o) or whole(**o))
    MLPClassifier(solver="lbfgs", tol=0.01, **SMALL).fit(X.astype(dtype), Y)
    ftol = max(2.220446049250313e-09, float(np.finfo(dtype).eps))
    assert given == [{"memory": 10, "gtol": 0.01, "ftol": ftol}]


def test_lbfgs_with_a_failed_line_search_warns_in_float64_only(monkeypatch):
    """It is an abnormal end in float64, and convergence in float32."""

    class Stuck(solvers.LBFGS):
        def iterate(self, f, x, state):
            x, state = super().iterate(f, x, state)
            return x, state._replace(status="the line search found no lower point")

    monkeypatch.setattr(solvers, "LBFGS", Stuck)
    net = MLPClassifier(solver="lbfgs", **SMALL)
    with pytest.warns(ConvergenceWarning) as caught:
        net.fit(X, Y)
    message = str(caught[0].message)
    assert "after 1 iteration(s) (status=2):\nABNORMAL: the line search found no lower" in message
    assert "Increase the number" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.fit(X.astype(np.float32), Y)


def test_lbfgs_that_converges_in_the_last_iteration_warns():
    """SciPy reports that the iteration limit is reached."""
    options = {"solver": "lbfgs", "random_state": 0, "tol": 0.01}
    for m in (portnet, sklearn_nn):
        n = m.MLPClassifier((7,), max_iter=200, **options).fit(X, Y).n_iter_
        assert n < 200
        with pytest.warns(ConvergenceWarning, match="TOTAL NO. OF ITERATIONS REACHED LIMIT"):
            m.MLPClassifier((7,), max_iter=n, **options).fit(X, Y)


def test_verbose_lbfgs_prints_every_iteration(capsys):
    net = MLPClassifier(solver="lbfgs", verbose=True, **SMALL).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"Iteration {i + 1}" for i in range(8)]
    assert lines[-1] == f"Iteration 8, loss = {net.loss_:.8f}"


def test_lbfgs_with_a_validation_set_warns_of_no_early_stopping():
    net = MLPClassifier(solver="lbfgs", early_stopping=True, **SMALL)
    with pytest.warns(UserWarning, match="lbfgs has no early stopping"):
        net.fit(X, Y, X_val=X, y_val=Y)
