"""Settings: the environment variables by which machine code is chosen."""

import os

__all__ = ["native_cpu", "native_mode"]


def native_mode() -> str:
    """Return when plans become machine code: the environment variable ``PORTNET_NATIVE``.

    "auto" (the default): after as many calls as pay for compiling; "always": at the first call, and
    an error where there is no machine code; "never". It is read when a plan is made.
    """
    mode = os.environ.get("PORTNET_NATIVE") or "auto"
    if mode not in ("always", "never", "auto"):
        raise ValueError(f"PORTNET_NATIVE: expected always, never or auto, got {mode!r}")
    return mode


def native_cpu() -> str:
    """Return the processor to compile for: ``PORTNET_NATIVE_CPU``, LLVM's name; "": this one."""
    return os.environ.get("PORTNET_NATIVE_CPU", "")
