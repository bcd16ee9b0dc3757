"""Edits as a flow gets them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.face3d.editing import FaceEdit, possible
from models.face3d.open_head import load_open_head
from storage.errors import Conflict
from storage.stores import open_store
from tasks.edit_requests import GRID, GRID_WITHOUT_NAMES, parse_edits
from tasks.expressions import remove_expression, save_expression, saved_expressions
from tasks.identity_training import WITHOUT_NAMES


def test_the_default_grid_covers_pose_expression_and_light() -> None:
    edits = [one.edit for one in parse_edits(None)]
    assert len(edits) == len(GRID)
    assert any(edit.yaw for edit in edits)
    assert any(edit.expressions for edit in edits)
    assert any(edit.light for edit in edits)
    assert edits[0] == FaceEdit(), "the first shows the person as photographed"


def test_flame_has_a_grid_of_what_it_can_do() -> None:
    """FLAME's expressions have no names: of the open head only the jaw's unit is left here."""
    head = load_open_head().model
    nameless = replace(head, expression_names=tuple(n if n == "jawOpen" else "" for n in head.expression_names))
    assert not all(possible(nameless, one.edit) for one in parse_edits(None))
    assert all(possible(nameless, one.edit) for one in parse_edits(None, grid=GRID_WITHOUT_NAMES))
    assert possible(nameless, WITHOUT_NAMES[1])
    assert all(possible(head, one.edit) for one in parse_edits(None))
    assert len(GRID_WITHOUT_NAMES) >= 10


def test_drivers_add_an_edit_each_and_stand_in_for_the_grid() -> None:
    named = parse_edits([{"name": "left", "yaw": -20}], drivers=["d.jpg"])
    assert [(one.name, one.frame, one.sweep) for one in named] == [("left", None, None), ("as the driver", 0, None)]
    film = parse_edits(None, drivers=["a.jpg", "b.jpg"])
    assert [(one.frame, one.sweep) for one in film] == [(0, "as the driver"), (1, "as the driver")]


def test_a_sweep_goes_from_the_first_value_to_the_last() -> None:
    asked = {
        "name": "turn",
        "sweep": {"yaw": [-30, 30], "expressions": {"smile": [0, 1]}},
        "frames": 5,
        "light": "left",
    }
    named = parse_edits([asked])
    assert [one.edit.yaw for one in named] == [-30, -15, 0, 15, 30]
    assert [one.edit.expressions["smile"] for one in named] == [0, 0.25, 0.5, 0.75, 1]
    assert {one.edit.light for one in named} == {"left"}
    assert {one.sweep for one in named} == {"turn"}


@pytest.mark.parametrize(
    ("edits", "sentence"),
    [
        ([{"yaw": 500}], "yaw = 500"),
        ([{"yaaw": 5}], "yaaw"),
        ([{"light": "moon"}], "moon"),
        ([{"name": "a"}, {"name": "a"}], "named 'a'"),
        ([], "no edit"),
        ([{"sweep": {"yaw": [-5, 5]}, "frames": 1}], "frames=1"),
        ([{"sweep": {"yaw": 5}}], "first value and the last"),
        ([{"sweep": {"hair": [0, 1]}}], "sweep of 'hair'"),
        ([{"sweep": {"yaw": [0, 500]}}], "yaw = "),
        ([{"sweep": []}], "needs the form"),
        ([{"expression": "grin"}], "none yet"),
        ([{"expression": ["grin"]}], "none yet"),
        ([{"yaw": "20"}], "yaw = '20' is no number"),
        ([{"yaw": None}], "yaw = None is no number"),
        ([{"jaw": True}], "jaw = True is no number"),
        ([{"expressions": ["smile"]}], r"expressions = \['smile'\] needs the form"),
        ([{"expressions": {"smile": "1"}}], "expression smile = '1' is no number"),
        ([{"expression_vector": 3}], "expression_vector = 3 is no list"),
        ([{"expression_vector": ["a"]}], r"expression_vector = \['a'\] is not made of numbers"),
        ([{"light": [["a"]]}], "is not made of numbers"),
        ([{"light_strength": 0.5}], "light_strength = 0.5 needs a light"),
        ([{"sweep": {"light_strength": [0, 1]}}], "needs a light"),
        ([{"sweep": {"expressions": [0, 1]}}], r"sweep expressions=\[0, 1\] needs the form"),
        ([{"yaw": 5, "sweep": {"yaw": [0, 1]}}], "yaw is swept and given"),
        ([{"expressions": {"smile": 1}, "sweep": {"expressions": {"smile": [0, 1]}}}], "smile is swept and given"),
    ],
)
def test_a_bad_edit_is_refused_with_its_value(edits: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_edits(json.loads(json.dumps(edits)))


def test_a_sweep_keeps_the_other_expressions() -> None:
    asked = {"name": "blinks", "expressions": {"smile": 0.5}, "sweep": {"expressions": {"blink": [0, 1]}}, "frames": 2}
    assert [one.edit.expressions for one in parse_edits([asked])] == [
        {"smile": 0.5, "blink": 0.0},
        {"smile": 0.5, "blink": 1.0},
    ]
    grin = {"grin": {"expressions": {"smile": 0.7}, "jaw": 0.1}}
    saved = parse_edits([{"expression": "grin", "sweep": {"yaw": [0, 10]}, "frames": 2}], saved=grin)
    assert [(one.edit.yaw, one.edit.jaw, one.edit.expressions) for one in saved] == [
        (0, 0.1, {"smile": 0.7}),
        (10, 0.1, {"smile": 0.7}),
    ]
    with pytest.raises(ValueError, match=r"jaw is swept and given as a number too"):
        parse_edits([{"expression": "grin", "sweep": {"jaw": [0, 1]}}], saved=grin)


def test_an_edit_as_json_is_an_edit_again() -> None:
    (one,) = parse_edits([json.loads(FaceEdit(yaw=3.0).to_json())])
    assert one.edit == FaceEdit(yaw=3.0)


def test_a_saved_expression_is_added_to_an_edit(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    save_expression(root, "grin", {"expressions": {"smile": 0.7, "jawOpen": 0.1}, "jaw": 0.1})
    save_expression(root, "grin", {"expressions": {"smile": 0.7, "jawOpen": 0.1}, "jaw": 0.1})
    (one,) = parse_edits([{"expression": "grin", "expressions": {"smile": 0.1}}], saved=saved_expressions(root))
    assert one.edit.expressions == {"smile": pytest.approx(0.8), "jawOpen": 0.1}
    assert one.edit.jaw == 0.1
    with pytest.raises(Conflict, match="another expression"):
        save_expression(root, "grin", {"jaw": 0.5})
    remove_expression(root, "grin")
    assert saved_expressions(root) == {}
    with pytest.raises(ValueError, match="no expression"):
        remove_expression(root, "grin")


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("smile", {"jaw": 0.1}, "built-in"),
        ("../up", {"jaw": 0.1}, "cannot name"),
        ("nothing", {}, "changes nothing"),
        ("turn", {"yaw": 3}, "'yaw' says nothing"),
        ("wide", {"jaw": 3}, "jaw = 3"),
    ],
)
def test_a_bad_expression_is_refused(tmp_path: Path, name: str, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        save_expression(open_store(tmp_path), name, fields)
