"""Verifying, repairing and cleaning what is stored."""

from pathlib import Path

import pytest
import torch

from storage.checkpoints import CheckpointStore
from storage.interface import Store
from storage.manifest import Manifest, StatusRow, write_status
from storage.records import commit_record
from storage.shards import index_name
from storage.stores import LocalStore
from storage.units import commit_unit
from storage.upkeep import clean_staging, repair_dataset, verify_dataset

FIELDS = ("image.png",)
PLACE = "images/abc"


def _run_stage(store: Store) -> Manifest:
    """As a stage does: units that were decided before are adopted."""
    samples = [(f"k{n}", {"image.png": bytes([n]) * 500}) for n in range(9)]
    units = []
    for index in range(3):
        mine = samples[3 * index : 3 * index + 3]
        rows = [StatusRow(key=key, source=key, status="ok") for key, _ in mine]
        units.append(commit_unit(store, index, mine, FIELDS, rows))
    bad = StatusRow(key="bad", source="bad.jpg", status="corrupt", reason="no end of image")
    write_status(store, [*(row for unit in units for row in unit.rows), bad])
    manifest = Manifest(
        stage="images",
        fields=FIELDS,
        config_digest="c",
        code_version="v",
        inputs={},
        shards=tuple(unit.entry for unit in units if unit.entry),
        counts={"ok": 9, "corrupt": 1},
    )
    manifest.commit(store)
    return manifest


@pytest.fixture
def root(tmp_path: Path) -> LocalStore:
    root = LocalStore(str(tmp_path))
    _run_stage(root.child(PLACE))
    CheckpointStore(root.child("models/run")).save(1, {"w": torch.ones(3)}, {})
    return root


def _verdicts(root: Store) -> dict[str, str]:
    """Everything that is not ok."""
    return {finding.name: finding.verdict for finding in verify_dataset(root) if finding.verdict != "ok"}


def _damage(root: LocalStore, key: str) -> None:
    path = Path(root.root, key)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_all_is_well(root: LocalStore) -> None:
    findings = list(verify_dataset(root))
    assert {finding.verdict for finding in findings} == {"ok"}
    assert {(finding.place, finding.name) for finding in findings if finding.name.startswith(("m", "s"))} >= {
        (PLACE, "manifest.json"),
        (PLACE, "status.parquet"),
        ("models/run/step-00000001", "step-00000001"),
    }
    assert sum(finding.samples for finding in findings if finding.name.endswith(".tar")) == 9
    assert {finding.place for finding in verify_dataset(root.child(PLACE))} == {""}
    assert list(repair_dataset(root)) == []


def test_a_manifest_and_indexes_are_rebuilt_byte_for_byte(root: LocalStore) -> None:
    store = root.child(PLACE)
    manifest = Manifest.read(store)
    assert manifest is not None
    indexes = [index_name(entry.name) for entry in manifest.shards]
    before = {info.key: store.read(info.key) for info in store.list()}
    Path(store.root, "manifest.json").write_bytes(before["manifest.json"][:50])
    _damage(store, indexes[0])
    store.delete(indexes[1])
    store.create("shard-000002-ffffffffffff.tar", b"left by an attempt that was not adopted")
    assert _verdicts(root) == {"manifest.json": "damaged"}
    repairs = list(repair_dataset(root))
    assert all(repair.done for repair in repairs)
    assert {repair.name for repair in repairs} == {"manifest.json", *indexes[:2], "shard-000002-ffffffffffff.tar"}
    assert {info.key: store.read(info.key) for info in store.list()} == before
    assert _verdicts(root) == {}


def test_lesser_damage_is_named(root: LocalStore) -> None:
    store = root.child(PLACE)
    manifest = Manifest.read(store)
    assert manifest is not None
    _damage(store, index_name(manifest.shards[0].name))
    store.delete(index_name(manifest.shards[1].name))
    store.delete("manifest.copy.json")
    store.delete("status.parquet")
    store.create("shard-9.tar", b"")
    root.create("half/xyz/shard-000000.tar", b"")
    root.create("models/run/step-00000002/tensors-x.safetensors", b"")
    _damage(root, next(info.key for info in root.list("models/run/step-00000001/tensors")))
    assert _verdicts(root) == {
        index_name(manifest.shards[0].name): "damaged",
        index_name(manifest.shards[1].name): "missing",
        "manifest.copy.json": "missing",
        "status.parquet": "missing",
        "shard-9.tar": "surplus",
        "manifest.json": "unfinished",
        "step-00000001": "damaged",
    }


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_lost_shard_is_recomputed_alone(root: LocalStore, how: str) -> None:
    store = root.child(PLACE)
    manifest = Manifest.read(store)
    assert manifest is not None
    before = {info.key: store.read(info.key) for info in store.list()}
    lost = manifest.shards[1].name
    _damage(store, lost) if how == "damaged" else store.delete(lost)
    assert _verdicts(root) == {lost: how}
    (reported,) = repair_dataset(root)
    assert not reported.done
    assert "3 samples (k3, k4, k5, …) cannot be rebuilt" in reported.detail
    assert Manifest.read(store) is not None
    (withdrawn,) = repair_dataset(root, withdraw=True)
    assert withdrawn.done
    assert Manifest.read(store) is None
    assert {key for key in before if store.stat(key) is None} == {
        "manifest.json",
        "manifest.copy.json",
        "status.parquet",
        "units/000001.json",
        lost,
        index_name(lost),
    }
    assert _run_stage(store) == manifest
    assert {info.key: store.read(info.key) for info in store.list()} == before


def test_records_are_verified(root: LocalStore) -> None:
    home = root.child("identities/anna/d1")
    record = commit_record(home, {"a.png": b"a" * 50, "b/c.json": b"{}"}, {"steps": 3})
    assert _verdicts(root) == {}
    stored = str(record.files["a.png"]["stored"])
    _damage(home, stored)
    home.delete(str(record.files["b/c.json"]["stored"]))
    assert _verdicts(root) == {stored: "damaged", str(record.files["b/c.json"]["stored"]): "missing"}
    Path(home.root, "record.json").write_bytes(b"{")
    assert _verdicts(root) == {"record.json": "damaged"}


def test_both_manifests_lost(root: LocalStore) -> None:
    store = root.child(PLACE)
    for name in ("manifest.json", "manifest.copy.json"):
        Path(store.root, name).write_bytes(b"{")
    (repair,) = repair_dataset(root)
    assert not repair.done
    assert "run the stage again" in repair.detail


def test_a_status_table_that_tells_another_story(root: LocalStore) -> None:
    store = root.child(PLACE)
    store.delete("status.parquet")
    write_status(store, [StatusRow(key="k0", source="", status="ok")])
    assert _verdicts(root) == {"status.parquet": "damaged"}


def test_cleaning(root: LocalStore) -> None:
    with pytest.raises(ValueError, match="younger than 60 s"):
        clean_staging(root, 1)
    assert clean_staging(root) == []
