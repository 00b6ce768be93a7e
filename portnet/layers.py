"""Layers: the forward equation of each, and backpropagation through it, side by side.

A layer maps its input x (rows, n_in) to its output y (rows, n_out); each row is a sample. (The y of
training.py is something else: the targets.) With L the loss of a batch, dy = dL/dy, dx = dL/dx and
dW = dL/dW are gradients. y' is the derivative of an elementwise layer's equation, whose chain rule
is dx = dy y'. ``@`` is the matrix product, .T the transpose; all other products are elementwise.

Notebooks often have samples as columns, and A = relu(Z):

| notebook (columns are samples)      | here (rows are samples)                       |
|-------------------------------------|-----------------------------------------------|
| ``Z1 = W1 @ X + b1``                | ``y = x @ W + b``                             |
| ``dW2 = dZ2 @ A1.T / m``            | ``dW = x.T @ dy``; the loss puts 1/m into dy  |
| ``db2 = sum(dZ2, axis=1) / m``      | ``db = sum(dy, axis=-2)``                     |
| ``dA1 = W2.T @ dZ2``                | ``dx = dy @ W.T``                             |
| ``dZ1 = dA1 * relu_derivative(Z1)`` | ``dx = dy * (y > 0)``, the `backward` of ReLU |

m is the number of rows. Axes are counted from the end (-2 is the rows), so that x and params may
share more in front.

A layer is any object with three methods; all but `init`, which draws from a generator, are pure:

* ``init(rng, n_in) -> params, n_out`` draws initial parameters, NumPy arrays, from NumPy's
  Generator `rng`; `portnet.init` (training.py) calls it and moves the parameters to the backend;
* ``forward(params, x, key=None) -> y, cache``: `cache` is what `backward` needs; `key` is None in
  inference; in training, layers such as Dropout get random numbers from it. A key is two integers
  to hash: `salt`, new in each epoch and layer, and `first`, new in each batch (`portnet.rng.Key`);
* ``backward(params, cache, dy) -> dparams, dx``.

A training step needs no dx of its first layer. A layer that can do without it has a fourth method,
``dparams(params, cache, dy) -> dparams``, which `dparams_of` calls; no layer needs it.

The parameters are a pytree, () if there are none. ``xp = namespace(x)`` is the array library of x:
read it as ``np``. Layers never cast: give x and the parameters the same dtype. They are
stateless: there is LayerNorm but no BatchNorm, whose running averages are state. As frozen
dataclasses they get a constructor from their fields, which are immutable.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

from ._typing import Array, Cache, Host, Params  # names of types
from ._validation import (  # for errors with clear messages
    FORWARD_CALL,
    check_choice,
    check_integer,
    check_methods,
    check_number,
    check_pair,
    check_signature,
    name_of,
    sizes_in_a_list,
)
from .backend import ShapeError, namespace
from .rng import INITIALIZERS, Generator, Key, fold, keep_mask  # Generator is NumPy's
from .rng import zeros as initial_zeros  # an initialiser: a function of (rng, n_in, n_out)
from .summary import Summarized  # the method `summary`: a table of layers

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "NORMS",
    "Chain",
    "Dense",
    "Dropout",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "ReLU",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "dparams_of",
    "mlp",
]

Initializer = Callable[[Generator, int, int], Host]  # of rng, n_in, n_out: W
_LAYER_METHODS = ("init", "forward", "backward")


class Layer(Protocol):
    """The protocol of a layer, for type checkers: three methods.

    Shapes: x and dx (rows, n_in), y and dy (rows, n_out). Parameters have any shape.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> import portnet
    >>> @dataclass(frozen=True)
    ... class Scale:  # y = a x
    ...     def init(self, rng, n_in):
    ...         return {"a": np.ones((1, n_in))}, n_in
    ...     def forward(self, params, x, key=None):
    ...         return params["a"] * x, x
    ...     def backward(self, params, cache, dy):
    ...         xp = portnet.namespace(dy)
    ...         da = xp.sum(dy * cache, axis=-2, keepdims=True)
    ...         return {"a": da}, params["a"] * dy
    >>> portnet.check_layer(Scale()) < 1e-6  # the largest relative error of its gradients
    True
    """

    def init(self, rng: Generator, n_in: int) -> tuple[Params, int]:
        """Return initial parameters and the number of outputs."""

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """Return y and what `backward` needs."""

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """Return dparams, a pytree like params, and dx."""


def dparams_of(layer: Any, params: Params, cache: Cache, dy: Array) -> Params:
    """Return the dparams of ``layer.backward``, without computing dx where the layer can do so.

    It can if the class that defines its `backward` also defines `dparams`: a subclass with a
    `backward` of its own has other gradients than the `dparams` that it inherits.

    Shapes: dy is (rows, n_out), dparams have the shapes of params.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> from portnet.layers import dparams_of
    >>> dense, x, dy = portnet.Dense(1), np.array([[2.0]]), np.array([[3.0]])
    >>> dparams_of(dense, {"W": x, "b": x}, x, dy)
    {'W': array([[6.]]), 'b': array([[3.]])}
    """
    owner = next((c for c in type(layer).__mro__ if "backward" in vars(c)), None)
    if (
        owner is not None
        and "dparams" in vars(owner)
        and "backward" not in getattr(layer, "__dict__", ())
    ):
        return layer.dparams(params, cache, dy)
    # check_pair returns the pair, or raises TypeError if it is no pair
    return check_pair(layer, "backward", "dparams, dx", layer.backward(params, cache, dy))[0]


@dataclass(frozen=True)
class Dense(Summarized):
    """y = x @ W + b.

    Parameters
    ----------
    n_out : int
        Number of outputs.
    weights : str or callable
        The initialiser of W: a name of `portnet.rng.INITIALIZERS`, such as "glorot_uniform" (of
        variance 2 / (n_in + n_out)) or "he_normal" (2 / n_in), or a function of (rng, n_in, n_out)
        that returns a NumPy array (n_in, n_out). b starts at 0.

    Notes
    -----
    x has shape (rows, n_in), y (rows, n_out), W (n_in, n_out) and b (1, n_out).
    The chain rule, for row k, input i and output j:

    * dW = x.T @ dy, as dW_ij = sum_k x_ki dy_kj;
    * db = the sum of the rows of dy, as db_j = sum_k dy_kj;
    * dx = dy @ W.T, as dx_ki = sum_j dy_kj W_ij.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> dense = portnet.Dense(3)
    >>> params, n_out = dense.init(np.random.default_rng(0), 2)
    >>> y, cache = dense.forward(params, np.ones((5, 2)))
    >>> params["W"].shape, params["b"].shape, y.shape
    ((2, 3), (1, 3), (5, 3))
    """

    n_out: int
    weights: Any = "glorot_uniform"

    def __post_init__(self) -> None:
        n_out = check_integer("Dense: n_out", self.n_out, 1)  # at least 1
        object.__setattr__(self, "n_out", n_out)  # as the fields are frozen
        if isinstance(self.weights, Integral):
            hint = f"the inputs come from the data, so write Dense({self.weights})"
            raise TypeError(f"Dense({self.n_out}, {self.weights}): {hint}")
        if not callable(self.weights):
            check_choice("initialiser", self.weights, INITIALIZERS)

    def __repr__(self) -> str:
        return f"Dense({self.n_out})"

    def init(self, rng: Generator, n_in: int) -> tuple[Params, int]:
        """W from the initialiser, b = 0."""
        initializer = self.weights if callable(self.weights) else INITIALIZERS[self.weights]
        W, b = initializer(rng, n_in, self.n_out), initial_zeros(rng, 1, self.n_out)
        if W.shape != (n_in, self.n_out):
            raise ShapeError(f"{self}: expected W of shape {(n_in, self.n_out)}, got {W.shape}")
        return {"W": W, "b": b}, self.n_out

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = x @ W + b; raises ShapeError unless x is (rows, n_in)."""
        W, b = params["W"], params["b"]
        xp = namespace(x, W, b)  # raises TypeError if they are of different libraries
        _check_width(self, x, W.shape[-2])
        return xp.matmul(x, W) + b, x

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dW = x.T @ dy; db = the sum of the rows of dy; dx = dy @ W.T."""
        dparams = self.dparams(params, cache, dy)
        xp, W = namespace(dy), params["W"]
        dx = xp.matmul(dy, xp.matrix_transpose(W))
        return dparams, dx

    def dparams(self, params: Params, cache: Cache, dy: Array) -> Params:
        """dW = x.T @ dy; db = the sum of the rows of dy."""
        xp, x = namespace(dy), cache
        dW = xp.matmul(xp.matrix_transpose(x), dy)
        db = xp.sum(dy, axis=-2, keepdims=True)
        return {"W": dW, "b": db}


# Elementwise activations ------------------------------------------------------------------------
# If the derivative is a function of the output, only the output is cached.


class _NoParameters(Summarized):
    """Base class of layers without parameters: their method `init`."""

    def init(self, rng: Generator, n_in: int) -> tuple[Params, int]:
        """No parameters, as many outputs as inputs."""
        return (), n_in


@dataclass(frozen=True)
class Identity(_NoParameters):
    """y = x;  y' = 1.

    Shapes: x, y, dy and dx are (rows, n_in).

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.Identity()
    >>> y, cache = layer.forward((), np.array([[-2.0, 3.0]]))
    >>> y
    array([[-2.,  3.]])
    >>> layer.backward((), cache, np.ones((1, 2)))[1]
    array([[1., 1.]])
    """

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = x."""
        return x, None

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy."""
        return (), dy


@dataclass(frozen=True)
class ReLU(_NoParameters):
    """y = max(x, 0);  y' = 1 where y > 0, else 0 (0 at x = 0, the usual convention).

    Shapes: x, y, dy and dx are (rows, n_in).

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.ReLU()
    >>> y, cache = layer.forward((), np.array([[-2.0, 0.0, 3.0]]))
    >>> y
    array([[0., 0., 3.]])
    >>> layer.backward((), cache, np.ones((1, 3)))[1]
    array([[0., 0., 1.]])
    """

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = max(x, 0)."""
        y = namespace(x).maximum(x, 0.0)
        return y, y

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy (y > 0): a product with a mask of 0 and 1, which is faster than `where`."""
        y = cache
        return (), dy * namespace(y).astype(y > 0, y.dtype)


@dataclass(frozen=True)
class LeakyReLU(_NoParameters):
    """y = max(x, slope x);  y' = 1 where y > 0, else slope (Maas et al. 2013).

    Shapes: x, y, dy and dx are (rows, n_in).

    Parameters
    ----------
    slope : float
        0 <= slope < 1.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.LeakyReLU(0.1)
    >>> y, cache = layer.forward((), np.array([[-2.0, 3.0]]))
    >>> y
    array([[-0.2,  3. ]])
    >>> layer.backward((), cache, np.ones((1, 2)))[1]
    array([[0.1, 1. ]])
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        check_number(self, "slope", "0 <= slope < 1", lambda s: 0 <= s < 1)

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = max(x, slope x)."""
        y = namespace(x).maximum(x, self.slope * x)
        return y, y

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy y', y' = 1 where y > 0, else slope."""
        y = cache
        mask = namespace(y).astype(y > 0, y.dtype)
        return (), dy * (mask + self.slope * (1.0 - mask))


