"""The compiler: trace a function once, then replay it at the speed of code written for the device.

In reading order: `ir` (what a trace is), `tracer` (how it is made), `simplify` (fewer operations),
`schedule` (their order), `memory` (where results are written), `planner` (all of these in a row),
`numpy_codegen` (calls with ``out=``), `replay` (the buffers), `executable` (a plan as code), `api`
(`portnet.compile`), `native/` (machine code).
"""

from .api import Compiled, compile
from .errors import CompileWarning
from .settings import native_mode

__all__ = ["CompileWarning", "Compiled", "compile", "native_mode"]
