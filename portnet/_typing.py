"""Type aliases of arrays and pytrees."""

from typing import Any

import numpy as np

__all__ = ["Array", "Cache", "Host", "Params", "State", "Tree"]

Array = Any  # an array of any library that follows the array API standard
Host = np.ndarray[Any, Any]  # a NumPy array, in host memory
Tree = Any  # a pytree: an array, or a dict, list or tuple of pytrees
Params = Any  # the parameters of a model, a pytree
State = Any  # the state of an optimizer, a pytree
Cache = Any  # what a layer's forward saves for its backward
