"""A photograph folder with good and bad files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.two_photographs import write_two_photographs


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of a face, an empty wall, a truncated file, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("album")
    write_two_photographs(folder)
    Image.fromarray(np.full((200, 300, 3), 200, np.uint8)).save(folder / "wall.png")
    whole = (folder / "portrait.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_bytes(b"<html>not a photograph</html>")
    (folder / "notes.txt").write_text("ignored: no picture by its name")
    return folder
