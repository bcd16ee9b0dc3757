"""Fixtures shared by all tests: where golden numbers and photographs are, and quiet third-party telemetry."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Prefect reads its home at import; tests never touch the database of the checkout or of the user.
_PREFECT_HOME = tempfile.TemporaryDirectory(prefix="instaface-prefect-", ignore_cleanup_errors=True)
os.environ["PREFECT_HOME"] = _PREFECT_HOME.name

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"no {what} at {folder}: set {variable} to a folder that holds them")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers produced by the original implementations (INSTAFACE_GOLDEN, by default ../shared/golden)."""
    return _folder("INSTAFACE_GOLDEN", _SHARED / "golden", "golden files")


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photographs with an index.json (INSTAFACE_PHOTOS, by default ../shared/photos)."""
    return _folder("INSTAFACE_PHOTOS", _SHARED / "photos", "photographs")
