"""The command line: parameters, and one clear sentence with exit status 1 for what a user can mend."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import parse_parameters


def test_values_are_json_or_text() -> None:
    pairs = ["image_uri=s3://b/a=b.jpg", "steps=5", 'edits=[{"yaw": 3}]', "identity_id=anna", "root=null"]
    assert parse_parameters(pairs) == {
        "image_uri": "s3://b/a=b.jpg", "steps": 5, "edits": [{"yaw": 3}], "identity_id": "anna", "root": None,
    }  # fmt: skip


@pytest.mark.parametrize("pairs", [["steps"], ["=5"], ["steps=1", "steps=2"]])
def test_bad_pairs_are_refused(pairs: list[str]) -> None:
    with pytest.raises(ValueError, match="--param"):
        parse_parameters(pairs)


def instaface(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_an_unknown_flow_is_one_sentence(tmp_path: Path) -> None:
    done = instaface("run", "no-such-flow", cwd=tmp_path)
    assert done.returncode == 1
    assert "no-such-flow" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
