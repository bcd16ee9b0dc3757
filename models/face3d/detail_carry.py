"""What a generator got wrong when it rebuilt the photograph, carried to its edits along the surface of the head.

A generator that draws the photograph from its own maps should draw the photograph. What is missing, pores, strands of
hair, the pattern of a shirt, is known exactly, as a ratio image: photograph over rebuilt picture (ratio images carry detail
under another light in Liu, Shan and Zhang 2001, "Expressive Expression Mapping with Ratio Images"). Maps before and after
say where each point of the surface went, so an edit drawn from the same noise can be given the same ratio at the same point.
Where the photograph did not show a point, the edit stays what the generator made of it. Where the edit moves and lights
nothing, forehead and hair under a smile, the photograph stays. Spectacles do not follow the skin that moves below them: above
the nose each pixel follows the skin or the skull, whichever explains better what the generator drew. Beside the head it follows
the head, as hair does, or stays, as the wall does; where neither explains what the generator drew, the old head was there and is
gone, and nothing of the photograph belongs there.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.face3d.maps import ConditionMaps
from models.face3d.surface_flow import SurfaceFlow

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

VERSION = "3"
"""Names the pictures made here: results that hold them are found again while it stays."""

SHADING = (0.02, 0.06, 0.12)
WIDTHS = (8 / 256, 5 / 256, 3 / 256)
"""What is finer is taken from the photograph alone, what is coarser from the edit, times the ratio. The border between the two
(share of the side) by how much the shading of a surface point changes (of 1, mean): a smile 0.01, a turn 0.07, light 0.2. Under
other light the photograph knows less."""
SEAM = 3 / 256
"""Share of the side over which regions fade into each other."""
MARGIN = 15 / 256
"""Share of the side by which hair may stand out from what an edit touches; beyond, nothing has changed."""
MOVED, LIT = 0.5 / 256, 0.012
"""An edit touches a point that it moves by more than this share of the side, or whose render it changes by more than this."""
TURNED, LIT_ANEW = 3 / 256, 0.025
"""An edit turns a head whose skull it moves by more than this share of the side, and lights one whose shading it changes by more
than this, both on average: 25 degrees move it by 10 / 256, smiles and open mouths change the shading by 0.02 at most."""
REACH = 24 / 256
"""Share of the side. Beside the head, hair follows the nearest surface; the more that moved, the less it is believed."""
LOCAL, WINDOW = 8 / 256, 4 / 256
"""Share of the side: skin and skull are compared by what is finer than the first, over windows as wide as the second."""
EVIDENCE = (0.6, 0.8)
"""Share of the skin's error in that of both, from which on the skull is followed a little, and wholly."""
COLOURS = 6 / 256
"""Share of the side: beside the head, colours are compared that are coarser than this."""
STAYS = (0.5, 0.7)
"""Share of the head's error in that of both, from which on a pixel beside the head stays a little, and wholly."""
ALIKE = 0.15
"""Colours beside the head that differ by this factor (natural logarithm, mean of the channels) are believed to be the same thing
with a weight of 1/e."""
SAME, SAME_WIDTH = 0.1, 2 / 256
"""The same measure over the second share of the side: as near as that to the rebuilt photograph, the photograph itself stays."""
NEAR = 4 / 256
"""Share of the side. Colours are asked to agree where the head moved by this or more; where nothing moves, light changes them."""
DARK = 16.0
"""Of 255, added above and below the ratio: black says nothing about black."""


