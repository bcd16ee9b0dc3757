"""FaceParameters: everything the renderer needs to know about one face in one picture, as plain numbers."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

DECA_SIZES = {"shape": 100, "texture": 50, "expression": 50, "pose": 6, "camera": 3, "light": 27}
"""DECA's regressor output in its order, 236 numbers; ``light`` is (9, 3) row-major."""

FRAME = (256, 256)
"""Height and width in pixels of the picture that ``tform`` refers to, unless a function is told another."""

_FIXED_SHAPES = {"pose": (6,), "camera": (3,), "light": (9, 3), "shift": (3,), "tform": (3, 3)}
_FREE_LENGTHS = ("shape", "expression", "texture")
_NUMBERS = ("shape", "expression", "pose", "camera", "light", "texture", "shift", "tform")
_VERSION = 1


def _frozen(name: str, value: ArrayLike) -> Floats:
    array = np.asarray(value, dtype=np.float32).copy()
    expected = _FIXED_SHAPES.get(name)
    if expected is not None and array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}; it must be {expected}")
    if expected is None and array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; it must be a vector")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity: {array.tolist()}")
    array.flags.writeable = False
    return array


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FaceParameters:
    """One face: who it is (shape, texture), what it does (expression, pose), how it is seen (camera, light).

    Arrays are copied, checked for shape and finiteness (``ValueError``) and made read-only.
    """

    model: str
    """Name of the morphable model whose codes these are: "flame", "open"."""
    shape: Floats
    """(S,) identity coefficients β, in standard deviations."""
    expression: Floats
    """(E,) expression coefficients ψ: standard deviations, or weights in [0, 1] of named units."""
    pose: Floats
    """(6,) axis-angle in radians: global rotation, then jaw rotation."""
    camera: Floats
    """(3,) scale s and translation tx, ty: NDC x = s·(x + tx), y up before the flip."""
    light: Floats
    """(9, 3) spherical-harmonics coefficients by colour (models/face3d/lighting.py)."""
    texture: Floats
    """(T,) texture coefficients; T = 0 where the texture is a picture."""
    shift: Floats
    """(3,) metres added to all vertices after posing: the re-centring of pose edits."""
    tform: Floats
    """(3, 3) picture pixels → 224-pixel crop; identity: the camera speaks of the picture itself."""
    albedo: NDArray[np.uint8] | None = None
    """(H, W, 3) RGB albedo in UV layout (v up: the first row is v = 1), or None. Travels as its own PNG."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.model.encode()) <= 32:
            raise ValueError(f"a model's name has 1…32 bytes, not {self.model!r}")
        for name in _NUMBERS:
            object.__setattr__(self, name, _frozen(name, getattr(self, name)))
        if self.albedo is not None:
            if self.albedo.dtype != np.uint8 or self.albedo.ndim != 3 or self.albedo.shape[2] != 3:
                raise ValueError(f"albedo is {self.albedo.dtype} {self.albedo.shape}; it must be uint8 (H, W, 3)")
            albedo = self.albedo.copy()
            albedo.flags.writeable = False
            object.__setattr__(self, "albedo", albedo)

    @classmethod
    def neutral(cls, model: str, *, shape: int, expression: int, texture: int = 0) -> Self:
        """All codes zero, head on, s = 5 (a head of 0.25 m fills 60 % of the picture), flat white light."""
        light = np.zeros((9, 3), np.float32)
        light[0] = np.sqrt(4.0 * np.pi)
        return cls(
            model=model,
            shape=np.zeros(shape, np.float32),
            expression=np.zeros(expression, np.float32),
            pose=np.zeros(6, np.float32),
            camera=np.array([5.0, 0.0, 0.0], np.float32),
            light=light,
            texture=np.zeros(texture, np.float32),
            shift=np.zeros(3, np.float32),
            tform=np.eye(3, dtype=np.float32),
        )

    def replaced(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked like a new one."""
        return replace(self, **changes)

    @property
    def in_crop(self) -> bool:
        """Whether the camera speaks of a crop, so that ``tform`` leads back to the picture."""
        return not np.array_equal(self.tform, np.eye(3, dtype=np.float32))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FaceParameters):
            return NotImplemented
        if self.model != other.model or any(
            not np.array_equal(getattr(self, name), getattr(other, name)) for name in _NUMBERS
        ):
            return False
        if self.albedo is None or other.albedo is None:
            return self.albedo is other.albedo
        return np.array_equal(self.albedo, other.albedo)

    __hash__ = None  # type: ignore[assignment]

    # -- files ---------------------------------------------------------------------------------------------

    def to_npy(self) -> bytes:
        """One structured NumPy record, self-describing and without pickle; ``albedo`` is not in it."""
        dtype = np.dtype(
            [("version", "<i4"), ("model", "S32")]
            + [(name, "<f4", getattr(self, name).shape) for name in _NUMBERS if getattr(self, name).size]
        )
        record = np.zeros((), dtype)
        record["version"] = _VERSION
        record["model"] = self.model.encode()
        for name in dtype.names or ():
            if name in _NUMBERS:
                record[name] = getattr(self, name)
        buffer = io.BytesIO()
        np.save(buffer, record, allow_pickle=False)
        return buffer.getvalue()

    @classmethod
    def from_npy(cls, data: bytes, albedo: NDArray[np.uint8] | None = None) -> Self:
        """The inverse of :meth:`to_npy`. Raises ``ValueError`` for any other array."""
        record = np.load(io.BytesIO(data), allow_pickle=False)
        names = record.dtype.names or ()
        if "version" not in names or "model" not in names:
            raise ValueError(f"not face parameters: an array of {record.dtype}; expected a record with 'model'")
        if int(record["version"]) != _VERSION:
            raise ValueError(f"face parameters of version {int(record['version'])}; this code reads {_VERSION}")
        missing = [name for name in _FIXED_SHAPES if name not in names]
        if missing:
            raise ValueError(f"face parameters lack {', '.join(missing)}")
        values = {name: record[name] if name in names else np.zeros(0, np.float32) for name in _NUMBERS}
        return cls(model=bytes(record["model"]).rstrip(b"\0").decode(), albedo=albedo, **values)

    def to_json(self) -> str:
        """A JSON object of lists; numbers survive exactly. ``albedo`` is not in it."""
        return json.dumps(
            {"version": _VERSION, "model": self.model} | {name: getattr(self, name).tolist() for name in _NUMBERS}
        )

    @classmethod
    def from_json(cls, text: str, albedo: NDArray[np.uint8] | None = None) -> Self:
        """The inverse of :meth:`to_json`. Raises ``ValueError`` naming unknown or missing fields."""
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("version") != _VERSION:
            raise ValueError(f"not face parameters of version {_VERSION}")
        known = {field.name for field in fields(cls)} - {"albedo"}
        given = set(values) - {"version"}
        if given != known:
            raise ValueError(f"face parameters lack {sorted(known - given)} and have unknown {sorted(given - known)}")
        return cls(model=values["model"], albedo=albedo, **{name: values[name] for name in _NUMBERS})

    # -- DECA's vector -------------------------------------------------------------------------------------

    def to_vector236(self) -> Floats:
        """(236,) in DECA's order: shape 100, texture 50, expression 50, pose 6, camera 3, light 27."""
        for name, size in DECA_SIZES.items():
            if getattr(self, name).size != size:
                raise ValueError(
                    f"{name} has {getattr(self, name).size} numbers; DECA's vector holds {size}, "
                    f"so only parameters of the FLAME model at DECA's sizes fit"
                )
        return np.concatenate([getattr(self, name).reshape(-1) for name in DECA_SIZES])

    @classmethod
    def from_vector236(
        cls,
        vector: ArrayLike,
        *,
        model: str = "flame",
        tform: ArrayLike | None = None,
        shift: ArrayLike = (0, 0, 0),
    ) -> Self:
        """Parameters from DECA's 236 numbers; ``tform`` is that of the crop they were regressed from."""
        code = np.asarray(vector, dtype=np.float32)
        if code.shape != (sum(DECA_SIZES.values()),):
            raise ValueError(f"a DECA code has shape (236,), not {code.shape}")
        parts = dict(zip(DECA_SIZES, np.split(code, np.cumsum(list(DECA_SIZES.values()))[:-1]), strict=True))
        return cls(
            model=model,
            shape=parts["shape"],
            expression=parts["expression"],
            pose=parts["pose"],
            camera=parts["camera"],
            light=parts["light"].reshape(9, 3),
            texture=parts["texture"],
            shift=np.asarray(shift, np.float32),
            tform=np.eye(3, dtype=np.float32) if tform is None else np.asarray(tform, np.float32),
        )
