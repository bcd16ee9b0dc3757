"""Edits as a flow gets them."""

import json

import pytest

from models.face3d.editing import FaceEdit
from tasks.edit_identity import GRID, parse_edits


def test_the_default_grid_covers_pose_expression_and_light() -> None:
    edits = [one.edit for one in parse_edits(None, driver=False)]
    assert len(edits) == len(GRID)
    assert any(edit.yaw for edit in edits)
    assert any(edit.expressions for edit in edits)
    assert any(edit.light for edit in edits)
    assert edits[0] == FaceEdit(), "the first shows the person as photographed"


def test_a_driver_adds_one_edit() -> None:
    named = parse_edits([{"name": "left", "yaw": -20}], driver=True)
    assert [(one.name, one.driver) for one in named] == [("left", False), ("as the driver", True)]


@pytest.mark.parametrize(
    ("edits", "sentence"),
    [
        ([{"yaw": 500}], "yaw = 500"),
        ([{"yaaw": 5}], "yaaw"),
        ([{"light": "moon"}], "moon"),
        ([{"name": "a"}, {"name": "a"}], "named 'a'"),
        ([], "no edit"),
    ],
)
def test_a_bad_edit_is_refused_with_its_value(edits: list[dict[str, object]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_edits(json.loads(json.dumps(edits)), driver=False)
