"""Flow along the surface leads to the same point of the skin; what a generator got wrong comes back in its edits."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.face3d import detail_carry
from models.face3d.detail_carry import carry_detail, turned_or_lit, turns
from models.face3d.editing import FaceEdit, apply_edit
from models.face3d.maps import ConditionMaps
from models.face3d.open_head import load_open_head
from models.face3d.render import render_maps
from models.face3d.surface_flow import SurfaceFlow, surface_flow
from models.portraits.people import person_of
from models.portraits.portrait import Portrait, render_portrait
from models.portraits.scenes import edited, scene_of

SIDE = 192
TURN, SMILE, LIGHT = FaceEdit(yaw=20.0), FaceEdit(expressions={"smile": 1.0}), FaceEdit(light="left")


def seen_by(edit: FaceEdit) -> tuple[Portrait, Portrait, SurfaceFlow]:
    """A portrait, the truth of its edit, and the flow between the two."""
    person, scene = person_of(1000, 3), scene_of(1000, 3, 0)
    before, after = (render_portrait(person, one, size=SIDE) for one in (scene, edited(scene, edit)))
    return before, after, surface_flow(load_open_head().model, before.parameters, after.parameters, SIDE)


def through(picture: NDArray[np.float32], flow: SurfaceFlow) -> NDArray[np.float32]:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    place = columns + flow.displacement[..., 0], rows + flow.displacement[..., 1]
    return np.asarray(cv2.remap(picture, *place, cv2.INTER_LINEAR), np.float32)


def maps_of(portrait: Portrait) -> ConditionMaps:
    return render_maps(load_open_head().model, portrait.parameters, SIDE)


@pytest.mark.parametrize("edit", [TURN, SMILE, LIGHT])
def test_the_same_point_of_the_skin_has_the_same_albedo(edit: FaceEdit) -> None:
    before, after, flow = seen_by(edit)
    there = np.abs(through(maps_of(before).albedo, flow) - maps_of(after).albedo).max(axis=2)
    nowhere = np.abs(maps_of(before).albedo - maps_of(after).albedo).max(axis=2)
    seen = cv2.erode((flow.seen > 0.5).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert seen.sum() > 0.2 * flow.head.sum()
    assert np.quantile(there[seen], 0.95) < 0.05
    if edit is TURN:
        assert np.quantile(nowhere[seen], 0.95) > 0.15, "without the flow it is another point"


def test_turns_and_light_are_told_from_expressions() -> None:
    asked = [TURN, SMILE, LIGHT, FaceEdit(jaw=1.0), FaceEdit(yaw=3.0), FaceEdit(roll=10.0)]
    found, moved = [], []
    for edit in asked:
        before, after, flow = seen_by(edit)
        found.append(turned_or_lit(flow, maps_of(before), maps_of(after)))
        moved.append(turns(flow))
    assert found == [True, False, True, False, False, True]
    assert moved == [True, False, False, False, False, True]
    outside = replace(flow, head=np.zeros_like(flow.head), seen=np.zeros_like(flow.seen))
    assert not turned_or_lit(outside, maps_of(before), maps_of(before)), "no head in the picture"


def test_nothing_moves_where_nothing_is_asked() -> None:
    before, _, _ = seen_by(LIGHT)
    flow = surface_flow(load_open_head().model, before.parameters, before.parameters, SIDE)
    assert np.abs(flow.displacement).max() < 1e-3
    assert np.array_equal(flow.head, maps_of(before).mask)


def test_what_the_photograph_hides_is_not_seen() -> None:
    model = load_open_head().model
    straight = render_portrait(person_of(1000, 3), scene_of(1000, 3, 0), size=SIDE).parameters
    left, right = (apply_edit(model, straight, FaceEdit(yaw=yaw)) for yaw in (-45.0, 45.0))
    flow = surface_flow(model, left, right, SIDE)
    columns = np.nonzero(flow.seen > 0.5)[1]
    covered = np.nonzero(flow.head)[1]
    assert 0 < len(columns) < 0.6 * len(covered)
    assert (flow.seen[~flow.head] == 0).all()
    # The half that turns into view is the one that was hidden.
    assert abs(columns.mean() - covered.mean()) > 0.1 * np.ptp(covered)


def blotched(picture: NDArray[np.uint8], strength: float = 0.35) -> NDArray[np.uint8]:
    """A generator that gets broad colours wrong by place and draws no detail."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    wrong = 1 + strength * np.stack([np.sin(5 * rows), np.cos(4 * columns), np.sin(3 * (rows + columns))], axis=2)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 2.5) * wrong, 0, 255).astype(np.uint8)


