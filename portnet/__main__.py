"""``python -m portnet``: what is installed, which backends work here, and why not."""

import platform
import textwrap
from importlib.metadata import PackageNotFoundError, version

from . import BackendUnavailableError, __version__, backends, get_backend


def main() -> None:
    """Print the versions and one line for each backend."""
    print(f"portnet {__version__}, Python {platform.python_version()}, {platform.system()}")
    for package in ("numpy", "array-api-compat", "tqdm", "matplotlib"):
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} not installed")
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
    print(f"\nnew arrays are born in {now} as {now.dtype}")


if __name__ == "__main__":
    main()
