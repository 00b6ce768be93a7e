"""partial_fit in small chunks: what it keeps from call to call changes no result."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import copy
import os
import pickle

import numpy as np
from problems import XR, YR, X, Y, params

from portnet import MLPClassifier, MLPRegressor
from portnet.compiler import native_policy
from portnet.estimators import idle_executors

CHUNKS = [slice(0, 40), slice(40, 41), slice(41, 51), slice(51, 150), slice(0, 40)]


def trained(net, X, Y, between=lambda net, k: net, **first):
    for k, chunk in enumerate(CHUNKS):
        net = between(net, k)
        net.partial_fit(X[chunk], Y[chunk], **(first if k == 0 else {}))
    return net


def forget(net, k):
    idle_executors._idle.clear()
    return net


def new_alpha(net, k):
    return net.set_params(alpha=10.0**-k)


def pickled(net, k):
    return pickle.loads(pickle.dumps(net))


def copied(net, k):
    return copy.deepcopy(net)


def as_lists(net, k):
    """Forget what lets a call skip checks."""
    net.__dict__.pop("_validated", None)
    return net


@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger")
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("between", [None, new_alpha, pickled, copied, as_lists])
def test_kept_executor_equals_a_new_one_in_each_call(solver, between):
    def with_new_executors(net, k):
        return forget(net if between is None else between(net, k), k)

    nets = []
    for change in (between or (lambda net, k: net), with_new_executors):
        net = MLPClassifier((5,), solver=solver, batch_size=30, random_state=0)
        nets.append(trained(net, X, Y, change, classes=np.unique(Y)))
        net = MLPRegressor(hidden_layer_sizes=(5,), solver=solver, batch_size=30, random_state=0)
        nets.append(trained(net, XR, YR, change))
    for kept, new in (nets[::2], nets[1::2]):
        for p, q in zip(params(kept), params(new), strict=True):
            np.testing.assert_array_equal(p, q)
        assert kept.loss_ == new.loss_


@pytest.mark.parametrize("data", [list, np.asfortranarray, lambda a: a.astype(object)])
def test_plain_arrays_equal_data_that_are_checked_by_scikit_learn(data):
    one, two = (
        trained(MLPClassifier((5,), random_state=0), given, Y, classes=np.unique(Y))
        for given in (X, np.asfortranarray(X))
    )
    three = MLPClassifier((5,), random_state=0)
    for k, chunk in enumerate(CHUNKS):
        classes = {"classes": np.unique(Y)} if k == 0 else {}
        three.partial_fit(data(X[chunk]), data(Y[chunk]) if data is list else Y[chunk], **classes)
    for p, q, r in zip(*map(params, (one, two, three)), strict=True):
        np.testing.assert_array_equal(p, q)
        np.testing.assert_array_equal(p, r)


def fitted():
    return MLPClassifier((5,), random_state=0).partial_fit(X, Y, classes=np.unique(Y))


BAD = {
    "class": (lambda: (X, Y + 7), "`y` has classes not in `self.classes_`"),
    "float class": (lambda: (X, Y + 0.5), "classes not in|Unknown label type"),
    "NaN": (lambda: (np.where(X[3, 1] == X, np.nan, X), Y), "contains NaN"),
    "width": (lambda: (X[:, :2], Y), "X has 2 features"),
    "rows": (lambda: (X, Y[:-1]), "inconsistent numbers of samples"),
    "none": (lambda: (X[:0], Y[:0]), "0 sample"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_chunk_raises_and_changes_nothing(name):
    net, (data, message) = fitted(), BAD[name]
    before = [p.copy() for p in params(net)]
    with pytest.raises(ValueError, match=message):
        net.partial_fit(*data())
    for p, q in zip(params(net), before, strict=True):
        np.testing.assert_array_equal(p, q)
    assert net.partial_fit(X, Y).t_ == 300


def test_parameter_that_became_invalid_raises():
    net = fitted().partial_fit(X, Y)
    net.alpha = -1.0
    with pytest.raises(ValueError, match="alpha"):
        net.partial_fit(X, Y)
    net.alpha = 0.1
    net.partial_fit(X, Y)


@pytest.mark.skipif(
    os.environ.get("PORTNET_TESTS") == "eager", reason="PORTNET_TESTS=eager: there are no buffers"
)
def test_executor_goes_with_its_estimator_and_large_ones_are_not_kept(monkeypatch):
    idle_executors._idle.clear()
    net = fitted()
    assert list(idle_executors._idle) == [net]
    del net
    assert len(idle_executors._idle) == 0
    monkeypatch.setattr(idle_executors, "KEPT", 100)
    net = fitted()
    assert net not in idle_executors._idle


@pytest.mark.parametrize("native", ["never", "always"])
def test_calls_with_and_without_weights_equal_eager_ones(native, monkeypatch):
    if native == "always" and native_policy.why_no_machine_code():
        pytest.skip(native_policy.why_no_machine_code())
    monkeypatch.setenv("PORTNET_NATIVE", native)
    weights = [None, np.linspace(0.5, 1.5, 20), None, np.arange(20.0), None]
    nets = [MLPRegressor(hidden_layer_sizes=(5,), random_state=0, compile=c) for c in (True, False)]
    for net in nets:
        for weight in weights:
            net.partial_fit(XR[:20], YR[:20], weight)
    for p, q in zip(*map(params, nets), strict=True):
        np.testing.assert_array_equal(p, q)


class ComparesParameters(MLPRegressor):
    def __eq__(self, other):  # and so there is no hash
        return type(other) is type(self) and other.get_params() == self.get_params()


def test_estimator_without_a_hash_trains():
    other = fitted()  # it keeps an executor
    net = ComparesParameters(hidden_layer_sizes=(5,), max_iter=2, random_state=0)
    for _ in range(2):
        net.partial_fit(XR, YR)
    net.set_params(max_iter=9, tol=1e9, n_iter_no_change=1).fit(XR, YR)
    assert other.t_ == len(X)
