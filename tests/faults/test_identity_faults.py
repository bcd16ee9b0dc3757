"""A fine-tune that is killed, asked for twice, or erased while it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import Tombstoned
from storage.identities import IdentityStore
from storage.records import committed
from storage.stores import Store, open_store
from tasks.erase_identity import erase_identity
from tasks.identity_training import train_identity
from tasks.image_uri import read_image_uri
from tests.identity_process import PORTRAIT, Reports, job_for, small_base

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_base(open_store(tmp_path_factory.mktemp("base")))


def start(root: Path, base: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.identity_process", str(root), base, "ada"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("lines", [1, 4, 6])
def test_a_killed_fine_tune_is_finished_by_the_next_and_published_once(tmp_path: Path, base: str, lines: int) -> None:
    """Killed after its first report, in training, and in the preview; the next process succeeds it."""
    process = start(tmp_path, base)
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline(), "it ended before it could be killed"
    process.kill()
    process.wait()
    process.stdout.close()
    out, _ = start(tmp_path, base).communicate(timeout=300)
    assert out.splitlines()[-1] == "trained"
    home = open_store(tmp_path).child("identities/ada")
    records = [info.key for info in home.list() if info.key.endswith("record.json")]
    assert len(records) == 1
    record = committed(home.child(records[0].rpartition("/")[0]).uri)
    for name in record.files:
        record.read(name)  # verifies size and sha256
    assert not [info.key for info in home.list() if "claims" in info.key]


def test_equal_requests_at_once_train_once(tmp_path: Path, base: str) -> None:
    processes = [start(tmp_path, base) for _ in range(5)]
    words = sorted(process.communicate(timeout=600)[0].splitlines()[-1] for process in processes)
    assert words == ["found"] * 4 + ["trained"]


class ErasingReports(Reports):
    """Erases the identity when the fine-tune reports a phase."""

    def __init__(self, root: Store, phase: str) -> None:
        super().__init__()
        self.root, self.phase = root, phase

    def remote(self, report: dict[str, object]) -> None:
        super().remote(report)
        if report["note"] == self.phase:
            erase_identity(self.root, "ada", reason="asked in the middle of a run", redact_runs=False)


@pytest.mark.parametrize("phase", ["3D face", "training", "preview"])
def test_an_erasure_during_a_fine_tune_leaves_nothing(tmp_path: Path, base: str, phase: str) -> None:
    root = open_store(tmp_path)
    job = job_for(str(tmp_path), base, "ada")
    with pytest.raises(Tombstoned, match="was erased"):
        train_identity(job, read_image_uri(PORTRAIT), ErasingReports(root, phase))
    assert list(root.list("identities/")) == []
    with pytest.raises(Tombstoned):
        IdentityStore(root).home("ada")
