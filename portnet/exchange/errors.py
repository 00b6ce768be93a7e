"""Errors of the exchange with other libraries."""

__all__ = ["ExchangeError"]


class ExchangeError(ValueError):
    """A network cannot be written for, or read from, another library; the message says why.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> net = portnet.mlp([2, 1])
    >>> try:
    ...     portnet.exchange.from_keras([np.zeros((3, 1)), np.zeros(1)], net)
    ... except portnet.exchange.ExchangeError as error:
    ...     print(error)
    from_keras: weights[0]: expected W of layer 0, Dense(1), of shape (2, 1), got (3, 1)
    """
