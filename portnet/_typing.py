"""Typing: the names by which arrays and pytrees are annotated."""

from typing import Any

import numpy as np

Array = Any  # an array of any library of the array API standard
Host = np.ndarray[Any, Any]  # an array of NumPy's, on the host
Tree = Any  # a pytree: an array, or a dict, list or tuple of pytrees
Params = Any  # the pytree of a model's parameters
State = Any  # the pytree of an optimizer's state
Cache = Any  # what a layer's forward keeps for its backward
