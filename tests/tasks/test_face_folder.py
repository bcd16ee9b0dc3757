"""Maps of a folder of photographs, and of frames."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.face3d.maps import MAP_FILES, ConditionMaps
from models.face3d.parameters import FaceParameters
from tasks.face_folder import face_folder


def frames(folder: Path, portrait: np.ndarray) -> Path:
    """Five frames: the portrait shifted by a trembling pixel or two, the third without a face."""
    folder.mkdir()
    for number, (x, y) in enumerate([(0, 0), (2, -1), (0, 0), (-1, 2), (1, 1)]):
        picture = np.full_like(portrait, 128) if number == 2 else np.roll(portrait, (y, x), axis=(0, 1))
        Image.fromarray(picture).save(folder / f"frame-{number}.png")
    return folder


def test_every_photograph_has_a_row_and_every_face_its_maps(tmp_path: Path, portrait: np.ndarray) -> None:
    rows = face_folder(str(frames(tmp_path / "in", portrait)), tmp_path / "out")
    assert [row.status for row in rows] == ["ok", "ok", "no_face", "ok", "ok"]
    assert [r["status"] for r in json.loads((tmp_path / "out" / "faces.json").read_text())] == [r.status for r in rows]
    first = {name: (tmp_path / "out" / f"{rows[0].files}.{name}").read_bytes() for name in MAP_FILES}
    assert ConditionMaps.decode(first).mask.mean() > 0.2
    assert Image.open(tmp_path / "out" / "sheet.png").height > 4 * 192


def test_smoothing_steadies_frames_in_one_crop(tmp_path: Path, portrait: np.ndarray) -> None:
    source = str(frames(tmp_path / "in", portrait))

    def trembling(fps: float) -> float:
        out = tmp_path / f"at-{fps}"
        rows = [row for row in face_folder(source, out, frames_per_second=fps) if row.status == "ok"]
        cameras = [FaceParameters.from_npy((out / f"{row.files}.params.npy").read_bytes()).camera for row in rows]
        return float(np.abs(np.diff(cameras, axis=0)).sum())

    # At a frame every 100 s nothing is smoothed: each frame is news.
    assert trembling(25.0) < 0.7 * trembling(0.01)
    with pytest.raises(ValueError, match="frames_per_second"):
        face_folder(source, tmp_path / "bad", frames_per_second=0.0)
