"""Weights that lie in the repository: where they are, and that they are what was committed."""

import hashlib
import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
SUMS = "sha256.json"
STAGE1 = "stage1"
"""Folder of the stage-1 model, as `models.diffusion.folder.save_model` writes it."""
_CHUNK = 1 << 20


class DamagedWeights(ValueError):
    """A shipped file that is missing or is not the one that was committed."""


def shipped_file(name: str, folder: Path = FOLDER) -> Path:
    """Path of a shipped weight file whose sha256 was checked against `sha256.json` beside it.

    Raises:
        DamagedWeights: the file is missing, unlisted or differs; the message says how to get it back.
    """
    _check(folder, name)
    return folder / name


def shipped_folder(name: str, folder: Path = FOLDER) -> Path:
    """Path of a shipped model folder, every listed file of which was checked.

    Raises:
        DamagedWeights: as `shipped_file`.
    """
    names = [listed for listed in _sums(folder) if listed.startswith(f"{name}/")]
    if not names:
        raise DamagedWeights(f"{folder / SUMS} lists no file of {name}: {_remedy(folder)}")
    for listed in names:
        _check(folder, listed)
    return folder / name


def write_sums(folder: Path = FOLDER) -> dict[str, str]:
    """List every weight and configuration file below `folder` in `sha256.json`; returns name → sha256."""
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".safetensors", ".json") and p.name != SUMS]
    sums = {p.relative_to(folder).as_posix(): _sha256(p) for p in files}
    (folder / SUMS).write_text(json.dumps(sums, indent=2, sort_keys=True) + "\n")
    _sums.cache_clear()
    _check.cache_clear()
    return sums


@cache
def _check(folder: Path, name: str) -> None:
    path, wanted = folder / name, _sums(folder).get(name)
    if wanted is None:
        raise DamagedWeights(f"{name} is not listed in {folder / SUMS}: {_remedy(folder)}")
    if not path.is_file():
        raise DamagedWeights(f"{path} is missing: {_remedy(folder)}")
    found = _sha256(path)
    if found != wanted:
        raise DamagedWeights(f"{path} has sha256 {found[:12]}…, expected {wanted[:12]}…: {_remedy(folder)}")


@cache
def _sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if not path.is_file():
        raise DamagedWeights(f"{path} is missing: {_remedy(folder)}")
    sums: dict[str, str] = json.loads(path.read_text())
    return sums


def _remedy(folder: Path) -> str:
    return f"restore it with: git checkout -- {folder}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