def carry_detail(
    edited: Pixels,
    rebuilt: Pixels,
    photograph: Pixels,
    flow: SurfaceFlow,
    before: ConditionMaps,
    after: ConditionMaps,
    *,
    keep_background: bool = True,
    turned: bool = False,
) -> Pixels:
    """An edit with the photograph's detail.

    Args:
        edited: uint8 (S, S, 3), drawn from the edit's maps.
        rebuilt: uint8 (S, S, 3), drawn by the same model from the photograph's maps and the same noise.
        photograph: uint8 (S, S, 3).
        flow: from the edit's pixels to the photograph's.
        before, after: condition maps of the photograph and of the edit.
        keep_background: take what the edit does not touch from the photograph: with some margin all that neither the old nor
            the new head covers and the parts of the head that stay as they were, and within it what was drawn as before.
        turned: the edit turns the head (`turns`), and long hair with it, which no mask of the head covers: of the background only
            what was drawn as before is kept, however far away.

    Raises:
        ValueError: shapes that differ.
    """
    shapes = {one.shape[:2] for one in (edited, rebuilt, photograph, flow.head, before.mask, after.mask)}
    if len(shapes) != 1:
        raise ValueError(f"pictures, flow and maps are of {len(shapes)} sizes ({sorted(shapes)}): one is needed")
    side = edited.shape[0]
    known, drawn, wanted = (one.astype(np.float32) for one in (photograph, rebuilt, edited))
    background = _beyond(before.mask | after.mask, side)
    fine = side * float(np.interp(_shading_change(flow, before, after), SHADING, WIDTHS))
    displacement = _extended(flow.displacement, flow.head) * (1 - background)[..., None]
    if flow.worn.any():
        displacement = _with_worn(displacement, flow, wanted, drawn, background)
    displacement, same = _beside(displacement, flow, wanted, drawn)
    ratio = np.log((known + DARK) / (_blurred(drawn, fine) + DARK))
    detailed = (_blurred(wanted, fine) + DARK) * np.exp(_moved(ratio, displacement)) - DARK
    result = wanted + (same * _trust(flow, displacement, side))[..., None] * (detailed - wanted)
    if keep_background:
        result += _unchanged(flow, wanted, drawn)[..., None] * (known - result)
        if not turned:
            result += _beyond(_touched(flow, before, after), side)[..., None] * (known - result)
    return np.asarray(np.clip(result + 0.5, 0, 255), np.uint8)


def turned_or_lit(flow: SurfaceFlow, before: ConditionMaps, after: ConditionMaps) -> bool:
    """Whether an edit turns the head or lights it anew, rather than changing its expression alone."""
    return turns(flow) or _shading_change(flow, before, after) > LIT_ANEW


def turns(flow: SurfaceFlow) -> bool:
    """Whether an edit turns the head."""
    moved = np.linalg.norm(flow.stiff, axis=2)[flow.head].mean() if flow.head.any() else 0.0
    return bool(moved > TURNED * len(flow.head))


def _shading_change(flow: SurfaceFlow, before: ConditionMaps, after: ConditionMaps) -> float:
    """Mean difference of the renders at the same points of the surface, of 1; 0 where the photograph shows none."""
    change = np.abs(after.render - _moved(before.render, flow.displacement)).max(axis=2)
    return float((change * flow.seen).sum() / max(float(flow.seen.sum()), 1.0))


def _with_worn(displacement: Floats, flow: SurfaceFlow, wanted: Floats, drawn: Floats, background: Floats) -> Floats:
    """The displacement (S, S, 2), that of the skull where it explains the drawn edit better, above the nose."""
    side = len(displacement)
    beside = _extended(np.dstack([flow.stiff, flow.worn]), flow.head)
    stiff, worn = beside[..., :2] * (1 - background)[..., None], beside[..., 2]
    edit, rebuilt = (np.log(one + DARK) - _blurred(np.log(one + DARK), LOCAL * side) for one in (wanted, drawn))
    skin, skull = (
        _blurred(np.square(edit - _moved(rebuilt, way)).sum(axis=2), WINDOW * side) for way in (displacement, stiff)
    )
    share = np.interp(skin / (skin + skull + 1e-4), EVIDENCE, (0.0, 1.0)).astype(np.float32)
    return displacement + _blurred(share * worn, SEAM / 2 * side)[..., None] * (stiff - displacement)