@dataclass(frozen=True)
class Sigmoid(_NoParameters):
    """y = 1 / (1 + e^-x), the logistic function;  y' = y (1 - y).

    It is computed as (tanh(x/2) + 1) / 2, which cannot overflow.

    Shapes: x, y, dy and dx are (rows, n_in).

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.Sigmoid()
    >>> y, cache = layer.forward((), np.array([[0.0, 1000.0]]))
    >>> y
    array([[0.5, 1. ]])
    >>> layer.backward((), cache, np.ones((1, 2)))[1]
    array([[0.25, 0.  ]])
    """

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = (tanh(x/2) + 1) / 2."""
        y = 0.5 * namespace(x).tanh(0.5 * x) + 0.5
        return y, y

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy y (1 - y)."""
        y = cache
        return (), dy * (y * (1.0 - y))


@dataclass(frozen=True)
class Tanh(_NoParameters):
    """y = tanh(x);  y' = 1 - y^2.

    Shapes: x, y, dy and dx are (rows, n_in).

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.Tanh()
    >>> y, cache = layer.forward((), np.array([[0.0, 1000.0]]))
    >>> y
    array([[0., 1.]])
    >>> layer.backward((), cache, np.ones((1, 2)))[1]
    array([[1., 0.]])
    """

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = tanh(x)."""
        y = namespace(x).tanh(x)
        return y, y

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy (1 - y^2)."""
        y = cache
        return (), dy * (1.0 - y * y)


