"""The compiler: trace a function once, then replay it at the speed of code written for the device.

In reading order: `program` (what a trace is), `trace` (how it is made), `rewrite` (fewer
operations), `plan` (order and places), `numpy_replay` (calls with ``out=``), `build` (all of it
in a row), `compiled` (`portnet.compile`).
"""

from .api import Compiled, compile
from .errors import CompileWarning
from .settings import native_mode

__all__ = ["CompileWarning", "Compiled", "compile", "native_mode"]
