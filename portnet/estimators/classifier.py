"""MLPClassifier: scikit-learn's classifier for arrays of any library."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from .. import perceptron
from .._typing import AnyArray, Array, ArrayLike, Host
from .._validation import warn
from ..backend import Backend, backend_of, is_host, namespace, to_numpy
from ..data import labels
from ..data.checks import DataError
from ..layers import Layer
from ..losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from ..optimizers import Optimizer
from . import inputs
from .base import _MLP, _is_stochastic
from .heads import Heads, HeadsCrossEntropy, has_heads
from .own_losses import sum_of
from .solvers import FitState

__all__ = ["MLPClassifier"]


class MLPClassifier(ClassifierMixin, _MLP):
    """Multi-layer perceptron classifier with scikit-learn's interface, for arrays of any library.

    It minimizes the cross-entropy by L-BFGS, sgd or adam. The output is softmax for several
    classes, and logistic for two classes and for each label of multi-label y.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of the hidden layers; ``()`` is logistic regression.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Activation of the hidden layers; also 'leaky_relu', 'gelu', 'silu', 'softplus', a layer of
        your own, or a list with one for each hidden layer.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        L-BFGS computes every step from all rows; it suits small datasets.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (parameters named W, also of layers of your own);
        divided by the number of rows of the batch, or the sum of their weights.
    batch_size : int, default='auto'
        Rows per step of sgd and adam; 'auto' is ``min(200, rows)``.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Schedule of sgd. 'invscaling': ``learning_rate_init / (t_ + 1) ** power_t``, set once per
        epoch; 'adaptive': divided by 5 whenever training would otherwise stop.
    learning_rate_init : float, default=0.001
        Initial learning rate of sgd and adam.
    power_t : float, default=0.5
        Exponent of 'invscaling'.
    max_iter : int, default=200
        Maximum number of epochs, or of iterations of L-BFGS.
    shuffle : bool, default=True
        Whether sgd and adam shuffle the rows in each epoch.
    random_state : int, RandomState instance, default=None
        Seed of the initial weights, the validation split and the order of the rows.
    tol : float, default=1e-4
        Minimum improvement of the loss, or of the validation score, within `n_iter_no_change`
        epochs; for L-BFGS, the largest component of the gradient at convergence.
    verbose : bool, default=False
        Whether to print the loss of each iteration; of an ensemble, with the number of the network.
    warm_start : bool, default=False
        Whether `fit` starts from the weights of the previous fit. Other `hidden_layer_sizes` are
        then an error.
    momentum : float, default=0.9
        Momentum of sgd.
    nesterovs_momentum : bool, default=True
        Whether sgd uses Nesterov's momentum.
    early_stopping : bool, default=False
        Whether sgd and adam stop when the validation score stops improving, and keep the best
        weights. A split that leaves no row of a class to train on is an error.
    validation_fraction : float, default=0.1
        Fraction of the rows held out for early stopping, if `X_val` is not given.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of adam's running means of the gradient and of its square.
    epsilon : float, default=1e-8
        Added to the divisor of adam's step.
    n_iter_no_change : int, default=10
        Epochs without an improvement of `tol` after which training stops; `np.inf`: never.
    max_fun : int, default=15000
        Maximum number of evaluations of the loss by L-BFGS.
    class_weight : dict of class: weight, or 'balanced', default=None
        Multiplies the weights of the rows of each class; 1 for classes left out. 'balanced' gives
        every class the same total weight (in `partial_fit`, over all calls so far). For multi-label
        y: 'balanced', or a list of one dict per label, whose weights are multiplied, as in
        scikit-learn's forests.
    backend : str, default=None
        Backend of the network if X is host data: 'numpy', 'cupy', 'dpnp', 'torch' or 'jax',
        optionally with a device: 'cupy:1', 'torch:cuda'. None: the one set by `portnet.set_backend`
        in this process (``n_jobs=2`` starts other processes). For other arrays, the network is on
        their device.
    compile : bool, default=True
        Whether training steps and predictions are compiled, on NumPy and JAX: see
        `portnet.compile`. On CuPy training steps are CUDA graphs.
    loss : {'log_loss'} or callable, default='log_loss'
        The cross-entropy, or a loss of your own: ``loss(pred, target, weight) -> value, dpred``,
        the mean over rows (or the sum, if it has ``reduction = "sum"``) and its gradient, which
        `fit` checks. pred are the logits (rows, outputs); the target has their shape and dtype: 1
        for the class or label of the row, else 0.
    dropout : float, default=0.0
        Probability to drop a hidden unit in a training step of sgd or adam.
    norm : {'layer'}, layer or None, default=None
        What is between each hidden layer's product and its activation: 'layer' is
        `portnet.LayerNorm`.
    optimizer : str or optimizer, default=None
        What makes the steps instead of sgd or adam: an optimizer, such as
        ``portnet.AdamW(portnet.CosineDecay(1e-3, steps=1000))`` or ``portnet.chain(
        portnet.ClipNorm(1.0), portnet.Adam(1e-3))``, or a name of `portnet.optimizers.OPTIMIZERS`,
        whose learning rate is then `learning_rate_init`. `alpha` is added to the loss as ever.
    scoring : str or callable, default=None
        What ``early_stopping=True`` monitors: a scorer of scikit-learn or its name, such as
        'roc_auc', or 'loss' for the loss. By default the accuracy.
    metrics : str, callable, list of these, or dict, default=None
        Scorers that are computed after each epoch (or iteration of L-BFGS), for the training rows
        and the validation rows: see `history_`. ``[]`` has the curves of the loss and of the
        monitored score. `X_val` is then allowed without early stopping. Here and in `scoring`, the
        weights of rows go to scorers that have a parameter `sample_weight`, or whose metric has it.
    heads : bool, default=False
        What y with several columns of 0 and 1 is: multi-label y, or with True several heads, whose
        probabilities are those of a softmax. Columns of other labels are heads in either case. A
        fold of heads may have no other labels than 0 and 1: give True where `predict_proba` must
        have the form of a forest's for each fold, as in ``cross_val_predict(net, X, y,
        method="predict_proba")``, which replaces labels, also text, by 0, 1, 2...
    n_networks : int, default=1
        The number of networks: with more than one, `fit` trains an ensemble of networks that differ
        in their seeds, which `random_state` draws, and `predict_proba` returns the mean of
        their probabilities. Ctrl-C ends all: those that are then untrained are left out, and
        ``fit(X, y, resume=True)`` trains them.

    Attributes
    ----------
    classes_ : array or list of arrays
        The sorted class labels: numbers in the library of X, text on the host. A list for several
        heads, one for each.
    loss_ : float
        The loss of the last epoch (the mean over its rows, each batch before its update), or after
        the last iteration of L-BFGS.
    best_loss_ : float or None
        The lowest loss of any epoch; None with early stopping.
    loss_curve_ : list of float
        The loss of each epoch. Not for L-BFGS, whose losses are in `history_`.
    validation_scores_ : list of float or None
        The accuracy on the validation set, or `scoring`, after each epoch, with early stopping.
    best_validation_score_ : float or None
        The best validation score.
    history_ : dict of str: list of float
        The curves of the loss, of the validation score and of `metrics`: a number for each epoch.
    t_ : int
        Number of rows that sgd or adam has processed.
    coefs_, intercepts_ : list of arrays
        W (n_in, n_out) and b (n_out,) of each Dense layer, on the backend of the network. The
        parameters of norms and of layers of your own are not among them: `get_weights` has all.
    n_features_in_ : int
    feature_names_in_ : array of str
        Set if X was a data frame with column names.
    n_iter_ : int
        Epochs, or iterations of L-BFGS, of the last fit.
    n_layers_ : int
    n_outputs_ : int
        Outputs of the network; for several heads, the sum of their numbers of classes.
    out_activation_ : str
    estimators_ : list of MLPClassifier
        The networks of an ensemble, each with all these attributes. The ensemble lacks `coefs_`,
        `intercepts_`, `history_`, `loss_curve_`, `best_loss_`, `validation_scores_` and
        `best_validation_score_`; its `loss_` is their mean, `n_iter_` and `t_` are the largest.

    Notes
    -----
    From the same `random_state`, sgd and adam make scikit-learn's steps to 1e-10 in float64, and
    L-BFGS those of SciPy's L-BFGS-B until rounding errors grow. All estimator checks of
    scikit-learn pass, those of the array API included, and its own tests of the two classes, except
    one that calls a private method.

    Differences from scikit-learn:

    * X may be an array of any library (CuPy, dpnp, torch, JAX). Training and prediction run on its
      backend, and results are arrays of that library. Host data are moved to `backend`, and results
      are NumPy arrays.
    * `class_weight`, and ``fit(X, y, X_val=..., y_val=...)`` for early stopping; the parameters
      from `loss` on; `initialize`, `get_weights`, `set_weights`, and ``fit(X, y, resume=True)``.
    * y may have several class labels in each row: (rows, heads). `predict` and `predict_proba` then
      answer as scikit-learn's forests do, and `score` is the fraction of rows with all labels
      right. Labels are text or any integers; columns of 0 and 1 are multi-label y, unless
      `heads` is True or `partial_fit` gets the classes of each column. scikit-learn takes any two
      numbers, such as 1 and 2, for multi-label y.
    * ``set_callbacks(...)`` takes scikit-learn's callbacks: a task for each epoch of `fit`. A
      callback that returns True at its end ends the fit. `partial_fit` calls none.
    * With dropout, rows of weight k are k rows in expectation only: each row drops other units.
    * The loss is computed from the logits, without clipping. scikit-learn clips probabilities, so
      its loss is lower where the network is confident and wrong, as on data that are not scaled;
      training may then stop in another epoch.
    * An epoch whose loss, weights or moments are not finite ends the fit, with scikit-learn's error
      or, if early stopping has a best score, with a ConvergenceWarning and the best weights.
    * Rows of weight 0 are ignored, but their classes are known.
    * Each call of `partial_fit` shuffles the rows anew.
    * A fitted network predicts with the activation of its last fit; scikit-learn takes the one that
      `set_params` has set since.
    * A warm start with other `hidden_layer_sizes` is an error.
    * Early stopping that leaves no row of a class to train on is an error; for multi-label y, a
      warning.
    * A fit that raises leaves the estimator unchanged.

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
        "loss": [StrOptions({"log_loss"}), callable],
        "heads": ["boolean"],
    }

    classes_: Any  # an array, or a list of arrays for several heads

    def __init__(
        self,
        hidden_layer_sizes: ArrayLike = (100,),
        activation: object = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
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
        class_weight: object = None,
        backend: str | None = None,
        compile: bool = True,
        loss: str | Loss = "log_loss",
        dropout: float = 0.0,
        norm: str | Layer | None = None,
        optimizer: str | Optimizer | None = None,
        scoring: object = None,
        metrics: object = None,
        heads: bool = False,
        n_networks: int = 1,
    ) -> None:
        self._set_parameters(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        return tags

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike = None,
        classes: ArrayLike = None,
    ) -> Self:
        """Train one epoch on these rows, in a new order.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`; y need not have all classes.
        classes : (classes,)
            The classes of all calls; required in the first call. For y with several heads, a list
            of the classes of each head; for multi-label y, [0, 1] or the numbers of the labels.

        Returns
        -------
        self
            A call that raises leaves the estimator unchanged.
        """

        def fit() -> FitState:
            nonlocal y
            y = self._host_labels(y)
            if self._heads is not None or (
                isinstance(classes, list | tuple) and _is_nested(classes)
            ):
                self._learn_heads(classes)
                return self._fit(X, y, sample_weight, incremental=True)
            if hasattr(self, "classes_"):
                self.classes_ = self._host_classes  # on the host, to be compared with `classes`
            if hasattr(self, "classes_") and self._are_known(classes):
                return self._fit(X, y, sample_weight, incremental=True)
            labels.refuse_mixed(classes, "classes")
            if _check_partial_fit_first_call(self, classes):
                multilabel = self._is_table(y, classes)
                self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
            return self._fit(X, y, sample_weight, incremental=True)

        return self._fit_or_restore(fit, X=X, y=y, sample_weight=sample_weight)

    def predict(self, X: ArrayLike) -> AnyArray:
        """Return the class of each row (rows,), or 0 and 1 (rows, labels), in the library of X.

        For several heads, the classes are (rows, heads). Text labels are returned as a NumPy array.
        """

        def decode(raw: Array) -> Array:
            codes, binarizer = self._predict_codes(raw), self._label_binarizer
            if type(binarizer) is Heads:
                return self._decode_heads(codes, is_host(X))
            if _is_multilabel(binarizer):  # sparse if y was sparse
                return binarizer.inverse_transform(to_numpy(codes)) if is_host(X) else codes
            if is_host(X) or self._host_classes.dtype.kind not in "iufb":
                return self._host_classes[to_numpy(codes)]
            decoded: Array = namespace(codes).take(self._classes_on(backend_of(codes)), codes)
            return decoded

        return self._apply(X, "predict", decode)

    def predict_proba(self, X: ArrayLike) -> AnyArray:
        """Return the probability of each class (rows, classes), in the library of X.

        For several heads, a list of these.
        """
        if self._heads is not None:
            return self._apply(X, "predict_proba", self._probabilities_of_heads)
        return self._apply(X, "predict_proba", self._probabilities)

    def predict_log_proba(self, X: ArrayLike) -> AnyArray:
        """Return the logarithm of `predict_proba`, (rows, classes)."""
        if self._heads is not None:
            return self._apply(
                X,
                "predict_log_proba",
                lambda raw: [namespace(p).log(p) for p in self._probabilities_of_heads(raw)],
            )
        return self._apply(
            X, "predict_log_proba", lambda raw: namespace(raw).log(self._probabilities(raw))
        )

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> float:
        """Return the accuracy: the fraction of rows with the right class, or with all labels right.

        X is (rows, features), y (rows,), (rows, labels) or (rows, heads), sample_weight (rows,).
        """
        with inputs.errors_name_argument(X=X, y=y, sample_weight=sample_weight):
            pred, y, weight = inputs.on_host(self.predict(X), y, sample_weight)
            several = self._heads is not None
            if not several and _is_multilabel(self._label_binarizer) and not hasattr(y, "tocsr"):
                several = has_heads(np.asarray(y))  # a fold of heads that had 0 and 1 only
            if several:
                y = np.asarray(y)
                if y.shape != pred.shape:
                    raise ValueError(f"y: expected shape {pred.shape}, got {y.shape}")
                return _share((y == pred).all(axis=1), weight)
            return float(accuracy_score(y, pred, sample_weight=weight))

    # Several heads ------------------------------------------------------------------------------

    @property
    def _heads(self) -> Heads | None:
        """The classes of each head; None where a row has one class, or labels of 0 and 1."""
        known = self.__dict__.get("_label_binarizer")
        return known if isinstance(known, Heads) else None

    def _learn_heads(self, classes: Any) -> None:
        """Set the classes of heads in the first call of `partial_fit`, or compare them."""
        if classes is None:
            return
        given, known = Heads.given(classes), self._heads
        if known is None and hasattr(self, "classes_"):
            raise ValueError(
                f"classes: expected those of {self._fitted_labels()}, as fitted before"
            )
        if known is not None:
            pairs = zip(known.classes_, given.classes_, strict=False)
            if known.sizes != given.sizes or not all(np.array_equal(a, b) for a, b in pairs):
                raise ValueError(
                    f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                    f"{known.classes_!r}"
                )
            return
        self._label_binarizer = given

    def _is_table(self, y: Any, classes: ArrayLike) -> bool:
        """Tell whether y of the first call of `partial_fit`, with flat `classes`, is multi-label y.

        Raises ValueError if it has heads, or other classes than its labels.
        """
        table = y if hasattr(y, "tocsr") else np.asarray(y)
        heads = has_heads(table, self.heads)
        if not heads and not type_of_target(y).startswith("multilabel"):
            return False
        given = np.unique(np.asarray(classes))
        in_order = np.array_equal(given, np.arange(table.shape[1]))
        if heads or not (in_order or np.isin(given, [0, 1]).all()):
            more = "" if heads else "; for multi-label y of 0 and 1, give [0, 1]"
            raise ValueError(
                f"classes: y has {table.shape[1]} labels in each row: give a list with the classes "
                f"of each, [[...], [...]], got {classes!r}{more}"
            )
        return True

    def _fitted_labels(self) -> str:
        """Return in words what y was fitted."""
        several = _is_multilabel(self._label_binarizer)
        return "multi-label y of 0 and 1" if several else "one label in each row"

    def _probabilities_of_heads(self, raw: Array) -> list[Array]:
        assert self._heads is not None
        return [SoftmaxCrossEntropy().mean(z) for z in perceptron.of_heads(raw, self._heads.sizes)]

    def _decode_heads(self, codes: Array, to_host: bool) -> Array:
        assert self._heads is not None
        if to_host or self._heads.classes_[0].dtype.kind not in "iufb":
            return self._heads.decode(to_numpy(codes))
        xp, backend = namespace(codes), backend_of(codes)
        known = [self._on(c, backend) for c in self._heads.classes_]
        columns = [xp.take(c, codes[:, i]) for i, c in enumerate(known)]
        decoded: Array = xp.stack(columns, axis=1)
        return decoded

    # Of raw outputs -----------------------------------------------------------------------------

    def _probabilities(self, raw: Array) -> Array:
        return perceptron.class_probabilities(raw, self.out_activation_)

    def _joined(self, raws: list[Array]) -> Array:
        """Return the logits of the mean probabilities of several networks."""
        sizes = () if self._heads is None else self._heads.sizes
        return perceptron.mean_logits(raws, self.out_activation_, sizes)

    def _predict_codes(self, raw: Array) -> Array:
        """Return the index of the most probable class (rows,), or 0 and 1 (rows, labels).

        For several heads, (rows, heads).
        """
        codes: Array
        if isinstance(self._label_binarizer, Heads):
            xp = namespace(raw)
            logits = perceptron.of_heads(raw, self._label_binarizer.sizes)
            best = [xp.argmax(z, axis=-1) for z in logits]
            codes = xp.stack(best, axis=1)
            return codes
        xp, p = namespace(raw), self._probabilities(raw)
        if self.out_activation_ == "softmax":
            codes = xp.argmax(p, axis=-1)  # the first of equal ones, as in NumPy
            return codes
        integer = xp.int64 if backend_of(raw).supports("int64") else xp.int32
        if self.n_outputs_ > 1 or _is_multilabel(self._label_binarizer):
            codes = xp.astype(p > 0.5, integer)
            return codes
        codes = xp.astype((p[:, 1] > p[:, 0]) & (len(self._host_classes) > 1), integer)
        return codes

    def _validation_score(self, raw: Array, y: Host, weight: Host | None) -> float:
        pred = to_numpy(self._predict_codes(raw))
        if self._heads is not None:
            return _share((y == pred).all(axis=1), weight)
        y = y[:, 0] if self.n_outputs_ == 1 else y
        return float(accuracy_score(y.astype(pred.dtype), pred, sample_weight=weight))

    def _host_labels(self, y: ArrayLike) -> ArrayLike:
        (y,) = inputs.on_host(y)
        labels.refuse_mixed(y, "y")
        return y

    def _is_plain(self, y: object, rows: int) -> bool:
        return type(y) is np.ndarray and y.dtype.kind in "iub" and y.shape == (rows,)

    def _are_known(self, classes: ArrayLike) -> bool:
        """Return whether these are the known classes, as integers in order, or None."""
        if classes is None:
            return True
        given = np.asarray(classes) if isinstance(classes, list | np.ndarray) else None
        if given is None or given.ndim != 1 or given.dtype.kind not in "iub":
            return False
        return given.dtype == self._host_classes.dtype and np.array_equal(given, self._host_classes)

    def _has_known_classes(self, y: Host) -> bool:
        known = self._host_classes
        plain = self._is_plain(y, len(y)) and known.dtype.kind in "iub"
        if not plain or _is_multilabel(self._label_binarizer):
            return False
        position = np.minimum(np.searchsorted(known, y), len(known) - 1)
        return bool((known[position] == y).all())

    def _learn_targets(self, y: ArrayLike, backend: Backend, incremental: bool) -> None:
        """Set the classes from y, or check y against the known classes."""
        known_heads = self._heads if self.warm_start or incremental else None
        if known_heads is not None or (
            hasattr(y, "ndim") and y.ndim == 2 and has_heads(y, self.heads)
        ):
            if known_heads is None:
                if hasattr(self, "classes_") and (self.warm_start or incremental):
                    raise ValueError(
                        f"y has several heads, but {self._fitted_labels()} was fitted: use a new "
                        "estimator"
                    )
                self._label_binarizer = known_heads = Heads.of(y)
            self.n_outputs_ = sum(known_heads.sizes)
            numeric = all(c.dtype.kind in "iufb" for c in known_heads.classes_)
            on_device = not self._fitted_on_host and numeric
            self.classes_ = (
                [self._on(c, backend) for c in known_heads.classes_]
                if on_device
                else list(known_heads.classes_)
            )
            return
        if incremental and not self.warm_start and self._has_known_classes(y):
            pass
        elif not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
        else:
            classes, known = unique_labels(y), self._host_classes
            if self.warm_start:
                if set(classes) != set(known):
                    raise DataError(
                        "warm_start can only be used where `y` has the same classes as in the "
                        f"previous call to fit. Previously got {known}, `y` has {classes}"
                        f"{_first_unknown(y, known)}"
                    )
            elif len(np.setdiff1d(classes, known, assume_unique=True)):
                raise DataError(
                    "`y` has classes not in `self.classes_`. `self.classes_` has "
                    f"{known}. 'y' has {classes}{_first_unknown(y, known)}."
                )
        multiclass = self._label_binarizer.y_type_ == "multiclass"
        several_outputs = multiclass or _is_multilabel(self._label_binarizer)
        self.n_outputs_ = len(self._host_classes) if several_outputs else 1
        # In the library of X, except for text.
        as_X = not self._fitted_on_host and self._host_classes.dtype.kind in "iufb"
        self.classes_ = self._classes_on(backend) if as_X else self._host_classes

    @property
    def _host_classes(self) -> Host:
        """The classes (classes,) on the host."""
        return self._label_binarizer.classes_  # type: ignore[no-any-return]

    def _classes_on(self, backend: Backend) -> Array:
        """Return numeric classes (classes,) on a backend, in the nearest dtype it supports."""
        return self._on(self._host_classes, backend)

    @staticmethod
    def _on(classes: Host, backend: Backend) -> Array:
        dtype = classes.dtype.name
        if not backend.supports(dtype):
            dtype = {"i": "int32", "u": "uint32"}.get(dtype[0], "float32")
        return backend.asarray(classes, dtype)

    def _encode(self, y: Host, name: str = "y") -> Host:
        known = self._host_classes
        if self._heads is not None:
            return self._heads.encode(y, name)
        if _is_multilabel(self._label_binarizer):
            if name != "y" and has_heads(y):
                raise ValueError(f"`{name}` has other labels than 0 and 1, which were fitted")
            return np.asarray(self._label_binarizer.transform(y)).astype(bool)
        if y.ndim != 1:
            raise ValueError(f"`{name}` has several labels per row, but one was fitted.")
        if name != "y":
            unknown = np.setdiff1d(unique_labels(y), known)
            if len(unknown):
                raise DataError(
                    f"`{name}` has classes not in `y`: {unknown}. `y` has {known}"
                    f"{_first_unknown(y, known)}."
                )
        codes: Host = np.searchsorted(known, y)
        return codes if self.n_outputs_ > 1 else (codes > 0)[:, None]

    def _decode(self, y: Host) -> Host:
        if self._heads is not None:
            return self._heads.decode(y)
        if _is_multilabel(self._label_binarizer):
            return y.astype(int)
        return self._host_classes[y if self.n_outputs_ > 1 else y[:, 0].astype(int)]

    def _targets(self, y: ArrayLike, backend: Backend) -> Array:
        integer = "int64" if backend.supports("int64") else "int32"
        if self._heads is not None:
            return backend.asarray(y, integer)
        if not isinstance(self.loss, str) and y.ndim == 1:
            one_hot = np.zeros((len(y), self.n_outputs_))
            one_hot[np.arange(len(y)), y] = 1.0
            y = one_hot
        return inputs.targets(y, backend)

    def _loss_and_activation(self) -> tuple[Loss, str]:
        if not isinstance(self.loss, str):
            return self._own_loss()
        if self._heads is not None:
            return HeadsCrossEntropy(self._heads.sizes, reduction="sum"), "softmax"
        if self._label_binarizer.y_type_ == "multiclass":
            return SoftmaxCrossEntropy(reduction="sum"), "softmax"
        return SigmoidCrossEntropy(reduction="sum"), "logistic"

    def _own_loss(self) -> tuple[Loss, str]:
        if self._heads is not None:
            raise ValueError(
                "loss: one of your own needs y with one class, or labels of 0 and 1; got several "
                "heads"
            )
        if self.n_outputs_ == 1 and isinstance(self.loss, SoftmaxCrossEntropy):
            raise ValueError(
                "loss: a network for two classes has one output, of which the softmax is always 1: "
                "give portnet.SigmoidCrossEntropy()"
            )
        softmax = self._label_binarizer.y_type_ == "multiclass"
        return sum_of(self.loss), "softmax" if softmax else "logistic"

    def _with_class_weights(self, y: ArrayLike, sample_weight: Host | None) -> Host | None:
        given = self.class_weight
        if given is None:
            return sample_weight
        # Each label of multi-label y has the classes 0 and 1; the weights are multiplied.
        columns = [y if y.ndim == 1 else y[:, 0]]
        tables, several = [given], _is_multilabel(self._label_binarizer)
        if several or self._heads is not None:
            columns = list(y.T)
            tables = given if isinstance(given, list) else [given] * len(columns)
            if isinstance(given, dict) or len(tables) != len(columns):
                raise ValueError(
                    f"class_weight: expected 'balanced', or a list of {len(columns)} dicts, one "
                    f"for each {'label' if several else 'head'}, got {given!r}"
                )
        if self._heads is not None:
            classes = [c.tolist() for c in self._heads.classes_]
        else:
            classes = [[0, 1] if several else self._host_classes.tolist()] * len(columns)
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        before = self._class_counts or [0.0] * len(columns)
        all_counts = []
        for column, table, counts, known in zip(columns, tables, before, classes, strict=True):
            codes = column.astype(np.int64, copy=False)
            # With the earlier calls of partial_fit: a call need not have all classes.
            counts = counts + np.bincount(codes, sample_weight, len(known))
            all_counts.append(counts)
            by_class = labels.weights_of_classes(_restrict_to(table, known), known, counts)
            if weight is sample_weight:
                weight = weight * by_class[codes]
            else:  # in place: it may be of many rows
                weight *= by_class[codes]
        self._class_counts = tuple(all_counts)
        return weight

    def _check_training_classes(self, y: Host, y_train: Host) -> None:
        if self._heads is not None:
            for i, known in enumerate(self._heads.classes_):
                self._check_training_codes(y[:, i], y_train[:, i], known, f" of head {i}")
            return
        if _is_multilabel(self._label_binarizer):
            pairs = zip(y.T, y_train.T, strict=True)
            constant = [len(np.unique(part)) < len(np.unique(whole)) for whole, part in pairs]
            if any(constant):
                warn(
                    f"early_stopping: for the labels {np.flatnonzero(constant)}, all rows with 1, "
                    "or all with 0, are in the validation set: they cannot be learned"
                )
            return
        self._check_training_codes(y, y_train, self._host_classes)

    def _check_training_codes(self, y: Host, y_train: Host, known: Host, where: str = "") -> None:
        missing = np.setdiff1d(y, y_train).astype(np.int64)
        if len(missing):
            raise ValueError(
                f"early_stopping: all rows of the classes {known[missing]}{where} are in the "
                "validation set, so that they could not be learned. Give more rows of them, "
                "X_val and y_val, another random_state, or a smaller validation_fraction than "
                f"{self.validation_fraction}"
            )


def _restrict_to(given: object, known: list[Any]) -> object:
    """Return class weights without unknown classes, if every known class has one.

    As in scikit-learn: a fold need not have all classes of the dict.
    """
    if not isinstance(given, dict) or any(label not in given for label in known):
        return given
    return {label: given[label] for label in known}


def _first_unknown(y: Any, known: Host) -> str:
    """Return where y (rows,) has the first label that is not known, for a message."""
    if getattr(y, "ndim", 0) != 1:
        return ""
    rows = np.flatnonzero(~np.isin(to_numpy(y), known))
    return f" (the first unknown one is at row {rows[0]})" if len(rows) else ""


def _is_multilabel(binarizer: LabelBinarizer) -> bool:
    return bool(binarizer.y_type_ == "multilabel-indicator")


def _is_nested(classes: Sequence[Any]) -> bool:
    """Tell whether classes are those of several heads: a list of lists or arrays."""
    return len(classes) > 0 and all(isinstance(c, list | tuple | np.ndarray) for c in classes)


def _share(right: Host, weight: Host | None) -> float:
    """Return the weighted share of rows that are right."""
    return float(np.average(right, weights=weight))
