"""MLPClassifier: scikit-learn's, where X lives."""

from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from .._typing import Array, Host
from .._validation import warn
from ..backend import Backend, backend_of, is_host, namespace, to_numpy
from ..data import labels
from ..losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from . import inputs
from .base import _MLP, _is_stochastic
from .solvers import FitState


class MLPClassifier(ClassifierMixin, _MLP):
    """Multi-layer perceptron classifier: scikit-learn's, where X lives.

    Minimizes the cross-entropy by L-BFGS, sgd or adam: softmax for several classes, a logistic
    output for two classes or for each label of a multi-label problem.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of the hidden layers; ``()`` is logistic regression.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Of the hidden layers.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        L-BFGS takes all rows in every iteration: good for few rows.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights; divided by the rows of the batch, or by their
        weights.
    batch_size : int, default='auto'
        Rows in a step of sgd or adam; 'auto' is ``min(200, rows)``.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Of sgd. 'invscaling': ``learning_rate_init / (t_ + 1) ** power_t``, once per epoch;
        'adaptive': a fifth, whenever `n_iter_no_change` epochs brought nothing.
    learning_rate_init : float, default=0.001
        Of sgd and adam.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs at most; iterations of L-BFGS.
    shuffle : bool, default=True
        Whether sgd and adam take the rows in a new order in each epoch.
    random_state : int, RandomState instance, default=None
        Draws the initial weights, the validation set and the order of the rows.
    tol : float, default=1e-4
        What the loss, or the score of early stopping, must gain within `n_iter_no_change` epochs;
        for L-BFGS, the largest gradient at which it has converged.
    verbose : bool, default=False
        Whether to print the loss of each iteration.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the fit before.
    momentum : float, default=0.9
        Of sgd.
    nesterovs_momentum : bool, default=True
        Whether sgd's momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether sgd and adam stop when the score of the validation set gets no better, and keep the
        best weights.
    validation_fraction : float, default=0.1
        The share of the rows that early stopping sets aside, where no `X_val` is given.
    beta_1, beta_2 : float, default=0.9, 0.999
        How slowly adam's means of the gradient and of its square forget.
    epsilon : float, default=1e-8
        Keeps adam's divisor above 0.
    n_iter_no_change : int, default=10
        Epochs without a gain of `tol` before the end; `np.inf` for never.
    max_fun : int, default=15000
        Evaluations of the loss at most, by L-BFGS.
    class_weight : dict of class: weight, or 'balanced', default=None
        Multiplies the weights of the rows of each class, 1 for classes left out; 'balanced' gives
        every class the same weight in all (in `partial_fit`, in all calls so far). For several
        labels a row: 'balanced', or a list with a dict for each, whose weights are multiplied, as
        in scikit-learn's forests.
    backend : str, default=None
        Where the network lives if X is host data: 'numpy', 'cupy', 'torch', 'jax', also with a
        device, 'cupy:1', 'torch:cuda'. None: where `portnet.set_backend` said, in this process
        (the workers of ``n_jobs=2`` are others). Arrays on a device decide for themselves.
    compile : bool, default=True
        Whether the steps of sgd and adam are traced once and replayed, on NumPy and JAX: see
        `portnet.compile`.

    Attributes
    ----------
    classes_ : array or list of arrays
        The class labels, sorted, on the host.
    loss_ : float
        The loss of the last epoch (its mean over the steps, each before its update), or after the
        last iteration of L-BFGS.
    best_loss_ : float or None
        The lowest loss of an epoch; None with early stopping.
    loss_curve_ : list of float
        The loss of each epoch. Not for L-BFGS.
    validation_scores_ : list of float or None
        The accuracy on the validation set after each epoch, with early stopping.
    best_validation_score_ : float or None
        The best of these.
    t_ : int
        Rows seen by sgd or adam.
    coefs_, intercepts_ : list of arrays
        W (n_in, n_out) and b (n_out,) of each layer, where the network lives.
    n_features_in_ : int
    feature_names_in_ : array of str
        Where X was a frame with names.
    n_iter_ : int
        Epochs of the last fit, or iterations.
    n_layers_ : int
    n_outputs_ : int
    out_activation_ : str

    Notes
    -----
    From the same `random_state`, sgd and adam make scikit-learn's steps, and L-BFGS those of
    SciPy's L-BFGS-B until rounding parts them. The loss is that of the logits: scikit-learn's, of
    probabilities that it keeps within eps of 0 and 1, is lower where the network is very sure and
    wrong, as on data that are not scaled; there, training may end in other epochs. An epoch whose
    loss, weights or moments are not finite ends the fit at once, with scikit-learn's error.

    Examples
    --------
    >>> from portnet import MLPClassifier
    >>> from sklearn.datasets import make_classification
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> clf = MLPClassifier(random_state=1, max_iter=300).fit(X[:75], y[:75])
    >>> clf.score(X[75:], y[75:]) > 0.8
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_MLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    loss = "log_loss"  # as scikit-learn's has it, which takes no other

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Any = None,
        backend: str | None = None,
        compile: bool = True,
    ) -> None:
        self._take(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Make one epoch more over these rows, in a new order.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`; y need not have all classes.
        classes : (classes,)
            All classes of all calls: needed in the first.

        Returns
        -------
        self
            After an error, the estimator is as it was before.
        """

        def fit() -> FitState:
            nonlocal y
            y = self._host_labels(y)
            if hasattr(self, "classes_"):
                self.classes_ = self._known  # on the host, to be compared
            labels.refuse_mixed(classes, "classes")
            if _check_partial_fit_first_call(self, classes):
                several = type_of_target(y).startswith("multilabel")
                self._label_binarizer = LabelBinarizer().fit(y if several else classes)
            return self._fit(X, y, sample_weight, incremental=True)

        with inputs.errors_name_argument(X=X, y=y, sample_weight=sample_weight):
            return self._fit_or_restore(fit)

    def predict(self, X: Any) -> Array:
        """Return the class of each row, or 0 and 1 for each label, in the library of X.

        The shape is (rows,), or (rows, labels). Text comes as a NumPy array.
        """

        def names(raw: Array) -> Array:
            codes, binarizer = self._decide(raw), self._label_binarizer
            if _several(binarizer):  # sparse, where the labels were
                return binarizer.inverse_transform(to_numpy(codes)) if is_host(X) else codes
            if is_host(X) or self._known.dtype.kind not in "iufb":
                return self._known[to_numpy(codes)]
            return namespace(codes).take(self._there(backend_of(codes)), codes)

        return self._answer(X, "predict", names)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class (rows, classes), in the library of X."""
        return self._answer(X, "predict_proba", self._probabilities)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`, (rows, classes)."""
        return self._answer(
            X, "predict_log_proba", lambda raw: namespace(raw).log(self._probabilities(raw))
        )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of the rows whose class, or all of whose labels, are right.

        X is (rows, features), y (rows,) or (rows, labels), sample_weight (rows,).
        """
        with inputs.errors_name_argument(X=X, y=y, sample_weight=sample_weight):
            pred, y, weight = inputs.on_host(self.predict(X), y, sample_weight)
            return float(accuracy_score(y, pred, sample_weight=weight))

    def _probabilities(self, raw: Array) -> Array:
        xp = namespace(raw)
        if self.out_activation_ == "softmax":
            return SoftmaxCrossEntropy().mean(raw)
        if self.n_outputs_ == 1:
            return xp.concat([inputs.logistic(-raw), inputs.logistic(raw)], axis=-1)
        return inputs.logistic(raw)

    def _decide(self, raw: Array) -> Array:
        """Return the number of the most probable class (rows,), or 0 and 1 (rows, labels)."""
        xp, p = namespace(raw), self._probabilities(raw)
        if self.out_activation_ == "softmax":
            return xp.argmax(p, axis=-1)  # the first of equals, as everywhere
        whole = xp.int64 if backend_of(raw).supports("int64") else xp.int32
        if self.n_outputs_ > 1 or _several(self._label_binarizer):
            return xp.astype(p > 0.5, whole)
        return xp.astype((p[:, 1] > p[:, 0]) & (len(self._known) > 1), whole)

    def _score_of(self, raw: Array, y: Host, weight: Host | None) -> float:
        pred = to_numpy(self._decide(raw))
        right = y[:, 0] if self.n_outputs_ == 1 else y
        return float(accuracy_score(right.astype(pred.dtype), pred, sample_weight=weight))

    def _host_labels(self, y: Any) -> Any:
        y = y if is_host(y) else to_numpy(y)
        labels.refuse_mixed(y, "y")
        return y

    def _learn_targets(self, y: Any, backend: Backend, incremental: bool) -> None:
        """Learn the classes, or check that y fits those that are known."""
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
        else:
            classes, known = unique_labels(y), self._known
            if self.warm_start:
                if set(classes) != set(known):
                    raise ValueError(
                        "warm_start can only be used where `y` has the same classes as in the "
                        f"previous call to fit. Previously got {known}, `y` has {classes}"
                    )
            elif len(np.setdiff1d(classes, known, assume_unique=True)):
                raise ValueError(
                    "`y` has classes not in `self.classes_`. `self.classes_` has "
                    f"{known}. 'y' has {classes}."
                )
        several = self._label_binarizer.y_type_ == "multiclass" or _several(self._label_binarizer)
        self.n_outputs_ = len(self._known) if several else 1
        # They follow X, too, but for text, and for what only visits a backend.
        follows = not self._from_host and self._known.dtype.kind in "iufb"
        self.classes_ = self._there(backend) if follows else self._known

    @property
    def _known(self) -> Host:
        """The classes on the host."""
        return self._label_binarizer.classes_  # type: ignore[no-any-return]

    def _there(self, backend: Backend) -> Array:
        """Return numeric classes on a backend."""
        return backend.asarray(self._known, inputs.class_dtype(self._known, backend))

    def _encode(self, y: Any, name: str = "y") -> Array:
        known = self._known
        if _several(self._label_binarizer):
            return np.asarray(self._label_binarizer.transform(y)).astype(bool)
        if y.ndim != 1:
            raise ValueError(f"`{name}` has several labels a row: not what the classes were.")
        if name != "y":
            unknown = np.setdiff1d(unique_labels(y), known)
            if len(unknown):
                raise ValueError(f"`{name}` has classes not in `y`: {unknown}. `y` has {known}.")
        codes = np.searchsorted(known, y)
        return codes if self.n_outputs_ > 1 else (codes > 0)[:, None]

    def _output(self) -> tuple[Loss, str]:
        if self._label_binarizer.y_type_ == "multiclass":
            return SoftmaxCrossEntropy(reduction="sum"), "softmax"
        return SigmoidCrossEntropy(reduction="sum"), "logistic"

    def _class_weighted(self, y: Any, own: Host | None) -> Host | None:
        given = self.class_weight
        if given is None:
            return own
        # The classes of a row: of its labels, 0 or 1 each; the weights of several are multiplied.
        columns, known, tables = [y if y.ndim == 1 else y[:, 0]], self._known.tolist(), [given]
        if _several(self._label_binarizer):
            columns, known = list(y.T), [0, 1]
            tables = given if isinstance(given, list) else [given] * len(columns)
            if isinstance(given, dict) or len(tables) != len(columns):
                raise ValueError(
                    f"class_weight: expected 'balanced', or a list of {len(columns)} dicts, one "
                    f"for each label, got {given!r}"
                )
        weight = np.ones(len(y)) if own is None else own
        before = self._class_rows or [0.0] * len(columns)
        met = []
        for column, table, seen in zip(columns, tables, before, strict=True):
            codes = column.astype(np.int64)
            # Of the calls of partial_fit so far, too: one need not have all classes.
            met.append(np.bincount(codes, own, len(known)) + seen)
            of_class = labels.weights_of_classes(_needed(table, known), known, met[-1])
            weight = weight * of_class[codes]
        self._class_rows = tuple(met)
        return weight

    def _check_left_out(self, y: Host, y_train: Host) -> None:
        if _several(self._label_binarizer):
            pairs = zip(y.T, y_train.T, strict=True)
            lost = [len(np.unique(part)) < len(np.unique(whole)) for whole, part in pairs]
            if any(lost):
                warn(
                    f"early_stopping: for the labels {np.flatnonzero(lost)}, all rows with 1, or "
                    "all with 0, are in the validation set: they cannot be learned"
                )
            return
        left_out = np.setdiff1d(y, y_train).astype(np.int64)
        if len(left_out):
            raise ValueError(
                f"early_stopping: all rows of the classes {self._known[left_out]} are in the "
                "validation set, so that they could not be learned. Give more rows of them, "
                "X_val and y_val, another random_state, or a smaller validation_fraction than "
                f"{self.validation_fraction}"
            )


def _needed(given: Any, known: list[Any]) -> Any:
    """Return class weights without those of classes that there are not, as long as none lacks one.

    As in scikit-learn: a fold need not have all classes that the user has weights for.
    """
    if not isinstance(given, dict) or any(label not in given for label in known):
        return given
    return {label: given[label] for label in known}


def _several(binarizer: LabelBinarizer) -> bool:
    return bool(binarizer.y_type_ == "multilabel-indicator")
