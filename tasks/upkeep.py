"""Looking after stores and assets, for the command line: rows that it prints as tables."""

import os
from pathlib import Path

from models.face3d.assets import Found, check_assets, convert_assets
from storage.stores import open_store
from storage.upkeep import Finding, Repair, clean_staging, repair_dataset, verify_dataset
from tasks.assets import VARIABLE

Row = tuple[str, ...]


def assets_folder() -> Path:
    return Path(os.environ.get(VARIABLE, "assets"))


def verify(root: str) -> list[Finding]:
    """Every object below a root, checked byte by byte."""
    store = open_store(root)
    store.check()
    return list(verify_dataset(store))


def repair(root: str, *, withdraw: bool) -> list[Repair]:
    """Rebuild what can be rebuilt; with `withdraw`, datasets that lost a shard stop existing, to be made again."""
    store = open_store(root)
    store.check()
    return list(repair_dataset(store, withdraw=withdraw))


def clean(root: str, older_than_hours: float) -> list[Row]:
    """Remove what killed writers left."""
    found = clean_staging(open_store(root), older_than_hours * 3600)
    return [
        (one.name, one.kind, f"{one.age / 3600:.1f} h", "removed" if one.removed else "left alone") for one in found
    ]


def check(preset: str) -> list[Found]:
    """What of a preset's assets is there."""
    return check_assets(assets_folder(), preset)


def convert(sources: Path) -> list[Found]:
    """Convert original FLAME and DECA files into the assets folder."""
    return convert_assets(sources, assets_folder())
