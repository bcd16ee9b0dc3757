"""Image and maps → features: what the processes of the stage encode do, with the frozen networks that it takes."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.config import MAPS
from models.diffusion.fusion import as_batch, fuse
from models.encoders.codec import LatentCodec
from models.face3d.landmarks import five_points
from models.face3d.maps import ConditionMaps
from models.images import decode_png
from storage.canonical import canonical_json, digest_of, sha256_of
from tasks.array_bytes import from_npy, npy_bytes
from tasks.earlier_rows import IN_ORDER, EarlierRows
from tasks.encode import FIELDS, VERSION, EncodeConfig
from tasks.extract import MIRRORED, ShardUnit
from tasks.frozen import load_codec, load_face, load_semantic
from tasks.generation import Generation
from tasks.mapper import mirrored_mesh
from tasks.rows import Row

_READ = ("albedo.png", "normal.png", "render.png", "mask.png", "landmarks.npy")


class Featurizer:
    """Image and maps → features of one sample. Holds the frozen encoders."""

    def __init__(self, config: EncodeConfig, device: str = "cpu") -> None:
        self.codec = load_codec(config.codec)
        self.semantic = load_semantic(config.semantic)
        self.face = load_face(config.face)
        for encoder in (self.codec, self.semantic, self.face):
            _move(encoder, device)
        self.digest = digest_of([VERSION, self.codec.digest, self.semantic.digest, self.face.digest])

    def features(self, image: NDArray[np.uint8], maps: ConditionMaps, mesh: NDArray[np.float32]) -> dict[str, bytes]:
        """Features of an aligned image, uint8 (S, S, 3), its condition maps and its mesh landmarks (468, 2) in pixels.

        Returns float16 npy: moments (2C, h, w), conditions (3C, h, w), semantic (L, D); float32 npy: face (F,).
        """
        picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        moments = self.codec.moments(picture)[0]
        return {
            "moments.npy": npy_bytes(moments.cpu().numpy().astype(np.float16)),
            "conditions.npy": npy_bytes(map_latents(self.codec, [maps])[0].cpu().numpy().astype(np.float16)),
            "face.npy": npy_bytes(self.face.embed(image, five_points(mesh)).astype(np.float32)),
            "semantic.npy": npy_bytes(self.semantic.encode([image])[0].numpy().astype(np.float16)),
        }


def _move(encoder: object, device: str) -> None:
    """Encoders are modules or hold one."""
    for part in (encoder, *getattr(encoder, "__dict__", {}).values()):
        if isinstance(part, torch.nn.Module):
            part.to(device)


def map_latents(codec: LatentCodec, maps: Sequence[ConditionMaps]) -> torch.Tensor:
    """3D Fusion Controller: each map through the frozen codec, concatenated on channels → (B, 3C, h, w)."""
    return fuse(codec, {name: as_batch([getattr(m, name) for m in maps]) for name in MAPS})


class EncodeWorker:
    """Process of the stage: maps and their images → features."""

    def __init__(
        self, config: EncodeConfig, images: Generation, maps: Generation, device: str, earlier: tuple[str, ...]
    ) -> None:
        torch.set_num_threads(1)  # one actor a core; also keeps sums in one order
        self.featurizer = Featurizer(config, device)
        self.images = images.reader(["image.png", "meta.json"], open_shards=IN_ORDER)
        self.maps = maps.reader(_READ, open_shards=IN_ORDER)
        self.uri = maps.uri
        self.flip = config.flip
        self.config_digest = digest_of([VERSION, config.codec, config.semantic, config.face, self.featurizer.digest])
        self.earlier = EarlierRows(earlier, FIELDS)

    def rows(self, unit: ShardUnit) -> list[Row]:
        keys = self.maps.keys_of_shard(unit.index)
        stored = set(keys)
        rows = []
        for key in keys:
            _, maps = self.maps.by_key(key)
            content = [self.config_digest, sha256_of(self._photo(key)), *(sha256_of(maps[field]) for field in _READ)]
            source = f"{self.uri}/{unit.entry.name}#{key}"
            turned = [MIRRORED] if key.endswith(MIRRORED) else []
            rows.append(Row(key=key, source=source, content_key=digest_of([*content, *turned])))
            if self.flip and not turned and key + MIRRORED not in stored:
                rows.append(Row(key=key + MIRRORED, source=source, content_key=digest_of([*content, "mirror"])))
        return rows

    def make(self, row: Row) -> dict[str, bytes]:
        image = decode_png(self._photo(row.key))
        turned = row.key.endswith(MIRRORED)
        if turned:
            image = np.ascontiguousarray(image[:, ::-1])
        if turned and self.flip and row.key not in self.maps:
            _, sample = self.maps.by_key(row.key.removesuffix(MIRRORED))
            mesh = mirrored_mesh(from_npy(sample["landmarks.npy"]), image.shape[1])
            return self.featurizer.features(image, ConditionMaps.decode(sample).mirrored(), mesh)
        _, sample = self.maps.by_key(row.key)
        return self.featurizer.features(image, ConditionMaps.decode(sample), from_npy(sample["landmarks.npy"]))

    def complete(self, row: Row, sample: Mapping[str, bytes]) -> dict[str, bytes]:
        """Who is to be seen and what the row is for: all that training asks of a photograph's facts."""
        facts = json.loads(self.images.by_key(row.key.removesuffix(MIRRORED))[1]["meta.json"])
        return {**sample, "meta.json": canonical_json({"person": facts["person"], "split": facts["split"]})}

    def _photo(self, key: str) -> bytes:
        data: bytes = self.images.by_key(key.removesuffix(MIRRORED))[1]["image.png"]
        return data