@dataclass(frozen=True)
class Softplus(_NoParameters):
    """y = log(1 + e^x) = max(x, 0) + log(1 + e^-|x|);  y' = 1 / (1 + e^-x) = 1 - e^-y.

    Shapes: x, y, dy and dx are (rows, n_in).

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.Softplus()
    >>> y, cache = layer.forward((), np.array([[-1000.0, 1000.0]]))
    >>> y
    array([[   0., 1000.]])
    >>> layer.backward((), cache, np.ones((1, 2)))[1]
    array([[0., 1.]])
    """

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = max(x, 0) + log(1 + e^-|x|), where the exponential cannot overflow."""
        xp = namespace(x)  # log1p(a) = log(1 + a), accurate for small a
        y = xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))
        return y, y

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy (1 - e^-y)."""
        y = cache
        return (), dy * -namespace(y).expm1(-y)  # expm1(a) = e^a - 1, accurate for small a


@dataclass(frozen=True)
class SiLU(_NoParameters):
    """y = x s, s = 1 / (1 + e^-x);  y' = s (1 + x (1 - s)).

    Also called swish (Elfwing et al. 2017).

    Shapes: x, y, dy and dx are (rows, n_in).

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.SiLU()
    >>> y, cache = layer.forward((), np.array([[0.0, 100.0]]))
    >>> y
    array([[  0., 100.]])
    >>> layer.backward((), cache, np.ones((1, 2)))[1]
    array([[0.5, 1. ]])
    """

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = x s."""
        s = 0.5 * namespace(x).tanh(0.5 * x) + 0.5  # as in Sigmoid: it cannot overflow
        return x * s, (x, s)

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy s (1 + x (1 - s))."""
        x, s = cache
        return (), dy * (s * (1.0 + x * (1.0 - s)))


