"""Settings: the environment variables by which machine code is chosen and kept."""

import os
import sys
from pathlib import Path

__all__ = ["cache_folder", "native_cpu", "native_mode"]


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


def cache_folder() -> Path | None:
    """Return the folder of compiled code: PORTNET_CACHE_DIR, or one in the user's folder of caches.

    None with ``PORTNET_CACHE=0``, or where the user has no folder.
    """
    if os.environ.get("PORTNET_CACHE", "1") == "0":
        return None
    chosen = os.environ.get("PORTNET_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    try:
        caches = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:  # the user has no home folder
        return None
    return Path(os.environ.get("XDG_CACHE_HOME") or caches) / "portnet"
