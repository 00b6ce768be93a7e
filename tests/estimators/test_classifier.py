"""MLPClassifier: classes and probabilities."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import numpy as np
from problems import BINARY, SMALL, X, Y

from portnet import MLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_probabilities_of_large_logits_are_exact():
    """Probabilities are exact for large logits, without a warning; 0.5 predicts the first class."""
    net = MLPClassifier(hidden_layer_sizes=(), max_iter=1).fit(X[:, :1], BINARY)
    net.coefs_, net.intercepts_ = [np.ones((1, 1))], [np.zeros(1)]
    x = np.array([[50.0], [-50.0], [-800.0], [0.0]])
    small = np.exp(-50.0)
    expected = [[small, 1], [1, small], [1, 0], [0.5, 0.5]]
    np.testing.assert_allclose(net.predict_proba(x), expected, rtol=1e-12)
    assert net.predict(x).tolist() == [1, 0, 0, 0]
    assert net.predict_log_proba(x)[2, 1] == -np.inf
    labels = MLPClassifier(hidden_layer_sizes=(), max_iter=1)
    labels.fit(X[:, :1], np.stack([BINARY, 1 - BINARY], axis=1))
    labels.coefs_, labels.intercepts_ = [np.ones((1, 2))], [np.zeros(2)]
    assert labels.predict(x).tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]


def test_single_class_is_always_predicted():
    net = MLPClassifier(**SMALL).fit(X[:50], np.full(50, 3))
    net.intercepts_[-1][:] = 9.0
    assert set(net.predict(X)) == {3}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", 1], r"Mix of label input types \(number and string\) in classes"),
        ([b"a", 1], r"Mix of label input types \(bytes and number\) in classes"),
        (["a", np.True_], r"Mix of label input types \(number and string\) in classes"),
        (["a", None], "Input classes contains None"),
    ],
)
def test_classes_of_mixed_types_raise(classes, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**SMALL).partial_fit(X, np.array(["a", "1"])[BINARY], classes=classes)


def test_multilabel_targets_after_single_labels_raise():
    net = MLPClassifier(**SMALL).partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="`y` has several labels per row"):
        net.partial_fit(X, np.stack([BINARY, BINARY, 1 - BINARY], axis=1))
