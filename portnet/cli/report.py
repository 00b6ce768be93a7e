"""Report: what is installed, which backends can be used, or why not."""

import platform
import textwrap
from importlib.metadata import PackageNotFoundError, version

from .. import BackendUnavailableError, __version__, backends, get_backend
from .._validation import how_to_install
from ..compiler.errors import EagerError
from ..compiler.native_policy import check_native_cpu, why_no_machine_code
from ..compiler.settings import cache_folder, native_cpu, native_mode

__all__ = ["show_installed"]

PACKAGES = {  # package: the extra that installs it
    "numpy": "",
    "array-api-compat": "",
    "tqdm": "",
    "llvmlite": "native",
    "scikit-learn": "sklearn",
    "matplotlib": "plot",
    "click": "cli",
    "pandas": "cli",
    "pyarrow": "parquet",
    "onnx": "onnx",
    "mpi4py": "mpi",
}


def show_installed() -> None:
    """Print the versions, whether steps are compiled to machine code, and the backends."""
    print(f"portnet {__version__}, Python {platform.python_version()}, {platform.system()}")
    for package, extra in PACKAGES.items():
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} not installed" + (f": {how_to_install(extra)}" if extra else ""))
    print(f"\nNumPy steps are compiled to machine code: {_machine_code()}")
    print(f"machine code is kept in {cache_folder() or 'no folder'}")
    print("\nbackends")
    for status in backends():
        head = f"  {status.name:<17} {'usable' if status.usable else 'not usable':<11}"
        detail = f"{status.version or ''}" + (f" on {status.device}" if status.device else "")
        print(f"{head} {detail}".rstrip())
        if status.reason:
            print(
                textwrap.fill(status.reason, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
            )
        if status.name == "cupy" and status.usable:
            print(f"      training steps are CUDA graphs: {_graphs()}")
    try:
        backend = get_backend()
    except (BackendUnavailableError, ValueError) as error:
        raise SystemExit(f"\n{error}") from None
    print(f"\nnew arrays are created in {backend} as {backend.dtype}")


def _graphs() -> str:
    """Return "yes", or "no" with the reason."""
    from ..compiler.cuda.selftest import device_for

    try:
        device_for()
    except EagerError as error:
        return f"no, {error}"
    return "yes"


def _machine_code() -> str:
    """Return "yes", or "no" with the reason."""
    why_not = why_no_machine_code()
    if why_not:
        return f"no, {why_not}"
    try:
        if native_mode() == "never":
            return "no, PORTNET_NATIVE=never is set"
        check_native_cpu()
    except ValueError as error:
        return f"no, {error}"
    return f"yes, for PORTNET_NATIVE_CPU={native_cpu()}" if native_cpu() else "yes"