def grown(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    return cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8)).astype(bool)


def decibels(one: NDArray[np.uint8], other: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    error = np.square(one.astype(float) - other)[where].mean()
    return float(10 * np.log10(255**2 / error))


def test_an_edit_of_the_light_gets_its_detail_back() -> None:
    before, after, flow = seen_by(LIGHT)
    drawn = blotched(after.image)
    carried = carry_detail(drawn, blotched(before.image), before.image, flow, maps_of(before), maps_of(after))
    assert decibels(carried, after.image, after.head) > decibels(drawn, after.image, after.head) + 4


@pytest.mark.parametrize("edit", [TURN, SMILE])
def test_detail_moves_with_the_surface(edit: FaceEdit) -> None:
    before, after, flow = seen_by(edit)
    soft, rebuilt = (cv2.GaussianBlur(one.image, (0, 0), 2.5) for one in (after, before))
    carried = carry_detail(soft, rebuilt, before.image, flow, maps_of(before), maps_of(after))
    seen = (flow.seen > 0.8) & after.face
    assert decibels(carried, after.image, seen) > decibels(soft, after.image, seen) + 1.5


def test_a_perfect_rebuild_changes_nothing_on_the_head_and_the_background_stays() -> None:
    before, after, flow = seen_by(SMILE)
    soft = cv2.GaussianBlur(before.image, (0, 0), 6)
    carried = carry_detail(after.image, before.image, before.image, flow, maps_of(before), maps_of(after))
    far = cv2.dilate((flow.head | maps_of(before).mask).astype(np.uint8), np.ones((49, 49), np.uint8)) == 0
    assert far.sum() > 100
    assert np.array_equal(carried[far], before.image[far])
    unkept = carry_detail(soft, soft, soft, flow, maps_of(before), maps_of(after), keep_background=False)
    assert np.abs(unkept.astype(int) - soft).max() <= 12


def test_what_an_edit_does_not_touch_stays_the_photograph() -> None:
    """A smile leaves forehead and hair alone, light and a turn leave nothing of the head alone."""
    for edit, least, most in ((SMILE, 0.3, 0.9), (LIGHT, 0.0, 0.1), (TURN, 0.0, 0.1)):
        before, after, flow = seen_by(edit)
        soft = cv2.GaussianBlur(after.image, (0, 0), 6)
        carried = carry_detail(soft, before.image, before.image, flow, maps_of(before), maps_of(after))
        kept = (carried == before.image).all(axis=2)[maps_of(before).mask].mean()
        assert least <= kept <= most, (edit, kept)
        if edit is SMILE:
            mouth = np.linalg.norm(flow.displacement, axis=2) > 1
            assert mouth.sum() > 50
            assert (carried == before.image).all(axis=2)[mouth].mean() < 0.02, "the edit itself is drawn"


def test_spectacles_follow_the_skull_and_the_mouth_follows_the_skin() -> None:
    """A dark frame is painted where the cheeks rise under a smile; a perfect generator leaves it where it was."""
    before, after, flow = seen_by(SMILE)
    moved = np.linalg.norm(flow.displacement - flow.stiff, axis=2)
    assert np.abs(flow.stiff).max() < 1e-3, "the skull does not move"
    cheek = (flow.worn > 0.9) & (moved > 0.8) & after.face
    assert cheek.sum() > 30
    rows, columns = np.nonzero(cheek)
    frame = np.zeros((SIDE, SIDE), bool)
    frame[round(rows.mean()) - 1 : round(rows.mean()) + 2, columns.min() - 6 : columns.max() + 7] = True
    with_frame = [np.where(frame[..., None], np.uint8(15), one.image) for one in (before, after)]
    soft = [cv2.GaussianBlur(one, (0, 0), 1.5) for one in with_frame]
    maps = maps_of(before), maps_of(after)
    near = cv2.dilate(frame.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    carried = carry_detail(soft[1], soft[0], with_frame[0], flow, *maps)
    skin = replace(flow, worn=np.zeros_like(flow.worn))
    bent = carry_detail(soft[1], soft[0], with_frame[0], skin, *maps)
    assert decibels(carried, with_frame[1], near) > decibels(bent, with_frame[1], near) + 2
    mouth = (flow.worn == 0) & (moved > 0.8)
    assert np.array_equal(carried[mouth & ~near], bent[mouth & ~near])


def test_nothing_is_worn_where_the_expression_stays() -> None:
    _, _, flow = seen_by(TURN)
    assert not flow.worn.any()


def test_nothing_of_the_old_head_stays_where_it_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, flow = seen_by(TURN)
    soft, rebuilt = (cv2.GaussianBlur(one.image, (0, 0), 2.5) for one in (after, before))
    uncovered = before.head & ~grown(after.head | flow.head, 7)
    assert uncovered.sum() > 150

    def carried() -> float:
        maps = maps_of(before), maps_of(after)
        return decibels(carry_detail(soft, rebuilt, before.image, flow, *maps), after.image, uncovered)

    gone = carried()
    monkeypatch.setattr(detail_carry, "_beside", lambda displacement, *_: (displacement, np.float32(1)))
    assert gone > carried() + 5, "the head's own detail, on the wall behind it"


def test_light_on_the_head_leaves_the_wall_beside_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the generator draws there is right on average; its blur reaches over the edge of a head that got brighter."""
    before, after, flow = seen_by(LIGHT)
    soft, rebuilt = (cv2.GaussianBlur(one.image, (0, 0), 2.5) for one in (after, before))
    wall = grown(before.head, 13) & ~grown(before.head, 5)

    def carried() -> float:
        maps = maps_of(before), maps_of(after)
        return decibels(carry_detail(soft, rebuilt, before.image, flow, *maps), after.image, wall)

    kept = carried()
    monkeypatch.setattr(detail_carry, "_unchanged", lambda flow, wanted, drawn: np.zeros(drawn.shape[:2], np.float32))
    assert kept > carried() + 0.5


def test_a_pattern_on_the_wall_does_not_turn_with_the_head() -> None:
    before, after, flow = seen_by(TURN)
    tiles = np.kron(np.indices((SIDE // 16, SIDE // 16)).sum(axis=0) % 2, np.ones((16, 16)))[..., None].astype(np.uint8)
    walls = [np.where(one.head[..., None], one.image, 60 + 90 * tiles) for one in (before, after)]
    rebuilt, drawn = (cv2.GaussianBlur(one.astype(np.uint8), (0, 0), 2.5) for one in walls)
    near = grown(before.head | after.head, 25) & ~grown(before.head | after.head, 9)
    carried = carry_detail(drawn, rebuilt, walls[0].astype(np.uint8), flow, maps_of(before), maps_of(after))
    assert decibels(carried, walls[1], near) > decibels(drawn, walls[1], near) + 3


def test_long_hair_far_from_the_head_turns_with_it() -> None:
    before, after, flow = seen_by(TURN)
    assert turns(flow)
    photograph = before.image.copy()
    photograph[:, -11:-3] = 220  # a strand beyond the margin, which the edit draws elsewhere
    maps = maps_of(before), maps_of(after)
    locked, free = (
        carry_detail(after.image, photograph, photograph, flow, *maps, turned=turned) for turned in (False, True)
    )
    far = detail_carry._beyond(detail_carry._touched(flow, *maps), SIDE) > 0.999
    strand, wall = far.copy(), far.copy()
    strand[:, :-9], strand[:, -5:], wall[:, -24:] = False, False, False
    assert min(strand.sum(), wall.sum()) > 100
    assert np.array_equal(locked[strand], photograph[strand])
    left, gone = (np.abs(one[strand].astype(int) - after.image[strand]).mean() for one in (free, photograph))
    assert left < 0.25 * gone
    assert np.abs(free[wall].astype(int) - photograph[wall]).mean() < 1, "drawn as for the photograph, noise aside"


def test_sizes_must_agree() -> None:
    before, after, flow = seen_by(LIGHT)
    with pytest.raises(ValueError, match="one is needed"):
        carry_detail(before.image, before.image[:64, :64], before.image, flow, maps_of(before), maps_of(after))
