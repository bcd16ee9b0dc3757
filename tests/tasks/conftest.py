"""A local Ray for the tests of tasks, and small real inputs."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from s3_server import s3_server, s3_store

from tasks.ray_pool import ray_session

__all__ = ["s3_server", "s3_store"]


@pytest.fixture(scope="session")
def ray_running() -> Iterator[None]:
    # Ray's processes import the workers that tests define.
    before, here = os.environ.get("PYTHONPATH"), Path(__file__).parent
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*map(str, (here, here.parents[1])), before]))
    try:
        with ray_session(2):
            yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAFACE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """The embedded public-domain portrait, uint8 (512, 512, 3)."""
    from tasks.sources import embedded_portrait

    return np.asarray(Image.open(embedded_portrait()).convert("RGB"))