def _beside(displacement: Floats, flow: SurfaceFlow, wanted: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """The displacement (S, S, 2), none beside the head where that explains the drawn edit better, and (S, S) in [0, 1] how far
    the drawn edit shows the same thing as the rebuilt photograph there."""
    side, outside = len(displacement), _outside(flow)
    moved = np.clip(np.linalg.norm(displacement, axis=2) / (NEAR * side), 0, 1) * outside
    edit, rebuilt = (_colours(one, COLOURS) for one in (wanted, drawn))
    following, staying = (
        _blurred(np.abs(edit - one).mean(axis=2), WINDOW * side) for one in (_moved(rebuilt, displacement), rebuilt)
    )
    stays = np.interp(following / (following + staying + 0.02), STAYS, (0.0, 1.0)).astype(np.float32) * outside
    displacement = displacement * (1 - _blurred(stays, SEAM / 2 * side))[..., None]
    unlike = np.abs(edit - _moved(rebuilt, displacement)).mean(axis=2)
    return displacement, np.asarray(1 - moved * (1 - np.exp(-((unlike / ALIKE) ** 2))), np.float32)


def _unchanged(flow: SurfaceFlow, wanted: Floats, drawn: Floats) -> Floats:
    """(S, S) in [0, 1]: where the wall beside the head is drawn as it was for the photograph, whatever the head does."""
    side = len(wanted)
    unlike = np.abs(_colours(wanted, SAME_WIDTH) - _colours(drawn, SAME_WIDTH)).mean(axis=2)
    like = np.exp(-((_blurred(unlike, SAME_WIDTH * side) / SAME) ** 2)).astype(np.float32)
    return _blurred(_outside(flow) * like, SEAM / 3 * side)


def _outside(flow: SurfaceFlow) -> Floats:
    """(S, S) in [0, 1]: beside the head of the edit."""
    grown = np.asarray(cv2.dilate(flow.head.astype(np.uint8), np.ones((3, 3), np.uint8)), np.float32)
    return 1 - _blurred(grown, SEAM / 2 * len(grown))


def _colours(picture: Floats, width: float) -> Floats:
    """(S, S, 3) logarithms of what is coarser than a share of the side."""
    return np.asarray(np.log(_blurred(picture, width * len(picture)) + DARK), np.float32)


def _trust(flow: SurfaceFlow, displacement: Floats, side: int) -> Floats:
    """(S, S) in [0, 1]: how far the photograph's detail is believed to belong here."""
    inner = np.asarray(cv2.erode(flow.seen, np.ones((3, 3), np.uint8)), np.float32)
    on_head = _blurred(inner, SEAM / 2 * side)
    beside = np.exp(-((np.linalg.norm(displacement, axis=2) / (REACH * side)) ** 2)).astype(np.float32)
    return _blurred(np.where(flow.head, on_head, beside), SEAM / 2 * side)


def _touched(flow: SurfaceFlow, before: ConditionMaps, after: ConditionMaps) -> NDArray[np.bool_]:
    """(S, S): where the edit changes what the maps show."""
    moved = np.linalg.norm(flow.displacement, axis=2) > MOVED * len(flow.head)
    lit = np.abs(after.render - before.render).max(axis=2) > LIT
    touched: NDArray[np.bool_] = moved | lit | (before.mask != after.mask)
    return touched


def _beyond(region: NDArray[np.bool_], side: int) -> Floats:
    """(S, S) in [0, 1]: 1 farther from a region than hair reaches."""
    reach = round(MARGIN * side)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    grown = cv2.dilate(region.astype(np.uint8), disc)
    soft: Floats = grown.astype(np.float32)
    return 1 - _blurred(soft, SEAM * side)


def _extended(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Values (H, W, K) where they are known, and weighted means of ever wider neighbourhoods elsewhere; 0 without any."""
    result, filled = np.zeros_like(values), np.zeros(known.shape, np.float32)
    weight, width = known.astype(np.float32), 1.0
    while width < max(known.shape) / 2:
        total, near = _blurred(values * weight[..., None], width), _blurred(weight, width)
        share = np.clip(near * 20, 0, 1) * (1 - filled)
        result += (share / np.maximum(near, 1e-4))[..., None] * total
        filled += share
        width *= 2
    return np.where(known[..., None], values, result / np.maximum(filled, 1e-4)[..., None]).astype(np.float32)


def _moved(picture: Floats, displacement: Floats) -> Floats:
    """(H, W, C): at each pixel the picture's value `displacement` away."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    place = columns + displacement[..., 0], rows + displacement[..., 1]
    return np.asarray(cv2.remap(picture, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)


def _blurred(picture: Floats, width: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), width), np.float32)
