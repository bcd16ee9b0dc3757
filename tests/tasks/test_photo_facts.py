"""What a source says of a photograph travels with it: framing, person, split, licence, parameters that are known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.face3d.maps import ConditionMaps
from models.face3d.parameters import FaceParameters
from models.images import decode_png, encode_png
from storage.canonical import sha256_of
from storage.manifest import Manifest
from storage.reader import SampleReader
from storage.shards import write_shard
from storage.stores import open_store
from tasks.aligner import Aligner, split_of, with_facts
from tasks.array_bytes import from_npy
from tasks.extract import ExtractConfig
from tasks.featurizer import EncodeWorker
from tasks.mapper import Mapper
from tasks.rows import Row, RowFailed
from tasks.shard import FIELDS, ShardConfig
from tasks.sources import Photo, embedded_portrait
from tasks.truth import truth_parameters, truth_text

CONFIG = ShardConfig(size=256)


@pytest.fixture(scope="module")
def aligned() -> dict[str, bytes]:
    return Aligner(CONFIG).align(embedded_portrait().read_bytes(), "portrait")


@pytest.fixture(scope="module")
def mapper() -> Mapper:
    return Mapper(ExtractConfig())


def photo(number: int = 0, **facts: object) -> Photo:
    return Photo(store_uri="file:///nowhere", name=f"{number}.png", sha256=sha256_of(str(number).encode()), **facts)  # type: ignore[arg-type]


def test_aligned_photographs_are_resized_and_nothing_is_looked_for() -> None:
    aligner = Aligner(CONFIG)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    sample = aligner.align(encode_png(noise), "noise", aligned=True)
    meta = json.loads(sample["meta.json"])
    assert decode_png(sample["image.png"]).shape == (256, 256, 3)
    assert (meta["height"], meta["yaw_degrees"], meta["faces_found"]) == (512, None, None)
    assert aligner.landmarker is None
    exact = noise[:256, :256]
    assert np.array_equal(decode_png(aligner.align(encode_png(exact), "exact", aligned=True)["image.png"]), exact)
    with pytest.raises(RowFailed, match="512×256 pixels; an aligned photograph is square"):
        aligner.align(encode_png(noise[:256]), "flat", aligned=True)


def test_splits_keep_people_together_and_sources_keep_theirs() -> None:
    config = replace(CONFIG, validation_share=0.2, test_share=0.1)
    photos = [photo(n, person=f"person-{n // 5}") for n in range(2000)]
    splits = [split_of(one, config) for one in photos]
    assert all(len(set(splits[n : n + 5])) == 1 for n in range(0, 2000, 5))
    shares = {name: splits.count(name) / 2000 for name in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.06)
    # A larger share takes more people; it never puts one who was kept for the test into training.
    wider = [split_of(one, replace(config, test_share=0.2)) for one in photos]
    assert all(after == "test" for before, after in zip(splits, wider, strict=True) if before == "test")
    assert split_of(photo(split="validation", person="p"), replace(CONFIG, test_share=1, validation_share=0)) == (
        "validation"
    )
    with pytest.raises(ValueError, match="nothing would be left"):
        ShardConfig(validation_share=0.6, test_share=0.5)


def test_facts_are_those_of_today(aligned: dict[str, bytes]) -> None:
    before = with_facts(aligned, photo(licence="CC BY 2.0"), CONFIG)
    after = json.loads(with_facts(before, photo(licence="public domain", person="p"), CONFIG)["meta.json"])
    assert (after["licence"], after["person"], after["source"]) == ("public domain", "p", "file:///nowhere/0.png")
    assert after["box"] == json.loads(aligned["meta.json"])["box"]


def test_known_parameters_are_taken_instead_of_estimated(aligned: dict[str, bytes], mapper: Mapper) -> None:
    image = decode_png(aligned["image.png"])
    estimated = mapper.maps(image, "portrait")
    parameters = FaceParameters.from_npy(estimated["params.npy"], decode_png(estimated["texture.png"]))
    known = parameters.replaced(pose=parameters.pose + np.float32(0.05))
    text = truth_text(known)
    assert truth_parameters(text) == known
    sample = mapper.maps(image, "portrait", text)
    assert FaceParameters.from_npy(sample["params.npy"], decode_png(sample["texture.png"])) == known
    rendered = mapper.estimator.maps(known, 256)
    assert np.abs(ConditionMaps.decode(sample).normal - rendered.normal).max() < 0.01
    # The model's own points lie where the landmarks of the same face are found.
    unturned = mapper.maps(image, "portrait", truth_text(parameters))
    distance = np.linalg.norm(from_npy(unturned["landmarks.npy"]) - from_npy(estimated["landmarks.npy"]), axis=1)
    assert distance.mean() < 4
    mapper.config = ExtractConfig(truth=False)
    assert mapper.maps(image, "portrait", text) == estimated
    mapper.config = ExtractConfig()


def test_maps_have_the_size_of_their_image(aligned: dict[str, bytes], mapper: Mapper) -> None:
    small = Aligner(replace(CONFIG, size=128)).align(embedded_portrait().read_bytes(), "portrait")
    sample = mapper.maps(decode_png(small["image.png"]), "small")
    whole = mapper.maps(decode_png(aligned["image.png"]), "whole")
    assert decode_png(sample["mask.png"]).shape == (128, 128)
    distance = from_npy(sample["landmarks.npy"]) * 2 - from_npy(whole["landmarks.npy"])
    assert np.abs(distance).mean() < 2


def test_features_say_who_is_seen_and_what_for(aligned: dict[str, bytes], tmp_path: Path) -> None:
    facts = photo(person="p", split="test", licence="public domain")
    sample = with_facts(aligned, facts, CONFIG)
    meta = json.loads(sample["meta.json"])
    assert (meta["person"], meta["split"], meta["licence"], meta["aligned"]) == ("p", "test", "public domain", False)
    store = open_store(tmp_path)
    shards = (write_shard(store, "shard-000000.tar", [(facts.key, sample)], FIELDS),)
    manifest = Manifest(stage="images", fields=FIELDS, config_digest="", code_version="", inputs={}, shards=shards)
    worker = EncodeWorker.__new__(EncodeWorker)
    worker.images = SampleReader(store, manifest, ["meta.json"])
    for key in (facts.key, f"{facts.key}-mirrored"):
        row = Row(key=key, source="", content_key="")
        assert json.loads(worker.complete(row, {})["meta.json"]) == {"person": "p", "split": "test"}
