"""The compiler: trace a function once, then replay it at the speed of code written for the device.

In reading order: `ir` (what a trace is), `tracer` (how it is made), `simplify` (fewer operations),
`schedule` and `memory` (order and locations), `planner` (all of it in a row), `numpy_codegen`
(calls with ``out=``), `replay` and `executable` (how a plan runs), `api` (`portnet.compile`).
"""

from .api import Compiled, compile
from .errors import CompileWarning
from .settings import native_mode

__all__ = ["CompileWarning", "Compiled", "compile", "native_mode"]