_GELU_C, _GELU_A = math.sqrt(2 / math.pi), 0.044715


@dataclass(frozen=True)
class GELU(_NoParameters):
    """y = x (1 + h) / 2, h = tanh(u), u = c x (1 + a x^2), c = sqrt(2 / pi), a = 0.044715.

    y' = ((1 + h) + x (1 - h^2) u') / 2, with u' = c (1 + 3 a x^2). This is the tanh form of
    Hendrycks and Gimpel (2016); the exact y = x P(N(0, 1) < x) needs erf, which `xp` does not have.

    Shapes: x, y, dy and dx are (rows, n_in).

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.GELU()
    >>> y, cache = layer.forward((), np.array([[0.0, 100.0]]))
    >>> y
    array([[  0., 100.]])
    >>> layer.backward((), cache, np.ones((1, 2)))[1]
    array([[0.5, 1. ]])
    """

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = x (1 + h) / 2."""
        h = namespace(x).tanh(_GELU_C * x * (1.0 + _GELU_A * x * x))  # tanh(u)
        return 0.5 * x * (1.0 + h), (x, h)

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy ((1 + h) + x (1 - h^2) u') / 2."""
        x, h = cache
        du_dx = _GELU_C * (1.0 + 3 * _GELU_A * x * x)  # u'
        return (), dy * (0.5 * (1.0 + h + x * (1.0 - h * h) * du_dx))


# Dropout and normalisation ----------------------------------------------------------------------


