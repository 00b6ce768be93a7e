"""``python -m portnet``: what is installed, which backends work here, and why not."""

import platform
import textwrap
from importlib.metadata import PackageNotFoundError, version

from . import BackendUnavailableError, __version__, backends, get_backend
from ._validation import how_to_install
from .compiler.native_policy import check_native_cpu, why_no_machine_code
from .compiler.settings import native_cpu, native_mode

PACKAGES = {  # and the extra that installs them
    "numpy": "",
    "array-api-compat": "",
    "tqdm": "",
    "llvmlite": "native",
    "scikit-learn": "sklearn",
    "matplotlib": "plot",
}


def main() -> None:
    """Print the versions, whether steps become machine code, and one line for each backend."""
    print(f"portnet {__version__}, Python {platform.python_version()}, {platform.system()}")
    for package, extra in PACKAGES.items():
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} not installed" + (f": {how_to_install(extra)}" if extra else ""))
    print(f"\nsteps on NumPy become machine code: {_machine_code()}")
    print("\nbackends")
    for status in backends():
        head = f"  {status.name:<17} {'usable' if status.usable else 'not usable':<11}"
        detail = f"{status.version or ''}" + (f" on {status.device}" if status.device else "")
        print(f"{head} {detail}".rstrip())
        if status.reason:
            print(
                textwrap.fill(status.reason, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
            )
    try:
        now = get_backend()
    except (BackendUnavailableError, ValueError) as error:
        raise SystemExit(f"\n{error}") from None
    print(f"\nnew arrays are created in {now} as {now.dtype}")


def _machine_code() -> str:
    """Return whether there is machine code here, and why not."""
    why_not = why_no_machine_code()
    if why_not:
        return f"no, {why_not}"
    try:
        if native_mode() == "never":
            return "no, as PORTNET_NATIVE=never says"
        check_native_cpu()
    except ValueError as error:
        return f"no, {error}"
    return f"yes, for {native_cpu()}, as PORTNET_NATIVE_CPU says" if native_cpu() else "yes"


if __name__ == "__main__":
    main()
