"""Predictor: a fitted estimator that was opened where scikit-learn is not installed."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from .. import perceptron, summary
from .._typing import AnyArray, Array, ArrayLike, Device, Params
from ..backend import Backend, describe, is_host, namespace, to_numpy, use_backend
from ..data import checks
from ..engine.inference import forward
from ..layers import Layer
from ..losses import SoftmaxCrossEntropy

__all__ = ["Predictor"]

_BLOCK = 16_384  # rows predicted at once


@dataclass(frozen=True)
class Predictor:
    """A fitted `MLPClassifier` or `MLPRegressor` that predicts, and does nothing else.

    `portnet.load` returns it where scikit-learn is not installed. It cannot be saved.

    Attributes
    ----------
    name : str
        The class of the estimator.
    classes_ : array (classes,), or a list of these for several heads, or None
        The class labels; None for a regressor.
    n_features_in_, n_outputs_ : int
    feature_names_in_ : tuple of str, or None
    """

    name: str
    model: Layer = field(repr=False)
    params: Params = field(repr=False)
    backend: Backend
    n_features_in_: int
    n_outputs_: int
    out_activation_: str = field(repr=False)
    multilabel: bool = field(default=False, repr=False)
    classes_: Any = None
    feature_names_in_: tuple[str, ...] | None = None
    loss: Any = field(default=None, repr=False)
    others: tuple["Predictor", ...] = field(default=(), repr=False)  # of an ensemble

    @classmethod
    def of(
        cls,
        name: str,
        values: dict[str, Any],
        parameters: dict[str, Any],
        labels: dict[str, Any] | None,
    ) -> Self:
        """Return the predictor of an estimator's attributes, on NumPy."""
        model, params = perceptron.network(
            parameters, values["coefs_"], values["intercepts_"], values.get("layer_params", ())
        )
        with use_backend("numpy", dtype=values["coefs_"][0].dtype.name) as backend:
            pass
        names = values.get("feature_names_in_")
        return cls(
            name,
            model,
            params,
            backend,
            values["n_features_in_"],
            values["n_outputs_"],
            values["out_activation_"],
            labels is not None and labels["kind"] == "multilabel-indicator",
            None if labels is None else labels["classes"],
            None if names is None else tuple(names),
            parameters.get("loss"),
        )

    @classmethod
    def joined(cls, networks: list["Predictor"]) -> "Predictor":
        """Return the predictor of an ensemble, which predicts the means of its networks."""
        return replace(networks[0], others=tuple(networks[1:]))

    def _repr_html_(self) -> str:
        return summary.predictor_html(self)

    def to(self, name: str, *, device: Device = None, dtype: str | None = None) -> Self:
        """Return the predictor on another backend: the arguments of `portnet.set_backend`."""
        from .. import tree

        with use_backend(name, device=device, dtype=dtype or self.backend.dtype) as backend:
            moved = tree.map(backend.asarray, self.params)
        others = tuple([one.to(name, device=device, dtype=dtype) for one in self.others])
        return replace(self, backend=backend, params=moved, others=others)

    def predict(self, X: ArrayLike) -> AnyArray:
        """Return the class of each row (rows,), 0 and 1 (rows, labels), or the mean of the target.

        For several heads, the classes are (rows, heads).
        X is (rows, features); the result is in the library of X, text labels as a NumPy array.
        """
        if self.classes_ is None:
            means = [n._answer(X, n._mean) for n in (replace(self, others=()), *self.others)]
            mean = means[0]
            if self.others:
                xp = namespace(mean)
                mean = xp.mean(xp.stack(means), axis=0)
            return mean[:, 0] if self.n_outputs_ == 1 else mean
        if isinstance(self.classes_, list):
            best = [to_numpy(p).argmax(axis=1) for p in self.predict_proba(X)]
            columns = zip(self.classes_, best, strict=True)
            answer = np.stack([known[codes] for known, codes in columns], axis=1)
            on_device = not is_host(X) and answer.dtype.kind in "iufb"
            return self.backend.asarray(answer) if on_device else answer
        codes = self._answer(X, self._codes)
        if self.multilabel:
            return codes
        if is_host(X) or self.classes_.dtype.kind not in "iufb":
            return self.classes_[to_numpy(codes)]
        dtype = self.classes_.dtype.name
        if not self.backend.supports(dtype):
            dtype = "float32" if dtype.startswith("float") else "int32"
        return namespace(codes).take(self.backend.asarray(self.classes_, dtype), codes)

    def predict_proba(self, X: ArrayLike) -> AnyArray:
        """Return the probability of each class (rows, classes), in the library of X.

        For several heads, a list of these.
        """
        if self.classes_ is None:
            raise TypeError(f"predict_proba needs a classifier, and this is a {self.name}")
        if isinstance(self.classes_, list):
            raw = self._answer(X, lambda raw: raw)
            softmax = SoftmaxCrossEntropy().mean
            return [softmax(logits) for logits in perceptron.of_heads(raw, self._sizes)]
        return self._answer(X, self._probabilities)

    def _answer(self, X: ArrayLike, finish: Any) -> AnyArray:
        checks.check_feature_names(X, self.feature_names_in_, fitted=self.name)
        if not is_host(X) and not self.backend.holds(X):
            raise TypeError(
                f"X is {describe(X)}, but the network is on {self.backend}: give "
                "portnet.to_numpy(X)"
            )
        with self.backend.active(), np.errstate(all="ignore"):
            x = checks.features(X, self.backend, width=self.n_features_in_)
            networks = [self, *self.others]
            raws = [forward(one.model, one.params, x, _BLOCK) for one in networks]
            answer = finish(raws[0] if not self.others else self._joined(raws))
        return to_numpy(answer) if is_host(X) else answer

    def _joined(self, raws: list[Array]) -> Array:
        """Return the logits of the mean probabilities of several networks."""
        return perceptron.mean_logits(raws, self.out_activation_, self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        """The number of classes of each head, if there are several."""
        return tuple(map(len, self.classes_)) if isinstance(self.classes_, list) else ()

    def _mean(self, raw: Array) -> Array:
        if self.out_activation_ == "loss.mean":
            mean: Array = self.loss.mean(raw)
            return mean
        return namespace(raw).exp(raw) if self.out_activation_ == "exp" else raw

    def _probabilities(self, raw: Array) -> Array:
        return perceptron.class_probabilities(raw, self.out_activation_)

    def _codes(self, raw: Array) -> Array:
        xp, p = namespace(raw), self._probabilities(raw)
        integer = xp.int64 if self.backend.supports("int64") else xp.int32
        codes: Array
        if self.out_activation_ == "softmax":
            codes = xp.argmax(p, axis=-1)
            return codes
        if self.multilabel or self.n_outputs_ > 1:
            codes = xp.astype(p > 0.5, integer)
            return codes
        several = self.classes_ is not None and len(self.classes_) > 1
        codes = xp.astype((p[:, 1] > p[:, 0]) & several, integer)
        return codes
