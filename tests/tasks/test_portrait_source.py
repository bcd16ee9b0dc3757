"""Synthetic portraits as a source: listed without rendering, equal bytes, exact parameters, refused texts."""

import json
from dataclasses import replace

import pytest

from models.images import decode_png
from models.portraits.people import person_of
from models.portraits.portrait import render_portrait
from models.portraits.scenes import scene_of
from tasks.portraits import list_portraits, portrait_scene, read_portrait
from tasks.sources import NoPhotos, Photo, list_photos, read_photo
from tasks.truth import truth_parameters


def test_rows_name_their_person_and_have_their_own_keys() -> None:
    rows = list_photos("portraits:3x4@5/64")
    assert len(rows) == 12
    assert len({row.key for row in rows}) == 12
    assert [row.person for row in rows[:5]] == ["portrait-5-0"] * 4 + ["portrait-5-1"]
    assert all(row.aligned for row in rows)
    assert rows[0].sha256 != list_portraits("portraits:1x1@5/128")[0].sha256
    assert rows[0].sha256 != list_portraits("portraits:1x1@6/64")[0].sha256


def test_a_row_reads_as_the_portrait_it_lists_and_carries_its_truth() -> None:
    row = list_photos("portraits:2x2@5/64")[3]
    picture = decode_png(read_photo(row))
    portrait = render_portrait(person_of(5, 1), scene_of(5, 1, 1), size=64)
    assert (picture == portrait.image).all()
    assert row.truth is not None
    assert len(row.truth) < 200, "a row says which portrait it is; it does not carry pictures"
    assert truth_parameters(row.truth) == portrait.parameters


def test_a_wider_population_shows_the_same_people_turned_further() -> None:
    usual, wide = list_photos("portraits:1x6@5/64"), list_photos("portraits:1x6@5/64~60")
    assert list_photos("portraits:1x6@5/64~38") == usual, "38 degrees are the usual ones: nothing is made twice"
    assert {row.sha256 for row in wide}.isdisjoint({row.sha256 for row in usual})
    assert [row.person for row in wide] == [row.person for row in usual]
    for picture, row in enumerate(wide):
        scene, narrow = scene_of(5, 0, picture, yaw=60), scene_of(5, 0, picture)
        assert scene == replace(narrow, yaw=scene.yaw)
        assert scene.yaw == pytest.approx(narrow.yaw * 60 / 38, abs=0.02)
        portrait = render_portrait(person_of(5, 0), scene, size=64)
        assert (decode_png(read_photo(row)) == portrait.image).all()
        assert row.truth is not None
        assert truth_parameters(row.truth) == portrait.parameters
        assert portrait_scene(json.loads(row.truth)["portrait"]) == scene


def test_truth_of_another_generator_is_refused() -> None:
    row = list_portraits("portraits:1x1@0/64")[0]
    assert row.truth is not None
    with pytest.raises(ValueError, match="render the portraits again"):
        truth_parameters(row.truth[:15] + "0000" + row.truth[19:])


@pytest.mark.parametrize(
    "spec",
    [
        "portraits:",
        "portraits:0x3",
        "portraits:3",
        "portraits:2x2@-1",
        "portraits:2x2/4",
        "portraits:2x2~0",
        "portraits:2x2~90",
    ],
)
def test_what_names_no_portraits_is_refused(spec: str) -> None:
    with pytest.raises(NoPhotos, match="portraits"):
        list_photos(spec)


def test_rows_of_something_else_are_refused() -> None:
    with pytest.raises(NoPhotos, match="no portrait"):
        read_portrait(Photo(store_uri="portraits:@0/64", name="picture.png", sha256="0" * 64))
