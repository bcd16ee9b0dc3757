"""What earlier commits wrote is read, and gone on with, by this one: one archive for each format there has been."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from storage.checkpoints import CheckpointStore
from storage.records import committed
from storage.stores import Store, open_store
from storage.upkeep import verify_dataset
from tasks.finetune_identity import identity_of
from tasks.generation import OK, find_generation
from tests.upgrade.write_formats import TRAINING, digests, identity_loss, training

pytestmark = pytest.mark.slow
ARCHIVES = sorted(Path(__file__).parent.glob("formats-*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, dict[str, Any]]:
    """The store that an earlier commit wrote, and what it said a reader must find."""
    with tarfile.open(request.param) as tar:
        tar.extractall(tmp_path, filter="data")
    expected = json.loads((tmp_path / "expected.json").read_text())
    (tmp_path / "expected.json").unlink()
    return open_store(tmp_path), expected


def test_there_is_an_archive() -> None:
    assert ARCHIVES


def test_every_byte_verifies_and_every_sample_is_the_same(written: tuple[Store, dict[str, Any]]) -> None:
    root, expected = written
    findings = list(verify_dataset(root))
    assert {finding.verdict for finding in findings} == {"ok"}
    assert digests(root) == expected["digests"]
    for stage in ("images", "maps", "features"):
        assert [row.status for row in find_generation(root, stage, None).status()] == [OK]


def test_a_training_goes_on_from_its_checkpoint(written: tuple[Store, dict[str, Any]]) -> None:
    root, expected = written
    home = root.child(f"stage1/{expected['training']}")
    checkpoint = CheckpointStore(home.child("checkpoints")).load()
    assert checkpoint.step == expected["step"]
    again, rows = training(root)
    assert again.rpartition("/")[2] == expected["training"], "an equal request must find the earlier run"
    assert [row["step"] for row in rows if "loss" in row] == list(range(expected["step"] + 1, TRAINING.steps + 1))
    losses = committed(again).facts["losses"]
    assert losses[: expected["step"]] == checkpoint.state["losses"]


def test_an_identity_is_read_and_works(written: tuple[Store, dict[str, Any]]) -> None:
    root, expected = written
    record = committed(root.child("identities/eileen").child("0" * 16).uri)
    for name in record.files:
        record.read(name)  # verifies size and sha256
    identity = identity_of(record, reused=True)
    assert (identity.identity_id, len(identity.losses)) == ("eileen", 2)
    assert identity_loss(root, record) == pytest.approx(expected["identity_loss"], rel=1e-3)
