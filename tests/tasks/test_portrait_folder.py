"""`instaface portraits`: files that read back, and numbers that must add up."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from models.face3d.maps import ConditionMaps
from models.face3d.parameters import FaceParameters
from models.images import decode_png
from models.portraits.people import person_of
from models.portraits.portrait import render_portrait
from models.portraits.scenes import scene_of
from tasks.portrait_folder import plan_rows


def test_the_command_writes_pictures_and_their_truth(tmp_path: Path) -> None:
    out = tmp_path / "people"
    asked = ["portraits", "3", "--out", str(out), "--people", "2", "--size", "64", "--seed", "4"]
    result = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert result.exit_code == 0
    assert "3 portraits of 2 people" in result.output
    index = json.loads((out / "portraits.json").read_text())
    assert [row["files"] for row in index["portraits"]] == ["000000-0000", "000000-0001", "000001-0000"]
    stem = out / "000000-0001"
    files = {
        name: (out / f"{stem.name}.{name}").read_bytes()
        for name in ("albedo.png", "normal.png", "render.png", "mask.png")
    }
    portrait = render_portrait(person_of(4, 0), scene_of(4, 0, 1), size=64)
    assert (decode_png((out / "000000-0001.image.png").read_bytes()) == portrait.image).all()
    texture = decode_png((out / "000000-0001.texture.png").read_bytes())
    assert FaceParameters.from_json((out / "000000-0001.params.json").read_text(), texture) == portrait.parameters
    assert (ConditionMaps.decode(files).mask == portrait.maps().mask).all()
    assert decode_png((out / "sheet.png").read_bytes()).ndim == 3


def test_numbers_that_do_not_add_up_are_refused() -> None:
    assert len({row.person for row in plan_rows(5, None, None, 0)}) == 5
    assert len({row.person for row in plan_rows(5, None, 2, 0)}) == 3
    with pytest.raises(ValueError, match="fewer than 9"):
        plan_rows(9, 2, 4, 0)
    with pytest.raises(ValueError, match="at least one"):
        plan_rows(0, None, None, 0)
