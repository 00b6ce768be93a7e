"""Generators: the state of a RandomState that is read from a file.

NumPy does not check the position in the numbers that a generator has ready: from one outside of
them, it reads other memory.
"""

from typing import Any

import numpy as np

from .errors import ModelFileError

__all__ = ["generator_of", "set_generator"]

# Where the position is in the state of a generator, and how many numbers are ready.
POSITIONS = {"MT19937": (("state", "pos"), 624), "Philox": (("buffer_pos",), 4)}
BIT_GENERATORS = "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"


def set_generator(rng: np.random.RandomState, state: Any) -> None:
    """Set a generator to a state of a file; raise ModelFileError for what is no state of it."""
    try:
        keys, ready = POSITIONS.get(state["bit_generator"], ((), 0))
        position: Any = state if keys else 0
        for key in keys:
            position = position[key]
        if type(position) is not int or not 0 <= position <= ready:
            raise ValueError(f"expected a position of 0 to {ready}, got {position!r:.80}")
        rng.set_state(state)
    except Exception as error:  # NumPy converts whatever there is
        raise ModelFileError(
            f"the state of the random generator: {type(error).__name__}: {error}"
        ) from None


def generator_of(state: Any) -> np.random.RandomState:
    """Return a generator with a state of a file, which says of which kind it is."""
    kind = state.get("bit_generator") if isinstance(state, dict) else None
    made = getattr(np.random, str(kind))(0) if kind in BIT_GENERATORS else 0
    rng = np.random.RandomState(made)
    set_generator(rng, state)
    return rng