@dataclass(frozen=True)
class Dropout(_NoParameters):
    """y = x mask, mask = 0 with probability `rate`, else 1 / (1 - rate); in inference y = x.

    Shapes: x, y, dy and dx are (rows, n_in).

    Parameters
    ----------
    rate : float
        The probability to drop an element, 0 <= rate < 1 (Srivastava et al. 2014). The factor
        1 / (1 - rate) preserves the mean, so that inference needs no correction.

    Notes
    -----
    mask is determined by (seed, epoch, layer, row, column), not drawn from a generator: the key
    holds the seed and the epoch, see `portnet.rng`.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer, x = portnet.Dropout(0.5), np.ones((1, 6))
    >>> layer.forward((), x)[0]  # inference
    array([[1., 1., 1., 1., 1., 1.]])
    >>> layer.forward((), x, portnet.rng.key(seed=0, count=0))[0]  # training
    array([[2., 2., 0., 0., 2., 2.]])
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "rate", "0 <= rate < 1, the probability to drop", lambda r: 0 <= r < 1)

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = x mask, or x where key is None."""
        if key is None or self.rate == 0:
            return x, None
        kept = keep_mask(key, x, self.rate)  # of the shape of x, False with probability rate
        mask = namespace(x).astype(kept, x.dtype) * (1 / (1 - self.rate))
        return x * mask, mask

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy mask, or dy in inference."""
        mask = cache
        return (), dy if mask is None else dy * mask


@dataclass(frozen=True)
class LayerNorm(Summarized):
    """y = gamma x_hat + beta, x_hat = (x - mean(x)) / sqrt(var(x) + eps).

    Each row of x is normalised to mean 0 and variance 1 (Ba et al. 2016); gamma and beta are
    parameters. x, y and x_hat have shape (rows, n_in), gamma and beta (1, n_in).

    Parameters
    ----------
    eps : float
        A small number > 0, so that rows of equal numbers do not divide by 0.

    Notes
    -----
    With dx_hat = dy gamma, r = 1 / sqrt(var(x) + eps) and means over each row:

    * dx = r (dx_hat - mean(dx_hat) - x_hat mean(dx_hat x_hat)), as mean(x) and var(x) depend on x;
    * dgamma = the sum of the rows of dy x_hat;
    * dbeta = the sum of the rows of dy.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer, x = portnet.LayerNorm(), np.array([[1.0, 3.0], [10.0, 30.0]])
    >>> params, n_out = layer.init(np.random.default_rng(0), 2)
    >>> layer.forward(params, x)[0].round(3)
    array([[-1.,  1.],
           [-1.,  1.]])
    """

    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_number(self, "eps", "eps > 0", lambda e: 0 < e < math.inf)

    def init(self, rng: Generator, n_in: int) -> tuple[Params, int]:
        """gamma = 1, beta = 0."""
        zero = initial_zeros(rng, 1, n_in)
        return {"gamma": zero + 1.0, "beta": zero}, n_in

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = gamma x_hat + beta."""
        xp = namespace(x, params["gamma"])
        _check_width(self, x, params["gamma"].shape[-1])
        centred = x - xp.mean(x, axis=-1, keepdims=True)
        var = xp.mean(centred * centred, axis=-1, keepdims=True)
        r = 1.0 / xp.sqrt(var + self.eps)
        x_hat = centred * r
        return params["gamma"] * x_hat + params["beta"], (x_hat, r)

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = r (dx_hat - mean(dx_hat) - x_hat mean(dx_hat x_hat))."""
        x_hat, r = cache
        xp = namespace(dy)
        dx_hat = dy * params["gamma"]
        mean = xp.mean(dx_hat, axis=-1, keepdims=True)
        mean_product = xp.mean(dx_hat * x_hat, axis=-1, keepdims=True)
        dx = r * (dx_hat - mean - x_hat * mean_product)
        return self.dparams(params, cache, dy), dx

    def dparams(self, params: Params, cache: Cache, dy: Array) -> Params:
        """dgamma = the sum of the rows of dy x_hat; dbeta = the sum of the rows of dy."""
        (x_hat, _), xp = cache, namespace(dy)
        dgamma = xp.sum(dy * x_hat, axis=-2, keepdims=True)
        dbeta = xp.sum(dy, axis=-2, keepdims=True)
        return {"gamma": dgamma, "beta": dbeta}


# Containers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain(Summarized):
    """y = f_n(... f_2(f_1(x))): layers in sequence; backward runs in reverse order.

    Shapes: x is (rows, n_in) of the first layer, y (rows, n_out) of the last.

    Parameters
    ----------
    layers : sequence of layers
    n_in : int, optional
        The number of inputs; `init` checks it if given.

    Notes
    -----
    The parameters are a tuple with those of each layer. An error gives the position of the layer:
    ``layers[2] Dense(3): expected x of shape (rows, 8), got (12, 5)``.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net = portnet.Chain([portnet.Dense(8), portnet.Tanh(), portnet.Dense(3)], n_in=4)
    >>> x = np.ones((5, 4))
    >>> params = portnet.init(net, like=x)
    >>> net.forward(params, x)[0].shape
    (5, 3)
    >>> net.summary()
    layer     output     parameters          count
    inputs    (rows, 4)
    Dense(8)  (rows, 8)  W (4, 8), b (1, 8)     40
    Tanh()    (rows, 8)                          0
    Dense(3)  (rows, 3)  W (8, 3), b (1, 3)     27
    67 parameters, 268 B as float32; 19 outputs of layers for each row, 76 B
    """

    layers: Sequence[Layer]
    n_in: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Sequence):
            raise TypeError(f"Chain: expected a list of layers, got {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))
        for i, layer in enumerate(self.layers):
            check_methods(f"layers[{i}] of a Chain", layer, _LAYER_METHODS)
            check_signature(
                f"forward of layers[{i}] {name_of(layer)}", layer.forward, *FORWARD_CALL
            )

    def init(self, rng: Generator, n_in: int) -> tuple[Params, int]:
        """Initialise the layers in order; n_in of each is n_out of the one before."""
        if self.n_in not in (None, n_in):
            raise ShapeError(f"Chain: expected {self.n_in} features, got {n_in}")
        params = []
        for i, layer in enumerate(self.layers):
            try:
                pair = layer.init(rng, n_in)
            except ShapeError as error:
                raise _with_position(i, error) from None
            # check_pair returns the pair, or raises TypeError if it is no pair
            layer_params, n_in = check_pair(layer, "init", "params, n_out", pair, i)
            params.append(layer_params)
        return tuple(params), n_in

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """Apply every layer in order, each with its own key."""
        if len(params) != len(self.layers):
            raise ShapeError(
                f"Chain: expected parameters of {len(self.layers)} layers, got {len(params)}"
            )
        caches = []
        for i, (layer, layer_params) in enumerate(zip(self.layers, params, strict=True)):
            layer_key = None if key is None else fold(key, i)  # fold: a new key for each i
            try:
                pair = layer.forward(layer_params, x, layer_key)
            except ShapeError as error:
                raise _with_position(i, error) from None
            y, cache = check_pair(layer, "forward", "y, cache", pair, i)
            caches.append(cache)
            x = y
        return x, caches

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """The chain rule: the dx of a layer is the dy of the one before it."""
        grads = []
        for layer, layer_params, layer_cache in zip(
            self.layers[::-1], params[::-1], cache[::-1], strict=True
        ):
            pair = layer.backward(layer_params, layer_cache, dy)
            dparams, dx = check_pair(layer, "backward", "dparams, dx", pair)
            grads.append(dparams)
            dy = dx
        return tuple(grads[::-1]), dy

    def dparams(self, params: Params, cache: Cache, dy: Array) -> Params:
        """The chain rule down to the first layer with parameters, which needs no dx."""
        grads = list(params)  # without parameters, dparams is as empty as they are
        first = next((i for i, p in enumerate(params) if not _is_empty(p)), None)
        if first is None:
            return params
        for i in range(len(params) - 1, first, -1):
            pair = self.layers[i].backward(params[i], cache[i], dy)
            grads[i], dy = check_pair(self.layers[i], "backward", "dparams, dx", pair)
        grads[first] = dparams_of(self.layers[first], params[first], cache[first], dy)
        return tuple(grads)


@dataclass(frozen=True)
class Residual(Summarized):
    """y = x + f(x);  dx = dy + the dx of f (He et al. 2015).

    Shapes: x, y, dy and dx are (rows, n_in).

    Parameters
    ----------
    layer : layer
        f, with as many outputs as inputs.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> layer = portnet.Residual(portnet.ReLU())
    >>> layer.forward((), np.array([[-1.0, 2.0]]))[0]
    array([[-1.,  4.]])
    """

    layer: Layer

    def __post_init__(self) -> None:
        check_methods("the layer of a Residual", self.layer, _LAYER_METHODS)
        check_signature(f"forward of {name_of(self.layer)}", self.layer.forward, *FORWARD_CALL)

    def init(self, rng: Generator, n_in: int) -> tuple[Params, int]:
        """The parameters of f; raises ShapeError unless f has n_in outputs."""
        params, n_out = self.layer.init(rng, n_in)
        if n_out != n_in:
            raise ShapeError(
                f"Residual: expected a layer with {n_in} outputs, as many as inputs, got {n_out}"
            )
        return params, n_out

    def forward(self, params: Params, x: Array, key: Key | None = None) -> tuple[Array, Cache]:
        """y = x + f(x)."""
        pair = self.layer.forward(params, x, key)
        f_x, cache = check_pair(self.layer, "forward", "y, cache", pair)
        namespace(x, f_x)  # raises TypeError if f returned an array of another library
        return x + f_x, cache

    def backward(self, params: Params, cache: Cache, dy: Array) -> tuple[Params, Array]:
        """dx = dy + the dx of f, as y depends on x through both terms."""
        pair = self.layer.backward(params, cache, dy)
        dparams, dx_of_f = check_pair(self.layer, "backward", "dparams, dx", pair)
        return dparams, dy + dx_of_f

    def dparams(self, params: Params, cache: Cache, dy: Array) -> Params:
        """The dparams of f."""
        return dparams_of(self.layer, params, cache, dy)


# Multilayer perceptron --------------------------------------------------------------------------

ACTIVATIONS: dict[str, Layer] = {
    "identity": Identity(),
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "gelu": GELU(),
    "silu": SiLU(),
    "softplus": Softplus(),
}
NORMS: dict[str, Layer] = {"layer": LayerNorm()}
_RELU_LIKE = (ReLU, LeakyReLU, GELU, SiLU, Softplus)


@sizes_in_a_list  # mlp(4, 8, 3) is an error that says to write mlp([4, 8, 3])
def mlp(
    sizes: Sequence[int],
    activation: str | Layer | Sequence[str | Layer] = "relu",
    *,
    dropout: float = 0.0,
    norm: str | Layer | None = None,
    weights: str | Initializer | None = None,
) -> Chain:
    """A multilayer perceptron: Dense, norm, activation, dropout for each hidden layer, then Dense.

    Shapes: x is (rows, n_in) and y (rows, n_out), where n_in and n_out are the first and last of
    `sizes`.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, units of each hidden layer (any but the last), outputs: ``[32, 128, 128, 8]``.
    activation : name, layer, or one of these for each hidden layer
        A name of `ACTIVATIONS`. The last Dense has none: the losses take its raw outputs (for
        classes, the logits: scores that sigmoid or softmax turns into probabilities).
    dropout : float
        The probability to drop a hidden unit.
    norm : "layer", a layer or None
        Between each hidden Dense and its activation: "layer" is LayerNorm.
    weights : str or callable, optional
        The initialiser of every Dense. By default "he_normal", to keep the scale of outputs, before
        ReLU-like activations (He et al. 2015), else "glorot_uniform".

    Examples
    --------
    >>> mlp([4, 8, 3]).layers
    (Dense(8), ReLU(), Dense(3))
    """
    if not hasattr(sizes, "__len__") or len(sizes) < 2:
        raise ValueError(f"mlp: expected at least two sizes, inputs and outputs, got {sizes}")
    sizes = [check_integer("mlp: a size", size, 1) for size in sizes]
    hidden = sizes[1:-1]
    if isinstance(activation, str) or not isinstance(activation, Sequence):
        activation = [activation] * len(hidden)
    if len(activation) != len(hidden):
        raise ValueError(
            f"mlp: expected one activation, or one for each of {len(hidden)} hidden layers, "
            f"got {len(activation)}"
        )
    layers: list[Layer] = []
    for n_out, given in zip(hidden, activation, strict=True):
        activation_layer = _named_layer("activation", given, ACTIVATIONS)
        default = "he_normal" if isinstance(activation_layer, _RELU_LIKE) else "glorot_uniform"
        layers.append(Dense(n_out, default if weights is None else weights))
        if norm is not None:
            layers.append(_named_layer("norm", norm, NORMS))
        layers.append(activation_layer)
        if dropout != 0:
            layers.append(Dropout(dropout))
    layers.append(Dense(sizes[-1], "glorot_uniform" if weights is None else weights))
    return Chain(tuple(layers), n_in=sizes[0])


def _named_layer(kind: str, given: str | Layer, table: dict[str, Layer]) -> Layer:
    """Return the layer of a name; return a layer unchanged."""
    if isinstance(given, str):
        check_choice(kind, given, table)
        return table[given]
    return given


def _is_empty(params: Params) -> bool:
    return isinstance(params, tuple | list | dict | None) and not params


def _check_width(layer: Layer, x: Array, n_in: int) -> None:
    if x.ndim < 2 or x.shape[-1] != n_in:
        raise ShapeError(f"{layer}: expected x of shape (rows, {n_in}), got {tuple(x.shape)}")


def _with_position(i: int, error: ShapeError) -> ShapeError:
    """Prepend the layer's position to an error: layers[2] Dense(3), layers[1].layers[0]."""
    return ShapeError(f"layers[{i}]{'.' if str(error).startswith('layers[') else ' '}{error}")
