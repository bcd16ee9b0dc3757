"""The estimate before the start, on the embedded portrait; and the mirror images that a stage can add."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.presets import debug
from models.face3d.maps import ConditionMaps
from models.face3d.parameters import FaceParameters
from models.images import decode_png, encode_png
from storage.canonical import sha256_of
from storage.manifest import Manifest
from storage.shards import write_shard
from storage.stores import Store, open_store
from tasks import extract, shard
from tasks.aligner import Aligner
from tasks.array_bytes import from_npy
from tasks.featurizer import EncodeWorker
from tasks.generation import Generation
from tasks.mapper import ExtractWorker
from tasks.plan import PlanTooLarge, estimate
from tasks.sources import SourceConfig, embedded_portrait


def test_a_plan_says_what_it_takes_and_refuses_small_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, root = tmp_path / "photos", open_store(tmp_path / "root")
    photos.mkdir()
    portrait = embedded_portrait().read_bytes()
    for number in range(3):
        (photos / f"{number}.png").write_bytes(portrait + bytes(number))
    (photos / "wall.png").write_bytes(encode_png(np.full((200, 300, 3), 200, np.uint8)))
    preset = replace(debug(), shard=replace(debug().shard, samples_per_shard=2))
    found = estimate(preset, SourceConfig(source=str(photos)), root, actors=2)
    assert (found.photographs, found.probed, dict(found.failed)) == (4, 4, {"no_face": 1})
    images, maps, features = found.stages
    assert (images.rows, maps.rows, features.rows) == (4, 3, 3)
    assert images.shards == 2
    assert images.bytes > 3 * 60_000  # three pictures of 256²
    assert found.bytes == images.bytes + maps.bytes + features.bytes
    assert 0 < found.minutes == pytest.approx(images.minutes + maps.minutes + features.minutes, abs=1e-3)
    assert not [*root.list("images/")]  # nothing was begun
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(PlanTooLarge, match=r"4 photographs would need about 0.0 GiB .* 0.0 GiB free"):
        estimate(preset, SourceConfig(source=str(photos)), root, actors=2)


def committed(root: Store, stage: str, fields: tuple[str, ...], samples: dict[str, dict[str, bytes]]) -> Generation:
    home = root.child(f"{stage}/by-hand")
    shards = (write_shard(home, "shard-000000.tar", list(samples.items()), fields),)
    manifest = Manifest(stage=stage, fields=fields, config_digest="", code_version="", inputs={}, shards=shards)
    manifest.commit(home)
    return Generation(stage=stage, uri=home.uri, manifest=manifest, reused=False)


def test_mirror_images_have_their_own_light_and_normals(tmp_path: Path) -> None:
    root, portrait = open_store(tmp_path), embedded_portrait().read_bytes()
    key = sha256_of(portrait)[:16]
    aligned = Aligner(debug().shard).align(portrait, "portrait")
    facts = b'{"person":null,"split":"train","truth":null}'
    images = committed(root, "images", shard.FIELDS, {key: {**aligned, "meta.json": facts}})
    unit = extract.ShardUnit(index=0, entry=images.manifest.shards[0])
    worker = ExtractWorker(extract.ExtractConfig(flip=True), images, "cpu", ())
    samples = {row.key: worker.make(row) for row in worker.rows(unit)}
    assert list(samples) == [key, f"{key}-mirrored"]
    plain, turned = (ConditionMaps.decode(sample) for sample in samples.values())
    inside = plain.mask[:, ::-1]
    assert np.array_equal(turned.mask, inside)
    # Normals look the other way; columns alone would leave a face that is lit and turned from the wrong side.
    assert np.abs(turned.normal - plain.normal[:, ::-1] * [-1, 1, 1])[inside].max() < 0.01
    assert np.abs(turned.normal - plain.normal[:, ::-1])[inside].max() > 0.5
    # The stored parameters are those of the mirror image: rendered, they give its maps.
    parameters = FaceParameters.from_npy(
        samples[f"{key}-mirrored"]["params.npy"], decode_png(samples[f"{key}-mirrored"]["texture.png"])
    )
    again = worker.mapper.estimator.maps(parameters, 256)
    assert (again.mask != turned.mask).mean() < 0.01
    assert np.abs(again.render - turned.render)[inside & again.mask].mean() < 0.02
    # A worker of the next stage makes the same features from stored and from unstored mirror images.
    one = committed(root.child("one"), "maps", extract.FIELDS, {key: samples[key]})
    two = committed(root.child("two"), "maps", extract.FIELDS, samples)
    config, features = debug().encode, {}
    for maps, flip in ((one, True), (two, False)):
        encoder = EncodeWorker(replace(config, flip=flip), images, maps, "cpu", ())
        rows = encoder.rows(extract.ShardUnit(index=0, entry=maps.manifest.shards[0]))
        features[flip] = {row.key: encoder.complete(row, encoder.make(row)) for row in rows}
    assert list(features[True]) == list(features[False]) == list(samples)
    assert features[True][key] == features[False][key]
    for field in ("moments.npy", "conditions.npy", "semantic.npy"):
        made, stored = (from_npy(features[flip][f"{key}-mirrored"][field]).astype(float) for flip in (True, False))
        assert np.abs(made - stored).mean() < 0.01 * np.abs(stored).mean() + 1e-3
    faces = [from_npy(features[True][name]["face.npy"]) for name in samples]
    assert np.linalg.norm(faces[0] - faces[1]) < 0.6  # dlib: the same person
